//! Errors as this API tells them: eight fields, always all of them.

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, Method, StatusCode, header};
use serde_json::{Map, Value, json};

use super::time;
use crate::clock::Timestamp;
use crate::http::server::Early;
use crate::model::refusal::Refusal;

/// Longest text that is shown back.
const SHOWN_CHARS: usize = 300;

/// What is said to end users about what they can't do anything about.
const TRY_AGAIN: &str = "Something went wrong on our side. Please try again in a moment.";

/// Why a call is refused, with the status, the code and the details of this API.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Fault {
    status: StatusCode,
    code: &'static str,
    /// For end users.
    message: String,
    /// For developers.
    system_message: String,
    details: Map<String, Value>,
    retry_after: Option<u64>,
}

impl Fault {
    fn new(status: StatusCode, code: &'static str, message: impl Into<String>, details: Value) -> Self {
        let message = message.into();
        let details = match details {
            Value::Object(details) => details,
            _ => Map::new(),
        };
        Self { status, code, system_message: message.clone(), message, details, retry_after: None }
    }

    /// The same with a sentence for developers.
    fn meaning(mut self, system_message: impl Into<String>) -> Self {
        self.system_message = system_message.into();
        self
    }

    /// A field of the right type with a value that can't be; `reason` completes the sentence that begins with its name.
    pub(super) fn value(field: &str, value: &Value, reason: &str) -> Self {
        let details = json!({ "field": field, "value": shown(value) });
        Self::new(StatusCode::BAD_REQUEST, "INVALID_FIELD_VALUE", format!("`{field}` {reason}"), details)
    }

    /// Fields that are missing or of the wrong type, each with a reason that completes a sentence.
    pub(super) fn fields(errors: &[(String, String)]) -> Self {
        let message = match errors {
            [(field, reason)] => format!("`{field}` {reason}"),
            _ => "The request has fields that are missing or of the wrong type".to_owned(),
        };
        let list: Vec<Value> =
            errors.iter().map(|(field, reason)| json!({ "field": field, "reason": reason })).collect();
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "VALIDATION_ERROR", message, json!({ "errors": list }))
    }

    /// One field that is missing or of the wrong type.
    pub(super) fn field(field: &str, reason: impl Into<String>) -> Self {
        Self::fields(&[(field.to_owned(), reason.into())])
    }

    /// Another's organization, or none.
    pub(super) fn organization(id: &str) -> Self {
        let details = json!({ "organization_id": shorten(id) });
        Self::new(
            StatusCode::FORBIDDEN,
            "ORGANIZATION_ACCESS_DENIED",
            "You do not have access to this organization",
            details,
        )
        .meaning("The credential is not one of this organization's, or the organization does not exist")
    }

    /// An unknown file. `field` is what the caller named it by.
    pub(super) fn file(field: &str, value: &str) -> Self {
        let details = json!({ field: shorten(value) });
        Self::new(StatusCode::NOT_FOUND, "FILE_NOT_FOUND", "We couldn't find the requested resource.", details)
            .meaning("File not found")
    }

    /// A token that does not hold.
    pub(super) fn token(system_message: &str) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "TOKEN_INVALID", "The credential or link is not valid", json!({}))
            .meaning(system_message)
    }

    /// A file over the limit of a direct upload.
    pub(super) fn too_large(max_bytes: u64) -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "FILE_TOO_LARGE",
            format!("The file is too large: at most {max_bytes} bytes can be uploaded this way"),
            json!({ "max_bytes": max_bytes }),
        )
        .meaning(format!("more than {max_bytes} bytes; ask for an upload URL instead"))
    }

    pub(super) fn no_such_path(path: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "NOT_FOUND", "There is no such call", json!({ "path": shorten(path) }))
    }

    pub(super) fn wrong_method(method: &Method) -> Self {
        let message = format!("The call does not exist with the method {method}");
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED", message, json!({}))
    }

    /// What is refused before any API sees it.
    pub(super) fn early(early: &Early) -> Self {
        // The kinds are few and of our own.
        let code = match early.kind {
            "uri-too-long" => "URI_TOO_LONG",
            "ambiguous-host" => "AMBIGUOUS_HOST",
            "transfer-coding" => "TRANSFER_CODING",
            _ => "BAD_REQUEST",
        };
        Self::new(early.status, code, early.detail, json!({}))
    }

    /// Adds a detail, or replaces it.
    pub(super) fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.details.insert(name.to_owned(), shown(&value.into()));
        self
    }

    /// The same about one item of a batch.
    pub(super) fn at(self, index: usize) -> Self {
        self.with("index", index)
    }

    /// Says that what is unknown is this file; any other fault stays as it is.
    pub(super) fn about_file(self, field: &str, value: &str) -> Self {
        match self.code {
            "FILE_NOT_FOUND" => Self::file(field, value),
            _ => self,
        }
    }

    /// Shows the value that was sent, for a fault that knows only its field.
    pub(super) fn sent(self, body: &Map<String, Value>) -> Self {
        let field = self.details.get("field").and_then(Value::as_str).unwrap_or_default();
        match body.get(field) {
            Some(value) if self.details.get("value").is_some_and(Value::is_null) => self.with("value", value.clone()),
            _ => self,
        }
    }

    /// Its status.
    pub(super) const fn status(&self) -> StatusCode {
        self.status
    }

    /// Its code.
    pub(super) const fn code(&self) -> &'static str {
        self.code
    }

    /// Its sentence.
    pub(super) fn message(&self) -> &str {
        &self.message
    }
}

