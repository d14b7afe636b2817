//! The vectors, each rule and their order, and what must never verify.

use proptest::prelude::*;

use super::*;

const SECRET: &str = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";
const SKEW: Duration = crate::limits::CLOCK_SKEW;

fn key() -> SigningKey {
    SigningKey::new("AKIAIOSFODNN7EXAMPLE", Secret::new(SECRET), "us-east-1")
}

fn at(date: &str) -> Timestamp {
    parse_date(date).expect("a date")
}

/// A request as it would be on the wire, free to be bent.
#[derive(Clone, Debug)]
struct Wire {
    method: String,
    host: String,
    path: String,
    query: String,
    headers: Vec<(String, String)>,
}

impl Wire {
    fn new(method: &str, url: &str, headers: &[(&str, &str)]) -> Self {
        let (_, rest) = url.split_once("://").expect("a scheme");
        let (host, rest) = rest.split_at(rest.find('/').expect("a path"));
        let (path, query) = rest.split_once('?').expect("a query");
        Self {
            method: method.to_owned(),
            host: host.to_owned(),
            path: path.to_owned(),
            query: query.to_owned(),
            headers: headers.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect(),
        }
    }

    fn verify_with(&self, keys: &[SigningKey], now: Timestamp, hosts: &[&str]) -> Result<Verified, SigV4Error> {
        let headers: Vec<(&str, &[u8])> = self.headers.iter().map(|(n, v)| (n.as_str(), v.as_bytes())).collect();
        let incoming = Incoming {
            method: &self.method,
            host: &self.host,
            path: &self.path,
            query: &self.query,
            headers: &headers,
        };
        verify(keys, &incoming, now, SKEW, hosts)
    }

    fn verify(&self, now: Timestamp) -> Result<Verified, SigV4Error> {
        self.verify_with(&[key()], now, &[])
    }

    fn rule(&self, now: Timestamp) -> &'static str {
        self.verify(now).map_or_else(|error| error.rule(), |_| "holds")
    }

    /// The request with one parameter of the query replaced, or taken away.
    fn with(&self, name: &str, value: Option<&str>) -> Self {
        let mut out = self.clone();
        let prefix = format!("{name}=");
        out.query = self
            .query
            .split('&')
            .filter_map(|pair| match (pair.starts_with(&prefix), value) {
                (false, _) => Some(pair.to_owned()),
                (true, Some(value)) => Some(format!("{prefix}{value}")),
                (true, None) => None,
            })
            .collect::<Vec<_>>()
            .join("&");
        out
    }

    /// Signs whatever the query says, so that a test can ask about rules behind which only a signer can come.
    fn resigned(&self) -> Self {
        let pairs: Vec<Pair> = self.query.split('&').map(Pair::parse).collect();
        let p = Parameters::find(&pairs).expect("all parameters");
        let headers: Vec<(String, Vec<u8>)> = p
            .signed_headers
            .split(';')
            .map(|name| {
                let of = self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name));
                let value =
                    if name == "host" { self.host.clone() } else { of.map_or_else(String::new, |h| h.1.clone()) };
                (name.to_owned(), collapse(value.as_bytes()))
            })
            .collect();
        let query = join_query(
            pairs.iter().filter(|pair| pair.name != P_SIGNATURE).map(|pair| pair.canonical.clone()).collect(),
        );
        let canonical =
            canonical_request(&self.method, &recode(&self.path, Part::Path), &query, &headers, p.signed_headers);
        let day = &p.date[..8];
        let signature = key().sign(day, &string_to_sign(ALGORITHM, p.date, &key().scope(day), &canonical));
        self.with(P_SIGNATURE, Some(&signature))
    }
}

const NOW: &str = "20260102T030405Z";
const SENT: [(&str, &str); 2] =
    [("content-type", "application/octet-stream"), ("x-amz-server-side-encryption", "AES256")];

fn put_url() -> String {
    presign(
        &key(),
        &PresignRequest {
            method: "PUT",
            scheme: "https",
            host: "uploads.example.com:8443",
            path: "/bkt/dir/a b+c.bin",
            query: &[],
            signed_headers: &SENT,
            date: at(NOW),
            expires_seconds: 3600,
        },
    )
}

