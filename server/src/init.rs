//! `egret init`: looks at a database, says what stands in the way, which statements make a role that may
//! do no more than it must, and writes a configuration.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use egret_cdc::PipelineConfig;
use egret_cdc::inspect::{InspectedTable, Inspection, inspect};
use indicatif::HumanBytes;

use crate::cli::print;
use crate::error::{Error, Kind, Result};

/// What the pipeline is named, and its publication after it.
const PIPELINE: &str = "main";
const PUBLICATION: &str = "egret_main";

/// What stands in the place of the password that is to be chosen.
const PASSWORD: &str = "choose a password";

/// Options of `egret init`.
#[derive(Debug, Args)]
pub struct Init {
    /// The database: postgres://user:password@host:port/database
    #[arg(long, value_name = "URL", env = "EGRET_POSTGRES_URL", hide_env_values = true)]
    pub postgres: String,
    /// Tables to follow, separated by commas: `*`, `schema.*`, `schema.table`, `table`
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "*")]
    pub tables: Vec<String>,
    /// The role that Egret is to use
    #[arg(long, value_name = "NAME", default_value = "egret")]
    pub role: String,
    /// The configuration file to write
    #[arg(long, value_name = "FILE", default_value = "egret.toml")]
    pub output: PathBuf,
    /// Write over a file that is there
    #[arg(long)]
    pub force: bool,
    /// Only say what is wrong: ends with status 0 where nothing is, else with 1
    #[arg(long)]
    pub check: bool,
}

/// Runs the command.
pub fn run(options: &Init) -> Result<()> {
    if !options.check && !options.force && options.output.exists() {
        let reason =
            format!("[{}] is there already: see --output and --force", options.output.display());
        return Err(Error::new(Kind::Configuration, reason));
    }
    let password = std::env::var("PGPASSWORD").ok();
    let (url, tables) = (options.postgres.clone(), options.tables.clone());
    let pipeline = PipelineConfig { url, tables, password, ..PipelineConfig::default() };
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.map_err(|error| {
        Error::new(Kind::Internal, format!("cannot start threads: {error}")).with_source(error)
    })?;
    let found = runtime.block_on(Box::pin(inspect(&pipeline)))?;
    let mut text = report(&found);
    let wrong = found.obstacles.len() + found.tables.iter().filter(|it| it.key.is_err()).count();
    if options.check {
        print(&text)?;
        if wrong == 0 && !found.tables.is_empty() {
            return Ok(());
        }
        let reason = format!("[{wrong}] things are wrong in [{}]", found.database);
        return Err(Error::new(Kind::State, reason));
    }
    let _ = write!(
        text,
        "\nTo be run by a superuser, in database [{}]:\n\n{}\n",
        found.database,
        statements(&found, &options.role)
    );
    write_file(&options.output, &configuration(&found, options)?)?;
    let file = options.output.display();
    let _ = write!(
        text,
        "Written: {file}. Then, with the password in PGPASSWORD:\n\n    egret serve --config {file}\n"
    );
    print(&text)
}

/// What there is, and what is wrong.
fn report(found: &Inspection) -> String {
    let mut text = format!(
        "PostgreSQL {}, database [{}], seen by [{}]\n",
        found.version, found.database, found.user
    );
    for obstacle in &found.obstacles {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "  wrong: {}\n         {}", obstacle.reason, obstacle.remedy);
    }
    for table in &found.tables {
        let _ = match &table.key {
            Ok(_) => writeln!(text, "  {} {}", title(table), facts(table)),
            Err(reason) => writeln!(text, "  {} cannot be followed: {reason}", title(table)),
        };
    }
    if found.tables.is_empty() {
        text.push_str("  wrong: there is no such table\n");
    }
    text
}

