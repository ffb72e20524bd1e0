//! `range`: an interval of numbers, dates, booleans or terms.

use std::net::Ipv6Addr;
use std::ops::Bound;

use jiff::tz::TimeZone;
use tantivy::query::RangeQuery;
use tantivy::schema::Field;
use tantivy::{Term, f64_to_u64, i64_to_u64};

use super::ast::{Range, Scalar};
use super::compile::{Compiled, Compiler, invalid};
use super::date_math::instant;
use super::term_level::Target;
use super::term_selection::{Selection, SpanSelection, TermSelection};
use super::value::{Number, address, boolean, number, text, whole_interval};
use crate::error::Result;
use crate::mapping::date::{DateFormat, MICROS, Reading};
use crate::mapping::field::{FieldKind, FieldMapping, Storage};
use crate::mapping::ip;
use crate::mapping::span::{Span, Spans};
use crate::mapping::value::shortened;

impl Compiler<'_> {
    pub(super) fn range(&self, clause: &Range, boost: f32) -> Result<Compiled> {
        let (field, mapping) = match self.target(&clause.field) {
            Target::Mapped(field, mapping) => (field, mapping),
            Target::Unmapped => return Ok(Compiled::nothing()),
            Target::Id(_) | Target::Index => {
                return Err(invalid(format!(
                    "Field [{0}] of type [{0}] does not support range queries",
                    clause.field
                )));
            }
        };
        if mapping.kind.storage() == Storage::Point {
            return Err(invalid(format!(
                "failed to create query: Field [{}] of type [{}] does not support range queries",
                clause.field,
                mapping.kind.name()
            )));
        }
        let of_dates = matches!(mapping.kind, FieldKind::Date | FieldKind::DateRange);
        if !of_dates && (clause.format.is_some() || clause.time_zone.is_some()) {
            let kind = mapping.kind.name();
            let option = if clause.format.is_some() { "format" } else { "time_zone" };
            return Err(invalid(format!(
                "Field [{}] of type [{kind}] does not support range queries with [{option}]",
                clause.field
            )));
        }
        if let Some(spans) = Spans::of(mapping) {
            let Some(span) = span(clause, mapping, &spans)? else {
                return Ok(Compiled::nothing());
            };
            let span = SpanSelection::new(&spans, span, clause.relation);
            return self.spans(field, mapping, vec![span], boost);
        }
        if clause.lower.is_none() && clause.upper.is_none() {
            return Ok(self.exists(&clause.field, boost));
        }
        let Some((lower, upper)) = bounds(clause, field, mapping)? else {
            return Ok(Compiled::nothing());
        };
        let compiled = self.between(field, mapping, lower, upper)?;
        Ok(self.constant(compiled, boost))
    }

    /// The documents with a value between two terms, read from the column where that is the only
    /// exact or the faster way.
    pub(super) fn between(
        &self,
        field: Field,
        mapping: &FieldMapping,
        lower: Bound<Term>,
        upper: Bound<Term>,
    ) -> Result<Compiled> {
        let storage = mapping.kind.storage();
        let by_terms =
            mapping.index && matches!(storage, Storage::Text | Storage::Ip | Storage::Bool);
        if mapping.doc_values && !by_terms {
            return Ok(self.constant_query(RangeQuery::new(lower, upper), 0.0));
        }
        if !mapping.index {
            return Err(not_searchable(mapping));
        }
        let bytes = |bound: Bound<Term>| bound.map(|term| term.serialized_value_bytes().to_owned());
        let selection = Selection::Within(bytes(lower), bytes(upper));
        Ok(self.constant_query(TermSelection { field, selection }, 0.0))
    }

    /// The documents with any of such ranges.
    pub(super) fn spans(
        &self,
        field: Field,
        mapping: &FieldMapping,
        spans: Vec<SpanSelection>,
        boost: f32,
    ) -> Result<Compiled> {
        if !mapping.index {
            return Err(not_searchable(mapping));
        }
        let selection = Selection::Spans(spans.into());
        Ok(self.constant_query(TermSelection { field, selection }, boost))
    }

    /// The documents with any of these addresses, or an address in any of these networks.
    pub(super) fn addresses(
        &self,
        field: Field,
        values: &[Scalar],
        boost: f32,
    ) -> Result<Compiled> {
        let mut intervals = Vec::with_capacity(values.len());
        for value in values {
            let (first, last) = network(value)?;
            intervals.push((ip::term(first).into_bytes(), ip::term(last).into_bytes()));
        }
        // Apart from one another, so that no term is read twice.
        intervals.sort_unstable();
        intervals.dedup_by(|(next_first, next_last), (_, last)| {
            let overlaps = next_first <= last;
            if overlaps && next_last > last {
                std::mem::swap(last, next_last);
            }
            overlaps
        });
        let selection = Selection::Intervals(intervals.into());
        Ok(self.constant_query(TermSelection { field, selection }, boost))
    }

    /// The documents with an address in a network.
    pub(super) fn network(
        &self,
        field: Field,
        mapping: &FieldMapping,
        value: &Scalar,
        boost: f32,
    ) -> Result<Compiled> {
        let (first, last) = network(value)?;
        let term = |address| Bound::Included(Term::from_field_text(field, &ip::term(address)));
        let compiled = self.between(field, mapping, term(first), term(last))?;
        Ok(self.constant(compiled, boost))
    }

    /// The documents with a date that a text means: an instant, a millisecond, or a whole day.
    pub(super) fn date(
        &self,
        field: Field,
        mapping: &FieldMapping,
        value: &Scalar,
        boost: f32,
    ) -> Result<Compiled> {
        let format = &mapping.format;
        let text = text(value);
        let lower = instant(&text, format, &Reading::default())?;
        let up = Reading { round_up: true, by_milli: true, ..Reading::default() };
        let upper = instant(&text, format, &up)?;
        let Some((lower, upper)) = date_terms(field, lower, upper) else {
            return Ok(Compiled::nothing());
        };
        let compiled = self.between(field, mapping, lower, upper)?;
        Ok(self.constant(compiled, boost))
    }
}

