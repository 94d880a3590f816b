//! The three credentials in every combination, and each of them wrong in every way.
//!
//! The API keys, the key set and the ledger are real; the tokenizer is a small stand-in that honours
//! one token once, since its own tests prove the rest.

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use axum::body::Body;
use axum::response::IntoResponse;
use http::{Request, Response};
use ringwall_http_io::{Client, ClientLimits, Problem, body};
use ringwall_identity::SpiffeId;
use ringwall_proto::ids::{Currency, MinorUnits};
use ringwall_proto::payments::PaymentTerms;
use ringwall_proto::tokenizer::RedeemRequest;
use ringwall_proto::{headers, problems};
use ringwall_secret::{SecretBytes, SecretProvider, SecretString, SecretsConfig, private_file};
use ringwall_service::api_keys::{ApiKeys, ApiKeysConfig};
use ringwall_service::{Peer, Upstream};
use ringwall_store::{Database, StoreLimits};
use ringwall_token::api_key::{self, KeyId};
use ringwall_token::claims::{AccessToken, Actor};
use ringwall_token::{Algorithm, JwkSet, JwksCache, SigningKey};
use serde_json::{Value, json};
use tower::ServiceExt;

use super::*;
use crate::clearance::{AccessTokens, Clearance, SourceTokens};
use crate::config::{AccessTokensConfig, LimitsConfig};
use crate::store::{self, Ledger};

const ISSUER: &str = "https://auth.localhost:8443";
const SOURCE_TOKEN: &str = "rws_0123456789012345678901234567890123456789012";
const PEPPER: &[u8] = b"a pepper of more than 32 bytes, for tests";

/// Payments with everything around it.
struct Rig {
    router: Router,
    api_key: SecretString,
    signer: SigningKey,
    terms: PaymentTerms,
    /// Tokens that the stand-in tokenizer still honours.
    unspent: Arc<Mutex<Vec<String>>>,
    _state: tempfile::TempDir,
}

fn workload(name: &str) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://ringwall.local/{name}")).unwrap()
}

fn seconds(now: SystemTime) -> u64 {
    now.duration_since(SystemTime::UNIX_EPOCH)
        .unwrap()
        .as_secs()
}

impl Rig {
    async fn new() -> Self {
        let state = tempfile::tempdir().unwrap();
        let terms = PaymentTerms {
            order_id: OrderId::generate(),
            amount_minor: MinorUnits::new(4990).unwrap(),
            currency: Currency::EUR,
        };
        let unspent = Arc::new(Mutex::new(vec![SOURCE_TOKEN.to_owned()]));
        let (keys, api_key) = api_keys(state.path());
        let signer = SigningKey::generate(Algorithm::Es256).unwrap();
        let database = state.path().join("ledger.db");
        let database = Database::open(database, store::MIGRATIONS, StoreLimits::default()).unwrap();
        let config = AccessTokensConfig {
            issuer: ISSUER.to_owned(),
            audience: "payments".to_owned(),
            actor: "orders".to_owned(),
            leeway: Duration::from_secs(5),
        };
        let payments = Payments {
            clearance: Clearance {
                keys,
                access_tokens: AccessTokens::new(key_set(&signer), &config),
                source_tokens: SourceTokens::new(
                    tokenizer(Arc::clone(&unspent), terms.clone()).await,
                ),
            },
            ledger: Ledger::new(database),
            limits: LimitsConfig::default(),
        };
        Self {
            router: router(payments),
            api_key,
            signer,
            terms,
            unspent,
            _state: state,
        }
    }

    /// The access token that the authorization server makes by token exchange.
    fn claims(&self) -> AccessToken {
        let now = seconds(SystemTime::now());
        AccessToken {
            iss: ISSUER.to_owned(),
            sub: "alice".to_owned(),
            aud: "payments".to_owned(),
            exp: now + 300,
            iat: now,
            jti: "jti-1".to_owned(),
            client_id: "spa-proxy".to_owned(),
            scope: String::new(),
            roles: vec!["customer".to_owned()],
            acr: None,
            auth_time: None,
            act: Some(Actor {
                sub: "orders".to_owned(),
                act: None,
            }),
            sid: None,
        }
    }

