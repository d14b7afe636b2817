//! Uploads: opened, followed, committed, ended.

use std::sync::Arc;
use std::time::Duration;

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde_json::{Map, Value, json};

use super::fields::{self, Fields};
use super::query::{self, Query};
use super::{Reply, WIRE, answer, tenant, wire};
use crate::engine::Engine;
use crate::faults;
use crate::http::call::Call;
use crate::http::doors::Doors;
use crate::limits;
use crate::meta::UploadFilter;
use crate::model::access::Right;
use crate::model::file::Receipt;
use crate::model::ids::{FileId, SessionId, StoreId};
use crate::model::refusal::Refusal;
use crate::model::session::{Declaration, Parts, Session, SessionState, Strategy};
use crate::upload::access::Grant;
use crate::upload::open::{self, NewFile, Upload};
use crate::upload::parts;
use crate::upload::track::{self, Claim, Tracked};

/// Up to this size one PUT is the simpler way.
const SINGLE_BYTES: u64 = 64 * 1024 * 1024;
/// The size that parts have, as long as there are not too many of them.
const PART_BYTES: u64 = 16 * 1024 * 1024;
const LIFE_MIN: u64 = 60;
const STATES: &str = "open, committed, aborted, expired, failed";
const MIME_DEFAULT: &str = "application/octet-stream";

pub(super) async fn create(doors: Arc<Doors>, mut call: Call) -> Reply {
    let grant = tenant::grant(&doors, &call, Right::Upload).await?;
    let mark = tenant::mark(&call)?;
    let body = call.json(&doors, limits::SMALL_JSON_BYTES, "an upload's description is short").await?;
    let now = doors.engine.clock.now();
    let once = mark.map(|mark| crate::tenant::once(mark, "POST /uploads", &body, now));
    let mut ask = asked(&body)?;
    inherit(&doors.engine, &grant, &mut ask).await?;
    let session = open::upload(&doors.engine, &grant, Upload { once, ..ask.upload }).await?;
    let mut shown = new_upload(&session);
    locate(&doors.engine, &session, (&call.origin(&doors), call.page(&doors)), &mut shown).await?;
    let mut response = answer(StatusCode::CREATED, &shown)?;
    let at = format!("{}{}/uploads/{}", call.origin(&doors), super::BASE, session.id);
    if let Ok(at) = HeaderValue::try_from(at) {
        response.headers_mut().insert(header::LOCATION, at);
    }
    if session.parts.is_some() {
        faults::point("parts.tickets_sent");
    }
    Ok(response)
}

/// What a call asks for, and what it left to the file that it makes a version of.
struct Asked {
    upload: Upload<'static>,
    mime_type: bool,
    path: bool,
    metadata: bool,
}

fn asked(body: &[u8]) -> Result<Asked, Refusal> {
    let known = [
        "name",
        "size",
        "mime_type",
        "strategy",
        "parts",
        "digests",
        "file_id",
        "path",
        "attach",
        "metadata",
        "expires_in",
    ];
    let fields = Fields::read(body, &known)?;
    let name = fields.name("name")?.ok_or_else(|| Refusal::Missing { name: "name".into() })?;
    let size = fields.number("size")?;
    let strategy = strategy(&fields, size)?;
    let parts = match strategy {
        Strategy::Single | Strategy::Resumable => None,
        Strategy::Multipart => Some(parts(&fields, size)?),
    };
    let max_bytes = match strategy {
        Strategy::Single => limits::FILE_MAX_BYTES,
        Strategy::Resumable | Strategy::Multipart => limits::CONTAINER_MAX_BYTES,
    };
    if size.is_some_and(|size| size > max_bytes) {
        return Err(Refusal::TooLarge { what: "a file", limit: max_bytes, remedy: "take the strategy `resumable`" });
    }
    let next_of = match fields.text("file_id")? {
        None => None,
        Some(id) => Some(FileId::from_public(id).ok_or(Refusal::NotFound { what: "the file" })?),
    };
    let store = match fields.object("attach", "attach.", &["store"])? {
        None => None,
        Some(attach) => match attach.text("store")? {
            None => return Err(Refusal::Missing { name: "attach.store".into() }),
            Some(id) => Some(
                StoreId::from_public(id)
                    .ok_or_else(|| attach.wrong("store", "must be a store's id: `vs_` and 32 hexadecimal digits"))?,
            ),
        },
    };
    let life = fields.seconds("expires_in", LIFE_MIN, limits::SESSION_LIFE.as_secs())?;
    let (mime_type, path, metadata) = (fields.mime_type("mime_type")?, fields.path("path")?, fields.metadata()?);
    let (has_type, has_path, has_metadata) = (mime_type.is_some(), path.is_some(), metadata.is_some());
    let declaration = Declaration {
        name,
        mime_type: mime_type.unwrap_or_else(|| MIME_DEFAULT.into()),
        path,
        digests: fields.digests()?,
        metadata: metadata.unwrap_or_default(),
        store,
        ..Declaration::default()
    };
    let upload = Upload {
        wire: WIRE,
        strategy,
        parts,
        max_bytes,
        life: life.map_or(limits::SESSION_LIFE, Duration::from_secs),
        file: NewFile { size, registers: true, declaration, next_of },
        once: None,
    };
    Ok(Asked { upload, mime_type: has_type, path: has_path, metadata: has_metadata })
}

