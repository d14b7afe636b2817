//! A resumable session: chunks in order at an offset that the server tells, from one writer at a time.
//!
//! What is recorded, and only that, was told. A request that breaks records what arrived; a newer one makes the older
//! record and stop, and goes on in its segment if it stopped in order. In every other case the epoch rises and a new
//! segment begins at the recorded offset, so that late bytes land where nobody reads.

use bytes::Bytes;
use futures_util::StreamExt;

use super::commit;
use super::pour::{Hashers, Mark, Pour, SlowDigests, States, verify};
use super::read::VersionReader;
use super::receive::{self, Body, BodyError};
use crate::blob::SegmentWriter;
use crate::engine::{Called, Engine, Parked, Turn};
use crate::faults;
use crate::limits;
use crate::meta::{Advance, Advanced, Upload};
use crate::model::file::{Crcs, Declared, Digests, FileRecord, Piece, RunningCrcs, Version};
use crate::model::ids::{SegmentId, SessionId, TenantId, VersionId};
use crate::model::refusal::Refusal;
use crate::model::session::{Hashes, Progress, Session, SessionState, Strategy};

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

/// The upload as its rows tell it, without asking whoever writes to it.
async fn find(engine: &Engine, id: SessionId) -> Result<Option<Upload>, Refusal> {
    let found = engine.meta.upload(id).await?;
    Ok(found.filter(|upload| upload.session.strategy == Strategy::Resumable))
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

fn too_short(length: u64) -> Refusal {
    Refusal::malformed(format!(
        "a chunk that is not the last must have a multiple of {} bytes, at least one; this one has {length}. Send larger \
         chunks; nothing was changed",
        limits::GRANULE_BYTES
    ))
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
/// is recorded; [`Refusal::Malformed`] when the body is not what its headers say or differs from what is stored: nothing
/// has changed; [`Refusal::DigestMismatch`]: the upload is over; the keepers' own.
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
        // Fenced, or ended meanwhile: the rows know.
        Err(Stop::Lost) => match stands(engine, id).await? {
            Standing::Open { .. } => Err(Refusal::Superseded),
            ended => Ok(ended),
        },
        Err(Stop::Refused(refusal)) => {
            engine.troubles.note(id, refusal.to_string(), engine.clock.now());
            Err(refusal)
        }
    }
}

/// Why a chunk did not come to its end.
enum Stop {
    Refused(Refusal),
    /// The rows do not take from this writer any more.
    Lost,
}

impl<E: Into<Refusal>> From<E> for Stop {
    fn from(error: E) -> Self {
        Self::Refused(error.into())
    }
}

/// One chunk's way.
struct Receive<'a> {
    engine: &'a Engine,
    turn: Turn,
    upload: Upload,
    chunk: Chunk,
    body: Body<'a>,
}

/// Why the bytes stopped coming.
enum Ended {
    /// The body came to its end.
    Body,
    /// A newer request wants the seat.
    Superseded,
    /// The connection broke, or the server stops.
    Broken(BodyError),
    /// More bytes than the headers said.
    TooLong,
}

/// What was sent again.
#[derive(Default)]
struct Resent {
    /// Its checksums.
    crcs: Crcs,
    /// What of the body's last chunk is new.
    rest: Bytes,
    /// Did the body end with it?
    ended: bool,
}

/// The segment that is being written.
struct Segment {
    name: SegmentId,
    /// Bytes of the session in it before this request, and their checksums.
    length: u64,
    crcs: Crcs,
    /// The pieces before it.
    before: Vec<Piece>,
    /// The offset that the row shows.
    recorded: u64,
    /// May a row name it? Then it is not ours to delete.
    named: bool,
}

impl Segment {
    /// The session's pieces when so many bytes with these checksums were added.
    fn pieces(&self, bytes: u64, crcs: Crcs, backend: String) -> Vec<Piece> {
        let mut pieces = self.before.clone();
        let digests = self.crcs.followed_by(crcs, bytes).into();
        pieces.push(Piece { segment: self.name, length: self.length + bytes, digests, backend });
        pieces
    }
}

