//! The supervisor's word: this process, which I have started, is that workload.
//!
//! Owns: the entries. Each is for one process, told from a later one with the same id by its start
//! time, and ends with it. Children inherit nothing.
//! Must not: hear anybody but the supervisor (`control_socket.rs` sees to that).

use std::collections::HashMap;

use parking_lot::Mutex;

use crate::attest::process::start_time;

/// Processes that may be known at the same time.
const MOST: usize = 4096;

/// Why an entry is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotEntered {
    #[error("no process has this id and this start time")]
    NoSuchProcess,
    #[error("this process is another workload already")]
    AnotherWorkload,
    #[error("there are too many processes")]
    TooMany,
}

/// Processes of which the supervisor has spoken.
#[derive(Default)]
pub(crate) struct Registry {
    entries: Mutex<HashMap<i32, Entry>>,
}

#[derive(Clone, Debug)]
struct Entry {
    started: u64,
    workload: String,
}

impl Registry {
    /// Takes an entry for a process that runs.
    pub(crate) fn enter(&self, pid: i32, started: u64, workload: &str) -> Result<(), NotEntered> {
        if pid <= 0 || !start_time(pid).is_ok_and(|seen| seen == started) {
            return Err(NotEntered::NoSuchProcess);
        }
        let mut entries = self.entries.lock();
        if let Some(entry) = entries.get(&pid)
            && entry.started == started
            && entry.workload != workload
        {
            return Err(NotEntered::AnotherWorkload);
        }
        if entries.len() >= MOST {
            entries.retain(|pid, entry| start_time(*pid).is_ok_and(|seen| seen == entry.started));
        }
        if entries.len() >= MOST {
            return Err(NotEntered::TooMany);
        }
        let entry = Entry {
            started,
            workload: workload.to_owned(),
        };
        entries.insert(pid, entry);
        Ok(())
    }

    /// The workload of exactly this process.
    pub(crate) fn workload(&self, pid: i32, started: u64) -> Option<String> {
        let entries = self.entries.lock();
        let entry = entries.get(&pid)?;
        (entry.started == started).then(|| entry.workload.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attack_pid_reuse_an_entry_is_for_one_process_alone() {
        let registry = Registry::default();
        let pid = i32::try_from(std::process::id()).unwrap();
        let started = start_time(pid).unwrap();
        registry.enter(pid, started, "orders").unwrap();
        assert_eq!(registry.workload(pid, started).as_deref(), Some("orders"));
        // The same id, another life.
        assert_eq!(registry.workload(pid, started + 1), None);
        assert_eq!(registry.workload(pid + 1, started), None);
    }

    #[test]
    fn processes_that_are_not_there_and_second_names_are_refused() {
        let registry = Registry::default();
        let pid = i32::try_from(std::process::id()).unwrap();
        let started = start_time(pid).unwrap();
        let refused = |pid, started| registry.enter(pid, started, "orders").unwrap_err();
        assert_eq!(refused(pid, started + 1), NotEntered::NoSuchProcess);
        assert_eq!(refused(0, started), NotEntered::NoSuchProcess);
        assert_eq!(refused(-1, started), NotEntered::NoSuchProcess);
        registry.enter(pid, started, "orders").unwrap();
        registry.enter(pid, started, "orders").unwrap();
        let second = registry.enter(pid, started, "payments").unwrap_err();
        assert_eq!(second, NotEntered::AnotherWorkload);
        assert_eq!(registry.workload(pid, started).as_deref(), Some("orders"));
    }
}
