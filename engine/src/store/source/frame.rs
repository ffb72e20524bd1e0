//! One document as a zstd frame.
//!
//! Frames are kept without their magic number, which is the same for all: four bytes of about a
//! hundred. They are what zstd calls magicless; its switch for them belongs to the interface that it
//! calls experimental, so the number is put in front again here, which costs a copy of a frame.

use std::cell::RefCell;
use std::io;

use zstd::bulk::Compressor;
use zstd::dict::EncoderDictionary;
use zstd::zstd_safe::{DCtx, compress_bound, get_error_name, get_frame_content_size};

use super::dictionary::PreparedDictionary;

pub(super) const LEVEL: i32 = 3;
/// Longer documents are not compressed: what a damaged frame asks for must have a bound.
const LONGEST_BYTES: usize = 64 << 20;
/// Shorter ones gain nothing by it, with a dictionary
const SHORTEST_BYTES: usize = 32;
/// and without one.
const SHORTEST_ALONE_BYTES: usize = 256;
/// A frame must save one byte in so many.
const LEAST_SAVED: usize = 16;
const MAGIC: [u8; 4] = 0xFD2F_B528_u32.to_le_bytes();
/// What a block of a frame takes at least, and what it gives at most.
const BLOCK_BYTES: (usize, usize) = (4, 128 << 10);
/// A thread keeps no more than this for the next frame.
const KEPT_BYTES: usize = 1 << 20;

/// What a thread needs to decompress.
struct Decoder {
    context: DCtx<'static>,
    /// The frame with its magic number.
    frame: Vec<u8>,
}

thread_local! {
    static DECODER: RefCell<Option<Decoder>> = const { RefCell::new(None) };
}

/// The document in a frame; what is wrong with it otherwise. Allocates nothing but the document, once
/// the thread has done it before.
pub(super) fn decompress(
    frame: &[u8],
    dictionary: Option<&PreparedDictionary>,
) -> Result<Vec<u8>, String> {
    DECODER.with_borrow_mut(|decoder| {
        let decoder = if let Some(decoder) = decoder {
            decoder
        } else {
            let context = DCtx::try_create().ok_or("cannot be read for want of memory")?;
            decoder.insert(Decoder { context, frame: MAGIC.to_vec() })
        };
        let document = decoder.decompress(frame, dictionary);
        if decoder.frame.capacity() > KEPT_BYTES {
            decoder.frame = MAGIC.to_vec();
        }
        document
    })
}

impl Decoder {
    fn decompress(
        &mut self,
        frame: &[u8],
        dictionary: Option<&PreparedDictionary>,
    ) -> Result<Vec<u8>, String> {
        self.frame.truncate(MAGIC.len());
        self.frame.extend_from_slice(frame);
        let size = get_frame_content_size(&self.frame).ok().flatten();
        let size = size.and_then(|size| usize::try_from(size).ok());
        let size = size.ok_or("does not say how long it is")?;
        let (least, most) = BLOCK_BYTES;
        if size > LONGEST_BYTES.min(frame.len() / least * most) {
            return Err(format!("says that it has [{size}] bytes"));
        }
        let mut document = Vec::new();
        let room = document.try_reserve_exact(size);
        room.map_err(|_| format!("needs [{size}] bytes, which are not to be had"))?;
        let done = match dictionary {
            Some(dictionary) => self.context.decompress_using_ddict(
                &mut document,
                &self.frame,
                dictionary.decoder(),
            ),
            None => self.context.decompress(&mut document, &self.frame),
        };
        done.map_err(|code| format!("cannot be decompressed: {}", get_error_name(code)))?;
        if document.len() == size {
            return Ok(document);
        }
        Err(format!("has [{}] bytes and not [{size}]", document.len()))
    }
}

/// Compresses documents, one by one.
pub(super) struct Encoder<'a> {
    compressor: Compressor<'a>,
    shortest: usize,
    frame: Vec<u8>,
}

impl<'a> Encoder<'a> {
    /// With a dictionary or without.
    pub(super) fn new(dictionary: Option<&'a EncoderDictionary<'static>>) -> io::Result<Self> {
        let (mut compressor, shortest) = match dictionary {
            Some(known) => (Compressor::with_prepared_dictionary(known)?, SHORTEST_BYTES),
            None => (Compressor::new(LEVEL)?, SHORTEST_ALONE_BYTES),
        };
        compressor.include_checksum(false)?;
        compressor.include_dictid(false)?;
        compressor.include_contentsize(true)?;
        Ok(Self { compressor, shortest, frame: Vec::new() })
    }

    /// The frame of a document, where it is worth it.
    pub(super) fn compress(&mut self, document: &[u8]) -> io::Result<Option<&[u8]>> {
        if !(self.shortest..=LONGEST_BYTES).contains(&document.len()) {
            return Ok(None);
        }
        self.frame.clear();
        self.frame.reserve(compress_bound(document.len()));
        self.compressor.compress_to_buffer(document, &mut self.frame)?;
        let frame = self.frame.strip_prefix(&MAGIC);
        let frame = frame.ok_or_else(|| io::Error::other("a frame has no magic number"))?;
        Ok((frame.len() <= document.len() - document.len() / LEAST_SAVED).then_some(frame))
    }
}
