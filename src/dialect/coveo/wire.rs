//! Items, deletions and partial updates as this API writes them.

use serde_json::Value;

use crate::limits;
use crate::model::change::{Change, ContentDraft, ItemDraft, Ordering, Patch, PatchOperator};
use crate::model::ids::FileId;
use crate::model::refusal::Refusal;

use super::json::{self, Object, shorten};
use super::permissions;
use super::query::{Query, QueryDocumentId};

/// How content says it is compressed. A label: what the bytes are is found out from the bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Compression {
    /// Not at all.
    Uncompressed,
    /// zlib; what binary content is taken for when nothing is said.
    Zlib,
    /// gzip.
    Gzip,
    /// LZMA.
    Lzma,
    /// Bare deflate.
    Deflate,
}

impl Compression {
    const ALL: [Self; 5] = [Self::Uncompressed, Self::Zlib, Self::Gzip, Self::Lzma, Self::Deflate];

    /// The name in lower case, as it is stored.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Uncompressed => "uncompressed",
            Self::Zlib => "zlib",
            Self::Gzip => "gzip",
            Self::Lzma => "lzma",
            Self::Deflate => "deflate",
        }
    }

    /// Reads a name in any case.
    pub(super) fn parse(name: &str, text: &str) -> Result<Self, Refusal> {
        Self::ALL.into_iter().find(|c| c.name().eq_ignore_ascii_case(text.trim())).ok_or_else(|| {
            let reason = format!("must be UNCOMPRESSED, ZLIB, GZIP, LZMA or DEFLATE, not `{}`", shorten(text));
            Refusal::invalid(name, reason)
        })
    }
}

/// The query of a call that adds or updates one item.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DocumentQuery {
    /// The item's document id, which the body may correct.
    pub document_id: QueryDocumentId,
    /// The change's ordering id.
    pub ordering: Option<Ordering>,
    /// Declared compression, which the body may correct.
    pub compression: Option<Compression>,
}

impl DocumentQuery {
    /// Reads the query.
    ///
    /// # Errors
    /// `Missing` without a document id, `Invalid` for values that can't be.
    pub fn read(query: &Query<'_>) -> Result<Self, Refusal> {
        Ok(Self {
            document_id: query.document_id()?,
            ordering: query.ordering_id()?,
            compression: query.compression_type()?,
        })
    }
}

/// An item as it was described, before its content was looked for.
#[derive(Clone, PartialEq, Debug)]
pub struct ParsedDocument {
    /// The item. Its content is none when `content_file` names it.
    pub draft: ItemDraft,
    /// The container that holds the content, if one does.
    pub content_file: Option<FileId>,
}

/// One item deleted by its id.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeleteQuery {
    /// Which one.
    pub document_id: String,
    /// Also those whose id begins with this one?
    pub children: bool,
    /// The change's ordering id.
    pub ordering: Option<Ordering>,
}

impl DeleteQuery {
    /// Reads the query.
    ///
    /// # Errors
    /// `Missing` without a document id, `Invalid` for values that can't be.
    pub fn read(query: &Query<'_>) -> Result<Self, Refusal> {
        let document_id = query.document_id()?.value;
        check_length("documentId", &document_id)?;
        Ok(Self { document_id, children: query.delete_children()?, ordering: query.ordering_id()? })
    }
}

/// Reads the body of a call that adds or updates one item.
///
/// # Errors
/// `Malformed` for a body of another shape, `Invalid` for values that can't be.
pub fn parse_document(body: &[u8], query: &DocumentQuery) -> Result<ParsedDocument, Refusal> {
    let mut body = json::parse_object(body)?;
    let document_id = reconcile(&query.document_id, body.filled_string("documentId")?)?;
    document(body, document_id, query.compression)
}

/// Which of the two document ids counts. They differ when a client did not encode the one in the query, or has put
/// something there that is no id at all; then the body has the true one. Any other difference is a doubt.
fn reconcile(query: &QueryDocumentId, body: Option<String>) -> Result<String, Refusal> {
    let Some(body) = body else {
        check_document_id("documentId", &query.value)?;
        return Ok(query.value.clone());
    };
    check_document_id("documentId", &body)?;
    if query.begins(&body) || !is_uri(&query.value) {
        return Ok(body);
    }
    let (query, body) = (shorten(&query.value), shorten(&body));
    Err(Refusal::invalid("documentId", format!("is `{query}` in the query and `{body}` in the body")))
}

