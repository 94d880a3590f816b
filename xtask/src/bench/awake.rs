//! Cores that do not halt while something is measured.
//!
//! Owns: the wish to the kernel, which ends with its file (PM QoS, Documentation/power/pm_qos_interface.rst of Linux). A core
//! without work halts, and to wake it takes a virtual machine longer than most of what is measured here. It takes so for every
//! subject alike, and what they differ by is a small part of what is seen.

use std::fs::{File, OpenOptions};
use std::io::Write as _;

use anyhow::{Context, Result};

const LATENCY: &str = "/dev/cpu_dma_latency";
/// Microseconds that it may take until a core runs again: none, so that it waits in a loop.
const NONE: i32 = 0;

/// While it lives, cores stay awake.
pub(super) struct Awake {
    _file: File,
}

impl Awake {
    pub(super) fn keep() -> Result<Self> {
        let asked = OpenOptions::new().write(true).open(LATENCY);
        let mut file = asked.with_context(|| {
            format!("opening {LATENCY}, which keeps cores awake; it needs root, and a kernel with CONFIG_CPU_IDLE")
        })?;
        file.write_all(&NONE.to_ne_bytes())
            .with_context(|| format!("writing to {LATENCY}"))?;
        Ok(Self { _file: file })
    }
}
