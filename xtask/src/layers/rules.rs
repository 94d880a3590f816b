//! Rules of dependency: downward only, single owners, sample services without TLS.

use crate::layers::metadata::{Metadata, Package};

/// Height of a package; a package may depend on lower ones only (on equals among `crates/*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Layer {
    Crates,
    Engines,
    Deployables,
    Tools,
}

/// External crates that one package owns, and the folders that may name them. Tests play the
/// attacker and so may speak every protocol themselves: dev-dependencies do not count.
const OWNERS: &[(&str, &[&str])] = &[
    ("aya", &["ebpf/loader"]),
    ("wasmtime", &["plugins/host"]),
    ("jsonwebtoken", &["crates/token"]),
    ("rustls-webpki", &["crates/tls"]),
    ("cedar-policy", &["crates/policy"]),
    ("rcgen", &["crates/identity"]),
    ("tokio-postgres", &["crates/store", "crates/tls"]),
    ("tokio-postgres-rustls", &["crates/tls"]),
    ("deadpool-postgres", &["crates/store"]),
    ("testcontainers", &["tests"]),
];

/// What no sample service may name: interception is transparent to them.
const TLS_CRATES: &[&str] = &[
    "ringwall-tls",
    "rustls",
    "tokio-rustls",
    "tokio-postgres-rustls",
    "rcgen",
    "native-tls",
];

/// Every violation in the graph.
pub(super) fn check(metadata: &Metadata) -> Vec<String> {
    let mut violations = Vec::new();
    for package in &metadata.packages {
        violations.extend(downward(metadata, package));
        violations.extend(owners(package));
        violations.extend(samples_without_tls(package));
        violations.extend(outside_default(package));
        violations.extend(vague_name(package));
    }
    violations
}

fn layer(folder: &str) -> Layer {
    match folder {
        "cli" | "xtask" | "tests" | "plugins/envoy" => Layer::Tools,
        // Runs plugins for their authors: above the host, below the command line.
        "plugins/runner" => Layer::Deployables,
        "plugins/host" | "ebpf/loader" => Layer::Engines,
        // Decides for whoever asks, in the kernel and out of it, and needs nothing.
        "ebpf/common" => Layer::Crates,
        // The form of cases and the way to build guests: for whoever tests or builds plugins.
        "plugins/cases" | "plugins/toolchain" => Layer::Crates,
        other if other.starts_with("crates/") => Layer::Crates,
        _ => Layer::Deployables,
    }
}

/// Rules 1 and 2: dependencies point downward, and deployables never see each other.
fn downward(metadata: &Metadata, package: &Package) -> Vec<String> {
    let own = layer(&package.folder);
    let mut violations = Vec::new();
    for other in &metadata.packages {
        if other.name == package.name || !package.dependencies.contains(&other.name) {
            continue;
        }
        let theirs = layer(&other.folder);
        if theirs < own || (own == Layer::Crates && theirs == Layer::Crates) {
            continue;
        }
        let way_out = if own == Layer::Deployables && theirs == Layer::Deployables {
            "deployables meet in crates/proto, in HTTP or in tokens only"
        } else {
            "dependencies point downward only"
        };
        violations.push(format!(
            "{} depends on {}: {way_out}",
            package.folder, other.folder
        ));
    }
    violations
}

/// Rule 3: one owner per engine.
fn owners(package: &Package) -> Vec<String> {
    let named = OWNERS
        .iter()
        .filter(|(name, _)| package.shipped.contains(*name));
    named
        .filter(|(_, folders)| !folders.contains(&package.folder.as_str()))
        .map(|(name, folders)| {
            format!(
                "{} depends on {name}: only {} may",
                package.folder,
                folders.join(", ")
            )
        })
        .collect()
}

/// Rule 4: sample services hold no TLS or mesh code.
fn samples_without_tls(package: &Package) -> Vec<String> {
    if !package.folder.starts_with("sample-services/") {
        return Vec::new();
    }
    let named = TLS_CRATES
        .iter()
        .filter(|name| package.shipped.contains(**name));
    named
        .map(|name| {
            format!(
                "{} depends on {name}: sample services hold no TLS code",
                package.folder
            )
        })
        .collect()
}

