//! Points on the earth: how they are written, how they lie in the index, and how far apart they are.
//!
//! In the index a point is 64 bits, the latitude's 32 above the longitude's: steps of 9 millimetres at
//! most, and points of one latitude or between two lie together.

use std::fmt;
use std::str::FromStr;

use serde_json::Value;

/// The earth's mean radius in metres (IUGG).
const RADIUS_METRES: f64 = 6_371_008.771_4;

/// A degree of latitude in metres.
const DEGREE_METRES: f64 = RADIUS_METRES * std::f64::consts::PI / 180.0;

/// How many steps there are.
const STEPS: f64 = u32::MAX as f64;

/// Characters of a geohash, five bits each.
const GEOHASH: &str = "0123456789bcdefghjkmnpqrstuvwxyz";
const GEOHASH_LONGEST: usize = 12;

/// A point, in degrees.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    /// From -90 in the south to 90.
    pub lat: f64,
    /// From -180 in the west to 180.
    pub lon: f64,
}

impl Point {
    /// A point within the earth's degrees.
    pub fn new(lat: f64, lon: f64) -> Result<Self, String> {
        if !(-90.0..=90.0).contains(&lat) {
            return Err(format!("illegal latitude value [{lat}]"));
        }
        if !(-180.0..=180.0).contains(&lon) {
            return Err(format!("illegal longitude value [{lon}]"));
        }
        Ok(Self { lat, lon })
    }

    /// Reads `{"lat": …, "lon": …}`, an object as GeoJSON has it, `[lon, lat]`, `"lat,lon"`, `"POINT (lon lat)"` or a
    /// geohash.
    pub fn read(value: &Value) -> Result<Self, String> {
        match value {
            Value::String(text) => text.parse(),
            Value::Array(values) => of_array(values),
            Value::Object(object) => {
                let allowed = |key: &str| matches!(key, "lat" | "lon" | "type" | "coordinates");
                if let Some(key) = object.keys().find(|key| !allowed(key)) {
                    return Err(format!("field [{key}] is none of [lat], [lon]"));
                }
                match (object.get("lat"), object.get("lon"), object.get("coordinates")) {
                    (Some(lat), Some(lon), None) => Self::new(degrees(lat)?, degrees(lon)?),
                    (None, None, Some(Value::Array(values))) if is_geojson_point(object) => {
                        of_array(values)
                    }
                    (None, _, None) => Err("field [lat] missing".to_owned()),
                    (_, None, None) => Err("field [lon] missing".to_owned()),
                    _ => Err("a point has [lat] and [lon], or [coordinates]".to_owned()),
                }
            }
            _ => Err("geo_point expected".to_owned()),
        }
    }

    /// As it lies in the index.
    pub(crate) fn to_bits(self) -> u64 {
        u64::from(latitude_bits(self.lat)) << 32 | u64::from(longitude_bits(self.lon))
    }

    /// Of bits of the index.
    pub(crate) fn of_bits(bits: u64) -> Self {
        let (lat, lon) = (bits >> 32, bits & u64::from(u32::MAX));
        Self { lat: value(lat, 180.0), lon: value(lon, 360.0) }
    }

    /// The way over the earth's surface in metres, by the haversine formula.
    pub(crate) fn distance(self, other: Self) -> f64 {
        let half = |from: f64, to: f64| ((to - from).to_radians() / 2.0).sin().powi(2);
        let across = self.lat.to_radians().cos() * other.lat.to_radians().cos();
        let square = half(self.lat, other.lat) + across * half(self.lon, other.lon);
        2.0 * RADIUS_METRES * square.min(1.0).sqrt().asin()
    }

    /// All points within a distance in metres have bits between these.
    pub(crate) fn bits_around(self, metres: f64) -> (u64, u64) {
        // One step more to either side: points are rounded to steps.
        let degrees = metres / DEGREE_METRES + 180.0 / STEPS;
        bits_between((self.lat - degrees).max(-90.0), (self.lat + degrees).min(90.0))
    }
}

