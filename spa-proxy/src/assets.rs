//! The built web bundle, read into memory once at start.
//!
//! Owns: media types, caching and the choice of the compressed variant. A request names a key of a
//! table, never a file, so there is no path to escape from.
//! Must not: read the disk while serving.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
};

use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};

use crate::random;

/// Most bytes that a bundle may have in memory, all variants together.
const MAX_BUNDLE: usize = 32 * 1024 * 1024;
/// Names carry a hash of the content: what is behind one never changes (RFC 8246 §2).
const IMMUTABLE: HeaderValue = HeaderValue::from_static("public, max-age=31536000, immutable");
/// The page may be kept, but asks each time whether it is still the newest.
const REVALIDATE: HeaderValue = HeaderValue::from_static("no-cache");

const FIX: &str =
    "\n  fix: build it with `npm ci && npm run build` in spa-proxy/web, or correct `assets`";

#[derive(Debug, thiserror::Error)]
pub(crate) enum AssetError {
    #[error("cannot read the web bundle at {}: {source}{FIX}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("there is no index.html in {}{FIX}", .0.display())]
    NoIndex(PathBuf),
    #[error("the web bundle in {} is larger than 32 MiB{FIX}", .0.display())]
    TooLarge(PathBuf),
}

struct Asset {
    content_type: HeaderValue,
    cache: HeaderValue,
    etag: HeaderValue,
    identity: Bytes,
    /// `Content-Encoding` and bytes, best first.
    encoded: Vec<(HeaderValue, Bytes)>,
}

/// All files of the bundle by their URL path.
pub(crate) struct Assets {
    by_path: HashMap<String, Asset>,
}

impl Assets {
    /// Reads `directory` (`index.html` and `assets/*`).
    pub(crate) fn load(directory: &Path) -> Result<Self, AssetError> {
        let mut files = HashMap::new();
        read_into(&mut files, directory, "")?;
        read_into(&mut files, &directory.join("assets"), "/assets")?;
        if files.values().map(Bytes::len).sum::<usize>() > MAX_BUNDLE {
            return Err(AssetError::TooLarge(directory.to_owned()));
        }
        if !files.contains_key("/index.html") {
            return Err(AssetError::NoIndex(directory.to_owned()));
        }
        let plain = files.keys().filter(|path| !is_variant(path));
        let by_path = plain
            .map(|path| (path.clone(), asset(path, &files)))
            .collect();
        Ok(Self { by_path })
    }

    /// The page of the application.
    pub(crate) fn index(&self, headers: &HeaderMap) -> Response {
        self.get("/index.html", headers)
    }

    /// The file at a URL path, or 404.
    pub(crate) fn get(&self, path: &str, headers: &HeaderMap) -> Response {
        match self.by_path.get(path) {
            Some(asset) => answer(asset, headers),
            None => crate::error::Error::NotFound.into_response(),
        }
    }
}

fn read_into(
    files: &mut HashMap<String, Bytes>,
    directory: &Path,
    prefix: &str,
) -> Result<(), AssetError> {
    let failed = |source| AssetError::Read {
        path: directory.to_owned(),
        source,
    };
    for entry in fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if !entry.file_type().map_err(failed)?.is_file() {
            continue;
        }
        if let Some(name) = entry.file_name().to_str() {
            let bytes = fs::read(entry.path()).map_err(failed)?;
            files.insert(format!("{prefix}/{name}"), bytes.into());
        }
    }
    Ok(())
}

fn is_variant(path: &str) -> bool {
    path.ends_with(".br") || path.ends_with(".gz")
}

fn asset(path: &str, files: &HashMap<String, Bytes>) -> Asset {
    let identity = files.get(path).cloned().unwrap_or_default();
    let variant = |suffix: &str, name: &'static str| {
        let bytes = files.get(&format!("{path}{suffix}"))?;
        Some((HeaderValue::from_static(name), bytes.clone()))
    };
    let etag = format!("\"{}\"", random::sha256_of(&identity));
    Asset {
        content_type: HeaderValue::from_static(content_type(path)),
        cache: if path.starts_with("/assets/") {
            IMMUTABLE
        } else {
            REVALIDATE
        },
        etag: HeaderValue::from_str(&etag).expect("base64url is a valid header value"),
        identity,
        encoded: [variant(".br", "br"), variant(".gz", "gzip")]
            .into_iter()
            .flatten()
            .collect(),
    }
}

fn content_type(path: &str) -> &'static str {
    match path.rsplit_once('.').map(|(_, extension)| extension) {
        Some("html") => "text/html; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        Some("json") => "application/json",
        _ => "application/octet-stream",
    }
}

