//! Streams: a source's content replaced as a whole, in as many containers as it takes.

use crate::clock::random_uuid;
use crate::engine::Engine;
use crate::model::change::Ordering;
use crate::model::ids::{FileId, RequestId, StreamId, TenantId};
use crate::model::refusal::Refusal;
use crate::model::source::Source;

fn unknown() -> Refusal {
    Refusal::invalid("streamId", "is not an open stream of this source")
}

/// Does the source take streams?
///
/// # Errors
/// [`Refusal::Invalid`] when it does not.
pub fn check_enabled(source: &Source) -> Result<(), Refusal> {
    if source.stream_enabled {
        return Ok(());
    }
    Err(Refusal::invalid("sourceId", format!("`{}` is not a stream-enabled source", source.id)))
}

/// Opens a stream with its first container. Several may be open; the one closed last wins.
///
/// # Errors
/// The keepers' own.
pub async fn open(engine: &Engine, tenant: &TenantId, source: &Source, file: FileId) -> Result<StreamId, Refusal> {
    let stream = StreamId(random_uuid());
    engine.meta.open_stream(stream, tenant, source.row, file, engine.clock.now()).await?;
    Ok(stream)
}

/// Is this an open stream of the source? Asked before anything is made for it.
///
/// # Errors
/// [`Refusal::Invalid`] when it is not.
pub async fn check_open(engine: &Engine, tenant: &TenantId, source: &Source, stream: &str) -> Result<(), Refusal> {
    match content(engine, tenant, source, stream).await?.closed {
        None => Ok(()),
        Some(_) => Err(unknown()),
    }
}

/// Adds a container to an open stream.
///
/// # Errors
/// [`Refusal::Invalid`] when the stream is unknown or closed.
pub async fn add_chunk(
    engine: &Engine,
    tenant: &TenantId,
    source: &Source,
    stream: &str,
    file: FileId,
) -> Result<(), Refusal> {
    let stream: StreamId = stream.parse().map_err(|_| unknown())?;
    if engine.meta.add_chunk(stream, tenant, source.row, file).await? { Ok(()) } else { Err(unknown()) }
}

/// A stream's containers in order, and the push that closed it, if one did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Content {
    /// Which stream.
    pub stream: StreamId,
    /// Its containers, used or not.
    pub files: Vec<FileId>,
    /// The push that closed it.
    pub closed: Option<(RequestId, Ordering)>,
}

/// What is in a stream.
///
/// # Errors
/// [`Refusal::Invalid`] when the stream is unknown.
pub async fn content(engine: &Engine, tenant: &TenantId, source: &Source, stream: &str) -> Result<Content, Refusal> {
    let stream: StreamId = stream.parse().map_err(|_| unknown())?;
    let (files, closed) = engine.meta.stream(stream, tenant, source.row).await?.ok_or_else(unknown)?;
    Ok(Content { stream, files, closed })
}
