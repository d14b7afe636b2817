//! Moves of bytes that can't be read, are not what they were, or go meanwhile, and to places that are full or lie.

use std::sync::atomic::AtomicBool;

use sha2::{Digest, Sha256};

use super::*;
use crate::blob::{BlobError, Lie, Places};
use crate::meta::{Committed, PlacedPiece};
use crate::model::file::{Digests, Piece, RunningCrcs};
use crate::model::ids::{PlaceId, SegmentId, SessionId};
use crate::model::session::{Declaration, Session, Strategy};
use crate::upload::commit;
use crate::upload::relocate::{Plan, Report, Stopped, relocate};

const TWO: PlaceId = PlaceId(2);
const PLAN: Plan = Plan { from: PlaceId::FIRST, rate: None, parallel: 1 };

/// A place whose bytes are in one memory, and shall be in another, which fails as the last one says.
async fn two() -> (Place, Memory, Faulty) {
    let mut place = Place::new(Form::Disk).await;
    let there = Memory::new(Form::Disk, place.engine.clock.clone());
    let target = Faulty::new(Arc::new(there.clone()));
    let current: Arc<dyn BlobStore> = Arc::new(target.clone());
    let other: Arc<dyn BlobStore> = Arc::new(place.faults.clone());
    place.engine.blobs = Arc::new(Places::new((TWO, current), vec![(PlaceId::FIRST, other)]));
    (place, there, target)
}

fn checksums(bytes: &[u8]) -> Digests {
    let mut crcs = RunningCrcs::default();
    crcs.update(bytes);
    crcs.value().into()
}

/// A version of one piece at the first place, of which so much is known.
async fn has(place: &Place, bytes: impl Into<Bytes>, of_piece: Digests, of_whole: Digests) -> Piece {
    let opened = place.open().await;
    let session = place.engine.meta.upload(opened.session).await.unwrap().unwrap().session;
    committed(place, &session, bytes, of_piece, of_whole).await
}

async fn committed(
    place: &Place,
    session: &Session,
    bytes: impl Into<Bytes>,
    of_piece: Digests,
    of_whole: Digests,
) -> Piece {
    let segment = SegmentId { session: session.id, epoch: session.epoch, attempt: 1 };
    let mut writer = place.faults.create(segment, None).await.unwrap();
    writer.write(&mut vec![bytes.into()]).await.unwrap();
    let extent = writer.finish().await.unwrap();
    let piece = Piece { segment, length: extent.length, digests: of_piece, backend: extent.backend };
    let new = commit::version_of(&place.engine, session, piece.clone(), of_whole);
    assert!(matches!(place.engine.meta.commit(new).await.unwrap(), Committed::New(_)));
    piece
}

/// Several of one piece each.
async fn have(place: &Place, count: usize) {
    for _ in 0..count {
        has(place, &b"12345"[..], checksums(b"12345"), Digests::default()).await;
    }
}

async fn moved(place: &Place) -> Result<Report, Stopped> {
    moved_by(place, PLAN).await
}

async fn moved_by(place: &Place, plan: Plan) -> Result<Report, Stopped> {
    relocate(&place.engine, plan, &AtomicBool::new(false), &|_| ()).await
}

async fn lying(place: &Place, at: PlaceId) -> Vec<PlacedPiece> {
    place.engine.meta.pieces_at(at, None, 100).await.unwrap()
}

/// A copy is begun.
async fn begun(there: &Memory) {
    let copied = async {
        while there.count() == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), copied).await.expect("a copy begins");
}

#[tokio::test]
async fn a_piece_that_can_t_be_read_keeps_no_other_from_being_moved() {
    let (place, ..) = two().await;
    for _ in 0..3 {
        has(&place, &b"12345"[..], checksums(b"12345"), Digests::default()).await;
    }
    place.faults.fail_next(Operation::Read, io::ErrorKind::Other);
    let report = moved(&place).await.unwrap();
    assert_eq!((report.moved, report.unread.len(), report.left.pieces), (2, 1, 1), "{report:?}");
    let report = moved(&place).await.unwrap();
    assert_eq!((report.moved, report.unread.len(), report.left.pieces), (1, 0, 0), "{report:?}");
}

#[tokio::test]
async fn a_place_that_can_t_be_read_at_all_ends_a_run() {
    let (place, there, _) = two().await;
    for _ in 0..20 {
        has(&place, &b"12345"[..], checksums(b"12345"), Digests::default()).await;
        place.faults.fail_next(Operation::Read, io::ErrorKind::Other);
    }
    assert!(matches!(moved(&place).await, Err(Stopped::Blob(_))));
    assert_eq!(there.count(), 0);
    let report = moved(&place).await.unwrap();
    assert_eq!((report.moved, report.unread.len(), report.left.pieces), (16, 4, 4), "{report:?}");
}

