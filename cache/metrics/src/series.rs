//! What a series is called, and how series are chosen.

use std::fmt;

use crate::error::Error;

/// The longest name of a series or label, and the longest value of a label, in bytes.
pub const MAX_TEXT_BYTES: usize = 255;
/// The most labels of a series.
pub const MAX_LABELS: usize = 32;

/// The name of a series and its labels, sorted: shown as Prometheus does.
///
/// ```
/// use egret_metrics::Series;
///
/// let series = Series::new("search_total", [("status", "200"), ("index", "packages")])?;
/// assert_eq!(series.to_string(), r#"search_total{index="packages",status="200"}"#);
/// # Ok::<_, egret_metrics::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Series {
    name: Box<str>,
    labels: Box<[(Box<str>, Box<str>)]>,
}

impl Series {
    /// A series of this name and labels. Names are letters, digits and `_`, and begin with no digit.
    /// A label with an empty value is no label.
    pub fn new<'text>(
        name: &str,
        labels: impl IntoIterator<Item = (&'text str, &'text str)>,
    ) -> Result<Self, Error> {
        check_name(name)?;
        let labels = labels.into_iter().filter(|(_, value)| !value.is_empty());
        let mut labels: Vec<(Box<str>, Box<str>)> =
            labels.map(|(label, value)| (label.into(), value.into())).collect();
        labels.sort_unstable();
        for (label, value) in &labels {
            check_name(label)?;
            if value.len() > MAX_TEXT_BYTES {
                return Err(Error::invalid(format!("value of label [{label}] is too long")));
            }
        }
        if let Some([(label, _), ..]) =
            labels.windows(2).find(|pair| matches!(pair, [one, other] if one.0 == other.0))
        {
            return Err(Error::invalid(format!("label [{label}] is there twice")));
        }
        if labels.len() > MAX_LABELS {
            let message =
                format!("series [{name}] has {} labels, at most {MAX_LABELS}", labels.len());
            return Err(Error::invalid(message));
        }
        Ok(Self { name: name.into(), labels: labels.into() })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its labels, sorted.
    pub fn labels(&self) -> impl Iterator<Item = (&str, &str)> {
        self.labels.iter().map(|(label, value)| (&**label, &**value))
    }

    /// The value of a label; empty where it has none.
    pub fn label(&self, label: &str) -> &str {
        self.labels().find(|(other, _)| *other == label).map_or("", |(_, value)| value)
    }

    /// Writes it: the number of labels, the name, then each label and its value; every text with its
    /// length in one byte before it.
    pub(crate) fn write(&self, bytes: &mut Vec<u8>) {
        // `new` has checked that all lengths fit.
        let byte = |length: usize| u8::try_from(length).unwrap_or(u8::MAX);
        bytes.push(byte(self.labels.len()));
        let texts = self.labels().flat_map(|(label, value)| [label, value]);
        for text in std::iter::once(self.name()).chain(texts) {
            bytes.push(byte(text.len()));
            bytes.extend_from_slice(text.as_bytes());
        }
    }

    /// Reads what [`Series::write`] wrote, and moves past it.
    pub(crate) fn read(bytes: &mut &[u8]) -> Option<Self> {
        let labels = *bytes.split_off_first()?;
        let mut text = || {
            let length = *bytes.split_off_first()?;
            std::str::from_utf8(bytes.split_off(..length.into())?).ok()
        };
        let name = text()?;
        let labels: Option<Vec<_>> = (0..labels).map(|_| Some((text()?, text()?))).collect();
        Self::new(name, labels?).ok()
    }
}

fn check_name(name: &str) -> Result<(), Error> {
    let mut characters = name.bytes();
    let is_name =
        characters.next().is_some_and(|first| first.is_ascii_alphabetic() || first == b'_')
            && characters.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
            && name.len() <= MAX_TEXT_BYTES;
    if is_name { Ok(()) } else { Err(Error::invalid(format!("not a name: [{name}]"))) }
}

