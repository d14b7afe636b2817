//! Between this API's JSON and the words of the model.

use std::collections::{BTreeMap, HashSet};

use serde::{Serialize, Serializer};
use serde_json::{Map, Value, json};

use super::envelope::Fault;
use super::json::Fields;
use crate::clock::Timestamp;
use crate::limits;
use crate::model::entry::{
    Edit, Entry, EntryFilter, EntryRef, Fact, Facts, FactsEdit, ListEdit, MapEdit, NodeId, PlaceFilter, Relation, Span,
    Wrong,
};
use crate::model::pairs::Pairs;
use crate::model::place;
use crate::model::refusal::Refusal;

/// Most items in a list that is a filter.
const FILTER_ITEMS: usize = 1_000;
/// Longest feature of a place, and longest shape of a filter, as JSON.
const FEATURE_BYTES: usize = 50_000;
const SHAPE_BYTES: usize = 5_000;

// ------------------------------------------------------------------------------------------------------------ entries

/// A file as this API shows it: what is not there is left out.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct File<'e> {
    id: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    external_id: Option<&'e str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    instance_id: Option<Node<'e>>,
    name: &'e str,
    #[serde(skip_serializing_if = "Option::is_none")]
    directory: Option<&'e str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<&'e str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mime_type: Option<&'e str>,
    #[serde(skip_serializing_if = "Pairs::is_empty")]
    metadata: &'e Pairs,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    asset_ids: &'e [i64],
    #[serde(skip_serializing_if = "Option::is_none")]
    data_set_id: Option<i64>,
    #[serde(skip_serializing_if = "<[_]>::is_empty", serialize_with = "each_label")]
    labels: &'e [String],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    security_categories: &'e [i64],
    #[serde(skip_serializing_if = "Option::is_none")]
    geo_location: Option<&'e Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source_created_time: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source_modified_time: Option<i64>,
    uploaded: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    uploaded_time: Option<i64>,
    created_time: i64,
    last_updated_time: i64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Label<'e> {
    external_id: &'e str,
}

fn each_label<S: Serializer>(labels: &[String], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(labels.iter().map(|label| Label { external_id: label }))
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Node<'e> {
    space: &'e str,
    external_id: &'e str,
}

impl<'e> From<&'e Entry> for File<'e> {
    fn from(entry: &'e Entry) -> Self {
        let facts = &entry.facts;
        let millis = |at: Timestamp| at.0;
        Self {
            id: entry.number,
            external_id: facts.external_id.as_deref(),
            instance_id: entry.node.as_ref().map(|node| Node { space: &node.space, external_id: &node.id }),
            name: &facts.name,
            directory: facts.directory.as_deref(),
            source: facts.source.as_deref(),
            mime_type: facts.mime_type.as_deref(),
            metadata: &facts.metadata,
            asset_ids: &facts.assets,
            data_set_id: facts.data_set,
            labels: &facts.labels,
            security_categories: &facts.security,
            geo_location: facts.place.as_ref(),
            source_created_time: facts.source_created.map(millis),
            source_modified_time: facts.source_modified.map(millis),
            uploaded: entry.uploaded.is_some(),
            uploaded_time: entry.uploaded.map(millis),
            created_time: entry.created.0,
            last_updated_time: entry.changed.0,
        }
    }
}

/// Entries, each as a [`File`], that nobody has to keep as such.
pub(super) fn files<S: Serializer>(entries: &[Entry], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(entries.iter().map(File::from))
}

/// The same, for an answer that adds to it.
pub(super) fn file(entry: &Entry) -> Result<Map<String, Value>, Fault> {
    match serde_json::to_value(File::from(entry)) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) | Err(_) => Err(Refusal::Internal.into()),
    }
}

pub(super) fn node(node: &NodeId) -> Value {
    json!({ "space": node.space, "externalId": node.id })
}

/// An identifier in the form in which it was sent.
pub(super) fn identifier(which: &EntryRef) -> Map<String, Value> {
    let (key, value) = match which {
        EntryRef::Number(number) => ("id", Value::from(*number)),
        EntryRef::External(id) => ("externalId", id.as_str().into()),
        EntryRef::Node(id) => ("instanceId", node(id)),
    };
    Map::from_iter([(key.to_owned(), value)])
}

pub(super) fn identifiers(which: &[EntryRef], places: &[usize]) -> Vec<Value> {
    places.iter().filter_map(|place| which.get(*place)).map(|which| identifier(which).into()).collect()
}

