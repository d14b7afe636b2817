//! Reading the catalogue: by identifiers, page by page, by name, counted.

use std::collections::HashSet;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::StatusCode;
use serde::Serialize;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::envelope::Fault;
use super::json::Fields;
use super::query::Query;
use super::wire::File;
use super::{Reply, answer, body, items, view, wire};
use crate::catalogue;
use crate::http::call::{self, Call};
use crate::http::doors::Doors;
use crate::model::access::Right;
use crate::model::entry::{Entry, EntryFilter, EntryRef, Stretch};
use crate::model::ids::TenantId;

/// Most items of a call.
pub(super) const ITEMS_MAX: usize = 1_000;
const LIMIT_DEFAULT: u32 = 100;
const LIMIT_MAX: u32 = 1_000;
/// Most parts that a list may be read in at once.
const PARTITIONS_MAX: i64 = 10;

/// How long a file is in an answer, about.
const FILE_BYTES: usize = 512;

/// A page of a list.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Listed<'e> {
    #[serde(serialize_with = "wire::files")]
    items: &'e [Entry],
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

pub(super) async fn by_ids(doors: Arc<Doors>, mut call: Call) -> Reply {
    let tenant = view(&doors, &call, Right::Read).await?;
    let body = body(&doors, &mut call).await?;
    let fields = Fields::new(&body);
    let refs = wire::entry_refs(&fields.items(ITEMS_MAX)?)?;
    let found = all(&doors, &tenant, refs, fields.flag("ignoreUnknownIds")?).await?;
    once(&found)?;
    items(found.iter().map(File::from))
}

/// That no file is named twice by its several names, for calls that change what they name. Equal names are looked for
/// where they are read.
///
/// # Errors
/// 400 with the file.
pub(super) async fn distinct(doors: &Doors, tenant: &TenantId, refs: &[EntryRef]) -> Result<(), Fault> {
    let kinds: HashSet<_> = refs.iter().map(std::mem::discriminant).collect();
    if kinds.len() < 2 {
        return Ok(());
    }
    once(catalogue::find(&doors.engine, tenant, refs.to_vec()).await?.iter().flatten())
}

fn once<'e>(entries: impl IntoIterator<Item = &'e Entry>) -> Result<(), Fault> {
    let mut seen = HashSet::new();
    match entries.into_iter().find(|entry| !seen.insert(entry.number)) {
        Some(again) => Err(Fault::bad(format!("The items name one file twice: the one with the id {}", again.number))),
        None => Ok(()),
    }
}

/// The entries of these names, in their order.
///
/// # Errors
/// 400 with all that do not exist, unless they are to be left out.
pub(super) async fn all(
    doors: &Doors,
    tenant: &TenantId,
    refs: Vec<EntryRef>,
    ignore_unknown: bool,
) -> Result<Vec<Entry>, Fault> {
    let found = catalogue::find(&doors.engine, tenant, refs.clone()).await?;
    let missing: Vec<usize> =
        found.iter().enumerate().filter(|(_, entry)| entry.is_none()).map(|(place, _)| place).collect();
    if !missing.is_empty() && !ignore_unknown {
        return Err(Fault::missing(wire::identifiers(&refs, &missing)));
    }
    Ok(found.into_iter().flatten().collect())
}

pub(super) async fn by_id(doors: Arc<Doors>, call: Call) -> Reply {
    let tenant = view(&doors, &call, Right::Read).await?;
    let number = call.parameter("id").parse::<i64>().map_err(|_| Fault::field("id", "must be an integer"))?;
    let found = all(&doors, &tenant, vec![EntryRef::Number(number)], false).await?;
    match found.first() {
        Some(entry) => answer(StatusCode::OK, &File::from(entry)),
        None => Err(Fault::missing(Vec::new())),
    }
}

// --------------------------------------------------------------------------------------------------------------- lists

/// One page as it is asked for.
struct Page<'a> {
    filter: EntryFilter,
    limit: u32,
    cursor: Option<&'a str>,
    partition: Option<&'a str>,
}

pub(super) async fn list(doors: Arc<Doors>, mut call: Call) -> Reply {
    let tenant = view(&doors, &call, Right::Read).await?;
    let body = body(&doors, &mut call).await?;
    let fields = Fields::new(&body);
    let (cursor, partition) = (fields.text("cursor")?, fields.text("partition")?);
    let page = Page {
        filter: wire::filter_of(&body)?,
        limit: limit(fields.integer("limit")?)?,
        cursor: cursor.as_deref(),
        partition: partition.as_deref(),
    };
    listed(&doors, &tenant, page).await
}

pub(super) async fn list_by_query(doors: Arc<Doors>, call: Call) -> Reply {
    let tenant = view(&doors, &call, Right::Read).await?;
    let query = Query::parse(&call.query);
    let wanted = match query.get("limit") {
        None => None,
        // Too many are cut here, not refused.
        Some(text) => {
            let wanted: i64 = text.parse().map_err(|_| Fault::field("limit", "must be an integer"))?;
            Some(wanted.min(i64::from(LIMIT_MAX)))
        }
    };
    let page = Page {
        filter: wire::filter(&query.filter()?)?,
        limit: limit(wanted)?,
        cursor: query.get("cursor"),
        partition: query.get("partition"),
    };
    listed(&doors, &tenant, page).await
}

