//! One pass over the matching documents of all snapshots: counts, the best hits, aggregations.
//!
//! Tantivy's collectors either prune or count; this one does both. A query that is a union or
//! intersection of terms is driven by block-max WAND and counted apart; everything else is read in
//! blocks.

mod block;

use std::sync::Arc;
use std::time::Instant;

use tantivy::query::{Scorer, Weight};
use tantivy::{DocId, TERMINATED};

use self::block::Block;
pub(super) use self::block::contains;
use super::count;
use super::request::{SearchRequest, SortBy, TrackTotalHits};
use super::response::Total;
use super::sort_key::SortPlan;
use super::top::{Address, Candidate, ScoreTop, SortTop, limits, merge_sorted};
use crate::control::{self, Deadline};
use crate::error::{ErrorKind, Result};
use crate::query::QueryLimits;
use crate::query::compile::{Compiled, Shape, compile, compile_filter};
use crate::snapshot::{Segment, Snapshot};

/// What takes every matching document beside the hits: the aggregations.
pub(super) trait Sink {
    /// An index begins.
    fn begin(&mut self, snapshot: &Snapshot) -> Result<()>;
    /// A segment begins.
    fn open(&mut self, snapshot: &Snapshot, segment: &Segment) -> Result<()>;
    /// Rising documents of the segment.
    fn collect(&mut self, docs: &[DocId]) -> Result<()>;
    /// The segment ends.
    fn close(&mut self) -> Result<()>;
}

/// What a pass found.
#[derive(Debug)]
pub(super) struct Collected {
    pub(super) hits: Vec<Candidate>,
    pub(super) total: Option<Total>,
    pub(super) max_score: Option<f32>,
    pub(super) timed_out: bool,
    pub(super) terminated_early: bool,
}

/// Collects what a request asks for. `wanted` is how many hits, those to be skipped included.
pub(super) fn collect<'a>(
    snapshots: &'a [Arc<Snapshot>],
    request: &'a SearchRequest,
    wanted: usize,
    limits: &QueryLimits,
    sink: Option<&'a mut (dyn Sink + 'a)>,
) -> Result<Collected> {
    let by_score = request.sort.is_empty();
    let sorted_by_score = request.sort.iter().any(|sort| sort.by == SortBy::Score);
    let scored = wanted > 0 && (by_score || sorted_by_score || request.track_scores)
        || request.min_score.is_some();
    let mut pass = Pass {
        request,
        wanted,
        scored,
        sink,
        counted: 0,
        count_limit: match request.track_total_hits {
            TrackTotalHits::Exact => u64::MAX,
            TrackTotalHits::UpTo(limit) => limit,
            TrackTotalHits::Off => 0,
        },
        top: ScoreTop::new(if by_score { wanted } else { 0 }),
        sorted: Vec::new(),
        max_score: None,
        timed_out: false,
        terminated_early: false,
    };
    let deadline = request.timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    let _deadline = Deadline::set(deadline);
    for (ordinal, snapshot) in snapshots.iter().enumerate() {
        let began = Instant::now();
        let done = pass.snapshot(ordinal, snapshot, limits);
        snapshot.activity().queried.add(began.elapsed());
        match done {
            // Its time was over while terms were looked for: what was found until then counts.
            Err(error) if error.kind() == ErrorKind::Timeout => pass.timed_out = true,
            done => done?,
        }
        control::go_on()?;
        if pass.timed_out {
            break;
        }
    }
    Ok(pass.finish())
}

struct Pass<'a> {
    request: &'a SearchRequest,
    wanted: usize,
    scored: bool,
    sink: Option<&'a mut (dyn Sink + 'a)>,
    counted: u64,
    count_limit: u64,
    top: ScoreTop,
    sorted: Vec<Candidate>,
    max_score: Option<f32>,
    timed_out: bool,
    terminated_early: bool,
}

/// One snapshot's query, ready to run.
struct Run<'a> {
    ordinal: usize,
    snapshot: &'a Snapshot,
    shape: Shape,
    weight: Box<dyn Weight>,
    post_filter: Option<Box<dyn Weight>>,
    plans: Vec<SortPlan<'a>>,
    /// Whether the total is known without looking at documents.
    count_known: bool,
    /// How many more documents `terminate_after` allows.
    left: u64,
}

