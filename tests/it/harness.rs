//! Starts servers and talks to them: in this process with a clock that can be moved, or the built binary as a child
//! whose memory can be read.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child as Process, Command, Stdio};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use landfall::app::{App, StartError};
use landfall::blob::{Azure, BlobStore};
use landfall::clock::Clock;
use landfall::config::{Config, Storage};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::azurite::Azurite;
use crate::bucket::Store;
use crate::postgres::{Fresh, port};

/// Where servers keep their bytes: with `LANDFALL_TEST_STORAGE=s3` or `gcs` in a store of this process, with `azure` in an
/// emulator that ends with it, with a URL as the field `storage` has it in that bucket.
static STORAGE: LazyLock<Option<String>> = LazyLock::new(|| {
    let wanted = std::env::var("LANDFALL_TEST_STORAGE").unwrap_or_default();
    match wanted.as_str() {
        "" | "disk" => None,
        "s3" | "gcs" => Some(STORE.url("it")),
        "azure" => Some(Azurite::shared().url("it")),
        url if ["s3://", "gs://"].iter().any(|scheme| url.starts_with(scheme)) => Some(url.to_owned()),
        other => panic!("LANDFALL_TEST_STORAGE is `disk`, `s3`, `gcs`, `azure` or a URL, not `{other}`"),
    }
});

/// The store of this process, where this run is about one of those.
static STORE: LazyLock<Store> = LazyLock::new(|| match std::env::var("LANDFALL_TEST_STORAGE").as_deref() {
    Ok("gcs") => Store::google_for_ever(),
    _ => Store::start_for_ever(),
});

/// Where a server listens, also after a restart: upload URLs name it.
fn free_address() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port::free()))
}

/// The prefix of a server with this data directory.
fn own_prefix(data: &Path) -> String {
    data.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy().trim_start_matches('.').to_owned()
}

/// Are they in Azure's?
pub(crate) fn in_azure() -> bool {
    STORAGE.as_ref().is_some_and(|url| url.starts_with("az://"))
}

/// Bytes of this server's in the store of this process, and one for each upload in progress. A store outside can't be
/// looked into.
pub(crate) fn in_store(data: &Path) -> u64 {
    if in_azure() {
        return in_container(&storage(data));
    }
    let prefix = format!("it/{}/", own_prefix(data));
    let objects = STORE.objects(&prefix);
    let bytes: u64 = objects.iter().filter(|(key, _)| !key.ends_with("/owner")).map(|(_, size)| size).sum();
    bytes + STORE.uploads(&prefix).len() as u64
}

fn in_container(url: &str) -> u64 {
    let mut config = Config::default();
    config.set_text("storage", url).unwrap();
    let Storage::Container(container) = config.storage else { panic!("{url} is no container") };
    let azure = Azure::open_to_read(&container, HashMap::new(), Clock::system()).unwrap();
    let listing = async move {
        let mut found = 0;
        azure.list(&mut |batch| found += batch.iter().map(|l| l.length.max(1)).sum::<u64>()).await.unwrap();
        found
    };
    // Whoever asks is on a runtime already.
    std::thread::spawn(|| tokio::runtime::Runtime::new().unwrap().block_on(listing)).join().unwrap()
}

/// Where a server with this data directory keeps its bytes, as its configuration says it: each under a prefix of its own.
pub(crate) fn storage(data: &Path) -> String {
    STORAGE.as_ref().map_or_else(|| String::from("disk"), |url| in_own_bucket(url, data))
}

fn in_own_bucket(url: &str, data: &Path) -> String {
    let (place, how) = url.split_once('?').unwrap();
    format!("{place}/{}?{how}", own_prefix(data))
}

/// Are the bytes of servers in a bucket?
pub(crate) fn in_bucket() -> bool {
    STORAGE.is_some()
}

/// The built binary.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_landfall");
/// How often something is asked before it counts as never happening, and the pause between.
const TRIES: usize = 3_000;
const PAUSE: Duration = Duration::from_millis(20);

/// Do the servers of this run keep their facts in PostgreSQL?
pub(crate) fn on_postgres() -> bool {
    match std::env::var("LANDFALL_TEST_DATABASE").as_deref() {
        Ok("postgres") => true,
        Ok(other) => panic!("LANDFALL_TEST_DATABASE is {other:?}: it is `postgres`, or nothing"),
        Err(_) => false,
    }
}

/// Where a server has its data: a folder, and a database where this run is on one. Both go with it.
pub(crate) struct Home {
    database: Option<Fresh>,
    folder: TempDir,
}

impl Home {
    pub(crate) fn new() -> Self {
        Self::on(on_postgres())
    }

    fn with_database() -> Self {
        Self::on(true)
    }

