//! Why a component could not start, and the exit code that says so (sysexits.h).
//!
//! Owns: the mapping from causes to exit codes. Supervisors decide by the code, people by the text.

use std::{error::Error, fmt, io, net::SocketAddr};

use ringwall_secret::SecretError;
use ringwall_tls::TlsError;

use crate::config::ConfigError;

/// Exit codes (sysexits.h).
pub mod exit {
    /// EX_UNAVAILABLE: something that the component needs cannot be reached.
    pub const UNAVAILABLE: u8 = 69;
    /// EX_SOFTWARE: everything else.
    pub const SOFTWARE: u8 = 70;
    /// EX_OSERR: the operating system refused, such as a port that is taken.
    pub const OS: u8 = 71;
    /// EX_NOPERM: a privilege or a file permission is missing.
    pub const NO_PERMISSION: u8 = 77;
    /// EX_CONFIG: the configuration is wrong.
    pub const CONFIG: u8 = 78;
}

/// A failed start: what failed, why, and with which code the process ends.
///
/// Any error converts into it with `?`; the code then follows from the cause.
pub struct StartError {
    code: u8,
    text: String,
}

impl StartError {
    /// The configuration asks for something impossible.
    pub fn config(text: impl fmt::Display) -> Self {
        Self {
            code: exit::CONFIG,
            text: text.to_string(),
        }
    }

    /// `what` is needed and cannot be reached or opened.
    pub fn unavailable(what: &str, cause: impl fmt::Display) -> Self {
        Self {
            code: exit::UNAVAILABLE,
            text: format!("{what} is not available: {cause}"),
        }
    }

    /// A privilege is missing.
    pub fn permission(text: impl fmt::Display) -> Self {
        Self {
            code: exit::NO_PERMISSION,
            text: text.to_string(),
        }
    }

    /// A defect of the component itself.
    pub fn software(text: impl fmt::Display) -> Self {
        Self {
            code: exit::SOFTWARE,
            text: text.to_string(),
        }
    }

    /// An address cannot be bound; names the port and the fix.
    pub fn bind(address: SocketAddr, cause: &io::Error) -> Self {
        let port = address.port();
        let (code, text) = match cause.kind() {
            io::ErrorKind::AddrInUse => (
                exit::OS,
                format!(
                    "port {port} on {} is taken by another process\n  fix: find it with `ss -ltnp 'sport = :{port}'` and stop it, or choose another port in the configuration",
                    address.ip()
                ),
            ),
            io::ErrorKind::PermissionDenied => (
                exit::NO_PERMISSION,
                format!(
                    "port {port} may not be bound\n  fix: choose a port above 1023, or grant CAP_NET_BIND_SERVICE"
                ),
            ),
            _ => (
                exit::OS,
                format!(
                    "cannot listen on {address}: {cause}\n  fix: choose an address of this machine, such as 127.0.0.1"
                ),
            ),
        };
        Self { code, text }
    }

    /// Exit code of the process.
    pub fn code(&self) -> u8 {
        self.code
    }
}

impl<E: Error + Send + Sync + 'static> From<E> for StartError {
    fn from(error: E) -> Self {
        let code = chain(&error).find_map(code_of).unwrap_or(exit::SOFTWARE);
        let mut text = error.to_string();
        for cause in chain(&error).skip(1) {
            let cause = cause.to_string();
            // Many errors already print their cause; say each thing once.
            if !text.contains(&cause) {
                text.push_str(": ");
                text.push_str(&cause);
            }
        }
        Self { code, text }
    }
}

fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    let mut next = Some(error);
    std::iter::from_fn(move || {
        let error = next?;
        next = error.source();
        Some(error)
    })
}

fn code_of(error: &(dyn Error + 'static)) -> Option<u8> {
    if let Some(io) = error.downcast_ref::<io::Error>() {
        return match io.kind() {
            io::ErrorKind::PermissionDenied => Some(exit::NO_PERMISSION),
            io::ErrorKind::AddrInUse => Some(exit::OS),
            _ => None,
        };
    }
    let wrong_setup =
        error.is::<ConfigError>() || error.is::<TlsError>() || error.is::<SecretError>();
    // A cause further down may be a missing permission, which says more.
    let denied = chain(error)
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|io| io.kind() == io::ErrorKind::PermissionDenied);
    match (wrong_setup, denied) {
        (true, true) => Some(exit::NO_PERMISSION),
        (true, false) => Some(exit::CONFIG),
        _ => None,
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StartError({}): {}", self.code, self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cause_decides_the_code() {
        let denied = io::Error::from(io::ErrorKind::PermissionDenied);
        assert_eq!(StartError::from(denied).code(), exit::NO_PERMISSION);
        let other = io::Error::other("disk");
        assert_eq!(StartError::from(other).code(), exit::SOFTWARE);
        let config = ConfigError::invalid("a", "b", "c", "d");
        assert_eq!(StartError::from(config).code(), exit::CONFIG);
    }

    #[test]
    fn a_taken_port_is_named_with_the_fix() {
        let address: SocketAddr = "127.0.0.1:7105".parse().unwrap();
        let error = StartError::bind(address, &io::Error::from(io::ErrorKind::AddrInUse));
        assert_eq!(error.code(), exit::OS);
        assert_eq!(
            error.to_string(),
            "port 7105 on 127.0.0.1 is taken by another process\n  fix: find it with `ss -ltnp 'sport = :7105'` and stop it, or choose another port in the configuration"
        );
    }
}
