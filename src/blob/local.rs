//! Bytes on a local disk. The only module that creates, renames or removes files.
//!
//! A segment is created exclusively under its final name, is written only by appending, and is never renamed or
//! truncated. The fan-out follows the time in the session's id, so that sessions opened in one minute share a
//! directory and one directory sync serves all that wait for it.
#![allow(clippy::disallowed_methods, reason = "this is the one place that makes and removes files")]

use std::collections::{HashMap, HashSet};
use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;

use super::{BlobError, BlobStore, Extent, Listed, SegmentReader, SegmentWriter, Space};
use crate::clock::Timestamp;
use crate::faults;
use crate::limits;
use crate::model::ids::SegmentId;

/// Windows of [`limits::WRITEBACK_BYTES`] that may be dirty or on their way to the disk per segment. More would make
/// other files' syncs wait behind this one's pages.
const WINDOWS_IN_FLIGHT: u64 = 4;
/// Directories of minutes older than this are removed when they are empty: no session lives as long.
const EMPTY_DIRECTORY_MINUTES: u64 = 8 * 24 * 60;

/// A directory of segments on a local file system.
#[derive(Debug, Clone)]
pub struct Local {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    root: PathBuf,
    /// Are empty directories removed?
    tidies: bool,
    /// Directories that are known to exist durably.
    known: Mutex<HashSet<PathBuf>>,
    syncs: Mutex<HashMap<PathBuf, Arc<GroupSync>>>,
    /// Directory syncs that failed. Whoever made a name before one of them can't be told that it is durable: a later
    /// sync may succeed although the name is lost.
    failed_syncs: AtomicU64,
}

impl Local {
    /// Opens the directory, making it when it is absent.
    ///
    /// # Errors
    /// When it can't be made or synced.
    pub fn open(root: &Path) -> io::Result<Self> {
        if !root.is_dir() {
            std::fs::create_dir_all(root)?;
            if let Some(parent) = root.parent() {
                sync_directory(parent)?;
            }
        }
        Ok(Self::at(root, true))
    }

    /// Opens the directory as it is, only to be read: nothing in it is made, tidied or removed.
    ///
    /// # Errors
    /// When it is not there.
    pub fn open_to_read(root: &Path) -> io::Result<Self> {
        if root.is_dir() {
            return Ok(Self::at(root, false));
        }
        Err(io::Error::new(io::ErrorKind::NotFound, format!("there is no {}", root.display())))
    }

    fn at(root: &Path, tidies: bool) -> Self {
        Self {
            shared: Arc::new(Shared {
                root: root.to_owned(),
                tidies,
                known: Mutex::default(),
                syncs: Mutex::default(),
                failed_syncs: AtomicU64::new(0),
            }),
        }
    }

    fn directory(&self, segment: SegmentId) -> PathBuf {
        let (most_significant, _) = segment.session.0.as_u64_pair();
        let minutes = (most_significant >> 16) / 60_000;
        self.shared.root.join(format!("{:05x}", minutes / 1440)).join(format!("{:03x}", minutes % 1440))
    }

    fn path(&self, segment: SegmentId) -> PathBuf {
        self.directory(segment).join(segment.to_string())
    }

