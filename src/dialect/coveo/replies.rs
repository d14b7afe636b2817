//! The bodies of successful answers.

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::model::change::Ordering;
use crate::model::ids::{FileId, RequestId, StreamId};
use crate::model::source::Source;

use super::platform::Field;
use super::query::Page;

/// The body of an answer that says nothing: clients parse every success.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Nothing {}

/// The headers that every upload carries. Several clients do not look at them and send this very pair, so that no other
/// is possible.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct RequiredHeaders {
    #[serde(rename = "x-amz-server-side-encryption")]
    encryption: &'static str,
    #[serde(rename = "Content-Type")]
    content_type: &'static str,
}

impl RequiredHeaders {
    /// The pair.
    pub const PAIR: [(&'static str, &'static str); 2] =
        [("x-amz-server-side-encryption", "AES256"), ("Content-Type", "application/octet-stream")];

    const fn new() -> Self {
        let [(_, encryption), (_, content_type)] = Self::PAIR;
        Self { encryption, content_type }
    }
}

/// A file container.
#[derive(Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Container {
    upload_uri: String,
    file_id: FileId,
    required_headers: RequiredHeaders,
}

impl Container {
    /// A container and where its content is to be put.
    #[must_use]
    pub const fn new(upload_uri: String, file_id: FileId) -> Self {
        Self { upload_uri, file_id, required_headers: RequiredHeaders::new() }
    }
}

// The upload URL carries a signature, which has no business in a log.
impl std::fmt::Debug for Container {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Container").field("file_id", &self.file_id).finish_non_exhaustive()
    }
}

/// A stream and its first container.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StreamOpened {
    /// The stream.
    pub stream_id: StreamId,
    /// Its first container.
    #[serde(flatten)]
    pub container: Container,
}

/// A push was accepted.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Accepted {
    /// A string: the number may exceed what a client's numbers hold.
    ordering_id: String,
    request_id: RequestId,
}

impl Accepted {
    /// An accepted push.
    #[must_use]
    pub fn new(ordering: Ordering, request_id: RequestId) -> Self {
        Self { ordering_id: ordering.to_string(), request_id }
    }
}

/// May the caller do what it asked about?
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Privilege {
    /// May it?
    pub approved: bool,
}

/// A source: what its creator said about it, and over that what the server knows.
#[must_use]
pub fn source_model(source: &Source) -> Value {
    let mut model: Map<String, Value> = source.properties.clone();
    for (key, default) in [
        ("sourceType", json!(if source.stream_enabled { "CATALOG" } else { "PUSH" })),
        ("sourceVisibility", json!("SECURED")),
        ("pushEnabled", json!(true)),
    ] {
        model.entry(key).or_insert(default);
    }
    model.insert("id".into(), json!(source.id));
    model.insert("name".into(), json!(source.name));
    model.insert("streamEnabled".into(), json!(source.stream_enabled));
    Value::Object(model)
}

/// A page of sources.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SourcePage {
    source_models: Vec<Value>,
    total_entries: u64,
    total_pages: u64,
}

impl SourcePage {
    /// The sources on `page`, of `total` in all.
    #[must_use]
    pub fn new<'s>(sources: impl IntoIterator<Item = &'s Source>, page: Page, total: u64) -> Self {
        let source_models = sources.into_iter().map(source_model).collect();
        Self { source_models, total_entries: total, total_pages: page.pages_for(total) }
    }
}

/// A page of fields.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FieldPage {
    items: Vec<Field>,
    total_entries: u64,
    total_pages: u64,
}

impl FieldPage {
    /// The fields on `page`, of `total` in all.
    #[must_use]
    pub fn new(items: Vec<Field>, page: Page, total: u64) -> Self {
        Self { items, total_entries: total, total_pages: page.pages_for(total) }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::clock::Timestamp;
    use crate::model::source::Activity;

    fn json(reply: impl Serialize) -> Value {
        serde_json::to_value(reply).expect("a reply is JSON")
    }

    const ID: &str = "00000000-0000-0000-0000-000000000007";

    #[test]
    fn c1_a_container_has_exactly_three_members_and_the_documented_headers() {
        let reply = Container::new("http://h/u?s=1".into(), FileId(Uuid::from_u128(7)));
        let wanted = json!({"uploadUri":"http://h/u?s=1","fileId":ID,
            "requiredHeaders":{"x-amz-server-side-encryption":"AES256","Content-Type":"application/octet-stream"}});
        assert_eq!(json(&reply), wanted);
        assert!(!format!("{reply:?}").contains("s=1"));
        let stream = StreamOpened { stream_id: StreamId(Uuid::from_u128(7)), container: reply };
        let mut wanted = wanted;
        wanted["streamId"] = json!(ID);
        assert_eq!(json(stream), wanted);
    }

    #[test]
    fn c26_an_accepted_push_has_a_textual_ordering_id() {
        let reply = Accepted::new(Ordering(19_457_712_023_373_612_345), RequestId(Uuid::from_u128(7)));
        assert_eq!(json(reply), json!({"orderingId":"19457712023373612345","requestId":ID}));
        assert_eq!(json(Nothing {}), json!({}));
        assert_eq!(json(Privilege { approved: true }), json!({"approved":true}));
    }

    #[test]
    fn c43_sources_and_fields_come_in_pages() {
        let mut source = Source {
            row: 1,
            id: "s".into(),
            tenant: "o".into(),
            name: "n".into(),
            stream_enabled: true,
            properties: Map::new(),
            activity: Activity::Idle,
            created: Timestamp(0),
        };
        source.properties.insert("owner".into(), json!("me"));
        source.properties.insert("id".into(), json!("forged"));
        let model = json!({"id":"s","name":"n","sourceType":"CATALOG","sourceVisibility":"SECURED","pushEnabled":true,
            "streamEnabled":true,"owner":"me"});
        assert_eq!(source_model(&source), model);
        let page = Page { number: 0, size: 2 };
        assert_eq!(
            json(SourcePage::new([&source], page, 3)),
            json!({"sourceModels":[model],"totalEntries":3,"totalPages":2})
        );
        let field = Field { name: "permanentid".into(), kind: "STRING" };
        let wanted = json!({"items":[{"name":"permanentid","type":"STRING"}],"totalEntries":1,"totalPages":1});
        assert_eq!(json(FieldPage::new(vec![field], page, 1)), wanted);
    }
}
