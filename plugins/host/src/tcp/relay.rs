//! Both directions of a connection, through its plugins.
//!
//! Owns: the loop that an embedder would otherwise write: read, filter, write; what a plugin lets go later goes out then; an
//! end in one direction is passed on and leaves the other open. Must not: dial, or decide when to give up.

use std::io;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::abi::Peer;
use crate::tcp::{Ended, Side, TcpStream};

/// Bytes read at once.
const CHUNK: usize = 16 << 10;

/// Bytes that have been written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Relayed {
    pub to_upstream: u64,
    pub to_downstream: u64,
}

/// Why a connection did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    #[error("a plugin has ended the connection: {0:?}")]
    Plugin(Ended),
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl From<Ended> for RelayError {
    fn from(ended: Ended) -> Self {
        Self::Plugin(ended)
    }
}

impl TcpStream {
    /// Relays until both sides have ended. The connection has been admitted by [`Self::connected`] before.
    pub async fn relay<D, U>(&self, downstream: D, upstream: U) -> Result<Relayed, RelayError>
    where
        D: AsyncRead + AsyncWrite + Unpin,
        U: AsyncRead + AsyncWrite + Unpin,
    {
        let (mut from_down, mut to_down) = tokio::io::split(downstream);
        let (mut from_up, mut to_up) = tokio::io::split(upstream);
        let (to_upstream, to_downstream) = tokio::try_join!(
            self.pump(Side::Downstream, &mut from_down, &mut to_up),
            self.pump(Side::Upstream, &mut from_up, &mut to_down),
        )?;
        Ok(Relayed {
            to_upstream,
            to_downstream,
        })
    }

    async fn pump<R, W>(&self, from: Side, read: &mut R, write: &mut W) -> Result<u64, RelayError>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let mut written = 0;
        let mut buffer = BytesMut::new();
        loop {
            buffer.reserve(CHUNK);
            let (data, end) = tokio::select! {
                biased;
                resumed = self.resumed(from) => (resumed?, false),
                count = read.read_buf(&mut buffer) => {
                    let end = count? == 0;
                    (self.data(from, buffer.split().freeze(), end).await?, end)
                }
            };
            write.write_all(&data).await?;
            written += data.len() as u64;
            if end {
                self.closed(from, Peer::Remote);
                write.shutdown().await?;
                return Ok(written);
            }
        }
    }
}
