//! Tries again to open indexes that could not be opened for want of space, files or memory.

use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::app::App;

/// How often it tries.
const INTERVAL: Duration = Duration::from_secs(5);

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
        if !app.engine.has_unavailable() {
            continue;
        }
        let engine = Arc::clone(&app.engine);
        if let Err(error) = app.pools.manage.run(move || Ok(engine.open_again())).await {
            tracing::warn!(%error, "indexes could not be opened again");
        }
    }
}