/// Is it of the form `scheme://something`? Nothing is asked of the rest but that it has no control characters:
/// document ids with spaces and letters of every script are in use.
fn is_uri(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once("://") else { return false };
    let scheme_ok = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'));
    scheme_ok && !rest.is_empty() && !rest.chars().any(char::is_control)
}

fn check_document_id(name: &str, text: &str) -> Result<(), Refusal> {
    check_length(name, text)?;
    if is_uri(text) {
        return Ok(());
    }
    Err(Refusal::invalid(name, format!("must be a URI of the form `scheme://…`, not `{}`", shorten(text))))
}

fn check_length(name: &str, text: &str) -> Result<(), Refusal> {
    if text.len() <= limits::DOCUMENT_ID_BYTES {
        return Ok(());
    }
    Err(Refusal::invalid(name, format!("is limited to {} bytes", limits::DOCUMENT_ID_BYTES)))
}

/// Reads an item of a batch: its document id is in it.
pub(super) fn batch_document(entry: Value) -> Result<ParsedDocument, Refusal> {
    let mut entry = Object::new("", entry)?;
    let document_id = entry.required_string("documentId")?;
    check_document_id("documentId", &document_id)?;
    document(entry, document_id, None)
}

/// Everything but the document id.
fn document(mut body: Object, document_id: String, declared: Option<Compression>) -> Result<ParsedDocument, Refusal> {
    let contents = ["data", "compressedBinaryData", "compressedBinaryDataFileId"];
    let given: Vec<_> = contents.into_iter().filter(|name| body.has(name)).collect();
    if given.len() > 1 {
        let given = given.join("` and `");
        return Err(Refusal::malformed(format!("`{given}` exclude each other: an item has one content")));
    }
    let text = body.string("data")?;
    let base64 = body.string("compressedBinaryData")?;
    let content_file = body.string("compressedBinaryDataFileId")?;
    let content_file = content_file.map(|id| file_id("compressedBinaryDataFileId", &id)).transpose()?;
    let binary = base64.is_some() || content_file.is_some();
    let content = match (text, base64) {
        (Some(text), _) => ContentDraft::Text(text),
        (None, Some(text)) => ContentDraft::Base64(standard_base64("compressedBinaryData", text)?),
        (None, None) => ContentDraft::None,
    };
    let own = body.filled_string("compressionType")?;
    let own = own.map(|text| Compression::parse("compressionType", &text)).transpose()?;
    let compression = own.or(declared).or(binary.then_some(Compression::Zlib));
    let parent_id = body.filled_string("parentId")?;
    if let Some(parent) = &parent_id {
        check_length("parentId", parent)?;
    }
    let file_extension = body.filled_string("fileExtension")?;
    let permissions = body.take("permissions").map_or(Ok(Value::Null), permissions::normalise)?;
    // The vendor accepts such an item and drops it later; here the push says so.
    let listed = permissions::permission_count(&permissions);
    let refused = (listed > limits::PERMISSIONS_PER_ITEM)
        .then(|| format!("the item lists {listed} permissions, {} are allowed", limits::PERMISSIONS_PER_ITEM));
    // Reserved: the ordering id of a change is that of its call.
    body.take("orderingId");
    let draft = ItemDraft {
        document_id,
        parent_id,
        file_extension,
        permissions,
        metadata: body.rest(),
        compression: compression.map(|c| c.name().to_owned()),
        content,
        refused,
    };
    Ok(ParsedDocument { draft, content_file })
}

/// Reads the id of a container; `name` is what the caller calls it.
pub(super) fn file_id(name: &str, text: &str) -> Result<FileId, Refusal> {
    text.parse()
        .map_err(|_| Refusal::invalid(name, format!("must be the fileId of a file container, not `{}`", shorten(text))))
}

