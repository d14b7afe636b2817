//! Stores.

use clap::Subcommand;
use serde_json::{Map, Value, json};

use super::{AdminError, Place, existing, refused};
use crate::clock::{Timestamp, random_uuid};
use crate::meta::{MetaStore, NewStore, StoreFilter};
use crate::model::ids::StoreId;
use crate::model::store::Store;
use crate::store::setup;

/// Stores.
#[derive(Debug, Subcommand)]
pub(in crate::cli) enum StoreCommand {
    /// Create a store
    Create {
        /// Whose store
        #[arg(long, value_name = "ID")]
        tenant: String,
        /// What to call it
        name: String,
        /// What it is for
        #[arg(long, value_name = "TEXT")]
        description: Option<String>,
        #[command(flatten)]
        place: Place,
    },
    /// List a tenant's stores
    List {
        /// Whose stores
        #[arg(long, value_name = "ID")]
        tenant: String,
        #[command(flatten)]
        place: Place,
    },
}

impl StoreCommand {
    pub(super) fn place(&self) -> &Place {
        match self {
            Self::Create { place, .. } | Self::List { place, .. } => place,
        }
    }

    pub(super) async fn run(&self, meta: &dyn MetaStore, now: Timestamp) -> Result<Vec<Value>, AdminError> {
        match self {
            Self::Create { tenant, name, description, .. } => {
                let tenant = existing(meta, tenant).await?;
                setup::check(name, description.as_deref()).map_err(|refusal| refused(refusal.to_string()))?;
                let new = NewStore {
                    id: StoreId(random_uuid()),
                    tenant,
                    name: name.clone(),
                    description: description.clone(),
                    properties: Map::new(),
                    created_by: None,
                    now,
                };
                let store = meta.create_store(new).await?;
                Ok(vec![json!({"id": store.id.public(), "name": store.name})])
            }
            Self::List { tenant, .. } => {
                let tenant = existing(meta, tenant).await?;
                let all = StoreFilter { ascending: true, limit: u32::MAX, ..StoreFilter::default() };
                let (stores, _) = meta.stores(&tenant, all).await?;
                let shown = |s: &Store| json!({"id": s.id.public(), "name": s.name, "files": s.files, "bytes": s.bytes, "created": s.created.rfc3339()});
                Ok(stores.iter().map(shown).collect())
            }
        }
    }
}
