//! Receiving bytes: from a body into a segment, with digests on the way.

use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};

use super::access::{self, Grant};
use super::pour::{Hashers, Pour, verify};
use super::{commit, open};
use crate::blob::{Extent, SegmentWriter};
use crate::clock::random_bytes;
use crate::engine::Engine;
use crate::limits;
use crate::meta::FileInfo;
use crate::model::file::{Declared, Digests, FileRecord, Piece, Version};
use crate::model::ids::{FileId, SegmentId, SessionId, TenantId, VersionId};
use crate::model::refusal::{Refusal, TicketRefusal};
use crate::model::session::{Declaration, Hashes, Session, SessionState, Strategy};

/// The wire of bytes that the server stores itself.
pub const INTERNAL: &str = "internal";

/// What ended a body before its end.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BodyError {
    /// The connection was cut.
    #[error("the connection was cut")]
    Cut,
    /// Where it ends can't be told: sent again as it is, it would break again.
    #[error("the body's framing (chunked transfer encoding) is broken")]
    Garbled,
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

/// A session that may take a body now.
#[derive(Clone, Debug)]
pub struct Admitted {
    session: Session,
    /// The file has been used: the body is only compared with this.
    used: Option<FileInfo>,
    /// May it only be the first body?
    only_new: bool,
}

impl Admitted {
    /// Whose upload it is.
    #[must_use]
    pub const fn tenant(&self) -> &TenantId {
        &self.session.tenant
    }

    /// Did an earlier body make a version?
    fn holds_content(&self) -> bool {
        self.session.state == SessionState::Committed
    }

    /// Lets the body in only as the first one.
    ///
    /// # Errors
    /// [`Refusal::ConditionFailed`] when there is content already.
    pub fn only_new(self, header: &'static str) -> Result<Self, Refusal> {
        if self.holds_content() {
            Err(Refusal::ConditionFailed { header })
        } else {
            Ok(Self { only_new: true, ..self })
        }
    }
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
    let admitted = admitted(engine, tenant, session, length).await;
    noted(engine, session, admitted)
}

/// Remembers what went wrong with an upload, for whoever asks about it.
pub(super) fn noted<T>(engine: &Engine, session: SessionId, outcome: Result<T, Refusal>) -> Result<T, Refusal> {
    if let Err(refused) = &outcome {
        let what = match refused {
            Refusal::Ticket(ticket) => ticket.detail.clone(),
            other => other.to_string(),
        };
        engine.troubles.note(session, what, engine.clock.now());
    }
    outcome
}

/// A session that is remembered and whose time is not over, whoever's it is: for whoever holds a ticket for it.
///
/// # Errors
/// The keepers' own.
pub(super) async fn live(engine: &Engine, id: SessionId) -> Result<Option<Session>, Refusal> {
    let found = engine.meta.upload(id).await?.map(|upload| upload.session);
    Ok(found.filter(|session| session.expires > engine.clock.now()))
}

/// The ticket holds, and what it leads to is over.
pub(super) fn over() -> Refusal {
    Refusal::NotFound { what: "the upload" }
}

/// As [`admit`], for a plain ticket to a whole file.
///
/// # Errors
/// [`Refusal::NotFound`] when the session ended or its file was deleted, [`Refusal::TenantPaused`],
/// [`Refusal::TooLarge`], [`Refusal::OutOfSpace`].
pub async fn admit_whole(engine: &Engine, id: SessionId, length: Option<u64>) -> Result<Admitted, Refusal> {
    let session = live(engine, id).await?.filter(|session| session.strategy == Strategy::Single);
    let Some(session) = session else { return Err(over()) };
    access::not_paused(engine, &session.tenant).await?;
    admit(engine, &session.tenant, id, length).await.map_err(ended)
}

/// Who holds a plain ticket may know that what it leads to is over.
fn ended(refused: Refusal) -> Refusal {
    if matches!(refused, Refusal::Ticket(_)) { over() } else { refused }
}

