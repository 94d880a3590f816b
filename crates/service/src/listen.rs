//! Sockets to listen on. Used by the shell's own listeners and by data paths of components.

use std::{io, net::SocketAddr};

use tokio::net::TcpListener;

use crate::error::StartError;

/// Binds `address`; the error names the port and the fix (exit code 71 or 77).
pub async fn bind(address: SocketAddr) -> Result<TcpListener, StartError> {
    // tokio sets SO_REUSEADDR, so that a restart need not wait for TIME_WAIT.
    let bound: io::Result<TcpListener> = TcpListener::bind(address).await;
    bound.map_err(|error| StartError::bind(address, &error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::exit;

    #[tokio::test]
    async fn a_taken_port_is_an_os_error_that_names_it() {
        let first = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = first.local_addr().unwrap();
        let error = bind(address).await.unwrap_err();
        assert_eq!(error.code(), exit::OS);
        assert!(
            error
                .to_string()
                .starts_with(&format!("port {} on 127.0.0.1", address.port()))
        );
    }
}
