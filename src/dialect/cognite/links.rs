//! Links: where a file's content is sent to, and where it is fetched from.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, StatusCode, header};
use serde_json::{Map, Value};

use super::envelope::Fault;
use super::files::taken;
use super::json::Fields;
use super::query::Query;
use super::read::all;
use super::{DOWNLOAD, Reply, WIRE, answer, body, grant, items, now, project, view, wire};
use crate::http::call::Call;
use crate::http::doors::Doors;
use crate::http::download::{self, About};
use crate::limits;
use crate::model::access::Right;
use crate::model::entry::Entry;
use crate::model::ids::FileId;
use crate::model::refusal::Refusal;
use crate::model::session::{Session, Strategy};
use crate::upload::access::Grant;
use crate::upload::entry::{self, Of, Opened};
use crate::upload::{file, open};

/// Most download links of one call.
const LINKS_MAX: usize = 100;
/// How long a download link lives, and how long when it is asked for.
const LINK_LIFE: Duration = Duration::from_secs(30);
const EXTENDED_LIFE: Duration = Duration::from_secs(3600);

// ------------------------------------------------------------------------------------------------------------- uploads

/// A file is declared, and its content is to come in one PUT.
pub(super) async fn create(doors: Arc<Doors>, mut call: Call) -> Reply {
    let grant = grant(&doors, &call, Right::Upload).await?;
    let overwrite = Query::parse(&call.query).flag("overwrite")?;
    let of = declared(&body(&doors, &mut call).await?, overwrite)?;
    let (entry, session) = open_single(&doors, &grant, of).await?;
    answer(StatusCode::CREATED, &with_url(&doors, &call, &entry, &session))
}

/// What a body declares.
fn declared(body: &Map<String, Value>, overwrite: bool) -> Result<Of, Fault> {
    if body.contains_key("items") {
        return Err(Fault::field("items", "is not taken here: the body is one file"));
    }
    let facts = wire::facts(body)?;
    let overwrite = overwrite.then(|| Box::new(wire::overwriting(body, &facts)));
    Ok(Of::New { facts: Box::new(facts), overwrite })
}

/// A file that is there gets content in one PUT.
pub(super) async fn upload_link(doors: Arc<Doors>, mut call: Call) -> Reply {
    let grant = grant(&doors, &call, Right::Upload).await?;
    let body = body(&doors, &mut call).await?;
    let of = existing(&body)?;
    let (entry, session) = open_single(&doors, &grant, of).await?;
    items(vec![with_url(&doors, &call, &entry, &session).into()])
}

fn existing(body: &Map<String, Value>) -> Result<Of, Fault> {
    let refs = wire::entry_refs(&Fields::new(body).items(1)?)?;
    refs.into_iter().next().map(Of::Existing).ok_or_else(|| Fault::field("items", "is required"))
}

async fn open_single(doors: &Doors, grant: &Grant, of: Of) -> Result<(Entry, Session), Fault> {
    let opened = entry::open(&doors.engine, grant, WIRE, Strategy::Single, limits::FILE_MAX_BYTES, of.clone()).await?;
    entry_of(opened, &of)
}

fn entry_of(opened: Opened, of: &Of) -> Result<(Entry, Session), Fault> {
    match (opened, of) {
        (Opened::Done(opened), _) => Ok(*opened),
        (Opened::Wrong(wrong), _) => Err(wire::wrong(&wrong)),
        (Opened::Taken, Of::New { facts, .. }) => Err(taken(facts.external_id.clone().into_iter().collect())),
        (Opened::Unknown, Of::Existing(which)) => Err(Fault::missing(vec![wire::identifier(which).into()])),
        (Opened::Taken, Of::Existing(_)) | (Opened::Unknown, Of::New { .. }) => Err(Refusal::Internal.into()),
    }
}

fn with_url(doors: &Doors, call: &Call, entry: &Entry, session: &Session) -> Map<String, Value> {
    let mut shown = wire::file(entry);
    let url = open::location(&doors.engine, session, &call.origin(doors));
    shown.insert("uploadUrl".to_owned(), url.into());
    shown
}

// ----------------------------------------------------------------------------------------------------------- downloads

pub(super) async fn download_links(doors: Arc<Doors>, mut call: Call) -> Reply {
    let tenant = view(&doors, &call, Right::Read).await?;
    let extended = Query::parse(&call.query).flag("extendedExpiration")?;
    let body = body(&doors, &mut call).await?;
    let refs = wire::entry_refs(&Fields::new(&body).items(LINKS_MAX)?)?;
    let found = all(&doors, &tenant, refs.clone(), false).await?;
    if found.iter().any(|entry| entry.uploaded.is_none()) {
        return Err(Fault::bad("Files not uploaded"));
    }
    let life = if extended { EXTENDED_LIFE } else { LINK_LIFE };
    // Never a moment less than was promised: the end is told in whole seconds.
    let expires = now(&doors).plus(life + Duration::from_millis(999)).seconds();
    let base = call.origin(&doors);
    let links = refs.iter().zip(&found).map(|(which, entry)| {
        // The client takes the first key that it knows for the file's name: only the one that was sent comes back.
        let mut link = wire::identifier(which);
        let token = doors.engine.tickets.download_token(&tenant, entry.file, expires);
        let file = entry.file.public();
        let url = format!("{base}/{WIRE}{DOWNLOAD}/{tenant}/{file}?expires={expires}&token={token}");
        link.insert("downloadUrl".to_owned(), url.into());
        link.into()
    });
    items(links.collect())
}

/// A file's content. Whether the link holds is judged when it is asked for; then it comes to its end.
pub(super) async fn content(doors: Arc<Doors>, call: Call) -> Reply {
    let tenant = project(&call);
    let query = Query::parse(&call.query);
    let file = FileId::from_public(call.parameter("file"));
    let expires = query.get("expires").and_then(|text| {
        // One spelling, as the token has.
        text.parse::<i64>().ok().filter(|number| number.to_string() == text)
    });
    let (Some(id), Some(expires), Some(token)) = (file, expires, query.get("token")) else { return Err(Fault::link()) };
    if !doors.engine.tickets.holds_download(&tenant, id, expires, token, now(&doors)) {
        return Err(Fault::link());
    }
    let gone = |refused: Refusal| match refused {
        Refusal::NotFound { .. } => Fault::gone(),
        other => other.into(),
    };
    let found = file::find(&doors.engine, &tenant, id).await.map_err(gone)?;
    let reader = file::open(&doors.engine, &found).await.map_err(gone)?;
    let about = About {
        name: found.name,
        mime: found.mime_type,
        etag: found.version.0.simple().to_string(),
        modified: Some(found.committed),
    };
    let mut response = download::version(reader, &about, &call.method, &call.headers);
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("private, max-age=0"));
    Ok(response)
}
