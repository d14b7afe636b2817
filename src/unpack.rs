//! What the bytes of an item really are, and the same bytes unpacked.
//!
//! Clients label content wrongly often enough that the label only breaks ties: [`sniff`] looks at the bytes,
//! [`decoder`] unpacks them as a stream within [`UnpackLimits`]. Nothing here does I/O but through [`Read`].

use std::io::{self, BufRead, BufReader, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use flate2::{Decompress, FlushDecompress, Status};

/// How content is packed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Packing {
    /// Not at all.
    Raw,
    /// RFC 1950.
    Zlib,
    /// RFC 1952, one member or more.
    Gzip,
    /// RFC 1951 without any header.
    Deflate,
    /// The old `.lzma` format ("LZMA alone").
    Lzma,
    /// The `.xz` format.
    Xz,
}

impl Packing {
    /// The name in lower case, as reports show it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Zlib => "zlib",
            Self::Gzip => "gzip",
            Self::Deflate => "deflate",
            Self::Lzma => "lzma",
            Self::Xz => "xz",
        }
    }
}

/// What [`sniff`] found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sniffed {
    /// The packing, inside Base64 if `base64` is set.
    pub packing: Packing,
    /// Whether the content is Base64 text around that packing.
    pub base64: bool,
}

impl Sniffed {
    /// Content taken as it is.
    pub const RAW: Self = Self { packing: Packing::Raw, base64: false };
}

/// Bounds of one unpacking.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UnpackLimits {
    /// Most bytes that may come out.
    pub output_bytes: u64,
    /// Most bytes out per byte in, judged only beyond [`RATIO_FROM_BYTES`] of output.
    pub ratio: u64,
    /// Largest LZMA dictionary, in bytes; it is allocated whole.
    pub dictionary_bytes: u64,
}

impl Default for UnpackLimits {
    fn default() -> Self {
        Self { output_bytes: 4 << 30, ratio: 1000, dictionary_bytes: 128 << 20 }
    }
}

/// Below this much output the ratio is not judged: small files of one repeated line are honest.
pub const RATIO_FROM_BYTES: u64 = 16 << 20;

/// Why unpacking stopped. It travels inside an [`io::Error`]; [`UnpackError::of`] gets it back.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum UnpackError {
    /// More came out than allowed.
    #[error("the content unpacks to more than {limit} bytes")]
    TooLarge {
        /// The limit in bytes.
        limit: u64,
    },
    /// The content expands more than any honest document.
    #[error("the content unpacks to more than {limit} times its size")]
    Ratio {
        /// The limit, bytes out per byte in.
        limit: u64,
    },
    /// The LZMA dictionary would not fit.
    #[error("the content needs an LZMA dictionary of more than {limit} bytes")]
    Dictionary {
        /// The limit in bytes.
        limit: u64,
    },
    /// The packed bytes are damaged or cut short.
    #[error("the packed content is damaged: {0}")]
    Corrupt(String),
}

impl UnpackError {
    /// The unpacking error inside an I/O error; `None` means that reading the packed bytes failed.
    #[must_use]
    pub fn of(error: &io::Error) -> Option<&Self> {
        error.get_ref().and_then(|inner| inner.downcast_ref())
    }
}

impl From<UnpackError> for io::Error {
    fn from(error: UnpackError) -> Self {
        Self::new(io::ErrorKind::InvalidData, error)
    }
}

fn corrupt(reason: &str) -> io::Error {
    UnpackError::Corrupt(reason.to_owned()).into()
}

/// Bytes that [`sniff`] wants to see, or all if there are fewer.
pub const SNIFF_BYTES: usize = 64 * 1024;

/// Says what content is from its first [`SNIFF_BYTES`]; fewer are taken for all of it. `label` is the declared
/// compression in lower case; it decides only what the bytes leave open.
#[must_use]
pub fn sniff(prefix: &[u8], label: Option<&str>) -> Sniffed {
    let packing = sniff_packing(prefix, label, false);
    if packing != Packing::Raw {
        return Sniffed { packing, base64: false };
    }
    let Some(decoded) = base64_prefix(prefix) else { return Sniffed::RAW };
    let packing = sniff_packing(&decoded, label, true);
    let base64 = packing != Packing::Raw || has_document_magic(&decoded);
    Sniffed { packing, base64 }
}

