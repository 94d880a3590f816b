//! Public keys as JSON (RFC 7517), and the checked set that verification uses.
//!
//! Owns: which published keys are accepted. A key without `kid` or `alg`, for another use than
//! signatures, of another kind than its `alg`, or too weak, is left out of the set.
//! Must not: take anything from a token.

use std::collections::BTreeMap;

use aws_lc_rs::digest::{SHA256, digest};
use jsonwebtoken::DecodingKey;
use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::TokenError;
use crate::jws::{Algorithm, check_kid, decode, encode};

/// A public key. Private members of a hostile or careless document (`d`, `p`, …) are not even read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Jwk {
    /// Key type: `EC`, `RSA` or `OKP`.
    pub kty: String,
    /// Key id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kid: Option<String>,
    /// The one algorithm of this key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alg: Option<String>,
    /// Use; `sig` or absent.
    #[serde(rename = "use", skip_serializing_if = "Option::is_none")]
    pub use_: Option<String>,
    /// Curve of `EC` and `OKP` keys.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub crv: Option<String>,
    /// Coordinate, base64url.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub x: Option<String>,
    /// Coordinate, base64url.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub y: Option<String>,
    /// RSA modulus, base64url.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub n: Option<String>,
    /// RSA exponent, base64url.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub e: Option<String>,
}

/// A set of public keys, as `jwks_uri` serves it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JwkSet {
    /// The keys.
    pub keys: Vec<Jwk>,
}

/// Keys that signatures are verified with. Each has exactly one algorithm.
#[derive(Clone, Default)]
pub struct VerifyingKeys {
    by_kid: BTreeMap<String, VerifyingKey>,
}

#[derive(Clone)]
pub(crate) struct VerifyingKey {
    pub(crate) algorithm: Algorithm,
    key: DecodingKey,
}

impl JwkSet {
    /// Parses a JSON document of at most `max_bytes` bytes and `max_keys` keys.
    ///
    /// # Errors
    /// [`TokenError::KeySet`] when it is too long, not a key set, or holds too many keys.
    pub fn parse(json: &[u8], max_bytes: usize, max_keys: usize) -> Result<Self, TokenError> {
        if json.len() > max_bytes {
            return Err(TokenError::KeySet(format!("longer than {max_bytes} bytes")));
        }
        let set: Self = serde_json::from_slice(json)
            .map_err(|error| TokenError::KeySet(format!("not a JWK set: {error}")))?;
        if set.keys.len() > max_keys {
            return Err(TokenError::KeySet(format!("more than {max_keys} keys")));
        }
        Ok(set)
    }
}

impl Jwk {
    /// The RFC 7638 thumbprint with SHA-256, base64url: our key ids.
    pub(crate) fn thumbprint(&self) -> Result<String, TokenError> {
        const MISSING: TokenError = TokenError::Key("a member of the public key is missing");
        let member = |value: &Option<String>| value.clone().ok_or(MISSING);
        // Exactly the required members in lexicographic order (RFC 7638 §3.2). None of the values
        // needs escaping: they are base64url and registered names.
        let text = match self.kty.as_str() {
            "EC" => format!(
                r#"{{"crv":"{}","kty":"EC","x":"{}","y":"{}"}}"#,
                member(&self.crv)?,
                member(&self.x)?,
                member(&self.y)?
            ),
            "OKP" => format!(
                r#"{{"crv":"{}","kty":"OKP","x":"{}"}}"#,
                member(&self.crv)?,
                member(&self.x)?
            ),
            "RSA" => {
                format!(
                    r#"{{"e":"{}","kty":"RSA","n":"{}"}}"#,
                    member(&self.e)?,
                    member(&self.n)?
                )
            }
            _ => return Err(TokenError::Key("kty is not EC, RSA or OKP")),
        };
        Ok(encode(digest(&SHA256, text.as_bytes())))
    }

    /// Checks this key for verifying signatures; its kid and the key.
    fn verifying(&self) -> Result<(String, VerifyingKey), TokenError> {
        let refuse = TokenError::Key;
        let kid = self.kid.clone().ok_or(refuse("there is no kid"))?;
        check_kid(&kid).map_err(|_| refuse("its kid is not usable"))?;
        if self.use_.as_deref().is_some_and(|purpose| purpose != "sig") {
            return Err(refuse("its use is not sig"));
        }
        let name = self.alg.as_deref().ok_or(refuse("there is no alg"))?;
        let algorithm = Algorithm::parse(name).ok_or(refuse("its alg is not accepted"))?;
        let key = match algorithm {
            Algorithm::Es256 => self.p256()?,
            Algorithm::Rs256 => self.rsa()?,
            Algorithm::EdDsa => self.ed25519()?,
        };
        Ok((kid, VerifyingKey { algorithm, key }))
    }

