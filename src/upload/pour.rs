//! The data path: bytes from a body into a segment, with their digests on the way.

use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use md5::Md5;
use md5::digest::common::hazmat::SerializableState;
use sha2::{Digest, Sha256};
use tokio::task::JoinHandle;

use crate::blob::SegmentWriter;
use crate::limits;
use crate::model::file::{Crcs, Declared, Digests, RunningCrcs};
use crate::model::refusal::Refusal;
use crate::model::session::Hashes;

/// One body on its way. Counts itself, so that many at once gather less each.
pub(super) struct Pour<'a> {
    writer: Option<Box<dyn SegmentWriter>>,
    receiving: &'a AtomicUsize,
    gathered: Vec<Bytes>,
    gathered_bytes: usize,
    /// How many of the gathered parts end at the mark, or before it.
    marked_parts: usize,
    crcs: RunningCrcs,
    hashers: Hashers,
    /// Where in the file the first byte stands.
    start: u64,
    taken: u64,
    written: u64,
    mark: Mark,
}

/// The last multiple of [`limits::GRANULE_BYTES`] in the file that the bytes have passed, or where the last byte stands
/// if all of them count.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Mark {
    /// Bytes up to it.
    pub(super) bytes: u64,
    /// Their checksums.
    pub(super) crcs: Crcs,
}

impl<'a> Pour<'a> {
    /// Bytes into a writer, or nowhere: then they are only counted and digested.
    pub(super) fn new(writer: Option<Box<dyn SegmentWriter>>, hashers: Hashers, receiving: &'a AtomicUsize) -> Self {
        receiving.fetch_add(1, Ordering::Relaxed);
        Self {
            writer,
            receiving,
            gathered: Vec::new(),
            gathered_bytes: 0,
            marked_parts: 0,
            crcs: RunningCrcs::default(),
            hashers,
            start: 0,
            taken: 0,
            written: 0,
            mark: Mark::default(),
        }
    }

    /// For bytes that stand at this offset of their file: its multiples are what is marked.
    pub(super) const fn starting_at(mut self, offset: u64) -> Self {
        self.start = offset;
        self
    }

    /// Bytes taken so far.
    pub(super) const fn taken(&self) -> u64 {
        self.taken
    }

    pub(super) const fn mark(&self) -> Mark {
        self.mark
    }

    /// Does the segment end at the mark, or did bytes behind it get written?
    pub(super) const fn ends_at_mark(&self) -> bool {
        self.written == self.mark.bytes
    }

    /// Checksums of all that was taken.
    pub(super) fn crcs(&self) -> Crcs {
        self.crcs.value()
    }

    /// Takes bytes, and writes when enough have gathered, or when an empty chunk asks for it.
    pub(super) async fn take(&mut self, mut bytes: Bytes) -> Result<(), Refusal> {
        if bytes.is_empty() {
            return self.flush().await;
        }
        while !bytes.is_empty() {
            let to_mark = limits::GRANULE_BYTES - (self.start + self.taken) % limits::GRANULE_BYTES;
            let part = bytes.split_to(bytes.len().min(usize::try_from(to_mark).unwrap_or(usize::MAX)));
            self.crcs.update(&part);
            self.taken += u64::try_from(part.len()).unwrap_or(0);
            self.gathered_bytes += part.len();
            self.gathered.push(part);
            if (self.start + self.taken).is_multiple_of(limits::GRANULE_BYTES) {
                self.mark = Mark { bytes: self.taken, crcs: self.crcs.value() };
                self.marked_parts = self.gathered.len();
            }
            let enough = match self.receiving.load(Ordering::Relaxed) {
                0..=limits::MANY_BODIES => limits::WRITE_BYTES,
                many if many <= 4 * limits::MANY_BODIES => limits::SMALL_WRITE_BYTES,
                _ => limits::SMALL_WRITE_BYTES / 2,
            };
            // Also many small chunks: each costs more memory than its bytes.
            if self.gathered_bytes >= enough || self.gathered.len() >= limits::WRITE_CHUNKS {
                self.flush().await?;
            }
        }
        Ok(())
    }

    /// Writes what has gathered.
    pub(super) async fn flush(&mut self) -> Result<(), Refusal> {
        if self.gathered_bytes > 0 {
            self.hashers.update(&self.gathered, self.marked_parts).await?;
            match &mut self.writer {
                Some(writer) => writer.write(&mut self.gathered).await?,
                None => self.gathered.clear(),
            }
            self.written += u64::try_from(self.gathered_bytes).unwrap_or(0);
            self.gathered_bytes = 0;
            self.marked_parts = 0;
        }
        Ok(())
    }

