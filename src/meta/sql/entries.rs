//! Entries of a tenant's catalogue.
//!
//! What is asked for by equality is found by terms, which list the entries of each value in the order of their numbers, so
//! that a page is the next stretch of one term. Spans and prefixes are found by an index and sorted while there are few,
//! and else met on the way through all entries in their order.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use super::rows::{all, made, one, optional_time, optional_uuid, run, size, time, unreadable, uuid};
use super::{files, uploads};
use crate::clock::Timestamp;
use crate::limits;
use crate::meta::{DeleteEntries, EntriesChanged, EntriesDeleted, EntryMade, NewEntry, NodeEntry};
use crate::model::entry::{Entry, EntryFilter, EntryRef, Facts, FactsEdit, NodeId, Span, Stretch, Wrong};
use crate::model::ids::{FileId, TenantId, VersionId};
use crate::model::place;
use crate::model::session::Session;
use crate::sql::{Connection, Flavour, Owned as Sql, Param, Row, SqlError, Value, params};

type R<T> = crate::sql::Result<T>;

/// The media type of a file that nobody has said one of.
const ANY_TYPE: &str = "application/octet-stream";

/// For how many entries there is room before the first is found: a full page, and the one more that tells whether it is the last.
const ENTRIES_AT_ONCE: usize = 1_001;

/// Words of a search that count.
const SEARCH_WORDS: usize = 16;

const COLUMNS: &str = "e.number, e.tenant, e.file, e.external_id, e.space, e.node, e.name, e.directory, e.source,
    e.mime_type, e.metadata, e.assets, e.data_set, e.labels, e.security, e.place, e.source_created, e.source_modified,
    e.uploaded, e.created, e.changed, e.properties";

fn read(row: &Row<'_>) -> R<Entry> {
    let node = match (row.get(4)?, row.get(5)?) {
        (Some(space), Some(id)) => Some(NodeId { space, id }),
        _ => None,
    };
    Ok(Entry {
        number: row.get(0)?,
        tenant: TenantId(row.get(1)?),
        file: FileId(uuid(row, 2)?),
        node,
        facts: Facts {
            name: row.get(6)?,
            external_id: row.get(3)?,
            directory: row.get(7)?,
            source: row.get(8)?,
            mime_type: row.get(9)?,
            metadata: unpacked(row, 10)?,
            assets: unpacked(row, 11)?,
            data_set: row.get(12)?,
            labels: unpacked(row, 13)?,
            security: unpacked(row, 14)?,
            place: unpacked(row, 15)?,
            source_created: optional_time(row, 16)?,
            source_modified: optional_time(row, 17)?,
            properties: unpacked(row, 21)?,
        },
        uploaded: optional_time(row, 18)?,
        created: time(row, 19)?,
        changed: time(row, 20)?,
    })
}

/// A value that is null in the row when it is empty.
fn unpacked<T: Default + DeserializeOwned>(row: &Row<'_>, index: usize) -> R<T> {
    match row.value(index)? {
        Value::Null => Ok(T::default()),
        Value::Text(text) => serde_json::from_str(&text).map_err(|error| unreadable(index, error.to_string())),
        Value::Integer(_) | Value::Real(_) | Value::Blob(_) => Err(unreadable(index, "not a text".into())),
    }
}

fn packed<T: Serialize>(value: &T, empty: bool) -> R<Option<String>> {
    if empty {
        return Ok(None);
    }
    serde_json::to_string(value).map(Some).map_err(|error| SqlError::Failed(error.to_string()))
}

// --------------------------------------------------------------------------------------------------------------- terms

type Term = [u8; 16];

fn term(tenant: &TenantId, kind: u8, parts: &[&[u8]]) -> Term {
    let mut hash = Sha256::new();
    for part in [tenant.0.as_bytes(), &[kind]].iter().chain(parts) {
        hash.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        hash.update(part);
    }
    let mut term = [0; 16];
    term.copy_from_slice(&hash.finalize()[..16]);
    term
}

fn text_term(tenant: &TenantId, kind: u8, text: &str) -> Term {
    term(tenant, kind, &[text.as_bytes()])
}

fn number_term(tenant: &TenantId, kind: u8, number: i64) -> Term {
    term(tenant, kind, &[&number.to_be_bytes()])
}

