//! The uploads of a tenant, by their ids: found, committed, ended.

use super::access::Grant;
use super::resume::{self, Standing};
use super::{direct, parts};
use crate::engine::{Engine, Trouble};
use crate::meta::{self, UploadFilter};
use crate::model::file::{Declared, Receipt};
use crate::model::ids::{FileId, SessionId, TenantId};
use crate::model::refusal::Refusal;
use crate::model::session::{Hashes, SessionState, Strategy};

/// An upload, and the last trouble that it had.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tracked {
    /// Its rows.
    pub upload: meta::Upload,
    /// Where it stands now: one whose time is over is expired, swept or not.
    pub state: SessionState,
    /// What went wrong last, if that is remembered.
    pub trouble: Option<Trouble>,
    /// How far it has come is known to the store alone, and that was not asked.
    unasked: bool,
}

impl Tracked {
    /// Bytes of it that are durable; `None` where only the store could tell.
    #[must_use]
    pub fn received(&self) -> Option<u64> {
        let known = self.upload.receipt.map_or(self.upload.progress.received, |receipt| receipt.size);
        (!self.unasked).then_some(known)
    }
}

fn unknown() -> Refusal {
    Refusal::NotFound { what: "the upload" }
}

fn tracked(engine: &Engine, upload: meta::Upload) -> Tracked {
    let over = upload.session.state == SessionState::Open && upload.session.expires <= engine.clock.now();
    let state = if over { SessionState::Expired } else { upload.session.state };
    let unasked = state == SessionState::Open && upload.session.direct.is_some();
    Tracked { state, trouble: engine.troubles.of(upload.session.id), upload, unasked }
}

/// Whose upload it is, for those who hold a ticket for it.
///
/// # Errors
/// The keepers' own.
pub async fn tenant_of(engine: &Engine, id: SessionId) -> Result<Option<TenantId>, Refusal> {
    Ok(engine.meta.upload(id).await?.map(|upload| upload.session.tenant))
}

/// The tenant's uploads, newest first.
///
/// # Errors
/// The keepers' own.
pub async fn list(engine: &Engine, tenant: &TenantId, filter: UploadFilter) -> Result<Vec<Tracked>, Refusal> {
    let filter = UploadFilter { now: engine.clock.now(), ..filter };
    let uploads = engine.meta.uploads(tenant, filter).await?;
    Ok(uploads.into_iter().map(|upload| tracked(engine, upload)).collect())
}

/// One upload of the tenant. A request that writes to it at the moment is made to record what it has first; where chunks go
/// to the store itself, that is asked how far they have come.
///
/// # Errors
/// [`Refusal::NotFound`], and [`Refusal::Unavailable`] when the store can't be asked.
pub async fn find(engine: &Engine, tenant: &TenantId, id: SessionId) -> Result<Tracked, Refusal> {
    let found = row(engine, tenant, id).await?;
    if found.state != SessionState::Open || found.upload.session.strategy != Strategy::Resumable {
        return Ok(found);
    }
    if found.upload.session.direct.is_some() {
        let come = direct::come(engine, &found.upload.session, found.upload.paused).await;
        let mut now = row(engine, tenant, id).await?;
        return match come {
            Ok(received) => {
                now.upload.progress.received = received;
                now.unasked = false;
                Ok(now)
            }
            // It is over, and says why.
            Err(_) if now.state != SessionState::Open => Ok(now),
            Err(refusal) => Err(refusal),
        };
    }
    engine.seats.ask(id).await;
    row(engine, tenant, id).await
}

async fn row(engine: &Engine, tenant: &TenantId, id: SessionId) -> Result<Tracked, Refusal> {
    let found = engine.meta.upload(id).await?;
    let own = found.filter(|u| u.session.tenant == *tenant && u.session.declaration.is_some());
    own.map(|upload| tracked(engine, upload)).ok_or_else(unknown)
}

/// An upload that bytes may be sent to.
///
/// # Errors
/// [`Refusal::NotFound`], [`Refusal::Gone`], [`Refusal::Conflict`].
pub async fn live(engine: &Engine, grant: &Grant, id: SessionId) -> Result<Tracked, Refusal> {
    let found = row(engine, grant.tenant(), id).await?;
    match found.state {
        SessionState::Open => Ok(found),
        ended => Err(over(ended)),
    }
}