    fn on(postgres: bool) -> Self {
        let folder = TempDir::new().unwrap();
        let database = postgres.then(|| Fresh::filled_by(fill));
        if let Some(database) = &database {
            databases().insert(folder.path().join("data"), database.url());
        }
        Self { database, folder }
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn database(&self) -> Option<&Fresh> {
        self.database.as_ref()
    }
}

/// Makes every table that a server makes.
fn fill(url: &str) {
    let config =
        Config { data: TempDir::new().unwrap().keep(), database: Some(url.to_owned().into()), ..Config::default() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    drop(runtime.block_on(landfall::app::open(&config, [0; 16])).expect("a database"));
    std::fs::remove_dir_all(&config.data).unwrap();
}

/// The databases of this run, by the data directories beside them.
fn databases() -> MutexGuard<'static, HashMap<PathBuf, String>> {
    static DATABASES: LazyLock<Mutex<HashMap<PathBuf, String>>> = LazyLock::new(Mutex::default);
    DATABASES.lock().unwrap()
}

/// The built binary, told where the facts and the bytes beside this data directory are.
pub(crate) fn program(data: &Path) -> Command {
    let mut command = Command::new(PROGRAM);
    command.env("LANDFALL_STORAGE", storage(data));
    if let Some(url) = databases().get(data) {
        command.env("LANDFALL_DATABASE", url);
    }
    command.stdin(Stdio::null());
    command
}

/// The pair of headers that every PUT to an upload URL carries.
pub(crate) const PAIR: [(&str, &str); 2] =
    [("x-amz-server-side-encryption", "AES256"), ("Content-Type", "application/octet-stream")];

/// A client that goes straight to the server, whatever the environment says about proxies.
pub(crate) fn client() -> reqwest::Client {
    reqwest::Client::builder()
        .no_proxy()
        .pool_idle_timeout(Duration::from_millis(500))
        .timeout(Duration::from_secs(240))
        .build()
        .unwrap()
}

/// An answer.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    pub(crate) async fn read(response: reqwest::Response) -> Self {
        let status = response.status().as_u16();
        let text = |v: &http::HeaderValue| String::from_utf8_lossy(v.as_bytes()).into_owned();
        let headers = response.headers().iter().map(|(n, v)| (n.as_str().to_owned(), text(v))).collect();
        let body = response.bytes().await.expect("the whole answer").to_vec();
        Self { status, headers, body }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body, which must be JSON and say so.
    pub(crate) fn json(&self) -> Value {
        let kind = self.header("content-type").unwrap_or_default();
        assert!(kind.starts_with("application/json") || kind.starts_with("application/problem+json"), "{self:?}");
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("no JSON ({e}): {}", self.text()))
    }

    /// Itself, with this status.
    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.text());
        self
    }

    /// Itself, being an error of the vendor's API: JSON with a code, a message and the request's id.
    #[track_caller]
    pub(crate) fn error(self, status: u16, code: &str) -> Self {
        let body = self.text();
        assert_eq!(self.status, status, "wanted {status} {code}: {body}");
        assert_eq!(self.header("content-type"), Some("application/json"), "{body}");
        let json = self.json();
        assert_eq!(json["errorCode"], code, "{body}");
        assert!(json["message"].as_str().is_some_and(|m| !m.is_empty()), "{body}");
        let id = self.header("x-request-id").expect("x-request-id");
        assert!(!id.is_empty());
        assert_eq!(json["requestID"], id, "{body}");
        self
    }

    /// Itself, being an error of our own API.
    #[track_caller]
    pub(crate) fn problem_with(self, status: u16) -> Self {
        let body = self.text();
        assert_eq!(self.status, status, "{body}");
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{body}");
        let json = self.json();
        for field in ["type", "title", "detail"] {
            assert!(json[field].as_str().is_some_and(|m| !m.is_empty()), "`{field}` in {body}");
        }
        assert!(json["type"].as_str().is_some_and(|t| t.starts_with("/problems/")), "{body}");
        assert_eq!(json["status"], status, "{body}");
        let id = self.header("request-id").expect("request-id");
        assert!(!id.is_empty());
        assert_eq!(json["request_id"], id, "{body}");
        self
    }

    /// Itself, being the generic refusal of an upload URL.
    #[track_caller]
    pub(crate) fn access_denied(self) -> Self {
        let body = self.text();
        assert_eq!(self.status, 403, "{body}");
        assert_eq!(self.header("content-type"), Some("application/xml"), "{body}");
        assert!(body.contains("<Error><Code>AccessDenied</Code><Message>Access Denied</Message>"), "{body}");
        self
    }
}

/// Something to ask of a server.
#[derive(Clone)]
pub(crate) struct Call<'s> {
    server: &'s Server,
    method: &'static str,
    path: String,
    headers: Vec<(String, String)>,
    body: Option<Vec<u8>>,
}

