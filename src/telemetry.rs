//! Log lines and metrics. What is secret (queries, keys, tokens) never gets here: callers log paths, ids and counts.

use std::borrow::Cow;
use std::sync::{Mutex, OnceLock, PoisonError};

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;

/// Why logging or metrics can't begin.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter is not one.
    #[error("the log filter `{filter}` is not valid: {error}")]
    Filter {
        /// What was given.
        filter: String,
        /// What is wrong with it.
        error: tracing_subscriber::filter::ParseError,
    },
    /// The metrics can't be collected.
    #[error("metrics can't be collected: {0}")]
    Metrics(String),
}

/// Starts writing log lines to standard error, as JSON or as text. A second call changes nothing.
///
/// # Errors
/// [`TelemetryError::Filter`].
pub fn init(json: bool, filter: &str) -> Result<(), TelemetryError> {
    let filter =
        EnvFilter::try_new(filter).map_err(|error| TelemetryError::Filter { filter: filter.to_owned(), error })?;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(BoxMakeWriter::new(std::io::stderr))
        .with_ansi(false);
    let subscriber: tracing::Dispatch = if json {
        lines.json().flatten_event(true).with_current_span(true).with_span_list(false).finish().into()
    } else {
        lines.finish().into()
    };
    // It fails only when there is one already.
    let _ = tracing::dispatcher::set_global_default(subscriber);
    Ok(())
}

static RECORDER: OnceLock<PrometheusHandle> = OnceLock::new();

/// Seconds, from a call that touches memory alone to an upload of hours.
const SECONDS: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 600.0];

/// The process's metrics.
#[derive(Clone)]
pub struct Metrics {
    handle: PrometheusHandle,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics")
    }
}

impl Metrics {
    /// Begins to collect. There is one collector in a process; a second call gives the same.
    ///
    /// # Errors
    /// [`TelemetryError::Metrics`] when something else collects already.
    pub fn install() -> Result<Self, TelemetryError> {
        static INSTALLING: Mutex<()> = Mutex::new(());
        let _one = INSTALLING.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(handle) = RECORDER.get() {
            return Ok(Self { handle: handle.clone() });
        }
        let handle = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix(String::from("_seconds")), SECONDS)
            .and_then(PrometheusBuilder::install_recorder)
            .map_err(|error| TelemetryError::Metrics(error.to_string()))?;
        Ok(Self { handle: RECORDER.get_or_init(|| handle).clone() })
    }

    /// The metrics as Prometheus reads them.
    #[must_use]
    pub fn render(&self) -> String {
        self.handle.render()
    }
}

/// Folds collected samples together. Without it they pile up between two readings of the metrics, or for ever.
pub fn upkeep() {
    if let Some(handle) = RECORDER.get() {
        handle.run_upkeep();
    }
}

/// Characters of a path that the log shows.
/// Where the path of a session URL stops being the same for all.
const SESSION_MARK: &str = "/upload/storage/v1/b/";
const PATH_BYTES: usize = 256;
/// How often a path is decoded to look for a key in it: whoever encodes one more often than this means to hide it.
const DECODINGS: usize = 4;

/// A path for the log: without a query, not longer than is useful, and without a key that somebody put into it, as
/// one does who means to revoke it.
#[must_use]
pub fn redact_path(path: &str) -> String {
    let path = path.split(['?', '#']).next().unwrap_or_default();
    // A session URL that a client has encoded wrongly has its secret in its path.
    let path = match path.find(SESSION_MARK) {
        Some(at) => path.get(..at + SESSION_MARK.len()).unwrap_or_default(),
        None => path,
    };
    let shown = |segment| if holds_secret(segment) { "(key)" } else { segment };
    let mut path = path.split('/').map(shown).collect::<Vec<_>>().join("/");
    let mut end = path.len().min(PATH_BYTES);
    while !path.is_char_boundary(end) {
        end -= 1;
    }
    path.truncate(end);
    path
}

/// What the secrets of URLs stand behind in their queries. A client that encodes the `?` sends them in the path.
const QUERY_MARKS: [&str; 3] = ["proof=", "token=", "x-amz-signature="];

