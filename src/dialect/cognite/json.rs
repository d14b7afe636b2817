//! JSON bodies. Unknown fields are ignored, null is the same as absent, and what is wrong is told with its field.

use serde_json::{Map, Value};

use super::envelope::Fault;
use crate::limits;

/// Reads a body that must be an object.
///
/// # Errors
/// 400 for everything else, an empty body included.
pub(super) fn object(bytes: &[u8]) -> Result<Map<String, Value>, Fault> {
    bounded(bytes)?;
    match serde_json::from_slice(bytes) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err(Fault::bad("The request body must be a JSON object")),
        Err(_) if bytes.iter().all(u8::is_ascii_whitespace) => {
            Err(Fault::bad("The request body is empty where a JSON object is required"))
        }
        Err(error) => Err(Fault::bad(format!("The request body is not JSON: {error}"))),
    }
}

/// A short text may hold millions of values, each of which takes memory when it is read.
fn bounded(bytes: &[u8]) -> Result<(), Fault> {
    let (mut depth, mut values) = (0usize, 0usize);
    let (mut in_text, mut escaped) = (false, false);
    for byte in bytes {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            _ if in_text => {}
            b'[' | b'{' => {
                depth += 1;
                values += 1;
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            b',' => values += 1,
            _ => {}
        }
        if depth > limits::JSON_DEPTH || values > limits::JSON_VALUES {
            return Err(Fault::bad("The request body is nested too deeply, or holds too many values"));
        }
    }
    Ok(())
}

/// The fields of an object, and where it stands, for what is said about them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fields<'a> {
    map: &'a Map<String, Value>,
    at: &'a str,
}

impl<'a> Fields<'a> {
    pub(super) const fn new(map: &'a Map<String, Value>) -> Self {
        Self { map, at: "" }
    }

    /// The fields of what stands at `at`, which ends with a dot.
    pub(super) const fn under(map: &'a Map<String, Value>, at: &'a str) -> Self {
        Self { map, at }
    }

    /// A field that is there and not null.
    pub(super) fn get(&self, name: &str) -> Option<&'a Value> {
        self.map.get(name).filter(|value| !value.is_null())
    }

    /// The fault of a field.
    pub(super) fn wrong(&self, name: &str, reason: &str) -> Fault {
        Fault::field(&format!("{}{name}", self.at), reason)
    }

    pub(super) fn text(&self, name: &str) -> Result<Option<String>, Fault> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => Err(self.wrong(name, "must be a string")),
        }
    }

    pub(super) fn required_text(&self, name: &str) -> Result<String, Fault> {
        self.text(name)?.ok_or_else(|| self.wrong(name, "is required"))
    }

    pub(super) fn integer(&self, name: &str) -> Result<Option<i64>, Fault> {
        match self.get(name) {
            None => Ok(None),
            Some(value) => integer(value).map(Some).ok_or_else(|| self.wrong(name, "must be an integer")),
        }
    }

    pub(super) fn flag(&self, name: &str) -> Result<bool, Fault> {
        Ok(self.optional_flag(name)?.unwrap_or(false))
    }

    pub(super) fn optional_flag(&self, name: &str) -> Result<Option<bool>, Fault> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(_) => Err(self.wrong(name, "must be true or false")),
        }
    }

    pub(super) fn object(&self, name: &str) -> Result<Option<&'a Map<String, Value>>, Fault> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(map)),
            Some(_) => Err(self.wrong(name, "must be an object")),
        }
    }

    pub(super) fn list(&self, name: &str) -> Result<Option<&'a Vec<Value>>, Fault> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Array(list)) => Ok(Some(list)),
            Some(_) => Err(self.wrong(name, "must be an array")),
        }
    }

    pub(super) fn integers(&self, name: &str) -> Result<Option<Vec<i64>>, Fault> {
        let Some(list) = self.list(name)? else { return Ok(None) };
        let numbers = list.iter().map(integer).collect::<Option<Vec<i64>>>();
        numbers.map(Some).ok_or_else(|| self.wrong(name, "must be an array of integers"))
    }

    /// A map from text to text.
    pub(super) fn texts(&self, name: &str) -> Result<Option<std::collections::BTreeMap<String, String>>, Fault> {
        let Some(map) = self.object(name)? else { return Ok(None) };
        let pairs = map.iter().map(|(key, value)| match value {
            Value::String(text) => Ok((key.clone(), text.clone())),
            _ => Err(self.wrong(name, "must have strings as its values")),
        });
        pairs.collect::<Result<_, _>>().map(Some)
    }

    /// A list of `{"externalId": …}`.
    pub(super) fn labels(&self, name: &str) -> Result<Option<Vec<String>>, Fault> {
        let Some(list) = self.list(name)? else { return Ok(None) };
        let label = |value: &Value| {
            let id = value.as_object()?.get("externalId")?.as_str()?;
            (1..=limits::ENTRY_EXTERNAL_ID_CHARS).contains(&id.chars().count()).then(|| id.to_owned())
        };
        let labels = list.iter().map(label).collect::<Option<Vec<String>>>();
        labels.map(Some).ok_or_else(|| self.wrong(name, "must be an array of objects with an externalId"))
    }

    /// The items of a call: objects, one to `most` of them.
    pub(super) fn items(&self, most: usize) -> Result<Vec<&'a Map<String, Value>>, Fault> {
        let list = self.list("items")?.ok_or_else(|| self.wrong("items", "is required"))?;
        if !(1..=most).contains(&list.len()) {
            let reason = if most == 1 {
                format!("must have exactly one item, not {}", list.len())
            } else {
                format!("must have 1 to {most} items, not {}", list.len())
            };
            return Err(self.wrong("items", &reason));
        }
        let objects = list.iter().map(Value::as_object).collect::<Option<Vec<_>>>();
        objects.ok_or_else(|| self.wrong("items", "must be an array of objects"))
    }
}

/// An integer, also one that is written as a number with a point and nothing behind it.
fn integer(value: &Value) -> Option<i64> {
    /// Beyond it a float is not the integer that it looks like.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    value.as_i64().or_else(|| {
        let number = value.as_f64().filter(|number| number.fract() == 0.0 && number.abs() < EXACT)?;
        format!("{number:.0}").parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_object_is_a_body() {
        for bad in ["", "  ", "[]", "null", "{", "{} {}", "x", "1"] {
            assert!(object(bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(object(br#"{"a": "[[[[\"["}"#).is_ok());
        assert!(object("[".repeat(100).as_bytes()).is_err());
        let many = format!("{{\"a\": [{}0]}}", "0,".repeat(limits::JSON_VALUES));
        assert!(object(many.as_bytes()).is_err());
    }

    #[test]
    fn integers_may_have_a_point() {
        let read = |text: &str| integer(&serde_json::from_str(text).unwrap());
        assert_eq!((read("12"), read("12.0"), read("-3"), read("1e3")), (Some(12), Some(12), Some(-3), Some(1000)));
        assert_eq!((read("1.5"), read("\"1\""), read("1e300"), read("9223372036854775808")), (None, None, None, None));
    }
}