const NAME: u8 = b'n';
const MIME_TYPE: u8 = b't';
const SOURCE: u8 = b's';
const DATA_SET: u8 = b'd';
const LABEL: u8 = b'l';
const ASSET: u8 = b'a';
const PAIR: u8 = b'm';
const UPLOADED: u8 = b'u';

fn pair_term(tenant: &TenantId, key: &str, value: &str) -> Term {
    term(tenant, PAIR, &[key.as_bytes(), value.as_bytes()])
}

fn uploaded_term(tenant: &TenantId, uploaded: bool) -> Term {
    number_term(tenant, UPLOADED, uploaded.into())
}

fn terms(tenant: &TenantId, facts: &Facts, uploaded: bool) -> BTreeSet<Term> {
    let mut terms = BTreeSet::from([text_term(tenant, NAME, &facts.name), uploaded_term(tenant, uploaded)]);
    terms.extend(facts.mime_type.as_ref().map(|text| text_term(tenant, MIME_TYPE, text)));
    terms.extend(facts.source.as_ref().map(|text| text_term(tenant, SOURCE, text)));
    terms.extend(facts.data_set.map(|number| number_term(tenant, DATA_SET, number)));
    terms.extend(facts.labels.iter().map(|label| text_term(tenant, LABEL, label)));
    terms.extend(facts.assets.iter().map(|asset| number_term(tenant, ASSET, *asset)));
    terms.extend(facts.metadata.iter().map(|(key, value)| pair_term(tenant, key, value)));
    terms
}

fn add_terms<'a>(c: &Connection, number: i64, terms: impl IntoIterator<Item = &'a Term>) -> R<()> {
    for term in terms {
        run(c, "INSERT INTO entry_terms (term, number) VALUES (?1, ?2)", params![term, number])?;
    }
    Ok(())
}

fn drop_terms<'a>(c: &Connection, number: i64, terms: impl IntoIterator<Item = &'a Term>) -> R<()> {
    for term in terms {
        run(c, "DELETE FROM entry_terms WHERE term = ?1 AND number = ?2", params![term, number])?;
    }
    Ok(())
}

// ---------------------------------------------------------------------------------------------------- made and changed

pub(super) fn entry(c: &Connection, tenant: &TenantId, which: &EntryRef) -> R<Option<Entry>> {
    let found = |column: &str, values: &[&dyn Param]| {
        one(c, &format!("SELECT {COLUMNS} FROM entries e WHERE {column}"), values, read)
    };
    match which {
        EntryRef::Number(number) => {
            found("e.number = ?1", &[number]).map(|entry| entry.filter(|entry| entry.tenant == *tenant))
        }
        EntryRef::External(id) => found("e.tenant = ?1 AND e.external_id = ?2", &[&tenant.0, id]),
        EntryRef::Node(node) => {
            found("e.tenant = ?1 AND e.space = ?2 AND e.node = ?3", &[&tenant.0, &node.space, &node.id])
        }
    }
}

pub(super) fn make(c: &Connection, new: &NewEntry) -> R<EntryMade> {
    let named = match &new.facts.external_id {
        Some(id) => entry(c, &new.tenant, &EntryRef::External(id.clone()))?,
        None => None,
    };
    if let Some(named) = named {
        let Some(edit) = &new.overwrite else { return Ok(EntryMade::Taken) };
        if named.node.is_some() {
            return Ok(EntryMade::Wrong(Wrong::of_node()));
        }
        let facts = match edit.applied(&named) {
            Ok(facts) => facts,
            Err(wrong) => return Ok(EntryMade::Wrong(wrong)),
        };
        if let Some(session) = &new.session
            && let Some(over) = open(c, &named, &facts, session)?
        {
            return Ok(EntryMade::OverQuota(over));
        }
        let changed = Entry { facts, changed: new.now, ..named.clone() };
        put(c, &named, &changed)?;
        return Ok(EntryMade::Done(Box::new(changed)));
    }
    if let Some(node) = &new.node
        && entry(c, &new.tenant, &EntryRef::Node(node.clone()))?.is_some()
    {
        return Ok(EntryMade::Taken);
    }
    let mut made = Entry {
        number: 0,
        tenant: new.tenant.clone(),
        file: new.file,
        node: new.node.clone(),
        facts: new.facts.clone(),
        uploaded: None,
        created: new.now,
        changed: new.now,
    };
    if let Some(session) = &new.session
        && let Some(over) = open_session(c, &made, &made.facts, session)?
    {
        return Ok(EntryMade::OverQuota(over));
    }
    add(c, &mut made, new.expires)?;
    Ok(EntryMade::Done(Box::new(made)))
}

