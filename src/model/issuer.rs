//! Who vouches for callers of a tenant: issuers of bearer tokens, what is asked of a token and what it gives.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use url::Url;

use super::access::Rights;
use super::ids::{KeyId, TenantId};
use crate::clock::Timestamp;

/// Most audiences of an issuer, and most values of its claim that give rights.
pub const LIST_MAX: usize = 100;
/// Longest URL, audience, claim's name or claim's value, in bytes.
pub const TEXT_BYTES: usize = 1024;
/// Most seconds by which an issuer's clock may differ.
pub const LEEWAY_MAX_SECONDS: u64 = 600;

/// A signature algorithm with a public key (RFC 7518 3.1, RFC 8037). Those with a shared secret, and none, can't be named.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Algorithm {
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
    /// RSASSA-PKCS1-v1_5 with SHA-384.
    Rs384,
    /// RSASSA-PKCS1-v1_5 with SHA-512.
    Rs512,
    /// RSASSA-PSS with SHA-256.
    Ps256,
    /// RSASSA-PSS with SHA-384.
    Ps384,
    /// RSASSA-PSS with SHA-512.
    Ps512,
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// ECDSA on P-384 with SHA-384.
    Es384,
    /// Ed25519.
    EdDsa,
}

impl Algorithm {
    /// Every algorithm.
    pub const ALL: [Self; 9] = [
        Self::Rs256,
        Self::Rs384,
        Self::Rs512,
        Self::Ps256,
        Self::Ps384,
        Self::Ps512,
        Self::Es256,
        Self::Es384,
        Self::EdDsa,
    ];

    /// The name in tokens, keys and on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Rs384 => "RS384",
            Self::Rs512 => "RS512",
            Self::Ps256 => "PS256",
            Self::Ps384 => "PS384",
            Self::Ps512 => "PS512",
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::EdDsa => "EdDSA",
        }
    }

    /// The algorithm with this name, which is case-sensitive (RFC 7515 4.1.1).
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.name() == name)
    }
}

/// Where an issuer's keys are.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct KeySource {
    /// The URL of the keys, or of the document that names it.
    pub url: String,
    /// Whose document it is; `None` when `url` is that of the keys.
    pub discovered: Option<String>,
    /// May bytes come without TLS from another machine?
    pub plain_http: bool,
}

impl KeySource {
    /// May keys be asked for here? With TLS, from this machine, or where the operator said so.
    ///
    /// # Errors
    /// A sentence that says what would be right.
    pub fn check(&self, url: &str) -> Result<(), String> {
        let parsed = Url::parse(url).map_err(|_| format!("`{url}` is not a URL"))?;
        if !parsed.username().is_empty() || parsed.password().is_some() || parsed.fragment().is_some() {
            return Err(format!("`{url}` must have neither a user nor a fragment"));
        }
        // Bytes that came with TLS don't send us to a place without.
        let plain = self.plain_http || (is_loopback(&parsed) && (url == self.url || self.is_local()));
        match parsed.scheme() {
            "https" => Ok(()),
            "http" if plain => Ok(()),
            "http" => Err(format!("`{url}` must be https: http is for this machine's own addresses")),
            _ => Err(format!("`{url}` must be https")),
        }
    }

    /// Is it on this machine? Then no proxy is asked.
    #[must_use]
    pub fn is_local(&self) -> bool {
        Url::parse(&self.url).is_ok_and(|url| is_loopback(&url))
    }
}

/// Does a URL lead to this machine itself?
#[must_use]
pub fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => name.eq_ignore_ascii_case("localhost"),
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// Who vouches for callers of a tenant (an `OpenID` provider), and on which terms.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Issuer {
    /// Whose callers.
    pub tenant: TenantId,
    /// What its tokens call it, exactly.
    pub url: String,
    /// Whom a token must be for: any one of these.
    pub audiences: Vec<String>,
    /// Where its keys are; without it, its discovery document says so.
    pub jwks_url: Option<String>,
    /// Algorithms that are taken.
    pub algorithms: Vec<Algorithm>,
    /// How far its clock may differ from ours.
    pub leeway: Duration,
    /// What every valid token gives.
    pub rights: Rights,
    /// The claim whose values give more: a name, or a JSON pointer (RFC 6901) that begins with `/`.
    pub claim: Option<String>,
    /// What its values give.
    pub mapped: BTreeMap<String, Rights>,
    /// May its keys come without TLS from another machine?
    pub plain_http: bool,
    /// Since when it is so.
    pub created: Timestamp,
}

impl Issuer {
    /// Where its keys are.
    #[must_use]
    pub fn keys(&self) -> KeySource {
        match &self.jwks_url {
            Some(url) => KeySource { url: url.clone(), discovered: None, plain_http: self.plain_http },
            // A slash at the end is taken off first (OpenID Connect Discovery 1.0, 4).
            None => KeySource {
                url: format!("{}/.well-known/openid-configuration", self.url.strip_suffix('/').unwrap_or(&self.url)),
                discovered: Some(self.url.clone()),
                plain_http: self.plain_http,
            },
        }
    }