fn put() -> Wire {
    Wire::new("PUT", &put_url(), &SENT)
}

fn part_url() -> String {
    presign(
        &key(),
        &PresignRequest {
            method: "PUT",
            scheme: "https",
            host: "uploads.example.com",
            path: "/bkt/big.bin",
            query: &[
                (String::from("uploadId"), String::from("up/id+1")),
                (String::from("partNumber"), String::from("7")),
            ],
            signed_headers: &[],
            date: at(NOW),
            expires_seconds: 86_400,
        },
    )
}

fn part() -> Wire {
    Wire::new("PUT", &part_url(), &[])
}

fn signature_of(url: &str) -> &str {
    url.rsplit_once("X-Amz-Signature=").expect("a signature").1
}

#[test]
fn the_published_vector() {
    let date = at("20130524T000000Z");
    let url = presign(
        &key(),
        &PresignRequest {
            method: "GET",
            scheme: "https",
            host: "examplebucket.s3.amazonaws.com",
            path: "/test.txt",
            query: &[],
            signed_headers: &[],
            date,
            expires_seconds: 86_400,
        },
    );
    assert_eq!(
        url,
        "https://examplebucket.s3.amazonaws.com/test.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256\
         &X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request\
         &X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host\
         &X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"
    );
    let verified = Wire::new("GET", &url, &[]).verify(date).expect("holds");
    assert_eq!(verified.access_key_id, "AKIAIOSFODNN7EXAMPLE");
    assert_eq!(verified.expires_at, at("20130525T000000Z"));
    assert_eq!(verified.signed_headers, ["host"]);
}

#[test]
fn a_put_with_signed_headers() {
    let url = put_url();
    assert!(url.starts_with("https://uploads.example.com:8443/bkt/dir/a%20b%2Bc.bin?"), "{url}");
    assert!(url.contains("X-Amz-SignedHeaders=content-type%3Bhost%3Bx-amz-server-side-encryption"), "{url}");
    assert_eq!(signature_of(&url), "bed95c0b435a4d8611974f9b1aff2e0f75eae192430675dcf7ae09fbc0861d25");
    let verified = put().verify(at(NOW)).expect("holds");
    assert_eq!(verified.signed_headers, ["content-type", "host", "x-amz-server-side-encryption"]);
    assert_eq!(verified.amz_headers, [(String::from("x-amz-server-side-encryption"), String::from("AES256"))]);
    assert_eq!(verified.date, at(NOW));
    assert_eq!(verified.host, "uploads.example.com:8443");
}

#[test]
fn a_part_with_parameters() {
    let url = part_url();
    assert!(url.contains("partNumber=7&uploadId=up%2Fid%2B1&X-Amz-Signature="), "{url}");
    assert_eq!(signature_of(&url), "db0dc9a49d4a26a89aff67123e122a0f3c6bf0816eb045a3d4b2636bb726c5f9");
    let verified = part().verify(at(NOW)).expect("holds");
    let expected = [("partNumber", "7"), ("uploadId", "up/id+1")].map(|(n, v)| (n.to_owned(), v.to_owned()));
    assert_eq!(verified.parameters, expected);
}

#[test]
fn row_1_every_parameter_exactly_once() {
    for name in REQUIRED {
        let error = put().with(name, None).verify(at(NOW)).expect_err("missing");
        assert_eq!(error, SigV4Error::ParameterMissing { names: vec![name] });
        let mut twice = put();
        twice.query = format!("{}&{name}=x", twice.query);
        assert_eq!(twice.verify(at(NOW)), Err(SigV4Error::ParameterRepeated { name }));
        let mut other_case = put();
        other_case.query = format!("{}&{}=x", other_case.query, name.to_lowercase());
        assert_eq!(other_case.rule(at(NOW)), "parameter_repeated");
    }
    let mut nothing = put();
    nothing.query = String::new();
    assert_eq!(nothing.verify(at(NOW)), Err(SigV4Error::ParameterMissing { names: REQUIRED.to_vec() }));
    let mut tokens = put();
    tokens.query = format!("{}&{P_TOKEN}=a&{P_TOKEN}=b", tokens.query);
    assert_eq!(tokens.verify(at(NOW)), Err(SigV4Error::ParameterRepeated { name: P_TOKEN }));
}

