//! From containers and bodies to the change records of a push.

use std::pin::pin;
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use futures_util::stream;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc};

use crate::blob::BlobError;
use crate::dialect::coveo::batch::{self, BatchError, BatchKind, Record, SinkError, Summary};
use crate::engine::Engine;
use crate::limits;
use crate::model::change::{Change, ContentDraft};
use crate::model::file::Version;
use crate::model::refusal::Refusal;
use crate::upload::access::Grant;
use crate::upload::read::VersionReader;
use crate::upload::receive::{self, BodyError, Stored};
use crate::upload::register::{self, Ask, Container, Records, Room};

/// Batches translated at once; each may hold a few of its largest records in memory.
static TRANSLATIONS: LazyLock<Semaphore> = LazyLock::new(|| Semaphore::new(2));

/// The containers of a batch were used up while it waited for its turn.
pub(super) const GONE: Refusal = Refusal::NotFound { what: "container" };

/// A batch as records.
pub(super) struct Translated {
    /// The records, stored.
    pub(super) stored: Stored,
    /// What they are.
    pub(super) summary: Summary,
    /// Of items, how many add or replace one, and how many change a part of one.
    counted: Counted,
    /// The containers that hold content of items.
    pub(super) contents: Vec<Container>,
}

impl Translated {
    /// The push with these records.
    pub(super) fn into_push(self, push: Ask) -> Ask {
        Ask {
            records: Records::Stored(self.stored),
            count: self.summary.records,
            puts: self.counted.puts,
            patches: self.counted.patches,
            contents: self.contents,
            ..push
        }
    }
}

/// One change as a record.
pub(super) fn line<T: serde::Serialize>(change: &T) -> Result<Vec<u8>, Refusal> {
    let mut line = serde_json::to_vec(change).map_err(|_| Refusal::Internal)?;
    line.push(b'\n');
    Ok(line)
}

/// Validates the content of containers, in order, and stores what they ask for as records: after this the
/// containers are not needed any more, and applying the push needs to know nothing of this wire.
pub(super) async fn translate(
    engine: &Arc<Engine>,
    grant: &Grant,
    push: &Ask,
    kind: BatchKind,
    containers: &[Container],
) -> Result<Translated, Refusal> {
    let _place = TRANSLATIONS.acquire().await.map_err(|_| Refusal::Unavailable)?;
    let room = register::room(engine, grant, &push.target, push.kind).await?;
    let versions: Vec<Version> = containers.iter().filter_map(|c| c.version.clone()).collect();
    let (sender, mut receiver) = mpsc::channel::<Result<Bytes, BodyError>>(4);
    let translator =
        Translator { engine: Arc::clone(engine), grant: grant.clone(), room, runtime: Handle::current(), sender };
    let translation = tokio::task::spawn_blocking(move || translator.run(versions, kind));
    let body = pin!(stream::poll_fn(move |context| receiver.poll_recv(context)));
    let stored = receive::store(engine, grant.tenant(), body, limits::ORPHAN_GRACE).await;
    // What the batch itself did wrong comes before what became of its records.
    let (summary, counted, contents) = translation.await.map_err(|_| Refusal::Internal)??;
    Ok(Translated { stored: stored?, summary, counted, contents })
}

/// Records so far that add or replace an item, and those that change a part of one.
#[derive(Default)]
struct Counted {
    puts: u64,
    patches: u64,
}

impl Counted {
    fn count(&mut self, record: &Record) {
        match record {
            Record::Item { change: Change::Put(_) | Change::Merge(_), .. } => self.puts += 1,
            Record::Item { change: Change::Patch(_), .. } => self.patches += 1,
            Record::Item { change: Change::Delete { .. }, .. } | Record::Identity(_) => {}
        }
    }
}

struct Translator {
    engine: Arc<Engine>,
    grant: Grant,
    room: Room,
    runtime: Handle,
    sender: mpsc::Sender<Result<Bytes, BodyError>>,
}

impl Translator {
    fn run(self, versions: Vec<Version>, kind: BatchKind) -> Result<(Summary, Counted, Vec<Container>), Refusal> {
        let mut total = Summary::default();
        let mut contents = Vec::new();
        let mut buffer = Vec::with_capacity(2 * limits::WRITE_BYTES);
        let mut counted = Counted::default();
        for version in versions {
            // One after the other: a stream may have more chunks than the process may have files open.
            let opened = self.runtime.block_on(VersionReader::open(&self.engine, &version));
            let reader = match opened {
                Ok(reader) => reader.blocking(self.runtime.clone()),
                Err(error) => {
                    let _ = self.sender.blocking_send(Err(BodyError::Cut));
                    return match error {
                        // An equal call was accepted while this one waited for its turn; who asks again is told.
                        BlobError::NotFound(_) => Err(GONE),
                        other => Err(other.into()),
                    };
                }
            };
            let translated = batch::translate(reader, kind, &mut |record| {
                counted.count(&record);
                self.room.check(counted.puts, counted.patches)?;
                self.take(record, &mut buffer, &mut contents)
            });
            match translated {
                Ok(summary) => {
                    total.records += summary.records;
                    total.puts += summary.puts;
                    total.deletes += summary.deletes;
                    total.content_files += summary.content_files;
                    total.bytes += summary.bytes;
                }
                Err(error) => {
                    // Ends the storing without a commit.
                    let _ = self.sender.blocking_send(Err(BodyError::Cut));
                    return Err(match error {
                        BatchError::Refused(refusal) => refusal,
                        BatchError::Read(error) | BatchError::Write(error) => {
                            tracing::error!(%error, "a batch could not be translated");
                            Refusal::Unavailable
                        }
                    });
                }
            }
        }
        self.send(buffer).map_err(|_| Refusal::Unavailable)?;
        Ok((total, counted, contents))
    }

    fn take(&self, record: Record, buffer: &mut Vec<u8>, contents: &mut Vec<Container>) -> Result<(), SinkError> {
        let line = match record {
            Record::Identity(change) => line(&change)?,
            Record::Item { mut change, content_file } => {
                if let Some(file) = content_file {
                    let name = "compressedBinaryDataFileId";
                    let id = file.to_string();
                    let container = self.runtime.block_on(register::container(&self.engine, &self.grant, name, &id))?;
                    let Some(version) = &container.version else {
                        return Err(Refusal::invalid(name, format!("`{file}` was used by another call")).into());
                    };
                    if let Change::Put(draft) | Change::Merge(draft) = &mut change {
                        draft.content = ContentDraft::Version { version: version.id, size: version.size };
                    }
                    contents.push(container);
                }
                line(&change)?
            }
        };
        buffer.extend_from_slice(&line);
        if buffer.len() >= limits::WRITE_BYTES {
            self.send(std::mem::take(buffer))?;
        }
        Ok(())
    }

    fn send(&self, bytes: Vec<u8>) -> Result<(), SinkError> {
        let sent = self.sender.blocking_send(Ok(Bytes::from(bytes)));
        sent.map_err(|_| SinkError::Refused(Refusal::Unavailable))
    }
}