impl fmt::Display for Series {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        let mut separator = '{';
        for (label, value) in self.labels() {
            let escaped = value.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n");
            write!(f, "{separator}{label}=\"{escaped}\"")?;
            separator = ',';
        }
        if separator == ',' { f.write_str("}") } else { Ok(()) }
    }
}

/// What a label must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Matcher {
    /// This label has this value; an empty one where the series lacks the label.
    Is(String, String),
    /// This label has not this value.
    IsNot(String, String),
    /// The value of this label begins with this text.
    StartsWith(String, String),
}

impl Matcher {
    /// Whether a series is as it must be.
    pub fn matches(&self, series: &Series) -> bool {
        match self {
            Self::Is(label, value) => series.label(label) == value,
            Self::IsNot(label, value) => series.label(label) != value,
            Self::StartsWith(label, start) => series.label(label).starts_with(start.as_str()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn labels_are_sorted_and_empty_ones_are_none() {
        let series = Series::new("a", [("y", "2"), ("x", "1"), ("z", "")]).unwrap();
        assert_eq!(series.to_string(), r#"a{x="1",y="2"}"#);
        assert_eq!(series, Series::new("a", [("x", "1"), ("y", "2")]).unwrap());
        assert_eq!(Series::new("a", []).unwrap().to_string(), "a");
        let odd = Series::new("a", [("x", "\"\\\n")]).unwrap();
        assert_eq!(odd.to_string(), r#"a{x="\"\\\n"}"#);
    }

    #[test]
    fn bad_names_are_refused() {
        let check = |name: &str, labels: &[(&str, &str)], expected: &str| {
            let error = Series::new(name, labels.iter().copied()).unwrap_err();
            assert_eq!(error.to_string(), expected);
        };
        check("", &[], "not a name: []");
        check("1a", &[], "not a name: [1a]");
        check("a-b", &[], "not a name: [a-b]");
        check("a", &[("é", "x")], "not a name: [é]");
        check("a", &[("x", "1"), ("x", "2")], "label [x] is there twice");
        check("a", &[("x", &"y".repeat(256))], "value of label [x] is too long");
        let long = "a".repeat(256);
        check(&long, &[], &format!("not a name: [{long}]"));
        let names: Vec<_> = (0..33).map(|place| format!("l{place}")).collect();
        let labels: Vec<_> = names.iter().map(|name| (name.as_str(), "1")).collect();
        check("a", &labels, "series [a] has 33 labels, at most 32");
    }

    #[test]
    fn matchers_take_a_missing_label_as_empty() {
        let series = Series::new("a", [("x", "one")]).unwrap();
        let check = |matcher: fn(String, String) -> Matcher, label: &str, value: &str, expected| {
            let matcher = matcher(label.to_owned(), value.to_owned());
            assert_eq!(matcher.matches(&series), expected, "{matcher:?}");
        };
        check(Matcher::Is, "x", "one", true);
        check(Matcher::Is, "x", "on", false);
        check(Matcher::Is, "y", "", true);
        check(Matcher::IsNot, "x", "one", false);
        check(Matcher::IsNot, "y", "one", true);
        check(Matcher::StartsWith, "x", "on", true);
        check(Matcher::StartsWith, "x", "two", false);
    }

    proptest! {
        #[test]
        fn a_series_survives_being_written(
            name in "[a-z_][a-z0-9_]{0,9}",
            labels in prop::collection::btree_map("[a-z_]{1,5}", ".{0,20}", 0..5),
            rest: Vec<u8>,
        ) {
            let labels = labels.iter().map(|(label, value)| (label.as_str(), value.as_str()));
            let series = Series::new(&name, labels).unwrap();
            let mut bytes = Vec::new();
            series.write(&mut bytes);
            bytes.extend_from_slice(&rest);
            let mut left = bytes.as_slice();
            prop_assert_eq!(Series::read(&mut left), Some(series));
            prop_assert_eq!(left, rest);
        }

        #[test]
        fn any_bytes_can_be_read_without_harm(bytes: Vec<u8>) {
            Series::read(&mut bytes.as_slice());
        }
    }
}
