//! Extraction through the real child process.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    clippy::as_conversions,
    clippy::disallowed_methods
)]

use std::ffi::OsString;
use std::io;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use base64::Engine;
use bytes::Bytes;
use futures_util::{Stream, stream};
use landfall::process::extract::{ExtractError, ExtractLimits, Extracted, Hint, Pool};

#[path = "../src/process/extract/samples.rs"]
mod samples;

const PHRASE: &str = "the landfall phrase";

fn pool(limits: ExtractLimits) -> Pool {
    tagged(limits, "test")
}

/// `tag` makes the children of one test recognisable.
fn tagged(limits: ExtractLimits, tag: &str) -> Pool {
    let program = PathBuf::from(env!("CARGO_BIN_EXE_landfall"));
    Pool::new(program, vec![OsString::from("extract-worker"), OsString::from(tag)], 1, limits)
}

fn quick() -> ExtractLimits {
    ExtractLimits { time: Duration::from_secs(5), ..ExtractLimits::default() }
}

fn content(data: Vec<u8>) -> impl Stream<Item = io::Result<Bytes>> + Unpin + Send {
    let data = Bytes::from(data);
    let pieces: Vec<_> =
        (0..data.len()).step_by(200_000).map(|at| data.slice(at..data.len().min(at + 200_000))).collect();
    stream::iter(pieces.into_iter().map(Ok))
}

fn hint(compression: &str, extension: &str) -> Hint {
    let some = |value: &str| (!value.is_empty()).then(|| String::from(value));
    Hint { compression: some(compression), file_extension: some(extension) }
}

async fn read(pool: &Pool, data: &[u8]) -> Result<Extracted, ExtractError> {
    pool.extract(content(data.to_vec()), Hint::default()).await
}

/// The pool still reads a good document.
async fn still_works(pool: &Pool) {
    assert_eq!(read(pool, b"still here").await.unwrap().text, "still here");
}

fn lzma(data: &[u8]) -> Vec<u8> {
    let options = lzma_rust2::LzmaOptions::with_preset(1);
    let mut writer = lzma_rust2::LzmaWriter::new_use_header(Vec::new(), &options, None).unwrap();
    writer.write_all(data).unwrap();
    writer.finish().unwrap()
}

fn xz(data: &[u8]) -> Vec<u8> {
    let mut writer = lzma_rust2::XzWriter::new(Vec::new(), lzma_rust2::XzOptions::with_preset(1)).unwrap();
    writer.write_all(data).unwrap();
    writer.finish().unwrap()
}

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    writer.write_all(data).unwrap();
    writer.finish().unwrap()
}

fn deflate(data: &[u8]) -> Vec<u8> {
    let mut writer = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::default());
    writer.write_all(data).unwrap();
    writer.finish().unwrap()
}

fn documents() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let text = |text: String| text.into_bytes();
    vec![
        ("text", "", text(format!("Some prose with {PHRASE} in it."))),
        ("html", "", text(format!("<!doctype html><title>T</title><script>no</script><p>{PHRASE}"))),
        ("xml", "", text(format!("<?xml version='1.0'?><a><b>{PHRASE}</b></a>"))),
        ("json", "", text(format!("{{\"key\": [1, \"{PHRASE}\"]}}"))),
        ("csv", ".CSV", text(format!("a,b\n\"{PHRASE}\",2\n"))),
        ("tsv", "tsv", text(format!("a\tb\n{PHRASE}\t2\n"))),
        ("pdf", "", samples::pdf(PHRASE)),
        ("pdf", "txt", samples::pdf_flate(PHRASE)),
        ("docx", "zip", samples::docx(PHRASE)),
        ("pptx", "", samples::pptx(PHRASE)),
        ("xlsx", "", samples::xlsx(PHRASE)),
        ("xls", "", samples::xls(PHRASE)),
        ("odt", "", samples::open_document("text", PHRASE)),
        ("ods", "", samples::open_document("spreadsheet", PHRASE)),
        ("odp", "", samples::open_document("presentation", PHRASE)),
    ]
}

