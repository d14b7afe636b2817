//! Multipart sessions and their parts.

use futures_util::future::{join, join_all};

use super::*;
use crate::model::file::{Crcs, Declared};
use crate::model::session::{Declaration, Lacking, Part, Parts};

const KEY: KeyId = KeyId(uuid::Uuid::nil());

fn crcs_of(part: &Part) -> Crcs {
    part.piece.digests.crcs().unwrap()
}

impl Case {
    /// An open session of three parts, of which all but the last must have 10 bytes.
    async fn in_parts(&self, change: impl FnOnce(&mut Session)) -> Session {
        let draft = self.draft();
        let declaration = Declaration { name: "a".into(), mime_type: "a/b".into(), ..Declaration::default() };
        let mut session = Session {
            file: FileId(draft.id.0),
            strategy: Strategy::Multipart,
            versions_allowed: false,
            registers: true,
            key: Some(KEY),
            declaration: Some(declaration),
            parts: Some(Parts { count: 3, smallest: 10, largest: 50 }),
            ..draft
        };
        change(&mut session);
        assert_eq!(self.store.open_sessions(vec![session.clone()]).await.unwrap(), None);
        session
    }

    fn new_part(&self, session: &Session, number: u32, length: u64) -> NewPart {
        let attempt = u64::from_be_bytes(random_bytes());
        let segment = SegmentId { session: session.id, epoch: session.epoch, attempt };
        let digests = Crcs { crc32c: number, crc64nvme: attempt }.into();
        let piece = Piece { segment, length, digests, backend: "b".into() };
        NewPart { session: session.id, epoch: session.epoch, part: Part { number, piece }, now: self.now }
    }

    async fn record(&self, session: &Session, number: u32, length: u64) -> Part {
        let new = self.new_part(session, number, length);
        assert_eq!(self.store.record_part(new.clone()).await.unwrap(), PartRecorded::Recorded);
        new.part
    }

    fn complete(&self, session: &Session) -> CommitParts {
        CommitParts {
            session: session.id,
            version: VersionId(ordered_uuid(self.now)),
            size: None,
            digests: Declared::default(),
            now: self.now,
            keep_replaced: ZERO,
        }
    }

    async fn reserved(&self) -> u64 {
        self.store.usage(&tenant()).await.unwrap().reserved
    }

    async fn tombs(&self) -> Vec<SegmentId> {
        let due = self.store.due_tombstones(self.now, 100).await.unwrap();
        assert!(due.iter().all(|tombstone| tombstone.backend == "b"));
        let mut segments: Vec<_> = due.into_iter().map(|tombstone| tombstone.segment).collect();
        segments.sort();
        segments
    }
}

fn sorted(parts: &[&Part]) -> Vec<SegmentId> {
    let mut segments: Vec<_> = parts.iter().map(|part| part.piece.segment).collect();
    segments.sort();
    segments
}

async fn parts_make_a_version_in_the_order_of_their_numbers(case: Case) {
    let session = case.in_parts(|_| {}).await;
    let third = case.record(&session, 3, 0).await;
    let lost = case.record(&session, 1, 20).await;
    let first = case.record(&session, 1, 10).await;
    assert_eq!(case.tombs().await, sorted(&[&lost]), "the last to come counts");
    assert_eq!(case.store.part(session.id, 1).await.unwrap(), Some(first.clone()));
    assert_eq!(case.store.part(session.id, 2).await.unwrap(), None);
    let upload = case.store.upload(session.id).await.unwrap().unwrap();
    let grown = Session { reserved: 10, ..session.clone() };
    assert_eq!((upload.session, upload.progress.received), (grown, 10));
    assert_eq!(case.reserved().await, 10);
    let missing = PartsCommitted::Lacking(Lacking::Missing([2].into_iter().collect()), 10);
    assert_eq!(case.store.commit_parts(case.complete(&session)).await.unwrap(), missing);
    let small = case.record(&session, 2, 9).await;
    let too_small = PartsCommitted::Lacking(Lacking::TooSmall([2].into_iter().collect()), 19);
    assert_eq!(case.store.commit_parts(case.complete(&session)).await.unwrap(), too_small);
    let second = case.record(&session, 2, 15).await;
    let parts = [&first, &second, &third];
    assert_eq!(case.store.parts(session.id).await.unwrap().iter().collect::<Vec<_>>(), parts);
    assert_eq!(case.store.progressing_above(None, 10).await.unwrap().len(), 1);
    let known = case.store.known_segments(parts.map(|part| part.piece.segment).to_vec()).await.unwrap();
    assert_eq!(known, [true; 3]);
    assert_eq!(case.store.file(&tenant(), session.file).await.unwrap(), None, "nothing shows before the commit");
    case.sound().await;

    let ask = case.complete(&session);
    let PartsCommitted::New(receipt) = case.store.commit_parts(ask.clone()).await.unwrap() else { panic!() };
    assert_eq!((receipt.version, receipt.size, receipt.committed), (ask.version, 25, case.now));
    let version = case.store.version(&tenant(), receipt.version).await.unwrap().unwrap();
    assert_eq!(version.pieces, parts.map(|part| part.piece.clone()));
    let crcs = [&second, &third]
        .into_iter()
        .fold(crcs_of(&first), |all, part| all.followed_by(crcs_of(part), part.piece.length));
    assert_eq!((version.digests.crcs(), receipt.digests.crcs()), (Some(crcs), Some(crcs)));
    let again = CommitParts { now: case.later(9), ..case.complete(&session) };
    assert_eq!(case.store.commit_parts(again).await.unwrap(), PartsCommitted::Before(receipt));
    let usage = case.store.usage(&tenant()).await.unwrap();
    assert_eq!((usage.bytes, usage.files, usage.reserved, usage.open_sessions), (25, 1, 0, 0));
    // What comes late changes nothing, and its segment is nobody's.
    let late = case.new_part(&session, 1, 10);
    assert_eq!(case.store.record_part(late.clone()).await.unwrap(), PartRecorded::Closed);
    assert_eq!(case.store.known_segments(vec![late.part.piece.segment]).await.unwrap(), [false]);
    assert_eq!(case.tombs().await, sorted(&[&lost, &small]));
    assert!(case.store.parts(session.id).await.unwrap().is_empty());
    assert!(case.store.progressing_above(None, 10).await.unwrap().is_empty());
    assert!(case.store.file_record(&tenant(), session.file).await.unwrap().is_some());
    // No other way leads to a version of it.
    assert_eq!(case.store.commit(case.version(&session, 1)).await.unwrap(), Committed::Closed);
    case.sound().await;
}

