//! The edge shield: what its maps hold, and its two decisions (does a denial hold, may a source open one more connection).
//!
//! Single hosts (an address of IPv4; an address or a /64 of IPv6) stand in hash tables, networks of other lengths in tries: a
//! trie of 100,000 hosts takes ten times as long, for honest packets too (docs/adr/0019).
//! A change of a layout changes `VERSION`.

/// Changes with every layout here: maps of another version are never taken over.
pub const VERSION: u32 = 1;

/// Entries of each deny list: hosts of IPv4, networks of IPv4, hosts of IPv6, networks of IPv6.
pub const DENY_ENTRIES: usize = 100_000;
/// Entries of each allow list.
pub const ALLOW_ENTRIES: usize = 1024;
/// Sources whose connections are counted at once; the one that was seen longest ago makes room.
pub const RATE_ENTRIES: usize = 65_536;
/// How many expired denials may lie over one that holds: beyond, the packet passes until somebody sweeps.
pub const NESTED: u32 = 8;

/// Words of the front: four tags each. 512 KiB, so that it stays in a core's own cache.
pub const FRONT_WORDS: usize = 65_536;
/// Words behind these, for hosts whose own word is full: two addresses each. One host in sixty stands there.
pub const FRONT_SPARE: usize = 4096;
/// A host of IPv4 gets into the front when so many of its packets were dropped.
pub const FRONT_AFTER: u64 = 4;
/// Of packets that the front drops, one in so many goes on to the host's entry, and counts for all of them.
pub const FRONT_SAMPLE: u64 = 128;

/// An IPv4 network in a trie: the address in network byte order, and padding that aligns the value behind it.
pub type Key4 = [u32; 2];
/// An IPv6 network in a trie, in network byte order.
pub type Key6 = [u32; 4];

/// A host of IPv6: its address, or its /64 with the rest zero, in network byte order; then which of both (`64`, `128`).
pub type Host6 = [u32; 5];

/// Why a source is denied. Bytes in maps; the counters have the same order.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Cause {
    /// Somebody who operates the platform has said so.
    Operator = 0,
    /// It went on after its requests were refused for their rate.
    RateLimit = 1,
    /// Requests that no honest client sends: ambiguous framing, smuggled headers.
    Malformed = 2,
    /// TLS handshakes that fail, or ask for a name that nobody has.
    Handshake = 3,
    /// Credentials that are wrong again and again.
    Authentication = 4,
}

impl Cause {
    /// All of them, in the order of their bytes.
    pub const ALL: [Self; 5] = [
        Self::Operator,
        Self::RateLimit,
        Self::Malformed,
        Self::Handshake,
        Self::Authentication,
    ];

    /// From a byte of a map.
    #[must_use]
    pub fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.get(usize::from(byte)).copied()
    }

    /// From its word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|cause| cause.as_str() == word)
    }

    /// The word in metrics and for people.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::RateLimit => "rate-limit",
            Self::Malformed => "malformed",
            Self::Handshake => "handshake",
            Self::Authentication => "authentication",
        }
    }
}

/// What the shield counts, on each CPU. The first ones are those of `Cause`.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Count {
    /// Dropped: the source is denied.
    DeniedOperator = 0,
    DeniedRateLimit = 1,
    DeniedMalformed = 2,
    DeniedHandshake = 3,
    DeniedAuthentication = 4,
    /// Dropped: the source opens connections too fast.
    SynRate = 5,
    /// Passed: it would have been dropped, and is on the allow list.
    Allowed = 6,
    /// Passed: its denial has expired, and was not swept yet.
    Expired = 7,
    /// Passed: no IP packet that can be read. The shield is coarse; the stack knows what to do with it.
    Unreadable = 8,
    /// Dropped by the front: the source is denied and was dropped many times before.
    Front = 9,
}

impl Count {
    /// How many counters there are.
    pub const NUMBER: usize = 10;

    /// All of them, in the order of the counters.
    pub const ALL: [Self; Self::NUMBER] = [
        Self::DeniedOperator,
        Self::DeniedRateLimit,
        Self::DeniedMalformed,
        Self::DeniedHandshake,
        Self::DeniedAuthentication,
        Self::SynRate,
        Self::Allowed,
        Self::Expired,
        Self::Unreadable,
        Self::Front,
    ];

    /// True where the packet was dropped.
    #[must_use]
    pub const fn is_drop(self) -> bool {
        (self as u32) <= Self::SynRate as u32 || matches!(self, Self::Front)
    }

