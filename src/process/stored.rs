//! A store's file: its text extracted in a child process, split, and indexed. Every step can be repeated.

use std::borrow::Cow;

use super::chunk::{self, Chunks};
use super::extract::{self, ExtractError, Hint, Pool};
use crate::clock::Timestamp;
use crate::engine::Engine;
use crate::faults;
use crate::limits;
use crate::meta::{Began, LeasedJob, Processed};
use crate::model::refusal::Refusal;
use crate::model::store::{LogEntry, LogLevel, ProcessingState, Step, StoreFile};
use crate::unpack::SNIFF_BYTES;
use crate::upload::read::VersionReader;

/// How a try ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Outcome {
    /// It is found now.
    Completed {
        /// How many chunks there are.
        chunks: u64,
        /// What of it is not found.
        note: Option<String>,
    },
    /// It can't be read, for this reason.
    Failed(String),
    /// It may work later.
    Again(String),
    /// Somebody else does it, or nobody has to any more.
    Lost,
}

/// What ends a try early.
enum Stop {
    Ended(Outcome),
    Refused(Refusal),
}

impl<E: Into<Refusal>> From<E> for Stop {
    fn from(error: E) -> Self {
        Self::Refused(error.into())
    }
}

fn fail<T>(reason: impl Into<String>) -> Result<T, Stop> {
    Err(Stop::Ended(Outcome::Failed(reason.into())))
}

/// One try.
pub(super) async fn process(engine: &Engine, pool: &Pool, job: &LeasedJob) -> Result<Outcome, Refusal> {
    let found = engine.meta.store_files_by_row(None, vec![job.subject]).await?;
    let Some(file) = found.into_iter().next() else { return Ok(Outcome::Lost) };
    let ended = match (Work { engine, job, file: &file }).run(pool).await {
        Ok(outcome) | Err(Stop::Ended(outcome)) => outcome,
        Err(Stop::Refused(refusal)) => return Err(refusal),
    };
    if matches!(ended, Outcome::Failed(_)) {
        // Of an earlier time that went well.
        engine.search.remove_chunks(file.row).await?;
    }
    Ok(ended)
}

struct Work<'a> {
    engine: &'a Engine,
    job: &'a LeasedJob,
    file: &'a StoreFile,
}

impl Work<'_> {
    async fn run(&self, pool: &Pool) -> Result<Outcome, Stop> {
        let Self { engine, file, .. } = *self;
        self.begin(Step::Detecting, Vec::new()).await?;
        let Some(version) = engine.meta.version(&file.tenant, file.version).await? else {
            return fail("the stored content is gone: upload the file again");
        };
        let reader = VersionReader::open(engine, &version).await?;
        let extension = file.name.rsplit_once('.').map_or("", |(_, extension)| extension).to_ascii_lowercase();
        let head = head(&reader).await?;
        let look = extract::looks_like(&head, &extension);
        if !look.readable {
            return fail(ExtractError::Unsupported { kind: look.kind.to_owned() }.to_string());
        }
        let size = reader.size();
        self.begin(Step::Extracting, vec![self.info(format!("{size} bytes, which look like {}", look.kind))]).await?;
        let hint = Hint { compression: None, file_extension: Some(extension) };
        let extracted = match pool.extract(Box::pin(reader.stream(0..size)), hint).await {
            Ok(extracted) => extracted,
            Err(error) if error.is_retryable() => return Ok(Outcome::Again(error.to_string())),
            Err(error) => return fail(error.to_string()),
        };
        if extracted.text.trim().is_empty() {
            return fail(format!(
                "the {} content has no text; a scan has none until its letters are recognised",
                extracted.kind
            ));
        }
        let mut log = vec![self.info(format!("{} bytes of text, read as {}", extracted.text.len(), extracted.kind))];
        let mut note = None;
        if extracted.truncated {
            note = Some("the text was cut at its limit; what is beyond is not found".to_owned());
        }
        log.extend(note.iter().map(|note| self.entry(LogLevel::Warning, note.clone())));
        self.begin(Step::Chunking, log).await?;
        // A text of some megabytes takes a while.
        let Chunks { chunks, cut } =
            tokio::task::spawn_blocking(move || chunk::split(&extracted.text)).await.map_err(|_| Refusal::Internal)?;
        let count = u64::try_from(chunks.len()).unwrap_or(u64::MAX);
        let mut log = vec![self.info(format!("{count} chunks"))];
        if cut {
            let most = format!("a file has at most {} chunks; what is beyond is not found", limits::FILE_CHUNKS);
            log.push(self.entry(LogLevel::Warning, most.clone()));
            note = Some(most);
        }
        self.begin(Step::Indexing, log).await?;
        engine.search.put_chunks(file.row, file.store_row, chunks).await?;
        faults::point("store.chunks_written");
        Ok(Outcome::Completed { chunks: count, note })
    }

    async fn begin(&self, step: Step, log: Vec<LogEntry>) -> Result<(), Stop> {
        let began = Began { step, log, now: self.engine.clock.now() };
        if !self.engine.meta.begin_step(self.job, began).await? {
            return Err(Stop::Ended(Outcome::Lost));
        }
        faults::point("store.step");
        Ok(())
    }

    fn info(&self, message: String) -> LogEntry {
        self.entry(LogLevel::Info, message)
    }

    fn entry(&self, level: LogLevel, message: String) -> LogEntry {
        LogEntry { at: self.engine.clock.now(), level, message }
    }
}

async fn head(reader: &VersionReader) -> Result<Vec<u8>, Refusal> {
    let mut head = Vec::new();
    while head.len() < SNIFF_BYTES {
        let bytes = reader.at(u64::try_from(head.len()).unwrap_or(u64::MAX), u64::MAX).await?;
        if bytes.is_empty() {
            break;
        }
        head.extend_from_slice(&bytes);
    }
    head.truncate(SNIFF_BYTES);
    Ok(head)
}

/// The end of a try as it is recorded; with `due`, there is another one.
pub(super) fn processed(outcome: &Outcome, due: Option<Timestamp>, now: Timestamp) -> Option<Processed> {
    let entry = |level, message: Cow<'_, str>| vec![LogEntry { at: now, level, message: message.into_owned() }];
    let processed = |state, chunks, problem: Option<&String>, due, log| {
        Some(Processed { state, chunks, problem: problem.cloned(), due, log, now })
    };
    match (outcome, due) {
        (Outcome::Lost, _) => None,
        (Outcome::Completed { chunks, note }, _) => {
            let log = entry(LogLevel::Info, format!("completed: {chunks} chunks can be found").into());
            processed(ProcessingState::Completed, Some(*chunks), note.as_ref(), None, log)
        }
        (Outcome::Again(reason), Some(due)) => {
            let seconds = due.millis().saturating_sub(now.millis()) / 1000;
            let log = entry(LogLevel::Warning, format!("tried again in {seconds} seconds: {reason}").into());
            processed(ProcessingState::Pending, None, None, Some(due), log)
        }
        (Outcome::Failed(reason) | Outcome::Again(reason), _) => {
            let log = entry(LogLevel::Error, reason.as_str().into());
            processed(ProcessingState::Failed, Some(0), Some(reason), None, log)
        }
    }
}