#[tokio::test]
async fn every_kind_in_every_packing() {
    let pool = pool(ExtractLimits::default());
    for (kind, extension, data) in documents() {
        let packed: [(&str, Vec<u8>); 6] = [
            ("raw", data.clone()),
            ("zlib", samples::zlib(&data)),
            ("gzip", gzip(&data)),
            ("deflate", deflate(&data)),
            ("lzma", lzma(&data)),
            ("xz", xz(&data)),
        ];
        for (packing, bytes) in packed {
            // The label is wrong wherever the bytes speak for themselves.
            let label = if packing == "deflate" { "deflate" } else { "gzip" };
            let found = pool.extract(content(bytes.clone()), hint(label, extension)).await.unwrap();
            assert_eq!((found.kind.as_str(), found.packing.as_str(), found.base64), (kind, packing, false));
            assert!(found.text.contains(PHRASE), "{kind} {packing}: {}", found.text);
            assert!(!found.truncated);
            assert!(found.unpacked_bytes >= data.len() as u64);
            if packing != "raw" || matches!(kind, "pdf" | "docx" | "xlsx" | "xls") {
                let wrapped = base64::engine::general_purpose::STANDARD.encode(&bytes).into_bytes();
                let found = pool.extract(content(wrapped), hint(label, extension)).await.unwrap();
                assert_eq!((found.kind.as_str(), found.packing.as_str(), found.base64), (kind, packing, true));
                assert!(found.text.contains(PHRASE), "{kind} {packing} in Base64: {}", found.text);
            }
        }
    }
    let empty = read(&pool, b"").await.unwrap();
    assert_eq!((empty.kind.as_str(), empty.text.as_str()), ("empty", ""));
    let titled = read(&pool, &samples::pdf(PHRASE)).await.unwrap();
    assert_eq!(titled.title.as_deref(), Some("A PDF title"));
}

