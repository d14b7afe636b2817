//! Registration: a push is accepted, its containers are used up and its job is due, in one transaction.

use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::access::Grant;
use super::direct;
use super::receive::{self, Stored};
use crate::clock::{Timestamp, ordered_uuid};
use crate::engine::Engine;
use crate::faults;
use crate::limits;
use crate::meta::{self, Changes, FileUse, ItemLimits, ItemRoom, NewPush};
use crate::model::change::Ordering;
use crate::model::ids::{FileId, RequestId, StreamId, VersionId};
use crate::model::refusal::Refusal;
use crate::model::source::PushKind;

/// A container that a push names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Container {
    /// The file.
    pub file: FileId,
    /// Its version; `None` when another push used it: then only an equal call gets an answer.
    pub version: Option<crate::model::file::Version>,
}

/// Looks up a container by the id that the client gave. `name` is the parameter's name, for the refusal.
///
/// # Errors
/// [`Refusal::Invalid`] when there is no such container in the tenant, it is expired, or nothing was uploaded to it;
/// [`Refusal::TooLarge`] when what was sent to the store itself is too large.
pub async fn container(engine: &Engine, grant: &Grant, name: &str, id: &str) -> Result<Container, Refusal> {
    let unknown = |why: &str| Err(Refusal::invalid(name, format!("`{}` {why}", printable(id))));
    let Ok(file) = id.parse::<FileId>() else { return unknown("is not the id of a file container") };
    match direct::file(engine, grant, file).await? {
        None => unknown("is not a file container with content: it is unknown, expired, or nothing was uploaded to it"),
        Some(info) if info.used.is_some() => Ok(Container { file, version: None }),
        Some(info) if info.expires.is_some_and(|expires| expires <= engine.clock.now()) => {
            unknown("is an expired file container: ask for a new one and upload again")
        }
        Some(info) => match info.version {
            Some(version) => Ok(Container { file, version: Some(version) }),
            None => unknown("is a file container whose content is gone"),
        },
    }
}

/// Of several containers those that something was uploaded to, in their order: clients open some that they never fill.
/// `name` is the parameter that names them all.
///
/// # Errors
/// [`Refusal::Invalid`] when one of them was used by another call, or expired before anybody could know what it has.
pub async fn filled_containers(
    engine: &Engine,
    grant: &Grant,
    name: &str,
    files: Vec<FileId>,
) -> Result<Vec<Container>, Refusal> {
    let mut containers = Vec::new();
    for file in files {
        let Some(info) = direct::file(engine, grant, file).await? else {
            if direct::is_over(engine, grant, file).await? {
                return Err(Refusal::invalid(name, format!("has a container, `{file}`, that expired: begin again")));
            }
            continue;
        };
        if info.used.is_some() {
            return Err(Refusal::invalid(name, format!("has a container, `{file}`, that was used by another call")));
        }
        containers.push(Container { file, version: info.version });
    }
    Ok(containers)
}

fn printable(id: &str) -> String {
    id.chars().filter(|c| !c.is_control()).take(64).collect()
}

/// Whom a push is for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Target {
    /// A source: row and id.
    Source(i64, String),
    /// An identity provider: id.
    Provider(String),
}

/// The records of a push.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Records {
    /// JSON, one record a line.
    Lines(Vec<u8>),
    /// The same, stored already.
    Stored(Stored),
}

/// A push that a dialect has checked and translated.
#[derive(Clone, PartialEq, Debug)]
pub struct Ask {
    /// Whom it is for.
    pub target: Target,
    /// What it asks for.
    pub kind: PushKind,
    /// Its ordering id, when the client gave one.
    pub ordering: Option<Ordering>,
    /// Its records.
    pub records: Records,
    /// How many there are.
    pub count: u64,
    /// Of them, those that add an item or replace one.
    pub puts: u64,
    /// Of them, those that change a part of an item.
    pub patches: u64,
    /// Containers whose bytes become content of items, with the versions seen.
    pub contents: Vec<Container>,
    /// Containers whose bytes were translated into the records.
    pub used_up: Vec<Container>,
    /// What the client calls the parameter that names its containers, for the refusal.
    pub file_parameter: &'static str,
    /// What makes two calls the same call: everything that the client sent.
    pub call: Vec<u8>,
    /// The stream that it closes.
    pub closes: Option<StreamId>,
    /// Not before this much time has passed.
    pub delay: Duration,
}

impl Ask {
    /// A push without records, due at once.
    #[must_use]
    pub fn new(target: Target, kind: PushKind) -> Self {
        Self {
            target,
            kind,
            ordering: None,
            records: Records::Lines(Vec::new()),
            count: 0,
            puts: 0,
            patches: 0,
            contents: Vec::new(),
            used_up: Vec::new(),
            file_parameter: "fileId",
            call: Vec::new(),
            closes: None,
            delay: Duration::ZERO,
        }
    }
}

/// How many items a push may add and change, for those who count them while they read it: a push that would be
/// refused in the end need not be stored first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Room {
    left: ItemRoom,
    now: Timestamp,
}

