//! JSON as this API takes it: keys compared without case, no key twice, bounded depth.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::error::Category;
use serde_json::{Map, Number, Value};

use crate::limits;
use crate::model::refusal::Refusal;

/// A byte order mark, which some editors put before the text.
pub(super) const BOM: &[u8] = b"\xEF\xBB\xBF";

/// Reads one value and refuses what `serde_json::Value` would let pass: a key that occurs twice in an object (the
/// last would win unseen), nesting deeper than the levels left, and more values than are left.
#[derive(Clone, Copy)]
pub(super) struct Strict<'v> {
    levels: usize,
    values: &'v Cell<usize>,
}

/// How many values a body or a record may have.
pub(super) const fn values() -> Cell<usize> {
    Cell::new(limits::JSON_VALUES)
}

impl<'v> Strict<'v> {
    /// One body or record; `values` is counted down.
    pub(super) const fn new(values: &'v Cell<usize>) -> Self {
        Self { levels: limits::JSON_DEPTH, values }
    }

    fn deeper<E: Error>(self) -> Result<Self, E> {
        let levels = self.levels.checked_sub(1).ok_or_else(|| too_deep())?;
        Ok(Self { levels, values: self.values })
    }
}

pub(super) fn too_deep<E: Error>() -> E {
    E::custom(format_args!("nested deeper than {} levels", limits::JSON_DEPTH))
}

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, input: D) -> Result<Value, D::Error> {
        let Some(left) = self.values.get().checked_sub(1) else {
            return Err(D::Error::custom(format_args!("more than {} values", limits::JSON_VALUES)));
        };
        self.values.set(left);
        input.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("a number out of range"))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E: Error>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut list = Vec::new();
        while let Some(value) = seq.next_element_seed(inner)? {
            list.push(value);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut map = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            if map.contains_key(&key) {
                return Err(A::Error::custom(format_args!("the key `{}` occurs twice", shorten(&key))));
            }
            let value = entries.next_value_seed(inner)?;
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}

/// Reads a whole body.
pub(super) fn parse(bytes: &[u8]) -> Result<Value, Refusal> {
    let text = bytes.strip_prefix(BOM).unwrap_or(bytes);
    if text.iter().all(u8::is_ascii_whitespace) {
        return Err(Refusal::malformed("the body is empty where JSON is required"));
    }
    let mut input = serde_json::Deserializer::from_slice(text);
    Strict::new(&values())
        .deserialize(&mut input)
        .and_then(|value| input.end().map(|()| value))
        .map_err(|e| Refusal::malformed(format!("the body {}", describe(&e))))
}

/// Reads a body that is an object.
pub(super) fn parse_object(bytes: &[u8]) -> Result<Object, Refusal> {
    Object::new("", parse(bytes)?)
}

/// What the reader found wrong: completes a sentence that begins with what was read.
pub(super) fn describe(error: &serde_json::Error) -> String {
    match error.classify() {
        Category::Data => format!("can't be taken: {error}"),
        Category::Eof | Category::Syntax | Category::Io => format!("is not JSON: {error}"),
    }
}

