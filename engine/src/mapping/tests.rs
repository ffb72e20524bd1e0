//! Mappings: read, written, merged and refused.

use proptest::prelude::*;
use serde_json::json;

use super::*;

#[test]
fn reads_and_writes() {
    let text = json!({
        "dynamic": "strict",
        "_meta": {"a": 1},
        "properties": {
            "name": {
                "type": "text",
                "analyzer": "english",
                "fields": {"keyword": {"type": "keyword", "ignore_above": 10}}
            },
            "at": {"type": "date", "format": "yyyy-MM-dd"},
            "size": {"type": "long", "null_value": 3, "coerce": false},
            "address": {"dynamic": "false", "properties": {"city": {"type": "keyword"}}},
            "raw": {"enabled": false, "type": "object"}
        }
    });
    let mapping = Mapping::from_json(&text).unwrap();
    assert_eq!(mapping.to_json(), text);
    let paths: Vec<_> = mapping.fields().iter().map(|field| field.path.as_str()).collect();
    assert_eq!(paths, ["name", "name.keyword", "at", "size", "address.city"]);
    assert!(mapping.has_object("address"));
    assert_eq!(mapping.field("name.keyword").unwrap().parent.as_deref(), Some("name"));
}

#[test]
fn schemas_are_appended_to() {
    let first = Mapping::from_json(&json!({"properties": {"a": {"type": "text"}}})).unwrap();
    let more = json!({"properties": {"b": {"type": "long"}, "a": {"type": "text"}}});
    let second = first.merged(&more).unwrap();
    let schema = schema::build(&first);
    let extended = schema::extend(&schema, &second);
    assert_eq!(extended, schema::build(&second));
    // Read from JSON in another order, the schema still decides.
    assert_eq!(schema::extend(&extended, &Mapping::from_json(&more).unwrap()), extended);
}

fn field(definition: &Value) -> Value {
    json!({"properties": {"x": definition}})
}

fn refused(mapping: &Value, expected: &str) {
    let error = Mapping::from_json(mapping).unwrap_err();
    assert_eq!((error.kind(), error.message()), (ErrorKind::MappingParsing, expected));
}

#[test]
fn wrong_parameters_are_refused() {
    for (mapping, expected) in [
        (json!([]), "a mapping must be an object, found [[]]"),
        (json!({"foo": 1}), "Root mapping definition has unsupported parameters:  [foo : 1]"),
        (field(&json!({"type": "txt"})), "No handler for type [txt] declared on field [x]"),
        (field(&json!({})), "No type specified for field [x]"),
        (field(&json!(1)), "Expected map for property [fields] on field [x] but got [1]"),
        (
            field(&json!({"type": "text", "boost": 2})),
            "unknown parameter [boost] on mapper [x] of type [text]",
        ),
        (
            field(&json!({"type": "object", "boost": 2})),
            "unknown parameter [boost] on mapper [x] of type [object]",
        ),
        (
            field(&json!({"type": "text", "analyzer": "klingon"})),
            "analyzer [klingon] has not been configured in mappings, named by field [x]",
        ),
        (
            field(&json!({"type": "text", "search_analyzer": "simple"})),
            "analyzer on field [x] must be set when search_analyzer is set",
        ),
        (
            field(&json!({"type": "keyword", "store": true})),
            "parameter [store] of field [x] can only be [false], found [true]",
        ),
        (
            field(&json!({"type": "date", "format": "yyyy-QQ"})),
            "Invalid format: [yyyy-QQ] of field [x]: pattern letters [QQ] are not supported",
        ),
        (
            field(&json!({"type": "long", "null_value": "many"})),
            "[null_value] of field [x] does not fit: For input string: \"many\"",
        ),
        (
            field(&json!({"type": "long", "index": "maybe"})),
            "Failed to parse value [maybe] of [index] on field [x] as only [true] or [false] are \
             allowed.",
        ),
        (
            field(&json!({"type": "keyword", "ignore_above": -1})),
            "[ignore_above] of field [x] must be a number from 0 to 2147483647, found [-1]",
        ),
    ] {
        refused(&mapping, expected);
    }
}

