//! What is demanded of the object before it is used: size, BTF, licence, and every program that the loader attaches.
//!
//! Reads as much of ELF as that needs: a little-endian, 64-bit section table.

use anyhow::{Context, Result, bail, ensure};

/// Most of it is debug information, from which the linker has made the BTF; the kernel gets a tenth.
const LIMIT_BYTES: usize = 2 * 1024 * 1024;
/// What the kernel lends helpers to.
const LICENSES: [&str; 2] = ["GPL", "Dual BSD/GPL"];
/// The sections of programs; each holds one, or a pair for IPv4 and IPv6 in two.
const PROGRAMS: [&str; 19] = [
    "cgroup/bind4",
    "cgroup/bind6",
    "cgroup/connect4",
    "cgroup/connect6",
    "cgroup/getpeername4",
    "cgroup/getpeername6",
    "cgroup/getsockopt",
    "cgroup/recvmsg4",
    "cgroup/recvmsg6",
    "cgroup/sendmsg4",
    "cgroup/sendmsg6",
    "cgroup/sock_create",
    "cgroup_skb/egress",
    "cgroup_skb/ingress",
    "classifier",
    "sk_lookup",
    "sk_msg",
    "sockops",
    "xdp.frags",
];

/// What was found.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) programs: usize,
    pub(super) license: String,
}

/// Fails with what is wrong.
pub(super) fn check(bytes: &[u8]) -> Result<Found> {
    ensure!(
        bytes.len() <= LIMIT_BYTES,
        "the object has {} bytes, the limit is {LIMIT_BYTES}",
        bytes.len()
    );
    let sections = sections(bytes).context("the object is no ELF file of eBPF")?;
    let find = |name: &str| sections.iter().find(|(other, _)| other == name);
    for name in PROGRAMS {
        let found = find(name).with_context(|| format!("the object has no program in {name}"))?;
        ensure!(!found.1.is_empty(), "the program in {name} is empty");
    }
    for (name, _) in &sections {
        let starts = ["cgroup", "sock", "sk_", "classifier", "xdp"];
        let program = starts.iter().any(|start| name.starts_with(start));
        if program && !PROGRAMS.contains(&name.as_str()) {
            bail!("the object has a program in {name} that xtask/src/ebpf/object.rs does not name");
        }
    }
    for name in [".BTF", ".BTF.ext"] {
        let there = find(name).is_some_and(|(_, data)| !data.is_empty());
        ensure!(there, "the object has no {name}: was it linked with --btf?");
    }
    let (_, license) = find("license").context("the object names no licence")?;
    let license = String::from_utf8_lossy(license);
    let license = license.trim_end_matches('\0');
    ensure!(
        LICENSES.contains(&license),
        "the licence {license:?} gets no helpers from the kernel: {LICENSES:?} do"
    );
    Ok(Found {
        programs: PROGRAMS.len(),
        license: license.to_owned(),
    })
}

/// Names and contents of all sections; none where the file is no such file.
fn sections(bytes: &[u8]) -> Option<Vec<(String, &[u8])>> {
    const EM_BPF: u64 = 247;
    let is_elf = bytes.starts_with(b"\x7fELF\x02\x01");
    if !is_elf || number(bytes, 18, 2)? != EM_BPF {
        return None;
    }
    let table = index(number(bytes, 40, 8)?)?;
    let size = index(number(bytes, 58, 2)?)?;
    let count = index(number(bytes, 60, 2)?)?;
    let names = index(number(bytes, 62, 2)?)?;
    let header = |section: usize| bytes.get(table + section * size..)?.get(..size);
    let content = |header: &[u8]| -> Option<(usize, usize)> {
        Some((
            index(number(header, 24, 8)?)?,
            index(number(header, 32, 8)?)?,
        ))
    };
    let (names_at, names_length) = content(header(names)?)?;
    let names = bytes.get(names_at..names_at.checked_add(names_length)?)?;
    let mut found = Vec::new();
    for section in 0..count {
        let header = header(section)?;
        let name = names.get(index(number(header, 0, 4)?)?..)?;
        let name = name.split(|byte| *byte == 0).next()?;
        let (at, length) = content(header)?;
        // Sections without content in the file (SHT_NOBITS) may name a place beyond its end.
        let data = bytes.get(at..at.checked_add(length)?).unwrap_or_default();
        found.push((String::from_utf8_lossy(name).into_owned(), data));
    }
    Some(found)
}

