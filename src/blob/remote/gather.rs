//! What a writer has in memory until it is sent, and what is on its way meanwhile.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use tokio::task::JoinHandle;

use super::held::Chunk;
use super::{Fault, Held, Memory};
use crate::blob::BlobError;
use crate::limits;

/// Bodies on their way at once, besides the one that gathers.
const SENDING: usize = 3;
/// Where memory is short, so many bytes are worth a body of their own.
const SPILL_BYTES: u64 = 256 * 1024;

/// The last bytes that were written to a segment.
#[derive(Debug)]
pub(in crate::blob) struct Gathered {
    from: u64,
    end: u64,
    chunks: Vec<Bytes>,
    /// The last of them, which still grow. One that follows a full chunk has room for as much from its first byte on; any other
    /// grows as it fills, because many a writer never fills it.
    chunk: Vec<u8>,
    held: Held,
}

impl Gathered {
    pub(in crate::blob) fn new(memory: &Arc<Memory>) -> Self {
        let held = Held::none(Arc::clone(memory));
        Self { from: 0, end: 0, chunks: Vec::new(), chunk: Vec::new(), held }
    }

    /// Where in the segment they begin.
    pub(in crate::blob) const fn from(&self) -> u64 {
        self.from
    }

    /// And where they end, which is how much was written.
    pub(in crate::blob) const fn end(&self) -> u64 {
        self.end
    }

    /// Takes the first of these bytes, no more than `most`, and shows them. They are copied, so that a body's memory is free
    /// for others; what is held here is counted here.
    pub(in crate::blob) fn take(&mut self, bytes: &mut Bytes, most: u64) -> Bytes {
        if self.chunk.is_empty() && self.chunks.last().is_some_and(|last| last.len() == limits::WRITE_BYTES) {
            self.chunk = self.held.memory().chunk();
        }
        let room = limits::WRITE_BYTES - self.chunk.len();
        let most = room.min(usize::try_from(most).unwrap_or(usize::MAX));
        let taken = bytes.split_to(bytes.len().min(most));
        self.chunk.extend_from_slice(&taken);
        let length = u64::try_from(taken.len()).unwrap_or(0);
        self.held.add(length);
        self.end += length;
        if self.chunk.len() == limits::WRITE_BYTES {
            self.end_chunk();
        }
        taken
    }

    fn end_chunk(&mut self) {
        if !self.chunk.is_empty() {
            let memory = Arc::clone(self.held.memory());
            let bytes = std::mem::take(&mut self.chunk);
            self.chunks.push(Bytes::from_owner(Chunk { bytes, memory }));
        }
    }

    /// All of them, and the memory they take, which are the writer's no longer. The next ones begin behind them.
    pub(in crate::blob) fn cut(&mut self) -> (Vec<Bytes>, Held) {
        self.end_chunk();
        self.from = self.end;
        (std::mem::take(&mut self.chunks), self.held.take())
    }

    /// Those from this position of the segment on, which stay the writer's as well.
    pub(in crate::blob) fn behind(&mut self, position: u64) -> Vec<Bytes> {
        self.end_chunk();
        let mut skip = usize::try_from(position.saturating_sub(self.from)).unwrap_or(usize::MAX);
        let mut behind = Vec::new();
        for chunk in &self.chunks {
            let passed = skip.min(chunk.len());
            skip -= passed;
            if passed < chunk.len() {
                behind.push(chunk.slice(passed..));
            }
        }
        behind
    }

    /// Bytes in memory.
    pub(in crate::blob) const fn held(&self) -> u64 {
        self.held.bytes
    }

    /// Is memory so short that they had better be elsewhere, and are they worth it?
    pub(in crate::blob) fn is_too_much(&self) -> bool {
        self.held.bytes >= SPILL_BYTES && self.held.is_too_much()
    }

    /// May they stay in memory once they are kept elsewhere too?
    pub(in crate::blob) fn may_stay(&self) -> bool {
        self.held.is_plenty()
    }
}

/// Bodies on their way.
#[derive(Debug)]
pub(in crate::blob) struct Sending<T> {
    tasks: VecDeque<JoinHandle<Result<T, Fault>>>,
    arrived: Vec<T>,
}

