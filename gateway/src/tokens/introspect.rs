//! Reference tokens: asked of the authorization server (RFC 7662), fail closed.
//!
//! Owns: one question per token at a time however many requests wait for it, an answer's age (at most one
//! second, so that a revoked token is denied within one, R11), and the bound on questions at once.
//! Must not: cache "inactive", or believe anything when the server is away.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use foldhash::fast::RandomState;
use parking_lot::Mutex;
use ringwall_proto::introspection::IntrospectionResponse;
use ringwall_secret::SecretString;
use ringwall_service::{Transport, Upstream};
use tokio::runtime::Handle;
use tokio::sync::{OnceCell, Semaphore};

use crate::config::TokensConfig;
use crate::refusal::Refusal;
use crate::token_cache::{TokenClaims, TokenKey, TokenKind};

/// `rwr_` and 43 letters of base64url.
const REFERENCE_LENGTH: usize = 47;
/// Questions at once; beyond them requests are refused with 503.
const MAX_QUESTIONS: usize = 64;

pub(super) struct Introspector {
    upstream: Upstream,
    path: String,
    authorization: SecretString,
    max_age: Duration,
    control: Handle,
    permits: Arc<Semaphore>,
    asked: Mutex<HashMap<TokenKey, Arc<Question>, RandomState>>,
}

/// One question; everybody who has it waits for the same answer.
struct Question {
    asked_at: Instant,
    answer: OnceCell<Result<IntrospectionResponse, Refusal>>,
}

impl Introspector {
    pub(super) fn new(
        upstream: Upstream,
        config: &TokensConfig,
        secret: &SecretString,
        control: Handle,
    ) -> Self {
        // RFC 6749 §2.3.1: both halves are form-encoded before they are joined.
        let pair = format!(
            "{}:{}",
            form_encode(&config.client_id),
            form_encode(secret.expose())
        );
        Self {
            upstream,
            path: config.introspection_path.clone(),
            authorization: SecretString::new(format!("Basic {}", STANDARD.encode(pair))),
            max_age: config.introspection_max_age,
            control,
            permits: Arc::new(Semaphore::new(MAX_QUESTIONS)),
            asked: Mutex::default(),
        }
    }

    /// Asks, or takes part in a question that is younger than the age limit.
    pub(super) async fn introspect(
        &self,
        token: &str,
        issuer: &str,
        now: SystemTime,
    ) -> Result<TokenClaims, Refusal> {
        if !is_reference(token) {
            return Err(Refusal::TokenInvalid("token-malformed"));
        }
        let key = TokenKey::of(token);
        let question = self.question(key);
        let answer = question.answer.get_or_init(|| self.ask(token)).await;
        let age = question.asked_at.elapsed();
        match answer {
            Ok(answer) => claims(answer, issuer, now, self.max_age.saturating_sub(age)),
            Err(refusal) => {
                // The next request asks again.
                self.forget(key, &question);
                Err(refusal.clone())
            }
        }
    }

    fn question(&self, key: TokenKey) -> Arc<Question> {
        let mut asked = self.asked.lock();
        if let Some(question) = asked
            .get(&key)
            .filter(|q| q.asked_at.elapsed() < self.max_age)
        {
            return Arc::clone(question);
        }
        asked.retain(|_, question| question.asked_at.elapsed() < self.max_age);
        let question = Arc::new(Question {
            asked_at: Instant::now(),
            answer: OnceCell::new(),
        });
        asked.insert(key, Arc::clone(&question));
        question
    }

    fn forget(&self, key: TokenKey, question: &Arc<Question>) {
        let mut asked = self.asked.lock();
        if asked
            .get(&key)
            .is_some_and(|known| Arc::ptr_eq(known, question))
        {
            asked.remove(&key);
        }
    }

    async fn ask(&self, token: &str) -> Result<IntrospectionResponse, Refusal> {
        let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() else {
            return Err(Refusal::AuthUnavailable(
                "too many introspections at once".into(),
            ));
        };
        let (upstream, path) = (self.upstream.clone(), self.path.clone());
        let (authorization, token) = (
            self.authorization.clone(),
            SecretString::new(token.to_owned()),
        );
        let asked = self.control.spawn(async move {
            let _permit = permit;
            upstream
                .post(&path)
                .header("authorization", authorization.expose())
                .form(&[
                    ("token", token.expose().as_str()),
                    ("token_type_hint", "access_token"),
                ])
                .receive::<IntrospectionResponse>()
                .await
        });
        match asked.await {
            Ok(Ok(response)) => Ok(response.body),
            Ok(Err(error)) => Err(Refusal::AuthUnavailable(Arc::from(error.to_string()))),
            Err(error) => Err(Refusal::AuthUnavailable(Arc::from(error.to_string()))),
        }
    }
}

