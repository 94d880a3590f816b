//! Headers and answers of one's own: logs the request's headers, answers `/hello` itself, adds a header to answers.

use proxy_wasm::hostcalls;
use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::{Action, LogLevel};

// The only thing that a guest without a configuration needs: how a request's context is made.
#[cfg(target_arch = "wasm32")]
proxy_wasm::main! {{
    start();
}}

/// Says how contexts are made.
pub fn start() {
    proxy_wasm::set_http_context(|_, _| Box::new(Headers));
}

struct Headers;

impl Context for Headers {}

impl HttpContext for Headers {
    fn on_http_request_headers(&mut self, _count: usize, _end_of_stream: bool) -> Action {
        for (name, value) in self.get_http_request_headers_bytes() {
            let line = format!("-> {name}: {}", String::from_utf8_lossy(&value));
            let _ = hostcalls::log(LogLevel::Info, &line);
        }
        let path = self.get_http_request_header_bytes(":path");
        if path.as_deref() == Some(b"/hello") {
            let headers = vec![("powered-by", "proxy-wasm")];
            self.send_http_response(200, headers, Some(b"Hello, World!\n"));
            return Action::Pause;
        }
        Action::Continue
    }

    fn on_http_response_headers(&mut self, _count: usize, _end_of_stream: bool) -> Action {
        self.add_http_response_header("x-sample", "headers");
        Action::Continue
    }
}
