//! Bytes that a client sends to the store itself. Its location costs no question to the store; what it sent is looked for
//! when somebody uses it, checked as far as the store did not, pinned, and committed like everything else.

use super::access::Grant;
use super::pour::verify;
use super::track::{self, Claim};
use super::{commit, read, receive};
use crate::blob::{Arrived, ArrivedPart, Direct, PutAsk, Reached, SessionAsk, Ticket};
use crate::engine::{Alone, Engine};
use crate::faults;
use crate::meta::{Committed, FileInfo, NewVersion, Over};
use crate::model::file::{Declared, Digests, Piece, Receipt, Version};
use crate::model::ids::{FileId, PlaceId, SessionId, VersionId};
use crate::model::refusal::Refusal;
use crate::model::session::{self, Hashes, Numbers, Parts, Session, SessionState, Strategy};

/// Fewest bytes of a part that is not the last which a store joins.
pub const PART_MIN_BYTES: u64 = 5 * 1024 * 1024;
/// How often a commit looks again because another one was faster.
const TRIES: usize = 8;

/// How a session of this wire with one PUT goes to the store itself, if it does: the store takes no body that is too long.
pub(super) fn way_of_one(engine: &Engine, wire: &str, size: Option<u64>) -> Option<session::Direct> {
    let longest = engine.blobs.direct()?.forms().put_bytes;
    way(engine, wire).filter(|_| size.is_none_or(|size| size <= longest))
}

fn way(engine: &Engine, wire: &str) -> Option<session::Direct> {
    engine.blobs.direct()?;
    let way = engine.policy.direct.iter().find(|way| way.wire == wire)?;
    Some(session::Direct { create_only: way.create_only, upload: None, place: engine.blobs.place() })
}

/// The same for parts, if the store joins any.
pub(super) fn way_of_any_parts(engine: &Engine, wire: &str) -> Option<session::Direct> {
    engine.blobs.direct().filter(|store| store.forms().parts)?;
    way(engine, wire)
}

/// The same for parts of a file of this size: the store takes none that are too small, but for the last.
pub(super) fn way_of_parts(engine: &Engine, wire: &str, parts: Parts, size: Option<u64>) -> Option<session::Direct> {
    let size = size.filter(|size| *size > 0)?;
    let even = size.div_ceil(parts.count.into());
    way_of_any_parts(engine, wire).filter(|_| parts.count == 1 || even >= PART_MIN_BYTES)
}

/// The same for a file in chunks, where the store has sessions for such. It takes what was declared and no more; of a file
/// whose size is unknown it would take whatever comes, past every quota.
pub(super) fn way_of_chunks(engine: &Engine, wire: &str, size: Option<u64>) -> Option<session::Direct> {
    engine.blobs.direct().filter(|store| store.forms().sessions && size.is_some())?;
    way(engine, wire).filter(|way| way.create_only)
}

/// The store that the session's client was sent to.
fn store<'e>(engine: &'e Engine, session: &Session) -> Result<&'e dyn Direct, Refusal> {
    let place = session.direct.as_ref().map_or(PlaceId::FIRST, |direct| direct.place);
    engine.blobs.direct_at(place).ok_or_else(|| {
        // Another process may know it.
        tracing::error!(%place, "an upload went to a place that is not configured: name it in `more_storage`");
        Refusal::Unavailable
    })
}

/// Whole seconds that a session still lives.
fn life(engine: &Engine, session: &Session) -> u32 {
    let left = session.expires.millis().saturating_sub(engine.clock.now().millis());
    u32::try_from(left / 1000).unwrap_or(0).max(1)
}

/// Signs the location of a session's one PUT, for so many seconds at most.
///
/// # Errors
/// [`Refusal::Unavailable`] without credentials for the store.
pub(super) async fn ticket(
    engine: &Engine,
    session: &Session,
    headers: &[(&str, &str)],
    life_seconds: u32,
) -> Result<Ticket, Refusal> {
    let none = Declared::default();
    let ask = PutAsk {
        session: session.id,
        headers,
        declared: session.declaration.as_ref().map_or(&none, |declaration| &declaration.digests),
        create_only: session.direct.as_ref().is_some_and(|direct| direct.create_only),
        bytes: session.size.map_or((0, session.max_bytes), |size| (size, size)),
        life_seconds: life_seconds.min(life(engine, session)),
    };
    Ok(store(engine, session)?.ticket(ask).await?)
}

