//! Calls that their clients marked: a repetition is recognised in the transaction that would do it again.

use super::rows::{one, run};
use crate::clock::Timestamp;
use crate::meta::{Marked, Once};
use crate::model::ids::TenantId;
use crate::sql::{Connection, params};

type R<T> = crate::sql::Result<T>;

pub(super) fn recall(c: &Connection, tenant: &TenantId, once: &Once) -> R<Marked> {
    let found = one(
        c,
        "SELECT body, answer FROM calls WHERE tenant = ?1 AND mark = ?2 AND created > ?3",
        params![tenant.0, once.mark, once.since.0],
        |row| Ok((row.get::<[u8; 32]>(0)?, row.get(1)?)),
    )?;
    Ok(match found {
        None => Marked::New,
        Some((body, answer)) if body == once.body => Marked::Before(answer),
        Some(_) => Marked::OtherBody,
    })
}

/// Lets the mark stand for this answer from now on, if it is new.
pub(super) fn remember(c: &Connection, tenant: &TenantId, once: &Once, answer: &[u8], now: Timestamp) -> R<Marked> {
    let before = recall(c, tenant, once)?;
    if before == Marked::New {
        run(c, "DELETE FROM calls WHERE created <= ?1", [once.since.0])?;
        run(
            c,
            "INSERT INTO calls (tenant, mark, body, answer, created) VALUES (?1, ?2, ?3, ?4, ?5)",
            params![tenant.0, once.mark, once.body, answer, now.0],
        )?;
    }
    Ok(before)
}
