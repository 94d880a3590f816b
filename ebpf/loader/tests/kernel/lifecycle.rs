pub(crate) const TESTS: &[(&str, fn())] = &[];
pub(crate) fn open_and_hold(_: &str, _: &str) -> std::io::Result<String> {
    Ok(String::new())
}
