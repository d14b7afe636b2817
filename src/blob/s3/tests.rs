//! What a store and the way to it do to calls: nothing acknowledged is lost, nothing doubtful is believed, nothing is
//! left over.

use std::collections::HashMap;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use super::layout::{PART_BYTES, Recorded, WHOLE};
use super::{BlobError, BlobStore, Listed, S3, SegmentWriter, Wanted};
use crate::blob::bucket::{Harm, Store, Ways};
use crate::blob::contract::{read_all, segment};
use crate::blob::harm::Harms;
use crate::blob::remote::Memory;
use crate::blob::remote::harmed::{Harmed, MEMORY, PART, data, left, stands, written};
use crate::clock::{Clock, Timestamp};
use crate::config::{Config, Storage};
use crate::limits;

const DAY: Duration = Duration::from_secs(25 * 3600);

/// A client of the store that a test plays.
pub(crate) fn of(store: &Store, prefix: &str) -> S3 {
    at(&store.url(prefix))
}

/// And one of any store.
pub(in crate::blob) fn at(url: &str) -> S3 {
    impatient(url, super::STALL)
}

/// And one that waits for so long.
fn impatient(url: &str, stall: Duration) -> S3 {
    let mut config = Config::default();
    config.set_text("storage", url).unwrap();
    match &config.storage {
        Storage::Bucket(bucket) => S3::new(bucket, HashMap::new(), Clock::system(), Some(MEMORY), stall).unwrap(),
        Storage::Disk | Storage::Container(_) => panic!("a bucket"),
    }
}

/// Every test of these, on a store that speaks as Amazon's does and on one that speaks as Google's.
macro_rules! on_both {
    ($($name:ident)*) => {
        mod amazon {
            $(#[tokio::test] async fn $name() { super::$name(super::Store::start()).await; })*
        }
        mod google {
            $(#[tokio::test] async fn $name() { super::$name(super::Store::google()).await; })*
        }
    };
}

on_both! {
    a_segment_costs_the_calls_that_it_must
    chunks_that_are_persisted_are_sent_twice_at_most
    credentials_that_were_rotated_are_read_again_once
    sealing_may_be_repeated_after_every_step_that_failed
    a_writer_that_wakes_up_late_changes_nothing
    lost_bytes_are_never_sealed
    deleting_takes_uploads_objects_and_tails_and_may_be_repeated
    a_listing_shows_each_segment_once_and_removes_what_none_needs
    a_bucket_is_checked_before_it_is_used_and_belongs_to_one
}

struct OfStore<const GOOGLE: bool> {
    store: Store,
    s3: S3,
}

#[async_trait]
impl<const GOOGLE: bool> Harmed for OfStore<GOOGLE> {
    const WHOLE: &'static str = "PutObject";
    const PIECE: &'static str = "PutObject";
    const RANGE: &'static str = "GetObject";
    const WRITES: &'static [(&'static str, bool)] = &[
        ("CreateMultipartUpload", false),
        ("UploadPart", true),
        ("CompleteMultipartUpload", false),
        ("PutObject", true),
    ];
    const PASSING: &'static [(u16, &'static str)] =
        &[(500, "InternalError"), (503, "SlowDown"), (429, "TooManyRequests"), (502, "")];
    const LASTING: &'static [(&'static str, Harm)] = &[
        ("PutObject", Harm::Refuse(503, "SlowDown")),
        ("UploadPart", Harm::CutBefore),
        ("UploadPart", Harm::Refuse(404, "NoSuchUpload")),
        ("UploadPart", Harm::NoETag),
        ("UploadPart", Harm::Damage),
        ("CompleteMultipartUpload", Harm::Refuse(404, "NoSuchUpload")),
        ("CompleteMultipartUpload", Harm::ErrorInside("InternalError")),
        ("CompleteMultipartUpload", Harm::Refuse(400, "InvalidPart")),
        ("CreateMultipartUpload", Harm::Refuse(400, "InvalidRequest")),
    ];

    fn new(stall: Duration) -> Self {
        let store = if GOOGLE { Store::google() } else { Store::start() };
        Self { s3: impatient(&store.url(""), stall), store }
    }

    fn store(&self) -> &dyn BlobStore {
        &self.s3
    }

    fn harms(&self) -> &Harms {
        self.store.harms()
    }

    fn memory(&self) -> &Memory {
        &self.s3.shared.memory
    }

    async fn names(&self) -> Vec<String> {
        let objects = self.store.objects("").into_iter().map(|(key, _)| key);
        objects.chain(self.store.uploads("")).collect()
    }
}

