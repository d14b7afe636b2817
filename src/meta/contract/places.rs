//! Bytes at several places.

use super::*;
use crate::model::session::{Direct, Part};

const TWO: PlaceId = PlaceId(2);

impl Case {
    /// A version of so many pieces, whose bytes are at these places.
    async fn at(&self, places: &[PlaceId]) -> NewVersion {
        let session = self.session().await;
        let mut version = self.version(&session, 1);
        let [piece] = <[Piece; 1]>::try_from(version.pieces).unwrap();
        let of = |place: &PlaceId| {
            let attempt = u64::from_be_bytes(random_bytes());
            let segment = SegmentId { attempt, ..piece.segment };
            Piece { segment, backend: place.mark("whole"), ..piece.clone() }
        };
        version.pieces = places.iter().map(of).collect();
        version.size = 10 * u64::try_from(places.len()).unwrap();
        assert!(matches!(self.store.commit(version.clone()).await.unwrap(), Committed::New(_)));
        version
    }

    async fn pieces_at(&self, place: PlaceId) -> Vec<SegmentId> {
        let (mut all, mut after) = (Vec::new(), None);
        // A page of two, so that versions are cut in their middle.
        while let page = self.store.pieces_at(place, after, 2).await.unwrap()
            && let Some(last) = page.last()
        {
            after = Some((last.version, last.position));
            all.extend(page.iter().map(|placed| placed.piece.segment));
        }
        all
    }

    /// Is a copy remembered, or given more time, until so many seconds from now?
    async fn intended(&self, segment: SegmentId, before: Option<u64>, due: u64) -> bool {
        let (before, due) = (before.map(|before| self.later(before)), self.later(due));
        let copy = IntendedCopy { tenant: tenant(), segment, place: TWO, before, due };
        self.store.intend_copy(copy).await.unwrap()
    }

    async fn held_at(&self, place: PlaceId) -> (HeldAt, bool) {
        let held = self.store.held_at(place, self.now).await.unwrap();
        (held, self.store.names_bytes_at(place, self.now).await.unwrap())
    }
}

async fn pieces_are_found_where_their_rows_say(case: Case) {
    let first = case.at(&[PlaceId::FIRST, TWO, PlaceId::FIRST]).await;
    let second = case.at(&[TWO, PlaceId(22), PlaceId::FIRST]).await;
    let segments = |version: &NewVersion| version.pieces.iter().map(|piece| piece.segment).collect::<Vec<_>>();
    let (a, b) = (segments(&first), segments(&second));
    assert_eq!(case.pieces_at(PlaceId::FIRST).await, [a[0], a[2], b[2]]);
    assert_eq!(case.pieces_at(TWO).await, [a[1], b[0]]);
    assert_eq!(case.pieces_at(PlaceId(22)).await, [b[1]]);
    assert_eq!(case.pieces_at(PlaceId(3)).await, []);
    let placed = case.store.pieces_at(TWO, None, 1).await.unwrap().remove(0);
    assert_eq!((placed.version, placed.position, placed.tenant), (first.version, 1, tenant()));
    assert_eq!((placed.piece, placed.looked_for), (first.pieces[1].clone(), false));
    let held = |pieces| HeldAt { pieces, bytes: 10 * pieces, ..HeldAt::default() };
    assert_eq!(case.held_at(PlaceId::FIRST).await, (held(3), true));
    assert_eq!(case.held_at(TWO).await, (held(2), true));
    assert_eq!(case.held_at(PlaceId(3)).await, (held(0), false));
}

async fn a_copy_takes_a_piece_s_place_once(case: Case) {
    let version = case.at(&[PlaceId::FIRST, PlaceId::FIRST]).await;
    let from = version.pieces[1].segment;
    let copy = |attempt| Piece {
        segment: SegmentId { attempt, ..from },
        backend: TWO.mark("whole"),
        ..version.pieces[1].clone()
    };
    let ask = |attempt| MovePiece {
        version: version.version,
        position: 1,
        tenant: tenant(),
        from,
        to: copy(attempt),
        intended: case.later(7200),
        due: case.later(3600),
    };
    for attempt in [1, 2, 3] {
        assert!(case.intended(copy(attempt).segment, None, 7200).await);
    }
    let wrong = MovePiece { position: 0, ..ask(1) };
    assert!(!case.store.move_piece(wrong).await.unwrap(), "another piece stands there");
    assert!(case.store.move_piece(ask(1)).await.unwrap());
    assert!(!case.store.move_piece(ask(2)).await.unwrap(), "the row names another segment by now");
    let read = case.store.version(&tenant(), version.version).await.unwrap().unwrap();
    assert_eq!(read.pieces, [version.pieces[0].clone(), copy(1)]);
    assert_eq!(case.store.due_tombstones(case.now, 10).await.unwrap(), [], "whoever reads it comes to an end");
    let due = case.store.due_tombstones(case.later(3600), 10).await.unwrap();
    assert_eq!(due, [Tombstone { segment: from, backend: "whole".into() }]);
    let due = case.store.due_tombstones(case.later(7200), 10).await.unwrap();
    let unused = |attempt| Tombstone { segment: copy(attempt).segment, backend: "@2 ".into() };
    assert!(
        due.len() == 3 && due.contains(&unused(2)) && due.contains(&unused(3)),
        "those that are not used go: {due:?}"
    );
    let (held, named) = case.held_at(PlaceId::FIRST).await;
    assert_eq!((held, named), (HeldAt { pieces: 1, bytes: 10, uploads: 0, due: 1 }, true));
    assert_eq!(
        case.store.known_segments(vec![from, copy(1).segment, copy(2).segment]).await.unwrap(),
        [true, true, true]
    );
    case.sound().await;
    // What is deleted meanwhile is not moved any more.
    assert_eq!(case.store.expire_files(case.later(3600), 10).await.unwrap().files, 1);
    let again = MovePiece { position: 0, from: version.pieces[0].segment, to: copy(3), ..ask(3) };
    assert!(!case.store.move_piece(again).await.unwrap());
    assert!(!case.held_at(PlaceId::FIRST).await.1);
    case.sound().await;
}

