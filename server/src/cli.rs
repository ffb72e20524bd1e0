//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use egret_cdc::PipelineConfig;

use crate::client::Server;
use crate::config::{Config, DEFAULT_FILE};
use crate::error::{Error, Kind, Result};
use crate::init::Init;
use crate::pipeline::Pipeline;

const AFTER_HELP: &str = "\
Examples:
  egret serve --data ./data
      Serves Elasticsearch's REST API on http://127.0.0.1:9200, without a database.
  egret serve --data ./data --postgres postgres://me@localhost/shop --tables '*'
      Follows every table with a primary key that the role may publish: one index for each,
      as new as the last commit. The database needs wal_level=logical.
  egret init --postgres postgres://me@localhost/shop
      Looks at a database, says what is wrong, and writes egret.toml; --check only checks.
  egret config > egret.toml
      Writes every option with its default and what it means.
  egret check --data ./data
      Verifies every file of a folder that no server has open; --repair does what is safe.
  egret pipeline list
      Shows where the running server's pipelines stand; `egret pipeline --help` lists what they can be told.
  egret verify
      Has the running server hold every document against its row; --repair puts right what differs.

Credentials may come from the environment: EGRET_POSTGRES_URL for the whole URL, PGPASSWORD for the
password. Then open the address in a browser, or ask for /_cdc, /_cat/indices?v, /_search?q=word.";

/// Full-text search for PostgreSQL in one program.
#[derive(Debug, Parser)]
#[command(name = "egret", version, after_help = AFTER_HELP, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve searches, and follow PostgreSQL where told to
    #[command(after_help = AFTER_HELP)]
    Serve(Box<Serve>),
    /// Print every option of the configuration file with its default
    Config,
    /// Verify every file of a data folder that no server has open
    ///
    /// Says which index, part and file is wrong. Ends with status 0 where nothing is damaged (any
    /// more), else with 1.
    Check(CheckFolder),
    /// Have a running server hold every document against its row in the database
    ///
    /// Says what differs. Ends with status 0 where nothing does (any more), else with 1.
    Verify(Verify),
    /// Show the pipelines of a running server, and tell them what to do
    Pipeline(Pipeline),
    /// Look at a database, and write a configuration for it
    ///
    /// Says what stands in the way, and which statements make a role that may do no more than it must.
    Init(Init),
}

/// Options of `egret verify`.
#[derive(Debug, Args)]
pub struct Verify {
    /// The server.
    #[command(flatten)]
    pub server: Server,
    /// The pipeline; all where not given
    #[arg(long, value_name = "NAME")]
    pub pipeline: Option<String>,
    /// One table alone: schema.table
    #[arg(long, value_name = "TABLE")]
    pub table: Option<String>,
    /// Put right what differs
    #[arg(long)]
    pub repair: bool,
    /// Rows and documents a second, 0 for as many as it can [default: as the pipeline is configured]
    #[arg(long, value_name = "NUMBER")]
    pub rows_per_second: Option<u64>,
    /// Print the whole report as one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Options of `egret check`.
#[derive(Debug, Args)]
pub struct CheckFolder {
    /// The data folder
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,
    /// Do what is safe: skip damaged records of logs, drop what can be made again (caches, followed
    /// indexes), and say what was lost
    #[arg(long)]
    pub repair: bool,
    /// Print what is found as one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Options of `egret serve`; they go before those of the file.
#[derive(Debug, Default, Args)]
pub struct Serve {
    /// The configuration file (TOML)
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The folder of everything that Egret keeps; made where missing
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Where to listen; port 0 takes a free port and prints it
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<String>,
    /// The database to follow: postgres://user:password@host:port/database
    #[arg(long, value_name = "URL", env = "EGRET_POSTGRES_URL", hide_env_values = true)]
    pub postgres: Option<String>,
    /// Tables to follow, separated by commas: `*`, `schema.*`, `schema.table`, `table` [default: *]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub tables: Option<Vec<String>>,
}

impl Serve {
    /// The configuration: the file's, what was given beside it, and the environment's password.
    pub fn configuration(self, password: Option<&str>) -> Result<Config> {
        let mut config = match &self.config {
            Some(path) => Config::read(path)?,
            None => Config::default(),
        };
        if let Some(data) = self.data {
            config.data = data;
        }
        if let Some(listen) = self.listen {
            config.http.listen = listen;
        }
        match (self.postgres, self.tables) {
            (Some(url), tables) => {
                let tables = tables.unwrap_or_else(|| vec!["*".to_owned()]);
                config.pipelines.retain(|pipeline| pipeline.name != "main");
                let main = PipelineConfig { url, tables, ..PipelineConfig::default() };
                config.pipelines.push(main);
            }
            (None, Some(_)) => {
                let reason = "--tables needs --postgres or EGRET_POSTGRES_URL";
                return Err(Error::new(Kind::Configuration, reason));
            }
            (None, None) => {}
        }
        for pipeline in &mut config.pipelines {
            if pipeline.password.is_none() && pipeline.password_file.is_none() {
                pipeline.password = password.map(str::to_owned);
            }
        }
        config.validate()?;
        Ok(config)
    }
}

/// Runs what the command line asks for, to its end.
pub fn run(cli: Cli) -> Result<()> {
    match cli.command {
        Command::Config => print(DEFAULT_FILE),
        Command::Check(options) => crate::check::run(&options),
        Command::Verify(options) => crate::verify::run(&options),
        Command::Pipeline(options) => crate::pipeline::run(&options),
        Command::Init(options) => crate::init::run(&options),
        Command::Serve(serve) => {
            let config = serve.configuration(std::env::var("PGPASSWORD").ok().as_deref())?;
            crate::app::serve(config)
        }
    }
}

/// Writes to the standard output, which carries nothing but what was asked for.
pub(crate) fn print(text: &str) -> Result<()> {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|error| {
        Error::new(Kind::Internal, format!("cannot write to the standard output: {error}"))
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn arguments_become_the_configuration() {
        Cli::command().debug_assert();
        let parse = |arguments: &[&str]| {
            let all = ["egret", "serve"].iter().chain(arguments);
            let Command::Serve(serve) = Cli::parse_from(all).command else { panic!() };
            serve.configuration(Some("secret"))
        };
        let config = parse(&[
            "--data",
            "d",
            "--listen",
            "127.0.0.1:0",
            "--postgres",
            "postgres://h/d",
            "--tables",
            "a,b.c",
        ])
        .unwrap();
        assert_eq!((config.data, config.http.listen), ("d".into(), "127.0.0.1:0".into()));
        assert_eq!(config.pipelines[0].tables, ["a", "b.c"]);
        assert_eq!(config.pipelines[0].password.as_deref(), Some("secret"));
        let error = parse(&["--tables", "a"]).unwrap_err();
        assert_eq!(error.reason(), "--tables needs --postgres or EGRET_POSTGRES_URL");
        assert!(parse(&["--config", "/nowhere.toml"]).unwrap_err().reason().contains("nowhere"));
    }
}
