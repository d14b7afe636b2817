//! Office documents: Office Open XML and OpenDocument by their markup, workbooks through calamine.

use std::cell::Cell;
use std::fmt;
use std::io::{self, Cursor, Read};

use calamine::{Data, DataRef, ExcelDateTime, Reader as _, Xls, Xlsb, Xlsx};
use quick_xml::events::Event;
use zip::ZipArchive;
use zip::result::ZipError;

use super::charset::{self, Utf8};
use super::protocol::{Failure, Hello};
use super::text::Text;
use super::xml;
use crate::unpack::{RATIO_FROM_BYTES, UnpackError};

/// Most files in one document.
const ENTRIES: usize = 10_000;
/// Largest single file in one document, unpacked.
const ENTRY_BYTES: u64 = 512 << 20;

/// What may still be unpacked from one document.
struct Budget {
    left: Cell<u64>,
    total: u64,
    ratio: u64,
    by_ratio: bool,
}

impl Budget {
    fn new(archive_bytes: usize, limits: &Hello) -> Self {
        let size = u64::try_from(archive_bytes).unwrap_or(u64::MAX);
        let by_ratio = size.saturating_mul(limits.ratio).max(RATIO_FROM_BYTES);
        let total = by_ratio.min(limits.unpacked_bytes);
        Self { left: Cell::new(total), total, ratio: limits.ratio, by_ratio: by_ratio < limits.unpacked_bytes }
    }

    fn spent(&self) -> u64 {
        self.total - self.left.get()
    }

    fn error(&self) -> UnpackError {
        if self.by_ratio {
            UnpackError::Ratio { limit: self.ratio }
        } else {
            UnpackError::TooLarge { limit: self.total }
        }
    }
}

/// One file of the archive, read within the budget. The sizes in the archive's directory are not believed.
struct Entry<'a, R> {
    inner: R,
    budget: &'a Budget,
    left: u64,
}

impl<R: Read> Read for Entry<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buf)?;
        let bytes = u64::try_from(count).unwrap_or(u64::MAX);
        self.left = self.left.checked_sub(bytes).ok_or(UnpackError::TooLarge { limit: ENTRY_BYTES })?;
        self.budget.left.set(self.budget.left.get().checked_sub(bytes).ok_or_else(|| self.budget.error())?);
        Ok(count)
    }
}

type Archive = ZipArchive<Cursor<Vec<u8>>>;

pub(super) struct Office {
    pub(super) kind: &'static str,
    pub(super) title: Option<String>,
    /// Bytes that came out of the archive.
    pub(super) unpacked: u64,
}

