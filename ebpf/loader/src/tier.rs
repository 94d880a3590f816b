//! What this machine and this process can do.

use std::fs;
use std::path::Path;

/// How much of the interception the kernel does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tier {
    /// Capture and enforcement.
    Full,
    /// Connections are captured; what does not let itself be captured is not stopped. The reason why not.
    CaptureOnly(String),
    /// The kernel does nothing: workloads use their proxy's explicit address. The reason why.
    Userspace(String),
}

impl Tier {
    /// The word for people and metrics.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::CaptureOnly(_) => "capture-only",
            Self::Userspace(_) => "userspace",
        }
    }

    /// Why it is not the full one.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Full => None,
            Self::CaptureOnly(reason) | Self::Userspace(reason) => Some(reason),
        }
    }
}

const CAP_NET_ADMIN: u32 = 12;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_PERFMON: u32 = 38;
const CAP_BPF: u32 = 39;

/// What is missing here before a program is even loaded.
pub(crate) fn missing() -> Option<String> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    if let Some(names) = missing_capabilities(&status) {
        return Some(format!(
            "this process lacks {names}; run the agent as root, or give it these capabilities"
        ));
    }
    if !Path::new("/sys/kernel/btf/vmlinux").exists() {
        return Some(
            "the kernel has no BTF (/sys/kernel/btf/vmlinux); one with CONFIG_DEBUG_INFO_BTF does"
                .into(),
        );
    }
    let systems = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    let lacks = |name: &str| {
        !systems
            .lines()
            .any(|line| line.ends_with(&format!("\t{name}")))
    };
    if lacks("bpf") {
        return Some("the kernel has no bpffs; one with CONFIG_BPF_SYSCALL does".into());
    }
    if lacks("cgroup2") {
        return Some("the kernel has no control groups of version 2".into());
    }
    None
}

/// CAP_SYS_ADMIN stands for the younger two.
fn missing_capabilities(status: &str) -> Option<String> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = line.and_then(|line| u64::from_str_radix(line.trim(), 16).ok())?;
    let has = |capability: u32| effective & (1 << capability) != 0;
    let needed = [
        ("CAP_BPF", has(CAP_BPF) || has(CAP_SYS_ADMIN)),
        ("CAP_PERFMON", has(CAP_PERFMON) || has(CAP_SYS_ADMIN)),
        ("CAP_NET_ADMIN", has(CAP_NET_ADMIN)),
    ];
    let names: Vec<&str> = needed
        .iter()
        .filter(|(_, there)| !there)
        .map(|(name, _)| *name)
        .collect();
    (!names.is_empty()).then(|| names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_process_lacks_is_named() {
        let lacks = |bits: u64| missing_capabilities(&format!("Name:\tx\nCapEff:\t{bits:016x}\n"));
        assert_eq!(lacks(u64::MAX), None);
        assert_eq!(lacks((1 << CAP_SYS_ADMIN) | (1 << CAP_NET_ADMIN)), None);
        assert_eq!(
            lacks((1 << CAP_BPF) | (1 << CAP_PERFMON)).as_deref(),
            Some("CAP_NET_ADMIN")
        );
        assert_eq!(
            lacks(0).as_deref(),
            Some("CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN")
        );
    }
}
