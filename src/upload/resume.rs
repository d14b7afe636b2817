//! A resumable session: chunks in order at an offset that the server tells, from one writer at a time.
//!
//! What is recorded, and only that, was told. A request that breaks records what arrived; a newer one makes the older
//! record and stop, and goes on in its segment if it stopped in order. In every other case the epoch rises and a new
//! segment begins at the recorded offset, so that late bytes land where nobody reads.

mod chunk;
mod whole;

use self::chunk::{Receive, too_short};
use self::whole::{Stop, complete, digests_so_far};
use super::pour::verify;
use super::receive::{self, Body};
use crate::engine::Engine;
use crate::limits;
use crate::meta::Upload;
use crate::model::file::{Declared, FileRecord, Version};
use crate::model::ids::{SessionId, TenantId, VersionId};
use crate::model::refusal::Refusal;
use crate::model::session::{Session, SessionState, Strategy};

/// How an upload stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Standing {
    /// More bytes may come.
    Open {
        /// Bytes from the beginning that are durable; never told lower.
        received: u64,
    },
    /// It is complete.
    Done(Box<FileRecord>),
    /// The client cancelled it.
    Cancelled,
    /// It is unknown, expired or forgotten, or its file was deleted.
    Unknown,
    /// It ended before its time, for this reason; nothing of it is left.
    Failed,
}

/// A request that brings bytes, as its headers tell it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Chunk {
    /// The first byte's offset in the file.
    pub first: u64,
    /// The last byte's, where it is told.
    pub last: Option<u64>,
    /// The file's size, where it is told.
    pub total: Option<u64>,
    /// Is it the whole file, or the rest of it, in one request?
    pub whole: bool,
    /// The body's length, where it is told.
    pub length: Option<u64>,
    /// Digests of the whole file that came with it.
    pub declared: Declared,
}

/// A chunk that was let in: the body may be asked for.
#[derive(Debug)]
pub struct Admitted {
    session: SessionId,
    tenant: TenantId,
    chunk: Chunk,
}

impl Admitted {
    /// Whose session it is.
    #[must_use]
    pub const fn tenant(&self) -> &TenantId {
        &self.tenant
    }
}

/// What the doors do with a chunk.
#[derive(Debug)]
pub enum Admission {
    /// Its body is wanted.
    Body(Admitted),
    /// Nothing of its body is needed: this is the answer.
    Answer(Standing),
}

/// How an upload stands. A request that writes to it at the moment is made to record what it has first. An upload whose
/// bytes are all there, and only its completion is missing, is completed.
///
/// # Errors
/// The keepers' own.
pub async fn status(engine: &Engine, id: SessionId, total: Option<u64>) -> Result<Standing, Refusal> {
    engine.seats.ask(id).await;
    let Some(upload) = find(engine, id).await? else { return Ok(Standing::Unknown) };
    let known = upload.session.size.or(total);
    check_total(&upload, total)?;
    if !is_open(engine, &upload.session) {
        engine.seats.close(id).await;
    }
    // What a paused tenant has waits as it is.
    if is_open(engine, &upload.session) && known == Some(upload.progress.received) && !upload.paused {
        let turn = engine.seats.enter(id).await?;
        return complete(engine, turn, upload, &Declared::default()).await;
    }
    standing(engine, upload).await
}

/// Completes an upload whose bytes are all recorded, `total` of them. Digests that are not those of the bytes change
/// nothing: whoever names them may be mistaken.
///
/// # Errors
/// [`Refusal::UploadIncomplete`], [`Refusal::DigestMismatch`], and the keepers' own.
pub async fn conclude(engine: &Engine, id: SessionId, total: u64, declared: &Declared) -> Result<Standing, Refusal> {
    engine.seats.ask(id).await;
    let incomplete = |upload: &Upload| {
        let received = upload.progress.received;
        (received < total).then_some(Refusal::UploadIncomplete { received, expected: Some(total) })
    };
    // Whoever still brings bytes is not disturbed.
    if let Some(upload) = find(engine, id).await?
        && is_open(engine, &upload.session)
        && let Some(refusal) = incomplete(&upload)
    {
        return Err(refusal);
    }
    let turn = engine.seats.enter(id).await?;
    let Some(upload) = find(engine, id).await? else { return Ok(Standing::Unknown) };
    if !is_open(engine, &upload.session) {
        return standing(engine, upload).await;
    }
    if let Some(refusal) = incomplete(&upload) {
        return Err(refusal);
    }
    let received = upload.progress.received;
    if received > total {
        let (declared, received) = (total.to_string(), received.to_string());
        return Err(Refusal::DigestMismatch { algorithm: "size", declared, received });
    }
    verify(declared, &digests_so_far(&upload, declared).await?)?;
    complete(engine, turn, upload, &Declared::default()).await
}

