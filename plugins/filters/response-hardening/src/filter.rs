//! The filter as the host calls it.

use std::rc::Rc;

use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::Action;
use ringwall_guest::host::{self, Side};
use ringwall_guest::{Filter, configuration};

use crate::rules::{Change, Rules};

pub struct ResponseHardening {
    rules: Rules,
}

impl Filter for ResponseHardening {
    const NAME: &'static str = "response-hardening";

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
    filter: Rc<ResponseHardening>,
}

impl Context for Stream {}

impl HttpContext for Stream {
    fn on_http_response_headers(&mut self, _count: usize, _end_of_stream: bool) -> Action {
        let is_there = |name: &str| host::header(Side::Response, name).is_some();
        for change in self.filter.rules.changes(is_there) {
            match change {
                Change::Set(name, value) => {
                    host::set_header(Side::Response, name, Some(value.as_bytes()));
                }
                Change::Remove(name) => host::set_header(Side::Response, name, None),
            }
        }
        Action::Continue
    }
}
