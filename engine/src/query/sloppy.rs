//! How often, and how nearly, a phrase occurs in one document, given where its terms are.
//!
//! The measure is Lucene's: every term's positions are shifted back by the term's place in the
//! phrase, so that an exact occurrence has the same shifted position everywhere; an occurrence is a
//! choice of one position a term, its distance the greatest shifted position minus the least, and
//! it counts `1 / (1 + distance)`.

use rustc_hash::{FxHashMap, FxHashSet};

/// Where the terms of one place of the phrase are in a document.
#[derive(Debug, Default)]
pub(super) struct PlacePositions {
    /// Rising positions, each shifted back by the place.
    pub(super) shifted: Vec<i64>,
    /// The place.
    pub(super) offset: i64,
}

/// How often the phrase occurs exactly.
pub(super) fn exact_frequency(places: &[PlacePositions]) -> u32 {
    let Some((first, others)) = places.split_first() else { return 0 };
    let everywhere =
        |position: &&i64| others.iter().all(|place| place.shifted.binary_search(position).is_ok());
    u32::try_from(first.shifted.iter().filter(everywhere).count()).unwrap_or(u32::MAX)
}

/// How nearly the phrase occurs, summed over occurrences within the slop; 0 where it does not.
/// `repeats` says that a term occurs at several places, so that a position may be taken only once.
pub(super) fn sloppy_frequency(places: &[PlacePositions], slop: u32, repeats: bool) -> f32 {
    if repeats { with_repeats(places, slop) } else { without_repeats(places, slop) }
}

/// Moves the place that lags behind, as in a merge of lists; the distance of an occurrence is known
/// when the one that lagged has passed the next.
fn without_repeats(places: &[PlacePositions], slop: u32) -> f32 {
    let slop = i64::from(slop);
    let mut cursors = vec![0_usize; places.len()];
    let mut end = i64::MIN;
    for place in places {
        let Some(&first) = place.shifted.first() else { return 0.0 };
        end = end.max(first);
    }
    let at = |cursors: &[usize], place: usize| {
        let positions = places.get(place)?;
        positions.shifted.get(*cursors.get(place)?).copied()
    };
    let least = |cursors: &[usize], except: Option<usize>| {
        (0..places.len())
            .filter(|place| Some(*place) != except)
            .filter_map(|place| Some((at(cursors, place)?, place)))
            .min()
    };
    let mut frequency = 0.0;
    'occurrences: while let Some((mut position, place)) = least(&cursors, None) {
        let next = least(&cursors, Some(place)).map_or(i64::MAX, |(position, _)| position);
        let mut distance = end - position;
        loop {
            let Some(cursor) = cursors.get_mut(place) else { break 'occurrences };
            *cursor += 1;
            match at(&cursors, place) {
                None => {
                    frequency += weight(distance, slop);
                    break 'occurrences;
                }
                Some(moved) => position = moved,
            }
            end = end.max(position);
            if position > next {
                break;
            }
            distance = distance.min(end - position);
        }
        frequency += weight(distance, slop);
    }
    frequency
}

#[expect(clippy::cast_precision_loss, reason = "distances are small")]
fn weight(distance: i64, slop: i64) -> f32 {
    if distance <= slop { 1.0 / (1.0 + distance as f32) } else { 0.0 }
}

/// For every least shifted position, the nearest choice of different positions.
fn with_repeats(places: &[PlacePositions], slop: u32) -> f32 {
    let slop = i64::from(slop);
    let mut starts: Vec<i64> =
        places.iter().flat_map(|place| place.shifted.iter().copied()).collect();
    starts.sort_unstable();
    starts.dedup();
    let mut frequency = 0.0;
    for start in starts {
        if !can_choose(places, start, start + slop) {
            continue;
        }
        let (mut near, mut far) = (0, slop);
        while near < far {
            let middle = near + (far - near) / 2;
            if can_choose(places, start, start + middle) { far = middle } else { near = middle + 1 }
        }
        frequency += weight(near, slop);
    }
    frequency
}

/// Whether every place can take a position of its own within the interval, one of them its start.
fn can_choose(places: &[PlacePositions], start: i64, end: i64) -> bool {
    (0..places.len()).any(|first| {
        let starts = places.get(first).filter(|place| place.shifted.binary_search(&start).is_ok());
        let Some(place) = starts else { return false };
        let mut taken = FxHashMap::default();
        taken.insert(start + place.offset, first);
        let mut others = (0..places.len()).filter(|other| *other != first);
        others.all(|other| {
            let mut tried = FxHashSet::default();
            tried.insert(start + place.offset);
            take(places, other, (start, end), &mut taken, &mut tried)
        })
    })
}

