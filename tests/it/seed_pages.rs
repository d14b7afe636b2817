//! Two pages of the vendor's documentation, executed: their snippets, with host, ids and token replaced and nothing
//! else, are parsed and sent.

use crate::harness::{Server, is_uuid, zlib};

/// "Getting the uploadUri and fileId".
const FILES_REQUEST: &str = "
POST https://push.cloud.coveo.com/v1/organizations/{organizationId}/files
Content-Type: application/json
Accept: application/json
Authorization: Bearer MyAccessToken
";

const FILES_ANSWER: &str = r#"
{
  "uploadUri": "https://s3.amazonaws.com/coveo-nprod-customerdata/proda/blobstore/mycoveocloudv2organization/b5e8767e-8f0d-4a89-9095-1127915c89c7[...]",
  "fileId": "b5e8767e-8f0d-4a89-9095-1127915c89c7",
  "requiredHeaders": {
    "x-amz-server-side-encryption": "AES256",
    "Content-Type": "application/octet-stream"
  }
}
"#;

/// "Pushing Large Items to a Source", its steps 3 to 6.
const UPLOAD_REQUEST: &str = "
PUT https://s3.amazonaws.com/coveo-nprod-customerdata/proda/blobstore/mycoveoorg/60e285b1-58ec-5625-c5c4-53cd2434c19f?x-amz-security-token=FQoDYXdzEKX%2Fici...
";

const UPLOAD_HEADERS: &str = "
        | Key                            | Value                      |
        |--------------------------------|----------------------------|
        | `Content-Type`                 | `application/octet-stream` |
        | `x-amz-server-side-encryption` | `AES256`                   |
";

const PUSH_REQUEST: &str = "
PUT https://push.cloud.coveo.com/v1/organizations/mycoveoorg/sources/mycoveoorg-rlj7km73nqqmi/documents?documentId=http://mydocument
";

const PUSH_HEADERS: &str = "
    | Key             | Value                      |
    |-----------------|----------------------------|
    | `Authorization` | `Bearer <a_valid_API_key>` |
    | `Content-Type`  | `application/json`         |
";

const PUSH_BODY: &str = "
    {
        'FileExtension':'.html',
        'CompressedBinaryDataFileId': 'e2e4b52d-c47-4254-a812-4e9d32db0725'
    }
";

/// Method and URL of a request's first line.
fn request_line(snippet: &str) -> (&str, &str) {
    snippet.trim().lines().next().unwrap().split_once(' ').unwrap()
}

/// The rows of a table, without its head.
fn table(snippet: &'static str) -> Vec<(&'static str, &'static str)> {
    let cells = |line: &'static str| -> Vec<&'static str> {
        line.trim().trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('`')).collect()
    };
    snippet.trim().lines().skip(2).map(cells).map(|row| (row[0], row[1])).collect()
}

/// Sends a request of the page to the server.
async fn execute(
    server: &Server,
    method: &str,
    url: &str,
    headers: &[(String, String)],
    body: &[u8],
) -> (u16, Vec<u8>) {
    let mut request = server.http.request(method.parse().unwrap(), url).body(body.to_vec());
    for (name, value) in headers {
        request = request.header(name, value);
    }
    let reply = request.send().await.unwrap();
    (reply.status().as_u16(), reply.bytes().await.unwrap().to_vec())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pages_work_as_they_are_written() {
    let server = Server::start().await;
    let host = format!("http://{}", server.address);

    let (method, url) = request_line(FILES_REQUEST);
    let url = url.replace("https://push.cloud.coveo.com", &host).replace("{organizationId}", &server.tenant);
    let headers: Vec<(String, String)> = FILES_REQUEST
        .trim()
        .lines()
        .skip(1)
        .map(|line| line.split_once(": ").unwrap())
        .map(|(name, value)| (name.to_owned(), value.replace("MyAccessToken", &server.key)))
        .collect();
    assert_eq!(headers.len(), 3);
    let (status, body) = execute(&server, method, &url, &headers, b"").await;
    assert_eq!(status, 201, "the page: 201 Created");
    let container: serde_json::Value = serde_json::from_slice(&body).unwrap();
    let documented: serde_json::Value = serde_json::from_str(FILES_ANSWER).unwrap();
    let names = |value: &serde_json::Value| {
        let mut names: Vec<String> = value.as_object().unwrap().keys().cloned().collect();
        names.sort();
        names
    };
    assert_eq!(names(&container), names(&documented));
    assert_eq!(container["requiredHeaders"], documented["requiredHeaders"]);
    let file = container["fileId"].as_str().unwrap();
    assert!(is_uuid(file));

    // A mismatch with the expected request is a generic 403 Access Denied; the request as written is a 200 OK.
    let (method, _) = request_line(UPLOAD_REQUEST);
    let uri = container["uploadUri"].as_str().unwrap();
    let headers: Vec<(String, String)> =
        table(UPLOAD_HEADERS).into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    assert_eq!(headers.len(), 2);
    let content = zlib(b"<html><body>A web page of the documentation</body></html>");
    for left_out in 0..headers.len() {
        let mut some = headers.clone();
        some.remove(left_out);
        let (status, body) = execute(&server, method, uri, &some, &content).await;
        assert_eq!(status, 403);
        assert!(String::from_utf8_lossy(&body).contains("Access Denied"));
    }
    let (status, body) = execute(&server, method, uri, &headers, &content).await;
    assert_eq!((status, body.len()), (200, 0), "the page: 200 OK");

    let (method, url) = request_line(PUSH_REQUEST);
    let url = url.replace("https://push.cloud.coveo.com", &host);
    let url = url
        .replace("mycoveoorg-rlj7km73nqqmi", &server.source)
        .replace("/mycoveoorg/", &format!("/{}/", server.tenant));
    let headers: Vec<(String, String)> = table(PUSH_HEADERS)
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.replace("<a_valid_API_key>", &server.key)))
        .collect();
    let literal = PUSH_BODY.replace("e2e4b52d-c47-4254-a812-4e9d32db0725", file);
    assert!(literal.contains('\'') && literal.contains(file));
    let before = server.state().await;
    let (status, body) = execute(&server, method, &url, &headers, literal.as_bytes()).await;
    let error: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!((status, error["errorCode"].as_str()), (400, Some("INVALID_JSON")), "single quotes are no JSON");
    server.unchanged(&before).await;
    let (status, body) = execute(&server, method, &url, &headers, literal.replace('\'', "\"").as_bytes()).await;
    assert_eq!(status, 202, "the page: 202 Success");
    let accepted: serde_json::Value = serde_json::from_slice(&body).unwrap();
    let push = server.done(accepted["requestId"].as_str().unwrap()).await;
    assert_eq!(push["state"], "done", "{push}");

    // "Validate that your items are pushed to your source."
    assert_eq!(server.ids(&server.source).await, ["http://mydocument"]);
    assert_eq!(server.content("http://mydocument", false).await, content);
    let found = server.get(&format!("/sources/{}/items?query=documentation", server.source)).await;
    assert_eq!(found["items"].as_array().unwrap().len(), 1, "{found}");
}
