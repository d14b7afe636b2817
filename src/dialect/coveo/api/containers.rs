//! File containers.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;

use super::{Reply, WIRE, answer};
use crate::dialect::coveo::query::Query;
use crate::dialect::coveo::replies::{Container, RequiredHeaders};
use crate::faults;
use crate::http::call::Call;
use crate::http::doors::Doors;
use crate::limits;
use crate::model::access::Right;
use crate::model::ids::FileId;
use crate::model::refusal::Refusal;
use crate::upload::access::Grant;
use crate::upload::open;

pub(super) async fn create(doors: Arc<Doors>, mut call: Call) -> Reply {
    let grant = super::grant(&doors, &call, Right::Upload).await?;
    // Only the style of the vendor's link: checked and ignored.
    Query::parse(&call.query).flag("useVirtualHostedStyleUrl")?;
    super::no_body(&doors, &mut call).await?;
    let (_, container) = open_container(&doors, &call, &grant, limits::CONTAINER_LIFE).await?;
    let reply = answer(StatusCode::CREATED, &container);
    faults::point("single.ticket_sent");
    reply
}

/// A new container with its upload URL. What is put there must be used within `held`.
pub(super) async fn open_container(
    doors: &Doors,
    call: &Call,
    grant: &Grant,
    held: Duration,
) -> Result<(FileId, Container), Refusal> {
    let opened = open::single(
        &doors.engine,
        grant,
        open::Single {
            wire: WIRE,
            base: &call.origin(doors),
            headers: &RequiredHeaders::PAIR,
            max_bytes: doors.engine.policy.container_max,
            life: limits::CONTAINER_LIFE,
            held,
            file: None,
        },
    )
    .await?;
    Ok((opened.file, Container::new(opened.url, opened.file)))
}