#[test]
fn wrong_structures_are_refused() {
    for (mapping, expected) in [
        (
            json!({"dynamic": "runtime"}),
            "[dynamic] must be [true], [false] or [strict], found [runtime]",
        ),
        (
            json!({"properties": {"_id": {"type": "long"}}}),
            "field [_id] is a metadata field and cannot be mapped",
        ),
        (
            json!({"properties": {"a..b": {"type": "long"}}}),
            "field name cannot contain only whitespace: [a.]",
        ),
        (
            json!({"properties": {"a": {"type": "long"}, "a.b": {"type": "long"}}}),
            "can't merge a non object mapping [a] with an object mapping",
        ),
        (
            field(&json!({"type": "text", "copy_to": ["a", "b..c"]})),
            "[copy_to] of field [x] names no field: [b..c]",
        ),
        (
            field(&json!({"type": "text", "fields": {"k": {"type": "keyword", "copy_to": "y"}}})),
            "[copy_to] is not allowed on multi-field [x.k]",
        ),
        (
            json!({"properties": {"a": {"type": "text", "fields": {"b.c": {"type": "long"}}}}}),
            "the name of multi-field [a.b.c] cannot contain [.]",
        ),
    ] {
        refused(&mapping, expected);
    }
}

#[test]
fn limits_are_kept() {
    let wide = |fields: usize| {
        let fields = (0..fields).map(|n| (format!("f{n}"), json!({"type": "long"})));
        json!({"properties": fields.collect::<Value>()})
    };
    let full = Mapping::from_json(&wide(TOTAL_FIELDS_LIMIT)).unwrap();
    let limit = "limit of total fields [1000] has been exceeded";
    assert_eq!(Mapping::from_json(&wide(TOTAL_FIELDS_LIMIT + 1)).unwrap_err().message(), limit);
    assert_eq!(full.merged(&field(&json!({"type": "long"}))).unwrap_err().message(), limit);

    let deep = |depth: usize| {
        let name = vec!["o"; depth].join(".") + ".x";
        Mapping::from_json(&json!({"properties": {name: {"type": "long"}}}))
    };
    deep(DEPTH_LIMIT - 1).unwrap();
    let error = deep(DEPTH_LIMIT).unwrap_err();
    assert!(error.message().starts_with("limit of mapping depth [20] has been exceeded"));

    let named = |length: usize| {
        Mapping::from_json(&json!({"properties": {"n".repeat(length): {"type": "long"}}}))
    };
    named(FIELD_NAME_LENGTH_LIMIT).unwrap();
    assert!(named(FIELD_NAME_LENGTH_LIMIT + 1).unwrap_err().message().contains("is longer than"));
}

#[test]
fn mappings_grow_but_do_not_change() {
    let old = json!({"properties": {
        "t": {"type": "text", "fields": {"k": {"type": "keyword"}}},
        "n": {"type": "long"},
        "o": {"properties": {"x": {"type": "date"}}}
    }});
    let old = Mapping::from_json(&old).unwrap();
    let merged = |name: &str, definition: Value| {
        let addition = json!({"properties": {name: definition}});
        old.merged(&addition).map_err(|error| {
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
            error.message().to_owned()
        })
    };
    for (name, definition, expected) in [
        ("t", json!({"type": "long"}), "mapper [t] cannot be changed from type [text] to [long]"),
        (
            "t",
            json!({"type": "text", "analyzer": "english"}),
            "Mapper for [t] conflicts with existing mapper:\n\tCannot update parameter [analyzer] \
             from [standard] to [english]",
        ),
        (
            "t",
            json!({"type": "text", "fields": {"k": {"type": "long"}}}),
            "mapper [t.k] cannot be changed from type [keyword] to [long]",
        ),
        (
            "n",
            json!({"type": "long", "index": false, "doc_values": false}),
            "Mapper for [n] conflicts with existing mapper:\n\tCannot update parameter [index] \
             from [true] to [false]\n\tCannot update parameter [doc_values] from [true] to [false]",
        ),
        (
            "o.x",
            json!({"type": "date", "format": "epoch_millis"}),
            "Mapper for [o.x] conflicts with existing mapper:\n\tCannot update parameter [format] \
             from [strict_date_optional_time||epoch_millis] to [epoch_millis]",
        ),
        (
            "o",
            json!({"type": "long"}),
            "can't merge a non object mapping [o] with an object mapping",
        ),
        (
            "n",
            json!({"properties": {}}),
            "can't merge a non object mapping [n] with an object mapping",
        ),
        (
            "n.x",
            json!({"type": "long"}),
            "can't merge a non object mapping [n] with an object mapping",
        ),
        (
            "o",
            json!({"enabled": false}),
            "the [enabled] parameter can't be updated for the object mapping [o]",
        ),
    ] {
        assert_eq!(merged(name, definition).unwrap_err(), expected);
    }
    let grown = merged(
        "t",
        json!({"type": "text", "fields": {"e": {"type": "text", "analyzer": "english"}}}),
    );
    let paths: Vec<String> = grown.unwrap().fields().iter().map(|f| f.path.clone()).collect();
    assert_eq!(paths, ["t", "t.k", "n", "o.x", "t.e"]);
    let changed = merged("n", json!({"type": "long", "coerce": false})).unwrap();
    assert!(!changed.field("n").unwrap().coerce);
    assert!(changed.field("o.x").is_some());
}

