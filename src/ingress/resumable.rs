//! A file in chunks, by a session URL: the protocol of Google Cloud Storage's resumable uploads, as its clients and its
//! emulator speak it (docs/sessions.md has the rules and their sources).

use std::pin::pin;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, HttpBody};
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::json;

use crate::faults;
use crate::http::body;
use crate::http::doors::{self, Doors};
use crate::model::file::{Declared, FileRecord, storage_path};
use crate::model::ids::SessionId;
use crate::model::refusal::Refusal;
use crate::ticket::{BUCKET, SESSION_PATH};
use crate::upload::resume::{self, Admission, Chunk, Standing};

const UPLOAD_ID: HeaderName = HeaderName::from_static("x-guploader-uploadid");
const NO_308: HeaderName = HeaderName::from_static("x-guploader-no-308");
const OVERRIDE: HeaderName = HeaderName::from_static("x-http-status-code-override");

/// The path of every session URL.
pub fn routes() -> Router<Arc<Doors>> {
    Router::new().route(&format!("/{SESSION_PATH}/{{bucket}}/o"), any(answer))
}

async fn answer(State(doors): State<Arc<Doors>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let upload_id = upload_id(parts.uri.query().unwrap_or_default());
    let session = upload_id.as_deref().and_then(|id| doors.engine.tickets.session_of(id));
    let base = doors.origin(&parts.headers, &doors::connection(&parts.extensions));
    let asked = asked(&parts, &body);
    let mut response = match session {
        None => standing(&Standing::Unknown, &base),
        Some(session) => match asked {
            Ok(Asked::Status(total)) => told(resume::status(&doors.engine, session, total).await, &base),
            Ok(Asked::Adopt) => adopt(&doors, session, &base).await,
            Ok(Asked::Cancel) => told(resume::cancel(&doors.engine, session).await, &base),
            Ok(Asked::Chunk(chunk)) => told(receive(&doors, session, chunk, body).await, &base),
            Ok(Asked::Nothing) => not_allowed(),
            Err(refused) => refuse(&refused),
        },
    };
    if let Some(id) = session.and(upload_id).and_then(|id| HeaderValue::try_from(id).ok()) {
        response.headers_mut().insert(UPLOAD_ID, id);
    }
    if response.status() == StatusCode::PERMANENT_REDIRECT && parts.headers.get(NO_308).is_some_and(|v| v == "yes") {
        // For clients whose HTTP library takes a 308 for a redirect.
        *response.status_mut() = StatusCode::OK;
        response.headers_mut().insert(OVERRIDE, HeaderValue::from_static("308"));
    }
    faults::point("resumable.reply");
    response
}

async fn receive(doors: &Doors, session: SessionId, chunk: Chunk, body: Body) -> Result<Standing, Refusal> {
    match resume::admit(&doors.engine, session, chunk).await? {
        Admission::Answer(standing) => Ok(standing),
        // Only now is the body asked for: a refused one costs a client that waits for `100 Continue` nothing.
        Admission::Body(admitted) => {
            // Bodies of one session do not wait for each other: the newest takes over.
            let body = pin!(body::receive(body, &doors.timing, admitted.tenant(), None, doors.stopping.clone()));
            resume::receive(&doors.engine, admitted, body).await
        }
    }
}

/// A session URL is its own upload's location: a client that wants to open a session at it gets it back.
async fn adopt(doors: &Doors, session: SessionId, base: &str) -> Response {
    match resume::status(&doors.engine, session, None).await {
        Ok(Standing::Open { .. }) => {
            let mut response = StatusCode::OK.into_response();
            if let Ok(url) = HeaderValue::try_from(doors.engine.tickets.session_url(base, session)) {
                response.headers_mut().insert(header::LOCATION, url);
            }
            response
        }
        other => told(other, base),
    }
}

/// What a request on a session URL wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Asked {
    Status(Option<u64>),
    Adopt,
    Cancel,
    Chunk(Chunk),
    Nothing,
}

fn asked(parts: &Parts, body: &Body) -> Result<Asked, Refusal> {
    if parts.method == Method::DELETE {
        return Ok(Asked::Cancel);
    }
    if parts.method != Method::PUT && parts.method != Method::POST {
        return Ok(Asked::Nothing);
    }
    let length = body.size_hint().exact();
    let mut ranges = parts.headers.get_all(header::CONTENT_RANGE).iter();
    let range = ranges.next();
    if ranges.next().is_some() {
        return Err(Refusal::malformed("the request has more than one Content-Range"));
    }
    let Some(range) = range else {
        let starts = parts
            .headers
            .keys()
            .any(|name| name.as_str() == "x-goog-resumable" || name.as_str().starts_with("x-upload-content-"));
        // A POST with a body and nothing that speaks of opening brings the file, as a PUT does.
        if starts || (parts.method == Method::POST && body.is_end_stream()) {
            return Ok(Asked::Adopt);
        }
        let declared = declared(&parts.headers, true)?;
        return Ok(Asked::Chunk(Chunk { whole: true, length, declared, ..Chunk::default() }));
    };
    let range = range.to_str().ok().and_then(Range::parse).ok_or_else(|| {
        Refusal::malformed(format!(
            "Content-Range must be `bytes FIRST-LAST/TOTAL`, where LAST and TOTAL may be `*`, or `bytes */TOTAL` to ask how \
             far the upload has come; it is `{}`",
            String::from_utf8_lossy(range.as_bytes()).chars().take(100).collect::<String>()
        ))
    })?;
    Ok(match range {
        Range::Status { total } => Asked::Status(total),
        Range::Bytes { first, last, total } => {
            Asked::Chunk(Chunk { first, last, total, whole: false, length, declared: declared(&parts.headers, false)? })
        }
    })
}