fn strategy(fields: &Fields, size: Option<u64>) -> Result<Strategy, Refusal> {
    let strategy = match fields.text("strategy")? {
        None | Some("auto") if fields.has("parts") => Strategy::Multipart,
        None | Some("auto") => match size {
            Some(size) if size <= SINGLE_BYTES => Strategy::Single,
            // Parts come at once and in any order, and only their checksums combine.
            Some(_) if parts::only_crcs(&fields.digests()?).is_ok() => Strategy::Multipart,
            _ => Strategy::Resumable,
        },
        Some(name) => Strategy::from_name(name)
            .ok_or_else(|| fields.wrong("strategy", "must be one of single, resumable, multipart, auto"))?,
    };
    match strategy {
        Strategy::Single | Strategy::Resumable if fields.has("parts") => {
            Err(fields.wrong("parts", "is for the strategy multipart only"))
        }
        Strategy::Single if size.is_none() => Err(Refusal::Missing { name: "size".into() }),
        Strategy::Single | Strategy::Resumable | Strategy::Multipart => Ok(strategy),
    }
}

/// How many parts there are, and how large each may be.
fn parts(fields: &Fields, size: Option<u64>) -> Result<Parts, Refusal> {
    parts::only_crcs(&fields.digests()?)?;
    let count = match (fields.number("parts")?, size) {
        (Some(count), _) => u32::try_from(count).unwrap_or(0),
        (None, Some(size)) => u32::try_from(size.div_ceil(PART_BYTES)).unwrap_or(u32::MAX).clamp(1, limits::PARTS_MAX),
        (None, None) => return Err(Refusal::Missing { name: "parts".into() }),
    };
    if !(1..=limits::PARTS_MAX).contains(&count) {
        return Err(fields.wrong("parts", format!("must be from 1 to {}", limits::PARTS_MAX)));
    }
    let largest = size.map_or(limits::PART_MAX_BYTES, |size| size.min(limits::PART_MAX_BYTES));
    if size.is_some_and(|size| size.div_ceil(count.into()) > largest) {
        return Err(fields.wrong("parts", format!("makes parts of more than {largest} bytes: ask for more of them")));
    }
    Ok(Parts { count, smallest: 0, largest })
}

/// The size of all parts but the last, which has the rest.
fn part_size(session: &Session) -> Option<u64> {
    Some(session.size?.div_ceil(session.parts?.count.into()))
}

/// What is not said about a next version is as it was with the last one.
async fn inherit(engine: &Engine, grant: &Grant, ask: &mut Asked) -> Result<(), Refusal> {
    let Some(id) = ask.upload.file.next_of else { return Ok(()) };
    let Ok(before) = crate::upload::file::find(engine, grant.tenant(), id).await else { return Ok(()) };
    let declaration = &mut ask.upload.file.declaration;
    if !ask.mime_type {
        declaration.mime_type = before.mime_type;
    }
    if !ask.path {
        declaration.path = before.path;
    }
    if !ask.metadata {
        declaration.metadata = before.metadata;
    }
    Ok(())
}