impl<'a> Pass<'a> {
    fn snapshot(
        &mut self,
        ordinal: usize,
        snapshot: &'a Snapshot,
        limits: &QueryLimits,
    ) -> Result<()> {
        let request = self.request;
        let plans: Result<Vec<_>> =
            request.sort.iter().map(|sort| SortPlan::new(ordinal, snapshot, sort)).collect();
        let plans = plans?;
        let compiled = if self.scored {
            compile(snapshot, &request.query, limits)?
        } else {
            compile_filter(snapshot, &request.query, limits)?
        };
        let post_filter = match &request.post_filter {
            Some(filter) => {
                let compiled = compile_filter(snapshot, filter, limits)?;
                Some(compiled.weight(snapshot, false)?)
            }
            None => None,
        };
        if let Some(sink) = self.sink.as_deref_mut() {
            sink.begin(snapshot)?;
        }
        let count_known = self.count_ahead(snapshot, &compiled)?;
        let wants_hits = self.wanted > 0 && !self.is_complete(&plans, count_known);
        let needs_documents = wants_hits || self.sink.is_some() || !count_known;
        if compiled.shape == Shape::Nothing || !needs_documents {
            return Ok(());
        }
        let mut run = Run {
            ordinal,
            snapshot,
            shape: compiled.shape,
            weight: compiled.weight(snapshot, self.scored)?,
            post_filter,
            plans,
            count_known,
            left: request.terminate_after.unwrap_or(u64::MAX),
        };
        let mut base = 0;
        for (place, segment) in snapshot.segments().iter().enumerate() {
            if self.prunes(&run) {
                self.prune(&run, place, segment)?;
            } else if self.only_counts(&run) {
                self.count_rest(&run, segment)?;
            } else {
                self.segment(&mut run, place, segment, base)?;
            }
            base += u64::from(segment.reader().max_doc());
            if self.timed_out || run.left == 0 || self.is_complete(&run.plans, run.count_known) {
                break;
            }
        }
        Ok(())
    }

    /// Counts the hits of a snapshot without looking at documents, where that is possible; says
    /// whether the total is settled.
    fn count_ahead(&mut self, snapshot: &Snapshot, compiled: &Compiled) -> Result<bool> {
        let request = self.request;
        if request.post_filter.is_some()
            || request.min_score.is_some()
            || request.terminate_after.is_some()
        {
            return Ok(false);
        }
        let deleted = snapshot.deleted_count();
        // Where every match is looked at anyway, it is counted then.
        let looks_at_all = self.sink.is_some() || self.wanted > 0 && !request.sort.is_empty();
        Ok(match compiled.shape {
            Shape::Nothing => true,
            Shape::Everything(_) => {
                self.counted += snapshot.doc_count();
                true
            }
            Shape::Terms { at_least, single: true, .. } if deleted == 0 => {
                self.counted += at_least;
                true
            }
            Shape::Terms { at_least, .. } | Shape::Similar { at_least, .. } => {
                let least = at_least.saturating_sub(deleted);
                if self.counted.saturating_add(least) > self.count_limit {
                    self.counted += least;
                } else if looks_at_all {
                    return Ok(false);
                } else {
                    self.count_terms(snapshot, compiled)?;
                }
                true
            }
            _ => self.count_limit == 0,
        })
    }

    /// Counts the documents with any or all of the terms, until there are enough.
    fn count_terms(&mut self, snapshot: &Snapshot, compiled: &Compiled) -> Result<()> {
        let terms = compiled.terms();
        let weight = match compiled.shape {
            Shape::Similar { .. } => Some(compiled.weight(snapshot, self.scored)?),
            _ => None,
        };
        for segment in snapshot.segments() {
            let reader = segment.reader();
            self.counted += match (&weight, compiled.shape) {
                (Some(weight), _) => weight.count(reader)?.into(),
                (None, Shape::Terms { all: true, .. }) => count::with_all(reader, &terms)?,
                (None, _) => count::with_any(reader, &terms)?,
            };
            if self.counted > self.count_limit || self.is_late() {
                break;
            }
        }
        Ok(())
    }

    fn prunes(&self, run: &Run<'_>) -> bool {
        run.count_known
            && self.request.sort.is_empty()
            && self.wanted > 0
            && self.sink.is_none()
            && run.post_filter.is_none()
            && self.request.min_score.is_none()
            && self.request.terminate_after.is_none()
            && matches!(run.shape, Shape::Terms { .. } | Shape::Similar { .. })
    }

