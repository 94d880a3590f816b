//! Which workload a process's cgroups name.
//!
//! Owns: the reading of `/proc/PID/cgroup` (cgroups(7)) in both versions, the selectors, and the check
//! of who has made the cgroup. Every hierarchy counts, and every component of a path: where two name
//! different workloads, the process is nobody. So a workload that may make cgroups below its own
//! cannot become another one by the name of a new one.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::unistd::Uid;

use crate::attest::Unknown;

/// What stands around a workload's name in a cgroup's, by default.
const PREFIXES: [&str; 2] = ["ringwall-app-", "ringwall-proxy-"];
const SUFFIX: &str = ".slice";
/// A hyphen that is part of a name (systemd-escape(1)): in the name of a slice a plain one leads to a slice
/// below another, so that `ringwall-app-spa-proxy.slice` would lie in one of a workload `spa`.
const HYPHEN: &str = r"\x2d";

/// Component of a path → workload.
#[derive(Clone, Debug, Default)]
pub(crate) struct Selectors(BTreeMap<String, String>);

/// A workload, with the cgroups that name it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) workload: String,
    named_by: Vec<Place>,
}

/// A cgroup in one hierarchy.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    /// Controllers of version 1, `name=…` for one without; empty for version 2.
    hierarchy: String,
    /// Path of the outermost cgroup that names the workload.
    path: String,
}

impl Selectors {
    pub(crate) fn new(configured: BTreeMap<String, String>) -> Self {
        Self(configured)
    }

    fn workload<'a>(&'a self, component: &'a str) -> Option<Cow<'a, str>> {
        if let Some(workload) = self.0.get(component) {
            return Some(workload.into());
        }
        let rest = PREFIXES
            .iter()
            .find_map(|prefix| component.strip_prefix(prefix))?;
        let name = rest.strip_suffix(SUFFIX).filter(|name| !name.is_empty())?;
        Some(if name.contains(HYPHEN) {
            name.replace(HYPHEN, "-").into()
        } else {
            name.into()
        })
    }
}

/// The workload that `text`, the content of `/proc/PID/cgroup`, names.
pub(crate) fn workload_of(text: &str, selectors: &Selectors) -> Result<Option<Found>, Unknown> {
    let mut found: Option<Found> = None;
    for line in text.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_number), Some(hierarchy), Some(path)) =
            (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let mut seen = String::new();
        let mut outermost = true;
        for component in path.split('/').filter(|component| !component.is_empty()) {
            seen.push('/');
            seen.push_str(component);
            let Some(workload) = selectors.workload(component) else {
                continue;
            };
            let found = found.get_or_insert_with(|| Found {
                workload: workload.clone().into_owned(),
                named_by: Vec::new(),
            });
            if found.workload != workload {
                return Err(Unknown::Ambiguous);
            }
            if outermost {
                outermost = false;
                found.named_by.push(Place {
                    hierarchy: hierarchy.to_owned(),
                    path: seen.clone(),
                });
            }
        }
    }
    Ok(found)
}

impl Found {
    /// Whether root or `own` has made every cgroup that names the workload, and nobody else may make
    /// one beside it or put processes into it.
    pub(crate) fn is_owned_by_us_or_root(&self, own: Uid) -> bool {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        self.named_by.iter().all(|place| {
            directory(&mounts, place).is_some_and(|directory| is_ours(&directory, own))
        })
    }
}

fn is_ours(directory: &Path, own: Uid) -> bool {
    /// Write permission of group and others.
    const OTHERS_WRITE: u32 = 0o022;
    let ours = |path: &Path| {
        fs::metadata(path).is_ok_and(|meta| {
            (meta.uid() == 0 || meta.uid() == own.as_raw()) && meta.mode() & OTHERS_WRITE == 0
        })
    };
    directory.parent().is_some_and(ours) && ours(directory) && ours(&directory.join("cgroup.procs"))
}

