//! Personal data in a text: what is checked by a sum (cards, IBANs) is found without false alarms, the rest by its form.

use std::ops::Range;

use serde::Deserialize;

/// A kind of personal data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// 13 to 19 digits with a Luhn sum, single spaces or hyphens between them.
    Card,
    /// ISO 13616, with its sum modulo 97.
    Iban,
    Email,
    /// E.164 with its plus, 8 to 15 digits, with the usual separators.
    Phone,
    /// `123-45-6789`, of the ranges that are given out.
    UsSsn,
}

impl Kind {
    pub const ALL: [Self; 5] = [
        Self::Iban,
        Self::Card,
        Self::UsSsn,
        Self::Phone,
        Self::Email,
    ];

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Card => "card",
            Self::Iban => "iban",
            Self::Email => "email",
            Self::Phone => "phone",
            Self::UsSsn => "us-ssn",
        }
    }
}

/// Places of personal data, in their order, none in another.
#[must_use]
pub fn find(text: &str, kinds: &[Kind]) -> Vec<(Range<usize>, Kind)> {
    let mut found: Vec<(Range<usize>, Kind)> = Vec::new();
    // The surest kind first: what it has found is no other's.
    for kind in Kind::ALL.iter().filter(|kind| kinds.contains(kind)) {
        let places = match kind {
            Kind::Card => digits(text, |at| card(text, at)),
            Kind::UsSsn => digits(text, |at| ssn(text, at)),
            Kind::Iban => starts(text, |at| iban(text, at)),
            Kind::Phone => starts(text, |at| phone(text, at)),
            Kind::Email => emails(text),
        };
        found = merge(found, places, *kind);
    }
    found
}

/// Both are in their order; of two that overlap, the one found earlier stays. Linear: an answer may hold as many as it has room for.
fn merge(
    found: Vec<(Range<usize>, Kind)>,
    places: Vec<Range<usize>>,
    kind: Kind,
) -> Vec<(Range<usize>, Kind)> {
    let mut merged = Vec::with_capacity(found.len() + places.len());
    let mut found = found.into_iter().peekable();
    for place in places {
        while let Some(before) = found.next_if(|(other, _)| other.end <= place.start) {
            merged.push(before);
        }
        if found
            .peek()
            .is_none_or(|(other, _)| place.end <= other.start)
        {
            merged.push((place, kind));
        }
    }
    merged.extend(found);
    merged
}

fn byte(text: &str, at: usize) -> Option<u8> {
    text.as_bytes().get(at).copied()
}

fn is_word(byte: Option<u8>) -> bool {
    byte.is_some_and(|byte| byte.is_ascii_alphanumeric())
}

/// Tries every position that no word runs into; behind what was found the search goes on.
fn starts(text: &str, try_at: impl Fn(usize) -> Option<usize>) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < text.len() {
        let inside = at > 0 && is_word(byte(text, at - 1));
        match (!inside).then(|| try_at(at)).flatten() {
            Some(end) => {
                found.push(at..end);
                at = end;
            }
            None => at += 1,
        }
    }
    found
}

/// The same, where a number may also be stuck to letters.
fn digits(text: &str, try_at: impl Fn(usize) -> Option<usize>) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut at = 0;
    let is_digit = |at: usize| byte(text, at).is_some_and(|byte| byte.is_ascii_digit());
    while at < text.len() {
        let first = is_digit(at) && !(at > 0 && is_digit(at - 1));
        match first.then(|| try_at(at)).flatten() {
            Some(end) => {
                found.push(at..end);
                at = end;
            }
            None => at += 1,
        }
    }
    found
}

