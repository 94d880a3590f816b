//! Where a form came from: only this site's own pages may post to it.

use http::HeaderMap;
use http::header::ORIGIN;

use crate::error::Error;
use crate::server::Server;

/// Refuses a form whose `Origin` is not this server. A browser that sends none at least says by
/// Fetch Metadata that the request is same-origin.
pub(crate) fn check(server: &Server, headers: &HeaderMap) -> Result<(), Error> {
    let same = match headers.get(ORIGIN) {
        Some(origin) => origin.as_bytes() == server.settings.origin.as_bytes(),
        None => headers
            .get("sec-fetch-site")
            .is_some_and(|site| site == "same-origin"),
    };
    if same {
        Ok(())
    } else {
        Err(Error::FormRefused)
    }
}
