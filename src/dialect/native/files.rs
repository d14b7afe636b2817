//! Files: listed, described, read, linked to, deleted.

use std::sync::Arc;

use axum::response::IntoResponse;
use http::StatusCode;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use super::fields::Fields;
use super::query::{self, Query};
use super::{Reply, answer, tenant, wire};
use crate::clock::Timestamp;
use crate::http::call::Call;
use crate::http::doors::Doors;
use crate::http::download::{self, About};
use crate::limits;
use crate::meta::FileFilter;
use crate::model::access::Right;
use crate::model::file::{FileRecord, Version};
use crate::model::ids::{FileId, TenantId};
use crate::model::refusal::{Refusal, TicketRefusal};
use crate::upload::file;

const LINK_MIN: u64 = 60;
const LINK_DEFAULT: u64 = 3600;

pub(super) async fn list(doors: Arc<Doors>, call: Call) -> Reply {
    let tenant = tenant::reader(&doors, &call, Right::Read).await?;
    let known = ["path", "name", "mime_type", "min_size", "committed_after", "limit", "cursor"];
    let query = Query::parse(&call.query, &known)?;
    let limit = query.limit()?;
    let filter = FileFilter {
        path: query.get("path").map(|path| path.trim_end_matches('/').to_owned()).filter(|path| !path.is_empty()),
        name: query.get("name").map(str::to_owned),
        mime_type: query.get("mime_type").map(str::to_owned),
        min_size: query.number("min_size")?,
        committed_after: query.time("committed_after")?,
        before: query.cursor_of(position)?,
        offset: 0,
        limit: limit.saturating_add(1),
    };
    let mut files = file::list(&doors.engine, &tenant, filter).await?;
    let more = files.len() > usize::try_from(limit).unwrap_or(usize::MAX);
    files.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    let next = files.last().filter(|_| more).map(|last| {
        let registered = last.registered.unwrap_or_default().millis().to_be_bytes();
        query::cursor_to(&[registered.as_slice(), last.id.0.as_bytes()].concat())
    });
    answer(StatusCode::OK, &json!({"items": files.iter().map(shown).collect::<Vec<_>>(), "next_cursor": next}))
}

/// Where in the list a page ended: the time of the last file's registration, and its id.
fn position(bytes: [u8; 24]) -> Option<(Timestamp, FileId)> {
    let (time, id) = bytes.split_first_chunk::<8>()?;
    let id = uuid::Uuid::from_slice(id).ok()?;
    Some((Timestamp(i64::from_be_bytes(*time)), FileId(id)))
}

fn shown(file: &FileRecord) -> Value {
    json!({
        "id": file.id.public(),
        "name": file.name,
        "path": file.path,
        "mime_type": file.mime_type,
        "metadata": file.metadata,
        "size": file.size,
        "version": file.version,
        "digests": wire::digests(&file.digests),
        "committed_at": file.committed.rfc3339(),
        "registered_at": file.registered.map(Timestamp::rfc3339),
    })
}

fn shown_version(version: &Version, current: bool) -> Value {
    json!({
        "version": version.id,
        "current": current,
        "size": version.size,
        "digests": wire::digests(&version.digests),
        "committed_at": version.committed.rfc3339(),
    })
}

fn id(call: &Call) -> Result<FileId, Refusal> {
    FileId::from_public(call.parameter("file")).ok_or(Refusal::NotFound { what: "the file" })
}

pub(super) async fn one(doors: Arc<Doors>, call: Call) -> Reply {
    let tenant = tenant::reader(&doors, &call, Right::Read).await?;
    Query::parse(&call.query, &[])?;
    let found = file::find(&doors.engine, &tenant, id(&call)?).await?;
    let versions = file::versions(&doors.engine, &found).await?;
    let mut whole = shown(&found);
    if let Some(map) = whole.as_object_mut() {
        let versions = versions.iter().map(|version| shown_version(version, version.id == found.version));
        map.insert("versions".into(), versions.collect());
        // The tenant's own registration is what keeps the file; others may hold it as well.
        let own = json!({"kind": "tenant", "version": found.version, "at": found.registered.map(Timestamp::rfc3339)});
        let stores = file::holders(&doors.engine, &found).await?.into_iter().map(|holder| {
            json!({
                "kind": "store", "store": holder.store.public(), "version": holder.version,
                "at": holder.since.rfc3339(),
            })
        });
        map.insert("registrations".into(), std::iter::once(own).chain(stores).collect());
    }
    answer(StatusCode::OK, &whole)
}

