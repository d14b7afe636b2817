//! Files of an organization: upload URLs, registration, listing, content.

use std::sync::Arc;

use http::{HeaderValue, StatusCode, header};
use serde_json::{Map, Value, json};

use super::envelope::Fault;
use super::json::{self, Fields};
use super::query::Query;
use super::{Reply, WIRE, answer, time};
use crate::http::call::Call;
use crate::http::doors::Doors;
use crate::http::download::{self, About};
use crate::limits;
use crate::meta::FileFilter;
use crate::model::access::Right;
use crate::model::file::{Declared, FileRecord, storage_path};
use crate::model::ids::{FileId, TenantId};
use crate::model::refusal::Refusal;
use crate::model::session::Declaration;
use crate::upload::access::Grant;
use crate::upload::open::{self, NewFile, Opened};
use crate::upload::{file, receive::INTERNAL};

/// What clients are told to send at a time: 5 MiB, a multiple of the session protocol's 256 KiB.
const CHUNK_BYTES: u64 = 5 * 1024 * 1024;
/// Most files in one call.
pub(super) const BATCH_MAX: usize = 10;
/// Longest name.
const NAME_CHARS: usize = 255;
/// How long a download URL holds.
const DOWNLOAD_SECONDS: i64 = 3600;
const PAGE_LIMIT: u64 = 50;

// --------------------------------------------------------------------------------------------------------- upload URLs

/// A file as a client announces it.
struct Announced {
    name: String,
    size: u64,
    mime_type: String,
}

pub(super) async fn upload_url(doors: Arc<Doors>, mut call: Call) -> Reply {
    let grant = super::grant(&doors, &call, Right::Upload).await?;
    let body = json::object(&super::body(&doors, &mut call).await?)?;
    match batch(&body)? {
        None => {
            let announced = announced(&mut Fields::new(&body))?;
            let mut opened = open_all(&doors, &call, &grant, vec![announced]).await?;
            answer(StatusCode::OK, &opened.pop().unwrap_or_default())
        }
        Some(items) => {
            let read = |(index, item): (usize, &&Map<String, Value>)| {
                announced(&mut Fields::under(item, format!("files[{index}]."))).map_err(|fault| fault.at(index))
            };
            let all = items.iter().enumerate().map(read).collect::<Result<Vec<_>, Fault>>()?;
            let opened = open_all(&doors, &call, &grant, all).await?;
            answer(StatusCode::OK, &outcome("upload URLs made", opened, &[]))
        }
    }
}

/// Opens the sessions of all or of none.
async fn open_all(doors: &Doors, call: &Call, grant: &Grant, all: Vec<Announced>) -> Result<Vec<Value>, Fault> {
    let names: Vec<String> = all.iter().map(|one| one.name.clone()).collect();
    let asks = all.into_iter().map(|one| open::Resumable {
        wire: WIRE,
        max_bytes: limits::FILE_MAX_BYTES,
        life: limits::SESSION_LIFE,
        file: NewFile {
            size: Some(one.size),
            registers: false,
            declaration: Declaration { name: one.name, mime_type: one.mime_type, ..Declaration::default() },
            next_of: None,
        },
    });
    let opened = open::resumable(&doors.engine, grant, (&call.origin(doors), call.page(doors)), asks.collect()).await?;
    Ok(opened.iter().zip(&names).map(|(opened, name)| location(grant, opened, name)).collect())
}

fn location(grant: &Grant, opened: &Opened, name: &str) -> Value {
    json!({
        "upload_url": opened.url,
        "gcs_path": storage_path(grant.tenant(), opened.file, name),
        "file_id": opened.file.public(),
        "expires_at": time(opened.expires),
        "max_file_size": limits::FILE_MAX_BYTES,
        "upload_type": "resumable",
        "chunk_size_recommended": CHUNK_BYTES,
    })
}

fn announced(fields: &mut Fields<'_>) -> Result<Announced, Fault> {
    let name = fields.text("filename");
    let size = fields.integer("file_size");
    let mime_type = fields.text("mime_type");
    let kind = fields.optional_text("upload_type");
    fields.check()?;
    check_name("filename", &name)?;
    let size = check_size("file_size", size, &fields.sent("file_size"))?;
    check_mime_type("mime_type", &mime_type)?;
    if let Some(kind) = kind
        && !["resumable", "simple"].contains(&kind.as_str())
    {
        return Err(Fault::value("upload_type", &kind.into(), "must be `resumable` or `simple`"));
    }
    Ok(Announced { name, size, mime_type })
}