/// The one identifier of an object.
pub(super) fn entry_ref(map: &Map<String, Value>) -> Result<EntryRef, Fault> {
    let fields = Fields::new(map);
    let keys = ["id", "externalId", "instanceId"].iter().filter(|key| fields.get(key).is_some());
    if keys.count() != 1 {
        return Err(Fault::bad("An item must have exactly one of id, externalId and instanceId"));
    }
    if let Some(number) = fields.integer("id")? {
        return Ok(EntryRef::Number(number));
    }
    if let Some(id) = fields.text("externalId")? {
        return Ok(EntryRef::External(id));
    }
    let node = fields.object("instanceId")?.ok_or_else(|| Fault::field("instanceId", "must be an object"))?;
    node_id(&Fields::under(node, "instanceId.")).map(EntryRef::Node)
}

pub(super) fn node_id(fields: &Fields<'_>) -> Result<NodeId, Fault> {
    let id = NodeId { space: fields.required_text("space")?, id: fields.required_text("externalId")? };
    for (name, text) in [("space", &id.space), ("externalId", &id.id)] {
        if !(1..=limits::ENTRY_EXTERNAL_ID_CHARS).contains(&text.chars().count()) {
            return Err(fields.wrong(name, "must have 1 to 255 characters"));
        }
    }
    Ok(id)
}

/// Identifiers, each of them once.
pub(super) fn entry_refs(items: &[&Map<String, Value>]) -> Result<Vec<EntryRef>, Fault> {
    let refs = items.iter().map(|item| entry_ref(item)).collect::<Result<Vec<_>, _>>()?;
    let mut seen = HashSet::new();
    match refs.iter().find(|which| !seen.insert(*which)) {
        None => Ok(refs),
        Some(twice) => Err(Fault::bad(format!("items has {} twice", Value::Object(identifier(twice))))),
    }
}

/// The field of a fact, and what is wrong with it.
pub(super) fn wrong(wrong: &Wrong) -> Fault {
    let name = match wrong.fact {
        Fact::Name => "name",
        Fact::ExternalId => "externalId",
        Fact::Directory => "directory",
        Fact::Source => "source",
        Fact::MimeType => "mimeType",
        Fact::Metadata => "metadata",
        Fact::Assets => "assetIds",
        Fact::Labels => "labels",
        Fact::Security => "securityCategories",
        Fact::OfNode => "A file with an instanceId",
    };
    Fault::field(name, &wrong.reason)
}

// ------------------------------------------------------------------------------------------------- what is said about

/// What a body says about a file.
pub(super) fn facts(body: &Map<String, Value>) -> Result<Facts, Fault> {
    let fields = Fields::new(body);
    let time = |name: &str| Ok::<_, Fault>(fields.integer(name)?.map(Timestamp));
    let facts = Facts {
        name: fields.required_text("name")?,
        external_id: fields.text("externalId")?,
        directory: fields.text("directory")?,
        source: fields.text("source")?,
        mime_type: fields.text("mimeType")?,
        metadata: fields.texts("metadata")?.unwrap_or_default().into(),
        assets: fields.integers("assetIds")?.unwrap_or_default(),
        data_set: fields.integer("dataSetId")?,
        labels: fields.labels("labels")?.unwrap_or_default(),
        security: fields.integers("securityCategories")?.unwrap_or_default(),
        place: fields.get("geoLocation").map(feature).transpose()?,
        source_created: time("sourceCreatedTime")?,
        source_modified: time("sourceModifiedTime")?,
        properties: Map::new(),
    };
    facts.check().map_err(|found| wrong(&found))?;
    Ok(facts)
}

