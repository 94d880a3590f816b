//! Edges in the form in which they are asked for: no allocation, two look-ups.

use std::collections::HashMap;

use crate::mesh::Bundle;

/// Who may connect to whom.
#[derive(Debug, Default)]
pub(in crate::mesh) struct EdgeTable(HashMap<Box<str>, HashMap<Box<str>, Vec<u16>>>);

impl EdgeTable {
    pub(super) fn of(bundle: &Bundle) -> Self {
        let mut table = Self::default();
        for edge in &bundle.edges {
            let declared = bundle.services.get(&edge.callee).map(|facts| &facts.ports);
            let ports = match (edge.ports.is_empty(), declared) {
                (true, Some(declared)) => declared,
                _ => &edge.ports,
            };
            let callers = table.0.entry(edge.callee.as_str().into()).or_default();
            let known = callers.entry(edge.caller.as_str().into()).or_default();
            known.extend(ports);
            known.sort_unstable();
            known.dedup();
        }
        table
    }

    pub(in crate::mesh) fn allows(&self, caller: &str, callee: &str, port: u16) -> bool {
        self.ports(caller, callee)
            .is_some_and(|ports| ports.binary_search(&port).is_ok())
    }

    /// Whether there is an edge at all, at whatever port.
    pub(super) fn connects(&self, caller: &str, callee: &str) -> bool {
        self.ports(caller, callee)
            .is_some_and(|ports| !ports.is_empty())
    }

    fn ports(&self, caller: &str, callee: &str) -> Option<&Vec<u16>> {
        self.0.get(callee)?.get(caller)
    }
}