    /// The best of one segment by block-max WAND: only documents that may be among the best are
    /// looked at.
    fn prune(&mut self, run: &Run<'_>, place: usize, segment: &Segment) -> Result<()> {
        let slack = match run.shape {
            Shape::Terms { slack, .. } | Shape::Similar { slack, .. } => slack,
            _ => 1.0,
        };
        let reader = segment.reader();
        let alive = reader.alive_bitset();
        let mut seen = 0_u32;
        let mut charged = Ok(());
        let bound = |pass: &Self| lowered(pass.top.threshold(), slack);
        let start = bound(self);
        run.weight.for_each_pruning(start, reader, &mut |doc, score| {
            if alive.is_none_or(|alive| alive.is_alive(doc)) {
                self.top.offer(score, Address { snapshot: run.ordinal, segment: place, doc });
            }
            seen = seen.wrapping_add(1);
            if !seen.is_multiple_of(1024) {
                return bound(self);
            }
            charged = self.top.charge();
            if charged.is_err() || self.is_late() { f32::INFINITY } else { bound(self) }
        })?;
        charged?;
        self.top.charge()
    }

    /// Whether all hits score alike and there are enough, so that the others only count.
    fn only_counts(&self, run: &Run<'_>) -> bool {
        let (Shape::Constant(score) | Shape::Everything(score)) = run.shape else { return false };
        self.request.sort.is_empty()
            && self.wanted > 0
            && self.sink.is_none()
            && run.post_filter.is_none()
            && self.request.min_score.is_none()
            && self.request.terminate_after.is_none()
            && self.top.threshold().is_some_and(|least| score <= least)
    }

    fn count_rest(&mut self, run: &Run<'_>, segment: &Segment) -> Result<()> {
        if !run.count_known && self.counted <= self.count_limit && !self.is_late() {
            self.counted += count::matches(run.weight.as_ref(), run.shape, segment.reader())?;
        }
        Ok(())
    }

    /// Reads the matching documents of one segment in blocks.
    fn segment(
        &mut self,
        run: &mut Run<'_>,
        place: usize,
        segment: &Segment,
        base: u64,
    ) -> Result<()> {
        let reader = segment.reader();
        let columns: Result<Vec<_>> =
            run.plans.iter().map(|plan| plan.open(segment, base)).collect();
        let columns = columns?;
        let after = match &self.request.search_after {
            Some(after) => Some(limits(&run.plans, &columns, after)?),
            None => None,
        };
        let first = match (after.as_ref().and_then(|after| after.first()), run.plans.first()) {
            (Some((limit, _)), Some(plan)) if self.follows(&run.plans, run.count_known) => {
                plan.first_doc(*limit, base)
            }
            _ => 0,
        };
        if first > 0 && first >= u64::from(reader.max_doc()) {
            return Ok(());
        }
        let mut scorer = run.weight.scorer(reader, 1.0)?;
        let first = DocId::try_from(first).unwrap_or(TERMINATED);
        if first > scorer.doc() {
            scorer.seek(first);
        }
        let mut filter = match &run.post_filter {
            Some(weight) => Some(weight.scorer(reader, 1.0)?),
            None => None,
        };
        let mut sorted = SortTop::new(self.wanted, &columns, after.as_deref());
        if let Some(sink) = self.sink.as_deref_mut() {
            sink.open(run.snapshot, segment)?;
        }
        let mut block = Block::new();
        let mut blocks = 0_u32;
        loop {
            control::go_on()?;
            let ended = block.fill(scorer.as_mut(), self.scored);
            block.retain_wanted(segment, self.request.min_score);
            self.terminate(run, &mut block);
            if let Some(sink) = self.sink.as_deref_mut() {
                sink.collect(block.docs())?;
            }
            self.offer(run, place, &block, filter.as_deref_mut(), &mut sorted);
            self.top.charge()?;
            sorted.charge()?;
            blocks = blocks.wrapping_add(1);
            if ended || run.left == 0 || self.is_settled(run, &sorted) {
                break;
            }
            // What aggregations do with a block may take long.
            let often = if self.sink.is_some() { 4 } else { 16 };
            if blocks.is_multiple_of(often) && self.is_late() {
                break;
            }
        }
        if let Some(sink) = self.sink.as_deref_mut() {
            sink.close()?;
        }
        if !self.request.sort.is_empty() {
            let scored = self.scored && (self.request.track_scores || self.sorts_by_score());
            self.sorted.extend(sorted.into_candidates(run.ordinal, place, scored)?);
        }
        Ok(())
    }

