//! Request targets (RFC 9112 section 3.2.1): the path and the query as an upstream will understand them.

/// An origin-form target, cut at its query. A fragment, which no client sends, is cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target<'a> {
    pub path: &'a [u8],
    pub query: Option<&'a [u8]>,
}

impl<'a> Target<'a> {
    #[must_use]
    pub fn new(target: &'a [u8]) -> Self {
        let target = before(target, b'#').0;
        let (path, query) = before(target, b'?');
        Self { path, query }
    }

    /// The parameters of the query, decoded, in their order.
    pub fn parameters(&self) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> + use<'a> {
        parameters(self.query.unwrap_or_default())
    }
}

/// The name-value pairs of a query or of a form body (`application/x-www-form-urlencoded`), decoded.
pub fn parameters(encoded: &[u8]) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> + use<'_> {
    let pairs = encoded.split(|byte| *byte == b'&');
    pairs.filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = before(pair, b'=');
        (decode_form(name), decode_form(value.unwrap_or_default()))
    })
}

/// What stands before the first such byte, and what behind it.
fn before(bytes: &[u8], separator: u8) -> (&[u8], Option<&[u8]>) {
    let mut parts = bytes.splitn(2, |byte| *byte == separator);
    (parts.next().unwrap_or_default(), parts.next())
}

/// Percent-decoding as servers do it: a `%` without two hexadecimal digits stays as it is.
#[must_use]
pub fn decode(bytes: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((first, behind)) = rest.split_first() {
        rest = behind;
        let digits = behind.first_chunk::<2>().filter(|_| *first == b'%');
        match digits.and_then(|[high, low]| Some(hex(*high)? << 4 | hex(*low)?)) {
            Some(byte) => {
                decoded.push(byte);
                rest = behind.get(2..).unwrap_or_default();
            }
            None => decoded.push(*first),
        }
    }
    decoded
}

/// The same with `+` as a space.
#[must_use]
pub fn decode_form(bytes: &[u8]) -> Vec<u8> {
    let spaced: Vec<u8> = bytes
        .iter()
        .map(|byte| if *byte == b'+' { b' ' } else { *byte })
        .collect();
    decode(&spaced)
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit)
        .to_digit(16)
        .and_then(|value| u8::try_from(value).ok())
}

/// Why a path is not one that can be normalised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathError {
    /// It does not start with `/`.
    NotAbsolute,
    /// A `%` without two hexadecimal digits, or one that hides `/`, `\`, `%` or a control character: servers differ in
    /// what they make of it.
    Encoding,
    /// It has a character that no path has.
    Character,
    /// Its `..` lead above the root.
    AboveRoot,
}

/// The one form of a path: percent-encoded unreserved characters decoded, other encodings in upper case, `//` merged,
/// `.` and `..` resolved (RFC 3986 section 6.2.2).
///
/// # Errors
/// Where servers would not agree on what the path means.
pub fn normalise(path: &[u8]) -> Result<String, PathError> {
    if path.first() != Some(&b'/') {
        return Err(PathError::NotAbsolute);
    }
    let decoded = decode_unreserved(path)?;
    let mut segments: Vec<&str> = Vec::new();
    let trailing = decoded.ends_with('/') || decoded.ends_with("/.") || decoded.ends_with("/..");
    for segment in decoded.split('/') {
        match segment {
            "" | "." => {}
            ".." => {
                segments.pop().ok_or(PathError::AboveRoot)?;
            }
            _ => segments.push(segment),
        }
    }
    let mut normal = String::with_capacity(decoded.len());
    for segment in &segments {
        normal.push('/');
        normal.push_str(segment);
    }
    if segments.is_empty() || trailing {
        normal.push('/');
    }
    Ok(normal)
}

