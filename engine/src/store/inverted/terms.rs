//! The different terms of a field, numbered as they come.

use std::hash::BuildHasher as _;

use foldhash::fast::RandomState;

use crate::error::{Error, ErrorKind, Result};

/// How many slots a table begins with: a power of two.
const FIRST_SLOTS: usize = 64;

/// Terms by their numbers, and numbers by terms.
pub(in crate::store) struct TermTable {
    /// Open addressing; at least half of it is free.
    slots: Vec<Slot>,
    /// The terms, one after another.
    bytes: Vec<u8>,
    /// Where each ends.
    ends: Vec<u32>,
    /// Random: nobody can write words that all have one hash.
    state: RandomState,
}

#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    hash: u32,
    /// The term's number and one; 0 if the slot is free.
    next_id: u32,
}

impl TermTable {
    pub(in crate::store) fn new() -> Self {
        Self {
            slots: Vec::new(),
            bytes: Vec::new(),
            ends: Vec::new(),
            state: RandomState::default(),
        }
    }

    /// How many terms there are.
    pub(in crate::store) fn len(&self) -> usize {
        self.ends.len()
    }

    /// The term of this number.
    pub(in crate::store) fn term(&self, id: u32) -> &[u8] {
        let id = id as usize;
        let begin = id.checked_sub(1).and_then(|before| self.ends.get(before)).copied();
        let end = self.ends.get(id).copied().unwrap_or_default();
        self.bytes.get(begin.unwrap_or_default() as usize..end as usize).unwrap_or_default()
    }

    /// The number of a term, a new one if it was not there.
    pub(in crate::store) fn intern(&mut self, term: &[u8]) -> Result<u32> {
        if (self.ends.len() + 1) * 2 > self.slots.len() {
            self.grow();
        }
        // Tables have fewer slots than there are such numbers.
        let hash = (self.state.hash_one(term) >> 32) as u32;
        let mask = self.slots.len() - 1;
        let mut at = hash as usize & mask;
        loop {
            let slot = self.slots[at];
            let Some(id) = slot.next_id.checked_sub(1) else {
                let id = self.append(term)?;
                self.slots[at] = Slot { hash, next_id: id + 1 };
                return Ok(id);
            };
            if slot.hash == hash && self.term(id) == term {
                return Ok(id);
            }
            at = (at + 1) & mask;
        }
    }

    /// Adds a term without looking whether it is there. No table may be both appended to and
    /// interned in.
    pub(in crate::store) fn append(&mut self, term: &[u8]) -> Result<u32> {
        self.bytes.extend_from_slice(term);
        let end = u32::try_from(self.bytes.len()).map_err(|_| too_large())?;
        // Fewer than 2^32 - 1: only one is empty.
        let id = u32::try_from(self.ends.len()).map_err(|_| too_large())?;
        self.ends.push(end);
        Ok(id)
    }

    /// The numbers in the order of their terms' bytes; those of equal terms rise.
    pub(in crate::store) fn sorted(&self) -> Vec<u32> {
        let ids = 0..u32::try_from(self.ends.len()).unwrap_or(u32::MAX);
        let shared = self.shared_bytes();
        let key = |id| first_bytes(self.term(id).get(shared..).unwrap_or_default());
        // Most are told apart by the first bytes that not all have, which lie next to each other here.
        let mut keyed: Vec<_> = ids.map(|id| (key(id), id)).collect();
        keyed.sort_unstable_by(|left, right| {
            let bytes = || self.term(left.1).cmp(self.term(right.1));
            left.0.cmp(&right.0).then_with(bytes).then(left.1.cmp(&right.1))
        });
        keyed.into_iter().map(|(_, id)| id).collect()
    }

    /// The memory that it holds.
    pub(in crate::store) fn memory_bytes(&self) -> usize {
        self.bytes.capacity() + self.ends.capacity() * 4 + self.slots.capacity() * size_of::<Slot>()
    }

    /// Forgets what terms are looked for with: none comes any more.
    pub(in crate::store) fn end(&mut self) {
        self.slots = Vec::new();
    }

    /// How many bytes all terms begin with, as addresses do.
    fn shared_bytes(&self) -> usize {
        let (first, last) = (self.term(0), u32::try_from(self.ends.len()).unwrap_or(u32::MAX));
        let mut shared = first.len();
        for id in 1..last {
            if shared == 0 {
                break;
            }
            let pairs = first.iter().zip(self.term(id)).take(shared);
            shared = pairs.take_while(|(left, right)| left == right).count();
        }
        shared
    }

    fn grow(&mut self) {
        let length = (self.slots.len() * 2).max(FIRST_SLOTS);
        let old = std::mem::replace(&mut self.slots, vec![Slot::default(); length]);
        for slot in old.into_iter().filter(|slot| slot.next_id > 0) {
            let mut at = slot.hash as usize & (length - 1);
            while self.slots[at].next_id > 0 {
                at = (at + 1) & (length - 1);
            }
            self.slots[at] = slot;
        }
    }
}

/// A number that is ordered as the first eight bytes are.
fn first_bytes(term: &[u8]) -> u64 {
    let mut first = [0; 8];
    for (to, from) in first.iter_mut().zip(term) {
        *to = *from;
    }
    u64::from_be_bytes(first)
}

pub(in crate::store) fn too_large() -> Error {
    Error::new(ErrorKind::Internal, "a segment's field cannot have more than 4 GiB of terms")
}
