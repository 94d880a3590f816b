//! Durability, isolation of jobs, migrations and limits of the database.

use std::os::unix::fs::PermissionsExt;
use std::sync::mpsc::sync_channel;

use super::*;

const SCHEMA: &[&str] = &["CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT NOT NULL) STRICT"];

fn open_in(dir: &tempfile::TempDir) -> Database {
    Database::open(dir.path().join("test.db"), SCHEMA, StoreLimits::default()).unwrap()
}

fn insert(tx: &Connection, text: &str) -> rusqlite::Result<()> {
    tx.execute("INSERT INTO notes (text) VALUES (?1)", [text])
        .map(|_| ())
}

async fn texts(database: &Database) -> Vec<String> {
    let sorted = |snapshot: &Connection| {
        snapshot
            .prepare("SELECT text FROM notes ORDER BY text")?
            .query_map([], |row| row.get(0))?
            .collect::<rusqlite::Result<Vec<String>>>()
    };
    database.read(sorted).await.unwrap()
}

/// Holds the writer until the returned sender is used, so that the next jobs share one batch.
async fn hold_writer(database: &Database) -> std::sync::mpsc::SyncSender<()> {
    let (release, held) = sync_channel(1);
    let (started, running) = oneshot::channel();
    let database = database.clone();
    tokio::spawn(async move {
        database
            .write(move |tx| {
                let _ = started.send(());
                let _ = held.recv();
                insert(tx, "holder")
            })
            .await
    });
    running.await.unwrap();
    release
}

#[derive(Debug, thiserror::Error)]
enum DomainError {
    #[error("refused")]
    Refused,
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Sql(#[from] rusqlite::Error),
}

#[tokio::test]
async fn a_write_survives_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let database = open_in(&dir);
    database.write(|tx| insert(tx, "kept")).await.unwrap();
    drop(database);
    assert_eq!(texts(&open_in(&dir)).await, ["kept"]);
}

#[tokio::test]
async fn a_failing_and_a_panicking_job_roll_back_alone() {
    let dir = tempfile::tempdir().unwrap();
    let database = open_in(&dir);
    let release = hold_writer(&database).await;

    let good = database.write(|tx| insert(tx, "good"));
    let refused = database.try_write(|tx| -> Result<(), DomainError> {
        insert(tx, "refused")?;
        Err(DomainError::Refused)
    });
    let broken = database.write(|tx| {
        insert(tx, "broken")?;
        tx.execute("INSERT INTO nowhere VALUES (1)", []).map(|_| ())
    });
    let panicking = database.write(|tx| -> rusqlite::Result<()> {
        insert(tx, "panicking")?;
        panic!("a bug in a job")
    });
    let last = database.write(|tx| insert(tx, "last"));
    let release = async { release.send(()).unwrap() };
    let (good, refused, broken, panicking, last, ()) =
        tokio::join!(good, refused, broken, panicking, last, release);

    good.unwrap();
    assert!(matches!(refused, Err(DomainError::Refused)));
    assert!(matches!(broken, Err(StoreError::Sql(_))));
    assert!(matches!(panicking, Err(StoreError::JobPanicked)));
    last.unwrap();
    assert_eq!(texts(&database).await, ["good", "holder", "last"]);
}

/// A full disk may end the whole transaction inside SQLite. Whatever it does: a caller that was
/// told `Ok` finds its row, and one that was told `Err` does not.
#[tokio::test]
async fn a_full_disk_acknowledges_nothing_that_is_not_stored() {
    let dir = tempfile::tempdir().unwrap();
    let database = open_in(&dir);
    let release = hold_writer(&database).await;
    let before = database.write(|tx| insert(tx, "before"));
    let fills = database.write(|tx| {
        let pages: i64 = tx.pragma_query_value(None, "page_count", |row| row.get(0))?;
        tx.pragma_update_and_check(None, "max_page_count", pages + 1, |_| Ok(()))?;
        insert(tx, &"x".repeat(1 << 20))
    });
    let after = database.write(|tx| insert(tx, "after"));
    let release = async { release.send(()).unwrap() };
    let (before, fills, after, ()) = tokio::join!(before, fills, after, release);

    fills.unwrap_err();
    let stored = texts(&database).await;
    assert_eq!(before.is_ok(), stored.iter().any(|text| text == "before"));
    assert_eq!(after.is_ok(), stored.iter().any(|text| text == "after"));
    // The writer lives on.
    database
        .write(|tx| tx.pragma_update_and_check(None, "max_page_count", 100_000, |_| Ok(())))
        .await
        .unwrap();
    database.write(|tx| insert(tx, "later")).await.unwrap();
}

#[tokio::test]
async fn a_job_cannot_end_the_shared_transaction_unnoticed() {
    let dir = tempfile::tempdir().unwrap();
    let database = open_in(&dir);
    let ends = database.write(|tx| {
        insert(tx, "one")?;
        tx.execute_batch("ROLLBACK")
    });
    assert!(ends.await.is_err());
    database.write(|tx| insert(tx, "two")).await.unwrap();
    assert_eq!(texts(&database).await, ["two"]);
}

