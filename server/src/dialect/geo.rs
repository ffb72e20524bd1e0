//! Places and distances: `geo_distance`, `geo_bounding_box`, and the sort by `_geo_distance`.

use egret_engine::mapping::geo::Point;
use egret_engine::query::ast::{Area, Query};
use egret_engine::search::request::Distance;
use serde_json::{Map, Value};

use super::json::Field;
use crate::error::{Error, Result};

/// Units by their names, in metres. A nautical mile has three.
const UNITS: [(&[&str], f64); 9] = [
    (&["mm", "millimeters"], 0.001),
    (&["cm", "centimeters"], 0.01),
    (&["in", "inch"], 0.0254),
    (&["ft", "feet"], 0.3048),
    (&["yd", "yards"], 0.9144),
    (&["km", "kilometers"], 1000.0),
    (&["nmi", "NM", "nauticalmiles"], 1852.0),
    (&["mi", "miles"], 1609.344),
    (&["m", "meters"], 1.0),
];

/// A sort may name so many points.
const MAX_POINTS: usize = 64;

/// Reads `{"distance": "12km", "<field>": <point>, …}`.
pub(super) fn geo_distance(body: &Map<String, Value>) -> Result<Query> {
    const CLAUSE: &str = "geo_distance";
    let (mut at, mut distance, mut unit) = (None, None, None);
    let (mut ignore_unmapped, mut boost) = (false, 1.0);
    for (key, value) in body {
        let field = Field::new(CLAUSE, key, value);
        match key.as_str() {
            "distance" => distance = Some(value),
            "unit" => unit = Some(unit_metres(&field.text()?)?),
            "distance_type" => distance_type(&field)?,
            "validation_method" => validation_method(&field)?,
            "ignore_unmapped" => ignore_unmapped = field.boolean()?,
            "boost" => boost = field.boost()?,
            _ if at.is_some() => return Err(field.unknown()),
            _ => at = Some((key.clone(), point(value)?)),
        }
    }
    let Some((field, center)) = at else {
        return Err(Error::parsing(format!("[{CLAUSE}] requires a field and a point")));
    };
    let distance =
        distance.ok_or_else(|| Error::argument(format!("[{CLAUSE}] requires 'distance'")))?;
    let metres = match distance {
        Value::Number(number) => number.as_f64().unwrap_or(f64::NAN) * unit.unwrap_or(1.0),
        Value::String(text) => metres(text, unit.unwrap_or(1.0))?,
        other => return Err(Field::new(CLAUSE, "distance", other).misplaced()),
    };
    if !(metres > 0.0 && metres.is_finite()) {
        return Err(Error::argument("distance must be greater than zero"));
    }
    Ok(Query::WithinArea { field, area: Area::Circle { center, metres }, ignore_unmapped, boost })
}

/// Reads `{"<field>": {"top_left": <point>, "bottom_right": <point>}, …}`, other corners, or sides.
pub(super) fn geo_bounding_box(body: &Map<String, Value>) -> Result<Query> {
    const CLAUSE: &str = "geo_bounding_box";
    let (mut found, mut ignore_unmapped, mut boost) = (None, false, 1.0);
    for (key, value) in body {
        let field = Field::new(CLAUSE, key, value);
        match key.as_str() {
            "validation_method" => validation_method(&field)?,
            "ignore_unmapped" => ignore_unmapped = field.boolean()?,
            "boost" => boost = field.boost()?,
            "type" if matches!(value.as_str(), Some("indexed" | "memory")) => {}
            _ if found.is_some() => return Err(field.unknown()),
            _ => found = Some((key.clone(), area(&field)?)),
        }
    }
    let (field, area) =
        found.ok_or_else(|| Error::parsing(format!("[{CLAUSE}] requires a field and a box")))?;
    Ok(Query::WithinArea { field, area, ignore_unmapped, boost })
}

fn area(field: &Field<'_>) -> Result<Area> {
    let (mut top, mut left, mut bottom, mut right) = (None, None, None, None);
    for (key, value) in field.object()? {
        let side = Field::new(field.clause, key, value);
        let corner = || point(value);
        match key.as_str() {
            "top" => top = Some(side.float()?),
            "left" => left = Some(side.float()?),
            "bottom" => bottom = Some(side.float()?),
            "right" => right = Some(side.float()?),
            "top_left" | "topLeft" => (top, left) = sides(corner()?),
            "top_right" | "topRight" => (top, right) = sides(corner()?),
            "bottom_left" | "bottomLeft" => (bottom, left) = sides(corner()?),
            "bottom_right" | "bottomRight" => (bottom, right) = sides(corner()?),
            "wkt" => {
                let text = side.text()?;
                let envelope = envelope(&text).ok_or_else(|| {
                    Error::parsing(format!("failed to parse WKT bounding box [{text}]"))
                })?;
                (left, right, top, bottom) = envelope;
            }
            _ => return Err(side.unknown()),
        }
    }
    let (Some(north), Some(west), Some(south), Some(east)) = (top, left, bottom, right) else {
        return Err(Error::parsing("failed to parse bounding box: a side is missing"));
    };
    // Held to the earth's degrees.
    let (north_west, south_east) = (checked(north, west)?, checked(south, east)?);
    if north_west.lat < south_east.lat {
        return Err(Error::argument(format!("top is below bottom corner: {north} vs. {south}")));
    }
    Ok(Area::Box { north, west, south, east })
}

