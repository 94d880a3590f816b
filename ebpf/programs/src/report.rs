//! Counting refusals, and telling of them.

use aya_ebpf::helpers::{bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_ktime_get_ns};
use ringwall_ebpf_common::{Endpoint, Event, Hook, Rate, Reason, Verdict, Workload};

use crate::maps::{COUNTERS, EVENTS, RATES};

/// What an event says beside the verdict.
pub struct Seen {
    pub hook: Hook,
    pub cgroup: u64,
    pub protocol: u8,
    pub destination: Endpoint,
    /// The hook runs in the process that asked; packets have none.
    pub in_process: bool,
}

/// One more of it, on this CPU.
#[inline(always)]
pub fn count(reason: Reason) {
    if let Some(counter) = COUNTERS.get_ptr_mut(reason as u32) {
        // SAFETY: the counter is this CPU's, and programs of control groups are not preempted by each other.
        unsafe { *counter = (*counter).wrapping_add(1) };
    }
}

/// Counts a refusal and writes an event, where the workload has not had its share of this second.
#[inline(always)]
pub fn refused(workload: Option<&Workload>, verdict: &Verdict, seen: &Seen) {
    count(verdict.reason);
    let id = match workload {
        Some(workload) => workload.id,
        None => 0,
    };
    // SAFETY: takes no pointer.
    let time = unsafe { bpf_ktime_get_ns() };
    if !within_rate(id, time) {
        count(Reason::EventSuppressed);
        return;
    }
    let mut event = Event {
        time,
        cgroup: seen.cgroup,
        workload: id,
        service: verdict.service,
        pid: 0,
        reason: verdict.reason as u8,
        hook: seen.hook as u8,
        protocol: seen.protocol,
        padding: 0,
        destination: seen.destination,
        command: [0; 16],
        padding_2: 0,
    };
    if seen.in_process {
        event.pid = (bpf_get_current_pid_tgid() >> 32) as u32;
        event.command = bpf_get_current_comm().unwrap_or([0; 16]);
    }
    if EVENTS.output(&event, 0).is_err() {
        count(Reason::EventLost);
    }
}

/// Racing CPUs may let a few more through; the limit protects the buffer, not a secret.
#[inline(always)]
fn within_rate(workload: u32, time: u64) -> bool {
    let second = time / 1_000_000_000;
    if let Some(rate) = RATES.get_ptr_mut(workload) {
        // SAFETY: the entry stays allocated while this program runs.
        let rate = unsafe { &mut *rate };
        if rate.second != second {
            *rate = Rate { second, events: 0 };
        }
        rate.events += 1;
        return rate.events <= Rate::LIMIT;
    }
    let first = Rate { second, events: 1 };
    // Without the entry nothing could be bounded.
    RATES.insert(workload, first, 0).is_ok()
}
