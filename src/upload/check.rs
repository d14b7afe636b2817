//! Checking what must hold between rows and bytes. Reads only, and may run beside a server.

use std::collections::HashSet;

use crate::engine::Engine;
use crate::limits;
use crate::model::ids::SegmentId;
use crate::model::refusal::Refusal;
use crate::upload::read::VersionReader;
use crate::upload::sweep;
use futures_util::StreamExt;

const BATCH: u32 = 500;

/// What was checked, and what does not hold.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Report {
    /// Versions whose bytes were looked at.
    pub versions: u64,
    /// Bytes that they promise.
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
            for piece in &version.pieces {
                named.insert(piece.segment);
                match engine.blobs.length(piece.segment, &piece.backend).await? {
                    Some(length) if length >= piece.length => {}
                    Some(length) => report.broken.push(format!(
                        "segment {} ends at {length}, its row says {}: bytes are lost",
                        piece.segment, piece.length
                    )),
                    None => report.broken.push(format!("segment {} is not there: bytes are lost", piece.segment)),
                }
            }
            if deep && let Err(error) = read_whole(engine, &version).await {
                report.broken.push(format!("version {}: {error}", version.id));
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

async fn read_whole(engine: &Engine, version: &crate::model::file::Version) -> Result<(), String> {
    let reader = VersionReader::open(engine, version).await.map_err(|e| e.to_string())?;
    let mut stream = reader.stream(0..version.size);
    while let Some(bytes) = stream.next().await {
        bytes.map_err(|error| error.to_string())?;
    }
    Ok(())
}