/// The beginning of a text that comes from outside, for a message.
pub(super) fn shorten(text: &str) -> String {
    const CHARS: usize = 80;
    match text.char_indices().nth(CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// What a value is, for a message.
const fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// An object whose keys are found without regard to case.
#[derive(Debug)]
pub(super) struct Object {
    at: String,
    /// By key in lower case: the key as sent and its value.
    entries: BTreeMap<String, (String, Value)>,
}

impl Object {
    /// `at` is where the object stands in the body, empty for the body itself.
    pub(super) fn new(at: &str, value: Value) -> Result<Self, Refusal> {
        let Value::Object(map) = value else {
            let kind = kind(&value);
            return Err(Refusal::malformed(if at.is_empty() {
                format!("an object is required, not {kind}")
            } else {
                format!("`{at}` must be an object, not {kind}")
            }));
        };
        let mut entries: BTreeMap<String, (String, Value)> = BTreeMap::new();
        for (key, value) in map {
            let lower = key.to_lowercase();
            if let Some((other, _)) = entries.get(&lower) {
                let place = if at.is_empty() { String::new() } else { format!("`{at}`: ") };
                let (key, other) = (shorten(&key), shorten(other));
                return Err(Refusal::malformed(format!(
                    "{place}the keys `{other}` and `{key}` are the same one: case does not count"
                )));
            }
            entries.insert(lower, (key, value));
        }
        Ok(Self { at: at.to_owned(), entries })
    }

    /// Where a member of this object stands in the body.
    pub(super) fn path(&self, name: &str) -> String {
        if self.at.is_empty() { name.to_owned() } else { format!("{}.{name}", self.at) }
    }

    /// Takes a member; null counts as absent.
    pub(super) fn take(&mut self, name: &str) -> Option<Value> {
        self.take_nullable(name).filter(|v| !v.is_null())
    }

    /// Takes a member; null is a value.
    pub(super) fn take_nullable(&mut self, name: &str) -> Option<Value> {
        self.entries.remove(&name.to_lowercase()).map(|(_, value)| value)
    }

    /// Is the member there, and not null?
    pub(super) fn has(&self, name: &str) -> bool {
        self.entries.get(&name.to_lowercase()).is_some_and(|(_, value)| !value.is_null())
    }

    /// Are no members left?
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn wrong(&self, name: &str, wanted: &str, value: &Value) -> Refusal {
        Refusal::malformed(format!("`{}` must be {wanted}, not {}", self.path(name), kind(value)))
    }

    /// Takes a member that is a string.
    pub(super) fn string(&mut self, name: &str) -> Result<Option<String>, Refusal> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.wrong(name, "a string", &other)),
        }
    }

    /// Takes a member that is a string; an empty one counts as absent.
    pub(super) fn filled_string(&mut self, name: &str) -> Result<Option<String>, Refusal> {
        Ok(self.string(name)?.filter(|text| !text.is_empty()))
    }

    /// Takes a member that must be there and not empty.
    pub(super) fn required_string(&mut self, name: &str) -> Result<String, Refusal> {
        self.filled_string(name)?.ok_or_else(|| Refusal::malformed(format!("`{}` is required", self.path(name))))
    }

    /// Takes a member that is a boolean, or one in quotes.
    pub(super) fn boolean(&mut self, name: &str) -> Result<Option<bool>, Refusal> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(value)),
            Some(Value::String(text)) if text.eq_ignore_ascii_case("true") => Ok(Some(true)),
            Some(Value::String(text)) if text.eq_ignore_ascii_case("false") => Ok(Some(false)),
            Some(other) => Err(self.wrong(name, "true or false", &other)),
        }
    }

    /// Takes a member that is an array; absent is empty.
    pub(super) fn array(&mut self, name: &str) -> Result<Vec<Value>, Refusal> {
        match self.take(name) {
            None => Ok(Vec::new()),
            Some(Value::Array(list)) => Ok(list),
            Some(other) => Err(self.wrong(name, "an array", &other)),
        }
    }

    /// Takes a member that is a dictionary: its keys are data, kept as sent.
    pub(super) fn dictionary(&mut self, name: &str) -> Result<Map<String, Value>, Refusal> {
        match self.take(name) {
            None => Ok(Map::new()),
            Some(Value::Object(map)) => Ok(map),
            Some(other) => Err(self.wrong(name, "an object", &other)),
        }
    }

    /// What was not taken and is not null, under the keys as sent.
    pub(super) fn rest(self) -> Map<String, Value> {
        self.entries.into_values().filter(|(_, value)| !value.is_null()).collect()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn reason(bytes: &[u8]) -> String {
        match parse_object(bytes) {
            Err(Refusal::Malformed { reason }) => reason,
            other => panic!("{:?} gave {other:?}", String::from_utf8_lossy(bytes)),
        }
    }

    #[test]
    fn c17_bodies_that_are_not_an_object_of_json_say_what_and_where() {
        for (body, said) in [
            ("", "the body is empty where JSON is required"),
            (" \r\n", "the body is empty where JSON is required"),
            ("{", "the body is not JSON: EOF while parsing an object at line 1 column 1"),
            ("[]", "an object is required, not an array"),
            ("7", "an object is required, not a number"),
            ("{'a':1}", "the body is not JSON: key must be a string at line 1 column 2"),
            ("{} x", "the body is not JSON: trailing characters at line 1 column 4"),
            (r#"{"a":1,"a":2}"#, "the body can't be taken: the key `a` occurs twice at line 1 column 10"),
            (r#"{"a":{"b":1,"b":2}}"#, "the body can't be taken: the key `b` occurs twice at line 1 column 15"),
            (r#"{"data":1,"Data":2}"#, "the keys `Data` and `data` are the same one: case does not count"),
            ("{\"a\":\"\u{1}\"}", "the body is not JSON: control character"),
            (r#"{"a":1e999}"#, "the body is not JSON: number out of range at line 1 column 10"),
        ] {
            let got = reason(body.as_bytes());
            assert!(got.starts_with(said), "{body}: {got}");
        }
        assert!(reason(b"{\"a\":\"\xFF\"}").contains("invalid unicode"));
    }

    #[test]
    fn a_byte_order_mark_is_passed_over() {
        assert!(parse_object(b"\xEF\xBB\xBF{}").is_ok());
    }

    #[test]
    fn depth_is_bounded_inclusively() {
        let nest = |n: usize| format!("{{\"a\":{}{}}}", "[".repeat(n - 1), "]".repeat(n - 1));
        assert!(parse_object(nest(limits::JSON_DEPTH).as_bytes()).is_ok());
        let said = reason(nest(limits::JSON_DEPTH + 1).as_bytes());
        assert!(said.contains("nested deeper than 32 levels"), "{said}");
        assert!(parse("[".repeat(1_000_000).as_bytes()).is_err());
    }

    #[test]
    fn the_number_of_values_is_bounded_inclusively() {
        let list = |n: usize| format!("[{}0]", "0,".repeat(n - 2));
        assert!(parse(list(limits::JSON_VALUES).as_bytes()).is_ok());
        let Err(Refusal::Malformed { reason }) = parse(list(limits::JSON_VALUES + 1).as_bytes()) else {
            panic!("one value too many");
        };
        assert!(reason.starts_with("the body can't be taken: more than 1000000 values"), "{reason}");
    }

    #[test]
    fn numbers_keep_their_kind() {
        let value = parse(b"[1,-1,18446744073709551615,1.5,19457712023373612345]").expect("numbers");
        assert_eq!(value, json!([1, -1, u64::MAX, 1.5, 19_457_712_023_373_612_345_f64]));
    }

    /// Any JSON value, with the API's own keys among the keys.
    pub(in crate::dialect::coveo) fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            ".{0,12}".prop_map(Value::from),
            prop::sample::select(vec!["ZLIB", "http://a/b", "user", "arrayAppend", "AAAA", ""]).prop_map(Value::from),
        ];
        let key = prop_oneof![
            ".{0,6}",
            prop::sample::select(vec![
                "documentId",
                "DATA",
                "compressedBinaryData",
                "compressedBinaryDataFileId",
                "CompressionType",
                "permissions",
                "permissionSets",
                "allowedPermissions",
                "deniedPermissions",
                "identity",
                "Type",
                "identityType",
                "Name",
                "members",
                "mappings",
                "wellKnowns",
                "deleted",
                "addOrUpdate",
                "delete",
                "partialUpdate",
                "operator",
                "field",
                "value",
                "parentId",
                "additionalInfo",
                "requestedPrivilege",
            ])
            .prop_map(String::from),
        ];
        leaf.prop_recursive(5, 64, 6, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::vec((key.clone(), inner), 0..6).prop_map(|e| Value::Object(e.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_serde_writes_reads_back(value in any_json()) {
            let text = serde_json::to_vec(&value).expect("a value is JSON");
            prop_assert_eq!(parse(&text).expect("it is JSON"), serde_json::from_slice::<Value>(&text).expect("too"));
        }

        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = parse_object(&bytes);
        }
    }
}
