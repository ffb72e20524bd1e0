//! A field's column in one segment: its values as order-preserving integers, and what they mean.
//!
//! Columns of dates count microseconds, and so hits are sorted by them. Everywhere else dates count
//! in whole milliseconds, as in Elasticsearch.

use std::cmp::Ordering;
use std::net::Ipv6Addr;

use tantivy::columnar::{Cardinality, Column, ColumnType, StrColumn, TermOrdHit};
use tantivy::{DocId, f64_to_u64, i64_to_u64, u64_to_f64, u64_to_i64};

use super::request::SortValue;
use crate::error::{Error, ErrorKind, Result};
use crate::mapping::date::{DateFormat, Reading};
use crate::mapping::field::{FieldMapping, Storage};
use crate::mapping::geo::Point;
use crate::mapping::ip;
use crate::query::ast::Scalar;
use crate::snapshot::Segment;

/// The column of a field in one segment.
pub(super) struct FieldColumn {
    storage: Storage,
    column: Column<u64>,
    texts: Option<StrColumn>,
    multivalued: bool,
}

impl FieldColumn {
    /// Opens a field's column; `None` if no document of the segment has a value.
    pub(super) fn open(segment: &Segment, mapping: &FieldMapping) -> Result<Option<Self>> {
        let storage = mapping.kind.storage();
        let kind = match storage {
            Storage::Text | Storage::Ip | Storage::Span => ColumnType::Str,
            Storage::U64 | Storage::Point => ColumnType::U64,
            Storage::F64 => ColumnType::F64,
            Storage::Bool => ColumnType::Bool,
            Storage::I64 | Storage::Date => ColumnType::I64,
        };
        let Some((column, texts)) = segment.column(&mapping.path, kind)? else { return Ok(None) };
        let multivalued = column.get_cardinality() == Cardinality::Multivalued;
        Ok(Some(Self { storage, column, texts, multivalued }))
    }

    /// How the field's values lie.
    pub(super) fn storage(&self) -> Storage {
        self.storage
    }

    /// Whether some document has several values.
    pub(super) fn is_multivalued(&self) -> bool {
        self.multivalued
    }

    /// A document's values, in the order of the document.
    pub(super) fn values(&self, doc: DocId) -> impl Iterator<Item = u64> + '_ {
        self.column.values_for_doc(doc).map(|raw| self.whole_millis(raw))
    }

    /// A document's first value, its only one where the column is not multivalued; dates in
    /// microseconds.
    pub(super) fn first_exact(&self, doc: DocId) -> Option<u64> {
        self.column.first(doc)
    }

    /// The first value of each of the rising documents, as [`Self::first_exact`] has it.
    pub(super) fn first_values(&self, docs: &[DocId], into: &mut Vec<Option<u64>>) {
        into.clear();
        into.resize(docs.len(), None);
        self.column.first_vals(docs, into);
    }

    /// The least and the greatest value, dates in microseconds.
    pub(super) fn range(&self) -> (u64, u64) {
        (self.column.min_value(), self.column.max_value())
    }

    /// As [`Self::values`], dates in microseconds.
    pub(super) fn exact_values(&self, doc: DocId) -> impl Iterator<Item = u64> + '_ {
        self.column.values_for_doc(doc)
    }

    /// Whether a document has a value.
    pub(super) fn has_value(&self, doc: DocId) -> bool {
        self.column.index.has_value(doc)
    }

    /// How many different texts there are.
    pub(super) fn text_count(&self) -> usize {
        self.texts.as_ref().map_or(0, |texts| texts.dictionary().num_terms())
    }

    /// The texts of rising ordinals, in their order.
    pub(super) fn texts(&self, ordinals: &[u64], mut visit: impl FnMut(&str)) -> Result<()> {
        let Some(texts) = &self.texts else { return Ok(()) };
        let mut broken = false;
        let found =
            texts.dictionary().sorted_ords_to_term_cb(
                ordinals,
                |bytes| match std::str::from_utf8(bytes) {
                    Ok(text) => visit(text),
                    Err(_) => broken = true,
                },
            )?;
        if broken || !found {
            return Err(Error::new(ErrorKind::Corrupt, "a column's dictionary is damaged"));
        }
        Ok(())
    }

    /// What a value means.
    pub(super) fn decode(&self, raw: u64) -> Result<SortValue> {
        let Some(texts) = &self.texts else { return Ok(decode(self.storage, raw)) };
        let mut text = String::new();
        if texts.ord_to_str(raw, &mut text)? {
            return match self.storage {
                Storage::Ip => read_term(&text).map(SortValue::Ip),
                _ => Ok(SortValue::Text(text)),
            };
        }
        Err(Error::new(ErrorKind::Corrupt, format!("a column's dictionary lacks ordinal {raw}")))
    }

    /// Where a text, or an address's term, is among this segment's.
    pub(super) fn ordinal(&self, text: &str) -> Result<TermOrdHit> {
        let Some(texts) = &self.texts else { return Ok(TermOrdHit::Next(0)) };
        let count = texts.dictionary().num_terms() as u64;
        Ok(match texts.dictionary().term_ord_or_next(text)? {
            TermOrdHit::Next(next) => TermOrdHit::Next(next.min(count)),
            exact @ TermOrdHit::Exact(_) => exact,
        })
    }

    fn whole_millis(&self, raw: u64) -> u64 {
        if self.storage == Storage::Date {
            return i64_to_u64(u64_to_i64(raw).div_euclid(1000));
        }
        raw
    }
}

