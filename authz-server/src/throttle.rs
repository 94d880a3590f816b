//! Limits of failed sign-ins per account, client address and network.
//!
//! An attempt is counted before its password is looked at, so that parallel guesses cannot slip
//! through together; a success takes its count back. The account is the name as typed, whether it
//! exists or not, so that a limit tells nothing. Memory is bounded: counters are dropped when
//! their window has passed, and beyond the bound the oldest go first.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use http::HeaderMap;
use parking_lot::Mutex;

use crate::clock::UnixTime;
use crate::config::LoginLimits;
use crate::random::sha256;

const MAX_COUNTERS: usize = 65_536;

/// Counters of the current windows.
pub(crate) struct Throttle {
    limits: LoginLimits,
    counters: Mutex<HashMap<Key, Counter>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Key {
    /// Digest of the name, so that names of any length cost the same.
    Account([u8; 32]),
    Address(IpAddr),
    Network(IpAddr),
}

struct Counter {
    attempts: u32,
    since: UnixTime,
}

/// A counted attempt.
pub(crate) struct Admitted {
    keys: Vec<Key>,
}

/// Too many failures; how long until the window ends.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Limited {
    pub(crate) retry_after: Duration,
}

impl Throttle {
    pub(crate) fn new(limits: LoginLimits) -> Self {
        Self {
            limits,
            counters: Mutex::new(HashMap::new()),
        }
    }

    /// Counts an attempt, unless one of its three counters is full.
    pub(crate) fn admit(
        &self,
        account: &str,
        address: Option<IpAddr>,
        now: UnixTime,
    ) -> Result<Admitted, Limited> {
        let keys = self.keys(account, address);
        let mut counters = self.counters.lock();
        make_room(&mut counters, self.limits.window, now);
        for (key, limit) in &keys {
            if let Some(counter) = counters.get(key) {
                let left = counter.since.plus(self.limits.window).remaining_at(now);
                if !left.is_zero() && counter.attempts >= *limit {
                    return Err(Limited { retry_after: left });
                }
            }
        }
        for (key, _) in &keys {
            let counter = counters.entry(key.clone()).or_insert(Counter {
                attempts: 0,
                since: now,
            });
            if counter.since.age_at(now) >= self.limits.window {
                *counter = Counter {
                    attempts: 0,
                    since: now,
                };
            }
            counter.attempts += 1;
        }
        Ok(Admitted {
            keys: keys.into_iter().map(|(key, _)| key).collect(),
        })
    }

    /// The attempt succeeded, or came to no judgement: it does not count.
    pub(crate) fn forgive(&self, admitted: Admitted) {
        let mut counters = self.counters.lock();
        for key in admitted.keys {
            if let Some(counter) = counters.get_mut(&key) {
                counter.attempts = counter.attempts.saturating_sub(1);
            }
        }
    }

    fn keys(&self, account: &str, address: Option<IpAddr>) -> Vec<(Key, u32)> {
        let name = account.to_lowercase();
        let mut keys = vec![(Key::Account(sha256(name.as_bytes())), self.limits.account)];
        if let Some(address) = address.map(|a| a.to_canonical()) {
            keys.push((Key::Address(address), self.limits.address));
            keys.push((Key::Network(network(address)), self.limits.network));
        }
        keys
    }
}

fn make_room(counters: &mut HashMap<Key, Counter>, window: Duration, now: UnixTime) {
    if counters.len() < MAX_COUNTERS {
        return;
    }
    counters.retain(|_, counter| counter.since.age_at(now) < window);
    if counters.len() >= MAX_COUNTERS {
        let mut ages: Vec<UnixTime> = counters.values().map(|c| c.since).collect();
        ages.sort_unstable();
        let cut = ages.get(ages.len() / 4).copied().unwrap_or(now);
        counters.retain(|_, counter| counter.since > cut);
    }
}

