//! `simple_query_string`: never fails; what makes no sense is left out. Words, `"phrases"`, `+`
//! and, `|` or, `-` not, `prefix*`, `fuzzy~1`, `"phrase"~2`, parentheses; `\` escapes.

use egret_engine::query::ast::{Bool, Fuzziness, Operator, Query};

use super::{Leaves, TextOptions, finish};
use crate::dialect::json::Field;
use crate::dialect::query::{MAX_QUERY_DEPTH, QueryReader, empty_bool};
use crate::error::{Error, Result};

/// Which operators are recognised (`flags`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Flags(u16);

const NAMES: &[(&str, u16)] = &[
    ("ALL", 0xFFFF),
    ("NONE", 0),
    ("AND", Flags::AND),
    ("OR", Flags::OR),
    ("NOT", Flags::NOT),
    ("PREFIX", Flags::PREFIX),
    ("PHRASE", Flags::PHRASE),
    ("PRECEDENCE", Flags::PRECEDENCE),
    ("ESCAPE", Flags::ESCAPE),
    ("WHITESPACE", Flags::WHITESPACE),
    ("FUZZY", Flags::FUZZY),
    ("NEAR", Flags::SLOP),
    ("SLOP", Flags::SLOP),
];

impl Flags {
    const AND: u16 = 1;
    const OR: u16 = 1 << 1;
    const NOT: u16 = 1 << 2;
    const PREFIX: u16 = 1 << 3;
    const PHRASE: u16 = 1 << 4;
    const PRECEDENCE: u16 = 1 << 5;
    const ESCAPE: u16 = 1 << 6;
    const WHITESPACE: u16 = 1 << 7;
    const FUZZY: u16 = 1 << 8;
    const SLOP: u16 = 1 << 9;
    /// All of them.
    pub(crate) const ALL: Self = Self(0xFFFF);

    /// `"AND|OR|PREFIX"`.
    pub(crate) fn read(field: &Field<'_>) -> Result<Self> {
        let text = field.text()?;
        let mut flags = 0;
        for name in text.split('|').map(str::trim).filter(|name| !name.is_empty()) {
            let known = NAMES.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
            let (_, bits) = known.ok_or_else(|| {
                Error::argument(format!("Unknown simple_query_string flag [{name}]"))
            })?;
            flags |= bits;
        }
        Ok(Self(flags))
    }

    fn has(self, flag: u16) -> bool {
        self.0 & flag != 0
    }
}

/// Parses a text.
pub(crate) fn parse_simple(
    reader: &mut QueryReader<'_>,
    text: &str,
    options: &TextOptions,
    flags: Flags,
) -> Result<Query> {
    let text: Vec<char> = text.chars().collect();
    let mut parser = Simple { leaves: Leaves { reader, options }, flags };
    let query = parser.parse(&text, 0)?;
    Ok(finish(query.unwrap_or(Query::MatchNone), options))
}

/// `~`, perhaps with a number.
struct Tilde(Option<u32>);

struct Simple<'r, 'f> {
    leaves: Leaves<'r, 'f>,
    flags: Flags,
}

/// What has been read of one level of parentheses.
#[derive(Default)]
struct State {
    top: Option<Query>,
    operation: Option<Operator>,
    previous: Option<Operator>,
    negated: bool,
}

impl State {
    /// Adds a clause as Lucene's simple parser does: a change of operator wraps what came before.
    fn add(&mut self, clause: Query, default: Operator) {
        let clause = if self.negated {
            let all = Query::MatchAll { boost: 1.0 };
            Query::Bool(Bool { must_not: vec![clause], filter: vec![all], ..empty_bool() })
        } else {
            clause
        };
        let operation = self.operation.take().unwrap_or(default);
        let Some(top) = self.top.take() else {
            self.top = Some(clause);
            return;
        };
        let mut group = match top {
            Query::Bool(group) if self.previous == Some(operation) => group,
            other => with(empty_bool(), other, operation),
        };
        group = with(group, clause, operation);
        self.previous = Some(operation);
        self.top = Some(Query::Bool(group));
    }
}

fn with(mut group: Bool, clause: Query, operation: Operator) -> Bool {
    match operation {
        Operator::And => group.must.push(clause),
        Operator::Or => group.should.push(clause),
    }
    group
}

impl Simple<'_, '_> {
    fn parse(&mut self, text: &[char], depth: usize) -> Result<Option<Query>> {
        let mut state = State::default();
        let mut rest = text;
        while let [first, after @ ..] = rest {
            let flags = self.flags;
            match first {
                '(' if flags.has(Flags::PRECEDENCE) => {
                    rest = self.group(&mut state, after, depth)?;
                }
                ')' if flags.has(Flags::PRECEDENCE) => rest = after,
                '"' if flags.has(Flags::PHRASE) => rest = self.phrase(&mut state, after)?,
                '+' if flags.has(Flags::AND) => {
                    state.operation = state.top.as_ref().map(|_| Operator::And);
                    rest = after;
                }
                '|' if flags.has(Flags::OR) => {
                    state.operation = state.top.as_ref().map(|_| Operator::Or);
                    rest = after;
                }
                '-' if flags.has(Flags::NOT) => {
                    state.negated = !state.negated;
                    rest = after;
                    continue;
                }
                space if space.is_whitespace() => rest = after,
                _ => rest = self.word(&mut state, rest)?,
            }
            state.negated = false;
        }
        Ok(state.top)
    }

