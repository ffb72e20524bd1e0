//! `geo_distance` and `geo_bounding_box`: documents with a point in an area of the earth.
//!
//! Columns are read between the latitudes of the area, and each point there is held against it.

use tantivy::columnar::ColumnType;
use tantivy::query::{
    BitSetDocSet, ConstScorer, EnableScoring, Explanation, Query, Scorer, Weight,
};
use tantivy::{BitSet, DocId, Score, SegmentReader, TantivyError};

use super::ast::Area;
use super::compile::{Compiled, Compiler, invalid};
use super::term_level::Target;
use super::union::count_alive;
use crate::control::Ticks;
use crate::error::Result;
use crate::mapping::field::FieldKind;
use crate::mapping::geo::{self, Point};

/// Documents of a column that are read at once.
const DOCUMENTS_AT_ONCE: DocId = 1 << 14;

impl Compiler<'_> {
    /// The documents with a point in an area.
    pub(super) fn within_area(
        &self,
        path: &str,
        area: &Area,
        ignore_unmapped: bool,
        boost: f32,
    ) -> Result<Compiled> {
        let mapping = match self.target(path) {
            Target::Mapped(_, mapping) => mapping,
            Target::Unmapped if ignore_unmapped => return Ok(Compiled::nothing()),
            _ => return Err(no_geo_field(path)),
        };
        if mapping.kind != FieldKind::GeoPoint {
            return Err(invalid(format!(
                "failed to create query: field [{path}] is of type [{}], and [geo_point] is needed",
                mapping.kind.name()
            )));
        }
        let query = WithinArea { path: path.to_owned(), area: area.clone() };
        Ok(self.constant_query(query, boost))
    }
}

fn no_geo_field(path: &str) -> crate::error::Error {
    invalid(format!("failed to create query: failed to find geo field [{path}]"))
}

impl Area {
    /// All its points have bits between these.
    fn bits(&self) -> (u64, u64) {
        match self {
            Self::Circle { center, metres } => center.bits_around(*metres),
            Self::Box { north, south, .. } => geo::bits_between(*south, *north),
        }
    }

    /// Whether a point lies within, its edges included, to the steps of the index.
    fn has(&self, bits: u64) -> bool {
        match self {
            Self::Circle { center, metres } => center.distance(Point::of_bits(bits)) <= *metres,
            Self::Box { north, west, south, east } => {
                let (first, last) = geo::bits_between(*south, *north);
                let (from, to) = (geo::longitude_bits(*west), geo::longitude_bits(*east));
                let lon = geo::longitude_of(bits);
                // Over the 180th meridian where the left is greater.
                let across =
                    if from <= to { (from..=to).contains(&lon) } else { lon >= from || lon <= to };
                across && (first..=last).contains(&bits)
            }
        }
    }
}

#[derive(Debug, Clone)]
struct WithinArea {
    path: String,
    area: Area,
}

impl Query for WithinArea {
    fn weight(&self, _: EnableScoring<'_>) -> tantivy::Result<Box<dyn Weight>> {
        Ok(Box::new(self.clone()))
    }
}

impl Weight for WithinArea {
    fn scorer(&self, reader: &SegmentReader, boost: Score) -> tantivy::Result<Box<dyn Scorer>> {
        let docs = BitSetDocSet::from(self.documents(reader)?);
        Ok(Box::new(ConstScorer::new(docs, boost)))
    }

    fn count(&self, reader: &SegmentReader) -> tantivy::Result<u32> {
        Ok(count_alive(self.documents(reader)?, reader))
    }

    fn explain(&self, reader: &SegmentReader, doc: DocId) -> tantivy::Result<Explanation> {
        let mut scorer = self.scorer(reader, 1.0)?;
        if scorer.doc() > doc || scorer.seek(doc) != doc {
            return Err(TantivyError::InvalidArgument(format!("document {doc} does not match")));
        }
        Ok(Explanation::new("WithinArea", 1.0))
    }
}

impl WithinArea {
    fn documents(&self, reader: &SegmentReader) -> tantivy::Result<BitSet> {
        let max_doc = reader.max_doc();
        let mut docs = BitSet::with_max_value(max_doc);
        let columns = reader.fast_fields();
        let Some((column, ColumnType::U64)) = columns.u64_lenient(&self.path)? else {
            return Ok(docs);
        };
        let (first, last) = self.area.bits();
        let (mut ticks, mut near) = (Ticks::default(), Vec::new());
        let mut from = 0;
        while from < max_doc {
            ticks.tick()?;
            let end = from.saturating_add(DOCUMENTS_AT_ONCE).min(max_doc);
            near.clear();
            column.get_docids_for_value_range(first..=last, from..end, &mut near);
            let has_one = |doc: &DocId| column.values_for_doc(*doc).any(|bits| self.area.has(bits));
            near.iter().copied().filter(has_one).for_each(|doc| _ = docs.insert(doc));
            from = end;
        }
        Ok(docs)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};
    use serde_json::json;

