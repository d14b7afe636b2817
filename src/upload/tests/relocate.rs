//! Moves of bytes that can't be read, or are not what they were.

use std::sync::atomic::AtomicBool;

use sha2::{Digest, Sha256};

use super::*;
use crate::blob::Places;
use crate::meta::Committed;
use crate::model::file::{Digests, Piece, RunningCrcs};
use crate::model::ids::{PlaceId, SegmentId};
use crate::upload::commit;
use crate::upload::relocate::{Plan, Report, Stopped, relocate};

const TWO: PlaceId = PlaceId(2);
const PLAN: Plan = Plan { from: PlaceId::FIRST, rate: None, parallel: 1 };

/// A place whose bytes are in one memory, and shall be in another.
async fn two() -> (Place, Memory) {
    let mut place = Place::new(Form::Disk).await;
    let there = Memory::new(Form::Disk, place.engine.clock.clone());
    let current: Arc<dyn BlobStore> = Arc::new(there.clone());
    let other: Arc<dyn BlobStore> = Arc::new(place.faults.clone());
    place.engine.blobs = Arc::new(Places::new((TWO, current), vec![(PlaceId::FIRST, other)]));
    (place, there)
}

fn checksums(bytes: &[u8]) -> Digests {
    let mut crcs = RunningCrcs::default();
    crcs.update(bytes);
    crcs.value().into()
}

/// A version of one piece at the first place, of which so much is known.
async fn has(place: &Place, bytes: &'static [u8], of_piece: Digests, of_whole: Digests) -> Piece {
    let opened = place.open().await;
    let session = place.engine.meta.upload(opened.session).await.unwrap().unwrap().session;
    let segment = SegmentId { session: session.id, epoch: session.epoch, attempt: 1 };
    let mut writer = place.faults.create(segment, None).await.unwrap();
    writer.write(&mut vec![Bytes::from_static(bytes)]).await.unwrap();
    let extent = writer.finish().await.unwrap();
    let piece = Piece { segment, length: extent.length, digests: of_piece, backend: extent.backend };
    let new = commit::version_of(&place.engine, &session, piece.clone(), of_whole);
    assert!(matches!(place.engine.meta.commit(new).await.unwrap(), Committed::New(_)));
    piece
}

async fn moved(place: &Place) -> Result<Report, Stopped> {
    relocate(&place.engine, PLAN, &AtomicBool::new(false), &|_| ()).await
}

#[tokio::test]
async fn a_piece_that_can_t_be_read_keeps_no_other_from_being_moved() {
    let (place, _) = two().await;
    for _ in 0..3 {
        has(&place, b"12345", checksums(b"12345"), Digests::default()).await;
    }
    place.faults.fail_next(Operation::Read, io::ErrorKind::Other);
    let report = moved(&place).await.unwrap();
    assert_eq!((report.moved, report.unread.len(), report.left.pieces), (2, 1, 1), "{report:?}");
    let report = moved(&place).await.unwrap();
    assert_eq!((report.moved, report.unread.len(), report.left.pieces), (1, 0, 0), "{report:?}");
}

#[tokio::test]
async fn a_place_that_can_t_be_read_at_all_ends_a_run() {
    let (place, there) = two().await;
    for _ in 0..20 {
        has(&place, b"12345", checksums(b"12345"), Digests::default()).await;
        place.faults.fail_next(Operation::Read, io::ErrorKind::Other);
    }
    assert!(matches!(moved(&place).await, Err(Stopped::Blob(_))));
    assert_eq!(there.count(), 0);
    let report = moved(&place).await.unwrap();
    assert_eq!((report.moved, report.unread.len(), report.left.pieces), (16, 4, 4), "{report:?}");
}

#[tokio::test]
async fn what_has_no_checksum_is_compared_with_what_is_known_of_it() {
    let (place, there) = two().await;
    let sha256 = |bytes: &[u8]| Digests { sha256: Some(Sha256::digest(bytes).into()), ..Digests::default() };
    let good = has(&place, b"12345", Digests::default(), sha256(b"12345")).await;
    let unknown = has(&place, b"54321", Digests::default(), Digests::default()).await;
    let bad = has(&place, b"12345", Digests::default(), sha256(b"12344")).await;
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
