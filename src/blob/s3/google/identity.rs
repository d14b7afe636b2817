//! Who we are to Google. A service account's key is ours to read, because it signs clients' URLs; where all others come
//! from is known by `reqsign`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use futures_util::StreamExt;
use http::{Method, header};
use reqsign_core::{Context, ProvideCredential};
use reqsign_google::{Credential, StaticCredentialProvider, VmMetadataCredentialProvider, WellKnownCredentialProvider};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::Mutex;

use super::key::{Key, TOKEN_SECONDS};
use crate::blob::remote::{self, Adapters, Fault, Kind, not_told};
use crate::clock::{Clock, Timestamp};
use crate::config::Bucket;
use crate::outbound::OutboundError;
use crate::sigv4::{GoogleUrl, PresignRequest};

/// A token is asked for again so long before it ends.
const BEFORE: Duration = Duration::from_secs(120);
/// As long as it holds for this time, it is used where no other is to be had.
const LAST: Duration = Duration::from_secs(10);
/// One that was asked for in vain is not asked for again so soon, nor is one that was refused: what it may not do, the next one
/// may not either.
const PAUSE: Duration = Duration::from_secs(5);
/// One that does not say when it ends is used for so long.
const UNTOLD: Duration = Duration::from_secs(600);
/// Signs what others are not to have a key for.
const IAM: &str = "https://iamcredentials.googleapis.com";
/// Signatures that are asked of it at once.
const SIGNING: usize = 8;

/// The credentials of one store.
pub(super) struct Identity {
    context: Context,
    clock: Clock,
    environment: HashMap<String, String>,
    file: Option<String>,
    anonymous: bool,
    signer: Option<String>,
    iam: String,
    current: Mutex<Current>,
}

/// What is known of them now.
#[derive(Clone, Default)]
struct Current {
    key: Option<Arc<Key>>,
    token: Option<(String, Timestamp)>,
    /// The account that a token can have things signed for.
    account: Option<String>,
    /// Does the machine know which account that is?
    of_machine: bool,
    /// Why the last question was in vain, and when that was known.
    failed: Option<(Fault, Duration)>,
    /// When something was forgotten last.
    forgotten: Option<Duration>,
}

impl Current {
    /// The token, if it holds until then.
    fn until(&self, then: Timestamp) -> Option<String> {
        self.token.as_ref().filter(|(_, ends)| *ends > then).map(|(token, _)| token.clone())
    }
}

#[derive(Deserialize)]
struct Exchanged {
    access_token: String,
    expires_in: Option<u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SignedBlob {
    signed_blob: String,
}

fn nobody(why: &str) -> Fault {
    remote::nobody(
        why,
        "Set `credentials=` a file in `storage`, or GOOGLE_APPLICATION_CREDENTIALS, or give the machine a service account",
    )
}

impl Identity {
    pub(super) fn new(bucket: &Bucket, environment: HashMap<String, String>) -> Result<Self, OutboundError> {
        let named = environment.get("GOOGLE_APPLICATION_CREDENTIALS").filter(|path| !path.is_empty()).cloned();
        let own = bucket.credentials.as_ref().map(|path| path.display().to_string());
        Ok(Self {
            context: Adapters::new()?.context(environment.clone()),
            clock: Clock::system(),
            environment,
            file: own.or(named),
            anonymous: bucket.anonymous,
            signer: bucket.signer.clone(),
            iam: IAM.into(),
            current: Mutex::default(),
        })
    }

    /// A token that holds for some minutes more; `None` for whoever says nothing of himself.
    pub(super) async fn token(&self) -> Result<Option<String>, Fault> {
        if self.anonymous {
            return Ok(None);
        }
        let came = self.clock.monotonic();
        // Whoever comes meanwhile waits for the one that asks, and hears what that one has heard.
        let mut current = self.current.lock().await;
        if let Some(token) = current.until(self.clock.now().plus(BEFORE)) {
            return Ok(Some(token));
        }
        let last = current.until(self.clock.now().plus(LAST));
        let failed = current.failed.clone().filter(|(_, at)| {
            let again = if last.is_some() { at.saturating_add(PAUSE) } else { *at };
            came <= again
        });
        let fault = match failed {
            Some((fault, _)) => fault,
            None => match self.renew(&mut current).await {
                Ok(token) => return Ok(Some(token)),
                Err(fault) => {
                    current.failed = Some((fault.clone(), self.clock.monotonic()));
                    fault
                }
            },
        };
        last.map(Some).ok_or(fault)
    }