#[test]
fn row_2_one_algorithm() {
    let other = put().with(P_ALGORITHM, Some("AWS4-ECDSA-P256-SHA256"));
    assert_eq!(other.verify(at(NOW)), Err(SigV4Error::Algorithm { received: String::from("AWS4-ECDSA-P256-SHA256") }));
}

#[test]
fn row_3_the_credential() {
    let of = |credential: &str| match put()
        .with(P_CREDENTIAL, Some(&encode(credential)))
        .verify(at(NOW))
        .expect_err("refused")
    {
        SigV4Error::Credential(error) => error,
        other => panic!("{credential}: {other:?}"),
    };
    for malformed in [
        "",
        "AKIA",
        "AKIA/20260102/us-east-1/s3",
        "AKIA/20260102/us-east-1/s3/aws4_request/more",
        "/20260102/us-east-1/s3/aws4_request",
        "AKIA/2026010/us-east-1/s3/aws4_request",
        "AKIA/2026010x/us-east-1/s3/aws4_request",
    ] {
        assert!(matches!(of(malformed), CredentialError::Malformed { .. }), "{malformed}");
    }
    assert!(matches!(of("AKIA/20260102/us-east-1/ec2/other"), CredentialError::Service { .. }));
    assert!(matches!(of("AKIA/20260102/eu-1/s3/aws4"), CredentialError::Terminal { .. }));
    assert_eq!(
        of("AKIAIOSFODNN7EXAMPLE/20260101/eu-1/s3/aws4_request"),
        CredentialError::Region { received: String::from("eu-1"), expected: String::from("us-east-1") }
    );
    assert!(matches!(of("AKIA/20260102/eu-1/s3/aws4_request"), CredentialError::Region { .. }));
    assert!(matches!(
        of("AKIAIOSFODNN7EXAMPLE/20260101/us-east-1/s3/aws4_request"),
        CredentialError::DateMismatch { .. }
    ));
    for date in ["2026-01-02T03:04:05Z", "20260102T030405", "20261302T030405Z", "20260102T250405Z", ""] {
        let error = put().with(P_DATE, Some(&encode(date))).verify(at(NOW)).expect_err("refused");
        assert_eq!(error, CredentialError::Date { received: date.to_owned() }.into());
    }
}

#[test]
fn row_4_the_life() {
    let of = |value: &str| match put().with(P_EXPIRES, Some(value)).verify(at(NOW)).expect_err("refused") {
        SigV4Error::Expires(error) => error,
        other => panic!("{value}: {other:?}"),
    };
    for text in ["", "x", "1.5", "%2B5", "-", "0x10", "1e3", "%205"] {
        assert!(matches!(of(text), ExpiresError::NotANumber { .. }), "{text}");
    }
    assert!(matches!(of("-1"), ExpiresError::Negative { .. }));
    assert!(matches!(of("604801"), ExpiresError::TooLong { .. }));
    assert!(matches!(of("99999999999999999999"), ExpiresError::TooLong { .. }));
    let week = put().with(P_EXPIRES, Some("604800")).resigned();
    assert_eq!(week.rule(at(NOW)), "holds");
    assert_eq!(put().with(P_EXPIRES, Some("604801")).resigned().rule(at(NOW)), "expires");
}

#[test]
fn a_longer_life_than_anyone_accepts_is_cut() {
    let request = PresignRequest {
        method: "PUT",
        scheme: "http",
        host: "h",
        path: "/p",
        query: &[],
        signed_headers: &[],
        date: at(NOW),
        expires_seconds: u32::MAX,
    };
    let url = presign(&key(), &request);
    assert_eq!(Wire::new("PUT", &url, &[]).rule(at(NOW)), "holds");
}

