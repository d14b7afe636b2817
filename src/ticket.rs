//! Tickets: upload locations signed by this server. A ticket is a capability: method, path (wire, tenant and
//! session), required headers, host and expiry are bound in its signature, and it is never logged.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;

use crate::clock::{Timestamp, random_bytes};
use crate::limits;
use crate::model::ids::{FileId, SessionId, TenantId};
use crate::model::refusal::TicketRefusal;
use crate::sigv4::{self, Incoming, PresignRequest, Secret, SigningKey};

/// First segment of every ticket's path.
pub const PREFIX: &str = "put";
const DETAIL_CHARS: usize = 1_000;
const REGION: &str = "us-east-1";

/// First segment of the path of every plain ticket.
pub const PLAIN_PREFIX: &str = "part";
/// What stands in it instead of a part's number for a whole file.
const WHOLE: &str = "whole";

/// First segments of the path of every resumable session's URL.
pub const SESSION_PATH: &str = "upload/storage/v1/b";
/// The bucket that session URLs name: it has a place in them and no meaning here.
pub const BUCKET: &str = "landfall";
/// Bytes of the proof in a session URL.
const PROOF_BYTES: usize = 16;

/// Signs tickets and checks them.
#[derive(Clone)]
pub struct Tickets {
    keys: Vec<SigningKey>,
    secret: Vec<u8>,
}

impl std::fmt::Debug for Tickets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tickets")
    }
}

/// Where a ticket leads.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    /// The wire that it was issued on: the name of a dialect.
    pub wire: String,
    /// Whose session.
    pub tenant: TenantId,
    /// Which session.
    pub session: SessionId,
}

/// A ticket that holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Held {
    /// Where it leads.
    pub target: Target,
    /// A SHA-256 of the body that the client sent along.
    pub sha256: Option<[u8; 32]>,
    /// Every `x-amz-*` header, wherever it was sent.
    pub amz_headers: Vec<(String, String)>,
}

/// Where a plain ticket leads: one that binds wire, session, part and expiry, and neither host nor headers. For wires
/// whose clients add headers of their own, or reach us by another name than the one that the ticket was issued under.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plain {
    /// The wire that it was issued on: the name of a dialect.
    pub wire: String,
    /// Which session.
    pub session: SessionId,
    /// Which part of it; `None` for a whole file in one PUT.
    pub part: Option<u32>,
}

impl Plain {
    fn path(&self) -> String {
        let part = self.part.map_or_else(|| WHOLE.to_owned(), |number| number.to_string());
        format!("/{PLAIN_PREFIX}/{}/{}/{part}", self.wire, self.session.0.simple())
    }

    /// Where a path leads that is written as [`Tickets::plain_url`] does, and in no other spelling. That it may lead there
    /// is not said.
    #[must_use]
    pub fn read(path: &str) -> Option<Self> {
        let mut segments = path.strip_prefix('/')?.strip_prefix(PLAIN_PREFIX)?.strip_prefix('/')?.split('/');
        let (wire, session, part) = (segments.next()?, segments.next()?, segments.next()?);
        let part = if part == WHOLE { None } else { Some(part.parse().ok()?) };
        let read = Self { wire: wire.to_owned(), session: session.parse().ok()?, part };
        (read.path() == path).then_some(read)
    }
}

/// Expiry and proof, as a plain ticket has them in its query.
fn plain_query(query: &str) -> Option<(&str, &str)> {
    query.strip_prefix("expires=")?.split_once("&proof=")
}

/// Is a query, whatever its path, one of a plain ticket?
#[must_use]
pub fn is_plain_query(query: &str) -> bool {
    plain_query(query).is_some()
}

/// A request as it came.
#[derive(Clone, Copy, Debug)]
pub struct Presented<'a> {
    /// The method.
    pub method: &'a str,
    /// `http` or `https`, as the client sees it.
    pub scheme: &'a str,
    /// The host as the client sees it, in any spelling.
    pub host: &'a str,
    /// The path as it was on the wire.
    pub path: &'a str,
    /// The query as it was on the wire.
    pub query: &'a str,
    /// The headers.
    pub headers: &'a [(&'a str, &'a [u8])],
}

