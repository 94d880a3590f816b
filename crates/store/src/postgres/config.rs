//! How a PostgreSQL server is reached.
//!
//! Owns: the configuration keys, their limits and the client settings made from them.
//! Must not: hold the password (it names the secret). Read next: `connect.rs`.

use std::path::PathBuf;
use std::time::Duration;

use ringwall_http_io::Address;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio_postgres::config::{ChannelBinding, SslMode};

use crate::error::StoreError;

/// A connection may live at most this long: half of the longest certificate (1 h).
const LIFETIME_CEILING: Duration = Duration::from_secs(30 * 60);

/// The `postgres:` section of a component.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PostgresConfig {
    /// Where to dial: `ip:port`, or `name:port` with the name that `server_name` has too.
    #[schemars(with = "String")]
    pub address: Address,
    /// The name that the server's certificate must carry (verify-full).
    pub server_name: String,
    /// The database.
    pub database: String,
    /// The role; the client certificate must carry it as its common name.
    pub user: String,
    /// Directory with `client.pem`, `client.key` and `bundle.pem`, read at each connect.
    pub tls: PathBuf,
    /// Name of the secret with the role's password.
    #[serde(default = "default_password_secret")]
    pub password_secret: String,
    /// Connections at most (1 to 64).
    #[serde(default = "default_pool_size")]
    pub pool_size: usize,
    /// Age at which a connection is replaced; at most 30 min, half of a certificate's life.
    #[serde(default = "default_max_lifetime", with = "humantime_serde")]
    #[schemars(with = "String")]
    pub max_lifetime: Duration,
    /// How long connecting may take.
    #[serde(default = "default_connect_timeout", with = "humantime_serde")]
    #[schemars(with = "String")]
    pub connect_timeout: Duration,
    /// How long a caller waits for a free connection.
    #[serde(default = "default_wait_timeout", with = "humantime_serde")]
    #[schemars(with = "String")]
    pub wait_timeout: Duration,
    /// The server ends a statement that takes longer.
    #[serde(default = "default_statement_timeout", with = "humantime_serde")]
    #[schemars(with = "String")]
    pub statement_timeout: Duration,
}

fn default_password_secret() -> String {
    "postgres-password".to_owned()
}

fn default_pool_size() -> usize {
    8
}

fn default_max_lifetime() -> Duration {
    Duration::from_secs(10 * 60)
}

fn default_connect_timeout() -> Duration {
    Duration::from_secs(5)
}

fn default_wait_timeout() -> Duration {
    Duration::from_secs(2)
}

fn default_statement_timeout() -> Duration {
    Duration::from_secs(5)
}

impl PostgresConfig {
    /// Checks the limits that the types cannot.
    ///
    /// # Errors
    /// [`StoreError::PostgresConfig`] with the key and the fix.
    pub fn validate(&self) -> Result<(), StoreError> {
        let refuse = |text: String| Err(StoreError::PostgresConfig(text));
        if !(1..=64).contains(&self.pool_size) {
            return refuse(format!("pool_size is {}, choose 1 to 64", self.pool_size));
        }
        let lifetime = self.max_lifetime;
        if lifetime < Duration::from_secs(1) || lifetime > LIFETIME_CEILING {
            return refuse(format!("max_lifetime is {lifetime:?}, choose 1s to 30m"));
        }
        for (key, value) in [
            ("connect_timeout", self.connect_timeout),
            ("wait_timeout", self.wait_timeout),
            ("statement_timeout", self.statement_timeout),
        ] {
            if value < Duration::from_millis(1) || value > Duration::from_secs(60) {
                return refuse(format!("{key} is {value:?}, choose 1ms to 60s"));
            }
        }
        for (key, value) in [
            ("server_name", &self.server_name),
            ("database", &self.database),
            ("user", &self.user),
        ] {
            if value.is_empty() {
                return refuse(format!("{key} is empty"));
            }
        }
        match &self.address {
            // The client resolves the name that it verifies, and no other.
            Address::Name { host, .. } if **host != *self.server_name => refuse(format!(
                "address names {host} and server_name {}, give both the same name or address an IP",
                self.server_name
            )),
            _ => Ok(()),
        }
    }

