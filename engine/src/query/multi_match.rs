//! `multi_match`: one text over several fields.

use rustc_hash::FxHashMap;
use tantivy::schema::Field;

use super::ast::{Match, MatchPhrase, MultiMatch, MultiMatchKind};
use super::compile::{Compiled, Compiler, union};
use super::full_text::combine;
use super::matcher::Matcher;
use super::term_level::Target;
use super::value::text;
use crate::error::Result;
use crate::mapping::field::{FieldKind, FieldMapping, Storage};

/// A field with its boost.
struct BoostedField<'a> {
    field: Field,
    mapping: &'a FieldMapping,
    boost: f32,
}

impl Compiler<'_> {
    pub(super) fn multi_match(&self, clause: &MultiMatch, boost: f32) -> Result<Compiled> {
        let all_fields = clause.fields.is_empty();
        let paths = self.paths(clause);
        let boost = boost * clause.options.boost;
        // Elasticsearch is lenient where it has chosen the fields itself.
        let options = Match {
            boost: 1.0,
            lenient: clause.options.lenient || all_fields,
            prefix_last: clause.kind == MultiMatchKind::BoolPrefix,
            ..clause.options.clone()
        };
        if clause.kind == MultiMatchKind::CrossFields {
            return self.cross_fields(&paths, &options, clause.tie_breaker.unwrap_or(0.0), boost);
        }
        let mut queries = Vec::with_capacity(paths.len());
        for (path, own) in &paths {
            let query = match clause.kind {
                MultiMatchKind::Phrase | MultiMatchKind::PhrasePrefix => {
                    self.phrase_on(path, clause, &options, boost * own)?
                }
                _ => {
                    let query = Match { field: path.clone(), ..options.clone() };
                    self.match_text(&query, boost * own)?
                }
            };
            queries.push(query);
        }
        let sums = matches!(clause.kind, MultiMatchKind::MostFields | MultiMatchKind::BoolPrefix);
        let tie_breaker = clause.tie_breaker.unwrap_or(if sums { 1.0 } else { 0.0 });
        if (tie_breaker - 1.0).abs() < f32::EPSILON {
            return Ok(union(queries));
        }
        Ok(self.dis_max(queries, tie_breaker))
    }

    fn phrase_on(
        &self,
        path: &str,
        clause: &MultiMatch,
        options: &Match,
        boost: f32,
    ) -> Result<Compiled> {
        let phrase = MatchPhrase {
            field: path.to_owned(),
            value: options.value.clone(),
            slop: clause.slop,
            analyzer: options.analyzer.clone(),
            zero_terms: options.zero_terms,
            prefix_last: clause.kind == MultiMatchKind::PhrasePrefix,
            max_expansions: options.max_expansions,
            boost: 1.0,
        };
        match self.match_phrase(&phrase, boost) {
            Err(error) if options.lenient && error.kind() == crate::ErrorKind::InvalidQuery => {
                Ok(Compiled::nothing())
            }
            other => other,
        }
    }

    /// The clause's fields, patterns replaced by what fits them. A field that is named twice has
    /// both boosts.
    pub(super) fn paths(&self, clause: &MultiMatch) -> Vec<(String, f32)> {
        let mut paths: Vec<(String, f32)> = Vec::new();
        let mut places: FxHashMap<String, usize> = FxHashMap::default();
        let mut add = |path: &str, boost: f32| {
            let place = *places.entry(path.to_owned()).or_insert(paths.len());
            match paths.get_mut(place) {
                Some(known) => known.1 *= boost,
                None => paths.push((path.to_owned(), boost)),
            }
        };
        let everything = [("*".to_owned(), 1.0)];
        let asked = if clause.fields.is_empty() { &everything[..] } else { &clause.fields };
        for (name, boost) in asked {
            if !name.contains('*') {
                add(name, *boost);
                continue;
            }
            let pattern = Matcher::wildcard(name, false);
            let fields = self.snapshot.mapping().fields().iter();
            let texts = fields.filter(|mapping| mapping.kind.storage() == Storage::Text);
            let fitting = texts.filter(|mapping| mapping.index && pattern.matches(&mapping.path));
            fitting.for_each(|mapping| add(&mapping.path, *boost));
        }
        paths
    }

    /// The fields as if they were one: each term may be in any of them, and is scored as if it were
    /// as frequent in all as it is where it is most frequent. Fields of different analyzers have
    /// different terms, so they are taken in groups, of which the best counts.
    fn cross_fields(
        &self,
        paths: &[(String, f32)],
        options: &Match,
        tie_breaker: f32,
        boost: f32,
    ) -> Result<Compiled> {
        let mut groups: Vec<(&str, Vec<BoostedField<'_>>)> = Vec::new();
        let mut others = Vec::new();
        for (path, own) in paths {
            match self.target(path) {
                Target::Mapped(field, mapping)
                    if mapping.index && mapping.kind.storage() == Storage::Text =>
                {
                    let analyzer = options.analyzer.as_deref().unwrap_or(&mapping.search_analyzer);
                    let entry = BoostedField { field, mapping, boost: boost * own };
                    match groups.iter_mut().find(|group| group.0 == analyzer) {
                        Some(group) => group.1.push(entry),
                        None => groups.push((analyzer, vec![entry])),
                    }
                }
                _ => {
                    let query = Match { field: path.clone(), ..options.clone() };
                    others.push(self.match_text(&query, boost * own)?);
                }
            }
        }
        let mut queries = others;
        for (_, fields) in &groups {
            queries.push(self.cross_group(fields, options, tie_breaker)?);
        }
        Ok(self.dis_max(queries, tie_breaker))
    }

    fn cross_group(
        &self,
        fields: &[BoostedField<'_>],
        options: &Match,
        tie_breaker: f32,
    ) -> Result<Compiled> {
        let Some(first) = fields.first() else { return Ok(Compiled::nothing()) };
        let value = text(&options.value);
        let analyzed = fields.iter().find(|field| field.mapping.kind == FieldKind::Text);
        let mapping = analyzed.unwrap_or(first).mapping;
        let positions = self.analyze(mapping, options.analyzer.as_deref(), &value)?;
        if positions.is_empty() {
            return Ok(self.no_terms(options.zero_terms, first.boost));
        }
        let mut queries = Vec::with_capacity(positions.len());
        for term in positions.iter().flat_map(|(_, terms)| terms) {
            let counted: Result<Vec<_>> = fields
                .iter()
                .map(|entry| {
                    let term = self.snapshot.text_term(entry.field, term);
                    let doc_freq = self.snapshot.doc_freq(&term)?;
                    Ok((term, doc_freq))
                })
                .collect();
            let counted = counted?;
            let most_frequent = counted.iter().map(|(_, count)| *count).max().unwrap_or(0);
            let in_fields: Result<Vec<_>> = fields
                .iter()
                .zip(counted)
                .map(|(entry, term)| {
                    let (field, mapping) = (entry.field, entry.mapping);
                    self.scored_term_as(field, mapping, term, most_frequent, entry.boost)
                })
                .collect();
            queries.push(self.dis_max(in_fields?, tie_breaker));
        }
        Ok(combine(queries, options))
    }
}
