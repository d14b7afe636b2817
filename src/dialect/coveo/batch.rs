//! The content of a container that was pushed as a batch: read once, from the front to the back, one record in
//! memory at a time, whatever its size. The first fault ends the reading, so a batch is taken whole or not at all.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::fmt;
use std::io::{self, Read};

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use crate::limits;
use crate::model::change::{Change, IdentityChange, IdentityRelation};
use crate::model::ids::FileId;
use crate::model::refusal::Refusal;

use super::json::{self, Strict, shorten};
use super::{identity, wire};

/// Bytes read at a time.
const BUFFER_BYTES: usize = 256 * 1024;
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
    let source = Metered { input, gauge: &gauge, buffer: vec![0; BUFFER_BYTES], at: 0, end: 0, begun: false };
    let mut json = serde_json::Deserializer::from_reader(source);
    let read = (&run).deserialize(&mut json).and_then(|()| json.end());
    match read {
        Ok(()) => Ok(Summary { bytes: gauge.total.get(), ..run.summary.get() }),
        Err(error) => Err(run.explain(&error)),
    }
}

/// What the reader and the visitors tell each other: how much was read since something began, and how it may end.
#[derive(Debug, Default)]
struct Gauge {
    total: Cell<u64>,
    /// Bytes that what is being read may still have; none while nothing is kept.
    left: Cell<Option<u64>>,
    over: Cell<bool>,
    failed: RefCell<Option<io::Error>>,
}

impl Gauge {
    /// Begins something that may have `limit` bytes. Its first byte was already looked at.
    fn arm(&self, limit: u64) {
        self.left.set(Some(limit.saturating_sub(1)));
    }

    fn disarm(&self) {
        self.left.set(None);
    }

    fn count(&self) -> io::Result<()> {
        self.total.set(self.total.get() + 1);
        match self.left.get() {
            None => Ok(()),
            Some(0) => {
                self.over.set(true);
                Err(io::Error::other("a record is too large"))
            }
            Some(left) => {
                self.left.set(Some(left - 1));
                Ok(())
            }
        }
    }
}

/// A buffered reader that counts every byte taken from it. The JSON reader takes them one by one, so that what was
/// counted is what was looked at, not what was buffered.
struct Metered<'g, R> {
    input: R,
    gauge: &'g Gauge,
    buffer: Vec<u8>,
    at: usize,
    end: usize,
    begun: bool,
}

impl<R: Read> Metered<'_, R> {
    /// Reads until there is something, or an end.
    fn fill(&mut self) -> io::Result<()> {
        (self.at, self.end) = (0, 0);
        loop {
            // Enough for a byte order mark, if there is one, before the first byte is told.
            let wanted = if self.begun { 1 } else { json::BOM.len() };
            match self.input.read(self.buffer.get_mut(self.end..).unwrap_or_default()) {
                Ok(0) => break,
                Ok(n) => self.end = self.buffer.len().min(self.end + n),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => {
                    let told = io::Error::from(e.kind());
                    *self.gauge.failed.borrow_mut() = Some(e);
                    return Err(told);
                }
            }
            if self.end >= wanted {
                break;
            }
        }
        if !self.begun {
            self.begun = true;
            if self.buffer.get(..self.end).is_some_and(|read| read.starts_with(json::BOM)) {
                self.at = json::BOM.len();
                if self.at == self.end {
                    return self.fill();
                }
            }
        }
        Ok(())
    }
}

impl<R: Read> Read for Metered<'_, R> {
    #[inline]
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.at == self.end {
            self.fill()?;
        }
        if self.at == self.end {
            return Ok(0);
        }
        let (Some(byte), Some(slot)) = (self.buffer.get(self.at), out.first_mut()) else { return Ok(0) };
        *slot = *byte;
        self.at += 1;
        self.gauge.count()?;
        Ok(1)
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

/// Reads past a value. Nothing of it is kept, but the JSON reader holds each string while it reads it, so that each
/// is limited as a record is.
struct Skip<'r> {
    gauge: &'r Gauge,
    levels: usize,
}

