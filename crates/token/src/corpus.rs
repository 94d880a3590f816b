//! Attacks on the verifier, one test for each (R12, RFC 8725), and its properties.

mod key_sets;
mod properties;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::hmac;
use serde_json::{Value, json};

use crate::claims::AccessToken;
use crate::jws::encode;
use crate::{
    Algorithm, Expectation, KeyRing, SigningKey, TokenError, VerifyingKeys, peek_kid, verify,
    verify_bytes,
};

const NOW_S: u64 = 1_900_000_000;
const ISSUER: &str = "https://auth.localhost:8443";
const AUDIENCE: &str = "https://api.localhost:8443";

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(NOW_S)
}

fn expectation() -> Expectation {
    Expectation {
        issuer: ISSUER.to_owned(),
        audience: AUDIENCE.to_owned(),
        typ: AccessToken::TYP,
        leeway: Duration::from_secs(5),
    }
}

fn claims() -> Value {
    json!({
        "iss": ISSUER, "sub": "alice", "aud": AUDIENCE, "exp": NOW_S + 300, "iat": NOW_S,
        "jti": "1", "client_id": "spa-proxy", "scope": "orders:read", "roles": ["customer"],
    })
}

/// An issuer with one key, and ways to make its tokens wrong.
struct Issuer {
    key: SigningKey,
    keys: VerifyingKeys,
}

impl Issuer {
    fn new(algorithm: Algorithm) -> Self {
        let key = SigningKey::generate(algorithm).unwrap();
        let keys = KeyRing::new(key.clone()).verifying_keys().unwrap();
        Self { key, keys }
    }

    fn verify(&self, token: &str) -> Result<AccessToken, TokenError> {
        verify(token, &self.keys, &expectation(), now())
    }

    /// Signs claims that differ from good ones by `changes`; `null` removes a claim.
    fn with_claims(&self, changes: Value) -> Result<AccessToken, TokenError> {
        let mut claims = claims();
        for (name, value) in changes.as_object().unwrap() {
            match value {
                Value::Null => claims.as_object_mut().unwrap().remove(name),
                value => claims
                    .as_object_mut()
                    .unwrap()
                    .insert(name.clone(), value.clone()),
            };
        }
        self.verify(&self.key.sign(AccessToken::TYP, &claims).unwrap())
    }

    /// A token under a header of the attacker's, with a genuine signature over it where possible.
    fn with_header(&self, changes: Value) -> Result<AccessToken, TokenError> {
        let mut header =
            json!({"alg": self.key.algorithm().as_str(), "typ": "at+jwt", "kid": self.key.kid()});
        for (name, value) in changes.as_object().unwrap() {
            match value {
                Value::Null => header.as_object_mut().unwrap().remove(name),
                value => header
                    .as_object_mut()
                    .unwrap()
                    .insert(name.clone(), value.clone()),
            };
        }
        self.verify(&self.genuinely_signed(&header.to_string(), &claims().to_string()))
    }

    fn genuinely_signed(&self, header: &str, payload: &str) -> String {
        // The signer writes its own header; what it signs is bytes, so any header can be signed by
        // a helper that has the same private key.
        let pem = self.key.to_pkcs8_pem();
        let pem = pem.expose().as_bytes();
        let (key, algorithm) = match self.key.algorithm() {
            Algorithm::Es256 => (
                jsonwebtoken::EncodingKey::from_ec_pem(pem),
                jsonwebtoken::Algorithm::ES256,
            ),
            Algorithm::Rs256 => (
                jsonwebtoken::EncodingKey::from_rsa_pem(pem),
                jsonwebtoken::Algorithm::RS256,
            ),
            Algorithm::EdDsa => (
                jsonwebtoken::EncodingKey::from_ed_pem(pem),
                jsonwebtoken::Algorithm::EdDSA,
            ),
        };
        let message = format!("{}.{}", encode(header), encode(payload));
        let signature =
            jsonwebtoken::crypto::sign(message.as_bytes(), &key.unwrap(), algorithm).unwrap();
        format!("{message}.{signature}")
    }
}

const ALL: [Algorithm; 3] = [Algorithm::Es256, Algorithm::Rs256, Algorithm::EdDsa];

#[test]
fn r12_a_good_token_passes_under_each_algorithm() {
    for algorithm in ALL {
        let issuer = Issuer::new(algorithm);
        let token = issuer.key.sign(AccessToken::TYP, &claims()).unwrap();
        let seen = issuer.verify(&token).unwrap();
        assert_eq!((seen.sub.as_str(), seen.roles.len()), ("alice", 1));
        assert_eq!(peek_kid(&token).unwrap(), issuer.key.kid());
    }
}