const XZ_MAGIC: &[u8] = &[0xfd, b'7', b'z', b'X', b'Z', 0];

/// Signatures that a compressed stream does not begin with and a document does.
fn has_document_magic(bytes: &[u8]) -> bool {
    const MAGICS: &[&[u8]] =
        &[b"%PDF-", b"PK\x03\x04", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", b"{\\rtf1", b"\x89PNG\r\n"];
    MAGICS.iter().any(|magic| bytes.starts_with(magic))
}

/// `from_text` says that the bytes were decoded from what may be innocent text, so that weak signs need more proof.
fn sniff_packing(prefix: &[u8], label: Option<&str>, from_text: bool) -> Packing {
    if let [0x1f, 0x8b, 8, flags, ..] = prefix
        && flags & 0xe0 == 0
    {
        return Packing::Gzip;
    }
    if prefix.starts_with(XZ_MAGIC) {
        return Packing::Xz;
    }
    if has_document_magic(prefix) {
        return Packing::Raw;
    }
    // "x^2" and "(S)" are valid zlib headers, so text must prove itself by a stream that ends with its checksum.
    let doubtful = looks_like_text(prefix);
    if is_zlib_header(prefix) {
        let proof = trial(prefix, true);
        let enough = match proof {
            Trial::Ended { .. } => true,
            Trial::Open { output } => {
                !doubtful && (output || label == Some("zlib")) && (!from_text || prefix.len() >= 64)
            }
            Trial::Bad => false,
        };
        if enough {
            return Packing::Zlib;
        }
    }
    if is_lzma_header(prefix, label == Some("lzma")) && !doubtful && lzma_trial(prefix) {
        return Packing::Lzma;
    }
    if matches!(label, Some("deflate" | "zlib")) {
        // Without magic and checksum nearly any short run of bytes is a beginning: demand the end, or length.
        let enough = match trial(prefix, false) {
            Trial::Ended { clean } => clean,
            Trial::Open { output } => output && !doubtful && prefix.len() >= 512,
            Trial::Bad => false,
        };
        if enough {
            return Packing::Deflate;
        }
    }
    Packing::Raw
}

fn is_zlib_header(prefix: &[u8]) -> bool {
    let [cmf, flags, ..] = prefix else { return false };
    let preset_dictionary = flags & 0x20 != 0;
    cmf & 0x0f == 8
        && cmf >> 4 <= 7
        && !preset_dictionary
        && (u16::from(*cmf) * 256 + u16::from(*flags)).is_multiple_of(31)
}

/// Whether the header can be LZMA-alone. Unlabelled content must have the properties every encoder uses.
fn is_lzma_header(prefix: &[u8], labelled: bool) -> bool {
    let Some((header, rest)) = prefix.split_first_chunk::<13>() else { return false };
    let [props, d0, d1, d2, d3, s0, s1, s2, s3, s4, s5, s6, s7] = *header;
    let dictionary = u32::from_le_bytes([d0, d1, d2, d3]);
    let size = u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]);
    let size_is_sane = size == u64::MAX || size < 1 << 38;
    // The range coder's first byte is always zero.
    let coder_starts = rest.first().is_none_or(|first| *first == 0);
    let usual = props == 0x5d
        && dictionary >= 4096
        && (dictionary.is_power_of_two() || dictionary.is_multiple_of(3) && (dictionary / 3).is_power_of_two());
    coder_starts && size_is_sane && props < 225 && dictionary > 0 && (labelled || usual)
}

fn lzma_trial(prefix: &[u8]) -> bool {
    let limit = kibibytes(UnpackLimits::default().dictionary_bytes);
    match lzma_rust2::LzmaReader::new_mem_limit(prefix, limit, None) {
        Ok(reader) => match io::copy(&mut reader.take(512), &mut io::sink()) {
            Ok(_) => true,
            Err(error) => error.kind() == io::ErrorKind::UnexpectedEof,
        },
        // A dictionary over the limit is refused when decoding, with its reason.
        Err(error) => matches!(error.kind(), io::ErrorKind::OutOfMemory | io::ErrorKind::UnexpectedEof),
    }
}

enum Trial {
    /// The stream ends within the prefix; `clean` if nothing but padding follows.
    Ended {
        clean: bool,
    },
    /// No fault up to the prefix's end.
    Open {
        output: bool,
    },
    Bad,
}

