//! An issuer of bearer tokens on this machine, its keys, and servers that trust it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use aws_lc_rs::encoding::{AsDer as _, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _};
use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{StatusCode, header};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::harness::Server;

pub(crate) const AUDIENCE: &str = "landfall";
pub(crate) const SUBJECT: &str = "client-7";

pub(crate) fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// What an issuer answers.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Mode {
    Well,
    Status(u16),
    Silent,
    Text(String),
    Headers(Vec<(&'static str, String)>),
}

/// An issuer on this machine.
#[derive(Clone)]
pub(crate) struct Issuer {
    pub(crate) url: String,
    pub(crate) told: Arc<Told>,
}

pub(crate) struct Told {
    mode: Mutex<Mode>,
    keys: Mutex<Vec<Value>>,
    pub(crate) document: Mutex<Value>,
    pub(crate) documents: AtomicUsize,
    fetches: AtomicUsize,
}

impl Issuer {
    pub(crate) async fn start(keys: &[&Key]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let told = Arc::new(Told {
            mode: Mutex::new(Mode::Well),
            keys: Mutex::default(),
            document: Mutex::new(json!({ "issuer": url, "jwks_uri": format!("{url}/keys"), "other": [1] })),
            documents: AtomicUsize::new(0),
            fetches: AtomicUsize::new(0),
        });
        let router = Router::new()
            .route("/.well-known/openid-configuration", get(document))
            .route("/keys", get(key_set))
            .with_state(Arc::clone(&told));
        tokio::spawn(async move { axum::serve(listener, router).await });
        let issuer = Self { url, told };
        issuer.has(keys);
        issuer
    }

    /// From now on these are its keys.
    pub(crate) fn has(&self, keys: &[&Key]) {
        self.has_values(keys.iter().map(|key| key.jwk()).collect());
    }

    pub(crate) fn has_values(&self, keys: Vec<Value>) {
        *self.told.keys.lock().unwrap() = keys;
    }

    pub(crate) fn is(&self, mode: Mode) {
        *self.told.mode.lock().unwrap() = mode;
    }

    /// How often its keys were asked for.
    pub(crate) fn fetches(&self) -> usize {
        self.told.fetches.load(Ordering::SeqCst)
    }

    /// A token of it, for us, for an hour by the server's clock.
    pub(crate) fn claims(&self, server: &Server) -> Value {
        let now = server.clock.now().seconds();
        json!({ "iss": self.url, "aud": AUDIENCE, "sub": SUBJECT, "iat": now, "nbf": now, "exp": now + 3600 })
    }

    pub(crate) fn token(&self, server: &Server, key: &Key) -> String {
        key.token(&self.claims(server))
    }
}

async fn document(State(told): State<Arc<Told>>) -> Response {
    told.documents.fetch_add(1, Ordering::SeqCst);
    ([(header::CONTENT_TYPE, "application/json")], told.document.lock().unwrap().to_string()).into_response()
}

async fn key_set(State(told): State<Arc<Told>>) -> Response {
    told.fetches.fetch_add(1, Ordering::SeqCst);
    let mode = told.mode.lock().unwrap().clone();
    let keys = json!({ "keys": *told.keys.lock().unwrap() }).to_string();
    let json = [(header::CONTENT_TYPE, "application/json")];
    match mode {
        Mode::Well => (json, keys).into_response(),
        Mode::Status(status) => StatusCode::from_u16(status).unwrap().into_response(),
        Mode::Silent => std::future::pending().await,
        Mode::Text(text) => (json, text).into_response(),
        Mode::Headers(lines) => {
            let mut response = (json, keys).into_response();
            for (name, value) in lines {
                response.headers_mut().insert(name, value.parse().unwrap());
            }
            response
        }
    }
}

/// A key that signs.
pub(crate) struct Key {
    kid: Option<&'static str>,
    algorithm: &'static str,
    pair: Pair,
}

enum Pair {
    Rsa(RsaKeyPair),
    Ec(EcdsaKeyPair, &'static str),
    Ed(Ed25519KeyPair),
}

impl Key {
    pub(crate) fn rsa(kid: &'static str) -> Self {
        Self::new(Some(kid), "RS256")
    }

    pub(crate) fn new(kid: Option<&'static str>, algorithm: &'static str) -> Self {
        let ec = |signing, curve| Pair::Ec(EcdsaKeyPair::generate(signing).unwrap(), curve);
        let pair = match algorithm {
            "ES256" => ec(&signature::ECDSA_P256_SHA256_FIXED_SIGNING, "P-256"),
            "ES384" => ec(&signature::ECDSA_P384_SHA384_FIXED_SIGNING, "P-384"),
            "ES512" => ec(&signature::ECDSA_P521_SHA512_FIXED_SIGNING, "P-521"),
            "EdDSA" => Pair::Ed(Ed25519KeyPair::generate().unwrap()),
            _ => Pair::Rsa(RsaKeyPair::generate(KeySize::Rsa2048).unwrap()),
        };
        Self { kid, algorithm, pair }
    }

    /// Its public half, as an issuer tells it.
    pub(crate) fn jwk(&self) -> Value {
        let mut jwk = match &self.pair {
            Pair::Rsa(pair) => {
                let key = pair.public_key();
                let (n, e) = (key.modulus().big_endian_without_leading_zero(), key.exponent());
                json!({ "kty": "RSA", "n": encode(n), "e": encode(e.big_endian_without_leading_zero()) })
            }
            Pair::Ec(pair, curve) => {
                let point = &pair.public_key().as_ref()[1..];
                let (x, y) = point.split_at(point.len() / 2);
                json!({ "kty": "EC", "crv": curve, "x": encode(x), "y": encode(y) })
            }
            Pair::Ed(pair) => json!({ "kty": "OKP", "crv": "Ed25519", "x": encode(pair.public_key().as_ref()) }),
        };
        jwk["use"] = "sig".into();
        jwk["alg"] = self.algorithm.into();
        if let Some(kid) = self.kid {
            jwk["kid"] = kid.into();
        }
        jwk
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match &self.pair {
            Pair::Rsa(pair) => {
                let padding: &'static dyn signature::RsaEncoding = match self.algorithm {
                    "RS256" => &signature::RSA_PKCS1_SHA256,
                    "RS384" => &signature::RSA_PKCS1_SHA384,
                    "RS512" => &signature::RSA_PKCS1_SHA512,
                    "PS256" => &signature::RSA_PSS_SHA256,
                    "PS384" => &signature::RSA_PSS_SHA384,
                    _ => &signature::RSA_PSS_SHA512,
                };
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(padding, &random, message, &mut signature).unwrap();
                signature
            }
            Pair::Ec(pair, _) => pair.sign(&random, message).unwrap().as_ref().to_vec(),
            Pair::Ed(pair) => pair.sign(message).as_ref().to_vec(),
        }
    }

    pub(crate) fn token(&self, claims: &Value) -> String {
        let mut head = json!({ "alg": self.algorithm, "typ": "JWT" });
        if let Some(kid) = self.kid {
            head["kid"] = kid.into();
        }
        self.token_with(&head, claims)
    }

    /// A token with this head, signed in truth.
    pub(crate) fn token_with(&self, head: &Value, claims: &Value) -> String {
        let signed = format!("{}.{}", encode(head.to_string()), encode(claims.to_string()));
        let signature = encode(self.sign(signed.as_bytes()));
        format!("{signed}.{signature}")
    }

    /// Its public half as DER and as PEM.
    pub(crate) fn published(&self) -> [Vec<u8>; 2] {
        let Pair::Rsa(pair) = &self.pair else { panic!("not RSA") };
        let der: PublicKeyX509Der<'_> = pair.public_key().as_der().unwrap();
        let body = crate::harness::base64(der.as_ref());
        let lines: Vec<String> = body.as_bytes().chunks(64).map(|l| String::from_utf8(l.to_vec()).unwrap()).collect();
        let pem = format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", lines.join("\n"));
        [der.as_ref().to_vec(), pem.into_bytes()]
    }
}

impl Key {
    /// These claims without a signature, under a head that says so.
    pub(crate) fn unsigned(head: &Value, claims: &Value) -> String {
        format!("{}.{}.", encode(head.to_string()), encode(claims.to_string()))
    }

    /// These claims under its name, signed with something public as if it were a shared secret.
    pub(crate) fn with_secret(&self, secret: &[u8], claims: &Value) -> String {
        let head = json!({ "alg": "HS256", "kid": self.kid });
        let signed = format!("{}.{}", encode(head.to_string()), encode(claims.to_string()));
        let hmac = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, secret);
        format!("{signed}.{}", encode(aws_lc_rs::hmac::sign(&hmac, signed.as_bytes())))
    }
}

/// With some claims changed; null takes one away.
pub(crate) fn but(claims: &Value, changes: Value) -> Value {
    let mut claims = claims.clone();
    for (name, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => drop(claims.as_object_mut().unwrap().remove(name)),
            value => claims[name] = value.clone(),
        }
    }
    claims
}

/// A server whose first tenant trusts an issuer.
pub(crate) async fn trusting(issuer: &Issuer, more: &[&str]) -> Server {
    let server = Server::start().await;
    trust(&server, &server.tenant, issuer, more).await;
    server
}

pub(crate) async fn trust(server: &Server, tenant: &str, issuer: &Issuer, more: &[&str]) -> Value {
    let mut arguments = vec!["tenant", "oidc", "set", tenant, "--issuer", &issuer.url, "--audience", AUDIENCE];
    if !more.contains(&"--rights") && !more.contains(&"--claim") {
        arguments.extend(["--rights", "all"]);
    }
    arguments.extend(more);
    server.admin(&arguments).await
}
