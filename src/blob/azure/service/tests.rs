//! What answers mean, and what is signed, compared with the vendor's own library.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use http::Method;
use reqsign_core::HttpSend;

use super::*;
use crate::blob::azurite::KEY;

fn fault(status: u16, code: &str, in_header: bool) -> Fault {
    let mut headers = http::HeaderMap::new();
    if in_header {
        headers.insert("x-ms-error-code", code.parse().unwrap());
    }
    let xml = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>m\nTime:1</Message></Error>");
    let document = Element::read(xml.as_bytes()).filter(|_| !in_header);
    judge(status, &Head { status, headers }, document.as_ref())
}

#[test]
fn an_answer_is_judged_by_its_code_and_then_by_its_status() {
    for (status, code, wanted) in [
        (404, "BlobNotFound", Kind::Missing),
        (404, "", Kind::Missing),
        (404, "ContainerNotFound", Kind::Lasting),
        (403, "AccountIsDisabled", Kind::Lasting),
        (409, "BlobAlreadyExists", Kind::Changed),
        (412, "ConditionNotMet", Kind::Changed),
        (412, "", Kind::Changed),
        (403, "UnauthorizedBlobOverwrite", Kind::Changed),
        (400, "InvalidBlockList", Kind::Parts),
        (400, "InvalidBlobOrBlock", Kind::Parts),
        (403, "AuthenticationFailed", Kind::Denied),
        (403, "AuthorizationFailure", Kind::Denied),
        (403, "AuthorizationPermissionMismatch", Kind::Denied),
        (401, "NoAuthenticationInformation", Kind::Denied),
        (400, "InvalidAuthenticationInfo", Kind::Denied),
        (503, "ServerBusy", Kind::Passing),
        (500, "OperationTimedOut", Kind::Passing),
        (500, "InternalError", Kind::Passing),
        (500, "", Kind::Passing),
        (429, "", Kind::Passing),
        (400, "Crc64Mismatch", Kind::Passing),
        (405, "UnsupportedHttpVerb", Kind::Unserved),
        (507, "", Kind::Full),
        (400, "InvalidHeaderValue", Kind::Lasting),
        (409, "LeaseIdMissing", Kind::Lasting),
    ] {
        for in_header in [true, false] {
            assert_eq!(fault(status, code, in_header).kind, wanted, "{status} {code}");
        }
    }
    assert_eq!(fault(400, "InvalidHeaderValue", false).what, "the store answered 400 InvalidHeaderValue m");
}

fn service(storage: &str) -> Service {
    let mut config = crate::config::Config::default();
    config.set_text("storage", storage).unwrap();
    let crate::config::Storage::Container(container) = &config.storage else { panic!("{storage}") };
    let environment = [("AZURE_STORAGE_ACCOUNT_KEY".to_owned(), KEY.to_owned())];
    Service::new(container, environment.into()).unwrap()
}

#[test]
fn a_clock_that_is_wrong_is_said_to_be_the_reason() {
    let service = service("az://account1/bytes");
    let now = std::time::SystemTime::now();
    for (date, code, wrong) in [
        (now, "AuthenticationFailed", false),
        (now - Duration::from_secs(3600), "AuthenticationFailed", true),
        (now + Duration::from_secs(3600), "AuthenticationFailed", true),
        (now - Duration::from_secs(3600), "BlobNotFound", false),
    ] {
        let mut headers = http::HeaderMap::new();
        headers.insert("date", httpdate::fmt_http_date(date).parse().unwrap());
        headers.insert("x-ms-error-code", code.parse().unwrap());
        let said = service.judge(403, &Head { status: 403, headers }, None).what;
        assert_eq!(said.contains("clock"), wrong, "{said}");
    }
}

fn signature(key: &str, text: &str) -> String {
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(&BASE64.decode(key).unwrap()).unwrap();
    mac.update(text.as_bytes());
    BASE64.encode(mac.finalize().into_bytes())
}

