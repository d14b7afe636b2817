//! The platform's calls that the published clients make before and beside pushing.

use std::sync::Arc;

use axum::response::IntoResponse;
use http::StatusCode;

use super::{Reply, answer};
use crate::dialect::coveo::platform::{
    self, BUILT_IN_FIELD, FIELD_TYPES, Field, PrivilegeQuestion, SecurityProvider, SourceBody,
};
use crate::dialect::coveo::query::Query;
use crate::dialect::coveo::replies::{FieldPage, Nothing, Privilege, SourcePage, source_model};
use crate::http::call::Call;
use crate::http::doors::Doors;
use crate::limits;
use crate::model::access::Right;
use crate::model::refusal::Refusal;
use crate::source::{self, setup};

pub(super) async fn create_source(doors: Arc<Doors>, mut call: Call) -> Reply {
    let grant = super::grant(&doors, &call, Right::Sources).await?;
    let body = SourceBody::parse(&super::json(&doors, &mut call, limits::SMALL_JSON_BYTES).await?)?;
    let (name, streams) = (body.required_name()?.to_owned(), body.takes_streams());
    let source = setup::create_source(&doors.engine, grant.tenant(), &name, streams, body.properties).await?;
    answer(StatusCode::CREATED, &source_model(&source))
}

pub(super) async fn sources(doors: Arc<Doors>, call: Call) -> Reply {
    let tenant = super::view(&doors, &call, Right::Items).await?;
    let sources = setup::sources(&doors.engine, &tenant).await?;
    answer(StatusCode::OK, &sources.iter().map(source_model).collect::<Vec<_>>())
}

pub(super) async fn source_pages(doors: Arc<Doors>, call: Call) -> Reply {
    let tenant = super::view(&doors, &call, Right::Items).await?;
    let query = Query::parse(&call.query);
    let (page, filter) = (query.page()?, query.filter()?.map(|f| f.to_lowercase()));
    let mut sources = setup::sources(&doors.engine, &tenant).await?;
    sources.retain(|s| filter.as_ref().is_none_or(|f| s.name.to_lowercase().contains(f)));
    let total = u64::try_from(sources.len()).unwrap_or(u64::MAX);
    let skipped = usize::try_from(page.offset()).unwrap_or(usize::MAX);
    let shown = sources.iter().skip(skipped).take(usize::try_from(page.size).unwrap_or(usize::MAX));
    answer(StatusCode::OK, &SourcePage::new(shown, page, total))
}

pub(super) async fn source(doors: Arc<Doors>, call: Call) -> Reply {
    let tenant = super::view(&doors, &call, Right::Items).await?;
    let source = source::find(&doors.engine, &tenant, call.parameter("source")).await?;
    answer(StatusCode::OK, &source_model(&source))
}

pub(super) async fn update_source(doors: Arc<Doors>, mut call: Call) -> Reply {
    let grant = super::grant(&doors, &call, Right::Sources).await?;
    let mut source = source::find(&doors.engine, grant.tenant(), call.parameter("source")).await?;
    let body = SourceBody::parse(&super::json(&doors, &mut call, limits::SMALL_JSON_BYTES).await?)?;
    if let Some(name) = body.name {
        source.name = name;
    }
    source.stream_enabled = body.stream_enabled.unwrap_or(source.stream_enabled);
    source.properties.extend(body.properties);
    setup::update_source(&doors.engine, &source).await?;
    answer(StatusCode::OK, &source_model(&source))
}

pub(super) async fn delete_source(doors: Arc<Doors>, call: Call) -> Reply {
    let grant = super::grant(&doors, &call, Right::Sources).await?;
    let source = source::find(&doors.engine, grant.tenant(), call.parameter("source")).await?;
    setup::delete_source(&doors.engine, &source).await?;
    answer(StatusCode::OK, &Nothing {})
}

pub(super) async fn fields(doors: Arc<Doors>, call: Call) -> Reply {
    let tenant = super::view(&doors, &call, Right::Fields).await?;
    let page = Query::parse(&call.query).page()?;
    let mut fields = vec![Field { name: BUILT_IN_FIELD.into(), kind: "STRING" }];
    for (name, stored) in setup::fields(&doors.engine, &tenant).await? {
        if let Some(kind) = FIELD_TYPES.into_iter().find(|kind| *kind == stored) {
            fields.push(Field { name, kind });
        }
    }
    let total = u64::try_from(fields.len()).unwrap_or(u64::MAX);
    let skipped = usize::try_from(page.offset()).unwrap_or(usize::MAX);
    let shown = fields.into_iter().skip(skipped).take(usize::try_from(page.size).unwrap_or(usize::MAX)).collect();
    answer(StatusCode::OK, &FieldPage::new(shown, page, total))
}

pub(super) async fn create_fields(doors: Arc<Doors>, mut call: Call) -> Reply {
    let grant = super::grant(&doors, &call, Right::Fields).await?;
    let fields = platform::parse_fields(&super::json(&doors, &mut call, limits::SMALL_JSON_BYTES).await?)?;
    if let Some(field) = fields.iter().find(|f| f.name == BUILT_IN_FIELD && f.kind != "STRING") {
        return Err(Refusal::invalid("name", format!("`{}` is built in, with the type STRING", field.name)));
    }
    let fields = fields.into_iter().filter(|f| f.name != BUILT_IN_FIELD).map(|f| (f.name, f.kind.to_owned()));
    setup::create_fields(&doors.engine, grant.tenant(), fields.collect()).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

pub(super) async fn put_provider(doors: Arc<Doors>, mut call: Call) -> Reply {
    let grant = super::grant(&doors, &call, Right::Identities).await?;
    let provider = SecurityProvider::parse(&super::json(&doors, &mut call, limits::SMALL_JSON_BYTES).await?)?;
    let body = serde_json::to_value(&provider).map_err(|_| Refusal::Internal)?;
    setup::put_provider(&doors.engine, grant.tenant(), call.parameter("provider"), body).await?;
    answer(StatusCode::OK, &provider)
}

pub(super) async fn evaluate(doors: Arc<Doors>, mut call: Call) -> Reply {
    let caller = call.caller(&doors).await?;
    let question = PrivilegeQuestion::parse(&super::json(&doors, &mut call, limits::SMALL_JSON_BYTES).await?)?;
    let own = question.organization.as_ref().is_none_or(|organization| *organization == caller.tenant.0);
    let approved = own && question.right().is_some_and(|right| caller.rights.has(right));
    answer(StatusCode::OK, &Privilege { approved })
}
