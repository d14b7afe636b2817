//! Files of a store: upload URLs, registration, direct upload, how their processing stands.

use std::pin::pin;
use std::sync::Arc;

use axum::body::HttpBody;
use http::StatusCode;
use serde_json::{Map, Value, json};

use super::envelope::Fault;
use super::files::{check_mime_type, check_name, check_size};
use super::json::{self, Fields};
use super::query::Query;
use super::upload::declaration;
use super::{Reply, WIRE, answer, no_content, time};
use crate::http::call::Call;
use crate::http::doors::Doors;
use crate::http::multipart::Form;
use crate::limits;
use crate::meta::StoreFileFilter;
use crate::model::access::Right;
use crate::model::document::{READABLE, UNREADABLE};
use crate::model::file::FileRecord;
use crate::model::ids::{FileId, TenantId};
use crate::model::refusal::Refusal;
use crate::model::session::Declaration;
use crate::model::store::{LogEntry, ProcessingState, Store, StoreFile};
use crate::store::{self, browse, register, setup};
use crate::upload::access::Grant;
use crate::upload::open::{self, NewFile};
use crate::upload::{file, receive};

/// What clients are told to send at a time: 8 MiB, a multiple of the session protocol's 256 KiB.
const CHUNK_BYTES: u64 = 8 * 1024 * 1024;
/// Largest file that may come with its call: 31 MiB.
const DIRECT_MAX_BYTES: u64 = 32_505_856;
/// What a form has besides its file, at most.
const FORM_BYTES: u64 = 1024 * 1024;
const PAGE_LIMIT: u64 = 20;

/// Who may change the store of the path, organization first. The vendor's client names the organization once more in the
/// query.
pub(super) async fn enter(doors: &Doors, call: &Call, right: Right) -> Result<(Grant, Store), Fault> {
    let grant = enter_organization(doors, call, right).await?;
    let store = store_of(doors, call, grant.tenant()).await?;
    Ok((grant, store))
}

/// The same for a call that only reads.
pub(super) async fn look(doors: &Doors, call: &Call) -> Result<(Store, Query), Fault> {
    let (tenant, query) = look_at_organization(doors, call).await?;
    Ok((store_of(doors, call, &tenant).await?, query))
}

pub(super) async fn enter_organization(doors: &Doors, call: &Call, right: Right) -> Result<Grant, Fault> {
    let grant = super::grant(doors, call, right).await?;
    same_organization(call, grant.tenant()).map(|_| grant)
}

pub(super) async fn look_at_organization(doors: &Doors, call: &Call) -> Result<(TenantId, Query), Fault> {
    let tenant = super::view(doors, call, Right::Read).await?;
    let query = same_organization(call, &tenant)?;
    Ok((tenant, query))
}

fn same_organization(call: &Call, tenant: &TenantId) -> Result<Query, Fault> {
    let query = Query::parse(&call.query);
    match query.get("organization_id") {
        Some(other) if other != tenant.as_str() => {
            Err(Fault::value("organization_id", &other.into(), "must be the organization of the path"))
        }
        _ => Ok(query),
    }
}

async fn store_of(doors: &Doors, call: &Call, tenant: &TenantId) -> Result<Store, Fault> {
    store::find(&doors.engine, tenant, call.parameter("store")).await.map_err(|refused| about(refused, call))
}

/// A refusal as a fault that names the organization with the store, and the file of the path.
pub(super) fn about(refused: Refusal, call: &Call) -> Fault {
    let unknown_store = matches!(refused, Refusal::TargetUnknown { .. });
    let fault = Fault::from(refused).about_file("file_id", call.parameter("file_id"));
    if unknown_store { fault.with("organization_id", call.parameter("org")) } else { fault }
}

/// The store's file that the path names.
pub(super) async fn file_of(doors: &Doors, call: &Call, store: &Store) -> Result<StoreFile, Fault> {
    store::file(&doors.engine, store, call.parameter("file_id")).await.map_err(|refused| about(refused, call))
}

// -------------------------------------------------------------------------------------------------------------- uploads

