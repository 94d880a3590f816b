//! Connections that the kernel has led here: the application dialled a service's own address and knows of no proxy.
//!
//! Owns: where such a connection was going (`SO_ORIGINAL_DST`), and which port of which service that is. It is then served
//! as if it had come in by the listener for that service. Who connects here on purpose has no original destination, and
//! is refused: only the kernel's hooks in the application's own control group leave one.
//! Must not: dial what was dialled. A service is reached where discovery says, by its identity; the address only names it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use nix::sys::socket::{getsockopt, sockopt};
use tokio::net::TcpStream;

use super::tcp::TcpTarget;
use crate::snapshot::{Port, Protocol, Service, Snapshot};
use crate::worker::Worker;

/// What a captured connection was meant for.
#[derive(Debug, Clone)]
pub(crate) enum Led {
    /// A port that speaks HTTP, or no service of the mesh at all.
    Http(Way),
    /// A port whose bytes are nobody's business.
    Tcp(Arc<TcpTarget>),
}

/// How it is known where the requests of a connection go.
#[derive(Debug, Clone)]
pub(crate) enum Way {
    /// The application has dialled its proxy: `Host` names the service.
    Named,
    /// Captured on its way to a service, whatever `Host` says.
    Bound(Arc<Bound>),
    /// Captured on its way to nothing of the mesh: `Host` says which server outside is meant, and the egress gateway decides.
    Outside,
}

/// The destination that all requests of a connection have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bound {
    pub(crate) service: Arc<str>,
    pub(crate) port: u16,
}

/// Why a connection was not led here by the kernel, or leads nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum Stray {
    #[error("nobody has captured it: connect to the service, not to its proxy")]
    NotCaptured,
    #[error("more than one service is served at its destination")]
    Ambiguous,
}

/// What is to be done with a connection to the capture listener; none where it is closed at once.
pub(crate) fn captured(worker: &Worker, socket: &TcpStream, peer: SocketAddr) -> Option<Led> {
    let snapshot = worker.shared.state.snapshot.load();
    let led = original(socket).and_then(|original| lead(&snapshot, original));
    match led {
        Ok(led) => Some(led),
        Err(stray) => {
            worker.shared.metrics.strays.inc();
            tracing::warn!(%peer, error = %stray, "a connection to the capture listener was refused");
            None
        }
    }
}

/// Where the application wanted to go.
fn original(socket: &TcpStream) -> Result<SocketAddr, Stray> {
    let local = socket.local_addr().map_err(|_| Stray::NotCaptured)?;
    let four = || {
        let found = getsockopt(socket, sockopt::OriginalDst).ok()?;
        let address = u32::from_be(found.sin_addr.s_addr);
        Some(SocketAddr::new(
            IpAddr::V4(address.into()),
            u16::from_be(found.sin_port),
        ))
    };
    let six = || {
        let found = getsockopt(socket, sockopt::Ip6tOriginalDst).ok()?;
        let address = folded(IpAddr::V6(found.sin6_addr.s6_addr.into()));
        Some(SocketAddr::new(address, u16::from_be(found.sin6_port)))
    };
    let original = match local.ip() {
        // It takes those of IPv6 as well where there is no listener for them.
        IpAddr::V4(_) => four().or_else(six),
        IpAddr::V6(_) => six(),
    };
    // Connection tracking answers with our own address where nothing was rewritten.
    original
        .filter(|original| *original != local)
        .ok_or(Stray::NotCaptured)
}

/// One form for each place, as the kernel has it: who listens at one loopback is meant by the other one too.
fn folded(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(Ipv6Addr::LOCALHOST) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        other => other,
    }
}

/// What stands at `original`, among the services that this workload may call.
fn lead(snapshot: &Snapshot, original: SocketAddr) -> Result<Led, Stray> {
    let mut found = snapshot
        .services
        .values()
        .filter_map(|service| Some((service, port_at(service, original)?)));
    let Some((service, port)) = found.next() else {
        return Ok(Led::Http(Way::Outside));
    };
    if found.next().is_some() {
        return Err(Stray::Ambiguous);
    }
    let name = Arc::clone(&service.name);
    Ok(match port.protocol {
        Protocol::Tcp => Led::Tcp(Arc::new(TcpTarget {
            service: name,
            port: Some(port.number),
            idle: None,
        })),
        Protocol::Http | Protocol::Http2 => {
            let port = port.number;
            let bound = Bound {
                service: name,
                port,
            };
            Led::Http(Way::Bound(Arc::new(bound)))
        }
    })
}

