//! Small documents made for tests, each holding a phrase.

#![allow(dead_code, clippy::unwrap_used, clippy::as_conversions, missing_docs, unreachable_pub)]

use std::io::{Cursor, Write};

use zip::write::SimpleFileOptions;

pub fn zipped(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, data) in files {
        let options = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Deflated);
        zip.start_file(*name, options).unwrap();
        zip.write_all(data).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

const TYPES: (&str, &[u8]) = ("[Content_Types].xml", b"<Types/>");

fn core(title: &str) -> String {
    format!("<cp:coreProperties xmlns:dc='d'><dc:title>{title}</dc:title></cp:coreProperties>")
}

pub fn docx(phrase: &str) -> Vec<u8> {
    let document = format!(
        "<?xml version='1.0'?><w:document><w:body><w:p><w:r><w:t>{phrase}</w:t></w:r><w:r><w:tab/><w:t>A &amp; B</w:t></w:r></w:p>\
         <w:p><w:r><w:delText>gone</w:delText><w:instrText>PAGE</w:instrText><w:t>joi</w:t></w:r><w:r><w:t>ned</w:t></w:r></w:p>\
         <w:p><mc:AlternateContent><mc:Choice><w:t>once</w:t></mc:Choice><mc:Fallback><w:t>twice</w:t></mc:Fallback></mc:AlternateContent></w:p>\
         <w:tbl><w:tr><w:tc><w:p><w:r><w:t>c1</w:t></w:r></w:p></w:tc><w:tc><w:p><w:r><w:t>c2</w:t></w:r></w:p></w:tc></w:tr></w:tbl>\
         </w:body></w:document>"
    );
    let header = "<w:hdr><w:p><w:r><w:t>the header</w:t></w:r></w:p></w:hdr>";
    zipped(&[
        TYPES,
        ("word/document.xml", document.as_bytes()),
        ("word/header1.xml", header.as_bytes()),
        ("docProps/core.xml", core("A docx title").as_bytes()),
    ])
}

pub fn pptx(phrase: &str) -> Vec<u8> {
    let slide = |text: &str| format!("<p:sld><a:p><a:r><a:t>{text}</a:t></a:r></a:p></p:sld>");
    zipped(&[
        TYPES,
        ("ppt/slides/slide10.xml", slide("tenth").as_bytes()),
        ("ppt/slides/slide2.xml", slide("second").as_bytes()),
        ("ppt/slides/slide1.xml", slide(phrase).as_bytes()),
        ("ppt/notesSlides/notesSlide1.xml", slide("a note").as_bytes()),
        ("docProps/core.xml", core("A pptx title").as_bytes()),
    ])
}

pub fn xlsx(phrase: &str) -> Vec<u8> {
    xlsx_sheet(&format!(
        "<row r='1'><c r='A1' t='s'><v>0</v></c><c r='B1'><v>42.5</v></c><c r='C1' t='inlineStr'><is><t>{phrase}</t></is></c></row>\
         <row r='1048576'><c r='XFD1048576' t='b'><v>1</v></c></row>"
    ))
}

pub fn xlsx_sheet(rows: &str) -> Vec<u8> {
    let sheet = format!(
        "<worksheet xmlns='http://schemas.openxmlformats.org/spreadsheetml/2006/main'><sheetData>{rows}</sheetData></worksheet>"
    );
    zipped(&[
        TYPES,
        (
            "_rels/.rels",
            b"<Relationships xmlns='http://schemas.openxmlformats.org/package/2006/relationships'><Relationship Id='rId1' Type='http://schemas.openxmlformats.org/officeDocument/2006/relationships/officeDocument' Target='xl/workbook.xml'/></Relationships>",
        ),
        (
            "xl/workbook.xml",
            b"<workbook xmlns='http://schemas.openxmlformats.org/spreadsheetml/2006/main' xmlns:r='http://schemas.openxmlformats.org/officeDocument/2006/relationships'><sheets><sheet name='Numbers' sheetId='1' r:id='rId1'/></sheets></workbook>",
        ),
        (
            "xl/_rels/workbook.xml.rels",
            b"<Relationships xmlns='http://schemas.openxmlformats.org/package/2006/relationships'><Relationship Id='rId1' Type='http://schemas.openxmlformats.org/officeDocument/2006/relationships/worksheet' Target='worksheets/sheet1.xml'/><Relationship Id='rId2' Type='http://schemas.openxmlformats.org/officeDocument/2006/relationships/sharedStrings' Target='sharedStrings.xml'/></Relationships>",
        ),
        (
            "xl/sharedStrings.xml",
            b"<sst xmlns='http://schemas.openxmlformats.org/spreadsheetml/2006/main'><si><t>shared words</t></si></sst>",
        ),
        ("xl/worksheets/sheet1.xml", sheet.as_bytes()),
        ("docProps/core.xml", core("An xlsx title").as_bytes()),
    ])
}

