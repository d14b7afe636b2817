//! Links: where a file's content is sent to, and where it is fetched from.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use http::{HeaderValue, StatusCode, header};
use serde_json::{Map, Value};

use super::envelope::Fault;
use super::files::taken;
use super::json::Fields;
use super::query::Query;
use super::read::all;
use super::{DOWNLOAD, Reply, WIRE, answer, body, grant, items, now, project, view, wire};
use crate::http::call::Call;
use crate::http::doors::Doors;
use crate::http::download::{self, About};
use crate::limits;
use crate::model::access::Right;
use crate::model::entry::Entry;
use crate::model::ids::{FileId, SessionId};
use crate::model::refusal::Refusal;
use crate::model::session::{Parts, Session};
use crate::upload::access::Grant;
use crate::upload::entry::{self, Ask, Of, Opened};
use crate::upload::track::{self, Claim};
use crate::upload::{file, open, parts};

/// Most parts of an upload, the least bytes of each but the last, and the most of each.
const PARTS_MAX: u32 = 250;
const PART_MIN_BYTES: u64 = 5 * 1024 * 1024;
const PART_MAX_BYTES: u64 = 4_000 * 1024 * 1024;
/// Most download links of one call.
const LINKS_MAX: usize = 100;
/// How long a download link lives, and how long when it is asked for.
const LINK_LIFE: Duration = Duration::from_secs(30);
const EXTENDED_LIFE: Duration = Duration::from_secs(3600);

// ------------------------------------------------------------------------------------------------------------- uploads

/// A file is declared, and its content is to come in one PUT.
pub(super) async fn create(doors: Arc<Doors>, mut call: Call) -> Reply {
    let grant = grant(&doors, &call, Right::Upload).await?;
    let overwrite = Query::parse(&call.query).flag("overwrite")?;
    let of = declared(&body(&doors, &mut call).await?, overwrite)?;
    let (entry, session) = open_single(&doors, &grant, of).await?;
    answer(StatusCode::CREATED, &with_url(&doors, &call, &entry, &session)?)
}

/// What a body declares.
fn declared(body: &Map<String, Value>, overwrite: bool) -> Result<Of, Fault> {
    if body.contains_key("items") {
        return Err(Fault::field("items", "is not taken here: the body is one file"));
    }
    let facts = wire::facts(body)?;
    let overwrite = overwrite.then(|| Box::new(wire::overwriting(body, &facts)));
    Ok(Of::New { facts: Box::new(facts), overwrite })
}

/// A file that is there gets content in one PUT.
pub(super) async fn upload_link(doors: Arc<Doors>, mut call: Call) -> Reply {
    let grant = grant(&doors, &call, Right::Upload).await?;
    let body = body(&doors, &mut call).await?;
    let of = existing(&body)?;
    let (entry, session) = open_single(&doors, &grant, of).await?;
    items([with_url(&doors, &call, &entry, &session)?])
}

fn existing(body: &Map<String, Value>) -> Result<Of, Fault> {
    let refs = wire::entry_refs(&Fields::new(body).items(1)?)?;
    refs.into_iter().next().map(Of::Existing).ok_or_else(|| Fault::field("items", "is required"))
}

async fn open_single(doors: &Doors, grant: &Grant, of: Of) -> Result<(Entry, Session), Fault> {
    open_entry(doors, grant, of, None, false).await
}

async fn open_entry(
    doors: &Doors,
    grant: &Grant,
    of: Of,
    parts: Option<Parts>,
    direct: bool,
) -> Result<(Entry, Session), Fault> {
    let in_parts = |parts: Parts| PART_MAX_BYTES.saturating_mul(parts.count.into());
    let max_bytes = parts.map_or(limits::FILE_MAX_BYTES, in_parts);
    let ask = Ask { wire: WIRE, max_bytes, parts, direct, of: of.clone() };
    entry_of(entry::open(&doors.engine, grant, ask).await?, &of)
}

