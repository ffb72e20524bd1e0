//! Messages as PostgreSQL writes them, cut and scrambled ones.

use proptest::prelude::*;

use super::*;

/// Puts a message together.
#[derive(Default)]
struct Built(Vec<u8>);

impl Built {
    fn tag(tag: u8) -> Self {
        Self(vec![tag])
    }

    fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn text(self, text: &str) -> Self {
        self.raw(text.as_bytes()).raw(&[0])
    }

    fn value(self, text: &str) -> Self {
        let length = i32::try_from(text.len()).unwrap();
        self.raw(b"t").raw(&length.to_be_bytes()).raw(text.as_bytes())
    }

    fn bytes(self) -> Bytes {
        Bytes::from(self.0)
    }
}

fn text(value: &'static str) -> Datum {
    Datum::Text(Bytes::from_static(value.as_bytes()))
}

fn samples() -> Vec<(Bytes, Message)> {
    [transactions(), descriptions(), rows()].concat()
}

fn transactions() -> Vec<(Bytes, Message)> {
    let lsn = 0x16_B374_D848_u64.to_be_bytes();
    vec![
        (
            Built::tag(b'B').raw(&lsn).raw(&5_i64.to_be_bytes()).raw(&9_u32.to_be_bytes()).bytes(),
            Message::Begin { final_lsn: 0x16_B374_D848, commit_micros: 5, xid: 9 },
        ),
        (
            Built::tag(b'C').raw(&[0]).raw(&lsn).raw(&lsn).raw(&6_i64.to_be_bytes()).bytes(),
            Message::Commit { lsn: 0x16_B374_D848, end_lsn: 0x16_B374_D848, commit_micros: 6 },
        ),
        (Built::tag(b'O').raw(&lsn).text("node").bytes(), Message::Origin),
        (
            Built::tag(b'M')
                .raw(&[1])
                .raw(&lsn)
                .text("egret")
                .raw(&2_i32.to_be_bytes())
                .raw(b"hi")
                .bytes(),
            Message::Logical,
        ),
    ]
}

fn descriptions() -> Vec<(Bytes, Message)> {
    let table = 16_385_u32.to_be_bytes();
    let relation = Built::tag(b'R')
        .raw(&table)
        .text("public")
        .text("käse")
        .raw(b"d")
        .raw(&[0, 1, 1])
        .text("id")
        .raw(&23_u32.to_be_bytes())
        .raw(&(-1_i32).to_be_bytes());
    vec![
        (Built::tag(b'Y').raw(&table).text("public").text("mood").bytes(), Message::Type),
        (
            relation.bytes(),
            Message::Relation(Relation {
                id: 16_385,
                schema: "public".to_owned(),
                table: "käse".to_owned(),
                replica_identity: b'd',
                columns: vec![RelationColumn {
                    identity: true,
                    name: "id".to_owned(),
                    type_oid: 23,
                    type_modifier: -1,
                }],
            }),
        ),
    ]
}

fn rows() -> Vec<(Bytes, Message)> {
    let table = 16_385_u32.to_be_bytes();
    let insert = Built::tag(b'I').raw(&table).raw(b"N").raw(&[0, 3]).value("7").raw(b"n").raw(b"u");
    let key = |tag| Built::tag(tag).raw(&table).raw(b"K").raw(&[0, 2]).value("1").raw(b"n");
    let full = |tag| Built::tag(tag).raw(&table).raw(b"O").raw(&[0, 1]).value("1");
    vec![
        (
            insert.bytes(),
            Message::Insert {
                relation: 16_385,
                new: vec![text("7"), Datum::Null, Datum::Unchanged],
            },
        ),
        (
            Built::tag(b'U').raw(&table).raw(b"N").raw(&[0, 1]).value("1").bytes(),
            Message::Update { relation: 16_385, old: OldTuple::None, new: vec![text("1")] },
        ),
        (
            key(b'U').raw(b"N").raw(&[0, 1]).value("2").bytes(),
            Message::Update {
                relation: 16_385,
                old: OldTuple::Key(vec![text("1"), Datum::Null]),
                new: vec![text("2")],
            },
        ),
        (
            full(b'D').bytes(),
            Message::Delete { relation: 16_385, old: OldTuple::Full(vec![text("1")]) },
        ),
        (
            Built::tag(b'T').raw(&2_i32.to_be_bytes()).raw(&[0]).raw(&table).raw(&table).bytes(),
            Message::Truncate { relations: vec![16_385, 16_385] },
        ),
    ]
}

#[test]
fn every_kind_of_message() {
    for (bytes, expected) in samples() {
        assert_eq!(decode(&bytes).unwrap(), expected);
    }
}

#[test]
fn cut_at_every_byte_or_prolonged_is_an_error() {
    for (bytes, message) in samples() {
        for length in 0..bytes.len() {
            assert!(decode(&bytes.slice(..length)).is_err(), "{message:?} cut to {length}");
        }
        let longer = [&bytes[..], &[0]].concat();
        assert_eq!(decode(&Bytes::from(longer)).unwrap_err(), DecodeError::Trailing(1));
    }
}

#[test]
fn refuses_by_name() {
    let check = |bytes: &[u8], expected: &str| {
        let error = decode(&Bytes::copy_from_slice(bytes)).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    };
    check(b"S", "later protocol version");
    check(b"?", "message type [63]");
    check(b"I\0\0\0\x01X", "tuple kind [88]");
    check(b"I\0\0\0\x01N\xFF\xFF", "column count [65535]");
    check(b"I\0\0\0\x01N\0\x01b", "value kind [98]");
    check(b"I\0\0\0\x01N\0\x01t\xFF\xFF\xFF\xFF", "value length [-1]");
    check(b"T\x7F\xFF\xFF\xFF\0", "relations");
    check(b"R\0\0\0\x01\xFF\0", "schema is not UTF-8");
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode(&Bytes::from(bytes));
    }

    #[test]
    fn scrambled_messages_never_panic(
        at in any::<prop::sample::Index>(),
        which in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let samples = samples();
        let mut bytes = which.get(&samples).0.to_vec();
        *at.get_mut(&mut bytes) = byte;
        let _ = decode(&Bytes::from(bytes));
    }
}