fn facts(table: &InspectedTable) -> String {
    let key = table.key.as_ref().map(|key| key.join(", ")).unwrap_or_default();
    let rows = table.rows_estimated;
    let size = table.size_bytes.map(|size| HumanBytes(size).to_string());
    let size = size.unwrap_or_else(|| "size unknown (it was locked)".to_owned());
    format!("about {rows} rows, {size}, known by ({key})")
}

/// Everything that a role needs, and no more: it owns nothing and is no superuser.
fn statements(found: &Inspection, role: &str) -> String {
    let mut text = String::new();
    for obstacle in &found.obstacles {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{}", obstacle.remedy);
    }
    let (role, database) = (quoted(role), quoted(&found.database));
    let _ = writeln!(text, "CREATE ROLE {role} LOGIN REPLICATION PASSWORD '{PASSWORD}';");
    let _ = writeln!(text, "GRANT CONNECT ON DATABASE {database} TO {role};");
    let tables: Vec<&InspectedTable> = followed(found).collect();
    let mut schemas: Vec<&str> = tables.iter().map(|table| table.schema.as_str()).collect();
    schemas.dedup();
    for schema in schemas {
        let _ = writeln!(text, "GRANT USAGE ON SCHEMA {} TO {role};", quoted(schema));
    }
    let names: Vec<String> = tables
        .iter()
        .map(|table| format!("{}.{}", quoted(&table.schema), quoted(&table.name)))
        .collect();
    if !names.is_empty() {
        let names = names.join(", ");
        let _ = writeln!(text, "GRANT SELECT ON {names} TO {role};");
        let generated = match found.version_number {
            180_000.. => ", publish_generated_columns = stored",
            _ => "",
        };
        let _ = writeln!(
            text,
            "CREATE PUBLICATION {PUBLICATION} FOR TABLE {names} WITH (publish_via_partition_root = true{generated});"
        );
    }
    text
}

/// The configuration file.
fn configuration(found: &Inspection, options: &Init) -> Result<String> {
    let url = url_of(&options.postgres, &options.role)?;
    let mut tables = String::new();
    for table in &found.tables {
        let name = toml::Value::String(pattern(table));
        let _ = match &table.key {
            Ok(_) => writeln!(tables, "    {name}, # {}", facts(table)),
            Err(reason) => writeln!(tables, "    # {name}, # {}", reason.replace('\n', " ")),
        };
    }
    Ok(format!(
        "# Written by `egret init`. `egret config` prints every option with what it is for.\n\
         \n\
         # The folder of everything that Egret keeps.\n\
         data = \"egret-data\"\n\
         \n\
         [http]\n\
         # Egret has no users of its own: listen on loopback, or behind a proxy.\n\
         listen = \"127.0.0.1:9200\"\n\
         \n\
         [[pipelines]]\n\
         name = \"{PIPELINE}\"\n\
         # The password comes from PGPASSWORD, or from the first line of a file:\n\
         # password_file = \"/etc/egret/password\"\n\
         url = {}\n\
         # Made by an administrator; its tables are those below. Leave it out where the role owns the\n\
         # tables: Egret then makes a publication of its own, and `tables` may have stars.\n\
         publication = \"{PUBLICATION}\"\n\
         # An index for each, named as the table (`schema.table` outside of `public`).\n\
         tables = [\n{tables}]\n\
         \n\
         # What rows become, and documents from several tables: see [[pipelines.documents]] in\n\
         # `egret config`.\n",
        toml::Value::String(url)
    ))
}

fn followed(found: &Inspection) -> impl Iterator<Item = &InspectedTable> {
    found.tables.iter().filter(|table| table.key.is_ok())
}

fn title(table: &InspectedTable) -> String {
    format!("{}.{}", table.schema, table.name)
}

/// A table as `tables` names it.
fn pattern(table: &InspectedTable) -> String {
    let part = |name: &str| {
        let is_plain = name.chars().all(|sign| sign.is_alphanumeric() || sign == '_');
        if is_plain { name.to_owned() } else { quoted(name) }
    };
    format!("{}.{}", part(&table.schema), part(&table.name))
}

