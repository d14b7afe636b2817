//! Refusals as problem details (RFC 9457): the same condition, the same status and type, always.

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde_json::{Map, Value, json};

use crate::model::refusal::Refusal;

/// What is said about a refusal besides its sentence.
struct Problem {
    status: StatusCode,
    kind: &'static str,
    title: &'static str,
    more: Vec<(&'static str, Value)>,
}

fn problem(refused: &Refusal) -> Problem {
    let plain = |status, kind, title| Problem { status, kind, title, more: Vec::new() };
    match refused {
        Refusal::NoCredential => plain(StatusCode::UNAUTHORIZED, "no-credential", "A key is required"),
        Refusal::BadCredential => plain(StatusCode::UNAUTHORIZED, "bad-credential", "The key does not hold"),
        Refusal::Forbidden { right } => Problem {
            more: vec![("right", json!(right))],
            ..plain(StatusCode::FORBIDDEN, "missing-right", "The key lacks a right")
        },
        Refusal::TenantPaused => plain(StatusCode::FORBIDDEN, "tenant-paused", "The tenant is paused"),
        Refusal::TooManyItems { limit } => Problem {
            more: vec![("limit", json!(limit))],
            ..plain(StatusCode::FORBIDDEN, "item-limit", "The source is full")
        },
        Refusal::TooManyItemsToday { limit, .. } => Problem {
            more: vec![("limit", json!(limit))],
            ..plain(StatusCode::TOO_MANY_REQUESTS, "daily-item-limit", "Too many items today")
        },
        Refusal::TenantUnknown | Refusal::TargetUnknown { .. } | Refusal::NotFound { .. } => {
            plain(StatusCode::NOT_FOUND, "not-found", "Not found")
        }
        Refusal::Missing { name } => Problem {
            more: vec![("field", json!(name))],
            ..plain(StatusCode::UNPROCESSABLE_ENTITY, "missing-field", "A field is missing")
        },
        Refusal::Invalid { name, .. } => Problem {
            more: vec![("field", json!(name))],
            ..plain(StatusCode::UNPROCESSABLE_ENTITY, "invalid-field", "A field is wrong")
        },
        Refusal::Malformed { .. } => plain(StatusCode::BAD_REQUEST, "malformed", "The body can't be read"),
        Refusal::MediaType { .. } => {
            plain(StatusCode::UNSUPPORTED_MEDIA_TYPE, "media-type", "The content type is not taken")
        }
        Refusal::TooLarge { limit, remedy, .. } => Problem {
            more: vec![("limit", json!(limit)), ("remedy", json!(remedy))],
            ..plain(StatusCode::PAYLOAD_TOO_LARGE, "too-large", "Too large")
        },
        Refusal::Ticket(_) => plain(StatusCode::FORBIDDEN, "ticket", "The location does not hold"),
        Refusal::Conflict { .. } => plain(StatusCode::CONFLICT, "wrong-state", "The state does not allow it"),
        Refusal::DigestMismatch { declared, received, .. } => Problem {
            more: vec![("declared", json!(declared)), ("received", json!(received))],
            ..plain(StatusCode::UNPROCESSABLE_ENTITY, "digest-mismatch", "The digest differs")
        },
        Refusal::Incomplete { .. } => plain(StatusCode::BAD_REQUEST, "incomplete", "The body is incomplete"),
        Refusal::ConditionFailed { .. } => {
            plain(StatusCode::PRECONDITION_FAILED, "condition-failed", "The condition does not hold")
        }
        Refusal::RateLimited { .. } => plain(StatusCode::TOO_MANY_REQUESTS, "rate-limited", "Too many requests"),
        Refusal::IssuerSilent { .. } => {
            plain(StatusCode::SERVICE_UNAVAILABLE, "issuer-silent", "The token can't be checked")
        }
        Refusal::Busy { .. } => plain(StatusCode::SERVICE_UNAVAILABLE, "busy", "Receiving as much as possible"),
        Refusal::Quota { limit, used, wanted, .. } => Problem {
            more: vec![("limit", json!(limit)), ("used", json!(used)), ("wanted", json!(wanted))],
            ..plain(StatusCode::INSUFFICIENT_STORAGE, "quota", "The quota does not allow it")
        },
        Refusal::UploadIncomplete { received, expected } => Problem {
            more: vec![("received", json!(received)), ("expected", json!(expected))],
            ..plain(StatusCode::CONFLICT, "upload-incomplete", "The upload is not complete")
        },
        Refusal::PartsMissing { missing, received } => Problem {
            more: vec![
                ("received", json!(received)),
                ("missing_parts", json!(missing.first)),
                ("missing_count", json!(missing.count)),
            ],
            ..plain(StatusCode::CONFLICT, "upload-incomplete", "The upload is not complete")
        },
        Refusal::PartsTooSmall { parts, smallest } => Problem {
            more: vec![("limit", json!(smallest)), ("parts", json!(parts.first))],
            ..plain(StatusCode::CONFLICT, "parts-too-small", "Parts are too small")
        },
        Refusal::Superseded => plain(StatusCode::SERVICE_UNAVAILABLE, "superseded", "A newer request took over"),
        Refusal::Gone { .. } => plain(StatusCode::GONE, "gone", "It is over"),
        Refusal::OutOfSpace => plain(StatusCode::INSUFFICIENT_STORAGE, "out-of-space", "Not enough space"),
        Refusal::Unavailable => plain(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "Try again"),
        Refusal::Internal => plain(StatusCode::INTERNAL_SERVER_ERROR, "internal", "Internal error"),
    }
}

/// The answer to a refusal.
pub(super) fn refuse(refused: &Refusal, request_id: &str) -> Response {
    let Problem { status, kind, title, more } = problem(refused);
    // Another tenant's thing and one that never was are the same: the sentence names neither.
    let detail = match refused {
        Refusal::TargetUnknown { what, .. } => format!("the {what} does not exist"),
        // Which rule is broken is for the tenant's keys, not for whoever holds the URL.
        Refusal::Ticket(_) => {
            "the URL does not hold: it was changed or cut, its time is over, or its upload has ended".into()
        }
        other => other.to_string(),
    };
    let mut body = Map::new();
    body.insert("type".into(), format!("/problems/{kind}").into());
    body.insert("title".into(), title.into());
    body.insert("status".into(), status.as_u16().into());
    body.insert("detail".into(), detail.into());
    body.insert("request_id".into(), request_id.into());
    for (name, value) in more {
        body.insert(name.into(), value);
    }
    let json = [(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"))];
    let mut response = (status, json, Value::Object(body).to_string()).into_response();
    if let Some(seconds) = refused.retry_seconds() {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        let policy = match refused {
            Refusal::RateLimited { .. } => Some("key"),
            Refusal::TooManyItemsToday { .. } => Some("items-per-day"),
            _ => None,
        };
        if let Some(policy) = policy
            && let Ok(left) = HeaderValue::try_from(format!("\"{policy}\";r=0;t={seconds}"))
        {
            response.headers_mut().insert("ratelimit", left);
        }
    }
    response
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    async fn shown(refused: &Refusal) -> (u16, Option<String>, Option<String>, Value) {
        let response = refuse(refused, "r-1");
        let text = |name: &str| response.headers().get(name).map(|v| v.to_str().expect("ASCII").to_owned());
        let (status, wait, left) = (response.status().as_u16(), text("retry-after"), text("ratelimit"));
        let body = axum::body::to_bytes(response.into_body(), 10_000).await.expect("a body");
        (status, wait, left, serde_json::from_slice(&body).expect("JSON"))
    }

    #[tokio::test]
    async fn a_paused_tenant_and_full_limits_have_problems_of_their_own() {
        let (status, wait, _, body) = shown(&Refusal::TenantPaused).await;
        assert_eq!((status, wait, &body["type"]), (403, None, &json!("/problems/tenant-paused")));
        let (status, wait, _, body) = shown(&Refusal::TooManyItems { limit: 7 }).await;
        assert_eq!((status, wait, &body["type"]), (403, None, &json!("/problems/item-limit")));
        assert_eq!(body["limit"], 7);
        let today = Refusal::TooManyItemsToday { limit: 9, retry_after: Duration::from_millis(5001) };
        let (status, wait, left, body) = shown(&today).await;
        assert_eq!((status, wait.as_deref(), &body["type"]), (429, Some("6"), &json!("/problems/daily-item-limit")));
        assert_eq!((left.as_deref(), &body["limit"]), (Some("\"items-per-day\";r=0;t=6"), &json!(9)));
    }

    #[tokio::test]
    async fn a_condition_that_does_not_hold_is_a_412() {
        let (status, wait, _, body) = shown(&Refusal::ConditionFailed { header: "If-None-Match" }).await;
        assert_eq!((status, wait, &body["type"]), (412, None, &json!("/problems/condition-failed")));
    }
}