/// Signs locations of parts. The upload in parts begins with the first question for them.
///
/// # Errors
/// As [`ticket`]; [`Refusal::Gone`] or [`Refusal::Conflict`] when the session ended meanwhile.
pub(super) async fn part_tickets(engine: &Engine, session: &Session, numbers: &[u32]) -> Result<Vec<String>, Refusal> {
    let store = store(engine, session)?;
    let upload = match known(session) {
        Some(upload) => upload.to_owned(),
        None => counts(engine, session, store.begin_parts(session.id).await?).await?,
    };
    Ok(store.part_tickets(session.id, &upload, numbers, life(engine, session)).await?)
}

/// The location of the store's session for a file in chunks, which begins with the first question for it; then it is settled
/// which pages may read its answers.
///
/// # Errors
/// As [`part_tickets`].
pub(super) async fn session_location(
    engine: &Engine,
    session: &Session,
    page: Option<&str>,
) -> Result<String, Refusal> {
    if let Some(location) = known(session) {
        return Ok(location.to_owned());
    }
    let content_type = session.declaration.as_ref().map_or("", |declaration| declaration.mime_type.as_str());
    let ask = SessionAsk { session: session.id, size: size(session)?, content_type, page };
    let begun = store(engine, session)?.begin_session(ask).await?;
    faults::point("direct.session_begun");
    counts(engine, session, begun).await
}

/// The size of a file in chunks, which goes to the store itself only where it is known.
fn size(session: &Session) -> Result<u64, Refusal> {
    session.size.ok_or(Refusal::Internal)
}

/// What the store calls a session's upload, if that has begun.
fn known(session: &Session) -> Option<&str> {
    session.direct.as_ref().and_then(|direct| direct.upload.as_deref())
}

/// Records what has begun; what counts, if another call was faster.
async fn counts(engine: &Engine, session: &Session, begun: String) -> Result<String, Refusal> {
    let counts = engine.meta.begun(session.id, begun.clone(), engine.clock.now()).await?;
    // Another call was faster, or the session is over.
    if counts.as_ref() != Some(&begun)
        && let Err(error) = store(engine, session)?.abandon(session.id, &begun).await
    {
        tracing::warn!(%error, "an upload at the store that is not needed could not be ended");
    }
    match counts {
        Some(upload) => Ok(upload),
        None => Err(track::ended(engine, &session.tenant, session.id).await?),
    }
}

/// How far a file in chunks has come. One that is there whole is committed by the question, unless it only looks.
///
/// # Errors
/// As [`single`]; [`Refusal::Gone`] when the store has lost it.
pub(super) async fn come(engine: &Engine, session: &Session, only_looks: bool) -> Result<u64, Refusal> {
    match reached(engine, session).await? {
        Reached::Bytes(received) => Ok(received),
        Reached::Whole if only_looks => size(session),
        Reached::Nowhere | Reached::Cancelled if only_looks => Ok(0),
        ended @ (Reached::Whole | Reached::Nowhere | Reached::Cancelled) => {
            settle(engine, session, &Declared::default(), ended).await?;
            size(session)
        }
    }
}

/// Commits a file in chunks that is there whole.
///
/// # Errors
/// As [`come`], and [`Refusal::UploadIncomplete`].
pub(super) async fn conclude(engine: &Engine, session: &Session, claim: Claim) -> Result<(), Refusal> {
    if single(engine, session, &claim.digests).await? {
        return Ok(());
    }
    match reached(engine, session).await? {
        Reached::Bytes(received) => Err(Refusal::UploadIncomplete { received, expected: session.size }),
        ended @ (Reached::Whole | Reached::Nowhere | Reached::Cancelled) => {
            settle(engine, session, &claim.digests, ended).await
        }
    }
}

/// Nothing more can come. What is there counts, however it came: it may have become complete by the question, or so long ago
/// that the store has forgotten how. Where nothing is, it was cancelled or lost.
async fn settle(engine: &Engine, session: &Session, claimed: &Declared, ended: Reached) -> Result<(), Refusal> {
    if single(engine, session, claimed).await? {
        return Ok(());
    }
    match ended {
        Reached::Cancelled => {
            engine.meta.end_session(session.id, SessionState::Aborted, engine.clock.now()).await?;
            engine.work.wake();
            Err(track::ended(engine, &session.tenant, session.id).await?)
        }
        Reached::Bytes(_) | Reached::Whole | Reached::Nowhere => Err(lost(engine, session).await?),
    }
}

async fn reached(engine: &Engine, session: &Session) -> Result<Reached, Refusal> {
    match known(session) {
        Some(location) => Ok(store(engine, session)?.reached(location, size(session)?).await?),
        None => Ok(Reached::Bytes(0)),
    }
}

