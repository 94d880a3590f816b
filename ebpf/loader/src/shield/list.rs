//! Whom the shield denies, for how long, and who has tried.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{MapData, MapError};
use nix::libc;
use ringwall_ebpf_common::shield::{Cause, Denial, Key4, Key6};
use ringwall_ebpf_common::{Address, Prefix};

use super::Shield;
use crate::error::{Error, Result};
use crate::maps::Raw;

/// A network that is denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Denied {
    pub prefix: Prefix,
    pub cause: Cause,
    /// How long it still holds; none is until it is removed.
    pub left: Option<Duration>,
    /// How long it has held.
    pub age: Duration,
    /// Packets that were dropped for it.
    pub hits: u64,
}

/// Who tries, although it is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Talker {
    pub prefix: Prefix,
    /// Why it is denied; none where it only opens connections too fast.
    pub cause: Option<Cause>,
    pub dropped: u64,
}

/// What became of a denial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Added {
    New,
    /// It was there, and holds until the new end now.
    Renewed,
    /// What was there holds longer, or an operator has said it.
    Kept,
}

impl Shield {
    /// Denies a network from now on. What an operator has said is changed by an operator only, and what the gateway has
    /// said is not shortened by it.
    pub fn deny(&mut self, prefix: Prefix, cause: Cause, lasts: Option<Duration>) -> Result<Added> {
        let now = now();
        let expires = lasts.map_or(0, |lasts| {
            let lasts = u64::try_from(lasts.as_nanos()).unwrap_or(u64::MAX);
            now.saturating_add(lasts.max(1))
        });
        let known = self.entry(prefix);
        let mut denial = Denial {
            expires,
            since: now,
            hits: 0,
            length: u32::from(prefix.length()),
            cause: cause as u8,
            padding: [0; 3],
        };
        if let Some(known) = known {
            if cause != Cause::Operator && known.holds(now) {
                let longer = known.expires == 0 || (expires != 0 && known.expires >= expires);
                if known.cause == Cause::Operator as u8 || longer {
                    return Ok(Added::Kept);
                }
            }
            denial.hits = known.hits;
            denial.since = known.since;
        }
        self.write(prefix, denial, known.is_none())?;
        Ok(if known.is_some() {
            Added::Renewed
        } else {
            Added::New
        })
    }

    /// Denies many at once: all of them, or none where they do not fit.
    pub fn deny_all(
        &mut self,
        prefixes: &[Prefix],
        cause: Cause,
        lasts: Option<Duration>,
    ) -> Result<()> {
        for (six, (used, capacity)) in [false, true].into_iter().zip(self.fill()) {
            let more = prefixes
                .iter()
                .filter(|prefix| prefix.address().is_ipv6() == six)
                .filter(|prefix| self.entry(**prefix).is_none())
                .collect::<std::collections::HashSet<_>>()
                .len();
            let more = u32::try_from(more).unwrap_or(u32::MAX);
            if used.saturating_add(more) > capacity {
                return Err(full(six, used, capacity, more));
            }
        }
        for prefix in prefixes {
            self.deny(*prefix, cause, lasts)?;
        }
        Ok(())
    }

    /// Lets exactly this network in again. False where it was not denied (a wider one may be).
    pub fn forgive(&mut self, prefix: Prefix) -> Result<bool> {
        let (bits, tables) = (u32::from(prefix.length()), &mut self.tables);
        let removed = match prefix.address() {
            IpAddr::V4(_) => tables.deny_4.remove(&Key::new(bits, key_4(prefix))),
            IpAddr::V6(_) => tables.deny_6.remove(&Key::new(bits, key_6(prefix))),
        };
        match removed {
            Ok(()) => {
                let used = self.used_of(prefix);
                *used = used.saturating_sub(1);
                Ok(true)
            }
            Err(error) if is_absent(&error) => Ok(false),
            Err(error) => Err(Error::map(name_of(prefix), error)),
        }
    }

