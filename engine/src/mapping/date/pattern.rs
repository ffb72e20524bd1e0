//! Date patterns: compiled from Java's letters, then read and printed by one small interpreter.

use super::{InvalidFormat, Parts};

/// One step of a pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Item {
    /// A number of so many digits, printed with `width`.
    Number { part: Part, least: usize, most: usize, width: usize },
    /// The fraction of a second; with `dot` its point or comma comes first.
    Fraction { least: usize, most: usize, dot: bool },
    /// `Z`, `+01`, `+0100` or `+01:00`.
    Offset,
    /// A byte that must be there.
    Literal(u8),
    /// What may be missing.
    Optional(Vec<Item>),
}

/// A part of a date that is a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Year,
    Month,
    Day,
    Hour,
    Minute,
    Second,
}

/// Elasticsearch's names. `~` is a point or comma with a fraction of any length, `@` any offset.
/// Each is also known with `strict_` before it.
const NAMED: [(&str, &str); 24] = [
    ("date_optional_time", "yyyy[-MM[-dd['T'[HH[:mm[:ss[~]]][@]]]]]"),
    ("date_optional_time_nanos", "yyyy[-MM[-dd['T'[HH[:mm[:ss[~]]][@]]]]]"),
    ("iso8601", "yyyy[-MM[-dd['T'[HH[:mm[:ss[~]]][@]]]]]"),
    ("date", "yyyy-MM-dd"),
    ("year", "yyyy"),
    ("year_month", "yyyy-MM"),
    ("year_month_day", "yyyy-MM-dd"),
    ("date_hour", "yyyy-MM-dd'T'HH"),
    ("date_hour_minute", "yyyy-MM-dd'T'HH:mm"),
    ("date_hour_minute_second", "yyyy-MM-dd'T'HH:mm:ss"),
    ("date_hour_minute_second_millis", "yyyy-MM-dd'T'HH:mm:ss~"),
    ("date_hour_minute_second_fraction", "yyyy-MM-dd'T'HH:mm:ss~"),
    ("date_time", "yyyy-MM-dd'T'HH:mm:ss~@"),
    ("date_time_no_millis", "yyyy-MM-dd'T'HH:mm:ss@"),
    ("basic_date", "yyyyMMdd"),
    ("basic_date_time", "yyyyMMdd'T'HHmmss~@"),
    ("basic_date_time_no_millis", "yyyyMMdd'T'HHmmss@"),
    ("time", "HH:mm:ss~@"),
    ("time_no_millis", "HH:mm:ss@"),
    ("hour_minute_second_millis", "HH:mm:ss~"),
    ("hour_minute_second_fraction", "HH:mm:ss~"),
    ("hour_minute_second", "HH:mm:ss"),
    ("hour_minute", "HH:mm"),
    ("hour", "HH"),
];

/// Compiles a name or a pattern.
pub(super) fn compile(text: &str) -> Result<Vec<Item>, InvalidFormat> {
    if text.is_empty() {
        return Err(InvalidFormat("No date pattern provided".to_owned()));
    }
    let (strict, name) = match text.strip_prefix("strict_") {
        Some(name) => (true, name),
        None => (false, text),
    };
    let named = NAMED.iter().find(|named| named.0 == name).map(|named| named.1);
    let mut compiler = Compiler { rest: named.unwrap_or(text).as_bytes(), named: named.is_some() };
    let mut items = compiler.items(0)?;
    // The lenient forms take any number of digits up to the strict one's, but for the packed ones.
    if named.is_some() && !strict && !name.starts_with("basic_") {
        loosen(&mut items);
    }
    Ok(items)
}

fn loosen(items: &mut [Item]) {
    for item in items {
        match item {
            Item::Number { least, .. } => *least = 1,
            Item::Optional(items) => loosen(items),
            Item::Fraction { .. } | Item::Offset | Item::Literal(_) => {}
        }
    }
}

struct Compiler<'a> {
    rest: &'a [u8],
    /// Whether `~` and `@` have their meaning.
    named: bool,
}

/// How deep optional parts may lie in each other.
const OPTIONAL_DEPTH_LIMIT: usize = 10;