/// As Elasticsearch lists the values of a column.
impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}", self.lat, self.lon)
    }
}

/// All points between two latitudes have bits between these.
pub(crate) fn bits_between(south: f64, north: f64) -> (u64, u64) {
    let first = u64::from(latitude_bits(south)) << 32;
    let last = u64::from(latitude_bits(north)) << 32 | u64::from(u32::MAX);
    (first, last)
}

/// The longitude's part of bits.
#[expect(clippy::cast_possible_truncation, reason = "the lower half")]
pub(crate) fn longitude_of(bits: u64) -> u32 {
    bits as u32
}

pub(crate) fn longitude_bits(lon: f64) -> u32 {
    step(lon, 360.0)
}

fn latitude_bits(lat: f64) -> u32 {
    step(lat, 180.0)
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "within 0 to 2^32 - 1")]
fn step(degrees: f64, span: f64) -> u32 {
    ((degrees + span / 2.0) / span * STEPS).round() as u32
}

#[expect(clippy::cast_precision_loss, reason = "below 2^32")]
fn value(step: u64, span: f64) -> f64 {
    step as f64 / STEPS * span - span / 2.0
}

fn degrees(value: &Value) -> Result<f64, String> {
    let number = match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    number.ok_or_else(|| format!("[{value}] is no number of degrees"))
}

fn is_geojson_point(object: &serde_json::Map<String, Value>) -> bool {
    object.get("type").and_then(Value::as_str).is_some_and(|it| it.eq_ignore_ascii_case("point"))
}

/// Longitude first; an altitude counts for nothing.
fn of_array(values: &[Value]) -> Result<Point, String> {
    match values {
        [lon, lat] | [lon, lat, _] => Point::new(degrees(lat)?, degrees(lon)?),
        _ => Err("[geo_point] field type does not accept less than 2 or more than 3 values".into()),
    }
}

impl FromStr for Point {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("failed to parse [{}] as a point", super::value::shortened(text));
        let number = |text: &str| text.trim().parse::<f64>().map_err(|_| wrong());
        if let Some((lat, lon)) = text.split_once(',') {
            let lon = lon.split_once(',').map_or(lon, |(lon, _altitude)| lon);
            return Self::new(number(lat)?, number(lon)?);
        }
        let trimmed = text.trim();
        if let Some((name, rest)) = trimmed.split_once('(') {
            let inner = rest.strip_suffix(')').ok_or_else(wrong)?;
            let mut parts = inner.split_whitespace();
            let (Some(lon), Some(lat)) = (parts.next(), parts.next()) else { return Err(wrong()) };
            if !name.trim().eq_ignore_ascii_case("point") || parts.count() > 1 {
                return Err(wrong());
            }
            return Self::new(number(lat)?, number(lon)?);
        }
        of_geohash(trimmed).ok_or_else(wrong)
    }
}

