//! Which segments are merged.
//!
//! The policy is tiered by living bytes, as Lucene's `TieredMergePolicy`: what a merge costs goes by
//! bytes, and documents differ in size by orders of magnitude. A tier spans a factor of
//! [`TIER_FACTOR`]; so many segments of one tier make one of a higher. What is smaller than
//! [`FLOOR_BYTES`] is one tier, whose merges cost more for each segment than for its bytes.
//!
//! No merge takes a segment in that is larger than all its others together, so a document's segment
//! at least doubles with every merge that it is in but those for deletes. This bounds how often a
//! document is written: about once for each tier, and never more often than sizes can double.
//!
//! Segments past half of [`LARGEST_SEGMENT_BYTES`] are in no tier. As any other, they are written
//! again alone once many of their documents are deleted.

use super::segment::LiveSegment;

/// Segments whose living bytes lie within one power of this are of one tier,
const TIER_FACTOR: u64 = 6;
/// and all that are smaller than this: a segment of one document takes a tenth of it.
const FLOOR_BYTES: u64 = 16 << 10;
/// So many segments of one tier are merged.
const SEGMENTS_PER_TIER: usize = 6;
/// No merge of several segments makes one that is larger than this.
const LARGEST_SEGMENT_BYTES: u64 = 5 << 30;
/// Larger segments are merged with no others: two of them would be past the largest.
const LARGEST_INPUT_BYTES: u64 = LARGEST_SEGMENT_BYTES / 2;
/// Merges of more than this go straight to disk, and wait for each other but not for small ones.
const LARGE_MERGE_BYTES: u64 = 8 << 20;
/// A segment with more than one in this many documents deleted is merged by itself, as Lucene does
/// from `deletesPctAllowed` of 20 % on,
const DELETED_SHARE: u32 = 5;
/// unless all of it is so small that its tier soon will be.
const SMALLEST_ALONE_BYTES: u64 = 128 << 10;
/// The same while nothing is written, when it costs nobody anything: but for the largest.
const DELETED_SHARE_IDLE: u32 = 20;
/// A segment with so many bytes of sources that are not compressed is merged by itself then.
const RAW_BYTES_IDLE: u64 = 1 << 20;
/// And so many segments are worth a merge then.
const FEWEST_TOGETHER: usize = 3;

/// The segments that should be merged next, by their places in the list. `busy` says whether a
/// small and a large merge are running already, `idle` that nothing is written.
pub(super) fn choose(
    segments: &[LiveSegment],
    busy: [bool; 2],
    idle: bool,
) -> Option<(Vec<usize>, bool)> {
    let free = |segment: &LiveSegment| {
        !(segment.merging || segment.reserved || segment.files.is_damaged())
    };
    let candidates = segments.iter().enumerate().filter(|(_, segment)| free(segment));
    let candidates: Vec<Candidate> = candidates
        .map(|(place, segment)| Candidate {
            place,
            alive: segment.alive_count(),
            max_doc: segment.max_doc,
            bytes: living_bytes(segment),
            raw_bytes: segment.raw_source_bytes,
        })
        .filter(|candidate| candidate.alive > 0)
        .collect();
    let mut plans = plan(&candidates);
    if idle {
        plans.extend(plan_idle(&candidates));
    }
    plans.into_iter().find_map(|chosen| {
        let large = bytes_of(&chosen) >= LARGE_MERGE_BYTES;
        let places = chosen.iter().map(|candidate| candidate.place).collect();
        (!busy[usize::from(large)]).then_some((places, large))
    })
}

/// Bytes of a segment, as if its deleted documents were gone.
fn living_bytes(segment: &LiveSegment) -> u64 {
    let (alive, max_doc) = (segment.alive_count(), segment.max_doc);
    segment.files.sizes().0 * u64::from(alive) / u64::from(max_doc.max(1))
}

/// Whether a merge of the segments at these places is a large one.
pub(super) fn is_large(segments: &[LiveSegment], places: &[usize]) -> bool {
    let chosen = places.iter().filter_map(|&place| segments.get(place));
    chosen.map(living_bytes).sum::<u64>() >= LARGE_MERGE_BYTES
}

