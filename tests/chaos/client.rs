//! One call, and what a client that wants to end its upload makes of what comes back.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::Value;

use crate::storm::Rng;
use crate::world::World;

/// What a client ends with when something that it was told turns out to be untrue.
pub type Checked<T> = Result<T, String>;

/// Bytes that are sent at a time.
const PIECE: usize = 64 * 1024;
/// How long a client hears nothing, and gets rid of nothing, before it tries elsewhere: for a question, and with a body.
pub const QUESTION: Duration = Duration::from_millis(1_000);
pub const BODY: Duration = Duration::from_millis(2_000);
/// A call that has no answer for so long, while there is somebody to answer, will have none.
const NEVER: Duration = Duration::from_secs(45);

#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    headers: Vec<(String, String)>,
    pub body: Bytes,
}

impl Reply {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> String {
        format!("{} {}", self.status, String::from_utf8_lossy(&self.body[..self.body.len().min(2_000)]))
    }

    pub fn json(&self) -> Checked<Value> {
        serde_json::from_slice(&self.body).map_err(|error| format!("not JSON ({error}): {}", self.text()))
    }

    /// Itself, with this status.
    pub fn expect(self, what: &str, wanted: &[u16]) -> Checked<Self> {
        if wanted.contains(&self.status) { Ok(self) } else { Err(format!("{what}: {}", self.text())) }
    }
}

/// A call to be made.
#[derive(Clone, Debug)]
pub struct Ask {
    method: &'static str,
    url: String,
    headers: Vec<(&'static str, String)>,
    body: Bytes,
    /// Pauses between the pieces of the body, so that something can happen in its middle.
    pace: Option<Rng>,
    patience: Duration,
}

impl Ask {
    pub fn new(method: &'static str, url: impl Into<String>) -> Self {
        let (headers, body) = (Vec::new(), Bytes::new());
        Self { method, url: url.into(), headers, body, pace: None, patience: QUESTION }
    }

    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub fn json(self, body: &Value) -> Self {
        let asked = self.header("Content-Type", "application/json");
        Self { body: body.to_string().into(), ..asked }
    }

    /// With bytes of a file.
    pub fn bytes(self, body: Bytes, pace: Option<Rng>) -> Self {
        Self { body, pace, patience: BODY, ..self }
    }

    pub fn patient(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }
}

/// Time without an accepted byte, since the first call that failed.
#[derive(Debug, Default)]
pub struct Trouble {
    since: Option<Instant>,
    what: String,
    /// How each try ended.
    tries: Vec<String>,
}

/// What all clients have in common.
pub struct Web {
    http: reqwest::Client,
    world: Arc<World>,
    began: Instant,
    counts: Mutex<BTreeMap<String, u64>>,
    /// How long each took, and of what it was.
    resumes: Mutex<Vec<(Duration, String)>>,
}

impl Web {
    pub fn new(world: &Arc<World>) -> Self {
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        Self {
            http,
            world: Arc::clone(world),
            began: Instant::now(),
            counts: Mutex::default(),
            resumes: Mutex::default(),
        }
    }

