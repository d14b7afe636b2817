//! Refusals in the vendor's shapes: JSON on the API, S3's XML on upload URLs.

use std::fmt::Write as _;

use serde::Serialize;

use crate::model::refusal::Refusal;

/// The body of every error of the API.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct ErrorBody<'a> {
    /// One sentence for people.
    pub message: &'a str,
    /// A stable word for programs.
    #[serde(rename = "errorCode")]
    pub error_code: &'a str,
    /// Under which the server keeps what it knows about the request.
    #[serde(rename = "requestID")]
    pub request_id: &'a str,
}

/// The status, error code and message of a refusal on the API.
///
/// The vendor documents no 409, 503 or 507. A state that does not allow a call is told as the parameter that named
/// it, and so is a container or a stream that does not exist. That the disk is full, a write in doubt or too much under way has no
/// likeness there, so that HTTP's own words are used.
#[must_use]
pub fn refusal(refusal: &Refusal) -> (u16, &'static str, String) {
    let said = refusal.to_string();
    match refusal {
        Refusal::NoCredential => (401, "UNAUTHORIZED", said),
        Refusal::BadCredential => (401, "INVALID_TOKEN", said),
        Refusal::Forbidden { right: "" } => {
            (403, "ACCESS_DENIED", "the key does not belong to this organization".into())
        }
        Refusal::Forbidden { .. } => (403, "ACCESS_DENIED", said),
        Refusal::TenantUnknown => (404, "ORGANIZATION_NOT_FOUND", "the organization does not exist".into()),
        Refusal::TenantPaused => (
            400,
            "ORGANIZATION_IS_PAUSED",
            "the organization is paused: nothing is taken or changed until an operator resumes it".into(),
        ),
        Refusal::TooManyItems { .. } => (412, "DOCUMENT_LIMIT_EXCEEDED", said),
        Refusal::TooManyItemsToday { .. } => (429, "TOO_MANY_DOCUMENTS_DAILY", said),
        Refusal::TargetUnknown { what: "source", .. } => (412, "SOURCE_DOES_NOT_EXIST", said),
        Refusal::TargetUnknown { .. } => (412, "INVALID_PARAMETER", said),
        Refusal::NotFound { what: "container" | "file" | "stream" | "version" } => (412, "INVALID_PARAMETER", said),
        Refusal::NotFound { .. } => (404, "NOT_FOUND", said),
        Refusal::Missing { .. } => (412, "MISSING_PARAMETER", said),
        Refusal::Invalid { .. } => (412, "INVALID_PARAMETER", said),
        Refusal::Malformed { .. } => (400, "INVALID_JSON", said),
        Refusal::MediaType { .. } => (415, "UNSUPPORTED_MEDIA_TYPE", said),
        Refusal::TooLarge { remedy, .. } => (413, "REQUEST_ENTITY_TOO_LARGE", with_remedy(said, remedy)),
        Refusal::Ticket(_) => (403, "ACCESS_DENIED", "Access Denied".into()),
        Refusal::Conflict { .. } => (412, "INVALID_PARAMETER", said),
        Refusal::DigestMismatch { .. } => (400, "INVALID_DIGEST", said),
        Refusal::Incomplete { .. } => (400, "INVALID_JSON", said),
        Refusal::ConditionFailed { .. } => (412, "INVALID_PARAMETER", said),
        Refusal::RateLimited { .. } => (429, "TOO_MANY_REQUESTS", said),
        Refusal::Busy { .. } | Refusal::IssuerSilent { .. } => (503, "SERVICE_UNAVAILABLE", said),
        Refusal::UploadIncomplete { .. }
        | Refusal::PartsMissing { .. }
        | Refusal::PartsTooSmall { .. }
        | Refusal::Gone { .. } => (412, "INVALID_PARAMETER", said),
        Refusal::Quota { .. } | Refusal::OutOfSpace => (507, "INSUFFICIENT_STORAGE", said),
        Refusal::Superseded | Refusal::Unavailable => (503, "SERVICE_UNAVAILABLE", said),
        Refusal::Internal => (500, "INTERNAL_SERVER_ERROR", said),
    }
}