pub(super) async fn upload_url(doors: Arc<Doors>, mut call: Call) -> Reply {
    let (grant, store) = enter(&doors, &call, Right::Upload).await?;
    let body = json::object(&super::body(&doors, &mut call).await?)?;
    let mut fields = Fields::new(&body);
    let name = fields.text("file_name");
    let size = fields.integer("file_size");
    let mime_type = fields.text("mime_type");
    let path = fields.optional_text("relative_path");
    fields.check()?;
    check_name("file_name", &name)?;
    let size = check_size("file_size", size, &fields.sent("file_size"))?;
    check_mime_type("mime_type", &mime_type)?;
    let store_path = checked_path(path.as_deref())?;
    let ask = open::Resumable {
        wire: WIRE,
        max_bytes: limits::FILE_MAX_BYTES,
        life: limits::SESSION_LIFE,
        file: NewFile {
            size: Some(size),
            registers: false,
            declaration: Declaration { name, mime_type, store: Some(store.id), store_path, ..Declaration::default() },
            next_of: None,
        },
    };
    let opened = open::resumable(&doors.engine, &grant, (&call.origin(&doors), call.page(&doors)), vec![ask]).await?;
    let opened = opened.first().ok_or(Refusal::Internal)?;
    answer(
        StatusCode::OK,
        &json!({
            "upload_id": opened.file.public(),
            "signed_url": opened.url,
            "chunk_size": CHUNK_BYTES,
            "expires_at": time(opened.expires),
        }),
    )
}

fn checked_path(path: Option<&str>) -> Result<Option<String>, Fault> {
    let Some(path) = path else { return Ok(None) };
    register::checked_path("relative_path", path).map_err(|refused| Fault::from(refused).with("value", path))
}

pub(super) async fn register_upload(doors: Arc<Doors>, mut call: Call) -> Reply {
    let (grant, store) = enter(&doors, &call, Right::Upload).await?;
    let body = json::object(&super::body(&doors, &mut call).await?)?;
    let mut fields = Fields::new(&body);
    let id = fields.text("upload_id");
    let path = fields.optional_text("relative_path");
    fields.check()?;
    let path = checked_path(path.as_deref())?;
    let path = path.as_deref().map(|path| ("relative_path", path));
    let registered = async {
        // Nobody tells when chunks that went to the store itself are all there.
        if let Some(file) = FileId::from_public(&id) {
            file::arrive(&doors.engine, &grant, file).await?;
        }
        register::register(&doors.engine, grant.tenant(), &store, WIRE, &id, path).await
    };
    let registered = registered.await;
    let (file, new) = registered.map_err(|refused| match refused {
        incomplete @ Refusal::UploadIncomplete { .. } => Fault::from(incomplete).with("file_id", id.as_str()),
        refused => about(refused, &call).about_file("file_id", &id),
    })?;
    answer(if new { StatusCode::CREATED } else { StatusCode::OK }, &registered_file(&file))
}

/// What a registration did: a repetition tells the same, however far the processing has come since.
fn registered_file(file: &StoreFile) -> Value {
    json!({
        "file_id": file.file.public(),
        "name": file.name,
        "size": file.size,
        "mime_type": file.mime_type,
        "relative_path": file.path,
        "status": ProcessingState::Pending.name(),
        "created_at": time(file.created),
    })
}

pub(super) async fn upload(doors: Arc<Doors>, mut call: Call) -> Reply {
    let (grant, store) = enter(&doors, &call, Right::Upload).await?;
    let body = call.take_body();
    // Nothing of it need be stored to see that it is too large.
    if body.size_hint().exact().is_some_and(|bytes| bytes > DIRECT_MAX_BYTES + FORM_BYTES) {
        return Err(Fault::too_large(DIRECT_MAX_BYTES));
    }
    let mut form = Form::new(&call.headers, body, &doors.timing, grant.tenant(), doors.stopping.clone())?;
    let mut taken = Taken::default();
    let registered = match take(&doors, &grant, &store, &mut form, &mut taken).await {
        Ok(file) => {
            let path = taken.path.as_deref().map(|path| ("relative_path", path));
            let id = file.public();
            let registered = register::register(&doors.engine, grant.tenant(), &store, WIRE, &id, path).await;
            registered.map_err(|refused| about(refused, &call))
        }
        Err(fault) => Err(fault),
    };
    match (registered, taken.file) {
        (Ok((file, _)), _) => answer(StatusCode::CREATED, &registered_file(&file)),
        (Err(fault), Some(stored)) => {
            // The call failed: nothing of it stays.
            file::discard(&doors.engine, &grant, stored.id).await?;
            Err(fault)
        }
        (Err(fault), None) => Err(fault),
    }
}