    /// The address of a path.
    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.world.url())
    }

    pub fn key(&self) -> &str {
        &self.world.key
    }

    /// A call with the key.
    pub fn ask(&self, method: &'static str, path: &str) -> Ask {
        Ask::new(method, self.url(path)).header("X-API-Key", self.world.key.clone())
    }

    fn count(&self, what: impl Into<String>) {
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner).entry(what.into()).or_default() += 1;
    }

    pub fn refusals(&self) -> String {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let shown: Vec<String> = counts.iter().map(|(what, count)| format!("{count} {what}")).collect();
        if shown.is_empty() { "none".into() } else { shown.join(", ") }
    }

    /// Makes a call once. Where nobody knows what became of it: when it was made, and how it ended.
    pub async fn send(&self, ask: Ask) -> Result<Reply, String> {
        let began = Instant::now();
        let failed = |how: String| {
            self.count(how.clone());
            let (at, took) = (began.duration_since(self.began).as_secs_f64(), began.elapsed().as_secs_f64());
            Err(format!("{how} after {took:.2} s at {at:.2} s"))
        };
        let patience = ask.patience;
        let heard = Arc::new(AtomicU64::new(0));
        let hear = move |heard: &AtomicU64| {
            heard.store(u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
        };
        let mut request = self.http.request(ask.method.parse().expect("a method"), &ask.url);
        for (name, value) in &ask.headers {
            request = request.header(*name, value);
        }
        if ask.method != "GET" {
            request = request.header("Content-Length", ask.body.len());
        }
        if !ask.body.is_empty() {
            let (mut body, mut pace, taken) = (ask.body, ask.pace, Arc::clone(&heard));
            let pieces = futures_util::stream::unfold((), move |()| {
                let piece = body.split_to(body.len().min(PIECE));
                let pause = pace.as_mut().map(|rng| rng.millis(0, 4));
                let taken = Arc::clone(&taken);
                async move {
                    if piece.is_empty() {
                        return None;
                    }
                    if let Some(pause) = pause {
                        tokio::time::sleep(pause).await;
                    }
                    hear(&taken);
                    Some((Ok::<_, std::io::Error>(piece), ()))
                }
            });
            request = request.body(reqwest::Body::wrap_stream(pieces));
        } else if ask.method != "GET" {
            request = request.body(Vec::new());
        }
        let answer = async {
            let mut response = request.send().await?;
            let status = response.status().as_u16();
            let text = |v: &http::HeaderValue| String::from_utf8_lossy(v.as_bytes()).into_owned();
            let headers = response.headers().iter().map(|(n, v)| (n.as_str().to_owned(), text(v))).collect();
            let mut body = bytes::BytesMut::new();
            while let Some(piece) = response.chunk().await? {
                hear(&heard);
                body.extend_from_slice(&piece);
            }
            Ok::<_, reqwest::Error>(Reply { status, headers, body: body.freeze() })
        };
        let silence = async {
            loop {
                tokio::time::sleep(Duration::from_millis(25)).await;
                if began.elapsed().saturating_sub(Duration::from_millis(heard.load(Ordering::Relaxed))) > patience {
                    return;
                }
            }
        };
        let answer = tokio::select! {
            answer = answer => answer,
            () = silence => return failed("silent".into()),
        };
        match answer {
            Ok(reply) if matches!(reply.status, 502..=504) => failed(format!("× {}", reply.status)),
            Ok(reply) => Ok(reply),
            Err(error) => failed(if error.is_connect() { "not connected" } else { "cut" }.into()),
        }
    }

    /// Makes a call until somebody answers it.
    pub async fn insist(&self, ask: &Ask) -> Checked<Reply> {
        let mut trouble = Trouble::default();
        loop {
            match self.send(ask.clone()).await {
                Ok(reply) => return Ok(reply),
                Err(how) => self.rest(&mut trouble, &format!("{} {}", ask.method, ask.url), how).await?,
            }
        }
    }

    /// After a call that failed: a short rest before the next.
    pub async fn rest(&self, trouble: &mut Trouble, what: &str, how: String) -> Checked<()> {
        let now = Instant::now();
        let since = *trouble.since.get_or_insert(now);
        trouble.what = what.into();
        trouble.tries.push(how);
        if (now - since).saturating_sub(self.world.nobody_between(since, now)) > NEVER {
            return Err(format!("{what}: no answer for {} s ({})", NEVER.as_secs(), trouble.tries.join(", ")));
        }
        let most = 50u64 << trouble.tries.len().min(3);
        let millis = most / 2 + u64::from(landfall::clock::random_bytes::<1>()[0]) * most / 512;
        tokio::time::sleep(Duration::from_millis(millis)).await;
        Ok(())
    }

    /// Bytes were accepted: whatever trouble there was is over.
    pub fn accepted(&self, trouble: &mut Trouble) {
        if let Trouble { since: Some(since), what, tries } = std::mem::take(trouble) {
            let now = Instant::now();
            let took = (now - since).saturating_sub(self.world.nobody_between(since, now));
            let what = format!("{what}, {} tries ({})", tries.len(), tries.join(", "));
            self.resumes.lock().unwrap_or_else(PoisonError::into_inner).push((took, what));
        }
    }

    /// How long each resume took, the shortest first.
    pub fn resumes(&self) -> Vec<(Duration, String)> {
        let mut resumes = self.resumes.lock().unwrap_or_else(PoisonError::into_inner).clone();
        resumes.sort_unstable();
        resumes
    }
}