    fn terminate(&mut self, run: &mut Run<'_>, block: &mut Block) {
        let left = usize::try_from(run.left).unwrap_or(usize::MAX);
        block.len = block.len.min(left);
        run.left = run.left.saturating_sub(block.len as u64);
        self.terminated_early |= run.left == 0;
    }

    fn offer(
        &mut self,
        run: &Run<'_>,
        place: usize,
        block: &Block,
        mut filter: Option<&mut (dyn Scorer + 'static)>,
        sorted: &mut SortTop<'_>,
    ) {
        for (&doc, &score) in block.docs().iter().zip(&block.scores) {
            if let Some(filter) = filter.as_deref_mut()
                && !contains(filter, doc)
            {
                continue;
            }
            self.counted += u64::from(!run.count_known);
            if self.wanted == 0 {
                continue;
            }
            if self.request.sort.is_empty() {
                self.top.offer(score, Address { snapshot: run.ordinal, segment: place, doc });
                continue;
            }
            if self.scored {
                self.max_score = Some(self.max_score.map_or(score, |max| max.max(score)));
            }
            sorted.offer(doc, score);
        }
    }

    /// Whether no further document of the segment can change the answer.
    fn is_settled(&self, run: &Run<'_>, sorted: &SortTop<'_>) -> bool {
        let counted = run.count_known || self.counted > self.count_limit;
        if !counted || self.sink.is_some() {
            return false;
        }
        if self.wanted == 0 {
            return true;
        }
        if self.request.sort.is_empty() {
            let equal = matches!(run.shape, Shape::Constant(_) | Shape::Everything(_));
            let score = match run.shape {
                Shape::Constant(score) | Shape::Everything(score) => score,
                _ => f32::INFINITY,
            };
            return equal && self.top.threshold().is_some_and(|least| score <= least);
        }
        self.follows(&run.plans, run.count_known) && sorted.is_full()
    }

    /// Whether hits come in the order of the documents and nothing is wanted of other documents.
    fn follows(&self, plans: &[SortPlan<'_>], count_known: bool) -> bool {
        let counted = count_known
            || self.counted > self.count_limit
            || self.request.track_total_hits == TrackTotalHits::Off;
        let in_order = plans.first().is_some_and(SortPlan::is_doc_order);
        counted && in_order && !self.scored && self.sink.is_none()
    }

    /// Whether no segment or index that follows can change the hits.
    fn is_complete(&self, plans: &[SortPlan<'_>], count_known: bool) -> bool {
        let in_order = plans.first().is_some_and(SortPlan::is_shard_order);
        in_order && self.follows(plans, count_known) && self.sorted.len() >= self.wanted
    }

    fn sorts_by_score(&self) -> bool {
        self.request.sort.iter().any(|sort| sort.by == SortBy::Score)
    }

    fn is_late(&mut self) -> bool {
        // One that is to stop altogether ends the same way; what it found is not looked at.
        self.timed_out |= control::in_time().is_err();
        self.timed_out
    }

    fn finish(self) -> Collected {
        let by_score = self.request.sort.is_empty();
        let hits = if by_score {
            self.top.into_candidates()
        } else {
            merge_sorted(self.sorted, &self.request.sort, self.wanted)
        };
        let max_score = if by_score {
            hits.first().and_then(|hit| hit.score)
        } else if self.request.track_scores {
            self.max_score
        } else {
            None
        };
        let total = match self.request.track_total_hits {
            TrackTotalHits::Off => None,
            TrackTotalHits::Exact => Some(Total { value: self.counted, exact: true }),
            TrackTotalHits::UpTo(limit) => {
                Some(Total { value: self.counted.min(limit), exact: self.counted <= limit })
            }
        };
        let total = total.map(|total| Total {
            exact: total.exact && !self.timed_out && !self.terminated_early,
            ..total
        });
        Collected {
            hits,
            total,
            max_score,
            timed_out: self.timed_out,
            terminated_early: self.terminated_early,
        }
    }
}

/// A threshold low enough that nothing better is lost where a block's best score is known only
/// within a factor, and sums of scores only up to rounding.
fn lowered(threshold: Option<f32>, slack: f32) -> f32 {
    match threshold {
        Some(threshold) if threshold > 0.0 => threshold / slack * (1.0 - 1e-6),
        Some(threshold) => threshold - f32::EPSILON,
        None => f32::MIN,
    }
}