    /// Asks for everything anew. What is known stays until there is something in its place.
    async fn renew(&self, current: &mut Current) -> Result<String, Fault> {
        let mut fresh = self.load().await?;
        if let Some(key) = fresh.key.clone() {
            fresh.token = Some(self.exchange(&key).await?);
        }
        fresh.account = fresh.account.or_else(|| current.account.take());
        fresh.forgotten = current.forgotten;
        *current = fresh;
        current.token.as_ref().map(|(token, _)| token.clone()).ok_or_else(|| nobody("none were found"))
    }

    /// The store refused it: everything is asked for anew. Many may have been refused at once, one after the other while the first
    /// has long had another, and a permission that lacks is no reason to ask each time.
    pub(super) async fn forget(&self) {
        let now = self.clock.monotonic();
        let mut current = self.current.lock().await;
        if current.forgotten.is_none_or(|last| now >= last.saturating_add(PAUSE)) {
            *current = Current { forgotten: Some(now), ..Current::default() };
        }
    }

    async fn load(&self) -> Result<Current, Fault> {
        if let Some(file) = &self.file {
            let content = self.context.file_read(file).await.map_err(|_| nobody("the file can't be read"))?;
            if let Some(key) = Key::read(&content).map_err(|why| nobody(&why))? {
                return Ok(Current { key: Some(Arc::new(key)), ..Current::default() });
            }
            let content = String::from_utf8(content).map_err(|_| nobody("the file is no text"))?;
            return self.found(StaticCredentialProvider::new(content).provide_credential(&self.context).await);
        }
        let shared = WellKnownCredentialProvider::new().provide_credential(&self.context).await;
        if matches!(shared, Ok(Some(_))) || self.environment.get("NO_GCE_CHECK").is_some_and(|no| no == "true") {
            return self.found(shared);
        }
        let found = self.found(VmMetadataCredentialProvider::new().provide_credential(&self.context).await)?;
        Ok(Current { of_machine: true, ..found })
    }

    fn found(&self, provided: reqsign_core::Result<Option<Credential>>) -> Result<Current, Fault> {
        match provided {
            Ok(Some(Credential { token: Some(token), signer_email, .. })) => {
                let seconds = token.expires_at.map(|ends| ends.as_second().saturating_mul(1000));
                let ends = seconds.map_or_else(|| self.clock.now().plus(UNTOLD), Timestamp);
                Ok(Current { token: Some((token.access_token, ends)), account: signer_email, ..Current::default() })
            }
            Ok(_) => Err(nobody("none were found")),
            Err(error) => Err(nobody(&not_told(error))),
        }
    }

    /// The address of this machine's service account.
    async fn machine(&self) -> Option<String> {
        let host = self.environment.get("GCE_METADATA_HOST").map_or("metadata.google.internal", String::as_str);
        let url = format!("http://{host}/computeMetadata/v1/instance/service-accounts/default/email");
        let ask = http::Request::get(url).header("metadata-flavor", "Google").body(Bytes::new()).ok()?;
        let told = self.context.http_send(ask).await.ok().filter(|told| told.status() == 200)?;
        let email = String::from_utf8(told.into_body().to_vec()).ok()?;
        Some(email.trim().to_owned()).filter(|email| email.contains('@'))
    }

    async fn exchange(&self, key: &Key) -> Result<(String, Timestamp), Fault> {
        let now = self.clock.now();
        let form = key.exchange(now).map_err(|why| nobody(&why))?;
        let ask = http::Request::post(&key.token_uri)
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(Bytes::from(form));
        let told: Exchanged = self.asked(ask, "the key's account").await?;
        let seconds = told.expires_in.unwrap_or_else(|| u64::try_from(TOKEN_SECONDS).unwrap_or(0));
        Ok((told.access_token, now.plus(Duration::from_secs(seconds))))
    }