    use super::*;
    use crate::query::ast::Query as Clause;
    use crate::search::request::SearchRequest;
    use crate::search::{fixture, search};

    const DOCUMENTS: usize = 2000;

    /// In degrees: what is nearer to an edge than the index's steps is on either side of it.
    const STEP: f64 = 1e-6;

    fn point(random: &mut StdRng) -> Point {
        // Some at the poles and at the 180th meridian.
        let mut degrees = |most: f64| match random.random_range(0..20) {
            0 => most,
            1 => -most,
            _ => random.random_range(-most..=most),
        };
        Point { lat: degrees(90.0), lon: degrees(180.0) }
    }

    fn area(random: &mut StdRng) -> Area {
        let (one, other) = (point(random), point(random));
        if random.random() {
            let metres = 10_f64.powf(random.random_range(3.0..7.4));
            return Area::Circle { center: one, metres };
        }
        let (south, north) = (one.lat.min(other.lat), one.lat.max(other.lat));
        Area::Box { north, west: one.lon, south, east: other.lon }
    }

    /// Whether a point is in an area; `None` where it is too near to the edge.
    fn expected(area: &Area, point: Point) -> Option<bool> {
        let far = |value: f64, edge: f64, least: f64| (value - edge).abs() > least;
        match area {
            Area::Circle { center, metres } => {
                let distance = center.distance(point);
                far(distance, *metres, 1.0).then_some(distance < *metres)
            }
            Area::Box { north, west, south, east } => {
                let sure = far(point.lat, *north, STEP)
                    && far(point.lat, *south, STEP)
                    && far(point.lon, *west, STEP)
                    && far(point.lon, *east, STEP);
                let between = |west: f64, east: f64| point.lon > west && point.lon < east;
                let across = if west <= east {
                    between(*west, *east)
                } else {
                    between(*west, 180.1) || between(-180.1, *east)
                };
                sure.then_some(across && point.lat > *south && point.lat < *north)
            }
        }
    }

    fn expected_of_any(area: &Area, points: &[Point]) -> Option<bool> {
        let sides: Vec<_> = points.iter().map(|point| expected(area, *point)).collect();
        if sides.contains(&Some(true)) {
            return Some(true);
        }
        (!sides.contains(&None)).then_some(false)
    }

    #[test]
    fn areas_have_the_points_that_a_model_has() {
        let mut random = StdRng::seed_from_u64(5);
        let mapping = json!({"properties": {"at": {"type": "geo_point"}}});
        let all: Vec<Vec<Point>> = (0..DOCUMENTS)
            .map(|_| (0..random.random_range(0..4)).map(|_| point(&mut random)).collect())
            .collect();
        let document = |points: &Vec<Point>| {
            let points = points.iter().map(|point| json!({"lat": point.lat, "lon": point.lon}));
            json!({"at": points.collect::<Vec<_>>()})
        };
        let documents: Vec<_> = all.iter().map(document).collect();
        let snapshot = fixture::one_segment(&mapping, &documents);
        let mut matched = 0;
        for _ in 0..100 {
            let area = area(&mut random);
            let (field, ignore_unmapped, boost) = ("at".to_owned(), false, 1.0);
            let query = Clause::WithinArea { field, area: area.clone(), ignore_unmapped, boost };
            let request = SearchRequest { query, size: DOCUMENTS, ..SearchRequest::default() };
            let found = search(&[Arc::clone(&snapshot)], &request).unwrap();
            let mut has = vec![false; DOCUMENTS];
            for hit in &found.hits {
                has[hit.id.parse::<usize>().unwrap() - 1] = true;
            }
            assert_eq!(found.total.unwrap().value, found.hits.len() as u64);
            matched += found.hits.len();
            for (points, has) in all.iter().zip(has) {
                let known = expected_of_any(&area, points);
                assert_eq!(Some(has), known.or(Some(has)), "{area:?} {points:?}");
            }
        }
        assert!(matched > 1000, "{matched}");
    }
}
