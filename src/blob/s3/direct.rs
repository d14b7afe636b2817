//! Objects that clients send to the store themselves: signed for them, looked for, and pinned.
//!
//! They lie under one key of their session. Where the bucket keeps versions, each of them is a segment of its own, whose
//! name follows from the version; else the key takes one object, which the signature sees to.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use http::Method;
use sha2::{Digest, Sha256};

use super::S3;
use super::content::Content;
use super::flavour::Condition;
use super::google::{Google, session};
use super::layout::Pin;
use super::objects::Stat;
use super::wire::{Sent, completion};
use crate::blob::remote::{Ask, Body, Fault, Kind};
use crate::blob::{Arrived, ArrivedPart, BlobError, Direct, Forms, PutAsk, Reached, SessionAsk, Ticket, Wanted};
use crate::clock::random_uuid;
use crate::model::ids::{SegmentId, SessionId};

/// The longest body of one PUT, of Amazon's stores. Google's take more.
const PUT_BYTES: u64 = 5 * 1024 * 1024 * 1024;
/// The version of what was put while the bucket kept none: it is replaced by the next.
const NO_VERSION: &str = "null";

/// The name of one version, or of the only object there is, also when the bucket has begun to keep versions since.
pub(super) fn segment(session: SessionId, version: Option<&str>) -> SegmentId {
    let Some(version) = version.filter(|version| *version != NO_VERSION) else { return SegmentId::direct(session) };
    let mut first = [0; 8];
    first.copy_from_slice(&Sha256::digest(version)[..8]);
    SegmentId { attempt: u64::from_be_bytes(first).max(1), ..SegmentId::direct(session) }
}

/// A header's name as documents write it.
fn said(name: &str) -> String {
    let upper = |word: &str| word[..1].to_ascii_uppercase() + &word[1..];
    name.split('-').map(upper).collect::<Vec<_>>().join("-")
}

impl S3 {
    /// Where what clients send for a session lies.
    pub(super) fn direct_key(&self, session: SessionId) -> String {
        self.key(SegmentId::direct(session))
    }

    fn sessions(&self) -> Result<&Google, Fault> {
        self.flavour().sessions().ok_or_else(|| Fault { kind: Kind::Unserved, what: "it has no sessions".into() })
    }

    /// Ends a session that clients may still send to, and takes what came of it.
    pub(super) async fn end_session(&self, session: SessionId, location: &str) -> Result<(), Fault> {
        if let Some(google) = self.flavour().sessions() {
            session::end(&self.shared.caller, google, location).await?;
        }
        self.remove(&self.direct_key(session)).await
    }

    /// What a pin names, if it is there and still what it was. What has a number never becomes anything else.
    pub(super) async fn pinned(&self, segment: SegmentId, pin: &Pin) -> Result<Option<Stat>, Fault> {
        let found = self.head_version(&self.direct_key(segment.session), pin.version.as_deref()).await?;
        let numbered = self.flavour().numbers() && pin.version.is_some();
        Ok(found.filter(|found| numbered || pin.etag.is_none() || found.etag == pin.etag))
    }

    /// Does the bucket do what clients' own requests rely on?
    pub(super) async fn check_direct(&self, key: &str, version: Option<&str>, wanted: Wanted) -> Result<(), Fault> {
        let create_only = self.flavour().create_only();
        let told = self.flavour().own(key, &[create_only]).await?;
        // The signature is over a header that does not come.
        let head = self.shared.caller.sent_to(&told, Vec::new(), Bytes::from_static(b"!")).await?;
        if (200..300).contains(&head.status) {
            return Err(Fault::lasting(
                "it takes a request without a header that was signed, so that clients can't send to it themselves: \
                 leave `direct` out",
            ));
        }
        if wanted.create_only {
            let ask = Ask::new("PutObject", Method::PUT, key)
                .header(create_only.0, create_only.1)
                .body(Body::Text("again".into()));
            match self.shared.caller.call(&ask).await {
                Err(fault) if fault.kind == Kind::Changed => {}
                Err(fault) => return Err(fault),
                Ok(_) => {
                    let (name, value) = (said(create_only.0), create_only.1);
                    return Err(Fault::lasting(format!(
                        "it puts an object over another one also with `{name}: {value}`, so that what was checked could be \
                         replaced: leave the APIs that need it out of `direct`"
                    )));
                }
            }
        }
        if let Some(google) = self.flavour().sessions() {
            let caller = &self.shared.caller;
            // Under a name of its own: the probe is there.
            let ask = SessionAsk { session: SessionId(random_uuid()), size: 1, content_type: "", page: None };
            let location = session::begin(caller, google, &format!("{key}-session"), ask).await?;
            session::end(caller, google, &location).await?;
        }
        if wanted.versions && !self.tells_versions_apart(key, version).await? {
            return Err(Fault::lasting(
                "it keeps no versions of objects, which an API in `direct` needs whose clients send always the same \
                 headers: switch versioning on, or leave that API out of `direct`",
            ));
        }
        Ok(())
    }

