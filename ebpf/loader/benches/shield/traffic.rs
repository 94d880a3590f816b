//! Who sends: a socket of the peer, or frames as a network card's driver has them.
//!
//! A socket's frame has been made into the kernel's form of a packet before it comes to the veth, as a container's has. A
//! card's has not: there the driver's XDP comes before that, and nftables after. `BPF_PROG_TEST_RUN` with live frames sends
//! the second kind: a small program puts a source into each and redirects it to the veth.

use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::libc;
use nix::sched::{CloneFlags, setns};

use crate::ENTRIES;
use crate::network::{CORE, Network, RECEIVER, SENDER, pin};

/// Frames in one call.
const BATCH: usize = 256;
/// Frames that are prepared.
const PREPARED: usize = 64 * 1024;
const LENGTH: usize = 60;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Traffic {
    Card,
    Socket,
}

/// The listed source of this number: spread over 11.0.0.0/8, so that the list is no run of neighbours.
pub(crate) fn source(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(FIRST + number * STRIDE)
}

const FIRST: u32 = 0x0b00_0000;
const STRIDE: u32 = 167;

impl Traffic {
    pub(crate) const ALL: [Self; 2] = [Self::Card, Self::Socket];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Card => "frames as from a card",
            Self::Socket => "frames of a socket",
        }
    }

    /// Batches are received as soon as they are sent. A socket's frames come one by one: received at once, each would cost a
    /// change of threads, which is no part of dropping.
    pub(crate) const fn in_batches(self) -> bool {
        matches!(self, Self::Card)
    }

    /// Sends for so long; how many frames it were.
    pub(crate) fn start(self, network: &Network, lasts: Duration) -> JoinHandle<u64> {
        let sender = network.sender();
        std::thread::spawn(move || {
            setns(sender, CloneFlags::CLONE_NEWNET).unwrap();
            pin(0, CORE);
            match self {
                Self::Socket => from_socket(Instant::now() + lasts),
                Self::Card => from_card(Instant::now() + lasts),
            }
        })
    }
}

/// A SYN to the gateway. Whatever the source is, the header's identification makes up for it in the checksum.
fn frame(source: Ipv4Addr) -> [u8; LENGTH] {
    let mut frame = [0; LENGTH];
    frame[..6].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
    frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 2]);
    frame[12..16].copy_from_slice(&[8, 0, 0x45, 0]);
    frame[16..18].copy_from_slice(&46_u16.to_be_bytes());
    frame[22..24].copy_from_slice(&[64, 6]);
    frame[30..34].copy_from_slice(&[10, 200, 0, 1]);
    frame[34..38].copy_from_slice(&[0x9c, 0x40, 0x20, 0xfb]);
    frame[46] = 5 << 4;
    frame[47] = 2;
    let bits = source.to_bits();
    frame[26..30].copy_from_slice(&bits.to_be_bytes());
    let sum = (bits >> 16) + (bits & 0xffff);
    let sum = (sum & 0xffff) + (sum >> 16);
    frame[18..20].copy_from_slice(&(0xffff - sum as u16).to_be_bytes());
    let words = frame[14..34].chunks(2);
    let sum: u32 = words
        .map(|word| u32::from(word[0]) << 8 | u32::from(word[1]))
        .sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame
}

/// The port in the frames: 8443.
pub(crate) const PORT: u16 = 0x20fb;

fn from_socket(end: Instant) -> u64 {
    let mut random = 88_172_645_463_325_252_u64;
    let mut frames: Vec<[u8; LENGTH]> = (0..PREPARED)
        .map(|_| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            frame(source((random % u64::from(ENTRIES)) as u32))
        })
        .collect();
    let socket = socket2::Socket::new(socket2::Domain::PACKET, socket2::Type::RAW, None).unwrap();
    let mut to: libc::sockaddr_ll = {
        // SAFETY: integers alone, for which zero is a value.
        unsafe { std::mem::zeroed() }
    };
    to.sll_family = libc::AF_PACKET as u16;
    to.sll_ifindex = nix::net::if_::if_nametoindex(SENDER).unwrap() as i32;
    let mut pieces: Vec<libc::iovec> = frames
        .iter_mut()
        .map(|frame| libc::iovec {
            iov_base: frame.as_mut_ptr().cast(),
            iov_len: LENGTH,
        })
        .collect();
    let mut messages: Vec<libc::mmsghdr> = pieces
        .iter_mut()
        .map(|piece| {
            // SAFETY: integers and pointers, for which zero is a value.
            let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
            message.msg_hdr.msg_name = (&raw mut to).cast();
            message.msg_hdr.msg_namelen = size_of::<libc::sockaddr_ll>() as u32;
            message.msg_hdr.msg_iov = piece;
            message.msg_hdr.msg_iovlen = 1;
            message
        })
        .collect();
    let mut sent = 0;
    while Instant::now() < end {
        for batch in messages.chunks_mut(BATCH) {
            // SAFETY: the messages, their pieces and the frames outlive the call.
            let done =
                unsafe { libc::sendmmsg(socket.as_raw_fd(), batch.as_mut_ptr(), BATCH as u32, 0) };
            sent += u64::try_from(done).unwrap_or(0);
            if Instant::now() >= end {
                break;
            }
        }
    }
    sent
}

/// `struct bpf_attr` for `BPF_PROG_LOAD`, as far as it is used.
#[repr(C)]
#[derive(Default)]
struct Load {
    kind: u32,
    instructions: u32,
    code: u64,
    license: u64,
    log: [u32; 2],
    log_buffer: u64,
    rest: [u64; 12],
}

