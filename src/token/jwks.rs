//! An issuer's public keys (JSON Web Key Set, RFC 7517), and whether a signature holds by one. Pure.

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm as Known, DecodingKey, DecodingKeyKind, crypto};
use serde::Deserialize;
use serde_json::Value;

use crate::limits::JWKS_KEYS;
use crate::model::issuer::Algorithm;

/// Longest modulus of an RSA key: 8192 bits.
const MODULUS_BYTES: usize = 1024;
/// Longest exponent of an RSA key.
const EXPONENT_BYTES: usize = 5;

/// What one RSA key can check.
const RSA: &[Algorithm] =
    &[Algorithm::Rs256, Algorithm::Rs384, Algorithm::Rs512, Algorithm::Ps256, Algorithm::Ps384, Algorithm::Ps512];

/// The keys of one issuer: those that can check a signature, in its order, at most [`JWKS_KEYS`].
#[derive(Clone, Debug, Default)]
pub struct Keys {
    keys: Vec<Key>,
    /// Keys beyond the limit.
    beyond: usize,
}

/// A public key.
#[derive(Clone, Debug)]
pub struct Key {
    kid: Option<String>,
    /// What it is for: those of its kind, or of them the one that the issuer says.
    algorithms: Vec<Algorithm>,
    key: DecodingKey,
}

/// A set whose keys are read one by one, so that a broken one spoils no other.
#[derive(Deserialize)]
struct Set {
    keys: Vec<Value>,
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
        self.keys.iter().filter(named).filter(move |key| key.algorithms.contains(&algorithm))
    }
}

impl Key {
    fn read(value: Value) -> Option<Self> {
        let jwk: Jwk = serde_json::from_value(value).ok()?;
        let checks = jwk.common.public_key_use.as_ref().is_none_or(|usage| *usage == PublicKeyUse::Signature)
            && jwk.common.key_operations.as_ref().is_none_or(|operations| operations.contains(&KeyOperations::Verify));
        if !checks {
            return None;
        }
        // The crate takes any curve and any length, and a shared secret as well.
        let (kind, length): (&[Algorithm], usize) = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => (RSA, 0),
            AlgorithmParameters::EllipticCurve(point) => match point.curve {
                EllipticCurve::P256 => (&[Algorithm::Es256], 1 + 2 * 32),
                EllipticCurve::P384 => (&[Algorithm::Es384], 1 + 2 * 48),
                _ => return None,
            },
            AlgorithmParameters::OctetKeyPair(pair) if pair.curve == EllipticCurve::Ed25519 => {
                (&[Algorithm::EdDsa], 32)
            }
            _ => return None,
        };
        let mut key = DecodingKey::from_jwk(&jwk).ok()?;
        if let DecodingKeyKind::RsaModulusExponent { n, e } = key.kind() {
            // Some issuers begin a number with a zero byte, which RFC 7518 2 forbids and aws-lc does not take.
            let (n, e) = (trimmed(n), trimmed(e));
            if n.is_empty() || n.len() > MODULUS_BYTES || e.is_empty() || e.len() > EXPONENT_BYTES {
                return None;
            }
            key = DecodingKey::from_rsa_raw_components(n, e);
        } else if key.try_get_as_bytes().is_ok_and(|bytes| bytes.len() != length) {
            return None;
        }
        let mut algorithms = kind.to_vec();
        if let Some(only) = jwk.common.key_algorithm {
            algorithms.retain(|algorithm| Known::try_from(only).is_ok_and(|only| only == known(*algorithm)));
        }
        // A key whose algorithm is of another kind of key is for nothing.
        (!algorithms.is_empty()).then_some(Self { kid: jwk.common.key_id, algorithms, key })
    }

    /// Is this, in Base64url, the key's signature of the message? RSA keys of less than 2048 bits have none that holds.
    #[must_use]
    pub fn holds(&self, algorithm: Algorithm, message: &str, signature: &str) -> bool {
        self.algorithms.contains(&algorithm)
            && crypto::verify(signature, message.as_bytes(), &self.key, known(algorithm)).unwrap_or(false)
    }
}

const fn known(algorithm: Algorithm) -> Known {
    match algorithm {
        Algorithm::Rs256 => Known::RS256,
        Algorithm::Rs384 => Known::RS384,
        Algorithm::Rs512 => Known::RS512,
        Algorithm::Ps256 => Known::PS256,
        Algorithm::Ps384 => Known::PS384,
        Algorithm::Ps512 => Known::PS512,
        Algorithm::Es256 => Known::ES256,
        Algorithm::Es384 => Known::ES384,
        Algorithm::EdDsa => Known::EdDSA,
    }
}

