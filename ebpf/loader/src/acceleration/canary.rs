//! The canary: connections of a workload that is there for nothing else, in the platform's own slice and under its own
//! programs, looked at as long as acceleration is on.
//!
//! Owns: what one look is. The process of the canary is moved between the two groups, and may never come back from a
//! look: somebody else waits for its word, with a limit (the agent). Must not: turn anything off itself.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;

use super::shapes::{Line, Shape};
use super::trial::{NOWHERE, failed, listener, patient};
use crate::cgroup;
use crate::enrolment::{Enrolment, Listener};
use crate::error::Result;
use crate::kernel::Kernel;

/// The name under which it is enrolled; no component can have it.
const WORKLOAD: &str = "acceleration canary";

/// What each look takes: those that are short.
const LOOK: [Shape; 4] = [
    Shape::Bulk,
    Shape::HalfClose,
    Shape::QueuedBefore,
    Shape::BlockingReaders,
];

/// The ends of a connection that stays, and the place where new ones come from.
pub struct Canary {
    capture: TcpListener,
    standing: Option<(TcpStream, TcpStream)>,
}

impl Canary {
    /// Listens as the proxy. Both groups are enrolled before; the application's is told of the listener afterwards.
    pub fn listen(proxy: &Path) -> Result<Self> {
        cgroup::join(proxy).map_err(failed("joining a control group"))?;
        Ok(Self {
            capture: listener()?,
            standing: None,
        })
    }

    /// Where its connections are to be captured to.
    pub fn address(&self) -> Result<SocketAddr> {
        self.capture.local_addr().map_err(failed("an address"))
    }

    /// From now on the process is the application.
    pub fn fly(&self, app: &Path) -> Result<()> {
        cgroup::join(app).map_err(failed("joining a control group"))
    }

    /// One look. The error says what was seen.
    pub fn look(&mut self) -> std::result::Result<(), String> {
        self.look_at_the_standing_one()
            .map_err(|error| format!("a connection that stays: {error}"))?;
        LOOK.iter().try_for_each(|shape| {
            shape
                .run(self)
                .map_err(|seen| format!("{}: {seen}", shape.as_str()))
        })
    }

    /// It has rested since the last look.
    fn look_at_the_standing_one(&mut self) -> io::Result<()> {
        use std::io::{Read as _, Write as _};
        let pair = match self.standing.take() {
            Some(pair) => pair,
            None => (self.dial()?, self.accept()?),
        };
        let (mut client, mut server) = pair;
        for round in 0..100_u8 {
            let mut message = [round; 64];
            client.write_all(&message)?;
            server.read_exact(&mut message)?;
            server.write_all(&message)?;
            client.read_exact(&mut message)?;
            if message != [round; 64] {
                return Err(io::Error::other("other bytes came back"));
            }
        }
        self.standing = Some((client, server));
        Ok(())
    }
}

impl Line for Canary {
    fn dial(&mut self) -> io::Result<TcpStream> {
        patient(TcpStream::connect(NOWHERE)?)
    }

    fn accept(&mut self) -> io::Result<TcpStream> {
        patient(self.capture.accept()?.0)
    }
}

impl Kernel {
    /// Enrols the canary's groups, below the slice; again, when it listens.
    pub fn enrol_canary(&mut self, app: &Path, proxy: &Path, at: Option<SocketAddr>) -> Result<()> {
        self.enrol(&Enrolment::proxy(WORKLOAD, proxy))?;
        self.enrol(&Enrolment {
            capture: Listener { v4: at, v6: None },
            egress: true,
            ..Enrolment::app(WORKLOAD, app)
        })
    }
}