#[tokio::test]
async fn what_has_no_checksum_is_compared_with_what_is_known_of_it() {
    let (place, there, _) = two().await;
    let sha256 = |bytes: &[u8]| Digests { sha256: Some(Sha256::digest(bytes).into()), ..Digests::default() };
    let good = has(&place, &b"12345"[..], Digests::default(), sha256(b"12345")).await;
    let unknown = has(&place, &b"54321"[..], Digests::default(), Digests::default()).await;
    let bad = has(&place, &b"12345"[..], Digests::default(), sha256(b"12344")).await;
    let report = moved(&place).await.unwrap();
    assert_eq!((report.moved, report.damaged.len(), report.left.pieces), (2, 1, 1), "{report:?}");
    assert!(report.damaged[0].contains(&bad.segment.to_string()));
    assert_eq!(there.count(), 2);
    let found = place.engine.meta.pieces_at(TWO, None, 10).await.unwrap();
    for piece in [good, unknown] {
        let copy = found.iter().find(|copy| copy.piece.segment.session == piece.segment.session).unwrap();
        assert!(copy.piece.digests.crcs().is_some(), "from now on they are known");
    }
}

#[tokio::test]
async fn what_is_to_stay_free_stays_free_however_many_pieces_are_moved_at_once() {
    for parallel in [1, 4] {
        let (mut place, there, target) = two().await;
        place.engine.policy.free_space_min = 1000;
        have(&place, 5).await;
        // Room for two, and a little.
        target.leave_free(1012);
        let full = moved_by(&place, Plan { parallel, ..PLAN }).await;
        assert!(matches!(full, Err(Stopped::Blob(BlobError::OutOfSpace))), "{full:?}");
        assert_eq!((there.count(), lying(&place, PlaceId::FIRST).await.len()), (2, 3), "{parallel} at once");
        assert_eq!(target.space().await.unwrap().unwrap().free, 1002);
        place.sound().await;
        target.leave_free(1015);
        let report = moved_by(&place, Plan { parallel, ..PLAN }).await.unwrap();
        assert_eq!((report.moved, report.left.pieces, there.count()), (3, 0, 5));
        place.sound().await;
    }
}

#[tokio::test]
async fn a_long_copy_is_given_up_when_others_take_the_room() {
    let (mut place, there, target) = two().await;
    place.engine.policy.free_space_min = 1000;
    let bytes = vec![7; 65 << 20];
    let piece = has(&place, bytes.clone(), checksums(&bytes), Digests::default()).await;
    target.leave_free(1 << 30);
    let held = target.hold_writes().await;
    let others = async {
        begun(&there).await;
        // It had room when it began, and has it for all that it asks for at once.
        target.leave_free(64 << 20);
        drop(held);
    };
    let (full, ()) = futures_util::future::join(moved(&place), others).await;
    assert!(matches!(full, Err(Stopped::Blob(BlobError::OutOfSpace))), "{full:?}");
    assert_eq!(there.count(), 0, "what was written of it is gone at once");
    assert_eq!(lying(&place, PlaceId::FIRST).await.remove(0).piece, piece);
    place.sound().await;
    target.leave_free(1 << 30);
    assert_eq!(moved(&place).await.unwrap().moved, 1);
    place.sound().await;
}

#[tokio::test]
async fn a_copy_that_reads_back_otherwise_takes_no_place_and_ends_a_run() {
    for lie in [Lie::Changed, Lie::Ended] {
        let (place, there, target) = two().await;
        have(&place, 3).await;
        let before = lying(&place, PlaceId::FIRST).await;
        target.lie_next(lie);
        let wrong = moved(&place).await;
        let said = wrong.as_ref().err().map(ToString::to_string).unwrap_or_default();
        assert!(said.contains("is not what it gives back"), "{lie:?}: {wrong:?}");
        assert_eq!(there.count(), 0, "{lie:?}: it goes at once, and nothing more is moved to such a place");
        assert_eq!(lying(&place, PlaceId::FIRST).await, before, "{lie:?}");
        place.sound().await;
        assert_eq!(moved(&place).await.unwrap().moved, 3);
        place.sound().await;
    }
}

