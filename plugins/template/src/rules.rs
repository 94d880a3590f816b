//! The rules: plain Rust, no proxy. `cargo test` runs what is at the end.

use serde::Deserialize;

/// The configuration, as the operator writes it. A field that is not here refuses the plugin.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The header that names the tenant, in lower case.
    #[serde(default = "default_header")]
    pub header: String,
    /// The tenants that are let through.
    pub tenants: Vec<String>,
}

fn default_header() -> String {
    "x-tenant".to_owned()
}

/// What is done with a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    Pass,
    Missing,
    Unknown,
}

impl Config {
    /// Reads a configuration.
    ///
    /// # Errors
    /// What is wrong with it, for the log.
    pub fn parse(json: &[u8]) -> Result<Self, String> {
        let config: Self = serde_json::from_slice(json).map_err(|error| error.to_string())?;
        if config.tenants.is_empty() {
            return Err("tenants is empty: nobody would be let through".to_owned());
        }
        if config.header != config.header.to_ascii_lowercase() || config.header.is_empty() {
            return Err(format!("header {:?} is not in lower case", config.header));
        }
        Ok(config)
    }

    /// Judges a request by the value of the header.
    #[must_use]
    pub fn judge(&self, tenant: Option<&[u8]>) -> Verdict {
        match tenant {
            None | Some(b"") => Verdict::Missing,
            Some(tenant) => {
                let known = self.tenants.iter().any(|known| known.as_bytes() == tenant);
                if known {
                    Verdict::Pass
                } else {
                    Verdict::Unknown
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tenants_of_the_list_pass() {
        let config = Config::parse(br#"{"tenants": ["acme"]}"#).unwrap();
        assert_eq!(config.judge(Some(b"acme")), Verdict::Pass);
        assert_eq!(config.judge(Some(b"Acme")), Verdict::Unknown);
        assert_eq!(config.judge(Some(b"")), Verdict::Missing);
        assert_eq!(config.judge(None), Verdict::Missing);
    }

    #[test]
    fn configurations_that_make_no_sense_are_refused() {
        for json in [
            "{}",
            r#"{"tenants": []}"#,
            r#"{"tenants": ["a"], "tenant": "b"}"#,
        ] {
            assert!(Config::parse(json.as_bytes()).is_err(), "{json}");
        }
    }
}
