//! The content of a container that was pushed as a batch: read once, from the front to the back, one record in
//! memory at a time, whatever its size. The first fault ends the reading, so a batch is taken whole or not at all.

mod gauge;
mod skip;

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::fmt;
use std::io::{self, Read};

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use crate::limits;
use crate::model::change::{Change, IdentityChange, IdentityRelation};
use crate::model::ids::FileId;
use crate::model::refusal::Refusal;

use self::gauge::{Gauge, Metered};
use self::skip::Skip;
use super::json::{self, Strict, shorten};
use super::{identity, wire};

/// Longest key at the top level.
const KEY_BYTES: u64 = 4 * 1024;
/// Most unknown keys at the top level. They are remembered, because none may come twice.
const UNKNOWN_KEYS: usize = 1_000;

/// What a container is a batch of, and what the call that names it allows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BatchKind {
    /// Items.
    Items {
        /// May items be updated field by field?
        partial_updates: bool,
        /// May items be merged?
        merges: bool,
    },
    /// Security identities.
    Identities,
}

/// One record of a batch.
#[derive(Clone, PartialEq, Debug)]
pub enum Record {
    /// A change to an item.
    Item {
        /// The change.
        change: Change,
        /// The container that holds the content of the item, if one does.
        content_file: Option<FileId>,
    },
    /// A change to a security identity.
    Identity(IdentityChange),
}

/// What a batch held.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Summary {
    /// Records in all.
    pub records: u64,
    /// Of them, those that add, replace, merge or update.
    pub puts: u64,
    /// Of them, those that delete.
    pub deletes: u64,
    /// Of them, those whose content is in a container of its own.
    pub content_files: usize,
    /// Bytes read.
    pub bytes: u64,
}

/// Why the receiver of the records wants no more.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// The record can't be taken; the place of the record is added to what is said.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// It could not be kept.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Why a batch was not translated.
#[derive(Debug, thiserror::Error)]
pub enum BatchError {
    /// The batch is at fault.
    #[error(transparent)]
    Refused(Refusal),
    /// The batch could not be read; nothing is known about it.
    #[error("the batch could not be read: {0}")]
    Read(io::Error),
    /// The receiver could not keep a record.
    #[error("a record could not be kept: {0}")]
    Write(io::Error),
}

/// Reads a batch and hands its records to `sink`, in the order in which they stand.
///
/// # Errors
/// `Refused` for the first fault, with its place; by then `sink` may have got the records before it.
pub fn translate<R: Read>(
    input: R,
    kind: BatchKind,
    sink: &mut dyn FnMut(Record) -> Result<(), SinkError>,
) -> Result<Summary, BatchError> {
    let gauge = Gauge::default();
    let run = Run {
        kind,
        gauge: &gauge,
        in_key: Cell::new(false),
        place: Cell::new(None),
        summary: Cell::new(Summary::default()),
        fault: RefCell::new(None),
        sink: RefCell::new(sink),
    };
    let mut json = serde_json::Deserializer::from_reader(Metered::new(input, &gauge));
    let read = (&run).deserialize(&mut json).and_then(|()| json.end());
    match read {
        Ok(()) => Ok(Summary { bytes: gauge.total.get(), ..run.summary.get() }),
        Err(error) => Err(run.explain(&error)),
    }
}

/// A list of a batch that has a meaning.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Section {
    AddOrUpdate,
    AddOrMerge,
    PartialUpdate,
    Delete,
    Members,
    Mappings,
    Deleted,
}

impl Section {
    const ITEMS: [Self; 4] = [Self::AddOrUpdate, Self::AddOrMerge, Self::PartialUpdate, Self::Delete];
    const IDENTITIES: [Self; 3] = [Self::Members, Self::Mappings, Self::Deleted];

