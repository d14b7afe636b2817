//! Bytes on their way out: ranges, conditions, and headers that keep a browser from running what it downloads.

use std::ops::Range;

use axum::body::Body;
use axum::http::header::{
    ACCEPT_RANGES, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG,
    IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, LAST_MODIFIED, RANGE,
    X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use axum::response::Response;
use bytes::Bytes;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::clock::Timestamp;
use crate::upload::read::VersionReader;

/// What is said about the bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct About {
    /// The file's name.
    pub name: String,
    /// Their media type; an impossible one becomes `application/octet-stream`.
    pub mime: String,
    /// What changes with the bytes and only with them, without quotes: the version's id, or a digest.
    pub etag: String,
    /// When they were committed.
    pub modified: Option<Timestamp>,
}

/// Answers with a version, or with the part of it that is asked for.
#[must_use]
pub fn version(reader: VersionReader, about: &About, method: &Method, headers: &HeaderMap) -> Response {
    let size = reader.size();
    respond(size, about, method, headers, |range| Body::from_stream(reader.stream(range)))
}

/// The same for bytes in memory.
#[must_use]
pub fn bytes(bytes: &Bytes, about: &About, method: &Method, headers: &HeaderMap) -> Response {
    let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    respond(size, about, method, headers, |range| {
        let at = |offset| usize::try_from(offset).unwrap_or(bytes.len()).min(bytes.len());
        Body::from(bytes.slice(at(range.start)..at(range.end)))
    })
}

/// What a request asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Plan {
    Whole,
    Part(Range<u64>),
    NotModified,
    PreconditionFailed,
    Unsatisfiable,
}

fn respond(
    size: u64,
    about: &About,
    method: &Method,
    headers: &HeaderMap,
    body: impl FnOnce(Range<u64>) -> Body,
) -> Response {
    let plan = plan(size, about, method, headers);
    let (status, range) = match &plan {
        Plan::Whole => (StatusCode::OK, 0..size),
        Plan::Part(range) => (StatusCode::PARTIAL_CONTENT, range.clone()),
        Plan::NotModified => (StatusCode::NOT_MODIFIED, 0..0),
        Plan::PreconditionFailed => (StatusCode::PRECONDITION_FAILED, 0..0),
        Plan::Unsatisfiable => (StatusCode::RANGE_NOT_SATISFIABLE, 0..0),
    };
    let sends = matches!(plan, Plan::Whole | Plan::Part(_));
    let length = range.end - range.start;
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    let out = response.headers_mut();
    out.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    put(out, ETAG, &format!("\"{}\"", about.etag));
    if let Some(modified) = about.modified {
        put(out, LAST_MODIFIED, &httpdate::fmt_http_date(modified.system_time()));
    }
    if let Plan::Part(range) = &plan {
        put(out, CONTENT_RANGE, &format!("bytes {}-{}/{size}", range.start, range.end.saturating_sub(1)));
    }
    if plan == Plan::Unsatisfiable {
        put(out, CONTENT_RANGE, &format!("bytes */{size}"));
    }
    if sends {
        let mime = HeaderValue::from_str(&about.mime).ok().filter(|mime| !mime.is_empty());
        out.insert(CONTENT_TYPE, mime.unwrap_or(HeaderValue::from_static("application/octet-stream")));
        put(out, CONTENT_DISPOSITION, &disposition(&about.name));
        out.insert(CONTENT_LENGTH, HeaderValue::from(length));
        // A stranger's file must not run as a page of ours.
        out.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        out.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static("sandbox; default-src 'none'"));
        if *method != Method::HEAD && length > 0 {
            *response.body_mut() = body(range);
        }
    }
    response
}

