//! Bytes of any charset as UTF-8, as a stream.

use std::io::{self, Read};

use chardetng::{EncodingDetector, Iso2022JpDetection, Utf8Detection};
use encoding_rs::{Decoder, Encoding, UTF_8, UTF_16BE, UTF_16LE, WINDOWS_1252};

/// The charset that the first bytes show: byte order mark, valid UTF-8, what the document declares, then a guess.
/// `None` while all is ASCII and nothing is declared.
pub(super) fn detect(prefix: &[u8]) -> Option<&'static Encoding> {
    if let Some((encoding, _)) = Encoding::for_bom(prefix) {
        return Some(encoding);
    }
    if let Some(encoding) = utf16_without_mark(prefix) {
        return Some(encoding);
    }
    if !prefix.is_ascii() && is_utf8(prefix) {
        return Some(UTF_8);
    }
    if let Some(encoding) = declared(prefix) {
        return Some(encoding);
    }
    if prefix.is_ascii() { None } else { Some(guess(prefix)) }
}

fn guess(bytes: &[u8]) -> &'static Encoding {
    let mut detector = EncodingDetector::new(Iso2022JpDetection::Allow);
    detector.feed(bytes, false);
    detector.guess(None, Utf8Detection::Deny)
}

/// Valid, but for a character that the end of the prefix cuts.
fn is_utf8(prefix: &[u8]) -> bool {
    std::str::from_utf8(prefix).map_or_else(|error| error.error_len().is_none(), |_| true)
}

/// Mostly ASCII in 16-bit units: every second byte is zero.
fn utf16_without_mark(prefix: &[u8]) -> Option<&'static Encoding> {
    let (pairs, _) = prefix.get(..prefix.len().min(1024))?.as_chunks::<2>();
    if pairs.len() < 2 {
        return None;
    }
    let little = pairs.iter().filter(|[a, b]| *a != 0 && *b == 0).count();
    let big = pairs.iter().filter(|[a, b]| *a == 0 && *b != 0).count();
    let most = pairs.len() - pairs.len() / 8;
    let printable = |index: usize| {
        pairs
            .iter()
            .filter_map(|pair| pair.get(index))
            .all(|byte| !byte.is_ascii_control() || byte.is_ascii_whitespace())
    };
    if little >= most && printable(0) {
        Some(UTF_16LE)
    } else if big >= most && printable(1) {
        Some(UTF_16BE)
    } else {
        None
    }
}

/// `charset=…` of an HTML `meta` or `encoding="…"` of an XML declaration.
fn declared(prefix: &[u8]) -> Option<&'static Encoding> {
    let head = prefix.get(..prefix.len().min(4096))?;
    let first = head.iter().position(|byte| !byte.is_ascii_whitespace())?;
    // Only markup declares: prose may talk about charset=utf-16.
    if head.get(first) != Some(&b'<') {
        return None;
    }
    let head = head.to_ascii_lowercase();
    let xml = head.get(first..)?.starts_with(b"<?xml").then_some(&b"encoding"[..]);
    for key in xml.into_iter().chain([&b"charset"[..]]) {
        let Some(at) = head.windows(key.len()).position(|window| window == key) else { continue };
        let rest = head.get(at + key.len()..)?.trim_ascii_start();
        let Some(rest) = rest.strip_prefix(b"=") else { continue };
        let rest = rest.trim_ascii_start();
        let rest = rest.strip_prefix(b"\"").or_else(|| rest.strip_prefix(b"'")).unwrap_or(rest);
        let end = rest.iter().position(|byte| !(byte.is_ascii_alphanumeric() || b"-_:.".contains(byte)));
        if let Some(encoding) = Encoding::for_label(rest.get(..end.unwrap_or(rest.len()))?) {
            // A declaration that could be read as ASCII is not UTF-16, whatever it says.
            return Some(if encoding == UTF_16LE || encoding == UTF_16BE { UTF_8 } else { encoding });
        }
    }
    None
}

/// The prefix as text, for looking at it.
pub(super) fn decode_prefix(prefix: &[u8]) -> String {
    let encoding = detect(prefix).unwrap_or(WINDOWS_1252);
    let mut text = String::with_capacity(prefix.len() * 3 + 16);
    let _ = encoding.new_decoder().decode_to_string(prefix, &mut text, false);
    text
}

