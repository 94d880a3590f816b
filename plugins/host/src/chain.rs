//! The plugins of a route, in order.
//!
//! Owns: nothing but the list. It belongs to a route's configuration and is shared by all workers.

use std::sync::Arc;

use crate::plugin::Plugin;

/// Requests pass the plugins in this order, responses in the reverse.
#[derive(Debug, Clone, Default)]
pub struct Chain {
    pub(crate) plugins: Arc<[Arc<Plugin>]>,
}

impl Chain {
    pub fn new(plugins: impl IntoIterator<Item = Arc<Plugin>>) -> Self {
        Self {
            plugins: plugins.into_iter().collect(),
        }
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.plugins.is_empty()
    }
}
