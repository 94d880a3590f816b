//! The edge shield: `xdp` and tc ingress drop what denied sources send, and what opens connections too fast.
//!
//! Both programs have one core. It is a coarse guard in front of the stack: what it cannot read, it lets pass. Sources are
//! looked up after the port, so that by default nothing but the gateway's listeners is touched; the allow list is asked
//! before anything is dropped. Only a SYN without ACK counts as a new connection: established ones are never slowed.
//! Its maps are its own, and are pinned: what is denied stays denied without the agent.

use aya_ebpf::bindings::{BPF_F_NO_PREALLOC, TC_ACT_SHOT, xdp_action};
use aya_ebpf::btf_maps::lpm_trie::Key;
use aya_ebpf::btf_maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray};
use aya_ebpf::helpers::{bpf_ktime_get_coarse_ns, bpf_ktime_get_ns, bpf_skb_load_bytes};
use aya_ebpf::macros::{btf_map, classifier, xdp};
use aya_ebpf::programs::{TcContext, XdpContext};
use core::ptr::{from_mut, from_ref};
use ringwall_ebpf_common::shield::{
    self, ALLOW_ENTRIES, Bucket, Count, DENY_ENTRIES, Denial, FRONT_SAMPLE, FRONT_SPARE,
    FRONT_WORDS, Host6, Key4, Key6, NESTED, RATE_ENTRIES, Settings,
};
use ringwall_ebpf_common::{Address, TCP, UDP};

#[btf_map]
static SHIELD_SETTINGS: Array<Settings, 1> = Array::new();
/// One bit for each port that the gateway listens at.
#[btf_map]
static SHIELD_PORTS: Array<u64, 1024> = Array::new();
/// Memory is taken as hosts are denied.
const SPARSE: usize = BPF_F_NO_PREALLOC as usize;
#[btf_map]
static SHIELD_HOSTS_4: HashMap<u32, Denial, DENY_ENTRIES, SPARSE> = HashMap::new();
#[btf_map]
static SHIELD_HOSTS_6: HashMap<Host6, Denial, DENY_ENTRIES, SPARSE> = HashMap::new();
#[btf_map]
static SHIELD_DENY_4: LpmTrie<Key4, Denial, DENY_ENTRIES> = LpmTrie::new();
#[btf_map]
static SHIELD_DENY_6: LpmTrie<Key6, Denial, DENY_ENTRIES> = LpmTrie::new();
#[btf_map]
static SHIELD_ALLOW_4: LpmTrie<Key4, u64, ALLOW_ENTRIES> = LpmTrie::new();
#[btf_map]
static SHIELD_ALLOW_6: LpmTrie<Key6, u64, ALLOW_ENTRIES> = LpmTrie::new();
/// Hosts of IPv4 that were dropped many times: four to a word (`shield::front`), and spare words behind them.
#[btf_map]
static SHIELD_FRONT: Array<u64, { FRONT_WORDS + FRONT_SPARE }> = Array::new();
/// By IPv4 address, or by the /64 that an IPv6 host has for itself.
#[btf_map]
static SHIELD_RATES: LruHashMap<Address, Bucket, RATE_ENTRIES> = LruHashMap::new();
#[btf_map]
static SHIELD_COUNTS: PerCpuArray<u64, { Count::NUMBER }> = PerCpuArray::new();

const ETHERNET: u32 = 14;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const VLAN: u16 = 0x8100;
const SERVICE_VLAN: u16 = 0x88a8;
/// A tag and one around it.
const VLANS: usize = 2;
/// Extension headers that are followed; honest clients of TCP send none.
const EXTENSIONS: usize = 6;
/// Where the last of them may begin.
const FARTHEST: u32 = 1024;

#[xdp(frags)]
pub fn rw_shield_xdp(context: XdpContext) -> u32 {
    if passes(&Driver(&context), context.data(), context.data_end()) {
        xdp_action::XDP_PASS
    } else {
        xdp_action::XDP_DROP
    }
}

#[classifier]
pub fn rw_shield_tc(context: TcContext) -> i32 {
    if passes(&Stack(&context), context.data(), context.data_end()) {
        // The next program at this interface goes on.
        -1
    } else {
        TC_ACT_SHOT as i32
    }
}

/// The bytes of a packet, from its Ethernet header on.
trait Frame {
    fn load<T: Copy + Default>(&self, offset: u32) -> Option<T>;
}

/// As the driver has them.
struct Driver<'a>(&'a XdpContext);

impl Frame for Driver<'_> {
    #[inline(always)]
    fn load<T: Copy + Default>(&self, offset: u32) -> Option<T> {
        let start = self.0.data() + offset as usize;
        if start + size_of::<T>() > self.0.data_end() {
            return None;
        }
        // SAFETY: the bytes are the packet's, as was just compared, and every pattern of them is a value of `T`.
        Some(unsafe { (start as *const T).read_unaligned() })
    }
}