/// Checks that a text is Base64 and makes it the strict form in place: no line breaks, padded.
fn standard_base64(name: &str, mut text: String) -> Result<String, Refusal> {
    let wrong = |what: &str| Refusal::malformed(format!("`{name}` is not standard Base64: {what}"));
    if text.bytes().any(|b| b.is_ascii_whitespace()) {
        text.retain(|c| !c.is_ascii_whitespace());
    }
    let symbols = text.trim_end_matches('=').len();
    let padding = text.len() - symbols;
    let digit = |b: u8| b.is_ascii_alphanumeric() || b == b'+' || b == b'/';
    if let Some(at) = text.bytes().take(symbols).position(|b| !digit(b)) {
        let found = text.get(at..).and_then(|rest| rest.chars().next()).unwrap_or_default();
        return Err(wrong(&format!("{found:?} at position {at}")));
    }
    let needed = match symbols % 4 {
        0 => 0,
        2 => 2,
        3 => 1,
        _ => return Err(wrong("a symbol is missing at its end")),
    };
    if padding != 0 && padding != needed {
        return Err(wrong("its padding does not fit its length"));
    }
    // Of the last symbol only some bits belong to a byte. A strict decoder refuses the others unless they are zero.
    let loose = match (needed, text.as_bytes().get(symbols.wrapping_sub(1)).copied()) {
        (2, Some(last)) => !b"AQgw".contains(&last),
        (1, Some(last)) => !b"AEIMQUYcgkosw048".contains(&last),
        _ => false,
    };
    if loose {
        return Err(wrong("its last symbol has bits that belong to no byte"));
    }
    if padding == 0 {
        text.push_str(&"=="[..needed]);
    }
    Ok(text)
}

/// Reads a deletion in a batch. Any id will do: deleting what does not exist is no fault.
pub(super) fn batch_delete(entry: Value) -> Result<Change, Refusal> {
    let mut entry = Object::new("", entry)?;
    let document_id = entry.required_string("documentId")?;
    check_length("documentId", &document_id)?;
    let children = entry.boolean("deleteChildren")?.unwrap_or(false);
    Ok(Change::Delete { document_id, children })
}

/// Reads a partial update.
pub(super) fn batch_patch(entry: Value) -> Result<Patch, Refusal> {
    let mut entry = Object::new("", entry)?;
    let document_id = entry.required_string("documentId")?;
    check_length("documentId", &document_id)?;
    let operator = operator(&entry.required_string("operator")?)?;
    let field = entry.required_string("field")?;
    let value = entry.take_nullable("value").ok_or_else(|| Refusal::malformed("`value` is required"))?;
    if operator == PatchOperator::DictionaryPut && !value.is_object() {
        return Err(Refusal::malformed("`value` must be an object for dictionaryPut"));
    }
    Ok(Patch { document_id, operator, field, value })
}

