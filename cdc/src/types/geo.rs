//! Points: PostgreSQL's own, and PostGIS's geometries as extended well-known binary (OGC 06-103r4, with
//! the flags that PostGIS adds) in hexadecimal digits.

use super::BadValue;
use super::scalar::{hex, number, string};

/// The flags of a geometry's type.
const HAS_Z: u32 = 0x8000_0000;
const HAS_M: u32 = 0x4000_0000;
const HAS_SRID: u32 = 0x2000_0000;

/// The type of a point.
const POINT: u32 = 1;

/// The reference systems whose coordinates are longitudes and latitudes in degrees: unknown, WGS 84,
/// and ETRS89.
const DEGREES: [u32; 3] = [0, 4326, 4258];

/// `(1.5,-2)`: x is the longitude. Null where a coordinate is no number that JSON has.
pub(super) fn point(text: &str, out: &mut Vec<u8>) -> Result<(), BadValue> {
    let bad = || BadValue::new("a point", text);
    let inner = text.strip_prefix('(').and_then(|rest| rest.strip_suffix(')'));
    let (lon, lat) = inner.and_then(|inner| inner.split_once(',')).ok_or_else(bad)?;
    let json = |text: &str| {
        let mut json = Vec::new();
        number(text, &mut json).map_err(|_| bad())?;
        Ok((json != b"null").then_some(json))
    };
    write_point(json(lat)?.zip(json(lon)?), out);
    Ok(())
}

/// A point as an object; any other geometry, and points in other units, as the digits that they came as.
pub(super) fn geometry(text: &str, out: &mut Vec<u8>) -> Result<(), BadValue> {
    let bytes = hex(text).ok_or_else(|| BadValue::new("a geometry in hex", text))?;
    match read_point(&bytes) {
        Some((lon, lat)) => {
            let json = |value: f64| value.is_finite().then(|| format!("{value}").into_bytes());
            write_point(json(lat).zip(json(lon)), out);
        }
        None => string(text, out),
    }
    Ok(())
}

fn write_point(point: Option<(Vec<u8>, Vec<u8>)>, out: &mut Vec<u8>) {
    let Some((lat, lon)) = point else { return out.extend_from_slice(b"null") };
    let parts: [&[u8]; 5] = [b"{\"lat\":", &lat, b",\"lon\":", &lon, b"}"];
    out.extend(parts.concat());
}

/// The x and y of a point in degrees.
fn read_point(bytes: &[u8]) -> Option<(f64, f64)> {
    let (&order, rest) = bytes.split_first()?;
    let is_little = order == 1;
    let four = |bytes: [u8; 4]| {
        if is_little { u32::from_le_bytes(bytes) } else { u32::from_be_bytes(bytes) }
    };
    let eight = |bytes: [u8; 8]| {
        if is_little { f64::from_le_bytes(bytes) } else { f64::from_be_bytes(bytes) }
    };
    let (kind, rest) = rest.split_first_chunk::<4>()?;
    let kind = four(*kind);
    let (srid, rest) = if kind & HAS_SRID == 0 {
        (0, rest)
    } else {
        let (srid, rest) = rest.split_first_chunk::<4>()?;
        (four(*srid), rest)
    };
    if kind & !(HAS_Z | HAS_M | HAS_SRID) != POINT || !DEGREES.contains(&srid) {
        return None;
    }
    let (x, rest) = rest.split_first_chunk::<8>()?;
    let (y, _) = rest.split_first_chunk::<8>()?;
    Some((eight(*x), eight(*y)))
}
