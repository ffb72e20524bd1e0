//! `_bulk`: many writes, each with its own result.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Path, State};
use egret_engine::batch::{Applied, Batch, Refresh, WriteOp};
use egret_engine::{ErrorKind, Index};
use futures_util::future::join_all;
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

use super::targets::{self, WriteTo};
use super::write;
use crate::app::App;
use crate::dialect::bulk::{Action, Defaults, operation, read};
use crate::error::{Error, Result};
use crate::http::{Call, Reply, errors, filter_path};
use crate::identity::new_id;

pub(super) async fn bulk(State(app): State<Arc<App>>, call: Call) -> Result<Reply> {
    run(&app, call, None).await
}

pub(super) async fn bulk_in(
    State(app): State<Arc<App>>,
    Path(index): Path<String>,
    call: Call,
) -> Result<Reply> {
    run(&app, call, Some(index)).await
}

/// What has become of an item so far.
struct Slot {
    action: Action,
    index: Arc<str>,
    id: String,
    result: Option<Result<Applied>>,
}

/// The operations of one index, and which items they came from.
struct Share {
    name: Arc<str>,
    ops: Vec<WriteOp>,
    items: Vec<usize>,
}

async fn run(app: &App, call: Call, index: Option<String>) -> Result<Reply> {
    let started = Instant::now();
    call.params.allow(&[write::PARAMS, &["_source", "pipeline"]].concat())?;
    let refresh = write::refresh_of_many(&call.params)?;
    for unsupported in ["pipeline", "_source"] {
        if call.params.filled(unsupported).is_some_and(|value| !matches!(value, "_none" | "false"))
        {
            return Err(Error::argument(format!("[{unsupported}] of [_bulk] is not supported")));
        }
    }
    let engine = Arc::clone(&app.engine);
    let body = call.body.clone();
    let require_alias = call.params.is_true("require_alias")?;
    let read = move || {
        let catalog = engine.catalog();
        let to = WriteTo { create: true, require_alias };
        let behind = remembered(|name| targets::behind(&catalog, name, to).map(Arc::from));
        let defaults = Defaults { index: index.map(Arc::from) };
        split(&body, &defaults, behind)
    };
    let (mut slots, shares) = app.pools.write.run(read).await?;
    // At once: none waits behind an index that is slow.
    let writes = shares.into_iter().map(|share| write_share(app, share, refresh, call.body.len()));
    for (items, written) in join_all(writes).await {
        match written {
            Ok((index, results)) => settle(&mut slots, &items, results, &index),
            Err(error) => fail(&mut slots, &items, &error),
        }
    }
    let shows_items = filter_path::may_show(&call.params, "items");
    Ok(answer(app, &slots, refresh, started, shows_items))
}

/// Writes the operations of one index. The whole body is held until that is done.
async fn write_share(
    app: &App,
    share: Share,
    refresh: Refresh,
    body_bytes: usize,
) -> (Vec<usize>, Result<(Arc<Index>, Vec<egret_engine::Result<Applied>>)>) {
    let Share { name, ops, items } = share;
    let batch = Batch { ops, refresh, ..Batch::default() };
    let to = WriteTo { create: true, ..WriteTo::default() };
    let write = async {
        let (index, receipt) = write::submit(app, &name, to, batch, body_bytes).await?;
        Ok((index, write::said(receipt).await?.ops))
    };
    (items, write.await)
}

