//! What the crates need that know where credentials come from: calls, which are made by [`crate::outbound`] like all others,
//! files, and the environment.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use reqsign_core::{Context, Error, FileRead, HttpSend, StaticEnv};

use crate::outbound::{Ask, Bounds, Outbound, OutboundError, Payload};

/// An instance's metadata are next door; a service that hands out tokens may be further away.
const BOUNDS: Bounds =
    Bounds { connect: Duration::from_secs(2), whole: Duration::from_secs(10), answer_bytes: 256 * 1024 };

/// Makes contexts for them.
pub(in crate::blob) struct Adapters(Http);

impl Adapters {
    pub(in crate::blob) fn new() -> Result<Self, OutboundError> {
        Ok(Self(Http { near: Outbound::bounded(BOUNDS, true)?, far: Outbound::bounded(BOUNDS, false)? }))
    }

    /// One with this environment.
    pub(in crate::blob) fn context(&self, environment: HashMap<String, String>) -> Context {
        let home_dir = environment.get("HOME").map(PathBuf::from);
        Context::new()
            .with_http_send(self.0.clone())
            .with_file_read(Files)
            .with_env(StaticEnv { home_dir, envs: environment })
    }
}

/// Calls without a proxy where the address is one of this machine or of its network, which are not encrypted.
#[derive(Clone, Debug)]
struct Http {
    near: Outbound,
    far: Outbound,
}

impl HttpSend for Http {
    async fn http_send(&self, request: http::Request<Bytes>) -> reqsign_core::Result<http::Response<Bytes>> {
        let (head, body) = request.into_parts();
        let url = head.uri.to_string();
        let plain = head.uri.scheme_str() != Some("https");
        let mut headers = Vec::new();
        for (name, value) in &head.headers {
            if *name != http::header::CONTENT_LENGTH {
                let value = value.to_str().map_err(|_| Error::unexpected("a header is no text"))?;
                headers.push((name.clone(), value.to_owned()));
            }
        }
        let length = u64::try_from(body.len()).unwrap_or(0);
        let payload = Payload::Stream(length, futures_util::stream::once(async { Ok::<_, io::Error>(body) }).boxed());
        let payload = if head.method == http::Method::GET { Payload::None } else { payload };
        let ask = Ask { method: head.method, url: &url, key: None, headers, payload };
        let client = if plain { &self.near } else { &self.far };
        let (head, body) = client.call(ask).await.map_err(|error| Error::unexpected(error.what))?;
        let mut answer = http::Response::builder().status(head.status);
        for (name, value) in &head.headers {
            answer = answer.header(name, value);
        }
        answer.body(body).map_err(|_| Error::unexpected("an answer that is none"))
    }
}

/// Files, read on a thread that may wait.
#[derive(Debug)]
struct Files;

impl FileRead for Files {
    async fn file_read(&self, path: &str) -> reqsign_core::Result<Vec<u8>> {
        let path = path.to_owned();
        let read = tokio::task::spawn_blocking(move || std::fs::read(path)).await;
        match read {
            Ok(Ok(content)) => Ok(content),
            Ok(Err(error)) => Err(Error::unexpected(format!("a file can't be read: {error}"))),
            Err(_) => Err(Error::unexpected("a file was not read to its end")),
        }
    }
}
