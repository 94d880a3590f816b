//! From what the control plane says to what this proxy works with: every value checked, every default filled in.
//!
//! Owns: the limits of a resource, but for those of its traffic (`ringwall_mesh_api::traffic`). A fault is a sentence for the NACK. Must not: keep
//! state; `control/machine.rs` decides what becomes of a resource that is refused here.

mod revocations;

#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ringwall_http_io::Address;
use ringwall_identity::{SpiffeId, TrustDomain};
use ringwall_mesh_api::{v1, weight};

use super::{Endpoint, Port, Protocol, Service, TrafficPolicy};

pub(crate) use revocations::revocations;

/// Longest name of a service, a zone or an instance, in bytes.
const MAX_NAME: usize = 253;
/// Ports of one service.
const MAX_PORTS: usize = 64;
/// Addresses of a service without proxy.
const MAX_DIRECT: usize = 64;
/// Endpoints of one service.
const MAX_ENDPOINTS: usize = 10_000;

/// A sentence for the control plane.
pub(crate) type Fault = String;

/// A service without its endpoints, which are a resource of their own.
pub(crate) fn service(message: &v1::Service, domain: &TrustDomain) -> Result<Service, Fault> {
    let name = self::name("its name", &message.name)?;
    let identity = SpiffeId::parse(&message.spiffe_id)
        .map_err(|error| format!("its spiffe_id `{}`: {error}", brief(&message.spiffe_id)))?;
    if identity.trust_domain() != domain {
        return Err(format!(
            "its identity {identity} is of another trust domain than {domain}"
        ));
    }
    at_most("ports", message.ports.len(), MAX_PORTS)?;
    at_most("direct addresses", message.direct.len(), MAX_DIRECT)?;
    let mut seen = HashSet::new();
    let ports = message.ports.iter().map(|port| {
        let port = self::port(*port)?;
        match seen.insert(port.number) {
            true => Ok(port),
            false => Err(format!("its port {} stands twice", port.number)),
        }
    });
    let direct = message.direct.iter().map(|address| {
        address
            .parse::<Address>()
            .map(|_| address.clone())
            .map_err(|error| format!("its direct address `{}`: {error}", brief(address)))
    });
    Ok(Service {
        name: name.into(),
        identity,
        ports: ports.collect::<Result<_, Fault>>()?,
        tier: bounded("its tier", &message.tier)?.to_owned(),
        traffic: TrafficPolicy::read(message.traffic.as_ref())
            .map_err(|fault| format!("its traffic: {fault}"))?,
        direct: direct.collect::<Result<_, Fault>>()?,
        endpoints: Vec::new(),
    })
}

/// The endpoints of a service. Those that were there before keep their place in memory, and with it what is known of them.
pub(crate) fn endpoints(
    message: &v1::Endpoints,
    before: &[Arc<Endpoint>],
) -> Result<Vec<Arc<Endpoint>>, Fault> {
    at_most("endpoints", message.endpoints.len(), MAX_ENDPOINTS)?;
    let known: HashSet<&Arc<Endpoint>> = before.iter().collect();
    let mut seen = HashSet::with_capacity(message.endpoints.len());
    let mut endpoints = Vec::with_capacity(message.endpoints.len());
    for one in &message.endpoints {
        let endpoint = Arc::new(endpoint(one)?);
        if !seen.insert((endpoint.address, endpoint.port)) {
            return Err(format!(
                "{} port {} stands twice",
                endpoint.address, endpoint.port
            ));
        }
        if endpoint.weight == 0 {
            continue;
        }
        endpoints.push(
            known
                .get(&endpoint)
                .map_or(endpoint, |known| Arc::clone(known)),
        );
    }
    Ok(endpoints)
}

fn endpoint(message: &v1::Endpoint) -> Result<Endpoint, Fault> {
    let shown = brief(&message.address);
    let address: SocketAddr = message
        .address
        .parse()
        .map_err(|_| format!("`{shown}` is not `ip:port`"))?;
    if !is_dialable(address) {
        return Err(format!("`{shown}` is no address of a proxy"));
    }
    Ok(Endpoint {
        address,
        port: number(message.port)?,
        zone: bounded("a zone", &message.zone)?.into(),
        weight: weight::read(message.weight).min(weight::MAX),
        instance: bounded("an instance", &message.instance)?.into(),
    })
}

fn is_dialable(address: SocketAddr) -> bool {
    let ip = address.ip();
    let broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
    address.port() != 0 && !ip.is_unspecified() && !ip.is_multicast() && !broadcast
}

fn port(message: v1::Port) -> Result<Port, Fault> {
    let protocol = match v1::Protocol::try_from(message.protocol) {
        Ok(v1::Protocol::Unspecified | v1::Protocol::Http) => Protocol::Http,
        Ok(v1::Protocol::Http2) => Protocol::Http2,
        Ok(v1::Protocol::Tcp) => Protocol::Tcp,
        Err(_) => return Err(format!("protocol {} is not known", message.protocol)),
    };
    Ok(Port {
        number: number(message.number)?,
        protocol,
    })
}

fn number(port: u32) -> Result<u16, Fault> {
    match u16::try_from(port) {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(format!("{port} is not a port")),
    }
}

/// A name as it may stand in SPIFFE ids, policies and authorities.
pub(crate) fn name<'a>(what: &str, text: &'a str) -> Result<&'a str, Fault> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    if text.is_empty() || text.len() > MAX_NAME || !text.bytes().all(fits) {
        return Err(format!("{what} `{}` is not a name", brief(text)));
    }
    Ok(text)
}

fn bounded<'a>(what: &str, text: &'a str) -> Result<&'a str, Fault> {
    if text.len() > MAX_NAME || text.chars().any(char::is_control) {
        return Err(format!("{what} `{}` is not a short text", brief(text)));
    }
    Ok(text)
}

pub(crate) fn at_most(what: &str, count: usize, limit: usize) -> Result<(), Fault> {
    if count > limit {
        return Err(format!("{count} {what}: more than {limit}"));
    }
    Ok(())
}

/// What may be quoted of a value that is refused.
pub(crate) fn brief(text: &str) -> String {
    let quoted: String = text
        .chars()
        .take(60)
        .flat_map(char::escape_default)
        .collect();
    if text.chars().nth(60).is_some() {
        format!("{quoted}…")
    } else {
        quoted
    }
}
