//! What a mapping may have ignored in documents, and which additions ask for it: so it is known when
//! documents that were written before an addition must be written again to be found under it.
//!
//! Nothing is remembered of single values. An object's place is remembered once unknown fields in it
//! were ever ignored (`dynamic: false`), until the documents are written again; what comes new there
//! may have been in any of them. It says nothing where unknown fields have always been added or
//! refused: no document can have a value that is not in the index.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{Dynamic, FieldMapping, Mapping};

/// The paths of the objects in which unknown fields may have been ignored; the root's is empty.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Ignored(BTreeSet<String>);

/// Additions that documents from before may have values for, which searches do not find there; and
/// fields whose values were taken in another way then.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Outstanding {
    /// The fields by their paths; `path.*`, or `*`, for all of an object in which unknown fields are
    /// added now and were ignored before.
    pub fields: BTreeSet<String>,
    /// How often anything was added.
    pub additions: u64,
}

/// Where a grown mapping comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Somebody asked for it, of an index that keeps its own documents.
    Request,
    /// It grew for a document, or for a pipeline, which copies its table again where it must.
    Document,
}

impl Ignored {
    /// What is ignored in documents that are all written under this mapping.
    pub(crate) fn under(mapping: &Mapping) -> Self {
        Self::default().after(mapping, mapping)
    }

    /// Nothing is known of what an index has ignored: it may have been anywhere.
    pub(crate) fn anywhere(mapping: &Mapping) -> Self {
        Self(mapping.objects.iter().map(|object| object.path.clone()).collect())
    }

    /// After a mapping has grown.
    pub(crate) fn after(&self, before: &Mapping, grown: &Mapping) -> Self {
        let places = grown.objects.iter().enumerate().filter(|(place, object)| {
            self.has(before, &object.path) || grown.dynamic(*place) == Dynamic::False
        });
        Self(places.map(|(_, object)| object.path.clone()).collect())
    }

    /// The fields of a grown mapping that documents from before may have values for.
    pub(crate) fn asked_for(&self, before: &Mapping, grown: &Mapping) -> BTreeSet<String> {
        let fields = grown.fields.iter().filter(|field| self.may_have(before, field));
        let objects = grown.objects.iter().enumerate().filter(|(place, object)| {
            let added_before = before.object_at(&object.path);
            let added_before = added_before.is_some_and(|at| before.dynamic(at) == Dynamic::True);
            let are_added = object.enabled && grown.dynamic(*place) == Dynamic::True;
            are_added && !added_before && self.has(before, &object.path)
        });
        let opened = objects.map(|(_, object)| all_in(&object.path));
        fields.map(|field| field.path.clone()).chain(opened).collect()
    }

    /// Whether documents from before may have values for a field that are not in the index.
    fn may_have(&self, before: &Mapping, field: &FieldMapping) -> bool {
        if let Some(old) = before.field(&field.path) {
            return is_taken_otherwise(old, field);
        }
        let of_field = field.parent.as_deref();
        if of_field.is_some_and(|parent| before.field(parent).is_some()) {
            return true;
        }
        // Nulls add no field.
        field.null_value.is_some() || self.has(before, above(of_field.unwrap_or(&field.path)))
    }

    /// Whether unknown fields of an object may have been ignored, or of the nearest one above that
    /// there was.
    fn has(&self, before: &Mapping, object: &str) -> bool {
        let mut path = object;
        while !path.is_empty() && before.object_at(path).is_none() {
            path = above(path);
        }
        self.0.contains(path)
    }
}

impl Outstanding {
    /// With what was asked for besides.
    pub(crate) fn with(mut self, asked: BTreeSet<String>) -> Self {
        self.fields.extend(asked);
        Self { additions: self.additions + 1, ..self }
    }
}

/// Whether a field's values are taken in another way from now on than they were before.
fn is_taken_otherwise(old: &FieldMapping, new: &FieldMapping) -> bool {
    let has_all = |of: &FieldMapping, all: &FieldMapping| {
        all.copy_to.iter().all(|target| of.copy_to.contains(target))
    };
    // What cannot be coerced is left out where `ignore_malformed` holds, or held once.
    let coerced = old.coerce != new.coerce && (new.coerce || new.ignore_malformed);
    let copies_the_same = has_all(old, new) && has_all(new, old);
    coerced || !copies_the_same || old.ignore_above != new.ignore_above || old.norms != new.norms
}

/// How all fields of an object are called.
fn all_in(object: &str) -> String {
    if object.is_empty() { "*".to_owned() } else { format!("{object}.*") }
}