fn card(text: &str, start: usize) -> Option<usize> {
    let mut numbers = Vec::new();
    let mut at = start;
    loop {
        match byte(text, at) {
            Some(digit @ b'0'..=b'9') => numbers.push((digit - b'0', at + 1)),
            Some(b' ' | b'-') if byte(text, at + 1).is_some_and(|next| next.is_ascii_digit()) => {}
            _ => break,
        }
        at += 1;
        // More than a card has: digits behind it make it another number, unless a separator stands before them.
        if numbers.len() > 19 {
            break;
        }
    }
    // Major industries 2 to 6 are those of payment cards.
    if !matches!(numbers.first(), Some((2..=6, _))) {
        return None;
    }
    (13..=19.min(numbers.len())).rev().find_map(|count| {
        let (_, end) = *numbers.get(count - 1)?;
        let ends = byte(text, end).is_none_or(|next| !next.is_ascii_digit());
        let luhn = numbers.iter().take(count).rev().enumerate();
        let sum: u32 = luhn
            .map(|(index, (digit, _))| match (index % 2, u32::from(*digit)) {
                (0, digit) => digit,
                (_, digit) if digit > 4 => digit * 2 - 9,
                (_, digit) => digit * 2,
            })
            .sum();
        (ends && sum.is_multiple_of(10)).then_some(end)
    })
}

fn ssn(text: &str, start: usize) -> Option<usize> {
    let candidate = text.get(start..start + 11)?;
    let fits = candidate
        .bytes()
        .enumerate()
        .all(|(index, byte)| match index {
            3 | 6 => byte == b'-',
            _ => byte.is_ascii_digit(),
        });
    let end = start + 11;
    let follows = byte(text, end);
    let alone = !is_word(follows) && follows != Some(b'-');
    let parts = (
        candidate.get(0..3)?,
        candidate.get(4..6)?,
        candidate.get(7..11)?,
    );
    let given = !matches!(parts.0, "000" | "666")
        && !parts.0.starts_with('9')
        && parts.1 != "00"
        && parts.2 != "0000";
    (fits && alone && given).then_some(end)
}

/// The longest IBAN (ISO 13616), in letters and digits.
const LONGEST_IBAN: usize = 34;

fn iban(text: &str, start: usize) -> Option<usize> {
    // Arrays, and an end at the first letter that does not fit: this is tried at every word of a body.
    let (mut compact, mut ends) = ([0_u8; LONGEST_IBAN], [0_usize; LONGEST_IBAN]);
    let (mut count, mut at) = (0, start);
    while count < LONGEST_IBAN {
        match byte(text, at) {
            Some(letter) if letter.is_ascii_alphanumeric() => {
                let fits = match count {
                    0 | 1 => letter.is_ascii_alphabetic(),
                    2 | 3 => letter.is_ascii_digit(),
                    _ => true,
                };
                if !fits {
                    return None;
                }
                *compact.get_mut(count)? = letter.to_ascii_uppercase();
                *ends.get_mut(count)? = at + 1;
                count += 1;
            }
            Some(b' ') if is_word(byte(text, at + 1)) => {}
            _ => break,
        }
        at += 1;
    }
    // The longest that has the sum, as a word may follow behind a space.
    (15..=count).rev().find_map(|length| {
        let end = *ends.get(length - 1)?;
        let whole = !is_word(byte(text, end));
        (whole && modulo_97(compact.get(..length)?) == 1).then_some(end)
    })
}

fn modulo_97(iban: &[u8]) -> u32 {
    let (front, rest) = iban.split_at(4.min(iban.len()));
    rest.iter().chain(front).fold(0, |sum, byte| {
        if byte.is_ascii_digit() {
            (sum * 10 + u32::from(byte - b'0')) % 97
        } else {
            (sum * 100 + u32::from(byte - b'A') + 10) % 97
        }
    })
}

fn phone(text: &str, start: usize) -> Option<usize> {
    if byte(text, start)? != b'+' {
        return None;
    }
    let (mut at, mut count, mut end) = (start + 1, 0, start);
    while let Some(next) = byte(text, at) {
        match next {
            b'0' if count == 0 => return None,
            b'0'..=b'9' => {
                count += 1;
                end = at + 1;
            }
            b' ' | b'-' | b'.' | b'/' | b'(' | b')' if count > 0 && at - end < 2 => {}
            _ => break,
        }
        at += 1;
    }
    let whole = !is_word(byte(text, end));
    (whole && (8..=15).contains(&count)).then_some(end)
}

