//! Guests: what all of them have, and the words of which the tests' own parts are made.

use std::path::PathBuf;

use tempfile::TempDir;

/// The capabilities of most guests.
pub(super) const HEADERS: &str = r#"read_headers: ["*"], write_headers: ["*"]"#;

/// Everything that a guest says, each word in a place of its own.
const WORDS: &[&str] = &[
    "x-filter",
    "x-ringwall-user-context",
    "x-forwarded-client-cert",
    "x_forwarded_client_cert",
    "x-ringwall-loopback",
    ":path",
    ":method",
    ":authority",
    "/elsewhere",
    "/forbidden/x",
    "changed on the way",
    "DELETE",
    "payments",
    "orders",
    "orders:7305",
    "inventory",
    "x-tenant",
    "evil",
    "forged",
    "7",
    "8",
    ">",
    "pkg.Service",
    "Call",
    "hello",
];

/// Bytes between words.
const PLACE: usize = 64;
/// Where the head of a call stands.
const HEAD: usize = 8192;
/// Where the host writes what it gives: address, length.
pub(super) const GIVEN: &str = "(i32.const 60000) (i32.const 60004)";
/// What was given.
pub(super) const VALUE: &str = "(i32.load (i32.const 60000)) (i32.load (i32.const 60004))";

/// Address and length of a word.
pub(super) fn word(word: &str) -> String {
    let place = WORDS.iter().position(|known| *known == word);
    let place = place.unwrap_or_else(|| panic!("no word {word}"));
    format!("(i32.const {}) (i32.const {})", place * PLACE, word.len())
}

/// `name: value` in the map: 0 is a request's, 2 a response's.
pub(super) fn set(map: u8, name: &str, value: &str) -> String {
    let (name, value) = (word(name), word(value));
    format!("(drop (call $set (i32.const {map}) {name} {value}))")
}

/// Runs `body` for the head of each request and answers what it leaves: 0 goes on, 1 pauses.
pub(super) fn on_request(body: &str) -> String {
    format!(
        "(func (export \"proxy_on_request_headers\") (param $id i32) (param i32 i32) (result i32) {body})"
    )
}

pub(super) fn on_response(body: &str) -> String {
    format!("(func (export \"proxy_on_response_headers\") (param i32 i32 i32) (result i32) {body})")
}

/// Marks requests and responses with `value`.
pub(super) fn marker(value: &str) -> String {
    format!(
        "{}{}",
        on_request(&format!("{} (i32.const 0)", set(0, "x-filter", value))),
        on_response(&format!("{} (i32.const 0)", set(2, "x-filter", value)))
    )
}

/// Holds a body to its end and puts something else in its place. `way`: `request` or `response`.
pub(super) fn replace_body(way: &str) -> String {
    let buffer = u8::from(way == "response");
    format!(
        r#"(func (export "proxy_on_{way}_body") (param i32) (param $size i32) (param $end i32) (result i32)
            (if (i32.eqz (local.get $end)) (then (return (i32.const 1))))
            (drop (call $fill (i32.const {buffer}) (i32.const 0) (local.get $size) {}))
            (i32.const 0))"#,
        word("changed on the way")
    )
}

/// Answers 403 in the place of the other side.
pub(super) fn answer() -> String {
    let body = word("changed on the way");
    format!(
        "(drop (call $answer (i32.const 403) (i32.const 0) (i32.const 0) {body} (i32.const 0) (i32.const 0) (i32.const -1))) (i32.const 1)"
    )
}

/// A head of a call by HTTP, as the ABI writes it.
fn head() -> Vec<u8> {
    let pairs = [
        (":method", "GET"),
        (":path", "/asked"),
        (":authority", "orders"),
    ];
    let mut bytes = u32::try_from(pairs.len())
        .expect("few")
        .to_le_bytes()
        .to_vec();
    for (name, value) in pairs {
        for text in [name, value] {
            bytes.extend(u32::try_from(text.len()).expect("short").to_le_bytes());
        }
    }
    for (name, value) in pairs {
        bytes.extend([name.as_bytes(), b"\0", value.as_bytes(), b"\0"].concat());
    }
    bytes
}

/// Asks `cluster` by HTTP before the request goes on; without an answer of 200 it is refused.
pub(super) fn ask(cluster: &str) -> String {
    let head = format!("(i32.const {HEAD}) (i32.const {})", head().len());
    let call = format!(
        "(if (call $call {} {head} (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 2000) (i32.const 60008)) (then (drop {}) (return (i32.const 1)))) (global.set $asked (local.get $id)) (i32.const 1)",
        word(cluster),
        answer()
    );
    format!(
        r#"(global $asked (mut i32) (i32.const 0)) {}
        (func (export "proxy_on_http_call_response") (param i32 i32) (param $fields i32) (param i32 i32)
            (drop (call $context (global.get $asked)))
            (if (i32.eqz (local.get $fields)) (then (drop {}) (return)))
            {} (drop (call $continue (i32.const 0))))"#,
        on_request(&call),
        answer(),
        set(0, "x-filter", "7")
    )
}

