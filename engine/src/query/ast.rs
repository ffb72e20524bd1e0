//! The query tree. A dialect parses into it; the engine compiles it against a mapping.
//!
//! It is plain data: names are Elasticsearch's, defaults are written out by whoever builds it, and
//! nothing in it is JSON or tantivy.

use crate::mapping::geo::Point;

/// A query. Every variant scores as Elasticsearch's query of the same name.
#[derive(Debug, Clone, PartialEq)]
pub enum Query {
    /// Every document, scored `boost`.
    MatchAll {
        /// The score.
        boost: f32,
    },
    /// No document.
    MatchNone,
    /// Analyzed text.
    Match(Match),
    /// Analyzed text, as a phrase.
    MatchPhrase(MatchPhrase),
    /// Analyzed text over several fields.
    MultiMatch(MultiMatch),
    /// One exact value.
    Term {
        /// The field.
        field: String,
        /// The value, converted to the field's type.
        value: Scalar,
        /// Whether ASCII letters match in either case.
        case_insensitive: bool,
        /// Multiplies the score.
        boost: f32,
    },
    /// Any of several exact values; scored `boost`.
    Terms {
        /// The field.
        field: String,
        /// The values.
        values: Vec<Scalar>,
        /// The score.
        boost: f32,
    },
    /// An interval of values; scored `boost`.
    Range(Range),
    /// Terms that begin with a text; scored `boost`.
    Prefix {
        /// The field.
        field: String,
        /// The beginning.
        value: String,
        /// Whether ASCII letters match in either case.
        case_insensitive: bool,
        /// The score.
        boost: f32,
    },
    /// Terms that fit a pattern of `*` and `?`; scored `boost`.
    Wildcard {
        /// The field.
        field: String,
        /// The pattern; a backslash escapes.
        value: String,
        /// Whether ASCII letters match in either case.
        case_insensitive: bool,
        /// The score.
        boost: f32,
    },
    /// Terms within an edit distance.
    Fuzzy {
        /// The field.
        field: String,
        /// The term.
        value: String,
        /// How far.
        fuzziness: Fuzziness,
        /// Leading characters that must be equal.
        prefix_length: usize,
        /// At most this many terms are looked for, the best first.
        max_expansions: usize,
        /// Whether swapping two neighbours is one edit.
        transpositions: bool,
        /// Multiplies the score.
        boost: f32,
    },
    /// Documents that have a value in a field; scored `boost`.
    Exists {
        /// The field, or an object with fields below it.
        field: String,
        /// The score.
        boost: f32,
    },
    /// Documents with a point in an area; scored `boost`.
    WithinArea {
        /// The field.
        field: String,
        /// The area.
        area: Area,
        /// Whether an index without the field has no such documents, instead of refusing.
        ignore_unmapped: bool,
        /// The score.
        boost: f32,
    },
    /// Documents of these ids; scored `boost`.
    Ids {
        /// The ids.
        values: Vec<String>,
        /// The score.
        boost: f32,
    },
    /// A combination.
    Bool(Bool),
    /// A filter with a fixed score.
    ConstantScore {
        /// Which documents.
        filter: Box<Query>,
        /// The score.
        boost: f32,
    },
    /// The best of several queries.
    DisMax {
        /// The queries.
        queries: Vec<Query>,
        /// How much of the others' scores is added.
        tie_breaker: f32,
        /// Multiplies the score.
        boost: f32,
    },
    /// A query whose score is multiplied.
    Boost {
        /// The query.
        query: Box<Query>,
        /// The factor.
        boost: f32,
    },
}

/// A JSON-like scalar as it was given, before a field's type is known.
#[derive(Debug, Clone, PartialEq)]
pub enum Scalar {
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    I64(i64),
    /// A whole number past `i64`.
    U64(u64),
    /// Any other number.
    F64(f64),
    /// A text.
    Text(String),
}

/// Whether all or any of an analyzed text's terms must occur.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Operator {
    /// Any.
    #[default]
    Or,
    /// All.
    And,
}

/// An edit distance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fuzziness {
    /// So many edits, 0 to 2.
    Edits(u8),
    /// None below `low` characters, one below `high`, else two. `AUTO` is `(3, 6)`.
    Auto {
        /// Characters from which one edit is allowed.
        low: usize,
        /// Characters from which two are.
        high: usize,
    },
}

/// How many optional clauses must match, as Elasticsearch writes it: `2`, `-1`, `75%`, `-25%`,
/// `2<75%`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MinimumShouldMatch {
    /// So many; a negative number says how many may be missing.
    Count(i32),
    /// So many percent, rounded down; negative: so many may be missing.
    Percent(i32),
    /// For each entry `(n, m)` in rising order: with more than `n` clauses, `m`; up to the first
    /// `n`, all.
    Above(Vec<(usize, MinimumShouldMatch)>),
}

/// What an analyzed text that has no terms matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ZeroTerms {
    /// Nothing.
    #[default]
    None,
    /// Everything.
    All,
}

