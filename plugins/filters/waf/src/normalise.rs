//! One form for what is written in many: percent-encoding (also twice, also `%u0041` and overlong UTF-8), entities of HTML,
//! escapes of JavaScript, full-width letters, comments and spaces of SQL, upper case.

use ringwall_guest::target;

/// Encodings within encodings that are undone. More than that no application needs.
const ROUNDS: usize = 3;

/// A value in its one form.
#[derive(Debug, PartialEq, Eq)]
pub struct Normal {
    pub text: String,
    /// It still had an encoding after all rounds.
    pub too_often: bool,
    /// It had a NUL.
    pub nul: bool,
}

/// Undoes what hides a value.
#[must_use]
pub fn normalise(value: &[u8]) -> Normal {
    // Parameters come decoded: what is overlong in them is bytes already, and no UTF-8.
    let mut text = String::from_utf8_lossy(&overlong(value)).into_owned();
    let mut too_often = true;
    for _ in 0..=ROUNDS {
        let next = round(&text);
        if next == text {
            too_often = false;
            break;
        }
        text = next;
    }
    let nul = text.contains('\0');
    Normal {
        text: simplify(&text),
        too_often,
        nul,
    }
}

fn round(text: &str) -> String {
    let decoded = target::decode(percent_u(text).as_bytes());
    let decoded = String::from_utf8_lossy(&overlong(&decoded)).into_owned();
    escapes(&entities(&decoded))
}

/// Two bytes for an ASCII character, which no encoder writes: `%c0%ae` for a dot.
fn overlong(bytes: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((first, behind)) = rest.split_first() {
        rest = behind;
        match (first, behind.first()) {
            (0xc0 | 0xc1, Some(second)) if second & 0xc0 == 0x80 => {
                plain.push((first & 1) << 6 | (second & 0x3f));
                rest = behind.get(1..).unwrap_or_default();
            }
            _ => plain.push(*first),
        }
    }
    plain
}

/// `%u003c`, as old servers of Microsoft have it.
fn percent_u(text: &str) -> String {
    replace_codes(text, "%u", 4, 16, "")
}

/// `\u003c` and `\x3c`.
fn escapes(text: &str) -> String {
    replace_codes(&replace_codes(text, "\\u", 4, 16, ""), "\\x", 2, 16, "")
}

/// `&#60;`, `&#x3c;` and the names that matter.
fn entities(text: &str) -> String {
    if !text.contains('&') {
        return text.to_owned();
    }
    let text = replace_codes(text, "&#x", 6, 16, ";");
    let text = replace_codes(&text, "&#", 7, 10, ";");
    let mut named = text;
    for (name, character) in [
        ("&lt;", "<"),
        ("&gt;", ">"),
        ("&quot;", "\""),
        ("&apos;", "'"),
        ("&colon;", ":"),
        ("&lpar;", "("),
        ("&rpar;", ")"),
        ("&tab;", "\t"),
        ("&newline;", "\n"),
        ("&amp;", "&"),
    ] {
        if named.contains(name) {
            named = named.replace(name, character);
        }
    }
    named
}

/// Replaces a prefix with up to so many digits, and with an end that may be missing.
fn replace_codes(text: &str, prefix: &str, most: usize, radix: u32, end: &str) -> String {
    let mut replaced = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, behind)) = split_ignoring_case(rest, prefix) {
        replaced.push_str(before);
        let digits = behind
            .chars()
            .take(most)
            .take_while(|digit| digit.is_digit(radix))
            .count();
        let code = behind
            .get(..digits)
            .and_then(|digits| u32::from_str_radix(digits, radix).ok());
        match code.and_then(char::from_u32) {
            Some(character) => {
                replaced.push(character);
                rest = behind.get(digits..).unwrap_or_default();
                rest = rest.strip_prefix(end).unwrap_or(rest);
            }
            None => {
                replaced.push_str(prefix);
                rest = behind;
            }
        }
    }
    replaced.push_str(rest);
    replaced
}

