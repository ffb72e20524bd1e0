//! `egret pipeline`: tells a running server what its pipelines are to do, and shows where they stand.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use egret_cdc::PipelineConfig;
use serde_json::{Map, Value};

use crate::cli::print;
use crate::client::{Client, Server, encoded};
use crate::error::{Error, Kind, Result};

/// Options of `egret pipeline`.
#[derive(Debug, Args)]
pub struct Pipeline {
    /// The server.
    #[command(flatten)]
    pub server: Server,
    /// Print the server's answer as JSON
    #[arg(long, global = true)]
    pub json: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do with pipelines.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List the pipelines, and where each stands
    List,
    /// Show one pipeline and its tables
    Show(Named),
    /// Declare a pipeline, or change one that was declared so
    Create(Create),
    /// Drop a pipeline with its slot and publication
    Delete(Delete),
    /// Have it stand still, also over restarts, until resumed
    Pause(Named),
    /// Have it go on where it stood
    Resume(Named),
    /// Have it give up its connections and begin anew from where its indexes stand
    Restart(Named),
    /// Copy a table again, beside the index that searches see
    Copy(Copy),
}

/// One pipeline.
#[derive(Debug, Args)]
pub struct Named {
    /// The pipeline
    pub name: String,
}

/// Options of `egret pipeline create`.
#[derive(Debug, Args)]
pub struct Create {
    /// The pipeline
    pub name: String,
    /// Its options, as the configuration file has them below [[pipelines]] (TOML), or as JSON (.json)
    #[arg(long, value_name = "FILE", required_unless_present = "postgres")]
    pub file: Option<PathBuf>,
    /// The database to follow: postgres://user:password@host:port/database
    #[arg(long, value_name = "URL", env = "EGRET_POSTGRES_URL", hide_env_values = true)]
    pub postgres: Option<String>,
    /// A file on the server's machine whose first line is the password
    #[arg(long, value_name = "FILE")]
    pub password_file: Option<String>,
    /// Tables to follow, separated by commas: `*`, `schema.*`, `schema.table`, `table`
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub tables: Option<Vec<String>>,
}

/// Options of `egret pipeline delete`.
#[derive(Debug, Args)]
pub struct Delete {
    /// The pipeline
    pub name: String,
    /// Delete the indexes that it follows too
    #[arg(long)]
    pub delete_indexes: bool,
    /// Also where the database cannot be reached, which then keeps the slot
    #[arg(long)]
    pub force: bool,
}

/// Options of `egret pipeline copy`.
#[derive(Debug, Args)]
pub struct Copy {
    /// The pipeline
    pub name: String,
    /// The table: schema.table
    pub table: String,
}

/// Runs the command.
pub fn run(options: &Pipeline) -> Result<()> {
    let client = Client::of(&options.server)?;
    let (answer, text) = ask(&client, &options.command)?;
    print(&if options.json { format!("{answer}\n") } else { text })
}

/// What the server answers, and the same for people.
fn ask(client: &Client, command: &Command) -> Result<(Value, String)> {
    let order = |name: &str, what: &str, done: &str| {
        let answer = client.post(&format!("{}/{what}", path(name)))?;
        Ok((answer, format!("pipeline [{name}] {done}\n")))
    };
    match command {
        Command::List => {
            let answer = client.get("/_cdc")?;
            let text = listed(&answer);
            Ok((answer, text))
        }
        Command::Show(Named { name }) => {
            let answer = client.get(&path(name))?;
            let text = shown(&answer);
            Ok((answer, text))
        }
        Command::Create(create) => {
            let name = &create.name;
            let answer = client.ask("PUT", &path(name), Some(&declaration(create)?))?;
            Ok((answer, format!("pipeline [{name}] is declared; egret pipeline show {name}\n")))
        }
        Command::Delete(Delete { name, delete_indexes, force }) => {
            let parameters = format!("?delete_indexes={delete_indexes}&force={force}");
            let answer = client.ask("DELETE", &format!("{}{parameters}", path(name)), None)?;
            Ok((answer, format!("pipeline [{name}] is gone\n")))
        }
        Command::Pause(Named { name }) => order(name, "_pause", "stands still until it is resumed"),
        Command::Resume(Named { name }) => order(name, "_resume", "goes on"),
        Command::Restart(Named { name }) => order(name, "_restart", "begins anew"),
        Command::Copy(Copy { name, table }) => {
            let what = format!("_copy?table={}", encoded(table));
            order(name, &what, &format!("copies [{table}] again"))
        }
    }
}

fn path(name: &str) -> String {
    format!("/_cdc/{}", encoded(name))
}

/// The body of the request: the file's options, and over them those of the command line.
fn declaration(create: &Create) -> Result<Value> {
    let mut declared = match &create.file {
        Some(path) => options_of(path)?,
        None => Map::new(),
    };
    let Create { postgres, password_file, tables, .. } = create;
    declared.extend(postgres.clone().map(|url| ("url".to_owned(), url.into())));
    declared.extend(password_file.clone().map(|file| ("password_file".to_owned(), file.into())));
    declared.extend(tables.clone().map(|tables| ("tables".to_owned(), tables.into())));
    declared.insert("name".to_owned(), create.name.clone().into());
    Ok(declared.into())
}

