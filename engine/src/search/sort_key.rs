//! Sort keys: what a document is sorted by, as integers that compare in the wanted order within a
//! segment, and as values that compare across segments and indexes.
//!
//! A key is a class (missing first, a value, missing last) above 64 bits in which smaller comes
//! first. Keywords are ordinals of their segment, doubled so that a text that the segment lacks has
//! a place between two that it has.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::sync::Arc;

use tantivy::columnar::TermOrdHit;
use tantivy::{DocId, f64_to_u64, i64_to_u64, u64_to_f64, u64_to_i64};

use super::column::{
    FieldColumn, date_value, decode, encode, encode_date, require_column, scalar_value,
};
use super::distance::DistanceColumn;
use super::request::{Distance, Missing, Sort, SortBy, SortMode, SortValue};
use crate::error::{Error, ErrorKind, Result};
use crate::mapping::field::{FieldKind, FieldMapping, Storage};
use crate::mapping::ip;
use crate::snapshot::{Segment, Snapshot};

/// A key: smaller comes first.
pub(super) type Key = u128;

/// In a document's place over all indexes, below the place of its index.
const SHARD_BITS: u32 = 32;
const MISSING_FIRST: Key = 0;
const VALUE: Key = 1 << 64;
const MISSING_LAST: Key = 2 << 64;

/// One key of the order, ready for one index.
pub(super) struct SortPlan<'a> {
    sort: &'a Sort,
    source: Source<'a>,
    /// What documents without a value are sorted as.
    missing: Option<SortValue>,
}

enum Source<'a> {
    Score,
    Doc,
    /// With the place of the index.
    ShardDoc(u64),
    Field(&'a FieldMapping),
    /// The distance of a field's points, which this index may lack.
    Distance(Option<&'a FieldMapping>, &'a Distance),
    /// A field that this index lacks: every document is missing it.
    Unmapped,
}

impl<'a> SortPlan<'a> {
    /// For the index at a place among those that are searched.
    pub(super) fn new(ordinal: usize, snapshot: &'a Snapshot, sort: &'a Sort) -> Result<Self> {
        let (source, missing) = match &sort.by {
            SortBy::ShardDoc => (Source::ShardDoc(ordinal as u64), None),
            SortBy::Score => (Source::Score, None),
            SortBy::Doc => (Source::Doc, None),
            SortBy::Field(path) => Self::field(snapshot, sort, path)?,
            SortBy::Distance(distance) => (Self::distance(snapshot, distance)?, None),
        };
        Ok(Self { sort, source, missing })
    }

