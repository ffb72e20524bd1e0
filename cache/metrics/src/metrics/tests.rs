//! Tests of the whole store: restarts, power cuts, failing disks, damage, retention, limits.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::time::Duration;

use egret_aof::disk::sim::{Fault, SimDisk};
use proptest::prelude::*;

use super::*;
use crate::query::Aggregation;
use crate::series::Matcher;

const FOLDER: &str = "/metrics";
/// A multiple of two hours.
const START: i64 = 1_427_162_400;

fn options() -> Options {
    Options { retry: Duration::ZERO, ..Options::default() }
}

fn open(disk: &SimDisk) -> Metrics {
    open_with(disk, &options())
}

fn open_with(disk: &SimDisk, options: &Options) -> Metrics {
    Metrics::open(Arc::new(disk.clone()), Path::new(FOLDER), options).unwrap()
}

fn series(index: &str) -> Series {
    Series::new("documents", [("index", index)]).unwrap()
}

/// What series `index` has at this second, in these tests.
fn value(index: &str, time: i64) -> f64 {
    let place = i32::try_from(time - START).unwrap();
    f64::from(place % 97) + f64::from(i32::try_from(index.len()).unwrap())
}

fn append(metrics: &Metrics, seconds: impl IntoIterator<Item = i64>) {
    let (a, b) = (series("a"), series("bb"));
    for time in seconds.into_iter().map(|second| START + second) {
        let samples = [(&a, value("a", time)), (&b, value("bb", time))];
        let appended = metrics.append(time, samples);
        assert_eq!(appended, Appended { taken: 2, ..Appended::default() }, "at {time}");
    }
}

/// Every sample of a series, by second since the start. They are as they were appended.
fn seconds(metrics: &Metrics, index: &str) -> Vec<i64> {
    let mut seconds = Vec::new();
    for from in (START..START + 40_000).step_by(10_000) {
        let query = Query {
            name: "documents".to_owned(),
            matchers: vec![Matcher::Is("index".to_owned(), index.to_owned())],
            from,
            to: from + 9_999,
            step: 1,
            aggregation: Aggregation::Last,
        };
        for range in metrics.query(&query).unwrap() {
            assert_eq!(*range.series, series(index));
            for sample in range.points {
                assert_eq!(sample.value.to_bits(), value(index, sample.time).to_bits());
                seconds.push(sample.time - START);
            }
        }
    }
    seconds
}

#[track_caller]
fn check(metrics: &Metrics, expected: impl IntoIterator<Item = i64>) {
    let expected: Vec<_> = expected.into_iter().collect();
    for index in ["a", "bb"] {
        let found = seconds(metrics, index);
        assert_eq!(found.len(), expected.len(), "{index}: {:?}", metrics.stats());
        assert!(found == expected, "the seconds of {index} differ");
    }
}

#[test]
fn a_restart_brings_everything_back() {
    let disk = SimDisk::new();
    let metrics = open(&disk);
    append(&metrics, (0..20_000).step_by(7));
    let stats = metrics.stats();
    assert_eq!((stats.partitions, stats.head_series, stats.samples), (2, 2, 2 * 2858));
    assert!(stats.disk.failure.is_none(), "{stats:?}");
    drop(metrics);
    let metrics = open(&disk);
    check(&metrics, (0..20_000).step_by(7));
    assert_eq!(metrics.stats().samples, stats.samples);
    append(&metrics, (20_000..30_000).step_by(7));
    drop(metrics);
    let metrics = open(&disk);
    check(&metrics, (0..20_000).step_by(7).chain((20_000..30_000).step_by(7)));
    assert_eq!(
        metrics.series().iter().map(|series| series.label("index")).collect::<Vec<_>>(),
        ["a", "bb"]
    );
}

/// What a killed process leaves: all that it handed to the system.
fn copy(disk: &SimDisk) -> SimDisk {
    let copy = SimDisk::new();
    for folder in ["log", "partitions"].map(|name| Path::new(FOLDER).join(name)) {
        copy.create_folder(&folder).unwrap();
        for path in disk.list(&folder).unwrap().iter().map(|name| folder.join(name)) {
            copy.create(&path).unwrap().write_all(&disk.read(&path).unwrap()).unwrap();
        }
    }
    copy
}

#[test]
fn a_killed_process_has_lost_nothing() {
    let disk = SimDisk::new();
    let metrics = open(&disk);
    append(&metrics, 7_000..7_300);
    check(&open(&copy(&disk)), 7_000..7_300);
}