    /// Writes what has gathered, and moves the mark behind it.
    pub(super) async fn mark_all(&mut self) -> Result<(), Refusal> {
        if self.mark.bytes < self.taken {
            self.flush().await?;
            self.hashers.mark_all().await?;
            self.mark = Mark { bytes: self.taken, crcs: self.crcs.value() };
        }
        Ok(())
    }

    /// Writes what has gathered up to the mark, and forgets what came behind it.
    pub(super) async fn flush_to_mark(&mut self) -> Result<(), Refusal> {
        let mut left = usize::try_from(self.mark.bytes.saturating_sub(self.written)).unwrap_or(0);
        let mut kept = Vec::new();
        for mut part in self.gathered.drain(..) {
            let part = part.split_to(part.len().min(left));
            left -= part.len();
            if !part.is_empty() {
                kept.push(part);
            }
        }
        self.gathered_bytes = kept.iter().map(Bytes::len).sum();
        self.marked_parts = kept.len();
        self.gathered = kept;
        self.flush().await
    }

    /// The writer, to sync or to give back.
    pub(super) fn writer(&mut self) -> Option<&mut Box<dyn SegmentWriter>> {
        self.writer.as_mut()
    }

    /// Takes the writer away; nothing more can be written.
    pub(super) fn take_writer(&mut self) -> Option<Box<dyn SegmentWriter>> {
        self.writer.take()
    }

    /// The states of the hashes at the mark.
    pub(super) async fn states_at_mark(&mut self) -> Result<States, Refusal> {
        self.hashers.states_at_mark().await
    }

    /// The hashes of everything that was taken, and of what their states held before.
    pub(super) async fn finish_hashes(&mut self) -> Result<SlowDigests, Refusal> {
        self.hashers.finish().await
    }
}

impl Drop for Pour<'_> {
    fn drop(&mut self) {
        self.receiving.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Compares digests with the declared ones.
pub(super) fn verify(declared: &Declared, found: &Digests) -> Result<(), Refusal> {
    fn check<T: AsRef<[u8]>>(algorithm: &'static str, declared: Option<T>, found: Option<T>) -> Result<(), Refusal> {
        match (declared, found) {
            (Some(declared), Some(found)) if declared.as_ref() != found.as_ref() => Err(Refusal::DigestMismatch {
                algorithm,
                declared: hex::encode(declared),
                received: hex::encode(found),
            }),
            // Whoever let it in made sure that it is computed.
            (Some(_), None) => Err(Refusal::Internal),
            _ => Ok(()),
        }
    }
    check("crc32c", declared.crc32c.map(u32::to_be_bytes), found.crc32c.map(u32::to_be_bytes))?;
    check("crc64nvme", declared.crc64nvme.map(u64::to_be_bytes), found.crc64nvme.map(u64::to_be_bytes))?;
    check("md5", declared.md5, found.md5)?;
    check("sha256", declared.sha256, found.sha256)
}

/// MD5 and SHA-256.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct SlowDigests {
    pub(super) md5: Option<[u8; 16]>,
    pub(super) sha256: Option<[u8; 32]>,
}

/// States of hashes in progress, as they are stored.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct States {
    pub(super) md5: Option<Vec<u8>>,
    pub(super) sha256: Option<Vec<u8>>,
}

#[derive(Clone, Default)]
struct Running {
    md5: Option<Md5>,
    sha256: Option<Sha256>,
}

impl Running {
    fn update(&mut self, bytes: &[u8]) {
        if let Some(md5) = &mut self.md5 {
            md5.update(bytes);
        }
        if let Some(sha256) = &mut self.sha256 {
            sha256.update(bytes);
        }
    }

    fn states(&self) -> States {
        States {
            md5: self.md5.as_ref().map(|hash| hash.serialize().to_vec()),
            sha256: self.sha256.as_ref().map(|hash| hash.serialize().to_vec()),
        }
    }

    fn finish(self) -> SlowDigests {
        SlowDigests {
            md5: self.md5.map(|hash| hash.finalize().into()),
            sha256: self.sha256.map(|hash| hash.finalize().into()),
        }
    }
}

/// As of the last byte, and as of the mark.
#[derive(Clone, Default)]
pub(super) struct Both {
    now: Running,
    marked: Running,
}

impl Both {
    fn update(&mut self, parts: &[Bytes], marked: usize) {
        for (index, part) in parts.iter().enumerate() {
            self.now.update(part);
            if index + 1 == marked {
                self.marked = self.now.clone();
            }
        }
    }
}

