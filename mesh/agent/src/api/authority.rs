//! Requests whose `:authority` is the path of the socket.
//!
//! Clients of gRPC's C core (Python, C++, Ruby) and of Netty call the socket's path, as it is or
//! percent-encoded, the authority of their requests. It is none (RFC 3986 §3.2.2), and h2 resets such a
//! stream (<https://github.com/hyperium/h2/pull/487>); but py-spiffe is one of these clients. So the
//! path becomes a name on the way in: what may not stand in one is replaced by `-`, byte for byte, since
//! HPACK (RFC 7541) counts by lengths. Nobody reads that name.
//!
//! Owns: finding that one value in HTTP/2's bytes. Must not: change anything else.

use std::ops::Range;

/// Preface of a client (RFC 9113 §3.4).
const PREFACE_BYTES: usize = 24;
/// Head of a frame (RFC 9113 §4.1).
const HEAD_BYTES: usize = 9;
/// Longest frame that is looked at: longer ones, h2 refuses (`SETTINGS_MAX_FRAME_SIZE`).
const MAX_FRAME_BYTES: usize = 16 * 1024;
const HEADERS: u8 = 1;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
/// In HPACK's static table.
const AUTHORITY_INDEX: usize = 1;
const AUTHORITY: &[u8] = b":authority";

/// The bytes of one connection, in the order in which they come.
pub(super) struct Rewriter {
    next: Next,
    /// The frame, or the head of one, that is not whole yet.
    held: Vec<u8>,
}

enum Next {
    /// So many bytes are passed on as they are.
    Pass(usize),
    /// The head of a frame.
    Head,
    /// A whole frame of so many bytes, with its head.
    Frame(usize),
}

impl Rewriter {
    pub(super) fn new() -> Self {
        Self {
            next: Next::Pass(PREFACE_BYTES),
            held: Vec::new(),
        }
    }

    /// Takes `input` and adds to `output` what can be passed on by now.
    pub(super) fn take(&mut self, mut input: &[u8], output: &mut Vec<u8>) {
        while !input.is_empty() {
            match self.next {
                Next::Pass(left) => {
                    let (now, rest) = input.split_at(left.min(input.len()));
                    output.extend_from_slice(now);
                    input = rest;
                    self.next = match left - now.len() {
                        0 => Next::Head,
                        left => Next::Pass(left),
                    };
                }
                Next::Head => {
                    if self.hold(&mut input, HEAD_BYTES) {
                        self.head(output);
                    }
                }
                Next::Frame(whole) => {
                    if self.hold(&mut input, whole) {
                        self.frame(output);
                    }
                }
            }
        }
    }

    /// Whether `whole` bytes are held now.
    fn hold(&mut self, input: &mut &[u8], whole: usize) -> bool {
        let missing = whole.saturating_sub(self.held.len());
        let (now, rest) = input.split_at(missing.min(input.len()));
        self.held.extend_from_slice(now);
        *input = rest;
        self.held.len() >= whole
    }

    fn head(&mut self, output: &mut Vec<u8>) {
        let (length, kind) = match self.held.as_slice() {
            [a, b, c, kind, ..] => (u32::from_be_bytes([0, *a, *b, *c]) as usize, *kind),
            _ => (0, 0),
        };
        if kind == HEADERS && (1..=MAX_FRAME_BYTES).contains(&length) {
            self.next = Next::Frame(HEAD_BYTES + length);
            return;
        }
        output.append(&mut self.held);
        self.next = match length {
            0 => Next::Head,
            length => Next::Pass(length),
        };
    }

    fn frame(&mut self, output: &mut Vec<u8>) {
        if let Some(authority) = authority(&self.held)
            && let Some(value) = self.held.get_mut(authority)
            && value.iter().any(|byte| matches!(byte, b'/' | b'%'))
        {
            for byte in value {
                if !matches!(byte, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'_' | b'-') {
                    *byte = b'-';
                }
            }
        }
        output.append(&mut self.held);
        self.next = Next::Head;
    }
}

/// Where the value of `:authority` stands in a HEADERS frame, if it stands there as plain text.
fn authority(frame: &[u8]) -> Option<Range<usize>> {
    let flags = *frame.get(4)?;
    let padding = usize::from(flags & PADDED != 0);
    let priority = if flags & PRIORITY != 0 { 5 } else { 0 };
    let mut block = Block {
        frame,
        at: HEAD_BYTES + padding + priority,
    };
    loop {
        // The forms of a field: RFC 7541 §6.
        let index = match *frame.get(block.at)? {
            0x80.. => {
                block.integer(7)?;
                continue;
            }
            0x40.. => block.integer(6)?,
            0x20.. => {
                block.integer(5)?;
                continue;
            }
            _ => block.integer(4)?,
        };
        let is_it = match index {
            0 => block
                .string()?
                .is_some_and(|name| frame.get(name) == Some(AUTHORITY)),
            index => index == AUTHORITY_INDEX,
        };
        let value = block.string()?;
        if is_it {
            return value;
        }
    }
}

