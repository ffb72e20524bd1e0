//! The texts that a field's terms stand for, in one segment: the terms themselves, or where these are
//! [digests](crate::mapping::digest) the texts of its column. What looks for texts by their bytes
//! goes through these.

use std::ops::{Bound, ControlFlow, RangeInclusive};
use std::sync::Arc;

use tantivy::columnar::StrColumn;
use tantivy::index::InvertedIndexReader;
use tantivy::postings::TermInfo;
use tantivy::query::DfaWrapper;
use tantivy::schema::Field;
use tantivy::{BitSet, DocId, SegmentReader};

use super::matcher::Matcher;
use crate::control::Ticks;
use crate::mapping::digest;

/// Of a column's documents as many are read in the time in which one text is looked up.
const DOCUMENTS_A_TEXT: u64 = 1024;

/// Documents of a column that are read at once.
const DOCUMENTS_AT_ONCE: DocId = 1 << 16;

/// What lies between two texts, as bytes.
pub(super) type Interval<'a> = (Bound<&'a [u8]>, Bound<&'a [u8]>);

/// What is done with a text and what it is in the segment.
pub(super) type Visit<'a> = &'a mut dyn FnMut(&str, &TermInfo) -> tantivy::Result<ControlFlow<()>>;

/// What is done with a text as bytes, and what it is where that is known.
type Look<'a> = &'a mut dyn FnMut(&[u8], Option<&TermInfo>) -> tantivy::Result<ControlFlow<()>>;

/// The builder of a stream, bounded. Those of terms and of a column's texts share no trait.
macro_rules! within {
    ($range:expr, $interval:expr) => {{
        let range = match $interval.0 {
            Bound::Included(text) => $range.ge(text),
            Bound::Excluded(text) => $range.gt(text),
            Bound::Unbounded => $range,
        };
        match $interval.1 {
            Bound::Included(text) => range.le(text),
            Bound::Excluded(text) => range.lt(text),
            Bound::Unbounded => range,
        }
    }};
}

/// The texts of a field in one segment.
pub(super) struct Texts {
    index: Arc<InvertedIndexReader>,
    dictionary: Dictionary,
}

/// Where the texts are.
enum Dictionary {
    Terms,
    /// None where no document has a value.
    Column(Option<StrColumn>),
}

impl Texts {
    pub(super) fn open(reader: &SegmentReader, field: Field) -> tantivy::Result<Self> {
        let entry = reader.schema().get_field_entry(field);
        let dictionary = if digest::has_digests(entry) {
            Dictionary::Column(reader.fast_fields().str(entry.name())?)
        } else {
            Dictionary::Terms
        };
        Ok(Self { index: reader.inverted_index(field)?, dictionary })
    }

    /// The field's terms, where they are its texts.
    pub(super) fn terms(&self) -> Option<&InvertedIndexReader> {
        matches!(self.dictionary, Dictionary::Terms).then_some(&*self.index)
    }

    /// The documents with a text of an interval, where they are quicker read from the column than by
    /// looking up each text.
    pub(super) fn documents_within(
        &self,
        interval: Interval<'_>,
        max_doc: DocId,
    ) -> tantivy::Result<Option<BitSet>> {
        let Dictionary::Column(Some(column)) = &self.dictionary else { return Ok(None) };
        let (lower, upper) = column.dictionary().term_bounds_to_ord(interval.0, interval.1)?;
        let Some(ordinals) = ordinals(lower, upper, column.num_terms() as u64) else {
            return Ok(Some(BitSet::with_max_value(max_doc)));
        };
        let count = ordinals.end() - ordinals.start() + 1;
        if count.saturating_mul(DOCUMENTS_A_TEXT) <= u64::from(max_doc) {
            return Ok(None);
        }
        let mut docs = BitSet::with_max_value(max_doc);
        let (mut ticks, mut found) = (Ticks::default(), Vec::new());
        let mut first = 0;
        while first < max_doc {
            ticks.tick()?;
            let end = first.saturating_add(DOCUMENTS_AT_ONCE).min(max_doc);
            found.clear();
            column.ords().get_docids_for_value_range(ordinals.clone(), first..end, &mut found);
            for &doc in &found {
                docs.insert(doc);
            }
            first = end;
        }
        Ok(Some(docs))
    }

