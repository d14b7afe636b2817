//! The child: limits itself, then answers one document after the other until its input ends.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read, Write};
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::process::{Resource, Rlimit, Signal, getrlimit, set_parent_process_death_signal, setrlimit};
use rustix::thread::set_no_new_privs;
use rustix::time::{ClockId, clock_gettime};

use super::charset::{self, Utf8};
use super::detect::{Kind, detect};
use super::protocol::{self, Answer, Failure, Found, Hello, Start};
use super::text::Text;
use super::{csv, html, json, office, pdf, plain, xml};
use crate::unpack::{self, SNIFF_BYTES, UnpackError, UnpackLimits};

/// Parsers recurse on nested input; this much stack lets all nest that any of them accepts.
const STACK_BYTES: usize = 64 << 20;

/// Runs the extraction child on standard input and output, and returns when the input ends.
///
/// It is started by [`super::Pool`] and of no use to anybody else.
#[must_use]
pub fn child_main() -> ExitCode {
    // A panic is an answer, not news for the log; what aborts the process still speaks on standard error.
    std::panic::set_hook(Box::new(|_| {}));
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn run() -> io::Result<()> {
    let mut input = BufReader::with_capacity(64 * 1024, File::from(io::stdin().as_fd().try_clone_to_owned()?));
    let (kind, length) = protocol::read_header(&mut input)?;
    if kind != protocol::HELLO || length > protocol::SMALL {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut payload = vec![0; length];
    input.read_exact(&mut payload)?;
    let hello: Hello = serde_json::from_slice(&payload).map_err(io::Error::other)?;
    harden(&hello)?;
    let output = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let worker = std::thread::Builder::new().stack_size(STACK_BYTES).spawn(move || {
        // No more threads or processes from here on (root is exempt).
        limit(Resource::Nproc, 0)?;
        serve(input, output, hello)
    })?;
    worker.join().map_err(|_| io::Error::other("the worker panicked"))?
}

/// Leaves the process only what reading documents takes.
fn harden(hello: &Hello) -> io::Result<()> {
    // The end of the input ends an idle child; this ends one in the middle of a document. The kernel means the
    // thread that started us, and a runtime's threads live as long as the runtime.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    set_no_new_privs(true)?;
    limit(Resource::As, hello.memory_bytes)?;
    limit(Resource::Core, 0)?;
    limit(Resource::Fsize, 0)?;
    limit(Resource::Nofile, 16)?;
    Ok(())
}

/// Lowers a limit for good; never raises one that the operator set.
fn limit(resource: Resource, value: u64) -> io::Result<()> {
    let old = getrlimit(resource);
    let value = value.min(old.maximum.unwrap_or(u64::MAX));
    setrlimit(resource, Rlimit { current: Some(value), maximum: Some(value) })?;
    Ok(())
}

/// Processor time for one document. The server's own clock comes first; this one works when the server is gone.
fn allow_seconds(seconds: u64) -> io::Result<()> {
    let used = u64::try_from(clock_gettime(ClockId::ProcessCPUTime).tv_sec).unwrap_or(0);
    let old = getrlimit(Resource::Cpu);
    let current = used.saturating_add(seconds).saturating_add(2).min(old.maximum.unwrap_or(u64::MAX));
    setrlimit(Resource::Cpu, Rlimit { current: Some(current), maximum: old.maximum })?;
    Ok(())
}

fn serve(input: BufReader<File>, mut output: File, hello: Hello) -> io::Result<()> {
    let frames = Arc::new(Mutex::new(Frames { input, left: 0, state: State::Ended }));
    loop {
        let start = frames.lock().unwrap_or_else(PoisonError::into_inner).start()?;
        let Some(start) = start else { return Ok(()) };
        output.write_all(&protocol::header(protocol::READY, 0)?)?;
        allow_seconds(hello.seconds)?;
        let mut text = Text::new(hello.text_bytes);
        let content = Content(Arc::clone(&frames));
        let result = catch_unwind(AssertUnwindSafe(|| document(content, &start, &hello, &mut text)));
        let (outcome, panicked) = match result {
            Ok(outcome) => (outcome, false),
            Err(panic) => (Err(Failure::Corrupt(format!("the parser gave up: {}", panic_message(&*panic)))), true),
        };
        let text = if outcome.is_ok() { text.into_string() } else { String::new() };
        let worn = panicked || address_space() > hello.memory_bytes / 2;
        protocol::write_answer(&mut output, &Answer { outcome, worn }, &text)?;
        drop(text);
        frames.lock().unwrap_or_else(PoisonError::into_inner).skip_rest()?;
    }
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let message = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    message.unwrap_or("no reason given").chars().take(200).collect()
}

/// Bytes of address space in use; what an earlier document left behind counts against the next.
fn address_space() -> u64 {
    let Ok(status) = std::fs::read_to_string("/proc/self/status") else { return 0 };
    let line = status.lines().find_map(|line| line.strip_prefix("VmSize:"));
    let kibibytes = line.and_then(|line| line.split_whitespace().next()).and_then(|number| number.parse::<u64>().ok());
    kibibytes.unwrap_or(0).saturating_mul(1024)
}

/// The frames of standard input; between two documents the state is `Ended`.
struct Frames {
    input: BufReader<File>,
    /// Bytes of the current data frame not yet read.
    left: usize,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    Ended,
    Aborted,
}

impl Frames {
    /// Waits for the next document; `None` when the server is done with this child.
    fn start(&mut self) -> io::Result<Option<Start>> {
        if self.input.fill_buf()?.is_empty() {
            return Ok(None);
        }
        let (kind, length) = protocol::read_header(&mut self.input)?;
        if kind != protocol::START || length > protocol::SMALL {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut payload = vec![0; length];
        self.input.read_exact(&mut payload)?;
        self.state = State::Open;
        self.left = 0;
        serde_json::from_slice(&payload).map(Some).map_err(io::Error::other)
    }

    fn skip_rest(&mut self) -> io::Result<()> {
        while self.state == State::Open {
            let count = self.fill()?;
            self.input.consume(count);
            self.left -= count;
        }
        Ok(())
    }

    /// How many content bytes are in the buffer; zero at the document's end.
    fn fill(&mut self) -> io::Result<usize> {
        while self.left == 0 && self.state == State::Open {
            match protocol::read_header(&mut self.input)? {
                (protocol::DATA, length) => self.left = length,
                (protocol::END, 0) => self.state = State::Ended,
                (protocol::ABORT, 0) => self.state = State::Aborted,
                _ => return Err(io::ErrorKind::InvalidData.into()),
            }
        }
        if self.left == 0 {
            return Ok(0);
        }
        let count = self.input.fill_buf()?.len().min(self.left);
        if count == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(count) }
    }
}

/// The content of one document.
struct Content(Arc<Mutex<Frames>>);

impl Read for Content {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let mut frames = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let available = frames.fill()?;
        if available == 0 {
            return if frames.state == State::Aborted { Err(io::ErrorKind::ConnectionAborted.into()) } else { Ok(0) };
        }
        let wanted = available.min(buf.len());
        let count = frames.input.read(buf.get_mut(..wanted).unwrap_or_default())?;
        frames.left -= count;
        Ok(count)
    }
}

fn read_up_to(source: &mut impl Read, bytes: usize) -> io::Result<Vec<u8>> {
    let mut prefix = Vec::new();
    source.take(u64::try_from(bytes).unwrap_or(u64::MAX)).read_to_end(&mut prefix)?;
    Ok(prefix)
}

/// Reads one document into `text`.
fn document(
    mut content: impl Read + Send + 'static,
    start: &Start,
    limits: &Hello,
    text: &mut Text,
) -> Result<Found, Failure> {
    let packed = read_up_to(&mut content, SNIFF_BYTES)?;
    let sniffed = unpack::sniff(&packed, start.compression.as_deref());
    let bounds = UnpackLimits {
        output_bytes: limits.unpacked_bytes,
        ratio: limits.ratio,
        // Half of the memory is for what the parsers build.
        dictionary_bytes: UnpackLimits::default().dictionary_bytes.min(limits.memory_bytes / 4),
    };
    let mut source = unpack::decoder(Cursor::new(packed).chain(content), sniffed, bounds);
    let prefix = read_up_to(&mut source, SNIFF_BYTES)?;
    let extension = start.file_extension.as_deref().unwrap_or_default().trim_start_matches('.').to_ascii_lowercase();
    let kind = detect(&prefix, &extension);
    let encoding = charset::detect(&prefix);
    let mut whole = Cursor::new(prefix).chain(&mut source);
    let mut title = None;
    let mut in_archive = 0;
    let name = match kind {
        Kind::Empty => "empty",
        Kind::Text => {
            plain::extract(Utf8::new(whole, encoding), text)?;
            "text"
        }
        Kind::Html => {
            title = html::extract(Utf8::new(whole, encoding), text)?;
            "html"
        }
        Kind::Xml => {
            xml::extract(Utf8::new(whole, encoding), text)?;
            "xml"
        }
        Kind::Json => {
            json::extract(Utf8::new(whole, encoding), text)?;
            "json"
        }
        Kind::Csv(delimiter) => {
            csv::extract(Utf8::new(whole, encoding), delimiter, text)?;
            if delimiter == b'\t' { "tsv" } else { "csv" }
        }
        Kind::Pdf => {
            let bytes = in_memory(&mut whole, limits)?;
            title = pdf::extract(&bytes, text)?;
            "pdf"
        }
        Kind::Zip => {
            let bytes = in_memory(&mut whole, limits)?;
            let office = office::extract_zip(bytes, limits, text)?;
            title = office.title;
            in_archive = office.unpacked;
            office.kind
        }
        Kind::Ole => {
            let bytes = in_memory(&mut whole, limits)?;
            office::extract_ole(bytes, text)?
        }
        Kind::Unsupported(name) => return Err(Failure::Unsupported(String::from(name))),
    };
    Ok(Found {
        kind: String::from(name),
        title,
        truncated: text.is_full(),
        unpacked_bytes: source.written().max(in_archive),
        packing: String::from(sniffed.packing.name()),
        base64: sniffed.base64,
    })
}

/// The whole document, for parsers that jump about in it.
fn in_memory(source: &mut impl Read, limits: &Hello) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    source.take(limits.document_bytes.saturating_add(1)).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > limits.document_bytes {
        return Err(Failure::TooLarge { what: String::from("document's size in bytes"), limit: limits.document_bytes });
    }
    Ok(bytes)
}