/// Is there a key, a bearer token or the secret of a URL in it, as it stands or percent-encoded?
fn holds_secret(segment: &str) -> bool {
    let mut text = Cow::Borrowed(segment);
    for _ in 0..DECODINGS {
        // Where a key ends nobody says: any other character may stand around it.
        if text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != '-').any(is_key) || holds_token(&text) {
            return true;
        }
        let lower = text.to_ascii_lowercase();
        if QUERY_MARKS.iter().any(|mark| lower.contains(mark)) {
            return true;
        }
        match percent_encoding::percent_decode_str(&text).decode_utf8_lossy() {
            decoded if decoded == text => return false,
            decoded => text = Cow::Owned(decoded.into_owned()),
        }
    }
    // Still encoded: nobody can tell what is in it.
    true
}

/// Does it look like a key, whole or cut short, in either case? The form is that of `credential.rs`.
fn is_key(word: &str) -> bool {
    let mut groups = word.split('-');
    let first = groups.next().unwrap_or_default();
    first.len() == 10 && first.get(..2).is_some_and(|mark| mark.eq_ignore_ascii_case("lf")) && groups.next().is_some()
}

/// Does it hold what looks like a signed token: a JSON object's beginning in Base64url, and a dot somewhere behind it?
fn holds_token(text: &str) -> bool {
    text.find("eyJ").and_then(|at| text.get(at..)).is_some_and(|rest| rest.find('.').is_some_and(|dot| dot > 10))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_collector_is_installed_once() {
        let one = Metrics::install().expect("installed");
        let two = Metrics::install().expect("the same");
        metrics::counter!("landfall_test_total").increment(2);
        metrics::histogram!("landfall_test_seconds").record(0.02);
        upkeep();
        for metrics in [one, two] {
            let text = metrics.render();
            assert!(text.contains("landfall_test_total 2"), "{text}");
            assert!(text.contains("landfall_test_seconds_bucket{le=\"0.025\"} 1"), "{text}");
        }
    }

    #[test]
    fn logging_begins_once_and_wants_a_filter() {
        assert!(init(true, "off").is_ok());
        assert!(init(false, "off").is_ok());
        assert!(init(true, "a=b=c").is_err());
    }

    #[test]
    fn a_badly_encoded_session_url_is_not_shown() {
        for path in [
            "/upload/storage/v1/b/landfall/o%3FuploadType=resumable&upload_id=SECRET",
            "/upload/storage/v1/b/landfall/o;upload_id=SECRET",
            "/prefix/upload/storage/v1/b/landfall/o/SECRET",
        ] {
            assert!(!redact_path(path).contains("SECRET"), "{path}");
        }
    }

    #[test]
    fn paths_have_no_query() {
        assert_eq!(redact_path("/a/b?X-Amz-Signature=1"), "/a/b");
        for lost in
            ["1%3Fexpires=1&proof=SECRET", "1xexpires=1&PROOF=SECRET", "1%3Ftoken%3DSECRET", "1%253Fproof%253DSECRET"]
        {
            assert_eq!(redact_path(&format!("/part/x/{lost}")), "/part/x/(key)");
        }
        assert_eq!(redact_path(&"é".repeat(200)).len(), 256);
    }

    #[test]
    fn a_key_in_a_path_is_not_shown() {
        let key = "lf1vxk1dlj-c4mv-q9jw-uib5-pwx5mc3tcyx1";
        assert_eq!(redact_path(&format!("/landfall/v1/keys/{key}")), "/landfall/v1/keys/(key)");
        assert_eq!(redact_path(&format!("/v1/{key}%20/files")), "/v1/(key)/files");
        let encoded: String = key.bytes().map(|b| format!("%{b:02X}")).collect();
        let twice = encoded.replace('%', "%25");
        let dash = key.replace('-', "%2d");
        for hidden in [encoded, twice, dash, format!("a%2F{key}"), format!("id={key};x"), key.to_uppercase()] {
            assert_eq!(redact_path(&format!("/landfall/v1/keys/{hidden}")), "/landfall/v1/keys/(key)");
        }
        let far = format!("/{}/{key}", "x".repeat(250));
        assert!(!redact_path(&far).contains("lf1"), "{}", redact_path(&far));
        for token in
            ["eyJhbGciOiJSUzI1NiJ9.e30.AAAA", "eyJhbGciOiJSUzI1NiJ9%2Ee30%2EAAAA", "x=eyJhbGciOiJSUzI1NiJ9.e30."]
        {
            assert_eq!(redact_path(&format!("/v1/{token}/x")), "/v1/(key)/x");
        }
        assert_eq!(redact_path("/v1/eyJ.json"), "/v1/eyJ.json");
        assert_eq!(redact_path("/v1/lf/lf-files/lfabcdefgh"), "/v1/lf/lf-files/lfabcdefgh");
    }
}
