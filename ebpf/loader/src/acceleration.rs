//! Acceleration: bytes between an application and its own proxy go from socket to socket, past the packets of loopback.
//!
//! Owns: the switch in the kernel, and what decides about it. It is off until a trial on this very kernel has found every
//! shape of traffic right and a gain worth having (`trial.rs`), and on only as long as somebody prolongs it after a look
//! (`canary.rs`). Must not: keep a connection accelerated past anything that the policy takes away; packets are what the
//! second wall judges, so such a change ends the epoch and all connections go by packets again.
//! Read next: `acceleration/shapes.rs`, docs/ebpf.md.

pub mod canary;
pub mod gain;
pub mod shapes;
pub mod trial;

use std::fmt;
use std::os::fd::AsFd;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use ringwall_ebpf_common::Switch;

use crate::error::{Error, Result};
use crate::kernel::Kernel;
use crate::maps::Raw;
use crate::programs::{self, ACCELERATION};
use crate::sys;

/// Whether bytes go from socket to socket, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Acceleration {
    /// Nobody has asked for it.
    Off,
    /// It was tried and is at work; what was gained.
    On(String),
    /// It was asked for and is not at work; why.
    Refused(String),
}

impl Acceleration {
    /// The word for people and metrics.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::On(_) => "on",
            Self::Refused(_) => "refused",
        }
    }

    /// Why it is so.
    #[must_use]
    pub fn reason(&self) -> &str {
        match self {
            Self::Off => "not asked for",
            Self::On(reason) | Self::Refused(reason) => reason,
        }
    }
}

impl fmt::Display for Acceleration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.as_str(), self.reason())
    }
}

impl Kernel {
    /// Connections that begin from now on are accelerated, for as long as `lease`; again: for as long from now. When it
    /// has run out, they go by packets, whatever has become of the caller.
    pub fn accelerate(&mut self, lease: Duration) -> Result<()> {
        if let Some(why) = &self.no_acceleration {
            return Err(Error::NoAcceleration(why.clone()));
        }
        let now = monotonic();
        if self.epoch == 0 {
            // Never one that a connection has begun with: the clock goes on, whoever reads it.
            self.epoch = now;
        }
        let lease = u64::try_from(lease.as_nanos()).unwrap_or(u64::MAX);
        self.switch(Switch {
            epoch: self.epoch,
            until: now.saturating_add(lease),
        })
    }

    /// All connections go by packets, those too that are open.
    pub fn decelerate(&mut self) -> Result<()> {
        self.epoch = 0;
        self.switch(Switch::default())
    }

    /// Makes a change that takes something away. Until it is made, and for good where it fails or this process dies in
    /// it, nothing goes past the packets; afterwards, what was open does not.
    pub(crate) fn revoking<T>(&mut self, change: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if self.epoch == 0 {
            return change(self);
        }
        let Raw(before) = self
            .maps
            .acceleration
            .get(&0, 0)
            .map_err(|error| Error::map("ACCELERATION", error))?;
        self.decelerate()?;
        let changed = change(self)?;
        self.epoch = monotonic().max(before.epoch + 1);
        self.switch(Switch {
            epoch: self.epoch,
            ..before
        })?;
        Ok(changed)
    }

    pub(crate) fn attach_acceleration(&mut self) -> Result<()> {
        if self.no_acceleration.is_some() || self.without.iter().any(|name| name == ACCELERATION) {
            return Ok(());
        }
        let map = self.maps.sockets.fd();
        let attached = programs::with_descriptor(&self.object, ACCELERATION, |program| {
            sys::attach_to_map(program, map.as_fd())
        })?;
        attached.map_err(Error::AttachToMap)
    }

    fn switch(&mut self, to: Switch) -> Result<()> {
        let set = self.maps.acceleration.set(0, Raw(to), 0);
        set.map_err(|error| Error::map("ACCELERATION", error))
    }
}

/// Nanoseconds, by the clock that programs read.
fn monotonic() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from);
    now.map_or(1, |now| u64::try_from(now.as_nanos()).unwrap_or(u64::MAX))
}
