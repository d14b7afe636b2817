//! Google Cloud Storage's way of speaking, in front of what `bucket.rs` keeps: tokens and V4 signatures, generations, hashes,
//! preconditions, and resumable sessions.
//!
//! From where it is known: signatures, which headers they have to cover, parts, lists and headers from the pages of the XML API
//! (`docs.cloud.google.com/storage/docs/xml-api/…`, `…/authentication/canonical-requests`, `…/reference-headers`); sessions
//! from `…/performing-resumable-uploads` and Google's own test bench (`googleapis/storage-testbench`, `rest_server.py`); that
//! a chunk behind a gap is 503, a finished session goes on answering 200, and one that was sent again is told the same range,
//! from somebody's comparison of 44 requests with the real service (`floci-io/floci-gcp`, pull request 132); 499 for what was
//! cancelled and 404 or 410 for what is over from `googleapis/gcs-resumable-upload`, pull request 16, and
//! `getsentry/objectstore`, pull request 609. An expired URL is 400 `ExpiredToken`, a signed header that does not come 400
//! `MalformedSecurityHeader`, any other difference 403 `SignatureDoesNotMatch`.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::SystemTime;

use aws_lc_rs::rsa::KeyPair;
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response, Uri};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject;
use s3s::Body;
use s3s::service::S3ServiceBuilder;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::super::harm::{self, Any, in_xml};
use super::{BUCKET, Backend, Blob, Object, Shared, encoded, lock};

pub const FIRST_GENERATION: u64 = 1_700_000_000_000_000;
/// The service account, and its key, which is for tests alone.
const ACCOUNT: &str = "bytes@tests.iam.gserviceaccount.com";
const PEM: &str = include_str!("../../src/blob/s3/google/test_key.pem");
/// Chunks are multiples of so many bytes, but for the last.
const GRANULE: u64 = 256 * 1024;

static PUBLIC: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let der = PrivatePkcs8KeyDer::from_pem_slice(PEM.as_bytes()).unwrap();
    KeyPair::from_pkcs8(der.secret_pkcs8_der()).unwrap().public_key().as_ref().to_vec()
});

fn is_signed(message: &[u8], signature: &[u8]) -> bool {
    UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, PUBLIC.as_slice()).verify(message, signature).is_ok()
}

/// The file of the service account whose tokens are got at this store.
pub fn key_file(address: SocketAddr) -> String {
    let token_uri = format!("http://{address}/token");
    json!({ "type": "service_account", "client_email": ACCOUNT, "private_key": PEM, "token_uri": token_uri })
        .to_string()
}

pub struct Front {
    /// For whom tokens are issued; for nobody any more.
    issues: Mutex<Option<String>>,
    sessions: Mutex<BTreeMap<String, Arc<tokio::sync::Mutex<Session>>>>,
}

impl Default for Front {
    fn default() -> Self {
        Self { issues: Mutex::new(Some(super::ACCESS_KEY.into())), sessions: Mutex::default() }
    }
}

/// A resumable session.
struct Session {
    key: String,
    total: Option<u64>,
    path: std::path::PathBuf,
    received: u64,
    ended: Ended,
    /// For whose pages it was begun.
    origin: Option<HeaderValue>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Ended {
    Not,
    /// With this generation.
    Done(u64),
    Cancelled,
    /// Every request is answered with this status.
    Over(u16),
}

impl Front {
    pub fn issue(&self, whom: Option<&str>) {
        *lock(&self.issues) = whom.map(str::to_owned);
    }
}

impl super::Store {
    /// Keys of sessions that may still be sent to, and how far they have come.
    pub fn sessions(&self) -> Vec<(String, u64)> {
        let sessions = lock(&self.shared.google.as_ref().unwrap().sessions);
        let open = sessions.values().filter_map(|session| {
            let session = session.try_lock().ok()?;
            (session.ended == Ended::Not).then(|| (session.key.clone(), session.received))
        });
        open.collect()
    }

    /// Every session that is open is over, and says so with this status.
    pub fn end_sessions(&self, status: u16) {
        for session in lock(&self.shared.google.as_ref().unwrap().sessions).values() {
            let mut session = session.try_lock().expect("nobody sends");
            if session.ended == Ended::Not {
                session.ended = Ended::Over(status);
            }
        }
    }

    /// What is complete is known by its object alone.
    pub fn forget_sessions(&self) {
        lock(&self.shared.google.as_ref().unwrap().sessions).clear();
    }