/// Nothing of it is there, and nothing can come.
async fn lost(engine: &Engine, session: &Session) -> Result<Refusal, Refusal> {
    let now = engine.clock.now();
    if engine.meta.end_session(session.id, SessionState::Failed, now).await? != Some(SessionState::Failed) {
        // It ended while the store was asked, and took with it what was there.
        return track::ended(engine, &session.tenant, session.id).await;
    }
    tracing::error!(session = %session.id, "the store has lost an upload");
    engine.troubles.note(session.id, "the store has lost it".into(), now);
    engine.work.wake();
    Ok(Refusal::Gone { what: "the upload", reason: "the store has lost it".into() })
}

/// Which parts of a session have not come to the store, and how many bytes have.
///
/// # Errors
/// The keepers' own.
pub(super) async fn missing(engine: &Engine, session: &Session, parts: Parts) -> Result<(Numbers, u64), Refusal> {
    let arrived = match known(session) {
        Some(upload) => store(engine, session)?.arrived_parts(session.id, upload).await?,
        None => Some(Vec::new()),
    };
    let arrived = match arrived {
        Some(arrived) => wanted(parts, arrived),
        // Joined, and only its commit is missing.
        None => return Ok((Numbers::default(), session.size.unwrap_or(0))),
    };
    let received = arrived.iter().map(|part| part.length).sum();
    Ok((parts.missing(arrived.iter().map(|part| part.number)), received))
}

fn wanted(parts: Parts, arrived: Vec<ArrivedPart>) -> Vec<ArrivedPart> {
    arrived.into_iter().filter(|part| (1..=parts.count).contains(&part.number)).collect()
}

/// A file that somebody wants to use, with what its client sent to the store itself since it was used last.
///
/// # Errors
/// As [`single`].
pub(super) async fn file(engine: &Engine, grant: &Grant, id: FileId) -> Result<Option<FileInfo>, Refusal> {
    let tenant = grant.tenant();
    let known = engine.meta.file(tenant, id).await?;
    if !engine.blobs.knows_direct() || known.as_ref().is_some_and(|file| file.used.is_some()) {
        return Ok(known);
    }
    // Such a file and its session share their id.
    let session = engine.meta.session(tenant, SessionId(id.0)).await?;
    let live = |session: &Session| {
        session.direct.is_some() && session.strategy == Strategy::Single && session.expires > engine.clock.now()
    };
    let Some(session) = session.filter(live) else { return Ok(known) };
    match session.state {
        SessionState::Open | SessionState::Committed => {}
        SessionState::Aborted | SessionState::Expired | SessionState::Failed => return Ok(known),
    }
    single(engine, &session, &Declared::default()).await?;
    Ok(engine.meta.file(tenant, id).await?)
}

/// Was this a place for such a file, and nothing was looked for there before its time was over? Then nobody knows whether
/// something came.
///
/// # Errors
/// The keepers' own.
pub(super) async fn is_over(engine: &Engine, grant: &Grant, id: FileId) -> Result<bool, Refusal> {
    let session = engine.meta.session(grant.tenant(), SessionId(id.0)).await?;
    Ok(session.is_some_and(|session| {
        session.direct.is_some()
            && match session.state {
                SessionState::Open => session.expires <= engine.clock.now(),
                SessionState::Expired => true,
                SessionState::Committed | SessionState::Aborted | SessionState::Failed => false,
            }
    }))
}

/// Commits the newest body that the store has for a session with one object; whether there is one. Repeated, it changes nothing
/// unless something newer came and the file has not been used.
///
/// # Errors
/// [`Refusal::TooLarge`] and [`Refusal::DigestMismatch`] for what can't be what was declared: where only one body is taken
/// the session ends with it. [`Refusal::DigestMismatch`] for what differs from `claimed` alone, [`Refusal::Quota`],
/// [`Refusal::Gone`] or [`Refusal::Conflict`] when the session ended meanwhile, and the keepers' own.
pub(super) async fn single(engine: &Engine, session: &Session, claimed: &Declared) -> Result<bool, Refusal> {
    let create_only = session.direct.as_ref().is_some_and(|direct| direct.create_only);
    let (_alone, state) = alone(engine, session, claimed).await?;
    if create_only && state == Some(SessionState::Committed) {
        // The one body that was taken, perhaps meanwhile; by now its bytes may lie elsewhere.
        return Ok(true);
    }
    for _ in 0..TRIES {
        // Before the store is asked: what another call commits meanwhile is newer than what this one finds.
        let known = engine.meta.file(&session.tenant, session.file).await?;
        if known.as_ref().is_some_and(|file| file.used.is_some()) {
            return Ok(true);
        }
        let Some(arrived) = store(engine, session)?.arrived(session.id, create_only).await? else {
            return Ok(known.is_some());
        };
        let current = known.and_then(|file| file.version);
        let named = |version: &Version| version.pieces.first().is_some_and(|piece| piece.segment == arrived.segment);
        if session.state == SessionState::Committed && current.as_ref().is_some_and(named) {
            return Ok(true);
        }
        if arrived.length > session.max_bytes {
            return Err(unfit(engine, session, create_only, receive::too_large(session)).await?);
        }
        let digests = checked(engine, session, &arrived, claimed, create_only).await?;
        let over = Over::This(current.map(|version| version.id));
        match commit_arrived(engine, session, arrived, digests, over).await? {
            Committed::New(_) | Committed::Same(_) | Committed::SameAsUsed { .. } | Committed::Used => return Ok(true),
            Committed::Exists => {}
            Committed::Closed => return Err(track::ended(engine, &session.tenant, session.id).await?),
            Committed::OverQuota(over) => return Err(over.into()),
        }
    }
    Err(Refusal::Unavailable)
}

