//! What becomes of one table while the others are followed: copies beside the stream, replacements
//! that searches do not notice, indexes that fail alone.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use egret_cdc::PipelineState;
use egret_cdc::status::TableState;
use egret_tests::poll;
use egret_tests::postgres::Database;
use tokio_postgres::Client;

use crate::following::Following;

const BIRDS: &str = "SELECT id::text, to_json(birds)::text FROM birds";

const TABLE: &str = "CREATE TABLE birds (id int PRIMARY KEY, name text);
    INSERT INTO birds SELECT n, 'bird ' || n FROM generate_series(1, 1000) AS n";

/// Makes copies slow enough to be met in the middle.
async fn followed_slowly(tables: &str) -> Following {
    let database = Database::create().await;
    database.execute(tables).await;
    let following = Following::follow(database, |config| {
        (config.copy_workers, config.copy_range_blocks) = (1, 8);
        config.copy_batch_bytes = 4 << 10;
    });
    following.streams().await;
    following
}

fn state(following: &Following, title: &str) -> Option<TableState> {
    Some(following.table(title)?.state)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_table_is_copied_while_the_others_stream() {
    let following = followed_slowly(TABLE).await;
    following
        .database
        .execute(
            "CREATE TABLE fish (id int PRIMARY KEY, name text);
             INSERT INTO fish SELECT n, repeat('fish ', 20) || n FROM generate_series(1, 60000) AS n",
        )
        .await;
    poll::until("the copy begins", async || {
        (state(&following, "public.fish") == Some(TableState::Copying)).then_some(())
    })
    .await;
    let (began, mut waits, mut seen) = (Instant::now(), Vec::new(), 0);
    while state(&following, "public.fish") == Some(TableState::Copying) {
        let write = Instant::now();
        following
            .execute(&format!("UPDATE birds SET name = 'seen {seen}' WHERE id = 7"), &["birds"])
            .await;
        assert_eq!(following.document("birds", "7").unwrap()["name"], format!("seen {seen}"));
        // The table that is copied changes too.
        let change = format!("DELETE FROM fish WHERE id % 500 = {seen} % 500");
        following.database.execute(&change).await;
        seen += 1;
        // The last one may meet the end of the copy, for which the stream stands still.
        if state(&following, "public.fish") == Some(TableState::Copying) {
            waits.push(write.elapsed());
        }
    }
    let took = began.elapsed();
    waits.sort();
    let count = waits.len();
    assert!(count >= 3, "the copy took {took:?}, and only {count} changes were made meanwhile");
    // Any machine may stand still once.
    let slow = waits[count - 2];
    assert!(slow * 2 < took, "changes took {slow:?} to be seen, the copy {took:?}");
    following.follows("public.fish").await;
    following.equals("fish", "SELECT id::text, to_json(fish)::text FROM fish").await;
    following.equals("birds", BIRDS).await;
    assert_eq!(following.pipeline().status().connection_failures, 0);
}

/// Changes fish of one's own, one a transaction, until told to end; how many.
async fn change_until(client: Client, writer: u64, ended: Arc<AtomicBool>) -> u64 {
    let mut changes = 0;
    while !ended.load(Ordering::Relaxed) {
        let id = changes % 300 + 300 * writer + 1;
        client.batch_execute(&format!("UPDATE fish SET n = n + 1 WHERE id = {id}")).await.unwrap();
        changes += 1;
    }
    changes
}

/// Both the stream and what brings a table to it read the same log, and neither is the faster one.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_under_steady_load_is_taken_over() {
    let following = followed_slowly(TABLE).await;
    let ended = Arc::new(AtomicBool::new(false));
    let mut writers = Vec::new();
    following.database.execute("CREATE TABLE fish (id int PRIMARY KEY, n int)").await;
    following
        .database
        .execute("INSERT INTO fish SELECT n, 0 FROM generate_series(1, 900) AS n")
        .await;
    for writer in 0..3 {
        let (client, ended) = (following.database.connect().await, Arc::clone(&ended));
        writers.push(tokio::spawn(change_until(client, writer, ended)));
    }
    following.follows("public.fish").await;
    ended.store(true, Ordering::Relaxed);
    let mut changes = 0;
    for writer in writers {
        changes += writer.await.unwrap();
    }
    assert!(changes > 100, "only {changes} changes");
    following.equals("fish", "SELECT id::text, to_json(fish)::text FROM fish").await;
}

