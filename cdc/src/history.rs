//! Timelines: a standby that is promoted goes on in a history of its own, which has everything of the
//! older one up to where it left it, and nothing after.

use std::sync::Arc;

use egret_engine::{Checkpoint, Lsn};

use crate::error::{Error, ErrorKind, Result};
use crate::slot::lsn;

/// The timelines that a server's own one comes from, each with the position where it was left.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct History(Arc<[(u32, Lsn)]>);

impl History {
    /// Reads the file that `TIMELINE_HISTORY` gives: in each line a timeline, where it was left, and
    /// why.
    pub(crate) fn parse(content: &[u8]) -> Result<Self> {
        let text = String::from_utf8_lossy(content);
        let lines = text.lines().map(str::trim);
        let told = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
        told.map(|line| {
            let mut fields = line.split_whitespace();
            let timeline = fields.next().and_then(|number| number.parse().ok());
            let (Some(timeline), Some(end)) = (timeline, fields.next()) else {
                let message = format!("the timeline's history has the line [{line}]");
                return Err(Error::new(ErrorKind::Protocol, message));
            };
            Ok((timeline, lsn(end)?))
        })
        .collect::<Result<_>>()
        .map(Self)
    }

    /// Where a timeline was left, where the server's own one comes from it.
    pub(crate) fn end_of(&self, timeline: u32) -> Option<Lsn> {
        self.0.iter().find(|(known, _)| *known == timeline).map(|(_, end)| *end)
    }

    /// Whether everything before a position of another timeline is in the server's history too.
    pub(crate) fn has(&self, at: Checkpoint) -> bool {
        self.end_of(at.timeline).is_some_and(|end| at.lsn <= end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_the_server() {
        let file = b"1\t0/3000148\tno recovery target specified\n\n# by hand\n2\t1/A\tbefore x\n";
        let history = History::parse(file).unwrap();
        assert_eq!(history.end_of(1), Some(Lsn(0x300_0148)));
        assert_eq!(history.end_of(2), Some(Lsn(0x1_0000_000A)));
        assert_eq!(history.end_of(3), None);
        let at = |timeline, lsn| Checkpoint { system_identifier: 7, timeline, lsn: Lsn(lsn) };
        assert!(history.has(at(1, 0x300_0148)) && !history.has(at(1, 0x300_0149)));
        assert!(!history.has(at(3, 1)));
        assert_eq!(History::parse(b"").unwrap(), History::default());
        for damaged in ["1", "x\t0/1\t", "1\tnowhere\t"] {
            assert!(History::parse(damaged.as_bytes()).is_err(), "{damaged}");
        }
    }
}
