//! Attacks through published key sets: keys that are unfit, and documents that are too much.

use proptest::prelude::*;
use serde_json::{Value, json};

use crate::jws::encode;
use crate::{Algorithm, Jwk, JwkSet, KeyRing, SigningKey, VerifyingKeys};

fn usable(jwk: &Jwk) -> bool {
    VerifyingKeys::from_jwks(&JwkSet {
        keys: vec![jwk.clone()],
    })
    .is_ok()
}

/// The key with one member replaced.
fn with(jwk: &Jwk, member: &str, value: Value) -> Jwk {
    let mut json = serde_json::to_value(jwk).unwrap();
    json[member] = value;
    serde_json::from_value(json).unwrap()
}

#[test]
fn r12_published_keys_that_are_unfit_are_left_out() {
    let good = SigningKey::generate(Algorithm::Es256).unwrap().public_jwk();
    assert!(usable(&good) && usable(&with(&good, "use", Value::Null)));
    for (member, value) in [
        ("kid", Value::Null),
        ("kid", json!("a/b")),
        ("alg", Value::Null),
        ("alg", json!("HS256")),
        ("alg", json!("none")),
        ("alg", json!("RS256")),
        ("alg", json!("EdDSA")),
        ("use", json!("enc")),
        ("kty", json!("oct")),
        ("crv", json!("P-384")),
        ("x", json!("AAAA")),
        ("y", Value::Null),
    ] {
        assert!(
            !usable(&with(&good, member, value.clone())),
            "{member}: {value}"
        );
    }
    let mixed = JwkSet {
        keys: vec![Jwk::default(), good.clone()],
    };
    assert_eq!(VerifyingKeys::from_jwks(&mixed).unwrap().len(), 1);
    let twice = JwkSet {
        keys: vec![good.clone(), good],
    };
    assert!(
        VerifyingKeys::from_jwks(&twice).is_err(),
        "one kid, two keys"
    );
}

#[test]
fn r12_rsa_keys_must_be_strong_and_bounded() {
    let rsa = SigningKey::generate(Algorithm::Rs256).unwrap().public_jwk();
    assert!(usable(&rsa));
    for (member, value) in [
        ("n", json!(encode([0xff; 128]))),
        ("n", json!(encode([0x01; 256]))),
        ("n", json!(encode([0xff; 1025]))),
        ("e", json!(encode([1; 5]))),
        ("alg", json!("PS256")),
        ("alg", json!("ES256")),
    ] {
        assert!(
            !usable(&with(&rsa, member, value.clone())),
            "{member}: {value}"
        );
    }
}

#[test]
fn r12_key_set_documents_are_bounded() {
    let set = KeyRing::generate(Algorithm::Es256).unwrap().jwks();
    let text = serde_json::to_vec(&set).unwrap();
    assert_eq!(JwkSet::parse(&text, text.len(), 1).unwrap(), set);
    assert!(JwkSet::parse(&text, text.len() - 1, 1).is_err());
    assert!(JwkSet::parse(&text, text.len(), 0).is_err());
    for bad in ["", "[]", "{}", r#"{"keys":{}}"#, r#"{"keys":[{"kid":1}]}"#] {
        assert!(JwkSet::parse(bad.as_bytes(), 1000, 10).is_err(), "{bad}");
    }
    let published = String::from_utf8(text).unwrap();
    assert!(
        !published.contains("\"d\"") && !published.contains("null"),
        "{published}"
    );
}

proptest! {
    #[test]
    fn arbitrary_key_sets_never_panic(text in "\\{\"keys\":\\[\\{\\PC{0,60}\\}\\]\\}") {
        if let Ok(set) = JwkSet::parse(text.as_bytes(), 1000, 4) {
            let _ = VerifyingKeys::from_jwks(&set);
        }
    }
}
