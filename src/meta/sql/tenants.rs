//! Settings, tenants, keys, sources, providers, fields.

use std::collections::BTreeMap;

use serde_json::Value;

use super::calls;
use super::rows::{
    all, changed, json, json_map, one, optional_size, optional_time, run, sql, time, unreadable, uuid, word,
};
use crate::clock::Timestamp;
use crate::meta::{ItemLimits, KeyCreated, KeyInfo, Marked, NewItemLimits, NewSource, Once, Quota, TenantInfo};
use crate::model::access::{Caller, Rights};
use crate::model::change::Ordering;
use crate::model::ids::{KeyId, ProviderId, SourceId, TenantId};
use crate::model::source::{Activity, Source};
use crate::sql::{Connection, NONE, Row, params};

type R<T> = crate::sql::Result<T>;

pub(super) fn setting(c: &Connection, name: &str) -> R<Option<Vec<u8>>> {
    one(c, "SELECT value FROM settings WHERE name = ?1", [name], |row| row.get(0))
}

pub(super) fn set_setting(c: &Connection, name: &str, value: Vec<u8>, only_new: bool) -> R<Vec<u8>> {
    if only_new && let Some(present) = setting(c, name)? {
        return Ok(present);
    }
    run(
        c,
        "INSERT INTO settings (name, value) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET value = ?2",
        params![name, value],
    )?;
    Ok(value)
}

pub(super) fn create_tenant(c: &Connection, tenant: &TenantInfo) -> R<bool> {
    let made = changed(
        c,
        "INSERT INTO tenants (id, api, created, quota_bytes, quota_sessions) VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT DO NOTHING",
        params![tenant.id.0, tenant.api, tenant.created.0, tenant.quota.bytes.map(sql), tenant.quota.sessions.map(sql)],
    )?;
    Ok(made == 1)
}

const TENANT: &str =
    "SELECT id, api, created, paused, items_per_source, items_per_day, quota_bytes, quota_sessions FROM tenants";

fn read_tenant(row: &Row<'_>) -> R<TenantInfo> {
    Ok(TenantInfo {
        id: TenantId(row.get(0)?),
        api: row.get(1)?,
        created: time(row, 2)?,
        paused: optional_time(row, 3)?,
        items: ItemLimits { per_source: optional_size(row, 4)?, per_day: optional_size(row, 5)? },
        quota: Quota { bytes: optional_size(row, 6)?, sessions: optional_size(row, 7)? },
    })
}

pub(super) fn tenant(c: &Connection, tenant: &TenantId) -> R<Option<TenantInfo>> {
    one(c, &format!("{TENANT} WHERE id = ?1"), [&tenant.0], read_tenant)
}

pub(super) fn tenants(c: &Connection) -> R<Vec<TenantInfo>> {
    all(c, &format!("{TENANT} ORDER BY id"), NONE, read_tenant)
}

pub(super) fn pause_tenant(c: &Connection, id: &TenantId, paused: Option<Timestamp>) -> R<Option<TenantInfo>> {
    run(
        c,
        "UPDATE tenants SET paused = CASE WHEN ?2 IS NULL THEN NULL ELSE coalesce(paused, ?2) END WHERE id = ?1",
        params![id.0, paused.map(|t| t.0)],
    )?;
    tenant(c, id)
}

pub(super) fn limit_tenant(c: &Connection, id: &TenantId, limits: NewItemLimits) -> R<Option<TenantInfo>> {
    if let Some(limit) = limits.per_source {
        run(c, "UPDATE tenants SET items_per_source = ?2 WHERE id = ?1", params![id.0, limit.map(sql)])?;
    }
    if let Some(limit) = limits.per_day {
        run(c, "UPDATE tenants SET items_per_day = ?2 WHERE id = ?1", params![id.0, limit.map(sql)])?;
    }
    tenant(c, id)
}

