//! How Amazon's stores, and those like them, are spoken to: presigned requests, and what their errors mean.

use std::collections::HashMap;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::HeaderName;

use super::credentials::Credentials;
use super::objects::Stat;
use crate::blob::remote::{Ask, Element, Fault, Kind, Protocol, Signed, split};
use crate::clock::Clock;
use crate::config::Bucket;
use crate::model::file::{Declared, Digests};
use crate::outbound::{Head, OutboundError};
use crate::sigv4::{PresignRequest, Secret, SigningKey, presign};

/// How long a signature holds: long enough for clocks that are not quite right.
pub(super) const SIGNED_SECONDS: u32 = 900;
/// The region of stores that have none.
const REGION: &str = "us-east-1";
/// The condition under which a key takes one object only.
pub(super) const CREATE_ONLY: (&str, &str) = ("if-none-match", "*");
pub(super) const CHECKSUM: &str = "x-amz-checksum-crc32c";
/// The header that names an object's version, and the parameter that asks for one.
pub(super) const VERSION: &str = "x-amz-version-id";
pub(super) const VERSION_QUERY: &str = "versionId";

/// Where a bucket is, and who asks.
pub(super) struct Amazon {
    credentials: Credentials,
    /// The store judges signatures by its own clock, so that this is the system's, also where a test moves the server's.
    clock: Clock,
    scheme: &'static str,
    host: String,
    /// What stands before a key in the path.
    root: String,
    /// Scheme and host by which clients reach the same bucket.
    public: (&'static str, String),
    region: String,
}

impl Amazon {
    pub(super) fn new(bucket: &Bucket, environment: HashMap<String, String>) -> Result<Self, OutboundError> {
        let named = ["AWS_REGION", "AWS_DEFAULT_REGION"].iter().find_map(|name| environment.get(*name).cloned());
        let region = bucket.region.clone().or(named).unwrap_or_else(|| REGION.into());
        let own = || ("https", format!("s3.{region}.amazonaws.com"));
        let (scheme, host) = bucket.endpoint.as_deref().map_or_else(own, split);
        let public = bucket.public_endpoint.as_deref().map_or_else(|| (scheme, host.clone()), split);
        let placed = |host: String| if bucket.path_style { host } else { format!("{}.{host}", bucket.name) };
        let root = if bucket.path_style { format!("/{}", bucket.name) } else { String::new() };
        let (host, public) = (placed(host), (public.0, placed(public.1)));
        let credentials = Credentials::new(bucket, environment)?;
        Ok(Self { credentials, clock: Clock::system(), scheme, host, root, public, region })
    }

    /// Is it reached without encryption?
    pub(super) fn is_near(&self) -> bool {
        self.scheme == "http"
    }

    /// Who signs now: credentials may be others later.
    pub(super) async fn signer(&self) -> Result<Signer<'_>, Fault> {
        let credential = self.credentials.get().await?;
        let secret = Secret::new(credential.secret_access_key.into_bytes());
        let key = SigningKey::new(credential.access_key_id, secret, self.region.clone());
        Ok(Signer { amazon: self, key, token: credential.session_token })
    }
}

#[async_trait]
impl Protocol for Amazon {
    fn place(&self) -> String {
        format!("{}://{}{}", self.scheme, self.host, self.root)
    }

    /// The whole URL, with a signature over it and over the headers that need one.
    async fn sign(&self, ask: &Ask<'_>) -> Result<Signed, Fault> {
        let signed = ask.headers.iter().filter(|(name, _)| name.starts_with("x-amz-"));
        let signed: Vec<(&str, &str)> = signed.map(|(name, value)| (*name, value.as_str())).collect();
        let query = ask.query.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        let signer = self.signer().await?;
        let url = signer.url((self.scheme, &self.host), ask.method.as_str(), ask.key, query, &signed, SIGNED_SECONDS);
        let header = |(name, value): &(&'static str, String)| (HeaderName::from_static(name), value.clone());
        Ok(Signed { url, headers: ask.headers.iter().map(header).collect() })
    }

    fn judge(&self, status: u16, head: &Head, document: Option<&Element>) -> Fault {
        judge(status, head, document)
    }

    async fn forget(&self) {
        self.credentials.forget().await;
    }
}

/// Signs with the credentials of one moment.
pub(super) struct Signer<'a> {
    amazon: &'a Amazon,
    key: SigningKey,
    token: Option<String>,
}

