//! Applying an accepted push: its records, from where the cursor stands, in transactions of bounded size.

use std::pin::pin;
use std::time::Duration;

use base64::Engine as _;
use bytes::Bytes;
use tokio::sync::watch;

use crate::engine::Engine;
use crate::faults;
use crate::limits;
use crate::meta::{Applied, Lease, LeasedChanges, Resolved, ResolvedContent};
use crate::model::change::{Change, ContentDraft, IdentityChange};
use crate::model::refusal::Refusal;
use crate::model::source::PushKind;
use crate::upload::read::VersionReader;
use crate::upload::receive;

/// How long one push is applied before others get their turn.
const TURN: Duration = Duration::from_secs(2);

/// How a push ended for this worker.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Outcome {
    /// Everything it asked for is done.
    Done,
    /// It can't be applied, ever: its records can't be read.
    Failed(String),
    /// Another worker has it now.
    Lost,
    /// It is another push's turn, or the server stops; the cursor stands where this one left it.
    Paused,
}

/// Applies what is left of a push, or as much of it as one turn allows: others wait too.
pub(super) async fn push(engine: &Engine, lease: &Lease, stop: &watch::Receiver<bool>) -> Result<Outcome, Refusal> {
    let begun = engine.clock.monotonic();
    let over = || *stop.borrow() || engine.clock.monotonic().saturating_sub(begun) >= TURN;
    let mut lines = Lines::open(engine, lease).await?;
    loop {
        let batch = match lines.next_batch().await? {
            Ok(batch) => batch,
            Err(reason) => return Ok(Outcome::Failed(reason)),
        };
        if batch.is_empty() {
            break;
        }
        let applied = match lease.kind {
            PushKind::Items | PushKind::Load => items(engine, lease, batch).await?,
            PushKind::Identities => identities(engine, lease, batch).await?,
            PushKind::OlderThan | PushKind::IdentitiesOlderThan => Ok(true),
        };
        match applied {
            // Asked only after some work, so that every turn gets on.
            Ok(true) if over() => return Ok(Outcome::Paused),
            Ok(true) => {}
            Ok(false) => return Ok(Outcome::Lost),
            Err(reason) => return Ok(Outcome::Failed(reason)),
        }
    }
    while engine.meta.apply_deletions(lease, engine.clock.now(), limits::DOWNLOAD_MAX).await? {
        if over() {
            return Ok(Outcome::Paused);
        }
    }
    Ok(Outcome::Done)
}

type Batch = Vec<(Vec<u8>, u64)>;
/// `Ok(false)` when the lease is lost; `Err` with the reason why the records can't be read.
type Taken = Result<bool, String>;

async fn items(engine: &Engine, lease: &Lease, batch: Batch) -> Result<Taken, Refusal> {
    let parsed = tokio::task::spawn_blocking(move || parse::<Change>(&batch)).await.map_err(|_| Refusal::Internal)?;
    let changes = match parsed {
        Ok(changes) => changes,
        Err(reason) => return Ok(Err(reason)),
    };
    let mut resolved = Vec::with_capacity(changes.len());
    for (change, end) in changes {
        resolved.push(resolve(engine, lease, change, end).await?);
    }
    let mut rest = resolved.as_slice();
    while !rest.is_empty() {
        match engine.meta.apply(lease, rest.to_vec(), engine.clock.now(), limits::DOWNLOAD_MAX).await? {
            Applied::Upto(done) => rest = &rest[done.min(rest.len())..],
            Applied::LeaseLost => return Ok(Ok(false)),
            Applied::SourceGone => return Ok(Err("the source was deleted".into())),
        }
    }
    faults::point("process.applied");
    Ok(Ok(true))
}

async fn identities(engine: &Engine, lease: &Lease, batch: Batch) -> Result<Taken, Refusal> {
    let changes = match parse::<IdentityChange>(&batch) {
        Ok(changes) => changes,
        Err(reason) => return Ok(Err(reason)),
    };
    match engine.meta.apply_identities(lease, changes, engine.clock.now()).await? {
        Applied::Upto(_) => Ok(Ok(true)),
        Applied::LeaseLost => Ok(Ok(false)),
        Applied::SourceGone => Ok(Err("the provider was deleted".into())),
    }
}

