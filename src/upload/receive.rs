//! Receiving bytes: from a body into a segment, with digests on the way.

use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use crc_fast::CrcAlgorithm;
use futures_util::{Stream, StreamExt};
use md5::Md5;
use sha2::{Digest, Sha256};

use super::access::Grant;
use super::{commit, open};
use crate::blob::SegmentWriter;
use crate::clock::random_bytes;
use crate::engine::Engine;
use crate::limits;
use crate::meta::FileInfo;
use crate::model::file::{Digests, Piece, Version};
use crate::model::ids::{FileId, SegmentId, SessionId, TenantId, VersionId};
use crate::model::refusal::{Refusal, TicketRefusal};
use crate::model::session::{Session, SessionState};

/// Below this, hashing costs less than handing it to another thread.
const HASHED_AT_ONCE_BYTES: usize = 16 * 1024;

/// The wire of bytes that the server stores itself.
pub const INTERNAL: &str = "internal";

/// What ended a body before its end.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BodyError {
    /// The connection was cut, or the framing is broken.
    #[error("the connection was cut")]
    Cut,
    /// It stood still, or came slower than the minimum rate.
    #[error("the body came too slowly")]
    TooSlow,
    /// More bytes than the limit.
    #[error("the body has more bytes than the limit")]
    TooLong,
    /// The server is stopping.
    #[error("the server is stopping")]
    Stopping,
    /// There was no memory for it.
    #[error("the server is receiving as much as it may")]
    Busy,
}

/// A body: chunks, then its end, or what went wrong. An empty chunk asks the receiver to write what it has gathered,
/// because memory is short; the body may wait until that memory is free.
pub type Body<'a> = Pin<&'a mut (dyn Stream<Item = Result<Bytes, BodyError>> + Send)>;

/// Digests that the client declared for the body.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Declared {
    /// MD5.
    pub md5: Option<[u8; 16]>,
    /// SHA-256.
    pub sha256: Option<[u8; 32]>,
    /// CRC-32C.
    pub crc32c: Option<u32>,
    /// CRC-64/NVME.
    pub crc64nvme: Option<u64>,
}

/// A session that may take a body now.
#[derive(Clone, Debug)]
pub struct Admitted {
    session: Session,
    /// The file has been used: the body is only compared with this.
    used: Option<FileInfo>,
}

/// What was stored.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Receipt {
    /// Bytes.
    pub size: u64,
    /// Their digests.
    pub digests: Digests,
}

fn refused(rule: &'static str, detail: String) -> Refusal {
    Refusal::Ticket(TicketRefusal { rule, detail })
}

/// Checks, before the first byte is read, whether a session takes a body of this length.
///
/// # Errors
/// [`Refusal::Ticket`] when the session does not take one any more, [`Refusal::TooLarge`], [`Refusal::OutOfSpace`].
pub async fn admit(
    engine: &Engine,
    tenant: &TenantId,
    session: SessionId,
    length: Option<u64>,
) -> Result<Admitted, Refusal> {
    let Some(session) = engine.meta.session(tenant, session).await? else {
        return Err(refused("session", "the session does not exist or is forgotten".into()));
    };
    let now = engine.clock.now();
    if session.expires <= now {
        let detail = format!("the session expired at {}", session.expires.rfc3339());
        return Err(refused("expired", detail));
    }
    let used = match session.state {
        SessionState::Open => None,
        SessionState::Committed => engine.meta.file(tenant, session.file).await?.filter(|file| file.used.is_some()),
        SessionState::Aborted | SessionState::Expired | SessionState::Failed => {
            return Err(refused("session", format!("the session is {}", session.state.name())));
        }
    };
    if length.is_some_and(|length| length > session.max_bytes) {
        return Err(too_large(session.max_bytes));
    }
    if let Some(space) = engine.blobs.space().await?
        && space.free < engine.policy.free_space_min.saturating_add(length.unwrap_or(0))
    {
        tracing::warn!(free = space.free, needed = length, "refusing an upload: not enough free space");
        return Err(Refusal::OutOfSpace);
    }
    Ok(Admitted { session, used })
}

fn too_large(limit: u64) -> Refusal {
    Refusal::TooLarge { what: "a container", limit, remedy: "send less, or raise `container_max` in the configuration" }
}

