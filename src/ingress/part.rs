//! A part of a file, or a whole file in one PUT, at a plain ticket: for clients that send headers of their own and may
//! reach us by another name than the one that the ticket was issued under. Nothing of a request counts but its method,
//! path, query and body.

use std::collections::HashMap;
use std::pin::{Pin, pin};
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use bytes::Bytes;
use futures_util::stream::{self, Stream, StreamExt};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};

use super::put::{self, Envelope};
use crate::engine::RefusalRecord;
use crate::faults;
use crate::http::body;
use crate::http::doors::{self, Doors};
use crate::http::server::Early;
use crate::model::file::Declared;
use crate::model::ids::SessionId;
use crate::model::refusal::{Refusal, TicketRefusal};
use crate::telemetry;
use crate::ticket::{self, Plain};
use crate::upload::parts;
use crate::upload::receive::{self, BodyError, Receipt};
use crate::upload::track;

/// How a wire says no at its locations.
#[derive(Clone, Copy, Debug)]
pub struct Says {
    /// To what a verb refuses.
    pub refuse: Envelope,
    /// To what is no request for a location.
    pub early: fn(&Early, &str) -> Response,
}

/// The doors, and how each wire says no.
#[derive(Debug)]
pub struct PartDoor {
    /// The doors.
    pub doors: Arc<Doors>,
    /// By the wire's name.
    pub wires: HashMap<&'static str, Says>,
    /// For tickets that name no wire.
    pub fallback: Says,
}

/// The path of every plain ticket.
pub fn routes() -> Router<Arc<PartDoor>> {
    Router::new().route(&format!("/{}/{{*target}}", ticket::PLAIN_PREFIX), any(answer))
}

/// The wire that such a path names, before anything is checked.
#[must_use]
pub fn wire_of(path: &str) -> Option<&str> {
    path.strip_prefix('/')?.strip_prefix(ticket::PLAIN_PREFIX)?.strip_prefix('/')?.split('/').next()
}

/// The answer to a request on no known path that is a plain ticket by its query: one whose path was changed, wherever.
#[must_use]
pub fn refuse_stray(door: &PartDoor, request: &Request) -> Option<Response> {
    let query = request.uri().query().unwrap_or_default();
    if request.method() != Method::PUT || !ticket::is_plain_query(query) {
        return None;
    }
    let wire = request.uri().path().rsplit('/').nth(2).and_then(|wire| door.wires.get(wire));
    let says = wire.copied().unwrap_or(door.fallback);
    let detail = String::from("the path is not one of an upload URL");
    Some((says.refuse)(&Refusal::Ticket(TicketRefusal { rule: "path", detail }), &doors::request_id(request), None))
}

async fn answer(State(door): State<Arc<PartDoor>>, request: Request) -> Response {
    let request_id = doors::request_id(&request);
    let path = request.uri().path().to_owned();
    let says = wire_of(&path).and_then(|wire| door.wires.get(wire)).copied().unwrap_or(door.fallback);
    if request.method() != Method::PUT {
        return not_allowed(says, &request_id);
    }
    let length = put::content_length(request.headers());
    let outcome = receive(&door.doors, request, length).await;
    let response = match outcome {
        Ok(receipt) => stored(&receipt),
        Err(refused) => {
            let response = (says.refuse)(&refused, &request_id, length);
            record(&door.doors, &path, &request_id, &refused, response.status()).await;
            response
        }
    };
    faults::point("part.reply");
    response
}

async fn receive(doors: &Doors, request: Request, length: Option<u64>) -> Result<Receipt, Refusal> {
    let (head, body) = request.into_parts();
    let query = head.uri.query().unwrap_or_default();
    let now = doors.engine.clock.now();
    let plain = doors.engine.tickets.check_plain(head.uri.path(), query, now).map_err(Refusal::Ticket)?;
    match plain {
        Plain { session, part: Some(number), .. } => part(doors, session, number, &head.headers, body, length).await,
        Plain { session, part: None, .. } => whole(doors, session, &head.headers, body, length).await,
    }
}