    /// The word in metrics and for people.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::DeniedOperator => "operator",
            Self::DeniedRateLimit => "rate-limit",
            Self::DeniedMalformed => "malformed",
            Self::DeniedHandshake => "handshake",
            Self::DeniedAuthentication => "authentication",
            Self::SynRate => "connection-rate",
            Self::Allowed => "allow-listed",
            Self::Expired => "expired",
            Self::Unreadable => "unreadable",
            Self::Front => "front",
        }
    }
}

/// A network that is denied.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Denial {
    /// Nanoseconds of the monotonic clock (`CLOCK_MONOTONIC`); 0 is never.
    pub expires: u64,
    /// Of the same clock.
    pub since: u64,
    /// Packets that were dropped for it.
    pub hits: u64,
    /// The length of its own prefix: by it, a shorter one below an expired one is found.
    pub length: u32,
    /// A `Cause`.
    pub cause: u8,
    pub padding: [u8; 3],
}

impl Denial {
    /// Does it hold at this moment?
    #[inline(always)]
    #[must_use]
    pub const fn holds(&self, now: u64) -> bool {
        self.expires == 0 || now < self.expires
    }
}

/// How fast a source may open connections, by the generic cell rate algorithm.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Nanoseconds between two connections in the long run; 0 turns the guard off.
    pub interval: u64,
    /// Nanoseconds that a source may be ahead: its burst.
    pub tolerance: u64,
    /// `EVERYTHING`, or the declared ports alone.
    pub scope: u32,
    pub padding: u32,
    /// Until when whoever sweeps has promised that no host in the front expires or is forgiven (nanoseconds of the monotonic
    /// clock). Afterwards nobody asks the front.
    pub front_until: u64,
}

impl Settings {
    /// A denied source's packets are dropped wherever they go; else at the declared ports only.
    pub const EVERYTHING: u32 = 1;

    /// From a rate and a burst; both at least one.
    #[must_use]
    pub const fn rate(per_second: u32, burst: u32) -> (u64, u64) {
        let per_second = if per_second == 0 { 1 } else { per_second };
        let interval = 1_000_000_000 / per_second as u64;
        let ahead = if burst == 0 { 0 } else { burst as u64 - 1 };
        (interval, interval * ahead)
    }
}

/// One source's connections.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bucket {
    /// When the next connection would be due (nanoseconds of the monotonic clock), had it kept to the rate.
    pub due: u64,
    /// Connections that were dropped.
    pub dropped: u64,
}

/// Where a host of IPv4 (in network byte order) stands in the front, and by which tag. Together they are the address: each of
/// the three steps can be undone, so that nobody else has both.
#[inline(always)]
#[must_use]
pub const fn front(address: u32) -> (u32, u16) {
    let mixed = u32::from_be(address).wrapping_mul(0x9e37_79b1);
    let mixed = (mixed ^ mixed >> 15).wrapping_mul(0x85eb_ca6b);
    (mixed >> 16, mixed as u16)
}

/// One in each of a word's four places.
const ONES: u64 = 0x0001_0001_0001_0001;

/// Has this word the tag? 0 stands for an empty place and is nobody's tag.
#[inline(always)]
#[must_use]
pub const fn front_has(word: u64, tag: u16) -> bool {
    // A place that is equal becomes zero, and only zero borrows into its own highest bit.
    let rest = word ^ (ONES * tag as u64);
    tag != 0 && rest.wrapping_sub(ONES) & !rest & (ONES << 15) != 0
}

/// The word with the tag; none where it has no place left.
#[must_use]
pub fn front_with(word: u64, tag: u16) -> Option<u64> {
    if tag == 0 {
        return None;
    }
    let free = [0, 16, 32, 48]
        .into_iter()
        .find(|at| (word >> at) as u16 == 0)?;
    Some(word | u64::from(tag) << free)
}

/// The word without the tag.
#[must_use]
pub fn front_without(word: u64, tag: u16) -> u64 {
    let places = [0, 16, 32, 48].into_iter();
    let kept = places.filter(|at| (word >> at) as u16 != tag);
    kept.fold(0, |rest, at| rest | word & 0xffff << at)
}

/// Where a host of IPv4 (in network byte order) stands when its own word is full, by its `front`.
#[inline(always)]
#[must_use]
pub const fn spare(tag: u16) -> u32 {
    // Hosts that share a word differ in the tag.
    FRONT_WORDS as u32 + (tag as u32 & (FRONT_SPARE as u32 - 1))
}

/// Has this spare word the address? 0 stands for an empty place and is nobody's address.
#[inline(always)]
#[must_use]
pub const fn spare_has(word: u64, address: u32) -> bool {
    address != 0 && (word as u32 == address || (word >> 32) as u32 == address)
}

/// The spare word with the address; none where it has no place left.
#[must_use]
pub fn spare_with(word: u64, address: u32) -> Option<u64> {
    if address == 0 {
        return None;
    }
    let free = [0, 32].into_iter().find(|at| (word >> at) as u32 == 0)?;
    Some(word | u64::from(address) << free)
}

