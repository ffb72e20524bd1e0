//! Tables that enter and leave the publication, also for a moment, also while nobody looks.

use egret_tests::postgres::Database;

use crate::following::Following;

const BIRDS: &str = "SELECT id::text, to_json(birds)::text FROM birds";

const TABLES: &str = "CREATE TABLE birds (id int PRIMARY KEY, name text);
    INSERT INTO birds SELECT n, 'bird ' || n FROM generate_series(1, 100) AS n;
    CREATE TABLE fish (id int PRIMARY KEY)";

/// Follows tables of a publication that somebody else has made.
async fn shared(tables: &str) -> Following {
    let database = Database::create().await;
    database.execute(&format!("{TABLES}; CREATE PUBLICATION \"Shared\" FOR TABLE {tables}")).await;
    let url = database.follower_url();
    let following = Following::follow(database, |config| {
        config.url = url;
        config.publication = Some("Shared".to_owned());
        config.tables = vec!["birds".to_owned(), "fish".to_owned()];
    });
    following.streams().await;
    following
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_enter_and_leave_a_publication() {
    let following = shared("fish").await;
    let reason = following.skips("public.birds").await;
    assert!(reason.contains("not in the publication"), "{reason}");
    following.database.execute("ALTER PUBLICATION \"Shared\" ADD TABLE birds").await;
    following.follows("public.birds").await;
    following.execute("DELETE FROM birds WHERE id < 10", &["birds"]).await;
    following.equals("birds", BIRDS).await;
    following.database.execute("ALTER PUBLICATION \"Shared\" DROP TABLE birds").await;
    following.skips("public.birds").await;
    following.database.execute("UPDATE birds SET name = 'unseen' WHERE id < 50").await;
    // The other table is followed, and the pipeline is not behind.
    following.execute("INSERT INTO fish VALUES (1)", &["fish"]).await;
    following.comes_to("nothing is behind", |status| status.lsn.visible >= status.lsn.server).await;
    following.database.execute("ALTER PUBLICATION \"Shared\" ADD TABLE birds").await;
    following.follows("public.birds").await;
    following.equals("birds", BIRDS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_missed_in_a_moment_out_of_the_publication_is_copied() {
    let mut following = shared("birds, fish").await;
    let moment = |name: &str| {
        format!(
            "ALTER PUBLICATION \"Shared\" DROP TABLE birds; UPDATE birds SET name = '{name}';
             ALTER PUBLICATION \"Shared\" ADD TABLE birds"
        )
    };
    let before = following.copies();
    following.database.execute(&moment("missed")).await;
    following.copies_again(before).await;
    following.equals("birds", BIRDS).await;
    let narrowed = "ALTER PUBLICATION \"Shared\" SET (publish = 'insert');
         DELETE FROM birds WHERE id % 2 = 0;
         ALTER PUBLICATION \"Shared\" SET (publish = 'insert, update, delete, truncate')";
    for statements in [moment("missed while stopped").as_str(), narrowed] {
        following.stop().await;
        following.database.execute(statements).await;
        following.resume();
        following.copies_again(0).await;
        following.equals("birds", BIRDS).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_taken_out_of_the_pipelines_own_publication_is_put_back() {
    let following = Following::start(TABLES).await;
    let name = following.config.publication_name();
    let before = following.copies();
    following
        .database
        .execute(&format!(
            "ALTER PUBLICATION {name} DROP TABLE birds; DELETE FROM birds WHERE id = 1"
        ))
        .await;
    following.copies_again(before).await;
    following.equals("birds", BIRDS).await;
    following.execute("DELETE FROM birds WHERE id = 2", &["birds"]).await;
    following.equals("birds", BIRDS).await;
}
