//! Files of a tenant: registered after their upload, found, listed, deleted.

use super::access::Grant;
use super::direct;
use super::pour::verify;
use super::read::{self, VersionReader};
use super::track::Claim;
use crate::engine::Engine;
use crate::faults;
use crate::limits;
use crate::meta::{FileDeleted, FileFilter, Holder, RegisterFile, Registered};
use crate::model::file::{Declared, FileRecord, Version};
use crate::model::ids::{FileId, SessionId, TenantId};
use crate::model::refusal::Refusal;
use crate::model::session::{Hashes, Session, SessionState, Strategy};

/// A file to register, as its uploader describes it.
#[derive(Clone, Debug)]
pub struct Register<'a> {
    /// Which one.
    pub file: FileId,
    /// The wire that its upload was opened on: what another one opened, or what was opened for a store, is unknown here.
    /// After the upload's row is forgotten nobody can tell, and a repetition is a repetition. `None` for what the
    /// caller uploaded itself.
    pub wire: Option<&'a str>,
    /// The name that its upload was opened with, where the client knows the file by it.
    pub stored_as: Option<&'a str>,
    /// What to call it: 1 to 255 characters. `None` keeps the name that its upload was opened with.
    pub name: Option<&'a str>,
    /// Its size in bytes, which must be that of the stored bytes: what the client calls it, and the value.
    pub size: Option<(&'static str, u64)>,
    /// Its media type, which must be the one declared when the upload was opened; parameters do not count.
    pub mime_type: Option<(&'static str, &'a str)>,
    /// What the stored bytes must have.
    pub digests: Declared,
}

/// Makes an uploaded file one of the tenant's files. True when it was not before: a repetition has no effect.
///
/// # Errors
/// [`Refusal::NotFound`], [`Refusal::UploadIncomplete`], [`Refusal::Invalid`] for what differs from the stored file,
/// [`Refusal::DigestMismatch`], and the keepers' own. The upload stays as it is with each of them.
pub async fn register(engine: &Engine, grant: &Grant, ask: Register<'_>) -> Result<(FileRecord, bool), Refusal> {
    if let Some(wire) = ask.wire
        && let Some(session) = engine.meta.session(grant.tenant(), SessionId(ask.file.0)).await?
        && (session.wire != wire || session.declaration.is_none_or(|declaration| declaration.store.is_some()))
    {
        return Err(Refusal::NotFound { what: "the file" });
    }
    let found = uploaded(engine, grant, ask.file).await?;
    if ask.stored_as.is_some_and(|name| name != found.stored_as) {
        return Err(Refusal::NotFound { what: "the file" });
    }
    if let Some((field, size)) = ask.size
        && size != found.size
    {
        return Err(Refusal::invalid(field, format!("is {size}, the stored file has {} bytes", found.size)));
    }
    if let Some((field, mime_type)) = ask.mime_type
        && !essence(mime_type).eq_ignore_ascii_case(essence(&found.mime_type))
    {
        let declared = essence(&found.mime_type);
        return Err(Refusal::invalid(field, format!("is not {declared}, which the upload was opened with")));
    }
    compare(engine, grant, &found, &ask.digests).await?;
    faults::point("file.checked");
    let register = RegisterFile {
        tenant: grant.tenant().clone(),
        file: ask.file,
        name: ask.name.map_or_else(|| found.name.clone(), str::to_owned),
        now: engine.clock.now(),
    };
    match engine.meta.register_file(register).await? {
        Registered::New(file) => {
            faults::point("file.registered");
            metrics::counter!("landfall_files_registered_total").increment(1);
            Ok((file, true))
        }
        Registered::Before(file) => Ok((file, false)),
        Registered::Gone => Err(Refusal::NotFound { what: "the file" }),
    }
}

/// A file whose upload is complete, registered or not.
///
/// # Errors
/// [`Refusal::UploadIncomplete`] while its bytes still come, [`Refusal::NotFound`].
pub async fn uploaded(engine: &Engine, grant: &Grant, id: FileId) -> Result<FileRecord, Refusal> {
    let unknown = Refusal::NotFound { what: "the file" };
    if let Some(found) = engine.meta.file_record(grant.tenant(), id).await? {
        let over = found.registered.is_none()
            && engine
                .meta
                .session(grant.tenant(), SessionId(id.0))
                .await?
                .is_none_or(|session| session.expires <= engine.clock.now());
        return if over { Err(unknown) } else { Ok(found) };
    }
    if arrive(engine, grant, id).await?
        && let Some(found) = engine.meta.file_record(grant.tenant(), id).await?
    {
        return Ok(found);
    }
    match engine.meta.upload(SessionId(id.0)).await? {
        Some(upload)
            if upload.session.tenant == *grant.tenant()
                && upload.session.state == SessionState::Open
                && upload.session.declaration.is_some()
                && upload.session.expires > engine.clock.now() =>
        {
            Err(Refusal::UploadIncomplete { received: upload.progress.received, expected: upload.session.size })
        }
        _ => Err(unknown),
    }
}

