//! Whether a place can be used.

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
