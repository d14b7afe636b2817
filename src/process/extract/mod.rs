//! Text from documents that anybody may have uploaded.
//!
//! Parsers of such files panic, hang and eat memory, so they run in child processes of the same binary, with limits
//! on memory, time and output. A [`Pool`] keeps a few children warm and feeds them document after document; a child
//! that crashes or overruns is replaced, and only its document fails.

mod charset;
mod child;
mod csv;
mod detect;
mod html;
mod json;
mod office;
mod pdf;
mod plain;
mod protocol;
#[cfg(test)]
mod samples;
mod text;
mod xml;

use std::ffi::OsString;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::pin::pin;
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use rustix::process::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader, BufWriter};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

pub use child::child_main;

use crate::limits;
use crate::unpack::{self, Packing};
use detect::Kind;
use protocol::{Answer, Failure, Hello, Start};

/// Documents after which a child is replaced, in case a parser leaks.
const DOCUMENTS_PER_CHILD: u32 = 5_000;
/// Content sent in one frame.
const DATA_BYTES: usize = 64 * 1024;
/// What an answer may have beside its text.
const ANSWER_OVERHEAD: usize = 64 * 1024;
/// Of what a dying child says, this much is kept.
const LAST_WORDS: usize = 4 * 1024;
/// Time for a child whose output ended to be gone.
const DEATH_TIME: Duration = Duration::from_secs(2);

/// How long a child may take to start and to notice a document, at least: much, for a machine that is overloaded.
const READY_TIME: Duration = Duration::from_secs(10);

/// Bounds of one extraction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ExtractLimits {
    /// Most bytes the content may unpack to.
    pub unpacked_bytes: u64,
    /// Most bytes unpacked per byte packed.
    pub ratio: u64,
    /// Largest PDF or Office document; those are held in memory.
    pub document_bytes: u64,
    /// Longest text; what is beyond is cut off.
    pub text_bytes: usize,
    /// Time for one document, without the time spent waiting for its content.
    pub time: Duration,
    /// Address space of a child, its program and stack (about 100 MiB) included.
    pub memory_bytes: u64,
}

impl Default for ExtractLimits {
    fn default() -> Self {
        Self {
            unpacked_bytes: limits::UNPACKED_BYTES,
            ratio: 1000,
            document_bytes: limits::DOCUMENT_BYTES,
            text_bytes: 8 << 20,
            time: Duration::from_secs(60),
            memory_bytes: 1 << 30,
        }
    }
}

/// What the uploader declared about the content. The bytes decide; this breaks ties.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Hint {
    /// Declared compression, in lower case.
    pub compression: Option<String>,
    /// Declared file extension, with or without its dot.
    pub file_extension: Option<String>,
}

/// The text of a document.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Extracted {
    /// What the content was: `text`, `html`, `xml`, `json`, `csv`, `tsv`, `pdf`, `docx`, `pptx`, `xlsx`, `xlsb`,
    /// `xls`, `odt`, `ods`, `odp`, `odg` or `empty`.
    pub kind: String,
    /// The document's own title.
    pub title: Option<String>,
    /// Its text, whitespace collapsed.
    pub text: String,
    /// Whether the text was cut at its limit.
    pub truncated: bool,
    /// Bytes unpacked to get it.
    pub unpacked_bytes: u64,
    /// How the content was packed: `raw`, `zlib`, `gzip`, `deflate`, `lzma` or `xz`.
    pub packing: String,
    /// Whether it was Base64 around that.
    pub base64: bool,
}

/// What content looks like by its first bytes, before it is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Look {
    /// The kind, such as `pdf`; of an archive only its directory, at the end, says more.
    pub kind: &'static str,
    /// Is there a chance to read text from it?
    pub readable: bool,
}

