//! A table: columns that can be chosen, sorted and explained, as text or as JSON.

use std::cmp::Ordering;

use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::http::media::{Wanted, wanted};
use crate::http::{Call, Params, Reply};
use egret_engine::catalog::pattern::matches;

/// Parameters of every table.
pub(super) const PARAMS: &[&str] =
    &["v", "h", "s", "help", "local", "master_timeout", "cluster_manager_timeout"];

/// A column.
#[derive(Debug, Clone, Copy)]
pub(super) struct Column {
    name: &'static str,
    /// Other names, separated by commas.
    aliases: &'static str,
    description: &'static str,
    shown: bool,
    right: bool,
}

impl Column {
    pub(super) const fn new(
        name: &'static str,
        aliases: &'static str,
        description: &'static str,
    ) -> Self {
        Self { name, aliases, description, shown: true, right: false }
    }

    /// A column that stands to the right.
    pub(super) const fn number(
        name: &'static str,
        aliases: &'static str,
        description: &'static str,
    ) -> Self {
        Self { right: true, ..Self::new(name, aliases, description) }
    }

    /// Shown only when asked for.
    pub(super) const fn hidden(self) -> Self {
        Self { shown: false, ..self }
    }

    fn answers_to(&self, name: &str) -> bool {
        matches(name, self.name) || self.aliases.split(',').any(|alias| alias == name)
    }
}

/// A table.
#[derive(Debug)]
pub(super) struct Table {
    columns: &'static [Column],
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new(columns: &'static [Column]) -> Self {
        Self { columns, rows: Vec::new() }
    }

