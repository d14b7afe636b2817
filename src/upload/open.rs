//! Opening a session: the first fact of an upload, before anything is created anywhere.

use std::time::Duration;

use futures_util::StreamExt;

use super::access::Grant;
use super::{direct, receive};
use crate::clock::{Timestamp, ordered_uuid};
use crate::engine::Engine;
use crate::faults;
use crate::limits;
use crate::meta::{Marked, Once, Opening};
use crate::model::ids::{FileId, SessionId};
use crate::model::refusal::Refusal;
use crate::model::session::{Declaration, Hashes, Parts, Session, SessionState, Strategy};
use crate::ticket::{Plain, Target};

/// Sessions of the store's that are begun at once.
const BEGINNING: usize = 8;

/// A single PUT that a dialect asks for.
#[derive(Clone, Debug)]
pub struct Single<'a> {
    /// The dialect's name.
    pub wire: &'a str,
    /// Scheme, host and path prefix of the location.
    pub base: &'a str,
    /// Headers that must come with the PUT.
    pub headers: &'a [(&'a str, &'a str)],
    /// Most bytes it may take.
    pub max_bytes: u64,
    /// How long the session and its ticket live.
    pub life: Duration,
    /// How long what was sent to the store itself may wait for its use.
    pub held: Duration,
    /// The file, if it is one of its own.
    pub file: Option<NewFile>,
}

/// A resumable upload that a dialect asks for.
#[derive(Clone, Debug)]
pub struct Resumable<'a> {
    /// The dialect's name.
    pub wire: &'a str,
    /// Most bytes it may take.
    pub max_bytes: u64,
    /// How long the session lives.
    pub life: Duration,
    /// The file.
    pub file: NewFile,
}

/// A whole file in one PUT, or in parts, at plain tickets: those bind neither host nor headers.
#[derive(Clone, Debug)]
pub struct Plainly<'a> {
    /// The dialect's name.
    pub wire: &'a str,
    /// Scheme, host and path prefix of the locations.
    pub base: &'a str,
    /// Most bytes that the file may have.
    pub max_bytes: u64,
    /// How long the session and its tickets live.
    pub life: Duration,
    /// The file.
    pub file: NewFile,
    /// The file that this makes the first or the next version of, where the dialect has files that may be without
    /// content. It is the dialect that ends a file's sessions when it deletes it.
    pub content_of: Option<FileId>,
}

/// A session whose file comes in parts, with their tickets.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OpenedParts {
    /// The session.
    pub session: SessionId,
    /// The file that the upload will make a version of.
    pub file: FileId,
    /// The parts' locations, the first part's first: secrets.
    pub urls: Vec<String>,
    /// When all of them end.
    pub expires: Timestamp,
}

/// A file that an upload makes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewFile {
    /// Its size in bytes; `None` when it shows with the last byte.
    pub size: Option<u64>,
    /// Does the commit register it, or does the client, later?
    pub registers: bool,
    /// What the client said about it.
    pub declaration: Declaration,
    /// The file that this is the next version of.
    pub next_of: Option<FileId>,
}

/// A session with its ticket.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Opened {
    /// The session.
    pub session: SessionId,
    /// The file that the upload will make.
    pub file: FileId,
    /// The upload location: a secret.
    pub url: String,
    /// When both end.
    pub expires: Timestamp,
}

/// Opens a session for one PUT. One that makes no file of its own may be repeated until it is used.
///
/// # Errors
/// [`Refusal::Quota`], and [`Refusal::Unavailable`] or [`Refusal::OutOfSpace`] when the fact could not be made durable.
pub async fn single(engine: &Engine, grant: &Grant, ask: Single<'_>) -> Result<Opened, Refusal> {
    let mut session = match ask.file {
        None => session(engine, grant, ask.wire, ask.max_bytes, ask.life),
        Some(file) => {
            receive::require_space(engine, file.size.unwrap_or(0)).await?;
            with_file(session(engine, grant, ask.wire, ask.max_bytes, ask.life), file, Strategy::Single)
        }
    };
    if let Some(way) = direct::way_of_one(engine, ask.wire, None) {
        session.direct = Some(way);
        session.expires = session.created.plus(ask.held);
        if session.declaration.is_none() {
            // Whoever uses the file finds by its id what to ask the store for.
            session.file = FileId(session.id.0);
        }
    }
    record(engine, vec![session.clone()]).await?;
    faults::point("single.session_row");
    let url = match session.direct {
        Some(_) => {
            let seconds = u32::try_from(ask.life.as_secs()).unwrap_or(u32::MAX);
            direct::ticket(engine, &session, ask.headers, seconds).await?.url
        }
        None => single_url(engine, &session, ask.base, ask.headers, ask.life),
    };
    metrics::counter!("landfall_sessions_opened_total", "strategy" => "single").increment(1);
    Ok(Opened { session: session.id, file: session.file, url, expires: session.expires })
}