fn add(c: &Connection, made: &mut Entry, expires: Option<Timestamp>) -> R<()> {
    made.number = insert(c, made, expires)?;
    add_terms(c, made.number, &terms(&made.tenant, &made.facts, false))
}

pub(super) fn put_nodes(c: &Connection, tenant: &TenantId, nodes: &[NodeEntry], now: Timestamp) -> R<EntriesChanged> {
    // Everything is judged before anything is written. One node may be named twice.
    let mut found: BTreeMap<&NodeId, (Option<Entry>, Entry)> = BTreeMap::new();
    for (place, wanted) in nodes.iter().enumerate() {
        let (stored, current) = match found.remove(&wanted.node) {
            Some((stored, current)) => (stored, Some(current)),
            None => {
                let stored = entry(c, tenant, &EntryRef::Node(wanted.node.clone()))?;
                (stored.clone(), stored)
            }
        };
        let next = match current {
            Some(current) => match wanted.edit.applied(&current) {
                Ok(facts) => Entry { facts, changed: now, ..current },
                Err(wrong) => return Ok(EntriesChanged::Wrong(place, wrong)),
            },
            None => Entry {
                number: 0,
                tenant: tenant.clone(),
                file: wanted.file,
                node: Some(wanted.node.clone()),
                facts: wanted.facts.clone(),
                uploaded: None,
                created: now,
                changed: now,
            },
        };
        found.insert(&wanted.node, (stored, next));
    }
    for (stored, next) in found.values_mut() {
        match stored {
            Some(before) => put(c, before, next)?,
            None => add(c, next, None)?,
        }
    }
    let done = nodes.iter().filter_map(|wanted| found.get(&wanted.node).map(|(_, entry)| entry.clone()));
    Ok(EntriesChanged::Done(done.collect()))
}

fn open_session(c: &Connection, entry: &Entry, facts: &Facts, session: &Session) -> R<Option<crate::meta::OverQuota>> {
    let mut session = Session { file: entry.file, ..session.clone() };
    if let Some(declared) = &mut session.declaration {
        declared.name.clone_from(&facts.name);
        declared.mime_type = facts.mime_type.clone().unwrap_or_else(|| ANY_TYPE.into());
    }
    uploads::open_sessions(c, &[session])
}

/// Opens an upload of an entry that is there: it waits for its content as long as the upload lives.
fn open(c: &Connection, entry: &Entry, facts: &Facts, session: &Session) -> R<Option<crate::meta::OverQuota>> {
    if let Some(over) = open_session(c, entry, facts, session)? {
        return Ok(Some(over));
    }
    run(
        c,
        "UPDATE entries SET expires = CASE WHEN expires < ?2 THEN ?2 ELSE expires END WHERE number = ?1 AND expires IS NOT NULL",
        params![entry.number, session.expires.0],
    )?;
    Ok(None)
}

pub(super) fn open_for(c: &Connection, which: &EntryRef, session: &Session) -> R<Option<EntryMade>> {
    let Some(found) = entry(c, &session.tenant, which)? else { return Ok(None) };
    Ok(Some(match open(c, &found, &found.facts, session)? {
        Some(over) => EntryMade::OverQuota(over),
        None => EntryMade::Done(Box::new(found)),
    }))
}

/// Hands on what is said about an entry, and when it was changed, as values for `?1` to `?16`, with more behind them.
fn stored<T>(entry: &Entry, more: &[&dyn Param], write: impl FnOnce(&[&dyn Param]) -> R<T>) -> R<T> {
    let facts = &entry.facts;
    write(
        &[
            &params![
                facts.external_id,
                facts.name,
                facts.name.to_lowercase(),
                facts.directory,
                facts.source,
                facts.mime_type,
                packed(&facts.metadata, facts.metadata.is_empty())?,
                packed(&facts.assets, facts.assets.is_empty())?,
                facts.data_set,
                packed(&facts.labels, facts.labels.is_empty())?,
                packed(&facts.security, facts.security.is_empty())?,
                packed(&facts.place, facts.place.is_none())?,
                facts.source_created.map(|at| at.0),
                facts.source_modified.map(|at| at.0),
                packed(&facts.properties, facts.properties.is_empty())?,
                entry.changed.0,
            ][..],
            more,
        ]
        .concat(),
    )
}

