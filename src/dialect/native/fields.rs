//! JSON bodies: every field is known, or refused by name, and given once.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;

use crate::model::file::Declared;
use crate::model::refusal::Refusal;

const METADATA_ENTRIES: usize = 64;
const METADATA_BYTES: usize = 4096;
const PATH_CHARS: usize = 1024;
const QUOTED_CHARS: usize = 64;

/// The fields of a call's body. Null is as good as absent.
pub(super) struct Fields {
    pairs: Vec<(String, Value)>,
    /// What stands before a field's name where the object is itself a field.
    prefix: &'static str,
}

/// An object as it was written, repetitions included.
struct Pairs(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Pairs;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        input.deserialize_map(Collect)
    }
}

impl Fields {
    /// Reads a body of which only the fields in `known` may occur, each once. No body is an empty object.
    pub(super) fn read(body: &[u8], known: &[&str]) -> Result<Self, Refusal> {
        let Pairs(pairs) = serde_json::from_slice(if body.is_empty() { b"{}" } else { body }).map_err(|error| {
            if error.is_data() {
                Refusal::malformed("the body must be a JSON object")
            } else {
                Refusal::malformed(format!("the body is not JSON: {error}"))
            }
        })?;
        Self::check(pairs, known, "")
    }

    fn check(pairs: Vec<(String, Value)>, known: &[&str], prefix: &'static str) -> Result<Self, Refusal> {
        for (at, (name, _)) in pairs.iter().enumerate() {
            let shown = || format!("{prefix}{}", name.chars().take(QUOTED_CHARS).collect::<String>());
            if !known.contains(&name.as_str()) {
                let list = known.join(", ");
                return Err(Refusal::invalid(shown(), format!("is not a field of this call, which has: {list}")));
            }
            if pairs[..at].iter().any(|(before, _)| before == name) {
                return Err(Refusal::invalid(shown(), "is given twice"));
            }
        }
        Ok(Self { pairs, prefix })
    }

    pub(super) fn wrong(&self, name: &str, reason: impl Into<String>) -> Refusal {
        Refusal::invalid(format!("{}{name}", self.prefix), reason)
    }