    fn token(&self, claims: &AccessToken) -> String {
        self.signer.sign(AccessToken::TYP, claims).unwrap()
    }

    fn body(&self, source_token: Option<&str>) -> Value {
        let mut body = json!({
            "order_id": self.terms.order_id,
            "amount_minor": self.terms.amount_minor,
            "currency": self.terms.currency,
        });
        if let Some(token) = source_token {
            body["source_token"] = json!(token);
        }
        body
    }

    async fn send(
        &self,
        peer: &str,
        api_key: Option<&str>,
        bearer: Option<&str>,
        body: &Value,
    ) -> Response<Body> {
        let mut request = Request::post("/v1/payments").header("content-type", "application/json");
        if let Some(key) = api_key {
            request = request.header(headers::API_KEY, key);
        }
        if let Some(token) = bearer {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let mut request = request.body(Body::from(body.to_string())).unwrap();
        request.extensions_mut().insert(Peer(workload(peer)));
        self.router.clone().oneshot(request).await.unwrap()
    }

    /// All three credentials, with this bearer token and body.
    async fn pay(&self, bearer: &str, body: &Value) -> Response<Body> {
        self.send("orders", Some(self.api_key.expose()), Some(bearer), body)
            .await
    }

    async fn read(&self, api_key: Option<&str>) -> Response<Body> {
        let mut request = Request::get(format!("/v1/payments/{}", self.terms.order_id));
        if let Some(key) = api_key {
            request = request.header(headers::API_KEY, key);
        }
        let mut request = request.body(Body::empty()).unwrap();
        request.extensions_mut().insert(Peer(workload("orders")));
        self.router.clone().oneshot(request).await.unwrap()
    }

    async fn captured(&self) -> bool {
        self.read(Some(self.api_key.expose())).await.status() == StatusCode::OK
    }

    fn another_source_token(&self) -> &'static str {
        let token = "rws_another89012345678901234567890123456789012";
        self.unspent.lock().unwrap().push(token.to_owned());
        token
    }
}

fn api_keys(directory: &std::path::Path) -> (ApiKeys, SecretString) {
    let key = api_key::generate(&KeyId::parse("orders-1").unwrap()).unwrap();
    let entries = json!([{
        "id": "orders-1",
        "hash": api_key::hash(&SecretBytes::new(PEPPER.to_vec()), &key),
        "caller": workload("orders"),
        "scopes": ["payments:write", "payments:read"],
    }]);
    private_file::write(
        &directory.join("api-key-entries"),
        entries.to_string().as_bytes(),
    )
    .unwrap();
    private_file::write(&directory.join("api-key-pepper"), PEPPER).unwrap();
    let config = SecretsConfig::File {
        directory: directory.to_owned(),
    };
    let secrets = Arc::new(SecretProvider::open(&config).unwrap());
    (
        ApiKeys::open(secrets, ApiKeysConfig::default()).unwrap(),
        key,
    )
}

fn key_set(signer: &SigningKey) -> JwksCache {
    JwksCache::fixed(JwkSet {
        keys: vec![signer.public_jwk()],
    })
}

/// A tokenizer that honours each unspent token once, for exactly these terms.
async fn tokenizer(unspent: Arc<Mutex<Vec<String>>>, terms: PaymentTerms) -> Upstream {
    let redeem = move |axum::Json(request): axum::Json<RedeemRequest>| {
        let (unspent, digest) = (Arc::clone(&unspent), terms.digest());
        async move {
            let mut unspent = unspent.lock().unwrap();
            let known = unspent
                .iter()
                .position(|token| token == request.token.expose());
            let bound = request.caller == workload("orders")
                && request.htu.as_str() == "/v1/payments"
                && request.body_digest == digest;
            match known {
                Some(index) if bound => {
                    unspent.remove(index);
                    let answer = json!({
                        "sub": "alice", "client_id": "spa-proxy",
                        "issued_at": "2026-01-01T00:00:00Z",
                    });
                    axum::Json(answer).into_response()
                }
                _ => Problem::new(
                    StatusCode::CONFLICT,
                    problems::SOURCE_TOKEN_REFUSED,
                    "Refused",
                )
                .into_response(),
            }
        }
    };
    let router = Router::new().route("/v1/source-tokens/redeem", post(redeem));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    Upstream::over(Client::plain(address, ClientLimits::default()), "tokenizer")
}