/// Reads `inner` as UTF-8 text.
pub(super) struct Utf8<R> {
    inner: R,
    /// `None` while all bytes were ASCII.
    decoder: Option<Decoder>,
    input: Vec<u8>,
    text: String,
    taken: usize,
    ended: bool,
}

impl<R: Read> Utf8<R> {
    /// `encoding` is what [`detect`] said about the first bytes of `inner`.
    pub(super) fn new(inner: R, encoding: Option<&'static Encoding>) -> Self {
        let decoder = encoding.map(Encoding::new_decoder);
        Self { inner, decoder, input: vec![0; 64 * 1024], text: String::new(), taken: 0, ended: false }
    }

    /// The next run of text, `None` at the end.
    pub(super) fn next(&mut self) -> io::Result<Option<&str>> {
        self.text.clear();
        self.taken = 0;
        while self.text.is_empty() && !self.ended {
            let count = match self.inner.read(&mut self.input) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            self.ended = count == 0;
            let bytes = self.input.get(..count).unwrap_or_default();
            if self.decoder.is_none() && !bytes.is_ascii() {
                let encoding = if is_utf8(bytes) { UTF_8 } else { guess(bytes) };
                self.decoder = Some(encoding.new_decoder_without_bom_handling());
            }
            match &mut self.decoder {
                Some(decoder) => {
                    let room = decoder.max_utf8_buffer_length(count).unwrap_or(count * 3 + 16);
                    self.text.reserve(room);
                    let _ = decoder.decode_to_string(bytes, &mut self.text, self.ended);
                }
                None => self.text.push_str(std::str::from_utf8(bytes).unwrap_or_default()),
            }
        }
        Ok((!self.text.is_empty()).then_some(self.text.as_str()))
    }
}

impl<R: Read> Read for Utf8<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.taken == self.text.len() {
            self.next()?;
        }
        let mut rest = self.text.as_bytes().get(self.taken..).unwrap_or_default();
        let count = rest.read(buf)?;
        self.taken += count;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(bytes: &[u8]) -> String {
        let mut out = String::new();
        Utf8::new(bytes, detect(bytes)).read_to_string(&mut out).unwrap();
        out
    }

    #[test]
    fn charsets_are_recognised() {
        assert_eq!(text("\u{feff}Grüße".as_bytes()), "Grüße");
        assert_eq!(text("Grüße aus Köln".as_bytes()), "Grüße aus Köln");
        let latin: Vec<u8> =
            "Grüße aus der schönen Stadt Köln".chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect();
        assert_eq!(text(&latin), "Grüße aus der schönen Stadt Köln");
        for (mark, order) in [(true, true), (true, false), (false, true), (false, false)] {
            let units = mark.then_some(0xfeffu16).into_iter().chain("Hello wide world".encode_utf16());
            let bytes: Vec<u8> = units.flat_map(|u| if order { u.to_le_bytes() } else { u.to_be_bytes() }).collect();
            assert_eq!(text(&bytes), "Hello wide world");
        }
        let (shift_jis, ..) = encoding_rs::SHIFT_JIS.encode("日本語のテキストです。検索できますか。");
        assert_eq!(text(&shift_jis), "日本語のテキストです。検索できますか。");
        let (declared, ..) = encoding_rs::WINDOWS_1251.encode("<meta charset=windows-1251><p>Да");
        assert!(text(&declared).ends_with("Да"));
        let (declared, ..) = encoding_rs::ISO_8859_2.encode("<?xml version='1.0' encoding='iso-8859-2'?><a>Łódź</a>");
        assert!(text(&declared).contains("Łódź"));
    }

    #[test]
    fn a_charset_may_show_late() {
        let mut bytes = vec![b'a'; 100_000];
        bytes.extend(b" sch\xf6ne Gr\xfc\xdfe aus K\xf6ln");
        let mut out = String::new();
        Utf8::new(&bytes[..], detect(&bytes[..65536])).read_to_string(&mut out).unwrap();
        assert!(out.ends_with("schöne Grüße aus Köln"), "{}", &out[99_990..]);
    }
}
