//! Bytes in a container of Azure Blob Storage.
//!
//! A segment is one blob under its own name. A short one is sent at once, when it is finished; a longer one in *blocks*, which
//! belong to nothing until a list makes a blob of them. Blocks need no least size, so that a persist sends what there is as
//! one; when the block that fills is full it takes their place, as long as their bytes are in memory. A block's name says
//! where it begins and how long it is, and with it what is in it: nothing that is repeated or comes late can change what was
//! there, and a row need not name them.
//!
//! Every blob is made once, under the condition that there is none, so that the first list is the only one that counts: its
//! writer's, or that of somebody who *seals* what the writer left. The other one is told that it was not the first.
//!
//! The service takes only so many blocks for one blob. A segment that has more of them goes on in the next blob, named by
//! where it begins; so it has no greatest length, and parts that were persisted in the smallest steps need no joining.
//!
//! Requests are signed by `reqsign`, with a CRC-64/NVME that the service verifies.

mod blobs;
mod blocks;
mod credentials;
mod direct;
mod listing;
mod seal;
mod service;
mod writer;

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) use tests::of;

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;

use self::blobs::{Content, Stat};
use self::blocks::Block;
use self::direct::Pin;
use self::service::Service;
use self::writer::Writer;
use super::remote::{self, Caller, Fault, Kind, Marked, Memory, Ranges, Reader, STALL, Stream};
use super::{BlobError, BlobStore, Direct, Listed, SegmentReader, SegmentWriter, Space, Unusable, Wanted};
use crate::clock::Clock;
use crate::config::Container;
use crate::faults;
use crate::model::ids::SegmentId;
use crate::outbound::OutboundError;

/// Blocks that are sent for one blob. The service takes 50,000 in a list and 100,000 that are in none, and the list of them is
/// one answer.
const BLOCKS_MAX: usize = 20_000;

/// A container. Clones share its connections.
#[derive(Clone, Debug)]
pub struct Azure {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    caller: Caller<Service>,
    /// Tells what is old enough to be removed.
    clock: Clock,
    prefix: String,
    /// Is what no segment needs removed?
    tidies: bool,
    /// For blocks on their way; what is too much for it is sent in smaller ones.
    memory: Arc<Memory>,
    blocks_max: usize,
}

/// What a row keeps of a segment that is finished: how many blobs it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Whole(usize);

const WHOLE: &str = "whole";
const UNFINISHED: &str = "blocks1";

/// What a row keeps of one that is not finished. Where its blocks are follows from their names.
fn unfinished() -> String {
    UNFINISHED.into()
}

impl Whole {
    const fn of(blobs: usize) -> Self {
        Self(if blobs > 1 { blobs } else { 1 })
    }
}

impl fmt::Display for Whole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            1 => f.write_str(WHOLE),
            blobs => write!(f, "{WHOLE} {blobs}"),
        }
    }
}

impl FromStr for Whole {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text.split_once(' ') {
            None if text == WHOLE => Ok(Self(1)),
            Some((WHOLE, blobs)) => blobs.parse().ok().filter(|blobs| *blobs > 1).map(Self).ok_or(()),
            _ => Err(()),
        }
    }
}

impl Azure {
    /// A container that is written and read. Nothing is asked of it yet. Blocks on their way to it take up to `memory` bytes.
    ///
    /// # Errors
    /// When this system has no certificates to trust.
    pub fn open(
        container: &Container,
        environment: HashMap<String, String>,
        clock: Clock,
        memory: u64,
    ) -> Result<Self, Unusable> {
        Self::new(container, environment, clock, Some(memory), (STALL, BLOCKS_MAX))
    }

