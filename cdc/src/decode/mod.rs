//! PostgreSQL's `pgoutput` messages, protocol version 1, as bytes from the stream.
//!
//! [`decode`] reads one message and never panics: whatever does not follow the protocol is a
//! [`DecodeError`] that names the field. Texts and values are slices of the message, not copies.
//! Begin and Commit reach us through the driver already taken apart, and are decoded here only so
//! that the format is whole.

mod reader;

use bytes::Bytes;

use reader::Reader;

/// Columns that one relation can have: PostgreSQL's own limit.
const MAX_COLUMNS: usize = 1664;

/// What is wrong with a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DecodeError {
    /// It ends too early.
    #[error("message ends within {0}")]
    Truncated(&'static str),
    /// It goes on after its end.
    #[error("{0} bytes after the end of the message")]
    Trailing(usize),
    /// It has a value that the protocol does not know.
    #[error("unknown {field} [{value}]")]
    Unknown {
        /// Which field.
        field: &'static str,
        /// Its value.
        value: i64,
    },
    /// A message of a later protocol version (streamed or prepared transactions), which is never
    /// asked for.
    #[error("message type [{0}] belongs to a later protocol version than 1")]
    LaterVersion(char),
    /// A name that is not UTF-8.
    #[error("{0} is not UTF-8")]
    NotUtf8(&'static str),
}

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Message {
    /// A transaction begins.
    Begin {
        /// Where its commit record begins.
        final_lsn: u64,
        /// When it was committed, in microseconds since 2000.
        commit_micros: i64,
        /// Its number.
        xid: u32,
    },
    /// A transaction ends.
    Commit {
        /// Where its commit record begins.
        lsn: u64,
        /// Where its commit record ends.
        end_lsn: u64,
        /// When it was committed, in microseconds since 2000.
        commit_micros: i64,
    },
    /// Where a transaction came from.
    Origin,
    /// A table, before its first row and after every change of it.
    Relation(Relation),
    /// The name of a type, which is looked up in the catalog instead.
    Type,
    /// A new row.
    Insert {
        /// The table.
        relation: u32,
        /// The row.
        new: Tuple,
    },
    /// A changed row.
    Update {
        /// The table.
        relation: u32,
        /// What is known of the row before.
        old: OldTuple,
        /// The row.
        new: Tuple,
    },
    /// A removed row.
    Delete {
        /// The table.
        relation: u32,
        /// What is known of the row.
        old: OldTuple,
    },
    /// Tables that lost all rows.
    Truncate {
        /// The tables.
        relations: Vec<u32>,
    },
    /// Something that an application wrote into the log.
    Logical,
}

/// A table as the stream describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Relation {
    /// Its OID.
    pub(crate) id: u32,
    /// Its schema.
    pub(crate) schema: String,
    /// Its name.
    pub(crate) table: String,
    /// `d`, `f`, `i` or `n`.
    pub(crate) replica_identity: u8,
    /// Its columns, in the order of its rows' values.
    pub(crate) columns: Vec<RelationColumn>,
}

/// A column as the stream describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RelationColumn {
    /// Whether it is part of the replica identity.
    pub(crate) identity: bool,
    /// Its name.
    pub(crate) name: String,
    /// Its type.
    pub(crate) type_oid: u32,
    /// Its type's modifier, -1 for none.
    pub(crate) type_modifier: i32,
}

/// What an update or delete says of the row before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum OldTuple {
    /// Nothing: the replica identity is unchanged.
    None,
    /// The columns of the replica identity; the others are null.
    Key(Tuple),
    /// The whole row.
    Full(Tuple),
}

/// One value of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Datum {
    /// SQL's NULL.
    Null,
    /// Stored out of line and not changed, so not sent.
    Unchanged,
    /// The value as text.
    Text(Bytes),
}

/// The values of a row, in the order of its relation's columns.
pub(crate) type Tuple = Vec<Datum>;