pub(super) fn create_key(c: &Connection, key: &KeyInfo, hash: [u8; 32], once: Option<&Once>) -> R<KeyCreated> {
    if let Some(once) = once {
        match calls::remember(c, &key.tenant, once, key.id.0.as_bytes(), key.created)? {
            Marked::New => {}
            Marked::Before(id) => {
                let made = keys(c, Some(&key.tenant))?.into_iter().find(|k| k.id.0.as_bytes()[..] == id);
                return Ok(made.map_or(KeyCreated::OtherBody, KeyCreated::Before));
            }
            Marked::OtherBody => return Ok(KeyCreated::OtherBody),
        }
    }
    run(
        c,
        "INSERT INTO keys (id, tenant, name, hash, rights, created, expires, revoked) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        params![
            key.id.0.as_bytes(),
            key.tenant.0,
            key.name,
            hash,
            key.rights.names().join(","),
            key.created.0,
            key.expires.map(|t| t.0),
            key.revoked.map(|t| t.0)
        ],
    )?;
    Ok(KeyCreated::New)
}

pub(super) fn read_rights(row: &Row<'_>, index: usize) -> R<Rights> {
    let names: String = row.get(index)?;
    Rights::parse(&names).map_err(|name| unreadable(index, format!("unknown right {name:?}")))
}

pub(super) fn caller(c: &Connection, hash: [u8; 32], now: Timestamp) -> R<Option<Caller>> {
    one(
        c,
        "SELECT k.id, k.tenant, k.rights, k.expires, t.paused IS NOT NULL FROM keys k JOIN tenants t ON t.id = k.tenant
         WHERE k.hash = ?1 AND k.revoked IS NULL AND (k.expires IS NULL OR k.expires > ?2)",
        params![hash, now.0],
        |row| {
            Ok(Caller {
                key: KeyId(uuid(row, 0)?),
                tenant: TenantId(row.get(1)?),
                subject: None,
                rights: read_rights(row, 2)?,
                expires: optional_time(row, 3)?,
                paused: row.get(4)?,
            })
        },
    )
}

pub(super) fn keys(c: &Connection, tenant: Option<&TenantId>) -> R<Vec<KeyInfo>> {
    all(
        c,
        "SELECT id, tenant, name, rights, created, expires, revoked FROM keys WHERE ?1 IS NULL OR tenant = ?1 ORDER BY id DESC",
        params![tenant.map(TenantId::as_str)],
        |row| {
            Ok(KeyInfo {
                id: KeyId(uuid(row, 0)?),
                tenant: TenantId(row.get(1)?),
                name: row.get(2)?,
                rights: read_rights(row, 3)?,
                created: time(row, 4)?,
                expires: optional_time(row, 5)?,
                revoked: optional_time(row, 6)?,
            })
        },
    )
}

pub(super) fn revoke_key(c: &Connection, tenant: Option<&TenantId>, key: KeyId, now: Timestamp) -> R<bool> {
    let changed = changed(
        c,
        "UPDATE keys SET revoked = coalesce(revoked, ?3) WHERE id = ?1 AND (?2 IS NULL OR tenant = ?2)",
        params![key.0.as_bytes(), tenant.map(TenantId::as_str), now.0],
    )?;
    Ok(changed == 1)
}

const SOURCE: &str = "SELECT row, id, tenant, name, stream_enabled, properties, activity, created FROM sources";

fn read_source(row: &Row<'_>) -> R<Source> {
    Ok(Source {
        row: row.get(0)?,
        id: SourceId(row.get(1)?),
        tenant: TenantId(row.get(2)?),
        name: row.get(3)?,
        stream_enabled: row.get(4)?,
        properties: json_map(row, 5)?,
        activity: word(row, 6, Activity::from_name)?,
        created: time(row, 7)?,
    })
}

