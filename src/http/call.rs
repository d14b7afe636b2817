//! A call of an API as it came, and its way through a handler, for every dialect.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use axum::extract::{FromRequestParts, RawPathParams, Request, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use http_body::Body as _;
use serde::Serialize;

use super::auth::{Denied, Inspection};
use super::doors::{self, Doors};
use super::server::ConnectionInfo;
use super::{auth, body};
use crate::clock::Timestamp;
use crate::engine::RefusalRecord;
use crate::model::access::Caller;
use crate::model::ids::TenantId;
use crate::model::refusal::Refusal;

/// What the APIs that name a tenant in their paths call it there.
const TENANT_PARAMETERS: [&str; 2] = ["org", "project"];

/// What a handler answers; a refusal gets the shape of its dialect.
pub type Reply = Result<Response, Refusal>;

/// How a dialect shapes what its handlers refuse with: the refusal, the request's id, and the time.
pub type Envelope<E> = fn(&E, &str, Timestamp) -> Response;

/// An answer on its way.
pub type Answering = Pin<Box<dyn Future<Output = Response> + Send>>;

/// Makes an axum handler of a function that takes a call and may refuse it.
pub fn handle<H, F, E>(
    envelope: Envelope<E>,
    handler: H,
) -> impl Fn(State<Arc<Doors>>, Request) -> Answering + Clone + Send + Sync + 'static
where
    H: Fn(Arc<Doors>, Call) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Result<Response, E>> + Send + 'static,
    E: 'static,
{
    move |State(doors), request| {
        let handler = handler.clone();
        Box::pin(async move {
            let call = Call::read(request).await;
            let request_id = call.request_id.clone();
            match handler(Arc::clone(&doors), call).await {
                Ok(response) => response,
                Err(refused) => envelope(&refused, &request_id, doors.engine.clock.now()),
            }
        })
    }
}

/// A JSON answer.
///
/// # Errors
/// [`Refusal::Internal`] for what can't be JSON.
pub fn answer(status: StatusCode, body: &impl Serialize) -> Reply {
    answer_of(status, body, 0)
}

/// The same of some length, in bytes, so that a long one is not moved again and again while it grows.
///
/// # Errors
/// [`Refusal::Internal`] for what can't be JSON.
pub fn answer_of(status: StatusCode, body: &impl Serialize, roughly: usize) -> Reply {
    let mut text = Vec::with_capacity(roughly);
    serde_json::to_writer(&mut text, body).map_err(|_| Refusal::Internal)?;
    let json = [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];
    Ok((status, json, text).into_response())
}

/// A call.
#[derive(Debug)]
pub struct Call {
    /// Its method.
    pub method: Method,
    /// Its path, as it was on the wire.
    pub path: String,
    /// Its query, as it was on the wire.
    pub query: String,
    /// Its headers.
    pub headers: HeaderMap,
    /// The connection that it came on.
    pub connection: ConnectionInfo,
    /// Its id.
    pub request_id: String,
    parameters: Vec<(String, String)>,
    /// Whose key it came with, once that is known.
    tenant: OnceLock<TenantId>,
    /// In a mutex only because a body may not be shared between threads, and a handler borrows the call.
    body: Mutex<axum::body::Body>,
}

impl Call {
    /// Takes a request apart; its body stays unread.
    pub async fn read(request: Request) -> Self {
        let request_id = doors::request_id(&request);
        let (mut parts, body) = request.into_parts();
        let parameters = match RawPathParams::from_request_parts(&mut parts, &()).await {
            Ok(found) => found.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
            // Not UTF-8: no such thing has such a name, which is what the missing parameter will say.
            Err(_) => Vec::new(),
        };
        Self {
            method: parts.method,
            path: parts.uri.path().to_owned(),
            query: parts.uri.query().unwrap_or_default().to_owned(),
            connection: doors::connection(&parts.extensions),
            headers: parts.headers,
            request_id,
            parameters,
            tenant: OnceLock::new(),
            body: Mutex::new(body),
        }
    }

    /// A parameter of the path, decoded; empty when the path has none of this name.
    #[must_use]
    pub fn parameter(&self, name: &str) -> &str {
        self.parameters.iter().find(|(n, _)| n == name).map_or("", |(_, value)| value)
    }

