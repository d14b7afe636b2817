//! Nodes of a graph that are files, and nothing else of a graph: a node has a source in the view of files.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::envelope::Fault;
use super::json::Fields;
use super::read::ITEMS_MAX;
use super::{Reply, body, grant, items, view, wire};
use crate::catalogue;
use crate::clock::Timestamp;
use crate::http::call::Call;
use crate::http::doors::Doors;
use crate::limits;
use crate::meta::{EntriesChanged, EntriesDeleted};
use crate::model::access::Right;
use crate::model::entry::{Edit, Entry, EntryRef, Facts, FactsEdit, NodeId};
use crate::model::refusal::Refusal;

/// The views of files: the vendor's own, and the one of its extractors, which has the same properties and more.
const VIEWS: [(&str, &str); 2] = [("cdf_cdm", "CogniteFile"), ("cdf_extraction_extensions", "CogniteExtractorFile")];
/// Properties that the file has by itself.
const READ_ONLY: [&str; 2] = ["isUploaded", "uploadedTime"];
/// Longest properties of a node, as JSON.
const PROPERTIES_BYTES: usize = 100_000;

/// A node as it is to be.
struct Draft {
    node: NodeId,
    properties: Map<String, Value>,
}

pub(super) async fn apply(doors: Arc<Doors>, mut call: Call) -> Reply {
    let grant = grant(&doors, &call, Right::Upload).await?;
    let body = body(&doors, &mut call).await?;
    let drafts = Fields::new(&body).items(ITEMS_MAX)?.into_iter().map(draft).collect::<Result<Vec<_>, _>>()?;
    let nodes = drafts.into_iter().map(node).collect::<Result<Vec<_>, _>>()?;
    let entries = match catalogue::put_nodes(&doors.engine, grant.tenant(), nodes).await? {
        EntriesChanged::Done(entries) => entries,
        EntriesChanged::Wrong(_, wrong) => return Err(wire::wrong(&wrong)),
        EntriesChanged::Missing(_) | EntriesChanged::Taken(_) => return Err(Refusal::Internal.into()),
    };
    let mut shown = Vec::with_capacity(entries.len());
    for entry in &entries {
        let mut node = about(entry)?;
        node.insert("wasModified".to_owned(), true.into());
        shown.push(node);
    }
    items(shown)
}

fn draft(item: &Map<String, Value>) -> Result<Draft, Fault> {
    let fields = Fields::new(item);
    let node = named(item)?;
    let sources = fields.list("sources")?.map(Vec::as_slice).unwrap_or_default();
    let mut properties = Map::new();
    for source in sources {
        let source = source.as_object().ok_or_else(|| Fault::field("sources", "must be an array of objects"))?;
        let source = Fields::under(source, "sources.");
        let view = source.object("source")?.ok_or_else(|| source.wrong("source", "is required"))?;
        is_of_files(view)?;
        properties.extend(source.object("properties")?.cloned().unwrap_or_default());
    }
    if sources.is_empty() {
        return Err(Fault::field(
            "sources",
            "must have one in the view cdf_cdm/CogniteFile/v1: other nodes are not kept",
        ));
    }
    if let Some(name) = READ_ONLY.iter().find(|name| properties.get(**name).is_some_and(|value| !value.is_null())) {
        return Err(Fault::field(name, "is read-only"));
    }
    Ok(Draft { node, properties })
}

/// The node that an item names.
fn named(item: &Map<String, Value>) -> Result<NodeId, Fault> {
    let fields = Fields::new(item);
    if fields.text("instanceType")?.is_some_and(|kind| kind != "node") {
        return Err(fields.wrong("instanceType", "must be node: there are no edges here"));
    }
    wire::node_id(&fields)
}

fn is_of_files(view: &Map<String, Value>) -> Result<(), Fault> {
    let text = |name: &str| view.get(name).and_then(Value::as_str).unwrap_or_default();
    if VIEWS.contains(&(text("space"), text("externalId"))) {
        return Ok(());
    }
    Err(Fault::field("sources", "must be in the view cdf_cdm/CogniteFile/v1: other nodes are not kept"))
}

/// What a node says about its file.
fn facts(draft: &Draft) -> Result<Facts, Fault> {
    let fields = Fields::new(&draft.properties);
    let mut properties = draft.properties.clone();
    for name in ["name", "directory", "mimeType", READ_ONLY[0], READ_ONLY[1]] {
        properties.remove(name);
    }
    if Value::Object(properties.clone()).to_string().len() > PROPERTIES_BYTES {
        return Err(Fault::field("properties", "are too long"));
    }
    let name: Option<String> = fields.text("name")?;
    let facts = Facts {
        // A file needs a name, a node does not.
        name: name.unwrap_or_else(|| draft.node.id.chars().take(limits::ENTRY_NAME_CHARS).collect()),
        directory: fields.text("directory")?,
        mime_type: fields.text("mimeType")?,
        properties,
        ..Facts::default()
    };
    facts.check_of_node().map_err(|found| wire::wrong(&found))?;
    Ok(facts)
}

