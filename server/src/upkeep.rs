//! What is looked after while Egret runs: folders that rebuilds have left are removed once their time is
//! over, indexes that could not be opened for want of space, files or memory are tried again, and those
//! that have documents from before an addition to their mapping are rewritten.

use std::sync::{Arc, Weak};
use std::time::Duration;

use jiff::Timestamp;

use crate::app::App;

/// How often it looks,
const INTERVAL: Duration = Duration::from_secs(1);
/// and at how many of these looks it tries to open indexes once.
const LOOKS_FOR_EACH_TRY: u32 = 5;

/// Looks until the app is gone.
pub(crate) fn watch(app: &Arc<App>) {
    tokio::spawn(run(Arc::downgrade(app)));
}

async fn run(app: Weak<App>) {
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        for look in 0..LOOKS_FOR_EACH_TRY {
            ticks.tick().await;
            let Some(app) = app.upgrade() else { return };
            drop_expired_folders(&app).await;
            crate::rewrites::begin_next(&app);
            if look == 0 {
                open_again(&app).await;
            }
        }
    }
}

async fn drop_expired_folders(app: &App) {
    let now_ms = Timestamp::now().as_millisecond();
    let catalog = app.engine.catalog();
    let mut kept = catalog.indexes.values().filter_map(|entry| entry.kept.as_ref());
    if !kept.any(|kept| kept.until_ms <= now_ms) {
        return;
    }
    let engine = Arc::clone(&app.engine);
    let dropping = app.pools.manage.run(move || Ok(engine.drop_expired_folders(now_ms)?));
    match dropping.await {
        Ok(names) if names.is_empty() => {}
        Ok(names) => tracing::info!(?names, "rebuilds can no longer be rolled back"),
        // It is tried again.
        Err(error) => tracing::warn!(%error, "a folder from before a rebuild is not removed"),
    }
}

async fn open_again(app: &App) {
    if !app.engine.has_unavailable() {
        return;
    }
    let engine = Arc::clone(&app.engine);
    if let Err(error) = app.pools.manage.run(move || Ok(engine.open_again())).await {
        tracing::warn!(%error, "indexes could not be opened again");
    }
}