/// The middle of a geohash's cell (G. Niemeyer, 2008): bits by turns of longitude and latitude.
fn of_geohash(text: &str) -> Option<Point> {
    if text.is_empty() || text.len() > GEOHASH_LONGEST {
        return None;
    }
    let (mut lat, mut lon) = ((-90.0, 90.0), (-180.0, 180.0));
    let mut of_longitude = true;
    for character in text.chars() {
        let bits = GEOHASH.find(character.to_ascii_lowercase())?;
        for shift in (0..5).rev() {
            let side = if of_longitude { &mut lon } else { &mut lat };
            let middle = f64::midpoint(side.0, side.1);
            if bits >> shift & 1 == 1 {
                side.0 = middle;
            } else {
                side.1 = middle;
            }
            of_longitude = !of_longitude;
        }
    }
    Some(Point { lat: f64::midpoint(lat.0, lat.1), lon: f64::midpoint(lon.0, lon.1) })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn points_are_read_as_people_write_them() {
        let check = |value: Value, expected: Result<(f64, f64), &str>| {
            let found = Point::read(&value).map(|point| (point.lat, point.lon));
            assert_eq!(found, expected.map_err(str::to_owned), "{value}");
        };
        let zurich = Ok((47.5, 8.25));
        check(json!({"lat": 47.5, "lon": 8.25}), zurich);
        check(json!({"lat": "47.5", "lon": "8.25"}), zurich);
        check(json!({"type": "Point", "coordinates": [8.25, 47.5]}), zurich);
        check(json!([8.25, 47.5]), zurich);
        check(json!([8.25, 47.5, 408]), zurich);
        check(json!("47.5,8.25"), zurich);
        check(json!("47.5, 8.25, 408"), zurich);
        check(json!("POINT (8.25 47.5)"), zurich);
        check(json!("point(8.25 47.5 408)"), zurich);
        check(json!({"lat": -90, "lon": 180}), Ok((-90.0, 180.0)));
        check(json!({"lat": 91, "lon": 0}), Err("illegal latitude value [91]"));
        check(json!([181, 0]), Err("illegal longitude value [181]"));
        check(json!("NaN,0"), Err("illegal latitude value [NaN]"));
        check(json!({"lat": 1}), Err("field [lon] missing"));
        check(json!({"lon": 1}), Err("field [lat] missing"));
        check(json!({"lat": 1, "lon": 2, "x": 3}), Err("field [x] is none of [lat], [lon]"));
        check(json!("somewhere"), Err("failed to parse [somewhere] as a point"));
        check(json!("LINE (1 2)"), Err("failed to parse [LINE (1 2)] as a point"));
        check(json!(""), Err("failed to parse [] as a point"));
        check(json!(5), Err("geo_point expected"));
    }

    #[test]
    fn a_geohash_is_the_middle_of_its_cell() {
        let point = of_geohash("ezs42").unwrap();
        assert!(
            (point.lat - 42.605).abs() < 0.001 && (point.lon + 5.603).abs() < 0.001,
            "{point:?}"
        );
        assert_eq!(of_geohash("ezs4a"), None, "no character of theirs");
        assert_eq!(of_geohash("ezs42ezs42ezs"), None, "too long");
    }

    #[test]
    fn distances_are_those_of_the_globe() {
        let check = |left: (f64, f64), right: (f64, f64), metres: f64| {
            let point = |(lat, lon)| Point { lat, lon };
            let found = point(left).distance(point(right));
            assert!((found - metres).abs() < metres.max(1.0) * 1e-4, "{left:?} {right:?}: {found}");
        };
        check((0.0, 0.0), (0.0, 0.0), 0.0);
        check((0.0, 0.0), (1.0, 0.0), 111_195.0);
        check((0.0, 179.5), (0.0, -179.5), 111_195.0);
        check((90.0, 0.0), (-90.0, 0.0), 20_015_114.0);
        check((48.8566, 2.3522), (40.7128, -74.006), 5_837_241.0);
    }

    proptest! {
        #[test]
        fn steps_are_small_and_in_order(lat in -90.0..=90.0, lon in -180.0..=180.0, other in -90.0..=90.0) {
            let point = Point { lat, lon };
            let kept = Point::of_bits(point.to_bits());
            prop_assert!(point.distance(kept) < 0.01, "{point:?} {kept:?}");
            prop_assert_eq!(kept.to_bits(), point.to_bits());
            let (first, last) = bits_between(f64::min(lat, other), f64::max(lat, other));
            prop_assert!((first..=last).contains(&point.to_bits()));
        }

        #[test]
        fn what_is_near_is_between_its_bits(
            lat in -90.0..=90.0, lon in -180.0..=180.0, lat2 in -90.0..=90.0, lon2 in -180.0..=180.0,
            shrink in 0.0..1.0,
        ) {
            let center = Point { lat, lon };
            let near = Point { lat: lat + (lat2 - lat) * shrink, lon: lon2 };
            let (first, last) = center.bits_around(center.distance(near));
            prop_assert!((first..=last).contains(&near.to_bits()));
        }
    }
}