fn number(bytes: &[u8], at: usize, length: usize) -> Option<u64> {
    let field = bytes.get(at..at.checked_add(length)?)?;
    let value = field.iter().rev();
    Some(value.fold(0, |sum, byte| (sum << 8) | u64::from(*byte)))
}

fn index(number: u64) -> Option<usize> {
    usize::try_from(number).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An ELF file of these sections.
    fn elf(sections: &[(&str, &[u8])]) -> Vec<u8> {
        let mut names = vec![0_u8];
        let mut data: Vec<u8> = Vec::new();
        let mut table = Vec::new();
        let mut entry = |name: usize, at: usize, length: usize| {
            let mut header = [0_u8; 64];
            header[..4].copy_from_slice(&u32::try_from(name).unwrap().to_le_bytes());
            header[24..32].copy_from_slice(&(at as u64).to_le_bytes());
            header[32..40].copy_from_slice(&(length as u64).to_le_bytes());
            table.extend(header);
        };
        for (name, content) in sections {
            entry(names.len(), 64 + data.len(), content.len());
            names.extend(name.bytes().chain([0]));
            data.extend(*content);
        }
        entry(0, 64 + data.len(), names.len());
        data.extend(&names);
        let mut file = vec![0_u8; 64];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        file[18..20].copy_from_slice(&247_u16.to_le_bytes());
        file[40..48].copy_from_slice(&(64 + data.len() as u64).to_le_bytes());
        file[58..60].copy_from_slice(&64_u16.to_le_bytes());
        let count = u16::try_from(sections.len()).unwrap();
        file[60..62].copy_from_slice(&(count + 1).to_le_bytes());
        file[62..64].copy_from_slice(&count.to_le_bytes());
        file.extend(data);
        file.extend(table);
        file
    }

    fn good() -> Vec<(&'static str, &'static [u8])> {
        let mut sections: Vec<(&str, &[u8])> = PROGRAMS
            .iter()
            .map(|name| (*name, b"code".as_slice()))
            .collect();
        sections.push((".BTF", b"types"));
        sections.push((".BTF.ext", b"lines"));
        sections.push(("license", b"Dual BSD/GPL\0"));
        sections
    }

    #[test]
    fn what_is_demanded_is_enough() {
        let found = check(&elf(&good())).unwrap();
        assert_eq!(found.programs, 19);
        assert_eq!(found.license, "Dual BSD/GPL");
    }

    #[test]
    fn each_part_is_demanded() {
        for missing in ["cgroup/connect6", ".BTF", "license", "sockops"] {
            let mut sections = good();
            sections.retain(|(name, _)| *name != missing);
            let error = check(&elf(&sections)).unwrap_err().to_string();
            assert!(
                error.contains(missing) || error.contains("licence"),
                "{error}"
            );
        }
    }

    #[test]
    fn a_program_that_nobody_attaches_is_refused() {
        let mut sections = good();
        sections.push(("cgroup/sysctl", b"code"));
        assert!(check(&elf(&sections)).is_err());
    }

    #[test]
    fn another_licence_is_refused() {
        let mut sections = good();
        sections.retain(|(name, _)| *name != "license");
        sections.push(("license", b"Apache-2.0\0"));
        assert!(check(&elf(&sections)).is_err());
    }

    #[test]
    fn what_is_cut_off_is_no_object() {
        let whole = elf(&good());
        for length in [0, 5, 63, 64, whole.len() - 1] {
            assert!(check(&whole[..length]).is_err(), "{length}");
        }
        assert!(check(&vec![0; LIMIT_BYTES + 1]).is_err());
    }
}