impl From<UnpackError> for Failure {
    fn from(error: UnpackError) -> Self {
        match error {
            UnpackError::TooLarge { limit } => Self::TooLarge { what: String::from("unpacked size in bytes"), limit },
            UnpackError::Ratio { limit } => Self::Ratio(limit),
            UnpackError::Dictionary { limit } => {
                Self::TooLarge { what: String::from("LZMA dictionary in bytes"), limit }
            }
            UnpackError::Corrupt(reason) => Self::Corrupt(reason),
        }
    }
}

impl From<&io::Error> for Failure {
    fn from(error: &io::Error) -> Self {
        match UnpackError::of(error) {
            Some(meaning) => meaning.clone().into(),
            None if error.get_ref().is_some_and(|inner| inner.is::<xml::EventTooLarge>()) => Self::TooLarge {
                what: String::from("size of one tag, comment or text in bytes"),
                limit: u64::try_from(xml::EVENT_BYTES).unwrap_or(u64::MAX),
            },
            None if error.kind() == io::ErrorKind::ConnectionAborted => Self::Aborted,
            None => Self::Corrupt(error.to_string()),
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::from(&error)
    }
}

impl From<quick_xml::Error> for Failure {
    fn from(error: quick_xml::Error) -> Self {
        match error {
            quick_xml::Error::Io(error) => Self::from(&*error),
            error => Self::Corrupt(error.to_string()),
        }
    }
}
