//! Dictionaries: what the documents of an index have in common, so that each can be compressed by
//! itself and is small all the same.
//!
//! A dictionary is named by the hash of its bytes. A file carries the one that its frames need, and
//! the files of an index mostly carry the same one: it is prepared for reading once, by whoever
//! reads first, and kept as long as anybody does.

use std::fmt;
use std::sync::{Arc, LazyLock, Weak};

use bytes::Bytes;
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use xxhash_rust::xxh3::xxh3_128;
use zstd::dict::{DDict, EncoderDictionary};

use super::frame::{Encoder, LEVEL};

/// No dictionary is longer,
const LONGEST_BYTES: usize = 64 << 10;
/// or shorter,
const SHORTEST_BYTES: usize = 1 << 10;
/// and it takes no more than one byte in so many of the documents that it is carried with.
const SHARE: u64 = 64;
/// One that is kept may be shorter than a new one would be, by so many times,
const TIMES_SHORTER: usize = 4;
/// or longer: it costs less than to compress everything anew in the next merge.
const TIMES_LONGER: usize = 8;
/// It is trained on so many times its size. More gains little and takes longer.
const SAMPLE_TIMES: usize = 64;
/// What documents come to without more than this saved, in thousandths, is not worth a dictionary.
const WORST_RATIO: u32 = 950;
/// A dictionary serves as long as documents come to no more than this much of what they came to when
/// it was trained.
const WORSE_BY: (u32, u32) = (5, 4);

/// A dictionary as a file carries it.
#[derive(Clone)]
pub(in crate::store) struct Dictionary {
    hash: u128,
    bytes: Bytes,
    /// What documents came to under it when it was trained, in thousandths.
    ratio: u32,
}

/// A dictionary that is ready to read with.
pub(crate) struct PreparedDictionary {
    hash: u128,
    decoder: DDict<'static>,
}

/// Those that somebody holds. Guards the map; held while one is made, some tens of microseconds.
static PREPARED: LazyLock<Mutex<FxHashMap<u128, Weak<PreparedDictionary>>>> =
    LazyLock::new(Mutex::default);

impl PreparedDictionary {
    /// The dictionary with this hash, which these bytes are; `None` if they are not.
    pub(super) fn new(hash: u128, bytes: &[u8]) -> Option<Arc<Self>> {
        let mut prepared = PREPARED.lock();
        if let Some(known) = prepared.get(&hash).and_then(Weak::upgrade) {
            return Some(known);
        }
        if xxh3_128(bytes) != hash {
            return None;
        }
        let decoder = DDict::try_create(bytes)?;
        let made = Arc::new(Self { hash, decoder });
        prepared.retain(|_, other| other.strong_count() > 0);
        prepared.insert(hash, Arc::downgrade(&made));
        Some(made)
    }

    pub(super) fn hash(&self) -> u128 {
        self.hash
    }

    pub(super) fn decoder(&self) -> &DDict<'static> {
        &self.decoder
    }
}

/// How long a dictionary for so many bytes of documents may be; `None` if they are too few for one.
fn fitting_bytes(document_bytes: u64) -> Option<usize> {
    let bytes = usize::try_from(document_bytes / SHARE).unwrap_or(usize::MAX).min(LONGEST_BYTES);
    (bytes >= SHORTEST_BYTES).then_some(bytes)
}

/// How many bytes of samples a dictionary for so many bytes of documents is trained on.
pub(super) fn sample_bytes(document_bytes: u64) -> Option<usize> {
    fitting_bytes(document_bytes).map(|bytes| bytes * SAMPLE_TIMES)
}

impl Dictionary {
    pub(super) fn new(hash: u128, bytes: Bytes, ratio: u32) -> Self {
        Self { hash, bytes, ratio }
    }

    /// Trains one for so many bytes of documents on some of them; `None` where it would not help.
    /// What it achieves is measured on others.
    pub(super) fn train(document_bytes: u64, samples: &[Bytes], others: &[Bytes]) -> Option<Self> {
        let bytes = fitting_bytes(document_bytes)?;
        let trained = match zstd::dict::from_samples(samples, bytes) {
            Ok(trained) => Bytes::from(trained),
            Err(error) => {
                tracing::debug!(%error, samples = samples.len(), "no dictionary can be trained");
                return None;
            }
        };
        let mut dictionary = Self { hash: xxh3_128(&trained), bytes: trained, ratio: 0 };
        dictionary.ratio = dictionary.measured(others).filter(|ratio| *ratio <= WORST_RATIO)?;
        Some(dictionary)
    }

    pub(super) fn hash(&self) -> u128 {
        self.hash
    }

    /// Hash, bytes, and what documents came to under it.
    pub(super) fn parts(&self) -> (u128, &[u8], u32) {
        (self.hash, &self.bytes, self.ratio)
    }

    /// Ready to write with.
    pub(super) fn encoder(&self) -> EncoderDictionary<'static> {
        EncoderDictionary::copy(&self.bytes, LEVEL)
    }

    /// Whether it is as good as a new one would be for so many bytes of documents, of which these
    /// are some.
    pub(super) fn serves(&self, document_bytes: u64, some: &[Bytes]) -> bool {
        let Some(fitting) = fitting_bytes(document_bytes) else { return false };
        if self.bytes.len() > fitting * TIMES_LONGER || self.bytes.len() * TIMES_SHORTER < fitting {
            return false;
        }
        let (times, of) = WORSE_BY;
        self.measured(some).is_some_and(|ratio| ratio * of <= self.ratio * times)
    }

    /// What documents come to under it, in thousandths.
    fn measured(&self, documents: &[Bytes]) -> Option<u32> {
        let prepared = self.encoder();
        let mut encoder = Encoder::new(Some(&prepared)).ok()?;
        let (mut before, mut after) = (0, 0);
        for document in documents {
            before += document.len();
            after += encoder.compress(document).ok()?.map_or(document.len(), <[u8]>::len);
        }
        u32::try_from((after * 1000).checked_div(before)?).ok()
    }
}

impl fmt::Debug for Dictionary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Dictionary({:x}, {} bytes)", self.hash, self.bytes.len())
    }
}

impl fmt::Debug for PreparedDictionary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PreparedDictionary({:x})", self.hash)
    }
}