#[test]
fn row_5_a_signer_may_be_a_quarter_of_an_hour_ahead() {
    let signed = at(NOW);
    assert_eq!(put().rule(signed.minus(SKEW)), "holds");
    let error = put().verify(signed.minus(SKEW + Duration::from_millis(1))).expect_err("too early");
    assert!(matches!(error, SigV4Error::NotYetValid { .. }));
    assert_eq!(put().rule(signed.plus(SKEW)), "holds");
}

#[test]
fn row_6_expiry_has_no_tolerance() {
    let last = at(NOW).plus(Duration::from_secs(3600));
    assert_eq!(put().rule(last), "holds");
    let error = put().verify(last.plus(Duration::from_millis(1))).expect_err("expired");
    assert!(matches!(error, SigV4Error::Expired { expires_seconds: 3600, .. }), "{error:?}");
    assert!(error.to_string().contains("expired at 2026-01-02T04:04:05.000Z"), "{error}");
}

#[test]
fn row_7_the_key() {
    let other = SigningKey::new("OTHER", Secret::new("secret"), "us-east-1");
    let unknown = put().verify_with(std::slice::from_ref(&other), at(NOW), &[]);
    assert_eq!(unknown, Err(SigV4Error::UnknownKey { access_key_id: String::from("AKIAIOSFODNN7EXAMPLE") }));
    assert_eq!(put().verify_with(&[], at(NOW), &[]).map_err(|e| e.rule()), Err("unknown_key"));
    assert!(put().verify_with(&[other, key()], at(NOW), &[]).is_ok());
    let same_id = SigningKey::new("AKIAIOSFODNN7EXAMPLE", Secret::new("secret"), "us-east-1");
    assert_eq!(put().verify_with(&[same_id], at(NOW), &[]).map_err(|e| e.rule()), Err("signature"));
}

#[test]
fn row_8_headers_that_were_not_signed() {
    for name in ["x-amz-acl", "X-Amz-Meta-Colour", "x-amz-checksum-crc32", "x-amz-tagging", "x-amz-copy-source"] {
        let mut wire = put();
        wire.headers.push((name.to_owned(), String::from("v")));
        let expected = SigV4Error::HeadersNotSigned { names: vec![name.to_lowercase()] };
        assert_eq!(wire.verify(at(NOW)), Err(expected));
    }
    let mut encrypted = part();
    encrypted.headers.push((String::from("x-amz-server-side-encryption"), String::from("AES256")));
    assert_eq!(encrypted.rule(at(NOW)), "headers_not_signed");
    let mut typed = part();
    typed.headers.push((String::from("content-type"), String::from("text/plain")));
    assert_eq!(typed.rule(at(NOW)), "holds");
    let no_host = put().with(P_SIGNED_HEADERS, Some("content-type%3Bx-amz-server-side-encryption")).resigned();
    assert_eq!(no_host.verify(at(NOW)), Err(SigV4Error::HeadersNotSigned { names: vec![String::from("host")] }));
}

#[test]
fn the_hash_of_the_body_may_be_unsigned_and_is_handed_on() {
    let with = |wire: &Wire, value: &str| {
        let mut wire = wire.clone();
        wire.headers.push((String::from("X-Amz-Content-Sha256"), value.to_owned()));
        wire.verify(at(NOW))
    };
    assert_eq!(with(&put(), UNSIGNED_PAYLOAD).expect("holds").content_sha256, None);
    assert_eq!(with(&put(), &"ab".repeat(32)).expect("holds").content_sha256, Some([0xab; 32]));
    for value in ["", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD", "abcd", &"g".repeat(64)] {
        assert_eq!(with(&put(), value).map_err(|e| e.rule()), Err("headers_not_signed"), "{value}");
    }
    let mut stated = put();
    stated.query = format!("{}&X-Amz-Content-Sha256={}", stated.query, "ab".repeat(32));
    let stated = stated.resigned();
    assert_eq!(stated.verify(at(NOW)).expect("holds").content_sha256, Some([0xab; 32]));
    assert_eq!(with(&stated, UNSIGNED_PAYLOAD).expect("holds").content_sha256, Some([0xab; 32]));
    assert_eq!(with(&stated, &"cd".repeat(32)).map_err(|e| e.rule()), Err("headers_not_signed"));
}

