//! AWS Signature Version 4 for presigned URLs, both sides: what our tickets are signed with, and what a cloud that
//! speaks S3 expects; and its likeness that Google Cloud Storage has. Pure: the time comes in as an argument, nothing is read or kept.
//!
//! What is signed is the path with every byte encoded once and never normalised, the query, the method and the named
//! headers; the body is not (`UNSIGNED-PAYLOAD`). Where two spellings of a URL mean the same bytes, they verify
//! alike (`%7E` and `~`); where a reader could doubt what was meant, they do not: an encoded slash is not a slash,
//! a bare `+` in the query and a `%` that begins no escape never verify.

use std::fmt;
use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::clock::Timestamp;

mod canonical;
mod error;
mod google;

use canonical::{Part, canonical_request, collapse, encode, encode_path, join_query, recode, string_to_sign};
pub use error::{CredentialError, ExpiresError, Mismatch, SigV4Error};
pub use google::GoogleUrl;

const ALGORITHM: &str = "AWS4-HMAC-SHA256";
const SERVICE: &str = "s3";
const TERMINAL: &str = "aws4_request";
const UNSIGNED_PAYLOAD: &str = "UNSIGNED-PAYLOAD";
const CONTENT_SHA256: &str = "x-amz-content-sha256";
const SECURITY_TOKEN: &str = "x-amz-security-token";

const P_ALGORITHM: &str = "X-Amz-Algorithm";
const P_CREDENTIAL: &str = "X-Amz-Credential";
const P_DATE: &str = "X-Amz-Date";
const P_EXPIRES: &str = "X-Amz-Expires";
const P_SIGNED_HEADERS: &str = "X-Amz-SignedHeaders";
const P_SIGNATURE: &str = "X-Amz-Signature";
const P_TOKEN: &str = "X-Amz-Security-Token";
/// The parameters that every presigned URL carries.
const REQUIRED: [&str; 6] = [P_ALGORITHM, P_CREDENTIAL, P_DATE, P_EXPIRES, P_SIGNED_HEADERS, P_SIGNATURE];

/// Longest life of a presigned URL in seconds: a week, inclusive.
pub const EXPIRES_MAX_SECONDS: u32 = 604_800;

/// The secret half of a key. It can be signed with, and that is all.
#[derive(Clone)]
#[allow(missing_debug_implementations, reason = "a secret has no form that could reach a log")]
pub struct Secret(Vec<u8>);

impl Secret {
    /// Takes the secret's bytes.
    #[must_use]
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(bytes.into())
    }
}

/// A key that signs and verifies.
#[derive(Clone)]
pub struct SigningKey {
    access_key_id: String,
    secret: Secret,
    region: String,
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey")
            .field("access_key_id", &self.access_key_id)
            .field("region", &self.region)
            .finish_non_exhaustive()
    }
}

impl SigningKey {
    /// A key of one region. The id must not contain `/`, which separates the parts of a credential.
    #[must_use]
    pub fn new(access_key_id: impl Into<String>, secret: Secret, region: impl Into<String>) -> Self {
        Self { access_key_id: access_key_id.into(), secret, region: region.into() }
    }

    /// The public half.
    #[must_use]
    pub fn access_key_id(&self) -> &str {
        &self.access_key_id
    }

    /// The region that is part of every signature.
    #[must_use]
    pub fn region(&self) -> &str {
        &self.region
    }

    fn scope(&self, day: &str) -> String {
        format!("{day}/{}/{SERVICE}/{TERMINAL}", self.region)
    }

    /// The signature as 64 lower-case hex digits.
    fn sign(&self, day: &str, string_to_sign: &str) -> String {
        let mut key = Vec::with_capacity(4 + self.secret.0.len());
        key.extend_from_slice(b"AWS4");
        key.extend_from_slice(&self.secret.0);
        let key = hmac_sha256(&key, day.as_bytes());
        let key = hmac_sha256(&key, self.region.as_bytes());
        let key = hmac_sha256(&key, SERVICE.as_bytes());
        let key = hmac_sha256(&key, TERMINAL.as_bytes());
        hex::encode(hmac_sha256(&key, string_to_sign.as_bytes()))
    }
}

