//! The way back from a copy: the index from before is kept for a while, and can take the newer one's
//! place again, without a row that was committed before or after the swap being lost.
//!
//! Nobody writes to what is kept. The pipeline's slot holds the log back from where it stands; going
//! back reads that once more, beside the stream, as an index that comes back after a failure is
//! brought to where the stream is (see [`sync`](crate::sync)), and swaps it in there. The other way
//! would be to write every change to both. That spends an index's work on each change for as long as
//! it is kept, on a way that is seldom taken, and it needs this one all the same: the older index
//! stands still while the newer one is filled, so that it must catch up before it could be written to.
//! The price is log that the database keeps. It is bounded: past `max_copy_wal_bytes` the way back ends,
//! which is told, rather than fill the database's disk.
//!
//! What is kept is followed by the declaration that it was made by, which it remembers, and which need
//! not be what is declared now. So the way is open only where the log has all that this needs: where
//! rows were changed without being streamed (a column with a new type, another default), or the
//! publication's part of the table is another one (other columns, another filter), the older
//! documents would be stale, and nothing is kept. Nor is it where rows are listed as dead letters
//! when the copy begins, since a copy clears what was listed. On the way back every row must fit: one
//! that only the newer index takes ends it, before anything of its transaction is in the older one.
//!
//! One index is kept at a time. A way back ends as soon as its table must be copied once more: what that
//! copy replaces is the next to be kept.
//!
//! Once it is swapped in, the older index remembers what was gone back from. As long as exactly that is
//! declared, its table is followed by the older declaration and not copied anew.

use std::sync::Arc;

use egret_engine::Lsn;
use tokio::sync::oneshot;

use crate::acknowledge::Held;
use crate::catalog::Table;
use crate::config::DocumentConfig;
use crate::connect::Control;
use crate::error::Result;
use crate::progress::{CopyState, Progress};
use crate::shape;
use crate::sink::Sink;

/// What the indexes of a table remember of its declarations.
#[derive(Debug, Default)]
pub(crate) struct Earlier {
    /// What was gone back from, and what the table is followed by instead.
    pub(crate) returned: Option<(Option<String>, Option<String>)>,
    /// What the index remembers that serves, which can be gone back to once it is replaced.
    pub(crate) live: Option<Progress>,
    /// What the index remembers that is kept from before it.
    pub(crate) kept: Option<Progress>,
}

/// A table as it was followed into the index that serves, and into the one that is kept from before it;
/// or why it cannot be followed so any more.
#[derive(Default)]
pub(crate) struct Before {
    pub(crate) live: Option<Result<Arc<Table>, String>>,
    pub(crate) kept: Option<Result<Arc<Table>, String>>,
}

/// What is remembered of declarations: by the index that serves, by the one that does so next (the same
/// or what is about to replace it), and by the one that is kept from before.
pub(crate) fn earlier(
    live: Option<Progress>,
    next: Option<Progress>,
    kept: Option<Progress>,
) -> Earlier {
    let live = live.filter(|live| live.state == CopyState::Done);
    let returned = next.and_then(|it| Some((it.returned?.declared, it.declared)));
    Earlier { returned, live, kept }
}

/// The declaration of a table, as an index remembers it.
pub(crate) fn declared(table: &Table) -> Option<String> {
    table.shape.as_ref().map(|shape| shape.to_text())
}

/// A table without a declaration, as it is by an earlier one; the inner error is why it cannot be.
pub(crate) async fn redeclared(
    control: &Control,
    plain: &Table,
    declared: Option<&str>,
    version: u32,
) -> Result<Result<Table, String>> {
    let document = match declared.map(serde_json::from_str::<DocumentConfig>).transpose() {
        Ok(document) => document,
        Err(error) => return Ok(Err(format!("its earlier declaration cannot be read: {error}"))),
    };
    if document.as_ref().is_some_and(|document| !document.related.is_empty()) {
        return Ok(Err("its documents were composed otherwise from several tables".to_owned()));
    }
    let mut tables = vec![plain.clone()];
    shape::declare(control, &mut tables, document.as_slice(), version).await?;
    Ok(match tables.pop() {
        Some(Table { key: Err(reason), .. }) => Err(reason),
        Some(table) => Ok(table),
        None => Err("it is gone".to_owned()),
    })
}

/// An index that could be gone back to, as it was judged.
#[derive(Clone)]
pub(crate) struct Back {
    pub(crate) uuid: String,
    /// Whether the newer one has taken its place already.
    pub(crate) is_kept: bool,
    /// The one that is kept from before it: that way ends when this one opens.
    pub(crate) ends: Option<String>,
    /// It, and the table by which it is followed; or why it cannot be gone back to.
    pub(crate) judged: Result<(Arc<dyn Sink>, Arc<Table>), String>,
}

/// An index that can be gone back to.
pub(crate) struct WayBack {
    pub(crate) sink: Arc<dyn Sink>,
    /// The table as it is followed there.
    pub(crate) table: Arc<Table>,
    /// The log that it needs.
    pub(crate) held: Held,
    /// Until when it is kept, in milliseconds since 1970; none before it was replaced.
    pub(crate) kept_until_ms: Option<i64>,
    /// It is being brought to where the stream is.
    pub(crate) returning: Option<Returning>,
}

/// Going back, under way.
pub(crate) struct Returning {
    /// The synchronization.
    pub(crate) number: usize,
    pub(crate) reply: oneshot::Sender<Result<()>>,
}

impl WayBack {
    /// From an index that holds everything up to here.
    pub(crate) fn new(sink: Arc<dyn Sink>, table: Arc<Table>, floor: Lsn) -> Self {
        let held = Held::of(&*sink, floor);
        Self { sink, table, held, kept_until_ms: None, returning: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::ReturnedFrom;

    fn progress(declared: &str, returned: Option<&str>) -> Progress {
        let text = format!(
            r#"{{"state": "done", "lsn": "0/5", "table": 1, "columns": [], "key": [],
                "declared": "{declared}"}}"#
        );
        let returned = returned.map(|from| ReturnedFrom { declared: Some(from.to_owned()) });
        Progress { returned, ..Progress::from_text(&text).unwrap() }
    }

    #[test]
    fn which_declaration_counts() {
        let check = |live: Progress, next, returned: Option<(&str, &str)>| {
            let declared = live.declared.clone();
            let found = earlier(Some(live), Some(next), Some(progress("kept", None)));
            let returned = returned.map(|(from, to)| (Some(from.to_owned()), Some(to.to_owned())));
            assert_eq!(found.returned, returned);
            assert_eq!(found.live.unwrap().declared, declared);
            assert_eq!(found.kept.unwrap().declared.as_deref(), Some("kept"));
        };
        let (old, new) = (|| progress("old", Some("new")), || progress("new", None));
        check(new(), new(), None);
        check(new(), old(), Some(("new", "old")));
        check(old(), old(), Some(("new", "old")));
        // It is being copied anew.
        check(old(), new(), None);
        // What is not whole is nothing to go back to.
        let copying = Progress { state: CopyState::Copying, ..new() };
        assert!(earlier(Some(copying), None, None).live.is_none());
    }
}