/// An upload that is followed and committed by its id.
#[derive(Clone, Debug)]
pub struct Upload<'a> {
    /// The dialect's name.
    pub wire: &'a str,
    /// How the bytes come.
    pub strategy: Strategy,
    /// What the parts must be, where they come in parts.
    pub parts: Option<Parts>,
    /// Most bytes it may take.
    pub max_bytes: u64,
    /// How long the session and its locations live.
    pub life: Duration,
    /// The file.
    pub file: NewFile,
    /// The client's mark on the call.
    pub once: Option<Once>,
}

/// Opens a session for one file. An equal call with the same mark gets the session that the first one opened.
///
/// # Errors
/// [`Refusal::NotFound`] for a next version of an unknown file, or one for an unknown store, [`Refusal::Invalid`] for a mark that stands for another
/// call, and as [`single`].
pub async fn upload(engine: &Engine, grant: &Grant, ask: Upload<'_>) -> Result<Session, Refusal> {
    let Upload { wire, strategy, parts, max_bytes, life, file, once } = ask;
    // Before anything is judged that may have changed since: a repetition has the first call's answer.
    if let Some(once) = &once
        && let Some(first) = opened_before(engine, grant, once).await?
    {
        return Ok(first);
    }
    if let Some(id) = file.next_of {
        super::file::find(engine, grant.tenant(), id).await?;
    }
    if let Some(store) = file.declaration.store
        && engine.meta.store(grant.tenant(), store).await?.is_none()
    {
        return Err(Refusal::NotFound { what: "the store" });
    }
    receive::require_space(engine, file.size.unwrap_or(0)).await?;
    let direct = match (strategy, parts) {
        (Strategy::Single, _) => direct::way_of_one(engine, wire, file.size),
        (Strategy::Multipart, Some(parts)) => direct::way_of_parts(engine, wire, parts, file.size),
        (Strategy::Resumable, _) => direct::way_of_chunks(engine, wire, file.size),
        (Strategy::Multipart, None) => None,
    };
    let session = Session { parts, direct, ..with_file(session(engine, grant, wire, max_bytes, life), file, strategy) };
    match once {
        None => record(engine, vec![session.clone()]).await?,
        Some(once) => match engine.meta.open_marked(session.clone(), once).await? {
            Opening::New => {}
            Opening::Before(first) => return Ok(*first),
            Opening::OtherBody => return Err(Refusal::other_call()),
            Opening::OverQuota(over) => return Err(over.into()),
        },
    }
    match strategy {
        Strategy::Single => faults::point("single.session_row"),
        Strategy::Resumable => faults::point("resumable.session_row"),
        Strategy::Multipart => faults::point("parts.session_row"),
    }
    metrics::counter!("landfall_sessions_opened_total", "strategy" => strategy.name()).increment(1);
    Ok(session)
}

/// Opens a session for a file that comes in one PUT at a plain ticket. Each PUT that succeeds makes a version, until the
/// session expires or the file is deleted.
///
/// # Errors
/// [`Refusal::NotFound`] for a next version of an unknown file, and as [`single`].
pub async fn whole(engine: &Engine, grant: &Grant, ask: Plainly<'_>) -> Result<Opened, Refusal> {
    let base = ask.base;
    let session = Session { versions_allowed: true, ..plainly(engine, grant, ask, Strategy::Single).await? };
    record(engine, vec![session.clone()]).await?;
    faults::point("single.session_row");
    metrics::counter!("landfall_sessions_opened_total", "strategy" => "single").increment(1);
    let url = whole_url(engine, &session, base);
    Ok(Opened { session: session.id, file: session.file, url, expires: session.expires })
}