#[test]
fn r12_tokens_agree_with_an_independent_implementation() {
    for algorithm in ALL {
        let issuer = Issuer::new(algorithm);
        // Theirs is read by us: header and signature come from `jsonwebtoken`.
        assert!(issuer.with_header(json!({})).is_ok(), "{algorithm:?}");
        // Ours is read by them, from the published key.
        let token = issuer.key.sign(AccessToken::TYP, &claims()).unwrap();
        let jwk: jsonwebtoken::jwk::Jwk =
            serde_json::from_value(serde_json::to_value(issuer.key.public_jwk()).unwrap()).unwrap();
        let key = jsonwebtoken::DecodingKey::from_jwk(&jwk).unwrap();
        let mut validation = jsonwebtoken::Validation::new(algorithm.as_str().parse().unwrap());
        validation.set_audience(&[AUDIENCE]);
        let theirs = jsonwebtoken::decode::<Value>(&token, &key, &validation).unwrap();
        assert_eq!(theirs.claims, claims());
        let thumbprint = jwk
            .thumbprint(jsonwebtoken::jwk::ThumbprintHash::SHA256)
            .unwrap();
        assert_eq!(thumbprint, issuer.key.kid(), "RFC 7638");
    }
}

#[test]
fn r12_stored_keys_of_each_algorithm_sign_the_same() {
    for algorithm in ALL {
        let issuer = Issuer::new(algorithm);
        let pem = issuer.key.to_pkcs8_pem();
        let again = SigningKey::from_pkcs8_pem(issuer.key.kid(), algorithm, &pem).unwrap();
        assert_eq!(again.public_jwk(), issuer.key.public_jwk());
        assert!(
            issuer
                .verify(&again.sign(AccessToken::TYP, &claims()).unwrap())
                .is_ok()
        );
        for other in ALL.into_iter().filter(|other| *other != algorithm) {
            assert!(
                SigningKey::from_pkcs8_pem("k", other, &pem).is_err(),
                "{algorithm:?} {other:?}"
            );
        }
        assert!(SigningKey::from_pkcs8_pem("../k", algorithm, &pem).is_err());
    }
}

#[test]
fn r12_alg_none_is_refused_in_every_spelling() {
    let issuer = Issuer::new(Algorithm::Es256);
    for name in ["none", "None", "NONE", "nOnE", ""] {
        let header = json!({"alg": name, "typ": "at+jwt", "kid": issuer.key.kid()});
        let unsigned = format!(
            "{}.{}.",
            encode(header.to_string()),
            encode(claims().to_string())
        );
        assert!(issuer.verify(&unsigned).is_err(), "{name}");
        assert_eq!(
            issuer.verify(&format!("{unsigned}AA")),
            Err(TokenError::Algorithm),
            "{name}"
        );
        assert_eq!(
            issuer.with_header(json!({"alg": name})),
            Err(TokenError::Algorithm)
        );
    }
}

#[test]
fn r12_public_key_as_hmac_secret_is_refused() {
    for algorithm in [Algorithm::Rs256, Algorithm::Es256] {
        let issuer = Issuer::new(algorithm);
        let jwk = issuer.key.public_jwk();
        let secrets = [
            serde_json::to_vec(&jwk).unwrap(),
            jwk.n.clone().or(jwk.x.clone()).unwrap().into_bytes(),
            crate::jws::decode(jwk.n.as_ref().or(jwk.x.as_ref()).unwrap()).unwrap(),
        ];
        for secret in secrets {
            for alg in ["HS256", "HS384", "HS512"] {
                let header = json!({"alg": alg, "typ": "at+jwt", "kid": issuer.key.kid()});
                let message = format!(
                    "{}.{}",
                    encode(header.to_string()),
                    encode(claims().to_string())
                );
                let key = hmac::Key::new(hmac::HMAC_SHA256, &secret);
                let forged = format!("{message}.{}", encode(hmac::sign(&key, message.as_bytes())));
                assert_eq!(issuer.verify(&forged), Err(TokenError::Algorithm));
            }
        }
    }
}

#[test]
fn r12_the_key_fixes_its_algorithm() {
    let rsa = Issuer::new(Algorithm::Rs256);
    for alg in [
        "ES256", "RS384", "RS512", "PS256", "EdDSA", "rs256", "RS256 ",
    ] {
        assert_eq!(
            rsa.with_header(json!({"alg": alg})),
            Err(TokenError::Algorithm),
            "{alg}"
        );
    }
}

