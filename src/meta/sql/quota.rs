//! What tenants hold: every change is made in the transaction that changes what is counted, so that the numbers are
//! exact after every crash.

use super::rows::{changed, one, optional_size, run, size, sql};
use crate::meta::{OverQuota, Quota};
use crate::model::ids::TenantId;
use crate::model::session::Session;
use crate::sql::{Connection, params};

type R<T> = crate::sql::Result<T>;

/// A tenant's numbers.
#[derive(Clone, Copy, Default)]
pub(super) struct Held {
    pub(super) bytes: u64,
    pub(super) versions: u64,
    pub(super) reserved: u64,
    pub(super) open_sessions: u64,
}

pub(super) fn held(c: &Connection, tenant: &TenantId) -> R<Held> {
    let held =
        one(c, "SELECT bytes, versions, reserved, open_sessions FROM usage WHERE tenant = ?1", [&tenant.0], |row| {
            Ok(Held {
                bytes: size(row, 0)?,
                versions: size(row, 1)?,
                reserved: size(row, 2)?,
                open_sessions: size(row, 3)?,
            })
        })?;
    Ok(held.unwrap_or_default())
}

pub(super) fn quota(c: &Connection, tenant: &TenantId) -> R<Quota> {
    let found = one(c, "SELECT quota_bytes, quota_sessions FROM tenants WHERE id = ?1", [&tenant.0], |row| {
        Ok(Quota { bytes: optional_size(row, 0)?, sessions: optional_size(row, 1)? })
    })?;
    Ok(found.unwrap_or_default())
}

pub(super) fn set_quota(c: &Connection, tenant: &TenantId, quota: Quota) -> R<bool> {
    let changed = changed(
        c,
        "UPDATE tenants SET quota_bytes = ?2, quota_sessions = ?3 WHERE id = ?1",
        params![tenant.0, quota.bytes.map(sql), quota.sessions.map(sql)],
    )?;
    Ok(changed == 1)
}

/// Does the quota leave room for so many bytes and sessions more?
pub(super) fn room(c: &Connection, tenant: &TenantId, bytes: u64, sessions: u64) -> R<Option<OverQuota>> {
    let quota = quota(c, tenant)?;
    if quota == Quota::default() {
        return Ok(None);
    }
    let held = held(c, tenant)?;
    let over = |what, limit: Option<u64>, used: u64, wanted: u64| {
        limit.filter(|limit| wanted > 0 && used.saturating_add(wanted) > *limit).map(|limit| OverQuota {
            what,
            limit,
            used,
            wanted,
        })
    };
    Ok(over("bytes", quota.bytes, held.bytes.saturating_add(held.reserved), bytes)
        .or_else(|| over("open uploads", quota.sessions, held.open_sessions, sessions)))
}

fn change(c: &Connection, tenant: &TenantId, bytes: i64, versions: i64, reserved: i64, sessions: i64) -> R<()> {
    run(
        c,
        "INSERT INTO usage (tenant, bytes, versions, reserved, open_sessions) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT (tenant) DO UPDATE SET bytes = usage.bytes + ?2, versions = usage.versions + ?3,
         reserved = usage.reserved + ?4, open_sessions = usage.open_sessions + ?5",
        params![tenant.0, bytes, versions, reserved, sessions],
    )
}

pub(super) fn session_opened(c: &Connection, tenant: &TenantId, reserved: u64) -> R<()> {
    change(c, tenant, 0, 0, sql(reserved), 1)
}

pub(super) fn session_ended(c: &Connection, session: &Session) -> R<()> {
    change(c, &session.tenant, 0, 0, -sql(session.reserved), -1)
}

/// A session of unknown size grew.
pub(super) fn reserve_more(c: &Connection, tenant: &TenantId, bytes: u64) -> R<()> {
    change(c, tenant, 0, 0, sql(bytes), 0)
}

/// What an open session has reserved changed.
pub(super) fn reserved_anew(c: &Connection, tenant: &TenantId, before: u64, now: u64) -> R<()> {
    if before == now { Ok(()) } else { change(c, tenant, 0, 0, sql(now) - sql(before), 0) }
}

pub(super) fn version_made(c: &Connection, tenant: &TenantId, bytes: u64) -> R<()> {
    change(c, tenant, sql(bytes), 1, 0, 0)
}

pub(super) fn version_dropped(c: &Connection, tenant: &TenantId, bytes: u64) -> R<()> {
    change(c, tenant, -sql(bytes), -1, 0, 0)
}