pub fn open_document(kind: &str, phrase: &str) -> Vec<u8> {
    let content = format!(
        "<office:document-content><office:automatic-styles>no</office:automatic-styles><office:body><text:h>Head</text:h>\
         <table:table-row><table:table-cell><text:p>{phrase}</text:p></table:table-cell></table:table-row>\
         <text:p>one<text:s/>two<text:line-break/>three</text:p></office:body></office:document-content>"
    );
    zipped(&[
        ("mimetype", format!("application/vnd.oasis.opendocument.{kind}").as_bytes()),
        ("content.xml", content.as_bytes()),
        ("meta.xml", b"<office:meta><dc:title>An ODF title</dc:title></office:meta>"),
        ("META-INF/manifest.xml", b"<manifest:manifest><manifest:file-entry/></manifest:manifest>"),
    ])
}

/// Objects with their numbers, a cross-reference table, and what else the trailer should have.
pub fn pdf_of(objects: &[Vec<u8>], trailer: &str) -> Vec<u8> {
    let mut out = b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n".to_vec();
    let mut offsets = Vec::new();
    for (index, object) in objects.iter().enumerate() {
        offsets.push(out.len());
        out.extend(format!("{} 0 obj\n", index + 1).into_bytes());
        out.extend(object);
        out.extend(b"\nendobj\n");
    }
    let start = out.len();
    out.extend(format!("xref\n0 {}\n0000000000 65535 f \n", objects.len() + 1).into_bytes());
    for offset in offsets {
        out.extend(format!("{offset:010} 00000 n \n").into_bytes());
    }
    let size = objects.len() + 1;
    out.extend(format!("trailer\n<< /Size {size} /Root 1 0 R {trailer} >>\nstartxref\n{start}\n%%EOF\n").into_bytes());
    out
}

pub fn stream(dictionary: &str, data: &[u8]) -> Vec<u8> {
    let mut out = format!("<< /Length {} {dictionary} >>\nstream\n", data.len()).into_bytes();
    out.extend(data);
    out.extend(b"\nendstream");
    out
}

