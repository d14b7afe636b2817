//! One item's text: unpack and extract in a child process, then index. Every step can be repeated.

use std::io;
use std::pin::Pin;

use bytes::Bytes;
use futures_util::Stream;
use serde_json::Value;

use super::extract::{Extracted, Hint, Pool};
use crate::engine::Engine;
use crate::faults;
use crate::meta::{Extraction, LeasedJob};
use crate::model::job::JobKind;
use crate::model::refusal::Refusal;
use crate::model::source::{Content, Item, ItemState};
use crate::search::Document;
use crate::upload::read::VersionReader;

/// Most bytes of metadata that are searched.
const METADATA_BYTES: usize = 64 * 1024;

/// What is to be done with a job after one try.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Outcome {
    /// It is done.
    Done(Option<Extraction>),
    /// It may work later.
    Again(String),
}

/// Does a job.
pub(super) async fn job(engine: &Engine, pool: &Pool, job: &LeasedJob) -> Result<Outcome, Refusal> {
    match job.kind {
        JobKind::Unindex => {
            engine.search.remove(job.subject).await?;
            Ok(Outcome::Done(None))
        }
        // Of stores; the worker gives them to others.
        JobKind::Process | JobKind::Forget | JobKind::Empty => Err(Refusal::Internal),
        JobKind::Extract => {
            let Some((tenant, item)) = engine.meta.item_by_row(job.subject).await? else {
                return Ok(Outcome::Done(None));
            };
            let content: ByteStream = match &item.content {
                Content::None => return finish(engine, &item, Ok(None)).await,
                Content::Inline(bytes) => {
                    Box::pin(futures_util::stream::iter([Ok::<_, io::Error>(Bytes::from(bytes.clone()))]))
                }
                Content::Stored { version, .. } => match engine.meta.version(&tenant, *version).await? {
                    // Replaced since the job was leased: the job of the new content is due.
                    None => return Ok(Outcome::Again("the content was replaced".into())),
                    Some(version) => {
                        let reader = VersionReader::open(engine, &version).await?;
                        let size = reader.size();
                        Box::pin(reader.stream(0..size))
                    }
                },
            };
            let hint = Hint { compression: item.compression.clone(), file_extension: item.file_extension.clone() };
            match pool.extract(content, hint).await {
                Ok(extracted) => finish(engine, &item, Ok(Some(extracted))).await,
                Err(error) if error.is_retryable() => Ok(Outcome::Again(error.to_string())),
                Err(error) => finish(engine, &item, Err(error.to_string())).await,
            }
        }
    }
}

type ByteStream = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>;

/// Indexes what there is: also an item whose text can't be had is found by its metadata.
async fn finish(
    engine: &Engine,
    item: &Item,
    extracted: Result<Option<Extracted>, String>,
) -> Result<Outcome, Refusal> {
    let problem = extracted.as_ref().err().cloned();
    let extracted = extracted.ok().flatten();
    let given = ["title", "filename", "name"].iter().find_map(|key| {
        item.metadata.iter().find(|(k, v)| k.eq_ignore_ascii_case(key) && v.is_string()).and_then(|(_, v)| v.as_str())
    });
    let title = given.map(str::to_owned).or_else(|| extracted.as_ref().and_then(|e| e.title.clone()));
    let truncated = extracted.as_ref().is_some_and(|e| e.truncated);
    let mut metadata = item.document_id.clone();
    for value in item.metadata.values() {
        words(value, &mut metadata);
    }
    let document = Document {
        item: item.row,
        scope: item.source_row,
        title: title.unwrap_or_default(),
        text: extracted.as_ref().map(|e| e.text.clone()).unwrap_or_default(),
        metadata,
        kind: extracted.map_or_else(|| "none".to_owned(), |e| e.kind),
        truncated,
    };
    engine.search.put(document).await?;
    faults::point("process.text_written");
    let state = if problem.is_some() { ItemState::Failed } else { ItemState::Ready };
    let note = truncated.then(|| "the text was cut at its limit; what is beyond is not found".to_owned());
    Ok(Outcome::Done(Some(Extraction { state, problem: problem.or(note) })))
}

fn words(value: &Value, into: &mut String) {
    if into.len() >= METADATA_BYTES {
        return;
    }
    match value {
        Value::String(text) => {
            into.push('\n');
            into.push_str(text);
        }
        Value::Number(number) => {
            into.push('\n');
            into.push_str(&number.to_string());
        }
        Value::Array(values) => values.iter().for_each(|v| words(v, into)),
        Value::Object(map) => map.values().for_each(|v| words(v, into)),
        Value::Null | Value::Bool(_) => {}
    }
}
