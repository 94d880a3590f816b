//! The standard client of the Workload API in Python, py-spiffe.

use std::process::{Command, Stdio};

use crate::Test;
use crate::cgroup::Cgroup;
use crate::stack::{Settings, Stack, unique};
use crate::tools;

pub(crate) const TESTS: &[Test] = &[("r33_py_spiffe_gets_svids_bundles_and_rotations", py_spiffe)];

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
    let mut script = Command::new(tools::python());
    script
        .arg(std::path::absolute("tests/py_spiffe.py").unwrap()) // tests run in their package's folder
        .arg(format!("unix:{}", stack.socket().display()))
        .arg(format!("spiffe://ringwall.local/{orders}"));
    let output = placed(&cgroup, &mut script).wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let wrong = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{wrong}");
    assert_eq!(said.trim(), "x509 bundles jwt rotation", "{wrong}");
}
