//! The pipeline's state machine.

use tokio::time::sleep;

use crate::backoff::Backoff;
use crate::error::{Error, ErrorKind, Result};
use crate::pipeline::Pipeline;
use crate::status::PipelineState;

impl Pipeline {
    /// Follows the database until stopped, through every failure that may pass by itself.
    pub(crate) async fn follow(&self) {
        let mut backoff = Backoff::new(self.config.reconnect_max());
        loop {
            let Err(error) = self.attempt().await else { return };
            if error.kind() == ErrorKind::Refused {
                self.board.set_state(PipelineState::Refused, Some(error.to_string()));
                return;
            }
            self.board.set_state(PipelineState::Retrying, Some(error.to_string()));
            sleep(backoff.pause()).await;
        }
    }

    async fn attempt(&self) -> Result<()> {
        self.board.set_state(PipelineState::Connecting, None);
        let control = self.source.control().await?;
        let row = control
            .ask("asking for wal_level", control.client().query_one("SHOW wal_level", &[]))
            .await?;
        let level: String = row.try_get(0)?;
        if level != "logical" {
            let message = format!("wal_level is [{level}], and must be logical");
            return Err(Error::new(ErrorKind::Server, message));
        }
        std::future::pending().await
    }
}