/// A text from outside, no longer than is good.
fn shorten(text: &str) -> String {
    match text.char_indices().nth(SHOWN_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

fn shown(value: &Value) -> Value {
    match value {
        Value::String(text) => shorten(text).into(),
        Value::Array(list) if list.len() > 20 => format!("an array of {} items", list.len()).into(),
        other => other.clone(),
    }
}

impl From<Refusal> for Fault {
    fn from(refused: Refusal) -> Self {
        let (said, retry_after) = (refused.to_string(), refused.retry_seconds());
        Self { retry_after, ..Self::of(refused, said) }
    }
}

impl Fault {
    fn of(refused: Refusal, said: String) -> Self {
        match refused {
            Refusal::NoCredential => {
                Self::new(StatusCode::UNAUTHORIZED, "AUTHENTICATION_REQUIRED", "Authentication is required", json!({}))
                    .meaning("send a key as X-API-Key or as a bearer token")
            }
            Refusal::BadCredential | Refusal::Ticket(_) => Self::token(&said),
            Refusal::Forbidden { right: "" } | Refusal::TenantUnknown => {
                let fault = Self::organization("");
                Self { details: Map::new(), ..fault }
            }
            // Of its own organization: who is refused may know why.
            Refusal::Forbidden { right } => Self::new(
                StatusCode::FORBIDDEN,
                "INSUFFICIENT_PERMISSIONS",
                "This key may not do that",
                json!({ "right": right }),
            )
            .meaning(said),
            Refusal::TargetUnknown { what: "store", id } => Self::new(
                StatusCode::NOT_FOUND,
                "VECTOR_STORE_NOT_FOUND",
                "We couldn't find the requested resource.",
                json!({ "store_id": shorten(&id) }),
            )
            .meaning("Vector store not found"),
            Refusal::TargetUnknown { .. } => {
                Self::new(StatusCode::NOT_FOUND, "NOT_FOUND", "We couldn't find the requested resource.", json!({}))
                    .meaning(said)
            }
            Refusal::NotFound { .. } | Refusal::Gone { .. } => {
                Self { details: Map::new(), ..Self::file("file_id", "") }
            }
            Refusal::Missing { name } => Self::field(&name, "is required"),
            Refusal::Invalid { name, reason } => Self::value(&name, &Value::Null, &reason),
            Refusal::Malformed { reason } => Self::field("body", reason),
            Refusal::MediaType { expected } => Self::field("Content-Type", format!("must be {expected}")),
            Refusal::TooLarge { limit, .. } => Self::too_large(limit),
            // Not 409: the vendor's client would repeat the call.
            Refusal::Conflict { reason } => {
                Self::new(StatusCode::BAD_REQUEST, "INVALID_FIELD_VALUE", "The state does not allow it", json!({}))
                    .meaning(reason)
            }
            Refusal::DigestMismatch { algorithm, declared, received } => {
                Self::value(algorithm, &declared.into(), "is not the digest of the stored bytes")
                    .with("stored", received)
            }
            Refusal::Incomplete { reason } => Self::field("body", format!("is incomplete: {reason}")),
            Refusal::RateLimited { .. } | Refusal::TooManyItemsToday { .. } => {
                let details = json!({ "retry_after": refused.retry_seconds() });
                let message = "Too many requests. Please slow down.";
                Self::new(StatusCode::TOO_MANY_REQUESTS, "RATE_LIMIT_EXCEEDED", message, details).meaning(said)
            }
            // It lasts, so that no status may invite a repetition.
            Refusal::Quota { what, limit, used, wanted } => Self::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "QUOTA_EXCEEDED",
                "The organization's storage quota does not allow it",
                json!({ "what": what, "limit": limit, "used": used, "wanted": wanted }),
            )
            .meaning(said),
            Refusal::UploadIncomplete { received, expected } => Self::new(
                StatusCode::BAD_REQUEST,
                "UPLOAD_INCOMPLETE",
                "The upload is not complete yet",
                json!({ "received_bytes": received, "expected_bytes": expected }),
            )
            .meaning(said),
            Refusal::PartsMissing { .. } | Refusal::PartsTooSmall { .. } => {
                Self::new(StatusCode::BAD_REQUEST, "UPLOAD_INCOMPLETE", "The upload is not complete yet", json!({}))
                    .meaning(said)
            }
            Refusal::TooManyItems { limit } => Self::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "QUOTA_EXCEEDED",
                "The organization's quota does not allow it",
                json!({ "what": "items", "limit": limit }),
            )
            .meaning(said),
            Refusal::TenantPaused => Self::new(
                StatusCode::FORBIDDEN,
                "ORGANIZATION_PAUSED",
                "This organization is paused: what it has can be read, and nothing can be changed",
                json!({}),
            )
            .meaning(said),
            Refusal::ConditionFailed { header } => Self::value(header, &Value::Null, "does not hold"),
            Refusal::Superseded
            | Refusal::Unavailable
            | Refusal::IssuerSilent { .. }
            | Refusal::Busy { .. }
            | Refusal::OutOfSpace => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "SERVICE_UNAVAILABLE", TRY_AGAIN, json!({})).meaning(said)
            }
            Refusal::Internal => {
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "INTERNAL_ERROR", TRY_AGAIN, json!({})).meaning(said)
            }
        }
    }
}

