CREATE TABLE texts (
    item      BIGINT PRIMARY KEY,
    scope     BIGINT NOT NULL,
    title     TEXT NOT NULL,
    body      TEXT NOT NULL,
    metadata  TEXT NOT NULL,
    kind      TEXT NOT NULL,
    truncated BIGINT NOT NULL
);

-- The words of an item's text, in pieces that overlap: a tsvector holds few positions of one word. Each has its scope as a
-- word of its own, which no text can have, so that a search in one source reads that source's postings.
CREATE TABLE text_words (
    item  BIGINT NOT NULL REFERENCES texts ON DELETE CASCADE,
    words TSVECTOR NOT NULL
);
CREATE INDEX text_words_item ON text_words (item);
CREATE INDEX text_words_words ON text_words USING gin (words);

-- Chunks of stores' files.
CREATE TABLE chunks (
    file     BIGINT NOT NULL,
    position BIGINT NOT NULL,
    body     TEXT NOT NULL,
    first    BIGINT NOT NULL,
    last     BIGINT NOT NULL,
    words    TSVECTOR NOT NULL,
    PRIMARY KEY (file, position)
);
CREATE INDEX chunks_words ON chunks USING gin (words);

CREATE TABLE marks (name TEXT PRIMARY KEY);
