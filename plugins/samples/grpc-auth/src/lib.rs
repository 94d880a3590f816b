//! Authorization by gRPC: `ringwall.sample.Auth/Check` of the cluster `auth`, with the path as its one field.

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

/// `message CheckRequest { string path = 1; }`
#[must_use]
pub fn check_request(path: &[u8]) -> Vec<u8> {
    let mut message = vec![0x0a];
    let mut length = path.len();
    // A varint: seven bits at a time, the low ones first.
    while length >= 0x80 {
        message.push(u8::try_from(length & 0x7f).unwrap_or_default() | 0x80);
        length >>= 7;
    }
    message.push(u8::try_from(length).unwrap_or_default());
    message.extend_from_slice(path);
    message
}

impl Auth {
    fn refuse(&self) {
        self.send_http_response(403, vec![], Some(b"Access forbidden.\n"));
    }
}

impl Context for Auth {
    fn on_grpc_call_response(&mut self, _token: u32, status: u32, _size: usize) {
        if status == 0 {
            self.waiting = false;
            self.resume_http_request();
        } else {
            self.refuse();
        }
    }
}

impl HttpContext for Auth {
    fn on_http_request_headers(&mut self, _count: usize, _end_of_stream: bool) -> Action {
        let path = self
            .get_http_request_header_bytes(":path")
            .unwrap_or_default();
        let message = check_request(&path);
        let metadata = vec![("x-caller", &b"sample"[..])];
        let call = self.dispatch_grpc_call(
            "auth",
            "ringwall.sample.Auth",
            "Check",
            metadata,
            Some(&message),
            Duration::from_secs(1),
        );
        match call {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_those_of_protobuf() {
        assert_eq!(check_request(b"/ab"), b"\x0a\x03/ab");
        let long = check_request(&[b'a'; 300]);
        assert_eq!(&long[..3], b"\x0a\xac\x02");
        assert_eq!(long.len(), 303);
    }
}
