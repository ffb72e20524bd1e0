//! The Gorilla codec: samples of one series in the fewest bits, exactly as in Pelkonen et al.,
//! "Gorilla: A Fast, Scalable, In-Memory Time Series Database" (VLDB 2015), section 4.1. Bit-exact for
//! every `f64`: payloads of NaN, infinities and -0.0 come back as they were. A [`Chunk`] can be read
//! while it is written.
//!
//! ```text
//! chunk     start: 64 bits, little endian   seconds, a multiple of two hours
//!           count: 32 bits, little endian   samples (the paper keeps it in memory)
//!           then a stream of bits, highest first, its last byte filled up with zeros:
//! first     14 bits  time - start
//!           64 bits  the value's IEEE 754 bits
//! others    D = (time - previous time) - (previous time - the one before; start, at the second)
//!           0                               D = 0
//!           10   and  7 bits of D + 63      -63 <= D <= 64
//!           110  and  9 bits of D + 255     -255 <= D <= 256
//!           1110 and 12 bits of D + 2047    -2047 <= D <= 2048
//!           1111 and 32 bits of D           otherwise, in two's complement
//!           X = value XOR previous value
//!           0                               X = 0
//!           10 and the meaningful bits      X has zeros wherever the previous window has them
//!           11, 5 bits of leading zeros (at most 31), 6 bits of length (64 is written as 0), and
//!              the meaningful bits          otherwise; opens a new window
//! ```

use crate::bits::{BitReader, BitWriter};

/// How many seconds one chunk spans; the paper's two hours. Chunks begin at multiples of it.
pub const CHUNK_SECONDS: i64 = 7200;

/// The seconds that samples can have: 1970 to 9999.
pub const TIMES: std::ops::Range<i64> = 0..253_402_300_800;

/// The length in bytes of what precedes the stream.
const HEADER_BYTES: usize = 12;

/// One value at one second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    /// Seconds since 1970, UTC.
    pub time: i64,
    /// What was measured.
    pub value: f64,
}

/// Why a sample cannot be appended to a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The time is not within the chunk's two hours.
    #[error("time {time} is outside of the chunk from {start}")]
    OutsideOfChunk {
        /// The sample's time.
        time: i64,
        /// Where the chunk begins.
        start: i64,
    },
    /// The time is not above that of the last sample.
    #[error("time {time} is not after {last}, the last sample's")]
    OutOfOrder {
        /// The sample's time.
        time: i64,
        /// The last sample's.
        last: i64,
    },
}

