//! `landfall put`: a file to the server, to its end, whatever comes in between.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use clap::Args;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use http::{HeaderName, Method, header};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::remote::{Patience, Remote, passes, refusal, retry_after};
use super::terminal::{Progress, Terminal, plain, size, text};
use super::{Failed, Server};
use crate::clock::random_bytes;
use crate::config;
use crate::limits;
use crate::model::file::{Crcs, RunningCrcs};
use crate::outbound::{Ask, Head, Payload};

/// Up to this size a file goes in one request.
const SINGLE_BYTES: u64 = limits::CHUNK_BYTES;
/// Files beyond this size go in parts, several at once.
const WHOLE_BYTES: u64 = 64 * 1024 * 1024;
/// Chunks of the size that the server recommends, in one request of ours.
const CHUNKS: u64 = 8;
const READ_BYTES: usize = 1024 * 1024;
const SEND_BYTES: u64 = 256 * 1024;

/// Arguments of `landfall put`.
#[derive(Debug, Args)]
pub(in crate::cli) struct Put {
    /// The files
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// The folder in the tenant, such as a/b
    #[arg(long, value_name = "FOLDER")]
    path: Option<String>,
    /// The media type [default: application/octet-stream]
    #[arg(long, value_name = "TYPE")]
    mime_type: Option<String>,
    /// Bytes sent in one request, rounded up to a multiple of what the server recommends. What was acknowledged is
    /// never sent again [default: 64MiB, or 16MiB of a file in parts]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    chunk: Option<u64>,
    /// Parts of a file beyond 64 MiB that are sent at once; 1 sends it in order, and has the server compute its SHA-256
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=64))]
    parallel: u8,
    #[command(flatten)]
    server: Server,
}

fn parse_size(text: &str) -> Result<u64, String> {
    config::size(text).filter(|bytes| *bytes > 0).ok_or_else(|| "use a number of bytes, or a size such as 64MiB".into())
}

impl Put {
    pub(in crate::cli) fn run(&self) -> ExitCode {
        self.server.run(async |remote, terminal| {
            let mut code = ExitCode::SUCCESS;
            for path in &self.files {
                let sending = Sending { put: self, remote: &remote, terminal: &terminal };
                if let Err(error) = sending.file(path).await {
                    terminal.failed(&path.to_string_lossy(), &error);
                    code = ExitCode::FAILURE;
                }
            }
            code
        })
    }
}

/// A file as it was read before it is sent.
struct Local {
    file: Arc<File>,
    name: String,
    size: u64,
    sha256: String,
    crcs: Crcs,
    modified: Option<std::time::SystemTime>,
}

impl Local {
    fn crc32c(&self) -> String {
        format!("{:08x}", self.crcs.crc32c)
    }

    fn crc64nvme(&self) -> String {
        format!("{:016x}", self.crcs.crc64nvme)
    }
}

/// One run of the command.
struct Sending<'a> {
    put: &'a Put,
    remote: &'a Remote,
    terminal: &'a Terminal,
}

/// How an attempt to send ended.
enum Sent {
    Whole,
    /// The upload is over, and not by us.
    Lost(String),
}

