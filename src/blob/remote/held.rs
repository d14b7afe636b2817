//! Memory for bytes that are on their way to a store.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What all writers of a store may hold together.
#[derive(Debug)]
pub(in crate::blob) struct Memory {
    held: AtomicU64,
    most: u64,
}

impl Memory {
    /// So many bytes.
    pub(in crate::blob) fn of(most: u64) -> Arc<Self> {
        Arc::new(Self { held: AtomicU64::new(0), most })
    }

    /// Bytes that are held.
    #[cfg(test)]
    pub(in crate::blob) fn held(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
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
