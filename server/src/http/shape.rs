//! What every answer has in common: the product header, the media type that was asked for, and the
//! parameters `pretty`, `filter_path` and `error_trace`.

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http_body_util::{BodyExt, Limited};
use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use super::errors::Trace;
use super::indent::indent;
use super::{Params, media};
use crate::error::Error;
use egret_engine::catalog::pattern::matches;

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

/// Whether a member of the answer may be left in it by `filter_path`: one that is not need not be
/// made.
pub(crate) fn may_show(params: &Params, member: &str) -> bool {
    let paths = params.list("filter_path");
    let mut include = paths.iter().filter(|path| !path.starts_with('-')).peekable();
    include.peek().is_none()
        || include.any(|path| {
            let first = path.split('.').next().unwrap_or_default();
            first == member || first.contains('*')
        })
}

/// What the request wishes of any answer.
struct Wishes {
    json_type: HeaderValue,
    pretty: bool,
    trace: bool,
    include: Vec<String>,
    exclude: Vec<String>,
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
    let (exclude, include): (Vec<String>, Vec<String>) =
        params.list("filter_path").into_iter().partition(|path| path.starts_with('-'));
    Ok(Wishes {
        json_type: wanted.json_type(),
        pretty: params.is_true("pretty")?,
        trace: params.is_true("error_trace")?,
        include,
        exclude: exclude.into_iter().map(|path| path[1..].to_owned()).collect(),
    })
}

impl Wishes {
    async fn apply(self, response: Response) -> Result<Response, Error> {
        let json = HeaderValue::from_static("application/json");
        if response.headers().get(header::CONTENT_TYPE) != Some(&json) {
            return Ok(response);
        }
        let (mut parts, body) = response.into_parts();
        parts.headers.insert(header::CONTENT_TYPE, self.json_type.clone());
        let trace = parts.extensions.remove::<Trace>().filter(|_| self.trace);
        let filtered = !self.include.is_empty() || !self.exclude.is_empty();
        if !self.pretty && !filtered && trace.is_none() {
            return Ok(Response::from_parts(parts, body));
        }
        let failed = |error: &dyn std::fmt::Display| {
            Error::new(crate::error::Kind::Internal, format!("cannot shape the answer: {error}"))
        };
        let bytes = body.collect().await.map_err(|error| failed(&error))?.to_bytes();
        if bytes.is_empty() {
            return Ok(Response::from_parts(parts, Body::empty()));
        }
        let filtered = filtered && parts.status.is_success();
        parts.headers.remove(header::CONTENT_LENGTH);
        if !filtered && trace.is_none() {
            // Never read into values, which would not keep the digits of numbers.
            let written =
                if self.pretty { Body::from(laid_out(&bytes)) } else { Body::from(bytes) };
            return Ok(Response::from_parts(parts, written));
        }
        let mut value = if filtered && self.exclude.is_empty() {
            // What is not wanted is never read into values: it may be most of the answer.
            self.included(&mut serde_json::Deserializer::from_slice(&bytes))
        } else {
            serde_json::from_slice(&bytes)
        }
        .map_err(|error| failed(&error))?;
        if let (Some(Trace(trace)), Some(Value::Object(error))) = (trace, value.get_mut("error")) {
            error.insert("stack_trace".into(), trace.into());
        }
        if filtered && !self.exclude.is_empty() {
            value = self.filter(value).map_err(|error| failed(&error))?;
        }
        let written = serde_json::to_vec(&value).map_err(|error| failed(&error))?;
        let written = if self.pretty { laid_out(&written) } else { written };
        Ok(Response::from_parts(parts, Body::from(written)))
    }

    fn filter(&self, mut value: Value) -> serde_json::Result<Value> {
        let paths = split(&self.exclude);
        let paths: Vec<&[String]> = paths.iter().map(Vec::as_slice).collect();
        exclude(&mut value, &paths);
        if self.include.is_empty() { Ok(value) } else { self.included(value) }
    }

    /// What the included paths lead to.
    fn included<'de, D: Deserializer<'de>>(&self, from: D) -> Result<Value, D::Error> {
        let paths = split(&self.include);
        let included = Included(paths.iter().map(Vec::as_slice).collect()).deserialize(from)?;
        Ok(included.unwrap_or_else(|| Value::Object(Map::new())))
    }
}

fn split(paths: &[String]) -> Vec<Vec<String>> {
    paths.iter().map(|path| path.split('.').map(str::to_owned).collect()).collect()
}

/// What is left of each path once a key is passed; an empty one is at its end.
fn step<'p>(paths: &[&'p [String]], key: &str) -> Vec<&'p [String]> {
    let mut left = Vec::new();
    for path in paths {
        let mut path = *path;
        // Any depth: the path may stay, or go on with what follows.
        while let [first, rest @ ..] = path
            && first == "**"
        {
            left.push(path);
            if rest.is_empty() {
                left.push(rest);
            }
            path = rest;
        }
        if let [first, rest @ ..] = path
            && matches(first, key)
        {
            left.push(rest);
        }
    }
    left
}

