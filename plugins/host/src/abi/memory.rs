//! Reading and writing a guest's memory, given as a slice.
//!
//! Owns: the checks of every pointer and length. A guest's numbers are unsigned, 32 bits wide and hostile: sums are
//! computed wider than that, and whatever lies outside is `InvalidMemoryAccess`, never a panic.

use crate::abi::Status;

/// `length` bytes at `start`.
pub(crate) fn slice(memory: &[u8], start: u32, length: u32) -> Result<&[u8], Status> {
    let range = range(start, length)?;
    memory.get(range).ok_or(Status::InvalidMemoryAccess)
}

/// The same, to write.
pub(crate) fn slice_mut(memory: &mut [u8], start: u32, length: u32) -> Result<&mut [u8], Status> {
    let range = range(start, length)?;
    memory.get_mut(range).ok_or(Status::InvalidMemoryAccess)
}

fn range(start: u32, length: u32) -> Result<std::ops::Range<usize>, Status> {
    let end = u64::from(start) + u64::from(length);
    let convert = |number: u64| usize::try_from(number).map_err(|_| Status::InvalidMemoryAccess);
    Ok(convert(u64::from(start))?..convert(end)?)
}

/// Writes all of `bytes` at `start`.
pub(crate) fn write(memory: &mut [u8], start: u32, bytes: &[u8]) -> Result<(), Status> {
    let length = u32::try_from(bytes.len()).map_err(|_| Status::InvalidMemoryAccess)?;
    slice_mut(memory, start, length)?.copy_from_slice(bytes);
    Ok(())
}

/// Little-endian, as every integer of the ABI.
pub(crate) fn write_u32(memory: &mut [u8], start: u32, value: u32) -> Result<(), Status> {
    write(memory, start, &value.to_le_bytes())
}

pub(crate) fn write_u64(memory: &mut [u8], start: u32, value: u64) -> Result<(), Status> {
    write(memory, start, &value.to_le_bytes())
}

pub(crate) fn read_u32(memory: &[u8], start: u32) -> Result<u32, Status> {
    let bytes = slice(memory, start, 4)?;
    let bytes = bytes.try_into().map_err(|_| Status::InvalidMemoryAccess)?;
    Ok(u32::from_le_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn r90_a_pointer_outside_memory_is_an_invalid_access() {
        let memory = [7_u8; 16];
        assert_eq!(slice(&memory, 0, 16), Ok(&memory[..]));
        assert_eq!(slice(&memory, 16, 0), Ok(&memory[16..]));
        for (start, length) in [
            (0, 17),
            (17, 0),
            (16, 1),
            (u32::MAX, 1),
            (1, u32::MAX),
            (u32::MAX, u32::MAX),
            (0x8000_0000, 0x8000_0000), // wraps to zero in 32 bits
        ] {
            let seen = slice(&memory, start, length);
            assert_eq!(seen, Err(Status::InvalidMemoryAccess), "{start}+{length}");
        }
    }

    #[test]
    fn r90_a_number_that_hangs_over_the_end_is_not_written() {
        let mut memory = [0_u8; 8];
        assert_eq!(
            write_u32(&mut memory, 5, 1),
            Err(Status::InvalidMemoryAccess)
        );
        assert_eq!(memory, [0; 8]);
        assert_eq!(write_u64(&mut memory, 0, 0x0102), Ok(()));
        assert_eq!(memory, [2, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(read_u32(&memory, 5), Err(Status::InvalidMemoryAccess));
    }

    proptest! {
        #[test]
        fn r90_no_numbers_of_a_guest_panic(memory in prop::collection::vec(any::<u8>(), 0..64), start: u32, length: u32) {
            if let Ok(found) = slice(&memory, start, length) {
                prop_assert_eq!(found.len(), length as usize);
                prop_assert!(start as usize + found.len() <= memory.len());
            }
        }
    }
}
