//! What `_update_by_query`, `_delete_by_query` and `_reindex` have in common: how many documents,
//! how fast, in how many slices, and whether conflicts end it.

use serde_json::{Map, Value};

use crate::dialect::json::Field;
use crate::error::{Error, Kind, Result};
use crate::http::Params;

/// Documents a page, unless the request says otherwise.
const BATCH: usize = 1_000;
/// Documents a page at most.
const MAX_BATCH: usize = 10_000;
/// Workers of one task at most.
const MAX_SLICES: usize = 64;

/// Parameters of all three.
pub(super) const PARAMS: &[&str] = &[
    "max_docs",
    "refresh",
    "requests_per_second",
    "scroll",
    "slices",
    "timeout",
    "wait_for_active_shards",
    "wait_for_completion",
];

/// What all three have in common.
#[derive(Debug, Clone)]
pub(super) struct Options {
    pub(super) batch: usize,
    pub(super) max_docs: Option<u64>,
    /// Documents a second; infinite: no limit.
    pub(super) rate: f64,
    pub(super) slices: usize,
    pub(super) proceed: bool,
    pub(super) refresh: bool,
    pub(super) wait: bool,
}

impl Options {
    /// Reads the parameters.
    pub(super) fn read(params: &Params) -> Result<Self> {
        params.duration("scroll")?;
        params.duration("timeout")?;
        match params.filled("wait_for_active_shards") {
            None | Some("0" | "1" | "all") => {}
            Some(other) => {
                let reason = format!(
                    "[wait_for_active_shards] of [{other}] cannot be fulfilled by one node"
                );
                return Err(Error::new(Kind::Unavailable, reason));
            }
        }
        let mut options = Self {
            batch: BATCH,
            max_docs: None,
            rate: rate(params)?.unwrap_or(f64::INFINITY),
            slices: slices(params)?,
            proceed: false,
            refresh: params.is_true("refresh")?,
            wait: params.boolean("wait_for_completion")?.unwrap_or(true),
        };
        for key in ["max_docs", "size"] {
            if let Some(number) = params.integer(key)? {
                options.limit(number)?;
            }
        }
        if let Some(size) = params.count("scroll_size")? {
            options.set_batch(size)?;
        }
        if let Some(text) = params.filled("conflicts") {
            options.proceed = proceeds(text)?;
        }
        Ok(options)
    }

    /// Takes an option of the body; `false`: it is none of these.
    pub(super) fn take(&mut self, key: &str, value: &Value) -> Result<bool> {
        let field = Field::new("request", key, value);
        match key {
            "conflicts" => self.proceed = proceeds(&field.text()?)?,
            "max_docs" | "size" => self.limit(field.integer()?)?,
            "script" => return Err(Error::argument("[script] is not supported")),
            _ => return Ok(false),
        }
        Ok(true)
    }

    pub(super) fn set_batch(&mut self, size: usize) -> Result<()> {
        if size == 0 || size > MAX_BATCH {
            return Err(Error::argument(format!(
                "Batch size is too large, size must be less than or equal to: [{MAX_BATCH}] and \
                 above [0] but was [{size}]."
            )));
        }
        self.batch = size;
        Ok(())
    }

    fn limit(&mut self, number: i64) -> Result<()> {
        if number == -1 {
            return Ok(());
        }
        let number = u64::try_from(number).map_err(|_| {
            Error::argument(format!("[max_docs] parameter cannot be negative, found [{number}]"))
        })?;
        match self.max_docs.replace(number) {
            Some(before) if before != number => {
                let (less, more) = (before.min(number), before.max(number));
                Err(Error::argument(format!(
                    "[max_docs] set to two different values [{less}] and [{more}]"
                )))
            }
            _ => Ok(()),
        }
    }

    /// Checks what only all of them can tell.
    pub(super) fn check(&self) -> Result<()> {
        if self.max_docs.is_some_and(|max| max < self.slices as u64) {
            return Err(Error::validation("[max_docs] should be >= [slices]"));
        }
        Ok(())
    }
}

fn proceeds(text: &str) -> Result<bool> {
    match text {
        "proceed" => Ok(true),
        "abort" => Ok(false),
        _ => Err(Error::argument(format!(
            "conflicts may only be \"proceed\" or \"abort\" but was [{text}]"
        ))),
    }
}

/// `requests_per_second`, infinite for -1.
pub(in crate::routes) fn rate(params: &Params) -> Result<Option<f64>> {
    let Some(text) = params.text("requests_per_second") else { return Ok(None) };
    match text.parse::<f64>() {
        Ok(-1.0) => Ok(Some(f64::INFINITY)),
        Ok(rate) if rate > 0.0 && rate.is_finite() => Ok(Some(rate)),
        _ => Err(Error::argument(
            "[requests_per_second] must be a float greater than 0. Use -1 to disable throttling.",
        )),
    }
}

/// `slices`; every index has one shard, so that `auto` is one.
fn slices(params: &Params) -> Result<usize> {
    let Some(text) = params.text("slices") else { return Ok(1) };
    let wrong = || Error::argument("[slices] must be a positive integer or the string \"auto\"");
    if text == "auto" {
        return Ok(1);
    }
    let slices = text.parse::<usize>().ok().filter(|slices| *slices > 0).ok_or_else(wrong)?;
    if slices > MAX_SLICES {
        return Err(Error::argument(format!(
            "The number of slices [{slices}] is too large. It must be less than [{MAX_SLICES}]."
        )));
    }
    Ok(slices)
}

/// The rest of a body once an option has been taken out.
pub(super) fn without(body: &Map<String, Value>, keys: &[&str]) -> Map<String, Value> {
    let kept = body.iter().filter(|(key, _)| !keys.contains(&key.as_str()));
    kept.map(|(key, value)| (key.clone(), value.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_and_checked() {
        let check = |query: &str, reason: &str| {
            let params = Params::read("/", query).unwrap();
            let error = Options::read(&params).and_then(|options| options.check()).unwrap_err();
            assert!(error.reason().contains(reason), "{query}: {error}");
        };
        let rate =
            "[requests_per_second] must be a float greater than 0. Use -1 to disable throttling.";
        for wrong in ["", "0", "-12", "x", "NaN", "inf"] {
            check(&format!("requests_per_second={wrong}"), rate);
        }
        for wrong in ["0", "junk", "-1", ""] {
            check(&format!("slices={wrong}"), "[slices] must be a positive integer");
        }
        check("slices=65", "The number of slices [65] is too large");
        check("slices=2&max_docs=1", "[max_docs] should be >= [slices]");
        check("max_docs=-4", "[max_docs] parameter cannot be negative, found [-4]");
        check("max_docs=5&size=4", "[max_docs] set to two different values [4] and [5]");
        check("conflicts=cat", "but was [cat]");
        check("scroll_size=0", "Batch size");
        let params = "conflicts=proceed&requests_per_second=2.5&slices=auto&max_docs=7";
        let read = Options::read(&Params::read("/", params).unwrap()).unwrap();
        assert_eq!((read.proceed, read.slices, read.max_docs), (true, 1, Some(7)));
        assert!((read.rate - 2.5).abs() < 1e-9 && read.wait && !read.refresh);
    }
}
