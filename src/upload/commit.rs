//! Commit: one transaction after which a version exists.

use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt};

use super::receive::Receipt;
use crate::clock::ordered_uuid;
use crate::engine::Engine;
use crate::faults;
use crate::limits;
use crate::meta::{Committed, NewVersion, Over};
use crate::model::file::{Digests, Piece, Version};
use crate::model::ids::{SegmentId, VersionId};
use crate::model::refusal::{Refusal, TicketRefusal};
use crate::model::session::{Session, SessionState};

/// Commits the one segment of a single PUT. Equal bytes repeat the old answer, other bytes replace them until the
/// file is used; with `only_new` nothing is replaced.
///
/// # Errors
/// [`Refusal::Ticket`] when the session ended while the body came, or the file was used with other bytes;
/// [`Refusal::ConditionFailed`] with `only_new` when there is content already.
pub(super) async fn single(
    engine: &Engine,
    session: &Session,
    piece: Piece,
    receipt: Receipt,
    only_new: bool,
) -> Result<Receipt, Refusal> {
    let (segment, backend) = (piece.segment, piece.backend.clone());
    let digests = receipt.digests;
    let over = if only_new { Over::Nothing } else { Over::Anything };
    let version = NewVersion { over, ..version_of(engine, session, piece, digests) };
    let ticket = |rule, detail: &str| Some(Refusal::Ticket(TicketRefusal { rule, detail: detail.into() }));
    let refusal = match engine.meta.commit(version).await? {
        Committed::New(_) => {
            faults::point("single.committed");
            engine.work.wake();
            return Ok(receipt);
        }
        Committed::Same(_) | Committed::SameAsUsed { .. } => None,
        Committed::Exists => Some(Refusal::ConditionFailed { header: "If-None-Match" }),
        Committed::Used => {
            ticket("used", "the container was used while the body came; other bytes can't replace what was pushed")
        }
        Committed::Closed if session.state == SessionState::Committed => {
            ticket("used", "the upload is complete; other bytes can't replace its content")
        }
        Committed::Closed => ticket("session", "the session ended while the body came"),
        Committed::OverQuota(over) => Some(over.into()),
    };
    discard(engine, segment, &backend).await;
    refusal.map_or(Ok(receipt), Err)
}

/// Deletes a segment that no row names, as an answer has said. Should it fail, the sweeper takes it.
pub(super) async fn discard(engine: &Engine, segment: SegmentId, backend: &str) {
    if let Err(error) = engine.blobs.delete(segment, backend).await {
        tracing::warn!(%error, "a segment that is not needed could not be deleted");
    }
}

/// Commits bytes that the server stored itself.
///
/// # Errors
/// The keepers' own; [`Refusal::Unavailable`] when the session ended meanwhile.
pub(super) async fn internal(
    engine: &Engine,
    session: &Session,
    piece: Piece,
    digests: Digests,
) -> Result<Version, Refusal> {
    match engine.meta.commit(version_of(engine, session, piece, digests)).await? {
        Committed::New(version) | Committed::Same(version) => Ok(version),
        Committed::OverQuota(over) => Err(over.into()),
        Committed::SameAsUsed { .. } | Committed::Used | Committed::Exists | Committed::Closed => {
            Err(Refusal::Unavailable)
        }
    }
}

/// Commits a resumable session whose last byte is durable. `from` is the offset that its row still shows. Pieces that are
/// not finished are of epochs before the session's. `None` when the session ended, or somebody else writes to it.
///
/// # Errors
/// [`Refusal::Quota`], and the keepers' own.
pub(super) async fn resumable(
    engine: &Engine,
    session: &Session,
    from: u64,
    pieces: Vec<Piece>,
    digests: Digests,
) -> Result<Option<Version>, Refusal> {
    let pieces = sealed(engine, pieces).await?;
    let now = engine.clock.now();
    let new = NewVersion {
        session: session.id,
        epoch: session.epoch,
        from,
        version: VersionId(ordered_uuid(now)),
        size: pieces.iter().map(|piece| piece.length).sum(),
        pieces,
        digests,
        now,
        keep_replaced: limits::DOWNLOAD_MAX,
        over: Over::Anything,
    };
    match engine.meta.commit(new).await? {
        Committed::New(version) => {
            faults::point("resumable.committed");
            if session.declaration.as_ref().is_some_and(|declaration| declaration.store.is_some()) {
                engine.work.wake();
            }
            Ok(Some(version))
        }
        Committed::Same(version) => Ok(Some(version)),
        Committed::OverQuota(over) => Err(over.into()),
        Committed::SameAsUsed { .. } | Committed::Used | Committed::Exists | Committed::Closed => Ok(None),
    }
}

/// Finishes the segments that their writers left, where what is not finished can't be read. Every piece but those that
/// the caller finished itself is of an epoch before the caller's, so that nobody can add to it any more.
async fn sealed(engine: &Engine, pieces: Vec<Piece>) -> Result<Vec<Piece>, Refusal> {
    if engine.blobs.reads_unfinished() {
        return Ok(pieces);
    }
    let seal = |piece: Piece| async move {
        let backend = engine.blobs.seal(piece.segment, &piece.backend, piece.length).await?;
        Ok(Piece { backend, ..piece })
    };
    futures_util::stream::iter(pieces).map(seal).buffered(limits::SEALS_AT_ONCE).try_collect().await
}

/// The version of one piece that a session makes.
pub(super) fn version_of(engine: &Engine, session: &Session, piece: Piece, digests: Digests) -> NewVersion {
    let now = engine.clock.now();
    NewVersion {
        session: session.id,
        epoch: session.epoch,
        from: 0,
        version: VersionId(ordered_uuid(now)),
        size: piece.length,
        pieces: vec![piece],
        digests,
        now,
        // A container can't be downloaded before it is used: nobody reads replaced bytes.
        keep_replaced: if session.declaration.is_some() { limits::DOWNLOAD_MAX } else { Duration::ZERO },
        over: Over::Anything,
    }
}
