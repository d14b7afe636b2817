//! `landfall get`: a file from the server, whole or not at all.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use bytes::Bytes;
use clap::Args;
use futures_util::{Stream, StreamExt};
use http::{Method, header};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::remote::{Patience, Remote, passes, refusal, retry_after};
use super::terminal::{Progress, Terminal, plain, size, text};
use super::{Failed, Server};
use crate::model::file::RunningCrcs;
use crate::outbound::{Head, OutboundError, Payload};

const READ_BYTES: usize = 1024 * 1024;
/// When more than this is missing, it comes in ranges, several at once.
const WHOLE_BYTES: u64 = 64 * 1024 * 1024;
/// The bytes of a range. As many ranges as come at once are held in memory, so that the file is written in order.
const RANGE_BYTES: u64 = 8 * 1024 * 1024;

/// Arguments of `landfall get`.
#[derive(Debug, Args)]
pub(in crate::cli) struct Get {
    /// The file's id, as `ls` shows it
    #[arg(value_name = "ID")]
    id: String,
    /// Where to write it [default: its name, in this directory]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Replace a file that is there
    #[arg(long)]
    force: bool,
    /// Ranges of a file beyond 64 MiB that come at once; each takes 8 MiB of memory
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=64))]
    parallel: u8,
    #[command(flatten)]
    server: Server,
}

impl Get {
    pub(in crate::cli) fn run(&self) -> ExitCode {
        self.server.run(async |remote, terminal| {
            let getting = Getting { get: self, remote: &remote, terminal: &terminal };
            match getting.file().await {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => {
                    terminal.failed(&self.id, &error);
                    ExitCode::FAILURE
                }
            }
        })
    }
}

struct Getting<'a> {
    get: &'a Get,
    remote: &'a Remote,
    terminal: &'a Terminal,
}

/// What is held so far, in the file whose name ends in `.part`.
struct Part {
    path: PathBuf,
    file: File,
    length: u64,
    crcs: RunningCrcs,
    sha256: Sha256,
}

impl Part {
    /// Opens what an earlier run left, and reads it for the digests.
    #[allow(clippy::disallowed_methods, reason = "the client writes the user's own files")]
    fn open(path: &Path) -> Result<Self, Failed> {
        // Never through a link: what it leads to is somebody else's.
        let file = OpenOptions::new().read(true).append(true).create(true).custom_flags(libc::O_NOFOLLOW).open(path)?;
        file.try_lock().map_err(|_| Failed::new(format!("{} is being written by another run", path.display())))?;
        let mut part =
            Self { path: path.to_owned(), file, length: 0, crcs: RunningCrcs::default(), sha256: Sha256::new() };
        let mut buffer = vec![0; READ_BYTES];
        loop {
            match part.file.read(&mut buffer) {
                Ok(0) => return Ok(part),
                Ok(n) => part.count(&buffer[..n]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn count(&mut self, bytes: &[u8]) {
        self.crcs.update(bytes);
        self.sha256.update(bytes);
        self.length += u64::try_from(bytes.len()).unwrap_or(0);
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.count(bytes);
        Ok(())
    }

    /// Begins at the first byte again.
    #[allow(clippy::disallowed_methods, reason = "the client writes the user's own files")]
    fn restart(&mut self) -> io::Result<()> {
        // Truncates the file that this run holds the lock of.
        OpenOptions::new().write(true).truncate(true).open(&self.path)?;
        self.length = 0;
        self.crcs = RunningCrcs::default();
        self.sha256 = Sha256::new();
        Ok(())
    }

    /// Which digest is not the server's, if one is not.
    fn differs(&self, about: &Value) -> Option<&'static str> {
        let digests = &about["digests"];
        let crcs = self.crcs.value();
        let found = [
            ("crc32c", format!("{:08x}", crcs.crc32c)),
            ("crc64nvme", format!("{:016x}", crcs.crc64nvme)),
            ("sha256", hex::encode(self.sha256.clone().finalize())),
        ];
        found.into_iter().find(|(name, found)| digests[name].as_str().is_some_and(|d| d != found)).map(|(name, _)| name)
    }
}

impl Getting<'_> {
    async fn file(&self) -> Result<(), Failed> {
        let id = &self.get.id;
        if !id.strip_prefix("file_").is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit())) {
            return Err(Failed::new("it is no file's id: `landfall ls` shows them"));
        }
        let about = self.remote.json(Method::GET, &format!("/files/{id}"), None, None).await?;
        let target = self.target(&about)?;
        if !self.get.force && target.symlink_metadata().is_ok() {
            return Err(exists(&target));
        }
        let mut part_name = target.clone().into_os_string();
        part_name.push(".part");
        let mut part = Part::open(Path::new(&part_name))?;
        let total = about["size"].as_u64().unwrap_or(0);
        let resumed = part.length;
        self.receive(&about, &mut part, total).await?;
        if part.differs(&about).is_some() && resumed > 0 {
            self.terminal.say("what an earlier run left is not of this file: beginning anew");
            part.restart()?;
            self.receive(&about, &mut part, total).await?;
        }
        if let Some(name) = part.differs(&about) {
            part.restart()?;
            return Err(Failed::new(format!("the {name} of what came is not the server's: it was damaged on its way")));
        }
        part.file.sync_all()?;
        put_in_place(&part.path, &target, self.get.force)?;
        self.done(&about, &target, resumed.min(total));
        Ok(())
    }