/// The same by gRPC: `x-filter` is `7` where the call ends well.
pub(super) fn ask_by_grpc(cluster: &str) -> String {
    let call = format!(
        "(if (call $grpc {} {} {} (i32.const 0) (i32.const 0) {} (i32.const 2000) (i32.const 60008)) (then (unreachable))) (global.set $asked (local.get $id)) (i32.const 1)",
        word(cluster),
        word("pkg.Service"),
        word("Call"),
        word("hello")
    );
    format!(
        r#"(global $asked (mut i32) (i32.const 0)) {}
        (func (export "proxy_on_grpc_receive") (param i32 i32 i32)
            (drop (call $context (global.get $asked)))
            {} (drop (call $continue (i32.const 0))))
        (func (export "proxy_on_grpc_close") (param i32 i32 i32)
            (drop (call $context (global.get $asked))) (drop {}))"#,
        on_request(&call),
        set(0, "x-filter", "7"),
        answer()
    )
}

/// Puts `>` before what comes from the side.
pub(super) fn on_bytes(side: &str) -> String {
    let buffer = if side == "downstream" { 2 } else { 3 };
    format!(
        r#"(func (export "proxy_on_{side}_data") (param i32) (param $size i32) (param i32) (result i32)
            (if (local.get $size) (then
                (drop (call $fill (i32.const {buffer}) (i32.const 0) (i32.const 0) {}))))
            (i32.const 0))"#,
        word(">")
    )
}

fn prelude() -> String {
    let mut text = String::from(
        r#"
    (import "env" "proxy_replace_header_map_value" (func $set (param i32 i32 i32 i32 i32) (result i32)))
    (import "env" "proxy_get_header_map_value" (func $get (param i32 i32 i32 i32 i32) (result i32)))
    (import "env" "proxy_get_property" (func $property (param i32 i32 i32 i32) (result i32)))
    (import "env" "proxy_send_local_response" (func $answer (param i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))
    (import "env" "proxy_set_buffer_bytes" (func $fill (param i32 i32 i32 i32 i32) (result i32)))
    (import "env" "proxy_http_call" (func $call (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))
    (import "env" "proxy_grpc_call" (func $grpc (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))
    (import "env" "proxy_set_effective_context" (func $context (param i32) (result i32)))
    (import "env" "proxy_continue_stream" (func $continue (param i32) (result i32)))
    (import "env" "proxy_close_stream" (func $close (param i32) (result i32)))
    (memory (export "memory") 2)
    (func (export "proxy_abi_version_0_2_1"))
    (func (export "proxy_on_memory_allocate") (param i32) (result i32) (i32.const 65536))
    (func (export "proxy_on_vm_start") (param i32 i32) (result i32) (i32.const 1))
    (func (export "proxy_on_configure") (param i32 i32) (result i32) (i32.const 1))
"#,
    );
    for (place, word) in WORDS.iter().enumerate() {
        text.push_str(&format!(
            "(data (i32.const {}) \"{word}\")\n",
            place * PLACE
        ));
    }
    let head: String = head().iter().map(|byte| format!("\\{byte:02x}")).collect();
    text.push_str(&format!("(data (i32.const {HEAD}) \"{head}\")\n"));
    text
}

/// A folder with modules, and what a configuration says of them.
pub(super) struct Modules(TempDir);

impl Modules {
    pub(super) fn new(guests: &[(&str, String)]) -> Self {
        let modules = Self(tempfile::tempdir().expect("folder"));
        for (name, body) in guests {
            modules.write(name, body);
        }
        modules
    }

    pub(super) fn one(body: String) -> Self {
        Self::new(&[("p", body)])
    }

    pub(super) fn write(&self, name: &str, body: &str) {
        let module = wat::parse_str(format!("(module {} {body})", prelude())).expect("a module");
        let next = self.0.path().join("next");
        std::fs::write(&next, module).expect("module");
        std::fs::rename(&next, self.path(name)).expect("module");
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(format!("{name}.wasm"))
    }

    /// One plugin with these capabilities, as an element of `plugins`.
    pub(super) fn plugin(&self, name: &str, capabilities: &str) -> String {
        format!(
            "{{ name: {name}, module: {}, capabilities: {{ {capabilities} }} }}",
            self.path(name).display()
        )
    }

    /// The key of a configuration with the plugin `p` alone.
    pub(super) fn key(&self, capabilities: &str) -> String {
        format!("plugins: [{}]", self.plugin("p", capabilities))
    }
}