fn parse<T: serde::de::DeserializeOwned>(batch: &Batch) -> Result<Vec<(T, u64)>, String> {
    batch
        .iter()
        .map(|(line, end)| match serde_json::from_slice(line) {
            Ok(record) => Ok((record, *end)),
            Err(error) => Err(format!("the stored record before byte {end} can't be read: {error}")),
        })
        .collect()
}

/// Small content goes into the item's row; larger content is committed first, as a version that the item will hold.
/// If this process dies in between, nothing holds the version and it goes.
async fn resolve(engine: &Engine, lease: &Lease, mut change: Change, end: u64) -> Result<Resolved, Refusal> {
    let draft = match &mut change {
        Change::Put(draft) | Change::Merge(draft) => draft,
        Change::Patch(_) | Change::Delete { .. } => {
            return Ok(Resolved { change, content: ResolvedContent::None, problem: None, end });
        }
    };
    let mut problem = draft.refused.take();
    let bytes = match std::mem::take(&mut draft.content) {
        ContentDraft::None => None,
        ContentDraft::Text(text) => Some(text.into_bytes()),
        ContentDraft::Base64(text) => match base64::engine::general_purpose::STANDARD.decode(text) {
            Ok(bytes) => Some(bytes),
            Err(error) => {
                problem = problem.or_else(|| Some(format!("the content is not Base64: {error}")));
                None
            }
        },
        ContentDraft::Version { version, size } => {
            return Ok(Resolved { change, content: ResolvedContent::Stored { version, size }, problem, end });
        }
    };
    let content = match bytes {
        None => ResolvedContent::None,
        Some(bytes) if bytes.len() <= limits::INLINE_CONTENT_BYTES || problem.is_some() => {
            ResolvedContent::Inline(bytes)
        }
        Some(bytes) => {
            let body = pin!(futures_util::stream::iter([Ok(Bytes::from(bytes))]));
            let stored = receive::store(engine, &lease.tenant, body, limits::ORPHAN_GRACE).await?;
            ResolvedContent::Stored { version: stored.version, size: stored.size }
        }
    };
    Ok(Resolved { change, content, problem, end })
}

/// The records of a push, line by line, from its cursor.
struct Lines {
    reader: Option<VersionReader>,
    /// Where the next bytes come from.
    position: u64,
    /// Where `buffer` begins.
    start: u64,
    buffer: Vec<u8>,
}

impl Lines {
    async fn open(engine: &Engine, lease: &Lease) -> Result<Self, Refusal> {
        match &lease.changes {
            LeasedChanges::Inline(bytes) => {
                let from = usize::try_from(lease.cursor).unwrap_or(usize::MAX).min(bytes.len());
                Ok(Self { reader: None, position: 0, start: lease.cursor, buffer: bytes[from..].to_vec() })
            }
            LeasedChanges::Stored(version) => {
                let reader = VersionReader::open(engine, version).await?;
                Ok(Self { reader: Some(reader), position: lease.cursor, start: lease.cursor, buffer: Vec::new() })
            }
        }
    }

    /// Some whole lines, each with the position behind it; none at the end.
    async fn next_batch(&mut self) -> Result<Result<Batch, String>, Refusal> {
        let mut batch = Vec::new();
        let mut used = 0;
        loop {
            let line = self.buffer[used..].iter().position(|b| *b == b'\n');
            if let Some(length) = line {
                let end = self.start + u64::try_from(used + length + 1).unwrap_or(u64::MAX);
                batch.push((self.buffer[used..used + length].to_vec(), end));
                used += length + 1;
                if batch.len() >= limits::APPLY_RECORDS || used >= limits::APPLY_BYTES {
                    break;
                }
                continue;
            }
            if !batch.is_empty() && self.buffer.len() - used > limits::APPLY_BYTES {
                break;
            }
            let more = match &self.reader {
                Some(reader) => reader.at(self.position, u64::MAX).await?,
                None => Bytes::new(),
            };
            if more.is_empty() {
                if used < self.buffer.len() {
                    return Ok(Err("the stored records end within a line".into()));
                }
                break;
            }
            self.position += u64::try_from(more.len()).unwrap_or(0);
            self.buffer.extend_from_slice(&more);
        }
        self.buffer.drain(..used);
        self.start += u64::try_from(used).unwrap_or(0);
        Ok(Ok(batch))
    }
}
