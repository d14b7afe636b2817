//! Many files that are moved while the command and the server are killed, and somebody reads.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use serde_json::{Value, json};

use super::{MIB, moving, serving, whole, writing};
use crate::azurite::Azurite;
use crate::backups::UPLOADS;
use crate::bucket::Store;
use crate::harness::client;
use crate::process::{Place, on_disk};

/// How a service of many files is disturbed.
struct Storm {
    killed_moves: usize,
    killed_servers: usize,
    runs: usize,
    seconds: f64,
}

/// The bytes of a file, the same each time: small ones, and of every hundred one that is larger than a part.
fn content_of(index: usize) -> Vec<u8> {
    let length = if index % 100 == 7 { 8 * MIB + 4096 + index } else { (index * 7919) % 6000 };
    let mut state = index as u64 ^ 0x9E37_79B9_7F4A_7C15;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Asks again while the server is being killed and started, at most for a minute.
async fn read(http: &reqwest::Client, at: &Mutex<(SocketAddr, String)>, id: &str) -> Vec<u8> {
    for _ in 0..600 {
        let (address, key) = at.lock().unwrap().clone();
        let request = http.get(format!("http://{address}/landfall/v1/files/{id}/content")).header("X-API-Key", key);
        if let Ok(reply) = request.send().await {
            assert_eq!(reply.status().as_u16(), 200, "file {id}");
            if let Ok(bytes) = reply.bytes().await {
                return bytes.to_vec();
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("file {id} can't be read")
}

/// Moves everything with the command killed at random until it comes to its end, and the server killed now and then.
async fn stormy(place: &Place, key: &str, (from, to): (&str, &str), files: &Arc<Vec<String>>) -> Storm {
    let began = Instant::now();
    let mut running = serving(place, key).await;
    let at = Arc::new(Mutex::new((running.address, key.to_owned())));
    let over = Arc::new(AtomicBool::new(false));
    let readings = Arc::new(AtomicUsize::new(0));
    let readers: Vec<_> = (0..2usize)
        .map(|reader| {
            let (at, over, readings, files) =
                (Arc::clone(&at), Arc::clone(&over), Arc::clone(&readings), Arc::clone(files));
            tokio::spawn(async move {
                let http = client();
                let mut index = reader * 31;
                while !over.load(Ordering::Relaxed) {
                    index = (index * 5 + 17) % files.len();
                    assert!(read(&http, &at, &files[index]).await == content_of(index), "file {index} has other bytes");
                    readings.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let mut storm = Storm { killed_moves: 0, killed_servers: 0, runs: 0, seconds: 0.0 };
    let said = loop {
        storm.runs += 1;
        assert!(storm.runs < 500, "it does not come to its end");
        let mut command = moving(place, from, to, &["--parallel", "8"]).spawn().unwrap();
        // Most runs are killed, the later the longer they live, so that it ends.
        let lives = u64::from(u16::from_le_bytes(landfall::clock::random_bytes())) % (300 + 100 * storm.runs as u64);
        let deadline = Instant::now() + Duration::from_millis(lives);
        let ended = loop {
            if let Some(status) = command.try_wait().unwrap() {
                break Some(status);
            }
            if Instant::now() > deadline {
                command.kill().unwrap();
                command.wait().unwrap();
                break None;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        match ended {
            None => storm.killed_moves += 1,
            Some(status) => {
                let output = command.wait_with_output().unwrap();
                let said = String::from_utf8_lossy(&output.stderr).into_owned();
                assert!(status.success(), "{said}");
                break serde_json::from_slice::<Value>(&output.stdout).unwrap();
            }
        }
        if storm.runs.is_multiple_of(4) {
            running.kill();
            running = serving(place, key).await;
            at.lock().unwrap().0 = running.address;
            storm.killed_servers += 1;
        }
    };
    assert_eq!((&said["left"], &said["damaged"], &said["uploads"]), (&json!(0), &json!(0), &json!(0)), "{said}");
    storm.seconds = began.elapsed().as_secs_f64();
    over.store(true, Ordering::Relaxed);
    for reader in readers {
        reader.await.unwrap();
    }
    assert!(readings.load(Ordering::Relaxed) > 0);
    // Every file, to its last byte.
    let http = client();
    let all = futures_util::stream::iter(0..files.len()).map(async |index| {
        assert!(read(&http, &at, &files[index]).await == content_of(index), "file {index} has other bytes");
    });
    all.buffer_unordered(8).collect::<Vec<()>>().await;
    running.kill();
    whole(place).await;
    storm
}

/// Moves so many files from each of these places to the next, the disk being the first, and from the last one back. How it went.
async fn around(count: usize, places: &[(&str, &str)]) -> String {
    let count: usize = std::env::var("LANDFALL_TEST_MOVE_FILES").map_or(count, |count| count.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let others = |than: &str| places.iter().map(|(_, url)| *url).filter(|url| *url != than).collect::<Vec<&str>>();
    let place = writing(&on_disk(folder.path()), "disk", &others("disk"));
    let mut running = place.serve().await.unwrap().with_first_key().await;
    let key = running.key.clone();
    let (http, address) = (client(), running.address);
    let began = Instant::now();
    let upload = async |index: usize| {
        let bytes = content_of(index);
        let ask = async |path: &str, body: Value| {
            let request = http.post(format!("http://{address}{path}")).header("X-API-Key", &key);
            let request = request.header("Content-Type", "application/json").body(body.to_string());
            let reply = request.send().await.unwrap();
            assert!(reply.status().is_success(), "{path}: {}", reply.status());
            serde_json::from_slice::<Value>(&reply.bytes().await.unwrap()).unwrap()
        };
        let opened =
            ask(UPLOADS, json!({ "name": format!("{index}"), "size": bytes.len(), "strategy": "single" })).await;
        let put = http.put(opened["url"].as_str().unwrap()).body(bytes).send().await.unwrap();
        assert_eq!(put.status().as_u16(), 200);
        ask(&format!("{UPLOADS}/{}/commit", opened["id"].as_str().unwrap()), json!({})).await;
        opened["file_id"].as_str().unwrap().to_owned()
    };
    let files = futures_util::stream::iter(0..count).map(upload).buffered(16).collect::<Vec<String>>().await;
    let files = Arc::new(files);
    let bytes: usize = (0..count).map(|index| content_of(index).len()).sum();
    let mut told = format!("{count} files, {} MiB, uploaded in {:.1} s", bytes / MIB, began.elapsed().as_secs_f64());
    running.kill();
    for (index, (from, from_url)) in places.iter().enumerate() {
        let (to, to_url) = places[(index + 1) % places.len()];
        let place = writing(&place, to_url, &others(to_url));
        let Storm { killed_moves, killed_servers, runs, seconds } =
            stormy(&place, &key, (from_url, to_url), &files).await;
        told.push_str(&format!(
            "\n{from} to {to}: {runs} runs, {killed_moves} killed, the server killed {killed_servers} times, {seconds:.1} s"
        ));
        assert!(killed_moves > 0, "{from} to {to} was never killed");
    }
    told
}

/// Of a few hundred files; by hand of more, with `LANDFALL_TEST_MOVE_FILES=10000`.
#[tokio::test(flavor = "multi_thread")]
async fn many_files_survive_a_move_that_is_killed_again_and_again() {
    let (amazon, google) = (Store::start(), Store::google());
    let (amazon, google) = (amazon.url("there"), google.url("there"));
    let places = [("the disk", "disk"), ("S3", &*amazon), ("Google", &google)];
    println!("{}", around(300, &places).await);
}

/// The same by way of containers; fewer, since the emulator is slow.
#[tokio::test(flavor = "multi_thread")]
async fn many_files_survive_moves_to_containers_and_from_them() {
    let (azure, amazon) = (tokio::task::spawn_blocking(Azurite::start).await.unwrap(), Store::start());
    let (here, there) = (azure.url("here"), azure.url("there"));
    let amazon = amazon.url("there");
    let places = [("the disk", "disk"), ("Azure", &*here), ("S3", &amazon), ("another place of Azure's", &there)];
    println!("{}", around(100, &places).await);
}
