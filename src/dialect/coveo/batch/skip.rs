//! Values that nobody wants.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::gauge::Gauge;
use crate::dialect::coveo::json;
use crate::limits;

/// Reads past a value. Nothing of it is kept, but the JSON reader holds each string while it reads it, so that each
/// is limited as a record is.
pub(super) struct Skip<'r> {
    pub(super) gauge: &'r Gauge,
    pub(super) levels: usize,
}

impl Skip<'_> {
    fn deeper<E: Error>(&self) -> Result<usize, E> {
        self.gauge.disarm();
        self.levels.checked_sub(1).ok_or_else(json::too_deep)
    }

    fn done<E>(&self) -> Result<(), E> {
        self.gauge.disarm();
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Skip<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, input: D) -> Result<(), D::Error> {
        self.gauge.arm(limits::BATCH_RECORD_BYTES);
        input.deserialize_any(self)
    }
}

/// Reads past a key, which is limited as a string is.
struct SkipKey<'r>(&'r Gauge);

impl<'de> DeserializeSeed<'de> for SkipKey<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, input: D) -> Result<(), D::Error> {
        self.0.arm(limits::BATCH_RECORD_BYTES);
        <IgnoredAny as serde::Deserialize>::deserialize(input)?;
        self.0.disarm();
        Ok(())
    }
}

impl<'de> Visitor<'de> for Skip<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.done()
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        self.done()
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<(), E> {
        self.done()
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<(), E> {
        self.done()
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        self.done()
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<(), E> {
        self.done()
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        let levels = self.deeper()?;
        while entries.next_element_seed(Skip { gauge: self.gauge, levels })?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        let levels = self.deeper()?;
        while entries.next_key_seed(SkipKey(self.gauge))?.is_some() {
            entries.next_value_seed(Skip { gauge: self.gauge, levels })?;
        }
        Ok(())
    }
}
