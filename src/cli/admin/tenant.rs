//! Tenants: made, paused, limited.

use clap::Subcommand;
use serde_json::{Value, json};

use super::oidc::OidcCommand;
use super::{AdminError, Place, existing, refused, unknown_tenant};
use crate::clock::Timestamp;
use crate::config;
use crate::meta::{MetaStore, NewItemLimits, Quota, TenantInfo};
use crate::model::ids::TenantId;

/// Tenants.
#[derive(Debug, Subcommand)]
pub(in crate::cli) enum TenantCommand {
    /// Create a tenant
    Create {
        /// Its id: lower-case letters, digits, `-` and `_`
        id: String,
        /// Which API its callers speak
        #[arg(long, default_value = "auto", value_parser = ["coveo", "aitronos", "cognite", "auto"])]
        api: String,
        #[command(flatten)]
        place: Place,
    },
    /// List the tenants, with their limits and since when they are paused
    List {
        #[command(flatten)]
        place: Place,
    },
    /// Limit what a tenant may hold; what is not named stays as it is. Without a limit named, shows both
    Quota {
        /// Its id
        id: String,
        /// Most bytes, committed and promised to open uploads together: a number, a size such as 10GiB, or none
        #[arg(long, value_name = "N|none", value_parser = parse_bytes)]
        bytes: Option<Ceiling>,
        /// Most open uploads: a number, or none
        #[arg(long, value_name = "N|none", value_parser = parse_count)]
        sessions: Option<Ceiling>,
        #[command(flatten)]
        place: Place,
    },
    /// Pause a tenant: what it holds stays and can be read; uploads, pushes and changes are refused from the next
    /// request on. What was accepted before is still processed
    Pause {
        /// Its id
        id: String,
        #[command(flatten)]
        place: Place,
    },
    /// End a pause
    Resume {
        /// Its id
        id: String,
        #[command(flatten)]
        place: Place,
    },
    /// Limit how many items a tenant may have and change; what is not named stays as it is
    Limit {
        /// Its id
        id: String,
        /// Items that one source may hold; `none` takes the limit away
        #[arg(long, value_name = "N|none", value_parser = parse_limit)]
        items_per_source: Option<Limit>,
        /// Items that may be added or changed in a day (UTC); `none` takes the limit away
        #[arg(long, value_name = "N|none", value_parser = parse_limit)]
        items_per_day: Option<Limit>,
        #[command(flatten)]
        place: Place,
    },
    /// Issuers of bearer tokens (OpenID Connect) that a tenant trusts. Changes hold from the next request on
    #[command(subcommand)]
    Oidc(OidcCommand),
}

/// A quota as it is given: a number, or none.
#[derive(Clone, Copy, Debug)]
pub(in crate::cli) struct Ceiling(Option<u64>);

fn parse_bytes(text: &str) -> Result<Ceiling, String> {
    match text {
        "none" => Ok(Ceiling(None)),
        _ => match config::size(text).filter(|n| i64::try_from(*n).is_ok()) {
            Some(bytes) => Ok(Ceiling(Some(bytes))),
            None => Err("use a number of bytes, a size such as 10GiB, or `none`".into()),
        },
    }
}

fn parse_count(text: &str) -> Result<Ceiling, String> {
    match text {
        "none" => Ok(Ceiling(None)),
        _ => match text.parse::<u64>().ok().filter(|n| i64::try_from(*n).is_ok()) {
            Some(count) => Ok(Ceiling(Some(count))),
            None => Err("use a whole number, 0 or more, or `none`".into()),
        },
    }
}

/// A limit as it is given: a number, or none.
#[derive(Clone, Copy, Debug)]
pub(in crate::cli) struct Limit(Option<u64>);

fn parse_limit(text: &str) -> Result<Limit, String> {
    if text == "none" {
        return Ok(Limit(None));
    }
    match text.parse() {
        // The database counts in 63 bits.
        Ok(limit) if i64::try_from(limit).is_ok() => Ok(Limit(Some(limit))),
        _ => Err(String::from("use a whole number, 0 or more, or `none`")),
    }
}

impl TenantCommand {
    pub(super) fn place(&self) -> &Place {
        match self {
            Self::Create { place, .. }
            | Self::List { place }
            | Self::Quota { place, .. }
            | Self::Pause { place, .. }
            | Self::Resume { place, .. }
            | Self::Limit { place, .. } => place,
            Self::Oidc(command) => command.place(),
        }
    }

    pub(super) async fn run(&self, meta: &dyn MetaStore, now: Timestamp) -> Result<Vec<Value>, AdminError> {
        match self {
            Self::Create { id, api, .. } => {
                if !TenantId::is_valid(id) {
                    return Err(refused(format!(
                        "`{id}` can't be a tenant's id: use 1 to 64 lower-case letters, digits, `-` and `_`, first a letter or digit"
                    )));
                }
                let tenant = TenantInfo::new(TenantId::from(id.as_str()), api.clone(), now);
                if !meta.create_tenant(tenant).await? {
                    return Err(refused(format!("the tenant `{id}` exists already")));
                }
                Ok(vec![json!({"id": id, "api": api})])
            }
            Self::Quota { id, bytes, sessions, .. } => quota(meta, id, *bytes, *sessions).await,
            Self::List { .. } => {
                let tenants = meta.tenants().await?;
                Ok(tenants.iter().map(shown_tenant).collect())
            }
            Self::Pause { id, .. } => changed(id, meta.pause_tenant(&TenantId::from(id.as_str()), Some(now)).await?),
            Self::Resume { id, .. } => changed(id, meta.pause_tenant(&TenantId::from(id.as_str()), None).await?),
            Self::Limit { id, items_per_source, items_per_day, .. } => {
                let given = |limit: &Option<Limit>| limit.map(|Limit(limit)| limit);
                let limits = NewItemLimits { per_source: given(items_per_source), per_day: given(items_per_day) };
                changed(id, meta.limit_tenant(&TenantId::from(id.as_str()), limits).await?)
            }
            Self::Oidc(command) => command.run(meta, now).await,
        }
    }
}

/// Sets the quotas that are given, and shows what holds then.
async fn quota(
    meta: &dyn MetaStore,
    id: &str,
    bytes: Option<Ceiling>,
    sessions: Option<Ceiling>,
) -> Result<Vec<Value>, AdminError> {
    let tenant = existing(meta, id).await?;
    let before = meta.tenant(&tenant).await?.map(|info| info.quota).unwrap_or_default();
    let quota = Quota {
        bytes: bytes.map_or(before.bytes, |Ceiling(bytes)| bytes),
        sessions: sessions.map_or(before.sessions, |Ceiling(sessions)| sessions),
    };
    if quota != before {
        meta.set_quota(&tenant, quota).await?;
    }
    let usage = meta.usage(&tenant).await?;
    Ok(vec![json!({
        "id": id, "quota_bytes": quota.bytes, "quota_sessions": quota.sessions,
        "bytes": usage.bytes, "reserved": usage.reserved, "open_sessions": usage.open_sessions,
    })])
}

fn changed(id: &str, tenant: Option<TenantInfo>) -> Result<Vec<Value>, AdminError> {
    tenant.map(|tenant| vec![shown_tenant(&tenant)]).ok_or_else(|| unknown_tenant(id))
}

fn shown_tenant(tenant: &TenantInfo) -> Value {
    json!({
        "id": tenant.id, "api": tenant.api, "created": tenant.created.rfc3339(),
        "paused": tenant.paused.map(Timestamp::rfc3339),
        "items_per_source": tenant.items.per_source, "items_per_day": tenant.items.per_day,
    })
}
