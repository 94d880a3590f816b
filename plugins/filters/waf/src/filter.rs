//! The filter as the host calls it. The headers wait for the body; the log names rules, never what they were found in.

use std::rc::Rc;

use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::{Action, LogLevel};
use ringwall_guest::host::{self, Counter, Side};
use ringwall_guest::media::{self, Media};
use ringwall_guest::target::Target;
use ringwall_guest::{Filter, configuration};

use crate::rules::{Mode, Rules, Score};

/// Types whose bytes are no texts.
const BINARY: [&str; 7] = [
    "audio/",
    "font/",
    "image/",
    "video/",
    "application/octet-stream",
    "application/pdf",
    "application/zip",
];

pub struct Waf {
    rules: Rules,
    counter: Counter,
}

impl Filter for Waf {
    const NAME: &'static str = "waf";

    fn configure(configuration: &[u8]) -> Result<Self, String> {
        let rules = Rules::new(configuration::parse(configuration)?)?;
        Ok(Self {
            rules,
            counter: Counter::new("waf_attacks"),
        })
    }

    fn open(self: &Rc<Self>) -> Box<dyn HttpContext> {
        Box::new(Stream {
            filter: Rc::clone(self),
            score: Score::default(),
            path: Vec::new(),
            body: Body::Passed,
        })
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Body {
    Passed,
    Held(Media),
    Refused,
}

struct Stream {
    filter: Rc<Waf>,
    score: Score,
    /// For exclusions.
    path: Vec<u8>,
    body: Body,
}

impl Context for Stream {}

impl Stream {
    fn refuse(&mut self, status: u32, slug: &'static str, title: &'static str) -> Action {
        self.body = Body::Refused;
        host::refuse(status, slug, title)
    }

    /// None where the request may go on.
    fn judge(&mut self) -> Option<Action> {
        let rules = &self.filter.rules;
        if !rules.is_attack(&self.score) {
            return None;
        }
        self.filter.counter.add(1);
        let (ids, sum) = (self.score.ids(), self.score.sum());
        host::log(LogLevel::Warn, &format!("score {sum} by rules {ids}"));
        if rules.config.mode == Mode::Detect {
            // Told once.
            self.score = Score::default();
            return None;
        }
        Some(self.refuse(403, "request-blocked", "The request looks like an attack"))
    }

    fn whole(&mut self, media: Media) -> Action {
        let rules = &self.filter.rules;
        let body = host::body(Side::Request, rules.max_body_bytes());
        rules.body(media, &body, &self.path, &mut self.score);
        self.body = Body::Passed;
        self.judge().unwrap_or(Action::Continue)
    }
}

impl HttpContext for Stream {
    fn on_http_request_headers(&mut self, _count: usize, end_of_stream: bool) -> Action {
        let rules = &self.filter.rules;
        let target = host::header(Side::Request, ":path").unwrap_or_default();
        self.path = ringwall_guest::target::decode(Target::new(&target).path);
        rules.target(&target, &mut self.score);
        for (name, value) in host::headers(Side::Request) {
            if !name.starts_with(':') {
                rules.header(&name, &value, &self.path, &mut self.score);
            }
        }
        if let Some(refused) = self.judge() {
            return refused;
        }
        if end_of_stream {
            return Action::Continue;
        }
        let header = |name| host::header_text(Side::Request, name);
        let kind = media::essence(&header("content-type").unwrap_or_default());
        if BINARY.iter().any(|binary| kind.starts_with(binary)) {
            return Action::Continue;
        }
        let encoded = !media::is_plain(header("content-encoding").as_deref());
        if encoded && self.filter.rules.config.mode == Mode::Block {
            return self.refuse(415, "body-not-inspected", "The body is encoded");
        }
        self.body = Body::Held(Media::of(&kind));
        Action::Pause
    }

    fn on_http_request_body(&mut self, size: usize, end_of_stream: bool) -> Action {
        let rules = &self.filter.rules;
        match self.body {
            Body::Passed => Action::Continue,
            Body::Refused => Action::Pause,
            Body::Held(media) if size > rules.max_body_bytes() => match rules.config.mode {
                Mode::Block => self.refuse(
                    413,
                    "body-not-inspected",
                    "The body is too large to be inspected",
                ),
                Mode::Detect => self.whole(media),
            },
            Body::Held(media) if end_of_stream => self.whole(media),
            Body::Held(_) => Action::Pause,
        }
    }

    fn on_http_request_trailers(&mut self, _count: usize) -> Action {
        match self.body {
            Body::Held(media) => self.whole(media),
            Body::Passed => Action::Continue,
            Body::Refused => Action::Pause,
        }
    }
}