#[tokio::test]
async fn what_is_refused_says_why() {
    let pool = pool(ExtractLimits { document_bytes: 100_000, ..quick() });
    let unsupported = |kind: &str, result| match result {
        Err(ExtractError::Unsupported { kind: found }) => assert_eq!(found, kind),
        other => panic!("{kind}: {other:?}"),
    };
    unsupported("zip", read(&pool, &samples::zipped(&[("a.txt", b"text")])).await);
    unsupported("binary", read(&pool, &[0, 1, 2, 3, 0, 0, 9, 8, 7, 200, 201]).await);
    unsupported("png", read(&pool, b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR").await);
    unsupported("gzip", read(&pool, &samples::zlib(&gzip(b"twice packed"))).await);
    let encrypted = read(&pool, &samples::pdf_encrypted(false)).await.unwrap_err();
    assert!(matches!(encrypted, ExtractError::Encrypted { .. }) && !encrypted.is_retryable());
    assert_eq!(encrypted.to_string(), "the PDF document is protected by a password; send it without one");
    let mut cut = samples::zlib(&b"some text ".repeat(1000));
    cut.truncate(60);
    assert!(matches!(read(&pool, &cut).await, Err(ExtractError::Corrupt { .. })));
    let mut large = samples::pdf(PHRASE);
    large.resize(100_001, b'\n');
    let error = read(&pool, &large).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "the document's size in bytes is over the limit of 100000; send a smaller document or raise the limit"
    );
    still_works(&pool).await;
}

#[tokio::test]
async fn sending_stops_when_the_answer_is_known() {
    let pool = pool(ExtractLimits { text_bytes: 1 << 20, ..quick() });
    for _ in 0..3 {
        let taken = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
        let counter = std::sync::Arc::clone(&taken);
        let piece = Bytes::from(vec![7u8; 1 << 20]);
        let binary = stream::repeat_with(move || {
            counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            Ok(piece.clone())
        });
        let result = pool.extract(binary, Hint::default()).await;
        assert!(matches!(result, Err(ExtractError::Unsupported { .. })));
        assert!(taken.load(std::sync::atomic::Ordering::Relaxed) <= 2);
        let piece = Bytes::from(b"prose without an end ".repeat(10_000));
        let found = pool.extract(stream::repeat_with(move || Ok(piece.clone())), Hint::default()).await.unwrap();
        assert!(found.truncated && found.text.len() <= 1 << 20 && found.text.len() > (1 << 20) - 30);
        still_works(&pool).await;
    }
}

#[tokio::test]
async fn a_failing_source_is_retryable_and_harmless() {
    let pool = pool(quick());
    let broken = stream::iter([Ok(Bytes::from_static(b"a beginning")), Err(io::ErrorKind::ConnectionReset.into())]);
    let error = pool.extract(broken, Hint::default()).await.unwrap_err();
    assert!(matches!(error, ExtractError::Source(_)) && error.is_retryable(), "{error}");
    still_works(&pool).await;
}

#[tokio::test]
async fn bombs_end_at_a_limit() {
    let pool = pool(ExtractLimits { ratio: 100, ..quick() });
    // 1 GiB of zeros in a megabyte, made without unpacking it: members may follow each other.
    let gigabyte = gzip(&vec![0; 16 << 20]).repeat(64);
    for bomb in [gigabyte.clone(), samples::zlib(&vec![b' '; 256 << 20]), lzma(&vec![b' '; 64 << 20])] {
        let started = tokio::time::Instant::now();
        let error = read(&pool, &bomb).await;
        let refused = matches!(error, Err(ExtractError::Ratio { .. } | ExtractError::Unsupported { .. }));
        assert!(refused, "{error:?}");
        assert!(started.elapsed() < Duration::from_secs(5));
        still_works(&pool).await;
    }
    let empty = b"<w:p/>".repeat(20 << 20);
    let docx = samples::zipped(&[("[Content_Types].xml", b""), ("word/document.xml", &empty)]);
    let error = read(&pool, &docx).await;
    assert!(matches!(error, Err(ExtractError::Ratio { .. } | ExtractError::TooLarge { .. })), "{error:?}");
    still_works(&pool).await;
    // Twice packed, so that a few kilobytes become gigabytes.
    let flate = samples::zlib(&samples::zlib(&vec![b' '; 1 << 30]));
    let pdf = samples::pdf_with(samples::stream("/Filter [/FlateDecode /FlateDecode]", &flate), vec![], "", "");
    let error = read(&pool, &pdf).await;
    eprintln!("flate bomb in a PDF: {error:?}");
    let bounded = matches!(error, Err(ExtractError::Memory { .. } | ExtractError::Timeout { .. }));
    assert!(bounded, "{error:?}");
    still_works(&pool).await;
}

#[tokio::test]
async fn nesting_is_harmless() {
    let pool = pool(quick());
    let depth = 1_000_000;
    let mut lol = String::from("<?xml version='1.0'?><!DOCTYPE l [<!ENTITY l0 \"lol\">");
    for level in 1..30 {
        lol.push_str(&format!("<!ENTITY l{level} \"{}\">", format!("&l{};", level - 1).repeat(10)));
    }
    lol.push_str(&format!("]><l>&l29; {PHRASE}</l>"));
    let deep = [
        format!("<!doctype html>{}{PHRASE}", "<div><b>".repeat(depth)),
        format!("<?xml version='1.0'?>{}{PHRASE}{}", "<a>".repeat(depth), "</a>".repeat(depth)),
        format!("{}\"{PHRASE}\"{}", "[".repeat(depth), "]".repeat(depth)),
        format!("{}\"{PHRASE}\"{}", "{\"a\":".repeat(depth), "}".repeat(depth)),
        lol,
    ];
    for document in deep {
        let found = read(&pool, document.as_bytes()).await.unwrap();
        assert!(found.text.contains(PHRASE), "{}", found.kind);
    }
    let document = format!("<w:document>{}<w:t>{PHRASE}</w:t></w:document>", "<w:p>".repeat(depth));
    let docx = samples::zipped(&[("[Content_Types].xml", b""), ("word/document.xml", document.as_bytes())]);
    assert!(read(&pool, &docx).await.unwrap().text.contains(PHRASE));
    still_works(&pool).await;
}

#[tokio::test]
async fn hostile_pdfs_fail_alone() {
    let pool = pool(quick());
    let text = b"BT /F1 24 Tf 72 720 Td (words) Tj ET";
    let page = |parent: &str| {
        format!("<< /Type /Page {parent} /MediaBox [0 0 9 9] /Contents 4 0 R /Resources << >> >>").into_bytes()
    };
    let catalog = b"<< /Type /Catalog /Pages 2 0 R >>".to_vec();
    let nested = |open: &str, close: &str| {
        let mut object = open.repeat(500_000);
        object.push_str(&close.repeat(500_000));
        object.into_bytes()
    };
    let form = |content: &str| {
        let dictionary = "/Type /XObject /Subtype /Form /BBox [0 0 9 9] /Resources << /XObject << /X 7 0 R >> >>";
        samples::stream(dictionary, content.as_bytes())
    };
    let hostile: Vec<(&str, Vec<u8>)> = vec![
        (
            "a page tree in a circle",
            samples::pdf_of(
                &[
                    catalog.clone(),
                    b"<< /Type /Pages /Kids [2 0 R 2 0 R 3 0 R] /Count 3 /Parent 2 0 R >>".to_vec(),
                    page("/Parent 2 0 R"),
                    samples::stream("", text),
                ],
                "",
            ),
        ),
        (
            "two page tree nodes in a circle",
            samples::pdf_of(
                &[
                    catalog.clone(),
                    b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>".to_vec(),
                    b"<< /Type /Pages /Kids [2 0 R 2 0 R] /Count 1 /Parent 2 0 R >>".to_vec(),
                ],
                "",
            ),
        ),
        (
            "parents in a circle without a MediaBox",
            samples::pdf_of(
                &[
                    catalog.clone(),
                    b"<< /Type /Pages /Kids [3 0 R] /Count 1 /Parent 2 0 R >>".to_vec(),
                    b"<< /Type /Page /Parent 2 0 R /Contents 4 0 R >>".to_vec(),
                    samples::stream("", text),
                ],
                "",
            ),
        ),
        (
            "a page that is its own parent",
            samples::pdf_of(
                &[
                    catalog.clone(),
                    b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>".to_vec(),
                    b"<< /Type /Page /Parent 3 0 R /Contents 4 0 R >>".to_vec(),
                    samples::stream("", text),
                ],
                "",
            ),
        ),
        ("an object that is itself", samples::pdf_of(&[b"1 0 R".to_vec(), b"2 0 R".to_vec()], "")),
        (
            "a stream whose length is itself",
            samples::pdf_of(
                &[
                    catalog.clone(),
                    b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>".to_vec(),
                    page("/Parent 2 0 R"),
                    b"<< /Length 4 0 R >>\nstream\nBT ET\nendstream".to_vec(),
                ],
                "",
            ),
        ),
        (
            "contents that hold themselves",
            samples::pdf_of(
                &[
                    catalog.clone(),
                    b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>".to_vec(),
                    page("/Parent 2 0 R"),
                    b"[4 0 R 4 0 R]".to_vec(),
                ],
                "",
            ),
        ),
        (
            "a form that draws itself",
            samples::pdf_with(samples::stream("", b"/X Do"), vec![form("/X Do")], "/XObject << /X 7 0 R >>", ""),
        ),
        (
            "a form that draws itself twice",
            samples::pdf_with(samples::stream("", b"/X Do"), vec![form("/X Do /X Do")], "/XObject << /X 7 0 R >>", ""),
        ),
        ("deep arrays", samples::pdf_with(samples::stream("", text), vec![nested("[", "]")], "", "")),
        ("deep dictionaries", samples::pdf_with(samples::stream("", text), vec![nested("<</a ", ">>")], "", "")),
        ("deep strings", samples::pdf_with(samples::stream("", text), vec![nested("(", ")")], "", "")),
        ("deep arrays in contents", samples::pdf_with(samples::stream("", &nested("[", "]")), vec![], "", "")),
        ("an endless chain of tables", samples::pdf_of(std::slice::from_ref(&catalog), "/Prev 9")),
    ];
    for (name, pdf) in hostile {
        let started = tokio::time::Instant::now();
        let result = read(&pool, &pdf).await;
        eprintln!(
            "{name}: {:?} in {:?}",
            result.as_ref().map(|found| found.text.len()).map_err(ToString::to_string),
            started.elapsed()
        );
        let bounded = match &result {
            Ok(found) => found.kind == "pdf",
            Err(
                ExtractError::Timeout { .. }
                | ExtractError::Crashed { .. }
                | ExtractError::Corrupt { .. }
                | ExtractError::Memory { .. },
            ) => true,
            Err(_) => false,
        };
        assert!(bounded, "{name}: {result:?}");
        still_works(&pool).await;
    }
}

/// The process ids of the children started with `tag`.
fn children(tag: &str) -> Vec<i32> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if line.split(|byte| *byte == 0).any(|argument| argument == tag.as_bytes()) {
            found.push(pid);
        }
    }
    found
}

