//! The verbs on sources: setting them up, streams into them, and looking into them.

pub mod browse;
pub mod setup;
pub mod stream;

use crate::engine::Engine;
use crate::model::ids::{SourceId, TenantId};
use crate::model::refusal::Refusal;
use crate::model::source::Source;

/// The source of a tenant.
///
/// # Errors
/// [`Refusal::TargetUnknown`] when the tenant has no such source.
pub async fn find(engine: &Engine, tenant: &TenantId, id: &str) -> Result<Source, Refusal> {
    let found = engine.meta.source(tenant, &SourceId(id.to_owned())).await?;
    found.ok_or_else(|| Refusal::TargetUnknown { what: "source", id: id.to_owned() })
}
