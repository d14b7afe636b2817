//! Why a verb says no: by meaning, without any wire's words. Each dialect gives every kind its own shape in a
//! `match` without `_`, so that a new kind does not compile until every API has decided about it.

use std::time::Duration;

use super::session::Numbers;

/// A refusal.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    /// No credential was presented.
    #[error("no credential was presented")]
    NoCredential,
    /// A credential was presented that is unknown, expired, revoked or of a kind not accepted.
    #[error("the credential is unknown, expired or revoked")]
    BadCredential,
    /// A token was presented that nobody can judge now, because its issuer does not answer.
    #[error("the token can't be checked, because its issuer does not answer; send it again a little later")]
    IssuerSilent {
        /// When to come again.
        retry_after: Duration,
    },
    /// The caller may not do this. The name is the missing right's, or empty for another tenant's resource.
    #[error("the key lacks the right `{right}`")]
    Forbidden {
        /// The missing right.
        right: &'static str,
    },
    /// The tenant does not exist.
    #[error("the tenant does not exist")]
    TenantUnknown,
    /// The tenant is paused: what it holds can be read, and nothing of it changes.
    #[error("the tenant is paused: nothing is taken or changed until an operator resumes it")]
    TenantPaused,
    /// The source would hold more items than the tenant's limit.
    #[error("the source is limited to {limit} items: delete some first, or ask an operator for a higher limit")]
    TooManyItems {
        /// Items that a source of the tenant may hold.
        limit: u64,
    },
    /// More items would be added or changed today than the tenant's limit.
    #[error("more than {limit} items would be added or changed today (UTC), which is the limit")]
    TooManyItemsToday {
        /// Items a day.
        limit: u64,
        /// The rest of the day.
        retry_after: Duration,
    },
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
    /// The request depends on a condition that does not hold.
    #[error("the condition in the header `{header}` does not hold: there is content already")]
    ConditionFailed {
        /// The header that states it.
        header: &'static str,
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
    /// Parts of the upload have not come.
    #[error("the upload is not complete: of its parts, {} are missing: {missing}", .missing.count)]
    PartsMissing {
        /// Which ones.
        missing: Numbers,
        /// Bytes that are stored.
        received: u64,
    },
    /// Parts of the upload are too small.
    #[error("of the upload's parts, {} have fewer than {smallest} bytes and are not the last: {parts}", .parts.count)]
    PartsTooSmall {
        /// Which ones.
        parts: Numbers,
        /// Fewest bytes of a part that is not the last.
        smallest: u64,
    },
    /// It existed and is over for good.
    #[error("{what} is over: {reason}")]
    Gone {
        /// What was asked for.
        what: &'static str,
        /// Why.
        reason: String,
    },
    /// As much is being received as may be.
    #[error("the server is receiving as much as it may; send it again a little later")]
    Busy {
        /// When to come again.
        retry_after: Duration,
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

    /// Whole seconds, at least one, after which the caller may come again; `None` where waiting does not help.
    #[must_use]
    pub fn retry_seconds(&self) -> Option<u64> {
        match self {
            Self::RateLimited { retry_after }
            | Self::IssuerSilent { retry_after }
            | Self::Busy { retry_after }
            | Self::TooManyItemsToday { retry_after, .. } => {
                Some(retry_after.as_secs().saturating_add(u64::from(retry_after.subsec_nanos() > 0)).max(1))
            }
            Self::Unavailable | Self::Superseded => Some(1),
            Self::NoCredential
            | Self::BadCredential
            | Self::Forbidden { .. }
            | Self::TenantUnknown
            | Self::TenantPaused
            | Self::TooManyItems { .. }
            | Self::TargetUnknown { .. }
            | Self::NotFound { .. }
            | Self::Missing { .. }
            | Self::Invalid { .. }
            | Self::Malformed { .. }
            | Self::MediaType { .. }
            | Self::TooLarge { .. }
            | Self::Ticket(_)
            | Self::Conflict { .. }
            | Self::DigestMismatch { .. }
            | Self::Incomplete { .. }
            | Self::ConditionFailed { .. }
            | Self::Quota { .. }
            | Self::UploadIncomplete { .. }
            | Self::PartsMissing { .. }
            | Self::PartsTooSmall { .. }
            | Self::Gone { .. }
            | Self::OutOfSpace
            | Self::Internal => None,
        }
    }

    /// A body that is not what it should be, in one line.
    #[must_use]
    pub fn malformed(reason: impl Into<String>) -> Self {
        Self::Malformed { reason: reason.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_is_told_in_whole_seconds() {
        let limited = |ms| Refusal::RateLimited { retry_after: Duration::from_millis(ms) }.retry_seconds();
        assert_eq!((limited(0), limited(1500), limited(2000)), (Some(1), Some(2), Some(2)));
        let today = Refusal::TooManyItemsToday { limit: 1, retry_after: Duration::from_millis(86_399_001) };
        assert_eq!(today.retry_seconds(), Some(86_400));
        assert_eq!(Refusal::Unavailable.retry_seconds(), Some(1));
        assert_eq!(Refusal::OutOfSpace.retry_seconds(), None);
    }
}
