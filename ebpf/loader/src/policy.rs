//! Services and edges: the whole state comes in, the difference goes to the maps.

use std::collections::HashMap;
use std::net::SocketAddr;

use ringwall_ebpf_common::{EdgeKey, Endpoint, ServiceKey};

use crate::error::Result;
use crate::kernel::Kernel;
use crate::maps::Raw;

impl Kernel {
    /// Where each service listens. Both loopbacks, and IPv4 in its mapped form, are the same address.
    pub fn set_services<'a>(
        &mut self,
        services: impl IntoIterator<Item = (&'a str, &'a [SocketAddr])>,
    ) -> Result<()> {
        let mut wanted = HashMap::new();
        for (name, addresses) in services {
            let id = self.names.number(name)?;
            for address in addresses {
                let Endpoint { address, port, .. } = Endpoint::from(*address);
                let key = ServiceKey {
                    address: address.folded(),
                    port: u32::from(port),
                };
                wanted.insert(Raw(key), id);
            }
        }
        self.maps.services.become_exactly(&wanted)
    }

    /// Who may call whom: pairs of workload and service. An edge that goes ends what was connected by it.
    pub fn set_edges<'a>(
        &mut self,
        edges: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<()> {
        let mut wanted = HashMap::new();
        for (workload, service) in edges {
            let key = EdgeKey {
                workload: self.names.number(workload)?,
                service: self.names.number(service)?,
            };
            wanted.insert(Raw(key), 1);
        }
        let goes = self.maps.edges.keys()?;
        if goes.iter().all(|key| wanted.contains_key(key)) {
            return self.maps.edges.become_exactly(&wanted);
        }
        self.revoking(|kernel| kernel.maps.edges.become_exactly(&wanted))
    }
}
