//! A whole file in one PUT, by a presigned URL.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use base64::Engine as _;
use http::{HeaderMap, HeaderValue, StatusCode, header};

use crate::engine::RefusalRecord;
use crate::faults;
use crate::http::body;
use crate::http::doors::{self, Doors};
use crate::http::server::{self, ConnectionInfo};
use crate::model::file::Declared;
use crate::model::ids::{SessionId, TenantId};
use crate::model::refusal::{Refusal, TicketRefusal};
use crate::ticket::{self, Held, Presented, Target};
use crate::upload::access;
use crate::upload::receive::{self, Receipt};

const IF_NONE_MATCH: &str = "If-None-Match";
/// Shapes a refusal for a wire: the refusal, the request's id, and the size that the client announced.
pub type Envelope = fn(&Refusal, &str, Option<u64>) -> Response;

/// The doors, and how each wire says no.
#[derive(Debug)]
pub struct PutDoor {
    /// The doors.
    pub doors: Arc<Doors>,
    /// By the wire's name.
    pub envelopes: HashMap<&'static str, Envelope>,
    /// For tickets that name no wire.
    pub fallback: Envelope,
}

/// The path of every ticket for a PUT.
pub fn routes() -> Router<Arc<PutDoor>> {
    Router::new().route(&format!("/{}/{{*target}}", ticket::PREFIX), any(receive))
}

async fn receive(State(door): State<Arc<PutDoor>>, request: Request) -> Response {
    let request_id = doors::request_id(&request);
    let path = request.uri().path().to_owned();
    let line = doors::request_line(request.method(), &path);
    let length = content_length(request.headers());
    let (wire, tenant) = named(&path);
    let envelope = door.envelopes.get(wire).copied().unwrap_or(door.fallback);
    let (parts, body) = request.into_parts();
    let held = hold(&door.doors, &parts);
    let verified = held.is_ok();
    let outcome = match held {
        Ok(held) => put(&door.doors, &parts.headers, &held, body, length).await,
        Err(refused) => Err(refused),
    };
    match outcome {
        Ok(receipt) => {
            let reply = stored(&receipt, &request_id);
            faults::point("single.reply");
            reply
        }
        Err(refused) => {
            let response = envelope(&refused, &request_id, length);
            let (rule, detail) = told(&refused);
            let record = RefusalRecord {
                tenant: TenantId::from(tenant),
                rule,
                detail,
                request: line,
                status: response.status().as_u16(),
                at: door.doors.engine.clock.now(),
                verified,
            };
            door.doors.record_refusal(&request_id, record).await;
            response
        }
    }
}

async fn put(
    doors: &Doors,
    headers: &HeaderMap,
    held: &Held,
    body: axum::body::Body,
    length: Option<u64>,
) -> Result<Receipt, Refusal> {
    let target = &held.target;
    access::not_paused(&doors.engine, &target.tenant).await?;
    let declared = declared(headers, held)?;
    let admitted = receive::admit(&doors.engine, &target.tenant, target.session, length).await?;
    let admitted = if only_new(headers)? { admitted.only_new(IF_NONE_MATCH)? } else { admitted };
    // Only now is the body asked for: a refused one costs a client that waits for `100 Continue` nothing.
    let body = pin!(body::receive(body, &doors.timing, &target.tenant, Some(target.session), doors.stopping.clone(),));
    receive::single(&doors.engine, admitted, body, length, declared).await
}

/// What the request's signature says, if it holds.
fn hold(doors: &Doors, parts: &http::request::Parts) -> Result<Held, Refusal> {
    let connection = doors::connection(&parts.extensions);
    check(doors, parts, &connection, &target(parts.uri.path())?)
}

fn check(
    doors: &Doors,
    parts: &http::request::Parts,
    connection: &ConnectionInfo,
    target: &Target,
) -> Result<Held, Refusal> {
    let host = server::seen_host(&doors.config, &parts.headers, connection);
    let headers: Vec<(&str, &[u8])> = parts.headers.iter().map(|(n, v)| (n.as_str(), v.as_bytes())).collect();
    let presented = Presented {
        method: parts.method.as_str(),
        scheme: server::seen_scheme(&doors.config, &parts.headers, connection),
        host: &host,
        path: parts.uri.path(),
        query: parts.uri.query().unwrap_or_default(),
        headers: &headers,
    };
    let public_host = doors.config.public_host();
    let prefix = server::seen_prefix(&doors.config, &parts.headers, connection);
    let now = doors.engine.clock.now();
    doors.engine.tickets.check(&presented, target, public_host, prefix, now).map_err(Refusal::Ticket)
}

/// Wire and tenant as the path names them, before anything is checked.
fn named(path: &str) -> (&str, &str) {
    let mut segments = path.split('/').skip(2);
    (segments.next().unwrap_or_default(), segments.next().unwrap_or_default())
}

