//! What a composition must not say. Each refusal names the line and the fix.

mod mesh;
mod replicas;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_saphyr::{Location, Spanned};

use super::{Component, Composition, Network, OPERATOR, SecretSpec};
use crate::error::CliError;

/// Longest life of a workload's certificate (DESIGN: SVIDs ≤ 1 h).
const LONGEST_WORKLOAD_CERTIFICATE: Duration = Duration::from_secs(3600);
/// Shortest: rotation happens at half of it.
const SHORTEST_CERTIFICATE: Duration = Duration::from_secs(10);
/// Secrets that `api-key` fills in the callee.
pub(crate) const API_KEY_ENTRIES: &str = "api-key-entries";
/// The secret that keys the hashes in [`API_KEY_ENTRIES`].
pub(crate) const API_KEY_PEPPER: &str = "api-key-pepper";

/// Checks everything that the types cannot.
pub(super) fn check(file: &str, composition: &Composition) -> Result<(), CliError> {
    let checker = Checker { file, composition };
    checker.names()?;
    checker.engines()?;
    checker.kinds()?;
    checker.mesh()?;
    checker.traffic()?;
    checker.ports()?;
    checker.certificates()?;
    checker.references()?;
    checker.edges()?;
    checker.networks()?;
    checker.cycles()?;
    checker.databases()?;
    checker.secrets()
}

struct Checker<'a> {
    file: &'a str,
    composition: &'a Composition,
}