fn insert(c: &Connection, entry: &Entry, expires: Option<Timestamp>) -> R<i64> {
    stored(
        entry,
        &params![
            entry.tenant.0,
            entry.file.0.as_bytes(),
            entry.node.as_ref().map(|node| &node.space),
            entry.node.as_ref().map(|node| &node.id),
            entry.created.0,
            expires.map(|at| at.0),
        ],
        |values| {
            let sql = "INSERT INTO entries (external_id, name, folded, directory, source, mime_type, metadata, assets, data_set, labels,
             security, place, source_created, source_modified, properties, changed, tenant, file, space, node, created, expires)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22)
             RETURNING number";
            made(c, sql, values)
        },
    )
}

/// Writes what changed of an entry.
fn put(c: &Connection, before: &Entry, entry: &Entry) -> R<()> {
    stored(entry, &params![entry.number], |values| {
        run(
            c,
            "UPDATE entries SET external_id = ?1, name = ?2, folded = ?3, directory = ?4, source = ?5, mime_type = ?6,
             metadata = ?7, assets = ?8, data_set = ?9, labels = ?10, security = ?11, place = ?12, source_created = ?13,
             source_modified = ?14, properties = ?15, changed = ?16 WHERE number = ?17",
            values,
        )
    })?;
    let (old, new) = (
        terms(&before.tenant, &before.facts, before.uploaded.is_some()),
        terms(&entry.tenant, &entry.facts, entry.uploaded.is_some()),
    );
    drop_terms(c, entry.number, old.difference(&new))?;
    add_terms(c, entry.number, new.difference(&old))?;
    name_file(c, entry.file)
}

/// The file is called what its entry is called.
fn name_file(c: &Connection, file: FileId) -> R<()> {
    run(
        c,
        "UPDATE files SET (name, mime_type) = (SELECT e.name, coalesce(e.mime_type, ?2) FROM entries e WHERE e.file = ?1)
         WHERE id = ?1 AND EXISTS (SELECT 1 FROM entries e WHERE e.file = ?1)",
        params![file.0.as_bytes(), ANY_TYPE],
    )
}

pub(super) fn change(
    c: &Connection,
    tenant: &TenantId,
    changes: &[(EntryRef, FactsEdit)],
    now: Timestamp,
) -> R<EntriesChanged> {
    let mut missing = Vec::new();
    let mut found = Vec::with_capacity(changes.len());
    for (place, (which, _)) in changes.iter().enumerate() {
        match entry(c, tenant, which)? {
            Some(entry) => found.push(entry),
            None => missing.push(place),
        }
    }
    if !missing.is_empty() {
        return Ok(EntriesChanged::Missing(missing));
    }
    // Everything is judged before anything is written. One entry may be named twice, in two ways.
    let mut current: HashMap<i64, Entry> = HashMap::new();
    for (place, ((_, edit), found)) in changes.iter().zip(&found).enumerate() {
        let before = current.get(&found.number).unwrap_or(found);
        match edit.applied(before) {
            Ok(facts) => {
                let changed = Entry { facts, changed: now, ..before.clone() };
                current.insert(found.number, changed);
            }
            Err(wrong) => return Ok(EntriesChanged::Wrong(place, wrong)),
        }
    }
    let before: BTreeMap<i64, &Entry> = found.iter().map(|entry| (entry.number, entry)).collect();
    let taken = taken(c, tenant, &before, &current)?;
    if !taken.is_empty() {
        return Ok(EntriesChanged::Taken(taken));
    }
    for (number, entry) in &before {
        // Two entries may exchange their ids.
        if current.get(number).is_some_and(|new| new.facts.external_id != entry.facts.external_id) {
            run(c, "UPDATE entries SET external_id = NULL WHERE number = ?1", [number])?;
        }
    }
    for (number, entry) in &before {
        if let Some(new) = current.get(number) {
            put(c, entry, new)?;
        }
    }
    let done = found.iter().filter_map(|entry| current.get(&entry.number).cloned());
    Ok(EntriesChanged::Done(done.collect()))
}

