//! Ports: whether they are free, who has them, and choosing free ones.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};

use crate::composition::Composition;
use crate::error::CliError;
use crate::processes::holder_of;

/// Leaves out public addresses that this machine does not have (a container without IPv6).
pub(crate) fn drop_absent_addresses(composition: &mut Composition) {
    composition.public.listen.retain(|ip| {
        let probe = TcpListener::bind(SocketAddr::new(*ip, 0));
        !probe.is_err_and(|error| {
            matches!(
                error.kind(),
                ErrorKind::AddrNotAvailable | ErrorKind::Unsupported
            )
        })
    });
}

/// Refuses when any port of the platform is taken; the error names each of them.
pub(crate) fn check(composition: &Composition) -> Result<(), CliError> {
    let conflicts = conflicts(composition);
    if conflicts.is_empty() {
        Ok(())
    } else {
        Err(CliError::PortsTaken(conflicts))
    }
}

/// One message for each taken port.
pub(crate) fn conflicts(composition: &Composition) -> Vec<String> {
    let mut conflicts = Vec::new();
    for (address, whose) in composition.listeners() {
        let Err(error) = TcpListener::bind(address) else {
            continue;
        };
        conflicts.push(match error.kind() {
            ErrorKind::AddrInUse => taken(address, &whose, holder_of(address).as_deref()),
            ErrorKind::PermissionDenied => format!(
                "port {} ({whose}) needs root\n  fix: choose a port above 1023: ringwall up --public-port 8443",
                address.port()
            ),
            _ => format!("{address} ({whose}) cannot be listened on: {error}\n  fix: change public.listen"),
        });
    }
    conflicts
}

fn taken(address: SocketAddr, whose: &str, holder: Option<&str>) -> String {
    let port = address.port();
    let holder = holder.map_or_else(String::new, |holder| format!(" by {holder}"));
    format!(
        "port {port} ({whose}) is taken{holder}\n  \
         fix: stop that process, or start Ringwall elsewhere: ringwall up --port-offset 1000 (or --free-ports)"
    )
}

/// The first port that `--free-ports` chooses.
const FIRST_OWN: u16 = 10_240;
/// Where the kernel's range for outgoing connections begins, unless said otherwise (ip(7)).
const USUAL_FIRST: u16 = 32_768;

/// The first port that the kernel gives to outgoing connections.
fn first_for_dialling() -> u16 {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range");
    let first = range
        .ok()
        .and_then(|range| range.split_whitespace().next()?.parse().ok());
    first.unwrap_or(USUAL_FIRST)
}

/// Where nearly all ports are for dialling there is no better place than the usual one.
const fn end_of_own(first_for_dialling: u16) -> u16 {
    if first_for_dialling > FIRST_OWN + 1000 {
        first_for_dialling
    } else {
        USUAL_FIRST
    }
}

/// Two platforms that start at the same time look in different places.
fn rand_in(range: &std::ops::Range<u16>) -> Result<u16, CliError> {
    let mut bytes = [0; 2];
    aws_lc_rs::rand::fill(&mut bytes)
        .map_err(|_| CliError::internal("looking for a free port", "no random bytes"))?;
    Ok(range.start + u16::from_le_bytes(bytes) % (range.end - range.start))
}

/// Gives every listener a port that is free now.
pub(crate) fn choose_free(composition: &mut Composition) -> Result<(), CliError> {
    let wanted = composition.listeners().len();
    let mut free = BTreeSet::new();
    // Not those that the kernel gives to whoever dials: one of them may be gone before a component listens on it.
    let own = FIRST_OWN..end_of_own(first_for_dialling());
    let begin = rand_in(&own)?;
    for port in (begin..own.end).chain(own.start..begin) {
        if free.len() == wanted {
            break;
        }
        if TcpListener::bind((IpAddr::V4(Ipv4Addr::LOCALHOST), port)).is_ok() {
            free.insert(port);
        }
    }
    if free.len() < wanted {
        return Err(CliError::PortsTaken(vec![format!(
            "{} of {wanted} ports are free between {} and {}\n  fix: stop what listens there",
            free.len(),
            own.start,
            own.end
        )]));
    }
    let mut free = free.into_iter();
    // There are as many as listeners, and a listener takes at most one.
    composition.renumber(|port| free.next().unwrap_or(port));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conflict_names_port_component_holder_and_fix() {
        let address = SocketAddr::from(([127, 0, 0, 1], 7105));
        assert_eq!(
            taken(address, "mesh listener of orders", Some("nginx (pid 42)")),
            "port 7105 (mesh listener of orders) is taken by nginx (pid 42)\n  fix: stop that process, \
             or start Ringwall elsewhere: ringwall up --port-offset 1000 (or --free-ports)"
        );
        assert!(taken(address, "x", None).starts_with("port 7105 (x) is taken\n"));
    }
}
