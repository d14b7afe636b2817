//! The verbs on stores: setting them up, taking files in and letting them go, and looking into them.

pub mod browse;
pub mod register;
pub mod setup;

use crate::engine::Engine;
use crate::model::ids::{FileId, StoreId, TenantId};
use crate::model::refusal::Refusal;
use crate::model::store::{Store, StoreFile};

/// What a file of a store is called when it does not exist.
const FILE: &str = "the file";

/// The store of a tenant.
///
/// # Errors
/// [`Refusal::TargetUnknown`] when the tenant has no such store.
pub async fn find(engine: &Engine, tenant: &TenantId, id: &str) -> Result<Store, Refusal> {
    let found = match StoreId::from_public(id) {
        Some(id) => engine.meta.store(tenant, id).await?,
        None => None,
    };
    found.ok_or_else(|| unknown(id))
}

fn unknown(id: &str) -> Refusal {
    Refusal::TargetUnknown { what: "store", id: id.to_owned() }
}

/// A file of a store.
///
/// # Errors
/// [`Refusal::NotFound`].
pub async fn file(engine: &Engine, store: &Store, id: &str) -> Result<StoreFile, Refusal> {
    let found = match FileId::from_public(id) {
        Some(id) => engine.meta.store_file(store.row, id).await?,
        None => None,
    };
    found.ok_or(Refusal::NotFound { what: FILE })
}