    const fn name(self) -> &'static str {
        match self {
            Self::AddOrUpdate => "addOrUpdate",
            Self::AddOrMerge => "addOrMerge",
            Self::PartialUpdate => "partialUpdate",
            Self::Delete => "delete",
            Self::Members => "members",
            Self::Mappings => "mappings",
            Self::Deleted => "deleted",
        }
    }

    fn find(kind: BatchKind, key: &str) -> Option<Self> {
        let sections = match kind {
            BatchKind::Items { .. } => Self::ITEMS.as_slice(),
            BatchKind::Identities => Self::IDENTITIES.as_slice(),
        };
        sections.iter().copied().find(|section| section.name().eq_ignore_ascii_case(key))
    }

    /// Why entries of this list can't be taken by the call, if they can't. To pass them over would lose them unseen.
    const fn forbidden(self, kind: BatchKind) -> Option<&'static str> {
        match (self, kind) {
            (Self::PartialUpdate, BatchKind::Items { partial_updates: false, .. }) => {
                Some("partial updates are taken by a stream update only")
            }
            (Self::AddOrMerge, BatchKind::Items { merges: false, .. }) => {
                Some("merges are taken by a stream merge only")
            }
            _ => None,
        }
    }

    fn translate(self, entry: Value) -> Result<Record, Refusal> {
        let document = |entry| wire::batch_document(entry).map(|d| (Box::new(d.draft), d.content_file));
        let bare = |change| Record::Item { change, content_file: None };
        match self {
            Self::AddOrUpdate => {
                document(entry).map(|(draft, content_file)| Record::Item { change: Change::Put(draft), content_file })
            }
            Self::AddOrMerge => {
                document(entry).map(|(draft, content_file)| Record::Item { change: Change::Merge(draft), content_file })
            }
            Self::PartialUpdate => wire::batch_patch(entry).map(Change::Patch).map(bare),
            Self::Delete => wire::batch_delete(entry).map(bare),
            Self::Members => identity::put(entry, IdentityRelation::Members).map(Record::Identity),
            Self::Mappings => identity::put(entry, IdentityRelation::Mappings).map(Record::Identity),
            Self::Deleted => identity::delete(entry).map(Record::Identity),
        }
    }
}

/// One reading of one batch.
struct Run<'a> {
    kind: BatchKind,
    gauge: &'a Gauge,
    /// Is a key of the top level being read?
    in_key: Cell<bool>,
    /// The list and the entry being read.
    place: Cell<Option<(Section, u64)>>,
    summary: Cell<Summary>,
    /// Why the reading ended, where it was not the JSON's fault.
    fault: RefCell<Option<BatchError>>,
    sink: RefCell<&'a mut dyn FnMut(Record) -> Result<(), SinkError>>,
}

impl Run<'_> {
    /// Ends the reading. What is returned only unwinds the JSON reader.
    fn stop<E: Error>(&self, fault: BatchError) -> E {
        *self.fault.borrow_mut() = Some(fault);
        E::custom("stopped")
    }

    /// The place of an entry, as `addOrUpdate[17]`.
    fn place(&self) -> Option<String> {
        self.place.get().map(|(section, at)| format!("{}[{at}]", section.name()))
    }

    fn explain(&self, error: &serde_json::Error) -> BatchError {
        if let Some(fault) = self.fault.borrow_mut().take() {
            return fault;
        }
        if let Some(failed) = self.gauge.failed.borrow_mut().take() {
            return BatchError::Read(failed);
        }
        let place = self.place();
        if self.gauge.over.get() {
            return BatchError::Refused(if self.in_key.get() {
                Refusal::malformed(format!("a key of the batch is longer than {KEY_BYTES} bytes"))
            } else {
                Refusal::TooLarge {
                    what: "a single record of a batch",
                    limit: limits::BATCH_RECORD_BYTES,
                    remedy: "put the item's content into a file container of its own and name it by \
                             compressedBinaryDataFileId",
                }
            });
        }
        let what = place.unwrap_or_else(|| String::from("the batch"));
        if self.gauge.total.get() == 0 {
            return BatchError::Refused(Refusal::malformed("the batch is empty where JSON is required"));
        }
        BatchError::Refused(Refusal::malformed(format!("{what} {}", json::describe(error))))
    }

    /// Translates an entry and hands it on.
    fn take(&self, section: Section, entry: Value) -> Result<(), BatchError> {
        let placed = |refusal| BatchError::Refused(at_place(&self.place().unwrap_or_default(), refusal));
        if let Some(why) = section.forbidden(self.kind) {
            return Err(placed(Refusal::malformed(why)));
        }
        let record = section.translate(entry).map_err(placed)?;
        let mut summary = self.summary.get();
        summary.records += 1;
        match &record {
            Record::Item { change: Change::Delete { .. }, .. } | Record::Identity(IdentityChange::Delete { .. }) => {
                summary.deletes += 1;
            }
            Record::Item { content_file, .. } => {
                summary.puts += 1;
                summary.content_files += usize::from(content_file.is_some());
            }
            Record::Identity(IdentityChange::Put { .. }) => summary.puts += 1,
        }
        if summary.content_files > limits::BATCH_CONTENT_FILES {
            let reason = format!("is the container of more than {} items of one batch", limits::BATCH_CONTENT_FILES);
            return Err(placed(Refusal::invalid("compressedBinaryDataFileId", reason)));
        }
        self.summary.set(summary);
        (self.sink.borrow_mut())(record).map_err(|e| match e {
            SinkError::Refused(refusal) => placed(refusal),
            SinkError::Io(e) => BatchError::Write(e),
        })
    }
}

