//! What clients sent to the store itself and nobody used: it is found, and goes when nothing can come of it any more.

use super::*;
use crate::blob::{Places, Wanted};
use crate::model::ids::{PlaceId, SegmentId, SessionId};
use crate::model::session::{Declaration, Session, Strategy};
use crate::upload::track::{self, Claim};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Clients of `fixed` send always the same headers, those of `told` what they are told.
async fn place(store: &Store, versions: bool) -> Place {
    let (clock, prefix) = (Clock::system(), random_uuid().to_string());
    let blobs = in_bucket(store, &prefix);
    blobs.check(Wanted { create_only: true, versions }).await.unwrap();
    let wires = [("fixed", false), ("told", true)];
    let wires = wires.map(|(wire, create_only)| DirectWire { wire: wire.into(), create_only });
    let memory = Memory::new(Form::Parts, clock.clone());
    Place::going(Arc::new(blobs), memory, clock, wires.to_vec()).await
}

impl Place {
    async fn fixed(&self) -> open::Opened {
        let ask = open::Single {
            wire: "fixed",
            base: "http://h",
            headers: &[("x-amz-server-side-encryption", "AES256")],
            max_bytes: 1000,
            life: Duration::from_secs(3600),
            held: Duration::from_secs(3600),
            file: None,
        };
        open::single(&self.engine, &self.grant, ask).await.unwrap()
    }

    async fn told(&self, size: u64) -> Session {
        let declaration = Declaration { name: "a".into(), mime_type: "text/plain".into(), ..Declaration::default() };
        let ask = open::Upload {
            wire: "told",
            strategy: Strategy::Single,
            parts: None,
            max_bytes: 1000,
            life: 7 * DAY,
            file: open::NewFile { size: Some(size), registers: true, declaration, next_of: None },
            once: None,
        };
        open::upload(&self.engine, &self.grant, ask).await.unwrap()
    }

    async fn sent(&self, url: &str, headers: &[(&str, &str)], body: &'static [u8]) -> u16 {
        let outbound = crate::outbound::Outbound::to_service(DAY, DAY, true).unwrap();
        let stream = futures_util::stream::once(async move { Ok(Bytes::from_static(body)) }).boxed();
        let header = |(name, value): &(&str, &str)| (http::HeaderName::try_from(*name).unwrap(), (*value).to_owned());
        let ask = crate::outbound::Ask {
            method: http::Method::PUT,
            url,
            key: None,
            headers: headers.iter().map(header).collect(),
            payload: crate::outbound::Payload::Stream(u64::try_from(body.len()).unwrap(), stream),
        };
        outbound.call(ask).await.unwrap().0.status
    }

    async fn put_fixed(&self, opened: &open::Opened, body: &'static [u8]) {
        let headers = [("x-amz-server-side-encryption", "AES256")];
        assert_eq!(self.sent(&opened.url, &headers, body).await, 200);
    }

    async fn put_told(&self, session: &Session, body: &'static [u8]) -> u16 {
        let (url, headers) = open::put_location(&self.engine, session, "").await.unwrap();
        let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        self.sent(&url, &headers, body).await
    }

    /// So much later, and everything in the store is so much older.
    async fn later(&self, store: &Store, sweeper: &mut sweep::Sweeper, by: Duration) -> sweep::Report {
        store.age(by);
        self.engine.clock.advance(by);
        sweeper.sweep(&self.engine).await.unwrap()
    }
}

#[tokio::test]
async fn bodies_that_nobody_used_go_after_their_time_and_not_before() {
    let store = Store::with_versions();
    let place = place(&store, true).await;
    let mut sweeper = sweep::Sweeper::default();
    sweeper.sweep(&place.engine).await.unwrap();
    let (used, unused) = (place.fixed().await, place.fixed().await);
    place.put_fixed(&used, b"one").await;
    place.put_fixed(&used, b"two").await;
    place.put_fixed(&unused, b"three").await;
    let name = used.file.to_string();
    let container = register::container(&place.engine, &place.grant, "file", &name).await.unwrap();
    let version = container.version.unwrap();
    assert_eq!(version.size, 3);
    assert_eq!(place.content(&used).await, b"two");
    // Looked at again it is the same; a newer one takes its place, and the one before goes.
    let again = register::container(&place.engine, &place.grant, "file", &name).await.unwrap();
    assert_eq!(again.version.unwrap().id, version.id);
    place.put_fixed(&used, b"four").await;
    assert_eq!(place.content(&used).await, b"four");
    place.sound().await;
    sweep::unlink(&place.engine, place.engine.clock.now()).await.unwrap();
    let sizes = || {
        let mut sizes: Vec<u64> =
            store.versions("").into_iter().filter(|(key, _, _)| !key.ends_with("owner")).map(|v| v.2).collect();
        sizes.sort_unstable();
        sizes
    };
    assert_eq!(sizes(), [3, 4, 5], "what came before and was never looked at is still there");
    // While the locations hold, nothing is an orphan, however old it looks.
    store.age(3 * DAY);
    place.engine.clock.advance(Duration::from_secs(1800));
    assert_eq!(sweeper.sweep(&place.engine).await.unwrap().orphans, 0);
    assert_eq!(sizes(), [3, 4, 5]);
    // Past them everything goes: an unused file with its time, what nobody looked at when it is a day old.
    place.later(&store, &mut sweeper, Duration::from_secs(2 * 3600)).await;
    place.later(&store, &mut sweeper, 2 * DAY).await;
    place.later(&store, &mut sweeper, 2 * DAY).await;
    assert_eq!(sizes(), [0; 0]);
    place.sound().await;
}

