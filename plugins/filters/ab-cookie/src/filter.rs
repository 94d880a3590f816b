//! The filter as the host calls it.

use std::rc::Rc;

use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::Action;
use ringwall_guest::host::{self, Side};
use ringwall_guest::{Filter, configuration};

use crate::rules::Rules;

pub struct AbCookie {
    rules: Rules,
}

impl Filter for AbCookie {
    const NAME: &'static str = "ab-cookie";

    fn configure(configuration: &[u8]) -> Result<Self, String> {
        let rules = Rules::new(configuration::parse(configuration)?)?;
        Ok(Self { rules })
    }

    fn open(self: &Rc<Self>) -> Box<dyn HttpContext> {
        Box::new(Stream {
            filter: Rc::clone(self),
            cookie: None,
        })
    }
}

struct Stream {
    filter: Rc<AbCookie>,
    /// For the response.
    cookie: Option<String>,
}

impl Context for Stream {}

impl HttpContext for Stream {
    fn on_http_request_headers(&mut self, _count: usize, _end_of_stream: bool) -> Action {
        let rules = &self.filter.rules;
        let cookies = host::header_text(Side::Request, "cookie").unwrap_or_default();
        let assigned = rules.assign(&cookies, || {
            let value = rules
                .assign_by()
                .and_then(|name| host::header(Side::Request, name));
            value.map_or_else(host::random, |value| rules.number_of(&value))
        });
        // In place of whatever the client has sent under this name.
        host::set_header(
            Side::Request,
            rules.header(),
            Some(assigned.variant.as_bytes()),
        );
        if assigned.new {
            self.cookie = Some(rules.cookie(assigned.variant));
        }
        Action::Continue
    }

    fn on_http_response_headers(&mut self, _count: usize, _end_of_stream: bool) -> Action {
        if let Some(cookie) = self.cookie.take() {
            host::add_header(Side::Response, "set-cookie", cookie.as_bytes());
        }
        Action::Continue
    }
}
