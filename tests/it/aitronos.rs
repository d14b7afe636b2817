//! The acceptance checks of the Aitronos dialect, in the order of their numbers, and of the session URLs behind it.

mod dispatch;
mod files;
mod page;
mod sessions;

use bytes::Bytes;
use futures_util::Stream;
use serde_json::{Value, json};

use crate::harness::{Call, Reply, Server};

pub(crate) const K: u64 = 256 * 1024;
pub(crate) const M: u64 = 1024 * 1024;

impl Reply {
    /// Itself, being an error of this API: eight fields, always; the `error` object.
    #[track_caller]
    pub(crate) fn fault(&self, status: u16, code: &str) -> Value {
        let text = self.text();
        assert_eq!(self.status, status, "wanted {status} {code}: {text}");
        assert_eq!(self.header("content-type"), Some("application/json"), "{text}");
        let body = self.json();
        assert_eq!((body.as_object().unwrap().len(), &body["success"]), (2, &json!(false)), "{text}");
        let error = body["error"].clone();
        assert_eq!(error.as_object().expect("error").len(), 8, "{text}");
        assert_eq!((&error["code"], &error["status"]), (&json!(code), &json!(status)), "{text}");
        for field in ["message", "system_message", "timestamp"] {
            assert!(error[field].as_str().is_some_and(|text| !text.is_empty()), "`{field}` in {text}");
        }
        assert!(is_time(&error["timestamp"]), "{text}");
        assert!(error["details"].is_object(), "{text}");
        assert_eq!(error["trace_id"], self.header("x-request-id").expect("x-request-id"), "{text}");
        let kind = match status {
            401 => "authentication_error",
            422 => "validation_error",
            429 => "rate_limit_error",
            500.. => "server_error",
            _ => "client_error",
        };
        assert_eq!(error["type"], kind, "{text}");
        assert_eq!(self.header("www-authenticate").is_some(), status == 401, "{text}");
        assert!(![408, 409].contains(&status), "the client would repeat the call");
        error
    }

    /// Itself, being `INVALID_FIELD_VALUE` of this field.
    #[track_caller]
    pub(crate) fn bad_value(&self, field: &str) -> Value {
        let error = self.fault(400, "INVALID_FIELD_VALUE");
        assert_eq!(error["details"]["field"], field, "{error}");
        error
    }

    /// Itself, being `VALIDATION_ERROR` that names this field.
    #[track_caller]
    pub(crate) fn wrong_type(&self, field: &str) -> Value {
        let error = self.fault(422, "VALIDATION_ERROR");
        let errors = error["details"]["errors"].as_array().expect("errors");
        assert!(errors.iter().any(|e| e["field"] == field && e["reason"].is_string()), "`{field}` in {error}");
        error
    }
}

/// RFC 3339, UTC, whole seconds.
pub(crate) fn is_time(value: &Value) -> bool {
    let text = value.as_str().unwrap_or_default();
    text.len() == 20 && text.ends_with('Z') && text.parse::<jiff::Timestamp>().is_ok()
}

impl Call<'_> {
    /// The answer, which must be this error and must have changed nothing.
    pub(crate) async fn faulty(self, status: u16, code: &str) -> Value {
        let server = self.server();
        let before = server.state().await;
        let error = self.send().await.fault(status, code);
        server.unchanged(&before).await;
        error
    }
}

impl Server {
    /// A path of the organization in this API.
    pub(crate) fn files(&self, rest: &str) -> String {
        format!("/v1/organizations/{}/files{rest}", self.tenant)
    }