/// What a URL shall allow.
#[derive(Clone, Copy, Debug)]
pub struct PresignRequest<'a> {
    /// The one method, in upper case.
    pub method: &'a str,
    /// `http` or `https`.
    pub scheme: &'a str,
    /// The host as clients will send it: with the port unless it is the scheme's default.
    pub host: &'a str,
    /// The path before any encoding, its segments joined by `/`.
    pub path: &'a str,
    /// Further query parameters, before any encoding.
    pub query: &'a [(String, String)],
    /// Headers that the request must carry with exactly these values; `host` is always added.
    pub signed_headers: &'a [(&'a str, &'a str)],
    /// When it is signed; the life begins here.
    pub date: Timestamp,
    /// How long it holds, at most [`EXPIRES_MAX_SECONDS`]; more is cut to that, because no verifier accepts more.
    pub expires_seconds: u32,
}

/// Signs a URL. The answer is the whole URL, ready to be handed out.
#[must_use]
pub fn presign(key: &SigningKey, request: &PresignRequest<'_>) -> String {
    let form = Form { algorithm: ALGORITHM, prefix: "X-Amz-", signer: &key.access_key_id };
    let day = request.date.sigv4().get(..8).unwrap_or_default().to_owned();
    let unsigned = unsigned(&form, &key.scope(&day), request);
    let signature = key.sign(&day, &unsigned.to_sign);
    format!("{}&{P_SIGNATURE}={signature}", unsigned.url)
}

/// What tells one kind of signature from another.
struct Form<'a> {
    algorithm: &'static str,
    /// What the names of the parameters begin with.
    prefix: &'static str,
    /// Whose it is.
    signer: &'a str,
}

/// A URL without its signature, and what has to be signed.
struct Unsigned {
    url: String,
    to_sign: String,
}

fn unsigned(form: &Form<'_>, scope: &str, request: &PresignRequest<'_>) -> Unsigned {
    // Clients lower-case the host of a URL before they send it, so the signature has to be over that.
    let host = request.host.to_ascii_lowercase();
    let mut headers: Vec<(String, Vec<u8>)> = request
        .signed_headers
        .iter()
        .map(|(name, value)| (name.to_ascii_lowercase(), collapse(value.as_bytes())))
        .filter(|(name, _)| name != "host")
        .collect();
    headers.push((String::from("host"), host.clone().into_bytes()));
    headers.sort();
    let names = headers.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(";");

    let date = request.date.sigv4();
    let mut pairs: Vec<(String, String)> =
        request.query.iter().map(|(name, value)| (encode(name), encode(value))).collect();
    let own = |name: &str, value: &str| (encode(&format!("{}{name}", form.prefix)), encode(value));
    pairs.extend([
        own("Algorithm", form.algorithm),
        own("Credential", &format!("{}/{scope}", form.signer)),
        own("Date", &date),
        own("Expires", &request.expires_seconds.min(EXPIRES_MAX_SECONDS).to_string()),
        own("SignedHeaders", &names),
    ]);
    let path = encode_path(request.path);
    let query = join_query(pairs);
    let canonical = canonical_request(request.method, &path, &query, &headers, &names);
    Unsigned {
        url: format!("{}://{host}{path}?{query}", request.scheme),
        to_sign: string_to_sign(form.algorithm, &date, scope, &canonical),
    }
}

/// A request with a presigned URL, as it came. Its `Debug` leaves out the query and the headers, which hold the
/// signature and perhaps other credentials.
#[derive(Clone, Copy)]
pub struct Incoming<'a> {
    /// The method.
    pub method: &'a str,
    /// The `Host` header, or HTTP/2's `:authority`.
    pub host: &'a str,
    /// The path as on the wire, before any routing took a prefix away.
    pub path: &'a str,
    /// The query as on the wire, without its `?`.
    pub query: &'a str,
    /// All headers. A `host` among them is ignored in favour of the field.
    pub headers: &'a [(&'a str, &'a [u8])],
}

