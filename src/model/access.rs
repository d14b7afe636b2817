//! Who asks, and what they may do.

use super::ids::{KeyId, TenantId};
use super::issuer::Subject;
use crate::clock::Timestamp;

/// A right of a caller within its tenant. The names are stable: scripts store them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Right {
    /// Ask for upload locations.
    Upload,
    /// Push and delete items, run streams, set a source's status.
    Items,
    /// Create, change and delete sources.
    Sources,
    /// Push and delete security identities.
    Identities,
    /// List and create fields.
    Fields,
    /// List, search and download what the tenant holds.
    Read,
    /// List, create and revoke the tenant's keys.
    Keys,
}

impl Right {
    /// Every right, in the order in which they are listed.
    pub const ALL: [Self; 7] =
        [Self::Upload, Self::Items, Self::Sources, Self::Identities, Self::Fields, Self::Read, Self::Keys];

    /// The name used on the command line, in the native API and in the database.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Upload => "upload",
            Self::Items => "items",
            Self::Sources => "sources",
            Self::Identities => "identities",
            Self::Fields => "fields",
            Self::Read => "read",
            Self::Keys => "keys",
        }
    }

    /// The right with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|r| r.name() == name)
    }

    const fn bit(self) -> u32 {
        match self {
            Self::Upload => 1,
            Self::Items => 2,
            Self::Sources => 4,
            Self::Identities => 8,
            Self::Fields => 16,
            Self::Read => 32,
            Self::Keys => 64,
        }
    }
}

/// A set of rights.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Rights(u32);

impl Rights {
    /// Every right.
    #[must_use]
    pub fn all() -> Self {
        Right::ALL.into_iter().collect()
    }

    /// Is `right` in the set?
    #[must_use]
    pub const fn has(self, right: Right) -> bool {
        self.0 & right.bit() != 0
    }

    /// The names of the rights in the set.
    #[must_use]
    pub fn names(self) -> Vec<&'static str> {
        Right::ALL.into_iter().filter(|r| self.has(*r)).map(Right::name).collect()
    }

    /// Both sets together.
    #[must_use]
    pub const fn with(self, more: Self) -> Self {
        Self(self.0 | more.0)
    }

    /// Reads a comma-separated list; `all` means every right.
    ///
    /// # Errors
    /// The first name that is no right.
    pub fn parse(list: &str) -> Result<Self, String> {
        let mut rights = Self::default();
        for name in list.split(',').map(str::trim).filter(|n| !n.is_empty()) {
            if name == "all" {
                return Ok(Self::all());
            }
            rights.0 |= Right::from_name(name).ok_or_else(|| name.to_owned())?.bit();
        }
        Ok(rights)
    }
}

impl FromIterator<Right> for Rights {
    fn from_iter<T: IntoIterator<Item = Right>>(rights: T) -> Self {
        Self(rights.into_iter().fold(0, |bits, r| bits | r.bit()))
    }
}

/// Who asks: one API key in one tenant, or a subject for whom an issuer vouches there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Caller {
    /// The tenant that the key belongs to, or that trusts the issuer.
    pub tenant: TenantId,
    /// The key's public id, or [`Subject::caller_id`].
    pub key: KeyId,
    /// Whom an issuer vouches for; `None` for a key.
    pub subject: Option<Subject>,
    /// What it may do.
    pub rights: Rights,
    /// When the key or the token stops working.
    pub expires: Option<Timestamp>,
    /// Is the tenant paused? Then it may read, and nothing else.
    pub paused: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_read_back_by_name() {
        assert_eq!(Rights::parse("all"), Ok(Rights::all()));
        let some = Rights::parse("upload, read").expect("known names");
        assert_eq!(some.names(), ["upload", "read"]);
        assert!(!some.has(Right::Keys));
        assert_eq!(Rights::parse("upload,root"), Err("root".into()));
    }
}