/// What Shared Key signs, as the vendor documents it.
fn to_sign(method: &str, account: &str, url: &str, headers: &BTreeMap<String, String>) -> String {
    let url = url::Url::parse(url).unwrap();
    let named = |name: &&str| headers.get(*name).cloned().unwrap_or_default();
    let plain = [
        "content-encoding",
        "content-language",
        "content-length",
        "content-md5",
        "content-type",
        "date",
        "if-modified-since",
        "if-match",
        "if-none-match",
        "if-unmodified-since",
        "range",
    ];
    let mut lines = vec![method.to_owned()];
    lines.extend(plain.iter().map(named));
    lines.extend(headers.iter().filter(|(n, _)| n.starts_with("x-ms-")).map(|(n, v)| format!("{n}:{v}")));
    lines.push(format!("/{account}{}", url.path()));
    let mut pairs: Vec<_> = url.query_pairs().map(|(n, v)| format!("{n}:{v}")).collect();
    pairs.sort();
    lines.extend(pairs);
    lines.join("\n")
}

/// The signatures are those of `SharedKeyCredentialPolicy("devstoreaccount1", KEY)` in the vendor's library
/// (azure-storage-blob 12.31.1 for Python), applied to a request of these headers.
#[test]
fn what_shared_key_signs_is_what_the_vendors_library_signs() {
    let fixed = [("x-ms-date", "Fri, 02 Jan 2026 03:04:05 GMT"), ("x-ms-version", "2021-12-02")];
    let headers = |more: &[(&str, &str)]| {
        fixed.iter().chain(more).map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect::<BTreeMap<_, _>>()
    };
    let put = headers(&[
        ("content-length", "5"),
        ("if-none-match", "*"),
        ("x-ms-blob-type", "BlockBlob"),
        ("x-ms-content-crc64", "iJh5CoYUi64="),
    ]);
    let url = "http://127.0.0.1:10000/devstoreaccount1/bytes";
    let text = to_sign("PUT", "devstoreaccount1", &format!("{url}/a/b-1"), &put);
    assert_eq!(signature(KEY, &text), "gyHt4fXtJYhRVlUwrFVAxi893tJEbdgprj3twvBGozs=");
    let list = "restype=container&comp=list&prefix=a%2Fb&include=uncommittedblobs&maxresults=1000&marker=2%21x%2B%3D";
    let text = to_sign("GET", "devstoreaccount1", &format!("{url}?{list}"), &headers(&[]));
    assert_eq!(signature(KEY, &text), "cxNASpDfNDlEBgnEE4ZQdz+denD7WMdU9d3Sk7CUVGA=");
}

#[tokio::test]
async fn requests_are_signed_so_and_sent_where_the_container_is() {
    for (storage, base) in [
        ("az://account1/bytes/p", "https://account1.blob.core.windows.net/bytes"),
        ("az://account1/bytes?endpoint=http://10.0.0.7:1/account1", "http://10.0.0.7:1/account1/bytes"),
        ("az://account1/bytes?endpoint=https://b.example.com", "https://b.example.com/bytes"),
    ] {
        let service = service(storage);
        for ask in [
            Ask::new("PutBlob", Method::PUT, "p/k").header("if-none-match", "*").body(Body::Text("12345".into())),
            Ask::new("PutBlob", Method::PUT, "p/k").body(Body::Text(String::new())),
            Ask::new("GetBlob", Method::GET, "p/k").header("range", "bytes=0-4").header("if-match", "\"0x8DE\""),
            Ask::new("ListBlobs", Method::GET, "")
                .query("comp", "list")
                .query("marker", "2!a/b+c=")
                .query("prefix", ""),
        ] {
            let length = if let Body::Text(text) = &ask.body { text.len() } else { 0 };
            let signed = service.sign(&ask).await.unwrap();
            assert!(signed.url.starts_with(base), "{}", signed.url);
            let mut headers: BTreeMap<_, _> =
                signed.headers.iter().map(|(name, value)| (name.to_string(), value.clone())).collect();
            if length > 0 {
                headers.insert("content-length".into(), length.to_string());
            }
            let text = to_sign(ask.method.as_str(), "account1", &signed.url, &headers);
            let wanted = format!("SharedKey account1:{}", signature(KEY, &text));
            assert_eq!(headers["authorization"], wanted, "{text}");
        }
    }
    let service = service("az://account1/bytes");
    service.use_for_test(Credential::with_sas_token("sv=1&sig=a%2Bb")).await;
    let signed = service.sign(&Ask::new("ListBlobs", Method::GET, "").query("comp", "list")).await.unwrap();
    assert_eq!(signed.url, "https://account1.blob.core.windows.net/bytes?comp=list&sv=1&sig=a%2Bb");
    service.use_for_test(Credential::with_bearer_token("a-token", None)).await;
    let signed = service.sign(&Ask::new("ListBlobs", Method::GET, "")).await.unwrap();
    assert!(signed.headers.iter().any(|(name, value)| name == "authorization" && value == "Bearer a-token"));
}

