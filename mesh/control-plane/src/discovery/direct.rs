//! Services without a proxy that speak HTTP over mTLS themselves, such as the mesh's ingress: nobody registers them, so
//! their endpoints are the addresses that the registry names.
//!
//! Owns: the resolution of names, again and again, since a container may come back elsewhere. Must not: judge health; a
//! caller's proxy sees for itself. Services that speak no HTTP have none here: proxies dial these as they are.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use ringwall_mesh_api::{v1, weight};

use super::hub::Hub;

/// How often names are asked for again; and while one has no answer, so that who waits for it to start finds it.
const EVERY: Duration = Duration::from_secs(2);
const EVERY_MISSING: Duration = Duration::from_millis(500);
/// Longest wait for one answer. A container engine passes on what it does not know to resolvers that may not be there;
/// nobody else's name waits for that.
const ANSWER: Duration = Duration::from_secs(1);

/// One address of a service, as the registry names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Named {
    pub(crate) service: Arc<str>,
    /// Port of the service, as callers name it.
    pub(crate) port: u32,
    /// `host:port`.
    pub(crate) address: String,
}

/// Endpoints by service.
pub(crate) type Resolved = BTreeMap<Arc<str>, Vec<v1::Endpoint>>;

/// The addresses of a service at which HTTP is spoken.
pub(crate) fn named(service: &v1::Service) -> impl Iterator<Item = Named> {
    let name: Arc<str> = service.name.as_str().into();
    let http = |port: &&v1::Port| {
        let protocol = port.protocol();
        matches!(protocol, v1::Protocol::Http | v1::Protocol::Http2)
    };
    let ports: Vec<u32> = service
        .ports
        .iter()
        .filter(http)
        .map(|port| port.number)
        .collect();
    service.direct.iter().filter_map(move |address| {
        let own = address
            .rsplit_once(':')
            .and_then(|(_, port)| port.parse().ok());
        let port = ports
            .iter()
            .find(|port| Some(**port) == own)
            .or_else(|| ports.first())?;
        Some(Named {
            service: Arc::clone(&name),
            port: *port,
            address: address.clone(),
        })
    })
}

impl Hub {
    /// Looks the names up for as long as the process lives.
    pub(crate) async fn follow_names(self) {
        let mut changed = self.subscribe();
        let mut last = (Vec::new(), Resolved::new());
        loop {
            changed.borrow_and_update();
            let names = self.named();
            let resolved = resolve(&names, &last.1).await;
            self.set_direct(&resolved);
            let missing = names.iter().any(|name| {
                resolved
                    .get(&name.service)
                    .is_none_or(|endpoints| endpoints.is_empty())
            });
            last = (names, resolved);
            let pause = tokio::time::sleep(if missing { EVERY_MISSING } else { EVERY });
            tokio::pin!(pause);
            loop {
                tokio::select! {
                    () = &mut pause => break,
                    // The state moves all the time; these names seldom do.
                    moved = changed.changed() => if moved.is_err() || self.named() != last.0 {
                        break;
                    },
                }
            }
        }
    }
}

async fn addresses(name: &Named) -> BTreeSet<SocketAddr> {
    let address = &name.address;
    match tokio::time::timeout(ANSWER, tokio::net::lookup_host(address)).await {
        Ok(Ok(found)) => found.collect(),
        Ok(Err(error)) => {
            tracing::debug!(%address, %error, "a direct address has no answer");
            BTreeSet::new()
        }
        Err(_elapsed) => {
            tracing::debug!(%address, "a direct address has no answer in time");
            BTreeSet::new()
        }
    }
}

/// A name that cannot be resolved keeps what it had.
async fn resolve(names: &[Named], before: &Resolved) -> Resolved {
    let mut resolved = Resolved::new();
    let answers = join_all(names.iter().map(addresses)).await;
    for (name, found) in names.iter().zip(answers) {
        let former = before.get(&name.service).into_iter().flatten();
        let own = resolved.entry(Arc::clone(&name.service)).or_default();
        if found.is_empty() {
            own.extend(
                former
                    .filter(|one| one.instance == name.address && one.port == name.port)
                    .cloned(),
            );
        }
        own.extend(found.iter().map(|address| v1::Endpoint {
            address: address.to_string(),
            port: name.port,
            weight: Some(weight::DEFAULT),
            instance: name.address.clone(),
            ..v1::Endpoint::default()
        }));
        own.sort_by(|one, other| (&one.address, one.port).cmp(&(&other.address, other.port)));
        own.dedup_by(|one, other| (&one.address, one.port) == (&other.address, other.port));
    }
    resolved
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(direct: &[&str], protocol: v1::Protocol) -> v1::Service {
        v1::Service {
            name: "gateway".to_owned(),
            ports: [7108, 7208]
                .map(|number| v1::Port {
                    number,
                    protocol: protocol.into(),
                })
                .to_vec(),
            direct: direct.iter().map(|address| (*address).to_owned()).collect(),
            ..v1::Service::default()
        }
    }

    #[tokio::test]
    async fn what_speaks_http_itself_has_its_named_addresses() {
        let gateway = service(&["127.0.0.1:7208", "127.0.0.1:9000"], v1::Protocol::Http);
        let names: Vec<Named> = named(&gateway).collect();
        assert_eq!(
            names.iter().map(|name| name.port).collect::<Vec<_>>(),
            [7208, 7108]
        );
        let resolved = resolve(&names, &Resolved::new()).await;
        let addresses = resolved["gateway"]
            .iter()
            .map(|one| one.address.as_str())
            .collect::<Vec<_>>();
        assert_eq!(addresses, ["127.0.0.1:7208", "127.0.0.1:9000"]);
    }

    #[test]
    fn what_speaks_no_http_has_none() {
        let database = service(&["127.0.0.1:7432"], v1::Protocol::Tcp);
        assert_eq!(named(&database).count(), 0);
    }

    #[tokio::test]
    async fn a_name_without_an_answer_keeps_its_addresses() {
        let gone = Named {
            service: "gateway".into(),
            port: 7108,
            address: "no-such-host.invalid:7108".into(),
        };
        let known = v1::Endpoint {
            address: "10.0.0.1:7108".into(),
            port: 7108,
            weight: Some(weight::DEFAULT),
            instance: gone.address.clone(),
            ..v1::Endpoint::default()
        };
        let before = Resolved::from([("gateway".into(), vec![known])]);
        assert_eq!(resolve(&[gone], &before).await, before);
    }
}
