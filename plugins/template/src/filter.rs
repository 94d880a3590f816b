//! The filter as the host calls it: one `Root` for each instance of the module, one `Stream` for each request.

use std::rc::Rc;

use proxy_wasm::hostcalls;
use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{Action, ContextType, LogLevel};

use crate::rules::{Config, Verdict};

/// Says how contexts are made.
pub fn start() {
    proxy_wasm::set_root_context(|_| Box::new(Root { config: None }));
}

struct Root {
    config: Option<Rc<Config>>,
}

impl Context for Root {}

impl RootContext for Root {
    /// False refuses the plugin: better than a filter that does something else than was meant.
    fn on_configure(&mut self, _size: usize) -> bool {
        let json = self.get_plugin_configuration().unwrap_or_default();
        match Config::parse(&json) {
            Ok(config) => {
                self.config = Some(Rc::new(config));
                true
            }
            Err(error) => {
                let line = format!("the configuration is refused: {error}");
                let _ = hostcalls::log(LogLevel::Error, &line);
                false
            }
        }
    }

    fn create_http_context(&self, _context_id: u32) -> Option<Box<dyn HttpContext>> {
        let config = self.config.clone();
        Some(Box::new(Stream {
            config,
            tenant: None,
        }))
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }
}

struct Stream {
    config: Option<Rc<Config>>,
    /// Kept from the request for the response.
    tenant: Option<Vec<u8>>,
}

impl Context for Stream {}

impl HttpContext for Stream {
    fn on_http_request_headers(&mut self, _count: usize, _end_of_stream: bool) -> Action {
        let Some(config) = &self.config else {
            return refuse(503, "no configuration\n");
        };
        // As bytes: a header need not be UTF-8, and the SDK's texts would panic then.
        let tenant = self.get_http_request_header_bytes(&config.header);
        match config.judge(tenant.as_deref()) {
            Verdict::Pass => {
                self.tenant = tenant;
                Action::Continue
            }
            Verdict::Missing => refuse(400, "name a tenant\n"),
            Verdict::Unknown => refuse(403, "unknown tenant\n"),
        }
    }

    fn on_http_response_headers(&mut self, _count: usize, _end_of_stream: bool) -> Action {
        if let (Some(config), Some(tenant)) = (&self.config, &self.tenant) {
            self.set_http_response_header_bytes(&config.header, Some(tenant));
        }
        Action::Continue
    }
}

/// Answers in place of the upstream, which then does not see the request.
fn refuse(status: u32, body: &str) -> Action {
    let headers = vec![("content-type", "text/plain")];
    let _ = hostcalls::send_http_response(status, headers, Some(body.as_bytes()));
    Action::Pause
}
