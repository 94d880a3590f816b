//! Timers and shared data: every tick adds one to a number that all instances share, by compare-and-swap, and answers say
//! whether the timer has run.

use std::time::Duration;

use proxy_wasm::hostcalls;
use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{Action, ContextType, LogLevel, Status};

#[cfg(target_arch = "wasm32")]
proxy_wasm::main! {{
    start();
}}

/// Says how contexts are made.
pub fn start() {
    proxy_wasm::set_root_context(|_| Box::new(Root));
}

const KEY: &str = "timers.ticks";

struct Root;

impl Context for Root {}

impl RootContext for Root {
    fn on_vm_start(&mut self, _size: usize) -> bool {
        self.set_tick_period(Duration::from_millis(200));
        true
    }

    fn on_tick(&mut self) {
        // Another instance may come in between: then its number is the one to add to.
        for _ in 0..10 {
            let (value, version) = self.get_shared_data(KEY);
            let next = count(value.as_deref()).wrapping_add(1);
            match self.set_shared_data(KEY, Some(&next.to_le_bytes()), version) {
                Err(Status::CasMismatch) => {}
                _ => break,
            }
        }
        let _ = hostcalls::log(LogLevel::Info, "tick");
    }

    fn create_http_context(&self, _context_id: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Stream))
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }
}

fn count(value: Option<&[u8]>) -> u64 {
    let bytes = value.and_then(|value| value.first_chunk::<8>());
    bytes.map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

struct Stream;

impl Context for Stream {}

impl HttpContext for Stream {
    fn on_http_response_headers(&mut self, _count: usize, _end_of_stream: bool) -> Action {
        let (value, _) = self.get_shared_data(KEY);
        let ticked = if count(value.as_deref()) > 0 {
            "yes"
        } else {
            "no"
        };
        self.set_http_response_header("x-ticked", Some(ticked));
        Action::Continue
    }
}
