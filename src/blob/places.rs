//! Bytes at several places at once: new segments go to one of them, the rest is read and deleted where it lies. What a row
//! keeps of a segment says which place that is.

use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::{
    Arrived, ArrivedPart, BlobError, BlobStore, Direct, Extent, Forms, Listed, PutAsk, Reached, SegmentReader,
    SegmentWriter, SessionAsk, Space, Ticket,
};
use crate::model::ids::{PlaceId, SegmentId, SessionId};

/// Several stores as one.
#[derive(Clone, Debug)]
pub struct Places {
    current: At,
    others: Vec<At>,
}

/// One of them.
#[derive(Clone, Debug)]
struct At {
    place: PlaceId,
    store: Arc<dyn BlobStore>,
    /// Is what lies there told in a listing?
    listed: bool,
}

impl Places {
    /// The place that new segments go to, and the others.
    #[must_use]
    pub fn new(current: (PlaceId, Arc<dyn BlobStore>), others: Vec<(PlaceId, Arc<dyn BlobStore>)>) -> Self {
        let at = |(place, store)| At { place, store, listed: true };
        Self { current: at(current), others: others.into_iter().map(at).collect() }
    }

    /// What lies at these places is not told: nobody knows whose it is.
    #[must_use]
    pub fn without_listing(mut self, places: &[PlaceId]) -> Self {
        for at in std::iter::once(&mut self.current).chain(&mut self.others) {
            at.listed = !places.contains(&at.place);
        }
        self
    }

    fn all(&self) -> impl Iterator<Item = &At> {
        std::iter::once(&self.current).chain(&self.others)
    }

    fn at(&self, place: PlaceId) -> Option<&At> {
        self.all().find(|at| at.place == place)
    }

    /// Where a row's bytes are, and what their backend has to know.
    fn route<'t>(&self, backend: &'t str) -> Result<(&At, &'t str), BlobError> {
        let (place, rest) = PlaceId::split(backend);
        match self.at(place) {
            Some(at) => Ok((at, rest)),
            None => Err(BlobError::Io(io::Error::other(format!(
                "the place {place} for bytes is not configured: name it in `more_storage` until nothing lies there"
            )))),
        }
    }
}

#[async_trait]
impl BlobStore for Places {
    async fn create(&self, segment: SegmentId, expected: Option<u64>) -> Result<Box<dyn SegmentWriter>, BlobError> {
        let At { place, store, .. } = &self.current;
        let writer = store.create(segment, expected).await?;
        Ok(if *place == PlaceId::FIRST { writer } else { Box::new(Writer { place: *place, writer }) })
    }

    async fn open(&self, segment: SegmentId, backend: &str) -> Result<Box<dyn SegmentReader>, BlobError> {
        let (at, backend) = self.route(backend)?;
        at.store.open(segment, backend).await
    }

    /// Only where all can: a version may have pieces at several places, and to seal what needs no sealing changes nothing.
    fn reads_unfinished(&self) -> bool {
        self.all().all(|at| at.store.reads_unfinished())
    }

    fn open_ones_survive(&self) -> bool {
        self.all().all(|at| at.store.open_ones_survive())
    }

    async fn seal(&self, segment: SegmentId, backend: &str, length: u64) -> Result<String, BlobError> {
        let (at, backend) = self.route(backend)?;
        Ok(at.place.mark(&at.store.seal(segment, backend, length).await?))
    }

    async fn length(&self, segment: SegmentId, backend: &str) -> Result<Option<u64>, BlobError> {
        let (at, backend) = self.route(backend)?;
        at.store.length(segment, backend).await
    }

    async fn delete(&self, segment: SegmentId, backend: &str) -> Result<(), BlobError> {
        let (at, backend) = self.route(backend)?;
        at.store.delete(segment, backend).await
    }

