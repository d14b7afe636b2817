//! An issuer's public keys (JSON Web Key Set, RFC 7517), and whether a signature holds by one. Pure.

use aws_lc_rs::signature::{self, RsaParameters, RsaPublicKeyComponents, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde_json::Value;

use crate::limits::JWKS_KEYS;
use crate::model::issuer::Algorithm;

/// Longest modulus of an RSA key: 8192 bits.
const MODULUS_BYTES: usize = 1024;

/// The keys of one issuer: those that can check a signature, in its order, at most [`JWKS_KEYS`].
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Keys {
    keys: Vec<Key>,
    /// Keys beyond the limit.
    beyond: usize,
}

/// A public key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Key {
    kid: Option<String>,
    /// The one algorithm that it is for, where the issuer says so.
    only: Option<Algorithm>,
    material: Material,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Material {
    /// Modulus and exponent, big-endian, without leading zeros.
    Rsa(Vec<u8>, Vec<u8>),
    /// An uncompressed point on P-256, P-384 or P-521.
    Point(Algorithm, Vec<u8>),
    /// An Ed25519 key.
    Edwards(Vec<u8>),
}

#[derive(Deserialize)]
struct Set {
    keys: Vec<Value>,
}

#[derive(Deserialize)]
struct Jwk {
    kty: String,
    #[serde(rename = "use")]
    usage: Option<String>,
    key_ops: Option<Vec<String>>,
    alg: Option<String>,
    kid: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

impl Keys {
    /// Reads a set. A key that can't check signatures is passed over (RFC 7517 5): one for encryption, one of an unknown
    /// type, one that is broken.
    ///
    /// # Errors
    /// What is wrong with a set that is none.
    pub fn read(text: &[u8]) -> Result<Self, String> {
        let set: Set = serde_json::from_slice(text).map_err(|_| String::from("the answer is no set of keys"))?;
        let mut keys: Vec<Key> = set.keys.into_iter().filter_map(Key::read).collect();
        let beyond = keys.len().saturating_sub(JWKS_KEYS);
        keys.truncate(JWKS_KEYS);
        Ok(Self { keys, beyond })
    }

    /// How many there are, and how many were left out because there are too many.
    #[must_use]
    pub const fn count(&self) -> (usize, usize) {
        (self.keys.len(), self.beyond)
    }

    /// Keys for this algorithm of this name; without a name all for the algorithm.
    pub fn fitting<'k>(&'k self, kid: Option<&'k str>, algorithm: Algorithm) -> impl Iterator<Item = &'k Key> {
        let named = move |key: &&Key| kid.is_none_or(|kid| key.kid.as_deref() == Some(kid));
        self.keys.iter().filter(named).filter(move |key| key.fits(algorithm))
    }
}

impl Key {
    fn read(value: Value) -> Option<Self> {
        let jwk: Jwk = serde_json::from_value(value).ok()?;
        let checks = jwk.usage.as_deref().is_none_or(|usage| usage == "sig")
            && jwk.key_ops.is_none_or(|operations| operations.iter().any(|operation| operation == "verify"));
        if !checks {
            return None;
        }
        let only = match &jwk.alg {
            Some(name) => Some(Algorithm::from_name(name)?),
            None => None,
        };
        let bytes = |part: &Option<String>| URL_SAFE_NO_PAD.decode(part.as_deref()?).ok();
        let material = match (jwk.kty.as_str(), jwk.crv.as_deref()) {
            ("RSA", _) => {
                let (n, e) = (trimmed(&bytes(&jwk.n)?), trimmed(&bytes(&jwk.e)?));
                if n.is_empty() || n.len() > MODULUS_BYTES || e.is_empty() || e.len() > 5 {
                    return None;
                }
                Material::Rsa(n, e)
            }
            ("EC", Some(curve)) => {
                let (algorithm, length) = match curve {
                    "P-256" => (Algorithm::Es256, 32),
                    "P-384" => (Algorithm::Es384, 48),
                    "P-521" => (Algorithm::Es512, 66),
                    _ => return None,
                };
                let (x, y) = (bytes(&jwk.x)?, bytes(&jwk.y)?);
                if x.len() != length || y.len() != length {
                    return None;
                }
                Material::Point(algorithm, [&[4], x.as_slice(), y.as_slice()].concat())
            }
            ("OKP", Some("Ed25519")) => {
                let x = bytes(&jwk.x)?;
                if x.len() != 32 {
                    return None;
                }
                Material::Edwards(x)
            }
            _ => return None,
        };
        let key = Self { kid: jwk.kid, only, material };
        // A key whose algorithm is of another kind of key is for nothing.
        key.only.is_none_or(|only| key.fits(only)).then_some(key)
    }

    fn fits(&self, algorithm: Algorithm) -> bool {
        let kind = match (&self.material, algorithm) {
            (
                Material::Rsa(..),
                Algorithm::Rs256
                | Algorithm::Rs384
                | Algorithm::Rs512
                | Algorithm::Ps256
                | Algorithm::Ps384
                | Algorithm::Ps512,
            ) => true,
            (Material::Point(curve, _), algorithm) => *curve == algorithm,
            (Material::Edwards(_), algorithm) => algorithm == Algorithm::EdDsa,
            (Material::Rsa(..), Algorithm::Es256 | Algorithm::Es384 | Algorithm::Es512 | Algorithm::EdDsa) => false,
        };
        kind && self.only.is_none_or(|only| only == algorithm)
    }

    /// Is this the key's signature of the message? RSA keys of less than 2048 bits have none that holds.
    #[must_use]
    pub fn holds(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        if !self.fits(algorithm) {
            return false;
        }
        let checked = match &self.material {
            Material::Rsa(n, e) => match rsa(algorithm) {
                Some(parameters) => RsaPublicKeyComponents { n, e }.verify(parameters, message, signature),
                None => return false,
            },
            Material::Point(curve, point) => {
                let parameters = match curve {
                    Algorithm::Es384 => &signature::ECDSA_P384_SHA384_FIXED,
                    Algorithm::Es512 => &signature::ECDSA_P521_SHA512_FIXED,
                    _ => &signature::ECDSA_P256_SHA256_FIXED,
                };
                UnparsedPublicKey::new(parameters, point).verify(message, signature)
            }
            Material::Edwards(key) => UnparsedPublicKey::new(&signature::ED25519, key).verify(message, signature),
        };
        checked.is_ok()
    }
}

const fn rsa(algorithm: Algorithm) -> Option<&'static RsaParameters> {
    match algorithm {
        Algorithm::Rs256 => Some(&signature::RSA_PKCS1_2048_8192_SHA256),
        Algorithm::Rs384 => Some(&signature::RSA_PKCS1_2048_8192_SHA384),
        Algorithm::Rs512 => Some(&signature::RSA_PKCS1_2048_8192_SHA512),
        Algorithm::Ps256 => Some(&signature::RSA_PSS_2048_8192_SHA256),
        Algorithm::Ps384 => Some(&signature::RSA_PSS_2048_8192_SHA384),
        Algorithm::Ps512 => Some(&signature::RSA_PSS_2048_8192_SHA512),
        Algorithm::Es256 | Algorithm::Es384 | Algorithm::Es512 | Algorithm::EdDsa => None,
    }
}

fn trimmed(number: &[u8]) -> Vec<u8> {
    number.iter().copied().skip_while(|byte| *byte == 0).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// What RFC 7515 A.2 and A.3 sign: `{"iss":"joe",…}`.
    const JOE: &str = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";

    fn holds(jwk: &Value, algorithm: Algorithm, signed: &str, signature: &[u8]) -> bool {
        let keys = Keys::read(json!({ "keys": [jwk] }).to_string().as_bytes()).unwrap();
        assert_eq!(keys.count(), (1, 0), "{jwk}");
        keys.fitting(None, algorithm).any(|key| key.holds(algorithm, signed.as_bytes(), signature))
    }

    #[test]
    fn signatures_of_the_standards_hold_and_changed_ones_do_not() {
        let rsa = json!({ "kty": "RSA", "e": "AQAB", "n": "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ" });
        let ec = json!({ "kty": "EC", "crv": "P-256", "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0" });
        let ed = json!({ "kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo" });
        for (jwk, algorithm, head, body, signature) in [
            (
                &rsa,
                Algorithm::Rs256,
                "eyJhbGciOiJSUzI1NiJ9",
                JOE,
                "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw",
            ),
            (
                &ec,
                Algorithm::Es256,
                "eyJhbGciOiJFUzI1NiJ9",
                JOE,
                "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q",
            ),
            // RFC 8037 A.4.
            (
                &ed,
                Algorithm::EdDsa,
                "eyJhbGciOiJFZERTQSJ9",
                "RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc",
                "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg",
            ),
        ] {
            let (signed, name) = (format!("{head}.{body}"), algorithm.name());
            let good = URL_SAFE_NO_PAD.decode(signature).unwrap();
            assert!(holds(jwk, algorithm, &signed, &good), "{name}");
            assert!(!holds(jwk, algorithm, &format!("{signed}A"), &good), "{name}");
            for at in [0, good.len() / 2, good.len() - 1] {
                let mut changed = good.clone();
                changed[at] ^= 1;
                assert!(!holds(jwk, algorithm, &signed, &changed), "{name} at {at}");
            }
            for wrong in [&[][..], &good[1..], &[&good[..], &[0]].concat(), &vec![0; good.len()]] {
                assert!(!holds(jwk, algorithm, &signed, wrong), "{name}");
            }
            for other in Algorithm::ALL.into_iter().filter(|other| *other != algorithm) {
                assert!(!holds(jwk, other, &signed, &good), "{name} as {}", other.name());
            }
        }
    }

    #[test]
    fn what_is_no_set_is_refused_and_what_is_no_key_passed_over() {
        for bad in ["", "[]", "{}", r#"{"keys":{}}"#, r#"{"keys":null}"#, "<html>"] {
            assert!(Keys::read(bad.as_bytes()).is_err(), "{bad}");
        }
        let short = json!({ "kty": "EC", "crv": "P-256", "x": "AA", "y": "AA" });
        let secret = json!({ "kty": "oct", "k": "AAAA", "alg": "HS256" });
        let set = json!({ "keys": [1, null, {}, short, secret, { "kty": "RSA" }, { "kty": "OKP", "crv": "X25519", "x": "AA" }] });
        assert_eq!(Keys::read(set.to_string().as_bytes()).map(|keys| keys.count()), Ok((0, 0)));
    }
}
