//! The key of a service account: what it signs, and the token that it is exchanged for.

use std::fmt;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeyPair;
use aws_lc_rs::signature::RSA_PKCS1_SHA256;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;
use serde::Deserialize;
use serde_json::json;

use crate::clock::Timestamp;

/// What a token is asked for: objects, and nothing else of the project.
const SCOPE: &str = "https://www.googleapis.com/auth/devstorage.read_write";
/// How long one is asked for, and the most there is.
pub(super) const TOKEN_SECONDS: i64 = 3600;
/// Where it is exchanged, unless the file says otherwise.
const TOKEN_URI: &str = "https://oauth2.googleapis.com/token";

/// A file of credentials, as far as it is a service account's.
#[derive(Deserialize)]
struct File {
    r#type: String,
    #[serde(default)]
    client_email: String,
    #[serde(default)]
    private_key: String,
    token_uri: Option<String>,
}

/// A service account's key.
pub(super) struct Key {
    /// The account's address.
    pub(super) account: String,
    /// Where a token is got for it.
    pub(super) token_uri: String,
    pair: KeyPair,
}

/// Shows whose it is.
impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("account", &self.account).finish_non_exhaustive()
    }
}

impl Key {
    /// Reads a file of credentials. `None` when it is of another kind.
    ///
    /// # Errors
    /// A sentence that quotes nothing of the file.
    pub(super) fn read(file: &[u8]) -> Result<Option<Self>, String> {
        let file: File = serde_json::from_slice(file).map_err(|_| "its file is not the JSON of credentials")?;
        if file.r#type != "service_account" {
            return Ok(None);
        }
        let unusable = "its file has no RSA key that can be used";
        let pair = match PrivateKeyDer::from_pem_slice(file.private_key.as_bytes()).map_err(|_| unusable)? {
            PrivateKeyDer::Pkcs8(der) => KeyPair::from_pkcs8(der.secret_pkcs8_der()),
            PrivateKeyDer::Pkcs1(der) => KeyPair::from_der(der.secret_pkcs1_der()),
            _ => return Err(unusable.into()),
        };
        let pair = pair.map_err(|_| unusable)?;
        if file.client_email.is_empty() {
            return Err("its file names no account".into());
        }
        let token_uri = file.token_uri.unwrap_or_else(|| TOKEN_URI.into());
        Ok(Some(Self { account: file.client_email, token_uri, pair }))
    }

    /// RSASSA-PKCS1-v1_5 with SHA-256: the same bytes have the same signature.
    pub(super) fn sign(&self, bytes: &[u8]) -> Result<Vec<u8>, String> {
        let mut signature = vec![0; self.pair.public_modulus_len()];
        let signed = self.pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), bytes, &mut signature);
        signed.map(|()| signature).map_err(|_| "the key does not sign".into())
    }

    /// The form that asks for a token.
    pub(super) fn exchange(&self, now: Timestamp) -> Result<String, String> {
        let seconds = now.millis() / 1000;
        let claims = json!({
            "iss": self.account,
            "scope": SCOPE,
            "aud": self.token_uri,
            "iat": seconds,
            "exp": seconds + TOKEN_SECONDS,
        });
        let part = |part: &serde_json::Value| BASE64.encode(part.to_string());
        let said = format!("{}.{}", part(&json!({ "alg": "RS256", "typ": "JWT" })), part(&claims));
        let signature = BASE64.encode(self.sign(said.as_bytes())?);
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.append_pair("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer");
        form.append_pair("assertion", &format!("{said}.{signature}"));
        Ok(form.finish())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sigv4::{GoogleUrl, PresignRequest};

    const PEM: &str = include_str!("test_key.pem");
    /// Made by Google's own library for the same key and time: `pip install google-cloud-storage==3.4.0`, then
    /// `python test_urls.py test_key.pem`.
    const URLS: &str = include_str!("test_urls.txt");

    fn file(private_key: &str) -> Vec<u8> {
        let account = "bytes@tests.iam.gserviceaccount.com";
        json!({ "type": "service_account", "client_email": account, "private_key": private_key }).to_string().into()
    }

    #[test]
    fn urls_are_signed_as_googles_own_library_signs_them() {
        let key = Key::read(&file(PEM)).unwrap().unwrap();
        let pairs = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        let host = "storage.googleapis.com";
        let first = [("content-type", "text/plain; a=b"), ("x-goog-if-generation-match", "0")];
        let third = [
            ("x-goog-hash", "crc32c=AAAAAA=="),
            ("Content-MD5", "1B2M2Y8AsgTpgAmY7PhCfg=="),
            ("X-Goog-If-Generation-Match", " 0 "),
        ];
        let cases = [
            (host, "/bytes/a/b c+d~e.bin", pairs(&[]), first.as_slice(), 3600),
            (
                "Storage.example.com:8443",
                "/bytes/here/0123-00000001-0000000000000000",
                pairs(&[("partNumber", "7"), ("uploadId", "AB/c+d==")]),
                [].as_slice(),
                700_000,
            ),
            (host, "/bytes/k", pairs(&[]), third.as_slice(), 900),
        ];
        assert_eq!(URLS.lines().count(), cases.len());
        for (wanted, (host, path, query, signed_headers, expires_seconds)) in URLS.lines().zip(cases) {
            let date = Timestamp::parse("2026-01-02T03:04:05Z").unwrap();
            let (method, scheme, query) = ("PUT", "https", &query);
            let ask = PresignRequest { method, scheme, host, path, query, signed_headers, date, expires_seconds };
            let url = GoogleUrl::new(&key.account, &ask);
            let signature = key.sign(url.to_sign()).unwrap();
            assert_eq!(url.signed(&signature), wanted);
        }
    }

    #[test]
    fn what_is_no_key_is_told_without_quoting_it() {
        assert!(Key::read(br#"{"type":"authorized_user","refresh_token":"x"}"#).unwrap().is_none());
        let bad: [&[u8]; 4] =
            [b"", b"[]", &file("-----BEGIN PRIVATE KEY-----\nMII\n-----END PRIVATE KEY-----"), &file("")];
        for bad in bad {
            let said = Key::read(bad).unwrap_err();
            assert!(said.starts_with("its file") && !said.contains("MII"), "{said}");
        }
        let key = Key::read(&file(PEM)).unwrap().unwrap();
        assert_eq!(key.token_uri, TOKEN_URI);
        assert_eq!(format!("{key:?}"), "Key { account: \"bytes@tests.iam.gserviceaccount.com\", .. }");
    }
}