async fn slug(response: Response<Body>) -> String {
    let bytes = body::collect(response.into_body(), 64 * 1024)
        .await
        .unwrap();
    let problem: Problem = serde_json::from_slice(&bytes).unwrap();
    problem.slug().unwrap().to_owned()
}

#[tokio::test]
async fn r22_only_all_three_pass() {
    for combination in 0..8_u8 {
        let rig = Rig::new().await;
        let [key, token, source] = [1, 2, 4].map(|bit| combination & bit != 0);
        let access_token = rig.token(&rig.claims());
        let response = rig
            .send(
                "orders",
                key.then_some(rig.api_key.expose()),
                token.then_some(&access_token),
                &rig.body(source.then_some(SOURCE_TOKEN)),
            )
            .await;
        let status = response.status();
        if combination == 7 {
            assert_eq!(status, StatusCode::CREATED);
            assert!(rig.captured().await);
            continue;
        }
        // The first credential that is missing is the one that the answer names.
        let (expected, missing) = match (key, token) {
            (false, _) => (StatusCode::UNAUTHORIZED, problems::API_KEY_MISSING),
            (_, false) => (StatusCode::UNAUTHORIZED, problems::ACCESS_TOKEN_MISSING),
            _ => (StatusCode::FORBIDDEN, problems::SOURCE_TOKEN_MISSING),
        };
        assert_eq!(
            (status, slug(response).await.as_str()),
            (expected, missing),
            "{combination}"
        );
        assert!(!rig.captured().await, "combination {combination} captured");
        assert_eq!(
            rig.unspent.lock().unwrap().len(),
            1,
            "combination {combination} spent"
        );
    }
}

#[tokio::test]
async fn r22_an_api_key_of_another_workload_is_refused() {
    let rig = Rig::new().await;
    let token = rig.token(&rig.claims());
    let key = Some(rig.api_key.expose().as_str());
    let response = rig
        .send(
            "notifications",
            key,
            Some(&token),
            &rig.body(Some(SOURCE_TOKEN)),
        )
        .await;
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(slug(response).await, problems::API_KEY_REFUSED);
    assert!(!rig.captured().await);
}

#[tokio::test]
async fn r22_access_tokens_for_another_use_are_refused() {
    let rig = Rig::new().await;
    let good = rig.claims();
    let now = seconds(SystemTime::now());
    let wrong = [
        AccessToken {
            aud: "https://api.localhost:8443".into(),
            ..good.clone()
        },
        AccessToken {
            iss: "https://auth.example.org".into(),
            ..good.clone()
        },
        AccessToken {
            exp: now - 60,
            iat: now - 360,
            ..good.clone()
        },
        AccessToken {
            act: None,
            ..good.clone()
        },
        AccessToken {
            act: Some(Actor {
                sub: "inventory".into(),
                act: None,
            }),
            ..good.clone()
        },
        // `orders` acted once, but somebody else acts now.
        AccessToken {
            act: Some(Actor {
                sub: "inventory".into(),
                act: Some(Box::new(Actor {
                    sub: "orders".into(),
                    act: None,
                })),
            }),
            ..good.clone()
        },
    ];
    for claims in wrong {
        let response = rig
            .pay(&rig.token(&claims), &rig.body(Some(SOURCE_TOKEN)))
            .await;
        let status = response.status();
        assert!(
            [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN].contains(&status),
            "{claims:?}"
        );
        assert_eq!(
            slug(response).await,
            problems::ACCESS_TOKEN_REFUSED,
            "{claims:?}"
        );
    }
    // An ID token and a token of a stranger's key.
    let id_token = rig.signer.sign("JWT", &good).unwrap();
    let stranger = SigningKey::generate(Algorithm::Es256).unwrap();
    let foreign = stranger.sign(AccessToken::TYP, &good).unwrap();
    for token in [id_token, foreign, "not.a.token".to_owned()] {
        let response = rig.pay(&token, &rig.body(Some(SOURCE_TOKEN))).await;
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    }
    assert!(!rig.captured().await);
    assert_eq!(
        rig.unspent.lock().unwrap().len(),
        1,
        "nothing may be spent by a refusal"
    );
}

