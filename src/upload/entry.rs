//! Uploads of the content of a catalogue's entries: opened with the entry, or for one that is there.

use super::access::Grant;
use super::{open, receive};
use crate::clock::ordered_uuid;
use crate::engine::Engine;
use crate::faults;
use crate::limits;
use crate::meta::{EntryMade, NewEntry};
use crate::model::entry::{Entry, EntryRef, Facts, FactsEdit, Wrong};
use crate::model::ids::FileId;
use crate::model::refusal::Refusal;
use crate::model::session::{Declaration, Parts, Session, Strategy};

/// The entry whose content is to be uploaded.
#[derive(Clone, PartialEq, Debug)]
pub enum Of {
    /// A new one; or the one that has its external id, changed so, where that is wanted.
    New {
        /// What is said about it.
        facts: Box<Facts>,
        /// What changes of one that is there.
        overwrite: Option<Box<FactsEdit>>,
    },
    /// One that is there.
    Existing(EntryRef),
}

/// An upload of an entry's content that a dialect asks for.
#[derive(Clone, PartialEq, Debug)]
pub struct Ask<'a> {
    /// The dialect's name.
    pub wire: &'a str,
    /// Most bytes that the content may have.
    pub max_bytes: u64,
    /// In which parts it comes; whole without any.
    pub parts: Option<Parts>,
    /// May its client send parts to the store itself, if the configuration says so?
    pub direct: bool,
    /// The entry.
    pub of: Of,
}

/// What became of it.
#[derive(Clone, PartialEq, Debug)]
pub enum Opened {
    /// The entry as it is before the upload, and the session.
    Done(Box<(Entry, Session)>),
    /// Another entry has this external id.
    Taken,
    /// There is no such entry.
    Unknown,
    /// The entry that is there can't be changed so.
    Wrong(Wrong),
}

/// Opens an upload of an entry's content, with the entry itself where it is new, in one step.
///
/// # Errors
/// [`Refusal::Quota`], [`Refusal::OutOfSpace`], and the keepers' own.
pub async fn open(engine: &Engine, grant: &Grant, ask: Ask<'_>) -> Result<Opened, Refusal> {
    let Ask { wire, max_bytes, parts, direct, of } = ask;
    receive::require_space(engine, 0).await?;
    let strategy = if parts.is_some() { Strategy::Multipart } else { Strategy::Single };
    let now = engine.clock.now();
    let file = FileId(ordered_uuid(now));
    let session = open::session(engine, grant, wire, max_bytes, limits::ENTRY_LIFE);
    let new = open::NewFile { size: None, registers: true, declaration: Declaration::default(), next_of: None };
    // A single upload may be sent again as long as its session lives: each is a new version.
    let versions_allowed = strategy == Strategy::Single;
    // Nobody tells when a whole file has come to the store.
    let direct = if direct && parts.is_some() { super::direct::way_of_any_parts(engine, wire) } else { None };
    let session = Session { versions_allowed, file, parts, direct, ..open::with_file(session, new, strategy) };
    let made = match of {
        Of::New { facts, overwrite } => {
            let new = NewEntry {
                tenant: grant.tenant().clone(),
                file,
                node: None,
                facts: *facts,
                session: Some(session.clone()),
                overwrite: overwrite.map(|edit| *edit),
                expires: Some(session.expires),
                now,
            };
            engine.meta.make_entry(new).await?
        }
        Of::Existing(entry) => match engine.meta.open_for_entry(entry, session.clone()).await? {
            Some(made) => made,
            None => return Ok(Opened::Unknown),
        },
    };
    match made {
        EntryMade::Done(entry) => {
            match strategy {
                Strategy::Single => faults::point("single.session_row"),
                Strategy::Resumable | Strategy::Multipart => faults::point("parts.session_row"),
            }
            metrics::counter!("landfall_sessions_opened_total", "strategy" => strategy.name()).increment(1);
            let session = Session { file: entry.file, ..session };
            Ok(Opened::Done(Box::new((*entry, session))))
        }
        EntryMade::Taken => Ok(Opened::Taken),
        EntryMade::Wrong(wrong) => Ok(Opened::Wrong(wrong)),
        EntryMade::OverQuota(over) => Err(over.into()),
    }
}