/// The external ids that would be those of two entries.
fn taken(
    c: &Connection,
    tenant: &TenantId,
    before: &BTreeMap<i64, &Entry>,
    current: &HashMap<i64, Entry>,
) -> R<Vec<String>> {
    let mut taken = BTreeSet::new();
    let mut holders: HashMap<&str, i64> = HashMap::new();
    for (number, entry) in before {
        let Some(id) = current.get(number).and_then(|new| new.facts.external_id.as_deref()) else { continue };
        if holders.insert(id, *number).is_some() {
            taken.insert(id.to_owned());
        }
        if entry.facts.external_id.as_deref() == Some(id) {
            continue;
        }
        let holder = one(
            c,
            "SELECT number FROM entries WHERE tenant = ?1 AND external_id = ?2",
            params![tenant.0, id],
            |row| row.get::<i64>(0),
        )?;
        if holder.is_some_and(|holder| !current.contains_key(&holder)) {
            taken.insert(id.to_owned());
        }
    }
    Ok(taken.into_iter().collect())
}

pub(super) fn delete(c: &Connection, delete: &DeleteEntries) -> R<EntriesDeleted> {
    let mut missing = Vec::new();
    let mut of_nodes = Vec::new();
    let mut found = Vec::new();
    for (place, which) in delete.entries.iter().enumerate() {
        match entry(c, &delete.tenant, which)? {
            None => missing.push(place),
            Some(entry) if entry.node.is_some() != delete.as_nodes => of_nodes.push(place),
            Some(entry) => found.push((which, entry)),
        }
    }
    if !missing.is_empty() && !delete.ignore_unknown {
        return Ok(EntriesDeleted::Missing(missing));
    }
    if !of_nodes.is_empty() {
        return Ok(EntriesDeleted::OfNodes(of_nodes));
    }
    for (_, entry) in &found {
        drop_entry(c, entry)?;
        drop_content(c, entry.file, delete)?;
    }
    Ok(EntriesDeleted::Done(found.into_iter().map(|(which, _)| which.clone()).collect()))
}

fn drop_entry(c: &Connection, entry: &Entry) -> R<()> {
    drop_terms(c, entry.number, &terms(&entry.tenant, &entry.facts, entry.uploaded.is_some()))?;
    run(c, "DELETE FROM entries WHERE number = ?1", [entry.number])
}

fn drop_content(c: &Connection, file: FileId, delete: &DeleteEntries) -> R<()> {
    let version = one(c, "SELECT version FROM files WHERE id = ?1", [file.0.as_bytes()], |row| optional_uuid(row, 0))?;
    match version.flatten() {
        Some(version) => files::drop_file(c, file, VersionId(version), delete.now, delete.keep_replaced),
        None => uploads::end_uploads_of(c, file, delete.now),
    }
}

/// The file was deleted by other means than its entry's.
pub(super) fn forget(c: &Connection, file: FileId) -> R<()> {
    let sql = format!("SELECT {COLUMNS} FROM entries e WHERE e.file = ?1");
    if let Some(entry) = one(c, &sql, [file.0.as_bytes()], read)? {
        drop_entry(c, &entry)?;
    }
    Ok(())
}

// ------------------------------------------------------------------------------------------------------------- content

/// A version of a file was committed: if it is an entry's, its content came.
pub(super) fn content_came(c: &Connection, file: FileId, now: Timestamp) -> R<()> {
    let found = one(
        c,
        "SELECT number, tenant, uploaded IS NOT NULL FROM entries WHERE file = ?1",
        [file.0.as_bytes()],
        |row| Ok((row.get::<i64>(0)?, TenantId(row.get(1)?), row.get::<bool>(2)?)),
    )?;
    let Some((number, tenant, before)) = found else { return Ok(()) };
    run(c, "UPDATE entries SET uploaded = ?2, changed = ?2, expires = NULL WHERE number = ?1", params![number, now.0])?;
    if !before {
        drop_terms(c, number, &[uploaded_term(&tenant, false)])?;
        add_terms(c, number, &[uploaded_term(&tenant, true)])?;
    }
    name_file(c, file)
}

/// Lets go of entries whose content never came; says how many.
pub(super) fn expire(c: &Connection, now: Timestamp, limit: u32) -> R<usize> {
    let sql = format!("SELECT {COLUMNS} FROM entries e WHERE e.expires <= ?1 LIMIT ?2");
    let over = all(c, &sql, params![now.0, limit], read)?;
    for entry in &over {
        drop_entry(c, entry)?;
        uploads::end_uploads_of(c, entry.file, now)?;
    }
    Ok(over.len())
}

