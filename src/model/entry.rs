//! Entries of a tenant's catalogue: files that are declared first, with what is said about them, and get their content
//! later, or anew, or never.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::hash::Hash;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::ids::{FileId, TenantId};
use super::pairs::Pairs;
use crate::clock::Timestamp;
use crate::limits;

/// The name of an entry that stands for a node of a graph: a space, and the node's own id in it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct NodeId {
    /// The space.
    pub space: String,
    /// The id in the space.
    pub id: String,
}

/// How a client names an entry.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum EntryRef {
    /// By the number that we gave it.
    Number(i64),
    /// By the id that the client gave it.
    External(String),
    /// By the node that it stands for.
    Node(NodeId),
}

/// What is said about an entry. An empty list or map is the same as none.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Facts {
    /// What the file is called.
    pub name: String,
    /// The client's own id, unique in the tenant.
    pub external_id: Option<String>,
    /// Its folder, which begins with `/`.
    pub directory: Option<String>,
    /// Where it is from.
    pub source: Option<String>,
    /// Its media type.
    pub mime_type: Option<String>,
    /// Whatever else the client wants to keep with it.
    pub metadata: Pairs,
    /// Things that it is about, by their numbers, in the client's order.
    pub assets: Vec<i64>,
    /// The set of data that it belongs to, by its number.
    pub data_set: Option<i64>,
    /// Labels, by their ids, in the client's order.
    pub labels: Vec<String>,
    /// Categories of those who may see it, by their numbers. Kept, not enforced.
    pub security: Vec<i64>,
    /// Where it is on earth: a GeoJSON feature.
    pub place: Option<Value>,
    /// When the file was made where it is from.
    pub source_created: Option<Timestamp>,
    /// When it was last changed there.
    pub source_modified: Option<Timestamp>,
    /// What its node says besides, as it was given.
    pub properties: Map<String, Value>,
}

/// An entry.
#[derive(Clone, PartialEq, Debug)]
pub struct Entry {
    /// Its number, from 1, which no other entry ever gets.
    pub number: i64,
    /// Whose it is.
    pub tenant: TenantId,
    /// The file whose current version is its content.
    pub file: FileId,
    /// The node that it stands for.
    pub node: Option<NodeId>,
    /// What is said about it.
    pub facts: Facts,
    /// When its content came, if it did.
    pub uploaded: Option<Timestamp>,
    /// When it was declared.
    pub created: Timestamp,
    /// When it was last changed.
    pub changed: Timestamp,
}

/// A fact that can be wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fact {
    /// [`Facts::name`].
    Name,
    /// [`Facts::external_id`].
    ExternalId,
    /// [`Facts::directory`].
    Directory,
    /// [`Facts::source`].
    Source,
    /// [`Facts::mime_type`].
    MimeType,
    /// [`Facts::metadata`].
    Metadata,
    /// [`Facts::assets`].
    Assets,
    /// [`Facts::labels`].
    Labels,
    /// [`Facts::security`].
    Security,
    /// The fact may not be changed of an entry that stands for a node.
    OfNode,
}

/// What is wrong with a fact: the reason completes a sentence that begins with its name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Wrong {
    /// Which fact.
    pub fact: Fact,
    /// What is wrong with it.
    pub reason: String,
}

impl Wrong {
    /// Only the node itself can be changed so.
    #[must_use]
    pub fn of_node() -> Self {
        wrong(Fact::OfNode, "stands for a node: it can only be changed so through the node")
    }
}

fn wrong(fact: Fact, reason: impl Into<String>) -> Wrong {
    Wrong { fact, reason: reason.into() }
}

fn text(fact: Fact, text: Option<&String>, most: usize) -> Result<(), Wrong> {
    match text {
        Some(text) if !(1..=most).contains(&text.chars().count()) => {
            Err(wrong(fact, format!("must have 1 to {most} characters")))
        }
        Some(_) | None => Ok(()),
    }
}

fn unique<T: Ord>(fact: Fact, list: &[T], most: usize) -> Result<(), Wrong> {
    if list.len() > most {
        return Err(wrong(fact, format!("must have at most {most} items, not {}", list.len())));
    }
    if list.iter().collect::<BTreeSet<_>>().len() < list.len() {
        return Err(wrong(fact, "must not have an item twice"));
    }
    Ok(())
}

