//! An authority that issues certificates by ACME: Let's Encrypt's own test server pebble, which refuses every other nonce,
//! with a name server beside it that leads every name to this machine.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::json;

use crate::postgres::port;
use crate::process::{Guarded, fetched};

const VERSION: &str = "v2.10.3";
const TRIES: usize = 1_000;
const PAUSE: Duration = Duration::from_millis(20);

/// A program of pebble's module, built if it is not there yet.
fn program(name: &str) -> PathBuf {
    fetched("go_program", &format!("github.com/letsencrypt/pebble/v2/cmd/{name}"), VERSION)
}

/// An authority: planned, running, or away.
#[derive(Debug)]
pub(crate) struct Pebble {
    folder: tempfile::TempDir,
    http: reqwest::Client,
    listen: u16,
    management: u16,
    names: u16,
    names_management: u16,
    running: Vec<Guarded>,
}

impl Pebble {
    /// Its place and its own certificate; nothing runs yet.
    pub(crate) fn planned() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let own = CertificateParams::new(vec!["127.0.0.1".into()]).unwrap().signed_by(&key, &root).unwrap();
        for (name, text) in [("root.pem", root.pem()), ("own.pem", own.pem()), ("own.key", key.serialize_pem())] {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let trusted = reqwest::Certificate::from_pem(root.pem().as_bytes()).unwrap();
        let http = reqwest::Client::builder().no_proxy().user_agent("test").tls_certs_only([trusted]).build().unwrap();
        let [listen, management, names, names_management] = [(); 4].map(|()| port::free());
        Self { folder, http, listen, management, names, names_management, running: Vec::new() }
    }

    pub(crate) fn directory(&self) -> String {
        format!("https://127.0.0.1:{}/dir", self.listen)
    }

    /// The file with the root of the directory's own certificate.
    pub(crate) fn trusted(&self) -> PathBuf {
        self.folder.path().join("root.pem")
    }

    /// Runs it: it examines names at this port and issues for so long. What it knew before it has forgotten.
    pub(crate) async fn run(&mut self, examined_port: u16, life: Duration) {
        self.stop();
        let config = json!({ "pebble": {
            "listenAddress": format!("127.0.0.1:{}", self.listen),
            "managementListenAddress": format!("127.0.0.1:{}", self.management),
            "certificate": self.folder.path().join("own.pem"),
            "privateKey": self.folder.path().join("own.key"),
            "httpPort": 1,
            "tlsPort": examined_port,
            "ocspResponderURL": "",
            "externalAccountBindingRequired": false,
            "domainBlocklist": ["blocked.example.com"],
            "retryAfter": { "authz": 1, "order": 1 },
            "profiles": { "default": { "description": "the only one", "validityPeriod": life.as_secs() } },
        }});
        let path = self.folder.path().join("pebble.json");
        std::fs::write(&path, config.to_string()).unwrap();
        let log = File::options().create(true).append(true).open(self.folder.path().join("log")).unwrap();
        let (pebble, names) =
            tokio::task::spawn_blocking(|| (program("pebble"), program("pebble-challtestsrv"))).await.unwrap();
        let at = |port: u16| format!("127.0.0.1:{port}");
        let mut server = Command::new(names);
        server.args(["-http01", "", "-https01", "", "-tlsalpn01", "", "-doh", "", "-defaultIPv6", ""]);
        server.args(["-dnsserver", &at(self.names), "-management", &at(self.names_management)]);
        let mut authority = Command::new(pebble);
        authority.arg("-config").arg(&path).args(["-dnsserver", &at(self.names)]);
        // Every other nonce is refused, and nothing that was proved once is believed again.
        authority.env("PEBBLE_VA_NOSLEEP", "1").env("PEBBLE_WFE_NONCEREJECT", "50").env("PEBBLE_AUTHZREUSE", "0");
        for command in [&mut server, &mut authority] {
            command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log.try_clone().unwrap());
            self.running.push(Guarded(command.spawn().unwrap()));
        }
        for _ in 0..TRIES {
            let names = self.http.get(format!("http://127.0.0.1:{}/", self.names_management)).send().await;
            if names.is_ok() && self.http.get(self.directory()).send().await.is_ok() {
                return;
            }
            tokio::time::sleep(PAUSE).await;
        }
        panic!("pebble does not answer: {}", self.log());
    }

    /// It goes away.
    pub(crate) fn stop(&mut self) {
        self.running.clear();
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// The root of the certificates that it issues.
    pub(crate) async fn root(&self) -> Vec<u8> {
        let url = format!("https://127.0.0.1:{}/roots/0", self.management);
        self.http.get(url).send().await.unwrap().error_for_status().unwrap().bytes().await.unwrap().to_vec()
    }

    /// From now on it wants this certificate to be renewed between these two times.
    pub(crate) async fn wants(&self, certificate: &[u8], start: &str, end: &str) {
        use base64::Engine as _;
        let base64 = base64::engine::general_purpose::STANDARD.encode(certificate);
        let pem = format!("-----BEGIN CERTIFICATE-----\n{base64}\n-----END CERTIFICATE-----\n");
        let answer = json!({ "suggestedWindow": { "start": start, "end": end } }).to_string();
        let url = format!("https://127.0.0.1:{}/set-renewal-info/", self.management);
        let body = json!({ "Certificate": pem, "ARIResponse": answer }).to_string();
        let answer = self.http.post(url).body(body).send().await.unwrap();
        let status = answer.status();
        assert!(status.is_success(), "{status}: {}", answer.text().await.unwrap());
    }

    /// Leads every name to this address.
    pub(crate) async fn lead_to(&self, address: &str) {
        let url = format!("http://127.0.0.1:{}/set-default-ipv4", self.names_management);
        let body = json!({ "ip": address }).to_string();
        self.http.post(url).body(body).send().await.unwrap().error_for_status().unwrap();
    }
}
