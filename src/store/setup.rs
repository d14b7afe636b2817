//! Stores themselves: made, listed, changed, deleted.

use serde_json::{Map, Value};

use crate::clock::random_uuid;
use crate::engine::Engine;
use crate::limits;
use crate::meta::{NewStore, StoreFilter, StoreUsage};
use crate::model::ids::{KeyId, NAME_CHARS, StoreId, TenantId, is_name};
use crate::model::refusal::Refusal;
use crate::model::store::Store;

const DESCRIPTION_CHARS: usize = 4_000;

/// Creates a store with an id of its own. Names may be used twice.
///
/// # Errors
/// [`Refusal::Invalid`] for `name` or `description`, and the keepers' own.
pub async fn create(
    engine: &Engine,
    tenant: &TenantId,
    key: Option<KeyId>,
    name: &str,
    description: Option<&str>,
    properties: Map<String, Value>,
) -> Result<Store, Refusal> {
    check(name, description)?;
    let new = NewStore {
        id: StoreId(random_uuid()),
        tenant: tenant.clone(),
        name: name.to_owned(),
        description: description.map(str::to_owned),
        properties,
        created_by: key,
        now: engine.clock.now(),
    };
    Ok(engine.meta.create_store(new).await?)
}

/// May a store be called so, and described so?
///
/// # Errors
/// [`Refusal::Invalid`] for `name` or `description`.
pub fn check(name: &str, description: Option<&str>) -> Result<(), Refusal> {
    if name.trim().is_empty() || !is_name(name) {
        let reason = format!("must have 1 to {NAME_CHARS} characters, no control characters, and not be blank");
        return Err(Refusal::invalid("name", reason));
    }
    if description.is_some_and(|text| text.chars().count() > DESCRIPTION_CHARS) {
        return Err(Refusal::invalid("description", format!("must have at most {DESCRIPTION_CHARS} characters")));
    }
    Ok(())
}

/// Stores of the tenant that match, and how many there are in all.
///
/// # Errors
/// The keepers' own.
pub async fn list(engine: &Engine, tenant: &TenantId, filter: StoreFilter) -> Result<(Vec<Store>, u64), Refusal> {
    Ok(engine.meta.stores(tenant, filter).await?)
}

/// Records a store's changed name, description, properties, and whether it is in use.
///
/// # Errors
/// [`Refusal::Invalid`], [`Refusal::TargetUnknown`] when it was deleted meanwhile.
pub async fn update(engine: &Engine, store: Store) -> Result<Store, Refusal> {
    check(&store.name, store.description.as_deref())?;
    let store = Store { changed: engine.clock.now(), ..store };
    if engine.meta.update_store(&store).await? { Ok(store) } else { Err(super::unknown(&store.id.public())) }
}

/// Deletes a store at once, with its registrations; the files stay the tenant's.
///
/// # Errors
/// [`Refusal::TargetUnknown`] when it was deleted before.
pub async fn delete(engine: &Engine, store: &Store) -> Result<(), Refusal> {
    if !engine.meta.delete_store(store.row, engine.clock.now()).await? {
        return Err(super::unknown(&store.id.public()));
    }
    engine.work.wake();
    Ok(())
}

/// What the tenant's stores hold, and how many bytes there is room for in all.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Usage {
    /// Room for so many bytes: the tenant's quota, else what the disk has left besides what is held.
    pub room: u64,
    /// By store, oldest first.
    pub stores: Vec<StoreUsage>,
}

/// What the tenant's stores hold.
///
/// # Errors
/// The keepers' own.
pub async fn usage(engine: &Engine, tenant: &TenantId) -> Result<Usage, Refusal> {
    let held = engine.meta.usage(tenant).await?;
    let room = match held.quota.bytes {
        Some(quota) => quota,
        None => {
            let free = match engine.blobs.space().await? {
                Some(space) => space.free.saturating_sub(engine.policy.free_space_min),
                None => limits::ROOM_BYTES,
            };
            held.bytes.saturating_add(free)
        }
    };
    Ok(Usage { room, stores: held.stores })
}