fn target(path: &str) -> Result<Target, Refusal> {
    let wrong =
        || Refusal::Ticket(TicketRefusal { rule: "path", detail: "the path is not one of an upload URL".into() });
    let (wire, tenant) = named(path);
    let mut rest = path.split('/').skip(4);
    let session = rest.next().and_then(|s| s.parse::<SessionId>().ok()).ok_or_else(wrong)?;
    if rest.next().is_some() || wire.is_empty() || tenant.is_empty() {
        return Err(wrong());
    }
    Ok(Target { wire: wire.to_owned(), tenant: TenantId::from(tenant), session })
}

/// The length that a client announced.
pub(super) fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Digests that the client sent along, by HTTP's header or by S3's.
fn declared(headers: &HeaderMap, held: &Held) -> Result<Declared, Refusal> {
    // A part of a file must not pass for the whole (RFC 9110 14.5).
    if headers.contains_key(header::CONTENT_RANGE) {
        return Err(Refusal::invalid("Content-Range", "is not taken here: one PUT sends the whole file"));
    }
    let mut declared = Declared { sha256: held.sha256, ..Declared::default() };
    if let Some(value) = headers.get("content-md5") {
        declared.md5 = Some(decode("Content-MD5", value.as_bytes())?);
    }
    for (name, value) in &held.amz_headers {
        match name.as_str() {
            "x-amz-checksum-crc32c" => declared.crc32c = Some(u32::from_be_bytes(decode(name, value.as_bytes())?)),
            "x-amz-checksum-crc64nvme" => {
                declared.crc64nvme = Some(u64::from_be_bytes(decode(name, value.as_bytes())?));
            }
            "x-amz-checksum-sha256" => declared.sha256 = Some(decode(name, value.as_bytes())?),
            _ => {}
        }
    }
    Ok(declared)
}

/// Is the PUT meant for a location without content only (RFC 9110 13.1.2)?
fn only_new(headers: &HeaderMap) -> Result<bool, Refusal> {
    let mut values = headers.get_all(header::IF_NONE_MATCH).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(false),
        (Some(value), None) if value.as_bytes().trim_ascii() == b"*" => Ok(true),
        // A condition that is not understood must not pass for one that holds.
        (Some(_), _) => Err(Refusal::invalid(IF_NONE_MATCH, "takes only `*` here: there is no content yet")),
    }
}

/// Reads a digest of so many bytes from a header.
pub(super) fn decode<const N: usize>(name: &str, value: &[u8]) -> Result<[u8; N], Refusal> {
    base64::engine::general_purpose::STANDARD
        .decode(value)
        .ok()
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(|| Refusal::invalid(name, format!("must be the Base64 of {N} bytes")))
}

fn stored(receipt: &Receipt, request_id: &str) -> Response {
    let mut response = StatusCode::OK.into_response();
    let headers = response.headers_mut();
    if let Ok(tag) = HeaderValue::try_from(etag(receipt)) {
        headers.insert(header::ETAG, tag);
    }
    if let Ok(id) = HeaderValue::try_from(request_id) {
        headers.insert("x-amz-request-id", id);
    }
    response
}

/// Opaque, unless the client made us compute the MD5 that S3 would show.
pub(super) fn etag(receipt: &Receipt) -> String {
    receipt.digests.md5.map_or_else(
        // Of what came here it is always known.
        || format!("\"{:016x}-{:x}\"", receipt.digests.crc64nvme.unwrap_or_default(), receipt.size),
        |md5| format!("\"{}\"", hex::encode(md5)),
    )
}

/// What the refusal record says: the rule as a word, and a sentence.
pub(super) fn told(refused: &Refusal) -> (String, String) {
    let word = match refused {
        Refusal::Ticket(ticket) => return (ticket.rule.to_owned(), ticket.detail.clone()),
        Refusal::TooLarge { .. } => "too_large",
        Refusal::DigestMismatch { algorithm, declared, received } => {
            let detail = format!("the {algorithm} declared was {declared}, the body's is {received}");
            return ("digest_mismatch".to_owned(), detail);
        }
        Refusal::Incomplete { .. } => "incomplete",
        Refusal::Quota { .. } => "quota",
        Refusal::Superseded => "superseded",
        Refusal::NotFound { .. } => "session",
        Refusal::OutOfSpace => "out_of_space",
        Refusal::Unavailable => "unavailable",
        Refusal::Busy { .. } => "busy",
        Refusal::Internal => "internal",
        Refusal::TenantPaused => "tenant_paused",
        Refusal::ConditionFailed { .. } => "condition",
        Refusal::Missing { .. } | Refusal::Invalid { .. } | Refusal::Malformed { .. } => "header",
        Refusal::NoCredential
        | Refusal::BadCredential
        | Refusal::IssuerSilent { .. }
        | Refusal::Forbidden { .. }
        | Refusal::TenantUnknown
        | Refusal::TooManyItems { .. }
        | Refusal::TooManyItemsToday { .. }
        | Refusal::TargetUnknown { .. }
        | Refusal::MediaType { .. }
        | Refusal::Conflict { .. }
        | Refusal::UploadIncomplete { .. }
        | Refusal::PartsMissing { .. }
        | Refusal::PartsTooSmall { .. }
        | Refusal::Gone { .. }
        | Refusal::RateLimited { .. } => "refused",
    };
    (word.to_owned(), refused.to_string())
}
