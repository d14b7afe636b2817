//! A byte store around another one that fails, lies, waits or is full when it is told to. For tests of what the verbs do then.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use tokio::sync::{OwnedRwLockWriteGuard, RwLock};

use super::{BlobError, BlobStore, Direct, Extent, Listed, SegmentReader, SegmentWriter, Space};
use crate::model::ids::{PlaceId, SegmentId};

/// What can be made to fail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    /// Opening a new segment.
    Create,
    /// Writing to it.
    Write,
    /// Making it durable, at a persist or at the end.
    Sync,
    /// Finishing what another writer left.
    Seal,
    /// Reading.
    Read,
    /// Deleting.
    Delete,
}

/// How a read can be wrong without saying so.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lie {
    /// A bit is another one.
    Changed,
    /// Nothing is there any more.
    Ended,
}

#[derive(Debug, Default)]
struct Plan {
    failures: Vec<(Operation, io::ErrorKind)>,
    lies: Vec<Lie>,
    /// How many bytes are free, if not as many as the store says.
    free: Option<u64>,
}

/// The wrapper. Clones share their plan.
#[derive(Clone, Debug)]
pub struct Faulty {
    inner: Arc<dyn BlobStore>,
    plan: Arc<Mutex<Plan>>,
    /// Whoever writes to it holds up all others.
    writes: Arc<RwLock<()>>,
}

impl Faulty {
    /// Wraps a store; nothing fails yet.
    #[must_use]
    pub fn new(inner: Arc<dyn BlobStore>) -> Self {
        Self { inner, plan: Arc::default(), writes: Arc::default() }
    }

    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next such operation fails with an error of this kind.
    pub fn fail_next(&self, operation: Operation, kind: io::ErrorKind) {
        self.plan().failures.push((operation, kind));
    }

    /// The next read is wrong.
    pub fn lie_next(&self, lie: Lie) {
        self.plan().lies.push(lie);
    }

    /// So many bytes are free from now on, less what is written.
    pub fn leave_free(&self, bytes: u64) {
        self.plan().free = Some(bytes);
    }

    /// Writes wait until the guard goes.
    pub async fn hold_writes(&self) -> OwnedRwLockWriteGuard<()> {
        Arc::clone(&self.writes).write_owned().await
    }

    fn check(&self, operation: Operation) -> Result<(), BlobError> {
        let failures = &mut self.plan().failures;
        match failures.iter().position(|(planned, _)| *planned == operation) {
            Some(index) => Err(io::Error::from(failures.remove(index).1).into()),
            None => Ok(()),
        }
    }

    fn lie(&self) -> Option<Lie> {
        let lies = &mut self.plan().lies;
        if lies.is_empty() { None } else { Some(lies.remove(0)) }
    }
}

#[async_trait]
impl BlobStore for Faulty {
    async fn create(&self, segment: SegmentId, expected: Option<u64>) -> Result<Box<dyn SegmentWriter>, BlobError> {
        self.check(Operation::Create)?;
        let inner = self.inner.create(segment, expected).await?;
        Ok(Box::new(FaultyWriter { faults: self.clone(), inner }))
    }

    async fn open(&self, segment: SegmentId, backend: &str) -> Result<Box<dyn SegmentReader>, BlobError> {
        let inner = self.inner.open(segment, backend).await?;
        Ok(Box::new(FaultyReader { faults: self.clone(), inner }))
    }

    fn reads_unfinished(&self) -> bool {
        self.inner.reads_unfinished()
    }

    fn open_ones_survive(&self) -> bool {
        self.inner.open_ones_survive()
    }

    async fn seal(&self, segment: SegmentId, backend: &str, length: u64) -> Result<String, BlobError> {
        self.check(Operation::Seal)?;
        self.inner.seal(segment, backend, length).await
    }

    async fn length(&self, segment: SegmentId, backend: &str) -> Result<Option<u64>, BlobError> {
        self.inner.length(segment, backend).await
    }

    async fn delete(&self, segment: SegmentId, backend: &str) -> Result<(), BlobError> {
        self.check(Operation::Delete)?;
        self.inner.delete(segment, backend).await
    }

    async fn list(&self, each: &mut (dyn FnMut(Vec<Listed>) + Send)) -> Result<(), BlobError> {
        self.inner.list(each).await
    }

    fn place(&self) -> PlaceId {
        self.inner.place()
    }

    fn direct(&self) -> Option<&dyn Direct> {
        self.inner.direct()
    }

    fn direct_at(&self, place: PlaceId) -> Option<&dyn Direct> {
        self.inner.direct_at(place)
    }

    fn knows_direct(&self) -> bool {
        self.inner.knows_direct()
    }

    async fn space(&self) -> Result<Option<Space>, BlobError> {
        let free = self.plan().free;
        match free {
            Some(free) => Ok(Some(Space { total: u64::MAX, free })),
            None => self.inner.space().await,
        }
    }

    async fn ping(&self) -> Result<(), BlobError> {
        self.inner.ping().await
    }
}

#[derive(Debug)]
struct FaultyWriter {
    faults: Faulty,
    inner: Box<dyn SegmentWriter>,
}

#[async_trait]
impl SegmentWriter for FaultyWriter {
    async fn write(&mut self, chunks: &mut Vec<Bytes>) -> Result<(), BlobError> {
        let _go = self.faults.writes.read().await;
        self.faults.check(Operation::Write)?;
        let length: usize = chunks.iter().map(Bytes::len).sum();
        if let Some(free) = &mut self.faults.plan().free {
            *free = free.saturating_sub(u64::try_from(length).unwrap_or(u64::MAX));
        }
        self.inner.write(chunks).await
    }

    async fn persist(&mut self) -> Result<Extent, BlobError> {
        self.faults.check(Operation::Sync)?;
        self.inner.persist().await
    }

    async fn finish(self: Box<Self>) -> Result<Extent, BlobError> {
        self.faults.check(Operation::Sync)?;
        self.inner.finish().await
    }

    async fn discard(self: Box<Self>) {
        self.inner.discard().await;
    }
}

#[derive(Debug)]
struct FaultyReader {
    faults: Faulty,
    inner: Box<dyn SegmentReader>,
}

#[async_trait]
impl SegmentReader for FaultyReader {
    async fn read(&self, offset: u64, length: usize) -> Result<Bytes, BlobError> {
        self.faults.check(Operation::Read)?;
        let bytes = self.inner.read(offset, length).await?;
        match self.faults.lie() {
            None => Ok(bytes),
            Some(Lie::Ended) => Ok(Bytes::new()),
            Some(Lie::Changed) => {
                let mut bytes = BytesMut::from(bytes);
                if let Some(first) = bytes.first_mut() {
                    *first ^= 1;
                }
                Ok(bytes.freeze())
            }
        }
    }
}
