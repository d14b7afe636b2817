//! Files in numbered parts, in any order and many at once: each body is a segment of its own, and completion is one
//! transaction over their rows that copies, renames and syncs nothing.

use super::access::{self, Grant};
use super::receive::{self, Body, Expected, Receipt};
use super::track::Claim;
use super::{commit, direct};
use crate::clock::ordered_uuid;
use crate::engine::Engine;
use crate::faults;
use crate::limits;
use crate::meta::{CommitParts, NewPart, PartRecorded, PartsCommitted};
use crate::model::file::{self, Declared, Piece};
use crate::model::ids::{FileId, SessionId, TenantId, VersionId};
use crate::model::refusal::Refusal;
use crate::model::session::{Lacking, Numbers, Part, Session, SessionState, Strategy};

/// A part whose body is wanted.
#[derive(Clone, Debug)]
pub struct Admitted {
    session: Session,
    number: u32,
    largest: u64,
}

impl Admitted {
    /// Whose upload it is.
    #[must_use]
    pub const fn tenant(&self) -> &TenantId {
        &self.session.tenant
    }
}

fn too_large(limit: u64) -> Refusal {
    Refusal::TooLarge { what: "a part", limit, remedy: "send more and smaller parts" }
}

/// Checks, before the first byte is read, whether a session takes a part of this length.
///
/// # Errors
/// [`Refusal::NotFound`] when the session is not open any more, [`Refusal::TenantPaused`], [`Refusal::TooLarge`],
/// [`Refusal::OutOfSpace`].
pub async fn admit(engine: &Engine, id: SessionId, number: u32, length: Option<u64>) -> Result<Admitted, Refusal> {
    let Some(session) = receive::live(engine, id).await? else { return Err(receive::over()) };
    let wanted = session.parts.filter(|parts| (1..=parts.count).contains(&number));
    let (SessionState::Open, Some(parts)) = (session.state, wanted) else { return Err(receive::over()) };
    access::not_paused(engine, &session.tenant).await?;
    let largest = parts.largest.min(session.max_bytes);
    receive::noted(engine, id, room(engine, largest, length).await)?;
    Ok(Admitted { session, number, largest })
}

async fn room(engine: &Engine, largest: u64, length: Option<u64>) -> Result<(), Refusal> {
    match length.filter(|length| *length > largest) {
        Some(_) => Err(too_large(largest)),
        None => receive::require_space(engine, length.unwrap_or(0)).await,
    }
}

/// What the part's number got before, if it did.
///
/// # Errors
/// The keepers' own.
pub async fn before(engine: &Engine, admitted: &Admitted) -> Result<Option<Receipt>, Refusal> {
    let found = engine.meta.part(admitted.session.id, admitted.number).await?;
    Ok(found.map(|Part { piece, .. }| Receipt { size: piece.length, digests: piece.digests }))
}

/// Takes the whole body of a part. It counts from the moment that this returns, in place of what its number had; of
/// several at once the last one to be recorded counts.
///
/// # Errors
/// Nothing changed with any of them: [`Refusal::Incomplete`], [`Refusal::TooLarge`], [`Refusal::DigestMismatch`],
/// [`Refusal::Quota`], [`Refusal::NotFound`] when the session ended meanwhile, and the keepers' own.
pub async fn receive(
    engine: &Engine,
    admitted: Admitted,
    body: Body<'_>,
    length: Option<u64>,
    declared: Declared,
) -> Result<Receipt, Refusal> {
    let id = admitted.session.id;
    receive::noted(engine, id, take(engine, admitted, body, length, declared).await)
}

async fn take(
    engine: &Engine,
    admitted: Admitted,
    body: Body<'_>,
    length: Option<u64>,
    declared: Declared,
) -> Result<Receipt, Refusal> {
    let Admitted { session, number, largest } = admitted;
    let expected = Expected { too_large: too_large(largest), ..Expected::new(largest, length, declared) };
    let segment = receive::new_segment(&session);
    let writer = engine.blobs.create(segment, length).await?;
    let (writer, receipt) = receive::pour(engine, Some(writer), body, &expected).await?;
    let extent = receive::finish(engine, segment, writer).await?;
    faults::point("part.written");
    let backend = extent.backend.clone();
    let piece = Piece { segment, length: extent.length, digests: receipt.digests.checksums(), backend: extent.backend };
    let part = Part { number, piece };
    let new = NewPart { session: session.id, epoch: session.epoch, part, now: engine.clock.now() };
    let refusal = match engine.meta.record_part(new).await? {
        PartRecorded::Recorded => {
            faults::point("part.recorded");
            return Ok(receipt);
        }
        PartRecorded::Closed => receive::over(),
        PartRecorded::TooLarge(limit) => {
            Refusal::TooLarge { what: "a file", limit, remedy: "its parts together have more bytes" }
        }
        PartRecorded::OverQuota(over) => over.into(),
    };
    commit::discard(engine, segment, &backend).await;
    Err(refusal)
}

