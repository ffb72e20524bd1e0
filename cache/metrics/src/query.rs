//! Range queries: what was measured in each step of a span of time.

use std::sync::Arc;

use crate::error::Error;
use crate::gorilla::Sample;
use crate::series::{Matcher, Series};

/// How far apart two samples of a counter may be for the rate between them to be known; and how far
/// before the span a query looks for the first of them.
pub const MAX_RATE_GAP_SECONDS: i64 = 300;

/// What to make of the samples within one step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Aggregation {
    /// Their mean.
    Average,
    /// The smallest.
    Minimum,
    /// The largest.
    Maximum,
    /// Their sum.
    Sum,
    /// How many.
    Count,
    /// The newest.
    Last,
    /// How much a counter grew, a second. A counter that fell began again at 0. What it gained since
    /// the sample before belongs to the step of the later one.
    Rate,
}

/// A range query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// The name of the series.
    pub name: String,
    /// What their labels must be, all of it.
    pub matchers: Vec<Matcher>,
    /// The first second.
    pub from: i64,
    /// The last second.
    pub to: i64,
    /// How many seconds make one point.
    pub step: u32,
    /// What to make of them.
    pub aggregation: Aggregation,
}

/// The points of one series.
#[derive(Debug, Clone, PartialEq)]
pub struct Range {
    /// The series.
    pub series: Arc<Series>,
    /// One point for each step in which something is known, at the second where it begins.
    pub points: Vec<Sample>,
}

impl Query {
    /// Whether a series is asked for.
    pub(crate) fn matches(&self, series: &Series) -> bool {
        series.name() == self.name && self.matchers.iter().all(|matcher| matcher.matches(series))
    }

    /// The earliest second that matters.
    pub(crate) fn earliest(&self) -> i64 {
        match self.aggregation {
            Aggregation::Rate => self.from.saturating_sub(MAX_RATE_GAP_SECONDS),
            _ => self.from,
        }
    }

    /// Refuses what makes no sense, or has more steps than the limit.
    pub(crate) fn check(&self, max_points: u64) -> Result<(), Error> {
        if self.step == 0 {
            return Err(Error::invalid("step is 0 seconds, expected at least 1"));
        }
        if self.from > self.to {
            let message = format!("range begins at {} and ends at {}", self.from, self.to);
            return Err(Error::invalid(message));
        }
        let asked = self.to.abs_diff(self.from) / u64::from(self.step) + 1;
        if asked > max_points {
            return Err(Error::Full { what: "points of a query", asked, limit: max_points });
        }
        Ok(())
    }

    /// Makes points of the samples of one series, which are sorted by time.
    pub(crate) fn reduce(&self, samples: impl Iterator<Item = Sample>) -> Vec<Sample> {
        let mut points = Vec::new();
        let mut step: Option<Step> = None;
        let mut previous: Option<Sample> = None;
        for sample in samples.filter(|sample| sample.time <= self.to) {
            let before = previous.replace(sample);
            if sample.time < self.from {
                continue;
            }
            let begin = self.step_of(sample.time);
            if step.as_ref().is_some_and(|step| step.begin != begin) {
                points.extend(step.take().and_then(|step| step.point(self.aggregation)));
            }
            step.get_or_insert_with(|| Step::new(begin)).add(sample, before);
        }
        points.extend(step.and_then(|step| step.point(self.aggregation)));
        points
    }

    /// Where the step that this time is in begins.
    fn step_of(&self, time: i64) -> i64 {
        let since = time.abs_diff(self.from);
        time.saturating_sub_unsigned(since % u64::from(self.step))
    }
}

/// What is known of one step.
#[derive(Debug, Clone, Copy)]
struct Step {
    begin: i64,
    count: u64,
    sum: f64,
    minimum: f64,
    maximum: f64,
    last: f64,
    growth: f64,
    /// The seconds in which it grew so much.
    seconds: i64,
}

impl Step {
    fn new(begin: i64) -> Self {
        Self {
            begin,
            count: 0,
            sum: 0.0,
            minimum: f64::NAN,
            maximum: f64::NAN,
            last: f64::NAN,
            growth: 0.0,
            seconds: 0,
        }
    }

    fn add(&mut self, sample: Sample, before: Option<Sample>) {
        let value = sample.value;
        self.count += 1;
        self.sum += value;
        self.minimum = self.minimum.min(value);
        self.maximum = self.maximum.max(value);
        self.last = value;
        if let Some(before) = before
            && sample.time - before.time <= MAX_RATE_GAP_SECONDS
        {
            self.seconds += sample.time - before.time;
            self.growth += if value < before.value { value } else { value - before.value };
        }
    }