impl fmt::Debug for Incoming<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Incoming")
            .field("method", &self.method)
            .field("host", &self.host)
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

/// What a URL that holds says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Verified {
    /// Whose signature it is.
    pub access_key_id: String,
    /// The host it was signed for: the request's own or one of the accepted others.
    pub host: String,
    /// When it was signed.
    pub date: Timestamp,
    /// Its last instant.
    pub expires_at: Timestamp,
    /// The names of the signed headers, in lower case.
    pub signed_headers: Vec<String>,
    /// The query's other parameters, decoded, in the order of the wire.
    pub parameters: Vec<(String, String)>,
    /// Every `x-amz-*` header in force: those of the request, and those that a signer moved into the query where the
    /// request has none of that name. `x-amz-content-sha256` is the next field; a session token is not told on.
    pub amz_headers: Vec<(String, String)>,
    /// The SHA-256 that the client states for the body. The signature doesn't cover the body: the caller compares.
    pub content_sha256: Option<[u8; 32]>,
}

/// Does this request come with a signature of one of the keys, at a time when it holds?
///
/// `skew` is how far ahead of ours the signer's clock may be; expiry has no tolerance. `other_hosts` are hosts
/// besides the request's own that the URL may have been signed for, for a proxy that rewrites `Host`.
///
/// # Errors
/// The first rule that is broken, in the order of [`SigV4Error`]'s variants.
pub fn verify(
    keys: &[SigningKey],
    incoming: &Incoming<'_>,
    now: Timestamp,
    skew: Duration,
    other_hosts: &[&str],
) -> Result<Verified, SigV4Error> {
    let pairs: Vec<Pair> =
        if incoming.query.is_empty() { Vec::new() } else { incoming.query.split('&').map(Pair::parse).collect() };
    let parameters = Parameters::find(&pairs)?;
    if parameters.algorithm != ALGORITHM {
        return Err(SigV4Error::Algorithm { received: parameters.algorithm.to_owned() });
    }
    let (credential, date) = Credential::check(&parameters, keys)?;
    let expires_seconds = expires(parameters.expires)?;
    if date > now.plus(skew) {
        return Err(SigV4Error::NotYetValid { date, now, skew });
    }
    let expires_at = date.plus(Duration::from_secs(u64::from(expires_seconds)));
    if now > expires_at {
        return Err(SigV4Error::Expired { date, expires_seconds, expires_at, now });
    }
    let Some(key) = keys.iter().find(|key| key.access_key_id == credential.access_key_id) else {
        return Err(SigV4Error::UnknownKey { access_key_id: credential.access_key_id.to_owned() });
    };
    // Who wrote the list is not known yet: a long one, or one that names a header many times, must cost nothing.
    let signed: Vec<&str> = parameters.signed_headers.split(';').take(SIGNED_HEADERS_MAX + 1).collect();
    if signed.len() > SIGNED_HEADERS_MAX || !signed.is_sorted_by(|a, b| a < b) {
        return Err(SigV4Error::HeadersNotSigned { names: vec![String::from("(more, unsorted or repeated names)")] });
    }
    let content_sha256 = unsigned_headers(incoming, &signed, &pairs)?;
    let host = check_signature(key, &credential, &parameters, incoming, &pairs, &signed, other_hosts)?;

    let own = |pair: &&Pair| !REQUIRED.contains(&pair.name.as_str()) && pair.name != P_TOKEN;
    Ok(Verified {
        access_key_id: key.access_key_id.clone(),
        host,
        date,
        expires_at,
        signed_headers: signed.iter().map(|name| (*name).to_owned()).collect(),
        parameters: pairs.iter().filter(own).map(|pair| (pair.name.clone(), pair.value.clone())).collect(),
        amz_headers: amz_headers(incoming, pairs.iter().filter(own)),
        content_sha256,
    })
}

/// Names of headers that a signature may cover.
const SIGNED_HEADERS_MAX: usize = 32;

