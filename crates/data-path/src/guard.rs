//! Byte-level strictness for HTTP/1.1: what hyper's parser forgives, this does not.
//!
//! Owns: reading the framing of a connection a second time, before hyper sees it, and refusing what two
//! parsers could understand differently: Content-Length beside Transfer-Encoding, a repeated Content-Length,
//! any transfer coding but `chunked`, a repeated Host, bare LF, obs-fold, and lax chunk framing
//! (RFC 9112 §2.2, §3.2, §5.2, §6.1, §6.3, §7.1). hyper 1.12 drops the Content-Length of such a message and goes
//! on, and httparse takes a bare LF for a line end, so neither is visible in the parsed request.
//! Must not: touch sockets, know routes, or rewrite bytes. Next: `io.rs`, which feeds it every byte read.

/// Total bytes that chunk extensions and trailers of one message may take.
const MAX_CHUNK_META: usize = 8 * 1024;

/// Why a connection's bytes were refused. The text is the `refusal` of the access log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Violation {
    BareLf,
    ObsFold,
    LengthAndEncoding,
    RepeatedLength,
    InvalidLength,
    TransferEncoding,
    RepeatedHost,
    HeadTooLarge,
    ChunkFraming,
}

impl Violation {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BareLf => "bare-lf",
            Self::ObsFold => "obs-fold",
            Self::LengthAndEncoding => "content-length-with-transfer-encoding",
            Self::RepeatedLength => "repeated-content-length",
            Self::InvalidLength => "invalid-content-length",
            Self::TransferEncoding => "transfer-encoding-not-chunked",
            Self::RepeatedHost => "repeated-host",
            Self::HeadTooLarge => "head-too-large",
            Self::ChunkFraming => "chunk-framing",
        }
    }
}

/// A violation and where in the inspected bytes the offending message begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offence {
    pub violation: Violation,
    /// Bytes before this offset belong to sound messages and may be passed on; `None` when the
    /// offending message began in an earlier read.
    pub message_start: Option<usize>,
}

/// The framing of one HTTP/1.1 connection, as far as it was read.
#[derive(Debug)]
pub struct HeadGuard {
    state: State,
    scan: HeadScan,
    /// The head's bytes so far, only when it did not arrive in one read.
    partial: Vec<u8>,
    max_head: usize,
}

#[derive(Debug)]
enum State {
    Head,
    Length(u64),
    Chunked(Chunks),
}

impl HeadGuard {
    /// `max_head` is a second fence: hyper answers 431 at its own, lower limit.
    pub fn new(max_head: usize) -> Self {
        Self {
            state: State::Head,
            scan: HeadScan::default(),
            partial: Vec::new(),
            max_head,
        }
    }

    /// Whether the last byte read belongs to an unfinished head.
    pub fn head_is_partial(&self) -> bool {
        !self.partial.is_empty()
    }

    /// Whether more bytes of a message body are due.
    pub fn in_body(&self) -> bool {
        !matches!(self.state, State::Head)
    }

    /// Follows `bytes`, the next bytes of the connection.
    pub fn inspect(&mut self, bytes: &[u8]) -> Result<(), Offence> {
        let mut at = 0;
        let mut message_start = (!self.in_body() && self.partial.is_empty()).then_some(0);
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            let step = match &mut self.state {
                State::Head => {
                    if self.partial.is_empty() {
                        message_start = Some(at);
                    }
                    self.head(rest)
                }
                State::Length(due) => Ok(skip(due, rest.len())),
                State::Chunked(chunks) => chunks.advance(rest),
            };
            at += step.map_err(|violation| Offence {
                violation,
                message_start,
            })?;
            let ended = match &self.state {
                State::Head => false,
                State::Length(due) => *due == 0,
                State::Chunked(chunks) => chunks.ended(),
            };
            if ended {
                self.state = State::Head;
            }
        }
        Ok(())
    }

    /// Reads head bytes; returns how many of `rest` it took.
    fn head(&mut self, rest: &[u8]) -> Result<usize, Violation> {
        let (end, before) = if self.partial.is_empty() {
            (self.scan.advance(rest)?, 0)
        } else {
            let before = self.partial.len();
            self.partial.extend_from_slice(rest);
            (self.scan.advance(&self.partial)?, before)
        };
        let Some(end) = end else {
            if self.partial.is_empty() {
                self.partial.extend_from_slice(rest);
            }
            if self.partial.len() > self.max_head {
                return Err(Violation::HeadTooLarge);
            }
            return Ok(rest.len());
        };
        self.state = self.scan.framing()?;
        self.scan = HeadScan::default();
        self.partial = Vec::new();
        Ok(end - before)
    }
}

