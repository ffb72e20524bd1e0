//! The files and folders of a simulated disk, each with what is durable and what is not yet.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Component, Path, PathBuf};

use super::fault::{Fault, Operation};

/// Writes survive or vanish in pieces of this size.
const SECTOR_BYTES: usize = 512;

pub(super) type NodeId = usize;
const ROOT: NodeId = 0;

#[derive(Debug, Clone)]
pub(super) enum Node {
    File(FileNode),
    Folder(FolderNode),
}

/// A file: as programs see it, as the last sync left it, and the changes between the two.
#[derive(Debug, Clone, Default)]
pub(super) struct FileNode {
    pub(super) current: Vec<u8>,
    pub(super) durable: Vec<u8>,
    pub(super) pending: Vec<Change>,
}

#[derive(Debug, Clone)]
pub(super) enum Change {
    Write { offset: usize, bytes: Vec<u8> },
    Truncate(usize),
}

/// A folder, likewise. A pending entry is a group of names set or unset together: a rename is one.
#[derive(Debug, Clone, Default)]
pub(super) struct FolderNode {
    pub(super) current: BTreeMap<String, NodeId>,
    durable: BTreeMap<String, NodeId>,
    pending: Vec<Vec<(String, Option<NodeId>)>>,
}

#[derive(Debug)]
pub(super) struct State {
    nodes: Vec<Node>,
    pub(super) dead: bool,
    pub(super) operations: u64,
    /// From which operation, which fault, and whether it stays.
    pub(super) faults: Vec<(u64, Fault, bool)>,
    pub(super) locks: BTreeSet<PathBuf>,
    pub(super) capacity: Option<u64>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            nodes: vec![Node::Folder(FolderNode::default())],
            dead: false,
            operations: 0,
            faults: Vec::new(),
            locks: BTreeSet::new(),
            capacity: None,
        }
    }
}

impl Change {
    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Self::Write { offset, bytes } => write_at(content, *offset, bytes),
            Self::Truncate(len) => content.resize(*len, 0),
        }
    }

    /// Applies whatever part of the change a power cut leaves.
    fn apply_some(&self, content: &mut Vec<u8>, random: &mut Random) {
        let (offset, bytes) = match self {
            Self::Truncate(len) => {
                if random.coin() {
                    content.resize(*len, 0);
                }
                return;
            }
            Self::Write { offset, bytes } => (*offset, bytes.as_slice()),
        };
        match random.below(5) {
            0 => {}
            1 => write_at(content, offset, bytes),
            2 => write_at(content, offset, &bytes[..random.below(bytes.len() + 1)]),
            3 => content.resize(content.len().max(offset + bytes.len()), 0),
            _ => write_some_sectors(content, offset, bytes, random),
        }
    }
}

fn write_some_sectors(content: &mut Vec<u8>, offset: usize, bytes: &[u8], random: &mut Random) {
    let mut at = 0;
    while at < bytes.len() {
        let to_boundary = SECTOR_BYTES - (offset + at) % SECTOR_BYTES;
        let end = (at + to_boundary).min(bytes.len());
        if random.coin() {
            write_at(content, offset + at, &bytes[at..end]);
        }
        at = end;
    }
}

fn write_at(content: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    if bytes.is_empty() {
        return;
    }
    let end = offset + bytes.len();
    if content.len() < end {
        content.resize(end, 0);
    }
    content[offset..end].copy_from_slice(bytes);
}

impl FileNode {
    pub(super) fn change(&mut self, change: Change) {
        change.apply(&mut self.current);
        self.pending.push(change);
    }

    pub(super) fn sync(&mut self) {
        for change in self.pending.drain(..) {
            change.apply(&mut self.durable);
        }
    }

    /// A failed sync: some of the pending changes reach the disk, the others never will.
    pub(super) fn lose_pages(&mut self, random: &mut Random) {
        for change in self.pending.drain(..) {
            change.apply_some(&mut self.durable, random);
        }
    }

