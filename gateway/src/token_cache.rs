//! Verified tokens, remembered per worker.
//!
//! Owns: [`VerifiedToken`] with everything that was derived from it (policy decisions, user-context tokens), and
//! the bounded cache keyed by the token's SHA-256: the token's text is never kept.
//! Must not: verify. Next: `tokens.rs`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use aws_lc_rs::digest::{SHA256, digest};
use foldhash::fast::FixedState;
use http::HeaderValue;
use parking_lot::Mutex;
use ringwall_identity::SpiffeId;
use ringwall_policy::Principal;

use crate::snapshot::PolicyVerdict;

/// Derived facts kept per token; one request path uses one of each.
const MAX_DERIVED: usize = 32;

/// SHA-256 of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct TokenKey([u8; 32]);

impl TokenKey {
    pub(crate) fn of(token: &str) -> Self {
        let mut key = [0; 32];
        let hash = digest(&SHA256, token.as_bytes());
        for (slot, byte) in key.iter_mut().zip(hash.as_ref()) {
            *slot = *byte;
        }
        Self(key)
    }
}

/// How the token was checked; policies see it as `context.authentication`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TokenKind {
    Jwt,
    Reference,
}

impl TokenKind {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Jwt => "jwt",
            Self::Reference => "reference",
        }
    }
}

/// What a valid token says, in the form that the pipeline needs.
#[derive(Debug)]
pub(crate) struct VerifiedToken {
    pub(crate) kind: TokenKind,
    pub(crate) audience: Box<str>,
    pub(crate) principal: Principal,
    subject: Box<str>,
    client: Box<str>,
    pub(crate) roles: Vec<String>,
    pub(crate) scopes: Vec<String>,
    /// Neither believed nor cached beyond this time.
    pub(crate) valid_until: SystemTime,
    pub(crate) user_hash: u128,
    pub(crate) client_hash: u128,
    decisions: Mutex<Vec<(u64, PolicyVerdict)>>,
    contexts: Mutex<Vec<UserContextHeader>>,
}

/// A signed user-context token, ready to be sent.
#[derive(Debug)]
struct UserContextHeader {
    audience: SpiffeId,
    value: HeaderValue,
    fresh_until: SystemTime,
}

/// The claims that [`VerifiedToken`] is made from.
#[derive(Debug, Clone)]
pub(crate) struct TokenClaims {
    pub(crate) kind: TokenKind,
    pub(crate) audience: String,
    pub(crate) subject: String,
    pub(crate) client: String,
    pub(crate) roles: Vec<String>,
    pub(crate) scope: String,
    pub(crate) acr: Option<String>,
    pub(crate) valid_until: SystemTime,
}

impl VerifiedToken {
    /// `hash` is the process's keyed hash, for the limiter's keys.
    pub(crate) fn new(claims: TokenClaims, hash: impl Fn(&str) -> u128) -> Self {
        let scopes: Vec<String> = claims
            .scope
            .split(' ')
            .filter(|word| !word.is_empty())
            .map(str::to_owned)
            .collect();
        // RFC 9068 §2.2: a client that acts for itself is its token's subject.
        let principal = if claims.subject == claims.client {
            Principal::Client {
                id: claims.client.clone(),
                scopes: scopes.clone(),
            }
        } else {
            Principal::User {
                sub: claims.subject.clone(),
                client: claims.client.clone(),
                roles: claims.roles.clone(),
                scopes: scopes.clone(),
                acr: claims.acr,
            }
        };
        Self {
            kind: claims.kind,
            audience: claims.audience.into(),
            principal,
            user_hash: hash(&claims.subject),
            client_hash: hash(&claims.client),
            subject: claims.subject.into(),
            client: claims.client.into(),
            roles: claims.roles,
            scopes,
            valid_until: claims.valid_until,
            decisions: Mutex::default(),
            contexts: Mutex::default(),
        }
    }

    pub(crate) fn subject(&self) -> &str {
        &self.subject
    }

    pub(crate) fn client(&self) -> &str {
        &self.client
    }

    pub(crate) fn has_scope(&self, scope: &str) -> bool {
        self.scopes.iter().any(|held| held == scope)
    }

    /// The remembered decision under `key`, or the one that `decide` makes now.
    pub(crate) fn decision(
        &self,
        key: u64,
        decide: impl FnOnce() -> PolicyVerdict,
    ) -> PolicyVerdict {
        if let Some((_, verdict)) = self
            .decisions
            .lock()
            .iter()
            .find(|(known, _)| *known == key)
        {
            return verdict.clone();
        }
        let verdict = decide();
        let mut decisions = self.decisions.lock();
        if decisions.len() >= MAX_DERIVED {
            // Old snapshots' decisions: the whole list is cheap to make again.
            decisions.clear();
        }
        decisions.push((key, verdict.clone()));
        verdict
    }

