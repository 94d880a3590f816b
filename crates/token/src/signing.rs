//! Private keys that sign tokens.
//!
//! Owns: [`SigningKey`]. The key is parsed once and kept ready in aws-lc-rs, because `jsonwebtoken`
//! would parse it again for every token; verification stays with `jsonwebtoken`.
//! Must not: let the private key out except as [`SecretString`].

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256,
    RsaKeyPair,
};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ringwall_secret::{Secret, SecretBytes, SecretString};
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject;
use serde::Serialize;

use crate::jws::{Algorithm, HeaderOut, check_kid, encode};
use crate::{Jwk, TokenError};

/// A private key with its one algorithm and its key id. Cheap to clone.
#[derive(Clone)]
pub struct SigningKey(Arc<Inner>);

struct Inner {
    kid: String,
    algorithm: Algorithm,
    pair: Pair,
    pkcs8: SecretBytes,
}

enum Pair {
    Es256(EcdsaKeyPair),
    Rs256(RsaKeyPair),
    EdDsa(Ed25519KeyPair),
}

impl SigningKey {
    /// A new key; its kid is the RFC 7638 thumbprint of its public half. RSA keys have 2048 bits.
    ///
    /// # Errors
    /// [`TokenError::Key`] when the system gives no randomness.
    pub fn generate(algorithm: Algorithm) -> Result<Self, TokenError> {
        const FAILED: TokenError = TokenError::Key("it could not be generated");
        let random = SystemRandom::new();
        let pkcs8 = match algorithm {
            Algorithm::Es256 => {
                EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random)
                    .map(|document| document.as_ref().to_vec())
            }
            Algorithm::Rs256 => RsaKeyPair::generate(KeySize::Rsa2048).and_then(|pair| {
                AsDer::<Pkcs8V1Der<'_>>::as_der(&pair).map(|der| der.as_ref().to_vec())
            }),
            Algorithm::EdDsa => {
                Ed25519KeyPair::generate_pkcs8v1(&random).map(|document| document.as_ref().to_vec())
            }
        };
        let pkcs8 = Secret::new(pkcs8.map_err(|_| FAILED)?);
        let pair = Pair::parse(algorithm, pkcs8.expose())?;
        let kid = pair.public_jwk().thumbprint()?;
        Ok(Self(Arc::new(Inner {
            kid,
            algorithm,
            pair,
            pkcs8,
        })))
    }

    /// A stored key, PKCS#8 PEM.
    ///
    /// # Errors
    /// [`TokenError::Key`] when it is not a key for `algorithm`, [`TokenError::Header`] when the kid
    /// cannot stand in a token.
    pub fn from_pkcs8_pem(
        kid: &str,
        algorithm: Algorithm,
        pem: &SecretString,
    ) -> Result<Self, TokenError> {
        check_kid(kid)?;
        let der = PrivatePkcs8KeyDer::from_pem_slice(pem.expose().as_bytes())
            .map_err(|_| TokenError::Key("it is not PKCS#8 PEM"))?;
        let pkcs8 = Secret::new(der.secret_pkcs8_der().to_vec());
        let pair = Pair::parse(algorithm, pkcs8.expose())?;
        Ok(Self(Arc::new(Inner {
            kid: kid.to_owned(),
            algorithm,
            pair,
            pkcs8,
        })))
    }

    /// The private key, PKCS#8 PEM, for storage sealed or 0600.
    #[must_use]
    pub fn to_pkcs8_pem(&self) -> SecretString {
        let der = self.0.pkcs8.expose();
        let body = Secret::new(STANDARD.encode(der));
        // Room for all of it, so that the text never moves and leaves a copy behind.
        let mut pem = String::with_capacity(body.expose().len() * 66 / 64 + 64);
        pem.push_str("-----BEGIN PRIVATE KEY-----\n");
        for (position, character) in body.expose().chars().enumerate() {
            if position > 0 && position % 64 == 0 {
                pem.push('\n');
            }
            pem.push(character);
        }
        pem.push_str("\n-----END PRIVATE KEY-----\n");
        Secret::new(pem)
    }

    /// The key id.
    #[must_use]
    pub fn kid(&self) -> &str {
        &self.0.kid
    }

    /// The one algorithm of this key.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        self.0.algorithm
    }

    /// The public half, ready for a key set.
    #[must_use]
    pub fn public_jwk(&self) -> Jwk {
        Jwk {
            kid: Some(self.0.kid.clone()),
            alg: Some(self.0.algorithm.as_str().to_owned()),
            use_: Some("sig".to_owned()),
            ..self.0.pair.public_jwk()
        }
    }

    /// Signs `claims` as a token of type `typ` (RFC 7519).
    ///
    /// # Errors
    /// [`TokenError::Sign`] when the claims are not JSON or the library fails.
    pub fn sign<C: Serialize>(&self, typ: &str, claims: &C) -> Result<String, TokenError> {
        let payload =
            serde_json::to_vec(claims).map_err(|error| TokenError::Sign(error.to_string()))?;
        self.sign_bytes(typ, &payload)
    }

    /// Signs any payload as a JWS of type `typ` (RFC 7515 §7.1).
    ///
    /// # Errors
    /// [`TokenError::Sign`] when the library fails.
    pub fn sign_bytes(&self, typ: &str, payload: &[u8]) -> Result<String, TokenError> {
        let header = HeaderOut {
            alg: self.0.algorithm,
            typ,
            kid: &self.0.kid,
        };
        let header =
            serde_json::to_vec(&header).map_err(|error| TokenError::Sign(error.to_string()))?;
        let mut token = encode(header);
        token.push('.');
        token.push_str(&encode(payload));
        let signature = self.0.pair.sign(token.as_bytes())?;
        token.push('.');
        token.push_str(&encode(signature));
        Ok(token)
    }
}

