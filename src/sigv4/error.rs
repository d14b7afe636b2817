//! Why a URL does not hold, in words for the refusal record and in S3's codes.

use std::time::Duration;

use crate::clock::Timestamp;

/// A value from outside is cut to this many characters in a sentence about it.
const SHOWN_CHARS: usize = 200;

/// Why a URL does not hold: one variant for each rule, in the order in which the rules are checked.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SigV4Error {
    /// Required parameters are missing.
    #[error("the query lacks {}", .names.join(", "))]
    ParameterMissing {
        /// All that are missing.
        names: Vec<&'static str>,
    },
    /// A parameter of the signature is there more than once, perhaps in another letter case.
    #[error("the query has {name} more than once")]
    ParameterRepeated {
        /// The first such parameter.
        name: &'static str,
    },
    /// Another algorithm.
    #[error("X-Amz-Algorithm is `{}`, it has to be `AWS4-HMAC-SHA256`", shown(.received))]
    Algorithm {
        /// What came.
        received: String,
    },
    /// The credential or the date is not what it has to be.
    #[error(transparent)]
    Credential(#[from] CredentialError),
    /// The life is not what it has to be.
    #[error(transparent)]
    Expires(#[from] ExpiresError),
    /// Signed in the future.
    #[error(
        "the URL is signed for {}, which is {} s ahead of the server's clock ({}); {} s are tolerated",
        .date.rfc3339(), .date.seconds().saturating_sub(.now.seconds()), .now.rfc3339(), .skew.as_secs()
    )]
    NotYetValid {
        /// When it says that it was signed.
        date: Timestamp,
        /// Our time.
        now: Timestamp,
        /// What is tolerated.
        skew: Duration,
    },
    /// Its life is over.
    #[error(
        "the URL expired at {}, {} s ago: it was signed at {} for {expires_seconds} s, and the server's clock shows {}",
        .expires_at.rfc3339(), .now.seconds().saturating_sub(.expires_at.seconds()), .date.rfc3339(), .now.rfc3339()
    )]
    Expired {
        /// When it was signed.
        date: Timestamp,
        /// For how long.
        expires_seconds: u32,
        /// Its last instant.
        expires_at: Timestamp,
        /// Our time.
        now: Timestamp,
    },
    /// Nobody's key.
    #[error("the access key `{}` is unknown", shown(.access_key_id))]
    UnknownKey {
        /// The id that came.
        access_key_id: String,
    },
    /// Headers that change what a request does, without a signature over them.
    #[error("the request has headers that the URL does not allow, because they were not signed: {}", .names.join(", "))]
    HeadersNotSigned {
        /// Their names, sorted.
        names: Vec<String>,
    },
    /// The signature is not that of this request.
    #[error("{}", .0.sentence())]
    SignatureMismatch(Box<Mismatch>),
}

/// What can be wrong with `X-Amz-Credential` and `X-Amz-Date`.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CredentialError {
    /// Not five parts with a day of eight digits.
    #[error("X-Amz-Credential is `{}`, it has to be `key/yyyyMMdd/region/s3/aws4_request`", shown(.received))]
    Malformed {
        /// What came.
        received: String,
    },
    /// Another service.
    #[error("the service in X-Amz-Credential is `{}`, it has to be `s3`", shown(.received))]
    Service {
        /// What came.
        received: String,
    },
    /// Another last part.
    #[error("X-Amz-Credential ends with `{}`, it has to end with `aws4_request`", shown(.received))]
    Terminal {
        /// What came.
        received: String,
    },
    /// Another region.
    #[error("the region in X-Amz-Credential is `{}`, it has to be `{expected}`", shown(.received))]
    Region {
        /// What came.
        received: String,
        /// The key's region.
        expected: String,
    },
    /// A date that is none.
    #[error("X-Amz-Date is `{}`, it has to be like `20260102T030405Z`", shown(.received))]
    Date {
        /// What came.
        received: String,
    },
    /// Two different days.
    #[error("the day in X-Amz-Credential is {credential}, but X-Amz-Date is {date}")]
    DateMismatch {
        /// The credential's day.
        credential: String,
        /// The date parameter.
        date: String,
    },
}