/// `match`, and with `prefix_last` `match_bool_prefix`.
#[derive(Debug, Clone, PartialEq)]
pub struct Match {
    /// The field.
    pub field: String,
    /// The text; a field that is not analyzed takes it as one term, converted to its type.
    pub value: Scalar,
    /// Which of the terms must match.
    pub operator: Operator,
    /// How many of the terms must match with `Operator::Or`.
    pub minimum_should_match: Option<MinimumShouldMatch>,
    /// Fuzzy terms.
    pub fuzziness: Option<Fuzziness>,
    /// Leading characters that must be equal in fuzzy terms.
    pub prefix_length: usize,
    /// At most this many terms are looked for in place of a fuzzy one or a prefix.
    pub max_expansions: usize,
    /// The analyzer in place of the field's search analyzer.
    pub analyzer: Option<String>,
    /// What no terms match.
    pub zero_terms: ZeroTerms,
    /// Whether a value that the field's type cannot take matches nothing instead of failing.
    pub lenient: bool,
    /// Whether the last term is a prefix.
    pub prefix_last: bool,
    /// Multiplies the score.
    pub boost: f32,
}

/// `match_phrase`, and with `prefix_last` `match_phrase_prefix`.
#[derive(Debug, Clone, PartialEq)]
pub struct MatchPhrase {
    /// The field.
    pub field: String,
    /// The text.
    pub value: Scalar,
    /// How many positions the terms may be moved in all.
    pub slop: u32,
    /// The analyzer in place of the field's search analyzer.
    pub analyzer: Option<String>,
    /// What no terms match.
    pub zero_terms: ZeroTerms,
    /// Whether the last term is a prefix.
    pub prefix_last: bool,
    /// At most this many terms are looked for in place of the prefix.
    pub max_expansions: usize,
    /// Multiplies the score.
    pub boost: f32,
}

/// How `multi_match` combines its fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MultiMatchKind {
    /// The best field's score, and `tie_breaker` of the others.
    #[default]
    BestFields,
    /// The sum of the fields' scores.
    MostFields,
    /// The fields as if they were one.
    CrossFields,
    /// As `BestFields`, with phrases.
    Phrase,
    /// As `Phrase`, the last term a prefix.
    PhrasePrefix,
    /// As `MostFields`, the last term a prefix.
    BoolPrefix,
}

/// `multi_match`.
#[derive(Debug, Clone, PartialEq)]
pub struct MultiMatch {
    /// Fields with their boosts; a name may contain `*`. Empty: every text and keyword field.
    pub fields: Vec<(String, f32)>,
    /// How to combine.
    pub kind: MultiMatchKind,
    /// How much of the other fields' scores is added; `None` is the kind's default.
    pub tie_breaker: Option<f32>,
    /// Options of each field's query; its `field` is not used, its `boost` multiplies the whole.
    pub options: Match,
    /// Slop for the phrase kinds.
    pub slop: u32,
}

/// `range`.
#[derive(Debug, Clone, PartialEq)]
pub struct Range {
    /// The field.
    pub field: String,
    /// The lower end and whether it belongs to the range.
    pub lower: Option<(Scalar, bool)>,
    /// The upper end and whether it belongs to the range.
    pub upper: Option<(Scalar, bool)>,
    /// The format of dates, in place of the field's.
    pub format: Option<String>,
    /// The time zone of dates that name none: `+01:00` or an IANA name.
    pub time_zone: Option<String>,
    /// How a field's own ranges lie to this one; of single values only their lying within counts.
    pub relation: Relation,
    /// The score.
    pub boost: f32,
}

/// How a field's range lies to that of a query.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Relation {
    /// They have a value in common.
    #[default]
    Intersects,
    /// It has all values of the query's.
    Contains,
    /// It has none but values of the query's.
    Within,
}

/// `bool`.
#[derive(Debug, Clone, PartialEq)]
pub struct Bool {
    /// All must match; scored.
    pub must: Vec<Query>,
    /// All must match; not scored.
    pub filter: Vec<Query>,
    /// Some may match; scored.
    pub should: Vec<Query>,
    /// None may match.
    pub must_not: Vec<Query>,
    /// How many of `should` must match; `None`: one where there is no `must` and no `filter`.
    pub minimum_should_match: Option<MinimumShouldMatch>,
    /// Multiplies the score.
    pub boost: f32,
}

/// An area of the earth.
#[derive(Debug, Clone, PartialEq)]
pub enum Area {
    /// All that is so near to a point.
    Circle {
        /// The point.
        center: Point,
        /// How near, in metres.
        metres: f64,
    },
    /// All between two parallels and two meridians, in degrees.
    Box {
        /// The upper parallel.
        north: f64,
        /// The left meridian; greater than the right one where the 180th lies between them.
        west: f64,
        /// The lower parallel.
        south: f64,
        /// The right meridian.
        east: f64,
    },
}
