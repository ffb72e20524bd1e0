//! Dictionaries of many kinds of terms, read by tantivy, beside those that its own builder writes.

use std::collections::BTreeSet;
use std::io;
use std::ops::Bound;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tantivy::directory::FileSlice;
use tantivy::postings::TermInfo;
use tantivy::termdict::{TermDictionary, TermDictionaryBuilder, TermMerger, TermStreamer};

use super::DictionaryWriter;

type Term = Vec<u8>;

fn rng() -> StdRng {
    StdRng::seed_from_u64(20_260)
}

/// Infos as a segment has them: rising and without gaps, some without positions.
fn infos(count: usize) -> Vec<TermInfo> {
    let mut rng = rng();
    let (mut postings, mut positions) = (17, 0);
    let mut next = |_| {
        let doc_freq = rng.random_range(1..12_u32).pow(rng.random_range(1..5));
        let postings_start = postings;
        let positions_start = positions;
        postings += rng.random_range(1..=doc_freq as usize);
        positions += rng.random_range(0..=doc_freq as usize);
        TermInfo {
            doc_freq,
            postings_range: postings_start..postings,
            positions_range: positions_start..positions,
        }
    };
    (0..count).map(&mut next).collect()
}

fn ours(terms: &[Term], infos: &[TermInfo]) -> Vec<u8> {
    let mut writer = DictionaryWriter::new(terms.len());
    for (term, info) in terms.iter().zip(infos) {
        writer.insert(term, info).unwrap();
    }
    writer.finish()
}

fn theirs(terms: &[Term], infos: &[TermInfo]) -> Vec<u8> {
    let mut builder = TermDictionaryBuilder::create(Vec::new()).unwrap();
    for (term, info) in terms.iter().zip(infos) {
        builder.insert(term, info).unwrap();
    }
    builder.finish().unwrap()
}

fn open(bytes: Vec<u8>) -> TermDictionary {
    TermDictionary::open(FileSlice::from(bytes)).unwrap()
}

/// Everything that is left of a stream.
fn drain(mut stream: TermStreamer<'_>) -> Vec<(Term, u64, TermInfo)> {
    let mut all = Vec::new();
    while stream.advance() {
        all.push((stream.key().to_vec(), stream.term_ord(), stream.value().clone()));
    }
    all
}

/// The part after the FST.
fn after_fst(dictionary: &[u8]) -> &[u8] {
    let (rest, footer) = dictionary.split_last_chunk::<16>().unwrap();
    let length = u64::from_le_bytes(*footer.first_chunk().unwrap());
    &dictionary[rest.len() - usize::try_from(length).unwrap()..]
}

/// Writes these terms in both ways and looks at them in every way there is.
fn check(terms: impl IntoIterator<Item = Term>) {
    let terms: Vec<Term> = terms.into_iter().collect::<BTreeSet<_>>().into_iter().collect();
    let infos = infos(terms.len());
    let (our_bytes, their_bytes) = (ours(&terms, &infos), theirs(&terms, &infos));
    assert_eq!(after_fst(&our_bytes), after_fst(&their_bytes));
    assert!(
        our_bytes.len() * 10 <= their_bytes.len() * 13,
        "{} bytes instead of {}",
        our_bytes.len(),
        their_bytes.len()
    );
    let (dictionary, model) = (open(our_bytes), open(their_bytes));

    assert_eq!(dictionary.num_terms(), terms.len());
    let expected: Vec<_> =
        (0..).zip(&terms).zip(&infos).map(|((n, t), i)| (t.clone(), n, i.clone())).collect();
    assert_eq!(drain(dictionary.stream().unwrap()), expected);
    let mut found = Vec::new();
    for (term, ordinal, info) in &expected {
        assert_eq!(dictionary.term_ord(term).unwrap(), Some(*ordinal));
        assert_eq!(dictionary.get(term).unwrap().as_ref(), Some(info));
        assert!(dictionary.ord_to_term(*ordinal, &mut found).unwrap());
        assert_eq!(&found, term);
    }
    for term in neighbours(&terms) {
        assert_eq!(dictionary.term_ord(&term).unwrap(), model.term_ord(&term).unwrap());
        assert_eq!(dictionary.get(&term).unwrap(), model.get(&term).unwrap());
    }
    check_ranges(&dictionary, &model, &terms);
    check_merge(&terms, &infos);
}

/// Terms that differ a little from those given; most are absent.
fn neighbours(terms: &[Term]) -> Vec<Term> {
    let mut rng = rng();
    let mut all = vec![vec![], vec![0], vec![255], b"absent".to_vec()];
    for term in terms {
        all.push([term.as_slice(), &[rng.random()]].concat());
        if let Some((last, start)) = term.split_last() {
            all.push(start.to_vec());
            all.push([start, &[last.wrapping_add(1)]].concat());
        }
    }
    all
}

