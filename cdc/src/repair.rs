//! Reading single rows again, by their `_id`: what a retry of dead letters writes, and what a copy that
//! goes on lacks.
//!
//! A snapshot and the position in the log that agrees with it come from a temporary slot, as for a
//! copy. What is read is right at that position, and is written once the stream has passed it, for
//! the rows that the stream did not change after it meanwhile.

use std::sync::Arc;

use bytes::Bytes;
use egret_engine::Lsn;
use egret_engine::composition::parse_row_id;
use futures_util::{StreamExt, pin_mut};

use crate::catalog::Table;
use crate::connect::{Control, Source, quote_identifier, quote_literal};
use crate::copy::text::{CopyRow, Lines};
use crate::document::{MAX_LETTER_KEY_BYTES, RowFormat};
use crate::error::{Error, ErrorKind, Result};
use crate::slot::Server;
use crate::sync::snapshot;
use crate::transaction::RefusedRow;

/// Rows of one table to read again.
pub(crate) struct Reading {
    /// The table's place in the pipeline.
    pub(crate) place: usize,
    pub(crate) table: Arc<Table>,
    pub(crate) format: RowFormat,
    pub(crate) ids: Vec<String>,
}

/// What was read, as it was at one position.
pub(crate) struct Read {
    pub(crate) lsn: Lsn,
    pub(crate) rows: Vec<ReadRow>,
}

/// One row.
pub(crate) struct ReadRow {
    pub(crate) place: usize,
    pub(crate) id: String,
    pub(crate) found: Found,
}

/// What there is of a row.
pub(crate) enum Found {
    /// Its document.
    Document(Bytes),
    /// Nothing: it was removed, counts as deleted, or is not among the rows that are taken.
    Nothing,
    /// It still makes no document.
    Refused(RefusedRow),
    /// It could not be asked for.
    Unreadable(String),
}

/// Reads rows on connections of its own.
pub(crate) async fn read(
    source: Source,
    slot: String,
    server: Server,
    readings: Vec<Reading>,
) -> Result<Read> {
    let control = source.control().await?;
    let (snapshot, session) = snapshot(&source, &control, &slot, &server).await?;
    crate::copy::import(&control, &snapshot.name).await?;
    let mut rows = Vec::new();
    for reading in &readings {
        for id in &reading.ids {
            let found = read_one(&control, reading, id).await?;
            rows.push(ReadRow { place: reading.place, id: id.clone(), found });
        }
    }
    control.execute("ending the reading", "COMMIT").await?;
    control.end();
    drop(session);
    Ok(Read { lsn: snapshot.checkpoint.lsn, rows })
}

/// Reads one row on a session that is in the snapshot.
pub(crate) async fn read_one(control: &Control, reading: &Reading, id: &str) -> Result<Found> {
    let key = reading.format.rows_of().and_then(|_| parse_row_id(id)).map_or(id, |(_, key)| key);
    if key.is_empty() || key.len() > MAX_LETTER_KEY_BYTES {
        return Ok(Found::Unreadable("it has no key to be read by".to_owned()));
    }
    let Some(statement) = statement(reading, id, "") else {
        // It has not as many parts as the key: it is no row's.
        return Ok(Found::Nothing);
    };
    control.execute("reading a row again", "SAVEPOINT one").await?;
    match ask(control, reading, id, &statement).await {
        Err(error) if error.kind() == ErrorKind::Server => {
            control.execute("reading a row again", "ROLLBACK TO SAVEPOINT one").await?;
            if error.is_bad_value() && is_no_key(control, reading, id).await? {
                return Ok(Found::Nothing);
            }
            Ok(Found::Unreadable(error.to_string()))
        }
        found => {
            control.execute("reading a row again", "RELEASE SAVEPOINT one").await?;
            found
        }
    }
}

/// Whether no row can have this id: its texts are none of its columns' types. Asked without looking at
/// any row, whose own faults would say nothing.
async fn is_no_key(control: &Control, reading: &Reading, id: &str) -> Result<bool> {
    let Some(statement) = statement(reading, id, " LIMIT 0") else { return Ok(true) };
    match ask(control, reading, id, &statement).await {
        Err(error) if error.kind() == ErrorKind::Server => {
            control.execute("reading a row again", "ROLLBACK TO SAVEPOINT one").await?;
            Ok(error.is_bad_value())
        }
        asked => asked.map(|_| false),
    }
}

async fn ask(control: &Control, reading: &Reading, id: &str, statement: &str) -> Result<Found> {
    let format = &reading.format;
    let pieces = control.ask("reading a row again", control.client().copy_out(statement)).await?;
    pin_mut!(pieces);
    let (mut lines, mut row) = (Lines::default(), CopyRow::default());
    let mut found = Found::Nothing;
    let mut take = |line: &[u8]| -> Result<()> {
        if row.parse(line) != format.columns().len() {
            let message = "a row has not the columns that were asked for";
            return Err(Error::new(ErrorKind::Protocol, message));
        }
        // Types with more than one text for the same value may give another row's.
        if format.is_deleted(&row) || format.letter_id(&row).as_deref() != Some(id) {
            return Ok(());
        }
        found = match format.id(&row).and_then(|_| format.document(&row)) {
            Ok(document) => Found::Document(document.source),
            Err(error) => Found::Refused(RefusedRow {
                id: id.to_owned(),
                reason: error.to_string(),
                raw: format.raw(&row),
            }),
        };
        Ok(())
    };
    while let Some(piece) = pieces.next().await {
        lines.feed(piece?, &mut take)?;
    }
    Ok(found)
}

/// Asks for the row of an `_id`, through the key's index: the texts are read as the columns' types.
fn statement(reading: &Reading, id: &str, end: &str) -> Option<String> {
    let Reading { table, format, .. } = reading;
    let key = match format.rows_of() {
        Some(_) => parse_row_id(id)?.1,
        None => id,
    };
    let parts = format.key_parts(key)?;
    let columns = format.columns();
    let names: Vec<String> = columns.iter().map(|it| quote_identifier(&it.name)).collect();
    let equal = |(&at, part): (&usize, &String)| {
        Some(format!("{} = {}", names.get(at)?, quote_literal(part)))
    };
    let mut conditions: Vec<String> =
        format.key().iter().zip(&parts).map(equal).collect::<Option<_>>()?;
    let rows = table.shape.as_ref().and_then(|shape| shape.filter());
    conditions.extend(rows.map(|rows| format!("({rows})")));
    let (names, conditions) = (names.join(", "), conditions.join(" AND "));
    let table = table.rows();
    Some(format!("COPY (SELECT {names} FROM {table} WHERE {conditions}{end}) TO STDOUT"))
}