impl Signer<'_> {
    /// A URL at which clients reach an object, for a PUT within so many seconds with exactly these headers.
    pub(super) fn public(
        &self,
        key: &str,
        query: Vec<(String, String)>,
        headers: &[(&str, &str)],
        life: u32,
    ) -> String {
        let (scheme, host) = &self.amazon.public;
        self.url((scheme, host), "PUT", key, query, headers, life)
    }

    /// The same at which this server reaches it.
    pub(super) fn own(&self, key: &str, headers: &[(&str, &str)]) -> String {
        self.url((self.amazon.scheme, &self.amazon.host), "PUT", key, Vec::new(), headers, SIGNED_SECONDS)
    }

    fn url(
        &self,
        (scheme, host): (&str, &str),
        method: &str,
        key: &str,
        mut query: Vec<(String, String)>,
        headers: &[(&str, &str)],
        life: u32,
    ) -> String {
        if let Some(token) = &self.token {
            query.push(("X-Amz-Security-Token".into(), token.clone()));
        }
        let root = &self.amazon.root;
        let slash = if key.is_empty() && !root.is_empty() { "" } else { "/" };
        presign(
            &self.key,
            &PresignRequest {
                method,
                scheme,
                host,
                path: &format!("{root}{slash}{key}"),
                query: &query,
                signed_headers: headers,
                date: self.amazon.clock.now(),
                expires_seconds: life,
            },
        )
    }
}

/// The one header in which the store can be told what it has to receive, and the MD5 beside it.
pub(super) fn checks(declared: &Declared, checksums: bool) -> Vec<(&'static str, String)> {
    let mut headers = Vec::new();
    if checksums {
        let sha256 = declared.sha256.map(|digest| ("x-amz-checksum-sha256", BASE64.encode(digest)));
        let crc64 = declared.crc64nvme.map(|crc| ("x-amz-checksum-crc64nvme", BASE64.encode(crc.to_be_bytes())));
        let crc32 = declared.crc32c.map(|crc| (CHECKSUM, BASE64.encode(crc.to_be_bytes())));
        headers.extend(sha256.or(crc64).or(crc32));
    }
    headers.extend(declared.md5.map(|md5| ("content-md5", BASE64.encode(md5))));
    headers
}

/// What the head of an answer tells about an object.
pub(super) fn stat(head: &Head) -> Option<Stat> {
    let size = head.header("content-length")?.parse().ok()?;
    // One of parts' digests says nothing about the whole.
    let whole = head.header("x-amz-checksum-type").is_none_or(|kind| kind == "FULL_OBJECT");
    let digest = |name: &str| head.header(name).filter(|_| whole).and_then(|text| BASE64.decode(text).ok());
    let crc32c = digest(CHECKSUM).and_then(|bytes| bytes.try_into().ok());
    let crc64nvme = digest("x-amz-checksum-crc64nvme").and_then(|bytes| bytes.try_into().ok());
    Some(Stat {
        size,
        etag: head.header("etag").map(str::to_owned),
        version: head.header(VERSION).map(str::to_owned),
        digests: Digests {
            crc32c: crc32c.map(u32::from_be_bytes),
            crc64nvme: crc64nvme.map(u64::from_be_bytes),
            md5: None,
            sha256: digest("x-amz-checksum-sha256").and_then(|bytes| bytes.try_into().ok()),
        },
    })
}

