//! What a row and its document say of each other.

use egret_engine::Lsn;
use egret_engine::snapshot::Fit;
use serde::Serialize;

use super::checksum::Checksum;

/// What an index should have of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expected {
    /// Nothing: there is no such row, or it does not count.
    Nothing,
    /// Nothing: it cannot become a document.
    Unfit,
    /// This document.
    Document(Checksum),
}

/// What an index shows under an id.
#[derive(Debug)]
pub(crate) struct Shown {
    /// The position of its last change, and what it comes down to.
    pub(crate) document: Option<(Lsn, Checksum)>,
    /// How the document that is composed from this row and others fits them.
    pub(crate) composed: Option<Fit>,
}

/// In what way an index is not what its table says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DriftKind {
    /// A row has no document.
    Missing,
    /// A document is not what its row makes, or its row cannot make one.
    Different,
    /// A document has no row.
    LeftOver,
}

impl Shown {
    /// How it differs from what should be there.
    pub(crate) fn differs(&self, expected: Expected) -> Option<DriftKind> {
        match (expected, self.document) {
            (Expected::Document(_), None) => Some(DriftKind::Missing),
            (Expected::Document(wanted), Some((_, found))) if wanted != found => {
                Some(DriftKind::Different)
            }
            (Expected::Document(_), Some(_)) => match self.composed {
                None | Some(Fit::Fits) => None,
                Some(Fit::Missing | Fit::Impossible(_)) => Some(DriftKind::Missing),
                Some(Fit::Different) => Some(DriftKind::Different),
                Some(Fit::LeftOver) => Some(DriftKind::LeftOver),
            },
            (Expected::Nothing, Some(_)) => Some(DriftKind::LeftOver),
            (Expected::Unfit, Some(_)) => Some(DriftKind::Different),
            (Expected::Nothing | Expected::Unfit, None) => match self.composed {
                Some(Fit::LeftOver | Fit::Different) => Some(DriftKind::LeftOver),
                _ => None,
            },
        }
    }

    /// Whether it was changed after a position.
    pub(crate) fn is_newer_than(&self, lsn: Lsn) -> bool {
        self.document.is_some_and(|(changed, _)| changed > lsn)
    }
}

#[cfg(test)]
mod tests {
    use super::DriftKind::{Different, LeftOver, Missing};
    use super::Expected::{Document, Nothing, Unfit};
    use super::*;

    #[test]
    fn differences() {
        let [one, other] = [r#"{"a":1}"#, r#"{"a":2}"#].map(|text| Checksum::of(text.as_bytes()));
        let check = |expected, document: Option<Checksum>, composed, kind| {
            let shown = Shown { document: document.map(|it| (Lsn(5), it)), composed };
            assert_eq!(shown.differs(expected), kind, "{expected:?} {shown:?}");
        };
        check(Document(one), Some(one), None, None);
        check(Document(one), Some(other), None, Some(Different));
        check(Document(one), None, None, Some(Missing));
        check(Nothing, None, None, None);
        check(Nothing, Some(one), None, Some(LeftOver));
        check(Unfit, None, None, None);
        check(Unfit, Some(one), None, Some(Different));
        check(Document(one), Some(one), Some(Fit::Fits), None);
        check(Document(one), Some(one), Some(Fit::Missing), Some(Missing));
        check(Document(one), Some(one), Some(Fit::Different), Some(Different));
        check(Nothing, None, Some(Fit::Fits), None);
        check(Nothing, None, Some(Fit::LeftOver), Some(LeftOver));
    }
}