/// As the stack has them, perhaps in several pieces.
struct Stack<'a>(&'a TcContext);

impl Frame for Stack<'_> {
    #[inline(always)]
    fn load<T: Copy + Default>(&self, offset: u32) -> Option<T> {
        let mut value = T::default();
        // SAFETY: as many bytes as the value has are written to it, and every pattern of them is one of its values.
        let read = unsafe {
            bpf_skb_load_bytes(
                self.0.skb.skb.cast(),
                offset,
                from_mut(&mut value).cast(),
                size_of::<T>() as u32,
            )
        };
        (read == 0).then_some(value)
    }
}

/// What matters of a packet's transport.
#[derive(Clone, Copy)]
struct Transport {
    /// It goes to a port that the gateway listens at.
    listener: bool,
    /// It opens a connection of TCP.
    opens: bool,
}

const OTHER: Transport = Transport {
    listener: false,
    opens: false,
};

/// What the front has said of a source.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Front {
    /// It was not asked.
    Unasked,
    /// It does not know it.
    Unknown,
    /// It is denied, and nobody needs to look further.
    Denied,
    /// The same, and its entry counts for all that were not looked at.
    Sampled,
}

#[inline(always)]
fn passes(frame: &impl Frame, start: usize, end: usize) -> bool {
    let Some(settings) = SHIELD_SETTINGS.get(0) else {
        return true;
    };
    let front = at_a_glance(start, end, settings);
    if front == Front::Denied {
        return false;
    }
    let passed = match network(frame) {
        Some((IPV4, offset)) => passes_4(frame, offset, settings, front),
        Some((IPV6, offset)) => passes_6(frame, offset, settings),
        Some(_) => return true,
        None => None,
    };
    passed.unwrap_or_else(|| {
        count(Count::Unreadable as u32);
        true
    })
}

/// Reads a number out of a packet as it stands there. In assembly: the compiler takes apart what may not be aligned, byte by
/// byte, and the verifier of every machine with a just-in-time compiler of ours (x86-64, arm64) lets it be.
macro_rules! peek {
    ($size:literal, $start:expr, $offset:literal) => {{
        let value: u64;
        // SAFETY: whoever asks has compared with the packet's end; the verifier has, too.
        unsafe {
            core::arch::asm!(
                concat!("{value} = *(", $size, " *)({start} + ", $offset, ")"),
                value = out(reg) value,
                start = in(reg) $start,
                options(readonly, nostack, preserves_flags),
            );
        }
        value
    }};
}

/// The front's word about a packet of the usual form: no tag, no options, no fragment, to a port that the gateway listens at.
/// Nearly all of a flood ends here, so that everything is read once and nothing is looked up that can be left out.
#[inline(always)]
fn at_a_glance(start: usize, end: usize, settings: &Settings) -> Front {
    // Up to the ports.
    if start + 38 > end {
        return Front::Unasked;
    }
    let usual = peek!("u16", start, 12) == u16::to_be(IPV4) as u64
        && peek!("u8", start, 14) == 0x45
        && peek!("u16", start, 20) & u16::to_be(0x1fff) as u64 == 0;
    let protocol = peek!("u8", start, 23) as u8;
    if !usual || (protocol != TCP && protocol != UDP) {
        return Front::Unasked;
    }
    if !is_listener(u16::from_be(peek!("u16", start, 36) as u16)) {
        return Front::Unasked;
    }
    front(peek!("u32", start, 26) as u32, settings)
}

#[inline(always)]
fn is_listener(port: u16) -> bool {
    let word = SHIELD_PORTS.get(port as u32 >> 6).copied().unwrap_or(0);
    word & (1 << (port & 63)) != 0
}

/// Which protocol begins where.
#[inline(always)]
fn network(frame: &impl Frame) -> Option<(u16, u32)> {
    let mut offset = ETHERNET;
    let mut kind: u16 = frame.load(offset - 2)?;
    for _ in 0..VLANS {
        let name = u16::from_be(kind);
        if name != VLAN && name != SERVICE_VLAN {
            break;
        }
        kind = frame.load(offset + 2)?;
        offset += 4;
    }
    Some((u16::from_be(kind), offset))
}

