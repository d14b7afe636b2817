//! The end of a resumable upload: its bytes are all there, are checked against everything that was declared, and become
//! a version.

use super::{Standing, stands};
use crate::engine::{Engine, Turn};
use crate::faults;
use crate::meta::Upload;
use crate::model::file::{Crcs, Declared, Digests, FileRecord, Piece};
use crate::model::refusal::Refusal;
use crate::model::session::{Hashes, Progress, Session, SessionState};
use crate::upload::commit;
use crate::upload::pour::{Hashers, SlowDigests, States, verify};

/// Why a chunk did not come to its end.
pub(super) enum Stop {
    Refused(Refusal),
    /// The rows do not take from this writer any more.
    Lost,
}

impl<E: Into<Refusal>> From<E> for Stop {
    fn from(error: E) -> Self {
        Self::Refused(error.into())
    }
}

/// Completes an upload whose bytes are all recorded.
pub(super) async fn complete(
    engine: &Engine,
    mut turn: Turn,
    upload: Upload,
    declared: &Declared,
) -> Result<Standing, Refusal> {
    let id = upload.session.id;
    match finish(engine, &mut turn, upload, declared).await {
        Ok(standing) => Ok(standing),
        Err(Stop::Lost) => stands(engine, id).await,
        Err(Stop::Refused(refusal)) => Err(refusal),
    }
}

pub(super) async fn finish(
    engine: &Engine,
    turn: &mut Turn,
    upload: Upload,
    declared: &Declared,
) -> Result<Standing, Stop> {
    let mut upload = upload;
    match turn.unpark() {
        Some(parked) if turn.in_order() && parked.goes_on(&upload.session, &upload.progress) => {
            let extent = parked.writer.finish().await?;
            if let Some(last) = upload.progress.pieces.last_mut() {
                last.backend = extent.backend;
            }
        }
        // Sealing what another process still writes would cut off what it records: it is fenced first.
        _ if !engine.blobs.reads_unfinished() && !upload.progress.pieces.is_empty() => {
            let taken = engine.meta.take_over(upload.session.id, engine.clock.now()).await?.ok_or(Stop::Lost)?;
            faults::point("resumable.taken_over");
            if taken.progress.received != upload.progress.received {
                return Err(Stop::Lost);
            }
            upload = taken;
        }
        _ => {}
    }
    let digests = digests_so_far(&upload, declared).await?;
    let Upload { session, progress, .. } = upload;
    settle(engine, &session, progress.received, progress.pieces, digests, declared).await
}

/// Digests of the recorded bytes: those that were kept as they came.
pub(super) async fn digests_so_far(upload: &Upload, declared: &Declared) -> Result<Digests, Refusal> {
    let Upload { session, progress, .. } = upload;
    let kept = session.declaration.as_ref().map_or(Hashes::default(), |d| d.hashes);
    let mut hashers = match progress.received {
        0 => Hashers::start(kept.and(Hashes::for_checking(declared))),
        _ => Hashers::resume(&states_of(progress)),
    };
    Ok(digests_of(progress.crcs, hashers.finish().await?))
}

/// Checks the whole against everything that was declared, and commits it. Bytes that can't be what was meant end the
/// upload: an offset once told does not go down.
pub(super) async fn settle(
    engine: &Engine,
    session: &Session,
    from: u64,
    pieces: Vec<Piece>,
    digests: Digests,
    declared: &Declared,
) -> Result<Standing, Stop> {
    let at_open = session.declaration.as_ref().map_or(Declared::default(), |d| d.digests);
    if let Err(refusal) = verify(&at_open, &digests).and_then(|()| verify(declared, &digests)) {
        engine.meta.end_session(session.id, SessionState::Failed, engine.clock.now()).await?;
        engine.work.wake();
        return Err(refusal.into());
    }
    let version = commit::resumable(engine, session, from, pieces, digests).await?.ok_or(Stop::Lost)?;
    let declaration = session.declaration.clone().unwrap_or_default();
    Ok(Standing::Done(Box::new(FileRecord {
        id: session.file,
        tenant: session.tenant.clone(),
        key: session.key,
        stored_as: declaration.name.clone(),
        name: declaration.name,
        mime_type: declaration.mime_type,
        path: declaration.path,
        metadata: declaration.metadata,
        version: version.id,
        size: version.size,
        digests: version.digests,
        committed: version.committed,
        registered: session.registers.then_some(version.committed),
    })))
}

pub(super) fn digests_of(crcs: Crcs, slow: SlowDigests) -> Digests {
    Digests { md5: slow.md5, sha256: slow.sha256, ..crcs.into() }
}

pub(super) fn states_of(progress: &Progress) -> States {
    States { md5: progress.md5_state.clone(), sha256: progress.sha256_state.clone() }
}
