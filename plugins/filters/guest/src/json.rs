//! JSON (RFC 8259) as a tree of places in its text, so that a filter changes what it means to and nothing else: numbers
//! keep their digits, members their order, the rest its white space.
//!
//! Stricter than the RFC where parsers differ: a name may come once in an object, and nesting has a limit.

use std::ops::Range;

/// As deep as arrays and objects may be nested.
pub const MAX_DEPTH: usize = 64;

/// A value and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    pub place: Range<usize>,
    pub kind: Kind,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    Null,
    Bool(bool),
    /// As it is written.
    Number(String),
    /// Unescaped.
    Text(String),
    Array(Vec<Node>),
    Object(Vec<Member>),
}

#[derive(Debug, Clone, PartialEq)]
pub struct Member {
    pub name: String,
    /// Where the name stands, quotes included.
    pub name_place: Range<usize>,
    pub value: Node,
}

impl Node {
    /// A member of an object.
    #[must_use]
    pub fn member(&self, name: &str) -> Option<&Member> {
        match &self.kind {
            Kind::Object(members) => members.iter().find(|member| member.name == name),
            _ => None,
        }
    }
}

/// Why a text is not JSON, and at which byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed {
    pub at: usize,
    pub why: &'static str,
}

/// Reads a whole text.
///
/// # Errors
/// [`Malformed`] at the first byte that does not fit.
pub fn parse(text: &[u8]) -> Result<Node, Malformed> {
    let mut reader = Reader { text, at: 0 };
    let node = reader.value(0)?;
    reader.space();
    if reader.at < text.len() {
        return Err(reader.fail("something behind the value"));
    }
    Ok(node)
}