impl<'s> Call<'s> {
    pub(crate) const fn server(&self) -> &'s Server {
        self.server
    }

    /// Without any credential.
    pub(crate) fn anonymous(mut self) -> Self {
        self.headers.retain(|(n, _)| n != "Authorization");
        self
    }

    /// With another key.
    pub(crate) fn bearer(self, key: &str) -> Self {
        self.anonymous().header("Authorization", &format!("Bearer {key}"))
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// A JSON body, given as text so that it may be wrong.
    pub(crate) fn json(self, body: impl std::fmt::Display) -> Self {
        self.header("Content-Type", "application/json").body(body.to_string())
    }

    pub(crate) fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = Some(body.into());
        self
    }

    /// The answer.
    pub(crate) async fn send(self) -> Reply {
        let url = if self.path.starts_with('/') { self.server.url(&self.path) } else { self.path };
        let method = self.method.parse().unwrap();
        let mut request = self.server.http.request(method, url);
        for (name, value) in self.headers {
            request = request.header(name, value);
        }
        if let Some(body) = self.body {
            request = request.body(body);
        }
        Reply::read(request.send().await.expect("an answer")).await
    }

    /// The answer, which must be this error and must have changed nothing.
    pub(crate) async fn refused(self, status: u16, code: &str) -> Reply {
        let server = self.server;
        let before = server.state().await;
        let reply = self.send().await.error(status, code);
        server.unchanged(&before).await;
        reply
    }

    /// The answer, which must be this problem and must have changed nothing.
    pub(crate) async fn problem(self, status: u16) -> Reply {
        let server = self.server;
        let before = server.state().await;
        let reply = self.send().await.problem_with(status);
        server.unchanged(&before).await;
        reply
    }

    /// The generic refusal of an upload URL, which must have changed nothing.
    pub(crate) async fn denied(self) -> Reply {
        let server = self.server;
        let before = server.state().await;
        let reply = self.send().await.access_denied();
        server.unchanged(&before).await;
        reply
    }

    /// Sends a push, which must be accepted, and waits until it is done; its record.
    pub(crate) async fn pushed(self) -> Value {
        let server = self.server;
        let id = accepted(&self.send().await.expect(202));
        server.done(&id).await
    }
}

/// The request id of an accepted push.
#[track_caller]
pub(crate) fn accepted(reply: &Reply) -> String {
    let body = reply.json();
    let ordering = body["orderingId"].as_str().expect("orderingId");
    assert!(ordering.parse::<u128>().is_ok(), "{body}");
    let id = body["requestId"].as_str().expect("requestId");
    assert!(is_uuid(id), "{body}");
    id.to_owned()
}

pub(crate) fn is_uuid(text: &str) -> bool {
    let parts: Vec<usize> = text.split('-').map(str::len).collect();
    parts == [8, 4, 4, 4, 12] && text.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-')
}

/// A container as its creator was told about it.
#[derive(Clone, Debug)]
pub(crate) struct Container {
    pub(crate) upload_uri: String,
    pub(crate) file_id: String,
}

/// A server in this process.
pub(crate) struct Server {
    app: Option<App>,
    pub(crate) config: Config,
    pub(crate) clock: Clock,
    pub(crate) http: reqwest::Client,
    pub(crate) address: SocketAddr,
    pub(crate) tenant: String,
    pub(crate) key: String,
    pub(crate) source: String,
    pub(crate) catalog: String,
    pub(crate) store: String,
    dir: Arc<Home>,
}