/// Reads an operator in any case: one client sends the names of its constants.
fn operator(text: &str) -> Result<PatchOperator, Refusal> {
    let plain: String = text.chars().filter(|c| *c != '_').map(|c| c.to_ascii_lowercase()).collect();
    match plain.as_str() {
        "arrayappend" => Ok(PatchOperator::ArrayAppend),
        "arrayremove" => Ok(PatchOperator::ArrayRemove),
        "fieldvaluereplace" => Ok(PatchOperator::Replace),
        "dictionaryput" => Ok(PatchOperator::DictionaryPut),
        "dictionaryremove" => Ok(PatchOperator::DictionaryRemove),
        _ => {
            let all = "arrayAppend, arrayRemove, fieldValueReplace, dictionaryPut or dictionaryRemove";
            Err(Refusal::invalid("operator", format!("must be {all}, not `{}`", shorten(text))))
        }
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn parse(query: &str, body: &str) -> Result<ParsedDocument, Refusal> {
        let query = DocumentQuery::read(&Query::parse(query))?;
        parse_document(body.as_bytes(), &query)
    }

    /// With a plain document id in the query.
    fn put(body: &str) -> Result<ParsedDocument, Refusal> {
        parse("documentId=http://d", body)
    }

    fn invalid(got: Result<ParsedDocument, Refusal>, wanted: &str) -> String {
        match got {
            Err(Refusal::Invalid { name, reason }) => {
                assert_eq!(name, wanted);
                reason
            }
            other => panic!("{wanted}: {other:?}"),
        }
    }

    fn malformed(got: Result<ParsedDocument, Refusal>) -> String {
        match got {
            Err(Refusal::Malformed { reason }) => reason,
            other => panic!("{other:?}"),
        }
    }

    const FILE: &str = "60e285b1-58ec-5625-c5c4-53cd2434c19f";

    #[test]
    fn c15_keys_are_compared_without_case() {
        let bodies = [
            format!(r#"{{"FileExtension":".html","CompressedBinaryDataFileId":"{FILE}"}}"#),
            format!(r#"{{"fileExtension":".html","compressedBinaryDataFileId":"{FILE}"}}"#),
            format!(r#"{{"fileextension":".html","compressedbinarydatafileid":"{FILE}"}}"#),
        ];
        for body in bodies {
            let got = put(&body).expect("an item");
            assert_eq!(got.content_file, Some(FILE.parse().expect("a uuid")));
            assert_eq!(got.draft.file_extension.as_deref(), Some(".html"));
            assert_eq!(got.draft.compression.as_deref(), Some("zlib"));
            assert_eq!(got.draft.content, ContentDraft::None);
            assert!(got.draft.metadata.is_empty());
        }
        let literal = put("{\n    'FileExtension':'.html',\n}");
        assert!(malformed(literal).starts_with("the body is not JSON"));
    }

    #[test]
    fn c16_the_document_id_is_required_in_the_query() {
        assert_eq!(parse("", r#"{"documentId":"http://d"}"#), Err(Refusal::Missing { name: "documentId".into() }));
    }

    #[test]
    fn c17_two_contents_are_invalid_json() {
        for body in [
            r#"{"data":"a","compressedBinaryData":"YQ=="}"#.to_owned(),
            format!(r#"{{"DATA":"a","compressedBinaryDataFileId":"{FILE}"}}"#),
            format!(r#"{{"compressedBinaryData":"YQ==","compressedBinaryDataFileId":"{FILE}"}}"#),
        ] {
            assert!(malformed(put(&body)).contains("exclude each other"), "{body}");
        }
        assert!(malformed(put(r#"{"data":"a","Data":"b"}"#)).contains("case does not count"));
        assert!(malformed(put(r#"{"data":"a","data":"a"}"#)).contains("occurs twice"));
        assert!(put(r#"{"data":"a","compressedBinaryData":null}"#).is_ok());
    }

    #[test]
    fn s7_1_an_item_without_content_is_taken() {
        for body in ["{}", r#"{"title":"t"}"#, r#"{"data":null}"#] {
            let got = put(body).expect("an item");
            assert_eq!((got.draft.content, got.content_file, got.draft.compression), (ContentDraft::None, None, None));
        }
    }

    #[test]
    fn s7_1_members_of_the_wrong_type_say_which() {
        for (body, said) in [
            (r#"{"data":7}"#, "`data` must be a string, not a number"),
            (r#"{"compressedBinaryData":[]}"#, "`compressedBinaryData` must be a string, not an array"),
            (r#"{"FileExtension":true}"#, "`fileExtension` must be a string, not a boolean"),
            (r#"{"parentId":{}}"#, "`parentId` must be a string, not an object"),
            (r#"{"documentId":1}"#, "`documentId` must be a string, not a number"),
            (r#"{"compressionType":1}"#, "`compressionType` must be a string, not a number"),
        ] {
            assert_eq!(malformed(put(body)), said);
        }
    }

    #[test]
    fn c20_compression_types_are_read_in_any_case_and_the_body_wins() {
        let cases = [
            ("", r#"{"data":"x"}"#, None),
            ("", r#"{"compressedBinaryData":"YQ=="}"#, Some("zlib")),
            ("&compressionType=", r#"{"compressedBinaryData":"YQ=="}"#, Some("zlib")),
            ("&compressionType=ZLib", r#"{"compressedBinaryData":"YQ=="}"#, Some("zlib")),
            ("&compressionType=Uncompressed", r#"{"data":"x"}"#, Some("uncompressed")),
            ("&compressionType=GZIP", r#"{"compressedBinaryData":"YQ==","compressionType":""}"#, Some("gzip")),
            ("&compressionType=GZIP", r#"{"compressedBinaryData":"YQ==","CompressionType":"LzMa"}"#, Some("lzma")),
            ("", r#"{"data":"x","compressionType":"DEFLATE"}"#, Some("deflate")),
        ];
        for (query, body, wanted) in cases {
            let got = parse(&format!("documentId=http://d{query}"), body).expect("an item");
            assert_eq!(got.draft.compression.as_deref(), wanted, "{query} {body}");
        }
        invalid(parse("documentId=http://d&compressionType=brotli", "{}"), "compressionType");
        assert!(invalid(put(r#"{"compressionType":"brotli"}"#), "compressionType").ends_with("not `brotli`"));
    }

    #[test]
    fn c21_binary_data_is_standard_base64_padded_or_not() {
        for (text, stored) in [
            ("", ""),
            ("YQ==", "YQ=="),
            ("YQ", "YQ=="),
            ("YWI", "YWI="),
            ("YWJj", "YWJj"),
            ("Y\\r\\n W\\tJj\\n", "YWJj"),
            ("+/+/", "+/+/"),
        ] {
            let got = put(&format!(r#"{{"compressedBinaryData":"{text}"}}"#)).expect(text);
            assert_eq!(got.draft.content, ContentDraft::Base64(stored.into()));
            assert!(STANDARD.decode(stored).is_ok());
        }
        for bad in ["Y", "YQ=", "YQ===", "=", "====", "YWJj=", "Y-_a", "YQ==YQ==", "hello!", "é", "YR", "YWK"] {
            let said = malformed(put(&format!(r#"{{"compressedBinaryData":"{bad}"}}"#)));
            assert!(said.starts_with("`compressedBinaryData` is not standard Base64: "), "{bad}: {said}");
        }
    }

    #[test]
    fn c22_a_file_extension_needs_no_dot() {
        let got = put(r#"{"fileExtension":"html","parentId":"http://p"}"#).expect("an item");
        assert_eq!(got.draft.file_extension.as_deref(), Some("html"));
        assert_eq!(got.draft.parent_id.as_deref(), Some("http://p"));
        let got = put(r#"{"fileExtension":"","parentId":""}"#).expect("an item");
        assert_eq!((got.draft.file_extension, got.draft.parent_id), (None, None));
    }

    #[test]
    fn c24_the_document_id_of_the_body_makes_that_of_the_query_whole() {
        let full = "https://my.doc/a?b=c&d=e";
        for (query, body, stored) in [
            ("http://d", "http://d", "http://d"),
            ("https://my.doc/a?b=c&d=e&compressionType=UNCOMPRESSED", full, full),
            ("https://my.doc/a", "https://my.doc/a#part", "https://my.doc/a#part"),
            ("https://my.doc/a%20b", "https://my.doc/a%20b", "https://my.doc/a%20b"),
            ("https://my.doc/a+b", "https://my.doc/a+b", "https://my.doc/a+b"),
            ("not+a+url", "file:///not%20a%20url", "file:///not%20a%20url"),
        ] {
            let got = parse(&format!("documentId={query}"), &json!({ "DocumentId": body }).to_string());
            assert_eq!(got.expect(query).draft.document_id, stored);
        }
        let said = invalid(parse("documentId=http://a", r#"{"documentId":"http://b"}"#), "documentId");
        assert_eq!(said, "is `http://a` in the query and `http://b` in the body");
        invalid(parse("documentId=http://abc", r#"{"documentId":"http://ab"}"#), "documentId");
        invalid(parse("documentId=http://a", r#"{"documentId":"a"}"#), "documentId");
        invalid(parse("documentId=not+a+url", r#"{"documentId":"nor this"}"#), "documentId");
        invalid(parse("documentId=not+a+url", "{}"), "documentId");
    }

    #[test]
    fn s7_1_document_ids_are_uris_of_bounded_length() {
        for good in ["http://mydocument", "file:///x", "a+b-c.1://é ü", "s3://b/k"] {
            assert!(is_uri(good), "{good}");
        }
        for bad in ["", "x", "://x", "http://", "http:/x", "urn:x:y", "1a://x", "a b://x", "http://a\nb"] {
            assert!(!is_uri(bad), "{bad}");
        }
        let long = format!("http://{}", "x".repeat(limits::DOCUMENT_ID_BYTES - 7));
        assert!(parse(&format!("documentId={long}"), "{}").is_ok());
        assert_eq!(invalid(parse(&format!("documentId={long}x"), "{}"), "documentId"), "is limited to 4096 bytes");
        invalid(put(&json!({"parentId": format!("{long}x")}).to_string()), "parentId");
    }

    #[test]
    fn c27_a_file_id_that_can_t_be_one_is_an_invalid_parameter() {
        invalid(
            put(r#"{"compressedBinaryDataFileId":"e2e4b52d-c47-4254-a812-4e9d32db0725"}"#),
            "compressedBinaryDataFileId",
        );
        invalid(put(r#"{"compressedBinaryDataFileId":""}"#), "compressedBinaryDataFileId");
    }

    #[test]
    fn s7_1_every_other_key_is_metadata_as_sent() {
        let got = put(
            r#"{"OrderingId":9,"Title":"t","permanentId":"p","n":1.5,"b":false,"l":["a",1],"o":{"K":1,"k":2},"gone":null,
               "data":"x","uri":"http://d"}"#,
        )
        .expect("an item");
        let wanted =
            json!({"Title":"t","permanentId":"p","n":1.5,"b":false,"l":["a",1],"o":{"K":1,"k":2},"uri":"http://d"});
        assert_eq!(Value::Object(got.draft.metadata), wanted);
        assert!(malformed(put(r#"{"title":"a","Title":"b"}"#)).contains("the same one"));
        assert_eq!(got.draft.content, ContentDraft::Text("x".into()));
    }

    #[test]
    fn c28_deleting_reads_its_query() {
        let read = |raw: &str| DeleteQuery::read(&Query::parse(raw));
        let wanted = DeleteQuery { document_id: "x".into(), children: true, ordering: Some(Ordering(5)) };
        assert_eq!(read("documentId=x&deleteChildren=True&orderingId=5"), Ok(wanted));
        assert_eq!(read("deleteChildren=true"), Err(Refusal::Missing { name: "documentId".into() }));
        assert!(matches!(read(&format!("documentId={}", "x".repeat(4097))), Err(Refusal::Invalid { .. })));
    }

    #[test]
    fn c39_operators_are_read_in_any_case() {
        for (text, wanted) in [
            ("fieldValueReplace", PatchOperator::Replace),
            ("FIELDVALUEREPLACE", PatchOperator::Replace),
            ("ARRAYAPPEND", PatchOperator::ArrayAppend),
            ("ARRAY_REMOVE", PatchOperator::ArrayRemove),
            ("dictionaryPut", PatchOperator::DictionaryPut),
            ("dictionaryremove", PatchOperator::DictionaryRemove),
        ] {
            let entry = json!({"DocumentId":"http://d","Operator":text,"Field":"f","value":{"a":null}});
            let got = batch_patch(entry).expect(text);
            assert_eq!((got.operator, got.field.as_str(), got.value), (wanted, "f", json!({"a":null})));
        }
        let with = |key: &str, value: Value| {
            let mut entry = json!({"documentId":"d","operator":"dictionaryPut","field":"f","value":{}});
            entry[key] = value;
            batch_patch(entry)
        };
        assert!(matches!(with("operator", json!("add")), Err(Refusal::Invalid { name, .. }) if name == "operator"));
        for (key, value) in
            [("field", json!("")), ("documentId", json!(null)), ("value", json!([])), ("operator", json!(1))]
        {
            assert!(matches!(with(key, value), Err(Refusal::Malformed { .. })), "{key}");
        }
        let cleared = json!({"documentId":"d","operator":"fieldValueReplace","field":"f","value":null});
        assert_eq!(batch_patch(cleared).expect("a patch").value, Value::Null);
        assert!(batch_patch(json!({"documentId":"d","operator":"arrayAppend","field":"f"})).is_err());
    }

    proptest! {
        #[test]
        fn random_json_never_panics(value in crate::dialect::coveo::json::tests::any_json(), query in "[ -~]{0,30}") {
            let body = value.to_string();
            let _ = put(&body);
            let _ = parse(&format!("documentId={query}"), &body);
            let _ = (batch_document(value.clone()), batch_delete(value.clone()), batch_patch(value));
        }

        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let query = DocumentQuery::read(&Query::parse("documentId=http://d")).expect("a query");
            let _ = parse_document(&bytes, &query);
        }

        #[test]
        fn base64_is_taken_exactly_when_the_decoder_takes_it(bytes in prop::collection::vec(any::<u8>(), 0..20), noise in "[A-Za-z=+/]{0,6}") {
            let padded = STANDARD.encode(&bytes);
            prop_assert_eq!(standard_base64("x", STANDARD_NO_PAD.encode(&bytes)), Ok(padded.clone()));
            prop_assert_eq!(standard_base64("x", padded.clone()), Ok(padded));
            if let Ok(stored) = standard_base64("x", noise.clone()) {
                prop_assert!(STANDARD.decode(&stored).is_ok(), "{} {}", noise, stored);
            } else {
                prop_assert!(STANDARD.decode(&noise).is_err() && STANDARD_NO_PAD.decode(&noise).is_err(), "{}", noise);
            }
        }
    }
}