    /// Adds a row with a cell for each column.
    pub(super) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.into());
    }

    /// The answer that the request's parameters ask for.
    pub(super) fn answer(mut self, call: &Call) -> Result<Reply> {
        let params = &call.params;
        params.boolean("local")?;
        if params.is_true("help")? {
            return Ok(Reply::text(self.help()));
        }
        self.sort(params)?;
        let chosen = self.chosen(params);
        let json = match params.filled("format") {
            Some(format) => format == "json",
            None => {
                call.headers.contains_key("accept") && {
                    let accept = call.headers.get("accept").and_then(|value| value.to_str().ok());
                    accept.is_some_and(|accept| accept.contains("json"))
                        && wanted(&call.headers)? != Wanted::Text
                }
            }
        };
        if json {
            return Ok(Reply::ok(&self.objects(&chosen)));
        }
        Ok(Reply::text(self.text(&chosen, params.is_true("v")?)))
    }

    /// Which columns to show, and under which name.
    fn chosen(&self, params: &Params) -> Vec<(usize, String)> {
        let columns = self.columns.iter().enumerate();
        let wanted = params.list("h");
        if wanted.is_empty() {
            return columns
                .filter(|(_, column)| column.shown)
                .map(|(at, column)| (at, column.name.to_owned()))
                .collect();
        }
        let shown = |column: &Column, name: &str| {
            if name.contains('*') { column.name.to_owned() } else { name.to_owned() }
        };
        let named = |name: &String| {
            let columns = columns.clone().filter(|(_, column)| column.answers_to(name));
            columns.map(|(at, column)| (at, shown(column, name))).collect::<Vec<_>>()
        };
        wanted.iter().flat_map(named).collect()
    }

    fn sort(&mut self, params: &Params) -> Result<()> {
        let mut keys = Vec::new();
        for key in params.list("s") {
            let (name, descending) = match key.rsplit_once(':') {
                Some((name, "desc")) => (name, true),
                Some((name, "asc")) => (name, false),
                _ => (key.as_str(), false),
            };
            let at = self.columns.iter().position(|column| column.answers_to(name));
            let at = at.ok_or_else(|| {
                Error::argument(format!("Unable to sort by unknown sort key `{name}`"))
            })?;
            keys.push((at, descending));
        }
        self.rows.sort_by(|left, right| {
            let order = |key: &(usize, bool)| compare(left, right, *key);
            keys.iter().map(order).find(|order| order.is_ne()).unwrap_or(Ordering::Equal)
        });
        Ok(())
    }

    fn help(&self) -> String {
        let width = |text: fn(&Column) -> &'static str| {
            self.columns.iter().map(|column| text(column).len()).max().unwrap_or(0)
        };
        let (names, aliases) = (width(|column| column.name), width(|column| column.aliases));
        let line = |column: &Column| {
            let Column { name, aliases: other, description, .. } = column;
            format!("{name:<names$} | {other:<aliases$} | {description}\n")
        };
        self.columns.iter().map(line).collect()
    }

    fn objects(&self, chosen: &[(usize, String)]) -> Vec<Value> {
        let object = |row: &Vec<String>| {
            let cell = |(at, name): &(usize, String)| {
                (name.clone(), row.get(*at).map_or(Value::Null, |cell| cell.as_str().into()))
            };
            Value::Object(chosen.iter().map(cell).collect::<Map<_, _>>())
        };
        self.rows.iter().map(object).collect()
    }

    fn text(&self, chosen: &[(usize, String)], with_head: bool) -> String {
        let head: Vec<&str> = chosen.iter().map(|(_, name)| name.as_str()).collect();
        let mut lines: Vec<Vec<&str>> = if with_head { vec![head] } else { Vec::new() };
        lines.extend(self.rows.iter().map(|row| {
            chosen.iter().map(|(at, _)| row.get(*at).map_or("", String::as_str)).collect()
        }));
        let width = |column: usize| {
            let cells = lines.iter().filter_map(|line| line.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..chosen.len()).map(width).collect();
        let padded = |cell: &str, width: usize, column: usize| {
            let right = self.columns.get(column).is_some_and(|column| column.right);
            if right { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
        };
        let mut text = String::new();
        for line in &lines {
            let cells = line.iter().zip(&widths).zip(chosen);
            let cells = cells.map(|((cell, width), (at, _))| padded(cell, *width, *at));
            let mut cells: Vec<String> = cells.collect();
            // Nothing follows the last cell, so it needs no spaces behind it.
            if let Some(last) = cells.last_mut() {
                last.truncate(last.trim_end().len());
            }
            text.push_str(&cells.join(" "));
            text.push('\n');
        }
        text
    }
}

/// Compares rows by a cell, descending or not: numbers by their value, other texts by their
/// characters.
fn compare(left: &[String], right: &[String], (at, descending): (usize, bool)) -> Ordering {
    let (left, right) = (left.get(at), right.get(at));
    let number = |cell: Option<&String>| cell.and_then(|cell| cell.parse::<f64>().ok());
    let order = match (number(left), number(right)) {
        (Some(left), Some(right)) => left.total_cmp(&right),
        _ => left.cmp(&right),
    };
    if descending { order.reverse() } else { order }
}

/// A size as people read it, or in the unit that `bytes` names.
pub(super) fn size(bytes: u64, params: &Params) -> Result<String> {
    const UNITS: &[(&str, u64)] =
        &[("b", 1), ("kb", 1 << 10), ("mb", 1 << 20), ("gb", 1 << 30), ("tb", 1 << 40)];
    if let Some(wanted) = params.filled("bytes") {
        let unit = UNITS.iter().find(|(name, _)| *name == wanted);
        let (_, unit) =
            unit.ok_or_else(|| Error::argument(format!("No unit of bytes is named [{wanted}]")))?;
        return Ok((bytes / unit).to_string());
    }
    let (name, unit) = UNITS.iter().rev().find(|(_, unit)| bytes >= *unit).unwrap_or(&("b", 1));
    #[expect(clippy::cast_precision_loss, reason = "shown with one digit")]
    let number = bytes as f64 / *unit as f64;
    let shown = format!("{number:.1}");
    Ok(format!("{}{name}", shown.strip_suffix(".0").unwrap_or(&shown)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: &[Column] = &[
        Column::new("name", "n", "a name"),
        Column::number("count", "c", "a number"),
        Column::new("more", "", "more").hidden(),
    ];

    fn table() -> Table {
        let mut table = Table::new(COLUMNS);
        table.row(["b".to_owned(), "10".to_owned(), "x".to_owned()]);
        table.row(["aaa".to_owned(), "9".to_owned(), "y".to_owned()]);
        table
    }

    #[test]
    fn tables_are_chosen_and_sorted() {
        let check = |query: &str, with_head: bool, expected: &str| {
            let params = Params::read("/", query).unwrap();
            let mut table = table();
            table.sort(&params).unwrap();
            assert_eq!(table.text(&table.chosen(&params), with_head), expected, "{query}");
        };
        check("", false, "b   10\naaa  9\n");
        check("s=c", true, "name count\naaa      9\nb       10\n");
        check("h=c,n&s=name:desc", true, " c n\n10 b\n 9 aaa\n");
        check("h=*", false, "b   10 x\naaa  9 y\n");
        let unknown = Params::read("/", "s=x").unwrap();
        assert!(table().sort(&unknown).unwrap_err().reason().contains("`x`"));
        assert!(table().help().starts_with("name  | n | a name"));
    }

    #[test]
    fn sizes_are_readable() {
        let check = |bytes, query, expected| {
            let params = Params::read("/", query).unwrap();
            assert_eq!(size(bytes, &params).unwrap(), expected);
        };
        check(0, "", "0b");
        check(1_536, "", "1.5kb");
        check(2 << 20, "", "2mb");
        check(2_048, "bytes=kb", "2");
        check(2_048, "bytes=b", "2048");
    }
}