/// Bytes that are not what they should be: a chunk, or a file of chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("damaged: {0}")]
pub struct Damaged(pub(crate) &'static str);

/// The samples of one series within two hours.
///
/// ```
/// use egret_metrics::gorilla::{Chunk, Sample};
///
/// let mut chunk = Chunk::starting_at(7200);
/// chunk.append(Sample { time: 7262, value: 12.0 })?;
/// assert_eq!(chunk.iter().collect::<Vec<_>>(), [Sample { time: 7262, value: 12.0 }]);
/// # Ok::<_, egret_metrics::gorilla::Refused>(())
/// ```
#[derive(Debug, Clone)]
pub struct Chunk {
    start: i64,
    count: u32,
    bits: BitWriter,
    state: State,
}

/// What a sample is written against.
#[derive(Debug, Clone, Copy, Default)]
struct State {
    time: i64,
    delta: i64,
    value: u64,
    /// Leading and trailing zeros of the bits last written in full, once there are any.
    window: Option<(u32, u32)>,
}

impl Chunk {
    /// An empty chunk for the two hours that hold this time.
    pub fn starting_at(time: i64) -> Self {
        Self {
            start: Self::start_of(time),
            count: 0,
            bits: BitWriter::default(),
            state: State::default(),
        }
    }

    /// Where the chunk that holds this time begins.
    pub fn start_of(time: i64) -> i64 {
        time.saturating_sub(time.rem_euclid(CHUNK_SECONDS))
    }

    /// Appends a sample, which must be newer than the last one.
    pub fn append(&mut self, sample: Sample) -> Result<(), Refused> {
        let Sample { time, value } = sample;
        if Self::start_of(time) != self.start || !TIMES.contains(&time) {
            return Err(Refused::OutsideOfChunk { time, start: self.start });
        }
        let value = value.to_bits();
        if self.count == 0 {
            let delta = time - self.start;
            self.bits.write(delta.cast_unsigned(), 14);
            self.bits.write(value, 64);
            self.state = State { time, delta, value, window: None };
        } else {
            if time <= self.state.time {
                return Err(Refused::OutOfOrder { time, last: self.state.time });
            }
            let delta = time - self.state.time;
            self.write_time(delta - self.state.delta);
            let window = self.write_value(value ^ self.state.value);
            self.state = State { time, delta, value, window };
        }
        self.count += 1;
        Ok(())
    }

    /// Where its two hours begin.
    pub fn start(&self) -> i64 {
        self.start
    }

    /// How many samples it holds.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// The last sample, where there is one.
    pub fn last(&self) -> Option<Sample> {
        let State { time, value, .. } = self.state;
        (self.count > 0).then(|| Sample { time, value: f64::from_bits(value) })
    }

    /// How many bytes [`Chunk::to_bytes`] gives.
    pub fn byte_len(&self) -> usize {
        HEADER_BYTES + self.bits.as_bytes().len()
    }

    /// The samples so far.
    pub fn iter(&self) -> impl Iterator<Item = Sample> + use<'_> {
        // What this type wrote decodes, so the end is the only reason to stop.
        Samples::new(self.start, self.count, self.bits.as_bytes()).map_while(Result::ok)
    }

    /// As it is written to disk.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.byte_len());
        bytes.extend_from_slice(&self.start.to_le_bytes());
        bytes.extend_from_slice(&self.count.to_le_bytes());
        bytes.extend_from_slice(self.bits.as_bytes());
        bytes
    }

    fn write_time(&mut self, difference: i64) {
        let bits = &mut self.bits;
        match difference {
            0 => bits.write(0, 1),
            -63..=64 => bits.write(0b10 << 7 | (difference + 63).cast_unsigned(), 2 + 7),
            -255..=256 => bits.write(0b110 << 9 | (difference + 255).cast_unsigned(), 3 + 9),
            -2047..=2048 => bits.write(0b1110 << 12 | (difference + 2047).cast_unsigned(), 4 + 12),
            _ => {
                // Two hours fit: a difference is below 14,400 either way.
                bits.write(0b1111, 4);
                bits.write(difference.cast_unsigned() & 0xFFFF_FFFF, 32);
            }
        }
    }

    fn write_value(&mut self, xor: u64) -> Option<(u32, u32)> {
        let window = self.state.window;
        if xor == 0 {
            self.bits.write(0, 1);
            return window;
        }
        let (leading, trailing) = (xor.leading_zeros().min(31), xor.trailing_zeros());
        if let Some((open_leading, open_trailing)) = window
            && leading >= open_leading
            && trailing >= open_trailing
        {
            self.bits.write(0b10, 2);
            self.bits.write(xor >> open_trailing, 64 - open_leading - open_trailing);
            return window;
        }
        let length = 64 - leading - trailing;
        self.bits.write(0b11, 2);
        self.bits.write(leading.into(), 5);
        self.bits.write(u64::from(length % 64), 6);
        self.bits.write(xor >> trailing, length);
        Some((leading, trailing))
    }
}

/// Where the chunk in these bytes begins, and how many samples it says to hold.
pub fn read_header(bytes: &[u8]) -> Result<(i64, u32), Damaged> {
    let short = Damaged("it ends within its header");
    let (start, rest) = bytes.split_first_chunk().ok_or(short)?;
    let (count, _) = rest.split_first_chunk().ok_or(short)?;
    Ok((i64::from_le_bytes(*start), u32::from_le_bytes(*count)))
}

/// Reads the samples of a chunk as [`Chunk::to_bytes`] wrote it. Stops after the first error.
pub fn decode(bytes: &[u8]) -> Result<Samples<'_>, Damaged> {
    let (start, count) = read_header(bytes)?;
    if start != Chunk::start_of(start) || !TIMES.contains(&start) {
        return Err(Damaged("it begins at an impossible time"));
    }
    Ok(Samples::new(start, count, bytes.get(HEADER_BYTES..).unwrap_or_default()))
}