/// Takes the whole body of a single PUT and commits it as a version.
///
/// # Errors
/// Nothing is stored with any of them: [`Refusal::Incomplete`], [`Refusal::TooLarge`], [`Refusal::DigestMismatch`],
/// [`Refusal::Ticket`] when the session ended meanwhile or the file was used, and the keepers' own.
pub async fn single(
    engine: &Engine,
    admitted: Admitted,
    body: Body<'_>,
    length: Option<u64>,
    declared: Declared,
) -> Result<Receipt, Refusal> {
    let Admitted { session, used } = admitted;
    let limit = session.max_bytes;
    if let Some(used) = used {
        let received = pour(None, body, limit, length, declared).await?;
        return if received.size == used.size
            && received.digests.crc32c == used.digests.crc32c
            && received.digests.crc64nvme == used.digests.crc64nvme
        {
            Ok(Receipt { size: received.size, digests: received.digests })
        } else {
            Err(refused("used", "the container has been used; other bytes can't replace what was pushed".into()))
        };
    }
    let segment = new_segment(&session);
    let mut writer = engine.blobs.create(segment, length).await?;
    let received = match pour(Some(writer.as_mut()), body, limit, length, declared).await {
        Ok(received) => received,
        Err(refusal) => {
            writer.discard().await;
            return Err(refusal);
        }
    };
    let extent = writer.finish().await?;
    let digests = Digests { md5: None, sha256: None, ..received.digests };
    let piece = Piece { segment, length: extent.length, digests, backend: extent.backend };
    let receipt = Receipt { size: received.size, digests: received.digests };
    commit::single(engine, &session, piece, receipt).await
}

fn new_segment(session: &Session) -> SegmentId {
    SegmentId { session: session.id, epoch: session.epoch, attempt: u64::from_be_bytes(random_bytes()) }
}

/// Bytes that the server stored itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stored {
    /// The file.
    pub file: FileId,
    /// Its version, held by nobody yet.
    pub version: VersionId,
    /// Its size in bytes.
    pub size: u64,
}

/// Stores bytes of the server's own on a tenant's behalf, durably; they go after `life` unless something holds them.
///
/// # Errors
/// The keepers' own; [`Refusal::Incomplete`] when the stream ends with an error.
pub async fn store(engine: &Engine, tenant: &TenantId, body: Body<'_>, life: Duration) -> Result<Stored, Refusal> {
    let grant = Grant::internal(tenant.clone());
    let session = open::session(engine, &grant, INTERNAL, limits::CONTAINER_MAX_BYTES, life);
    engine.meta.open_session(session.clone()).await?;
    match store_in(engine, &session, body).await {
        Ok(version) => Ok(Stored { file: session.file, version: version.id, size: version.size }),
        Err(refusal) => {
            // Nobody will send these bytes again: what was refused leaves nothing open.
            engine.meta.abort_session(session.id).await?;
            Err(refusal)
        }
    }
}

async fn store_in(engine: &Engine, session: &Session, body: Body<'_>) -> Result<Version, Refusal> {
    let segment = new_segment(session);
    let mut writer = engine.blobs.create(segment, None).await?;
    let received = match pour(Some(writer.as_mut()), body, session.max_bytes, None, Declared::default()).await {
        Ok(received) => received,
        Err(refusal) => {
            writer.discard().await;
            return Err(refusal);
        }
    };
    let extent = writer.finish().await?;
    let piece = Piece { segment, length: extent.length, digests: received.digests, backend: extent.backend };
    commit::internal(engine, session, piece, received.digests).await
}

struct Received {
    size: u64,
    digests: Digests,
}

/// Moves a body into a segment (or nowhere), [`limits::WRITE_BYTES`] at a time.
async fn pour(
    mut writer: Option<&mut dyn SegmentWriter>,
    mut body: Body<'_>,
    limit: u64,
    length: Option<u64>,
    declared: Declared,
) -> Result<Received, Refusal> {
    let mut crc32c = crc_fast::Digest::new(CrcAlgorithm::Crc32Iscsi);
    let mut crc64nvme = crc_fast::Digest::new(CrcAlgorithm::Crc64Nvme);
    let mut slow = SlowHashes::start(declared);
    let mut gathered: Vec<Bytes> = Vec::new();
    let mut gathered_bytes = 0;
    let mut size = 0u64;
    loop {
        let next = body.next().await;
        match &next {
            Some(Ok(chunk)) => {
                size = size.saturating_add(u64::try_from(chunk.len()).unwrap_or(u64::MAX));
                if size > limit {
                    return Err(too_large(limit));
                }
                crc32c.update(chunk);
                crc64nvme.update(chunk);
                gathered_bytes += chunk.len();
                if !chunk.is_empty() {
                    gathered.push(chunk.clone());
                }
            }
            Some(Err(BodyError::TooLong)) => return Err(too_large(limit)),
            Some(Err(BodyError::Stopping)) => return Err(Refusal::Unavailable),
            Some(Err(BodyError::Busy)) => return Err(Refusal::Busy { retry_after: limits::BUSY_RETRY }),
            Some(Err(error @ (BodyError::Cut | BodyError::TooSlow))) => {
                return Err(Refusal::Incomplete { reason: format!("{error} after {size} bytes") });
            }
            None => {}
        }
        // Also many small chunks: each costs more memory than its bytes.
        let full = gathered_bytes >= limits::WRITE_BYTES || gathered.len() >= limits::WRITE_CHUNKS;
        let asked = next.as_ref().is_none_or(|chunk| chunk.as_ref().is_ok_and(Bytes::is_empty));
        if full || (asked && gathered_bytes > 0) {
            slow.update(&gathered, gathered_bytes).await?;
            match writer.as_deref_mut() {
                Some(writer) => writer.write(&mut gathered).await?,
                None => gathered.clear(),
            }
            gathered_bytes = 0;
        }
        if next.is_none() {
            break;
        }
    }
    if length.is_some_and(|length| length != size) {
        return Err(Refusal::Incomplete {
            reason: format!("{size} bytes came, {} were announced", length.unwrap_or(0)),
        });
    }
    let (md5, sha256) = slow.finish().await?;
    let digests =
        Digests { crc32c: u32::try_from(crc32c.finalize()).unwrap_or(0), crc64nvme: crc64nvme.finalize(), md5, sha256 };
    metrics::counter!("landfall_received_bytes_total").increment(size);
    verify(declared, &digests)?;
    Ok(Received { size, digests })
}