    /// Makes a call to one of Google's services, and reads its answer. What it says stays unsaid: it may quote secrets.
    async fn asked<T: for<'a> Deserialize<'a>>(
        &self,
        ask: http::Result<http::Request<Bytes>>,
        about: &str,
    ) -> Result<T, Fault> {
        let ask = ask.map_err(|_| Fault::lasting(format!("{about}: its address can't be asked")))?;
        let passing = |what: String| Fault { kind: Kind::Passing, what };
        let told = self.context.http_send(ask).await;
        let told = told.map_err(|error| passing(format!("{about}: Google can't be asked ({:?})", error.kind())))?;
        match told.status().as_u16() {
            200 => {
                serde_json::from_slice(told.body()).map_err(|_| passing(format!("{about}: an answer without sense")))
            }
            status @ (408 | 429 | 500..) => Err(passing(format!("{about}: Google answered {status}"))),
            status => Err(Fault {
                kind: Kind::Denied,
                what: format!(
                    "{about}: Google refuses the credentials, or they lack a permission, or this machine's clock is wrong: \
                     {status}"
                ),
            }),
        }
    }

    /// URLs that clients are given, each signed.
    pub(super) async fn sign(&self, asks: &[PresignRequest<'_>]) -> Result<Vec<String>, Fault> {
        let current = self.who_signs().await?;
        if let Some(key) = &current.key {
            let sign = |ask: &PresignRequest<'_>| {
                let url = GoogleUrl::new(&key.account, ask);
                let signature = key.sign(url.to_sign()).map_err(Fault::lasting)?;
                Ok(url.signed(&signature))
            };
            return asks.iter().map(sign).collect();
        }
        let Some(account) = self.signer.as_deref().or(current.account.as_deref()) else {
            return Err(Fault::lasting(
                "URLs for clients need a service account that signs them: set `credentials=` its key in `storage`, or `signer=` \
                 its address, in whose name these credentials may sign",
            ));
        };
        let urls: Vec<GoogleUrl> = asks.iter().map(|ask| GoogleUrl::new(account, ask)).collect();
        let signed = futures_util::stream::iter(urls).map(|url| self.signed_by(account, url)).buffered(SIGNING);
        signed.collect::<Vec<_>>().await.into_iter().collect()
    }

    /// The key, if there is one: it signs without asking anybody.
    async fn who_signs(&self) -> Result<Current, Fault> {
        let mut current = self.current.lock().await;
        if current.key.is_none() && current.token.is_none() && !self.anonymous {
            *current = Current { forgotten: current.forgotten, ..self.load().await? };
        }
        if current.of_machine && current.account.is_none() && self.signer.is_none() {
            current.account = Some(self.machine().await.ok_or_else(|| nobody("the machine does not say its account"))?);
        }
        Ok(current.clone())
    }

    /// Has Google sign in this account's name, with a token that is asked for anew where that was refused.
    async fn signed_by(&self, account: &str, url: GoogleUrl) -> Result<String, Fault> {
        match self.signed_once(account, &url).await {
            Err(fault) if fault.kind == Kind::Denied => self.forget().await,
            Err(fault) if fault.kind == Kind::Passing => {}
            told => return told.map(|signature| url.signed(&signature)),
        }
        let signature = self.signed_once(account, &url).await?;
        Ok(url.signed(&signature))
    }

    async fn signed_once(&self, account: &str, url: &GoogleUrl) -> Result<Vec<u8>, Fault> {
        let token = self.token().await?.unwrap_or_default();
        let ask = http::Request::builder()
            .method(Method::POST)
            .uri(format!("{}/v1/projects/-/serviceAccounts/{account}:signBlob", self.iam))
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::AUTHORIZATION, format!("Bearer {token}"))
            .body(Bytes::from(json!({ "payload": BASE64.encode(url.to_sign()) }).to_string()));
        let told: SignedBlob = self.asked(ask, "signing for clients").await?;
        BASE64.decode(told.signed_blob).map_err(|_| Fault::lasting("Google's signature is none"))
    }
}

#[cfg(test)]
mod tests;