/// Makes a version of the session's parts, all of them in the order of their numbers. Repeated, it gives the first
/// receipt; while it is refused the session stays open, and parts may still come.
///
/// # Errors
/// [`Refusal::PartsMissing`], [`Refusal::PartsTooSmall`], [`Refusal::DigestMismatch`], [`Refusal::Invalid`] for a digest
/// that is no CRC, [`Refusal::Conflict`] when it is committed with other values than claimed, [`Refusal::NotFound`] for
/// what is no multipart session of the tenant's, [`Refusal::Gone`] for one that ended, [`Refusal::Quota`].
pub async fn complete(
    engine: &Engine,
    grant: &Grant,
    id: SessionId,
    claim: Claim,
) -> Result<(FileId, file::Receipt), Refusal> {
    let session = engine.meta.session(grant.tenant(), id).await?;
    let Some(session) = session.filter(|session| session.strategy == Strategy::Multipart) else {
        return Err(Refusal::NotFound { what: "the upload" });
    };
    only_crcs(&claim.digests)?;
    if let (Some(_), Some(parts)) = (&session.direct, session.parts) {
        return receive::noted(engine, id, direct::join(engine, &session, parts, claim).await);
    }
    let now = engine.clock.now();
    let ask = CommitParts {
        session: id,
        version: VersionId(ordered_uuid(now)),
        size: claim.size,
        digests: claim.digests,
        now,
        keep_replaced: limits::DOWNLOAD_MAX,
    };
    match engine.meta.commit_parts(ask).await? {
        PartsCommitted::New(receipt) => {
            faults::point("parts.committed");
            engine.work.wake();
            Ok((session.file, receipt))
        }
        PartsCommitted::Before(receipt) => {
            claim.agrees(&receipt)?;
            Ok((session.file, receipt))
        }
        PartsCommitted::Lacking(Lacking::Missing(missing), received) => {
            Err(Refusal::PartsMissing { missing, received })
        }
        PartsCommitted::Lacking(Lacking::TooSmall(parts), _) => {
            let smallest = session.parts.map_or(0, |parts| parts.smallest);
            Err(Refusal::PartsTooSmall { parts, smallest })
        }
        PartsCommitted::Differs { what, declared, found } => {
            Err(Refusal::DigestMismatch { algorithm: what, declared, received: found })
        }
        PartsCommitted::Closed => Err(super::track::ended(engine, grant.tenant(), id).await?),
        PartsCommitted::OverQuota(over) => Err(over.into()),
    }
}

/// Of a file in parts only CRCs are known: those of its parts combine, and anything else would need a second read.
///
/// # Errors
/// [`Refusal::Invalid`] for any other digest.
pub fn only_crcs(declared: &Declared) -> Result<(), Refusal> {
    let other = match (declared.md5, declared.sha256) {
        (None, None) => return Ok(()),
        (Some(_), _) => "digests.md5",
        (None, Some(_)) => "digests.sha256",
    };
    Err(Refusal::invalid(other, "can't be checked for a file in parts: name its crc32c or crc64nvme"))
}

/// Which parts of a session have not come, none for what does not come in parts; and how many bytes have, where the store
/// had to be asked.
///
/// # Errors
/// The keepers' own.
pub async fn missing(engine: &Engine, session: &Session) -> Result<(Numbers, Option<u64>), Refusal> {
    let Some(parts) = session.parts.filter(|_| session.state == SessionState::Open) else {
        return Ok((Numbers::default(), None));
    };
    if session.direct.is_some() {
        let (missing, received) = direct::missing(engine, session, parts).await?;
        return Ok((missing, Some(received)));
    }
    let present = engine.meta.parts(session.id).await?;
    Ok((parts.missing(present.iter().map(|part| part.number)), None))
}