/// Takes up to `due` of `available` bytes.
fn skip(due: &mut u64, available: usize) -> usize {
    let taken = usize::try_from(*due).map_or(available, |due| due.min(available));
    *due -= taken as u64;
    taken
}

/// What matters of one head, gathered line by line; resumable, so that a head that trickles in costs linear time.
#[derive(Debug, Default)]
struct HeadScan {
    line_start: usize,
    searched: usize,
    saw_request_line: bool,
    length: Option<u64>,
    chunked: bool,
    saw_host: bool,
}

impl HeadScan {
    /// Follows the head in `buf` (all of it so far); `Some(end)` once the empty line has come.
    fn advance(&mut self, buf: &[u8]) -> Result<Option<usize>, Violation> {
        while let Some(found) = buf
            .get(self.searched..)
            .and_then(|rest| rest.iter().position(|byte| *byte == b'\n'))
        {
            let newline = self.searched + found;
            let line = buf.get(self.line_start..newline).unwrap_or_default();
            let line = line.strip_suffix(b"\r").ok_or(Violation::BareLf)?;
            self.searched = newline + 1;
            self.line_start = newline + 1;
            if line.is_empty() {
                // RFC 9112 §2.2: empty lines before the request line are ignored.
                if self.saw_request_line {
                    return Ok(Some(newline + 1));
                }
            } else if self.saw_request_line {
                self.field(line)?;
            } else {
                self.saw_request_line = true;
            }
        }
        self.searched = buf.len();
        Ok(None)
    }

    fn field(&mut self, line: &[u8]) -> Result<(), Violation> {
        match line.first() {
            Some(b' ' | b'\t') => Err(Violation::ObsFold),
            Some(b'c' | b'C') => value_of(line, b"content-length").map_or(Ok(()), |value| {
                if self.length.is_some() {
                    return Err(Violation::RepeatedLength);
                }
                self.length = Some(parse_length(value).ok_or(Violation::InvalidLength)?);
                Ok(())
            }),
            Some(b't' | b'T') => value_of(line, b"transfer-encoding").map_or(Ok(()), |value| {
                if self.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(Violation::TransferEncoding);
                }
                self.chunked = true;
                Ok(())
            }),
            Some(b'h' | b'H') => value_of(line, b"host").map_or(Ok(()), |_| {
                if self.saw_host {
                    return Err(Violation::RepeatedHost);
                }
                self.saw_host = true;
                Ok(())
            }),
            _ => Ok(()),
        }
    }

    fn framing(&self) -> Result<State, Violation> {
        match (self.length, self.chunked) {
            (Some(_), true) => Err(Violation::LengthAndEncoding),
            (_, true) => Ok(State::Chunked(Chunks::default())),
            (Some(length), false) if length > 0 => Ok(State::Length(length)),
            _ => Ok(State::Head),
        }
    }
}

/// The field's value without surrounding whitespace, if its name is `name`. A blank before the colon is
/// httparse's to refuse; here it counts as the name, so that the two cannot disagree on framing.
fn value_of<'line>(line: &'line [u8], name: &[u8]) -> Option<&'line [u8]> {
    let (head, rest) = line.split_at_checked(name.len())?;
    if !head.eq_ignore_ascii_case(name) {
        return None;
    }
    let rest = rest.trim_ascii_start();
    rest.strip_prefix(b":").map(<[u8]>::trim_ascii)
}

/// RFC 9110 §8.6: `1*DIGIT` and nothing else.
fn parse_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok()
}