    fn distance(snapshot: &'a Snapshot, distance: &'a Distance) -> Result<Source<'a>> {
        let (index, path) = (snapshot.index_name(), &distance.field);
        let refused = |message| Error::new(ErrorKind::InvalidArgument, message).with_index(index);
        let Some(mapping) = snapshot.mapping().field(path) else {
            if distance.ignore_unmapped {
                return Ok(Source::Distance(None, distance));
            }
            return Err(refused(format!(
                "failed to find mapper for [{path}] for geo distance based sort"
            )));
        };
        if mapping.kind != FieldKind::GeoPoint {
            let kind = mapping.kind.name();
            return Err(refused(format!(
                "unable to sort by distance on field [{path}] of type [{kind}], and not [geo_point]"
            )));
        }
        require_column(mapping, index)?;
        Ok(Source::Distance(Some(mapping), distance))
    }

    fn field(
        snapshot: &'a Snapshot,
        sort: &'a Sort,
        path: &str,
    ) -> Result<(Source<'a>, Option<SortValue>)> {
        let index = snapshot.index_name();
        let Some(mapping) = snapshot.mapping().field(path) else {
            let known = sort.unmapped_type.as_deref().map(FieldKind::from_name);
            if let Some(Some(_)) = known {
                return Ok((Source::Unmapped, None));
            }
            let message = match known {
                None => format!("No mapping found for [{path}] in order to sort on"),
                Some(_) => format!(
                    "No mapper found for type [{}]",
                    sort.unmapped_type.as_deref().unwrap_or_default()
                ),
            };
            return Err(Error::new(ErrorKind::InvalidQuery, message).with_index(index));
        };
        require_column(mapping, index)?;
        if mapping.kind == FieldKind::GeoPoint {
            let message = "can't sort on geo_point field without using specific sorting feature, like \
                           geo_distance";
            return Err(Error::new(ErrorKind::InvalidArgument, message).with_index(index));
        }
        let numeric = !mapping.kind.storage().has_dictionary();
        if !numeric && matches!(sort.mode, Some(SortMode::Sum | SortMode::Avg | SortMode::Median)) {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                format!(
                    "we only support AVG, MEDIAN and SUM on number based fields, not on [{path}]"
                ),
            ));
        }
        let missing = match &sort.missing {
            Missing::Value(scalar) => Some(scalar_value(mapping, scalar)?),
            Missing::First | Missing::Last => None,
        };
        Ok((Source::Field(mapping), missing))
    }

    /// Whether documents come in the order that they are collected in.
    pub(super) fn is_doc_order(&self) -> bool {
        matches!(self.source, Source::Doc | Source::ShardDoc(_)) && !self.sort.descending
    }

    /// Whether besides no later index has a document that comes before one of this.
    pub(super) fn is_shard_order(&self) -> bool {
        matches!(self.source, Source::ShardDoc(_)) && !self.sort.descending
    }

    /// For an order of documents: what precedes a segment's, `base` of them in its own index.
    fn offset(&self, base: u64) -> u64 {
        match self.source {
            Source::ShardDoc(ordinal) => (ordinal << SHARD_BITS) + base,
            _ => base,
        }
    }

    /// For an order of documents: the first of a segment that a limit lets pass, its number of
    /// documents or more where there is none.
    pub(super) fn first_doc(&self, limit: Key, base: u64) -> u64 {
        let raw = u64::try_from(limit & (VALUE - 1)).unwrap_or(u64::MAX);
        raw.saturating_sub(self.offset(base))
    }

    /// The key's source in one segment; `base` is how many documents the segments before it have.
    pub(super) fn open(&self, segment: &Segment, base: u64) -> Result<KeyColumn> {
        let descending = self.sort.descending;
        let mut missing =
            if self.sort.missing == Missing::First { MISSING_FIRST } else { MISSING_LAST };
        let source = match self.source {
            Source::Score => KeySource::Score,
            Source::Doc | Source::ShardDoc(_) => KeySource::Doc(self.offset(base)),
            Source::Unmapped => KeySource::None,
            Source::Distance(mapping, distance) => {
                let column = match mapping {
                    Some(mapping) => FieldColumn::open(segment, mapping)?,
                    None => None,
                };
                let mode = self.sort.mode.unwrap_or(if descending {
                    SortMode::Max
                } else {
                    SortMode::Min
                });
                KeySource::Distance(DistanceColumn::new(column, distance, mode))
            }
            Source::Field(mapping) => match FieldColumn::open(segment, mapping)? {
                Some(column) => {
                    if let Some(value) = &self.missing {
                        missing = limit_key(Some(&column), value, descending)?.0;
                    }
                    let mode = self.sort.mode.unwrap_or(if descending {
                        SortMode::Max
                    } else {
                        SortMode::Min
                    });
                    KeySource::Column(Box::new(column), mode)
                }
                None => KeySource::None,
            },
        };
        Ok(KeyColumn { source, descending, missing, missing_value: self.missing.clone() })
    }
}

