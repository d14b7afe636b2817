//! A store that speaks S3, on a loopback port, for tests. Names, signatures and XML are the work of the crate `s3s`;
//! what it keeps is here, because its own file system backend knows no list of uploads, wants part numbers without a gap
//! and does not compare the ETags of a completion. In front of it stands `harm.rs`, and where it plays Google's,
//! `google.rs`.
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    missing_debug_implementations,
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "each test binary uses a part of it; the bans are the server's"
)]

#[path = "google.rs"]
mod google;

use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use bytes::Bytes;
use crc_fast::CrcAlgorithm;
use futures_util::StreamExt;
use http::{Method, Request, Response};
use hyper::body::Incoming;
use s3s::auth::SimpleAuth;
use s3s::dto::*;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s::{Body, S3, S3ErrorCode, S3Request, S3Response, S3Result, s3_error};
use sha2::Digest as _;

use super::harm::{self, Any, Harms};
pub use super::harm::{Call, Harm};

/// The one bucket, and who may use it.
pub const BUCKET: &str = "bytes";
pub const ACCESS_KEY: &str = "AKIATESTTESTTEST";
pub const SECRET_KEY: &str = "a-secret-for-tests-only";
/// S3's smallest part but the last.
const PART_BYTES: u64 = 5 * 1024 * 1024;
/// Entries of a page: few, so that tests turn pages.
const PAGE: usize = 50;

/// A running store. Ends with its guard.
pub struct Store {
    address: SocketAddr,
    shared: Arc<Shared>,
    credentials: PathBuf,
    _directory: Option<tempfile::TempDir>,
    runtime: Option<tokio::runtime::Runtime>,
}

struct Shared {
    kept: Mutex<Kept>,
    harms: Harms,
    keys: Mutex<(String, String)>,
    google: Option<google::Front>,
    ways: Mutex<Ways>,
    directory: PathBuf,
    names: AtomicU64,
}

/// What a store does as Amazon's does, and others may not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ways {
    /// Does the bucket keep every version of an object?
    pub versions: bool,
    /// Are versions named that are not kept?
    pub names: bool,
    /// Is a CRC-64/NVME computed of an object that came without a checksum, and are checksums told?
    pub checksums: bool,
    /// Is `If-None-Match: *` heeded?
    pub conditions: bool,
}

impl Default for Ways {
    fn default() -> Self {
        Self { versions: false, names: false, checksums: true, conditions: true }
    }
}

#[derive(Default)]
struct Kept {
    /// The current ones.
    objects: BTreeMap<String, Object>,
    /// Versions that are not current, the oldest first.
    older: BTreeMap<String, Vec<Object>>,
    /// Of keys whose current version says that they are deleted.
    marks: BTreeMap<String, (String, SystemTime)>,
    uploads: BTreeMap<(String, String), Upload>,
}

#[derive(Clone, Debug)]
struct Object {
    etag: String,
    blobs: Vec<Arc<Blob>>,
    modified: SystemTime,
    version: Option<String>,
    /// In Base64.
    crc32c: Option<String>,
    crc64nvme: Option<String>,
    sha256: Option<String>,
    md5: Option<String>,
}

impl Kept {
    /// Puts an object in the place of the current one, which is kept or not.
    fn put(&mut self, key: String, object: Object, keeps: bool) {
        self.marks.remove(&key);
        if let Some(before) = self.objects.insert(key.clone(), object)
            && keeps
        {
            self.older.entry(key).or_default().push(before);
        }
    }

    fn find(&self, key: &str, version: Option<&str>) -> S3Result<Object> {
        let Some(version) = version else {
            return self.objects.get(key).cloned().ok_or_else(|| s3_error!(NoSuchKey));
        };
        let is = |object: &&Object| object.version.as_deref().unwrap_or("null") == version;
        let current = self.objects.get(key).filter(is);
        let older = self.older.get(key).into_iter().flatten().find(is);
        current.or(older).cloned().ok_or_else(|| s3_error!(NoSuchVersion))
    }

    /// Removes one version; the newest of the others is the current one then.
    fn remove(&mut self, key: &str, version: &str) {
        let is = |object: &Object| object.version.as_deref().unwrap_or("null") == version;
        if self.marks.get(key).is_some_and(|(mark, _)| mark == version) {
            self.marks.remove(key);
        } else if self.objects.get(key).is_some_and(is) {
            self.objects.remove(key);
        } else if let Some(older) = self.older.get_mut(key) {
            older.retain(|object| !is(object));
            return;
        }
        if !self.objects.contains_key(key)
            && !self.marks.contains_key(key)
            && let Some(newest) = self.older.get_mut(key).and_then(Vec::pop)
        {
            self.objects.insert(key.to_owned(), newest);
        }
    }
}

