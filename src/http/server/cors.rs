//! Scripts of other origins.

use axum::body::Body;
use axum::extract::Request;
use axum::http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use axum::response::Response;

use super::around::problem;
use crate::config::Config;
use crate::ticket::SESSION_PATH;

/// Methods that scripts of other origins may use.
const CORS_METHODS: &str = "GET, HEAD, PUT, POST, PATCH, DELETE, OPTIONS";
/// Methods of resumable sessions.
const SESSION_METHODS: &str = "PUT, POST, DELETE, OPTIONS";
/// Headers of answers that they may read.
const CORS_EXPOSED: &str = "ETag, Location, Range, Content-Range, Content-Disposition, Retry-After, X-Request-Id, \
                            x-amz-request-id, x-amz-checksum-crc32c, x-amz-checksum-crc64nvme, x-amz-checksum-sha256, \
                            X-GUploader-UploadID, X-HTTP-Status-Code-Override";
/// Seconds for which a browser may remember a preflight.
const CORS_MAX_AGE: &str = "3600";

/// The longest origin: a scheme, a host name and a port.
const ORIGIN_BYTES: usize = 300;

/// What a request's origin may see.
pub(super) enum Cors {
    /// The request has no origin: no browser asks.
    Absent,
    /// The origin is not in the configuration.
    Unknown,
    /// Every origin may.
    Any,
    /// This one may.
    This(HeaderValue),
}

impl Cors {
    pub(super) fn of(config: &Config, headers: &HeaderMap) -> Self {
        let Some(origin) = headers.get(ORIGIN) else { return Self::Absent };
        if config.cors_origins.iter().any(|pattern| pattern == "*") {
            return Self::Any;
        }
        let text = origin.to_str().unwrap_or_default();
        let known = config.cors_origins.iter().any(|pattern| match pattern.split_once('*') {
            None => pattern == text,
            Some((before, after)) => {
                text.len() >= before.len() + after.len() && text.starts_with(before) && text.ends_with(after)
            }
        });
        if known { Self::This(origin.clone()) } else { Self::Unknown }
    }

    pub(super) fn answer(&self, headers: &mut HeaderMap) {
        headers.append(
            VARY,
            HeaderValue::from_static("Origin, Access-Control-Request-Headers, Access-Control-Request-Method"),
        );
        match self {
            Self::Absent | Self::Unknown => return,
            Self::Any => {
                headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
            }
            Self::This(origin) => {
                headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
                headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
            }
        }
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(CORS_EXPOSED));
    }
}

/// The origin of the pages that a request speaks for, if they may use the server. A browser names it; so may whoever asks in the
/// place of one.
pub fn page<'a>(config: &Config, headers: &'a HeaderMap) -> Option<&'a str> {
    let text = headers.get(ORIGIN)?.to_str().ok()?;
    let is_one = |text: &&str| text.len() <= ORIGIN_BYTES && text.contains("://") && !text.contains([' ', ',']);
    match Cors::of(config, headers) {
        Cors::Any | Cors::This(_) => Some(text).filter(is_one),
        Cors::Absent | Cors::Unknown => None,
    }
}

/// The answer to a browser that asks before it sends; it needs no credential and looks at no signature.
pub(super) fn preflight(origin: &Cors, request: &Request, id: &str) -> Option<Response> {
    let headers = request.headers();
    if *request.method() != Method::OPTIONS {
        return None;
    }
    let refuse = |status, detail| Some(problem(status, "cors", detail, id));
    let asked = headers.get(ACCESS_CONTROL_REQUEST_METHOD).and_then(|method| method.to_str().ok());
    let (Some(asked), false) = (asked, matches!(origin, Cors::Absent)) else {
        return refuse(
            StatusCode::BAD_REQUEST,
            "OPTIONS needs the headers Origin and Access-Control-Request-Method, and is for browsers only",
        );
    };
    if matches!(origin, Cors::Unknown) || !CORS_METHODS.split(", ").any(|method| method == asked) {
        return refuse(
            StatusCode::FORBIDDEN,
            "this origin or method is not allowed; `cors_origins` in the configuration has the list",
        );
    }
    let mut response = Response::new(Body::empty());
    let mut methods = CORS_METHODS;
    // What is expected of the storages that our upload URLs stand for: S3 says 200, GCS says 204.
    if request.uri().path().contains(SESSION_PATH) {
        *response.status_mut() = StatusCode::NO_CONTENT;
        methods = SESSION_METHODS;
    }
    let out = response.headers_mut();
    out.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(methods));
    out.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static(CORS_MAX_AGE));
    let wanted = headers.get_all(ACCESS_CONTROL_REQUEST_HEADERS).iter().filter_map(|value| value.to_str().ok());
    let names: Vec<String> = wanted
        .flat_map(|names| names.split(','))
        .filter_map(|name| HeaderName::from_bytes(name.trim().as_bytes()).ok())
        .map(|name| name.as_str().to_owned())
        .collect();
    if let Ok(names) = HeaderValue::from_str(&names.join(", "))
        && !names.is_empty()
    {
        out.insert(ACCESS_CONTROL_ALLOW_HEADERS, names);
    }
    Some(response)
}
