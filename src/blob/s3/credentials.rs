//! Who we are to the store. Where credentials come from, and how a cloud hands out temporary ones, is known by
//! `reqsign`; the calls that it needs are made by [`crate::outbound`], like all others.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use reqsign_aws_core::{
    AssumeRoleWithWebIdentityCredentialProvider, Credential, ECSCredentialProvider, EnvCredentialProvider,
    IMDSv2CredentialProvider, ProfileCredentialProvider,
};
use reqsign_core::{
    Context, Error, FileRead, HttpSend, ProvideCredential, ProvideCredentialChain, SigningCredential, StaticEnv,
};
use tokio::sync::Mutex;

use crate::blob::remote::{Fault, Kind};
use crate::config::Bucket;
use crate::outbound::{Ask, Bounds, Outbound, OutboundError, Payload};

/// An instance's metadata are next door; a service that hands out tokens may be further away.
const BOUNDS: Bounds =
    Bounds { connect: Duration::from_secs(2), whole: Duration::from_secs(10), answer_bytes: 256 * 1024 };

/// The credentials of one store, asked for again shortly before they expire.
pub(super) struct Credentials {
    context: Context,
    chain: ProvideCredentialChain<Credential>,
    current: Mutex<Option<Credential>>,
}

/// Shows nothing.
impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credentials")
    }
}

impl Credentials {
    /// Credentials of the file that the bucket names, of the environment, of the shared files, of a web identity, of the
    /// container, of the instance: the first that there are.
    pub(super) fn new(bucket: &Bucket, environment: HashMap<String, String>) -> Result<Self, OutboundError> {
        let home_dir = environment.get("HOME").map(PathBuf::from);
        let near = Outbound::bounded(BOUNDS, true)?;
        let far = Outbound::bounded(BOUNDS, false)?;
        let context = Context::new()
            .with_http_send(Http { near, far })
            .with_file_read(Files)
            .with_env(StaticEnv { home_dir, envs: environment });
        let profile = || match &bucket.profile {
            Some(profile) => ProfileCredentialProvider::new().with_profile(profile),
            None => ProfileCredentialProvider::new(),
        };
        let chain = match &bucket.credentials {
            Some(file) => {
                let file = file.display().to_string();
                ProvideCredentialChain::new().push(profile().with_credentials_file(&file).with_config_file(&file))
            }
            None => ProvideCredentialChain::new()
                .push(EnvCredentialProvider::new())
                .push(AssumeRoleWithWebIdentityCredentialProvider::new())
                .push(profile())
                .push(ECSCredentialProvider::new())
                .push(IMDSv2CredentialProvider::new()),
        };
        Ok(Self { context, chain, current: Mutex::default() })
    }

    /// Credentials that hold for some minutes more.
    pub(super) async fn get(&self) -> Result<Credential, Fault> {
        // Whoever comes meanwhile waits for the one that asks.
        let mut current = self.current.lock().await;
        if let Some(credential) = current.as_ref().filter(|credential| credential.is_valid()) {
            return Ok(credential.clone());
        }
        let nobody = |why: String| Fault {
            kind: Kind::Passing,
            what: format!(
                "no credentials for the store: {why}. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or \
                 `credentials=` a file in `storage`, or give the machine a role"
            ),
        };
        match self.chain.provide_credential(&self.context).await {
            Ok(Some(credential)) => {
                *current = Some(credential.clone());
                Ok(credential)
            }
            Ok(None) => Err(nobody("none were found".into())),
            // Its own sentence may quote what was answered; the kind says enough.
            Err(error) => Err(nobody(format!("asking for them failed ({:?})", error.kind()))),
        }
    }

    /// The store refused these: they are asked for anew.
    pub(super) async fn forget(&self) {
        *self.current.lock().await = None;
    }
}

/// Calls without a proxy where the address is one of this machine or of its network, which are not encrypted.
#[derive(Debug)]
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
