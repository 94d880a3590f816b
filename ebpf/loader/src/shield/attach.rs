//! Where the shield runs: in the driver, at the stack's ingress, or between the two.

use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use nix::libc;

use super::{FOLDER, LINKS, SHIELD, Shield};
use crate::error::{Error, Result};
use crate::{programs, sys};

/// `enum bpf_attach_type` and the flags of `if_link.h`.
const BPF_XDP: u32 = 37;
const BPF_TCX_INGRESS: u32 = 46;
const XDP_FLAGS_SKB_MODE: u32 = 1 << 1;
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;
/// `ARPHRD_ETHER`, `ARPHRD_LOOPBACK`: both have Ethernet's header.
const ETHERNET: [u16; 2] = [1, 772];

/// How it is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// XDP in the driver: before the kernel makes anything of a frame.
    Driver,
    /// tcx at the stack's ingress, which every interface has since Linux 6.6.
    Ingress,
    /// XDP of the stack, where the driver has none and tcx is not there.
    Generic,
}

/// Which mode is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Want {
    /// The first that works, in the order of `Mode`.
    #[default]
    Best,
    Only(Mode),
}

/// Where it is at work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    pub interface: String,
    pub mode: Mode,
    /// Why not in the driver, where that was tried.
    pub reason: Option<String>,
}

impl Mode {
    const ALL: [Self; 3] = [Self::Driver, Self::Ingress, Self::Generic];

    /// The word for people, files and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Driver => "driver",
            Self::Ingress => "ingress",
            Self::Generic => "generic",
        }
    }

    pub(super) const fn program(self) -> &'static str {
        let [driver, stack] = SHIELD;
        match self {
            Self::Driver | Self::Generic => driver,
            Self::Ingress => stack,
        }
    }

    const fn link(self) -> (u32, u32) {
        match self {
            Self::Driver => (BPF_XDP, XDP_FLAGS_DRV_MODE),
            Self::Generic => (BPF_XDP, XDP_FLAGS_SKB_MODE),
            Self::Ingress => (BPF_TCX_INGRESS, 0),
        }
    }
}

impl Shield {
    /// Attaches it to an interface of the calling thread's network namespace, where it is not attached yet.
    pub fn attach(&self, interface: &str, want: Want) -> Result<Attached> {
        let failed = |source: io::Error| Error::Interface {
            interface: interface.to_owned(),
            source,
        };
        let number = number(interface).map_err(failed)?;
        let mut reason = None;
        if want == Want::Best
            && let Some((_, mode, _)) = self.pinned()?.into_iter().find(|(.., at)| *at == number)
        {
            return Ok(Attached {
                interface: interface.to_owned(),
                mode,
                reason,
            });
        }
        for mode in Mode::ALL {
            let attached = |reason| Attached {
                interface: interface.to_owned(),
                mode,
                reason,
            };
            if want != Want::Best && want != Want::Only(mode) {
                continue;
            }
            if self.pin(mode, number).exists() {
                return Ok(attached(None));
            }
            match self.attach_as(mode, number) {
                Ok(()) => {
                    self.detach_others(mode, number)?;
                    return Ok(attached(reason));
                }
                Err(Error::Refused(error)) => {
                    reason.get_or_insert(format!("{}: {error}", mode.as_str()));
                }
                Err(error) => return Err(error),
            }
        }
        let reason = reason.unwrap_or_default();
        Err(failed(io::Error::other(reason)))
    }

