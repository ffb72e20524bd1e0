//! The first part of a dictionary: a transducer from the terms to their ordinals.
//!
//! ```text
//! u64          2, the version
//! u64          0, the type
//! nodes        see `node`; the root comes last
//! u64          the number of terms
//! u64          the root's address
//! ```
//!
//! Built as in Mihov and Maurel, "Direct Construction of Minimal Acyclic Subsequential
//! Transducers" (2001): the nodes on the last term's path can still change; the next term leaves
//! that path at some depth, and those below are written then, each unless an equal one is there.
//!
//! As the values are the terms' ordinals, much of it becomes simple. The least ordinal below a node
//! is that of the first term that came through, and no later term changes it. So a transition's
//! output, the first ordinal of where it leads less that of where it begins, is known when the
//! transition is made; and a term that ends at a node is the first one through, so that final
//! outputs are all zero, as is the output of a node's only transition unless a term ends there.
//!
//! Most nodes have one transition only. They are not kept anywhere before they are written: they
//! are the bytes of the last term between those nodes that branch off or end a term.

use std::io;

use super::invalid;
use super::node::{self, Transition};
use super::registry::{self, Registry};

const VERSION: u64 = 2;
const TYPE: u64 = 0;

/// How many new nodes are registered, one above the other, before the rest above is not: a new
/// node's parents can only be shared when it is met again. A long ending that comes often is
/// registered further each time.
const MAX_REGISTERED_RUN: usize = 8;

/// Writes the transducer.
#[derive(Debug)]
pub(in crate::store) struct FstWriter {
    bytes: Vec<u8>,
    last_term: Vec<u8>,
    terms: u64,
    /// The nodes on the last term's path that have more than their transition on this path, from
    /// the root on.
    branches: Vec<Branch>,
    /// Their other transitions, in the same order.
    transitions: Vec<Transition>,
    registry: Registry,
}

#[derive(Debug)]
struct Branch {
    /// How many bytes of the term lead here.
    depth: usize,
    is_final: bool,
    first_ordinal: u64,
    /// Where its transitions begin in `FstWriter::transitions`; they end where the next one's do.
    transitions_start: usize,
}

/// A node that is written.
#[derive(Clone, Copy)]
struct Written {
    address: usize,
    /// How many nodes of the path from here down are new, without a gap: none if it was found.
    new_run: usize,
}