/// The same for `BPF_PROG_TEST_RUN`.
#[repr(C)]
#[derive(Default)]
struct TestRun {
    program: u32,
    result: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    context: [u32; 2],
    context_in: u64,
    context_out: u64,
    flags: u32,
    cpu: u32,
    batch: u32,
    padding: u32,
}

/// `struct bpf_attr` for `BPF_LINK_CREATE`.
#[repr(C)]
#[derive(Default)]
struct Link {
    program: u32,
    interface: u32,
    kind: u32,
    flags: u32,
    rest: [u64; 8],
}

/// A program that drops everything, in the receiving end's driver. Both descriptors close with it.
pub(crate) struct Drops(Vec<u32>);

impl Drops {
    pub(crate) fn attach() -> Self {
        // return XDP_DROP
        let program = load(&[0x0000_0001_0000_00b7, 0x95]);
        let link = Link {
            program,
            interface: nix::net::if_::if_nametoindex(RECEIVER).unwrap(),
            // `BPF_XDP`, `XDP_FLAGS_DRV_MODE`.
            kind: 37,
            flags: 1 << 2,
            ..Link::default()
        };
        Self(vec![bpf(28, &link), program])
    }

    pub(crate) fn detach(&mut self) {
        for descriptor in self.0.drain(..) {
            // SAFETY: the descriptor is ours, and nobody else has it.
            unsafe { libc::close(descriptor as i32) };
        }
    }
}

fn load(code: &[u64]) -> u32 {
    let load = Load {
        // `BPF_PROG_TYPE_XDP`.
        kind: 6,
        instructions: code.len() as u32,
        code: code.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        ..Load::default()
    };
    bpf(5, &load)
}

fn from_card(end: Instant) -> u64 {
    /// `BPF_F_TEST_XDP_LIVE_FRAMES`.
    const LIVE: u32 = 1 << 1;
    const REPEAT: u32 = 16 * 1024;
    let code = redirection(nix::net::if_::if_nametoindex(SENDER).unwrap());
    let program = load(&code);
    let data = frame(source(0));
    let run = TestRun {
        program,
        data_size_in: LENGTH as u32,
        data_in: data.as_ptr() as u64,
        repeat: REPEAT,
        flags: LIVE,
        batch: BATCH as u32,
        ..TestRun::default()
    };
    let mut sent = 0;
    while Instant::now() < end {
        bpf(10, &run);
        sent += u64::from(REPEAT);
    }
    // SAFETY: the descriptor is ours, and nobody else has it.
    unsafe { libc::close(program as i32) };
    sent
}

fn bpf<T>(command: libc::c_long, attribute: &T) -> u32 {
    let (at, size) = (std::ptr::from_ref(attribute), size_of::<T>());
    // SAFETY: the attribute is a plain structure of the given size, and what it points to outlives the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, at, size) };
    assert!(
        result >= 0,
        "{command}: {}",
        std::io::Error::last_os_error()
    );
    result as u32
}

/// Puts one of the listed sources into the frame, its counterpart into the identification, and sends it off.
fn redirection(interface: u32) -> Vec<u64> {
    let op = |code: u8, to: u8, from: u8, offset: i16, value: i32| {
        u64::from(code)
            | u64::from(to | from << 4) << 8
            | u64::from(offset as u16) << 16
            | u64::from(value as u32) << 32
    };
    vec![
        op(0xbf, 6, 1, 0, 0),                // r6 = context
        op(0x85, 0, 0, 0, 7),                // r0 = bpf_get_prandom_u32()
        op(0xbf, 7, 0, 0, 0),                // r7 = r0
        op(0x97, 7, 0, 0, ENTRIES as i32),   // r7 %= ENTRIES
        op(0x27, 7, 0, 0, STRIDE as i32),    // r7 *= STRIDE
        op(0x07, 7, 0, 0, FIRST as i32),     // r7 += FIRST
        op(0x61, 2, 6, 0, 0),                // r2 = data
        op(0x61, 3, 6, 4, 0),                // r3 = data_end
        op(0xbf, 4, 2, 0, 0),                // r4 = r2
        op(0x07, 4, 0, 0, LENGTH as i32),    // r4 += LENGTH
        op(0x2d, 4, 3, 18, 0),               // if r4 > r3: the end
        op(0xbf, 5, 7, 0, 0),                // r5 = r7
        op(0x77, 5, 0, 0, 16),               // r5 >>= 16
        op(0xbf, 4, 7, 0, 0),                // r4 = r7
        op(0x57, 4, 0, 0, 0xffff),           // r4 &= 0xffff
        op(0x0f, 5, 4, 0, 0),                // r5 += r4
        op(0xbf, 4, 5, 0, 0),                // r4 = r5
        op(0x77, 4, 0, 0, 16),               // r4 >>= 16
        op(0x57, 5, 0, 0, 0xffff),           // r5 &= 0xffff
        op(0x0f, 5, 4, 0, 0),                // r5 += r4: the carry
        op(0xb7, 4, 0, 0, 0xffff),           // r4 = 0xffff
        op(0x1f, 4, 5, 0, 0),                // r4 -= r5
        op(0xdc, 4, 0, 0, 16),               // r4 = be16(r4)
        op(0x6b, 2, 4, 18, 0),               // identification
        op(0xdc, 7, 0, 0, 32),               // r7 = be32(r7)
        op(0x63, 2, 7, 26, 0),               // source
        op(0xb7, 1, 0, 0, interface as i32), // r1 = interface
        op(0xb7, 2, 0, 0, 0),                // r2 = 0
        op(0x85, 0, 0, 0, 23),               // r0 = bpf_redirect()
        op(0x95, 0, 0, 0, 0),                // return r0
    ]
}