fn trial(prefix: &[u8], zlib: bool) -> Trial {
    let mut decompress = Decompress::new(zlib);
    let mut output = vec![0; 16 * 1024];
    let mut rest = prefix;
    loop {
        let (read, written) = (decompress.total_in(), decompress.total_out());
        let status = decompress.decompress(rest, &mut output, FlushDecompress::None);
        let consumed = usize::try_from(decompress.total_in() - read).unwrap_or(usize::MAX);
        rest = rest.get(consumed..).unwrap_or_default();
        match status {
            Ok(Status::StreamEnd) => return Trial::Ended { clean: rest.iter().all(|byte| is_padding(*byte)) },
            Ok(Status::Ok | Status::BufError) if consumed == 0 && decompress.total_out() == written => {
                return Trial::Open { output: written > 0 };
            }
            // A bomb is a valid stream; there is no need to see all of it.
            Ok(_) if decompress.total_out() > 4 << 20 => return Trial::Open { output: true },
            Ok(_) => {}
            Err(_) => return Trial::Bad,
        }
    }
}

fn is_padding(byte: u8) -> bool {
    byte == 0 || byte.is_ascii_whitespace()
}

/// Valid UTF-8 (but for a character cut at the end) without control characters.
fn looks_like_text(prefix: &[u8]) -> bool {
    let text = match std::str::from_utf8(prefix) {
        Ok(text) => text,
        Err(error) if error.error_len().is_none() => {
            prefix.get(..error.valid_up_to()).and_then(|valid| std::str::from_utf8(valid).ok()).unwrap_or_default()
        }
        Err(_) => return false,
    };
    text.chars().all(|c| !c.is_control() || matches!(c, '\t' | '\n' | '\r' | '\x0c'))
}

/// The prefix decoded, if it is Base64 all through.
fn base64_prefix(prefix: &[u8]) -> Option<Vec<u8>> {
    let mut state = Base64::default();
    let mut output = Vec::with_capacity(prefix.len() / 4 * 3);
    for byte in prefix {
        state.push(*byte, &mut output).ok()?;
    }
    // A prefix that was cut out of longer text ends between two digits of a byte; what is whole has been pushed.
    if state.padding > 0 || prefix.len() < SNIFF_BYTES {
        let _ = state.finish(&mut output);
    }
    (output.len() >= 2).then_some(output)
}

/// Decoder state between two bytes of Base64 text.
#[derive(Default)]
struct Base64 {
    bits: u32,
    digits: u8,
    padding: u8,
}

impl Base64 {
    fn push(&mut self, byte: u8, output: &mut Vec<u8>) -> Result<(), &'static str> {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            b'=' => {
                self.padding += 1;
                return if self.digits >= 2 && self.digits + self.padding <= 4 {
                    Ok(())
                } else {
                    Err("misplaced Base64 padding")
                };
            }
            b' ' | b'\t' | b'\r' | b'\n' => return Ok(()),
            _ => return Err("a character outside the Base64 alphabet"),
        };
        if self.padding > 0 {
            return Err("data after the Base64 padding");
        }
        self.bits = self.bits << 6 | u32::from(value);
        self.digits += 1;
        if self.digits == 4 {
            let [_, a, b, c] = self.bits.to_be_bytes();
            output.extend([a, b, c]);
            (self.bits, self.digits) = (0, 0);
        }
        Ok(())
    }

    /// Padding may be left out, a lone digit may not.
    fn finish(&mut self, output: &mut Vec<u8>) -> Result<(), &'static str> {
        let [_, a, b, _] = (self.bits << (6 * u32::from(4 - self.digits.min(4)))).to_be_bytes();
        match (self.digits, self.padding) {
            (0, 0) => {}
            (2, 0 | 2) => output.push(a),
            (3, 0 | 1) => output.extend([a, b]),
            _ => return Err("the Base64 text is cut short"),
        }
        (self.bits, self.digits, self.padding) = (0, 0, 0);
        Ok(())
    }
}

struct Base64Reader<R> {
    inner: R,
    state: Base64,
    input: Vec<u8>,
    output: Vec<u8>,
    taken: usize,
    ended: bool,
}

impl<R: Read> Base64Reader<R> {
    fn new(inner: R) -> Self {
        Self { inner, state: Base64::default(), input: vec![0; 16 * 1024], output: Vec::new(), taken: 0, ended: false }
    }
}

