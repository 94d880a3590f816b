pub(crate) const TESTS: &[(&str, fn())] = &[];
pub(crate) fn rehearse(_: &str, _: &str, _: &str) -> std::io::Result<String> {
    Ok(String::new())
}