/// The same as a change of the file that is there: what is not said stays.
pub(super) fn overwriting(body: &Map<String, Value>, facts: &Facts) -> FactsEdit {
    let given = |name: &str| Fields::new(body).get(name).is_some();
    let edit = |value: &Option<String>| value.clone().map_or(Edit::Keep, Edit::To);
    let time = |value: Option<Timestamp>| value.map_or(Edit::Keep, Edit::To);
    fn list<T: Clone>(given: bool, list: &[T]) -> ListEdit<T> {
        if given { ListEdit::To(list.to_vec()) } else { ListEdit::Keep }
    }
    FactsEdit {
        name: Some(facts.name.clone()),
        external_id: Edit::Keep,
        directory: edit(&facts.directory),
        source: edit(&facts.source),
        mime_type: edit(&facts.mime_type),
        metadata: if given("metadata") { MapEdit::To(facts.metadata.clone()) } else { MapEdit::Keep },
        assets: list(given("assetIds"), &facts.assets),
        data_set: facts.data_set.map_or(Edit::Keep, Edit::To),
        labels: list(given("labels"), &facts.labels),
        security: list(given("securityCategories"), &facts.security),
        place: facts.place.clone().map_or(Edit::Keep, Edit::To),
        source_created: time(facts.source_created),
        source_modified: time(facts.source_modified),
        ..FactsEdit::default()
    }
}

fn feature(value: &Value) -> Result<Value, Fault> {
    let wrong = |reason: &str| Fault::field("geoLocation", reason);
    let Some(map) = value.as_object() else { return Err(wrong("must be an object")) };
    if map.get("type").and_then(Value::as_str) != Some("Feature") {
        return Err(wrong("must have the type Feature"));
    }
    let geometry = map.get("geometry").ok_or_else(|| wrong("must have a geometry"))?;
    place::check(geometry).map_err(|reason| Fault::field("geoLocation.geometry", reason))?;
    if map.get("properties").is_some_and(|properties| !properties.is_object() && !properties.is_null()) {
        return Err(wrong("must have an object as its properties"));
    }
    if value.to_string().len() > FEATURE_BYTES {
        return Err(wrong("is too long"));
    }
    let known = ["type", "geometry", "properties"];
    Ok(map
        .iter()
        .filter(|(key, value)| known.contains(&key.as_str()) && !value.is_null())
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect::<Map<_, _>>()
        .into())
}

// ------------------------------------------------------------------------------------------------------------ changes

/// The change that an item asks for.
pub(super) fn edit(item: &Map<String, Value>) -> Result<FactsEdit, Fault> {
    let fields = Fields::new(item);
    let update = fields.object("update")?.ok_or_else(|| fields.wrong("update", "is required"))?;
    let update = Fields::under(update, "update.");
    if update.get("name").is_some() {
        return Err(update.wrong("name", "can't be changed"));
    }
    let text = |name: &str| edit_of(&update, name, Fields::text);
    let number = |name: &str| edit_of(&update, name, Fields::integer);
    let time = |name: &str| edit_of(&update, name, |fields, name| Ok(fields.integer(name)?.map(Timestamp)));
    Ok(FactsEdit {
        name: None,
        external_id: text("externalId")?,
        directory: text("directory")?,
        source: text("source")?,
        mime_type: text("mimeType")?,
        metadata: map_edit(&update)?,
        assets: list_edit(&update, "assetIds", Fields::integers)?,
        data_set: number("dataSetId")?,
        labels: list_edit(&update, "labels", Fields::labels)?,
        security: list_edit(&update, "securityCategories", Fields::integers)?,
        place: edit_of(&update, "geoLocation", |fields, name| fields.get(name).map(feature).transpose())?,
        source_created: time("sourceCreatedTime")?,
        source_modified: time("sourceModifiedTime")?,
        ..FactsEdit::default()
    })
}

/// What is done with one field: exactly one of set, setNull and, where it has parts, add with remove.
struct Operation<'a> {
    fields: Fields<'a>,
    sets: bool,
    clears: bool,
    changes: bool,
}

fn operation<'a>(update: &Fields<'a>, name: &str) -> Result<Option<Operation<'a>>, Fault> {
    let Some(map) = update.object(name)? else { return Ok(None) };
    let fields = Fields::new(map);
    let sets = fields.get("set").is_some();
    let clears = fields.flag("setNull").map_err(|_| update.wrong(name, "must have true as its setNull"))?;
    let changes = fields.get("add").is_some() || fields.get("remove").is_some();
    if [sets, clears, changes].into_iter().filter(|is| *is).count() != 1 {
        return Err(update.wrong(name, "must have one of set, setNull, and add or remove"));
    }
    Ok(Some(Operation { fields, sets, clears, changes }))
}

