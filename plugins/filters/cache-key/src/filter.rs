//! The filter as the host calls it.

use std::rc::Rc;

use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::Action;
use ringwall_guest::host::{self, Side};
use ringwall_guest::{Filter, configuration};

use crate::rules::{Asked, Rules};

pub struct CacheKey {
    rules: Rules,
}

impl Filter for CacheKey {
    const NAME: &'static str = "cache-key";

    fn configure(configuration: &[u8]) -> Result<Self, String> {
        let rules = Rules::new(configuration::parse(configuration)?)?;
        Ok(Self { rules })
    }

    fn open(self: &Rc<Self>) -> Box<dyn HttpContext> {
        Box::new(Stream {
            filter: Rc::clone(self),
        })
    }
}

struct Stream {
    filter: Rc<CacheKey>,
}

impl Context for Stream {}

impl HttpContext for Stream {
    fn on_http_request_headers(&mut self, _count: usize, _end_of_stream: bool) -> Action {
        let header = |name| host::header_text(Side::Request, name).unwrap_or_default();
        let target = host::header(Side::Request, ":path").unwrap_or_default();
        let rules = &self.filter.rules;
        let key = rules.key(&Asked {
            method: &header(":method"),
            authority: &header(":authority"),
            target: &target,
            user_agent: &header("user-agent"),
        });
        // Without a key the header goes, too: nobody but this filter says what an answer is kept under.
        host::set_header(
            Side::Request,
            rules.header(),
            key.as_deref().map(str::as_bytes),
        );
        Action::Continue
    }
}