/// A zip file: an Office document, or nothing that is read.
pub(super) fn extract_zip(bytes: Vec<u8>, limits: &Hello, text: &mut Text) -> Result<Office, Failure> {
    let budget = Budget::new(bytes.len(), limits);
    let mut archive = ZipArchive::new(Cursor::new(bytes)).map_err(Failure::from)?;
    if archive.len() > ENTRIES {
        let limit = u64::try_from(ENTRIES).unwrap_or(u64::MAX);
        return Err(Failure::TooLarge { what: String::from("number of files in the document"), limit });
    }
    let names: Vec<String> = archive.file_names().filter_map(Result::ok).map(|name| name.into_owned()).collect();
    let has = |name: &str| names.iter().any(|other| other == name);
    let below = |folder: &str| names.iter().any(|name| name.starts_with(folder));
    let (kind, title) = if has("[Content_Types].xml") && below("word/") {
        let parts = parts(&names, "word/", &["document", "header", "footer", "footnotes", "endnotes", "comments"]);
        markup(&mut archive, &budget, &parts, text)?;
        ("docx", title(&mut archive, &budget, "docProps/core.xml"))
    } else if has("[Content_Types].xml") && below("ppt/") {
        let mut all = parts(&names, "ppt/slides/", &["slide"]);
        all.extend(parts(&names, "ppt/notesSlides/", &["notesSlide"]));
        markup(&mut archive, &budget, &all, text)?;
        ("pptx", title(&mut archive, &budget, "docProps/core.xml"))
    } else if has("[Content_Types].xml") && below("xl/") {
        let title = title(&mut archive, &budget, "docProps/core.xml");
        // calamine unpacks without bounds, so everything is unpacked once within them before.
        for name in names.iter().filter(|name| name.starts_with("xl/") && !name.starts_with("xl/media/")) {
            let mut entry = open(&mut archive, &budget, name)?;
            io::copy(&mut entry, &mut io::sink())?;
        }
        let bytes = archive.into_inner();
        if has("xl/workbook.bin") {
            workbook_xlsb(bytes, text)?;
            return Ok(Office { kind: "xlsb", title, unpacked: budget.spent() });
        }
        workbook_xlsx(bytes, text)?;
        return Ok(Office { kind: "xlsx", title, unpacked: budget.spent() });
    } else if has("content.xml") {
        let mime = match open(&mut archive, &budget, "mimetype") {
            Ok(entry) => {
                let mut mime = String::new();
                entry.take(256).read_to_string(&mut mime)?;
                mime
            }
            Err(_) => String::new(),
        };
        let kind = match mime.trim().trim_end_matches("-template").strip_prefix("application/vnd.oasis.opendocument.") {
            Some("spreadsheet") => "ods",
            Some("presentation") => "odp",
            Some("graphics") => "odg",
            Some(_) => "odt",
            None => return Err(Failure::Unsupported(String::from("zip"))),
        };
        open_document(&mut archive, &budget, text)?;
        (kind, title(&mut archive, &budget, "meta.xml"))
    } else {
        return Err(Failure::Unsupported(String::from("zip")));
    };
    Ok(Office { kind, title, unpacked: budget.spent() })
}

/// An OLE container. Its directory names the streams in UTF-16, which is enough to tell what it holds.
pub(super) fn extract_ole(bytes: Vec<u8>, text: &mut Text) -> Result<&'static str, Failure> {
    let has = |name: &str| {
        let name: Vec<u8> = name.encode_utf16().flat_map(u16::to_le_bytes).collect();
        bytes.as_chunks::<128>().0.iter().any(|entry| entry.starts_with(&name))
    };
    if has("EncryptedPackage") {
        return Err(Failure::Encrypted(String::from("Office")));
    }
    if has("WordDocument") {
        return Err(Failure::Unsupported(String::from("doc")));
    }
    if has("PowerPoint Document") {
        return Err(Failure::Unsupported(String::from("ppt")));
    }
    if !has("Workbook") && !has("Book") {
        return Err(Failure::Unsupported(String::from("ole")));
    }
    let mut book = Xls::new(Cursor::new(bytes)).map_err(|error| match error {
        calamine::XlsError::Password => Failure::Encrypted(String::from("XLS")),
        error => Failure::Corrupt(error.to_string()),
    })?;
    for name in book.sheet_names() {
        heading(text, &name);
        let sheet = book.worksheet_range(&name).map_err(|error| Failure::Corrupt(error.to_string()))?;
        for row in sheet.rows() {
            for cell in row {
                match cell {
                    Data::Empty => {}
                    Data::DateTime(date) => text.push(&date_text(date)),
                    cell => text.push(&cell.to_string()),
                }
                text.space();
            }
            text.line();
            if text.is_full() {
                return Ok("xls");
            }
        }
    }
    Ok("xls")
}

fn open<'a, 'b>(
    archive: &'a mut Archive,
    budget: &'b Budget,
    name: &str,
) -> Result<Entry<'b, impl Read + use<'a>>, Failure> {
    Ok(Entry { inner: archive.by_name(name).map_err(Failure::from)?, budget, left: ENTRY_BYTES })
}

fn open_markup<'a, 'b>(
    archive: &'a mut Archive,
    budget: &'b Budget,
    name: &str,
) -> Result<Utf8<impl Read + use<'a, 'b>>, Failure> {
    let mut entry = open(archive, budget, name)?;
    let mut prefix = Vec::new();
    entry.by_ref().take(4096).read_to_end(&mut prefix)?;
    let encoding = charset::detect(&prefix).unwrap_or(encoding_rs::UTF_8);
    Ok(Utf8::new(Cursor::new(prefix).chain(entry), Some(encoding)))
}