fn over(state: SessionState) -> Refusal {
    match state {
        SessionState::Expired => Refusal::Gone { what: "the upload", reason: "its time ran out".into() },
        SessionState::Aborted => Refusal::Gone { what: "the upload", reason: "it was cancelled".into() },
        SessionState::Open | SessionState::Committed | SessionState::Failed => {
            Refusal::Conflict { reason: format!("the upload is {}: no more bytes can be sent to it", state.name()) }
        }
    }
}

/// Why an upload that is not open any more takes nothing.
pub(super) async fn ended(engine: &Engine, tenant: &TenantId, id: SessionId) -> Result<Refusal, Refusal> {
    Ok(match engine.meta.session(tenant, id).await? {
        None => unknown(),
        // Open it can only be as long as nobody has swept it, or when it ended with its file.
        Some(session) if session.state == SessionState::Open && session.expires > engine.clock.now() => {
            Refusal::Gone { what: "the upload", reason: "its file was deleted".into() }
        }
        Some(session) if session.state == SessionState::Open => over(SessionState::Expired),
        Some(session) => over(session.state),
    })
}

/// Ends an upload at the client's wish; its locations stop at once and its bytes go. One that ended before stays as it is.
///
/// # Errors
/// [`Refusal::NotFound`], [`Refusal::Conflict`] for a committed one.
pub async fn abort(engine: &Engine, grant: &Grant, id: SessionId) -> Result<(), Refusal> {
    let found = row(engine, grant.tenant(), id).await?;
    if found.upload.session.strategy == Strategy::Resumable && found.upload.session.direct.is_none() {
        resume::cancel(engine, id).await?;
    } else {
        engine.meta.end_session(id, SessionState::Aborted, engine.clock.now()).await?;
        engine.work.wake();
    }
    match row(engine, grant.tenant(), id).await?.state {
        SessionState::Committed => {
            Err(Refusal::Conflict { reason: "the upload is committed: delete its file instead".into() })
        }
        SessionState::Open => Err(Refusal::Unavailable),
        SessionState::Aborted | SessionState::Expired | SessionState::Failed => Ok(()),
    }
}

/// What whoever asks for the commit says about the whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Claim {
    /// Its size in bytes.
    pub size: Option<u64>,
    /// Its digests.
    pub digests: Declared,
}

/// The receipt of an upload. One whose bytes are all there is committed first; most commit themselves with their last
/// byte.
///
/// # Errors
/// [`Refusal::UploadIncomplete`], [`Refusal::DigestMismatch`] with both values, [`Refusal::Conflict`] when the committed
/// bytes are others than claimed, [`Refusal::Invalid`] for a digest that nobody computed, [`Refusal::Gone`].
pub async fn commit(engine: &Engine, grant: &Grant, id: SessionId, claim: Claim) -> Result<(FileId, Receipt), Refusal> {
    let mut found = row(engine, grant.tenant(), id).await?;
    if found.upload.session.strategy == Strategy::Multipart {
        return parts::complete(engine, grant, id, claim).await;
    }
    let direct = found.upload.session.direct.is_some();
    if found.state == SessionState::Open && found.upload.session.strategy == Strategy::Resumable && !direct {
        conclude(engine, &found, claim).await?;
        found = row(engine, grant.tenant(), id).await?;
    }
    if found.state == SessionState::Open && direct {
        let session = &found.upload.session;
        check_size(session.size, claim)?;
        match session.strategy {
            Strategy::Resumable => direct::conclude(engine, session, claim).await?,
            Strategy::Single | Strategy::Multipart => {
                direct::single(engine, session, &claim.digests).await?;
            }
        }
        found = row(engine, grant.tenant(), id).await?;
    }
    let session = &found.upload.session;
    match (found.state, found.upload.receipt) {
        (SessionState::Committed, Some(receipt)) => {
            claim.agrees(&receipt)?;
            Ok((session.file, receipt))
        }
        (SessionState::Open | SessionState::Committed, _) => {
            check_size(session.size, claim)?;
            let received = found.received().unwrap_or(0);
            Err(Refusal::UploadIncomplete { received, expected: session.size.or(claim.size) })
        }
        (ended, _) => Err(over(ended)),
    }
}

