//! The filter as the host calls it: the request waits while the cluster is asked, unless the answer is remembered.
//!
//! What is remembered stands in shared data, for all instances of the plugin: a number of places, each with the hash of
//! one key, never the key. Places are written with compare-and-swap, so that an instance which sweeps does not remove
//! what another has just learnt.

use std::rc::Rc;
use std::time::Duration;

use proxy_wasm::hostcalls;
use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::{Action, BufferType, LogLevel, MapType};
use ringwall_guest::host::{self, Side};
use ringwall_guest::{Filter, configuration};

use crate::rules::{self, Found, Hash, Known, Rules};

/// How often places are emptied whose time is over.
const SWEEP: Duration = Duration::from_secs(5);
/// Bytes of an answer that are looked at.
const MAX_ANSWER_BYTES: usize = 4096;

pub struct ApiKey {
    rules: Rules,
}

impl Filter for ApiKey {
    const NAME: &'static str = "api-key";

    fn configure(configuration: &[u8]) -> Result<Self, String> {
        let rules = Rules::new(configuration::parse(configuration)?)?;
        Ok(Self { rules })
    }

    fn started(&self) {
        host::set_timer(SWEEP);
    }

    fn tick(&self) {
        let now = host::now_nanoseconds();
        let mut emptied = 0;
        for number in 0..self.rules.config.cache_places {
            let place = rules::place_name(number);
            if let Ok((Some(entry), Some(version))) = hostcalls::get_shared_data(&place)
                && rules::expiry(&entry).is_some_and(|expiry| expiry <= now)
            {
                let done = hostcalls::set_shared_data(&place, None, Some(version));
                emptied += u32::from(done.is_ok());
            }
        }
        if emptied > 0 {
            host::log(LogLevel::Info, &format!("forgot {emptied} keys"));
        }
    }

    fn open(self: &Rc<Self>) -> Box<dyn HttpContext> {
        Box::new(Stream {
            filter: Rc::clone(self),
            state: State::Open,
        })
    }
}

enum State {
    Open,
    /// For the answer to a call about this key.
    Waiting(Hash),
    Refused,
}

struct Stream {
    filter: Rc<ApiKey>,
    state: State,
}

impl Stream {
    fn refuse(&mut self, status: u32, slug: &'static str, title: &'static str) -> Action {
        self.state = State::Refused;
        if status == 401 {
            let challenge = [("www-authenticate", "ApiKey")];
            return host::refuse_with(status, slug, title, &challenge);
        }
        host::refuse(status, slug, title)
    }

    /// What follows from what is known of the key.
    fn decide(&mut self, known: &Known) -> Action {
        match known {
            Known::Client(client) => {
                let header = &self.filter.rules.config.client_header;
                host::set_header(Side::Request, header, Some(client.as_bytes()));
                self.state = State::Open;
                Action::Continue
            }
            Known::Refused => self.refuse(401, "api-key-unknown", "The API key is not known"),
        }
    }

    fn ask(&mut self, key: &[u8], hash: Hash) -> Action {
        let config = &self.filter.rules.config;
        // A key has nothing but visible ASCII.
        let key = String::from_utf8_lossy(key);
        let headers = vec![
            (":method", "GET"),
            (":path", config.path.as_str()),
            (":authority", config.authority.as_str()),
            (config.header.as_str(), &*key),
        ];
        let timeout = Duration::from_millis(config.timeout_ms);
        let sent = hostcalls::dispatch_http_call(&config.cluster, headers, None, vec![], timeout);
        if sent.is_err() {
            return self.refuse(503, "api-key-unchecked", "The API key could not be checked");
        }
        self.state = State::Waiting(hash);
        Action::Pause
    }

    fn remember(&self, hash: &Hash, known: &Known) {
        let lifetime = self.filter.rules.lifetime(known);
        if lifetime == 0 {
            return;
        }
        let place = self.filter.rules.place(hash);
        let entry = rules::write_entry(
            hash,
            known,
            host::now_nanoseconds().saturating_add(lifetime),
        );
        let version = hostcalls::get_shared_data(&place)
            .ok()
            .and_then(|(_, version)| version);
        // Where another instance was faster, its answer is as good.
        let _ = hostcalls::set_shared_data(&place, Some(&entry), version);
    }
}

impl Context for Stream {
    fn on_http_call_response(
        &mut self,
        _token: u32,
        _headers: usize,
        size: usize,
        _trailers: usize,
    ) {
        let State::Waiting(hash) = self.state else {
            return;
        };
        let status = hostcalls::get_map_value_bytes(MapType::HttpCallResponseHeaders, ":status");
        let status = status.ok().flatten().unwrap_or_default();
        let limit = size.min(MAX_ANSWER_BYTES);
        let body = hostcalls::get_buffer(BufferType::HttpCallResponseBody, 0, limit);
        let body = body.ok().flatten().unwrap_or_default();
        let answer = self
            .filter
            .rules
            .read_answer(&String::from_utf8_lossy(&status), &body);
        let Some(known) = answer else {
            self.refuse(503, "api-key-unchecked", "The API key could not be checked");
            return;
        };
        self.remember(&hash, &known);
        if self.decide(&known) == Action::Continue {
            self.resume_http_request();
        }
    }
}

impl HttpContext for Stream {
    fn on_http_request_headers(&mut self, _count: usize, _end_of_stream: bool) -> Action {
        let rules = &self.filter.rules;
        let (name, client) = (&rules.config.header, &rules.config.client_header);
        let target = host::header(Side::Request, ":path").unwrap_or_default();
        let found = rules.find(host::header(Side::Request, name).as_deref(), &target);
        let stripped = rules.stripped(&target);
        // Nobody but this filter says who the client is, and nobody behind it needs the key.
        host::set_header(Side::Request, client, None);
        host::set_header(Side::Request, name, None);
        if let Some(stripped) = stripped {
            host::set_header(Side::Request, ":path", Some(&stripped));
        }
        let key = match found {
            Found::Key(key) => key,
            Found::None => return self.refuse(401, "api-key-missing", "An API key is needed"),
            Found::Two => return self.refuse(400, "api-key-ambiguous", "There are two API keys"),
        };
        let hash = Hash::of(&key);
        let place = rules.place(&hash);
        let entry = hostcalls::get_shared_data(&place)
            .ok()
            .and_then(|(entry, _)| entry);
        let known =
            entry.and_then(|entry| rules::read_entry(&entry, &hash, host::now_nanoseconds()));
        match known {
            Some(known) => self.decide(&known),
            None => self.ask(&key, hash),
        }
    }

    fn on_http_request_body(&mut self, _size: usize, _end_of_stream: bool) -> Action {
        // Hosts may deliver bodies while the headers wait.
        match self.state {
            State::Open => Action::Continue,
            State::Waiting(_) | State::Refused => Action::Pause,
        }
    }

    fn on_http_request_trailers(&mut self, _count: usize) -> Action {
        match self.state {
            State::Open => Action::Continue,
            State::Waiting(_) | State::Refused => Action::Pause,
        }
    }
}
