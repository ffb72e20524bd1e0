//! Everything in memory: the head, where each series has a chunk that is written, and the partitions
//! behind it. It does no input or output but what mapped partitions do.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use crate::gorilla::{Chunk, Sample, TIMES};
use crate::partition::{self, Partition};
use crate::query::{Query, Range};
use crate::series::Series;

/// Where a query finds the samples of one series, oldest first.
#[derive(Debug)]
pub(crate) struct Sources {
    pub(crate) series: Arc<Series>,
    sealed: Vec<Arc<Partition>>,
    head: Option<Chunk>,
}

/// Why a sample is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Its time is not after that of the last sample of its series, or of a sealed partition.
    OutOfOrder,
    /// There are as many series as there may be.
    TooManySeries,
}

/// A partition, and whether a file holds it.
#[derive(Debug, Clone)]
pub(crate) struct Sealed {
    pub(crate) partition: Arc<Partition>,
    pub(crate) is_kept: bool,
}

/// The samples.
#[derive(Debug)]
pub(crate) struct Database {
    /// One copy of every name. Those that nothing else holds go when a partition is dropped.
    names: HashSet<Arc<Series>>,
    head: HashMap<Arc<Series>, Chunk>,
    /// Where the head's two hours begin.
    head_start: i64,
    partitions: BTreeMap<i64, Sealed>,
    max_series: usize,
}

impl Database {
    pub(crate) fn new(max_series: usize) -> Self {
        Self {
            names: HashSet::new(),
            head: HashMap::new(),
            head_start: i64::MIN,
            partitions: BTreeMap::new(),
            max_series,
        }
    }

    /// Takes a partition that a file holds. What begins before its end is refused from now on.
    pub(crate) fn add_kept(&mut self, partition: Partition) {
        self.head_start = self.head_start.max(partition.end());
        let (start, partition) = (partition.start(), Arc::new(partition));
        self.partitions.insert(start, Sealed { partition, is_kept: true });
    }

    /// The one copy of a name.
    pub(crate) fn intern(&mut self, series: Series) -> Arc<Series> {
        if let Some(name) = self.names.get(&series) {
            return Arc::clone(name);
        }
        let name = Arc::new(series);
        self.names.insert(Arc::clone(&name));
        name
    }

    /// Takes a sample; seals the head first where it is of the next two hours.
    pub(crate) fn push(&mut self, series: &Series, sample: Sample) -> Result<Arc<Series>, Refusal> {
        if !TIMES.contains(&sample.time) || sample.time < self.head_start {
            return Err(Refusal::OutOfOrder);
        }
        let start = Chunk::start_of(sample.time);
        if start > self.head_start {
            self.seal();
            self.head_start = start;
        }
        if let Some((name, _)) = self.head.get_key_value(series) {
            let name = Arc::clone(name);
            let chunk = self.head.get_mut(series).ok_or(Refusal::OutOfOrder)?;
            return chunk.append(sample).map(|()| name).map_err(|_| Refusal::OutOfOrder);
        }
        if self.head.len() >= self.max_series {
            return Err(Refusal::TooManySeries);
        }
        let mut chunk = Chunk::starting_at(sample.time);
        chunk.append(sample).map_err(|_| Refusal::OutOfOrder)?;
        let name = self.intern(series.clone());
        self.head.insert(Arc::clone(&name), chunk);
        Ok(name)
    }

    /// Turns the head into a partition that no file holds yet.
    fn seal(&mut self) {
        let head = std::mem::take(&mut self.head);
        let mut chunks: Vec<(&Series, &Chunk)> =
            head.iter().map(|(series, chunk)| (&**series, chunk)).collect();
        chunks.sort_unstable_by(|one, other| one.0.cmp(other.0));
        let Some((_, chunk)) = chunks.first() else { return };
        let start = chunk.start();
        let bytes = partition::write(start, &chunks);
        let memory = |bytes: Vec<u8>| egret_aof::disk::FileBytes::Memory(bytes.into());
        let partition = bytes.and_then(|bytes| {
            Partition::open(memory(bytes), |series| self.intern(series)).ok().map(Arc::new)
        });
        if let Some(partition) = partition {
            self.partitions.insert(start, Sealed { partition, is_kept: false });
        } else {
            tracing::error!(start, "two hours of metrics do not fit into a partition");
        }
    }

    /// An empty one with the same limits.
    pub(crate) fn to_empty(&self) -> Self {
        Self::new(self.max_series)
    }

