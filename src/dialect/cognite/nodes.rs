//! Nodes of a graph that are files, and nothing else of a graph.

use std::sync::Arc;

use http::StatusCode;
use serde_json::{Map, Value, json};

use super::envelope::Fault;
use super::json::Fields;
use super::read::ITEMS_MAX;
use super::{Reply, answer, body, grant, items, view, wire};

use crate::http::call::Call;
use crate::http::doors::Doors;
use crate::meta::{EntriesDeleted, EntryMade};
use crate::model::access::Right;
use crate::model::entry::{Entry, EntryRef, Facts, NodeId};

pub(super) async fn apply(doors: Arc<Doors>, mut call: Call) -> Reply {
    let _ = (grant(&doors, &call, Right::Upload).await?, body(&doors, &mut call).await?);
    Err(Fault::bad("not yet"))
}

pub(super) async fn by_ids(doors: Arc<Doors>, mut call: Call) -> Reply {
    let _ = (view(&doors, &call, Right::Read).await?, body(&doors, &mut call).await?);
    items(Vec::new())
}

pub(super) async fn delete(doors: Arc<Doors>, mut call: Call) -> Reply {
    let _ = (grant(&doors, &call, Right::Upload).await?, body(&doors, &mut call).await?);
    items(Vec::new())
}
