//! A stream of bits in a vector of bytes, the highest bit of each byte first.

/// Appends bits.
#[derive(Debug, Clone, Default)]
pub(crate) struct BitWriter {
    bytes: Vec<u8>,
    /// How many bits of the last byte are still free, below 8.
    free: u32,
}

impl BitWriter {
    /// Appends the lowest `count` bits of `value`, the highest of them first; at most 64.
    pub(crate) fn write(&mut self, value: u64, count: u32) {
        debug_assert!(count <= 64, "{count} bits asked of a word");
        let mut left = count;
        while left > 0 {
            if self.free == 0 {
                self.bytes.push(0);
                self.free = 8;
            }
            let taken = left.min(self.free);
            left -= taken;
            self.free -= taken;
            let bits = (value >> left) & ((1 << taken) - 1);
            if let Some(last) = self.bytes.last_mut() {
                *last |= (bits << self.free).to_le_bytes()[0];
            }
        }
    }

    /// What is written, the last byte filled up with zeros.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// How many bits are written.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.bytes.len() * 8 - self.free as usize
    }
}

/// Reads bits.
#[derive(Debug, Clone)]
pub(crate) struct BitReader<'a> {
    bytes: &'a [u8],
    /// The next bit, counted from the start.
    position: usize,
}

impl<'a> BitReader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, position: 0 }
    }

    /// The next `count` bits as a number, at most 64; `None` where fewer are left.
    pub(crate) fn read(&mut self, count: u32) -> Option<u64> {
        let mut value = 0;
        let mut left = count;
        while left > 0 {
            let byte = u64::from(*self.bytes.get(self.position / 8)?);
            let unread = 8 - u32::try_from(self.position % 8).ok()?;
            let taken = left.min(unread);
            let bits = (byte >> (unread - taken)) & ((1 << taken) - 1);
            value = (value << taken) | bits;
            left -= taken;
            self.position += taken as usize;
        }
        Some(value)
    }

    /// Counts ones up to the first zero, at most `most` of them; the zero is read too.
    pub(crate) fn ones(&mut self, most: u32) -> Option<u32> {
        for count in 0..most {
            if self.read(1)? == 0 {
                return Some(count);
            }
        }
        Some(most)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_is_read(words in prop::collection::vec((any::<u64>(), 0..=64_u32), 0..50)) {
            let mut writer = BitWriter::default();
            let cut = |value: u64, count: u32| value & u64::MAX.checked_shr(64 - count).unwrap_or(0);
            for &(value, count) in &words {
                writer.write(cut(value, count), count);
            }
            prop_assert_eq!(writer.len(), words.iter().map(|word| word.1 as usize).sum::<usize>());
            let mut reader = BitReader::new(writer.as_bytes());
            for (value, count) in words {
                prop_assert_eq!(reader.read(count), Some(cut(value, count)));
            }
            prop_assert_eq!(reader.read(8), None);
        }
    }
}