    fn surviving(&self, random: &mut Random) -> Self {
        let mut content = self.durable.clone();
        let mood = random.mood();
        for change in &self.pending {
            match mood {
                Mood::All => change.apply(&mut content),
                Mood::None => {}
                Mood::Some => change.apply_some(&mut content, random),
            }
        }
        Self { current: content.clone(), durable: content, pending: Vec::new() }
    }
}

impl FolderNode {
    fn change(&mut self, group: Vec<(String, Option<NodeId>)>) {
        set_names(&mut self.current, &group);
        self.pending.push(group);
    }

    pub(super) fn sync(&mut self) {
        self.durable.clone_from(&self.current);
        self.pending.clear();
    }

    fn surviving_names(&self, random: &mut Random) -> BTreeMap<String, NodeId> {
        let mut names = self.durable.clone();
        let mood = random.mood();
        for group in &self.pending {
            if mood == Mood::All || (mood == Mood::Some && random.coin()) {
                set_names(&mut names, group);
            }
        }
        names
    }
}

fn set_names(names: &mut BTreeMap<String, NodeId>, group: &[(String, Option<NodeId>)]) {
    for (name, node) in group {
        match node {
            Some(id) => names.insert(name.clone(), *id),
            None => names.remove(name),
        };
    }
}

impl State {
    /// Counts one operation and says which fault it meets.
    pub(super) fn begin(&mut self, operation: Operation) -> io::Result<Option<Fault>> {
        if self.dead {
            return Err(Fault::PowerCut.to_error());
        }
        let number = self.operations;
        self.operations += 1;
        let met = self.faults.iter().position(|(at, f, _)| *at <= number && f.fits(operation));
        let Some(index) = met else { return Ok(None) };
        let (_, fault, stays) = self.faults[index];
        if !stays {
            self.faults.remove(index);
        }
        self.dead = fault == Fault::PowerCut;
        Ok(Some(fault))
    }

    /// Random numbers that depend only on the number of the operation.
    pub(super) fn random(&self) -> Random {
        Random(self.operations)
    }

    pub(super) fn coin(&self) -> bool {
        self.random().coin()
    }

    pub(super) fn random_below(&self, limit: usize) -> usize {
        self.random().below(limit)
    }

    pub(super) fn free_bytes(&self) -> usize {
        let Some(capacity) = self.capacity else { return usize::MAX };
        let used: usize = self.reachable_bytes(ROOT);
        usize::try_from(capacity).unwrap_or(usize::MAX).saturating_sub(used)
    }

    fn reachable_bytes(&self, id: NodeId) -> usize {
        match &self.nodes[id] {
            Node::File(file) => file.current.len(),
            Node::Folder(folder) => {
                folder.current.values().map(|id| self.reachable_bytes(*id)).sum()
            }
        }
    }

    pub(super) fn find(&self, path: &Path) -> io::Result<NodeId> {
        let mut id = ROOT;
        for name in names_of(path)? {
            let Node::Folder(folder) = &self.nodes[id] else {
                return Err(io::ErrorKind::NotADirectory.into());
            };
            id = *folder.current.get(&name).ok_or_else(|| not_found(path))?;
        }
        Ok(id)
    }

    pub(super) fn file(&mut self, id: NodeId) -> io::Result<&mut FileNode> {
        match &mut self.nodes[id] {
            Node::File(file) => Ok(file),
            Node::Folder(_) => Err(io::ErrorKind::IsADirectory.into()),
        }
    }

    pub(super) fn folder(&mut self, id: NodeId) -> io::Result<&mut FolderNode> {
        match &mut self.nodes[id] {
            Node::Folder(folder) => Ok(folder),
            Node::File(_) => Err(io::ErrorKind::NotADirectory.into()),
        }
    }

    /// The folder that a path lies in, and its name there.
    fn place(&self, path: &Path) -> io::Result<(NodeId, String)> {
        let mut names = names_of(path)?;
        let name = names.pop().ok_or(io::ErrorKind::InvalidInput)?;
        Ok((self.find(&names.iter().collect::<PathBuf>())?, name))
    }

