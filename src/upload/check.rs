//! Checking what must hold between rows and bytes. Reads only, and may run beside a server.

use std::collections::HashSet;

use crate::engine::Engine;
use crate::limits;
use crate::model::file::Version;
use crate::model::ids::SegmentId;
use crate::model::refusal::Refusal;
use crate::upload::read::VersionReader;
use crate::upload::{resume, sweep};
use futures_util::StreamExt;

const BATCH: u32 = 500;

/// What was checked, and what does not hold.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Report {
    /// Versions whose bytes were looked at.
    pub versions: u64,
    /// Uploads in progress whose recorded bytes were looked at.
    pub uploads: u64,
    /// Bytes that the versions promise.
    pub bytes: u64,
    /// Segments without a row that are younger than a day: of bodies under way, or of a crash; the sweeper judges.
    pub unnamed: u64,
    /// What does not hold, a sentence each.
    pub broken: Vec<String>,
}

/// Checks every invariant. With `deep` every byte is read and compared with its checksum.
///
/// # Errors
/// The keepers' own: then nothing is known.
pub async fn everything(engine: &Engine, deep: bool) -> Result<Report, Refusal> {
    // What time alone should have ended is judged by the last sweep: a server that was off for days is not broken.
    let (swept, agreed) = sweep::last(engine).await?.unwrap_or_default();
    let mut report = Report { broken: engine.meta.broken_invariants(swept).await?, ..Report::default() };
    let mut named: HashSet<SegmentId> = HashSet::new();
    let mut after = None;
    loop {
        let versions = engine.meta.versions_above(after, BATCH).await?;
        let Some(last) = versions.last() else { break };
        after = Some(last.id);
        for version in versions {
            report.versions += 1;
            report.bytes += version.size;
            named.extend(version.pieces.iter().map(|piece| piece.segment));
            let broken = bytes_of(engine, &version, deep).await?;
            // A server beside this may have let go of it meanwhile.
            if !broken.is_empty() && engine.meta.version(&version.tenant, version.id).await?.is_some() {
                report.broken.extend(broken);
            }
        }
    }
    let mut after = None;
    loop {
        let uploads = engine.meta.progressing_above(after, BATCH).await?;
        let Some(last) = uploads.last() else { break };
        after = Some(last.session.id);
        for upload in uploads {
            report.uploads += 1;
            let recorded = resume::version_of(&upload);
            named.extend(recorded.pieces.iter().map(|piece| piece.segment));
            let broken = bytes_of(engine, &recorded, deep && engine.blobs.reads_unfinished()).await?;
            // It may have ended meanwhile.
            if !broken.is_empty()
                && engine.meta.upload(upload.session.id).await?.is_some_and(|now| !now.progress.pieces.is_empty())
            {
                report.broken.extend(broken);
            }
        }
    }
    let mut unnamed = Vec::new();
    let all = &mut |batch: Vec<crate::blob::Listed>| {
        unnamed.extend(batch.into_iter().filter(|l| !named.contains(&l.segment)));
    };
    engine.blobs.list(all).await?;
    for batch in unnamed.chunks(1000) {
        let known = engine.meta.known_segments(batch.iter().map(|l| l.segment).collect()).await?;
        for (listed, _) in batch.iter().zip(known).filter(|(_, known)| !known) {
            report.unnamed += 1;
            // The sweeper takes them after a day, once the clocks have agreed for an hour; it had another hour to do so.
            if agreed > limits::CLOCK_AGREEMENT * 2 && listed.written <= swept.minus(limits::ORPHAN_GRACE * 2) {
                report.broken.push(format!("segment {} has no row and was not swept for two days", listed.segment));
            }
        }
    }
    Ok(report)
}

/// What does not hold between a version's rows and its bytes.
async fn bytes_of(engine: &Engine, version: &Version, deep: bool) -> Result<Vec<String>, Refusal> {
    let mut broken = Vec::new();
    for piece in &version.pieces {
        match engine.blobs.length(piece.segment, &piece.backend).await? {
            Some(length) if length >= piece.length => {}
            Some(length) => broken.push(format!(
                "segment {} ends at {length}, its row says {}: bytes are lost",
                piece.segment, piece.length
            )),
            None => broken.push(format!("segment {} is not there: bytes are lost", piece.segment)),
        }
    }
    if deep && let Err(error) = read_whole(engine, version).await {
        broken.push(format!("version {}: {error}", version.id));
    }
    Ok(broken)
}

async fn read_whole(engine: &Engine, version: &Version) -> Result<(), String> {
    let reader = VersionReader::open(engine, version).await.map_err(|e| e.to_string())?;
    let mut stream = reader.stream(0..version.size);
    while let Some(bytes) = stream.next().await {
        bytes.map_err(|error| error.to_string())?;
    }
    Ok(())
}