impl Facts {
    /// Is everything within its limits?
    ///
    /// # Errors
    /// The first fact that is not.
    pub fn check(&self) -> Result<(), Wrong> {
        if self.directory.as_ref().is_some_and(|directory| !directory.starts_with('/')) {
            return Err(wrong(Fact::Directory, "must begin with `/`"));
        }
        self.check_of_node()
    }

    /// The same of an entry that stands for a node, whose folder may begin with anything.
    ///
    /// # Errors
    /// The first fact that is not within its limits.
    pub fn check_of_node(&self) -> Result<(), Wrong> {
        text(Fact::Name, Some(&self.name), limits::ENTRY_NAME_CHARS)?;
        text(Fact::ExternalId, self.external_id.as_ref(), limits::ENTRY_EXTERNAL_ID_CHARS)?;
        text(Fact::Directory, self.directory.as_ref(), limits::ENTRY_DIRECTORY_CHARS)?;
        text(Fact::Source, self.source.as_ref(), limits::ENTRY_SOURCE_CHARS)?;
        text(Fact::MimeType, self.mime_type.as_ref(), limits::ENTRY_MIME_TYPE_CHARS)?;
        unique(Fact::Assets, &self.assets, limits::ENTRY_ASSETS)?;
        unique(Fact::Labels, &self.labels, limits::ENTRY_LABELS)?;
        unique(Fact::Security, &self.security, limits::ENTRY_ASSETS)?;
        self.check_metadata()
    }

    fn check_metadata(&self) -> Result<(), Wrong> {
        let of = |reason: String| Err(wrong(Fact::Metadata, reason));
        if self.metadata.len() > limits::ENTRY_METADATA_PAIRS {
            return of(format!("must have at most {} pairs", limits::ENTRY_METADATA_PAIRS));
        }
        if self.metadata.iter().any(|(key, _)| key.len() > limits::ENTRY_METADATA_KEY_BYTES) {
            return of(format!("must have keys of at most {} bytes", limits::ENTRY_METADATA_KEY_BYTES));
        }
        if self.metadata.bytes() > limits::ENTRY_METADATA_BYTES {
            return of(format!("must have at most {} bytes in all", limits::ENTRY_METADATA_BYTES));
        }
        Ok(())
    }
}

/// What becomes of one fact.
#[derive(Clone, PartialEq, Debug, Default)]
pub enum Edit<T> {
    /// It stays.
    #[default]
    Keep,
    /// It becomes this.
    To(T),
    /// It is taken away.
    Clear,
}

impl<T: Clone> Edit<T> {
    fn apply(&self, fact: &mut Option<T>) {
        match self {
            Self::Keep => {}
            Self::To(value) => *fact = Some(value.clone()),
            Self::Clear => *fact = None,
        }
    }

    fn keeps(&self) -> bool {
        matches!(self, Self::Keep)
    }
}

/// What becomes of a list.
#[derive(Clone, PartialEq, Debug, Default)]
pub enum ListEdit<T> {
    /// It stays.
    #[default]
    Keep,
    /// It becomes this.
    To(Vec<T>),
    /// Items come and go; what is there already is not added again.
    Change {
        /// Items that come.
        add: Vec<T>,
        /// Items that go.
        remove: Vec<T>,
    },
}

impl<T: Clone + Eq + Hash> ListEdit<T> {
    fn apply(&self, list: &mut Vec<T>) {
        match self {
            Self::Keep => {}
            Self::To(items) => list.clone_from(items),
            Self::Change { add, remove } => {
                let remove: HashSet<&T> = remove.iter().collect();
                list.retain(|item| !remove.contains(item));
                let mut there: HashSet<T> = list.iter().cloned().collect();
                list.extend(add.iter().filter(|item| there.insert((*item).clone())).cloned());
            }
        }
    }
}

/// What becomes of the metadata.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum MapEdit {
    /// They stay.
    #[default]
    Keep,
    /// They become these.
    To(Pairs),
    /// Keys go, pairs come.
    Change {
        /// Pairs that come or get another value.
        add: BTreeMap<String, String>,
        /// Keys that go.
        remove: Vec<String>,
    },
}