/// Makes one object of the parts that the store has, and a version of it.
///
/// # Errors
/// [`Refusal::PartsMissing`], [`Refusal::PartsTooSmall`], [`Refusal::TooLarge`], [`Refusal::DigestMismatch`]: the session
/// stays open, unless the parts are joined and are not what was declared; [`Refusal::Gone`] also when the store has lost
/// them; [`Refusal::Quota`], and the keepers' own.
pub(super) async fn join(
    engine: &Engine,
    session: &Session,
    parts: Parts,
    claim: Claim,
) -> Result<(FileId, Receipt), Refusal> {
    let over = || track::ended(engine, &session.tenant, session.id);
    let (_alone, state) = alone(engine, session, &claim.digests).await?;
    let Some(state) = state else { return Err(over().await?) };
    match state {
        SessionState::Open if session.expires > engine.clock.now() => {}
        SessionState::Committed => {
            let receipt = receipt(engine, session).await?;
            claim.agrees(&receipt)?;
            return Ok((session.file, receipt));
        }
        _ => return Err(over().await?),
    }
    let Some(upload) = known(session) else {
        return Err(Refusal::PartsMissing { missing: parts.missing([]), received: 0 });
    };
    let store = store(engine, session)?;
    let arrived = match store.arrived_parts(session.id, upload).await? {
        Some(arrived) => {
            let arrived = wanted(parts, arrived);
            fit(session, parts, &claim, &arrived)?;
            store.join(session.id, upload, &arrived).await?
        }
        // Joined by a call whose answer was lost, or that did not come to its end.
        None => store.arrived(session.id, true).await?,
    };
    let Some(arrived) = arrived else { return Err(lost(engine, session).await?) };
    faults::point("direct.joined");
    if let Some(size) = claim.size.filter(|size| *size != arrived.length) {
        return Err(sizes(size, arrived.length));
    }
    let digests = checked(engine, session, &arrived, &claim.digests, true).await?;
    match commit_arrived(engine, session, arrived, digests, Over::Anything).await? {
        Committed::New(_) | Committed::Same(_) | Committed::SameAsUsed { .. } => {}
        Committed::OverQuota(over) => return Err(over.into()),
        Committed::Used | Committed::Exists | Committed::Closed => return Err(over().await?),
    }
    Ok((session.file, receipt(engine, session).await?))
}

/// Are these parts what the file was declared to be made of?
fn fit(session: &Session, parts: Parts, claim: &Claim, arrived: &[ArrivedPart]) -> Result<(), Refusal> {
    let received = arrived.iter().map(|part| part.length).sum();
    let missing = parts.missing(arrived.iter().map(|part| part.number));
    if missing.count > 0 {
        return Err(Refusal::PartsMissing { missing, received });
    }
    let smallest = parts.smallest.max(PART_MIN_BYTES);
    let small = arrived.iter().filter(|part| part.number < parts.count && part.length < smallest);
    let small: Numbers = small.map(|part| part.number).collect();
    if small.count > 0 {
        return Err(Refusal::PartsTooSmall { parts: small, smallest });
    }
    if arrived.iter().any(|part| part.length > parts.largest) {
        let remedy = "send more and smaller parts";
        return Err(Refusal::TooLarge { what: "a part", limit: parts.largest, remedy });
    }
    if received > session.max_bytes {
        let remedy = "its parts together have more bytes";
        return Err(Refusal::TooLarge { what: "a file", limit: session.max_bytes, remedy });
    }
    match [session.size, claim.size].into_iter().flatten().find(|size| *size != received) {
        Some(size) => Err(sizes(size, received)),
        None => Ok(()),
    }
}

