//! Security identities.

use std::sync::Arc;

use http::StatusCode;

use super::{Reply, items, records};
use crate::dialect::coveo::batch::BatchKind;
use crate::dialect::coveo::identity;
use crate::dialect::coveo::query::Query;
use crate::http::call::Call;
use crate::http::doors::Doors;
use crate::limits;
use crate::model::access::Right;
use crate::model::change::IdentityChange;
use crate::model::refusal::Refusal;
use crate::model::source::PushKind;
use crate::source::setup;
use crate::upload::access::Grant;
use crate::upload::register::{self, Ask, Records, Target};

async fn enter(doors: &Doors, call: &Call) -> Result<Grant, Refusal> {
    let grant = super::grant(doors, call, Right::Identities).await?;
    setup::find_provider(&doors.engine, grant.tenant(), call.parameter("provider")).await?;
    Ok(grant)
}

fn ask(call: &Call, kind: PushKind) -> Ask {
    Ask::new(Target::Provider(call.parameter("provider").to_owned()), kind)
}

async fn change(doors: &Doors, mut call: Call, parse: fn(&[u8]) -> Result<IdentityChange, Refusal>) -> Reply {
    let grant = enter(doors, &call).await?;
    let ordering = Query::parse(&call.query).ordering_id()?;
    let body = super::json(doors, &mut call, limits::INLINE_ITEM_BYTES).await?;
    let push = Ask {
        ordering,
        records: Records::Lines(records::line(&parse(&body)?)?),
        count: 1,
        ..ask(&call, PushKind::Identities)
    };
    items::accepted(StatusCode::ACCEPTED, register::accept(&doors.engine, &grant, push).await?)
}

pub(super) async fn put_members(doors: Arc<Doors>, call: Call) -> Reply {
    change(&doors, call, identity::parse_members).await
}

pub(super) async fn put_mappings(doors: Arc<Doors>, call: Call) -> Reply {
    change(&doors, call, identity::parse_mappings).await
}

pub(super) async fn delete(doors: Arc<Doors>, call: Call) -> Reply {
    change(&doors, call, identity::parse_delete).await
}

pub(super) async fn batch(doors: Arc<Doors>, mut call: Call) -> Reply {
    let grant = enter(&doors, &call).await?;
    let push = ask(&call, PushKind::Identities);
    items::push_container(&doors, &mut call, &grant, push, BatchKind::Identities).await
}

pub(super) async fn older_than(doors: Arc<Doors>, mut call: Call) -> Reply {
    let grant = enter(&doors, &call).await?;
    let query = Query::parse(&call.query);
    let push = Ask {
        ordering: Some(query.required_ordering_id()?),
        delay: query.queue_delay()?,
        ..ask(&call, PushKind::IdentitiesOlderThan)
    };
    super::no_body(&doors, &mut call).await?;
    items::accepted(StatusCode::ACCEPTED, register::accept(&doors.engine, &grant, push).await?)
}
