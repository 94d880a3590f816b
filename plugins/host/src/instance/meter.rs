//! The memory and tables of one instance.
//!
//! Owns: the caps, and the gauge of all memory in use. A guest that asks for more gets the answer of a full machine.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use wasmtime::ResourceLimiter;

use crate::metrics::PluginMetrics;
use crate::spec::Limits;

pub(crate) struct Meter {
    memory: usize,
    table_elements: usize,
    used: i64,
    metrics: Arc<PluginMetrics>,
}

impl Meter {
    pub(crate) fn new(limits: &Limits, metrics: Arc<PluginMetrics>) -> Self {
        Self {
            memory: limits.memory,
            table_elements: limits.table_elements,
            used: 0,
            metrics,
        }
    }

    /// Bytes of linear memory.
    pub(crate) fn used(&self) -> u64 {
        self.used.unsigned_abs()
    }

    pub(crate) fn release(&mut self) {
        self.metrics.memory.fetch_sub(self.used, Ordering::Relaxed);
        self.used = 0;
    }
}

impl ResourceLimiter for Meter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        if desired > self.memory || maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        let more = i64::try_from(desired.saturating_sub(current)).unwrap_or(0);
        self.used += more;
        self.metrics.memory.fetch_add(more, Ordering::Relaxed);
        Ok(true)
    }

    fn table_growing(
        &mut self,
        _current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(desired <= self.table_elements && maximum.is_none_or(|maximum| desired <= maximum))
    }

    fn instances(&self) -> usize {
        1
    }

    fn tables(&self) -> usize {
        8
    }

    fn memories(&self) -> usize {
        1
    }
}