/// Reads one document and the number of all; gives the number of reads and the fewest documents.
fn read_until(following: &Following, ended: &AtomicBool) -> (u64, u64) {
    let (mut reads, mut fewest) = (0, u64::MAX);
    while !ended.load(Ordering::Relaxed) {
        assert!(following.source_now("birds", "1").is_some(), "read {reads}");
        fewest = fewest.min(following.count("birds"));
        reads += 1;
    }
    (reads, fewest)
}

#[tokio::test(flavor = "multi_thread")]
async fn searches_go_on_while_a_table_is_copied_again() {
    let following = Arc::new(
        followed_slowly(
            "CREATE TABLE birds (id int PRIMARY KEY, name text);
             INSERT INTO birds SELECT n, 'bird ' || n FROM generate_series(1, 8000) AS n",
        )
        .await,
    );
    let ended = Arc::new(AtomicBool::new(false));
    let reader = {
        let (following, ended) = (Arc::clone(&following), Arc::clone(&ended));
        tokio::task::spawn_blocking(move || read_until(&following, &ended))
    };
    let retype = "ALTER TABLE birds ALTER legs TYPE text USING legs || ' legs'";
    for (turn, change) in ["ALTER TABLE birds ADD legs int DEFAULT 2", retype].iter().enumerate() {
        following.database.execute(change).await;
        let copies = 2 + turn as u64;
        poll::until("the copy begins", async || {
            (following.pipeline().status().copies == copies).then_some(())
        })
        .await;
        // What is deleted meanwhile does not survive.
        let delete = format!("DELETE FROM birds WHERE id % 10 = {} AND id > 1", turn + 2);
        following.database.execute(&delete).await;
        following.database.execute("UPDATE birds SET name = name || '!' WHERE id % 7 = 0").await;
        poll::until("the copy ends", async || {
            (state(&following, "public.birds") == Some(TableState::Streaming)).then_some(())
        })
        .await;
        following.equals("birds", BIRDS).await;
    }
    ended.store(true, Ordering::Relaxed);
    let (reads, fewest) = reader.await.unwrap();
    assert!(reads > 10 && fewest == 6400, "{reads} reads, the fewest documents were {fewest}");
}

