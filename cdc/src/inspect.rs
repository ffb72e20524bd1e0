//! A look at a database before anything is followed: which tables there are, and what stands in the way.

use rustc_hash::FxHashMap;

use crate::catalog;
use crate::config::PipelineConfig;
use crate::connect::{Control, Source};
use crate::error::Result;
use crate::selection::Selection;

/// The oldest server that can be followed.
const OLDEST: u32 = 140_000;

/// Slots that a pipeline takes at most: its own, and those of copies and of looks at single rows.
const SLOTS: i64 = 5;

/// What there is.
#[derive(Debug, Clone)]
pub struct Inspection {
    /// The database, and who looks.
    pub database: String,
    /// See `database`.
    pub user: String,
    /// The server's version, as it writes it.
    pub version: String,
    /// The same as a number: 17.1 is 170001.
    pub version_number: u32,
    /// Whether who looks is a superuser.
    pub is_superuser: bool,
    /// The tables that are wanted.
    pub tables: Vec<InspectedTable>,
    /// What stands in the way of following any of them.
    pub obstacles: Vec<Obstacle>,
}

/// Something that an administrator must change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Obstacle {
    /// What is wrong.
    pub reason: String,
    /// The statement that mends it.
    pub remedy: String,
}

/// A table.
#[derive(Debug, Clone)]
pub struct InspectedTable {
    /// Its schema and name.
    pub schema: String,
    /// See `schema`.
    pub name: String,
    /// Rows that the planner expects.
    pub rows_estimated: u64,
    /// Bytes on disk, with its indexes; `None` where somebody has locked it, or it is gone.
    pub size_bytes: Option<u64>,
    /// The columns by which its rows are known, or why it cannot be followed.
    pub key: std::result::Result<Vec<String>, String>,
    /// Whether who looks may put it into a publication, and read it.
    pub is_owned: bool,
    /// See `is_owned`.
    pub is_readable: bool,
}

const SERVER: &str = "
    SELECT current_database()::text, current_user::text, current_setting('server_version'),
           current_setting('server_version_num')::int4, current_setting('wal_level'),
           current_setting('max_replication_slots')::int8,
           (SELECT count(*) FROM pg_catalog.pg_replication_slots),
           current_setting('max_wal_senders')::int8,
           (SELECT count(*) FROM pg_catalog.pg_stat_replication),
           (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user)";

const READABLE: &str = "
    SELECT c.oid, pg_catalog.has_schema_privilege(c.relnamespace, 'USAGE')
                  AND pg_catalog.has_table_privilege(c.oid, 'SELECT')
    FROM pg_catalog.pg_class c WHERE c.oid = ANY($1)";

const SIZES: &str = "
    SELECT c.oid, coalesce((SELECT sum(pg_catalog.pg_total_relation_size(t.relid))::int8
                            FROM pg_catalog.pg_partition_tree(c.oid) t),
                           pg_catalog.pg_total_relation_size(c.oid))
    FROM pg_catalog.pg_class c WHERE c.oid = ANY($1)";

/// The sizes of tables, in bytes, but of those that somebody has locked.
async fn sizes(control: &Control, oids: &[u32]) -> Result<FxHashMap<u32, Option<i64>>> {
    const DOING: &str = "measuring tables";
    control.execute(DOING, "SET lock_timeout = '100ms'").await?;
    let mut rows = Vec::new();
    match control.rows(DOING, SIZES, &[&oids]).await {
        Ok(found) => rows = found,
        Err(error) if error.is_locked() => {
            for oid in oids {
                match control.rows(DOING, SIZES, &[&[*oid].as_slice()]).await {
                    Ok(found) => rows.extend(found),
                    Err(error) if error.is_locked() => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Err(error) => return Err(error),
    }
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
}

/// Looks at the database of a pipeline.
pub async fn inspect(config: &PipelineConfig) -> Result<Inspection> {
    config.validate()?;
    let selection = Selection::of(config)?;
    let control = Source::parse(config)?.control().await?;
    let row = control.row("looking at the server", SERVER, &[]).await?;
    let mut obstacles = Vec::new();
    let mut obstacle = |reason: String, remedy: String| obstacles.push(Obstacle { reason, remedy });
    let version: String = row.try_get(2)?;
    let version_number = u32::try_from(row.try_get::<_, i32>(3)?).unwrap_or_default();
    if version_number < OLDEST {
        let remedy = "-- upgrade to PostgreSQL 14 or newer".to_owned();
        obstacle(format!("PostgreSQL {version} is older than 14"), remedy);
    }
    let level: String = row.try_get(4)?;
    if level != "logical" {
        let remedy =
            "ALTER SYSTEM SET wal_level = 'logical'; -- then restart the server".to_owned();
        obstacle(format!("wal_level is [{level}], and must be logical"), remedy);
    }
    for (name, limit, used) in [("max_replication_slots", 5, 6), ("max_wal_senders", 7, 8)] {
        let (limit, used): (i64, i64) = (row.try_get(limit)?, row.try_get(used)?);
        if limit - used < SLOTS {
            let reason = format!(
                "{name} is [{limit}], of which [{used}] are taken, and up to [{SLOTS}] are needed"
            );
            let needed = used + SLOTS;
            let remedy = format!("ALTER SYSTEM SET {name} = {needed}; -- then restart the server");
            obstacle(reason, remedy);
        }
    }
    let takes = |schema: &str, table: &str| selection.takes(schema, table);
    let found = catalog::tables(&control, &config.publication_name(), takes).await?;
    let oids: Vec<u32> = found.iter().map(|table| table.oid).collect();
    let mut readable: FxHashMap<u32, bool> = FxHashMap::default();
    for row in control.rows("looking at tables", READABLE, &[&oids]).await? {
        readable.insert(row.try_get(0)?, row.try_get(1)?);
    }
    let sizes = sizes(&control, &oids).await?;
    let table = |table: catalog::Table| {
        let size = sizes.get(&table.oid);
        InspectedTable {
            schema: table.schema,
            name: table.name,
            rows_estimated: table.rows_estimated,
            size_bytes: size.and_then(|size| u64::try_from((*size)?).ok()),
            key: table.key,
            is_owned: table.owned,
            is_readable: readable.get(&table.oid).copied().unwrap_or_default(),
        }
    };
    let inspection = Inspection {
        database: row.try_get(0)?,
        user: row.try_get(1)?,
        version,
        version_number,
        is_superuser: row.try_get(9)?,
        tables: found.into_iter().map(table).collect(),
        obstacles,
    };
    control.end();
    Ok(inspection)
}
