//! Strict request paths: a path with two readings is refused, never guessed.
//!
//! Owns: the check that gateway, policy and upstream see one and the same path (RFC 3986 §3.3, §6.2.2).
//! Must not: match routes. Next: `route.rs`.

/// Why a path was refused. The text is the `refusal` of the access log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathFault {
    NotAbsolute,
    ForbiddenByte,
    DotSegment,
    EmptySegment,
    BrokenEscape,
    EncodedSeparator,
    DoubleEncoding,
    EncodedControl,
    NeedlessEscape,
}

impl PathFault {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotAbsolute => "path-not-absolute",
            Self::ForbiddenByte => "path-forbidden-byte",
            Self::DotSegment => "path-dot-segment",
            Self::EmptySegment => "path-empty-segment",
            Self::BrokenEscape => "path-broken-escape",
            Self::EncodedSeparator => "path-encoded-separator",
            Self::DoubleEncoding => "path-double-encoding",
            Self::EncodedControl => "path-encoded-control",
            Self::NeedlessEscape => "path-needless-escape",
        }
    }
}

/// Accepts exactly the paths that have one reading; what is accepted is forwarded byte for byte.
///
/// Refused: dot segments raw or encoded, empty segments, `%2f`, `%5c`, `\`, `%25` (double encoding),
/// encoded controls, escapes of unreserved letters (RFC 3986 §6.2.2.2 calls them equivalent, so two
/// routers could differ), and bytes outside `pchar`.
pub fn check(path: &str) -> Result<(), PathFault> {
    let bytes = path.as_bytes();
    if bytes.first() != Some(&b'/') {
        return Err(PathFault::NotAbsolute);
    }
    let mut segment_start = 1;
    let mut at = 1;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'/' => {
                check_segment(bytes.get(segment_start..at).unwrap_or_default(), false)?;
                segment_start = at + 1;
                at += 1;
            }
            b'%' => {
                check_escape(bytes.get(at + 1), bytes.get(at + 2))?;
                at += 3;
            }
            byte if is_pchar(*byte) => at += 1,
            _ => return Err(PathFault::ForbiddenByte),
        }
    }
    check_segment(bytes.get(segment_start..).unwrap_or_default(), true)
}

fn check_segment(segment: &[u8], last: bool) -> Result<(), PathFault> {
    match segment {
        b"." | b".." => Err(PathFault::DotSegment),
        // "..;x" is a dot segment to servers that strip path parameters.
        [b'.', b';', ..] | [b'.', b'.', b';', ..] => Err(PathFault::DotSegment),
        b"" if !last => Err(PathFault::EmptySegment),
        _ => Ok(()),
    }
}

fn check_escape(high: Option<&u8>, low: Option<&u8>) -> Result<(), PathFault> {
    let digit = |byte: Option<&u8>| byte.and_then(|byte| char::from(*byte).to_digit(16));
    let (Some(high), Some(low)) = (digit(high), digit(low)) else {
        return Err(PathFault::BrokenEscape);
    };
    match u8::try_from(high * 16 + low).unwrap_or(0) {
        b'/' | b'\\' => Err(PathFault::EncodedSeparator),
        b'%' => Err(PathFault::DoubleEncoding),
        b'.' => Err(PathFault::DotSegment),
        0..=0x1f | 0x7f => Err(PathFault::EncodedControl),
        byte if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'~') => {
            Err(PathFault::NeedlessEscape)
        }
        _ => Ok(()),
    }
}

/// RFC 3986 §3.3 `pchar` without `pct-encoded`.
const fn is_pchar(byte: u8) -> bool {
    matches!(byte,
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9'
        | b'-' | b'.' | b'_' | b'~'
        | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'='
        | b':' | b'@')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn plain_paths_pass() {
        for path in [
            "/",
            "/v1/orders",
            "/v1/orders/",
            "/a%20b",
            "/caf%C3%A9",
            "/.well-known/x",
            "/a:b@c;d=e",
            "/..a",
        ] {
            assert_eq!(check(path), Ok(()), "{path}");
        }
    }

    #[test]
    fn paths_with_two_readings_are_refused() {
        for (path, fault) in [
            ("", PathFault::NotAbsolute),
            ("*", PathFault::NotAbsolute),
            ("/./a", PathFault::DotSegment),
            ("/a/..", PathFault::DotSegment),
            ("/a/../b", PathFault::DotSegment),
            ("/a/..;/b", PathFault::DotSegment),
            ("/%2e%2e/a", PathFault::DotSegment),
            ("/.%2E/a", PathFault::DotSegment),
            ("//admin", PathFault::EmptySegment),
            ("/a//b", PathFault::EmptySegment),
            ("/a%2fb", PathFault::EncodedSeparator),
            ("/a%5Cb", PathFault::EncodedSeparator),
            ("/a\\b", PathFault::ForbiddenByte),
            ("/a%252fb", PathFault::DoubleEncoding),
            ("/a%00", PathFault::EncodedControl),
            ("/a%0d%0aX: y", PathFault::EncodedControl),
            ("/a%", PathFault::BrokenEscape),
            ("/a%4", PathFault::BrokenEscape),
            ("/a%zz", PathFault::BrokenEscape),
            ("/%61dmin", PathFault::NeedlessEscape),
            ("/a b", PathFault::ForbiddenByte),
            ("/caf\u{e9}", PathFault::ForbiddenByte),
        ] {
            assert_eq!(check(path), Err(fault), "{path}");
        }
    }

    proptest! {
        #[test]
        fn accepted_paths_never_climb(path in "(/|\\.|%|2|e|f|a|;){0,24}") {
            if check(&path).is_ok() {
                prop_assert!(!path.contains("/../") && !path.ends_with("/..") && !path.contains("//"));
                prop_assert!(!path.contains("%2e") && !path.contains("%2f"));
            }
        }
    }
}
