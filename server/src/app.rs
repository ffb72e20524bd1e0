//! The running program: what all requests share, and how it starts and stops.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use egret_aof::disk::{Disk, FileDisk};
use egret_aof::failpoint;
use egret_cdc::PipelineHandle;
use egret_engine::store::replay::ReplayProgress;
use egret_engine::{Breaker, Engine, EngineOptions};
use egret_metrics::Metrics;
use egret_results::SystemClock;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpListener;

use crate::cached_search::{self, Cache};
use crate::config::Config;
use crate::contexts::Contexts;
use crate::error::{Error, Kind, Result};
use crate::http::call::Bodies;
use crate::http::listener::BoundedListener;
use crate::identity::Identity;
use crate::pipelines::Pipelines;
use crate::pools::Pools;
use crate::progress::Replays;
use crate::rewrites::Rewrites;
use crate::sampler;
use crate::starting::Starting;
use crate::statistics::Statistics;
use crate::tasks::Tasks;

/// What all requests share.
#[derive(Debug)]
pub struct App {
    pub(crate) config: Config,
    pub(crate) engine: Arc<Engine>,
    pub(crate) cache: Option<Cache>,
    pub(crate) metrics: Option<Metrics>,
    pub(crate) pipelines: Arc<Pipelines>,
    pub(crate) identity: Identity,
    pub(crate) pools: Pools,
    /// The memory of searches.
    pub(crate) breaker: Arc<Breaker>,
    pub(crate) tasks: Arc<Tasks>,
    pub(crate) rewrites: Rewrites,
    pub(crate) contexts: Arc<Contexts>,
    pub(crate) bodies: Arc<Bodies>,
    pub(crate) statistics: Statistics,
    pub(crate) started: Instant,
}

impl App {
    /// Opens the data folder and starts following the configured databases.
    pub async fn start(config: Config) -> Result<Arc<Self>> {
        Self::start_watched(config, Arc::new(FileDisk), Arc::default()).await
    }

    /// As [`App::start`], on a disk of one's own.
    pub async fn start_on(config: Config, disk: Arc<dyn Disk>) -> Result<Arc<Self>> {
        Self::start_watched(config, disk, Arc::default()).await
    }

    /// As [`App::start`]; what takes a while is told.
    async fn start_watched(
        config: Config,
        disk: Arc<dyn Disk>,
        starting: Arc<Starting>,
    ) -> Result<Arc<Self>> {
        let folder = std::path::absolute(&config.data).map_err(|error| {
            let reason = format!("cannot open {}: {error}", config.data.display());
            Error::new(Kind::Configuration, reason).with_source(error)
        })?;
        let opening = {
            let (disk, folder, config) = (Arc::clone(&disk), folder.clone(), config.clone());
            move || open(&disk, &folder, &config, &starting)
        };
        let opened = tokio::task::spawn_blocking(opening).await.map_err(|error| {
            Error::new(Kind::Internal, "opening the data folder failed").with_source(error)
        })??;
        let Opened { engine, identity, cache, metrics } = opened;
        let pipelines = Pipelines::start(&config, Arc::clone(&engine), disk, &folder)?;
        let app = Arc::new(Self {
            pools: Pools::new(&config),
            breaker: Breaker::new(
                config.search.max_memory_bytes as u64,
                config.search.max_request_memory_bytes as u64,
            ),
            tasks: Tasks::new(&config.tasks),
            rewrites: Rewrites::default(),
            contexts: Contexts::open(&config.search),
            bodies: Arc::default(),
            statistics: Statistics::default(),
            started: Instant::now(),
            config,
            engine,
            cache,
            metrics,
            pipelines: Arc::new(pipelines),
            identity,
        });
        crate::upkeep::watch(&app);
        if app.metrics.is_some() {
            sampler::start(&app)?;
        }
        Ok(app)
    }

    /// The pipeline of this name.
    pub(crate) fn pipeline(&self, name: &str) -> Option<Arc<PipelineHandle>> {
        self.pipelines.get(name)
    }

    /// Stops following, makes everything durable and closes the indexes.
    pub async fn stop(self: &Arc<Self>) -> Result<()> {
        self.pipelines.stop().await;
        self.rewrites.stop().await;
        let app = Arc::clone(self);
        let close = move || {
            let closed = app.engine.close();
            if let Some(cache) = &app.cache {
                cache.flush();
            }
            if let Some(metrics) = &app.metrics {
                metrics.flush();
            }
            closed
        };
        let closed = tokio::task::spawn_blocking(close).await;
        closed.map_err(|error| {
            Error::new(Kind::Internal, "closing the indexes failed").with_source(error)
        })??;
        Ok(())
    }
}

/// What is in a data folder.
struct Opened {
    engine: Arc<Engine>,
    identity: Identity,
    cache: Option<Cache>,
    metrics: Option<Metrics>,
}