impl<R: Read> Read for Base64Reader<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.taken == self.output.len() && !self.ended {
            self.output.clear();
            self.taken = 0;
            let count = self.inner.read(&mut self.input)?;
            if count == 0 {
                self.ended = true;
                self.state.finish(&mut self.output).map_err(corrupt)?;
            }
            for byte in self.input.iter().take(count) {
                self.state.push(*byte, &mut self.output).map_err(corrupt)?;
            }
        }
        let mut rest = self.output.get(self.taken..).unwrap_or_default();
        let count = rest.read(buf)?;
        self.taken += count;
        Ok(count)
    }
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

/// Counts the packed bytes and remembers whether reading them failed.
struct Source<R> {
    inner: R,
    read: Arc<AtomicU64>,
    failed: Arc<AtomicBool>,
}

impl<R: Read> Read for Source<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self.inner.read(buf) {
            Ok(count) => {
                self.read.fetch_add(u64::try_from(count).unwrap_or(u64::MAX), Ordering::Relaxed);
                Ok(count)
            }
            Err(error) => {
                if error.kind() != io::ErrorKind::Interrupted {
                    self.failed.store(true, Ordering::Relaxed);
                }
                Err(error)
            }
        }
    }
}

/// Unpacked content as a stream; see [`decoder`].
pub struct Decoder {
    inner: Box<dyn Read + Send>,
    limits: UnpackLimits,
    read: Arc<AtomicU64>,
    source_failed: Arc<AtomicBool>,
    written: u64,
    packed: bool,
    failure: Option<UnpackError>,
}

impl std::fmt::Debug for Decoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decoder").field("limits", &self.limits).field("written", &self.written).finish_non_exhaustive()
    }
}

impl Decoder {
    /// Bytes that came out so far.
    #[must_use]
    pub const fn written(&self) -> u64 {
        self.written
    }

    fn fail(&mut self, error: UnpackError) -> io::Error {
        self.failure = Some(error.clone());
        error.into()
    }
}

/// Unpacks `inner` as `sniffed` says. A failure is an [`io::Error`] with an [`UnpackError`] inside, and stays; any
/// other error is that of `inner`.
pub fn decoder<R: Read + Send + 'static>(inner: R, sniffed: Sniffed, limits: UnpackLimits) -> Decoder {
    let read = Arc::new(AtomicU64::new(0));
    let source_failed = Arc::new(AtomicBool::new(false));
    let source = Source { inner, read: Arc::clone(&read), failed: Arc::clone(&source_failed) };
    let inner = if sniffed.base64 {
        unpacked(Base64Reader::new(source), sniffed.packing, limits)
    } else {
        unpacked(source, sniffed.packing, limits)
    };
    let packed = sniffed.packing != Packing::Raw;
    Decoder { inner, limits, read, source_failed, written: 0, packed, failure: None }
}

fn unpacked<R: Read + Send + 'static>(inner: R, packing: Packing, limits: UnpackLimits) -> Box<dyn Read + Send> {
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
fn kibibytes(dictionary_bytes: u64) -> u32 {
    u32::try_from(dictionary_bytes / 1024).unwrap_or(u32::MAX - 1024).saturating_add(1024)
}

impl Read for Decoder {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if let Some(error) = &self.failure {
            return Err(error.clone().into());
        }
        let count = match self.inner.read(buf) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Err(error),
            Err(error) if self.source_failed.load(Ordering::Relaxed) => return Err(error),
            Err(error) => {
                let meaning = match UnpackError::of(&error) {
                    Some(meaning) => meaning.clone(),
                    None if error.kind() == io::ErrorKind::OutOfMemory => {
                        UnpackError::Dictionary { limit: self.limits.dictionary_bytes }
                    }
                    None if error.kind() == io::ErrorKind::UnexpectedEof => {
                        UnpackError::Corrupt(String::from("the compressed stream is cut short"))
                    }
                    None => UnpackError::Corrupt(error.to_string()),
                };
                return Err(self.fail(meaning));
            }
        };
        self.written = self.written.saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
        if self.written > self.limits.output_bytes {
            return Err(self.fail(UnpackError::TooLarge { limit: self.limits.output_bytes }));
        }
        let allowed = self.read.load(Ordering::Relaxed).saturating_mul(self.limits.ratio).max(RATIO_FROM_BYTES);
        if self.packed && self.written > allowed {
            return Err(self.fail(UnpackError::Ratio { limit: self.limits.ratio }));
        }
        Ok(count)
    }
}