    /// A container that is only read: nothing in it is made, tidied or removed.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_to_read(
        container: &Container,
        environment: HashMap<String, String>,
        clock: Clock,
    ) -> Result<Self, Unusable> {
        Self::new(container, environment, clock, None, (STALL, BLOCKS_MAX))
    }

    fn new(
        container: &Container,
        environment: HashMap<String, String>,
        clock: Clock,
        memory: Option<u64>,
        (stall, blocks_max): (Duration, usize),
    ) -> Result<Self, Unusable> {
        let unusable = |error: OutboundError| Unusable::new(container.name.clone(), error.what);
        let caller = service::caller(container, environment, stall).map_err(unusable)?;
        Ok(Self {
            shared: Arc::new(Shared {
                caller,
                clock,
                prefix: container.prefix.clone(),
                tidies: memory.is_some(),
                memory: Memory::of(memory.unwrap_or(0)),
                blocks_max,
            }),
        })
    }

    /// Makes blobs, reads, lists and deletes them: everything that a server will want to do, and whatever `wanted` says.
    ///
    /// # Errors
    /// What does not work.
    pub async fn check(&self, wanted: Wanted) -> Result<(), Unusable> {
        let key = remote::probe(&self.shared.prefix);
        let text = Bytes::from_static(b"Landfall was here and left.\n");
        let block = Block { offset: 0, length: u64::try_from(text.len()).unwrap_or(0) };
        let checked = async {
            self.put_block(&key, block, &Content::text(text.clone())).await?;
            if self.blocks(&key).await?.as_deref() != Some(&[block]) {
                return Err(Fault::lasting("what was sent is not what is there"));
            }
            let listed = async || Ok::<_, Fault>(self.all(&key).await?.iter().any(|entry| entry.key == key));
            if !listed().await? {
                return Err(Fault::lasting("it does not list blocks that belong to no blob"));
            }
            self.put_list(&key, &[block]).await?;
            if self.is_hierarchical(&key).await? {
                return Err(Fault::lasting(
                    "its account has a hierarchical namespace, which answers otherwise: name one that has none",
                ));
            }
            if self.get(&key, text.len()).await? != text {
                return Err(Fault::lasting("what was written is not what is read"));
            }
            let other = Content::text(Bytes::from_static(b"again"));
            match self.put_blob(&key, &other).await {
                Err(fault) if fault.kind == Kind::Changed => {}
                Err(fault) => return Err(fault),
                Ok(()) => return Err(Fault::lasting("it makes a blob again also with `If-None-Match: *`")),
            }
            if !listed().await? {
                return Err(Fault::lasting("what was written is not listed"));
            }
            if wanted != Wanted::default() {
                self.check_direct(&key, wanted).await?;
            }
            self.remove(&key).await
        };
        checked.await.map(drop).map_err(|fault| remote::unusable(self, &fault))
    }

    /// Does the place belong to this installation? One that is nobody's does from now on, if it may be taken.
    ///
    /// # Errors
    /// That it is another installation's, or can't be asked.
    pub async fn claim(&self, installation: &str, may_be_taken: bool) -> Result<bool, Unusable> {
        remote::claim(self, installation, may_be_taken).await
    }

    /// The name of the blob of a segment that begins here.
    fn key(&self, segment: SegmentId, start: u64) -> String {
        let prefix = &self.shared.prefix;
        if start == 0 { format!("{prefix}{segment}") } else { format!("{prefix}{segment}.{start:012x}") }
    }

    /// Reads a name: the segment, and where in it the blob begins. Others are not ours to judge.
    fn parse(&self, key: &str) -> Option<(SegmentId, u64)> {
        let name = key.strip_prefix(&self.shared.prefix)?;
        let Some((segment, start)) = name.split_once('.') else { return Some((name.parse().ok()?, 0)) };
        let start = Some(start).filter(|start| start.len() == 12)?;
        Some((segment.parse().ok()?, u64::from_str_radix(start, 16).ok().filter(|start| *start > 0)?))
    }

    /// A segment of so many blobs, to be read.
    async fn object(&self, segment: SegmentId, blobs: usize) -> Result<Option<Object>, Fault> {
        let mut object = Object { store: self.clone(), name: self.key(segment, 0), size: 0, blobs: Vec::new() };
        for _ in 0..blobs {
            let key = self.key(segment, object.size);
            let Some(found) = self.head(&key).await? else { return Ok(None) };
            object.blobs.push((object.size, key, found.clone()));
            object.size += found.size;
        }
        Ok(Some(object))
    }
}

#[async_trait]
impl Marked for Azure {
    fn place(&self) -> String {
        self.shared.caller.place()
    }

    fn prefix(&self) -> &str {
        &self.shared.prefix
    }

    async fn is_there(&self, key: &str) -> Result<bool, Fault> {
        Ok(self.head(key).await?.is_some())
    }

    async fn mark(&self, key: &str, text: Bytes) -> Result<(), Fault> {
        match self.put_blob(key, &Content::text(text)).await {
            // Somebody else was faster.
            Err(fault) if fault.kind == Kind::Changed => Ok(()),
            made => made,
        }
    }

    async fn text(&self, key: &str, length: usize) -> Result<Bytes, Fault> {
        self.get(key, length).await
    }
}