impl Skip<'_> {
    fn deeper<E: Error>(&self) -> Result<usize, E> {
        self.gauge.disarm();
        self.levels.checked_sub(1).ok_or_else(json::too_deep)
    }

    fn done<E>(&self) -> Result<(), E> {
        self.gauge.disarm();
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Skip<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, input: D) -> Result<(), D::Error> {
        self.gauge.arm(limits::BATCH_RECORD_BYTES);
        input.deserialize_any(self)
    }
}

/// Reads past a key, which is limited as a string is.
struct SkipKey<'r>(&'r Gauge);

impl<'de> DeserializeSeed<'de> for SkipKey<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, input: D) -> Result<(), D::Error> {
        self.0.arm(limits::BATCH_RECORD_BYTES);
        <IgnoredAny as serde::Deserialize>::deserialize(input)?;
        self.0.disarm();
        Ok(())
    }
}

impl<'de> Visitor<'de> for Skip<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.done()
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        self.done()
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<(), E> {
        self.done()
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<(), E> {
        self.done()
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        self.done()
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<(), E> {
        self.done()
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        let levels = self.deeper()?;
        while entries.next_element_seed(Skip { gauge: self.gauge, levels })?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        let levels = self.deeper()?;
        while entries.next_key_seed(SkipKey(self.gauge))?.is_some() {
            entries.next_value_seed(Skip { gauge: self.gauge, levels })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use crate::model::change::{ContentDraft, PatchOperator};

    use super::*;

    const UPDATE: BatchKind = BatchKind::Items { partial_updates: true, merges: false };
    const PUSH: BatchKind = BatchKind::Items { partial_updates: false, merges: false };
    const MERGE: BatchKind = BatchKind::Items { partial_updates: false, merges: true };
    const KINDS: [BatchKind; 4] = [UPDATE, PUSH, MERGE, BatchKind::Identities];

    fn run(kind: BatchKind, content: impl AsRef<[u8]>) -> Result<(Vec<Record>, Summary), BatchError> {
        let mut records = Vec::new();
        let mut sink = |record| {
            records.push(record);
            Ok(())
        };
        let summary = translate(content.as_ref(), kind, &mut sink)?;
        Ok((records, summary))
    }

    fn refused(kind: BatchKind, content: impl AsRef<[u8]>) -> Refusal {
        match run(kind, content) {
            Err(BatchError::Refused(refusal)) => refusal,
            other => panic!("{other:?}"),
        }
    }

    fn malformed(kind: BatchKind, content: impl AsRef<[u8]>) -> String {
        match refused(kind, content) {
            Refusal::Malformed { reason } => reason,
            other => panic!("{other:?}"),
        }
    }

    fn names(records: &[Record]) -> Vec<String> {
        let name = |record: &Record| match record {
            Record::Item { change, .. } => {
                let verb = match change {
                    Change::Put(_) => "put",
                    Change::Merge(_) => "merge",
                    Change::Patch(_) => "patch",
                    Change::Delete { children: false, .. } => "delete",
                    Change::Delete { children: true, .. } => "delete*",
                };
                format!("{verb} {}", change.document_id())
            }
            Record::Identity(IdentityChange::Put { relation, identity, .. }) => {
                format!("{} {}", relation.name(), identity.name)
            }
            Record::Identity(IdentityChange::Delete { identity }) => format!("delete {}", identity.name),
        };
        records.iter().map(name).collect()
    }

    #[test]
    fn c30_c31_records_come_in_the_order_of_the_file_whatever_the_case() {
        for content in [
            r#"{"addOrUpdate":[{"documentId":"http://a"},{"documentId":"http://b","data":"x"}],
                "delete":[{"documentId":"http://c","deleteChildren":true},{"documentId":"http://d"}]}"#,
            r#"{"AddOrUpdate":[{"DocumentId":"http://a"},{"DocumentId":"http://b","Data":"x"}],
                "Delete":[{"DocumentId":"http://c","DeleteChildren":"True"},{"DocumentId":"http://d"}]}"#,
        ] {
            let (records, summary) = run(PUSH, content).expect("a batch");
            assert_eq!(names(&records), ["put http://a", "put http://b", "delete* http://c", "delete http://d"]);
            let bytes = u64::try_from(content.len()).expect("small");
            assert_eq!(summary, Summary { records: 4, puts: 2, deletes: 2, content_files: 0, bytes });
        }
        let (records, _) =
            run(PUSH, r#"{"delete":[{"documentId":"x"}],"addOrUpdate":[{"documentId":"http://a"}]}"#).expect("a batch");
        assert_eq!(names(&records), ["delete x", "put http://a"]);
    }

    #[test]
    fn c32_empty_batches_are_taken() {
        for content in [
            "{}",
            " {} \n",
            "\u{feff}{}",
            r#"{"addOrUpdate":[],"delete":[]}"#,
            r#"{"addOrUpdate":null}"#,
            r#"{"addOrMerge":[],"partialUpdate":[],"members":{"a":[1,{"b":"c"}]},"x":null,"y":1.5,"z":"s","t":true,"n":-1}"#,
        ] {
            let (records, summary) = run(PUSH, content).expect(content);
            assert_eq!((records.len(), summary.records), (0, 0), "{content}");
        }
    }

    #[test]
    fn c33_content_of_another_shape_is_invalid_json() {
        for (content, said) in [
            ("", "the batch is empty where JSON is required"),
            ("\u{feff}", "the batch is empty where JSON is required"),
            (" ", "the batch is not JSON: EOF while parsing a value"),
            ("hello", "the batch is not JSON: expected value at line 1 column 1"),
            ("[]", "the batch can't be taken: invalid type: sequence, expected an object of lists"),
            ("null", "the batch can't be taken: invalid type: null"),
            ("{} {}", "the batch is not JSON: trailing characters"),
            ("{", "the batch is not JSON: EOF while parsing an object"),
            (r#"{"addOrUpdate":{}}"#, "`addOrUpdate` must be an array, not an object"),
            (r#"{"addOrUpdate":"x"}"#, "`addOrUpdate` must be an array, not a string"),
            (r#"{"delete":7}"#, "`delete` must be an array, not a number"),
            (r#"{"addOrUpdate":[],"ADDORUPDATE":[]}"#, "the key `ADDORUPDATE` occurs twice in the batch"),
            (r#"{"x":1,"X":1}"#, "the key `X` occurs twice in the batch"),
            (
                r#"{"addOrUpdate":[{"documentId":"http://a"},{"title":"t"}]}"#,
                "addOrUpdate[1]: `documentId` is required",
            ),
            (r#"{"addOrUpdate":[{"documentId":""}]}"#, "addOrUpdate[0]: `documentId` is required"),
            (r#"{"addOrUpdate":[{"documentId":"http://a"},3]}"#, "addOrUpdate[1]: an object is required"),
            (r#"{"addOrUpdate":[{"documentId":"http://a","data":"x","Data":"y"}]}"#, "addOrUpdate[0]: the keys"),
            (
                r#"{"addOrUpdate":[{"documentId":"http://a","data":"x","data":"y"}]}"#,
                "addOrUpdate[0] can't be taken: the key `data` occurs twice at line 1 column 59",
            ),
            (r#"{"addOrUpdate":[{"documentId":"http://a"},{"documentId""#, "addOrUpdate[1] is not JSON: EOF"),
            (r#"{"addOrUpdate":[{"documentId":"http://a"} {}]}"#, "addOrUpdate[1] is not JSON: expected `,` or `]`"),
            (r#"{"delete":[{"deleteChildren":true}]}"#, "delete[0]: `documentId` is required"),
            (r#"{"delete":["http://a"]}"#, "delete[0]: an object is required"),
            (r#"{"partialUpdate":[{}]}"#, "partialUpdate[0]: partial updates are taken by a stream update only"),
            (r#"{"addOrMerge":[{}]}"#, "addOrMerge[0]: merges are taken by a stream merge only"),
        ] {
            let got = malformed(PUSH, content);
            assert!(got.starts_with(said), "{content}: {got}");
        }
        assert!(malformed(PUSH, b"{\"x\":\"\xFF\"}").contains("invalid unicode"));
        let deep = format!("{{\"addOrUpdate\":[{}", "[".repeat(100_000));
        assert!(malformed(PUSH, deep).starts_with("addOrUpdate[0] can't be taken: nested deeper than 32 levels"));
        let deep = format!("{{\"x\":[{}", "[".repeat(100_000));
        assert!(malformed(PUSH, deep).contains("nested deeper than 32 levels"));
    }

    #[test]
    fn s7_3_a_value_that_can_t_be_names_its_entry() {
        for (entry, wanted) in [
            (r#"{"documentId":"x"}"#, "addOrUpdate[1].documentId"),
            (r#"{"documentId":"http://x","compressionType":"brotli"}"#, "addOrUpdate[1].compressionType"),
            (
                r#"{"documentId":"http://x","compressedBinaryDataFileId":"x"}"#,
                "addOrUpdate[1].compressedBinaryDataFileId",
            ),
        ] {
            match refused(PUSH, format!(r#"{{"addOrUpdate":[{{"documentId":"http://a"}},{entry}]}}"#)) {
                Refusal::Invalid { name, .. } => assert_eq!(name, wanted),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn s7_3_contents_are_told_beside_the_record() {
        let file = "60e285b1-58ec-5625-c5c4-53cd2434c19f";
        let content = format!(
            r#"{{"addOrUpdate":[{{"documentId":"http://a","compressedBinaryDataFileId":"{file}","compressionType":"GZip"}},
                {{"documentId":"http://b","compressedBinaryData":"YQ"}}]}}"#
        );
        let (records, summary) = run(PUSH, content).expect("a batch");
        assert_eq!(summary.content_files, 1);
        let drafts: Vec<_> = records
            .into_iter()
            .map(|record| match record {
                Record::Item { change: Change::Put(draft), content_file } => {
                    (draft.content, draft.compression, content_file)
                }
                other => panic!("{other:?}"),
            })
            .collect();
        let id = file.parse().expect("a uuid");
        assert_eq!(drafts[0], (ContentDraft::None, Some("gzip".into()), Some(id)));
        assert_eq!(drafts[1], (ContentDraft::Base64("YQ==".into()), Some("zlib".into()), None));
    }

    #[test]
    fn s4_a_batch_names_so_many_containers_and_no_more() {
        let entry = r#"{"documentId":"http://a","compressedBinaryDataFileId":"60e285b1-58ec-5625-c5c4-53cd2434c19f"}"#;
        let batch = |n: usize| format!("{{\"addOrUpdate\":[{}]}}", vec![entry; n].join(","));
        assert!(run(PUSH, batch(limits::BATCH_CONTENT_FILES)).is_ok());
        assert!(matches!(refused(PUSH, batch(limits::BATCH_CONTENT_FILES + 1)), Refusal::Invalid { name, .. }
            if name == "addOrUpdate[10000].compressedBinaryDataFileId"));
    }

    #[test]
    fn c39_a_stream_update_mixes_items_and_partial_updates() {
        let content = r#"{"partialUpdate":[{"documentId":"http://a","operator":"FIELDVALUEREPLACE","field":"f","value":1}],
            "addOrUpdate":[{"documentId":"http://b"}]}"#;
        let (records, summary) = run(UPDATE, content).expect("a batch");
        assert_eq!(names(&records), ["patch http://a", "put http://b"]);
        assert!(
            matches!(&records[0], Record::Item { change: Change::Patch(p), .. } if p.operator == PatchOperator::Replace)
        );
        assert_eq!((summary.puts, summary.deletes), (2, 0));
    }

    #[test]
    fn s10_a_stream_merge_takes_merges() {
        let content = r#"{"addOrMerge":[{"documentId":"http://a"}],"delete":[{"documentId":"http://b"}]}"#;
        assert_eq!(names(&run(MERGE, content).expect("a batch").0), ["merge http://a", "delete http://b"]);
        assert!(malformed(MERGE, r#"{"partialUpdate":[1]}"#).starts_with("partialUpdate[0]: "));
    }

    #[test]
    fn c37_identities_come_in_three_lists() {
        let content = r#"{"Members":[{"identity":{"name":"g","type":"GROUP"},"members":[{"name":"a","type":"USER"}]}],
            "mappings":[{"Identity":{"Name":"m"},"Mappings":[]}],
            "deleted":[{"identity":{"name":"x","type":"USER"}},{"name":"y","type":"USER"}],"addOrUpdate":7}"#;
        let (records, summary) = run(BatchKind::Identities, content).expect("a batch");
        assert_eq!(names(&records), ["members g", "mappings m", "delete x", "delete y"]);
        assert_eq!((summary.puts, summary.deletes), (2, 2));
        assert_eq!(
            malformed(BatchKind::Identities, r#"{"members":[{"members":[]}]}"#),
            "members[0]: `identity` is required"
        );
        assert!(matches!(refused(BatchKind::Identities, r#"{"deleted":[{"name":"a","type":"robot"}]}"#),
            Refusal::Invalid { name, .. } if name == "deleted[0].type"));
    }

    /// Fails after its bytes, as a disk does.
    struct Broken<'a>(&'a [u8]);

    impl Read for Broken<'_> {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            match self.0.read(out)? {
                0 => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the disk is gone")),
                n => Ok(n),
            }
        }
    }

    #[test]
    fn an_error_of_the_reader_is_not_an_error_of_the_batch() {
        for content in ["", "{", r#"{"addOrUpdate":[{"documentId":"http://a"#, "{}", r#"{"x":"#] {
            match translate(Broken(content.as_bytes()), PUSH, &mut |_| Ok(())) {
                Err(BatchError::Read(e)) => assert_eq!(e.to_string(), "the disk is gone", "{content}"),
                other => panic!("{content}: {other:?}"),
            }
        }
    }

    #[test]
    fn the_receiver_may_refuse_or_fail() {
        let content = r#"{"addOrUpdate":[{"documentId":"http://a"},{"documentId":"http://b"}]}"#;
        let mut count = 0;
        let got = translate(content.as_bytes(), PUSH, &mut |_| {
            count += 1;
            if count == 2 { Err(Refusal::invalid("compressedBinaryDataFileId", "is unknown").into()) } else { Ok(()) }
        });
        let Err(BatchError::Refused(refusal)) = got else { panic!("{got:?}") };
        assert_eq!(refusal, Refusal::invalid("addOrUpdate[1].compressedBinaryDataFileId", "is unknown"));
        let got = translate(content.as_bytes(), PUSH, &mut |_| Err(io::Error::other("full").into()));
        assert!(matches!(got, Err(BatchError::Write(_))), "{got:?}");
    }

    /// A batch made while it is read.
    struct Made<F> {
        next: F,
        rest: Vec<u8>,
        at: usize,
    }

    impl<F: FnMut() -> Option<Vec<u8>>> Made<F> {
        fn new(next: F) -> Self {
            Self { next, rest: Vec::new(), at: 0 }
        }
    }

    impl<F: FnMut() -> Option<Vec<u8>>> Read for Made<F> {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            if self.at == self.rest.len() {
                let Some(rest) = (self.next)() else { return Ok(0) };
                (self.rest, self.at) = (rest, 0);
            }
            let n = (&self.rest[self.at..]).read(out)?;
            self.at += n;
            Ok(n)
        }
    }

    #[test]
    fn a_million_records_are_handed_on_while_they_are_read() {
        const RECORDS: u64 = 1_000_000;
        let (made, taken) = (Cell::new(0_u64), Cell::new(0_u64));
        let mut n = 0;
        let input = Made::new(|| {
            n += 1;
            made.set(n);
            match n {
                1 => Some(br#"{"skipped":[1,2,3],"delete":["#.to_vec()),
                n if n <= RECORDS + 1 => {
                    Some(format!("{}{{\"documentId\":\"x{n}\"}}", if n == 2 { "" } else { "," }).into_bytes())
                }
                n if n == RECORDS + 2 => Some(b"]}".to_vec()),
                _ => None,
            }
        });
        let mut ahead = 0;
        let summary = translate(input, PUSH, &mut |_| {
            taken.set(taken.get() + 1);
            ahead = ahead.max(made.get() - taken.get());
            Ok(())
        });
        assert_eq!(summary.expect("a batch").records, RECORDS);
        assert!(ahead < 4, "{ahead} records were read before they were handed on");
    }

    fn repeated(head: &str, byte: u8, blocks: usize, tail: &str) -> impl Read {
        let mut parts = std::iter::once(head.as_bytes().to_vec())
            .chain(std::iter::repeat_n(vec![byte; 1024 * 1024], blocks))
            .chain(std::iter::once(tail.as_bytes().to_vec()))
            .collect::<Vec<_>>()
            .into_iter();
        Made::new(move || parts.next())
    }

    #[test]
    fn s4_a_record_is_limited_and_the_batch_is_not() {
        let item = r#"{"documentId":"http://a","data":""#;
        let over = limits::BATCH_RECORD_BYTES;
        let exact = usize::try_from(over).expect("small") - item.len() - 2;
        let batch = |n: usize| format!("{{\"addOrUpdate\":[{item}{}\"}},{item}\"}}]}}", "x".repeat(n));
        assert_eq!(run(PUSH, batch(exact)).expect("exactly the limit").1.records, 2);
        match refused(PUSH, batch(exact + 1)) {
            Refusal::TooLarge { limit, .. } => assert_eq!(limit, over),
            other => panic!("{other:?}"),
        }
        let blanks = repeated(r#"{"addOrUpdate":["#, b' ', 40, "]}");
        assert_eq!(translate(blanks, PUSH, &mut |_| Ok(())).expect("blanks count for nothing").records, 0);
        for (head, tail) in [(r#"{"x":["#, "]}"), (r#"{"x":{"a":["#, "]}}")] {
            let mut parts = vec![tail.as_bytes().to_vec(), b"1".to_vec()];
            parts.extend(vec![b"1,".repeat(512 * 1024); 40]);
            parts.push(head.as_bytes().to_vec());
            assert!(
                translate(Made::new(move || parts.pop()), PUSH, &mut |_| Ok(())).is_ok(),
                "unknown lists are skipped"
            );
        }
    }

    #[test]
    fn s4_nothing_endless_is_kept() {
        for (head, byte) in [(r#"{"x":""#, b'x'), (r#"{"addOrUpdate":""#, b'x'), (r#"{"addOrUpdate":[{"#, b' ')] {
            match translate(repeated(head, byte, 40, "\"}"), PUSH, &mut |_| Ok(())) {
                Err(BatchError::Refused(Refusal::TooLarge { .. })) => (),
                other => panic!("{head}: {other:?}"),
            }
        }
        match translate(repeated("{\"", b'x', 1, "\":1}"), PUSH, &mut |_| Ok(())) {
            Err(BatchError::Refused(Refusal::Malformed { reason })) => {
                assert!(reason.contains("longer than 4096"), "{reason}");
            }
            other => panic!("{other:?}"),
        }
        let keys: Vec<_> = (0..=UNKNOWN_KEYS).map(|n| format!("\"k{n}\":0")).collect();
        assert!(malformed(PUSH, format!("{{{}}}", keys.join(","))).contains("more than 1000 keys"));
    }

    /// A batch with something of everything that a stream update takes.
    const SAMPLE: &str = r#"{"addOrUpdate":[{"documentId":"http://a","data":"x","permissions":[{"allowAnonymous":true,
        "allowedPermissions":[{"identity":"i","identityType":"USER"}]}],"tags":["a",1.5e3,null]},
        {"documentId":"http://b","compressedBinaryData":"YQ==","compressionType":"GZIP"}],"other":{"k":[{}]},
        "partialUpdate":[{"documentId":"http://a","operator":"dictionaryPut","field":"f","value":{"k":"v"}}],
        "delete":[{"documentId":"http://c","deleteChildren":true}]}"#;

    proptest! {
        #[test]
        fn half_a_batch_is_no_batch(cut in 0..SAMPLE.len()) {
            prop_assert!(run(UPDATE, SAMPLE).is_ok());
            let got = run(UPDATE, &SAMPLE.as_bytes()[..cut]);
            let refused = matches!(&got, Err(BatchError::Refused(Refusal::Malformed { .. })));
            prop_assert!(refused, "{}: {:?}", cut, got);
        }

        #[test]
        fn a_changed_byte_never_panics(at in 0..SAMPLE.len(), byte in any::<u8>()) {
            let mut content = SAMPLE.as_bytes().to_vec();
            content[at] = byte;
            for kind in KINDS {
                let _ = run(kind, &content);
            }
        }

        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            for kind in KINDS {
                let _ = run(kind, &bytes);
            }
        }

        #[test]
        fn random_json_never_panics_and_never_fails_to_be_read(value in json::tests::any_json(), cut in 0_usize..200) {
            let text = value.to_string();
            for kind in KINDS {
                for content in [text.as_bytes(), &text.as_bytes()[..cut.min(text.len())]] {
                    prop_assert!(!matches!(run(kind, content), Err(BatchError::Read(_) | BatchError::Write(_))));
                }
            }
        }
    }
}
