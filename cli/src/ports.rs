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

/// Gives every listener a port that is free now.
pub(crate) fn choose_free(composition: &mut Composition) -> Result<(), CliError> {
    // All are held until the last is chosen, so that none is given twice.
    let wanted = composition.listeners().len();
    let mut held = Vec::new();
    let mut free = BTreeSet::new();
    while free.len() < wanted {
        let listener =
            TcpListener::bind((IpAddr::V4(Ipv4Addr::LOCALHOST), 0)).map_err(|source| {
                CliError::Io {
                    what: "looking for a free port".into(),
                    source,
                }
            })?;
        let address = listener.local_addr().map_err(|source| CliError::Io {
            what: "looking for a free port".into(),
            source,
        })?;
        free.insert(address.port());
        held.push(listener);
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