pub(super) fn create_source(c: &Connection, new: &NewSource) -> R<Option<Source>> {
    let made = changed(
        c,
        "INSERT INTO sources (tenant, id, name, stream_enabled, properties, activity, floor, created)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT DO NOTHING",
        params![
            new.tenant.0,
            new.id.0,
            new.name,
            new.stream_enabled,
            Value::Object(new.properties.clone()).to_string(),
            Activity::Idle.name(),
            Ordering::default().to_bytes(),
            new.now.0
        ],
    )?;
    if made == 0 { Ok(None) } else { source(c, &new.tenant, &new.id) }
}

pub(super) fn source(c: &Connection, tenant: &TenantId, id: &SourceId) -> R<Option<Source>> {
    one(c, &format!("{SOURCE} WHERE tenant = ?1 AND id = ?2"), [&tenant.0, &id.0], read_source)
}

pub(super) fn sources(c: &Connection, tenant: &TenantId) -> R<Vec<Source>> {
    all(c, &format!("{SOURCE} WHERE tenant = ?1 ORDER BY row"), [&tenant.0], read_source)
}

pub(super) fn update_source(c: &Connection, source: &Source) -> R<bool> {
    let changed = changed(
        c,
        "UPDATE sources SET name = ?2, stream_enabled = ?3, properties = ?4 WHERE row = ?1",
        params![source.row, source.name, source.stream_enabled, Value::Object(source.properties.clone()).to_string()],
    )?;
    Ok(changed == 1)
}

pub(super) fn delete_source(c: &Connection, source: i64) -> R<bool> {
    let busy = one(
        c,
        "SELECT EXISTS (SELECT 1 FROM items WHERE source = ?1 AND deleted IS NULL)
             OR EXISTS (SELECT 1 FROM pushes WHERE source = ?1 AND state NOT IN ('done', 'failed'))",
        [source],
        |row| row.get::<bool>(0),
    )?;
    if busy != Some(false) {
        return Ok(false);
    }
    run(c, "DELETE FROM items WHERE source = ?1", [source])?;
    run(c, "DELETE FROM streams WHERE source = ?1", [source])?;
    Ok(changed(c, "DELETE FROM sources WHERE row = ?1", [source])? == 1)
}

pub(super) fn set_activity(c: &Connection, source: i64, activity: Activity) -> R<()> {
    run(c, "UPDATE sources SET activity = ?2 WHERE row = ?1", params![source, activity.name()])?;
    Ok(())
}

pub(super) fn put_provider(c: &Connection, tenant: &TenantId, id: &ProviderId, body: &Value, now: Timestamp) -> R<()> {
    run(
        c,
        "INSERT INTO providers (tenant, id, body, created) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (tenant, id) DO UPDATE SET body = ?3",
        params![tenant.0, id.0, body.to_string(), now.0],
    )?;
    Ok(())
}

pub(super) fn provider(c: &Connection, tenant: &TenantId, id: &ProviderId) -> R<Option<Value>> {
    one(c, "SELECT body FROM providers WHERE tenant = ?1 AND id = ?2", [&tenant.0, &id.0], |row| json(row, 0))
}

pub(super) fn fields(c: &Connection, tenant: &TenantId) -> R<Vec<(String, String)>> {
    all(c, "SELECT name, type FROM fields WHERE tenant = ?1 ORDER BY name", [&tenant.0], |row| {
        Ok((row.get(0)?, row.get(1)?))
    })
}

pub(super) fn create_fields(c: &Connection, tenant: &TenantId, fields: &[(String, String)]) -> R<Option<String>> {
    let mut wanted: BTreeMap<String, String> = self::fields(c, tenant)?.into_iter().collect();
    for (name, kind) in fields {
        // The same name twice in one call is judged like one that exists.
        if wanted.entry(name.clone()).or_insert_with(|| kind.clone()) != kind {
            return Ok(Some(name.clone()));
        }
    }
    for (name, kind) in fields {
        let insert = "INSERT INTO fields (tenant, name, type) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING";
        run(c, insert, [&tenant.0, name, kind])?;
    }
    Ok(None)
}
