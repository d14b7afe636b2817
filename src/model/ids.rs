//! Identifiers. Ids that come from outside are checked where they come in and are never used as a path.

use std::fmt;

use uuid::Uuid;

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize, serde::Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub String);

        impl $name {
            /// The id as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.to_owned())
            }
        }
    };
}

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize, serde::Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl std::str::FromStr for $name {
            type Err = uuid::Error;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Uuid::try_parse(text).map(Self)
            }
        }
    };
}

text_id! {
    /// An organization or project; nothing crosses it.
    TenantId
}
text_id! {
    /// A source of a tenant, unique within it.
    SourceId
}
text_id! {
    /// A security identity provider of a tenant: free text, may hold spaces.
    ProviderId
}
uuid_id! {
    /// One upload in progress.
    SessionId
}
uuid_id! {
    /// A file: what a client names. Its content is its current version.
    FileId
}
uuid_id! {
    /// Immutable bytes: an ordered list of pieces with size and digests.
    VersionId
}
uuid_id! {
    /// One accepted push; what a client follows a 202 by.
    RequestId
}
uuid_id! {
    /// One stream load of a source.
    StreamId
}
uuid_id! {
    /// A store of a tenant: files whose text is searched together.
    StoreId
}
uuid_id! {
    /// A file's place in a store.
    StoreFileId
}
uuid_id! {
    /// An API key's public name, which may be listed and logged. A subject has one like it, which no key has.
    KeyId
}

macro_rules! prefixed_id {
    ($name:ident, $prefix:literal) => {
        impl $name {
            #[doc = concat!("The id as clients see it: `", $prefix, "` and 32 hexadecimal digits.")]
            #[must_use]
            pub fn public(self) -> String {
                format!(concat!($prefix, "{}"), self.0.simple())
            }

            /// Reads [`Self::public`], and nothing else.
            #[must_use]
            pub fn from_public(text: &str) -> Option<Self> {
                let digits = text.strip_prefix($prefix).filter(|digits| digits.len() == 32)?;
                let canonical = digits.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
                canonical.then(|| Uuid::try_parse(digits).ok().map(Self)).flatten()
            }
        }
    };
}

prefixed_id!(FileId, "file_");
prefixed_id!(StoreId, "vs_");
prefixed_id!(StoreFileId, "vsf_");

/// Characters of a name that people give.
pub const NAME_CHARS: usize = 255;

/// May people call something this? At most [`NAME_CHARS`] characters, none of them a control character.
#[must_use]
pub fn is_name(text: &str) -> bool {
    text.chars().count() <= NAME_CHARS && !text.chars().any(char::is_control)
}

impl TenantId {
    /// May a new tenant have this id? Lower-case letters, digits, `-` and `_`, 1 to 64 characters, first a letter or digit.
    #[must_use]
    pub fn is_valid(text: &str) -> bool {
        let ok = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-' || *b == b'_';
        !text.is_empty()
            && text.len() <= 64
            && text.as_bytes().iter().all(ok)
            && text.as_bytes()[0].is_ascii_alphanumeric()
    }
}

/// The name of a segment: session, epoch and a random attempt. It is the segment's final name on every backend.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize, serde::Deserialize)]
pub struct SegmentId {
    /// The session that opened it.
    pub session: SessionId,
    /// The session's epoch when it was opened.
    pub epoch: u32,
    /// Random, so that two attempts of one epoch never share a name.
    pub attempt: u64,
}

impl SegmentId {
    /// Under which a store keeps what a client sends to it itself for a session. No attempt of ours has this name.
    #[must_use]
    pub const fn direct(session: SessionId) -> Self {
        Self { session, epoch: 1, attempt: 0 }
    }
}

impl fmt::Display for SegmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:08x}-{:016x}", self.session.0.simple(), self.epoch, self.attempt)
    }
}