#[test]
fn row_9_signed_headers_have_to_come_as_signed() {
    let mismatch = |wire: &Wire| match wire.verify(at(NOW)).expect_err("refused") {
        SigV4Error::SignatureMismatch(mismatch) => *mismatch,
        other => panic!("{other:?}"),
    };
    for (at_index, (name, _)) in SENT.iter().enumerate() {
        let mut other_value = put();
        other_value.headers[at_index].1 = String::from("other");
        let found = mismatch(&other_value);
        assert!(found.received_headers.contains(&((*name).to_owned(), String::from("other"))), "{found:?}");
        assert!(found.sentence().contains(&format!("{name} as `other`")), "{}", found.sentence());
        let mut missing = put();
        missing.headers.remove(at_index);
        let found = mismatch(&missing);
        assert_eq!(found.missing_headers, [*name]);
        assert!(found.sentence().ends_with(name), "{}", found.sentence());
        let mut twice = put();
        twice.headers.push(twice.headers[at_index].clone());
        assert_eq!(mismatch(&twice).repeated_headers, [*name]);
    }
    let mut spelled = put();
    spelled.headers = vec![
        ("X-AMZ-Server-Side-Encryption".into(), " AES256 ".into()),
        ("Content-Type".into(), "\tapplication/octet-stream ".into()),
    ];
    assert_eq!(spelled.rule(at(NOW)), "holds");
}

#[test]
fn runs_of_blanks_in_a_header_value_count_as_one() {
    let request = PresignRequest {
        method: "PUT",
        scheme: "http",
        host: "h",
        path: "/p",
        query: &[],
        signed_headers: &[("Content-Disposition", "  attachment;   filename=a \t b ")],
        date: at(NOW),
        expires_seconds: 60,
    };
    let url = presign(&key(), &request);
    let of = |value: &str| Wire::new("PUT", &url, &[("content-disposition", value)]).rule(at(NOW));
    assert_eq!(of("attachment; filename=a b"), "holds");
    assert_eq!(of("attachment;  filename=a  b"), "holds");
    assert_eq!(of("attachment;filename=a b"), "signature");
}

#[test]
fn a_header_signed_as_empty_has_to_be_there() {
    let request = PresignRequest {
        method: "PUT",
        scheme: "http",
        host: "h",
        path: "/p",
        query: &[],
        signed_headers: &[("content-language", "")],
        date: at(NOW),
        expires_seconds: 60,
    };
    let url = presign(&key(), &request);
    assert_eq!(Wire::new("PUT", &url, &[("content-language", "")]).rule(at(NOW)), "holds");
    assert_eq!(Wire::new("PUT", &url, &[]).rule(at(NOW)), "signature");
}

#[test]
fn every_byte_of_the_signature_counts() {
    let query = put().query;
    let start = query.len() - 64;
    for index in start..query.len() {
        for other in [b'0', b'f', b'A', b'x'] {
            let mut wire = put();
            let mut bytes = query.clone().into_bytes();
            if bytes[index] == other {
                continue;
            }
            bytes[index] = other;
            wire.query = String::from_utf8(bytes).expect("text");
            assert_eq!(wire.rule(at(NOW)), "signature", "{index}");
        }
    }
    for signature in ["", &query[start..query.len() - 1], &format!("{}0", &query[start..])] {
        assert_eq!(put().with(P_SIGNATURE, Some(signature)).rule(at(NOW)), "signature");
    }
    let upper = query[start..].to_uppercase();
    assert_eq!(put().with(P_SIGNATURE, Some(&upper)).rule(at(NOW)), "signature");
}