/// The upload as its rows tell it, without asking whoever writes to it. One whose chunks go to the store itself takes none
/// here.
async fn find(engine: &Engine, id: SessionId) -> Result<Option<Upload>, Refusal> {
    let found = engine.meta.upload(id).await?;
    let ours = |session: &Session| session.strategy == Strategy::Resumable && session.direct.is_none();
    Ok(found.filter(|upload| ours(&upload.session)))
}

fn is_open(engine: &Engine, session: &Session) -> bool {
    session.state == SessionState::Open && session.expires > engine.clock.now()
}

async fn standing(engine: &Engine, upload: Upload) -> Result<Standing, Refusal> {
    let session = upload.session;
    Ok(match session.state {
        SessionState::Open if is_open(engine, &session) => Standing::Open { received: upload.progress.received },
        SessionState::Open | SessionState::Expired => Standing::Unknown,
        SessionState::Aborted => Standing::Cancelled,
        SessionState::Failed => Standing::Failed,
        SessionState::Committed => match engine.meta.file_record(&session.tenant, session.file).await? {
            Some(file) => Standing::Done(Box::new(file)),
            None => Standing::Unknown,
        },
    })
}

async fn stands(engine: &Engine, id: SessionId) -> Result<Standing, Refusal> {
    match find(engine, id).await? {
        Some(upload) => standing(engine, upload).await,
        None => Ok(Standing::Unknown),
    }
}

/// A total is the declared one, or the one told before, and never less than what is stored.
fn check_total(upload: &Upload, total: Option<u64>) -> Result<(), Refusal> {
    let Some(total) = total else { return Ok(()) };
    let (size, received) = (upload.session.size, upload.progress.received);
    let reason = match size {
        Some(size) if size != total => format!("the file was declared or told to have {size} bytes"),
        None if total < received => format!("{received} bytes are stored"),
        Some(_) | None => return Ok(()),
    };
    Err(Refusal::malformed(format!("the total can't be {total} bytes: {reason}; nothing was changed")))
}

/// Checks everything that the headers of a chunk tell, before a byte of it is asked for and before anybody is fenced.
///
/// # Errors
/// [`Refusal::TenantPaused`], [`Refusal::Malformed`] for a chunk that can't be, [`Refusal::OutOfSpace`], and the keepers' own. Nothing has changed.
pub async fn admit(engine: &Engine, id: SessionId, chunk: Chunk) -> Result<Admission, Refusal> {
    let admission = admission(engine, id, chunk).await;
    if let Err(refused) = &admission {
        engine.troubles.note(id, refused.to_string(), engine.clock.now());
    }
    admission
}

async fn admission(engine: &Engine, id: SessionId, chunk: Chunk) -> Result<Admission, Refusal> {
    let Some(upload) = find(engine, id).await? else { return Ok(Admission::Answer(Standing::Unknown)) };
    if !is_open(engine, &upload.session) {
        engine.seats.close(id).await;
        return standing(engine, upload).await.map(Admission::Answer);
    }
    if upload.paused {
        return Err(Refusal::TenantPaused);
    }
    check(&upload, &chunk)?;
    let more = chunk.length.unwrap_or(0);
    receive::require_space(engine, more).await?;
    Ok(Admission::Body(Admitted { session: id, tenant: upload.session.tenant, chunk }))
}

