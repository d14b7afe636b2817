//! Files that come with the call that names them, as parts of a form.

use std::pin::pin;
use std::sync::Arc;

use axum::body::HttpBody;
use futures_util::StreamExt;
use http::StatusCode;
use serde_json::Value;

use super::envelope::Fault;
use super::files::{BATCH_MAX, batch_answer, check_mime_type, check_name, registered};
use super::{Reply, WIRE, answer};
use crate::http::call::Call;
use crate::http::doors::Doors;
use crate::http::multipart::{Form, Part};
use crate::model::access::Right;
use crate::model::file::{Declared, FileRecord};
use crate::model::refusal::Refusal;
use crate::model::session::Declaration;
use crate::upload::access::Grant;
use crate::upload::{file, receive};

/// Largest file that may come this way.
const DIRECT_MAX_BYTES: u64 = 104_857_600;
/// What a form with one file has besides that file, at most.
const FORM_BYTES: u64 = 1024 * 1024;

pub(super) async fn files(doors: Arc<Doors>, mut call: Call) -> Reply {
    let grant = super::grant(&doors, &call, Right::Upload).await?;
    let body = call.take_body();
    let announced = body.size_hint().exact();
    let mut form = Form::new(&call.headers, body, &doors.timing, grant.tenant(), doors.stopping.clone())?;
    let mut taken = Taken::default();
    match take(&doors, &grant, &mut form, &mut taken, announced).await {
        Ok(()) => publish(&doors, &grant, taken).await,
        Err(fault) => {
            discard(&doors, &grant, &taken.files).await?;
            Err(fault)
        }
    }
}

/// What came so far. Nothing of it is one of the organization's files yet.
#[derive(Default)]
struct Taken {
    files: Vec<FileRecord>,
    errors: Vec<(usize, Value, Fault)>,
    /// Did it come as one file, or as a list?
    single: bool,
}

impl Taken {
    fn count(&self) -> usize {
        self.files.len() + self.errors.len()
    }
}

async fn take(
    doors: &Doors,
    grant: &Grant,
    form: &mut Form,
    taken: &mut Taken,
    announced: Option<u64>,
) -> Result<(), Fault> {
    while let Some(part) = form.next().await? {
        match part.name.as_str() {
            "file" | "files" => {
                let single = part.name == "file";
                if taken.count() > 0 && (single || taken.single) {
                    return Err(Fault::field("file", "is one part; several are parts named `files`"));
                }
                if taken.count() == BATCH_MAX {
                    return Err(Fault::field("files", format!("has more than {BATCH_MAX} parts")));
                }
                taken.single = single;
                // Nothing of it need be stored to see that it is too large.
                if single && announced.is_some_and(|bytes| bytes > DIRECT_MAX_BYTES + FORM_BYTES) {
                    return Err(Fault::too_large(DIRECT_MAX_BYTES));
                }
                let index = taken.count();
                let filename = part.filename.clone().map_or(Value::Null, Value::from);
                match take_file(doors, grant, part).await? {
                    Ok(file) => taken.files.push(file),
                    Err(fault) if single => return Err(fault),
                    Err(fault) => taken.errors.push((index, filename, fault)),
                }
            }
            // `purpose` of older clients, and whatever else forms carry.
            _ => drop(part.text().await?),
        }
    }
    if taken.count() == 0 {
        return Err(Fault::field("file", "is required: a part named `file`, or several named `files`"));
    }
    Ok(())
}

/// Stores one part. The inner error is that file's alone; the outer one ends the call.
async fn take_file(doors: &Doors, grant: &Grant, part: Part) -> Result<Result<FileRecord, Fault>, Fault> {
    let declaration = match declaration(&part) {
        Ok(declaration) => declaration,
        Err(fault) => {
            skip(part).await?;
            return Ok(Err(fault));
        }
    };
    let ask = receive::Enclosed { wire: WIRE, max_bytes: DIRECT_MAX_BYTES, declaration };
    match receive::enclosed(&doors.engine, grant, ask, pin!(part.bytes())).await {
        Ok(file) => Ok(Ok(file)),
        Err(refused @ Refusal::Quota { .. }) => Ok(Err(refused.into())),
        Err(refused) => Err(refused.into()),
    }
}

/// What a part says about its file.
pub(super) fn declaration(part: &Part) -> Result<Declaration, Fault> {
    let Some(name) = part.filename.clone() else {
        return Err(Fault::field(&part.name, "must be a file: the part has no filename"));
    };
    check_name("filename", &name)?;
    let mime_type = match &part.mime_type {
        Some(mime_type) => mime_type.clone(),
        None => guessed(&name).to_owned(),
    };
    check_mime_type("mime_type", &mime_type)?;
    Ok(Declaration { name, mime_type, ..Declaration::default() })
}

/// Reads over a file that is refused, so that the ones behind it can be read.
async fn skip(part: Part) -> Result<(), Fault> {
    let mut bytes = pin!(part.bytes());
    let mut left = DIRECT_MAX_BYTES;
    while let Some(chunk) = bytes.next().await {
        let chunk = chunk.map_err(|error| Refusal::Incomplete { reason: error.to_string() })?;
        let length = u64::try_from(chunk.len()).unwrap_or(u64::MAX);
        left = left.checked_sub(length).ok_or_else(|| Fault::too_large(DIRECT_MAX_BYTES))?;
    }
    Ok(())
}

/// All parts are here: now they become files of the organization.
async fn publish(doors: &Doors, grant: &Grant, taken: Taken) -> Reply {
    let Taken { files, errors, single } = taken;
    let mut done = Vec::new();
    for stored in files {
        let ask = file::Register {
            file: stored.id,
            wire: None,
            stored_as: None,
            name: None,
            size: None,
            mime_type: None,
            digests: Declared::default(),
        };
        done.push(registered(&file::register(&doors.engine, grant, ask).await?.0));
    }
    match done.pop() {
        Some(file) if single => answer(StatusCode::CREATED, &file),
        last => batch_answer(StatusCode::CREATED, "files uploaded", done.into_iter().chain(last).collect(), errors),
    }
}

/// The call failed: nothing of it stays.
async fn discard(doors: &Doors, grant: &Grant, files: &[FileRecord]) -> Result<(), Fault> {
    for stored in files {
        file::discard(&doors.engine, grant, stored.id).await?;
    }
    Ok(())
}

/// A media type by a name's ending, for parts that come without one.
fn guessed(name: &str) -> &'static str {
    let ending = name.rsplit_once('.').map_or("", |(_, ending)| ending).to_ascii_lowercase();
    match ending.as_str() {
        "txt" | "log" => "text/plain",
        "md" => "text/markdown",
        "csv" => "text/csv",
        "htm" | "html" => "text/html",
        "xml" => "application/xml",
        "json" => "application/json",
        "pdf" => "application/pdf",
        "doc" => "application/msword",
        "docx" => "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
        "xls" => "application/vnd.ms-excel",
        "xlsx" => "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
        "ppt" => "application/vnd.ms-powerpoint",
        "pptx" => "application/vnd.openxmlformats-officedocument.presentationml.presentation",
        "zip" => "application/zip",
        "gz" => "application/gzip",
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "gif" => "image/gif",
        "webp" => "image/webp",
        "svg" => "image/svg+xml",
        "mp3" => "audio/mpeg",
        "wav" => "audio/wav",
        "mp4" => "video/mp4",
        "mov" => "video/quicktime",
        _ => "application/octet-stream",
    }
}