/// One query parameter: decoded for reading, and in the form that is signed.
struct Pair {
    name: String,
    value: String,
    canonical: (String, String),
}

impl Pair {
    fn parse(raw: &str) -> Self {
        let (name, value) = raw.split_once('=').unwrap_or((raw, ""));
        let decode = |part: &str| percent_encoding::percent_decode_str(part).decode_utf8_lossy().into_owned();
        Self {
            name: decode(name),
            value: decode(value),
            canonical: (recode(name, Part::Query), recode(value, Part::Query)),
        }
    }
}

/// The signature's own parameters.
struct Parameters<'a> {
    algorithm: &'a str,
    credential: &'a str,
    date: &'a str,
    expires: &'a str,
    signed_headers: &'a str,
    signature: &'a str,
}

impl<'a> Parameters<'a> {
    fn find(pairs: &'a [Pair]) -> Result<Self, SigV4Error> {
        let get = |name: &str| pairs.iter().find(|pair| pair.name == name).map(|pair| pair.value.as_str());
        let (Some(algorithm), Some(credential), Some(date), Some(expires), Some(signed_headers), Some(signature)) =
            (get(P_ALGORITHM), get(P_CREDENTIAL), get(P_DATE), get(P_EXPIRES), get(P_SIGNED_HEADERS), get(P_SIGNATURE))
        else {
            let names = REQUIRED.into_iter().filter(|name| get(name).is_none()).collect();
            return Err(SigV4Error::ParameterMissing { names });
        };
        for name in REQUIRED.into_iter().chain([P_TOKEN]) {
            if pairs.iter().filter(|pair| pair.name.eq_ignore_ascii_case(name)).count() > 1 {
                return Err(SigV4Error::ParameterRepeated { name });
            }
        }
        Ok(Self { algorithm, credential, date, expires, signed_headers, signature })
    }
}

struct Credential<'a> {
    access_key_id: &'a str,
    day: &'a str,
}

impl<'a> Credential<'a> {
    fn check(parameters: &Parameters<'a>, keys: &[SigningKey]) -> Result<(Self, Timestamp), CredentialError> {
        let received = parameters.credential;
        let malformed = || CredentialError::Malformed { received: received.to_owned() };
        let parts: Vec<&str> = received.split('/').collect();
        let [access_key_id, day, region, service, terminal] = parts[..] else { return Err(malformed()) };
        if access_key_id.is_empty() || day.len() != 8 || !day.bytes().all(|b| b.is_ascii_digit()) {
            return Err(malformed());
        }
        if service != SERVICE {
            return Err(CredentialError::Service { received: service.to_owned() });
        }
        if terminal != TERMINAL {
            return Err(CredentialError::Terminal { received: terminal.to_owned() });
        }
        // An unknown key is a later rule; until then it may be of any region that we know.
        let of_key = keys.iter().find(|key| key.access_key_id == access_key_id);
        let in_region = |key: &SigningKey| key.region == region;
        if !of_key.map_or_else(|| keys.iter().any(in_region), in_region) && !keys.is_empty() {
            let expected = of_key.or(keys.first()).map(|key| key.region.clone()).unwrap_or_default();
            return Err(CredentialError::Region { received: region.to_owned(), expected });
        }
        let Some(date) = parse_date(parameters.date) else {
            return Err(CredentialError::Date { received: parameters.date.to_owned() });
        };
        if !parameters.date.starts_with(day) {
            return Err(CredentialError::DateMismatch { credential: day.to_owned(), date: parameters.date.to_owned() });
        }
        Ok((Self { access_key_id, day }, date))
    }
}

fn parse_date(text: &str) -> Option<Timestamp> {
    let shape = text.len() == 16
        && text.bytes().enumerate().all(|(at, b)| match at {
            8 => b == b'T',
            15 => b == b'Z',
            _ => b.is_ascii_digit(),
        });
    if !shape {
        return None;
    }
    let civil = jiff::civil::DateTime::strptime("%Y%m%dT%H%M%SZ", text).ok()?;
    let instant = jiff::tz::Offset::UTC.to_timestamp(civil).ok()?;
    Some(Timestamp(instant.as_millisecond()))
}

