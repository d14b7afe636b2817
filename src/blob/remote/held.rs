//! Memory for bytes that are on their way to a store.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::limits;

/// Chunks that are kept for the next writer at most: as much as two parts take of one stream.
const SPARE: usize = 64;

/// What all writers of a store may hold together.
pub(in crate::blob) struct Memory {
    held: AtomicU64,
    most: u64,
    /// Chunks that nobody uses. Memory that is given back to the system costs a fault for each of its pages when it is taken
    /// again, and what the allocator keeps of it is more than this: an eighth of `most`, no more than [`SPARE`] chunks.
    spare: Mutex<Vec<Vec<u8>>>,
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory").field("held", &self.held).field("most", &self.most).finish_non_exhaustive()
    }
}

impl Memory {
    /// So many bytes.
    pub(in crate::blob) fn of(most: u64) -> Arc<Self> {
        Arc::new(Self { held: AtomicU64::new(0), most, spare: Mutex::default() })
    }

    pub(super) fn spare(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An empty chunk with room for [`limits::WRITE_BYTES`].
    pub(super) fn chunk(&self) -> Vec<u8> {
        let spare = self.spare().pop();
        spare.unwrap_or_else(|| Vec::with_capacity(limits::WRITE_BYTES))
    }

    fn take_back(&self, mut chunk: Vec<u8>) {
        let most = usize::try_from(self.most / 8).map_or(SPARE, |bytes| SPARE.min(bytes / limits::WRITE_BYTES));
        let mut spare = self.spare();
        if chunk.capacity() == limits::WRITE_BYTES && spare.len() < most {
            chunk.clear();
            spare.push(chunk);
        }
    }

    /// Bytes that are held.
    #[cfg(test)]
    pub(in crate::blob) fn held(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }
}

/// A chunk that is full, or ended; its memory goes back when nobody has it any more.
#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) bytes: Vec<u8>,
    pub(super) memory: Arc<Memory>,
}

impl AsRef<[u8]> for Chunk {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        self.memory.take_back(std::mem::take(&mut self.bytes));
    }
}

/// Memory that a part takes.
#[derive(Debug)]
pub(in crate::blob) struct Held {
    memory: Arc<Memory>,
    pub(in crate::blob) bytes: u64,
}

impl Held {
    pub(in crate::blob) const fn none(memory: Arc<Memory>) -> Self {
        Self { memory, bytes: 0 }
    }

    /// Whose it is.
    pub(super) const fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    pub(in crate::blob) fn add(&mut self, bytes: u64) {
        self.bytes += bytes;
        self.memory.held.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Takes all of it away.
    pub(in crate::blob) fn take(&mut self) -> Self {
        Self { memory: Arc::clone(&self.memory), bytes: std::mem::take(&mut self.bytes) }
    }

    /// Is memory so short that this much is too much for one writer? While a quarter is free nothing is; then it is more
    /// than half of what is left, so that many slow ones leave something for others.
    pub(in crate::blob) fn is_too_much(&self) -> bool {
        let free = self.memory.most.saturating_sub(self.memory.held.load(Ordering::Relaxed));
        free < self.memory.most / 4 && self.bytes > free / 2
    }

    /// Is more than half of it free?
    pub(in crate::blob) fn is_plenty(&self) -> bool {
        self.memory.held.load(Ordering::Relaxed) < self.memory.most / 2
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.memory.held.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