impl Object {
    fn size(&self) -> u64 {
        self.blobs.iter().map(|blob| blob.length).sum()
    }
}

struct Upload {
    initiated: SystemTime,
    checksums: bool,
    parts: BTreeMap<i32, Part1>,
}

#[derive(Clone)]
struct Part1 {
    etag: String,
    checksum: Option<String>,
    crc32c: u32,
    crc64nvme: u64,
    blob: Arc<Blob>,
    modified: SystemTime,
}

/// Bytes in a file of their own.
#[derive(Debug)]
struct Blob {
    path: PathBuf,
    length: u64,
}

impl Drop for Blob {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Store {
    /// Starts one on threads of its own.
    pub fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().to_owned();
        Self::start_in(path, Some(directory), false)
    }

    /// One that speaks as Google's does.
    pub fn google() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().to_owned();
        Self::start_in(path, Some(directory), true)
    }

    /// Does it?
    pub fn is_google(&self) -> bool {
        self.shared.google.is_some()
    }

    /// Starts one that lives as long as the process: nobody drops what is static, so that it removes what processes
    /// before this one left.
    pub fn start_for_ever() -> Self {
        Self::for_ever(false)
    }

    /// The same that speaks as Google's does.
    pub fn google_for_ever() -> Self {
        Self::for_ever(true)
    }

    fn for_ever(google: bool) -> Self {
        let name = |process: &str| std::env::temp_dir().join(format!("landfall-bucket-{process}"));
        for entry in std::fs::read_dir(std::env::temp_dir()).unwrap().flatten() {
            let left = entry.file_name().to_string_lossy().strip_prefix("landfall-bucket-").map(str::to_owned);
            if let Some(process) = left.filter(|process| !std::path::Path::new("/proc").join(process).exists()) {
                let _ = std::fs::remove_dir_all(name(&process));
            }
        }
        let mut directory = name(&std::process::id().to_string());
        if google {
            directory.push("google");
        }
        std::fs::create_dir_all(&directory).unwrap();
        Self::start_in(directory, None, google)
    }

    fn start_in(path: PathBuf, directory: Option<tempfile::TempDir>, google: bool) -> Self {
        let credentials = path.join("credentials");
        let text = format!("[default]\naws_access_key_id={ACCESS_KEY}\naws_secret_access_key={SECRET_KEY}\n");
        std::fs::write(&credentials, text).unwrap();
        let shared = Arc::new(Shared {
            kept: Mutex::default(),
            harms: Harms::default(),
            keys: Mutex::new((ACCESS_KEY.into(), SECRET_KEY.into())),
            google: google.then(google::Front::default),
            ways: Mutex::default(),
            directory: path,
            names: AtomicU64::new(0),
        });
        let serving = Arc::clone(&shared);
        let (address, runtime) = harm::serve(move |request| answer(Arc::clone(&serving), request));
        if google {
            std::fs::write(&credentials, google::key_file(address)).unwrap();
        }
        Self { address, shared, credentials, _directory: directory, runtime: Some(runtime) }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The bucket for the configuration's field `storage`.
    pub fn url(&self, prefix: &str) -> String {
        if self.is_google() {
            let file = self.credentials.display();
            return format!("gs://{BUCKET}/{prefix}?endpoint=http://{}&credentials={file}", self.address);
        }
        format!(
            "s3://{BUCKET}/{prefix}?endpoint=http://{}&region=eu-test-1&credentials={}",
            self.address,
            self.credentials.display()
        )
    }

    /// What is done to its calls.
    pub fn harms(&self) -> &Harms {
        &self.shared.harms
    }

    /// The next so many calls of this kind are harmed.
    pub fn harm(&self, what: &'static str, times: u32, harm: Harm) {
        self.shared.harms.plan(what, times, harm);
    }

    /// The same, while this spell lasts.
    pub fn harm_for(&self, spell: Duration, what: &'static str, times: u32, harm: Harm) {
        self.shared.harms.plan_for(spell, what, times, harm);
    }

    /// No call is harmed any more.
    pub fn spare(&self) {
        self.shared.harms.spare();
    }

    /// From now on it does things so.
    pub fn behave(&self, ways: Ways) {
        *lock(&self.shared.ways) = ways;
    }

    /// One whose bucket keeps versions.
    pub fn with_versions() -> Self {
        let store = Self::start();
        store.behave(Ways { versions: true, ..Ways::default() });
        store
    }

    /// Keys, versions and sizes of everything that is there, what is not current and marks included.
    pub fn versions(&self, prefix: &str) -> Vec<(String, String, u64)> {
        let kept = lock(&self.shared.kept);
        let mut all = Vec::new();
        let version = |object: &Object| object.version.clone().unwrap_or_else(|| "null".into());
        for (key, object) in &kept.objects {
            all.push((key.clone(), version(object), object.size()));
        }
        for (key, older) in &kept.older {
            all.extend(older.iter().map(|object| (key.clone(), version(object), object.size())));
        }
        all.extend(kept.marks.iter().map(|(key, (mark, _))| (key.clone(), mark.clone(), 0)));
        all.retain(|(key, _, _)| key.starts_with(prefix));
        all.sort();
        all
    }

    /// From now on only these credentials are good; the file has them when asked to.
    pub fn rotate(&self, access_key: &str, secret_key: &str, in_file: bool) {
        *lock(&self.shared.keys) = (access_key.into(), secret_key.into());
        if let Some(front) = &self.shared.google {
            front.issue(in_file.then_some(access_key));
        } else if in_file {
            let text = format!("[default]\naws_access_key_id={access_key}\naws_secret_access_key={secret_key}\n");
            std::fs::write(&self.credentials, text).unwrap();
        }
    }

    /// What was asked so far, and forgets it.
    pub fn calls(&self) -> Vec<Call> {
        self.shared.harms.calls()
    }

    /// How many calls of a kind there were.
    pub fn count(&self, what: &str) -> usize {
        self.shared.harms.count(what)
    }

    /// Keys and sizes of what is there.
    pub fn objects(&self, prefix: &str) -> Vec<(String, u64)> {
        let kept = lock(&self.shared.kept);
        kept.objects.iter().filter(|(key, _)| key.starts_with(prefix)).map(|(key, o)| (key.clone(), o.size())).collect()
    }

    /// Keys of the uploads in progress.
    pub fn uploads(&self, prefix: &str) -> Vec<String> {
        lock(&self.shared.kept)
            .uploads
            .keys()
            .map(|(key, _)| key.clone())
            .filter(|key| key.starts_with(prefix))
            .collect()
    }

    /// Puts an object there.
    pub fn put(&self, key: &str, bytes: &[u8]) {
        let object = Object {
            etag: format!("{:032x}", self.shared.name()),
            blobs: vec![self.shared.blob(bytes)],
            modified: SystemTime::now(),
            version: self.shared.version(),
            crc32c: self.is_google().then(|| encoded(&crc32c(bytes).to_be_bytes())),
            crc64nvme: None,
            sha256: None,
            md5: None,
        };
        lock(&self.shared.kept).put(key.into(), object, self.shared.ways().versions);
    }

    /// An object's bytes.
    pub fn get(&self, key: &str) -> Option<Vec<u8>> {
        let object = lock(&self.shared.kept).objects.get(key).cloned()?;
        Some(read(&object.blobs, 0, object.size()))
    }

    /// Makes everything look older.
    pub fn age(&self, by: Duration) {
        let mut kept = lock(&self.shared.kept);
        kept.objects.values_mut().for_each(|object| object.modified -= by);
        kept.older.values_mut().flatten().for_each(|object| object.modified -= by);
        for upload in kept.uploads.values_mut() {
            upload.initiated -= by;
            upload.parts.values_mut().for_each(|part| part.modified -= by);
        }
    }

    /// Removes an object or an upload behind everybody's back.
    pub fn lose(&self, key: &str) {
        let mut kept = lock(&self.shared.kept);
        kept.objects.remove(key);
        kept.older.remove(key);
        kept.uploads.retain(|(of, _), _| of != key);
    }

    /// Changes what is said about every object and not its bytes: the number stays, and the ETag is another one.
    pub fn redescribe(&self) {
        for object in lock(&self.shared.kept).objects.values_mut() {
            object.etag = format!("-{}", encoded(&self.shared.name().to_be_bytes()));
        }
    }

    /// Copies an object under another name.
    pub fn copy(&self, from: &str, to: &str) {
        let mut kept = lock(&self.shared.kept);
        let object = kept.objects[from].clone();
        kept.objects.insert(to.into(), object);
    }

    /// Begins another upload of a key, as a call whose answer was lost would.
    pub fn begin_another(&self, key: &str) {
        let upload = Upload { initiated: SystemTime::now(), checksums: true, parts: BTreeMap::new() };
        lock(&self.shared.kept).uploads.insert((key.into(), format!("lost-{}", self.shared.name())), upload);
    }

    /// Changes one byte of an object.
    pub fn damage(&self, key: &str, at: u64) {
        let mut kept = lock(&self.shared.kept);
        let object = kept.objects.get_mut(key).expect("an object to damage");
        let mut all = read(&object.blobs, 0, object.size());
        all[usize::try_from(at).unwrap()] ^= 1;
        object.blobs = vec![self.shared.blob(&all)];
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Shared {
    fn name(&self) -> u64 {
        self.names.fetch_add(1, Ordering::Relaxed)
    }

    fn ways(&self) -> Ways {
        *lock(&self.ways)
    }

    /// A name for a version, where the bucket keeps them.
    fn version(&self) -> Option<String> {
        if self.google.is_some() {
            return Some((google::FIRST_GENERATION + self.name()).to_string());
        }
        self.ways().versions.then(|| format!("v.{:06}/+{:x}", self.name(), 7))
    }

    fn blob(&self, bytes: &[u8]) -> Arc<Blob> {
        let path = self.directory.join(format!("blob-{}", self.name()));
        std::fs::write(&path, bytes).unwrap();
        Arc::new(Blob { path, length: u64::try_from(bytes.len()).unwrap() })
    }

    /// Writes a body as it comes, with its checksums, and the hashes where they are wanted.
    async fn take(&self, body: Option<StreamingBlob>, hashes: bool) -> S3Result<Taken> {
        let path = self.directory.join(format!("blob-{}", self.name()));
        let mut blob = Blob { path: path.clone(), length: 0 };
        let mut file = std::fs::File::create(&path).unwrap();
        let mut crc32c = crc_fast::Digest::new(CrcAlgorithm::Crc32Iscsi);
        let mut crc64 = crc_fast::Digest::new(CrcAlgorithm::Crc64Nvme);
        let (mut md5, mut sha256) = (md5::Md5::new(), sha2::Sha256::new());
        if let Some(mut body) = body {
            while let Some(bytes) = body.next().await {
                let bytes = bytes.map_err(|_| s3_error!(IncompleteBody))?;
                crc32c.update(&bytes);
                crc64.update(&bytes);
                if hashes {
                    md5.update(&bytes);
                    sha256.update(&bytes);
                }
                file.write_all(&bytes).unwrap();
                blob.length += u64::try_from(bytes.len()).unwrap();
            }
        }
        Ok(Taken {
            etag: format!("{:016x}{:016x}", crc64.finalize(), self.name()),
            blob: Arc::new(blob),
            crc32c: u32::try_from(crc32c.finalize()).unwrap(),
            crc64nvme: crc64.finalize(),
            md5: md5.finalize().into(),
            sha256: sha256.finalize().into(),
        })
    }
}

/// A body that came.
struct Taken {
    blob: Arc<Blob>,
    etag: String,
    crc32c: u32,
    crc64nvme: u64,
    md5: [u8; 16],
    sha256: [u8; 32],
}

fn read(blobs: &[Arc<Blob>], from: u64, to: u64) -> Vec<u8> {
    let mut all = Vec::new();
    let mut start = 0;
    for blob in blobs {
        let (a, b) = (from.max(start), to.min(start + blob.length));
        if a < b {
            let mut file = std::fs::File::open(&blob.path).unwrap();
            file.seek(SeekFrom::Start(a - start)).unwrap();
            file.take(b - a).read_to_end(&mut all).unwrap();
        }
        start += blob.length;
    }
    all
}

/// Which call a request is.
fn what(request: &Request<Incoming>) -> &'static str {
    let query = request.uri().query().unwrap_or_default();
    let has = |name: &str| query.split('&').any(|pair| pair.split('=').next() == Some(name));
    let of_object = request.uri().path().trim_start_matches('/').contains('/');
    match (request.method(), of_object) {
        (&Method::PUT, true) if has("partNumber") => "UploadPart",
        (&Method::PUT, true) => "PutObject",
        (&Method::POST, true) if has("uploads") => "CreateMultipartUpload",
        (&Method::POST, true) => "CompleteMultipartUpload",
        (&Method::GET, true) if has("uploadId") => "ListParts",
        (&Method::GET, true) => "GetObject",
        (&Method::HEAD, true) => "HeadObject",
        (&Method::DELETE, true) if has("uploadId") => "AbortMultipartUpload",
        (&Method::DELETE, true) => "DeleteObject",
        (&Method::GET, false) if has("uploads") => "ListMultipartUploads",
        (&Method::GET, false) if has("versions") => "ListObjectVersions",
        (&Method::GET, false) => "ListObjectsV2",
        (&Method::HEAD, false) => "HeadBucket",
        _ => "?",
    }
}

/// What Amazon refuses and the crate does not: headers of its own that no signature covers, which would let whoever holds a
/// URL do other things with it, and two ways of saying who one is.
fn unsigned(request: &Request<Incoming>) -> Option<Response<Any>> {
    let query = request.uri().query().unwrap_or_default();
    let signed = query.split('&').find_map(|pair| pair.strip_prefix("X-Amz-SignedHeaders="))?;
    let signed: Vec<&str> = signed.split("%3B").collect();
    if request.headers().contains_key("authorization") {
        return Some(harm::in_xml(400, "InvalidArgument"));
    }
    let own = |name: &&str| name.starts_with("x-amz-") && !signed.contains(name);
    let mut names = request.headers().keys().map(http::HeaderName::as_str);
    names.find(own).map(|_| harm::in_xml(403, "AccessDenied"))
}

fn crc32c(bytes: &[u8]) -> u32 {
    u32::try_from(crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, bytes)).unwrap()
}