/// As [`single`], for a plain ticket.
///
/// # Errors
/// As [`single`], and [`Refusal::NotFound`] when the session ended meanwhile.
pub async fn whole(
    engine: &Engine,
    admitted: Admitted,
    body: Body<'_>,
    length: Option<u64>,
    declared: Declared,
) -> Result<Receipt, Refusal> {
    single(engine, admitted, body, length, declared).await.map_err(ended)
}

/// What the session's last body got, if one was committed.
///
/// # Errors
/// The keepers' own.
pub async fn before(engine: &Engine, admitted: &Admitted) -> Result<Option<Receipt>, Refusal> {
    let found = engine.meta.upload(admitted.session.id).await?.and_then(|upload| upload.receipt);
    Ok(found.map(|receipt| Receipt { size: receipt.size, digests: receipt.digests }))
}

async fn admitted(
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
        SessionState::Committed => match engine.meta.file(tenant, session.file).await? {
            None => return Err(refused("session", "its file was deleted".into())),
            file => file.filter(|file| file.used.is_some()),
        },
        SessionState::Aborted | SessionState::Expired | SessionState::Failed => {
            return Err(refused("session", format!("the session is {}", session.state.name())));
        }
    };
    if length.is_some_and(|length| length > session.max_bytes) {
        return Err(too_large(&session));
    }
    if let (Some(length), Some(size)) = (length, session.size)
        && length != size
    {
        return Err(Refusal::invalid(
            "Content-Length",
            format!("is {length}, the upload was declared with {size} bytes"),
        ));
    }
    require_space(engine, length.unwrap_or(0)).await?;
    Ok(Admitted { session, used, only_new: false })
}

/// Is there room for so many bytes more on the backend?
///
/// # Errors
/// [`Refusal::OutOfSpace`] before the disk is full.
pub(super) async fn require_space(engine: &Engine, bytes: u64) -> Result<(), Refusal> {
    if let Some(space) = engine.blobs.space().await?
        && space.free < engine.policy.free_space_min.saturating_add(bytes)
    {
        tracing::warn!(free = space.free, needed = bytes, "refusing an upload: not enough free space");
        return Err(Refusal::OutOfSpace);
    }
    Ok(())
}

pub(super) fn too_large(session: &Session) -> Refusal {
    let limit = session.max_bytes;
    match session.declaration {
        Some(_) => Refusal::TooLarge { what: "a file in one PUT", limit, remedy: "send it in parts or chunks" },
        None => Refusal::TooLarge {
            what: "a container",
            limit,
            remedy: "send less, or raise `container_max` in the configuration",
        },
    }
}

/// Takes the whole body of a single PUT and commits it as a version.
///
/// # Errors
/// Nothing is stored with any of them: [`Refusal::Incomplete`], [`Refusal::TooLarge`], [`Refusal::DigestMismatch`],
/// [`Refusal::Ticket`] when the session ended meanwhile or the file was used, [`Refusal::ConditionFailed`] when another
/// body was faster and this one wants to be the first, and the keepers' own.
pub async fn single(
    engine: &Engine,
    admitted: Admitted,
    body: Body<'_>,
    length: Option<u64>,
    declared: Declared,
) -> Result<Receipt, Refusal> {
    let id = admitted.session.id;
    let received = take(engine, admitted, body, length, declared).await;
    noted(engine, id, received)
}

