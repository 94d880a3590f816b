//! A guest that takes the calls it makes from its configuration: for tests, and for fuzzing (`fuzz/`).

use crate::support::*;

/// Each call: which one, and twelve arguments, in four bytes each.
pub(crate) const WORDS: usize = 13;

/// The guest: it makes the same calls in every callback, and traps where a status is none of the ABI's.
pub(crate) fn driver() -> Vec<u8> {
    let mut cases = String::new();
    for (place, (name, _, params)) in IMPORTS.iter().enumerate() {
        let load = |word: usize| format!("(i32.load offset={} (local.get $at))", 4 * word);
        let arguments: Vec<String> = (1..=*params).map(load).collect();
        cases += &format!(
            "(if (i32.eq (local.get $which) (i32.const {place})) (then (local.set $status (call ${name} {}))))\n",
            arguments.join(" ")
        );
    }
    let run = |signature: &str, result: &str| format!("{signature} (call $run) {result})");
    guest(&format!(
        r#"(func $run (local $at i32) (local $left i32) (local $which i32) (local $status i32)
            (drop (call $get_buffer (i32.const 6) (i32.const 0) (i32.const 9999) (global.get $p) (global.get $n)))
            (local.set $at (i32.load (global.get $p)))
            (local.set $left (i32.div_u (i32.load (global.get $n)) (i32.const {size})))
            (loop
                (if (i32.eqz (local.get $left)) (then (return)))
                (local.set $which (i32.rem_u (i32.load (local.get $at)) (i32.const {count})))
                {cases}
                (if (i32.gt_u (local.get $status) (i32.const 12)) (then (unreachable)))
                (local.set $at (i32.add (local.get $at) (i32.const {size})))
                (local.set $left (i32.sub (local.get $left) (i32.const 1)))
                (br 0)))
        {}"#,
        [
            run(
                "(func (export \"proxy_on_configure\") (param i32 i32) (result i32)",
                "(i32.const 1)"
            ),
            run(
                "(func (export \"proxy_on_context_create\") (param i32 i32)",
                ""
            ),
            run(
                "(func (export \"proxy_on_request_headers\") (param i32 i32 i32) (result i32)",
                "(i32.const 0)"
            ),
            run(
                "(func (export \"proxy_on_request_body\") (param i32 i32 i32) (result i32)",
                "(i32.const 0)"
            ),
            run(
                "(func (export \"proxy_on_response_headers\") (param i32 i32 i32) (result i32)",
                "(i32.const 0)"
            ),
            run(
                "(func (export \"proxy_on_response_body\") (param i32 i32 i32) (result i32)",
                "(i32.const 0)"
            ),
            run(
                "(func (export \"proxy_on_done\") (param i32) (result i32)",
                "(i32.const 1)"
            ),
            run("(func (export \"proxy_on_log\") (param i32)", ""),
            run("(func (export \"proxy_on_delete\") (param i32)", ""),
        ]
        .join("\n"),
        size = 4 * WORDS,
        count = IMPORTS.len(),
    ))
}