fn entry_of(opened: Opened, of: &Of) -> Result<(Entry, Session), Fault> {
    match (opened, of) {
        (Opened::Done(opened), _) => Ok(*opened),
        (Opened::Wrong(wrong), _) => Err(wire::wrong(&wrong)),
        (Opened::Taken, Of::New { facts, .. }) => Err(taken(facts.external_id.clone().into_iter().collect())),
        (Opened::Unknown, Of::Existing(which)) => Err(Fault::missing(vec![wire::identifier(which).into()])),
        (Opened::Taken, Of::Existing(_)) | (Opened::Unknown, Of::New { .. }) => Err(Refusal::Internal.into()),
    }
}

fn with_url(doors: &Doors, call: &Call, entry: &Entry, session: &Session) -> Result<Map<String, Value>, Fault> {
    let mut shown = wire::file(entry)?;
    let url = open::whole_url(&doors.engine, session, &call.origin(doors));
    shown.insert("uploadUrl".to_owned(), url.into());
    Ok(shown)
}

// --------------------------------------------------------------------------------------------------------------- parts

/// A file is declared, and its content is to come in parts.
pub(super) async fn create_in_parts(doors: Arc<Doors>, mut call: Call) -> Reply {
    let grant = grant(&doors, &call, Right::Upload).await?;
    let query = Query::parse(&call.query);
    let (parts, overwrite) = (parts_of(&query)?, query.flag("overwrite")?);
    let of = declared(&body(&doors, &mut call).await?, overwrite)?;
    answer(StatusCode::CREATED, &open_parts(&doors, &call, &grant, of, parts).await?)
}

/// A file that is there gets content in parts.
pub(super) async fn part_links(doors: Arc<Doors>, mut call: Call) -> Reply {
    let grant = grant(&doors, &call, Right::Upload).await?;
    let parts = parts_of(&Query::parse(&call.query))?;
    let of = existing(&body(&doors, &mut call).await?)?;
    items([open_parts(&doors, &call, &grant, of, parts).await?])
}

fn parts_of(query: &Query) -> Result<Parts, Fault> {
    let count = match query.get("parts").map(str::parse::<u32>) {
        None => return Err(Fault::field("parts", "is required")),
        Some(Ok(count @ 1..=PARTS_MAX)) => count,
        Some(_) => return Err(Fault::field("parts", format!("must be an integer from 1 to {PARTS_MAX}"))),
    };
    Ok(Parts { count, smallest: PART_MIN_BYTES, largest: PART_MAX_BYTES })
}

async fn open_parts(
    doors: &Doors,
    call: &Call,
    grant: &Grant,
    of: Of,
    parts: Parts,
) -> Result<Map<String, Value>, Fault> {
    let (entry, session) = open_entry(doors, grant, of, Some(parts), !sends_its_token(call)).await?;
    let urls = open::all_part_urls(&doors.engine, &session, &call.origin(doors)).await?;
    let mut shown = wire::file(&entry)?;
    shown.insert("uploadId".to_owned(), upload_id(session.id).into());
    shown.insert("uploadUrls".to_owned(), urls.into());
    Ok(shown)
}

/// Does the client send its bearer token to whatever host an upload URL names? A store refuses that, and has no business
/// with it.
fn sends_its_token(call: &Call) -> bool {
    let client = call.headers.get("x-cdp-sdk").and_then(|value| value.to_str().ok());
    client.is_some_and(|client| client.starts_with("CognitePythonSDK:") && !client.starts_with("CognitePythonSDK:7."))
}

/// A session as clients name it: opaque, and in one spelling.
fn upload_id(session: SessionId) -> String {
    URL_SAFE.encode(session.0.as_bytes())
}

fn session_id(text: &str) -> Option<SessionId> {
    let bytes: [u8; 16] = URL_SAFE.decode(text).ok()?.try_into().ok()?;
    Some(SessionId(uuid::Uuid::from_bytes(bytes)))
}