/// How many segments merges could still join.
pub(super) fn backlog(segments: &[LiveSegment]) -> usize {
    let mergeable = |segment: &&LiveSegment| {
        !segment.files.is_damaged() && living_bytes(segment) < LARGEST_INPUT_BYTES
    };
    segments.iter().filter(mergeable).count()
}

/// A segment that may be merged; some of its documents are alive.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    place: usize,
    alive: u32,
    max_doc: u32,
    /// Those of its living documents.
    bytes: u64,
    /// Of sources that no merge has tried to compress.
    raw_bytes: u64,
}

impl Candidate {
    /// 0 below the floor.
    fn tier(&self) -> u32 {
        (self.bytes / FLOOR_BYTES).checked_ilog(TIER_FACTOR).map_or(0, |power| power + 1)
    }

    fn fits_with_others(&self) -> bool {
        self.bytes < LARGEST_INPUT_BYTES
    }

    /// Whether more than one in so many of its documents are deleted, and a merge alone is worth it.
    fn is_wasteful(&self, share: u32) -> bool {
        let (alive, max_doc) = (u64::from(self.alive), u64::from(self.max_doc));
        let all_bytes = u128::from(self.bytes) * u128::from(max_doc) / u128::from(alive.max(1));
        all_bytes >= SMALLEST_ALONE_BYTES.into() && max_doc - alive > max_doc / u64::from(share)
    }
}

fn bytes_of(candidates: &[Candidate]) -> u64 {
    candidates.iter().map(|candidate| candidate.bytes).sum()
}

/// Merges worth doing, smallest tiers first.
fn plan(candidates: &[Candidate]) -> Vec<Vec<Candidate>> {
    let in_tiers = || candidates.iter().filter(|candidate| candidate.fits_with_others());
    let highest = in_tiers().map(Candidate::tier).max().unwrap_or_default();
    let mut plans = Vec::new();
    for level in 0..=highest {
        let members: Vec<Candidate> =
            in_tiers().filter(|candidate| candidate.tier() == level).copied().collect();
        let is_full = members.len() >= SEGMENTS_PER_TIER;
        let (together, is_cut) = worth_joining(members);
        if together.len() >= SEGMENTS_PER_TIER || (is_full && is_cut && together.len() > 1) {
            plans.push(together);
        }
    }
    let wasteful = candidates.iter().filter(|candidate| candidate.is_wasteful(DELETED_SHARE));
    plans.extend(wasteful.map(|candidate| vec![*candidate]));
    plans
}

/// As many of the smallest as make no segment past the largest, without one that is larger than all
/// others of them; and whether there would be more but for the former.
fn worth_joining(mut rising: Vec<Candidate>) -> (Vec<Candidate>, bool) {
    rising.sort_by_key(|candidate| candidate.bytes);
    let (mut total, mut count, mut is_cut) = (0_u64, 0, false);
    for (place, candidate) in rising.iter().enumerate() {
        is_cut = total + candidate.bytes > LARGEST_SEGMENT_BYTES;
        if is_cut {
            break;
        }
        if candidate.bytes <= total {
            count = place + 1;
        }
        total += candidate.bytes;
    }
    rising.truncate(count);
    (rising, is_cut)
}

