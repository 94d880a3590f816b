//! The filter as the host calls it. A body that is to be changed and cannot be read is refused: nobody gets it unchanged.

use std::rc::Rc;

use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::{Action, LogLevel};
use ringwall_guest::host::{self, Side};
use ringwall_guest::media::{self, Media};
use ringwall_guest::{Filter, configuration};

use crate::rules::{Headers, Rules, SideChanges};

/// Headers that say something of the bytes of a body that has been changed.
const OF_THE_BYTES: [&str; 5] = [
    "content-length",
    "content-digest",
    "content-md5",
    "digest",
    "etag",
];

pub struct Transform {
    rules: Rules,
}

impl Filter for Transform {
    const NAME: &'static str = "transform";

    fn configure(configuration: &[u8]) -> Result<Self, String> {
        let rules = Rules::new(configuration::parse(configuration)?)?;
        Ok(Self { rules })
    }

    fn open(self: &Rc<Self>) -> Box<dyn HttpContext> {
        Box::new(Stream {
            filter: Rc::clone(self),
            request_held: false,
            response_held: false,
            refused: false,
        })
    }
}

struct Stream {
    filter: Rc<Transform>,
    request_held: bool,
    response_held: bool,
    refused: bool,
}

impl Context for Stream {}

impl Stream {
    fn side(&self, side: Side) -> &SideChanges {
        match side {
            Side::Request => &self.filter.rules.request,
            Side::Response => &self.filter.rules.response,
        }
    }

    fn hold(&mut self, side: Side, held: bool) {
        match side {
            Side::Request => self.request_held = held,
            Side::Response => self.response_held = held,
        }
    }

    fn refuse(&mut self, side: Side, status: u32, title: &'static str) -> Action {
        self.refused = true;
        let status = if side == Side::Response { 502 } else { status };
        host::refuse(status, "body-not-changed", title)
    }

    fn headers(&mut self, side: Side, end_of_stream: bool) -> Action {
        change_headers(side, &self.side(side).headers);
        let header = |name| host::header_text(side, name);
        let is_json = Media::of(&header("content-type").unwrap_or_default()) == Media::Json;
        if end_of_stream || self.side(side).body.is_empty() || !is_json {
            return Action::Continue;
        }
        if !media::is_plain(header("content-encoding").as_deref()) {
            return self.refuse(side, 415, "The body is encoded");
        }
        self.hold(side, true);
        Action::Pause
    }

    fn body(&mut self, side: Side, size: usize, end_of_stream: bool) -> Action {
        let held = match side {
            Side::Request => self.request_held,
            Side::Response => self.response_held,
        };
        if !held {
            let waits = self.refused && side == Side::Request;
            return if waits {
                Action::Pause
            } else {
                Action::Continue
            };
        }
        if size > self.filter.rules.max_body_bytes() {
            self.hold(side, false);
            return self.refuse(side, 413, "The body is too large to be changed");
        }
        if end_of_stream {
            return self.whole(side);
        }
        Action::Pause
    }

    fn whole(&mut self, side: Side) -> Action {
        self.hold(side, false);
        let body = host::body(side, self.filter.rules.max_body_bytes());
        match self.side(side).apply(&body) {
            Ok(None) => Action::Continue,
            Ok(Some(changed)) => {
                for name in OF_THE_BYTES {
                    host::set_header(side, name, None);
                }
                host::set_body(side, &changed);
                Action::Continue
            }
            Err(why) => {
                host::log(LogLevel::Info, &format!("{side:?} body not changed: {why}"));
                self.refuse(side, 400, "The body is no JSON")
            }
        }
    }
}

fn change_headers(side: Side, headers: &Headers) {
    for name in &headers.remove {
        host::set_header(side, name, None);
    }
    for (from, to) in &headers.rename {
        if let Some(value) = host::header(side, from) {
            host::set_header(side, from, None);
            host::set_header(side, to, Some(&value));
        }
    }
    for (name, value) in &headers.set {
        host::set_header(side, name, Some(value.as_bytes()));
    }
    for (name, value) in &headers.add {
        host::add_header(side, name, value.as_bytes());
    }
}

impl HttpContext for Stream {
    fn on_http_request_headers(&mut self, _count: usize, end_of_stream: bool) -> Action {
        let target = host::header(Side::Request, ":path").unwrap_or_default();
        if let Some(target) = self.filter.rules.target(&target) {
            host::set_header(Side::Request, ":path", Some(&target));
        }
        if !self.filter.rules.response.body.is_empty() {
            host::set_header(Side::Request, "accept-encoding", None);
        }
        self.headers(Side::Request, end_of_stream)
    }

    fn on_http_request_body(&mut self, size: usize, end_of_stream: bool) -> Action {
        self.body(Side::Request, size, end_of_stream)
    }

    fn on_http_request_trailers(&mut self, _count: usize) -> Action {
        if self.request_held {
            return self.whole(Side::Request);
        }
        Action::Continue
    }

    fn on_http_response_headers(&mut self, _count: usize, end_of_stream: bool) -> Action {
        if self.refused {
            return Action::Continue;
        }
        self.headers(Side::Response, end_of_stream)
    }

    fn on_http_response_body(&mut self, size: usize, end_of_stream: bool) -> Action {
        self.body(Side::Response, size, end_of_stream)
    }

    fn on_http_response_trailers(&mut self, _count: usize) -> Action {
        if self.response_held {
            return self.whole(Side::Response);
        }
        Action::Continue
    }
}