/// Commits a file whose chunks went to the store itself, if it is one that is open; whether it was.
///
/// # Errors
/// [`Refusal::UploadIncomplete`] while its bytes still come, [`Refusal::DigestMismatch`] and others for what can't be what was
/// declared, [`Refusal::Gone`] when the store has lost it, and the keepers' own.
pub async fn arrive(engine: &Engine, grant: &Grant, id: FileId) -> Result<bool, Refusal> {
    if !engine.blobs.knows_direct() {
        return Ok(false);
    }
    let session = engine.meta.session(grant.tenant(), SessionId(id.0)).await?;
    let waits = |session: &Session| {
        session.direct.is_some()
            && session.strategy == Strategy::Resumable
            && session.state == SessionState::Open
            && session.expires > engine.clock.now()
    };
    match session.filter(waits) {
        Some(session) => match direct::conclude(engine, &session, Claim::default()).await {
            Ok(()) => Ok(true),
            Err(Refusal::Gone { .. }) if is_aborted(engine, &session).await? => Ok(false),
            Err(refusal) => Err(refusal),
        },
        None => Ok(false),
    }
}

/// Has its client cancelled it at the store? Then it is as unknown as one that was cancelled here.
async fn is_aborted(engine: &Engine, session: &Session) -> Result<bool, Refusal> {
    let now = engine.meta.session(&session.tenant, session.id).await?;
    Ok(now.is_some_and(|now| now.state == SessionState::Aborted))
}

fn essence(mime_type: &str) -> &str {
    mime_type.split(';').next().unwrap_or_default().trim()
}

/// Compares digests that are named late: from the rows where they are known, else by one read of the bytes.
async fn compare(engine: &Engine, grant: &Grant, file: &FileRecord, declared: &Declared) -> Result<(), Refusal> {
    let known = file.digests;
    let wanted = Hashes {
        md5: declared.md5.is_some() && known.md5.is_none(),
        sha256: declared.sha256.is_some() && known.sha256.is_none(),
    };
    let crcs_known = (declared.crc32c.is_none() || known.crc32c.is_some())
        && (declared.crc64nvme.is_none() || known.crc64nvme.is_some());
    if wanted == Hashes::default() && crcs_known {
        return verify(declared, &known);
    }
    let Some(version) = engine.meta.version(grant.tenant(), file.version).await? else {
        return Err(Refusal::NotFound { what: "the content" });
    };
    let read = read::digests(engine, &version, wanted).await?;
    verify(declared, &known.or(read))
}

/// A registered file of the tenant.
///
/// # Errors
/// [`Refusal::NotFound`].
pub async fn find(engine: &Engine, tenant: &TenantId, id: FileId) -> Result<FileRecord, Refusal> {
    let found = engine.meta.file_record(tenant, id).await?.filter(|file| file.registered.is_some());
    found.ok_or(Refusal::NotFound { what: "the file" })
}

/// The stores that hold a file.
///
/// # Errors
/// The keepers' own.
pub async fn holders(engine: &Engine, file: &FileRecord) -> Result<Vec<Holder>, Refusal> {
    Ok(engine.meta.holders_of(&file.tenant, file.id).await?)
}

/// The versions of a file that are kept, newest first; their pieces are left out.
///
/// # Errors
/// The keepers' own.
pub async fn versions(engine: &Engine, file: &FileRecord) -> Result<Vec<Version>, Refusal> {
    Ok(engine.meta.versions_of(&file.tenant, file.id).await?)
}

/// The tenant's registered files, newest first.
///
/// # Errors
/// The keepers' own.
pub async fn list(engine: &Engine, tenant: &TenantId, filter: FileFilter) -> Result<Vec<FileRecord>, Refusal> {
    Ok(engine.meta.files(tenant, filter).await?)
}

/// How many files of the tenant are registered.
///
/// # Errors
/// The keepers' own.
pub async fn count(engine: &Engine, tenant: &TenantId) -> Result<u64, Refusal> {
    Ok(engine.meta.count_files(tenant).await?)
}

/// Opens a file's bytes; what is open is read to its end also when the file is deleted meanwhile.
///
/// # Errors
/// [`Refusal::NotFound`], and the keepers' own.
pub async fn open(engine: &Engine, file: &FileRecord) -> Result<VersionReader, Refusal> {
    read::version(engine, &file.tenant, file.version).await
}

/// Takes back a file that was uploaded and never registered; one that is registered stays.
///
/// # Errors
/// The keepers' own.
pub async fn discard(engine: &Engine, grant: &Grant, id: FileId) -> Result<(), Refusal> {
    if engine.meta.discard_file(grant.tenant(), id, engine.clock.now()).await? {
        engine.work.wake();
    }
    Ok(())
}

/// Deletes a file; it leaves every store, and its bytes are given back. Without `force` only one that no registration
/// but its own holds.
///
/// # Errors
/// [`Refusal::NotFound`], [`Refusal::Conflict`].
pub async fn delete(engine: &Engine, grant: &Grant, id: FileId, force: bool) -> Result<(), Refusal> {
    let now = engine.clock.now();
    match engine.meta.delete_file(grant.tenant(), id, force, now, limits::DOWNLOAD_MAX).await? {
        FileDeleted::Done => {
            engine.work.wake();
            Ok(())
        }
        FileDeleted::Missing => Err(Refusal::NotFound { what: "the file" }),
        FileDeleted::Held(count) => Err(Refusal::Conflict {
            reason: format!("{count} registrations hold the file: remove it from its stores, or delete it with force"),
        }),
    }
}