fn edit_of<'a, T>(
    update: &Fields<'a>,
    name: &str,
    read: impl Fn(&Fields<'a>, &str) -> Result<Option<T>, Fault>,
) -> Result<Edit<T>, Fault> {
    let Some(operation) = operation(update, name)? else { return Ok(Edit::Keep) };
    if operation.changes {
        return Err(update.wrong(name, "has no add and no remove: use set"));
    }
    if operation.clears {
        return Ok(Edit::Clear);
    }
    let value = read(&operation.fields, "set").map_err(|_| update.wrong(name, "can't be set to this value"))?;
    Ok(value.map_or(Edit::Keep, Edit::To))
}

fn list_edit<'a, T>(
    update: &Fields<'a>,
    name: &str,
    read: impl Fn(&Fields<'a>, &str) -> Result<Option<Vec<T>>, Fault>,
) -> Result<ListEdit<T>, Fault> {
    let Some(operation) = operation(update, name)? else { return Ok(ListEdit::Keep) };
    let items = |part: &str| match read(&operation.fields, part) {
        Ok(items) => Ok(items.unwrap_or_default()),
        Err(_) => Err(update.wrong(name, &format!("has no such items as its {part}"))),
    };
    if operation.clears || operation.sets {
        return Ok(ListEdit::To(items("set")?));
    }
    let (add, remove) = (items("add")?, items("remove")?);
    // Each of many may be compared with each of many.
    if add.len() > limits::ENTRY_ASSETS || remove.len() > limits::ENTRY_ASSETS {
        return Err(update.wrong(name, "has too many items"));
    }
    Ok(ListEdit::Change { add, remove })
}

