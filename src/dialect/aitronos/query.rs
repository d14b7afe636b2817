//! Query strings. Unknown parameters are ignored, as the vendor's fields are.

use std::ops::RangeInclusive;

use serde_json::Value;

use super::envelope::Fault;

/// The parameters of a call.
#[derive(Debug)]
pub(super) struct Query {
    pairs: Vec<(String, String)>,
}

impl Query {
    pub(super) fn parse(raw: &str) -> Self {
        Self { pairs: form_urlencoded::parse(raw.as_bytes()).into_owned().collect() }
    }

    /// A parameter, the first of its name.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.pairs.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// An integer.
    ///
    /// # Errors
    /// 422 for what is none, 400 for one out of range.
    pub(super) fn integer(&self, name: &str, default: u64, range: RangeInclusive<u64>) -> Result<u64, Fault> {
        let Some(text) = self.get(name) else { return Ok(default) };
        let digits = text.strip_prefix('-').unwrap_or(text);
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Err(Fault::field(name, "must be an integer"));
        }
        let found = text.parse::<u64>().ok().filter(|value| range.contains(value));
        found.ok_or_else(|| {
            let sent = text.parse::<i64>().map_or_else(|_| Value::from(text), Value::from);
            let reason = if *range.end() == u64::MAX {
                format!("must be at least {}", range.start())
            } else {
                format!("must be from {} to {}", range.start(), range.end())
            };
            Fault::value(name, &sent, &reason)
        })
    }

    /// A page of a numbered list: its number from 1, and how many items it has.
    ///
    /// # Errors
    /// As [`Self::integer`].
    pub(super) fn page(&self, limit: u64) -> Result<(u64, u64), Fault> {
        Ok((self.integer("page", 1, 1..=u64::MAX)?, self.integer("limit", limit, 1..=100)?))
    }

    /// A stretch of a list: how many items to leave out, and how many to give.
    ///
    /// # Errors
    /// As [`Self::integer`].
    pub(super) fn stretch(&self, limit: u64) -> Result<(u64, u64), Fault> {
        Ok((self.integer("skip", 0, 0..=u64::MAX)?, self.integer("limit", limit, 1..=100)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_told_from_their_ranges() {
        let query = |raw| Query::parse(raw).page(50).map_err(|fault| fault.status().as_u16());
        assert_eq!(query(""), Ok((1, 50)));
        assert_eq!(query("page=3&limit=100&other=x"), Ok((3, 100)));
        for (raw, status) in
            [("page=0", 400), ("limit=0", 400), ("limit=101", 400), ("page=-1", 400), ("page=x", 422), ("page=", 422)]
        {
            assert_eq!(query(raw), Err(status), "{raw}");
        }
        assert_eq!(query("page=99999999999999999999"), Err(400));
        assert_eq!(Query::parse("skip=-1").stretch(20).unwrap_err().status().as_u16(), 400);
        assert_eq!(Query::parse("skip=7").stretch(20).unwrap(), (7, 20));
    }
}