/// The items of a call that takes one or several; `None` when it has one.
fn batch(body: &Map<String, Value>) -> Result<Option<Vec<&Map<String, Value>>>, Fault> {
    if !body.contains_key("files") {
        return Ok(None);
    }
    let mut fields = Fields::new(body);
    let list = fields.list("files");
    fields.check()?;
    if !(1..=BATCH_MAX).contains(&list.len()) {
        return Err(Fault::field("files", format!("must have 1 to {BATCH_MAX} items, not {}", list.len())));
    }
    let items = list.iter().enumerate().map(|(index, item)| {
        item.as_object().ok_or_else(|| Fault::field(&format!("files[{index}]"), "must be an object").at(index))
    });
    items.collect::<Result<Vec<_>, Fault>>().map(Some)
}

/// Checks a file's name.
pub(super) fn check_name(field: &str, name: &str) -> Result<(), Fault> {
    if !(1..=NAME_CHARS).contains(&name.chars().count()) {
        return Err(Fault::value(field, &name.into(), &format!("must have 1 to {NAME_CHARS} characters")));
    }
    if name.chars().any(|c| c.is_control() || c == '/' || c == '\\') {
        return Err(Fault::value(field, &name.into(), "must not have slashes or control characters"));
    }
    Ok(())
}

/// Checks a file's size.
pub(super) fn check_size(field: &str, size: i128, sent: &Value) -> Result<u64, Fault> {
    match u64::try_from(size) {
        Ok(size @ 1..=limits::FILE_MAX_BYTES) => Ok(size),
        Ok(size) if size > 0 => {
            Err(Fault::value(field, sent, &format!("must be at most {} bytes", limits::FILE_MAX_BYTES)))
        }
        _ => Err(Fault::value(field, sent, "must be greater than 0")),
    }
}

/// Checks a media type: `type/subtype`, perhaps with parameters.
pub(super) fn check_mime_type(field: &str, mime_type: &str) -> Result<(), Fault> {
    let token = |text: &str| {
        !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
    };
    let essence = mime_type.split(';').next().unwrap_or_default().trim();
    let whole = essence.split_once('/').is_some_and(|(kind, subtype)| token(kind) && token(subtype));
    if whole && mime_type.len() <= NAME_CHARS && mime_type.bytes().all(|b| (b' '..=b'~').contains(&b)) {
        return Ok(());
    }
    Err(Fault::value(field, &mime_type.into(), "must be a media type such as application/pdf"))
}

// -------------------------------------------------------------------------------------------------------- registration

pub(super) async fn register(doors: Arc<Doors>, mut call: Call) -> Reply {
    let grant = super::grant(&doors, &call, Right::Upload).await?;
    let body = json::object(&super::body(&doors, &mut call).await?)?;
    let Some(items) = batch(&body)? else {
        let (file, new) = register_one(&doors, &grant, &body, "").await?;
        return answer(if new { StatusCode::CREATED } else { StatusCode::OK }, &registered(&file));
    };
    let (mut files, mut errors, mut any_new) = (Vec::new(), Vec::new(), false);
    for (index, item) in items.into_iter().enumerate() {
        match register_one(&doors, &grant, item, &format!("files[{index}].")).await {
            Ok((file, new)) => {
                any_new |= new;
                files.push(registered(&file));
            }
            // What fails for want of us fails as a whole: the call may be repeated, registered files stay as they are.
            Err(fault) if fault.status().is_server_error() => return Err(fault),
            Err(fault) => errors.push((index, item.get("filename").cloned().unwrap_or_default(), fault)),
        }
    }
    let status = if any_new || !errors.is_empty() { StatusCode::CREATED } else { StatusCode::OK };
    batch_answer(status, "files registered", files, errors)
}

/// The answer to a batch of which some items may have failed. When all did, it is the first one's.
pub(super) fn batch_answer(
    status: StatusCode,
    done: &str,
    files: Vec<Value>,
    errors: Vec<(usize, Value, Fault)>,
) -> Reply {
    let told: Vec<Value> = errors
        .iter()
        .map(|(index, filename, fault)| {
            json!({ "index": index, "filename": filename, "code": fault.code(), "message": fault.message() })
        })
        .collect();
    match errors.into_iter().next() {
        Some((index, _, first)) if files.is_empty() => Err(first.at(index).with("errors", told)),
        _ => answer(status, &outcome(done, files, &told)),
    }
}

fn outcome(done: &str, files: Vec<Value>, errors: &[Value]) -> Value {
    let (count, failed) = (files.len(), errors.len());
    let message = match failed {
        0 => format!("{count} {done}"),
        _ => format!("{count} {done}, {failed} failed"),
    };
    json!({
        "success": failed == 0,
        "message": message,
        "files": files,
        "total_uploaded": count,
        "total_failed": failed,
        "errors": if failed == 0 { Value::Null } else { errors.into() },
    })
}

