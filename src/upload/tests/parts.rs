//! Files in parts, over keepers that fail and that can't be appended to.

use super::*;
use crate::model::ids::SessionId;
use crate::model::session::{Declaration, Parts};
use crate::upload::open::{NewFile, OpenedParts, Plainly};
use crate::upload::parts;
use crate::upload::read::VersionReader;
use crate::upload::track::Claim;

impl Place {
    async fn in_parts(&self, count: u32, content_of: Option<crate::model::ids::FileId>) -> OpenedParts {
        let declaration = Declaration { name: "a".into(), mime_type: "a/b".into(), ..Declaration::default() };
        let file = NewFile { size: None, registers: true, declaration, next_of: None };
        let life = Duration::from_secs(24 * 3600);
        let ask = Plainly { wire: "w", base: "http://h", max_bytes: 1 << 30, life, file, content_of };
        let wanted = Parts { count, smallest: 0, largest: 1 << 20 };
        open::multipart(&self.engine, &self.grant, ask, wanted).await.unwrap()
    }

    async fn part(&self, session: SessionId, number: u32, bytes: &[u8]) -> Result<receive::Receipt, Refusal> {
        let admitted = parts::admit(&self.engine, session, number, None).await?;
        let body = pin!(futures_util::stream::iter(chunks(bytes)));
        parts::receive(&self.engine, admitted, body, None, Declared::default()).await
    }

    async fn complete(&self, session: SessionId) -> Result<crate::model::file::Receipt, Refusal> {
        parts::complete(&self.engine, &self.grant, session, Claim::default()).await.map(|(_, receipt)| receipt)
    }

    async fn reader(&self, receipt: &crate::model::file::Receipt) -> VersionReader {
        read::version(&self.engine, self.grant.tenant(), receipt.version).await.unwrap()
    }
}

async fn all_of(reader: VersionReader) -> Vec<u8> {
    let size = reader.size();
    let chunks: Vec<_> = reader.stream(0..size).collect().await;
    chunks.into_iter().flat_map(|chunk| chunk.unwrap().to_vec()).collect()
}

fn bytes_of(number: u32) -> Vec<u8> {
    vec![u8::try_from(number).unwrap(); usize::try_from(number % 7 * 50_000).unwrap()]
}

#[tokio::test]
async fn completion_touches_no_bytes() {
    for form in [Form::Disk, Form::Parts] {
        let place = Place::new(form).await;
        let opened = place.in_parts(40, None).await;
        for number in (1..=40).rev() {
            place.part(opened.session, number, &bytes_of(number)).await.unwrap();
        }
        for operation in [Operation::Create, Operation::Write, Operation::Sync, Operation::Delete, Operation::Read] {
            place.faults.fail_next(operation, io::ErrorKind::Other);
        }
        let receipt = place.complete(opened.session).await.unwrap();
        assert_eq!(place.complete(opened.session).await.unwrap(), receipt);
        // The first read fails as planned, and never looks complete.
        let reader = place.reader(&receipt).await;
        assert!(reader.at(0, 1).await.is_err());
        assert!(all_of(reader).await == (1..=40).flat_map(bytes_of).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn a_part_that_fails_leaves_the_one_before() {
    let place = Place::new(Form::Parts).await;
    let opened = place.in_parts(1, None).await;
    place.part(opened.session, 1, b"first").await.unwrap();
    for (operation, kind, expected) in [
        (Operation::Create, io::ErrorKind::StorageFull, Refusal::OutOfSpace),
        (Operation::Write, io::ErrorKind::StorageFull, Refusal::OutOfSpace),
        (Operation::Write, io::ErrorKind::Other, Refusal::Unavailable),
        (Operation::Sync, io::ErrorKind::Other, Refusal::Unavailable),
    ] {
        place.faults.fail_next(operation, kind);
        assert_eq!(place.part(opened.session, 1, &[7; 600_000]).await, Err(expected), "{operation:?}");
    }
    let large = place.part(opened.session, 1, &[7; (1 << 20) + 1]).await;
    assert!(matches!(large, Err(Refusal::TooLarge { what: "a part", limit: 1_048_576, .. })), "{large:?}");
    let receipt = place.complete(opened.session).await.unwrap();
    assert_eq!(all_of(place.reader(&receipt).await).await, b"first");
    sweep::unlink(&place.engine, place.engine.clock.now()).await.unwrap();
    assert_eq!(place.memory.count(), 1);
    place.sound().await;
}

#[tokio::test]
async fn a_version_of_many_pieces_is_kept_while_it_is_read() {
    let place = Place::new(Form::Disk).await;
    let opened = place.in_parts(40, None).await;
    let next = place.in_parts(1, Some(opened.file)).await;
    for number in 1..=40 {
        place.part(opened.session, number, &bytes_of(number)).await.unwrap();
    }
    let receipt = place.complete(opened.session).await.unwrap();
    let (reader, other) = (place.reader(&receipt).await, place.reader(&receipt).await);
    place.part(next.session, 1, b"next").await.unwrap();
    let replaced = place.complete(next.session).await.unwrap();
    let swept = async |hours: u64| {
        place.engine.clock.advance(Duration::from_secs(hours * 3600));
        sweep::unlink(&place.engine, place.engine.clock.now()).await.unwrap()
    };
    assert_eq!(swept(2).await, 0, "it is read");
    assert!(all_of(reader).await == (1..=40).flat_map(bytes_of).collect::<Vec<_>>());
    assert_eq!(swept(2).await, 0, "somebody else still reads it");
    drop(other);
    assert_eq!(swept(2).await, 40);
    assert_eq!(place.memory.count(), 1);
    assert_eq!(all_of(place.reader(&replaced).await).await, b"next");
    place.sound().await;
}