    /// Takes what another has that no file holds, as far as it is newer.
    pub(crate) fn absorb(&mut self, other: &Self) {
        let not_kept = other.not_kept();
        let sealed = not_kept.iter().flat_map(|partition| {
            partition.series().map(|series| (series, partition.read(series).unwrap_or_default()))
        });
        let head = other.head().map(|(series, chunk)| (series, chunk.iter().collect()));
        for (series, samples) in sealed.chain(head) {
            for sample in samples {
                let _older = self.push(series, sample);
            }
        }
    }

    /// The partitions that no file holds yet, oldest first.
    pub(crate) fn not_kept(&self) -> Vec<Arc<Partition>> {
        let sealed = self.partitions.values().filter(|sealed| !sealed.is_kept);
        sealed.map(|sealed| Arc::clone(&sealed.partition)).collect()
    }

    /// Puts a partition that was mapped from its file in the place of the one in memory.
    pub(crate) fn replace_by_kept(&mut self, partition: Partition) {
        let (start, partition) = (partition.start(), Arc::new(partition));
        if let Some(sealed) = self.partitions.get_mut(&start) {
            *sealed = Sealed { partition, is_kept: true };
        }
    }

    /// Drops the partitions that end at or before this time; where they begin.
    pub(crate) fn drop_before(&mut self, time: i64) -> Vec<i64> {
        let is_old = |sealed: &Sealed| sealed.partition.end() <= time;
        let old: Vec<i64> = self
            .partitions
            .iter()
            .take_while(|(_, sealed)| is_old(sealed))
            .map(|(start, _)| *start)
            .collect();
        for start in &old {
            self.partitions.remove(start);
        }
        if !old.is_empty() {
            self.names.retain(|name| Arc::strong_count(name) > 1);
        }
        old
    }

    /// The chunks of the head.
    pub(crate) fn head(&self) -> impl Iterator<Item = (&Arc<Series>, &Chunk)> {
        self.head.iter()
    }

    /// Where to find what a query asks for, by series.
    pub(crate) fn sources(&self, query: &Query) -> Vec<Sources> {
        let mut sources = BTreeMap::<Arc<Series>, Sources>::new();
        let begin = Chunk::start_of(query.earliest());
        let spans = begin <= query.to;
        for (_, sealed) in
            spans.then(|| self.partitions.range(begin..=query.to)).into_iter().flatten()
        {
            for series in sealed.partition.series().filter(|series| query.matches(series)) {
                let source = sources.entry(Arc::clone(series));
                let source = source.or_insert_with(|| Sources::new(series));
                source.sealed.push(Arc::clone(&sealed.partition));
            }
        }
        if self.head_start <= query.to {
            for (series, chunk) in self.head().filter(|(series, _)| query.matches(series)) {
                let source = sources.entry(Arc::clone(series));
                source.or_insert_with(|| Sources::new(series)).head = Some(chunk.clone());
            }
        }
        sources.into_values().collect()
    }

    /// Every series that has samples, sorted.
    pub(crate) fn series(&self) -> Vec<Arc<Series>> {
        let sealed = self.partitions.values().flat_map(|sealed| sealed.partition.series());
        let all: BTreeSet<_> = self.head.keys().chain(sealed).map(Arc::clone).collect();
        all.into_iter().collect()
    }

    /// Partitions, samples, and the bytes that hold them.
    pub(crate) fn size(&self) -> Size {
        let partitions = self.partitions.values().map(|sealed| &sealed.partition);
        let mut size = Size { partitions: self.partitions.len(), ..Size::default() };
        for partition in partitions {
            size.samples += partition.samples();
            size.bytes += partition.byte_len() as u64;
        }
        for chunk in self.head.values() {
            size.samples += u64::from(chunk.count());
            size.head_bytes += chunk.byte_len() as u64;
        }
        size
    }
}

/// How much there is.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Size {
    pub(crate) partitions: usize,
    pub(crate) samples: u64,
    /// Of the partitions.
    pub(crate) bytes: u64,
    pub(crate) head_bytes: u64,
}

impl Sources {
    fn new(series: &Arc<Series>) -> Self {
        Self { series: Arc::clone(series), sealed: Vec::new(), head: None }
    }

    /// Reads the samples and makes points of them. Damaged chunks are left out and counted.
    pub(crate) fn evaluate(&self, query: &Query, damaged: &mut u64) -> Range {
        let sealed = self.sealed.iter().flat_map(|partition| {
            partition.read(&self.series).unwrap_or_else(|error| {
                *damaged += 1;
                tracing::warn!(series = %self.series, start = partition.start(), %error, "chunk left out");
                Vec::new()
            })
        });
        let head = self.head.iter().flat_map(Chunk::iter);
        let earliest = query.earliest();
        let samples = sealed.chain(head).skip_while(|sample| sample.time < earliest);
        Range { series: Arc::clone(&self.series), points: query.reduce(samples) }
    }
}
