//! Streams into catalog sources.

use std::sync::Arc;

use http::StatusCode;

use super::containers::open_container;
use super::{Reply, answer, items, records};
use crate::dialect::coveo::batch::BatchKind;
use crate::dialect::coveo::query::{self, Query};
use crate::dialect::coveo::replies::StreamOpened;
use crate::http::call::Call;
use crate::http::doors::Doors;
use crate::limits;
use crate::model::access::Right;
use crate::model::refusal::Refusal;
use crate::model::source::{PushKind, Source};
use crate::source::stream;
use crate::upload::access::{self, Grant};
use crate::upload::register::{self, Ask};

async fn enter(doors: &Doors, call: &Call) -> Result<(Grant, Source), Refusal> {
    let (grant, source) = items::enter(doors, call).await?;
    stream::check_enabled(&source)?;
    Ok((grant, source))
}

/// Containers are for those who may upload, streams for those who may push: opening needs both.
async fn enter_with_container(doors: &Doors, call: &Call) -> Result<(Grant, Source), Refusal> {
    let caller = call.caller(doors).await?;
    let (_, source) = enter(doors, call).await?;
    let grant = access::grant(&doors.engine, &caller, &source.tenant, Right::Upload).await?;
    Ok((grant, source))
}

pub(super) async fn open(doors: Arc<Doors>, mut call: Call) -> Reply {
    let (grant, source) = enter_with_container(&doors, &call).await?;
    super::no_body(&doors, &mut call).await?;
    let (file, container) = open_container(&doors, &call, &grant, limits::STREAM_LIFE).await?;
    let stream_id = stream::open(&doors.engine, grant.tenant(), &source, file).await?;
    answer(StatusCode::CREATED, &StreamOpened { stream_id, container })
}

pub(super) async fn chunk(doors: Arc<Doors>, mut call: Call) -> Reply {
    let (grant, source) = enter_with_container(&doors, &call).await?;
    let stream_id = query::stream_id(call.parameter("stream"))?;
    super::no_body(&doors, &mut call).await?;
    stream::check_open(&doors.engine, grant.tenant(), &source, &stream_id.to_string()).await?;
    let (file, container) = open_container(&doors, &call, &grant, limits::STREAM_LIFE).await?;
    stream::add_chunk(&doors.engine, grant.tenant(), &source, &stream_id.to_string(), file).await?;
    answer(StatusCode::OK, &container)
}

pub(super) async fn close(doors: Arc<Doors>, mut call: Call) -> Reply {
    let (grant, source) = enter(&doors, &call).await?;
    let stream_id = query::stream_id(call.parameter("stream"))?;
    super::no_body(&doors, &mut call).await?;
    let content = stream::content(&doors.engine, grant.tenant(), &source, &stream_id.to_string()).await?;
    if let Some((request, ordering)) = content.closed {
        return items::accepted(StatusCode::OK, register::Accepted { request, ordering });
    }
    let containers = register::filled_containers(&doors.engine, &grant, "streamId", content.files).await?;
    let kind = BatchKind::Items { partial_updates: true, merges: false };
    let load = items::ask(&source, PushKind::Load);
    let translated = records::translate(&doors.engine, &grant, &load, kind, &containers).await?;
    // A load that adds nothing would delete every item. The vendor skips the deletion then, and so is it here.
    let kind = if translated.summary.puts == 0 { PushKind::Items } else { PushKind::Load };
    let push = Ask {
        kind,
        used_up: containers,
        file_parameter: "streamId",
        call: super::identity(&call, b""),
        closes: Some(content.stream),
        ..translated.into_push(load)
    };
    items::accepted(StatusCode::OK, register::accept(&doors.engine, &grant, push).await?)
}

pub(super) async fn update(doors: Arc<Doors>, mut call: Call) -> Reply {
    let (grant, source) = enter(&doors, &call).await?;
    Query::parse(&call.query).check_shard()?;
    let kind = BatchKind::Items { partial_updates: true, merges: false };
    items::push_container(&doors, &mut call, &grant, items::ask(&source, PushKind::Items), kind).await
}

pub(super) async fn merge(doors: Arc<Doors>, mut call: Call) -> Reply {
    let (grant, source) = enter(&doors, &call).await?;
    let kind = BatchKind::Items { partial_updates: false, merges: true };
    items::push_container(&doors, &mut call, &grant, items::ask(&source, PushKind::Items), kind).await
}

pub(super) async fn delete_older_than(doors: Arc<Doors>, mut call: Call) -> Reply {
    let (grant, source) = enter(&doors, &call).await?;
    let push = Ask {
        ordering: Some(query::ordering("epochMilliseconds", call.parameter("milliseconds"))?),
        delay: Query::parse(&call.query).queue_delay()?,
        ..items::ask(&source, PushKind::OlderThan)
    };
    super::no_body(&doors, &mut call).await?;
    items::accepted(StatusCode::CREATED, register::accept(&doors.engine, &grant, push).await?)
}