    /// Visits the texts of an interval, in their order.
    pub(super) fn for_each_within(
        &self,
        interval: Interval<'_>,
        visit: &mut dyn FnMut(&TermInfo) -> tantivy::Result<()>,
    ) -> tantivy::Result<()> {
        self.look_within(interval, &mut |text, info| {
            let found = match info {
                Some(info) => Some(info.clone()),
                None => self.look_up(text)?,
            };
            found.map_or(Ok(()), |info| visit(&info)).map(ControlFlow::Continue)
        })
    }

    /// Visits the terms of an interval, where the terms are the texts, with what they are.
    pub(super) fn for_each_term_within(
        &self,
        interval: Interval<'_>,
        visit: &mut dyn FnMut(&[u8], &TermInfo) -> tantivy::Result<()>,
    ) -> tantivy::Result<()> {
        self.look_within(interval, &mut |text, info| {
            info.map_or(Ok(()), |info| visit(text, info)).map(ControlFlow::Continue)
        })
    }

    /// Visits the texts that fit, in their order, until told to stop.
    pub(super) fn for_each_match(
        &self,
        matcher: &Matcher,
        visit: Visit<'_>,
    ) -> tantivy::Result<()> {
        let prefix = matcher.literal_prefix();
        let end = end_of_prefix(prefix.as_bytes());
        self.look_within(beginning_with(&prefix, end.as_deref()), &mut |text, info| {
            match std::str::from_utf8(text) {
                Ok(text) if matcher.matches(text) => self.found(text, info, visit),
                _ => Ok(ControlFlow::Continue(())),
            }
        })
    }

    /// Visits the texts that an automaton accepts, in their order, until told to stop.
    pub(super) fn for_each_accepted(
        &self,
        automaton: &DfaWrapper,
        visit: Visit<'_>,
    ) -> tantivy::Result<()> {
        let mut look = |text: &[u8], info: Option<&TermInfo>| match std::str::from_utf8(text) {
            Ok(text) => self.found(text, info, visit),
            Err(_) => Ok(ControlFlow::Continue(())),
        };
        match &self.dictionary {
            Dictionary::Terms => {
                let mut at = self.index.terms().search(automaton).into_stream()?;
                walk(|| at.advance().then(|| look(at.key(), Some(at.value()))))
            }
            Dictionary::Column(None) => Ok(()),
            Dictionary::Column(Some(column)) => {
                let mut at = column.dictionary().search(automaton).into_stream()?;
                walk(|| at.advance().then(|| look(at.key(), None)))
            }
        }
    }

    /// Goes through the texts of an interval; what they are is known where they are terms.
    fn look_within(&self, interval: Interval<'_>, look: Look<'_>) -> tantivy::Result<()> {
        match &self.dictionary {
            Dictionary::Terms => {
                let mut at = within!(self.index.terms().range(), interval).into_stream()?;
                walk(|| at.advance().then(|| look(at.key(), Some(at.value()))))
            }
            Dictionary::Column(None) => Ok(()),
            Dictionary::Column(Some(column)) => {
                let mut at = within!(column.dictionary().range(), interval).into_stream()?;
                walk(|| at.advance().then(|| look(at.key(), None)))
            }
        }
    }

    fn found(
        &self,
        text: &str,
        info: Option<&TermInfo>,
        visit: Visit<'_>,
    ) -> tantivy::Result<ControlFlow<()>> {
        match info {
            Some(info) => visit(text, info),
            None => match self.look_up(text.as_bytes())? {
                Some(info) => visit(text, &info),
                None => Ok(ControlFlow::Continue(())),
            },
        }
    }

    /// What a text of the column is.
    fn look_up(&self, text: &[u8]) -> tantivy::Result<Option<TermInfo>> {
        let Ok(text) = std::str::from_utf8(text) else { return Ok(None) };
        Ok(self.index.terms().get(digest::term(text).as_bytes())?)
    }
}