/// The address that a text of a column's dictionary stands for.
pub(super) fn read_term(text: &str) -> Result<Ipv6Addr> {
    let damaged =
        || Error::new(ErrorKind::Corrupt, format!("a column has [{text}] for an address"));
    ip::of_term(text).ok_or_else(damaged)
}

/// What a number's bits mean; dates in milliseconds.
pub(super) fn decode(storage: Storage, raw: u64) -> SortValue {
    match storage {
        Storage::I64 | Storage::Date => SortValue::I64(u64_to_i64(raw)),
        Storage::U64 | Storage::Text | Storage::Ip | Storage::Span => SortValue::U64(raw),
        Storage::Point => SortValue::Point(Point::of_bits(raw)),
        Storage::F64 => SortValue::F64(u64_to_f64(raw)),
        Storage::Bool => SortValue::Bool(raw > 0),
    }
}

/// A date in microseconds as the value that hits are sorted by.
pub(super) fn date_value(micros: i64) -> SortValue {
    if micros.rem_euclid(1000) == 0 {
        SortValue::I64(micros.div_euclid(1000))
    } else {
        SortValue::Micros(micros)
    }
}

/// A number's bits in double precision.
#[expect(clippy::cast_precision_loss, reason = "metrics are doubles, as in Elasticsearch")]
pub(super) fn to_f64(storage: Storage, raw: u64) -> f64 {
    match storage {
        Storage::I64 | Storage::Date => u64_to_i64(raw) as f64,
        Storage::U64
        | Storage::Text
        | Storage::Ip
        | Storage::Point
        | Storage::Span
        | Storage::Bool => raw as f64,
        Storage::F64 => u64_to_f64(raw),
    }
}

/// The bits of a value in a numeric column, and how the value compares with them where it lies
/// between two that the column can hold. Past either end it is the end.
#[expect(clippy::cast_possible_truncation, reason = "casts of floats saturate")]
#[expect(clippy::cast_precision_loss, reason = "what does not fit compares unequal")]
pub(super) fn encode(storage: Storage, value: &SortValue) -> Option<(u64, Ordering)> {
    let whole = |value: i128, least: i128, greatest: i128| {
        let held = value.clamp(least, greatest);
        (held, value.cmp(&held))
    };
    let number = match value {
        SortValue::Null | SortValue::Text(_) | SortValue::Ip(_) | SortValue::Point(_) => {
            return None;
        }
        SortValue::Bool(value) => i128::from(*value),
        SortValue::I64(value) => i128::from(*value),
        SortValue::U64(value) => i128::from(*value),
        SortValue::Micros(micros) => {
            let millis = i128::from(micros.div_euclid(1000));
            return encode_whole(storage, millis, whole)
                .map(|(raw, order)| (raw, order.then(Ordering::Greater)));
        }
        SortValue::F64(value) => {
            if storage == Storage::F64 {
                return Some((f64_to_u64(*value), Ordering::Equal));
            }
            let floor = value.floor();
            let (raw, order) = encode_whole(storage, floor as i128, whole)?;
            let between = if value.fract() == 0.0 { Ordering::Equal } else { Ordering::Greater };
            return Some((raw, order.then(between)));
        }
    };
    if storage == Storage::F64 {
        return Some((f64_to_u64(number as f64), Ordering::Equal));
    }
    encode_whole(storage, number, whole)
}

