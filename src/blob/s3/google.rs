//! How Google Cloud Storage is spoken to: S3's calls in its XML API, with a token, with numbers for what is there
//! (generations), and with sessions of its own for uploads that go on.

mod identity;
mod key;
pub(super) mod session;

use std::collections::HashMap;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::{HeaderName, header};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use self::identity::Identity;
use super::objects::Stat;
use crate::blob::PutAsk;
use crate::blob::remote::{Ask, Element, Fault, Kind, Protocol, Signed, split};
use crate::clock::Clock;
use crate::config::Bucket;
use crate::model::file::Digests;
use crate::outbound::{Head, OutboundError};
use crate::sigv4::PresignRequest;

const HOST: &str = "storage.googleapis.com";
/// The condition under which a key takes one object only: that it has none.
pub(super) const CREATE_ONLY: (&str, &str) = ("x-goog-if-generation-match", "0");
/// The header that names an object's generation, and the parameter that asks for one.
pub(super) const GENERATION: &str = "x-goog-generation";
pub(super) const GENERATION_QUERY: &str = "generation";
const HASH: &str = "x-goog-hash";
/// Fewest and most bytes of a body. Another one is refused.
const BYTES: &str = "x-goog-content-length-range";
/// What it says of bytes that were sent compressed: they are asked for as they are stored.
const STORED_LENGTH: &str = "x-goog-stored-content-length";

const QUERY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
const PATH: &AsciiSet = &QUERY.remove(b'/');

/// Where a bucket is, and who asks.
pub(super) struct Google {
    identity: Identity,
    /// The store judges signatures by its own clock, so that this is the system's, also where a test moves the server's.
    clock: Clock,
    scheme: &'static str,
    host: String,
    /// The bucket, as it stands before a key in the path.
    root: String,
    /// Scheme and host by which clients reach the same bucket.
    public: (&'static str, String),
}

/// A URL for one PUT.
pub(super) struct Put<'a> {
    pub(super) key: &'a str,
    pub(super) query: Vec<(String, String)>,
    pub(super) headers: &'a [(&'a str, &'a str)],
    pub(super) life: u32,
}

impl Google {
    pub(super) fn new(bucket: &Bucket, environment: HashMap<String, String>) -> Result<Self, OutboundError> {
        let (scheme, host) = bucket.endpoint.as_deref().map_or_else(|| ("https", HOST.to_owned()), split);
        let public = bucket.public_endpoint.as_deref().map_or_else(|| (scheme, host.clone()), split);
        let identity = Identity::new(bucket, environment)?;
        let root = format!("/{}", bucket.name);
        Ok(Self { identity, clock: Clock::system(), scheme, host, root, public })
    }

    /// Is it reached without encryption?
    pub(super) fn is_near(&self) -> bool {
        self.scheme == "http"
    }

