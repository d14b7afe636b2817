//! Query strings. Values that are truths are written in any case, as clients do.

use serde_json::{Map, Value};

use super::envelope::Fault;

/// The parameters of a call.
#[derive(Debug)]
pub(super) struct Query {
    pairs: Vec<(String, String)>,
}

/// Filters of a list that are texts.
const TEXTS: [&str; 6] = ["name", "mimeType", "source", "externalIdPrefix", "directoryPrefix", "cursor"];
/// Filters that are lists of numbers, in brackets, with commas or given again.
const NUMBERS: [&str; 3] = ["assetIds", "rootAssetIds", "assetSubtreeIds"];
/// Filters that are JSON.
const JSON: [&str; 5] = ["assetExternalIds", "dataSetIds", "labels", "metadata", "geoLocation"];
/// Spans of time: as JSON, or as `name.min` and `name[min]`.
const SPANS: [&str; 5] = ["createdTime", "lastUpdatedTime", "uploadedTime", "sourceCreatedTime", "sourceModifiedTime"];

impl Query {
    pub(super) fn parse(raw: &str) -> Self {
        Self { pairs: form_urlencoded::parse(raw.as_bytes()).into_owned().collect() }
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.pairs.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    pub(super) fn flag(&self, name: &str) -> Result<bool, Fault> {
        self.get(name).map_or(Ok(false), |text| flag(name, text))
    }

    /// The filter of a list, as its call with a body takes it. `limit`, `cursor` and `partition` are left to the caller.
    pub(super) fn filter(&self) -> Result<Map<String, Value>, Fault> {
        let mut filter = Map::new();
        for (name, text) in &self.pairs {
            let name = name.as_str();
            if ["limit", "cursor", "partition"].contains(&name) {
                continue;
            }
            if TEXTS.contains(&name) {
                filter.insert(name.to_owned(), text.as_str().into());
            } else if NUMBERS.contains(&name) {
                let list = filter.entry(name).or_insert_with(|| Value::Array(Vec::new()));
                if let Value::Array(list) = list {
                    list.extend(numbers(name, text)?);
                }
            } else if name == "uploaded" {
                filter.insert(name.to_owned(), flag(name, text)?.into());
            } else if JSON.contains(&name) || SPANS.contains(&name) {
                let value = serde_json::from_str(text).map_err(|_| Fault::field(name, "must be JSON"))?;
                filter.insert(name.to_owned(), value);
            } else if let Some((span, end)) = span(name) {
                let number = text.parse::<i64>().map_err(|_| Fault::field(name, "must be an integer"))?;
                let ends = filter.entry(span).or_insert_with(|| Value::Object(Map::new()));
                if let Value::Object(ends) = ends {
                    ends.insert(end.to_owned(), number.into());
                }
            } else {
                return Err(Fault::field(name, "is not a parameter of this call"));
            }
        }
        Ok(filter)
    }
}

fn flag(name: &str, text: &str) -> Result<bool, Fault> {
    match text {
        _ if text.eq_ignore_ascii_case("true") => Ok(true),
        _ if text.eq_ignore_ascii_case("false") => Ok(false),
        _ => Err(Fault::field(name, "must be true or false")),
    }
}

fn numbers(name: &str, text: &str) -> Result<Vec<Value>, Fault> {
    let inner = text.trim().trim_start_matches('[').trim_end_matches(']');
    let numbers = inner.split(',').map(|number| number.trim().parse::<i64>().map(Value::from));
    numbers.collect::<Result<_, _>>().map_err(|_| Fault::field(name, "must be a list of integers"))
}

fn span(name: &str) -> Option<(&str, &'static str)> {
    for (suffixes, end) in [([".min", "[min]"], "min"), ([".max", "[max]"], "max")] {
        for suffix in suffixes {
            if let Some(span) = name.strip_suffix(suffix).filter(|span| SPANS.contains(span)) {
                return Some((span, end));
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_filter_is_read_in_every_spelling() {
        let query = Query::parse(
            "limit=5&name=a%20b&assetIds=%5B1,2%5D&assetIds=3&uploaded=True&createdTime=%7B%22min%22%3A1%7D\
             &uploadedTime.max=7&uploadedTime%5Bmin%5D=2",
        );
        let expected = json!({ "name": "a b", "assetIds": [1, 2, 3], "uploaded": true, "createdTime": { "min": 1 },
            "uploadedTime": { "max": 7, "min": 2 } });
        assert_eq!(Value::Object(query.filter().unwrap()), expected);
        for bad in ["x=1", "uploaded=1", "assetIds=a", "createdTime=x", "createdTime.min=x", "createdTime.mid=1"] {
            assert!(Query::parse(bad).filter().is_err(), "{bad}");
        }
        let flag = |raw: &str| Query::parse(raw).flag("overwrite").ok();
        assert_eq!((flag(""), flag("overwrite=True"), flag("overwrite=FALSE")), (Some(false), Some(true), Some(false)));
        assert_eq!(flag("overwrite=1"), None);
    }
}