    /// Asks for an upload URL.
    pub(crate) fn ask(&self, body: &Value) -> Call<'_> {
        self.call("POST", self.files("/upload-url")).json(body)
    }

    /// A session for so many bytes.
    pub(crate) async fn session(&self, size: u64) -> Session {
        let body = json!({ "filename": "a.bin", "file_size": size, "mime_type": "application/octet-stream" });
        Session::of(&self.ask(&body).send().await.expect(200).json(), size)
    }

    /// A call that registers a session's file.
    pub(crate) fn register(&self, session: &Session) -> Call<'_> {
        self.call("POST", self.files("")).json(session.registration())
    }

    /// A registered file with this content.
    pub(crate) async fn file(&self, content: &[u8]) -> Value {
        let session = self.session(content.len() as u64).await;
        whole(&self.http, &session.url, content).await.expect(200);
        self.register(&session).send().await.expect(201).json()
    }
}

/// A session as its opener was told about it.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    pub(crate) url: String,
    pub(crate) path: String,
    pub(crate) file: String,
    pub(crate) size: u64,
}

impl Session {
    pub(crate) fn of(body: &Value, size: u64) -> Self {
        let text = |name: &str| body[name].as_str().expect(name).to_owned();
        Self { url: text("upload_url"), path: text("gcs_path"), file: text("file_id"), size }
    }

    pub(crate) fn registration(&self) -> Value {
        let mime_type = "application/octet-stream";
        json!({ "filename": "a.bin", "gcs_path": self.path, "file_size": self.size, "mime_type": mime_type })
    }
}

/// A PUT of bytes with a Content-Range, or without.
pub(crate) async fn put(http: &reqwest::Client, url: &str, range: &str, body: &[u8]) -> Reply {
    let mut request = http.put(url).body(body.to_vec());
    if !range.is_empty() {
        request = request.header("Content-Range", range);
    }
    Reply::read(request.send().await.expect("an answer")).await
}

/// A PUT of everything.
pub(crate) async fn whole(http: &reqwest::Client, url: &str, body: &[u8]) -> Reply {
    let request = http.put(url).header("Content-Type", "application/octet-stream").body(body.to_vec());
    Reply::read(request.send().await.expect("an answer")).await
}

/// A PUT of a stream in chunked transfer encoding.
pub(crate) async fn streamed<S>(http: &reqwest::Client, url: &str, range: &str, body: S) -> Reply
where
    S: Stream<Item = Result<Bytes, std::io::Error>> + Send + Sync + 'static,
{
    let mut request = http.put(url).body(reqwest::Body::wrap_stream(body));
    if !range.is_empty() {
        request = request.header("Content-Range", range);
    }
    Reply::read(request.send().await.expect("an answer")).await
}

/// Asks how far it has come.
pub(crate) async fn status(http: &reqwest::Client, url: &str) -> Reply {
    put(http, url, "bytes */*", b"").await
}

/// How many bytes a 308 says to be there.
#[track_caller]
pub(crate) fn offset(reply: &Reply) -> u64 {
    assert_eq!(reply.status, 308, "{}", reply.text());
    assert_eq!(reply.header("location"), None);
    assert_eq!(reply.header("content-length"), Some("0"));
    assert_eq!(reply.body, b"");
    match reply.header("range") {
        None => 0,
        Some(range) => range.strip_prefix("bytes=0-").expect(range).parse::<u64>().expect(range) + 1,
    }
}

/// Base64 of the MD5 and the CRC-32C, as a finished object tells them.
pub(crate) fn hashes(content: &[u8]) -> (String, String) {
    use md5::Digest as _;
    let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, content) as u32;
    (crate::harness::base64(&md5::Md5::digest(content)), crate::harness::base64(&crc.to_be_bytes()))
}

/// The finished object, which must be of these bytes.
#[track_caller]
pub(crate) fn finished(reply: &Reply, content: &[u8]) -> Value {
    assert_eq!(reply.status, 200, "{}", reply.text());
    let object = reply.json();
    let (md5, crc32c) = hashes(content);
    assert_eq!(object["size"], content.len().to_string(), "{object}");
    assert_eq!((&object["md5Hash"], &object["crc32c"]), (&json!(md5), &json!(crc32c)), "{object}");
    object
}