/// Refuses orders of texts, addresses and numbers among one another, where indexes have a field as
/// different types: a key of one would say nothing in the other.
pub(super) fn check_types(snapshots: &[Arc<Snapshot>], order: &[Sort]) -> Result<()> {
    let fields = order.iter().filter_map(|sort| match &sort.by {
        SortBy::Field(path) => Some(path),
        _ => None,
    });
    for path in fields {
        let mappings = snapshots.iter().filter_map(|snapshot| snapshot.mapping().field(path));
        let mut types = mappings.map(|mapping| match mapping.kind.storage() {
            Storage::Text => "STRING",
            Storage::Ip => "IP",
            _ => "LONG",
        });
        let Some(first) = types.next() else { continue };
        if let Some(other) = types.find(|other| *other != first) {
            let message = format!(
                "Can't sort on field [{path}]; the field has incompatible sort types: [{first}] and \
                 [{other}] across shards!"
            );
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
    }
    Ok(())
}

/// The order of two values under a key of the order.
pub(super) fn compare(sort: &Sort, left: &SortValue, right: &SortValue) -> Ordering {
    let missing = |value: &SortValue| *value == SortValue::Null;
    let first = sort.missing == Missing::First;
    match (missing(left), missing(right)) {
        (true, true) => Ordering::Equal,
        (true, false) => {
            if first {
                Ordering::Less
            } else {
                Ordering::Greater
            }
        }
        (false, true) => {
            if first {
                Ordering::Greater
            } else {
                Ordering::Less
            }
        }
        (false, false) => {
            let order = compare_values(left, right);
            if sort.descending { order.reverse() } else { order }
        }
    }
}

/// The natural order of values: numbers before texts.
pub(super) fn compare_values(left: &SortValue, right: &SortValue) -> Ordering {
    // In thousandths: dates are milliseconds.
    let whole = |value: &SortValue| match value {
        SortValue::Bool(value) => Some(i128::from(*value) * 1000),
        SortValue::I64(value) => Some(i128::from(*value) * 1000),
        SortValue::U64(value) => Some(i128::from(*value) * 1000),
        SortValue::Micros(value) => Some(i128::from(*value)),
        _ => None,
    };
    match (left, right) {
        (SortValue::Text(left), SortValue::Text(right)) => left.cmp(right),
        (SortValue::Ip(left), SortValue::Ip(right)) => left.cmp(right),
        // Of indexes that have the field as different types.
        (SortValue::Ip(_), _) => Ordering::Greater,
        (_, SortValue::Ip(_)) => Ordering::Less,
        (SortValue::Text(_), _) => Ordering::Greater,
        (_, SortValue::Text(_)) => Ordering::Less,
        _ => match (whole(left), whole(right)) {
            (Some(left), Some(right)) => left.cmp(&right),
            _ => double(left).total_cmp(&double(right)),
        },
    }
}

#[expect(clippy::cast_precision_loss, reason = "compared with a double")]
pub(super) fn double(value: &SortValue) -> f64 {
    match value {
        SortValue::Bool(value) => f64::from(u8::from(*value)),
        SortValue::I64(value) => *value as f64,
        SortValue::U64(value) => *value as f64,
        SortValue::Micros(value) => *value as f64 / 1000.0,
        SortValue::F64(value) => *value,
        SortValue::Null | SortValue::Text(_) | SortValue::Ip(_) | SortValue::Point(_) => f64::NAN,
    }
}

/// A key's source in one segment.
pub(super) struct KeyColumn {
    source: KeySource,
    descending: bool,
    missing: Key,
    missing_value: Option<SortValue>,
}

enum KeySource {
    Score,
    Doc(u64),
    Column(Box<FieldColumn>, SortMode),
    Distance(DistanceColumn),
    None,
}

impl KeyColumn {
    /// A document's key.
    pub(super) fn key(&self, doc: DocId, score: f32) -> Key {
        let raw = match &self.source {
            KeySource::Score => f64_to_u64(f64::from(score)),
            KeySource::Doc(base) => base + u64::from(doc),
            KeySource::Distance(column) => f64_to_u64(column.distance(doc)),
            KeySource::None => return self.missing,
            KeySource::Column(column, mode) => match pick(column, *mode, doc) {
                Some(raw) if column.storage().has_dictionary() => raw * 2 + 1,
                Some(raw) => raw,
                None => return self.missing,
            },
        };
        VALUE | Key::from(if self.descending { !raw } else { raw })
    }

    /// What a key means.
    pub(super) fn value(&self, key: Key) -> Result<SortValue> {
        let missing = || self.missing_value.clone().unwrap_or(SortValue::Null);
        if key & VALUE == 0 {
            return Ok(missing());
        }
        let low = u64::try_from(key & (VALUE - 1)).unwrap_or(0);
        let raw = if self.descending { !low } else { low };
        match &self.source {
            KeySource::Score | KeySource::Distance(..) => Ok(SortValue::F64(u64_to_f64(raw))),
            KeySource::Doc(_) => Ok(SortValue::I64(i64::try_from(raw).unwrap_or(i64::MAX))),
            KeySource::None => Ok(missing()),
            KeySource::Column(column, _) if column.storage().has_dictionary() => {
                // An even number is a place between two texts: that of the missing value.
                if raw % 2 == 0 { Ok(missing()) } else { column.decode(raw / 2) }
            }
            KeySource::Column(column, _) if column.storage() == Storage::Date => {
                Ok(date_value(u64_to_i64(raw)))
            }
            KeySource::Column(column, _) => Ok(decode(column.storage(), raw)),
        }
    }

    /// The key of a value that hits must come after, and where the value lies against that key.
    pub(super) fn limit(&self, value: &SortValue) -> Result<(Key, Ordering)> {
        if *value == SortValue::Null {
            let key = if self.missing & VALUE != 0 { MISSING_LAST } else { self.missing };
            return Ok((key, Ordering::Equal));
        }
        let unfit = || {
            Error::new(
                ErrorKind::InvalidArgument,
                format!("the search_after value [{value:?}] does not fit its sort"),
            )
        };
        let (raw, order) = match &self.source {
            KeySource::Score => (encode(Storage::F64, value).ok_or_else(unfit)?.0, Ordering::Equal),
            KeySource::Doc(_) => encode(Storage::U64, value).ok_or_else(unfit)?,
            KeySource::Distance(..) => {
                let none = matches!(value, SortValue::Text(text) if text == "Infinity");
                let value = if none { &SortValue::F64(f64::INFINITY) } else { value };
                (encode(Storage::F64, value).ok_or_else(unfit)?.0, Ordering::Equal)
            }
            KeySource::Column(column, _) => {
                let (key, order) = limit_key(Some(column), value, self.descending)?;
                return Ok((key, self.among_missing(column, key, value).unwrap_or(order)));
            }
            KeySource::None => return self.limit_without_values(value).ok_or_else(unfit),
        };
        Ok(directed(raw, order, self.descending))
    }

    /// Where a text lies against the missing value, if both lie between the same two of the column.
    fn among_missing(&self, column: &FieldColumn, key: Key, value: &SortValue) -> Option<Ordering> {
        let missing = self.missing_value.as_ref().filter(|_| key == self.missing)?;
        let storage = Some(column.storage()).filter(|storage| storage.has_dictionary())?;
        let order = text_of(storage, value)?.cmp(&text_of(storage, missing)?);
        Some(if self.descending { order.reverse() } else { order })
    }

    /// Where every document is missing, only the missing ones' place matters.
    fn limit_without_values(&self, value: &SortValue) -> Option<(Key, Ordering)> {
        let Some(missing) = &self.missing_value else { return Some((VALUE, Ordering::Equal)) };
        let order = match (value, missing) {
            // As a client has it from an earlier page.
            (SortValue::Text(text), SortValue::Ip(missing)) => ip::read(text)?.cmp(missing),
            _ => compare_values(value, missing),
        };
        Some((self.missing, if self.descending { order.reverse() } else { order }))
    }
}

fn limit_key(
    column: Option<&FieldColumn>,
    value: &SortValue,
    descending: bool,
) -> Result<(Key, Ordering)> {
    let Some(column) = column else { return Ok((VALUE, Ordering::Equal)) };
    let unfit = || {
        Error::new(
            ErrorKind::InvalidArgument,
            format!("the sort value [{value:?}] does not fit the field's type"),
        )
    };
    if column.storage().has_dictionary() {
        let raw = match column.ordinal(&text_of(column.storage(), value).ok_or_else(unfit)?)? {
            TermOrdHit::Exact(ordinal) => ordinal * 2 + 1,
            TermOrdHit::Next(ordinal) => ordinal * 2,
        };
        return Ok(directed(raw, Ordering::Equal, descending));
    }
    let encoded = match column.storage() {
        Storage::Date => encode_date(value),
        storage => encode(storage, value),
    };
    let (raw, order) = encoded.ok_or_else(unfit)?;
    Ok(directed(raw, order, descending))
}

/// The text that a value is in a column's dictionary.
fn text_of(storage: Storage, value: &SortValue) -> Option<Cow<'_, str>> {
    Some(match (storage, value) {
        (Storage::Ip, SortValue::Ip(address)) => ip::term(*address).into(),
        // As a client has it from an earlier page.
        (Storage::Ip, SortValue::Text(text)) => ip::term(ip::read(text)?).into(),
        (Storage::Text, SortValue::Text(text)) => text.into(),
        _ => return None,
    })
}