impl Checker<'_> {
    fn refuse<T>(
        &self,
        at: Location,
        what: impl Into<String>,
        fix: impl Into<String>,
    ) -> Result<T, CliError> {
        Err(CliError::Composition {
            place: format!("{}:{}:{}", self.file, at.line(), at.column()),
            what: what.into(),
            fix: fix.into(),
        })
    }

    /// Names become SPIFFE paths, file names and database roles.
    fn names(&self) -> Result<(), CliError> {
        let mut seen = BTreeMap::new();
        for component in &self.composition.components {
            self.name(&component.name, "a component")?;
            let (name, at) = (&component.name.value, component.name.referenced);
            if let Some(first) = seen.insert(name, at.line()) {
                let what = format!("component `{name}` is declared a second time");
                return self.refuse(
                    at,
                    what,
                    format!("it stands at line {first} already: remove one"),
                );
            }
        }
        Ok(())
    }

    fn name(&self, name: &Spanned<String>, kind: &str) -> Result<(), CliError> {
        let (name, at) = (&name.value, name.referenced);
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if name.is_empty() || name.len() > 32 || !name.bytes().all(plain) {
            let what = format!("`{name}` cannot be the name of {kind}");
            return self.refuse(at, what, "use 1 to 32 of a-z, 0-9 and `-`");
        }
        if name == OPERATOR {
            let what = format!("`{OPERATOR}` is the operator's own identity");
            return self.refuse(at, what, format!("give {kind} another name"));
        }
        Ok(())
    }

    /// An engine's name is an identity: it must not be a component's.
    fn engines(&self) -> Result<(), CliError> {
        let mut seen = BTreeMap::new();
        for component in &self.composition.components {
            seen.insert(&component.name.value, component.name.referenced.line());
        }
        for engine in &self.composition.engines {
            self.name(&engine.name, "an engine")?;
            let (name, at) = (&engine.name.value, engine.name.referenced);
            if let Some(first) = seen.insert(name, at.line()) {
                let what = format!("engine `{name}` has a name that is taken");
                return self.refuse(at, what, format!("it stands at line {first}: rename one"));
            }
            if engine.profile.value.is_empty() {
                let what = format!("engine `{name}` has no profile");
                let fix = "name the profile of the compose file that starts it";
                return self.refuse(engine.profile.referenced, what, fix);
            }
        }
        let telemetry = self.composition.telemetry.as_ref();
        let Some(export) = telemetry.and_then(|telemetry| telemetry.export.as_ref()) else {
            return Ok(());
        };
        let (to, at) = (&export.to.value, export.to.referenced);
        if !self
            .composition
            .engines
            .iter()
            .any(|one| one.name.value == *to)
        {
            let what = format!("telemetry.export.to is `{to}`, which is no engine");
            let fix = format!("add `- {{ name: {to}, profile: … }}` to `engines`");
            return self.refuse(at, what, fix);
        }
        if export.port.value == 0 {
            let fix = "name the port on which it takes OTLP over HTTP, such as 4318";
            return self.refuse(export.port.referenced, "port 0 is no port", fix);
        }
        Ok(())
    }

    fn kinds(&self) -> Result<(), CliError> {
        for component in &self.composition.components {
            let Spanned {
                value: name,
                referenced: at,
                ..
            } = &component.name;
            if component.binary.is_some() == component.postgres.is_some() {
                let what =
                    format!("component `{name}` must be exactly one of `binary` and `postgres`");
                return self.refuse(*at, what, "give one of the two keys");
            }
            if component.binary.is_some() && component.admin.is_none() {
                let what = format!("component `{name}` has no `admin` port");
                return self.refuse(*at, what, "give it one: the health gate asks there");
            }
        }
        Ok(())
    }

    fn ports(&self) -> Result<(), CliError> {
        let mut seen: BTreeMap<u16, &str> = BTreeMap::new();
        let public = (&self.composition.public.port, "the public listener");
        let own = self.composition.components.iter().flat_map(|component| {
            let name = component.name.value.as_str();
            let sidecar = component.sidecar.iter().flat_map(super::mesh::ports);
            let ports = component.port.iter().chain(&component.admin);
            ports
                .chain(sidecar.map(|(port, _)| port))
                .map(move |port| (port, name))
        });
        let mesh = self.composition.mesh.as_ref();
        let bootstrap = mesh.into_iter().flat_map(|mesh| mesh.control_plane.all());
        let bootstrap = bootstrap.map(|(_, port)| (port, "the control plane"));
        for (port, owner) in std::iter::once(public).chain(own).chain(bootstrap) {
            if port.value == 0 {
                let fix = "name a port; `--free-ports` chooses free ones";
                return self.refuse(port.referenced, "port 0 is no port", fix);
            }
            if let Some(other) = seen.insert(port.value, owner) {
                let what = format!("port {} of {owner} is taken by {other}", port.value);
                return self.refuse(
                    port.referenced,
                    what,
                    "give each listener a port of its own",
                );
            }
        }
        Ok(())
    }

    fn certificates(&self) -> Result<(), CliError> {
        let certificates = &self.composition.certificates;
        let at = self.composition.trust_domain.referenced;
        if certificates.workloads > LONGEST_WORKLOAD_CERTIFICATE {
            let what = "certificates.workloads is longer than 1 h";
            return self.refuse(
                at,
                what,
                "choose 1h or less: a stolen certificate must die soon",
            );
        }
        if certificates.workloads.min(certificates.edge) < SHORTEST_CERTIFICATE {
            return self.refuse(
                at,
                "a certificate's life is shorter than 10 s",
                "choose 10s or more",
            );
        }
        Ok(())
    }

    fn references(&self) -> Result<(), CliError> {
        let public = &self.composition.public.component;
        self.known(public, "public.component is")?;
        if let Some(telemetry) = &self.composition.telemetry {
            self.known(&telemetry.collector, "telemetry.collector is")?;
        }
        for component in &self.composition.components {
            let name = &component.name.value;
            for (list, verb) in [
                (&component.needs, "needs"),
                (&component.calls, "calls"),
                (&component.callers, "is called by"),
            ] {
                for other in list {
                    self.known(other, &format!("component `{name}` {verb}"))?;
                }
            }
        }
        Ok(())
    }

    fn known(&self, name: &Spanned<String>, sentence: &str) -> Result<(), CliError> {
        if self.composition.component(&name.value).is_some() {
            return Ok(());
        }
        let what = format!("{sentence} `{}`, which is no component", name.value);
        let names = self
            .composition
            .components
            .iter()
            .map(|component| &component.name.value);
        let closest = names.min_by_key(|known| distance(known, &name.value));
        let fix = closest.map_or_else(String::new, |known| format!("did you mean `{known}`?"));
        self.refuse(name.referenced, what, fix)
    }

    /// An edge stands at both of its ends, so that no service gains a caller unasked.
    fn edges(&self) -> Result<(), CliError> {
        let names = |list: &[Spanned<String>], name: &str| list.iter().any(|one| one.value == name);
        for component in &self.composition.components {
            let own = &component.name.value;
            for callee in &component.calls {
                let Some(other) = self.composition.component(&callee.value) else {
                    continue;
                };
                if !names(&other.callers, own) {
                    let (to, line) = (&callee.value, other.name.referenced.line());
                    let what = format!("`{own}` calls `{to}`, but `{to}` does not let it");
                    let fix = format!(
                        "add `{own}` to the callers of `{to}` (line {line}), or remove the call"
                    );
                    return self.refuse(callee.referenced, what, fix);
                }
            }
            for caller in &component.callers {
                let Some(other) = self.composition.component(&caller.value) else {
                    continue;
                };
                if !names(&other.calls, own) {
                    let (from, line) = (&caller.value, other.name.referenced.line());
                    let what = format!("`{own}` lets `{from}` call it, but `{from}` does not");
                    let fix = format!(
                        "add `{own}` to the calls of `{from}` (line {line}), or remove the caller"
                    );
                    return self.refuse(caller.referenced, what, fix);
                }
            }
        }
        Ok(())
    }

    /// Who calls whom must be able to: the two ends of an edge stand in one network. Only the
    /// public component stands in the one that leads outside.
    fn networks(&self) -> Result<(), CliError> {
        let public = &self.composition.public.component.value;
        for component in &self.composition.components {
            let name = &component.name.value;
            for network in &component.networks {
                let leads_out = name == public || self.is_egress(name);
                if network.value == Network::Edge && !leads_out {
                    let what = format!("`{name}` stands in the network `edge`");
                    let fix = format!("remove it: only `{public}` (public.component) may");
                    return self.refuse(network.referenced, what, fix);
                }
            }
            for callee in &component.calls {
                self.share_a_network(component, callee, "calls", callee.referenced)?;
            }
            if self.composition.sends_spans(component)
                && let Some(telemetry) = &self.composition.telemetry
            {
                let at = component.name.referenced;
                self.share_a_network(component, &telemetry.collector, "sends spans to", at)?;
            }
        }
        Ok(())
    }

    fn share_a_network(
        &self,
        from: &Component,
        to: &Spanned<String>,
        verb: &str,
        at: Location,
    ) -> Result<(), CliError> {
        let Some(callee) = self.composition.component(&to.value) else {
            return Ok(());
        };
        let (own, theirs) = (from.networks(), callee.networks());
        if own.intersection(&theirs).next().is_some() {
            return Ok(());
        }
        let (from, to) = (&from.name.value, &to.value);
        let all = |networks: &BTreeSet<Network>| {
            let words: Vec<_> = networks.iter().map(|network| network.as_str()).collect();
            words.join(", ")
        };
        let what = format!(
            "`{from}` {verb} `{to}`, but they share no network: [{}] and [{}]",
            all(&own),
            all(&theirs)
        );
        let line = callee.name.referenced.line();
        let fix = format!("add a network of `{to}` (line {line}) to `networks` of `{from}`");
        self.refuse(at, what, fix)
    }

    /// Start order must exist.
    fn cycles(&self) -> Result<(), CliError> {
        for component in &self.composition.components {
            let mut path = vec![component.name.value.as_str()];
            if let Some(cycle) = self.cycle_from(component, &mut path) {
                let what = format!("these components wait for each other: {cycle}");
                let fix = "remove one of their `needs`: a callee may also come later";
                return self.refuse(component.name.referenced, what, fix);
            }
        }
        Ok(())
    }

    fn cycle_from<'a>(&'a self, from: &'a Component, path: &mut Vec<&'a str>) -> Option<String> {
        for need in &from.needs {
            let name = need.value.as_str();
            if path.first() == Some(&name) {
                return Some(format!("{} → {name}", path.join(" → ")));
            }
            if path.contains(&name) {
                // A cycle further on: found when its own members are asked.
                continue;
            }
            path.push(name);
            let next = self.composition.component(name)?;
            if let Some(cycle) = self.cycle_from(next, path) {
                return Some(cycle);
            }
            path.pop();
        }
        None
    }

    fn databases(&self) -> Result<(), CliError> {
        for component in &self.composition.components {
            let Some(postgres) = &component.postgres else {
                continue;
            };
            for database in &postgres.databases {
                if !component
                    .callers
                    .iter()
                    .any(|caller| caller.value == database.value)
                {
                    let what =
                        format!("database `{}` has no workload of that name", database.value);
                    let fix = "name it like the component that uses it, and let that one call";
                    return self.refuse(database.referenced, what, fix);
                }
            }
        }
        Ok(())
    }

    fn secrets(&self) -> Result<(), CliError> {
        let mut seen = BTreeMap::new();
        for secret in &self.composition.secrets {
            let holders = secret.holders();
            let at = holders.referenced;
            if holders.value.is_empty() {
                return self.refuse(at, "a secret that nobody holds", "name its holder in `for`");
            }
            for (holder, name) in &holders.value {
                let known = Spanned::new(holder.clone(), at, at);
                self.known(&known, "a secret is for")?;
                if let Some(first) = seen.insert((holder, name.as_str()), at.line()) {
                    let what = format!("`{holder}` gets two secrets called `{name}`");
                    return self.refuse(
                        at,
                        what,
                        format!("the other one is at line {first}: rename one"),
                    );
                }
            }
            if let SecretSpec::ApiKey { to, .. } = secret {
                self.api_key(to, holders)?;
            }
        }
        Ok(())
    }

    fn api_key(
        &self,
        to: &Spanned<String>,
        holders: &Spanned<super::Holders>,
    ) -> Result<(), CliError> {
        self.known(to, "an API key is for")?;
        if holders.value.len() != 1 {
            let fix = "declare one key for each caller: a key is tied to one workload";
            return self.refuse(holders.referenced, "an API key with several holders", fix);
        }
        let peppered = self.composition.secrets.iter().any(|secret| {
            matches!(secret, SecretSpec::Random { r#for, .. }
                if r#for.value.get(&to.value).is_some_and(|name| name == API_KEY_PEPPER))
        });
        if !peppered {
            let what = format!(
                "`{}` has no `{API_KEY_PEPPER}` to key the hash with",
                to.value
            );
            let fix = format!(
                "add `- random: {{ for: {{ {}: {API_KEY_PEPPER} }} }}`",
                to.value
            );
            return self.refuse(to.referenced, what, fix);
        }
        Ok(())
    }
}

/// Edit distance, for "did you mean".
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        let mut next = vec![left];
        for (b, above) in other.iter().zip(row.iter().skip(1)) {
            let cost = diagonal + usize::from(a != *b);
            left = cost.min(above + 1).min(left + 1);
            diagonal = *above;
            next.push(left);
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}
