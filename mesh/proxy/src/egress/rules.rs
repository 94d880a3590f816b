//! The allow-list: who may send what where.
//!
//! Owns: the compiled rules and their match, by exact comparison of normal forms. What matches no rule is denied, and the
//! denial says which rule would be needed. Must not: resolve names; an address is checked after this (`address.rs`).

use http::{HeaderName, HeaderValue, Method};
use ringwall_data_path::path;
use ringwall_service::ConfigError;

use super::address::Network;
use super::config::{CredentialConfig, EgressConfig, LimitsConfig, RuleConfig, TlsMode};
use super::target::Host;

/// Labels that must stand after a star: `*.com` would be half of the internet.
const MIN_LABELS: usize = 2;

/// All rules, in the order of the configuration; the first match counts.
#[derive(Debug)]
pub(crate) struct Rules {
    rules: Vec<Rule>,
}

/// One compiled rule.
#[derive(Debug)]
pub(crate) struct Rule {
    pub(crate) name: String,
    callers: Vec<String>,
    host: HostPattern,
    pub(crate) port: u16,
    methods: Vec<Method>,
    paths: Vec<String>,
    pub(crate) tls: TlsMode,
    /// Networks beside the public internet.
    pub(crate) networks: Vec<Network>,
    pub(crate) credential: Option<Credential>,
    pub(crate) limits: LimitsConfig,
}

/// What is added to requests.
#[derive(Debug)]
pub(crate) struct Credential {
    pub(crate) header: HeaderName,
    pub(crate) secret: String,
    pub(crate) prefix: String,
}

#[derive(Debug)]
enum HostPattern {
    Exact(Host),
    /// `.example.com`: one label stands before it.
    OneLabelOf(String),
}

/// What is asked for. A tunnel has neither method nor path.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked<'a> {
    pub(crate) caller: &'a str,
    pub(crate) host: &'a Host,
    /// `None`: that of the rule.
    pub(crate) port: Option<u16>,
    pub(crate) request: Option<(&'a Method, &'a str)>,
}

impl Rules {
    pub(crate) fn compile(config: &EgressConfig) -> Result<Self, ConfigError> {
        let mut rules: Vec<Rule> = Vec::with_capacity(config.rules.len());
        for (index, rule) in config.rules.iter().enumerate() {
            let compiled = Rule::compile(rule, &config.networks).map_err(|fault| {
                let key = format!("egress.rules[{index}].{}", fault.key);
                ConfigError::invalid(&key, &fault.seen, fault.expected, fault.fix)
            })?;
            if rules.iter().any(|other| other.name == compiled.name) {
                return Err(ConfigError::invalid(
                    &format!("egress.rules[{index}].name"),
                    &format!("`{}`, which stands twice", compiled.name),
                    "a name of its own",
                    "choose another name: logs tell rules apart by it",
                ));
            }
            rules.push(compiled);
        }
        Ok(Self { rules })
    }

    /// The rule with its place that allows what is asked for.
    pub(crate) fn find(&self, asked: Asked<'_>) -> Option<(usize, &Rule)> {
        let mut rules = self.rules.iter().enumerate();
        rules.find(|(_, rule)| rule.allows(asked))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Rule> {
        self.rules.iter()
    }
}

impl Rule {
    fn allows(&self, asked: Asked<'_>) -> bool {
        let by_kind = match asked.request {
            None => self.tls == TlsMode::Passthrough,
            Some((method, path)) => {
                self.tls != TlsMode::Passthrough
                    && (self.methods.is_empty() || self.methods.contains(method))
                    && (self.paths.is_empty()
                        || self.paths.iter().any(|prefix| covers(prefix, path)))
            }
        };
        by_kind
            && asked.port.is_none_or(|port| port == self.port)
            && self.callers.iter().any(|caller| caller == asked.caller)
            && self.host.matches(asked.host)
    }