/// What a location of a client signs, as the vendor documents it for versions from 2020-12-06 on: that signature, and the one
/// that it has.
fn of_location(key: &str, resource: &str, token: &str, delegated: bool) -> (String, String) {
    let pairs: BTreeMap<String, String> = form_urlencoded::parse(token.as_bytes()).into_owned().collect();
    let field = |name: &str| pairs.get(name).cloned().unwrap_or_default();
    let mut lines = vec![field("sp"), field("st"), field("se"), format!("/blob/{resource}")];
    if delegated {
        lines.extend(["skoid", "sktid", "skt", "ske", "sks", "skv", "saoid", "suoid", "scid"].map(field));
    } else {
        lines.push(field("si"));
    }
    lines.extend(["sip", "spr", "sv", "sr", "snapshot", "ses", "rscc", "rscd", "rsce", "rscl", "rsct"].map(field));
    (signature(key, &lines.join("\n")), field("sig"))
}

const DELEGATION_KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const DELEGATED: &str = "skoid=0f0e0d0c-0000-1111-2222-333344445555&sktid=1f1e1d1c-0000-1111-2222-333344445555";

/// The tokens are those of `generate_blob_sas(account, "bytes", "a/b-1", permission=BlobSasPermissions(create=True),
/// expiry=datetime(2026, 1, 2, 3, 4, 5), protocol=…)` in the vendor's library (azure-storage-blob 12.19.0 for Python), with
/// `account_key=KEY` and with a `user_delegation_key` of these fields and the bytes 0 to 31.
#[test]
fn what_a_location_signs_is_what_the_vendors_library_signs() {
    let own = "se=2026-01-02T03%3A04%3A05Z&sp=c&spr=https%2Chttp&sv=2023-11-03&sr=b\
               &sig=f%2B0X9vreQbrQspOFFWk5PCKML7DTt6vNQMs2g1K6Wqo%3D";
    let (signed, wanted) = of_location(KEY, "devstoreaccount1/bytes/a/b-1", own, false);
    assert_eq!(signed, wanted);
    let delegated = format!(
        "se=2026-01-02T03%3A04%3A05Z&sp=c&spr=https&sv=2023-11-03&sr=b&{DELEGATED}&skt=2026-01-02T00%3A00%3A00Z\
         &ske=2026-01-08T00%3A00%3A00Z&sks=b&skv=2020-12-06&sig=ArJVepV41EX/49m3ZgwzrAz4Il9NqFhRi1iBafXFkoM%3D"
    );
    let (signed, wanted) = of_location(DELEGATION_KEY, "account1/bytes/a/b-1", &delegated, true);
    assert_eq!(signed, wanted);
}

/// Answers as the service does that exchanges a token for a key, and counts.
#[derive(Clone, Debug, Default)]
struct Exchange(Arc<AtomicUsize>);