/// The samples of a chunk, oldest first.
#[derive(Debug, Clone)]
pub struct Samples<'a> {
    start: i64,
    left: u32,
    state: Option<State>,
    bits: BitReader<'a>,
}

impl<'a> Samples<'a> {
    fn new(start: i64, count: u32, stream: &'a [u8]) -> Self {
        Self { start, left: count, state: None, bits: BitReader::new(stream) }
    }

    fn read(&mut self) -> Option<State> {
        let Some(previous) = self.state else {
            let delta = self.bits.read(14)?.cast_signed();
            let value = self.bits.read(64)?;
            return Some(State { time: self.start + delta, delta, value, window: None });
        };
        let delta = previous.delta + self.read_time()?;
        let (xor, window) = self.read_value(previous.window)?;
        let value = previous.value ^ xor;
        Some(State { time: previous.time + delta, delta, value, window })
    }

    fn read_time(&mut self) -> Option<i64> {
        let (count, offset) = match self.bits.ones(4)? {
            0 => return Some(0),
            1 => (7, 63),
            2 => (9, 255),
            3 => (12, 2047),
            _ => {
                let low = u32::try_from(self.bits.read(32)?).ok()?;
                return Some(low.cast_signed().into());
            }
        };
        Some(self.bits.read(count)?.cast_signed() - offset)
    }

    fn read_value(&mut self, window: Option<(u32, u32)>) -> Option<(u64, Option<(u32, u32)>)> {
        let (leading, trailing) = match self.bits.ones(2)? {
            0 => return Some((0, window)),
            1 => window?,
            _ => {
                let leading = u32::try_from(self.bits.read(5)?).ok()?;
                let length = match u32::try_from(self.bits.read(6)?).ok()? {
                    0 => 64,
                    length => length,
                };
                (leading, 64_u32.checked_sub(leading + length)?)
            }
        };
        let meaningful = self.bits.read(64 - leading - trailing)?;
        Some((meaningful << trailing, Some((leading, trailing))))
    }
}