fn put(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

/// RFC 9110 section 13.2.2: conditions in their order, then the range.
fn plan(size: u64, about: &About, method: &Method, headers: &HeaderMap) -> Plan {
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let seconds = about.modified.map(Timestamp::seconds);
    let date = |value: &str| {
        let time = httpdate::parse_http_date(value).ok()?;
        i64::try_from(time.duration_since(std::time::UNIX_EPOCH).ok()?.as_secs()).ok()
    };
    if let Some(tags) = text(IF_MATCH) {
        if !names(tags, &about.etag, false) {
            return Plan::PreconditionFailed;
        }
    } else if let (Some(until), Some(modified)) = (text(IF_UNMODIFIED_SINCE).and_then(date), seconds)
        && modified > until
    {
        return Plan::PreconditionFailed;
    }
    if let Some(tags) = text(IF_NONE_MATCH) {
        if names(tags, &about.etag, true) {
            return Plan::NotModified;
        }
    } else if let (Some(since), Some(modified)) = (text(IF_MODIFIED_SINCE).and_then(date), seconds)
        && modified <= since
    {
        return Plan::NotModified;
    }
    let current = text(IF_RANGE).is_none_or(|condition| {
        if condition.starts_with('"') || condition.starts_with("W/") {
            names(condition, &about.etag, false)
        } else {
            date(condition).is_some() && date(condition) == seconds
        }
    });
    if *method != Method::GET || !current {
        return Plan::Whole;
    }
    text(RANGE).map_or(Plan::Whole, |range| ranged(range, size))
}

/// Is this tag one of the list? `*` is every tag; a weak one counts where a weak comparison is enough.
fn names(list: &str, etag: &str, weak: bool) -> bool {
    list.split(',').map(str::trim).any(|tag| {
        let tag = if weak { tag.strip_prefix("W/").unwrap_or(tag) } else { tag };
        tag == "*" || tag.strip_prefix('"').and_then(|tag| tag.strip_suffix('"')) == Some(etag)
    })
}

/// One range is answered; several, or what can't be read, with the whole, as the RFC allows.
fn ranged(text: &str, size: u64) -> Plan {
    let Some((unit, spec)) = text.split_once('=') else { return Plan::Whole };
    let Some((first, last)) = spec.trim().split_once('-') else { return Plan::Whole };
    let number = |text: &str| {
        (!text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse::<u64>().unwrap_or(u64::MAX))
    };
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return Plan::Whole;
    }
    match (number(first), number(last), first.is_empty(), last.is_empty()) {
        (Some(first), Some(last), _, _) if first > last => Plan::Whole,
        (Some(first), _, _, _) if first >= size && (last.is_empty() || number(last).is_some()) => Plan::Unsatisfiable,
        (Some(first), Some(last), _, _) => Plan::Part(first..last.saturating_add(1).min(size)),
        (Some(first), None, _, true) => Plan::Part(first..size),
        (None, Some(0), true, _) => Plan::Unsatisfiable,
        (None, Some(_), true, _) if size == 0 => Plan::Unsatisfiable,
        (None, Some(suffix), true, _) => Plan::Part(size.saturating_sub(suffix)..size),
        _ => Plan::Whole,
    }
}

/// What RFC 8187 leaves unescaped.
const ATTRIBUTE: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'!')
    .remove(b'#')
    .remove(b'$')
    .remove(b'&')
    .remove(b'+')
    .remove(b'-')
    .remove(b'.')
    .remove(b'^')
    .remove(b'_')
    .remove(b'`')
    .remove(b'|')
    .remove(b'~');