#[tokio::test]
async fn a_body_that_was_used_is_pinned() {
    let store = Store::with_versions();
    let place = place(&store, true).await;
    let opened = place.fixed().await;
    place.put_fixed(&opened, b"used").await;
    let container = register::container(&place.engine, &place.grant, "file", &opened.file.to_string()).await.unwrap();
    let version = container.version.unwrap();
    for late in [b"late".as_slice(), b"later"] {
        place.put_fixed(&opened, late).await;
        let reader = read::version(&place.engine, place.grant.tenant(), version.id).await.unwrap();
        let chunks: Vec<_> = reader.stream(0..version.size).collect().await;
        assert_eq!(chunks.into_iter().map(|chunk| chunk.unwrap()).collect::<Vec<_>>().concat(), b"used");
    }
    // Of bytes that are gone it is said.
    let key = store.objects("").into_iter().find(|(key, _)| !key.ends_with("owner")).unwrap().0;
    store.lose(&key);
    let broken = check::everything(&place.engine, true).await.unwrap().broken;
    assert!(broken.iter().any(|sentence| sentence.contains("is not there")), "{broken:?}");
}

#[tokio::test]
async fn one_that_may_come_once_is_kept_as_long_as_its_upload() {
    let store = Store::start();
    let place = place(&store, false).await;
    let mut sweeper = sweep::Sweeper::default();
    sweeper.sweep(&place.engine).await.unwrap();
    let (sent, forgotten) = (place.told(4).await, place.told(5).await);
    assert_eq!((place.put_told(&sent, b"sent").await, place.put_told(&forgotten, b"five!").await), (200, 200));
    assert_eq!(place.put_told(&sent, b"anew").await, 412);
    // Days later, within the week, it can still be committed.
    place.later(&store, &mut sweeper, 3 * DAY).await;
    let claim = Claim::default();
    let (file, receipt) = track::commit(&place.engine, &place.grant, sent.id, claim).await.unwrap();
    assert_eq!((file, receipt.size), (sent.file, 4));
    assert_eq!(track::commit(&place.engine, &place.grant, sent.id, claim).await.unwrap(), (file, receipt));
    place.sound().await;
    place.later(&store, &mut sweeper, 5 * DAY).await;
    place.later(&store, &mut sweeper, 2 * DAY).await;
    let left: Vec<_> = store.objects("").into_iter().filter(|(key, _)| !key.ends_with("owner")).collect();
    assert_eq!(left.len(), 1, "{left:?}");
    assert!(left[0].0.contains(&sent.id.0.simple().to_string()));
    place.sound().await;
}

#[tokio::test]
async fn what_may_be_a_copy_of_bytes_that_are_not_there_stays() {
    let store = Store::with_versions();
    let place = place(&store, true).await;
    let mut sweeper = sweep::Sweeper::default();
    sweeper.sweep(&place.engine).await.unwrap();
    let sent = place.told(4).await;
    assert_eq!(place.put_told(&sent, b"sent").await, 200);
    track::commit(&place.engine, &place.grant, sent.id, Claim::default()).await.unwrap();
    place.later(&store, &mut sweeper, 8 * DAY).await;
    place.later(&store, &mut sweeper, 2 * DAY).await;
    place.sound().await;
    // As a restored copy of the bucket has it: the same name and bytes, another version.
    let key = store.objects("").into_iter().find(|(key, _)| !key.ends_with("owner")).unwrap().0;
    store.lose(&key);
    store.put(&key, b"sent");
    for _ in 0..3 {
        assert_eq!(place.later(&store, &mut sweeper, 2 * DAY).await.orphans, 0);
    }
    assert_eq!(store.get(&key).unwrap(), b"sent");
    let broken = check::everything(&place.engine, true).await.unwrap().broken;
    assert!(broken.iter().any(|sentence| sentence.contains("is not there")), "{broken:?}");
}

#[tokio::test]
async fn a_container_that_expired_unseen_is_no_empty_one() {
    let store = Store::with_versions();
    let place = place(&store, true).await;
    let (filled, empty) = (place.fixed().await, place.fixed().await);
    place.put_fixed(&filled, b"bytes").await;
    let files = || vec![filled.file, empty.file];
    let found = register::filled_containers(&place.engine, &place.grant, "streamId", vec![empty.file]).await.unwrap();
    assert!(found.is_empty(), "nothing came, and it may still come");
    place.engine.clock.advance(Duration::from_secs(3601));
    let refused = register::filled_containers(&place.engine, &place.grant, "streamId", files()).await.unwrap_err();
    assert!(matches!(&refused, Refusal::Invalid { .. }), "{refused:?}");
}

#[tokio::test]
async fn a_store_that_can_not_say_it_now_is_not_taken_for_one_without_versions() {
    let store = Store::with_versions();
    let blobs = in_bucket(&store, "fresh");
    let session = SessionId(random_uuid());
    store.put(&format!("fresh/{}", SegmentId::direct(session)), b"bytes");
    store.harm("ListObjectVersions", 1, Harm::Refuse(400, "RequestTimeTooSkewed"));
    let direct = blobs.direct().unwrap();
    assert!(direct.arrived(session, true).await.is_err());
    let arrived = direct.arrived(session, true).await.unwrap().unwrap();
    assert_ne!(arrived.segment, SegmentId::direct(session), "it is pinned by its version");
}

#[tokio::test]
async fn an_upload_to_a_place_that_this_process_does_not_know_waits_for_it() {
    let store = Store::start();
    let mut place = place(&store, false).await;
    let session = place.told(5).await;
    place.engine.blobs = Arc::new(Places::new((PlaceId(2), Arc::new(place.memory.clone())), Vec::new()));
    let asked = track::commit(&place.engine, &place.grant, session.id, Claim::default()).await;
    assert_eq!(asked.unwrap_err(), Refusal::Unavailable);
}
