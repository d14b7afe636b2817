//! Sources.

use clap::Subcommand;
use serde_json::{Map, Value, json};

use super::{AdminError, Place, check_name, existing, refused};
use crate::clock::{Timestamp, random_bytes};
use crate::meta::{MetaStore, NewSource};
use crate::model::ids::SourceId;

/// Sources.
#[derive(Debug, Subcommand)]
pub(in crate::cli) enum SourceCommand {
    /// Create a source
    Create {
        /// Whose source
        #[arg(long, value_name = "ID")]
        tenant: String,
        /// What to call it
        name: String,
        /// Its id [default: the tenant's id and a random word]
        #[arg(long)]
        id: Option<String>,
        /// Let it take streams
        #[arg(long)]
        stream: bool,
        #[command(flatten)]
        place: Place,
    },
    /// List a tenant's sources
    List {
        /// Whose sources
        #[arg(long, value_name = "ID")]
        tenant: String,
        #[command(flatten)]
        place: Place,
    },
}

impl SourceCommand {
    pub(super) fn place(&self) -> &Place {
        match self {
            Self::Create { place, .. } | Self::List { place, .. } => place,
        }
    }

    pub(super) async fn run(&self, meta: &dyn MetaStore, now: Timestamp) -> Result<Vec<Value>, AdminError> {
        match self {
            Self::Create { tenant, name, id, stream, .. } => {
                let tenant = existing(meta, tenant).await?;
                check_name(name)?;
                if name.is_empty() {
                    return Err(refused("a source needs a name"));
                }
                let id = id.clone().unwrap_or_else(|| format!("{tenant}-{}", hex::encode(random_bytes::<8>())));
                if id.is_empty() || id.len() > 128 || id.chars().any(|c| c.is_control() || c == '/') {
                    return Err(refused(format!("`{id}` can't be a source's id")));
                }
                let new = NewSource {
                    tenant,
                    id: SourceId(id.clone()),
                    name: name.clone(),
                    stream_enabled: *stream,
                    properties: Map::new(),
                    now,
                };
                match meta.create_source(new).await? {
                    Some(source) => {
                        Ok(vec![json!({"id": source.id, "name": source.name, "stream_enabled": source.stream_enabled})])
                    }
                    None => Err(refused(format!("the source `{id}` exists already"))),
                }
            }
            Self::List { tenant, .. } => {
                let tenant = existing(meta, tenant).await?;
                let sources = meta.sources(&tenant).await?;
                Ok(sources
                    .iter()
                    .map(|s| json!({"id": s.id, "name": s.name, "stream_enabled": s.stream_enabled, "created": s.created.rfc3339()}))
                    .collect())
            }
        }
    }
}