/// The path of the object that something lies in.
fn above(path: &str) -> &str {
    path.rsplit_once('.').map_or("", |(above, _)| above)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// An index is made with the first mapping, gets documents, and then these additions, one after the
    /// other: what the last one asks for.
    #[track_caller]
    fn check(first: &Value, additions: &[Value], expected: &[&str]) {
        let mut mapping = Mapping::from_json(first).unwrap();
        let mut ignored = Ignored::under(&mapping);
        let mut asked = BTreeSet::new();
        for addition in additions {
            let grown = mapping.merged(addition).unwrap();
            asked = ignored.asked_for(&mapping, &grown);
            ignored = ignored.after(&mapping, &grown);
            mapping = grown;
        }
        let asked: Vec<&str> = asked.iter().map(String::as_str).collect();
        assert_eq!(asked, expected, "{first} {additions:?}");
    }

    fn fields(fields: &Value) -> Value {
        json!({"properties": fields})
    }

    #[test]
    fn what_was_ignored_is_asked_for() {
        let long = json!({"type": "long"});
        let n = fields(&json!({"n": long}));
        let hidden = json!({"dynamic": false});
        check(&hidden, std::slice::from_ref(&n), &["n"]);
        // Once is enough, wherever it was.
        check(&hidden, &[json!({"dynamic": true})], &["*"]);
        check(&hidden, &[json!({"dynamic": true}), n.clone()], &["n"]);
        check(&hidden, &[json!({"dynamic": "strict"}), n.clone()], &["n"]);
        check(&json!({}), &[hidden.clone(), json!({"dynamic": true}), n.clone()], &["n"]);
        let inner = fields(&json!({"o": {"properties": {"p": {"properties": {"n": long}}}}}));
        check(&hidden, std::slice::from_ref(&inner), &["o.p.n"]);
        check(&hidden, &[fields(&json!({"o.p.n": long}))], &["o.p.n"]);
        // An object that is new takes what was ignored for it, and all that it has besides.
        let open = json!({"dynamic": true, "properties": {"n": long}});
        check(&hidden, &[fields(&json!({"o": open}))], &["o.*", "o.n"]);
        check(
            &hidden,
            &[fields(&json!({"o": open})), fields(&json!({"o": {"properties": {"m": long}}}))],
            &["o.m"],
        );
        let closed = json!({"dynamic": false, "properties": {"a": long}});
        check(
            &fields(&json!({"o": closed})),
            &[fields(&json!({"o": {"properties": {"n": long}}}))],
            &["o.n"],
        );
        // In between it was another one's.
        let turned = fields(&json!({"o": {"dynamic": true, "properties": {"n": long}}}));
        check(&fields(&json!({"o": closed})), &[turned], &["o.*", "o.n"]);
        // Parts of what there was.
        let raw = json!({"t": {"type": "text", "fields": {"raw": {"type": "keyword"}}}});
        check(&fields(&json!({"t": {"type": "text"}})), &[fields(&raw)], &["t.raw"]);
        let nulls = json!({"type": "long", "null_value": 0});
        check(&json!({}), &[fields(&json!({"n": nulls}))], &["n"]);
        let copied = json!({"t": {"type": "text", "copy_to": "all"}, "all": {"type": "text"}});
        check(&fields(&json!({"t": {"type": "text"}})), &[fields(&copied)], &["t"]);
        let short = json!({"type": "keyword", "ignore_above": 5});
        let longer = json!({"type": "keyword", "ignore_above": 9});
        check(&fields(&json!({"k": short})), &[fields(&json!({"k": {"type": "keyword"}}))], &["k"]);
        check(&fields(&json!({"k": short})), &[fields(&json!({"k": longer}))], &["k"]);
        check(&fields(&json!({"k": longer})), &[fields(&json!({"k": short}))], &["k"]);
        let plain = json!({"t": {"type": "text", "norms": false}});
        check(&fields(&json!({"t": {"type": "text"}})), &[fields(&plain)], &["t"]);
        let exact = json!({"type": "long", "coerce": false, "ignore_malformed": true});
        let coerced = json!({"type": "long", "ignore_malformed": true});
        check(&fields(&json!({"n": exact})), &[fields(&json!({"n": coerced}))], &["n"]);
    }

    #[test]
    fn nothing_is_asked_for_that_cannot_be_there() {
        let long = json!({"type": "long"});
        let n = fields(&json!({"n": long}));
        let raw = json!({"t": {"type": "text", "fields": {"raw": {"type": "keyword"}}}});
        for dynamic in [json!(true), json!("strict")] {
            let first = json!({"dynamic": dynamic});
            check(&first, std::slice::from_ref(&n), &[]);
            check(&first, &[fields(&raw)], &[]);
            check(&first, &[fields(&json!({"o.p.n": long}))], &[]);
            check(&first, &[json!({"dynamic": "strict"}), n.clone()], &[]);
            check(&first, &[json!({"dynamic": false})], &[]);
            check(&first, &[json!({"_meta": {"by": "me"}})], &[]);
        }
        // An object of its own, from the beginning.
        let open = json!({"dynamic": false, "properties": {"o": {"dynamic": true, "properties":
            {"a": long}}}});
        check(&open, &[fields(&json!({"o": {"properties": {"n": long}}}))], &[]);
        check(&open, &[fields(&json!({"o": {"properties": {"p.n": long}}}))], &[]);
        check(&json!({"dynamic": false}), &[fields(&json!({"o": {"type": "object"}}))], &[]);
        check(&json!({}), &[fields(&json!({"o": {"enabled": false}}))], &[]);
        check(&json!({"dynamic": false}), &[json!({"dynamic": "strict"})], &[]);
        // What only searches do otherwise, and what no document could have.
        let strict = json!({"type": "long", "coerce": false});
        check(&n, &[fields(&json!({"n": strict}))], &[]);
        let searched = json!({"type": "text", "analyzer": "standard", "search_analyzer": "simple"});
        let text = json!({"type": "text", "analyzer": "standard"});
        check(&fields(&json!({"t": text})), &[fields(&json!({"t": searched}))], &[]);
    }

    #[test]
    fn nothing_is_ruled_out_where_nothing_is_known() {
        let mapping = Mapping::from_json(&fields(&json!({"o.a": {"type": "long"}}))).unwrap();
        let grown = mapping.merged(&fields(&json!({"o.n": {"type": "long"}}))).unwrap();
        let asked = Ignored::anywhere(&mapping).asked_for(&mapping, &grown);
        assert_eq!(asked.into_iter().collect::<Vec<_>>(), ["o.n"]);
    }
}