/// Two tables, of which one's index is broken in some way; both come to be equal again, and the
/// other is followed throughout.
async fn breaks(broken: impl Fn(&Path), stopped: bool) {
    let mut following = Following::start(&format!(
        "{TABLE}; CREATE TABLE fish (id int PRIMARY KEY, name text);
         INSERT INTO fish SELECT n, 'fish ' || n FROM generate_series(1, 100) AS n"
    ))
    .await;
    let folder = following.index_folder("fish");
    if stopped {
        following.stop().await;
        broken(&folder);
        following.resume();
    } else {
        broken(&folder);
        following.database.execute("UPDATE fish SET name = 'changed'").await;
    }
    following.streams().await;
    for turn in 0..5 {
        following
            .execute(&format!("UPDATE birds SET name = 'turn {turn}' WHERE id = 5"), &["birds"])
            .await;
    }
    following
        .comes_to("the index is made anew", |_| {
            let copied = following.index_folder_if_any("fish").is_some_and(|now| now != folder);
            copied && state(&following, "public.fish") == Some(TableState::Streaming)
        })
        .await;
    following.execute("DELETE FROM fish WHERE id < 10", &["fish"]).await;
    following.equals("fish", "SELECT id::text, to_json(fish)::text FROM fish").await;
    following.equals("birds", BIRDS).await;
    let status = following.pipeline().status();
    assert_eq!((status.state, status.connection_failures), (PipelineState::Streaming, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_index_is_made_anew_while_the_others_are_followed() {
    breaks(|folder| std::fs::write(folder.join("commit.json"), "{").unwrap(), true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_fails_takes_no_other_with_it() {
    breaks(|folder| std::fs::remove_dir_all(folder).unwrap(), false).await;
}

/// Truncates and fills a table, no faster than the stream: it waits for the table that is followed.
async fn truncate_until(following: &Following, ended: &AtomicBool) -> u32 {
    let mut turns = 0;
    while !ended.load(Ordering::Relaxed) {
        let fill = format!(
            "BEGIN; TRUNCATE ponds; INSERT INTO ponds
             SELECT n, 'pond {turns} ' || n FROM generate_series(1, 3000) AS n;
             UPDATE birds SET name = 'turn {turns}' WHERE id = 3; COMMIT"
        );
        following.execute(&fill, &["birds"]).await;
        turns += 1;
    }
    turns
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_truncated_all_the_time_is_copied() {
    let following = Arc::new(followed_slowly(TABLE).await);
    following.database.execute("CREATE TABLE ponds (id int PRIMARY KEY, name text)").await;
    let ended = Arc::new(AtomicBool::new(false));
    let storm = {
        let (following, ended) = (Arc::clone(&following), Arc::clone(&ended));
        tokio::spawn(async move { truncate_until(&following, &ended).await })
    };
    following.follows("public.ponds").await;
    ended.store(true, Ordering::Relaxed);
    assert!(storm.await.unwrap() > 1);
    following.equals("ponds", "SELECT id::text, to_json(ponds)::text FROM ponds").await;
}

const FISH: &str = "CREATE TABLE fish (id int PRIMARY KEY, name text);
    INSERT INTO fish VALUES (1, 'eel')";

/// Follows birds, and then fish that another session has locked; once that lets go of them the fish are
/// followed, too.
async fn follows_what_is_locked(publication: &str, mode: &str) {
    let database = Database::create().await;
    database.execute(&format!("{TABLE}; {FISH}")).await;
    let mut following = Following::follow(database, |config| {
        (config.connect_timeout_ms, config.tables) = (3000, vec!["birds".to_owned()]);
    });
    following.follows("public.birds").await;
    following.stop().await;
    following.database.execute(publication).await;
    let other = following.database.connect().await;
    other.batch_execute(&format!("BEGIN; LOCK TABLE fish IN {mode} MODE")).await.unwrap();
    following.config.tables = vec!["*".to_owned()];
    following.resume();
    following.follows("public.birds").await;
    following.execute("DELETE FROM birds WHERE id = 3", &["birds"]).await;
    following.equals("birds", BIRDS).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_ne!(state(&following, "public.fish"), Some(TableState::Streaming));
    assert_eq!(following.pipeline().status().connection_failures, 0);
    other.batch_execute("COMMIT").await.unwrap();
    following.follows("public.fish").await;
    following.equals("fish", "SELECT id::text, to_json(fish)::text FROM fish").await;
}

/// A partition that somebody has locked, for whatever takes long, stops none of the other tables, also
/// when Egret starts meanwhile; nor does a table that was not followed before.
#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_is_locked_holds_no_other_table_up() {
    let database = Database::create().await;
    let ponds = "
        CREATE TABLE ponds (id int PRIMARY KEY, name text) PARTITION BY RANGE (id);
        CREATE TABLE ponds_1 PARTITION OF ponds FOR VALUES FROM (0) TO (100);
        CREATE TABLE ponds_2 PARTITION OF ponds FOR VALUES FROM (100) TO (200);
        INSERT INTO ponds VALUES (1, 'small'), (101, 'large')";
    database.execute(&format!("{TABLE}; {ponds}")).await;
    let mut following = Following::follow(database, |config| config.connect_timeout_ms = 3000);
    following.follows("public.ponds").await;
    let other = following.database.connect().await;
    let lock = "BEGIN; LOCK TABLE ponds_1 IN ACCESS EXCLUSIVE MODE";
    other.batch_execute(lock).await.unwrap();
    for name in ["fish", "frogs"] {
        following
            .execute(
                "DELETE FROM birds WHERE id = (SELECT min(id) FROM birds);
                 UPDATE ponds_2 SET name = name || '!'",
                &["birds", "ponds"],
            )
            .await;
        following.equals("birds", BIRDS).await;
        // The catalog is read anew for another table, whose copy waits for every open transaction.
        following.database.execute(&FISH.replace("fish", name)).await;
        let title = format!("public.{name}");
        poll::until("the copy begins", async || {
            (state(&following, &title) == Some(TableState::Copying)).then_some(())
        })
        .await;
        assert_eq!(following.pipeline().status().connection_failures, 0);
        following.stop().await;
        following.resume();
        following.follows("public.birds").await;
    }
    other.batch_execute("COMMIT").await.unwrap();
    following.execute("UPDATE ponds SET name = name || '?'", &["ponds"]).await;
    following.equals("ponds", "SELECT id::text, to_json(ponds)::text FROM ponds").await;
    following.follows("public.fish").await;
    following.follows("public.frogs").await;
    for title in ["public.birds", "public.ponds"] {
        assert_eq!(following.table(title).unwrap().rows_copied, 0, "{title} was followed before");
    }
}

/// The statement of a look that waits for a lock: its session, and since when.
async fn waiting_look(following: &Following) -> Option<(i32, String)> {
    let query = "SELECT pid, query_start::text FROM pg_stat_activity
        WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE 'ALTER PUB%'";
    let rows = following.database.client().query(query, &[]).await.unwrap();
    rows.first().map(|row| (row.get(0), row.get(1)))
}

/// Many tables that somebody has locked are not each waited for as long as one; nor does the stream, which
/// asks about a table that has changed, wait meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn many_tables_that_are_locked_take_no_longer_than_few() {
    let numbered = |name: &str, count: usize| -> Vec<String> {
        (0..count).map(|number| format!("{name}_{number}")).collect()
    };
    let (fish, nests) = (numbered("fish", 6), numbered("nest", 10));
    let database = Database::create().await;
    let ponds =
        "CREATE TABLE ponds (id int PRIMARY KEY, depth int); INSERT INTO ponds VALUES (1, 0)";
    database.execute(ponds).await;
    for name in fish.iter().chain(&nests) {
        database.execute(&FISH.replace("fish", name)).await;
    }
    let wait = Duration::from_secs(6);
    let mut following = Following::follow(database, |config| {
        config.connect_timeout_ms = wait.as_millis().try_into().unwrap();
        config.tables = nests.iter().cloned().chain(["ponds".to_owned()]).collect();
    });
    following.follows("public.ponds").await;
    following.stop().await;
    let other = following.database.connect().await;
    let lock = format!("BEGIN; LOCK TABLE {} IN SHARE UPDATE EXCLUSIVE MODE", fish.join(", "));
    other.batch_execute(&lock).await.unwrap();
    following.config.tables = vec!["*".to_owned()];
    let began = Instant::now();
    following.resume();
    following.follows("public.ponds").await;
    let (waited, all) = (began.elapsed(), wait * u32::try_from(fish.len()).unwrap());
    assert!(waited < all * 2 / 3, "[{waited:?}], where each for itself takes [{all:?}]");
    let mut asked = false;
    // The stream asks about each but once: then it has left.
    for nest in &nests {
        let look = poll::until("a look waits", || waiting_look(&following)).await;
        let changes = format!(
            "ALTER TABLE {nest} ADD COLUMN made text; UPDATE {nest} SET name = 'new';
             UPDATE ponds SET depth = depth + 1"
        );
        following.execute(&changes, &["ponds"]).await;
        asked = waiting_look(&following).await == Some(look);
        if asked {
            break;
        }
    }
    assert!(asked, "the stream never asks while a look waits");
    assert_eq!(following.pipeline().status().connection_failures, 0);
    other.batch_execute("COMMIT").await.unwrap();
    for name in fish.iter().chain(&nests) {
        following.follows(&format!("public.{name}")).await;
        following
            .equals(name, &format!("SELECT id::text, to_json({name})::text FROM {name}"))
            .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_cannot_be_published_yet_holds_no_other_up() {
    follows_what_is_locked("", "SHARE UPDATE EXCLUSIVE").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_cannot_be_read_yet_holds_no_other_up() {
    let publication = "ALTER PUBLICATION egret_main ADD TABLE fish";
    follows_what_is_locked(publication, "ACCESS EXCLUSIVE").await;
}