    #[expect(
        clippy::cast_precision_loss,
        reason = "a step has fewer than 2^53 samples and seconds"
    )]
    fn point(self, aggregation: Aggregation) -> Option<Sample> {
        let value = match aggregation {
            Aggregation::Average => self.sum / self.count as f64,
            Aggregation::Minimum => self.minimum,
            Aggregation::Maximum => self.maximum,
            Aggregation::Sum => self.sum,
            Aggregation::Count => self.count as f64,
            Aggregation::Last => self.last,
            Aggregation::Rate if self.seconds == 0 => return None,
            Aggregation::Rate => self.growth / self.seconds as f64,
        };
        Some(Sample { time: self.begin, value })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn query(from: i64, to: i64, step: u32, aggregation: Aggregation) -> Query {
        Query { name: "a".to_owned(), matchers: Vec::new(), from, to, step, aggregation }
    }

    fn samples(pairs: &[(i64, f64)]) -> Vec<Sample> {
        pairs.iter().map(|&(time, value)| Sample { time, value }).collect()
    }

    #[test]
    fn each_step_with_samples_is_a_point() {
        let stored = samples(&[(9, 100.0), (10, 1.0), (11, 5.0), (12, 3.0), (20, 7.0), (25, 9.0)]);
        let check = |aggregation, expected: &[(i64, f64)]| {
            let points = query(10, 24, 5, aggregation).reduce(stored.iter().copied());
            assert_eq!(points, samples(expected), "{aggregation:?}");
        };
        check(Aggregation::Average, &[(10, 3.0), (20, 7.0)]);
        check(Aggregation::Minimum, &[(10, 1.0), (20, 7.0)]);
        check(Aggregation::Maximum, &[(10, 5.0), (20, 7.0)]);
        check(Aggregation::Sum, &[(10, 9.0), (20, 7.0)]);
        check(Aggregation::Count, &[(10, 3.0), (20, 1.0)]);
        check(Aggregation::Last, &[(10, 3.0), (20, 7.0)]);
    }

    #[test]
    fn a_rate_sees_resets_gaps_and_what_was_before() {
        let check = |stored: &[(i64, f64)], expected: &[(i64, f64)]| {
            let points = query(100, 119, 10, Aggregation::Rate).reduce(samples(stored).into_iter());
            assert_eq!(points, samples(expected), "{stored:?}");
        };
        check(&[(100, 5.0)], &[]);
        check(&[(98, 0.0), (100, 10.0)], &[(100, 5.0)]);
        check(&[(100, 0.0), (105, 10.0), (115, 40.0)], &[(100, 2.0), (110, 3.0)]);
        // The process began again: the counter had 4 by the second sample.
        check(&[(100, 1000.0), (102, 4.0)], &[(100, 2.0)]);
        // Nothing was measured for too long.
        check(&[(-300, 0.0), (100, 4000.0), (101, 4001.0)], &[(100, 1.0)]);
    }

    #[test]
    fn queries_that_make_no_sense_are_refused() {
        let check = |query: Query, expected: &str| {
            assert_eq!(query.check(100).unwrap_err().to_string(), expected);
        };
        let aggregation = Aggregation::Last;
        check(query(0, 9, 0, aggregation), "step is 0 seconds, expected at least 1");
        check(query(1, 0, 1, aggregation), "range begins at 1 and ends at 0");
        check(query(0, 100, 1, aggregation), "points of a query: 101, at most 100");
        let all = query(i64::MIN, i64::MAX, u32::MAX, aggregation);
        check(all, "points of a query: 4294967298, at most 100");
        assert!(query(0, 99, 1, aggregation).check(100).is_ok());
    }

    proptest! {
        /// Against a model that looks at all samples for each step.
        #[test]
        fn steps_are_as_a_naive_model_has_them(
            times in prop::collection::btree_set(0..200_i32, 0..60),
            from in 0..150_i64, length in 0..80_i64, step in 1..30_u32,
        ) {
            let stored: Vec<_> = times
                .into_iter()
                .map(|time| Sample { time: time.into(), value: f64::from(time * 7919 % 101) })
                .collect();
            let to = from + length;
            let begins = (from..=to).step_by(step as usize);
            let mut expected = Vec::new();
            for begin in begins {
                let end = (begin + i64::from(step)).min(to + 1);
                let within = stored.iter().filter(|sample| (begin..end).contains(&sample.time));
                let sum: f64 = within.clone().map(|sample| sample.value).sum();
                if within.count() > 0 {
                    expected.push(Sample { time: begin, value: sum });
                }
            }
            let points = query(from, to, step, Aggregation::Sum).reduce(stored.into_iter());
            prop_assert_eq!(points, expected);
        }
    }
}