impl FstWriter {
    pub(in crate::store) fn new(expected_terms: usize) -> Self {
        let mut bytes = Vec::with_capacity(expected_terms.saturating_mul(8).clamp(256, 1 << 20));
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&TYPE.to_le_bytes());
        Self {
            bytes,
            last_term: Vec::new(),
            terms: 0,
            branches: Vec::new(),
            transitions: Vec::new(),
            registry: Registry::new(expected_terms),
        }
    }

    /// Adds a term with the next ordinal.
    pub(in crate::store) fn insert(&mut self, term: &[u8]) -> io::Result<()> {
        let depth = common_prefix(&self.last_term, term);
        if self.terms > 0 {
            match (self.last_term.get(depth), term.get(depth)) {
                (None, Some(_)) => self.continue_last_term(),
                (Some(last), Some(next)) if last < next => self.leave_last_term(depth),
                _ => return Err(self.out_of_order(term)),
            }
        }
        self.last_term.truncate(depth);
        self.last_term.extend_from_slice(&term[depth..]);
        self.terms += 1;
        Ok(())
    }

    /// The transducer's bytes.
    pub(in crate::store) fn finish(mut self) -> Vec<u8> {
        if !self.last_term.is_empty() {
            self.leave_last_term(0);
        }
        let root = self.write_root();
        self.bytes.extend_from_slice(&self.terms.to_le_bytes());
        self.bytes.extend_from_slice(&(root as u64).to_le_bytes());
        self.bytes
    }

    /// The next term begins with the last one.
    fn continue_last_term(&mut self) {
        self.branches.push(Branch {
            depth: self.last_term.len(),
            is_final: true,
            first_ordinal: self.terms - 1,
            transitions_start: self.transitions.len(),
        });
    }

    /// Nothing more comes below the last term's transition at this depth: writes what is there.
    fn leave_last_term(&mut self, depth: usize) {
        let mut end = self.last_term.len();
        let mut first_ordinal = self.terms - 1;
        let mut written = Written { address: node::END, new_run: 0 };
        while let Some(branch) = self.branches.pop_if(|branch| branch.depth > depth) {
            written = self.write_singles(branch.depth + 1, end, written);
            let output = first_ordinal - branch.first_ordinal;
            self.push_transition(branch.depth, output, written);
            written = self.write_branch(&branch, written.new_run);
            end = branch.depth;
            first_ordinal = branch.first_ordinal;
        }
        written = self.write_singles(depth + 1, end, written);
        let output = match self.branches.last() {
            Some(branch) if branch.depth == depth => first_ordinal - branch.first_ordinal,
            _ => {
                let transitions_start = self.transitions.len();
                let is_final = false;
                self.branches.push(Branch { depth, is_final, first_ordinal, transitions_start });
                0
            }
        };
        self.push_transition(depth, output, written);
    }

    fn push_transition(&mut self, depth: usize, output: u64, target: Written) {
        let input = self.last_term[depth];
        self.transitions.push(Transition { input, output, target: target.address });
    }

    /// Writes the nodes with one transition at the depths from `start` to `end`, the last of which
    /// leads to `target`. Gives the first one, or `target` if there are none.
    #[inline]
    fn write_singles(&mut self, start: usize, end: usize, target: Written) -> Written {
        let mut written = target;
        for &input in self.last_term[start..end].iter().rev() {
            let target = written.address;
            if written.new_run == 0
                && let Some(address) = self.registry.single(input, target)
            {
                written.address = address;
                continue;
            }
            written.address = node::put_single(&mut self.bytes, input, target);
            written.new_run += 1;
            if written.new_run <= MAX_REGISTERED_RUN {
                self.registry.add_single(input, target, written.address);
            }
        }
        written
    }

    /// Writes a node that has all its transitions; below its last one, so many nodes are new.
    fn write_branch(&mut self, branch: &Branch, new_run: usize) -> Written {
        let transitions = &self.transitions[branch.transitions_start..];
        let is_final = branch.is_final;
        let hash = registry::branch_hash(is_final, transitions);
        // If it leads to a new node, nothing equal can be there yet.
        let found = if new_run == 0 {
            self.registry.branch(hash, is_final, transitions, &mut self.bytes)
        } else {
            None
        };
        let written = if let Some(address) = found {
            Written { address, new_run: 0 }
        } else {
            let start = self.bytes.len();
            node::put_branch(&mut self.bytes, start, is_final, transitions);
            let address = self.bytes.len() - 1;
            if new_run < MAX_REGISTERED_RUN {
                self.registry.add_branch(hash, address, address + 1 - start);
            }
            Written { address, new_run: new_run + 1 }
        };
        self.transitions.truncate(branch.transitions_start);
        written
    }

    /// Writes the node that is left. Gives its address.
    fn write_root(&mut self) -> usize {
        let is_final = match self.branches.pop() {
            Some(root) => root.is_final,
            // The only term is the empty one.
            None if self.terms > 0 => return node::END,
            None => false,
        };
        if let &[Transition { input, target, .. }] = self.transitions.as_slice()
            && !is_final
        {
            return node::put_single(&mut self.bytes, input, target);
        }
        let start = self.bytes.len();
        node::put_branch(&mut self.bytes, start, is_final, &self.transitions);
        self.bytes.len() - 1
    }

    #[cold]
    fn out_of_order(&self, term: &[u8]) -> io::Error {
        const SHOWN: usize = 64;
        let shown = term[..term.len().min(SHOWN)].escape_ascii();
        invalid(format!("term {} ({shown}) does not come after the one before it", self.terms))
    }
}

fn common_prefix(left: &[u8], right: &[u8]) -> usize {
    left.iter().zip(right).take_while(|(left, right)| left == right).count()
}