/// Looks at the first bytes of some content; its extension in lower case without the dot breaks ties.
#[must_use]
pub fn looks_like(head: &[u8], extension: &str) -> Look {
    let packing = unpack::sniff(head, None);
    if packing.packing != Packing::Raw || packing.base64 {
        // What is inside shows when it is unpacked, which the child does.
        return Look { kind: "packed content", readable: true };
    }
    let readable = |kind| Look { kind, readable: true };
    match detect::detect(head, extension) {
        Kind::Empty => readable("empty content"),
        Kind::Pdf => readable("pdf"),
        Kind::Zip => readable("an Office document or an archive"),
        Kind::Ole => readable("an older Office document"),
        Kind::Html => readable("html"),
        Kind::Xml => readable("xml"),
        Kind::Json => readable("json"),
        Kind::Csv(_) => readable("csv"),
        Kind::Text => readable("text"),
        Kind::Unsupported(kind) => Look { kind, readable: false },
    }
}

/// Why a document has no text.
#[derive(Debug, thiserror::Error)]
pub enum ExtractError {
    /// Content of a kind that is not read.
    #[error("text cannot be read from {kind} content; send text, HTML, XML, JSON, CSV, PDF or an Office document")]
    Unsupported {
        /// What it is, as far as known.
        kind: String,
    },
    /// A document that needs a password.
    #[error("the {kind} document is protected by a password; send it without one")]
    Encrypted {
        /// What it is.
        kind: String,
    },
    /// A limit on size.
    #[error("the {what} is over the limit of {limit}; send a smaller document or raise the limit")]
    TooLarge {
        /// What is too large, with its unit.
        what: String,
        /// The limit.
        limit: u64,
    },
    /// A decompression bomb, or something that looks like one.
    #[error("the content unpacks to more than {limit} times its size; send it unpacked or raise the limit")]
    Ratio {
        /// The limit, bytes out per byte in.
        limit: u64,
    },
    /// Damaged content.
    #[error("the content is damaged: {reason}; send it again or repair it")]
    Corrupt {
        /// What is wrong with it.
        reason: String,
    },
    /// Reading the document took too long.
    #[error("reading the document took more than {} seconds; send a simpler document or raise the limit", .limit.as_secs())]
    Timeout {
        /// The limit.
        limit: Duration,
    },
    /// Reading the document took too much memory.
    #[error("reading the document took more than {limit} bytes of memory; send a simpler document or raise the limit")]
    Memory {
        /// The limit in bytes.
        limit: u64,
    },
    /// The child ended in the middle of the document.
    #[error("the reader crashed on the document ({detail}); send it in another form")]
    Crashed {
        /// How it ended.
        detail: String,
        /// The signal that ended it.
        signal: Option<i32>,
    },
    /// The content could not be fetched.
    #[error("the content could not be read: {0}")]
    Source(#[source] io::Error),
    /// The child could not be started or used.
    #[error("the extraction process could not be used: {0}")]
    Io(#[source] io::Error),
}

impl ExtractError {
    /// Whether the same document may succeed later. A child killed from outside (by an operator, or for memory by
    /// the kernel) says nothing about its document.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Source(_) | Self::Io(_) | Self::Crashed { signal: Some(9), .. } => true,
            Self::Unsupported { .. }
            | Self::Encrypted { .. }
            | Self::TooLarge { .. }
            | Self::Ratio { .. }
            | Self::Corrupt { .. }
            | Self::Timeout { .. }
            | Self::Memory { .. }
            | Self::Crashed { .. } => false,
        }
    }
}

/// Warm extraction children, each busy with one document at a time.
#[derive(Debug)]
pub struct Pool {
    program: PathBuf,
    arguments: Vec<OsString>,
    limits: ExtractLimits,
    permits: Semaphore,
    idle: Mutex<Vec<Worker>>,
}

#[derive(Debug)]
struct Worker {
    child: Child,
    input: BufWriter<ChildStdin>,
    output: BufReader<ChildStdout>,
    last_words: JoinHandle<Vec<u8>>,
    documents: u32,
}

/// How a conversation with a child ended without an answer.
enum Trouble {
    Timeout,
    /// Its pipes ended or failed.
    Dead,
    /// It does not keep to the protocol.
    Nonsense(&'static str),
}

impl Pool {
    /// A pool of up to `workers` children, each `program arguments…`, which must call [`child_main`]. Children are
    /// started when needed.
    #[must_use]
    pub fn new(program: PathBuf, arguments: Vec<OsString>, workers: usize, limits: ExtractLimits) -> Self {
        // Children run in `/`, where a relative path means something else.
        let program = std::path::absolute(&program).unwrap_or(program);
        let workers = workers.clamp(1, Semaphore::MAX_PERMITS);
        Self { program, arguments, limits, permits: Semaphore::new(workers), idle: Mutex::new(Vec::new()) }
    }

