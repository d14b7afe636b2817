//! The vendor's page "Generate upload URL": its own snippets, with nothing changed but what it says to replace, and the
//! size of its example's file.

use serde_json::{Value, json};

use super::{is_time, whole};
use crate::harness::{Reply, Server, noise};

const CURL: &str = r#"curl -X POST https://api.aitronos.com/v1/organizations/org_123/files/upload-url \
  -H "X-API-Key: $FREDDY_API_KEY" \
  -H "Content-Type: application/json" \
  -d '{
    "filename": "large_video.mp4",
    "file_size": 524288000,
    "mime_type": "video/mp4"
  }'"#;

const ANSWER: &str = r#"{
  "upload_url": "https://storage.googleapis.com/upload/storage/v1/b/bucket/o?uploadType=resumable&upload_id=xyz789",
  "gcs_path": "files/org_123/file_abc123xyz789/large_video.mp4",
  "file_id": "file_abc123xyz789",
  "expires_at": "2025-12-29T15:30:00Z",
  "max_file_size": 5368709120,
  "upload_type": "resumable",
  "chunk_size_recommended": 5242880
}"#;

const INVALID_SIZE: &str = r#"{
  "success": false,
  "error": {
    "code": "INVALID_FIELD_VALUE",
    "message": "File size must be greater than 0",
    "type": "client_error",
    "status": 400,
    "details": { "field": "file_size", "value": 0 },
    "trace_id": "abc-123-def",
    "timestamp": "2025-12-22T15:30:00Z"
  }
}"#;

const FORBIDDEN: &str = r#"{
  "success": false,
  "error": {
    "code": "ORGANIZATION_ACCESS_DENIED",
    "message": "You do not have access to this organization",
    "type": "client_error",
    "status": 403,
    "details": { "organization_id": "org_123" },
    "trace_id": "abc-123-def",
    "timestamp": "2025-12-22T15:30:00Z"
  }
}"#;

/// Runs the page's command as it stands, in a shell.
async fn curl(server: &Server, organization: &str, size: u64) -> (u16, Value) {
    let command = CURL
        .replace("https://api.aitronos.com", &server.url(""))
        .replace("org_123", organization)
        .replace("524288000", &size.to_string());
    let script = format!("{command} -sS --noproxy '*' -w '\n%{{http_code}}'");
    let key = server.key.clone();
    let run = move || std::process::Command::new("bash").arg("-c").arg(script).env("FREDDY_API_KEY", key).output();
    let output = tokio::task::spawn_blocking(run).await.unwrap().expect("bash and curl");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (body, status) = text.trim().rsplit_once('\n').expect("a body and a status");
    (status.parse().unwrap(), serde_json::from_str(body).unwrap_or_else(|e| panic!("{e}: {body}")))
}

/// Everything of a documented object is there, with a value of the same type.
#[track_caller]
fn like(found: &Value, documented: &str) {
    fn compare(found: &Value, documented: &Value, at: &str) {
        match (found, documented) {
            (Value::Object(found), Value::Object(documented)) => {
                for (name, value) in documented {
                    let at = format!("{at}.{name}");
                    compare(found.get(name).unwrap_or_else(|| panic!("{at} is missing")), value, &at);
                }
            }
            (Value::String(_), Value::String(_)) | (Value::Number(_), Value::Number(_)) => {}
            (Value::Bool(found), Value::Bool(documented)) => assert_eq!(found, documented, "{at}"),
            (found, documented) => panic!("{at}: {found} for {documented}"),
        }
    }
    compare(found, &serde_json::from_str(documented).unwrap(), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_works_as_it_is_written() {
    let server = Server::start().await;
    let (status, session) = curl(&server, &server.tenant, 524_288_000).await;
    assert_eq!(status, 200, "{session}");
    like(&session, ANSWER);
    let documented: Value = serde_json::from_str(ANSWER).unwrap();
    assert_eq!(session.as_object().unwrap().len(), documented.as_object().unwrap().len());
    for field in ["max_file_size", "upload_type", "chunk_size_recommended"] {
        assert_eq!(session[field], documented[field], "{field}");
    }
    assert!(is_time(&session["expires_at"]));

    let (status, error) = curl(&server, &server.tenant, 0).await;
    assert_eq!(status, 400);
    like(&error, INVALID_SIZE);
    assert_eq!(error["error"]["details"], json!({ "field": "file_size", "value": 0 }));
    let (status, error) = curl(&server, "org_123", 524_288_000).await;
    assert_eq!(status, 403);
    like(&error, FORBIDDEN);
    assert_eq!(error["error"]["code"], "ORGANIZATION_ACCESS_DENIED");

    // "Upload file to the returned upload_url": a PUT with a Content-Type, and then the registration.
    let content = noise(1_000_003);
    let (_, session) = curl(&server, &server.tenant, content.len() as u64).await;
    whole(&server.http, session["upload_url"].as_str().unwrap(), &content).await.expect(200);
    let register = json!({
        "filename": "large_video.mp4",
        "gcs_path": session["gcs_path"],
        "file_size": content.len(),
        "mime_type": "video/mp4",
    });
    let request = server.http.post(server.url(&server.files(""))).header("X-API-Key", &server.key);
    let request = request.header("Content-Type", "application/json").body(register.to_string());
    let file = Reply::read(request.send().await.unwrap()).await.expect(201).json();
    assert_eq!((&file["id"], &file["storage_path"]), (&session["file_id"], &session["gcs_path"]));
}
