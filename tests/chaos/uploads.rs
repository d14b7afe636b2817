//! Uploads of every strategy, and what each of them may believe.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::client::{Ask, BODY, Checked, Reply, Trouble, Web};
use crate::storm::Rng;
use crate::world::World;

const GRANULE: u64 = 256 * 1024;
const UPLOADS: &str = "/landfall/v1/uploads";
const FILES: &str = "/landfall/v1/files";
/// What an upload of a vendor's sessions begins with.
const SESSIONS: &str = "/aitronos/v1/organizations/default/files";
const CATALOGUE: &str = "/cognite/api/v1/projects/default/files";
const CONTAINERS: &str = "/push/v1/organizations/default/files";
const SOURCE: &str = "default-files";
/// Bytes of a run of a minute, and of any: what is deleted stays for an hour.
const ROOM: u128 = 3_000_000_000;
const MOST_ROOM: u128 = 4 * ROOM;
/// A download is long, and whole or nothing.
const DOWNLOAD: Duration = Duration::from_secs(4);

const STRATEGIES: [&str; 3] = ["single", "resumable", "multipart"];

/// A file that must be there at the end.
#[derive(Clone, Debug)]
enum Kept {
    File(String),
    /// An item, by its document and by the push that made it.
    Item(String, String),
}

/// All clients, and what is common to them.
pub struct Desk {
    web: Web,
    seed: u64,
    began: Instant,
    length: Duration,
    closed: AtomicBool,
    next: AtomicU64,
    kept: Mutex<Vec<(Kept, u64, String)>>,
    broken: Mutex<Vec<String>>,
    uploads: [AtomicU64; 3],
    aborted: AtomicU64,
    bytes: AtomicU64,
}

/// What a file is made of: the same for the same seed.
fn content(seed: u64, size: u64) -> Bytes {
    let mut rng = Rng::new(seed);
    let mut bytes = Vec::with_capacity(size as usize + 8);
    while (bytes.len() as u64) < size {
        bytes.extend_from_slice(&rng.next().to_le_bytes());
    }
    bytes.truncate(size as usize);
    bytes.into()
}

fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

fn text(json: &Value, name: &str) -> Checked<String> {
    json[name].as_str().map(str::to_owned).ok_or_else(|| format!("no `{name}` in {json}"))
}

/// How far an answer on a session's URL says that the upload is. None when it is complete.
fn told(reply: &Reply) -> Checked<Option<u64>> {
    match (reply.status, reply.header("range")) {
        (308, None) => Ok(Some(0)),
        (308, Some(range)) => {
            let last = range.strip_prefix("bytes=0-").and_then(|last| last.parse::<u64>().ok());
            last.map(|last| Some(last + 1)).ok_or_else(|| format!("a range that can't be: {range}"))
        }
        (200 | 201, _) => Ok(None),
        _ => Err(format!("an answer on a session's URL: {}", reply.text())),
    }
}

impl Desk {
    pub fn new(web: Web, seed: u64, length: Duration) -> Self {
        Self {
            web,
            seed,
            began: Instant::now(),
            length,
            closed: AtomicBool::new(false),
            next: AtomicU64::new(1),
            kept: Mutex::default(),
            broken: Mutex::default(),
            uploads: Default::default(),
            aborted: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        }
    }

    pub fn broken(&self, sentence: String) {
        self.broken.lock().unwrap_or_else(PoisonError::into_inner).push(sentence);
    }