    /// After `(`: up to the parenthesis that closes it; without one the opening is left out.
    fn group<'t>(
        &mut self,
        state: &mut State,
        text: &'t [char],
        depth: usize,
    ) -> Result<&'t [char]> {
        let mut open = 1_usize;
        let mut escaped = false;
        let end = text.iter().position(|character| {
            match character {
                _ if escaped => {}
                '(' => open += 1,
                ')' => open -= 1,
                _ => {}
            }
            escaped = !escaped && *character == '\\';
            open == 0
        });
        let Some(end) = end.filter(|_| depth < MAX_QUERY_DEPTH) else { return Ok(text) };
        let (inside, rest) = text.split_at(end);
        if let Some(query) = self.parse(inside, depth + 1)? {
            state.add(query, self.leaves.options.operator);
        }
        Ok(rest.get(1..).unwrap_or_default())
    }

    /// After `"`: up to the next; without one the opening is left out.
    fn phrase<'t>(&mut self, state: &mut State, text: &'t [char]) -> Result<&'t [char]> {
        let (inside, end) = self.take(text, |character| character == '"');
        let Some(['"', rest @ ..]) = text.get(end..) else { return Ok(text) };
        let (slop, rest) = self.distance(rest, Flags::SLOP);
        if !inside.trim().is_empty() {
            let slop = slop.map(|Tilde(slop)| slop.unwrap_or(0));
            let query = self.leaves.phrase(None, inside, slop, 1.0)?;
            state.add(query, self.leaves.options.operator);
        }
        Ok(rest)
    }

    fn word<'t>(&mut self, state: &mut State, text: &'t [char]) -> Result<&'t [char]> {
        let flags = self.flags;
        let mut end_at_tilde = None;
        let ends = |character: char| match character {
            '"' => flags.has(Flags::PHRASE),
            '|' => flags.has(Flags::OR),
            '+' => flags.has(Flags::AND),
            '(' | ')' => flags.has(Flags::PRECEDENCE),
            other => other.is_whitespace(),
        };
        let (mut word, mut end) = self.take(text, ends);
        let raw = text.get(..end).unwrap_or_default();
        if let Some(tilde) = raw.iter().rposition(|character| *character == '~') {
            let (distance, rest) = self.distance(&text[tilde..end], Flags::FUZZY);
            if let (Some(Tilde(distance)), true, true) = (distance, rest.is_empty(), tilde > 0) {
                end_at_tilde = Some(distance);
                (word, _) = self.take(&text[..tilde], |_| false);
            }
        }
        if end == 0 {
            // An operator that its flag leaves without meaning.
            end = 1;
        }
        let operator = self.leaves.options.operator;
        let prefix = raw.ends_with(&['*']) && !raw.ends_with(&['\\', '*']);
        let query = if let Some(distance) = end_at_tilde {
            let fuzziness =
                distance.map(|edits| Fuzziness::Edits(u8::try_from(edits.min(2)).unwrap_or(2)));
            self.leaves.fuzzy(None, word, fuzziness, 1.0)?
        } else if prefix && raw.len() > 1 && flags.has(Flags::PREFIX) {
            word.pop();
            self.leaves.prefix(None, &word, 1.0)?
        } else if raw == ['*'] {
            self.leaves.exists(None, 1.0)?
        } else {
            self.leaves.words(None, word, 1.0)?
        };
        state.add(query, operator);
        Ok(text.get(end..).unwrap_or_default())
    }

    /// Characters up to one that ends them, without escapes, and how many were taken.
    fn take(&self, text: &[char], ends: impl Fn(char) -> bool) -> (String, usize) {
        let mut taken = String::new();
        let mut escaped = false;
        for (at, character) in text.iter().enumerate() {
            if !escaped && *character == '\\' && self.flags.has(Flags::ESCAPE) {
                escaped = true;
            } else if !escaped && ends(*character) {
                return (taken, at);
            } else {
                taken.push(*character);
                escaped = false;
            }
        }
        (taken, text.len())
    }

    /// `~` or `~2` at the beginning, and what follows it.
    fn distance<'t>(&self, text: &'t [char], flag: u16) -> (Option<Tilde>, &'t [char]) {
        let ['~', rest @ ..] = text else { return (None, text) };
        if !self.flags.has(flag) {
            return (None, text);
        }
        let digits: String = rest.iter().take_while(|digit| digit.is_ascii_digit()).collect();
        (Some(Tilde(digits.parse().ok())), rest.get(digits.len()..).unwrap_or_default())
    }
}
