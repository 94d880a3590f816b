//! Debian packages: which are missing, and how they get onto the machine.
//!
//! A need is judged by its tool, so that Node from elsewhere counts as well as Debian's. Nothing is
//! installed without being named first, and no package may leave a service running.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::commands::Purpose;
use crate::config::Config;
use crate::process::say;
use crate::setup::privilege::Privilege;

/// Something that must be on the machine, and the packages that bring it.
struct Need {
    what: &'static str,
    packages: &'static [&'static str],
    met: fn(&Config) -> bool,
}

const RUN: &[Need] = &[
    Need {
        what: "a C compiler (for aws-lc and SQLite)",
        packages: &["gcc", "libc6-dev"],
        met: |config| config.tool("cc").is_some() && Path::new("/usr/include/stdio.h").exists(),
    },
    Need {
        what: "PostgreSQL 15 or newer",
        packages: &["postgresql-15"],
        met: has_postgres,
    },
    Need {
        what: "Node 18 or newer",
        packages: &["nodejs"],
        met: has_node,
    },
    Need {
        what: "npm",
        packages: &["npm"],
        met: |config| config.tool("npm").is_some(),
    },
];

const TEST: &[Need] = &[
    Need {
        what: "Chromium",
        packages: &["chromium"],
        met: |config| config.tool("chromium").is_some(),
    },
    Need {
        what: "chromedriver",
        packages: &["chromium-driver"],
        met: |config| config.tool("chromedriver").is_some(),
    },
    Need {
        what: "certutil (trust of the test CA in the browser)",
        packages: &["libnss3-tools"],
        met: |config| config.tool("certutil").is_some(),
    },
];

const BENCH: &[Need] = &[
    Need {
        what: "nginx",
        packages: &["nginx"],
        met: |config| config.tool("nginx").is_some(),
    },
    Need {
        what: "HAProxy",
        packages: &["haproxy"],
        met: |config| config.tool("haproxy").is_some(),
    },
    Need {
        what: "iperf3",
        packages: &["iperf3"],
        met: |config| config.tool("iperf3").is_some(),
    },
    Need {
        what: "nft (what interception and the shield are measured beside)",
        packages: &["nftables"],
        met: |config| config.tool("nft").is_some(),
    },
    Need {
        what: "ip (network namespaces)",
        packages: &["iproute2"],
        met: |config| config.tool("ip").is_some(),
    },
    Need {
        what: "wrk",
        packages: &["wrk"],
        met: |config| config.tool("wrk").is_some(),
    },
];

const EBPF: &[Need] = &[
    Need {
        what: "a Rust compiler for eBPF",
        packages: &["rustc-web", "libstd-rust-web-dev-bpf"],
        met: crate::ebpf::can_build,
    },
    Need {
        what: "LLVM 22 (for bpf-linker, which is built once)",
        packages: &["llvm-22-dev"],
        met: crate::ebpf::can_link,
    },
];

const WASM: &[Need] = &[
    Need {
        what: "a Rust compiler for Wasm guests",
        packages: &ringwall_plugin_toolchain::DEBIAN_PACKAGES,
        met: crate::wasm::can_build,
    },
    Need {
        what: "clang with a linker for Wasm (for the guest in C)",
        packages: &["clang-22", "lld-22"],
        met: crate::wasm::can_build_c,
    },
];

const WHEELS: &[Need] = &[Need {
    what: "Python's venv (for tools that come as wheels)",
    packages: &["python3-venv"],
    met: |config| {
        config
            .tool("python3")
            .is_some_and(|python| has_ensurepip(&python))
    },
}];

const ENGINE: &[Need] = &[
    Need {
        what: "a container engine",
        packages: &["docker.io"],
        met: |config| config.tool("dockerd").is_some() && config.tool("docker").is_some(),
    },
    Need {
        what: "containerd",
        packages: &["containerd"],
        met: |config| config.tool("containerd").is_some(),
    },
    Need {
        what: "runc",
        packages: &["runc"],
        met: |config| config.tool("runc").is_some(),
    },
    Need {
        what: "iptables (networks of containers)",
        packages: &["iptables"],
        met: |config| config.tool("iptables").is_some(),
    },
];

const BASE_IMAGES: &[Need] = &[Need {
    what: "debootstrap (base images where no registry is reachable)",
    packages: &["debootstrap"],
    met: |config| config.tool("debootstrap").is_some(),
}];

/// Packages whose service Debian starts at installation, and the service's name.
const SERVICES: &[&str] = &["nginx", "haproxy"];

/// Keeps Debian from creating and starting a cluster of its own on port 5432.
const NO_MAIN_CLUSTER: &str = "/etc/postgresql-common/createcluster.d/ringwall.conf";