fn sides(corner: Point) -> (Option<f64>, Option<f64>) {
    (Some(corner.lat), Some(corner.lon))
}

type Sides = (Option<f64>, Option<f64>, Option<f64>, Option<f64>);

/// `BBOX (left, right, top, bottom)`.
fn envelope(text: &str) -> Option<Sides> {
    let (name, rest) = text.trim().split_once('(')?;
    let name = name.trim();
    if !name.eq_ignore_ascii_case("bbox") && !name.eq_ignore_ascii_case("envelope") {
        return None;
    }
    let mut sides = rest.strip_suffix(')')?.split(',').map(|side| side.trim().parse::<f64>().ok());
    let found = (sides.next()?, sides.next()?, sides.next()?, sides.next()?);
    sides.next().is_none().then_some(found)
}

/// Reads `{"<field>": <point or points>, "unit": "km", …}`; the caller has taken out what all sorts have.
pub(super) fn distance_from(field: &str, value: &Value) -> Result<Distance> {
    let is_one = |values: &Vec<Value>| values.first().is_some_and(Value::is_number);
    let from = match value {
        Value::Array(values) if !is_one(values) => {
            if values.is_empty() || values.len() > MAX_POINTS {
                return Err(Error::argument(format!(
                    "[_geo_distance] takes from 1 to [{MAX_POINTS}] points, and has [{}]",
                    values.len()
                )));
            }
            values.iter().map(point).collect::<Result<_>>()?
        }
        one => vec![point(one)?],
    };
    Ok(Distance { field: field.to_owned(), from, unit_metres: 1.0, ignore_unmapped: false })
}

/// Distances are along the surface of a globe, whichever way is asked for.
pub(super) fn distance_type(field: &Field<'_>) -> Result<()> {
    match field.text()?.as_str() {
        "arc" => Ok(()),
        other => {
            Err(Error::argument(format!("distance_type [{other}] is not supported, only [arc]")))
        }
    }
}

fn validation_method(field: &Field<'_>) -> Result<()> {
    match field.text()?.to_ascii_uppercase().as_str() {
        "STRICT" => Ok(()),
        other => Err(Error::argument(format!(
            "validation_method [{other}] is not supported, only [STRICT]"
        ))),
    }
}

/// The metres that a unit has.
pub(super) fn unit_metres(name: &str) -> Result<f64> {
    let found = UNITS.iter().find(|(names, _)| names.contains(&name));
    let unknown = || Error::argument(format!("No distance unit match [{name}]"));
    found.map(|(_, metres)| *metres).ok_or_else(unknown)
}

/// Reads `12km`.
fn metres(text: &str, without_unit: f64) -> Result<f64> {
    let digits = text.trim();
    let begins = digits.find(|character: char| character.is_ascii_alphabetic() && character != 'e');
    let (number, unit) = match begins {
        Some(place) => digits.split_at(place),
        None => (digits, ""),
    };
    let unit = if unit.is_empty() { without_unit } else { unit_metres(unit)? };
    let number: f64 = number
        .trim()
        .parse()
        .map_err(|_| Error::argument(format!("failed to parse distance [{text}]")))?;
    Ok(number * unit)
}

fn point(value: &Value) -> Result<Point> {
    Point::read(value).map_err(Error::parsing)
}

fn checked(lat: f64, lon: f64) -> Result<Point> {
    Point::new(lat, lon).map_err(Error::argument)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_have_units() {
        let check = |text: &str, expected: Option<f64>| {
            assert_eq!(metres(text, 1.0).ok(), expected, "{text}");
        };
        check("12", Some(12.0));
        check("12km", Some(12_000.0));
        check("1.5 km", Some(1500.0));
        check("1e3m", Some(1000.0));
        check("2nmi", Some(3704.0));
        check("2NM", Some(3704.0));
        check("1in", Some(0.0254));
        check("12parsec", None);
        check("km", None);
        check("", None);
    }
}