/// Where the bytes go, and how.
async fn locate(
    engine: &Engine,
    session: &Session,
    (base, page): (&str, Option<&str>),
    into: &mut Map<String, Value>,
) -> Result<(), Refusal> {
    match session.strategy {
        Strategy::Multipart => {
            into.insert("part_urls".into(), open::all_part_urls(engine, session, base).await?.into());
        }
        Strategy::Single => {
            let (url, headers) = open::put_location(engine, session, base).await?;
            into.insert("url".into(), url.into());
            let headers = headers.into_iter().map(|(name, value)| (name, Value::from(value)));
            into.insert("required_headers".into(), Value::Object(headers.collect()));
        }
        Strategy::Resumable => {
            into.insert("url".into(), open::session_location(engine, session, base, page).await?.into());
            into.insert("chunk_size".into(), limits::CHUNK_BYTES.into());
        }
    }
    Ok(())
}

/// An upload as it begins: what the call that opened it answers, and every repetition of it.
fn new_upload(session: &Session) -> Map<String, Value> {
    shown(session, SessionState::Open, Some(0))
}

fn shown(session: &Session, state: SessionState, received: Option<u64>) -> Map<String, Value> {
    let declaration = session.declaration.clone().unwrap_or_default();
    let shown = json!({
        "id": session.id,
        "state": state.name(),
        "strategy": session.strategy.name(),
        "api": session.wire,
        "name": declaration.name,
        "size": session.size,
        "mime_type": declaration.mime_type,
        "path": declaration.path,
        "metadata": declaration.metadata,
        "digests": wire::declared(&declaration.digests),
        "file_id": session.file.public(),
        "received": received,
        "created_at": session.created.rfc3339(),
        "expires_at": session.expires.rfc3339(),
    });
    let Value::Object(mut shown) = shown else { return Map::new() };
    if let Some(parts) = session.parts {
        shown.insert("parts".into(), parts.count.into());
        shown.insert("part_size".into(), json!(part_size(session)));
    }
    shown
}

fn tracked(upload: &Tracked) -> Map<String, Value> {
    let session = &upload.upload.session;
    let received = upload.received();
    let mut shown = shown(session, upload.state, received);
    let next = received.filter(|_| upload.state == SessionState::Open && session.strategy == Strategy::Resumable);
    let problem = upload.trouble.as_ref().map(|t| json!({"detail": t.what, "at": t.at.rfc3339()}));
    shown.insert("next_offset".into(), json!(next));
    shown.insert("problem".into(), json!(problem));
    shown.insert("committed_at".into(), json!(upload.upload.receipt.map(|r| r.committed.rfc3339())));
    shown
}

pub(super) async fn list(doors: Arc<Doors>, call: Call) -> Reply {
    let tenant = tenant::reader(&doors, &call, Right::Upload).await?;
    let query = Query::parse(&call.query, &["state", "name", "size", "sha256", "limit", "cursor"])?;
    let sha256 = match query.get("sha256") {
        None => None,
        Some(text) => Some(
            fields::digest(text)
                .ok_or_else(|| Refusal::invalid("sha256", "must be 64 lower-case hexadecimal digits"))?,
        ),
    };
    let limit = query.limit()?;
    let filter = UploadFilter {
        state: query.word("state", SessionState::from_name, STATES)?,
        name: query.get("name").map(str::to_owned),
        size: query.number("size")?,
        sha256,
        before: query.cursor_of(|bytes: [u8; 16]| Some(SessionId(uuid::Uuid::from_bytes(bytes))))?,
        limit: limit.saturating_add(1),
        ..UploadFilter::default()
    };
    let mut uploads = track::list(&doors.engine, &tenant, filter).await?;
    let more = uploads.len() > usize::try_from(limit).unwrap_or(usize::MAX);
    uploads.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    let next = uploads.last().filter(|_| more).map(|last| query::cursor_to(last.upload.session.id.0.as_bytes()));
    answer(StatusCode::OK, &json!({"items": uploads.iter().map(tracked).collect::<Vec<_>>(), "next_cursor": next}))
}

fn id(call: &Call) -> Result<SessionId, Refusal> {
    let text = call.parameter("upload");
    let id = text.parse::<SessionId>().ok().filter(|id| id.to_string() == text);
    id.ok_or(Refusal::NotFound { what: "the upload" })
}