// ------------------------------------------------------------------------------------------------------------- looking

/// One thing that must hold, and how entries are found by it.
enum Need {
    /// They have one of these terms.
    Terms(Vec<Term>),
    /// A column lies between two values; the index that has it.
    Range { index: &'static str, column: &'static str, from: Option<Sql>, to: Option<Sql>, open_end: bool },
}

impl Need {
    fn span(index: &'static str, column: &'static str, span: Option<&Span>) -> Option<Self> {
        let span = span?;
        // Without an end it still asks for a time that is there.
        let from = span.min.unwrap_or(i64::MIN);
        Some(Self::Range {
            index,
            column,
            from: Some(Sql::Integer(from)),
            to: span.max.map(Sql::Integer),
            open_end: false,
        })
    }

    fn prefix(index: &'static str, column: &'static str, prefix: Option<&String>) -> Option<Self> {
        let prefix = prefix?;
        let to = behind(prefix).map(Sql::Text);
        Some(Self::Range { index, column, from: Some(Sql::Text(prefix.clone())), to, open_end: true })
    }

    /// Whether it holds for `e`, in a way that leads to no index.
    fn holds(&self, flavour: Flavour, values: &mut Vec<Sql>) -> String {
        match self {
            Self::Terms(terms) => format!(
                "EXISTS (SELECT 1 FROM entry_terms x WHERE x.term IN ({}) AND x.number = e.number)",
                listed(terms, values)
            ),
            Self::Range { column, .. } => self.between(&format!("{}e.{column}", flavour.off_index()), values),
        }
    }

    fn between(&self, column: &str, values: &mut Vec<Sql>) -> String {
        let Self::Range { from, to, open_end, .. } = self else { return "1 = 1".into() };
        let mut parts = Vec::new();
        if let Some(from) = from {
            values.push(from.clone());
            parts.push(format!("{column} >= ?{}", values.len()));
        }
        if let Some(to) = to {
            values.push(to.clone());
            parts.push(format!("{column} {} ?{}", if *open_end { "<" } else { "<=" }, values.len()));
        }
        parts.join(" AND ")
    }

    /// A query for the numbers of those that it holds for, above `?2`, in the tenant `?1`.
    fn numbers(&self, flavour: Flavour, values: &mut Vec<Sql>) -> String {
        match self {
            Self::Terms(terms) => {
                format!("SELECT number FROM entry_terms WHERE term IN ({}) AND number > ?2", listed(terms, values))
            }
            Self::Range { index, column, .. } => {
                let between = self.between(&format!("r.{column}"), values);
                format!(
                    "SELECT r.number FROM entries r{} WHERE r.tenant = ?1 AND {between} AND r.number > ?2",
                    flavour.by_index(index)
                )
            }
        }
    }
}

fn listed(terms: &[Term], values: &mut Vec<Sql>) -> String {
    let places = terms.iter().map(|term| {
        values.push(Sql::Blob(term.to_vec()));
        format!("?{}", values.len())
    });
    places.collect::<Vec<_>>().join(", ")
}

/// The first text behind all that begin with a prefix, in the order of their bytes.
fn behind(prefix: &str) -> Option<String> {
    let mut characters: Vec<char> = prefix.chars().collect();
    while let Some(last) = characters.pop() {
        // The code points of surrogates are no characters.
        let next = match last {
            '\u{d7ff}' => Some('\u{e000}'),
            last => u32::from(last).checked_add(1).and_then(char::from_u32),
        };
        if let Some(next) = next {
            characters.push(next);
            return Some(characters.into_iter().collect());
        }
    }
    None
}

