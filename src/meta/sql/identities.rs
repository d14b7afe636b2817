//! Security identities: applying changes. What is known of them is kept for whoever asks later; no answer names them yet.

use std::collections::{BTreeSet, HashMap};

use serde_json::Value;

use super::pushes;
use super::rows::{all, changed, ordering, run, sql};
use crate::clock::Timestamp;
use crate::limits;
use crate::meta::{Applied, Lease};
use crate::model::change::{Identity, IdentityChange, IdentityKind, IdentityRelation, Ordering};
use crate::model::source::PushCounts;
use crate::sql::{Connection, params};

type R<T> = crate::sql::Result<T>;

/// What is stored of one relation of an identity.
#[derive(Clone, Copy)]
struct Present {
    ordering: Ordering,
    deleted: bool,
}

/// One application: whose push, what is there, and what is counted.
struct Work<'a> {
    c: &'a Connection,
    lease: &'a Lease,
    now: Timestamp,
    /// By kind and name, then by relation.
    seen: HashMap<(&'static str, String), HashMap<String, Present>>,
    counts: PushCounts,
}

/// Applies changes to a provider's identities and moves the push's cursor.
pub(super) fn apply(c: &Connection, lease: &Lease, changes: &[(IdentityChange, u64)], now: Timestamp) -> R<Applied> {
    if !pushes::holds(c, lease)? {
        return Ok(Applied::LeaseLost);
    }
    let mut work = Work { c, lease, now, seen: HashMap::new(), counts: PushCounts::default() };
    work.look_at(changes.iter().map(|(change, _)| match change {
        IdentityChange::Put { identity, .. } | IdentityChange::Delete { identity } => identity,
    }))?;
    for (change, _) in changes {
        match change {
            IdentityChange::Put { relation, identity, related, well_knowns } => {
                work.put(*relation, identity, related, well_knowns)?;
            }
            IdentityChange::Delete { identity } => work.delete(identity)?,
        }
    }
    // Once, at the end: of a row that changes with every record, a database may keep every state until then.
    run(
        c,
        "UPDATE pushes SET added = added + ?2, updated = updated + ?3, deleted = deleted + ?4, older = older + ?5,
             cursor = COALESCE(?6, cursor) WHERE row = ?1",
        params![
            lease.push,
            sql(work.counts.added),
            sql(work.counts.updated),
            sql(work.counts.deleted),
            sql(work.counts.older),
            changes.last().map(|(_, end)| sql(*end))
        ],
    )?;
    Ok(Applied::Upto(changes.len()))
}

impl Work<'_> {
    /// Looks at what is there of these identities at once: asked one by one, each would cost the way to the database and
    /// back.
    fn look_at<'i>(&mut self, identities: impl Iterator<Item = &'i Identity> + Clone) -> R<()> {
        let flavour = self.c.flavour();
        let columns = "SELECT kind, name, relation, ordering, deleted IS NOT NULL FROM identities
                       WHERE tenant = ?1 AND provider = ?2 AND";
        let (tenant, provider) = (&self.lease.tenant.0, &self.lease.target);
        for kind in IdentityKind::ALL {
            let names: BTreeSet<&str> =
                identities.clone().filter(|i| i.kind == kind).map(|i| i.name.as_str()).collect();
            // PostgreSQL's JSON has no NUL.
            let (odd, names): (Vec<&str>, Vec<&str>) = names.into_iter().partition(|name| name.contains('\0'));
            let mut queries: Vec<(String, String)> =
                odd.into_iter().map(|name| (format!("{columns} kind = ?3 AND name = ?4"), name.to_owned())).collect();
            if !names.is_empty() {
                let among = flavour.among("name", "?4");
                queries.push((format!("{columns} kind = ?3 AND {among}"), Value::from_iter(names).to_string()));
            }
            for (query, names) in queries {
                let read = |row: &crate::sql::Row<'_>| {
                    let present = Present { ordering: ordering(row, 3)?, deleted: row.get(4)? };
                    Ok((row.get::<String>(1)?, row.get::<String>(2)?, present))
                };
                for (name, relation, present) in
                    all(self.c, &query, params![tenant, provider, kind.name(), names], read)?
                {
                    self.seen.entry((kind.name(), name)).or_default().insert(relation, present);
                }
            }
        }
        Ok(())
    }

    fn put(
        &mut self,
        relation: IdentityRelation,
        identity: &Identity,
        related: &[Value],
        well_knowns: &[Value],
    ) -> R<()> {
        let Lease { tenant, target, ordering, .. } = self.lease;
        let relations = self.seen.entry((identity.kind.name(), identity.name.clone())).or_default();
        match relations.get(relation.name()) {
            Some(present) if present.ordering > *ordering => {
                self.counts.older += 1;
                return Ok(());
            }
            Some(present) if !present.deleted => self.counts.updated += 1,
            Some(_) | None => self.counts.added += 1,
        }
        relations.insert(relation.name().to_owned(), Present { ordering: *ordering, deleted: false });
        run(
            self.c,
            "INSERT INTO identities (tenant, provider, kind, name, relation, additional, related, well_knowns, ordering, changed)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)
             ON CONFLICT (tenant, provider, kind, name, relation) DO UPDATE SET additional = ?6, related = ?7,
                 well_knowns = ?8, ordering = ?9, changed = ?10, deleted = NULL",
            params![
                tenant.0,
                *target,
                identity.kind.name(),
                identity.name,
                relation.name(),
                Value::Object(identity.additional.clone()).to_string(),
                Value::Array(related.to_vec()).to_string(),
                Value::Array(well_knowns.to_vec()).to_string(),
                ordering.to_bytes(),
                self.now.0
            ],
        )
    }

    /// Deletes an identity in every relation that is not newer.
    fn delete(&mut self, identity: &Identity) -> R<()> {
        let Lease { tenant, target, ordering, .. } = self.lease;
        let mut deleted = false;
        let relations = self.seen.get_mut(&(identity.kind.name(), identity.name.clone()));
        for present in relations.into_iter().flat_map(HashMap::values_mut) {
            if !present.deleted && present.ordering <= *ordering {
                *present = Present { ordering: *ordering, deleted: true };
                deleted = true;
            }
        }
        if !deleted {
            return Ok(());
        }
        self.counts.deleted += 1;
        run(
            self.c,
            "UPDATE identities SET deleted = ?6, changed = ?6, ordering = ?5
             WHERE tenant = ?1 AND provider = ?2 AND kind = ?3 AND name = ?4 AND ordering <= ?5 AND deleted IS NULL",
            params![tenant.0, *target, identity.kind.name(), identity.name, ordering.to_bytes(), self.now.0],
        )
    }
}

/// Deletes a transaction's worth of the identities that are older than a push; true when there may be more.
pub(super) fn delete_older(c: &Connection, lease: &Lease, now: Timestamp) -> R<bool> {
    let limit = i64::try_from(limits::APPLY_RECORDS).unwrap_or(i64::MAX);
    let deleted = changed(
        c,
        "UPDATE identities SET deleted = ?4, changed = ?4 WHERE (tenant, provider, kind, name, relation) IN
         (SELECT tenant, provider, kind, name, relation FROM identities
          WHERE tenant = ?1 AND provider = ?2 AND ordering < ?3 AND deleted IS NULL LIMIT ?5)",
        params![lease.tenant.0, lease.target, lease.ordering.to_bytes(), now.0, limit],
    )?;
    let deleted = i64::try_from(deleted).unwrap_or(0);
    run(c, "UPDATE pushes SET deleted = deleted + ?2 WHERE row = ?1", params![lease.push, deleted])?;
    Ok(deleted == limit)
}