/// Finds a position for a place, moving others where they have another (Kuhn's matching).
fn take(
    places: &[PlacePositions],
    place: usize,
    (start, end): (i64, i64),
    taken: &mut FxHashMap<i64, usize>,
    tried: &mut FxHashSet<i64>,
) -> bool {
    let Some(own) = places.get(place) else { return false };
    let from = own.shifted.partition_point(|position| *position < start);
    for position in own.shifted.iter().skip(from).take_while(|position| **position <= end) {
        let original = position + own.offset;
        if !tried.insert(original) {
            continue;
        }
        let free = match taken.get(&original) {
            None => true,
            Some(&other) => take(places, other, (start, end), taken, tried),
        };
        if free {
            taken.insert(original, place);
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(positions: &[&[i64]]) -> Vec<PlacePositions> {
        let place = |(offset, positions): (usize, &&[i64])| {
            let offset = i64::try_from(offset).unwrap();
            let shifted = positions.iter().map(|position| position - offset).collect();
            PlacePositions { shifted, offset }
        };
        positions.iter().enumerate().map(place).collect()
    }

    #[test]
    fn exact_phrases() {
        let check = |positions: &[&[i64]], expected| {
            assert_eq!(exact_frequency(&places(positions)), expected, "{positions:?}");
        };
        check(&[&[0, 5], &[1, 6]], 2);
        check(&[&[0, 5], &[2, 6]], 1);
        check(&[&[0], &[2]], 0);
        check(&[], 0);
    }

    #[test]
    fn sloppy_phrases() {
        let check = |positions: &[&[i64]], slop, expected: f32| {
            let frequency = sloppy_frequency(&places(positions), slop, false);
            assert!((frequency - expected).abs() < 1e-6, "{positions:?}~{slop}: {frequency}");
        };
        check(&[&[0], &[1]], 1, 1.0);
        check(&[&[0], &[2]], 1, 0.5);
        check(&[&[0], &[3]], 1, 0.0);
        // Swapped neighbours are two apart.
        check(&[&[1], &[0]], 1, 0.0);
        check(&[&[1], &[0]], 2, 1.0 / 3.0);
        check(&[&[0], &[2], &[3]], 1, 0.5);
        check(&[&[0], &[2], &[4]], 1, 0.0);
        check(&[&[0], &[2], &[4]], 2, 1.0 / 3.0);
        check(&[&[0, 10], &[1, 12]], 1, 1.5);
    }

    #[test]
    fn a_position_is_taken_once() {
        let check = |positions: &[&[i64]], slop, expected: f32| {
            let frequency = sloppy_frequency(&places(positions), slop, true);
            assert!((frequency - expected).abs() < 1e-6, "{positions:?}~{slop}: {frequency}");
        };
        check(&[&[0], &[0]], 3, 0.0);
        check(&[&[0, 1], &[0, 1]], 1, 1.0);
        check(&[&[0, 2], &[0, 2]], 1, 0.5);
        // Too few positions for many places, within any distance.
        let few: Vec<i64> = (0..19).collect();
        let many = vec![few.as_slice(); 20];
        check(&many, u32::MAX, 0.0);
    }

    proptest::proptest! {
        /// The merge finds an occurrence exactly where some choice of positions is near enough.
        #[test]
        fn merging_finds_what_trying_all_finds(
            lists in proptest::collection::vec(
                proptest::collection::btree_set(0_i64..30, 1..6), 2..4),
            slop in 0_u32..6,
        ) {
            let lists: Vec<Vec<i64>> =
                lists.into_iter().map(|list| list.into_iter().collect()).collect();
            let slices: Vec<&[i64]> = lists.iter().map(Vec::as_slice).collect();
            let places = places(&slices);
            let found = sloppy_frequency(&places, slop, false) > 0.0;
            proptest::prop_assert_eq!(found, any_choice(&places, slop.into(), None));
        }
    }

    fn any_choice(places: &[PlacePositions], slop: i64, span: Option<(i64, i64)>) -> bool {
        let Some((place, rest)) = places.split_first() else {
            return span.is_some_and(|(least, greatest)| greatest - least <= slop);
        };
        place.shifted.iter().any(|&position| {
            let (least, greatest) = span.unwrap_or((position, position));
            any_choice(rest, slop, Some((least.min(position), greatest.max(position))))
        })
    }
}
