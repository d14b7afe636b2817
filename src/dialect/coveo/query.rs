//! Query strings as the clients send them, which is not always as one should.

use std::borrow::Cow;
use std::time::Duration;

use percent_encoding::percent_decode_str;

use crate::model::change::Ordering;
use crate::model::ids::{FileId, StreamId};
use crate::model::refusal::Refusal;
use crate::model::source::Activity;

use super::json::shorten;
use super::wire::{self, Compression};

/// Every parameter that some call of this API knows; where one of these stands, an unencoded document id ends.
const KNOWN: [&str; 12] = [
    "documentId",
    "orderingId",
    "operationId",
    "compressionType",
    "deleteChildren",
    "fileId",
    "queueDelay",
    "statusType",
    "shard",
    "page",
    "perPage",
    "filter",
];
const DEFAULT_QUEUE_DELAY_MINUTES: u32 = 15;
const DEFAULT_PER_PAGE: u32 = 100;
const MAX_PER_PAGE: u32 = 1000;

/// The parameters of a request. Unknown ones are ignored and empty ones count as absent.
#[derive(Debug)]
pub struct Query<'a> {
    /// In the order sent: the name, decoded; the value, raw; and both as they stand in the query string.
    pairs: Vec<Pair<'a>>,
}

#[derive(Debug)]
struct Pair<'a> {
    name: Cow<'a, str>,
    value: &'a str,
    whole: &'a str,
}

/// The document id of a query string in each form that its sender may have meant.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct QueryDocumentId {
    /// What it most likely is.
    pub value: String,
    /// Other readings, against which a body's document id is compared.
    others: Vec<String>,
}

impl QueryDocumentId {
    /// Can a client that means `full` have sent this? Some send ids unencoded, so that everything from the id's own
    /// `&` or `#` on is lost and its `+` and `%` are decoded once too often.
    #[must_use]
    pub fn begins(&self, full: &str) -> bool {
        full.starts_with(&self.value) || self.others.iter().any(|other| full.starts_with(other))
    }
}

/// Which page of a list is wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Page {
    /// Counted from 0.
    pub number: u32,
    /// Entries on a page, at least 1.
    pub size: u32,
}

impl Page {
    /// How many entries come before the page.
    #[must_use]
    pub fn offset(self) -> u64 {
        u64::from(self.number) * u64::from(self.size)
    }

    /// How many pages `entries` fill.
    #[must_use]
    pub fn pages_for(self, entries: u64) -> u64 {
        entries.div_ceil(u64::from(self.size.max(1)))
    }
}

impl<'a> Query<'a> {
    /// Splits a raw query string, without its `?`.
    #[must_use]
    pub fn parse(raw: &'a str) -> Self {
        let pairs = raw
            .split('&')
            .filter(|whole| !whole.is_empty())
            .map(|whole| {
                let (name, value) = whole.split_once('=').unwrap_or((whole, ""));
                Pair { name: percent_decode_str(name).decode_utf8_lossy(), value, whole }
            })
            .collect();
        Self { pairs }
    }

    /// Where the parameter stands: the name as documented goes before one that differs in case.
    fn find(&self, name: &str) -> Option<usize> {
        let filled = |p: &Pair<'_>| !p.value.is_empty();
        self.pairs
            .iter()
            .position(|p| filled(p) && p.name == name)
            .or_else(|| self.pairs.iter().position(|p| filled(p) && p.name.eq_ignore_ascii_case(name)))
    }

    /// The decoded value of a parameter.
    ///
    /// # Errors
    /// `Invalid` when it does not decode to UTF-8.
    pub fn get(&self, name: &str) -> Result<Option<String>, Refusal> {
        self.find(name).and_then(|at| self.pairs.get(at)).map(|p| decode(name, p.value, true)).transpose()
    }

    /// A parameter that must be there.
    ///
    /// # Errors
    /// `Missing`, or `Invalid` when it does not decode to UTF-8.
    pub fn require(&self, name: &str) -> Result<String, Refusal> {
        self.get(name)?.ok_or_else(|| Refusal::Missing { name: name.to_owned() })
    }