impl Sending<'_> {
    async fn file(&self, path: &Path) -> Result<(), Failed> {
        let local = self.read(path).await?;
        let mut lost = None;
        // An upload that ended meanwhile is begun anew, once.
        for _ in 0..2 {
            let (upload, resumed) = self.upload(&local).await?;
            match self.send(&local, &upload, resumed).await? {
                Sent::Whole => match self.receipt(&local, &upload).await {
                    Ok(receipt) => {
                        self.done(path, &receipt, text(&upload, "id"), resumed);
                        return Ok(());
                    }
                    // Parts that somebody else cut in another way do not fit to ours.
                    Err(error) if error.status == Some(422) && resumed > 0 => {
                        self.terminal.say(format_args!("{}: {error}; beginning anew", plain(&local.name)));
                        self.abort(text(&upload, "id")).await?;
                        lost = Some(error.what);
                    }
                    Err(error) => return Err(error),
                },
                Sent::Lost(why) => {
                    self.terminal.say(format_args!("{}: {why}; beginning anew", plain(&local.name)));
                    lost = Some(why);
                }
            }
        }
        Err(Failed::new(lost.unwrap_or_default()))
    }

    /// Reads the file once, for its digests: by them the server finds the upload that a run before this one left.
    async fn read(&self, path: &Path) -> Result<Local, Failed> {
        let name = path.file_name().and_then(|name| name.to_str()).map(str::to_owned);
        let name = name.ok_or_else(|| Failed::new("its name is not one that a file can have on the server"))?;
        let file = Arc::new(File::open(path)?);
        let about = file.metadata()?;
        if !about.is_file() {
            return Err(Failed::new("it is not a regular file"));
        }
        let progress = self.terminal.progress(&format!("{name}: reading"), about.len());
        let (reader, moved) = (Arc::clone(&file), progress.mover());
        let read = tokio::task::spawn_blocking(move || digest(&reader, moved)).await;
        let (size, sha256, crcs) = read.map_err(|_| Failed::new("it could not be read"))??;
        Ok(Local { file, name, size, sha256: hex::encode(sha256), crcs, modified: about.modified().ok() })
    }

    /// The upload to go on with, or a new one, and the offset to go on at.
    async fn upload(&self, local: &Local) -> Result<(Value, u64), Failed> {
        if let Some(mut open) = self.unfinished(local).await? {
            let id = text(&open, "id").to_owned();
            if text(&open, "strategy") == "resumable" {
                // A list does not ask those who have the bytes how far they have come.
                open = self.remote.json(Method::GET, &format!("/uploads/{id}"), None, None).await?;
                if text(&open, "state") == "committed" {
                    return Ok((open, local.size));
                }
            }
            let at = open["received"].as_u64().unwrap_or(0);
            if at > 0 {
                let (name, at) = (plain(&local.name), size(at));
                self.terminal.say(format_args!("{name}: going on at {at} of {}", size(local.size)));
            }
            let fresh = self.remote.json(Method::POST, &format!("/uploads/{id}/urls"), Some(&json!({})), None).await?;
            let (received, mut fresh) = (open["received"].as_u64().unwrap_or(0), fresh);
            fresh["part_size"] = open["part_size"].clone();
            return Ok((fresh, received));
        }
        let mut body = json!({ "name": local.name, "size": local.size });
        if local.size > WHOLE_BYTES && self.put.parallel > 1 {
            body["strategy"] = "multipart".into();
            body["digests"] = json!({"crc32c": local.crc32c(), "crc64nvme": local.crc64nvme()});
            if let Some(chunk) = self.put.chunk {
                body["parts"] = local.size.div_ceil(chunk).clamp(1, limits::PARTS_MAX.into()).into();
            }
        } else {
            body["strategy"] = if local.size <= SINGLE_BYTES { "single" } else { "resumable" }.into();
            body["digests"] = json!({"sha256": local.sha256});
        }
        for (name, value) in [("path", &self.put.path), ("mime_type", &self.put.mime_type)] {
            if let Some(value) = value {
                body[name] = value.clone().into();
            }
        }
        // However often the call is repeated, it opens one upload.
        let mark = hex::encode(random_bytes::<16>());
        let upload = self.remote.json(Method::POST, "/uploads", Some(&body), Some(&mark)).await?;
        Ok((upload, 0))
    }

    /// What a run before this one left unfinished, on this machine or another.
    async fn unfinished(&self, local: &Local) -> Result<Option<Value>, Failed> {
        let name = utf8_percent_encode(&local.name, NON_ALPHANUMERIC);
        let query = format!("/uploads?state=open&name={name}&size={}", local.size);
        let found = self.remote.json(Method::GET, &query, None, None).await?;
        let mime_type = self.put.mime_type.as_deref().unwrap_or("application/octet-stream");
        let same = |upload: &&Value| {
            let digests = &upload["digests"];
            let of_parts = text(digests, "crc64nvme") == local.crc64nvme() && text(digests, "crc32c") == local.crc32c();
            let ours = if text(upload, "strategy") == "multipart" {
                of_parts
            } else {
                text(digests, "sha256") == local.sha256
            };
            ours && text(upload, "api") == "native"
                && upload["path"].as_str() == self.put.path.as_deref()
                && text(upload, "mime_type") == mime_type
        };
        let uploads = found["items"].as_array().map(Vec::as_slice).unwrap_or_default();
        Ok(uploads.iter().filter(same).max_by_key(|upload| upload["received"].as_u64()).cloned())
    }

    async fn send(&self, local: &Local, upload: &Value, from: u64) -> Result<Sent, Failed> {
        if text(upload, "state") == "committed" {
            return Ok(Sent::Whole);
        }
        let url = text(upload, "url");
        let progress = self.terminal.progress(&local.name, local.size);
        let mut patience = self.remote.patience();
        match text(upload, "strategy") {
            "single" => return self.send_single(local, upload, &progress, &mut patience).await,
            "multipart" => return self.send_parts(local, upload, from, &progress).await,
            _ => {}
        }
        let step = upload["chunk_size"].as_u64().filter(|n| *n > 0).unwrap_or(limits::CHUNK_BYTES);
        let chunk =
            self.put.chunk.map_or(step.saturating_mul(CHUNKS), |chunk| chunk.div_ceil(step).saturating_mul(step));
        let mut at = from;
        // Once something went wrong, what the server has is asked before more is sent.
        let mut unsure = false;
        loop {
            progress.goes_on_at(at);
            let ask = if unsure || at >= local.size {
                status(url, local.size)
            } else {
                part(local, url, at, chunk, &progress)
            };
            let trouble = match self.remote.http.call(ask).await {
                Ok((head, body)) => match told(&head, &body) {
                    Told::Done => return Ok(Sent::Whole),
                    Told::Received(received) => {
                        if received > at {
                            patience.renew();
                        }
                        let stuck = !unsure && received <= at;
                        at = received;
                        unsure = false;
                        if stuck {
                            patience.wait("the server took nothing of what was sent", None).await?;
                        }
                        continue;
                    }
                    Told::Over(why) => return Ok(Sent::Lost(why)),
                    Told::Passing(why) => (why.what, retry_after(&head)),
                    Told::Refused(why) => return Err(why),
                },
                Err(error) if error.passing => (error.what, None),
                Err(error) => return Err(Failed::new(error.what)),
            };
            self.unchanged(local)?;
            patience.wait(&trouble.0, trouble.1).await?;
            unsure = true;
        }
    }

    async fn send_single(
        &self,
        local: &Local,
        upload: &Value,
        progress: &Progress,
        patience: &mut Patience,
    ) -> Result<Sent, Failed> {
        let (url, id) = (text(upload, "url"), text(upload, "id"));
        let headers = required_headers(upload)?;
        loop {
            progress.at(0);
            let payload = Payload::Stream(local.size, bytes(local, 0, local.size, progress));
            let ask = Ask { method: Method::PUT, url, key: None, headers: headers.clone(), payload };
            let trouble = match self.remote.http.call(ask).await {
                Ok((head, _)) if (200..300).contains(&head.status) => return Ok(Sent::Whole),
                // A store that takes a body once has one already, perhaps this: the commit compares.
                Ok((head, _)) if has_one(&head) => return Ok(Sent::Whole),
                Ok((head, body)) if passes(head.status) => (refusal(&head, &body).what, retry_after(&head)),
                Ok((head, body)) if head.status == 403 => {
                    let now = self.remote.json(Method::GET, &format!("/uploads/{id}"), None, None).await?;
                    return match text(&now, "state") {
                        "committed" => Ok(Sent::Whole),
                        "open" => Err(refusal(&head, &body)),
                        other => Ok(Sent::Lost(format!("the upload is {}", plain(other)))),
                    };
                }
                Ok((head, body)) => return Err(refusal(&head, &body)),
                Err(error) if error.passing => (error.what, None),
                Err(error) => return Err(Failed::new(error.what)),
            };
            self.unchanged(local)?;
            patience.wait(&trouble.0, trouble.1).await?;
        }
    }

    /// Sends the parts that are missing, several at once, until none is.
    async fn send_parts(&self, local: &Local, upload: &Value, from: u64, progress: &Progress) -> Result<Sent, Failed> {
        let urls: Vec<&str> = upload["part_urls"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let (id, part_size) = (text(upload, "id"), upload["part_size"].as_u64().unwrap_or(0));
        let mut patience = self.remote.patience();
        progress.goes_on_at(from);
        loop {
            let now = self.remote.json(Method::GET, &format!("/uploads/{id}"), None, None).await?;
            match text(&now, "state") {
                "open" => {}
                "committed" => return Ok(Sent::Whole),
                other => return Ok(Sent::Lost(format!("the upload is {}", plain(other)))),
            }
            progress.at(now["received"].as_u64().unwrap_or(0));
            let missing = now["missing_parts"].as_array().into_iter().flatten().filter_map(Value::as_u64);
            let missing: Vec<(u64, &str)> = missing
                .filter_map(|number| Some((number, *urls.get(usize::try_from(number).ok()?.checked_sub(1)?)?)))
                .collect();
            if missing.is_empty() {
                return Ok(Sent::Whole);
            }
            let mut sent = futures_util::stream::iter(missing)
                .map(|(number, url)| self.send_part(local, url, part_size, number, progress))
                .buffer_unordered(self.put.parallel.into());
            let mut over = None;
            while let Some(part) = sent.next().await {
                over = over.or(part?);
            }
            // It ended, or its URLs did: what it is now tells which.
            if let Some(why) = over {
                patience.wait(&why, None).await?;
            }
        }
    }

    /// Sends one part. `Some` when the server knows its URL no more.
    async fn send_part(
        &self,
        local: &Local,
        url: &str,
        part_size: u64,
        number: u64,
        progress: &Progress,
    ) -> Result<Option<String>, Failed> {
        let from = part_size.saturating_mul(number - 1).min(local.size);
        let to = from.saturating_add(part_size).min(local.size);
        let mut patience = self.remote.patience();
        loop {
            let counted = Arc::new(AtomicU64::new(0));
            let moved = Arc::clone(&counted);
            let body = bytes(local, from, to, progress).inspect(move |chunk| {
                let length = chunk.as_ref().map_or(0, Bytes::len);
                moved.fetch_add(u64::try_from(length).unwrap_or(0), Ordering::Relaxed);
            });
            let payload = Payload::Stream(to - from, body.boxed());
            let ask = Ask { method: Method::PUT, url, key: None, headers: Vec::new(), payload };
            let trouble = match self.remote.http.call(ask).await {
                Ok((head, _)) if head.status == 200 => return Ok(None),
                Ok((head, body)) if passes(head.status) => (refusal(&head, &body).what, retry_after(&head)),
                Ok((head, body)) if matches!(head.status, 403 | 404) => return Ok(Some(refusal(&head, &body).what)),
                Ok((head, body)) => return Err(refusal(&head, &body)),
                Err(error) if error.passing => (error.what, None),
                Err(error) => return Err(Failed::new(error.what)),
            };
            self.unchanged(local)?;
            progress.back(counted.load(Ordering::Relaxed));
            patience.wait(&trouble.0, trouble.1).await?;
        }
    }

    /// A file that changes while it is sent can't become what was promised.
    fn unchanged(&self, local: &Local) -> Result<(), Failed> {
        let now = local.file.metadata()?;
        if now.len() == local.size && now.modified().ok() == local.modified {
            return Ok(());
        }
        Err(Failed::new("the file changed while it was sent: start again"))
    }

    /// Ends an upload that leads nowhere.
    async fn abort(&self, id: &str) -> Result<(), Failed> {
        let url = self.remote.url(&format!("/uploads/{id}"));
        match self.remote.http.call(self.remote.ask(Method::DELETE, &url, Payload::None)).await {
            Ok((head, _)) if (200..300).contains(&head.status) => Ok(()),
            Ok((head, body)) => Err(refusal(&head, &body)),
            Err(error) => Err(Failed::new(error.what)),
        }
    }

    /// The server's receipt, compared with what was read here.
    async fn receipt(&self, local: &Local, upload: &Value) -> Result<Value, Failed> {
        let id = text(upload, "id");
        let body = json!({"size": local.size});
        let receipt = self.remote.json(Method::POST, &format!("/uploads/{id}/commit"), Some(&body), None).await?;
        let digests = &receipt["digests"];
        // What is not known of it is not told; what was declared when the upload was opened was compared at the commit.
        let expected = [("crc32c", local.crc32c()), ("crc64nvme", local.crc64nvme()), ("sha256", local.sha256.clone())];
        if receipt["size"].as_u64() != Some(local.size) {
            return Err(Failed::new(format!(
                "the server stored {} bytes, the file has {}",
                receipt["size"], local.size
            )));
        }
        for (name, expected) in expected {
            if digests[name].as_str().is_some_and(|told| told != expected) {
                let stored = plain(text(digests, name));
                return Err(Failed::new(format!("the server's {name} is {stored}, the file's {expected}")));
            }
        }
        Ok(receipt)
    }

    fn done(&self, path: &Path, receipt: &Value, upload: &str, resumed: u64) {
        let file = path.to_string_lossy();
        if self.terminal.json {
            self.terminal.out(json!({
                "file": file, "id": receipt["file_id"], "version": receipt["version"], "size": receipt["size"],
                "digests": receipt["digests"], "committed_at": receipt["committed_at"], "upload": upload,
                "resumed_at": resumed,
            }));
        } else {
            let bytes = size(receipt["size"].as_u64().unwrap_or(0));
            self.terminal.out(format_args!("{}  {bytes}  {}", text(receipt, "file_id"), plain(&file)));
        }
    }
}