fn sizes(declared: u64, received: u64) -> Refusal {
    Refusal::DigestMismatch { algorithm: "size", declared: declared.to_string(), received: received.to_string() }
}

async fn receipt(engine: &Engine, session: &Session) -> Result<Receipt, Refusal> {
    let found = engine.meta.upload(session.id).await?.and_then(|upload| upload.receipt);
    found.ok_or(Refusal::Internal)
}

/// Of a session that takes one body only, a wrong one is the end.
async fn unfit(engine: &Engine, session: &Session, ends: bool, refusal: Refusal) -> Result<Refusal, Refusal> {
    engine.troubles.note(session.id, refusal.to_string(), engine.clock.now());
    if ends {
        engine.meta.end_session(session.id, SessionState::Failed, engine.clock.now()).await?;
        engine.work.wake();
    }
    Ok(refusal)
}

/// Compares what arrived with everything that was declared, by what the store tells where it tells it, else by reading it
/// once. What is known of it then.
async fn checked(
    engine: &Engine,
    session: &Session,
    arrived: &Arrived,
    claimed: &Declared,
    ends: bool,
) -> Result<Digests, Refusal> {
    let at_open = session.declaration.as_ref().map_or(Declared::default(), |declaration| declaration.digests);
    if let Some(size) = session.size.filter(|size| *size != arrived.length) {
        return Err(unfit(engine, session, ends, sizes(size, arrived.length)).await?);
    }
    let mut known = arrived.digests;
    for md5 in [at_open.md5, claimed.md5].into_iter().flatten() {
        if arrived.etag.as_deref() == Some(hex::encode(md5).as_str()) {
            known.md5 = Some(md5);
        }
    }
    for (declared, ends) in [(&at_open, ends), (claimed, false)] {
        if let Err(refusal) = verify(&declared.told_by(&known), &known) {
            return Err(unfit(engine, session, ends, refusal).await?);
        }
    }
    let open = [at_open.untold_by(&known), claimed.untold_by(&known)];
    if open.iter().all(|declared| *declared == Declared::default()) {
        return Ok(known);
    }
    let hashes = open.iter().fold(Hashes::default(), |all, declared| all.and(Hashes::for_checking(declared)));
    let found = read::digests(engine, &version_of(session, arrived), hashes).await?.or(known);
    for (declared, ends) in open.iter().zip([ends, false]) {
        if let Err(refusal) = verify(declared, &found) {
            return Err(unfit(engine, session, ends, refusal).await?);
        }
    }
    Ok(found)
}

/// Where all bytes may have to be read to compare them, one call does that, and the others wait for what it finds: they can be
/// as many as a client likes, and each would read everything there is. What the session is then; `None` when it is gone.
async fn alone(
    engine: &Engine,
    session: &Session,
    claimed: &Declared,
) -> Result<(Option<Alone>, Option<SessionState>), Refusal> {
    let at_open = session.declaration.as_ref().map_or(Declared::default(), |declaration| declaration.digests);
    if [at_open, *claimed].iter().all(|declared| *declared == Declared::default()) {
        return Ok((None, Some(session.state)));
    }
    let alone = engine.checks.enter(session.id).await;
    let now = engine.meta.session(&session.tenant, session.id).await?;
    Ok((Some(alone), now.map(|now| now.state)))
}

fn piece_of(arrived: &Arrived, digests: Digests) -> Piece {
    Piece {
        segment: arrived.segment,
        length: arrived.length,
        digests: digests.checksums(),
        backend: arrived.backend.clone(),
    }
}

/// What arrived, to be read like a version.
fn version_of(session: &Session, arrived: &Arrived) -> Version {
    Version {
        id: VersionId(session.id.0),
        tenant: session.tenant.clone(),
        file: session.file,
        size: arrived.length,
        digests: arrived.digests,
        committed: session.created,
        pieces: vec![piece_of(arrived, arrived.digests)],
    }
}

async fn commit_arrived(
    engine: &Engine,
    session: &Session,
    arrived: Arrived,
    digests: Digests,
    over: Over,
) -> Result<Committed, Refusal> {
    let (bytes, piece) = (arrived.length, piece_of(&arrived, digests));
    let version = NewVersion { over, ..commit::version_of(engine, session, piece, digests) };
    let committed = engine.meta.commit(version).await?;
    if let Committed::New(_) = committed {
        faults::point("direct.committed");
        engine.work.wake();
        metrics::counter!("landfall_direct_bytes_total").increment(bytes);
    }
    Ok(committed)
}
