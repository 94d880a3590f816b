//! The files of an image, as one tar archive whose bytes depend on nothing but the files' content.
//!
//! The Dockerfile unpacks it as the image's only layer. It is an archive and not a folder because BuildKit gives copied
//! folders the time of the copy, while it keeps what an archive says: times, modes and owners.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::components::Component;
use crate::build::Profile;
use crate::config::Config;
use crate::process::output;
use crate::{ebpf, wasm};

/// Who the platform runs as: `deploy/images/rootfs/etc/passwd`.
const USER: &str = "10001";
/// Folders of that user, which nobody else may look into.
const OWN: [&str; 2] = ["run/ringwall", "var/lib/ringwall"];
/// The layer, as the Dockerfile names it.
pub(super) const LAYER: &str = "rootfs.tar";
/// Where the agent's image has the programs for the kernel.
const PROGRAMS: &str = "usr/share/ringwall/ringwall.bpf.o";
/// Where an image has its plugins.
const PLUGINS: &str = "usr/share/ringwall/plugins";

/// Stages every component below the folder: `<folder>/<component>/rootfs.tar`.
pub(super) fn all(
    config: &Config,
    binaries: &Path,
    components: &[Component],
    profile: Profile,
    folder: &Path,
) -> Result<()> {
    let stage = Stage {
        root: &config.root,
        web: config.web().join("dist"),
        plugins: wasm::folder(config),
        programs: ebpf::path(config),
        binaries,
        profile,
    };
    for component in components {
        stage
            .one(component, &folder.join(component.name()))
            .with_context(|| format!("staging {}", component.name()))?;
    }
    Ok(())
}

/// What the files come from.
pub(super) struct Stage<'run> {
    pub(super) root: &'run Path,
    pub(super) web: PathBuf,
    pub(super) plugins: PathBuf,
    /// Those for the kernel.
    pub(super) programs: PathBuf,
    pub(super) binaries: &'run Path,
    pub(super) profile: Profile,
}

impl Stage<'_> {
    pub(super) fn one(&self, component: &Component, folder: &Path) -> Result<()> {
        let files = folder.with_extension("files");
        for old in [&files, &folder.to_path_buf()] {
            if old.exists() {
                fs::remove_dir_all(old).context("removing what was staged before")?;
            }
        }
        fs::create_dir_all(folder).context("making a folder")?;
        copy_tree(&self.root.join("deploy/images/rootfs"), &files)?;
        for own in OWN {
            fs::create_dir_all(files.join(own)).context("making a folder")?;
        }
        self.binary(component, &files.join(component.program()))?;
        if component.has_web() {
            copy_tree(&self.web, &files.join("usr/share/ringwall/web"))?;
        }
        if component.loads_programs() {
            let place = files.join(PROGRAMS);
            make_folder_of(&place)?;
            let copied = fs::copy(&self.programs, &place);
            copied.with_context(|| format!("copying {}", self.programs.display()))?;
        }
        for module in component.plugins() {
            let (built, place) = (self.plugins.join(module), files.join(PLUGINS).join(module));
            make_folder_of(&place)?;
            fs::copy(&built, &place).with_context(|| format!("copying {}", built.display()))?;
        }
        archive(&files, &folder.join(LAYER))?;
        fs::remove_dir_all(&files).context("removing staged files")
    }

    fn binary(&self, component: &Component, place: &Path) -> Result<()> {
        let built = self.binaries.join(component.binary());
        make_folder_of(place)?;
        if self.profile == Profile::Dev {
            // Line tables would make each image twenty times as large.
            output(Command::new("strip").arg("-o").arg(place).arg(&built))?;
        } else {
            fs::copy(&built, place).with_context(|| format!("copying {}", built.display()))?;
        }
        let bytes = fs::read(place).context("reading the binary")?;
        if needs_a_loader(&bytes) {
            bail!(
                "{} is linked dynamically and would not run in an empty image: RUSTFLAGS or \
                 CARGO_ENCODED_RUSTFLAGS in the environment replace the flags of .cargo/config.toml",
                built.display()
            );
        }
        Ok(())
    }
}

/// Files, folders and their modes, in a fixed order; folders of the user come last, with their owner.
fn archive(files: &Path, layer: &Path) -> Result<()> {
    set_modes(files)?;
    let tar = |mode: &str, owner: &str| {
        let mut tar = Command::new("tar");
        tar.args([
            "--format=gnu",
            "--sort=name",
            "--mtime=@0",
            "--numeric-owner",
        ]);
        tar.arg(format!("--owner={owner}"))
            .arg(format!("--group={owner}"));
        tar.arg("-C").arg(files).arg(mode).arg(layer);
        tar
    };
    let mut all = tar("-cf", "0");
    all.args(OWN.map(|own| format!("--exclude=./{own}")))
        .arg(".");
    output(&mut all)?;
    output(tar("-rf", USER).args(OWN.map(|own| format!("./{own}"))))?;
    Ok(())
}

