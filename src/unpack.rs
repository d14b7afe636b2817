//! What the bytes of an item really are, and the same bytes unpacked.
//!
//! Clients label content wrongly often enough that the label only breaks ties: [`sniff`] looks at the bytes,
//! [`decoder`] unpacks them as a stream within [`UnpackLimits`]. Nothing here does I/O but through [`Read`].

mod packed;
mod sniff;
mod text;

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use self::packed::unpacked;
pub use self::sniff::{SNIFF_BYTES, sniff};
use self::text::Base64Reader;

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

fn is_padding(byte: u8) -> bool {
    byte == 0 || byte.is_ascii_whitespace()
}

fn corrupt(reason: &str) -> io::Error {
    UnpackError::Corrupt(reason.to_owned()).into()
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
