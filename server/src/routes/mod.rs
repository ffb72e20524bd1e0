//! The routes: one file for each resource.

mod aliases;
mod analyze;
mod bulk;
mod by_query;
mod cache;
mod cat;
mod cdc;
mod cluster;
mod count;
mod data_stream;
mod document;
mod field_mapping;
mod freshness;
mod health;
mod index;
mod maintenance;
mod mapping;
mod metrics;
mod mget;
mod msearch;
mod page;
mod pit;
mod prometheus;
mod rebuild;
mod resolve;
mod root;
mod scroll;
mod search;
mod segments;
mod settings;
mod stats;
mod targets;
mod tasks;
mod templates;
mod update;
mod verify;
mod write;

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::http::{Method, Uri};
use axum::middleware::from_fn;
use axum::routing::{delete, get, post, put};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::decompression::RequestDecompressionLayer;

use crate::app::App;
use crate::error::{Error, Kind};
use crate::http::{errors, shape};

/// All routes.
pub fn router(app: Arc<App>) -> Router {
    Router::new()
        .merge(documents())
        .merge(searches())
        .merge(indexes())
        .merge(aliases())
        .merge(templates())
        .merge(server())
        .fallback(no_handler)
        .method_not_allowed_fallback(no_method)
        .with_state(app)
        .layer(CatchPanicLayer::custom(errors::panicked))
        .layer(RequestDecompressionLayer::new())
        .layer(from_fn(shape::shape))
}

fn documents() -> Router<Arc<App>> {
    Router::new()
        .route("/{index}/_doc", post(document::index_without_id))
        .route(
            "/{index}/_doc/{id}",
            get(document::read).put(document::index).post(document::index).delete(document::delete),
        )
        .route("/{index}/_create/{id}", put(document::create).post(document::create))
        .route("/{index}/_source/{id}", get(document::source))
        .route("/{index}/_update/{id}", post(update::update))
        .route("/_mget", get(mget::mget).post(mget::mget))
        .route("/{index}/_mget", get(mget::mget_in).post(mget::mget_in))
        .route("/_bulk", post(bulk::bulk).put(bulk::bulk))
        .route("/{index}/_bulk", post(bulk::bulk_in).put(bulk::bulk_in))
        .route("/{index}/_update_by_query", post(by_query::update))
        .route("/{index}/_delete_by_query", post(by_query::delete))
        .route("/_reindex", post(by_query::reindex))
        .route("/_update_by_query/{id}/_rethrottle", post(tasks::rethrottle))
        .route("/_delete_by_query/{id}/_rethrottle", post(tasks::rethrottle))
        .route("/_reindex/{id}/_rethrottle", post(tasks::rethrottle))
        .route("/_tasks", get(tasks::list))
        .route("/_tasks/_cancel", post(tasks::cancel_all))
        .route("/_tasks/{id}", get(tasks::read))
        .route("/_tasks/{id}/_cancel", post(tasks::cancel))
}

fn searches() -> Router<Arc<App>> {
    Router::new()
        .route("/_search", get(search::search_all).post(search::search_all))
        .route("/{index}/_search", get(search::search).post(search::search))
        .route("/_search/scroll", get(scroll::next).post(scroll::next).delete(scroll::close))
        .route(
            "/_search/scroll/{id}",
            get(scroll::next_of).post(scroll::next_of).delete(scroll::close_one),
        )
        .route("/{index}/_pit", post(pit::open))
        .route("/_pit", delete(pit::close))
        .route("/{index}/_search/point_in_time", post(pit::open_point))
        .route("/_search/point_in_time", delete(pit::close_points))
        .route("/_search/point_in_time/_all", get(pit::list).delete(pit::close_all))
        .route("/_msearch", get(msearch::msearch).post(msearch::msearch))
        .route("/{index}/_msearch", get(msearch::msearch_in).post(msearch::msearch_in))
        .route("/_count", get(count::count_all).post(count::count_all))
        .route("/{index}/_count", get(count::count).post(count::count))
        .route("/_analyze", get(analyze::analyze).post(analyze::analyze))
        .route("/{index}/_analyze", get(analyze::analyze_in).post(analyze::analyze_in))
}

fn indexes() -> Router<Arc<App>> {
    Router::new()
        .route(
            "/{index}",
            put(index::create).get(index::read).delete(index::delete).head(index::exists),
        )
        .route("/{index}/_open", post(index::open).put(index::open))
        .route("/{index}/_close", post(index::close).put(index::close))
        .route("/_resolve/index/{name}", get(resolve::index))
        .route("/_mapping", get(mapping::read_all))
        .route("/{index}/_mapping", get(mapping::read).put(mapping::add).post(mapping::add))
        .route("/_mapping/field/{fields}", get(field_mapping::read_all))
        .route("/{index}/_mapping/field/{fields}", get(field_mapping::read))
        .route("/{index}/_block/{block}", put(settings::block).post(settings::block))
        .route("/_settings", get(settings::read_all).put(settings::update_all))
        .route("/_settings/{name}", get(settings::read_named_all))
        .route("/{index}/_settings", get(settings::read).put(settings::update))
        .route("/{index}/_settings/{name}", get(settings::read_named))
        .route("/_data_stream", get(data_stream::all))
        .route("/_data_stream/{name}", get(data_stream::named))
        .route("/_refresh", get(maintenance::refresh_all).post(maintenance::refresh_all))
        .route("/{index}/_refresh", get(maintenance::refresh).post(maintenance::refresh))
        .route("/_flush", get(maintenance::flush_all).post(maintenance::flush_all))
        .route("/_forcemerge", post(maintenance::force_merge_all))
        .route("/{index}/_forcemerge", post(maintenance::force_merge))
        .route("/{index}/_rebuild", get(rebuild::status).post(rebuild::rebuild))
        .route("/_segments", get(segments::all))
        .route("/{index}/_segments", get(segments::of))
        .route("/_stats", get(stats::all))
        .route("/_stats/{metrics}", get(stats::all_metric))
        .route("/{index}/_stats", get(stats::of))
        .route("/{index}/_stats/{metrics}", get(stats::of_metric))
        .route("/{index}/_flush", get(maintenance::flush).post(maintenance::flush))
}