fn with_remedy(said: String, remedy: &str) -> String {
    if remedy.is_empty() { said } else { format!("{said}: {remedy}") }
}

/// The status and the JSON body of a refusal on the API.
#[must_use]
pub fn error(refused: &Refusal, request_id: &str) -> (u16, String) {
    let (status, error_code, message) = refusal(refused);
    (status, error_body(error_code, &message, request_id))
}

/// A JSON error body, also for what is no refusal: an unknown path, a wrong method.
#[must_use]
pub fn error_body(error_code: &str, message: &str, request_id: &str) -> String {
    let body = ErrorBody { message, error_code, request_id };
    serde_json::to_string(&body).unwrap_or_else(|_| String::from("{}"))
}

/// The media type of [`upload_error`]'s body.
pub const XML: &str = "application/xml";

/// The status and the XML body of a refusal on an upload URL. `proposed` is the size that the client announced.
///
/// Whatever does not hold is the same 403: who has no valid URL learns nothing from it. Too many requests are a 429 and
/// not S3's 503, because 429 is what the published clients repeat a PUT after.
#[must_use]
pub fn upload_error(refused: &Refusal, request_id: &str, host_id: &str, proposed: Option<u64>) -> (u16, String) {
    let (status, code, message) = match refused {
        Refusal::NoCredential
        | Refusal::BadCredential
        | Refusal::Forbidden { .. }
        | Refusal::TenantUnknown
        | Refusal::TenantPaused
        | Refusal::TooManyItems { .. }
        | Refusal::TargetUnknown { .. }
        | Refusal::NotFound { .. }
        | Refusal::MediaType { .. }
        | Refusal::Ticket(_)
        | Refusal::UploadIncomplete { .. }
        | Refusal::PartsMissing { .. }
        | Refusal::PartsTooSmall { .. }
        | Refusal::Gone { .. }
        | Refusal::Conflict { .. } => (403, "AccessDenied", String::from("Access Denied")),
        Refusal::Missing { .. } | Refusal::Invalid { .. } => (400, "InvalidArgument", refused.to_string()),
        Refusal::Malformed { .. } => (400, "InvalidRequest", refused.to_string()),
        Refusal::TooLarge { remedy, .. } => (413, "EntityTooLarge", with_remedy(refused.to_string(), remedy)),
        Refusal::DigestMismatch { .. } => (400, "BadDigest", refused.to_string()),
        Refusal::Incomplete { .. } => (400, "IncompleteBody", refused.to_string()),
        Refusal::Busy { .. } => (503, "SlowDown", refused.to_string()),
        Refusal::ConditionFailed { .. } => {
            (412, "PreconditionFailed", String::from("At least one of the pre-conditions you specified did not hold"))
        }
        Refusal::RateLimited { .. } | Refusal::TooManyItemsToday { .. } => {
            (429, "SlowDown", String::from("Please reduce your request rate."))
        }
        Refusal::Quota { .. } | Refusal::OutOfSpace => (507, "InsufficientStorage", refused.to_string()),
        Refusal::Superseded | Refusal::Unavailable | Refusal::IssuerSilent { .. } => {
            (503, "ServiceUnavailable", refused.to_string())
        }
        Refusal::Internal => (500, "InternalError", refused.to_string()),
    };
    let mut more = Vec::new();
    if let Refusal::TooLarge { limit, .. } = refused {
        more.extend(proposed.map(|proposed| ("ProposedSize", proposed.to_string())));
        more.push(("MaxSizeAllowed", limit.to_string()));
    }
    if let Refusal::ConditionFailed { header } = refused {
        more.push(("Condition", (*header).to_owned()));
    }
    (status, upload_error_body(code, &message, &more, request_id, host_id))
}

/// An XML error body, also for what is no refusal: a request that no handler sees.
#[must_use]
pub fn upload_error_body(
    code: &str,
    message: &str,
    more: &[(&str, String)],
    request_id: &str,
    host_id: &str,
) -> String {
    let mut body = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error>");
    element(&mut body, "Code", code);
    element(&mut body, "Message", message);
    for (name, text) in more {
        element(&mut body, name, text);
    }
    element(&mut body, "RequestId", request_id);
    element(&mut body, "HostId", host_id);
    body.push_str("</Error>");
    body
}