    /// A place that can't be asked keeps the others from nothing.
    async fn list(&self, each: &mut (dyn FnMut(Vec<Listed>) + Send)) -> Result<(), BlobError> {
        let mut failed = None;
        for At { place, store, .. } in self.all().filter(|at| at.listed) {
            let mut marked = |batch: Vec<Listed>| {
                each(batch.into_iter().map(|l| Listed { backend: place.mark(&l.backend), ..l }).collect());
            };
            if let Err(error) = store.list(&mut marked).await {
                failed.get_or_insert(error);
            }
        }
        failed.map_or(Ok(()), Err)
    }

    fn place(&self) -> PlaceId {
        self.current.place
    }

    fn direct(&self) -> Option<&dyn Direct> {
        self.current.direct()
    }

    fn direct_at(&self, place: PlaceId) -> Option<&dyn Direct> {
        self.at(place)?.direct()
    }

    fn knows_direct(&self) -> bool {
        self.all().any(|at| at.store.direct().is_some())
    }

    async fn space(&self) -> Result<Option<Space>, BlobError> {
        self.current.store.space().await
    }

    /// Where new segments go: what can be done without the others is done.
    async fn ping(&self) -> Result<(), BlobError> {
        self.current.store.ping().await
    }
}

/// A writer at a place that is not the first: its extents say so.
#[derive(Debug)]
struct Writer {
    place: PlaceId,
    writer: Box<dyn SegmentWriter>,
}

impl Writer {
    fn marked(place: PlaceId, extent: Extent) -> Extent {
        Extent { backend: place.mark(&extent.backend), ..extent }
    }
}

#[async_trait]
impl SegmentWriter for Writer {
    async fn write(&mut self, chunks: &mut Vec<Bytes>) -> Result<(), BlobError> {
        self.writer.write(chunks).await
    }

    async fn persist(&mut self) -> Result<Extent, BlobError> {
        Ok(Self::marked(self.place, self.writer.persist().await?))
    }

    async fn finish(self: Box<Self>) -> Result<Extent, BlobError> {
        Ok(Self::marked(self.place, self.writer.finish().await?))
    }

    async fn discard(self: Box<Self>) {
        self.writer.discard().await;
    }
}

impl At {
    fn direct(&self) -> Option<&dyn Direct> {
        self.store.direct().map(|_| -> &dyn Direct { self })
    }

    fn inner(&self) -> Result<&dyn Direct, BlobError> {
        let none = || BlobError::Io(io::Error::other("the place takes nothing from clients"));
        self.store.direct().ok_or_else(none)
    }

    fn marked(&self, arrived: Option<Arrived>) -> Option<Arrived> {
        arrived.map(|arrived| Arrived { backend: self.place.mark(&arrived.backend), ..arrived })
    }
}

#[async_trait]
impl Direct for At {
    fn forms(&self) -> Forms {
        self.store.direct().map_or(Forms { parts: false, sessions: false, put_bytes: 0 }, Direct::forms)
    }

    async fn ticket(&self, ask: PutAsk<'_>) -> Result<Ticket, BlobError> {
        self.inner()?.ticket(ask).await
    }

    async fn begin_parts(&self, session: SessionId) -> Result<String, BlobError> {
        self.inner()?.begin_parts(session).await
    }

    async fn part_tickets(
        &self,
        session: SessionId,
        upload: &str,
        numbers: &[u32],
        life_seconds: u32,
    ) -> Result<Vec<String>, BlobError> {
        self.inner()?.part_tickets(session, upload, numbers, life_seconds).await
    }

    async fn arrived(&self, session: SessionId, create_only: bool) -> Result<Option<Arrived>, BlobError> {
        Ok(self.marked(self.inner()?.arrived(session, create_only).await?))
    }

    async fn arrived_parts(&self, session: SessionId, upload: &str) -> Result<Option<Vec<ArrivedPart>>, BlobError> {
        self.inner()?.arrived_parts(session, upload).await
    }

    async fn join(
        &self,
        session: SessionId,
        upload: &str,
        parts: &[ArrivedPart],
    ) -> Result<Option<Arrived>, BlobError> {
        Ok(self.marked(self.inner()?.join(session, upload, parts).await?))
    }

