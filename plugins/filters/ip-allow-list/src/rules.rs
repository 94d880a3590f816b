//! Who is let through: denied networks first, then allowed ones, then allowed countries; nobody else.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ringwall_guest::configuration::{header_name, in_range};
use serde::Deserialize;

use crate::network::{self, Network};

/// The configuration.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    #[serde(default)]
    allow: Vec<String>,
    #[serde(default)]
    deny: Vec<String>,
    /// Codes of the table that are let through.
    #[serde(default)]
    countries: BTreeSet<String>,
    /// Which network is where: coarse, and the operator's own.
    #[serde(default)]
    table: Vec<Entry>,
    #[serde(default)]
    forwarded: Option<Forwarded>,
    /// Of the line in the log that sums up; 0 for none.
    #[serde(default = "default_report_seconds")]
    report_seconds: u64,
}

const fn default_report_seconds() -> u64 {
    60
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    network: String,
    country: String,
}

/// Proxies in front of this one, which say in a header where a request came from.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Forwarded {
    #[serde(default = "default_header")]
    header: String,
    trusted: Vec<String>,
}

fn default_header() -> String {
    "x-forwarded-for".to_owned()
}

/// Checked.
#[derive(Debug)]
pub struct Rules {
    allow: Vec<Network>,
    deny: Vec<Network>,
    countries: BTreeSet<String>,
    table: Vec<(Network, String)>,
    forwarded: Option<(String, Vec<Network>)>,
    report_seconds: u64,
}

/// What is done with a client, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Allowed,
    Denied(&'static str),
}

impl Rules {
    /// # Errors
    /// Names the network, country or range that is wrong.
    pub fn new(config: Config) -> Result<Self, String> {
        in_range("report_seconds", &config.report_seconds, &(0..=86_400))?;
        if config.allow.is_empty() && config.countries.is_empty() {
            return Err("neither allow nor countries: nobody would be let through".to_owned());
        }
        let networks = |texts: &[String]| -> Result<Vec<Network>, String> {
            texts.iter().map(|text| Network::parse(text)).collect()
        };
        let mut table = Vec::new();
        for entry in &config.table {
            let country = &entry.country;
            if country.len() != 2 || !country.bytes().all(|byte| byte.is_ascii_uppercase()) {
                return Err(format!("country {country:?} is no code of two letters"));
            }
            table.push((Network::parse(&entry.network)?, country.clone()));
        }
        for country in &config.countries {
            if !table.iter().any(|(_, other)| other == country) {
                return Err(format!("country {country:?} is not in the table"));
            }
        }
        let forwarded = match &config.forwarded {
            None => None,
            Some(forwarded) => {
                header_name("forwarded.header", &forwarded.header)?;
                Some((forwarded.header.clone(), networks(&forwarded.trusted)?))
            }
        };
        Ok(Self {
            allow: networks(&config.allow)?,
            deny: networks(&config.deny)?,
            countries: config.countries,
            table,
            forwarded,
            report_seconds: config.report_seconds,
        })
    }

    #[must_use]
    pub fn report_seconds(&self) -> u64 {
        self.report_seconds
    }

    /// The header that is asked when the peer is a trusted proxy.
    #[must_use]
    pub fn forwarded_header(&self) -> Option<&str> {
        self.forwarded.as_ref().map(|(header, _)| header.as_str())
    }

    /// The client: the peer, or behind trusted proxies the last address of the header that is none of theirs. What
    /// stands before that one anybody may have written.
    #[must_use]
    pub fn client(&self, peer: &str, forwarded: Option<&str>) -> Option<IpAddr> {
        let peer = network::address(peer)?;
        let Some((_, trusted)) = &self.forwarded else {
            return Some(peer);
        };
        let is_trusted = |address: IpAddr| trusted.iter().any(|network| network.contains(address));
        let mut client = peer;
        let mut hops = forwarded.unwrap_or_default().rsplit(',');
        while is_trusted(client) {
            match hops.next().map(str::trim) {
                None | Some("") => break,
                // A trusted proxy has written something that is no address: nobody is known to be there.
                Some(hop) => client = network::address(hop)?,
            }
        }
        Some(client)
    }

