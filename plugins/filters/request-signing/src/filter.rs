//! The filter as the host calls it. The headers wait for the body, whose digest they carry.

use std::rc::Rc;

use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::{Action, LogLevel};
use ringwall_guest::host::{self, Side};
use ringwall_guest::{Filter, configuration};

use crate::date::http_date;
use crate::rules::{self, Request, Rules};

/// What a client says under these names is not ours.
const OURS: [&str; 3] = ["signature", "signature-input", "content-digest"];
const DIGEST: &str = "content-digest";

pub struct RequestSigning {
    rules: Rules,
}

impl Filter for RequestSigning {
    const NAME: &'static str = "request-signing";

    fn configure(configuration: &[u8]) -> Result<Self, String> {
        let rules = Rules::new(configuration::parse(configuration)?)?;
        Ok(Self { rules })
    }

    fn open(self: &Rc<Self>) -> Box<dyn HttpContext> {
        Box::new(Stream {
            filter: Rc::clone(self),
            state: State::Signed,
        })
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Signed,
    /// Until the body is whole.
    Held,
    Refused,
}

struct Stream {
    filter: Rc<RequestSigning>,
    state: State,
}

impl Context for Stream {}

impl Stream {
    fn refuse(&mut self, status: u32, slug: &'static str, title: &'static str) -> Action {
        self.state = State::Refused;
        host::refuse(status, slug, title)
    }

    fn sign(&mut self, body: &[u8]) -> Action {
        let rules = &self.filter.rules;
        if rules.signs(DIGEST) {
            let digest = rules::content_digest(body);
            host::set_header(Side::Request, DIGEST, Some(digest.as_bytes()));
        }
        let now = host::now_nanoseconds() / 1_000_000_000;
        if rules.signs("date") && host::header(Side::Request, "date").is_none() {
            host::set_header(Side::Request, "date", Some(http_date(now).as_bytes()));
        }
        let text = |name| host::header_text(Side::Request, name).unwrap_or_default();
        let all = host::headers(Side::Request);
        let header = |name: &str| {
            let values = all.iter().filter(|(other, _)| other == name);
            let values: Vec<_> = values
                .map(|(_, value)| String::from_utf8_lossy(value))
                .collect();
            (!values.is_empty()).then(|| values.join("\n"))
        };
        let (method, authority, target) = (text(":method"), text(":authority"), text(":path"));
        let signed = rules.sign(
            &Request {
                method: &method,
                authority: &authority,
                target: &target,
                header: &header,
            },
            now,
        );
        match signed {
            Ok(signature) => {
                host::set_header(
                    Side::Request,
                    "signature-input",
                    Some(signature.input.as_bytes()),
                );
                host::set_header(
                    Side::Request,
                    "signature",
                    Some(signature.signature.as_bytes()),
                );
                self.state = State::Signed;
                Action::Continue
            }
            Err(name) => {
                host::log(
                    LogLevel::Warn,
                    &format!("not signed: there is no header {name}"),
                );
                self.refuse(
                    400,
                    "request-not-signable",
                    "A header that is signed is missing",
                )
            }
        }
    }
}

impl HttpContext for Stream {
    fn on_http_request_headers(&mut self, _count: usize, end_of_stream: bool) -> Action {
        for name in OURS {
            host::set_header(Side::Request, name, None);
        }
        if end_of_stream {
            return self.sign(b"");
        }
        if !self.filter.rules.signs(DIGEST) {
            return self.sign(b"");
        }
        self.state = State::Held;
        Action::Pause
    }

    fn on_http_request_body(&mut self, size: usize, end_of_stream: bool) -> Action {
        let limit = self.filter.rules.max_body_bytes();
        match self.state {
            State::Signed => Action::Continue,
            State::Refused => Action::Pause,
            State::Held if size > limit => self.refuse(
                413,
                "request-not-signable",
                "The body is too large to be signed",
            ),
            State::Held if end_of_stream => self.sign(&host::body(Side::Request, limit)),
            State::Held => Action::Pause,
        }
    }

    fn on_http_request_trailers(&mut self, _count: usize) -> Action {
        if self.state == State::Held {
            let body = host::body(Side::Request, self.filter.rules.max_body_bytes());
            return self.sign(&body);
        }
        Action::Continue
    }
}
