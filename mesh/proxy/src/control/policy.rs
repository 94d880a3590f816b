//! Which policy bundle is believed: signed by a key of the trust domain, and never older than one that was seen.
//!
//! Owns: the order of the checks — signature, version, content — and the memory of the newest version ([`Anchor`]), so
//! that a genuine bundle of the past cannot be played again. A rollback is a new version with old content.
//! Must not: decide requests (`ringwall-policy`) or fetch keys.

use std::collections::BTreeSet;
use std::sync::Arc;

use ringwall_mesh_api::v1;
use ringwall_policy::mesh::{Bundle, JWS_TYPE, MeshPolicy};
use ringwall_token::{JwkSet, TokenError, VerifyingKeys, verify_bytes};
use serde::{Deserialize, Serialize};

use crate::snapshot::compile::{Fault, brief};

/// Longest signed bundle, in bytes.
const MAX_JWS_BYTES: usize = 2 * 1024 * 1024;
const MAX_JWKS_BYTES: usize = 256 * 1024;
const MAX_KEYS: usize = 64;
/// What a NACK quotes of a compiler's message.
const MAX_REASON: usize = 2000;

/// The trust domain's JWT bundle, parsed.
pub(crate) struct Keys {
    json: Arc<[u8]>,
    kids: BTreeSet<String>,
    verifying: VerifyingKeys,
}

/// A bundle in use.
#[derive(Debug, Clone)]
pub(crate) struct Accepted {
    pub(crate) policy: Arc<MeshPolicy>,
    pub(crate) anchor: Anchor,
}

/// What a bundle must not fall behind. It outlives the bundle itself, also on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Anchor {
    pub(crate) version: u64,
    /// Of the content, so that a version says one thing for ever; signatures differ each time.
    digest: String,
    /// The trusted keys of that time. When none of them is trusted any more, the trust domain has begun anew and with it
    /// the count of versions.
    kids: BTreeSet<String>,
}

/// What is signed. The version is inside: beside the signature it could be changed.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Payload {
    version: u64,
    bundle: Bundle,
}

/// Why a bundle is not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refused {
    /// Signed by a key that may be delivered yet: worth asking again when keys change.
    NoKey(Fault),
    Because(Fault),
}

impl Keys {
    pub(crate) fn parse(json: &Arc<[u8]>) -> Result<Self, TokenError> {
        let set = JwkSet::parse(json, MAX_JWKS_BYTES, MAX_KEYS)?;
        Ok(Self {
            json: Arc::clone(json),
            kids: set.keys.iter().filter_map(|key| key.kid.clone()).collect(),
            verifying: VerifyingKeys::from_jwks(&set)?,
        })
    }

    pub(crate) fn json(&self) -> &Arc<[u8]> {
        &self.json
    }
}

/// Verifies and compiles `signed`. `before` is what is in use, `anchor` what was in use last.
pub(crate) fn accept(
    signed: &v1::SignedPolicy,
    keys: Option<&Keys>,
    before: Option<&Accepted>,
    anchor: Option<&Anchor>,
) -> Result<Accepted, Refused> {
    let Some(keys) = keys else {
        return Err(Refused::NoKey(
            "this proxy has no keys of the trust domain yet".to_owned(),
        ));
    };
    let payload = match verify_bytes(&signed.jws, &keys.verifying, JWS_TYPE, MAX_JWS_BYTES) {
        Ok(verified) => verified.payload,
        Err(TokenError::UnknownKey) => {
            let why = "its key is not in the JWT bundle of the trust domain";
            return Err(Refused::NoKey(why.to_owned()));
        }
        Err(error) => return Err(Refused::Because(error.to_string())),
    };
    let Payload { version, bundle } = serde_json::from_slice(&payload)
        .map_err(|error| Refused::Because(format!("its payload: {}", brief(&error.to_string()))))?;
    if version != signed.version {
        let outside = signed.version;
        let why = format!("version {version} is signed, {outside} stands beside it");
        return Err(Refused::Because(why));
    }
    let next = Anchor {
        version,
        digest: digest_of(&bundle)?,
        kids: keys.kids.clone(),
    };
    if let Some(anchor) = anchor {
        next.follows(anchor).map_err(Refused::Because)?;
    }
    if let Some(same) = before.filter(|before| before.anchor.digest == next.digest) {
        // Signed again, or the same content as a new version: nothing to compile.
        return Ok(Accepted {
            policy: Arc::clone(&same.policy),
            anchor: next,
        });
    }
    let policy = MeshPolicy::compile(bundle)
        .map_err(|error| Refused::Because(error.to_string().chars().take(MAX_REASON).collect()))?;
    Ok(Accepted {
        policy: Arc::new(policy),
        anchor: next,
    })
}

