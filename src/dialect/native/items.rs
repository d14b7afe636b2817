//! Sources, their items and pushes: the content browser.

use std::io::{self, Read};
use std::sync::{Arc, LazyLock};

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode, header};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc};

use super::query::Query;
use super::{Reply, answer, wire};
use crate::http::call::Call;
use crate::http::doors::Doors;
use crate::http::download::{self, About};
use crate::limits;
use crate::meta::ItemFilter;
use crate::model::access::{Caller, Right};
use crate::model::refusal::Refusal;
use crate::model::source::{Content, Item, ItemState, PushState, Source};
use crate::source::{self, browse, setup};
use crate::tenant;
use crate::unpack::{self, Sniffed, UnpackLimits};
use crate::upload::read::{self, VersionReader};

const FIELD_FILTERS: usize = 16;

async fn enter(doors: &Doors, call: &Call) -> Result<Caller, Refusal> {
    let caller = call.caller(doors).await?;
    tenant::check(&caller, Right::Read)?;
    Ok(caller)
}

async fn enter_source(doors: &Doors, call: &Call) -> Result<Source, Refusal> {
    let caller = enter(doors, call).await?;
    source::find(&doors.engine, &caller.tenant, call.parameter("source")).await
}

pub(super) async fn sources(doors: Arc<Doors>, call: Call) -> Reply {
    let caller = enter(&doors, &call).await?;
    Query::parse(&call.query, &[])?;
    let mut sources = setup::sources(&doors.engine, &caller.tenant).await?;
    sources.reverse();
    answer(StatusCode::OK, &wire::list(sources.iter().map(wire::source).collect(), None))
}

pub(super) async fn items(doors: Arc<Doors>, call: Call) -> Reply {
    let source = enter_source(&doors, &call).await?;
    let known = ["query", "prefix", "field.", "changed_after", "state", "push", "limit", "cursor"];
    let query = Query::parse(&call.query, &known)?;
    let push = match query.get("push") {
        None => None,
        Some(request) => Some(browse::push(&doors.engine, &source.tenant, request).await?.row),
    };
    let filter = ItemFilter {
        prefix: query.get("prefix").map(str::to_owned),
        fields: field_filters(&query)?,
        changed_after: query.time("changed_after")?,
        state: query.word("state", ItemState::from_name, "queued, ready, failed")?,
        push,
        rows: None,
        before: query.cursor()?,
        limit: query.limit()?,
    };
    let page = browse::items(&doors.engine, &source, query.get("query"), filter).await?;
    answer(StatusCode::OK, &wire::page(&page, wire::item))
}

/// Every filter is a condition of its own: a handful is a question, a thousand is none.
fn field_filters(query: &Query) -> Result<Vec<(String, String)>, Refusal> {
    let fields = query.family("field.");
    if fields.len() > FIELD_FILTERS {
        return Err(Refusal::invalid("field.", format!("may be given {FIELD_FILTERS} times at most")));
    }
    Ok(fields)
}

async fn enter_item(doors: &Doors, call: &Call, known: &[&str]) -> Result<(Source, Item, Query), Refusal> {
    let source = enter_source(doors, call).await?;
    let query = Query::parse(&call.query, known)?;
    let item = browse::item(&doors.engine, &source, query.require("document_id")?).await?;
    Ok((source, item, query))
}

pub(super) async fn item(doors: Arc<Doors>, call: Call) -> Reply {
    let (_, item, _) = enter_item(&doors, &call, &["document_id"]).await?;
    let text = match browse::text(&doors.engine, &item).await {
        Ok(text) => Some(text),
        Err(Refusal::NotFound { .. }) => None,
        Err(other) => return Err(other),
    };
    answer(StatusCode::OK, &wire::whole_item(&item, text.as_ref()))
}