    /// Reads the text of one document. `content` is read only as far as needed.
    ///
    /// Dropping the future ends the child that worked on it.
    ///
    /// # Errors
    ///
    /// See [`ExtractError`]; whatever the document does, the pool stays usable.
    pub async fn extract<S>(&self, mut content: S, hint: Hint) -> Result<Extracted, ExtractError>
    where
        S: Stream<Item = io::Result<Bytes>> + Unpin + Send,
    {
        let _permit = self.permits.acquire().await.map_err(|error| ExtractError::Io(io::Error::other(error)))?;
        let mut worker = self.take(hint).await?;
        let mut source_error = None;
        match worker.converse(&mut content, &mut source_error, &self.limits).await {
            Ok((answer, text)) => {
                worker.documents += 1;
                if !answer.worn && worker.documents < DOCUMENTS_PER_CHILD {
                    self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(worker);
                }
                match source_error {
                    Some(error) => Err(ExtractError::Source(error)),
                    None => self.judge(answer, text),
                }
            }
            Err(Trouble::Timeout) => {
                let _ = worker.child.kill().await;
                Err(ExtractError::Timeout { limit: self.limits.time })
            }
            Err(Trouble::Nonsense(what)) => Err(self.put_down(worker, what).await),
            Err(Trouble::Dead) => Err(self.autopsy(worker).await),
        }
    }

    fn judge(&self, answer: Answer, text: String) -> Result<Extracted, ExtractError> {
        match answer.outcome {
            Ok(found) => Ok(Extracted {
                kind: found.kind,
                title: found.title,
                text,
                truncated: found.truncated,
                unpacked_bytes: found.unpacked_bytes,
                packing: found.packing,
                base64: found.base64,
            }),
            Err(Failure::Unsupported(kind)) => Err(ExtractError::Unsupported { kind }),
            Err(Failure::Encrypted(kind)) => Err(ExtractError::Encrypted { kind }),
            Err(Failure::TooLarge { what, limit }) => Err(ExtractError::TooLarge { what, limit }),
            Err(Failure::Ratio(limit)) => Err(ExtractError::Ratio { limit }),
            Err(Failure::Corrupt(reason)) => Err(ExtractError::Corrupt { reason }),
            Err(Failure::Aborted) => Err(ExtractError::Io(io::ErrorKind::ConnectionAborted.into())),
        }
    }

    /// A child that has said that it is ready for a document with this hint.
    async fn take(&self, hint: Hint) -> Result<Worker, ExtractError> {
        // No name that means anything is longer, and the frame has a limit.
        let known = |value: &String| value.len() <= 64;
        let start =
            Start { compression: hint.compression.filter(known), file_extension: hint.file_extension.filter(known) };
        let start = serde_json::to_vec(&start).map_err(|error| ExtractError::Io(error.into()))?;
        loop {
            let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let was_idle = idle.is_some();
            let mut worker = match idle {
                Some(worker) => worker,
                None => self.start().await.map_err(ExtractError::Io)?,
            };
            match timeout(READY_TIME.max(self.limits.time), worker.begin(&start)).await {
                Ok(Ok(())) => return Ok(worker),
                // One that died while idle must not cost a document.
                _ if was_idle => {}
                Ok(Err(Trouble::Nonsense(what))) => return Err(self.put_down(worker, what).await),
                Ok(Err(Trouble::Timeout | Trouble::Dead)) => return Err(self.autopsy(worker).await),
                Err(elapsed) => return Err(ExtractError::Io(elapsed.into())),
            }
        }
    }