fn limit(wanted: Option<i64>) -> Result<u32, Fault> {
    match wanted.map(u32::try_from) {
        None => Ok(LIMIT_DEFAULT),
        Some(Ok(limit @ 1..=LIMIT_MAX)) => Ok(limit),
        Some(_) => Err(Fault::field("limit", format!("must be from 1 to {LIMIT_MAX}"))),
    }
}

async fn listed(doors: &Doors, tenant: &TenantId, page: Page<'_>) -> Reply {
    let part = page.partition.map(partition).transpose()?;
    let bound = Bound::new(tenant, &page.filter, part);
    let after = page.cursor.map_or(Ok(0), |cursor| bound.after(cursor))?;
    let stretch = Stretch { after, part, limit: page.limit };
    let (found, next) = catalogue::list(&doors.engine, tenant, page.filter, stretch).await?;
    let page = Listed { items: &found, next_cursor: next.map(|next| bound.cursor(next)) };
    Ok(call::answer_of(StatusCode::OK, &page, found.len() * FILE_BYTES)?)
}

/// `M/N`: which of how many parts, from 0.
fn partition(text: &str) -> Result<(i64, i64), Fault> {
    let parts = text.split_once('/').and_then(|(part, parts)| Some((part.parse().ok()?, parts.parse().ok()?)));
    match parts {
        Some((part, parts @ 1..=PARTITIONS_MAX)) if (1..=parts).contains(&part) => Ok((part - 1, parts)),
        _ => Err(Fault::field("partition", format!("must be M/N with M from 1 to N, and N at most {PARTITIONS_MAX}"))),
    }
}

/// What a cursor belongs to: it is of no use for another list.
struct Bound([u8; 32]);

impl Bound {
    fn new(tenant: &TenantId, filter: &EntryFilter, part: Option<(i64, i64)>) -> Self {
        let said = json!([tenant, filter, part]).to_string();
        Self(Sha256::digest(said.as_bytes()).into())
    }

    fn mark(&self, after: [u8; 8]) -> [u8; 8] {
        let mut mark = [0; 8];
        mark.copy_from_slice(&Sha256::new().chain_update(self.0).chain_update(after).finalize()[..8]);
        mark
    }

    fn cursor(&self, after: i64) -> String {
        let after = after.to_be_bytes();
        URL_SAFE_NO_PAD.encode([after, self.mark(after)].concat())
    }

    fn after(&self, cursor: &str) -> Result<i64, Fault> {
        let read = || {
            let bytes = URL_SAFE_NO_PAD.decode(cursor).ok()?;
            let (after, mark) = bytes.split_first_chunk::<8>()?;
            (*mark == self.mark(*after)).then(|| i64::from_be_bytes(*after))
        };
        read().ok_or_else(|| Fault::field("cursor", "is not one of this list, with this filter and this partition"))
    }
}

pub(super) async fn search(doors: Arc<Doors>, mut call: Call) -> Reply {
    let tenant = view(&doors, &call, Right::Read).await?;
    let body = body(&doors, &mut call).await?;
    let fields = Fields::new(&body);
    let name = match fields.object("search")? {
        None => None,
        Some(map) => Fields::under(map, "search.").text("name")?,
    };
    if name.as_ref().is_some_and(|name| name.chars().count() > crate::limits::ENTRY_NAME_CHARS) {
        return Err(Fault::field("search.name", "has too many characters"));
    }
    let limit = limit(fields.integer("limit")?)?;
    let filter = wire::filter_of(&body)?;
    let found = match name.as_deref().map(str::trim).filter(|name| !name.is_empty()) {
        Some(name) => catalogue::search(&doors.engine, &tenant, name, filter, limit).await?,
        None => {
            let stretch = Stretch { after: 0, part: None, limit };
            catalogue::list(&doors.engine, &tenant, filter, stretch).await?.0
        }
    };
    items(found.iter().map(File::from))
}

pub(super) async fn aggregate(doors: Arc<Doors>, mut call: Call) -> Reply {
    let tenant = view(&doors, &call, Right::Read).await?;
    let filter = wire::filter_of(&body(&doors, &mut call).await?)?;
    let count = catalogue::count(&doors.engine, &tenant, filter).await?;
    items([json!({ "count": count })])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_of_one_list() {
        let bound = |tenant: &str, uploaded, part| {
            Bound::new(&tenant.into(), &EntryFilter { uploaded, ..EntryFilter::default() }, part)
        };
        let one = bound("t", None, None);
        let cursor = one.cursor(77);
        assert_eq!(one.after(&cursor).unwrap(), 77);
        for other in [bound("u", None, None), bound("t", Some(true), None), bound("t", None, Some((0, 3)))] {
            assert!(other.after(&cursor).is_err());
        }
        for at in 0..cursor.len() {
            let mut forged = cursor.clone().into_bytes();
            forged[at] = if forged[at] == b'A' { b'B' } else { b'A' };
            assert!(one.after(std::str::from_utf8(&forged).unwrap()).is_err(), "character {at}");
        }
        assert!(one.after("").is_err() && one.after("x").is_err());
    }

    #[test]
    fn partitions_are_few() {
        assert_eq!(partition("1/1").unwrap(), (0, 1));
        assert_eq!(partition("3/10").unwrap(), (2, 10));
        for bad in ["", "x", "1/11", "0/3", "4/3", "1", "/", "1/0", "-1/3", "1/3/4"] {
            assert!(partition(bad).is_err(), "{bad}");
        }
    }
}
