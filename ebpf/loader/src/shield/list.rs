//! Whom the shield denies, for how long, and who has tried.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{MapData, MapError};
use nix::libc;
use ringwall_ebpf_common::shield::{Cause, Denial, FRONT_AFTER, Host6, Key4, Key6};
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

/// What a sweep has found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Denials that had ended, and are gone.
    pub ended: usize,
    /// Those that stand, and that no operator has said.
    pub reported: usize,
}

/// One of the tables that denials stand in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum List {
    /// Addresses of IPv4.
    Hosts4 = 0,
    /// Addresses of IPv6, and its /64s.
    Hosts6 = 1,
    /// Of other lengths.
    Networks4 = 2,
    Networks6 = 3,
}

/// How full a list is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fill {
    pub used: u32,
    pub capacity: u32,
}

impl List {
    pub(super) const ALL: [Self; 4] =
        [Self::Hosts4, Self::Hosts6, Self::Networks4, Self::Networks6];

    /// Where a network stands.
    #[must_use]
    pub fn of(prefix: Prefix) -> Self {
        match (prefix.address(), prefix.length()) {
            (IpAddr::V4(_), 32) => Self::Hosts4,
            (IpAddr::V4(_), _) => Self::Networks4,
            (IpAddr::V6(_), 64 | 128) => Self::Hosts6,
            (IpAddr::V6(_), _) => Self::Networks6,
        }
    }