impl Compiler<'_> {
    fn items(&mut self, depth: usize) -> Result<Vec<Item>, InvalidFormat> {
        let mut items = Vec::new();
        while let Some((&byte, rest)) = self.rest.split_first() {
            match byte {
                b'[' if depth >= OPTIONAL_DEPTH_LIMIT => {
                    return Err(InvalidFormat("too many nested optional parts".to_owned()));
                }
                b'[' => {
                    self.rest = rest;
                    items.push(Item::Optional(self.items(depth + 1)?));
                }
                b']' if depth > 0 => {
                    self.rest = rest;
                    return Ok(items);
                }
                b'\'' => self.quoted(&mut items)?,
                b'~' if self.named => {
                    self.rest = rest;
                    items.push(Item::Fraction { least: 1, most: 9, dot: true });
                }
                b'@' if self.named => {
                    self.rest = rest;
                    items.push(Item::Offset);
                }
                b'a'..=b'z' | b'A'..=b'Z' => items.push(self.letters(byte)?),
                b']' | b'{' | b'}' | b'#' => {
                    return Err(InvalidFormat(format!(
                        "Pattern includes reserved character: '{}'",
                        byte as char
                    )));
                }
                _ => {
                    self.rest = rest;
                    items.push(Item::Literal(byte));
                }
            }
        }
        if depth > 0 {
            Err(InvalidFormat("optional part is not closed".to_owned()))
        } else {
            Ok(items)
        }
    }

    /// `'text'`, where `''` is a quote.
    fn quoted(&mut self, items: &mut Vec<Item>) -> Result<(), InvalidFormat> {
        self.rest = self.rest.get(1..).unwrap_or_default();
        if let Some(rest) = self.rest.strip_prefix(b"'") {
            self.rest = rest;
            items.push(Item::Literal(b'\''));
            return Ok(());
        }
        while let Some((&byte, rest)) = self.rest.split_first() {
            self.rest = rest;
            if byte != b'\'' {
                items.push(Item::Literal(byte));
            } else if let Some(rest) = self.rest.strip_prefix(b"'") {
                self.rest = rest;
                items.push(Item::Literal(b'\''));
            } else {
                return Ok(());
            }
        }
        Err(InvalidFormat("Pattern ends with an incomplete string literal".to_owned()))
    }

    fn letters(&mut self, letter: u8) -> Result<Item, InvalidFormat> {
        let count = self.rest.iter().take_while(|byte| **byte == letter).count();
        self.rest = self.rest.get(count..).unwrap_or_default();
        let number = |part, most| {
            let (least, most) = if count == 1 { (1, most) } else { (count, count) };
            Ok(Item::Number { part, least, most, width: count })
        };
        match (letter, count) {
            (b'y' | b'u', 1 | 4) => number(Part::Year, 4),
            (b'M', 1 | 2) => number(Part::Month, 2),
            (b'd', 1 | 2) => number(Part::Day, 2),
            (b'H', 1 | 2) => number(Part::Hour, 2),
            (b'm', 1 | 2) => number(Part::Minute, 2),
            (b's', 1 | 2) => number(Part::Second, 2),
            (b'S', 1..=9) => Ok(Item::Fraction { least: count, most: count, dot: false }),
            (b'X' | b'x', 1..=3) | (b'Z', 1..=3 | 5) => Ok(Item::Offset),
            _ => Err(InvalidFormat(format!(
                "pattern letters [{}] are not supported",
                (letter as char).to_string().repeat(count.min(20))
            ))),
        }
    }
}

/// How many digits the year of a date can have: more than any that can be indexed.
const YEAR_DIGITS_LIMIT: usize = 9;

/// Reads a text; returns what is left of it.
pub(super) fn read<'t>(items: &[Item], text: &'t [u8], parts: &mut Parts) -> Option<&'t [u8]> {
    let mut rest = text;
    for (place, item) in items.iter().enumerate() {
        match item {
            Item::Literal(byte) => rest = rest.strip_prefix(&[*byte])?,
            Item::Number { part: Part::Year, least, most, .. } => {
                let packed = items.get(place + 1..).map_or(0, packed_width);
                let (year, after) = year(rest, *least, *most, packed)?;
                parts.year = Some(year);
                rest = after;
            }
            Item::Number { part, least, most, .. } => {
                let (digits, after) = digits(rest, *least, *most)?;
                *parts.slot(*part) = Some(number(digits));
                rest = after;
            }
            Item::Fraction { least, most, dot } => {
                let from = match rest.split_first() {
                    Some((b'.' | b',', after)) if *dot => after,
                    _ if *dot => return None,
                    _ => rest,
                };
                let (digits, after) = digits(from, *least, *most)?;
                parts.micros = Some(micros_of(digits));
                parts.only_millis = digits.len() <= 3;
                rest = after;
            }
            Item::Offset => {
                let (seconds, after) = offset(rest)?;
                parts.offset_seconds = Some(seconds);
                rest = after;
            }
            Item::Optional(items) => {
                let before = *parts;
                match read(items, rest, parts) {
                    Some(after) => rest = after,
                    None => *parts = before,
                }
            }
        }
    }
    Some(rest)
}

