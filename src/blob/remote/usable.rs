//! Whether a place can be used, and what is left there by the question.

use uuid::Uuid;

use crate::clock::random_uuid;

/// What the check at a start writes is named like this.
const PROBE: &str = "probe-";

/// A name for what a check writes.
pub(in crate::blob) fn probe(prefix: &str) -> String {
    format!("{prefix}{PROBE}{}", random_uuid())
}

/// Is it such a name, perhaps with something behind it? Others that look like one may be somebody else's.
pub(in crate::blob) fn is_probe(key: &str, prefix: &str) -> bool {
    let name = key.strip_prefix(prefix).and_then(|name| name.strip_prefix(PROBE));
    name.and_then(|name| name.get(..36)).is_some_and(|id| Uuid::try_parse(id).is_ok())
}

/// What a place must be able to do besides, where clients send to it themselves.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Wanted {
    /// Does it refuse a second object under one key, when it was signed that it must?
    pub create_only: bool,
    /// Does it keep the versions of an object apart?
    pub versions: bool,
}

/// Why a place can't be used, in one sentence.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the bucket at {place} can't be used: {why}")]
pub struct Unusable {
    place: String,
    why: String,
}

impl Unusable {
    pub(in crate::blob) const fn new(place: String, why: String) -> Self {
        Self { place, why }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_check_left_is_known_by_its_name() {
        let key = probe("a/");
        assert!(is_probe(&key, "a/") && is_probe(&format!("{key}-sent"), "a/"), "{key}");
        assert!(!is_probe(&key, "b/") && !is_probe(&key, ""), "{key}");
        for other in ["a/probe-1", "a/probe-", "a/probe-results-of-the-first-expedition.csv", "a/owner"] {
            assert!(!is_probe(other, "a/"), "{other}");
        }
    }
}
