//! Contract of payments (microservice C), and the digest that binds a source token to one payment.
//!
//! Owns: the canonical form. orders and payments compute the digest from typed values, never from
//! received bytes, so that spelling, order of members and white space cannot differ.

use aws_lc_rs::digest;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::{
    ids::{Currency, MinorUnits, OrderId, PaymentId},
    tokenizer::BodyDigest,
    wire_token::WireToken,
};

/// Scope of the API key for capturing a payment.
pub const SCOPE_PAYMENTS_WRITE: &str = "payments:write";
/// Scope of the API key for reading the payment of an order.
pub const SCOPE_PAYMENTS_READ: &str = "payments:read";
/// Audience of the access token and of the source token.
pub const AUDIENCE: &str = "payments";

/// What is paid: everything in a payment request except the source token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PaymentTerms {
    pub order_id: OrderId,
    pub amount_minor: MinorUnits,
    pub currency: Currency,
}

impl PaymentTerms {
    /// Canonical JSON (RFC 8785: members sorted, no white space) of exactly these three members.
    pub fn canonical_json(&self) -> Vec<u8> {
        // All three values are free of characters that JSON escapes, by construction.
        format!(
            r#"{{"amount_minor":{},"currency":"{}","order_id":"{}"}}"#,
            self.amount_minor, self.currency, self.order_id
        )
        .into_bytes()
    }

    /// base64url of SHA-256 of [`Self::canonical_json`].
    pub fn digest(&self) -> BodyDigest {
        let hash = digest::digest(&digest::SHA256, &self.canonical_json());
        BodyDigest::parse(URL_SAFE_NO_PAD.encode(hash.as_ref()))
            .expect("32 bytes are 43 characters of base64url")
    }
}

/// Body of `POST /v1/payments`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PaymentRequest {
    pub order_id: OrderId,
    pub amount_minor: MinorUnits,
    pub currency: Currency,
    /// Optional on the wire only so that its absence is refused by the layer that checks it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_token: Option<WireToken>,
}

impl PaymentRequest {
    /// The part that the source token is bound to.
    pub fn terms(&self) -> PaymentTerms {
        PaymentTerms {
            order_id: self.order_id,
            amount_minor: self.amount_minor,
            currency: self.currency,
        }
    }
}

/// What became of a payment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PaymentStatus {
    Captured,
}

/// Answer `201` of `POST /v1/payments` and `200` of `GET /v1/payments/{order_id}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Payment {
    pub payment_id: PaymentId,
    pub status: PaymentStatus,
    pub order_id: OrderId,
    pub amount_minor: MinorUnits,
    pub currency: Currency,
    #[serde(with = "time::serde::rfc3339")]
    #[schemars(with = "String")]
    pub captured_at: OffsetDateTime,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn terms(amount: i64) -> PaymentTerms {
        PaymentTerms {
            order_id: OrderId::parse("01890a5d-ac96-774b-bcce-b302099a8057").unwrap(),
            amount_minor: MinorUnits::new(amount).unwrap(),
            currency: Currency::EUR,
        }
    }

    #[test]
    fn the_canonical_form_is_fixed_for_ever() {
        let expected =
            br#"{"amount_minor":1250,"currency":"EUR","order_id":"01890a5d-ac96-774b-bcce-b302099a8057"}"#;
        assert_eq!(terms(1250).canonical_json(), expected);
        let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, expected);
        assert_eq!(
            terms(1250).digest().as_str(),
            URL_SAFE_NO_PAD.encode(hash.as_ref())
        );
    }

    proptest! {
        #[test]
        fn the_canonical_form_is_the_json_of_the_terms(amount in 0..=MinorUnits::MOST) {
            let terms = terms(amount);
            let back: PaymentTerms = serde_json::from_slice(&terms.canonical_json()).unwrap();
            prop_assert_eq!(back, terms);
        }

        #[test]
        fn another_amount_is_another_digest(a in 0..=MinorUnits::MOST, b in 0..=MinorUnits::MOST) {
            prop_assert_eq!(terms(a).digest() == terms(b).digest(), a == b);
        }
    }

    #[test]
    fn a_request_with_unknown_members_is_refused() {
        let mut json = serde_json::to_value(terms(1)).unwrap();
        json["extra"] = 1.into();
        assert!(serde_json::from_value::<PaymentRequest>(json).is_err());
    }
}
