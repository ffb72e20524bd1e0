//! The pipelines that run: those of the configuration file, and those that were declared while the
//! program ran, which their folders keep.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use egret_aof::disk::Disk;
use egret_cdc::kept::Kept;
use egret_cdc::{Pipeline, PipelineConfig, PipelineHandle};
use egret_engine::{Engine, Index};
use parking_lot::RwLock;
use tokio::sync::Mutex;

use crate::config::Config;
use crate::error::{Error, Kind, Result};

/// All pipelines.
#[derive(Debug)]
pub(crate) struct Pipelines {
    engine: Arc<Engine>,
    disk: Arc<dyn Disk>,
    /// The folder of their folders.
    folder: PathBuf,
    in_file: BTreeSet<String>,
    limit: usize,
    /// By name. Held to look one up, or to change the list.
    running: RwLock<BTreeMap<String, Arc<PipelineHandle>>>,
    /// Held while one is declared, changed or dropped.
    changing: Mutex<()>,
}

impl Pipelines {
    /// Starts what is declared in the file and in the data folder.
    pub(crate) fn start(
        config: &Config,
        engine: Arc<Engine>,
        disk: Arc<dyn Disk>,
        data: &Path,
    ) -> Result<Self> {
        let folder = data.join("pipelines");
        let mut declared = config.pipelines.clone();
        let in_file: BTreeSet<String> = declared.iter().map(|it| it.name.clone()).collect();
        // Without the folder there are none.
        for name in disk.list(&folder).unwrap_or_default() {
            let kept = Kept::load(&*disk, &folder.join(&name));
            let kept = kept.map_err(|error| configuration(&name, error))?;
            match kept.declared {
                Some(_) if in_file.contains(&name) => {
                    tracing::warn!(pipeline = name, "the file's declaration counts");
                }
                Some(pipeline) => declared.push(pipeline),
                None if in_file.contains(&name) => {}
                None => warn_of_slot(&name, Pipeline::slot_of(&*disk, &folder.join(&name))),
            }
        }
        let (running, changing) = (RwLock::default(), Mutex::default());
        let limit = config.max_pipelines;
        let pipelines = Self { engine, disk, folder, in_file, limit, running, changing };
        for pipeline in declared {
            pipelines.follow(pipeline).map_err(|(name, error)| configuration(&name, error))?;
        }
        Ok(pipelines)
    }

    fn follow(&self, pipeline: PipelineConfig) -> Result<(), (String, egret_cdc::Error)> {
        let name = pipeline.name.clone();
        let (engine, disk) = (Arc::clone(&self.engine), Arc::clone(&self.disk));
        let started = Pipeline::start(pipeline, engine, disk, self.folder.join(&name));
        let handle = started.map_err(|error| (name.clone(), error))?;
        self.running.write().insert(name, Arc::new(handle));
        Ok(())
    }

    /// All, by name.
    pub(crate) fn all(&self) -> Vec<Arc<PipelineHandle>> {
        self.running.read().values().cloned().collect()
    }

    /// The one of this name.
    pub(crate) fn get(&self, name: &str) -> Option<Arc<PipelineHandle>> {
        self.running.read().get(name).cloned()
    }

    /// The one of this name, or an error that names it.
    pub(crate) fn named(&self, name: &str) -> Result<Arc<PipelineHandle>> {
        self.get(name).ok_or_else(|| missing(name))
    }

    /// Whether the configuration file declares it.
    pub(crate) fn is_in_file(&self, name: &str) -> bool {
        self.in_file.contains(name)
    }

    /// Declares a pipeline, or changes one that was declared so; says whether it is new.
    pub(crate) async fn declare(self: &Arc<Self>, pipeline: PipelineConfig) -> Result<bool> {
        let _changing = self.changing.lock().await;
        let name = pipeline.name.clone();
        self.refuse_in_file(&name)?;
        // Before anything is stored or stopped: what is stored must start with the program.
        Pipeline::check(&pipeline)?;
        let known = self.get(&name);
        match &known {
            Some(known) => refuse_moved(known.config(), &pipeline)?,
            None if self.running.read().len() >= self.limit => {
                let reason =
                    format!("there are [{}] pipelines, as many as max_pipelines", self.limit);
                return Err(Error::new(Kind::State, reason));
            }
            None => {}
        }
        let paused = known.as_ref().is_some_and(|known| known.is_paused());
        if let Some(known) = &known {
            known.stop().await;
        }
        let this = Arc::clone(self);
        let begin = move || {
            // Kept first: one that runs is there again after a crash.
            let kept = Kept { paused, declared: Some(pipeline.clone()) };
            kept.store(&*this.disk, &this.folder.join(&pipeline.name))?;
            this.follow(pipeline).map_err(|(_, error)| error)
        };
        // On a runtime's thread, which a pipeline's own asks for.
        let begun = tokio::task::spawn_blocking(begin).await;
        begun.map_err(|error| Error::new(Kind::Internal, error.to_string()))??;
        Ok(known.is_none())
    }