    /// A boolean in any case; absent is false.
    ///
    /// # Errors
    /// `Invalid` for anything else.
    pub fn flag(&self, name: &str) -> Result<bool, Refusal> {
        match self.get(name)?.as_deref().map(str::trim) {
            None => Ok(false),
            Some(text) if text.eq_ignore_ascii_case("true") || text == "1" => Ok(true),
            Some(text) if text.eq_ignore_ascii_case("false") || text == "0" => Ok(false),
            Some(text) => Err(Refusal::invalid(name, format!("must be true or false, not `{}`", shorten(text)))),
        }
    }

    /// The ordering id, under its name or its old one.
    ///
    /// # Errors
    /// `Invalid` unless it is a number.
    pub fn ordering_id(&self) -> Result<Option<Ordering>, Refusal> {
        for name in ["orderingId", "operationId"] {
            if let Some(text) = self.get(name)? {
                return ordering(name, &text).map(Some);
            }
        }
        Ok(None)
    }

    /// The ordering id where a call can't do without.
    ///
    /// # Errors
    /// `Missing`, or `Invalid` unless it is a number.
    pub fn required_ordering_id(&self) -> Result<Ordering, Refusal> {
        self.ordering_id()?.ok_or_else(|| Refusal::Missing { name: "orderingId".into() })
    }

    /// How long a deletion by age waits, so that pushes on their way are counted; 15 minutes unless told.
    ///
    /// # Errors
    /// `Invalid` unless it is a whole number of minutes.
    pub fn queue_delay(&self) -> Result<Duration, Refusal> {
        let minutes = self.number("queueDelay", "minutes")?.unwrap_or(DEFAULT_QUEUE_DELAY_MINUTES);
        Ok(Duration::from_secs(u64::from(minutes) * 60))
    }

    /// Are the children of the item to be deleted as well?
    ///
    /// # Errors
    /// `Invalid` unless it is a boolean.
    pub fn delete_children(&self) -> Result<bool, Refusal> {
        self.flag("deleteChildren")
    }

    /// The container that a batch was put into.
    ///
    /// # Errors
    /// `Missing`, or `Invalid` for what can't be the id of one.
    pub fn file_id(&self) -> Result<FileId, Refusal> {
        wire::file_id("fileId", &self.require("fileId")?)
    }

    /// What the client says it is doing.
    ///
    /// # Errors
    /// `Missing`, or `Invalid` for an unknown word.
    pub fn status_type(&self) -> Result<Activity, Refusal> {
        let text = self.require("statusType")?;
        Activity::from_name(text.trim()).ok_or_else(|| {
            let reason = format!("must be REBUILD, REFRESH, INCREMENTAL or IDLE, not `{}`", shorten(&text));
            Refusal::invalid("statusType", reason)
        })
    }

    /// The declared compression.
    ///
    /// # Errors
    /// `Invalid` for an unknown word.
    pub fn compression_type(&self) -> Result<Option<Compression>, Refusal> {
        self.get("compressionType")?.map(|text| Compression::parse("compressionType", &text)).transpose()
    }

