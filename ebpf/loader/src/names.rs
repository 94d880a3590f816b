//! Numbers for names, as the kernel has them.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use crate::error::{Error, Result};

/// The number of a workload or a service: FNV-1a of its name, so that an agent that starts anew finds its
/// predecessor's entries. Never 0, which stands for "none".
#[must_use]
pub fn id_of(name: &str) -> u32 {
    let hash = name.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    });
    hash.max(1)
}

/// The names that were given so far; shared with the stream of events.
#[derive(Clone, Debug, Default)]
pub(crate) struct Names(Arc<RwLock<HashMap<u32, String>>>);

impl Names {
    /// The name's number; an error when another name has it.
    pub(crate) fn number(&self, name: &str) -> Result<u32> {
        let id = id_of(name);
        let mut names = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let known = names.entry(id).or_insert_with(|| name.to_owned());
        if known == name {
            return Ok(id);
        }
        Err(Error::SameNumber {
            one: known.clone(),
            other: name.to_owned(),
        })
    }

    /// The name of a number, where it was given since this process started.
    pub(crate) fn name(&self, id: u32) -> Option<String> {
        let names = self.0.read().unwrap_or_else(PoisonError::into_inner);
        names.get(&id).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_the_same_in_every_run() {
        assert_eq!(id_of(""), 0x811c_9dc5);
        assert_eq!(id_of("a"), 0xe40c_292c);
        assert_ne!(id_of("orders"), id_of("payments"));
    }

    #[test]
    fn two_names_with_one_number_are_refused() {
        let names = Names::default();
        // A known collision of FNV-1a.
        assert_eq!(id_of("costarring"), id_of("liquid"));
        names.number("costarring").unwrap();
        assert!(matches!(
            names.number("liquid"),
            Err(Error::SameNumber { .. })
        ));
        assert_eq!(names.name(id_of("liquid")).as_deref(), Some("costarring"));
    }
}