impl Receive<'_> {
    fn held(&self) -> u64 {
        self.upload.progress.received
    }

    /// The file's size, where anybody told it.
    fn size(&self) -> Option<u64> {
        self.upload.session.size.or(self.chunk.total)
    }

    /// Where the chunk ends at the latest.
    fn end(&self) -> u64 {
        match self.chunk.last {
            Some(last) => last + 1,
            None => self.size().unwrap_or(self.upload.session.max_bytes),
        }
    }

    async fn run(mut self) -> Result<Standing, Stop> {
        if self.chunk.first > self.held() {
            // Never a hole: the client is told where to go on, and its body is of no use.
            return Ok(Standing::Open { received: self.held() });
        }
        let wanted = Hashes::for_checking(&self.chunk.declared);
        let kept = self.upload.session.declaration.as_ref().map_or(Hashes::default(), |d| d.hashes);
        if self.held() > 0 && kept.and(wanted) != kept {
            return Err(Refusal::malformed(
                "a digest was declared that this upload does not keep, and its first bytes have passed: declare it when \
                 the upload is opened, or send a CRC32C",
            )
            .into());
        }
        let Some(resent) = self.skip().await? else { return Ok(Standing::Open { received: self.held() }) };
        if resent.ended || self.end() <= self.held() {
            return self.nothing_new().await;
        }
        let (writer, mut segment) = self.begin().await?;
        let hashers = match self.held() {
            0 => Hashers::start(kept.and(wanted)),
            _ => Hashers::resume(&states_of(&self.upload.progress)),
        };
        let engine = self.engine;
        let mut pour = Pour::new(Some(writer), hashers, &engine.receiving);
        let written = self.write(&mut pour, &mut segment, resent).await;
        metrics::counter!("landfall_received_bytes_total").increment(pour.taken());
        // What no row names is deleted at once; a segment that one names ends at its recorded extent.
        if let Some(writer) = pour.take_writer()
            && !segment.named
        {
            writer.discard().await;
        }
        written
    }

    /// Everything was there before. If nothing else is to come, the upload is completed.
    async fn nothing_new(mut self) -> Result<Standing, Stop> {
        let ends = self.chunk.whole || self.chunk.total.is_some_and(|total| self.end() == total);
        if ends && self.size() == Some(self.held()) {
            return finish(self.engine, &mut self.turn, self.upload, &self.chunk.declared).await;
        }
        Ok(Standing::Open { received: self.held() })
    }

    /// Compares what is sent again with what is held, before the first new byte is written. `None` when that can't be
    /// done here: then the client is told the true offset.
    async fn skip(&mut self) -> Result<Option<Resent>, Stop> {
        let (from, held) = (self.chunk.first, self.held());
        if from == held {
            return Ok(Some(Resent::default()));
        }
        let end = held.min(self.end());
        let progress = &self.upload.progress;
        let expected = match from {
            _ if end < held => None,
            0 => Some(progress.crcs),
            told if told == progress.told => Some(progress.told_crcs),
            _ => None,
        };
        let reader = match expected {
            Some(_) => None,
            None if self.engine.blobs.reads_unfinished() => {
                Some(VersionReader::open(self.engine, &version_of(&self.upload)).await?)
            }
            None => return Ok(None),
        };
        let mut resent = Resent::default();
        let mut crcs = RunningCrcs::default();
        let mut at = from;
        while at < end {
            let Some(mut chunk) = self.next().await? else {
                if self.chunk.last.is_some() || self.chunk.whole {
                    return Err(short(at - from, self.end() - from).into());
                }
                resent.ended = true;
                break;
            };
            let here = chunk.split_to(chunk.len().min(usize::try_from(end - at).unwrap_or(usize::MAX)));
            crcs.update(&here);
            if let Some(reader) = &reader
                && !equal(reader, at, &here).await?
            {
                return Err(different(from).into());
            }
            at += u64::try_from(here.len()).unwrap_or(0);
            resent.rest = chunk;
        }
        resent.crcs = crcs.value();
        if at == end && expected.is_some_and(|expected| expected != resent.crcs) {
            return Err(different(from).into());
        }
        if at == self.end() && (!resent.rest.is_empty() || self.next().await?.is_some()) {
            return Err(too_long(self.end() - from).into());
        }
        Ok(Some(resent))
    }

    /// The next bytes, while nothing is written.
    async fn next(&mut self) -> Result<Option<Bytes>, Stop> {
        loop {
            tokio::select! {
                biased;
                called = self.turn.called() => match called {
                    Called::Superseded => return Err(Refusal::Superseded.into()),
                    Called::Asked(question) => self.turn.answer(question),
                },
                next = self.body.next() => return match next {
                    None => Ok(None),
                    Some(Ok(chunk)) => Ok(Some(chunk)),
                    Some(Err(error)) => Err(broken(&error).into()),
                },
            }
        }
    }

    /// The segment to go on in: the one that the last request left in order, or a new one behind a raised epoch.
    async fn begin(&mut self) -> Result<(Box<dyn SegmentWriter>, Segment), Stop> {
        let Upload { session, progress, .. } = &self.upload;
        if let Some(parked) = self.turn.unpark()
            && self.turn.in_order()
            && parked.epoch == session.epoch
            && parked.received == progress.received
            && let Some((last, before)) = progress.pieces.split_last()
            && last.segment == parked.segment
        {
            let segment = Segment {
                name: parked.segment,
                length: parked.length,
                crcs: parked.crcs,
                before: before.to_vec(),
                recorded: progress.received,
                named: true,
            };
            return Ok((parked.writer, segment));
        }
        // Nobody can have begun before: only then there is nobody to fence.
        let fresh = progress.pieces.is_empty() && session.epoch == 1 && self.turn.in_order();
        if !fresh {
            let now = self.engine.clock.now();
            let taken = self.engine.meta.take_over(session.id, now).await?.ok_or(Stop::Lost)?;
            faults::point("resumable.taken_over");
            if taken.progress.received != progress.received {
                return Err(Stop::Lost);
            }
            self.upload = taken;
        }
        let Upload { session, progress, .. } = &self.upload;
        let name = receive::new_segment(session);
        let writer = self.engine.blobs.create(name, None).await?;
        let segment = Segment {
            name,
            length: 0,
            crcs: Crcs::default(),
            before: progress.pieces.clone(),
            recorded: progress.received,
            named: false,
        };
        Ok((writer, segment))
    }

    async fn write(&mut self, pour: &mut Pour<'_>, segment: &mut Segment, resent: Resent) -> Result<Standing, Stop> {
        let Resent { crcs: resent, rest, .. } = resent;
        let ended = self.fill(pour, segment, resent, rest).await?;
        let reached = self.held() + pour.taken();
        let stop = match ended {
            Ended::Body => {
                let known = self.chunk.last.is_some() || (self.chunk.whole && self.size().is_some());
                if known && reached != self.end() {
                    return Err(short(reached - self.chunk.first, self.end() - self.chunk.first).into());
                }
                if self.chunk.whole || self.chunk.total == Some(reached) {
                    return self.last(pour, segment).await;
                }
                let length = reached - self.chunk.first;
                if length < limits::GRANULE_BYTES {
                    return Err(too_short(length).into());
                }
                None
            }
            Ended::Superseded => Some(Refusal::Superseded),
            Ended::Broken(error) => Some(broken(&error)),
            Ended::TooLong => return Err(too_long(self.end() - self.chunk.first).into()),
        };
        pour.flush_to_mark().await?;
        self.record(pour, segment, resent).await?;
        let received = segment.recorded;
        if segment.named
            && pour.ends_at_mark()
            && let Some(writer) = pour.take_writer()
        {
            let Mark { bytes, crcs } = pour.mark();
            let parked = Parked {
                writer,
                segment: segment.name,
                epoch: self.upload.session.epoch,
                received,
                length: segment.length + bytes,
                crcs: segment.crcs.followed_by(crcs, bytes),
            };
            self.turn.park(parked, &self.engine.clock);
        }
        stop.map_or(Ok(Standing::Open { received }), |refusal| Err(refusal.into()))
    }

    /// Takes the body until something ends it.
    async fn fill(
        &mut self,
        pour: &mut Pour<'_>,
        segment: &mut Segment,
        resent: Crcs,
        rest: Bytes,
    ) -> Result<Ended, Stop> {
        let most = self.end() - self.held();
        let mut next = Some(Ok(rest));
        loop {
            match next.take() {
                Some(Ok(chunk)) => {
                    if pour.taken().saturating_add(u64::try_from(chunk.len()).unwrap_or(u64::MAX)) > most {
                        return Ok(Ended::TooLong);
                    }
                    pour.take(chunk).await?;
                }
                Some(Err(error)) => return Ok(Ended::Broken(error)),
                None => return Ok(Ended::Body),
            }
            next = loop {
                tokio::select! {
                    biased;
                    called = self.turn.called() => match called {
                        Called::Superseded => return Ok(Ended::Superseded),
                        Called::Asked(question) => {
                            pour.flush().await?;
                            self.record(pour, segment, resent).await?;
                            self.turn.answer(question);
                        }
                    },
                    next = self.body.next() => break next,
                }
            };
        }
    }

    /// Makes everything up to the mark durable, then records it.
    async fn record(&mut self, pour: &mut Pour<'_>, segment: &mut Segment, resent: Crcs) -> Result<(), Stop> {
        let Mark { bytes, crcs } = pour.mark();
        let progress = &self.upload.progress;
        let received = progress.received + bytes;
        if received == segment.recorded {
            return Ok(());
        }
        let Some(writer) = pour.writer() else { return Err(Refusal::Internal.into()) };
        let extent = writer.persist().await?;
        let states = pour.states_at_mark().await?;
        let advance = Advance {
            session: self.upload.session.id,
            epoch: self.upload.session.epoch,
            from: segment.recorded,
            progress: Progress {
                received,
                crcs: progress.crcs.followed_by(crcs, bytes),
                told: self.chunk.first,
                told_crcs: resent.followed_by(crcs, bytes),
                md5_state: states.md5,
                sha256_state: states.sha256,
                pieces: segment.pieces(bytes, crcs, extent.backend),
            },
            total: self.chunk.total,
            now: self.engine.clock.now(),
        };
        // From here on until a clear no: a transaction that failed to answer may have been made.
        let named = std::mem::replace(&mut segment.named, true);
        let refused = match self.engine.meta.advance(advance).await? {
            Advanced::Recorded => {
                faults::point("resumable.recorded");
                segment.recorded = received;
                return Ok(());
            }
            Advanced::Fenced => Stop::Lost,
            Advanced::OverQuota(over) => over.into(),
        };
        segment.named = named;
        Err(refused)
    }

    /// The last byte is here: everything is made durable, checked and committed.
    async fn last(&mut self, pour: &mut Pour<'_>, segment: &mut Segment) -> Result<Standing, Stop> {
        let session = &self.upload.session;
        pour.flush().await?;
        faults::point("resumable.last_written");
        let (bytes, crcs) = (pour.taken(), pour.crcs());
        let pieces = if bytes == 0 && !segment.named {
            segment.before.clone()
        } else {
            let Some(writer) = pour.take_writer() else { return Err(Refusal::Internal.into()) };
            let extent = writer.finish().await?;
            segment.pieces(bytes, crcs, extent.backend)
        };
        let slow = pour.finish_hashes().await?;
        let digests = digests_of(self.upload.progress.crcs.followed_by(crcs, bytes), slow);
        let settled = settle(self.engine, session, segment.recorded, pieces, digests, &self.chunk.declared).await;
        // Only after a clear no: a commit that failed to answer may have been made.
        let no = match &settled {
            Err(Stop::Lost | Stop::Refused(Refusal::DigestMismatch { .. } | Refusal::Quota { .. })) => !segment.named,
            Ok(_) | Err(Stop::Refused(_)) => false,
        };
        if no && let Err(error) = self.engine.blobs.delete(segment.name, "").await {
            tracing::warn!(%error, "a segment that is not needed could not be deleted");
        }
        settled
    }
}

