//! The filter as the host calls it: the headers wait until the body has been judged.

use std::rc::Rc;

use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::{Action, LogLevel};
use ringwall_guest::host::{self, Side};
use ringwall_guest::{Filter, configuration};

use crate::rules::{Refusal, Rules};

pub struct RequestValidation {
    rules: Rules,
}

impl Filter for RequestValidation {
    const NAME: &'static str = "request-validation";

    fn configure(configuration: &[u8]) -> Result<Self, String> {
        let rules = Rules::new(configuration::parse(configuration)?)?;
        Ok(Self { rules })
    }

    fn open(self: &Rc<Self>) -> Box<dyn HttpContext> {
        Box::new(Stream {
            filter: Rc::clone(self),
            body: Body::Passed,
        })
    }
}

/// What is still to be judged.
enum Body {
    Passed,
    /// Held until its end: of this method and target.
    Held {
        method: String,
        target: Vec<u8>,
    },
    /// None may come.
    Unexpected,
    Refused,
}

struct Stream {
    filter: Rc<RequestValidation>,
    body: Body,
}

impl Context for Stream {}

impl Stream {
    fn refuse(&mut self, refusal: &Refusal) -> Action {
        let Refusal {
            status,
            title,
            detail,
        } = refusal;
        host::log(LogLevel::Info, &format!("refused: {title}: {detail}"));
        self.body = Body::Refused;
        host::refuse(*status, "request-not-valid", title)
    }

    fn judge_headers(&self, end_of_stream: bool) -> Result<(Body, Option<String>), Refusal> {
        let rules = &self.filter.rules;
        let method = host::header_text(Side::Request, ":method").unwrap_or_default();
        let target = host::header(Side::Request, ":path").unwrap_or_default();
        let (route, normal) = rules.judge_target(&method, &target)?;
        let headers = host::headers(Side::Request);
        rules.judge_headers(headers.iter().map(|(name, _)| name.as_str()))?;
        let changed = (normal.as_bytes() != target).then_some(normal);
        if end_of_stream {
            // Where a schema stands, nothing is no body that fits.
            route.judge_body(b"")?;
            return Ok((Body::Passed, changed));
        }
        if !route.takes_bodies() {
            return Ok((Body::Unexpected, changed));
        }
        let header = |name| host::header_text(Side::Request, name);
        route.judge_content(
            header("content-type").as_deref(),
            header("content-encoding").as_deref(),
        )?;
        let body = if route.has_schema() {
            Body::Held { method, target }
        } else {
            Body::Passed
        };
        Ok((body, changed))
    }

    fn judge_whole(&mut self) -> Action {
        let Body::Held { method, target } = &self.body else {
            return Action::Continue;
        };
        let rules = &self.filter.rules;
        let limit = rules.max_body_bytes();
        let body = host::body(Side::Request, limit);
        let judged = rules
            .judge_target(method, target)
            .and_then(|(route, _)| route.judge_body(&body));
        match judged {
            Ok(()) => {
                self.body = Body::Passed;
                Action::Continue
            }
            Err(refusal) => self.refuse(&refusal),
        }
    }
}

impl HttpContext for Stream {
    fn on_http_request_headers(&mut self, _count: usize, end_of_stream: bool) -> Action {
        match self.judge_headers(end_of_stream) {
            Ok((body, normal)) => {
                if let Some(normal) = normal {
                    host::set_header(Side::Request, ":path", Some(normal.as_bytes()));
                }
                self.body = body;
                match self.body {
                    Body::Held { .. } | Body::Unexpected => Action::Pause,
                    Body::Passed | Body::Refused => Action::Continue,
                }
            }
            Err(refusal) => self.refuse(&refusal),
        }
    }

    fn on_http_request_body(&mut self, size: usize, end_of_stream: bool) -> Action {
        match self.body {
            Body::Passed => Action::Continue,
            Body::Refused => Action::Pause,
            // An end of the stream in a frame of its own is no body.
            Body::Unexpected if size == 0 => {
                if end_of_stream {
                    Action::Continue
                } else {
                    Action::Pause
                }
            }
            Body::Unexpected => self.refuse(&Refusal {
                status: 400,
                title: "No body is expected",
                detail: "body".to_owned(),
            }),
            Body::Held { .. } if size > self.filter.rules.max_body_bytes() => {
                self.refuse(&Refusal {
                    status: 413,
                    title: "The body is too large",
                    detail: "body".to_owned(),
                })
            }
            Body::Held { .. } if end_of_stream => self.judge_whole(),
            Body::Held { .. } => Action::Pause,
        }
    }

    fn on_http_request_trailers(&mut self, _count: usize) -> Action {
        // Trailers are the end of a body, too.
        self.judge_whole()
    }
}