/// A Content-Range.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Range {
    Status { total: Option<u64> },
    Bytes { first: u64, last: Option<u64>, total: Option<u64> },
}

impl Range {
    fn parse(text: &str) -> Option<Self> {
        let (unit, rest) = text.trim().split_once(' ')?;
        let (range, total) = rest.trim().split_once('/')?;
        let number = |text: &str| {
            let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
            digits.then(|| text.parse::<u64>().ok()).flatten().filter(|n| *n < u64::MAX)
        };
        let number_or_star = |text: &str| if text == "*" { Some(None) } else { number(text).map(Some) };
        if !unit.eq_ignore_ascii_case("bytes") {
            return None;
        }
        let total = number_or_star(total)?;
        if range == "*" {
            return Some(Self::Status { total });
        }
        let (first, last) = range.split_once('-')?;
        let (first, last) = (number(first)?, number_or_star(last)?);
        if last.is_some_and(|last| last < first) {
            return None;
        }
        Some(Self::Bytes { first, last, total })
    }
}

/// Digests of the whole file: Google's header on any request, HTTP's own where the body is the whole.
fn declared(headers: &HeaderMap, whole: bool) -> Result<Declared, Refusal> {
    let mut declared = Declared::default();
    for value in headers.get_all("x-goog-hash") {
        let text = value.to_str().map_err(|_| Refusal::malformed("X-Goog-Hash is not text"))?;
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            match part.split_once('=') {
                Some(("crc32c", value)) => declared.crc32c = Some(u32::from_be_bytes(decoded("crc32c", value)?)),
                Some(("md5", value)) => declared.md5 = Some(decoded("md5", value)?),
                _ => return Err(Refusal::malformed("X-Goog-Hash must be `crc32c=BASE64`, `md5=BASE64`, or both")),
            }
        }
    }
    if let (true, Some(value)) = (whole, headers.get("content-md5")) {
        declared.md5 = Some(decoded("Content-MD5", value.to_str().unwrap_or_default())?);
    }
    Ok(declared)
}

fn decoded<const N: usize>(name: &str, value: &str) -> Result<[u8; N], Refusal> {
    let bytes = STANDARD.decode(value).ok().and_then(|bytes| bytes.try_into().ok());
    bytes.ok_or_else(|| Refusal::malformed(format!("{name} must be the Base64 of {N} bytes")))
}

fn upload_id(query: &str) -> Option<String> {
    form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "upload_id").map(|(_, value)| value.into_owned())
}

fn told(result: Result<Standing, Refusal>, base: &str) -> Response {
    match result {
        Ok(found) => standing(&found, base),
        Err(refused) => refuse(&refused),
    }
}

fn standing(standing: &Standing, base: &str) -> Response {
    match standing {
        Standing::Open { received } => {
            let mut response = StatusCode::PERMANENT_REDIRECT.into_response();
            // Without a single byte there is no range to name.
            if *received > 0
                && let Ok(range) = HeaderValue::try_from(format!("bytes=0-{}", received - 1))
            {
                response.headers_mut().insert(header::RANGE, range);
            }
            response
        }
        Standing::Done(file) => {
            let mut response = (StatusCode::OK, json_type(), object(file, base).to_string()).into_response();
            if let Ok(tag) = HeaderValue::try_from(format!("\"{}\"", etag(file))) {
                response.headers_mut().insert(header::ETAG, tag);
            }
            response
        }
        Standing::Cancelled => {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::from_u16(499).unwrap_or(StatusCode::GONE);
            response
        }
        Standing::Unknown => error(StatusCode::NOT_FOUND, "the upload is unknown or expired: begin a new one"),
        Standing::Failed => error(StatusCode::GONE, "the upload failed and its bytes are gone: begin a new one"),
    }
}