    /// Is this version of an object what it was, once another is put in its place? There are stores that name versions and
    /// keep none.
    async fn tells_versions_apart(&self, key: &str, version: Option<&str>) -> Result<bool, Fault> {
        let Some(version) = version.filter(|version| *version != NO_VERSION) else { return Ok(false) };
        let before = self.head_version(key, Some(version)).await?;
        self.put(key, &Arc::new(Content::of(Bytes::from_static(b"Another text in its place.")))).await?;
        let after = self.head_version(key, Some(version)).await?;
        Ok(before.is_some() && before == after && self.keeps_versions().await?)
    }

    async fn arrived_as(&self, session: SessionId, found: Stat, create_only: bool) -> Result<Arrived, Fault> {
        // As the listing will have it: what is named and not kept can't be pinned by its name.
        let numbers = self.flavour().numbers();
        let kept = found.version.is_some() && (numbers || self.keeps_versions().await?);
        let version = found.version.filter(|version| kept && version != NO_VERSION);
        if version.is_none() && !create_only {
            return Err(Fault::lasting(
                "the bucket keeps no versions any more: what a client sent can't be told apart",
            ));
        }
        // What is numbered is the only one of its key, and has the key's name.
        let segment = segment(session, version.as_deref().filter(|_| !numbers));
        let etag = found.etag.clone().map(|etag| etag.trim_matches('"').to_owned());
        // Where a number says which bytes they are, the ETag may change with what is said about them.
        let etag_pinned = found.etag.filter(|_| !numbers || version.is_none());
        let pin = Pin { version, etag: etag_pinned };
        Ok(Arrived { segment, backend: pin.to_string(), length: found.size, digests: found.digests, etag })
    }
}

#[async_trait]
impl Direct for S3 {
    fn forms(&self) -> Forms {
        Forms { parts: true, sessions: self.flavour().sessions().is_some(), put_bytes: PUT_BYTES }
    }

    async fn ticket(&self, ask: PutAsk<'_>) -> Result<Ticket, BlobError> {
        let checks = self.flavour().checks(&ask, self.shared.checksums);
        let mut headers: Vec<(&str, &str)> = ask.headers.to_vec();
        headers.extend(ask.create_only.then_some(self.flavour().create_only()));
        headers.extend(checks.iter().map(|(name, value)| (*name, value.as_str())));
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let told = headers.iter().map(owned).collect();
        // Signed as well, and nothing that a client has to be told: it says how long its body is.
        let length = self.flavour().length(ask.bytes);
        headers.extend(length.iter().map(|(name, value)| (*name, value.as_str())));
        let key = self.direct_key(ask.session);
        let urls = self.flavour().public(&key, vec![Vec::new()], &headers, ask.life_seconds).await?;
        Ok(Ticket { url: urls.into_iter().next().unwrap_or_default(), headers: told })
    }

    async fn begin_parts(&self, session: SessionId) -> Result<String, BlobError> {
        // Without a word about checksums: each part may come as its client can send it.
        Ok(self.begin_plain(SegmentId::direct(session)).await?)
    }