    fn compile(config: &RuleConfig, networks: &[Network]) -> Result<Self, Fault> {
        if config.name.is_empty() {
            return Err(fault(
                "name",
                "nothing",
                "a name for logs",
                "write `name: weather`",
            ));
        }
        if config.callers.is_empty() {
            let fix = "write `callers: [orders]`";
            return Err(fault(
                "callers",
                "nobody",
                "the workloads that may use this rule",
                fix,
            ));
        }
        if config.port == 0 {
            return Err(fault("port", "0", "a port", "write `port: 443`"));
        }
        check_kind(config, networks)?;
        Ok(Self {
            name: config.name.clone(),
            callers: config.callers.clone(),
            host: HostPattern::compile(&config.host)?,
            port: config.port,
            methods: config
                .methods
                .iter()
                .map(|text| method(text))
                .collect::<Result<_, _>>()?,
            paths: config
                .paths
                .iter()
                .map(|text| prefix(text))
                .collect::<Result<_, _>>()?,
            tls: config.tls,
            networks: if config.private {
                networks.to_vec()
            } else {
                Vec::new()
            },
            credential: config.credential.as_ref().map(credential).transpose()?,
            limits: config.limits.clone(),
        })
    }
}

/// What contradicts the way in which bytes leave.
fn check_kind(config: &RuleConfig, networks: &[Network]) -> Result<(), Fault> {
    let is_tunnel = config.tls == TlsMode::Passthrough;
    let sees_requests =
        !config.methods.is_empty() || !config.paths.is_empty() || config.credential.is_some();
    if is_tunnel && sees_requests {
        return Err(fault(
            "tls",
            "`passthrough` with methods, paths or a credential",
            "a mode in which requests are seen",
            "write `tls: originate`, or leave methods, paths and credential out",
        ));
    }
    if config.tls == TlsMode::None && config.credential.is_some() {
        return Err(fault(
            "credential",
            "one beside `tls: none`",
            "TLS around whatever carries a credential",
            "write `tls: originate`, or leave the credential out",
        ));
    }
    if config.private && networks.is_empty() {
        return Err(fault(
            "private",
            "true, and no `egress.networks`",
            "the networks that are meant",
            "declare them: `networks: [10.1.0.0/16]`",
        ));
    }
    Ok(())
}

impl HostPattern {
    fn compile(text: &str) -> Result<Self, Fault> {
        let wrong = || {
            fault(
                "host",
                &format!("`{text}`"),
                "a host name such as api.example.com, or *.example.com for one label",
                "write the name without scheme, port and path",
            )
        };
        if let Some(suffix) = text.strip_prefix("*.") {
            return match Host::parse(suffix) {
                Ok(Host::Name(name)) if name.split('.').count() >= MIN_LABELS => {
                    Ok(Self::OneLabelOf(format!(".{name}")))
                }
                _ => Err(wrong()),
            };
        }
        let v6 = text
            .parse()
            .map(|address| Host::Ip(std::net::IpAddr::V6(address)));
        match v6.or_else(|_| Host::parse(text)) {
            Ok(host) => Ok(Self::Exact(host)),
            Err(_) => Err(wrong()),
        }
    }

    fn matches(&self, host: &Host) -> bool {
        match (self, host) {
            (Self::Exact(exact), host) => exact == host,
            (Self::OneLabelOf(suffix), Host::Name(name)) => name
                .strip_suffix(suffix.as_str())
                .is_some_and(|label| !label.is_empty() && !label.contains('.')),
            (Self::OneLabelOf(_), Host::Ip(_)) => false,
        }
    }
}

impl Asked<'_> {
    /// The rule that would allow this, as it would stand in the configuration.
    pub(crate) fn needed(&self) -> String {
        let port = self.port.unwrap_or(443);
        let ends = format!(
            "callers: [{}], host: \"{}\", port: {port}",
            self.caller, self.host
        );
        match self.request {
            None => format!("{{ {ends}, tls: passthrough }}"),
            Some((method, path)) => {
                let path: String = path.chars().take(200).collect();
                format!("{{ {ends}, methods: [{method}], paths: [\"{path}\"] }}")
            }
        }
    }
}

/// Whether `prefix` covers `path` by whole segments: `/v1` covers `/v1/x` and not `/v1x`.
fn covers(prefix: &str, path: &str) -> bool {
    path.strip_prefix(prefix)
        .is_some_and(|rest| rest.is_empty() || prefix.ends_with('/') || rest.starts_with('/'))
}

fn method(text: &str) -> Result<Method, Fault> {
    let known = text.bytes().all(|byte| byte.is_ascii_uppercase());
    match Method::from_bytes(text.as_bytes()) {
        Ok(method) if known && method != Method::CONNECT && method != Method::TRACE => Ok(method),
        _ => Err(fault(
            "methods",
            &format!("`{text}`"),
            "a method in upper case, neither CONNECT nor TRACE",
            "write `methods: [GET]`; tunnels are `tls: passthrough`",
        )),
    }
}

fn prefix(text: &str) -> Result<String, Fault> {
    match path::check(text) {
        Ok(()) => Ok(text.to_owned()),
        Err(why) => Err(fault(
            "paths",
            &format!("`{text}` ({})", why.as_str()),
            "a path with one reading",
            "write `paths: [/v1/]`",
        )),
    }
}