fn expires(text: &str) -> Result<u32, ExpiresError> {
    let received = || text.to_owned();
    let digits = text.strip_prefix('-').unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(ExpiresError::NotANumber { received: received() });
    }
    if digits.len() != text.len() {
        return Err(ExpiresError::Negative { received: received() });
    }
    match digits.parse::<u32>() {
        Ok(seconds) if seconds <= EXPIRES_MAX_SECONDS => Ok(seconds),
        _ => Err(ExpiresError::TooLong { received: received() }),
    }
}

/// Refuses headers that would change the request's meaning without being signed. What is left unsigned is the hash
/// of the body, which can only make a request fail; it is returned for the caller to compare.
fn unsigned_headers(incoming: &Incoming<'_>, signed: &[&str], pairs: &[Pair]) -> Result<Option<[u8; 32]>, SigV4Error> {
    let mut names = std::collections::BTreeSet::new();
    if !signed.contains(&"host") {
        names.insert(String::from("host"));
    }
    for (name, _) in incoming.headers {
        let name = name.to_ascii_lowercase();
        if name.starts_with("x-amz-") && name != CONTENT_SHA256 && !signed.contains(&name.as_str()) {
            names.insert(name);
        }
    }
    let from_query =
        pairs.iter().find(|pair| pair.name.eq_ignore_ascii_case(CONTENT_SHA256)).and_then(|pair| sha256(&pair.value));
    let mut content_sha256 = from_query;
    for value in values(incoming, CONTENT_SHA256) {
        let text = String::from_utf8_lossy(value);
        let text = text.trim();
        match sha256(text) {
            // Where the signer stated a hash, another one in a header that nobody signed must not replace it.
            Some(hash) if content_sha256.is_none_or(|stated| stated == hash) => content_sha256 = Some(hash),
            None if text == UNSIGNED_PAYLOAD => {}
            _ if signed.contains(&CONTENT_SHA256) => {}
            _ => {
                names.insert(String::from(CONTENT_SHA256));
            }
        }
    }
    if names.is_empty() {
        Ok(content_sha256)
    } else {
        Err(SigV4Error::HeadersNotSigned { names: names.into_iter().collect() })
    }
}

fn sha256(text: &str) -> Option<[u8; 32]> {
    let mut hash = [0; 32];
    hex::decode_to_slice(text, &mut hash).ok()?;
    Some(hash)
}