    /// Every denial that holds, in the order of addresses.
    pub fn list(&self) -> Result<Vec<Denied>> {
        let now = now();
        let mut rows: Vec<Denied> = self
            .entries()?
            .into_iter()
            .filter(|(_, denial)| denial.holds(now))
            .map(|(prefix, denial)| Denied {
                prefix,
                cause: Cause::from_byte(denial.cause).unwrap_or(Cause::Operator),
                left: (denial.expires != 0)
                    .then(|| Duration::from_nanos(denial.expires.saturating_sub(now))),
                age: Duration::from_nanos(now.saturating_sub(denial.since)),
                hits: denial.hits,
            })
            .collect();
        rows.sort_by_key(|row| row.prefix);
        Ok(rows)
    }

    /// Who was dropped most, at most so many.
    pub fn top(&self, most: usize) -> Result<Vec<Talker>> {
        let denied = self.list()?.into_iter().map(|row| Talker {
            prefix: row.prefix,
            cause: Some(row.cause),
            dropped: row.hits,
        });
        let mut rows: Vec<Talker> = denied.collect();
        for entry in self.tables.rates.iter() {
            let (Raw(address), Raw(bucket)) =
                entry.map_err(|error| Error::map("SHIELD_RATES", error))?;
            rows.push(Talker {
                prefix: party(address),
                cause: None,
                dropped: bucket.dropped,
            });
        }
        rows.retain(|row| row.dropped > 0);
        rows.sort_by_key(|row| (std::cmp::Reverse(row.dropped), row.prefix));
        rows.truncate(most);
        Ok(rows)
    }

    /// Removes what has expired: it drops nothing any more, and makes room. How many these were.
    pub fn sweep(&mut self) -> Result<usize> {
        let now = now();
        let mut swept = 0;
        for (prefix, denial) in self.entries()? {
            if !denial.holds(now) && self.forgive(prefix)? {
                swept += 1;
            }
        }
        Ok(swept)
    }

    /// Counts what is there.
    pub(super) fn recount(&mut self) -> Result<()> {
        let entries = self.entries()?;
        let six = entries
            .iter()
            .filter(|(prefix, _)| prefix.address().is_ipv6())
            .count();
        let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        self.used = [number(entries.len() - six), number(six)];
        Ok(())
    }

    /// These are on the allow list, and no others.
    pub(super) fn set_allowed(&mut self, allow: &[Prefix]) -> Result<()> {
        let wanted = |prefix: &&Prefix| prefix.address().is_ipv4();
        let four: HashMap<(u32, Key4), ()> = allow
            .iter()
            .filter(wanted)
            .map(|prefix| ((u32::from(prefix.length()), key_4(*prefix)), ()))
            .collect();
        let six: HashMap<(u32, Key6), ()> = allow
            .iter()
            .filter(|prefix| !wanted(prefix))
            .map(|prefix| ((u32::from(prefix.length()), key_6(*prefix)), ()))
            .collect();
        become_exactly("SHIELD_ALLOW_4", &mut self.tables.allow_4, &four)?;
        become_exactly("SHIELD_ALLOW_6", &mut self.tables.allow_6, &six)
    }

    /// The denial of exactly this network. A trie answers with the longest prefix, which may be a shorter one.
    fn entry(&self, prefix: Prefix) -> Option<Denial> {
        let bits = u32::from(prefix.length());
        let found = match prefix.address() {
            IpAddr::V4(_) => self.tables.deny_4.get(&Key::new(bits, key_4(prefix)), 0),
            IpAddr::V6(_) => self.tables.deny_6.get(&Key::new(bits, key_6(prefix)), 0),
        };
        let Raw(denial) = found.ok()?;
        (denial.length == bits).then_some(denial)
    }

    fn write(&mut self, prefix: Prefix, denial: Denial, new: bool) -> Result<()> {
        let (bits, tables) = (u32::from(prefix.length()), &mut self.tables);
        let written = match prefix.address() {
            IpAddr::V4(_) => tables
                .deny_4
                .insert(&Key::new(bits, key_4(prefix)), Raw(denial), 0),
            IpAddr::V6(_) => tables
                .deny_6
                .insert(&Key::new(bits, key_6(prefix)), Raw(denial), 0),
        };
        let six = prefix.address().is_ipv6();
        match written {
            Ok(()) => {
                *self.used_of(prefix) += u32::from(new);
                Ok(())
            }
            Err(error) if code(&error) == Some(libc::ENOSPC) => {
                let [four, other] = self.fill();
                let (used, capacity) = if six { other } else { four };
                Err(full(six, used, capacity, 1))
            }
            Err(error) => Err(Error::map(name_of(prefix), error)),
        }
    }

