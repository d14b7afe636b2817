//! Checks 45 to 47: the requests of the published clients, byte for byte as they were recorded. Check 44 runs a real
//! client, see `tests/clients`.

use serde_json::{Value, json};

use crate::harness::{Server, accepted, base64, noise, zlib};

/// What one client sends with every call.
struct Client<'s> {
    server: &'s Server,
    /// Header lines besides the body's length.
    lines: &'static str,
    /// Header lines of a PUT to an upload URL, where they are not those of the answer.
    put_lines: &'static str,
}

impl Client<'_> {
    /// A call with a body (or none), which must be answered with this status and with JSON.
    async fn call(&self, method: &str, path: &str, body: Option<&str>, status: u16) -> Value {
        let length = if body.is_some() || method != "DELETE" { "Content-Length: {length}" } else { "" };
        let head = format!("{method} {path} HTTP/1.1\nHost: {{host}}\n{}\n{length}", self.lines);
        let head: String = head.lines().filter(|l| !l.trim().is_empty()).map(|l| format!("{}\n", l.trim())).collect();
        let reply = self.server.wire(&head, body.unwrap_or_default().as_bytes()).await;
        assert_eq!(reply.status, status, "{method} {path}: {}", reply.text());
        if status == 204 { Value::Null } else { reply.json() }
    }

    /// A call whose push is awaited.
    async fn push(&self, method: &str, path: &str, body: Option<&str>) -> Value {
        let answer = self.call(method, path, body, 202).await;
        let push = self.server.done(answer["requestId"].as_str().expect("requestId")).await;
        assert_eq!((&push["state"], &push["counts"]["failed"]), (&json!("done"), &json!(0)), "{push}");
        push
    }

    /// A PUT to an upload URL.
    async fn upload(&self, container: &Value, bytes: &[u8]) -> String {
        let uri = container["uploadUri"].as_str().expect("uploadUri");
        let path = uri.strip_prefix(&format!("http://{}", self.server.address)).expect("the same server");
        let head = format!("PUT {path} HTTP/1.1\nHost: {{host}}\n{}\nContent-Length: {{length}}", self.put_lines);
        let reply = self.server.wire(&head, bytes).await.expect(200);
        assert!(reply.body.is_empty());
        container["fileId"].as_str().expect("fileId").to_owned()
    }
}

const JAVA: &str = "Connection: Upgrade, HTTP2-Settings
    HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA
    Upgrade: h2c
    User-Agent: CoveoSDKJava/2.8.0
    Authorization: Bearer {key}
    Accept: application/json
    Content-Type: application/json";
const JAVA_PUT: &str = "Connection: Upgrade, HTTP2-Settings
    HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA
    Upgrade: h2c
    User-Agent: Java-http-client/17.0.9
    x-amz-server-side-encryption: AES256
    Content-Type: application/octet-stream";