fn check(upload: &Upload, chunk: &Chunk) -> Result<(), Refusal> {
    let session = &upload.session;
    let wrong = |reason: String| Err(Refusal::malformed(format!("{reason}; nothing was changed")));
    check_total(upload, chunk.total)?;
    let size = session.size.or(chunk.total);
    let most = size.unwrap_or(session.max_bytes).min(session.max_bytes);
    if let Some(total) = chunk.total
        && total > session.max_bytes
    {
        return wrong(format!("the total of {total} bytes is more than the limit of {} bytes", session.max_bytes));
    }
    if let Some(last) = chunk.last {
        if last < chunk.first {
            return wrong(format!("the range {}-{last} ends before it begins", chunk.first));
        }
        if last >= most {
            return wrong(format!("the range ends at byte {last}, behind the last of {most} bytes"));
        }
        let length = last - chunk.first + 1;
        if let Some(body) = chunk.length
            && body != length
        {
            return wrong(format!("the range has {length} bytes, the body {body}"));
        }
        let ends = chunk.total.is_some_and(|total| total == last + 1);
        if !ends && length < limits::GRANULE_BYTES {
            return Err(too_short(length));
        }
    }
    if let (true, Some(body)) = (chunk.whole, chunk.length) {
        match size {
            Some(size) if chunk.first.saturating_add(body) != size => {
                return wrong(format!(
                    "the body brings the file to {} bytes, {size} were declared",
                    chunk.first + body
                ));
            }
            None if chunk.first.saturating_add(body) > most => {
                return wrong(format!("the body has {body} bytes, more than the limit of {most} bytes"));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Ends an upload at the client's wish; its URL stops at once and its bytes go.
///
/// # Errors
/// [`Refusal::TenantPaused`], and the keepers' own.
pub async fn cancel(engine: &Engine, id: SessionId) -> Result<Standing, Refusal> {
    match find(engine, id).await? {
        None => return Ok(Standing::Unknown),
        Some(upload) if upload.paused && is_open(engine, &upload.session) => return Err(Refusal::TenantPaused),
        Some(_) => {}
    }
    // Whoever writes is asked to stop; one that does not is fenced by the rows.
    let turn = engine.seats.enter(id).await;
    engine.meta.end_session(id, SessionState::Aborted, engine.clock.now()).await?;
    drop(turn);
    engine.work.wake();
    stands(engine, id).await
}

/// Takes the body of a chunk.
///
/// # Errors
/// [`Refusal::Superseded`] when a newer request took over; [`Refusal::Incomplete`] when the connection broke: what arrived
/// is recorded; [`Refusal::Malformed`] when the body's framing is broken, with the same effect, and when the body is not
/// what its headers say or differs from what is stored: nothing has changed; [`Refusal::DigestMismatch`]: the upload is over; the keepers' own.
pub async fn receive(engine: &Engine, admitted: Admitted, body: Body<'_>) -> Result<Standing, Refusal> {
    let id = admitted.session;
    let turn = engine.seats.enter(id).await?;
    // The row is read with the seat in hand: nobody in this process moves it now.
    let Some(upload) = find(engine, id).await? else { return Ok(Standing::Unknown) };
    if !is_open(engine, &upload.session) {
        return standing(engine, upload).await;
    }
    check(&upload, &admitted.chunk)?;
    let received = Receive { engine, turn, upload, chunk: admitted.chunk, body }.run().await;
    match received {
        Ok(standing) => Ok(standing),
        // Fenced, or asked to stop because the session ended: the rows know.
        Err(Stop::Lost | Stop::Refused(Refusal::Superseded)) => match stands(engine, id).await? {
            Standing::Open { .. } => {
                engine.troubles.note(id, Refusal::Superseded.to_string(), engine.clock.now());
                Err(Refusal::Superseded)
            }
            ended => Ok(ended),
        },
        Err(Stop::Refused(refusal)) => {
            engine.troubles.note(id, refusal.to_string(), engine.clock.now());
            Err(refusal)
        }
    }
}

/// What is recorded so far, to be read like a version.
pub(super) fn version_of(upload: &Upload) -> Version {
    let Upload { session, progress, .. } = upload;
    Version {
        id: VersionId(session.id.0),
        tenant: session.tenant.clone(),
        file: session.file,
        size: progress.received,
        digests: progress.crcs.into(),
        committed: session.created,
        pieces: progress.pieces.clone(),
    }
}
