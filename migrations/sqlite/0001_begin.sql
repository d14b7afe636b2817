-- Times are milliseconds since the Unix epoch. Ids are 16-byte UUIDs, time-ordered where they are keys.

CREATE TABLE settings (name TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID;

CREATE TABLE tenants (
    id             TEXT PRIMARY KEY,
    api            TEXT NOT NULL,
    created        INTEGER NOT NULL,
    -- Most bytes, committed and reserved, and most open sessions; null for no limit.
    quota_bytes    INTEGER,
    quota_sessions INTEGER,
    -- Since when nothing is taken or changed; null while it is not paused.
    paused         INTEGER,
    -- Most items of one source, and most items added or changed in one day; null without a limit.
    items_per_source INTEGER,
    items_per_day    INTEGER
) STRICT, WITHOUT ROWID;

-- What a tenant holds, changed in the transaction that changes what it counts: exact after every crash.
CREATE TABLE usage (
    tenant        TEXT PRIMARY KEY,
    -- Of committed versions.
    bytes         INTEGER NOT NULL,
    versions      INTEGER NOT NULL,
    -- Promised to open sessions.
    reserved      INTEGER NOT NULL,
    open_sessions INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- How many items pushes were accepted for, by day (UTC, in days since the Unix epoch).
CREATE TABLE item_days (
    tenant TEXT NOT NULL REFERENCES tenants,
    day    INTEGER NOT NULL,
    items  INTEGER NOT NULL,
    PRIMARY KEY (tenant, day)
) STRICT, WITHOUT ROWID;

CREATE TABLE keys (
    id      BLOB PRIMARY KEY,
    tenant  TEXT NOT NULL REFERENCES tenants,
    name    TEXT NOT NULL,
    hash    BLOB NOT NULL UNIQUE,
    rights  TEXT NOT NULL,
    created INTEGER NOT NULL,
    expires INTEGER,
    revoked INTEGER
) STRICT, WITHOUT ROWID;

-- Who vouches for callers of a tenant with bearer tokens, and on which terms.
CREATE TABLE issuers (
    tenant     TEXT NOT NULL REFERENCES tenants,
    -- What its tokens call it, exactly.
    url        TEXT NOT NULL,
    -- A list as JSON.
    audiences  TEXT NOT NULL,
    -- Null where its discovery document says it.
    jwks_url   TEXT,
    algorithms TEXT NOT NULL,
    leeway     INTEGER NOT NULL,
    -- What every token gives, and what the values of a claim give (an object of lists as JSON).
    rights     TEXT NOT NULL,
    claim      TEXT,
    mapped     TEXT NOT NULL,
    plain_http INTEGER NOT NULL,
    created    INTEGER NOT NULL,
    PRIMARY KEY (tenant, url)
) STRICT, WITHOUT ROWID;
CREATE INDEX issuers_url ON issuers (url);

-- Calls that their clients marked, for their repetition.
CREATE TABLE calls (
    tenant  TEXT NOT NULL,
    mark    TEXT NOT NULL,
    -- A digest of what was called, and with which body.
    body    BLOB NOT NULL,
    -- The id of what the call made, or the answer itself.
    answer  BLOB NOT NULL,
    created INTEGER NOT NULL,
    PRIMARY KEY (tenant, mark)
) STRICT, WITHOUT ROWID;
CREATE INDEX calls_created ON calls (created);

CREATE TABLE sources (
    -- Never used again: a verb that began before a source was deleted must not find another one in its place.
    row            INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant         TEXT NOT NULL REFERENCES tenants,
    id             TEXT NOT NULL,
    name           TEXT NOT NULL,
    stream_enabled INTEGER NOT NULL,
    properties     TEXT NOT NULL,
    activity       TEXT NOT NULL,
    -- Changes with a lower ordering id are refused: the highest "delete what is older than" so far.
    floor          BLOB NOT NULL,
    -- Items that it holds: a limit must not cost a count of them with every push.
    items          INTEGER NOT NULL DEFAULT 0,
    created        INTEGER NOT NULL,
    UNIQUE (tenant, id)
) STRICT;

CREATE TABLE sessions (
    id               BLOB PRIMARY KEY,
    tenant           TEXT NOT NULL,
    file             BLOB NOT NULL,
    wire             TEXT NOT NULL,
    strategy         TEXT NOT NULL,
    state            TEXT NOT NULL,
    epoch            INTEGER NOT NULL,
    size             INTEGER,
    max_bytes        INTEGER NOT NULL,
    versions_allowed INTEGER NOT NULL,
    created          INTEGER NOT NULL,
    expires          INTEGER NOT NULL,
    -- Bytes of the tenant's quota that it holds while it is open.
    reserved         INTEGER NOT NULL,
    -- Is the file registered by its commit?
    registers        INTEGER NOT NULL,
    -- The key that opened it, and what it said about the file; null for what is no file of its own.
    key              BLOB,
    name             TEXT,
    declaration      TEXT,
    -- Does it end with the file, because it makes the next version of one that is there?
    needs_file       INTEGER NOT NULL,
    -- Of a multipart session: how many parts there are, the smallest size of one that is not the last and the largest of
    -- any, and the bytes in its parts so far: a part must not cost a sum over all.
    parts            INTEGER,
    part_min         INTEGER,
    part_max         INTEGER,
    parts_received   INTEGER NOT NULL DEFAULT 0,
    -- How its client sends to the store itself, as JSON; null for what comes to us.
    direct           TEXT
) STRICT, WITHOUT ROWID;
CREATE INDEX sessions_direct ON sessions (expires) WHERE direct IS NOT NULL;
CREATE INDEX sessions_open ON sessions (expires) WHERE state = 'open';
CREATE INDEX sessions_over ON sessions (expires) WHERE state <> 'open';
CREATE INDEX sessions_named ON sessions (tenant, id) WHERE name IS NOT NULL;
CREATE INDEX sessions_file ON sessions (file) WHERE name IS NOT NULL AND state = 'open';

-- What the commit of an upload answered: its version may be replaced or gone since.
CREATE TABLE receipts (
    session   BLOB PRIMARY KEY REFERENCES sessions ON DELETE CASCADE,
    version   BLOB NOT NULL,
    size      INTEGER NOT NULL,
    crc32c    INTEGER,
    crc64nvme INTEGER,
    md5       BLOB,
    sha256    BLOB,
    committed INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- How far a resumable session has come. Absent until a chunk is recorded.
CREATE TABLE session_progress (
    session        BLOB PRIMARY KEY REFERENCES sessions ON DELETE CASCADE,
    received       INTEGER NOT NULL,
    crc32c         INTEGER NOT NULL,
    crc64nvme      INTEGER NOT NULL,
    -- An offset told before, and the digests of what came since: a chunk sent again is compared by them.
    told           INTEGER NOT NULL,
    told_crc32c    INTEGER NOT NULL,
    told_crc64nvme INTEGER NOT NULL,
    -- States of hashes in progress, as of `received`.
    md5_state      BLOB,
    sha256_state   BLOB
) STRICT, WITHOUT ROWID;

-- Its durable extents, one for each segment: a chunk extends its segment's row. They become the version's pieces.
CREATE TABLE session_pieces (
    session   BLOB NOT NULL REFERENCES sessions ON DELETE CASCADE,
    position  INTEGER NOT NULL,
    segment   TEXT NOT NULL,
    length    INTEGER NOT NULL,
    crc32c    INTEGER NOT NULL,
    crc64nvme INTEGER NOT NULL,
    backend   TEXT NOT NULL,
    PRIMARY KEY (session, position)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX session_pieces_segment ON session_pieces (segment);

-- The durable parts of a multipart session, the last one to come for each number. They become the version's pieces.
CREATE TABLE session_parts (
    session   BLOB NOT NULL REFERENCES sessions ON DELETE CASCADE,
    number    INTEGER NOT NULL,
    segment   TEXT NOT NULL,
    length    INTEGER NOT NULL,
    crc32c    INTEGER NOT NULL,
    crc64nvme INTEGER NOT NULL,
    backend   TEXT NOT NULL,
    PRIMARY KEY (session, number)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX session_parts_segment ON session_parts (segment);

-- A file exists from its first commit on.
CREATE TABLE files (
    id           BLOB PRIMARY KEY,
    tenant       TEXT NOT NULL,
    session      BLOB NOT NULL,
    -- The current version; null when its bytes are gone and only the answer to a repeated call is kept.
    version      BLOB,
    size         INTEGER NOT NULL,
    crc32c       INTEGER,
    crc64nvme    INTEGER,
    created      INTEGER NOT NULL,
    -- When an unused file goes; null when something holds it.
    expires      INTEGER,
    used_by      INTEGER,
    used_as      BLOB,
    -- The key that uploaded it, and what was said about it; null for what is no file of its own.
    key          BLOB,
    name         TEXT,
    -- The name that its upload was opened with, which registration does not change.
    stored_as    TEXT,
    mime_type    TEXT,
    path         TEXT,
    metadata     TEXT,
    -- Since when it is one of the tenant's files; registration holds the current version.
    registered   INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX files_expiry ON files (expires) WHERE expires IS NOT NULL;
CREATE INDEX files_registered ON files (tenant, registered, id) WHERE registered IS NOT NULL;

CREATE TABLE versions (
    id        BLOB PRIMARY KEY,
    tenant    TEXT NOT NULL,
    file      BLOB NOT NULL,
    size      INTEGER NOT NULL,
    -- Of what a client sent to a store itself, what that store tells.
    crc32c    INTEGER,
    crc64nvme INTEGER,
    md5       BLOB,
    sha256    BLOB,
    committed INTEGER NOT NULL,
    -- How many pushes, items and registrations hold it.
    pins      INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;
CREATE INDEX versions_file ON versions (file);

CREATE TABLE pieces (
    version   BLOB NOT NULL REFERENCES versions ON DELETE CASCADE,
    position  INTEGER NOT NULL,
    segment   TEXT NOT NULL,
    length    INTEGER NOT NULL,
    crc32c    INTEGER,
    crc64nvme INTEGER,
    backend   TEXT NOT NULL,
    PRIMARY KEY (version, position)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX pieces_segment ON pieces (segment);
-- By place. Whether anything lies at one that was left is asked at each start.
CREATE INDEX pieces_place ON pieces (CASE WHEN substr(backend, 1, 1) = '@' THEN substr(backend, 1, 3) ELSE '' END, version, position);

-- Segments to delete. A row stays longer than any request, and the deletion is repeated when it goes.
CREATE TABLE tombstones (
    segment  TEXT PRIMARY KEY,
    backend  TEXT NOT NULL,
    due      INTEGER NOT NULL,
    unlinked INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX tombstones_due ON tombstones (due) WHERE unlinked IS NULL;
CREATE INDEX tombstones_over ON tombstones (unlinked) WHERE unlinked IS NOT NULL;

CREATE TABLE pushes (
    row             INTEGER PRIMARY KEY AUTOINCREMENT,
    request         BLOB NOT NULL UNIQUE,
    tenant          TEXT NOT NULL,
    -- Pushes of one lane are applied one after the other, in the order of their rows.
    lane            TEXT NOT NULL,
    source          INTEGER,
    target          TEXT NOT NULL,
    kind            TEXT NOT NULL,
    ordering        BLOB NOT NULL,
    state           TEXT NOT NULL,
    due             INTEGER NOT NULL,
    -- Until when somebody applies it, and the process that does.
    lease           INTEGER,
    holder          BLOB,
    cursor          INTEGER NOT NULL,
    -- Records that may make a new item and are not applied yet. Before the records themselves, which may be long.
    puts            INTEGER NOT NULL DEFAULT 0,
    changes         BLOB,
    changes_version BLOB,
    changes_size    INTEGER NOT NULL,
    records         INTEGER NOT NULL,
    added           INTEGER NOT NULL DEFAULT 0,
    updated         INTEGER NOT NULL DEFAULT 0,
    deleted         INTEGER NOT NULL DEFAULT 0,
    older           INTEGER NOT NULL DEFAULT 0,
    failed          INTEGER NOT NULL DEFAULT 0,
    pending         INTEGER NOT NULL DEFAULT 0,
    attempts        INTEGER NOT NULL DEFAULT 0,
    problem         TEXT,
    accepted        INTEGER NOT NULL,
    finished        INTEGER
) STRICT;
CREATE INDEX pushes_active ON pushes (lane, row) WHERE state IN ('queued', 'applying');
CREATE INDEX pushes_due ON pushes (due) WHERE state IN ('queued', 'applying');
CREATE INDEX pushes_leased ON pushes (lane, lease) WHERE lease IS NOT NULL;
CREATE INDEX pushes_target ON pushes (tenant, target, row);
CREATE INDEX pushes_finished ON pushes (finished) WHERE finished IS NOT NULL;

CREATE TABLE push_failures (
    push        INTEGER NOT NULL REFERENCES pushes ON DELETE CASCADE,
    position    INTEGER NOT NULL,
    document_id TEXT NOT NULL,
    reason      TEXT NOT NULL,
    PRIMARY KEY (push, position)
) STRICT, WITHOUT ROWID;

-- Versions that a push holds until it is applied.
CREATE TABLE push_contents (
    push    INTEGER NOT NULL REFERENCES pushes ON DELETE CASCADE,
    version BLOB NOT NULL,
    PRIMARY KEY (push, version)
) STRICT, WITHOUT ROWID;

CREATE TABLE items (
    row             INTEGER PRIMARY KEY AUTOINCREMENT,
    source          INTEGER NOT NULL REFERENCES sources,
    document_id     TEXT NOT NULL,
    ordering        BLOB NOT NULL,
    push            INTEGER NOT NULL,
    parent_id       TEXT,
    file_extension  TEXT,
    metadata        TEXT NOT NULL,
    permissions     TEXT NOT NULL,
    compression     TEXT,
    content         BLOB,
    content_version BLOB,
    content_size    INTEGER NOT NULL,
    state           TEXT NOT NULL,
    problem         TEXT,
    created         INTEGER NOT NULL,
    changed         INTEGER NOT NULL,
    -- The last load that named it, also where the change itself failed: a load deletes what it did not name.
    loaded          INTEGER,
    -- A deleted item keeps its ordering id for a while, so that an older change does not bring it back.
    deleted         INTEGER,
    UNIQUE (source, document_id)
) STRICT;
CREATE INDEX items_source ON items (source) WHERE deleted IS NULL;
CREATE INDEX items_push ON items (source, push) WHERE deleted IS NULL;
CREATE INDEX items_ordering ON items (source, ordering) WHERE deleted IS NULL;
CREATE INDEX items_version ON items (content_version) WHERE content_version IS NOT NULL;
CREATE INDEX items_deleted ON items (deleted) WHERE deleted IS NOT NULL;

CREATE TABLE jobs (
    kind     TEXT NOT NULL,
    subject  INTEGER NOT NULL,
    -- The push that asked for it, or below zero the store; each gets its share of the workers.
    push     INTEGER NOT NULL,
    due      INTEGER NOT NULL,
    lease    INTEGER,
    holder   BLOB,
    attempts INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (kind, subject)
) STRICT, WITHOUT ROWID;
CREATE INDEX jobs_due ON jobs (due);
CREATE INDEX jobs_push ON jobs (push, due);

CREATE TABLE providers (
    tenant  TEXT NOT NULL,
    id      TEXT NOT NULL,
    body    TEXT NOT NULL,
    created INTEGER NOT NULL,
    PRIMARY KEY (tenant, id)
) STRICT, WITHOUT ROWID;

CREATE TABLE identities (
    tenant      TEXT NOT NULL,
    provider    TEXT NOT NULL,
    kind        TEXT NOT NULL,
    name        TEXT NOT NULL,
    relation    TEXT NOT NULL,
    additional  TEXT NOT NULL,
    related     TEXT NOT NULL,
    well_knowns TEXT NOT NULL,
    ordering    BLOB NOT NULL,
    changed     INTEGER NOT NULL,
    deleted     INTEGER,
    PRIMARY KEY (tenant, provider, kind, name, relation)
) STRICT, WITHOUT ROWID;
CREATE INDEX identities_deleted ON identities (deleted) WHERE deleted IS NOT NULL;

CREATE TABLE fields (
    tenant TEXT NOT NULL,
    name   TEXT NOT NULL,
    type   TEXT NOT NULL,
    PRIMARY KEY (tenant, name)
) STRICT, WITHOUT ROWID;

CREATE TABLE streams (
    id     BLOB PRIMARY KEY,
    tenant TEXT NOT NULL,
    source INTEGER NOT NULL,
    opened INTEGER NOT NULL,
    push   INTEGER
) STRICT, WITHOUT ROWID;

CREATE INDEX streams_opened ON streams (opened);

CREATE TABLE stream_files (
    stream   BLOB NOT NULL REFERENCES streams ON DELETE CASCADE,
    position INTEGER NOT NULL,
    file     BLOB NOT NULL,
    PRIMARY KEY (stream, position)
) STRICT, WITHOUT ROWID;
CREATE INDEX stream_files_file ON stream_files (file);

-- Files whose text is searched together.
CREATE TABLE stores (
    -- Never used again: the index names a store by it.
    row         INTEGER PRIMARY KEY AUTOINCREMENT,
    id          BLOB NOT NULL UNIQUE,
    tenant      TEXT NOT NULL REFERENCES tenants,
    name        TEXT NOT NULL,
    -- In lower case, for a search that does not care.
    folded      TEXT NOT NULL,
    description TEXT,
    active      INTEGER NOT NULL,
    properties  TEXT NOT NULL,
    created_by  BLOB,
    created     INTEGER NOT NULL,
    changed     INTEGER NOT NULL,
    -- What it holds, changed with its rows.
    files       INTEGER NOT NULL DEFAULT 0,
    bytes       INTEGER NOT NULL DEFAULT 0,
    -- A deleted store is emptied by a job, then its row goes.
    deleted     INTEGER
) STRICT;
CREATE INDEX stores_tenant ON stores (tenant, row) WHERE deleted IS NULL;

CREATE TABLE store_files (
    row       INTEGER PRIMARY KEY AUTOINCREMENT,
    id        BLOB NOT NULL UNIQUE,
    store     INTEGER NOT NULL REFERENCES stores,
    file      BLOB NOT NULL,
    -- The version that the store holds, whatever becomes of the file.
    version   BLOB NOT NULL,
    name      TEXT NOT NULL,
    folded    TEXT NOT NULL,
    size      INTEGER NOT NULL,
    mime_type TEXT NOT NULL,
    path      TEXT,
    state     TEXT NOT NULL,
    step      TEXT NOT NULL,
    chunks    INTEGER NOT NULL DEFAULT 0,
    problem   TEXT,
    created   INTEGER NOT NULL,
    started   INTEGER,
    ended     INTEGER,
    UNIQUE (store, file)
) STRICT;
CREATE INDEX store_files_store ON store_files (store, row);
CREATE INDEX store_files_file ON store_files (file);
CREATE INDEX store_files_version ON store_files (version);

-- What the processor said about a file: the last entries.
CREATE TABLE store_logs (
    file     INTEGER NOT NULL REFERENCES store_files ON DELETE CASCADE,
    position INTEGER NOT NULL,
    at       INTEGER NOT NULL,
    level    TEXT NOT NULL,
    message  TEXT NOT NULL,
    PRIMARY KEY (file, position)
) STRICT, WITHOUT ROWID;

-- Files that a tenant declared, before or without their content.
CREATE TABLE entries (
    -- What clients name it by. Never used again.
    number          INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant          TEXT NOT NULL,
    -- The file whose current version is its content; the file's row exists from the first commit on.
    file            BLOB NOT NULL UNIQUE,
    external_id     TEXT,
    -- The node that it stands for.
    space           TEXT,
    node            TEXT,
    name            TEXT NOT NULL,
    -- In lower case, for a search that does not care.
    folded          TEXT NOT NULL,
    directory       TEXT,
    source          TEXT,
    mime_type       TEXT,
    metadata        TEXT,
    assets          TEXT,
    data_set        INTEGER,
    labels          TEXT,
    security        TEXT,
    place           TEXT,
    -- What the node says besides.
    properties      TEXT,
    source_created  INTEGER,
    source_modified INTEGER,
    uploaded        INTEGER,
    created         INTEGER NOT NULL,
    changed         INTEGER NOT NULL,
    -- When it goes, unless its content comes; null once it came.
    expires         INTEGER
) STRICT;
CREATE INDEX entries_tenant ON entries (tenant);
CREATE UNIQUE INDEX entries_external ON entries (tenant, external_id) WHERE external_id IS NOT NULL;
CREATE UNIQUE INDEX entries_node ON entries (tenant, space, node) WHERE node IS NOT NULL;
CREATE INDEX entries_folded ON entries (tenant, folded);
CREATE INDEX entries_directory ON entries (tenant, directory) WHERE directory IS NOT NULL;
CREATE INDEX entries_created ON entries (tenant, created);
CREATE INDEX entries_changed ON entries (tenant, changed);
CREATE INDEX entries_uploaded ON entries (tenant, uploaded) WHERE uploaded IS NOT NULL;
CREATE INDEX entries_source_created ON entries (tenant, source_created) WHERE source_created IS NOT NULL;
CREATE INDEX entries_source_modified ON entries (tenant, source_modified) WHERE source_modified IS NOT NULL;
CREATE INDEX entries_expiry ON entries (expires) WHERE expires IS NOT NULL;

-- What entries are found by where only equality counts. A term is a digest of the tenant, of what kind it is and of the
-- value; the entries of each stand in the order in which they are listed.
CREATE TABLE entry_terms (
    term   BLOB NOT NULL,
    number INTEGER NOT NULL,
    PRIMARY KEY (term, number)
) STRICT, WITHOUT ROWID;