fn answer(asset: &Asset, headers: &HeaderMap) -> Response {
    let known = headers.get(header::IF_NONE_MATCH);
    let mut response = if known == Some(&asset.etag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        let accepted = headers
            .get(header::ACCEPT_ENCODING)
            .and_then(|field| field.to_str().ok())
            .unwrap_or("");
        body(asset, accepted)
    };
    let fields = response.headers_mut();
    fields.insert(header::CACHE_CONTROL, asset.cache.clone());
    fields.insert(header::ETAG, asset.etag.clone());
    fields.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    response
}

fn body(asset: &Asset, accepted: &str) -> Response {
    let variant = asset
        .encoded
        .iter()
        .find(|(name, _)| accepts(accepted, name));
    let bytes = variant.map_or(&asset.identity, |(_, bytes)| bytes);
    let mut response = bytes.clone().into_response();
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, asset.content_type.clone());
    if let Some((name, _)) = variant {
        response
            .headers_mut()
            .insert(header::CONTENT_ENCODING, name.clone());
    }
    response
}

/// Whether an `Accept-Encoding` field names `encoding` with a weight above zero (RFC 9110 §12.5.3).
fn accepts(field: &str, encoding: &HeaderValue) -> bool {
    field.split(',').any(|item| {
        let (name, weight) = item.split_once(';').unwrap_or((item, "q=1"));
        let weight = weight.trim().strip_prefix("q=").unwrap_or("1");
        name.trim() == encoding && !weight.trim_matches(['0', '.']).is_empty()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bundle() -> (tempfile::TempDir, Assets) {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("assets")).unwrap();
        fs::write(directory.path().join("index.html"), "<!doctype html>").unwrap();
        fs::write(directory.path().join("assets/app-1.js"), "let a = 1").unwrap();
        fs::write(directory.path().join("assets/app-1.js.br"), "BR").unwrap();
        let assets = Assets::load(directory.path()).unwrap();
        (directory, assets)
    }

    #[test]
    fn hashed_files_are_kept_for_ever_and_the_page_is_not() {
        let (_directory, assets) = bundle();
        let script = assets.get("/assets/app-1.js", &HeaderMap::new());
        assert_eq!(script.status(), StatusCode::OK);
        assert_eq!(script.headers()[header::CACHE_CONTROL], IMMUTABLE);
        assert_eq!(
            script.headers()[header::CONTENT_TYPE],
            "text/javascript; charset=utf-8"
        );
        assert_eq!(
            assets.index(&HeaderMap::new()).headers()[header::CACHE_CONTROL],
            REVALIDATE
        );
    }

    #[test]
    fn the_compressed_variant_is_chosen_only_where_it_is_accepted() {
        let (_directory, assets) = bundle();
        let with = |accept: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static(accept));
            let encoding = assets.get("/assets/app-1.js", &headers);
            encoding.headers().get(header::CONTENT_ENCODING).cloned()
        };
        assert_eq!(with("gzip, deflate, br").unwrap(), "br");
        assert_eq!(with("gzip"), None);
        assert_eq!(with("br;q=0"), None);
    }

    #[test]
    fn a_known_etag_is_not_sent_again() {
        let (_directory, assets) = bundle();
        let etag = assets.index(&HeaderMap::new()).headers()[header::ETAG].clone();
        let headers = HeaderMap::from_iter([(header::IF_NONE_MATCH, etag)]);
        assert_eq!(assets.index(&headers).status(), StatusCode::NOT_MODIFIED);
    }

    #[test]
    fn nothing_outside_the_table_is_served() {
        let (directory, assets) = bundle();
        fs::write(directory.path().join("assets/late.js"), "").unwrap();
        for path in [
            "/assets/late.js",
            "/assets/../index.html",
            "/assets/%2e%2e/index.html",
            "/assets/app-1.js.br",
            "/etc/passwd",
            "//assets/app-1.js",
            "",
        ] {
            let status = assets.get(path, &HeaderMap::new()).status();
            assert_eq!(status, StatusCode::NOT_FOUND, "{path}");
        }
    }

    #[test]
    fn a_directory_without_a_bundle_is_refused_with_the_fix() {
        let empty = tempfile::tempdir().unwrap();
        fs::create_dir(empty.path().join("assets")).unwrap();
        for path in [empty.path(), Path::new("/nonexistent")] {
            let error = Assets::load(path).map(|_| ()).unwrap_err().to_string();
            assert!(error.contains("npm ci && npm run build"), "{error}");
        }
    }
}
