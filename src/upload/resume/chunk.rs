//! The way of one chunk: what is sent again is compared, what is new is written, made durable and recorded.

use bytes::Bytes;
use futures_util::StreamExt;

use super::whole::{Stop, digests_of, finish, settle, states_of};
use super::{Chunk, Standing, version_of};
use crate::blob::SegmentWriter;
use crate::engine::{Called, Engine, Parked, Turn};
use crate::faults;
use crate::limits;
use crate::meta::{Advance, Advanced, Upload};
use crate::model::file::{Crcs, Piece, RunningCrcs};
use crate::model::ids::SegmentId;
use crate::model::refusal::Refusal;
use crate::model::session::{Hashes, Progress};
use crate::upload::commit;
use crate::upload::pour::{Hashers, Mark, Pour};
use crate::upload::read::VersionReader;
use crate::upload::receive::{self, Body, BodyError};

/// One chunk's way.
pub(super) struct Receive<'a> {
    pub(super) engine: &'a Engine,
    pub(super) turn: Turn,
    pub(super) upload: Upload,
    pub(super) chunk: Chunk,
    pub(super) body: Body<'a>,
}

/// Why the bytes stopped coming.
enum Ended {
    /// The body came to its end.
    Body,
    /// A newer request wants the seat.
    Superseded,
    /// The connection or the body's framing broke, or the server stops.
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

    pub(super) async fn run(mut self) -> Result<Standing, Stop> {
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
        let mut pour = Pour::new(Some(writer), hashers, &engine.receiving).starting_at(self.held());
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
            && parked.goes_on(session, progress)
            && let Some((_, before)) = progress.pieces.split_last()
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
                if length.is_multiple_of(limits::GRANULE_BYTES) {
                    // It came whole: its client may count on all of it, wherever it began.
                    pour.mark_all().await?;
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
        let clock = &self.engine.clock;
        let mut recorded = clock.monotonic();
        let mut next = Some(Ok(rest));
        loop {
            match next.take() {
                Some(Ok(chunk)) => {
                    if pour.taken().saturating_add(u64::try_from(chunk.len()).unwrap_or(u64::MAX)) > most {
                        return Ok(Ended::TooLong);
                    }
                    pour.take(chunk).await?;
                    let more = (self.held() + pour.mark().bytes).saturating_sub(segment.recorded);
                    if more >= limits::RECORD_BYTES
                        && clock.monotonic().saturating_sub(recorded) >= limits::RECORD_EVERY
                    {
                        pour.flush().await?;
                        self.record(pour, segment, resent).await?;
                        recorded = clock.monotonic();
                    }
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
        let mut written = None;
        let pieces = if bytes == 0 && !segment.named {
            segment.before.clone()
        } else {
            let Some(writer) = pour.take_writer() else { return Err(Refusal::Internal.into()) };
            let extent = writer.finish().await?;
            written = Some(extent.backend.clone());
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
        if no && let Some(backend) = written {
            commit::discard(self.engine, segment.name, &backend).await;
        }
        settled
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
        BodyError::Garbled => Refusal::malformed(format!(
            "{error}: ask how far the upload has come, and go on there with a sound request"
        )),
        BodyError::Cut | BodyError::TooSlow => Refusal::Incomplete { reason: error.to_string() },
    }
}

pub(super) fn too_short(length: u64) -> Refusal {
    Refusal::malformed(format!(
        "a chunk that is not the last must have a multiple of {} bytes, at least one; this one has {length}. Send larger \
         chunks; nothing was changed",
        limits::GRANULE_BYTES
    ))
}
