//! Files that stand for nodes.

use clap::Subcommand;
use serde_json::{Value, json};

use super::{AdminError, Place, existing, refused};
use crate::clock::{Timestamp, ordered_uuid};
use crate::meta::{EntryMade, MetaStore, NewEntry};
use crate::model::entry::{Facts, NodeId};
use crate::model::ids::{FileId, NAME_CHARS, is_name};

/// Nodes.
#[derive(Debug, Subcommand)]
pub(in crate::cli) enum NodeCommand {
    /// Create a file that stands for a node, without content; prints the file's number
    Create {
        /// Whose file
        #[arg(long, value_name = "ID")]
        tenant: String,
        /// The node's space
        #[arg(long)]
        space: String,
        /// The node's id in its space
        id: String,
        /// What to call the file [default: the node's id]
        #[arg(long)]
        name: Option<String>,
        /// Its media type
        #[arg(long, value_name = "TYPE")]
        mime_type: Option<String>,
        #[command(flatten)]
        place: Place,
    },
}

impl NodeCommand {
    pub(super) fn place(&self) -> &Place {
        match self {
            Self::Create { place, .. } => place,
        }
    }

    pub(super) async fn run(&self, meta: &dyn MetaStore, now: Timestamp) -> Result<Vec<Value>, AdminError> {
        let Self::Create { tenant, space, id, name, mime_type, .. } = self;
        let tenant = existing(meta, tenant).await?;
        if [space, id].into_iter().any(|text| text.is_empty() || !is_name(text)) {
            return Err(refused(format!(
                "a node's space and id have 1 to {NAME_CHARS} characters, no control characters"
            )));
        }
        let facts = Facts {
            name: name.clone().unwrap_or_else(|| id.clone()),
            mime_type: mime_type.clone(),
            ..Facts::default()
        };
        facts.check().map_err(|wrong| refused(format!("{:?} {}", wrong.fact, wrong.reason)))?;
        let new = NewEntry {
            tenant,
            file: FileId(ordered_uuid(now)),
            node: Some(NodeId { space: space.clone(), id: id.clone() }),
            facts,
            session: None,
            overwrite: None,
            expires: None,
            now,
        };
        match meta.make_entry(new).await? {
            EntryMade::Done(entry) => Ok(vec![json!({ "id": entry.number, "space": space, "node": id })]),
            EntryMade::Taken | EntryMade::Wrong(_) | EntryMade::OverQuota(_) => {
                Err(refused(format!("there is a file for the node `{id}` in the space `{space}` already")))
            }
        }
    }
}
