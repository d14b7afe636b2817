//! Errors as this API tells them: a code, which is the status, and a message; and which identifiers are missing or taken.

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, Method, StatusCode, header};
use serde_json::{Value, json};

use crate::http::server::Early;
use crate::model::refusal::Refusal;
use crate::telemetry;

/// Longest message: it may quote what a client sent.
const MESSAGE_CHARS: usize = 1_000;

/// Why a call is refused.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Fault {
    status: StatusCode,
    message: String,
    missing: Vec<Value>,
    duplicated: Vec<Value>,
    retry_after: Option<u64>,
}

impl Fault {
    fn new(status: StatusCode, message: impl Into<String>) -> Self {
        let message = message.into();
        let message = match message.char_indices().nth(MESSAGE_CHARS) {
            Some((end, _)) => format!("{}…", &message[..end]),
            None => message,
        };
        Self { status, message, missing: Vec::new(), duplicated: Vec::new(), retry_after: None }
    }

    /// A request that can't be.
    pub(super) fn bad(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// A field that can't be: the reason completes the sentence that begins with its name.
    pub(super) fn field(name: &str, reason: impl AsRef<str>) -> Self {
        Self::bad(format!("{name} {}", reason.as_ref()))
    }

    /// Identifiers that lead nowhere, as the client wrote them.
    pub(super) fn missing(ids: Vec<Value>) -> Self {
        let message = if ids.len() == 1 { "File not found" } else { "Files not found" };
        Self { missing: ids, ..Self::bad(message) }
    }

    /// Identifiers that others have.
    pub(super) fn duplicated(ids: Vec<Value>) -> Self {
        let message = "The external id is taken by another file";
        Self { duplicated: ids, ..Self::new(StatusCode::CONFLICT, message) }
    }

    /// A link that does not hold.
    pub(super) fn link() -> Self {
        Self::new(StatusCode::FORBIDDEN, "The link is not valid, or it has expired")
    }

    /// A link that holds, and whose end is gone.
    pub(super) fn gone() -> Self {
        Self::new(StatusCode::NOT_FOUND, "The file is not there any more")
    }

    pub(super) fn no_such_path(path: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, format!("There is no call at {}", telemetry::redact_path(path)))
    }

    pub(super) fn wrong_method(method: &Method) -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, format!("There is no call with the method {method} at this path"))
    }

    /// What is refused before any API sees it.
    pub(super) fn early(early: &Early) -> Self {
        Self::new(early.status, early.detail)
    }

    /// The refusal of a body that was sent to an upload URL.
    pub(super) fn upload(refused: &Refusal) -> Self {
        match refused {
            Refusal::NotFound { .. } => Self::new(
                StatusCode::NOT_FOUND,
                "The upload is over, or its file was deleted: ask for a new upload URL",
            ),
            // A quota is room as well: what lasts must not invite a repetition.
            Refusal::Quota { .. } => Self { status: StatusCode::INSUFFICIENT_STORAGE, ..Self::from(refused.clone()) },
            other => Self::from(other.clone()),
        }
    }
}

impl From<Refusal> for Fault {
    fn from(refused: Refusal) -> Self {
        let (said, retry_after) = (refused.to_string(), refused.retry_seconds());
        let fault = match refused {
            // The vendor's client tells everything that a 401 can mean by itself.
            Refusal::NoCredential
            | Refusal::BadCredential
            | Refusal::TenantUnknown
            | Refusal::Forbidden { right: "" } => Self::new(StatusCode::UNAUTHORIZED, "Unauthorized"),
            // These words make the vendor's client raise the right exception.
            Refusal::Forbidden { right } => Self::new(
                StatusCode::FORBIDDEN,
                format!("The token has insufficient access rights: it lacks the right `{right}`"),
            ),
            Refusal::TenantPaused => Self::new(StatusCode::FORBIDDEN, said),
            Refusal::Ticket(_) => Self::link(),
            Refusal::Missing { name } => Self::field(&name, "is required"),
            Refusal::Invalid { name, reason } => Self::field(&name, reason),
            Refusal::Malformed { .. }
            | Refusal::DigestMismatch { .. }
            | Refusal::Incomplete { .. }
            | Refusal::UploadIncomplete { .. }
            | Refusal::PartsMissing { .. }
            | Refusal::PartsTooSmall { .. } => Self::bad(said),
            Refusal::TargetUnknown { .. } | Refusal::NotFound { .. } | Refusal::Gone { .. } => {
                Self::new(StatusCode::NOT_FOUND, said)
            }
            Refusal::MediaType { .. } => Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, said),
            // What lasts must not invite a repetition.
            Refusal::TooLarge { .. } | Refusal::Quota { .. } | Refusal::TooManyItems { .. } => {
                Self::new(StatusCode::PAYLOAD_TOO_LARGE, said)
            }
            Refusal::Conflict { .. } => Self::new(StatusCode::CONFLICT, said),
            Refusal::ConditionFailed { .. } => Self::new(StatusCode::PRECONDITION_FAILED, said),
            Refusal::RateLimited { .. } | Refusal::TooManyItemsToday { .. } => {
                Self::new(StatusCode::TOO_MANY_REQUESTS, said)
            }
            Refusal::Superseded | Refusal::Unavailable | Refusal::Busy { .. } | Refusal::IssuerSilent { .. } => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, said)
            }
            Refusal::OutOfSpace => Self::new(StatusCode::INSUFFICIENT_STORAGE, said),
            Refusal::Internal => Self::new(StatusCode::INTERNAL_SERVER_ERROR, said),
        };
        Self { retry_after, ..fault }
    }
}

/// The answer that tells a fault.
pub(super) fn answer(fault: &Fault) -> Response {
    let mut error = json!({ "code": fault.status.as_u16(), "message": fault.message });
    if !fault.missing.is_empty() {
        error["missing"] = fault.missing.clone().into();
    } else if !fault.duplicated.is_empty() {
        error["duplicated"] = fault.duplicated.clone().into();
    }
    let json = [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];
    let mut response = (fault.status, json, json!({ "error": error }).to_string()).into_response();
    if let Some(seconds) = fault.retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_have_the_statuses_that_clients_act_on() {
        let of = |refused: Refusal| Fault::from(refused).status.as_u16();
        assert_eq!(of(Refusal::TenantUnknown), 401);
        assert_eq!(of(Refusal::Forbidden { right: "" }), 401);
        let forbidden = Fault::from(Refusal::Forbidden { right: "upload" });
        assert!(forbidden.message.contains("insufficient access rights"));
        assert_eq!(of(Refusal::OutOfSpace), 507);
        assert_eq!(of(Refusal::Quota { what: "bytes", limit: 1, used: 1, wanted: 1 }), 413);
        assert_eq!(Fault::bad("ä".repeat(5_000)).message.chars().count(), MESSAGE_CHARS + 1);
    }
}
