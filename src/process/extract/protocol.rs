//! Frames between the server and its extraction child.
//!
//! A frame is a kind byte, a little-endian length and that many bytes. The server sends [`HELLO`] once, then for each
//! document [`START`], any number of [`DATA`] and one [`END`] or [`ABORT`]. The child sends [`READY`] for each
//! [`START`], so that one that died while idle costs no document, then exactly one [`ANSWER`] at any time; having
//! answered it throws away what comes until the document's end. So the server may stop in the middle of the content and
//! both stay in step.

use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize};

/// The limits, as JSON.
pub(super) const HELLO: u8 = 1;
/// A document begins; its [`Start`] as JSON.
pub(super) const START: u8 = 2;
/// A run of its bytes.
pub(super) const DATA: u8 = 3;
/// The document is complete, or no more of it is wanted.
pub(super) const END: u8 = 4;
/// Reading the document failed at the server.
pub(super) const ABORT: u8 = 5;
/// The child has read [`START`].
pub(super) const READY: u8 = 16;
/// The child's [`Answer`]: a length, that much JSON, then the text.
pub(super) const ANSWER: u8 = 17;

/// Largest payload of every frame but [`DATA`] and [`ANSWER`].
pub(super) const SMALL: usize = 64 * 1024;

#[derive(Serialize, Deserialize, Debug, Clone, Copy)]
pub(super) struct Hello {
    pub(super) unpacked_bytes: u64,
    pub(super) ratio: u64,
    pub(super) document_bytes: u64,
    pub(super) text_bytes: usize,
    pub(super) seconds: u64,
    pub(super) memory_bytes: u64,
}

#[derive(Serialize, Deserialize, Debug)]
pub(super) struct Start {
    pub(super) compression: Option<String>,
    pub(super) file_extension: Option<String>,
}

#[derive(Serialize, Deserialize, Debug)]
pub(super) struct Answer {
    pub(super) outcome: Result<Found, Failure>,
    /// The child asks to be replaced: it grew, or a parser left it in doubt.
    pub(super) worn: bool,
}

#[derive(Serialize, Deserialize, Debug)]
pub(super) struct Found {
    pub(super) kind: String,
    pub(super) title: Option<String>,
    pub(super) truncated: bool,
    pub(super) unpacked_bytes: u64,
    pub(super) packing: String,
    pub(super) base64: bool,
}

/// Why a document gave no text, as far as the child can say.
#[derive(Serialize, Deserialize, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    Unsupported(String),
    Encrypted(String),
    TooLarge {
        what: String,
        limit: u64,
    },
    Ratio(u64),
    Corrupt(String),
    /// The server stopped sending.
    Aborted,
}

pub(super) fn read_header(input: &mut impl Read) -> io::Result<(u8, usize)> {
    let mut header = [0; 5];
    input.read_exact(&mut header)?;
    let [kind, a, b, c, d] = header;
    let length = usize::try_from(u32::from_le_bytes([a, b, c, d])).map_err(io::Error::other)?;
    Ok((kind, length))
}

pub(super) fn header(kind: u8, length: usize) -> io::Result<[u8; 5]> {
    let [a, b, c, d] = u32::try_from(length).map_err(io::Error::other)?.to_le_bytes();
    Ok([kind, a, b, c, d])
}

pub(super) fn write_answer(output: &mut impl Write, answer: &Answer, text: &str) -> io::Result<()> {
    let json = serde_json::to_vec(answer).map_err(io::Error::other)?;
    let length = u32::try_from(json.len()).map_err(io::Error::other)?;
    output.write_all(&header(ANSWER, 4 + json.len() + text.len())?)?;
    output.write_all(&length.to_le_bytes())?;
    output.write_all(&json)?;
    output.write_all(text.as_bytes())?;
    output.flush()
}

/// The payload of an [`ANSWER`] frame.
pub(super) fn parse_answer(mut payload: Vec<u8>) -> Result<(Answer, String), &'static str> {
    let Some((length, rest)) = payload.split_first_chunk::<4>() else { return Err("an answer without a header") };
    let length = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
    let json = rest.get(..length).ok_or("an answer shorter than its header says")?;
    let answer = serde_json::from_slice(json).map_err(|_| "an answer that is not understood")?;
    payload.drain(..4 + length);
    let text = String::from_utf8(payload).map_err(|_| "text that is not UTF-8")?;
    Ok((answer, text))
}