async fn answer(shared: Arc<Shared>, request: Request<Incoming>) -> Result<Response<Any>, std::io::Error> {
    if shared.google.is_some() {
        return google::answer(shared, request).await;
    }
    let harm = shared.harms.came(what(&request), &request);
    if let Some(refused) = unsigned(&request) {
        return Ok(refused);
    }
    let (access_key, secret_key) = lock(&shared.keys).clone();
    let service: S3Service = {
        let mut builder = S3ServiceBuilder::new(Backend(Arc::clone(&shared)));
        builder.set_auth(SimpleAuth::from_single(access_key, secret_key));
        builder.build()
    };
    let request = harm::taken(harm, request).await?.map(Body::http_body_unsync);
    harm::harmed(harm, harm::in_xml, || service.call(request)).await
}

struct Backend(Arc<Shared>);

impl Backend {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        lock(&self.0.kept)
    }
}

fn encoded(digest: &[u8]) -> String {
    base64::engine::general_purpose::STANDARD.encode(digest)
}

fn verify(given: Option<&String>, found: &[u8]) -> S3Result<Option<String>> {
    match given {
        Some(given) if *given != encoded(found) => Err(s3_error!(BadDigest)),
        given => Ok(given.cloned()),
    }
}

fn time(time: SystemTime) -> Timestamp {
    Timestamp::from(time)
}

