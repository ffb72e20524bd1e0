//! Patterns of `*` over names of indexes, aliases and templates.

/// Whether a name fits a pattern, in which each `*` stands for any characters.
pub fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = rest.get(at + part.len()..).unwrap_or_default(),
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// Whether some name fits both patterns.
pub(super) fn overlap(left: &str, right: &str) -> bool {
    // For each beginning of `left`: which beginnings of `right` can stand for the same text.
    let right: Vec<char> = right.chars().collect();
    let stars = right.iter().take_while(|c| **c == '*').count();
    let mut row: Vec<bool> = (0..=right.len()).map(|length| length <= stars).collect();
    for a in left.chars() {
        let mut last = row.first().is_some_and(|empty| *empty && a == '*');
        let mut next = vec![last];
        for (&b, pair) in right.iter().zip(row.windows(2)) {
            let &[diagonal, above] = pair else { break };
            last = match (a, b) {
                ('*', '*') => diagonal || above || last,
                // A star ends before this character or takes it as well.
                ('*', _) | (_, '*') => above || last,
                _ => diagonal && a == b,
            };
            next.push(last);
        }
        row = next;
    }
    row.last().copied().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_that_fit() {
        let check = |pattern, name, expected| {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        };
        check("*", "anything", true);
        check("a*c", "abc", true);
        check("a*c", "ab", false);
        check("a*b*c", "a-b-c", true);
        check("ab*ba", "aba", false);
        check("abc", "abc", true);
        check("abc", "abcd", false);
    }

    #[test]
    fn patterns_that_share_a_name() {
        let check = |left, right, expected| {
            assert_eq!(overlap(left, right), expected, "{left} {right}");
            assert_eq!(overlap(right, left), expected, "{right} {left}");
        };
        check("a*", "*b", true);
        check("a*", "b*", false);
        check("a", "a*", true);
        check("logs-*", "logs-*-x", true);
        check("a*b", "a*c", false);
        check("*", "", true);
        check("", "a", false);
    }

    proptest! {
        #[test]
        fn overlap_is_found_by_a_name(left in "[ab*]{0,5}", right in "[ab*]{0,5}") {
            let names = (0..=8usize).flat_map(|length| {
                (0..1usize << length).map(move |bits| {
                    (0..length).map(|at| if bits >> at & 1 == 0 { 'a' } else { 'b' }).collect()
                })
            });
            let shared = names.into_iter().any(|name: String| {
                matches(&left, &name) && matches(&right, &name)
            });
            prop_assert_eq!(overlap(&left, &right), shared);
        }
    }
}