fn needs(tenant: &TenantId, filter: &EntryFilter) -> Vec<Need> {
    let mut needs = Vec::new();
    let mut term = |term: Term| needs.push(Need::Terms(vec![term]));
    if let Some(name) = &filter.name {
        term(text_term(tenant, NAME, name));
    }
    if let Some(mime_type) = &filter.mime_type {
        term(text_term(tenant, MIME_TYPE, mime_type));
    }
    if let Some(source) = &filter.source {
        term(text_term(tenant, SOURCE, source));
    }
    for (key, value) in &filter.metadata {
        term(pair_term(tenant, key, value));
    }
    for label in &filter.labels_all {
        term(text_term(tenant, LABEL, label));
    }
    if let Some(uploaded) = filter.uploaded {
        term(uploaded_term(tenant, uploaded));
    }
    let numbers = |kind: u8, list: &Option<Vec<i64>>| {
        list.as_ref().map(|list| Need::Terms(list.iter().map(|number| number_term(tenant, kind, *number)).collect()))
    };
    needs.extend(numbers(ASSET, &filter.assets));
    needs.extend(numbers(DATA_SET, &filter.data_sets));
    if let Some(labels) = &filter.labels_any {
        needs.push(Need::Terms(labels.iter().map(|label| text_term(tenant, LABEL, label)).collect()));
    }
    needs.extend(Need::prefix("entries_directory", "directory", filter.directory_prefix.as_ref()));
    needs.extend(Need::prefix("entries_external", "external_id", filter.external_prefix.as_ref()));
    needs.extend(Need::span("entries_created", "created", filter.created.as_ref()));
    needs.extend(Need::span("entries_changed", "changed", filter.changed.as_ref()));
    needs.extend(Need::span("entries_uploaded", "uploaded", filter.uploaded_at.as_ref()));
    needs.extend(Need::span("entries_source_created", "source_created", filter.source_created.as_ref()));
    needs.extend(Need::span("entries_source_modified", "source_modified", filter.source_modified.as_ref()));
    needs
}

/// How the entries are reached.
enum Way {
    /// In their order, all of the tenant.
    All,
    /// In their order, those of one term.
    Term(usize),
    /// By a need that few fulfil, sorted.
    Few(usize),
}

/// The way that meets the fewest entries that are not meant. Counting ends where it does not matter any more.
fn way(c: &Connection, tenant: &TenantId, needs: &[Need], after: i64) -> R<Way> {
    let single = |need: &Need| matches!(need, Need::Terms(terms) if terms.len() == 1);
    if needs.is_empty() {
        return Ok(Way::All);
    }
    if let [only] = needs
        && single(only)
    {
        return Ok(Way::Term(0));
    }
    let mut best = (limits::ENTRIES_SORTED, None);
    for (place, need) in needs.iter().enumerate() {
        let mut values = vec![Sql::Text(tenant.0.clone()), Sql::Integer(after)];
        let numbers = need.numbers(c.flavour(), &mut values);
        // A query that uses no tenant would else have one value too many.
        let count = format!(
            "SELECT count(*) FROM (SELECT 1 WHERE ?1 IS NULL UNION ALL SELECT 1 FROM ({numbers}) AS n LIMIT {}) AS met",
            best.0
        );
        let count = one(c, &count, values, |row| row.get::<u32>(0))?.unwrap_or(0);
        if count < best.0 {
            best = (count, Some(place));
        }
    }
    Ok(match best.1 {
        Some(place) if needs.get(place).is_some_and(single) => Way::Term(place),
        Some(place) => Way::Few(place),
        None => needs.iter().position(single).map_or(Way::All, Way::Term),
    })
}

/// A query for entries that are meant, in front of which stands what is selected of `e`.
struct Query {
    sql: String,
    values: Vec<Sql>,
    /// The column by which they come in their order without being sorted.
    number: &'static str,
}

/// `index` leads through all of the tenant where no need leads to fewer.
fn query(c: &Connection, tenant: &TenantId, filter: &EntryFilter, after: i64, index: &str) -> R<Query> {
    let needs = needs(tenant, filter);
    let way = way(c, tenant, &needs, after)?;
    let flavour = c.flavour();
    let off = flavour.off_index();
    let mut values = vec![Sql::Text(tenant.0.clone()), Sql::Integer(after)];
    let number = if matches!(way, Way::Term(_)) { "t.number" } else { "e.number" };
    let (mut sql, reached) = match way {
        Way::All => (format!("FROM entries e{} WHERE e.tenant = ?1 AND e.number > ?2", flavour.by_index(index)), None),
        Way::Term(place) => {
            let terms = match needs.get(place) {
                Some(Need::Terms(terms)) => listed(terms, &mut values),
                Some(Need::Range { .. }) | None => String::new(),
            };
            let sql = format!(
                "FROM entry_terms t {} entries e ON e.number = t.number
                 WHERE t.term = {terms} AND t.number > ?2 AND {off}e.tenant = ?1",
                flavour.join_in_order()
            );
            (sql, Some(place))
        }
        Way::Few(place) => {
            let numbers = needs.get(place).map_or_else(String::new, |need| need.numbers(c.flavour(), &mut values));
            (format!("FROM entries e WHERE e.number IN ({numbers}) AND {off}e.tenant = ?1"), Some(place))
        }
    };
    for (place, need) in needs.iter().enumerate() {
        if Some(place) != reached {
            let holds = need.holds(c.flavour(), &mut values);
            sql.push_str(" AND ");
            sql.push_str(&holds);
        }
    }
    if filter.place.is_some() {
        sql.push_str(" AND e.place IS NOT NULL");
    }
    Ok(Query { sql, values, number })
}