impl Anchor {
    /// Whether a bundle may come after `before`.
    fn follows(&self, before: &Self) -> Result<(), Fault> {
        if self.kids.is_disjoint(&before.kids) {
            return Ok(());
        }
        let (new, old) = (self.version, before.version);
        if new < old {
            return Err(format!(
                "version {new} is older than {old}, which was in use here; a rollback is a new version"
            ));
        }
        if new == old && self.digest != before.digest {
            return Err(format!("version {new} had other content before"));
        }
        Ok(())
    }
}

fn digest_of(bundle: &Bundle) -> Result<String, Refused> {
    let canonical = serde_json::to_vec(bundle)
        .map_err(|_| Refused::Because("its payload cannot be written again".to_owned()))?;
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &canonical);
    Ok(base64::Engine::encode(
        &base64::engine::general_purpose::URL_SAFE_NO_PAD,
        digest,
    ))
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;

    use ringwall_policy::mesh::{Edge, ServiceFacts};
    use ringwall_token::{KeyRing, SigningKey};

    use super::*;

    /// A signer with its key set.
    pub(crate) struct Signer(pub(crate) KeyRing);

    impl Signer {
        pub(crate) fn new() -> Self {
            Self(KeyRing::generate(ringwall_token::Algorithm::Es256).unwrap())
        }

        pub(crate) fn jwks(&self) -> Arc<[u8]> {
            serde_json::to_vec(&self.0.jwks()).unwrap().into()
        }

        pub(crate) fn keys(&self) -> Keys {
            Keys::parse(&self.jwks()).unwrap()
        }

        pub(crate) fn sign(&self, version: u64, bundle: Bundle) -> v1::SignedPolicy {
            self.sign_as(JWS_TYPE, version, bundle)
        }

        fn sign_as(&self, typ: &str, version: u64, bundle: Bundle) -> v1::SignedPolicy {
            let jws = self.0.sign(typ, &Payload { version, bundle }).unwrap();
            v1::SignedPolicy { version, jws }
        }
    }

    /// A bundle with one edge to `callee`, so that versions can be told apart.
    pub(crate) fn bundle(callee: &str) -> Bundle {
        let edges = vec![Edge {
            caller: "orders".into(),
            callee: callee.into(),
            ports: Vec::new(),
        }];
        Bundle {
            edges,
            policies: BTreeMap::new(),
            dry_run: Vec::new(),
            examples: Vec::new(),
            services: ["orders", callee]
                .map(|name| {
                    let facts = ServiceFacts {
                        ports: vec![7106],
                        ..ServiceFacts::default()
                    };
                    (name.to_owned(), facts)
                })
                .into(),
        }
    }

    fn why(refused: Refused) -> String {
        match refused {
            Refused::NoKey(why) | Refused::Because(why) => why,
        }
    }

    #[test]
    fn r31_a_bundle_signed_by_the_trust_domain_is_taken() {
        let signer = Signer::new();
        let keys = signer.keys();
        let first = accept(
            &signer.sign(1, bundle("inventory")),
            Some(&keys),
            None,
            None,
        )
        .unwrap();
        assert!(first.policy.allows_edge("orders", "inventory", 7106));
        let again = signer.sign(2, bundle("inventory"));
        let again = accept(&again, Some(&keys), Some(&first), Some(&first.anchor)).unwrap();
        assert!(
            Arc::ptr_eq(&first.policy, &again.policy),
            "the same content is not compiled twice"
        );
        assert_eq!(again.anchor.version, 2);
    }

    #[test]
    fn attack_a_bundle_of_the_past_is_not_played_again() {
        let signer = Signer::new();
        let keys = signer.keys();
        let old = signer.sign(3, bundle("payments"));
        let new = accept(
            &signer.sign(4, bundle("inventory")),
            Some(&keys),
            None,
            None,
        )
        .unwrap();
        let replayed = accept(&old, Some(&keys), Some(&new), Some(&new.anchor)).unwrap_err();
        assert!(why(replayed).contains("version 3 is older than 4"));
        let without_the_bundle = accept(&old, Some(&keys), None, Some(&new.anchor)).unwrap_err();
        assert!(
            why(without_the_bundle).contains("older"),
            "the anchor alone is enough"
        );
        let mut relabelled = old.clone();
        relabelled.version = 5;
        let relabelled = accept(&relabelled, Some(&keys), Some(&new), Some(&new.anchor));
        assert!(why(relabelled.unwrap_err()).contains("version 3 is signed, 5 stands beside it"));
        let other = signer.sign(4, bundle("payments"));
        let other = accept(&other, Some(&keys), Some(&new), Some(&new.anchor)).unwrap_err();
        assert!(why(other).contains("version 4 had other content"));
        let rollback = signer.sign(5, bundle("payments"));
        assert!(accept(&rollback, Some(&keys), Some(&new), Some(&new.anchor)).is_ok());
    }

    #[test]
    fn attack_forged_and_confused_bundles_are_refused() {
        let (signer, stranger) = (Signer::new(), Signer::new());
        let keys = signer.keys();
        let forged = accept(&stranger.sign(1, bundle("x")), Some(&keys), None, None).unwrap_err();
        assert!(matches!(forged, Refused::NoKey(_)));
        let confused = signer.sign_as("JWT", 1, bundle("x"));
        assert!(why(accept(&confused, Some(&keys), None, None).unwrap_err()).contains("typ"));
        let mut changed = signer.sign(1, bundle("x"));
        let other = signer.sign(1, bundle("y"));
        let parts: Vec<&str> = changed.jws.split('.').collect();
        let signature = other.jws.split('.').nth(2).unwrap();
        changed.jws = format!("{}.{}.{signature}", parts[0], parts[1]);
        assert!(accept(&changed, Some(&keys), None, None).is_err());
        let none = accept(&signer.sign(1, bundle("x")), None, None, None).unwrap_err();
        assert!(matches!(none, Refused::NoKey(_)), "no keys, no policy");
        let jws = signer.0.sign(JWS_TYPE, &bundle("x")).unwrap();
        let bare = v1::SignedPolicy { version: 1, jws };
        assert!(
            accept(&bare, Some(&keys), None, None).is_err(),
            "a version must be signed"
        );
        let long = v1::SignedPolicy {
            version: 1,
            jws: "a".repeat(MAX_JWS_BYTES + 1),
        };
        assert!(accept(&long, Some(&keys), None, None).is_err());
    }

    #[test]
    fn versions_begin_anew_only_with_a_new_trust_domain() {
        let (old, new) = (Signer::new(), Signer::new());
        let used = accept(&old.sign(9, bundle("x")), Some(&old.keys()), None, None).unwrap();
        let fresh = new.sign(1, bundle("y"));
        assert!(accept(&fresh, Some(&new.keys()), Some(&used), Some(&used.anchor)).is_ok());
        let mut overlapping = Signer(old.0.clone());
        overlapping
            .0
            .announce(SigningKey::generate(ringwall_token::Algorithm::Es256).unwrap())
            .unwrap();
        let rotated = overlapping.sign(1, bundle("y"));
        let rotated = accept(
            &rotated,
            Some(&overlapping.keys()),
            Some(&used),
            Some(&used.anchor),
        );
        assert!(
            rotated.is_err(),
            "a rotation of keys is no new trust domain"
        );
    }

    #[test]
    fn key_sets_are_bounded() {
        assert!(Keys::parse(&b"{}".to_vec().into()).is_err());
        let long = vec![b' '; MAX_JWKS_BYTES + 1];
        assert!(Keys::parse(&long.into()).is_err());
    }
}