async fn take(
    engine: &Engine,
    admitted: Admitted,
    body: Body<'_>,
    length: Option<u64>,
    declared: Declared,
) -> Result<Receipt, Refusal> {
    let Admitted { session, used, only_new } = admitted;
    let length = length.or(session.size);
    let mut expected =
        Expected { too_large: too_large(&session), ..Expected::new(session.max_bytes, length, declared) };
    if let Some(used) = used {
        let (_, received) = pour(engine, None, body, &expected).await?;
        return if received.size == used.size && received.digests.same_bytes(&used.digests) {
            Ok(received)
        } else {
            Err(refused("used", "the container has been used; other bytes can't replace what was pushed".into()))
        };
    }
    if let Some(declaration) = &session.declaration {
        let both = [declared, declaration.digests];
        expected.hashes = expected.hashes.and(declaration.hashes).and(Hashes::for_checking(&declaration.digests));
        expected.declared = both.into_iter().rfold(Declared::default(), |all, one| Declared {
            md5: one.md5.or(all.md5),
            sha256: one.sha256.or(all.sha256),
            crc32c: one.crc32c.or(all.crc32c),
            crc64nvme: one.crc64nvme.or(all.crc64nvme),
        });
    }
    let segment = new_segment(&session);
    let writer = engine.blobs.create(segment, length).await?;
    let (writer, receipt) = pour(engine, Some(writer), body, &expected).await?;
    if let Some(declaration) = &session.declaration
        && let Err(refusal) = verify(&declaration.digests, &receipt.digests)
    {
        if let Some(writer) = writer {
            writer.discard().await;
        }
        return Err(refusal);
    }
    let extent = finish(engine, segment, writer).await?;
    let piece = Piece { segment, length: extent.length, digests: receipt.digests.checksums(), backend: extent.backend };
    commit::single(engine, &session, piece, receipt, only_new).await
}

/// Makes a segment's bytes and name durable.
///
/// # Errors
/// The keepers' own; nothing is left of the segment then.
pub(super) async fn finish(
    engine: &Engine,
    segment: SegmentId,
    writer: Option<Box<dyn SegmentWriter>>,
) -> Result<Extent, Refusal> {
    let Some(writer) = writer else { return Err(Refusal::Internal) };
    match writer.finish().await {
        Ok(extent) => Ok(extent),
        Err(error) => {
            // A sync that failed is never repeated: nothing will ever name it.
            commit::discard(engine, segment, &engine.blobs.place().prefix()).await;
            Err(error.into())
        }
    }
}

/// A name for the next segment of a session.
pub(super) fn new_segment(session: &Session) -> SegmentId {
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

/// A file that comes whole with the call that names it.
#[derive(Clone, Debug)]
pub struct Enclosed<'a> {
    /// The dialect's name.
    pub wire: &'a str,
    /// Most bytes it may have.
    pub max_bytes: u64,
    /// What the client said about it.
    pub declaration: Declaration,
}

/// Stores a file that comes with the call that names it. It is committed and not registered: nobody sees it, and it goes
/// after [`limits::ENCLOSED_LIFE`] unless it is registered.
///
/// # Errors
/// Nothing is stored with any of them: as [`single`].
pub async fn enclosed(
    engine: &Engine,
    grant: &Grant,
    ask: Enclosed<'_>,
    body: Body<'_>,
) -> Result<FileRecord, Refusal> {
    require_space(engine, 0).await?;
    let mut declaration = ask.declaration;
    // As for a resumable upload: nobody knows yet who will want to compare.
    declaration.hashes = declaration.hashes.and(Hashes { md5: engine.policy.keep_md5, sha256: false });
    let session = open::session(engine, grant, ask.wire, ask.max_bytes, limits::ENCLOSED_LIFE);
    let file = open::NewFile { size: None, registers: false, declaration, next_of: None };
    let session = open::with_file(session, file, Strategy::Single);
    open::record(engine, vec![session.clone()]).await?;
    let (id, file) = (session.id, session.file);
    let stored =
        single(engine, Admitted { session, used: None, only_new: false }, body, None, Declared::default()).await;
    if let Err(refusal) = stored {
        // Nobody can send these bytes again: what was refused leaves nothing open.
        engine.meta.end_session(id, SessionState::Aborted, engine.clock.now()).await?;
        return Err(refusal);
    }
    engine.meta.file_record(grant.tenant(), file).await?.ok_or(Refusal::Internal)
}