    /// Can it be so?
    ///
    /// # Errors
    /// A sentence that says what would be right.
    pub fn check(&self) -> Result<(), String> {
        let text = |what: &str, text: &str| {
            if text.is_empty() || text.len() > TEXT_BYTES || text.chars().any(char::is_control) {
                return Err(format!("{what} has 1 to {TEXT_BYTES} bytes, none of them a control character"));
            }
            Ok(())
        };
        text("an issuer", &self.url)?;
        if self.audiences.is_empty() || self.audiences.len() > LIST_MAX {
            return Err(format!("an issuer needs 1 to {LIST_MAX} audiences: whom its tokens must be for"));
        }
        self.audiences.iter().try_for_each(|audience| text("an audience", audience))?;
        if self.algorithms.is_empty() {
            return Err(String::from("an issuer needs at least one algorithm"));
        }
        if self.leeway.as_secs() > LEEWAY_MAX_SECONDS {
            return Err(format!("the leeway is at most {LEEWAY_MAX_SECONDS} seconds"));
        }
        let keys = self.keys();
        if keys.url.len() > 2 * TEXT_BYTES {
            return Err(format!("the URL of the keys has at most {TEXT_BYTES} bytes"));
        }
        keys.check(&keys.url)?;
        match &self.claim {
            Some(claim) => text("a claim's name", claim)?,
            None if !self.mapped.is_empty() => {
                return Err(String::from("values give rights, but no claim is named that would have them"));
            }
            None => {}
        }
        if self.mapped.len() > LIST_MAX {
            return Err(format!("at most {LIST_MAX} values can give rights"));
        }
        self.mapped.keys().try_for_each(|value| text("a claim's value", value))?;
        if self.rights == Rights::default() && self.mapped.values().all(|rights| *rights == Rights::default()) {
            return Err(String::from(
                "no token would get a right: name rights for all tokens, or for values of a claim",
            ));
        }
        Ok(())
    }

    /// What a token with these claims gives: the rights of all tokens, and those of each value of the claim. A claim is
    /// an array of strings, or one string of values with spaces between (as `scope`, RFC 6749 3.3).
    #[must_use]
    pub fn rights_of(&self, claims: &Map<String, Value>) -> Rights {
        let found = self.claim.as_deref().and_then(|claim| match claim.strip_prefix('/') {
            None => claims.get(claim),
            Some(rest) => {
                // The first part names a claim, the rest points into it.
                let (name, deeper) = rest.split_once('/').map_or((rest, None), |(name, deeper)| (name, Some(deeper)));
                let value = claims.get(&name.replace("~1", "/").replace("~0", "~"))?;
                deeper.map_or(Some(value), |deeper| value.pointer(&format!("/{deeper}")))
            }
        });
        let values: Vec<&str> = match found {
            // A value with a space in it is a whole one, too.
            Some(Value::String(text)) => text.split(' ').chain([text.as_str()]).collect(),
            Some(Value::Array(values)) => values.iter().filter_map(Value::as_str).collect(),
            Some(Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_)) | None => Vec::new(),
        };
        values.into_iter().filter_map(|value| self.mapped.get(value)).fold(self.rights, |all, more| all.with(*more))
    }
}

/// Whom an issuer vouches for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Subject {
    /// The issuer.
    pub issuer: String,
    /// What it calls the subject, always the same.
    pub name: String,
}

impl Subject {
    /// What stands for a subject where others have the id of their key: always the same for a tenant, issuer and subject,
    /// and no key's. A UUID of version 8 (RFC 9562 5.8) made of their SHA-256; keys have versions 4 and 7.
    #[must_use]
    pub fn caller_id(&self, tenant: &TenantId) -> KeyId {
        let mut digest = Sha256::new();
        for part in ["landfall subject", tenant.as_str(), &self.issuer, &self.name] {
            // With lengths, so that no two triples are the same bytes.
            digest.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
            digest.update(part);
        }
        let digest: [u8; 32] = digest.finalize().into();
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&digest[..16]);
        KeyId(uuid::Builder::from_custom_bytes(bytes).into_uuid())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::access::Right;

    fn issuer() -> Issuer {
        Issuer {
            tenant: "t".into(),
            url: "https://issuer.example/".into(),
            audiences: vec!["a".into()],
            jwks_url: None,
            algorithms: vec![Algorithm::Rs256],
            leeway: Duration::from_secs(60),
            rights: [Right::Read].into_iter().collect(),
            claim: None,
            mapped: BTreeMap::new(),
            plain_http: false,
            created: Timestamp(0),
        }
    }

    #[test]
    fn names_of_algorithms_read_back_and_secrets_have_none() {
        for algorithm in Algorithm::ALL {
            assert_eq!(Algorithm::from_name(algorithm.name()), Some(algorithm));
        }
        for bad in ["none", "None", "HS256", "HS384", "HS512", "ES512", "rs256", "RS1", "dir", ""] {
            assert_eq!(Algorithm::from_name(bad), None, "{bad}");
        }
    }

