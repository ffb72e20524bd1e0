//! URL parameters: each route says which it knows, and others are refused by name.

use std::time::Duration;

use percent_encoding::percent_decode_str;

use crate::dialect::json::did_you_mean;
use crate::dialect::time;
use crate::error::{Error, Result};

/// Parameters that every route has.
const EVERYWHERE: &[&str] =
    &["error_trace", "filter_path", "format", "human", "pretty", "source", "source_content_type"];

/// A request's parameters, decoded.
#[derive(Debug, Clone, Default)]
pub(crate) struct Params {
    path: String,
    pairs: Vec<(String, String)>,
}

impl Params {
    /// Reads a query string.
    pub(crate) fn read(path: &str, query: &str) -> Result<Self> {
        let decode = |text: &str| {
            let spaced = text.replace('+', " ");
            percent_decode_str(&spaced).decode_utf8().map(std::borrow::Cow::into_owned).map_err(
                |_| Error::argument(format!("parameter [{text}] of [{path}] is not UTF-8")),
            )
        };
        let mut pairs = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            pairs.push((decode(key)?, decode(value)?));
        }
        Ok(Self { path: path.to_owned(), pairs })
    }

    /// Parameters that came another way than in the URL.
    pub(crate) fn of(path: &str, pairs: Vec<(String, String)>) -> Self {
        Self { path: path.to_owned(), pairs }
    }

    /// The path of the request.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// Refuses parameters that are neither common nor among `known`.
    pub(crate) fn allow(&self, known: &[&str]) -> Result<()> {
        let is_known = |key: &str| EVERYWHERE.contains(&key) || known.contains(&key);
        let unknown: Vec<&str> =
            self.pairs.iter().map(|(key, _)| key.as_str()).filter(|key| !is_known(key)).collect();
        if unknown.is_empty() {
            return Ok(());
        }
        let named: Vec<String> = unknown
            .iter()
            .map(|key| match did_you_mean(key, known) {
                offer if offer.is_empty() => format!("[{key}]"),
                offer => format!("[{key}] ->{offer}"),
            })
            .collect();
        let plural = if named.len() == 1 { "" } else { "s" };
        Err(Error::argument(format!(
            "request [{}] contains unrecognized parameter{plural}: {}",
            self.path,
            named.join(", ")
        )))
    }

    /// A parameter's text; of several the last.
    pub(crate) fn text(&self, key: &str) -> Option<&str> {
        self.pairs.iter().rev().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// Whether a parameter is given at all.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.text(key).is_some()
    }

    /// A parameter's text, where it is given and not empty.
    pub(crate) fn filled(&self, key: &str) -> Option<&str> {
        self.text(key).filter(|text| !text.is_empty())
    }

    /// A boolean; given without a value it is true.
    pub(crate) fn boolean(&self, key: &str) -> Result<Option<bool>> {
        match self.text(key) {
            None => Ok(None),
            Some("" | "true") => Ok(Some(true)),
            Some("false") => Ok(Some(false)),
            Some(other) => Err(Error::argument(format!(
                "Failed to parse value [{other}] of parameter [{key}] as only [true] or [false] \
                 are allowed."
            ))),
        }
    }

    /// Whether a boolean is given and true.
    pub(crate) fn is_true(&self, key: &str) -> Result<bool> {
        Ok(self.boolean(key)?.unwrap_or(false))
    }

    /// A whole number.
    pub(crate) fn integer(&self, key: &str) -> Result<Option<i64>> {
        let parse = |text: &str| {
            text.parse().map_err(|_| {
                Error::argument(format!(
                    "Failed to parse int parameter [{key}] with value [{text}]"
                ))
            })
        };
        self.filled(key).map(parse).transpose()
    }

    /// A whole number from 0.
    pub(crate) fn count(&self, key: &str) -> Result<Option<usize>> {
        let Some(number) = self.integer(key)? else { return Ok(None) };
        usize::try_from(number).map(Some).map_err(|_| {
            Error::argument(format!("[{key}] parameter cannot be negative, found [{number}]"))
        })
    }

    /// A duration; `-1`, no limit, is `None` as one that is not given.
    pub(crate) fn duration(&self, key: &str) -> Result<Option<Duration>> {
        self.filled(key).map_or(Ok(None), |text| time::duration(text, key))
    }

    /// Texts separated by commas.
    pub(crate) fn list(&self, key: &str) -> Vec<String> {
        let text = self.text(key).unwrap_or_default();
        text.split(',').filter(|part| !part.is_empty()).map(str::to_owned).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded_and_typed() {
        let params = Params::read("/x", "q=a%20b+c&pretty&size=5&l=a,,b&size=7&t=2s").unwrap();
        assert_eq!(params.text("q"), Some("a b c"));
        assert_eq!(params.boolean("pretty").unwrap(), Some(true));
        assert_eq!(params.count("size").unwrap(), Some(7));
        assert_eq!(params.list("l"), ["a", "b"]);
        assert_eq!(params.duration("t").unwrap(), Some(Duration::from_secs(2)));
        assert!(Params::read("/x", "q=%ff").is_err());
    }

    #[test]
    fn unknown_parameters_are_refused_by_name() {
        let check = |query: &str, reason: &str| {
            let params = Params::read("/i/_search", query).unwrap();
            assert_eq!(params.allow(&["size", "from"]).unwrap_err().reason(), reason);
        };
        check("x=1&pretty", "request [/i/_search] contains unrecognized parameter: [x]");
        check(
            "sise=1&y",
            "request [/i/_search] contains unrecognized parameters: [sise] -> did you mean \
             [size]?, [y]",
        );
    }
}