/// Parameters that are written only where they differ from the defaults.
fn definitions() -> impl Strategy<Value = Value> {
    let flag = |name: &'static str| {
        prop::option::of(any::<bool>())
            .prop_map(move |flag| flag.map(|flag| (name.to_owned(), Value::from(flag))))
    };
    let of = |name: &'static str, values: Vec<Value>| {
        prop::option::of(prop::sample::select(values))
            .prop_map(move |value| value.map(|value| (name.to_owned(), value)))
    };
    let with = |kinds: Vec<&'static str>,
                parameters: BoxedStrategy<Vec<Option<(String, Value)>>>| {
        (prop::sample::select(kinds), parameters).prop_map(|(kind, parameters)| {
            let kind = ("type".to_owned(), Value::from(kind));
            std::iter::once(kind).chain(parameters.into_iter().flatten()).collect::<Value>()
        })
    };
    let analyzers = vec![json!("english"), json!("standard"), json!("simple")];
    let text = (
        prop::sample::select(analyzers.clone()),
        of("search_analyzer", analyzers),
        flag("norms"),
        flag("index"),
    );
    let text = text.prop_map(|(analyzer, search, norms, index)| {
        vec![Some(("analyzer".to_owned(), analyzer)), search, norms, index]
    });
    let keyword = (of("ignore_above", vec![json!(0), json!(5)]), flag("doc_values"), flag("index"));
    let number = (
        of("null_value", vec![json!(1), json!("2"), Value::Null]),
        flag("coerce"),
        flag("ignore_malformed"),
    );
    let date = (
        of(
            "format",
            vec![
                json!("yyyy-MM-dd||epoch_second"),
                json!("strict_date_optional_time||epoch_millis"),
            ],
        ),
        flag("doc_values"),
        flag("index"),
    );
    let list = |(a, b, c)| vec![a, b, c];
    prop_oneof![
        with(vec!["text"], text.boxed()),
        with(vec!["keyword"], keyword.prop_map(list).boxed()),
        with(
            vec!["long", "byte", "unsigned_long", "double", "half_float"],
            number.prop_map(list).boxed()
        ),
        with(vec!["date"], date.prop_map(list).boxed()),
    ]
}

fn objects() -> impl Strategy<Value = Value> {
    let leaf = (definitions(), prop::collection::btree_map("[kl]", definitions(), 0..2)).prop_map(
        |(mut leaf, multi_fields)| {
            if !multi_fields.is_empty() {
                leaf["fields"] = multi_fields.into_iter().collect();
            }
            leaf
        },
    );
    let dynamics = vec![json!(true), json!("false"), json!("strict")];
    let object = move |inner: BoxedStrategy<Value>| {
        let dynamic = prop::option::of(prop::sample::select(dynamics.clone()));
        (prop::collection::btree_map("[a-f]", inner, 0..4), dynamic).prop_map(|(below, dynamic)| {
            let mut object = json!({"properties": below.into_iter().collect::<Value>()});
            if let Some(dynamic) = dynamic {
                object["dynamic"] = dynamic;
            }
            object
        })
    };
    let below = leaf.boxed().prop_recursive(3, 12, 4, object.clone());
    object(below.boxed())
}

proptest! {
    #[test]
    fn what_is_written_reads_the_same(json in objects()) {
        // A null_value that is no text or needs coercion is refused where there is none: skipped.
        let Ok(mapping) = Mapping::from_json(&json) else { return Ok(()) };
        let written = mapping.to_json();
        let again = Mapping::from_json(&written).unwrap();
        prop_assert_eq!(&again.to_json(), &written);
        prop_assert_eq!(again.fields(), mapping.fields());
        prop_assert_eq!(&mapping.merged(&json).unwrap(), &mapping);
        prop_assert_eq!(&Mapping::default().merged(&json).unwrap(), &mapping);
        let schema = schema::build(&mapping);
        prop_assert_eq!(schema::extend(&schema, &again), schema.clone());
        for (field, mapped) in schema.fields().skip(5).zip(mapping.fields()) {
            prop_assert_eq!(field.1.has_fieldnorms(), schema::has_norms(mapped));
            prop_assert_eq!(field.1.is_fast(), mapped.doc_values);
            prop_assert_eq!(field.1.is_indexed(), mapped.index);
        }
    }
}
