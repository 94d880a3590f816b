//! Properties of the verifier: nothing that differs from a valid token passes, and nothing panics.

use proptest::prelude::*;

use super::{Issuer, claims, expectation, now};
use crate::claims::AccessToken;
use crate::jws::encode;
use crate::{Algorithm, VerifyingKeys, peek_kid, verify};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_changed_byte_of_a_valid_token_is_refused(position in 0_usize..4096, byte in any::<u8>()) {
        thread_local! {
            static VALID: (Issuer, String) = {
                let issuer = Issuer::new(Algorithm::Es256);
                let token = issuer.key.sign(AccessToken::TYP, &claims()).unwrap();
                (issuer, token)
            };
        }
        VALID.with(|(issuer, token)| {
            let mut bytes = token.clone().into_bytes();
            let position = position % bytes.len();
            prop_assume!(bytes[position] != byte);
            bytes[position] = byte;
            if let Ok(changed) = String::from_utf8(bytes) {
                prop_assert!(issuer.verify(&changed).is_err(), "{changed}");
            }
            Ok(())
        })?;
    }

    #[test]
    fn arbitrary_text_never_panics(
        text in "\\PC{0,60}",
        header in "\\PC{0,40}",
        payload in proptest::collection::vec(any::<u8>(), 0..40),
    ) {
        let keys = VerifyingKeys::default();
        let framed = format!("{}.{}.{}", encode(&header), encode(&payload), encode(&text));
        for token in [text, framed] {
            prop_assert!(verify::<AccessToken>(&token, &keys, &expectation(), now()).is_err());
            let _ = peek_kid(&token);
        }
    }
}
