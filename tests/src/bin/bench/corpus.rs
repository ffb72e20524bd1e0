//! What is indexed: lines of JSON, read from a file or made up from a seed.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;

/// Documents as JSON text, each with its number as `id`.
pub(crate) struct Corpus {
    /// Where they come from, for the report.
    pub(crate) name: String,
    /// The documents.
    pub(crate) docs: Vec<String>,
}

impl Corpus {
    /// Reads at most `limit` lines of a file, or makes up as many documents.
    pub(crate) fn load(path: Option<&Path>, limit: usize, seed: u64) -> Self {
        match path {
            Some(path) => Self {
                name: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
                docs: lines(path).take(limit).collect(),
            },
            None => Self { name: format!("made up, seed {seed}"), docs: invent(limit, seed) },
        }
    }

    /// The mapping that both sides use.
    pub(crate) fn mapping() -> serde_json::Value {
        json!({
            "dynamic": "strict",
            "properties": {
                "id": {"type": "long"}, "source": {"type": "keyword"}, "name": {"type": "text"},
                "version": {"type": "keyword"}, "month": {"type": "keyword"},
                "year": {"type": "integer"}, "downloads": {"type": "long"},
                "summary": {"type": "text"}
            }
        })
    }
}

/// The lines of a plain or zstd-compressed file.
pub(crate) fn lines(path: &Path) -> impl Iterator<Item = String> {
    let file = File::open(path).unwrap_or_else(|error| panic!("open {}: {error}", path.display()));
    let reader: Box<dyn Read> = if path.extension().is_some_and(|extension| extension == "zst") {
        Box::new(zstd::Decoder::new(file).expect("read zstd"))
    } else {
        Box::new(file)
    };
    BufReader::new(reader).lines().map(|line| line.expect("read a line of the corpus"))
}

/// Documents whose words follow Zipf's law, as those of natural text do.
fn invent(count: usize, seed: u64) -> Vec<String> {
    const VOCABULARY: usize = 120_000;
    let mut random = StdRng::seed_from_u64(seed);
    let words: Vec<String> = (0..VOCABULARY).map(|rank| spell(rank, &mut random)).collect();
    let draw = |random: &mut StdRng| {
        // The inverse of Zipf's cumulative distribution with exponent 1.
        let rank = (VOCABULARY as f64).powf(random.random::<f64>()) as usize;
        words[rank.min(VOCABULARY) - 1].as_str()
    };
    (0..count)
        .map(|id| {
            let length = random.random_range(3..16);
            let summary: Vec<&str> = (0..length).map(|_| draw(&mut random)).collect();
            let name = format!("{}-{}", draw(&mut random), draw(&mut random));
            let year = random.random_range(2005..2026);
            json!({
                "id": id,
                "source": if random.random_bool(0.4) { "alpha" } else { "beta" },
                "name": name,
                "version": format!("{}.{}.0", random.random_range(0..5), random.random_range(0..20)),
                "month": format!("{year}-{:02}", random.random_range(1..13)),
                "year": year,
                "downloads": (10f64.powf(random.random::<f64>() * 6.0)) as u64,
                "summary": summary.join(" "),
            })
            .to_string()
        })
        .collect()
}

/// A pronounceable word; frequent ones are short.
fn spell(rank: usize, random: &mut StdRng) -> String {
    const SYLLABLES: [&str; 20] = [
        "ka", "to", "re", "mi", "sol", "ven", "dar", "li", "pon", "gra", "chi", "su", "ber", "na",
        "fel", "ur", "ost", "wi", "ja", "quo",
    ];
    let length = 1 + usize::from(rank > 15) + usize::from(rank > 300) + usize::from(rank > 6_000);
    let mut word: String =
        (0..length).map(|_| SYLLABLES[random.random_range(0..SYLLABLES.len())]).collect();
    if rank > 40_000 {
        word.push_str(SYLLABLES[rank % SYLLABLES.len()]);
    }
    word
}
