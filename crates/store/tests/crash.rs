//! Kills a writing process with SIGKILL: nothing that it acknowledged may be missing.
//!
//! The parent runs this test binary again as the child, which writes pairs of rows from several
//! tasks (so that commits are shared) and prints each number only after its write has returned.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};

use ringwall_store::{Database, StoreLimits};

const CHILD_PATH: &str = "RINGWALL_STORE_CRASH_CHILD";
const WRITERS: u64 = 16;
const SCHEMA: &[&str] =
    &["CREATE TABLE pairs (number INTEGER, half INTEGER, PRIMARY KEY (number, half)) STRICT"];

/// The child's half of the test; as an ordinary test it has nothing to do.
#[test]
fn child_writes_until_it_is_killed() {
    #[expect(
        clippy::disallowed_methods,
        reason = "how the parent test tells the child its file"
    )]
    let Ok(path) = std::env::var(CHILD_PATH) else {
        return;
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let database = Database::open(path, SCHEMA, StoreLimits::default()).unwrap();
        let mut writers = tokio::task::JoinSet::new();
        for writer in 0..WRITERS {
            writers.spawn(write_for_ever(database.clone(), writer));
        }
        while writers.join_next().await.is_some() {}
    });
}

async fn write_for_ever(database: Database, writer: u64) {
    let next: i64 = database
        .read(|tx| {
            tx.query_row("SELECT ifnull(max(number), 0) FROM pairs", [], |row| {
                row.get(0)
            })
        })
        .await
        .expect("the child can read");
    let first =
        u64::try_from(next).expect("numbers are positive") / WRITERS * WRITERS + WRITERS + writer;
    for number in (first..).step_by(usize::try_from(WRITERS).expect("a small number")) {
        let key = i64::try_from(number).expect("a small number");
        database
            .write(move |tx| {
                tx.execute("INSERT INTO pairs VALUES (?1, 1)", [key])?;
                tx.execute("INSERT INTO pairs VALUES (?1, 2)", [key])
            })
            .await
            .expect("the child can write");
        // One write call per line: a line is in the pipe whole or not at all.
        std::io::stdout()
            .lock()
            .write_all(format!("ack {number}\n").as_bytes())
            .expect("the parent reads");
    }
}

fn start_child(path: &std::path::Path) -> Child {
    Command::new(std::env::current_exe().expect("this binary has a path"))
        .args([
            "--exact",
            "child_writes_until_it_is_killed",
            "--nocapture",
            "--test-threads=1",
        ])
        .env(CHILD_PATH, path)
        .stdout(Stdio::piped())
        .spawn()
        .expect("this binary can be started again")
}

/// Lets the child acknowledge `acks` writes, kills it, and returns all that it had acknowledged.
fn kill_after(path: &std::path::Path, acks: usize) -> BTreeSet<i64> {
    let mut child = start_child(path);
    let mut acknowledged = BTreeSet::new();
    for line in BufReader::new(child.stdout.take().expect("stdout is a pipe")).lines() {
        let Ok(line) = line else { break };
        let Some(number) = line.strip_prefix("ack ") else {
            continue;
        };
        acknowledged.insert(number.parse().expect("a number"));
        if acknowledged.len() == acks {
            // SIGKILL; what is already in the pipe is still read below.
            child.kill().expect("the child is ours");
        }
    }
    child.wait().expect("the child is ours");
    assert!(acknowledged.len() >= acks, "the child ended by itself");
    acknowledged
}

#[tokio::test]
async fn sigkill_loses_no_acknowledged_write_and_halves_none() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("crash.db");
    let mut acknowledged = BTreeSet::new();
    for acks in [1, 50, 333, 1000] {
        let path_of_child = path.clone();
        let killed = tokio::task::spawn_blocking(move || kill_after(&path_of_child, acks));
        acknowledged.extend(killed.await.unwrap());

        let database = Database::open(&path, SCHEMA, StoreLimits::default()).unwrap();
        let stored: Vec<(i64, i64)> = database
            .read(|tx| {
                tx.prepare("SELECT number, count(*) FROM pairs GROUP BY number")?
                    .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
                    .collect()
            })
            .await
            .unwrap();
        assert!(
            stored.iter().all(|&(_, halves)| halves == 2),
            "half of a job was stored"
        );
        let stored: BTreeSet<i64> = stored.into_iter().map(|(number, _)| number).collect();
        let lost: Vec<_> = acknowledged.difference(&stored).collect();
        assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
    }
}
