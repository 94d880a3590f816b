//! The trait that a filter implements, and the root context around it.

use std::rc::Rc;

use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{Action, ContextType, LogLevel};

use crate::host;

/// A filter with its configuration. There is one for each instance, which has one thread.
pub trait Filter: Sized + 'static {
    /// For log lines.
    const NAME: &'static str;

    /// Reads and checks the configuration.
    ///
    /// # Errors
    /// What is wrong with it: the plugin is then refused, and this is logged.
    fn configure(configuration: &[u8]) -> Result<Self, String>;

    /// The context of one request.
    fn open(self: &Rc<Self>) -> Box<dyn HttpContext>;

    /// Called once after `configure`: for timers and metrics.
    fn started(&self) {}

    /// Called by the timer that `started` has set.
    fn tick(&self) {}
}

/// What a guest does in `_initialize`.
pub fn start<F: Filter>() {
    proxy_wasm::set_root_context(|_| Box::new(Root::<F> { filter: None }));
}

struct Root<F> {
    filter: Option<Rc<F>>,
}

impl<F: Filter> Context for Root<F> {}

impl<F: Filter> RootContext for Root<F> {
    fn on_configure(&mut self, _size: usize) -> bool {
        let configuration = self.get_plugin_configuration().unwrap_or_default();
        match F::configure(&configuration) {
            Ok(filter) => {
                filter.started();
                self.filter = Some(Rc::new(filter));
                true
            }
            Err(error) => {
                let line = format!("{}: the configuration is refused: {error}", F::NAME);
                host::log(LogLevel::Error, &line);
                false
            }
        }
    }

    fn on_tick(&mut self) {
        if let Some(filter) = &self.filter {
            filter.tick();
        }
    }

    fn create_http_context(&self, _context_id: u32) -> Option<Box<dyn HttpContext>> {
        Some(match &self.filter {
            Some(filter) => filter.open(),
            None => Box::new(Unconfigured),
        })
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }
}

/// A host that opens streams on a plugin without a configuration gets refusals.
struct Unconfigured;

impl Context for Unconfigured {}

impl HttpContext for Unconfigured {
    fn on_http_request_headers(&mut self, _count: usize, _end_of_stream: bool) -> Action {
        host::refuse(503, "filter-not-configured", "A filter is not configured")
    }
}