#[tokio::test(flavor = "multi_thread")]
async fn check_45_java() {
    let server = Server::start().await;
    let java = Client { server: &server, lines: JAVA, put_lines: JAVA_PUT };
    let organization = "/push/v1/organizations/{o}";
    let source = format!("{organization}/sources/{{s}}");
    let catalog = format!("{organization}/sources/{{c}}");

    let body = r#"{"sourceType":"PUSH","name":"from Java","sourceVisibility":"SECURED","pushEnabled":true,"streamEnabled":false}"#;
    let made = java.call("POST", "/rest/organizations/{o}/sources", Some(body), 201).await;
    assert!(made["id"].is_string(), "{made}");
    let provider = r#"{"name":"expanded","type":"EXPANDED","nodeRequired":false,"referencedBy":[{"id":"x","type":"SOURCE"}],"cascadingSecurityProviders":{}}"#;
    java.call("PUT", "/rest/organizations/{o}/securityproviders/expanded", Some(provider), 200).await;
    java.call("POST", &format!("{source}/status?statusType=REBUILD"), Some(""), 201).await;

    // Document ids are not encoded; Gson escapes `<`, `>`, `&`, `=` and `'`.
    let document = r#"{"documentId":"https://my.doc/a?b\u003dc\u0026d\u003de","uri":"https://my.doc/a?b\u003dc\u0026d\u003de","title":"O\u0027Hara \u003cb\u003e","data":"a \u0026 b","permanentId":"p1","date":"2026-01-02T03:04:05.678Z","fileExtension":".txt","permissions":[{"allowAnonymous":true,"allowedPermissions":[],"deniedPermissions":[]}]}"#;
    let path = format!("{source}/documents?documentId=https://my.doc/a?b=c&d=e&compressionType=UNCOMPRESSED");
    java.push("PUT", &path, Some(document)).await;
    let item = server.read("https://my.doc/a?b=c&d=e").await;
    assert_eq!(item["metadata"]["title"], "O'Hara <b>", "{item}");
    assert_eq!(server.content("https://my.doc/a?b=c&d=e", true).await, b"a & b");

    let container = java.call("POST", &format!("{organization}/files"), Some(""), 201).await;
    let batch = r#"{"addOrUpdate":[{"documentId":"https://my.doc/1","title":"1","data":"\u003ci\u003e","compressedBinaryData":null},{"documentId":"https://my.doc/2","title":"2"}],"delete":[{"documentId":"https://my.doc/a?b\u003dc\u0026d\u003de","deleteChildren":false}]}"#;
    let file = java.upload(&container, batch.as_bytes()).await;
    java.push("PUT", &format!("{source}/documents/batch?fileId={file}"), Some("")).await;
    assert_eq!(server.ids(&server.source).await, ["https://my.doc/1", "https://my.doc/2"]);

    // A zlib container, and yet `compressionType=UNCOMPRESSED`.
    let container = java.call("POST", &format!("{organization}/files"), Some(""), 201).await;
    let file = java.upload(&container, &zlib(b"binary content")).await;
    let document = format!(r#"{{"documentId":"https://my.doc/3","compressedBinaryDataFileId":"{file}"}}"#);
    let path = format!("{source}/documents?documentId=https://my.doc/3&compressionType=UNCOMPRESSED");
    java.push("PUT", &path, Some(&document)).await;
    assert_eq!(server.content("https://my.doc/3", true).await, b"binary content");
    java.push("DELETE", &format!("{source}/documents?documentId=https://my.doc/3&deleteChildren=true"), None).await;
    java.push("DELETE", &format!("{source}/documents/olderthan?orderingId=1&queueDelay=0"), None).await;

    // Identities; the batch has bare ones under `deleted`.
    let identity = r#"{"identity":{"name":"asmith","type":"USER","additionalInfo":{}},"members":[],"wellKnowns":[]}"#;
    let providers = format!("{organization}/providers/expanded");
    java.push("PUT", &format!("{providers}/permissions"), Some(identity)).await;
    let mapping = r#"{"identity":{"name":"asmith","type":"USER"},"mappings":[{"name":"a@b.c","type":"USER","provider":"Email Security Provider"}],"wellKnowns":[]}"#;
    java.push("PUT", &format!("{providers}/mappings"), Some(mapping)).await;
    java.push("DELETE", &format!("{providers}/permissions"), Some(r#"{"identity":{"name":"asmith","type":"USER"}}"#))
        .await;
    let container = java.call("POST", &format!("{organization}/files"), Some(""), 201).await;
    let identities = format!(
        r#"{{"members":[{identity}],"mappings":[{mapping}],"deleted":[{{"name":"bsmith","type":"USER","additionalInfo":{{}}}}]}}"#
    );
    let file = java.upload(&container, identities.as_bytes()).await;
    java.push("PUT", &format!("{providers}/permissions/batch?fileId={file}"), Some("")).await;
    let path = format!("{providers}/permissions/olderthan?queueDelay=0");
    assert_eq!(java.call("DELETE", &path, None, 412).await["errorCode"], "MISSING_PARAMETER");

    // A load, then an update with the names of Java's constants, mixed with whole items.
    let opened = java.call("POST", &format!("{catalog}/stream/open"), Some(""), 201).await;
    let stream = opened["streamId"].as_str().unwrap();
    let chunk = java.call("POST", &format!("{catalog}/stream/{stream}/chunk"), Some(""), 200).await;
    java.upload(&chunk, br#"{"addOrUpdate":[{"documentId":"product://1","title":"one","tags":["a"]}]}"#).await;
    let closed = java.call("POST", &format!("{catalog}/stream/{stream}/close"), Some(""), 200).await;
    server.done(closed["requestId"].as_str().unwrap()).await;
    assert_eq!(server.ids(&server.catalog).await, ["product://1"]);
    let container = java.call("POST", &format!("{organization}/files"), Some(""), 201).await;
    let update = br#"{"addOrUpdate":[{"documentId":"product://2","title":"two"}],"partialUpdate":[{"documentId":"product://1","operator":"FIELDVALUEREPLACE","field":"title","value":"uno"},{"documentId":"product://1","operator":"ARRAYAPPEND","field":"tags","value":["b"]}],"delete":[]}"#;
    let file = java.upload(&container, update).await;
    java.push("PUT", &format!("{catalog}/stream/update?fileId={file}"), Some("")).await;
    let item = server.read_in(&server.catalog, "product://1").await;
    assert_eq!((&item["metadata"]["title"], &item["metadata"]["tags"]), (&json!("uno"), &json!(["a", "b"])), "{item}");
    java.call("POST", &format!("{source}/status?statusType=IDLE"), Some(""), 201).await;
}

const PYTHON: &str = "User-Agent: python-requests/2.31.0
    Accept-Encoding: gzip, deflate
    Accept: application/json
    Connection: keep-alive
    Authorization: Bearer {key}
    Content-Type: application/json";
const PYTHON_PUT: &str = "User-Agent: python-requests/2.31.0
    Accept-Encoding: gzip, deflate
    Accept: */*
    Connection: keep-alive
    x-amz-server-side-encryption: AES256
    Content-Type: application/octet-stream";

#[tokio::test(flavor = "multi_thread")]
async fn check_46_python() {
    let server = Server::start().await;
    let python = Client { server: &server, lines: PYTHON, put_lines: PYTHON_PUT };
    let source = "/push/v1/organizations/{o}/sources/{s}";
    let body = r#"{"sourceType": "PUSH", "pushEnabled": true, "streamEnabled": false, "name": "from Python", "sourceVisibility": "SECURED"}"#;
    python.call("POST", "/rest/organizations/{o}/sources", Some(body), 201).await;
    let document = r#"{"documentId": "https://my.doc/caf\u00e9", "title": "Caf\u00e9", "permanentId": "p", "date": "2026-01-02T03:04:05", "compressionType": "ZLIB", "compressedBinaryData": "BASE64", "fileExtension": ".txt", "permissions": [{"allowAnonymous": true, "allowedPermissions": [], "deniedPermissions": []}]}"#;
    let document = document.replace("BASE64", &base64(&zlib("un caf\u{e9}".as_bytes())));
    python
        .push("PUT", &format!("{source}/documents?documentId=https%3A%2F%2Fmy.doc%2Fcaf%C3%A9"), Some(&document))
        .await;
    assert_eq!(server.content("https://my.doc/caf\u{e9}", true).await, "un caf\u{e9}".as_bytes());
    let container = python.call("POST", "/push/v1/organizations/{o}/files", Some(""), 201).await;
    let batch = r#"{"addOrUpdate": [{"documentId": "https://my.doc/2", "title": "\u65e5\u672c", "data": "two"}], "delete": []}"#;
    let file = python.upload(&container, batch.as_bytes()).await;
    python.push("PUT", &format!("{source}/documents/batch?fileId={file}"), Some("")).await;
    assert_eq!(server.read("https://my.doc/2").await["metadata"]["title"], "\u{65e5}\u{672c}");
    let provider = r#"{"name": "expanded", "type": "EXPANDED", "nodeRequired": false, "referencedBy": [], "cascadingSecurityProviders": {}}"#;
    python.call("PUT", "/rest/organizations/{o}/securityproviders/expanded", Some(provider), 200).await;
    let identity =
        r#"{"identity": {"name": "asmith", "type": "USER", "additionalInfo": {}}, "members": [], "wellKnowns": []}"#;
    python.push("PUT", "/push/v1/organizations/{o}/providers/expanded/permissions", Some(identity)).await;
    assert_eq!(server.ids(&server.source).await, ["https://my.doc/2", "https://my.doc/caf\u{e9}"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn check_46_labs() {
    let server = Server::start().await;
    let labs = Client { server: &server, lines: PYTHON, put_lines: PYTHON_PUT };
    let source = "/push/v1/organizations/{o}/sources/{s}";
    labs.call("POST", &format!("{source}/status?statusType=REBUILD"), Some(""), 201).await;

    // A single item; empty values stand for absent ones, booleans begin with a capital.
    let one = r#"{"DocumentId": "https://my.doc/one", "FileExtension": ".html", "Data": "<p>one</p>", "Permissions": [{"Name": "MyLevel1", "PermissionSets": [{"Name": "MySet", "AllowAnonymous": false, "AllowedPermissions": [{"IdentityType": "User", "Identity": "asmith@example.com", "SecurityProvider": "", "AdditionalInfo": {}}], "DeniedPermissions": []}]}], "authorsname": "Someone", "rssauthors": true}"#;
    let query = "documentId=https%3A%2F%2Fmy.doc%2Fone&orderingId=1700000000000&compressionType=";
    labs.push("PUT", &format!("{source}/documents?{query}"), Some(one)).await;
    let item = server.read("https://my.doc/one").await;
    assert_eq!(
        item["ordering_id"].as_str().map(str::to_owned).unwrap_or_else(|| item["ordering_id"].to_string()),
        "1700000000000",
        "{item}"
    );
    assert_eq!(item["metadata"]["authorsname"], "Someone", "{item}");

    // More than 5 MB of zlib: the client uploads its Base64 text instead, and calls it ZLIB.
    let original = noise(11_000_000);
    let text = base64(&zlib(&original));
    assert!(text.len() > 6_990_508, "as large as what was recorded: {}", text.len());
    let container = labs.call("POST", "/push/v1/organizations/{o}/files", Some(""), 201).await;
    let file = labs.upload(&container, text.as_bytes()).await;
    let big = format!(
        r#"{{"DocumentId": "https://my.doc/big", "FileExtension": ".txt", "CompressedBinaryDataFileId": "{file}", "CompressionType": "ZLIB"}}"#
    );
    let query = "documentId=https%3A%2F%2Fmy.doc%2Fbig&orderingId=1700000000001&compressionType=ZLIB";
    labs.push("PUT", &format!("{source}/documents?{query}"), Some(&big)).await;
    assert_eq!(server.content("https://my.doc/big", false).await, text.as_bytes(), "bytes are stored as they came");
    assert!(server.content("https://my.doc/big", true).await == original, "and decoded to what they were");

    let container = labs.call("POST", "/push/v1/organizations/{o}/files", Some(""), 201).await;
    let batch = r#"{"AddOrUpdate": [{"DocumentId": "https://my.doc/two", "Data": "two", "FileExtension": ".txt"}], "Delete": [{"DocumentId": "https://my.doc/one"}]}"#;
    let file = labs.upload(&container, batch.as_bytes()).await;
    labs.push("PUT", &format!("{source}/documents/batch?fileId={file}&orderingId=1700000000002"), Some("")).await;
    assert_eq!(server.ids(&server.source).await, ["https://my.doc/big", "https://my.doc/two"]);
    let delete = "documentId=https%3A%2F%2Fmy.doc%2Fbig&orderingId=1700000000003&deleteChildren=True";
    labs.push("DELETE", &format!("{source}/documents?{delete}"), None).await;
    assert_eq!(server.ids(&server.source).await, ["https://my.doc/two"]);
    labs.push("DELETE", &format!("{source}/documents/olderthan?orderingId=1700000000003&queueDelay=0"), None).await;
    assert!(server.ids(&server.source).await.is_empty());

    let provider = r#"{"name": "My Provider", "type": "EXPANDED", "nodeRequired": "False", "referencedBy": [{"id": "default-files", "type": "SOURCE"}], "cascadingSecurityProviders": {"Email Security Provider": {"name": "Email Security Provider", "type": "EMAIL"}}}"#;
    labs.call("PUT", "/rest/organizations/{o}/securityproviders/My%20Provider", Some(provider), 200).await;
    let providers = "/push/v1/organizations/{o}/providers/My%20Provider";
    let identity = r#"{"Identity": {"IdentityType": "Group", "Identity": "Team", "SecurityProvider": "", "AdditionalInfo": {}}, "Members": [{"IdentityType": "User", "Identity": "asmith", "SecurityProvider": "", "AdditionalInfo": {}}], "WellKnowns": []}"#;
    let identity = identity.replace("\"IdentityType\"", "\"Type\"").replace("\"Identity\": \"", "\"Name\": \"");
    labs.push("PUT", &format!("{providers}/permissions?orderingId=1700000000004"), Some(&identity)).await;
    let container = labs.call("POST", "/push/v1/organizations/{o}/files", Some(""), 201).await;
    let batch = format!(
        r#"{{"Mappings": [], "Members": [{identity}], "Deleted": [{{"Identity": {{"Name": "bsmith", "Type": "User"}}}}]}}"#
    );
    let file = labs.upload(&container, batch.as_bytes()).await;
    labs.push("PUT", &format!("{providers}/permissions/batch?fileId={file}&orderingId=1700000000005"), Some("")).await;
    labs.push("DELETE", &format!("{providers}/permissions/olderthan?queueDelay=0&orderingId=1700000000004"), None)
        .await;
    labs.call("POST", &format!("{source}/status?statusType=IDLE"), Some(""), 201).await;
}

const PHP: &str = "Authorization: Bearer {key}
    Content-Type: application/json
    Connection: close";
const PHP_PUT: &str = "Content-Type: application/octet-stream
    x-amz-server-side-encryption: AES256
    Connection: close";

#[tokio::test(flavor = "multi_thread")]
async fn check_47_php() {
    let server = Server::start().await;
    let php = Client { server: &server, lines: PHP, put_lines: PHP_PUT };
    let source = "/v1/organizations/{o}/sources/{s}";
    php.call("POST", &format!("{source}/status?statusType=REBUILD"), Some(""), 201).await;
    let container = php.call("POST", "/v1/organizations/{o}/files", Some(""), 201).await;
    let batch = r#"{"AddOrUpdate":[{"DocumentId":"https:\/\/my.doc\/1","Data":"one","FileExtension":".txt","Permissions":[]}],"Delete":[]}"#;
    let file = php.upload(&container, batch.as_bytes()).await;
    php.push("PUT", &format!("{source}/documents/batch?fileId={file}&orderingId=5"), Some("")).await;
    let one = r#"{"DocumentId":"https:\/\/my.doc\/2","Data":"two","FileExtension":".txt"}"#;
    let query = "documentId=https%3A%2F%2Fmy.doc%2F2&orderingId=6&compressionType=";
    php.push("PUT", &format!("{source}/documents?{query}"), Some(one)).await;
    assert_eq!(server.ids(&server.source).await, ["https://my.doc/1", "https://my.doc/2"]);
    php.push("DELETE", &format!("{source}/documents/olderthan?orderingId=6&queueDelay=0"), None).await;
    assert_eq!(server.ids(&server.source).await, ["https://my.doc/2"]);
}

const GO: &str = "User-Agent: Go-http-client/1.1
    Accept: application/json
    Authorization: Bearer {key}
    Content-Type: application/json
    Accept-Encoding: gzip";

#[tokio::test(flavor = "multi_thread")]
async fn check_47_go() {
    let server = Server::start().await;
    let go = Client { server: &server, lines: GO, put_lines: PHP_PUT };
    // `net/http` sends a query that was joined by hand as it is.
    let document = r#"{"DocumentID":"https://my.doc/a?b=c","data":"text","title":"t"}"#;
    go.push("PUT", "/v1/organizations/{o}/sources/{s}/documents?documentId=https://my.doc/a?b=c", Some(document)).await;
    assert_eq!(server.ids(&server.source).await, ["https://my.doc/a?b=c"]);
    let path = "/v1/organizations/{o}/sources/{s}/documents?documentId=https://my.doc/a?b=c";
    go.push("DELETE", path, None).await;
    assert!(server.ids(&server.source).await.is_empty());
}

const NODE: &str = "Authorization: Bearer {key}
    Content-Type: application/json
    Connection: close";

#[tokio::test(flavor = "multi_thread")]
async fn check_47_node_cli() {
    let server = Server::start().await;
    let node = Client { server: &server, lines: NODE, put_lines: PHP_PUT };
    node.call("POST", "/v1/organizations/{o}/sources/{s}/status?statusType=REBUILD", Some(""), 201).await;
    let container = node.call("POST", "/v1/organizations/{o}/files", Some(""), 201).await;
    let file = node.upload(&container, br#"{"AddOrUpdate":[{"DocumentId":"https://my.doc/1","data":"one"}]}"#).await;
    node.push("PUT", &format!("/v1/organizations/{{o}}/sources/{{s}}/documents/batch?fileId={file}"), Some("")).await;
    node.call("POST", "/v1/organizations/{o}/sources/{s}/status?statusType=IDLE", Some(""), 201).await;
    assert_eq!(server.ids(&server.source).await, ["https://my.doc/1"]);
    // Streams go to the other path, and into the container of the open.
    let opened = node.call("POST", "/push/v1/organizations/{o}/sources/{c}/stream/open", Some(""), 201).await;
    node.upload(&opened, br#"{"AddOrUpdate":[{"DocumentId":"product://1"}]}"#).await;
    let close =
        format!("/push/v1/organizations/{{o}}/sources/{{c}}/stream/{}/close", opened["streamId"].as_str().unwrap());
    let closed = node.call("POST", &close, Some(""), 200).await;
    server.done(closed["requestId"].as_str().unwrap()).await;
    assert_eq!(server.ids(&server.catalog).await, ["product://1"]);

    // Its length counts UTF-16 units, so that of a text outside ASCII the end is missing: refused, never taken in part.
    let text = r#"{"AddOrUpdate":[{"DocumentId":"https://my.doc/é"}]}"#;
    let container = node.call("POST", "/v1/organizations/{o}/files", Some(""), 201).await;
    let cut = &text.as_bytes()[..text.encode_utf16().count()];
    let file = node.upload(&container, cut).await;
    let path = format!("/v1/organizations/{{o}}/sources/{{s}}/documents/batch?fileId={file}");
    assert_eq!(node.call("PUT", &path, Some(""), 400).await["errorCode"], "INVALID_JSON");
    assert_eq!(server.ids(&server.source).await, ["https://my.doc/1"]);
}

/// The requests of the JavaScript client, for machines without node; check 44 runs the client itself.
#[tokio::test(flavor = "multi_thread")]
async fn javascript_headers() {
    const JS: &str = "connection: keep-alive
        authorization: Bearer {key}
        accept: application/json
        content-type: application/json
        user-agent: CoveoSDKNodeJS/4.0.1
        accept-language: *
        sec-fetch-mode: cors
        accept-encoding: gzip, deflate";
    const PUT: &str = "connection: keep-alive
        x-amz-server-side-encryption: AES256
        content-type: application/octet-stream
        accept: */*
        accept-language: *
        sec-fetch-mode: cors
        user-agent: node
        accept-encoding: gzip, deflate";
    let server = Server::start().await;
    let js = Client { server: &server, lines: JS, put_lines: PUT };
    let source = "/push/v1/organizations/{o}/sources/{s}";
    let document = r#"{"documentId":"file:///not a url","title":"t","data":"text","permanentid":"p"}"#;
    js.push("PUT", &format!("{source}/documents?documentId=not+a+url"), Some(document)).await;
    assert_eq!(server.ids(&server.source).await, ["file:///not a url"]);
    let container = js.call("POST", "/push/v1/organizations/{o}/files", Some("{}"), 201).await;
    let file = js.upload(&container, br#"{"addOrUpdate":[],"delete":[]}"#).await;
    let reply = js.call("PUT", &format!("{source}/documents/batch?fileId={file}"), Some("{}"), 202).await;
    server.done(reply["requestId"].as_str().unwrap()).await;
    let delete = server.call("DELETE", server.src("documents?documentId=not+a+url&deleteChildren=false"));
    accepted(&delete.send().await.expect(202));
}
