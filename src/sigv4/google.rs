//! Google's likeness: the same form of a request, signed with a service account's RSA key. Who has the key signs; here is
//! what is signed, and where the signature goes.

use std::fmt;

use super::{Form, PresignRequest, Unsigned, unsigned};

const ALGORITHM: &str = "GOOG4-RSA-SHA256";
/// Behind the day: for any region, and for storage.
const SCOPE: &str = "auto/storage/goog4_request";
const SIGNATURE: &str = "X-Goog-Signature";

/// A URL that lacks its signature.
pub struct GoogleUrl(Unsigned);

impl fmt::Debug for GoogleUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GoogleUrl")
    }
}

impl GoogleUrl {
    /// A URL that shall allow this, in the name of the service account with this address.
    #[must_use]
    pub fn new(account: &str, request: &PresignRequest<'_>) -> Self {
        let form = Form { algorithm: ALGORITHM, prefix: "X-Goog-", signer: account };
        let day = request.date.sigv4().get(..8).unwrap_or_default().to_owned();
        Self(unsigned(&form, &format!("{day}/{SCOPE}"), request))
    }

    /// What has to be signed, with RSASSA-PKCS1-v1_5 and SHA-256.
    #[must_use]
    pub fn to_sign(&self) -> &[u8] {
        self.0.to_sign.as_bytes()
    }

    /// The whole URL: a secret.
    #[must_use]
    pub fn signed(self, signature: &[u8]) -> String {
        format!("{}&{SIGNATURE}={}", self.0.url, hex::encode(signature))
    }
}