    fn p256(&self) -> Result<DecodingKey, TokenError> {
        const WRONG: TokenError = TokenError::Key("an ES256 key must be EC on P-256");
        if self.kty != "EC" || self.crv.as_deref() != Some("P-256") {
            return Err(WRONG);
        }
        let x = coordinate(&self.x)?;
        let y = coordinate(&self.y)?;
        DecodingKey::from_ec_components(x, y).map_err(|_| WRONG)
    }

    fn ed25519(&self) -> Result<DecodingKey, TokenError> {
        const WRONG: TokenError = TokenError::Key("an EdDSA key must be OKP on Ed25519");
        if self.kty != "OKP" || self.crv.as_deref() != Some("Ed25519") {
            return Err(WRONG);
        }
        DecodingKey::from_ed_components(coordinate(&self.x)?).map_err(|_| WRONG)
    }

    fn rsa(&self) -> Result<DecodingKey, TokenError> {
        const WRONG: TokenError = TokenError::Key("an RS256 key must be RSA of 2048 to 8192 bits");
        let (Some(n), Some(e), "RSA") = (&self.n, &self.e, self.kty.as_str()) else {
            return Err(WRONG);
        };
        // RFC 7518 §3.3 asks for 2048 bits or more; the bound above keeps verification cheap.
        let modulus = decode(n).map_err(|_| WRONG)?;
        let exponent = decode(e).map_err(|_| WRONG)?;
        let leads_with_bit = modulus.first().is_some_and(|byte| *byte >= 0x80);
        if !(256..=1024).contains(&modulus.len()) || !leads_with_bit || exponent.len() > 4 {
            return Err(WRONG);
        }
        Ok(DecodingKey::from_rsa_raw_components(&modulus, &exponent))
    }
}

/// A coordinate of P-256 or Ed25519: exactly 32 bytes (RFC 7518 §6.2.1.2, RFC 8037 §2).
fn coordinate(text: &Option<String>) -> Result<&str, TokenError> {
    const WRONG: TokenError = TokenError::Key("a coordinate is not 32 bytes in base64url");
    let text = text.as_deref().ok_or(WRONG)?;
    match decode(text) {
        Ok(bytes) if bytes.len() == 32 => Ok(text),
        _ => Err(WRONG),
    }
}

impl VerifyingKeys {
    /// Takes the usable keys of `set`. RFC 7517 §5: a key that is not understood is left out.
    ///
    /// # Errors
    /// [`TokenError::KeySet`] when two usable keys share a kid, or when none is usable at all.
    pub fn from_jwks(set: &JwkSet) -> Result<Self, TokenError> {
        let mut by_kid = BTreeMap::new();
        for jwk in &set.keys {
            match jwk.verifying() {
                Ok((kid, key)) => {
                    if by_kid.insert(kid, key).is_some() {
                        return Err(TokenError::KeySet("two keys have the same kid".to_owned()));
                    }
                }
                Err(error) => warn!(kid = jwk.kid.as_deref(), %error, "published key is left out"),
            }
        }
        if by_kid.is_empty() {
            return Err(TokenError::KeySet("no key in it is usable".to_owned()));
        }
        Ok(Self { by_kid })
    }

    /// Whether a key with this id is in the set.
    #[must_use]
    pub fn contains(&self, kid: &str) -> bool {
        self.by_kid.contains_key(kid)
    }

    /// How many keys there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_kid.len()
    }

    /// Whether there is no key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_kid.is_empty()
    }

    pub(crate) fn get(&self, kid: &str) -> Option<&VerifyingKey> {
        self.by_kid.get(kid)
    }
}

impl VerifyingKey {
    /// Verifies under this key's own algorithm.
    pub(crate) fn verify(&self, signed: &str, signature: &str) -> Result<(), TokenError> {
        let algorithm = match self.algorithm {
            Algorithm::Es256 => jsonwebtoken::Algorithm::ES256,
            Algorithm::Rs256 => jsonwebtoken::Algorithm::RS256,
            Algorithm::EdDsa => jsonwebtoken::Algorithm::EdDSA,
        };
        match jsonwebtoken::crypto::verify(signature, signed.as_bytes(), &self.key, algorithm) {
            Ok(true) => Ok(()),
            Ok(false) | Err(_) => Err(TokenError::Signature),
        }
    }
}
