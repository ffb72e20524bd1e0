//! A request, read whole within its limits.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, header};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;

use super::{Params, media};
use crate::app::App;
use crate::error::{Error, Kind, Result};

/// Room is made at once for bodies that say they are up to so long.
const EXPECTED_BODY_BYTES: usize = 4 << 20;

/// A request.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) params: Params,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// Held as long as the body is.
    _share: Share,
}

/// Bytes of all bodies in progress.
#[derive(Debug, Default)]
pub(crate) struct Bodies(AtomicUsize);

impl Bodies {
    /// How many there are now.
    pub(crate) fn bytes(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// One body's part of the bytes of all, given back when dropped.
#[derive(Debug)]
struct Share {
    bodies: Arc<Bodies>,
    bytes: usize,
}

impl Share {
    fn grow(&mut self, bytes: usize, limit: usize) -> Result<()> {
        let before = self.bodies.0.fetch_add(bytes, Ordering::Relaxed);
        self.bytes += bytes;
        if before.saturating_add(bytes) > limit {
            return Err(Error::new(
                Kind::Rejected,
                format!(
                    "rejected execution: bodies of requests in progress exceed \
                     [http.max_bodies_bytes] of [{limit}]"
                ),
            ));
        }
        Ok(())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.bodies.0.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl FromRequest<Arc<App>> for Call {
    type Rejection = Error;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self> {
        let (parts, body) = request.into_parts();
        let limits = &app.config.http;
        let declared = parts.headers.get(header::CONTENT_LENGTH);
        let declared = declared.and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
        if declared.is_some_and(|length| length > limits.max_body_bytes) {
            return Err(too_large(limits.max_body_bytes));
        }
        let mut share = Share { bodies: Arc::clone(&app.bodies), bytes: 0 };
        let mut body = body;
        let expected = declared.unwrap_or_default().min(EXPECTED_BODY_BYTES);
        let mut read = BytesMut::with_capacity(expected);
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| {
                Error::content(format!("cannot read the body: {error}")).with_source(error)
            })?;
            let Ok(data) = frame.into_data() else { continue };
            if read.len() + data.len() > limits.max_body_bytes {
                return Err(too_large(limits.max_body_bytes));
            }
            share.grow(data.len(), limits.max_bodies_bytes)?;
            read.extend_from_slice(&data);
        }
        let mut body = read.freeze();
        // Only now: who is refused earlier loses the connection with the unread body.
        let params = Params::read(parts.uri.path(), parts.uri.query().unwrap_or_default())?;
        if body.is_empty() {
            if let Some(source) = params.text("source") {
                body = Bytes::copy_from_slice(source.as_bytes());
            }
        } else {
            media::check_content_type(&parts.headers)?;
        }
        Ok(Self { params, headers: parts.headers, body, _share: share })
    }
}

fn too_large(limit: usize) -> Error {
    Error::new(
        Kind::TooLarge,
        format!("the body is larger than [http.max_body_bytes] of [{limit}] bytes"),
    )
}