/// Stores bytes of the server's own on a tenant's behalf, durably; they go after `life` unless something holds them.
///
/// # Errors
/// The keepers' own; [`Refusal::Incomplete`] when the stream ends with an error.
pub async fn store(engine: &Engine, tenant: &TenantId, body: Body<'_>, life: Duration) -> Result<Stored, Refusal> {
    let grant = Grant::internal(tenant.clone());
    let session = open::session(engine, &grant, INTERNAL, limits::CONTAINER_MAX_BYTES, life);
    open::record(engine, vec![session.clone()]).await?;
    match store_in(engine, &session, body).await {
        Ok(version) => Ok(Stored { file: session.file, version: version.id, size: version.size }),
        Err(refusal) => {
            // Nobody will send these bytes again: what was refused leaves nothing open.
            engine.meta.end_session(session.id, SessionState::Aborted, engine.clock.now()).await?;
            Err(refusal)
        }
    }
}

async fn store_in(engine: &Engine, session: &Session, body: Body<'_>) -> Result<Version, Refusal> {
    let segment = new_segment(session);
    let writer = engine.blobs.create(segment, None).await?;
    let expected = Expected::new(session.max_bytes, None, Declared::default());
    let (writer, received) = pour(engine, Some(writer), body, &expected).await?;
    let extent = finish(engine, segment, writer).await?;
    let piece = Piece { segment, length: extent.length, digests: received.digests, backend: extent.backend };
    commit::internal(engine, session, piece, received.digests).await
}

/// Moves a body into a segment (or nowhere). Nothing is left of one that is refused.
pub(super) async fn pour(
    engine: &Engine,
    writer: Option<Box<dyn SegmentWriter>>,
    body: Body<'_>,
    expected: &Expected,
) -> Result<(Option<Box<dyn SegmentWriter>>, Receipt), Refusal> {
    let mut pour = Pour::new(writer, Hashers::start(expected.hashes), &engine.receiving);
    let received = pour_all(&mut pour, body, expected).await;
    let writer = pour.take_writer();
    match received {
        Ok(receipt) => Ok((writer, receipt)),
        Err(refusal) => {
            if let Some(writer) = writer {
                writer.discard().await;
            }
            Err(refusal)
        }
    }
}

/// What a body must be.
#[derive(Clone, Debug)]
pub(super) struct Expected {
    pub(super) limit: u64,
    /// What a longer one is told.
    pub(super) too_large: Refusal,
    pub(super) length: Option<u64>,
    pub(super) declared: Declared,
    pub(super) hashes: Hashes,
}

impl Expected {
    pub(super) fn new(limit: u64, length: Option<u64>, declared: Declared) -> Self {
        let too_large = Refusal::TooLarge { what: "a body", limit, remedy: "send less" };
        Self { limit, too_large, length, hashes: Hashes::for_checking(&declared), declared }
    }
}

async fn pour_all(pour: &mut Pour<'_>, mut body: Body<'_>, expected: &Expected) -> Result<Receipt, Refusal> {
    while let Some(chunk) = body.next().await {
        let size = pour.taken();
        match chunk {
            Ok(chunk) if size.saturating_add(u64::try_from(chunk.len()).unwrap_or(u64::MAX)) > expected.limit => {
                return Err(expected.too_large.clone());
            }
            Ok(chunk) => pour.take(chunk).await?,
            Err(BodyError::TooLong) => return Err(expected.too_large.clone()),
            Err(BodyError::Stopping) => return Err(Refusal::Unavailable),
            Err(BodyError::Busy) => return Err(Refusal::Busy { retry_after: limits::BUSY_RETRY }),
            Err(error @ (BodyError::Cut | BodyError::Garbled | BodyError::TooSlow)) => {
                return Err(Refusal::Incomplete { reason: format!("{error} after {size} bytes") });
            }
        }
    }
    pour.flush().await?;
    let size = pour.taken();
    if let Some(length) = expected.length.filter(|length| *length != size) {
        return Err(Refusal::Incomplete { reason: format!("{size} bytes came, {length} were announced") });
    }
    let slow = pour.finish_hashes().await?;
    let digests = Digests { md5: slow.md5, sha256: slow.sha256, ..pour.crcs().into() };
    metrics::counter!("landfall_received_bytes_total").increment(size);
    verify(&expected.declared, &digests)?;
    Ok(Receipt { size, digests })
}
