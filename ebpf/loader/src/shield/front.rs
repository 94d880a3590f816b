//! The front: hosts of IPv4 that were dropped many times, in a table that stays in a core's cache.
//!
//! A flood comes from hosts whose entries lie all over the memory; fetching one takes longer than all else. The front has
//! sixteen bits of each of them. It knows no end of a denial: whoever sweeps promises for a while that none in it ends, and
//! when nobody has renewed the promise, nobody asks the front. So a dead agent makes the shield slower, and never wrong.

use std::time::Duration;

use ringwall_ebpf_common::Prefix;
use ringwall_ebpf_common::shield::{FRONT_WORDS, front, front_has, front_with, front_without};

use super::Shield;
use super::list::{List, host_4};
use crate::error::{Error, Result};

/// What is in the map, word by word.
#[derive(Default)]
pub(super) struct Front(Vec<u64>);

impl Shield {
    /// How long a sweep holds.
    pub const LEASE: Duration = Duration::from_secs(30);

    /// Reads what a predecessor has left.
    pub(super) fn read_front(&mut self) -> Result<()> {
        let words: std::result::Result<Vec<u64>, _> = self.tables.front.iter().collect();
        self.front.0 = words.map_err(|error| Error::map("SHIELD_FRONT", error))?;
        self.front.0.resize(FRONT_WORDS, 0);
        Ok(())
    }

    /// Puts these hosts into it, with the ends of their denials, and no others; promises for the next while.
    pub(super) fn renew_front(&mut self, hosts: &[(u32, u64)], now: u64) -> Result<()> {
        let lease = u64::try_from(self.lease.as_nanos()).unwrap_or(u64::MAX);
        let until = now.saturating_add(lease);
        let mut wanted = vec![0_u64; FRONT_WORDS];
        for (host, expires) in hosts {
            let stays = *expires == 0 || *expires > until;
            let address = std::net::Ipv4Addr::from_bits(u32::from_be(*host)).into();
            let allowed = self.allow.iter().any(|prefix| prefix.contains(address));
            let (index, tag) = front(*host);
            // What finds no place there is dropped by its entry.
            if let Some(word) = wanted.get_mut(index as usize)
                && stays
                && !allowed
                && let Some(more) = front_with(*word, tag)
            {
                *word = more;
            }
        }
        for (index, word) in (0_u32..).zip(wanted) {
            self.set_word(index, word)?;
        }
        self.settings.front_until = until;
        self.write_settings()
    }

    /// Takes a host out before its denial changes.
    pub(super) fn leave_front(&mut self, prefix: Prefix) -> Result<()> {
        if List::of(prefix) != List::Hosts4 {
            return Ok(());
        }
        let (index, tag) = front(host_4(prefix));
        let word = self.front.0.get(index as usize).copied().unwrap_or(0);
        if !front_has(word, tag) {
            return Ok(());
        }
        self.set_word(index, front_without(word, tag))
    }

    /// Nobody asks it until the next sweep.
    pub(super) fn retire_front(&mut self) -> Result<()> {
        if self.settings.front_until == 0 {
            return Ok(());
        }
        self.settings.front_until = 0;
        self.write_settings()
    }

    fn set_word(&mut self, index: u32, word: u64) -> Result<()> {
        let Some(known) = self.front.0.get_mut(index as usize) else {
            return Ok(());
        };
        if *known == word {
            return Ok(());
        }
        let set = self.tables.front.set(index, word, 0);
        set.map_err(|error| Error::map("SHIELD_FRONT", error))?;
        *known = word;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearly_all_of_a_full_list_finds_its_place() {
        // Neighbours, and addresses in a stride: both as an attacker's networks are.
        for stride in [1_u32, 7, 167, 256, 4096] {
            let mut words = vec![0_u64; FRONT_WORDS];
            let placed = (0..100_000_u32)
                .filter(|number| {
                    let (index, tag) = front((0x0b00_0000 + number.wrapping_mul(stride)).to_be());
                    let word = &mut words[index as usize];
                    front_with(*word, tag).is_some_and(|more| {
                        *word = more;
                        true
                    })
                })
                .count();
            assert!(placed > 95_000, "{placed} by {stride}");
        }
    }
}
