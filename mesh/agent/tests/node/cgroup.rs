//! Cgroups of both versions, made for a test and removed after it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A cgroup. It must be empty at its end.
pub(crate) struct Cgroup(PathBuf);

impl Cgroup {
    /// In the hierarchy of version 2.
    pub(crate) fn v2(name: &str) -> Self {
        let hierarchy = mounted("cgroup2", None).expect("cgroups of version 2 are mounted");
        Self::below(&hierarchy, name)
    }

    /// In the hierarchy of version 1 that systemd would use, or in one that is mounted for this.
    pub(crate) fn v1(name: &str) -> Self {
        let hierarchy = mounted("cgroup", Some("name=systemd")).unwrap_or_else(mount_v1);
        Self::below(&hierarchy, name)
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

fn mounted(kind: &str, option: Option<&str>) -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    mounts.lines().find_map(|line| {
        let (mount, file_system) = line.split_once(" - ")?;
        let fields: Vec<&str> = file_system.split(' ').collect();
        let fits = fields[0] == kind
            && option.is_none_or(|option| fields[2].split(',').any(|seen| seen == option));
        fits.then(|| PathBuf::from(mount.split(' ').nth(4).unwrap()))
    })
}

/// A machine with version 2 alone can have a hierarchy without controllers beside it. It stays
/// mounted: the next run finds it.
fn mount_v1() -> PathBuf {
    let point = PathBuf::from("/run/ringwall-test-cgroup");
    fs::create_dir_all(&point).unwrap();
    let done = Command::new("mount")
        .args(["-t", "cgroup", "-o", "none,name=systemd", "ringwall-test"])
        .arg(&point)
        .status();
    assert!(
        done.is_ok_and(|status| status.success()),
        "no hierarchy of cgroups of version 1 can be mounted at {}",
        point.display()
    );
    point
}
