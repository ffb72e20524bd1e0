//! From the best documents to hits: ids, sources, versions, values of columns.

use std::sync::Arc;

use bytes::Bytes;

use super::column::{FieldColumn, require_column};
use super::highlight::Highlighter;
use super::request::{SearchRequest, SortValue};
use super::response::Hit;
use super::sort_key::compare_values;
use super::source_filter::PreparedFilter;
use super::top::Candidate;
use crate::control;
use crate::error::{Error, ErrorKind, Result};
use crate::mapping::field::{FieldKind, FieldMapping};
use crate::query::QueryLimits;
use crate::query::matcher::Matcher;
use crate::snapshot::{Segment, Snapshot};

/// What a text or a list takes beside what is in it.
const TEXT_BYTES: usize = 24;

/// Reads what the request asks of each hit.
pub(super) fn fetch(
    snapshots: &[Arc<Snapshot>],
    request: &SearchRequest,
    candidates: Vec<Candidate>,
    limits: &QueryLimits,
) -> Result<Vec<Hit>> {
    let filter = PreparedFilter::new(&request.source);
    let mut highlighters: Vec<Option<Highlighter<'_>>> = snapshots.iter().map(|_| None).collect();
    let mut hits = Vec::with_capacity(candidates.len());
    for candidate in candidates {
        control::go_on()?;
        let address = candidate.address;
        let place = snapshots.get(address.snapshot).and_then(|snapshot| {
            Some((snapshot.as_ref(), snapshot.segments().get(address.segment)?))
        });
        let (snapshot, segment) = place
            .ok_or_else(|| Error::new(ErrorKind::Internal, format!("no segment at {address:?}")))?;
        let mut hit = hit(snapshot, segment, request, &filter, candidate)?;
        if let (Some(highlight), Some(slot)) =
            (&request.highlight, highlighters.get_mut(address.snapshot))
        {
            let highlighter = match slot.take() {
                Some(highlighter) => highlighter,
                None => Highlighter::new(snapshot, request, highlight, limits)?,
            };
            hit.highlight = highlighter.highlight(&segment.source(address.doc)?);
            *slot = Some(highlighter);
        }
        control::take(bytes_of(&hit))?;
        hits.push(hit);
    }
    Ok(hits)
}

/// About how many bytes a hit takes.
fn bytes_of(hit: &Hit) -> usize {
    let value = |value: &SortValue| match value {
        SortValue::Text(text) => text.len() + size_of::<SortValue>(),
        _ => size_of::<SortValue>(),
    };
    let fields = hit.fields.iter().map(|(name, values)| (name, values.iter().map(value).sum()));
    let fragments = |texts: &Vec<String>| texts.iter().map(|text| text.len() + TEXT_BYTES).sum();
    let fragments = hit.highlight.iter().map(|(name, texts)| (name, fragments(texts)));
    let named = fields.chain(fragments).map(|(name, bytes): (_, usize)| name.len() + bytes);
    size_of::<Hit>()
        + hit.index.len()
        + hit.id.len()
        + hit.source.as_ref().map_or(0, Bytes::len)
        + hit.sort.iter().map(value).sum::<usize>()
        + named.map(|bytes| bytes + 2 * TEXT_BYTES).sum::<usize>()
}

fn hit(
    snapshot: &Snapshot,
    segment: &Segment,
    request: &SearchRequest,
    filter: &PreparedFilter,
    candidate: Candidate,
) -> Result<Hit> {
    let doc = candidate.address.doc;
    let source = match filter {
        PreparedFilter::None => None,
        filter => filter.apply(&segment.source(doc)?)?,
    };
    let changed = if request.version || request.seq_no_primary_term {
        Some(segment.version(doc)?)
    } else {
        None
    };
    let mut fields = Vec::new();
    for name in &request.docvalue_fields {
        for mapping in fields_of(snapshot, name)? {
            let values = column_values(segment, mapping, doc)?;
            if !values.is_empty() {
                fields.push((mapping.path.clone(), values));
            }
        }
    }
    Ok(Hit {
        index: snapshot.index_name().to_owned(),
        id: segment.document_id(doc)?,
        score: candidate.score,
        source,
        sort: candidate.sort,
        fields,
        highlight: Vec::new(),
        version: changed.filter(|_| request.version).map(|changed| changed.version),
        seq_no: changed
            .filter(|_| request.seq_no_primary_term)
            .map(|changed| (changed.seq_no, changed.term)),
    })
}

/// The fields with columns that a name or pattern stands for. A name that has none is an error, a
/// pattern just leaves it out.
fn fields_of<'a>(snapshot: &'a Snapshot, name: &str) -> Result<Vec<&'a FieldMapping>> {
    if !name.contains('*') {
        let Some(mapping) = snapshot.mapping().field(name) else { return Ok(Vec::new()) };
        require_column(mapping, snapshot.index_name())?;
        return Ok(vec![mapping]);
    }
    let pattern = Matcher::wildcard(name, false);
    let fields = snapshot.mapping().fields().iter();
    Ok(fields.filter(|field| field.doc_values && pattern.matches(&field.path)).collect())
}

/// A document's values in a field's column, rising.
fn column_values(
    segment: &Segment,
    mapping: &FieldMapping,
    doc: tantivy::DocId,
) -> Result<Vec<SortValue>> {
    let Some(column) = FieldColumn::open(segment, mapping)? else {
        return Ok(Vec::new());
    };
    let values: Result<Vec<_>> = column.values(doc).map(|raw| column.decode(raw)).collect();
    let mut values = values?;
    values.sort_by(compare_values);
    if mapping.kind == FieldKind::Date {
        for value in &mut values {
            if let SortValue::I64(millis) = value {
                *value = SortValue::Text(mapping.format.print_millis(*millis));
            }
        }
    }
    Ok(values)
}
