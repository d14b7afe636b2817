//! JSON bodies: what is missing or of the wrong type is told of all fields at once, a bad value of the first.

use serde_json::{Map, Value};

use super::envelope::Fault;

/// Reads a body that must be an object.
///
/// # Errors
/// 422 for everything else, an empty body included.
pub(super) fn object(bytes: &[u8]) -> Result<Map<String, Value>, Fault> {
    match serde_json::from_slice(bytes) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err(Fault::field("body", "must be a JSON object")),
        Err(_) if bytes.iter().all(u8::is_ascii_whitespace) => {
            Err(Fault::field("body", "is empty where a JSON object is required"))
        }
        Err(error) => Err(Fault::field("body", format!("is not JSON: {error}"))),
    }
}

/// Reads the fields of an object. What it finds wrong comes with [`Fields::check`]; until then absent fields are empty.
#[derive(Debug)]
pub(super) struct Fields<'a> {
    map: &'a Map<String, Value>,
    at: String,
    errors: Vec<(String, String)>,
}

impl<'a> Fields<'a> {
    /// The fields of a body.
    pub(super) const fn new(map: &'a Map<String, Value>) -> Self {
        Self { map, at: String::new(), errors: Vec::new() }
    }

    /// The same under a name, as `files[3].`, for the errors.
    pub(super) const fn under(map: &'a Map<String, Value>, at: String) -> Self {
        Self { map, at, errors: Vec::new() }
    }

    fn wrong(&mut self, name: &str, reason: &str) {
        self.errors.push((format!("{}{name}", self.at), reason.to_owned()));
    }

    /// A value as it was sent; null when it was not.
    pub(super) fn sent(&self, name: &str) -> Value {
        self.map.get(name).cloned().unwrap_or_default()
    }

    /// A text; null counts as absent.
    pub(super) fn optional_text(&mut self, name: &str) -> Option<String> {
        match self.map.get(name) {
            None | Some(Value::Null) => None,
            Some(Value::String(text)) => Some(text.clone()),
            Some(_) => {
                self.wrong(name, "must be a string");
                None
            }
        }
    }

    /// A text that must be there.
    pub(super) fn text(&mut self, name: &str) -> String {
        match self.map.get(name) {
            None => {
                self.wrong(name, "is required");
                String::new()
            }
            Some(Value::String(text)) => text.clone(),
            Some(_) => {
                self.wrong(name, "must be a string");
                String::new()
            }
        }
    }

    /// An integer that must be there. One beyond 64 bits is as large as can be.
    pub(super) fn integer(&mut self, name: &str) -> i128 {
        let value = match self.map.get(name) {
            None => {
                self.wrong(name, "is required");
                return 0;
            }
            Some(Value::Number(number)) => number,
            Some(_) => {
                self.wrong(name, "must be an integer");
                return 0;
            }
        };
        match (value.as_i64(), value.as_u64(), value.as_f64()) {
            (Some(value), ..) => value.into(),
            (_, Some(value), _) => value.into(),
            // Integers of more than 64 bits are read as floats; below that a float is one that was written so.
            (_, _, Some(value)) if value >= 1e19 => i128::MAX,
            (_, _, Some(value)) if value <= -9e18 => i128::MIN,
            _ => {
                self.wrong(name, "must be an integer");
                0
            }
        }
    }

    /// An object within; null counts as absent.
    pub(super) fn optional_object(&mut self, name: &str) -> Option<&'a Map<String, Value>> {
        match self.map.get(name) {
            None | Some(Value::Null) => None,
            Some(Value::Object(map)) => Some(map),
            Some(_) => {
                self.wrong(name, "must be an object");
                None
            }
        }
    }

    /// A list that must be there.
    pub(super) fn list(&mut self, name: &str) -> &'a [Value] {
        match self.map.get(name) {
            None => {
                self.wrong(name, "is required");
                &[]
            }
            Some(Value::Array(list)) => list,
            Some(_) => {
                self.wrong(name, "must be an array");
                &[]
            }
        }
    }

    /// Was everything right so far?
    ///
    /// # Errors
    /// 422 with all that was not.
    pub(super) fn check(&self) -> Result<(), Fault> {
        if self.errors.is_empty() { Ok(()) } else { Err(Fault::fields(&self.errors)) }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_missing_field_is_named() {
        let body = json!({ "b": 1, "c": 1.5, "d": null, "e": [] });
        let map = body.as_object().unwrap();
        let mut fields = Fields::new(map);
        assert_eq!(fields.text("a"), "");
        assert_eq!(fields.text("b"), "");
        assert_eq!(fields.integer("b"), 1);
        assert_eq!(fields.integer("c"), 0);
        assert_eq!(fields.integer("d"), 0);
        assert_eq!(fields.optional_text("d"), None);
        assert_eq!(fields.list("e"), &[] as &[Value]);
        let names: Vec<&str> = fields.errors.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["a", "b", "c", "d"]);
        assert_eq!(fields.check().unwrap_err().status().as_u16(), 422);
    }

    #[test]
    fn integers_have_no_upper_end() {
        for (text, wanted) in [
            ("5368709121", Some(5_368_709_121)),
            ("-1", Some(-1)),
            ("18446744073709551615", Some(i128::from(u64::MAX))),
            ("99999999999999999999999", Some(i128::MAX)),
            ("-99999999999999999999999", Some(i128::MIN)),
            ("1.0", None),
            ("1e3", None),
            ("\"10\"", None),
            ("true", None),
        ] {
            let map = object(format!("{{\"n\": {text}}}").as_bytes()).unwrap();
            let mut fields = Fields::new(&map);
            let found = fields.integer("n");
            assert_eq!(fields.check().is_ok().then_some(found), wanted, "{text}");
        }
    }

    #[test]
    fn only_an_object_is_a_body() {
        for bad in ["", "  ", "[]", "null", "{", "{} {}", "x"] {
            assert_eq!(object(bad.as_bytes()).unwrap_err().status().as_u16(), 422, "{bad}");
        }
        assert!(object(b"{}").unwrap().is_empty());
    }
}