    async fn part_tickets(
        &self,
        session: SessionId,
        upload: &str,
        numbers: &[u32],
        life_seconds: u32,
    ) -> Result<Vec<String>, BlobError> {
        let key = self.direct_key(session);
        let query =
            |number: &u32| vec![("partNumber".into(), number.to_string()), ("uploadId".into(), upload.to_owned())];
        Ok(self.flavour().public(&key, numbers.iter().map(query).collect(), &[], life_seconds).await?)
    }

    async fn arrived(&self, session: SessionId, create_only: bool) -> Result<Option<Arrived>, BlobError> {
        let found = self.head_version(&self.direct_key(session), None).await?;
        match found {
            Some(found) => Ok(Some(self.arrived_as(session, found, create_only).await?)),
            None => Ok(None),
        }
    }

    async fn arrived_parts(&self, session: SessionId, upload: &str) -> Result<Option<Vec<ArrivedPart>>, BlobError> {
        let parts = self.parts(SegmentId::direct(session), upload).await?;
        let part =
            |part: super::StoredPart| ArrivedPart { number: part.sent.number, length: part.size, etag: part.sent.etag };
        Ok(parts.map(|parts| parts.into_iter().map(part).collect()))
    }

    async fn join(
        &self,
        session: SessionId,
        upload: &str,
        parts: &[ArrivedPart],
    ) -> Result<Option<Arrived>, BlobError> {
        let key = self.direct_key(session);
        let sent = |part: &ArrivedPart| Sent { number: part.number, etag: part.etag.clone(), checksum: None };
        let document = completion(&parts.iter().map(sent).collect::<Vec<_>>());
        let condition = self.flavour().join_condition();
        let ask = |condition: Option<Condition>| {
            let ask = Ask::new("CompleteMultipartUpload", Method::POST, &key)
                .query("uploadId", upload)
                .body(Body::Text(document.clone()))
                .answered_by("CompleteMultipartUploadResult");
            if let Some((name, value)) = condition { ask.header(name, value) } else { ask }
        };
        let mut joined = self.shared.caller.call(&ask(condition)).await;
        // Nobody else has a way to put anything there: a store that does not know the condition can do without.
        if condition.is_some()
            && joined.as_ref().is_err_and(|fault| matches!(fault.kind, Kind::Lasting | Kind::Unserved))
        {
            joined = self.shared.caller.call(&ask(None)).await;
        }
        let done = joined.is_ok();
        match joined {
            Ok(_) => {}
            // Done before, by a call whose answer was lost or by somebody else, if what is there is as long.
            Err(fault) if matches!(fault.kind, Kind::Missing | Kind::Changed) => {}
            Err(fault) => return Err(fault.into()),
        }
        let length: u64 = parts.iter().map(|part| part.length).sum();
        let count = |etag: &str| etag.rsplit_once('-').and_then(|(_, count)| count.parse::<usize>().ok());
        let found = self.arrived(session, true).await?;
        let same = |found: &Arrived| {
            let parts_told = found.etag.as_deref().and_then(count);
            found.length == length && parts_told.is_none_or(|told| told == parts.len())
        };
        match found {
            Some(found) if !same(&found) => {
                Err(Fault::lasting(format!("{key} is not what its parts were: {} bytes of {length}", found.length))
                    .into())
            }
            // It has just said that it made it.
            None if done => Err(Fault::lasting(format!("{key} was made of its parts and is not there")).into()),
            found => Ok(found),
        }
    }

    async fn begin_session(&self, ask: SessionAsk<'_>) -> Result<String, BlobError> {
        let key = self.direct_key(ask.session);
        Ok(session::begin(&self.shared.caller, self.sessions()?, &key, ask).await?)
    }

    async fn reached(&self, location: &str, size: u64) -> Result<Reached, BlobError> {
        Ok(session::reached(&self.shared.caller, self.sessions()?, location, size).await?)
    }

    async fn abandon(&self, session: SessionId, upload: &str) -> Result<(), BlobError> {
        if session::is_location(upload) {
            return Ok(session::end(&self.shared.caller, self.sessions()?, upload).await?);
        }
        Ok(self.abort(&self.direct_key(session), upload).await?)
    }
}