async fn conclude(engine: &Engine, found: &Tracked, claim: Claim) -> Result<(), Refusal> {
    let session = &found.upload.session;
    check_size(session.size, claim)?;
    let kept = session.declaration.as_ref().map_or(Hashes::default(), |d| d.hashes);
    let received = found.received().unwrap_or(0);
    if received > 0 {
        computed("digests.md5", claim.digests.md5.is_some(), kept.md5)?;
        computed("digests.sha256", claim.digests.sha256.is_some(), kept.sha256)?;
    }
    let Some(total) = session.size.or(claim.size) else {
        // Only the client knows where a file of unknown size ends.
        return Err(Refusal::UploadIncomplete { received, expected: None });
    };
    match resume::conclude(engine, session.id, total, &claim.digests).await? {
        Standing::Done(_) => Ok(()),
        Standing::Open { received } => Err(Refusal::UploadIncomplete { received, expected: Some(total) }),
        Standing::Cancelled | Standing::Unknown | Standing::Failed => Ok(()),
    }
}

fn computed(field: &'static str, claimed: bool, kept: bool) -> Result<(), Refusal> {
    if claimed && !kept {
        let reason = "was not computed as the bytes came: declare it when the upload is opened, or name a CRC";
        return Err(Refusal::invalid(field, reason));
    }
    Ok(())
}

fn check_size(declared: Option<u64>, claim: Claim) -> Result<(), Refusal> {
    match (declared, claim.size) {
        (Some(size), Some(claimed)) if size != claimed => Err(Refusal::DigestMismatch {
            algorithm: "size",
            declared: claimed.to_string(),
            received: size.to_string(),
        }),
        _ => Ok(()),
    }
}

impl Claim {
    /// Does what is claimed hold for what was committed?
    ///
    /// # Errors
    /// [`Refusal::Conflict`], or [`Refusal::Invalid`] for a digest that nobody computed.
    pub(super) fn agrees(self, receipt: &Receipt) -> Result<(), Refusal> {
        agree(receipt, self)
    }
}

fn agree(receipt: &Receipt, claim: Claim) -> Result<(), Refusal> {
    let other = |name: &str, claimed: String, stored: String| {
        let reason = format!("the upload is committed with the {name} {stored}, not {claimed}");
        Err(Refusal::Conflict { reason })
    };
    let (claimed, stored) = (claim.digests, receipt.digests);
    if let Some(size) = claim.size.filter(|size| *size != receipt.size) {
        return other("size", size.to_string(), receipt.size.to_string());
    }
    let untold = claimed.untold_by(&stored);
    computed("digests.crc32c", untold.crc32c.is_some(), false)?;
    computed("digests.crc64nvme", untold.crc64nvme.is_some(), false)?;
    if let (Some(claimed), Some(stored)) = (claimed.crc32c, stored.crc32c)
        && claimed != stored
    {
        return other("crc32c", format!("{claimed:08x}"), format!("{stored:08x}"));
    }
    if let (Some(claimed), Some(stored)) = (claimed.crc64nvme, stored.crc64nvme)
        && claimed != stored
    {
        return other("crc64nvme", format!("{claimed:016x}"), format!("{stored:016x}"));
    }
    computed("digests.md5", claimed.md5.is_some(), stored.md5.is_some())?;
    computed("digests.sha256", claimed.sha256.is_some(), stored.sha256.is_some())?;
    if let (Some(claimed), Some(stored)) = (claimed.md5, stored.md5)
        && claimed != stored
    {
        return other("md5", hex::encode(claimed), hex::encode(stored));
    }
    if let (Some(claimed), Some(stored)) = (claimed.sha256, stored.sha256)
        && claimed != stored
    {
        return other("sha256", hex::encode(claimed), hex::encode(stored));
    }
    Ok(())
}
