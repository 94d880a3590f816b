//! The front: hosts of IPv4 that were dropped many times, in a table that stays in a core's cache.
//!
//! A flood comes from hosts whose entries lie all over the memory; fetching one takes longer than all else. The front has
//! sixteen bits of each of them. It knows no end of a denial: whoever sweeps promises for a while that none in it ends, and
//! when nobody has renewed the promise, nobody asks the front. So a dead agent makes the shield slower, and never wrong.

use std::time::Duration;

use ringwall_ebpf_common::Prefix;
use ringwall_ebpf_common::shield::{
    FRONT_SPARE, FRONT_WORDS, front, front_has, front_with, front_without, spare, spare_has,
    spare_with, spare_without,
};

use super::Shield;
use super::list::{List, host_4};
use crate::error::{Error, Result};

/// Words of the map.
const WORDS: usize = FRONT_WORDS + FRONT_SPARE;

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
        self.front.0.resize(WORDS, 0);
        Ok(())
    }

    /// Puts these hosts into it, with the ends of their denials, and no others; promises for the next while.
    pub(super) fn renew_front(&mut self, hosts: &[(u32, u64)], now: u64) -> Result<()> {
        let lease = u64::try_from(self.lease.as_nanos()).unwrap_or(u64::MAX);
        let until = now.saturating_add(lease);
        let mut wanted = vec![0_u64; WORDS];
        for (host, expires) in hosts {
            let stays = *expires == 0 || *expires > until;
            let address = std::net::Ipv4Addr::from_bits(u32::from_be(*host)).into();
            let allowed = self.allow.iter().any(|prefix| prefix.contains(address));
            if stays && !allowed {
                put(&mut wanted, *host);
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
        let host = host_4(prefix);
        let (index, tag) = front(host);
        let word = self.word(index);
        if front_has(word, tag) {
            self.set_word(index, front_without(word, tag))?;
        }
        let (index, word) = (spare(tag), self.word(spare(tag)));
        if spare_has(word, host) {
            self.set_word(index, spare_without(word, host))?;
        }
        Ok(())
    }

    /// Nobody asks it until the next sweep.
    pub(super) fn retire_front(&mut self) -> Result<()> {
        if self.settings.front_until == 0 {
            return Ok(());
        }
        self.settings.front_until = 0;
        self.write_settings()
    }

    fn word(&self, index: u32) -> u64 {
        self.front.0.get(index as usize).copied().unwrap_or(0)
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

/// Puts a host into its own word or into a spare one. False where both are full: its entry drops what it sends.
fn put(words: &mut [u64], host: u32) -> bool {
    let (own, tag) = front(host);
    if let Some(word) = words.get_mut(own as usize)
        && let Some(more) = front_with(*word, tag)
    {
        *word = more;
        return true;
    }
    let Some(word) = words.get_mut(spare(tag) as usize) else {
        return false;
    };
    let Some(more) = spare_with(*word, host) else {
        return false;
    };
    *word = more;
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearly_all_of_a_full_list_finds_its_place() {
        // Neighbours, and addresses in a stride: both as an attacker's networks are.
        for stride in [1_u32, 7, 167, 256, 4096] {
            let mut words = vec![0_u64; WORDS];
            let placed = (0..100_000_u32)
                .filter(|number| {
                    let host = 0x0b00_0000 + number.wrapping_mul(stride);
                    put(&mut words, host.to_be())
                })
                .count();
            assert!(placed > 99_500, "{placed} by {stride}");
        }
    }
}
