//! Stores themselves, and files of the organization that are attached to them.

use std::sync::Arc;

use http::StatusCode;
use serde_json::{Map, Value, json};

use super::envelope::Fault;
use super::json::{self, Fields};
use super::knowledge::{
    self, about, enter, enter_organization, file_of, look, look_at_organization, problem, state, stretch, texts,
};
use super::query::Query;
use super::{Reply, answer, no_content, time};
use crate::http::call::Call;
use crate::http::doors::Doors;
use crate::meta::{StoreFileFilter, StoreFilter, StoreOrder};
use crate::model::access::Right;
use crate::model::refusal::Refusal;
use crate::model::store::{Store, StoreFile};
use crate::store::{browse, register, setup};
use crate::upload::receive::INTERNAL;

const PAGE_LIMIT: u64 = 20;
const ID_CHARS: usize = 255;
/// Names of properties that are kept as they are given.
const SLICE: &str = "slice_id";
const SLICES: &str = "slice_ids";
const ACCESS: &str = "access_mode";
const ACCESS_TARGET: &str = "access_target_id";
const ACCESS_MODES: [&str; 4] = ["organization", "public", "department", "private"];

/// The store object. Access modes and slices are kept and shown; they decide nothing.
fn object(store: &Store) -> Value {
    let kept = |name: &str| store.properties.get(name).cloned().unwrap_or_default();
    let access = match kept(ACCESS) {
        Value::Null => ACCESS_MODES[0].into(),
        mode => mode,
    };
    json!({
        "id": store.id.public(),
        "name": store.name,
        "description": store.description,
        "slice_id": kept(SLICE),
        "slice_ids": kept(SLICES),
        "organization_id": store.tenant,
        "created_by": store.created_by.map_or_else(|| INTERNAL.to_owned(), |key| format!("ak_{}", key.0.simple())),
        "is_active": store.active,
        "access_mode": access,
        "connector_connection_id": Value::Null,
        "file_count": store.files,
        "data_size": store.bytes,
        "created_at": time(store.created),
        "updated_at": time(store.changed),
    })
}

pub(super) async fn create(doors: Arc<Doors>, mut call: Call) -> Reply {
    let grant = enter_organization(&doors, &call, Right::Sources).await?;
    let body = json::object(&super::body(&doors, &mut call).await?)?;
    let mut fields = Fields::new(&body);
    let name = fields.text("name");
    let description = fields.optional_text("description");
    let access = fields.optional_text(ACCESS);
    let target = fields.optional_text(ACCESS_TARGET);
    fields.check()?;
    let mut properties = Map::new();
    if let Some(access) = access {
        properties.insert(ACCESS.into(), access_mode(&access)?.into());
    }
    if let Some(target) = target {
        properties.insert(ACCESS_TARGET.into(), label(ACCESS_TARGET, &target)?.into());
    }
    if !call.parameter("slice").is_empty() {
        let slice = label(SLICE, call.parameter("slice"))?;
        properties.insert(SLICE.into(), slice.clone().into());
        properties.insert(SLICES.into(), vec![slice].into());
    }
    let made = setup::create(&doors.engine, grant.tenant(), grant.key(), &name, description.as_deref(), properties);
    let store = made.await.map_err(|refused| Fault::from(refused).sent(&body))?;
    answer(StatusCode::CREATED, &object(&store))
}

fn access_mode(mode: &str) -> Result<String, Fault> {
    if ACCESS_MODES.contains(&mode) {
        return Ok(mode.to_owned());
    }
    Err(Fault::value(ACCESS, &mode.into(), &format!("must be one of {}", ACCESS_MODES.join(", "))))
}

/// An id of something that we do not have: kept and shown.
fn label(field: &str, text: &str) -> Result<String, Fault> {
    if !text.is_empty() && text.chars().count() <= ID_CHARS && !text.chars().any(char::is_control) {
        return Ok(text.to_owned());
    }
    Err(Fault::value(
        field,
        &text.into(),
        &format!("must have 1 to {ID_CHARS} characters, none of them control characters"),
    ))
}

