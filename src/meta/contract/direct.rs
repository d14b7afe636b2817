//! Sessions whose clients send to the store themselves.

use super::*;
use crate::model::session::Direct;

impl Case {
    async fn direct(&self) -> Session {
        self.direct_as(true).await
    }

    async fn direct_as(&self, create_only: bool) -> Session {
        let direct = Some(Direct { create_only, upload: None, place: PlaceId(2) });
        let session = Session { direct, ..self.draft() };
        assert_eq!(self.store.open_sessions(vec![session.clone()]).await.unwrap(), None);
        session
    }

    /// A version of what arrived under a name, of which nobody knows a digest.
    fn arrived(&self, session: &Session, attempt: u64, over: Over) -> NewVersion {
        let mut version = NewVersion { over, digests: Digests::default(), ..self.version(session, 1) };
        version.pieces[0].segment.attempt = attempt;
        version.pieces[0].digests = Digests::default();
        version
    }
}

async fn the_first_name_of_an_upload_counts(case: Case) {
    let session = case.direct().await;
    let begun = async |name: &str| case.store.begun(session.id, name.into(), case.now).await.unwrap();
    assert_eq!(begun("one").await.as_deref(), Some("one"));
    assert_eq!(begun("two").await.as_deref(), Some("one"));
    let read = case.store.session(&tenant(), session.id).await.unwrap().unwrap();
    assert_eq!(read.direct, Some(Direct { create_only: true, upload: Some("one".into()), place: PlaceId(2) }));
    case.store.end_session(session.id, SessionState::Aborted, case.now).await.unwrap();
    assert_eq!(begun("three").await, None);
    let other = case.session().await;
    assert_eq!(case.store.begun(other.id, "x".into(), case.now).await.unwrap(), None, "its bytes come to us");
    case.sound().await;
}

async fn what_may_still_be_used_is_known(case: Case) {
    let (aborted, expired, committed) = (case.direct().await, case.direct().await, case.direct().await);
    let segments = || [&aborted, &expired, &committed].map(|session| SegmentId::direct(session.id)).to_vec();
    let known = async || case.store.known_segments(segments()).await.unwrap();
    assert_eq!(known().await, [true; 3]);
    let version = case.arrived(&committed, 7, Over::This(None));
    assert!(matches!(case.store.commit(version).await.unwrap(), Committed::New(_)));
    case.store.end_session(aborted.id, SessionState::Aborted, case.now).await.unwrap();
    let due = case.store.due_tombstones(case.now, 10).await.unwrap();
    assert_eq!(due.iter().map(|t| (t.segment, t.backend.as_str())).collect::<Vec<_>>(), [(segments()[0], "@2 ")]);
    // With its time over, what was never committed is due; what was goes as its file does.
    let over = case.later(3600);
    assert_eq!(case.store.expire_sessions(over, 10).await.unwrap(), 1);
    case.store.expire_files(over, 10).await.unwrap();
    let due: Vec<_> = case.store.due_tombstones(over, 10).await.unwrap().into_iter().map(|t| t.segment).collect();
    assert!(due.contains(&segments()[1]) && !due.contains(&segments()[2]) && due.len() == 3, "{due:?}");
    assert_eq!(known().await, [true; 3]);
    case.store.unlinked(due.clone(), over).await.unwrap();
    case.store.drop_tombstones(due).await.unwrap();
    assert_eq!(known().await, [false, false, true], "the row is remembered for a day");
    case.store.expire_files(case.later(3600 + 24 * 3600), 10).await.unwrap();
    assert_eq!(known().await, [false; 3]);
    case.sound().await;
}

async fn a_body_takes_the_place_of_the_one_that_was_seen(case: Case) {
    let session = case.direct_as(false).await;
    let commit = async |attempt, over| case.store.commit(case.arrived(&session, attempt, over)).await.unwrap();
    let Committed::New(first) = commit(1, Over::This(None)).await else { panic!() };
    assert_eq!(commit(2, Over::This(None)).await, Committed::Exists, "it was looked for before the first came");
    assert!(matches!(commit(1, Over::This(None)).await, Committed::Same(same) if same.id == first.id));
    // Of equal size and without a digest they are not the same.
    let Committed::New(second) = commit(2, Over::This(Some(first.id))).await else { panic!() };
    assert_ne!(first.id, second.id);
    let read = case.store.version(&tenant(), second.id).await.unwrap().unwrap();
    assert_eq!((read.digests, read.pieces[0].digests), (Digests::default(), Digests::default()));
    let due = case.store.due_tombstones(case.now, 10).await.unwrap();
    assert_eq!(due.iter().map(|t| t.segment.attempt).collect::<Vec<_>>(), [1]);
    case.sound().await;
}

on_every_store! {
    the_first_name_of_an_upload_counts;
    what_may_still_be_used_is_known;
    a_body_takes_the_place_of_the_one_that_was_seen;
}