impl Pair {
    fn parse(algorithm: Algorithm, pkcs8: &[u8]) -> Result<Self, TokenError> {
        match algorithm {
            Algorithm::Es256 => {
                EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8).map(Self::Es256)
            }
            Algorithm::Rs256 => RsaKeyPair::from_pkcs8(pkcs8).map(Self::Rs256),
            Algorithm::EdDsa => Ed25519KeyPair::from_pkcs8(pkcs8).map(Self::EdDsa),
        }
        .map_err(|_| TokenError::Key("it is not a private key for its algorithm"))
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, TokenError> {
        let failed = |_| TokenError::Sign("the cryptographic library failed".to_owned());
        match self {
            Self::Es256(pair) => pair
                .sign(&SystemRandom::new(), message)
                .map(|signature| signature.as_ref().to_vec())
                .map_err(failed),
            Self::Rs256(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(
                    &RSA_PKCS1_SHA256,
                    &SystemRandom::new(),
                    message,
                    &mut signature,
                )
                .map_err(failed)?;
                Ok(signature)
            }
            Self::EdDsa(pair) => Ok(pair.sign(message).as_ref().to_vec()),
        }
    }

    /// The key material alone, without kid, alg and use.
    fn public_jwk(&self) -> Jwk {
        match self {
            Self::Es256(pair) => {
                // SEC 1 §2.3.3: 0x04, then x and y of 32 bytes each.
                let point = pair.public_key().as_ref();
                Jwk {
                    kty: "EC".to_owned(),
                    crv: Some("P-256".to_owned()),
                    x: point.get(1..33).map(encode),
                    y: point.get(33..65).map(encode),
                    ..Jwk::default()
                }
            }
            Self::Rs256(pair) => Jwk {
                kty: "RSA".to_owned(),
                n: Some(encode(
                    pair.public_key()
                        .modulus()
                        .big_endian_without_leading_zero(),
                )),
                e: Some(encode(
                    pair.public_key()
                        .exponent()
                        .big_endian_without_leading_zero(),
                )),
                ..Jwk::default()
            },
            Self::EdDsa(pair) => Jwk {
                kty: "OKP".to_owned(),
                crv: Some("Ed25519".to_owned()),
                x: Some(encode(pair.public_key())),
                ..Jwk::default()
            },
        }
    }
}

impl fmt::Debug for SigningKey {
    /// Leaves the key out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey")
            .field("kid", &self.0.kid)
            .field("algorithm", &self.0.algorithm)
            .finish_non_exhaustive()
    }
}