    async fn begin_session(&self, ask: SessionAsk<'_>) -> Result<String, BlobError> {
        self.inner()?.begin_session(ask).await
    }

    async fn reached(&self, location: &str, size: u64) -> Result<Reached, BlobError> {
        self.inner()?.reached(location, size).await
    }

    async fn abandon(&self, session: SessionId, upload: &str) -> Result<(), BlobError> {
        self.inner()?.abandon(session, upload).await
    }
}

#[cfg(test)]
mod tests {
    use super::super::bucket::{Harm, Store};
    use super::super::contract::{read_all, segment, suite};
    use super::super::{Form, Memory, in_bucket};
    use super::*;
    use crate::clock::Clock;

    const TWO: PlaceId = PlaceId(2);

    fn twins() -> (Memory, Memory) {
        (Memory::new(Form::Disk, Clock::system()), Memory::new(Form::Parts, Clock::system()))
    }

    fn places(current: (PlaceId, &Memory), other: (PlaceId, &Memory)) -> Places {
        let shared =
            |(place, store): (PlaceId, &Memory)| -> (PlaceId, Arc<dyn BlobStore>) { (place, Arc::new(store.clone())) };
        Places::new(shared(current), vec![shared(other)])
    }

    async fn written(store: &dyn BlobStore, bytes: &'static [u8]) -> (SegmentId, Extent) {
        let id = segment();
        let mut writer = store.create(id, None).await.unwrap();
        writer.write(&mut vec![Bytes::from_static(bytes)]).await.unwrap();
        (id, writer.finish().await.unwrap())
    }

    #[tokio::test]
    async fn several_places_do_what_one_does() {
        for bucket_first in [false, true] {
            for place in [PlaceId::FIRST, TWO] {
                let (disk, bucket) = twins();
                let (current, other) = if bucket_first { (&bucket, &disk) } else { (&disk, &bucket) };
                let other_place = if place == TWO { PlaceId::FIRST } else { TWO };
                suite(&places((place, current), (other_place, other))).await;
            }
        }
    }

    #[tokio::test]
    async fn what_was_written_before_a_switch_is_found_where_it_lies() {
        let (disk, bucket) = twins();
        let before = places((PlaceId::FIRST, &disk), (TWO, &bucket));
        let (old, old_extent) = written(&before, b"old").await;
        assert_eq!(old_extent.backend, "", "the first place writes as it would alone");
        let after = places((TWO, &bucket), (PlaceId::FIRST, &disk));
        let (new, new_extent) = written(&after, b"new").await;
        assert_eq!(new_extent.backend, "@2 parts=1");
        for store in [&before, &after] {
            assert_eq!(read_all(store, old, &old_extent.backend).await, b"old");
            assert_eq!(read_all(store, new, &new_extent.backend).await, b"new");
            assert!(!store.reads_unfinished() && !store.open_ones_survive());
        }
        assert_eq!((before.place(), after.place()), (PlaceId::FIRST, TWO));
        let mut listed = Vec::new();
        after.list(&mut |batch| listed.extend(batch.into_iter().map(|l| (l.segment, l.backend)))).await.unwrap();
        assert_eq!(listed, [(new, "@2 ".to_owned()), (old, String::new())]);
        // A listing's text is enough to delete, and deletes at its own place only.
        for (segment, backend) in listed {
            after.delete(segment, &backend).await.unwrap();
        }
        assert_eq!((disk.count(), bucket.count()), (0, 0));
    }

    #[tokio::test]
    async fn a_segment_that_was_left_at_one_place_is_sealed_there() {
        let (disk, bucket) = twins();
        let before = places((TWO, &bucket), (PlaceId::FIRST, &disk));
        let id = segment();
        let mut writer = before.create(id, None).await.unwrap();
        writer.write(&mut vec![Bytes::from_static(b"left")]).await.unwrap();
        let extent = writer.persist().await.unwrap();
        let after = places((PlaceId::FIRST, &disk), (TWO, &bucket));
        let sealed = after.seal(id, &extent.backend, 4).await.unwrap();
        assert!(sealed.starts_with("@2 "), "{sealed}");
        assert_eq!(read_all(&after, id, &sealed).await, b"left");
    }