/// RFC 9112 §7.1, without the whitespace that hyper forgives around a chunk size.
#[derive(Debug, Default)]
struct Chunks {
    at: ChunkAt,
    due: u64,
    digits: u8,
    meta: usize,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum ChunkAt {
    #[default]
    Size,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    TrailerStart,
    Trailer,
    TrailerLf,
    EndLf,
    End,
}

impl Chunks {
    fn ended(&self) -> bool {
        self.at == ChunkAt::End
    }

    fn advance(&mut self, bytes: &[u8]) -> Result<usize, Violation> {
        let mut at = 0;
        while let Some(byte) = bytes.get(at) {
            if self.at == ChunkAt::Data {
                at += skip(&mut self.due, bytes.len() - at);
                if self.due == 0 {
                    self.at = ChunkAt::DataCr;
                }
                continue;
            }
            self.at = self.step(*byte)?;
            at += 1;
            if self.ended() {
                break;
            }
        }
        Ok(at)
    }

    fn step(&mut self, byte: u8) -> Result<ChunkAt, Violation> {
        match (self.at, byte) {
            (ChunkAt::Size, _) if byte.is_ascii_hexdigit() && self.digits < 15 => {
                self.digits += 1;
                let digit = char::from(byte).to_digit(16).unwrap_or(0);
                self.due = self.due * 16 + u64::from(digit);
                Ok(ChunkAt::Size)
            }
            (ChunkAt::Size, b';') if self.digits > 0 => self.meta(ChunkAt::Extension),
            (ChunkAt::Size, b'\r') if self.digits > 0 => Ok(ChunkAt::SizeLf),
            (ChunkAt::Extension, b'\r') => Ok(ChunkAt::SizeLf),
            (ChunkAt::Extension, b'\n') => Err(Violation::ChunkFraming),
            (ChunkAt::Extension, _) => self.meta(ChunkAt::Extension),
            (ChunkAt::SizeLf, b'\n') => {
                self.digits = 0;
                Ok(if self.due == 0 {
                    ChunkAt::TrailerStart
                } else {
                    ChunkAt::Data
                })
            }
            (ChunkAt::DataCr, b'\r') => Ok(ChunkAt::DataLf),
            (ChunkAt::DataLf, b'\n') => Ok(ChunkAt::Size),
            (ChunkAt::TrailerStart, b'\r') => Ok(ChunkAt::EndLf),
            (ChunkAt::TrailerStart, b' ' | b'\t' | b'\n') => Err(Violation::ChunkFraming),
            (ChunkAt::TrailerStart, _) => self.meta(ChunkAt::Trailer),
            (ChunkAt::Trailer, b'\r') => Ok(ChunkAt::TrailerLf),
            (ChunkAt::Trailer, b'\n') => Err(Violation::ChunkFraming),
            (ChunkAt::Trailer, _) => self.meta(ChunkAt::Trailer),
            (ChunkAt::TrailerLf, b'\n') => Ok(ChunkAt::TrailerStart),
            (ChunkAt::EndLf, b'\n') => Ok(ChunkAt::End),
            _ => Err(Violation::ChunkFraming),
        }
    }

