//! Removes the folders that rebuilds have left, once their time is over.

use std::sync::{Arc, Weak};
use std::time::Duration;

use jiff::Timestamp;

use crate::app::App;

/// How often it looks.
const INTERVAL: Duration = Duration::from_secs(1);

/// Looks until the app is gone.
pub(crate) fn watch(app: &Arc<App>) {
    tokio::spawn(run(Arc::downgrade(app)));
}

async fn run(app: Weak<App>) {
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(app) = app.upgrade() else { return };
        let now_ms = Timestamp::now().as_millisecond();
        let catalog = app.engine.catalog();
        let mut kept = catalog.indexes.values().filter_map(|entry| entry.kept.as_ref());
        if !kept.any(|kept| kept.until_ms <= now_ms) {
            continue;
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
}
