//! Who may have a token for which service: the access list that groups give to users (R54).

/// What a user is (roles) and may reach (audiences) at this moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) roles: Vec<String>,
    pub(crate) audiences: Vec<String>,
}

impl Standing {
    pub(crate) fn may_reach(&self, audience: &str) -> bool {
        self.audiences.iter().any(|a| a == audience)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r54_only_listed_audiences_are_reachable() {
        let standing = Standing {
            roles: vec![],
            audiences: vec!["payments".to_owned()],
        };
        assert!(standing.may_reach("payments"));
        assert!(!standing.may_reach("payments2"));
        assert!(!Standing::default().may_reach("payments"));
    }
}