#[cfg(test)]
#[allow(clippy::as_conversions, reason = "sizes of test data")]
mod tests {
    use super::*;
    use base64::Engine;
    use proptest::prelude::*;
    use std::io::{Cursor, Write};

    fn pack(packing: Packing, data: &[u8]) -> Vec<u8> {
        let level = flate2::Compression::default();
        match packing {
            Packing::Raw => data.to_vec(),
            Packing::Zlib => {
                let mut w = flate2::write::ZlibEncoder::new(Vec::new(), level);
                w.write_all(data).unwrap();
                w.finish().unwrap()
            }
            Packing::Gzip => {
                let mut w = flate2::write::GzEncoder::new(Vec::new(), level);
                w.write_all(data).unwrap();
                w.finish().unwrap()
            }
            Packing::Deflate => {
                let mut w = flate2::write::DeflateEncoder::new(Vec::new(), level);
                w.write_all(data).unwrap();
                w.finish().unwrap()
            }
            Packing::Lzma => lzma(data, None),
            Packing::Xz => {
                let mut w = lzma_rust2::XzWriter::new(Vec::new(), lzma_rust2::XzOptions::with_preset(1)).unwrap();
                w.write_all(data).unwrap();
                w.finish().unwrap()
            }
        }
    }

    fn lzma(data: &[u8], size: Option<u64>) -> Vec<u8> {
        let options = lzma_rust2::LzmaOptions::with_preset(1);
        let mut w = lzma_rust2::LzmaWriter::new_use_header(Vec::new(), &options, size).unwrap();
        w.write_all(data).unwrap();
        w.finish().unwrap()
    }

    fn base64(data: &[u8]) -> Vec<u8> {
        base64::engine::general_purpose::STANDARD.encode(data).into_bytes()
    }

    fn unpack(data: Vec<u8>, sniffed: Sniffed, limits: UnpackLimits) -> io::Result<Vec<u8>> {
        let mut output = Vec::new();
        decoder(Cursor::new(data), sniffed, limits).read_to_end(&mut output)?;
        Ok(output)
    }

    fn auto(data: Vec<u8>, label: Option<&str>) -> io::Result<Vec<u8>> {
        let sniffed = sniff(&data[..data.len().min(65536)], label);
        unpack(data, sniffed, UnpackLimits::default())
    }

    const PACKED: [Packing; 5] = [Packing::Zlib, Packing::Gzip, Packing::Deflate, Packing::Lzma, Packing::Xz];

