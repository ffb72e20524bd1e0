//! Errors as Elasticsearch writes them: the one place where a kind of error becomes a status, a type
//! and a body.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use egret_engine::ErrorKind;
use serde_json::{Map, Value, json};

use super::Reply;
use crate::error::{Error, Kind};

/// The status and Elasticsearch's type of a kind.
fn classify(kind: Kind) -> (StatusCode, &'static str) {
    match kind {
        Kind::Content => (StatusCode::BAD_REQUEST, "x_content_parse_exception"),
        Kind::Parsing => (StatusCode::BAD_REQUEST, "parsing_exception"),
        Kind::Argument | Kind::NoHandler => (StatusCode::BAD_REQUEST, "illegal_argument_exception"),
        Kind::Validation => (StatusCode::BAD_REQUEST, "action_request_validation_exception"),
        Kind::QueryShard => (StatusCode::BAD_REQUEST, "query_shard_exception"),
        Kind::MediaType | Kind::NotAcceptable => {
            (StatusCode::NOT_ACCEPTABLE, "media_type_header_exception")
        }
        Kind::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "content_too_long_exception"),
        Kind::Rejected => (StatusCode::TOO_MANY_REQUESTS, "es_rejected_execution_exception"),
        Kind::MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed"),
        Kind::NotFound => (StatusCode::NOT_FOUND, "resource_not_found_exception"),
        Kind::ContextMissing => (StatusCode::NOT_FOUND, "search_context_missing_exception"),
        Kind::Conflict => (StatusCode::CONFLICT, "position_conflict_exception"),
        Kind::State => (StatusCode::CONFLICT, "illegal_state_exception"),
        Kind::Timeout => (StatusCode::GATEWAY_TIMEOUT, "timeout_exception"),
        Kind::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "unavailable_exception"),
        Kind::Engine(kind) => classify_engine(kind),
        Kind::Configuration | Kind::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "exception"),
    }
}

fn classify_engine(kind: ErrorKind) -> (StatusCode, &'static str) {
    match kind {
        ErrorKind::IndexNotFound => (StatusCode::NOT_FOUND, "index_not_found_exception"),
        ErrorKind::IndexAlreadyExists => {
            (StatusCode::BAD_REQUEST, "resource_already_exists_exception")
        }
        ErrorKind::InvalidIndexName => (StatusCode::BAD_REQUEST, "invalid_index_name_exception"),
        ErrorKind::IndexClosed => (StatusCode::BAD_REQUEST, "index_closed_exception"),
        ErrorKind::InvalidAliasName => (StatusCode::BAD_REQUEST, "invalid_alias_name_exception"),
        ErrorKind::AliasNotFound => (StatusCode::NOT_FOUND, "aliases_not_found_exception"),
        ErrorKind::TemplateNotFound => (StatusCode::NOT_FOUND, "index_template_missing_exception"),
        ErrorKind::VersionConflict => (StatusCode::CONFLICT, "version_conflict_engine_exception"),
        ErrorKind::DocumentMissing => (StatusCode::NOT_FOUND, "document_missing_exception"),
        ErrorKind::DocumentParsing => (StatusCode::BAD_REQUEST, "document_parsing_exception"),
        ErrorKind::MappingParsing => (StatusCode::BAD_REQUEST, "mapper_parsing_exception"),
        ErrorKind::InvalidQuery => (StatusCode::BAD_REQUEST, "query_shard_exception"),
        ErrorKind::InvalidArgument => (StatusCode::BAD_REQUEST, "illegal_argument_exception"),
        ErrorKind::Full => (StatusCode::TOO_MANY_REQUESTS, "es_rejected_execution_exception"),
        ErrorKind::Forbidden => (StatusCode::FORBIDDEN, "cluster_block_exception"),
        ErrorKind::ReadOnly => (StatusCode::SERVICE_UNAVAILABLE, "cluster_block_exception"),
        ErrorKind::Timeout => (StatusCode::GATEWAY_TIMEOUT, "timeout_exception"),
        ErrorKind::Cancelled => (StatusCode::BAD_REQUEST, "task_cancelled_exception"),
        ErrorKind::CircuitBreaking { .. } => {
            (StatusCode::TOO_MANY_REQUESTS, "circuit_breaking_exception")
        }
        ErrorKind::Closed => (StatusCode::SERVICE_UNAVAILABLE, "already_closed_exception"),
        ErrorKind::Unavailable => {
            (StatusCode::SERVICE_UNAVAILABLE, "no_shard_available_action_exception")
        }
        ErrorKind::Corrupt => (StatusCode::INTERNAL_SERVER_ERROR, "corrupt_index_exception"),
        ErrorKind::Io => (StatusCode::INTERNAL_SERVER_ERROR, "i_o_exception"),
        ErrorKind::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "exception"),
    }
}

/// An error's status.
pub(crate) fn status(error: &Error) -> StatusCode {
    classify(error.kind()).0
}

