//! Who we are to Google, asked of a machine that plays its services.

use std::io::{Read, Write};
use std::net::TcpListener;

use super::*;
use crate::config::{Config, Storage};

const ACCOUNT: &str = "machine@tests.iam.gserviceaccount.com";
const PEM: &str = include_str!("../test_key.pem");

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