/// Opens a data folder, made where there is none. Blocking.
fn open(
    disk: &Arc<dyn Disk>,
    folder: &Path,
    config: &Config,
    starting: &Starting,
) -> Result<Opened> {
    let options = EngineOptions {
        disk: Arc::clone(disk),
        folder: folder.to_owned(),
        indexing_budget_bytes: config.engine.indexing_budget_bytes,
        limits: config.engine.limits(),
    };
    let replays = Replays::default();
    let watch = |progress: &ReplayProgress<'_>| {
        replays.show(progress);
        starting.note(progress);
    };
    let engine = Engine::open_watched(options, &watch)?;
    // After the engine, which locks the folder.
    let identity = Identity::open(disk.as_ref(), folder)?;
    // Before anything is published: answers of the states that were flushed are warm.
    let versions = cached_search::current(&engine);
    let current = |uuid| {
        versions.iter().find(|version| version.index == uuid).map(|version| version.generation)
    };
    let open_cache = || {
        let (folder, options) = (folder.join("cache"), config.cache.options());
        let clock = Arc::<SystemClock>::default();
        Cache::open(Arc::clone(disk), &folder, &options, clock, current).map_err(|error| {
            Error::new(Kind::Configuration, format!("cache: {error}")).with_source(error)
        })
    };
    let cache = config.cache.enabled.then(open_cache).transpose()?;
    let open_metrics = || {
        let (folder, options) = (folder.join("metrics"), config.metrics.options());
        Metrics::open(Arc::clone(disk), &folder, &options).map_err(|error| {
            Error::new(Kind::Configuration, format!("metrics: {error}")).with_source(error)
        })
    };
    let metrics = config.metrics.enabled.then(open_metrics).transpose()?;
    Ok(Opened { engine: Arc::new(engine), identity, cache, metrics })
}

/// Runs `egret serve` until it is told to stop.
pub fn serve(config: Config) -> Result<()> {
    raise_open_files();
    arm_failpoints()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| {
        Error::new(Kind::Internal, format!("cannot start threads: {error}")).with_source(error)
    })?;
    runtime.block_on(serve_until_stopped(config))
}

/// Lets the process have as many files open as the system allows: an index has a handful open, and many
/// systems begin with a limit of 1,024.
fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        let current = limit.current;
        tracing::warn!(%error, ?current, "the limit of open files stays as it is");
    }
}

/// For tests: where the environment says that this process is to be killed.
fn arm_failpoints() -> Result<()> {
    let plan = std::env::var(failpoint::VARIABLE).unwrap_or_default();
    if plan.is_empty() {
        return Ok(());
    }
    let armed = plan.parse().map_err(|error: String| {
        Error::new(Kind::Configuration, format!("{}: {error}", failpoint::VARIABLE))
    })?;
    tracing::warn!(plan, "failpoints are armed: this process will be killed or held up");
    failpoint::arm(armed);
    Ok(())
}

async fn serve_until_stopped(config: Config) -> Result<()> {
    let listen = config.http.listen.clone();
    let patience = Duration::from_millis(config.http.shutdown_timeout_ms);
    let cannot_listen = |error: std::io::Error| {
        let reason = format!("cannot listen on [{listen}]: {error}");
        Error::new(Kind::Configuration, reason).with_source(error)
    };
    // Bound first: a second program on the same address stops before it touches any file.
    let listener = TcpListener::bind(&listen).await.map_err(cannot_listen)?;
    let address = listener.local_addr().map_err(cannot_listen)?;
    let stop = stop_signal()?;
    let (stopping, mut stopped) = tokio::sync::watch::channel(false);
    let signal = async move {
        let name = stop.await;
        tracing::info!("stopping on {name}");
        let _ = stopping.send(true);
    };
    let listener = BoundedListener::new(listener, config.http.max_connections);
    let starting = Arc::new(Starting::default());
    // Who asks while indexes replay their translogs is told so.
    let server = axum::serve(listener, starting.router()).with_graceful_shutdown(signal);
    let server = tokio::spawn(server.into_future());
    let app = App::start_watched(config, Arc::new(FileDisk), Arc::clone(&starting)).await?;
    starting.finish(crate::routes::router(Arc::clone(&app)));
    tracing::info!(version = env!("CARGO_PKG_VERSION"), data = %app.config.data.display(), "started");
    crate::cli::print(&format!("egret listening on http://{address}\n"))?;
    crate::progress::watch(&app);
    let deadline = async {
        let _ = stopped.wait_for(|stopping| *stopping).await;
        tokio::time::sleep(patience).await;
    };
    tokio::select! {
        served = server => served.map_err(|error| {
            Error::new(Kind::Internal, "serving has ended").with_source(error)
        })?.map_err(cannot_listen)?,
        () = deadline => tracing::warn!("requests in progress did not end in time"),
    }
    app.stop().await
}

/// Waits for the signal to stop and gives its name.
fn stop_signal() -> Result<impl Future<Output = &'static str> + Send + 'static> {
    use tokio::signal::unix::{SignalKind, signal};
    let failed = |error: std::io::Error| {
        Error::new(Kind::Internal, format!("cannot listen for signals: {error}")).with_source(error)
    };
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => "SIGINT",
            _ = terminate.recv() => "SIGTERM",
        }
    })
}
