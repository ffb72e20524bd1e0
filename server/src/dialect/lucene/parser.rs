//! Lucene's classic query syntax, by recursive descent. Clauses combine as in Lucene: `AND` makes
//! both neighbours required, `OR` leaves them optional, the default operator fills the gaps.

use egret_engine::query::ast::{Fuzziness, Operator, Query};

use super::lexer::{Token, has_wildcard, tokens, unescape};
use super::{End, Leaves, TextOptions, boosted, finish};
use crate::dialect::query::{MAX_QUERY_DEPTH, QueryReader};
use crate::error::{Error, Kind, Result};

/// Parses a text.
pub(crate) fn parse(
    reader: &mut QueryReader<'_>,
    text: &str,
    options: &TextOptions,
) -> Result<Query> {
    let failed = |cause: String| {
        Error::new(Kind::QueryShard, format!("Failed to parse query [{text}]"))
            .caused_by(Error::new(Kind::QueryShard, cause))
    };
    let tokens = tokens(text).map_err(&failed)?;
    let mut parser =
        Parser { leaves: Leaves { reader, options }, tokens: &tokens, at: 0, depth: 0 };
    let parsed = parser.query(None).and_then(|query| match parser.peek() {
        None => Ok(query),
        Some(token) => Err(Failure::Syntax(format!("unexpected [{}]", shown(token)))),
    });
    match parsed {
        Ok(query) => Ok(finish(query, options)),
        Err(Failure::Syntax(cause)) => Err(failed(cause)),
        Err(Failure::Other(error)) => Err(error),
    }
}

enum Failure {
    Syntax(String),
    Other(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

fn syntax<T>(reason: impl Into<String>) -> Result<T, Failure> {
    Err(Failure::Syntax(reason.into()))
}

struct Parser<'p, 'f> {
    leaves: Leaves<'p, 'f>,
    tokens: &'p [Token],
    at: usize,
    depth: usize,
}

/// `~`, perhaps with a number.
struct Tilde(Option<f32>);

#[derive(Clone, Copy, PartialEq)]
enum Occur {
    Must,
    Should,
    MustNot,
}

impl Occur {
    /// What a clause becomes by the operator after it.
    fn followed_by(self, conjunction: Option<Operator>, default: Operator) -> Self {
        match (self, conjunction, default) {
            (Self::MustNot, ..) => Self::MustNot,
            (_, Some(Operator::And), _) => Self::Must,
            (_, Some(Operator::Or), Operator::And) => Self::Should,
            _ => self,
        }
    }
}

impl<'p> Parser<'p, '_> {
    fn peek(&self) -> Option<&'p Token> {
        self.tokens.get(self.at)
    }