/// Texts that begin so, up to the end of that beginning.
pub(super) fn beginning_with<'a>(prefix: &'a str, end: Option<&'a [u8]>) -> Interval<'a> {
    (Bound::Included(prefix.as_bytes()), end.map_or(Bound::Unbounded, Bound::Excluded))
}

/// The ordinals within bounds, if there are any.
fn ordinals(lower: Bound<u64>, upper: Bound<u64>, count: u64) -> Option<RangeInclusive<u64>> {
    let first = match lower {
        Bound::Included(ordinal) => ordinal,
        Bound::Excluded(ordinal) => ordinal.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match upper {
        Bound::Included(ordinal) => ordinal.saturating_add(1),
        Bound::Excluded(ordinal) => ordinal,
        Bound::Unbounded => count,
    };
    (first < end.min(count)).then(|| first..=end.min(count) - 1)
}

/// Goes through a dictionary step by step, until its end or told to stop.
fn walk(mut step: impl FnMut() -> Option<tantivy::Result<ControlFlow<()>>>) -> tantivy::Result<()> {
    let mut ticks = Ticks::default();
    while let Some(looked) = step() {
        ticks.tick()?;
        if looked?.is_break() {
            break;
        }
    }
    Ok(())
}

/// The least bytes that come after everything with this prefix.
pub(super) fn end_of_prefix(prefix: &[u8]) -> Option<Vec<u8>> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return Some(end);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::query::ast::{Query, Range, Relation, Scalar};
    use crate::search::request::{SearchRequest, TrackTotalHits};
    use crate::search::{fixture, search};
    use crate::snapshot::Snapshot;

    const DOCUMENTS: u32 = 3000;

    fn name(number: u32) -> String {
        format!("{number:05} herons at the northern lake")
    }

    fn index() -> Arc<Snapshot> {
        let mapping = json!({"properties": {"name": {"type": "keyword"}}});
        // Some have two, one of them shared.
        let document = |number| match number % 3 {
            0 => json!({"name": [name(number), "all of the herons at the lake"]}),
            _ => json!({"name": name(number)}),
        };
        fixture::one_segment(&mapping, &(0..DOCUMENTS).map(document).collect::<Vec<_>>())
    }

    fn count(snapshot: &Arc<Snapshot>, query: Query) -> u64 {
        let track_total_hits = TrackTotalHits::Exact;
        let request = SearchRequest { query, track_total_hits, ..SearchRequest::default() };
        let response = search(std::slice::from_ref(snapshot), &request).unwrap();
        response.total.unwrap().value
    }

    #[test]
    fn few_texts_are_looked_up_and_many_read_from_the_column() {
        let snapshot = index();
        let (field, _) = snapshot.field("name").unwrap();
        let texts = Texts::open(snapshot.segments()[0].reader(), field).unwrap();
        let check = |prefix: &str, expected: u64, by_column: bool| {
            let end = end_of_prefix(prefix.as_bytes());
            let interval = beginning_with(prefix, end.as_deref());
            let docs = texts.documents_within(interval, DOCUMENTS).unwrap();
            assert_eq!(docs.is_some(), by_column, "{prefix}");
            let (field, value) = ("name".to_owned(), prefix.to_owned());
            let boost = 1.0;
            let query = Query::Prefix { field, value, case_insensitive: false, boost };
            assert_eq!(count(&snapshot, query), expected, "{prefix}");
            let bound = |bytes: Vec<u8>, included| {
                Some((Scalar::Text(String::from_utf8(bytes).unwrap()), included))
            };
            let query = Query::Range(Range {
                field: "name".into(),
                lower: bound(prefix.into(), true),
                upper: end.and_then(|end| bound(end, false)),
                format: None,
                time_zone: None,
                relation: Relation::Intersects,
                boost,
            });
            assert_eq!(count(&snapshot, query), expected, "range from {prefix}");
        };
        check("", 3000, true);
        check("00", 1000, true);
        check("0002", 10, true);
        check("00021", 1, false);
        check("00021 herons at the n", 1, false);
        check("00021 herons at the s", 0, true);
        check("all", 1000, false);
        check("all of the herons at the lake", 1000, false);
        check("b", 0, true);
    }
}
