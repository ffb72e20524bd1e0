//! What every answer has in common: the product header, the media type that was asked for, and the
//! parameters `pretty`, `filter_path` and `error_trace`.

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http_body_util::{BodyExt, Limited};
use serde_json::Value;

use super::errors::Trace;
use super::filter_path::FilterPath;
use super::indent::indent;
use super::{Params, media};
use crate::error::Error;

/// Shapes the answer of the routes within.
pub(crate) async fn shape(request: Request, next: Next) -> Response {
    let mut response = match prepare(&request) {
        Ok(wishes) => {
            let response = next.run(request).await;
            match wishes.apply(response).await {
                Ok(response) => response,
                Err(error) => error.into_response(),
            }
        }
        Err(error) => {
            drain(request.into_body()).await;
            error.into_response()
        }
    };
    let product = HeaderValue::from_static("Elasticsearch");
    response.headers_mut().insert("x-elastic-product", product);
    response
}

/// Reads a body that nobody wants, unless it is long, so that the connection can go on.
pub(crate) async fn drain(body: Body) {
    const MOST: usize = 1 << 20;
    // Whatever is wrong with it, the answer is written already.
    let _ = Limited::new(body, MOST).collect().await;
}

/// What the request wishes of any answer.
struct Wishes {
    json_type: HeaderValue,
    pretty: bool,
    trace: bool,
    filter_path: FilterPath,
}

fn prepare(request: &Request) -> Result<Wishes, Error> {
    let uri = request.uri();
    let params = Params::read(uri.path(), uri.query().unwrap_or_default())?;
    let wanted = media::wanted(request.headers())?;
    match params.filled("format") {
        None | Some("json") => {}
        Some("text" | "txt") if uri.path().starts_with("/_cat") => {}
        Some(other) => {
            return Err(Error::argument(format!("format [{other}] is not supported, [json] is")));
        }
    }
    params.boolean("human")?;
    Ok(Wishes {
        json_type: wanted.json_type(),
        pretty: params.is_true("pretty")?,
        trace: params.is_true("error_trace")?,
        filter_path: FilterPath::read(&params)?,
    })
}

impl Wishes {
    async fn apply(self, response: Response) -> Result<Response, Error> {
        let json_type = HeaderValue::from_static("application/json");
        if response.headers().get(header::CONTENT_TYPE) != Some(&json_type) {
            return Ok(response);
        }
        let (mut parts, body) = response.into_parts();
        parts.headers.insert(header::CONTENT_TYPE, self.json_type.clone());
        let trace = parts.extensions.remove::<Trace>().filter(|_| self.trace);
        let filtered = !self.filter_path.is_everything() && parts.status.is_success();
        if !self.pretty && !filtered && trace.is_none() {
            return Ok(Response::from_parts(parts, body));
        }
        let failed = |error: &dyn std::fmt::Display| {
            Error::new(crate::error::Kind::Internal, format!("cannot shape the answer: {error}"))
        };
        let mut json = body.collect().await.map_err(|error| failed(&error))?.to_bytes();
        if json.is_empty() {
            return Ok(Response::from_parts(parts, Body::empty()));
        }
        parts.headers.remove(header::CONTENT_LENGTH);
        if filtered {
            json = self.filter_path.apply(&json).into();
        }
        if let Some(Trace(trace)) = trace {
            json = traced(&json, trace).map_err(|error| failed(&error))?.into();
        }
        if self.pretty {
            json = laid_out(&json).into();
        }
        Ok(Response::from_parts(parts, Body::from(json)))
    }
}

/// Says where an error comes from.
fn traced(json: &[u8], trace: String) -> serde_json::Result<Vec<u8>> {
    let mut value: Value = serde_json::from_slice(json)?;
    if let Some(Value::Object(error)) = value.get_mut("error") {
        error.insert("stack_trace".into(), trace.into());
    }
    serde_json::to_vec(&value)
}

/// JSON for people, with the line's end that a terminal wants.
fn laid_out(json: &[u8]) -> Vec<u8> {
    let mut text = indent(json);
    text.push(b'\n');
    text
}
