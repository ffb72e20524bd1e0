//! Media types: which bodies are read, which answers are wanted. Elastic's clients name theirs
//! `application/vnd.elasticsearch+json; compatible-with=8` and expect that name back.

use axum::http::{HeaderMap, HeaderValue, header};

use crate::error::{Error, Kind, Result};

/// Versions of the API that clients may ask to be compatible with.
const COMPATIBLE: &[&str] = &["7", "8", "9"];

/// What an answer is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    Json,
    /// Elastic's own name, at a version.
    Vendor(&'static str),
    /// A page, for people.
    Html,
    /// A table.
    Text,
}

impl Wanted {
    /// The `Content-Type` of an answer in JSON.
    pub(crate) fn json_type(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Vendor("7") => "application/vnd.elasticsearch+json;compatible-with=7",
            Self::Vendor("8") => "application/vnd.elasticsearch+json;compatible-with=8",
            Self::Vendor(_) => "application/vnd.elasticsearch+json;compatible-with=9",
            Self::Json | Self::Html | Self::Text => "application/json",
        })
    }
}

/// A media type's name in lower case, and its `compatible-with`.
fn parts(text: &str) -> (String, Option<&str>) {
    let mut pieces = text.split(';');
    let name = pieces.next().unwrap_or_default().trim().to_ascii_lowercase();
    let version = pieces.find_map(|piece| piece.trim().strip_prefix("compatible-with="));
    (name, version)
}

fn version(version: Option<&str>) -> Option<&'static str> {
    let wanted = version?.trim_matches('"');
    COMPATIBLE.iter().find(|known| **known == wanted).copied()
}

/// What the `Accept` header wants; of several what comes first and can be served.
pub(crate) fn wanted(headers: &HeaderMap) -> Result<Wanted> {
    let Some(accept) = headers.get(header::ACCEPT) else { return Ok(Wanted::Json) };
    let accept = accept.to_str().unwrap_or_default();
    let one = |text: &str| {
        let (name, compatible) = parts(text);
        match name.as_str() {
            "" | "*/*" | "application/*" | "application/json" | "application/x-ndjson" => {
                Some(Wanted::Json)
            }
            "application/vnd.elasticsearch+json" | "application/vnd.elasticsearch+x-ndjson" => {
                version(compatible).map(Wanted::Vendor)
            }
            "text/html" => Some(Wanted::Html),
            "text/plain" | "text/*" => Some(Wanted::Text),
            _ => None,
        }
    };
    accept.split(',').find_map(one).ok_or_else(|| {
        Error::new(
            Kind::NotAcceptable,
            format!("Invalid media-type value on headers [Accept]: [{accept}] is not supported"),
        )
    })
}

/// Refuses bodies in another language than JSON. One without a name is taken for JSON.
pub(crate) fn check_content_type(headers: &HeaderMap) -> Result<()> {
    let Some(given) = headers.get(header::CONTENT_TYPE) else { return Ok(()) };
    let given = given.to_str().unwrap_or_default();
    let (name, compatible) = parts(given);
    let known = match name.as_str() {
        "application/json" | "application/x-ndjson" | "application/*" | "*/*" => true,
        "application/vnd.elasticsearch+json" | "application/vnd.elasticsearch+x-ndjson" => {
            version(compatible).is_some()
        }
        _ => false,
    };
    if known {
        return Ok(());
    }
    Err(Error::new(Kind::MediaType, format!("Content-Type header [{given}] is not supported")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: header::HeaderName, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_static(value))])
    }

    #[test]
    fn what_clients_accept_is_understood() {
        let check = |accept: &'static str, expected: Option<Wanted>| {
            assert_eq!(wanted(&headers(header::ACCEPT, accept)).ok(), expected, "{accept}");
        };
        check("application/vnd.elasticsearch+json; compatible-with=8", Some(Wanted::Vendor("8")));
        check("application/vnd.elasticsearch+json;compatible-with=9", Some(Wanted::Vendor("9")));
        check("application/vnd.elasticsearch+json;compatible-with=6", None);
        check("*/*", Some(Wanted::Json));
        check("text/html,application/xhtml+xml,*/*;q=0.8", Some(Wanted::Html));
        check("text/plain", Some(Wanted::Text));
        check("application/yaml", None);
        check(
            "application/vnd.elasticsearch+json;compatible-with=8,text/plain",
            Some(Wanted::Vendor("8")),
        );
        assert_eq!(wanted(&HeaderMap::new()).unwrap(), Wanted::Json);
    }

    #[test]
    fn what_clients_send_is_understood() {
        let check = |content: &'static str, expected: bool| {
            let headers = headers(header::CONTENT_TYPE, content);
            assert_eq!(check_content_type(&headers).is_ok(), expected, "{content}");
        };
        check("application/json; charset=utf-8", true);
        check("Application/X-NDJSON", true);
        check("application/vnd.elasticsearch+x-ndjson; compatible-with=8", true);
        check("application/x-www-form-urlencoded", false);
        check("application/vnd.elasticsearch+json", false);
        check("text/plain", false);
        assert!(check_content_type(&HeaderMap::new()).is_ok());
    }
}
