//! Which documents have a text that can be read, as far as their kind tells: the page that a client asks before it
//! uploads. What a file really is, its bytes decide.

use crate::limits;

/// A kind of document that is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Readable {
    /// Its name, as the extractor calls it.
    pub kind: &'static str,
    /// Usual endings of its names, with the dot.
    pub extensions: &'static [&'static str],
    /// What it is.
    pub description: &'static str,
    /// Largest file of it that is read.
    pub max_bytes: u64,
}

/// Documents that are not read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unreadable {
    /// What they have in common.
    pub category: &'static str,
    /// Usual endings of their names, with the dot.
    pub extensions: &'static [&'static str],
    /// Why.
    pub reason: &'static str,
}

/// Read as it comes, to any size that may be uploaded and unpacked.
const fn streamed(kind: &'static str, extensions: &'static [&'static str], description: &'static str) -> Readable {
    Readable { kind, extensions, description, max_bytes: limits::UNPACKED_BYTES }
}

/// Held in memory while it is read.
const fn held(kind: &'static str, extensions: &'static [&'static str], description: &'static str) -> Readable {
    Readable { kind, extensions, description, max_bytes: limits::DOCUMENT_BYTES }
}

/// Every kind that is read.
pub const READABLE: &[Readable] = &[
    streamed("text", &[".txt", ".md", ".markdown", ".rst", ".log", ".yaml", ".yml", ".toml"], "Plain text"),
    streamed("html", &[".html", ".htm", ".xhtml"], "Web page"),
    streamed("xml", &[".xml", ".svg", ".rss", ".atom"], "XML document"),
    streamed("json", &[".json", ".geojson", ".jsonl"], "JSON document"),
    streamed("csv", &[".csv"], "Comma-separated values"),
    streamed("tsv", &[".tsv"], "Tab-separated values"),
    held("pdf", &[".pdf"], "PDF document with a text layer"),
    held("docx", &[".docx", ".docm", ".dotx"], "Word document"),
    held("pptx", &[".pptx", ".pptm", ".potx"], "PowerPoint presentation"),
    held("xlsx", &[".xlsx", ".xlsm", ".xltx"], "Excel workbook"),
    held("xlsb", &[".xlsb"], "Excel binary workbook"),
    held("xls", &[".xls"], "Excel workbook up to 2003"),
    held("odt", &[".odt", ".ott"], "OpenDocument text"),
    held("ods", &[".ods", ".ots"], "OpenDocument spreadsheet"),
    held("odp", &[".odp", ".otp"], "OpenDocument presentation"),
    held("odg", &[".odg", ".otg"], "OpenDocument drawing"),
];

/// Kinds that are stored and not read.
pub const UNREADABLE: &[Unreadable] = &[
    Unreadable {
        category: "images",
        extensions: &[".png", ".jpg", ".jpeg", ".gif", ".tiff", ".webp", ".bmp"],
        reason: "Letters are not recognised in images",
    },
    Unreadable {
        category: "audio",
        extensions: &[".mp3", ".wav", ".ogg", ".flac", ".m4a"],
        reason: "Speech is not transcribed",
    },
    Unreadable {
        category: "video",
        extensions: &[".mp4", ".mov", ".mkv", ".webm", ".avi"],
        reason: "Speech is not transcribed",
    },
    Unreadable {
        category: "archives",
        extensions: &[".zip", ".7z", ".rar", ".tar", ".bz2", ".zst"],
        reason: "Upload the files one by one",
    },
    Unreadable {
        category: "older_office",
        extensions: &[".doc", ".ppt", ".rtf"],
        reason: "Save them as docx, pptx or PDF",
    },
];