/// What came of a form so far, in either order.
#[derive(Default)]
struct Taken {
    file: Option<FileRecord>,
    path: Option<String>,
}

async fn take(
    doors: &Doors,
    grant: &Grant,
    store: &Store,
    form: &mut Form,
    taken: &mut Taken,
) -> Result<FileId, Fault> {
    while let Some(part) = form.next().await? {
        match part.name.as_str() {
            "file" if taken.file.is_some() => return Err(Fault::field("file", "is one part")),
            "file" => {
                let declaration = Declaration { store: Some(store.id), ..declaration(&part)? };
                let ask = receive::Enclosed { wire: WIRE, max_bytes: DIRECT_MAX_BYTES, declaration };
                taken.file = Some(receive::enclosed(&doors.engine, grant, ask, pin!(part.bytes())).await?);
            }
            "relative_path" => taken.path = checked_path(Some(&part.text().await?))?,
            _ => drop(part.text().await?),
        }
    }
    match &taken.file {
        Some(file) => Ok(file.id),
        None => Err(Fault::field("file", "is required: a part named `file`")),
    }
}

// ------------------------------------------------------------------------------------------------------------ the files

pub(super) async fn list(doors: Arc<Doors>, call: Call) -> Reply {
    let (store, query) = look(&doors, &call).await?;
    let (skip, limit) = query.stretch(PAGE_LIMIT)?;
    let filter = StoreFileFilter {
        state: state(&query)?,
        search: query.get("search").filter(|text| !text.is_empty()).map(str::to_owned),
        before: None,
        offset: skip,
        limit: u32::try_from(limit).unwrap_or(100),
    };
    let (files, total) = browse::files(&doors.engine, &store, filter).await?;
    answer(StatusCode::OK, &stretch(files.iter().map(listed).collect(), total, skip, limit))
}

/// The filter on states, which is named as on the wire.
pub(super) fn state(query: &Query) -> Result<Option<ProcessingState>, Fault> {
    let Some(text) = query.get("status").filter(|text| !text.is_empty()) else { return Ok(None) };
    let state = ProcessingState::from_name(text);
    let wrong = || Fault::value("status", &text.into(), "must be pending, processing, completed or failed");
    state.map(Some).ok_or_else(wrong)
}

/// A stretch of a list.
pub(super) fn stretch(items: Vec<Value>, total: u64, skip: u64, limit: u64) -> Value {
    let has_more = skip.saturating_add(limit) < total;
    json!({ "items": items, "total": total, "skip": skip, "limit": limit, "has_more": has_more })
}

fn listed(file: &StoreFile) -> Value {
    json!({
        "file_id": file.file.public(),
        "name": file.name,
        "size": file.size,
        "mime_type": file.mime_type,
        "relative_path": file.path,
        "status": file.state.name(),
        "progress_percent": file.step.percent(),
        "current_step": file.step.name(),
        "error_message": problem(file),
        "created_at": time(file.created),
        "processed_at": file.completed().map(time),
    })
}

/// Why it failed. What of a completed file is not found is no error, and is in its log.
pub(super) fn problem(file: &StoreFile) -> Option<&str> {
    file.problem.as_deref().filter(|_| file.state == ProcessingState::Failed)
}

pub(super) async fn get(doors: Arc<Doors>, call: Call) -> Reply {
    let (store, _) = look(&doors, &call).await?;
    let file = file_of(&doors, &call, &store).await?;
    answer(
        StatusCode::OK,
        &json!({
            "file_id": file.file.public(),
            "name": file.name,
            "size": file.size,
            "mime_type": file.mime_type,
            "relative_path": file.path,
            "status": file.state.name(),
            "chunk_count": file.chunks,
            "error_message": problem(&file),
            "created_at": time(file.created),
            "processing_started_at": file.started.map(time),
            "processing_completed_at": file.completed().map(time),
        }),
    )
}

pub(super) async fn delete(doors: Arc<Doors>, call: Call) -> Reply {
    let (_, store) = enter(&doors, &call, Right::Upload).await?;
    let file = file_of(&doors, &call, &store).await?;
    match register::remove(&doors.engine, &store, &[file.file]).await? {
        0 => Err(Fault::file("file_id", call.parameter("file_id"))),
        _ => Ok(no_content()),
    }
}