    /// URLs by which clients reach the store.
    pub(super) async fn public(&self, puts: &[Put<'_>]) -> Result<Vec<String>, Fault> {
        let (scheme, host) = &self.public;
        self.signed((scheme, host), puts).await
    }

    /// The same by which this server reaches it.
    pub(super) async fn own(&self, put: Put<'_>) -> Result<String, Fault> {
        let mut urls = self.signed((self.scheme, &self.host), &[put]).await?;
        urls.pop().ok_or_else(|| Fault::lasting("nothing was signed"))
    }

    async fn signed(&self, (scheme, host): (&str, &str), puts: &[Put<'_>]) -> Result<Vec<String>, Fault> {
        let paths: Vec<String> = puts.iter().map(|put| format!("{}/{}", self.root, put.key)).collect();
        let asks = puts.iter().zip(&paths).map(|(put, path)| PresignRequest {
            method: "PUT",
            scheme,
            host,
            path,
            query: &put.query,
            signed_headers: put.headers,
            date: self.clock.now(),
            expires_seconds: put.life,
        });
        self.identity.sign(&asks.collect::<Vec<_>>()).await
    }

    async fn authorization(&self) -> Result<Option<(HeaderName, String)>, Fault> {
        let token = self.identity.token().await?;
        Ok(token.map(|token| (header::AUTHORIZATION, format!("Bearer {token}"))))
    }
}

#[async_trait]
impl Protocol for Google {
    fn place(&self) -> String {
        format!("{}://{}{}", self.scheme, self.host, self.root)
    }

    async fn sign(&self, ask: &Ask<'_>) -> Result<Signed, Fault> {
        let mut url = self.place();
        if !ask.key.is_empty() {
            url.push_str(&format!("/{}", utf8_percent_encode(ask.key, PATH)));
        }
        for (index, (name, value)) in ask.query.iter().enumerate() {
            url.push(if index == 0 { '?' } else { '&' });
            url.push_str(name);
            if !value.is_empty() {
                url.push_str(&format!("={}", utf8_percent_encode(value, QUERY)));
            }
        }
        let header = |(name, value): &(&'static str, String)| (HeaderName::from_static(name), value.clone());
        let mut headers: Vec<_> = ask.headers.iter().map(header).collect();
        headers.extend(self.authorization().await?);
        Ok(Signed { url, headers })
    }

    fn judge(&self, status: u16, _head: &Head, document: Option<&Element>) -> Fault {
        judge(status, document)
    }

    async fn forget(&self) {
        self.identity.forget().await;
    }
}

/// How a body's checksum is told.
pub(super) fn checksum(crc32c: u32) -> (&'static str, String) {
    (HASH, format!("crc32c={}", BASE64.encode(crc32c.to_be_bytes())))
}

/// What the store can be told to compare.
pub(super) fn checks(ask: &PutAsk<'_>) -> Vec<(&'static str, String)> {
    let (least, most) = ask.bytes;
    let md5 = ask.declared.md5.map(|md5| ("content-md5", BASE64.encode(md5)));
    let bytes = (BYTES, format!("{least},{most}"));
    ask.declared.crc32c.map(checksum).into_iter().chain(md5).chain([bytes]).collect()
}

/// What the head of an answer tells about an object.
pub(super) fn stat(head: &Head) -> Option<Stat> {
    let size = head.header(STORED_LENGTH).or_else(|| head.header("content-length"))?.parse().ok()?;
    let mut digests = Digests::default();
    for value in head.headers.get_all(HASH) {
        for part in value.to_str().unwrap_or_default().split(',') {
            let (name, value) = part.trim().split_once('=').unwrap_or_default();
            let value = BASE64.decode(value).unwrap_or_default();
            match name {
                "crc32c" => digests.crc32c = value.try_into().ok().map(u32::from_be_bytes),
                "md5" => digests.md5 = value.try_into().ok(),
                _ => {}
            }
        }
    }
    let text = |name: &str| head.header(name).map(str::to_owned);
    Some(Stat { size, etag: text("etag"), version: text(GENERATION), digests })
}

/// What an answer that is no success means.
fn judge(status: u16, document: Option<&Element>) -> Fault {
    let code = document.and_then(|document| document.get("Code")).unwrap_or_default();
    let message = document.and_then(|document| document.get("Message")).unwrap_or_default();
    let kind = match (code, status) {
        ("NoSuchBucket" | "UserProjectMissing" | "BillingDisabled", _) => Kind::Lasting,
        ("InvalidPart" | "InvalidPartOrder" | "EntityTooSmall", _) => Kind::Parts,
        ("ExpiredToken" | "InvalidToken" | "AuthenticationRequired", _) | (_, 401 | 403) => Kind::Denied,
        // What a connection damaged on its way is sent again.
        ("RequestTimeout" | "IncompleteBody" | "BadDigest", _) => Kind::Passing,
        ("NotImplemented" | "MethodNotAllowed", _) | (_, 405 | 501) => Kind::Unserved,
        (_, 404 | 410) => Kind::Missing,
        (_, 412) => Kind::Changed,
        (_, 507) => Kind::Full,
        (_, 408 | 425 | 429 | 500 | 502 | 503 | 504) => Kind::Passing,
        _ => match code {
            "NoSuchKey" | "NoSuchUpload" => Kind::Missing,
            "InternalError" | "SlowDown" | "ServiceUnavailable" => Kind::Passing,
            _ => Kind::Lasting,
        },
    };
    Fault::answered(kind, status, code, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_judged_by_its_code_and_then_by_its_status() {
        for (status, code, wanted) in [
            (404, "NoSuchKey", Kind::Missing),
            (404, "", Kind::Missing),
            (410, "", Kind::Missing),
            (404, "NoSuchBucket", Kind::Lasting),
            (500, "NoSuchUpload", Kind::Passing),
            (200, "InternalError", Kind::Passing),
            (503, "ServiceUnavailable", Kind::Passing),
            (429, "SlowDown", Kind::Passing),
            (400, "BadDigest", Kind::Passing),
            (401, "AuthenticationRequired", Kind::Denied),
            (401, "", Kind::Denied),
            (403, "AccessDenied", Kind::Denied),
            (400, "ExpiredToken", Kind::Denied),
            (400, "InvalidPart", Kind::Parts),
            (400, "EntityTooSmall", Kind::Parts),
            (412, "PreconditionFailed", Kind::Changed),
            (400, "UserProjectMissing", Kind::Lasting),
            (400, "InvalidArgument", Kind::Lasting),
        ] {
            let xml = format!("<Error><Code>{code}</Code><Message>m</Message></Error>");
            let document = Element::read(xml.as_bytes()).filter(|_| !code.is_empty());
            assert_eq!(judge(status, document.as_ref()).kind, wanted, "{status} {code}");
        }
    }

    #[test]
    fn what_is_there_is_told_by_its_headers() {
        let mut headers = http::HeaderMap::new();
        for (name, value) in [
            ("content-length", "3"),
            (STORED_LENGTH, "30"),
            ("etag", "\"x\""),
            (GENERATION, "1700000000000000"),
            (HASH, "crc32c=AAAAAQ=="),
            (HASH, "md5=1B2M2Y8AsgTpgAmY7PhCfg=="),
        ] {
            headers.append(HeaderName::from_static(name), value.parse().unwrap());
        }
        let found = stat(&Head { status: 200, headers: headers.clone() }).unwrap();
        assert_eq!((found.size, found.version.as_deref()), (30, Some("1700000000000000")));
        assert_eq!(found.digests.crc32c, Some(1));
        let md5 = found.digests.md5;
        assert!(md5.is_some());
        headers.remove(HASH);
        headers.insert(HASH, "crc32c=AAAAAQ==, md5=1B2M2Y8AsgTpgAmY7PhCfg==".parse().unwrap());
        assert_eq!(stat(&Head { status: 200, headers }).unwrap().digests.md5, md5);
    }
}
