//! The tables, in both dialects.
//!
//! Owns: the migrations, numbered by position. Never edit one that was released: add the next.
//! Times are Unix milliseconds; hashes, serial numbers and keys are bytes.

/// Documents and revisions by name.
pub(crate) const JWT_KEYS: &str = "jwt-keys";
/// The revision from which the leader's configuration streams count.
pub(crate) const DISCOVERY: &str = "discovery";
/// The revision of the set of revocations.
pub(crate) const REVOCATIONS: &str = "revocations";
/// The one leadership.
pub(crate) const LEADERSHIP: &str = "control-plane";

/// For SQLite.
pub(crate) const EMBEDDED: &[&str] = &["
    CREATE TABLE join_tokens (
        hash BLOB PRIMARY KEY CHECK (length(hash) = 32),
        node TEXT NOT NULL,
        created_at INTEGER NOT NULL,
        not_after INTEGER NOT NULL,
        used_at INTEGER,
        used_by BLOB
    ) STRICT;
    CREATE INDEX join_tokens_by_end ON join_tokens (not_after);

    -- Certificates that may still be valid: what a revocation of a name or key ends.
    CREATE TABLE issued (
        serial BLOB PRIMARY KEY,
        kind TEXT NOT NULL,
        spiffe_id TEXT NOT NULL,
        spki BLOB NOT NULL CHECK (length(spki) = 32),
        issued_at INTEGER NOT NULL,
        not_after INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX issued_by_end ON issued (not_after);
    CREATE INDEX issued_by_id ON issued (spiffe_id);
    CREATE INDEX issued_by_key ON issued (spki);

    CREATE TABLE revocations (
        kind TEXT NOT NULL CHECK (kind IN ('spiffe_id', 'serial', 'spki')),
        value BLOB NOT NULL,
        at INTEGER NOT NULL,
        reason TEXT NOT NULL,
        PRIMARY KEY (kind, value)
    ) STRICT;

    CREATE TABLE revisions (
        name TEXT PRIMARY KEY,
        revision INTEGER NOT NULL
    ) STRICT;
    INSERT INTO revisions VALUES ('revocations', 0);

    CREATE TABLE documents (
        name TEXT PRIMARY KEY,
        revision INTEGER NOT NULL,
        content BLOB NOT NULL
    ) STRICT;

    CREATE TABLE audit (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        at INTEGER NOT NULL,
        event TEXT NOT NULL,
        actor TEXT NOT NULL,
        subject TEXT NOT NULL,
        serial BLOB,
        reason TEXT NOT NULL
    ) STRICT;
    CREATE INDEX audit_by_time ON audit (at);
", "
    -- The newest one is active. `seed` is the digest of the configuration file's policy, where it comes from there.
    CREATE TABLE policy_versions (
        version INTEGER PRIMARY KEY,
        digest TEXT NOT NULL,
        author TEXT NOT NULL,
        identity TEXT NOT NULL,
        at INTEGER NOT NULL,
        note TEXT NOT NULL,
        previous INTEGER NOT NULL,
        rollback_of INTEGER,
        seed TEXT,
        bundle TEXT NOT NULL
    ) STRICT;

    -- How often each policy and edge was used: what is never used could be taken away.
    CREATE TABLE policy_uses (
        name TEXT PRIMARY KEY,
        permitted INTEGER NOT NULL,
        forbidden INTEGER NOT NULL,
        dry_run INTEGER NOT NULL,
        since INTEGER NOT NULL
    ) STRICT;
"];

/// For PostgreSQL.
pub(crate) const POSTGRES: &[&str] = &[
    "
    CREATE TABLE join_tokens (
        hash bytea PRIMARY KEY CHECK (length(hash) = 32),
        node text NOT NULL,
        created_at bigint NOT NULL,
        not_after bigint NOT NULL,
        used_at bigint,
        used_by bytea
    );
    CREATE INDEX join_tokens_by_end ON join_tokens (not_after);

    CREATE TABLE issued (
        serial bytea PRIMARY KEY,
        kind text NOT NULL,
        spiffe_id text NOT NULL,
        spki bytea NOT NULL CHECK (length(spki) = 32),
        issued_at bigint NOT NULL,
        not_after bigint NOT NULL
    );
    CREATE INDEX issued_by_end ON issued (not_after);
    CREATE INDEX issued_by_id ON issued (spiffe_id);
    CREATE INDEX issued_by_key ON issued (spki);

    CREATE TABLE revocations (
        kind text NOT NULL CHECK (kind IN ('spiffe_id', 'serial', 'spki')),
        value bytea NOT NULL,
        at bigint NOT NULL,
        reason text NOT NULL,
        PRIMARY KEY (kind, value)
    );

    CREATE TABLE revisions (
        name text PRIMARY KEY,
        revision bigint NOT NULL
    );
    INSERT INTO revisions VALUES ('revocations', 0);

    CREATE TABLE documents (
        name text PRIMARY KEY,
        revision bigint NOT NULL,
        content bytea NOT NULL
    );

    CREATE TABLE audit (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        at bigint NOT NULL,
        event text NOT NULL,
        actor text NOT NULL,
        subject text NOT NULL,
        serial bytea,
        reason text NOT NULL
    );
    CREATE INDEX audit_by_time ON audit (at);

    -- One row for each office. The epoch grows with every change of its holder: writes name it.
    CREATE TABLE leadership (
        name text PRIMARY KEY,
        holder text NOT NULL,
        epoch bigint NOT NULL,
        expires_at timestamptz NOT NULL
    );
",
    "
    CREATE TABLE policy_versions (
        version bigint PRIMARY KEY,
        digest text NOT NULL,
        author text NOT NULL,
        identity text NOT NULL,
        at bigint NOT NULL,
        note text NOT NULL,
        previous bigint NOT NULL,
        rollback_of bigint,
        seed text,
        bundle text NOT NULL
    );

    CREATE TABLE policy_uses (
        name text PRIMARY KEY,
        permitted bigint NOT NULL,
        forbidden bigint NOT NULL,
        dry_run bigint NOT NULL,
        since bigint NOT NULL
    );
",
];