#[test]
fn r12_embedded_key_is_refused() {
    let issuer = Issuer::new(Algorithm::Es256);
    let attacker = Issuer::new(Algorithm::Es256);
    let jwk = serde_json::to_value(attacker.key.public_jwk()).unwrap();
    // Signed by the attacker, whose key comes along, under the issuer's kid and under the own one.
    for kid in [issuer.key.kid(), attacker.key.kid()] {
        let header = json!({"alg": "ES256", "typ": "at+jwt", "kid": kid, "jwk": jwk});
        let token = attacker.genuinely_signed(&header.to_string(), &claims().to_string());
        assert!(matches!(issuer.verify(&token), Err(TokenError::Header(_))));
    }
    // Even a genuine token that carries its own genuine key is not one of ours.
    let own = serde_json::to_value(issuer.key.public_jwk()).unwrap();
    assert!(matches!(
        issuer.with_header(json!({"jwk": own})),
        Err(TokenError::Header(_))
    ));
}

#[test]
fn r12_pointers_to_keys_are_refused_and_never_followed() {
    // There is nothing in this crate that could fetch: `JwksCache` has one configured way to do it.
    let issuer = Issuer::new(Algorithm::Es256);
    for name in ["jku", "x5u", "x5c"] {
        for value in [
            "http://169.254.169.254/",
            "https://auth.localhost:8443/jwks",
            "file:///etc",
        ] {
            let refused = issuer.with_header(json!({name: value}));
            assert!(
                matches!(refused, Err(TokenError::Header(_))),
                "{name} {value}"
            );
        }
    }
}

#[test]
fn r12_extensions_and_other_containers_are_refused() {
    let issuer = Issuer::new(Algorithm::Es256);
    for changes in [
        json!({"crit": ["exp"]}),
        json!({"crit": ["b64"], "b64": false}),
        json!({"crit": []}),
        json!({"zip": "DEF"}),
        json!({"enc": "A256GCM"}),
        json!({"b64": false}),
    ] {
        let refused = issuer.with_header(changes.clone());
        assert!(matches!(refused, Err(TokenError::Header(_))), "{changes}");
    }
    assert!(
        issuer
            .with_header(json!({"x5t": "x", "note": {"a": 1}}))
            .is_ok(),
        "RFC 7515 §4"
    );
}

#[test]
fn r12_kid_is_an_opaque_bounded_name() {
    let issuer = Issuer::new(Algorithm::Es256);
    let long = "k".repeat(129);
    for kid in [
        "../../etc/passwd",
        "/dev/null",
        "' OR 1=1 --",
        "a\0b",
        "k\nInjected: 1",
        "http://169.254.169.254/",
        "${jndi:ldap://x}",
        "",
        "ключ",
        &long,
    ] {
        let refused = issuer.with_header(json!({"kid": kid}));
        assert!(matches!(refused, Err(TokenError::Header(_))), "{kid:?}");
    }
    for kid in [
        json!(1),
        json!(["k"]),
        json!({"k": 1}),
        json!(true),
        Value::Null,
    ] {
        assert!(issuer.with_header(json!({"kid": kid})).is_err(), "{kid}");
    }
    let other = issuer.with_header(json!({"kid": "another"}));
    assert_eq!(other, Err(TokenError::UnknownKey));
}

#[test]
fn r12_typ_is_pinned() {
    let issuer = Issuer::new(Algorithm::Es256);
    for typ in [
        "JWT",
        "at+JWT2",
        "logout+jwt",
        "user-context+jwt",
        "",
        "application/jwt",
        "text/at+jwt",
    ] {
        let refused = issuer.with_header(json!({"typ": typ}));
        assert_eq!(
            refused,
            Err(TokenError::Type { expected: "at+jwt" }),
            "{typ}"
        );
    }
    assert!(
        issuer.with_header(json!({"typ": null})).is_err(),
        "typ is required"
    );
    assert!(issuer.with_header(json!({"typ": ["at+jwt"]})).is_err());
    for same in ["AT+JWT", "application/at+jwt", "Application/AT+jwt"] {
        assert!(
            issuer.with_header(json!({"typ": same})).is_ok(),
            "RFC 7515 §4.1.9: {same}"
        );
    }
}

