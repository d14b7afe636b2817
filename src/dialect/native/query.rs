//! Query strings: every parameter is known, or refused by name.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::clock::Timestamp;
use crate::model::refusal::Refusal;

const LIMIT_DEFAULT: u32 = 100;
const LIMIT_MAX: u32 = 1000;

/// The parameters of a call.
pub(super) struct Query {
    pairs: Vec<(String, String)>,
}

impl Query {
    /// Reads a query string of which only the parameters in `known` may occur, each once. A name in `known` that ends
    /// with a dot stands for all that begin with it, as often as they like.
    pub(super) fn parse(raw: &str, known: &[&str]) -> Result<Self, Refusal> {
        let mut pairs: Vec<(String, String)> = Vec::new();
        for (name, value) in form_urlencoded::parse(raw.as_bytes()) {
            let family = known.iter().any(|k| k.ends_with('.') && name.starts_with(k) && name.len() > k.len());
            if !family && (name.ends_with('.') || !known.contains(&name.as_ref())) {
                let list = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                return Err(Refusal::invalid(name, format!("is not a parameter of this call, which has: {list}")));
            }
            if !family && pairs.iter().any(|(n, _)| *n == name) {
                return Err(Refusal::invalid(name, "is given twice"));
            }
            pairs.push((name.into_owned(), value.into_owned()));
        }
        Ok(Self { pairs })
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.pairs.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    pub(super) fn require(&self, name: &str) -> Result<&str, Refusal> {
        self.get(name).ok_or_else(|| Refusal::Missing { name: name.to_owned() })
    }

    /// Every parameter of a family: name without the family's prefix, and value.
    pub(super) fn family(&self, prefix: &str) -> Vec<(String, String)> {
        let of = |(name, value): &(String, String)| Some((name.strip_prefix(prefix)?.to_owned(), value.clone()));
        self.pairs.iter().filter_map(of).collect()
    }

    pub(super) fn flag(&self, name: &str) -> Result<bool, Refusal> {
        match self.get(name) {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(other) => Err(Refusal::invalid(name, format!("must be true or false, not `{other}`"))),
        }
    }

    pub(super) fn time(&self, name: &str) -> Result<Option<Timestamp>, Refusal> {
        let Some(text) = self.get(name) else { return Ok(None) };
        match Timestamp::parse(text) {
            Some(time) => Ok(Some(time)),
            None => Err(Refusal::invalid(name, format!("must be an RFC 3339 time, not `{text}`"))),
        }
    }

    /// A word of the model by its name.
    pub(super) fn word<T>(
        &self,
        name: &str,
        read: impl Fn(&str) -> Option<T>,
        words: &str,
    ) -> Result<Option<T>, Refusal> {
        let Some(text) = self.get(name) else { return Ok(None) };
        read(text).map(Some).ok_or_else(|| Refusal::invalid(name, format!("must be one of {words}, not `{text}`")))
    }

    pub(super) fn limit(&self) -> Result<u32, Refusal> {
        let Some(text) = self.get("limit") else { return Ok(LIMIT_DEFAULT) };
        match text.parse() {
            Ok(limit @ 1..=LIMIT_MAX) => Ok(limit),
            _ => Err(Refusal::invalid("limit", format!("must be a number from 1 to {LIMIT_MAX}, not `{text}`"))),
        }
    }

    /// A whole number.
    pub(super) fn number(&self, name: &str) -> Result<Option<u64>, Refusal> {
        let Some(text) = self.get(name) else { return Ok(None) };
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let number = digits.then(|| text.parse::<i64>().ok()?.try_into().ok()).flatten();
        number.map(Some).ok_or_else(|| Refusal::invalid(name, format!("must be a whole number, not `{text}`")))
    }

    /// Where a page begins, of a list that is not ordered by rows.
    pub(super) fn cursor_of<const N: usize, T>(
        &self,
        read: impl FnOnce([u8; N]) -> Option<T>,
    ) -> Result<Option<T>, Refusal> {
        let Some(text) = self.get("cursor") else { return Ok(None) };
        let bytes = URL_SAFE_NO_PAD.decode(text).ok().and_then(|bytes| <[u8; N]>::try_from(bytes).ok());
        let position = bytes.and_then(read);
        position.map(Some).ok_or_else(|| Refusal::invalid("cursor", "must be a `next_cursor` of this list"))
    }

    pub(super) fn cursor(&self) -> Result<Option<i64>, Refusal> {
        let Some(text) = self.get("cursor") else { return Ok(None) };
        let bytes = URL_SAFE_NO_PAD.decode(text).ok().and_then(|bytes| <[u8; 8]>::try_from(bytes).ok());
        let row = bytes.map(i64::from_be_bytes).filter(|row| *row > 0);
        row.map(Some).ok_or_else(|| Refusal::invalid("cursor", "must be a `next_cursor` of this list"))
    }
}

/// A position in a list as an opaque cursor.
pub(super) fn cursor_to(position: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(position)
}

/// A row as an opaque cursor.
pub(super) fn cursor(row: i64) -> String {
    URL_SAFE_NO_PAD.encode(row.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_and_repeated_parameters_are_refused_by_name() {
        let known = ["limit", "cursor", "field."];
        let query = Query::parse("limit=7&field.a=1&field.a=2&field.b=%2B+x", &known).unwrap();
        assert_eq!(query.limit(), Ok(7));
        let fields = [("a", "1"), ("a", "2"), ("b", "+ x")].map(|(n, v)| (n.to_owned(), v.to_owned()));
        assert_eq!(query.family("field."), fields);
        for (raw, name) in [("limti=7", "limti"), ("limit=1&limit=2", "limit"), ("field.=1", "field.")] {
            assert!(matches!(Query::parse(raw, &known), Err(Refusal::Invalid { name: n, .. }) if n == name), "{raw}");
        }
        for bad in ["limit=0", "limit=1001", "limit=x", "limit=-1"] {
            assert!(Query::parse(bad, &known).unwrap().limit().is_err(), "{bad}");
        }
        let query = Query::parse(&format!("cursor={}", cursor(77)), &known).unwrap();
        assert_eq!(query.cursor(), Ok(Some(77)));
        for bad in ["cursor=", "cursor=xyz", "cursor=AAAAAAAAAAA"] {
            assert!(Query::parse(bad, &known).unwrap().cursor().is_err(), "{bad}");
        }
    }
}
