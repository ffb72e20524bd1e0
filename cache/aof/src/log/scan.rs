//! Reading one file of a log: telling records, a clean end, a torn tail and damage apart.

use std::ops::Range;
use std::path::Path;

use super::frame::{
    FIRST_RESERVED_KIND, FRAME_BYTES, Frame, HEADER_BYTES, Header, KIND_COPIED, KIND_END,
    KIND_LOST, KIND_MARK, Role, sequence_at,
};
use super::report::Lost;
use crate::{Error, Result};

/// After damage, a frame is believed only if its sequence number is nearer than this: it makes
/// looking for one cheap, since hardly any checksum has to be computed.
const RESUME_WITHIN: u64 = 1 << 32;

/// What is known about a file's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tail {
    /// The whole file was synced before anything relied on it: whatever is wrong is damage.
    Durable,
    /// The end may not have been synced: what is wrong is a torn tail, unless a later mark proves
    /// that the place had been synced.
    Open,
}

/// One file to read.
#[derive(Debug)]
pub(super) struct Source<'a> {
    pub(super) path: &'a Path,
    pub(super) bytes: &'a [u8],
    pub(super) header: Header,
    pub(super) tail: Tail,
    /// The number of the first record wanted from the file.
    pub(super) expected: u64,
    /// Skip damage and report it, rather than refuse the file.
    pub(super) repair: bool,
}

/// What a file held.
#[derive(Debug, Default)]
pub(super) struct Scanned {
    /// Where the good part ends.
    pub(super) end: usize,
    /// The number that the record after the last one has.
    pub(super) next_sequence: u64,
    /// Whether all bytes of the file are known to have been synced: it has no records, or it is a
    /// copy that nothing was added to.
    pub(super) proven: bool,
    pub(super) records: u64,
    /// Zeroes after the good part, as preallocation leaves them.
    pub(super) zero_bytes: usize,
    /// Whether the end record of a base is among the good parts.
    pub(super) ended: bool,
    /// Bytes of a torn tail after the good part.
    pub(super) torn_bytes: usize,
    pub(super) lost: Vec<Lost>,
    /// The good parts, each with the number that its first record has where records before it are
    /// lost.
    pub(super) pieces: Vec<(Range<usize>, Option<u64>)>,
}

enum Step<'a> {
    Record(usize, Frame<'a>),
    Control,
    Finished,
    Bad(&'static str),
}

struct Scanner<'a> {
    bytes: &'a [u8],
    header: Header,
    at: usize,
    expected: u64,
    /// Every byte before this place is known to have been synced.
    proven_end: usize,
    ended: bool,
}