pub(super) async fn content(doors: Arc<Doors>, call: Call) -> Reply {
    let tenant = tenant::reader(&doors, &call, Right::Read).await?;
    Query::parse(&call.query, &[])?;
    let found = file::find(&doors.engine, &tenant, id(&call)?).await?;
    send(&doors, &call, found).await
}

async fn send(doors: &Doors, call: &Call, found: FileRecord) -> Reply {
    let reader = file::open(&doors.engine, &found).await?;
    let about = About {
        name: found.name,
        mime: found.mime_type,
        etag: found.version.to_string(),
        modified: Some(found.committed),
    };
    Ok(download::version(reader, &about, &call.method, &call.headers))
}

pub(super) async fn link(doors: Arc<Doors>, mut call: Call) -> Reply {
    let tenant = tenant::reader(&doors, &call, Right::Read).await?;
    let mark = tenant::mark(&call)?;
    let body = call.json(&doors, limits::SMALL_JSON_BYTES, "name a time alone").await?;
    let id = id(&call)?;
    tenant::once(&doors, &tenant, &call, mark, &body, async {
        let fields = Fields::read(&body, &["expires_in"])?;
        let life = fields.seconds("expires_in", LINK_MIN, limits::SESSION_LIFE.as_secs())?.unwrap_or(LINK_DEFAULT);
        let found = file::find(&doors.engine, &tenant, id).await?;
        let expires = doors.engine.clock.now().seconds().saturating_add(i64::try_from(life).unwrap_or(0));
        let token = doors.engine.tickets.download_token(&found.tenant, found.id, expires);
        let url = format!(
            "{}{}/files/{}/download?tenant={}&expires={expires}&token={token}",
            call.origin(&doors),
            super::BASE,
            found.id.public(),
            utf8_percent_encode(found.tenant.as_str(), NON_ALPHANUMERIC),
        );
        Ok(json!({"url": url, "expires_at": Timestamp(expires.saturating_mul(1000)).rfc3339()}))
    })
    .await
}

/// What a link leads to. It needs no key: the link is the proof.
pub(super) async fn download(doors: Arc<Doors>, call: Call) -> Reply {
    let query = Query::parse(&call.query, &["tenant", "expires", "token"])?;
    let tenant = TenantId::from(query.require("tenant")?);
    let expires = query.number("expires")?.ok_or_else(|| Refusal::Missing { name: "expires".into() })?;
    let expires = i64::try_from(expires).unwrap_or(i64::MAX);
    let token = query.require("token")?;
    let id = id(&call)?;
    let tickets = &doors.engine.tickets;
    if !tickets.holds_download(&tenant, id, expires, token, Timestamp(0)) {
        let detail = "the link is not one of this server's, or was changed or cut";
        return Err(Refusal::Ticket(TicketRefusal { rule: "signature", detail: detail.into() }));
    }
    if !tickets.holds_download(&tenant, id, expires, token, doors.engine.clock.now()) {
        let at = Timestamp(expires.saturating_mul(1000)).rfc3339();
        return Err(Refusal::Gone { what: "the link", reason: format!("it held until {at}") });
    }
    let found = file::find(&doors.engine, &tenant, id).await?;
    send(&doors, &call, found).await
}

pub(super) async fn delete(doors: Arc<Doors>, call: Call) -> Reply {
    let grant = tenant::grant(&doors, &call, Right::Upload).await?;
    let query = Query::parse(&call.query, &["force"])?;
    let force = query.flag("force")?;
    file::delete(&doors.engine, &grant, id(&call)?, force).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
