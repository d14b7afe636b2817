//! PDF, through pdf-extract and, where that gives up, lopdf's simpler extraction.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

use pdf_extract::{Document, Error, PlainTextOutput, decode_text_string};

use super::protocol::Failure;
use super::text::Text;

/// The parsers are tried page by page, which looks all pages up each time, up to this many.
const PAGES_ONE_BY_ONE: usize = 2_000;

/// A circle is looked for on this many pages; beyond, the time limit finds it.
const PAGES_LOOKED_AT: usize = 100_000;

/// Hands text on and stops the parser, with an error, when there is enough.
struct Output<'a>(&'a mut Text);

impl io::Write for Output<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.push(&String::from_utf8_lossy(buf));
        if self.0.is_full() {
            return Err(io::ErrorKind::WriteZero.into());
        }
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Returns the title.
pub(super) fn extract(bytes: &[u8], text: &mut Text) -> Result<Option<String>, Failure> {
    let mut document = guarded(|| Document::load_mem(bytes))?.map_err(refusal)?;
    // Loading opens what opens with the empty password, as most encrypted documents do.
    if document.trailer.has(b"Encrypt") && !document.was_encrypted() {
        guarded(|| document.decrypt(""))?.map_err(|_| Failure::Encrypted(String::from("PDF")))?;
    }
    if guarded(|| document.page_iter().next().is_none())? {
        return Err(Failure::Corrupt(String::from("the PDF has no page")));
    }
    if guarded(|| page_tree_in_a_circle(&document))? {
        return Err(Failure::Corrupt(String::from("the PDF's page tree runs in a circle")));
    }
    let title = guarded(|| title(&document)).ok().flatten();
    let limit = text.limit();
    // What a parser wrote before it gave up is thrown away, so that nothing is found twice.
    let mut whole = Text::new(limit);
    let result = guarded(|| {
        let mut output = Output(&mut whole);
        let output: &mut dyn io::Write = &mut output;
        pdf_extract::output_doc(&document, &mut PlainTextOutput::new(output))
    });
    if whole.is_full() || matches!(result, Ok(Ok(()))) {
        *text = whole;
        return Ok(title);
    }
    let read = page_by_page(&document, text)?;
    if !read && text.is_empty() {
        return Err(Failure::Corrupt(match result {
            Ok(Ok(())) => String::from("the PDF has no readable page"),
            Ok(Err(error)) => error.to_string(),
            Err(failure) => return Err(failure),
        }));
    }
    Ok(title)
}

/// One bad page does not hide the others. Says whether any page was read.
fn page_by_page(document: &Document, text: &mut Text) -> Result<bool, Failure> {
    let pages: Vec<u32> = guarded(|| document.get_pages())?.into_keys().take(PAGES_ONE_BY_ONE).collect();
    let mut any = false;
    for page in pages {
        let mut one = Text::new(text.limit());
        let result = guarded(|| {
            let mut output = Output(&mut one);
            let output: &mut dyn io::Write = &mut output;
            pdf_extract::output_doc_page(document, &mut PlainTextOutput::new(output), page)
        });
        let good = one.is_full() || matches!(result, Ok(Ok(())));
        if good {
            text.push(&one.into_string());
            any = true;
        } else if let Ok(chunks) = guarded(|| document.extract_text_chunks(&[page])) {
            for chunk in chunks.into_iter().flatten() {
                text.push(&chunk);
                any = true;
            }
        }
        text.paragraph();
        if text.is_full() {
            break;
        }
    }
    Ok(any)
}

/// pdf-extract looks for what a page inherits until it finds it, forever if need be.
fn page_tree_in_a_circle(document: &Document) -> bool {
    const DEEPEST: usize = 100;
    document.page_iter().take(PAGES_LOOKED_AT).any(|page| {
        let mut node = document.get_dictionary(page).ok();
        for _ in 0..DEEPEST {
            let Some(dictionary) = node else { return false };
            node = dictionary.get_deref(b"Parent", document).ok().and_then(|parent| parent.as_dict().ok());
        }
        true
    })
}

fn title(document: &Document) -> Option<String> {
    let info = document.trailer.get_deref(b"Info", document).ok()?.as_dict().ok()?;
    let title = decode_text_string(info.get_deref(b"Title", document).ok()?).ok()?;
    let mut clean = Text::new(1024);
    clean.push_flow(&title);
    Some(clean.into_string()).filter(|title| !title.is_empty())
}

fn refusal(error: Error) -> Failure {
    match error {
        Error::Decryption(_) | Error::InvalidPassword => Failure::Encrypted(String::from("PDF")),
        error => Failure::Corrupt(error.to_string()),
    }
}

/// Both parsers panic on what they do not expect.
fn guarded<T>(work: impl FnOnce() -> T) -> Result<T, Failure> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|_| Failure::Corrupt(String::from("the PDF parser gave up")))
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;

    fn read(bytes: &[u8]) -> Result<(Option<String>, String), Failure> {
        let mut text = Text::new(1 << 20);
        let title = extract(bytes, &mut text)?;
        Ok((title, text.into_string()))
    }

    #[test]
    fn text_and_title() {
        let (title, text) = read(&samples::pdf("A phrase to find")).unwrap();
        assert_eq!((title.as_deref(), text.as_str()), (Some("A PDF title"), "A phrase to find"));
        let (_, text) = read(&samples::pdf_flate("Packed phrase")).unwrap();
        assert_eq!(text, "Packed phrase\nsecond line");
    }

    #[test]
    fn encrypted_and_damaged() {
        for direct in [true, false] {
            assert_eq!(read(&samples::pdf_encrypted(direct)), Err(Failure::Encrypted(String::from("PDF"))));
        }
        assert!(matches!(read(b"%PDF-1.4\nnothing"), Err(Failure::Corrupt(_))));
    }

    #[test]
    fn the_simpler_parser_takes_over() {
        // Without its MediaBox a page makes pdf-extract panic.
        let pdf = samples::pdf("A phrase to find");
        let at = pdf.windows(9).position(|window| window == b"/MediaBox").unwrap();
        let mut broken = pdf;
        broken[at + 1..at + 9].copy_from_slice(b"MediaBex");
        assert_eq!(read(&broken).unwrap().1, "A phrase to find");
    }

    #[test]
    fn enough_is_enough() {
        let mut text = Text::new(8);
        extract(&samples::pdf("A phrase to find"), &mut text).unwrap();
        assert!(text.is_full());
        assert_eq!(text.into_string(), "A phrase");
    }
}