/// Installs what the purpose needs and the machine lacks.
pub(crate) fn ensure(config: &Config, purpose: Purpose) -> Result<()> {
    let missing = missing(config, purpose);
    if missing.is_empty() {
        return Ok(());
    }
    say("setup: this machine lacks:");
    for need in &missing {
        say(&format!(
            "  {} (package {})",
            need.what,
            need.packages.join(" ")
        ));
    }
    let packages: Vec<&str> = missing
        .iter()
        .flat_map(|need| need.packages)
        .copied()
        .collect();
    install(&privilege(config, &packages)?, &packages)?;
    let left = self::missing(config, purpose);
    if let Some(need) = left.first() {
        bail!(
            "{} is still missing after the installation of {}",
            need.what,
            packages.join(" ")
        );
    }
    Ok(())
}

fn missing(config: &Config, purpose: Purpose) -> Vec<&'static Need> {
    let lists: &[&'static [Need]] = match purpose {
        Purpose::Run => &[RUN],
        Purpose::Test => &[RUN, TEST, EBPF, WASM],
        Purpose::Bench => &[BENCH],
        Purpose::Ebpf => &[EBPF],
        Purpose::Wasm => &[WASM],
        Purpose::Wheels => &[WHEELS],
        Purpose::Engine => &[ENGINE],
        Purpose::BaseImages => &[BASE_IMAGES],
    };
    lists
        .iter()
        .copied()
        .flatten()
        .filter(|need| !(need.met)(config))
        .collect()
}

/// Root or sudo, where there is an apt-get to run with it.
fn privilege(config: &Config, packages: &[&str]) -> Result<Privilege> {
    let packages = packages.join(" ");
    if config.tool("apt-get").is_none() {
        bail!("no apt-get here: install by hand what Debian calls {packages}");
    }
    Privilege::find(config).with_context(|| {
        format!(
            "installing needs root and there is no sudo: run as root\n  \
             apt-get install -y --no-install-recommends {packages}"
        )
    })
}

fn install(privilege: &Privilege, packages: &[&str]) -> Result<()> {
    let postgres = packages
        .iter()
        .any(|package| package.starts_with("postgresql"))
        && !Path::new("/etc/postgresql-common/createcluster.conf").exists();
    if postgres {
        let script = format!(
            "mkdir -p {} && echo 'create_main_cluster = false' > {NO_MAIN_CLUSTER}",
            "/etc/postgresql-common/createcluster.d"
        );
        privilege.run(
            "no PostgreSQL cluster outside Ringwall's state",
            &["sh", "-c", &script],
        )?;
    }
    let result = fetch(privilege, packages);
    if postgres {
        privilege.run(
            "the machine's own default again",
            &["rm", "-f", NO_MAIN_CLUSTER],
        )?;
    }
    result?;
    for service in SERVICES.iter().filter(|service| packages.contains(service)) {
        stop_service(privilege, service)?;
    }
    Ok(())
}

fn fetch(privilege: &Privilege, packages: &[&str]) -> Result<()> {
    privilege.run("fresh package lists", &["apt-get", "update", "-q"])?;
    let mut words = vec!["apt-get", "install", "-y", "-q", "--no-install-recommends"];
    words.extend(packages);
    privilege.run("installation", &words)
}

/// The bench starts its own nginx and HAProxy: Debian's must not hold port 80.
fn stop_service(privilege: &Privilege, service: &str) -> Result<()> {
    if Path::new("/run/systemd/system").exists() {
        let words = ["systemctl", "disable", "--now", service];
        return privilege.run("no service left behind", &words);
    }
    let script = format!("service {service} stop || true");
    privilege.run("no service left behind", &["sh", "-c", &script])
}

fn has_postgres(config: &Config) -> bool {
    let packaged = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten();
    let packaged = packaged.filter(|entry| entry.path().join("bin/postgres").is_file());
    let newest = packaged
        .filter_map(|entry| entry.file_name().to_string_lossy().parse::<u32>().ok())
        .max();
    newest.is_some_and(|version| version >= 15) || config.tool("postgres").is_some()
}

fn has_node(config: &Config) -> bool {
    let Some(node) = config.tool("node") else {
        return false;
    };
    let output = Command::new(node)
        .arg("--version")
        .stderr(Stdio::null())
        .output();
    output.is_ok_and(|output| {
        node_major(&String::from_utf8_lossy(&output.stdout)).is_some_and(|major| major >= 18)
    })
}

/// `v20.20.2` → 20.
fn node_major(version: &str) -> Option<u32> {
    version
        .trim()
        .strip_prefix('v')?
        .split('.')
        .next()?
        .parse()
        .ok()
}

fn has_ensurepip(python: &Path) -> bool {
    let mut probe = Command::new(python);
    probe
        .args(["-c", "import ensurepip, venv"])
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    probe.status().is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_versions_are_read() {
        assert_eq!(node_major("v20.20.2\n"), Some(20));
        assert_eq!(node_major("v18.0.0"), Some(18));
        assert_eq!(node_major("20"), None);
    }
}
