//! Opening a session: the first fact of an upload, before anything is created anywhere.

use std::time::Duration;

use super::access::Grant;
use super::receive;
use crate::clock::{Timestamp, ordered_uuid};
use crate::engine::Engine;
use crate::faults;
use crate::limits;
use crate::model::ids::{FileId, SessionId};
use crate::model::refusal::Refusal;
use crate::model::session::{Declaration, Hashes, Session, SessionState, Strategy};
use crate::ticket::Target;

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
    let session = match ask.file {
        None => session(engine, grant, ask.wire, ask.max_bytes, ask.life),
        Some(file) => {
            receive::require_space(engine, file.size.unwrap_or(0)).await?;
            with_file(session(engine, grant, ask.wire, ask.max_bytes, ask.life), file, Strategy::Single)
        }
    };
    record(engine, vec![session.clone()]).await?;
    faults::point("single.session_row");
    let url = single_url(engine, &session, ask.base, ask.headers, ask.life);
    metrics::counter!("landfall_sessions_opened_total", "strategy" => "single").increment(1);
    Ok(Opened { session: session.id, file: session.file, url, expires: session.expires })
}

/// The location of a single PUT, for so long.
#[must_use]
pub fn single_url(engine: &Engine, session: &Session, base: &str, headers: &[(&str, &str)], life: Duration) -> String {
    let target = Target { wire: session.wire.clone(), tenant: session.tenant.clone(), session: session.id };
    engine.tickets.issue(base, &target, headers, engine.clock.now(), life)
}

/// Opens resumable sessions, all or none.
///
/// # Errors
/// As [`single`].
pub async fn resumable(
    engine: &Engine,
    grant: &Grant,
    base: &str,
    asks: Vec<Resumable<'_>>,
) -> Result<Vec<Opened>, Refusal> {
    let sizes = asks.iter().filter_map(|ask| ask.file.size).fold(0, u64::saturating_add);
    receive::require_space(engine, sizes).await?;
    let mut sessions = Vec::with_capacity(asks.len());
    for mut ask in asks {
        // Nobody knows yet who will want to compare, and a second read costs more.
        ask.file.declaration.hashes =
            ask.file.declaration.hashes.and(Hashes { md5: engine.policy.keep_md5, sha256: false });
        let session = session(engine, grant, ask.wire, ask.max_bytes, ask.life);
        sessions.push(with_file(session, ask.file, Strategy::Resumable));
    }
    record(engine, sessions.clone()).await?;
    faults::point("resumable.session_row");
    let opened = sessions.iter().map(|session| Opened {
        session: session.id,
        file: session.file,
        url: engine.tickets.session_url(base, session.id),
        expires: session.expires,
    });
    let count = u64::try_from(sessions.len()).unwrap_or(0);
    metrics::counter!("landfall_sessions_opened_total", "strategy" => "resumable").increment(count);
    Ok(opened.collect())
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
    }
}