#[test]
fn method_path_host_and_query_are_signed() {
    let check = |change: fn(&mut Wire)| {
        let mut wire = part();
        change(&mut wire);
        assert_eq!(wire.rule(at(NOW)), "signature", "{wire:?}");
    };
    check(|w| w.method = String::from("GET"));
    check(|w| w.method = String::from("put"));
    check(|w| w.host = String::from("uploads.example.com:443"));
    check(|w| w.host = String::from("other.example.com"));
    check(|w| w.path.push('x'));
    check(|w| w.path = String::from("//bkt/big.bin"));
    check(|w| w.path = String::from("/bkt/./big.bin"));
    check(|w| w.path = String::from("/bkt/x/../big.bin"));
    check(|w| w.path = String::from("/bkt%2Fbig.bin"));
    check(|w| w.path = String::from("/bkt/big%252Ebin"));
    check(|w| w.query.push('&'));
    check(|w| w.query.push_str("&acl"));
    check(|w| w.query.push_str("&x-amz-copy-source=%2Fother"));
    check(|w| w.query.push_str("&partNumber=8"));
    check(|w| w.query = w.query.replace("partNumber=7", "partNumber=8"));
    check(|w| w.query = w.query.replace("partNumber=7&", ""));
    check(|w| w.query = w.query.replace("up%2Fid%2B1", "up%2Fid+1"));
    check(|w| w.query = w.query.replace("X-Amz-Expires=86400", "X-Amz-Expires=86401"));
}

#[test]
fn spellings_of_the_same_bytes_verify_alike() {
    let check = |from: &str, to: &str| {
        let mut wire = put();
        wire.path = wire.path.replace(from, to);
        assert_ne!(wire.path, put().path);
        assert_eq!(wire.rule(at(NOW)), "holds", "{}", wire.path);
    };
    check("%2B", "%2b");
    check("a%20", "%61%20");
    check("%2B", "+");
    check(".bin", "%2Ebin");
    let mut swapped = part();
    swapped.query = {
        let mut pairs: Vec<&str> = swapped.query.split('&').collect();
        pairs.reverse();
        pairs.join("&")
    };
    assert_eq!(swapped.rule(at(NOW)), "holds");
    let mut slashes = part();
    slashes.query = slashes.query.replace("%2F", "/");
    assert_eq!(slashes.rule(at(NOW)), "holds");
}

#[test]
fn a_percent_that_begins_no_escape_never_verifies() {
    for (signed, sent) in [("/a%2zb", "/a%2zb"), ("/a%", "/a%"), ("/a/b", "/a%2%46b"), ("/%zz", "/%zz")] {
        let request = PresignRequest {
            method: "PUT",
            scheme: "http",
            host: "h",
            path: signed,
            query: &[],
            signed_headers: &[],
            date: at(NOW),
            expires_seconds: 60,
        };
        let mut wire = Wire::new("PUT", &presign(&key(), &request), &[]);
        assert_eq!(wire.rule(at(NOW)), "holds");
        wire.path = sent.to_owned();
        assert_eq!(wire.rule(at(NOW)), "signature", "{sent}");
    }
}

#[test]
fn other_hosts_have_to_be_named() {
    let mut wire = part();
    wire.host = String::from("127.0.0.1:8080");
    assert_eq!(wire.rule(at(NOW)), "signature");
    let hosts = ["a.example.com", "uploads.example.com"];
    let verified = wire.verify_with(&[key()], at(NOW), &hosts).expect("an accepted host");
    assert_eq!(verified.host, "uploads.example.com");
}

#[test]
fn the_host_of_a_url_is_signed_in_lower_case() {
    let url = part_url().replace("uploads", "UPLOADS");
    assert_eq!(Wire::new("PUT", &url, &[]).rule(at(NOW)), "signature");
    let request = PresignRequest {
        method: "PUT",
        scheme: "http",
        host: "LocalHost:8080",
        path: "/p",
        query: &[],
        signed_headers: &[("Host", "ignored")],
        date: at(NOW),
        expires_seconds: 60,
    };
    let url = presign(&key(), &request);
    assert!(url.starts_with("http://localhost:8080/p?"), "{url}");
    assert_eq!(Wire::new("PUT", &url, &[]).rule(at(NOW)), "holds");
}