/// An error as an object, without its root cause: what a bulk item shows.
pub(crate) fn to_json(error: &Error) -> Map<String, Value> {
    let (_, name) = classify(error.kind());
    let mut object = Map::new();
    object.insert("type".into(), name.into());
    object.insert("reason".into(), error.reason().into());
    if let Kind::Engine(ErrorKind::CircuitBreaking { wanted, limit, transient }) = error.kind() {
        object.insert("bytes_wanted".into(), wanted.into());
        object.insert("bytes_limit".into(), limit.into());
        let durability = if transient { "TRANSIENT" } else { "PERMANENT" };
        object.insert("durability".into(), durability.into());
    }
    if let Some(index) = error.index() {
        if error.kind() == Kind::Engine(ErrorKind::IndexNotFound) {
            object.insert("resource.type".into(), "index_or_alias".into());
            object.insert("resource.id".into(), index.into());
            object.insert("index_uuid".into(), "_na_".into());
        }
        object.insert("index".into(), index.into());
    }
    if let Some(cause) = error.cause() {
        object.insert("caused_by".into(), Value::Object(to_json(cause)));
    }
    object
}

/// The whole body of an answer that is an error.
pub(crate) fn body(error: &Error) -> Value {
    let status = status(error).as_u16();
    let query = matches!(
        error.kind(),
        Kind::QueryShard | Kind::ContextMissing | Kind::Engine(ErrorKind::InvalidQuery)
    );
    match error.kind() {
        Kind::NoHandler => json!({ "error": error.reason() }),
        Kind::MethodNotAllowed => json!({ "error": error.reason(), "status": status }),
        _ if query => query_phase(error, status),
        _ => {
            let object = to_json(error);
            let mut root = object.clone();
            root.remove("caused_by");
            let mut whole = Map::new();
            whole.insert("root_cause".into(), json!([root]));
            whole.extend(object);
            json!({ "error": whole, "status": status })
        }
    }
}

/// A query that failed on its index, as Elasticsearch reports it from its shards.
fn query_phase(error: &Error, status: u16) -> Value {
    let object = to_json(error);
    let mut root = object.clone();
    root.remove("caused_by");
    json!({
        "error": {
            "root_cause": [root],
            "type": "search_phase_execution_exception",
            "reason": "all shards failed",
            "phase": "query",
            "grouped": true,
            "failed_shards": [{"shard": 0, "index": error.index(), "reason": object}],
        },
        "status": status,
    })
}

/// The chain of causes behind an answer, for `error_trace`.
#[derive(Debug, Clone)]
pub(crate) struct Trace(pub(crate) String);

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let status = status(&self);
        let mut trace = format!("{}: {self}", classify(self.kind()).1);
        let mut cause = std::error::Error::source(&self);
        while let Some(error) = cause {
            trace.push_str("\ncaused by: ");
            trace.push_str(&error.to_string());
            cause = error.source();
        }
        if status.is_server_error() && status != StatusCode::GATEWAY_TIMEOUT {
            tracing::error!(status = status.as_u16(), "{trace}");
        }
        let mut response = Reply::json(status, &body(&self)).into_response();
        response.extensions_mut().insert(Trace(trace));
        response
    }
}

/// The answer after a panic: a defect of Egret, said as JSON.
pub(crate) fn panicked(panic: Box<dyn std::any::Any + Send + 'static>) -> Response {
    let said = panic.downcast_ref::<String>().map(String::as_str);
    let said = said.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("unknown");
    let reason = format!("a defect of Egret: {said}");
    drop(panic);
    Error::new(Kind::Internal, reason).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_elasticsearchs_shape() {
        let check = |error: Error, status: u16, expected: Value| {
            assert_eq!(super::status(&error).as_u16(), status);
            assert_eq!(body(&error), expected);
        };
        check(
            Error::argument("bad").caused_by(Error::content("worse")),
            400,
            json!({"error": {
                "root_cause": [{"type": "illegal_argument_exception", "reason": "bad"}],
                "type": "illegal_argument_exception", "reason": "bad",
                "caused_by": {"type": "x_content_parse_exception", "reason": "worse"},
            }, "status": 400}),
        );
        let missing = egret_engine::Error::new(ErrorKind::IndexNotFound, "no such index [x]");
        let shown = json!({"type": "index_not_found_exception", "reason": "no such index [x]",
            "resource.type": "index_or_alias", "resource.id": "x", "index_uuid": "_na_",
            "index": "x"});
        let found = body(&missing.with_index("x").into());
        assert_eq!(found["error"]["root_cause"], json!([shown]));
        assert_eq!(found["status"], 404);
        let (wanted, limit) = (9, 7);
        let broken = ErrorKind::CircuitBreaking { wanted, limit, transient: true };
        let shown = json!({"type": "circuit_breaking_exception", "reason": "big",
            "bytes_wanted": 9, "bytes_limit": 7, "durability": "TRANSIENT"});
        let found = body(&Error::new(Kind::Engine(broken), "big"));
        assert_eq!((&found["error"]["root_cause"][0], &found["status"]), (&shown, &json!(429)));
        let query = body(&Error::new(Kind::QueryShard, "no").with_index("i"));
        assert_eq!(query["error"]["type"], "search_phase_execution_exception");
        assert_eq!(query["error"]["failed_shards"][0]["reason"]["type"], "query_shard_exception");
        check(
            Error::new(Kind::NoHandler, "no handler found for uri [/_x] and method [GET]"),
            400,
            json!({"error": "no handler found for uri [/_x] and method [GET]"}),
        );
    }
}
