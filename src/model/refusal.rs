//! Why a verb says no: by meaning, without any wire's words. Each dialect gives every kind its own shape in a
//! `match` without `_`, so that a new kind does not compile until every API has decided about it.

use std::time::Duration;

/// A refusal.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    /// No credential was presented.
    #[error("no credential was presented")]
    NoCredential,
    /// A credential was presented that is unknown, expired, revoked or of a kind not accepted.
    #[error("the credential is unknown, expired or revoked")]
    BadCredential,
    /// The caller may not do this. The name is the missing right's, or empty for another tenant's resource.
    #[error("the key lacks the right `{right}`")]
    Forbidden {
        /// The missing right.
        right: &'static str,
    },
    /// The tenant does not exist.
    #[error("the tenant does not exist")]
    TenantUnknown,
    /// The source or identity provider does not exist in the tenant.
    #[error("{what} `{id}` does not exist")]
    TargetUnknown {
        /// `source` or `provider`.
        what: &'static str,
        /// The id that was asked for.
        id: String,
    },
    /// Something named by the caller does not exist in the tenant.
    #[error("{what} does not exist")]
    NotFound {
        /// What was asked for.
        what: &'static str,
    },
    /// A parameter is missing.
    #[error("the parameter `{name}` is required")]
    Missing {
        /// Its name, as the caller would write it.
        name: String,
    },
    /// A parameter or field has a value that can't be.
    #[error("`{name}` {reason}")]
    Invalid {
        /// Its name, as the caller would write it.
        name: String,
        /// What is wrong and what is right: completes the sentence that begins with the name.
        reason: String,
    },
    /// The body is not what it should be.
    #[error("{reason}")]
    Malformed {
        /// What is wrong and where.
        reason: String,
    },
    /// The body is declared as something else than what the call takes.
    #[error("the content type must be {expected}")]
    MediaType {
        /// What the call takes.
        expected: &'static str,
    },
    /// Too many bytes.
    #[error("{what} is limited to {limit} bytes")]
    TooLarge {
        /// What is limited.
        what: &'static str,
        /// The limit in bytes.
        limit: u64,
        /// What to do about it.
        remedy: &'static str,
    },
    /// A ticket that does not hold: the wire gets a generic answer, the rule goes to the refusal record.
    #[error("the upload URL does not hold: {}", .0.rule)]
    Ticket(TicketRefusal),
    /// The state does not allow it.
    #[error("{reason}")]
    Conflict {
        /// Which state, and what would be needed.
        reason: String,
    },
    /// A digest of the body differs from the declared one.
    #[error("the {algorithm} of the body differs from the declared one")]
    DigestMismatch {
        /// Which digest.
        algorithm: &'static str,
        /// What was declared.
        declared: String,
        /// What came.
        received: String,
    },
    /// The body ended early or came too slowly; nothing was stored.
    #[error("the body is incomplete: {reason}")]
    Incomplete {
        /// How.
        reason: String,
    },
    /// Too many requests.
    #[error("too many requests")]
    RateLimited {
        /// When to come again.
        retry_after: Duration,
    },
    /// The tenant's quota does not allow it.
    #[error(
        "the tenant's quota of {limit} {what} does not allow it: {used} are in use and {wanted} more are asked for"
    )]
    Quota {
        /// What is limited: `bytes` or `open uploads`.
        what: &'static str,
        /// The quota.
        limit: u64,
        /// How much of it is in use or reserved.
        used: u64,
        /// How much more was asked for.
        wanted: u64,
    },
    /// A newer request on the same session took over; what this one sent is kept as far as it was recorded.
    #[error("a newer request on this upload took over")]
    Superseded,
    /// The upload is not complete.
    #[error("the upload is not complete: {received} of {} bytes have arrived", .expected.map_or_else(|| "an unknown number of".to_owned(), |n| n.to_string()))]
    UploadIncomplete {
        /// Bytes that are stored.
        received: u64,
        /// Bytes that were declared.
        expected: Option<u64>,
    },
    /// It existed and is over for good.
    #[error("{what} is over: {reason}")]
    Gone {
        /// What was asked for.
        what: &'static str,
        /// Why.
        reason: String,
    },
    /// No space left, or nearly so.
    #[error("there is not enough free space")]
    OutOfSpace,
    /// It could not be made sure that it worked. The caller should come again.
    #[error("the storage did not confirm the write")]
    Unavailable,
    /// A fault of ours; the log has the cause.
    #[error("an internal error occurred")]
    Internal,
}

/// Why a ticket did not hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TicketRefusal {
    /// Which rule, as a stable word such as `signature`, `expired`, `header_missing`.
    pub rule: &'static str,
    /// One sentence with the values.
    pub detail: String,
}

impl Refusal {
    /// A parameter that can't be, in one line.
    #[must_use]
    pub fn invalid(name: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Invalid { name: name.into(), reason: reason.into() }
    }

    /// A mark that stands for another call already.
    #[must_use]
    pub fn other_call() -> Self {
        Self::invalid("Idempotency-Key", "was used within 24 hours for another call, or with another body")
    }

    /// A body that is not what it should be, in one line.
    #[must_use]
    pub fn malformed(reason: impl Into<String>) -> Self {
        Self::Malformed { reason: reason.into() }
    }
}
