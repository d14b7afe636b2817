//! One token: its form, and what it says against what its issuer's terms ask. Pure.

use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::dangerous::insecure_decode_claims;
use serde::Deserialize;
use serde_json::{Map, Number, Value};

use super::Unfit;
use crate::clock::Timestamp;
use crate::limits::TOKEN_BYTES;
use crate::model::access::Rights;
use crate::model::issuer::Issuer;

/// Longest subject, in bytes. `OpenID` allows 255 characters of ASCII.
const SUBJECT_BYTES: usize = 1024;
/// Characters of what a token says that are shown.
const SHOWN_CHARS: usize = 100;
/// Audiences of a token that are shown.
const SHOWN_AUDIENCES: usize = 5;

/// A token that was read, and of which nothing is believed yet.
pub struct Token {
    head: Head,
    claims: Map<String, Value>,
    signed: String,
    signature: String,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

/// What is read of a token's head (RFC 7515 4.1). Keys that it brings or points at are not. `jsonwebtoken` reads a head only
/// if it knows the algorithm, and a refusal names the one that is not taken.
#[derive(Deserialize)]
struct Head {
    alg: String,
    kid: Option<String>,
    crit: Option<Value>,
}

/// What a token is good for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Vouched {
    /// Whom it is about.
    pub subject: String,
    /// What it gives.
    pub rights: Rights,
    /// When it ends, by its own word.
    pub expires: Timestamp,
}

fn malformed(detail: impl Into<String>) -> Unfit {
    Unfit::new("token_malformed", detail)
}

impl Token {
    /// Has a credential the form of a signed token: three parts with dots between? No key has dots.
    #[must_use]
    pub fn has_form(credential: &str) -> bool {
        credential.bytes().filter(|b| *b == b'.').count() == 2
    }

    /// Takes a token apart.
    ///
    /// # Errors
    /// [`Unfit`] for one that is too long, or is no token.
    pub fn read(text: &str) -> Result<Self, Unfit> {
        if text.len() > TOKEN_BYTES {
            return Err(Unfit::new("token_too_long", format!("a token has at most {TOKEN_BYTES} bytes")));
        }
        let mut parts = text.split('.');
        let (Some(head), Some(claims), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(malformed("a token has three parts"));
        };
        let decode = |part: &str, name: &str| {
            URL_SAFE_NO_PAD.decode(part).map_err(|_| malformed(format!("the token's {name} is not Base64url")))
        };
        let signed = text[..head.len() + 1 + claims.len()].to_owned();
        let head: Head = serde_json::from_slice(&decode(head, "head")?)
            .map_err(|_| malformed("the token's head is not an object of JSON with an `alg`"))?;
        // Claims are read before the signature is checked, because they say whose keys check it.
        let claims = insecure_decode_claims(text)
            .map_err(|_| malformed("the token's claims are not an object of JSON in Base64url"))?;
        decode(signature, "signature")?;
        // Whoever does not understand what is critical must refuse (RFC 7515 4.1.11), and we understand nothing more.
        if head.crit.is_some() {
            return Err(malformed("the token's head has a `crit`"));
        }
        Ok(Self { head, claims, signed, signature: signature.to_owned() })
    }

    /// The algorithm that it names.
    #[must_use]
    pub fn algorithm(&self) -> &str {
        &self.head.alg
    }

    /// The key that it names.
    #[must_use]
    pub fn kid(&self) -> Option<&str> {
        self.head.kid.as_deref()
    }

    /// What is signed.
    #[must_use]
    pub fn signed(&self) -> &str {
        &self.signed
    }

    /// The signature, in Base64url.
    #[must_use]
    pub fn signature(&self) -> &str {
        &self.signature
    }

    /// Who signed it, by its own word.
    ///
    /// # Errors
    /// [`Unfit`] for one that does not say so.
    pub fn issuer(&self) -> Result<&str, Unfit> {
        self.text("iss")
    }

    /// The same, to be shown.
    #[must_use]
    pub fn shown_issuer(&self) -> String {
        self.issuer().map(shown).unwrap_or_default()
    }

    /// Is it for one of these audiences?
    #[must_use]
    pub fn is_for(&self, audiences: &[String]) -> bool {
        self.audiences().iter().any(|audience| audiences.iter().any(|wanted| wanted == audience))
    }

    /// Whom it is for, to be shown.
    #[must_use]
    pub fn shown_audiences(&self) -> String {
        let audiences = self.audiences();
        let mut list: Vec<String> =
            audiences.iter().take(SHOWN_AUDIENCES).map(|audience| format!("`{}`", shown(audience))).collect();
        if audiences.len() > SHOWN_AUDIENCES {
            list.push(String::from("…"));
        }
        if list.is_empty() { String::from("nobody") } else { list.join(", ") }
    }