/// The digits that follow a year without anything between.
fn packed_width(items: &[Item]) -> usize {
    let numbers = items.iter().map_while(|item| match item {
        Item::Number { most, .. } | Item::Fraction { most, dot: false, .. } => Some(*most),
        _ => None,
    });
    numbers.sum()
}

/// A year. One that is negative, or has more digits than usual, has a sign.
fn year(text: &[u8], least: usize, most: usize, packed: usize) -> Option<(i64, &[u8])> {
    let (sign, least, unsigned) = match text.split_first()? {
        (b'+', rest) => (1, most + 1, rest),
        (b'-', rest) => (-1, least, rest),
        _ => {
            let (digits, after) = digits(text, least, most)?;
            return Some((number(digits), after));
        }
    };
    let found = unsigned.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let count = found.checked_sub(packed).filter(|count| *count <= YEAR_DIGITS_LIMIT)?;
    let (digits, after) = digits(unsigned, least, count)?;
    Some((sign * number(digits), after))
}

fn number(digits: &[u8]) -> i64 {
    digits.iter().fold(0, |sum, digit| sum * 10 + i64::from(digit - b'0'))
}

fn digits(text: &[u8], least: usize, most: usize) -> Option<(&[u8], &[u8])> {
    let count = text.iter().take(most).take_while(|byte| byte.is_ascii_digit()).count();
    if count >= least { text.split_at_checked(count) } else { None }
}

/// Millionths that the digits after a decimal point mean; further digits are cut off.
pub(super) fn micros_of(digits: &[u8]) -> i64 {
    let digit = |place: usize| digits.get(place).map_or(0, |digit| i64::from(digit - b'0'));
    (0..6).fold(0, |sum, place| sum * 10 + digit(place))
}

fn offset(text: &[u8]) -> Option<(i64, &[u8])> {
    let (&sign, rest) = text.split_first()?;
    let sign = match sign {
        b'Z' => return Some((0, rest)),
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let (hours, rest) = digits(rest, 2, 2)?;
    let colon = rest.strip_prefix(b":");
    let (minutes, rest) = match (digits(colon.unwrap_or(rest), 2, 2), colon) {
        (Some((minutes, rest)), _) => (number(minutes), rest),
        (None, Some(_)) => return None,
        (None, None) => (0, rest),
    };
    let seconds = number(hours) * 3600 + minutes * 60;
    // As Java: up to 18 hours.
    if minutes > 59 || seconds > 18 * 3600 { None } else { Some((sign * seconds, rest)) }
}

/// Writes all parts, the optional ones too.
pub(super) fn print(items: &[Item], parts: &Parts) -> String {
    let mut text = Vec::new();
    print_into(items, parts, &mut text);
    String::from_utf8_lossy(&text).into_owned()
}

fn print_into(items: &[Item], parts: &Parts, text: &mut Vec<u8>) {
    for item in items {
        match item {
            Item::Literal(byte) => text.push(*byte),
            Item::Number { part, width, .. } => {
                let mut parts = *parts;
                let value = parts.slot(*part).unwrap_or_default();
                let sign = match value {
                    ..0 => "-",
                    10_000.. if *part == Part::Year => "+",
                    _ => "",
                };
                text.extend(format!("{sign}{:0width$}", value.unsigned_abs()).bytes());
            }
            Item::Fraction { most, dot, .. } => {
                let micros = parts.micros.unwrap_or_default();
                let digits = format!("{micros:06}000");
                let width = match (*dot, micros % 1000) {
                    (true, 0) => 3,
                    (true, _) => 6,
                    (false, _) => *most,
                };
                if *dot {
                    text.push(b'.');
                }
                text.extend(digits.bytes().take(width));
            }
            Item::Offset => text.push(b'Z'),
            Item::Optional(items) => print_into(items, parts, text),
        }
    }
}