fn check_ranges(dictionary: &TermDictionary, model: &TermDictionary, terms: &[Term]) {
    let mut rng = rng();
    let mut bounds = neighbours(terms);
    bounds.extend_from_slice(terms);
    for _ in 0..terms.len().clamp(4, 40) {
        let mut bound = || &bounds[rng.random_range(0..bounds.len())];
        let (from, to) = (bound(), bound());
        let ranges = [
            (Bound::Included(from), Bound::Excluded(to)),
            (Bound::Excluded(from), Bound::Included(to)),
            (Bound::Included(from), Bound::Unbounded),
        ];
        for range in ranges {
            assert_eq!(in_range(dictionary, range), in_range(model, range), "{range:?}");
        }
    }
}

fn in_range(
    dictionary: &TermDictionary,
    (from, to): (Bound<&Term>, Bound<&Term>),
) -> Vec<(Term, u64, TermInfo)> {
    let stream = dictionary.range();
    let stream = match from {
        Bound::Included(from) => stream.ge(from),
        Bound::Excluded(from) => stream.gt(from),
        Bound::Unbounded => stream,
    };
    let stream = match to {
        Bound::Included(to) => stream.le(to),
        Bound::Excluded(to) => stream.lt(to),
        Bound::Unbounded => stream,
    };
    drain(stream.into_stream().unwrap())
}

/// Two dictionaries, each with a part of the terms, merged as segments are.
fn check_merge(terms: &[Term], infos: &[TermInfo]) {
    let mut rng = rng();
    let owners: Vec<u8> = terms.iter().map(|_| rng.random_range(1..4)).collect();
    let parts = [1, 2].map(|part| {
        let mine = terms.iter().zip(&owners).filter(|(_, owner)| **owner & part != 0);
        let mine: Vec<Term> = mine.map(|(term, _)| term.clone()).collect();
        open(ours(&mine, &infos[..mine.len()]))
    });
    let streams = parts.iter().map(|part| part.stream().unwrap()).collect();
    let mut merger = TermMerger::new(streams);
    let mut next = [0, 0];
    let mut merged: Vec<(Term, Vec<(usize, u64)>)> = Vec::new();
    let expected: Vec<_> = (terms.iter().zip(&owners))
        .map(|(term, owner)| {
            let mut ordinals = Vec::new();
            for (part, bit) in [1, 2].into_iter().enumerate().filter(|(_, bit)| owner & bit != 0) {
                ordinals.push((bit / 2, next[part]));
                next[part] += 1;
            }
            (term.clone(), ordinals.into_iter().map(|(p, n)| (usize::from(p), n)).collect())
        })
        .collect();
    while merger.advance() {
        merged.push((merger.key().to_vec(), merger.matching_segments().collect()));
    }
    assert_eq!(merged, expected);
}

fn drawn(count: usize, mut draw: impl FnMut(&mut StdRng) -> Term) -> Vec<Term> {
    let mut rng = rng();
    (0..count).map(|_| draw(&mut rng)).collect()
}

/// `length` bytes of the alphabet.
fn letters(rng: &mut StdRng, alphabet: &[u8], length: usize) -> Term {
    (0..length).map(|_| alphabet[rng.random_range(0..alphabet.len())]).collect()
}

/// Short beginnings and endings of which the first are much more frequent than the last.
fn word(rng: &mut StdRng) -> Term {
    const PARTS: [&str; 14] = [
        "er", "in", "th", "a", "con", "st", "re", "o", "pro", "ti", "le", "\u{e4}", "\u{4e2d}",
        "ver",
    ];
    const ENDINGS: [&str; 8] = ["", "ing", "ed", "s", "tion", "ly", "ness", "able"];
    let mut word = String::new();
    for _ in 0..rng.random_range(1..5) {
        let last = rng.random_range(1..=PARTS.len());
        word += PARTS[rng.random_range(0..last)];
    }
    word += ENDINGS[rng.random_range(0..ENDINGS.len())];
    word.into_bytes()
}

#[test]
fn no_terms_and_one_term() {
    check([]);
    check([vec![]]);
    check([b"one".to_vec()]);
    check([vec![0]]);
    check([vec![], vec![0]]);
    check([vec![], b"two".to_vec(), b"twofold".to_vec()]);
}

#[test]
fn ids_and_integers() {
    check((0..3_000).map(|id: u32| id.to_string().into_bytes()));
    check((98_500..101_500).map(|id: u32| format!("doc-{id}").into_bytes()));
    check((0..3_000).map(|id: u64| (1_700_000 + id).to_be_bytes().to_vec()));
    check(drawn(2_000, |rng| rng.random::<u64>().to_be_bytes().to_vec()));
    check(drawn(2_000, |rng| rng.random_range(0..u64::MAX >> 30).to_be_bytes().to_vec()));
}

#[test]
fn words() {
    check(drawn(3_000, word));
    check(drawn(2_000, |rng| [&word(rng), b"@example.org/index.html".as_slice()].concat()));
    check(drawn(2_000, |rng| [[b"a\0s", b"b\0s"][rng.random_range(0..2)], &*word(rng)].concat()));
}