async fn register_one(
    doors: &Doors,
    grant: &Grant,
    item: &Map<String, Value>,
    at: &str,
) -> Result<(FileRecord, bool), Fault> {
    let mut fields = Fields::under(item, at.to_owned());
    let name = fields.text("filename");
    let path = fields.text("gcs_path");
    let size = fields.integer("file_size");
    let mime_type = fields.text("mime_type");
    let id = fields.optional_text("file_id");
    let nested = fields.optional_object("digests");
    let digests = digests(&mut fields, nested, at);
    fields.check()?;
    check_name("filename", &name)?;
    let size = check_size("file_size", size, &fields.sent("file_size"))?;
    let digests = digests?;
    let Some((file, stored_as)) = named(grant.tenant(), &path) else { return Err(Fault::file("gcs_path", &path)) };
    if let Some(id) = id
        && id != file.public()
    {
        return Err(Fault::value("file_id", &id.into(), "is not the file of this gcs_path"));
    }
    let ask = file::Register {
        file,
        wire: Some(WIRE),
        stored_as: Some(stored_as),
        name: Some(&name),
        size: Some(("file_size", size)),
        mime_type: Some(("mime_type", &mime_type)),
        digests,
    };
    file::register(&doors.engine, grant, ask).await.map_err(|refused| {
        let incomplete = matches!(refused, Refusal::UploadIncomplete { .. });
        let fault = Fault::from(refused).about_file("gcs_path", &path).sent(item);
        if incomplete { fault.with("file_id", file.public()) } else { fault }
    })
}

/// The file of a path as it was issued: organization and file, and the name that its upload was opened with.
fn named<'a>(tenant: &TenantId, path: &'a str) -> Option<(FileId, &'a str)> {
    let rest = path.strip_prefix("files/")?.strip_prefix(tenant.as_str())?.strip_prefix('/')?;
    let (id, name) = rest.split_once('/')?;
    Some((FileId::from_public(id)?, name))
}

/// Digests that the stored bytes must have, in the body itself or under `digests`, in hexadecimal.
fn digests(fields: &mut Fields<'_>, nested: Option<&Map<String, Value>>, at: &str) -> Result<Declared, Fault> {
    let mut inner = nested.map(|map| Fields::under(map, format!("{at}digests.")));
    let mut text = |name: &'static str| {
        let outer = fields.optional_text(name);
        outer.or_else(|| inner.as_mut().and_then(|inner| inner.optional_text(name)))
    };
    let (crc32c, crc64nvme) = (text("crc32c"), text("crc64nvme"));
    let (md5, sha256) = (text("md5"), text("sha256"));
    if let Some(inner) = &inner {
        inner.check()?;
    }
    Ok(Declared {
        crc32c: decoded("crc32c", crc32c)?.map(u32::from_be_bytes),
        crc64nvme: decoded("crc64nvme", crc64nvme)?.map(u64::from_be_bytes),
        md5: decoded("md5", md5)?,
        sha256: decoded("sha256", sha256)?,
    })
}

fn decoded<const N: usize>(name: &str, text: Option<String>) -> Result<Option<[u8; N]>, Fault> {
    let Some(text) = text else { return Ok(None) };
    match hex::decode(&text).ok().and_then(|bytes| bytes.try_into().ok()) {
        Some(bytes) => Ok(Some(bytes)),
        None => Err(Fault::value(name, &text.into(), &format!("must be {} hexadecimal digits", 2 * N))),
    }
}

// ----------------------------------------------------------------------------------------------------------- the files

/// The file object.
pub(super) fn object(file: &FileRecord) -> Value {
    let key = file.key.map(|key| format!("ak_{}", key.0.simple()));
    json!({
        "id": file.id.public(),
        "original_filename": file.name,
        "file_size": file.size,
        "mime_type": file.mime_type,
        "storage_path": storage_path(&file.tenant, file.id, &file.stored_as),
        "organization_id": file.tenant,
        "uploaded_by": if key.is_some() { Value::Null } else { INTERNAL.into() },
        "uploaded_by_api_key_id": key,
        "uploaded_at": time(file.registered.unwrap_or(file.committed)),
    })
}

/// The same with what was stored, for whoever brought it to compare.
pub(super) fn registered(file: &FileRecord) -> Value {
    let digests = file.digests;
    let mut receipt = json!({
        "size": file.size,
        "crc32c": digests.crc32c.map(|crc| format!("{crc:08x}")),
        "crc64nvme": digests.crc64nvme.map(|crc| format!("{crc:016x}")),
        "md5": digests.md5.map(hex::encode),
        "committed_at": time(file.committed),
    });
    let mut object = object(file);
    if let Some(sha256) = digests.sha256 {
        receipt["sha256"] = hex::encode(sha256).into();
    }
    object["receipt"] = receipt;
    object
}

