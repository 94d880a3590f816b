//! Exactly once on a real file: contention, crash, reopening.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use aws_lc_rs::rand::SystemRandom;
use ringwall_proto::WireToken;
use ringwall_proto::tokenizer::BodyDigest;

use super::*;
use crate::binding::generate;

const CHILD_DIRECTORY: &str = "RINGWALL_TOKENIZER_CRASH_CHILD";
const TOKENS: usize = 400;
const WORKERS: usize = 8;

fn at(seconds: i64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(1_700_000_000 + seconds).unwrap()
}

fn binding() -> Binding {
    Binding {
        caller: SpiffeId::parse("spiffe://ringwall.local/orders").unwrap(),
        audience: SpiffeId::parse("spiffe://ringwall.local/payments").unwrap(),
        htm: TokenMethod::Post,
        htu: TokenPath::parse("/v1/payments").unwrap(),
        body_digest: BodyDigest::parse("A".repeat(43)).unwrap(),
    }
}

async fn issue_one(store: &TokenStore) -> WireToken {
    let text = generate(&SystemRandom::new()).unwrap();
    let token = NewToken {
        id: Uuid::now_v7(),
        hash: TokenHash::of(&text),
        binding: binding(),
        user: OnBehalfOf {
            sub: Subject::parse("alice").unwrap(),
            client_id: ClientId::parse("spa-proxy").unwrap(),
        },
        issued_at: at(0),
        expires_at: at(30),
    };
    store.issue(token, 100_000).await.unwrap();
    text
}

async fn wins(store: &TokenStore, text: &WireToken) -> bool {
    let consumed = store
        .consume(TokenHash::of(text), binding(), at(1))
        .await
        .unwrap();
    matches!(consumed, Consumption::Won { .. })
}

#[tokio::test]
async fn an_expired_token_is_refused_at_the_very_moment() {
    let dir = tempfile::tempdir().unwrap();
    let store = TokenStore::open(&dir.path().join("tokens.db")).unwrap();
    let text = issue_one(&store).await;
    let hash = TokenHash::of(&text);
    for late in [at(30), at(31), at(86_400)] {
        let consumed = store.consume(hash, binding(), late).await.unwrap();
        let Consumption::Refused {
            reason,
            id: Some(_),
        } = consumed
        else {
            panic!("{consumed:?}")
        };
        assert_eq!(reason, RefusalReason::Expired);
    }
    let last_moment = at(30) - std::time::Duration::from_millis(1);
    let consumed = store.consume(hash, binding(), last_moment).await.unwrap();
    assert!(matches!(consumed, Consumption::Won { .. }));
}

#[tokio::test]
async fn r21_replay_after_reopening_the_database_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tokens.db");
    let store = TokenStore::open(&path).unwrap();
    let (spent, unspent) = (issue_one(&store).await, issue_one(&store).await);
    assert!(wins(&store, &spent).await);
    drop(store);
    let store = TokenStore::open(&path).unwrap();
    assert!(!wins(&store, &spent).await);
    assert!(wins(&store, &unspent).await);
    drop(store);
    let store = TokenStore::open(&path).unwrap();
    assert!(!wins(&store, &unspent).await);
}

#[tokio::test]
async fn purging_removes_only_what_has_ended_and_revives_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = TokenStore::open(&dir.path().join("tokens.db")).unwrap();
    let (spent, unspent) = (issue_one(&store).await, issue_one(&store).await);
    assert!(wins(&store, &spent).await);
    assert!(!store.purge(at(30)).await.unwrap());
    assert_eq!(store.list(binding().caller, at(1)).await.unwrap().len(), 2);
    store.purge(at(31)).await.unwrap();
    assert!(
        store
            .list(binding().caller, at(1))
            .await
            .unwrap()
            .is_empty()
    );
    assert!(!wins(&store, &spent).await);
    assert!(!wins(&store, &unspent).await);
}

