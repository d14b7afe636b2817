//! The past that every case begins with, the upload that it interrupts, and what must hold afterwards.
//!
//! The past: a pushed item that nobody touches, a pushed item that the case replaces, a container that was filled and
//! never used, and what a crash in the middle of a body left behind.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use tempfile::TempDir;

use crate::client::{Client, Container, Failed, Upload};
use crate::postgres::{Fresh, port};
use crate::server::{Server, Start, doctor};
use crate::{Outcome, bucket, disk, ensure, eyes, facts, strict, wait_until};

/// Past every expiry: of URLs (an hour), of bytes without a row (a day), of replaced bytes (an hour).
pub const LATER: u64 = 3 * 24 * 3600;
/// Extraction, indexing and sweeping need far less.
pub const PATIENCE: Duration = Duration::from_secs(40);
/// More than one write of 256 KiB, so that there is a half.
const BODY_BYTES: usize = 700_000;

/// A text with a word of its own.
pub fn text(word: &str, bytes: usize) -> Vec<u8> {
    let mut text = format!("{word}\n").into_bytes();
    let mut line = 0u32;
    while text.len() < bytes {
        line += 1;
        text.extend(format!("the tide came in again {}\n", line % 977).into_bytes());
    }
    text.truncate(bytes);
    text
}

pub fn upload(document: &'static str, word: &str) -> Upload {
    Upload { document, body: text(word, BODY_BYTES), acked: crate::client::Acked::default() }
}

/// The upload that a case interrupts: the next content of an item that exists.
pub fn interrupted() -> Upload {
    upload("moved", "newneedle")
}

/// In memory, so that nothing is left behind when the tests end.
struct Past {
    files: Vec<(PathBuf, Vec<u8>)>,
    /// With facts in a database and bytes in a bucket: the database, and what the keys begin with.
    beyond: Option<(Fresh, String)>,
    key: String,
    port: u16,
    spare: Container,
}

/// On a disk, and beyond one machine.
static PASTS: [OnceLock<Outcome<Past>>; 2] = [const { OnceLock::new() }; 2];

fn past(beyond: bool) -> Outcome<&'static Past> {
    PASTS[usize::from(beyond)].get_or_init(|| make_past(beyond)).as_ref().map_err(Clone::clone)
}

fn make_past(beyond: bool) -> Outcome<Past> {
    let directory = TempDir::new().map_err(|e| e.to_string())?;
    let (data, log, port) = (directory.path().join("data"), directory.path().join("log"), port::free());
    let database = beyond.then(Fresh::empty);
    if let Some(database) = &database {
        bucket::mark(&data)?;
        facts::mark(&data, database)?;
    }
    let server = Server::start(&data, port, &log, &Start::default())?;
    let key = server.first_key()?;
    let client = Client { port, key: key.clone() };
    client.finish(&mut upload("kept", "keptneedle"))?;
    client.finish(&mut upload("moved", "oldneedle"))?;
    let spare = client.container().map_err(Failed::said)?;
    client.put(&spare, &text("spareneedle", BODY_BYTES)).map_err(Failed::said)?;
    for (document, word) in [("kept", "keptneedle"), ("moved", "oldneedle")] {
        until_ready(&data, document, &text(word, BODY_BYTES), word)?;
    }
    server.terminate()?;
    let mut server = Server::start(&data, port, &log, &Start::failing("segment.half_written=return(kill)"))?;
    let mut lost = upload("lost", "lostneedle");
    ensure!(matches!(client.go_on(&mut lost), Err(Failed::Cut(_))), "the past has no crash in a body");
    server.died_at_its_point()?;
    // In a bucket a body is nothing before it fills a part.
    let left = usize::from(!beyond);
    ensure!(eyes::files(&data).len() == eyes::files_named(&data)? + left, "the crash in a body left nothing behind");
    let mut files = Vec::new();
    let mut directories = vec![data.clone()];
    while let Some(path) = directories.pop() {
        for entry in std::fs::read_dir(&path).map_err(|e| e.to_string())? {
            let path = entry.map_err(|e| e.to_string())?.path();
            if path.is_dir() {
                directories.push(path);
            } else {
                let content = std::fs::read(&path).map_err(|e| e.to_string())?;
                files.push((path.strip_prefix(&data).map_err(|e| e.to_string())?.to_owned(), content));
            }
        }
    }
    Ok(Past { files, beyond: database.zip(bucket::prefix(&data)), key, port, spare })
}

