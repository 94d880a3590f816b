//! Configuration of service proxies and of the egress gateway.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use serde_json::{Map, Value, json};

use super::{Rendering, loopback, upstream};
use crate::composition::{Component, MONITOR, OPERATOR, Sidecar, proxy_name};
use crate::error::CliError;
use crate::interception::Interception;

/// Where proxies accept tunnels in containers, as Istio's do.
const HBONE: u16 = 15008;

/// Where the kernel leads a component's connections, one address for each family that this machine has.
pub(crate) fn captured(sidecar: &Sidecar, kernel: Option<&Interception>) -> Vec<SocketAddr> {
    let Some(port) = sidecar.captured.as_ref().filter(|_| kernel.is_some()) else {
        return Vec::new();
    };
    let families: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    // In containers there is no IPv6; it is their network that counts, and not ours.
    let elsewhere = kernel.is_some_and(|kernel| kernel.by_engine.is_some());
    let own = |ip: &IpAddr| ip.is_ipv4() || (!elsewhere && UdpSocket::bind((*ip, 0)).is_ok());
    let families = families.into_iter().filter(own);
    families.map(|ip| (ip, port.value).into()).collect()
}

impl Rendering<'_> {
    /// The proxy before a component.
    pub(super) fn proxy(
        &self,
        component: &Component,
        sidecar: &Sidecar,
    ) -> Result<Map<String, Value>, CliError> {
        let site = self.site;
        let inbound = [
            (site.listen(component), &component.port, &sidecar.app),
            (
                site.admin_listen(component),
                &component.admin,
                &sidecar.app_admin,
            ),
        ];
        let mut inbound: Vec<Value> = inbound
            .into_iter()
            .filter_map(|(listen, port, app)| {
                let (listen, port, app) = (listen?, port.as_ref()?.value, loopback(app.value));
                Some(json!({ "listen": listen, "app": app, "port": port, "protocol": "http" }))
            })
            .collect();
        let filters = &sidecar.filters;
        let first = inbound.first_mut().and_then(Value::as_object_mut);
        if let Some(first) = first.filter(|_| !filters.inbound.is_empty()) {
            first.insert("filters".into(), json!(filters.inbound));
        }
        let tcp: Vec<Value> = sidecar
            .tcp
            .iter()
            .map(|edge| json!({ "listen": loopback(edge.port.value), "service": edge.to.value }))
            .collect();
        let mut document = self.of_a_proxy(component, site.own_listen(sidecar.admin.value));
        document.insert("inbound".into(), json!(inbound));
        if let Some(weight) = &sidecar.weight {
            document.insert("weight".into(), json!(weight.value));
        }
        let captured = captured(sidecar, self.kernel);
        let mut outbound = json!({ "http": loopback(sidecar.outbound.value), "tcp": tcp, "captured": captured, "names": captured });
        if let (Some(host), Some(outbound)) = (
            self.public_host(component, sidecar),
            outbound.as_object_mut(),
        ) {
            outbound.insert("hosts".into(), json!([host]));
        }
        if let Some(outbound) = outbound
            .as_object_mut()
            .filter(|_| !filters.outbound.is_empty())
        {
            outbound.insert("filters".into(), json!(filters.outbound));
        }
        document.insert("outbound".into(), outbound);
        self.add_plugins(&mut document, component, sidecar)?;
        document.insert("loopback_token".into(), json!("loopback-token"));
        self.add_telemetry(&mut document, component);
        // Who asks the gateway for the keys of its statements about users is told such statements.
        let ingress = &self.composition.public.component.value;
        if component
            .calls
            .iter()
            .any(|callee| callee.value == *ingress)
            && let Some(gateway) = self.composition.component(ingress)
        {
            self.add_upstream(&mut document, upstream(ingress, site.dial(gateway)));
            let keys = json!({ "issuer_upstream": ingress });
            document.insert("user_context".into(), keys);
        }
        Ok(document)
    }

    /// The name under which a captured component dials the public listener past its proxy, where that is known by a name.
    fn public_host(&self, component: &Component, sidecar: &Sidecar) -> Option<String> {
        let dials = self.is_captured(component) && sidecar.dials_public;
        match self.site.public_dial(self.composition) {
            ringwall_http_io::Address::Name { host, .. } if dials => Some(host.to_string()),
            _ => None,
        }
    }

    /// What may run in the proxy's data path, as the composition has it.
    fn add_plugins(
        &self,
        document: &mut Map<String, Value>,
        component: &Component,
        sidecar: &Sidecar,
    ) -> Result<(), CliError> {
        let declared = [
            ("plugins", &sidecar.plugins),
            ("plugin_keys", &sidecar.plugin_keys),
        ];
        for (key, values) in declared.into_iter().filter(|(_, some)| !some.is_empty()) {
            let place = format!("sidecar.{key}");
            let value = self.filled(component, &place, &json!(values))?;
            document.insert(key.into(), value);
        }
        Ok(())
    }

    /// The proxy that is the way out; its rules are the component's own keys.
    pub(super) fn egress(&self, component: &Component) -> Map<String, Value> {
        let (listen, admin) = (
            self.site.listen(component),
            self.site.admin_listen(component),
        );
        let mut document = self.of_a_proxy(component, admin);
        let port = component.port.as_ref().map_or(0, |port| port.value);
        let inbound =
            json!([{ "listen": listen, "app": loopback(port), "port": port, "protocol": "http" }]);
        document.insert("inbound".into(), inbound);
        document
    }

    /// What every proxy has.
    fn of_a_proxy(
        &self,
        component: &Component,
        admin: Option<std::net::SocketAddr>,
    ) -> Map<String, Value> {
        let (composition, site) = (self.composition, self.site);
        let (name, workload) = (proxy_name(component), &component.name.value);
        let node = composition.mesh.as_ref().map(|mesh| &mesh.node.value);
        let zone = composition.mesh.as_ref();
        let zone = zone.and_then(|mesh| mesh.zone.as_ref());
        let zone = zone.map(|zone| &zone.value).or(node);
        let owner = match composition.sidecar(component) {
            Some(_) => name.as_str(),
            None => workload.as_str(),
        };
        let service = json!({
            "name": name,
            "workload": workload,
            "trust_domain": composition.trust_domain.value,
            "profile": self.profile.as_str(),
            "listen": site.listen(component),
            "admin": admin,
            "admin_callers": [OPERATOR, MONITOR, workload],
            "identity": format!("unix:{}", site.agent_socket().display()),
            "upstreams": Map::from_iter(self.to_control_planes()),
            "secrets": self.secrets(owner),
            "logs": { "format": composition.logs.format, "level": composition.logs.level },
            "drain": format!("{}s", composition.drain.as_secs()),
            "state": site.data(owner),
        });
        let mut document = Map::from_iter([
            ("service".to_owned(), service),
            ("node".to_owned(), json!(node)),
            ("zone".to_owned(), json!(zone)),
        ]);
        document.extend(site.advertised());
        if site.has_own_network() {
            document.insert("hbone".into(), json!(site.own_listen(HBONE)));
        }
        document
    }

    /// A proxy hands in its spans itself, in its workload's name: what it did is no call of the component.
    fn add_telemetry(&self, document: &mut Map<String, Value>, component: &Component) {
        let Some(telemetry) = self.telemetry(component) else {
            return;
        };
        let declared = self.composition.telemetry.as_ref();
        let collector = declared.map(|telemetry| telemetry.collector.value.as_str());
        if let Some(known) = collector.and_then(|name| self.composition.component(name)) {
            let own = upstream(&known.name.value, self.site.dial(known));
            self.add_upstream(document, own);
        }
        let service = document.get_mut("service").and_then(Value::as_object_mut);
        if let Some(service) = service {
            service.insert("telemetry".into(), telemetry);
        }
    }

    fn add_upstream(&self, document: &mut Map<String, Value>, (name, upstream): (String, Value)) {
        let service = document.get_mut("service").and_then(Value::as_object_mut);
        let upstreams = service.and_then(|service| service.get_mut("upstreams"));
        if let Some(upstreams) = upstreams.and_then(Value::as_object_mut) {
            upstreams.insert(name, upstream);
        }
    }
}