impl<'a> Scanner<'a> {
    fn rest(&self) -> &'a [u8] {
        self.bytes.get(self.at..).unwrap_or_default()
    }

    fn step(&mut self) -> Step<'a> {
        let rest = self.rest();
        let is_base = self.header.role == Role::Base;
        let frame = match Frame::decode(rest, self.header.salt) {
            _ if self.ended => {
                let clean = rest.iter().all(|byte| *byte == 0);
                return if clean {
                    Step::Finished
                } else {
                    Step::Bad("bytes follow the end record")
                };
            }
            Ok(frame) => frame,
            Err(reason) if rest.iter().any(|byte| *byte != 0) => return Step::Bad(reason),
            Err(_) if is_base => return Step::Bad("the end record is missing"),
            Err(_) => return Step::Finished,
        };
        match (frame.kind, frame.sequence) {
            (KIND_MARK, synced) if synced <= self.expected => {}
            (KIND_COPIED, next) if next == self.expected => self.proven_end = self.at + frame.len(),
            (KIND_LOST, next) if next >= self.expected => self.expected = next,
            (KIND_END, next) if is_base && next == self.expected => self.ended = true,
            (FIRST_RESERVED_KIND.., _) => return Step::Bad("the record is out of place"),
            (_, sequence) if sequence != self.expected => {
                return Step::Bad("the record has another sequence number");
            }
            _ => {
                let offset = self.at;
                self.at += frame.len();
                self.expected = self.expected.saturating_add(1);
                return Step::Record(offset, frame);
            }
        }
        self.at += frame.len();
        Step::Control
    }

    /// The places after the current one where a frame lies that may belong to what follows.
    fn later_frames(&self) -> impl Iterator<Item = (usize, Frame<'a>)> {
        let mut from = self.at + 1;
        std::iter::from_fn(move || {
            let (at, frame) = (from..self.bytes.len().saturating_sub(FRAME_BYTES - 1))
                .find_map(|at| Some((at, self.believable_frame(at)?)))?;
            from = at + frame.len();
            Some((at, frame))
        })
    }

    fn believable_frame(&self, at: usize) -> Option<Frame<'a>> {
        let rest = self.bytes.get(at..)?;
        let near = sequence_at(rest)?.wrapping_sub(self.expected) < RESUME_WITHIN;
        if near { Frame::decode(rest, self.header.salt).ok() } else { None }
    }

    /// Whether a later mark says that the record expected here had been synced.
    fn was_synced(&self) -> bool {
        self.later_frames()
            .filter(|(_, frame)| matches!(frame.kind, KIND_MARK | KIND_COPIED))
            .any(|(_, mark)| mark.sequence > self.expected)
    }

    /// Moves past damage to the next believable frame, or to the end.
    fn resume(&mut self, path: &Path, reason: &'static str) -> Lost {
        let (begin, first_sequence) = (self.at, self.expected);
        let found = self.later_frames().find(|(_, frame)| frame.kind != KIND_MARK);
        match found {
            Some((at, frame)) => (self.at, self.expected) = (at, frame.sequence),
            None => self.at = self.bytes.len(),
        }
        Lost {
            file: path.to_path_buf(),
            offset: begin as u64,
            bytes: (self.at - begin) as u64,
            first_sequence,
            records: self.expected - first_sequence,
            reason: reason.to_owned(),
        }
    }
}

/// Reads a file, handing each record and its offset to `each`.
pub(super) fn scan(
    source: &Source<'_>,
    mut each: impl FnMut(u64, Frame<'_>) -> Result<()>,
) -> Result<Scanned> {
    let mut scanner = Scanner {
        bytes: source.bytes,
        header: source.header,
        at: HEADER_BYTES.min(source.bytes.len()),
        expected: source.expected,
        proven_end: HEADER_BYTES,
        ended: false,
    };
    let mut scanned = Scanned::default();
    let mut piece = (scanner.at, None);
    loop {
        let reason = match scanner.step() {
            Step::Control => continue,
            Step::Record(offset, frame) => {
                scanned.records += 1;
                each(offset as u64, frame)?;
                continue;
            }
            Step::Finished => {
                scanned.zero_bytes = scanner.rest().len();
                break;
            }
            Step::Bad(reason) => reason,
        };
        if source.tail == Tail::Open && !scanner.was_synced() {
            scanned.torn_bytes = scanner.rest().len();
            break;
        }
        if !source.repair {
            return Err(Error::Damaged {
                file: source.path.to_path_buf(),
                offset: scanner.at as u64,
                sequence: scanner.expected,
                reason: reason.to_owned(),
            });
        }
        scanned.pieces.push((piece.0..scanner.at, piece.1));
        let lost = scanner.resume(source.path, reason);
        piece = (scanner.at, (lost.records > 0).then_some(scanner.expected));
        scanned.lost.push(lost);
        if scanner.rest().is_empty() {
            break;
        }
    }
    scanned.pieces.push((piece.0..scanner.at, piece.1));
    scanned.proven = scanner.proven_end == source.bytes.len();
    scanned.ended = scanner.ended;
    scanned.end = scanner.at;
    scanned.next_sequence = scanner.expected;
    Ok(scanned)
}
