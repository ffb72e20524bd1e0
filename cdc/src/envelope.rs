//! The envelope of the pipeline's small files: a format, a checksum, and the content under a name.
//!
//! ```json
//! {"format": 1, "crc32c": 305419896, "name": {...}}
//! ```
//!
//! The checksum is of the bytes of the content's value, exactly as written. Another format, another
//! name or anything besides is refused.

use std::collections::BTreeMap;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::{RawValue, to_raw_value};

/// Writes the content of a file.
pub(crate) fn seal(name: &str, format: u32, content: &impl Serialize) -> std::io::Result<Vec<u8>> {
    let content = to_raw_value(content).map_err(std::io::Error::other)?;
    let content = content.get();
    let crc32c = crc32c::crc32c(content.as_bytes());
    let sealed = format!("{{\"format\":{format},\"crc32c\":{crc32c},\"{name}\":{content}}}");
    Ok(sealed.into_bytes())
}

/// Reads the content of a file, or says what is wrong with it.
pub(crate) fn open<T: DeserializeOwned>(
    name: &str,
    format: u32,
    sealed: &[u8],
) -> Result<T, String> {
    let damaged = |error: serde_json::Error| format!("is damaged: {error}");
    let mut fields: BTreeMap<String, Box<RawValue>> =
        serde_json::from_slice(sealed).map_err(damaged)?;
    let mut take = |field: &str| {
        fields.remove(field).ok_or_else(|| format!("is damaged: it has no field [{field}]"))
    };
    let number = |value: Box<RawValue>| serde_json::from_str::<u32>(value.get()).map_err(damaged);
    let found = number(take("format")?)?;
    if found != format {
        return Err(format!("has the unknown format {found}"));
    }
    let (expected, content) = (number(take("crc32c")?)?, take(name)?);
    if let Some(other) = fields.keys().next() {
        return Err(format!("is damaged: it has the unknown field [{other}]"));
    }
    let found = crc32c::crc32c(content.get().as_bytes());
    if found != expected {
        return Err(format!("is damaged: its checksum is [{found}], not [{expected}]"));
    }
    serde_json::from_str(content.get()).map_err(damaged)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn what_was_sealed_is_opened() {
        let sealed = seal("pipeline", 3, &json!({"paused": true})).unwrap();
        let written = br#"{"format":3,"crc32c":274196360,"pipeline":{"paused":true}}"#;
        assert_eq!(sealed, written);
        assert_eq!(open::<Value>("pipeline", 3, written), Ok(json!({"paused": true})));
        // White space and another order are none of the content.
        let spaced = br#"{ "crc32c": 274196360, "pipeline": {"paused":true}, "format": 3 }"#;
        assert_eq!(open::<Value>("pipeline", 3, spaced), Ok(json!({"paused": true})));
    }

    #[test]
    fn anything_else_is_refused() {
        let check = |sealed: &str, expected: &str| {
            let error = open::<Value>("pipeline", 3, sealed.as_bytes()).unwrap_err();
            assert!(error.contains(expected), "{sealed}: {error}");
        };
        let content = r#""crc32c":274196360,"pipeline":{"paused":true}"#;
        check(&format!("{{\"format\":4,{content}}}"), "unknown format 4");
        check(&format!("{{{content}}}"), "no field [format]");
        check(&format!("{{\"format\":3,{content},\"more\":1}}"), "unknown field [more]");
        check(r#"{"format":3,"crc32c":1,"pipeline":{"paused":true}}"#, "checksum is [274196360]");
        check(r#"{"format":3,"crc32c":274196360,"tables":[]}"#, "no field [pipeline]");
        check(r#"{"format":3,"crc32c":-1,"pipeline":{}}"#, "is damaged");
        check("[]", "is damaged");
    }
}
