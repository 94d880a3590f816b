//! Authorization by a callout: the request waits while the cluster `auth` is asked; whatever is not a clear yes is a no.

use std::time::Duration;

use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::Action;

#[cfg(target_arch = "wasm32")]
proxy_wasm::main! {{
    start();
}}

/// Says how contexts are made.
pub fn start() {
    proxy_wasm::set_http_context(|_, _| Box::new(Auth { waiting: false }));
}

struct Auth {
    waiting: bool,
}

impl Auth {
    fn refuse(&self) {
        let headers = vec![("powered-by", "proxy-wasm")];
        self.send_http_response(403, headers, Some(b"Access forbidden.\n"));
    }
}

impl Context for Auth {
    fn on_http_call_response(
        &mut self,
        _token: u32,
        _headers: usize,
        _body: usize,
        _trailers: usize,
    ) {
        let status = self.get_http_call_response_header_bytes(":status");
        if status.as_deref() == Some(b"200") {
            self.waiting = false;
            self.resume_http_request();
        } else {
            self.refuse();
        }
    }
}

impl HttpContext for Auth {
    fn on_http_request_headers(&mut self, _count: usize, _end_of_stream: bool) -> Action {
        let token = self
            .get_http_request_header_bytes("authorization")
            .unwrap_or_default();
        let token = String::from_utf8_lossy(&token);
        let headers = vec![
            (":method", "GET"),
            (":path", "/check"),
            (":authority", "auth"),
            ("authorization", &*token),
        ];
        match self.dispatch_http_call("auth", headers, None, vec![], Duration::from_secs(1)) {
            Ok(_) => self.waiting = true,
            Err(_) => self.refuse(),
        }
        Action::Pause
    }

    fn on_http_request_body(&mut self, _size: usize, _end_of_stream: bool) -> Action {
        if self.waiting {
            Action::Pause
        } else {
            Action::Continue
        }
    }
}