async fn part(
    doors: &Doors,
    session: SessionId,
    number: u32,
    headers: &HeaderMap,
    body: Body,
    length: Option<u64>,
) -> Result<Receipt, Refusal> {
    let admitted = parts::admit(&doors.engine, session, number, length).await?;
    let declared = declared(headers)?;
    // Only now is the body asked for. Parts do not wait for each other.
    let body = pin!(body::receive(body, &doors.timing, admitted.tenant(), None, doors.stopping.clone()));
    match begun(body, length).await {
        Some(mut body) => parts::receive(&doors.engine, admitted, body.as_mut(), length, declared).await,
        None => parts::before(&doors.engine, &admitted).await?.ok_or_else(nothing),
    }
}

async fn whole(
    doors: &Doors,
    session: SessionId,
    headers: &HeaderMap,
    body: Body,
    length: Option<u64>,
) -> Result<Receipt, Refusal> {
    let admitted = receive::admit_whole(&doors.engine, session, length).await?;
    let declared = declared(headers)?;
    let body = body::receive(body, &doors.timing, admitted.tenant(), Some(session), doors.stopping.clone());
    match begun(pin!(body), length).await {
        Some(mut body) => receive::whole(&doors.engine, admitted, body.as_mut(), length, declared).await,
        None => receive::before(&doors.engine, &admitted).await?.ok_or_else(nothing),
    }
}

type Chunks<'a> = Pin<Box<dyn Stream<Item = Result<Bytes, BodyError>> + Send + 'a>>;

/// The body, or `None` when it is empty and no length said that it would be: that is what a client sends that begins
/// its stream anew after it was read to its end, and not an empty file.
async fn begun<'a>(
    mut body: Pin<&'a mut (dyn Stream<Item = Result<Bytes, BodyError>> + Send + 'a)>,
    length: Option<u64>,
) -> Option<Chunks<'a>> {
    if length.is_some() {
        return Some(Box::pin(body));
    }
    loop {
        match body.next().await? {
            // It asks to write what was gathered, which is nothing.
            Ok(chunk) if chunk.is_empty() => {}
            first => return Some(Box::pin(stream::iter([first]).chain(body))),
        }
    }
}

fn nothing() -> Refusal {
    Refusal::malformed("the body is empty, and no Content-Length says so: nothing was changed")
}

/// A digest that the client sent along in HTTP's own header. But for it, and for a range that the body is said to be, no
/// header counts.
fn declared(headers: &HeaderMap) -> Result<Declared, Refusal> {
    // RFC 9110 14.5: some bytes of a part must not pass for all of it.
    if headers.contains_key(header::CONTENT_RANGE) {
        return Err(Refusal::invalid("Content-Range", "is not taken here: one PUT sends everything"));
    }
    let md5 = headers.get("content-md5").map(|value| put::decode("Content-MD5", value.as_bytes())).transpose()?;
    Ok(Declared { md5, ..Declared::default() })
}

fn stored(receipt: &Receipt) -> Response {
    let mut response = StatusCode::OK.into_response();
    if let Ok(tag) = HeaderValue::try_from(put::etag(receipt)) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    response
}

fn not_allowed(says: Says, request_id: &str) -> Response {
    let early =
        Early { status: StatusCode::METHOD_NOT_ALLOWED, kind: "method-not-allowed", detail: "an upload URL takes PUT" };
    let mut response = (says.early)(&early, request_id);
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("PUT, OPTIONS"));
    response
}

/// Which rule is broken is for the tenant's keys, not for whoever holds the URL.
async fn record(doors: &Doors, path: &str, request_id: &str, refused: &Refusal, status: StatusCode) {
    let Some(Plain { session, .. }) = Plain::read(path) else { return };
    let Ok(Some(tenant)) = track::tenant_of(&doors.engine, session).await else { return };
    let (rule, detail) = put::told(refused);
    let record = RefusalRecord {
        tenant,
        rule,
        detail,
        request: format!("PUT {}", telemetry::redact_path(path)),
        status: status.as_u16(),
        at: doors.engine.clock.now(),
        verified: !matches!(refused, Refusal::Ticket(_)),
    };
    doors.record_refusal(request_id, record).await;
}