    /// Who calls. Where the path names a tenant, only its issuers' tokens are taken.
    ///
    /// # Errors
    /// [`Refusal::NoCredential`], [`Refusal::BadCredential`], [`Refusal::IssuerSilent`], [`Refusal::RateLimited`].
    pub async fn caller(&self, doors: &Doors) -> Result<Caller, Refusal> {
        let tenant = TENANT_PARAMETERS.into_iter().map(|name| self.parameter(name)).find(|value| !value.is_empty());
        let tenant = tenant.map(TenantId::from);
        let asked = auth::caller_in(&doors.engine, &doors.limiter, &self.headers, tenant.as_ref()).await;
        let caller = match asked {
            Ok(caller) => caller,
            Err(denied) => return Err(self.denied(doors, denied).await),
        };
        self.tenant.get_or_init(|| caller.tenant.clone());
        Ok(caller)
    }

    /// Who calls and where it may go, for a path that names no tenant.
    ///
    /// # Errors
    /// As [`Self::caller`].
    pub async fn inspect(&self, doors: &Doors) -> Result<Inspection, Refusal> {
        match auth::inspect(&doors.engine, &doors.limiter, &self.headers).await {
            Ok(inspection) => Ok(inspection),
            Err(denied) => Err(self.denied(doors, denied).await),
        }
    }

    /// What the wire is told; why a token was refused is kept for its tenant.
    async fn denied(&self, doors: &Doors, denied: Denied) -> Refusal {
        let Denied { refusal, why } = denied;
        let status = if refusal == Refusal::BadCredential { 401 } else { 503 };
        for why in why {
            let record = RefusalRecord {
                // Of no tenant: nobody is told but the log.
                tenant: why.tenant.unwrap_or_else(|| TenantId::from("")),
                rule: why.rule.to_owned(),
                detail: why.detail,
                request: doors::request_line(&self.method, &self.path),
                status,
                at: doors.engine.clock.now(),
                verified: why.verified,
            };
            doors.record_refusal(&self.request_id, record).await;
        }
        refusal
    }

    /// The base of the locations that the answer names.
    #[must_use]
    pub fn origin(&self, doors: &Doors) -> String {
        doors.origin(&self.headers, &self.connection)
    }

    /// The origin whose pages will send to the locations that the answer names, if that is known.
    #[must_use]
    pub fn page(&self, doors: &Doors) -> Option<&str> {
        super::server::page(&doors.config, &self.headers)
    }

    /// The body, for a call that takes its bytes as they come.
    pub fn take_body(&mut self) -> axum::body::Body {
        std::mem::take(self.body.get_mut().unwrap_or_else(PoisonError::into_inner))
    }

    /// The JSON body, of at most `limit` bytes. Another content type is refused before the size, and the size before
    /// the content. A call without a body, or without a type, is taken as it is.
    ///
    /// Its memory is the caller's tenant's: nothing is read before [`Call::caller`] has found one.
    ///
    /// # Errors
    /// [`Refusal::MediaType`], [`Refusal::TooLarge`] with `remedy`, [`Refusal::Incomplete`], [`Refusal::Busy`];
    /// [`Refusal::NoCredential`] where nobody has asked who calls.
    pub async fn json(&mut self, doors: &Doors, limit: u64, remedy: &'static str) -> Result<Bytes, Refusal> {
        let body = self.take_body();
        if !body.is_end_stream() && !is_json(&self.headers) {
            return Err(Refusal::MediaType { expected: "application/json" });
        }
        let tenant = self.tenant.get().ok_or(Refusal::NoCredential)?;
        body::read_all(body, limit, remedy, &doors.timing, tenant).await
    }

    /// The same, for an API whose clients compress their bodies: gzip is unpacked, to at most as many bytes again.
    ///
    /// # Errors
    /// As [`Self::json`]; [`Refusal::MediaType`] for another coding, [`Refusal::Malformed`] for what is no gzip.
    pub async fn json_or_gzip(&mut self, doors: &Doors, limit: u64, remedy: &'static str) -> Result<Bytes, Refusal> {
        let mut codings = self.headers.get_all(header::CONTENT_ENCODING).iter().map(|coding| coding.as_bytes());
        let packed = match (codings.next().map(<[u8]>::trim_ascii), codings.next()) {
            (None, _) => false,
            (Some(coding), None) if coding.is_empty() || coding.eq_ignore_ascii_case(b"identity") => false,
            (Some(coding), None) if coding.eq_ignore_ascii_case(b"gzip") => true,
            _ => return Err(Refusal::MediaType { expected: "application/json, as it is or with the coding gzip" }),
        };
        let bytes = self.json(doors, limit, remedy).await?;
        if !packed || bytes.is_empty() {
            return Ok(bytes);
        }
        let tenant = self.tenant.get().ok_or(Refusal::NoCredential)?;
        body::gunzip(bytes, limit, remedy, &doors.timing, tenant).await
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(header::CONTENT_TYPE) else { return true };
    let essence = value.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"))
}