    fn label(packing: Packing) -> Option<&'static str> {
        // Raw deflate has no sign of its own.
        (packing == Packing::Deflate).then_some("deflate")
    }

    #[test]
    fn sniffs_by_bytes_whatever_the_label_says() {
        let text = b"The quick brown fox jumps over the lazy dog. ".repeat(30);
        for packing in PACKED {
            let packed = pack(packing, &text);
            for wrong in [None, Some("uncompressed"), Some("zlib"), Some("gzip"), Some("lzma"), Some("deflate")] {
                let wrong = if packing == Packing::Deflate && wrong != Some("zlib") { Some("deflate") } else { wrong };
                assert_eq!(sniff(&packed, wrong), Sniffed { packing, base64: false }, "{packing:?} {wrong:?}");
                assert_eq!(auto(packed.clone(), wrong).unwrap(), text);
                let wrapped = base64(&packed);
                assert_eq!(sniff(&wrapped, wrong), Sniffed { packing, base64: true }, "{packing:?} {wrong:?}");
                assert_eq!(auto(wrapped, wrong).unwrap(), text);
            }
        }
        assert_eq!(sniff(&lzma(&text, Some(text.len() as u64)), None).packing, Packing::Lzma);
        // Java's Deflater at other levels, and a stream that says its window is small.
        for level in 0..=9 {
            let mut w = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::new(level));
            w.write_all(&text).unwrap();
            assert_eq!(sniff(&w.finish().unwrap(), Some("gzip")).packing, Packing::Zlib);
        }
    }

    #[test]
    fn text_stays_text() {
        let texts: &[&[u8]] = &[
            b"",
            b"x",
            b"x^",
            b"x^2 + y^2 = z^2",
            b"(S) is a header of zlib",
            b"HelloWorld",
            b"8O",
            b"eJy",
            b"H4sI",
            b"hello",
            b"SGVsbG8gd29ybGQ=",
            b"deadbeefdeadbeef",
            b"AAAAAAAAAAAAAAAAAAAA",
            b"    ",
            b"\n\n\n",
            b"JSON",
            b"{\"a\":1}",
            b"<html></html>",
            "x\u{9c}\u{e9}t\u{e9}".as_bytes(),
            b"XQAAAAAA",
        ];
        for text in texts {
            for label in [None, Some("uncompressed"), Some("zlib"), Some("gzip"), Some("lzma"), Some("deflate")] {
                assert_eq!(sniff(text, label), Sniffed::RAW, "{:?} {label:?}", String::from_utf8_lossy(text));
            }
        }
    }

    #[test]
    fn documents_stay_documents_and_are_seen_through_base64() {
        for magic in [&b"%PDF-1.7\n%\xe2\xe3"[..], b"PK\x03\x04\x14\0\0\0", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1\0\0"] {
            for label in [None, Some("deflate"), Some("zlib"), Some("lzma")] {
                assert_eq!(sniff(magic, label), Sniffed::RAW);
                assert_eq!(sniff(&base64(magic), label), Sniffed { packing: Packing::Raw, base64: true });
            }
        }
        assert_eq!(sniff(&[0; 4096], Some("lzma")), Sniffed::RAW);
        assert_eq!(sniff(&[0; 4096], Some("deflate")), Sniffed::RAW);
    }

    #[test]
    fn gzip_members_follow_each_other_and_padding_is_ignored() {
        let mut two = pack(Packing::Gzip, b"one ");
        two.extend(pack(Packing::Gzip, b"two"));
        assert_eq!(auto(two.clone(), None).unwrap(), b"one two");
        two.extend([0; 512]);
        assert_eq!(auto(two.clone(), None).unwrap(), b"one two");
        two.extend(b"garbage");
        let error = auto(two, None).unwrap_err();
        assert!(matches!(UnpackError::of(&error), Some(UnpackError::Corrupt(_))), "{error}");
    }

    #[test]
    fn base64_allows_lines_and_missing_padding() {
        let packed = pack(Packing::Gzip, b"some text");
        let mut lines = Vec::new();
        for line in base64(&packed).chunks(7) {
            lines.extend(line);
            lines.extend(b"\r\n");
        }
        assert_eq!(auto(lines, None).unwrap(), b"some text");
        let mut bare = base64(&packed);
        bare.retain(|byte| *byte != b'=');
        assert_eq!(auto(bare, None).unwrap(), b"some text");
        let sniffed = Sniffed { packing: Packing::Raw, base64: true };
        for bad in ["QUJD!", "QUJDR", "QU=D", "QUI=QUI=", "=", "QUJD===="] {
            let error = unpack(bad.into(), sniffed, UnpackLimits::default()).unwrap_err();
            assert!(matches!(UnpackError::of(&error), Some(UnpackError::Corrupt(_))), "{bad}");
        }
    }

    #[test]
    fn bombs_end_at_the_ratio_or_the_size() {
        let zeros = vec![0; 64 << 20];
        for packing in PACKED {
            let bomb = pack(packing, &zeros);
            for (bomb, base64) in [(base64(&bomb), true), (bomb, false)] {
                let sniffed = Sniffed { packing, base64 };
                let limits = UnpackLimits { ratio: 500, ..UnpackLimits::default() };
                let error = unpack(bomb.clone(), sniffed, limits).unwrap_err();
                assert_eq!(UnpackError::of(&error), Some(&UnpackError::Ratio { limit: 500 }), "{packing:?}");
                let limits = UnpackLimits { output_bytes: 1 << 20, ..limits };
                let error = unpack(bomb, sniffed, limits).unwrap_err();
                assert_eq!(UnpackError::of(&error), Some(&UnpackError::TooLarge { limit: 1 << 20 }), "{packing:?}");
            }
        }
    }

    #[test]
    fn a_large_dictionary_is_refused() {
        let mut huge = lzma(b"some text", None);
        huge[1..5].copy_from_slice(&(1u32 << 30).to_le_bytes());
        let error = auto(huge, Some("lzma")).unwrap_err();
        assert_eq!(UnpackError::of(&error), Some(&UnpackError::Dictionary { limit: 128 << 20 }));
        let options = lzma_rust2::XzOptions::with_preset(9);
        let mut w = lzma_rust2::XzWriter::new(Vec::new(), options).unwrap();
        w.write_all(b"some text").unwrap();
        let packed = w.finish().unwrap();
        let limits = UnpackLimits { dictionary_bytes: 16 << 20, ..UnpackLimits::default() };
        let sniffed = Sniffed { packing: Packing::Xz, base64: false };
        let error = unpack(packed.clone(), sniffed, limits).unwrap_err();
        assert_eq!(UnpackError::of(&error), Some(&UnpackError::Dictionary { limit: 16 << 20 }));
        assert_eq!(unpack(packed, sniffed, UnpackLimits::default()).unwrap(), b"some text");
    }

    #[test]
    fn a_failing_source_is_not_called_corrupt() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::ErrorKind::ConnectionReset.into())
            }
        }
        for packing in PACKED {
            let start = pack(packing, &b"some text".repeat(100));
            let start = start[..start.len() / 2].to_vec();
            let sniffed = Sniffed { packing, base64: false };
            let mut decoder = decoder(Cursor::new(start).chain(Broken), sniffed, UnpackLimits::default());
            let error = decoder.read_to_end(&mut Vec::new()).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{packing:?}");
            assert_eq!(UnpackError::of(&error), None);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn round_trips(data in prop::collection::vec(any::<u8>(), 1..3000), repeat in 1usize..20, which in 0usize..5) {
            let data = data.repeat(repeat);
            let packing = PACKED[which];
            let packed = pack(packing, &data);
            let wrapped = base64(&packed);
            for base64 in [false, true] {
                let bytes = if base64 { wrapped.clone() } else { packed.clone() };
                prop_assert_eq!(sniff(&bytes[..bytes.len().min(65536)], label(packing)), Sniffed { packing, base64 });
                prop_assert_eq!(&unpack(bytes, Sniffed { packing, base64 }, UnpackLimits::default()).unwrap(), &data);
            }
            let sized = lzma(&data, Some(data.len() as u64));
            prop_assert_eq!(&auto(sized, None).unwrap(), &data);
        }

        #[test]
        fn a_cut_stream_is_corrupt(data in prop::collection::vec(any::<u8>(), 1..2000), cut in 0.0f64..1.0, which in 0usize..5) {
            let packing = PACKED[which];
            let mut packed = pack(packing, &data);
            packed.truncate((packed.len() as f64 * cut) as usize);
            let error = unpack(packed, Sniffed { packing, base64: false }, UnpackLimits::default()).unwrap_err();
            prop_assert!(matches!(UnpackError::of(&error), Some(UnpackError::Corrupt(_))), "{error:?}");
        }

        #[test]
        fn garbage_never_panics(mut data in prop::collection::vec(any::<u8>(), 0..600), which in 0usize..6, base64: bool, magic: bool) {
            let packings = [Packing::Raw, Packing::Zlib, Packing::Gzip, Packing::Deflate, Packing::Lzma, Packing::Xz];
            let packing = packings[which];
            if magic {
                let valid = pack(packing, b"a start that is right");
                let keep = valid.len() / 2;
                data.splice(0..0, valid[..keep].iter().copied());
            }
            for label in [None, Some("zlib"), Some("deflate"), Some("lzma")] {
                let _ = auto(data.clone(), label);
            }
            let sniffed = Sniffed { packing, base64 };
            let mut decoder = decoder(Cursor::new(data), sniffed, UnpackLimits::default());
            let mut buffer = [0; 97];
            for _ in 0..2000 {
                if matches!(decoder.read(&mut buffer), Ok(0)) { break }
            }
        }

        #[test]
        fn prose_is_never_taken_for_packed(text in "[a-zA-Z0-9+/ \n]{0,400}") {
            for label in [None, Some("zlib"), Some("deflate"), Some("gzip"), Some("lzma")] {
                prop_assert_eq!(sniff(text.as_bytes(), label), Sniffed::RAW);
            }
        }
    }
}
