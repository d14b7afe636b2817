//! What the client says: results on standard output, everything else on standard error, progress on a terminal only.

use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::Value;

/// Where it is said.
#[derive(Clone, Debug)]
pub(super) struct Terminal {
    pub(super) json: bool,
    bar: Arc<Mutex<Option<ProgressBar>>>,
}

impl Terminal {
    pub(super) fn new(json: bool) -> Self {
        Self { json, bar: Arc::default() }
    }

    /// A result. False when nobody reads any more.
    pub(super) fn out(&self, line: impl std::fmt::Display) -> bool {
        self.aside(|| writeln!(std::io::stdout(), "{line}").is_ok())
    }

    /// Something that a person may want to know.
    pub(super) fn say(&self, line: impl std::fmt::Display) {
        self.aside(|| eprintln!("landfall: {line}"));
    }

    /// The end of one file's way: a result, or why there is none.
    pub(super) fn failed(&self, file: &str, error: &dyn std::error::Error) {
        self.say(format_args!("{file}: {error}"));
        if self.json {
            self.out(serde_json::json!({"file": file, "error": error.to_string()}));
        }
    }

    fn aside<T>(&self, work: impl FnOnce() -> T) -> T {
        let bar = self.bar.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match bar {
            Some(bar) => bar.suspend(work),
            None => work(),
        }
    }

    /// Begins a bar, in the place of the one before. Where no terminal is, or JSON is wanted, nothing is drawn.
    pub(super) fn progress(&self, what: &str, total: u64) -> Progress {
        let target = if self.json { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let bar = ProgressBar::with_draw_target(Some(total), target);
        let form = "{msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec}, {eta} left";
        if let Ok(style) = ProgressStyle::with_template(form) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_message(plain(what));
        *self.bar.lock().unwrap_or_else(PoisonError::into_inner) = Some(bar.clone());
        Progress { bar, of: Arc::clone(&self.bar) }
    }
}

/// A bar; it goes when it is dropped.
#[derive(Debug)]
pub(super) struct Progress {
    bar: ProgressBar,
    of: Arc<Mutex<Option<ProgressBar>>>,
}

impl Progress {
    /// So far.
    pub(super) fn at(&self, position: u64) {
        self.bar.set_position(position);
    }

    /// A handle for those who move it on.
    pub(super) fn mover(&self) -> impl Fn(u64) + Send + Sync + 'static {
        let bar = self.bar.clone();
        move |bytes| bar.inc(bytes)
    }

    /// So much of it was in vain.
    pub(super) fn back(&self, bytes: u64) {
        self.bar.dec(bytes);
    }

    /// What was there before counts as done, but not for the rate.
    pub(super) fn goes_on_at(&self, position: u64) {
        self.bar.set_position(position);
        self.bar.reset_eta();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
        *self.of.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// A text that can't move the cursor.
pub(super) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// A number of bytes for people.
pub(super) fn size(bytes: u64) -> String {
    indicatif::BinaryBytes(bytes).to_string()
}

/// A text of a JSON answer; empty where there is none.
pub(super) fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_default()
}
