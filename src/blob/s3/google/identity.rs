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
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;
    use crate::config::{Config, Storage};

    const ACCOUNT: &str = "machine@tests.iam.gserviceaccount.com";
    const PEM: &str = include_str!("test_key.pem");

    /// Answers forever as a machine's metadata, a service that exchanges tokens, and one that signs.
    fn serve() -> String {
        serve_with(Arc::default()).0
    }

    /// What is asked of it, and how many of the next questions whose path ends so are answered 503, slowly.
    #[derive(Default)]
    struct Asked {
        paths: Vec<String>,
        refused: Vec<(&'static str, u32)>,
    }

    impl Asked {
        fn count(&self, end: &str) -> usize {
            self.paths.iter().filter(|path| path.ends_with(end)).count()
        }
    }

    type Shared = Arc<std::sync::Mutex<Asked>>;

    fn serve_with(asked_for: Shared) -> (String, Shared) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let told = Arc::clone(&asked_for);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                let mut asked = Vec::new();
                let mut buffer = [0; 65_536];
                let whole = |asked: &[u8]| {
                    let text = String::from_utf8_lossy(asked).into_owned();
                    let (head, body) = text.split_once("\r\n\r\n")?;
                    let length = head.to_lowercase().split_once("content-length: ").map_or(0, |(_, rest)| {
                        rest.split("\r\n").next().and_then(|length| length.parse().ok()).unwrap_or(0)
                    });
                    (body.len() >= length).then(|| (head.to_lowercase(), body.to_owned()))
                };
                let (head, body) = loop {
                    if let Some(asked) = whole(&asked) {
                        break asked;
                    }
                    match stream.read(&mut buffer) {
                        Ok(n) if n > 0 => asked.extend_from_slice(&buffer[..n]),
                        _ => break Default::default(),
                    }
                };
                let path = head.split(' ').nth(1).unwrap_or_default();
                let token = |token: &str| json!({ "access_token": token, "expires_in": 3600 }).to_string();
                let is_refused = {
                    let mut asked_for = asked_for.lock().unwrap();
                    let bare = path.split('?').next().unwrap_or_default().to_owned();
                    asked_for.paths.push(bare.clone());
                    let refused = asked_for.refused.iter_mut().find(|(end, times)| *times > 0 && bare.ends_with(end));
                    refused.map(|(_, times)| *times -= 1).is_some()
                };
                if is_refused {
                    std::thread::sleep(Duration::from_millis(50));
                    let head = "HTTP/1.1 503 x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
                    let _ = stream.write_all(head.as_bytes());
                    continue;
                }
                let (status, answer) = match path.split('?').next().unwrap_or_default() {
                    path if path.starts_with("/computemetadata/") && !head.contains("metadata-flavor: google") => {
                        (403, String::new())
                    }
                    path if path.ends_with("/default/token") => (200, token("of-the-machine")),
                    path if path.ends_with("/default/email") => (200, format!("{ACCOUNT}\n")),
                    "/token" => (200, token("of-the-key")),
                    "/exchange" if body.contains("a-subject-token") => (200, token("federated")),
                    path if path.contains(":signblob") && head.contains("authorization: bearer federated") => {
                        (403, String::new())
                    }
                    path if path == format!("/v1/projects/-/serviceaccounts/{ACCOUNT}:signblob") => {
                        let asked: serde_json::Value = serde_json::from_str(&body).unwrap_or_default();
                        let payload = BASE64.decode(asked["payload"].as_str().unwrap_or_default()).unwrap_or_default();
                        let key = json!({ "type": "service_account", "client_email": ACCOUNT, "private_key": PEM });
                        let signature = Key::read(key.to_string().as_bytes()).unwrap().unwrap().sign(&payload).unwrap();
                        (200, json!({ "keyId": "k", "signedBlob": BASE64.encode(signature) }).to_string())
                    }
                    _ => (404, String::new()),
                };
                let length = answer.len();
                let head = format!("HTTP/1.1 {status} x\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
                let _ = stream.write_all(format!("{head}{answer}").as_bytes());
            }
        });
        (address.to_string(), told)
    }

    /// A service account whose tokens are exchanged there.
    fn of_key(host: &str, folder: &std::path::Path) -> Identity {
        let file = folder.join("key.json");
        let key = json!({ "type": "service_account", "client_email": ACCOUNT, "private_key": PEM,
                          "token_uri": format!("http://{host}/token") });
        std::fs::write(&file, key.to_string()).unwrap();
        identity(&format!("gs://bytes?credentials={}", file.display()), &[])
    }

    fn identity(url: &str, environment: &[(&str, &str)]) -> Identity {
        let mut config = Config::default();
        config.set_text("storage", url).unwrap();
        let Storage::Bucket(bucket) = &config.storage else { panic!("{url}") };
        let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Identity::new(bucket, environment).unwrap()
    }

    fn ask(date: Timestamp) -> PresignRequest<'static> {
        PresignRequest {
            method: "PUT",
            scheme: "https",
            host: "storage.googleapis.com",
            path: "/bytes/k",
            query: &[],
            signed_headers: &[],
            date,
            expires_seconds: 900,
        }
    }

    #[tokio::test]
    async fn a_machine_asks_next_door_and_has_its_account_sign() {
        let host = serve();
        let machine = [("GCE_METADATA_HOST", host.as_str())];
        let date = Timestamp::parse("2026-01-02T03:04:05Z").unwrap();
        let mut own = identity("gs://bytes", &machine);
        own.iam = format!("http://{host}");
        assert_eq!(own.token().await.unwrap().as_deref(), Some("of-the-machine"));
        let urls = own.sign(&[ask(date), ask(date)]).await.unwrap();
        // The same as the key would have signed.
        let key = json!({ "type": "service_account", "client_email": ACCOUNT, "private_key": PEM });
        let key = Key::read(key.to_string().as_bytes()).unwrap().unwrap();
        let url = GoogleUrl::new(ACCOUNT, &ask(date));
        let signature = key.sign(url.to_sign()).unwrap();
        let wanted = url.signed(&signature);
        assert_eq!(urls, [wanted.clone(), wanted]);
        // In another's name, which is refused.
        let mut other = identity("gs://bytes?signer=other@tests.iam.gserviceaccount.com", &machine);
        other.iam = format!("http://{host}");
        let refused = other.sign(&[ask(date)]).await.unwrap_err();
        assert!(refused.what.contains("signing for clients") && refused.what.contains("404"), "{refused}");
    }

    #[tokio::test]
    async fn a_federated_identity_is_exchanged_and_signs_nothing_by_itself() {
        let host = serve();
        let folder = tempfile::tempdir().unwrap();
        let (file, subject) = (folder.path().join("federation.json"), folder.path().join("subject"));
        std::fs::write(&subject, "a-subject-token").unwrap();
        let told = json!({
            "type": "external_account",
            "audience": "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/q",
            "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
            "token_url": format!("http://{host}/exchange"),
            "credential_source": { "file": subject, "format": { "type": "text" } },
        });
        std::fs::write(&file, told.to_string()).unwrap();
        let url = format!("gs://bytes?credentials={}", file.display());
        let own = identity(&url, &[]);
        assert_eq!(own.token().await.unwrap().as_deref(), Some("federated"));
        let refused = own.sign(&[ask(Timestamp(0))]).await.unwrap_err();
        assert!(refused.what.contains("`signer=`"), "{refused}");
        let mut signer = identity(&format!("{url}&signer={ACCOUNT}"), &[]);
        signer.iam = format!("http://{host}");
        let refused = signer.sign(&[ask(Timestamp(0))]).await.unwrap_err();
        assert!(refused.kind == Kind::Denied && refused.what.contains("lack a permission"), "{refused}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn many_that_are_refused_ask_for_one_token() {
        let (host, asked) = serve_with(Arc::default());
        let folder = tempfile::tempdir().unwrap();
        let own = Arc::new(of_key(&host, folder.path()));
        assert!(own.token().await.unwrap().is_some());
        // All had the token that is good no more.
        let each = (0..20).map(|_| {
            let own = Arc::clone(&own);
            tokio::spawn(async move {
                own.forget().await;
                own.token().await.unwrap()
            })
        });
        for told in each.collect::<Vec<_>>() {
            assert_eq!(told.await.unwrap().as_deref(), Some("of-the-key"));
        }
        assert_eq!(asked.lock().unwrap().count("/token"), 2);
        // Later it may be another matter.
        own.clock.advance(PAUSE);
        own.forget().await;
        own.token().await.unwrap();
        assert_eq!(asked.lock().unwrap().count("/token"), 3);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn while_nobody_gives_tokens_the_last_one_is_used_and_nobody_waits_for_all_others() {
        let (host, asked) = serve_with(Arc::default());
        let folder = tempfile::tempdir().unwrap();
        let own = Arc::new(of_key(&host, folder.path()));
        asked.lock().unwrap().refused.push(("/token", 1000));
        let many = async || {
            let each = (0..20).map(|_| {
                let own = Arc::clone(&own);
                tokio::spawn(async move { own.token().await })
            });
            let told = futures_util::future::join_all(each.collect::<Vec<_>>()).await;
            let asked = std::mem::take(&mut asked.lock().unwrap().paths).len();
            (told.into_iter().map(Result::unwrap).collect::<Vec<_>>(), asked)
        };
        let (told, calls) = many().await;
        assert!(told.iter().all(Result::is_err) && calls <= 3, "{calls}");
        asked.lock().unwrap().refused.clear();
        assert!(many().await.0.iter().all(Result::is_ok), "at once, when it is there");
        // Shortly before the token ends, nobody gives another.
        own.clock.advance(Duration::from_secs(3600 - 60));
        asked.lock().unwrap().refused.push(("/token", 1000));
        asked.lock().unwrap().paths.clear();
        for _ in 0..3 {
            let (told, calls) = many().await;
            assert!(told.iter().all(Result::is_ok) && calls <= 1, "{calls}");
        }
        own.clock.advance(Duration::from_secs(61));
        assert!(own.token().await.is_err(), "it has ended");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_machine_that_does_not_say_its_account_once_is_asked_again() {
        let (host, asked) = serve_with(Arc::default());
        let mut own = identity("gs://bytes", &[("GCE_METADATA_HOST", host.as_str())]);
        own.iam = format!("http://{host}");
        let refuse = |times| asked.lock().unwrap().refused.push(("/default/email", times));
        refuse(1);
        assert!(own.token().await.unwrap().is_some(), "bytes need none");
        assert_eq!(own.sign(&[ask(Timestamp(0))]).await.unwrap_err().kind, Kind::Passing);
        assert!(own.sign(&[ask(Timestamp(0))]).await.is_ok());
        // It stays known with the next token, and signing that fails once is tried again.
        own.clock.advance(Duration::from_secs(3600));
        refuse(1000);
        asked.lock().unwrap().refused.push((":signblob", 1));
        assert!(own.sign(&[ask(Timestamp(0))]).await.is_ok());
        assert!(own.token().await.unwrap().is_some());
        assert!(own.sign(&[ask(Timestamp(0))]).await.is_ok());
    }

    #[tokio::test]
    async fn who_is_nobody_is_told_what_to_set() {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().to_str().unwrap();
        let broken = folder.path().join("broken.json");
        std::fs::write(&broken, "SECRET").unwrap();
        for (url, named) in [
            ("gs://bytes".to_owned(), None),
            (format!("gs://bytes?credentials={home}/none"), None),
            (format!("gs://bytes?credentials={}", broken.display()), None),
            ("gs://bytes".to_owned(), Some(broken.to_str().unwrap())),
        ] {
            let mut environment = vec![("HOME", home), ("NO_GCE_CHECK", "true")];
            environment.extend(named.map(|path| ("GOOGLE_APPLICATION_CREDENTIALS", path)));
            let refused = identity(&url, &environment).token().await.unwrap_err();
            assert!(refused.what.contains("GOOGLE_APPLICATION_CREDENTIALS"), "{refused}");
            assert!(!refused.what.contains("SECRET"));
        }
        let nobody = identity("gs://bytes?endpoint=http://127.0.0.1:9&credentials=none", &[]);
        assert_eq!(nobody.token().await.unwrap(), None);
        assert!(nobody.sign(&[ask(Timestamp(0))]).await.unwrap_err().what.contains("`credentials=`"));
    }
}
