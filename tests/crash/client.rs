//! What a vendor's client does: asks for a container, puts the bytes, pushes the item, and begins again where it has
//! no answer.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::Value;

use crate::Outcome;

const SOCKET_PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(':'));
        lines.find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }

    fn text(&self, name: &str) -> Outcome<String> {
        let json: Value = serde_json::from_slice(&self.body).map_err(|e| format!("not JSON ({e}): {self:?}"))?;
        json[name].as_str().map(str::to_owned).ok_or_else(|| format!("no `{name}` in {json}"))
    }
}

/// A client of one server.
#[derive(Clone, Debug)]
pub struct Client {
    pub port: u16,
    pub key: String,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Container {
    pub id: String,
    pub url: String,
}

/// One upload: what is to be done, and how much of it the server has acknowledged.
#[derive(Clone, Debug)]
pub struct Upload {
    pub document: &'static str,
    pub body: Vec<u8>,
    pub acked: Acked,
}

/// What the client has read an answer for. All of it must survive.
#[derive(Clone, Debug, Default)]
pub struct Acked {
    pub container: Option<Container>,
    pub put: bool,
    /// Ordering id and request id.
    pub push: Option<(String, String)>,
}

/// Why a step has no answer.
#[derive(Debug)]
pub enum Failed {
    /// The connection broke, as it does when a server dies.
    Cut(io::Error),
    /// An answer that is not the one.
    Answer(String),
}

impl Failed {
    pub fn said(self) -> String {
        match self {
            Self::Cut(error) => format!("no answer: {error}"),
            Self::Answer(text) => text,
        }
    }
}

impl From<String> for Failed {
    fn from(text: String) -> Self {
        Self::Answer(text)
    }
}

impl Client {
    /// One request on its own connection.
    pub fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> io::Result<Reply> {
        self.send_framed(method, path, headers, &format!("Content-Length: {}", body.len()), body)
    }

    /// A request whose body's length nobody tells.
    pub fn send_in_chunks(&self, method: &str, path: &str, body: &[u8]) -> io::Result<Reply> {
        let mut chunked = Vec::with_capacity(body.len() + body.len() / 1000 + 16);
        for chunk in body.chunks(64 * 1024) {
            chunked.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
            chunked.extend_from_slice(chunk);
            chunked.extend_from_slice(b"\r\n");
        }
        chunked.extend_from_slice(b"0\r\n\r\n");
        self.send_framed(method, path, &[], "Transfer-Encoding: chunked", &chunked)
    }

    fn send_framed(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        framing: &str,
        body: &[u8],
    ) -> io::Result<Reply> {
        let mut socket = TcpStream::connect(("127.0.0.1", self.port))?;
        socket.set_read_timeout(Some(SOCKET_PATIENCE))?;
        socket.set_write_timeout(Some(SOCKET_PATIENCE))?;
        let mut head =
            format!("{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nConnection: close\r\n{framing}\r\n", self.port);
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        // An early answer may come while the body is refused: it is read all the same.
        let written = socket.write_all(head.as_bytes()).and_then(|()| socket.write_all(body));
        let mut answer = Vec::new();
        let read = socket.read_to_end(&mut answer);
        match parse(&answer) {
            Some(reply) => Ok(reply),
            None => Err(written.and(read.map(drop)).err().unwrap_or_else(|| io::ErrorKind::UnexpectedEof.into())),
        }
    }

    fn call(&self, method: &str, path: &str, body: &[u8], wanted: u16) -> Result<Reply, Failed> {
        let authorization = format!("Bearer {}", self.key);
        let headers = [("Authorization", authorization.as_str()), ("Content-Type", "application/json")];
        expect(self.send(method, path, &headers, body), wanted)
    }

    /// `POST …/files`.
    pub fn container(&self) -> Result<Container, Failed> {
        let reply = self.call("POST", "/push/v1/organizations/default/files", b"{}", 201)?;
        Ok(Container { id: reply.text("fileId")?, url: reply.text("uploadUri")? })
    }