fn credential(config: &CredentialConfig) -> Result<Credential, Fault> {
    let header = HeaderName::from_bytes(config.header.as_bytes()).map_err(|_| {
        fault(
            "credential.header",
            &format!("`{}`", config.header),
            "a header field",
            "write `header: authorization`",
        )
    })?;
    if HeaderValue::from_str(&config.prefix).is_err() {
        return Err(fault(
            "credential.prefix",
            "letters that a header field cannot hold",
            "visible ASCII",
            "write `prefix: \"Bearer \"`",
        ));
    }
    Ok(Credential {
        header,
        secret: config.secret.clone(),
        prefix: config.prefix.clone(),
    })
}

/// What is wrong with one rule.
#[derive(Debug)]
struct Fault {
    key: &'static str,
    seen: String,
    expected: &'static str,
    fix: &'static str,
}

fn fault(key: &'static str, seen: &str, expected: &'static str, fix: &'static str) -> Fault {
    Fault {
        key,
        seen: seen.to_owned(),
        expected,
        fix,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::target::Target;
    use super::*;

    fn config(rules: &str) -> EgressConfig {
        let text =
            format!("{{\"roots\":\"/r\",\"networks\":[\"10.1.0.0/16\"],\"rules\":[{rules}]}}");
        serde_json::from_str(&text).unwrap()
    }

    fn rules() -> Rules {
        let text = r#"
            {"name":"weather","callers":["orders"],"host":"api.weather.example","methods":["GET"],"paths":["/v1"]},
            {"name":"files","callers":["orders","payments"],"host":"*.files.example","port":8443},
            {"name":"bank","callers":["payments"],"host":"bank.example","tls":"passthrough"},
            {"name":"literal","callers":["orders"],"host":"192.0.2.7","private":true}
        "#;
        Rules::compile(&config(text)).unwrap()
    }

    fn find(caller: &str, authority: &str, request: Option<(Method, &str)>) -> Option<String> {
        let rules = rules();
        let target = Target::parse(authority).unwrap();
        let asked = Asked {
            caller,
            host: &target.host,
            port: target.port,
            request: request.as_ref().map(|(method, path)| (method, *path)),
        };
        rules.find(asked).map(|(_, rule)| rule.name.clone())
    }

    fn get(caller: &str, authority: &str, path: &str) -> Option<String> {
        find(caller, authority, Some((Method::GET, path)))
    }

    #[test]
    fn r27_what_no_rule_names_is_denied() {
        assert_eq!(
            get("orders", "api.weather.example", "/v1/now").as_deref(),
            Some("weather")
        );
        assert_eq!(
            get("orders", "API.weather.example.:443", "/v1").as_deref(),
            Some("weather")
        );
        assert_eq!(
            get("payments", "api.weather.example", "/v1/now"),
            None,
            "another caller"
        );
        assert_eq!(
            get("orders", "api.weather.example:8443", "/v1/now"),
            None,
            "another port"
        );
        assert_eq!(
            get("orders", "api.weather.example", "/v1x"),
            None,
            "another segment"
        );
        assert_eq!(
            get("orders", "api.weather.example", "/admin"),
            None,
            "another path"
        );
        assert_eq!(
            get("orders", "weather.example", "/v1"),
            None,
            "another host"
        );
        assert_eq!(
            get("orders", "api.weather.example.evil.example", "/v1"),
            None
        );
        let post = Some((Method::POST, "/v1/now"));
        assert_eq!(
            find("orders", "api.weather.example", post),
            None,
            "another method"
        );
        assert_eq!(
            find("orders", "api.weather.example:443", None),
            None,
            "no tunnel"
        );
        assert_eq!(
            find("payments", "bank.example:443", None).as_deref(),
            Some("bank")
        );
        assert_eq!(get("payments", "bank.example", "/"), None, "a tunnel only");
        assert_eq!(get("orders", "192.0.2.7", "/").as_deref(), Some("literal"));
        assert_eq!(
            get("orders", "192.0.2.8", "/"),
            None,
            "an address that nobody declared"
        );
    }

    #[test]
    fn a_star_is_exactly_one_label() {
        for (host, allowed) in [
            ("a.files.example:8443", true),
            ("A.Files.Example:8443", true),
            ("files.example:8443", false),
            ("a.b.files.example:8443", false),
            ("afiles.example:8443", false),
            ("a.files.example.evil.example:8443", false),
        ] {
            assert_eq!(get("orders", host, "/").is_some(), allowed, "{host}");
        }
    }

    #[test]
    fn a_denial_says_which_rule_is_needed() {
        let target = Target::parse("api.other.example").unwrap();
        let mut asked = Asked {
            caller: "orders",
            host: &target.host,
            port: target.port,
            request: Some((&Method::GET, "/v1")),
        };
        assert_eq!(
            asked.needed(),
            "{ callers: [orders], host: \"api.other.example\", port: 443, methods: [GET], paths: [\"/v1\"] }"
        );
        asked.request = None;
        assert!(asked.needed().ends_with("tls: passthrough }"));
    }

    #[test]
    fn rules_that_say_nothing_or_too_much_are_refused() {
        let base = r#""name":"x","callers":["orders"]"#;
        for (rule, key) in [
            (format!("{{{base},\"host\":\"*.com\"}}"), "host"),
            (format!("{{{base},\"host\":\"*\"}}"), "host"),
            (format!("{{{base},\"host\":\"a.*.example\"}}"), "host"),
            (format!("{{{base},\"host\":\"https://a.example\"}}"), "host"),
            (format!("{{{base},\"host\":\"2130706433\"}}"), "host"),
            (
                format!("{{{base},\"host\":\"a.example\",\"port\":0}}"),
                "port",
            ),
            (
                format!("{{{base},\"host\":\"a.example\",\"methods\":[\"CONNECT\"]}}"),
                "methods",
            ),
            (
                format!("{{{base},\"host\":\"a.example\",\"methods\":[\"get\"]}}"),
                "methods",
            ),
            (
                format!("{{{base},\"host\":\"a.example\",\"paths\":[\"/a/../b\"]}}"),
                "paths",
            ),
            (
                format!(
                    "{{{base},\"host\":\"a.example\",\"tls\":\"passthrough\",\"paths\":[\"/a\"]}}"
                ),
                "tls",
            ),
            (
                format!(
                    "{{{base},\"host\":\"a.example\",\"credential\":{{\"header\":\"a b\",\"secret\":\"s\"}}}}"
                ),
                "credential.header",
            ),
            (
                format!(
                    "{{{base},\"host\":\"a.example\",\"tls\":\"none\",\"credential\":{{\"header\":\"authorization\",\"secret\":\"s\"}}}}"
                ),
                "credential",
            ),
            (
                "{\"name\":\"x\",\"callers\":[],\"host\":\"a.example\"}".to_owned(),
                "callers",
            ),
            (
                format!("{{{base},\"host\":\"a.example\"}},{{{base},\"host\":\"b.example\"}}"),
                "name",
            ),
        ] {
            let error = Rules::compile(&config(&rule)).unwrap_err().to_string();
            assert!(error.contains(&format!(".{key}")), "{rule}: {error}");
        }
        let mut without = config(&format!(
            "{{{base},\"host\":\"a.example\",\"private\":true}}"
        ));
        without.networks.clear();
        assert!(
            Rules::compile(&without)
                .unwrap_err()
                .to_string()
                .contains("private")
        );
    }

    #[test]
    fn production_refuses_plaintext_and_its_own_loopback() {
        let mut config =
            config(r#"{"name":"x","callers":["orders"],"host":"a.example","tls":"none"}"#);
        config.networks.push("127.0.0.0/8".parse().unwrap());
        let refusals = config.production_refusals();
        assert_eq!(refusals.len(), 2);
        assert!(refusals[0].what.contains("tls: none"));
        assert!(refusals[1].what.contains("127.0.0.1"));
    }

    proptest! {
        /// Whatever is asked for, what passes is the declared host, by whole labels and segments.
        #[test]
        fn r27_nothing_beside_the_declared_host_and_path_passes(
            before in "[a-zA-Z0-9.@-]{0,8}",
            host in proptest::sample::select(vec!["api.weather.example", "API.WEATHER.example", "api.weather.example."]),
            after in "[a-zA-Z0-9.:@%/-]{0,8}",
            path in "/v1[a-z0-9/.%]{0,8}",
        ) {
            let authority = format!("{before}{host}{after}");
            let Ok(target) = Target::parse(&authority) else {
                return Ok(());
            };
            let asked = Asked {
                caller: "orders",
                host: &target.host,
                port: target.port,
                request: Some((&Method::GET, &path)),
            };
            if rules().find(asked).is_some() {
                prop_assert_eq!(target.host, Host::Name("api.weather.example".into()));
                prop_assert!(matches!(target.port, None | Some(443)));
                prop_assert!(path == "/v1" || path.starts_with("/v1/"));
            }
        }

        #[test]
        fn a_star_matches_one_label_whatever_it_is(label in "[a-z0-9.-]{0,12}") {
            let authority = format!("{label}.files.example:8443");
            let passes = Target::parse(&authority).is_ok_and(|target| {
                let asked = Asked {
                    caller: "payments",
                    host: &target.host,
                    port: target.port,
                    request: Some((&Method::GET, "/")),
                };
                rules().find(asked).is_some()
            });
            prop_assert!(!passes || !label.contains('.'));
        }
    }
}