/// What stands before and behind an ASCII prefix, in whatever case.
fn split_ignoring_case<'a>(text: &'a str, prefix: &str) -> Option<(&'a str, &'a str)> {
    let windows = text.as_bytes().windows(prefix.len());
    let at = windows
        .enumerate()
        .find(|(_, window)| window.eq_ignore_ascii_case(prefix.as_bytes()))?
        .0;
    Some((text.get(..at)?, text.get(at + prefix.len()..)?))
}

/// Lower case, `/` for `\`, one space for white space and comments, no NUL.
fn simplify(text: &str) -> String {
    let mut simple = String::with_capacity(text.len());
    let mut rest = text.chars().peekable();
    while let Some(character) = rest.next() {
        let character = match u32::from(character) {
            // Full-width forms, which databases and browsers may take for the letters.
            code @ 0xff01..=0xff5e => char::from_u32(code - 0xfee0).unwrap_or(character),
            _ => character,
        };
        match character {
            '\0' => {}
            '/' if rest.peek() == Some(&'*') => {
                // Up to the comment's end, or to the text's.
                let mut last = ' ';
                for inside in rest.by_ref() {
                    if last == '*' && inside == '/' {
                        break;
                    }
                    last = inside;
                }
                space(&mut simple);
            }
            '\\' => simple.push('/'),
            white if white.is_whitespace() || white.is_control() => space(&mut simple),
            other => simple.extend(other.to_lowercase()),
        }
    }
    simple
}

fn space(text: &mut String) {
    if !text.ends_with(' ') {
        text.push(' ');
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_value_has_a_form_of_bounded_length(value in prop::collection::vec(any::<u8>(), 0..128)) {
            prop_assert!(normalise(&value).text.len() <= 3 * value.len());
        }

        #[test]
        fn what_looks_like_an_encoding_has_one_too(value in r"([%&\\#;*/uUxX0-9a-fA-F<]|&(amp|lt|#x?)|%25|\\u00){0,40}") {
            prop_assert!(normalise(value.as_bytes()).text.len() <= 3 * value.len());
        }

        #[test]
        fn no_round_of_percent_encoding_hides_a_text(text in "[a-zA-Z0-9<>'\"(=) ]{0,24}", rounds in 1_usize..=3) {
            let mut hidden = text.clone();
            for _ in 0..rounds {
                hidden = hidden.bytes().map(|byte| format!("%{byte:02x}")).collect();
            }
            let (seen, plain) = (normalise(hidden.as_bytes()), normalise(text.as_bytes()));
            prop_assert_eq!(&seen.text, &plain.text);
            prop_assert!(!seen.too_often);
        }
    }

    #[test]
    fn what_is_hidden_is_seen() {
        for (hidden, seen) in [
            ("%3Cscript%3E", "<script>"),
            ("%253Cscript%253E", "<script>"),
            ("%u003Cscript>", "<script>"),
            ("&lt;script&gt;", "<script>"),
            ("&#60;SCRIPT&#x3E;", "<script>"),
            ("&#60script", "<script"),
            ("\\x3cscript\\u003E", "<script>"),
            ("\u{ff1c}script\u{ff1e}", "<script>"),
            ("un\0ion", "union"),
            ("UNION/**/ALL%0a%09SELECT", "union all select"),
            ("..%c0%afetc", "../etc"),
            ("..\\..\\windows", "../../windows"),
            ("100% sure &c", "100% sure &c"),
            ("/* open", " "),
        ] {
            assert_eq!(normalise(hidden.as_bytes()).text, seen, "{hidden}");
        }
    }

    #[test]
    fn encodings_without_end_are_told() {
        assert_eq!(normalise(b"..\xc0\xafetc").text, "../etc");
        assert!(!normalise(b"%252525").too_often);
        assert!(normalise(b"%25252525252541").too_often);
        assert!(normalise(b"a%00b").nul);
        assert!(!normalise("\u{fffd}%".as_bytes()).too_often);
    }
}
