//! Answers in XML, read within bounds.

use quick_xml::Reader;
use quick_xml::escape::resolve_predefined_entity;
use quick_xml::events::Event;

use crate::clock::Timestamp;

/// Elements of one answer at most: a page has a thousand entries of about forty, a list of blocks three for each.
const ELEMENTS: usize = 100_000;
const DEPTH: usize = 16;

/// An element without its attributes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(in crate::blob) struct Element {
    pub(in crate::blob) name: String,
    text: String,
    children: Vec<Element>,
}

impl Element {
    /// Reads a document. `None` when it is not one, or is larger than any answer.
    pub(in crate::blob) fn read(xml: &[u8]) -> Option<Self> {
        let mut reader = Reader::from_reader(xml);
        let mut open: Vec<Self> = Vec::new();
        let mut count = 0;
        loop {
            match reader.read_event().ok()? {
                Event::Start(tag) => {
                    count += 1;
                    if count > ELEMENTS || open.len() >= DEPTH {
                        return None;
                    }
                    open.push(Self { name: tag.local_name().as_ref().to_owned(), ..Self::default() });
                }
                Event::Empty(tag) => {
                    count += 1;
                    let empty = Self { name: tag.local_name().as_ref().to_owned(), ..Self::default() };
                    match open.last_mut() {
                        Some(parent) if count <= ELEMENTS => parent.children.push(empty),
                        Some(_) => return None,
                        None => return Some(empty),
                    }
                }
                Event::End(_) => {
                    let closed = open.pop()?;
                    match open.last_mut() {
                        Some(parent) => parent.children.push(closed),
                        None => return Some(closed),
                    }
                }
                Event::Text(text) => {
                    if let Some(element) = open.last_mut() {
                        element.text.push_str(&text.xml10_content());
                    }
                }
                Event::CData(text) => {
                    if let Some(element) = open.last_mut() {
                        element.text.push_str(&text.xml10_content());
                    }
                }
                Event::GeneralRef(name) => {
                    let element = open.last_mut()?;
                    match name.resolve_char_ref().ok()? {
                        Some(c) => element.text.push(c),
                        None => element.text.push_str(resolve_predefined_entity(&name)?),
                    }
                }
                Event::Eof => return None,
                _ => {}
            }
        }
    }

    /// The text of the first child of this name.
    pub(in crate::blob) fn get(&self, name: &str) -> Option<&str> {
        self.children.iter().find(|child| child.name == name).map(|child| child.text.trim())
    }

    /// The children of this name.
    pub(in crate::blob) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Self> {
        self.children.iter().filter(move |child| child.name == name)
    }

    /// A number.
    pub(in crate::blob) fn number(&self, name: &str) -> Option<u64> {
        self.get(name)?.parse().ok()
    }

    /// A time.
    pub(in crate::blob) fn time(&self, name: &str) -> Option<Timestamp> {
        Timestamp::parse(self.get(name)?)
    }

    /// A key, which is sent encoded so that it may hold anything.
    pub(in crate::blob) fn key(&self) -> Option<String> {
        self.key_at("Key")
    }

    /// The same under another name.
    pub(in crate::blob) fn key_at(&self, name: &str) -> Option<String> {
        let text = self.get(name)?;
        Some(percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned())
    }

    /// Are there more pages?
    pub(in crate::blob) fn is_truncated(&self) -> bool {
        self.get("IsTruncated") == Some("true")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read() {
        let xml = br#"<?xml version="1.0" encoding="UTF-8"?>
            <ListPartsResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><IsTruncated>true</IsTruncated>
            <Part><PartNumber>1</PartNumber><ETag>&quot;a&amp;b&quot;</ETag><Size>8388608</Size></Part>
            <Part><PartNumber>2</PartNumber><ETag>&#34;c&#34;</ETag><LastModified>2026-01-02T03:04:05.000Z</LastModified></Part>
            <Owner/></ListPartsResult>"#;
        let root = Element::read(xml).unwrap();
        assert_eq!(root.name, "ListPartsResult");
        assert!(root.is_truncated());
        let parts: Vec<_> = root.all("Part").collect();
        assert_eq!((parts[0].get("ETag"), parts[0].number("Size")), (Some("\"a&b\""), Some(8_388_608)));
        assert_eq!(parts[1].get("ETag"), Some("\"c\""));
        assert_eq!(parts[1].time("LastModified"), Some(Timestamp(1_767_323_045_000)));
        // White space that keeps a connection alive stands before it.
        assert_eq!(
            Element::read(b"   \n\n <Error><Code>SlowDown</Code></Error>").unwrap().get("Code"),
            Some("SlowDown")
        );
    }

    #[test]
    fn what_is_no_answer_is_none() {
        for bad in ["", "   ", "<a>", "<a><b></a>", "text", "<a>&unknown;</a>"] {
            assert_eq!(Element::read(bad.as_bytes()), None, "{bad}");
        }
        assert_eq!(Element::read("<a>".repeat(100).as_bytes()), None);
        assert_eq!(Element::read(format!("<a>{}</a>", "<b/>".repeat(ELEMENTS + 1)).as_bytes()), None);
    }
}
