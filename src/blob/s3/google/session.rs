//! Sessions of the store's own: a location to which a client sends a file in chunks, and that tells how far it has come.
//! Whoever has it needs nothing else, which is why it is a secret. They are those of Google's JSON API, whose last answer
//! describes the object, as its clients expect.

use http::{HeaderName, Method, header};
use percent_encoding::utf8_percent_encode;

use super::{Google, QUERY};
use crate::blob::remote::{Caller, Fault, Kind, Protocol};
use crate::blob::s3::flavour::Flavour;
use crate::blob::{Reached, SessionAsk};
use crate::outbound::Head;

/// The answer to a client's cancellation.
const CANCELLED: u16 = 499;

impl Google {
    /// A location as clients reach it.
    fn outside(&self, location: &str) -> Option<String> {
        Some(format!("{}://{}{}", self.public.0, self.public.1, rest(location)?))
    }

    /// The same as this server reaches it. Whatever a row says, no other host is asked.
    fn inside(&self, location: &str) -> Result<String, Fault> {
        let rest = rest(location).ok_or_else(|| Fault::lasting("what the row keeps is no location of a session"))?;
        Ok(format!("{}://{}{rest}", self.scheme, self.host))
    }
}

/// Path and query of a URL.
fn rest(location: &str) -> Option<&str> {
    let (_, behind) = location.split_once("://")?;
    Some(&behind[behind.find('/')?..])
}

/// Is this what a row keeps of a session?
pub(in crate::blob::s3) fn is_location(text: &str) -> bool {
    text.starts_with("http://") || text.starts_with("https://")
}

/// Begins a session for the only object that may be made under this key; the location for clients.
pub(in crate::blob::s3) async fn begin(
    caller: &Caller<Flavour>,
    google: &Google,
    key: &str,
    ask: SessionAsk<'_>,
) -> Result<String, Fault> {
    let url = format!(
        "{}://{}/upload/storage/v1/b{}/o?uploadType=resumable&ifGenerationMatch=0&name={}",
        google.scheme,
        google.host,
        google.root,
        utf8_percent_encode(key, QUERY)
    );
    let told = |head: &Head| match head.status {
        200 | 201 => Some(head.header("location").and_then(|location| google.outside(location))),
        _ => None,
    };
    let mut again = true;
    loop {
        let mut headers = vec![(header::CONTENT_LENGTH, "0".into())];
        headers.push((HeaderName::from_static("x-upload-content-length"), ask.size.to_string()));
        if !ask.content_type.is_empty() {
            headers.push((HeaderName::from_static("x-upload-content-type"), ask.content_type.to_owned()));
        }
        headers.extend(ask.page.map(|page| (header::ORIGIN, page.to_owned())));
        headers.extend(google.authorization().await?);
        match caller.head_of("BeginSession", (Method::POST, &url, headers), told).await {
            Ok(location) => return location.ok_or_else(|| Fault::lasting("the store gave a session no location")),
            // With a token that is asked for anew.
            Err(fault) if fault.kind == Kind::Denied && again => {
                again = false;
                google.forget().await;
            }
            Err(fault) => return Err(fault),
        }
    }
}

/// How far a session has come. One whose bytes are all there, as many as the client declared, is completed by the question.
pub(in crate::blob::s3) async fn reached(
    caller: &Caller<Flavour>,
    google: &Google,
    location: &str,
    size: u64,
) -> Result<Reached, Fault> {
    let headers = vec![(header::CONTENT_RANGE, format!("bytes */{size}")), (header::CONTENT_LENGTH, "0".into())];
    let url = google.inside(location)?;
    let told = |head: &Head| match head.status {
        308 => Some(Reached::Bytes(bytes(head))),
        200 | 201 => Some(Reached::Whole),
        CANCELLED => Some(Reached::Cancelled),
        404 | 410 => Some(Reached::Nowhere),
        _ => None,
    };
    caller.head_of("AskSession", (Method::PUT, &url, headers), told).await
}

/// `Range` names the last byte that is kept; without any it is missing.
fn bytes(head: &Head) -> u64 {
    let last = head.header("range").and_then(|range| range.trim().strip_prefix("bytes=0-")?.parse::<u64>().ok());
    last.map_or(0, |last| last.saturating_add(1))
}

/// Ends a session: nothing can be sent to it any more. One that has ended stays so.
pub(in crate::blob::s3) async fn end(caller: &Caller<Flavour>, google: &Google, location: &str) -> Result<(), Fault> {
    let url = google.inside(location)?;
    let headers = vec![(header::CONTENT_LENGTH, "0".into())];
    // Whatever is wrong with one that ends is no reason to keep it.
    let told = |head: &Head| match head.status {
        408 | 425 | 429 | 401 | 403 => None,
        200..=499 => Some(()),
        _ => None,
    };
    caller.head_of("EndSession", (Method::DELETE, &url, headers), told).await
}