/// Opens a session for a file that comes in parts at plain tickets.
///
/// # Errors
/// [`Refusal::NotFound`] for a next version of an unknown file, and as [`single`].
pub async fn multipart(engine: &Engine, grant: &Grant, ask: Plainly<'_>, parts: Parts) -> Result<OpenedParts, Refusal> {
    let base = ask.base;
    let session = Session { parts: Some(parts), ..plainly(engine, grant, ask, Strategy::Multipart).await? };
    record(engine, vec![session.clone()]).await?;
    faults::point("parts.session_row");
    metrics::counter!("landfall_sessions_opened_total", "strategy" => "multipart").increment(1);
    let urls = all_part_urls(engine, &session, base).await?;
    Ok(OpenedParts { session: session.id, file: session.file, urls, expires: session.expires })
}

/// Names and values.
pub type Headers = Vec<(String, String)>;

async fn plainly(engine: &Engine, grant: &Grant, ask: Plainly<'_>, strategy: Strategy) -> Result<Session, Refusal> {
    if let Some(id) = ask.file.next_of {
        super::file::find(engine, grant.tenant(), id).await?;
    }
    receive::require_space(engine, ask.file.size.unwrap_or(0)).await?;
    let session = session(engine, grant, ask.wire, ask.max_bytes, ask.life);
    let session = with_file(session, ask.file, strategy);
    Ok(Session { file: ask.content_of.unwrap_or(session.file), ..session })
}

/// The plain ticket of a session whose file comes whole.
#[must_use]
pub fn whole_url(engine: &Engine, session: &Session, base: &str) -> String {
    let plain = Plain { wire: session.wire.clone(), session: session.id, part: None };
    engine.tickets.plain_url(base, &plain, session.expires)
}

/// Where these parts of a session are sent: plain tickets, or locations at the store itself.
///
/// # Errors
/// The keepers' own, and [`Refusal::Gone`] or [`Refusal::Conflict`] when the session ended meanwhile.
pub async fn part_urls(
    engine: &Engine,
    session: &Session,
    base: &str,
    numbers: &[u32],
) -> Result<Vec<String>, Refusal> {
    if session.direct.is_some() {
        return direct::part_tickets(engine, session, numbers).await;
    }
    let url = |number: &u32| {
        let plain = Plain { wire: session.wire.clone(), session: session.id, part: Some(*number) };
        engine.tickets.plain_url(base, &plain, session.expires)
    };
    Ok(numbers.iter().map(url).collect())
}

/// The same of all parts, the first part's first.
///
/// # Errors
/// As [`part_urls`].
pub async fn all_part_urls(engine: &Engine, session: &Session, base: &str) -> Result<Vec<String>, Refusal> {
    let numbers: Vec<u32> = (1..=session.parts.map_or(0, |parts| parts.count)).collect();
    part_urls(engine, session, base, &numbers).await
}

/// Where a session's whole body is sent, and the headers that must come with it.
///
/// # Errors
/// The keepers' own.
pub async fn put_location(engine: &Engine, session: &Session, base: &str) -> Result<(String, Headers), Refusal> {
    if session.direct.is_none() {
        return Ok((location(engine, session, base), Headers::new()));
    }
    let mime_type = session.declaration.as_ref().map_or("", |declaration| declaration.mime_type.as_str());
    let ticket = direct::ticket(engine, session, &[("content-type", mime_type)], u32::MAX).await?;
    Ok((ticket.url, ticket.headers))
}

async fn opened_before(engine: &Engine, grant: &Grant, once: &Once) -> Result<Option<Session>, Refusal> {
    match engine.meta.recall(grant.tenant(), once.clone()).await? {
        Marked::New => Ok(None),
        Marked::OtherBody => Err(Refusal::other_call()),
        Marked::Before(id) => {
            let id = uuid::Uuid::from_slice(&id).map_err(|_| Refusal::Internal)?;
            engine.meta.session(grant.tenant(), SessionId(id)).await?.map(Some).ok_or(Refusal::Internal)
        }
    }
}

/// Where a session's chunks are sent: a session URL of ours, or one of the store's, whose answers the pages of an origin may
/// read (`page`).
///
/// # Errors
/// As [`part_urls`].
pub async fn session_location(
    engine: &Engine,
    session: &Session,
    base: &str,
    page: Option<&str>,
) -> Result<String, Refusal> {
    match session.direct {
        Some(_) => direct::session_location(engine, session, page).await,
        None => Ok(engine.tickets.session_url(base, session.id)),
    }
}

