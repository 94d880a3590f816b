//! Concatenated DER, as the Workload API delivers chains and bundles.

/// Takes concatenated DER sequences apart (X.690 §8.1.3). `None` when it is anything else, or more
/// than a chain or bundle can be.
#[must_use]
pub fn split(mut bytes: &[u8]) -> Option<Vec<Vec<u8>>> {
    /// More certificates than any trust domain has roots.
    const MOST: usize = 256;
    let mut parts = Vec::new();
    while !bytes.is_empty() {
        let length = whole_length(bytes)?;
        let part = bytes.get(..length)?;
        bytes = bytes.get(length..)?;
        parts.push(part.to_vec());
        if parts.len() > MOST {
            return None;
        }
    }
    Some(parts)
}

/// Length of the sequence at the start, header included.
fn whole_length(bytes: &[u8]) -> Option<usize> {
    const SEQUENCE: u8 = 0x30;
    let [SEQUENCE, first, rest @ ..] = bytes else {
        return None;
    };
    if *first < 0x80 {
        return Some(2 + usize::from(*first));
    }
    // Four octets of length would be a certificate of more than 16 MiB.
    let octets = usize::from(*first & 0x7f);
    if !(1..=3).contains(&octets) {
        return None;
    }
    let length = rest
        .get(..octets)?
        .iter()
        .fold(0, |length, octet| length << 8 | usize::from(*octet));
    Some(2 + octets + length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sequence(content: &[u8]) -> Vec<u8> {
        let length = u16::try_from(content.len()).unwrap();
        let mut der = vec![0x30, 0x82];
        der.extend(length.to_be_bytes());
        der.extend(content);
        der
    }

    #[test]
    fn anything_but_whole_sequences_is_refused() {
        assert_eq!(split(&[]), Some(vec![]));
        assert_eq!(split(&[0x30, 0]), Some(vec![vec![0x30, 0]]));
        for wrong in [
            &[0x30][..],
            &[0x31, 0],
            &[0x30, 2, 1],
            &[0x30, 0x80, 0],
            &[0x30, 0x84, 0, 0, 0, 0],
            &[0x30, 0, 7],
        ] {
            assert_eq!(split(wrong), None, "{wrong:?}");
        }
        assert_eq!(split(&[0x30, 0].repeat(257)), None);
    }

    proptest! {
        #[test]
        fn what_was_joined_comes_apart(parts in proptest::collection::vec(
            proptest::collection::vec(any::<u8>(), 0..300), 0..8)) {
            let parts: Vec<_> = parts.iter().map(|part| sequence(part)).collect();
            prop_assert_eq!(split(&parts.concat()), Some(parts));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            if let Some(parts) = split(&bytes) {
                prop_assert_eq!(parts.concat(), bytes);
            }
        }
    }
}