/// What is said about a node's file if it is new, and what changes if it is not.
fn node(draft: Draft) -> Result<(NodeId, Facts, FactsEdit), Fault> {
    let facts = facts(&draft)?;
    let given = |name: &str| draft.properties.contains_key(name);
    let edit = |name: &str, value: &Option<String>| match value {
        Some(value) => Edit::To(value.clone()),
        None if given(name) => Edit::Clear,
        None => Edit::Keep,
    };
    let edit = FactsEdit {
        by_node: true,
        name: given("name").then(|| facts.name.clone()),
        directory: edit("directory", &facts.directory),
        mime_type: edit("mimeType", &facts.mime_type),
        properties: facts.properties.clone(),
        ..FactsEdit::default()
    };
    let mut made = facts;
    made.properties.retain(|_, value| !value.is_null());
    Ok((draft.node, made, edit))
}

/// A node without its properties.
fn about(entry: &Entry) -> Result<Map<String, Value>, Fault> {
    let node = entry.node.as_ref().ok_or(Refusal::Internal)?;
    let shown = json!({
        "instanceType": "node",
        "space": node.space,
        "externalId": node.id,
        "version": 1,
        "createdTime": entry.created.0,
        "lastUpdatedTime": entry.changed.0,
    });
    match shown {
        Value::Object(shown) => Ok(shown),
        _ => Err(Refusal::Internal.into()),
    }
}

fn properties(entry: &Entry) -> Value {
    let mut shown = entry.facts.properties.clone();
    let facts = &entry.facts;
    shown.insert("name".to_owned(), facts.name.as_str().into());
    shown.insert("isUploaded".to_owned(), entry.uploaded.is_some().into());
    for (name, text) in [("directory", &facts.directory), ("mimeType", &facts.mime_type)] {
        if let Some(text) = text {
            shown.insert(name.to_owned(), text.as_str().into());
        }
    }
    if let Some(uploaded) = entry.uploaded {
        shown.insert("uploadedTime".to_owned(), time(uploaded).into());
    }
    shown.into()
}

/// A time as nodes have it: RFC 3339 with milliseconds and an offset.
fn time(at: Timestamp) -> String {
    match jiff::Timestamp::from_millisecond(at.0) {
        Ok(at) => at.strftime("%Y-%m-%dT%H:%M:%S%.3f+00:00").to_string(),
        Err(_) => at.rfc3339(),
    }
}

fn nodes(body: &Map<String, Value>) -> Result<Vec<EntryRef>, Fault> {
    let items = Fields::new(body).items(ITEMS_MAX)?;
    items.into_iter().map(|item| named(item).map(EntryRef::Node)).collect()
}

pub(super) async fn by_ids(doors: Arc<Doors>, mut call: Call) -> Reply {
    let tenant = view(&doors, &call, Right::Read).await?;
    let body = body(&doors, &mut call).await?;
    let found = catalogue::find(&doors.engine, &tenant, nodes(&body)?).await?;
    let mut views = Vec::new();
    for source in Fields::new(&body).list("sources")?.into_iter().flatten() {
        if let Some(view) = source.get("source").and_then(Value::as_object) {
            is_of_files(view)?;
            let text = |name: &str| view.get(name).and_then(Value::as_str).unwrap_or_default();
            views.push((text("space").to_owned(), format!("{}/{}", text("externalId"), text("version"))));
        }
    }
    let mut shown = Vec::new();
    // Those that do not exist are left out.
    for entry in found.iter().flatten() {
        let mut node = about(entry)?;
        if !views.is_empty() {
            let mut spaces = Map::new();
            for (space, view) in &views {
                spaces.insert(space.clone(), json!({ view: properties(entry) }));
            }
            node.insert("properties".to_owned(), spaces.into());
        }
        shown.push(node);
    }
    items(shown)
}

pub(super) async fn delete(doors: Arc<Doors>, mut call: Call) -> Reply {
    let grant = grant(&doors, &call, Right::Upload).await?;
    let nodes = nodes(&body(&doors, &mut call).await?)?;
    match catalogue::delete(&doors.engine, grant.tenant(), nodes, true, true).await? {
        EntriesDeleted::Done(gone) => {
            let shown = gone.iter().filter_map(|which| match which {
                EntryRef::Node(node) => {
                    Some(json!({ "instanceType": "node", "space": node.space, "externalId": node.id }))
                }
                EntryRef::Number(_) | EntryRef::External(_) => None,
            });
            items(shown)
        }
        EntriesDeleted::Missing(_) | EntriesDeleted::OfNodes(_) => Err(Refusal::Internal.into()),
    }
}