/// One of the places where a database has bytes, by its number there. What a row keeps of bytes at the first is what its
/// backend wrote; of others it begins with the place's mark, so that rows of a database that never had but one say nothing of
/// places.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct PlaceId(pub u32);

impl PlaceId {
    /// The place that a database began with.
    pub const FIRST: Self = Self(0);

    /// Is it the one that a database began with?
    #[must_use]
    pub fn is_first(&self) -> bool {
        *self == Self::FIRST
    }

    /// What the texts of this place begin with; those of the first have no mark.
    #[must_use]
    pub fn prefix(self) -> String {
        if self.is_first() { String::new() } else { format!("{}{} ", Self::MARK, self.0) }
    }

    /// What a row keeps of what a backend at this place wrote.
    #[must_use]
    pub fn mark(self, backend: &str) -> String {
        format!("{}{backend}", self.prefix())
    }

    /// The place, and what its backend wrote.
    #[must_use]
    pub fn split(text: &str) -> (Self, &str) {
        let marked = text.strip_prefix(Self::MARK).and_then(|rest| rest.split_once(' '));
        match marked.and_then(|(number, backend)| Some((number.parse().ok()?, backend))) {
            Some((number, backend)) => (Self(number), backend),
            None => (Self::FIRST, text),
        }
    }

    /// What no backend's own text begins with.
    pub const MARK: char = '@';
}

impl fmt::Display for PlaceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A text that is not a segment's name.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not a segment name")]
pub struct NotASegment;

impl std::str::FromStr for SegmentId {
    type Err = NotASegment;

    fn from_str(text: &str) -> Result<Self, NotASegment> {
        let mut parts = text.split('-');
        let (Some(session), Some(epoch), Some(attempt), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(NotASegment);
        };
        if session.len() != 32 || epoch.len() != 8 || attempt.len() != 16 {
            return Err(NotASegment);
        }
        Ok(Self {
            session: SessionId(Uuid::try_parse(session).map_err(|_| NotASegment)?),
            epoch: u32::from_str_radix(epoch, 16).map_err(|_| NotASegment)?,
            attempt: u64::from_str_radix(attempt, 16).map_err(|_| NotASegment)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_public_id_reads_back_in_one_spelling_only() {
        let id = FileId(Uuid::from_u128(0xabc));
        assert_eq!(FileId::from_public(&id.public()), Some(id));
        for bad in ["", "file_", &id.to_string(), &id.public().to_uppercase(), &format!("{}0", id.public()), "vs_1"] {
            assert_eq!(FileId::from_public(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_name_is_bounded_and_has_no_control_characters() {
        assert!(is_name("") && is_name("Grüße an alle") && is_name(&"é".repeat(NAME_CHARS)));
        for bad in ["a\0b", "a\nb", "\u{7f}", "\u{85}", &"x".repeat(NAME_CHARS + 1)] {
            assert!(!is_name(bad), "{bad:?}");
        }
    }

    #[test]
    fn a_row_says_where_its_bytes_are() {
        for (place, backend, text) in
            [(0, "", ""), (0, "whole", "whole"), (2, "", "@2 "), (17, "pin1 a b", "@17 pin1 a b")]
        {
            assert_eq!(PlaceId(place).mark(backend), text);
            assert_eq!(PlaceId::split(text), (PlaceId(place), backend));
        }
        for nobodys in ["@", "@2", "@x whole", "@-1 whole"] {
            assert_eq!(PlaceId::split(nobodys), (PlaceId::FIRST, nobodys));
        }
    }

    #[test]
    fn a_segment_name_reads_back() {
        let id = SegmentId { session: SessionId(Uuid::from_u128(7)), epoch: 3, attempt: u64::MAX };
        assert_eq!(id.to_string().parse(), Ok(id));
        for bad in ["", "x", "../../etc/passwd", &format!("{id}-"), &id.to_string()[1..]] {
            assert_eq!(bad.parse::<SegmentId>(), Err(NotASegment), "{bad}");
        }
    }
}