#[test]
fn samples_that_a_partition_and_the_log_both_hold_are_there_once() {
    let disk = SimDisk::new();
    let metrics = open(&disk);
    append(&metrics, 7_000..7_200);
    let before = copy(&disk);
    append(&metrics, [7_200]);
    drop(metrics);
    // The partition is durable, and the process ends before the log is rewritten.
    let name = Path::new(FOLDER).join(format!("partitions/{START:012}.samples"));
    before.create(&name).unwrap().write_all(&disk.read(&name).unwrap()).unwrap();
    let metrics = open(&before);
    assert_eq!(metrics.stats().samples, 400);
    check(&metrics, 7_000..7_200);
    let late = metrics.append(START + 7_199, [(&series("ccc"), 1.0)]);
    assert_eq!(late.out_of_order, 1);
}

#[test]
fn the_log_holds_only_what_partitions_do_not() {
    let disk = SimDisk::new();
    let metrics = open(&disk);
    append(&metrics, 0..7_200);
    let before = metrics.stats();
    append(&metrics, 7_200..7_203);
    let after = metrics.stats();
    assert!(before.disk.log_bytes > 200_000 && after.disk.log_bytes < 1_000, "{after:?}");
    assert!(after.bytes_per_sample() < 3.5, "{}", after.bytes_per_sample());
}

#[test]
fn a_log_that_grew_too_long_is_summed_up() {
    let disk = SimDisk::new();
    let options = Options { rewrite_slack_bytes: 10_000, ..options() };
    let metrics = open_with(&disk, &options);
    append(&metrics, 0..3_000);
    let stats = metrics.stats();
    assert!(stats.disk.log_bytes < 2 * stats.bytes + 11_000, "{stats:?}");
    drop(metrics);
    check(&open_with(&disk, &options), 0..3_000);
}

#[test]
fn a_power_cut_costs_only_what_was_not_synced() {
    for seed in 0..100 {
        let disk = SimDisk::new();
        let metrics = open(&disk);
        append(&metrics, 7_100..7_150);
        metrics.flush();
        // Across the end of two hours: a partition is written and the log rewritten.
        let last = 7_150 + i64::try_from(seed).unwrap();
        append(&metrics, 7_150..last);
        let after = disk.power_cut(seed);
        drop(metrics);
        let metrics = open(&after);
        let found = seconds(&metrics, "a");
        assert!(found.len() >= 50, "seed {seed}");
        check(
            &metrics,
            (7_100..7_200)
                .take(found.len().min(100))
                .chain((7_200..).take(found.len().saturating_sub(100))),
        );
        append(&metrics, 8_000..8_010);
        drop(metrics);
        check(&open(&after), found.into_iter().chain(8_000..8_010));
    }
}

#[test]
fn a_disk_that_fails_stops_nothing_and_gets_all_when_it_heals() {
    for fault in [Fault::SyncFailure, Fault::NoSpace, Fault::TornWrite, Fault::Io] {
        let disk = SimDisk::new();
        let metrics = open(&disk);
        append(&metrics, 7_000..7_100);
        disk.fail_from(disk.operations(), fault);
        append(&metrics, 7_100..7_300);
        metrics.flush();
        let failure = metrics.stats().disk.failure.expect("a failure");
        assert!(failure.contains(FOLDER), "{failure}");
        check(&metrics, 7_000..7_300);
        disk.heal();
        let deadline = std::time::Instant::now() + Duration::from_secs(30);
        let mut second = 7_300;
        while metrics.stats().disk.failure.is_some() {
            assert!(std::time::Instant::now() < deadline, "{:?}", metrics.stats());
            append(&metrics, [second]);
            second += 1;
        }
        drop(metrics);
        check(&open(&disk), 7_000..second);
    }
}

#[test]
fn a_folder_that_cannot_be_read_at_first_is_read_later() {
    let disk = SimDisk::new();
    append(&open(&disk), 7_000..7_300);
    disk.fail_from(disk.operations(), Fault::Io);
    let metrics = open(&disk);
    assert!(metrics.stats().disk.failure.is_some());
    append(&metrics, 7_300..7_310);
    check(&metrics, 7_300..7_310);
    disk.heal();
    append(&metrics, 7_310..7_320);
    check(&metrics, 7_000..7_320);
    drop(metrics);
    check(&open(&disk), 7_000..7_320);
}