/// Always an attachment; the name once for old clients and once in full.
fn disposition(name: &str) -> String {
    let name: String = name.chars().filter(|c| !c.is_control()).take(255).collect();
    let name = name.rsplit(['/', '\\']).next().unwrap_or_default();
    if name.is_empty() {
        return String::from("attachment");
    }
    let plain: String =
        name.chars().map(|c| if c.is_ascii() && !matches!(c, '"' | '\\' | '%') { c } else { '_' }).collect();
    if plain == name {
        return format!("attachment; filename=\"{plain}\"");
    }
    format!("attachment; filename=\"{plain}\"; filename*=UTF-8''{}", utf8_percent_encode(name, ATTRIBUTE))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn about() -> About {
        About {
            name: "a.txt".into(),
            mime: "text/html".into(),
            etag: "v1".into(),
            modified: Some(Timestamp(1_700_000_000_500)),
        }
    }

    const BEFORE: &str = "Tue, 14 Nov 2023 22:13:19 GMT";
    const AT: &str = "Tue, 14 Nov 2023 22:13:20 GMT";

    fn planned(size: u64, headers: &[(&'static str, &str)]) -> Plan {
        let headers = headers.iter().map(|(n, v)| (HeaderName::from_static(n), v.parse().expect("a value"))).collect();
        plan(size, &about(), &Method::GET, &headers)
    }

    #[test]
    fn ranges_are_read_as_the_rfc_says() {
        for (range, expected) in [
            ("bytes=0-0", Plan::Part(0..1)),
            ("bytes=2-", Plan::Part(2..10)),
            ("bytes=2-100", Plan::Part(2..10)),
            ("bytes=-3", Plan::Part(7..10)),
            ("bytes=-100", Plan::Part(0..10)),
            ("Bytes= 1-2", Plan::Part(1..3)),
            ("bytes=10-", Plan::Unsatisfiable),
            ("bytes=10-12", Plan::Unsatisfiable),
            ("bytes=-0", Plan::Unsatisfiable),
            ("bytes=99999999999999999999-", Plan::Unsatisfiable),
            ("bytes=3-99999999999999999999", Plan::Part(3..10)),
            ("bytes=5-2", Plan::Whole),
            ("bytes=0-1,3-4", Plan::Whole),
            ("bytes=a-b", Plan::Whole),
            ("bytes=11-b", Plan::Whole),
            ("bytes=-", Plan::Whole),
            ("bytes=+1-2", Plan::Whole),
            ("bytes 1-2", Plan::Whole),
            ("items=1-2", Plan::Whole),
        ] {
            assert_eq!(planned(10, &[("range", range)]), expected, "{range}");
        }
        assert_eq!(planned(0, &[("range", "bytes=0-")]), Plan::Unsatisfiable);
        assert_eq!(planned(0, &[("range", "bytes=-1")]), Plan::Unsatisfiable);
    }

    #[test]
    fn conditions_come_in_their_order() {
        let range = ("range", "bytes=1-2");
        for (headers, expected) in [
            (vec![("if-none-match", "\"v1\"")], Plan::NotModified),
            (vec![("if-none-match", "W/\"v1\"")], Plan::NotModified),
            (vec![("if-none-match", "\"v0\", \"v1\"")], Plan::NotModified),
            (vec![("if-none-match", "*")], Plan::NotModified),
            (vec![("if-none-match", "\"v0\""), ("if-modified-since", AT)], Plan::Whole),
            (vec![("if-modified-since", AT)], Plan::NotModified),
            (vec![("if-modified-since", BEFORE)], Plan::Whole),
            (vec![("if-modified-since", "yesterday")], Plan::Whole),
            (vec![("if-match", "\"v1\"")], Plan::Whole),
            (vec![("if-match", "W/\"v1\"")], Plan::PreconditionFailed),
            (vec![("if-match", "\"v0\"")], Plan::PreconditionFailed),
            (vec![("if-unmodified-since", BEFORE)], Plan::PreconditionFailed),
            (vec![("if-unmodified-since", AT)], Plan::Whole),
            (vec![range, ("if-range", "\"v1\"")], Plan::Part(1..3)),
            (vec![range, ("if-range", "W/\"v1\"")], Plan::Whole),
            (vec![range, ("if-range", "\"v0\"")], Plan::Whole),
            (vec![range, ("if-range", AT)], Plan::Part(1..3)),
            (vec![range, ("if-range", BEFORE)], Plan::Whole),
            (vec![range, ("if-range", "v1")], Plan::Whole),
        ] {
            assert_eq!(planned(10, &headers), expected, "{headers:?}");
        }
    }

    #[tokio::test]
    async fn answers_say_what_they_are() {
        let data = Bytes::from_static(b"0123456789");
        let get = |method: Method, range: &str| {
            let headers = HeaderMap::from_iter([(RANGE, range.parse().expect("a range"))]);
            bytes(&data, &about(), &method, &headers)
        };
        let part = get(Method::GET, "bytes=2-4");
        assert_eq!(part.status(), StatusCode::PARTIAL_CONTENT);
        let text = |response: &Response, name: HeaderName| {
            response.headers().get(name).map(|v| v.to_str().expect("text").to_owned())
        };
        assert_eq!(text(&part, CONTENT_RANGE).as_deref(), Some("bytes 2-4/10"));
        assert_eq!(text(&part, CONTENT_LENGTH).as_deref(), Some("3"));
        assert_eq!(text(&part, ETAG).as_deref(), Some("\"v1\""));
        assert_eq!(text(&part, LAST_MODIFIED).as_deref(), Some(AT));
        assert_eq!(text(&part, CONTENT_SECURITY_POLICY).as_deref(), Some("sandbox; default-src 'none'"));
        assert_eq!(text(&part, CONTENT_DISPOSITION).as_deref(), Some("attachment; filename=\"a.txt\""));
        let body = axum::body::to_bytes(part.into_body(), 100).await.expect("a body");
        assert_eq!(&body[..], b"234");

        let head = get(Method::HEAD, "bytes=2-4");
        assert_eq!((head.status(), text(&head, CONTENT_LENGTH).as_deref()), (StatusCode::OK, Some("10")));
        let beyond = get(Method::GET, "bytes=10-");
        assert_eq!(beyond.status(), StatusCode::RANGE_NOT_SATISFIABLE);
        assert_eq!(text(&beyond, CONTENT_RANGE).as_deref(), Some("bytes */10"));
    }

    #[test]
    fn names_can_not_break_out() {
        for (name, expected) in [
            ("a b.txt", "attachment; filename=\"a b.txt\""),
            ("../../etc/passwd", "attachment; filename=\"passwd\""),
            ("C:\\a\\b.txt", "attachment; filename=\"b.txt\""),
            ("a\r\nSet-Cookie: x", "attachment; filename=\"aSet-Cookie: x\""),
            ("a\";b", "attachment; filename=\"a_;b\"; filename*=UTF-8''a%22%3Bb"),
            ("é%.txt", "attachment; filename=\"__.txt\"; filename*=UTF-8''%C3%A9%25.txt"),
            ("", "attachment"),
            ("a/", "attachment"),
        ] {
            assert_eq!(disposition(name), expected, "{name}");
        }
    }
}