    async fn start(&self) -> io::Result<Worker> {
        let mut child = Command::new(&self.program)
            .args(&self.arguments)
            .env_clear()
            // One heap: glibc would reserve 64 MiB of address space for each thread's own.
            .env("MALLOC_ARENA_MAX", "1")
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let (Some(input), Some(output), Some(errors)) = (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(io::Error::other("a child without pipes"));
        };
        let mut worker = Worker {
            child,
            input: BufWriter::with_capacity(DATA_BYTES, input),
            output: BufReader::with_capacity(DATA_BYTES, output),
            last_words: tokio::spawn(last_words(errors)),
            documents: 0,
        };
        let hello = Hello {
            unpacked_bytes: self.limits.unpacked_bytes,
            ratio: self.limits.ratio,
            document_bytes: self.limits.document_bytes,
            text_bytes: self.limits.text_bytes,
            seconds: self.limits.time.as_secs().saturating_add(1),
            memory_bytes: self.limits.memory_bytes,
        };
        let hello = serde_json::to_vec(&hello).map_err(io::Error::other)?;
        write_frame(&mut worker.input, protocol::HELLO, &hello).await?;
        Ok(worker)
    }

    /// Ends a child that does not keep to the protocol.
    async fn put_down(&self, mut worker: Worker, what: &'static str) -> ExtractError {
        let _ = worker.child.kill().await;
        ExtractError::Crashed { detail: format!("it sent {what}"), signal: None }
    }

    /// Finds out why a child ended.
    async fn autopsy(&self, mut worker: Worker) -> ExtractError {
        drop(worker.input);
        let status = match timeout(DEATH_TIME, worker.child.wait()).await {
            Ok(Ok(status)) => status,
            Ok(Err(error)) => return ExtractError::Io(error),
            Err(_) => {
                let _ = worker.child.kill().await;
                return ExtractError::Crashed { detail: String::from("it closed its output"), signal: None };
            }
        };
        let words = timeout(DEATH_TIME, worker.last_words).await.ok().and_then(Result::ok).unwrap_or_default();
        let words = String::from_utf8_lossy(&words);
        let signal = status.signal();
        if words.contains("memory allocation of") {
            return ExtractError::Memory { limit: self.limits.memory_bytes };
        }
        if signal == Some(Signal::XCPU.as_raw()) {
            return ExtractError::Timeout { limit: self.limits.time };
        }
        let detail = if words.contains("overflowed its stack") {
            String::from("it nests too deeply")
        } else {
            status.to_string()
        };
        ExtractError::Crashed { detail, signal }
    }
}

impl Worker {
    /// Announces a document and waits until the child is there for it.
    async fn begin(&mut self, start: &[u8]) -> Result<(), Trouble> {
        let announced = async {
            write_frame(&mut self.input, protocol::START, start).await?;
            self.input.flush().await?;
            let mut ready = [0; 5];
            self.output.read_exact(&mut ready).await?;
            Ok::<_, io::Error>(ready)
        };
        let ready = announced.await.map_err(|_| Trouble::Dead)?;
        let expected = protocol::header(protocol::READY, 0).map_err(|_| Trouble::Dead)?;
        if ready == expected { Ok(()) } else { Err(Trouble::Nonsense("something before it was ready")) }
    }

    /// One document that [`begin`](Self::begin) announced. When it succeeds, both sides are in step again, whether or not all content was sent.
    async fn converse<S>(
        &mut self,
        content: &mut S,
        source_error: &mut Option<io::Error>,
        limits: &ExtractLimits,
    ) -> Result<(Answer, String), Trouble>
    where
        S: Stream<Item = io::Result<Bytes>> + Unpin + Send,
    {
        let Self { input, output, .. } = self;
        let mut deadline = pin!(sleep(limits.time));
        let mut answer = pin!(read_answer(output, limits.text_bytes.saturating_add(ANSWER_OVERHEAD)));
        let mut early = None;
        'content: loop {
            #[allow(clippy::disallowed_methods, reason = "a deadline of tokio's own timer, not a fact")]
            let waiting = Instant::now();
            let next = tokio::select! {
                biased;
                got = &mut answer => { early = Some(got?); break }
                next = content.next() => next,
            };
            // Waiting for storage is not the document's fault.
            let until = deadline.deadline() + waiting.elapsed();
            deadline.as_mut().reset(until);
            let bytes = match next {
                Some(Ok(bytes)) => bytes,
                Some(Err(error)) => {
                    *source_error = Some(error);
                    break;
                }
                None => break,
            };
            for piece in bytes.chunks(DATA_BYTES) {
                // A frame once begun is finished, or the child would take the next for its rest.
                let mut write = pin!(write_frame(input, protocol::DATA, piece));
                tokio::select! {
                    biased;
                    got = &mut answer => {
                        early = Some(got?);
                        tokio::select! {
                            written = write => written.map_err(|_| Trouble::Dead)?,
                            () = &mut deadline => return Err(Trouble::Timeout),
                        }
                        break 'content;
                    }
                    written = &mut write => written.map_err(|_| Trouble::Dead)?,
                    () = &mut deadline => return Err(Trouble::Timeout),
                }
            }
        }
        let last = if source_error.is_some() { protocol::ABORT } else { protocol::END };
        let mut end = pin!(async {
            write_frame(input, last, &[]).await?;
            input.flush().await
        });
        let mut ended = false;
        loop {
            match (early.take(), ended) {
                (Some(done), true) => return Ok(done),
                (waiting, _) => early = waiting,
            }
            tokio::select! {
                biased;
                got = &mut answer, if early.is_none() => early = Some(got?),
                // If the child is gone, reading its answer tells.
                written = &mut end, if !ended => {
                    ended = true;
                    if written.is_err() && early.is_some() {
                        return Err(Trouble::Dead);
                    }
                }
                () = &mut deadline => return Err(Trouble::Timeout),
            }
        }
    }
}

