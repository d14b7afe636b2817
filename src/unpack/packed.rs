//! Streams that unpack what a client packed.

use std::io::{self, BufRead, BufReader, Read};

use flate2::{Decompress, FlushDecompress, Status};

use super::{Packing, UnpackLimits, corrupt, is_padding};

/// `inner` unpacked.
pub(super) fn unpacked<R: Read + Send + 'static>(
    inner: R,
    packing: Packing,
    limits: UnpackLimits,
) -> Box<dyn Read + Send> {
    const BUFFER: usize = 32 * 1024;
    let memory = kibibytes(limits.dictionary_bytes);
    match packing {
        Packing::Raw => Box::new(inner),
        Packing::Zlib | Packing::Deflate => Box::new(Inflate {
            inner: BufReader::with_capacity(BUFFER, inner),
            decompress: Decompress::new(packing == Packing::Zlib),
            ended: false,
        }),
        Packing::Gzip => {
            let inner = BufReader::with_capacity(BUFFER, inner);
            Box::new(Gunzip { member: Some(flate2::bufread::GzDecoder::new(inner)) })
        }
        Packing::Lzma => Box::new(Unlzma::Start(BufReader::with_capacity(BUFFER, inner), memory)),
        Packing::Xz => {
            Box::new(lzma_rust2::XzReader::new_mem_limit(BufReader::with_capacity(BUFFER, inner), true, memory))
        }
    }
}

/// The decoders count their tables as well as the dictionary, so that a dictionary of exactly the limit passes.
pub(super) fn kibibytes(dictionary_bytes: u64) -> u32 {
    u32::try_from(dictionary_bytes / 1024).unwrap_or(u32::MAX - 1024).saturating_add(1024)
}

/// zlib and raw deflate. flate2's own readers take a stream that stops in the middle for its end; this one does not.
struct Inflate<R> {
    inner: BufReader<R>,
    decompress: Decompress,
    ended: bool,
}

impl<R: Read> Read for Inflate<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        while !self.ended {
            let input = self.inner.fill_buf()?;
            let at_end = input.is_empty();
            let (read, written) = (self.decompress.total_in(), self.decompress.total_out());
            let status = self
                .decompress
                .decompress(input, buf, FlushDecompress::None)
                .map_err(|error| corrupt(error.message().unwrap_or("invalid deflate data")))?;
            let consumed = usize::try_from(self.decompress.total_in() - read).unwrap_or(usize::MAX);
            let produced = usize::try_from(self.decompress.total_out() - written).unwrap_or(usize::MAX);
            self.inner.consume(consumed);
            if status == Status::StreamEnd {
                self.ended = true;
                only_padding_follows(&mut self.inner)?;
            }
            if produced > 0 {
                return Ok(produced);
            }
            if at_end && !self.ended {
                return Err(corrupt("the compressed stream is cut short"));
            }
        }
        Ok(0)
    }
}

fn only_padding_follows(inner: &mut impl BufRead) -> io::Result<()> {
    loop {
        let input = inner.fill_buf()?;
        let count = input.len();
        if count == 0 {
            return Ok(());
        }
        if !input.iter().all(|byte| is_padding(*byte)) {
            return Err(corrupt("bytes follow the end of the compressed stream"));
        }
        inner.consume(count);
    }
}

/// All members of a gzip file, one after the other.
struct Gunzip<R: Read> {
    member: Option<flate2::bufread::GzDecoder<BufReader<R>>>,
}

impl<R: Read> Read for Gunzip<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        while let Some(member) = self.member.as_mut() {
            let count = member.read(buf)?;
            if count > 0 {
                return Ok(count);
            }
            let Some(member) = self.member.take() else { break };
            let mut inner = member.into_inner();
            if inner.fill_buf()?.first() == Some(&0x1f) {
                self.member = Some(flate2::bufread::GzDecoder::new(inner));
            } else {
                only_padding_follows(&mut inner)?;
            }
        }
        Ok(0)
    }
}

/// LZMA-alone says its dictionary in the header, so the reader is made only when the first byte is asked for.
enum Unlzma<R: Read> {
    Start(R, u32),
    Running(Box<lzma_rust2::LzmaReader<R>>),
    Failed,
}

impl<R: Read> Read for Unlzma<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            match std::mem::replace(self, Self::Failed) {
                Self::Start(inner, limit) => {
                    let mut reader = lzma_rust2::LzmaReader::new_mem_limit(inner, limit, None)?;
                    // The range coder's end state is the only sign that a stream of known size is whole.
                    reader.set_relaxed_end_condition(false);
                    *self = Self::Running(Box::new(reader));
                }
                Self::Running(mut reader) => {
                    let count = reader.read(buf)?;
                    *self = Self::Running(reader);
                    return Ok(count);
                }
                Self::Failed => return Err(corrupt("reading went on after an error")),
            }
        }
    }
}
