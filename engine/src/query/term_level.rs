//! Clauses on exact terms: `term`, `terms`, `ids`, `exists`, `prefix`, `wildcard`.

use std::sync::Arc;

use tantivy::Term;
use tantivy::query::{ExistsQuery, TermQuery};
use tantivy::schema::{Field, IndexRecordOption};

use super::ast::{Relation, Scalar};
use super::compile::{Compiled, Compiler, as_f32, invalid, union};
use super::exists::HasNorm;
use super::matcher::Matcher;
use super::range::not_searchable;
use super::scored_term::{ScoredTerm, TermStatistics};
use super::term_selection::{Selection, SpanSelection, TermSelection};
use super::value::{exact_term, text};
use crate::error::Result;
use crate::mapping::field::{FieldKind, FieldMapping, Storage};
use crate::mapping::schema::{self, ID};
use crate::mapping::span::Spans;
use crate::mapping::value::Raw;
use crate::query::compile::Shape;

/// What a clause's field is.
pub(super) enum Target<'a> {
    /// A document's id.
    Id(Field),
    /// The index's name, the same for all documents.
    Index,
    /// A field of the mapping.
    Mapped(Field, &'a FieldMapping),
    /// No field of this index.
    Unmapped,
}

impl<'a> Compiler<'a> {
    pub(super) fn target(&self, path: &str) -> Target<'a> {
        if path == "_index" {
            return Target::Index;
        }
        if path == ID {
            let field = self.snapshot.schema().get_field(ID);
            return field.map_or(Target::Unmapped, Target::Id);
        }
        match self.snapshot.field(path) {
            Some((field, mapping)) => Target::Mapped(field, mapping),
            None => Target::Unmapped,
        }
    }

    pub(super) fn term(
        &self,
        path: &str,
        value: &Scalar,
        case_insensitive: bool,
        boost: f32,
    ) -> Result<Compiled> {
        let matcher = || Matcher::Exact { term: text(value), case_insensitive: true };
        match self.target(path) {
            Target::Unmapped => Ok(Compiled::nothing()),
            Target::Index => {
                Ok(self.index_name(&Matcher::Exact { term: text(value), case_insensitive }, boost))
            }
            Target::Id(field) => Ok(self.one_id(field, &text(value), boost)),
            Target::Mapped(field, mapping) => {
                if case_insensitive && mapping.kind.storage() == Storage::Text {
                    return self.matching(field, mapping, matcher(), boost);
                }
                self.exact(field, mapping, value, boost)
            }
        }
    }

    /// The documents with an exact value in a field of any type.
    pub(super) fn exact(
        &self,
        field: Field,
        mapping: &FieldMapping,
        value: &Scalar,
        boost: f32,
    ) -> Result<Compiled> {
        if mapping.kind.storage() == Storage::Date {
            return self.date(field, mapping, value, boost);
        }
        if mapping.kind == FieldKind::Ip && text(value).contains('/') {
            return self.network(field, mapping, value, boost);
        }
        if let Some(spans) = Spans::of(mapping) {
            let span = intersecting(&spans, value)?;
            return self.spans(field, mapping, vec![span], boost);
        }
        let Some(term) = exact_term(field, mapping, value)? else {
            return Ok(Compiled::nothing());
        };
        if !mapping.index {
            if mapping.doc_values && mapping.kind.storage() != Storage::Bool {
                let bound = || std::ops::Bound::Included(term.clone());
                let compiled = self.between(field, mapping, bound(), bound())?;
                return Ok(self.constant(compiled, boost));
            }
            return Err(not_searchable(mapping));
        }
        match mapping.kind.storage() {
            Storage::Text => {
                let term = self.snapshot.text_term(field, &text(value));
                self.scored_term(field, mapping, term, boost)
            }
            // Numbers and addresses are points in Elasticsearch, which are not scored.
            Storage::I64
            | Storage::U64
            | Storage::F64
            | Storage::Ip
            | Storage::Point
            | Storage::Span => {
                let query = TermQuery::new(term, IndexRecordOption::Basic);
                Ok(self.constant_query(query, boost))
            }
            Storage::Bool | Storage::Date => self.scored_term(field, mapping, term, boost),
        }
    }

    /// The documents with a term, scored by BM25.
    pub(super) fn scored_term(
        &self,
        field: Field,
        mapping: &FieldMapping,
        term: Term,
        boost: f32,
    ) -> Result<Compiled> {
        let doc_freq = self.snapshot.doc_freq(&term)?;
        self.scored_term_as(field, mapping, (term, doc_freq), doc_freq, boost)
    }

    /// As [`Self::scored_term`] for a term that so many documents have, scored as if it were as
    /// frequent as `doc_freq` says.
    pub(super) fn scored_term_as(
        &self,
        field: Field,
        mapping: &FieldMapping,
        (term, at_least): (Term, u64),
        doc_freq: u64,
        boost: f32,
    ) -> Result<Compiled> {
        self.count_clauses(1)?;
        if at_least == 0 {
            return Ok(Compiled::nothing());
        }
        let basic = |term| TermQuery::new(term, IndexRecordOption::Basic);
        if !self.scored {
            let shape = Shape::Terms { slack: 1.0, at_least, single: true, all: false };
            return Ok(Compiled { query: Box::new(basic(term)), shape });
        }
        let scale = self.scale(field)?;
        let statistics = TermStatistics {
            doc_count: scale.statistics.doc_count.max(doc_freq),
            token_count: scale.statistics.token_count,
            doc_freq,
        };
        if mapping.kind != FieldKind::Text {
            // Without frequencies and lengths the score is the same for all documents.
            return Ok(self.constant_query(basic(term), statistics.plain_score() * boost));
        }
        let shape = Shape::Terms { slack: scale.slack, at_least, single: true, all: false };
        Ok(Compiled { query: Box::new(ScoredTerm { term, statistics, boost }), shape })
    }

    pub(super) fn terms(&self, path: &str, values: &[Scalar], boost: f32) -> Result<Compiled> {
        let limit = self.limits.max_terms_count;
        if values.len() > limit {
            return Err(invalid(format!(
                "failed to create query: The number of terms [{}] used in the Terms Query request \
                 has exceeded the allowed maximum of [{limit}]. This maximum can be set by \
                 changing the [index.max_terms_count] index level setting.",
                values.len()
            )));
        }
        match self.target(path) {
            Target::Unmapped => Ok(Compiled::nothing()),
            Target::Index => {
                let name = self.snapshot.index_name();
                let named = values.iter().any(|value| text(value) == name);
                Ok(if named { self.everything(boost) } else { Compiled::nothing() })
            }
            Target::Id(field) => {
                let ids: Vec<String> = values.iter().map(text).collect();
                Ok(self.id_terms(field, &ids, boost))
            }
            Target::Mapped(field, mapping) => self.any_of(field, mapping, values, boost),
        }
    }

    fn any_of(
        &self,
        field: Field,
        mapping: &FieldMapping,
        values: &[Scalar],
        boost: f32,
    ) -> Result<Compiled> {
        if mapping.kind == FieldKind::Ip && mapping.index {
            return self.addresses(field, values, boost);
        }
        if let Some(spans) = Spans::of(mapping) {
            let spans: Result<Vec<_>> =
                values.iter().map(|value| intersecting(&spans, value)).collect();
            return self.spans(field, mapping, spans?, boost);
        }
        if mapping.kind.storage() == Storage::Date || !mapping.index {
            let queries: Result<Vec<_>> =
                values.iter().map(|value| self.exact(field, mapping, value, 0.0)).collect();
            let union = union(queries?);
            return Ok(self.constant(union, boost));
        }
        let mut terms = Vec::with_capacity(values.len());
        for value in values {
            terms.extend(match mapping.kind.storage() {
                Storage::Text => Some(self.snapshot.text_term(field, &text(value))),
                _ => exact_term(field, mapping, value)?,
            });
        }
        Ok(self.list(field, terms, boost))
    }

    /// The documents with any of the terms, scored alike.
    pub(super) fn list(&self, field: Field, mut terms: Vec<Term>, boost: f32) -> Compiled {
        if terms.len() < 2 {
            return match terms.pop() {
                None => Compiled::nothing(),
                Some(term) => {
                    self.constant_query(TermQuery::new(term, IndexRecordOption::Basic), boost)
                }
            };
        }
        let mut bytes: Vec<_> =
            terms.iter().map(|term| term.serialized_value_bytes().to_owned()).collect();
        bytes.sort_unstable();
        bytes.dedup();
        let selection = Selection::List(bytes.into());
        self.constant_query(TermSelection { field, selection }, boost)
    }

    pub(super) fn ids(&self, values: &[String], boost: f32) -> Result<Compiled> {
        let field = self.snapshot.schema().get_field(ID)?;
        Ok(self.id_terms(field, values, boost))
    }

    fn one_id(&self, field: Field, id: &str, boost: f32) -> Compiled {
        self.id_terms(field, &[id.to_owned()], boost)
    }

    fn id_terms(&self, field: Field, ids: &[String], boost: f32) -> Compiled {
        self.list(field, ids.iter().map(|id| Term::from_field_text(field, id)).collect(), boost)
    }

    fn index_name(&self, matcher: &Matcher, boost: f32) -> Compiled {
        if matcher.matches(self.snapshot.index_name()) {
            self.everything(boost)
        } else {
            Compiled::nothing()
        }
    }

    pub(super) fn exists(&self, path: &str, boost: f32) -> Compiled {
        let compiled = match self.target(path) {
            Target::Id(_) | Target::Index => return self.everything(boost),
            Target::Mapped(field, mapping) => self.has_value(field, mapping),
            Target::Unmapped => {
                let mapping = self.snapshot.mapping();
                let below = mapping.fields_below(path).filter(|_| mapping.has_object(path));
                let fields = below.filter_map(|mapping| self.snapshot.field(&mapping.path));
                let queries = fields.map(|(field, mapping)| self.has_value(field, mapping));
                union(queries.collect())
            }
        };
        self.constant(compiled, boost)
    }

    fn has_value(&self, field: Field, mapping: &FieldMapping) -> Compiled {
        if mapping.doc_values {
            return self.constant_query(ExistsQuery::new(mapping.path.clone(), false), 0.0);
        }
        if schema::has_norms(mapping) {
            return self.constant_query(HasNorm { field }, 0.0);
        }
        if !mapping.index {
            return Compiled::nothing();
        }
        let selection = Selection::Within(std::ops::Bound::Unbounded, std::ops::Bound::Unbounded);
        self.constant_query(TermSelection { field, selection }, 0.0)
    }

    pub(super) fn prefix(
        &self,
        path: &str,
        value: &str,
        case_insensitive: bool,
        boost: f32,
    ) -> Result<Compiled> {
        let matcher = Matcher::Prefix { prefix: value.to_owned(), case_insensitive };
        self.pattern(path, value, matcher, "prefix", boost)
    }

    pub(super) fn wildcard(
        &self,
        path: &str,
        value: &str,
        case_insensitive: bool,
        boost: f32,
    ) -> Result<Compiled> {
        let matcher = Matcher::wildcard(value, case_insensitive);
        self.pattern(path, value, matcher, "wildcard", boost)
    }

    fn pattern(
        &self,
        path: &str,
        value: &str,
        matcher: Matcher,
        clause: &str,
        boost: f32,
    ) -> Result<Compiled> {
        let limit = self.limits.max_pattern_length;
        if value.chars().nth(limit).is_some() {
            return Err(invalid(format!(
                "failed to create query: the pattern of [{clause}] on [{path}] is longer than \
                 [{limit}] characters [index.max_regex_length]"
            )));
        }
        let kind = match self.target(path) {
            Target::Unmapped => return Ok(Compiled::nothing()),
            Target::Index => return Ok(self.index_name(&matcher, boost)),
            Target::Mapped(field, mapping) if mapping.kind.storage() == Storage::Text => {
                return self.matching(field, mapping, matcher, boost);
            }
            Target::Mapped(_, mapping) => mapping.kind.name(),
            Target::Id(_) => ID,
        };
        Err(invalid(format!(
            "failed to create query: Can only use {clause} queries on keyword, text and wildcard \
             fields - not on [{path}] which is of type [{kind}]"
        )))
    }

    /// The documents with any term that fits, scored alike.
    pub(super) fn matching(
        &self,
        field: Field,
        mapping: &FieldMapping,
        matcher: Matcher,
        boost: f32,
    ) -> Result<Compiled> {
        if !mapping.index {
            return Err(not_searchable(mapping));
        }
        let selection = Selection::Matching(Arc::new(matcher));
        Ok(self.constant_query(TermSelection { field, selection }, boost))
    }
}

/// The ranges that have a value.
fn intersecting(spans: &Spans, value: &Scalar) -> Result<SpanSelection> {
    let text = text(value);
    let raw = if matches!(value, Scalar::Text(_)) { Raw::Text(&text) } else { Raw::Number(&text) };
    let span = spans.value(raw);
    let span = span.map_err(|reason| invalid(format!("failed to create query: {reason}")))?;
    Ok(SpanSelection::new(spans, span, Relation::Intersects))
}

impl TermStatistics {
    /// The score of a term that occurs once in a field whose lengths are not kept.
    pub(super) fn plain_score(&self) -> f32 {
        let average = as_f32(self.token_count.max(1)) / as_f32(self.doc_count.max(1));
        tantivy::query::Bm25Weight::for_one_term_without_explain(
            self.doc_freq,
            self.doc_count,
            average,
        )
        .score(1, 1)
    }
}