    #[test]
    fn keys_come_with_tls_or_from_this_machine() {
        let check = |url: &str, jwks: Option<&str>, plain_http| {
            Issuer { url: url.into(), jwks_url: jwks.map(Into::into), plain_http, ..issuer() }.check().is_ok()
        };
        assert!(check("https://issuer.example", None, false));
        assert!(check("http://127.0.0.1:8080/x", None, false) && check("http://[::1]/", None, false));
        assert!(check("http://localhost:1", None, false));
        assert!(!check("http://issuer.example", None, false) && check("http://issuer.example", None, true));
        // With the keys' URL the issuer's is a name.
        assert!(check("issuer", Some("https://keys.example/k"), false) && !check("issuer", None, false));
        assert!(!check("issuer", Some("http://keys.example/k"), false));
        assert!(!check("issuer", Some("file:///etc/passwd"), true));
        assert!(!check("issuer", Some("https://user:pass@keys.example/k"), false));
        assert!(!check("", Some("https://keys.example"), false));
        let keys = issuer().keys();
        assert_eq!(keys.url, "https://issuer.example/.well-known/openid-configuration");
        assert!(keys.check("https://elsewhere.example/keys").is_ok());
        assert!(keys.check("http://127.0.0.1/keys").is_err(), "a document that came with TLS leads to none without");
        let local = Issuer { url: "http://127.0.0.1:1".into(), ..issuer() }.keys();
        assert!(local.check("http://127.0.0.1:2/keys").is_ok() && local.check("http://issuer.example/keys").is_err());
    }

    #[test]
    fn an_issuer_says_whom_its_tokens_are_for_and_what_they_give() {
        let wrong = |issuer: Issuer| issuer.check().unwrap_err();
        assert!(issuer().check().is_ok());
        assert!(wrong(Issuer { audiences: Vec::new(), ..issuer() }).contains("audience"));
        assert!(wrong(Issuer { audiences: vec![String::new()], ..issuer() }).contains("audience"));
        assert!(wrong(Issuer { algorithms: Vec::new(), ..issuer() }).contains("algorithm"));
        assert!(wrong(Issuer { leeway: Duration::from_secs(601), ..issuer() }).contains("600"));
        assert!(wrong(Issuer { rights: Rights::default(), ..issuer() }).contains("no token would get a right"));
        let mapped = BTreeMap::from([("admin".to_owned(), Rights::all())]);
        assert!(wrong(Issuer { mapped: mapped.clone(), ..issuer() }).contains("no claim"));
        let by_role = Issuer { rights: Rights::default(), claim: Some("roles".into()), mapped, ..issuer() };
        assert!(by_role.check().is_ok());
    }

    #[test]
    fn rights_come_from_every_value_of_a_claim() {
        let mapped = BTreeMap::from([
            ("writer".to_owned(), [Right::Upload].into_iter().collect()),
            ("pusher".to_owned(), [Right::Items].into_iter().collect()),
            ("two words".to_owned(), [Right::Keys].into_iter().collect()),
        ]);
        let rights = |claim: &str, claims: Value| {
            let issuer = Issuer { claim: Some(claim.into()), mapped: mapped.clone(), ..issuer() };
            issuer.rights_of(claims.as_object().expect("an object")).names()
        };
        assert_eq!(rights("roles", json!({})), ["read"]);
        assert_eq!(rights("roles", json!({ "roles": ["writer", "other", 1, "pusher"] })), ["upload", "items", "read"]);
        assert_eq!(rights("scope", json!({ "scope": "openid writer" })), ["upload", "read"]);
        assert_eq!(rights("group", json!({ "group": "two words" })), ["read", "keys"]);
        assert_eq!(rights("roles", json!({ "roles": { "writer": true } })), ["read"]);
        assert_eq!(rights("https://x/roles", json!({ "https://x/roles": ["writer"] })), ["upload", "read"]);
        assert_eq!(
            rights("/realm_access/roles", json!({ "realm_access": { "roles": ["writer"] } })),
            ["upload", "read"]
        );
        assert_eq!(rights("/a~1b/0", json!({ "a/b": ["writer"] })), ["upload", "read"]);
        assert_eq!(rights("/roles", json!({ "roles": ["writer"] })), ["upload", "read"]);
        assert_eq!(rights("realm_access/roles", json!({ "realm_access": { "roles": ["writer"] } })), ["read"]);
    }

    #[test]
    fn a_subject_has_one_id_in_a_tenant_and_no_other_has_it() {
        let subject = |issuer: &str, name: &str| Subject { issuer: issuer.into(), name: name.into() };
        let id = subject("i", "s").caller_id(&"t".into());
        assert_eq!(id.to_string(), "3fdb489b-12ac-895d-82d7-613410614d2c", "it is stored: it must not change");
        assert_eq!(id.0.get_version_num(), 8);
        assert_eq!(id, subject("i", "s").caller_id(&"t".into()));
        for other in [
            subject("i", "S").caller_id(&"t".into()),
            subject("I", "s").caller_id(&"t".into()),
            subject("i", "s").caller_id(&"u".into()),
            subject("is", "").caller_id(&"t".into()),
        ] {
            assert_ne!(id, other);
        }
    }
}