    /// Is this the location of a session?
    pub fn is_session(&self, url: &str) -> bool {
        url.starts_with(&format!("http://{}/upload/storage/v1/b/{BUCKET}/o?uploadType=resumable", self.address))
    }
}

/// What a URL's query says, decoded.
fn parameters(uri: &Uri) -> BTreeMap<String, String> {
    form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()).into_owned().collect()
}

fn what(request: &Request<Incoming>) -> &'static str {
    let path = request.uri().path();
    let asks = text(request.headers(), "content-range").is_some_and(|range| range.starts_with("bytes */"));
    match (request.method(), parameters(request.uri()).contains_key("upload_id")) {
        _ if path == "/token" => "Token",
        (&Method::PUT | &Method::POST, true) if asks => "AskSession",
        (&Method::PUT | &Method::POST, true) => "SendToSession",
        (&Method::DELETE, true) => "EndSession",
        (&Method::POST, false) if path.starts_with("/upload/") => "BeginSession",
        _ => super::what(request),
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

pub async fn answer(shared: Arc<Shared>, request: Request<Incoming>) -> Result<Response<Any>, std::io::Error> {
    let what = what(&request);
    let harm = shared.harms.came(what, &request);
    let request = harm::taken(harm, request).await?;
    harm::harmed(harm, in_xml, || async move {
        Ok::<_, std::io::Error>(match what {
            "Token" => token(&shared, request).await,
            "AskSession" | "SendToSession" | "EndSession" => session(&shared, request).await,
            _ => match refused(&shared, &request) {
                Some(refused) => refused,
                None if what == "BeginSession" => begin(&shared, &request),
                None => object(&shared, what, request).await?,
            },
        })
    })
    .await
}

/// A token for an assertion that the account signed.
async fn token(shared: &Shared, request: Request<Any>) -> Response<Any> {
    let host = text(request.headers(), "host").unwrap_or_default().to_owned();
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let form: BTreeMap<String, String> = form_urlencoded::parse(&body).into_owned().collect();
    let wrong =
        |why: &str| Response::builder().status(400).body(harm::text(json!({ "error": why }).to_string())).unwrap();
    if form.get("grant_type").is_none_or(|kind| kind != "urn:ietf:params:oauth:grant-type:jwt-bearer") {
        return wrong("unsupported_grant_type");
    }
    let assertion = form.get("assertion").cloned().unwrap_or_default();
    let Some((said, signature)) = assertion.rsplit_once('.') else { return wrong("invalid_request") };
    let decoded = |part: &str| URL_SAFE_NO_PAD.decode(part).unwrap_or_default();
    let claims: Value =
        serde_json::from_slice(&decoded(said.split('.').nth(1).unwrap_or_default())).unwrap_or_default();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let holds = is_signed(said.as_bytes(), &decoded(signature))
        && claims["iss"] == ACCOUNT
        && claims["aud"] == format!("http://{host}/token")
        && claims["scope"]
            .as_str()
            .is_some_and(|scope| scope.starts_with("https://www.googleapis.com/auth/devstorage."))
        && claims["iat"].as_u64().is_some_and(|iat| iat <= now + 5)
        && claims["exp"].as_u64().is_some_and(|exp| exp > now && exp <= now + 3700);
    let issues = lock(&shared.google.as_ref().unwrap().issues).clone();
    match issues.filter(|_| holds) {
        Some(whom) => {
            let told = json!({ "access_token": format!("token-{whom}"), "expires_in": 3599, "token_type": "Bearer" });
            Response::new(harm::text(told.to_string()))
        }
        None => wrong("invalid_grant"),
    }
}

/// Who asks, and may he?
fn refused(shared: &Shared, request: &Request<Any>) -> Option<Response<Any>> {
    let authorization = text(request.headers(), "authorization");
    let signed = request.uri().query().is_some_and(|query| query.contains("X-Goog-Signature="));
    match (authorization, signed) {
        (Some(_), true) => Some(in_xml(400, "InvalidArgument")),
        (Some(token), false) => {
            let good = format!("Bearer token-{}", lock(&shared.keys).0);
            (token != good).then(|| in_xml(401, "AuthenticationRequired"))
        }
        (None, true) => signature(request).err().map(|(status, code)| in_xml(status, code)),
        (None, false) => Some(in_xml(401, "AuthenticationRequired")),
    }
}

/// Checks a V4 signature by its own reading of the rules.
fn signature(request: &Request<Any>) -> Result<(), (u16, &'static str)> {
    let malformed = (400, "MalformedSecurityHeader");
    let asked = parameters(request.uri());
    let get = |name: &str| asked.get(name).map(String::as_str).ok_or((400, "InvalidQueryParameter"));
    let (date, credential) = (get("X-Goog-Date")?, get("X-Goog-Credential")?);
    let day = date.get(..8).unwrap_or_default();
    if get("X-Goog-Algorithm")? != "GOOG4-RSA-SHA256"
        || credential != format!("{ACCOUNT}/{day}/auto/storage/goog4_request")
    {
        return Err((403, "AccessDenied"));
    }
    let age = seconds_since(date).ok_or(malformed)?;
    let life: i64 = get("X-Goog-Expires")?.parse().map_err(|_| malformed)?;
    if !(1..=604_800).contains(&life) {
        return Err((400, "InvalidQueryParameter"));
    }
    if age > life {
        return Err((400, "ExpiredToken"));
    }
    let names: Vec<&str> = get("X-Goog-SignedHeaders")?.split(';').collect();
    let own = |name: &&str| name.starts_with("x-goog-") || name.starts_with("x-amz-");
    let unsigned =
        request.headers().keys().map(http::HeaderName::as_str).filter(own).any(|name| !names.contains(&name));
    if unsigned || !names.contains(&"host") {
        return Err(malformed);
    }
    let mut headers = String::new();
    for name in &names {
        let value = text(request.headers(), name).ok_or(malformed)?;
        headers.push_str(&format!("{name}:{}\n", value.trim()));
    }
    let mut query: Vec<&str> = request.uri().query().unwrap_or_default().split('&').collect();
    query.retain(|pair| !pair.starts_with("X-Goog-Signature="));
    query.sort_unstable();
    let canonical = format!(
        "{}\n{}\n{}\n{headers}\n{}\nUNSIGNED-PAYLOAD",
        request.method(),
        request.uri().path(),
        query.join("&"),
        names.join(";")
    );
    let to_sign = format!(
        "GOOG4-RSA-SHA256\n{date}\n{day}/auto/storage/goog4_request\n{}",
        hex::encode(Sha256::digest(canonical))
    );
    let told = hex::decode(get("X-Goog-Signature")?).map_err(|_| malformed)?;
    if is_signed(to_sign.as_bytes(), &told) { Ok(()) } else { Err((403, "SignatureDoesNotMatch")) }
}

fn seconds_since(date: &str) -> Option<i64> {
    let signed = jiff::civil::DateTime::strptime("%Y%m%dT%H%M%SZ", date).ok()?;
    let signed = signed.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp();
    Some(jiff::Timestamp::now().as_second() - signed.as_second())
}

/// A call about an object, a bucket or an upload in parts: translated, answered, translated back.
async fn object(
    shared: &Arc<Shared>,
    what: &'static str,
    request: Request<Any>,
) -> Result<Response<Any>, std::io::Error> {
    let (mut head, body) = request.into_parts();
    let asked = parameters(&head.uri);
    let key = percent_encoding::percent_decode_str(head.uri.path()).decode_utf8_lossy().into_owned();
    let key = key.trim_start_matches('/').strip_prefix(BUCKET).unwrap_or_default().trim_start_matches('/').to_owned();
    let generation = asked.get("generation").cloned();
    let lengths = text(&head.headers, "x-goog-content-length-range").and_then(|told| told.split_once(','));
    if let Some((least, most)) = lengths {
        let (least, most) = (least.parse::<u64>().unwrap(), most.parse::<u64>().unwrap());
        match harm_length(&head.headers).unwrap_or(0) {
            _ if head.headers.contains_key("transfer-encoding") => return Ok(in_xml(411, "MissingContentLength")),
            length if length > most => return Ok(in_xml(400, "EntityTooLarge")),
            length if length < least => return Ok(in_xml(400, "EntityTooSmall")),
            _ => {}
        }
    }
    if let Some(condition) = text(&head.headers, "x-goog-if-generation-match").map(str::to_owned) {
        let current = lock(&shared.kept).objects.get(&key).and_then(|object| object.version.clone());
        match what {
            "PutObject" if condition == "0" => {
                head.headers.insert("if-none-match", HeaderValue::from_static("*"));
            }
            "CreateMultipartUpload" | "UploadPart" | "CompleteMultipartUpload" => {
                return Ok(in_xml(400, "InvalidArgument"));
            }
            _ if current.unwrap_or_else(|| "0".into()) != condition => return Ok(in_xml(412, "PreconditionFailed")),
            _ => {}
        }
    }
    let hashes: Vec<String> = hashes(&head.headers);
    for hash in hashes {
        let (name, value) = hash.split_once('=').unwrap_or_default();
        let name = if name == "md5" { "content-md5" } else { "x-amz-checksum-crc32c" };
        head.headers.insert(name, HeaderValue::try_from(value).unwrap());
    }
    let names: Vec<_> = head.headers.keys().filter(|name| name.as_str().starts_with("x-goog-")).cloned().collect();
    for name in names {
        head.headers.remove(name);
    }
    head.headers.remove("authorization");
    let pairs = head.uri.query().unwrap_or_default().split('&').filter(|pair| !pair.starts_with("X-Goog-"));
    let pairs: Vec<String> = pairs.map(|pair| pair.replace("generation=", "versionId=")).collect();
    let target = format!("{}?{}", head.uri.path(), pairs.join("&"));
    head.uri = target.parse().unwrap();
    // Nobody signs: who may was decided here.
    let service = S3ServiceBuilder::new(Backend(Arc::clone(shared))).build();
    let answer = service.call(Request::from_parts(head, Body::http_body_unsync(body))).await;
    let (mut head, body) = answer.map_err(|_| std::io::Error::other("the store failed"))?.into_parts();
    if let Some(version) = head.headers.remove("x-amz-version-id") {
        head.headers.insert("x-goog-generation", version);
    }
    let told = |what: &str| matches!(what, "GetObject" | "HeadObject" | "PutObject") && head.status.is_success();
    if told(what)
        && let Ok(found) = lock(&shared.kept).find(&key, generation.as_deref())
    {
        head.headers.insert("x-goog-stored-content-length", found.size().into());
        for (name, value) in [("crc32c", &found.crc32c), ("md5", &found.md5)] {
            if let Some(value) = value {
                head.headers.append("x-goog-hash", HeaderValue::try_from(format!("{name}={value}")).unwrap());
            }
        }
    }
    let names: Vec<_> = head.headers.keys().filter(|name| name.as_str().starts_with("x-amz-")).cloned().collect();
    for name in names {
        head.headers.remove(name);
    }
    if what != "ListObjectsV2" || !head.status.is_success() {
        return Ok(Response::from_parts(head, harm::any(body)));
    }
    let xml = body.collect().await.map_err(|_| std::io::Error::other("no list"))?.to_bytes();
    let xml = numbered(shared, std::str::from_utf8(&xml).unwrap());
    head.headers.remove("content-length");
    Ok(Response::from_parts(head, harm::text(xml)))
}

fn hashes(headers: &HeaderMap) -> Vec<String> {
    let values = headers.get_all("x-goog-hash").iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(|hash| hash.trim().to_owned()).collect()
}

/// A list that tells each object's generation.
fn numbered(shared: &Shared, xml: &str) -> String {
    let kept = lock(&shared.kept);
    let mut out = String::new();
    for (index, part) in xml.split("<Key>").enumerate() {
        if index == 0 {
            out.push_str(part);
            continue;
        }
        let (key, rest) = part.split_once("</Key>").unwrap();
        let name = percent_encoding::percent_decode_str(key).decode_utf8_lossy().into_owned();
        let generation = kept.objects.get(&name).and_then(|object| object.version.clone()).unwrap_or_default();
        out.push_str(&format!("<Key>{key}</Key><Generation>{generation}</Generation>{rest}"));
    }
    out
}

fn said(status: u16, message: &str) -> Response<Any> {
    let body = json!({ "error": { "code": status, "message": message } }).to_string();
    Response::builder().status(status).header("content-type", "application/json").body(harm::text(body)).unwrap()
}

fn begin(shared: &Shared, request: &Request<Any>) -> Response<Any> {
    let asked = parameters(request.uri());
    if request.uri().path() != format!("/upload/storage/v1/b/{BUCKET}/o")
        || asked.get("uploadType").is_none_or(|kind| kind != "resumable")
    {
        return said(400, "no such upload");
    }
    let Some(key) = asked.get("name").cloned() else { return said(400, "Required parameter: name") };
    let exists = lock(&shared.kept).objects.contains_key(&key);
    if exists && asked.get("ifGenerationMatch").is_some_and(|wanted| wanted == "0") {
        return said(412, "conditionNotMet");
    }
    let id = format!("AB{:06}-{}", shared.name(), hex::encode(Sha256::digest(key.as_bytes())));
    let path = shared.directory.join(format!("session-{id}"));
    std::fs::File::create(&path).unwrap();
    let total = text(request.headers(), "x-upload-content-length").and_then(|total| total.parse().ok());
    let origin = request.headers().get("origin").cloned();
    let session = Session { key, total, path, received: 0, ended: Ended::Not, origin };
    let front = shared.google.as_ref().unwrap();
    lock(&front.sessions).insert(id.clone(), Arc::new(tokio::sync::Mutex::new(session)));
    let host = text(request.headers(), "host").unwrap_or_default();
    let location = format!("http://{host}/upload/storage/v1/b/{BUCKET}/o?uploadType=resumable&upload_id={id}");
    Response::builder().header("location", location).body(harm::text("")).unwrap()
}

/// What a request that sends something says of itself.
struct Range {
    first: u64,
    last: Option<u64>,
    total: Option<u64>,
}

/// `None` asks for what is there.
fn range(headers: &HeaderMap) -> Result<Option<Range>, &'static str> {
    let Some(told) = text(headers, "content-range") else {
        return Ok(Some(Range { first: 0, last: None, total: None }));
    };
    let wrong = || "Failed to parse Content-Range header.";
    let (range, total) = told.strip_prefix("bytes ").and_then(|told| told.split_once('/')).ok_or_else(wrong)?;
    let number = |text: &str| if text == "*" { Ok(None) } else { text.parse::<u64>().map(Some).map_err(|_| wrong()) };
    let total = number(total)?;
    if range == "*" {
        return Ok(None);
    }
    let (first, last) = range.split_once('-').ok_or_else(wrong)?;
    let (Some(first), last) = (number(first)?, number(last)?) else { return Err(wrong()) };
    Ok(Some(Range { first, last, total }))
}