fn kill(tag: &str) {
    let pids = children(tag);
    assert_eq!(pids.len(), 1);
    let pid = rustix::process::Pid::from_raw(pids[0]).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

async fn all_gone(tag: &str) {
    let wait = async {
        while !children(tag).is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), wait).await.expect("children that stay");
}

#[tokio::test]
async fn a_killed_child_is_replaced() {
    let tag = "landfall-test-killed";
    let pool = tagged(quick(), tag);
    still_works(&pool).await;
    // While idle: nobody notices.
    kill(tag);
    all_gone(tag).await;
    still_works(&pool).await;
    // In the middle of a document.
    let slow = stream::unfold(0, |count| async move {
        tokio::time::sleep(Duration::from_millis(20)).await;
        if count == 5 {
            kill("landfall-test-killed");
        }
        Some((Ok(Bytes::from_static(b"more and more prose ")), count + 1))
    });
    let error = pool.extract(Box::pin(slow), Hint::default()).await.unwrap_err();
    assert!(matches!(error, ExtractError::Crashed { signal: Some(9), .. }) && error.is_retryable(), "{error:?}");
    still_works(&pool).await;
    // A caller that goes away takes its child along.
    let endless = stream::pending::<io::Result<Bytes>>();
    let gone = tokio::time::timeout(Duration::from_millis(50), pool.extract(endless, Hint::default())).await;
    assert!(gone.is_err());
    still_works(&pool).await;
    drop(pool);
    all_gone(tag).await;
}

