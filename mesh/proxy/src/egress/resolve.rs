//! Names to addresses, each of which was checked.
//!
//! Owns: the resolver with its cache, bounded in time and size, and the rule that one forbidden answer spoils all of them:
//! a name that points inside as well as outside is an attack (DNS rebinding), not a choice. What is returned is dialled as
//! it is; nobody resolves the name again. Must not: read the hosts file or search domains.

use std::net::SocketAddr;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::Name;
use ringwall_service::StartError;

use super::address::{self, Network};
use super::config::DnsConfig;
use super::refusal::Refusal;
use super::target::Host;

/// Names whose answers are kept.
const CACHE_ENTRIES: u64 = 1024;
/// Time for which it is remembered that a name does not exist.
const NEGATIVE_TTL: Duration = Duration::from_secs(5);
/// Questions beyond the first to a server that does not answer.
const RETRIES: usize = 1;
/// Addresses of one name that are tried.
const MAX_ADDRESSES: usize = 8;

/// The gateway's own resolver.
pub(crate) struct Resolver {
    inner: TokioResolver,
}

impl Resolver {
    pub(crate) fn open(config: &DnsConfig) -> Result<Self, StartError> {
        let failed = |error: &dyn std::fmt::Display| {
            StartError::config(format!(
                "the name service cannot be used: {error}\n  fix: declare `egress.dns.servers`"
            ))
        };
        let mut builder = if config.servers.is_empty() {
            TokioResolver::builder_tokio().map_err(|error| failed(&error))?
        } else {
            let servers = config.servers.iter().map(|server| {
                let mut connections = vec![ConnectionConfig::udp(), ConnectionConfig::tcp()];
                for connection in &mut connections {
                    connection.port = server.port();
                }
                NameServerConfig::new(server.ip(), true, connections)
            });
            let servers = ResolverConfig::from_name_servers(servers.collect());
            TokioResolver::builder_with_config(servers, TokioRuntimeProvider::default())
        };
        let options = builder.options_mut();
        options.timeout = config.timeout;
        options.attempts = RETRIES;
        options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        options.cache_size = CACHE_ENTRIES;
        options.use_hosts_file = ResolveHosts::Never;
        options.positive_max_ttl = Some(config.max_ttl);
        options.negative_max_ttl = Some(NEGATIVE_TTL.min(config.max_ttl));
        let inner = builder.build().map_err(|error| failed(&error))?;
        Ok(Self { inner })
    }

    /// Addresses of `host` that may be dialled: the public ones, and those of `networks`.
    pub(crate) async fn addresses(
        &self,
        host: &Host,
        port: u16,
        networks: &[Network],
    ) -> Result<Vec<SocketAddr>, Refusal> {
        let answers = match host {
            Host::Ip(address) => vec![*address],
            Host::Name(name) => {
                let mut name =
                    Name::from_ascii(name).map_err(|error| Refusal::Resolve(error.to_string()))?;
                name.set_fqdn(true);
                let answer = self.inner.lookup_ip(name).await;
                let answer = answer.map_err(|error| Refusal::Resolve(error.to_string()))?;
                answer.iter().collect()
            }
        };
        if answers.is_empty() {
            return Err(Refusal::Resolve("there is no address".to_owned()));
        }
        for address in &answers {
            address::check(*address, networks).map_err(|class| Refusal::Address {
                address: *address,
                class,
            })?;
        }
        let checked = answers.into_iter().take(MAX_ADDRESSES);
        let checked = checked.map(|ip| SocketAddr::new(address::canonical(ip), port));
        Ok(checked.collect())
    }
}