/// Below this, hashing costs less than handing it to another thread.
const HASHED_AT_ONCE_BYTES: usize = 16 * 1024;

/// MD5 and SHA-256, off the task that receives, and only where somebody wants one. A thread is taken for what was
/// gathered and not for the whole body: the pool's threads are few, and a slow body would keep one from everybody else.
pub(super) enum Hashers {
    None,
    Idle(Box<Both>),
    Busy(JoinHandle<Box<Both>>),
}

impl Hashers {
    /// Hashes from the beginning of a file.
    pub(super) fn start(wanted: Hashes) -> Self {
        Self::of(Running { md5: wanted.md5.then(Md5::new), sha256: wanted.sha256.then(Sha256::new) })
    }

    /// Hashes that go on from stored states. One whose state is missing or unreadable is not computed.
    pub(super) fn resume(states: &States) -> Self {
        fn read<H: SerializableState>(state: Option<&Vec<u8>>) -> Option<H> {
            H::deserialize(&state?.as_slice().try_into().ok()?).ok()
        }
        Self::of(Running { md5: read(states.md5.as_ref()), sha256: read(states.sha256.as_ref()) })
    }

    fn of(running: Running) -> Self {
        if running.md5.is_none() && running.sha256.is_none() {
            return Self::None;
        }
        Self::Idle(Box::new(Both { now: running.clone(), marked: running }))
    }

    /// The hashes when what they were last given is hashed.
    async fn settled(&mut self) -> Result<Option<Box<Both>>, Refusal> {
        match std::mem::replace(self, Self::None) {
            Self::None => Ok(None),
            Self::Idle(both) => Ok(Some(both)),
            Self::Busy(batch) => batch.await.map(Some).map_err(|_| Refusal::Internal),
        }
    }

    /// One batch more, of which so many parts end at the mark. The batch before is waited for.
    async fn update(&mut self, parts: &[Bytes], marked: usize) -> Result<(), Refusal> {
        let Some(mut both) = self.settled().await? else { return Ok(()) };
        if parts.iter().map(Bytes::len).sum::<usize>() < HASHED_AT_ONCE_BYTES {
            both.update(parts, marked);
            *self = Self::Idle(both);
        } else {
            let parts = parts.to_vec();
            *self = Self::Busy(tokio::task::spawn_blocking(move || {
                both.update(&parts, marked);
                both
            }));
        }
        Ok(())
    }

    async fn mark_all(&mut self) -> Result<(), Refusal> {
        if let Some(mut both) = self.settled().await? {
            both.marked = both.now.clone();
            *self = Self::Idle(both);
        }
        Ok(())
    }

    async fn states_at_mark(&mut self) -> Result<States, Refusal> {
        let Some(both) = self.settled().await? else { return Ok(States::default()) };
        let states = both.marked.states();
        *self = Self::Idle(both);
        Ok(states)
    }

    /// The hashes of everything that was fed, and of what their states held before.
    pub(super) async fn finish(&mut self) -> Result<SlowDigests, Refusal> {
        Ok(self.settled().await?.map_or_else(SlowDigests::default, |both| both.now.finish()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn hashes_go_on_from_their_states() {
        let both = Hashes { md5: true, sha256: true };
        let data: Vec<u8> = (0..700_000_u32).map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[1]).collect();
        let counter = AtomicUsize::new(0);
        let mut first = Pour::new(None, Hashers::start(both), &counter);
        first.take(Bytes::from(data.clone()).slice(..600_000)).await.unwrap();
        first.flush_to_mark().await.unwrap();
        let mark = first.mark();
        assert_eq!(mark.bytes, 2 * limits::GRANULE_BYTES);
        let states = first.states_at_mark().await.unwrap();
        drop(first);
        assert_eq!(counter.load(Ordering::Relaxed), 0);
        let at = usize::try_from(mark.bytes).unwrap();
        let mut second = Pour::new(None, Hashers::resume(&states), &counter);
        second.take(Bytes::from(data.clone()).slice(at..)).await.unwrap();
        second.flush().await.unwrap();
        let found = second.finish_hashes().await.unwrap();
        assert_eq!(found.md5, Some(Md5::digest(&data).into()));
        assert_eq!(found.sha256, Some(Sha256::digest(&data).into()));
        let mut whole = RunningCrcs::default();
        whole.update(&data);
        assert_eq!(mark.crcs.followed_by(second.crcs(), second.taken()), whole.value());
    }
}