fn number(size: u64) -> i64 {
    i64::try_from(size).unwrap()
}

#[async_trait::async_trait]
impl S3 for Backend {
    async fn head_bucket(&self, _: S3Request<HeadBucketInput>) -> S3Result<S3Response<HeadBucketOutput>> {
        Ok(S3Response::new(HeadBucketOutput::default()))
    }

    async fn put_object(&self, req: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
        let (input, ways) = (req.input, self.0.ways());
        let google = self.0.google.is_some();
        let hashes = google || input.content_md5.is_some() || input.checksum_sha256.is_some();
        let taken = self.0.take(input.body, hashes).await?;
        let crc32c = verify(input.checksum_crc32c.as_ref(), &taken.crc32c.to_be_bytes())?;
        let crc64nvme = verify(input.checksum_crc64nvme.as_ref(), &taken.crc64nvme.to_be_bytes())?;
        let sha256 = verify(input.checksum_sha256.as_ref(), &taken.sha256)?;
        let md5 = verify(input.content_md5.as_ref(), &taken.md5)?;
        if input.content_length.is_some_and(|length| length != number(taken.blob.length)) {
            return Err(s3_error!(IncompleteBody));
        }
        let mut kept = self.kept();
        if ways.conditions && input.if_none_match.is_some_and(|c| c.is_any()) && kept.objects.contains_key(&input.key) {
            return Err(s3_error!(PreconditionFailed));
        }
        let none = crc32c.is_none() && sha256.is_none();
        let object = Object {
            // Whoever names an MD5 learns that it is one.
            etag: if md5.is_some() { hex::encode(taken.md5) } else { taken.etag },
            blobs: vec![taken.blob],
            modified: SystemTime::now(),
            version: self.0.version(),
            crc64nvme: crc64nvme.or_else(|| none.then(|| encoded(&taken.crc64nvme.to_be_bytes()))),
            crc32c: crc32c.or_else(|| google.then(|| encoded(&taken.crc32c.to_be_bytes()))),
            sha256,
            md5: google.then(|| encoded(&taken.md5)),
        };
        let answer = PutObjectOutput {
            e_tag: Some(ETag::Strong(object.etag.clone())),
            version_id: object.version.clone().or_else(|| ways.names.then(|| object.etag.clone())),
            ..Default::default()
        };
        kept.put(input.key, object, ways.versions);
        Ok(S3Response::new(answer))
    }

