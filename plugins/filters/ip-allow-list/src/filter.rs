//! The filter as the host calls it; a timer sums up in the log who was refused.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::{Action, LogLevel};
use ringwall_guest::host::{self, Counter, Side};
use ringwall_guest::{Filter, configuration};

use crate::rules::{Rules, Verdict};

pub struct IpAllowList {
    rules: Rules,
    /// Of this instance since the last line in the log.
    allowed: Cell<u64>,
    denied: Cell<u64>,
    counter: Cell<Option<Counter>>,
}

impl Filter for IpAllowList {
    const NAME: &'static str = "ip-allow-list";

    fn configure(configuration: &[u8]) -> Result<Self, String> {
        let rules = Rules::new(configuration::parse(configuration)?)?;
        Ok(Self {
            rules,
            allowed: Cell::new(0),
            denied: Cell::new(0),
            counter: Cell::new(None),
        })
    }

    fn started(&self) {
        self.counter.set(Some(Counter::new("ip_allow_list_denied")));
        host::set_timer(Duration::from_secs(self.rules.report_seconds()));
    }

    fn tick(&self) {
        let (allowed, denied) = (self.allowed.take(), self.denied.take());
        if allowed + denied > 0 {
            let line = format!("allowed {allowed}, denied {denied}");
            host::log(LogLevel::Info, &line);
        }
    }

    fn open(self: &Rc<Self>) -> Box<dyn HttpContext> {
        Box::new(Stream {
            filter: Rc::clone(self),
        })
    }
}

struct Stream {
    filter: Rc<IpAllowList>,
}

impl Context for Stream {}

impl HttpContext for Stream {
    fn on_http_request_headers(&mut self, _count: usize, _end_of_stream: bool) -> Action {
        let IpAllowList {
            rules,
            allowed,
            denied,
            counter,
        } = &*self.filter;
        let peer = host::property(&["source", "address"]).unwrap_or_default();
        let forwarded = rules
            .forwarded_header()
            .and_then(|header| host::header_text(Side::Request, header));
        let client = rules.client(&String::from_utf8_lossy(&peer), forwarded.as_deref());
        match rules.judge(client) {
            Verdict::Allowed => {
                allowed.set(allowed.get() + 1);
                Action::Continue
            }
            Verdict::Denied(why) => {
                denied.set(denied.get() + 1);
                if let Some(counter) = counter.get() {
                    counter.add(1);
                }
                let client =
                    client.map_or_else(|| "nobody".to_owned(), |client| client.to_string());
                host::log(LogLevel::Debug, &format!("{client} is denied: {why}"));
                host::refuse(403, "address-not-allowed", "Your address is not allowed")
            }
        }
    }
}