stands!(harmed_as_amazon: OfStore<false>);
stands!(harmed_as_google: OfStore<true>);

#[tokio::test]
async fn an_error_inside_a_success_is_an_error() {
    let store = Store::start();
    let (s3, all) = (of(&store, ""), data(2 * PART + 300_000));
    for code in ["InternalError", "SlowDown"] {
        store.harm("CompleteMultipartUpload", 2, Harm::ErrorInside(code));
        let id = segment();
        let extent = written(&s3, id, &all).await.finish().await.expect(code);
        assert!(read_all(&s3, id, &extent.backend).await == all);
    }
}

/// What was asked, but for who asks.
fn asked(store: &Store) -> Vec<crate::blob::bucket::Call> {
    store.calls().into_iter().filter(|call| call.what != "Token").collect()
}

async fn listed(s3: &S3) -> Vec<Listed> {
    let mut all = Vec::new();
    s3.list(&mut |batch| all.extend(batch)).await.unwrap();
    all
}

/// Waits for what is removed in the background.
async fn until(mut done: impl FnMut() -> bool) {
    for _ in 0..1000 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it does not come to be");
}

async fn a_segment_costs_the_calls_that_it_must(store: Store) {
    let s3 = of(&store, "");
    // Up to a part: one call.
    for length in [0, 1, PART] {
        let writer = written(&s3, segment(), &data(length)).await;
        assert_eq!(writer.finish().await.unwrap().backend, WHOLE);
        let calls: Vec<_> = asked(&store).into_iter().map(|call| (call.what, call.bytes)).collect();
        assert_eq!(calls, [("PutObject", u64::try_from(length).unwrap())]);
    }
    // Longer: a beginning, the parts, an end.
    let writer = written(&s3, segment(), &data(2 * PART + 1)).await;
    writer.finish().await.unwrap();
    let mut calls: Vec<_> = asked(&store).into_iter().map(|call| call.what).collect();
    calls.sort_unstable();
    let wanted = ["CompleteMultipartUpload", "CreateMultipartUpload", "UploadPart", "UploadPart", "UploadPart"];
    assert_eq!(calls, wanted);
    // Discarded before anything was sent: none.
    written(&s3, segment(), &data(PART)).await.discard().await;
    assert_eq!(store.calls(), []);
}

async fn chunks_that_are_persisted_are_sent_twice_at_most(store: Store) {
    let s3 = of(&store, "p");
    let (id, all) = (segment(), data(2 * PART + 300_000));
    let mut writer = s3.create(id, None).await.unwrap();
    let step = 256 * 1024;
    let mut extent = None;
    for from in (0..all.len()).step_by(step) {
        writer.write(&mut vec![all.slice(from..all.len().min(from + step))]).await.unwrap();
        let persisted = writer.persist().await.unwrap();
        let recorded: Recorded = persisted.backend.parse().unwrap();
        assert_eq!(recorded.length(), persisted.length);
        assert!(persisted.backend.len() < 1_500, "{}", persisted.backend);
        extent = Some(persisted);
    }
    let sent: u64 = store.calls().iter().map(|call| call.bytes).sum();
    assert!(sent <= 2 * u64::try_from(all.len()).unwrap(), "{sent}");
    // What a recorded extent does not need is gone while the upload goes on.
    writer.write(&mut vec![Bytes::from_static(b"x")]).await.unwrap();
    let tails = || store.objects("p/").len();
    until(|| tails() <= 2).await;
    assert_eq!(s3.length(id, &extent.unwrap().backend).await.unwrap(), Some(u64::try_from(all.len()).unwrap()));
    let extent = writer.finish().await.unwrap();
    until(|| tails() == 1).await;
    assert!(read_all(&s3, id, &extent.backend).await == [&all[..], b"x"].concat());
}