#[tokio::test]
async fn a_child_has_only_what_it_needs() {
    let tag = "landfall-test-limited";
    let pool = tagged(quick(), tag);
    still_works(&pool).await;
    let process = PathBuf::from(format!("/proc/{}", children(tag)[0]));
    let limits = std::fs::read_to_string(process.join("limits")).unwrap();
    let limit = |name: &str| -> Vec<&str> {
        let line = limits.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().take(2).collect()
    };
    assert_eq!(limit("Max address space"), ["1073741824", "1073741824"]);
    assert_eq!(limit("Max core file size"), ["0", "0"]);
    assert_eq!(limit("Max file size"), ["0", "0"]);
    assert_eq!(limit("Max open files"), ["16", "16"]);
    assert_ne!(limit("Max cpu time")[0], "unlimited");
    let status = std::fs::read_to_string(process.join("status")).unwrap();
    assert!(status.lines().any(|line| line.split_whitespace().eq(["NoNewPrivs:", "1"])));
    assert_eq!(std::fs::read(process.join("environ")).unwrap(), b"MALLOC_ARENA_MAX=1\0");
    assert_eq!(std::fs::read_link(process.join("cwd")).unwrap(), PathBuf::from("/"));
}

#[tokio::test]
async fn waiting_for_content_is_not_counted() {
    let pool = pool(ExtractLimits { time: Duration::from_secs(1), ..ExtractLimits::default() });
    let slow = stream::unfold(0, |count| async move {
        tokio::time::sleep(Duration::from_millis(250)).await;
        (count < 6).then(|| (Ok(Bytes::from_static(b"prose ")), count + 1))
    });
    let found = pool.extract(Box::pin(slow), Hint::default()).await.unwrap();
    assert_eq!(found.text, "prose prose prose prose prose prose");
}

