//! What the tests of this crate stand on: configurations, and a whole control plane in one process.

use std::path::Path;

use ringwall_service::config::parse_yaml;

use crate::config::Config;

/// A configuration whose files all lie in `folder`; the list of services comes last.
pub(crate) fn config_text(folder: &Path) -> String {
    let folder = folder.display();
    format!(
        "service:
  name: control-plane
  trust_domain: ringwall.local
  profile: demo
  listen: 127.0.0.1:0
  admin: 127.0.0.1:0
  identity: self
  state: {folder}/state
  secrets: {{ provider: file, directory: {folder}/secrets }}
bootstrap: 127.0.0.1:0
authority: {{ roots: {folder}/roots.pem }}
store: {{ embedded: {folder}/control-plane.db }}
nodes: [local, other]
services:
  - {{ name: orders, owner: shop, nodes: [local], dns: [orders], database_roles: [orders], server_names: [orders.localhost, '127.0.0.1'] }}
  - {{ name: payments, owner: bank, tier: sensitive, nodes: [other] }}
"
    )
}

pub(crate) fn parse(text: &str) -> Config {
    parse_yaml(text, Path::new("control-plane.yaml")).unwrap()
}