    pub fn has_broken(&self) -> bool {
        !self.broken.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    pub fn what_broke(&self) -> Vec<String> {
        self.broken.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// No further upload begins.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }

    /// One client: an upload after the other.
    pub async fn work(&self, mut rng: Rng) {
        while !self.closed.load(Ordering::Relaxed) && !self.has_broken() {
            let strategy = rng.within(0, 3) as usize;
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let done = match (strategy, rng.within(0, 3)) {
                (0, 0) => self.container(&mut rng, number).await,
                (0, _) => self.single(&mut rng, number).await,
                (1, 0) => self.session(&mut rng, number).await,
                (1, _) => self.resumable(&mut rng, number).await,
                (_, 0) => self.catalogue_parts(&mut rng, number).await,
                (_, _) => self.parts(&mut rng, number).await,
            };
            match done {
                Ok(()) => {
                    self.uploads[strategy].fetch_add(1, Ordering::Relaxed);
                }
                Err(sentence) => self.broken(format!("upload {number} ({}): {sentence}", STRATEGIES[strategy])),
            }
            tokio::time::sleep(rng.millis(0, 60)).await;
            while self.is_ahead() && !self.closed.load(Ordering::Relaxed) {
                tokio::time::sleep(rng.millis(20, 60)).await;
            }
        }
    }

    fn is_ahead(&self) -> bool {
        let length = self.length.as_millis().max(1);
        let room = (ROOM * length / 60_000).clamp(ROOM, MOST_ROOM);
        let share = room * self.began.elapsed().as_millis() / length;
        u128::from(self.bytes.load(Ordering::Relaxed)) > share + ROOM / 10
    }

    fn content(&self, number: u64, size: u64) -> (Bytes, String) {
        let content = content(self.seed ^ number.wrapping_mul(0xD129_0B26), size);
        let digest = sha256(&content);
        (content, digest)
    }

    async fn call(&self, what: &str, ask: &Ask, wanted: &[u16]) -> Checked<Reply> {
        self.web.insist(ask).await?.expect(what, wanted)
    }

    /// Opens an upload of our own API. Repeated, it is the same upload.
    async fn open(&self, number: u64, ask: &Value) -> Checked<Value> {
        let mark = format!("{}-{number}", self.seed);
        let ask = self.web.ask("POST", UPLOADS).header("Idempotency-Key", mark).json(ask);
        self.call("an upload is opened", &ask, &[201]).await?.json()
    }

    // ------------------------------------------------------------------------------------------------------- strategies

    /// One PUT of our own API.
    async fn single(&self, rng: &mut Rng, number: u64) -> Checked<()> {
        let (bytes, digest) = self.content(number, rng.within(1, 1_500_000));
        let name = format!("single-{number}");
        let ask = json!({ "name": name, "size": bytes.len(), "strategy": "single", "digests": { "sha256": digest } });
        let upload = self.open(number, &ask).await?;
        let url = text(&upload, "url")?;
        let mut put = Ask::new("PUT", url);
        for (name, value) in upload["required_headers"].as_object().into_iter().flatten() {
            // The names are few and known to the client.
            let known = ["Content-Type", "content-type"].into_iter().find(|known| *known == name);
            let name = known.ok_or_else(|| format!("a header that no client knows: {upload}"))?;
            put = put.header(name, value.as_str().unwrap_or_default());
        }
        let first = self.put(&put, &bytes, rng, "a PUT").await?;
        if rng.chance(25) {
            let again = self.put(&put, &bytes, rng, "a repeated PUT").await?;
            if again.header("etag") != first.header("etag") {
                return Err(format!("a repeated PUT: {first:?}, then {again:?}"));
            }
        }
        self.received(&bytes);
        self.committed(rng, &upload, &bytes, &digest).await
    }

    /// Sends a whole body until it is taken.
    async fn put(&self, put: &Ask, bytes: &Bytes, rng: &mut Rng, what: &str) -> Checked<Reply> {
        let mut trouble = Trouble::default();
        loop {
            let pace = rng.chance(60).then(|| Rng::new(rng.next()));
            match self.web.send(put.clone().bytes(bytes.clone(), pace)).await {
                Ok(reply) => {
                    let reply = reply.expect(what, &[200])?;
                    self.web.accepted(&mut trouble);
                    return Ok(reply);
                }
                Err(how) => self.web.rest(&mut trouble, what, how).await?,
            }
        }
    }

    /// A container, its PUT, and the push of an item.
    async fn container(&self, rng: &mut Rng, number: u64) -> Checked<()> {
        let (bytes, digest) = self.content(number, rng.within(1, 600_000));
        let authorization = format!("Bearer {}", self.web.key());
        let ask = |method, path: &str| {
            Ask::new(method, self.web.url(path)).header("Authorization", authorization.clone()).json(&json!({}))
        };
        let made = self.call("a container", &ask("POST", CONTAINERS), &[201]).await?.json()?;
        let put = Ask::new("PUT", text(&made, "uploadUri")?)
            .header("x-amz-server-side-encryption", "AES256")
            .header("Content-Type", "application/octet-stream");
        self.put(&put, &bytes, rng, "a PUT to a container").await?;
        let document = format!("chaos://{}/{number}", self.seed);
        let encoded = percent_encoding::utf8_percent_encode(&document, percent_encoding::NON_ALPHANUMERIC).to_string();
        let path = format!(
            "/push/v1/organizations/default/sources/{SOURCE}/documents?documentId={encoded}&compressionType=UNCOMPRESSED"
        );
        let item = json!({ "fileExtension": ".bin", "compressedBinaryDataFileId": text(&made, "fileId")? });
        let push = Ask::new("PUT", self.web.url(&path)).header("Authorization", authorization.clone()).json(&item);
        let first = self.call("a push", &push, &[202]).await?.json()?;
        if rng.chance(25) {
            let again = self.call("a repeated push", &push, &[202]).await?.json()?;
            if again != first {
                return Err(format!("a repeated push: {first}, then {again}"));
            }
        }
        self.received(&bytes);
        self.keep(Kept::Item(encoded, text(&first, "requestId")?), &bytes, digest);
        Ok(())
    }

    /// A resumable upload of our own API.
    async fn resumable(&self, rng: &mut Rng, number: u64) -> Checked<()> {
        // Some are long enough for parts of an object.
        let size = if rng.chance(20) { rng.within(9_000_000, 22_000_000) } else { rng.within(1, 4_000_000) };
        let (bytes, digest) = self.content(number, size);
        let name = format!("resumable-{number}");
        let mut ask = json!({ "name": name, "size": size, "strategy": "resumable" });
        if rng.chance(50) {
            ask["digests"] = json!({ "sha256": digest });
        }
        let upload = self.open(number, &ask).await?;
        let url = text(&upload, "url")?;
        if rng.chance(6) {
            self.chunks(rng, &url, &bytes, Some(size / 2)).await?;
            let path = format!("{UPLOADS}/{}", text(&upload, "id")?);
            self.call("an upload is cancelled", &self.web.ask("DELETE", &path), &[204, 404, 409, 410]).await?;
            self.aborted.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        }
        self.chunks(rng, &url, &bytes, None).await?;
        self.received(&bytes);
        self.committed(rng, &upload, &bytes, &digest).await
    }

    /// Sends chunks until all are there, or so many bytes. What was told is never taken back.
    async fn chunks(&self, rng: &mut Rng, url: &str, bytes: &Bytes, enough: Option<u64>) -> Checked<()> {
        let size = bytes.len() as u64;
        let mut trouble = Trouble::default();
        let mut known = 0;
        // Does this client know where to go on?
        let mut sure = true;
        loop {
            if enough.is_some_and(|enough| known >= enough) {
                return Ok(());
            }
            let ask = Ask::new("PUT", url);
            let ask = if sure {
                let to = size.min(known + rng.within(1, 9) * GRANULE);
                let range = format!("bytes {known}-{}/{size}", to - 1);
                let pace = rng.chance(70).then(|| Rng::new(rng.next()));
                ask.header("Content-Range", range).bytes(bytes.slice(known as usize..to as usize), pace)
            } else {
                ask.header("Content-Range", format!("bytes */{size}"))
            };
            let reply = match self.web.send(ask).await {
                Ok(reply) => reply,
                Err(how) => {
                    sure = false;
                    self.web.rest(&mut trouble, "a session", how).await?;
                    continue;
                }
            };
            match told(&reply)? {
                None => {
                    self.web.accepted(&mut trouble);
                    return Ok(());
                }
                Some(now) if now < known => return Err(format!("told {now} after {known}")),
                Some(now) if now > size => return Err(format!("told {now} of {size}")),
                Some(now) => {
                    if now > known {
                        self.web.accepted(&mut trouble);
                    }
                    known = now;
                    sure = true;
                }
            }
        }
    }

    /// A vendor's resumable session, and the registration of its file.
    async fn session(&self, rng: &mut Rng, number: u64) -> Checked<()> {
        let (bytes, digest) = self.content(number, rng.within(1, 5_000_000));
        let ask = json!({ "filename": format!("session-{number}"), "file_size": bytes.len(), "mime_type": "application/octet-stream" });
        let open = self.web.ask("POST", &format!("{SESSIONS}/upload-url")).json(&ask);
        let opened = self.call("a session", &open, &[200]).await?.json()?;
        self.chunks(rng, &text(&opened, "upload_url")?, &bytes, None).await?;
        let mut ask = ask;
        ask["gcs_path"] = opened["gcs_path"].clone();
        let register = self.web.ask("POST", SESSIONS).json(&ask);
        let first = self.call("a registration", &register, &[200, 201]).await?.json()?;
        let again = self.call("a repeated registration", &register, &[200, 201]).await?.json()?;
        if first["file_id"] != again["file_id"] || first["file_size"] != json!(bytes.len()) {
            return Err(format!("a repeated registration: {first}, then {again}"));
        }
        self.received(&bytes);
        self.look_and_keep(rng, text(&opened, "file_id")?, &bytes, digest).await
    }

    /// Parts of our own API, two at once.
    async fn parts(&self, rng: &mut Rng, number: u64) -> Checked<()> {
        let count = rng.within(2, 7);
        let size = count * rng.within(50_000, 900_000);
        let (bytes, digest) = self.content(number, size);
        let ask = json!({ "name": format!("parts-{number}"), "size": size, "strategy": "multipart", "parts": count });
        let upload = self.open(number, &ask).await?;
        let urls: Vec<String> =
            upload["part_urls"].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
        if urls.len() as u64 != count {
            return Err(format!("{} URLs for {count} parts: {upload}", urls.len()));
        }
        let step = size.div_ceil(count) as usize;
        let path = format!("{UPLOADS}/{}", text(&upload, "id")?);
        let acknowledged = Mutex::new(BTreeSet::new());
        let jobs: Vec<(usize, Rng)> = {
            let mut order: Vec<usize> = (0..urls.len()).collect();
            for at in (1..order.len()).rev() {
                order.swap(at, rng.within(0, at as u64 + 1) as usize);
            }
            order.into_iter().map(|part| (part, Rng::new(rng.next()))).collect()
        };
        let sent = futures_util::stream::iter(jobs).map(|(part, mut rng)| {
            let put = Ask::new("PUT", urls[part].clone());
            let right = bytes.slice((part * step).min(bytes.len())..((part + 1) * step).min(bytes.len()));
            let (acknowledged, path) = (&acknowledged, &path);
            async move {
                self.put(&put, &right, &mut rng, "a part").await?;
                acknowledged.lock().unwrap_or_else(PoisonError::into_inner).insert(part as u64 + 1);
                if rng.chance(30) {
                    let before: BTreeSet<u64> = acknowledged.lock().unwrap_or_else(PoisonError::into_inner).clone();
                    let seen = self.call("an upload", &self.web.ask("GET", path), &[200]).await?.json()?;
                    let missing: BTreeSet<u64> =
                        seen["missing_parts"].as_array().into_iter().flatten().filter_map(Value::as_u64).collect();
                    if let Some(lost) = missing.intersection(&before).next() {
                        return Err(format!("the acknowledged part {lost} is missing: {seen}"));
                    }
                }
                Ok(())
            }
        });
        let sent: Vec<Checked<()>> = sent.buffer_unordered(2).collect().await;
        sent.into_iter().collect::<Checked<()>>()?;
        self.received(&bytes);
        self.committed(rng, &upload, &bytes, &digest).await
    }

    /// Parts of a catalogue's file.
    async fn catalogue_parts(&self, rng: &mut Rng, number: u64) -> Checked<()> {
        // No part but the last may be shorter.
        const PART: u64 = 5 * 1024 * 1024;
        let (bytes, digest) = self.content(number, PART + rng.within(1, 700_000));
        let ask = json!({ "name": format!("catalogue-{number}") });
        let path = format!("{CATALOGUE}/initmultipartupload?parts=2");
        let made = self.call("parts", &self.catalogue("POST", &path).json(&ask), &[200, 201]).await?.json()?;
        for (part, url) in made["uploadUrls"].as_array().into_iter().flatten().enumerate() {
            let from = part * PART as usize;
            let part = bytes.slice(from..bytes.len().min(from + PART as usize));
            let put = Ask::new("PUT", url.as_str().unwrap_or_default());
            self.put(&put, &part, rng, "a catalogue's part").await?;
        }
        let complete = json!({ "id": made["id"], "uploadId": made["uploadId"] });
        let complete =
            self.catalogue("POST", &format!("{CATALOGUE}/completemultipartupload")).json(&complete).patient(BODY);
        for what in ["parts are completed", "parts are completed again"] {
            self.call(what, &complete, &[200]).await?;
        }
        self.received(&bytes);
        let one = json!({ "items": [{ "id": made["id"] }] });
        let ask = self.catalogue("POST", &format!("{CATALOGUE}/downloadlink")).json(&one);
        let links = self.call("a link", &ask, &[200]).await?.json()?;
        let link = links["items"][0]["downloadUrl"].as_str().ok_or_else(|| format!("no link: {links}"))?.to_owned();
        self.compare(&Ask::new("GET", link).patient(DOWNLOAD), bytes.len() as u64, &digest).await?;
        // The catalogue has its own way to delete; by other tenants' means the bytes are one of the tenant's files.
        let ask = self.catalogue("POST", &format!("{CATALOGUE}/delete")).json(&one);
        self.call("a catalogue's file is deleted", &ask, &[200, 400]).await?;
        Ok(())
    }

    fn catalogue(&self, method: &'static str, path: &str) -> Ask {
        Ask::new(method, self.web.url(path)).header("Authorization", format!("Bearer {}", self.web.key()))
    }

    // ---------------------------------------------------------------------------------------------------- what must hold

    fn received(&self, bytes: &Bytes) {
        self.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
    }

    fn keep(&self, kept: Kept, bytes: &Bytes, digest: String) {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).push((kept, bytes.len() as u64, digest));
    }

    /// An upload of our own API of which every byte was acknowledged: its receipt is always the same, and its file has
    /// exactly its bytes.
    async fn committed(&self, rng: &mut Rng, upload: &Value, bytes: &Bytes, digest: &str) -> Checked<()> {
        let path = format!("{UPLOADS}/{}/commit", text(upload, "id")?);
        let commit = self.web.ask("POST", &path).json(&json!({})).patient(BODY);
        let receipt = self.call("a commit", &commit, &[200]).await?.json()?;
        if receipt["size"] != json!(bytes.len()) || receipt["file_id"] != upload["file_id"] {
            return Err(format!("a receipt for {} bytes: {receipt}", bytes.len()));
        }
        for _ in 0..2 {
            let again = self.call("a repeated commit", &commit, &[200]).await?.json()?;
            if again != receipt {
                return Err(format!("a repeated commit: {receipt}, then {again}"));
            }
        }
        self.look_and_keep(rng, text(upload, "file_id")?, bytes, digest.to_owned()).await
    }

    async fn compare(&self, ask: &Ask, size: u64, digest: &str) -> Checked<()> {
        let reply = self.call("a download", ask, &[200]).await?;
        let found = sha256(&reply.body);
        if found == digest {
            return Ok(());
        }
        Err(format!("{ask:?} has {} bytes with {found}, and should have {size} with {digest}", reply.body.len()))
    }

    fn content_of(&self, file: &str) -> Ask {
        self.web.ask("GET", &format!("{FILES}/{file}/content")).patient(DOWNLOAD)
    }

    /// Downloads a file. Then most are deleted, so that the disk of a long run suffices, and others looked at in the end.
    async fn look_and_keep(&self, rng: &mut Rng, file: String, bytes: &Bytes, digest: String) -> Checked<()> {
        self.compare(&self.content_of(&file), bytes.len() as u64, &digest).await?;
        if rng.chance(70) {
            let ask = self.web.ask("DELETE", &format!("{FILES}/{file}"));
            // Repeated after an answer that was lost, there is none any more.
            self.call("a file is deleted", &ask, &[204, 404]).await?;
            return self.call("a deleted file", &self.content_of(&file), &[404]).await.map(drop);
        }
        self.keep(Kept::File(file), bytes, digest);
        Ok(())
    }

    /// After the storm: everything that was kept is there, and what nobody knows of any more is ended.
    pub async fn look_at_everything(&self) {
        if let Err(sentence) = self.looked().await {
            self.broken(format!("after the storm: {sentence}"));
        }
    }

    async fn looked(&self) -> Checked<()> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for (kept, size, digest) in &kept {
            match kept {
                Kept::File(file) => self.compare(&self.content_of(file), *size, digest).await?,
                Kept::Item(document, push) => {
                    let ask = self.web.ask("GET", &format!("/landfall/v1/pushes/{push}"));
                    let mut tries = 0;
                    loop {
                        let seen = self.call("a push", &ask, &[200]).await?.json()?;
                        match seen["state"].as_str() {
                            Some("done") => break,
                            Some("queued" | "working") if tries < 600 => tries += 1,
                            _ => return Err(format!("a push does not end: {seen}")),
                        }
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                    let path = format!("/landfall/v1/sources/{SOURCE}/item/content?document_id={document}");
                    self.compare(&self.web.ask("GET", &path).patient(DOWNLOAD), *size, digest).await?;
                }
            }
        }
        // Those whose opening was answered to nobody.
        loop {
            let ask = self.web.ask("GET", &format!("{UPLOADS}?state=open&limit=500"));
            let open = self.call("open uploads", &ask, &[200]).await?.json()?;
            let open: Vec<&str> =
                open["items"].as_array().into_iter().flatten().filter_map(|u| u["id"].as_str()).collect();
            if open.is_empty() {
                break;
            }
            for id in open {
                let ask = self.web.ask("DELETE", &format!("{UPLOADS}/{id}"));
                self.call("an upload is ended", &ask, &[204, 404, 409, 410]).await?;
                self.aborted.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    pub fn figures(&self, world: &World) -> Figures {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Figures {
            storm: world.storm.to_string(),
            harmed: world.store.harms().harmed(),
            uploads: self.uploads.each_ref().map(of),
            aborted: of(&self.aborted),
            bytes: of(&self.bytes),
            resumes: self.web.resumes(),
            refusals: self.web.refusals(),
        }
    }
}

/// What came of it.
#[derive(Debug)]
pub struct Figures {
    storm: String,
    harmed: u64,
    uploads: [u64; 3],
    aborted: u64,
    bytes: u64,
    resumes: Vec<(Duration, String)>,
    refusals: String,
}

impl Figures {
    pub fn uploads(&self) -> u64 {
        self.uploads.iter().sum()
    }

    /// Calls to the bucket that were harmed.
    pub fn harmed(&self) -> u64 {
        self.harmed
    }

    /// At least so many of a hundred resumes took at most this.
    fn percentile(&self, percent: usize) -> Duration {
        let rank = (self.resumes.len() * percent / 100).max(1);
        self.resumes.get(rank - 1).map(|(took, _)| *took).unwrap_or_default()
    }

    /// Whether more than one of a hundred took that long. A short run has too few to know its hundredth: two are excused.
    pub fn too_slow(&self, most: Duration) -> Option<String> {
        let slow: Vec<String> = self
            .resumes
            .iter()
            .filter(|(took, _)| *took >= most)
            .map(|(took, what)| format!("{took:.2?}: {what}"))
            .collect();
        (slow.len() > (self.resumes.len() / 100).max(2)).then(|| {
            format!("{} of {} resumes took {most:?} or longer: {}", slow.len(), self.resumes.len(), slow.join("; "))
        })
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "chaos: {}; {} calls to the bucket harmed", self.storm, self.harmed)?;
        let strategies: Vec<String> =
            STRATEGIES.iter().zip(self.uploads).map(|(name, count)| format!("{count} {name}")).collect();
        writeln!(
            f,
            "chaos: uploads: {}, {} ended; {} MB acknowledged",
            strategies.join(", "),
            self.aborted,
            self.bytes / 1_000_000
        )?;
        let (p50, p99) = (self.percentile(50), self.percentile(99));
        let worst = self.resumes.last().map(|(took, what)| format!("{took:.2?} ({what})")).unwrap_or_default();
        writeln!(f, "chaos: {} resumes: p50 {p50:.2?}, p99 {p99:.2?}, worst {worst}", self.resumes.len())?;
        write!(f, "chaos: calls without an answer: {}", self.refusals)
    }
}