    /// One string, or an array of them (RFC 7519 4.1.3).
    fn audiences(&self) -> Vec<&str> {
        match self.claims.get("aud") {
            Some(Value::String(audience)) => vec![audience],
            Some(Value::Array(audiences)) => audiences.iter().filter_map(Value::as_str).collect(),
            Some(Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_)) | None => Vec::new(),
        }
    }

    /// What it is good for by these terms, its signature aside: it must be of this issuer, for one of the audiences, of a
    /// named subject, not over, begun and not made in the future.
    ///
    /// # Errors
    /// [`Unfit`] with the first rule that it breaks.
    pub fn check(&self, issuer: &Issuer, now: Timestamp) -> Result<Vouched, Unfit> {
        let url = self.issuer()?;
        if url != issuer.url {
            let detail = format!("the token is of `{}`, and `{}` is trusted", shown(url), issuer.url);
            return Err(Unfit::new("token_issuer", detail));
        }
        if !self.is_for(&issuer.audiences) {
            let detail = format!(
                "the token is for {}, and must be for one of {}",
                self.shown_audiences(),
                issuer.audiences.join(", ")
            );
            return Err(Unfit::new("token_audience", detail));
        }
        let subject = self.text("sub")?;
        if subject.is_empty() || subject.len() > SUBJECT_BYTES {
            return Err(malformed(format!("the token's `sub` has 1 to {SUBJECT_BYTES} bytes")));
        }
        let Some(expires) = self.time("exp")? else {
            return Err(malformed("the token has no `exp`"));
        };
        let leeway = issuer.leeway;
        if expires.plus(leeway) <= now {
            let detail = format!("the token expired at {}, and it is {}", expires.rfc3339(), now.rfc3339());
            return Err(Unfit::new("token_expired", detail));
        }
        for (claim, says) in [("nbf", "holds from"), ("iat", "was made at")] {
            if let Some(from) = self.time(claim)?
                && from > now.plus(leeway)
            {
                let detail = format!("the token {says} {}, and it is {}", from.rfc3339(), now.rfc3339());
                return Err(Unfit::new("token_not_yet", detail));
            }
        }
        Ok(Vouched { subject: subject.to_owned(), rights: issuer.rights_of(&self.claims), expires })
    }

    fn text(&self, claim: &str) -> Result<&str, Unfit> {
        match self.claims.get(claim) {
            Some(Value::String(text)) => Ok(text),
            Some(_) => Err(malformed(format!("the token's `{claim}` is not a text"))),
            None => Err(malformed(format!("the token has no `{claim}`"))),
        }
    }

    /// Seconds since 1970, which may have a fraction (RFC 7519 2).
    fn time(&self, claim: &str) -> Result<Option<Timestamp>, Unfit> {
        let wrong = || malformed(format!("the token's `{claim}` is not a time"));
        match self.claims.get(claim) {
            None => Ok(None),
            Some(Value::Number(number)) => instant(number).map(Some).ok_or_else(wrong),
            Some(_) => Err(wrong()),
        }
    }
}

fn instant(number: &Number) -> Option<Timestamp> {
    if let Some(seconds) = number.as_u64() {
        return Some(Timestamp(i64::try_from(seconds).unwrap_or(i64::MAX).saturating_mul(1000)));
    }
    let since = Duration::try_from_secs_f64(number.as_f64()?).ok()?;
    Some(Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX)))
}