    #[tokio::test]
    async fn an_unknown_place_is_an_error_and_never_an_absence() {
        let (disk, bucket) = twins();
        let store = places((PlaceId::FIRST, &disk), (TWO, &bucket));
        let id = segment();
        let told = |error: BlobError| error.to_string().contains("place 3") && !matches!(error, BlobError::NotFound(_));
        assert!(told(store.open(id, "@3 whole").await.unwrap_err()));
        assert!(told(store.length(id, "@3 whole").await.unwrap_err()));
        assert!(told(store.delete(id, "@3 whole").await.unwrap_err()));
        assert!(told(store.seal(id, "@3 whole", 1).await.unwrap_err()));
    }

    #[tokio::test]
    async fn one_place_alone_knows_what_is_not_its_own() {
        let (disk, _) = twins();
        let store = Places::new((PlaceId::FIRST, Arc::new(disk.clone())), Vec::new());
        suite(&store).await;
        let (id, _) = written(&store, b"here").await;
        assert!(matches!(store.open(id, "@1 ").await.unwrap_err(), BlobError::Io(_)));
        assert!(matches!(store.delete(id, "@1 ").await.unwrap_err(), BlobError::Io(_)));
        assert_eq!(read_all(&store, id, "").await, b"here", "what another place holds is not deleted here");
    }

    #[tokio::test]
    async fn a_place_that_is_away_keeps_nobody_from_the_others() {
        let (disk, bucket) = twins();
        let store = Store::start();
        let gone: Arc<dyn BlobStore> = Arc::new(in_bucket(&store, "old"));
        for call in ["ListObjectsV2", "HeadBucket"] {
            store.harm(call, u32::MAX, Harm::Refuse(403, "AccessDenied"));
        }
        let all =
            Places::new((PlaceId::FIRST, Arc::new(disk)), vec![(PlaceId(1), gone), (TWO, Arc::new(bucket.clone()))]);
        let (here, _) = written(&all, b"here").await;
        let (there, _) = written(&bucket, b"there").await;
        let listed = async |all: &Places| {
            let mut listed = Vec::new();
            let done = all.list(&mut |batch| listed.extend(batch.into_iter().map(|l| l.segment))).await;
            (done.is_ok(), listed)
        };
        assert_eq!(listed(&all).await, (false, vec![here, there]));
        assert_eq!(listed(&all.clone().without_listing(&[PlaceId(1)])).await, (true, vec![here, there]));
        all.ping().await.unwrap();
    }

    #[tokio::test]
    async fn clients_go_on_where_their_session_began() {
        let store = Store::start();
        let bucket: Arc<dyn BlobStore> = Arc::new(in_bucket(&store, "old"));
        let disk: Arc<dyn BlobStore> = Arc::new(twins().0);
        let after = Places::new((PlaceId::FIRST, disk), vec![(TWO, bucket)]);
        assert!(after.direct().is_none() && after.direct_at(PlaceId::FIRST).is_none() && after.knows_direct());
        let direct = after.direct_at(TWO).expect("the bucket takes from clients");
        let session = segment().session;
        let key = format!("old/{}", SegmentId::direct(session));
        store.put(&key, b"arrived");
        let arrived = direct.arrived(session, true).await.unwrap().expect("it arrived");
        assert!(arrived.backend.starts_with("@2 pin1 "), "{}", arrived.backend);
        assert_eq!(read_all(&after, arrived.segment, &arrived.backend).await, b"arrived");
        after.delete(arrived.segment, &arrived.backend).await.unwrap();
        assert!(store.get(&key).is_none());
    }
}
