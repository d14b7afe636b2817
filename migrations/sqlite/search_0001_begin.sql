-- `scope` is a word of its own, so that a search in one source reads only that source's postings.
CREATE VIRTUAL TABLE texts USING fts5 (
    scope, title, body, metadata, kind UNINDEXED, truncated UNINDEXED,
    tokenize = 'unicode61 remove_diacritics 2'
);

-- Chunks of stores' files. A row's number is the file's, and the chunk's place in it.
CREATE VIRTUAL TABLE chunks USING fts5 (
    scope, body, first UNINDEXED, last UNINDEXED,
    tokenize = 'unicode61 remove_diacritics 2'
);

CREATE TABLE marks (name TEXT PRIMARY KEY) STRICT, WITHOUT ROWID;