#[tokio::test]
async fn programs_that_are_no_child() {
    let pool = |program: &str, arguments: &[&str]| {
        let arguments = arguments.iter().map(OsString::from).collect();
        Pool::new(PathBuf::from(program), arguments, 1, quick())
    };
    let error = read(&pool("/nonexistent/landfall", &[]), b"text").await.unwrap_err();
    assert!(matches!(error, ExtractError::Io(_)) && error.is_retryable());
    for (program, arguments) in
        [("/bin/cat", &[][..]), ("/bin/true", &[]), ("/bin/sh", &["-c", "printf aaaaaaaaaaaa; sleep 9"])]
    {
        let error = read(&pool(program, arguments), b"text").await.unwrap_err();
        assert!(matches!(error, ExtractError::Crashed { .. }), "{program}: {error:?}");
    }
    // That one never gets ready says nothing about the document.
    let error = read(&pool("/bin/sleep", &["60"]), b"text").await.unwrap_err();
    assert!(matches!(error, ExtractError::Io(_)) && error.is_retryable(), "{error:?}");
}

#[tokio::test]
async fn a_hint_of_any_length_is_harmless() {
    let pool = pool(quick());
    let found =
        pool.extract(content(b"prose".to_vec()), hint(&"x".repeat(1 << 20), &"y".repeat(1 << 20))).await.unwrap();
    assert_eq!((found.kind.as_str(), found.text.as_str()), ("text", "prose"));
}

#[tokio::test]
async fn many_small_documents() {
    let pool = pool(quick());
    still_works(&pool).await;
    let started = tokio::time::Instant::now();
    let html = format!("<!doctype html><title>T</title><p>{PHRASE}</p>").into_bytes();
    for _ in 0..200 {
        assert_eq!(read(&pool, &html).await.unwrap().text, PHRASE);
    }
    eprintln!("200 small documents: {:?}", started.elapsed());
}

#[tokio::test]
async fn a_large_pdf_fits_into_the_default_memory() {
    let pool = pool(ExtractLimits::default());
    let picture = samples::stream("/Type /XObject /Subtype /Image /Width 1 /Height 1", &vec![0x55; 120 << 20]);
    let content = format!("BT /F1 24 Tf 72 720 Td ({PHRASE}) Tj ET");
    let pdf = samples::pdf_with(samples::stream("", content.as_bytes()), vec![picture], "", "");
    assert_eq!(read(&pool, &pdf).await.unwrap().text, PHRASE);
}

#[tokio::test]
async fn damaged_documents_never_harm_the_pool() {
    let pool = pool(quick());
    // A fixed sequence: what fails once fails again.
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    for (kind, extension, data) in documents() {
        for _ in 0..40 {
            let mut damaged = data.clone();
            for _ in 0..=random(8) {
                let at = random(damaged.len());
                match random(3) {
                    0 => damaged[at] = random(256) as u8,
                    1 => damaged.truncate(at.max(1)),
                    _ => damaged[at] ^= 1 << random(8),
                }
            }
            let result = pool.extract(content(damaged), hint("", extension)).await;
            let alive =
                !matches!(result, Err(ExtractError::Io(_) | ExtractError::Source(_) | ExtractError::Timeout { .. }));
            assert!(alive, "{kind}: {result:?}");
        }
    }
    still_works(&pool).await;
}
