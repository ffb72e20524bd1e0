//! From a type's OID to what it is: known ones by number, all others by their row in the catalog.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::{Field, Kind, MAX_DEPTH};

/// A type as `pg_type` describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TypeRow {
    /// Its name.
    pub(crate) name: String,
    /// `typtype`: base, composite, domain, enum, pseudo, range, multirange.
    pub(crate) class: u8,
    /// `typcategory`: `A` for arrays.
    pub(crate) category: u8,
    /// The type of an array's elements, or 0.
    pub(crate) element: u32,
    /// What separates its values in an array.
    pub(crate) delimiter: u8,
    /// The type that a domain is made over, or 0.
    pub(crate) base: u32,
    /// Names and types of a composite type's parts.
    pub(crate) fields: Vec<(String, u32)>,
}

/// Types by OID.
pub(crate) type TypeRows = FxHashMap<u32, TypeRow>;

/// What a type is, or the OIDs whose rows are needed first.
pub(crate) fn resolve(oid: u32, rows: &TypeRows) -> Result<Kind, Vec<u32>> {
    resolve_at(oid, rows, 0)
}

fn resolve_at(oid: u32, rows: &TypeRows, depth: usize) -> Result<Kind, Vec<u32>> {
    if let Some(kind) = known(oid) {
        return Ok(kind);
    }
    let row = rows.get(&oid).ok_or_else(|| vec![oid])?;
    if depth > MAX_DEPTH {
        return Ok(Kind::Keyword);
    }
    match (row.class, row.category) {
        (b'd', _) => resolve_at(row.base, rows, depth + 1),
        (b'c', _) => composite(row, rows, depth),
        (b'b', b'A') if row.element != 0 => {
            let delimiter = match known(row.element) {
                Some(_) => b',',
                None => rows.get(&row.element).ok_or_else(|| vec![row.element])?.delimiter,
            };
            let element = Arc::new(resolve_at(row.element, rows, depth + 1)?);
            Ok(Kind::Array { element, delimiter })
        }
        (b'b', _) if row.name == "citext" => Ok(Kind::Text),
        (b'b', _) if matches!(&*row.name, "geometry" | "geography") => Ok(Kind::Geometry),
        (b'b', _) if row.name == "hstore" => Ok(Kind::Hstore),
        _ => Ok(Kind::Keyword),
    }
}

/// All parts, or all rows that are missing for them.
fn composite(row: &TypeRow, rows: &TypeRows, depth: usize) -> Result<Kind, Vec<u32>> {
    let mut fields = Vec::with_capacity(row.fields.len());
    let mut missing = Vec::new();
    for (name, oid) in &row.fields {
        match resolve_at(*oid, rows, depth + 1) {
            Ok(kind) => fields.push(Field { name: name.clone(), kind }),
            Err(oids) => missing.extend(oids),
        }
    }
    if missing.is_empty() { Ok(Kind::Composite(fields.into())) } else { Err(missing) }
}

/// Types whose OIDs are fixed in every PostgreSQL, and whose arrays use commas.
fn known(oid: u32) -> Option<Kind> {
    Some(match oid {
        16 => Kind::Bool,
        17 => Kind::Bytea,
        // name, text, xml, varchar
        19 | 25 | 142 | 1043 => Kind::Text,
        3614 => Kind::Lexemes,
        // int8, oid, xid, cid
        20 | 26 | 28 | 29 => Kind::Long,
        21 | 23 => Kind::Integer,
        114 => Kind::JsonWithRepeats,
        3802 => Kind::Json,
        700 | 701 => Kind::Float,
        790 => Kind::Money,
        1042 => Kind::PaddedText,
        1082 => Kind::Date,
        1083 => Kind::Time,
        1266 => Kind::TimeTz,
        1114 => Kind::Timestamp,
        1184 => Kind::TimestampTz,
        1700 => Kind::Numeric,
        600 => Kind::Point,
        650 => Kind::Network,
        869 => Kind::Address,
        3904 => Kind::Range(Arc::new(Kind::Integer)),
        3906 => Kind::Range(Arc::new(Kind::Numeric)),
        3908 => Kind::Range(Arc::new(Kind::Timestamp)),
        3910 => Kind::Range(Arc::new(Kind::TimestampTz)),
        3912 => Kind::Range(Arc::new(Kind::Date)),
        3926 => Kind::Range(Arc::new(Kind::Long)),
        4451 => Kind::MultiRange(Arc::new(Kind::Integer)),
        4532 => Kind::MultiRange(Arc::new(Kind::Numeric)),
        4533 => Kind::MultiRange(Arc::new(Kind::Timestamp)),
        4534 => Kind::MultiRange(Arc::new(Kind::TimestampTz)),
        4535 => Kind::MultiRange(Arc::new(Kind::Date)),
        4536 => Kind::MultiRange(Arc::new(Kind::Long)),
        // "char", macaddr8, macaddr, interval, bit, varbit, uuid
        18 | 774 | 829 | 1186 | 1560 | 1562 | 2950 => Kind::Keyword,
        _ => return None,
    })
}
