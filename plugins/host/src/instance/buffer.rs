//! Body bytes that a plugin may look at.
//!
//! Owns: reading and changing them. Chunks stay as they came, uncopied, until a plugin writes.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

/// Chunks in order.
#[derive(Debug, Default, Clone)]
pub(crate) struct Buffer {
    chunks: VecDeque<Bytes>,
    length: usize,
}

impl Buffer {
    pub(crate) fn push(&mut self, chunk: Bytes) {
        if !chunk.is_empty() {
            self.length += chunk.len();
            self.chunks.push_back(chunk);
        }
    }

    pub(crate) const fn len(&self) -> usize {
        self.length
    }

    pub(crate) fn take(&mut self) -> VecDeque<Bytes> {
        self.length = 0;
        std::mem::take(&mut self.chunks)
    }

    /// Copies what lies at `start` into `out`, which must not reach over the end.
    pub(crate) fn copy(&self, start: usize, out: &mut [u8]) {
        let (mut skip, mut out) = (start, out);
        for chunk in &self.chunks {
            let Some(part) = chunk.get(skip..) else {
                skip -= chunk.len();
                continue;
            };
            skip = 0;
            let size = part.len().min(out.len());
            let (Some(part), Some((place, rest))) =
                (part.get(..size), out.split_at_mut_checked(size))
            else {
                return;
            };
            place.copy_from_slice(part);
            out = rest;
            if out.is_empty() {
                return;
            }
        }
    }

    /// Puts `data` in the place of `size` bytes at `start`; from the end on, behind everything.
    pub(crate) fn splice(&mut self, start: usize, size: usize, data: &[u8]) {
        let start = start.min(self.length);
        let end = start.saturating_add(size).min(self.length);
        if start == self.length {
            self.push(Bytes::copy_from_slice(data));
            return;
        }
        let mut whole = BytesMut::with_capacity(self.length - (end - start) + data.len());
        self.append(0..start, &mut whole);
        whole.extend_from_slice(data);
        self.append(end..self.length, &mut whole);
        self.chunks.clear();
        self.length = 0;
        self.push(whole.freeze());
    }

    fn append(&self, range: std::ops::Range<usize>, out: &mut BytesMut) {
        let before = out.len();
        out.resize(before + range.len(), 0);
        if let Some(place) = out.get_mut(before..) {
            self.copy(range.start, place);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn buffer(chunks: &[&[u8]]) -> Buffer {
        let mut buffer = Buffer::default();
        chunks
            .iter()
            .for_each(|chunk| buffer.push(Bytes::copy_from_slice(chunk)));
        buffer
    }

    fn bytes(buffer: &Buffer) -> Vec<u8> {
        let mut out = vec![0; buffer.len()];
        buffer.copy(0, &mut out);
        out
    }

    #[test]
    fn r90_prepend_append_inject_and_replace() {
        for (start, size, expected) in [
            (0, 0, "XYabcdef"),
            (6, 0, "abcdefXY"),
            (usize::MAX, usize::MAX, "abcdefXY"),
            (2, 0, "abXYcdef"),
            (2, 3, "abXYf"),
            (2, usize::MAX, "abXY"),
            (0, 6, "XY"),
        ] {
            let mut buffer = buffer(&[b"abc", b"", b"def"]);
            buffer.splice(start, size, b"XY");
            assert_eq!(bytes(&buffer), expected.as_bytes(), "{start}, {size}");
        }
    }

    proptest! {
        #[test]
        fn r90_a_splice_is_that_of_a_vector(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..8), 0..6), start in 0_usize..60, size in 0_usize..60, data in prop::collection::vec(any::<u8>(), 0..8)) {
            let mut expected = chunks.concat();
            let from = start.min(expected.len());
            let to = (from + size).min(expected.len());
            expected.splice(from..to, data.iter().copied());
            let mut buffer = buffer(&chunks.iter().map(|chunk| &chunk[..]).collect::<Vec<_>>());
            buffer.splice(start, size, &data);
            prop_assert_eq!(buffer.len(), expected.len());
            prop_assert_eq!(bytes(&buffer), expected);
        }
    }
}
