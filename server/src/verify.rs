//! `egret verify`: has a running server hold its documents against their rows, and tells what it found.

use std::fmt::Write;
use std::time::Duration;

use serde_json::{Value, json};

use crate::cli::{Verify, print};
use crate::client::{Client, encoded};
use crate::error::{Error, Kind, Result};

/// How often the server is asked how far it is.
const PAUSE: Duration = Duration::from_millis(200);

/// Runs the command. Fails where a difference stays, or a table could not be proven.
pub fn run(options: &Verify) -> Result<()> {
    let client = Client::of(&options.server)?;
    let names = match &options.pipeline {
        Some(name) => vec![name.clone()],
        None => pipelines(&client)?,
    };
    let mut reports = Vec::with_capacity(names.len());
    for name in &names {
        reports.push(round(&client, name, options)?);
    }
    let text = if options.json {
        format!("{}\n", json!({ "pipelines": reports }))
    } else {
        reports.iter().map(to_text).collect()
    };
    print(&text)?;
    let wrong: Vec<String> = reports.iter().filter_map(what_is_wrong).collect();
    if wrong.is_empty() {
        return Ok(());
    }
    Err(Error::new(Kind::State, wrong.join("; ")))
}

/// The pipelines that the server runs; that there are none proves nothing.
fn pipelines(client: &Client) -> Result<Vec<String>> {
    let status = client.get("/_cdc")?;
    let names = status["pipelines"].as_array().into_iter().flatten();
    let names: Vec<String> =
        names.filter_map(|it| it["name"].as_str()).map(str::to_owned).collect();
    if names.is_empty() {
        return Err(Error::new(Kind::NotFound, "the server runs no pipeline"));
    }
    Ok(names)
}

/// Begins a round and waits for its end; what the server then says.
fn round(client: &Client, name: &str, options: &Verify) -> Result<Value> {
    let path = format!("/_cdc/{}/verify", encoded(name));
    // Writing to a string cannot fail.
    let mut parameters = format!("?repair={}", options.repair);
    if let Some(table) = &options.table {
        let _ = write!(parameters, "&table={}", encoded(table));
    }
    if let Some(rows) = options.rows_per_second {
        let _ = write!(parameters, "&rows_per_second={rows}");
    }
    let begun = client.post(&format!("{path}{parameters}"))?;
    let number = begun["round"].as_u64();
    loop {
        let report = client.get(&path)?;
        if report["last_round"]["number"].as_u64() >= number {
            return Ok(report);
        }
        if report["rounds"].as_u64() < number {
            let reason = format!("pipeline [{name}] was begun anew, and knows of no such round");
            return Err(Error::new(Kind::State, reason));
        }
        std::thread::sleep(PAUSE);
    }
}

/// What makes the command fail.
fn what_is_wrong(report: &Value) -> Option<String> {
    let (name, last) = (&report["pipeline"], &report["last_round"]);
    if last["state"] != "done" {
        let reason = last["reason"].as_str().unwrap_or("its round ended early");
        return Some(format!("pipeline {name} is not verified: {reason}"));
    }
    let count = |key: &str| last[key].as_u64().unwrap_or_default();
    let left = count("differences").saturating_sub(count("repaired"));
    let unproven = list(&last["unproven"]).len();
    match (left, unproven) {
        (0, 0) => None,
        (0, tables) => Some(format!("pipeline {name}: [{tables}] tables are not proven")),
        (left, _) => Some(format!("pipeline {name}: [{left}] documents differ from their rows")),
    }
}

fn to_text(report: &Value) -> String {
    let last = &report["last_round"];
    let mut text = format!("pipeline {}\n", word(&report["pipeline"]));
    for table in list(&report["tables"]) {
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "  {} in [{}]: {} rows and {} documents looked at, as of {}",
            word(&table["table"]),
            word(&table["index"]),
            table["rows"],
            table["documents"],
            word(&table["lsn"]),
        );
    }
    for unproven in list(&last["unproven"]) {
        let _ = writeln!(
            text,
            "  {} not proven: {}",
            word(&unproven["table"]),
            word(&unproven["reason"])
        );
    }
    let differences = list(&report["differences"]);
    let found = usize::try_from(last["differences"].as_u64().unwrap_or_default()).unwrap_or(0);
    if found > differences.len() {
        let _ = writeln!(text, "  the last {} of {found} differences:", differences.len());
    }
    for it in differences.iter().skip(differences.len().saturating_sub(found)) {
        let repaired = match (it["repaired"].as_bool(), it["reason"].as_str()) {
            (Some(true), _) => ", repaired".to_owned(),
            (_, Some(reason)) => format!(", not repaired: {reason}"),
            _ => String::new(),
        };
        let kind = word(&it["kind"]).replace('_', " ");
        let _ = writeln!(text, "  {} [{}]: {kind}{repaired}", word(&it["table"]), word(&it["id"]));
    }
    let repaired = &last["repaired"];
    let _ = writeln!(text, "  {found} differences, {repaired} repaired");
    text
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn word(value: &Value) -> &str {
    value.as_str().unwrap_or("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_and_what_is_wrong() {
        let mut report = json!({
            "pipeline": "main",
            "last_round": {"number": 1, "state": "done", "differences": 2, "repaired": 2, "unproven": []},
            "tables": [{"table": "public.t", "index": "t", "rows": 3, "documents": 4, "lsn": "0/10"}],
            "differences": [
                {"table": "public.t", "id": "0", "kind": "missing", "repaired": false},
                {"table": "public.t", "id": "1", "kind": "left_over", "repaired": true},
                {"table": "public.t", "id": "2", "kind": "different", "repaired": false, "reason": "why"},
            ],
        });
        let text = to_text(&report);
        let expected = "pipeline main\n  public.t in [t]: 3 rows and 4 documents looked at, as of 0/10\n  \
            public.t [1]: left over, repaired\n  public.t [2]: different, not repaired: why\n  \
            2 differences, 2 repaired\n";
        assert_eq!(text, expected);
        assert_eq!(what_is_wrong(&report), None);
        report["last_round"]["repaired"] = 1.into();
        assert!(what_is_wrong(&report).unwrap().contains("[1] documents differ"));
        report["last_round"]["differences"] = 1.into();
        report["last_round"]["unproven"] = json!([{"table": "public.u", "reason": "copying"}]);
        assert!(what_is_wrong(&report).unwrap().contains("[1] tables are not proven"));
        assert!(to_text(&report).contains("public.u not proven: copying"));
        report["last_round"]["state"] = "failed".into();
        assert!(what_is_wrong(&report).unwrap().contains("not verified"));
    }
}
