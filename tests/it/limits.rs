//! The memory of the built binary under load.

use std::path::Path;

use serde_json::json;

use crate::harness::{Binary, bytes_of};

const GIB: u64 = 1 << 30;

/// Free bytes of the file system that a path is on.
fn free(path: &Path) -> u64 {
    let stat = rustix::fs::statvfs(path).unwrap();
    stat.f_bavail * stat.f_frsize
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_uploads_at_once() {
    const SIZE: u64 = 4 << 20;
    let mut server = Binary::start("").await;
    let uploads = (0..200).map(|n| {
        let server = &server;
        async move {
            let container = server.container().await;
            // Different sizes, so that a mixed up body would show.
            let reply = server.put(&container.upload_uri, Some(SIZE + n), bytes_of(SIZE + n)).await.expect(200);
            assert!(reply.body.is_empty());
        }
    });
    futures_util::future::join_all(uploads).await;
    server.stays_small();
    let usage = server.send("GET", "/landfall/v1/usage", None).await.expect(200).json();
    let bytes: u64 = (0..200).map(|n| SIZE + n).sum();
    assert_eq!((&usage["files"], &usage["bytes"]), (&json!(200), &json!(bytes)), "{usage}");
}

#[tokio::test(flavor = "multi_thread")]
async fn five_gibibytes_in_one_put() {
    let space = free(&std::env::temp_dir());
    assert!(
        space >= 12 * GIB,
        "this test writes 5 GiB and needs 12 GiB of free space in {}, which has {} GiB: point TMPDIR at a larger disk",
        std::env::temp_dir().display(),
        space / GIB
    );
    let mut server = Binary::start("container_max = 5368709120").await;
    let container = server.container().await;
    server.put(&container.upload_uri, Some(5 * GIB), bytes_of(5 * GIB)).await.expect(200);
    server.stays_small();
    let usage = server.send("GET", "/landfall/v1/usage", None).await.expect(200).json();
    assert_eq!(usage["bytes"], 5 * GIB, "{usage}");
}