#[inline(always)]
fn passes_4(frame: &impl Frame, offset: u32, settings: &Settings, said: Front) -> Option<bool> {
    let header: [u32; 5] = frame.load(offset)?;
    let first = u32::from_be(header[0]);
    let length = ((first >> 24) & 0x0f) * 4;
    if first >> 28 != 4 || length < 20 {
        return None;
    }
    let fragment = u32::from_be(header[1]) & 0x1fff != 0;
    let protocol = (u32::from_be(header[2]) >> 16) as u8;
    let transport = if fragment {
        // Without its first fragment, which is judged, the stack makes nothing of it.
        OTHER
    } else {
        transport(frame, protocol, offset + length)?
    };
    if settings.scope != Settings::EVERYTHING && !transport.listener {
        return Some(true);
    }
    let source = header[3];
    let said = match said {
        Front::Unasked => front(source, settings),
        said => said,
    };
    let weight = match said {
        Front::Denied => return Some(false),
        Front::Sampled => FRONT_SAMPLE,
        Front::Unasked | Front::Unknown => 1,
    };
    let denial = denial_4(source);
    if denial.is_none() && !limited(transport, settings) {
        return Some(true);
    }
    let allowed = || SHIELD_ALLOW_4.get(&Key::new(32, [source, 0])).is_some();
    let host = Address::v4(source);
    Some(judge(denial, weight, transport, settings, host, allowed))
}

#[inline(always)]
fn passes_6(frame: &impl Frame, offset: u32, settings: &Settings) -> Option<bool> {
    let header: [u32; 10] = frame.load(offset)?;
    let first = u32::from_be(header[0]);
    if first >> 28 != 6 {
        return None;
    }
    let protocol = (u32::from_be(header[1]) >> 8) as u8;
    let transport = match extensions(frame, protocol, offset + 40)? {
        Some((protocol, offset)) => transport(frame, protocol, offset)?,
        None => OTHER,
    };
    if settings.scope != Settings::EVERYTHING && !transport.listener {
        return Some(true);
    }
    let source = [header[2], header[3], header[4], header[5]];
    let denial = denial_6(source);
    if denial.is_none() && !limited(transport, settings) {
        return Some(true);
    }
    let allowed = || SHIELD_ALLOW_6.get(&Key::new(128, source)).is_some();
    let host = Address([source[0], source[1], 0, 0]);
    Some(judge(denial, 1, transport, settings, host, allowed))
}

/// Where the transport begins behind the extension headers; none in it for a later fragment, or where there are too many.
#[inline(always)]
fn extensions(frame: &impl Frame, protocol: u8, offset: u32) -> Option<Option<(u8, u32)>> {
    const FRAGMENT: u8 = 44;
    const AUTHENTICATION: u8 = 51;
    let (mut protocol, mut offset) = (protocol, offset);
    for _ in 0..EXTENSIONS {
        match protocol {
            // Options for each hop, a route, options for the destination.
            0 | 43 | 60 => {
                let header: [u8; 2] = frame.load(offset)?;
                protocol = header[0];
                offset += (header[1] as u32 + 1) * 8;
            }
            AUTHENTICATION => {
                let header: [u8; 2] = frame.load(offset)?;
                protocol = header[0];
                offset += (header[1] as u32 + 2) * 4;
            }
            FRAGMENT => {
                let header: [u8; 4] = frame.load(offset)?;
                if u16::from_be_bytes([header[2], header[3]]) & 0xfff8 != 0 {
                    return Some(None);
                }
                protocol = header[0];
                offset += 8;
            }
            _ => return Some(Some((protocol, offset))),
        }
        if offset > FARTHEST {
            return Some(None);
        }
    }
    Some(None)
}

#[inline(always)]
fn transport(frame: &impl Frame, protocol: u8, offset: u32) -> Option<Transport> {
    if protocol != TCP && protocol != UDP {
        return Some(OTHER);
    }
    let ports: [u16; 2] = frame.load(offset)?;
    let port = u16::from_be(ports[1]);
    let listener = is_listener(port);
    // A first fragment that ends before the flags hides them from filters (RFC 1858 §3): it counts as a SYN.
    let opens = listener
        && protocol == TCP
        && match frame.load::<u8>(offset + 13) {
            Some(flags) => flags & 0x12 == 0x02,
            None => true,
        };
    Some(Transport { listener, opens })
}

#[inline(always)]
fn limited(transport: Transport, settings: &Settings) -> bool {
    transport.opens && settings.interval != 0
}

/// True where it passes.
#[inline(always)]
fn judge(
    denial: Option<&Denial>,
    weight: u64,
    transport: Transport,
    settings: &Settings,
    source: Address,
    allowed: impl Fn() -> bool,
) -> bool {
    if let Some(denial) = denial {
        if allowed() {
            count(Count::Allowed as u32);
            return true;
        }
        add(&denial.hits, weight);
        if weight == 1 {
            count(denial.cause as u32);
        }
        return false;
    }
    if !limited(transport, settings) || within_rate(source, settings, &allowed) {
        return true;
    }
    count(Count::SynRate as u32);
    false
}