    /// The client settings, without the password.
    pub(super) fn client_config(&self) -> tokio_postgres::Config {
        let millis = self.statement_timeout.as_millis();
        let mut config = tokio_postgres::Config::new();
        // `host` is the name that TLS verifies, `hostaddr` the place that is dialled: an address
        // needs no DNS, and a name is resolved at each connect.
        if let Address::Ip(address) = &self.address {
            config.hostaddr(address.ip());
        }
        config
            .host(self.server_name.as_str())
            .port(self.address.port())
            .dbname(self.database.as_str())
            .user(self.user.as_str())
            .application_name("ringwall")
            .ssl_mode(SslMode::Require)
            // SCRAM-SHA-256-PLUS only (RFC 5802 §6, RFC 5929 §4): a relay cannot log in, and a
            // server that asks for the password in clear text or MD5 does not get it.
            .channel_binding(ChannelBinding::Require)
            .connect_timeout(self.connect_timeout)
            .keepalives_idle(Duration::from_secs(30))
            .tcp_user_timeout(Duration::from_secs(30))
            .options(format!(
                "-c statement_timeout={millis} -c lock_timeout={millis} \
                 -c idle_in_transaction_session_timeout={millis}"
            ));
        config
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(extra: &str) -> Result<PostgresConfig, serde_json::Error> {
        serde_json::from_str(&format!(
            r#"{{"address":"127.0.0.1:7432","server_name":"postgres","database":"orders",
                "user":"orders","tls":"/run/tls"{extra}}}"#
        ))
    }

    fn at(address: &str) -> PostgresConfig {
        let mut config = parse("").unwrap();
        config.address = address.parse().unwrap();
        config
    }

    #[test]
    fn an_address_is_dialled_and_a_name_is_resolved() {
        use tokio_postgres::config::Host;
        let name = Host::Tcp("postgres".to_owned());
        let client = at("127.0.0.1:7432").client_config();
        assert_eq!(client.get_hosts(), std::slice::from_ref(&name));
        assert_eq!(client.get_hostaddrs().len(), 1);
        let config = at("postgres:7433");
        config.validate().unwrap();
        let client = config.client_config();
        assert_eq!(client.get_hosts(), [name]);
        assert!(client.get_hostaddrs().is_empty());
        assert_eq!(client.get_ports(), [7433]);
    }

    #[test]
    fn a_name_that_is_not_verified_is_not_dialled() {
        let error = at("database:7432").validate().unwrap_err().to_string();
        assert!(error.contains("give both the same name"), "{error}");
    }

    #[test]
    fn defaults_are_valid_and_carry_no_password() {
        let config = parse("").unwrap();
        config.validate().unwrap();
        assert_eq!(config.password_secret, "postgres-password");
        let client = config.client_config();
        assert_eq!(client.get_password(), None);
        assert_eq!(client.get_ssl_mode(), SslMode::Require);
        assert_eq!(client.get_channel_binding(), ChannelBinding::Require);
        assert!(
            client
                .get_options()
                .unwrap()
                .contains("statement_timeout=5000 ")
        );
    }

    #[test]
    fn unknown_keys_are_refused() {
        assert!(parse(r#","password":"hunter2""#).is_err());
    }

    #[test]
    fn limits_are_refused_with_their_key() {
        for (extra, key) in [
            (r#","pool_size":0"#, "pool_size"),
            (r#","pool_size":65"#, "pool_size"),
            (r#","max_lifetime":"31m""#, "max_lifetime"),
            (r#","max_lifetime":"0s""#, "max_lifetime"),
            (r#","statement_timeout":"0s""#, "statement_timeout"),
            (r#","connect_timeout":"2m""#, "connect_timeout"),
        ] {
            let error = parse(extra).unwrap().validate().unwrap_err().to_string();
            assert!(error.contains(key), "{error}");
        }
    }
}