#[test]
fn random_bytes() {
    let base64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    check(drawn(2_000, |rng| letters(rng, base64, 20)));
    let all: Vec<u8> = (0..=255).collect();
    check(drawn(3_000, |rng| {
        let length = rng.random_range(0..6);
        letters(rng, &all, length)
    }));
    for alphabet in [[0, 255].as_slice(), b"ab", &[0, 1, 127, 128, 255]] {
        check(drawn(1_500, |rng| {
            let length = rng.random_range(0..14);
            letters(rng, alphabet, length)
        }));
    }
}

#[test]
fn nodes_of_every_size() {
    for count in [1, 2, 31, 32, 33, 34, 62, 63, 64, 65, 254, 255, 256] {
        check((0..count).map(|input: u16| input.to_be_bytes()[1..].to_vec()));
        check((0..count).flat_map(|input| {
            let input = input.to_be_bytes()[1];
            [vec![7], vec![7, input], vec![7, input, 7], vec![7, input, 7, input]]
        }));
    }
    check((0..=255).flat_map(|first| (0..=255).step_by(3).map(move |second| vec![first, second])));
}

#[test]
fn terms_that_begin_with_others() {
    check((0..600).map(|length| vec![b'x'; length]));
    check((0..600).map(|length| (0..=255).cycle().take(length).collect()));
    check(drawn(2_000, |rng| {
        let length = rng.random_range(0..300);
        [vec![255; length], word(rng)].concat()
    }));
}

#[test]
fn long_terms() {
    check((0..4).map(|last| [vec![b'l'; 65_529], vec![last]].concat()));
    check(drawn(6, |rng| {
        let length = rng.random_range(60_000..=65_530);
        letters(rng, b"abc\0\xff", length)
    }));
}

/// A few terms leave no choice of what is shared: both write the same bytes.
#[test]
fn a_few_terms_give_the_bytes_of_tantivy() {
    for text in ["", "a", "jan feb mar apr may jun jul", "10 100 1000 1001 20 200 2000 2001"] {
        let mut terms: Vec<Term> = text.split(' ').map(Term::from).collect();
        terms.sort();
        let infos = infos(terms.len());
        assert_eq!(ours(&terms, &infos), theirs(&terms, &infos), "{text}");
    }
}

#[test]
fn too_small_tables_are_only_larger_in_the_file() {
    let terms: BTreeSet<Term> = drawn(5_000, word).into_iter().collect();
    let infos = infos(terms.len());
    let mut writer = DictionaryWriter::new(0);
    for (term, info) in terms.iter().zip(&infos) {
        writer.insert(term, info).unwrap();
    }
    let read = drain(open(writer.finish()).stream().unwrap());
    assert!(read.iter().map(|(term, _, _)| term).eq(&terms));
    assert!(read.iter().map(|(_, _, info)| info).eq(&infos));
}

#[test]
fn infos_of_large_segments() {
    let terms: Vec<Term> = (1_000..1_700).map(|id: u32| id.to_string().into_bytes()).collect();
    let mut rng = rng();
    let mut at = 1 << 40;
    let mut next = |_| {
        let start = at;
        at += rng.random_range(0..1 << 32);
        TermInfo { doc_freq: rng.random(), postings_range: start..at, positions_range: start..at }
    };
    let infos: Vec<TermInfo> = terms.iter().map(&mut next).collect();
    let bytes = ours(&terms, &infos);
    assert_eq!(after_fst(&bytes), after_fst(&theirs(&terms, &infos)));
    let read = drain(open(bytes).stream().unwrap());
    assert!(read.iter().map(|(_, _, info)| info).eq(&infos));
}

/// Inserts a term that is refused among two that are not.
fn refused(term: &[u8], info: &TermInfo) -> String {
    let infos = infos(3);
    let mut writer = DictionaryWriter::new(3);
    writer.insert(b"beef", &infos[0]).unwrap();
    writer.insert(b"milk", &infos[1]).unwrap();
    let error = writer.insert(term, info).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    writer.insert(b"milky", &infos[2]).unwrap();
    let expected = [b"beef".as_slice(), b"milk", b"milky"].map(Vec::from);
    assert_eq!(writer.finish(), ours(&expected, &infos));
    error.to_string()
}

#[test]
fn terms_out_of_order_are_refused() {
    let next = &infos(3)[2];
    for term in ["milk", "mil", "", "beef", "beer", "mild"] {
        let error = refused(term.as_bytes(), next);
        assert_eq!(error, format!("term 2 ({term}) does not come after the one before it"));
    }
    refused(&vec![b'a'; 100_000], next);
}

#[test]
fn infos_that_the_format_cannot_hold_are_refused() {
    let next = &infos(3)[2];
    let (postings, positions) = (&next.postings_range, &next.positions_range);
    let wrong = [
        (postings.start + 1..postings.end + 1, positions.clone()),
        (postings.clone(), positions.start + 1..positions.end + 1),
        (postings.start..postings.start - 1, positions.clone()),
        (postings.start..postings.start + (1 << 32), positions.clone()),
        (postings.clone(), positions.start..1 << 57),
    ];
    for (postings_range, positions_range) in wrong {
        let info = TermInfo { doc_freq: 1, postings_range, positions_range };
        assert!(refused(b"salt", &info).starts_with("term 2 cannot have postings at"), "{info:?}");
    }
}