/// The spare word without the address.
#[must_use]
pub fn spare_without(word: u64, address: u32) -> u64 {
    let kept = [0, 32]
        .into_iter()
        .filter(|at| (word >> at) as u32 != address);
    kept.fold(0, |rest, at| rest | word & 0xffff_ffff << at)
}

/// May one more connection be opened? The source's next due time if so.
#[inline(always)]
#[must_use]
pub const fn admit(due: u64, now: u64, settings: &Settings) -> Option<u64> {
    let start = if due > now { due } else { now };
    if start - now > settings.tolerance {
        return None;
    }
    Some(start + settings.interval)
}

const _: () = {
    assert!(size_of::<Denial>() == 32);
    assert!(size_of::<Settings>() == 32);
    assert!(size_of::<Bucket>() == 16);
    assert!(Cause::Authentication as u32 == Count::DeniedAuthentication as u32);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_and_counters_have_the_same_order() {
        for (cause, count) in Cause::ALL.into_iter().zip(Count::ALL) {
            assert_eq!(cause.as_str(), count.as_str());
            assert_eq!(Cause::from_byte(cause as u8), Some(cause));
            assert_eq!(Cause::from_word(cause.as_str()), Some(cause));
        }
        for (index, count) in Count::ALL.into_iter().enumerate() {
            assert_eq!(count as usize, index);
        }
        assert_eq!(Cause::from_byte(5), None);
    }

    #[test]
    fn a_burst_passes_at_once_and_the_rate_afterwards() {
        let (interval, tolerance) = Settings::rate(10, 5);
        let settings = Settings {
            interval,
            tolerance,
            ..Settings::default()
        };
        let mut due = 0;
        let mut passed = 0;
        // One try in each millisecond, for ten seconds.
        for millisecond in 0..10_000 {
            let now = 1_000_000_000 + millisecond * 1_000_000;
            if let Some(next) = admit(due, now, &settings) {
                due = next;
                passed += 1;
            }
        }
        assert_eq!(passed, 5 + 99);
    }

    #[test]
    fn the_front_knows_exactly_who_is_in_it() {
        let mut word = 0;
        for tag in [1, 0xffff, 0x8000, 7] {
            assert!(!front_has(word, tag));
            word = front_with(word, tag).unwrap();
            assert!(front_has(word, tag));
        }
        assert_eq!(front_with(word, 9), None, "it has four places");
        for tag in 0..=u16::MAX {
            let inside = [1, 0xffff, 0x8000, 7].contains(&tag);
            assert_eq!(front_has(word, tag), inside, "{tag:#x}");
        }
        word = front_without(word, 0x8000);
        assert!(!front_has(word, 0x8000) && front_has(word, 7) && front_has(word, 0xffff));
        assert!(front_has(front_with(word, 9).unwrap(), 9));
        assert_eq!(front_with(0, 0), None);
        let word = spare_with(spare_with(0, 7).unwrap(), u32::MAX).unwrap();
        assert!(spare_has(word, 7) && spare_has(word, u32::MAX));
        assert!(!spare_has(word, 0) && !spare_has(word, 8) && !spare_has(0, 0));
        assert_eq!(spare_with(word, 9), None, "it has two places");
        let word = spare_without(word, 7);
        assert!(!spare_has(word, 7) && spare_has(word, u32::MAX));
        assert_eq!(spare_without(word, u32::MAX), 0);
        assert_eq!(spare_with(0, 0), None);
        // No two addresses share place and tag: all steps are undone.
        for address in (0..u32::MAX).step_by(999_983) {
            let (word, tag) = front(address.to_be());
            let mixed = (word << 16 | u32::from(tag)).wrapping_mul(inverse(0x85eb_ca6b));
            let mixed = mixed ^ mixed >> 15 ^ mixed >> 30;
            assert_eq!(mixed.wrapping_mul(inverse(0x9e37_79b1)), address);
        }
    }

    /// Newton's iteration for odd numbers.
    fn inverse(odd: u32) -> u32 {
        (0..5).fold(odd, |guess: u32, _| {
            guess.wrapping_mul(2_u32.wrapping_sub(odd.wrapping_mul(guess)))
        })
    }

    #[test]
    fn a_denial_without_an_end_holds() {
        let mut denial = Denial {
            expires: 0,
            since: 5,
            hits: 0,
            length: 32,
            cause: 0,
            padding: [0; 3],
        };
        assert!(denial.holds(u64::MAX));
        denial.expires = 10;
        assert!(denial.holds(9) && !denial.holds(10));
    }
}