async fn session(shared: &Arc<Shared>, request: Request<Any>) -> Response<Any> {
    let (head, mut body) = request.into_parts();
    let mut answer = call(shared, &head, &mut body).await;
    // Not every client hears an answer before it has said everything.
    while let Some(Ok(_)) = body.frame().await {}
    let id = parameters(&head.uri).remove("upload_id").unwrap_or_default();
    let found = lock(&shared.google.as_ref().unwrap().sessions).get(&id).cloned();
    // Whoever asks, it is the origin that the session was begun for.
    if let Some(found) = found
        && let Some(origin) = found.lock().await.origin.clone()
    {
        answer.headers_mut().insert("access-control-allow-origin", origin);
    }
    answer
}

async fn call(shared: &Arc<Shared>, head: &Parts, body: &mut Any) -> Response<Any> {
    let id = parameters(&head.uri).remove("upload_id").unwrap_or_default();
    let found = lock(&shared.google.as_ref().unwrap().sessions).get(&id).cloned();
    let Some(found) = found else { return said(404, "Not Found") };
    // One writer after the other.
    let mut session = found.lock().await;
    let cancels = head.method == Method::DELETE;
    match session.ended {
        Ended::Over(status) => return said(status, "Upload session is over"),
        Ended::Cancelled => return Response::builder().status(499).body(harm::text("")).unwrap(),
        Ended::Done(_) if cancels => return said(400, "Upload is complete"),
        Ended::Done(generation) => return resource(shared, &session.key, generation),
        Ended::Not => {}
    }
    if cancels {
        session.ended = Ended::Cancelled;
        return Response::builder().status(499).body(harm::text("")).unwrap();
    }
    let known = session.total;
    let told = match range(&head.headers) {
        Ok(told) => told,
        Err(why) => return said(400, why),
    };
    let total_told = match &told {
        Some(range) => range.total,
        None => text(&head.headers, "content-range").and_then(|t| t.rsplit_once('/')?.1.parse().ok()),
    };
    if total_told.is_some() && known.is_some() && total_told != known {
        return said(400, "Invalid request. The total differs from what was told before.");
    }
    let total = known.or(total_told);
    let Some(range) = told else {
        session.total = total;
        return if total == Some(session.received) {
            finish(shared, &mut session, &head.headers)
        } else {
            more(&session)
        };
    };
    let length = harm_length(&head.headers);
    let whole = range.last.is_none() && range.total.is_none();
    let end = match (range.last, length) {
        (Some(last), Some(length)) if last + 1 != range.first + length => {
            return said(400, "Content-Length does not match Content-Range.");
        }
        (Some(last), _) => Some(last + 1),
        (None, Some(length)) => Some(range.first + length),
        (None, None) => None,
    };
    let total = total.or(end.filter(|_| whole));
    let last = end.is_some() && end == total;
    if whole && end.is_some() && total != end || end.zip(total).is_some_and(|(end, total)| end > total) {
        return said(400, "The body does not have the bytes that were told.");
    }
    if !last && !whole && length.is_none_or(|length| length % GRANULE != 0) {
        return said(
            400,
            "Invalid request. The number of bytes uploaded is required to be equal or greater than 262144, except for the final request",
        );
    }
    if range.first > session.received {
        return said(503, "Invalid request. There is a gap before these bytes.");
    }
    session.total = total;
    let mut skip = session.received - range.first;
    let mut file = std::fs::OpenOptions::new().append(true).open(&session.path).unwrap();
    loop {
        match body.frame().await {
            Some(Ok(frame)) => {
                let Ok(bytes) = frame.into_data() else { continue };
                let passed = usize::try_from(skip).unwrap().min(bytes.len());
                skip -= u64::try_from(passed).unwrap();
                file.write_all(&bytes[passed..]).unwrap();
                session.received += u64::try_from(bytes.len() - passed).unwrap();
            }
            // What came is kept, as far as it is whole.
            Some(Err(_)) => {
                session.received -= session.received % GRANULE;
                file.set_len(session.received).unwrap();
                return said(503, "the connection broke");
            }
            None => break,
        }
    }
    drop(file);
    if whole {
        session.total = session.total.or(Some(session.received));
    }
    if session.total == Some(session.received) { finish(shared, &mut session, &head.headers) } else { more(&session) }
}

