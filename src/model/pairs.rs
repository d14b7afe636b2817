//! Keys with a text each.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use serde::de::{DeserializeSeed, Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Keys with a text each, in the order of the keys, none twice. A map that is read far more often than it is changed: a page
/// of a list has a thousand of them, so one takes two pieces of memory however many pairs it has.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Pairs {
    /// All of them, one behind the other.
    text: String,
    /// Where each key and each value ends.
    ends: Vec<usize>,
}

impl Pairs {
    /// Is there none?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len() / 2
    }

    /// How many bytes keys and values have together.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.text.len()
    }

    /// Keys and values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut begin = 0;
        self.ends.chunks_exact(2).map(move |ends| {
            let (key, value) = (begin..ends[0], ends[0]..ends[1]);
            begin = ends[1];
            (self.at(key), self.at(value))
        })
    }

    fn at(&self, range: Range<usize>) -> &str {
        // The ends lie between texts.
        self.text.get(range).unwrap_or_default()
    }

    /// The value of a key.
    #[must_use]
    pub fn get(&self, wanted: &str) -> Option<&str> {
        self.iter().find(|(key, _)| *key == wanted).map(|(_, value)| value)
    }

    /// The same as a map, to change it.
    #[must_use]
    pub fn to_map(&self) -> BTreeMap<String, String> {
        self.iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
    }

    fn are_in_order(&self) -> bool {
        self.iter().map(|(key, _)| key).is_sorted_by(|one, next| one < next)
    }
}

impl fmt::Debug for Pairs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl From<&BTreeMap<String, String>> for Pairs {
    fn from(map: &BTreeMap<String, String>) -> Self {
        let mut pairs = Self::default();
        for text in map.iter().flat_map(|(key, value)| [key, value]) {
            pairs.text.push_str(text);
            pairs.ends.push(pairs.text.len());
        }
        pairs
    }
}

impl From<BTreeMap<String, String>> for Pairs {
    fn from(map: BTreeMap<String, String>) -> Self {
        Self::from(&map)
    }
}

impl Serialize for Pairs {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Reading)
    }
}

struct Reading;

impl<'de> Visitor<'de> for Reading {
    type Value = Pairs;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("texts by their keys")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs, A::Error> {
        let mut pairs = Pairs::default();
        while map.next_key_seed(Behind(&mut pairs))?.is_some() {
            map.next_value_seed(Behind(&mut pairs))?;
        }
        // What we wrote is in order.
        Ok(if pairs.are_in_order() { pairs } else { pairs.to_map().into() })
    }
}

/// Puts a text behind those that are there, without one of its own in between.
struct Behind<'p>(&'p mut Pairs);

impl<'de> DeserializeSeed<'de> for Behind<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Behind<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        self.0.text.push_str(text);
        self.0.ends.push(self.0.text.len());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(&str, &str)]) -> Pairs {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect::<BTreeMap<_, _>>().into()
    }

    #[test]
    fn pairs_are_what_the_map_was() {
        let pairs = of(&[("b", ""), ("", "empty"), ("ä", "\"1\"\n")]);
        assert_eq!(pairs.iter().collect::<Vec<_>>(), [("", "empty"), ("b", ""), ("ä", "\"1\"\n")]);
        assert_eq!((pairs.len(), pairs.bytes(), pairs.is_empty()), (3, 12, false));
        assert_eq!((pairs.get("b"), pairs.get("ä"), pairs.get("c")), (Some(""), Some("\"1\"\n"), None));
        assert_eq!(Pairs::from(pairs.to_map()), pairs);
        // The same texts, divided otherwise.
        assert_ne!(of(&[("ab", "c")]), of(&[("a", "bc")]));
    }

    #[test]
    fn json_is_an_object_in_both_directions() {
        let pairs = of(&[("a", "1"), ("b\"", "ü\\")]);
        let json = serde_json::to_string(&pairs).unwrap();
        assert_eq!(json, r#"{"a":"1","b\"":"ü\\"}"#);
        assert_eq!(serde_json::from_str::<Pairs>(&json).unwrap(), pairs);
        assert_eq!(serde_json::from_str::<Pairs>("{}").unwrap(), Pairs::default());
        // Whatever the order, and the last of equal keys.
        assert_eq!(
            serde_json::from_str::<Pairs>(r#"{"b":"2","a":"1","b":"3"}"#).unwrap(),
            of(&[("a", "1"), ("b", "3")])
        );
        for wrong in ["[]", r#"{"a":1}"#, r#"{"a":null}"#, "null", r#"{"a":"1""#] {
            assert!(serde_json::from_str::<Pairs>(wrong).is_err(), "{wrong}");
        }
    }
}