fn aliases() -> Router<Arc<App>> {
    use aliases::{delete, exists, exists_all, put, put_alone, put_from_body, put_whole};
    use aliases::{read, read_all, read_named, read_named_all, update};
    let named = || get(read_named).head(exists).put(put).post(put).delete(delete);
    Router::new()
        .route("/_alias", get(read_all).put(put_whole).post(put_whole))
        .route("/_aliases", get(read_all).post(update))
        .route("/{index}/_alias", get(read).put(put_from_body).post(put_from_body))
        .route(
            "/_alias/{name}",
            get(read_named_all).head(exists_all).put(put_alone).post(put_alone),
        )
        .route("/{index}/_alias/{name}", named())
        .route("/{index}/_aliases/{name}", named())
}

fn templates() -> Router<Arc<App>> {
    use templates::{component, index, legacy};
    Router::new()
        .route("/_component_template", get(component::read_all))
        .route(
            "/_component_template/{name}",
            get(component::read)
                .head(component::exists)
                .put(component::put)
                .post(component::put)
                .delete(component::delete),
        )
        .route("/_index_template", get(index::read_all))
        .route(
            "/_index_template/{name}",
            get(index::read)
                .head(index::exists)
                .put(index::put)
                .post(index::put)
                .delete(index::delete),
        )
        .route("/_index_template/_simulate", post(index::simulate_body))
        .route("/_index_template/_simulate/{name}", post(index::simulate))
        .route("/_index_template/_simulate_index/{name}", post(index::simulate_index))
        .route("/_template", get(legacy::read_all))
        .route(
            "/_template/{name}",
            get(legacy::read)
                .head(legacy::exists)
                .put(legacy::put)
                .post(legacy::put)
                .delete(legacy::delete),
        )
}

fn server() -> Router<Arc<App>> {
    Router::new()
        .route("/", get(root::root))
        .route("/favicon.ico", get(page::icon))
        .route("/_ui/search.css", get(page::style))
        .route("/_ui/search.js", get(page::script))
        .route("/_cat", get(cat::help))
        .route("/_cat/indices", get(cat::indices_all))
        .route("/_cat/indices/{index}", get(cat::indices))
        .route("/_cat/health", get(cat::health))
        .route("/_cat/count", get(cat::count_all))
        .route("/_cat/count/{index}", get(cat::count))
        .route("/_cat/aliases", get(cat::aliases_all))
        .route("/_cat/aliases/{name}", get(cat::aliases))
        .route("/_cat/segments", get(cat::segments_all))
        .route("/_cat/segments/{index}", get(cat::segments))
        .route("/_cat/templates", get(cat::templates_all))
        .route("/_cat/templates/{name}", get(cat::templates))
        .route("/_cluster/health", get(cluster::health_all))
        .route("/_cluster/health/{index}", get(cluster::health))
        .route("/_cluster/stats", get(cluster::stats))
        .route("/_cdc", get(cdc::status))
        .route("/_cdc/{pipeline}", get(cdc::read).put(cdc::declare).delete(cdc::delete))
        .route("/_cdc/{pipeline}/_pause", post(cdc::pause))
        .route("/_cdc/{pipeline}/_resume", post(cdc::resume))
        .route("/_cdc/{pipeline}/_restart", post(cdc::restart))
        .route("/_cdc/{pipeline}/_copy", post(cdc::copy))
        .route("/_cdc/{pipeline}/dead", get(cdc::letters).delete(cdc::purge))
        .route("/_cdc/{pipeline}/dead/_retry", post(cdc::retry))
        .route("/_cdc/{pipeline}/verify", get(verify::report).post(verify::start))
        .route("/_cache/stats", get(cache::stats))
        .route("/_metrics/series", get(metrics::series))
        .route("/_metrics/query", get(metrics::query))
        .route("/metrics", get(prometheus::metrics))
        .route("/health/live", get(health::live))
        .route("/health/ready", get(health::ready))
}

async fn no_handler(method: Method, uri: Uri, body: Body) -> Error {
    shape::drain(body).await;
    let reason = format!("no handler found for uri [{uri}] and method [{method}]");
    Error::new(Kind::NoHandler, reason)
}

async fn no_method(method: Method, uri: Uri, body: Body) -> Error {
    shape::drain(body).await;
    let reason = format!("Incorrect HTTP method for uri [{uri}] and method [{method}]");
    Error::new(Kind::MethodNotAllowed, reason)
}