    fn get(&self, name: &str) -> Option<&Value> {
        self.pairs.iter().find(|(n, _)| n == name).map(|(_, value)| value).filter(|value| !value.is_null())
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    pub(super) fn text(&self, name: &str) -> Result<Option<&str>, Refusal> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.wrong(name, "must be a text")),
        }
    }

    pub(super) fn number(&self, name: &str) -> Result<Option<u64>, Refusal> {
        match self.get(name) {
            None => Ok(None),
            Some(value) => match value.as_u64().filter(|n| i64::try_from(*n).is_ok()) {
                Some(number) => Ok(Some(number)),
                None => Err(self.wrong(name, "must be a whole number, 0 or more")),
            },
        }
    }

    /// A list of whole numbers.
    pub(super) fn numbers(&self, name: &str) -> Result<Option<Vec<u64>>, Refusal> {
        let wrong = || self.wrong(name, "must be a list of whole numbers");
        match self.get(name) {
            None => Ok(None),
            Some(Value::Array(list)) => {
                list.iter().map(|value| value.as_u64().ok_or_else(wrong)).collect::<Result<_, _>>().map(Some)
            }
            Some(_) => Err(wrong()),
        }
    }

    /// A number of seconds within bounds.
    pub(super) fn seconds(&self, name: &str, least: u64, most: u64) -> Result<Option<u64>, Refusal> {
        match self.number(name)? {
            Some(seconds) if !(least..=most).contains(&seconds) => {
                Err(self.wrong(name, format!("must be from {least} to {most} seconds, not {seconds}")))
            }
            found => Ok(found),
        }
    }

    /// A field that is an object of known fields itself.
    pub(super) fn object(
        &self,
        name: &'static str,
        prefix: &'static str,
        known: &[&str],
    ) -> Result<Option<Self>, Refusal> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Object(map)) => {
                let pairs = map.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
                Self::check(pairs, known, prefix).map(Some)
            }
            Some(_) => Err(self.wrong(name, "must be an object")),
        }
    }

    /// A file's name.
    pub(super) fn name(&self, name: &'static str) -> Result<Option<String>, Refusal> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        let long = text.is_empty() || text.chars().count() > 255;
        if long || text.chars().any(|c| c.is_control() || c == '/' || c == '\\') {
            return Err(self.wrong(name, "must have 1 to 255 characters, no control characters, `/` or `\\`"));
        }
        Ok(Some(text.to_owned()))
    }

    /// A folder within the tenant.
    pub(super) fn path(&self, name: &'static str) -> Result<Option<String>, Refusal> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        let bad = |part: &str| matches!(part, "" | "." | "..") || part.chars().any(|c| c.is_control() || c == '\\');
        if text.chars().count() > PATH_CHARS || text.split('/').any(bad) {
            let reason = "must be names with `/` between them, without `.`, `..`, empty ones, `\\` or control characters, \
                          1,024 characters at most";
            return Err(self.wrong(name, reason));
        }
        Ok(Some(text.to_owned()))
    }

    /// A media type.
    pub(super) fn mime_type(&self, name: &'static str) -> Result<Option<String>, Refusal> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        let shown = text.len() <= 255 && text.bytes().all(|b| b.is_ascii_graphic() || b == b' ');
        let essence = text.split(';').next().unwrap_or_default().trim();
        let two = essence.split_once('/').is_some_and(|(a, b)| !a.is_empty() && !b.is_empty() && !b.contains('/'));
        if !shown || !two || essence.contains(' ') {
            return Err(self.wrong(name, "must be a media type such as `video/mp4`, 255 characters at most"));
        }
        Ok(Some(text.to_owned()))
    }

    /// Digests by their algorithms' names.
    pub(super) fn digests(&self) -> Result<Declared, Refusal> {
        let known = ["crc32c", "crc64nvme", "md5", "sha256"];
        let Some(digests) = self.object("digests", "digests.", &known)? else { return Ok(Declared::default()) };
        Ok(Declared {
            crc32c: digests.hex("crc32c")?.map(u32::from_be_bytes),
            crc64nvme: digests.hex("crc64nvme")?.map(u64::from_be_bytes),
            md5: digests.hex("md5")?,
            sha256: digests.hex("sha256")?,
        })
    }

    fn hex<const N: usize>(&self, name: &str) -> Result<Option<[u8; N]>, Refusal> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        digest(text)
            .map(Some)
            .ok_or_else(|| self.wrong(name, format!("must be {} lower-case hexadecimal digits", N * 2)))
    }

    /// Texts by names of the client's own.
    pub(super) fn metadata(&self) -> Result<Option<BTreeMap<String, String>>, Refusal> {
        let map = match self.get("metadata") {
            None => return Ok(None),
            Some(Value::Object(map)) => map,
            Some(_) => return Err(self.wrong("metadata", "must be an object of texts")),
        };
        let mut metadata = BTreeMap::new();
        for (name, value) in map {
            let Value::String(text) = value else {
                return Err(self.wrong("metadata", "must be an object of texts"));
            };
            metadata.insert(name.clone(), text.clone());
        }
        let bytes: usize = metadata.iter().map(|(name, value)| name.len() + value.len()).sum();
        if metadata.len() > METADATA_ENTRIES || bytes > METADATA_BYTES {
            let reason = format!(
                "may have {METADATA_ENTRIES} entries and {METADATA_BYTES} bytes in all, not {} and {bytes}",
                metadata.len()
            );
            return Err(self.wrong("metadata", reason));
        }
        Ok(Some(metadata))
    }
}

