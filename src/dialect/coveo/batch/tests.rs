//! Batches of every shape.

use proptest::prelude::*;

use crate::model::change::{ContentDraft, PatchOperator};

use super::*;

const UPDATE: BatchKind = BatchKind::Items { partial_updates: true, merges: false };
const PUSH: BatchKind = BatchKind::Items { partial_updates: false, merges: false };
const MERGE: BatchKind = BatchKind::Items { partial_updates: false, merges: true };
const KINDS: [BatchKind; 4] = [UPDATE, PUSH, MERGE, BatchKind::Identities];

fn run(kind: BatchKind, content: impl AsRef<[u8]>) -> Result<(Vec<Record>, Summary), BatchError> {
    let mut records = Vec::new();
    let mut sink = |record| {
        records.push(record);
        Ok(())
    };
    let summary = translate(content.as_ref(), kind, &mut sink)?;
    Ok((records, summary))
}

fn refused(kind: BatchKind, content: impl AsRef<[u8]>) -> Refusal {
    match run(kind, content) {
        Err(BatchError::Refused(refusal)) => refusal,
        other => panic!("{other:?}"),
    }
}

fn malformed(kind: BatchKind, content: impl AsRef<[u8]>) -> String {
    match refused(kind, content) {
        Refusal::Malformed { reason } => reason,
        other => panic!("{other:?}"),
    }
}

fn names(records: &[Record]) -> Vec<String> {
    let name = |record: &Record| match record {
        Record::Item { change, .. } => {
            let verb = match change {
                Change::Put(_) => "put",
                Change::Merge(_) => "merge",
                Change::Patch(_) => "patch",
                Change::Delete { children: false, .. } => "delete",
                Change::Delete { children: true, .. } => "delete*",
            };
            format!("{verb} {}", change.document_id())
        }
        Record::Identity(IdentityChange::Put { relation, identity, .. }) => {
            format!("{} {}", relation.name(), identity.name)
        }
        Record::Identity(IdentityChange::Delete { identity }) => format!("delete {}", identity.name),
    };
    records.iter().map(name).collect()
}

#[test]
fn c30_c31_records_come_in_the_order_of_the_file_whatever_the_case() {
    for content in [
        r#"{"addOrUpdate":[{"documentId":"http://a"},{"documentId":"http://b","data":"x"}],
            "delete":[{"documentId":"http://c","deleteChildren":true},{"documentId":"http://d"}]}"#,
        r#"{"AddOrUpdate":[{"DocumentId":"http://a"},{"DocumentId":"http://b","Data":"x"}],
            "Delete":[{"DocumentId":"http://c","DeleteChildren":"True"},{"DocumentId":"http://d"}]}"#,
    ] {
        let (records, summary) = run(PUSH, content).expect("a batch");
        assert_eq!(names(&records), ["put http://a", "put http://b", "delete* http://c", "delete http://d"]);
        let bytes = u64::try_from(content.len()).expect("small");
        assert_eq!(summary, Summary { records: 4, puts: 2, deletes: 2, content_files: 0, bytes });
    }
    let (records, _) =
        run(PUSH, r#"{"delete":[{"documentId":"x"}],"addOrUpdate":[{"documentId":"http://a"}]}"#).expect("a batch");
    assert_eq!(names(&records), ["delete x", "put http://a"]);
}

#[test]
fn c32_empty_batches_are_taken() {
    for content in [
        "{}",
        " {} \n",
        "\u{feff}{}",
        r#"{"addOrUpdate":[],"delete":[]}"#,
        r#"{"addOrUpdate":null}"#,
        r#"{"addOrMerge":[],"partialUpdate":[],"members":{"a":[1,{"b":"c"}]},"x":null,"y":1.5,"z":"s","t":true,"n":-1}"#,
    ] {
        let (records, summary) = run(PUSH, content).expect(content);
        assert_eq!((records.len(), summary.records), (0, 0), "{content}");
    }
}