/// The bits of a value in a column of dates, exact to the microsecond, as [`encode`] has them. A
/// text is a date in the default format.
#[expect(clippy::cast_possible_truncation, reason = "casts of floats saturate")]
pub(super) fn encode_date(value: &SortValue) -> Option<(u64, Ordering)> {
    let micros = match value {
        SortValue::Null | SortValue::Ip(_) | SortValue::Point(_) => return None,
        SortValue::Bool(value) => i128::from(*value) * 1000,
        SortValue::I64(value) => i128::from(*value) * 1000,
        SortValue::U64(value) => i128::from(*value) * 1000,
        SortValue::Micros(micros) => i128::from(*micros),
        // A double that was printed with three decimals is that many microseconds.
        SortValue::F64(value) => (value * 1000.0).round() as i128,
        SortValue::Text(text) => DateFormat::default().read(text, &Reading::default())?,
    };
    let held = micros.clamp(i64::MIN.into(), i64::MAX.into());
    Some((i64_to_u64(i64::try_from(held).ok()?), micros.cmp(&held)))
}

fn encode_whole(
    storage: Storage,
    number: i128,
    clamp: impl Fn(i128, i128, i128) -> (i128, Ordering),
) -> Option<(u64, Ordering)> {
    let (least, greatest) = match storage {
        Storage::I64 | Storage::Date => (i64::MIN.into(), i64::MAX.into()),
        Storage::U64 => (0, u64::MAX.into()),
        Storage::Bool => (0, 1),
        Storage::F64 | Storage::Text | Storage::Ip | Storage::Point | Storage::Span => return None,
    };
    let (held, order) = clamp(number, least, greatest);
    let raw = if matches!(storage, Storage::I64 | Storage::Date) {
        i64_to_u64(i64::try_from(held).ok()?)
    } else {
        u64::try_from(held).ok()?
    };
    Some((raw, order))
}

/// A query's scalar as a value of a field; dates by the field's format.
pub(super) fn scalar_value(mapping: &FieldMapping, scalar: &Scalar) -> Result<SortValue> {
    let unfit = || {
        Error::new(
            ErrorKind::InvalidArgument,
            format!(
                "failed to parse [{scalar:?}] as [{}] for field [{}]",
                mapping.kind.name(),
                mapping.path
            ),
        )
    };
    let text = |scalar: &Scalar| match scalar {
        Scalar::Text(text) => text.clone(),
        Scalar::Bool(value) => value.to_string(),
        Scalar::I64(value) => value.to_string(),
        Scalar::U64(value) => value.to_string(),
        Scalar::F64(value) => value.to_string(),
    };
    match mapping.kind.storage() {
        Storage::Text => Ok(SortValue::Text(text(scalar))),
        Storage::Ip => ip::read(&text(scalar)).map(SortValue::Ip).ok_or_else(unfit),
        Storage::Point | Storage::Span => Err(unfit()),
        Storage::Date => {
            let micros = mapping.format.parse(&text(scalar)).ok_or_else(unfit)?;
            Ok(date_value(micros))
        }
        Storage::Bool => match scalar {
            Scalar::Bool(value) => Ok(SortValue::Bool(*value)),
            Scalar::I64(value @ (0 | 1)) => Ok(SortValue::Bool(*value == 1)),
            Scalar::Text(text) => text.parse().map(SortValue::Bool).map_err(|_| unfit()),
            _ => Err(unfit()),
        },
        Storage::I64 | Storage::U64 | Storage::F64 => match scalar {
            Scalar::I64(value) => Ok(SortValue::I64(*value)),
            Scalar::U64(value) => Ok(SortValue::U64(*value)),
            Scalar::F64(value) => Ok(SortValue::F64(*value)),
            Scalar::Bool(_) => Err(unfit()),
            Scalar::Text(text) => {
                if let Ok(value) = text.parse() {
                    return Ok(SortValue::I64(value));
                }
                text.parse().map(SortValue::F64).map_err(|_| unfit())
            }
        },
    }
}

/// Refuses a field that has no column.
pub(super) fn require_column(mapping: &FieldMapping, index: &str) -> Result<()> {
    if mapping.doc_values {
        return Ok(());
    }
    let path = &mapping.path;
    let message = if mapping.kind == crate::mapping::field::FieldKind::Text {
        format!(
            "Fielddata is disabled on [{path}] in [{index}]. Text fields are not optimised for \
             operations that require per-document field data like aggregations and sorting, so \
             these operations are disabled by default. Please use a keyword field instead."
        )
    } else {
        format!(
            "Can't load fielddata on [{path}] because fielddata is unsupported on fields of type \
             [{}]. Use doc values instead.",
            mapping.kind.name()
        )
    };
    Err(Error::new(ErrorKind::InvalidArgument, message).with_index(index))
}