    async fn head_object(&self, req: S3Request<HeadObjectInput>) -> S3Result<S3Response<HeadObjectOutput>> {
        let (input, ways) = (req.input, self.0.ways());
        let version = input.version_id.filter(|_| !ways.names);
        let object = self.kept().find(&input.key, version.as_deref())?;
        let told = input.checksum_mode.is_some() && ways.checksums;
        Ok(S3Response::new(HeadObjectOutput {
            content_length: Some(number(object.size())),
            e_tag: Some(ETag::Strong(object.etag.clone())),
            last_modified: Some(time(object.modified)),
            version_id: match (ways.versions, ways.names) {
                (_, true) => Some(object.etag.clone()),
                (true, _) => object.version.or_else(|| Some("null".into())),
                (false, false) => object.version,
            },
            checksum_crc32c: object.crc32c.filter(|_| told),
            checksum_crc64nvme: object.crc64nvme.filter(|_| told),
            checksum_sha256: object.sha256.filter(|_| told),
            checksum_type: told.then(|| ChecksumType::from_static(ChecksumType::FULL_OBJECT)),
            ..Default::default()
        }))
    }

    async fn get_object(&self, req: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
        let input = req.input;
        let object = self.kept().find(&input.key, input.version_id.as_deref())?;
        if let Some(ETagCondition::ETag(wanted)) = &input.if_match
            && wanted.value() != object.etag
        {
            return Err(s3_error!(PreconditionFailed));
        }
        let size = object.size();
        let (range, content_range) = match input.range {
            None => (0..size, None),
            Some(range) => {
                let range = range.check(size).map_err(|_| s3_error!(InvalidRange))?;
                let told = format!("bytes {}-{}/{size}", range.start, range.end - 1);
                (range, Some(told))
            }
        };
        let length = number(range.end - range.start);
        const STEP: u64 = 256 * 1024;
        let (blobs, end) = (object.blobs, range.end);
        let steps = (range.start..end).step_by(usize::try_from(STEP).unwrap());
        let stream = futures_util::stream::iter(
            steps.map(move |from| Ok::<_, std::io::Error>(Bytes::from(read(&blobs, from, (from + STEP).min(end))))),
        );
        Ok(S3Response::new(GetObjectOutput {
            body: Some(StreamingBlob::wrap(stream)),
            content_length: Some(length),
            content_range,
            e_tag: Some(ETag::Strong(object.etag)),
            ..Default::default()
        }))
    }