/// Rule 5: eBPF programs and Wasm guests need other toolchains, a plain build must not.
fn outside_default(package: &Package) -> Option<String> {
    let foreign = ["ebpf/programs", "plugins/filters/", "plugins/template"]
        .iter()
        .any(|prefix| package.folder.starts_with(prefix));
    (foreign && package.default_member).then(|| {
        format!(
            "{} is a default member: a plain build is stable Rust only",
            package.folder
        )
    })
}

/// A shared crate is named by what it owns.
fn vague_name(package: &Package) -> Option<String> {
    let vague = [
        "crates/common",
        "crates/utils",
        "crates/util",
        "crates/core",
    ];
    vague
        .contains(&package.folder.as_str())
        .then(|| format!("{}: name a shared crate by what it owns", package.folder))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(folder: &str, name: &str, dependencies: &[&str]) -> Package {
        Package {
            name: name.into(),
            version: "0.1.0".into(),
            folder: folder.into(),
            dependencies: dependencies.iter().map(|&name| name.into()).collect(),
            shipped: dependencies.iter().map(|&name| name.into()).collect(),
            binaries: Vec::new(),
            default_member: true,
        }
    }

    fn violations(packages: Vec<Package>) -> Vec<String> {
        check(&Metadata { packages })
    }

    #[test]
    fn a_downward_graph_holds() {
        let held = violations(vec![
            package(
                "crates/tls",
                "ringwall-tls",
                &["ringwall-identity", "rustls-webpki"],
            ),
            package("crates/identity", "ringwall-identity", &["rcgen"]),
            package("gateway", "ringwall-gateway", &["ringwall-tls"]),
            package("cli", "ringwall-cli", &["ringwall-tls"]),
        ]);
        assert_eq!(held, Vec::<String>::new());
    }

    #[test]
    fn an_upward_dependency_is_refused() {
        let seen = violations(vec![
            package("crates/tls", "ringwall-tls", &["ringwall-gateway"]),
            package("gateway", "ringwall-gateway", &[]),
        ]);
        assert_eq!(
            seen,
            ["crates/tls depends on gateway: dependencies point downward only"]
        );
    }

    #[test]
    fn deployables_do_not_see_each_other() {
        let seen = violations(vec![
            package("gateway", "ringwall-gateway", &["ringwall-authz-server"]),
            package("authz-server", "ringwall-authz-server", &[]),
        ]);
        assert_eq!(seen.len(), 1);
        assert!(
            seen[0].contains("crates/proto, in HTTP or in tokens"),
            "{seen:?}"
        );
    }

    #[test]
    fn a_tool_does_not_depend_on_a_deployable_s_peer_tool() {
        let seen = violations(vec![
            package("xtask", "xtask", &["ringwall-cli"]),
            package("cli", "ringwall-cli", &[]),
        ]);
        assert_eq!(seen.len(), 1);
    }

    #[test]
    fn an_engine_has_one_owner() {
        let seen = violations(vec![package(
            "tokenizer",
            "ringwall-tokenizer",
            &["jsonwebtoken"],
        )]);
        assert_eq!(
            seen,
            ["tokenizer depends on jsonwebtoken: only crates/token may"]
        );
    }

    #[test]
    fn a_sample_service_with_tls_is_refused() {
        let seen = violations(vec![package("sample-services/orders", "o", &["rustls"])]);
        assert_eq!(
            seen,
            ["sample-services/orders depends on rustls: sample services hold no TLS code"]
        );
    }

    #[test]
    fn kernel_programs_stay_out_of_a_plain_build() {
        let seen = violations(vec![package("ebpf/programs", "ringwall-ebpf", &[])]);
        assert_eq!(seen.len(), 1);
    }

    #[test]
    fn a_vague_crate_name_is_refused() {
        assert_eq!(
            violations(vec![package("crates/utils", "ringwall-utils", &[])]).len(),
            1
        );
    }
}
