//! Each host function with good and bad arguments.

use crate::support::*;

#[tokio::test]
async fn r90_a_header_is_read_and_set() {
    let guest = guest(&format!(
        r#"(data (i32.const 100) "hostx-copy") {}"#,
        on_request(
            r#"(call $say (call $get_header (i32.const 0) (i32.const 100) (i32.const 4) (global.get $p) (global.get $n)))
               (drop (call $add_header (i32.const 0) (i32.const 104) (i32.const 6) (i32.load (global.get $p)) (i32.load (global.get $n))))"#
        )
    ));
    let request = Bed::new(&guest).get().await.unwrap();
    assert_eq!(request.headers()["x-status"], "00");
    assert_eq!(request.headers()["x-copy"], "a.example");
}