#[test]
fn headers_moved_into_the_query_count_where_the_request_has_none() {
    let mut wire = put();
    wire.query = format!(
        "{}&x-amz-checksum-crc32=AAAAAA%3D%3D&X-Amz-Server-Side-Encryption=aws%3Akms&x-id=PutObject\
         &X-Amz-Content-Sha256=UNSIGNED-PAYLOAD&X-Amz-Security-Token=t",
        wire.query
    );
    let verified = wire.resigned().verify(at(NOW)).expect("holds");
    let expected = [("x-amz-server-side-encryption", "AES256"), ("x-amz-checksum-crc32", "AAAAAA==")];
    assert_eq!(verified.amz_headers, expected.map(|(n, v)| (n.to_owned(), v.to_owned())));
    assert_eq!(verified.content_sha256, None);
}

#[test]
fn of_two_broken_rules_the_earlier_is_named() {
    let late = at(NOW).plus(Duration::from_secs(7 * 24 * 3600));
    let early = at("20200101T000000Z");
    let mut wire = put();
    // Each step mends what the step before broke and finds the next rule; all later rules stay broken.
    wire.method = String::from("GET");
    wire.headers.push((String::from("x-amz-acl"), String::from("public")));
    let unknown = "NOBODY%2F20260102%2Fus-east-1%2Fs3%2Faws4_request";
    let wire = wire.with(P_CREDENTIAL, Some(unknown)).with(P_EXPIRES, Some("soon"));
    let bad_region = wire.with(P_CREDENTIAL, Some("NOBODY%2F20260102%2Fmars%2Fs3%2Faws4_request"));
    let algorithm = bad_region.with(P_ALGORITHM, Some("none"));
    assert_eq!(algorithm.with(P_DATE, None).rule(late), "parameter_missing");
    assert_eq!(algorithm.rule(late), "algorithm");
    assert_eq!(bad_region.rule(late), "credential");
    assert_eq!(wire.rule(late), "expires");
    let wire = wire.with(P_EXPIRES, Some("3600"));
    assert_eq!(wire.rule(early), "not_yet_valid");
    assert_eq!(wire.rule(late), "expired");
    assert_eq!(wire.rule(at(NOW)), "unknown_key");
    let wire = wire.with(P_CREDENTIAL, Some("AKIAIOSFODNN7EXAMPLE%2F20260102%2Fus-east-1%2Fs3%2Faws4_request"));
    assert_eq!(wire.rule(at(NOW)), "headers_not_signed");
    let mut wire = wire;
    wire.headers.pop();
    assert_eq!(wire.rule(at(NOW)), "signature");
    wire.method = String::from("PUT");
    assert_eq!(wire.rule(at(NOW)), "holds");
}

#[test]
fn codes_and_statuses_are_those_of_s3() {
    let of = |wire: &Wire, now: Timestamp| wire.verify(now).map(|_| ()).map_err(|e| (e.status(), e.code()));
    let early = at(NOW).minus(Duration::from_secs(3600));
    let late = at(NOW).plus(Duration::from_secs(7200));
    let mut other = put();
    other.method = String::from("GET");
    assert_eq!(of(&put().with(P_DATE, None), at(NOW)), Err((400, "AuthorizationQueryParametersError")));
    assert_eq!(of(&put(), early), Err((403, "AccessDenied")));
    assert_eq!(of(&put(), late), Err((403, "AccessDenied")));
    assert_eq!(of(&other, at(NOW)), Err((403, "SignatureDoesNotMatch")));
    let unknown = put().verify_with(&[], at(NOW), &[]).expect_err("unknown");
    assert_eq!((unknown.status(), unknown.code()), (403, "InvalidAccessKeyId"));
}

#[test]
fn nothing_secret_is_said() {
    let mut wire = put();
    wire.method = String::from("GET");
    wire.headers.push((String::from("authorization"), String::from("Bearer hidden")));
    let signed = "authorization%3Bcontent-type%3Bhost%3Bx-amz-server-side-encryption";
    let mut wire = wire.with(P_SIGNED_HEADERS, Some(signed));
    wire.query.push_str("&X-Amz-Security-Token=hidden");
    let error = wire.verify(at(NOW)).expect_err("refused");
    let headers: Vec<(&str, &[u8])> = vec![("authorization", b"Bearer hidden")];
    let incoming = Incoming { method: "GET", host: "h", path: "/p", query: &wire.query, headers: &headers };
    let all = format!("{error} {error:?} {:?} {incoming:?}", key());
    let full = signature_of(&put_url()).to_owned();
    let right = signature_of(&wire.resigned().query).to_owned();
    for hidden in [SECRET, "hidden", full.as_str(), right.as_str()] {
        assert!(!all.contains(hidden), "{hidden} in {all}");
    }
    assert!(all.contains("content-type:application/octet-stream"), "{all}");
}