impl<T: Send + 'static> Sending<T> {
    pub(in crate::blob) const fn new() -> Self {
        Self { tasks: VecDeque::new(), arrived: Vec::new() }
    }

    /// Waits until another one may be sent.
    pub(in crate::blob) async fn room(&mut self) -> Result<(), BlobError> {
        while self.tasks.len() >= SENDING {
            self.arrive().await?;
        }
        Ok(())
    }

    /// Sends one.
    pub(in crate::blob) fn start(&mut self, task: impl Future<Output = Result<T, Fault>> + Send + 'static) {
        self.tasks.push_back(tokio::spawn(task));
    }

    /// Waits for the oldest one.
    async fn arrive(&mut self) -> Result<(), BlobError> {
        if let Some(task) = self.tasks.pop_front() {
            let arrived = task.await.map_err(|error| BlobError::Io(std::io::Error::other(error)))?;
            self.arrived.push(arrived?);
        }
        Ok(())
    }

    /// Waits for all. What they brought, also those before, in the order in which they were sent.
    pub(in crate::blob) async fn all(&mut self) -> Result<&[T], BlobError> {
        while !self.tasks.is_empty() {
            self.arrive().await?;
        }
        Ok(&self.arrived)
    }

    /// Gives up those that have not arrived.
    pub(in crate::blob) fn abort(&mut self) {
        for task in self.tasks.drain(..) {
            task.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_shown_from_wherever_they_are_wanted() {
        let memory = Memory::of(1 << 30);
        let mut gathered = Gathered::new(&memory);
        let all: Bytes = (0..3 * limits::WRITE_BYTES + 7).map(|n| n.to_le_bytes()[1]).collect::<Vec<_>>().into();
        let mut left = all.clone();
        while !left.is_empty() {
            let before = left.clone();
            let taken = gathered.take(&mut left, 100_000);
            assert!(taken.len() <= 100_000 && before.starts_with(&taken));
        }
        let length = u64::try_from(all.len()).unwrap();
        assert_eq!((gathered.from(), gathered.end(), gathered.held(), memory.held()), (0, length, length, length));
        for position in [0, 1, length / 2, length - 1, length] {
            let behind = gathered.behind(position).concat();
            assert!(behind == all[usize::try_from(position).unwrap()..], "{position}");
        }
        let (chunks, held) = gathered.cut();
        assert!(chunks.concat() == all);
        assert_eq!((gathered.from(), gathered.end(), gathered.held(), memory.held()), (length, length, 0, length));
        drop(held);
        assert_eq!(memory.held(), 0);
        gathered.take(&mut Bytes::from_static(b"more"), 3);
        assert_eq!(
            (gathered.behind(length).concat(), gathered.behind(length + 2).concat()),
            (b"mor".into(), b"r".into())
        );
    }

    #[test]
    fn a_chunks_memory_is_used_again_when_nobody_has_it() {
        let most = 128 * 1024 * 1024;
        let memory = Memory::of(most);
        let mut gathered = Gathered::new(&memory);
        let mut write = |chunks: usize| {
            let mut left = Bytes::from(vec![1; chunks * limits::WRITE_BYTES]);
            while !left.is_empty() {
                gathered.take(&mut left, u64::MAX);
            }
            gathered.cut().0
        };
        let first = write(4);
        assert_eq!(memory.spare().len(), 0, "they are somebody's, and none is taken before its first byte");
        let rest = first[2].slice(1..);
        drop(first);
        let spare: Vec<_> = memory.spare().iter().map(|chunk| chunk.as_ptr()).collect();
        assert_eq!(spare.len(), 3, "but for what somebody has");
        // The first of a part grows by itself.
        let second = write(3);
        assert_eq!(memory.spare().len(), 1);
        assert!(second[1..].iter().all(|chunk| spare.contains(&chunk.as_ptr())));
        assert!(rest.iter().all(|byte| *byte == 1));
        drop((second, rest));
        assert_eq!(memory.spare().len(), 5);
        drop(write(100));
        assert_eq!(memory.spare().len(), 64, "no more are kept");
        let small = Memory::of(most / 16);
        let chunk = |_| Chunk { bytes: small.chunk(), memory: Arc::clone(&small) };
        drop((0..10).map(chunk).collect::<Vec<_>>());
        assert_eq!(small.spare().len(), 4, "an eighth");
    }

    #[tokio::test]
    async fn what_was_sent_arrives_in_its_order_or_not_at_all() {
        let mut sending = Sending::new();
        for n in 0..5u64 {
            sending.room().await.unwrap();
            sending.start(async move {
                tokio::time::sleep(std::time::Duration::from_millis(5 * (5 - n))).await;
                Ok(n)
            });
        }
        assert_eq!(sending.all().await.unwrap(), [0, 1, 2, 3, 4]);
        sending.start(async { Err(Fault::lasting("no")) });
        assert!(sending.all().await.is_err());
        sending.start(std::future::pending());
        sending.abort();
        assert_eq!(sending.all().await.unwrap(), [0, 1, 2, 3, 4]);
    }
}