/// Further merges while nothing is written, that leave few segments and few deleted documents, and
/// compress what is not yet.
///
/// The segments that are left at least double in size from one to the next, and a document is in few
/// such merges, however often writing begins and ends.
fn plan_idle(candidates: &[Candidate]) -> Vec<Vec<Candidate>> {
    let fitting = candidates.iter().filter(|candidate| candidate.fits_with_others()).copied();
    let fitting: Vec<Candidate> = fitting.collect();
    let worth_it = |candidate: &&Candidate| candidate.is_wasteful(DELETED_SHARE_IDLE);
    let is_raw = |candidate: &&Candidate| candidate.raw_bytes >= RAW_BYTES_IDLE;
    let alone = fitting.iter().filter(worth_it).chain(fitting.iter().filter(is_raw));
    let alone: Vec<Vec<Candidate>> = alone.map(|one| vec![*one]).collect();
    let (together, _) = worth_joining(fitting);
    let together = (together.len() >= FEWEST_TOGETHER).then_some(together);
    together.into_iter().chain(alone).collect()
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    const MIB: u64 = 1 << 20;

    fn full(place: usize, bytes: u64) -> Candidate {
        Candidate { place, alive: 1_000, max_doc: 1_000, bytes, raw_bytes: 0 }
    }

    fn with_deletes(place: usize, percent: u32, bytes: u64) -> Candidate {
        Candidate { place, alive: 1_000 - 10 * percent, max_doc: 1_000, bytes, raw_bytes: 0 }
    }

    fn places(plans: &[Vec<Candidate>]) -> Vec<Vec<usize>> {
        plans.iter().map(|plan| plan.iter().map(|one| one.place).collect()).collect()
    }

    /// Segments of these bytes, with a thousand documents each.
    fn check(sizes: &[u64], expected: &[&[usize]]) {
        let candidates = sizes.iter().enumerate().map(|(place, &bytes)| full(place, bytes));
        assert_eq!(places(&plan(&candidates.collect::<Vec<_>>())), expected, "{sizes:?}");
    }

    #[test]
    fn tiers_are_merged_when_full() {
        check(&[], &[]);
        check(&[MIB; 5], &[]);
        check(&[MIB; 6], &[&[0, 1, 2, 3, 4, 5]]);
        // As many documents, but other sizes.
        check(&[MIB, MIB, MIB, 1_000 * MIB, MIB, MIB], &[]);
        check(&[MIB, MIB, MIB, 1_000 * MIB, MIB, MIB, MIB], &[&[0, 1, 2, 4, 5, 6]]);
        check(&[1_000 * MIB, 1_000 * MIB, 1, 2, 3, 1_000 * MIB], &[]);
        // Whatever is below the floor is of one tier, but none is taken in by much smaller ones.
        let floor = FLOOR_BYTES;
        check(&[floor / 2, floor / 3, floor / 4, floor / 5, 1, 2], &[&[4, 5, 3, 2, 1, 0]]);
        check(&[floor - 1, 100, 100, 100, 100, 100], &[]);
        check(&[floor - 1, 100, 100, 100, 100, 100, 100], &[&[1, 2, 3, 4, 5, 6]]);
        check(&[floor, 100, 100, 100, 100, 100], &[]);
    }

    #[test]
    fn no_merge_makes_more_than_the_largest() {
        let most = LARGEST_SEGMENT_BYTES;
        check(&[most / 4; 6], &[&[0, 1, 2, 3]]);
        check(&[LARGEST_INPUT_BYTES - 1; 6], &[&[0, 1]]);
        check(&[LARGEST_INPUT_BYTES; 20], &[]);
        check(&[most; 20], &[]);
        check(&[u64::from(u32::MAX) << 20; 20], &[]);
    }

    #[test]
    fn deletes_have_a_segment_written_again_whatever_its_size() {
        let check = |percent, bytes, expected: &[&[usize]]| {
            let found = places(&plan(&[with_deletes(0, percent, bytes)]));
            assert_eq!(found, expected, "{percent} % of {bytes} bytes");
        };
        for bytes in [MIB, LARGEST_INPUT_BYTES, LARGEST_SEGMENT_BYTES, 100 * LARGEST_SEGMENT_BYTES]
        {
            check(20, bytes, &[]);
            check(21, bytes, &[&[0]]);
            check(99, bytes, &[&[0]]);
        }
        // Small with its deleted documents, too.
        check(50, SMALLEST_ALONE_BYTES / 2, &[&[0]]);
        check(50, SMALLEST_ALONE_BYTES / 2 - 1, &[]);
        // It is a large merge as any other: throttled, and one of an index at once.
        let chosen = plan(&[with_deletes(0, 21, LARGEST_SEGMENT_BYTES)]);
        assert!(chosen.iter().all(|chosen| bytes_of(chosen) >= LARGE_MERGE_BYTES));
    }

    fn check_idle(candidates: &[Candidate], expected: &[&[u64]]) {
        let plans: Vec<Vec<u64>> = plan_idle(candidates)
            .iter()
            .map(|plan| plan.iter().map(|candidate| candidate.bytes).collect())
            .collect();
        assert_eq!(plans, expected, "{candidates:?}");
    }

    #[test]
    fn idle_merges_leave_sizes_that_double() {
        let check = |sizes: &[u64], expected: &[&[u64]]| {
            let candidates: Vec<Candidate> = sizes.iter().map(|&bytes| full(0, bytes)).collect();
            check_idle(&candidates, expected);
        };
        check(&[], &[]);
        check(&[9], &[]);
        check(&[9, 9], &[]);
        check(&[9, 9, 9], &[&[9, 9, 9]]);
        check(&[9, 8, 7], &[&[7, 8, 9]]);
        check(&[20, 8, 7], &[]);
        check(&[100, 5, 3, 2], &[&[2, 3, 5]]);
        check(&[100, 7, 3, 1], &[]);
        check(&[100, 1, 1, 50, 50], &[&[1, 1, 50, 50, 100]]);
        let most = LARGEST_SEGMENT_BYTES;
        check(&[most, most, most], &[]);
        check(&[most / 4; 5], &[&[most / 4; 4]]);
        check_idle(&[with_deletes(0, 6, MIB)], &[&[MIB]]);
        check_idle(&[with_deletes(0, 5, MIB), with_deletes(0, 90, 40)], &[]);
        // The largest are left to the usual merges.
        check_idle(&[with_deletes(0, 20, LARGEST_INPUT_BYTES)], &[]);
    }

    #[test]
    fn what_is_not_compressed_is_merged_when_idle() {
        let one = |place, bytes: u64, raw_bytes| Candidate { raw_bytes, ..full(place, bytes) };
        let most = RAW_BYTES_IDLE;
        let plans = plan_idle(&[one(0, 100, most), one(1, 40, most - 1), one(2, 20, 2 * most)]);
        assert_eq!(places(&plans), [[0], [2]]);
        // Together with others comes first: it compresses, too.
        let plans = plan_idle(&[one(0, 30, most), one(1, 20, 0), one(2, 20, 0)]);
        assert_eq!(places(&plans), [vec![1, 2, 0], vec![0]]);
    }

    /// The segments of an index, and what merging them has cost.
    #[derive(Default)]
    struct Model {
        segments: Vec<Candidate>,
        written: u64,
        merged: u64,
        merges: u64,
        most_segments: usize,
    }

    /// What a segment takes besides its documents, about.
    const SEGMENT_BYTES: u64 = 1_300;

    impl Model {
        /// Publishes so many documents of so many bytes, and merges until nothing is to do.
        fn publish(&mut self, docs: u32, bytes_each: u64) {
            let bytes = SEGMENT_BYTES + u64::from(docs) * bytes_each;
            self.written += bytes;
            let new = Candidate { place: 0, alive: docs, max_doc: docs, bytes, raw_bytes: 0 };
            self.segments.push(new);
            while self.merge(plan) {}
            self.most_segments = self.most_segments.max(self.segments.len());
        }

        /// Merges once; whether anything was to do.
        fn merge(&mut self, policy: fn(&[Candidate]) -> Vec<Vec<Candidate>>) -> bool {
            self.segments.retain(|segment| segment.alive > 0);
            let numbered = self.segments.iter_mut().enumerate();
            numbered.for_each(|(place, segment)| segment.place = place);
            let Some(chosen) = policy(&self.segments).into_iter().next() else { return false };
            let largest = chosen.iter().map(|one| one.bytes).max().unwrap_or_default();
            let bytes = bytes_of(&chosen);
            assert!(chosen.len() == 1 || largest <= bytes - largest, "{chosen:?}");
            let alive = chosen.iter().map(|one| one.alive).sum();
            let bytes = bytes - SEGMENT_BYTES * (chosen.len() as u64 - 1);
            let merged = |one: &Candidate| chosen.iter().any(|other| other.place == one.place);
            self.segments.retain(|segment| !merged(segment));
            self.segments.push(Candidate { place: 0, alive, max_doc: alive, bytes, raw_bytes: 0 });
            self.merged += bytes;
            self.merges += 1;
            true
        }

        /// Deletes a document of a segment drawn by its number of living documents.
        fn delete(&mut self, random: &mut StdRng) {
            let total = self.segments.iter().map(|segment| segment.alive).sum();
            let mut place = random.random_range(0..total);
            let mut segments = self.segments.iter_mut();
            let hit = segments.find(|segment| {
                let found = place < segment.alive;
                place = place.saturating_sub(segment.alive);
                found
            });
            let hit = hit.unwrap();
            hit.bytes -= hit.bytes / u64::from(hit.alive);
            hit.alive -= 1;
        }

        /// How often what was published has been written again, in percent.
        fn amplification(&self) -> u64 {
            self.merged * 100 / self.written
        }
    }

    #[test]
    fn documents_of_one_size_are_merged_few_times_and_leave_few_segments() {
        // (documents of a publication, bytes of each), and how often all would be written if tiers
        // went by the number of documents, in percent.
        let cases = [((1, 200), 81), ((1, 20_000), 446), ((700, 200), 470)];
        for ((docs, bytes), by_documents) in cases {
            let mut model = Model::default();
            (0..20_000).for_each(|_| model.publish(docs, bytes));
            let (found, segments) = (model.amplification(), model.most_segments);
            let context = format!("{docs} of {bytes} bytes: {found} %, {segments} segments");
            assert!(found <= by_documents + 40 && segments <= 26, "{context}");
            assert!(model.merges <= 4_000, "{context}, {} merges", model.merges);
        }
    }

    /// Large documents are not written again because of many small ones.
    #[test]
    fn documents_of_many_sizes_are_merged_few_times_and_leave_few_segments() {
        // By the number of documents all of this would be written 3.9 times.
        let mut large = Model::default();
        large.publish(1_000, MIB);
        (0..5_000).for_each(|_| large.publish(1_000, 100));
        let (found, segments) = (large.amplification(), large.most_segments);
        assert!(found <= 150 && segments <= 26, "{found} %, {segments} segments");

        let mut mixed = Model::default();
        let mut random = StdRng::seed_from_u64(1);
        for _ in 0..2_000 {
            // From 100 bytes to almost a megabyte each.
            let bytes = 100 << random.random_range(0..14);
            mixed.publish(random.random_range(1..100), bytes);
        }
        let (found, segments) = (mixed.amplification(), mixed.most_segments);
        assert!(found <= 340 && segments <= 40, "{found} %, {segments} segments");
    }

    /// Every document is replaced again and again: few are deleted and still there, in segments past
    /// the largest, too.
    #[test]
    fn replaced_documents_do_not_pile_up() {
        for bytes in [200, MIB] {
            let mut model = Model::default();
            let mut random = StdRng::seed_from_u64(1);
            (0..100).for_each(|_| model.publish(200, bytes));
            let (before, written) = (model.merged, model.written);
            for _ in 0..400 {
                (0..200).for_each(|_| model.delete(&mut random));
                model.publish(200, bytes);
            }
            let alive: u32 = model.segments.iter().map(|segment| segment.alive).sum();
            let all: u32 = model.segments.iter().map(|segment| segment.max_doc).sum();
            let times = (model.merged - before) / (model.written - written);
            assert_eq!(alive, 20_000);
            assert!(all - alive < alive / 4, "{bytes}: {alive} of {all} documents are alive");
            assert!(times < 7, "{bytes}: all was written {times} times");
        }
    }

    /// Writes that come in spells, each so small, leave few segments and are merged few times.
    #[test]
    fn spells_of_writing_are_merged_few_times() {
        let mut model = Model::default();
        for _ in 0..1000 {
            model.segments.push(full(0, 10_000));
            while model.merge(plan_idle) {}
            assert!(model.segments.len() <= 12, "{:?}", model.segments);
        }
        assert!(model.merged <= 10 * 10_000_000, "{} bytes were merged", model.merged);
    }
}