#[test]
fn r12_claims_of_the_wrong_json_type_are_refused() {
    let issuer = Issuer::new(Algorithm::Es256);
    for changes in [
        json!({"exp": (NOW_S + 300).to_string()}),
        json!({"exp": NOW_S as f64 + 300.5}),
        json!({"exp": -1}),
        json!({"exp": 1e300}),
        json!({"exp": [NOW_S + 300]}),
        json!({"exp": true}),
        json!({"iat": "now"}),
        json!({"nbf": "0"}),
        json!({"iss": [ISSUER]}),
        json!({"iss": [ISSUER, "https://evil.example"]}),
        json!({"iss": {"iss": ISSUER}}),
        json!({"aud": [AUDIENCE]}),
        json!({"aud": [AUDIENCE, "payments"]}),
        json!({"aud": 1}),
        json!({"sub": 1}),
        json!({"scope": ["orders:read"]}),
        json!({"roles": "admin"}),
        json!({"act": "orders"}),
    ] {
        let refused = issuer.with_claims(changes.clone());
        assert!(
            matches!(refused, Err(TokenError::Claims(_))),
            "{changes}: {refused:?}"
        );
    }
}

#[test]
fn r12_required_claims_must_be_there() {
    let issuer = Issuer::new(Algorithm::Es256);
    for claim in ["iss", "aud", "exp", "iat", "sub", "jti", "client_id"] {
        let refused = issuer.with_claims(json!({claim: null}));
        assert!(matches!(refused, Err(TokenError::Claims(_))), "{claim}");
    }
}

#[test]
fn r12_claims_and_header_parameters_stand_once() {
    let issuer = Issuer::new(Algorithm::Es256);
    let header = json!({"alg": "ES256", "typ": "at+jwt", "kid": issuer.key.kid()}).to_string();
    let payload = claims().to_string();
    for (name, value) in [
        ("aud", "\"x\""),
        ("exp", "1"),
        ("iss", "\"x\""),
        ("sub", "\"admin\""),
    ] {
        for twice in [
            payload.replacen('{', &format!("{{\"{name}\":{value},"), 1),
            format!("{},\"{name}\":{value}}}", payload.trim_end_matches('}')),
        ] {
            let refused = issuer.verify(&issuer.genuinely_signed(&header, &twice));
            assert!(matches!(refused, Err(TokenError::Claims(_))), "{name}");
        }
    }
    let twice = header.replacen('{', "{\"alg\":\"none\",", 1);
    let refused = issuer.verify(&issuer.genuinely_signed(&twice, &payload));
    assert!(matches!(refused, Err(TokenError::Header(_))));
}

#[test]
fn r12_times_are_checked_to_the_second() {
    let issuer = Issuer::new(Algorithm::Es256);
    let leeway = 5;
    assert_eq!(
        issuer.with_claims(json!({"exp": NOW_S - leeway})),
        Err(TokenError::Expired)
    );
    assert!(
        issuer
            .with_claims(json!({"exp": NOW_S - leeway + 1}))
            .is_ok()
    );
    assert_eq!(
        issuer.with_claims(json!({"exp": 0})),
        Err(TokenError::Expired)
    );
    for claim in ["nbf", "iat"] {
        let early = issuer.with_claims(json!({claim: NOW_S + leeway + 1}));
        assert_eq!(early, Err(TokenError::NotYetValid), "{claim}");
        assert!(
            issuer.with_claims(json!({claim: NOW_S + leeway})).is_ok(),
            "{claim}"
        );
    }
    assert!(
        issuer.with_claims(json!({"exp": u64::MAX})).is_ok(),
        "no overflow"
    );
    let token = issuer.key.sign(AccessToken::TYP, &claims()).unwrap();
    let past = UNIX_EPOCH - Duration::from_secs(1);
    let refused = verify::<AccessToken>(&token, &issuer.keys, &expectation(), past);
    assert_eq!(
        refused,
        Err(TokenError::NotYetValid),
        "a broken clock believes nothing"
    );
}

#[test]
fn r12_issuer_and_audience_are_exact() {
    let issuer = Issuer::new(Algorithm::Es256);
    for aud in [
        "payments",
        "",
        "https://api.localhost:8443/",
        "HTTPS://api.localhost:8443",
    ] {
        assert_eq!(
            issuer.with_claims(json!({"aud": aud})),
            Err(TokenError::Audience),
            "{aud}"
        );
    }
    for iss in [
        "https://evil.example",
        "",
        "https://auth.localhost:8443/",
        "auth.localhost",
    ] {
        assert_eq!(
            issuer.with_claims(json!({"iss": iss})),
            Err(TokenError::Issuer),
            "{iss}"
        );
    }
}