/// A digest as lower-case hexadecimal digits.
pub(super) fn digest<const N: usize>(text: &str) -> Option<[u8; N]> {
    let lower = text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    lower.then(|| hex::decode(text).ok()?.try_into().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(outcome: Result<(), Refusal>) -> Option<String> {
        match outcome {
            Ok(()) => None,
            Err(Refusal::Invalid { name, .. }) => Some(name),
            Err(other) => panic!("{other:?}"),
        }
    }

    const KNOWN: [&str; 6] = ["name", "path", "mime_type", "digests", "metadata", "n"];

    fn all(body: &str) -> Result<(), Refusal> {
        let fields = Fields::read(body.as_bytes(), &KNOWN)?;
        fields.name("name")?;
        fields.path("path")?;
        fields.mime_type("mime_type")?;
        fields.digests()?;
        fields.metadata()?;
        fields.seconds("n", 60, 100).map(drop)
    }

    #[test]
    fn fields_are_known_given_once_and_within_bounds() {
        let much: String = (0..65).map(|n| format!("\"k{n}\":\"\",")).collect();
        let long = "x".repeat(256);
        for (body, wrong) in [
            ("{}".into(), None),
            (String::new(), None),
            (r#"{"name":null,"path":null,"n":null}"#.into(), None),
            (r#"{"naem":"a"}"#.into(), Some("naem")),
            (r#"{"name":"a","name":"b"}"#.into(), Some("name")),
            (r#"{"name":""}"#.into(), Some("name")),
            (r#"{"name":1}"#.into(), Some("name")),
            (r#"{"name":"a/b"}"#.into(), Some("name")),
            (r#"{"name":"a\\b"}"#.into(), Some("name")),
            (r#"{"name":"a\u0000b"}"#.into(), Some("name")),
            (format!(r#"{{"name":"{long}"}}"#), Some("name")),
            (format!(r#"{{"name":"{}"}}"#, "\u{e9}".repeat(255)), None),
            (r#"{"path":"a/b c/\u00e9"}"#.into(), None),
            (r#"{"path":"/a"}"#.into(), Some("path")),
            (r#"{"path":"a/"}"#.into(), Some("path")),
            (r#"{"path":"a//b"}"#.into(), Some("path")),
            (r#"{"path":"a/../b"}"#.into(), Some("path")),
            (r#"{"path":"."}"#.into(), Some("path")),
            (r#"{"path":""}"#.into(), Some("path")),
            (r#"{"mime_type":"text/plain; charset=utf-8"}"#.into(), None),
            (r#"{"mime_type":"text"}"#.into(), Some("mime_type")),
            (r#"{"mime_type":"text/pl\nain"}"#.into(), Some("mime_type")),
            (r#"{"mime_type":"/"}"#.into(), Some("mime_type")),
            (r#"{"digests":{"crc32c":"00000000"}}"#.into(), None),
            (r#"{"digests":{"crc32c":"0000000"}}"#.into(), Some("digests.crc32c")),
            (r#"{"digests":{"crc32c":"0000000A"}}"#.into(), Some("digests.crc32c")),
            (r#"{"digests":{"sha1":"00"}}"#.into(), Some("digests.sha1")),
            (r#"{"digests":"x"}"#.into(), Some("digests")),
            (r#"{"metadata":{"a":"b"}}"#.into(), None),
            (r#"{"metadata":{"a":1}}"#.into(), Some("metadata")),
            (r#"{"metadata":["a"]}"#.into(), Some("metadata")),
            (format!(r#"{{"metadata":{{{}"k":""}}}}"#, much), Some("metadata")),
            (format!(r#"{{"metadata":{{"k":"{}"}}}}"#, "x".repeat(4096)), Some("metadata")),
            (format!(r#"{{"metadata":{{"k":"{}"}}}}"#, "x".repeat(4095)), None),
            (r#"{"n":60}"#.into(), None),
            (r#"{"n":59}"#.into(), Some("n")),
            (r#"{"n":101}"#.into(), Some("n")),
            (r#"{"n":-1}"#.into(), Some("n")),
            (r#"{"n":60.5}"#.into(), Some("n")),
            (r#"{"n":"60"}"#.into(), Some("n")),
        ] {
            let body: String = body;
            assert_eq!(field(all(&body)).as_deref(), wrong, "{body}");
        }
        for malformed in ["[]", "1", "{", "{} x", "\"a\""] {
            assert!(
                matches!(Fields::read(malformed.as_bytes(), &KNOWN), Err(Refusal::Malformed { .. })),
                "{malformed}"
            );
        }
    }
}
