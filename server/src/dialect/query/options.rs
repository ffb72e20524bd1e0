//! Options that several clauses share: `fuzziness`, `minimum_should_match`, `operator`, `rewrite`.

use egret_engine::query::ast::{Fuzziness, MinimumShouldMatch, Operator, ZeroTerms};
use serde_json::Value;

use crate::dialect::json::Field;
use crate::error::{Error, Result};

/// `"AUTO"`, `"AUTO:3,6"`, or 0 to 2.
pub(super) fn fuzziness(field: &Field<'_>) -> Result<Fuzziness> {
    let text = field.text()?;
    let invalid = || Error::argument(format!("Invalid fuzziness value: {text}"));
    if text.eq_ignore_ascii_case("auto") {
        return Ok(Fuzziness::Auto { low: 3, high: 6 });
    }
    if let Some((auto, bounds)) = text.split_once(':') {
        let (low, high) = bounds.split_once(',').ok_or_else(invalid)?;
        let low = low.trim().parse().map_err(|_| invalid())?;
        let high = high.trim().parse().map_err(|_| invalid())?;
        let valid = auto.eq_ignore_ascii_case("auto") && low <= high;
        return if valid { Ok(Fuzziness::Auto { low, high }) } else { Err(invalid()) };
    }
    match text.parse::<f32>().map_err(|_| invalid())? {
        0.0 => Ok(Fuzziness::Edits(0)),
        1.0 => Ok(Fuzziness::Edits(1)),
        2.0 => Ok(Fuzziness::Edits(2)),
        _ => Err(invalid()),
    }
}

/// `or` or `and`, in either case.
pub(crate) fn operator(field: &Field<'_>) -> Result<Operator> {
    let text = field.text()?;
    match text.to_ascii_lowercase().as_str() {
        "or" => Ok(Operator::Or),
        "and" => Ok(Operator::And),
        _ => Err(Error::argument(format!(
            "[{}] operator needs to be either [or] or [and], but not [{text}]",
            field.clause
        ))),
    }
}

/// `none` or `all`.
pub(super) fn zero_terms(field: &Field<'_>) -> Result<ZeroTerms> {
    let text = field.text()?;
    match text.to_ascii_lowercase().as_str() {
        "none" => Ok(ZeroTerms::None),
        "all" => Ok(ZeroTerms::All),
        _ => Err(Error::parsing(format!("Unsupported zero_terms_query value [{text}]"))),
    }
}

/// `2`, `-1`, `75%`, `-25%`, `2<75% 9<-3`.
pub(super) fn minimum_should_match(field: &Field<'_>) -> Result<MinimumShouldMatch> {
    let text = match field.value {
        Value::Number(_) | Value::String(_) => field.text()?,
        _ => return Err(field.misplaced()),
    };
    let wrong = || field.wrong("a count, a percentage or conditions on these");
    if !text.contains('<') {
        return simple_minimum(text.trim()).ok_or_else(wrong);
    }
    let mut conditions = Vec::new();
    for condition in text.split_whitespace() {
        let (above, minimum) = condition.split_once('<').ok_or_else(wrong)?;
        let above: usize = above.trim().parse().map_err(|_| wrong())?;
        let rises = conditions.last().is_none_or(|(last, _)| *last < above);
        if !rises {
            return Err(wrong());
        }
        conditions.push((above, simple_minimum(minimum).ok_or_else(wrong)?));
    }
    Ok(MinimumShouldMatch::Above(conditions))
}

fn simple_minimum(text: &str) -> Option<MinimumShouldMatch> {
    match text.strip_suffix('%') {
        Some(percent) => {
            let percent: i32 = percent.parse().ok()?;
            (-100..=100).contains(&percent).then_some(MinimumShouldMatch::Percent(percent))
        }
        None => text.parse().ok().map(MinimumShouldMatch::Count),
    }
}

/// `rewrite` and `fuzzy_rewrite`: only what the engine does anyway.
pub(super) fn rewrite(field: &Field<'_>, built: &[&str]) -> Result<()> {
    let text = field.text()?;
    if built.contains(&text.as_str()) {
        return Ok(());
    }
    Err(Error::argument(format!(
        "[{}] [{}] supports only [{}], but not [{text}]",
        field.clause,
        field.key,
        built.join(", ")
    )))
}

/// An option that has one value only.
pub(super) fn only(field: &Field<'_>, built: bool) -> Result<()> {
    if field.boolean()? == built {
        return Ok(());
    }
    Err(Error::parsing(format!(
        "[{}] query does not support [{}: {}]",
        field.clause, field.key, !built
    )))
}
