//! XML, on its own and inside Office documents. Events only: no tree, no entities but the predefined ones.

use std::borrow::Cow;
use std::io::{self, BufRead, BufReader, Read};

use quick_xml::Reader;
use quick_xml::escape::resolve_predefined_entity;
use quick_xml::events::Event;

use super::charset::Utf8;
use super::protocol::Failure;
use super::text::Text;

/// A tag, comment or text of more bytes is refused, because the reader holds it whole.
pub(super) const EVENT_BYTES: usize = 32 << 20;

/// Travels inside an [`io::Error`].
#[derive(Debug, thiserror::Error)]
#[error("a tag, comment or text of more than {EVENT_BYTES} bytes")]
pub(super) struct EventTooLarge;

/// Fails after [`EVENT_BYTES`] without a reset.
struct Bounded<R> {
    inner: R,
    left: usize,
}

impl<R: BufRead> Read for Bounded<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(buf)?;
        self.consume(count);
        Ok(count)
    }
}

impl<R: BufRead> BufRead for Bounded<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.left == 0 {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, EventTooLarge));
        }
        self.inner.fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        self.left = self.left.saturating_sub(amount);
        self.inner.consume(amount);
    }
}

/// Calls `visit` for each event until it says false.
pub(super) fn walk<R: Read>(
    source: Utf8<R>,
    mut visit: impl FnMut(&Event<'_>) -> bool,
) -> Result<(), quick_xml::Error> {
    let mut reader =
        Reader::from_reader(Bounded { inner: BufReader::with_capacity(32 * 1024, source), left: EVENT_BYTES });
    let config = reader.config_mut();
    config.check_end_names = false;
    config.allow_unmatched_ends = true;
    config.allow_dangling_amp = true;
    let mut buffer = Vec::new();
    loop {
        buffer.clear();
        let event = reader.read_event_into(&mut buffer)?;
        if matches!(event, Event::Eof) || !visit(&event) {
            return Ok(());
        }
        reader.get_mut().left = EVENT_BYTES;
    }
}

/// The characters that an event stands for.
pub(super) fn characters<'a>(event: &'a Event<'_>) -> Option<Cow<'a, str>> {
    match event {
        Event::Text(text) => Some(text.xml10_content()),
        Event::CData(text) => Some(text.xml10_content()),
        Event::GeneralRef(name) => match name.resolve_char_ref() {
            Ok(Some(c)) => Some(Cow::Owned(c.to_string())),
            // An entity of the document's own is left out: expanding them is how a kilobyte becomes a gigabyte.
            _ => resolve_predefined_entity(name).map(Cow::Borrowed),
        },
        _ => None,
    }
}

/// All character data, one element's end being a line's end.
pub(super) fn extract<R: Read>(source: Utf8<R>, text: &mut Text) -> Result<(), Failure> {
    let walked = walk(source, |event| {
        match event {
            Event::Start(_) | Event::End(_) | Event::Empty(_) => text.line(),
            event => {
                if let Some(run) = characters(event) {
                    text.push_flow(&run);
                }
            }
        }
        !text.is_full()
    });
    match walked {
        Ok(()) => Ok(()),
        // Loose XML is often ill-formed somewhere; what was read is worth finding.
        Err(quick_xml::Error::Syntax(_) | quick_xml::Error::IllFormed(_)) if !text.is_empty() => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(xml: &str) -> String {
        let mut text = Text::new(1 << 20);
        extract(Utf8::new(xml.as_bytes(), Some(encoding_rs::UTF_8)), &mut text).unwrap();
        text.into_string()
    }

    #[test]
    fn character_data_only() {
        let xml = "<?xml version='1.0' encoding='ISO-8859-1'?><a x='no'><!-- no --><b>One &amp; &#228;</b><c><![CDATA[<raw>]]></c></a>";
        assert_eq!(content(xml), "One & ä\n<raw>");
    }

    #[test]
    fn entities_do_not_grow_and_depth_is_harmless() {
        let mut xml = String::from("<!DOCTYPE l [<!ENTITY l0 \"lol\">");
        for i in 1..20 {
            let last = format!("&l{};", i - 1).repeat(10);
            xml.push_str(&format!("<!ENTITY l{i} \"{last}\">"));
        }
        xml.push_str("]><l>before &l19; after</l>");
        assert_eq!(content(&xml), "before after");
        let deep = "<a>".repeat(1_000_000) + "core" + &"</a>".repeat(1_000_000);
        assert_eq!(content(&deep), "core");
    }
}