    async fn delete_object(&self, req: S3Request<DeleteObjectInput>) -> S3Result<S3Response<DeleteObjectOutput>> {
        let (input, ways) = (req.input, self.0.ways());
        let mark = self.0.version();
        let mut kept = self.kept();
        if let Some(version) = &input.version_id {
            kept.remove(&input.key, version);
        } else if let Some(mark) = mark.filter(|_| ways.versions) {
            if let Some(current) = kept.objects.remove(&input.key) {
                kept.older.entry(input.key.clone()).or_default().push(current);
            }
            // Google's keeps no marks.
            if self.0.google.is_none() {
                kept.marks.insert(input.key, (mark, SystemTime::now()));
            }
        } else {
            kept.objects.remove(&input.key);
        }
        Ok(S3Response::new(DeleteObjectOutput::default()))
    }

    async fn list_objects_v2(&self, req: S3Request<ListObjectsV2Input>) -> S3Result<S3Response<ListObjectsV2Output>> {
        let input = req.input;
        let prefix = input.prefix.unwrap_or_default();
        let after = input.continuation_token.unwrap_or_default();
        let kept = self.kept();
        let mut found = kept.objects.iter().filter(|(key, _)| key.starts_with(&prefix) && **key > after);
        let contents: Vec<_> = found
            .by_ref()
            .take(PAGE)
            .map(|(key, object)| s3s::dto::Object {
                key: Some(key.clone()),
                size: Some(number(object.size())),
                last_modified: Some(time(object.modified)),
                e_tag: Some(ETag::Strong(object.etag.clone())),
                ..Default::default()
            })
            .collect();
        let more = found.next().is_some();
        let next = contents.last().and_then(|last| last.key.clone()).filter(|_| more);
        Ok(S3Response::new(ListObjectsV2Output {
            name: Some(input.bucket),
            prefix: Some(prefix),
            is_truncated: Some(more),
            next_continuation_token: next,
            contents: Some(contents),
            ..Default::default()
        }))
    }