fn element(xml: &mut String, name: &str, text: &str) {
    let _ = write!(xml, "<{name}>");
    for c in text.chars() {
        match c {
            '<' => xml.push_str("&lt;"),
            '>' => xml.push_str("&gt;"),
            '&' => xml.push_str("&amp;"),
            // XML 1.0 has no way to write these.
            '\u{0}'..='\u{8}' | '\u{B}' | '\u{C}' | '\u{E}'..='\u{1F}' | '\u{FFFE}' | '\u{FFFF}' => {
                xml.push('\u{FFFD}');
            }
            // Else a reader makes it a line feed.
            '\r' => xml.push_str("&#13;"),
            _ => xml.push(c),
        }
    }
    let _ = write!(xml, "</{name}>");
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::{Value, json};

    use super::*;
    use crate::model::refusal::TicketRefusal;

    fn every() -> Vec<(Refusal, u16, &'static str, u16, &'static str)> {
        let ticket = TicketRefusal { rule: "expired", detail: "at noon".into() };
        let target = |what| Refusal::TargetUnknown { what, id: "x".into() };
        let (algorithm, declared, received) = ("MD5", "a".into(), "b".into());
        vec![
            (Refusal::NoCredential, 401, "UNAUTHORIZED", 403, "AccessDenied"),
            (Refusal::BadCredential, 401, "INVALID_TOKEN", 403, "AccessDenied"),
            (Refusal::Forbidden { right: "items" }, 403, "ACCESS_DENIED", 403, "AccessDenied"),
            (Refusal::Forbidden { right: "" }, 403, "ACCESS_DENIED", 403, "AccessDenied"),
            (Refusal::TenantUnknown, 404, "ORGANIZATION_NOT_FOUND", 403, "AccessDenied"),
            (Refusal::TenantPaused, 400, "ORGANIZATION_IS_PAUSED", 403, "AccessDenied"),
            (Refusal::TooManyItems { limit: 5 }, 412, "DOCUMENT_LIMIT_EXCEEDED", 403, "AccessDenied"),
            (
                Refusal::TooManyItemsToday { limit: 5, retry_after: Duration::from_secs(60) },
                429,
                "TOO_MANY_DOCUMENTS_DAILY",
                429,
                "SlowDown",
            ),
            (target("source"), 412, "SOURCE_DOES_NOT_EXIST", 403, "AccessDenied"),
            (target("provider"), 412, "INVALID_PARAMETER", 403, "AccessDenied"),
            (Refusal::NotFound { what: "container" }, 412, "INVALID_PARAMETER", 403, "AccessDenied"),
            (Refusal::NotFound { what: "path" }, 404, "NOT_FOUND", 403, "AccessDenied"),
            (Refusal::Missing { name: "fileId".into() }, 412, "MISSING_PARAMETER", 400, "InvalidArgument"),
            (Refusal::invalid("fileId", "is bad"), 412, "INVALID_PARAMETER", 400, "InvalidArgument"),
            (Refusal::malformed("no"), 400, "INVALID_JSON", 400, "InvalidRequest"),
            (Refusal::MediaType { expected: "application/json" }, 415, "UNSUPPORTED_MEDIA_TYPE", 403, "AccessDenied"),
            (
                Refusal::TooLarge { what: "the body", limit: 6, remedy: "use a container" },
                413,
                "REQUEST_ENTITY_TOO_LARGE",
                413,
                "EntityTooLarge",
            ),
            (Refusal::Ticket(ticket), 403, "ACCESS_DENIED", 403, "AccessDenied"),
            (Refusal::Conflict { reason: "used".into() }, 412, "INVALID_PARAMETER", 403, "AccessDenied"),
            (Refusal::DigestMismatch { algorithm, declared, received }, 400, "INVALID_DIGEST", 400, "BadDigest"),
            (Refusal::Incomplete { reason: "cut".into() }, 400, "INVALID_JSON", 400, "IncompleteBody"),
            (Refusal::ConditionFailed { header: "If-None-Match" }, 412, "INVALID_PARAMETER", 412, "PreconditionFailed"),
            (
                Refusal::RateLimited { retry_after: Duration::from_millis(1500) },
                429,
                "TOO_MANY_REQUESTS",
                429,
                "SlowDown",
            ),
            (Refusal::Busy { retry_after: Duration::from_secs(2) }, 503, "SERVICE_UNAVAILABLE", 503, "SlowDown"),
            (
                Refusal::IssuerSilent { retry_after: Duration::from_secs(5) },
                503,
                "SERVICE_UNAVAILABLE",
                503,
                "ServiceUnavailable",
            ),
            (Refusal::OutOfSpace, 507, "INSUFFICIENT_STORAGE", 507, "InsufficientStorage"),
            (Refusal::Unavailable, 503, "SERVICE_UNAVAILABLE", 503, "ServiceUnavailable"),
            (Refusal::Internal, 500, "INTERNAL_SERVER_ERROR", 500, "InternalError"),
        ]
    }

    #[test]
    fn s3_every_refusal_has_its_status_and_code() {
        for (refused, status, code, upload_status, upload_code) in every() {
            let (got, body) = error(&refused, "r-1");
            let body: Value = serde_json::from_str(&body).expect("JSON");
            assert_eq!((got, body["errorCode"].as_str()), (status, Some(code)), "{refused:?}");
            assert_eq!(body["requestID"], json!("r-1"));
            assert!(body["message"].as_str().is_some_and(|m| !m.is_empty()));
            assert_eq!(body.as_object().map(serde_json::Map::len), Some(3));
            assert_ne!(status, 409, "the vendor documents no such status");

            let (got, xml) = upload_error(&refused, "r-1", "h", None);
            assert_eq!(got, upload_status, "{refused:?}");
            assert!(xml.contains(&format!("<Error><Code>{upload_code}</Code><Message>")), "{xml}");
            assert!(xml.ends_with("<RequestId>r-1</RequestId><HostId>h</HostId></Error>"), "{xml}");
        }
    }

    #[test]
    fn s6_a_ticket_that_does_not_hold_tells_nothing() {
        let refused = Refusal::Ticket(TicketRefusal { rule: "expired", detail: "secret".into() });
        let wanted = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>AccessDenied</Code>\
                      <Message>Access Denied</Message><RequestId>r</RequestId><HostId>h</HostId></Error>";
        assert_eq!(upload_error(&refused, "r", "h", None), (403, wanted.into()));
        assert_eq!(refusal(&refused).2, "Access Denied");
    }

    #[test]
    fn c11_c19_a_size_refused_names_the_limit_and_what_to_do() {
        let refused = Refusal::TooLarge { what: "the body", limit: 268_435_456, remedy: "split the batch" };
        assert_eq!(refusal(&refused).2, "the body is limited to 268435456 bytes: split the batch");
        let (status, xml) = upload_error(&refused, "r", "h", Some(268_435_457));
        assert_eq!(status, 413);
        assert!(
            xml.contains("<ProposedSize>268435457</ProposedSize><MaxSizeAllowed>268435456</MaxSizeAllowed>"),
            "{xml}"
        );
        assert!(!upload_error(&refused, "r", "h", None).1.contains("ProposedSize"));
    }

    #[test]
    fn text_is_escaped() {
        let (_, xml) = upload_error(&Refusal::malformed("<a> & \u{1}\r\"'é"), "r&", "<h>", None);
        assert!(xml.contains("<Message>&lt;a&gt; &amp; \u{FFFD}&#13;\"'é</Message>"), "{xml}");
        assert!(xml.contains("<RequestId>r&amp;</RequestId><HostId>&lt;h&gt;</HostId>"), "{xml}");
        let body = error_body("X", "a \"b\"\n", "r");
        assert_eq!(serde_json::from_str::<Value>(&body).expect("JSON")["message"], json!("a \"b\"\n"));
    }
}
