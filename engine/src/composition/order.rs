//! The order of the rows of a relation.

use std::cmp::Ordering;

use super::{Order, Row, parse_row_id, utf8};
use crate::document::patch::members;
use crate::error::Result;

/// Sorts rows by columns, then by their key, so that equal tables make equal documents.
pub(super) fn sort(rows: Vec<Row>, order: &[Order]) -> Result<Vec<Row>> {
    let mut keyed = Vec::with_capacity(rows.len());
    for row in rows {
        keyed.push((values(&row, order)?, row));
    }
    keyed.sort_by(|(one, first), (other, second)| {
        let columns = one.iter().zip(other).zip(order).map(|((one, other), order)| {
            let ordering = one.compare(other);
            if order.descending { ordering.reverse() } else { ordering }
        });
        let by_columns = columns.into_iter().find(|ordering| ordering.is_ne());
        by_columns.unwrap_or_else(|| compare_keys(&first.id, &second.id))
    });
    Ok(keyed.into_iter().map(|(_, row)| row).collect())
}

/// A value to sort by; a null is above all others.
enum SortValue {
    Whole(i128),
    Number(f64),
    Text(String),
    Null,
}

impl SortValue {
    fn of(value: Option<&str>) -> Self {
        let Some(value) = value.filter(|value| *value != "null") else { return Self::Null };
        if value.starts_with('"') {
            return Self::Text(serde_json::from_str(value).unwrap_or_default());
        }
        match (value.parse(), value.parse()) {
            (Ok(whole), _) => Self::Whole(whole),
            (_, Ok(number)) => Self::Number(number),
            _ => Self::Text(value.to_owned()),
        }
    }

    fn compare(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Whole(one), Self::Whole(other)) => one.cmp(other),
            (Self::Text(one), Self::Text(other)) => one.cmp(other),
            _ => self.rank().cmp(&other.rank()).then(self.as_f64().total_cmp(&other.as_f64())),
        }
    }

    fn rank(&self) -> u8 {
        match self {
            Self::Whole(_) | Self::Number(_) => 0,
            Self::Text(_) => 1,
            Self::Null => 2,
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "only to compare with a double")]
    fn as_f64(&self) -> f64 {
        match self {
            Self::Whole(whole) => *whole as f64,
            Self::Number(number) => *number,
            Self::Text(_) | Self::Null => 0.0,
        }
    }
}

fn values(row: &Row, order: &[Order]) -> Result<Vec<SortValue>> {
    if order.is_empty() {
        return Ok(Vec::new());
    }
    let fields = members(utf8(&row.source)?)?;
    let value = |order: &Order| {
        let field = fields.iter().find(|field| field.key == order.column.as_str());
        SortValue::of(field.map(|field| field.value))
    };
    Ok(order.iter().map(value).collect())
}

/// Keys that are numbers in the order of numbers, part by part.
fn compare_keys(one: &str, other: &str) -> Ordering {
    let key = |id| parse_row_id(id).map_or("", |(_, key)| key);
    let (mut ones, mut others) = (key(one).split(','), key(other).split(','));
    loop {
        let (a, b) = match (ones.next(), others.next()) {
            (Some(a), Some(b)) => (a, b),
            (None, None) => return Ordering::Equal,
            (a, _) => return a.is_some().cmp(&true).then(Ordering::Greater),
        };
        let ordering = match (a.parse::<i128>(), b.parse::<i128>()) {
            (Ok(a), Ok(b)) => a.cmp(&b),
            (a_is, b_is) => b_is.is_ok().cmp(&a_is.is_ok()).then(a.cmp(b)),
        };
        if ordering.is_ne() {
            return ordering;
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::super::row_id;
    use super::*;

    fn check(rows: &[(&str, &str)], order: &[(&str, bool)], expected: &str) {
        let row = |(key, source): &(&str, &str)| Row {
            id: row_id(0, key),
            source: Bytes::copy_from_slice(source.as_bytes()),
        };
        let column =
            |&(column, descending): &(&str, bool)| Order { column: column.to_owned(), descending };
        let order: Vec<Order> = order.iter().map(column).collect();
        let sorted = sort(rows.iter().map(row).collect(), &order).unwrap();
        let keys: Vec<&str> = sorted.iter().map(|row| parse_row_id(&row.id).unwrap().1).collect();
        assert_eq!(keys.join(" "), expected);
    }

    #[test]
    fn rows_are_sorted() {
        check(&[("10", "{}"), ("9", "{}"), ("a", "{}"), ("-1", "{}")], &[], "-1 9 10 a");
        check(&[("1,b", "{}"), ("1,10", "{}"), ("1,9", "{}")], &[], "1,9 1,10 1,b");
        let rows = [
            ("1", r#"{"a":null}"#),
            ("2", r#"{"a":10}"#),
            ("3", r#"{"a":9.5}"#),
            ("4", r#"{"a":"x"}"#),
            ("5", r#"{"a":10}"#),
        ];
        check(&rows, &[("a", false)], "3 2 5 4 1");
        check(&rows, &[("a", true)], "1 4 2 5 3");
    }
}