/// What an answer that is no success means.
fn judge(status: u16, head: &Head, document: Option<&Element>) -> Fault {
    let code = document.and_then(|document| document.get("Code")).unwrap_or_default();
    let message = document.and_then(|document| document.get("Message")).unwrap_or_default();
    let kind = match (code, status) {
        ("NoSuchKey" | "NoSuchUpload" | "NotFound", _) => Kind::Missing,
        ("NoSuchBucket" | "PermanentRedirect" | "RequestTimeTooSkewed", _) => Kind::Lasting,
        ("InvalidPart" | "InvalidPartOrder" | "EntityTooSmall", _) => Kind::Parts,
        ("QuotaExceeded" | "InsufficientStorage" | "StorageFull" | "XMinioStorageFull", _) | (_, 507) => Kind::Full,
        ("ExpiredToken" | "InvalidToken" | "TokenRefreshRequired", _) | (_, 401 | 403) => Kind::Denied,
        // What a connection damaged on its way is sent again.
        ("RequestTimeout" | "IncompleteBody" | "BadDigest" | "XAmzContentChecksumMismatch", _) => Kind::Passing,
        ("OperationAborted" | "ConditionalRequestConflict", _) => Kind::Passing,
        ("NotImplemented" | "MethodNotAllowed", _) | (_, 405 | 501) => Kind::Unserved,
        (_, 404) => Kind::Missing,
        (_, 412) => Kind::Changed,
        (_, 408 | 425 | 429 | 500 | 502 | 503 | 504) => Kind::Passing,
        // An answer to HEAD has no document that would say why.
        ("", 400) if document.is_none() => Kind::Denied,
        _ => Kind::Lasting,
    };
    match (kind, head.header("x-amz-bucket-region")) {
        (Kind::Lasting, Some(region)) if (300..400).contains(&status) => {
            Fault::lasting(format!("the bucket is in another region: set `region={region}` in `storage`"))
        }
        (Kind::Lasting, _) if code == "RequestTimeTooSkewed" => {
            Fault::lasting("this machine's clock or the store's is wrong: they differ by more than a signature allows")
        }
        _ => Fault::answered(kind, status, code, message),
    }
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;

    fn kind(status: u16, code: &str) -> Kind {
        let head = Head { status, headers: http::HeaderMap::new() };
        let xml = format!("<Error><Code>{code}</Code><Message>m</Message></Error>");
        let document = Element::read(xml.as_bytes()).filter(|_| !code.is_empty());
        judge(status, &head, document.as_ref()).kind
    }

    #[test]
    fn an_answer_is_judged_by_its_code_and_then_by_its_status() {
        for (status, code, wanted) in [
            (404, "NoSuchKey", Kind::Missing),
            (404, "", Kind::Missing),
            (404, "NoSuchBucket", Kind::Lasting),
            (500, "NoSuchUpload", Kind::Missing),
            (503, "SlowDown", Kind::Passing),
            (429, "", Kind::Passing),
            (500, "InternalError", Kind::Passing),
            (400, "RequestTimeout", Kind::Passing),
            (400, "BadDigest", Kind::Passing),
            (400, "ExpiredToken", Kind::Denied),
            (400, "", Kind::Denied),
            (400, "InvalidPart", Kind::Parts),
            (403, "SignatureDoesNotMatch", Kind::Denied),
            (403, "RequestTimeTooSkewed", Kind::Lasting),
            (412, "PreconditionFailed", Kind::Changed),
            (507, "", Kind::Full),
            (400, "InvalidRequest", Kind::Lasting),
            (301, "PermanentRedirect", Kind::Lasting),
        ] {
            assert_eq!(kind(status, code), wanted, "{status} {code}");
        }
    }

    #[tokio::test]
    async fn a_url_names_the_bucket_where_it_belongs() {
        for (storage, key, wanted) in [
            ("s3://bytes", "a-b.1", "https://bytes.s3.eu-9.amazonaws.com/a-b.1?X-Amz-"),
            ("s3://bytes", "", "https://bytes.s3.eu-9.amazonaws.com/?X-Amz-"),
            ("s3://bytes?region=us-1", "k", "https://bytes.s3.us-1.amazonaws.com/k?X-Amz-"),
            ("s3://by.tes", "k", "https://s3.eu-9.amazonaws.com/by.tes/k?X-Amz-"),
            ("s3://bytes?endpoint=http://10.0.0.7:3900", "", "http://10.0.0.7:3900/bytes?X-Amz-"),
            ("s3://bytes?endpoint=http://10.0.0.7:3900", "x/k", "http://10.0.0.7:3900/bytes/x/k?X-Amz-"),
            ("s3://bytes?endpoint=https://s.example.com&path_style=false", "k", "https://bytes.s.example.com/k?X-Amz-"),
        ] {
            let mut config = crate::config::Config::default();
            config.set_text("storage", storage).unwrap();
            let crate::config::Storage::Bucket(bucket) = &config.storage else { panic!("{storage}") };
            let environment = [
                ("AWS_REGION", "eu-9"),
                ("AWS_ACCESS_KEY_ID", "AKIA"),
                ("AWS_SECRET_ACCESS_KEY", "secret"),
                ("AWS_SESSION_TOKEN", "a/token"),
            ];
            let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned()));
            let amazon = Amazon::new(bucket, environment.into()).unwrap();
            let ask =
                Ask::new("PutObject", Method::PUT, key).header("x-amz-checksum-crc32c", "AAAA").header("range", "x");
            let url = amazon.sign(&ask).await.unwrap().url;
            assert!(url.starts_with(wanted), "{url}");
            assert!(url.contains("X-Amz-Security-Token=a%2Ftoken"), "{url}");
            assert!(url.contains("X-Amz-SignedHeaders=host%3Bx-amz-checksum-crc32c&"), "{url}");
        }
    }
}
