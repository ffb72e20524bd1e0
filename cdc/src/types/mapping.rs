//! What an index is told of a column.

use serde_json::{Map, Value, json};

use super::Kind;

/// Characters past which a text's keyword is left out, as Elasticsearch's dynamic mapping has it.
const TEXT_KEYWORD_CHARACTERS: u32 = 256;

/// Characters that surely fit a term: 32,766 bytes at four bytes each.
const KEYWORD_CHARACTERS: u32 = 8191;

/// The mapping of one column, in Elasticsearch's format.
pub(crate) fn mapping(kind: &Kind) -> Value {
    match kind {
        Kind::Bool => json!({"type": "boolean"}),
        Kind::Integer => json!({"type": "integer"}),
        Kind::Long => json!({"type": "long"}),
        Kind::Float | Kind::Numeric | Kind::Money => json!({"type": "double"}),
        Kind::Text | Kind::PaddedText => json!({
            "type": "text",
            "fields": {"keyword": {"type": "keyword", "ignore_above": TEXT_KEYWORD_CHARACTERS}},
        }),
        Kind::Lexemes => json!({"type": "text"}),
        Kind::Keyword => json!({"type": "keyword", "ignore_above": KEYWORD_CHARACTERS}),
        Kind::Time => time_of_day("hour_minute_second_fraction||hour_minute_second"),
        Kind::TimeTz => time_of_day("time||time_no_millis"),
        Kind::Network => json!({
            "type": "ip_range",
            "fields": {"keyword": {"type": "keyword"}},
        }),
        Kind::Range(element) | Kind::MultiRange(element) => json!({"type": match **element {
            Kind::Integer => "integer_range",
            Kind::Long => "long_range",
            Kind::Numeric => "double_range",
            _ => "date_range",
        }}),
        // What lies past the earth's degrees, or is no point, is in the document alone.
        Kind::Point | Kind::Geometry => json!({"type": "geo_point", "ignore_malformed": true}),
        // An index of addresses has no place for a netmask.
        Kind::Address => json!({
            "type": "ip",
            "ignore_malformed": true,
            "fields": {"keyword": {"type": "keyword"}},
        }),
        Kind::Date | Kind::Timestamp | Kind::TimestampTz => json!({"type": "date"}),
        Kind::Bytea => json!({"type": "keyword", "index": false, "doc_values": false}),
        Kind::Json | Kind::JsonWithRepeats | Kind::Hstore => json!({"type": "object"}),
        Kind::Array { element, .. } => mapping(element),
        Kind::Composite(fields) => {
            let field = |field: &super::Field| (field.name.clone(), mapping(&field.kind));
            let properties: Map<String, Value> = fields.iter().map(field).collect();
            json!({"properties": properties})
        }
    }
}

/// The text, and the time as a date of 1970-01-01, in microseconds, by which it is compared, sorted and
/// counted: without 24:00:00 and offsets of seconds, which no date has.
fn time_of_day(format: &str) -> Value {
    let time = json!({"type": "date", "format": format, "ignore_malformed": true});
    json!({"type": "keyword", "fields": {"time": time}})
}
