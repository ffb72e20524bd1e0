//! The records of the log: what kinds there are, and how they are written and read.
//!
//! ```text
//! kind 1  series   number: 4 bytes, little endian as all; name and labels, as series.rs writes them
//! kind 2  samples  time: 8 bytes; then for each: series: 4, value: 8, its IEEE 754 bits
//! kind 3  chunk    series: 4; a chunk, as gorilla.rs draws it: sums up samples after a rewrite
//! ```

use std::collections::HashMap;
use std::sync::Arc;

use egret_aof::Error;
use egret_aof::log::Record;

use crate::database::Database;
use crate::gorilla::{self, Sample};
use crate::series::Series;

const KIND_SERIES: u8 = 1;
const KIND_SAMPLES: u8 = 2;
const KIND_CHUNK: u8 = 3;

/// What the log calls the series that it names. Numbers are not used twice.
#[derive(Debug, Default)]
pub(crate) struct Numbers {
    of: HashMap<Arc<Series>, u32>,
    next: u32,
}

impl Numbers {
    /// As a replay has read them.
    pub(crate) fn from_names(names: HashMap<u32, Arc<Series>>) -> Self {
        let next = names.keys().max().map_or(0, |last| last + 1);
        Self { of: names.into_iter().map(|(number, series)| (series, number)).collect(), next }
    }

    /// For a new base of the same log: no names yet, and none of the numbers used so far.
    pub(crate) fn to_empty(&self) -> Self {
        Self { of: HashMap::new(), next: self.next }
    }

    /// Writes the samples of one second, and the names that the log lacks.
    pub(crate) fn write_samples(
        &mut self,
        time: i64,
        samples: &[(Arc<Series>, f64)],
        mut append: impl FnMut(u8, &[u8]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut record = time.to_le_bytes().to_vec();
        for (series, value) in samples {
            let number = self.number(series, &mut append)?;
            record.extend_from_slice(&number.to_le_bytes());
            record.extend_from_slice(&value.to_bits().to_le_bytes());
        }
        append(KIND_SAMPLES, &record)
    }

    /// Writes a chunk, and its name if the log lacks it.
    pub(crate) fn write_chunk(
        &mut self,
        series: &Arc<Series>,
        chunk: &[u8],
        mut append: impl FnMut(u8, &[u8]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let number = self.number(series, &mut append)?;
        append(KIND_CHUNK, &[&number.to_le_bytes(), chunk].concat())
    }

    fn number(
        &mut self,
        series: &Arc<Series>,
        append: &mut impl FnMut(u8, &[u8]) -> Result<(), Error>,
    ) -> Result<u32, Error> {
        if let Some(number) = self.of.get(series) {
            return Ok(*number);
        }
        let number = self.next;
        let mut record = number.to_le_bytes().to_vec();
        series.write(&mut record);
        append(KIND_SERIES, &record)?;
        self.next += 1;
        self.of.insert(Arc::clone(series), number);
        Ok(number)
    }
}

/// Takes one record into the database. `None` where it makes no sense.
pub(crate) fn replay(
    record: Record<'_>,
    names: &mut HashMap<u32, Arc<Series>>,
    database: &mut Database,
) -> Option<()> {
    let mut left = record.payload;
    // What is refused lies in a partition already, or is beyond a limit that was lowered since.
    let mut push = |series: &Series, sample| drop(database.push(series, sample));
    match record.kind {
        KIND_SERIES => {
            let number = u32::from_le_bytes(take(&mut left)?);
            let series = Series::read(&mut left)?;
            names.insert(number, Arc::new(series));
        }
        KIND_SAMPLES => {
            let time = i64::from_le_bytes(take(&mut left)?);
            while !left.is_empty() {
                let series = names.get(&u32::from_le_bytes(take(&mut left)?))?;
                let value = f64::from_bits(u64::from_le_bytes(take(&mut left)?));
                push(series, Sample { time, value });
            }
        }
        KIND_CHUNK => {
            let series = names.get(&u32::from_le_bytes(take(&mut left)?))?;
            for sample in gorilla::decode(left).ok()? {
                push(series, sample.ok()?);
            }
        }
        _ => return None,
    }
    Some(())
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (first, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*first)
}
