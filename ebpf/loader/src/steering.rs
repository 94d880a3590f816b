//! Steering: where a network namespace belongs to one workload and its proxy (a pod of containers), what comes to the
//! workload's ports from outside goes to the proxy's listener.
//!
//! Owns: the program of each namespace, and which ports of it are steered. Must not: open listeners; whoever holds the
//! proxy's sockets gives them. What is pinned goes on without this process, and ends with the namespace.

use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::Path;

use aya::EbpfLoader;
use aya::maps::MapError;
use nix::sys::stat::fstat;
use ringwall_ebpf_common::SteerKey;

use crate::error::{Error, Result};
use crate::kernel::Kernel;
use crate::maps::{self, Raw};
use crate::programs::{self, STEERING};
use crate::sys;

/// One port of a namespace, and the proxy's listeners for it. Without the one of a family, nobody answers by it.
#[derive(Clone, Copy, Debug)]
pub struct Steering<'a> {
    /// The namespace's file: `/proc/PID/ns/net`, or where it is kept.
    pub network: &'a Path,
    /// What the workload has declared.
    pub port: u16,
    pub listener_4: Option<BorrowedFd<'a>>,
    pub listener_6: Option<BorrowedFd<'a>>,
}

impl Kernel {
    /// Steers a port, or changes where to. `object` is what the kernel was opened with. The listeners stay the caller's,
    /// and when they are closed nobody answers.
    pub fn steer(&mut self, object: &[u8], steering: &Steering<'_>) -> Result<()> {
        let network = number(steering.network)?;
        let key = SteerKey {
            network,
            port: steering.port,
            family: 0,
        };
        self.maps.steered.insert(&Raw(key), &1)?;
        let listeners = [(4, steering.listener_4), (6, steering.listener_6)];
        for (family, listener) in listeners {
            let key = Raw(SteerKey { family, ..key });
            let done = match listener {
                Some(listener) => self.maps.steers.insert(key, listener.as_raw_fd(), 0),
                None => match self.maps.steers.remove(&key) {
                    Err(MapError::KeyNotFound) => Ok(()),
                    Err(MapError::SyscallError(call))
                        if call.io_error.raw_os_error() == Some(nix::libc::ENOENT) =>
                    {
                        Ok(())
                    }
                    removed => removed,
                },
            };
            done.map_err(|error| Error::map("STEERS", error))?;
        }
        self.attach_steering(object, steering.network, network)
    }

    /// Takes the program of a namespace away: its ports are as they were without us.
    pub fn leave_network(&mut self, network: &Path) -> Result<()> {
        let number = number(network)?;
        for key in self.maps.steered.keys()? {
            if key.0.network == number {
                self.maps.steered.remove(&key)?;
            }
        }
        self.end(self.link(STEERING, u64::from(number)))
    }

    fn attach_steering(&self, object: &[u8], network: &Path, number: u32) -> Result<()> {
        if self.without.iter().any(|name| name == STEERING) {
            return Ok(());
        }
        let mut loader = EbpfLoader::new();
        loader.override_global("NETWORK", &number, true);
        let folder = self.maps_folder();
        for name in maps::PINNED {
            loader.map_pin_path(name, maps::pin(&folder, name));
        }
        let mut object = loader.load(object)?;
        programs::load(&mut object, STEERING)?;
        let pin = self.link(STEERING, u64::from(number));
        if let Ok(link) = sys::open_pin(&pin) {
            let replaced = programs::with_descriptor(&object, STEERING, |program| {
                sys::replace_program(&link, program.as_fd())
            })?;
            if replaced.is_ok() {
                return Ok(());
            }
            // Of a namespace that is gone, whose number this one has.
            fs::remove_file(&pin).map_err(|source| Error::Replace {
                path: pin.clone(),
                source,
            })?;
        }
        programs::attach(&object, STEERING, network, &pin)
    }
}

/// A namespace is known by the inode of its file.
fn number(network: &Path) -> Result<u32> {
    let failed = |source: std::io::Error| Error::Attach {
        program: STEERING,
        path: network.to_path_buf(),
        source,
    };
    let file = fs::File::open(network).map_err(failed)?;
    let found = fstat(&file).map_err(|error| failed(error.into()))?;
    u32::try_from(found.st_ino).map_err(|error| failed(std::io::Error::other(error)))
}
