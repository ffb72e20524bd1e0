//! PostgreSQL's values, in the text format of COPY and of the stream, to JSON; and its types to an
//! index's mapping.
//!
//! | type | JSON | mapping |
//! |---|---|---|
//! | `int2`, `int4` | number | integer |
//! | `int8`, `oid`, `xid` | number | long |
//! | `numeric`, `money` | number, its digits verbatim | double |
//! | `float4`, `float8` | number | double |
//! | `text`, `varchar`, `citext`, `name`, `xml` | string | text with keyword |
//! | `tsvector` | its lexemes in the order of their places | text |
//! | `char(n)` | string without its padding | text with keyword |
//! | `bool` | true, false | boolean |
//! | `date`, `timestamp`, `timestamptz` | ISO 8601, `Z` for the last | date |
//! | `json`, `jsonb` | the object, verbatim but for repeated keys, of which the last counts; what is no object becomes `{"value": ...}` | object |
//! | arrays | array, nested as they are | as their elements |
//! | composite types | object | object |
//! | `hstore` | object of strings | object |
//! | `bytea` | base64 | keyword, not indexed |
//! | domains | as their base type | as their base type |
//! | `inet` | string | ip, where it has no netmask; with keyword |
//! | `cidr` | string | `ip_range` with keyword |
//! | ranges of numbers, dates and times | `{"gte": 1, "lt": 5}`, without infinite ends; null where empty | range |
//! | multiranges of these | array of ranges | range |
//! | `point` | `{"lat": y, "lon": x}` | `geo_point` |
//! | PostGIS's `geometry`, `geography` | the same for points in degrees, others as their digits | `geo_point` |
//! | `time` | string | keyword; `.time` a date of 1970-01-01, to the microsecond |
//! | `timetz` | string, its offset included | keyword; `.time` the same in UTC |
//! | all others (uuid, enum, interval, other ranges, bits, ...) | string | keyword |
//!
//! JSON has no NaN and no infinity, ISO 8601 no infinite date, and an index no year past 294246: such
//! a value becomes null, as does a `numeric` past the range of a double. Years before 1 and past 9999
//! have a sign, as ISO 8601 expands them: `-0043-03-15` is in 44 BC, `+10000-01-01` follows 9999.

mod array;
mod datetime;
mod geo;
mod json;
mod lexemes;
mod mapping;
mod nested;
mod range;
pub(crate) mod resolve;
mod scalar;

use std::sync::Arc;

pub(crate) use mapping::mapping;

/// Depth of arrays, composite types and domains within each other.
const MAX_DEPTH: usize = 16;

/// How a type's values become JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `t` or `f`.
    Bool,
    /// An integer of at most 32 bits.
    Integer,
    /// An integer of up to 64 bits.
    Long,
    /// A binary floating-point number.
    Float,
    /// A decimal number.
    Numeric,
    /// A decimal number with a currency sign and thousands' separators.
    Money,
    /// Text to be analysed.
    Text,
    /// Text padded with blanks.
    PaddedText,
    /// Lexemes with their places.
    Lexemes,
    /// Text to be taken as a whole.
    Keyword,
    /// An IP address, or with a number of bits a network.
    Address,
    /// A point of PostgreSQL's own type.
    Point,
    /// A geometry or geography of PostGIS.
    Geometry,
    /// Addresses that begin alike.
    Network,
    /// All values between two.
    Range(Arc<Kind>),
    /// Several of these.
    MultiRange(Arc<Kind>),
    /// A day.
    Date,
    /// A day and time without a zone.
    Timestamp,
    /// A moment.
    TimestampTz,
    /// A time of day.
    Time,
    /// A time of day and its offset.
    TimeTz,
    /// Bytes.
    Bytea,
    /// A JSON value.
    Json,
    /// A JSON value whose objects may have a key twice.
    JsonWithRepeats,
    /// Keys and texts.
    Hstore,
    /// Any number of values of one type.
    Array {
        /// The values' type.
        element: Arc<Kind>,
        /// What stands between two values.
        delimiter: u8,
    },
    /// Named values of different types.
    Composite(Arc<[Field]>),
}

impl Kind {
    /// Since which version of this page its values and its mapping are what they are: the first had
    /// texts and keywords for some that have types of their own since the second, and for others since
    /// the third.
    pub(crate) fn written_since(&self) -> u32 {
        match self {
            Self::Address
            | Self::Network
            | Self::Point
            | Self::Geometry
            | Self::Range(_)
            | Self::MultiRange(_) => 1,
            Self::Lexemes | Self::Time | Self::TimeTz => 2,
            Self::Array { element, .. } => element.written_since(),
            Self::Composite(fields) => {
                fields.iter().map(|field| field.kind.written_since()).max().unwrap_or(0)
            }
            _ => 0,
        }
    }
}

/// A part of a composite type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Field {
    /// Its name.
    pub(crate) name: String,
    /// Its type.
    pub(crate) kind: Kind,
}

/// A value that is not what its type says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("[{value}] is not {expected}")]
pub(crate) struct BadValue {
    expected: &'static str,
    value: String,
}

impl BadValue {
    /// Names the value, cut to a length that fits a log line.
    fn new(expected: &'static str, value: &str) -> Self {
        Self { expected, value: value.chars().take(80).collect() }
    }
}

/// Appends the JSON of a value that is not NULL.
pub(crate) fn write_json(kind: &Kind, text: &str, out: &mut Vec<u8>) -> Result<(), BadValue> {
    match kind {
        Kind::Bool => scalar::boolean(text, out),
        Kind::Integer | Kind::Long => scalar::integer(text, out),
        Kind::Float | Kind::Numeric => scalar::number(text, out),
        Kind::Money => scalar::money(text, out),
        Kind::Text | Kind::Keyword | Kind::Address | Kind::Network | Kind::Time | Kind::TimeTz => {
            scalar::string(text, out);
            Ok(())
        }
        Kind::Lexemes => lexemes::lexemes(text, out),
        Kind::Range(element) => range::range(element, text, out),
        Kind::MultiRange(element) => range::multirange(element, text, out),
        Kind::Point => geo::point(text, out),
        Kind::Geometry => geo::geometry(text, out),
        Kind::PaddedText => {
            scalar::string(text.trim_end_matches(' '), out);
            Ok(())
        }
        Kind::Date => datetime::date(text, out),
        Kind::Timestamp => datetime::timestamp(text, out),
        Kind::TimestampTz => datetime::timestamp_tz(text, out),
        Kind::Bytea => scalar::bytea(text, out),
        Kind::Json => json::json(text, out),
        Kind::JsonWithRepeats => json::json_with_repeats(text, out),
        Kind::Hstore => nested::hstore(text, out),
        Kind::Array { element, delimiter } => array::array(element, *delimiter, text, out),
        Kind::Composite(fields) => nested::composite(fields, text, out),
    }
}

#[cfg(test)]
mod tests;