fn directed(raw: u64, order: Ordering, descending: bool) -> (Key, Ordering) {
    if descending {
        (VALUE | Key::from(!raw), order.reverse())
    } else {
        (VALUE | Key::from(raw), order)
    }
}

/// The value that counts of a document's several.
fn pick(column: &FieldColumn, mode: SortMode, doc: DocId) -> Option<u64> {
    if !column.is_multivalued() {
        return column.first_exact(doc);
    }
    match mode {
        SortMode::Min => column.exact_values(doc).min(),
        SortMode::Max => column.exact_values(doc).max(),
        SortMode::Sum | SortMode::Avg | SortMode::Median => combine(column, mode, doc),
    }
}

fn combine(column: &FieldColumn, mode: SortMode, doc: DocId) -> Option<u64> {
    let storage = column.storage();
    let mut values: Vec<u64> = column.exact_values(doc).collect();
    values.sort_unstable();
    let count = values.len();
    let middle = [values.get(count.checked_sub(1)? / 2)?, values.get(count / 2)?];
    if storage == Storage::F64 {
        let sum: f64 = values.iter().map(|raw| u64_to_f64(*raw)).sum();
        let combined = match mode {
            SortMode::Sum => sum,
            SortMode::Avg => sum / f64::from(u32::try_from(count).ok()?),
            _ => f64::midpoint(u64_to_f64(*middle[0]), u64_to_f64(*middle[1])),
        };
        return Some(f64_to_u64(combined));
    }
    let signed = matches!(storage, Storage::I64 | Storage::Date);
    let whole = |raw: u64| if signed { i128::from(u64_to_i64(raw)) } else { i128::from(raw) };
    let sum: i128 = values.iter().map(|raw| whole(*raw)).sum();
    let combined = match mode {
        SortMode::Sum => sum,
        SortMode::Avg => rounded(sum, i128::try_from(count).ok()?),
        _ => rounded(whole(*middle[0]) + whole(*middle[1]), 2),
    };
    if signed {
        let held = combined.clamp(i64::MIN.into(), i64::MAX.into());
        return i64::try_from(held).ok().map(i64_to_u64);
    }
    u64::try_from(combined.clamp(0, u64::MAX.into())).ok()
}

/// A quotient rounded to the nearest, halves upwards.
fn rounded(sum: i128, count: i128) -> i128 {
    (2 * sum + count).div_euclid(2 * count)
}