    fn target(&self, about: &Value) -> Result<PathBuf, Failed> {
        if let Some(output) = &self.get.output {
            return Ok(output.clone());
        }
        // A name from the server is a name, and never a way out of this directory.
        let name = text(about, "name");
        let fits = !name.is_empty() && !matches!(name, "." | "..") && !name.contains(['/', '\\', '\0']);
        if !fits || name.chars().any(char::is_control) {
            return Err(Failed::new("its name is none for a file here: name one with --output"));
        }
        Ok(PathBuf::from(name))
    }

    async fn receive(&self, about: &Value, part: &mut Part, total: u64) -> Result<(), Failed> {
        if part.length > total {
            part.restart()?;
        }
        let url = self.remote.url(&format!("/files/{}/content", self.get.id));
        let etag = format!("\"{}\"", text(about, "version"));
        let progress = self.terminal.progress(text(about, "name"), total);
        if self.get.parallel > 1 && total - part.length > WHOLE_BYTES {
            self.receive_ranges(&url, &etag, part, total, &progress).await?;
        }
        let mut patience = self.remote.patience();
        while part.length < total {
            progress.goes_on_at(part.length);
            let before = part.length;
            let range = (part.length > 0).then(|| format!("bytes={}-", part.length));
            let Some((head, mut body)) = self.ask(&url, &etag, range, &mut patience).await? else { continue };
            match head.status {
                206 if head.header("content-range").is_some_and(|r| r.starts_with(&format!("bytes {before}-"))) => {}
                200 => part.restart()?,
                status => {
                    let mut text = Vec::new();
                    while let Some(Ok(bytes)) = body.next().await {
                        text.extend_from_slice(&bytes);
                        if text.len() > READ_BYTES {
                            break;
                        }
                    }
                    let refused = refusal(&head, &text);
                    if !passes(status) {
                        return Err(refused);
                    }
                    patience.wait(&refused.what, retry_after(&head)).await?;
                    continue;
                }
            }
            progress.at(part.length);
            let mut trouble = None;
            while let Some(bytes) = body.next().await {
                match bytes {
                    Ok(bytes) => part.write(&bytes)?,
                    Err(error) => {
                        trouble = Some(error.what);
                        break;
                    }
                }
                progress.at(part.length);
            }
            if part.length > total {
                return Err(Failed::new("more bytes came than the file has"));
            }
            if part.length > before {
                patience.renew();
            }
            if part.length < total {
                let what = trouble.unwrap_or_else(|| "the connection ended before the file did".into());
                patience.wait(&what, None).await?;
            }
        }
        Ok(())
    }

    /// Receives what is missing in ranges, or leaves it where the server gives none.
    async fn receive_ranges(
        &self,
        url: &str,
        etag: &str,
        part: &mut Part,
        total: u64,
        progress: &Progress,
    ) -> Result<(), Failed> {
        progress.goes_on_at(part.length);
        let froms =
            std::iter::successors(Some(part.length), |from| Some(from + RANGE_BYTES)).take_while(|f| *f < total);
        let mut ranges = futures_util::stream::iter(froms)
            .map(|from| self.range(url, etag, from, total.min(from + RANGE_BYTES)))
            .buffered(self.get.parallel.into());
        while let Some(range) = ranges.next().await {
            let Some(bytes) = range? else { return Ok(()) };
            part.write(&bytes)?;
            progress.at(part.length);
        }
        Ok(())
    }