    /// For people and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hosts4 => "hosts of IPv4",
            Self::Hosts6 => "hosts of IPv6",
            Self::Networks4 => "networks of IPv4",
            Self::Networks6 => "networks of IPv6",
        }
    }

    const fn map(self) -> &'static str {
        match self {
            Self::Hosts4 => "SHIELD_HOSTS_4",
            Self::Hosts6 => "SHIELD_HOSTS_6",
            Self::Networks4 => "SHIELD_DENY_4",
            Self::Networks6 => "SHIELD_DENY_6",
        }
    }
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
        for (list, fill) in self.fill() {
            let more = prefixes
                .iter()
                .filter(|prefix| List::of(**prefix) == list)
                .filter(|prefix| self.entry(**prefix).is_none())
                .collect::<std::collections::HashSet<_>>()
                .len();
            let more = u32::try_from(more).unwrap_or(u32::MAX);
            if fill.used.saturating_add(more) > fill.capacity {
                return Err(full(list, fill, more));
            }
        }
        for prefix in prefixes {
            self.deny(*prefix, cause, lasts)?;
        }
        Ok(())
    }

    /// Lets exactly this network in again. False where it was not denied (a wider one may be).
    pub fn forgive(&mut self, prefix: Prefix) -> Result<bool> {
        self.leave_front(prefix)?;
        let list = List::of(prefix);
        let (bits, tables) = (u32::from(prefix.length()), &mut self.tables);
        let removed = match list {
            List::Hosts4 => tables.hosts_4.remove(&host_4(prefix)),
            List::Hosts6 => tables.hosts_6.remove(&host_6(prefix)),
            List::Networks4 => tables.deny_4.remove(&Key::new(bits, key_4(prefix))),
            List::Networks6 => tables.deny_6.remove(&Key::new(bits, key_6(prefix))),
        };
        match removed {
            Ok(()) => {
                let used = self.used_of(list);
                *used = used.saturating_sub(1);
                Ok(true)
            }
            Err(error) if is_absent(&error) => Ok(false),
            Err(error) => Err(Error::map(list.map(), error)),
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

    /// Removes what has expired: it drops nothing any more, and makes room. Hosts that were dropped
    /// many times get into the front; to be called at least every `Shield::LEASE` / 2, or all goes the slower way.
    pub fn sweep(&mut self) -> Result<Swept> {
        let now = now();
        let mut swept = Swept::default();
        let mut busy = Vec::new();
        for (prefix, denial) in self.entries()? {
            if !denial.holds(now) {
                swept.ended += usize::from(self.forgive(prefix)?);
                continue;
            }
            swept.reported += usize::from(denial.cause != Cause::Operator as u8);
            if denial.hits >= FRONT_AFTER && List::of(prefix) == List::Hosts4 {
                busy.push((host_4(prefix), denial.expires));
            }
        }
        self.renew_front(&busy, now)?;
        Ok(swept)
    }

    /// Counts what is there.
    pub(super) fn recount(&mut self) -> Result<()> {
        self.used = [0; 4];
        for (prefix, _) in self.entries()? {
            *self.used_of(List::of(prefix)) += 1;
        }
        Ok(())
    }

    pub(super) fn fill_of(&self, list: List) -> Fill {
        let of = |numbers: &[u32; 4]| numbers.get(list as usize).copied().unwrap_or(0);
        Fill {
            used: of(&self.used),
            capacity: of(&self.capacity),
        }
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
        let (bits, tables) = (u32::from(prefix.length()), &self.tables);
        let found = match List::of(prefix) {
            List::Hosts4 => tables.hosts_4.get(&host_4(prefix), 0),
            List::Hosts6 => tables.hosts_6.get(&host_6(prefix), 0),
            List::Networks4 => tables.deny_4.get(&Key::new(bits, key_4(prefix)), 0),
            List::Networks6 => tables.deny_6.get(&Key::new(bits, key_6(prefix)), 0),
        };
        let Raw(denial) = found.ok()?;
        (denial.length == bits).then_some(denial)
    }

    fn write(&mut self, prefix: Prefix, denial: Denial, new: bool) -> Result<()> {
        self.leave_front(prefix)?;
        let list = List::of(prefix);
        let (bits, tables) = (u32::from(prefix.length()), &mut self.tables);
        let denial = Raw(denial);
        let written = match list {
            List::Hosts4 => tables.hosts_4.insert(host_4(prefix), denial, 0),
            List::Hosts6 => tables.hosts_6.insert(host_6(prefix), denial, 0),
            List::Networks4 => tables
                .deny_4
                .insert(&Key::new(bits, key_4(prefix)), denial, 0),
            List::Networks6 => tables
                .deny_6
                .insert(&Key::new(bits, key_6(prefix)), denial, 0),
        };
        match written {
            Ok(()) => {
                *self.used_of(list) += u32::from(new);
                Ok(())
            }
            // A full trie says the one, a full table the other.
            Err(error) if matches!(code(&error), Some(libc::ENOSPC | libc::E2BIG)) => {
                Err(full(list, self.fill_of(list), 1))
            }
            Err(error) => Err(Error::map(list.map(), error)),
        }
    }

    fn used_of(&mut self, list: List) -> &mut u32 {
        let [hosts_4, hosts_6, networks_4, networks_6] = &mut self.used;
        match list {
            List::Hosts4 => hosts_4,
            List::Hosts6 => hosts_6,
            List::Networks4 => networks_4,
            List::Networks6 => networks_6,
        }
    }

    fn entries(&self) -> Result<Vec<(Prefix, Denial)>> {
        let mut found = Vec::new();
        for entry in self.tables.hosts_4.iter() {
            let (word, Raw(denial)) =
                entry.map_err(|error| Error::map(List::Hosts4.map(), error))?;
            let address = IpAddr::V4(u32::from_be(word).into());
            found.push((Prefix::host(address), denial));
        }
        for entry in self.tables.hosts_6.iter() {
            let ([first, second, third, fourth, bits], Raw(denial)) =
                entry.map_err(|error| Error::map(List::Hosts6.map(), error))?;
            let address = address_6([first, second, third, fourth]);
            found.extend(network(address, bits).map(|prefix| (prefix, denial)));
        }
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

pub(super) fn host_4(prefix: Prefix) -> u32 {
    let [word, _] = key_4(prefix);
    word
}

fn host_6(prefix: Prefix) -> Host6 {
    let [first, second, third, fourth] = key_6(prefix);
    [first, second, third, fourth, prefix.length().into()]
}

fn full(list: List, fill: Fill, more: u32) -> Error {
    Error::ShieldFull {
        list: list.as_str(),
        used: fill.used,
        capacity: fill.capacity,
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