    /// Checks the shard, which changes nothing here.
    ///
    /// # Errors
    /// `Invalid` unless it is 1 to 10 letters and digits.
    pub fn check_shard(&self) -> Result<(), Refusal> {
        match self.get("shard")? {
            Some(shard) if shard.len() > 10 || !shard.bytes().all(|b| b.is_ascii_alphanumeric()) => {
                Err(Refusal::invalid("shard", "must be 1 to 10 letters and digits"))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Which page of a list is wanted; pages of more than 1,000 entries are cut to that.
    ///
    /// # Errors
    /// `Invalid` unless both numbers are whole and a page has room for an entry.
    pub fn page(&self) -> Result<Page, Refusal> {
        let number = self.number("page", "pages")?.unwrap_or(0);
        let size = self.number("perPage", "entries")?.unwrap_or(DEFAULT_PER_PAGE);
        if size == 0 {
            return Err(Refusal::invalid("perPage", "must be at least 1"));
        }
        Ok(Page { number, size: size.min(MAX_PER_PAGE) })
    }

    /// The text that a list's names are to hold.
    ///
    /// # Errors
    /// `Invalid` when it does not decode to UTF-8.
    pub fn filter(&self) -> Result<Option<String>, Refusal> {
        self.get("filter")
    }

    /// The document id, also where a client did not encode it: then `://` stands there as it is, a `+` means itself,
    /// and the parameters that follow and that nobody knows belong to the id's own query.
    ///
    /// # Errors
    /// `Missing`, or `Invalid` when it does not decode to UTF-8.
    pub fn document_id(&self) -> Result<QueryDocumentId, Refusal> {
        const NAME: &str = "documentId";
        let at = self.find(NAME).ok_or_else(|| Refusal::Missing { name: NAME.into() })?;
        let Some(pair) = self.pairs.get(at) else {
            return Err(Refusal::Missing { name: NAME.into() });
        };
        if !pair.value.contains("://") {
            return Ok(QueryDocumentId { value: decode(NAME, pair.value, true)?, others: Vec::new() });
        }
        let mut whole = pair.value.to_owned();
        if pair.value.contains('?') {
            for next in self.pairs.iter().skip(at + 1) {
                if KNOWN.iter().any(|known| next.name.eq_ignore_ascii_case(known)) {
                    break;
                }
                whole.push('&');
                whole.push_str(next.whole);
            }
        }
        let value = decode(NAME, &whole, false)?;
        let mut others = vec![pair.value.to_owned(), decode(NAME, pair.value, true)?, decode(NAME, pair.value, false)?];
        others.push(whole);
        others.retain(|other| *other != value);
        Ok(QueryDocumentId { value, others })
    }

    fn number(&self, name: &str, unit: &str) -> Result<Option<u32>, Refusal> {
        let Some(text) = self.get(name)? else { return Ok(None) };
        let digits = text.bytes().all(|b| b.is_ascii_digit());
        text.parse().ok().filter(|_| digits).map(Some).ok_or_else(|| {
            Refusal::invalid(name, format!("must be a whole number of {unit}, 0 or more, not `{}`", shorten(&text)))
        })
    }
}

/// Reads an ordering id, wherever it stands; `name` is what the caller calls it.
///
/// # Errors
/// `Invalid` unless it is a number.
pub fn ordering(name: &str, text: &str) -> Result<Ordering, Refusal> {
    Ordering::parse(text)
        .ok_or_else(|| Refusal::invalid(name, format!("must be a whole number, 0 or more, not `{}`", shorten(text))))
}

/// Reads a stream's id from a path.
///
/// # Errors
/// `Invalid` for what can't be the id of one.
pub fn stream_id(text: &str) -> Result<StreamId, Refusal> {
    text.parse()
        .map_err(|_| Refusal::invalid("streamId", format!("must be an id from a stream open, not `{}`", shorten(text))))
}

fn decode(name: &str, raw: &str, plus_is_space: bool) -> Result<String, Refusal> {
    let spaced = if plus_is_space { Cow::Owned(raw.replace('+', " ")) } else { Cow::Borrowed(raw) };
    let decoded = percent_decode_str(&spaced).decode_utf8().map(Cow::into_owned);
    decoded.map_err(|_| Refusal::invalid(name, "is not UTF-8 once its percent-encoding is decoded"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn invalid<T: std::fmt::Debug>(got: Result<T, Refusal>, wanted: &str) {
        match got {
            Err(Refusal::Invalid { name, .. }) => assert_eq!(name, wanted),
            other => panic!("{wanted}: {other:?}"),
        }
    }

    fn missing<T: std::fmt::Debug>(got: Result<T, Refusal>, wanted: &str) {
        match got {
            Err(Refusal::Missing { name }) => assert_eq!(name, wanted),
            other => panic!("{wanted}: {other:?}"),
        }
    }

    #[test]
    fn s3_names_and_values_are_taken_leniently() {
        let query = Query::parse("&a=1&&B=%C3%A9+x&compressionType=&empty&bad=%FF&a=2");
        assert_eq!(query.get("a"), Ok(Some("1".into())));
        assert_eq!(query.get("b"), Ok(Some("é x".into())));
        assert_eq!(query.compression_type(), Ok(None));
        assert_eq!(query.get("empty"), Ok(None));
        assert_eq!(query.get("nowhere"), Ok(None));
        invalid(query.get("bad"), "bad");
        assert_eq!(Query::parse("DELETECHILDREN=false&deleteChildren=true").delete_children(), Ok(true));
    }

    #[test]
    fn s3_booleans_are_read_in_any_case() {
        for (text, value) in [("True", true), ("TRUE", true), ("1", true), ("False", false), ("", false), ("0", false)]
        {
            assert_eq!(Query::parse(&format!("deleteChildren={text}")).delete_children(), Ok(value), "{text}");
        }
        assert_eq!(Query::parse("").delete_children(), Ok(false));
        invalid(Query::parse("deleteChildren=yes").delete_children(), "deleteChildren");
    }

    #[test]
    fn c25_an_ordering_id_is_a_number_of_any_length_seen() {
        assert_eq!(Query::parse("orderingId=7").ordering_id(), Ok(Some(Ordering(7))));
        assert_eq!(Query::parse("orderingId=").ordering_id(), Ok(None));
        let crawler = Query::parse("orderingId=19457712023373612345");
        assert_eq!(crawler.ordering_id(), Ok(Some(Ordering(19_457_712_023_373_612_345))));
        for bad in ["abc", "-1", "1.5", "%2B1", "+1"] {
            invalid(Query::parse(&format!("orderingId={bad}")).ordering_id(), "orderingId");
        }
        missing(Query::parse("").required_ordering_id(), "orderingId");
    }

    #[test]
    fn s7_5_the_old_name_of_the_ordering_id_gives_way_to_the_new_one() {
        assert_eq!(Query::parse("operationId=3").ordering_id(), Ok(Some(Ordering(3))));
        assert_eq!(Query::parse("operationId=3&orderingId=4").ordering_id(), Ok(Some(Ordering(4))));
        invalid(Query::parse("operationId=x").ordering_id(), "operationId");
    }

    #[test]
    fn c29_queue_delay_is_minutes() {
        assert_eq!(Query::parse("").queue_delay(), Ok(Duration::from_secs(900)));
        assert_eq!(Query::parse("queueDelay=0").queue_delay(), Ok(Duration::ZERO));
        assert_eq!(Query::parse("queueDelay=1440").queue_delay(), Ok(Duration::from_secs(86_400)));
        for bad in ["-1", "abc", "1.5", "%2B1", "99999999999"] {
            invalid(Query::parse(&format!("queueDelay={bad}")).queue_delay(), "queueDelay");
        }
    }

    #[test]
    fn c33_a_file_id_is_required_and_is_a_uuid() {
        missing(Query::parse("fileId=").file_id(), "fileId");
        invalid(Query::parse("fileId=nope").file_id(), "fileId");
        assert!(Query::parse("fileId=60e285b1-58ec-5625-c5c4-53cd2434c19f").file_id().is_ok());
    }

    #[test]
    fn c36_status_types_are_read_in_any_case() {
        assert_eq!(Query::parse("statusType=rebuild").status_type(), Ok(Activity::Rebuild));
        assert_eq!(Query::parse("statusType=IDLE").status_type(), Ok(Activity::Idle));
        missing(Query::parse("").status_type(), "statusType");
        invalid(Query::parse("statusType=FOO").status_type(), "statusType");
    }

    #[test]
    fn s10_shards_and_stream_ids_are_checked() {
        assert_eq!(Query::parse("shard=aZ09").check_shard(), Ok(()));
        assert_eq!(Query::parse("").check_shard(), Ok(()));
        invalid(Query::parse("shard=a-b").check_shard(), "shard");
        invalid(Query::parse("shard=12345678901").check_shard(), "shard");
        invalid(stream_id("x"), "streamId");
        assert!(stream_id("60e285b1-58ec-5625-c5c4-53cd2434c19f").is_ok());
    }

    #[test]
    fn s11_pages_count_from_zero() {
        assert_eq!(Query::parse("page=2&perPage=50").page(), Ok(Page { number: 2, size: 50 }));
        assert_eq!(Query::parse("").page(), Ok(Page { number: 0, size: 100 }));
        assert_eq!(Query::parse("perPage=99999").page(), Ok(Page { number: 0, size: 1000 }));
        invalid(Query::parse("perPage=0").page(), "perPage");
        invalid(Query::parse("page=-1").page(), "page");
        let page = Page { number: 3, size: 10 };
        assert_eq!((page.offset(), page.pages_for(0), page.pages_for(10), page.pages_for(11)), (30, 0, 1, 2));
    }

    #[test]
    fn c23_c24_a_document_id_is_read_encoded_and_not() {
        let id = |raw: &str| Query::parse(raw).document_id().map(|id| id.value);
        for (raw, value) in [
            ("documentId=http://mydocument", "http://mydocument"),
            ("documentId=http%3A%2F%2Fm%2F%3Fa%3Db%26c%3Dd%23f%C3%A9&orderingId=1", "http://m/?a=b&c=d#fé"),
            ("documentId=http%3A%2F%2Fm%2F%3Fa&c=d", "http://m/?a"),
            ("documentId=not+a+url", "not a url"),
            ("documentId=https://my.doc/a?b=c&d=e&compressionType=UNCOMPRESSED", "https://my.doc/a?b=c&d=e"),
            ("documentId=https://my.doc/a?b=c&d&deletechildren=true&e=f", "https://my.doc/a?b=c&d"),
            ("documentId=https://my.doc/a+b", "https://my.doc/a+b"),
            ("documentId=https://my.doc/%C3%A9%3Fx%26y", "https://my.doc/é?x&y"),
            ("documentid=http://m", "http://m"),
        ] {
            assert_eq!(id(raw).as_deref(), Ok(value), "{raw}");
        }
        missing(id(""), "documentId");
        missing(id("documentId=&x=1"), "documentId");
        invalid(id("documentId=%FF"), "documentId");
    }

    #[test]
    fn c24_an_unencoded_document_id_begins_what_its_sender_meant() {
        let id = |raw: &str| Query::parse(raw).document_id().expect("an id");
        assert!(id("documentId=https://a/b?c=d&e=f&compressionType=X").begins("https://a/b?c=d&e=f#g"));
        assert!(id("documentId=https://a/b%20c").begins("https://a/b%20c"));
        assert!(id("documentId=https://a/b%20c").begins("https://a/b c"));
        assert!(id("documentId=https://a/b+c").begins("https://a/b+c"));
        assert!(id("documentId=https://a/b?c=d&utm=1").begins("https://a/b?c=d"));
        assert!(!id("documentId=https://a/b").begins("https://a/c"));
    }

    proptest! {
        #[test]
        fn any_query_is_read_without_panic(raw in ".{0,80}", value in ".{0,40}") {
            let joined = format!("documentId={value}&{raw}");
            for query in [Query::parse(&raw), Query::parse(&joined)] {
                let _ = query.document_id().map(|id| id.begins(&value));
                let _ = (query.ordering_id(), query.queue_delay(), query.file_id(), query.page(), query.check_shard());
                let _ = (query.status_type(), query.compression_type(), query.delete_children());
            }
        }

        #[test]
        fn an_encoded_document_id_reads_back(id in "[a-z]{1,5}://.{1,40}") {
            let raw = form_urlencoded::Serializer::new(String::new()).append_pair("documentId", &id).finish();
            prop_assert_eq!(Query::parse(&raw).document_id().expect("an id").value, id);
        }
    }
}
