//! JSON shapes.

use std::collections::HashSet;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::{Value, json};

use super::query;
use crate::clock::Timestamp;
use crate::engine::RefusalRecord;
use crate::meta::{KeyInfo, Usage};
use crate::model::access::{Right, Rights};
use crate::model::file::{Declared, Digests};
use crate::model::ids::{NAME_CHARS, is_name};
use crate::model::refusal::Refusal;
use crate::model::source::{Content, Item, Push, Source};
use crate::model::store::{Store, StoreFile};
use crate::source::browse::Page;
use crate::store::browse::Hit;
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
    let stores = usage
        .stores
        .iter()
        .map(|store| json!({"id": store.id.public(), "name": store.name, "files": store.files, "bytes": store.bytes}));
    json!({
        "bytes": usage.bytes,
        "files": usage.files,
        "reserved": usage.reserved,
        "open_sessions": usage.open_sessions,
        "quota": {"bytes": usage.quota.bytes, "open_sessions": usage.quota.sessions},
        "sources": sources.collect::<Vec<_>>(),
        "stores": stores.collect::<Vec<_>>(),
    })
}

pub(super) fn store(store: &Store) -> Value {
    json!({
        "id": store.id.public(),
        "name": store.name,
        "description": store.description,
        "active": store.active,
        "files": store.files,
        "bytes": store.bytes,
        "created_at": store.created.rfc3339(),
        "changed_at": store.changed.rfc3339(),
    })
}

pub(super) fn store_file(file: &StoreFile) -> Value {
    json!({
        "file_id": file.file.public(),
        "store": file.store.public(),
        "name": file.name,
        "path": file.path,
        "size": file.size,
        "mime_type": file.mime_type,
        "state": file.state.name(),
        "step": file.step.name(),
        "progress_percent": file.step.percent(),
        "chunks": file.chunks,
        "problem": file.problem,
        "registered_at": file.created.rfc3339(),
        "started_at": file.started.map(Timestamp::rfc3339),
        "completed_at": file.completed().map(Timestamp::rfc3339),
    })
}

/// A chunk that was found, with the file that it is of.
pub(super) fn hit(hit: &Hit) -> Value {
    json!({
        "text": hit.found.chunk.text,
        "score": hit.found.score,
        "position": {
            "chunk": hit.found.position,
            "start": hit.found.chunk.start,
            "end": hit.found.chunk.end,
        },
        "file": {
            "file_id": hit.file.file.public(),
            "name": hit.file.name,
            "path": hit.file.path,
            "mime_type": hit.file.mime_type,
        },
    })
}

/// The digests that are known of some bytes.
pub(super) fn digests(digests: &Digests) -> Value {
    declared(&Declared {
        crc32c: digests.crc32c,
        crc64nvme: digests.crc64nvme,
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

/// The fields of a JSON object, each given once: of two, one would be passed over in silence.
///
/// # Errors
/// [`Refusal::Malformed`] for what is no JSON object, [`Refusal::Invalid`] for a field that is given twice.
pub(super) fn fields(body: &[u8]) -> Result<Vec<(String, Value)>, Refusal> {
    let Fields(fields) = serde_json::from_slice(body).map_err(|error| {
        if error.is_data() {
            Refusal::malformed("the body must be a JSON object")
        } else {
            Refusal::malformed(format!("the body is not JSON: {error}"))
        }
    })?;
    let mut seen = HashSet::new();
    match fields.iter().find(|(name, _)| !seen.insert(name.as_str())) {
        Some((twice, _)) => Err(Refusal::invalid(shortened(twice), "is given twice")),
        None => Ok(fields),
    }
}

struct Fields(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Fields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Fields(fields))
            }
        }
        input.deserialize_map(Collect)
    }
}

/// A name that a stranger chose, for a sentence.
fn shortened(name: &str) -> String {
    name.chars().take(64).collect()
}

