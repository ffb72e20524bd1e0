//! One field of a mapping: its type and its parameters.

use serde_json::Value;

use super::date::DateFormat;

/// The type of a field, by Elasticsearch's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FieldKind {
    /// Analyzed text.
    Text,
    /// Text as one term, also kept as a column.
    Keyword,
    /// 64 bits, signed.
    Long,
    /// 32 bits, signed.
    Integer,
    /// 16 bits, signed.
    Short,
    /// 8 bits, signed.
    Byte,
    /// 64 bits, unsigned.
    UnsignedLong,
    /// Double precision.
    Double,
    /// Kept in double precision: nothing is rounded, and any finite double is accepted.
    Float,
    /// As `Float`.
    HalfFloat,
    /// `true` or `false`.
    Boolean,
    /// An instant, in microseconds.
    Date,
    /// An IP address of either version.
    Ip,
    /// A point on the earth.
    GeoPoint,
    /// A range of 32-bit numbers.
    IntegerRange,
    /// A range of 64-bit numbers.
    LongRange,
    /// Kept in double precision.
    FloatRange,
    /// A range of double-precision numbers.
    DoubleRange,
    /// A range of instants, in microseconds.
    DateRange,
    /// A range of IP addresses.
    IpRange,
}

/// How a field's values lie in the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Storage {
    /// Texts.
    Text,
    /// Signed whole numbers.
    I64,
    /// Unsigned whole numbers.
    U64,
    /// Double precision.
    F64,
    /// Booleans.
    Bool,
    /// Dates.
    Date,
    /// IP addresses, whose terms are texts.
    Ip,
    /// Points, [as bits](super::geo::Point).
    Point,
    /// Ranges, whose terms are [texts](super::span).
    Span,
}

const KINDS: [(FieldKind, &str, Storage); 20] = [
    (FieldKind::Text, "text", Storage::Text),
    (FieldKind::Keyword, "keyword", Storage::Text),
    (FieldKind::Long, "long", Storage::I64),
    (FieldKind::Integer, "integer", Storage::I64),
    (FieldKind::Short, "short", Storage::I64),
    (FieldKind::Byte, "byte", Storage::I64),
    (FieldKind::UnsignedLong, "unsigned_long", Storage::U64),
    (FieldKind::Double, "double", Storage::F64),
    (FieldKind::Float, "float", Storage::F64),
    (FieldKind::HalfFloat, "half_float", Storage::F64),
    (FieldKind::Boolean, "boolean", Storage::Bool),
    (FieldKind::Date, "date", Storage::Date),
    (FieldKind::Ip, "ip", Storage::Ip),
    (FieldKind::GeoPoint, "geo_point", Storage::Point),
    (FieldKind::IntegerRange, "integer_range", Storage::Span),
    (FieldKind::LongRange, "long_range", Storage::Span),
    (FieldKind::FloatRange, "float_range", Storage::Span),
    (FieldKind::DoubleRange, "double_range", Storage::Span),
    (FieldKind::DateRange, "date_range", Storage::Span),
    (FieldKind::IpRange, "ip_range", Storage::Span),
];

impl Storage {
    /// Whether a column's numbers are counted with.
    pub(crate) fn has_numbers(self) -> bool {
        !matches!(self, Self::Text | Self::Ip | Self::Point | Self::Span)
    }

    /// Whether a column has numbers that stand for the texts of a dictionary.
    pub(crate) fn has_dictionary(self) -> bool {
        matches!(self, Self::Text | Self::Ip)
    }
}

impl FieldKind {
    /// The kind of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        KINDS.iter().find(|kind| kind.1 == name).map(|kind| kind.0)
    }

    /// Its name in mappings.
    pub fn name(self) -> &'static str {
        KINDS.iter().find(|kind| kind.0 == self).map_or("", |kind| kind.1)
    }

    /// How its values lie in the index.
    pub fn storage(self) -> Storage {
        KINDS.iter().find(|kind| kind.0 == self).map_or(Storage::Text, |kind| kind.2)
    }

    /// Whether it holds numbers.
    pub fn is_numeric(self) -> bool {
        matches!(self.storage(), Storage::I64 | Storage::U64 | Storage::F64)
    }
}

/// A value, converted to its field's type.
#[derive(Debug, Clone, PartialEq)]
pub enum FieldValue {
    /// A text or keyword; of an `ip` or a range, its term.
    Text(String),
    /// A `long`, `integer`, `short` or `byte`.
    I64(i64),
    /// An `unsigned_long`; of a `geo_point`, its bits.
    U64(u64),
    /// A `double`, `float` or `half_float`; finite.
    F64(f64),
    /// A `boolean`.
    Bool(bool),
    /// A `date`, in microseconds since 1970, within what [`super::date::MICROS`] allows.
    Date(i64),
}

/// The value that stands in for an explicit `null`.
#[derive(Debug, Clone, PartialEq)]
pub struct NullValue {
    /// As the mapping gives it.
    pub json: Value,
    /// As it is indexed.
    pub value: FieldValue,
}

/// One leaf field, or one multi-field of a leaf field.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "Elasticsearch's parameters are booleans")]
pub struct FieldMapping {
    /// The dotted path; a multi-field's is `field.multi`.
    pub path: String,
    /// The type.
    pub kind: FieldKind,
    /// Whether it can be searched through its terms.
    pub index: bool,
    /// Whether it has a column to sort, aggregate and range over; never for text and ranges.
    pub doc_values: bool,
    /// Whether its length counts in scores; only for text.
    pub norms: bool,
    /// The analyzer that indexes it; `keyword` for all kinds but text.
    pub analyzer: String,
    /// The analyzer of queries on it; `keyword` for all kinds but text.
    pub search_analyzer: String,
    /// For keywords: texts of more UTF-16 units are not indexed.
    pub ignore_above: Option<usize>,
    /// What an explicit `null` counts as.
    pub null_value: Option<NullValue>,
    /// For numbers: whether texts and fractions are converted.
    pub coerce: bool,
    /// Whether a value that does not fit is left out instead of failing the document.
    pub ignore_malformed: bool,
    /// How dates are written; the default format for all other kinds.
    pub format: DateFormat,
    /// Paths of fields that take a copy of each value.
    pub copy_to: Vec<String>,
    /// For a multi-field, the path of the field whose values it takes.
    pub parent: Option<String>,
    /// The places of its multi-fields in [`super::Mapping::fields`].
    pub(crate) multi_fields: Vec<usize>,
}

impl FieldMapping {
    /// A field with Elasticsearch's defaults.
    pub fn new(path: impl Into<String>, kind: FieldKind) -> Self {
        let text = kind == FieldKind::Text;
        let analyzer = if text { DEFAULT_ANALYZER } else { "keyword" };
        Self {
            path: path.into(),
            kind,
            index: true,
            doc_values: !text && kind.storage() != Storage::Span,
            norms: text,
            analyzer: analyzer.to_owned(),
            search_analyzer: analyzer.to_owned(),
            ignore_above: None,
            null_value: None,
            coerce: true,
            ignore_malformed: false,
            format: DateFormat::default(),
            copy_to: Vec::new(),
            parent: None,
            multi_fields: Vec::new(),
        }
    }

    /// The last part of the path.
    pub fn name(&self) -> &str {
        self.path.rsplit('.').next().unwrap_or(&self.path)
    }
}

/// The analyzer of text fields that name none.
pub const DEFAULT_ANALYZER: &str = "standard";
