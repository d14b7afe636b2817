//! JSON shapes.

use serde_json::{Value, json};

use super::query;
use crate::clock::Timestamp;
use crate::engine::RefusalRecord;
use crate::meta::{KeyInfo, Usage};
use crate::model::file::{Declared, Digests};
use crate::model::refusal::Refusal;
use crate::model::source::{Content, Item, Push, Source};
use crate::source::browse::Page;
use crate::tenant::NewKey;

/// A list and where it goes on.
pub(super) fn list(items: Vec<Value>, next: Option<i64>) -> Value {
    json!({"items": items, "next_cursor": next.map(query::cursor)})
}

pub(super) fn page<T>(page: &Page<T>, shape: impl Fn(&T) -> Value) -> Value {
    list(page.items.iter().map(shape).collect(), page.next)
}

pub(super) fn source(source: &Source) -> Value {
    json!({
        "id": source.id,
        "name": source.name,
        "stream_enabled": source.stream_enabled,
        "activity": source.activity.name(),
        "created_at": source.created.rfc3339(),
    })
}

pub(super) fn item(item: &Item) -> Value {
    let size = match &item.content {
        Content::None => None,
        Content::Inline(bytes) => u64::try_from(bytes.len()).ok(),
        Content::Stored { size, .. } => Some(*size),
    };
    json!({
        "document_id": item.document_id,
        "source": item.source,
        "state": item.state.name(),
        "problem": item.problem,
        "metadata": item.metadata,
        "parent_id": item.parent_id,
        "file_extension": item.file_extension,
        "content_size": size,
        "ordering_id": item.ordering.to_string(),
        "created_at": item.created.rfc3339(),
        "changed_at": item.changed.rfc3339(),
    })
}

/// An item with everything that is known about it.
pub(super) fn whole_item(one: &Item, text: Option<&crate::search::Document>) -> Value {
    let mut whole = item(one);
    if let Some(map) = whole.as_object_mut() {
        map.insert("permissions".into(), one.permissions.clone());
        map.insert("compression".into(), json!(one.compression));
        map.insert(
            "text".into(),
            text.map_or(
                Value::Null,
                |t| json!({"kind": t.kind, "title": t.title, "size": t.text.len(), "truncated": t.truncated}),
            ),
        );
    }
    whole
}

pub(super) fn push(push: &Push) -> Value {
    let counts = &push.counts;
    json!({
        "request_id": push.request,
        "source": push.target,
        "kind": push.kind.name(),
        "ordering_id": push.ordering.to_string(),
        "state": push.state.name(),
        "counts": {
            "records": counts.records, "added": counts.added, "updated": counts.updated, "deleted": counts.deleted,
            "older": counts.older, "failed": counts.failed, "pending": counts.pending,
        },
        "problem": push.problem,
        "accepted_at": push.accepted.rfc3339(),
        "finished_at": push.finished.map(Timestamp::rfc3339),
    })
}

/// A push with its first failures.
pub(super) fn whole_push(one: &Push) -> Value {
    let mut whole = push(one);
    let failures = one.failures.iter().map(|(id, reason)| json!({"document_id": id, "reason": reason}));
    if let Some(map) = whole.as_object_mut() {
        map.insert("failures".into(), failures.collect());
    }
    whole
}

pub(super) fn usage(usage: &Usage) -> Value {
    let sources = usage.sources.iter().map(|(id, items, bytes)| json!({"id": id, "items": items, "bytes": bytes}));
    json!({
        "bytes": usage.bytes,
        "files": usage.files,
        "reserved": usage.reserved,
        "open_sessions": usage.open_sessions,
        "quota": {"bytes": usage.quota.bytes, "open_sessions": usage.quota.sessions},
        "sources": sources.collect::<Vec<_>>(),
    })
}

/// The digests that are known of some bytes.
pub(super) fn digests(digests: &Digests) -> Value {
    declared(&Declared {
        crc32c: Some(digests.crc32c),
        crc64nvme: Some(digests.crc64nvme),
        md5: digests.md5,
        sha256: digests.sha256,
    })
}

