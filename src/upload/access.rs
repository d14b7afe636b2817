//! May this caller do that in this tenant?

use crate::engine::Engine;
use crate::model::access::{Caller, Right};
use crate::model::ids::{KeyId, TenantId};
use crate::model::refusal::Refusal;

/// Proof that a caller may do something in a tenant. Only [`grant`] makes one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Grant {
    tenant: TenantId,
    key: Option<KeyId>,
}

impl Grant {
    /// The tenant in which it holds.
    #[must_use]
    pub const fn tenant(&self) -> &TenantId {
        &self.tenant
    }

    /// The caller's key; `None` for the server itself.
    #[must_use]
    pub const fn key(&self) -> Option<KeyId> {
        self.key
    }

    /// The server's own grant, for bytes that it stores itself on a tenant's behalf.
    #[must_use]
    pub const fn internal(tenant: TenantId) -> Self {
        Self { tenant, key: None }
    }
}

/// Checks that the tenant exists, that the caller is of it, and that its key has the right; in this order.
///
/// # Errors
/// [`Refusal::TenantUnknown`] or [`Refusal::Forbidden`].
pub async fn grant(engine: &Engine, caller: &Caller, tenant: &TenantId, right: Right) -> Result<Grant, Refusal> {
    if caller.tenant != *tenant {
        return match engine.meta.tenant(tenant).await? {
            None => Err(Refusal::TenantUnknown),
            Some(_) => Err(Refusal::Forbidden { right: "" }),
        };
    }
    if !caller.rights.has(right) {
        return Err(Refusal::Forbidden { right: right.name() });
    }
    Ok(Grant { tenant: tenant.clone(), key: Some(caller.key) })
}