/// The finished object, as the vendor's storage describes one. Its numbers are strings there.
fn object(file: &FileRecord, base: &str) -> serde_json::Value {
    let name = storage_path(&file.tenant, file.id, &file.stored_as);
    let encoded = utf8_percent_encode(&name, NON_ALPHANUMERIC).to_string();
    let generation = file.committed.millis().saturating_mul(1000).to_string();
    let at = file.committed.rfc3339();
    let link = format!("{base}/storage/v1/b/{BUCKET}/o/{encoded}");
    let mut object = json!({
        "kind": "storage#object",
        "id": format!("{BUCKET}/{name}/{generation}"),
        "selfLink": link,
        "mediaLink": format!("{link}?generation={generation}&alt=media"),
        "name": name,
        "bucket": BUCKET,
        "generation": generation,
        "metageneration": "1",
        "contentType": file.mime_type,
        "storageClass": "STANDARD",
        "size": file.size.to_string(),
        "etag": etag(file),
        "timeCreated": at,
        "updated": at,
    });
    if let (Some(crc), Some(fields)) = (file.digests.crc32c, object.as_object_mut()) {
        fields.insert("crc32c".into(), STANDARD.encode(crc.to_be_bytes()).into());
    }
    if let (Some(md5), Some(fields)) = (file.digests.md5, object.as_object_mut()) {
        fields.insert("md5Hash".into(), STANDARD.encode(md5).into());
    }
    object
}

fn etag(file: &FileRecord) -> String {
    file.version.0.simple().to_string()
}

fn not_allowed() -> Response {
    let mut response = error(StatusCode::METHOD_NOT_ALLOWED, "a session URL takes PUT, POST and DELETE");
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("PUT, POST, DELETE, OPTIONS"));
    response
}

fn json_type() -> [(HeaderName, HeaderValue); 1] {
    [(header::CONTENT_TYPE, HeaderValue::from_static("application/json; charset=UTF-8"))]
}

fn error(status: StatusCode, message: &str) -> Response {
    let body = json!({ "error": { "code": status.as_u16(), "message": message } });
    (status, json_type(), body.to_string()).into_response()
}

/// A refusal. What may pass is a status that the vendor's clients repeat a request after, what lasts is not.
fn refuse(refused: &Refusal) -> Response {
    let status = match refused {
        Refusal::Missing { .. }
        | Refusal::Invalid { .. }
        | Refusal::Malformed { .. }
        | Refusal::MediaType { .. }
        | Refusal::DigestMismatch { .. }
        | Refusal::UploadIncomplete { .. }
        | Refusal::PartsMissing { .. }
        | Refusal::PartsTooSmall { .. }
        | Refusal::Conflict { .. } => StatusCode::BAD_REQUEST,
        Refusal::TooLarge { .. } | Refusal::Quota { .. } => StatusCode::PAYLOAD_TOO_LARGE,
        Refusal::NoCredential
        | Refusal::BadCredential
        | Refusal::Forbidden { .. }
        | Refusal::TenantPaused
        | Refusal::TooManyItems { .. }
        | Refusal::Ticket(_) => StatusCode::FORBIDDEN,
        Refusal::ConditionFailed { .. } => StatusCode::PRECONDITION_FAILED,
        Refusal::TenantUnknown | Refusal::TargetUnknown { .. } | Refusal::NotFound { .. } => StatusCode::NOT_FOUND,
        Refusal::Gone { .. } => StatusCode::GONE,
        Refusal::RateLimited { .. } | Refusal::TooManyItemsToday { .. } => StatusCode::TOO_MANY_REQUESTS,
        Refusal::OutOfSpace => StatusCode::INSUFFICIENT_STORAGE,
        Refusal::Incomplete { .. }
        | Refusal::Busy { .. }
        | Refusal::Superseded
        | Refusal::Unavailable
        | Refusal::IssuerSilent { .. } => StatusCode::SERVICE_UNAVAILABLE,
        Refusal::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    };
    let mut response = error(status, &refused.to_string());
    if let Some(seconds) = refused.retry_seconds() {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges_are_read_strictly() {
        let bytes = |first, last, total| Some(Range::Bytes { first, last, total });
        for (text, expected) in [
            ("bytes 0-9/20", bytes(0, Some(9), Some(20))),
            ("bytes 5-9/*", bytes(5, Some(9), None)),
            ("bytes 5-*/20", bytes(5, None, Some(20))),
            ("bytes 5-*/*", bytes(5, None, None)),
            ("Bytes 0-0/1", bytes(0, Some(0), Some(1))),
            ("bytes */20", Some(Range::Status { total: Some(20) })),
            ("bytes */*", Some(Range::Status { total: None })),
            ("bytes *", None),
            ("bytes x", None),
            ("bytes=0-9/20", None),
            ("bytes 9-0/20", None),
            ("bytes -9/20", None),
            ("bytes 0-/20", None),
            ("bytes +1-2/3", None),
            ("bytes 0-1/", None),
            ("bytes 0-1", None),
            ("items 0-1/2", None),
            ("bytes 0-18446744073709551615/*", None),
            ("bytes 99999999999999999999-1/2", None),
            ("", None),
        ] {
            assert_eq!(Range::parse(text), expected, "{text}");
        }
    }
}