/// What somebody sent, short and without control characters.
pub(super) fn shown(text: &str) -> String {
    let mut shown: String =
        text.chars().take(SHOWN_CHARS).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    if text.chars().nth(SHOWN_CHARS).is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::model::access::Right;
    use crate::model::issuer::Algorithm;

    const NOW: Timestamp = Timestamp(1_800_000_000_500);

    fn issuer() -> Issuer {
        Issuer {
            tenant: "t".into(),
            url: "https://issuer.example".into(),
            audiences: vec!["a".into(), "b".into()],
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

    fn encoded(head: &Value, claims: &Value) -> String {
        let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        format!("{}.{}.{}", encode(head), encode(claims), URL_SAFE_NO_PAD.encode("signature"))
    }

    /// A token with these claims beside good ones; null takes one away.
    fn judged(claims: &Value) -> Result<Vouched, &'static str> {
        let seconds = NOW.seconds();
        let mut all = json!({
            "iss": "https://issuer.example", "aud": "a", "sub": "s", "exp": seconds + 10, "iat": seconds, "nbf": seconds,
        });
        for (name, value) in claims.as_object().unwrap() {
            match value {
                Value::Null => drop(all.as_object_mut().unwrap().remove(name)),
                value => all[name] = value.clone(),
            }
        }
        let token = Token::read(&encoded(&json!({ "alg": "RS256" }), &all)).unwrap();
        token.check(&issuer(), NOW).map_err(|unfit| unfit.rule)
    }

    #[test]
    fn a_token_holds_while_its_issuer_says_so_and_a_little_longer() {
        let now = NOW.seconds();
        let good = judged(&json!({})).unwrap();
        assert_eq!(
            good,
            Vouched { subject: "s".into(), rights: issuer().rights, expires: Timestamp((now + 10) * 1000) }
        );
        for (claims, rule) in [
            (json!({ "exp": now - 59 }), None),
            (json!({ "exp": now - 60 }), Some("token_expired")),
            (json!({ "exp": 0 }), Some("token_expired")),
            (json!({ "exp": u64::MAX }), None),
            (json!({ "exp": 1e300 }), Some("token_malformed")),
            (json!({ "exp": 1_800_000_000.25 }), None),
            (json!({ "exp": 1_799_999_940.75 }), None),
            (json!({ "exp": 1_799_999_940.25 }), Some("token_expired")),
            (json!({ "exp": -1 }), Some("token_malformed")),
            (json!({ "exp": null }), Some("token_malformed")),
            (json!({ "exp": "never" }), Some("token_malformed")),
            (json!({ "exp": (now + 10).to_string() }), Some("token_malformed")),
            (json!({ "nbf": null, "iat": null }), None),
            (json!({ "nbf": now + 60 }), None),
            (json!({ "nbf": now + 61 }), Some("token_not_yet")),
            (json!({ "nbf": "now" }), Some("token_malformed")),
            (json!({ "iat": now + 60 }), None),
            (json!({ "iat": now + 61 }), Some("token_not_yet")),
            (json!({ "iat": true }), Some("token_malformed")),
        ] {
            assert_eq!(judged(&claims).err(), rule, "{claims}");
        }
    }

    #[test]
    fn a_token_is_of_this_issuer_for_this_audience_about_somebody() {
        for (claims, rule) in [
            (json!({ "iss": "https://issuer.example/" }), Some("token_issuer")),
            (json!({ "iss": "https://ISSUER.example" }), Some("token_issuer")),
            (json!({ "iss": null }), Some("token_malformed")),
            (json!({ "iss": ["https://issuer.example"] }), Some("token_malformed")),
            (json!({ "aud": "b" }), None),
            (json!({ "aud": ["x", "b"] }), None),
            (json!({ "aud": ["x", 1, null, "y"] }), Some("token_audience")),
            (json!({ "aud": "A" }), Some("token_audience")),
            (json!({ "aud": "a b" }), Some("token_audience")),
            (json!({ "aud": [] }), Some("token_audience")),
            (json!({ "aud": { "a": "a" } }), Some("token_audience")),
            (json!({ "aud": null }), Some("token_audience")),
            (json!({ "sub": null }), Some("token_malformed")),
            (json!({ "sub": "" }), Some("token_malformed")),
            (json!({ "sub": 7 }), Some("token_malformed")),
            (json!({ "sub": "x".repeat(1025) }), Some("token_malformed")),
        ] {
            assert_eq!(judged(&claims).err(), rule, "{claims}");
        }
    }

    #[test]
    fn what_is_no_token_is_refused_before_anything_is_believed() {
        let rule = |text: &str| Token::read(text).map(drop).map_err(|unfit| unfit.rule);
        let good = encoded(&json!({ "alg": "RS256", "kid": "k" }), &json!({}));
        assert_eq!(rule(&good), Ok(()));
        for bad in ["", ".", "..", "a.b", "a.b.c.d", "é.é.é", "!.!.!", "e30.e30.", "e30.e30.e30"] {
            assert_eq!(rule(bad), Err("token_malformed"), "{bad}");
        }
        assert_eq!(rule(&format!("{good}=")), Err("token_malformed"), "padding");
        for head in [json!([]), json!({}), json!({ "alg": 1 }), json!({ "alg": "RS256", "kid": 1 }), json!("alg")] {
            assert_eq!(rule(&encoded(&head, &json!({}))), Err("token_malformed"), "{head}");
        }
        for claims in [json!([]), json!("x"), json!(null)] {
            assert_eq!(rule(&encoded(&json!({ "alg": "RS256" }), &claims)), Err("token_malformed"), "{claims}");
        }
        let critical = encoded(&json!({ "alg": "RS256", "crit": ["exp"] }), &json!({}));
        assert_eq!(rule(&critical), Err("token_malformed"));
        let two = format!("{}.e30.e30", URL_SAFE_NO_PAD.encode(r#"{"alg":"RS256","alg":"none"}"#));
        assert_eq!(rule(&two), Err("token_malformed"), "an algorithm named twice");
        let deep = format!("e30.{}.e30", URL_SAFE_NO_PAD.encode("[".repeat(5000)));
        assert_eq!(rule(&deep), Err("token_malformed"));
        let long = format!("{good}{}", "A".repeat(TOKEN_BYTES));
        assert_eq!(rule(&long), Err("token_too_long"));
    }

    #[test]
    fn what_a_token_says_is_shown_in_short() {
        let token = encoded(&json!({ "alg": "RS256" }), &json!({ "aud": ["a\nb", "c", "d", "e", "f", "g"] }));
        assert_eq!(Token::read(&token).unwrap().shown_audiences(), "`a\u{fffd}b`, `c`, `d`, `e`, `f`, …");
        assert_eq!(shown(&"é".repeat(200)).chars().count(), SHOWN_CHARS + 1);
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,200}", head in "\\PC{0,60}", claims in "\\PC{0,60}") {
            let _ = Token::read(&text);
            let encode = |part: &str| URL_SAFE_NO_PAD.encode(part);
            let _ = Token::read(&format!("{}.{}.", encode(&head), encode(&claims)));
        }
    }
}