pub fn zlib(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

/// A page tree of one page whose content is object 4; `more` begins with object 7.
pub fn pdf_with(content: Vec<u8>, more: Vec<Vec<u8>>, resources: &str, trailer: &str) -> Vec<u8> {
    let page = format!(
        "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R /Resources << /Font << /F1 5 0 R >> {resources} >> >>"
    );
    let mut objects = vec![
        b"<< /Type /Catalog /Pages 2 0 R >>".to_vec(),
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>".to_vec(),
        page.into_bytes(),
        content,
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>".to_vec(),
        b"<< /Title (A PDF title) >>".to_vec(),
    ];
    objects.extend(more);
    pdf_of(&objects, &format!("/Info 6 0 R {trailer}"))
}

pub fn pdf(phrase: &str) -> Vec<u8> {
    pdf_with(stream("", format!("BT /F1 24 Tf 72 720 Td ({phrase}) Tj ET").as_bytes()), vec![], "", "")
}

pub fn pdf_flate(phrase: &str) -> Vec<u8> {
    let content = zlib(format!("BT /F1 24 Tf 72 720 Td ({phrase}) Tj 0 -30 Td (second line) Tj ET").as_bytes());
    pdf_with(stream("/Filter /FlateDecode", &content), vec![], "", "")
}

pub fn pdf_encrypted(direct: bool) -> Vec<u8> {
    let blank = "00".repeat(32);
    let encrypt = format!("<< /Filter /Standard /V 1 /R 2 /Length 40 /P -44 /O <{blank}> /U <{blank}> >>");
    let id = format!("/ID [<{0}> <{0}>]", "01".repeat(16));
    let entry = if direct { encrypt.as_str() } else { "7 0 R" };
    let trailer = format!("/Encrypt {entry} {id}");
    pdf_with(stream("", b"BT (secret) Tj ET"), vec![encrypt.clone().into_bytes()], "", &trailer)
}

/// A BIFF8 workbook in an OLE container, with nothing in them that is not needed.
pub fn xls(phrase: &str) -> Vec<u8> {
    fn record(kind: u16, data: &[u8]) -> Vec<u8> {
        let mut out = kind.to_le_bytes().to_vec();
        out.extend((data.len() as u16).to_le_bytes());
        out.extend(data);
        out
    }
    fn beginning(kind: u16) -> Vec<u8> {
        let mut data = vec![0, 6];
        data.extend(kind.to_le_bytes());
        data.extend([0; 12]);
        record(0x0809, &data)
    }
    let bound_sheet = |position: u32| {
        let mut data = position.to_le_bytes().to_vec();
        data.extend([0, 0, 5, 0]);
        data.extend(b"Sheet");
        record(0x0085, &data)
    };
    let mut book = beginning(5);
    let sheet_at = book.len() + bound_sheet(0).len() + 4;
    book.extend(bound_sheet(sheet_at as u32));
    book.extend(record(0x000a, &[]));
    book.extend(beginning(16));
    let mut label = vec![0, 0, 0, 0, 0, 0];
    label.extend((phrase.len() as u16).to_le_bytes());
    label.push(0);
    label.extend(phrase.as_bytes());
    book.extend(record(0x0204, &label));
    let mut number = vec![0, 0, 1, 0, 0, 0];
    number.extend(42.5f64.to_le_bytes());
    book.extend(record(0x0203, &number));
    book.extend(record(0x000a, &[]));
    // Shorter streams would go to the small-block chain.
    book.resize(4096, 0);
    ole(&[("Workbook", book)])
}

/// An OLE container; each stream must be a multiple of 512 and at least 4096 bytes long.
pub fn ole(streams: &[(&str, Vec<u8>)]) -> Vec<u8> {
    const END: u32 = 0xffff_fffe;
    let mut fat: Vec<u32> = vec![0xffff_fffd, END];
    let mut directory = Vec::new();
    let mut entry = |name: &str, kind: u8, child: u32, start: u32, size: u32| {
        let mut out: Vec<u8> = name.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let length = out.len() + 2;
        out.resize(64, 0);
        out.extend((length as u16).to_le_bytes());
        out.extend([kind, 1]);
        out.extend([0xff; 8]);
        out.extend(child.to_le_bytes());
        out.resize(116, 0);
        out.extend(start.to_le_bytes());
        out.extend(size.to_le_bytes());
        out.resize(128, 0);
        directory.extend(out);
    };
    entry("Root Entry", 5, 1, END, 0);
    let mut body: Vec<u8> = Vec::new();
    for (name, data) in streams {
        let start = fat.len() as u32;
        entry(name, 2, u32::MAX, start, data.len() as u32);
        let sectors = (data.len() / 512) as u32;
        fat.extend((1..sectors).map(|next| start + next));
        fat.push(END);
        body.extend(data);
    }
    directory.resize(512, 0);
    fat.resize(128, u32::MAX);
    let mut out = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1".to_vec();
    out.resize(24, 0);
    out.extend([0x3e, 0, 3, 0, 0xfe, 0xff, 9, 0, 6, 0]);
    out.resize(44, 0);
    for word in [1, 1, 0, 4096, END, 0, END, 0, 0] {
        out.extend(u32::to_le_bytes(word));
    }
    out.resize(512, 0xff);
    out.extend(fat.iter().flat_map(|word| word.to_le_bytes()));
    out.extend(directory);
    out.extend(body);
    out
}