    /// Makes the directory and its parent durable, once.
    fn ensure_directory(&self, directory: &Path) -> io::Result<()> {
        let known = |path: &Path| lock(&self.shared.known).contains(path);
        if known(directory) {
            return Ok(());
        }
        let day = directory.parent().unwrap_or(&self.shared.root);
        for (path, parent) in [(day, self.shared.root.as_path()), (directory, day)] {
            if known(path) {
                continue;
            }
            let made = match std::fs::create_dir(path) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                made => made.is_ok(),
            };
            if let Err(error) = sync_directory(parent) {
                if made {
                    // The next one makes it again, which makes the sync one for a new name.
                    let _ = std::fs::remove_dir(path);
                }
                return Err(error);
            }
            lock(&self.shared.known).insert(path.to_owned());
        }
        Ok(())
    }

    fn create_file(&self, segment: SegmentId) -> Result<File, BlobError> {
        let directory = self.directory(segment);
        let path = directory.join(segment.to_string());
        for _ in 0..3 {
            self.ensure_directory(&directory)?;
            faults::io_point("segment.create")?;
            match OpenOptions::new().write(true).create_new(true).custom_flags(libc::O_NOFOLLOW).open(&path) {
                Ok(file) => return Ok(file),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err(BlobError::Exists(segment)),
                // The tidying of empty directories was faster: make it again.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    lock(&self.shared.known).clear();
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(BlobError::Io(io::Error::other("the directory vanished three times")))
    }

    fn group(&self, directory: &Path) -> Arc<GroupSync> {
        let mut syncs = lock(&self.shared.syncs);
        // Groups nobody holds are forgotten before the map can grow with the minutes.
        if syncs.len() > 64 {
            syncs.retain(|_, group| Arc::strong_count(group) > 1);
        }
        Arc::clone(syncs.entry(directory.to_owned()).or_default())
    }
}

#[async_trait]
impl BlobStore for Local {
    async fn create(&self, segment: SegmentId, _expected: Option<u64>) -> Result<Box<dyn SegmentWriter>, BlobError> {
        let failures = self.shared.failed_syncs.load(SeqCst);
        let file = Arc::new(self.create_file(segment)?);
        faults::point("segment.created");
        Ok(Box::new(Writer { store: self.clone(), segment, file, written: 0, started: 0, awaited: 0, failures }))
    }

    async fn open(&self, segment: SegmentId, _backend: &str) -> Result<Box<dyn SegmentReader>, BlobError> {
        let path = self.path(segment);
        let file = blocking(move || OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(path)).await;
        match file {
            Ok(file) => Ok(Box::new(Reader { file: Arc::new(file) })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(BlobError::NotFound(segment)),
            Err(error) => Err(error.into()),
        }
    }

    fn reads_unfinished(&self) -> bool {
        true
    }

    /// A file is readable at any length.
    async fn seal(&self, _segment: SegmentId, backend: &str, _length: u64) -> Result<String, BlobError> {
        Ok(backend.to_owned())
    }

    async fn length(&self, segment: SegmentId, _backend: &str) -> Result<Option<u64>, BlobError> {
        let path = self.path(segment);
        match blocking(move || std::fs::symlink_metadata(path)).await {
            Ok(metadata) => Ok(Some(metadata.len())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn delete(&self, segment: SegmentId, _backend: &str) -> Result<(), BlobError> {
        let path = self.path(segment);
        match blocking(move || std::fs::remove_file(path)).await {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
            // Not synced: a name that comes back after a power cut is deleted again with its tombstone, or as an orphan.
            _ => Ok(()),
        }
    }

    async fn list(&self, each: &mut (dyn FnMut(Vec<Listed>) + Send)) -> Result<(), BlobError> {
        let (root, tidies) = (self.shared.root.clone(), self.shared.tidies);
        let days = blocking(move || subdirectories(&root)).await?;
        for day in days {
            for minute in blocking(move || subdirectories(&day)).await? {
                let listed = blocking(move || list_directory(&minute, tidies)).await?;
                if !listed.is_empty() {
                    each(listed);
                }
            }
        }
        Ok(())
    }

    async fn space(&self) -> Result<Option<Space>, BlobError> {
        let found = rustix::fs::statvfs(&self.shared.root).map_err(io::Error::from)?;
        let unit = found.f_frsize;
        Ok(Some(Space { free: found.f_bavail.saturating_mul(unit), total: found.f_blocks.saturating_mul(unit) }))
    }
}

fn subdirectories(path: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

fn list_directory(path: &Path, tidies: bool) -> io::Result<Vec<Listed>> {
    let mut listed = Vec::new();
    let mut empty = true;
    let entries = match std::fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(listed),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        empty = false;
        // What is not named as a segment is not ours to judge.
        let Some(segment) = entry.file_name().to_str().and_then(|n| n.parse().ok()) else { continue };
        let metadata = match entry.metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            metadata => metadata?,
        };
        let written = metadata.modified()?.duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_millis());
        listed.push(Listed {
            backend: String::new(),
            segment,
            length: metadata.len(),
            written: Timestamp(i64::try_from(written).unwrap_or(i64::MAX)),
        });
    }
    if empty && tidies && is_long_past(path) {
        // Fails when a segment was created meanwhile, which is right.
        let _ = std::fs::remove_dir(path);
        if let Some(day) = path.parent() {
            let _ = std::fs::remove_dir(day);
        }
    }
    Ok(listed)
}

/// Compares the minute in the path with the directory's own last change, so that no clock is needed.
fn is_long_past(path: &Path) -> bool {
    let hex = |p: Option<&Path>| {
        p.and_then(Path::file_name).and_then(|n| n.to_str()).and_then(|n| u64::from_str_radix(n, 16).ok())
    };
    let (Some(day), Some(minute)) = (hex(path.parent()), hex(Some(path))) else { return false };
    let Ok(root) = path.parent().and_then(Path::parent).map_or_else(
        || Err(io::Error::from(io::ErrorKind::NotFound)),
        |root| std::fs::metadata(root).and_then(|m| m.modified()),
    ) else {
        return false;
    };
    let newest = root.duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs() / 60);
    newest > day * 1440 + minute + EMPTY_DIRECTORY_MINUTES
}

#[derive(Debug)]
struct Writer {
    store: Local,
    segment: SegmentId,
    file: Arc<File>,
    written: u64,
    /// Bytes whose writing out has been started.
    started: u64,
    /// Bytes whose writing out has been waited for.
    awaited: u64,
    /// How many directory syncs had failed before the segment got its name.
    failures: u64,
}

impl Writer {
    /// Starts the writing out of every full window, and waits for the oldest when too many are under way.
    async fn write_back(&mut self) -> io::Result<()> {
        while self.written - self.started >= limits::WRITEBACK_BYTES {
            sync_range(&self.file, self.started, limits::WRITEBACK_BYTES, libc::SYNC_FILE_RANGE_WRITE)?;
            self.started += limits::WRITEBACK_BYTES;
        }
        if self.started - self.awaited > WINDOWS_IN_FLIGHT * limits::WRITEBACK_BYTES {
            let (file, from) = (Arc::clone(&self.file), self.awaited);
            let all =
                libc::SYNC_FILE_RANGE_WAIT_BEFORE | libc::SYNC_FILE_RANGE_WRITE | libc::SYNC_FILE_RANGE_WAIT_AFTER;
            blocking(move || sync_range(&file, from, limits::WRITEBACK_BYTES, all)).await?;
            self.awaited += limits::WRITEBACK_BYTES;
        }
        Ok(())
    }
}

#[async_trait]
impl SegmentWriter for Writer {
    async fn write(&mut self, chunks: &mut Vec<Bytes>) -> Result<(), BlobError> {
        faults::io_point("segment.write")?;
        // By the task that received the bytes: handing each write to another thread doubles the CPU time.
        self.written += write_all(&self.file, chunks)?;
        chunks.clear();
        if self.written > 0 {
            faults::point("segment.half_written");
        }
        self.write_back().await?;
        Ok(())
    }

    async fn persist(&mut self) -> Result<Extent, BlobError> {
        faults::point("segment.unsynced");
        let directory = self.store.directory(self.segment);
        let (file, group) = (Arc::clone(&self.file), self.store.group(&directory));
        let shared = Arc::clone(&self.store.shared);
        // Both in one turn of the pool: the second sync finds most of its work done by the first.
        let synced = move || {
            sync_data(&file)?;
            faults::point("segment.synced");
            group.sync(&directory, &shared.failed_syncs)
        };
        blocking(synced).await?;
        let shared = &self.store.shared;
        if shared.failed_syncs.load(SeqCst) != self.failures {
            return Err(io::Error::other("a directory sync failed while the segment was written").into());
        }
        faults::point("segment.named");
        Ok(Extent { length: self.written, backend: String::new() })
    }

    async fn finish(mut self: Box<Self>) -> Result<Extent, BlobError> {
        self.persist().await
    }

    async fn discard(self: Box<Self>) {
        let _ = self.store.delete(self.segment, "").await;
    }
}

#[derive(Debug)]
struct Reader {
    file: Arc<File>,
}

#[async_trait]
impl SegmentReader for Reader {
    async fn read(&self, offset: u64, length: usize) -> Result<Bytes, BlobError> {
        let file = Arc::clone(&self.file);
        let read = move || {
            faults::io_point("segment.read")?;
            let mut buffer = vec![0; length];
            let mut filled = 0;
            while filled < length {
                let at = offset.saturating_add(u64::try_from(filled).unwrap_or(u64::MAX));
                match file.read_at(&mut buffer[filled..], at) {
                    Ok(0) => break,
                    Ok(n) => filled += n,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            buffer.truncate(filled);
            Ok(Bytes::from(buffer))
        };
        Ok(blocking(read).await?)
    }
}

/// One directory's syncs: everybody who asks while one runs is served by the next, together.
#[derive(Debug, Default)]
struct GroupSync {
    requested: AtomicU64,
    done: Mutex<GroupDone>,
}

#[derive(Debug, Default)]
struct GroupDone {
    up_to: u64,
    failed: bool,
}

impl GroupSync {
    /// Waits on its thread: for the pool. Counts a failure before anybody else of the group can go on: a sync that
    /// succeeds after it says nothing about names that were made before.
    fn sync(&self, directory: &Path, failures: &AtomicU64) -> io::Result<()> {
        let mine = self.requested.fetch_add(1, SeqCst) + 1;
        let mut done = lock(&self.done);
        if done.up_to >= mine {
            // A sync that began after this request has ended. If it failed, that counts for all of its group:
            // a second sync could succeed although the entry is lost.
            return if done.failed { Err(io::Error::other("the directory sync of this group failed")) } else { Ok(()) };
        }
        let up_to = self.requested.load(SeqCst);
        let result = sync_directory(directory);
        if result.is_err() {
            failures.fetch_add(1, SeqCst);
        }
        *done = GroupDone { up_to, failed: result.is_err() };
        result
    }
}

/// Runs `work` on the pool for waits and syncs.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn write_all(mut file: &File, chunks: &[Bytes]) -> io::Result<u64> {
    let mut slices: Vec<IoSlice<'_>> = chunks.iter().filter(|c| !c.is_empty()).map(|c| IoSlice::new(c)).collect();
    let mut rest = slices.as_mut_slice();
    let mut written = 0u64;
    while !rest.is_empty() {
        match file.write_vectored(rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => {
                written += u64::try_from(n).unwrap_or(0);
                IoSlice::advance_slices(&mut rest, n);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(written)
}

fn sync_data(file: &File) -> io::Result<()> {
    if faults::sync_point("sync.segment")? {
        return Ok(());
    }
    file.sync_data()
}

/// Makes the names in a directory durable.
///
/// # Errors
/// The sync's own error; it must not be tried again for the same names.
pub fn sync_directory(path: &Path) -> io::Result<()> {
    if faults::sync_point("sync.directory")? {
        return Ok(());
    }
    File::open(path)?.sync_all()
}

/// Writes a small file that is either absent or whole after a crash. For the data directory's own files.
///
/// # Errors
/// When it exists already, or can't be written or synced.
pub fn write_durably(path: &Path, content: &[u8]) -> io::Result<()> {
    if path.try_exists()? {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    let unfinished = path.with_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
    file.write_all(content)?;
    file.sync_all()?;
    std::fs::rename(&unfinished, path)?;
    path.parent().map_or(Ok(()), sync_directory)
}

#[allow(unsafe_code, reason = "no kept crate wraps sync_file_range; this is the only unsafe block of the crate")]
fn sync_range(file: &File, offset: u64, length: u64, flags: libc::c_uint) -> io::Result<()> {
    if faults::skipped("sync.segment") {
        return Ok(());
    }
    let offset = libc::off64_t::try_from(offset).map_err(io::Error::other)?;
    let length = libc::off64_t::try_from(length).map_err(io::Error::other)?;
    // SAFETY: the descriptor is open for as long as `file` is borrowed, and the call reads no memory of ours.
    let result = unsafe { libc::sync_file_range(file.as_raw_fd(), offset, length, flags) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