    fn meta(&mut self, next: ChunkAt) -> Result<ChunkAt, Violation> {
        self.meta += 1;
        if self.meta > MAX_CHUNK_META {
            Err(Violation::ChunkFraming)
        } else {
            Ok(next)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn inspect_all(bytes: &[u8]) -> Result<(), Violation> {
        HeadGuard::new(64 * 1024)
            .inspect(bytes)
            .map_err(|offence| offence.violation)
    }

    const SOUND: &[&[u8]] = &[
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n\n\n\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n3\r\n\n\n\n\r\n0\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\ntransfer-encoding: chunked\r\n\r\n1;x=y\r\na\r\n0\r\ntrailer: b\r\n\r\n",
    ];

    #[test]
    fn sound_messages_pass_in_one_piece_and_byte_by_byte() {
        for bytes in SOUND {
            assert_eq!(inspect_all(bytes), Ok(()));
            let mut guard = HeadGuard::new(64 * 1024);
            for byte in *bytes {
                assert_eq!(guard.inspect(&[*byte]), Ok(()));
            }
            assert!(!guard.head_is_partial() && !guard.in_body());
        }
    }

    #[test]
    fn ambiguous_framing_is_refused() {
        let cases: &[(&str, Violation)] = &[
            (
                "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n",
                Violation::LengthAndEncoding,
            ),
            (
                "Transfer-Encoding: chunked\r\nContent-Length: 1\r\n",
                Violation::LengthAndEncoding,
            ),
            (
                "Content-Length: 1\r\nContent-Length: 1\r\n",
                Violation::RepeatedLength,
            ),
            ("Content-Length: +1\r\n", Violation::InvalidLength),
            ("Content-Length: 1, 1\r\n", Violation::InvalidLength),
            ("Content-Length:\r\n", Violation::InvalidLength),
            (
                "Content-Length: 99999999999999999999\r\n",
                Violation::InvalidLength,
            ),
            (
                "Transfer-Encoding: gzip, chunked\r\n",
                Violation::TransferEncoding,
            ),
            (
                "Transfer-Encoding: xchunked\r\n",
                Violation::TransferEncoding,
            ),
            (
                "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
                Violation::TransferEncoding,
            ),
            (
                "Transfer-Encoding:\tidentity\r\n",
                Violation::TransferEncoding,
            ),
            (
                "Transfer-Encoding : xchunked\r\n",
                Violation::TransferEncoding,
            ),
            ("Host: b\r\n", Violation::RepeatedHost),
            ("X: a\r\n b\r\n", Violation::ObsFold),
            ("X: a\n", Violation::BareLf),
        ];
        for (fields, expected) in cases {
            let message = format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
            assert_eq!(
                inspect_all(message.as_bytes()),
                Err(*expected),
                "{fields:?}"
            );
            let mut guard = HeadGuard::new(64 * 1024);
            let split = message.bytes().try_for_each(|byte| guard.inspect(&[byte]));
            assert_eq!(
                split.map_err(|offence| offence.violation),
                Err(*expected),
                "{fields:?}"
            );
        }
    }

    #[test]
    fn lax_chunks_are_refused() {
        for chunks in [
            "1 \r\na\r\n0\r\n\r\n",
            "1\na\r\n0\r\n\r\n",
            "\r\n",
            "g\r\n",
            "-1\r\n",
            "0x1\r\na\r\n",
            "1\r\nab\r\n",
            "1;a\nb\r\n",
            "0\r\nx: y\n\r\n",
            "0\r\n folded\r\n\r\n",
            "1000000000000000\r\n",
        ] {
            let message =
                format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}");
            assert_eq!(
                inspect_all(message.as_bytes()),
                Err(Violation::ChunkFraming),
                "{chunks:?}"
            );
        }
    }

    #[test]
    fn a_sound_request_before_an_offence_may_pass() {
        let first = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        let both = format!("{first}GET /2 HTTP/1.1\nHost: a\r\n\r\n");
        let offence = HeadGuard::new(1024)
            .inspect(both.as_bytes())
            .expect_err("bare LF");
        assert_eq!(offence.message_start, Some(first.len()));
        let mut guard = HeadGuard::new(1024);
        guard.inspect(b"GET / HT").expect("partial");
        assert_eq!(
            guard
                .inspect(b"TP/1.1\n")
                .expect_err("bare LF")
                .message_start,
            None
        );
    }

    #[test]
    fn an_endless_head_is_refused() {
        let mut guard = HeadGuard::new(1024);
        guard.inspect(b"GET / HTTP/1.1\r\n").expect("start");
        let flood = vec![b'a'; 2048];
        assert_eq!(
            guard.inspect(&flood).expect_err("flood").violation,
            Violation::HeadTooLarge
        );
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_verdict(bytes in proptest::collection::vec(any::<u8>(), 0..200), cut in 0usize..200) {
            let whole = inspect_all(&bytes);
            let cut = cut.min(bytes.len());
            let mut guard = HeadGuard::new(64 * 1024);
            let split = guard
                .inspect(&bytes[..cut])
                .and_then(|()| guard.inspect(&bytes[cut..]))
                .map_err(|offence| offence.violation);
            prop_assert_eq!(whole, split);
        }
    }
}
