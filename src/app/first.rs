//! What a first start makes: a tenant, its sources and its store, and a key that is shown once.

use serde_json::Map;

use super::StartError;
use crate::clock::{ordered_uuid, random_uuid};
use crate::credential;
use crate::engine::Engine;
use crate::faults;
use crate::meta::{KeyInfo, MetaError, NewSource, NewStore, StoreFilter, TenantInfo};
use crate::model::access::Rights;
use crate::model::ids::{KeyId, SourceId, StoreId, TenantId};

/// Settings: the id of the key that the first start made, and whether it was shown.
const FIRST_KEY: &str = "first_key";
const FIRST_KEY_SHOWN: &str = "first_key_shown";
/// The first tenant, its sources and its store.
const TENANT: &str = "default";
const SOURCE: &str = "default-files";
const CATALOG: &str = "default-catalog";
const STORE: &str = "default";

/// What the first start made. The key is shown once and never again.
#[derive(Clone)]
pub struct FirstStart {
    /// The tenant.
    pub tenant: String,
    /// Its key, with every right.
    pub key: String,
    /// A source for pushed items.
    pub source: String,
    /// A source for streams.
    pub catalog: String,
    /// A store.
    pub store: String,
}

impl std::fmt::Debug for FirstStart {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FirstStart").field("tenant", &self.tenant).finish_non_exhaustive()
    }
}
/// What a first start makes, until somebody has seen its key. Of several processes that start at once at one database one
/// does it: another's key, which nobody has seen yet, would be revoked.
pub(super) async fn start(engine: &Engine) -> Result<Option<FirstStart>, StartError> {
    if !engine.meta.leads().await? {
        return Ok(None);
    }
    let tenant = TenantId::from(TENANT);
    let unseen = match engine.meta.setting(FIRST_KEY).await? {
        // The key was made, or was about to be, and is not known to have been shown: only its hash is left of it.
        Some(id) if engine.meta.setting(FIRST_KEY_SHOWN).await?.is_none() => {
            String::from_utf8(id).ok().and_then(|id| id.parse::<KeyId>().ok())
        }
        Some(_) => return Ok(None),
        None => None,
    };
    let begun = match engine.meta.tenants().await?.as_slice() {
        [] => true,
        // A first start that was cut off: what it made is kept, the rest is made now.
        [only] => only.id == tenant && engine.meta.keys(Some(&tenant)).await?.is_empty(),
        _ => false,
    };
    if !begun && unseen.is_none() {
        return Ok(None);
    }
    let now = engine.clock.now();
    engine.meta.create_tenant(TenantInfo::new(tenant.clone(), "auto", now)).await?;
    faults::point("start.tenant");
    for (id, name, stream_enabled) in [(SOURCE, "Files", false), (CATALOG, "Catalog", true)] {
        let new = NewSource {
            tenant: tenant.clone(),
            id: SourceId::from(id),
            name: name.into(),
            stream_enabled,
            properties: Map::new(),
            now,
        };
        engine.meta.create_source(new).await?;
    }
    let tenants_stores = engine.meta.stores(&tenant, StoreFilter { limit: 1, ..StoreFilter::default() }).await?.0;
    let store = match tenants_stores.into_iter().next() {
        Some(store) => store.id,
        None => {
            let new = NewStore {
                id: StoreId(random_uuid()),
                tenant: tenant.clone(),
                name: STORE.into(),
                description: None,
                properties: Map::new(),
                created_by: None,
                now,
            };
            engine.meta.create_store(new).await?.id
        }
    };
    faults::point("start.sources");
    if let Some(unseen) = unseen {
        engine.meta.revoke_key(Some(&tenant), unseen, now).await?;
    }
    let key = credential::new_key();
    let id = KeyId(ordered_uuid(now));
    let info = KeyInfo {
        id,
        tenant,
        name: "first key".into(),
        rights: Rights::all(),
        created: now,
        expires: None,
        revoked: None,
    };
    // Intent first: a start after this one knows which key nobody has seen.
    engine.meta.set_setting(FIRST_KEY, id.to_string().into_bytes(), false).await?;
    faults::point("start.intent");
    // The key is last: whoever has one can use everything that was made before it.
    engine.meta.create_key(info, credential::hash_key(&key), None).await?;
    faults::point("start.key");
    Ok(Some(FirstStart {
        tenant: TENANT.into(),
        key,
        source: SOURCE.into(),
        catalog: CATALOG.into(),
        store: store.public(),
    }))
}

/// Somebody has seen the key.
pub(super) async fn shown(engine: &Engine) -> Result<(), MetaError> {
    engine.meta.set_setting(FIRST_KEY_SHOWN, Vec::new(), true).await.map(drop)
}
