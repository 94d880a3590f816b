//! One thing that was looked at, by category.
//!
//! Owns: the categories, where the documentation speaks of each, and both forms of the report.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

/// What a finding is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Category {
    /// Tools, ports, memory; the engine of containers.
    Machine,
    /// Each process's own verdict on its file.
    Configuration,
    /// The policy file and its cases.
    Policy,
    /// What a production profile refuses.
    Production,
    ControlPlane,
    /// The agent, and how it recognises workloads.
    Identity,
    /// Who leads components to their proxies: the kernel, or their own configuration. The shield at the edge.
    Interception,
    /// Those that are served now.
    Certificates,
    /// Service proxies by their own word.
    Proxies,
    /// A question to every component, by way of its proxy.
    DataPlane,
}

impl Category {
    #[cfg(test)]
    pub(super) const ALL: [Self; 10] = [
        Self::Machine,
        Self::Configuration,
        Self::Policy,
        Self::Production,
        Self::ControlPlane,
        Self::Identity,
        Self::Interception,
        Self::Certificates,
        Self::Proxies,
        Self::DataPlane,
    ];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Machine => "machine",
            Self::Configuration => "configuration",
            Self::Policy => "policy",
            Self::Production => "production",
            Self::ControlPlane => "control-plane",
            Self::Identity => "identity",
            Self::Interception => "interception",
            Self::Certificates => "certificates",
            Self::Proxies => "proxies",
            Self::DataPlane => "data-plane",
        }
    }

    /// Where the documentation says what to do.
    pub(super) fn link(self) -> String {
        format!("docs/operate.md#check-{}", self.as_str())
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Finding {
    pub(super) category: Category,
    /// Such as `ports`, or a component.
    pub(super) subject: String,
    pub(super) ok: bool,
    /// What was seen, with the fix where it is not good.
    pub(super) detail: String,
    /// Where to read on, where it is not good.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) hint: Option<String>,
}

impl Finding {
    pub(super) fn good(category: Category, subject: &str, detail: String) -> Self {
        Self {
            category,
            subject: subject.to_owned(),
            ok: true,
            detail,
            hint: None,
        }
    }

    pub(super) fn bad(category: Category, subject: &str, detail: String) -> Self {
        Self {
            ok: false,
            hint: Some(category.link()),
            ..Self::good(category, subject, detail)
        }
    }
}

/// The report for people: categories in order, each with its findings.
pub(super) fn text(findings: &[Finding]) -> String {
    let mut sorted: Vec<&Finding> = findings.iter().collect();
    sorted.sort_by_key(|finding| finding.category);
    let (mut text, mut last) = (String::new(), None);
    for finding in sorted {
        if last != Some(finding.category) {
            let gap = if last.is_some() { "\n" } else { "" };
            let _ = writeln!(text, "{gap}{}", finding.category.as_str());
            last = Some(finding.category);
        }
        let mark = if finding.ok { "ok     " } else { "REFUSED" };
        let detail = finding
            .detail
            .replace('\n', "\n                           ");
        let _ = writeln!(text, "  {mark}  {:<15} {detail}", finding.subject);
        if let Some(hint) = &finding.hint {
            let _ = writeln!(text, "                           see {hint}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_stand_below_their_category_and_bad_ones_say_where_to_read() {
        let findings = [
            Finding::bad(Category::Certificates, "orders", "it ends in 10 s".into()),
            Finding::good(Category::Machine, "ports", "free".into()),
        ];
        assert_eq!(
            text(&findings),
            "machine\n  ok       ports           free\n\ncertificates\n  REFUSED  orders          it ends in 10 s\n                           see docs/operate.md#check-certificates\n"
        );
    }
}
