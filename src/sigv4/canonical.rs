//! The one form of a request that is signed.

use sha2::{Digest, Sha256};

use super::UNSIGNED_PAYLOAD;

pub(super) fn canonical_request(
    method: &str,
    path: &str,
    query: &str,
    headers: &[(String, Vec<u8>)],
    signed_headers: &str,
) -> Vec<u8> {
    let mut out = format!("{method}\n{path}\n{query}\n").into_bytes();
    for (name, value) in headers {
        out.extend_from_slice(name.as_bytes());
        out.push(b':');
        out.extend_from_slice(value);
        out.push(b'\n');
    }
    out.extend_from_slice(format!("\n{signed_headers}\n{UNSIGNED_PAYLOAD}").as_bytes());
    out
}

pub(super) fn string_to_sign(algorithm: &str, date: &str, scope: &str, canonical_request: &[u8]) -> String {
    format!("{algorithm}\n{date}\n{scope}\n{}", hex::encode(Sha256::digest(canonical_request)))
}

pub(super) fn join_query(mut pairs: Vec<(String, String)>) -> String {
    pairs.sort();
    pairs.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&")
}

/// Trims a header value and makes every inner run of blanks one space.
pub(super) fn collapse(value: &[u8]) -> Vec<u8> {
    let words = value.split(|b| matches!(b, b' ' | b'\t')).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join(&b' ')
}

fn push_encoded(out: &mut String, byte: u8) {
    if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
        out.push(char::from(byte));
    } else {
        out.push('%');
        for digit in [byte >> 4, byte & 15] {
            out.push(char::from_digit(u32::from(digit), 16).unwrap_or_default().to_ascii_uppercase());
        }
    }
}

/// Encodes a name or value of the query.
pub(super) fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        push_encoded(&mut out, byte);
    }
    out
}

/// Encodes a path given as plain text. It always begins with a slash.
pub(super) fn encode_path(path: &str) -> String {
    let mut out = String::with_capacity(path.len() + 1);
    if !path.starts_with('/') {
        out.push('/');
    }
    for byte in path.bytes() {
        if byte == b'/' { out.push('/') } else { push_encoded(&mut out, byte) }
    }
    out
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Path,
    Query,
}

/// Brings what is on the wire into the one form that is signed. What could be read in two ways comes out in a form
/// that no signer produces: `+` in the query stays bare, and a `%` that begins no escape is doubled.
pub(super) fn recode(wire: &str, part: Part) -> String {
    let mut out = String::with_capacity(wire.len());
    let mut rest = wire.as_bytes();
    while let [byte, tail @ ..] = rest {
        rest = tail;
        match (byte, tail) {
            (b'%', [high, low, after @ ..]) if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                let digit = |b: u8| char::from(b).to_digit(16).and_then(|d| u8::try_from(d).ok()).unwrap_or(0);
                push_encoded(&mut out, digit(*high) << 4 | digit(*low));
                rest = after;
            }
            (b'%', _) => out.push_str("%%"),
            (b'/', _) if part == Part::Path => out.push('/'),
            (b'+', _) if part == Part::Query => out.push('+'),
            (byte, _) => push_encoded(&mut out, *byte),
        }
    }
    out
}