pub(super) async fn list(doors: Arc<Doors>, call: Call) -> Reply {
    let (tenant, query) = look_at_organization(&doors, &call).await?;
    let (skip, limit) = query.stretch(PAGE_LIMIT)?;
    let slice = match call.parameter("slice") {
        "" => query.get(SLICE).filter(|text| !text.is_empty()),
        slice => Some(slice),
    };
    let filter = StoreFilter {
        search: query.get("search").filter(|text| !text.is_empty()).map(str::to_owned),
        active: word(&query, "status", &[("active", true), ("inactive", false)])?,
        property: slice.map(|slice| (SLICES.to_owned(), slice.to_owned())),
        order: word(
            &query,
            "sort",
            &[("created_at", StoreOrder::Created), ("name", StoreOrder::Name), ("data_size", StoreOrder::Bytes)],
        )?
        .unwrap_or_default(),
        ascending: word(&query, "order", &[("asc", true), ("desc", false)])?.unwrap_or(false),
        before: None,
        offset: skip,
        limit: u32::try_from(limit).unwrap_or(100),
    };
    let (stores, total) = setup::list(&doors.engine, &tenant, filter).await?;
    answer(StatusCode::OK, &stretch(stores.iter().map(object).collect(), total, skip, limit))
}

fn word<T: Copy>(query: &Query, name: &str, words: &[(&str, T)]) -> Result<Option<T>, Fault> {
    let Some(text) = query.get(name).filter(|text| !text.is_empty()) else { return Ok(None) };
    match words.iter().find(|(word, _)| *word == text) {
        Some((_, meaning)) => Ok(Some(*meaning)),
        None => {
            let list: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            Err(Fault::value(name, &text.into(), &format!("must be one of {}", list.join(", "))))
        }
    }
}

pub(super) async fn get(doors: Arc<Doors>, call: Call) -> Reply {
    let (store, _) = look(&doors, &call).await?;
    answer(StatusCode::OK, &object(&store))
}

pub(super) async fn update(doors: Arc<Doors>, mut call: Call) -> Reply {
    let (_, mut store) = enter(&doors, &call, Right::Sources).await?;
    let body = json::object(&super::body(&doors, &mut call).await?)?;
    let mut fields = Fields::new(&body);
    let name = fields.optional_text("name");
    let description = fields.optional_text("description");
    let access = fields.optional_text(ACCESS);
    let slice = fields.optional_text(SLICE);
    fields.check()?;
    let active = match body.get("is_active") {
        None | Some(Value::Null) => None,
        Some(Value::Bool(active)) => Some(*active),
        Some(_) => return Err(Fault::field("is_active", "must be a boolean")),
    };
    let slices = match body.get(SLICES) {
        None | Some(Value::Null) => None,
        Some(_) => Some(texts(&body, SLICES)?),
    };
    // Absent is as it was; null takes away what may be absent.
    store.name = name.unwrap_or(store.name);
    if body.contains_key("description") {
        store.description = description;
    }
    store.active = active.unwrap_or(store.active);
    if let Some(access) = access {
        store.properties.insert(ACCESS.into(), access_mode(&access)?.into());
    }
    if let Some(slices) = slices {
        let slices = slices.iter().map(|slice| label(SLICES, slice)).collect::<Result<Vec<_>, Fault>>()?;
        store.properties.insert(SLICE.into(), slices.first().cloned().into());
        store.properties.insert(SLICES.into(), slices.into());
    }
    if let Some(slice) = slice {
        let slice = label(SLICE, &slice)?;
        store.properties.insert(SLICE.into(), slice.clone().into());
        let slices = store.properties.entry(SLICES).or_insert_with(|| Value::Array(Vec::new()));
        match slices {
            Value::Array(slices) if !slices.contains(&slice.as_str().into()) => slices.insert(0, slice.into()),
            _ => {}
        }
    }
    let updated = setup::update(&doors.engine, store).await;
    answer(StatusCode::OK, &object(&updated.map_err(|refused| about(refused, &call).sent(&body))?))
}