fn emails(text: &str) -> Vec<Range<usize>> {
    let bytes = text.as_bytes();
    let local = |byte: &u8| byte.is_ascii_alphanumeric() || b".!#$%&'*+/=?^_`{|}~-".contains(byte);
    let domain = |byte: &u8| byte.is_ascii_alphanumeric() || b".-".contains(byte);
    let mut found: Vec<Range<usize>> = Vec::new();
    for (at, _) in text.match_indices('@') {
        let floor = found.last().map_or(0, |place| place.end);
        let before = bytes.get(floor..at).unwrap_or_default();
        let length = before
            .iter()
            .rev()
            .take(64)
            .take_while(|byte| local(byte))
            .count();
        let behind = bytes.get(at + 1..).unwrap_or_default();
        let mut end = at
            + 1
            + behind
                .iter()
                .take(255)
                .take_while(|byte| domain(byte))
                .count();
        while end > at && matches!(byte(text, end - 1), Some(b'.' | b'-')) {
            end -= 1;
        }
        let host = text.get(at + 1..end).unwrap_or_default();
        let top = host.rsplit_once('.').map(|(_, top)| top);
        let top = top
            .is_some_and(|top| top.len() > 1 && top.bytes().any(|byte| byte.is_ascii_alphabetic()));
        if length > 0 && top && !host.starts_with('.') && !host.contains("..") {
            found.push(at - length..end);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_that_overlap_the_surer_stays() {
        let found = vec![(2..4, Kind::Card), (8..9, Kind::Iban)];
        let places = vec![0..1, 1..3, 4..8, 8..12, 12..13];
        let expected = [
            (0..1, Kind::Email),
            (2..4, Kind::Card),
            (4..8, Kind::Email),
            (8..9, Kind::Iban),
            (12..13, Kind::Email),
        ];
        assert_eq!(merge(found, places, Kind::Email), expected);
    }

    fn seen(text: &str) -> Vec<(&str, &str)> {
        let found = find(text, &Kind::ALL);
        found
            .into_iter()
            .map(|(place, kind)| (kind.name(), &text[place]))
            .collect()
    }

    #[test]
    fn cards_are_found_by_their_sum() {
        assert_eq!(
            seen("pay 4111 1111 1111 1111 now"),
            [("card", "4111 1111 1111 1111")]
        );
        assert_eq!(seen("x4111111111111111y"), [("card", "4111111111111111")]);
        assert_eq!(seen("3782-822463-10005."), [("card", "3782-822463-10005")]);
        assert_eq!(seen("5500005555555559,6011000990139424").len(), 2);
        for text in [
            "4111 1111 1111 1112",
            "41111111111111110000000",
            "1111111111111117",
            "411111111111",
        ] {
            assert_eq!(seen(text), [], "{text}");
        }
    }

    #[test]
    fn ibans_are_found_by_their_sum() {
        assert_eq!(
            seen("to DE89 3704 0044 0532 0130 00 please"),
            [("iban", "DE89 3704 0044 0532 0130 00")]
        );
        assert_eq!(
            seen("gb82west12345698765432"),
            [("iban", "gb82west12345698765432")]
        );
        assert_eq!(seen("DE88370400440532013000"), []);
    }

    #[test]
    fn addresses_and_numbers_are_found_by_their_form() {
        assert_eq!(
            seen("Jo <jo.b+x@mail.example.org>."),
            [("email", "jo.b+x@mail.example.org")]
        );
        assert_eq!(
            seen("a@b.de,c@d.de"),
            [("email", "a@b.de"), ("email", "c@d.de")]
        );
        assert_eq!(
            seen("call +49 (170) 123-4567!"),
            [("phone", "+49 (170) 123-4567")]
        );
        assert_eq!(seen("ssn 123-45-6789"), [("us-ssn", "123-45-6789")]);
        for text in [
            "@",
            "a@",
            "@b.de",
            "a@b",
            "a@1.2",
            "+12",
            "+1234567890123456",
            "1+49170123456x",
            "000-12-3456",
            "123-45-67890",
        ] {
            assert_eq!(seen(text), [], "{text}");
        }
    }

    #[test]
    fn texts_that_are_no_ascii_have_no_odd_places() {
        assert_eq!(
            seen("ü4111111111111111ü jö@bü.de ä@b.de"),
            [("card", "4111111111111111")]
        );
        assert_eq!(seen("日本+81312345678日本"), [("phone", "+81312345678")]);
    }

    #[test]
    fn only_the_kinds_that_are_asked_for_are_found() {
        assert_eq!(find("a@b.de 4111111111111111", &[Kind::Email]).len(), 1);
    }
}