async fn a_part_that_does_not_fit_changes_nothing(case: Case) {
    let quota = Quota { bytes: Some(60), sessions: None };
    assert!(case.store.set_quota(&tenant(), quota).await.unwrap());
    let session = case.in_parts(|session| (session.size, session.reserved) = (Some(30), 30)).await;
    assert_eq!(case.reserved().await, 30);
    case.record(&session, 1, 30).await;
    assert_eq!(case.reserved().await, 30, "what was declared is reserved already");
    case.record(&session, 2, 30).await;
    assert_eq!(case.reserved().await, 60, "what goes beyond is reserved as it comes");
    let over = OverQuota { what: "bytes", limit: 60, used: 60, wanted: 1 };
    let more = case.new_part(&session, 3, 1);
    assert_eq!(case.store.record_part(more.clone()).await.unwrap(), PartRecorded::OverQuota(over));
    assert_eq!(case.store.known_segments(vec![more.part.piece.segment]).await.unwrap(), [false]);
    assert_eq!(case.store.part(session.id, 3).await.unwrap(), None);
    let kept = case.record(&session, 2, 10).await;
    assert_eq!(case.reserved().await, 40, "and given back when it goes");
    for (number, epoch, now) in
        [(0, 1, case.now), (4, 1, case.now), (2, 2, case.now), (2, 0, case.now), (2, 1, session.expires)]
    {
        let wrong = NewPart { epoch, now, ..case.new_part(&session, number, 1) };
        assert_eq!(case.store.record_part(wrong).await.unwrap(), PartRecorded::Closed, "{number} {epoch} {now:?}");
    }
    assert_eq!(case.store.part(session.id, 2).await.unwrap(), Some(kept));
    assert!(case.store.set_quota(&tenant(), Quota::default()).await.unwrap());
    case.record(&session, 3, 50).await;
    let beyond = case.new_part(&session, 2, 21);
    assert_eq!(case.store.record_part(beyond).await.unwrap(), PartRecorded::TooLarge(100));
    let unknown = NewPart { session: SessionId(random_uuid()), ..case.new_part(&session, 1, 1) };
    assert_eq!(case.store.record_part(unknown).await.unwrap(), PartRecorded::Closed);
    let single = case.session().await;
    assert_eq!(case.store.record_part(case.new_part(&single, 1, 1)).await.unwrap(), PartRecorded::Closed);
    assert_eq!(case.store.commit_parts(case.complete(&single)).await.unwrap(), PartsCommitted::Closed);
    case.sound().await;
}