pub(super) async fn one(doors: Arc<Doors>, call: Call) -> Reply {
    let tenant = tenant::reader(&doors, &call, Right::Upload).await?;
    Query::parse(&call.query, &[])?;
    let found = track::find(&doors.engine, &tenant, id(&call)?).await?;
    let mut shown = tracked(&found);
    if found.state == SessionState::Open && found.upload.session.parts.is_some() {
        let (missing, received) = parts::missing(&doors.engine, &found.upload.session).await?;
        if let Some(received) = received {
            shown.insert("received".into(), received.into());
        }
        shown.insert("missing_parts".into(), json!(missing.first));
        shown.insert("missing_count".into(), missing.count.into());
    }
    answer(StatusCode::OK, &shown)
}

/// Fresh locations for an upload that is still open.
pub(super) async fn urls(doors: Arc<Doors>, mut call: Call) -> Reply {
    let grant = tenant::grant(&doors, &call, Right::Upload).await?;
    let mark = tenant::mark(&call)?;
    let body = call.json(&doors, limits::SMALL_JSON_BYTES, "name the parts alone").await?;
    let id = id(&call)?;
    tenant::once(&doors, grant.tenant(), &call, mark, &body, async {
        let fields = Fields::read(&body, &["parts"])?;
        let found = track::live(&doors.engine, &grant, id).await?;
        let session = &found.upload.session;
        if session.strategy == Strategy::Single && session.wire != WIRE {
            // Which headers its PUT must carry, only the API knows that it was opened with.
            return Err(Refusal::Conflict { reason: "the upload was opened with another API: ask that one".into() });
        }
        let base = call.origin(&doors);
        let mut shown = Map::new();
        shown.insert("id".into(), json!(session.id));
        shown.insert("strategy".into(), session.strategy.name().into());
        shown.insert("expires_at".into(), session.expires.rfc3339().into());
        match session.parts {
            Some(parts) => {
                let wanted = asked_parts(&fields, parts)?;
                let urls = open::part_urls(&doors.engine, session, &base, &wanted).await?;
                shown.insert("part_urls".into(), urls.into());
                shown.insert("parts".into(), wanted.into());
            }
            None if fields.has("parts") => return Err(fields.wrong("parts", "is for multipart uploads only")),
            None => locate(&doors.engine, session, (&base, call.page(&doors)), &mut shown).await?,
        }
        Ok(shown.into())
    })
    .await
}

/// The parts that a call asks about; all where it names none.
fn asked_parts(fields: &Fields, parts: Parts) -> Result<Vec<u32>, Refusal> {
    let Some(asked) = fields.numbers("parts")? else { return Ok((1..=parts.count).collect()) };
    let wrong = |number: &u64| !(1..=u64::from(parts.count)).contains(number);
    if let Some(number) = asked.iter().find(|number| wrong(number)) {
        let reason = format!("must be numbers from 1 to {}, and {number} is none of them", parts.count);
        return Err(fields.wrong("parts", reason));
    }
    if asked.len() > usize::try_from(parts.count).unwrap_or(usize::MAX) {
        return Err(fields.wrong("parts", "names more parts than there are"));
    }
    Ok(asked.into_iter().filter_map(|number| u32::try_from(number).ok()).collect())
}

pub(super) async fn commit(doors: Arc<Doors>, mut call: Call) -> Reply {
    let grant = tenant::grant(&doors, &call, Right::Upload).await?;
    let mark = tenant::mark(&call)?;
    let body = call.json(&doors, limits::SMALL_JSON_BYTES, "name a size and digests alone").await?;
    let id = id(&call)?;
    let reply = tenant::once(&doors, grant.tenant(), &call, mark, &body, async {
        let fields = Fields::read(&body, &["size", "digests"])?;
        let claim = Claim { size: fields.number("size")?, digests: fields.digests()? };
        let (file, receipt) = track::commit(&doors.engine, &grant, id, claim).await?;
        Ok(shown_receipt(file, &receipt))
    })
    .await;
    faults::point("parts.reply");
    reply
}

fn shown_receipt(file: FileId, receipt: &Receipt) -> Value {
    json!({
        "file_id": file.public(),
        "version": receipt.version,
        "size": receipt.size,
        "digests": wire::digests(&receipt.digests),
        "committed_at": receipt.committed.rfc3339(),
    })
}

pub(super) async fn abort(doors: Arc<Doors>, call: Call) -> Reply {
    let grant = tenant::grant(&doors, &call, Right::Upload).await?;
    Query::parse(&call.query, &[])?;
    track::abort(&doors.engine, &grant, id(&call)?).await?;
    Ok(Response::into_response(StatusCode::NO_CONTENT.into_response()))
}