/// One case's copy of the past, in a directory of its own.
#[derive(Debug)]
pub struct World {
    pub directory: TempDir,
    /// A copy of the past's, where facts are not in the data directory.
    database: Option<Fresh>,
    pub client: Client,
    pub spare: Container,
}

impl World {
    pub fn new() -> Outcome<Self> {
        Self::with(past(false)?)
    }

    fn with(past: &Past) -> Outcome<Self> {
        let directory = TempDir::new().map_err(|e| e.to_string())?;
        // The spare container's URL names the port of the past; everything else takes its own.
        let mut spare = past.spare.clone();
        let client = Client { port: port::free(), key: past.key.clone() };
        spare.url = spare.url.replace(&format!(":{}", past.port), &format!(":{}", client.port));
        Ok(Self { directory, database: None, client, spare })
    }

    /// One whose bytes are in a bucket. Everything that is done with its data directory finds them there.
    pub fn in_bucket() -> Outcome<Self> {
        let world = Self::new()?;
        bucket::mark(&world.path("data"))?;
        Ok(world)
    }

    /// The same in a store that speaks as Google's does.
    pub fn in_google() -> Outcome<Self> {
        let world = Self::in_bucket()?;
        bucket::mark_google(&world.path("data"))?;
        Ok(world)
    }

