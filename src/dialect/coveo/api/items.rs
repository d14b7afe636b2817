//! Items of a source.

use std::sync::Arc;

use http::StatusCode;

use super::{Reply, answer, records};
use crate::dialect::coveo::batch::BatchKind;
use crate::dialect::coveo::query::Query;
use crate::dialect::coveo::replies::{Accepted, Nothing};
use crate::dialect::coveo::wire::{self, DeleteQuery, DocumentQuery};
use crate::faults;
use crate::http::call::Call;
use crate::http::doors::Doors;
use crate::limits;
use crate::model::access::Right;
use crate::model::change::{Change, ContentDraft};
use crate::model::refusal::Refusal;
use crate::model::source::{PushKind, Source};
use crate::source::{self, setup};
use crate::upload::access::Grant;
use crate::upload::register::{self, Ask, Records, Target};

/// Who may push to the source of the path.
pub(super) async fn enter(doors: &Doors, call: &Call) -> Result<(Grant, Source), Refusal> {
    let grant = super::grant(doors, call, Right::Items).await?;
    let source = source::find(&doors.engine, grant.tenant(), call.parameter("source")).await?;
    Ok((grant, source))
}

pub(super) fn accepted(status: StatusCode, accepted: register::Accepted) -> Reply {
    let reply = answer(status, &Accepted::new(accepted.ordering, accepted.request));
    faults::point("register.reply");
    reply
}

/// A push to a source, still without records.
pub(super) fn ask(source: &Source, kind: PushKind) -> Ask {
    Ask::new(Target::Source(source.row, source.id.0.clone()), kind)
}

pub(super) async fn put(doors: Arc<Doors>, mut call: Call) -> Reply {
    let (grant, source) = enter(&doors, &call).await?;
    let asked = DocumentQuery::read(&Query::parse(&call.query))?;
    let body = super::json(&doors, &mut call, limits::INLINE_ITEM_BYTES).await?;
    let mut document = wire::parse_document(&body, &asked)?;
    let mut contents = Vec::new();
    let file_parameter = "compressedBinaryDataFileId";
    if let Some(file) = document.content_file {
        let container = register::container(&doors.engine, &grant, file_parameter, &file.to_string()).await?;
        if let Some(version) = &container.version {
            document.draft.content = ContentDraft::Version { version: version.id, size: version.size };
        }
        contents.push(container);
    }
    let push = Ask {
        ordering: asked.ordering,
        records: Records::Lines(records::line(&Change::Put(Box::new(document.draft)))?),
        count: 1,
        puts: 1,
        contents,
        file_parameter,
        call: super::identity(&call, &body),
        ..ask(&source, PushKind::Items)
    };
    accepted(StatusCode::ACCEPTED, register::accept(&doors.engine, &grant, push).await?)
}

pub(super) async fn delete(doors: Arc<Doors>, mut call: Call) -> Reply {
    let (grant, source) = enter(&doors, &call).await?;
    let asked = DeleteQuery::read(&Query::parse(&call.query))?;
    super::no_body(&doors, &mut call).await?;
    let change = Change::Delete { document_id: asked.document_id, children: asked.children };
    let push = Ask {
        ordering: asked.ordering,
        records: Records::Lines(records::line(&change)?),
        count: 1,
        ..ask(&source, PushKind::Items)
    };
    accepted(StatusCode::ACCEPTED, register::accept(&doors.engine, &grant, push).await?)
}

pub(super) async fn older_than(doors: Arc<Doors>, mut call: Call) -> Reply {
    let (grant, source) = enter(&doors, &call).await?;
    let query = Query::parse(&call.query);
    let push = Ask {
        ordering: Some(query.required_ordering_id()?),
        delay: query.queue_delay()?,
        ..ask(&source, PushKind::OlderThan)
    };
    super::no_body(&doors, &mut call).await?;
    accepted(StatusCode::ACCEPTED, register::accept(&doors.engine, &grant, push).await?)
}

pub(super) async fn batch(doors: Arc<Doors>, mut call: Call) -> Reply {
    let (grant, source) = enter(&doors, &call).await?;
    let kind = BatchKind::Items { partial_updates: false, merges: false };
    push_container(&doors, &mut call, &grant, ask(&source, PushKind::Items), kind).await
}

/// A push of what a container asks for.
pub(super) async fn push_container(doors: &Doors, call: &mut Call, grant: &Grant, push: Ask, kind: BatchKind) -> Reply {
    let query = Query::parse(&call.query);
    let file = query.file_id()?;
    let ordering = query.ordering_id()?;
    super::no_body(doors, call).await?;
    let container = register::container(&doors.engine, grant, "fileId", &file.to_string()).await?;
    if container.version.as_ref().is_some_and(|version| version.size == 0) {
        return Err(Refusal::invalid("fileId", format!("`{file}` is an empty file container")));
    }
    let mut push = Ask { ordering, call: super::identity(call, b""), ..push };
    // One that was used already is not read again: only an equal call gets an answer.
    if container.version.is_some() {
        match records::translate(&doors.engine, grant, &push, kind, std::slice::from_ref(&container)).await {
            Ok(translated) => push = translated.into_push(push),
            // Used up by another call meanwhile, perhaps by an equal one, which then has the answer.
            Err(refused) if refused == records::GONE => {}
            Err(refused) => return Err(refused),
        }
    }
    push.used_up = vec![container];
    accepted(StatusCode::ACCEPTED, register::accept(&doors.engine, grant, push).await?)
}

pub(super) async fn status(doors: Arc<Doors>, mut call: Call) -> Reply {
    let (_, source) = enter(&doors, &call).await?;
    let activity = Query::parse(&call.query).status_type()?;
    super::no_body(&doors, &mut call).await?;
    setup::set_activity(&doors.engine, &source, activity).await?;
    answer(StatusCode::CREATED, &Nothing {})
}