fn kind(status: StatusCode) -> &'static str {
    match status {
        StatusCode::UNAUTHORIZED => "authentication_error",
        StatusCode::UNPROCESSABLE_ENTITY => "validation_error",
        StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
        status if status.is_server_error() => "server_error",
        // Also 403, as the vendor's pages have it.
        _ => "client_error",
    }
}

/// The answer that tells a fault.
pub(super) fn answer(fault: &Fault, request_id: &str, now: Timestamp) -> Response {
    let body = json!({
        "success": false,
        "error": {
            "code": fault.code,
            "message": fault.message,
            "system_message": fault.system_message,
            "type": kind(fault.status),
            "status": fault.status.as_u16(),
            "details": fault.details,
            "trace_id": request_id,
            "timestamp": time(now),
        },
    });
    let json = [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];
    let mut response = (fault.status, json, body.to_string()).into_response();
    let headers = response.headers_mut();
    if fault.status == StatusCode::UNAUTHORIZED {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"landfall\""));
    }
    if let Some(seconds) = fault.retry_after {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn no_lasting_refusal_invites_a_repetition() {
        let of = |refused: Refusal| {
            let fault = Fault::from(refused);
            (fault.status.as_u16(), fault.code)
        };
        assert_eq!(of(Refusal::Conflict { reason: String::new() }).0, 400);
        assert_eq!(of(Refusal::UploadIncomplete { received: 1, expected: None }), (400, "UPLOAD_INCOMPLETE"));
        assert_eq!(of(Refusal::TenantUnknown), of(Refusal::Forbidden { right: "" }));
        let quota = Refusal::Quota { what: "bytes", limit: 1, used: 1, wanted: 1 };
        assert_eq!(of(quota), (413, "QUOTA_EXCEEDED"));
        let limited = Fault::from(Refusal::RateLimited { retry_after: Duration::ZERO });
        assert_eq!((limited.retry_after, &limited.details["retry_after"]), (Some(1), &json!(1)));
    }

    #[test]
    fn what_is_shown_back_is_bounded() {
        let long = "ä".repeat(10_000);
        let fault = Fault::value("filename", &json!(long), "is too long");
        assert!(fault.details["value"].as_str().unwrap().chars().count() <= SHOWN_CHARS + 1);
    }
}