    fn peek_at(&self, ahead: usize) -> Option<&'p Token> {
        self.tokens.get(self.at + ahead)
    }

    fn accept(&mut self, token: &Token) -> bool {
        let found = self.peek() == Some(token);
        self.at += usize::from(found);
        found
    }

    /// Clauses up to the end or a closing parenthesis.
    fn query(&mut self, field: Option<&str>) -> Result<Query, Failure> {
        let mut clauses: Vec<(Occur, Query)> = Vec::new();
        let default = self.leaves.options.operator;
        while self.peek().is_some_and(|token| *token != Token::Close) {
            let conjunction = self.conjunction();
            if conjunction.is_some() && clauses.is_empty() {
                return syntax("an operator has nothing before it");
            }
            let modifier = self.modifier();
            let query = match self.several_words(conjunction.is_none() && modifier.is_none()) {
                Some(words) => self.leaves.words(field, words, 1.0)?,
                None => self.clause(field)?,
            };
            if let Some((previous, _)) = clauses.last_mut() {
                *previous = previous.followed_by(conjunction, default);
            }
            let required = match default {
                Operator::Or => conjunction == Some(Operator::And),
                Operator::And => conjunction != Some(Operator::Or),
            };
            let occur = match modifier {
                Some(Occur::MustNot) => Occur::MustNot,
                Some(Occur::Must) if default == Operator::Or => Occur::Must,
                _ if required => Occur::Must,
                _ => Occur::Should,
            };
            clauses.push((occur, query));
        }
        Ok(combine(clauses))
    }

    fn conjunction(&mut self) -> Option<Operator> {
        if self.accept(&Token::And) {
            Some(Operator::And)
        } else if self.accept(&Token::Or) {
            Some(Operator::Or)
        } else {
            None
        }
    }

    fn modifier(&mut self) -> Option<Occur> {
        if self.accept(&Token::Plus) {
            Some(Occur::Must)
        } else if self.accept(&Token::Minus) || self.accept(&Token::Not) {
            Some(Occur::MustNot)
        } else {
            None
        }
    }

    /// Two or more plain words in a row, which are analyzed together.
    fn several_words(&mut self, allowed: bool) -> Option<String> {
        let plain = |ahead: usize| match (self.peek_at(ahead), self.peek_at(ahead + 1)) {
            (
                _,
                Some(Token::Colon | Token::Tilde(_) | Token::Boost(_) | Token::And | Token::Or),
            ) => None,
            (Some(Token::Word(word)), _) if !has_wildcard(word) => Some(word.as_str()),
            _ => None,
        };
        let words: Vec<&str> = (0..).map_while(plain).collect();
        if !allowed || words.len() < 2 {
            return None;
        }
        self.at += words.len();
        Some(words.iter().map(|word| unescape(word)).collect::<Vec<_>>().join(" "))
    }

    /// One clause, perhaps with a field before it.
    fn clause(&mut self, field: Option<&str>) -> Result<Query, Failure> {
        let name = match (self.peek(), self.peek_at(1)) {
            (Some(Token::Word(word)), Some(Token::Colon)) => {
                self.at += 2;
                Some(unescape(word))
            }
            _ => None,
        };
        let field = name.as_deref().or(field);
        let Some(token) = self.peek() else {
            return syntax("unexpected end");
        };
        self.at += 1;
        match token {
            Token::Open => self.group(field),
            Token::Quoted(text) => self.quoted(field, text),
            Token::Range { lower, lower_included, upper, upper_included } => {
                let end = |text: &str, included: bool| -> End {
                    (text != "*").then(|| (unescape(text), included))
                };
                let (lower, upper) = (end(lower, *lower_included), end(upper, *upper_included));
                let boost = self.boost();
                Ok(self.leaves.range(field, &lower, &upper, boost)?)
            }
            Token::Word(word) => self.word(field, word),
            other => syntax(format!("unexpected [{}]", shown(other))),
        }
    }

    fn group(&mut self, field: Option<&str>) -> Result<Query, Failure> {
        if self.depth == MAX_QUERY_DEPTH {
            return syntax(format!("parentheses nest deeper than [{MAX_QUERY_DEPTH}]"));
        }
        self.depth += 1;
        let query = self.query(field)?;
        self.depth -= 1;
        if !self.accept(&Token::Close) {
            return syntax("a parenthesis is not closed");
        }
        let boost = self.boost();
        Ok(boosted(query, boost))
    }

    fn quoted(&mut self, field: Option<&str>, text: &str) -> Result<Query, Failure> {
        if field == Some("_exists_") {
            let boost = self.boost();
            return Ok(self.leaves.exists(Some(text), boost)?);
        }
        let slop = match self.tilde() {
            Some(Tilde(Some(slop))) => Some(whole(slop)?),
            _ => None,
        };
        let boost = self.boost();
        Ok(self.leaves.phrase(field, text.to_owned(), slop, boost)?)
    }

    fn word(&mut self, field: Option<&str>, word: &str) -> Result<Query, Failure> {
        if field.is_some()
            && let Some(comparison) = Comparison::read(word)
        {
            return self.comparison(field, &comparison);
        }
        let tilde = self.tilde();
        let boost = self.boost();
        // A boost may also come before the tilde.
        let tilde = tilde.or_else(|| self.tilde());
        if field == Some("_exists_") {
            return Ok(self.leaves.exists(Some(&unescape(word)), boost)?);
        }
        if word == "*" {
            return Ok(self.leaves.exists(field, boost)?);
        }
        if has_wildcard(word) {
            return self.pattern(field, word, boost);
        }
        let text = unescape(word);
        match tilde {
            None => Ok(self.leaves.words(field, text, boost)?),
            Some(Tilde(None)) => Ok(self.leaves.fuzzy(field, text, None, boost)?),
            Some(Tilde(Some(distance))) => {
                let edits = whole(distance)?.min(2);
                let fuzziness = Fuzziness::Edits(u8::try_from(edits).unwrap_or(2));
                Ok(self.leaves.fuzzy(field, text, Some(fuzziness), boost)?)
            }
        }
    }

    fn pattern(&mut self, field: Option<&str>, word: &str, boost: f32) -> Result<Query, Failure> {
        if word.starts_with(['*', '?']) && !self.leaves.options.allow_leading_wildcard {
            return syntax("'*' or '?' not allowed as first character in WildcardQuery");
        }
        match word.strip_suffix('*') {
            Some(beginning) if !has_wildcard(beginning) => {
                Ok(self.leaves.prefix(field, &unescape(beginning), boost)?)
            }
            _ => Ok(self.leaves.wildcard(field, word, boost)?),
        }
    }

    fn comparison(
        &mut self,
        field: Option<&str>,
        comparison: &Comparison<'_>,
    ) -> Result<Query, Failure> {
        let text = match (comparison.value, self.peek()) {
            ("", Some(Token::Word(word))) => {
                self.at += 1;
                unescape(word)
            }
            ("", Some(Token::Quoted(text))) => {
                self.at += 1;
                text.clone()
            }
            ("", _) => return syntax("a comparison has nothing to compare with"),
            (value, _) => unescape(value),
        };
        let end = Some((text, comparison.included));
        let (lower, upper) = if comparison.greater { (end, None) } else { (None, end) };
        let boost = self.boost();
        Ok(self.leaves.range(field, &lower, &upper, boost)?)
    }

    fn boost(&mut self) -> f32 {
        match self.peek() {
            Some(Token::Boost(boost)) => {
                self.at += 1;
                *boost
            }
            _ => 1.0,
        }
    }

    fn tilde(&mut self) -> Option<Tilde> {
        match self.peek() {
            Some(Token::Tilde(number)) => {
                self.at += 1;
                Some(Tilde(*number))
            }
            _ => None,
        }
    }
}