/// Racing CPUs may let a few more through. What is on the allow list is not counted as dropped.
#[inline(always)]
fn within_rate(source: Address, settings: &Settings, allowed: &impl Fn() -> bool) -> bool {
    let now = now();
    if let Some(bucket) = SHIELD_RATES.get_ptr_mut(source) {
        // SAFETY: the entry stays allocated while this program runs.
        let bucket = unsafe { &mut *bucket };
        if let Some(due) = shield::admit(bucket.due, now, settings) {
            bucket.due = due;
            return true;
        }
        if allowed() {
            count(Count::Allowed as u32);
            return true;
        }
        bucket.dropped += 1;
        return false;
    }
    let first = Bucket {
        due: now + settings.interval,
        dropped: 0,
    };
    // The table makes room by itself; where it cannot, the gateway's own limits are still there.
    let _ = SHIELD_RATES.insert(source, first, 0);
    true
}

/// Is it a host that is known to be denied, without looking at its entry? Most packets of a flood end here.
#[inline(always)]
fn front(source: u32, settings: &Settings) -> Front {
    let (own, tag) = shield::front(source);
    let word = |index| SHIELD_FRONT.get(index).copied().unwrap_or(0);
    let known =
        shield::front_has(word(own), tag) || shield::spare_has(word(shield::spare(tag)), source);
    // SAFETY: takes no pointer.
    if !known || unsafe { bpf_ktime_get_coarse_ns() } >= settings.front_until {
        return Front::Unknown;
    }
    if count(Count::Front as u32) & (FRONT_SAMPLE - 1) == 0 {
        Front::Sampled
    } else {
        Front::Denied
    }
}

/// The longest prefix that is denied now. An expired one does not hide a shorter one that holds.
#[inline(always)]
fn denial_4(source: u32) -> Option<&'static Denial> {
    // SAFETY: entries are freed after a grace period that this program's run is part of.
    let host = unsafe { SHIELD_HOSTS_4.get(source) };
    if let Some(host) = holding(host) {
        return Some(host);
    }
    let mut length = 31;
    for _ in 0..NESTED {
        let denial = SHIELD_DENY_4.get(&Key::new(length, [source, 0]))?;
        if let Some(shorter) = beyond(denial)? {
            length = shorter;
            continue;
        }
        return Some(denial);
    }
    None
}

#[inline(always)]
fn denial_6(source: Key6) -> Option<&'static Denial> {
    let [first, second, third, fourth] = source;
    for key in [
        [first, second, 0, 0, 64],
        [first, second, third, fourth, 128],
    ] {
        // SAFETY: as above.
        let host = unsafe { SHIELD_HOSTS_6.get(key) };
        if let Some(host) = holding(host) {
            return Some(host);
        }
    }
    let mut length = 127;
    for _ in 0..NESTED {
        let denial = SHIELD_DENY_6.get(&Key::new(length, source))?;
        if let Some(shorter) = beyond(denial)? {
            length = shorter;
            continue;
        }
        return Some(denial);
    }
    None
}

#[inline(always)]
fn holding(denial: Option<&'static Denial>) -> Option<&'static Denial> {
    let denial = denial?;
    if denial.expires == 0 || denial.holds(now()) {
        return Some(denial);
    }
    count(Count::Expired as u32);
    None
}

/// Nothing more to ask where it holds (`Some(None)`); else the next shorter prefix, or none where there is no shorter one.
#[inline(always)]
fn beyond(denial: &Denial) -> Option<Option<u32>> {
    if denial.expires == 0 || denial.holds(now()) {
        return Some(None);
    }
    count(Count::Expired as u32);
    if denial.length == 0 {
        return None;
    }
    Some(Some(denial.length - 1))
}

#[inline(always)]
fn now() -> u64 {
    // SAFETY: takes no pointer.
    unsafe { bpf_ktime_get_ns() }
}

/// CPUs count into one entry together. In assembly: the target has this one atomic operation, and the library wants more.
#[inline(always)]
fn add(hits: &u64, more: u64) {
    // SAFETY: the entry is the map's and stays allocated while this program runs; it is aligned, as its key is padded for.
    unsafe {
        core::arch::asm!(
            "lock *(u64 *)({hits} + 0) += {more}",
            hits = in(reg) from_ref(hits),
            more = in(reg) more,
            options(nostack, preserves_flags),
        );
    }
}

/// One more of it, on this CPU: how many that makes.
#[inline(always)]
fn count(index: u32) -> u64 {
    let Some(counter) = SHIELD_COUNTS.get_ptr_mut(index) else {
        return 0;
    };
    // SAFETY: the counter is this CPU's, and receiving is not interrupted by receiving.
    unsafe {
        *counter = (*counter).wrapping_add(1);
        *counter
    }
}