    fn used_of(&mut self, prefix: Prefix) -> &mut u32 {
        let [four, six] = &mut self.used;
        if prefix.address().is_ipv6() {
            six
        } else {
            four
        }
    }

    fn entries(&self) -> Result<Vec<(Prefix, Denial)>> {
        let mut found = Vec::new();
        for entry in self.tables.deny_4.iter() {
            let (key, Raw(denial)) = entry.map_err(|error| Error::map("SHIELD_DENY_4", error))?;
            let [word, _] = key.data();
            let address = IpAddr::V4(u32::from_be(word).into());
            found.extend(network(address, key.prefix_len()).map(|prefix| (prefix, denial)));
        }
        for entry in self.tables.deny_6.iter() {
            let (key, Raw(denial)) = entry.map_err(|error| Error::map("SHIELD_DENY_6", error))?;
            let address = address_6(key.data());
            found.extend(network(address, key.prefix_len()).map(|prefix| (prefix, denial)));
        }
        Ok(found)
    }
}

fn become_exactly<K: aya::Pod + Eq + std::hash::Hash>(
    name: &'static str,
    trie: &mut LpmTrie<MapData, K, u64>,
    wanted: &HashMap<(u32, K), ()>,
) -> Result<()> {
    for (bits, data) in wanted.keys() {
        let inserted = trie.insert(&Key::new(*bits, *data), 1, 0);
        inserted.map_err(|error| Error::map(name, error))?;
    }
    let keys: std::result::Result<Vec<Key<K>>, _> = trie.keys().collect();
    for key in keys.map_err(|error| Error::map(name, error))? {
        if !wanted.contains_key(&(key.prefix_len(), key.data())) {
            trie.remove(&key).map_err(|error| Error::map(name, error))?;
        }
    }
    Ok(())
}

fn network(address: IpAddr, bits: u32) -> Option<Prefix> {
    Prefix::new(address, u8::try_from(bits).ok()?)
}

fn address_6(words: Key6) -> IpAddr {
    let bits = words.into_iter().fold(0_u128, |bits, word| {
        bits << 32 | u128::from(u32::from_be(word))
    });
    IpAddr::V6(bits.into())
}

/// Whose bucket it is: of IPv6 it holds the /64 alone.
fn party(address: Address) -> Prefix {
    let Address([.., last]) = address;
    if address.is_v4() {
        return Prefix::host(IpAddr::V4(u32::from_be(last).into()));
    }
    Prefix::party(address_6(address.0))
}

fn key_4(prefix: Prefix) -> Key4 {
    match prefix.address() {
        IpAddr::V4(four) => [four.to_bits().to_be(), 0],
        IpAddr::V6(_) => [0; 2],
    }
}

fn key_6(prefix: Prefix) -> Key6 {
    let Address(words) = Address::from(prefix.address());
    words
}

fn name_of(prefix: Prefix) -> &'static str {
    if prefix.address().is_ipv6() {
        "SHIELD_DENY_6"
    } else {
        "SHIELD_DENY_4"
    }
}

fn full(six: bool, used: u32, capacity: u32, more: u32) -> Error {
    Error::ShieldFull {
        family: if six { "IPv6" } else { "IPv4" },
        used,
        capacity,
        more,
    }
}

fn code(error: &MapError) -> Option<i32> {
    match error {
        MapError::SyscallError(call) => call.io_error.raw_os_error(),
        MapError::IoError(error) => error.raw_os_error(),
        _ => None,
    }
}

fn is_absent(error: &MapError) -> bool {
    matches!(error, MapError::KeyNotFound | MapError::ElementNotFound)
        || code(error) == Some(libc::ENOENT)
}

/// Nanoseconds of the clock that the programs read.
fn now() -> u64 {
    // SAFETY: integers alone, for which zero is a value.
    let mut time: libc::timespec = unsafe { std::mem::zeroed() };
    // SAFETY: the call writes one `timespec`. It cannot fail: every kernel has this clock.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let rest = u64::try_from(time.tv_nsec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(rest)
}