/// Reads one message.
pub(crate) fn decode(data: &Bytes) -> Result<Message, DecodeError> {
    let mut reader = Reader::new(data);
    let message = match reader.u8("message type")? {
        b'B' => Message::Begin {
            final_lsn: reader.u64("final LSN")?,
            commit_micros: reader.i64("commit time")?,
            xid: reader.u32("xid")?,
        },
        b'C' => {
            reader.u8("flags")?;
            Message::Commit {
                lsn: reader.u64("commit LSN")?,
                end_lsn: reader.u64("end LSN")?,
                commit_micros: reader.i64("commit time")?,
            }
        }
        b'O' => {
            reader.u64("origin LSN")?;
            reader.text("origin")?;
            Message::Origin
        }
        b'R' => Message::Relation(relation(&mut reader)?),
        b'Y' => {
            reader.u32("type OID")?;
            reader.text("type schema")?;
            reader.text("type name")?;
            Message::Type
        }
        b'I' => {
            let relation = reader.u32("relation")?;
            expect_new(reader.u8("tuple kind")?)?;
            Message::Insert { relation, new: tuple(&mut reader)? }
        }
        b'U' => update(&mut reader)?,
        b'D' => {
            let relation = reader.u32("relation")?;
            let kind = reader.u8("tuple kind")?;
            Message::Delete { relation, old: old_tuple(kind, &mut reader)? }
        }
        b'T' => truncate(&mut reader)?,
        b'M' => {
            reader.u8("flags")?;
            reader.u64("message LSN")?;
            reader.text("prefix")?;
            let length = reader.length("content length")?;
            reader.bytes(length, "content")?;
            Message::Logical
        }
        tag @ (b'S' | b'E' | b'c' | b'A' | b'b' | b'P' | b'K' | b'r' | b'p') => {
            return Err(DecodeError::LaterVersion(char::from(tag)));
        }
        tag => return Err(DecodeError::Unknown { field: "message type", value: tag.into() }),
    };
    match reader.remaining() {
        0 => Ok(message),
        bytes => Err(DecodeError::Trailing(bytes)),
    }
}

fn relation(reader: &mut Reader<'_>) -> Result<Relation, DecodeError> {
    let id = reader.u32("relation")?;
    let schema = reader.text("schema")?;
    let table = reader.text("table")?;
    let replica_identity = reader.u8("replica identity")?;
    let count = columns(reader)?;
    let mut columns = Vec::with_capacity(count);
    for _ in 0..count {
        columns.push(RelationColumn {
            identity: reader.u8("column flags")? & 1 == 1,
            name: reader.text("column name")?,
            type_oid: reader.u32("column type")?,
            type_modifier: reader.i32("column type modifier")?,
        });
    }
    Ok(Relation { id, schema, table, replica_identity, columns })
}

fn update(reader: &mut Reader<'_>) -> Result<Message, DecodeError> {
    let relation = reader.u32("relation")?;
    let kind = reader.u8("tuple kind")?;
    if kind == b'N' {
        return Ok(Message::Update { relation, old: OldTuple::None, new: tuple(reader)? });
    }
    let old = old_tuple(kind, reader)?;
    expect_new(reader.u8("tuple kind")?)?;
    Ok(Message::Update { relation, old, new: tuple(reader)? })
}

fn truncate(reader: &mut Reader<'_>) -> Result<Message, DecodeError> {
    let count = reader.length("relation count")?;
    reader.u8("options")?;
    // Each takes four bytes: the count is checked before anything is reserved for it.
    if reader.remaining() / 4 < count {
        return Err(DecodeError::Truncated("relations"));
    }
    let mut relations = Vec::with_capacity(count);
    for _ in 0..count {
        relations.push(reader.u32("relation")?);
    }
    Ok(Message::Truncate { relations })
}

fn old_tuple(kind: u8, reader: &mut Reader<'_>) -> Result<OldTuple, DecodeError> {
    match kind {
        b'K' => Ok(OldTuple::Key(tuple(reader)?)),
        b'O' => Ok(OldTuple::Full(tuple(reader)?)),
        kind => Err(DecodeError::Unknown { field: "tuple kind", value: kind.into() }),
    }
}

fn expect_new(kind: u8) -> Result<(), DecodeError> {
    match kind {
        b'N' => Ok(()),
        kind => Err(DecodeError::Unknown { field: "tuple kind", value: kind.into() }),
    }
}

fn tuple(reader: &mut Reader<'_>) -> Result<Tuple, DecodeError> {
    let count = columns(reader)?;
    let mut values = Vec::with_capacity(count);
    for _ in 0..count {
        values.push(match reader.u8("value kind")? {
            b'n' => Datum::Null,
            b'u' => Datum::Unchanged,
            b't' => {
                let length = reader.length("value length")?;
                Datum::Text(reader.bytes(length, "value")?)
            }
            kind => return Err(DecodeError::Unknown { field: "value kind", value: kind.into() }),
        });
    }
    Ok(values)
}

fn columns(reader: &mut Reader<'_>) -> Result<usize, DecodeError> {
    let count = usize::from(reader.u16("column count")?);
    if count > MAX_COLUMNS {
        let value = i64::try_from(count).unwrap_or(i64::MAX);
        return Err(DecodeError::Unknown { field: "column count", value });
    }
    Ok(count)
}

#[cfg(test)]
mod tests;