/// The first and the last address of a network, or of a single one.
fn network(value: &Scalar) -> Result<(Ipv6Addr, Ipv6Addr)> {
    let text = text(value);
    if !text.contains('/') {
        return address(value).map(|address| (address, address));
    }
    ip::read_network(&text).ok_or_else(|| {
        let text = shortened(&text);
        invalid(format!("failed to create query: '{text}' is not an IP network."))
    })
}

/// A field that has neither terms nor a column to answer from.
pub(super) fn not_searchable(mapping: &FieldMapping) -> crate::error::Error {
    let also = if mapping.kind.storage() == Storage::Text { "" } else { " nor has doc values" };
    invalid(format!(
        "failed to create query: Cannot search on field [{}] since it is not indexed{also}.",
        mapping.path
    ))
}

type Bounds = (Bound<Term>, Bound<Term>);

/// The interval in terms of the field; `None` if it is empty.
fn bounds(clause: &Range, field: Field, mapping: &FieldMapping) -> Result<Option<Bounds>> {
    match mapping.kind.storage() {
        Storage::Text => {
            let term = |scalar: &Scalar| Ok(Term::from_field_text(field, &text(scalar)));
            Ok(Some((bound(clause.lower.as_ref(), term)?, bound(clause.upper.as_ref(), term)?)))
        }
        Storage::Ip => {
            let term =
                |scalar: &Scalar| Ok(Term::from_field_text(field, &ip::term(address(scalar)?)));
            Ok(Some((bound(clause.lower.as_ref(), term)?, bound(clause.upper.as_ref(), term)?)))
        }
        Storage::Bool => {
            let term = |scalar: &Scalar| Ok(Term::from_field_bool(field, boolean(scalar)?));
            Ok(Some((bound(clause.lower.as_ref(), term)?, bound(clause.upper.as_ref(), term)?)))
        }
        Storage::F64 => {
            let term = |scalar: &Scalar| Ok(Term::from_field_f64(field, number(scalar)?.to_f64()));
            Ok(Some((bound(clause.lower.as_ref(), term)?, bound(clause.upper.as_ref(), term)?)))
        }
        Storage::I64 => {
            let interval = interval(clause, i64::MIN.into(), i64::MAX.into())?;
            Ok(included(interval, |value| {
                i64::try_from(value).ok().map(|value| Term::from_field_i64(field, value))
            }))
        }
        Storage::U64 => {
            let interval = interval(clause, 0, u64::MAX.into())?;
            Ok(included(interval, |value| {
                u64::try_from(value).ok().map(|value| Term::from_field_u64(field, value))
            }))
        }
        Storage::Date => date_bounds(clause, field, mapping),
        Storage::Point | Storage::Span => Ok(None),
    }
}

fn bound(
    end: Option<&(Scalar, bool)>,
    term: impl Fn(&Scalar) -> Result<Term>,
) -> Result<Bound<Term>> {
    Ok(match end {
        None => Bound::Unbounded,
        Some((scalar, true)) => Bound::Included(term(scalar)?),
        Some((scalar, false)) => Bound::Excluded(term(scalar)?),
    })
}