/// The digests that were declared for some bytes.
pub(super) fn declared(digests: &Declared) -> Value {
    let all = [
        ("crc32c", digests.crc32c.map(|crc| format!("{crc:08x}"))),
        ("crc64nvme", digests.crc64nvme.map(|crc| format!("{crc:016x}"))),
        ("md5", digests.md5.map(hex::encode)),
        ("sha256", digests.sha256.map(hex::encode)),
    ];
    all.into_iter().filter_map(|(name, digest)| Some((name.to_owned(), Value::String(digest?)))).collect()
}

pub(super) fn refusal(request_id: &str, record: &RefusalRecord) -> Value {
    json!({
        "request_id": request_id,
        "rule": record.rule,
        "detail": record.detail,
        "request": record.request,
        "status": record.status,
        "at": record.at.rfc3339(),
    })
}

pub(super) fn key(info: &KeyInfo, secret: Option<&str>) -> Value {
    let mut shown = json!({
        "id": info.id,
        "name": info.name,
        "rights": info.rights.names(),
        "created_at": info.created.rfc3339(),
        "expires_at": info.expires.map(Timestamp::rfc3339),
        "revoked_at": info.revoked.map(Timestamp::rfc3339),
    });
    if let (Some(secret), Some(map)) = (secret, shown.as_object_mut()) {
        map.insert("key".into(), secret.into());
    }
    shown
}

/// Reads a key to make: `name`, `rights`, `expires_at`. Unknown fields are refused by name.
pub(super) fn new_key(body: &[u8], once: Option<String>, now: Timestamp) -> Result<NewKey, Refusal> {
    use crate::model::access::Rights;
    let value: Value = serde_json::from_slice(if body.is_empty() { b"{}" } else { body })
        .map_err(|error| Refusal::malformed(format!("the body is not JSON: {error}")))?;
    let Value::Object(fields) = value else { return Err(Refusal::malformed("the body must be a JSON object")) };
    let mut new = NewKey {
        name: String::new(),
        rights: Rights::default(),
        expires: None,
        once: once.map(|mark| (mark, body.to_vec())),
    };
    let mut rights_given = false;
    for (name, value) in fields {
        match (name.as_str(), value) {
            ("name", Value::String(text)) if text.chars().count() <= 255 => new.name = text,
            ("name", _) => return Err(Refusal::invalid("name", "must be a text of at most 255 characters")),
            ("rights", Value::Array(names)) => {
                let names: Option<Vec<&str>> = names.iter().map(Value::as_str).collect();
                let names = names.ok_or_else(|| Refusal::invalid("rights", "must be a list of names"))?;
                new.rights = Rights::parse(&names.join(","))
                    .map_err(|unknown| Refusal::invalid("rights", format!("has no right `{unknown}`")))?;
                rights_given = true;
            }
            ("rights", _) => return Err(Refusal::invalid("rights", "must be a list of names")),
            ("expires_at", Value::String(text)) => {
                let time: jiff::Timestamp = text
                    .parse()
                    .map_err(|_| Refusal::invalid("expires_at", format!("must be an RFC 3339 time, not `{text}`")))?;
                let time = Timestamp(time.as_millisecond());
                if time <= now {
                    return Err(Refusal::invalid("expires_at", "is in the past"));
                }
                new.expires = Some(time);
            }
            ("expires_at", Value::Null) => {}
            ("expires_at", _) => return Err(Refusal::invalid("expires_at", "must be an RFC 3339 time")),
            (unknown, _) => {
                let reason = "is not a field of this call, which has: name, rights, expires_at";
                return Err(Refusal::invalid(unknown, reason));
            }
        }
    }
    // A right that nobody asked for is a right too many.
    if !rights_given {
        return Err(Refusal::Missing { name: "rights".into() });
    }
    Ok(new)
}