    pub(super) fn add(&mut self, path: &Path, node: Node) -> io::Result<NodeId> {
        let (folder, name) = self.place(path)?;
        let id = self.nodes.len();
        let folder = self.folder(folder)?;
        if folder.current.contains_key(&name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        folder.change(vec![(name, Some(id))]);
        self.nodes.push(node);
        Ok(id)
    }

    /// Adds a folder and its missing parents.
    pub(super) fn add_folders(&mut self, path: &Path) -> io::Result<()> {
        let mut folder = PathBuf::new();
        for part in path.components() {
            folder.push(part);
            let found = match self.find(&folder) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    self.add(&folder, Node::Folder(FolderNode::default()))
                }
                found => found,
            };
            self.folder(found?)?;
        }
        Ok(())
    }

    pub(super) fn unlink(&mut self, path: &Path) -> io::Result<()> {
        let (folder, name) = self.place(path)?;
        self.folder(folder)?.change(vec![(name, None)]);
        Ok(())
    }

    pub(super) fn empty_folder(&mut self, id: NodeId) -> io::Result<()> {
        let children: Vec<_> =
            self.folder(id)?.current.iter().map(|(name, id)| (name.clone(), *id)).collect();
        for (name, child) in children {
            if matches!(self.nodes[child], Node::Folder(_)) {
                self.empty_folder(child)?;
            }
            self.folder(id)?.change(vec![(name, None)]);
        }
        Ok(())
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let id = self.find(from)?;
        let (from_folder, from_name) = self.place(from)?;
        let (to_folder, to_name) = self.place(to)?;
        if (from_folder, &from_name) == (to_folder, &to_name) {
            return Ok(());
        }
        if from_folder == to_folder {
            self.folder(to_folder)?.change(vec![(from_name, None), (to_name, Some(id))]);
        } else {
            self.folder(to_folder)?.change(vec![(to_name, Some(id))]);
            self.folder(from_folder)?.change(vec![(from_name, None)]);
        }
        Ok(())
    }

    /// A disk as the next process finds it: the same files and folders, nobody's locks.
    pub(super) fn after_kill(&self) -> Self {
        let (nodes, capacity) = (self.nodes.clone(), self.capacity);
        Self { nodes, capacity, operations: self.operations, ..Self::default() }
    }

    /// A disk with what may be left after a power cut.
    pub(super) fn surviving(&self, seed: u64) -> Self {
        let mut random = Random(seed);
        let mut after = Self { nodes: Vec::new(), capacity: self.capacity, ..Self::default() };
        self.copy_surviving(ROOT, &mut random, &mut after);
        after
    }

    fn copy_surviving(&self, id: NodeId, random: &mut Random, after: &mut Self) -> NodeId {
        let copy = after.nodes.len();
        match &self.nodes[id] {
            Node::File(file) => after.nodes.push(Node::File(file.surviving(random))),
            Node::Folder(folder) => {
                after.nodes.push(Node::Folder(FolderNode::default()));
                let mut names = BTreeMap::new();
                for (name, child) in folder.surviving_names(random) {
                    names.insert(name, self.copy_surviving(child, random, after));
                }
                after.nodes[copy] = Node::Folder(FolderNode {
                    current: names.clone(),
                    durable: names,
                    pending: Vec::new(),
                });
            }
        }
        copy
    }
}

fn names_of(path: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for part in path.components() {
        match part {
            Component::RootDir | Component::CurDir => {}
            Component::Normal(name) => names.push(name.to_string_lossy().into_owned()),
            Component::ParentDir | Component::Prefix(_) => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    format!("simulated disk takes no path like {}", path.display()),
                ));
            }
        }
    }
    Ok(names)
}

fn not_found(path: &Path) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("{} does not exist", path.display()))
}

/// How one file or folder comes out of a power cut: whole, as last synced, or in between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mood {
    All,
    None,
    Some,
}

/// `SplitMix64` (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
#[derive(Debug)]
pub(super) struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        let number = self.next() % (limit.max(1) as u64);
        usize::try_from(number).unwrap_or(0)
    }

    fn coin(&mut self) -> bool {
        self.next() & 1 == 1
    }

    fn mood(&mut self) -> Mood {
        match self.below(4) {
            0 => Mood::All,
            1 => Mood::None,
            _ => Mood::Some,
        }
    }
}