    async fn list_object_versions(
        &self,
        req: S3Request<ListObjectVersionsInput>,
    ) -> S3Result<S3Response<ListObjectVersionsOutput>> {
        let input = req.input;
        if self.0.ways().names {
            return Err(s3_error!(NotImplemented));
        }
        let prefix = input.prefix.unwrap_or_default();
        let kept = self.kept();
        // In the order of their keys, the newest first.
        let mut all: Vec<(String, String, Option<&Object>, SystemTime, bool)> = Vec::new();
        let keys: std::collections::BTreeSet<&String> =
            kept.objects.keys().chain(kept.older.keys()).chain(kept.marks.keys()).collect();
        for key in keys.into_iter().filter(|key| key.starts_with(&prefix)) {
            let version = |object: &Object| object.version.clone().unwrap_or_else(|| "null".into());
            if let Some((mark, at)) = kept.marks.get(key) {
                all.push((key.clone(), mark.clone(), None, *at, true));
            }
            if let Some(object) = kept.objects.get(key) {
                all.push((key.clone(), version(object), Some(object), object.modified, true));
            }
            for object in kept.older.get(key).into_iter().flatten().rev() {
                all.push((key.clone(), version(object), Some(object), object.modified, false));
            }
        }
        let after = input.key_marker.map(|key| (key, input.version_id_marker.unwrap_or_default()));
        let from = after.map_or(0, |(key, version)| {
            all.iter().position(|entry| entry.0 == key && entry.1 == version).map_or(usize::MAX, |at| at + 1)
        });
        let page: Vec<_> = all.iter().skip(from).take(PAGE).collect();
        let more = from.saturating_add(PAGE) < all.len();
        let last = page.last().filter(|_| more);
        let (mut versions, mut marks) = (Vec::new(), Vec::new());
        for (key, version, object, at, latest) in page.iter().copied() {
            match object {
                Some(object) => versions.push(ObjectVersion {
                    key: Some(key.clone()),
                    version_id: Some(version.clone()),
                    is_latest: Some(*latest),
                    size: Some(number(object.size())),
                    last_modified: Some(time(*at)),
                    e_tag: Some(ETag::Strong(object.etag.clone())),
                    ..Default::default()
                }),
                None => marks.push(DeleteMarkerEntry {
                    key: Some(key.clone()),
                    version_id: Some(version.clone()),
                    is_latest: Some(*latest),
                    last_modified: Some(time(*at)),
                    ..Default::default()
                }),
            }
        }
        Ok(S3Response::new(ListObjectVersionsOutput {
            is_truncated: Some(more),
            next_key_marker: last.map(|last| last.0.clone()),
            next_version_id_marker: last.map(|last| last.1.clone()),
            versions: Some(versions),
            delete_markers: Some(marks),
            ..Default::default()
        }))
    }