impl HttpSend for Exchange {
    async fn http_send(&self, request: http::Request<Bytes>) -> reqsign_core::Result<http::Response<Bytes>> {
        self.0.fetch_add(1, Ordering::SeqCst);
        let wanted = "https://account1.blob.core.windows.net/?restype=service&comp=userdelegationkey";
        assert_eq!(request.uri().to_string(), wanted);
        assert_eq!(request.headers()["authorization"], "Bearer a-token");
        let asked = Element::read(request.body()).unwrap();
        let (start, expiry) = (asked.get("Start").unwrap(), asked.get("Expiry").unwrap());
        let xml = format!(
            "<UserDelegationKey><SignedOid>0f0e0d0c-0000-1111-2222-333344445555</SignedOid><SignedTid>\
             1f1e1d1c-0000-1111-2222-333344445555</SignedTid><SignedStart>{start}</SignedStart><SignedExpiry>{expiry}\
             </SignedExpiry><SignedService>b</SignedService><SignedVersion>2020-12-06</SignedVersion><Value>\
             {DELEGATION_KEY}</Value></UserDelegationKey>"
        );
        Ok(http::Response::new(Bytes::from(xml)))
    }
}

#[tokio::test]
async fn a_location_is_signed_so_with_the_accounts_key_and_with_one_for_a_token() {
    let service = service("az://account1/bytes/p");
    let own = Credential::with_shared_key("account1", KEY);
    let token = service.granted(&Context::new(), &own, "p/k", (600, SasProtocol::Https)).await.unwrap();
    assert!(token.contains("sp=c&sr=b") && token.contains("spr=https&"), "{token}");
    let (signed, wanted) = of_location(KEY, "account1/bytes/p/k", &token, false);
    assert_eq!(signed, wanted);
    let exchange = Exchange::default();
    let context = Context::new().with_http_send(exchange.clone());
    let bearer = Credential::with_bearer_token("a-token", None);
    for key in ["p/k", "p/other"] {
        let token = service.granted(&context, &bearer, key, (600, SasProtocol::Https)).await.unwrap();
        assert!(token.contains("sp=c&sr=b") && token.contains(DELEGATED), "{token}");
        let (signed, wanted) = of_location(DELEGATION_KEY, &format!("account1/bytes/{key}"), &token, true);
        assert_eq!(signed, wanted);
    }
    assert_eq!(exchange.0.load(Ordering::SeqCst), 1, "the key is kept");
}

/// The service refuses a key that is to live for more than seven days by its own clock, and uses none that begins later than
/// its own now: ours may be ahead or behind.
#[tokio::test]
async fn a_key_for_a_token_lasts_and_does_not_depend_on_clocks_that_agree() {
    let service = service("az://account1/bytes/p");
    let exchange = Exchange::default();
    let context = Context::new().with_http_send(exchange.clone());
    let bearer = Credential::with_bearer_token("a-token", None);
    let week = u32::try_from(crate::limits::SESSION_LIFE.as_secs()).unwrap();
    let now = || crate::clock::Clock::system().now();
    let mut token = String::new();
    for wait in [0, 1100] {
        tokio::time::sleep(Duration::from_millis(wait)).await;
        token = service.granted(&context, &bearer, "p/k", (week, SasProtocol::Https)).await.unwrap();
        let (signed, wanted) = of_location(DELEGATION_KEY, "account1/bytes/p/k", &token, true);
        assert_eq!(signed, wanted);
    }
    assert_eq!(exchange.0.load(Ordering::SeqCst), 1, "a location costs no question to the service");
    let field = |name: &str| {
        let found = form_urlencoded::parse(token.as_bytes()).find(|(own, _)| own == name);
        crate::clock::Timestamp::parse(&found.unwrap().1).unwrap()
    };
    let minutes = |count: u64| Duration::from_secs(60 * count);
    assert!(field("skt") <= now().minus(minutes(14)) && field("st") <= now().minus(minutes(14)), "{token}");
    assert!(field("ske") <= now().plus(crate::limits::SESSION_LIFE).minus(minutes(14)), "{token}");
    assert!(field("se") <= field("ske") && field("se") >= now().plus(minutes(5 * 24 * 60)), "{token}");
}
