//! The operator's desk: `/v1/policy` over a real connection, by whoever sits there; and sites with a policy.

use http::{Method, StatusCode};
use ringwall_http_io::{Address, Client, ClientLimits, Transport, body};
use serde_json::{Value, json};

use super::{Caller, Running, Site, id};

/// Services with ports, and a policy about them.
const SERVICES: &str = r#"services:
  - { name: gateway, owner: edge, nodes: [local], ports: [{ number: 7100 }] }
  - { name: orders, owner: shop, nodes: [local], ports: [{ number: 7105 }], database_roles: [orders] }
  - { name: payments, owner: bank, tier: sensitive, nodes: [other], ports: [{ number: 7104 }] }
"#;
const POLICY: &str = r#"policy:
  edges:
    - { caller: gateway, callee: orders }
    - { caller: orders, callee: payments, ports: [7104] }
  policies:
    main: |
      @id("gateway-reads")
      permit (principal == Workload::"gateway", action == Action::"GET", resource == Service::"orders");

      @id("orders-pays")
      permit (principal == Workload::"orders", action == Action::"POST", resource == Service::"payments")
      when { context.path == "/v1/payments" };
  examples:
    - { name: reads, caller: gateway, callee: orders, port: 7105, method: GET, path: /v1/orders, expect: allow }
    - { name: pays, caller: orders, callee: payments, port: 7104, method: POST, path: /v1/payments, expect: allow }
    - { name: skips, caller: gateway, callee: payments, port: 7104, expect: deny }
"#;

impl Site {
    /// Replaces the services by such that have ports and a policy.
    pub(crate) fn with_policy(mut self) -> Self {
        self.set_services(&format!("{SERVICES}{POLICY}"));
        self
    }

    /// The same services, and no policy.
    pub(crate) fn without_policy(mut self) -> Self {
        self.set_services(SERVICES);
        self
    }

    fn set_services(&mut self, text: &str) {
        let start = self.text.find("services:\n").unwrap();
        self.text.truncate(start);
        self.text.push_str(text);
    }
}

/// What was answered.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) status: StatusCode,
    pub(crate) tag: Option<String>,
    pub(crate) body: Value,
}

pub(crate) struct Desk(Client);

impl Running {
    /// Where `caller` asks.
    pub(crate) fn desk(&self, caller: &Caller) -> Desk {
        let tls = ringwall_tls::mesh_client_config(&caller.source, id("control-plane")).unwrap();
        let address = Address::Ip(self.mesh);
        Desk(Client::mesh(address, tls, ClientLimits::default()))
    }
}

impl Desk {
    pub(crate) async fn ask(
        &self,
        method: Method,
        path: &str,
        version: Option<&str>,
        content: Option<Value>,
    ) -> Said {
        let mut call = self.0.request(method, path);
        if let Some(version) = version {
            call = call.header("if-match", version);
        }
        if let Some(content) = content {
            call = call.json(&content);
        }
        let answer = call.send().await.unwrap();
        let status = answer.status();
        let tag = answer.headers().get("etag");
        let tag = tag.map(|tag| tag.to_str().unwrap().to_owned());
        let body = body::collect(answer.into_body(), 4 << 20).await.unwrap();
        let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
        Said { status, tag, body }
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        let said = self.ask(Method::GET, path, None, None).await;
        assert_eq!(said.status, StatusCode::OK, "{path}: {said:?}");
        said.body
    }

    pub(crate) async fn post(&self, path: &str, content: Value) -> Said {
        self.ask(Method::POST, path, None, Some(content)).await
    }

    /// The active bundle.
    pub(crate) async fn bundle(&self) -> Value {
        self.get("/v1/policy").await["bundle"].clone()
    }

    pub(crate) async fn version(&self) -> u64 {
        self.get("/v1/policy").await["version"].as_u64().unwrap()
    }

    /// Proposes `bundle` in place of `version`, and waits for proxies as long as `wait` says.
    pub(crate) async fn apply(&self, bundle: &Value, version: u64, wait: &str) -> Said {
        let content = json!({ "bundle": bundle, "author": "alice", "note": "as agreed" });
        let path = format!("/v1/policy?wait={wait}");
        let version = format!("\"{version}\"");
        self.ask(Method::PUT, &path, Some(&version), Some(content))
            .await
    }

    pub(crate) async fn rollback(&self, to: u64, version: u64) -> Said {
        let content = json!({ "to": to, "author": "bob", "note": "it broke" });
        let version = format!("\"{version}\"");
        let path = "/v1/policy/rollback?wait=5s";
        self.ask(Method::POST, path, Some(&version), Some(content))
            .await
    }

    /// Events of the audit log, newest first.
    pub(crate) async fn events(&self) -> Vec<(String, String, String)> {
        let lines = self.get("/v1/audit?limit=50").await;
        let lines = lines.as_array().unwrap().iter();
        let text = |line: &Value, key: &str| line[key].as_str().unwrap().to_owned();
        lines
            .map(|line| {
                (
                    text(line, "event"),
                    text(line, "actor"),
                    text(line, "reason"),
                )
            })
            .collect()
    }
}