pub(super) async fn remove_bulk(doors: Arc<Doors>, mut call: Call) -> Reply {
    let (_, store) = enter(&doors, &call, Right::Upload).await?;
    let body = json::object(&super::body(&doors, &mut call).await?)?;
    let ids = texts(&body, "file_ids")?;
    if ids.is_empty() {
        return Err(Fault::field("file_ids", "must have at least one item"));
    }
    // What is unknown is not there any more, which is what was asked for.
    let known: Vec<FileId> = ids.iter().filter_map(|id| FileId::from_public(id)).collect();
    register::remove(&doors.engine, &store, &known).await?;
    Ok(no_content())
}

/// A list of texts that must be there.
pub(super) fn texts(body: &Map<String, Value>, name: &str) -> Result<Vec<String>, Fault> {
    let mut fields = Fields::new(body);
    let list = fields.list(name);
    fields.check()?;
    let text = |(index, value): (usize, &Value)| match value {
        Value::String(text) => Ok(text.clone()),
        _ => Err(Fault::field(&format!("{name}[{index}]"), "must be a string")),
    };
    list.iter().enumerate().map(text).collect()
}

// ----------------------------------------------------------------------------------------------------------- processing

pub(super) async fn status(doors: Arc<Doors>, call: Call) -> Reply {
    let (store, _) = look(&doors, &call).await?;
    answer(StatusCode::OK, &standing(&file_of(&doors, &call, &store).await?))
}

fn standing(file: &StoreFile) -> Value {
    json!({
        "status": file.state.name(),
        "progress_percent": file.step.percent(),
        "current_step": file.step.name(),
        "error_message": problem(file),
        "started_at": file.started.map(time),
        "completed_at": file.completed().map(time),
    })
}

pub(super) async fn logs(doors: Arc<Doors>, call: Call) -> Reply {
    let (store, _) = look(&doors, &call).await?;
    let file = file_of(&doors, &call, &store).await?;
    answer(StatusCode::OK, &log(&browse::log(&doors.engine, &file).await?))
}

pub(super) fn log(entries: &[LogEntry]) -> Value {
    let entry = |entry: &LogEntry| json!({ "timestamp": time(entry.at), "level": entry.level.name(), "message": entry.message });
    json!({ "logs": entries.iter().map(entry).collect::<Vec<_>>() })
}

pub(super) async fn retry(doors: Arc<Doors>, call: Call) -> Reply {
    let (_, store) = enter(&doors, &call, Right::Upload).await?;
    let file = file_of(&doors, &call, &store).await?;
    let again = register::retry(&doors.engine, &file).await.map_err(|refused| about(refused, &call))?;
    answer(StatusCode::OK, &standing(&again))
}

// --------------------------------------------------------------------------------------------------------- what there is

pub(super) async fn usage(doors: Arc<Doors>, call: Call) -> Reply {
    let (tenant, _) = look_at_organization(&doors, &call).await?;
    let usage = setup::usage(&doors.engine, &tenant).await?;
    let sum = |of: fn(&crate::meta::StoreUsage) -> u64| usage.stores.iter().map(of).fold(0, u64::saturating_add);
    let stores = usage.stores.iter().map(|store| {
        json!({
            "store_id": store.id.public(),
            "store_name": store.name,
            "used_bytes": store.bytes,
            "file_count": store.files,
        })
    });
    answer(
        StatusCode::OK,
        &json!({
            "total_bytes": usage.room,
            "used_bytes": sum(|store| store.bytes),
            "file_count": sum(|store| store.files),
            "stores": stores.collect::<Vec<_>>(),
        }),
    )
}

/// What may be uploaded: asked by everybody, with a key or without one.
pub(super) async fn config(_doors: Arc<Doors>, _call: Call) -> Reply {
    let supported = READABLE.iter().map(|kind| {
        let about = json!({
            "extensions": kind.extensions,
            "max_bytes": kind.max_bytes,
            "description": kind.description,
        });
        (kind.kind.to_owned(), about)
    });
    let unsupported = UNREADABLE
        .iter()
        .map(|kind| json!({ "category": kind.category, "extensions": kind.extensions, "reason": kind.reason }));
    answer(
        StatusCode::OK,
        &json!({
            "direct_upload_max_bytes": DIRECT_MAX_BYTES,
            "chunked_upload_chunk_bytes": CHUNK_BYTES,
            "supported_types": supported.collect::<Map<_, _>>(),
            "unsupported_categories": unsupported.collect::<Vec<_>>(),
        }),
    )
}
