//! What of its own program a process keeps in memory.
//!
//! A start runs through code that a served life never comes to again: reading configuration, making schemas, compiling
//! policies. The kernel maps 64 KiB around each page of it that is touched, so that most of the program stands in the
//! process's resident set for good. [`shed_program`] gives all of it back; what is still used comes again from the page
//! cache, without reading the disk.
//!
//! Owns: which mappings may be given back. Must not: touch one that can have been written to, whose contents would be lost.

use std::fs;
use std::io;
use std::path::Path;
use std::ptr::NonNull;

use nix::libc::c_void;
use nix::sys::mman::{MmapAdvise, madvise};

/// A range of this process's memory.
#[derive(Debug, PartialEq, Eq)]
struct Range {
    start: usize,
    length: usize,
}

/// Gives the pages of this program's code and constants back; how many bytes of address space that were.
///
/// # Errors
/// `/proc` cannot be read, or the kernel refuses. Nothing depends on it: the process is the same, but larger.
pub fn shed_program() -> io::Result<usize> {
    let program = fs::read_link("/proc/self/exe")?;
    let mut given_back = 0;
    for range in unwritten(&fs::read_to_string("/proc/self/maps")?, &program) {
        give_back(&range)?;
        given_back += range.length;
    }
    Ok(given_back)
}

/// The mappings of the program that nobody can have written to: its code, and what comes before that in the file, which the
/// linker puts apart from all that the start fills in.
fn unwritten(maps: &str, program: &Path) -> Vec<Range> {
    let of_line = |line: &str| {
        // proc_pid_maps(5): address, permissions, offset, device, inode, path.
        let mut fields = line.split_ascii_whitespace();
        let (address, permissions, offset) = (fields.next()?, fields.next()?, fields.next()?);
        let path = fields.nth(2)?;
        let first = u64::from_str_radix(offset, 16).ok()? == 0;
        let constant = permissions == "r-xp" || (permissions == "r--p" && first);
        if Path::new(path) != program || !constant {
            return None;
        }
        let (start, end) = address.split_once('-')?;
        let start = usize::from_str_radix(start, 16).ok()?;
        let length = usize::from_str_radix(end, 16).ok()?.checked_sub(start)?;
        Some(Range { start, length })
    };
    maps.lines().filter_map(of_line).collect()
}

#[expect(unsafe_code, reason = "the address is a number from /proc")]
fn give_back(range: &Range) -> io::Result<()> {
    let start = NonNull::new(std::ptr::without_provenance_mut::<c_void>(range.start));
    let start = start.ok_or(io::ErrorKind::InvalidInput)?;
    // SAFETY: the range is a private mapping of the running program's file without permission to write, so that every page
    // of it is the file's; the next access reads the same bytes from there. The kernel lets nobody write to the file of a
    // running program.
    unsafe { madvise(start, range.length, MmapAdvise::MADV_DONTNEED) }?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Range, unwritten};
    use std::path::Path;

    const MAPS: &str = "\
7f0000000000-7f0000004000 r--p 00000000 fe:00 12 /bin/one
7f0000004000-7f0000104000 r-xp 00004000 fe:00 12 /bin/one
7f0000104000-7f0000108000 r--p 00104000 fe:00 12 /bin/one
7f0000108000-7f000010a000 rw-p 00108000 fe:00 12 /bin/one
7f0000200000-7f0000300000 r-xp 00000000 fe:00 13 /lib/other.so
7f0000400000-7f0000500000 rw-p 00000000 00:00 0 [heap]
7f0000500000-7f0000501000 r-xp 00000000 00:00 0 [vdso]
7f0000600000-7f0000601000 rw-p 00000000 00:00 0
";

    #[test]
    fn only_what_nobody_can_have_written_to_is_given_back() {
        let ranges = unwritten(MAPS, Path::new("/bin/one"));
        // Not the third: there the start has put addresses in, before it took the permission away.
        let expected = [(0x7f00_0000_0000, 0x4000), (0x7f00_0000_4000, 0x0010_0000)]
            .map(|(start, length)| Range { start, length });
        assert_eq!(ranges, expected);
    }
}
