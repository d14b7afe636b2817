//! Issuers of bearer tokens that tenants trust.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use super::rows::{all, changed, json_map, one, run, size, sql, time, unreadable};
use super::tenants::read_rights;
use crate::model::access::Rights;
use crate::model::ids::TenantId;
use crate::model::issuer::{Algorithm, Issuer};
use crate::sql::{Connection, Row, params};

type R<T> = crate::sql::Result<T>;

const ISSUER: &str =
    "SELECT i.tenant, i.url, i.audiences, i.jwks_url, i.algorithms, i.leeway, i.rights, i.claim, i.mapped,
    i.plain_http, i.created FROM issuers i";
const TRUSTING: &str =
    "SELECT i.tenant, i.url, i.audiences, i.jwks_url, i.algorithms, i.leeway, i.rights, i.claim, i.mapped,
    i.plain_http, i.created, t.paused IS NOT NULL FROM issuers i JOIN tenants t ON t.id = i.tenant";

fn read(row: &Row<'_>) -> R<Issuer> {
    let audiences: String = row.get(2)?;
    let algorithms: String = row.get(4)?;
    let mut mapped = BTreeMap::new();
    for (value, rights) in json_map(row, 8)? {
        let rights = Rights::parse(rights.as_str().unwrap_or("?"));
        mapped.insert(value, rights.map_err(|name| unreadable(8, format!("unknown right {name:?}")))?);
    }
    Ok(Issuer {
        tenant: TenantId(row.get(0)?),
        url: row.get(1)?,
        audiences: serde_json::from_str(&audiences).map_err(|error| unreadable(2, error.to_string()))?,
        jwks_url: row.get(3)?,
        algorithms: algorithms
            .split(',')
            .map(|name| Algorithm::from_name(name).ok_or_else(|| unreadable(4, format!("unknown algorithm {name:?}"))))
            .collect::<R<_>>()?,
        leeway: Duration::from_secs(size(row, 5)?),
        rights: read_rights(row, 6)?,
        claim: row.get(7)?,
        mapped,
        plain_http: row.get(9)?,
        created: time(row, 10)?,
    })
}

pub(super) fn put(c: &Connection, issuer: &Issuer) -> R<bool> {
    if one(c, "SELECT 1 FROM tenants WHERE id = ?1", [&issuer.tenant.0], |_| Ok(()))?.is_none() {
        return Ok(false);
    }
    let algorithms: Vec<&str> = issuer.algorithms.iter().map(|algorithm| algorithm.name()).collect();
    let mapped: serde_json::Map<String, Value> =
        issuer.mapped.iter().map(|(value, rights)| (value.clone(), rights.names().join(",").into())).collect();
    run(
        c,
        "INSERT INTO issuers (tenant, url, audiences, jwks_url, algorithms, leeway, rights, claim, mapped, plain_http, created)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)
         ON CONFLICT (tenant, url) DO UPDATE SET audiences = ?3, jwks_url = ?4, algorithms = ?5, leeway = ?6, rights = ?7,
         claim = ?8, mapped = ?9, plain_http = ?10, created = ?11",
        params![
            issuer.tenant.0,
            issuer.url,
            json!(issuer.audiences).to_string(),
            issuer.jwks_url,
            algorithms.join(","),
            sql(issuer.leeway.as_secs()),
            issuer.rights.names().join(","),
            issuer.claim,
            Value::Object(mapped).to_string(),
            issuer.plain_http,
            issuer.created.0
        ],
    )?;
    Ok(true)
}

pub(super) fn of(c: &Connection, tenant: &TenantId) -> R<Vec<Issuer>> {
    all(c, &format!("{ISSUER} WHERE i.tenant = ?1 ORDER BY i.url"), [&tenant.0], read)
}

pub(super) fn trusting(c: &Connection, url: &str, tenant: Option<&TenantId>) -> R<Vec<(Issuer, bool)>> {
    let read = |row: &Row<'_>| Ok((read(row)?, row.get(11)?));
    match tenant {
        Some(tenant) => all(c, &format!("{TRUSTING} WHERE i.tenant = ?1 AND i.url = ?2"), [&tenant.0, url], read),
        None => all(c, &format!("{TRUSTING} WHERE i.url = ?1 ORDER BY i.tenant"), [url], read),
    }
}

pub(super) fn remove(c: &Connection, tenant: &TenantId, url: &str) -> R<bool> {
    Ok(changed(c, "DELETE FROM issuers WHERE tenant = ?1 AND url = ?2", [&tenant.0, url])? == 1)
}