/// An identifier as statements have it.
fn quoted(name: &str) -> String {
    let is_plain = |sign: char| sign.is_ascii_lowercase() || sign.is_ascii_digit() || sign == '_';
    let begins = |sign: char| sign.is_ascii_lowercase() || sign == '_';
    // What may be a word of the language is quoted too: all but the plainest.
    if name.starts_with(begins) && name.chars().all(is_plain) && name.contains('_') {
        return name.to_owned();
    }
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// The URL for another role, without a password.
fn url_of(url: &str, role: &str) -> Result<String> {
    let wrong = || Error::new(Kind::Configuration, "the URL must begin with postgres://");
    let (scheme, rest) = url.split_once("://").ok_or_else(wrong)?;
    let place = rest.rsplit_once('@').map_or(rest, |(_, place)| place);
    let role = percent_encoding::utf8_percent_encode(role, percent_encoding::NON_ALPHANUMERIC);
    Ok(format!("{scheme}://{role}@{place}"))
}

fn write_file(path: &Path, content: &str) -> Result<()> {
    std::fs::write(path, content).map_err(|error| {
        let reason = format!("cannot write [{}]: {error}", path.display());
        Error::new(Kind::Configuration, reason).with_source(error)
    })
}

#[cfg(test)]
mod tests {
    use egret_cdc::inspect::Obstacle;

    use super::*;
    use crate::config::Config;

    fn table(schema: &str, name: &str, key: Result<&str, &str>) -> InspectedTable {
        InspectedTable {
            schema: schema.to_owned(),
            name: name.to_owned(),
            rows_estimated: 7,
            size_bytes: Some(8192),
            key: key.map(|key| vec![key.to_owned()]).map_err(str::to_owned),
            is_owned: false,
            is_readable: true,
        }
    }

    fn found() -> Inspection {
        Inspection {
            database: "shop".to_owned(),
            user: "ada".to_owned(),
            version: "17.1".to_owned(),
            version_number: 170_001,
            is_superuser: true,
            tables: vec![
                table("public", "birds", Ok("id")),
                table("public", "eggs", Err("it has no primary key")),
                table("Odd.one", "a \"b\"", Ok("id")),
            ],
            obstacles: vec![Obstacle {
                reason: "wal_level is [replica]".to_owned(),
                remedy: "ALTER SYSTEM SET wal_level = 'logical';".to_owned(),
            }],
        }
    }

    #[test]
    fn a_configuration_that_is_understood() {
        let options = Init {
            postgres: "postgres://ada:secret@db:5433/shop?sslmode=require".to_owned(),
            tables: vec!["*".to_owned()],
            role: "egret".to_owned(),
            output: "egret.toml".into(),
            force: false,
            check: false,
        };
        let text = configuration(&found(), &options).unwrap();
        let config = Config::parse(&text).unwrap();
        config.validate().unwrap();
        let pipeline = &config.pipelines[0];
        assert_eq!(pipeline.url, "postgres://egret@db:5433/shop?sslmode=require");
        assert_eq!(pipeline.tables, ["public.birds", r#""Odd.one"."a ""b""""#]);
        assert!(text.contains("# it has no primary key") && !text.contains("secret"), "{text}");
    }

    #[test]
    fn a_report_and_its_statements() {
        let text = report(&found());
        assert!(text.contains("wrong: wal_level is [replica]"), "{text}");
        assert!(text.contains("public.eggs cannot be followed: it has no primary key"), "{text}");
        assert!(text.contains("public.birds about 7 rows, 8.00 KiB, known by (id)"), "{text}");
        let text = statements(&found(), "reader");
        assert!(text.starts_with("ALTER SYSTEM SET wal_level"), "{text}");
        assert!(
            text.contains(r#"GRANT SELECT ON "public"."birds", "Odd.one"."a ""b""" TO "reader";"#)
        );
        assert!(!text.contains("eggs"), "{text}");
    }
}