/// Reads a key to make: `name`, `rights`, `expires_at`. Unknown fields are refused by name.
pub(super) fn new_key(body: &[u8], once: Option<String>, now: Timestamp) -> Result<NewKey, Refusal> {
    let fields = fields(if body.is_empty() { b"{}" } else { body })?;
    let mut new = NewKey {
        name: String::new(),
        rights: Rights::default(),
        expires: None,
        once: once.map(|mark| (mark, body.to_vec())),
    };
    let mut rights_given = false;
    for (name, value) in fields {
        match (name.as_str(), value) {
            ("name", Value::String(text)) if is_name(&text) => new.name = text,
            ("name", _) => {
                let reason =
                    format!("must be a text of at most {NAME_CHARS} characters, none of them a control character");
                return Err(Refusal::invalid("name", reason));
            }
            ("rights", Value::Array(names)) => {
                new.rights = rights(&names)?;
                rights_given = true;
            }
            ("rights", _) => return Err(Refusal::invalid("rights", "must be a list of names")),
            ("expires_at", Value::String(text)) => {
                let wrong = || format!("must be an RFC 3339 time, not `{}`", shortened(&text));
                let time = Timestamp::parse(&text).ok_or_else(|| Refusal::invalid("expires_at", wrong()))?;
                if time <= now {
                    return Err(Refusal::invalid("expires_at", "is in the past"));
                }
                new.expires = Some(time);
            }
            ("expires_at", Value::Null) => {}
            ("expires_at", _) => return Err(Refusal::invalid("expires_at", "must be an RFC 3339 time")),
            (unknown, _) => {
                let reason = "is not a field of this call, which has: name, rights, expires_at";
                return Err(Refusal::invalid(shortened(unknown), reason));
            }
        }
    }
    // A right that nobody asked for is a right too many.
    if !rights_given {
        return Err(Refusal::Missing { name: "rights".into() });
    }
    Ok(new)
}

/// A list of rights by their names, `all` among them; a key without any would be good for nothing.
fn rights(names: &[Value]) -> Result<Rights, Refusal> {
    let wrong = |reason: String| Refusal::invalid("rights", reason);
    if names.is_empty() {
        return Err(wrong(String::from("must name at least one right")));
    }
    let mut rights = Vec::new();
    for name in names {
        match name.as_str() {
            None => return Err(wrong(String::from("must be a list of names"))),
            Some("all") => rights.extend(Right::ALL),
            Some(name) => match Right::from_name(name) {
                Some(right) => rights.push(right),
                None => return Err(wrong(format!("has no right `{}`", shortened(name)))),
            },
        }
    }
    Ok(rights.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(body: &str) -> Option<String> {
        match new_key(body.as_bytes(), None, Timestamp(1_000_000)) {
            Ok(_) => None,
            Err(Refusal::Invalid { name, .. } | Refusal::Missing { name }) => Some(name),
            Err(other) => panic!("{body}: {other:?}"),
        }
    }

    #[test]
    fn a_keys_fields_are_taken_once_and_within_bounds() {
        let long = "x".repeat(256);
        for (body, wrong) in [
            (r#"{"name":"a","name":"a","rights":["read"]}"#.into(), Some("name")),
            (r#"{"rights":["read"],"name":"a","rights":["all"]}"#.into(), Some("rights")),
            (r#"{"rights":["read"],"expires_at":null,"expires_at":null}"#.into(), Some("expires_at")),
            (r#"{"rights":["read"],"other":1,"other":1}"#.into(), Some("other")),
            (r#"{"rights":[]}"#.into(), Some("rights")),
            (r#"{"rights":[""]}"#.into(), Some("rights")),
            (r#"{"rights":["read,keys"]}"#.into(), Some("rights")),
            (r#"{"rights":["read",1]}"#.into(), Some("rights")),
            (r#"{"rights":["read"],"name":"a\u0000b"}"#.into(), Some("name")),
            (r#"{"rights":["read"],"name":"a\nb"}"#.into(), Some("name")),
            (format!(r#"{{"rights":["read"],"name":"{long}"}}"#), Some("name")),
            (format!(r#"{{"rights":["read"],"name":"{}"}}"#, "é".repeat(255)), None),
            (r#"{"rights":["read"],"expires_at":"1969-01-01T00:00:00Z"}"#.into(), Some("expires_at")),
            (r#"{"rights":["read"],"expires_at":"9999-12-31T23:59:59Z"}"#.into(), None),
            (r#"{"rights":["read","keys","read"]}"#.into(), None),
        ] {
            let body: String = body;
            assert_eq!(field(&body).as_deref(), wrong, "{body}");
        }
        assert_eq!(field("{}").as_deref(), Some("rights"));
        for malformed in ["[]", "1", "{", "{} x", "\"a\""] {
            assert!(matches!(fields(malformed.as_bytes()), Err(Refusal::Malformed { .. })), "{malformed}");
        }
        let all = new_key(br#"{"rights":["all"]}"#, None, Timestamp(0)).expect("a key");
        assert_eq!(all.rights, Rights::all());
    }
}
