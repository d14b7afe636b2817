//! Changing and deleting files.

use std::sync::Arc;

use http::StatusCode;
use serde_json::{Map, Value};

use super::envelope::Fault;
use super::json::Fields;
use super::read::{ITEMS_MAX, distinct};
use super::{Reply, answer, body, grant, items, wire};
use crate::catalogue;
use crate::http::call::Call;
use crate::http::doors::Doors;
use crate::meta::{EntriesChanged, EntriesDeleted};
use crate::model::access::Right;

pub(super) async fn update(doors: Arc<Doors>, mut call: Call) -> Reply {
    let grant = grant(&doors, &call, Right::Upload).await?;
    let body = body(&doors, &mut call).await?;
    let asked = Fields::new(&body).items(ITEMS_MAX)?;
    let refs = wire::entry_refs(&asked)?;
    let edits = asked.iter().map(|item| wire::edit(item)).collect::<Result<Vec<_>, _>>()?;
    distinct(&doors, grant.tenant(), &refs).await?;
    let changes = refs.iter().cloned().zip(edits).collect();
    match catalogue::change(&doors.engine, grant.tenant(), changes).await? {
        EntriesChanged::Done(entries) => items(entries.iter().map(wire::File::from)),
        EntriesChanged::Missing(places) => Err(Fault::missing(wire::identifiers(&refs, &places))),
        EntriesChanged::Taken(ids) => Err(taken(ids)),
        EntriesChanged::Wrong(_, wrong) => Err(wire::wrong(&wrong)),
    }
}

/// External ids that other files have.
pub(super) fn taken(ids: Vec<String>) -> Fault {
    let id = |id: String| Value::Object(Map::from_iter([("externalId".to_owned(), id.into())]));
    Fault::duplicated(ids.into_iter().map(id).collect())
}

pub(super) async fn delete(doors: Arc<Doors>, mut call: Call) -> Reply {
    let grant = grant(&doors, &call, Right::Upload).await?;
    let body = body(&doors, &mut call).await?;
    let fields = Fields::new(&body);
    let refs = wire::entry_refs(&fields.items(ITEMS_MAX)?)?;
    let ignore_unknown = fields.flag("ignoreUnknownIds")?;
    distinct(&doors, grant.tenant(), &refs).await?;
    match catalogue::delete(&doors.engine, grant.tenant(), refs.clone(), ignore_unknown, false).await? {
        EntriesDeleted::Done(_) => answer(StatusCode::OK, &Map::new()),
        EntriesDeleted::Missing(places) => Err(Fault::missing(wire::identifiers(&refs, &places))),
        EntriesDeleted::OfNodes(_) => {
            Err(Fault::bad("A file with an instanceId can't be deleted here: delete its node instead"))
        }
    }
}
