//! Every limit of the server that is not configuration, in one place, with its unit in its name.

use std::time::Duration;

/// Bytes written, hashed and handed on at a time by the data path.
pub const WRITE_BYTES: usize = 256 * 1024;
/// Resumable uploads are recorded at multiples of this many bytes, but for their end (the protocol's granularity).
pub const GRANULE_BYTES: u64 = 256 * 1024;
/// Bytes gathered for one write when more bodies than `MANY_BODIES` come at once.
pub const SMALL_WRITE_BYTES: usize = 32 * 1024;
/// From so many bodies on, memory counts more than the size of writes.
pub const MANY_BODIES: usize = 64;
/// Chunks that clients are told to send: a multiple of the protocol's granularity.
pub const CHUNK_BYTES: u64 = 32 * GRANULE_BYTES;
/// Life of a resumable session, from its creation; progress does not extend it.
pub const SESSION_LIFE: Duration = Duration::from_secs(7 * 24 * 3600);
/// How long a file that came with its call may wait for the end of that call.
pub const ENCLOSED_LIFE: Duration = Duration::from_secs(24 * 3600);
/// Largest file of the resumable APIs: 5 GiB.
pub const FILE_MAX_BYTES: u64 = 5 * 1024 * 1024 * 1024;
/// Most parts of one upload.
pub const PARTS_MAX: u32 = 10_000;
/// Largest single part: 5 GiB.
pub const PART_MAX_BYTES: u64 = 5 * 1024 * 1024 * 1024;
/// Part numbers that one answer names at most.
pub const PARTS_TOLD: usize = 1_000;
/// And one sentence.
pub const PARTS_SAID: usize = 20;
/// Uploads whose last trouble is remembered.
pub const TROUBLES_KEPT: usize = 10_000;
/// Chunks gathered for one write at most, however small.
pub const WRITE_CHUNKS: usize = 512;
/// From this many bytes on, a segment's writing out starts while bytes still arrive.
pub const WRITEBACK_BYTES: u64 = 8 * 1024 * 1024;
/// Room that is told where nothing bounds it, neither a quota nor a disk: 1 PiB, which every client can reckon with.
pub const ROOM_BYTES: u64 = 1 << 50;
/// Segments of one upload that are sealed at once.
pub const SEALS_AT_ONCE: usize = 8;
/// Most bytes that a document may unpack to while its text is read: 4 GiB.
pub const UNPACKED_BYTES: u64 = 4 * 1024 * 1024 * 1024;
/// Largest PDF or Office document whose text is read; those are held in memory.
pub const DOCUMENT_BYTES: u64 = 128 * 1024 * 1024;
/// Largest container a configuration may ask for: 5 TiB.
pub const CONTAINER_MAX_BYTES: u64 = 5 * 1024 * 1024 * 1024 * 1024;
/// Default size limit of a container: 256 MiB, inclusive.
pub const CONTAINER_DEFAULT_BYTES: u64 = 256 * 1024 * 1024;
/// Largest JSON body of a single-item call: 6 MiB, inclusive.
pub const INLINE_ITEM_BYTES: u64 = 6 * 1024 * 1024;
/// Largest JSON body of every other API call.
pub const SMALL_JSON_BYTES: u64 = 1024 * 1024;
/// Largest single record inside a batch.
pub const BATCH_RECORD_BYTES: u64 = 32 * 1024 * 1024;
/// Nesting depth of JSON accepted from outside.
pub const JSON_DEPTH: usize = 32;
/// Values in one JSON body or record from outside: a short text may hold millions, and each takes memory when read.
pub const JSON_VALUES: usize = 1_000_000;
/// Containers that one batch may name as its items' content.
pub const BATCH_CONTENT_FILES: usize = 10_000;
/// Records applied in one transaction.
pub const APPLY_RECORDS: usize = 1_000;
/// Bytes of records applied in one transaction.
pub const APPLY_BYTES: usize = 8 * 1024 * 1024;
/// Item content up to this size lives in its row; larger content is a version of its own.
pub const INLINE_CONTENT_BYTES: usize = 32 * 1024;
/// Change lists up to this size live in the push's row.
pub const INLINE_CHANGES_BYTES: usize = 64 * 1024;
/// Life of a container and of its upload URL.
pub const CONTAINER_LIFE: Duration = Duration::from_secs(60 * 60);
/// How long a stream may stay open. Its chunks are kept for so long, whatever their own life.
pub const STREAM_LIFE: Duration = Duration::from_secs(24 * 3600);
/// Tolerated difference between our clock and the one that signed a URL.
pub const CLOCK_SKEW: Duration = Duration::from_secs(15 * 60);
/// Permissions allowed per item; more are accepted and the item is then refused.
pub const PERMISSIONS_PER_ITEM: usize = 5_000;
/// Longest document id in bytes.
pub const DOCUMENT_ID_BYTES: usize = 4 * 1024;
/// Largest metadata that merges and partial updates may make.
pub const METADATA_BYTES: usize = 8 * 1024 * 1024;
/// Failures remembered by document id per push.
pub const PUSH_FAILURES: u64 = 100;
/// How long a finished push can be asked about.
pub const PUSH_KEPT: Duration = Duration::from_secs(30 * 24 * 3600);
/// How long a deleted item's ordering id is remembered.
pub const TOMBSTONE_KEPT: Duration = Duration::from_secs(30 * 24 * 3600);
/// Log entries kept per file of a store.
pub const LOG_ENTRIES: u32 = 200;
/// Longest log entry; it may quote what a client sent.
pub const LOG_MESSAGE_CHARS: usize = 500;
/// Files of a deleted store that one transaction lets go of.
pub const EMPTIED_FILES: u32 = 500;
/// Most chunks of one file. The index numbers them within the file's own range.
pub const FILE_CHUNKS: usize = 16_000;
/// Longest chunk, in characters.
pub const CHUNK_CHARS: usize = 1_000;
/// Characters that a chunk repeats of the one before it, so that what stands across their border is found.
pub const CHUNK_OVERLAP_CHARS: usize = 100;
/// Refusal records kept in memory per tenant, of requests whose signature held.
pub const REFUSALS_KEPT: usize = 1_000;
/// And of requests that nobody vouches for.
pub const UNVERIFIED_REFUSALS_KEPT: usize = 200;
/// A refused body is read and thrown away up to this many bytes, so that the client reads the answer.
pub const DRAIN_BYTES: u64 = 64 * 1024 * 1024;
/// And for this long.
pub const DRAIN_TIME: Duration = Duration::from_secs(5);
/// Time a client has for its request head.
pub const HEADER_TIME: Duration = Duration::from_secs(15);
/// Time a body may stand still.
pub const BODY_IDLE: Duration = Duration::from_secs(30);
/// After this grace a body must have come at `BODY_RATE_BYTES` on average.
pub const BODY_GRACE: Duration = Duration::from_secs(30);
/// Slowest accepted body, in bytes per second.
pub const BODY_RATE_BYTES: u64 = 1024;
/// Of a body that goes on, what has come is recorded meanwhile: when it is so many bytes more, and so long after the last time.
/// More is not lost with the process that receives it, or with its place to another request.
pub const RECORD_BYTES: u64 = 32 * 1024 * 1024;
/// See [`RECORD_BYTES`].
pub const RECORD_EVERY: Duration = Duration::from_secs(10);
/// Memory that a body has while nothing of it is in hand: it stands for its connection's buffer.
pub const BODY_STEP_BYTES: u64 = 16 * 1024;
/// And at most, when it comes fast and there is memory.
pub const BODY_STEP_MAX_BYTES: u64 = 512 * 1024;
/// While others wait for memory, a body must come at this rate, in bytes per second, or may have to end.
pub const BODY_YIELD_RATE_BYTES: u64 = 64 * 1024;
/// Over which time that is measured.
pub const BODY_YIELD_WINDOW: Duration = Duration::from_secs(2);
/// Who has waited for memory so long makes slow bodies end.
pub const BODY_PRESS_AFTER: Duration = Duration::from_secs(1);
/// Bodies received at once for one upload session.
pub const SESSION_BODIES: usize = 4;
/// When a client that found no memory for its body is to come again.
pub const BUSY_RETRY: Duration = Duration::from_secs(2);
/// Time in which a client must take something of its answer.
pub const ANSWER_IDLE: Duration = Duration::from_secs(60);
/// Bytes without a row are left alone for this long after their last write.
pub const ORPHAN_GRACE: Duration = Duration::from_secs(24 * 3600);
/// Superseded bytes stay for this long, so that a running download ends on them.
pub const DOWNLOAD_MAX: Duration = Duration::from_secs(3600);
/// Wall and monotonic clock must agree for this long before anything is deleted.
pub const CLOCK_AGREEMENT: Duration = Duration::from_secs(3600);
/// Longest name of a catalogue's entry.
pub const ENTRY_NAME_CHARS: usize = 256;
/// Longest id that a client gives an entry.
pub const ENTRY_EXTERNAL_ID_CHARS: usize = 255;
/// Longest folder of an entry.
pub const ENTRY_DIRECTORY_CHARS: usize = 512;
/// Longest source of an entry.
pub const ENTRY_SOURCE_CHARS: usize = 128;
/// Longest media type of an entry.
pub const ENTRY_MIME_TYPE_CHARS: usize = 256;
/// Most assets of an entry, and most categories.
pub const ENTRY_ASSETS: usize = 1_000;
/// Most labels of an entry.
pub const ENTRY_LABELS: usize = 10;
/// Most pairs of an entry's metadata.
pub const ENTRY_METADATA_PAIRS: usize = 256;
/// Longest key of an entry's metadata.
pub const ENTRY_METADATA_KEY_BYTES: usize = 128;
/// Most bytes of an entry's metadata, keys included.
pub const ENTRY_METADATA_BYTES: usize = 10_240;
/// How long an entry waits for its content, and an upload of it may take.
pub const ENTRY_LIFE: Duration = Duration::from_secs(7 * 24 * 3600);
/// Entries that an index may name before it is walked through in the order of their numbers instead of sorted.
pub const ENTRIES_SORTED: u32 = 20_000;
/// Longest bearer token that is looked into.
pub const TOKEN_BYTES: usize = 16 * 1024;
/// Largest answer of an issuer that is read.
pub const JWKS_BYTES: usize = 1024 * 1024;
/// Most keys of an issuer that are kept.
pub const JWKS_KEYS: usize = 100;
/// How long an issuer may take to be reached.
pub const ISSUER_CONNECT: Duration = Duration::from_secs(1);
/// And to answer, all calls for its keys together.
pub const ISSUER_TIME: Duration = Duration::from_secs(5);
/// An issuer's keys are asked for anew after this time at the latest.
pub const JWKS_LIFE: Duration = Duration::from_secs(3600);
/// And not before this one, whatever it says.
pub const JWKS_LIFE_MIN: Duration = Duration::from_secs(60);
/// While an issuer does not answer, its last keys hold for so long.
pub const JWKS_STALE: Duration = Duration::from_secs(24 * 3600);
/// An issuer is asked for a key that its last answer did not have once in this time.
pub const JWKS_PAUSE: Duration = Duration::from_secs(30);
/// And one that did not answer, and of which there are no keys, once in this time.
pub const JWKS_RETRY: Duration = Duration::from_secs(5);
/// How long an authority that issues certificates may take to be reached.
pub const ACME_CONNECT: Duration = Duration::from_secs(15);
/// And to answer one call.
pub const ACME_TIME: Duration = Duration::from_secs(45);
/// Largest answer of an authority.
pub const ACME_ANSWER_BYTES: usize = 1024 * 1024;
/// How long an authority may take to examine the names of an order, and then to issue.
pub const ACME_POLL_TIME: Duration = Duration::from_secs(120);
/// How long an order may take in all.
pub const ACME_ORDER_TIME: Duration = Duration::from_secs(600);
/// An order that failed is tried again after this time, then after twice as long and so on: authorities count failures.
pub const ACME_PAUSE: Duration = Duration::from_secs(120);
/// The longest of these pauses.
pub const ACME_PAUSE_MAX: Duration = Duration::from_secs(6 * 3600);
/// The longest pause that an authority may ask for.
pub const ACME_ASKED_PAUSE_MAX: Duration = Duration::from_secs(24 * 3600);
/// How often the authority is asked when a certificate is to be renewed.
pub const ACME_RENEWAL_INFO: Duration = Duration::from_secs(6 * 3600);
/// Most of what an authority says that a log line holds.
pub const ACME_TOLD_CHARS: usize = 1_000;
