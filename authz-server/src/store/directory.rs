//! Users, groups, roles and access lists. Every read sees the state of now, which is what makes a
//! disabled user or a removed membership effective at the next introspection (R54).

use ringwall_store::StoreError;
use rusqlite::{Connection, OptionalExtension as _, params};

use super::{Store, texts, to_json};
use crate::acl::Standing;
use crate::clock::UnixTime;
use crate::config::directory::GroupDeclaration;
use crate::ids::Subject;

/// What the sign-in needs to know.
#[derive(Debug, Clone)]
pub(crate) struct Credentials {
    pub(crate) sub: Subject,
    pub(crate) password_hash: String,
    pub(crate) disabled: bool,
}

/// Claims about a user (OpenID Connect Core §5.1).
#[derive(Debug, Clone)]
pub(crate) struct Profile {
    pub(crate) username: String,
    pub(crate) name: String,
    pub(crate) email: String,
}

/// A user to be created or brought up to date.
#[derive(Debug, Clone)]
pub(crate) struct UserSeed {
    pub(crate) username: String,
    pub(crate) name: String,
    pub(crate) email: String,
    pub(crate) password_hash: String,
    pub(crate) groups: Vec<String>,
}

impl Store {
    pub(crate) async fn credentials(
        &self,
        username: String,
    ) -> Result<Option<Credentials>, StoreError> {
        self.db
            .read(move |c| {
                c.prepare_cached(
                    "SELECT sub, password_hash, disabled FROM users WHERE username = ?1",
                )?
                .query_row(params![username], |row| {
                    Ok(Credentials {
                        sub: row.get(0)?,
                        password_hash: row.get(1)?,
                        disabled: row.get(2)?,
                    })
                })
                .optional()
            })
            .await
    }

    pub(crate) async fn profile(&self, sub: Subject) -> Result<Option<Profile>, StoreError> {
        self.db
            .read(move |c| {
                c.prepare_cached(
                    "SELECT username, name, email FROM users WHERE sub = ?1 AND disabled = 0",
                )?
                .query_row(params![sub], |row| {
                    Ok(Profile {
                        username: row.get(0)?,
                        name: row.get(1)?,
                        email: row.get(2)?,
                    })
                })
                .optional()
            })
            .await
    }

    pub(crate) async fn standing(&self, sub: Subject) -> Result<Option<Standing>, StoreError> {
        self.db.read(move |c| standing(c, &sub)).await
    }

    /// Makes the declared groups, and only them, carry the declared roles and audiences.
    pub(crate) async fn declare_groups(
        &self,
        groups: Vec<GroupDeclaration>,
    ) -> Result<(), StoreError> {
        self.db
            .write(move |c| {
                c.execute("DELETE FROM group_roles", [])?;
                c.execute("DELETE FROM group_audiences", [])?;
                for group in &groups {
                    c.execute(
                        "INSERT OR IGNORE INTO groups VALUES (?1)",
                        params![group.name],
                    )?;
                    for role in &group.roles {
                        c.execute(
                            "INSERT OR IGNORE INTO group_roles VALUES (?1, ?2)",
                            params![group.name, role],
                        )?;
                    }
                    for audience in &group.audiences {
                        c.execute(
                            "INSERT OR IGNORE INTO group_audiences VALUES (?1, ?2)",
                            params![group.name, audience],
                        )?;
                    }
                }
                Ok(())
            })
            .await
    }

    /// Creates or updates a demo user; the subject stays what it was.
    pub(crate) async fn seed_user(&self, seed: UserSeed, now: UnixTime) -> Result<(), StoreError> {
        self.db
            .write(move |c| {
                c.execute(
                    "INSERT INTO users
                       (sub, username, password_hash, name, email, origin, created_at)
                     VALUES (?1, ?2, ?3, ?4, ?5, 'demo', ?6)
                     ON CONFLICT (username) DO UPDATE SET
                       password_hash = excluded.password_hash, name = excluded.name,
                       email = excluded.email",
                    params![
                        Subject::random(),
                        seed.username,
                        seed.password_hash,
                        seed.name,
                        seed.email,
                        now
                    ],
                )?;
                let sub: Subject = c.query_row(
                    "SELECT sub FROM users WHERE username = ?1",
                    params![seed.username],
                    |row| row.get(0),
                )?;
                c.execute("DELETE FROM group_members WHERE sub = ?1", params![sub])?;
                for group in &seed.groups {
                    c.execute(
                        "INSERT INTO group_members VALUES (?1, ?2)",
                        params![sub, group],
                    )?;
                }
                Ok(())
            })
            .await
    }

    /// Removes demo users that are no longer declared, and with them their sessions.
    pub(crate) async fn keep_demo_users(&self, declared: Vec<String>) -> Result<(), StoreError> {
        self.db
            .write(move |c| {
                c.execute(
                    "DELETE FROM users WHERE origin = 'demo'
                     AND username NOT IN (SELECT value FROM json_each(?1))",
                    params![to_json(&declared)?],
                )
                .map(drop)
            })
            .await
    }

    /// How many identities of the demonstration the database holds.
    pub(crate) async fn demo_identities(&self) -> Result<i64, StoreError> {
        self.db
            .read(|c| {
                c.query_row(
                    "SELECT (SELECT count(*) FROM users WHERE origin = 'demo')
                          + (SELECT count(*) FROM clients WHERE origin = 'demo')",
                    [],
                    |row| row.get(0),
                )
            })
            .await
    }
}

/// Disabling and membership changes belong to administration, which is not part of the public
/// server; tests use them to show that they take effect.
#[cfg(test)]
impl Store {
    pub(crate) async fn set_disabled(&self, username: &str, disabled: bool) {
        let username = username.to_owned();
        self.db
            .write(move |c| {
                c.execute(
                    "UPDATE users SET disabled = ?2 WHERE username = ?1",
                    params![username, disabled],
                )
            })
            .await
            .unwrap();
    }

    pub(crate) async fn leave_groups(&self, username: &str) {
        let username = username.to_owned();
        self.db
            .write(move |c| {
                c.execute(
                    "DELETE FROM group_members WHERE sub IN
                     (SELECT sub FROM users WHERE username = ?1)",
                    params![username],
                )
            })
            .await
            .unwrap();
    }
}

/// What a user is and may reach now; `None` for an unknown or disabled user.
pub(super) fn standing(c: &Connection, sub: &Subject) -> rusqlite::Result<Option<Standing>> {
    let enabled = c
        .prepare_cached("SELECT 1 FROM users WHERE sub = ?1 AND disabled = 0")?
        .exists(params![sub])?;
    if !enabled {
        return Ok(None);
    }
    let roles = texts(
        c,
        "SELECT DISTINCT role FROM group_roles NATURAL JOIN group_members
         WHERE sub = ?1 ORDER BY role",
        sub.as_str(),
    )?;
    let audiences = texts(
        c,
        "SELECT DISTINCT audience FROM group_audiences NATURAL JOIN group_members
         WHERE sub = ?1 ORDER BY audience",
        sub.as_str(),
    )?;
    Ok(Some(Standing { roles, audiences }))
}
