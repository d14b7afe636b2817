//! Checks 21 to 41: session URLs. Their answers are the storage's that they stand for, not this API's envelope.

use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::{K, M, Session, finished, hashes, offset, put, status, streamed, whole};
use crate::harness::{Binary, Reply, Server, bytes_of, client, in_bucket, in_store, noise, read_reply};

const SIZE: u64 = 20 * M;

/// The bytes from `from` to before `to`, with their Content-Range.
async fn chunk(http: &reqwest::Client, url: &str, content: &[u8], from: u64, to: u64) -> Reply {
    let range = format!("bytes {from}-{}/{}", to - 1, content.len());
    put(http, url, &range, &content[from as usize..to as usize]).await
}

/// Everything that is still missing.
async fn rest(http: &reqwest::Client, url: &str, content: &[u8]) -> Reply {
    let from = offset(&status(http, url).await);
    chunk(http, url, content, from, content.len() as u64).await
}

/// The answer of a session URL that says no.
#[track_caller]
fn no(reply: &Reply, status: u16) -> String {
    assert_eq!(reply.status, status, "{}", reply.text());
    let body = reply.json();
    assert_eq!(body["error"]["code"], status, "{body}");
    body["error"]["message"].as_str().expect("a message").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn check_21_whole_bodies() {
    let server = Server::start().await;
    let content = noise(SIZE as usize);
    let session = server.session(SIZE).await;
    let reply = whole(&server.http, &session.url, &content).await;
    let object = finished(&reply, &content);
    assert_eq!((&object["kind"], &object["name"]), (&json!("storage#object"), &json!(session.path)));
    assert_eq!((&object["metageneration"], &object["contentType"]), (&json!("1"), &json!("application/octet-stream")));
    for field in
        ["id", "selfLink", "mediaLink", "bucket", "generation", "storageClass", "etag", "timeCreated", "updated"]
    {
        assert!(object[field].is_string(), "{field}");
    }
    assert!(object["generation"].as_str().unwrap().parse::<u64>().is_ok());
    assert!(reply.header("x-guploader-uploadid").is_some_and(|id| session.url.ends_with(id)));
    // In chunked transfer encoding, without a length.
    let session = server.session(SIZE).await;
    let pieces: Vec<_> = content.chunks(100_000).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
    finished(&streamed(&server.http, &session.url, "", futures_util::stream::iter(pieces)).await, &content);
    server.register(&session).send().await.expect(201);
    // POST is PUT, where it brings bytes.
    let session = server.session(3).await;
    let request = server.http.post(&session.url).header("Content-Range", "bytes 0-2/3").body("abc");
    finished(&Reply::read(request.send().await.unwrap()).await, b"abc");
}

#[tokio::test(flavor = "multi_thread")]
async fn check_22_status_of_a_fresh_session() {
    let server = Server::start().await;
    let session = server.session(SIZE).await;
    for range in ["bytes */20971520", "bytes */*"] {
        let reply = put(&server.http, &session.url, range, b"").await;
        assert_eq!((offset(&reply), reply.header("range")), (0, None));
    }
    // A POST without a range opens a session elsewhere: here it gets the one that is there.
    let request = server.http.post(&session.url).header("x-goog-resumable", "start").body("");
    let reply = Reply::read(request.send().await.unwrap()).await.expect(200);
    assert_eq!(reply.header("location"), Some(session.url.as_str()));
}

#[tokio::test(flavor = "multi_thread")]
async fn check_23_chunks() {
    let server = Server::start().await;
    let content = noise(SIZE as usize);
    let session = server.session(SIZE).await;
    for n in 1..4 {
        let reply = chunk(&server.http, &session.url, &content, (n - 1) * 5 * M, n * 5 * M).await;
        assert_eq!(offset(&reply), n * 5 * M);
        assert_eq!(reply.header("range"), Some(format!("bytes=0-{}", n * 5 * M - 1).as_str()));
    }
    finished(&chunk(&server.http, &session.url, &content, 15 * M, SIZE).await, &content);
    let file = server.register(&session).send().await.expect(201).json();
    let path = server.files(&format!("/{}/content", file["id"].as_str().unwrap()));
    let link = server.call("GET", path).send().await.expect(200).json();
    assert!(server.bare("GET", link["download_url"].as_str().unwrap()).send().await.expect(200).body == content);
    server.leaves_everything_whole().await;
}

/// Sends the head of a chunk and some of its body, and goes away.
async fn broken(server: &Server, url: &str, content: &[u8], from: u64, to: u64, sent: u64) {
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let path = url.split_once(&server.address.to_string()).unwrap().1;
    let head = format!(
        "PUT {path} HTTP/1.1\r\nHost: {}\r\nContent-Range: bytes {from}-{}/{}\r\nContent-Length: {}\r\n\r\n",
        server.address,
        to - 1,
        content.len(),
        to - from
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&content[from as usize..(from + sent) as usize]).await.unwrap();
    stream.flush().await.unwrap();
    stream.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn check_24_a_connection_is_cut() {
    let server = Server::start().await;
    let content = noise(SIZE as usize);
    let session = server.session(SIZE).await;
    let first = chunk(&server.http, &session.url, &content, 0, 5 * M).await;
    assert_eq!(offset(&first), 5 * M);
    broken(&server, &session.url, &content, 5 * M, 10 * M, 3 * K + 1000).await;
    let wanted = 5 * M + 3 * K;
    let mut seen = 5 * M;
    while seen < wanted {
        let now = offset(&status(&server.http, &session.url).await);
        assert!(now >= seen && now <= wanted && now.is_multiple_of(K), "{now} after {seen}");
        seen = now;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let reply = chunk(&server.http, &session.url, &content, wanted, 10 * M + 3 * K).await;
    assert_eq!(offset(&reply), 10 * M + 3 * K);
    finished(&rest(&server.http, &session.url, &content).await, &content);
    server.leaves_everything_whole().await;
}

/// A request's head for a body in chunked transfer encoding, and what comes behind it.
fn in_pieces(server: &Server, url: &str, range: &str, behind: &[u8]) -> Vec<u8> {
    let path = url.split_once(&server.address.to_string()).unwrap().1;
    let head = format!("PUT {path} HTTP/1.1\r\nHost: {}\r\n{range}Transfer-Encoding: chunked\r\n\r\n", server.address);
    [head.as_bytes(), behind].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_framing_is_a_bad_request_that_keeps_what_came() {
    let server = Server::start().await;
    let content = noise(5 * M as usize);
    let length = 3 * K + 1000;
    let garbled = |from: u64| {
        let piece = &content[from as usize..(from + length) as usize];
        [format!("{length:x}\r\n").as_bytes(), piece, b"\r\nzz\r\n"].concat()
    };
    for range in ["", "Content-Range: bytes 0-4194303/5242880\r\n", "Content-Range: bytes 0-*/*\r\n"] {
        let session = server.session(5 * M).await;
        let reply = server.raw(&in_pieces(&server, &session.url, range, &garbled(0))).await;
        let message = no(&reply, 400);
        assert!(message.contains("chunked transfer encoding"), "{message}");
        assert_eq!(offset(&status(&server.http, &session.url).await), 3 * K, "{range}");
        // Sent again, it breaks before anything is new.
        let early = [b"100\r\n", &content[..0x100], b"\r\n-1\r\n"].concat();
        no(&server.raw(&in_pieces(&server, &session.url, range, &early)).await, 400);
        assert_eq!(offset(&status(&server.http, &session.url).await), 3 * K, "{range}");
        let range = format!("Content-Range: bytes {}-*/*\r\n", 3 * K);
        no(&server.raw(&in_pieces(&server, &session.url, &range, &garbled(3 * K))).await, 400);
        assert_eq!(offset(&status(&server.http, &session.url).await), 6 * K, "{range}");
        finished(&rest(&server.http, &session.url, &content).await, &content);
    }
    // One that ends too early is cut: the client may send it again as it is.
    let session = server.session(5 * M).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let cut = garbled(0);
    stream.write_all(&in_pieces(&server, &session.url, "", &cut[..cut.len() - 6])).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut now = 0;
    while now < 3 * K {
        now = offset(&status(&server.http, &session.url).await);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    finished(&rest(&server.http, &session.url, &content).await, &content);
    server.leaves_everything_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn check_25_the_server_is_killed() {
    let mut server = Binary::start("").await;
    let content = noise(SIZE as usize);
    let path = format!("/v1/organizations/{}/files/upload-url", server.tenant);
    let body = json!({ "filename": "a.bin", "file_size": SIZE, "mime_type": "application/octet-stream" });
    let session = Session::of(&server.send("POST", &path, Some(body)).await.expect(200).json(), SIZE);
    let mut told = offset(&chunk(&server.http, &session.url, &content, 0, 5 * M).await);
    server.crash().await;
    for _ in 0..2 {
        let now = offset(&status(&server.http, &session.url).await);
        assert!(now >= told, "{now} after {told}");
        told = now;
        // Half of a chunk, and then the end of the world.
        let (half, mut more) = (content[told as usize..(told + 3 * M) as usize].to_vec(), told);
        let (http, url) = (server.http.clone(), session.url.clone());
        let body = futures_util::stream::iter([Ok::<_, std::io::Error>(Bytes::from(half))])
            .chain(futures_util::stream::pending());
        let range = format!("bytes {told}-{}/{SIZE}", told + 6 * M - 1);
        let sending = tokio::spawn(async move {
            let request = http.put(url).header("Content-Range", range).body(reqwest::Body::wrap_stream(body));
            let _ = request.send().await;
        });
        // What a status query makes it record and tells is as good as any other.
        while more < told + 2 * M {
            more = offset(&status(&server.http, &session.url).await);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        told = more;
        server.crash().await;
        let _ = sending.await;
    }
    let now = offset(&status(&server.http, &session.url).await);
    assert!(now >= told, "{now} after {told}");
    finished(&rest(&server.http, &session.url, &content).await, &content);
    let path = format!("/v1/organizations/{}/files", server.tenant);
    server.send("POST", &path, Some(session.registration())).await.expect(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn check_26_chunks_sent_again() {
    let server = Server::start().await;
    let content = noise(SIZE as usize);
    let session = server.session(SIZE).await;
    for _ in 0..3 {
        assert_eq!(offset(&chunk(&server.http, &session.url, &content, 0, 5 * M).await), 5 * M);
    }
    assert_eq!(offset(&chunk(&server.http, &session.url, &content, M, 3 * M).await), 5 * M);
    // Overlapping: begins within what is there, ends behind it. In a bucket that can't be compared: the offset is told.
    let overlapping = offset(&chunk(&server.http, &session.url, &content, 3 * M, 8 * M).await);
    assert_eq!(overlapping, if in_bucket() { 5 * M } else { 8 * M });
    assert_eq!(offset(&chunk(&server.http, &session.url, &content, 0, 10 * M).await), 10 * M);
    if in_bucket() {
        let mut other = content.clone();
        other[4 * M as usize] ^= 1;
        for (bytes, from, to) in [(&content, 10 * M - 1000, 11 * M - 1000), (&other, 3 * M, 12 * M)] {
            assert_eq!(offset(&chunk(&server.http, &session.url, bytes, from, to).await), 10 * M);
        }
        // From the beginning it can be compared: by checksums.
        assert!(no(&chunk(&server.http, &session.url, &other, 0, 12 * M).await, 400).contains("differ"));
        finished(&chunk(&server.http, &session.url, &content, 10 * M, SIZE).await, &content);
        return;
    }
    // Wherever it begins, a chunk that came whole is told whole.
    assert_eq!(offset(&chunk(&server.http, &session.url, &content, 10 * M - 1000, 11 * M - 1000).await), 11 * M - 1000);
    // Another file's bytes.
    let mut other = content.clone();
    other[4 * M as usize] ^= 1;
    let message = no(&chunk(&server.http, &session.url, &other, 3 * M, 12 * M).await, 400);
    assert!(message.contains("differ"), "{message}");
    assert_eq!(offset(&status(&server.http, &session.url).await), 11 * M - 1000);
    finished(&chunk(&server.http, &session.url, &content, 9 * M, SIZE).await, &content);
}

#[tokio::test(flavor = "multi_thread")]
async fn check_27_the_last_answer_was_lost() {
    let mut server = Server::start().await;
    let content = noise(SIZE as usize);
    let session = server.session(SIZE).await;
    chunk(&server.http, &session.url, &content, 0, 15 * M).await.expect(308);
    let first = finished(&chunk(&server.http, &session.url, &content, 15 * M, SIZE).await, &content);
    let usage = server.get("/usage").await;
    assert_eq!(finished(&chunk(&server.http, &session.url, &content, 15 * M, SIZE).await, &content), first);
    assert_eq!(finished(&whole(&server.http, &session.url, &content).await, &content), first);
    assert_eq!(finished(&status(&server.http, &session.url).await, &content), first);
    server.restart().await;
    assert_eq!(finished(&put(&server.http, &session.url, "bytes */20971520", b"").await, &content), first);
    assert_eq!(server.get("/usage").await, usage, "one object only");
    // Also when it was registered under another name meanwhile.
    let mut body = session.registration();
    body["filename"] = "b.bin".into();
    server.call("POST", server.files("")).json(body).send().await.expect(201);
    assert_eq!(finished(&status(&server.http, &session.url).await, &content), first);
}

#[tokio::test(flavor = "multi_thread")]
async fn check_28_gaps() {
    let server = Server::start().await;
    let content = noise(SIZE as usize);
    let session = server.session(SIZE).await;
    assert_eq!(offset(&chunk(&server.http, &session.url, &content, 5 * M, 10 * M).await), 0);
    chunk(&server.http, &session.url, &content, 0, M).await.expect(308);
    assert_eq!(offset(&chunk(&server.http, &session.url, &content, 15 * M, SIZE).await), M);
    assert_eq!(offset(&status(&server.http, &session.url).await), M);
    server.register(&session).send().await.fault(400, "UPLOAD_INCOMPLETE");
}

#[tokio::test(flavor = "multi_thread")]
async fn check_29_short_chunks() {
    let server = Server::start().await;
    let content = noise(M as usize + 1);
    let session = server.session(M + 1).await;
    let message = no(&chunk(&server.http, &session.url, &content, 0, 1000).await, 400);
    assert!(message.contains("262144") && message.contains("1000"), "{message}");
    assert_eq!(offset(&status(&server.http, &session.url).await), 0);
    // Long enough, and no multiple: what is a multiple stays.
    assert_eq!(offset(&chunk(&server.http, &session.url, &content, 0, K + 1000).await), K);
    assert_eq!(offset(&chunk(&server.http, &session.url, &content, K, M).await), M);
    finished(&chunk(&server.http, &session.url, &content, M, M + 1).await, &content);
}

#[tokio::test(flavor = "multi_thread")]
async fn check_30_the_total_comes_late() {
    let server = Server::start().await;
    let content = noise(SIZE as usize);
    let session = server.session(SIZE).await;
    let reply = put(&server.http, &session.url, "bytes 0-262143/*", &content[..K as usize]).await;
    assert_eq!(offset(&reply), K);
    let reply = put(&server.http, &session.url, "bytes 262144-20971519/20971520", &content[K as usize..]).await;
    finished(&reply, &content);
    // Neither the last byte nor the total, in chunked transfer encoding.
    let session = server.session(SIZE).await;
    let pieces = content[..3 * K as usize].chunks(K as usize).map(|piece| Ok(Bytes::copy_from_slice(piece)));
    let pieces = futures_util::stream::iter(pieces.collect::<Vec<_>>());
    assert_eq!(offset(&streamed(&server.http, &session.url, "bytes 0-*/*", pieces).await), 3 * K);
    finished(&put(&server.http, &session.url, "bytes 786432-*/20971520", &content[3 * K as usize..]).await, &content);
}

#[tokio::test(flavor = "multi_thread")]
async fn check_31_ranges_that_can_not_be() {
    let server = Server::start().await;
    let content = noise(SIZE as usize);
    let session = server.session(SIZE).await;
    for told in [0, K] {
        if told > 0 {
            chunk(&server.http, &session.url, &content, 0, K).await.expect(308);
        }
        for (range, body) in [
            ("bytes 0-9/10", 10),
            ("bytes 9-0/20971520", 0),
            ("bytes x", 10),
            ("bytes=0-9/20", 10),
            ("bytes 0-262143/20971520", K as usize + 1),
            ("bytes 0-262143/20971520", K as usize - 1),
            ("bytes 0-20971520/20971520", SIZE as usize + 1),
            ("bytes 0-20971520/*", SIZE as usize + 1),
            ("bytes */10", 0),
            ("", 0),
        ] {
            let body = content.iter().cycle().take(body).copied().collect::<Vec<u8>>();
            no(&put(&server.http, &session.url, range, &body).await, 400);
            assert_eq!(offset(&status(&server.http, &session.url).await), told, "after {range}");
        }
        // A body that is longer than its range, and does not say so before.
        let pieces = content[..2 * K as usize].chunks(1000).map(|piece| Ok(Bytes::copy_from_slice(piece)));
        let pieces = futures_util::stream::iter(pieces.collect::<Vec<_>>());
        no(&streamed(&server.http, &session.url, "bytes 0-262143/20971520", pieces).await, 400);
        assert_eq!(offset(&status(&server.http, &session.url).await), told);
    }
    finished(&rest(&server.http, &session.url, &content).await, &content);
}

#[tokio::test(flavor = "multi_thread")]
async fn check_32_whole_bodies_of_the_wrong_length() {
    let server = Server::start().await;
    let content = noise(M as usize + 1);
    let session = server.session(M).await;
    for length in [M as usize - 1, M as usize + 1] {
        no(&whole(&server.http, &session.url, &content[..length]).await, 400);
        assert_eq!(offset(&status(&server.http, &session.url).await), 0);
        let pieces = content[..length].chunks(100_000).map(|piece| Ok(Bytes::copy_from_slice(piece)));
        let pieces = futures_util::stream::iter(pieces.collect::<Vec<_>>());
        no(&streamed(&server.http, &session.url, "", pieces).await, 400);
        server.register(&session).send().await.fault(400, "UPLOAD_INCOMPLETE");
    }
    finished(&whole(&server.http, &session.url, &content[..M as usize]).await, &content[..M as usize]);
}

/// Bytes in the byte store.
fn segments(server: &Server) -> u64 {
    if in_bucket() {
        return in_store(&server.data());
    }
    fn bytes(directory: &std::path::Path) -> u64 {
        let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap());
        entries
            .map(|entry| {
                if entry.file_type().unwrap().is_dir() { bytes(&entry.path()) } else { entry.metadata().unwrap().len() }
            })
            .sum()
    }
    bytes(&server.data().join("blobs"))
}

/// No byte of any upload is left once the clocks have agreed for long enough.
async fn reclaimed(server: &Server) {
    let mut sweeper = landfall::upload::sweep::Sweeper::default();
    for _ in 0..5 {
        sweeper.sweep(server.engine()).await.unwrap();
        server.clock.advance(Duration::from_secs(1800));
    }
    assert_eq!(segments(server), 0, "bytes are left");
}

#[tokio::test(flavor = "multi_thread")]
async fn check_33_cancelling() {
    let server = Server::start().await;
    let content = noise(SIZE as usize);
    let usage = server.get("/usage").await;
    let session = server.session(SIZE).await;
    chunk(&server.http, &session.url, &content, 0, 5 * M).await.expect(308);
    for method in ["DELETE", "PUT", "PUT", "DELETE"] {
        let request = server.http.request(method.parse().unwrap(), &session.url);
        let request = if method == "PUT" { request.body(content.clone()) } else { request };
        let reply = Reply::read(request.send().await.unwrap()).await;
        assert_eq!((reply.status, reply.header("content-length")), (499, Some("0")), "{method}");
    }
    assert_eq!(status(&server.http, &session.url).await.status, 499);
    assert_eq!(chunk(&server.http, &session.url, &content, 5 * M, 10 * M).await.status, 499);
    server.register(&session).send().await.fault(404, "FILE_NOT_FOUND");
    assert_eq!(server.get("/usage").await, usage);
    reclaimed(&server).await;
    server.leaves_everything_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn check_34_expiry() {
    let server = Server::start().await;
    let content = noise(SIZE as usize);
    let session = server.session(SIZE).await;
    let complete = server.session(4).await;
    whole(&server.http, &complete.url, b"abcd").await.expect(200);
    chunk(&server.http, &session.url, &content, 0, 5 * M).await.expect(308);
    server.clock.advance(Duration::from_secs(7 * 24 * 3600 - 2));
    // Progress does not extend it.
    assert_eq!(offset(&chunk(&server.http, &session.url, &content, 5 * M, 10 * M).await), 10 * M);
    server.clock.advance(Duration::from_secs(3));
    no(&status(&server.http, &session.url).await, 404);
    no(&chunk(&server.http, &session.url, &content, 10 * M, SIZE).await, 404);
    no(&whole(&server.http, &session.url, &content).await, 404);
    server.register(&session).send().await.fault(404, "FILE_NOT_FOUND");
    server.register(&complete).send().await.fault(404, "FILE_NOT_FOUND");
    reclaimed(&server).await;
    // Whoever guesses finds nothing.
    let good = server.session(4).await;
    let (base, id) = good.url.split_once("upload_id=").unwrap();
    let flipped = format!("{}{}", if id.starts_with('A') { "B" } else { "A" }, &id[1..]);
    for wrong in ["", "x", &flipped, &id[..id.len() - 1], &format!("{id}A"), &good.file] {
        no(&status(&server.http, &format!("{base}upload_id={wrong}")).await, 404);
    }
    no(&status(&server.http, base.split_once('?').unwrap().0).await, 404);
    no(&put(&server.http, &format!("{base}upload_id={flipped}"), "", b"abcd").await, 404);
    server.leaves_everything_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn check_34_ended_by_an_operator() {
    let server = Server::start().await;
    let content = noise(SIZE as usize);
    let usage = server.get("/usage").await;
    let list = ["upload", "list", "--tenant", &server.tenant, "--state", "open"];
    // A segment that waits for the next chunk; a body on its way that nobody asks about; one that is asked about.
    let (waits, comes, asked) = (server.session(SIZE).await, server.session(SIZE).await, server.session(SIZE).await);
    chunk(&server.http, &waits.url, &content, 0, 5 * M).await.expect(308);
    let mut bodies = Vec::new();
    for session in [&comes, &asked] {
        let path = session.url.split_once(&server.address.to_string()).unwrap().1;
        let head = format!(
            "PUT {path} HTTP/1.1\r\nHost: {}\r\nContent-Range: bytes 0-{}/{SIZE}\r\n",
            server.address,
            10 * M - 1
        );
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(format!("{head}Content-Length: {}\r\n\r\n", 10 * M).as_bytes()).await.unwrap();
        stream.write_all(&content[..6 * M as usize]).await.unwrap();
        bodies.push(stream);
    }
    // It has begun: it tells how far it has come.
    while offset(&status(&server.http, &asked.url).await) < 5 * M {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    for session in [&waits, &comes, &asked] {
        let ended = server.admin(&["upload", "end", &session.file]).await;
        assert_eq!((&ended["state"], &ended["tenant"]), (&json!("failed"), &json!(server.tenant)), "{ended}");
        assert!(!ended.to_string().contains("upload_id"), "{ended}");
        assert_eq!(server.admin(&["upload", "end", ended["id"].as_str().unwrap()]).await, ended, "repeated");
    }
    assert_eq!(server.get("/usage").await, usage, "what was reserved is given back at once");
    no(&status(&server.http, &asked.url).await, 410);
    no(&read_reply(&mut bodies[1]).await, 410);
    // The other one goes on to the end of its chunk.
    bodies[0].write_all(&content[6 * M as usize..10 * M as usize]).await.unwrap();
    no(&read_reply(&mut bodies[0]).await, 410);
    for session in [&waits, &comes, &asked] {
        no(&status(&server.http, &session.url).await, 410);
        no(&chunk(&server.http, &session.url, &content, 5 * M, 10 * M).await, 410);
        no(&whole(&server.http, &session.url, &content).await, 410);
        no(&Reply::read(server.http.delete(&session.url).send().await.unwrap()).await, 410);
        server.register(session).send().await.fault(404, "FILE_NOT_FOUND");
    }
    reclaimed(&server).await;
    // What is over already stays as it was, and what never was is no upload.
    let done = server.session(4).await;
    let open = server.admin(&list).await;
    assert_eq!((&open["size"], &open["received"], &open["name"]), (&json!(4), &json!(0), &json!("a.bin")), "{open}");
    assert!(!open.to_string().contains("upload_id"), "{open}");
    whole(&server.http, &done.url, b"abcd").await.expect(200);
    assert!(server.admin_refused(&["upload", "end", &done.file]).await.contains("committed"));
    for unknown in ["0197f3a2-0000-7000-8000-000000000000", "x"] {
        server.admin_refused(&["upload", "end", unknown]).await;
    }
    server.register(&done).send().await.expect(201);
    assert_eq!(
        server.admin(&["upload", "list", "--tenant", &server.tenant, "--state", "committed"]).await["id"],
        open["id"]
    );
    assert!(server.admin_refused(&["upload", "list", "--tenant", "nobody"]).await.contains("does not exist"));
    server.leaves_everything_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn check_35_clients_that_can_not_see_a_308() {
    let server = Server::start().await;
    let content = noise(SIZE as usize);
    let session = server.session(SIZE).await;
    let ask = |range: &str, body: &[u8]| {
        let request = server.http.put(&session.url).header("X-GUploader-No-308", "yes");
        request.header("Content-Range", range).body(body.to_vec())
    };
    let reply = Reply::read(ask("bytes 0-5242879/20971520", &content[..5 * M as usize]).send().await.unwrap()).await;
    assert_eq!((reply.status, reply.header("x-http-status-code-override")), (200, Some("308")));
    assert_eq!((reply.header("range"), reply.header("content-length")), (Some("bytes=0-5242879"), Some("0")));
    let reply = Reply::read(ask("bytes */*", b"").send().await.unwrap()).await;
    assert_eq!((reply.status, reply.header("range")), (200, Some("bytes=0-5242879")));
    let reply =
        Reply::read(ask("bytes 5242880-20971519/20971520", &content[5 * M as usize..]).send().await.unwrap()).await;
    assert_eq!(reply.header("x-http-status-code-override"), None);
    finished(&reply, &content);
}

#[tokio::test(flavor = "multi_thread")]
async fn check_36_other_origins() {
    let server = Server::start().await;
    let session = server.session(2 * K).await;
    let asked = "content-type,content-range,x-goog-hash,x-guploader-no-308,x-my-own";
    let preflight = |url: &str, origin: &str| {
        let request = server.http.request(reqwest::Method::OPTIONS, url).header("Origin", origin);
        let request = request.header("Access-Control-Request-Method", "PUT");
        request.header("Access-Control-Request-Headers", asked)
    };
    let reply = Reply::read(preflight(&session.url, "https://app.example").send().await.unwrap()).await.expect(204);
    assert_eq!(reply.header("access-control-allow-origin"), Some("*"));
    assert_eq!(reply.header("access-control-allow-methods"), Some("PUT, POST, DELETE, OPTIONS"));
    assert_eq!(reply.header("access-control-max-age"), Some("3600"));
    let allowed: Vec<&str> = reply.header("access-control-allow-headers").unwrap().split(", ").collect();
    assert_eq!(allowed, asked.split(',').collect::<Vec<_>>());
    assert!(reply.body.is_empty());
    let content = noise(2 * K as usize);
    let send = async |range: &str, body: &[u8]| {
        let request = server.http.put(&session.url).header("Origin", "https://other.example");
        Reply::read(request.header("Content-Range", range).body(body.to_vec()).send().await.unwrap()).await
    };
    let replies = [
        send("bytes 0-262143/524288", &content[..K as usize]).await.expect(308),
        send("bytes x", b"").await.expect(400),
        send("bytes 262144-524287/524288", &content[K as usize..]).await.expect(200),
    ];
    let gone = server.session(1).await;
    server.http.delete(&gone.url).send().await.unwrap();
    let request = server.http.put(&gone.url).header("Origin", "https://app.example");
    let gone = Reply::read(request.body("x").send().await.unwrap()).await;
    assert_eq!(gone.status, 499);
    for reply in replies.iter().chain([&gone]) {
        assert_eq!(reply.header("access-control-allow-origin"), Some("*"));
        let exposed: Vec<&str> = reply.header("access-control-expose-headers").unwrap().split(", ").collect();
        for name in ["Range", "Location", "ETag", "X-GUploader-UploadID", "X-HTTP-Status-Code-Override"] {
            assert!(exposed.contains(&name), "{name} in {exposed:?}");
        }
    }
    // A list of origins is kept to.
    let server = Server::start_with(|c| c.cors_origins = vec!["https://app.example".into()]).await;
    let session = server.session(1).await;
    let reply = Reply::read(preflight(&session.url, "https://app.example").send().await.unwrap()).await.expect(204);
    assert_eq!(reply.header("access-control-allow-origin"), Some("https://app.example"));
    let reply = Reply::read(preflight(&session.url, "https://evil.example").send().await.unwrap()).await.expect(403);
    assert_eq!(reply.header("access-control-allow-origin"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn check_37_a_308_is_no_redirect() {
    let server = Server::start().await;
    let session = server.session(SIZE).await;
    // A client of Rust that follows redirects.
    let follows =
        reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::limited(10)).build().unwrap();
    assert_eq!(offset(&status(&follows, &session.url).await), 0);
    let run = async |program: &'static str, arguments: Vec<String>| {
        let run = move || std::process::Command::new(program).args(arguments).output().expect(program);
        let output = tokio::task::spawn_blocking(run).await.unwrap();
        assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    // A file, so that curl could send it again elsewhere.
    let body = server.data().join("../chunk");
    std::fs::write(&body, noise(K as usize)).unwrap();
    let arguments =
        ["-sS", "-L", "--noproxy", "*", "-o", "/dev/null", "-w", "%{http_code} %{num_redirects} %header{range}"];
    let mut arguments: Vec<String> = arguments.map(String::from).to_vec();
    arguments.extend(["-H".into(), "Content-Range: bytes 0-262143/20971520".into()]);
    arguments.extend(["-T".into(), body.display().to_string(), session.url.clone()]);
    assert_eq!(run("curl", arguments).await, "308 0 bytes=0-262143");
    // Python's standard client follows redirects by itself; it has to see this one.
    let script = "import sys, urllib.request, urllib.error
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
request = urllib.request.Request(sys.argv[1], method='PUT', data=b'', headers={'Content-Range': 'bytes */*'})
try:
    print(opener.open(request).status)
except urllib.error.HTTPError as error:
    print(error.code, error.headers['Range'])";
    let printed = run("python3", vec!["-c".into(), script.into(), session.url.clone()]).await;
    assert_eq!(printed.trim(), "308 bytes=0-262143");
}

#[tokio::test(flavor = "multi_thread")]
async fn check_38_declared_digests() {
    let server = Server::start().await;
    let content = noise(2 * M as usize);
    let (md5, crc32c) = hashes(&content);
    let (other_md5, other_crc32c) = hashes(b"other");
    let finish = async |session: &Session, name: &str, value: &str| {
        chunk(&server.http, &session.url, &content, 0, M).await.expect(308);
        let request = server.http.put(&session.url).header("Content-Range", "bytes 1048576-2097151/2097152");
        let request = request.header(name, value).body(content[M as usize..].to_vec());
        Reply::read(request.send().await.unwrap()).await
    };
    for good in [format!("crc32c={crc32c},md5={md5}"), format!("md5={md5}"), format!("crc32c={crc32c}")] {
        let session = server.session(2 * M).await;
        finished(&finish(&session, "X-Goog-Hash", &good).await, &content);
    }
    let before = server.get("/usage").await;
    for wrong in [format!("crc32c={other_crc32c}"), format!("crc32c={crc32c},md5={other_md5}")] {
        let session = server.session(2 * M).await;
        no(&finish(&session, "X-Goog-Hash", &wrong).await, 400);
        server.register(&session).send().await.fault(404, "FILE_NOT_FOUND");
        // An offset that was told never goes down: the upload is over.
        no(&status(&server.http, &session.url).await, 410);
        no(&whole(&server.http, &session.url, &content).await, 410);
    }
    let session = server.session(2 * M).await;
    let request = server.http.put(&session.url).header("Content-MD5", &other_md5).body(content.clone());
    no(&Reply::read(request.send().await.unwrap()).await, 400);
    assert_eq!(server.get("/usage").await, before);
    let session = server.session(2 * M).await;
    for nonsense in ["crc32c=", "sha1=AAAA", "md5=!!", "crc32c=AAAAAAAA"] {
        let request = server.http.put(&session.url).header("X-Goog-Hash", nonsense).body(content.clone());
        no(&Reply::read(request.send().await.unwrap()).await, 400);
    }
    let request = server.http.put(&session.url).header("Content-MD5", &md5).body(content.clone());
    finished(&Reply::read(request.send().await.unwrap()).await, &content);
}

#[tokio::test(flavor = "multi_thread")]
async fn check_39_two_clients_at_once() {
    let server = Server::start().await;
    let content = noise(SIZE as usize);
    let session = server.session(SIZE).await;
    // A client that asks, sends on from what it is told, and asks again when it was interrupted.
    let go = async || {
        let http = client();
        for _ in 0..500 {
            let told = status(&http, &session.url).await;
            if told.status == 200 {
                return told;
            }
            let from = offset(&told);
            let reply = chunk(&http, &session.url, &content, from, (from + 4 * M).min(SIZE)).await;
            assert!([200, 308, 400, 503].contains(&reply.status), "{reply:?}");
            assert!(reply.status != 400, "{}", reply.text());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("it never ends");
    };
    let (one, two) = tokio::join!(go(), go());
    assert_eq!(finished(&one, &content), finished(&two, &content));
    let file = server.register(&session).send().await.expect(201).json();
    let path = server.files(&format!("/{}/content", file["id"].as_str().unwrap()));
    let link = server.call("GET", path).send().await.expect(200).json();
    assert!(server.bare("GET", link["download_url"].as_str().unwrap()).send().await.expect(200).body == content);
    server.leaves_everything_whole().await;
}

/// Opens a session on a server of its own.
async fn open(server: &Binary, size: u64) -> Session {
    let path = format!("/v1/organizations/{}/files/upload-url", server.tenant);
    let body = json!({ "filename": "a.bin", "file_size": size, "mime_type": "application/octet-stream" });
    Session::of(&server.send("POST", &path, Some(body)).await.expect(200).json(), size)
}

#[tokio::test(flavor = "multi_thread")]
async fn check_39_fifty_sessions_at_once() {
    let mut server = Binary::start("").await;
    let uploads = (0..50).map(async |n| {
        let session = open(&server, SIZE + n).await;
        let reply = streamed(&server.http, &session.url, "", bytes_of(SIZE + n)).await.expect(200);
        assert_eq!(reply.json()["size"], (SIZE + n).to_string());
    });
    futures_util::future::join_all(uploads).await;
    server.stays_small();
}

#[tokio::test(flavor = "multi_thread")]
async fn check_40_five_gibibytes() {
    const GIB: u64 = 1 << 30;
    const CHUNK: u64 = 8 * M;
    let space = rustix::fs::statvfs(std::env::temp_dir()).unwrap();
    let free = space.f_bavail * space.f_frsize;
    assert!(free >= 12 * GIB, "this test writes 5 GiB and needs 12 GiB of free space: point TMPDIR at a larger disk");
    let mut server = Binary::start("").await;
    let session = open(&server, 5 * GIB).await;
    let mut from = 0;
    loop {
        let range = format!("bytes {from}-{}/{}", from + CHUNK - 1, 5 * GIB);
        let begun = std::time::Instant::now();
        let reply = streamed(&server.http, &session.url, &range, bytes_of(CHUNK)).await;
        assert!(begun.elapsed() < Duration::from_secs(60), "the chunk at {from} took {:?}", begun.elapsed());
        if reply.status == 200 {
            assert_eq!((from + CHUNK, &reply.json()["size"]), (5 * GIB, &json!((5 * GIB).to_string())));
            break;
        }
        from = offset(&reply);
    }
    server.stays_small();
}

#[tokio::test(flavor = "multi_thread")]
async fn check_41_secrets_stay_out_of_logs() {
    let server = Binary::start("").await;
    let session = open(&server, K).await;
    let secret = session.url.split_once("upload_id=").unwrap().1;
    let mut told = Vec::new();
    told.push(put(&server.http, &session.url, "bytes x", b"x").await.expect(400));
    told.push(put(&server.http, &session.url, "bytes 0-9/10", b"0123456789").await.expect(400));
    told.push(put(&server.http, &format!("{}x", session.url), "", b"x").await.expect(404));
    told.push(whole(&server.http, &session.url, &noise(K as usize)).await.expect(200));
    let path = format!("/v1/organizations/{}/files", server.tenant);
    let file = server.send("POST", &path, Some(session.registration())).await.expect(201).json();
    let content = server.send("GET", &format!("{path}/{}/content", file["id"].as_str().unwrap()), None).await;
    let link = content.expect(200).json()["download_url"].as_str().unwrap().to_owned();
    let token = link.split_once("token=").unwrap().1.split('&').next().unwrap();
    Reply::read(server.http.get(&link).send().await.unwrap()).await.expect(200);
    told.push(Reply::read(server.http.get(format!("{link}1")).send().await.unwrap()).await.expect(401));
    told.push(server.send("POST", &path, Some(json!({ "gcs_path": session.url }))).await.expect(422));
    let log = server.log();
    assert!(log.contains("/upload/storage/v1/b/"), "requests are logged: {log}");
    for (name, secret) in [("session URL", secret), ("key", server.key.as_str()), ("download token", token)] {
        assert!(!log.contains(secret), "the {name} is in the log");
        for reply in &told {
            assert!(!reply.text().contains(secret), "the {name} is in {}", reply.text());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_waits_for_100_is_refused_before_it_sends() {
    let server = Server::start().await;
    let session = server.session(SIZE).await;
    let path = session.url.split_once(&server.address.to_string()).unwrap().1;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let head = format!(
        "PUT {path} HTTP/1.1\r\nHost: {}\r\nContent-Range: bytes 0-9/10\r\nContent-Length: 10\r\nExpect: 100-continue\r\n\r\n",
        server.address
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    no(&read_reply(&mut stream).await, 400);
}
