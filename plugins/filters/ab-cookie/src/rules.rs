//! Which variant a client gets: the one of its cookie, else one by weight.

use ringwall_guest::configuration::{header_name, in_range};
use serde::Deserialize;

/// The configuration.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    experiment: String,
    variants: Vec<Variant>,
    /// The request header that tells the upstream.
    #[serde(default = "default_header")]
    header: String,
    /// Assign by this header's value instead of at random, so that somebody who is signed in has one variant everywhere.
    #[serde(default)]
    assign_by: Option<String>,
    #[serde(default = "default_max_age")]
    max_age_seconds: u64,
}

fn default_header() -> String {
    "x-variant".to_owned()
}

/// Thirty days.
const fn default_max_age() -> u64 {
    30 * 24 * 3600
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Variant {
    name: String,
    weight: u32,
}

/// Checked.
#[derive(Debug)]
pub struct Rules {
    config: Config,
    cookie: String,
    total: u64,
}

/// What a client gets.
#[derive(Debug, PartialEq, Eq)]
pub struct Assigned<'a> {
    pub variant: &'a str,
    /// A cookie has to be set.
    pub new: bool,
}

impl Rules {
    /// # Errors
    /// Names what is wrong.
    pub fn new(config: Config) -> Result<Self, String> {
        header_name("header", &config.header)?;
        if let Some(header) = &config.assign_by {
            header_name("assign_by", header)?;
        }
        in_range(
            "max_age_seconds",
            &config.max_age_seconds,
            &(60..=31_536_000),
        )?;
        in_range("the number of variants", &config.variants.len(), &(1..=16))?;
        let is_name = |text: &str| {
            let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
            !text.is_empty() && text.len() <= 64 && text.bytes().all(fits)
        };
        if !is_name(&config.experiment) {
            return Err("experiment: 1 to 64 letters, digits, - and _".to_owned());
        }
        let mut total = 0;
        for (index, variant) in config.variants.iter().enumerate() {
            if !is_name(&variant.name) {
                return Err("a variant's name: 1 to 64 letters, digits, - and _".to_owned());
            }
            in_range("weight", &variant.weight, &(0..=1_000_000))?;
            total += u64::from(variant.weight);
            let others = config.variants.iter().take(index);
            if others.into_iter().any(|other| other.name == variant.name) {
                return Err(format!("variant {} comes twice", variant.name));
            }
        }
        if total == 0 {
            return Err("all weights are 0: nobody would be assigned".to_owned());
        }
        Ok(Self {
            cookie: format!("ab-{}", config.experiment),
            total,
            config,
        })
    }

    #[must_use]
    pub fn header(&self) -> &str {
        &self.config.header
    }

    #[must_use]
    pub fn assign_by(&self) -> Option<&str> {
        self.config.assign_by.as_deref()
    }

    /// Assigns by the `cookie` header, else by a number that is spread evenly.
    pub fn assign(&self, cookies: &str, number: impl FnOnce() -> u64) -> Assigned<'_> {
        if let Some(variant) = self.of_cookie(cookies) {
            return Assigned {
                variant,
                new: false,
            };
        }
        Assigned {
            variant: self.by_weight(number()),
            new: true,
        }
    }

    /// A variant that still gets clients: with weight 0, those who have it are assigned again.
    fn of_cookie(&self, cookies: &str) -> Option<&str> {
        let pairs = cookies.split(';').filter_map(|pair| pair.split_once('='));
        let mut ours = pairs.filter(|(name, _)| name.trim() == self.cookie);
        let value = ours.next()?.1.trim();
        let mut variants = self.config.variants.iter();
        let found = variants.find(|variant| variant.name == value && variant.weight > 0);
        found.map(|variant| variant.name.as_str())
    }

    fn by_weight(&self, number: u64) -> &str {
        let mut left = number % self.total;
        for variant in &self.config.variants {
            let weight = u64::from(variant.weight);
            if left < weight {
                return &variant.name;
            }
            left -= weight;
        }
        // The weights sum up to the total, so one has been met.
        ""
    }

    /// The `set-cookie` header.
    #[must_use]
    pub fn cookie(&self, variant: &str) -> String {
        format!(
            "{}={variant}; Path=/; Max-Age={}; Secure; HttpOnly; SameSite=Lax",
            self.cookie, self.config.max_age_seconds
        )
    }

    /// A number for a value of `assign_by`: the same for the same value of the same experiment, spread evenly.
    #[must_use]
    pub fn number_of(&self, value: &[u8]) -> u64 {
        let bytes = self
            .config
            .experiment
            .bytes()
            .chain([0])
            .chain(value.iter().copied());
        // FNV-1a, then the finaliser of MurmurHash3, as FNV's low bits alone are not spread evenly.
        let mut hash = bytes.fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        hash ^ (hash >> 33)
    }
}

#[cfg(test)]
mod tests {
    use ringwall_guest::configuration::parse;

    use super::*;

    fn rules(json: &str) -> Result<Rules, String> {
        parse::<Config>(json.as_bytes()).and_then(Rules::new)
    }

    fn checkout() -> Rules {
        rules(
            r#"{"experiment":"checkout","variants":[{"name":"old","weight":3},{"name":"new","weight":1},{"name":"gone","weight":0}]}"#,
        )
        .unwrap()
    }

    #[test]
    fn a_cookie_keeps_its_variant() {
        let rules = checkout();
        let assigned = rules.assign("a=b; ab-checkout=new; c=d", || panic!("not asked"));
        assert_eq!(
            assigned,
            Assigned {
                variant: "new",
                new: false
            }
        );
    }

    #[test]
    fn a_cookie_of_no_variant_is_assigned_again() {
        let rules = checkout();
        for cookies in [
            "",
            "ab-checkout=",
            "ab-checkout=evil",
            "xab-checkout=new",
            "ab-checkout=gone",
            ";;=",
        ] {
            assert_eq!(rules.assign(cookies, || 0).variant, "old", "{cookies}");
            assert!(rules.assign(cookies, || 0).new, "{cookies}");
        }
    }

    #[test]
    fn weights_are_kept() {
        let rules = checkout();
        let of = |variant: &str| {
            (0..4000)
                .filter(|number| rules.by_weight(*number) == variant)
                .count()
        };
        assert_eq!((of("old"), of("new"), of("gone")), (3000, 1000, 0));
        let numbers = (0..4000).map(|user| rules.number_of(format!("user-{user}").as_bytes()));
        let new = numbers
            .filter(|number| rules.by_weight(*number) == "new")
            .count();
        assert!((850..1150).contains(&new), "{new}");
    }

    #[test]
    fn configurations_that_make_no_sense_are_refused() {
        for json in [
            "",
            r#"{"experiment":"a","variants":[]}"#,
            r#"{"experiment":"a b","variants":[{"name":"x","weight":1}]}"#,
            r#"{"experiment":"a","variants":[{"name":"x;y","weight":1}]}"#,
            r#"{"experiment":"a","variants":[{"name":"x","weight":0}]}"#,
            r#"{"experiment":"a","variants":[{"name":"x","weight":1},{"name":"x","weight":1}]}"#,
            r#"{"experiment":"a","variants":[{"name":"x","weight":1}],"max_age_seconds":1}"#,
            r#"{"experiment":"a","variants":[{"name":"x","weight":1}],"sticky":true}"#,
        ] {
            assert!(rules(json).is_err(), "{json}");
        }
    }
}
