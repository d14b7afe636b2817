//! What the bytes are.

use std::io::{self, Read};

use flate2::{Decompress, FlushDecompress, Status};

use super::packed::kibibytes;
use super::text::Base64;
use super::{Packing, Sniffed, UnpackLimits, is_padding};

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
