//! `_geo_distance`: how far a document's points are from those that a sort names.

use tantivy::DocId;

use super::column::FieldColumn;
use super::request::{Distance, SortMode};
use crate::mapping::geo::Point;

/// The distances of one segment's documents.
pub(super) struct DistanceColumn {
    /// None where no document has a point.
    column: Option<Box<FieldColumn>>,
    distance: Distance,
    mode: SortMode,
}

impl DistanceColumn {
    pub(super) fn new(column: Option<FieldColumn>, distance: &Distance, mode: SortMode) -> Self {
        Self { column: column.map(Box::new), distance: distance.clone(), mode }
    }

    /// How far a document is, in the unit asked for; infinitely far where it has no point, as in
    /// Elasticsearch.
    pub(super) fn distance(&self, doc: DocId) -> f64 {
        let values = self.column.iter().flat_map(|column| column.exact_values(doc));
        let mut values: Vec<f64> = values.map(|bits| self.nearest(Point::of_bits(bits))).collect();
        values.sort_unstable_by(f64::total_cmp);
        let Some(last) = values.len().checked_sub(1) else { return f64::INFINITY };
        let at = |place: usize| values.get(place).copied().unwrap_or(f64::INFINITY);
        match self.mode {
            SortMode::Min => at(0),
            SortMode::Max => at(last),
            SortMode::Sum => values.iter().sum(),
            #[expect(clippy::cast_precision_loss, reason = "a document has few points")]
            SortMode::Avg => values.iter().sum::<f64>() / values.len() as f64,
            SortMode::Median => f64::midpoint(at(last / 2), at(last.div_ceil(2))),
        }
    }

    fn nearest(&self, point: Point) -> f64 {
        let metres = self.distance.from.iter().map(|from| from.distance(point));
        metres.fold(f64::INFINITY, f64::min) / self.distance.unit_metres
    }
}