#[tokio::test]
async fn a_purge_goes_in_steps() {
    let dir = tempfile::tempdir().unwrap();
    let store = TokenStore::open(&dir.path().join("tokens.db")).unwrap();
    for _ in 0..=PURGE_STEP {
        issue_one(&store).await;
    }
    assert!(store.purge(at(31)).await.unwrap());
    assert!(!store.purge(at(31)).await.unwrap());
    assert!(
        store
            .list(binding().caller, at(1))
            .await
            .unwrap()
            .is_empty()
    );
}

/// The child's half of the crash test; as an ordinary test it has nothing to do. Its workers race
/// for every token, and each win is printed after `consume` has returned.
#[test]
fn child_redeems_until_it_is_killed() {
    #[expect(
        clippy::disallowed_methods,
        reason = "how the parent tells the child its directory"
    )]
    let Ok(directory) = std::env::var(CHILD_DIRECTORY) else {
        return;
    };
    let directory = PathBuf::from(directory);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let store = TokenStore::open(&directory.join("tokens.db")).unwrap();
        let texts = std::fs::read_to_string(directory.join("tokens.txt")).unwrap();
        let texts: Vec<WireToken> = texts.lines().map(|t| WireToken::new(t).unwrap()).collect();
        let mut workers = tokio::task::JoinSet::new();
        for worker in 0..WORKERS {
            workers.spawn(redeem_all(store.clone(), texts.clone(), worker));
        }
        while let Some(worker) = workers.join_next().await {
            worker.unwrap();
        }
    });
    std::io::stdout().lock().write_all(b"all tried\n").unwrap();
}

async fn redeem_all(store: TokenStore, texts: Vec<WireToken>, worker: usize) {
    for (number, text) in texts.iter().enumerate() {
        if wins(&store, text).await {
            let line = format!("won {number} by {worker}\n");
            std::io::stdout().lock().write_all(line.as_bytes()).unwrap();
        }
    }
}

/// Runs a child and kills it (SIGKILL) after `kill_after` wins; answers the tokens that it won.
fn run_child(directory: &std::path::Path, kill_after: usize) -> Vec<usize> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "store::tests::child_redeems_until_it_is_killed"])
        .args(["--nocapture", "--test-threads=1"])
        .env(CHILD_DIRECTORY, directory)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut won = Vec::new();
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let Ok(line) = line else { break };
        let Some(rest) = line.strip_prefix("won ") else {
            continue;
        };
        won.push(rest.split(' ').next().unwrap().parse().unwrap());
        if won.len() == kill_after {
            child.kill().unwrap();
        }
    }
    child.wait().unwrap();
    won
}

#[tokio::test]
async fn r21_a_crash_between_any_two_writes_never_yields_two_winners() {
    let dir = tempfile::tempdir().unwrap();
    let store = TokenStore::open(&dir.path().join("tokens.db")).unwrap();
    let mut texts = Vec::new();
    for _ in 0..TOKENS {
        texts.push(issue_one(&store).await);
    }
    drop(store);
    let lines: Vec<&str> = texts.iter().map(WireToken::expose).collect();
    std::fs::write(dir.path().join("tokens.txt"), lines.join("\n")).unwrap();

    // Each child begins with the first token again: whatever was won before is tried again.
    let mut winners: BTreeMap<usize, u32> = BTreeMap::new();
    for kill_after in [1, 7, 23, 60, 111, usize::MAX] {
        let directory = dir.path().to_owned();
        let run = tokio::task::spawn_blocking(move || run_child(&directory, kill_after));
        for token in run.await.unwrap() {
            *winners.entry(token).or_default() += 1;
        }
    }
    let twice: BTreeSet<_> = winners.iter().filter(|&(_, &count)| count > 1).collect();
    assert!(twice.is_empty(), "won twice: {twice:?}");
    // A kill may spend a token without an answer, but only those that were in flight.
    assert!(
        winners.len() >= TOKENS - 5 * WORKERS,
        "only {} tokens were won",
        winners.len()
    );
    let store = TokenStore::open(&dir.path().join("tokens.db")).unwrap();
    for text in &texts {
        assert!(
            !wins(&store, text).await,
            "a token was still good after all were tried"
        );
    }
}