/// The declared port of `service` that is dialled at `original`. The port alone is not enough: a service is where its
/// endpoints are, or at the addresses that are declared for one without proxy. One that is served nowhere may have been
/// there: the answer is then that it has no endpoint.
fn port_at(service: &Service, original: SocketAddr) -> Option<Port> {
    let endpoint = service
        .endpoints
        .iter()
        .find(|endpoint| endpoint.address == original)
        .map(|endpoint| endpoint.port);
    let number = endpoint.or_else(|| {
        let here = service.endpoints.iter();
        let mut here = here.map(|endpoint| endpoint.address.ip());
        let direct = || service.direct.iter().any(|name| is_at(name, original));
        let nowhere = service.endpoints.is_empty() && service.direct.is_empty();
        (nowhere || here.any(|ip| ip == original.ip()) || direct()).then(|| original.port())
    })?;
    let declared = service.ports.iter();
    let mut declared = declared.filter(|port| port.number == number);
    declared.next().copied()
}

/// `name` is `ip:port`, or a name that the kernel's side has looked up: then its port has to do.
fn is_at(name: &str, original: SocketAddr) -> bool {
    match name.parse::<SocketAddr>() {
        Ok(address) => address == original,
        Err(_) => name
            .rsplit_once(':')
            .and_then(|(_, port)| port.parse().ok())
            .is_some_and(|port: u16| port == original.port()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resilience::fixture::{http, service};

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn snapshot(services: Vec<Service>) -> Snapshot {
        let mut snapshot = Snapshot::empty();
        for service in services {
            let name = Arc::clone(&service.name);
            snapshot.services.insert(name, Arc::new(service));
        }
        snapshot
    }

    fn database(direct: &str) -> Service {
        let port = Port {
            number: 7432,
            protocol: Protocol::Tcp,
        };
        let mut database = service("database", port, &[]);
        database.direct = vec![direct.to_owned()];
        database
    }

    fn led(services: Vec<Service>, original: &str) -> String {
        match lead(&snapshot(services), at(original)) {
            Ok(Led::Http(Way::Bound(bound))) => format!("http {}:{}", bound.service, bound.port),
            Ok(Led::Tcp(target)) => format!("tcp {}:{}", target.service, target.port.unwrap()),
            Ok(Led::Http(way)) => format!("{way:?}").to_lowercase(),
            Err(stray) => format!("{stray:?}"),
        }
    }

    #[test]
    fn the_address_of_an_endpoint_names_its_service_and_port() {
        let orders = || vec![service("orders", http(7105), &[at("10.0.0.5:9105")])];
        assert_eq!(led(orders(), "10.0.0.5:9105"), "http orders:7105");
        // A declared port at the same host, which the service has no endpoint for under that number.
        assert_eq!(led(orders(), "10.0.0.5:7105"), "http orders:7105");
        for elsewhere in ["10.0.0.6:9105", "10.0.0.6:7105", "10.0.0.5:22"] {
            assert_eq!(led(orders(), elsewhere), "outside", "{elsewhere}");
        }
    }

    #[test]
    fn a_service_that_is_served_nowhere_is_known_by_its_port() {
        let orders = || vec![service("orders", http(7105), &[])];
        assert_eq!(led(orders(), "10.0.0.5:7105"), "http orders:7105");
        assert_eq!(led(orders(), "10.0.0.5:22"), "outside");
    }

    #[test]
    fn a_service_without_proxy_is_where_it_is_declared() {
        assert_eq!(
            led(vec![database("127.0.0.1:7432")], "127.0.0.1:7432"),
            "tcp database:7432"
        );
        assert_eq!(
            led(vec![database("127.0.0.1:7432")], "10.0.0.1:7432"),
            "outside"
        );
        assert_eq!(
            led(vec![database("postgres:7432")], "10.0.0.1:7432"),
            "tcp database:7432"
        );
        assert_eq!(
            led(vec![database("postgres:7432")], "10.0.0.1:5432"),
            "outside"
        );
    }

    #[test]
    fn attack_an_endpoint_at_somebody_elses_address_gets_nothing() {
        let shared = || {
            vec![
                service("orders", http(7105), &[at("10.0.0.5:7105")]),
                service("thief", http(7105), &[at("10.0.0.5:7105")]),
            ]
        };
        assert_eq!(led(shared(), "10.0.0.5:7105"), "Ambiguous");
    }

    #[test]
    fn a_place_has_one_form() {
        for written in ["127.0.0.1", "::1", "::ffff:127.0.0.1"] {
            assert_eq!(
                folded(written.parse().unwrap()),
                IpAddr::V4(Ipv4Addr::LOCALHOST)
            );
        }
        let other: IpAddr = "2001:db8::1".parse().unwrap();
        assert_eq!(folded(other), other);
    }

    #[tokio::test]
    async fn attack_who_was_not_captured_has_no_destination() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = tokio::net::TcpListener::bind(address).await.unwrap();
            let here = listener.local_addr().unwrap();
            let _caller = TcpStream::connect(here).await.unwrap();
            let (accepted, _) = listener.accept().await.unwrap();
            assert_eq!(original(&accepted), Err(Stray::NotCaptured));
        }
    }
}