#[tokio::test]
async fn a_copy_that_can_t_be_read_back_is_left_to_the_sweep() {
    let (place, there, target) = two().await;
    have(&place, 1).await;
    target.fail_next(Operation::Read, io::ErrorKind::Other);
    let unread = moved(&place).await;
    assert!(matches!(unread, Err(Stopped::Blob(BlobError::Io(_)))), "{unread:?}");
    assert_eq!((there.count(), lying(&place, TWO).await.len()), (1, 0), "it may be whole, and nobody relies on it");
    assert_eq!(moved(&place).await.unwrap().moved, 1);
    assert_eq!(there.count(), 2);
    place.sound().await;
    let day_later = place.engine.clock.now().plus(Duration::from_secs(25 * 3600));
    assert_eq!(sweep::unlink(&place.engine, day_later).await.unwrap(), 2, "the first copy, and what was copied");
    assert_eq!((there.count(), place.memory.count()), (1, 0));
    place.sound().await;
}

#[tokio::test]
async fn what_is_deleted_while_it_is_moved_ends_no_run_and_leaves_no_copy() {
    let (place, there, target) = two().await;
    have(&place, 2).await;
    place.engine.clock.advance(Duration::from_secs(1800));
    have(&place, 1).await;
    let pieces = lying(&place, PlaceId::FIRST).await;
    let held = target.hold_writes().await;
    let gone = async {
        begun(&there).await;
        // Of two files the hour is over: the copy of one is begun, and the other's turn is still to come.
        let late = place.engine.clock.now().plus(Duration::from_secs(2000));
        assert_eq!(place.engine.meta.expire_files(late, 10).await.unwrap().files, 2);
        assert_eq!(sweep::unlink(&place.engine, late).await.unwrap(), 2);
        drop(held);
    };
    let (report, ()) = futures_util::future::join(moved(&place), gone).await;
    let report = report.unwrap();
    assert_eq!((report.moved, report.damaged.len(), report.unread.len()), (1, 0, 0), "{report:?}");
    // Those that are deleted are so once more later.
    assert_eq!((report.left.pieces, report.left.due), (0, 3), "{:?}", report.left);
    let left = lying(&place, TWO).await;
    assert_eq!((left.len(), left[0].version, there.count()), (1, pieces[2].version, 1));
    place.sound().await;
}

#[tokio::test]
async fn what_can_t_be_made_durable_is_deleted_where_it_is() {
    let (place, there, target) = two().await;
    let opened = place.open().await;
    target.fail_next(Operation::Sync, io::ErrorKind::Other);
    assert_eq!(place.put(&opened, chunks(b"12345"), Declared::default()).await, Err(Refusal::Unavailable));
    assert_eq!(there.count(), 0);
}

#[tokio::test]
async fn a_place_that_is_away_keeps_no_other_from_being_swept() {
    const OTHERS: usize = 20;
    let (mut place, there, target) = two().await;
    let mut sweeper = sweep::Sweeper::default();
    sweeper.sweep(&place.engine).await.unwrap();
    let ask = open::Upload {
        wire: "w",
        strategy: Strategy::Single,
        parts: None,
        max_bytes: 1000,
        life: Duration::from_secs(3600),
        file: open::NewFile {
            size: Some(5),
            registers: true,
            declaration: Declaration { name: "a".into(), mime_type: "text/plain".into(), ..Declaration::default() },
            next_of: None,
        },
        once: None,
    };
    let session = open::upload(&place.engine, &place.grant, ask).await.unwrap();
    let kept = committed(&place, &session, &b"12345"[..], checksums(b"12345"), Digests::default()).await;
    // Bytes of nobody at the second place: some that may be a copy of what is at the first, and others.
    let own = SegmentId { attempt: 2, ..kept.segment };
    let others = (0..OTHERS).map(|_| SegmentId { session: SessionId(random_uuid()), epoch: 1, attempt: 1 });
    for segment in others.chain([own]) {
        there.create(segment, None).await.unwrap().finish().await.unwrap();
    }
    let first =
        std::mem::replace(&mut place.engine.blobs, Arc::new(Places::new((TWO, Arc::new(target.clone())), Vec::new())));
    place.engine.clock.advance(Duration::from_secs(8 * 24 * 3600));
    // That it could not ask is said.
    assert!(sweeper.sweep(&place.engine).await.is_err());
    assert_eq!(there.length(own, "").await.unwrap(), Some(0));
    assert_eq!(there.count(), 1, "what belongs to no upload is gone");
    place.engine.blobs = first;
    place.engine.clock.advance(Duration::from_secs(3601));
    sweeper.sweep(&place.engine).await.unwrap();
    assert_eq!((there.count(), place.memory.count()), (0, 1));
}