fn at_end(paths: &[&[String]]) -> bool {
    paths.iter().any(|path| path.is_empty())
}

/// Reads what the paths lead to and skips the rest.
struct Included<'p>(Vec<&'p [String]>);

impl<'de> DeserializeSeed<'de> for Included<'_> {
    type Value = Option<Value>;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Option<Value>, D::Error> {
        if at_end(&self.0) {
            Value::deserialize(from).map(Some)
        } else {
            from.deserialize_any(self)
        }
    }
}

impl<'de> Visitor<'de> for Included<'_> {
    type Value = Option<Value>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Option<Value>, A::Error> {
        let mut kept = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            let left = step(&self.0, &key);
            if left.is_empty() {
                entries.next_value::<IgnoredAny>()?;
            } else if let Some(value) = entries.next_value_seed(Included(left))? {
                kept.insert(key, value);
            }
        }
        Ok((!kept.is_empty()).then_some(Value::Object(kept)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Option<Value>, A::Error> {
        let mut kept = Vec::new();
        while let Some(value) = elements.next_element_seed(Included(self.0.clone()))? {
            kept.extend(value);
        }
        Ok((!kept.is_empty()).then_some(Value::Array(kept)))
    }

    fn visit_unit<E>(self) -> Result<Option<Value>, E> {
        Ok(None)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Option<Value>, E> {
        Ok(None)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Option<Value>, E> {
        Ok(None)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Option<Value>, E> {
        Ok(None)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Option<Value>, E> {
        Ok(None)
    }

    fn visit_str<E>(self, _: &str) -> Result<Option<Value>, E> {
        Ok(None)
    }
}

fn exclude(value: &mut Value, paths: &[&[String]]) {
    match value {
        Value::Object(object) => object.retain(|key, value| {
            let left = step(paths, key);
            let ends = at_end(&left);
            if !ends && !left.is_empty() {
                exclude(value, &left);
            }
            !ends
        }),
        Value::Array(elements) => elements.iter_mut().for_each(|element| exclude(element, paths)),
        _ => {}
    }
}

/// JSON for people, with the line's end that a terminal wants.
fn laid_out(json: &[u8]) -> Vec<u8> {
    let mut text = indent(json);
    text.push(b'\n');
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_no_path_leads_to_need_not_be_made() {
        let shows = |query: &str| may_show(&Params::read("/_bulk", query).unwrap(), "items");
        for query in
            ["", "filter_path=items", "filter_path=took,items.*.error", "filter_path=**.error"]
        {
            assert!(shows(query), "{query}");
        }
        for query in ["filter_path=it*", "filter_path=-took", "filter_path=-items.index._id"] {
            assert!(shows(query), "{query}");
        }
        assert!(!shows("filter_path=errors"));
        assert!(!shows("filter_path=took,errors,-took"));
    }

    #[test]
    fn answers_are_filtered_by_paths() {
        let answer = json!({"took": 1, "hits": {"total": 2, "hits": [
            {"_id": "1", "_source": {"a": 1, "b": 2}}, {"_id": "2", "_source": {"b": 3}}]}});
        let check = |paths: &str, expected: Value| {
            let (exclude, include): (Vec<&str>, Vec<&str>) =
                paths.split(',').partition(|path| path.starts_with('-'));
            let wishes = Wishes {
                json_type: HeaderValue::from_static("x"),
                pretty: false,
                trace: false,
                include: include.into_iter().map(str::to_owned).collect(),
                exclude: exclude.into_iter().map(|path| path[1..].to_owned()).collect(),
            };
            let shaped = if wishes.exclude.is_empty() {
                wishes.included(answer.clone())
            } else {
                wishes.filter(answer.clone())
            };
            assert_eq!(shaped.unwrap(), expected, "{paths}");
        };
        check("took", json!({"took": 1}));
        check("hits.hits._id", json!({"hits": {"hits": [{"_id": "1"}, {"_id": "2"}]}}));
        check("hits.hits._source.a", json!({"hits": {"hits": [{"_source": {"a": 1}}]}}));
        check("**.a", json!({"hits": {"hits": [{"_source": {"a": 1}}]}}));
        check("t*,hits.total", json!({"took": 1, "hits": {"total": 2}}));
        check("-hits", json!({"took": 1}));
        check(
            "hits,-hits.hits._source",
            json!({"hits": {"total": 2, "hits": [
            {"_id": "1"}, {"_id": "2"}]}}),
        );
        check("nothing", json!({}));
    }
}
