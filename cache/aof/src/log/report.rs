//! What a recovery found, for the owner's log and its tests.

use std::path::PathBuf;

/// What [`Log::open`](super::Log::open) found and did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecoveryReport {
    /// Files read.
    pub files: usize,
    /// Bytes of the records read, with their frames.
    pub bytes: u64,
    /// Records replayed from the base.
    pub base_records: u64,
    /// Records replayed from the increments.
    pub records: u64,
    /// Zeroes found after the last record, as preallocation leaves them; they are no damage.
    pub zero_bytes: u64,
    /// Ends of files that a crash had left half-written, now cut or passed over.
    pub torn_tails: Vec<TornTail>,
    /// Damage that was skipped (with [`Recovery::Repair`](super::Recovery::Repair)), and records
    /// missing after a failure that an earlier run knew of.
    pub lost: Vec<Lost>,
    /// Whether the manifest had to be made anew from the files found.
    pub manifest_rebuilt: bool,
    /// The number that the next record will have.
    pub next_sequence: u64,
}

/// The end of a file that was being written when the system stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TornTail {
    /// The file.
    pub file: PathBuf,
    /// Where the whole records end.
    pub offset: u64,
    /// How many bytes were cut from there.
    pub bytes: u64,
    /// The number of the first record that is not there.
    pub sequence: u64,
}

/// Something that was in the log and is no more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    /// The file.
    pub file: PathBuf,
    /// Where the lost bytes began.
    pub offset: u64,
    /// How many bytes were skipped; none where a whole file or the end of one is missing.
    pub bytes: u64,
    /// The number of the first lost record. In a base, records are counted from 1.
    pub first_sequence: u64,
    /// How many records are known to be lost: those before the next one found.
    pub records: u64,
    /// What was wrong.
    pub reason: String,
}

impl RecoveryReport {
    /// Whether the log ended cleanly and nothing was lost.
    pub fn is_clean(&self) -> bool {
        self.torn_tails.is_empty() && self.lost.is_empty() && !self.manifest_rebuilt
    }
}