#[test]
fn values_from_outside_are_cut_in_sentences() {
    let error = SigV4Error::Algorithm { received: format!("a\nb{}", "x".repeat(1000)) };
    let text = error.to_string();
    assert!(text.len() < 300 && !text.contains('\n'), "{text}");
}

/// What a URL says, read by somebody else's decoder; spellings of the same bytes give the same.
fn meaning(wire: &Wire) -> (Vec<Vec<u8>>, Vec<[Vec<u8>; 2]>) {
    let decode = |text: &str| percent_encoding::percent_decode_str(text).collect::<Vec<u8>>();
    let path = wire.path.split('/').map(decode).collect();
    let mut query: Vec<_> = wire
        .query
        .split('&')
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| [decode(name), decode(value)])
        .collect();
    query.sort();
    (path, query)
}

#[derive(Clone, Debug)]
struct Signed {
    url: String,
    headers: Vec<(String, String)>,
}

prop_compose! {
    fn signed()(
        path in "(/[^/\\x00-\\x1f]{0,8}){1,4}",
        query in prop::collection::vec(("[a-z]{1,4}", "\\PC{0,8}"), 0..4),
        headers in prop::collection::btree_map("(x-amz-meta-[a-z]{1,4}|content-type|content-[a-z]{1,5})", "[ -~]{0,12}", 0..4),
        expires_seconds in 1..=EXPIRES_MAX_SECONDS,
    ) -> Signed {
        let signed_headers: Vec<(&str, &str)> = headers.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        let url = presign(&key(), &PresignRequest {
            method: "PUT",
            scheme: "https",
            host: "uploads.example.com",
            path: &path,
            query: &query,
            signed_headers: &signed_headers,
            date: at(NOW),
            expires_seconds,
        });
        Signed { url, headers: headers.into_iter().collect() }
    }
}

impl Signed {
    fn wire(&self) -> Wire {
        let headers: Vec<(&str, &str)> = self.headers.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        Wire::new("PUT", &self.url, &headers)
    }
}

proptest! {
    #[test]
    fn what_was_signed_verifies(signed in signed()) {
        prop_assert_eq!(signed.wire().rule(at(NOW)), "holds");
    }

    #[test]
    fn a_changed_request_never_verifies(
        signed in signed(),
        place in any::<prop::sample::Index>(),
        with in "[ -~]",
        how in 0..5,
    ) {
        let mut wire = signed.wire();
        let original = wire.clone();
        let bend = |text: &mut String| {
            let index = place.index(text.len().max(1)).min(text.len());
            match how {
                0 if index < text.len() => text.replace_range(index..=index, &with),
                1 if index < text.len() => text.replace_range(index..=index, ""),
                _ => text.insert_str(index, &with),
            }
        };
        match how {
            3 => bend(&mut wire.path),
            4 if !wire.headers.is_empty() => {
                let index = place.index(wire.headers.len());
                bend(&mut wire.headers[index].1);
            }
            _ => bend(&mut wire.query),
        }
        let same_headers = wire.headers.iter().zip(&original.headers)
            .all(|(a, b)| collapse(a.1.as_bytes()) == collapse(b.1.as_bytes()));
        if meaning(&wire) != meaning(&original) || !same_headers {
            prop_assert!(wire.verify(at(NOW)).is_err(), "{:?}", wire);
        }
    }

    #[test]
    fn no_input_makes_it_panic(query in "\\PC{0,200}", path in "\\PC{0,40}", tail in "\\PC{0,40}") {
        let mut wire = put();
        wire.path = path;
        let _ = wire.verify(at(NOW));
        wire.query = format!("{}{tail}", wire.query);
        let _ = wire.verify(at(NOW));
        wire.query = query;
        let _ = wire.verify(at(NOW));
    }
}
