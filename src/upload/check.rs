//! Checking what must hold between rows and bytes. Reads only, and may run beside a server.

use std::collections::HashSet;

use crate::engine::Engine;
use crate::limits;
use crate::meta::Upload;
use crate::model::file::Version;
use crate::model::ids::SegmentId;
use crate::model::refusal::Refusal;
use crate::model::session::Strategy;
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
    /// Segments without a row.
    pub unnamed: u64,
    /// Those of them that nothing is wrong with yet, a sentence each: of bodies under way, or of a crash; the sweeper judges.
    pub under_way: Vec<String>,
    /// What does not hold, a sentence each.
    pub broken: Vec<String>,
}

/// Checks every invariant. With `deep` every byte is read and compared with its checksum.
///
/// # Errors
/// The keepers' own: then nothing is known.
pub async fn everything(engine: &Engine, deep: bool) -> Result<Report, Refusal> {
    // What time alone should have ended is judged by the last sweep: a server that was off for days is not broken.
    let last = sweep::last(engine).await?;
    let (swept, agreed) = last.unwrap_or_default();
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
            // Somebody beside this may have let go of it meanwhile, or moved its bytes.
            if !broken.is_empty()
                && let Some(now) = engine.meta.version(&version.tenant, version.id).await?
            {
                named.extend(now.pieces.iter().map(|piece| piece.segment));
                let broken = if now.pieces == version.pieces { broken } else { bytes_of(engine, &now, deep).await? };
                let whose = file_of(engine, &version).await?;
                report.broken.extend(broken.into_iter().map(|sentence| format!("{whose}: {sentence}")));
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
            let recorded = recorded(engine, &upload).await?;
            named.extend(recorded.pieces.iter().map(|piece| piece.segment));
            let readable = upload.session.strategy == Strategy::Multipart || engine.blobs.reads_unfinished();
            let broken = bytes_of(engine, &recorded, deep && readable).await?;
            // It may have gone on or ended meanwhile.
            if !broken.is_empty()
                && let Some(upload) = engine.meta.upload(upload.session.id).await?
                && still_has(&self::recorded(engine, &upload).await?, &recorded)
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
    let now = engine.clock.now();
    let mut gaps = sweep::gaps(engine).await?;
    // One that was never swept never had a server.
    gaps.extend(last.and_then(|(swept, _)| sweep::Gap::since(Some(swept), now)));
    for batch in unnamed.chunks(1000) {
        let known = engine.meta.known_segments(batch.iter().map(|l| l.segment).collect()).await?;
        for (listed, _) in batch.iter().zip(known).filter(|(_, known)| !known) {
            report.unnamed += 1;
            let written = listed.written.rfc3339();
            let what = format!("segment {} ({} bytes, written {written})", listed.segment, listed.length);
            // A session's row outlives what is written to it by a day.
            // And what it made is copied later, when bytes are moved.
            let foreign = listed.written > now.minus(limits::ORPHAN_GRACE)
                && engine.meta.upload(listed.segment.session).await?.is_none()
                && engine.meta.pieces_of(listed.segment.session).await?.is_empty();
            if foreign || gaps.iter().any(|gap| gap.has(listed.written)) {
                report.broken.push(format!(
                    "{what} has no row, and this database was not in use when it was written: it may be an older backup"
                ));
            // The sweeper takes them after a day, once the clocks have agreed for an hour; it had another hour to do so.
            } else if agreed > limits::CLOCK_AGREEMENT * 2 && listed.written <= swept.minus(limits::ORPHAN_GRACE * 2) {
                report.broken.push(format!("{what} has no row and was not swept for two days"));
            } else {
                report.under_way.push(format!("{what} has no row"));
            }
        }
    }
    Ok(report)
}

/// Which file a version is of, for whoever has to upload it again.
async fn file_of(engine: &Engine, version: &Version) -> Result<String, Refusal> {
    let file = format!("{} of tenant {}", version.file.public(), version.tenant);
    let record = engine.meta.file_record(&version.tenant, version.file).await?;
    Ok(record.map_or_else(|| file.clone(), |record| format!("{file} ({:?})", record.name)))
}

/// The durable bytes of an upload, to be read like a version.
async fn recorded(engine: &Engine, upload: &Upload) -> Result<Version, Refusal> {
    match upload.session.strategy {
        Strategy::Single | Strategy::Resumable => Ok(resume::version_of(upload)),
        Strategy::Multipart => {
            let parts = engine.meta.parts(upload.session.id).await?;
            let pieces: Vec<_> = parts.into_iter().map(|part| part.piece).collect();
            let size = pieces.iter().map(|piece| piece.length).sum();
            Ok(Version { size, pieces, ..resume::version_of(upload) })
        }
    }
}

/// Are all segments of `before` still recorded?
fn still_has(now: &Version, before: &Version) -> bool {
    let named: HashSet<SegmentId> = now.pieces.iter().map(|piece| piece.segment).collect();
    before.pieces.iter().all(|piece| named.contains(&piece.segment))
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