async fn what_was_declared_of_the_whole_must_hold(case: Case) {
    let session = case
        .in_parts(|session| {
            (session.size, session.reserved) = (Some(30), 30);
            let declaration = session.declaration.as_mut().unwrap();
            declaration.digests = Declared { crc32c: Some(7), ..Declared::default() };
        })
        .await;
    let parts = [case.record(&session, 1, 10).await, case.record(&session, 2, 10).await];
    case.record(&session, 3, 9).await;
    let differs = async |what, declared: &str, found: &str, change: &dyn Fn(&mut CommitParts)| {
        let mut ask = case.complete(&session);
        change(&mut ask);
        let (declared, found) = (declared.to_owned(), found.to_owned());
        let wanted = PartsCommitted::Differs { what, declared, found };
        assert_eq!(case.store.commit_parts(ask).await.unwrap(), wanted);
    };
    differs("size", "30", "29", &|_| {}).await;
    let third = case.record(&session, 3, 10).await;
    let crcs = [&parts[1], &third].into_iter().fold(crcs_of(&parts[0]), |all, part| all.followed_by(crcs_of(part), 10));
    differs("size", "31", "30", &|ask| ask.size = Some(31)).await;
    differs("crc32c", "00000007", &format!("{:08x}", crcs.crc32c), &|_| {}).await;
    assert_eq!(case.store.session(&tenant(), session.id).await.unwrap(), Some(session), "it stays open");
    case.sound().await;
}

async fn parts_go_with_their_session(case: Case) {
    // Aborted.
    let session = case.in_parts(|_| {}).await;
    let part = case.record(&session, 1, 10).await;
    let ended = case.store.end_session(session.id, SessionState::Aborted, case.now).await.unwrap();
    assert_eq!(ended, Some(SessionState::Aborted));
    let mut gone = vec![part];
    assert_eq!(case.store.commit_parts(case.complete(&session)).await.unwrap(), PartsCommitted::Closed);
    // With its file, of which it would be the next version; and by that of which it would be the content.
    let file = case.in_parts(|session| session.parts = Some(Parts { count: 1, smallest: 0, largest: 9 })).await;
    gone.push(case.record(&file, 1, 3).await);
    let PartsCommitted::New(_) = case.store.commit_parts(case.complete(&file)).await.unwrap() else { panic!() };
    for needs_file in [true, false] {
        let next = case.in_parts(|session| (session.file, session.needs_file) = (file.file, needs_file)).await;
        gone.push(case.record(&next, 2, 10).await);
    }
    let deleted = case.store.delete_file(&tenant(), file.file, false, case.now, ZERO).await.unwrap();
    assert_eq!(deleted, FileDeleted::Done);
    assert_eq!(case.tombs().await, sorted(&gone.iter().collect::<Vec<_>>()));
    let late = case.in_parts(|session| (session.file, session.needs_file) = (file.file, true)).await;
    for number in 1..=3 {
        gone.push(case.record(&late, number, 10).await);
    }
    assert_eq!(case.store.commit_parts(case.complete(&late)).await.unwrap(), PartsCommitted::Closed);
    // Expired.
    let later = late.expires;
    assert_eq!(case.store.expire_sessions(later, 10).await.unwrap(), 1);
    assert_eq!(case.reserved().await, 0);
    assert_eq!(case.store.parts(late.id).await.unwrap().len(), 3, "deletion waits");
    case.store.expire_files(later, 10).await.unwrap();
    assert_eq!(case.store.due_tombstones(later, 100).await.unwrap().len(), gone.len());
    assert!(case.store.parts(late.id).await.unwrap().is_empty());
    case.sound().await;
}

async fn of_two_completes_one_makes_the_version_and_a_part_is_in_it_or_not(case: Case) {
    for _ in 0..20 {
        let session = case.in_parts(|_| {}).await;
        for number in 1..=3 {
            case.record(&session, number, 10).await;
        }
        let (first, second) = (case.complete(&session), case.complete(&session));
        let raced = case.new_part(&session, 2, 11);
        let (receipts, recorded) = join(
            join_all([first, second].map(|ask| case.store.commit_parts(ask))),
            case.store.record_part(raced.clone()),
        )
        .await;
        let receipts: Vec<_> = receipts.into_iter().map(Result::unwrap).collect();
        let receipt = match receipts.as_slice() {
            [PartsCommitted::New(a), PartsCommitted::Before(b)]
            | [PartsCommitted::Before(b), PartsCommitted::New(a)] => {
                assert_eq!(a, b);
                *a
            }
            other => panic!("{other:?}"),
        };
        let version = case.store.version(&tenant(), receipt.version).await.unwrap().unwrap();
        let inside = version.pieces.contains(&raced.part.piece);
        assert_eq!(recorded.unwrap() == PartRecorded::Recorded, inside);
        assert_eq!(version.size, if inside { 31 } else { 30 });
    }
    case.sound().await;
}

on_every_store! {
    parts_make_a_version_in_the_order_of_their_numbers;
    a_part_that_does_not_fit_changes_nothing;
    what_was_declared_of_the_whole_must_hold;
    parts_go_with_their_session;
    of_two_completes_one_makes_the_version_and_a_part_is_in_it_or_not;
}