/// What the server says must come with the body.
fn required_headers(upload: &Value) -> Result<Vec<(HeaderName, String)>, Failed> {
    let wanted = upload["required_headers"].as_object();
    let header = |(name, value): (&String, &Value)| {
        let known = HeaderName::from_bytes(name.as_bytes()).ok().zip(value.as_str());
        let (name, value) = known.ok_or_else(|| Failed::new("the server wants a header that can't be sent"))?;
        Ok((name, value.to_owned()))
    };
    wanted.into_iter().flatten().map(header).collect()
}

fn digest(file: &File, moved: impl Fn(u64)) -> io::Result<(u64, [u8; 32], Crcs)> {
    let mut buffer = vec![0; READ_BYTES];
    let (mut sha256, mut crcs, mut size) = (Sha256::new(), RunningCrcs::default(), 0u64);
    let mut file = file;
    loop {
        let n = match file.read(&mut buffer) {
            Ok(0) => return Ok((size, sha256.finalize().into(), crcs.value())),
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        sha256.update(&buffer[..n]);
        crcs.update(&buffer[..n]);
        size += u64::try_from(n).unwrap_or(0);
        moved(u64::try_from(n).unwrap_or(0));
    }
}

/// Bytes of the file as they are sent; a few hundred kilobytes at a time are in memory.
fn bytes(local: &Local, from: u64, to: u64, progress: &Progress) -> BoxStream<'static, io::Result<Bytes>> {
    let file = Arc::clone(&local.file);
    let moved = Arc::new(progress.mover());
    let stream = futures_util::stream::try_unfold(from, move |at| {
        let (file, moved) = (Arc::clone(&file), Arc::clone(&moved));
        async move {
            let length = SEND_BYTES.min(to - at);
            if length == 0 {
                return Ok(None);
            }
            let read = tokio::task::spawn_blocking(move || {
                let mut buffer = vec![0; usize::try_from(length).unwrap_or(0)];
                file.read_exact_at(&mut buffer, at).map(|()| Bytes::from(buffer))
            });
            let bytes = read.await.map_err(io::Error::other)??;
            moved(length);
            Ok(Some((bytes, at + length)))
        }
    });
    stream.boxed()
}