    /// An answer with this version's bytes, if there is one now: what passes was waited for, and is to be asked again.
    async fn ask(
        &self,
        url: &str,
        etag: &str,
        range: Option<String>,
        patience: &mut Patience,
    ) -> Result<Option<(Head, impl Stream<Item = Result<Bytes, OutboundError>> + Unpin + use<>)>, Failed> {
        let mut ask = self.remote.ask(Method::GET, url, Payload::None);
        ask.headers.extend(range.map(|range| (header::RANGE, range)));
        // Bytes of another version must not be mixed in.
        ask.headers.push((header::IF_RANGE, etag.to_owned()));
        let (head, body) = match self.remote.http.open(ask).await {
            Ok(answer) => answer,
            Err(error) if error.passing => return patience.wait(&error.what, None).await.map(|()| None),
            Err(error) => return Err(Failed::new(error.what)),
        };
        if head.header("etag").is_some_and(|now| now != etag) && matches!(head.status, 200 | 206) {
            return Err(Failed::new("the file has a new version: start again"));
        }
        Ok(Some((head, body)))
    }

    /// One range, whole; `None` where the server gives none.
    async fn range(&self, url: &str, etag: &str, from: u64, to: u64) -> Result<Option<Vec<u8>>, Failed> {
        let length = usize::try_from(to - from).unwrap_or(usize::MAX);
        let mut patience = self.remote.patience();
        loop {
            let range = format!("bytes={from}-{}", to - 1);
            let Some((head, mut body)) = self.ask(url, etag, Some(range), &mut patience).await? else { continue };
            if head.status == 200 {
                return Ok(None);
            }
            let mut bytes = Vec::new();
            let mut trouble = String::from("the connection ended before the range did");
            while bytes.len() < length
                && let Some(chunk) = body.next().await
            {
                match chunk {
                    Ok(chunk) => bytes.extend_from_slice(&chunk),
                    Err(error) => {
                        trouble = error.what;
                        break;
                    }
                }
            }
            let placed =
                head.header("content-range").is_some_and(|r| r.starts_with(&format!("bytes {from}-{}/", to - 1)));
            if head.status == 206 && placed && bytes.len() == length {
                return Ok(Some(bytes));
            }
            if head.status == 206 {
                patience.wait(&trouble, None).await?;
                continue;
            }
            let refused = refusal(&head, &bytes);
            if !passes(head.status) {
                return Err(refused);
            }
            patience.wait(&refused.what, retry_after(&head)).await?;
        }
    }

    fn done(&self, about: &Value, target: &Path, resumed: u64) {
        let bytes = about["size"].as_u64().unwrap_or(0);
        if self.terminal.json {
            self.terminal.out(json!({
                "file": target.to_string_lossy(), "id": about["id"], "version": about["version"], "size": bytes,
                "digests": about["digests"], "resumed_at": resumed,
            }));
        } else {
            self.terminal.out(format_args!(
                "{}  {}  {}",
                text(about, "id"),
                size(bytes),
                plain(&target.to_string_lossy())
            ));
        }
    }
}

fn exists(target: &Path) -> Failed {
    Failed::new(format!(
        "{} is there already: name another with --output, or replace it with --force",
        target.display()
    ))
}

/// Gives the file its name. Without `force` one that came to be meanwhile is not replaced.
#[allow(clippy::disallowed_methods, reason = "the client writes the user's own files")]
fn put_in_place(part: &Path, target: &Path, force: bool) -> Result<(), Failed> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    use rustix::io::Errno;
    if !force {
        match renameat_with(CWD, part, CWD, target, RenameFlags::NOREPLACE) {
            Ok(()) => return Ok(()),
            Err(Errno::EXIST) => return Err(exists(target)),
            // Not every file system can; then the look before has to do.
            Err(Errno::INVAL | Errno::NOSYS) if target.symlink_metadata().is_err() => {}
            Err(error) => return Err(io::Error::from(error).into()),
        }
    }
    std::fs::rename(part, target)?;
    Ok(())
}