async fn credentials_that_were_rotated_are_read_again_once(store: Store) {
    let s3 = of(&store, "");
    written(&s3, segment(), &data(10)).await.finish().await.unwrap();
    store.rotate("AKIAOTHEROTHER00", "another", true);
    written(&s3, segment(), &data(10)).await.finish().await.expect("the file has the new ones");
    store.rotate("AKIATHIRDTHIRD00", "a third", false);
    store.calls();
    match written(&s3, segment(), &data(10)).await.finish().await {
        Err(BlobError::Io(error)) => {
            assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied);
            assert!(error.to_string().contains("credentials") && !error.to_string().contains("another"), "{error}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(store.count("PutObject"), 2);
}

async fn sealing_may_be_repeated_after_every_step_that_failed(store: Store) {
    let s3 = of(&store, "x");
    for (what, harm) in [
        ("ListParts", Harm::Refuse(403, "AccessDenied")),
        ("GetObject", Harm::Refuse(403, "AccessDenied")),
        ("UploadPart", Harm::Refuse(403, "AccessDenied")),
        ("UploadPart", Harm::RefuseAfter(403, "AccessDenied")),
        ("CompleteMultipartUpload", Harm::Refuse(403, "AccessDenied")),
        ("CompleteMultipartUpload", Harm::RefuseAfter(403, "AccessDenied")),
        ("CompleteMultipartUpload", Harm::CutAfter),
        ("CompleteMultipartUpload", Harm::Refuse(400, "InvalidPart")),
    ] {
        let (id, _writer, extent, all) = left(&s3).await;
        store.harm(what, 2, harm);
        let first = s3.seal(id, &extent.backend, extent.length).await;
        store.spare();
        let sealed = s3.seal(id, &extent.backend, extent.length).await;
        assert_eq!(sealed.unwrap_or_else(|error| panic!("{what} {harm:?} {first:?}: {error}")), WHOLE);
        assert!(read_all(&s3, id, WHOLE).await == all, "{what} {harm:?}");
        until(|| store.objects("x/").len() == 1 && store.uploads("x/").is_empty()).await;
        s3.delete(id, WHOLE).await.unwrap();
    }
}

async fn a_writer_that_wakes_up_late_changes_nothing(store: Store) {
    let s3 = of(&store, "");
    // Before the sealing, between its steps, and after it.
    for late in 0..3 {
        let (id, mut writer, extent, all) = left(&s3).await;
        let more = async |writer: &mut Box<dyn SegmentWriter>| {
            let _ = writer.write(&mut vec![data(3 * PART)]).await;
            let _ = writer.persist().await;
        };
        if late == 0 {
            more(&mut writer).await;
        }
        if late == 1 {
            store.harm("CompleteMultipartUpload", 1, Harm::Refuse(403, "AccessDenied"));
            store.harm("CompleteMultipartUpload", 1, Harm::Refuse(403, "AccessDenied"));
            s3.seal(id, &extent.backend, extent.length).await.unwrap_err();
            more(&mut writer).await;
        }
        s3.seal(id, &extent.backend, extent.length).await.unwrap();
        assert!(read_all(&s3, id, WHOLE).await == all, "{late}");
        more(&mut writer).await;
        assert!(writer.finish().await.is_err(), "it does not believe that its bytes are there");
        assert!(read_all(&s3, id, WHOLE).await == all, "{late}");
    }
    // One that finishes first has written at least as much.
    let (id, writer, extent, all) = left(&s3).await;
    writer.finish().await.unwrap();
    assert_eq!(s3.seal(id, &extent.backend, extent.length).await.unwrap(), WHOLE);
    assert!(read_all(&s3, id, WHOLE).await == all);
}

async fn lost_bytes_are_never_sealed(store: Store) {
    let s3 = of(&store, "");
    // The upload is gone, and no object is there.
    let (id, _writer, extent, _) = left(&s3).await;
    store.lose(&id.to_string());
    let lost = s3.seal(id, &extent.backend, extent.length).await;
    assert!(matches!(lost, Err(BlobError::Truncated { found: 0, .. })), "{lost:?}");
    assert_eq!(s3.length(id, &extent.backend).await.unwrap(), None);
    // A tail is gone, or damaged.
    for lose in [true, false] {
        let (id, _writer, extent, _) = left(&s3).await;
        let tail = store.objects(&id.to_string()).pop().unwrap().0;
        if lose {
            store.lose(&tail);
            let found = s3.length(id, &extent.backend).await.unwrap();
            assert!(found.is_some_and(|found| (PART_BYTES..extent.length).contains(&found)), "{found:?}");
        } else {
            store.damage(&tail, 5);
        }
        s3.seal(id, &extent.backend, extent.length).await.unwrap_err();
        assert!(store.objects(&id.to_string()).iter().all(|(key, _)| *key != id.to_string()));
    }
    assert!(s3.seal(id, "what is this", 5).await.is_err());
}

async fn deleting_takes_uploads_objects_and_tails_and_may_be_repeated(store: Store) {
    let s3 = of(&store, "a/b");
    let (id, _writer, extent, _) = left(&s3).await;
    let (other, _other_writer, ..) = left(&s3).await;
    store.begin_another(&format!("a/b/{id}"));
    store.harm("AbortMultipartUpload", 1, Harm::CutAfter);
    store.harm("DeleteObject", 1, Harm::CutAfter);
    for _ in 0..2 {
        s3.delete(id, &extent.backend).await.unwrap();
        assert!(store.uploads("").iter().all(|key| key.ends_with(&other.to_string())));
        assert!(store.objects("").iter().all(|(key, _)| key.contains(&other.to_string())));
    }
    assert!(!store.objects("").is_empty() && store.uploads("").len() == 1);
}

async fn a_listing_shows_each_segment_once_and_removes_what_none_needs(store: Store) {
    let s3 = of(&store, "x");
    let mut wanted = Vec::new();
    // More than a page of each kind.
    for _ in 0..60 {
        let id = segment();
        written(&s3, id, &data(5)).await.finish().await.unwrap();
        store.begin_another(&format!("x/{id}"));
        store.copy(&format!("x/{id}"), &format!("x/{id}.{:012x}", 7));
        let begun = segment();
        store.begin_another(&format!("x/{begun}"));
        wanted.extend([id, begun]);
    }
    let probe = format!("x/probe-{}", crate::clock::random_uuid());
    for strange in ["x/readme.txt", "x/probe-1", &probe, "y/other", "x"] {
        store.copy(&format!("x/{}", wanted[0]), strange);
    }
    wanted.sort();
    let mut names: Vec<_> = listed(&s3).await.into_iter().map(|l| l.segment).collect();
    names.sort();
    assert!(names == wanted);
    assert_eq!((store.objects("").len(), store.uploads("").len()), (125, 120), "nothing is old");
    store.age(DAY);
    let now = Clock::system().now();
    let old = listed(&s3).await;
    assert!(old.len() == 120 && old.iter().all(|l| l.written <= now.minus(limits::ORPHAN_GRACE)));
    assert_eq!((store.objects("").len(), store.uploads("").len()), (64, 60));
    // Who writes for a day is not old.
    let (id, mut writer, ..) = left(&s3).await;
    store.age(DAY);
    writer.write(&mut vec![data(PART)]).await.unwrap();
    writer.persist().await.unwrap();
    let young: Vec<_> = listed(&s3).await.into_iter().filter(|l| l.written > now.minus(limits::ORPHAN_GRACE)).collect();
    assert_eq!(young.iter().map(|l| l.segment).collect::<Vec<_>>(), [id]);
    assert!(young[0].written > Timestamp(0));
}

async fn a_bucket_is_checked_before_it_is_used_and_belongs_to_one(store: Store) {
    let s3 = of(&store, "mine");
    s3.check(Wanted::default()).await.unwrap();
    assert!(store.objects("").is_empty(), "nothing is left");
    assert!(!s3.claim("first", false).await.unwrap(), "nobody's, and not to be taken");
    assert!(store.objects("").is_empty());
    for may_be_taken in [true, true, false] {
        assert!(s3.claim("first", may_be_taken).await.unwrap());
    }
    let refused = s3.claim("other", true).await.unwrap_err().to_string();
    assert!(refused.contains("another installation"), "{refused}");
    assert!(of(&store, "yours").claim("other", true).await.unwrap());
    assert_eq!(store.objects("").len(), 2);
    store.harm("ListMultipartUploads", 2, Harm::Refuse(403, "AccessDenied"));
    let refused = s3.check(Wanted::default()).await.unwrap_err().to_string();
    assert!(refused.contains("ListMultipartUploads") && refused.contains("permission"), "{refused}");
    store.harm("PutObject", 1, Harm::Refuse(404, "NoSuchBucket"));
    let refused = s3.check(Wanted::default()).await.unwrap_err().to_string();
    assert!(refused.contains("NoSuchBucket"), "{refused}");
}

#[tokio::test]
async fn what_clients_rely_on_is_checked_before_they_do() {
    let both = Wanted { create_only: true, versions: true };
    let store = Store::with_versions();
    of(&store, "a").check(both).await.unwrap();
    assert!(store.versions("").is_empty(), "the probe is gone with all its versions");
    store.behave(Ways { conditions: false, ..Ways::default() });
    let refused = of(&store, "b").check(both).await.unwrap_err().to_string();
    assert!(refused.contains("If-None-Match") && refused.contains("`direct`"), "{refused}");
    store.behave(Ways::default());
    let refused = of(&store, "c").check(both).await.unwrap_err().to_string();
    assert!(refused.contains("versioning") && refused.contains("`direct`"), "{refused}");
    of(&store, "d").check(Wanted { versions: false, ..both }).await.unwrap();
    // One that names versions and keeps none is told as well, and otherwise used as one that has none.
    store.behave(Ways { names: true, ..Ways::default() });
    let refused = of(&store, "e").check(both).await.unwrap_err().to_string();
    assert!(refused.contains("versioning") && refused.contains("`direct`"), "{refused}");
    of(&store, "f").check(Wanted { versions: false, ..both }).await.unwrap();
    assert!(store.objects("f/").is_empty(), "what it tried is gone");
}

/// A service that hands out credentials, as a container's and an instance's do.
mod issuing {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::blob::bucket::{ACCESS_KEY, SECRET_KEY};

    /// Answers forever, by the first line of what is asked; counts who asked for credentials.
    fn serve() -> (String, Arc<AtomicUsize>) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                let mut head = Vec::new();
                let mut byte = [0];
                while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|n| n == 1) {
                    head.push(byte[0]);
                }
                let head = String::from_utf8_lossy(&head).to_lowercase();
                let json = format!(
                    r#"{{"Code":"Success","AccessKeyId":"{ACCESS_KEY}","SecretAccessKey":"{SECRET_KEY}",
                       "Token":"a-session-token","Expiration":"2099-01-01T00:00:00Z"}}"#
                );
                let (status, body) = match head.split(' ').nth(1) {
                    Some("/latest/api/token") if head.starts_with("put ") => (200, "a-token".into()),
                    Some("/latest/meta-data/iam/security-credentials/") if head.contains("a-token") => {
                        (200, "a-role".into())
                    }
                    Some("/latest/meta-data/iam/security-credentials/a-role") if head.contains("a-token") => {
                        count.fetch_add(1, Ordering::SeqCst);
                        (200, json)
                    }
                    Some("/container") if head.contains("authorization: of-the-task") => {
                        count.fetch_add(1, Ordering::SeqCst);
                        (200, json)
                    }
                    _ => (403, String::new()),
                };
                let length = body.len();
                let _ = stream.write_all(
                    format!("HTTP/1.1 {status} x\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}")
                        .as_bytes(),
                );
            }
        });
        (format!("http://{address}"), asked)
    }

    fn with(store: &Store, environment: &[(&str, &str)]) -> S3 {
        let mut config = Config::default();
        let url = store.url("c");
        config.set_text("storage", url.split("&credentials").next().unwrap()).unwrap();
        let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        match &config.storage {
            Storage::Bucket(bucket) => S3::open(bucket, environment, Clock::system(), MEMORY).unwrap(),
            Storage::Disk | Storage::Container(_) => panic!("a bucket"),
        }
    }

    #[tokio::test]
    async fn credentials_come_from_wherever_they_are() {
        let store = Store::start();
        let (base, asked) = serve();
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir(home.path().join(".aws")).unwrap();
        let file = home.path().join(".aws/credentials");
        let text = format!("[other]\naws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\n");
        std::fs::write(&file, text).unwrap();
        let home = home.path().to_str().unwrap();
        let task = format!("{base}/container");
        let none = ("AWS_EC2_METADATA_DISABLED", "true");
        let good: [&[(&str, &str)]; 5] = [
            &[none, ("AWS_ACCESS_KEY_ID", ACCESS_KEY), ("AWS_SECRET_ACCESS_KEY", SECRET_KEY)],
            &[none, ("HOME", home), ("AWS_PROFILE", "other")],
            &[none, ("AWS_SHARED_CREDENTIALS_FILE", file.to_str().unwrap()), ("AWS_PROFILE", "other")],
            &[
                none,
                ("AWS_CONTAINER_CREDENTIALS_FULL_URI", &task),
                ("AWS_CONTAINER_AUTHORIZATION_TOKEN", "of-the-task"),
            ],
            &[("AWS_EC2_METADATA_SERVICE_ENDPOINT", &base)],
        ];
        for environment in good {
            let s3 = with(&store, environment);
            for _ in 0..3 {
                s3.ping().await.unwrap_or_else(|error| panic!("{environment:?}: {error}"));
            }
        }
        assert_eq!(asked.load(Ordering::SeqCst), 2, "they are kept until shortly before they expire");
        for environment in [&[none][..], &[none, ("HOME", home)], &[none, ("AWS_ACCESS_KEY_ID", ACCESS_KEY)]] {
            let refused = with(&store, environment).check(Wanted::default()).await.unwrap_err().to_string();
            assert!(refused.contains("AWS_ACCESS_KEY_ID") && refused.contains("no credentials"), "{refused}");
            assert!(!refused.contains(SECRET_KEY));
        }
    }
}
