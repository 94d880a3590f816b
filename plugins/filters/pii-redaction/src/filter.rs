//! The filter as the host calls it. Headers wait for their body: what cannot be looked into is refused, not passed on.

use std::rc::Rc;

use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::{Action, LogLevel};
use ringwall_guest::host::{self, Side};
use ringwall_guest::media::{self, Media};
use ringwall_guest::{Filter, configuration};

use crate::rules::Rules;

/// Headers that say something of the bytes of a body that has been changed.
const OF_THE_BYTES: [&str; 6] = [
    "content-length",
    "content-digest",
    "content-md5",
    "digest",
    "etag",
    "accept-ranges",
];

pub struct PiiRedaction {
    rules: Rules,
}

impl Filter for PiiRedaction {
    const NAME: &'static str = "pii-redaction";

    fn configure(configuration: &[u8]) -> Result<Self, String> {
        let rules = Rules::new(configuration::parse(configuration)?)?;
        Ok(Self { rules })
    }

    fn open(self: &Rc<Self>) -> Box<dyn HttpContext> {
        Box::new(Stream {
            filter: Rc::clone(self),
            request: None,
            response: None,
            refused: false,
        })
    }
}

struct Stream {
    filter: Rc<PiiRedaction>,
    /// What the bodies are that are held.
    request: Option<Media>,
    response: Option<Media>,
    /// An answer of ours is on its way, which is not to be looked into.
    refused: bool,
}

impl Context for Stream {}

impl Stream {
    fn refuse(&mut self, side: Side, status: u32, title: &'static str) -> Action {
        self.refused = true;
        self.request = None;
        self.response = None;
        // A server's fault where it is the server's body.
        let status = if side == Side::Response { 502 } else { status };
        host::refuse(status, "body-not-inspected", title)
    }

    fn headers(&mut self, side: Side, end_of_stream: bool) -> Action {
        if end_of_stream {
            return Action::Continue;
        }
        let header = |name| host::header_text(side, name);
        let media = Media::of(&header("content-type").unwrap_or_default());
        if media == Media::Other {
            return Action::Continue;
        }
        if !media::is_plain(header("content-encoding").as_deref()) {
            return self.refuse(side, 415, "The body is encoded");
        }
        match side {
            Side::Request => self.request = Some(media),
            Side::Response => self.response = Some(media),
        }
        Action::Pause
    }

    fn body(&mut self, side: Side, size: usize, end_of_stream: bool) -> Action {
        let held = match side {
            Side::Request => self.request,
            Side::Response => self.response,
        };
        match held {
            None if self.refused => Action::Pause,
            None => Action::Continue,
            Some(_) if size > self.filter.rules.max_body_bytes() => {
                self.refuse(side, 413, "The body is too large to be inspected")
            }
            Some(media) if end_of_stream => self.whole(side, media),
            Some(_) => Action::Pause,
        }
    }

    fn whole(&mut self, side: Side, media: Media) -> Action {
        let body = host::body(side, self.filter.rules.max_body_bytes());
        match self.filter.rules.redact(media, &body) {
            Ok(None) => {}
            Ok(Some(changed)) => {
                for name in OF_THE_BYTES {
                    host::set_header(side, name, None);
                }
                host::set_body(side, &changed);
            }
            Err(why) => {
                host::log(
                    LogLevel::Info,
                    &format!("{side:?} body not inspected: {why}"),
                );
                return self.refuse(side, 400, "The body is not what its type says");
            }
        }
        self.request = self.request.filter(|_| side == Side::Response);
        self.response = self.response.filter(|_| side == Side::Request);
        Action::Continue
    }
}

impl HttpContext for Stream {
    fn on_http_request_headers(&mut self, _count: usize, end_of_stream: bool) -> Action {
        if self.filter.rules.config.response {
            // Compressed, the answer could not be looked into; in parts, a number could stand in two of them.
            host::set_header(Side::Request, "accept-encoding", None);
            host::set_header(Side::Request, "range", None);
        }
        if self.filter.rules.config.request {
            return self.headers(Side::Request, end_of_stream);
        }
        Action::Continue
    }

    fn on_http_request_body(&mut self, size: usize, end_of_stream: bool) -> Action {
        self.body(Side::Request, size, end_of_stream)
    }

    fn on_http_request_trailers(&mut self, _count: usize) -> Action {
        match self.request {
            Some(media) => self.whole(Side::Request, media),
            None => Action::Continue,
        }
    }

    fn on_http_response_headers(&mut self, _count: usize, end_of_stream: bool) -> Action {
        if self.filter.rules.config.response && !self.refused {
            return self.headers(Side::Response, end_of_stream);
        }
        Action::Continue
    }

    fn on_http_response_body(&mut self, size: usize, end_of_stream: bool) -> Action {
        if self.refused {
            return Action::Continue;
        }
        self.body(Side::Response, size, end_of_stream)
    }

    fn on_http_response_trailers(&mut self, _count: usize) -> Action {
        match self.response {
            Some(media) => self.whole(Side::Response, media),
            None => Action::Continue,
        }
    }
}
