//! Every bound of the configuration.

use serde_json::{Value, json};

use super::*;

fn config(change: impl FnOnce(&mut Value)) -> Result<(), String> {
    let mut value = json!({
        "service": {
            "name": "tokenizer",
            "trust_domain": "ringwall.local",
            "listen": "127.0.0.1:7102",
            "admin": "127.0.0.1:7202",
            "identity": "identity",
            "callers": ["orders", "payments"],
            "secrets": { "provider": "file", "directory": "secrets" },
        },
        "subject": { "issuer": "https://auth.localhost:8443", "audience": "https://api.localhost:8443" },
        "edges": [edge("orders", "payments")],
    });
    change(&mut value);
    let config: Config = serde_json::from_value(value).map_err(|error| error.to_string())?;
    config.validate().map_err(|error| error.to_string())
}

fn edge(caller: &str, audience: &str) -> Value {
    json!({ "caller": caller, "audience": audience, "method": "POST", "path": "/v1/payments" })
}

#[test]
fn the_defaults_are_valid() {
    config(|_| {}).unwrap();
    config(|c| c["lifetime"] = json!("1s")).unwrap();
    config(|c| c["edges"][0]["scope"] = json!("orders:write")).unwrap();
}

#[test]
fn bounds_are_refused_with_their_key() {
    type Change = fn(&mut Value);
    let changes: [(&str, Change); 14] = [
        ("lifetime", |c| c["lifetime"] = json!("31s")),
        ("lifetime", |c| c["lifetime"] = json!("30s 1ms")),
        ("lifetime", |c| c["lifetime"] = json!("999ms")),
        ("max_outstanding", |c| c["max_outstanding"] = json!(0)),
        ("max_outstanding", |c| c["max_outstanding"] = json!(100_001)),
        ("keep", |c| c["keep"] = json!("2h")),
        ("subject.issuer", |c| c["subject"]["issuer"] = json!("")),
        ("subject.audience", |c| c["subject"]["audience"] = json!("")),
        ("edges", |c| c["edges"] = json!([])),
        ("edges", |c| c["edges"] = json!([edge("orders", "orders")])),
        ("edges", |c| {
            c["edges"] = json!([edge("inventory", "payments")])
        }),
        ("edges", |c| {
            c["edges"] = json!([edge("orders", "inventory")])
        }),
        ("edges", |c| {
            c["edges"] = json!([edge("orders", "payments"), edge("orders", "payments")]);
        }),
        ("unknown field", |c| c["lifetme"] = json!("30s")),
    ];
    for (key, change) in changes {
        let error = config(change).unwrap_err();
        assert!(error.contains(key), "{key}: {error}");
    }
}