/// Reads an answer strictly: what is missing or of another issuer is a refusal.
fn claims(
    answer: &IntrospectionResponse,
    issuer: &str,
    now: SystemTime,
    believed_for: Duration,
) -> Result<TokenClaims, Refusal> {
    if !answer.active {
        return Err(Refusal::TokenInvalid("token-inactive"));
    }
    if answer.iss.as_deref().is_some_and(|named| named != issuer) {
        return Err(Refusal::TokenInvalid("token-issuer"));
    }
    let incomplete = || Refusal::TokenInvalid("introspection-incomplete");
    let expires = Duration::from_secs(answer.exp.ok_or_else(incomplete)?);
    let valid_until = (SystemTime::UNIX_EPOCH + expires).min(now + believed_for);
    if SystemTime::UNIX_EPOCH + expires <= now {
        return Err(Refusal::TokenInvalid("token-expired"));
    }
    let client = answer.client_id.clone().ok_or_else(incomplete)?;
    Ok(TokenClaims {
        kind: TokenKind::Reference,
        audience: answer.aud.clone().ok_or_else(incomplete)?,
        subject: answer.sub.clone().unwrap_or_else(|| client.clone()),
        client,
        roles: answer.roles.clone(),
        scope: answer.scope.clone().unwrap_or_default(),
        acr: answer.acr.clone(),
        valid_until,
    })
}

fn is_reference(token: &str) -> bool {
    token.len() == REFERENCE_LENGTH
        && token
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

/// `application/x-www-form-urlencoded` of one value.
fn form_encode(text: &str) -> String {
    text.bytes()
        .fold(String::with_capacity(text.len()), |mut out, byte| {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'*' => {
                    out.push(char::from(byte));
                }
                b' ' => out.push('+'),
                _ => {
                    out.push('%');
                    for nibble in [byte >> 4, byte & 0xf] {
                        out.extend(
                            char::from_digit(u32::from(nibble), 16).map(|c| c.to_ascii_uppercase()),
                        );
                    }
                }
            }
            out
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: SystemTime = SystemTime::UNIX_EPOCH;

    fn active() -> IntrospectionResponse {
        IntrospectionResponse {
            active: true,
            iss: Some("https://issuer".to_owned()),
            sub: Some("alice".to_owned()),
            aud: Some("api".to_owned()),
            client_id: Some("spa".to_owned()),
            scope: Some("a b".to_owned()),
            exp: Some(100),
            ..IntrospectionResponse::default()
        }
    }

    fn refused(answer: &IntrospectionResponse) -> &'static str {
        claims(answer, "https://issuer", NOW, Duration::from_secs(1))
            .map_or_else(|refusal| refusal.name(), |_| "accepted")
    }

    #[test]
    fn an_active_answer_is_believed_for_its_age_only() {
        let read =
            claims(&active(), "https://issuer", NOW, Duration::from_millis(300)).expect("ok");
        assert_eq!(read.valid_until, NOW + Duration::from_millis(300));
        assert_eq!(
            (read.subject.as_str(), read.kind),
            ("alice", TokenKind::Reference)
        );
    }

    #[test]
    fn r11_anything_less_is_refused() {
        assert_eq!(refused(&active()), "accepted");
        assert_eq!(
            refused(&IntrospectionResponse::inactive()),
            "token-inactive"
        );
        assert_eq!(
            refused(&IntrospectionResponse {
                iss: Some("evil".into()),
                ..active()
            }),
            "token-issuer"
        );
        assert_eq!(
            refused(&IntrospectionResponse {
                exp: None,
                ..active()
            }),
            "introspection-incomplete"
        );
        assert_eq!(
            refused(&IntrospectionResponse {
                exp: Some(0),
                ..active()
            }),
            "token-expired"
        );
        assert_eq!(
            refused(&IntrospectionResponse {
                aud: None,
                ..active()
            }),
            "introspection-incomplete"
        );
        assert_eq!(
            refused(&IntrospectionResponse {
                client_id: None,
                ..active()
            }),
            "introspection-incomplete"
        );
    }

    #[test]
    fn only_well_formed_references_are_asked_about() {
        let sound = format!("rwr_{}", "A".repeat(43));
        assert!(is_reference(&sound));
        for text in [
            "rwr_",
            "rwr_x",
            &format!("{sound}A"),
            &sound.replace('A', "\r"),
        ] {
            assert!(!is_reference(text), "{text:?}");
        }
    }

    #[test]
    fn client_credentials_are_form_encoded() {
        assert_eq!(form_encode("a b:c/ü"), "a+b%3Ac%2F%C3%BC");
    }
}