pub(super) fn find(c: &Connection, tenant: &TenantId, filter: &EntryFilter, stretch: Stretch) -> R<Vec<Entry>> {
    let Query { mut sql, mut values, number } = query(c, tenant, filter, stretch.after, "entries_tenant")?;
    if let Some((part, parts)) = stretch.part {
        values.extend([Sql::Integer(parts), Sql::Integer(part)]);
        sql.push_str(&format!(" AND e.number % ?{} = ?{}", values.len() - 1, values.len()));
    }
    select(c, &format!("{sql} ORDER BY {number}"), values, filter, stretch.limit)
}

fn select(c: &Connection, from: &str, values: Vec<Sql>, filter: &EntryFilter, limit: u32) -> R<Vec<Entry>> {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let mut found = Vec::with_capacity(limit.min(ENTRIES_AT_ONCE));
    each(c, from, values, filter, |entry| {
        found.push(entry);
        found.len() < limit
    })?;
    Ok(found)
}

/// Hands on the entries of a query that lie where they should, as long as they are wanted.
fn each(
    c: &Connection,
    from: &str,
    values: Vec<Sql>,
    filter: &EntryFilter,
    mut wanted: impl FnMut(Entry) -> bool,
) -> R<()> {
    c.each(&format!("SELECT {COLUMNS} {from}"), values, |row| {
        let entry = read(row)?;
        Ok(!lies(&entry, filter) || wanted(entry))
    })
}

fn lies(entry: &Entry, filter: &EntryFilter) -> bool {
    let Some(wanted) = &filter.place else { return true };
    entry.facts.place.as_ref().is_some_and(|feature| {
        feature.get("geometry").is_some_and(|geometry| place::lies(geometry, wanted.relation, &wanted.shape))
    })
}

pub(super) fn search(
    c: &Connection,
    tenant: &TenantId,
    words: &str,
    filter: &EntryFilter,
    limit: u32,
) -> R<Vec<Entry>> {
    let whole = words.trim().to_lowercase();
    let Query { mut sql, mut values, .. } = query(c, tenant, filter, 0, "entries_folded")?;
    for word in whole.split_whitespace().take(SEARCH_WORDS) {
        values.push(Sql::Text(word.to_owned()));
        sql.push_str(&format!(" AND instr(e.folded, ?{}) > 0", values.len()));
    }
    values.push(Sql::Text(whole));
    let whole = values.len();
    // The name itself, then one that begins so, then one that has it, then one that has its words.
    let order = format!(
        "ORDER BY CASE instr(e.folded, ?{whole}) WHEN 0 THEN 3 WHEN 1 THEN
             CASE WHEN e.folded = ?{whole} THEN 0 ELSE 1 END ELSE 2 END, length(e.folded), e.number"
    );
    select(c, &format!("{sql} {order}"), values, filter, limit)
}

pub(super) fn count(c: &Connection, tenant: &TenantId, filter: &EntryFilter) -> R<u64> {
    let Query { sql, values, .. } = query(c, tenant, filter, 0, "entries_tenant")?;
    if filter.place.is_some() {
        let mut count = 0;
        each(c, &sql, values, filter, |_| {
            count += 1;
            true
        })?;
        return Ok(count);
    }
    let count = one(c, &format!("SELECT count(*) {sql}"), values, |row| size(row, 0))?;
    Ok(count.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_behind_a_prefix_is_behind_all_that_begin_with_it() {
        assert_eq!(behind("a").as_deref(), Some("b"));
        assert_eq!(behind("a\u{10ffff}").as_deref(), Some("b"));
        assert_eq!(behind("\u{d7ff}").as_deref(), Some("\u{e000}"));
        assert_eq!(behind("\u{10ffff}"), None);
        assert_eq!(behind(""), None);
    }
}
