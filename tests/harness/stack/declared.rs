//! What `ringwall.yaml` declares of ports, networks and edges, read from the file itself: tests that
//! repeated it would prove nothing about it.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::checkout;

/// The network of a component that names none.
const USUAL_NETWORK: &str = "mesh";
/// PostgreSQL and the other engines stand there when they name none.
const DATA_NETWORK: &str = "data";

/// The composition, as far as tests compare the running platform with it.
#[derive(Debug, Clone)]
pub struct Declared {
    pub domain: String,
    pub trust_domain: String,
    /// The component that has the public listener.
    pub public: String,
    /// The component that takes everybody's spans.
    pub collector: Option<String>,
    /// The mesh's own parts, which send no spans: control plane, agent, egress gateway.
    parts: BTreeSet<String>,
    pub control_plane: String,
    /// Where agents join.
    pub bootstrap: u16,
    agent: String,
    /// What the agent's machine is called.
    node: String,
    pub components: Vec<Node>,
}

/// One component.
#[derive(Debug, Clone)]
pub struct Node {
    pub name: String,
    /// The agent takes no calls.
    pub port: Option<u16>,
    pub admin: Option<u16>,
    pub networks: BTreeSet<String>,
    pub needs: Vec<String>,
    pub callers: BTreeSet<String>,
    /// The service proxy before it.
    pub proxy: Option<Proxy>,
}

/// A service proxy: it answers for its component and, at `admin`, for itself.
#[derive(Debug, Clone)]
pub struct Proxy {
    pub name: String,
    pub admin: u16,
    /// Where the component listens, on loopback.
    pub loopback: [u16; 2],
}

impl Declared {
    /// Reads the composition of this checkout.
    pub fn read() -> Result<Self> {
        let file = checkout()?.join("ringwall.yaml");
        let text = std::fs::read_to_string(&file)?;
        let value: Value = serde_saphyr::from_str(&text).context("ringwall.yaml is no YAML")?;
        let public = &value["public"];
        let text = |value: &Value, what: &str| -> Result<String> {
            let text = value.as_str().map(str::to_owned);
            text.with_context(|| format!("ringwall.yaml says no {what}"))
        };
        let mesh = &value["mesh"];
        let parts = [
            &mesh["control_plane"]["component"],
            &mesh["agent"],
            &mesh["egress"],
        ];
        let parts = parts.into_iter().filter_map(Value::as_str);
        let bootstrap = port(&mesh["control_plane"], "bootstrap");
        let components = value["components"].as_array().context("no components")?;
        Ok(Self {
            domain: text(&public["domain"], "domain")?,
            trust_domain: text(&value["trust_domain"], "trust domain")?,
            public: text(&public["component"], "public component")?,
            collector: value["telemetry"]["collector"].as_str().map(str::to_owned),
            parts: parts.map(str::to_owned).collect(),
            control_plane: text(&mesh["control_plane"]["component"], "control plane")?,
            bootstrap: bootstrap.context("ringwall.yaml says no bootstrap port")?,
            agent: text(&mesh["agent"], "agent")?,
            node: text(&mesh["node"], "node")?,
            components: components.iter().map(node).collect::<Result<_>>()?,
        })
    }

    pub fn node(&self, name: &str) -> Option<&Node> {
        self.components.iter().find(|node| node.name == name)
    }

    /// Whether `caller` may speak to the mesh port of `callee`.
    pub fn has_edge(&self, caller: &str, callee: &str) -> bool {
        // Its own spans too.
        let spans = self.collector.as_deref() == Some(callee);
        let known = self.node(caller).is_some_and(|node| node.admin.is_some());
        let known = known && !self.is_part(caller);
        self.node(callee)
            .is_some_and(|node| node.callers.contains(caller) || (spans && known))
    }

    /// Last part of the SPIFFE id of a component or a proxy.
    pub fn workload(&self, name: &str) -> String {
        let mut nodes = self.components.iter();
        let before = nodes.find(|node| node.proxy.as_ref().is_some_and(|proxy| proxy.name == name));
        match before {
            Some(node) => node.name.clone(),
            None if name == self.agent => format!("{name}/{}", self.node),
            None => name.to_owned(),
        }
    }

    /// Whether it is one of the mesh's own parts.
    pub fn is_part(&self, name: &str) -> bool {
        self.parts.contains(name)
    }

    /// The networks in which a service stands.
    pub fn networks(&self, service: &str) -> BTreeSet<String> {
        let known = self.node(service).map(|node| node.networks.clone());
        known.unwrap_or_else(|| BTreeSet::from([DATA_NETWORK.to_owned()]))
    }

    /// Everything that a start of `name` waits for, the first to start first.
    pub fn in_order_of_need(&self) -> Vec<String> {
        let mut order: Vec<String> = Vec::new();
        while order.len() < self.components.len() {
            let before = order.len();
            for node in &self.components {
                let met = node.needs.iter().all(|need| order.contains(need));
                if met && !order.contains(&node.name) {
                    order.push(node.name.clone());
                }
            }
            assert!(order.len() > before, "needs go round in a circle");
        }
        order
    }
}

fn node(value: &Value) -> Result<Node> {
    let list = |key: &str| -> Vec<String> {
        let entries = value[key].as_array().into_iter().flatten();
        entries
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect()
    };
    let name = value["name"]
        .as_str()
        .context("a component without a name")?;
    let mut networks: BTreeSet<String> = list("networks").into_iter().collect();
    if networks.is_empty() {
        networks.insert(USUAL_NETWORK.to_owned());
    }
    let sidecar = &value["sidecar"];
    let sidecar = match ["admin", "app", "app_admin"].map(|key| port(sidecar, key)) {
        [Some(admin), Some(app), Some(app_admin)] => Some(Proxy {
            name: format!("{name}-proxy"),
            admin,
            loopback: [app, app_admin],
        }),
        _ => None,
    };
    Ok(Node {
        name: name.to_owned(),
        port: port(value, "port"),
        admin: port(value, "admin"),
        proxy: sidecar,
        networks,
        needs: list("needs"),
        callers: list("callers").into_iter().collect(),
    })
}

fn port(value: &Value, key: &str) -> Option<u16> {
    let port = value[key].as_u64();
    port.and_then(|port| u16::try_from(port).ok())
}