/// What can be wrong with `X-Amz-Expires`.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ExpiresError {
    /// Not a number.
    #[error("X-Amz-Expires is `{}`, it has to be a number of seconds", shown(.received))]
    NotANumber {
        /// What came.
        received: String,
    },
    /// Below zero.
    #[error("X-Amz-Expires is {}, it must not be negative", shown(.received))]
    Negative {
        /// What came.
        received: String,
    },
    /// More than a week.
    #[error("X-Amz-Expires is {}, it must be at most 604800 (a week)", shown(.received))]
    TooLong {
        /// What came.
        received: String,
    },
}

/// What is known about a signature that does not match. For the private refusal record, never for the wire: it
/// repeats values of the request. It holds neither the right signature nor the whole of the one that came.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mismatch {
    /// Whose key it should have been.
    pub access_key_id: String,
    /// The first eight digits of the signature that came.
    pub signature_prefix: String,
    /// Signed headers that the request lacks.
    pub missing_headers: Vec<String>,
    /// Signed headers that the request has more than once, so that nobody knows which one counts.
    pub repeated_headers: Vec<String>,
    /// The other signed headers with the values that came. The signed values can't be had from a signature.
    pub received_headers: Vec<(String, String)>,
    /// What we would have signed.
    pub string_to_sign: String,
    /// What the last line of that is the SHA-256 of; credentials among the header values are blotted out.
    pub canonical_request: String,
}

impl Mismatch {
    pub(super) fn sentence(&self) -> String {
        if !self.missing_headers.is_empty() {
            return format!("the request lacks a header that was signed: {}", self.missing_headers.join(", "));
        }
        if !self.repeated_headers.is_empty() {
            return format!("a signed header came more than once: {}", self.repeated_headers.join(", "));
        }
        let received: Vec<String> =
            self.received_headers.iter().map(|(name, value)| format!("{name} as `{}`", shown(value))).collect();
        format!(
            "the signature {}… does not match: the method, the path, the query or the value of a signed header is not \
             what was signed; the signed headers came with {}",
            self.signature_prefix,
            received.join(", ")
        )
    }
}

impl SigV4Error {
    /// The broken rule as a short word that does not change between versions.
    #[must_use]
    pub fn rule(&self) -> &'static str {
        match self {
            Self::ParameterMissing { .. } => "parameter_missing",
            Self::ParameterRepeated { .. } => "parameter_repeated",
            Self::Algorithm { .. } => "algorithm",
            Self::Credential(_) => "credential",
            Self::Expires(_) => "expires",
            Self::NotYetValid { .. } => "not_yet_valid",
            Self::Expired { .. } => "expired",
            Self::UnknownKey { .. } => "unknown_key",
            Self::HeadersNotSigned { .. } => "headers_not_signed",
            Self::SignatureMismatch(_) => "signature",
        }
    }

    /// The code that S3 gives.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::ParameterMissing { .. }
            | Self::ParameterRepeated { .. }
            | Self::Algorithm { .. }
            | Self::Credential(_)
            | Self::Expires(_) => "AuthorizationQueryParametersError",
            Self::NotYetValid { .. } | Self::Expired { .. } | Self::HeadersNotSigned { .. } => "AccessDenied",
            Self::UnknownKey { .. } => "InvalidAccessKeyId",
            Self::SignatureMismatch(_) => "SignatureDoesNotMatch",
        }
    }

    /// The status that S3 gives.
    #[must_use]
    pub fn status(&self) -> u16 {
        match self {
            Self::ParameterMissing { .. }
            | Self::ParameterRepeated { .. }
            | Self::Algorithm { .. }
            | Self::Credential(_)
            | Self::Expires(_) => 400,
            Self::NotYetValid { .. }
            | Self::Expired { .. }
            | Self::HeadersNotSigned { .. }
            | Self::UnknownKey { .. }
            | Self::SignatureMismatch(_) => 403,
        }
    }
}

/// A value from outside, short enough for a sentence and without control characters.
fn shown(value: &str) -> String {
    let mut out: String =
        value.chars().take(SHOWN_CHARS).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    if value.chars().nth(SHOWN_CHARS).is_some() {
        out.push('…');
    }
    out
}
