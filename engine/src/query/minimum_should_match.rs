//! How many optional clauses must match, worked out as Elasticsearch does.

use super::ast::MinimumShouldMatch;

/// How many of `clauses` must match. More than there are means that nothing matches.
pub(super) fn required(specification: &MinimumShouldMatch, clauses: usize) -> usize {
    let clauses = i64::try_from(clauses).unwrap_or(i64::MAX);
    usize::try_from(signed(specification, clauses).max(0)).unwrap_or(usize::MAX)
}

fn signed(specification: &MinimumShouldMatch, clauses: i64) -> i64 {
    match specification {
        MinimumShouldMatch::Count(count) => {
            let count = i64::from(*count);
            if count < 0 { clauses + count } else { count }
        }
        MinimumShouldMatch::Percent(percent) => {
            // Integer division rounds towards zero, as Elasticsearch's conversion does.
            let part = clauses.saturating_mul(i64::from(*percent)) / 100;
            if *percent < 0 { clauses + part } else { part }
        }
        MinimumShouldMatch::Above(steps) => {
            let step = steps
                .iter()
                .take_while(|(above, _)| clauses > i64::try_from(*above).unwrap_or(i64::MAX))
                .last();
            step.map_or(clauses, |(_, specification)| signed(specification, clauses).max(0))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::MinimumShouldMatch::{Above, Count, Percent};
    use super::*;

    #[test]
    fn every_form_counts_as_in_elasticsearch() {
        let steps = || Above(vec![(2, Percent(-25)), (9, Count(-3))]);
        let cases = [
            (Count(2), 5, 2),
            (Count(7), 5, 7),
            (Count(-1), 5, 4),
            (Count(-9), 5, 0),
            (Percent(75), 5, 3),
            (Percent(75), 4, 3),
            (Percent(10), 4, 0),
            (Percent(-25), 5, 4),
            (Percent(-25), 4, 3),
            (Percent(-25), 3, 3),
            (Percent(100), 3, 3),
            (Above(vec![(2, Percent(75))]), 2, 2),
            (Above(vec![(2, Percent(75))]), 4, 3),
            (steps(), 1, 1),
            (steps(), 2, 2),
            (steps(), 9, 7),
            (steps(), 10, 7),
            (Above(vec![(0, Count(-9))]), 3, 0),
        ];
        for (specification, clauses, expected) in cases {
            let actual = required(&specification, clauses);
            assert_eq!(actual, expected, "{specification:?} of {clauses}");
        }
    }
}