impl Server {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub(crate) async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        let dir = tokio::task::spawn_blocking(Home::new).await.unwrap();
        let place = storage(&dir.path().join("data"));
        Self::start_at(dir, &place, change).await
    }

    /// A server whose facts are in a database and whose bytes are in a bucket, whatever this run is about.
    pub(crate) async fn start_beyond_one_machine() -> Self {
        Self::start_beyond_one_machine_with(|_| {}).await
    }

    pub(crate) async fn start_beyond_one_machine_with(change: impl FnOnce(&mut Config)) -> Self {
        let dir = tokio::task::spawn_blocking(Home::with_database).await.unwrap();
        let place = in_own_bucket(&STORE.url("it"), &dir.path().join("data"));
        Self::start_at(dir, &place, change).await
    }

    /// Where the bytes of one that was started so are.
    pub(crate) fn own_bucket(&self) -> String {
        in_own_bucket(&STORE.url("it"), &self.data())
    }

    /// Another server on the same database and bucket, with a data directory of its own.
    pub(crate) async fn another(&self) -> Self {
        let data = self.dir.path().join(format!("data-{}", landfall::clock::random_uuid()));
        let config = Config { data, listen: free_address(), ..self.config.clone() };
        let app = App::start(config.clone(), self.clock.clone()).await.expect("a start");
        assert!(app.first_start().is_none(), "the first start was another's");
        let address = app.address();
        Self {
            app: Some(app),
            config,
            clock: self.clock.clone(),
            http: client(),
            address,
            tenant: self.tenant.clone(),
            key: self.key.clone(),
            source: self.source.clone(),
            catalog: self.catalog.clone(),
            store: self.store.clone(),
            dir: Arc::clone(&self.dir),
        }
    }

    async fn start_at(dir: Home, place: &str, change: impl FnOnce(&mut Config)) -> Self {
        let dir = Arc::new(dir);
        let mut config = Config {
            data: dir.path().join("data"),
            database: dir.database().map(|database| database.url().into()),
            listen: free_address(),
            program: Some(PathBuf::from(PROGRAM)),
            ..Config::default()
        };
        config.set_text("storage", place).unwrap();
        change(&mut config);
        let clock = Clock::system();
        let app = App::start(config.clone(), clock.clone()).await.expect("a start");
        let first = app.first_start().expect("a first start");
        let (tenant, key) = (first.tenant.clone(), first.key.clone());
        let (source, catalog, store) = (first.source.clone(), first.catalog.clone(), first.store.clone());
        app.first_key_shown().await.expect("remembered");
        let address = app.address();
        Self { app: Some(app), config, clock, http: client(), address, tenant, key, source, catalog, store, dir }
    }

    /// Stops and starts again on the same data and port.
    pub(crate) async fn restart(&mut self) {
        self.restart_after(|| ()).await;
    }

    /// The same with something done to the data between.
    pub(crate) async fn restart_after(&mut self, work: impl FnOnce()) {
        self.app.take().expect("a running server").stop().await;
        work();
        let mut tries = 0;
        let app = loop {
            match App::start(self.config.clone(), self.clock.clone()).await {
                // A program that another test starts holds this process's files until it runs: the port's, the lock's.
                Err(StartError::Listen { .. } | StartError::Locked { .. }) if tries < 40 => tries += 1,
                started => break started.expect("a second start"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        assert!(app.first_start().is_none(), "the second start must not make a second key");
        assert_eq!(app.address(), self.address);
        self.app = Some(app);
        self.http = client();
    }

    /// Stops for good; the data, and what keeps them there.
    pub(crate) async fn stopped(mut self) -> (PathBuf, Arc<Home>) {
        self.app.take().expect("a running server").stop().await;
        (self.data(), Arc::clone(&self.dir))
    }

    /// Stops for good; then `landfall doctor` finds nothing broken in what is left on disk.
    pub(crate) async fn leaves_everything_whole(mut self) {
        self.app.take().expect("a running server").stop().await;
        let data = self.data();
        let run = move || program(&data).arg("doctor").arg("--data").arg(&data).stdin(Stdio::null()).output();
        let output = tokio::task::spawn_blocking(run).await.unwrap().expect("the built binary");
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "landfall doctor: {out}{err}");
    }

    pub(crate) fn engine(&self) -> &landfall::engine::Engine {
        self.app.as_ref().expect("a running server").engine()
    }

    /// The server itself, for what no API shows.
    pub(crate) fn app(&self) -> &App {
        self.app.as_ref().expect("a running server")
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.config.data.clone()
    }

    /// Where its data is, and what holds it.
    pub(crate) fn home(&self) -> Arc<Home> {
        Arc::clone(&self.dir)
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// A path of the organization.
    pub(crate) fn org(&self, rest: &str) -> String {
        format!("/push/v1/organizations/{}/{rest}", self.tenant)
    }

    /// A path of the push source.
    pub(crate) fn src(&self, rest: &str) -> String {
        self.org(&format!("sources/{}/{rest}", self.source))
    }

    /// A path of the stream-enabled source.
    pub(crate) fn cat(&self, rest: &str) -> String {
        self.org(&format!("sources/{}/{rest}", self.catalog))
    }

    /// A path of the vendor's platform.
    pub(crate) fn rest(&self, rest: &str) -> String {
        format!("/rest/organizations/{}/{rest}", self.tenant)
    }

    /// A request with the key of the first start.
    pub(crate) fn call(&self, method: &'static str, path: impl Into<String>) -> Call<'_> {
        let headers = vec![(String::from("Authorization"), format!("Bearer {}", self.key))];
        Call { server: self, method, path: path.into(), headers, body: None }
    }

    /// A request of our own API.
    pub(crate) fn native(&self, method: &'static str, path: &str) -> Call<'_> {
        self.call(method, format!("/landfall/v1{path}"))
    }

    /// The body of a native GET.
    pub(crate) async fn get(&self, path: &str) -> Value {
        self.native("GET", path).send().await.expect(200).json()
    }

    /// A PUT to an upload URL with the pair of headers.
    pub(crate) fn upload(&self, uri: &str, body: impl Into<Vec<u8>>) -> Call<'_> {
        let call = self.bare("PUT", uri).body(body);
        PAIR.iter().fold(call, |call, (name, value)| call.header(name, value))
    }

    /// A request to a whole URL without any header.
    pub(crate) fn bare(&self, method: &'static str, uri: &str) -> Call<'_> {
        Call { server: self, method, path: uri.to_owned(), headers: Vec::new(), body: None }
    }

    /// A new container.
    pub(crate) async fn container(&self) -> Container {
        let body = self.call("POST", self.org("files")).send().await.expect(201).json();
        let text = |name: &str| body[name].as_str().expect(name).to_owned();
        Container { upload_uri: text("uploadUri"), file_id: text("fileId") }
    }

    /// A new container with this content; its id.
    pub(crate) async fn filled(&self, content: impl Into<Vec<u8>>) -> String {
        let container = self.container().await;
        self.upload(&container.upload_uri, content).send().await.expect(200);
        container.file_id
    }

    /// Adds an item to the push source and waits.
    pub(crate) async fn item(&self, document_id: &str, body: Value) -> Value {
        let path = self.src(&format!("documents?documentId={}", encode(document_id)));
        self.call("PUT", path).json(body).pushed().await
    }

    /// Pushes a batch to the push source and waits.
    pub(crate) async fn batch(&self, content: impl Into<Vec<u8>>) -> Value {
        let file = self.filled(content).await;
        self.call("PUT", self.src(&format!("documents/batch?fileId={file}"))).json("{}").pushed().await
    }

    /// Waits until a push is done; its record.
    pub(crate) async fn done(&self, request_id: &str) -> Value {
        for _ in 0..TRIES {
            let push = self.get(&format!("/pushes/{request_id}")).await;
            match push["state"].as_str().expect("a state") {
                "done" | "failed" => return push,
                "queued" | "working" => tokio::time::sleep(PAUSE).await,
                other => panic!("no state of a push: {other}"),
            }
        }
        panic!("the push {request_id} does not end");
    }

    /// Ids of the items of a source, sorted.
    pub(crate) async fn ids(&self, source: &str) -> Vec<String> {
        let mut ids = Vec::new();
        let mut cursor = String::new();
        for _ in 0..1_000 {
            let page = self.get(&format!("/sources/{source}/items?limit=1000{cursor}")).await;
            let items = page["items"].as_array().expect("items");
            ids.extend(items.iter().map(|item| item["document_id"].as_str().expect("document_id").to_owned()));
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={}", encode(next)),
                None => break,
            }
        }
        ids.sort();
        ids
    }

    /// An item of the push source.
    pub(crate) async fn read(&self, document_id: &str) -> Value {
        self.read_in(&self.source, document_id).await
    }

    /// An item of a source.
    pub(crate) async fn read_in(&self, source: &str, document_id: &str) -> Value {
        self.get(&format!("/sources/{source}/item?document_id={}", encode(document_id))).await
    }

    /// Its content, as stored or decoded.
    pub(crate) async fn content(&self, document_id: &str, decoded: bool) -> Vec<u8> {
        let decoded = if decoded { "&decoded=true" } else { "" };
        let path = format!("/sources/{}/item/content?document_id={}{decoded}", self.source, encode(document_id));
        self.native("GET", &path).send().await.expect(200).body
    }

    /// What the tenant holds: usage, items, pushes. What must not change when a request is refused.
    pub(crate) async fn state(&self) -> Value {
        let mut state = json!({ "usage": self.get("/usage").await });
        for source in [&self.source, &self.catalog] {
            let items = self.get(&format!("/sources/{source}/items?limit=1000")).await;
            let pushes = self.get(&format!("/sources/{source}/pushes?limit=1000")).await;
            let ids: Vec<_> = pushes["items"].as_array().unwrap().iter().map(|p| p["request_id"].clone()).collect();
            state[source.as_str()] = json!({ "items": items["items"], "pushes": ids });
        }
        state["sources"] = self.get("/sources").await;
        state
    }

    /// Is everything as it was?
    pub(crate) async fn unchanged(&self, before: &Value) {
        let now = self.state().await;
        for (part, value) in before.as_object().unwrap() {
            assert_eq!(&now[part], value, "a refused request changed `{part}`");
        }
    }

    /// Runs `landfall admin …` on the data of the running server; the line of JSON it prints.
    pub(crate) async fn admin(&self, arguments: &[&str]) -> Value {
        let data = self.data();
        let arguments: Vec<String> = arguments.iter().map(|a| (*a).to_owned()).collect();
        tokio::task::spawn_blocking(move || {
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            admin(&data, &arguments)
        })
        .await
        .unwrap()
    }

    /// Runs `landfall admin …`, which must fail; what it says.
    pub(crate) async fn admin_refused(&self, arguments: &[&str]) -> String {
        let mut command = program(&self.data());
        command.arg("admin").args(arguments).arg("--data").arg(self.data()).stdin(Stdio::null());
        let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().expect("the built binary");
        assert!(!output.status.success(), "{arguments:?} was taken: {}", String::from_utf8_lossy(&output.stdout));
        assert!(output.stdout.is_empty(), "{}", String::from_utf8_lossy(&output.stdout));
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// A key of a tenant with some rights.
    pub(crate) async fn key_with(&self, tenant: &str, rights: &str) -> String {
        let made = self.admin(&["key", "create", "--tenant", tenant, "--rights", rights]).await;
        made["key"].as_str().expect("a key").to_owned()
    }

    /// A second tenant with a key of every right and a push source.
    pub(crate) async fn neighbour(&self) -> Neighbour {
        let tenant = self.admin(&["tenant", "create", "neighbour"]).await["id"].as_str().unwrap().to_owned();
        let key = self.key_with(&tenant, "all").await;
        let made = self.admin(&["source", "create", "--tenant", &tenant, "theirs"]).await;
        Neighbour { tenant, key, source: made["id"].as_str().unwrap().to_owned() }
    }

    /// Sends bytes as they are and reads what comes back until the server closes.
    pub(crate) async fn raw(&self, request: &[u8]) -> Reply {
        raw(self.address, request).await
    }

    /// A request with exactly these header lines; `Connection: close` is the caller's to say.
    pub(crate) async fn wire(&self, head: &str, body: &[u8]) -> Reply {
        let mut request = head.trim_start().replace("{host}", &self.address.to_string());
        request = request.replace("{o}", &self.tenant).replace("{s}", &self.source).replace("{c}", &self.catalog);
        request = request.replace("{key}", &self.key).replace("{length}", &body.len().to_string());
        let request: String = request.lines().map(str::trim).fold(String::new(), |mut all, line| {
            let _ = write!(all, "{line}\r\n");
            all
        });
        let mut bytes = format!("{}\r\n\r\n", request.trim_end()).into_bytes();
        bytes.extend_from_slice(body);
        self.raw(&bytes).await
    }

    /// An answer as text for a snapshot: what differs from run to run is named instead.
    pub(crate) fn shown(&self, reply: &Reply) -> String {
        let mut text = format!("{}\n", reply.status);
        let headers: BTreeMap<_, _> = reply.headers.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        for (name, value) in headers.into_iter().filter(|(name, _)| *name != "date") {
            let value = if name == "etag" { "[etag]" } else { value };
            let _ = writeln!(text, "{name}: {value}");
        }
        let body = match serde_json::from_slice::<Value>(&reply.body) {
            Ok(json) => serde_json::to_string_pretty(&json).unwrap(),
            Err(_) => reply.text(),
        };
        let _ = write!(text, "\n{body}");
        for (value, name) in [
            (self.address.to_string(), "[host]"),
            (self.key.clone(), "[key]"),
            (self.source.clone(), "[source]"),
            (self.catalog.clone(), "[catalog]"),
            (format!("/{}/", self.tenant), "/[tenant]/"),
        ] {
            text = text.replace(&value, name);
        }
        text
    }
}

/// A second tenant.
pub(crate) struct Neighbour {
    pub(crate) tenant: String,
    pub(crate) key: String,
    pub(crate) source: String,
}

/// Takes a snapshot of a whole answer.
macro_rules! snapshot {
    ($name:expr, $server:expr, $reply:expr) => {
        insta::with_settings!({
            filters => vec![
                (r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "[uuid]"),
                (r"/[0-9a-f]{32}\b", "/[session]"),
                (r"X-Amz-Signature=[0-9a-f]{64}", "X-Amz-Signature=[signature]"),
                (r"[0-9]{8}T[0-9]{6}Z", "[time]"),
                (r"LANDFALL(%2F|/)[0-9]{8}", "LANDFALL$1[day]"),
                (r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]+Z", "[time]"),
                (r#""orderingId": "[0-9]{13}""#, r#""orderingId": "[millis]""#),
                (r"content-length: [0-9]+", "content-length: [length]"),
            ],
            prepend_module_to_snapshot => false,
            snapshot_path => concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/snapshots"),
            omit_expression => true,
        }, {
            insta::assert_snapshot!($name, $server.shown(&$reply));
        });
    };
}
pub(crate) use snapshot;

/// Percent-encodes for a query.
pub(crate) fn encode(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

/// Runs `landfall admin …`; the line of JSON it prints.
pub(crate) fn admin(data: &Path, arguments: &[&str]) -> Value {
    let output = program(data)
        .arg("admin")
        .args(arguments)
        .arg("--data")
        .arg(data)
        .stdin(Stdio::null())
        .output()
        .expect("the built binary");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "landfall admin {arguments:?}: {out}{err}");
    assert_eq!(out.trim().lines().count(), 1, "one line: {out}");
    serde_json::from_str(out.trim()).unwrap_or_else(|e| panic!("{e}: {out}"))
}

/// Sends bytes as they are and reads the answer; the server closes, or says how long the answer is.
pub(crate) async fn raw(address: SocketAddr, request: &[u8]) -> Reply {
    let work = async {
        let mut stream = TcpStream::connect(address).await.unwrap();
        // A refusal may come before everything is written.
        let _ = stream.write_all(request).await;
        read_reply(&mut stream).await
    };
    tokio::time::timeout(Duration::from_secs(60), work).await.expect("an answer within a minute")
}

/// Reads one final answer, skipping `100 Continue`.
pub(crate) async fn read_reply(stream: &mut TcpStream) -> Reply {
    let mut seen = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        if let Some(reply) = parse_reply(&seen, false) {
            return reply;
        }
        match stream.read(&mut buffer).await {
            Ok(0) => break,
            Ok(n) => seen.extend_from_slice(&buffer[..n]),
            Err(error) => panic!("the connection broke: {error}; so far {}", String::from_utf8_lossy(&seen)),
        }
    }
    parse_reply(&seen, true).unwrap_or_else(|| panic!("no answer: {:?}", String::from_utf8_lossy(&seen)))
}

fn parse_reply(bytes: &[u8], ended: bool) -> Option<Reply> {
    let end = bytes.windows(4).position(|w| w == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let rest = &bytes[end + 4..];
    let mut lines = head.split("\r\n");
    let first = lines.next()?;
    assert!(first.starts_with("HTTP/1.1 "), "{first}");
    let status: u16 = first.split(' ').nth(1)?.parse().ok()?;
    if status == 100 {
        return parse_reply(rest, ended);
    }
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(n, v)| (n.trim().to_ascii_lowercase(), v.trim().to_owned()))
        .collect();
    let reply = |body: Vec<u8>| Reply { status, headers: headers.clone(), body };
    let of = |name: &str| headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
    if let Some(length) = of("content-length").and_then(|l| l.parse::<usize>().ok()) {
        return (rest.len() >= length).then(|| reply(rest[..length].to_vec()));
    }
    if of("transfer-encoding").is_some_and(|t| t.eq_ignore_ascii_case("chunked")) {
        let mut body = Vec::new();
        let mut at = rest;
        loop {
            let line = at.windows(2).position(|w| w == b"\r\n")?;
            let size = usize::from_str_radix(std::str::from_utf8(&at[..line]).ok()?.trim(), 16).ok()?;
            at = at.get(line + 2..)?;
            if size == 0 {
                return Some(reply(body));
            }
            body.extend_from_slice(at.get(..size)?);
            at = at.get(size + 2..)?;
        }
    }
    (ended || status == 204).then(|| reply(rest.to_vec()))
}

fn spawn_server(config: &Path, log: &Path) -> Process {
    let out = std::fs::File::options().create(true).append(true).open(log).unwrap();
    let mut command = Command::new(PROGRAM);
    command.arg("serve").arg("--config").arg(config).env("LANDFALL_LOG_FILTER", "trace");
    command.stdin(Stdio::null()).stdout(out.try_clone().unwrap()).stderr(out).spawn().expect("the binary")
}

/// The built binary, serving.
pub(crate) struct Binary {
    process: Process,
    pub(crate) address: SocketAddr,
    pub(crate) http: reqwest::Client,
    pub(crate) tenant: String,
    pub(crate) key: String,
    pub(crate) source: String,
    log: PathBuf,
    dir: Home,
}

impl Binary {
    /// Starts it with these lines of configuration beside the data directory and the address.
    pub(crate) async fn start(settings: &str) -> Self {
        let dir = tokio::task::spawn_blocking(Home::new).await.unwrap();
        let data = dir.path().join("data");
        let address = free_address();
        let file = dir.path().join("landfall.toml");
        let (place, storage) = (data.display().to_string(), storage(&data));
        let storage = if settings.contains("storage") { String::new() } else { format!("storage = {storage:?}\n") };
        let mut text = format!("data = {place:?}\nlisten = \"{address}\"\n{storage}{settings}\n");
        if let Some(database) = dir.database() {
            let _ = writeln!(text, "database = {:?}", database.url());
        }
        std::fs::write(&file, text).unwrap();
        let log = dir.path().join("log");
        let process = spawn_server(&file, &log);
        let mut binary = Self {
            process,
            address,
            http: client(),
            tenant: String::from("measured"),
            key: String::new(),
            source: String::new(),
            log,
            dir,
        };
        binary.ready().await;
        let data = binary.dir.path().join("data");
        assert_eq!(admin(&data, &["tenant", "create", "measured"])["id"], "measured");
        let made = admin(&data, &["key", "create", "--tenant", "measured"]);
        binary.key = made["key"].as_str().expect("a key").to_owned();
        let made = admin(&data, &["source", "create", "--tenant", "measured", "many"]);
        binary.source = made["id"].as_str().expect("a source").to_owned();
        binary
    }

    /// Kills it as `kill -9` does.
    pub(crate) fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Kills it as a crash would, and starts it again on the same data and port.
    pub(crate) async fn crash(&mut self) {
        self.kill();
        self.start_again().await;
    }

    /// Starts it again on the same data and port.
    pub(crate) async fn start_again(&mut self) {
        self.process = spawn_server(&self.dir.path().join("landfall.toml"), &self.log);
        self.http = client();
        self.ready().await;
    }

    /// Stops it for good; then `landfall doctor` finds nothing broken in what is left on disk.
    pub(crate) fn leaves_everything_whole(mut self) {
        self.kill();
        let data = self.dir.path().join("data");
        let output = program(&data).args(["doctor", "--deep", "--data"]).arg(&data).output().unwrap();
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "landfall doctor: {out}{err}");
    }

    async fn ready(&mut self) {
        for _ in 0..500 {
            if let Ok(reply) = self.http.get(self.url("/readyz")).send().await
                && reply.status().is_success()
            {
                return;
            }
            if let Some(status) = self.process.try_wait().unwrap() {
                panic!("the server ended with {status}: {}", self.log());
            }
            tokio::time::sleep(PAUSE).await;
        }
        panic!("the server is not ready: {}", self.log());
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// Everything that it printed and logged.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap()).into_owned()
    }

    /// A second tenant with a key of every right and a push source.
    pub(crate) fn neighbour(&self) -> Neighbour {
        let data = self.dir.path().join("data");
        let tenant = admin(&data, &["tenant", "create", "neighbour"])["id"].as_str().unwrap().to_owned();
        let key = admin(&data, &["key", "create", "--tenant", &tenant])["key"].as_str().unwrap().to_owned();
        let made = admin(&data, &["source", "create", "--tenant", &tenant, "theirs"]);
        Neighbour { tenant, key, source: made["id"].as_str().unwrap().to_owned() }
    }

    pub(crate) async fn container(&self) -> Container {
        self.container_of(&self.tenant, &self.key).await
    }

    /// A new container of a tenant.
    pub(crate) async fn container_of(&self, tenant: &str, key: &str) -> Container {
        let path = format!("/push/v1/organizations/{tenant}/files");
        let request = self.http.post(self.url(&path)).bearer_auth(key);
        let body = Reply::read(request.send().await.unwrap()).await.expect(201).json();
        let text = |name: &str| body[name].as_str().expect(name).to_owned();
        Container { upload_uri: text("uploadUri"), file_id: text("fileId") }
    }

    /// A PUT of a body made while it is sent; with its length, or in chunks without.
    pub(crate) async fn put<S>(&self, uri: &str, length: Option<u64>, body: S) -> Reply
    where
        S: Stream<Item = Result<Bytes, std::io::Error>> + Send + Sync + 'static,
    {
        let mut request = self.http.put(uri).body(reqwest::Body::wrap_stream(body));
        for (name, value) in PAIR {
            request = request.header(name, value);
        }
        if let Some(length) = length {
            request = request.header("Content-Length", length);
        }
        Reply::read(request.send().await.expect("an answer")).await
    }

    /// PUTs of bodies of one length to plain URLs, five under way at once; each must be taken.
    pub(crate) async fn put_five_at_a_time(&self, urls: &[String], length: u64) {
        let sent = futures_util::stream::iter(urls).map(|url| {
            let request = self.http.put(url).header("Content-Length", length);
            let request = request.body(reqwest::Body::wrap_stream(bytes_of(length)));
            async move { Reply::read(request.send().await.expect("an answer")).await.expect(200) }
        });
        assert_eq!(sent.buffer_unordered(5).count().await, urls.len());
    }

    pub(crate) async fn send(&self, method: &'static str, path: &str, body: Option<Value>) -> Reply {
        let mut request = self.http.request(method.parse().unwrap(), self.url(path)).bearer_auth(&self.key);
        if let Some(body) = body {
            request = request.header("Content-Type", "application/json").body(body.to_string());
        }
        Reply::read(request.send().await.expect("an answer")).await
    }

    /// The most memory that it ever had, in bytes.
    pub(crate) fn peak(&self) -> u64 {
        self.memory("VmHWM:")
    }

    /// The memory that it has now, in bytes.
    pub(crate) fn resident(&self) -> u64 {
        self.memory("VmRSS:")
    }

    fn memory(&self, what: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status.lines().find(|l| l.starts_with(what)).expect(what);
        let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        kib * 1024
    }

    /// Is it still the process that was started, and never had more than 200 MiB?
    #[track_caller]
    pub(crate) fn stays_small(&mut self) {
        if let Some(status) = self.process.try_wait().unwrap() {
            panic!("the server ended with {status}: {}", self.log());
        }
        let peak = self.peak();
        let _ = writeln!(std::io::stderr(), "peak memory: {} MiB", peak >> 20);
        // On their way to a bucket parts take as much again as bodies may.
        let most = if in_bucket() { 400 } else { 200 };
        assert!(peak < most << 20, "the server had {} MiB of memory", peak >> 20);
    }
}

impl Drop for Binary {
    fn drop(&mut self) {
        // Only the process that this value started.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// `length` bytes in pieces of 256 KiB, made while they are sent.
pub(crate) fn bytes_of(length: u64) -> impl Stream<Item = Result<Bytes, std::io::Error>> + Send + Sync + 'static {
    const PIECE: u64 = 256 * 1024;
    let piece = Bytes::from((0..PIECE).map(|n| (n * 31 % 251) as u8).collect::<Vec<u8>>());
    futures_util::stream::unfold(0, move |sent| {
        let piece = piece.clone();
        async move {
            let left = length - sent;
            let now = left.min(PIECE);
            (now > 0).then(|| (Ok(piece.slice(..now as usize)), sent + now))
        }
    })
}

/// zlib of some bytes.
pub(crate) fn zlib(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// gzip of some bytes.
pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Standard Base64.
pub(crate) fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// Text that hardly compresses: the same every time.
pub(crate) fn noise(length: usize) -> Vec<u8> {
    let mut state: u64 = 0x9E37_79B9_7F4A_7C15;
    let mut out = Vec::with_capacity(length + 16);
    while out.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(format!("{state:016x}").as_bytes());
    }
    out.truncate(length);
    out
}
