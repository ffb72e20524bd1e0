//! `make bench`: Egret against tantivy called directly, on the same corpus in one run, and the time
//! from a commit in PostgreSQL until a search finds the row.
//!
//! Every ratio is taken from measurements that were interleaved in this one run. Absolute figures
//! depend on the machine; the report names it.

#![expect(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a failure ends the bench, with the place it happened at"
)]
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "figures for people"
)]

mod client;
mod copies;
mod corpus;
mod engine;
mod followed;
mod freshness;
mod plain;
mod queries;
mod rates;
mod report;
mod searches;
mod streams;
mod writes;

use std::path::PathBuf;

use clap::Parser;

use crate::corpus::Corpus;
use crate::followed::Followed;

/// Both sides allocate alike.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Egret against tantivy called directly, and commit-to-searchable latency.
#[derive(Debug, Parser)]
struct Options {
    /// A corpus of one JSON object a line (`.jsonl` or `.jsonl.zst`) with the fields of a package
    /// catalogue: id, source, name, version, month, year, downloads, summary. Without it one is
    /// made up, the same for the same seed.
    #[arg(long)]
    corpus: Option<PathBuf>,
    /// Queries of one JSON object a line: {"type": "term|and|or|phrase|prefix|fuzzy|filtersort|agg",
    /// "q": [words]}. Without it they are drawn from the corpus's words.
    #[arg(long)]
    queries: Option<PathBuf>,
    /// How many documents to take or to make up.
    #[arg(long, default_value_t = 1_000_000)]
    docs: usize,
    /// Seconds to measure freshness at each rate.
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// How often each query is asked of each side.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// The seed of what is made up or drawn.
    #[arg(long, default_value_t = 42)]
    seed: u64,
    /// Which parts to run.
    #[arg(
        long,
        value_delimiter = ',',
        default_values_t = [Part::Rates, Part::Queries, Part::Capture, Part::Freshness, Part::Writes]
    )]
    parts: Vec<Part>,
}

/// How often the table is copied, and its rows are indexed by the engine alone.
const COPIES: usize = 3;

/// A part of the bench.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Indexing rates against tantivy called directly.
    Rates,
    /// Queries against tantivy called directly, in process and over HTTP. It indexes first.
    Queries,
    /// Copies of a table against the engine called directly, streams against `pg_recvlogical`.
    Capture,
    /// From commit in PostgreSQL to searchable.
    Freshness,
    /// Writes over REST: until searchable, what updates do to queries, and starting again.
    Writes,
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Rates => "rates",
            Self::Queries => "queries",
            Self::Capture => "capture",
            Self::Freshness => "freshness",
            Self::Writes => "writes",
        })
    }
}

fn main() {
    let options = Options::parse();
    let corpus = Corpus::load(options.corpus.as_deref(), options.docs, options.seed);
    report::begin(&corpus);
    let wants = |part| options.parts.contains(&part);
    let queries = || queries::load(options.queries.as_deref(), &corpus, options.seed);
    if wants(Part::Rates) || wants(Part::Queries) {
        let mut egret = rates::run(&corpus);
        if wants(Part::Queries) {
            searches::run(&mut egret, &corpus, &queries(), options.rounds);
        }
    }
    if wants(Part::Capture) || wants(Part::Freshness) {
        let mut followed = Followed::fill(&corpus);
        copies::run(&mut followed, &corpus, if wants(Part::Capture) { COPIES } else { 0 });
        if wants(Part::Freshness) {
            freshness::run(&followed, options.seconds);
        }
        if wants(Part::Capture) {
            streams::run(&followed);
        }
    }
    if wants(Part::Writes) {
        writes::run(&corpus, &queries(), options.seconds);
    }
    report::end();
}
