//! The checksum of a document: the same for the same fields, in whatever order they come. A field that
//! is null counts as none: rows from before a column was added have it so, and their documents lack it.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use xxhash_rust::xxh3::{xxh3_64, xxh3_128, xxh3_128_with_seed};

/// What a document comes down to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Checksum(u128);

impl Checksum {
    /// Of a document's JSON. Values are taken as they are written: both sides have them from the same
    /// text by the same code.
    pub(crate) fn of(source: &[u8]) -> Self {
        serde_json::from_slice(source).unwrap_or_else(|_| Self(xxh3_128(source)))
    }
}

impl<'de> Deserialize<'de> for Checksum {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Fields)
    }
}

struct Fields;

impl<'de> Visitor<'de> for Fields {
    type Value = Checksum;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut fields: M) -> Result<Checksum, M::Error> {
        let mut sum: u128 = 0;
        while let Some(name) = fields.next_key::<String>()? {
            let value: &RawValue = fields.next_value()?;
            if value.get() != "null" {
                let field = xxh3_128_with_seed(value.get().as_bytes(), xxh3_64(name.as_bytes()));
                sum = sum.wrapping_add(field);
            }
        }
        Ok(Checksum(sum))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_compared_by_their_fields() {
        let check = |one: &str, other: &str, same: bool| {
            let equal = Checksum::of(one.as_bytes()) == Checksum::of(other.as_bytes());
            assert_eq!(equal, same, "{one} {other}");
        };
        check(r#"{"a":1,"b":[2,{"c":null}]}"#, r#"{"b":[2,{"c":null}],"a":1}"#, true);
        check(r#"{"a":1,"b":null}"#, r#"{"a":1}"#, true);
        check(r#"{"a":1}"#, r#"{"a":"1"}"#, false);
        check(r#"{"a":1.0}"#, r#"{"a":1}"#, false);
        check(r#"{"a":1,"b":2}"#, r#"{"a":2,"b":1}"#, false);
        check(r#"{"ab":1}"#, r#"{"a":1}"#, false);
        check(r#"{"\u0061":1}"#, r#"{"a":1}"#, true);
        check("{}", r#"{"a":null}"#, true);
        check("no object", "no object", true);
        check("no object", "another", false);
    }
}
