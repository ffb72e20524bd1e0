//! Which terms fit a pattern, a beginning or a misspelling: shared by queries, that look terms up,
//! and by highlighting, that has only a document's text.

/// A test of one term.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Matcher {
    /// This term.
    Exact {
        /// The term.
        term: String,
        /// Whether ASCII letters match in either case.
        case_insensitive: bool,
    },
    /// Terms that begin so.
    Prefix {
        /// The beginning.
        prefix: String,
        /// Whether ASCII letters match in either case.
        case_insensitive: bool,
    },
    /// Terms that fit a pattern of `*` and `?`.
    Wildcard {
        /// The pattern.
        pattern: Vec<WildcardPart>,
        /// Whether ASCII letters match in either case.
        case_insensitive: bool,
    },
    /// Terms within an edit distance.
    Fuzzy(FuzzyMatcher),
}

/// One piece of a pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WildcardPart {
    /// This character.
    Char(char),
    /// Any character.
    One,
    /// Any characters, or none.
    Many,
}

/// Terms within an edit distance of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FuzzyMatcher {
    /// The term.
    pub(crate) term: String,
    /// How many edits.
    pub(crate) edits: u8,
    /// Leading characters that must be equal.
    pub(crate) prefix_length: usize,
    /// Whether swapping two neighbours is one edit.
    pub(crate) transpositions: bool,
}

impl Matcher {
    /// Reads a pattern of `*` and `?`, where a backslash escapes.
    pub(crate) fn wildcard(pattern: &str, case_insensitive: bool) -> Self {
        let mut parts = Vec::new();
        let mut characters = pattern.chars();
        while let Some(character) = characters.next() {
            let part = match character {
                '*' => WildcardPart::Many,
                '?' => WildcardPart::One,
                '\\' => WildcardPart::Char(characters.next().unwrap_or('\\')),
                other => WildcardPart::Char(other),
            };
            if part != WildcardPart::Many || parts.last() != Some(&WildcardPart::Many) {
                parts.push(part);
            }
        }
        Self::Wildcard { pattern: parts, case_insensitive }
    }

    /// Whether a term fits.
    pub(crate) fn matches(&self, term: &str) -> bool {
        match self {
            Self::Exact { term: wanted, case_insensitive: false } => term == wanted,
            Self::Exact { term: wanted, case_insensitive: true } => {
                term.eq_ignore_ascii_case(wanted)
            }
            Self::Prefix { prefix, case_insensitive: false } => term.starts_with(prefix.as_str()),
            Self::Prefix { prefix, case_insensitive: true } => {
                let beginning = term.as_bytes().get(..prefix.len());
                beginning.is_some_and(|bytes| bytes.eq_ignore_ascii_case(prefix.as_bytes()))
            }
            Self::Wildcard { pattern, case_insensitive } => fits(pattern, term, *case_insensitive),
            Self::Fuzzy(fuzzy) => fuzzy.distance(term).is_some(),
        }
    }

    /// What every fitting term begins with.
    pub(crate) fn literal_prefix(&self) -> String {
        match self {
            Self::Exact { term, case_insensitive: false } => term.clone(),
            Self::Prefix { prefix, case_insensitive: false } => prefix.clone(),
            Self::Wildcard { pattern, case_insensitive: false } => pattern
                .iter()
                .map_while(|part| match part {
                    WildcardPart::Char(character) => Some(character),
                    _ => None,
                })
                .collect(),
            Self::Fuzzy(fuzzy) => fuzzy.term.chars().take(fuzzy.prefix_length).collect(),
            _ => String::new(),
        }
    }
}

