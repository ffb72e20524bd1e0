//! Where in an analyzed text the things to mark are.

use crate::query::marks::Mark;
use crate::query::matcher::Matcher;

/// A term of a text and the bytes that it comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) text: String,
    pub(super) position: usize,
    pub(super) start: usize,
    pub(super) end: usize,
}

/// A piece of the text to mark; `mark` says what was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Occurrence {
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) mark: usize,
}

/// Everything to mark, in the text's order and without overlaps.
pub(super) fn occurrences(tokens: &[Token], marks: &[Mark]) -> Vec<Occurrence> {
    let mut found = Vec::new();
    for (number, mark) in marks.iter().enumerate() {
        let occurrence =
            |token: &Token| Occurrence { start: token.start, end: token.end, mark: number };
        match mark {
            Mark::Term(matcher) => {
                let fitting = tokens.iter().filter(|token| matcher.matches(&token.text));
                found.extend(fitting.map(occurrence));
            }
            Mark::Phrase { places, slop } => {
                let fitting = phrase_tokens(tokens, places, *slop);
                found.extend(fitting.into_iter().map(occurrence));
            }
        }
    }
    found.sort_unstable();
    let mut apart: Vec<Occurrence> = Vec::with_capacity(found.len());
    for occurrence in found {
        match apart.last_mut() {
            Some(last) if occurrence.start < last.end => last.end = last.end.max(occurrence.end),
            _ => apart.push(occurrence),
        }
    }
    apart
}

/// The tokens that take part in an occurrence of the phrase.
fn phrase_tokens<'t>(
    tokens: &'t [Token],
    places: &[(usize, Vec<Matcher>)],
    slop: u32,
) -> Vec<&'t Token> {
    // For each place its tokens, by where the phrase would begin.
    let candidates: Vec<Vec<(i64, &Token)>> = places
        .iter()
        .map(|(offset, matchers)| {
            let fits = |token: &&Token| matchers.iter().any(|matcher| matcher.matches(&token.text));
            let begin = |token: &'t Token| (signed(token.position) - signed(*offset), token);
            tokens.iter().filter(fits).map(begin).collect()
        })
        .collect();
    let mut begins: Vec<i64> = candidates.iter().flatten().map(|(begin, _)| *begin).collect();
    begins.sort_unstable();
    begins.dedup();
    let mut taken = Vec::new();
    for begin in begins {
        let end = begin + i64::from(slop);
        let chosen: Option<Vec<&Token>> = candidates
            .iter()
            .map(|candidates| {
                let from = candidates.partition_point(|candidate| candidate.0 < begin);
                candidates.get(from).filter(|candidate| candidate.0 <= end).map(|found| found.1)
            })
            .collect();
        if let Some(chosen) = chosen
            && different(&chosen)
        {
            taken.extend(chosen);
        }
    }
    taken
}

/// A token stands at one place only.
fn different(tokens: &[&Token]) -> bool {
    tokens.iter().enumerate().all(|(place, token)| {
        tokens.iter().take(place).all(|other| other.position != token.position)
    })
}

fn signed(position: usize) -> i64 {
    i64::try_from(position).unwrap_or(i64::MAX)
}