/// A file's options, checked here: its messages name the place.
fn options_of(path: &Path) -> Result<Map<String, Value>> {
    let wrong = |problem: &dyn std::fmt::Display| {
        let problem = problem.to_string();
        let reason = format!("{}: {}", path.display(), problem.trim_end());
        Error::new(Kind::Configuration, reason)
    };
    let text = std::fs::read_to_string(path).map_err(|error| wrong(&error))?;
    if path.extension().is_some_and(|extension| extension == "json") {
        serde_json::from_str::<PipelineConfig>(&text).map_err(|error| wrong(&error))?;
        return serde_json::from_str(&text).map_err(|error| wrong(&error));
    }
    toml::from_str::<PipelineConfig>(&text).map_err(|error| wrong(&error))?;
    toml::from_str(&text).map_err(|error| wrong(&error))
}

/// A table of pipelines.
fn listed(answer: &Value) -> String {
    let mut rows =
        vec![["PIPELINE", "STATE", "TABLES", "LAG BYTES", "DEAD LETTERS"].map(str::to_owned)];
    for pipeline in list(&answer["pipelines"]) {
        rows.push([
            word(&pipeline["name"]),
            word(&pipeline["state"]),
            list(&pipeline["tables"]).len().to_string(),
            word(&pipeline["lag"]["bytes"]),
            word(&pipeline["dead_letters"]),
        ]);
    }
    aligned(&rows)
}

/// A pipeline, then a table of its tables.
fn shown(answer: &Value) -> String {
    let mut text = String::new();
    let lsn = &answer["lsn"];
    let facts = [
        ("pipeline", &answer["name"]),
        ("state", &answer["state"]),
        ("reason", &answer["reason"]),
        ("declared in", &answer["declared_in"]),
        ("database", &answer["configuration"]["url"]),
        ("slot", &answer["slot"]),
        ("publication", &answer["publication"]),
        ("visible up to", &lsn["visible"]),
        ("server's end", &lsn["server"]),
        ("lag bytes", &answer["lag"]["bytes"]),
        ("kept log bytes", &answer["retained_wal_bytes"]),
        ("dead letters", &answer["dead_letters"]),
        ("last error", &answer["last_error"]),
    ];
    for (name, value) in facts.iter().filter(|(_, value)| !value.is_null()) {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name:<15} {}", word(value));
    }
    let mut rows =
        vec![["TABLE", "INDEX", "STATE", "COPIED", "STREAMED", "REASON"].map(str::to_owned)];
    for table in list(&answer["tables"]) {
        let keys = ["table", "index", "state", "rows_copied", "rows_streamed", "reason"];
        rows.push(keys.map(|key| word(&table[key])));
    }
    text + "\n" + &aligned(&rows)
}

/// Columns as wide as their widest text.
fn aligned<const COLUMNS: usize>(rows: &[[String; COLUMNS]]) -> String {
    let mut widths = [0; COLUMNS];
    for row in rows {
        for (width, text) in widths.iter_mut().zip(row) {
            *width = text.chars().count().max(*width);
        }
    }
    let line = |row: &[String; COLUMNS]| {
        let cell = |(width, text): (&usize, &String)| format!("{text:<width$}");
        let cells: Vec<String> = widths.iter().zip(row).map(cell).collect();
        format!("{}\n", cells.join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn word(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn tables_are_aligned() {
        let answer = json!({"pipelines": [
            {"name": "main", "state": "streaming", "tables": [{}, {}], "lag": {"bytes": 7}, "dead_letters": 0},
            {"name": "other_one", "state": "paused", "tables": [], "lag": {"bytes": null}, "dead_letters": 1},
        ]});
        let expected = "PIPELINE   STATE      TABLES  LAG BYTES  DEAD LETTERS\n\
                        main       streaming  2       7          0\n\
                        other_one  paused     0       -          1\n";
        assert_eq!(listed(&answer), expected);
    }

    #[test]
    fn declarations_come_from_a_file_and_the_command_line() {
        let folder = tempfile::tempdir().unwrap();
        let declared = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            let create = Create {
                name: "shop".to_owned(),
                file: Some(path),
                postgres: None,
                password_file: None,
                tables: Some(vec!["a".to_owned()]),
            };
            declaration(&create).map_err(|error| error.to_string())
        };
        let expected = json!({"url": "postgres://h/d", "tables": ["a"], "name": "shop",
                              "verify": {"enabled": false}});
        let toml = "url = \"postgres://h/d\"\ntables = [\"b\"]\nverify.enabled = false";
        assert_eq!(declared("p.toml", toml).unwrap(), expected);
        let text = r#"{"url": "postgres://h/d", "verify": {"enabled": false}}"#;
        assert_eq!(declared("p.json", text).unwrap(), expected);
        assert!(declared("p.toml", "tabels = []").unwrap_err().contains("tabels"));
        assert!(declared("q.json", r#"{"x": 1}"#).unwrap_err().contains("q.json"));
    }
}