#[test]
fn c33_content_of_another_shape_is_invalid_json() {
    for (content, said) in [
        ("", "the batch is empty where JSON is required"),
        ("\u{feff}", "the batch is empty where JSON is required"),
        (" ", "the batch is not JSON: EOF while parsing a value"),
        ("hello", "the batch is not JSON: expected value at line 1 column 1"),
        ("[]", "the batch can't be taken: invalid type: sequence, expected an object of lists"),
        ("null", "the batch can't be taken: invalid type: null"),
        ("{} {}", "the batch is not JSON: trailing characters"),
        ("{", "the batch is not JSON: EOF while parsing an object"),
        (r#"{"addOrUpdate":{}}"#, "`addOrUpdate` must be an array, not an object"),
        (r#"{"addOrUpdate":"x"}"#, "`addOrUpdate` must be an array, not a string"),
        (r#"{"delete":7}"#, "`delete` must be an array, not a number"),
        (r#"{"addOrUpdate":[],"ADDORUPDATE":[]}"#, "the key `ADDORUPDATE` occurs twice in the batch"),
        (r#"{"x":1,"X":1}"#, "the key `X` occurs twice in the batch"),
        (r#"{"addOrUpdate":[{"documentId":"http://a"},{"title":"t"}]}"#, "addOrUpdate[1]: `documentId` is required"),
        (r#"{"addOrUpdate":[{"documentId":""}]}"#, "addOrUpdate[0]: `documentId` is required"),
        (r#"{"addOrUpdate":[{"documentId":"http://a"},3]}"#, "addOrUpdate[1]: an object is required"),
        (r#"{"addOrUpdate":[{"documentId":"http://a","data":"x","Data":"y"}]}"#, "addOrUpdate[0]: the keys"),
        (
            r#"{"addOrUpdate":[{"documentId":"http://a","data":"x","data":"y"}]}"#,
            "addOrUpdate[0] can't be taken: the key `data` occurs twice at line 1 column 59",
        ),
        (r#"{"addOrUpdate":[{"documentId":"http://a"},{"documentId""#, "addOrUpdate[1] is not JSON: EOF"),
        (r#"{"addOrUpdate":[{"documentId":"http://a"} {}]}"#, "addOrUpdate[1] is not JSON: expected `,` or `]`"),
        (r#"{"delete":[{"deleteChildren":true}]}"#, "delete[0]: `documentId` is required"),
        (r#"{"delete":["http://a"]}"#, "delete[0]: an object is required"),
        (r#"{"partialUpdate":[{}]}"#, "partialUpdate[0]: partial updates are taken by a stream update only"),
        (r#"{"addOrMerge":[{}]}"#, "addOrMerge[0]: merges are taken by a stream merge only"),
    ] {
        let got = malformed(PUSH, content);
        assert!(got.starts_with(said), "{content}: {got}");
    }
    assert!(malformed(PUSH, b"{\"x\":\"\xFF\"}").contains("invalid unicode"));
    let deep = format!("{{\"addOrUpdate\":[{}", "[".repeat(100_000));
    assert!(malformed(PUSH, deep).starts_with("addOrUpdate[0] can't be taken: nested deeper than 32 levels"));
    let deep = format!("{{\"x\":[{}", "[".repeat(100_000));
    assert!(malformed(PUSH, deep).contains("nested deeper than 32 levels"));
}

#[test]
fn s7_3_a_value_that_can_t_be_names_its_entry() {
    for (entry, wanted) in [
        (r#"{"documentId":"x"}"#, "addOrUpdate[1].documentId"),
        (r#"{"documentId":"http://x","compressionType":"brotli"}"#, "addOrUpdate[1].compressionType"),
        (r#"{"documentId":"http://x","compressedBinaryDataFileId":"x"}"#, "addOrUpdate[1].compressedBinaryDataFileId"),
    ] {
        match refused(PUSH, format!(r#"{{"addOrUpdate":[{{"documentId":"http://a"}},{entry}]}}"#)) {
            Refusal::Invalid { name, .. } => assert_eq!(name, wanted),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn s7_3_contents_are_told_beside_the_record() {
    let file = "60e285b1-58ec-5625-c5c4-53cd2434c19f";
    let content = format!(
        r#"{{"addOrUpdate":[{{"documentId":"http://a","compressedBinaryDataFileId":"{file}","compressionType":"GZip"}},
            {{"documentId":"http://b","compressedBinaryData":"YQ"}}]}}"#
    );
    let (records, summary) = run(PUSH, content).expect("a batch");
    assert_eq!(summary.content_files, 1);
    let drafts: Vec<_> = records
        .into_iter()
        .map(|record| match record {
            Record::Item { change: Change::Put(draft), content_file } => {
                (draft.content, draft.compression, content_file)
            }
            other => panic!("{other:?}"),
        })
        .collect();
    let id = file.parse().expect("a uuid");
    assert_eq!(drafts[0], (ContentDraft::None, Some("gzip".into()), Some(id)));
    assert_eq!(drafts[1], (ContentDraft::Base64("YQ==".into()), Some("zlib".into()), None));
}

#[test]
fn s4_a_batch_names_so_many_containers_and_no_more() {
    let entry = r#"{"documentId":"http://a","compressedBinaryDataFileId":"60e285b1-58ec-5625-c5c4-53cd2434c19f"}"#;
    let batch = |n: usize| format!("{{\"addOrUpdate\":[{}]}}", vec![entry; n].join(","));
    assert!(run(PUSH, batch(limits::BATCH_CONTENT_FILES)).is_ok());
    assert!(matches!(refused(PUSH, batch(limits::BATCH_CONTENT_FILES + 1)), Refusal::Invalid { name, .. }
        if name == "addOrUpdate[10000].compressedBinaryDataFileId"));
}

#[test]
fn c39_a_stream_update_mixes_items_and_partial_updates() {
    let content = r#"{"partialUpdate":[{"documentId":"http://a","operator":"FIELDVALUEREPLACE","field":"f","value":1}],
        "addOrUpdate":[{"documentId":"http://b"}]}"#;
    let (records, summary) = run(UPDATE, content).expect("a batch");
    assert_eq!(names(&records), ["patch http://a", "put http://b"]);
    assert!(
        matches!(&records[0], Record::Item { change: Change::Patch(p), .. } if p.operator == PatchOperator::Replace)
    );
    assert_eq!((summary.puts, summary.deletes), (2, 0));
}

#[test]
fn s10_a_stream_merge_takes_merges() {
    let content = r#"{"addOrMerge":[{"documentId":"http://a"}],"delete":[{"documentId":"http://b"}]}"#;
    assert_eq!(names(&run(MERGE, content).expect("a batch").0), ["merge http://a", "delete http://b"]);
    assert!(malformed(MERGE, r#"{"partialUpdate":[1]}"#).starts_with("partialUpdate[0]: "));
}

#[test]
fn c37_identities_come_in_three_lists() {
    let content = r#"{"Members":[{"identity":{"name":"g","type":"GROUP"},"members":[{"name":"a","type":"USER"}]}],
        "mappings":[{"Identity":{"Name":"m"},"Mappings":[]}],
        "deleted":[{"identity":{"name":"x","type":"USER"}},{"name":"y","type":"USER"}],"addOrUpdate":7}"#;
    let (records, summary) = run(BatchKind::Identities, content).expect("a batch");
    assert_eq!(names(&records), ["members g", "mappings m", "delete x", "delete y"]);
    assert_eq!((summary.puts, summary.deletes), (2, 2));
    assert_eq!(
        malformed(BatchKind::Identities, r#"{"members":[{"members":[]}]}"#),
        "members[0]: `identity` is required"
    );
    assert!(matches!(refused(BatchKind::Identities, r#"{"deleted":[{"name":"a","type":"robot"}]}"#),
        Refusal::Invalid { name, .. } if name == "deleted[0].type"));
}

/// Fails after its bytes, as a disk does.
struct Broken<'a>(&'a [u8]);

impl Read for Broken<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match self.0.read(out)? {
            0 => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the disk is gone")),
            n => Ok(n),
        }
    }
}

#[test]
fn an_error_of_the_reader_is_not_an_error_of_the_batch() {
    for content in ["", "{", r#"{"addOrUpdate":[{"documentId":"http://a"#, "{}", r#"{"x":"#] {
        match translate(Broken(content.as_bytes()), PUSH, &mut |_| Ok(())) {
            Err(BatchError::Read(e)) => assert_eq!(e.to_string(), "the disk is gone", "{content}"),
            other => panic!("{content}: {other:?}"),
        }
    }
}

#[test]
fn the_receiver_may_refuse_or_fail() {
    let content = r#"{"addOrUpdate":[{"documentId":"http://a"},{"documentId":"http://b"}]}"#;
    let mut count = 0;
    let got = translate(content.as_bytes(), PUSH, &mut |_| {
        count += 1;
        if count == 2 { Err(Refusal::invalid("compressedBinaryDataFileId", "is unknown").into()) } else { Ok(()) }
    });
    let Err(BatchError::Refused(refusal)) = got else { panic!("{got:?}") };
    assert_eq!(refusal, Refusal::invalid("addOrUpdate[1].compressedBinaryDataFileId", "is unknown"));
    let got = translate(content.as_bytes(), PUSH, &mut |_| Err(io::Error::other("full").into()));
    assert!(matches!(got, Err(BatchError::Write(_))), "{got:?}");
}

/// A batch made while it is read.
struct Made<F> {
    next: F,
    rest: Vec<u8>,
    at: usize,
}

impl<F: FnMut() -> Option<Vec<u8>>> Made<F> {
    fn new(next: F) -> Self {
        Self { next, rest: Vec::new(), at: 0 }
    }
}

impl<F: FnMut() -> Option<Vec<u8>>> Read for Made<F> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.at == self.rest.len() {
            let Some(rest) = (self.next)() else { return Ok(0) };
            (self.rest, self.at) = (rest, 0);
        }
        let n = (&self.rest[self.at..]).read(out)?;
        self.at += n;
        Ok(n)
    }
}

#[test]
fn a_million_records_are_handed_on_while_they_are_read() {
    const RECORDS: u64 = 1_000_000;
    let (made, taken) = (Cell::new(0_u64), Cell::new(0_u64));
    let mut n = 0;
    let input = Made::new(|| {
        n += 1;
        made.set(n);
        match n {
            1 => Some(br#"{"skipped":[1,2,3],"delete":["#.to_vec()),
            n if n <= RECORDS + 1 => {
                Some(format!("{}{{\"documentId\":\"x{n}\"}}", if n == 2 { "" } else { "," }).into_bytes())
            }
            n if n == RECORDS + 2 => Some(b"]}".to_vec()),
            _ => None,
        }
    });
    let mut ahead = 0;
    let summary = translate(input, PUSH, &mut |_| {
        taken.set(taken.get() + 1);
        ahead = ahead.max(made.get() - taken.get());
        Ok(())
    });
    assert_eq!(summary.expect("a batch").records, RECORDS);
    assert!(ahead < 4, "{ahead} records were read before they were handed on");
}

fn repeated(head: &str, byte: u8, blocks: usize, tail: &str) -> impl Read {
    let mut parts = std::iter::once(head.as_bytes().to_vec())
        .chain(std::iter::repeat_n(vec![byte; 1024 * 1024], blocks))
        .chain(std::iter::once(tail.as_bytes().to_vec()))
        .collect::<Vec<_>>()
        .into_iter();
    Made::new(move || parts.next())
}

#[test]
fn s4_a_record_is_limited_and_the_batch_is_not() {
    let item = r#"{"documentId":"http://a","data":""#;
    let over = limits::BATCH_RECORD_BYTES;
    let exact = usize::try_from(over).expect("small") - item.len() - 2;
    let batch = |n: usize| format!("{{\"addOrUpdate\":[{item}{}\"}},{item}\"}}]}}", "x".repeat(n));
    assert_eq!(run(PUSH, batch(exact)).expect("exactly the limit").1.records, 2);
    match refused(PUSH, batch(exact + 1)) {
        Refusal::TooLarge { limit, .. } => assert_eq!(limit, over),
        other => panic!("{other:?}"),
    }
    let blanks = repeated(r#"{"addOrUpdate":["#, b' ', 40, "]}");
    assert_eq!(translate(blanks, PUSH, &mut |_| Ok(())).expect("blanks count for nothing").records, 0);
    for (head, tail) in [(r#"{"x":["#, "]}"), (r#"{"x":{"a":["#, "]}}")] {
        let mut parts = vec![tail.as_bytes().to_vec(), b"1".to_vec()];
        parts.extend(vec![b"1,".repeat(512 * 1024); 40]);
        parts.push(head.as_bytes().to_vec());
        assert!(translate(Made::new(move || parts.pop()), PUSH, &mut |_| Ok(())).is_ok(), "unknown lists are skipped");
    }
}

#[test]
fn s4_nothing_endless_is_kept() {
    for (head, byte) in [(r#"{"x":""#, b'x'), (r#"{"addOrUpdate":""#, b'x'), (r#"{"addOrUpdate":[{"#, b' ')] {
        match translate(repeated(head, byte, 40, "\"}"), PUSH, &mut |_| Ok(())) {
            Err(BatchError::Refused(Refusal::TooLarge { .. })) => (),
            other => panic!("{head}: {other:?}"),
        }
    }
    match translate(repeated("{\"", b'x', 1, "\":1}"), PUSH, &mut |_| Ok(())) {
        Err(BatchError::Refused(Refusal::Malformed { reason })) => {
            assert!(reason.contains("longer than 4096"), "{reason}");
        }
        other => panic!("{other:?}"),
    }
    let keys: Vec<_> = (0..=UNKNOWN_KEYS).map(|n| format!("\"k{n}\":0")).collect();
    assert!(malformed(PUSH, format!("{{{}}}", keys.join(","))).contains("more than 1000 keys"));
}

/// A batch with something of everything that a stream update takes.
const SAMPLE: &str = r#"{"addOrUpdate":[{"documentId":"http://a","data":"x","permissions":[{"allowAnonymous":true,
    "allowedPermissions":[{"identity":"i","identityType":"USER"}]}],"tags":["a",1.5e3,null]},
    {"documentId":"http://b","compressedBinaryData":"YQ==","compressionType":"GZIP"}],"other":{"k":[{}]},
    "partialUpdate":[{"documentId":"http://a","operator":"dictionaryPut","field":"f","value":{"k":"v"}}],
    "delete":[{"documentId":"http://c","deleteChildren":true}]}"#;

proptest! {
    #[test]
    fn half_a_batch_is_no_batch(cut in 0..SAMPLE.len()) {
        prop_assert!(run(UPDATE, SAMPLE).is_ok());
        let got = run(UPDATE, &SAMPLE.as_bytes()[..cut]);
        let refused = matches!(&got, Err(BatchError::Refused(Refusal::Malformed { .. })));
        prop_assert!(refused, "{}: {:?}", cut, got);
    }

    #[test]
    fn a_changed_byte_never_panics(at in 0..SAMPLE.len(), byte in any::<u8>()) {
        let mut content = SAMPLE.as_bytes().to_vec();
        content[at] = byte;
        for kind in KINDS {
            let _ = run(kind, &content);
        }
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        for kind in KINDS {
            let _ = run(kind, &bytes);
        }
    }

    #[test]
    fn random_json_never_panics_and_never_fails_to_be_read(value in json::tests::any_json(), cut in 0_usize..200) {
        let text = value.to_string();
        for kind in KINDS {
            for content in [text.as_bytes(), &text.as_bytes()[..cut.min(text.len())]] {
                prop_assert!(!matches!(run(kind, content), Err(BatchError::Read(_) | BatchError::Write(_))));
            }
        }
    }
}