/// Compares the signature, for the request's own host and then for the others. Answers the host that matched.
fn check_signature(
    key: &SigningKey,
    credential: &Credential<'_>,
    parameters: &Parameters<'_>,
    incoming: &Incoming<'_>,
    pairs: &[Pair],
    signed: &[&str],
    other_hosts: &[&str],
) -> Result<String, SigV4Error> {
    let mut missing_headers = Vec::new();
    let mut repeated_headers = Vec::new();
    let mut headers: Vec<(String, Vec<u8>)> = Vec::with_capacity(signed.len());
    for name in signed {
        let value = if *name == "host" {
            incoming.host.as_bytes().to_vec()
        } else {
            let mut found = values(incoming, name);
            let first = found.next();
            if first.is_none() {
                missing_headers.push((*name).to_owned());
            } else if found.next().is_some() {
                repeated_headers.push((*name).to_owned());
            }
            collapse(first.unwrap_or_default())
        };
        headers.push(((*name).to_owned(), value));
    }
    let path = recode(if incoming.path.is_empty() { "/" } else { incoming.path }, Part::Path);
    let query =
        join_query(pairs.iter().filter(|pair| pair.name != P_SIGNATURE).map(|pair| pair.canonical.clone()).collect());
    let scope = key.scope(credential.day);
    let to_sign = |headers: &[(String, Vec<u8>)]| {
        let canonical = canonical_request(incoming.method, &path, &query, headers, parameters.signed_headers);
        string_to_sign(ALGORITHM, parameters.date, &scope, &canonical)
    };

    // A header signed as empty and a header that isn't there would sign alike, hence the lists.
    if missing_headers.is_empty() && repeated_headers.is_empty() {
        for host in std::iter::once(incoming.host).chain(other_hosts.iter().copied()) {
            for (name, value) in &mut headers {
                if name == "host" {
                    *value = host.as_bytes().to_vec();
                }
            }
            let expected = key.sign(credential.day, &to_sign(&headers));
            if bool::from(expected.as_bytes().ct_eq(parameters.signature.as_bytes())) {
                return Ok(host.to_owned());
            }
        }
    }

    for (name, value) in &mut headers {
        if name == "host" {
            *value = incoming.host.as_bytes().to_vec();
        }
    }
    let string_to_sign = to_sign(&headers);
    for (name, value) in &mut headers {
        if is_credential(name) {
            *value = b"(not shown)".to_vec();
        }
    }
    let hidden_query: Vec<(String, String)> = pairs
        .iter()
        .filter(|pair| pair.name != P_SIGNATURE)
        .map(|pair| {
            let (name, value) = pair.canonical.clone();
            if is_credential(&pair.name) { (name, String::from("(not shown)")) } else { (name, value) }
        })
        .collect();
    let canonical =
        canonical_request(incoming.method, &path, &join_query(hidden_query), &headers, parameters.signed_headers);
    Err(SigV4Error::SignatureMismatch(Box::new(Mismatch {
        access_key_id: key.access_key_id.clone(),
        signature_prefix: parameters.signature.chars().take(8).collect(),
        received_headers: headers
            .iter()
            .filter(|(name, _)| !missing_headers.contains(name) && !repeated_headers.contains(name))
            .map(|(name, value)| (name.clone(), String::from_utf8_lossy(value).into_owned()))
            .collect(),
        missing_headers,
        repeated_headers,
        string_to_sign,
        canonical_request: String::from_utf8_lossy(&canonical).into_owned(),
    })))
}

/// A client can name any header as signed, also one that carries a credential of another kind.
fn is_credential(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    name == SECURITY_TOKEN || ["authorization", "cookie", "api-key"].iter().any(|part| name.ends_with(part))
}

/// The `x-amz-*` headers in force, see [`Verified::amz_headers`].
fn amz_headers<'a>(incoming: &Incoming<'_>, pairs: impl Iterator<Item = &'a Pair>) -> Vec<(String, String)> {
    let mut headers: Vec<(String, String)> = incoming
        .headers
        .iter()
        .map(|(name, value)| (name.to_ascii_lowercase(), collapse(value)))
        .filter(|(name, _)| is_effective(name))
        .map(|(name, value)| (name, String::from_utf8_lossy(&value).into_owned()))
        .collect();
    for pair in pairs {
        let name = pair.name.to_ascii_lowercase();
        if is_effective(&name) && !headers.iter().any(|(present, _)| *present == name) {
            headers.push((name, pair.value.clone()));
        }
    }
    headers
}

fn is_effective(name: &str) -> bool {
    name.starts_with("x-amz-") && name != CONTENT_SHA256 && name != SECURITY_TOKEN
}

fn values<'a>(incoming: &Incoming<'a>, name: &str) -> impl Iterator<Item = &'a [u8]> {
    incoming.headers.iter().filter(move |(candidate, _)| candidate.eq_ignore_ascii_case(name)).map(|(_, value)| *value)
}

fn hmac_sha256(key: &[u8], data: &[u8]) -> [u8; 32] {
    // The constructor for a key of any length can fail by its type; this one can't. A key longer than the block is
    // hashed first, as HMAC defines.
    let mut block = [0u8; 64];
    if key.len() > block.len() {
        block[..32].copy_from_slice(&Sha256::digest(key));
    } else {
        block[..key.len()].copy_from_slice(key);
    }
    let mut mac = Hmac::<Sha256>::new(&block.into());
    mac.update(data);
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests;