#[test]
fn r12_foreign_and_tampered_signatures_are_refused() {
    for algorithm in ALL {
        let issuer = Issuer::new(algorithm);
        let stranger = SigningKey::generate(algorithm).unwrap();
        let impostor =
            SigningKey::from_pkcs8_pem(issuer.key.kid(), algorithm, &stranger.to_pkcs8_pem());
        let forged = impostor.unwrap().sign(AccessToken::TYP, &claims()).unwrap();
        assert_eq!(issuer.verify(&forged), Err(TokenError::Signature));
        let foreign = stranger.sign(AccessToken::TYP, &claims()).unwrap();
        assert_eq!(issuer.verify(&foreign), Err(TokenError::UnknownKey));
        // Another token's payload under this one's signature.
        let token = issuer.key.sign(AccessToken::TYP, &claims()).unwrap();
        let mut admin = claims();
        admin["roles"] = json!(["admin"]);
        let mut parts: Vec<_> = token.split('.').map(str::to_owned).collect();
        parts[1] = encode(admin.to_string());
        assert_eq!(issuer.verify(&parts.join(".")), Err(TokenError::Signature));
        // CVE-2022-21449 and its kin: a signature of zeros.
        parts[2] = encode(vec![
            0;
            if algorithm == Algorithm::Rs256 {
                256
            } else {
                64
            }
        ]);
        assert_eq!(issuer.verify(&parts.join(".")), Err(TokenError::Signature));
    }
}

#[test]
fn r12_shape_and_size_are_bounded() {
    let issuer = Issuer::new(Algorithm::Es256);
    let token = issuer.key.sign(AccessToken::TYP, &claims()).unwrap();
    let (signed, signature) = token.rsplit_once('.').unwrap();
    for bad in [
        String::new(),
        ".".into(),
        "..".into(),
        "a.b.c".into(),
        signed.into(),
        format!("{signed}."),
        format!("{token}."),
        format!("{token}.{signature}"),
        format!(".{token}"),
        format!("{token}="),
        format!("{token}\n"),
        format!(" {token}"),
        format!("Bearer {token}"),
        token.replace('.', "%2e"),
    ] {
        assert!(issuer.verify(&bad).is_err(), "{bad:?}");
    }
    let long = "x".repeat(8 * 1024);
    let refused = issuer.with_claims(json!({"note": long}));
    assert_eq!(refused, Err(TokenError::TooLong { limit_bytes: 8192 }));
    let deep = format!("{}{}", "[".repeat(3000), "]".repeat(3000));
    let header = json!({"alg": "ES256", "typ": "at+jwt", "kid": issuer.key.kid()}).to_string();
    let nested = claims()
        .to_string()
        .replacen('{', &format!("{{\"a\":{deep},"), 1);
    assert!(
        issuer
            .verify(&issuer.genuinely_signed(&header, &nested))
            .is_err(),
        "no overflow"
    );
}

#[test]
fn r12_reasons_quote_no_claim() {
    let issuer = Issuer::new(Algorithm::Es256);
    for changes in [
        json!({"exp": "hunter2"}),
        json!({"roles": "hunter2"}),
        json!({"iat": "hunter2"}),
    ] {
        let reason = issuer.with_claims(changes).unwrap_err().to_string();
        assert!(!reason.contains("hunter2"), "{reason}");
    }
}

#[test]
fn r16_payloads_of_events_are_signed_as_they_are() {
    let issuer = Issuer::new(Algorithm::Es256);
    let payload = br#"{"id":"1","data":[1, 2]}"#;
    let jws = issuer.key.sign_bytes("cloudevent+jws", payload).unwrap();
    let seen = verify_bytes(&jws, &issuer.keys, "cloudevent+jws", 1024).unwrap();
    assert_eq!(
        (seen.kid.as_str(), &seen.payload[..]),
        (issuer.key.kid(), &payload[..])
    );
    let other = verify_bytes(&jws, &issuer.keys, "at+jwt", 1024);
    assert_eq!(other, Err(TokenError::Type { expected: "at+jwt" }));
    let long = verify_bytes(&jws, &issuer.keys, "cloudevent+jws", jws.len() - 1);
    assert_eq!(
        long,
        Err(TokenError::TooLong {
            limit_bytes: jws.len() - 1
        })
    );
}