#[async_trait]
impl BlobStore for Azure {
    /// Asks nothing of the service: it tells whether there is a blob of this name when one is made.
    async fn create(&self, segment: SegmentId, _expected: Option<u64>) -> Result<Box<dyn SegmentWriter>, BlobError> {
        faults::io_point("segment.create")?;
        faults::point("segment.created");
        Ok(Box::new(Writer::new(self.clone(), segment)))
    }

    async fn open(&self, segment: SegmentId, backend: &str) -> Result<Box<dyn SegmentReader>, BlobError> {
        let object = if let Ok(pin) = backend.parse::<Pin>() {
            self.pinned(segment, &pin).await?.map(|found| {
                let (key, size) = (self.direct_key(segment.session), found.size);
                Object { store: self.clone(), name: key.clone(), size, blobs: vec![(0, key, found)] }
            })
        } else {
            let Whole(blobs) = backend.parse().unwrap_or(Whole(1));
            self.object(segment, blobs).await?
        };
        Ok(Box::new(Reader::new(object.ok_or(BlobError::NotFound(segment))?)))
    }

    fn reads_unfinished(&self) -> bool {
        false
    }

    fn open_ones_survive(&self) -> bool {
        false
    }

    fn direct(&self) -> Option<&dyn Direct> {
        Some(self)
    }

    async fn seal(&self, segment: SegmentId, backend: &str, length: u64) -> Result<String, BlobError> {
        match backend {
            UNFINISHED => self.seal_unfinished(segment, length).await,
            whole if whole.parse::<Whole>().is_ok() => Ok(whole.to_owned()),
            _ => Err(Fault::lasting("what the row keeps of an unfinished segment can't be read").into()),
        }
    }

    async fn length(&self, segment: SegmentId, backend: &str) -> Result<Option<u64>, BlobError> {
        if let Ok(pin) = backend.parse::<Pin>() {
            return Ok(self.pinned(segment, &pin).await?.map(|found| found.size));
        }
        match backend.parse() {
            Ok(Whole(1)) => Ok(self.head(&self.key(segment, 0)).await?.map(|found| found.size)),
            _ => Ok(self.found(segment).await?),
        }
    }

    async fn delete(&self, segment: SegmentId, backend: &str) -> Result<(), BlobError> {
        if backend.parse::<Pin>().is_ok() {
            self.remove(&self.direct_key(segment.session)).await?;
        } else if backend == WHOLE {
            self.remove(&self.key(segment, 0)).await?;
        } else {
            // What a row keeps is what was recorded; more may have been sent.
            self.remove_of(segment).await?;
        }
        Ok(())
    }

    async fn list(&self, each: &mut (dyn FnMut(Vec<Listed>) + Send)) -> Result<(), BlobError> {
        self.list_all(each).await
    }

    async fn space(&self) -> Result<Option<Space>, BlobError> {
        Ok(None)
    }

    async fn ping(&self) -> Result<(), BlobError> {
        Ok(self.ask_for_one().await?)
    }
}

/// A segment as it was when it was opened: the service compares.
struct Object {
    store: Azure,
    name: String,
    size: u64,
    /// Its blobs, each with where it begins.
    blobs: Vec<(u64, String, Stat)>,
}

#[async_trait]
impl Ranges for Object {
    fn name(&self) -> &str {
        &self.name
    }

    fn size(&self) -> u64 {
        self.size
    }

    async fn range(&self, from: u64, to: u64) -> Result<Stream, Fault> {
        let mut parts = Vec::new();
        for (start, key, found) in &self.blobs {
            let (from, to) = (from.max(*start), to.min(start + found.size));
            if from < to {
                parts.push((key.clone(), found.clone(), from - start, to - start));
            }
        }
        let mut parts = parts.into_iter();
        let Some((key, found, from, to)) = parts.next() else { return Err(Fault::lasting("there is no such range")) };
        let first = self.store.range(&key, &found, from, to).await?;
        let store = self.store.clone();
        let others = futures_util::stream::iter(parts).then(move |(key, found, from, to)| {
            let store = store.clone();
            async move { store.range(&key, &found, from, to).await }
        });
        let others = others.flat_map(|part| match part {
            Ok(stream) => stream,
            Err(fault) => {
                let broken = OutboundError { passing: fault.kind == Kind::Passing, what: fault.what };
                futures_util::stream::once(async { Err(broken) }).boxed()
            }
        });
        Ok(first.chain(others).boxed())
    }
}