/// Says in a refusal which entry it is about.
fn at_place(place: &str, refusal: Refusal) -> Refusal {
    match refusal {
        Refusal::Malformed { reason } => Refusal::Malformed { reason: format!("{place}: {reason}") },
        Refusal::Invalid { name, reason } => Refusal::Invalid { name: format!("{place}.{name}"), reason },
        Refusal::Missing { name } => Refusal::Missing { name: format!("{place}.{name}") },
        other => other,
    }
}

impl<'de> DeserializeSeed<'de> for &Run<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, input: D) -> Result<(), D::Error> {
        input.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for &Run<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of lists")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        let (mut seen, mut unknown) = (HashSet::new(), HashSet::new());
        while let Some(key) = entries.next_key_seed(Key(self))? {
            let section = Section::find(self.kind, &key);
            let new = match section {
                Some(section) => seen.insert(section),
                None => unknown.insert(key.to_lowercase()),
            };
            if !new {
                let reason = format!("the key `{}` occurs twice in the batch: case does not count", shorten(&key));
                return Err(self.stop(BatchError::Refused(Refusal::Malformed { reason })));
            }
            if unknown.len() > UNKNOWN_KEYS {
                let reason = format!("the batch has more than {UNKNOWN_KEYS} keys without a meaning");
                return Err(self.stop(BatchError::Refused(Refusal::Malformed { reason })));
            }
            match section {
                Some(section) => entries.next_value_seed(List { run: self, section })?,
                None => entries.next_value_seed(Skip { gauge: self.gauge, levels: limits::JSON_DEPTH })?,
            }
        }
        Ok(())
    }
}

/// A key of the top level.
struct Key<'r, 'a>(&'r Run<'a>);

impl<'de> DeserializeSeed<'de> for Key<'_, '_> {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, input: D) -> Result<String, D::Error> {
        self.0.gauge.arm(KEY_BYTES);
        self.0.in_key.set(true);
        let key = <String as serde::Deserialize>::deserialize(input)?;
        self.0.in_key.set(false);
        self.0.gauge.disarm();
        Ok(key)
    }
}

/// A list of records.
struct List<'r, 'a> {
    run: &'r Run<'a>,
    section: Section,
}

impl<'de> DeserializeSeed<'de> for List<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, input: D) -> Result<(), D::Error> {
        // A string in place of the list would be kept until its end.
        self.run.place.set(Some((self.section, 0)));
        self.run.gauge.arm(limits::BATCH_RECORD_BYTES);
        input.deserialize_any(self)
    }
}

impl List<'_, '_> {
    fn wrong<E: Error>(&self, found: &str) -> E {
        let reason = format!("`{}` must be an array, not {found}", self.section.name());
        self.run.stop(BatchError::Refused(Refusal::Malformed { reason }))
    }
}

impl<'de> Visitor<'de> for List<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.run.gauge.disarm();
        self.run.place.set(None);
        Ok(())
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        Err(self.wrong("a boolean"))
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<(), E> {
        Err(self.wrong("a number"))
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<(), E> {
        Err(self.wrong("a number"))
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        Err(self.wrong("a number"))
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<(), E> {
        Err(self.wrong("a string"))
    }

    fn visit_map<A: MapAccess<'de>>(self, _: A) -> Result<(), A::Error> {
        Err(self.wrong("an object"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        let mut at = 0;
        self.run.gauge.disarm();
        while entries.next_element_seed(Entry { run: self.run, section: self.section })?.is_some() {
            at += 1;
            self.run.place.set(Some((self.section, at)));
        }
        self.run.place.set(None);
        Ok(())
    }
}

/// One record.
struct Entry<'r, 'a> {
    run: &'r Run<'a>,
    section: Section,
}

impl<'de> DeserializeSeed<'de> for Entry<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, input: D) -> Result<(), D::Error> {
        self.run.gauge.arm(limits::BATCH_RECORD_BYTES);
        let entry = Strict::new(&json::values()).deserialize(input)?;
        self.run.gauge.disarm();
        self.run.take(self.section, entry).map_err(|fault| self.run.stop(fault))
    }
}

#[cfg(test)]
mod tests;