fn part<'a>(local: &Local, url: &'a str, at: u64, chunk: u64, progress: &Progress) -> Ask<'a> {
    let end = at.saturating_add(chunk).min(local.size);
    let range = format!("bytes {at}-{}/{}", end - 1, local.size);
    let payload = Payload::Stream(end - at, bytes(local, at, end, progress));
    Ask { method: Method::PUT, url, key: None, headers: vec![(header::CONTENT_RANGE, range)], payload }
}

/// Does a store say that it has a body already? Azure does so with a status that means other things too; the last of the codes
/// is its emulator's.
fn has_one(head: &Head) -> bool {
    let codes = ["BlobAlreadyExists", "UnauthorizedBlobOverwrite", "AuthorizationPermissionMismatch"];
    head.status == 412 || head.header("x-ms-error-code").is_some_and(|code| codes.contains(&code))
}

/// Asks how far the server has come.
fn status(url: &str, size: u64) -> Ask<'_> {
    let headers = vec![(header::CONTENT_RANGE, format!("bytes */{size}")), (header::CONTENT_LENGTH, "0".into())];
    Ask { method: Method::PUT, url, key: None, headers, payload: Payload::None }
}

/// What the session protocol says.
enum Told {
    Done,
    Received(u64),
    Over(String),
    Passing(Failed),
    Refused(Failed),
}

fn told(head: &Head, body: &[u8]) -> Told {
    match head.status {
        200 | 201 => Told::Done,
        308 => {
            let last = head.header("range").and_then(|range| range.strip_prefix("bytes=0-")?.parse::<u64>().ok());
            Told::Received(last.map_or(0, |last| last + 1))
        }
        404 | 410 | 499 => Told::Over(format!("the upload is over: {}", refusal(head, body))),
        status if passes(status) => Told::Passing(refusal(head, body)),
        _ => Told::Refused(refusal(head, body)),
    }
}
