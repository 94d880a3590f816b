//! Named functions beyond the ABI that a plugin may be allowed to call.
//!
//! Owns: the registry and its two built-in functions. An unknown name, and one that the plugin may not call, are both
//! `NOT_FOUND`. A function runs on the data path: it must not block.

use std::collections::HashMap;
use std::sync::Arc;

use aws_lc_rs::{digest, hmac};

use crate::abi::Status;

/// From arguments to a result.
pub type ForeignFunction = Arc<dyn Fn(&[u8]) -> Result<Vec<u8>, Status> + Send + Sync>;

pub(crate) struct Foreign {
    functions: HashMap<String, ForeignFunction>,
}

impl Foreign {
    pub(crate) fn new(own: Vec<(String, ForeignFunction)>) -> Self {
        let mut functions: HashMap<String, ForeignFunction> = HashMap::new();
        functions.insert("ringwall.sha256".to_owned(), Arc::new(sha256));
        functions.insert("ringwall.hmac_sha256".to_owned(), Arc::new(hmac_sha256));
        functions.extend(own);
        Self { functions }
    }

    pub(crate) fn get(&self, name: &str) -> Option<&ForeignFunction> {
        self.functions.get(name)
    }
}

/// The digest of the arguments: 32 bytes.
#[expect(
    clippy::unnecessary_wraps,
    reason = "a foreign function may fail; this one does not"
)]
fn sha256(arguments: &[u8]) -> Result<Vec<u8>, Status> {
    Ok(digest::digest(&digest::SHA256, arguments).as_ref().to_vec())
}

/// Of a message by a key: the key's length in four bytes (little-endian), the key, the message. 32 bytes.
fn hmac_sha256(arguments: &[u8]) -> Result<Vec<u8>, Status> {
    let (length, rest) = arguments.split_first_chunk().ok_or(Status::BadArgument)?;
    let length = usize::try_from(u32::from_le_bytes(*length)).map_err(|_| Status::BadArgument)?;
    let (key, message) = rest.split_at_checked(length).ok_or(Status::BadArgument)?;
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    Ok(hmac::sign(&key, message).as_ref().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r90_the_built_in_functions_compute() {
        let foreign = Foreign::new(Vec::new());
        let call = |name: &str, arguments: &[u8]| foreign.get(name).unwrap()(arguments);
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(hex::encode(call("ringwall.sha256", b"").unwrap()), empty);
        // RFC 4231, test case 2.
        let arguments = [
            &4_u32.to_le_bytes()[..],
            b"Jefe",
            b"what do ya want for nothing?",
        ];
        let expected = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        let signed = call("ringwall.hmac_sha256", &arguments.concat()).unwrap();
        assert_eq!(hex::encode(signed), expected);
        for malformed in [
            &b""[..],
            &[1, 0, 0],
            &[9, 0, 0, 0, 1],
            &[255, 255, 255, 255, 1],
        ] {
            let seen = call("ringwall.hmac_sha256", malformed);
            assert_eq!(seen, Err(Status::BadArgument));
        }
        assert!(foreign.get("unknown").is_none());
    }
}
