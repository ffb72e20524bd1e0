//! Positions: in a PostgreSQL log ([`Lsn`], [`Checkpoint`]), in an index's history ([`SeqNo`]), and
//! the name of a published state ([`Generation`]).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A position in a PostgreSQL write-ahead log, shown as PostgreSQL does: `16/B374D848`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

/// A text that is not an LSN.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an LSN: [{0}]")]
pub struct InvalidLsn(pub String);

impl FromStr for Lsn {
    type Err = InvalidLsn;

    fn from_str(text: &str) -> Result<Self, InvalidLsn> {
        let part = |hex: &str| {
            let plain = !hex.is_empty() && hex.bytes().all(|byte| byte.is_ascii_hexdigit());
            plain.then(|| u32::from_str_radix(hex, 16).ok()).flatten()
        };
        let parse = || {
            let (high, low) = text.split_once('/')?;
            Some(Self(u64::from(part(high)?) << 32 | u64::from(part(low)?)))
        };
        parse().ok_or_else(|| InvalidLsn(text.to_owned()))
    }
}

impl Serialize for Lsn {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Lsn {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A position together with the history that it belongs to. LSNs of different systems or timelines
/// must never be compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Checkpoint {
    /// PostgreSQL's system identifier.
    pub system_identifier: u64,
    /// The timeline.
    pub timeline: u32,
    /// The end of the last transaction that is held: everything that ends at or below it.
    pub lsn: Lsn,
}

/// The number of an operation in its index, rising by one from 0.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct SeqNo(pub u64);

/// The name of one published state of one index, never used twice: every open of the index has a
/// higher term, every publication within it a higher number.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Generation {
    /// Rises with every open of the index; also Elasticsearch's `_primary_term`.
    pub term: u64,
    /// Rises with every publication.
    pub number: u64,
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}.{:x}", self.term, self.number)
    }
}
