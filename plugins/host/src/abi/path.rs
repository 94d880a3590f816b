//! Paths of properties: segments separated by NUL bytes.
//!
//! Owns: splitting them. A NUL at the end is no segment, as some SDKs send one.

use crate::abi::Status;

/// Most segments of a path, and the longest path, in bytes.
const MAX_SEGMENTS: usize = 16;
const MAX_BYTES: usize = 1024;

/// The segments of a path.
pub(crate) fn parse(bytes: &[u8]) -> Result<Vec<&str>, Status> {
    if bytes.len() > MAX_BYTES {
        return Err(Status::BadArgument);
    }
    let text = std::str::from_utf8(bytes).map_err(|_| Status::NotFound)?;
    let text = text.strip_suffix('\0').unwrap_or(text);
    if text.is_empty() {
        return Err(Status::NotFound);
    }
    let segments: Vec<&str> = text.split('\0').take(MAX_SEGMENTS + 1).collect();
    if segments.len() > MAX_SEGMENTS {
        return Err(Status::BadArgument);
    }
    Ok(segments)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn r90_segments_are_separated_by_nul() {
        assert_eq!(parse(b"request\0path"), Ok(vec!["request", "path"]));
        assert_eq!(parse(b"request\0path\0"), Ok(vec!["request", "path"]));
        assert_eq!(parse(b"plugin_name"), Ok(vec!["plugin_name"]));
        assert_eq!(parse(b"a\0\0b"), Ok(vec!["a", "", "b"]));
        assert_eq!(parse(b""), Err(Status::NotFound));
        assert_eq!(parse(b"\0"), Err(Status::NotFound));
        assert_eq!(parse(b"\xff"), Err(Status::NotFound));
        assert_eq!(parse(&[b'a'; 2000]), Err(Status::BadArgument));
        assert_eq!(
            parse(&[b"a\0".repeat(16), b"a".to_vec()].concat()),
            Err(Status::BadArgument)
        );
    }

    proptest! {
        #[test]
        fn r90_any_path_splits_or_fails_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
            if let Ok(segments) = parse(&bytes) {
                prop_assert!(!segments.is_empty() && segments.len() <= MAX_SEGMENTS);
            }
        }
    }
}