impl Room {
    /// Is there room for so many records that add or replace an item, and so many that change a part of one?
    ///
    /// # Errors
    /// [`Refusal::TooManyItems`] or [`Refusal::TooManyItemsToday`].
    pub fn check(&self, puts: u64, patches: u64) -> Result<(), Refusal> {
        let over = |left: Option<u64>, count: u64| left.is_some_and(|left| count > left);
        match self.left.limits {
            ItemLimits { per_source: Some(limit), .. } if over(self.left.puts, puts) => {
                Err(Refusal::TooManyItems { limit })
            }
            ItemLimits { per_day: Some(limit), .. } if over(self.left.changed, puts.saturating_add(patches)) => {
                Err(too_many_today(limit, self.now))
            }
            ItemLimits { .. } => Ok(()),
        }
    }
}

/// The room for a push of this kind; without a limit for identities.
///
/// # Errors
/// The keepers' own.
pub async fn room(engine: &Engine, grant: &Grant, target: &Target, kind: PushKind) -> Result<Room, Refusal> {
    let now = engine.clock.now();
    let left = match target {
        Target::Source(row, _) => engine.meta.item_room(grant.tenant(), *row, kind, now).await?,
        Target::Provider(_) => ItemRoom::default(),
    };
    Ok(Room { left, now })
}

fn too_many_today(limit: u64, now: Timestamp) -> Refusal {
    Refusal::TooManyItemsToday { limit, retry_after: now.rest_of_day() }
}

/// What a client follows an accepted push by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Accepted {
    /// Its id.
    pub request: RequestId,
    /// Its ordering id.
    pub ordering: Ordering,
}

/// Accepts a push. An equal call that uses up the same containers gets the first one's answer and has no further
/// effect.
///
/// # Errors
/// [`Refusal::Invalid`] when a container was used by another call or got another content meanwhile;
/// [`Refusal::TenantPaused`], [`Refusal::TooManyItems`] and [`Refusal::TooManyItemsToday`], which no push gets that only
/// deletes; and the keepers' own.
pub async fn accept(engine: &Engine, grant: &Grant, ask: Ask) -> Result<Accepted, Refusal> {
    let now = engine.clock.now();
    let changes = match ask.records {
        Records::Lines(lines) if lines.len() <= limits::INLINE_CHANGES_BYTES => Changes::Inline(lines),
        Records::Lines(lines) => stored(store_lines(engine, grant, lines).await?),
        Records::Stored(stored_records) => stored(stored_records),
    };
    let call = Sha256::digest(&ask.call).to_vec();
    let use_of = |container: &Container, as_content| FileUse {
        file: container.file,
        version: container.version.as_ref().map_or(VersionId(uuid::Uuid::nil()), |v| v.id),
        call: call.clone(),
        as_content,
    };
    let uses = ask
        .contents
        .iter()
        .map(|c| use_of(c, true))
        .chain(ask.used_up.iter().map(|c| use_of(c, false)))
        .collect::<Vec<_>>();
    let (source, target) = match ask.target {
        Target::Source(row, id) => (Some(row), id),
        Target::Provider(id) => (None, id),
    };
    let gone = target.clone();
    let request = RequestId(ordered_uuid(now));
    faults::point("register.checked");
    let outcome = engine
        .meta
        .accept(NewPush {
            request,
            tenant: grant.tenant().clone(),
            source,
            target,
            kind: ask.kind,
            ordering: ask.ordering,
            // What need not wait is due by any clock, also by one that is set back.
            due: if ask.delay.is_zero() { Timestamp(0) } else { now.plus(ask.delay) },
            changes,
            records: ask.count,
            puts: ask.puts,
            changed: ask.puts.saturating_add(ask.patches),
            uses,
            closes: ask.closes,
            now,
            keep_replaced: Duration::ZERO,
        })
        .await?;
    match outcome {
        meta::Accepted::New(ordering) => {
            faults::point("register.committed");
            engine.work.wake();
            metrics::counter!("landfall_pushes_accepted_total", "kind" => ask.kind.name()).increment(1);
            Ok(Accepted { request, ordering })
        }
        meta::Accepted::Before(request, ordering) => Ok(Accepted { request, ordering }),
        meta::Accepted::FileGone(file) => Err(Refusal::invalid(
            ask.file_parameter,
            format!("`{file}` was used by another call, or expired: a file container serves one call"),
        )),
        meta::Accepted::FileReplaced(file) => Err(Refusal::invalid(
            ask.file_parameter,
            format!("`{file}` got another content while this call read it: repeat the call"),
        )),
        meta::Accepted::TenantPaused => Err(Refusal::TenantPaused),
        meta::Accepted::TooManyItems(limit) => Err(Refusal::TooManyItems { limit }),
        meta::Accepted::TooManyItemsToday(limit) => Err(too_many_today(limit, now)),
        meta::Accepted::SourceGone => Err(Refusal::TargetUnknown { what: "source", id: gone }),
        meta::Accepted::StreamGone => Err(Refusal::invalid(
            "streamId",
            "is not an open stream of this source; one that is not closed within 24 hours ends",
        )),
    }
}

fn stored(records: Stored) -> Changes {
    Changes::Stored { file: records.file, version: records.version, size: records.size }
}

async fn store_lines(engine: &Engine, grant: &Grant, lines: Vec<u8>) -> Result<Stored, Refusal> {
    let body = pin!(futures_util::stream::iter([Ok(Bytes::from(lines))]));
    receive::store(engine, grant.tenant(), body, limits::ORPHAN_GRACE).await
}