pub(super) async fn delete(doors: Arc<Doors>, call: Call) -> Reply {
    let (_, store) = enter(&doors, &call, Right::Sources).await?;
    setup::delete(&doors.engine, &store).await.map_err(|refused| about(refused, &call))?;
    Ok(no_content())
}

// ------------------------------------------------------------------------------------------------------- attached files

/// What the calls about attached files wrap their answers in.
fn wrapped(status: StatusCode, message: &str, data: &Value) -> Reply {
    answer(status, &json!({ "success": true, "message": message, "data": data }))
}

fn attached(file: &StoreFile) -> Value {
    json!({
        "id": file.id.public(),
        "vector_store_id": file.store.public(),
        "file_id": file.file.public(),
        "added_at": time(file.created),
        "processing_status": file.state.name(),
        "processing_started_at": file.started.map(time),
        "processing_completed_at": file.completed().map(time),
        "error_message": problem(file),
        "chunk_count": file.chunks,
        "embedding_model": Value::Null,
        "file_name": file.name,
        "file_size": file.size,
    })
}

pub(super) async fn attach(doors: Arc<Doors>, mut call: Call) -> Reply {
    let (grant, store) = enter(&doors, &call, Right::Upload).await?;
    let body = json::object(&super::body(&doors, &mut call).await?)?;
    let mut fields = Fields::new(&body);
    let id = fields.text("file_id");
    fields.check()?;
    let attach = register::attach(&doors.engine, grant.tenant(), &store, &id, None).await;
    let (file, new) = attach.map_err(|refused| about(refused, &call).about_file("file_id", &id))?;
    let status = if new { StatusCode::CREATED } else { StatusCode::OK };
    wrapped(status, "File added to the vector store", &attached(&file))
}

pub(super) async fn attached_files(doors: Arc<Doors>, call: Call) -> Reply {
    let (store, query) = look(&doors, &call).await?;
    let page = query.integer("page", 1, 1..=u64::MAX)?;
    let size = query.integer("page_size", PAGE_LIMIT, 1..=100)?;
    let filter = StoreFileFilter {
        state: state(&query)?,
        offset: (page - 1).saturating_mul(size),
        limit: u32::try_from(size).unwrap_or(100),
        ..StoreFileFilter::default()
    };
    let (files, total) = browse::files(&doors.engine, &store, filter).await?;
    let data = json!({
        "total": total,
        "page": page,
        "page_size": size,
        "total_pages": total.div_ceil(size),
        "files": files.iter().map(attached).collect::<Vec<_>>(),
    });
    wrapped(StatusCode::OK, "Files of the vector store", &data)
}

pub(super) async fn attached_file(doors: Arc<Doors>, call: Call) -> Reply {
    let (store, _) = look(&doors, &call).await?;
    wrapped(StatusCode::OK, "File of the vector store", &attached(&file_of(&doors, &call, &store).await?))
}

pub(super) async fn attached_status(doors: Arc<Doors>, call: Call) -> Reply {
    let (store, _) = look(&doors, &call).await?;
    wrapped(StatusCode::OK, "Processing status", &standing(&file_of(&doors, &call, &store).await?))
}

fn standing(file: &StoreFile) -> Value {
    let mut standing = attached(file);
    standing["vector_store_file_id"] = file.id.public().into();
    standing["status"] = file.state.name().into();
    standing
}

pub(super) async fn attached_retry(doors: Arc<Doors>, call: Call) -> Reply {
    let (_, store) = enter(&doors, &call, Right::Upload).await?;
    let file = file_of(&doors, &call, &store).await?;
    let again: Result<StoreFile, Refusal> = register::retry(&doors.engine, &file).await;
    let again = again.map_err(|refused| about(refused, &call))?;
    wrapped(StatusCode::OK, "The file is processed again", &standing(&again))
}

pub(super) async fn attached_logs(doors: Arc<Doors>, call: Call) -> Reply {
    let (store, _) = look(&doors, &call).await?;
    let file = file_of(&doors, &call, &store).await?;
    let log = browse::log(&doors.engine, &file).await?;
    wrapped(StatusCode::OK, "Processing log", &knowledge::log(&log))
}
