//! How often strangers may try to join: by address, and all together.
//!
//! Owns: the counting (GCRA) and its bounds: memory is bounded, and when it is full, newcomers share
//! one counter. Must not: read a clock.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::error::Error;

/// One more attempt becomes free after this.
const REFILL: Duration = Duration::from_secs(1);
/// All addresses together: attempts in a row, and the time of one.
const TOTAL_BURST: u32 = 500;
const TOTAL_REFILL: Duration = Duration::from_millis(20);
/// Addresses that are counted apart.
const MAX_ADDRESSES: usize = 4096;

/// The counters.
pub(crate) struct JoinLimit {
    burst: u32,
    counters: Mutex<Counters>,
}

#[derive(Default)]
struct Counters {
    total: Option<Instant>,
    /// Of those that find no place below.
    others: Option<Instant>,
    by_address: HashMap<IpAddr, Instant>,
}

impl JoinLimit {
    pub(crate) fn new(burst: u32) -> Self {
        Self {
            burst,
            counters: Mutex::default(),
        }
    }

    /// Counts an attempt.
    ///
    /// # Errors
    /// [`Error::RateLimited`] says when to come again.
    pub(crate) fn attempt(&self, address: IpAddr, now: Instant) -> Result<(), Error> {
        let address = network(address);
        let mut counters = self.counters.lock();
        if counters.by_address.len() >= MAX_ADDRESSES {
            counters.by_address.retain(|_, full_at| *full_at > now);
        }
        let is_known = counters.by_address.contains_key(&address);
        let full = !is_known && counters.by_address.len() >= MAX_ADDRESSES;
        let mut own = if full {
            counters.others
        } else {
            counters.by_address.get(&address).copied()
        };
        // Its own counter first: one address alone does not use up everybody's.
        take(&mut own, self.burst, REFILL, now)?;
        take(&mut counters.total, TOTAL_BURST, TOTAL_REFILL, now)?;
        if full {
            counters.others = own;
        } else if let Some(full_at) = own {
            counters.by_address.insert(address, full_at);
        }
        Ok(())
    }
}

/// One step of GCRA: `full_at` is when all attempts are free again.
fn take(
    full_at: &mut Option<Instant>,
    burst: u32,
    refill: Duration,
    now: Instant,
) -> Result<(), Error> {
    let next = full_at.map_or(now, |at| at.max(now)) + refill;
    let most = now + refill * burst;
    if next > most {
        return Err(Error::RateLimited(next - most));
    }
    *full_at = Some(next);
    Ok(())
}

/// Who has one IPv6 address has the whole /64.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(
            address.to_bits() & !u128::from(u64::MAX),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn v4(number: u32) -> IpAddr {
        IpAddr::V4(number.into())
    }

    #[test]
    fn an_address_has_a_burst_and_then_one_a_second() {
        let limit = JoinLimit::new(3);
        let start = Instant::now();
        for _ in 0..3 {
            limit.attempt(v4(1), start).unwrap();
        }
        let refused = limit.attempt(v4(1), start).unwrap_err();
        assert!(matches!(refused, Error::RateLimited(wait) if wait == REFILL));
        limit.attempt(v4(2), start).unwrap();
        limit.attempt(v4(1), start + REFILL).unwrap();
        assert!(limit.attempt(v4(1), start + REFILL).is_err());
    }

    #[test]
    fn one_network_is_one_address() {
        let limit = JoinLimit::new(1);
        let now = Instant::now();
        limit.attempt("2001:db8::1".parse().unwrap(), now).unwrap();
        assert!(limit.attempt("2001:db8::2".parse().unwrap(), now).is_err());
        limit
            .attempt("2001:db8:0:1::1".parse().unwrap(), now)
            .unwrap();
        limit.attempt("127.0.0.1".parse().unwrap(), now).unwrap();
        assert!(
            limit
                .attempt("::ffff:127.0.0.1".parse().unwrap(), now)
                .is_err()
        );
    }

    #[test]
    fn many_addresses_do_not_pass_the_whole() {
        let limit = JoinLimit::new(3);
        let now = Instant::now();
        let passed = (0..10_000)
            .filter(|number| limit.attempt(v4(*number), now).is_ok())
            .count();
        assert_eq!(passed, TOTAL_BURST as usize);
        assert!(limit.counters.lock().by_address.len() <= MAX_ADDRESSES);
    }

    proptest! {
        /// In any time span, no address passes more often than burst and refill allow.
        #[test]
        fn no_address_passes_more_than_its_share(
            burst in 1..20_u32, gaps in proptest::collection::vec(0..3000_u64, 1..200)
        ) {
            let limit = JoinLimit::new(burst);
            let start = Instant::now();
            let (mut now, mut passed) = (start, 0_u64);
            for gap in gaps {
                now += Duration::from_millis(gap);
                if limit.attempt(v4(1), now).is_ok() {
                    passed += 1;
                }
                let allowed = u64::from(burst) + (now - start).as_secs();
                prop_assert!(passed <= allowed, "{passed} of {allowed}");
            }
        }
    }
}