fn decode_unreserved(path: &[u8]) -> Result<String, PathError> {
    let mut text = String::with_capacity(path.len());
    let mut rest = path.iter();
    while let Some(byte) = rest.next() {
        match *byte {
            b'%' => {
                let high = rest.next().copied().and_then(hex);
                let low = rest.next().copied().and_then(hex);
                let (Some(high), Some(low)) = (high, low) else {
                    return Err(PathError::Encoding);
                };
                let value = high << 4 | low;
                if value < b' ' || matches!(value, b'/' | b'\\' | b'%' | 0x7f) {
                    return Err(PathError::Encoding);
                }
                if value.is_ascii_alphanumeric() || b"-._~".contains(&value) {
                    text.push(char::from(value));
                } else {
                    text.push_str(&format!("%{value:02X}"));
                }
            }
            // Some servers take it for a slash.
            b'\\' => return Err(PathError::Character),
            plain if plain.is_ascii_graphic() => text.push(char::from(plain)),
            _ => return Err(PathError::Character),
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_path_has_one_form_or_none(path in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = normalise(&path);
            prop_assert!(decode(&path).len() <= path.len());
        }

        #[test]
        fn the_one_form_is_its_own_and_leads_nowhere_else(path in "/([a-c./%~;]|%2[eEfF0]|%[45][0-9a-f]){0,24}") {
            if let Ok(normal) = normalise(path.as_bytes()) {
                let again = normalise(normal.as_bytes());
                prop_assert_eq!(again.as_ref(), Ok(&normal));
                prop_assert!(normal.starts_with('/') && !normal.contains("//"), "{}", normal);
                let mut segments = normal.split('/');
                prop_assert!(segments.all(|segment| segment != "." && segment != ".."), "{}", normal);
                prop_assert!(normal.len() <= path.len() + 1);
            }
        }

        #[test]
        fn parameters_are_no_longer_than_their_query(target in prop::collection::vec(any::<u8>(), 0..96)) {
            let sizes = Target::new(&target).parameters().map(|(name, value)| name.len() + value.len());
            prop_assert!(sizes.sum::<usize>() <= target.len());
        }
    }

    #[test]
    fn a_target_is_cut_at_its_query() {
        let target = Target::new(b"/a/b?x=1&y=%41+b&flag&=v#f");
        assert_eq!(target.path, b"/a/b");
        let found: Vec<_> = target.parameters().collect();
        let pairs: [(&[u8], &[u8]); 4] =
            [(b"x", b"1"), (b"y", b"A b"), (b"flag", b""), (b"", b"v")];
        let pairs = pairs.map(|(name, value)| (name.to_vec(), value.to_vec()));
        assert_eq!(found, pairs);
        assert_eq!(Target::new(b"/").query, None);
        assert_eq!(Target::new(b"/?").query, Some(&b""[..]));
    }

    #[test]
    fn decoding_leaves_what_is_no_encoding() {
        assert_eq!(decode(b"%41%zz%4"), b"A%zz%4");
        assert_eq!(decode(b"%2541"), b"%41");
        assert_eq!(decode(b"%"), b"%");
        assert_eq!(decode_form(b"a+b%2B"), b"a b+");
    }

    #[test]
    fn paths_have_one_form() {
        for (path, normal) in [
            ("/", "/"),
            ("/a//b", "/a/b"),
            ("/a/./b/../c", "/a/c"),
            ("/a/b/..", "/a/"),
            ("/%61%2e/%7Eb", "/a./~b"),
            ("/a/%2e%2e/b", "/b"),
            ("/a%3ab", "/a%3Ab"),
            ("/a/", "/a/"),
        ] {
            assert_eq!(normalise(path.as_bytes()).as_deref(), Ok(normal), "{path}");
        }
    }

    #[test]
    fn paths_that_servers_read_differently_are_refused() {
        for (path, error) in [
            ("", PathError::NotAbsolute),
            ("a", PathError::NotAbsolute),
            ("/../etc", PathError::AboveRoot),
            ("/%2e%2e/etc", PathError::AboveRoot),
            ("/a%2fb", PathError::Encoding),
            ("/a%5cb", PathError::Encoding),
            ("/a%00", PathError::Encoding),
            ("/a%252e", PathError::Encoding),
            ("/a%2", PathError::Encoding),
            ("/a%zz", PathError::Encoding),
            ("/a\\b", PathError::Character),
            ("/a b", PathError::Character),
            ("/ä", PathError::Character),
        ] {
            assert_eq!(normalise(path.as_bytes()), Err(error), "{path}");
        }
    }
}