#[tokio::test]
async fn r22_a_source_token_for_other_terms_or_another_user_is_refused() {
    let rig = Rig::new().await;
    let token = rig.token(&rig.claims());
    let mut other_amount = rig.body(Some(SOURCE_TOKEN));
    other_amount["amount_minor"] = json!(1);
    let response = rig.pay(&token, &other_amount).await;
    assert_eq!(response.status(), StatusCode::FORBIDDEN);
    assert_eq!(slug(response).await, problems::SOURCE_TOKEN_REFUSED);

    let mallory = rig.token(&AccessToken {
        sub: "mallory".into(),
        ..rig.claims()
    });
    let response = rig.pay(&mallory, &rig.body(Some(SOURCE_TOKEN))).await;
    assert_eq!(response.status(), StatusCode::FORBIDDEN);
    assert_eq!(slug(response).await, problems::SOURCE_TOKEN_REFUSED);
    assert!(!rig.captured().await);
}

#[tokio::test]
async fn r22_a_source_token_is_good_once_and_a_repetition_captures_nothing_new() {
    let rig = Rig::new().await;
    let token = rig.token(&rig.claims());
    let first = rig.pay(&token, &rig.body(Some(SOURCE_TOKEN))).await;
    assert_eq!(first.status(), StatusCode::CREATED);
    let first = body::collect(first.into_body(), 64 * 1024).await.unwrap();

    let replay = rig.pay(&token, &rig.body(Some(SOURCE_TOKEN))).await;
    assert_eq!(replay.status(), StatusCode::FORBIDDEN);

    let retry = rig
        .pay(&token, &rig.body(Some(rig.another_source_token())))
        .await;
    assert_eq!(retry.status(), StatusCode::OK);
    let retry = body::collect(retry.into_body(), 64 * 1024).await.unwrap();
    assert_eq!(first, retry, "the same payment");
}

#[tokio::test]
async fn r40_a_broken_body_is_refused_after_the_credentials_and_spends_nothing() {
    let rig = Rig::new().await;
    let token = rig.token(&rig.claims());
    let mut unknown = rig.body(Some(SOURCE_TOKEN));
    unknown["discount"] = json!(1);
    let mut negative = rig.body(Some(SOURCE_TOKEN));
    negative["amount_minor"] = json!(-1);
    for body in [unknown, negative, json!([]), json!("x")] {
        let response = rig.pay(&token, &body).await;
        assert_eq!(response.status(), StatusCode::BAD_REQUEST, "{body}");
    }
    let without = rig.send("orders", None, None, &json!("x")).await;
    assert_eq!(without.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(rig.unspent.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_payment_above_the_limit_is_declined() {
    let limits = LimitsConfig::default();
    let order_id = OrderId::generate();
    let terms = |amount, currency| PaymentTerms {
        order_id,
        amount_minor: MinorUnits::new(amount).unwrap(),
        currency: Currency::parse(currency).unwrap(),
    };
    limits.check(&terms(500_000, "EUR")).unwrap();
    for declined in [terms(500_001, "EUR"), terms(0, "EUR"), terms(1, "SEK")] {
        let error = limits.check(&declined).unwrap_err();
        assert_eq!(error.into_response().status(), StatusCode::PAYMENT_REQUIRED);
    }
}

#[tokio::test]
async fn reading_a_payment_needs_the_callers_api_key() {
    let rig = Rig::new().await;
    assert_eq!(rig.read(None).await.status(), StatusCode::UNAUTHORIZED);
    let unknown = rig.read(Some(rig.api_key.expose())).await;
    assert_eq!(unknown.status(), StatusCode::NOT_FOUND);
    assert_eq!(slug(unknown).await, problems::NOT_FOUND);
}
