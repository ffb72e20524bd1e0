//! What is printed as the bench goes on, and how figures are summed up.

use std::time::Duration;

use crate::corpus::Corpus;

/// Names the machine and the corpus.
pub(crate) fn begin(corpus: &Corpus) {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let cpus = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu = cpus.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let bytes: usize = corpus.docs.iter().map(String::len).sum();
    line(&format!("machine   {cores} cores,{}", cpu.trim_start_matches([':', '\t'])));
    line(&format!(
        "corpus    {} documents, {} MB, {}",
        corpus.docs.len(),
        bytes / 1_000_000,
        corpus.name
    ));
}

/// A heading.
pub(crate) fn heading(text: &str) {
    line("");
    line(text);
}

/// A line.
#[expect(clippy::print_stdout, reason = "the report is what this program is for")]
pub(crate) fn line(text: &str) {
    println!("{text}");
}

/// The last line.
pub(crate) fn end() {
    line("");
    line("ratios above 1 are in Egret's favour; medians of interleaved rounds");
}

/// The value below which the given part of the sorted samples lies.
pub(crate) fn quantile(samples: &mut [Duration], part: f64) -> Duration {
    if samples.is_empty() {
        return Duration::ZERO;
    }
    samples.sort_unstable();
    let last = samples.len() - 1;
    samples[((last as f64) * part).round() as usize]
}

/// Milliseconds with two digits.
pub(crate) fn ms(duration: Duration) -> String {
    format!("{:.2}", duration.as_secs_f64() * 1e3)
}
