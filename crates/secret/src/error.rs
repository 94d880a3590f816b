//! Why a secret could not be had: which one, where it was looked for, and the fix. Never its value.

use std::io;
use std::path::PathBuf;

/// Every refusal of this crate.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// A secret's name is not `[a-z0-9-]{1,64}`.
    #[error("secret name {0:?} is not valid: use 1 to 64 of a-z, 0-9 and '-'")]
    Name(String),
    /// The source has no such secret.
    #[error("secret {name:?} is not in {place}; {fix}")]
    Missing {
        /// The secret's name.
        name: String,
        /// Where it was looked for.
        place: String,
        /// What to do about it.
        fix: String,
    },
    /// The source has the secret, but it holds nothing.
    #[error("secret {name:?} in {place} is empty; write its value there")]
    Empty {
        /// The secret's name.
        name: String,
        /// Where it was found.
        place: String,
    },
    /// The secret was asked for as text, and it is not UTF-8.
    #[error("secret {name:?} in {place} is not UTF-8 text; write it as text, or read it as bytes")]
    NotText {
        /// The secret's name.
        name: String,
        /// Where it was found.
        place: String,
    },
    /// A file that holds secrets cannot be read.
    #[error("{} cannot be read: {source}; check that it exists and belongs to this user", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// A file that holds secrets cannot be written.
    #[error("{} cannot be written: {source}; check the directory's owner and free space", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// A file that holds secrets can be read by others.
    #[error("{} has mode {mode:03o}, so others can read it; run: chmod 600 {}", path.display(), path.display())]
    Permissions {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A file that holds secrets is not an ordinary file, or is far too large to be one.
    #[error("{} is not a secret file: {why}", path.display())]
    NotAFile {
        /// The file.
        path: PathBuf,
        /// What it is instead.
        why: &'static str,
    },
    /// A seal key is not 64 hexadecimal digits.
    #[error("seal key in {place} is not 64 hexadecimal digits; make a new one and seal again")]
    SealKey {
        /// Where the key was found.
        place: String,
    },
    /// A sealed file cannot be opened: wrong key, wrong owner, or changed bytes. Which of them, the
    /// cipher cannot tell (AES-GCM, NIST SP 800-38D §7.2).
    #[error(
        "{} cannot be unsealed for {owner:?}: its key, its owner or its content is not the one \
         that it was sealed with; seal it again, or restore file and key together",
        path.display()
    )]
    Unseal {
        /// The file.
        path: PathBuf,
        /// The owner that it was expected to be sealed for.
        owner: String,
    },
    /// A sealed file does not have the format that this version writes.
    #[error("{} is not a sealed file of version 1: {why}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A sealed value cannot be opened: wrong key, wrong purpose, or changed bytes.
    #[error(
        "the sealed value for {purpose:?} cannot be opened: its key or its content is not the one that it \
         was sealed with; restore the secret that sealed it"
    )]
    Envelope {
        /// What it was sealed for.
        purpose: String,
    },
    /// A secret is too short to derive a key from.
    #[error("the secret for {purpose:?} is too short: at least {least} bytes are needed")]
    TooShort {
        /// What the key is for.
        purpose: String,
        /// Bytes that are needed.
        least: usize,
    },
    /// The operating system gave no randomness, or the cipher refused.
    #[error("the cryptographic library failed while {0}")]
    Crypto(&'static str),
}
