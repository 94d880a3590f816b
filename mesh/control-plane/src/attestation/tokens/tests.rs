use std::path::Path;

use ringwall_secret::{SecretsConfig, private_file};
use time::macros::datetime;

use super::*;
use crate::store::embedded::Embedded;

const NOW: OffsetDateTime = datetime!(2030-01-01 12:00 UTC);
const MINUTE: Duration = Duration::from_secs(60);
const KEY: [u8; 32] = [7; 32];

fn tokens(folder: &Path) -> JoinTokens {
    let store = Embedded::open(&folder.join("db")).unwrap();
    let directory = folder.to_owned();
    let secrets = SecretProvider::open(&SecretsConfig::File { directory }).unwrap();
    JoinTokens::new(Arc::new(store), Arc::new(secrets), "join-tokens".to_owned())
}

fn list(folder: &Path, token: &str, node: &str, not_after: OffsetDateTime) {
    let json = serde_json::json!([
        { "sha256": "nonsense", "node": "x", "not_after": 1 },
        { "sha256": hex::encode(hash(token).0), "node": node, "not_after": not_after.unix_timestamp() },
    ]);
    private_file::write(&folder.join("join-tokens"), json.to_string().as_bytes()).unwrap();
}

fn won(node: &str) -> Consumption {
    Consumption::Won {
        node: node.to_owned(),
    }
}

#[tokio::test]
async fn a_token_of_the_operator_is_good_once() {
    let folder = tempfile::tempdir().unwrap();
    let tokens = tokens(folder.path());
    let (token, not_after) = tokens.create("local", MINUTE, "op", NOW).await.unwrap();
    assert_eq!(not_after, NOW + MINUTE);
    assert!(token.expose().len() >= 43);
    let first = tokens.spend(token.expose(), &KEY, NOW).await.unwrap();
    assert_eq!(first, won("local"));
    let second = tokens.spend(token.expose(), &KEY, NOW).await.unwrap();
    assert_eq!(second, Consumption::Refused(JoinRefusal::Used));
}

#[tokio::test]
async fn tokens_of_the_secret_are_taken_over_when_they_are_shown() {
    let folder = tempfile::tempdir().unwrap();
    let tokens = tokens(folder.path());
    let unknown = Consumption::Refused(JoinRefusal::Unknown);
    // Before there is a secret, and while it lists others.
    assert_eq!(tokens.spend("mine", &KEY, NOW).await.unwrap(), unknown);
    list(folder.path(), "mine", "edge", NOW + MINUTE);
    assert_eq!(tokens.spend("another", &KEY, NOW).await.unwrap(), unknown);
    assert_eq!(tokens.spend("mine", &KEY, NOW).await.unwrap(), won("edge"));
    // It still stands in the secret, and is spent all the same.
    let again = tokens.spend("mine", &KEY, NOW).await.unwrap();
    assert_eq!(again, Consumption::Refused(JoinRefusal::Used));
    let late = NOW + 2 * MINUTE;
    list(folder.path(), "late", "edge", NOW + MINUTE);
    assert_eq!(tokens.spend("late", &KEY, late).await.unwrap(), unknown);
}

/// Rows of spent tokens are removed some time after their end; the list must not revive one.
#[tokio::test]
async fn attack_a_purged_token_of_the_secret_stays_spent() {
    let folder = tempfile::tempdir().unwrap();
    let tokens = tokens(folder.path());
    list(folder.path(), "mine", "edge", NOW + MINUTE);
    assert_eq!(tokens.spend("mine", &KEY, NOW).await.unwrap(), won("edge"));
    for later in [NOW + 2 * MINUTE, NOW + 2 * 24 * 60 * MINUTE] {
        tokens.store.purge(later, NOW).await.unwrap();
        let again = tokens.spend("mine", &KEY, later).await.unwrap();
        assert!(matches!(again, Consumption::Refused(_)), "{again:?}");
    }
}

#[tokio::test]
async fn odd_tokens_and_a_broken_list_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let tokens = tokens(folder.path());
    let unknown = Consumption::Refused(JoinRefusal::Unknown);
    for odd in ["", &"x".repeat(MAX_TOKEN_BYTES + 1)] {
        assert_eq!(tokens.spend(odd, &KEY, NOW).await.unwrap(), unknown);
    }
    private_file::write(&folder.path().join("join-tokens"), b"nonsense").unwrap();
    let error = tokens.spend("mine", &KEY, NOW).await.unwrap_err();
    assert!(error.to_string().contains("no list of tokens"), "{error}");
}