/// A change of what is said about an entry.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct FactsEdit {
    /// Does the node itself change, of an entry that stands for one?
    pub by_node: bool,
    /// [`Facts::properties`], those that are named.
    pub properties: Map<String, Value>,
    /// [`Facts::name`], which can't be taken away.
    pub name: Option<String>,
    /// [`Facts::external_id`].
    pub external_id: Edit<String>,
    /// [`Facts::directory`].
    pub directory: Edit<String>,
    /// [`Facts::source`].
    pub source: Edit<String>,
    /// [`Facts::mime_type`].
    pub mime_type: Edit<String>,
    /// [`Facts::metadata`].
    pub metadata: MapEdit,
    /// [`Facts::assets`].
    pub assets: ListEdit<i64>,
    /// [`Facts::data_set`].
    pub data_set: Edit<i64>,
    /// [`Facts::labels`].
    pub labels: ListEdit<String>,
    /// [`Facts::security`].
    pub security: ListEdit<i64>,
    /// [`Facts::place`].
    pub place: Edit<Value>,
    /// [`Facts::source_created`].
    pub source_created: Edit<Timestamp>,
    /// [`Facts::source_modified`].
    pub source_modified: Edit<Timestamp>,
}

impl FactsEdit {
    /// The facts after the change.
    ///
    /// # Errors
    /// The first fact that would not be within its limits, or [`Fact::OfNode`] where the node decides.
    pub fn applied(&self, entry: &Entry) -> Result<Facts, Wrong> {
        let of_node = self.directory.keeps()
            && self.source.keeps()
            && self.mime_type.keeps()
            && self.security == ListEdit::Keep
            && self.source_created.keeps()
            && self.source_modified.keeps();
        if entry.node.is_some() && !of_node && !self.by_node {
            return Err(Wrong::of_node());
        }
        let mut facts = entry.facts.clone();
        if let Some(name) = &self.name {
            facts.name.clone_from(name);
        }
        self.external_id.apply(&mut facts.external_id);
        self.directory.apply(&mut facts.directory);
        self.source.apply(&mut facts.source);
        self.mime_type.apply(&mut facts.mime_type);
        match &self.metadata {
            MapEdit::Keep => {}
            MapEdit::To(pairs) => facts.metadata.clone_from(pairs),
            MapEdit::Change { add, remove } => {
                let mut pairs = facts.metadata.to_map();
                pairs.retain(|key, _| !remove.contains(key));
                pairs.extend(add.clone());
                facts.metadata = pairs.into();
            }
        }
        self.assets.apply(&mut facts.assets);
        self.data_set.apply(&mut facts.data_set);
        self.labels.apply(&mut facts.labels);
        self.security.apply(&mut facts.security);
        self.place.apply(&mut facts.place);
        self.source_created.apply(&mut facts.source_created);
        self.source_modified.apply(&mut facts.source_modified);
        facts.properties.extend(self.properties.clone());
        facts.properties.retain(|_, value| !value.is_null());
        if entry.node.is_some() {
            facts.check_of_node()?;
        } else {
            facts.check()?;
        }
        Ok(facts)
    }
}

/// A span of time, both ends in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Span {
    /// Not before this.
    pub min: Option<i64>,
    /// Not after this.
    pub max: Option<i64>,
}

/// Which entries are meant: those for which everything holds that is said here.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
pub struct EntryFilter {
    /// Of this name.
    pub name: Option<String>,
    /// Of this media type.
    pub mime_type: Option<String>,
    /// From there.
    pub source: Option<String>,
    /// With each of these pairs.
    pub metadata: BTreeMap<String, String>,
    /// With one of these.
    pub assets: Option<Vec<i64>>,
    /// In one of these.
    pub data_sets: Option<Vec<i64>>,
    /// With one of these labels.
    pub labels_any: Option<Vec<String>>,
    /// With all of these labels.
    pub labels_all: Vec<String>,
    /// In a folder whose path begins so.
    pub directory_prefix: Option<String>,
    /// With a client's id that begins so.
    pub external_prefix: Option<String>,
    /// With content, or without.
    pub uploaded: Option<bool>,
    /// Declared then.
    pub created: Option<Span>,
    /// Last changed then.
    pub changed: Option<Span>,
    /// Whose content came then.
    pub uploaded_at: Option<Span>,
    /// Made then where it is from.
    pub source_created: Option<Span>,
    /// Changed then where it is from.
    pub source_modified: Option<Span>,
    /// Where on earth.
    pub place: Option<PlaceFilter>,
}

