//! The program: parses the command line and runs it.

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
use egret_server::cli::{Cli, run};

/// Many short-lived allocations of searches and small batches; it gives memory back under load.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::try_from_env("EGRET_LOG")
        .unwrap_or_else(|_| "info,tantivy=warn".into());
    let colors = std::io::stderr().is_terminal();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(colors)
        .with_writer(std::io::stderr)
        .init();
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}