pub(super) async fn list(doors: Arc<Doors>, call: Call) -> Reply {
    let tenant = super::view(&doors, &call, Right::Read).await?;
    let (page, limit) = Query::parse(&call.query).page(PAGE_LIMIT)?;
    let offset = (page - 1).saturating_mul(limit);
    let filter = FileFilter { offset, limit: u32::try_from(limit).unwrap_or(100), ..FileFilter::default() };
    let files = file::list(&doors.engine, &tenant, filter).await?;
    let total = file::count(&doors.engine, &tenant).await?;
    answer(
        StatusCode::OK,
        &json!({
            "files": files.iter().map(object).collect::<Vec<_>>(),
            "total": total,
            "page": page,
            "limit": limit,
            "has_more": offset.saturating_add(limit) < total,
        }),
    )
}

/// The file of the path.
async fn found(doors: &Doors, call: &Call, tenant: &TenantId) -> Result<FileRecord, Fault> {
    let id = call.parameter("file_id");
    let unknown = || Fault::file("file_id", id);
    let file = FileId::from_public(id).ok_or_else(unknown)?;
    file::find(&doors.engine, tenant, file).await.map_err(|refused| Fault::from(refused).about_file("file_id", id))
}

pub(super) async fn get(doors: Arc<Doors>, call: Call) -> Reply {
    let tenant = super::view(&doors, &call, Right::Read).await?;
    answer(StatusCode::OK, &object(&found(&doors, &call, &tenant).await?))
}

pub(super) async fn delete(doors: Arc<Doors>, call: Call) -> Reply {
    let grant = super::grant(&doors, &call, Right::Upload).await?;
    let file = found(&doors, &call, grant.tenant()).await?;
    file::delete(&doors.engine, &grant, file.id, true)
        .await
        .map_err(|refused| Fault::from(refused).about_file("file_id", call.parameter("file_id")))?;
    Ok(super::no_content())
}

pub(super) async fn content(doors: Arc<Doors>, call: Call) -> Reply {
    let tenant = super::view(&doors, &call, Right::Read).await?;
    let file = found(&doors, &call, &tenant).await?;
    let expires = doors.engine.clock.now().seconds() + DOWNLOAD_SECONDS;
    let token = doors.engine.tickets.download_token(&tenant, file.id, expires);
    let (base, id) = (call.origin(&doors), file.id.public());
    let url = format!("{base}/v1/organizations/{}/files/{id}/download?token={token}&expires={expires}", tenant);
    answer(
        StatusCode::OK,
        &json!({
            "file_id": id,
            "filename": file.name,
            "mime_type": file.mime_type,
            "file_size": file.size,
            "download_url": url,
        }),
    )
}

/// The link is the credential: it names file and end, and no header counts.
pub(super) async fn download(doors: Arc<Doors>, call: Call) -> Reply {
    let query = Query::parse(&call.query);
    let tenant = TenantId::from(call.parameter("org"));
    let file = FileId::from_public(call.parameter("file_id"));
    let expires = query.get("expires").and_then(|text| text.parse::<i64>().ok());
    let (Some(file), Some(expires), Some(token)) = (file, expires, query.get("token")) else {
        return Err(Fault::token("the link has no file, token or expires"));
    };
    let now = doors.engine.clock.now();
    if !doors.engine.tickets.holds_download(&tenant, file, expires, token, now) {
        return Err(Fault::token("the link is not one of ours, or it expired"));
    }
    let unknown = |refused: Refusal| Fault::from(refused).about_file("file_id", call.parameter("file_id"));
    let file = file::find(&doors.engine, &tenant, file).await.map_err(unknown)?;
    let reader = file::open(&doors.engine, &file).await.map_err(unknown)?;
    let about = About {
        name: file.name,
        mime: file.mime_type,
        etag: file.version.0.simple().to_string(),
        modified: Some(file.committed),
    };
    let mut response = download::version(reader, &about, &call.method, &call.headers);
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("private, max-age=3600"));
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_reads_back_for_its_own_organization_only() {
        let id = FileId(uuid::Uuid::from_u128(7));
        let tenant = TenantId::from("org_1");
        let path = storage_path(&tenant, id, "a b.bin");
        assert_eq!(named(&tenant, &path), Some((id, "a b.bin")));
        assert_eq!(named(&TenantId::from("org_2"), &path), None);
        assert_eq!(named(&TenantId::from("org"), &path), None);
        for bad in ["", "../x", "files/org_1/x/a", "files/org_1", "files//org_1/x"] {
            assert_eq!(named(&tenant, bad), None, "{bad}");
        }
    }

    #[test]
    fn media_types_are_names_of_headers() {
        for good in ["a/b", "application/vnd.ms-excel", "text/plain; charset=utf-8", "image/svg+xml"] {
            assert!(check_mime_type("m", good).is_ok(), "{good}");
        }
        for bad in ["", "a", "/", "a/", "/b", "a/b/c", "a b/c", "text/plain; x=\r\n", "ä/b", " "] {
            assert!(check_mime_type("m", bad).is_err(), "{bad:?}");
        }
    }
}
