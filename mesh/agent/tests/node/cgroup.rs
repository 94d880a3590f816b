//! Cgroups of both versions, made for a test and removed after it.

use std::fs;
use std::path::{Path, PathBuf};

/// A cgroup. It must be empty at its end.
pub(crate) struct Cgroup(PathBuf);

impl Cgroup {
    /// In the hierarchy of version 2.
    pub(crate) fn v2(name: &str) -> Self {
        Self::below(&mount("cgroup2", None), name)
    }

    /// In the hierarchy of version 1 that has no controller.
    pub(crate) fn v1(name: &str) -> Self {
        Self::below(&mount("cgroup", Some("name=systemd")), name)
    }

    /// In another one.
    pub(crate) fn inside(&self, name: &str) -> Self {
        Self::below(&self.0, name)
    }

    fn below(parent: &Path, name: &str) -> Self {
        let path = parent.join(name);
        fs::create_dir(&path).unwrap_or_else(|error| {
            panic!(
                "{} cannot be made ({error}): these tests need root",
                path.display()
            )
        });
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Moves a process in.
    pub(crate) fn add(&self, pid: u32) {
        fs::write(self.0.join("cgroup.procs"), pid.to_string()).unwrap();
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // A process that was killed a moment ago may still be in it.
        for _ in 0..100 {
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}

fn mount(kind: &str, option: Option<&str>) -> PathBuf {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let found = mounts.lines().find_map(|line| {
        let (mount, file_system) = line.split_once(" - ")?;
        let fields: Vec<&str> = file_system.split(' ').collect();
        let fits = fields[0] == kind
            && option.is_none_or(|option| fields[2].split(',').any(|seen| seen == option));
        fits.then(|| PathBuf::from(mount.split(' ').nth(4).unwrap()))
    });
    found.unwrap_or_else(|| panic!("no {kind} {option:?} is mounted: these tests need it"))
}
