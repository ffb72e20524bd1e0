//! Merges that somebody asked for, which go by what was asked rather than by what is worth it.
//!
//! They concern the segments that there were then, and what these are merged into: writes that go
//! on meanwhile bring segments of their own, which are left to the usual merges.

use std::collections::HashSet;

use crossbeam_channel::Sender;
use tantivy::index::SegmentId;

use super::segment::LiveSegment;
use crate::error::Result;

/// No segment gets more documents than tantivy can number.
const MAX_DOCS: u64 = (1 << 31) - 1;
/// Segments with no more than one in so many documents deleted are left alone when only deletes
/// are to go, as in Elasticsearch (`index.merge.policy.expunge_deletes_allowed` of 10 %).
const DELETES_ALLOWED: u32 = 10;

/// What is asked of merges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ForceMerge {
    /// The usual merges, until none is worth doing.
    WhatIsWorthIt,
    /// So many segments at most; with one, deleted documents go too.
    Down(usize),
    /// Segments of which many documents are deleted are written again.
    ExpungeDeletes,
}

/// A request that is being done.
pub(super) struct Forced {
    how: ForceMerge,
    members: HashSet<SegmentId>,
    pub(super) reply: Sender<Result<()>>,
}

/// What to do next for a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Merge the segments at these places.
    Merge(Vec<usize>),
    /// Wait for a merge that runs.
    Wait,
    Done,
}

impl Forced {
    /// A request about the segments as they are now.
    pub(super) fn new(
        how: ForceMerge,
        segments: &mut [LiveSegment],
        reply: Sender<Result<()>>,
    ) -> Self {
        let mut members = HashSet::new();
        if how != ForceMerge::WhatIsWorthIt {
            for segment in segments {
                segment.reserved = true;
                members.insert(segment.id);
            }
        }
        Self { how, members, reply }
    }

    /// Whether the usual merges do it.
    pub(super) fn is_usual(&self) -> bool {
        self.how == ForceMerge::WhatIsWorthIt
    }

    /// Whether it is about one of these.
    pub(super) fn concerns(&self, ids: &[SegmentId]) -> bool {
        ids.iter().any(|id| self.members.contains(id))
    }

    /// Some of its segments have been merged into another.
    pub(super) fn merged(&mut self, inputs: &[SegmentId], output: SegmentId) {
        self.members.retain(|id| !inputs.contains(id));
        if self.how != ForceMerge::ExpungeDeletes {
            self.members.insert(output);
        }
    }

    /// What is left to do.
    pub(super) fn step(&self, segments: &[LiveSegment]) -> Step {
        let members: Vec<Member> = segments
            .iter()
            .enumerate()
            .filter(|(_, segment)| self.members.contains(&segment.id) && segment.alive_count() > 0)
            .map(|(place, segment)| Member {
                place,
                alive: segment.alive_count(),
                max_doc: segment.max_doc,
                bytes: segment.files.sizes().0,
                merging: segment.merging,
            })
            .collect();
        step(self.how, members)
    }
}

#[derive(Debug, Clone, Copy)]
struct Member {
    place: usize,
    alive: u32,
    max_doc: u32,
    bytes: u64,
    merging: bool,
}

fn step(how: ForceMerge, mut members: Vec<Member>) -> Step {
    let chosen: Vec<usize> = match how {
        ForceMerge::ExpungeDeletes => {
            let wasteful = |member: &&Member| {
                member.max_doc - member.alive > member.max_doc / DELETES_ALLOWED && !member.merging
            };
            members.iter().find(wasteful).map(|member| member.place).into_iter().collect()
        }
        ForceMerge::Down(most) if members.len() > most.max(1) => {
            // The smallest: they cost least.
            members.sort_by_key(|member| (member.bytes, member.place));
            let surplus = members.len() - most.max(1) + 1;
            let mut docs = 0;
            let fitting = members.iter().take(surplus).take_while(|member| {
                docs += u64::from(member.alive);
                docs <= MAX_DOCS
            });
            let fitting: Vec<&Member> = fitting.collect();
            if fitting.iter().any(|member| member.merging) {
                return Step::Wait;
            }
            let mut places: Vec<usize> = fitting.iter().map(|member| member.place).collect();
            places.sort_unstable();
            if places.len() > 1 { places } else { Vec::new() }
        }
        ForceMerge::Down(0 | 1) => {
            let alone = members.first().filter(|member| member.alive < member.max_doc);
            alone.filter(|member| !member.merging).map(|member| member.place).into_iter().collect()
        }
        ForceMerge::Down(_) | ForceMerge::WhatIsWorthIt => Vec::new(),
    };
    match chosen.is_empty() {
        false => Step::Merge(chosen),
        true if members.iter().any(|member| member.merging) => Step::Wait,
        true => Step::Done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Segments as (living, all documents), each of a hundred bytes a document.
    fn check(how: ForceMerge, segments: &[(u32, u32)], merging: &[usize], expected: &Step) {
        let members = segments.iter().enumerate().map(|(place, &(alive, max_doc))| Member {
            place,
            alive,
            max_doc,
            bytes: u64::from(max_doc) * 100,
            merging: merging.contains(&place),
        });
        assert_eq!(&step(how, members.collect()), expected, "{how:?} of {segments:?}");
    }

    #[test]
    fn the_smallest_segments_are_joined() {
        let down = ForceMerge::Down;
        check(down(1), &[(9, 9), (5, 5), (1, 1)], &[], &Step::Merge(vec![0, 1, 2]));
        check(down(2), &[(9, 9), (5, 5), (1, 1)], &[], &Step::Merge(vec![1, 2]));
        check(down(2), &[(9, 9), (5, 5), (1, 1)], &[0], &Step::Merge(vec![1, 2]));
        check(down(2), &[(9, 9), (5, 5), (1, 1)], &[2], &Step::Wait);
        check(down(3), &[(9, 9), (5, 5), (1, 1)], &[], &Step::Done);
        check(down(3), &[(9, 9), (5, 5), (1, 1)], &[1], &Step::Wait);
        check(down(1), &[(9, 9)], &[], &Step::Done);
        check(down(1), &[(8, 9)], &[], &Step::Merge(vec![0]));
        check(down(2), &[(8, 9)], &[], &Step::Done);
        check(down(1), &[], &[], &Step::Done);
        let most = 1 << 31;
        check(down(1), &[(most, most), (most, most)], &[], &Step::Done);
    }

    #[test]
    fn deletes_are_expunged_where_there_are_many() {
        let segments = &[(95, 100), (89, 100), (1, 2)];
        check(ForceMerge::ExpungeDeletes, segments, &[], &Step::Merge(vec![1]));
        check(ForceMerge::ExpungeDeletes, segments, &[1], &Step::Merge(vec![2]));
        check(ForceMerge::ExpungeDeletes, segments, &[1, 2], &Step::Wait);
        check(ForceMerge::ExpungeDeletes, &segments[..1], &[], &Step::Done);
    }
}