async fn write_frame(input: &mut BufWriter<ChildStdin>, kind: u8, payload: &[u8]) -> io::Result<()> {
    input.write_all(&protocol::header(kind, payload.len())?).await?;
    input.write_all(payload).await
}

async fn read_answer(output: &mut BufReader<ChildStdout>, most: usize) -> Result<(Answer, String), Trouble> {
    let mut header = [0; 5];
    output.read_exact(&mut header).await.map_err(|_| Trouble::Dead)?;
    let (kind, length) = protocol::read_header(&mut &header[..]).map_err(|_| Trouble::Nonsense("half a frame"))?;
    // The child has read hostile bytes, so it is not trusted either.
    if kind != protocol::ANSWER || length > most {
        return Err(Trouble::Nonsense("a frame that is no answer"));
    }
    let mut payload = vec![0; length];
    output.read_exact(&mut payload).await.map_err(|_| Trouble::Dead)?;
    protocol::parse_answer(payload).map_err(Trouble::Nonsense)
}

/// Reads standard error to its end, so that the child never blocks on it, and keeps the beginning.
async fn last_words(mut errors: ChildStderr) -> Vec<u8> {
    let mut kept = Vec::new();
    let mut buffer = [0; 1024];
    while let Ok(count @ 1..) = errors.read(&mut buffer).await {
        let room = LAST_WORDS.saturating_sub(kept.len());
        kept.extend(buffer.iter().take(count.min(room)));
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::document::{READABLE, UNREADABLE};

    #[test]
    fn what_is_said_to_be_read_is_read_and_the_rest_is_not() {
        let docx = samples::docx("tide");
        for document in READABLE {
            for extension in document.extensions {
                let head: &[u8] = match document.kind {
                    "pdf" => b"%PDF-1.7\n",
                    "docx" | "pptx" | "xlsx" | "xlsb" | "odt" | "ods" | "odp" | "odg" => &docx,
                    "xls" => b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1\0\0",
                    _ => b"a line of text\n",
                };
                assert!(looks_like(head, extension.trim_start_matches('.')).readable, "{extension}");
            }
        }
        let read: Vec<&str> = READABLE.iter().flat_map(|document| document.extensions).copied().collect();
        let unread: Vec<&str> = UNREADABLE.iter().flat_map(|document| document.extensions).copied().collect();
        let mut all: Vec<&str> = read.iter().chain(&unread).copied().collect();
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count, "an ending is in one list, once");
        for (head, kind) in [
            (&b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"[..], "png"),
            (b"{\\rtf1 text}", "rtf"),
            (b"\x1a\x45\xdf\xa3\0\0", "matroska"),
        ] {
            assert_eq!(looks_like(head, "txt"), Look { kind, readable: false });
        }
        assert!(looks_like(b"\x1f\x8b\x08\0\0\0\0\0\0\x03abc", "txt").readable, "it is unpacked by the child");
    }
}