#[tokio::test]
async fn a_read_sees_one_snapshot_and_cannot_write() {
    let dir = tempfile::tempdir().unwrap();
    let database = open_in(&dir);
    let count = |tx: &Connection| {
        tx.query_row("SELECT count(*) FROM notes", [], |row| row.get::<_, i64>(0))
    };
    let (looked, first_look) = oneshot::channel();
    let (go_on, wait) = sync_channel(1);
    let reading = {
        let database = database.clone();
        tokio::spawn(async move {
            database
                .read(move |snapshot| {
                    let first = count(snapshot)?;
                    let _ = looked.send(());
                    let _ = wait.recv();
                    Ok((first, count(snapshot)?))
                })
                .await
        })
    };
    first_look.await.unwrap();
    database.write(|tx| insert(tx, "new")).await.unwrap();
    go_on.send(()).unwrap();
    assert_eq!(reading.await.unwrap().unwrap(), (0, 0));

    let write = database
        .read(|snapshot| insert(snapshot, "sneaked in"))
        .await;
    assert!(matches!(write, Err(StoreError::Sql(_))), "{write:?}");
    assert_eq!(texts(&database).await, ["new"]);
}

#[tokio::test]
async fn a_panicking_read_gives_its_connection_back() {
    let dir = tempfile::tempdir().unwrap();
    let database = open_in(&dir);
    for _ in 0..5 {
        let read = database
            .read(|_| -> rusqlite::Result<()> { panic!("a bug in a read") })
            .await;
        assert!(matches!(read, Err(StoreError::JobPanicked)));
    }
    database.ping().await.unwrap();
}

#[tokio::test]
async fn a_full_queue_refuses_after_the_wait() {
    let dir = tempfile::tempdir().unwrap();
    let limits = StoreLimits {
        queue: 1,
        queue_wait: Duration::from_millis(20),
        ..StoreLimits::default()
    };
    let database = Database::open(dir.path().join("test.db"), SCHEMA, limits).unwrap();
    let release = hold_writer(&database).await;
    let queued = {
        let database = database.clone();
        tokio::spawn(async move { database.write(|tx| insert(tx, "queued")).await })
    };
    tokio::task::yield_now().await;
    let refused = database.write(|tx| insert(tx, "refused")).await;
    assert!(
        matches!(refused, Err(StoreError::Overloaded(_))),
        "{refused:?}"
    );
    release.send(()).unwrap();
    queued.await.unwrap().unwrap();
    assert_eq!(texts(&database).await, ["holder", "queued"]);
}

#[tokio::test]
async fn a_cancelled_caller_does_not_stop_its_queued_write() {
    let dir = tempfile::tempdir().unwrap();
    let database = open_in(&dir);
    let release = hold_writer(&database).await;
    let write = {
        let database = database.clone();
        tokio::spawn(async move { database.write(|tx| insert(tx, "queued")).await })
    };
    tokio::task::yield_now().await;
    write.abort();
    release.send(()).unwrap();
    database.write(|tx| insert(tx, "next")).await.unwrap();
    assert_eq!(texts(&database).await, ["holder", "next", "queued"]);
}

#[tokio::test]
async fn settings_are_durable_and_the_file_is_private() {
    let dir = tempfile::tempdir().unwrap();
    let database = open_in(&dir);
    let settings = |tx: &Connection| {
        let number = |name| tx.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
        let mode: String = tx.pragma_query_value(None, "journal_mode", |row| row.get(0))?;
        let numbers = ["synchronous", "foreign_keys", "temp_store"].map(number);
        Ok((mode, numbers.map(Result::unwrap)))
    };
    // synchronous 2 is FULL: each commit is synced before it returns. temp_store 2 is MEMORY: a
    // read-only root has no place for temporary files.
    assert_eq!(
        database.write(settings).await.unwrap(),
        ("wal".to_owned(), [2, 1, 2])
    );
    for file in ["test.db", "test.db-wal"] {
        let mode = std::fs::metadata(dir.path().join(file))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
}

#[tokio::test]
async fn migrations_run_once_each_and_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("test.db");
    open_in(&dir).write(|tx| insert(tx, "old")).await.unwrap();
    let second = &[
        SCHEMA[0],
        "ALTER TABLE notes ADD COLUMN pinned INTEGER NOT NULL DEFAULT 0",
    ];
    let database = Database::open(&path, second, StoreLimits::default()).unwrap();
    database
        .write(|tx| tx.execute("UPDATE notes SET pinned = 1", []))
        .await
        .unwrap();
    drop(database);
    let database = Database::open(&path, second, StoreLimits::default()).unwrap();
    assert_eq!(texts(&database).await, ["old"]);
}

#[test]
fn a_newer_file_is_refused_untouched() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("test.db");
    let newer = &[
        SCHEMA[0],
        "CREATE TABLE later (id INTEGER PRIMARY KEY) STRICT",
    ];
    drop(Database::open(&path, newer, StoreLimits::default()).unwrap());
    let error = Database::open(&path, SCHEMA, StoreLimits::default())
        .err()
        .unwrap();
    assert!(
        matches!(
            error,
            StoreError::NewerSchema {
                found: 2,
                known: 1,
                ..
            }
        ),
        "{error}"
    );
    assert!(error.to_string().contains("test.db"), "{error}");
}

#[test]
fn a_failed_migration_leaves_the_version_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("test.db");
    let broken = &[
        SCHEMA[0],
        "CREATE TABLE half (id INTEGER PRIMARY KEY); BROKEN",
    ];
    let error = Database::open(&path, broken, StoreLimits::default())
        .err()
        .unwrap();
    assert!(
        matches!(error, StoreError::Migrate { number: 2, .. }),
        "{error}"
    );
    let connection = Connection::open(&path).unwrap();
    let version: i64 = connection
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .unwrap();
    assert_eq!(version, 1);
    assert!(connection.prepare("SELECT 1 FROM half").is_err());
}

#[test]
fn a_missing_directory_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("missing/test.db");
    let error = Database::open(path, SCHEMA, StoreLimits::default())
        .err()
        .unwrap();
    assert!(matches!(error, StoreError::CreateFile { .. }), "{error}");
    assert!(error.to_string().contains("missing/test.db"), "{error}");
}
