//! Uploads: listed, ended.

use clap::Subcommand;
use serde_json::{Value, json};

use super::{AdminError, Place, existing, refused};
use crate::clock::Timestamp;
use crate::meta::{MetaStore, Upload, UploadFilter};
use crate::model::ids::{FileId, SessionId};
use crate::model::session::{Session, SessionState};

/// Uploads that are read in one step.
const UPLOADS_AT_ONCE: u32 = 1000;

/// Uploads.
#[derive(Debug, Subcommand)]
pub(in crate::cli) enum UploadCommand {
    /// List a tenant's uploads, newest first; containers are not among them
    List {
        /// Whose uploads
        #[arg(long, value_name = "ID")]
        tenant: String,
        /// Only those in this state
        #[arg(long, value_parser = ["open", "committed", "aborted", "expired", "failed"])]
        state: Option<String>,
        #[command(flatten)]
        place: Place,
    },
    /// End an upload in progress: its URLs stop at once, whoever sends to it is told that it is gone, and its bytes go
    End {
        /// Its id, as the list shows it, or its file's
        id: String,
        #[command(flatten)]
        place: Place,
    },
}

impl UploadCommand {
    pub(super) fn place(&self) -> &Place {
        match self {
            Self::List { place, .. } | Self::End { place, .. } => place,
        }
    }

    pub(super) async fn run(&self, meta: &dyn MetaStore, now: Timestamp) -> Result<Vec<Value>, AdminError> {
        match self {
            Self::List { tenant, state, .. } => {
                let tenant = existing(meta, tenant).await?;
                let state = state.as_deref().and_then(SessionState::from_name);
                let mut shown = Vec::new();
                let mut before = None;
                loop {
                    let filter = UploadFilter { state, now, before, limit: UPLOADS_AT_ONCE, ..UploadFilter::default() };
                    let uploads = meta.uploads(&tenant, filter).await?;
                    shown.extend(uploads.iter().map(|upload| shown_upload(upload, now)));
                    match uploads.last() {
                        Some(last) => before = Some(last.session.id),
                        None => return Ok(shown),
                    }
                }
            }
            Self::End { id, .. } => {
                // A file and its first upload share their id.
                let wanted = FileId::from_public(id).map(|file| SessionId(file.0)).or_else(|| id.parse().ok());
                let unknown = || refused(format!("there is no upload `{id}`: `landfall admin upload list` shows them"));
                let wanted = wanted.ok_or_else(unknown)?;
                let found = async || {
                    let upload = meta.upload(wanted).await?;
                    upload.filter(|upload| upload.session.declaration.is_some()).ok_or_else(unknown)
                };
                let before = found().await?;
                if state_of(&before.session, now) == SessionState::Open {
                    // The rows fence whoever writes; the server that has the writer notices at its next record or sweep.
                    meta.end_session(wanted, SessionState::Failed, now).await?;
                }
                let after = found().await?;
                match state_of(&after.session, now) {
                    SessionState::Failed => Ok(vec![shown_upload(&after, now)]),
                    state => Err(refused(format!("the upload is {}: only an open one can be ended", state.name()))),
                }
            }
        }
    }
}

/// An open session whose time is over has expired, swept or not.
fn state_of(session: &Session, now: Timestamp) -> SessionState {
    match session.state {
        SessionState::Open if session.expires <= now => SessionState::Expired,
        state => state,
    }
}

fn shown_upload(upload: &Upload, now: Timestamp) -> Value {
    let Upload { session, progress, .. } = upload;
    json!({
        "id": session.id, "tenant": session.tenant, "api": session.wire, "strategy": session.strategy.name(),
        "state": state_of(session, now).name(), "name": session.declaration.as_ref().map(|d| &d.name),
        "file": session.file.public(), "size": session.size, "received": progress.received,
        "created": session.created.rfc3339(), "expires": session.expires.rfc3339(),
    })
}