async fn a_copy_that_may_have_been_deleted_takes_no_place(case: Case) {
    let version = case.at(&[PlaceId::FIRST]).await;
    let from = version.pieces[0].segment;
    let copy = |attempt| SegmentId { attempt, ..from };
    let switched = async |attempt, intended| {
        let to = Piece { segment: copy(attempt), backend: TWO.mark("whole"), ..version.pieces[0].clone() };
        let (version, due) = (version.version, case.later(3600));
        let intended = case.later(intended);
        let moved = MovePiece { version, position: 0, tenant: tenant(), from, to, intended, due };
        case.store.move_piece(moved).await.unwrap()
    };
    assert!(!switched(1, 60).await, "nobody said that it is being made");
    for attempt in [1, 2, 3, 4] {
        assert!(case.intended(copy(attempt), None, 60).await);
    }
    assert!(!case.intended(copy(1), None, 60).await, "a name is used once");
    // More time, as long as nobody deletes it.
    assert!(case.intended(copy(1), Some(60), 120).await && !case.intended(copy(1), Some(60), 180).await);
    let due = case.store.due_tombstones(case.later(60), 10).await.unwrap();
    assert_eq!(due.len(), 3);
    let sweep = vec![copy(1), copy(2), copy(3)];
    let marked = case.store.unlinked(sweep.clone(), case.later(60)).await.unwrap();
    assert_eq!(marked, [copy(2), copy(3)], "the first was given more time after it had been found");
    assert_eq!(case.store.unlinked(sweep, case.later(60)).await.unwrap(), [], "one of two sweepers deletes");
    // A deletion that failed may have been made.
    case.store.postpone(vec![copy(3)], case.later(3660)).await.unwrap();
    for attempt in [2, 3] {
        assert!(!case.intended(copy(attempt), Some(60), 180).await && !switched(attempt, 60).await, "{attempt}");
    }
    assert!(!switched(1, 60).await && switched(1, 120).await);
    assert!(!switched(4, 60).await, "the row names another segment by now");
    assert_eq!(case.store.known_segments(vec![from, copy(1), copy(4)]).await.unwrap(), [true; 3]);
    case.sound().await;
}