/// The XML files of a folder whose names are one of `stems` and a number, in that order.
fn parts(names: &[String], folder: &str, stems: &[&str]) -> Vec<String> {
    let mut found: Vec<(usize, u32, &String)> = Vec::new();
    for name in names {
        let Some(stem) = name.strip_prefix(folder).and_then(|rest| rest.strip_suffix(".xml")) else { continue };
        let letters = stem.trim_end_matches(|c: char| c.is_ascii_digit());
        let Some(order) = stems.iter().position(|other| *other == letters) else { continue };
        let number = stem.get(letters.len()..).and_then(|digits| digits.parse().ok()).unwrap_or(0);
        found.push((order, number, name));
    }
    found.sort();
    found.into_iter().map(|(_, _, name)| name.clone()).collect()
}

/// The text of WordprocessingML and DrawingML: runs `t` in paragraphs `p`.
fn markup(archive: &mut Archive, budget: &Budget, parts: &[String], text: &mut Text) -> Result<(), Failure> {
    if parts.is_empty() {
        return Err(Failure::Corrupt(String::from("the document has no main part")));
    }
    for part in parts {
        let source = open_markup(archive, budget, part)?;
        let mut in_run = false;
        let mut fallback = 0_u32;
        xml::walk(source, |event| {
            match event {
                // A drawing comes twice: as it is now, and for old readers.
                Event::Start(tag) if tag.local_name().as_ref() == "Fallback" => fallback += 1,
                Event::End(tag) if tag.local_name().as_ref() == "Fallback" => fallback = fallback.saturating_sub(1),
                _ if fallback > 0 => {}
                Event::Start(tag) | Event::Empty(tag) => match tag.local_name().as_ref() {
                    "t" => in_run = matches!(event, Event::Start(_)),
                    "tab" => text.space(),
                    "br" | "cr" => text.line(),
                    _ => {}
                },
                Event::End(tag) => match tag.local_name().as_ref() {
                    "t" => in_run = false,
                    "tc" => text.space(),
                    "p" | "tr" => text.line(),
                    _ => {}
                },
                event if in_run => {
                    if let Some(run) = xml::characters(event) {
                        text.push_flow(&run);
                    }
                }
                _ => {}
            }
            !text.is_full()
        })?;
        text.paragraph();
        if text.is_full() {
            break;
        }
    }
    Ok(())
}

fn open_document(archive: &mut Archive, budget: &Budget, text: &mut Text) -> Result<(), Failure> {
    let mut encrypted = false;
    if let Ok(source) = open_markup(archive, budget, "META-INF/manifest.xml") {
        xml::walk(source, |event| {
            if let Event::Start(tag) | Event::Empty(tag) = event {
                encrypted |= tag.local_name().as_ref() == "encryption-data";
            }
            !encrypted
        })?;
    }
    if encrypted {
        return Err(Failure::Encrypted(String::from("OpenDocument")));
    }
    let source = open_markup(archive, budget, "content.xml")?;
    let mut in_body = false;
    xml::walk(source, |event| {
        match event {
            Event::Start(tag) | Event::Empty(tag) => match tag.local_name().as_ref() {
                "body" => in_body = true,
                "tab" | "s" => text.space(),
                "line-break" => text.line(),
                _ => {}
            },
            Event::End(tag) => match tag.local_name().as_ref() {
                "p" | "h" | "table-row" | "page" => text.line(),
                // Its paragraph has just ended a line; cells of a row belong together, but lines are as good to find.
                "table-cell" => text.space(),
                _ => {}
            },
            event if in_body => {
                if let Some(run) = xml::characters(event) {
                    text.push_flow(&run);
                }
            }
            _ => {}
        }
        !text.is_full()
    })?;
    Ok(())
}

