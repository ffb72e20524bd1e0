//! Read your writes: waiting until indexes show everything up to a position in the database's log.

use std::str::FromStr;
use std::time::Duration;

use egret_engine::index::Positions;
use egret_engine::{Checkpoint, Lsn};
use tokio::sync::watch;

use crate::error::{Error, ErrorKind};

/// A position to wait for: `<system identifier>/<timeline>/<LSN>`, or the LSN alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LsnToken {
    /// The system identifier and timeline that the LSN belongs to, where the token says.
    pub system: Option<(u64, u32)>,
    /// The position.
    pub lsn: Lsn,
}

impl FromStr for LsnToken {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let parts: Vec<&str> = text.split('/').collect();
        let parse = || match parts.as_slice() {
            [_, _] => Some(Self { system: None, lsn: text.parse().ok()? }),
            [system, timeline, high, low] => Some(Self {
                system: Some((system.parse().ok()?, timeline.parse().ok()?)),
                lsn: format!("{high}/{low}").parse().ok()?,
            }),
            _ => None,
        };
        parse().ok_or_else(|| {
            Error::new(
                ErrorKind::Invalid,
                format!("[{text}] is neither an LSN nor <system identifier>/<timeline>/<LSN>"),
            )
        })
    }
}

impl std::fmt::Display for LsnToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some((system, timeline)) = self.system {
            write!(f, "{system}/{timeline}/")?;
        }
        write!(f, "{}", self.lsn)
    }
}

impl From<Checkpoint> for LsnToken {
    fn from(checkpoint: Checkpoint) -> Self {
        Self {
            system: Some((checkpoint.system_identifier, checkpoint.timeline)),
            lsn: checkpoint.lsn,
        }
    }
}

/// How a wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitOutcome {
    /// Every index shows everything up to here, which is at or past the token.
    Reached(Lsn),
    /// The deadline passed; every index shows everything up to here, where anything at all.
    Timeout(Option<Lsn>),
    /// The index follows another system or timeline than the token names.
    Mismatch {
        /// What the index follows.
        followed: (u64, u32),
    },
    /// An index follows no pipeline, or not this one.
    NoPipeline,
}

/// Waits until all of `indexes` show everything up to the token's position.
pub(crate) async fn wait_for_positions(
    mut indexes: Vec<watch::Receiver<Positions>>,
    token: LsnToken,
    timeout: Duration,
) -> WaitOutcome {
    let deadline = tokio::time::Instant::now() + timeout;
    let mut smallest: Option<Lsn> = None;
    for at in 0..indexes.len() {
        let Some(positions) = indexes.get_mut(at) else { break };
        let outcome = tokio::time::timeout_at(deadline, wait_for_one(positions, token)).await;
        match outcome {
            Ok(Some(Ok(lsn))) => smallest = Some(smallest.map_or(lsn, |known| known.min(lsn))),
            Ok(Some(Err(followed))) => return WaitOutcome::Mismatch { followed },
            // The index was closed under us: nothing more will be shown.
            Ok(None) | Err(_) => return WaitOutcome::Timeout(reached(&indexes)),
        }
    }
    smallest.map_or(WaitOutcome::NoPipeline, WaitOutcome::Reached)
}

/// The visible LSN once it is at or past the token, or what the index follows instead.
async fn wait_for_one(
    positions: &mut watch::Receiver<Positions>,
    token: LsnToken,
) -> Option<Result<Lsn, (u64, u32)>> {
    loop {
        let visible = positions.borrow_and_update().visible;
        if let Some(visible) = visible {
            let followed = (visible.system_identifier, visible.timeline);
            if token.system.is_some_and(|system| system != followed) {
                return Some(Err(followed));
            }
            if visible.lsn >= token.lsn {
                return Some(Ok(visible.lsn));
            }
        }
        positions.changed().await.ok()?;
    }
}

/// The smallest visible LSN, where every index has one.
fn reached(indexes: &[watch::Receiver<Positions>]) -> Option<Lsn> {
    let visible = indexes.iter().map(|index| index.borrow().visible.map(|visible| visible.lsn));
    visible.collect::<Option<Vec<Lsn>>>()?.into_iter().min()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(lsn: u64) -> Positions {
        let checkpoint = Checkpoint { system_identifier: 7, timeline: 1, lsn: Lsn(lsn) };
        Positions { visible: Some(checkpoint), ..Positions::default() }
    }

    #[test]
    fn tokens() {
        let check = |text: &str, expected: Option<LsnToken>| {
            assert_eq!(text.parse::<LsnToken>().ok(), expected, "{text}");
            if let Some(token) = expected {
                assert_eq!(token.to_string().parse::<LsnToken>().unwrap(), token);
            }
        };
        check("0/10", Some(LsnToken { system: None, lsn: Lsn(16) }));
        check("7/2/1/A", Some(LsnToken { system: Some((7, 2)), lsn: Lsn(0x1_0000_000A) }));
        for bad in ["", "/", "10", "1/2/3", "a/2/0/1", "7/2/0/x", "7/2/0/1/", "7/2/0/1/2"] {
            check(bad, None);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn waits_for_the_smallest() {
        let (first, first_positions) = watch::channel(at(10));
        let (_second, second_positions) = watch::channel(at(30));
        let token = LsnToken { system: Some((7, 1)), lsn: Lsn(20) };
        let indexes = vec![first_positions, second_positions];
        let wait = tokio::spawn(wait_for_positions(indexes.clone(), token, Duration::from_secs(5)));
        tokio::task::yield_now().await;
        assert!(!wait.is_finished());
        first.send(at(25)).unwrap();
        assert_eq!(wait.await.unwrap(), WaitOutcome::Reached(Lsn(25)));

        let token = LsnToken { system: None, lsn: Lsn(26) };
        let outcome = wait_for_positions(indexes.clone(), token, Duration::from_secs(5)).await;
        assert_eq!(outcome, WaitOutcome::Timeout(Some(Lsn(25))));

        let token = LsnToken { system: Some((8, 1)), lsn: Lsn(1) };
        let outcome = wait_for_positions(indexes, token, Duration::from_secs(5)).await;
        assert_eq!(outcome, WaitOutcome::Mismatch { followed: (7, 1) });

        let outcome = wait_for_positions(Vec::new(), token, Duration::from_secs(5)).await;
        assert_eq!(outcome, WaitOutcome::NoPipeline);
    }
}
