//! The search page for browsers: three files inside the program.

use axum::http::StatusCode;

use crate::error::Result;
use crate::http::{Call, Reply};

const HTML: &str = include_str!("../../assets/search.html");
const STYLE: &str = include_str!("../../assets/search.css");
const SCRIPT: &str = include_str!("../../assets/search.js");

/// The page may load its own files and ask its own server, nothing else.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
                      connect-src 'self'; img-src 'self' data:; base-uri 'none'; \
                      form-action 'none'; frame-ancestors 'none'";

pub(super) fn page() -> Reply {
    asset("text/html; charset=utf-8", HTML)
}

pub(super) async fn style(call: Call) -> Result<Reply> {
    call.params.allow(&[])?;
    Ok(asset("text/css; charset=utf-8", STYLE))
}

pub(super) async fn script(call: Call) -> Result<Reply> {
    call.params.allow(&[])?;
    Ok(asset("text/javascript; charset=utf-8", SCRIPT))
}

/// Browsers ask for an icon whatever the page says; there is none.
pub(super) async fn icon(call: Call) -> Result<Reply> {
    call.params.allow(&[])?;
    Ok(Reply::of_type(StatusCode::NO_CONTENT, "image/x-icon", ""))
}

fn asset(media_type: &'static str, text: &'static str) -> Reply {
    Reply::of_type(StatusCode::OK, media_type, text)
        .with("content-security-policy", POLICY)
        .with("x-content-type-options", "nosniff")
        .with("cache-control", "no-cache")
        .with("vary", "accept")
}