/// `dc:title`; a document without, or with damaged properties, has none.
fn title(archive: &mut Archive, budget: &Budget, part: &str) -> Option<String> {
    let source = open_markup(archive, budget, part).ok()?;
    let mut title = Text::new(1024);
    let mut inside = false;
    xml::walk(source, |event| {
        match event {
            Event::Start(tag) if tag.local_name().as_ref() == "title" => inside = true,
            Event::End(tag) if tag.local_name().as_ref() == "title" => return false,
            event if inside => {
                if let Some(run) = xml::characters(event) {
                    title.push_flow(&run);
                }
            }
            _ => {}
        }
        true
    })
    .ok()?;
    Some(title.into_string()).filter(|title| !title.is_empty())
}

fn workbook_xlsx(bytes: Cursor<Vec<u8>>, text: &mut Text) -> Result<(), Failure> {
    let mut book = Xlsx::new(bytes).map_err(|error| match error {
        calamine::XlsxError::Password => Failure::Encrypted(String::from("XLSX")),
        error => Failure::Corrupt(error.to_string()),
    })?;
    for name in book.sheet_names() {
        heading(text, &name);
        let Ok(mut cells) = book.worksheet_cells_reader(&name) else { continue };
        cells_text(|| cells.next_cell(), text)?;
        if text.is_full() {
            return Ok(());
        }
    }
    Ok(())
}

fn workbook_xlsb(bytes: Cursor<Vec<u8>>, text: &mut Text) -> Result<(), Failure> {
    let mut book = Xlsb::new(bytes).map_err(|error| Failure::Corrupt(error.to_string()))?;
    for name in book.sheet_names() {
        heading(text, &name);
        let Ok(mut cells) = book.worksheet_cells_reader(&name) else { continue };
        cells_text(|| cells.next_cell(), text)?;
        if text.is_full() {
            return Ok(());
        }
    }
    Ok(())
}

/// A sheet cell by cell: as a whole it is allocated as large as its farthest cell says.
fn cells_text<'c, E: fmt::Display>(
    mut next: impl FnMut() -> Result<Option<calamine::Cell<DataRef<'c>>>, E>,
    text: &mut Text,
) -> Result<(), Failure> {
    let mut row = None;
    while let Some(cell) = next().map_err(|error| Failure::Corrupt(error.to_string()))? {
        if row.replace(cell.get_position().0) != Some(cell.get_position().0) {
            text.line();
        }
        cell_text(cell.get_value(), text);
        if text.is_full() {
            break;
        }
    }
    Ok(())
}

fn heading(text: &mut Text, name: &str) {
    text.paragraph();
    text.push_flow(name);
    text.line();
}

fn cell_text(value: &DataRef<'_>, text: &mut Text) {
    match value {
        DataRef::Empty => return,
        DataRef::String(run) | DataRef::DateTimeIso(run) | DataRef::DurationIso(run) => text.push_flow(run),
        DataRef::SharedString(run) => text.push_flow(run),
        DataRef::Int(number) => text.push(&number.to_string()),
        DataRef::Float(number) => text.push(&number.to_string()),
        DataRef::Bool(truth) => text.push(if *truth { "TRUE" } else { "FALSE" }),
        DataRef::DateTime(date) => text.push(&date_text(date)),
        DataRef::Error(error) => text.push(&error.to_string()),
    }
    text.space();
}

fn date_text(date: &ExcelDateTime) -> String {
    if !date.is_datetime() {
        return date.as_f64().to_string();
    }
    let (year, month, day, hour, minute, second, _) = date.to_ymd_hms_milli();
    if (hour, minute, second) == (0, 0, 0) {
        format!("{year:04}-{month:02}-{day:02}")
    } else {
        format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
    }
}

