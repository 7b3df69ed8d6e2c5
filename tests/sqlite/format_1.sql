CREATE TABLE topic (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE,
    last INTEGER NOT NULL, last_ms INTEGER NOT NULL
);
CREATE TABLE message (
    topic INTEGER NOT NULL, seq INTEGER NOT NULL, at_ms INTEGER NOT NULL, fields BLOB NOT NULL,
    PRIMARY KEY (topic, seq)
);
-- A group on one topic. `cursor` is the last position it has read; `holder` has the turn in an exclusive group.
CREATE TABLE reader (
    id INTEGER PRIMARY KEY, topic INTEGER NOT NULL, name TEXT NOT NULL,
    cursor INTEGER NOT NULL, lost INTEGER NOT NULL DEFAULT 0, holder INTEGER,
    UNIQUE (topic, name)
);
CREATE TABLE consumer (
    id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL, lease_until_ms INTEGER NOT NULL
);
CREATE TABLE member (
    reader INTEGER NOT NULL, consumer INTEGER NOT NULL, PRIMARY KEY (reader, consumer)
) WITHOUT ROWID;
CREATE TABLE pending (
    reader INTEGER NOT NULL, seq INTEGER NOT NULL, consumer INTEGER, token INTEGER NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0, inherited INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (reader, seq)
) WITHOUT ROWID;
CREATE INDEX pending_consumer ON pending (consumer);
CREATE TABLE retry (
    id INTEGER PRIMARY KEY AUTOINCREMENT, reader INTEGER NOT NULL, seq INTEGER NOT NULL, first TEXT NOT NULL,
    fields BLOB NOT NULL, attempts INTEGER NOT NULL, due_ms INTEGER NOT NULL,
    code TEXT NOT NULL, reason TEXT NOT NULL,
    consumer INTEGER, token INTEGER NOT NULL DEFAULT 0, inherited INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX retry_due ON retry (reader, consumer, due_ms);
CREATE INDEX retry_consumer ON retry (consumer) WHERE consumer IS NOT NULL;
CREATE TABLE dead (
    id INTEGER PRIMARY KEY AUTOINCREMENT, reader INTEGER NOT NULL, seq INTEGER NOT NULL, first TEXT NOT NULL,
    fields BLOB NOT NULL, code TEXT NOT NULL, reason TEXT NOT NULL, attempts INTEGER NOT NULL,
    handler TEXT NOT NULL, module TEXT NOT NULL, at_ms INTEGER NOT NULL
);
CREATE INDEX dead_reader ON dead (reader, id);
CREATE TABLE key (
    space TEXT NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL, version INTEGER NOT NULL,
    PRIMARY KEY (space, key)
);
CREATE TABLE key_space (space TEXT PRIMARY KEY, version INTEGER NOT NULL) WITHOUT ROWID;