/// The values of a query's range, as those of a field of ranges; `None` if it is empty.
fn span(clause: &Range, mapping: &FieldMapping, spans: &Spans) -> Result<Option<Span>> {
    let whole = |(lower, upper): (i128, i128)| {
        let key = |value: i128| i64::try_from(value).ok().map(|value| i64_to_u64(value).into());
        Some(Span { first: key(lower)?, last: key(upper)? })
    };
    match mapping.kind {
        FieldKind::IntegerRange => {
            Ok(interval(clause, i32::MIN.into(), i32::MAX.into())?.and_then(whole))
        }
        FieldKind::LongRange => {
            Ok(interval(clause, i64::MIN.into(), i64::MAX.into())?.and_then(whole))
        }
        FieldKind::DateRange => {
            let (lower, upper) = date_interval(clause, mapping)?;
            let (least, greatest) = ((*MICROS.start()).into(), (*MICROS.end()).into());
            let held = (lower.max(least), upper.min(greatest));
            Ok((held.0 <= held.1).then_some(held).and_then(whole))
        }
        _ => {
            let end = |end: &Option<(Scalar, bool)>| -> Result<Option<(u128, bool)>> {
                let Some((scalar, included)) = end else { return Ok(None) };
                let key = if mapping.kind == FieldKind::IpRange {
                    address(scalar)?.into()
                } else {
                    f64_to_u64(number(scalar)?.to_f64() + 0.0).into()
                };
                Ok(Some((key, *included)))
            };
            let all = spans.all();
            let first = match end(&clause.lower)? {
                None => Some(all.first),
                Some((key, true)) => Some(key),
                Some((key, false)) => key.checked_add(1),
            };
            let last = match end(&clause.upper)? {
                None => Some(all.last),
                Some((key, true)) => Some(key),
                Some((key, false)) => key.checked_sub(1),
            };
            let both = first.zip(last).filter(|(first, last)| first <= last);
            Ok(both.map(|(first, last)| Span { first, last }))
        }
    }
}

fn interval(clause: &Range, least: i128, greatest: i128) -> Result<Option<(i128, i128)>> {
    let end = |end: &Option<(Scalar, bool)>| -> Result<Option<(Number, bool)>> {
        end.as_ref().map(|(scalar, included)| Ok((number(scalar)?, *included))).transpose()
    };
    Ok(whole_interval(end(&clause.lower)?, end(&clause.upper)?, least, greatest))
}

fn included(interval: Option<(i128, i128)>, term: impl Fn(i128) -> Option<Term>) -> Option<Bounds> {
    let (lower, upper) = interval?;
    Some((Bound::Included(term(lower)?), Bound::Included(term(upper)?)))
}

fn date_bounds(clause: &Range, field: Field, mapping: &FieldMapping) -> Result<Option<Bounds>> {
    let (lower, upper) = date_interval(clause, mapping)?;
    Ok(date_terms(field, lower, upper))
}

/// An end that is included takes in the whole of what its text means; one that is not, none of it.
fn date_interval(clause: &Range, mapping: &FieldMapping) -> Result<(i128, i128)> {
    let format = match &clause.format {
        None => mapping.format.clone(),
        Some(text) => text.parse::<DateFormat>().map_err(|error| {
            invalid(format!("Invalid format: [{text}]: {error}")).with_source(error)
        })?,
    };
    let zone = clause.time_zone.as_deref().map(time_zone).transpose()?;
    let end = |end: &Option<(Scalar, bool)>, round_up: bool| -> Result<Option<i128>> {
        let reading = Reading { zone: zone.clone(), round_up, by_milli: false };
        end.as_ref().map(|(scalar, _)| instant(&text(scalar), &format, &reading)).transpose()
    };
    let above = matches!(clause.lower, Some((_, false)));
    let below = matches!(clause.upper, Some((_, false)));
    let least = i128::from(*MICROS.start());
    let lower = end(&clause.lower, above)?.map_or(least, |lower| lower + i128::from(above));
    let greatest = i128::from(*MICROS.end());
    let upper = end(&clause.upper, !below)?.map_or(greatest, |upper| upper - i128::from(below));
    Ok((lower, upper))
}

fn date_terms(field: Field, lower: i128, upper: i128) -> Option<Bounds> {
    let (least, greatest) = ((*MICROS.start()).into(), (*MICROS.end()).into());
    let interval = (lower.max(least), upper.min(greatest));
    included((interval.0 <= interval.1).then_some(interval), |micros| {
        i64::try_from(micros).ok().map(|micros| Term::from_field_i64(field, micros))
    })
}

/// `+01:00`, `Z` or an IANA name.
pub(crate) fn time_zone(text: &str) -> Result<TimeZone> {
    let unknown = || invalid(format!("Unknown time-zone ID: {text}"));
    if text == "Z" {
        return Ok(TimeZone::UTC);
    }
    let (sign, digits) = match text.as_bytes().first() {
        Some(b'+') => (1, text.get(1..).ok_or_else(unknown)?),
        Some(b'-') => (-1, text.get(1..).ok_or_else(unknown)?),
        _ => return TimeZone::get(text).map_err(|_| unknown()),
    };
    let (hours, minutes) = match digits.split_once(':') {
        Some(parts) => parts,
        None if digits.len() == 4 => digits.split_at_checked(2).ok_or_else(unknown)?,
        None => (digits, "0"),
    };
    let part = |text: &str, most: i32| {
        let value = text.parse::<i32>().ok().filter(|value| (0..=most).contains(value));
        value.ok_or_else(unknown)
    };
    let seconds = sign * (part(hours, 18)? * 3600 + part(minutes, 59)? * 60);
    Ok(TimeZone::fixed(jiff::tz::Offset::from_seconds(seconds).map_err(|_| unknown())?))
}
