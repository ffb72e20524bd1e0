//! Values of leaf fields that are written as objects or arrays: points and ranges.

use serde_json::value::RawValue;

use super::{Failure, Parse, Parser};
use crate::mapping::Storage;
use crate::mapping::value::Raw;

impl Parser<'_> {
    /// Whether a field's values lie so in the index.
    pub(super) fn is(&self, field: usize, storage: Storage) -> bool {
        self.mapping().fields.get(field).is_some_and(|field| field.kind.storage() == storage)
    }

    /// A range, as an object.
    pub(super) fn range(&mut self, field: usize) -> Parse<()> {
        let from = self.reader.position();
        self.reader.skip()?;
        let text = self.source.get(from..self.reader.position()).unwrap_or_default();
        self.scalar(field, Raw::Json(text), from)
    }

    /// A point as an object or as an array of numbers, or an array of points.
    pub(super) fn points(&mut self, field: usize) -> Parse<()> {
        let from = self.reader.position();
        self.reader.skip()?;
        let to = self.reader.position();
        let text = self.source.get(from..to).unwrap_or_default().trim();
        let rest = text.strip_prefix('[').map(str::trim_start);
        let is_number = |rest: &str| rest.starts_with(|it: char| it == '-' || it.is_ascii_digit());
        if rest.is_none_or(is_number) {
            return self.scalar(field, Raw::Json(text), from);
        }
        let fails = |error: serde_json::Error| {
            let reason = error.to_string();
            Failure::Value { field, from, to, reason }
        };
        let values: Vec<&RawValue> = serde_json::from_str(text).map_err(fails)?;
        for value in values {
            match value.get() {
                "null" => self.null(field),
                text if text.starts_with('"') => {
                    let text: String = serde_json::from_str(text).map_err(fails)?;
                    self.scalar(field, Raw::Text(&text), from)?;
                }
                text => self.scalar(field, Raw::Json(text), from)?,
            }
        }
        Ok(())
    }
}
