//! What kind of document the first unpacked bytes begin. An extension only chooses between kinds of text.

use super::{charset, csv, html, json};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Empty,
    Pdf,
    /// An Office document or a plain archive; its directory, at the end of the file, says which.
    Zip,
    /// A workbook, or an older document that is not read.
    Ole,
    Html,
    Xml,
    Json,
    /// With its delimiter.
    Csv(u8),
    Text,
    Unsupported(&'static str),
}

const SIGNATURES: &[(usize, &[u8], Kind)] = &[
    (0, b"PK\x03\x04", Kind::Zip),
    (0, b"PK\x05\x06", Kind::Zip),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", Kind::Ole),
    (0, b"{\\rtf", Kind::Unsupported("rtf")),
    (0, b"\x89PNG\r\n\x1a\n", Kind::Unsupported("png")),
    (0, b"\xff\xd8\xff", Kind::Unsupported("jpeg")),
    (0, b"GIF87a", Kind::Unsupported("gif")),
    (0, b"GIF89a", Kind::Unsupported("gif")),
    (0, b"II*\0", Kind::Unsupported("tiff")),
    (0, b"MM\0*", Kind::Unsupported("tiff")),
    (8, b"WEBPVP8", Kind::Unsupported("webp")),
    (8, b"WAVEfmt", Kind::Unsupported("wav")),
    (4, b"ftyp", Kind::Unsupported("mp4")),
    (0, b"\x1a\x45\xdf\xa3", Kind::Unsupported("matroska")),
    (0, b"OggS\0", Kind::Unsupported("ogg")),
    (0, b"ID3", Kind::Unsupported("mp3")),
    (0, b"\x1f\x8b\x08", Kind::Unsupported("gzip")),
    (0, b"\xfd7zXZ\0", Kind::Unsupported("xz")),
    (0, b"BZh", Kind::Unsupported("bzip2")),
    (0, b"\x28\xb5\x2f\xfd", Kind::Unsupported("zstd")),
    (0, b"7z\xbc\xaf\x27\x1c", Kind::Unsupported("7z")),
    (0, b"Rar!\x1a\x07", Kind::Unsupported("rar")),
    (257, b"ustar", Kind::Unsupported("tar")),
    (0, b"\x7fELF", Kind::Unsupported("binary")),
];

/// `extension` in lower case without its dot.
pub(super) fn detect(prefix: &[u8], extension: &str) -> Kind {
    if prefix.is_empty() {
        return Kind::Empty;
    }
    // Some writers put a few lines before the header; readers accept it within the first kilobyte.
    let head = prefix.get(..prefix.len().min(1024)).unwrap_or_default();
    if head.starts_with(b"%PDF-")
        || (!looks_like_markup(head) && head.windows(6).any(|w| w == b"\n%PDF-" || w == b"\0%PDF-"))
    {
        return Kind::Pdf;
    }
    for (offset, magic, kind) in SIGNATURES {
        // "BZh" and "ID3" may begin prose.
        if prefix.get(*offset..).is_some_and(|rest| rest.starts_with(magic)) && (magic.len() > 3 || !is_text(prefix)) {
            return *kind;
        }
    }
    if !is_text(prefix) {
        return Kind::Unsupported("binary");
    }
    let text = charset::decode_prefix(prefix);
    if html::looks_like(&text, extension) {
        return Kind::Html;
    }
    let start = text.trim_start_matches(|c: char| c.is_whitespace() || c == '\u{feff}');
    if start.starts_with("<?xml") || (start.starts_with('<') && matches!(extension, "xml" | "svg" | "rss" | "atom")) {
        return Kind::Xml;
    }
    if json::looks_like(&text) {
        return Kind::Json;
    }
    if matches!(extension, "csv" | "tsv") {
        return Kind::Csv(csv::delimiter(&text, extension));
    }
    Kind::Text
}

fn looks_like_markup(head: &[u8]) -> bool {
    head.trim_ascii_start().starts_with(b"<")
}

/// Text of some charset: hardly any control characters, no zeros unless it is UTF-16.
fn is_text(prefix: &[u8]) -> bool {
    let text = charset::decode_prefix(prefix);
    let mut total = 0_usize;
    let mut strange = 0_usize;
    for c in text.chars() {
        total += 1;
        match c {
            '\0' => return false,
            '\t' | '\n' | '\r' | '\x0c' | '\x1b' | '\u{85}' => {}
            c if c.is_control() || c == '\u{fffd}' => strange += 1,
            _ => {}
        }
    }
    strange * 50 <= total
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn magic_beats_the_extension() {
        assert_eq!(detect(b"%PDF-1.4 ...", "csv"), Kind::Pdf);
        assert_eq!(detect(b"junk\n%PDF-1.4 ...", ""), Kind::Pdf);
        assert_eq!(detect(b"PK\x03\x04....", "txt"), Kind::Zip);
        assert_eq!(detect(b"just text", "pdf"), Kind::Text);
        assert_eq!(detect(b"just text", "docx"), Kind::Text);
        assert_eq!(detect(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "html"), Kind::Unsupported("png"));
        assert_eq!(detect(&[0, 1, 2, 3, 0xff, 0xfe, 9, 8, 0], "txt"), Kind::Unsupported("binary"));
        assert_eq!(detect(b"", "pdf"), Kind::Empty);
    }

    #[test]
    fn kinds_of_text() {
        assert_eq!(detect(b"a,b\n1,2\n", "csv"), Kind::Csv(b','));
        assert_eq!(detect(b"a;b\n1;2\n", "csv"), Kind::Csv(b';'));
        assert_eq!(detect(b"a,b\n1,2\n", ""), Kind::Text);
        assert_eq!(detect(b"{\"a\": 1}", "txt"), Kind::Json);
        assert_eq!(detect(b"  \n<!DOCTYPE HTML><p>", ""), Kind::Html);
        assert_eq!(detect(b"<?xml version=\"1.0\"?><html xmlns=\"\">", ""), Kind::Html);
        assert_eq!(detect(b"<?xml version=\"1.0\"?><feed/>", "html"), Kind::Xml);
        assert_eq!(detect(b"<p>fragment", "htm"), Kind::Html);
        assert_eq!(detect(b"BZh is a file format", ""), Kind::Text);
        assert_eq!(detect(b"if a < b then", "html"), Kind::Text);
        let utf16: Vec<u8> = "{\"a\": 1}".encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert_eq!(detect(&utf16, ""), Kind::Json);
        assert_eq!(detect(b"caf\xe9 cr\xe8me", ""), Kind::Text);
    }
}
