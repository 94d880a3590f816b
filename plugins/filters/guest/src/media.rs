//! Media types and content codings of bodies that filters look into.

/// What a body is, as far as filters know bodies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Media {
    Json,
    Form,
    Text,
    Other,
}

impl Media {
    /// From a `content-type` header.
    #[must_use]
    pub fn of(content_type: &str) -> Self {
        let essence = essence(content_type);
        match essence.as_str() {
            "application/json" => Self::Json,
            "application/x-www-form-urlencoded" => Self::Form,
            "application/xml" | "application/javascript" | "application/graphql" => Self::Text,
            other if other.ends_with("+json") => Self::Json,
            other if other.starts_with("text/") || other.ends_with("+xml") => Self::Text,
            _ => Self::Other,
        }
    }
}

/// Type and subtype in lower case, without parameters.
#[must_use]
pub fn essence(content_type: &str) -> String {
    let essence = content_type.split(';').next().unwrap_or_default();
    essence.trim().to_ascii_lowercase()
}

/// True when a `content-encoding` leaves the bytes as they are.
#[must_use]
pub fn is_plain(content_encoding: Option<&str>) -> bool {
    content_encoding.is_none_or(|coding| {
        let coding = coding.trim();
        coding.is_empty() || coding.eq_ignore_ascii_case("identity")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn media_types_are_known_with_parameters_and_suffixes() {
        assert_eq!(Media::of("Application/JSON; charset=utf-8"), Media::Json);
        assert_eq!(Media::of("application/problem+json"), Media::Json);
        assert_eq!(Media::of("application/x-www-form-urlencoded"), Media::Form);
        assert_eq!(Media::of("text/html"), Media::Text);
        assert_eq!(Media::of("image/png"), Media::Other);
        assert_eq!(Media::of(""), Media::Other);
    }

    #[test]
    fn only_identity_is_plain() {
        assert!(is_plain(None) && is_plain(Some("identity")) && is_plain(Some("")));
        assert!(!is_plain(Some("gzip")) && !is_plain(Some("identity, br")));
    }
}