fn verify(declared: Declared, found: &Digests) -> Result<(), Refusal> {
    fn check<T: AsRef<[u8]>>(algorithm: &'static str, declared: Option<T>, found: Option<T>) -> Result<(), Refusal> {
        match (declared, found) {
            (Some(declared), Some(found)) if declared.as_ref() != found.as_ref() => Err(Refusal::DigestMismatch {
                algorithm,
                declared: hex::encode(declared),
                received: hex::encode(found),
            }),
            _ => Ok(()),
        }
    }
    check("crc32c", declared.crc32c.map(u32::to_be_bytes), Some(found.crc32c.to_be_bytes()))?;
    check("crc64nvme", declared.crc64nvme.map(u64::to_be_bytes), Some(found.crc64nvme.to_be_bytes()))?;
    check("md5", declared.md5, found.md5)?;
    check("sha256", declared.sha256, found.sha256)
}

/// MD5 and SHA-256, off the task that receives, and only where the client declared one. A thread is taken for what was
/// gathered and not for the whole body: the pool's threads are few, and a slow body would keep one from everybody else.
struct SlowHashes {
    idle: Option<Hashers>,
    running: Option<tokio::task::JoinHandle<Hashers>>,
}

/// MD5 and SHA-256.
type SlowDigests = (Option<[u8; 16]>, Option<[u8; 32]>);

struct Hashers {
    md5: Option<Md5>,
    sha256: Option<Sha256>,
}

impl Hashers {
    fn update(&mut self, chunks: &[Bytes]) {
        for chunk in chunks {
            if let Some(md5) = &mut self.md5 {
                md5.update(chunk);
            }
            if let Some(sha256) = &mut self.sha256 {
                sha256.update(chunk);
            }
        }
    }
}

impl SlowHashes {
    fn start(declared: Declared) -> Self {
        let (md5, sha256) = (declared.md5.map(|_| Md5::new()), declared.sha256.map(|_| Sha256::new()));
        let any = md5.is_some() || sha256.is_some();
        Self { idle: any.then_some(Hashers { md5, sha256 }), running: None }
    }

    /// The hashers, when what they were last given is hashed.
    async fn ready(&mut self) -> Result<Option<Hashers>, Refusal> {
        match self.running.take() {
            Some(running) => running.await.map(Some).map_err(|_| Refusal::Internal),
            None => Ok(self.idle.take()),
        }
    }

    async fn update(&mut self, chunks: &[Bytes], bytes: usize) -> Result<(), Refusal> {
        let Some(mut hashers) = self.ready().await? else { return Ok(()) };
        if bytes < HASHED_AT_ONCE_BYTES {
            hashers.update(chunks);
            self.idle = Some(hashers);
        } else {
            let chunks = chunks.to_vec();
            self.running = Some(tokio::task::spawn_blocking(move || {
                hashers.update(&chunks);
                hashers
            }));
        }
        Ok(())
    }

    async fn finish(mut self) -> Result<SlowDigests, Refusal> {
        let hashers = self.ready().await?;
        Ok(hashers.map_or((None, None), |hashers| {
            (hashers.md5.map(|md5| md5.finalize().into()), hashers.sha256.map(|sha256| sha256.finalize().into()))
        }))
    }
}