/// Where a cgroup is in the file system, by `mounts` (proc_pid_mountinfo(5)).
fn directory(mounts: &str, place: &Place) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let (mount, file_system) = line.split_once(" - ")?;
        let mut file_system = file_system.split(' ');
        let (kind, options) = (file_system.next()?, file_system.nth(1)?);
        let is_it = match kind {
            "cgroup2" => place.hierarchy.is_empty(),
            "cgroup" => {
                !place.hierarchy.is_empty()
                    && place
                        .hierarchy
                        .split(',')
                        .all(|part| options.split(',').any(|option| option == part))
            }
            _ => false,
        };
        let mut mount = mount.split(' ');
        let (root, point) = (mount.nth(3)?, mount.next()?);
        let below = place.path.strip_prefix(root.trim_end_matches('/'))?;
        (is_it && below.starts_with('/'))
            .then(|| Path::new(point).join(below.trim_start_matches('/')))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn selectors() -> Selectors {
        Selectors::new([("orders.service".to_owned(), "orders".to_owned())].into())
    }

    fn named(text: &str) -> Result<Option<String>, Unknown> {
        workload_of(text, &selectors()).map(|found| found.map(|found| found.workload))
    }

    #[test]
    fn r60_a_cgroup_of_either_version_names_a_workload() {
        for text in [
            "0::/ringwall-app-orders.slice\n",
            "0::/ringwall-proxy-orders.slice/docker-1a2b.scope\n",
            "0::/a/ringwall-app-orders.slice/b\n",
            "3:cpu,cpuacct:/ringwall-app-orders.slice\n0::/\n",
            "1:name=systemd:/system.slice/orders.service\n",
            "0::/../ringwall-app-orders.slice\n",
        ] {
            assert_eq!(named(text), Ok(Some("orders".to_owned())), "{text}");
        }
        let with_hyphen = named("0::/ringwall-app-spa-proxy.slice\n");
        assert_eq!(with_hyphen, Ok(Some("spa-proxy".to_owned())));
        // As systemd lays it out, and as an engine without systemd does.
        for text in [
            "0::/ringwall.slice/ringwall-app.slice/ringwall-app-spa\\x2dproxy.slice/docker-1a.scope\n",
            "4:pids:/ringwall-app-spa\\x2dproxy.slice/1a2b\n",
        ] {
            assert_eq!(named(text), Ok(Some("spa-proxy".to_owned())), "{text}");
        }
    }

    #[test]
    fn attack_names_that_only_resemble_a_selector_name_nobody() {
        for text in [
            "0::/\n",
            "0::/user.slice/user-0.slice\n",
            "0::/xringwall-app-orders.slice\n",
            "0::/ringwall-app-orders.slice.x\n",
            "0::/ringwall-app-.slice\n",
            "0::/ringwall-app-orders\n",
            "0::/orders.service2\n",
            "ringwall-app-orders.slice\n",
            "",
        ] {
            assert_eq!(named(text), Ok(None), "{text}");
        }
    }

    #[test]
    fn attack_a_cgroup_inside_a_workload_s_own_cannot_name_another() {
        for text in [
            "0::/ringwall-app-orders.slice/ringwall-app-payments.slice\n",
            "0::/ringwall-app-payments.slice/orders.service\n",
            "4:pids:/ringwall-app-payments.slice\n0::/ringwall-app-orders.slice\n",
        ] {
            assert_eq!(named(text), Err(Unknown::Ambiguous), "{text}");
        }
        let twice = "0::/ringwall-app-orders.slice/ringwall-proxy-orders.slice\n";
        assert_eq!(named(twice), Ok(Some("orders".to_owned())));
    }

    #[test]
    fn a_cgroup_is_found_below_its_mount() {
        let mounts = "30 23 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
            31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n\
            32 30 0:28 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n\
            33 30 0:29 /above /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let at = |hierarchy: &str, path: &str| {
            let place = Place {
                hierarchy: hierarchy.into(),
                path: path.into(),
            };
            directory(mounts, &place).map(|path| path.display().to_string())
        };
        assert_eq!(
            at("cpu,cpuacct", "/a/b").as_deref(),
            Some("/sys/fs/cgroup/cpu,cpuacct/a/b")
        );
        assert_eq!(
            at("name=systemd", "/a").as_deref(),
            Some("/sys/fs/cgroup/systemd/a")
        );
        assert_eq!(
            at("", "/above/a").as_deref(),
            Some("/sys/fs/cgroup/unified/a")
        );
        assert_eq!(at("", "/aboveaverage/a"), None);
        assert_eq!(at("memory", "/a"), None);
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in any::<String>()) {
            let _ = workload_of(&text, &selectors());
            let place = Place { hierarchy: String::new(), path: "/a".into() };
            let _ = directory(&text, &place);
        }

        /// Whatever stands around it: one selector names its workload, a second one nobody.
        #[test]
        fn a_path_names_what_its_components_name(parts in proptest::collection::vec("[a-z.]{1,12}", 0..6), at in 0..7_usize) {
            let mut parts: Vec<String> = parts.into_iter().filter(|part| part != "orders.service").collect();
            prop_assert_eq!(named(&format!("0::/{}", parts.join("/"))), Ok(None));
            parts.insert(at.min(parts.len()), "ringwall-app-orders.slice".into());
            prop_assert_eq!(named(&format!("0::/{}", parts.join("/"))), Ok(Some("orders".into())));
            parts.insert((at * 5) % (parts.len() + 1), "ringwall-app-payments.slice".into());
            prop_assert_eq!(named(&format!("0::/{}", parts.join("/"))), Err(Unknown::Ambiguous));
        }
    }
}