/// `>=10` and the like, after `field:`.
struct Comparison<'w> {
    greater: bool,
    included: bool,
    value: &'w str,
}

impl<'w> Comparison<'w> {
    fn read(word: &'w str) -> Option<Self> {
        let greater = word.starts_with('>');
        let rest = word.strip_prefix(['>', '<'])?;
        let (included, value) = match rest.strip_prefix('=') {
            Some(value) => (true, value),
            None => (false, rest),
        };
        Some(Self { greater, included, value })
    }
}

fn whole(number: f32) -> Result<u32, Failure> {
    if !(0.0..=1_000_000.0).contains(&number) || number.fract() != 0.0 {
        return syntax(format!("[~{number}] is not a distance"));
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked above")]
    Ok(number as u32)
}

fn combine(mut clauses: Vec<(Occur, Query)>) -> Query {
    match clauses.as_slice() {
        [] => return Query::MatchNone,
        [(Occur::Must | Occur::Should, _)] => return clauses.swap_remove(0).1,
        _ => {}
    }
    let mut query = crate::dialect::query::empty_bool();
    for (occur, clause) in clauses {
        match occur {
            Occur::Must => query.must.push(clause),
            Occur::Should => query.should.push(clause),
            Occur::MustNot => query.must_not.push(clause),
        }
    }
    Query::Bool(query)
}

fn shown(token: &Token) -> String {
    match token {
        Token::And => "AND".into(),
        Token::Or => "OR".into(),
        Token::Not => "NOT".into(),
        Token::Plus => "+".into(),
        Token::Minus => "-".into(),
        Token::Open => "(".into(),
        Token::Close => ")".into(),
        Token::Colon => ":".into(),
        Token::Boost(boost) => format!("^{boost}"),
        Token::Tilde(_) => "~".into(),
        Token::Quoted(text) | Token::Word(text) => text.clone(),
        Token::Range { lower, upper, .. } => format!("[{lower} TO {upper}]"),
    }
}
