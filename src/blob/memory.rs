//! Bytes in memory, for tests, in two forms: as a disk would keep them, and as S3 would. The second has no append:
//! a segment becomes parts of at least 5 MiB, a small tail object at each persist, and one object at the end. It
//! keeps the verbs honest: none may rely on a local file.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};

use super::{BlobError, BlobStore, Extent, Listed, SegmentReader, SegmentWriter, Space};
use crate::clock::{Clock, Timestamp};
use crate::model::ids::SegmentId;

/// S3's smallest part but the last: 5 MiB.
const PART_BYTES: usize = 5 * 1024 * 1024;

/// How the twin behaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    /// Appends like a disk; what is persisted can be read at once.
    Disk,
    /// Parts, tails and a completion; nothing can be read before it.
    Parts,
}

/// A byte store in memory.
#[derive(Clone, Debug)]
pub struct Memory {
    form: Form,
    clock: Clock,
    state: Arc<Mutex<HashMap<SegmentId, Stored>>>,
}

#[derive(Debug, Default)]
struct Stored {
    /// Parts that the store has taken, each of at least [`PART_BYTES`] but the last.
    parts: Vec<Bytes>,
    /// The tail object of an unfinished segment.
    tail: Bytes,
    finished: bool,
    written: Timestamp,
}

impl Stored {
    fn length(&self) -> u64 {
        self.parts.iter().chain([&self.tail]).map(|b| u64::try_from(b.len()).unwrap_or(0)).sum()
    }
}

impl Memory {
    /// An empty store.
    #[must_use]
    pub fn new(form: Form, clock: Clock) -> Self {
        Self { form, clock, state: Arc::default() }
    }

    /// How many segments there are, finished or not.
    #[must_use]
    pub fn count(&self) -> usize {
        self.state().len()
    }

    fn state(&self) -> MutexGuard<'_, HashMap<SegmentId, Stored>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl BlobStore for Memory {
    async fn create(&self, segment: SegmentId, _expected: Option<u64>) -> Result<Box<dyn SegmentWriter>, BlobError> {
        let mut state = self.state();
        if state.contains_key(&segment) {
            return Err(BlobError::Exists(segment));
        }
        state.insert(segment, Stored { written: self.clock.now(), ..Stored::default() });
        Ok(Box::new(Writer { store: self.clone(), segment, buffer: BytesMut::new() }))
    }

    async fn open(&self, segment: SegmentId, _backend: &str) -> Result<Box<dyn SegmentReader>, BlobError> {
        let state = self.state();
        match state.get(&segment) {
            Some(stored) if stored.finished || self.form == Form::Disk => {
                let mut whole = BytesMut::new();
                for part in stored.parts.iter().chain([&stored.tail]) {
                    whole.extend_from_slice(part);
                }
                Ok(Box::new(Reader(whole.freeze())))
            }
            _ => Err(BlobError::NotFound(segment)),
        }
    }

    fn reads_unfinished(&self) -> bool {
        self.form == Form::Disk
    }

    fn open_ones_survive(&self) -> bool {
        self.form == Form::Disk
    }

    async fn seal(&self, segment: SegmentId, backend: &str, length: u64) -> Result<String, BlobError> {
        let mut state = self.state();
        let stored = state.get_mut(&segment).ok_or(BlobError::NotFound(segment))?;
        if stored.length() < length {
            return Err(BlobError::Truncated { segment, expected: length, found: stored.length() });
        }
        stored.finished = true;
        Ok(backend.to_owned())
    }

    async fn length(&self, segment: SegmentId, _backend: &str) -> Result<Option<u64>, BlobError> {
        Ok(self.state().get(&segment).map(Stored::length))
    }

    async fn delete(&self, segment: SegmentId, _backend: &str) -> Result<(), BlobError> {
        self.state().remove(&segment);
        Ok(())
    }

    async fn list(&self, each: &mut (dyn FnMut(Vec<Listed>) + Send)) -> Result<(), BlobError> {
        let listed = self
            .state()
            .iter()
            .map(|(segment, s)| Listed {
                segment: *segment,
                backend: String::new(),
                length: s.length(),
                written: s.written,
            })
            .collect();
        each(listed);
        Ok(())
    }

    async fn space(&self) -> Result<Option<Space>, BlobError> {
        Ok(None)
    }
}

#[derive(Debug)]
struct Writer {
    store: Memory,
    segment: SegmentId,
    buffer: BytesMut,
}

impl Writer {
    fn update(&self, change: impl FnOnce(&mut Stored)) -> Result<Extent, BlobError> {
        let mut state = self.store.state();
        let stored = state.get_mut(&self.segment).ok_or(BlobError::NotFound(self.segment))?;
        if stored.finished && self.store.form == Form::Parts {
            // As an upload that somebody else completed.
            return Err(BlobError::NotFound(self.segment));
        }
        change(stored);
        stored.written = self.store.clock.now();
        let backend = match self.store.form {
            Form::Disk => String::new(),
            Form::Parts => format!("parts={}", stored.parts.len()),
        };
        Ok(Extent { length: stored.length(), backend })
    }
}

#[async_trait]
impl SegmentWriter for Writer {
    async fn write(&mut self, chunks: &mut Vec<Bytes>) -> Result<(), BlobError> {
        for chunk in chunks.drain(..) {
            self.buffer.extend_from_slice(&chunk);
        }
        while self.buffer.len() >= PART_BYTES {
            let part = self.buffer.split_to(PART_BYTES).freeze();
            self.update(|stored| {
                stored.parts.push(part);
                stored.tail = Bytes::new();
            })?;
        }
        Ok(())
    }

    async fn persist(&mut self) -> Result<Extent, BlobError> {
        let tail = Bytes::copy_from_slice(&self.buffer);
        self.update(|stored| stored.tail = tail)
    }

    async fn finish(mut self: Box<Self>) -> Result<Extent, BlobError> {
        let last = std::mem::take(&mut self.buffer).freeze();
        self.update(|stored| {
            stored.tail = Bytes::new();
            stored.parts.push(last);
            stored.finished = true;
        })
    }

    async fn discard(self: Box<Self>) {
        self.store.state().remove(&self.segment);
    }
}

#[derive(Debug)]
struct Reader(Bytes);

#[async_trait]
impl SegmentReader for Reader {
    async fn read(&self, offset: u64, length: usize) -> Result<Bytes, BlobError> {
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(self.0.len());
        let to = from.saturating_add(length).min(self.0.len());
        Ok(self.0.slice(from..to))
    }
}
