//! Tables, as numbered migrations that are never edited after release.

/// Applied in order; the position is the schema version.
pub(super) const MIGRATIONS: &[&str] = &[V1];

/// Statements of the periodic purge; each takes "now" as its one parameter.
pub(super) const PURGE: &[&str] = &[
    "DELETE FROM pushed_requests WHERE expires_at < ?1 - 60",
    "DELETE FROM interactions WHERE expires_at < ?1",
    // A spent code is remembered for a while, so that its replay still finds the family.
    "DELETE FROM codes WHERE expires_at < ?1 - 86400",
    "DELETE FROM assertions WHERE expires_at < ?1 - 60",
    "DELETE FROM access_tokens WHERE expires_at < ?1",
    "DELETE FROM refresh_tokens WHERE expires_at < ?1",
    "DELETE FROM families WHERE expires_at < ?1 - 86400",
    "DELETE FROM session_clients WHERE sid IN
        (SELECT sid FROM login_sessions WHERE expires_at < ?1 - 86400)",
    // Tokens of a family ask for their session, so a session outlives its families.
    "DELETE FROM login_sessions WHERE expires_at < ?1 - 86400
        AND sid NOT IN (SELECT sid FROM families)",
    "DELETE FROM logout_deliveries WHERE created_at < ?1 - 86400",
];

const V1: &str = "
CREATE TABLE users (
    sub TEXT PRIMARY KEY,
    username TEXT NOT NULL UNIQUE COLLATE NOCASE,
    password_hash TEXT NOT NULL,
    name TEXT NOT NULL,
    email TEXT NOT NULL,
    disabled INTEGER NOT NULL DEFAULT 0,
    origin TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    last_login_at INTEGER
) STRICT;

CREATE TABLE groups (name TEXT PRIMARY KEY) STRICT;
CREATE TABLE group_roles (
    group_name TEXT NOT NULL REFERENCES groups(name) ON DELETE CASCADE,
    role TEXT NOT NULL,
    PRIMARY KEY (group_name, role)
) STRICT, WITHOUT ROWID;
CREATE TABLE group_audiences (
    group_name TEXT NOT NULL REFERENCES groups(name) ON DELETE CASCADE,
    audience TEXT NOT NULL,
    PRIMARY KEY (group_name, audience)
) STRICT, WITHOUT ROWID;
CREATE TABLE group_members (
    sub TEXT NOT NULL REFERENCES users(sub) ON DELETE CASCADE,
    group_name TEXT NOT NULL REFERENCES groups(name) ON DELETE CASCADE,
    PRIMARY KEY (sub, group_name)
) STRICT, WITHOUT ROWID;

CREATE TABLE clients (
    client_id TEXT PRIMARY KEY,
    declaration TEXT NOT NULL,
    secret_sha256 BLOB,
    origin TEXT NOT NULL
) STRICT;

CREATE TABLE login_sessions (
    sid TEXT PRIMARY KEY,
    cookie_sha256 BLOB NOT NULL UNIQUE,
    sub TEXT NOT NULL REFERENCES users(sub) ON DELETE CASCADE,
    auth_time INTEGER NOT NULL,
    acr TEXT NOT NULL,
    last_used_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    ended_at INTEGER
) STRICT;
CREATE TABLE session_clients (
    sid TEXT NOT NULL REFERENCES login_sessions(sid) ON DELETE CASCADE,
    client_id TEXT NOT NULL,
    PRIMARY KEY (sid, client_id)
) STRICT, WITHOUT ROWID;

CREATE TABLE consents (
    sub TEXT NOT NULL REFERENCES users(sub) ON DELETE CASCADE,
    client_id TEXT NOT NULL,
    scope TEXT NOT NULL,
    granted_at INTEGER NOT NULL,
    PRIMARY KEY (sub, client_id, scope)
) STRICT, WITHOUT ROWID;

CREATE TABLE pushed_requests (
    handle_sha256 BLOB PRIMARY KEY,
    client_id TEXT NOT NULL,
    request TEXT NOT NULL,
    expires_at INTEGER NOT NULL,
    used_at INTEGER
) STRICT, WITHOUT ROWID;

CREATE TABLE interactions (
    handle_sha256 BLOB PRIMARY KEY,
    browser_sha256 BLOB NOT NULL,
    request TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    signed_in TEXT,
    consented_by TEXT
) STRICT, WITHOUT ROWID;

CREATE TABLE codes (
    code_sha256 BLOB PRIMARY KEY,
    client_id TEXT NOT NULL,
    redirect_uri TEXT NOT NULL,
    code_challenge TEXT NOT NULL,
    family TEXT NOT NULL UNIQUE,
    granted TEXT NOT NULL,
    expires_at INTEGER NOT NULL,
    used_at INTEGER
) STRICT, WITHOUT ROWID;

CREATE TABLE families (
    family TEXT PRIMARY KEY,
    client_id TEXT NOT NULL,
    sub TEXT NOT NULL,
    sid TEXT NOT NULL,
    granted TEXT NOT NULL,
    expires_at INTEGER NOT NULL,
    revoked_at INTEGER,
    revoked_because TEXT
) STRICT, WITHOUT ROWID;
CREATE INDEX families_by_session ON families(sid);

CREATE TABLE refresh_tokens (
    token_sha256 BLOB PRIMARY KEY,
    family TEXT NOT NULL,
    expires_at INTEGER NOT NULL,
    used_at INTEGER,
    successor_sha256 BLOB
) STRICT, WITHOUT ROWID;
CREATE INDEX refresh_tokens_by_expiry ON refresh_tokens(expires_at);

CREATE TABLE access_tokens (
    jti TEXT PRIMARY KEY,
    token_sha256 BLOB UNIQUE,
    family TEXT,
    client_id TEXT NOT NULL,
    sub TEXT NOT NULL,
    user INTEGER NOT NULL,
    sid TEXT,
    audience TEXT NOT NULL,
    scope TEXT NOT NULL,
    acr TEXT,
    auth_time INTEGER,
    act TEXT,
    issued_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    revoked_at INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX access_tokens_by_expiry ON access_tokens(expires_at);

CREATE TABLE assertions (
    client_id TEXT NOT NULL,
    jti_sha256 BLOB NOT NULL,
    expires_at INTEGER NOT NULL,
    PRIMARY KEY (client_id, jti_sha256)
) STRICT, WITHOUT ROWID;

CREATE TABLE logout_deliveries (
    id INTEGER PRIMARY KEY,
    client_id TEXT NOT NULL,
    sub TEXT NOT NULL,
    sid TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    next_at INTEGER NOT NULL
) STRICT;

CREATE TABLE audit (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    at INTEGER NOT NULL,
    event TEXT NOT NULL,
    subject TEXT,
    client_id TEXT,
    detail TEXT NOT NULL,
    hash BLOB NOT NULL
) STRICT;
CREATE TRIGGER audit_is_append_only_update BEFORE UPDATE ON audit
    BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
CREATE TRIGGER audit_is_append_only_delete BEFORE DELETE ON audit
    BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
";
