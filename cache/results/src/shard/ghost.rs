//! The ghost queue of S3-FIFO: which requests were evicted lately, without their answers.

use std::collections::VecDeque;

use hashbrown::HashMap;
use hashbrown::hash_map::Entry;

/// Hashes of requests, forgotten in the order that they came in.
#[derive(Debug, Default)]
pub(super) struct Ghost {
    queue: VecDeque<(u64, u64)>,
    /// How often each is in the queue and not yet remembered.
    counts: HashMap<u64, u32>,
    bytes: u64,
}

impl Ghost {
    /// What one ghost takes.
    pub(super) const GHOST_BYTES: usize = 2 * size_of::<(u64, u64)>() + 8;

    /// Notes a request whose answer weighed so much, then forgets the oldest until at most this many
    /// are left, and they weighed at most this much.
    pub(super) fn push(&mut self, request: u64, weight: u64, most: usize, most_bytes: u64) {
        self.queue.push_back((request, weight));
        *self.counts.entry(request).or_default() += 1;
        self.bytes += weight;
        while self.queue.len() > most || self.bytes > most_bytes {
            let Some((oldest, weight)) = self.queue.pop_front() else { return };
            self.bytes -= weight;
            if let Entry::Occupied(mut count) = self.counts.entry(oldest) {
                *count.get_mut() -= 1;
                (*count.get() == 0).then(|| count.remove());
            }
        }
    }

    /// Whether it was evicted lately; says so once.
    pub(super) fn remembers(&mut self, request: u64) -> bool {
        self.counts.remove(&request).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_remembers_the_latest_by_number_and_weight_and_once() {
        let mut ghost = Ghost::default();
        for request in 0..10 {
            ghost.push(request, 10, 5, 1_000);
        }
        assert!(!ghost.remembers(4));
        assert!(ghost.remembers(5));
        assert!(!ghost.remembers(5));
        ghost.push(10, 975, 5, 1_000);
        assert!(!ghost.remembers(7));
        assert!(ghost.remembers(8));
        assert!(ghost.remembers(10));
        ghost.push(11, 2_000, 5, 1_000);
        assert!(!ghost.remembers(11));
        assert_eq!((ghost.bytes, ghost.counts.len()), (0, 0));
    }
}