fn trimmed(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    &number[zeros..]
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use serde_json::json;

    use super::*;

    /// What RFC 7515 A.2 and A.3 sign: `{"iss":"joe",…}`.
    const JOE: &str = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";

    fn holds(jwk: &Value, algorithm: Algorithm, signed: &str, signature: &[u8]) -> bool {
        let keys = Keys::read(json!({ "keys": [jwk] }).to_string().as_bytes()).unwrap();
        assert_eq!(keys.count(), (1, 0), "{jwk}");
        keys.fitting(None, algorithm).any(|key| key.holds(algorithm, signed, &URL_SAFE_NO_PAD.encode(signature)))
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
            let keys = Keys::read(json!({ "keys": [jwk] }).to_string().as_bytes()).unwrap();
            for wrong in [format!("{signature}="), format!("{signature}!"), String::from("!")] {
                assert!(!keys.keys[0].holds(algorithm, &signed, &wrong), "{name}: {wrong}");
            }
            // Some issuers begin numbers with a zero.
            let mut padded = jwk.clone();
            for part in ["n", "e"].into_iter().filter(|part| jwk[part].is_string()) {
                let number = URL_SAFE_NO_PAD.decode(jwk[part].as_str().unwrap()).unwrap();
                padded[part] = URL_SAFE_NO_PAD.encode([&[0], number.as_slice()].concat()).into();
            }
            assert!(holds(&padded, algorithm, &signed, &good), "{name}");
        }
    }

    #[test]
    fn what_is_no_set_is_refused_and_what_is_no_key_passed_over() {
        for bad in ["", "[]", "{}", r#"{"keys":{}}"#, r#"{"keys":null}"#, "<html>"] {
            assert!(Keys::read(bad.as_bytes()).is_err(), "{bad}");
        }
        let text = |bytes: usize| URL_SAFE_NO_PAD.encode(vec![1; bytes]);
        let ec = |curve: &str, x, y| json!({ "kty": "EC", "crv": curve, "x": text(x), "y": text(y) });
        let ed = |curve: &str, x| json!({ "kty": "OKP", "crv": curve, "x": text(x) });
        let rsa = |n, e| json!({ "kty": "RSA", "n": text(n), "e": text(e) });
        let with = |mut jwk: Value, name: &str, value: Value| {
            jwk[name] = value;
            jwk
        };
        for (jwk, count) in [
            (ec("P-256", 32, 32), 1),
            (ec("P-384", 48, 48), 1),
            (ec("P-521", 66, 66), 0),
            (ec("P-256", 1, 1), 0),
            (ec("P-256", 48, 48), 0),
            (ec("P-384", 32, 32), 0),
            (ec("secp256k1", 32, 32), 0),
            (ec("Ed25519", 32, 32), 0),
            (with(ec("P-256", 32, 32), "alg", json!("ES384")), 0),
            (with(ec("P-256", 32, 32), "alg", json!("ES512")), 0),
            (with(ec("P-256", 32, 32), "alg", json!(1)), 0),
            (with(ec("P-256", 32, 32), "y", json!(1)), 0),
            (with(ec("P-256", 32, 32), "y", json!("=")), 0),
            (ed("Ed25519", 32), 1),
            (ed("Ed25519", 31), 0),
            (ed("Ed448", 57), 0),
            (ed("X25519", 32), 0),
            (ed("P-256", 65), 0),
            (with(ed("Ed25519", 32), "alg", json!("RS256")), 0),
            (rsa(256, 3), 1),
            (rsa(1024, 5), 1),
            (rsa(1025, 3), 0),
            (rsa(256, 6), 0),
            (rsa(0, 3), 0),
            (rsa(256, 0), 0),
            (with(rsa(256, 3), "alg", json!("RSA-OAEP")), 0),
            (with(rsa(256, 3), "alg", json!("HS256")), 0),
            (with(rsa(256, 3), "alg", json!("EdDSA")), 0),
            (with(rsa(256, 3), "alg", json!("PS512")), 1),
            (with(rsa(256, 3), "kty", json!("new")), 0),
            (json!({ "kty": "oct", "k": "AAAA", "alg": "HS256" }), 0),
            (json!({ "kty": "oct", "k": "AAAA" }), 0),
            (json!({ "kty": "RSA" }), 0),
            (json!({}), 0),
            (json!(null), 0),
            (json!(1), 0),
        ] {
            let keys = Keys::read(json!({ "keys": [jwk, ed("Ed25519", 32)] }).to_string().as_bytes());
            assert_eq!(keys.map(|keys| keys.count()), Ok((count + 1, 0)), "{jwk}");
        }
    }
}
