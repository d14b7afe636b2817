//! Keys: made, listed, taken back.

use clap::Subcommand;
use serde_json::{Value, json};

use super::{AdminError, Place, check_name, existing, refused};
use crate::clock::{Timestamp, ordered_uuid};
use crate::credential;
use crate::meta::{KeyInfo, MetaStore};
use crate::model::access::Rights;
use crate::model::ids::{KeyId, TenantId};

/// Keys.
#[derive(Debug, Subcommand)]
pub(in crate::cli) enum KeyCommand {
    /// Create a key; it is printed once and can't be shown again
    Create {
        /// Whose key
        #[arg(long, value_name = "ID")]
        tenant: String,
        /// What to call it
        #[arg(long, default_value = "")]
        name: String,
        /// What it may do, comma-separated: all, upload, items, sources, identities, fields, read, keys
        #[arg(long, default_value = "all", value_name = "LIST")]
        rights: String,
        /// When it stops working: an RFC 3339 time, or a duration such as 90d, 12h, 30m
        #[arg(long, value_name = "T")]
        expires: Option<String>,
        #[command(flatten)]
        place: Place,
    },
    /// List the keys: never the keys themselves
    List {
        /// Only this tenant's
        #[arg(long, value_name = "ID")]
        tenant: Option<String>,
        #[command(flatten)]
        place: Place,
    },
    /// Revoke a key, at once
    Revoke {
        /// Its id, as the list shows it
        id: KeyId,
        #[command(flatten)]
        place: Place,
    },
}

impl KeyCommand {
    pub(super) fn place(&self) -> &Place {
        match self {
            Self::Create { place, .. } | Self::List { place, .. } | Self::Revoke { place, .. } => place,
        }
    }

    pub(super) async fn run(&self, meta: &dyn MetaStore, now: Timestamp) -> Result<Vec<Value>, AdminError> {
        match self {
            Self::Create { tenant, name, rights, expires, .. } => {
                let tenant = existing(meta, tenant).await?;
                check_name(name)?;
                let rights = parse_rights(rights)?;
                if rights == Rights::default() {
                    return Err(refused(format!("a key needs at least one right: {}", some_rights())));
                }
                let expires = expires.as_deref().map(|text| parse_expiry(text, now)).transpose()?;
                let key = credential::new_key();
                let info = KeyInfo {
                    id: KeyId(ordered_uuid(now)),
                    tenant,
                    name: name.clone(),
                    rights,
                    created: now,
                    expires,
                    revoked: None,
                };
                let shown = shown(&info, Some(&key));
                meta.create_key(info, credential::hash_key(&key), None).await?;
                Ok(vec![shown])
            }
            Self::List { tenant, .. } => {
                let tenant = tenant.as_deref().map(TenantId::from);
                Ok(meta.keys(tenant.as_ref()).await?.iter().map(|info| shown(info, None)).collect())
            }
            Self::Revoke { id, .. } => {
                if !meta.revoke_key(None, *id, now).await? {
                    return Err(refused(format!(
                        "there is no key with the id {id}: `landfall admin key list` shows them"
                    )));
                }
                Ok(vec![json!({"id": id, "revoked": true})])
            }
        }
    }
}

fn some_rights() -> String {
    format!("use all, or some of {}", Rights::all().names().join(", "))
}

pub(super) fn parse_rights(list: &str) -> Result<Rights, AdminError> {
    Rights::parse(list).map_err(|right| refused(format!("`{right}` is not a right: {}", some_rights())))
}

fn shown(info: &KeyInfo, key: Option<&str>) -> Value {
    let time = |t: Option<Timestamp>| t.map(Timestamp::rfc3339);
    let mut shown = json!({
        "id": info.id, "tenant": info.tenant, "name": info.name, "rights": info.rights.names(),
        "created": info.created.rfc3339(), "expires": time(info.expires), "revoked": time(info.revoked),
    });
    if let (Some(key), Some(map)) = (key, shown.as_object_mut()) {
        map.insert("key".into(), key.into());
    }
    shown
}

fn parse_expiry(text: &str, now: Timestamp) -> Result<Timestamp, AdminError> {
    let wrong = || {
        refused(format!("`{text}` is no time to expire at: use an RFC 3339 time or a duration such as 90d, 12h, 30m"))
    };
    if let Some(time) = Timestamp::parse(text) {
        return if time > now { Ok(time) } else { Err(refused(format!("`{text}` is in the past"))) };
    }
    let (number, unit) = text.split_at(text.len().saturating_sub(1));
    let seconds = match unit {
        "d" => 86_400,
        "h" => 3_600,
        "m" => 60,
        "s" => 1,
        _ => return Err(wrong()),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    Ok(now.plus(std::time::Duration::from_secs(number.checked_mul(seconds).ok_or_else(wrong)?)))
}
