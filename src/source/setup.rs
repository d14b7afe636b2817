//! Sources, identity providers and fields.

use serde_json::{Map, Value};

use crate::clock::random_bytes;
use crate::engine::Engine;
use crate::meta::NewSource;
use crate::model::ids::{NAME_CHARS, ProviderId, SourceId, TenantId, is_name};
use crate::model::refusal::Refusal;
use crate::model::source::{Activity, Source};

/// `parameter` is what the caller calls the name.
fn check_name(parameter: &str, name: &str) -> Result<(), Refusal> {
    if is_name(name) && !name.is_empty() {
        return Ok(());
    }
    let reason = format!("must be 1 to {NAME_CHARS} characters, none of them a control character");
    Err(Refusal::invalid(parameter, reason))
}

/// Creates a source with an id of its own, made of the tenant's id and a random part.
///
/// # Errors
/// [`Refusal::Invalid`] for a name that can't be, and the keepers' own.
pub async fn create_source(
    engine: &Engine,
    tenant: &TenantId,
    name: &str,
    stream_enabled: bool,
    properties: Map<String, Value>,
) -> Result<Source, Refusal> {
    check_name("name", name)?;
    loop {
        let new = NewSource {
            tenant: tenant.clone(),
            id: SourceId(format!("{tenant}-{}", random_word(16))),
            name: name.to_owned(),
            stream_enabled,
            properties: properties.clone(),
            now: engine.clock.now(),
        };
        // Taken ids are as good as impossible; a second try costs nothing.
        if let Some(source) = engine.meta.create_source(new).await? {
            return Ok(source);
        }
    }
}

/// Lower-case letters and digits, five bits of randomness each.
fn random_word(length: usize) -> String {
    const LETTERS: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
    random_bytes::<32>().iter().take(length).map(|b| char::from(LETTERS[usize::from(b % 32)])).collect()
}

/// Every source of the tenant, oldest first.
///
/// # Errors
/// The keepers' own.
pub async fn sources(engine: &Engine, tenant: &TenantId) -> Result<Vec<Source>, Refusal> {
    Ok(engine.meta.sources(tenant).await?)
}

/// Stores a source's changed name, stream switch and properties.
///
/// # Errors
/// [`Refusal::Invalid`] for a name that can't be, [`Refusal::TargetUnknown`] when it was deleted meanwhile.
pub async fn update_source(engine: &Engine, source: &Source) -> Result<(), Refusal> {
    check_name("name", &source.name)?;
    if engine.meta.update_source(source).await? {
        return Ok(());
    }
    Err(Refusal::TargetUnknown { what: "source", id: source.id.0.clone() })
}

/// Deletes a source that holds no item and waits for no push.
///
/// # Errors
/// [`Refusal::Invalid`] while it holds something: deleting a source must not be the way to lose its items.
pub async fn delete_source(engine: &Engine, source: &Source) -> Result<(), Refusal> {
    if engine.meta.delete_source(source.row).await? {
        return Ok(());
    }
    Err(Refusal::invalid("sourceId", "still holds items or waits for pushes: delete its items first"))
}

/// Remembers what the client says it is doing with a source.
///
/// # Errors
/// The keepers' own.
pub async fn set_activity(engine: &Engine, source: &Source, activity: Activity) -> Result<(), Refusal> {
    Ok(engine.meta.set_activity(source.row, activity).await?)
}

/// Creates or replaces an identity provider.
///
/// # Errors
/// [`Refusal::Invalid`] for an id that can't be, and the keepers' own.
pub async fn put_provider(engine: &Engine, tenant: &TenantId, id: &str, body: Value) -> Result<(), Refusal> {
    check_name("providerId", id)?;
    Ok(engine.meta.put_provider(tenant, &ProviderId(id.to_owned()), body, engine.clock.now()).await?)
}

/// Makes sure that an identity provider exists, making it if the configuration says so.
///
/// # Errors
/// [`Refusal::TargetUnknown`]; [`Refusal::Invalid`] for an id that none can have.
pub async fn find_provider(engine: &Engine, tenant: &TenantId, id: &str) -> Result<(), Refusal> {
    check_name("providerId", id)?;
    if engine.meta.provider(tenant, &ProviderId(id.to_owned())).await?.is_some() {
        return Ok(());
    }
    if engine.policy.create_providers {
        return put_provider(engine, tenant, id, Value::Object(Map::new())).await;
    }
    Err(Refusal::TargetUnknown { what: "provider", id: id.to_owned() })
}

/// The tenant's fields: name and type, by name.
///
/// # Errors
/// The keepers' own.
pub async fn fields(engine: &Engine, tenant: &TenantId) -> Result<Vec<(String, String)>, Refusal> {
    Ok(engine.meta.fields(tenant).await?)
}

/// Creates fields, all or none; one that exists with the same type is created already.
///
/// # Errors
/// [`Refusal::Invalid`] for one that exists with another type.
pub async fn create_fields(engine: &Engine, tenant: &TenantId, fields: Vec<(String, String)>) -> Result<(), Refusal> {
    match engine.meta.create_fields(tenant, fields).await? {
        None => Ok(()),
        Some(name) => Err(Refusal::invalid("name", format!("`{name}` exists with another type"))),
    }
}
