//! What others took Google Cloud Storage to be: two emulators, each for what it has. fake-gcs-server knows URLs that were
//! signed, generations and conditions, and no parts; gcp-storage-emulator knows sessions with offsets, which it does not end. Neither has all that a
//! server asks of a bucket.

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use landfall::blob::{BlobStore, PutAsk, Reached, S3, SessionAsk};
use landfall::clock::{Clock, random_uuid};
use landfall::config::{Config, Storage};
use landfall::model::file::Declared;
use landfall::model::ids::SessionId;

use crate::bucket::Store;
use crate::harness::{client, noise};
use crate::postgres::port;
use crate::process::{Guarded, fetched};

const K: usize = 256 * 1024;

/// A running one. Ends with its guard.
struct Emulator {
    _child: Guarded,
    port: u16,
}

impl Emulator {
    /// Runs it, and waits until it answers at this path.
    async fn start(program: PathBuf, arguments: impl Fn(u16) -> Vec<String>, path: &str) -> Self {
        let port = port::free();
        let mut command = Command::new(program);
        command.args(arguments(port)).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let emulator = Self { _child: Guarded(command.spawn().unwrap()), port };
        for _ in 0..1_500 {
            if client().get(format!("{}{path}", emulator.url())).send().await.is_ok() {
                return emulator;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("it does not answer");
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Its bucket, with credentials of the store that a test plays: the emulator asks nobody for his.
    fn bucket(&self, credentials: &str) -> S3 {
        let mut config = Config::default();
        let url = format!("gs://bytes/here?endpoint={}&{credentials}", self.url());
        config.set_text("storage", &url).unwrap();
        let Storage::Bucket(bucket) = &config.storage else { panic!("{url}") };
        S3::open(bucket, HashMap::new(), Clock::system(), 1 << 26).unwrap()
    }
}

async fn read(store: &S3, arrived: &landfall::blob::Arrived, offset: u64, length: usize) -> Vec<u8> {
    let reader = store.open(arrived.segment, &arrived.backend).await.unwrap();
    reader.read(offset, length).await.unwrap().to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_signed_is_put_once_and_pinned_at_fake_gcs_server() {
    let program = fetched("go_program", "github.com/fsouza/fake-gcs-server", "v1.56.1");
    let arguments = |port: u16| {
        let host = format!("127.0.0.1:{port}");
        [
            "-scheme",
            "http",
            "-host",
            "127.0.0.1",
            "-port",
            &port.to_string(),
            "-backend",
            "memory",
            "-public-host",
            &host,
        ]
        .map(String::from)
        .to_vec()
    };
    let emulator = Emulator::start(program, arguments, "/storage/v1/b").await;
    let made = client()
        .post(format!("{}/storage/v1/b?project=p", emulator.url()))
        .header("content-type", "application/json")
        .body(r#"{"name":"bytes"}"#);
    assert_eq!(made.send().await.unwrap().status(), 200);
    // Tokens and the key that signs are those of the store that this test plays.
    let issuer = Store::google();
    let url = issuer.url("");
    let store = emulator.bucket(url.split('&').next_back().unwrap());
    let direct = store.direct().unwrap();
    let data = noise(300_000);
    let crc32c = u32::try_from(crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &data)).unwrap();
    let session = SessionId(random_uuid());
    let declared = Declared { crc32c: Some(crc32c), ..Declared::default() };
    let headers = [("content-type", "text/x")];
    let ask = PutAsk {
        session,
        headers: &headers,
        declared: &declared,
        create_only: true,
        bytes: (0, 300_000),
        life_seconds: 600,
    };
    let ticket = direct.ticket(ask).await.unwrap();
    assert_eq!(direct.arrived(session, true).await.unwrap(), None);
    let put = async |body: &[u8]| {
        let mut request = client().put(&ticket.url).body(body.to_vec());
        for (name, value) in &ticket.headers {
            request = request.header(name, value);
        }
        request.send().await.unwrap().status().as_u16()
    };
    assert_eq!(put(&data).await, 200);
    let arrived = direct.arrived(session, true).await.unwrap().unwrap();
    assert_eq!((arrived.length, arrived.digests.crc32c), (300_000, Some(crc32c)));
    let generation = arrived.backend.split(' ').nth(1).unwrap();
    assert!(generation.parse::<u64>().is_ok(), "{}", arrived.backend);
    assert!(read(&store, &arrived, 0, data.len()).await == data);
    assert!(read(&store, &arrived, 1000, 10).await == data[1000..1010]);
    for _ in 0..2 {
        store.delete(arrived.segment, &arrived.backend).await.unwrap();
    }
    assert_eq!(direct.arrived(session, true).await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_begun_and_asked_at_gcp_storage_emulator() {
    let program = fetched("python_program", "gcp-storage-emulator", "2026.7.19");
    let arguments = |port: u16| {
        ["start", "--host", "127.0.0.1", "--port", &port.to_string(), "--in-memory", "--default-bucket", "bytes"]
            .map(String::from)
            .to_vec()
    };
    let emulator = Emulator::start(program, arguments, "/").await;
    let store = emulator.bucket("credentials=none");
    let direct = store.direct().unwrap();
    let data = noise(2 * K + 1000);
    let size = data.len() as u64;
    let session = SessionId(random_uuid());
    let location =
        direct.begin_session(SessionAsk { session, size, content_type: "text/x", page: None }).await.unwrap();
    assert!(location.starts_with(&emulator.url()) && location.contains("upload_id="), "{location}");
    // Before the first chunk it names a byte that it does not have, where Google's names none.
    let send = async |from: usize, to: usize| {
        let range = format!("bytes {from}-{}/{size}", to - 1);
        let request = client().put(&location).header("content-range", range).body(data[from..to].to_vec());
        request.send().await.unwrap().status().as_u16()
    };
    assert_eq!(send(0, K).await, 308);
    assert_eq!(direct.reached(&location, size).await.unwrap(), Reached::Bytes(K as u64));
    assert_eq!(send(K, data.len()).await, 200);
    let key = format!("here/{}", landfall::model::ids::SegmentId::direct(session));
    let got = client().get(format!("{}/bytes/{key}", emulator.url())).send().await.unwrap();
    assert!(got.bytes().await.unwrap() == data);
}