async fn uploads_in_progress_are_counted_where_they_have_sent_to(case: Case) {
    let declaration = Some(crate::model::session::Declaration { name: "a".into(), ..Declaration::default() });
    let resumable = Session { strategy: Strategy::Resumable, declaration: declaration.clone(), ..case.draft() };
    let parts = crate::model::session::Parts { count: 3, smallest: 1, largest: 100 };
    let multipart = Session { strategy: Strategy::Multipart, parts: Some(parts), declaration, ..case.draft() };
    let way = |create_only| Some(Direct { create_only, upload: None, place: TWO });
    let (open, taken) = (Session { direct: way(true), ..case.draft() }, Session { direct: way(true), ..case.draft() });
    let newest = Session { direct: way(false), ..case.draft() };
    let all = [&resumable, &multipart, &open, &taken, &newest].map(Session::clone);
    assert_eq!(case.store.open_sessions(all.to_vec()).await.unwrap(), None);
    let piece = |session: &Session, place: PlaceId| {
        let version = case.version(session, 1);
        Piece { backend: place.mark("parts1"), ..version.pieces[0].clone() }
    };
    let advance = Advance {
        session: resumable.id,
        epoch: 1,
        from: 0,
        progress: Progress { received: 10, pieces: vec![piece(&resumable, PlaceId::FIRST)], ..Progress::default() },
        total: None,
        now: case.now,
    };
    assert_eq!(case.store.advance(advance).await.unwrap(), Advanced::Recorded);
    for (number, place) in [(1, PlaceId::FIRST), (2, TWO)] {
        let part = Part { number, piece: piece(&multipart, place) };
        let new = NewPart { session: multipart.id, epoch: 1, part, now: case.now };
        assert_eq!(case.store.record_part(new).await.unwrap(), PartRecorded::Recorded);
    }
    let commit = async |session: &Session| {
        let version = case.version(session, 1);
        let pieces = vec![Piece { backend: TWO.mark("pin1 - e"), ..version.pieces[0].clone() }];
        assert!(matches!(case.store.commit(NewVersion { pieces, ..version }).await.unwrap(), Committed::New(_)));
    };
    commit(&taken).await;
    commit(&newest).await;
    let (held, named) = case.held_at(PlaceId::FIRST).await;
    assert_eq!((held, named), (HeldAt { uploads: 2, ..HeldAt::default() }, true));
    // One part, one that is open, and one whose client may send another body.
    assert_eq!(case.held_at(TWO).await.0, HeldAt { pieces: 2, bytes: 20, uploads: 3, due: 0 });
    let placed = case.store.pieces_at(TWO, None, 10).await.unwrap();
    let looked_for = placed.into_iter().filter(|p| p.looked_for).map(|p| p.piece.segment.session);
    assert_eq!(looked_for.collect::<Vec<_>>(), [newest.id]);
    // By whatever clock: the newest counts as long as its session's row is there.
    let late = case.store.held_at(TWO, case.later(20 * 3600)).await.unwrap();
    assert_eq!((late.pieces, late.uploads), (2, 2));
    // A place is only in the way of being left out as long as something counts there.
    for session in [&resumable, &multipart] {
        case.store.end_session(session.id, SessionState::Aborted, case.now).await.unwrap();
    }
    let (held, named) = case.held_at(PlaceId::FIRST).await;
    assert_eq!((held, named), (HeldAt { due: 2, ..HeldAt::default() }, false));
    case.sound().await;
}

async fn the_one_body_of_a_key_stays_the_same_wherever_it_lies(case: Case) {
    let direct = Some(Direct { create_only: true, upload: None, place: PlaceId::FIRST });
    let session = Session { direct, versions_allowed: false, ..case.draft() };
    assert_eq!(case.store.open_sessions(vec![session.clone()]).await.unwrap(), None);
    let arrived = || {
        let mut version = NewVersion { digests: Digests::default(), ..case.version(&session, 1) };
        let segment = SegmentId::direct(session.id);
        version.pieces = vec![Piece { segment, digests: Digests::default(), ..version.pieces[0].clone() }];
        version
    };
    let Committed::New(version) = case.store.commit(arrived()).await.unwrap() else { panic!() };
    let moved = MovePiece {
        version: version.id,
        position: 0,
        tenant: tenant(),
        from: SegmentId::direct(session.id),
        to: case.version(&session, 1).pieces.remove(0),
        intended: case.later(7200),
        due: case.now,
    };
    assert!(case.intended(moved.to.segment, None, 7200).await);
    assert!(case.store.move_piece(moved).await.unwrap());
    // Somebody who had found it before it was moved.
    assert!(matches!(case.store.commit(arrived()).await.unwrap(), Committed::Same(same) if same.id == version.id));
    case.sound().await;
}

async fn what_lies_elsewhere_comes_back_by_no_commit(case: Case) {
    let direct = Some(Direct { create_only: false, upload: None, place: PlaceId::FIRST });
    let session = Session { direct, versions_allowed: true, ..case.draft() };
    assert_eq!(case.store.open_sessions(vec![session.clone()]).await.unwrap(), None);
    let first = case.version(&session, 1);
    let Committed::New(version) = case.store.commit(first.clone()).await.unwrap() else { panic!() };
    let to = Piece { segment: SegmentId { attempt: 99, ..first.pieces[0].segment }, ..first.pieces[0].clone() };
    assert!(case.intended(to.segment, None, 7200).await);
    let (from, intended, due) = (first.pieces[0].segment, case.later(7200), case.later(3600));
    let moved = MovePiece { version: version.id, position: 0, tenant: tenant(), from, to, intended, due };
    assert!(case.store.move_piece(moved).await.unwrap());
    // Somebody who looked at the store before, and knows of no digest that would say that it is the same.
    let version = VersionId(ordered_uuid(case.now));
    let again = NewVersion { version, digests: Digests::default(), over: Over::This(Some(first.version)), ..first };
    assert_eq!(case.store.commit(again).await.unwrap(), Committed::Closed);
    case.sound().await;
}

on_every_store! {
    pieces_are_found_where_their_rows_say;
    a_copy_takes_a_piece_s_place_once;
    a_copy_that_may_have_been_deleted_takes_no_place;
    uploads_in_progress_are_counted_where_they_have_sent_to;
    the_one_body_of_a_key_stays_the_same_wherever_it_lies;
    what_lies_elsewhere_comes_back_by_no_commit;
}