/// Whatever the umask of this machine is.
fn set_modes(folder: &Path) -> Result<()> {
    set_mode(folder, 0o755)?;
    for entry in fs::read_dir(folder).context("listing staged files")? {
        let path = entry.context("listing staged files")?.path();
        if path.is_dir() {
            set_modes(&path)?;
        } else if path
            .parent()
            .is_some_and(|folder| folder.ends_with("usr/bin"))
        {
            set_mode(&path, 0o755)?;
        } else {
            set_mode(&path, 0o644)?;
        }
        if OWN.iter().any(|own| path.ends_with(own)) {
            set_mode(&path, 0o700)?;
        }
    }
    Ok(())
}

fn set_mode(path: &Path, mode: u32) -> Result<()> {
    fs::set_permissions(path, Permissions::from_mode(mode))
        .with_context(|| format!("setting the mode of {}", path.display()))
}

pub(super) fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("making {}", to.display()))?;
    for entry in fs::read_dir(from).with_context(|| format!("listing {}", from.display()))? {
        let entry = entry.context("listing files")?;
        let place = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_tree(&entry.path(), &place)?;
        } else {
            fs::copy(entry.path(), &place)
                .with_context(|| format!("copying {}", place.display()))?;
        }
    }
    Ok(())
}

pub(super) fn make_folder_of(file: &Path) -> Result<()> {
    let folder = file.parent().context("a file stands in a folder")?;
    fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))
}

/// A program header of type `PT_INTERP` in a 64-bit little-endian ELF file (elf(5)).
fn needs_a_loader(elf: &[u8]) -> bool {
    const PT_INTERP: u64 = 3;
    let number = |at: usize, length: usize| -> Option<u64> {
        let bytes = elf.get(at..at.checked_add(length)?)?;
        Some(
            bytes
                .iter()
                .rev()
                .fold(0, |sum, byte| (sum << 8) | u64::from(*byte)),
        )
    };
    let headers = || -> Option<Vec<u64>> {
        let first = usize::try_from(number(32, 8)?).ok()?;
        let size = usize::try_from(number(54, 2)?).ok()?;
        let count = usize::try_from(number(56, 2)?).ok()?;
        (0..count)
            .map(|index| number(first.checked_add(index.checked_mul(size)?)?, 4))
            .collect()
    };
    !elf.starts_with(b"\x7fELF") || headers().is_none_or(|types| types.contains(&PT_INTERP))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let folder =
            std::env::temp_dir().join(format!("ringwall-stage-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    #[test]
    fn a_dynamic_binary_is_refused_and_so_is_what_is_no_binary() {
        assert!(needs_a_loader(&fs::read("/bin/sh").unwrap()));
        assert!(needs_a_loader(b"#!/bin/sh"));
        assert!(needs_a_loader(b"\x7fELF"));
        // This test itself is built like the components: static.
        let own = fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(!needs_a_loader(&own));
    }

    #[test]
    fn the_archive_depends_on_content_alone() {
        let folder = scratch("archive");
        let make = |name: &str, mode: u32| {
            let files = folder.join(name);
            for own in OWN {
                fs::create_dir_all(files.join(own)).unwrap();
            }
            fs::create_dir_all(files.join("usr/bin")).unwrap();
            fs::write(files.join("usr/bin/x"), "x").unwrap();
            set_mode(&files.join("usr/bin/x"), mode).unwrap();
            let layer = folder.join(format!("{name}.tar"));
            archive(&files, &layer).unwrap();
            fs::read(layer).unwrap()
        };
        let first = make("one", 0o600);
        std::thread::sleep(std::time::Duration::from_millis(1100));
        assert!(
            first == make("two", 0o777),
            "times or modes got into the archive"
        );
        let listing = output(Command::new("tar").arg("-tvf").arg(folder.join("one.tar"))).unwrap();
        let has = |mode: &str, rest: &str| {
            let mut lines = listing.lines();
            lines.any(|line| line.starts_with(mode) && line.ends_with(rest))
        };
        assert!(has("-rwxr-xr-x 0/0", "./usr/bin/x"), "{listing}");
        assert!(
            has("drwx------ 10001/10001", "./run/ringwall/"),
            "{listing}"
        );
        assert!(
            has("drwx------ 10001/10001", "./var/lib/ringwall/"),
            "{listing}"
        );
        assert!(has("drwxr-xr-x 0/0", "./var/lib/"), "{listing}");
        fs::remove_dir_all(folder).unwrap();
    }
}