    #[must_use]
    pub fn judge(&self, client: Option<IpAddr>) -> Verdict {
        let Some(client) = client else {
            return Verdict::Denied("address not known");
        };
        let is_in = |networks: &[Network]| networks.iter().any(|network| network.contains(client));
        if is_in(&self.deny) {
            return Verdict::Denied("on the deny list");
        }
        if is_in(&self.allow) {
            return Verdict::Allowed;
        }
        match self.country(client) {
            Some(country) if self.countries.contains(country) => Verdict::Allowed,
            Some(_) => Verdict::Denied("country not allowed"),
            None => Verdict::Denied("on no list"),
        }
    }

    /// By the first network of the table that has the address.
    fn country(&self, client: IpAddr) -> Option<&str> {
        let mut table = self.table.iter();
        let found = table.find(|(network, _)| network.contains(client));
        found.map(|(_, country)| country.as_str())
    }
}

#[cfg(test)]
mod tests {
    use ringwall_guest::configuration::parse;

    use super::*;

    fn rules(json: &str) -> Result<Rules, String> {
        parse::<Config>(json.as_bytes()).and_then(Rules::new)
    }

    fn office() -> Rules {
        rules(
            r#"{"allow":["192.0.2.0/24","2001:db8::/32"],"deny":["192.0.2.66"],"countries":["DE"],
                "table":[{"network":"198.51.100.0/25","country":"DE"},{"network":"198.51.100.0/24","country":"FR"}],
                "forwarded":{"trusted":["10.0.0.0/8"]}}"#,
        )
        .unwrap()
    }

    #[test]
    fn denied_comes_before_allowed_before_countries() {
        let rules = office();
        let judge = |text: &str| rules.judge(text.parse().ok());
        assert_eq!(judge("192.0.2.1"), Verdict::Allowed);
        assert_eq!(judge("2001:db8::5"), Verdict::Allowed);
        assert_eq!(judge("192.0.2.66"), Verdict::Denied("on the deny list"));
        assert_eq!(judge("198.51.100.1"), Verdict::Allowed);
        assert_eq!(
            judge("198.51.100.200"),
            Verdict::Denied("country not allowed")
        );
        assert_eq!(judge("203.0.113.1"), Verdict::Denied("on no list"));
        assert_eq!(judge("nobody"), Verdict::Denied("address not known"));
    }

    #[test]
    fn only_trusted_proxies_say_who_the_client_is() {
        let rules = office();
        let client = |peer: &str, header: Option<&str>| {
            rules
                .client(peer, header)
                .map(|address| address.to_string())
        };
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(
            client("203.0.113.9:1", Some("192.0.2.1")),
            some("203.0.113.9")
        );
        assert_eq!(client("10.0.0.1:1", Some("192.0.2.1")), some("192.0.2.1"));
        assert_eq!(
            client("10.0.0.1", Some("192.0.2.1, 203.0.113.9, 10.0.0.2")),
            some("203.0.113.9")
        );
        assert_eq!(client("10.0.0.1", None), some("10.0.0.1"));
        assert_eq!(client("10.0.0.1", Some("192.0.2.1, unknown")), None);
        assert_eq!(client("", Some("192.0.2.1")), None);
    }

    #[test]
    fn configurations_that_make_no_sense_are_refused() {
        for json in [
            "",
            r#"{"deny":["192.0.2.0/24"]}"#,
            r#"{"allow":["192.0.2.1/24"]}"#,
            r#"{"allow":["::"],"countries":["DE"]}"#,
            r#"{"countries":["de"],"table":[{"network":"192.0.2.0/24","country":"de"}]}"#,
            r#"{"allow":["::"],"report_seconds":100000}"#,
            r#"{"allow":["::"],"forwarded":{"trusted":["x"]}}"#,
            r#"{"allow":["::"],"forwarded":{"header":"X-F","trusted":[]}}"#,
            r#"{"allow":["::"],"block":[]}"#,
        ] {
            assert!(rules(json).is_err(), "{json}");
        }
    }
}