    /// Detaches the shield of a platform everywhere, and forgets its list. That there is none is fine.
    pub fn remove(pins: &Path) -> Result<()> {
        let path = pins.join(FOLDER);
        match sys::end_links(&path.join(LINKS)).and_then(|()| fs::remove_dir_all(&path)) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(Error::Pins { path, source })
            }
            _ => Ok(()),
        }
    }

    /// Detaches it everywhere but at these interfaces.
    pub fn retain(&self, interfaces: &[&str]) -> Result<()> {
        let kept: Vec<u32> = interfaces
            .iter()
            .filter_map(|name| number(name).ok())
            .collect();
        for (path, _, number) in self.pinned()? {
            if !kept.contains(&number) {
                sys::end_link(&path).map_err(|source| Error::Pins { path, source })?;
            }
        }
        Ok(())
    }

    /// Another mode was wanted before: no packet passes unseen, as both were there for a moment.
    fn detach_others(&self, kept: Mode, number: u32) -> Result<()> {
        for (path, mode, other) in self.pinned()? {
            if other == number && mode != kept {
                sys::end_link(&path).map_err(|source| Error::Pins { path, source })?;
            }
        }
        Ok(())
    }

    fn attach_as(&self, mode: Mode, number: u32) -> Result<()> {
        let name = mode.program();
        if self.without.iter().any(|other| other == name) {
            return Ok(());
        }
        let (kind, flags) = mode.link();
        let link = programs::with_descriptor(&self.object, name, |program| {
            sys::link_to(program, number, kind, flags)
        })?;
        let link = link.map_err(Error::Refused)?;
        let path = self.pin(mode, number);
        sys::pin(&link, &path).map_err(|source| Error::Pins { path, source })
    }

    /// Puts the new programs behind the links that are pinned, each at once.
    pub(super) fn replace_pinned(&self) -> Result<()> {
        for (path, mode, _) in self.pinned()? {
            let failed = |source: io::Error| Error::Replace {
                path: path.clone(),
                source,
            };
            let link = sys::open_pin(&path).map_err(failed)?;
            let replaced = programs::with_descriptor(&self.object, mode.program(), |program| {
                sys::replace_program(&link, program)
            })?;
            match replaced {
                // The interface is gone, and what was attached to it.
                Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => {
                    fs::remove_file(&path).map_err(failed)?;
                }
                other => other.map_err(failed)?,
            }
        }
        Ok(())
    }

    fn pin(&self, mode: Mode, number: u32) -> PathBuf {
        self.links.join(format!("{}-{number}", mode.as_str()))
    }

    fn pinned(&self) -> Result<Vec<(PathBuf, Mode, u32)>> {
        let failed = |source: io::Error| Error::Pins {
            path: self.links.clone(),
            source,
        };
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.links).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let Some((word, number)) = name.split_once('-') else {
                continue;
            };
            let mode = Mode::ALL.into_iter().find(|mode| mode.as_str() == word);
            if let (Some(mode), Ok(number)) = (mode, number.parse()) {
                found.push((entry.path(), mode, number));
            }
        }
        Ok(found)
    }
}

/// The number of an interface that carries Ethernet. Asked of the thread's own network namespace: /sys may show another's.
fn number(interface: &str) -> io::Result<u32> {
    let socket = nix::sys::socket::socket(
        nix::sys::socket::AddressFamily::Inet,
        nix::sys::socket::SockType::Datagram,
        nix::sys::socket::SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    // SAFETY: integers and an array of them, for which zero is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let room = request.ifr_name.len();
    if interface.is_empty() || interface.len() >= room {
        return Err(io::Error::other("no name of an interface"));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *to = from.cast_signed();
    }
    let ask = |request: &mut libc::ifreq, what| {
        // SAFETY: both requests read the name and write one member of the union.
        let result = unsafe { libc::ioctl(socket.as_raw_fd(), what, std::ptr::from_mut(request)) };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    };
    ask(&mut request, libc::SIOCGIFHWADDR)?;
    // SAFETY: the kernel has just written this member.
    let family = unsafe { request.ifr_ifru.ifru_hwaddr.sa_family };
    if !ETHERNET.contains(&family) {
        return Err(io::Error::other("it does not carry Ethernet"));
    }
    ask(&mut request, libc::SIOCGIFINDEX)?;
    // SAFETY: as above.
    let index = unsafe { request.ifr_ifru.ifru_ifindex };
    u32::try_from(index).map_err(io::Error::other)
}
