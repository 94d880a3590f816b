//! API keys of callers: who presented which key over which mTLS connection (R20).
//!
//! Owns: reading the accepted keys from the secret provider, again whenever they change (so that an
//! overlap rotation needs no restart), and the answer to a caller that is refused. A key is never
//! enough by itself: it must belong to the workload at the other end of the connection.
//! Must not: compare keys; `ringwall_token::api_key` does that. Read next: `user_context.rs`.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use axum::response::{IntoResponse, Response};
use http::request::Parts;
use http::{HeaderMap, StatusCode};
use ringwall_http_io::Problem;
use ringwall_identity::SpiffeId;
use ringwall_proto::{headers, problems};
use ringwall_secret::{SecretBytes, SecretError, SecretProvider};
use ringwall_token::TokenError;
use ringwall_token::api_key::{ApiKeyEntry, ApiKeyError, ApiKeyRing};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Peer;

/// Where the accepted keys are found: names of secrets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ApiKeysConfig {
    /// Secret with the accepted keys: a JSON list of entries (id, hash, caller, scopes, not_after).
    pub entries_secret: String,
    /// Secret with the pepper under which the keys are hashed: at least 32 bytes.
    pub pepper_secret: String,
}

impl Default for ApiKeysConfig {
    fn default() -> Self {
        Self {
            entries_secret: "api-key-entries".to_owned(),
            pepper_secret: "api-key-pepper".to_owned(),
        }
    }
}

/// The accepted keys. Clones share them.
#[derive(Clone)]
pub struct ApiKeys(Arc<Inner>);

struct Inner {
    secrets: Arc<SecretProvider>,
    config: ApiKeysConfig,
    current: Mutex<Current>,
}

/// One version of the secrets and the ring made from it.
struct Current {
    entries: SecretBytes,
    pepper: SecretBytes,
    ring: Arc<ApiKeyRing>,
}

/// Why the accepted keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ApiKeysError {
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// The text names the position, never the content.
    #[error("secret `{name}` is not a list of API keys: line {line}, column {column}")]
    Entries {
        name: String,
        line: usize,
        column: usize,
    },
    #[error(transparent)]
    Ring(#[from] TokenError),
}