    async fn create_multipart_upload(
        &self,
        req: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        let input = req.input;
        let id = format!("upload-{}.{:0100}", self.0.name(), 7);
        let checksums = input.checksum_algorithm.is_some();
        let upload = Upload { initiated: SystemTime::now(), checksums, parts: BTreeMap::new() };
        self.kept().uploads.insert((input.key.clone(), id.clone()), upload);
        Ok(S3Response::new(CreateMultipartUploadOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            upload_id: Some(id),
            ..Default::default()
        }))
    }

    async fn upload_part(&self, req: S3Request<UploadPartInput>) -> S3Result<S3Response<UploadPartOutput>> {
        let input = req.input;
        let name = (input.key, input.upload_id);
        let Taken { blob, etag, crc32c, crc64nvme, .. } = self.0.take(input.body, false).await?;
        let checksum = verify(input.checksum_crc32c.as_ref(), &crc32c.to_be_bytes())?;
        if !(1..=10_000).contains(&input.part_number) {
            return Err(s3_error!(InvalidArgument));
        }
        let mut kept = self.kept();
        let upload = kept.uploads.get_mut(&name).ok_or_else(|| s3_error!(NoSuchUpload))?;
        let part = Part1 { etag: etag.clone(), checksum, crc32c, crc64nvme, blob, modified: SystemTime::now() };
        upload.parts.insert(input.part_number, part);
        Ok(S3Response::new(UploadPartOutput { e_tag: Some(ETag::Strong(etag)), ..Default::default() }))
    }

    async fn list_parts(&self, req: S3Request<ListPartsInput>) -> S3Result<S3Response<ListPartsOutput>> {
        let input = req.input;
        let after = input.part_number_marker.unwrap_or(0);
        let kept = self.kept();
        let upload = kept.uploads.get(&(input.key, input.upload_id)).ok_or_else(|| s3_error!(NoSuchUpload))?;
        let mut found = upload.parts.range(after + 1..);
        let parts: Vec<_> = found
            .by_ref()
            .take(PAGE)
            .map(|(number_, part)| Part {
                part_number: Some(*number_),
                size: Some(number(part.blob.length)),
                e_tag: Some(ETag::Strong(part.etag.clone())),
                last_modified: Some(time(part.modified)),
                checksum_crc32c: part.checksum.clone().filter(|_| upload.checksums),
                ..Default::default()
            })
            .collect();
        let more = found.next().is_some();
        let next = parts.last().and_then(|last| last.part_number).filter(|_| more);
        Ok(S3Response::new(ListPartsOutput {
            is_truncated: Some(more),
            next_part_number_marker: next,
            parts: Some(parts),
            ..Default::default()
        }))
    }

    async fn list_multipart_uploads(
        &self,
        req: S3Request<ListMultipartUploadsInput>,
    ) -> S3Result<S3Response<ListMultipartUploadsOutput>> {
        let input = req.input;
        let prefix = input.prefix.unwrap_or_default();
        let after = (input.key_marker.unwrap_or_default(), input.upload_id_marker.unwrap_or_default());
        let kept = self.kept();
        let mut found = kept.uploads.iter().filter(|(name, _)| name.0.starts_with(&prefix) && **name > after);
        let uploads: Vec<_> = found
            .by_ref()
            .take(PAGE)
            .map(|((key, id), upload)| MultipartUpload {
                key: Some(key.clone()),
                upload_id: Some(id.clone()),
                initiated: Some(time(upload.initiated)),
                ..Default::default()
            })
            .collect();
        let more = found.next().is_some();
        Ok(S3Response::new(ListMultipartUploadsOutput {
            is_truncated: Some(more),
            uploads: Some(uploads),
            ..Default::default()
        }))
    }

    async fn complete_multipart_upload(
        &self,
        req: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        let input = req.input;
        let name = (input.key.clone(), input.upload_id);
        let (ways, version) = (self.0.ways(), self.0.version());
        let mut kept = self.kept();
        let upload = kept.uploads.get(&name).ok_or_else(|| s3_error!(NoSuchUpload))?;
        if ways.conditions && input.if_none_match.is_some_and(|c| c.is_any()) && kept.objects.contains_key(&input.key) {
            return Err(s3_error!(PreconditionFailed));
        }
        let listed = input.multipart_upload.and_then(|m| m.parts).unwrap_or_default();
        let mut blobs: Vec<Arc<Blob>> = Vec::new();
        let (mut crc32c, mut crc64nvme) = (0, 0);
        let mut before = 0;
        for part in listed {
            let number = part.part_number.ok_or_else(|| s3_error!(MalformedXML))?;
            if number <= before {
                return Err(s3_error!(InvalidPartOrder));
            }
            before = number;
            let stored = upload.parts.get(&number).ok_or_else(|| s3_error!(InvalidPart))?;
            if part.e_tag.as_ref().map(ETag::value) != Some(stored.etag.as_str()) {
                return Err(s3_error!(InvalidPart));
            }
            // An upload that was begun with checksums wants them here too.
            if upload.checksums && part.checksum_crc32c != stored.checksum {
                return Err(s3_error!(InvalidRequest, "a part's checksum is missing"));
            }
            if blobs.last().is_some_and(|last| last.length < PART_BYTES) {
                return Err(S3ErrorCode::EntityTooSmall.into());
            }
            let length = stored.blob.length;
            crc64nvme = crc_fast::checksum_combine(CrcAlgorithm::Crc64Nvme, crc64nvme, stored.crc64nvme, length);
            crc32c = crc_fast::checksum_combine(CrcAlgorithm::Crc32Iscsi, crc32c, stored.crc32c.into(), length);
            blobs.push(Arc::clone(&stored.blob));
        }
        if blobs.is_empty() {
            return Err(s3_error!(MalformedXML));
        }
        let etag = format!("{:032x}-{}", self.0.name(), blobs.len());
        // An upload that was begun with another checksum has that one, of its parts alone.
        let plain = !upload.checksums;
        kept.uploads.remove(&name);
        let object = Object {
            etag: etag.clone(),
            blobs,
            modified: SystemTime::now(),
            version: version.clone(),
            crc32c: self.0.google.is_some().then(|| encoded(&u32::try_from(crc32c).unwrap().to_be_bytes())),
            md5: None,
            crc64nvme: plain.then(|| encoded(&crc64nvme.to_be_bytes())),
            sha256: None,
        };
        kept.put(input.key.clone(), object, ways.versions);
        Ok(S3Response::new(CompleteMultipartUploadOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            e_tag: Some(ETag::Strong(etag)),
            version_id: version,
            ..Default::default()
        }))
    }

    async fn abort_multipart_upload(
        &self,
        req: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        let name = (req.input.key, req.input.upload_id);
        self.kept().uploads.remove(&name).ok_or_else(|| s3_error!(NoSuchUpload))?;
        Ok(S3Response::new(AbortMultipartUploadOutput::default()))
    }
}