pub(super) async fn text(doors: Arc<Doors>, call: Call) -> Reply {
    let (_, item, _) = enter_item(&doors, &call, &["document_id"]).await?;
    if item.state == ItemState::Queued {
        return Err(Refusal::Conflict { reason: "the item is queued: its text is not extracted yet".into() });
    }
    let document = browse::text(&doors.engine, &item).await?;
    let plain = [(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"))];
    Ok((StatusCode::OK, plain, document.text).into_response())
}

/// The bytes of an item: as they were uploaded, or unpacked with `decoded=true`.
pub(super) async fn content(doors: Arc<Doors>, call: Call) -> Reply {
    let (source, item, query) = enter_item(&doors, &call, &["document_id", "decoded"]).await?;
    let decoded = query.flag("decoded")?;
    let about = |etag: String| About {
        name: file_name(&item),
        mime: "application/octet-stream".into(),
        etag,
        modified: Some(item.changed),
    };
    match &item.content {
        Content::None => Err(Refusal::NotFound { what: "the item's content" }),
        Content::Inline(bytes) => {
            let bytes = Bytes::from(bytes.clone());
            if decoded {
                let head = bytes.clone();
                return unpacked(&call.method, &item, &head, io::Cursor::new(bytes));
            }
            Ok(download::bytes(&bytes, &about(format!("i{}-{}", item.row, item.push)), &call.method, &call.headers))
        }
        Content::Stored { version, .. } => {
            let reader = read::version(&doors.engine, &source.tenant, *version).await?;
            if decoded {
                let head = sniffed_head(&reader).await?;
                return unpacked(&call.method, &item, &head, reader.blocking(Handle::current()));
            }
            Ok(download::version(reader, &about(version.to_string()), &call.method, &call.headers))
        }
    }
}

async fn sniffed_head(reader: &VersionReader) -> Result<Vec<u8>, Refusal> {
    let mut head = Vec::new();
    while head.len() < unpack::SNIFF_BYTES {
        let from = u64::try_from(head.len()).unwrap_or(u64::MAX);
        let bytes = reader.at(from, u64::MAX).await?;
        if bytes.is_empty() {
            break;
        }
        head.extend_from_slice(&bytes);
    }
    head.truncate(unpack::SNIFF_BYTES);
    Ok(head)
}

/// Unpackings at once. Each holds a thread while its client reads, and needs another one to read the bytes.
static DECODERS: LazyLock<Arc<Semaphore>> = LazyLock::new(|| Arc::new(Semaphore::new(16)));

/// What the content unpacks to, as a stream of unknown length. Memory stays bounded whatever it unpacks to; damaged
/// content ends the answer with an error, never with a clean end.
fn unpacked(method: &Method, item: &Item, head: &[u8], packed: impl Read + Send + 'static) -> Reply {
    let sniffed: Sniffed = unpack::sniff(head, item.compression.as_deref());
    let limits = UnpackLimits { output_bytes: limits::CONTAINER_MAX_BYTES, ratio: u64::MAX, ..UnpackLimits::default() };
    let (sender, mut receiver) = mpsc::channel::<io::Result<Bytes>>(2);
    if *method != Method::HEAD {
        let place = Arc::clone(&DECODERS).try_acquire_owned().map_err(|_| Refusal::Unavailable)?;
        let runtime = Handle::current();
        tokio::task::spawn_blocking(move || {
            let _place = place;
            let send = |part| {
                // A client that reads nothing for so long gives its place to another.
                let sent = runtime.block_on(tokio::time::timeout(limits::BODY_IDLE, sender.send(part)));
                matches!(sent, Ok(Ok(())))
            };
            // Made here, not outside: a decoder may read as soon as it is made.
            let mut decoder = unpack::decoder(packed, sniffed, limits);
            loop {
                let mut buffer = vec![0; limits::WRITE_BYTES];
                let sent = match decoder.read(&mut buffer) {
                    Ok(0) => return,
                    Ok(n) => {
                        buffer.truncate(n);
                        send(Ok(Bytes::from(buffer)))
                    }
                    Err(error) => {
                        send(Err(error));
                        return;
                    }
                };
                if !sent {
                    return;
                }
            }
        });
    }
    // Of unknown length for HEAD too: an empty body would say that its length is 0.
    let body = Body::from_stream(futures_util::stream::poll_fn(move |context| receiver.poll_recv(context)));
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(header::CONTENT_DISPOSITION, HeaderValue::from_static("attachment"));
    headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    Ok(response)
}

fn file_name(item: &Item) -> String {
    let path = item.document_id.split(['?', '#']).next().unwrap_or_default();
    let last = path.rsplit('/').find(|segment| !segment.is_empty()).unwrap_or("content");
    let extension = item.file_extension.as_deref().unwrap_or_default();
    if last.ends_with(extension) { last.to_owned() } else { format!("{last}{extension}") }
}

pub(super) async fn push(doors: Arc<Doors>, call: Call) -> Reply {
    let caller = enter(&doors, &call).await?;
    Query::parse(&call.query, &[])?;
    let push = browse::push(&doors.engine, &caller.tenant, call.parameter("request")).await?;
    answer(StatusCode::OK, &wire::whole_push(&push))
}

pub(super) async fn pushes(doors: Arc<Doors>, call: Call) -> Reply {
    let source = enter_source(&doors, &call).await?;
    let query = Query::parse(&call.query, &["state", "limit", "cursor"])?;
    let state = query.word("state", PushState::from_name, "queued, working, done, failed")?;
    let page = browse::pushes(&doors.engine, &source, state, query.cursor()?, query.limit()?).await?;
    answer(StatusCode::OK, &wire::page(&page, wire::push))
}