/// Why a caller is refused. Its answer names only the layer; the reason is for the log.
#[derive(Debug, thiserror::Error)]
pub enum ApiKeyRefusal {
    #[error("the connection has no verified workload identity")]
    NoPeer,
    #[error("the request does not carry exactly one API key")]
    Missing,
    #[error(transparent)]
    Refused(#[from] ApiKeyError),
    #[error("the accepted API keys cannot be read")]
    Unavailable(#[from] ApiKeysError),
}

impl ApiKeys {
    /// Reads the keys once, so that a broken secret stops the start and not the first request.
    ///
    /// # Errors
    /// [`ApiKeysError`] names the secret and what is wrong with it.
    pub fn open(secrets: Arc<SecretProvider>, config: ApiKeysConfig) -> Result<Self, ApiKeysError> {
        let entries = secrets.get(&config.entries_secret)?;
        let pepper = secrets.get(&config.pepper_secret)?;
        let current = Mutex::new(Current::new(&config, entries, pepper)?);
        Ok(Self(Arc::new(Inner {
            secrets,
            config,
            current,
        })))
    }

    /// Checks the `x-api-key` of a request against the mTLS peer of its connection and `scope`;
    /// answers who that is.
    ///
    /// # Errors
    /// [`ApiKeyRefusal`], which is a response.
    pub fn check(&self, parts: &Parts, scope: &str) -> Result<SpiffeId, ApiKeyRefusal> {
        let Some(Peer(peer)) = parts.extensions.get::<Peer>() else {
            return Err(ApiKeyRefusal::NoPeer);
        };
        self.check_at(&parts.headers, peer, scope, SystemTime::now())?;
        Ok(peer.clone())
    }

    fn check_at(
        &self,
        headers: &HeaderMap,
        peer: &SpiffeId,
        scope: &str,
        now: SystemTime,
    ) -> Result<(), ApiKeyRefusal> {
        let mut values = headers.get_all(headers::API_KEY).iter();
        let (Some(value), None) = (values.next(), values.next()) else {
            return Err(ApiKeyRefusal::Missing);
        };
        let presented = value.to_str().map_err(|_| ApiKeyError::Malformed)?;
        self.ring()?.verify(presented, peer, scope, now)?;
        Ok(())
    }

    /// The ring of the secrets as they are now.
    fn ring(&self) -> Result<Arc<ApiKeyRing>, ApiKeysError> {
        let Inner {
            secrets,
            config,
            current,
        } = &*self.0;
        let entries = secrets.get(&config.entries_secret)?;
        let pepper = secrets.get(&config.pepper_secret)?;
        let mut current = current.lock().unwrap_or_else(PoisonError::into_inner);
        if !(current.entries.ct_eq(entries.expose()) && current.pepper.ct_eq(pepper.expose())) {
            *current = Current::new(config, entries, pepper)?;
            tracing::info!("the accepted API keys changed");
        }
        Ok(Arc::clone(&current.ring))
    }
}

impl Current {
    fn new(
        config: &ApiKeysConfig,
        entries: SecretBytes,
        pepper: SecretBytes,
    ) -> Result<Self, ApiKeysError> {
        let parsed: Vec<ApiKeyEntry> =
            serde_json::from_slice(entries.expose()).map_err(|error| ApiKeysError::Entries {
                name: config.entries_secret.clone(),
                line: error.line(),
                column: error.column(),
            })?;
        let ring = Arc::new(ApiKeyRing::new(&pepper, parsed)?);
        Ok(Self {
            entries,
            pepper,
            ring,
        })
    }
}

impl IntoResponse for ApiKeyRefusal {
    fn into_response(self) -> Response {
        let (status, slug, title) = match &self {
            Self::NoPeer => (
                StatusCode::FORBIDDEN,
                problems::PEER_REFUSED,
                "No workload identity",
            ),
            Self::Missing => (
                StatusCode::UNAUTHORIZED,
                problems::API_KEY_MISSING,
                "An API key is required",
            ),
            // A key that is genuine but not allowed this is the only case that a caller may tell
            // apart: it is its own key.
            Self::Refused(ApiKeyError::Scope { .. }) => (
                StatusCode::FORBIDDEN,
                problems::API_KEY_REFUSED,
                "The API key does not allow this",
            ),
            Self::Refused(_) => (
                StatusCode::UNAUTHORIZED,
                problems::API_KEY_REFUSED,
                "A valid API key is required",
            ),
            Self::Unavailable(_) => (
                StatusCode::SERVICE_UNAVAILABLE,
                problems::UNAVAILABLE,
                "Keys cannot be checked",
            ),
        };
        tracing::warn!(error = &self as &dyn std::error::Error, "API key refused");
        Problem::new(status, slug, title).into_response()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use http::HeaderValue;
    use ringwall_secret::{SecretString, SecretsConfig, private_file};
    use ringwall_token::api_key::{self, KeyId};
    use serde_json::json;

    use super::*;

    const PEPPER: &[u8] = b"a pepper of more than 32 bytes, for tests";

    fn workload(name: &str) -> SpiffeId {
        SpiffeId::parse(&format!("spiffe://ringwall.local/{name}")).unwrap()
    }

    fn key(id: &str) -> SecretString {
        api_key::generate(&KeyId::parse(id).unwrap()).unwrap()
    }

    fn write_entries(directory: &Path, keys: &[(&str, &SecretString, Option<&str>)]) {
        let pepper = SecretBytes::new(PEPPER.to_vec());
        let entries: Vec<_> = keys
            .iter()
            .map(|(id, key, not_after)| {
                json!({
                    "id": id,
                    "hash": api_key::hash(&pepper, key),
                    "caller": workload("orders"),
                    "scopes": ["items:read"],
                    "not_after": not_after,
                })
            })
            .collect();
        let text = serde_json::to_vec(&entries).unwrap();
        private_file::write(&directory.join("api-key-entries"), &text).unwrap();
        private_file::write(&directory.join("api-key-pepper"), PEPPER).unwrap();
    }

    fn open(directory: &Path) -> ApiKeys {
        let config = SecretsConfig::File {
            directory: directory.to_owned(),
        };
        let secrets = Arc::new(SecretProvider::open(&config).unwrap());
        ApiKeys::open(secrets, ApiKeysConfig::default()).unwrap()
    }

    fn check(keys: &ApiKeys, key: &str, peer: &str, scope: &str) -> Result<(), ApiKeyRefusal> {
        let mut headers = HeaderMap::new();
        headers.insert(headers::API_KEY, HeaderValue::from_str(key).unwrap());
        keys.check_at(&headers, &workload(peer), scope, SystemTime::now())
    }

    #[test]
    fn r20_a_key_works_for_its_workload_and_scope_alone() {
        let directory = tempfile::tempdir().unwrap();
        let good = key("first");
        write_entries(directory.path(), &[("first", &good, None)]);
        let keys = open(directory.path());
        check(&keys, good.expose(), "orders", "items:read").unwrap();

        let stolen = check(&keys, good.expose(), "payments", "items:read").unwrap_err();
        assert!(matches!(
            stolen,
            ApiKeyRefusal::Refused(ApiKeyError::WrongCaller { .. })
        ));
        assert_eq!(stolen.into_response().status(), StatusCode::UNAUTHORIZED);
        let scope = check(&keys, good.expose(), "orders", "stock:reserve").unwrap_err();
        assert_eq!(scope.into_response().status(), StatusCode::FORBIDDEN);
        let unknown = check(&keys, key("first").expose(), "orders", "items:read").unwrap_err();
        assert!(matches!(
            unknown,
            ApiKeyRefusal::Refused(ApiKeyError::Unknown)
        ));
    }

    #[test]
    fn r20_no_key_and_two_keys_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let good = key("first");
        write_entries(directory.path(), &[("first", &good, None)]);
        let keys = open(directory.path());
        let mut headers = HeaderMap::new();
        for _ in 0..2 {
            let refused = keys.check_at(
                &headers,
                &workload("orders"),
                "items:read",
                SystemTime::now(),
            );
            assert!(matches!(refused, Err(ApiKeyRefusal::Missing)));
            for _ in 0..2 {
                let value = HeaderValue::from_str(good.expose()).unwrap();
                headers.append(headers::API_KEY, value);
            }
        }
    }

    #[test]
    fn r20_an_overlap_rotation_needs_no_restart_and_refuses_nobody() {
        let directory = tempfile::tempdir().unwrap();
        let (old, new) = (key("old"), key("new"));
        write_entries(directory.path(), &[("old", &old, None)]);
        let keys = open(directory.path());

        write_entries(
            directory.path(),
            &[("old", &old, None), ("new", &new, None)],
        );
        check(&keys, old.expose(), "orders", "items:read").unwrap();
        check(&keys, new.expose(), "orders", "items:read").unwrap();

        write_entries(directory.path(), &[("new", &new, None)]);
        check(&keys, new.expose(), "orders", "items:read").unwrap();
        let gone = check(&keys, old.expose(), "orders", "items:read").unwrap_err();
        assert!(matches!(gone, ApiKeyRefusal::Refused(ApiKeyError::Unknown)));
    }

    #[test]
    fn r20_a_key_ends_at_its_not_after() {
        let directory = tempfile::tempdir().unwrap();
        let good = key("first");
        write_entries(
            directory.path(),
            &[("first", &good, Some("2030-01-01T00:00:00Z"))],
        );
        let keys = open(directory.path());
        let mut headers = HeaderMap::new();
        headers.insert(
            headers::API_KEY,
            HeaderValue::from_str(good.expose()).unwrap(),
        );
        let end = SystemTime::UNIX_EPOCH + Duration::from_secs(1_893_456_000);
        let at = |now| keys.check_at(&headers, &workload("orders"), "items:read", now);
        at(end - Duration::from_secs(1)).unwrap();
        assert!(matches!(
            at(end),
            Err(ApiKeyRefusal::Refused(ApiKeyError::Expired(_)))
        ));
    }

    #[test]
    fn broken_secrets_stop_the_start_without_showing_them() {
        let directory = tempfile::tempdir().unwrap();
        let good = key("first");
        write_entries(directory.path(), &[("first", &good, None)]);
        private_file::write(
            &directory.path().join("api-key-entries"),
            b"[{\"id\":\"hunter2\"",
        )
        .unwrap();
        let config = SecretsConfig::File {
            directory: directory.path().to_owned(),
        };
        let secrets = Arc::new(SecretProvider::open(&config).unwrap());
        let error = ApiKeys::open(secrets, ApiKeysConfig::default())
            .err()
            .unwrap();
        assert!(matches!(error, ApiKeysError::Entries { .. }));
        assert!(!error.to_string().contains("hunter2"));
    }

    #[test]
    fn a_request_without_a_workload_identity_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let good = key("first");
        write_entries(directory.path(), &[("first", &good, None)]);
        let request = http::Request::builder()
            .header(headers::API_KEY, good.expose())
            .body(());
        let (parts, ()) = request.unwrap().into_parts();
        let refused = open(directory.path())
            .check(&parts, "items:read")
            .unwrap_err();
        assert!(matches!(refused, ApiKeyRefusal::NoPeer));
        assert_eq!(refused.into_response().status(), StatusCode::FORBIDDEN);
    }
}