/// A header block that is read from front to back.
struct Block<'a> {
    frame: &'a [u8],
    at: usize,
}

impl Block<'_> {
    /// An integer whose first byte has `bits` of it (RFC 7541 §5.1).
    fn integer(&mut self, bits: u32) -> Option<usize> {
        let most = (1_usize << bits) - 1;
        let mut value = usize::from(self.byte()?) & most;
        if value < most {
            return Some(value);
        }
        for shift in [0, 7, 14, 21] {
            let byte = usize::from(self.byte()?);
            value += (byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    /// Where a string stands (RFC 7541 §5.2); no place when it is Huffman-coded.
    fn string(&mut self) -> Option<Option<Range<usize>>> {
        let coded = self.frame.get(self.at)? & 0x80 != 0;
        let length = self.integer(7)?;
        let place = self.at..self.at.checked_add(length)?;
        self.at = place.end;
        Some((!coded).then_some(place))
    }

    fn byte(&mut self) -> Option<u8> {
        let byte = *self.frame.get(self.at)?;
        self.at += 1;
        Some(byte)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut frame = length[1..].to_vec();
        frame.extend([kind, flags, 0, 0, 0, 1]);
        frame.extend(payload);
        frame
    }

    /// As gRPC's C core writes it: `:path`, then the authority with its name in full.
    fn block(authority: &str) -> Vec<u8> {
        let mut block = b"@\x05:path\x02/s".to_vec();
        block.extend(b"@\x0a:authority");
        block.push(u8::try_from(authority.len()).unwrap());
        block.extend(authority.as_bytes());
        block.extend(b"\x83\x86@\x02te\x08trailers");
        block
    }

    fn rewritten(input: &[u8], step: usize) -> Vec<u8> {
        let (mut rewriter, mut output) = (Rewriter::new(), Vec::new());
        for part in input.chunks(step) {
            rewriter.take(part, &mut output);
        }
        output
    }

    #[test]
    fn a_path_becomes_a_name_of_the_same_length() {
        for (path, name) in [
            ("tmp%2F.a1%2Fagent.sock", "tmp-2F.a1-2Fagent.sock"),
            ("/run/ringwall/agent.sock", "-run-ringwall-agent.sock"),
            ("/run/a b:1", "-run-a-b-1"),
        ] {
            for (flags, before, after) in [
                (4, &b""[..], &b""[..]),
                (4 | PRIORITY, b"\x00\x00\x00\x00\x10", b""),
                (4 | PADDED, b"\x02", b"\x00\x00"),
            ] {
                let whole = |authority: &str| {
                    let payload = [before, &block(authority), after].concat();
                    let settings = frame(4, 0, b"\x00\x03\x00\x00\x00\x00");
                    let data = frame(0, 1, b"@\x0a:authority\x02/s");
                    [PREFACE, &settings, &frame(HEADERS, flags, &payload), &data].concat()
                };
                for step in [1, 7, 4096] {
                    assert_eq!(rewritten(&whole(path), step), whole(name), "{path} {flags}");
                }
            }
        }
    }

    #[test]
    fn the_name_may_come_from_the_static_table() {
        for first in [b"\x41", b"\x01", b"\x11"] {
            let whole = |value: &[u8]| {
                let block = [b"\x3f\xe1\x1f\x83", &first[..], b"\x02", value].concat();
                [PREFACE, &frame(HEADERS, 4, &block)].concat()
            };
            assert_eq!(rewritten(&whole(b"/s"), 64), whole(b"-s"));
        }
    }

    #[test]
    fn a_name_stays_as_it_is() {
        for name in ["localhost", "localhost:80", "[::1]:80", "workload-api"] {
            let whole = [PREFACE, &frame(HEADERS, 4, &block(name))].concat();
            assert_eq!(rewritten(&whole, 64), whole);
        }
    }

    proptest! {
        /// Whatever comes: nothing panics, nothing is lost but the frame that is not whole, and the
        /// same comes out however it was cut.
        #[test]
        fn bytes_are_passed_on_however_they_come(
            tail in proptest::collection::vec(any::<u8>(), 0..600), step in 1..64_usize
        ) {
            let payload = tail.iter().copied().take(90).collect::<Vec<u8>>();
            let whole = [PREFACE, &frame(HEADERS, 4, &payload), &tail].concat();
            let out = rewritten(&whole, step);
            prop_assert_eq!(&out, &rewritten(&whole, whole.len()));
            prop_assert!(out.len() <= whole.len());
            let same = out.iter().zip(&whole).all(|(out, was)| out == was || *out == b'-');
            prop_assert!(same);
        }
    }
}
