//! Bodies: waits for the whole answer, and replaces it where it names a secret.

use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::Action;

#[cfg(target_arch = "wasm32")]
proxy_wasm::main! {{
    start();
}}

/// Says how contexts are made.
pub fn start() {
    proxy_wasm::set_http_context(|_, _| Box::new(Body));
}

struct Body;

impl Context for Body {}

impl HttpContext for Body {
    fn on_http_response_headers(&mut self, _count: usize, _end_of_stream: bool) -> Action {
        // The length may change, and headers do not wait for the body here.
        self.set_http_response_header("content-length", None);
        Action::Continue
    }

    fn on_http_response_body(&mut self, size: usize, end_of_stream: bool) -> Action {
        if !end_of_stream {
            // Held, and called again with more.
            return Action::Pause;
        }
        let body = self.get_http_response_body(0, size).unwrap_or_default();
        if body.windows(6).any(|window| window == b"secret") {
            let text = format!("Original message body ({} bytes) redacted.\n", body.len());
            self.set_http_response_body(0, size, text.as_bytes());
        }
        Action::Continue
    }
}