/// A host in the one spelling that is signed: in lower case, and without the port that its scheme has anyway (RFC 3986
/// 6.2.3). Clients send it either way.
#[must_use]
pub fn plain_host(scheme: &str, host: &str) -> String {
    let port = if scheme == "https" { ":443" } else { ":80" };
    host.strip_suffix(port).unwrap_or(host).to_ascii_lowercase()
}

impl Tickets {
    /// A signer with the installation's secret, which is made once and kept with the data.
    #[must_use]
    pub fn new(secret: &[u8]) -> Self {
        Self { keys: vec![SigningKey::new("LANDFALL", Secret::new(secret.to_vec()), REGION)], secret: secret.to_vec() }
    }

    /// A new secret.
    #[must_use]
    pub fn new_secret() -> Vec<u8> {
        random_bytes::<32>().to_vec()
    }

    fn proof(&self, purpose: &str, parts: &[&[u8]]) -> [u8; 32] {
        #[allow(clippy::expect_used, reason = "HMAC takes keys of any length")]
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.secret).expect("a key of any length");
        mac.update(purpose.as_bytes());
        for part in parts {
            mac.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
            mac.update(part);
        }
        mac.finalize().into_bytes().into()
    }

    /// The URL of a resumable session under `base`: a secret of 128 bits, bound to the session, which names tenant and
    /// file. It holds as long as the session does.
    #[must_use]
    pub fn session_url(&self, base: &str, session: SessionId) -> String {
        format!("{base}/{SESSION_PATH}/{BUCKET}/o?uploadType=resumable&upload_id={}", self.upload_id(session))
    }

    /// The secret of a resumable session's URL.
    #[must_use]
    pub fn upload_id(&self, session: SessionId) -> String {
        let proof = self.proof("session", &[session.0.as_bytes()]);
        let bytes = [session.0.as_bytes().as_slice(), &proof[..PROOF_BYTES]].concat();
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// The session of such a secret, if it is one of ours.
    #[must_use]
    pub fn session_of(&self, upload_id: &str) -> Option<SessionId> {
        // A secret has one spelling: what does not encode to itself is none.
        let bytes = URL_SAFE_NO_PAD.decode(upload_id).ok()?;
        let (id, proof) = bytes.split_first_chunk::<16>()?;
        let session = SessionId(uuid::Uuid::from_bytes(*id));
        let expected = self.proof("session", &[id]);
        bool::from(proof.ct_eq(&expected[..PROOF_BYTES])).then_some(session)
    }

    fn plain_proof(&self, plain: &Plain, expires_seconds: i64) -> String {
        let part = plain.part.map_or([0; 5], |number| {
            let [a, b, c, d] = number.to_be_bytes();
            [1, a, b, c, d]
        });
        let parts: [&[u8]; 4] =
            [plain.wire.as_bytes(), plain.session.0.as_bytes(), &part, &expires_seconds.to_be_bytes()];
        URL_SAFE_NO_PAD.encode(self.proof("plain", &parts))
    }

    /// A plain ticket under `base`, which holds until `expires`: a URL for a PUT, with the proof in its query.
    #[must_use]
    pub fn plain_url(&self, base: &str, plain: &Plain, expires: Timestamp) -> String {
        let expires = expires.seconds();
        format!("{base}{}?expires={expires}&proof={}", plain.path(), self.plain_proof(plain, expires))
    }

    /// Does a path with its query carry a plain ticket that holds now?
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn check_plain(&self, path: &str, query: &str, now: Timestamp) -> Result<Plain, TicketRefusal> {
        let wrong = |rule, detail: &str| TicketRefusal { rule, detail: detail.into() };
        let Some(plain) = Plain::read(path) else {
            return Err(wrong("path", "the path is not one of an upload URL"));
        };
        let Some((expires, proof)) = plain_query(query) else {
            return Err(wrong("query", "the query is not the one of an upload URL"));
        };
        // A number has one spelling.
        let Some(seconds) = expires.parse::<i64>().ok().filter(|seconds| seconds.to_string() == expires) else {
            return Err(wrong("query", "the query is not the one of an upload URL"));
        };
        let expected = self.plain_proof(&plain, seconds);
        if !bool::from(proof.as_bytes().ct_eq(expected.as_bytes())) {
            return Err(wrong("signature", "the URL is not as it was issued"));
        }
        if now.seconds() >= seconds {
            let ended = Timestamp(seconds.saturating_mul(1000)).rfc3339();
            return Err(wrong("expired", &format!("the URL expired at {ended}")));
        }
        Ok(plain)
    }

    /// The token of a download link: bound to the tenant, the file and the second in which it ends.
    #[must_use]
    pub fn download_token(&self, tenant: &TenantId, file: FileId, expires_seconds: i64) -> String {
        let expires = expires_seconds.to_be_bytes();
        URL_SAFE_NO_PAD.encode(self.proof("download", &[tenant.0.as_bytes(), file.0.as_bytes(), &expires]))
    }

    /// Does a download link hold now?
    #[must_use]
    pub fn holds_download(
        &self,
        tenant: &TenantId,
        file: FileId,
        expires_seconds: i64,
        token: &str,
        now: Timestamp,
    ) -> bool {
        let expected = self.download_token(tenant, file, expires_seconds);
        bool::from(token.as_bytes().ct_eq(expected.as_bytes())) && now.seconds() < expires_seconds
    }

    /// Signs an upload location under `base` (scheme, host and path prefix, without a slash at its end). The headers
    /// must come with the PUT exactly as they are given here.
    #[must_use]
    pub fn issue(
        &self,
        base: &str,
        target: &Target,
        headers: &[(&str, &str)],
        now: Timestamp,
        life: Duration,
    ) -> String {
        let (scheme, rest) = base.split_once("://").unwrap_or(("http", base));
        let (host, prefix) = rest.split_once('/').map_or((rest, ""), |(host, path)| (host, path));
        let host = plain_host(scheme, host);
        let prefix = prefix.trim_end_matches('/');
        let slash = if prefix.is_empty() { "" } else { "/" };
        let path = format!("/{prefix}{slash}{PREFIX}/{}/{}/{}", target.wire, target.tenant, target.session.0.simple());
        let request = PresignRequest {
            method: "PUT",
            scheme,
            host: &host,
            path: &path,
            query: &[],
            signed_headers: headers,
            date: now,
            expires_seconds: u32::try_from(life.as_secs()).unwrap_or(sigv4::EXPIRES_MAX_SECONDS),
        };
        sigv4::presign(&self.keys[0], &request)
    }

    /// Does the request carry a ticket that holds now? `public_host` is the configured host, for a proxy that does
    /// not pass on the client's; `public_prefix` is the path that such a proxy strips.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn check(
        &self,
        presented: &Presented<'_>,
        target: &Target,
        public_host: Option<&str>,
        public_prefix: &str,
        now: Timestamp,
    ) -> Result<Held, TicketRefusal> {
        let hosts: Vec<&str> = public_host.into_iter().collect();
        let full;
        let path = if public_prefix.is_empty() || presented.path.starts_with(public_prefix) {
            presented.path
        } else {
            full = format!("{public_prefix}{}", presented.path);
            &full
        };
        let host = plain_host(presented.scheme, presented.host);
        let incoming = Incoming {
            method: presented.method,
            host: &host,
            path,
            query: presented.query,
            headers: presented.headers,
        };
        let verified =
            sigv4::verify(&self.keys, &incoming, now, limits::CLOCK_SKEW, &hosts).map_err(|error| TicketRefusal {
                rule: error.rule(),
                // What a stranger sent is quoted, but not at any length.
                detail: error.to_string().chars().take(DETAIL_CHARS).collect(),
            })?;
        Ok(Held { target: target.clone(), sha256: verified.content_sha256, amz_headers: verified.amz_headers })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, ordered_uuid};

    #[test]
    fn a_session_url_holds_for_its_session_only() {
        let tickets = Tickets::new(&Tickets::new_secret());
        let session = SessionId(ordered_uuid(Clock::system().now()));
        let secret = tickets.upload_id(session);
        assert_eq!(tickets.session_of(&secret), Some(session));
        for at in 0..secret.len() {
            let mut other = secret.clone().into_bytes();
            other[at] = if other[at] == b'A' { b'B' } else { b'A' };
            assert_eq!(tickets.session_of(std::str::from_utf8(&other).unwrap()), None, "character {at}");
        }
        for bad in ["", "AAAA", &secret[1..], &format!("{secret}A"), &format!("{secret}=")] {
            assert_eq!(tickets.session_of(bad), None, "{bad}");
        }
        assert_eq!(Tickets::new(&Tickets::new_secret()).session_of(&secret), None, "another installation's");
    }

    #[test]
    fn a_download_link_holds_for_its_file_and_time() {
        let tickets = Tickets::new(&Tickets::new_secret());
        let now = Timestamp(1_700_000_000_000);
        let (file, other) = (FileId(ordered_uuid(now)), FileId(ordered_uuid(now)));
        let ends = now.seconds() + 60;
        let token = tickets.download_token(&"t".into(), file, ends);
        let holds = |tenant: &str, file, ends, now| tickets.holds_download(&tenant.into(), file, ends, &token, now);
        assert!(holds("t", file, ends, now));
        assert!(!holds("t", file, ends, now.plus(Duration::from_secs(60))));
        assert!(!holds("t", file, ends + 1, now) && !holds("t", other, ends, now) && !holds("u", file, ends, now));
    }

    #[test]
    fn a_ticket_holds_as_it_was_issued_and_under_a_prefix() {
        let tickets = Tickets::new(&Tickets::new_secret());
        let now = Clock::system().now();
        let target = Target { wire: "w".into(), tenant: "acme".into(), session: SessionId(ordered_uuid(now)) };
        let headers = [("content-type", "application/octet-stream")];
        for (base, prefix) in [("http://h:8080", ""), ("https://h/a/b", "/a/b")] {
            let url = tickets.issue(base, &target, &headers, now, Duration::from_secs(60));
            let (scheme, rest) = url.split_once("://").unwrap();
            let (host, path) = rest.split_once('/').unwrap();
            let (path, query) = path.split_once('?').unwrap();
            let sent: [(&str, &[u8]); 1] = [("content-type", b"application/octet-stream")];
            let path = format!("/{path}");
            for path in [path.as_str(), path.strip_prefix(prefix).unwrap()] {
                let presented = Presented { method: "PUT", scheme, host, path, query, headers: &sent };
                assert!(tickets.check(&presented, &target, None, prefix, now).is_ok(), "{url}");
            }
            let other = Presented { method: "PUT", scheme, host: "other", path: &path, query, headers: &sent };
            assert_eq!(tickets.check(&other, &target, None, prefix, now).unwrap_err().rule, "signature");
            assert!(tickets.check(&other, &target, Some(host), prefix, now).is_ok());
        }
    }

    #[test]
    fn a_ticket_holds_for_every_spelling_of_its_host() {
        let tickets = Tickets::new(&Tickets::new_secret());
        let now = Clock::system().now();
        let target = Target { wire: "w".into(), tenant: "acme".into(), session: SessionId(ordered_uuid(now)) };
        let holds = |base: &str, scheme: &str, host: &str| {
            let url = tickets.issue(base, &target, &[], now, Duration::from_secs(60));
            let (_, rest) = url.split_once("://").unwrap();
            let (path, query) = rest[rest.find('/').unwrap()..].split_once('?').unwrap();
            let presented = Presented { method: "PUT", scheme, host, path, query, headers: &[] };
            tickets.check(&presented, &target, None, "", now).is_ok()
        };
        for base in ["http://files.example", "http://Files.Example:80", "http://FILES.example"] {
            for host in ["files.example", "files.example:80", "FILES.Example", "Files.example:80"] {
                assert!(holds(base, "http", host), "{base} {host}");
            }
            assert!(!holds(base, "http", "files.example:443"), "{base}");
            assert!(!holds(base, "http", "files.example:8080"), "{base}");
        }
        assert!(holds("https://[2001:DB8::1]:443", "https", "[2001:db8::1]"));
        assert!(holds("https://a:443", "https", "A"));
        assert!(!holds("https://a", "https", "a:80"));
        assert_eq!(plain_host("http", "a:8080"), "a:8080");
    }
}