/// The location of a single PUT: the same for a session's whole life, so that asking again loses nothing.
fn location(engine: &Engine, session: &Session, base: &str) -> String {
    let life = session.expires.millis().saturating_sub(session.created.millis());
    let life = Duration::from_millis(u64::try_from(life).unwrap_or(0));
    let target = Target { wire: session.wire.clone(), tenant: session.tenant.clone(), session: session.id };
    engine.tickets.issue(base, &target, &[], session.created, life)
}

/// The same, for so long.
#[must_use]
pub fn single_url(engine: &Engine, session: &Session, base: &str, headers: &[(&str, &str)], life: Duration) -> String {
    let target = Target { wire: session.wire.clone(), tenant: session.tenant.clone(), session: session.id };
    engine.tickets.issue(base, &target, headers, engine.clock.now(), life)
}

/// Opens resumable sessions, all or none; base and page of their locations as with [`session_location`].
///
/// # Errors
/// As [`single`].
pub async fn resumable(
    engine: &Engine,
    grant: &Grant,
    (base, page): (&str, Option<&str>),
    asks: Vec<Resumable<'_>>,
) -> Result<Vec<Opened>, Refusal> {
    let sizes = asks.iter().filter_map(|ask| ask.file.size).fold(0, u64::saturating_add);
    receive::require_space(engine, sizes).await?;
    let mut sessions = Vec::with_capacity(asks.len());
    for mut ask in asks {
        // Nobody knows yet who will want to compare, and a second read costs more.
        ask.file.declaration.hashes =
            ask.file.declaration.hashes.and(Hashes { md5: engine.policy.keep_md5, sha256: false });
        let direct = direct::way_of_chunks(engine, ask.wire, ask.file.size);
        let session = session(engine, grant, ask.wire, ask.max_bytes, ask.life);
        sessions.push(Session { direct, ..with_file(session, ask.file, Strategy::Resumable) });
    }
    record(engine, sessions.clone()).await?;
    faults::point("resumable.session_row");
    let located = futures_util::stream::iter(sessions.clone())
        .map(|session| async move {
            let url = session_location(engine, &session, base, page).await?;
            Ok(Opened { session: session.id, file: session.file, url, expires: session.expires })
        })
        .buffered(BEGINNING);
    let opened: Result<Vec<Opened>, Refusal> = located.collect::<Vec<_>>().await.into_iter().collect();
    if opened.is_err() {
        // Nobody was told about any of them.
        for session in &sessions {
            engine.meta.end_session(session.id, SessionState::Aborted, engine.clock.now()).await?;
        }
        engine.work.wake();
    }
    let count = u64::try_from(sessions.len()).unwrap_or(0);
    metrics::counter!("landfall_sessions_opened_total", "strategy" => "resumable").increment(count);
    opened
}

/// Makes the rows durable.
pub(super) async fn record(engine: &Engine, sessions: Vec<Session>) -> Result<(), Refusal> {
    match engine.meta.open_sessions(sessions).await? {
        None => Ok(()),
        Some(over) => Err(over.into()),
    }
}

pub(super) fn with_file(session: Session, file: NewFile, strategy: Strategy) -> Session {
    Session {
        // A new file and its first upload share their id: whoever knows one finds the other.
        file: file.next_of.unwrap_or(FileId(session.id.0)),
        strategy,
        size: file.size,
        reserved: file.size.unwrap_or(0),
        versions_allowed: false,
        needs_file: file.next_of.is_some(),
        registers: file.registers,
        declaration: Some(Declaration {
            hashes: file.declaration.hashes.and(Hashes::for_checking(&file.declaration.digests)),
            ..file.declaration
        }),
        ..session
    }
}

/// A session row as it begins.
pub(super) fn session(engine: &Engine, grant: &Grant, wire: &str, max_bytes: u64, life: Duration) -> Session {
    let now = engine.clock.now();
    Session {
        id: SessionId(ordered_uuid(now)),
        tenant: grant.tenant().clone(),
        file: FileId(ordered_uuid(now)),
        wire: wire.to_owned(),
        strategy: Strategy::Single,
        state: SessionState::Open,
        epoch: 1,
        size: None,
        max_bytes: max_bytes.min(limits::CONTAINER_MAX_BYTES),
        versions_allowed: true,
        created: now,
        expires: now.plus(life),
        reserved: 0,
        registers: false,
        key: grant.key(),
        declaration: None,
        needs_file: false,
        parts: None,
        direct: None,
    }
}
