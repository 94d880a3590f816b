//! What the agent may do to its machine: what its configuration takes, for as long as it lives, and nothing else.
//!
//! Owns: the list of capabilities, each for what it is named with, and giving up all others. Capabilities are a thread's own,
//! so this runs before there is a second one. What the agent starts (the trial and the canary of acceleration) has no more
//! than the agent. Must not: be run as another user; a process without capabilities keeps none.

use caps::{CapSet, Capability, CapsHashSet};
use ringwall_ebpf_loader::Kernel;
use ringwall_service::StartError;

use crate::config::kernel::AccelerationWish;
use crate::config::{Config, Delivery};

/// For the kernel's part: loading and reading programs and maps.
const KERNEL: [(Capability, &str); 3] = [
    (Capability::CAP_BPF, "loading programs and changing maps"),
    (
        Capability::CAP_NET_ADMIN,
        "attaching them to control groups",
    ),
    (Capability::CAP_PERFMON, "what programs read of the kernel"),
];
/// For the trial's control groups, beside the slice: the root of control groups is nobody's to write to.
const TRIAL: Capability = Capability::CAP_DAC_OVERRIDE;
/// For files that are another user's.
const OWNERS: [Capability; 2] = [
    // They are given away.
    Capability::CAP_CHOWN,
    // They are replaced in folders that are the other user's.
    Capability::CAP_DAC_OVERRIDE,
];
/// For telling a server of new files: its process is another user's, and so is the file with its id.
const SERVERS: [Capability; 2] = [Capability::CAP_KILL, Capability::CAP_DAC_OVERRIDE];

/// Gives up whatever `config` does not take.
pub(crate) fn narrow(config: &Config) -> Result<(), StartError> {
    let failed = |error: caps::errors::CapsError| {
        StartError::permission(format!(
            "capabilities cannot be given up: {error}\n  expected: prctl(2) and capset(2) to be allowed\n  fix: take them out of the \
             filter of system calls"
        ))
    };
    let had = caps::read(None, CapSet::Permitted).map_err(failed)?;
    // An engine that does not know the two younger ones gives the one that they were made of.
    let stands_in = |capability: &Capability| {
        *capability != Capability::CAP_NET_ADMIN && had.contains(&Capability::CAP_SYS_ADMIN)
    };
    if let Some(kernel) = &config.kernel {
        let missing: Vec<String> = KERNEL
            .iter()
            .filter(|(capability, _)| !had.contains(capability) && !stands_in(capability))
            .map(|(capability, purpose)| format!("{capability} ({purpose})"))
            .collect();
        if !missing.is_empty() {
            return Err(StartError::permission(format!(
                "kernel: this process lacks {}\n  expected: CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON\n  fix: start the agent as root or \
                 with these capabilities, or take `kernel` out: workloads then use their proxies' explicit addresses",
                missing.join(", ")
            )));
        }
        // The last thing that takes more, where it is still to do.
        Kernel::prepare(&kernel.pins)
            .map_err(|error| StartError::permission(format!("kernel: {error}")))?;
    }
    let needed = needed(config);
    let mut kept: CapsHashSet = needed.intersection(&had).copied().collect();
    if needed.iter().any(|capability| {
        KERNEL.iter().any(|(known, _)| known == capability) && !had.contains(capability)
    }) {
        kept.insert(Capability::CAP_SYS_ADMIN);
    }
    // The bounding set goes first: it takes a capability to do so. Who has not that one gains nothing by it.
    if had.contains(&Capability::CAP_SETPCAP) {
        for capability in caps::read(None, CapSet::Bounding).map_err(failed)? {
            if !kept.contains(&capability) {
                caps::drop(None, CapSet::Bounding, capability).map_err(failed)?;
            }
        }
    }
    caps::clear(None, CapSet::Ambient).map_err(failed)?;
    caps::set(None, CapSet::Inheritable, &CapsHashSet::new()).map_err(failed)?;
    caps::set(None, CapSet::Effective, &kept).map_err(failed)?;
    caps::set(None, CapSet::Permitted, &kept).map_err(failed)
}

fn needed(config: &Config) -> CapsHashSet {
    let mut needed = CapsHashSet::new();
    if let Some(kernel) = &config.kernel {
        needed.extend(KERNEL.iter().map(|(capability, _)| *capability));
        if kernel.acceleration == AccelerationWish::Auto {
            needed.insert(TRIAL);
        }
    }
    if config
        .deliver
        .iter()
        .any(|delivery| delivery.owner().is_some())
    {
        needed.extend(OWNERS);
    }
    let tells = |delivery: &Delivery| {
        matches!(
            delivery,
            Delivery::Server {
                reload: Some(_),
                ..
            }
        )
    };
    if config.deliver.iter().any(tells) {
        needed.extend(SERVERS);
    }
    needed
}