    /// The PUT to a container's URL, whatever the answer.
    pub fn put_any(&self, container: &Container, body: &[u8]) -> io::Result<Reply> {
        let origin = format!("http://127.0.0.1:{}", self.port);
        let path = container.url.strip_prefix(&origin).expect("the upload URL is the server's own");
        let headers = [("Content-Type", "application/octet-stream"), ("x-amz-server-side-encryption", "AES256")];
        self.send("PUT", path, &headers, body)
    }

    /// The PUT to a container's URL.
    pub fn put(&self, container: &Container, body: &[u8]) -> Result<(), Failed> {
        expect(self.put_any(container, body), 200).map(drop)
    }

    /// The push of one item whose content is the container's.
    pub fn push(&self, document: &str, container: &Container) -> Result<(String, String), Failed> {
        let path = format!(
            "/push/v1/organizations/default/sources/default-files/documents?documentId=test%3A%2F%2F{document}&compressionType=UNCOMPRESSED"
        );
        let body = format!(
            r#"{{"FileExtension":".txt","title":"A document","CompressedBinaryDataFileId":"{}"}}"#,
            container.id
        );
        let reply = self.call("PUT", &path, body.as_bytes(), 202)?;
        Ok((reply.text("orderingId")?, reply.text("requestId")?))
    }

    /// The documents that a search finds.
    pub fn found(&self, word: &str) -> Outcome<Vec<String>> {
        let path = format!("/landfall/v1/sources/default-files/items?query={word}");
        let reply = self.call("GET", &path, b"", 200).map_err(|e| format!("a search: {}", e.said()))?;
        let json: Value = serde_json::from_slice(&reply.body).map_err(|e| e.to_string())?;
        let items = json["items"].as_array().ok_or_else(|| format!("no items in {json}"))?;
        let id = |item: &Value| item["document_id"].as_str().map(|id| id.trim_start_matches("test://").to_owned());
        items.iter().map(|item| id(item).ok_or_else(|| format!("no id in {item}"))).collect()
    }

    /// The bytes of an item, by download.
    pub fn content(&self, document: &str) -> Outcome<Vec<u8>> {
        let path = format!("/landfall/v1/sources/default-files/item/content?document_id=test%3A%2F%2F{document}");
        self.call("GET", &path, b"", 200).map(|reply| reply.body).map_err(|e| format!("a download: {}", e.said()))
    }

    /// Every step of an upload that has no answer yet, in order, up to the first that gets none.
    pub fn go_on(&self, upload: &mut Upload) -> Result<(), Failed> {
        let container = match &upload.acked.container {
            Some(container) => container.clone(),
            None => upload.acked.container.insert(self.container()?).clone(),
        };
        if !upload.acked.put {
            self.put(&container, &upload.body)?;
            upload.acked.put = true;
        }
        if upload.acked.push.is_none() {
            upload.acked.push = Some(self.push(upload.document, &container)?);
        }
        Ok(())
    }

    /// The same where every step must get its answer.
    pub fn finish(&self, upload: &mut Upload) -> Outcome {
        self.go_on(upload).map_err(|failed| format!("the client's retry: {}", failed.said()))
    }
}

pub fn expect(reply: io::Result<Reply>, wanted: u16) -> Result<Reply, Failed> {
    match reply {
        Ok(reply) if reply.status == wanted => Ok(reply),
        Ok(reply) => Err(Failed::Answer(format!(
            "{} instead of {wanted}: {}",
            reply.status,
            String::from_utf8_lossy(&reply.body)
        ))),
        Err(error) => Err(Failed::Cut(error)),
    }
}

/// A whole answer, or nothing: half an answer acknowledges nothing.
fn parse(answer: &[u8]) -> Option<Reply> {
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&answer[..end]).ok()?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let length: usize = head
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))?
        .1
        .trim()
        .parse()
        .ok()?;
    let body = answer.get(end + 4..end + 4 + length)?.to_vec();
    Some(Reply { status, head: head.to_owned(), body })
}
