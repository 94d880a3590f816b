//! How deep a policy text nests, before a parser looks at it.
//!
//! Owns: the bound that keeps recursion within a stack. Cedar's parser, validator and evaluator recurse over parentheses
//! and over chains of operators alike (measured: 55 KB of stack for a parenthesis, 14 KB for an operator, unoptimised),
//! and a stack that overflows ends the process. Must not: judge anything else of the text.

/// Open brackets of any kind.
const MAX_DEPTH: usize = 32;
/// Operators in one policy: each may be one more level of its tree.
const MAX_OPERATORS: usize = 256;

/// Why a text is not parsed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooDeep {
    /// Offset in bytes.
    pub(crate) offset: usize,
    pub(crate) rule: &'static str,
}

/// Walks over a text outside of its strings and comments.
pub(crate) fn check(text: &str) -> Result<(), TooDeep> {
    let bytes = text.as_bytes();
    let refuse = |offset, rule| Err(TooDeep { offset, rule });
    let at = |offset: usize| bytes.get(offset).copied().unwrap_or(0);
    let (mut offset, mut depth, mut operators) = (0, 0_usize, 0_usize);
    while offset < bytes.len() {
        match at(offset) {
            b'"' => match string_end(bytes, offset) {
                Some(end) => offset = end,
                None => return refuse(offset, "the string is not closed"),
            },
            b'/' if at(offset + 1) == b'/' => {
                let rest = bytes.iter().skip(offset);
                offset += rest.take_while(|&&b| b != b'\n').count();
            }
            b';' => operators = 0,
            open @ (b'(' | b'[' | b'{') => {
                depth += 1;
                operators += usize::from(open != b'{');
            }
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            b'.' | b'!' | b'<' | b'>' | b'=' | b'+' | b'-' | b'*' | b'&' | b'|' => {
                operators += 1;
                // `&&` and the like are one.
                if matches!(at(offset + 1), b'&' | b'|' | b'=') {
                    offset += 1;
                }
            }
            letter if letter.is_ascii_alphabetic() || letter == b'_' => {
                let rest = bytes.iter().skip(offset);
                let word = rest.take_while(|&&b| b.is_ascii_alphanumeric() || b == b'_');
                let length = word.count();
                if let Some(b"if" | b"in" | b"is" | b"has" | b"like") =
                    bytes.get(offset..offset + length)
                {
                    operators += 1;
                }
                offset += length - 1;
            }
            _ => {}
        }
        if depth > MAX_DEPTH {
            return refuse(offset, "more than 32 brackets are open here; use fewer");
        }
        if operators > MAX_OPERATORS {
            return refuse(offset, "more than 256 operators in one policy; split it");
        }
        offset += 1;
    }
    Ok(())
}

/// Offset of the quotation mark that closes the string which begins at `start`. Cedar has no line continuation.
fn string_end(bytes: &[u8], start: usize) -> Option<usize> {
    let mut offset = start + 1;
    loop {
        match bytes.get(offset)? {
            b'"' => return Some(offset),
            b'\\' if matches!(bytes.get(offset + 1), None | Some(b'\n')) => return None,
            b'\\' => offset += 2,
            _ => offset += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brackets_and_chains_have_a_bound() {
        let ok = |text: String| check(&text).is_ok();
        assert!(ok("(".repeat(32)));
        assert!(!ok("(".repeat(33)));
        assert!(ok(format!("{}{}", "()".repeat(100), "[]".repeat(100))));
        for link in [
            "&& a",
            "|| a",
            "+ 1",
            ".a",
            "[\"a\"]",
            "!",
            "if true then 1 else ",
            " has a",
            "<= 1",
        ] {
            assert!(ok(format!("a {}", link.repeat(256))), "{link}");
            assert!(!ok(format!("a {}", link.repeat(257))), "{link}");
        }
        // Each policy counts by itself; words and strings are no operators.
        assert!(ok("a && b && c;\n".repeat(1000)));
        assert!(ok(format!("\"{}\"", "(&&\\\"".repeat(1000))));
        assert!(ok(format!("// {}\n", "(".repeat(1000))));
        assert!(ok("gif iffy instance ".repeat(1000)));
    }

    #[test]
    fn a_string_cannot_hide_what_follows() {
        for open in ["a \"b", "\"\\", "\"\\\n\""] {
            assert_eq!(
                check(open).unwrap_err().rule,
                "the string is not closed",
                "{open:?}"
            );
        }
        assert_eq!(
            check(&format!("\"\"{}", "(".repeat(40)))
                .unwrap_err()
                .offset,
            34
        );
    }
}