/// How a place lies to a shape.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub enum Relation {
    /// They have a point in common.
    Intersects,
    /// They have none.
    Disjoint,
    /// It is in the shape.
    Within,
}

/// A place is meant by how it lies to a shape.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct PlaceFilter {
    /// How.
    pub relation: Relation,
    /// To which GeoJSON geometry.
    pub shape: Value,
}

/// Which stretch of the entries that are meant: in the order of their numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stretch {
    /// Above this number.
    pub after: i64,
    /// Of so many disjoint parts, which, from 0.
    pub part: Option<(i64, i64)>,
    /// At most so many.
    pub limit: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> Entry {
        Entry {
            number: 1,
            tenant: "t".into(),
            file: FileId(uuid::Uuid::nil()),
            node: None,
            facts: Facts { name: "a".into(), labels: vec!["x".into(), "y".into()], ..Facts::default() },
            uploaded: None,
            created: Timestamp(0),
            changed: Timestamp(0),
        }
    }

    fn pairs(pairs: impl IntoIterator<Item = (String, String)>) -> Pairs {
        pairs.into_iter().collect::<BTreeMap<_, _>>().into()
    }

    #[test]
    fn facts_have_limits() {
        type Change = fn(&mut Facts);
        fn long(chars: usize) -> String {
            "ä".repeat(chars)
        }
        let facts = |change: Change| {
            let mut facts = Facts { name: "a".into(), ..Facts::default() };
            change(&mut facts);
            facts.check().err().map(|wrong| wrong.fact)
        };
        assert_eq!(facts(|_| ()), None);
        let cases: [(Change, Fact); 14] = [
            (|f| f.name = String::new(), Fact::Name),
            (|f| f.name = long(257), Fact::Name),
            (|f| f.external_id = Some(String::new()), Fact::ExternalId),
            (|f| f.external_id = Some(long(256)), Fact::ExternalId),
            (|f| f.directory = Some("a/".into()), Fact::Directory),
            (|f| f.directory = Some(format!("/{}", long(512))), Fact::Directory),
            (|f| f.source = Some(long(129)), Fact::Source),
            (|f| f.mime_type = Some(long(257)), Fact::MimeType),
            (|f| f.assets = vec![1, 1], Fact::Assets),
            (|f| f.assets = (0..1001).collect(), Fact::Assets),
            (|f| f.labels = (0..11).map(|n| n.to_string()).collect(), Fact::Labels),
            (|f| f.metadata = pairs((0..257).map(|n| (n.to_string(), String::new()))), Fact::Metadata),
            (|f| f.metadata = pairs([(long(65), String::new())]), Fact::Metadata),
            (|f| f.metadata = pairs([("k".into(), "v".repeat(10_240))]), Fact::Metadata),
        ];
        for (change, fact) in cases {
            assert_eq!(facts(change), Some(fact));
        }
        assert_eq!(facts(|f| f.name = long(256)), None);
        assert_eq!(facts(|f| f.metadata = pairs([("k".into(), "v".repeat(10_239))])), None);
    }

    #[test]
    fn an_edit_changes_what_it_names() {
        let entry = entry();
        let edit = FactsEdit {
            source: Edit::To("s".into()),
            labels: ListEdit::Change { add: vec!["z".into(), "y".into()], remove: vec!["x".into()] },
            metadata: MapEdit::Change { add: BTreeMap::from([("k".into(), "v".into())]), remove: vec!["k".into()] },
            ..FactsEdit::default()
        };
        let facts = edit.applied(&entry).unwrap();
        assert_eq!((facts.source.as_deref(), facts.labels), (Some("s"), vec!["y".to_owned(), "z".to_owned()]));
        assert_eq!(facts.metadata.get("k"), Some("v"));
        let node = Entry { node: Some(NodeId { space: "s".into(), id: "i".into() }), ..entry };
        assert_eq!(edit.applied(&node).unwrap_err().fact, Fact::OfNode);
        let edit = FactsEdit { external_id: Edit::To("e".into()), ..FactsEdit::default() };
        assert_eq!(edit.applied(&node).unwrap().external_id.as_deref(), Some("e"));
    }
}
