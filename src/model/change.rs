//! What a push asks for, item by item. A dialect translates its vendor's words into these records; they are stored
//! one JSON line each (the serialization here is that stored form) and applied later, from a cursor.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::ids::VersionId;

/// A number that orders the changes to an item: a change with a lower one than the item's is refused. Clients have
/// been seen to send more than 64 bits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Ordering(pub u128);

impl Ordering {
    /// Reads decimal digits, nothing else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        digits.then(|| text.parse().ok().map(Self)).flatten()
    }

    /// Sixteen bytes that sort as the number does.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    /// Reads [`Self::to_bytes`].
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(u128::from_be_bytes(bytes))
    }
}

impl fmt::Display for Ordering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One record of a push on items.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Change {
    /// Add the item or replace all of it.
    Put(Box<ItemDraft>),
    /// Add the item, or replace only what the draft names.
    Merge(Box<ItemDraft>),
    /// Change one field of an existing item.
    Patch(Patch),
    /// Delete the item.
    Delete {
        /// Which one.
        document_id: String,
        /// Also delete the items whose document id starts with this one.
        #[serde(default)]
        children: bool,
    },
}

impl Change {
    /// The item that the record is about.
    #[must_use]
    pub fn document_id(&self) -> &str {
        match self {
            Self::Put(draft) | Self::Merge(draft) => &draft.document_id,
            Self::Patch(patch) => &patch.document_id,
            Self::Delete { document_id, .. } => document_id,
        }
    }
}

/// An item as a client describes it.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct ItemDraft {
    /// The URI that names it.
    pub document_id: String,
    /// The parent's document id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_id: Option<String>,
    /// With a leading dot, usually.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file_extension: Option<String>,
    /// Who may see it, as given; null when nothing was said.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub permissions: Value,
    /// Everything else.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub metadata: Map<String, Value>,
    /// Declared compression, in lower case. A label, never trusted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compression: Option<String>,
    /// The content.
    #[serde(default, skip_serializing_if = "ContentDraft::is_none")]
    pub content: ContentDraft,
    /// Why the item will be refused when the push is applied: a fault that the call itself must not answer with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

/// The content of an item as it came.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ContentDraft {
    /// Nothing was said.
    #[default]
    None,
    /// Text.
    Text(String),
    /// Bytes in standard Base64.
    Base64(String),
    /// A container's committed version, pinned when the push was accepted.
    Version {
        /// Which one.
        version: VersionId,
        /// Its size in bytes.
        size: u64,
    },
}

impl ContentDraft {
    /// Was nothing said?
    #[must_use]
    pub const fn is_none(&self) -> bool {
        matches!(self, Self::None)
    }
}

/// What a partial update does to a field.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PatchOperator {
    /// Append the value, or each of a list of values, to an array.
    ArrayAppend,
    /// Remove the value, or each of a list of values, from an array.
    ArrayRemove,
    /// Replace the field.
    Replace,
    /// Set keys of a dictionary.
    DictionaryPut,
    /// Remove a key, or each of a list of keys, from a dictionary.
    DictionaryRemove,
}

/// A change to one field of an existing item.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Patch {
    /// Which item.
    pub document_id: String,
    /// What to do.
    pub operator: PatchOperator,
    /// To which field.
    pub field: String,
    /// With what.
    pub value: Value,
}

/// One record of a push on security identities.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum IdentityChange {
    /// Add or replace an identity with its members or mappings.
    Put {
        /// Members or mappings.
        relation: IdentityRelation,
        /// The identity.
        identity: Identity,
        /// Members or mapped identities, as given.
        related: Vec<Value>,
        /// Well-known identities, as given.
        well_knowns: Vec<Value>,
    },
    /// Delete an identity with its members and mappings.
    Delete {
        /// The identity.
        identity: Identity,
    },
}

/// What an identity is related to.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IdentityRelation {
    /// Members of a group.
    Members,
    /// Identities of other providers that are the same one.
    Mappings,
}

impl IdentityRelation {
    /// The stored name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Members => "members",
            Self::Mappings => "mappings",
        }
    }
}

/// A security identity.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Identity {
    /// Its name within the provider.
    pub name: String,
    /// What it is.
    pub kind: IdentityKind,
    /// Further facts, as given.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub additional: Map<String, Value>,
}

/// What a security identity is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IdentityKind {
    /// A person or service.
    User,
    /// A group.
    Group,
    /// A group that exists only for this purpose.
    VirtualGroup,
    /// Not told.
    Unknown,
}

impl IdentityKind {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::User, Self::Group, Self::VirtualGroup, Self::Unknown];

    /// The stored name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Group => "group",
            Self::VirtualGroup => "virtual_group",
            Self::Unknown => "unknown",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ordering_id_may_exceed_64_bits_and_sorts_as_bytes() {
        let crawler = Ordering::parse("19457712023373612345").expect("digits");
        assert!(crawler.0 > u128::from(u64::MAX));
        assert!(Ordering(9).to_bytes() < crawler.to_bytes());
        assert_eq!(Ordering::from_bytes(crawler.to_bytes()), crawler);
        for bad in ["", "-1", "+1", "abc", "1.0", " 1", "9".repeat(40).as_str()] {
            assert_eq!(Ordering::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_record_reads_back_from_its_line() {
        let change = Change::Put(Box::new(ItemDraft {
            document_id: "file://a".into(),
            content: ContentDraft::Text("x\ny".into()),
            ..ItemDraft::default()
        }));
        let line = serde_json::to_string(&change).expect("a record is JSON");
        assert!(!line.contains('\n'));
        assert_eq!(serde_json::from_str::<Change>(&line).expect("reads back"), change);
    }
}