/// /24 of IPv4, /64 of IPv6: what one attacker usually has.
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(v4) => IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() & 0xffff_ff00)),
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64))),
    }
}

/// The client's address. Only the ingress may name it, and of what it sends only the last entry,
/// which is its own.
pub(crate) fn client_address(headers: &HeaderMap, from_ingress: bool) -> Option<IpAddr> {
    if !from_ingress {
        return None;
    }
    let value = headers
        .get_all("x-forwarded-for")
        .iter()
        .next_back()?
        .to_str()
        .ok()?;
    value.rsplit(',').next()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixTime = UnixTime::from_seconds(1_000_000);

    fn throttle() -> Throttle {
        Throttle::new(LoginLimits {
            window: Duration::from_secs(300),
            account: 3,
            address: 5,
            network: 8,
        })
    }

    fn ip(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn an_account_is_limited_from_every_address_and_case() {
        let throttle = throttle();
        for n in 0..3 {
            assert!(
                throttle
                    .admit("alice", ip(&format!("10.0.{n}.1")), NOW)
                    .is_ok()
            );
        }
        let limited = throttle.admit("ALICE", ip("10.9.9.9"), NOW).err().unwrap();
        assert_eq!(limited.retry_after, Duration::from_secs(300));
        assert!(
            throttle
                .admit("alice", None, NOW.plus(Duration::from_secs(300)))
                .is_ok()
        );
    }

    #[test]
    fn spraying_over_accounts_is_limited_by_address_and_network() {
        let throttle = throttle();
        for n in 0..5 {
            assert!(
                throttle
                    .admit(&format!("user{n}"), ip("10.0.0.1"), NOW)
                    .is_ok()
            );
        }
        assert!(throttle.admit("user5", ip("10.0.0.1"), NOW).is_err());
        for n in 0..3 {
            assert!(
                throttle
                    .admit(&format!("v{n}"), ip("10.0.0.2"), NOW)
                    .is_ok()
            );
        }
        assert!(
            throttle.admit("v3", ip("10.0.0.3"), NOW).is_err(),
            "the network is full"
        );
        assert!(
            throttle.admit("v4", ip("10.0.1.1"), NOW).is_ok(),
            "another network is not"
        );
    }

    #[test]
    fn ipv6_counts_by_64_and_mapped_addresses_as_ipv4() {
        assert_eq!(
            network("2001:db8:1:2:3::1".parse().unwrap()).to_string(),
            "2001:db8:1:2::"
        );
        let throttle = throttle();
        for n in 0..5 {
            assert!(
                throttle
                    .admit(&format!("u{n}"), ip("::ffff:10.0.0.1"), NOW)
                    .is_ok()
            );
        }
        assert!(throttle.admit("u5", ip("10.0.0.1"), NOW).is_err());
    }

    #[test]
    fn success_does_not_count() {
        let throttle = throttle();
        for _ in 0..10 {
            let admitted = throttle.admit("alice", ip("10.0.0.1"), NOW).ok().unwrap();
            throttle.forgive(admitted);
        }
        assert!(throttle.admit("alice", ip("10.0.0.1"), NOW).is_ok());
    }

    #[test]
    fn memory_is_bounded() {
        let throttle = throttle();
        for n in 0..(MAX_COUNTERS + 10) {
            let _ = throttle.admit(
                &format!("u{n}"),
                None,
                NOW.plus(Duration::from_secs(n as u64 / 1000)),
            );
        }
        assert!(throttle.counters.lock().len() <= MAX_COUNTERS + 3);
    }

    #[test]
    fn only_the_ingress_names_the_address_and_only_its_own_entry_counts() {
        let mut headers = HeaderMap::new();
        headers.insert("x-forwarded-for", "1.1.1.1, 10.0.0.7".parse().unwrap());
        assert_eq!(client_address(&headers, true), ip("10.0.0.7"));
        assert_eq!(client_address(&headers, false), None);
    }
}