fn map_edit(update: &Fields<'_>) -> Result<MapEdit, Fault> {
    const NAME: &str = "metadata";
    let Some(operation) = operation(update, NAME)? else { return Ok(MapEdit::Keep) };
    let pairs = |part: &str| match operation.fields.texts(part) {
        Ok(pairs) => Ok(pairs.unwrap_or_default()),
        Err(_) => Err(update.wrong(NAME, "must have strings as its keys and values")),
    };
    if operation.clears || operation.sets {
        return Ok(MapEdit::To(pairs("set")?.into()));
    }
    let wrong = || update.wrong(NAME, "must have a list of keys as its remove");
    let remove = match operation.fields.list("remove").map_err(|_| wrong())? {
        None => Vec::new(),
        Some(list) => {
            let keys = list.iter().map(|key| key.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>();
            keys.filter(|keys| keys.len() <= limits::ENTRY_ASSETS).ok_or_else(wrong)?
        }
    };
    Ok(MapEdit::Change { add: pairs("add")?, remove })
}

// ------------------------------------------------------------------------------------------------------------ filters

/// Filters that would need what is not here: silently they would let everything through.
const UNSUPPORTED: [&str; 3] = ["assetExternalIds", "rootAssetIds", "assetSubtreeIds"];
const KNOWN: [&str; 16] = [
    "name",
    "mimeType",
    "source",
    "metadata",
    "assetIds",
    "dataSetIds",
    "labels",
    "directoryPrefix",
    "externalIdPrefix",
    "uploaded",
    "createdTime",
    "lastUpdatedTime",
    "uploadedTime",
    "sourceCreatedTime",
    "sourceModifiedTime",
    "geoLocation",
];

/// The filter of a body.
pub(super) fn filter_of(body: &Map<String, Value>) -> Result<EntryFilter, Fault> {
    match Fields::new(body).object("filter")? {
        None => Ok(EntryFilter::default()),
        Some(map) => filter(map),
    }
}

pub(super) fn filter(map: &Map<String, Value>) -> Result<EntryFilter, Fault> {
    let fields = Fields::under(map, "filter.");
    for (key, value) in map {
        if UNSUPPORTED.contains(&key.as_str()) {
            if !value.is_null() {
                return Err(fields.wrong(key, "is not supported: there are no assets here"));
            }
        } else if !KNOWN.contains(&key.as_str()) {
            return Err(fields.wrong(key, "is not a filter"));
        }
    }
    let some = |name: &str, list: Option<Vec<i64>>| match list {
        Some(list) if list.len() > FILTER_ITEMS => Err(fields.wrong(name, "has too many items")),
        other => Ok(other),
    };
    let (labels_any, labels_all) = labels(&fields)?;
    let metadata: BTreeMap<String, String> = fields.texts("metadata")?.unwrap_or_default();
    if metadata.len() > limits::ENTRY_METADATA_PAIRS {
        return Err(fields.wrong("metadata", "has too many pairs"));
    }
    Ok(EntryFilter {
        name: fields.text("name")?,
        mime_type: fields.text("mimeType")?,
        source: fields.text("source")?,
        metadata,
        assets: some("assetIds", fields.integers("assetIds")?)?,
        data_sets: some("dataSetIds", data_sets(&fields)?)?,
        labels_any,
        labels_all,
        directory_prefix: fields.text("directoryPrefix")?,
        external_prefix: fields.text("externalIdPrefix")?,
        uploaded: fields.optional_flag("uploaded")?,
        created: span(&fields, "createdTime")?,
        changed: span(&fields, "lastUpdatedTime")?,
        uploaded_at: span(&fields, "uploadedTime")?,
        source_created: span(&fields, "sourceCreatedTime")?,
        source_modified: span(&fields, "sourceModifiedTime")?,
        place: place_filter(&fields)?,
    })
}

fn data_sets(fields: &Fields<'_>) -> Result<Option<Vec<i64>>, Fault> {
    let Some(list) = fields.list("dataSetIds")? else { return Ok(None) };
    let number = |item: &Value| match item.as_object() {
        Some(map) if map.contains_key("externalId") => {
            Err(fields.wrong("dataSetIds", "is supported by id only: there are no data sets here"))
        }
        Some(map) => Fields::new(map)
            .integer("id")?
            .ok_or_else(|| fields.wrong("dataSetIds", "must be an array of objects with an id")),
        None => Err(fields.wrong("dataSetIds", "must be an array of objects with an id")),
    };
    list.iter().map(number).collect::<Result<_, _>>().map(Some)
}

type Labels = (Option<Vec<String>>, Vec<String>);

fn labels(fields: &Fields<'_>) -> Result<Labels, Fault> {
    let Some(map) = fields.object("labels")? else { return Ok((None, Vec::new())) };
    only(fields, "labels", map, &["containsAny", "containsAll"])?;
    let labels = Fields::under(map, "filter.labels.");
    let (any, all) = (labels.labels("containsAny")?, labels.labels("containsAll")?);
    if any.is_some() == all.is_some() {
        return Err(fields.wrong("labels", "must have one of containsAny and containsAll"));
    }
    if any.iter().chain(&all).any(|list| list.len() > FILTER_ITEMS / 10) {
        return Err(fields.wrong("labels", "has too many items"));
    }
    Ok((any, all.unwrap_or_default()))
}

/// A misspelt key must not be a filter that everything passes.
fn only(fields: &Fields<'_>, name: &str, map: &Map<String, Value>, known: &[&str]) -> Result<(), Fault> {
    match map.keys().find(|key| !known.contains(&key.as_str())) {
        Some(key) => Err(fields.wrong(name, &format!("has the unknown key `{key}`: it takes {}", known.join(" and ")))),
        None => Ok(()),
    }
}

fn span(fields: &Fields<'_>, name: &str) -> Result<Option<Span>, Fault> {
    let Some(map) = fields.object(name)? else { return Ok(None) };
    only(fields, name, map, &["min", "max"])?;
    let ends = Fields::new(map);
    let end = |end: &str| ends.integer(end).map_err(|_| fields.wrong(name, "must have integers as its min and max"));
    Ok(Some(Span { min: end("min")?, max: end("max")? }))
}

fn place_filter(fields: &Fields<'_>) -> Result<Option<PlaceFilter>, Fault> {
    let Some(map) = fields.object("geoLocation")? else { return Ok(None) };
    only(fields, "geoLocation", map, &["relation", "shape"])?;
    let relation = match map.get("relation").and_then(Value::as_str) {
        Some(word) if word.eq_ignore_ascii_case("intersects") => Relation::Intersects,
        Some(word) if word.eq_ignore_ascii_case("disjoint") => Relation::Disjoint,
        Some(word) if word.eq_ignore_ascii_case("within") => Relation::Within,
        _ => {
            return Err(fields.wrong("geoLocation", "must have the relation INTERSECTS, DISJOINT or WITHIN"));
        }
    };
    let shape = map.get("shape").ok_or_else(|| fields.wrong("geoLocation", "must have a shape"))?;
    place::check(shape).map_err(|reason| Fault::field("filter.geoLocation.shape", reason))?;
    if shape.to_string().len() > SHAPE_BYTES {
        return Err(fields.wrong("geoLocation", "has a shape that is too long"));
    }
    Ok(Some(PlaceFilter { relation, shape: shape.clone() }))
}