/// Greedy matching that goes back to the last `*`: time is at most the product of the lengths.
fn fits(pattern: &[WildcardPart], term: &str, case_insensitive: bool) -> bool {
    let equal = |wanted: char, found: char| {
        wanted == found || case_insensitive && wanted.eq_ignore_ascii_case(&found)
    };
    let mut at = 0;
    let mut rest = term.chars();
    let mut retry: Option<(usize, std::str::Chars<'_>)> = None;
    loop {
        let mut next = rest.clone();
        let found = next.next();
        let step = match (pattern.get(at), found) {
            (None, None) => return true,
            (Some(WildcardPart::Many), _) => {
                at += 1;
                retry = Some((at, rest.clone()));
                continue;
            }
            (Some(WildcardPart::One), Some(_)) => true,
            (Some(WildcardPart::Char(wanted)), Some(found)) => equal(*wanted, found),
            (_, None) => return false,
            (None, Some(_)) => false,
        };
        if step {
            at += 1;
            rest = next;
        } else {
            let Some((after, from)) = &mut retry else { return false };
            if from.next().is_none() {
                return false;
            }
            at = *after;
            rest = from.clone();
        }
    }
}

impl FuzzyMatcher {
    /// How many edits lead to a term, if not too many.
    pub(crate) fn distance(&self, term: &str) -> Option<u8> {
        let wanted: Vec<char> = self.term.chars().collect();
        let found: Vec<char> = term.chars().collect();
        let prefix = self.prefix_length.min(wanted.len());
        if found.len() < prefix || found.get(..prefix) != wanted.get(..prefix) {
            return None;
        }
        let limit = usize::from(self.edits);
        if wanted.len().abs_diff(found.len()) > limit {
            return None;
        }
        let distance = edit_distance(&wanted, &found, self.transpositions);
        u8::try_from(distance).ok().filter(|distance| *distance <= self.edits)
    }
}

/// Levenshtein's distance; with transpositions its restricted form (Damerau, optimal string
/// alignment), in three rows.
fn edit_distance(left: &[char], right: &[char], transpositions: bool) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=right.len()).collect();
    for (i, from) in left.iter().enumerate() {
        let mut row = Vec::with_capacity(right.len() + 1);
        row.push(i + 1);
        for (j, to) in right.iter().enumerate() {
            let mut best = (above[j] + usize::from(from != to)).min(above[j + 1] + 1);
            best = best.min(row[j] + 1);
            let swapped = transpositions && i > 0 && j > 0;
            if swapped && left[i - 1] == *to && right[j - 1] == *from {
                best = best.min(before[j - 1] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut above, row);
    }
    above.last().copied().unwrap_or(left.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards() {
        let cases = [
            ("a*c", "abbc", true),
            ("a*c", "ac", true),
            ("a*c", "acb", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("*", "", true),
            ("", "", true),
            ("", "a", false),
            ("*a*b*", "xxaxxbxx", true),
            ("*a*b*", "xxbxxaxx", false),
            ("a\\*", "a*", true),
            ("a\\*", "ab", false),
            ("\\", "\\", true),
            ("ü?", "üß", true),
            ("**x", "yyx", true),
            ("*aab", "aaaab", true),
            ("a*", "A", false),
        ];
        for (pattern, term, expected) in cases {
            let matcher = Matcher::wildcard(pattern, false);
            assert_eq!(matcher.matches(term), expected, "{pattern} on {term}");
        }
        assert!(Matcher::wildcard("aB*", true).matches("AbC"));
        assert_eq!(Matcher::wildcard("ab?c*", false).literal_prefix(), "ab");
        assert_eq!(Matcher::wildcard("ab?c*", true).literal_prefix(), "");
    }

    #[test]
    fn prefixes() {
        let prefix = |prefix: &str, case_insensitive| Matcher::Prefix {
            prefix: prefix.into(),
            case_insensitive,
        };
        assert!(prefix("ab", false).matches("abc"));
        assert!(!prefix("ab", false).matches("aBc"));
        assert!(prefix("aB", true).matches("Abc"));
        assert!(!prefix("aß", true).matches("a"));
        assert!(!prefix("a", true).matches("ß"));
    }

    #[test]
    fn distances() {
        let check = |term: &str, edits, transpositions, found, expected| {
            let fuzzy = FuzzyMatcher { term: term.into(), edits, prefix_length: 1, transpositions };
            assert_eq!(fuzzy.distance(found), expected, "{term} {found}");
        };
        check("house", 2, true, "house", Some(0));
        check("house", 2, true, "hause", Some(1));
        check("house", 2, true, "huose", Some(1));
        check("house", 2, false, "huose", Some(2));
        check("house", 1, false, "huose", None);
        check("house", 2, true, "mouse", None);
        check("house", 2, true, "hous", Some(1));
        check("house", 2, true, "houses!", Some(2));
        check("house", 2, true, "h", None);
        check("häuser", 1, true, "häusér", Some(1));
        check("ca", 2, true, "cbac", Some(2));
    }
}
