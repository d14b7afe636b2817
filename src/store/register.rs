//! Files in stores: taken in after their upload, attached, processed again, let go.

use super::{FILE, unknown};
use crate::clock::ordered_uuid;
use crate::engine::Engine;
use crate::faults;
use crate::limits;
use crate::meta::{LinkFile, Linked};
use crate::model::ids::{FileId, SessionId, StoreFileId, TenantId};
use crate::model::refusal::Refusal;
use crate::model::session::SessionState;
use crate::model::store::{self, Store, StoreFile};

/// Files that one transaction takes out of a store.
const REMOVED_AT_ONCE: usize = 500;

/// Takes an uploaded file into the store that its upload was opened for, on this wire. The file becomes one of the tenant's, and its
/// processing is due. True when it was not in the store before: a repetition has no effect. `path` replaces the one that the
/// upload was opened with.
///
/// # Errors
/// [`Refusal::NotFound`] for what was not uploaded for this store, [`Refusal::UploadIncomplete`], [`Refusal::Invalid`] for
/// the path, named `field`, and [`Refusal::TargetUnknown`] when the store was deleted meanwhile.
pub async fn register(
    engine: &Engine,
    tenant: &TenantId,
    store: &Store,
    wire: &str,
    id: &str,
    path: Option<(&'static str, &str)>,
) -> Result<(StoreFile, bool), Refusal> {
    let gone = Refusal::NotFound { what: FILE };
    let Some(id) = FileId::from_public(id) else { return Err(gone) };
    let path = path.map(|(field, path)| checked_path(field, path)).transpose()?.flatten();
    let upload = engine.meta.upload(SessionId(id.0)).await?.filter(|upload| upload.session.tenant == *tenant);
    let declared = upload.as_ref().and_then(|upload| upload.session.declaration.as_ref());
    let path = match (&upload, declared) {
        (Some(upload), Some(declared)) if declared.store == Some(store.id) && upload.session.wire == wire => {
            let live = upload.session.expires > engine.clock.now();
            match upload.session.state {
                SessionState::Open if live => {
                    return Err(Refusal::UploadIncomplete {
                        received: upload.progress.received,
                        expected: upload.session.size,
                    });
                }
                SessionState::Committed if live => path.or_else(|| declared.store_path.clone()),
                // What was registered in its time stays registered; the repetition is answered from the row.
                _ => return held(engine, store, id).await,
            }
        }
        (Some(_), _) => return Err(gone),
        (None, _) => return held(engine, store, id).await,
    };
    link(engine, tenant, store, id, path, false).await
}

async fn held(engine: &Engine, store: &Store, id: FileId) -> Result<(StoreFile, bool), Refusal> {
    let found = engine.meta.store_file(store.row, id).await?;
    found.map(|file| (file, false)).ok_or(Refusal::NotFound { what: FILE })
}

/// Takes one of the tenant's files into a store, or brings the store to the file's current version. True when that changed
/// anything.
///
/// # Errors
/// [`Refusal::NotFound`], [`Refusal::TargetUnknown`].
pub async fn attach(
    engine: &Engine,
    tenant: &TenantId,
    store: &Store,
    id: &str,
    path: Option<(&'static str, &str)>,
) -> Result<(StoreFile, bool), Refusal> {
    let Some(id) = FileId::from_public(id) else { return Err(Refusal::NotFound { what: FILE }) };
    let path = path.map(|(field, path)| checked_path(field, path)).transpose()?.flatten();
    link(engine, tenant, store, id, path, true).await
}

async fn link(
    engine: &Engine,
    tenant: &TenantId,
    store: &Store,
    file: FileId,
    path: Option<String>,
    registered_only: bool,
) -> Result<(StoreFile, bool), Refusal> {
    let now = engine.clock.now();
    let link = LinkFile {
        store: store.row,
        tenant: tenant.clone(),
        file,
        id: StoreFileId(ordered_uuid(now)),
        path,
        registered_only,
        now,
        keep_replaced: limits::DOWNLOAD_MAX,
    };
    match engine.meta.link_file(link).await? {
        Linked::New(file) => {
            faults::point("store.registered");
            engine.work.wake();
            metrics::counter!("landfall_store_files_registered_total").increment(1);
            Ok((file, true))
        }
        Linked::Before(file) => Ok((file, false)),
        Linked::FileGone => Err(Refusal::NotFound { what: FILE }),
        Linked::StoreGone => Err(unknown(&store.id.public())),
    }
}

/// A path within a store as it is kept; an empty one is none.
///
/// # Errors
/// [`Refusal::Invalid`] for `field`.
pub fn checked_path(field: &'static str, path: &str) -> Result<Option<String>, Refusal> {
    store::check_path(path).map_err(|reason| Refusal::invalid(field, reason))?;
    Ok(Some(path.to_owned()).filter(|path| !path.is_empty()))
}

/// Makes a file's processing due again when it has ended, well or not.
///
/// # Errors
/// [`Refusal::NotFound`].
pub async fn retry(engine: &Engine, file: &StoreFile) -> Result<StoreFile, Refusal> {
    let again = engine.meta.retry_file(file.store_row, file.file, engine.clock.now()).await?;
    engine.work.wake();
    again.ok_or(Refusal::NotFound { what: FILE })
}

/// Takes files out of a store, those that are in it. They stay the tenant's. Says how many there were.
///
/// # Errors
/// The keepers' own; what was taken out stays out.
pub async fn remove(engine: &Engine, store: &Store, files: &[FileId]) -> Result<u64, Refusal> {
    let mut count = 0;
    for some in files.chunks(REMOVED_AT_ONCE) {
        let now = engine.clock.now();
        count += engine.meta.unlink_files(store.row, some.to_vec(), now, limits::DOWNLOAD_MAX).await?;
    }
    engine.work.wake();
    Ok(count)
}