/// Reads the body into one slot for each item and the operations of each index. Names of the same
/// index share a batch, in which operations stay in the order of their items.
fn split(
    body: &bytes::Bytes,
    defaults: &Defaults,
    mut behind: impl FnMut(&Arc<str>) -> Result<Arc<str>>,
) -> Result<(Vec<Slot>, Vec<Share>)> {
    let mut slots = Vec::new();
    let mut shares: Vec<Share> = Vec::new();
    for (at, item) in read(body, defaults)?.into_iter().enumerate() {
        let target = behind(&item.index);
        let index = target.as_ref().map_or_else(|_| Arc::clone(&item.index), Arc::clone);
        let id = item.id.clone().unwrap_or_else(new_id);
        let action = item.action;
        let mut slot = Slot { action, index: Arc::clone(&index), id: id.clone(), result: None };
        match target.and_then(|_| operation(item, || id)) {
            Err(error) => slot.result = Some(Err(error)),
            Ok(op) => match shares.iter_mut().find(|share| share.name == index) {
                Some(share) => {
                    share.ops.push(op);
                    share.items.push(at);
                }
                None => shares.push(Share { name: index, ops: vec![op], items: vec![at] }),
            },
        }
        slots.push(slot);
    }
    Ok((slots, shares))
}

/// What stands behind the names of a request, each looked up once.
fn remembered(
    look_up: impl Fn(&str) -> Result<Arc<str>>,
) -> impl FnMut(&Arc<str>) -> Result<Arc<str>> {
    let mut known: Vec<(Arc<str>, Result<Arc<str>>)> = Vec::new();
    move |name| {
        if let Some((_, target)) = known.iter().find(|(known, _)| known == name) {
            return target.clone();
        }
        let target = look_up(name);
        known.push((Arc::clone(name), target.clone()));
        target
    }
}

/// Gives items what the writer says of each.
fn settle(
    slots: &mut [Slot],
    items: &[usize],
    results: Vec<egret_engine::Result<Applied>>,
    index: &Index,
) {
    for (item, result) in items.iter().zip(results) {
        let result = result.map_err(|error| error.with_index(index.name()).into());
        if let Some(slot) = slots.get_mut(*item) {
            slot.result = Some(result);
        }
    }
}

/// Gives items the same error.
fn fail(slots: &mut [Slot], items: &[usize], error: &Error) {
    for item in items {
        if let Some(slot) = slots.get_mut(*item) {
            slot.result = Some(Err(error.clone()));
        }
    }
}

fn answer(
    app: &App,
    slots: &[Slot],
    refresh: Refresh,
    started: Instant,
    shows_items: bool,
) -> Reply {
    let failures = slots.iter().filter(|slot| !matches!(slot.result, Some(Ok(_)))).count() as u64;
    write::count(&app.statistics, slots.len() as u64, failures);
    let took = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    let items = shows_items.then_some(Items { slots, refresh });
    Reply::ok(&Answer { errors: failures > 0, took, items })
}

/// The answer; written piece by piece, as there may be very many items.
#[derive(Serialize)]
struct Answer<'a> {
    errors: bool,
    took: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    items: Option<Items<'a>>,
}

struct Items<'a> {
    slots: &'a [Slot],
    refresh: Refresh,
}

impl Serialize for Items<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_seq(self.slots.iter().map(|slot| Item { slot, refresh: self.refresh }))
    }
}

struct Item<'a> {
    slot: &'a Slot,
    refresh: Refresh,
}

impl Serialize for Item<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let mut item = serializer.serialize_map(Some(1))?;
        let (slot, action) = (self.slot, self.slot.action.name());
        match &slot.result {
            Some(Ok(applied)) => {
                let shown = write::Answer::item(&slot.index, applied, self.refresh);
                item.serialize_entry(action, &shown)?;
            }
            Some(Err(error)) => item.serialize_entry(action, &failed(slot, error))?,
            None => {
                let lost =
                    egret_engine::Error::new(ErrorKind::Internal, "the writer lost an operation");
                item.serialize_entry(action, &failed(slot, &Error::from(lost)))?;
            }
        }
        item.end()
    }
}

fn failed(slot: &Slot, error: &Error) -> Map<String, Value> {
    let mut shown = Map::new();
    shown.insert("_index".into(), slot.index.as_ref().into());
    shown.insert("_id".into(), slot.id.as_str().into());
    shown.insert("status".into(), errors::status(error).as_u16().into());
    shown.insert("error".into(), Value::Object(errors::to_json(error)));
    shown
}
