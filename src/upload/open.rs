//! Opening a session: the first fact of an upload, before anything is created anywhere.

use std::time::Duration;

use super::access::Grant;
use crate::clock::ordered_uuid;
use crate::engine::Engine;
use crate::faults;
use crate::model::ids::{FileId, SessionId};
use crate::model::refusal::Refusal;
use crate::model::session::{Session, SessionState, Strategy};
use crate::ticket::Target;

/// What a dialect asks for.
#[derive(Clone, Copy, Debug)]
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
}

/// A session with its ticket.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Opened {
    /// The file that the upload will make.
    pub file: FileId,
    /// The upload location: a secret.
    pub url: String,
}

/// Opens a session for one PUT, which may be repeated until the file is used.
///
/// # Errors
/// [`Refusal::Unavailable`] or [`Refusal::OutOfSpace`] when the fact could not be made durable.
pub async fn single(engine: &Engine, grant: &Grant, ask: Single<'_>) -> Result<Opened, Refusal> {
    let now = engine.clock.now();
    let session = session(engine, grant, ask.wire, ask.max_bytes, ask.life);
    engine.meta.open_session(session.clone()).await?;
    faults::point("single.session_row");
    let target = Target { wire: ask.wire.to_owned(), tenant: session.tenant, session: session.id };
    let url = engine.tickets.issue(ask.base, &target, ask.headers, now, ask.life);
    metrics::counter!("landfall_sessions_opened_total", "strategy" => "single").increment(1);
    Ok(Opened { file: session.file, url })
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
        max_bytes,
        versions_allowed: true,
        created: now,
        expires: now.plus(life),
    }
}