impl Iterator for Samples<'_> {
    type Item = Result<Sample, Damaged>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let previous = self.state.map_or(self.start - 1, |state| state.time);
        let last = self.start + CHUNK_SECONDS - 1;
        match self.read() {
            Some(state) if state.time > previous && state.time <= last => {
                self.state = Some(state);
                Some(Ok(Sample { time: state.time, value: f64::from_bits(state.value) }))
            }
            Some(_) => {
                self.left = 0;
                Some(Err(Damaged("a time is out of order or outside of the chunk")))
            }
            None => {
                self.left = 0;
                Some(Err(Damaged("it ends within a sample, or a window is impossible")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// 24 March 2015, 02:00:00 UTC, the start in the paper's figure 2.
    const START: i64 = 1_427_162_400;

    fn bits(samples: impl IntoIterator<Item = Sample>) -> Vec<(i64, u64)> {
        samples.into_iter().map(|sample| (sample.time, sample.value.to_bits())).collect()
    }

    fn chunk_of(samples: &[(i64, u64)]) -> Chunk {
        let mut chunk = Chunk::starting_at(START);
        for &(time, value) in samples {
            chunk.append(Sample { time, value: f64::from_bits(value) }).unwrap();
        }
        chunk
    }

    fn check_round_trip(samples: &[(i64, u64)]) {
        let chunk = chunk_of(samples);
        assert_eq!(bits(chunk.iter()), samples);
        let bytes = chunk.to_bytes();
        assert_eq!(bytes.len(), chunk.byte_len());
        assert_eq!(bits(decode(&bytes).unwrap().map(Result::unwrap)), samples);
    }

    #[test]
    fn the_papers_example_takes_the_papers_bits() {
        let sizes: Vec<_> = [(62, 12.0_f64), (122, 24.0), (182, 24.0)]
            .iter()
            .scan(Chunk::starting_at(START), |chunk, &(seconds, value)| {
                chunk.append(Sample { time: START + seconds, value }).unwrap();
                Some(chunk.bits.len())
            })
            .collect();
        let first = 14 + 64;
        let second = first + (2 + 7) + (2 + 5 + 6 + 1);
        assert_eq!(sizes, [first, second, second + 1 + 1]);
    }

    #[test]
    fn edges_of_every_class_of_time_and_value_come_back() {
        for difference in [
            0, 1, -1, -63, 64, -64, 65, -255, 256, -256, 257, -2047, 2048, -2048, 2049, 2990, -2090,
        ] {
            let times = [START, START + 2100, START + 4200 + difference];
            check_round_trip(&times.map(|time| (time, 0)));
        }
        let values = [
            0.0,
            -0.0,
            1.0,
            -1.0,
            f64::INFINITY,
            f64::NEG_INFINITY,
            f64::NAN,
            f64::MIN_POSITIVE,
            f64::MAX,
            f64::MIN,
            5e-324,
        ];
        let payloads =
            [u64::MAX, 0x7FF0_0000_0000_0001, 0xFFF8_0000_0000_0001, 1, 1 << 63, 1 << 31];
        let all = values.into_iter().map(f64::to_bits).chain(payloads);
        let samples: Vec<_> = all.zip(START..).map(|(value, time)| (time, value)).collect();
        check_round_trip(&samples);
        check_round_trip(
            &samples.iter().rev().zip(START..).map(|(s, t)| (t, s.1)).collect::<Vec<_>>(),
        );
    }

    #[test]
    fn what_does_not_fit_is_refused_and_changes_nothing() {
        let mut chunk = chunk_of(&[(START + 10, 1)]);
        let mut check = |time, expected| {
            assert_eq!(chunk.append(Sample { time, value: 0.0 }), Err(expected));
            assert_eq!(bits(chunk.iter()), [(START + 10, 1)]);
        };
        check(START + 10, Refused::OutOfOrder { time: START + 10, last: START + 10 });
        check(START, Refused::OutOfOrder { time: START, last: START + 10 });
        for time in [START - 1, START + CHUNK_SECONDS, i64::MIN, i64::MAX] {
            check(time, Refused::OutsideOfChunk { time, start: START });
        }
    }

    #[test]
    fn a_regular_series_takes_two_bits_a_sample() {
        let samples: Vec<_> = (START..START + CHUNK_SECONDS).map(|time| (time, 7)).collect();
        assert!(chunk_of(&samples).byte_len() < 1830);
        check_round_trip(&samples);
    }

    fn series() -> impl Strategy<Value = Vec<(i64, u64)>> {
        let near = (0..1000_u32).prop_map(|eighths| (f64::from(eighths) / 8.0).to_bits());
        let value = prop_oneof![any::<u64>(), near, Just(0), (0..64_u32).prop_map(|bit| 1 << bit)];
        prop::collection::btree_map(0..CHUNK_SECONDS, value, 0..200)
            .prop_map(|map| map.into_iter().map(|(time, value)| (START + time, value)).collect())
    }

    proptest! {
        #[test]
        fn any_series_of_any_bit_patterns_comes_back(samples in series()) {
            check_round_trip(&samples);
        }

        #[test]
        fn a_chunk_is_readable_while_it_is_written(samples in series()) {
            let mut chunk = Chunk::starting_at(START);
            for (written, &(time, value)) in samples.iter().enumerate() {
                chunk.append(Sample { time, value: f64::from_bits(value) }).unwrap();
                prop_assert_eq!(bits(chunk.iter()), &samples[..=written]);
                prop_assert_eq!(bits(chunk.last()), &samples[written..=written]);
            }
        }

        #[test]
        fn damaged_bytes_give_ordered_samples_or_an_error(
            samples in series(), flips in prop::collection::vec((any::<usize>(), 0..8_u32), 1..4), cut: usize,
        ) {
            let mut bytes = chunk_of(&samples).to_bytes();
            for (place, bit) in flips {
                let place = place % bytes.len();
                bytes[place] ^= 1 << bit;
            }
            bytes.truncate(cut % (bytes.len() + 1));
            if let Ok(decoded) = decode(&bytes) {
                let times: Vec<_> = decoded.map_while(Result::ok).map(|sample| sample.time).collect();
                prop_assert!(times.is_sorted_by(|a, b| a < b));
            }
        }
    }
}
