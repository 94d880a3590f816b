//! Maps as the ABI serialises them (0.2.1, section Serialization): a count, the lengths, then the texts, each ended by a
//! NUL byte.
//!
//! Owns: both directions, and what counts as malformed. Envoy treats a map that is cut short as an empty one; here it is
//! [`Status::ParseFailure`], because "no headers" is not what its author meant.

use crate::abi::Status;

/// What a guest may send in one map.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PairLimits {
    pub(crate) count: usize,
    pub(crate) bytes: usize,
}

/// Names and values, in the order given.
pub(crate) type Pairs<'a> = Vec<(&'a [u8], &'a [u8])>;

/// Reads a map without copying its texts. Empty input and a single zero byte are both the empty map.
pub(crate) fn parse(bytes: &[u8], limits: PairLimits) -> Result<Pairs<'_>, Status> {
    if bytes.is_empty() || bytes == [0] {
        return Ok(Vec::new());
    }
    if bytes.len() > limits.bytes {
        return Err(Status::BadArgument);
    }
    let mut head = bytes;
    let count = take_u32(&mut head)? as usize;
    // Each pair has eight bytes of lengths and two NULs at least: no allocation for a count that cannot be.
    if count > bytes.len() / 10 {
        return Err(Status::ParseFailure);
    }
    if count > limits.count {
        return Err(Status::BadArgument);
    }
    let lengths_size = count * 8;
    let (mut lengths, mut texts) = head
        .split_at_checked(lengths_size)
        .ok_or(Status::ParseFailure)?;
    let mut pairs = Vec::with_capacity(count);
    for _ in 0..count {
        let (key, value) = (take_u32(&mut lengths)?, take_u32(&mut lengths)?);
        pairs.push((take_text(&mut texts, key)?, take_text(&mut texts, value)?));
    }
    Ok(pairs)
}

fn take_u32(rest: &mut &[u8]) -> Result<u32, Status> {
    let (number, after) = rest.split_first_chunk().ok_or(Status::ParseFailure)?;
    *rest = after;
    Ok(u32::from_le_bytes(*number))
}

fn take_text<'a>(rest: &mut &'a [u8], length: u32) -> Result<&'a [u8], Status> {
    let length = usize::try_from(length).map_err(|_| Status::ParseFailure)?;
    let (text, after) = rest.split_at_checked(length).ok_or(Status::ParseFailure)?;
    let (end, after) = after.split_first().ok_or(Status::ParseFailure)?;
    if *end != 0 {
        return Err(Status::ParseFailure);
    }
    *rest = after;
    Ok(text)
}

/// Bytes that `pairs` take when serialised. The empty map takes none, as Envoy gives it.
pub(crate) fn size<'a>(pairs: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> usize {
    let mut total = 0;
    for (key, value) in pairs {
        total += 10 + key.len() + value.len();
    }
    if total == 0 { 0 } else { total + 4 }
}

/// Writes the pairs that `pairs` gives, each time the same, into `out`, which has exactly [`size`] bytes. `None` if it has
/// not.
pub(crate) fn write<'a, I>(pairs: impl Fn() -> I, out: &mut [u8]) -> Option<()>
where
    I: Iterator<Item = (&'a [u8], &'a [u8])>,
{
    let count = u32::try_from(pairs().count()).ok()?;
    if count == 0 {
        return out.is_empty().then_some(());
    }
    let mut out = Writer(out);
    out.put(&count.to_le_bytes())?;
    for (key, value) in pairs() {
        out.put(&u32::try_from(key.len()).ok()?.to_le_bytes())?;
        out.put(&u32::try_from(value.len()).ok()?.to_le_bytes())?;
    }
    for (key, value) in pairs() {
        out.put(key)?;
        out.put(&[0])?;
        out.put(value)?;
        out.put(&[0])?;
    }
    out.0.is_empty().then_some(())
}

struct Writer<'a>(&'a mut [u8]);

impl Writer<'_> {
    fn put(&mut self, bytes: &[u8]) -> Option<()> {
        let rest = std::mem::take(&mut self.0);
        let (place, rest) = rest.split_at_mut_checked(bytes.len())?;
        place.copy_from_slice(bytes);
        self.0 = rest;
        Some(())
    }
}

/// The same as a vector, for values that no guest memory waits for.
pub(crate) fn to_vec<'a, I>(pairs: impl Fn() -> I) -> Vec<u8>
where
    I: Iterator<Item = (&'a [u8], &'a [u8])>,
{
    let mut out = vec![0; size(pairs())];
    if write(pairs, &mut out).is_none() {
        out.clear();
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: PairLimits = PairLimits {
        count: 8,
        bytes: 1024,
    };

    fn serialise(pairs: &[(&[u8], &[u8])]) -> Vec<u8> {
        to_vec(|| pairs.iter().copied())
    }

    #[test]
    fn r90_the_specification_s_example_has_these_bytes() {
        let bytes = serialise(&[(b"a", b"1"), (b"b", b"22")]);
        let mut expected = vec![2, 0, 0, 0];
        expected.extend([1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0]);
        expected.extend(b"a\x001\0b\x0022\0");
        assert_eq!(bytes, expected);
        let expected: Vec<(&[u8], &[u8])> = vec![(b"a", b"1"), (b"b", b"22")];
        assert_eq!(parse(&bytes, LIMITS), Ok(expected));
    }

    #[test]
    fn r90_an_empty_map_has_two_forms() {
        assert_eq!(parse(b"", LIMITS), Ok(vec![]));
        assert_eq!(parse(b"\0", LIMITS), Ok(vec![]));
        assert_eq!(parse(&[0, 0, 0, 0], LIMITS), Ok(vec![]));
        assert_eq!(serialise(&[]), Vec::<u8>::new());
    }

    #[test]
    fn r90_a_map_cut_short_is_malformed_and_not_empty() {
        let bytes = serialise(&[(b"name", b"value")]);
        for end in 1..bytes.len() {
            let seen = parse(&bytes[..end], LIMITS);
            assert_eq!(seen, Err(Status::ParseFailure), "{end} bytes");
        }
    }

    #[test]
    fn r91_a_giant_count_allocates_nothing() {
        assert_eq!(
            parse(&[0xff, 0xff, 0xff, 0xff, 1, 2, 3], LIMITS),
            Err(Status::ParseFailure)
        );
    }

    #[test]
    fn r91_more_pairs_or_bytes_than_allowed_are_refused() {
        let many: Vec<(&[u8], &[u8])> = vec![(b"a", b"b"); 9];
        assert_eq!(parse(&serialise(&many), LIMITS), Err(Status::BadArgument));
        let long = vec![b'x'; 2000];
        let bytes = serialise(&[(b"a", &long)]);
        assert_eq!(parse(&bytes, LIMITS), Err(Status::BadArgument));
    }

    proptest! {
        #[test]
        fn r90_any_bytes_parse_or_fail_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
            if let Ok(pairs) = parse(&bytes, LIMITS) {
                prop_assert!(pairs.len() <= LIMITS.count);
            }
        }

        #[test]
        fn r90_what_is_written_is_read_back(pairs in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..20), prop::collection::vec(any::<u8>(), 0..20)), 0..8)) {
            let borrowed: Vec<(&[u8], &[u8])> = pairs.iter().map(|(k, v)| (&k[..], &v[..])).collect();
            let bytes = serialise(&borrowed);
            prop_assert_eq!(parse(&bytes, LIMITS), Ok(borrowed));
        }
    }
}
