//! The programs of one platform in the kernel: how they get there, how a new agent takes them over, how they go.
//!
//! Pins of a platform: `maps-VERSION/NAME` and `links/PROGRAM-CGROUP`. A link's program is replaced in place, so that
//! an upgrade has no moment without it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use aya::{Ebpf, EbpfLoader};
use ringwall_ebpf_common::MAPS_VERSION;

use crate::error::{Error, Result};
use crate::events::Events;
use crate::maps::{self, Maps};
use crate::names::Names;
use crate::programs::{self, ACCELERATION, CAPTURE, ENFORCEMENT};
use crate::tier::{self, Tier};
use crate::{bpffs, cgroup, sys};

/// The folder of pinned links, below the platform's pins.
const LINKS: &str = "links";

/// Where a platform's workloads are, and where its pins.
#[derive(Clone, Debug)]
pub struct Slice {
    /// The control group above those of workloads.
    pub path: PathBuf,
    /// A folder of its own on bpffs: `/sys/fs/bpf/ringwall-ID`. It is made, and bpffs is mounted where it is not.
    pub pins: PathBuf,
    pub attach: Attach,
}

/// To what the programs are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attach {
    /// To the slice: whatever runs below it without being enrolled is denied everything.
    Slice,
    /// To each enrolled group: where others' groups stand beside them, as in a container engine's.
    Each,
}

/// The way of a packet, from its workload's point of view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Out,
    In,
}

/// How to load.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Programs that are not attached: by this a test of a hook is seen to fail.
    pub without: Vec<String>,
    /// Other sizes of maps than the programs name; for tests of full ones.
    pub capacities: Vec<(&'static str, u32)>,
}

/// The programs and maps of one platform. Dropping it leaves them at work.
pub struct Kernel {
    pub(crate) object: Ebpf,
    pub(crate) maps: Maps,
    pub(crate) names: Names,
    slice: Slice,
    pub(crate) without: Vec<String>,
    tier: Tier,
    /// Why nothing can go from socket to socket here.
    pub(crate) no_acceleration: Option<String>,
    /// 0 where nothing does.
    pub(crate) epoch: u64,
}

impl Kernel {
    /// The tier that this process would get, as far as that can be told without loading anything.
    #[must_use]
    pub fn prospect() -> Tier {
        tier::missing().map_or(Tier::Full, Tier::Userspace)
    }

    /// Makes the folder of pins, and mounts bpffs where it is not, which takes CAP_SYS_ADMIN; nothing afterwards does.
    pub fn prepare(pins: &Path) -> Result<()> {
        bpffs::prepare(pins)
    }

    /// Loads the programs and attaches them, or takes over what a predecessor has pinned.
    pub fn open(object: &[u8], slice: Slice) -> Result<Self> {
        Self::open_with(object, slice, &Options::default())
    }

    /// The same with other options.
    pub fn open_with(object: &[u8], slice: Slice, options: &Options) -> Result<Self> {
        if let Some(missing) = tier::missing() {
            return Err(Error::Unsupported(missing));
        }
        let level = cgroup::depth(&slice.path)? + 1;
        bpffs::prepare(&slice.pins)?;
        let maps_folder = bpffs::folder(&slice.pins, &maps_name())?;
        bpffs::folder(&slice.pins, LINKS)?;
        let mut loader = EbpfLoader::new();
        let level = i32::try_from(level).unwrap_or(i32::MAX);
        loader.override_global("LEVEL", &level, true);
        for name in maps::PINNED {
            loader.map_pin_path(name, maps::pin(&maps_folder, name));
        }
        // The shield has a loading of its own.
        loader.map_max_entries("SHIELD_RATES", maps::SMALL);
        for (name, capacity) in &options.capacities {
            loader.map_max_entries(name, *capacity);
        }
        let mut object = loader.load(object)?;
        let tier = load_all(&mut object)?;
        let acceleration = programs::load(&mut object, ACCELERATION);
        let mut kernel = Self {
            maps: Maps::take(&mut object)?,
            object,
            names: Names::default(),
            slice,
            without: options.without.clone(),
            tier,
            no_acceleration: acceleration.err().map(|error| error.to_string()),
            epoch: 0,
        };
        // Whatever a predecessor has tried and found good, this one tries anew.
        kernel.decelerate()?;
        kernel.replace_pinned()?;
        kernel.attach_acceleration()?;
        if kernel.slice.attach == Attach::Slice {
            let path = kernel.slice.path.clone();
            kernel.attach_all(&path)?;
        }
        // Maps that an older agent has left: no program has them any more.
        bpffs::remove_others(&kernel.slice.pins, "maps-", &maps_name());
        Ok(kernel)
    }

    /// What of it is at work.
    #[must_use]
    pub fn tier(&self) -> &Tier {
        &self.tier
    }