    /// One whose facts are in PostgreSQL and whose bytes are in a bucket.
    pub fn beyond_one_machine() -> Outcome<Self> {
        let past = past(true)?;
        let world = Self::with(past)?;
        let data = world.path("data");
        bucket::mark(&data)?;
        let database = past.beyond.as_ref().map(|(database, _)| database.copied());
        if let Some(database) = &database {
            facts::mark(&data, database)?;
        }
        Ok(Self { database, ..world })
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Puts the past into a directory.
    pub fn copy_past(&self, to: &Path) -> Outcome {
        let (to_data, prefix) = (to, bucket::prefix(to));
        let past = past(self.database.is_some())?;
        if let (Some((_, from)), Some(to)) = (&past.beyond, &prefix) {
            // With the owner's mark: a copy.
            for (key, _) in bucket::store().objects(from) {
                bucket::store().copy(&key, &format!("{to}{}", &key[from.len()..]));
            }
        }
        for (name, content) in &past.files {
            // Facts that began in a bucket never had a disk.
            if prefix.is_some() && name == Path::new("owner") {
                continue;
            }
            if let (Some(prefix), true) = (&prefix, name.starts_with("blobs")) {
                let segment = name.file_name().unwrap_or_default().to_string_lossy();
                bucket::store_of(to_data).put(&format!("{prefix}{segment}"), content);
                continue;
            }
            let path = to.join(name);
            let made = path.parent().map_or(Ok(()), std::fs::create_dir_all);
            made.and_then(|()| std::fs::write(&path, content)).map_err(|e| format!("{}: {e}", path.display()))?;
        }
        if prefix.is_some() && self.database.is_none() {
            eyes::forget_where_bytes_are(to)?;
        }
        Ok(())
    }

    pub fn spawn(&self, data: &Path, start: &Start) -> Server {
        Server::spawn(data, self.client.port, &self.path("log"), start)
    }

    pub fn start(&self, data: &Path, start: &Start) -> Outcome<Server> {
        Server::start(data, self.client.port, &self.path("log"), start)
    }

    /// After a crash, everything that was promised: acknowledged bytes are there, nothing unfinished shows, the client
    /// ends its upload by repeating what got no answer, every call has one effect, and past every expiry nothing is
    /// left over. `clock` is the time of the restart.
    pub fn holds_after(&self, data: &Path, upload: &mut Upload, clock: u64) -> Outcome {
        let start = if clock == 0 { Start::default() } else { Start::at(clock) };
        let server = self.start(data, &start)?;
        doctor(data, clock)?;
        self.acknowledged(data, upload, clock)?;
        self.retried(data, upload, clock)?;
        doctor(data, clock)?;
        server.terminate()?;
        self.swept(data, clock + LATER)
    }

    /// What was acknowledged before the crash, looked at before the client does anything.
    pub fn acknowledged(&self, data: &Path, upload: &Upload, clock: u64) -> Outcome {
        let kept = eyes::item(data, "kept")?.ok_or("an item of the past is gone")?;
        ensure!(kept.bytes == text("keptneedle", BODY_BYTES), "an item of the past has other bytes: {kept:?}");
        ensure!(self.client.content("kept")? == kept.bytes, "an item of the past is downloaded otherwise");
        ensure!(self.client.found("keptneedle")? == ["kept"], "an item of the past is not found");
        ensure!(self.client.found("lostneedle")?.is_empty(), "a half body is found");
        ensure!(eyes::item(data, "lost")?.is_none(), "a half body is an item");
        if clock == 0 {
            let spare = eyes::container(data, &self.spare.id)?.ok_or("a container of the past is gone")?;
            ensure!(spare == text("spareneedle", BODY_BYTES), "a container of the past has other bytes");
        }
        if upload.document == "moved" {
            let moved = eyes::item(data, "moved")?.ok_or("the item is gone")?;
            let (old, new) = (moved.bytes == text("oldneedle", BODY_BYTES), moved.bytes == upload.body);
            ensure!(old || new, "the item shows an unfinished file: {moved:?}");
            ensure!(old || upload.acked.put, "the item shows bytes that were never pushed");
        }
        // With a push in doubt the container is either still to be used, or the push is there.
        if let (true, None, Some(container)) = (upload.acked.put, &upload.acked.push, &upload.acked.container)
            && eyes::count(data, "SELECT count(*) FROM pushes")? == 2
        {
            let bytes = eyes::container(data, &container.id)?.ok_or("acknowledged bytes are gone")?;
            ensure!(bytes == upload.body, "acknowledged bytes are other bytes");
        }
        if let Some((_, request)) = &upload.acked.push {
            ensure!(eyes::push(data, request)?.is_some(), "an acknowledged push is gone");
            // Its client is done with it and repeats nothing.
            until_ready(data, upload.document, &upload.body, "newneedle")?;
        }
        Ok(())
    }

    fn retried(&self, data: &Path, upload: &mut Upload, clock: u64) -> Outcome {
        self.client.finish(upload)?;
        let (container, push) = match (&upload.acked.container, &upload.acked.push) {
            (Some(container), Some(push)) => (container.clone(), push.clone()),
            _ => return Err("the client's retry ended early".into()),
        };
        // Once more, as a client whose first answer was lost.
        let again = self.client.push(upload.document, &container).map_err(|e| format!("a repeated push: {e:?}"))?;
        ensure!(again == push, "a repeated push got other ids: {push:?}, then {again:?}");
        if clock == 0 {
            self.client.put(&container, &upload.body).map_err(|e| format!("a repeated PUT: {e:?}"))?;
        }
        until_ready(data, upload.document, &upload.body, "newneedle")?;
        ensure!(self.client.content(upload.document)? == upload.body, "the item is downloaded otherwise");
        ensure!(self.client.found("newneedle")? == [upload.document], "the item is not found");
        ensure!(self.client.found("oldneedle")?.is_empty(), "the old content is still found");
        let done =
            wait_until(PATIENCE, || eyes::push(data, &push.1).is_ok_and(|state| state.as_deref() == Some("done")));
        ensure!(done, "the push is not done: {:?}", eyes::push(data, &push.1));
        let pushes = eyes::count(data, "SELECT count(*) FROM pushes")?;
        ensure!(pushes == 3, "two pushes of the past and one of the case, but there are {pushes}");
        let items = eyes::count(data, "SELECT count(*) FROM items WHERE deleted IS NULL")?;
        ensure!(items == 2, "two items, but there are {items}");
        let failures = eyes::count(data, "SELECT sum(failed) FROM pushes")?;
        ensure!(failures == 0, "{failures} records failed");
        Ok(())
    }

    /// Past every expiry: the sweeper leaves exactly the bytes that rows name, and the doctor has nothing to say.
    pub fn swept(&self, data: &Path, clock: u64) -> Outcome {
        let server = self.start(data, &Start::at(clock))?;
        let clean = wait_until(PATIENCE, || {
            let files: Vec<String> = eyes::files(data).into_keys().collect();
            eyes::segments(data).is_ok_and(|segments| segments == files)
        });
        ensure!(clean, "orphans: files {:?}, rows {:?}", eyes::files(data).keys(), eyes::segments(data));
        let segments = eyes::segments(data)?.len();
        ensure!(segments == 2, "two items hold bytes, but {segments} segments are kept");
        let open = eyes::count(data, "SELECT count(*) FROM sessions WHERE state = 'open'")?;
        ensure!(open == 0, "{open} sessions outlived their expiry");
        server.terminate()?;
        let said = doctor(data, clock)?;
        ensure!(said.contains("; 0 segments without a row; 0 invariants broken"), "doctor: {said}");
        for (document, word) in [("kept", "keptneedle"), ("moved", "newneedle")] {
            let item = eyes::item(data, document)?.ok_or("an item was swept")?;
            ensure!(item.bytes == text(word, BODY_BYTES), "the sweep changed an item's bytes");
        }
        Ok(())
    }
}

/// Waits until an item has its content and is found by a word of it.
pub fn until_ready(data: &Path, document: &str, body: &[u8], word: &str) -> Outcome {
    let ready = wait_until(PATIENCE, || {
        let item = eyes::item(data, document).ok().flatten();
        item.is_some_and(|item| item.state == "ready" && item.bytes == body)
            && eyes::found(data, word).is_ok_and(|found| found == [document])
    });
    ensure!(
        ready,
        "`{document}` does not become findable: {:?}, `{word}` finds {:?}",
        eyes::item(data, document),
        eyes::found(data, word)
    );
    Ok(())
}

/// What cuts the power: it keeps what the disk has now.
pub type Cut<'a> = &'a dyn Fn() -> Outcome;

/// Cuts the power over an ext4 while `used` runs, and hands what the disk had then to `holds`.
pub fn cut_off<M>(
    used: impl FnOnce(&World, &Path, Cut<'_>) -> Outcome<M>,
    holds: impl FnOnce(&World, &Path, M) -> Outcome,
) -> Outcome {
    let world = World::new()?;
    let (image, copied, mount) = (world.path("disk"), world.path("after"), world.path("mnt"));
    disk::make(&image, 192)?;
    let data = mount.join("data");
    let mounted = disk::Mount::new(&image, &mount)?;
    world.copy_past(&data)?;
    disk::run("sync", &["-f", disk::shown(&mount)])?;
    let mine = used(&world, &data, &|| disk::copy(&image, &copied))?;
    mounted.unmount()?;
    let mounted = disk::Mount::new(&copied, &mount)?;
    let held = holds(&world, &data, mine);
    held.and(mounted.unmount())
}

/// The same with the bytes on a file system that keeps names and bytes only when they were synced, and with a database
/// that kept everything: no file system keeps less, no database knows more.
pub fn cut_off_strictly<M>(
    used: impl FnOnce(&World, &Path, Cut<'_>) -> Outcome<M>,
    holds: impl FnOnce(&World, &Path, M) -> Outcome,
) -> Outcome {
    let world = World::new()?;
    let (data, kept) = (world.path("data"), world.path("kept"));
    world.copy_past(&data)?;
    let disk = strict::Disk::mount(&data.join("blobs"))?;
    let mine = used(&world, &data, &|| disk.copy_durable(&kept))?;
    disk.unmount()?;
    let blobs = data.join("blobs");
    disk::run("rm", &["-r", disk::shown(&blobs)])?;
    disk::run("mv", &[disk::shown(&kept), disk::shown(&blobs)])?;
    holds(&world, &data, mine)
}

/// Lets a client work until the server stops at its point, cuts the power then, and says what the client knows. It waits
/// for an answer of a stopped server, and gets none.
pub fn stopped<M: Send + 'static>(
    mut server: Server,
    mut mine: M,
    work: impl FnOnce(&mut M) -> Outcome + Send + 'static,
    cut: Cut<'_>,
) -> Outcome<M> {
    let client = std::thread::spawn(move || {
        let worked = work(&mut mine);
        (mine, worked)
    });
    let cut = server.stopped_at_its_point().and_then(|()| cut());
    server.kill();
    let (mine, worked) = client.join().map_err(|_| String::from("the client panicked"))?;
    cut?;
    worked?;
    Ok(mine)
}