    /// Drops a pipeline that was declared while the program ran: its slot and publication, its files
    /// and, if wanted, its indexes. With `force` also where the database cannot be reached, which
    /// then keeps the slot.
    pub(crate) async fn drop(self: &Arc<Self>, name: &str, options: DropOptions) -> Result<()> {
        let _changing = self.changing.lock().await;
        let handle = self.named(name)?;
        self.refuse_in_file(name)?;
        match handle.leave_database().await {
            Err(error) if options.force => {
                tracing::warn!(%error, pipeline = name, "its slot stays in the database");
                handle.stop().await;
            }
            left => left?,
        }
        let (this, name) = (Arc::clone(self), name.to_owned());
        let remove = move || -> Result<()> {
            this.disk.remove_folder(&this.folder.join(&name)).map_err(egret_cdc::Error::from)?;
            this.disk.sync_folder(&this.folder).map_err(egret_cdc::Error::from)?;
            this.running.write().remove(&name);
            let followed = |index: &Arc<Index>| index.pipeline() == Some(name.as_str());
            let indexes = if options.deletes_indexes { this.engine.indexes() } else { Vec::new() };
            for index in indexes.into_iter().filter(followed) {
                this.engine.delete_index(index.name(), true)?;
            }
            Ok(())
        };
        let removed = tokio::task::spawn_blocking(remove).await;
        removed.map_err(|error| Error::new(Kind::Internal, error.to_string()))?
    }

    /// Stops all.
    pub(crate) async fn stop(&self) {
        let _changing = self.changing.lock().await;
        for pipeline in self.all() {
            pipeline.stop().await;
        }
    }

    fn refuse_in_file(&self, name: &str) -> Result<()> {
        if !self.is_in_file(name) {
            return Ok(());
        }
        let reason = format!(
            "pipeline [{name}] is declared in the configuration file, and is changed there only"
        );
        Err(Error::new(Kind::State, reason))
    }
}

/// Nobody follows a pipeline that the configuration does not name any more, and nobody bounds its slot.
fn warn_of_slot(pipeline: &str, slot: Option<String>) {
    let Some(slot) = slot else { return };
    tracing::warn!(
        pipeline,
        slot,
        "the pipeline is not declared any more, and its slot may have the database keep its log: declare \
         it again, or drop the slot (SELECT pg_drop_replication_slot('{slot}')) and remove its folder"
    );
}

/// How to drop a pipeline.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct DropOptions {
    /// Also where the database cannot be reached.
    pub(crate) force: bool,
    /// With its indexes.
    pub(crate) deletes_indexes: bool,
}

/// A slot and a publication that nobody would drop any more are not left behind.
fn refuse_moved(known: &PipelineConfig, new: &PipelineConfig) -> Result<()> {
    let place = |it: &PipelineConfig| (it.slot_name(), it.publication_name());
    if place(known) == place(new) && database(&known.url) == database(&new.url) {
        return Ok(());
    }
    let reason = format!(
        "pipeline [{}] has another database, slot or publication: drop it first",
        known.name
    );
    Err(Error::new(Kind::State, reason))
}

/// What of a URL says which database it is: without user, password and options.
fn database(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let rest = rest.split_once('?').map_or(rest, |(rest, _)| rest);
    rest.rsplit_once('@').map_or(rest, |(_, rest)| rest)
}

pub(crate) fn missing(name: &str) -> Error {
    Error::new(Kind::NotFound, format!("pipeline [{name}] missing"))
}

fn configuration(name: &str, error: egret_cdc::Error) -> Error {
    Error::new(Kind::Configuration, format!("pipeline [{name}]: {error}")).with_source(error)
}
