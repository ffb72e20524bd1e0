//! Asks the index for the sums, over and over, while it is written, killed and started again.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::Size;
use crate::egret::Egret;

/// The rest between two questions: often enough to meet every publication, and no load by itself.
const PACE: Duration = Duration::from_millis(8);

/// The task that asks.
#[derive(Debug)]
pub struct Prober {
    base: watch::Sender<Where>,
    task: JoinHandle<u64>,
}

/// Where to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Where {
    Nowhere,
    At(String),
    Done,
}

impl Prober {
    /// Begins with asking nobody.
    pub fn start(size: Size) -> Self {
        let (base, place) = watch::channel(Where::Nowhere);
        Self { base, task: tokio::spawn(ask(place, size)) }
    }

    /// Asks this server from now on. No answer is none: it may have been killed.
    pub fn watch(&self, egret: &Egret) {
        self.base.send_replace(Where::At(egret.url("")));
    }

    /// Ends it; how often both sums were asked for and were right. Panics where one was wrong.
    pub async fn stop(self) -> u64 {
        self.base.send_replace(Where::Done);
        self.task.await.unwrap_or_else(|error| panic!("a sum was wrong: {error}"))
    }
}

async fn ask(mut place: watch::Receiver<Where>, size: Size) -> u64 {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let mut right = 0;
    loop {
        let base = match place.borrow_and_update().clone() {
            Where::Done => return right,
            Where::At(base) => Some(base),
            Where::Nowhere => None,
        };
        let Some(base) = base else {
            if place.changed().await.is_err() {
                return right;
            }
            continue;
        };
        if let Some([balances, amounts]) = totals(&client, &base).await {
            assert_eq!(balances["sum"].as_f64(), as_f64(size.balances()), "{balances}");
            assert_eq!(amounts["sum"].as_f64(), as_f64(size.amounts()), "{amounts}");
            assert_eq!(amounts["count"], size.journal, "{amounts}");
            right += 1;
        }
        // Also where the server is gone or comes back.
        let _ = tokio::time::timeout(PACE, place.changed()).await;
    }
}

/// The statistics of both tables' amounts; `None` where there is no answer.
async fn totals(client: &reqwest::Client, base: &str) -> Option<[Value; 2]> {
    let of = |index: &str, field: &str| {
        let search = json!({"size": 0, "aggs": {"total": {"stats": {"field": field}}}});
        format!("{}\n{search}\n", json!({"index": index}))
    };
    let body = of("accounts", "balance") + &of("journal", "amount");
    let request = client.post(format!("{base}/_msearch")).body(body);
    let answer = request.header("content-type", "application/x-ndjson").send().await.ok()?;
    let status = answer.status().as_u16();
    let text = answer.text().await.ok()?;
    let mut body: Value = serde_json::from_str(&text).ok()?;
    let mut total = |at: usize| {
        let answer = &mut body["responses"][at];
        // 503 is a server that has only just begun to listen.
        let status = answer["status"].as_u64().unwrap_or(status.into());
        assert!(matches!(status, 200 | 503), "{text}");
        (status == 200).then(|| answer["aggregations"]["total"].take())
    };
    Some([total(0)?, total(1)?])
}

#[expect(clippy::cast_precision_loss, clippy::unnecessary_wraps, reason = "small whole numbers")]
fn as_f64(number: i64) -> Option<f64> {
    Some(number as f64)
}