fn harm_length(headers: &HeaderMap) -> Option<u64> {
    text(headers, "content-length")?.parse().ok()
}

fn more(session: &Session) -> Response<Any> {
    let answer = Response::builder().status(308).header("content-length", "0");
    let answer = match session.received {
        0 => answer,
        received => answer.header("range", format!("bytes=0-{}", received - 1)),
    };
    answer.body(harm::text("")).unwrap()
}

/// Makes the object, if its key has none.
fn finish(shared: &Arc<Shared>, session: &mut Session, headers: &HeaderMap) -> Response<Any> {
    let bytes = std::fs::read(&session.path).unwrap();
    let crc32c = encoded(&super::crc32c(&bytes).to_be_bytes());
    let md5 = encoded(&<md5::Md5 as md5::Digest>::digest(&bytes));
    let differs = |hash: &String| match hash.split_once('=') {
        Some(("crc32c", told)) => told != crc32c,
        Some(("md5", told)) => told != md5,
        _ => true,
    };
    if hashes(headers).iter().any(differs) {
        session.ended = Ended::Over(410);
        return said(400, "Provided hash doesn't match the calculated one.");
    }
    let generation = shared.version().unwrap();
    let mut kept = lock(&shared.kept);
    if kept.objects.contains_key(&session.key) {
        session.ended = Ended::Over(410);
        return said(412, "At least one of the pre-conditions you specified did not hold.");
    }
    let blob = Arc::new(Blob { path: session.path.clone(), length: session.received });
    let object = Object {
        etag: hex::encode(Sha256::digest(&generation)),
        blobs: vec![blob],
        modified: SystemTime::now(),
        version: Some(generation.clone()),
        crc32c: Some(crc32c),
        crc64nvme: None,
        sha256: None,
        md5: Some(md5),
    };
    kept.put(session.key.clone(), object, false);
    drop(kept);
    let generation = generation.parse().unwrap();
    session.ended = Ended::Done(generation);
    resource(shared, &session.key, generation)
}

/// The object as the JSON API describes it.
fn resource(shared: &Shared, key: &str, generation: u64) -> Response<Any> {
    let found = lock(&shared.kept).find(key, Some(&generation.to_string())).ok();
    // Also of an object that somebody has deleted since.
    let body = json!({
        "kind": "storage#object",
        "name": key,
        "bucket": BUCKET,
        "generation": generation.to_string(),
        "size": found.as_ref().map(|found| found.size().to_string()),
        "crc32c": found.as_ref().map(|found| &found.crc32c),
        "md5Hash": found.as_ref().map(|found| &found.md5),
    });
    Response::builder().header("content-type", "application/json").body(harm::text(body.to_string())).unwrap()
}