/// A text as a JSON string, quotes included.
#[must_use]
pub fn quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for character in text.chars() {
        match character {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            control if control < ' ' => quoted.push_str(&format!("\\u{:04x}", u32::from(control))),
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}

/// Replaces places of a text. Places must not overlap; their order does not matter.
#[must_use]
pub fn replace(text: &[u8], mut changes: Vec<(Range<usize>, String)>) -> Vec<u8> {
    changes.sort_by_key(|(place, _)| place.start);
    let mut changed = Vec::with_capacity(text.len());
    let mut at = 0;
    for (place, new) in &changes {
        changed.extend_from_slice(text.get(at..place.start).unwrap_or_default());
        changed.extend_from_slice(new.as_bytes());
        at = place.end;
    }
    changed.extend_from_slice(text.get(at..).unwrap_or_default());
    changed
}

struct Reader<'a> {
    text: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn fail(&self, why: &'static str) -> Malformed {
        Malformed { at: self.at, why }
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    /// True, and behind it, when the byte is next.
    fn take(&mut self, byte: u8) -> bool {
        let next = self.peek() == Some(byte);
        self.at += usize::from(next);
        next
    }

    fn value(&mut self, depth: usize) -> Result<Node, Malformed> {
        if depth > MAX_DEPTH {
            return Err(self.fail("nested too deeply"));
        }
        self.space();
        let start = self.at;
        let kind = match self.peek() {
            Some(b'{') => self.object(depth)?,
            Some(b'[') => self.array(depth)?,
            Some(b'"') => Kind::Text(self.string()?),
            Some(b'-' | b'0'..=b'9') => self.number()?,
            Some(b't') => self.word(b"true", Kind::Bool(true))?,
            Some(b'f') => self.word(b"false", Kind::Bool(false))?,
            Some(b'n') => self.word(b"null", Kind::Null)?,
            _ => return Err(self.fail("no value")),
        };
        let place = start..self.at;
        Ok(Node { place, kind })
    }

    fn word(&mut self, word: &[u8], kind: Kind) -> Result<Kind, Malformed> {
        let rest = self.text.get(self.at..).unwrap_or_default();
        if !rest.starts_with(word) {
            return Err(self.fail("no value"));
        }
        self.at += word.len();
        Ok(kind)
    }

    fn object(&mut self, depth: usize) -> Result<Kind, Malformed> {
        let mut members: Vec<Member> = Vec::new();
        let mut names = std::collections::BTreeSet::new();
        self.at += 1;
        self.space();
        if self.take(b'}') {
            return Ok(Kind::Object(members));
        }
        loop {
            self.space();
            let start = self.at;
            if self.peek() != Some(b'"') {
                return Err(self.fail("no name of a member"));
            }
            let name = self.string()?;
            let name_place = start..self.at;
            if !names.insert(name.clone()) {
                return Err(self.fail("a name twice"));
            }
            self.space();
            if !self.take(b':') {
                return Err(self.fail("no colon"));
            }
            let value = self.value(depth + 1)?;
            members.push(Member {
                name,
                name_place,
                value,
            });
            self.space();
            if self.take(b'}') {
                return Ok(Kind::Object(members));
            }
            if !self.take(b',') {
                return Err(self.fail("neither comma nor end of the object"));
            }
        }
    }

    fn array(&mut self, depth: usize) -> Result<Kind, Malformed> {
        let mut items = Vec::new();
        self.at += 1;
        self.space();
        if self.take(b']') {
            return Ok(Kind::Array(items));
        }
        loop {
            items.push(self.value(depth + 1)?);
            self.space();
            if self.take(b']') {
                return Ok(Kind::Array(items));
            }
            if !self.take(b',') {
                return Err(self.fail("neither comma nor end of the array"));
            }
        }
    }

    fn digits(&mut self) -> Result<(), Malformed> {
        let start = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        if self.at == start {
            return Err(self.fail("no digit"));
        }
        Ok(())
    }

    fn number(&mut self) -> Result<Kind, Malformed> {
        let start = self.at;
        self.take(b'-');
        if !self.take(b'0') {
            self.digits()?;
        }
        if self.take(b'.') {
            self.digits()?;
        }
        if self.take(b'e') || self.take(b'E') {
            let _ = self.take(b'+') || self.take(b'-');
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'0'..=b'9')) {
            return Err(self.fail("a leading zero"));
        }
        let text = self.text.get(start..self.at).unwrap_or_default();
        Ok(Kind::Number(String::from_utf8_lossy(text).into_owned()))
    }

    fn string(&mut self) -> Result<String, Malformed> {
        let mut bytes = Vec::new();
        self.at += 1;
        loop {
            match self.peek() {
                None => return Err(self.fail("a string without end")),
                Some(b'"') => break,
                Some(b'\\') => {
                    let mut buffer = [0_u8; 4];
                    let character = self.escape()?;
                    bytes.extend_from_slice(character.encode_utf8(&mut buffer).as_bytes());
                }
                Some(control) if control < b' ' => {
                    return Err(self.fail("a control character in a string"));
                }
                Some(byte) => {
                    bytes.push(byte);
                    self.at += 1;
                }
            }
        }
        let text = String::from_utf8(bytes).map_err(|_| self.fail("not UTF-8"))?;
        self.at += 1;
        Ok(text)
    }

    fn escape(&mut self) -> Result<char, Malformed> {
        self.at += 1;
        let escaped = self.peek().ok_or(self.fail("a string without end"))?;
        self.at += 1;
        Ok(match escaped {
            b'"' => '"',
            b'\\' => '\\',
            b'/' => '/',
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => return self.unicode(),
            _ => return Err(self.fail("an unknown escape")),
        })
    }

    /// Behind `\u`: four digits, and as many again for the second half of a pair.
    fn unicode(&mut self) -> Result<char, Malformed> {
        let first = self.four()?;
        if !(0xd800..0xdc00).contains(&first) {
            return char::from_u32(first).ok_or(self.fail("half a character"));
        }
        if !(self.take(b'\\') && self.take(b'u')) {
            return Err(self.fail("half a character"));
        }
        let second = self.four()?;
        if !(0xdc00..0xe000).contains(&second) {
            return Err(self.fail("half a character"));
        }
        let code = 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00);
        char::from_u32(code).ok_or(self.fail("half a character"))
    }

    fn four(&mut self) -> Result<u32, Malformed> {
        let mut code = 0;
        for _ in 0..4 {
            let digit = self.peek().and_then(|byte| char::from(byte).to_digit(16));
            code = code << 4 | digit.ok_or(self.fail("no hexadecimal digit"))?;
            self.at += 1;
        }
        Ok(code)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Every place of a tree lies within the place around it.
    fn is_nested(node: &Node, around: &Range<usize>) -> bool {
        let within = around.start <= node.place.start && node.place.end <= around.end;
        within
            && match &node.kind {
                Kind::Array(items) => items.iter().all(|item| is_nested(item, &node.place)),
                Kind::Object(members) => members
                    .iter()
                    .all(|member| is_nested(&member.value, &node.place)),
                _ => true,
            }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_tree_or_malformed(bytes in prop::collection::vec(any::<u8>(), 0..96)) {
            match parse(&bytes) {
                Ok(node) => prop_assert!(is_nested(&node, &(0..bytes.len()))),
                Err(malformed) => prop_assert!(malformed.at <= bytes.len()),
            }
        }

        #[test]
        fn what_is_taken_is_json_for_others_too(text in r#"[\[\]{}",:0-9a-ftrulns\\.eE+ -]{0,48}"#) {
            if parse(text.as_bytes()).is_ok() {
                prop_assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok(), "{}", text);
            }
        }

        #[test]
        fn a_text_is_read_as_it_was_quoted(text in any::<String>()) {
            let quoted = quote(&text);
            prop_assert_eq!(parse(quoted.as_bytes()).unwrap().kind, Kind::Text(text.clone()));
            let read: String = serde_json::from_str(&quoted).unwrap();
            prop_assert_eq!(read, text);
        }

        #[test]
        fn nesting_has_its_limit(depth in 0_usize..200) {
            let text = format!("{}{}", "[".repeat(depth + 1), "]".repeat(depth + 1));
            prop_assert_eq!(parse(text.as_bytes()).is_ok(), depth <= MAX_DEPTH);
        }

        #[test]
        fn any_places_are_replaced_without_panic(
            text in prop::collection::vec(any::<u8>(), 0..32),
            places in prop::collection::vec((0_usize..40, 0_usize..40), 0..4),
        ) {
            let changes: Vec<_> = places.iter().map(|(one, other)| (*one..*other, "x".to_owned())).collect();
            let changed = replace(&text, changes);
            prop_assert!(changed.len() <= text.len() * (places.len() + 1) + places.len());
        }
    }

    #[test]
    fn values_know_their_places() {
        let text = br#" {"a": [1.10, "x\u00e9\ud83d\ude00\n"], "b": null} "#;
        let node = parse(text).unwrap();
        let list = &node.member("a").unwrap().value;
        let Kind::Array(items) = &list.kind else {
            panic!("an array")
        };
        assert_eq!(items[0].kind, Kind::Number("1.10".to_owned()));
        assert_eq!(items[1].kind, Kind::Text("xé😀\n".to_owned()));
        assert_eq!(&text[items[0].place.clone()], b"1.10");
        assert_eq!(node.member("b").unwrap().value.kind, Kind::Null);
        let changed = replace(text, vec![(items[0].place.clone(), "2".to_owned())]);
        assert!(changed.starts_with(br#" {"a": [2, "x\u00e9"#));
    }

    #[test]
    fn what_is_no_json_is_refused() {
        for text in [
            "",
            " ",
            "{",
            "[1,]",
            "{\"a\":1,}",
            "01",
            "1.",
            "1e",
            "-",
            "+1",
            ".5",
            "tru",
            "nul",
            "\"a",
            "\"\\x\"",
            "\"\\u12\"",
            "\"\\ud800\"",
            "\"\\ud800\\u0041\"",
            "\"\\udc00\"",
            "\"\n\"",
            "[1] 2",
            "{\"a\" 1}",
            "{a:1}",
            "{\"a\":1,\"a\":2}",
            "{\"a\":1,\"\\u0061\":2}",
            "[1 2]",
            "NaN",
        ] {
            assert!(parse(text.as_bytes()).is_err(), "{text}");
        }
        assert!(parse(b"\"\xff\"").is_err());
    }

    #[test]
    fn nesting_has_a_limit() {
        let nested = |depth: usize| format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
        assert!(parse(nested(MAX_DEPTH).as_bytes()).is_ok());
        assert_eq!(
            parse(nested(MAX_DEPTH + 1).as_bytes()).unwrap_err().why,
            "nested too deeply"
        );
        assert!(parse("[".repeat(100_000).as_bytes()).is_err());
    }

    #[test]
    fn quoting_and_reading_are_inverse() {
        for text in ["", "a\"b\\c", "\u{1}\n\r\t", "é😀", "</script>"] {
            let node = parse(quote(text).as_bytes()).unwrap();
            assert_eq!(node.kind, Kind::Text(text.to_owned()));
        }
    }
}