    /// Refusals as they happen; none the second time. To be called within a tokio runtime.
    pub fn events(&mut self) -> Result<Option<Events>> {
        let Some(buffer) = self.maps.events.take() else {
            return Ok(None);
        };
        Events::new(buffer, self.names.clone()).map(Some)
    }

    /// Would an IP packet pass, if a socket without history in the calling process's control group sent or got it?
    /// The kernel's program runs over the bytes (BPF_PROG_TEST_RUN) and counts as it would. `frame` begins with an
    /// Ethernet header.
    pub fn rehearse(&self, way: Way, frame: &[u8]) -> Result<bool> {
        let name = match way {
            Way::Out => "rw_egress",
            Way::In => "rw_ingress",
        };
        programs::rehearse(&self.object, name, frame)
    }

    /// Detaches everything and removes the pins of a platform: the end of its interception.
    pub fn remove(pins: &Path) -> Result<()> {
        let failed = |source: io::Error| Error::Pins {
            path: pins.to_path_buf(),
            source,
        };
        sys::end_links(&pins.join(LINKS)).map_err(failed)?;
        match fs::remove_dir_all(pins) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(error)),
            _ => Ok(()),
        }
    }

    pub(crate) fn attach_to(&mut self, group: &Path) -> Result<()> {
        match self.slice.attach {
            Attach::Slice => Ok(()),
            Attach::Each => self.attach_all(group),
        }
    }

    pub(crate) fn detach_from(&self, number: u64) -> Result<()> {
        if self.slice.attach == Attach::Slice {
            return Ok(());
        }
        for name in programs::all() {
            self.end(self.link(name, number))?;
        }
        Ok(())
    }

    /// Ends what is pinned there. That there is nothing is fine.
    pub(crate) fn end(&self, pin: PathBuf) -> Result<()> {
        sys::end_link(&pin).map_err(|source| Error::Pins { path: pin, source })
    }

    /// Attaches what is not attached there yet.
    fn attach_all(&mut self, group: &Path) -> Result<()> {
        let number = cgroup::number(group)?;
        for name in programs::all() {
            let pin = self.link(name, number);
            let left_out = self.without.iter().any(|other| other == name);
            if left_out || self.is_not_loaded(name) || pin.exists() {
                continue;
            }
            programs::attach(&self.object, name, group, &pin)?;
        }
        Ok(())
    }

    /// Puts the new programs behind the links that are pinned, one by one and each at once.
    fn replace_pinned(&self) -> Result<()> {
        let links = self.slice.pins.join(LINKS);
        for name in programs::all() {
            if self.is_not_loaded(name) {
                // What a predecessor could load stands as it is.
                continue;
            }
            for path in pins_of(&links, name)? {
                let failed = |source: io::Error| Error::Replace {
                    path: path.clone(),
                    source,
                };
                let link = sys::open_pin(&path).map_err(failed)?;
                let replaced = programs::with_descriptor(&self.object, name, |program| {
                    sys::replace_program(&link, program)
                })?;
                match replaced {
                    // The group is gone, and the link with it.
                    Err(error) if error.raw_os_error() == Some(nix::libc::ENOLINK) => {
                        fs::remove_file(&path).map_err(failed)?;
                    }
                    other => other.map_err(failed)?,
                }
            }
        }
        Ok(())
    }

    fn is_not_loaded(&self, name: &str) -> bool {
        matches!(self.tier, Tier::CaptureOnly(_)) && ENFORCEMENT.contains(&name)
    }

    pub(crate) fn maps_folder(&self) -> PathBuf {
        self.slice.pins.join(maps_name())
    }

    pub(crate) fn link(&self, program: &str, number: u64) -> PathBuf {
        self.slice
            .pins
            .join(LINKS)
            .join(format!("{program}-{number}"))
    }
}

/// Enforcement may be missing, and the tier says so; capture may not.
fn load_all(object: &mut Ebpf) -> Result<Tier> {
    for name in CAPTURE {
        programs::load(object, name)?;
    }
    for name in ENFORCEMENT {
        if let Err(error) = programs::load(object, name) {
            return Ok(Tier::CaptureOnly(error.to_string()));
        }
    }
    Ok(Tier::Full)
}

fn maps_name() -> String {
    format!("maps-{MAPS_VERSION}")
}

/// The pinned links of a program, whatever they are attached to.
fn pins_of(links: &Path, program: &str) -> Result<Vec<PathBuf>> {
    let failed = |source: io::Error| Error::Pins {
        path: links.to_path_buf(),
        source,
    };
    let start = format!("{program}-");
    let mut found = Vec::new();
    for entry in fs::read_dir(links).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.file_name().to_string_lossy().starts_with(&start) {
            found.push(entry.path());
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_moves_between_threads() {
        fn moves<T: Send>() {}
        moves::<Kernel>();
        moves::<Events>();
    }
}