/// Completes an upload whose bytes are all recorded.
async fn complete(engine: &Engine, mut turn: Turn, upload: Upload, declared: &Declared) -> Result<Standing, Refusal> {
    let id = upload.session.id;
    match finish(engine, &mut turn, upload, declared).await {
        Ok(standing) => Ok(standing),
        Err(Stop::Lost) => stands(engine, id).await,
        Err(Stop::Refused(refusal)) => Err(refusal),
    }
}

async fn finish(engine: &Engine, turn: &mut Turn, upload: Upload, declared: &Declared) -> Result<Standing, Stop> {
    if let Some(parked) = turn.unpark() {
        parked.writer.finish().await?;
    }
    let digests = digests_so_far(&upload, declared).await?;
    let Upload { session, progress, .. } = upload;
    settle(engine, &session, progress.received, progress.pieces, digests, declared).await
}

/// Digests of the recorded bytes: those that were kept as they came.
async fn digests_so_far(upload: &Upload, declared: &Declared) -> Result<Digests, Refusal> {
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
async fn settle(
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

fn digests_of(crcs: Crcs, slow: SlowDigests) -> Digests {
    Digests { md5: slow.md5, sha256: slow.sha256, ..crcs.into() }
}

fn states_of(progress: &Progress) -> States {
    States { md5: progress.md5_state.clone(), sha256: progress.sha256_state.clone() }
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

/// Are the stored bytes from `at` on these?
async fn equal(reader: &VersionReader, at: u64, bytes: &[u8]) -> Result<bool, Refusal> {
    let end = at + u64::try_from(bytes.len()).unwrap_or(0);
    let mut rest = bytes;
    while !rest.is_empty() {
        let stored = reader.at(end - u64::try_from(rest.len()).unwrap_or(0), end).await?;
        let Some(left) = rest.strip_prefix(&stored[..]) else { return Ok(false) };
        if stored.is_empty() {
            return Ok(false);
        }
        rest = left;
    }
    Ok(true)
}

fn different(from: u64) -> Refusal {
    Refusal::malformed(format!(
        "the bytes sent again from offset {from} differ from those that are stored: this is another file, or it changed. \
         Begin a new upload; nothing was changed"
    ))
}

fn short(came: u64, wanted: u64) -> Refusal {
    Refusal::malformed(format!("the body ended after {came} bytes, {wanted} were announced; nothing was changed"))
}

fn too_long(wanted: u64) -> Refusal {
    Refusal::malformed(format!("the body has more than the {wanted} bytes that were announced; nothing was changed"))
}

fn broken(error: &BodyError) -> Refusal {
    match error {
        BodyError::Stopping => Refusal::Unavailable,
        BodyError::Busy => Refusal::Busy { retry_after: limits::BUSY_RETRY },
        BodyError::TooLong => Refusal::malformed("the body is too long"),
        BodyError::Cut | BodyError::TooSlow => Refusal::Incomplete { reason: error.to_string() },
    }
}