#[test]
fn a_damaged_partition_costs_no_more_than_it_held() {
    let disk = SimDisk::new();
    append(&open(&disk), (0..22_000).step_by(10));
    let file = Path::new(FOLDER).join("partitions").join(format!("{:012}.samples", START + 7_200));
    let whole = disk.read(&file).unwrap();
    for place in (0..whole.len()).step_by(whole.len() / 30) {
        let mut damaged = whole.clone();
        damaged[place] ^= 4;
        disk.damage(&file, &damaged).unwrap();
        let metrics = open(&disk);
        let found = ["a", "bb"].map(|index| seconds(&metrics, index).len());
        assert!(found.iter().all(|found| (1480..=2200).contains(found)), "{found:?} at {place}");
        assert_ne!(found, [2200, 2200], "at {place}");
        let stats = metrics.stats();
        assert!(stats.damaged_chunks + stats.disk.damaged_partitions > 0, "at {place}");
    }
}

#[test]
fn what_is_older_than_the_retention_goes_with_its_files() {
    let disk = SimDisk::new();
    let options = Options { retention: Duration::from_secs(7_200), ..options() };
    let metrics = open_with(&disk, &options);
    append(&metrics, (0..30_000).step_by(10));
    check(&metrics, (21_600..30_000).step_by(10));
    let files = disk.list(&Path::new(FOLDER).join("partitions")).unwrap();
    assert_eq!(files, [format!("{:012}.samples", START + 21_600)]);
    drop(metrics);
    check(&open_with(&disk, &options), (21_600..30_000).step_by(10));
}

#[test]
fn what_comes_late_or_is_too_much_is_refused() {
    let options = Options { max_series: 2, ..options() };
    let metrics = open_with(&SimDisk::new(), &options);
    append(&metrics, [10]);
    let (a, third) = (series("a"), series("ccc"));
    let check = |time, series: &Series, expected: Appended| {
        assert_eq!(metrics.append(time, [(series, 1.0)]), expected, "{series} at {time}");
    };
    let out_of_order = Appended { out_of_order: 1, ..Appended::default() };
    for time in [START + 10, START, START - 1, 0, -1, i64::MIN, i64::MAX] {
        check(time, &a, out_of_order);
    }
    check(START + 11, &third, Appended { over_limit: 1, ..Appended::default() });
    // The next two hours have room again.
    check(START + 7_200, &third, Appended { taken: 1, ..Appended::default() });
}

#[test]
fn queries_have_limits_and_options_must_make_sense() {
    let options = Options { max_query_series: 1, max_points: 10, ..options() };
    let metrics = open_with(&SimDisk::new(), &options);
    append(&metrics, [0]);
    let query = Query {
        name: "documents".to_owned(),
        matchers: Vec::new(),
        from: START,
        to: START + 9,
        step: 1,
        aggregation: Aggregation::Last,
    };
    let check = |query: &Query, expected: &str| {
        assert_eq!(metrics.query(query).unwrap_err().to_string(), expected);
    };
    check(&query, "series of a query: 2, at most 1");
    check(&Query { to: START + 10, ..query.clone() }, "points of a query: 11, at most 10");
    let none = Query { name: "others".to_owned(), ..query };
    assert_eq!(metrics.query(&none).unwrap(), []);
    let short = Options { retention: Duration::from_secs(60), ..options };
    let error = Metrics::open(Arc::new(SimDisk::new()), Path::new(FOLDER), &short).unwrap_err();
    assert_eq!(error.to_string(), "retention is 60s, expected at least two hours");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Against a map: any values at any times, with restarts in between.
    #[test]
    fn what_was_taken_is_there_bit_by_bit(
        steps in prop::collection::vec((0..3_usize, 1..3_000_i64, any::<u64>(), 0..12_u8), 1..60),
    ) {
        let names = ["a", "bb", "ccc"].map(series);
        let (disk, mut time) = (SimDisk::new(), START);
        let mut metrics = open(&disk);
        let mut model = BTreeMap::new();
        for (place, later, bits, restart) in steps {
            time += later;
            metrics.append(time, [(&names[place], f64::from_bits(bits))]);
            model.insert((place, time), bits);
            if restart == 0 {
                drop(metrics);
                metrics = open(&disk);
            }
        }
        let mut found = BTreeMap::new();
        for from in (START..=time).step_by(10_000) {
            let query = Query {
                name: "documents".to_owned(),
                matchers: Vec::new(),
                from,
                to: from + 9_999,
                step: 1,
                aggregation: Aggregation::Last,
            };
            for range in metrics.query(&query).unwrap() {
                let place = names.iter().position(|name| *name == *range.series).unwrap();
                found.extend(range.points.iter().map(|point| ((place, point.time), point.value.to_bits())));
            }
        }
        prop_assert_eq!(found, model);
    }
}