impl From<ZipError> for Failure {
    fn from(error: ZipError) -> Self {
        match error {
            ZipError::Io(error) => error.into(),
            ZipError::UnsupportedArchive(ZipError::PASSWORD_REQUIRED) | ZipError::InvalidPassword => {
                Self::Encrypted(String::from("Office"))
            }
            error => Self::Corrupt(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;

    const LIMITS: Hello = Hello {
        unpacked_bytes: 1 << 30,
        ratio: 100,
        document_bytes: 1 << 20,
        text_bytes: 1 << 20,
        seconds: 10,
        memory_bytes: 1 << 30,
    };

    fn read(bytes: Vec<u8>) -> Result<(&'static str, Option<String>, String), Failure> {
        let mut text = Text::new(LIMITS.text_bytes);
        let office = extract_zip(bytes, &LIMITS, &mut text)?;
        Ok((office.kind, office.title, text.into_string()))
    }

    #[test]
    fn word_processing() {
        let (kind, title, text) = read(samples::docx("A phrase to find")).unwrap();
        assert_eq!((kind, title.as_deref()), ("docx", Some("A docx title")));
        assert_eq!(text, "A phrase to find A & B\njoined\nonce\nc1\nc2\n\nthe header");
        let (kind, title, text) = read(samples::open_document("text", "A phrase to find")).unwrap();
        assert_eq!((kind, title.as_deref()), ("odt", Some("An ODF title")));
        assert_eq!(text, "Head\nA phrase to find\none two\nthree");
    }

    #[test]
    fn slides_in_order() {
        let (kind, title, text) = read(samples::pptx("A phrase to find")).unwrap();
        assert_eq!((kind, title.as_deref()), ("pptx", Some("A pptx title")));
        assert_eq!(text, "A phrase to find\n\nsecond\n\ntenth\n\na note");
        assert_eq!(read(samples::open_document("presentation", "x")).unwrap().0, "odp");
    }

    #[test]
    fn sheets() {
        let (kind, title, text) = read(samples::xlsx("A phrase to find")).unwrap();
        assert_eq!((kind, title.as_deref()), ("xlsx", Some("An xlsx title")));
        assert_eq!(text, "Numbers\nshared words 42.5 A phrase to find\nTRUE");
        assert_eq!(read(samples::open_document("spreadsheet", "x")).unwrap().0, "ods");
        let mut text = Text::new(1000);
        assert_eq!(extract_ole(samples::xls("A phrase to find"), &mut text), Ok("xls"));
        assert_eq!(text.into_string(), "Sheet\nA phrase to find 42.5");
    }

    #[test]
    fn what_is_not_read() {
        let unsupported = |kind: &str| Err(Failure::Unsupported(String::from(kind)));
        assert_eq!(read(samples::zipped(&[("readme.txt", b"text")])), unsupported("zip"));
        let mut text = Text::new(1000);
        for (stream, kind) in [("WordDocument", "doc"), ("PowerPoint Document", "ppt"), ("Other", "ole")] {
            let result = extract_ole(samples::ole(&[(stream, vec![0; 4096])]), &mut text);
            assert_eq!(result, Err(Failure::Unsupported(String::from(kind))));
        }
        let protected = samples::ole(&[("EncryptedPackage", vec![0; 4096])]);
        assert_eq!(extract_ole(protected, &mut text), Err(Failure::Encrypted(String::from("Office"))));
    }

    #[test]
    fn bombs_are_bounded_whatever_their_directory_says() {
        let empty = b"<w:p/>".repeat((40 << 20) / 6);
        let bomb = samples::zipped(&[("[Content_Types].xml", b""), ("word/document.xml", &empty)]);
        assert_eq!(read(bomb.clone()), Err(Failure::Ratio(100)));
        let mut liar = bomb;
        let size = u32::try_from(empty.len()).unwrap().to_le_bytes();
        while let Some(at) = liar.windows(4).position(|window| window == size) {
            liar[at..at + 4].copy_from_slice(&16u32.to_le_bytes());
        }
        assert!(read(liar).is_err());
        let many: Vec<String> = (0..ENTRIES + 1).map(|index| index.to_string()).collect();
        let many: Vec<(&str, &[u8])> = many.iter().map(|name| (name.as_str(), &b""[..])).collect();
        assert!(matches!(read(samples::zipped(&many)), Err(Failure::TooLarge { .. })));
    }
}