/// The parts become the file's content.
pub(super) async fn complete(doors: Arc<Doors>, mut call: Call) -> Reply {
    let grant = grant(&doors, &call, Right::Upload).await?;
    let body = body(&doors, &mut call).await?;
    let which = wire::entry_ref(&body)?;
    let upload_id = Fields::new(&body).required_text("uploadId")?;
    let found = all(&doors, grant.tenant(), vec![which], false).await?;
    let entry = found.first().ok_or_else(|| Fault::missing(Vec::new()))?;
    let unknown = || Fault::field("uploadId", "is not one of an upload of this file that is under way");
    let session = session_id(&upload_id).ok_or_else(unknown)?;
    let over = |refused: Refusal| match refused {
        Refusal::NotFound { .. } | Refusal::Gone { .. } | Refusal::Conflict { .. } => unknown(),
        other => other.into(),
    };
    let upload = track::find(&doors.engine, grant.tenant(), session).await.map_err(over)?.upload.session;
    if upload.file != entry.file || upload.wire != WIRE {
        return Err(unknown());
    }
    parts::complete(&doors.engine, &grant, session, Claim::default()).await.map_err(over)?;
    answer(StatusCode::OK, &Map::new())
}

// ----------------------------------------------------------------------------------------------------------- downloads

pub(super) async fn download_links(doors: Arc<Doors>, mut call: Call) -> Reply {
    let tenant = view(&doors, &call, Right::Read).await?;
    let extended = Query::parse(&call.query).flag("extendedExpiration")?;
    let body = body(&doors, &mut call).await?;
    let refs = wire::entry_refs(&Fields::new(&body).items(LINKS_MAX)?)?;
    let found = all(&doors, &tenant, refs.clone(), false).await?;
    if found.iter().any(|entry| entry.uploaded.is_none()) {
        return Err(Fault::bad("Files not uploaded"));
    }
    let life = if extended { EXTENDED_LIFE } else { LINK_LIFE };
    // Never a moment less than was promised: the end is told in whole seconds.
    let expires = now(&doors).plus(life + Duration::from_millis(999)).seconds();
    let base = call.origin(&doors);
    let links = refs.iter().zip(&found).map(|(which, entry)| {
        // The client takes the first key that it knows for the file's name: only the one that was sent comes back.
        let mut link = wire::identifier(which);
        let token = doors.engine.tickets.download_token(&tenant, entry.file, expires);
        let file = entry.file.public();
        let url = format!("{base}/{WIRE}{DOWNLOAD}/{tenant}/{file}?expires={expires}&token={token}");
        link.insert("downloadUrl".to_owned(), url.into());
        link
    });
    items(links)
}

/// A file's content. Whether the link holds is judged when it is asked for; then it comes to its end.
pub(super) async fn content(doors: Arc<Doors>, call: Call) -> Reply {
    let tenant = project(&call);
    let query = Query::parse(&call.query);
    let file = FileId::from_public(call.parameter("file"));
    let expires = query.get("expires").and_then(|text| {
        // One spelling, as the token has.
        text.parse::<i64>().ok().filter(|number| number.to_string() == text)
    });
    let (Some(id), Some(expires), Some(token)) = (file, expires, query.get("token")) else { return Err(Fault::link()) };
    if !doors.engine.tickets.holds_download(&tenant, id, expires, token, now(&doors)) {
        return Err(Fault::link());
    }
    let gone = |refused: Refusal| match refused {
        Refusal::NotFound { .. } => Fault::gone(),
        other => other.into(),
    };
    let found = file::find(&doors.engine, &tenant, id).await.map_err(gone)?;
    let reader = file::open(&doors.engine, &found).await.map_err(gone)?;
    let about = About {
        name: found.name,
        mime: found.mime_type,
        etag: found.version.0.simple().to_string(),
        modified: Some(found.committed),
    };
    let mut response = download::version(reader, &about, &call.method, &call.headers);
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("private, max-age=0"));
    Ok(response)
}