    /// The remembered user context for `audience` if it is fresh, or the one that `sign` makes now.
    pub(crate) fn context<E>(
        &self,
        audience: &SpiffeId,
        now: SystemTime,
        sign: impl FnOnce() -> Result<(HeaderValue, SystemTime), E>,
    ) -> Result<HeaderValue, E> {
        let mut contexts = self.contexts.lock();
        let fresh =
            |held: &&UserContextHeader| held.audience == *audience && held.fresh_until > now;
        if let Some(held) = contexts.iter().find(fresh) {
            return Ok(held.value.clone());
        }
        let (value, fresh_until) = sign()?;
        contexts.retain(|held| held.fresh_until > now && held.audience != *audience);
        if contexts.len() < MAX_DERIVED {
            let audience = audience.clone();
            contexts.push(UserContextHeader {
                audience,
                value: value.clone(),
                fresh_until,
            });
        }
        Ok(value)
    }
}

/// The tokens that one worker has seen lately.
///
/// Two generations of bounded size: when the young one is full it becomes the old one, and what was not asked for
/// since is forgotten. No scan, no clock.
#[derive(Debug)]
pub(crate) struct TokenCache {
    generation_limit: usize,
    young: HashMap<TokenKey, Arc<VerifiedToken>, FixedState>,
    old: HashMap<TokenKey, Arc<VerifiedToken>, FixedState>,
}

impl TokenCache {
    /// Holds at most `capacity` tokens.
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            generation_limit: (capacity / 2).max(1),
            young: HashMap::default(),
            old: HashMap::default(),
        }
    }

    pub(crate) fn get(&mut self, key: &TokenKey, now: SystemTime) -> Option<Arc<VerifiedToken>> {
        let fresh = |token: &&Arc<VerifiedToken>| token.valid_until > now;
        if let Some(token) = self.young.get(key) {
            return Some(token).filter(fresh).map(Arc::clone);
        }
        let token = self.old.remove(key).filter(|token| fresh(&token))?;
        self.insert(*key, Arc::clone(&token));
        Some(token)
    }

    pub(crate) fn insert(&mut self, key: TokenKey, token: Arc<VerifiedToken>) {
        if self.young.len() >= self.generation_limit {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, token);
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn token(seconds: u64) -> Arc<VerifiedToken> {
        Arc::new(VerifiedToken::new(
            TokenClaims {
                kind: TokenKind::Jwt,
                audience: "api".to_owned(),
                subject: "alice".to_owned(),
                client: "spa".to_owned(),
                roles: vec!["customer".to_owned()],
                scope: "a b".to_owned(),
                acr: None,
                valid_until: SystemTime::UNIX_EPOCH + Duration::from_secs(seconds),
            },
            |text| text.len() as u128,
        ))
    }

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn expired_tokens_are_not_found() {
        let mut cache = TokenCache::new(10);
        let key = TokenKey::of("t");
        cache.insert(key, token(100));
        assert!(cache.get(&key, at(99)).is_some());
        assert!(cache.get(&key, at(100)).is_none());
        assert!(cache.get(&TokenKey::of("u"), at(0)).is_none());
    }

    #[test]
    fn size_is_bounded_and_used_tokens_survive() {
        let mut cache = TokenCache::new(100);
        let used = TokenKey::of("used");
        cache.insert(used, token(100));
        for n in 0..10_000 {
            cache.insert(TokenKey::of(&n.to_string()), token(100));
            assert!(cache.get(&used, at(1)).is_some(), "{n}");
            assert!(cache.len() <= 101);
        }
    }

    #[test]
    fn decisions_are_made_once_per_key() {
        let token = token(100);
        let verdict = PolicyVerdict {
            allowed: true,
            reason: "x".into(),
        };
        assert!(token.decision(1, || verdict.clone()).allowed);
        assert!(token.decision(1, || panic!("known")).allowed);
        let denied = PolicyVerdict {
            allowed: false,
            reason: "y".into(),
        };
        assert!(!token.decision(2, || denied).allowed);
    }

    #[test]
    fn contexts_are_kept_per_audience_while_fresh() {
        let token = token(100);
        let orders = SpiffeId::parse("spiffe://ringwall.local/orders").expect("id");
        let other = SpiffeId::parse("spiffe://ringwall.local/other").expect("id");
        let sign = |text: &'static str, until| {
            move || Ok::<_, ()>((HeaderValue::from_static(text), at(until)))
        };
        assert_eq!(
            token.context(&orders, at(0), sign("one", 40)),
            Ok(HeaderValue::from_static("one"))
        );
        assert_eq!(
            token.context(&orders, at(39), sign("two", 80)),
            Ok(HeaderValue::from_static("one"))
        );
        assert_eq!(
            token.context(&other, at(39), sign("three", 80)),
            Ok(HeaderValue::from_static("three"))
        );
        assert_eq!(
            token.context(&orders, at(40), sign("four", 80)),
            Ok(HeaderValue::from_static("four"))
        );
    }

    #[test]
    fn a_client_acting_for_itself_is_no_user() {
        let claims = TokenClaims {
            kind: TokenKind::Jwt,
            audience: "api".to_owned(),
            subject: "demo-cli".to_owned(),
            client: "demo-cli".to_owned(),
            roles: vec![],
            scope: "orders:read".to_owned(),
            acr: None,
            valid_until: at(1),
        };
        let token = VerifiedToken::new(claims, |_| 0);
        assert!(matches!(token.principal, Principal::Client { .. }));
        assert!(token.has_scope("orders:read") && !token.has_scope("orders"));
    }
}
