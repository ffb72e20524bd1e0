//! The nodes of one shard in one vector, threaded through several doubly linked lists by their
//! places: every list operation takes constant time, without a pointer in sight.

/// The place of a node. Used again after the node is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NodeId(u32);

/// The lists that every node can be in, one of each kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Chain {
    /// The small or the main queue.
    Queue,
    /// The keys of its slot.
    Slot,
    /// The keys that expire around the same time.
    Wheel,
    /// The keys made from the same versions of the same indexes.
    Group,
    /// The keys of its tenant.
    Tenant,
}

const CHAINS: usize = 5;

#[derive(Debug, Clone, Copy, Default)]
struct Links {
    previous: Option<NodeId>,
    next: Option<NodeId>,
}

/// One list: its ends, and what the nodes in it weigh.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct List {
    first: Option<NodeId>,
    last: Option<NodeId>,
    len: u32,
    bytes: u64,
}

impl List {
    /// The node that is in it the longest.
    pub(super) fn first(&self) -> Option<NodeId> {
        self.first
    }

    /// How many nodes.
    pub(super) fn len(&self) -> u32 {
        self.len
    }

    /// What they weigh.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }
}

#[derive(Debug)]
struct Place<T> {
    node: T,
    weight: u64,
    links: [Links; CHAINS],
}

/// The nodes.
#[derive(Debug)]
pub(super) struct Slab<T> {
    places: Vec<Option<Place<T>>>,
    free: Vec<NodeId>,
}

impl<T> Slab<T> {
    pub(super) const PLACE_BYTES: usize = size_of::<Option<Place<T>>>() + size_of::<NodeId>();

    pub(super) fn new() -> Self {
        Self { places: Vec::new(), free: Vec::new() }
    }

    /// Adds a node that is in no list yet. `None` where there are 2^32 already.
    pub(super) fn insert(&mut self, node: T, weight: u64) -> Option<NodeId> {
        let place = Some(Place { node, weight, links: [Links::default(); CHAINS] });
        if let Some(id) = self.free.pop() {
            *self.places.get_mut(id.0 as usize)? = place;
            return Some(id);
        }
        let id = NodeId(u32::try_from(self.places.len()).ok()?);
        self.places.push(place);
        Some(id)
    }

    /// Removes a node, which must be in no list any more.
    pub(super) fn remove(&mut self, id: NodeId) -> Option<T> {
        let place = self.places.get_mut(id.0 as usize)?.take()?;
        self.free.push(id);
        Some(place.node)
    }

    pub(super) fn get(&self, id: NodeId) -> Option<&T> {
        self.place(id).map(|place| &place.node)
    }

    pub(super) fn get_mut(&mut self, id: NodeId) -> Option<&mut T> {
        self.places.get_mut(id.0 as usize)?.as_mut().map(|place| &mut place.node)
    }

    /// What a node weighs.
    pub(super) fn weight(&self, id: NodeId) -> u64 {
        self.place(id).map_or(0, |place| place.weight)
    }

    /// Puts a node at the end of a list; it must be in none of this kind.
    pub(super) fn push(&mut self, chain: Chain, list: &mut List, id: NodeId) {
        let previous = list.last.replace(id);
        *self.links(id, chain) = Links { previous, next: None };
        match previous {
            Some(previous) => self.links(previous, chain).next = Some(id),
            None => list.first = Some(id),
        }
        list.len += 1;
        list.bytes += self.weight(id);
    }

    /// Takes a node out of the list of this kind that it is in.
    pub(super) fn unlink(&mut self, chain: Chain, list: &mut List, id: NodeId) {
        let Links { previous, next } = std::mem::take(self.links(id, chain));
        match previous {
            Some(previous) => self.links(previous, chain).next = next,
            None => list.first = next,
        }
        match next {
            Some(next) => self.links(next, chain).previous = previous,
            None => list.last = previous,
        }
        list.len -= 1;
        list.bytes -= self.weight(id);
    }

    /// The places of the nodes of a list, oldest first.
    pub(super) fn ids(&self, chain: Chain, list: &List) -> impl Iterator<Item = NodeId> {
        let next = move |&id: &NodeId| self.place(id)?.links[chain as usize].next;
        std::iter::successors(list.first, next)
    }

    /// The nodes of a list, oldest first.
    pub(super) fn iter(&self, chain: Chain, list: &List) -> impl Iterator<Item = &T> {
        self.ids(chain, list).filter_map(|id| self.get(id))
    }

    fn place(&self, id: NodeId) -> Option<&Place<T>> {
        self.places.get(id.0 as usize)?.as_ref()
    }

    #[expect(clippy::expect_used, reason = "only a list that holds a removed node gets here")]
    fn links(&mut self, id: NodeId, chain: Chain) -> &mut Links {
        let place = self.places.get_mut(id.0 as usize).and_then(Option::as_mut);
        &mut place.expect("a linked node is in the slab").links[chain as usize]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against two plain vectors, one for each chain.
        #[test]
        fn lists_behave_as_vectors_do(steps in prop::collection::vec((0..4_u8, any::<usize>()), 0..200)) {
            let chains = [Chain::Queue, Chain::Wheel];
            let mut slab = Slab::new();
            let mut lists = [List::default(); 2];
            let mut models = [const { Vec::<(NodeId, usize)>::new() }; 2];
            for (step, (kind, pick)) in steps.into_iter().enumerate() {
                if kind == 0 || models[0].is_empty() {
                    let id = slab.insert(step, 10).unwrap();
                    for ((chain, list), model) in chains.into_iter().zip(&mut lists).zip(&mut models) {
                        slab.push(chain, list, id);
                        model.push((id, step));
                    }
                } else {
                    let (id, node) = models[0][pick % models[0].len()];
                    for ((chain, list), model) in chains.into_iter().zip(&mut lists).zip(&mut models) {
                        slab.unlink(chain, list, id);
                        model.retain(|&(other, _)| other != id);
                        if kind == 1 {
                            slab.push(chain, list, id);
                            model.push((id, node));
                        }
                    }
                    if kind != 1 {
                        prop_assert_eq!(slab.remove(id), Some(node));
                    }
                }
                for ((chain, list), model) in chains.into_iter().zip(&lists).zip(&models) {
                    let nodes: Vec<_> = slab.iter(chain, list).copied().collect();
                    prop_assert_eq!(nodes, model.iter().map(|&(_, node)| node).collect::<Vec<_>>());
                    prop_assert_eq!(list.len() as usize, model.len());
                    prop_assert_eq!(list.bytes(), model.len() as u64 * 10);
                }
            }
        }
    }
}
