//! Calls to the server, repeated while there is hope.

use std::time::Duration;

use bytes::Bytes;
use http::Method;
use http::header::HeaderName;
use serde_json::Value;

use super::Failed;
use super::terminal::Terminal;
use crate::clock::random_bytes;
use crate::outbound::{Ask, Head, Outbound, OutboundError, Payload};

const BASE: &str = "/landfall/v1";
const FIRST_WAIT: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// The server, and the key for it.
#[derive(Clone, Debug)]
pub(super) struct Remote {
    pub(super) http: Outbound,
    base: String,
    key: String,
    retries: u32,
    terminal: Terminal,
}

/// How often something was tried in vain since it last moved on.
#[derive(Debug)]
pub(super) struct Patience {
    tried: u32,
    retries: u32,
    terminal: Terminal,
}

impl Patience {
    /// It moved on: the next trouble is a new one.
    pub(super) fn renew(&mut self) {
        self.tried = 0;
    }

    /// Says what is waited for, and waits. When there is no more patience, `trouble` is the failure.
    pub(super) async fn wait(&mut self, trouble: &str, asked: Option<Duration>) -> Result<(), Failed> {
        if self.tried >= self.retries {
            return Err(Failed::new(format!("given up after {} tries: {trouble}", self.tried + 1)));
        }
        let wait = backoff(self.tried, u16::from_be_bytes(random_bytes())).max(asked.unwrap_or_default());
        self.tried += 1;
        self.terminal.say(format_args!(
            "{trouble}; trying again in {:.1} seconds ({} of {})",
            wait.as_secs_f64(),
            self.tried,
            self.retries
        ));
        tokio::time::sleep(wait).await;
        Ok(())
    }
}

/// Twice as long each time, and never the same for two clients.
fn backoff(tried: u32, chance: u16) -> Duration {
    let whole = FIRST_WAIT.saturating_mul(1u32.checked_shl(tried).unwrap_or(u32::MAX)).min(LONGEST_WAIT);
    whole / 2 + (whole / 2).mul_f64(f64::from(chance) / f64::from(u16::MAX))
}

/// May a status pass by itself?
pub(super) fn passes(status: u16) -> bool {
    matches!(status, 408 | 429 | 500 | 502 | 503 | 504)
}

/// When the server wants to be asked again.
pub(super) fn retry_after(head: &Head) -> Option<Duration> {
    let seconds: u64 = head.header("retry-after")?.parse().ok()?;
    Some(Duration::from_secs(seconds.min(300)))
}

/// A refusal as a sentence.
pub(super) fn refusal(head: &Head, body: &[u8]) -> Failed {
    let parsed: Value = serde_json::from_slice(body).unwrap_or_default();
    let detail = parsed["detail"].as_str().or(parsed["error"]["message"].as_str());
    let what = match detail {
        Some(detail) => format!("the server says {}: {}", head.status, super::terminal::plain(detail)),
        None => format!("the server says {}", head.status),
    };
    Failed { what, status: Some(head.status) }
}

impl Remote {
    pub(super) fn new(base: &str, key: &str, retries: u32, terminal: Terminal) -> Result<Self, OutboundError> {
        Ok(Self { http: Outbound::new()?, base: base.to_owned(), key: key.to_owned(), retries, terminal })
    }

    pub(super) fn patience(&self) -> Patience {
        Patience { tried: 0, retries: self.retries, terminal: self.terminal.clone() }
    }

    pub(super) fn ask<'a>(&'a self, method: Method, url: &'a str, payload: Payload) -> Ask<'a> {
        Ask { method, url, key: Some(&self.key), headers: Vec::new(), payload }
    }

    /// The URL of a call of the API.
    pub(super) fn url(&self, path: &str) -> String {
        format!("{}{BASE}{path}", self.base)
    }

    /// A call with a JSON answer, repeated until there is one.
    pub(super) async fn json(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        mark: Option<&str>,
    ) -> Result<Value, Failed> {
        let url = self.url(path);
        let mut patience = self.patience();
        loop {
            let payload = body.map_or(Payload::None, |body| Payload::Json(body.to_string()));
            let mut ask = self.ask(method.clone(), &url, payload);
            if let Some(mark) = mark {
                ask.headers.push((HeaderName::from_static("idempotency-key"), mark.to_owned()));
            }
            match self.http.call(ask).await {
                Ok((head, body)) if (200..300).contains(&head.status) => return parsed(&body),
                Ok((head, body)) if passes(head.status) => {
                    patience.wait(&refusal(&head, &body).what, retry_after(&head)).await?;
                }
                Ok((head, body)) => return Err(refusal(&head, &body)),
                Err(error) if error.passing => patience.wait(&error.what, None).await?,
                Err(error) => return Err(Failed::new(error.what)),
            }
        }
    }
}

fn parsed(body: &Bytes) -> Result<Value, Failed> {
    serde_json::from_slice(body)
        .map_err(|_| Failed::new("the server's answer is no JSON: is the URL one of a Landfall server?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_bound_and_differ() {
        let seconds = |tried, chance| backoff(tried, chance).as_secs_f64();
        assert!((seconds(0, 0) - 0.25).abs() < 1e-9 && (seconds(0, u16::MAX) - 0.5).abs() < 1e-9);
        assert!((seconds(3, u16::MAX) - 4.0).abs() < 1e-9);
        for tried in 0..100 {
            assert!(backoff(tried, u16::MAX) <= LONGEST_WAIT && backoff(tried, 0) >= FIRST_WAIT / 2, "{tried}");
        }
    }
}
