//! Tokens of Lucene's classic query syntax.

/// A token. Texts of words and range ends keep their escapes, since an escaped `*` is no wildcard.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Token {
    And,
    Or,
    Not,
    Plus,
    Minus,
    Open,
    Close,
    Colon,
    /// `^2.5`
    Boost(f32),
    /// `~`, `~1`
    Tilde(Option<f32>),
    /// `"…"`, without its escapes.
    Quoted(String),
    /// `[a TO b}`
    Range {
        lower: String,
        lower_included: bool,
        upper: String,
        upper_included: bool,
    },
    Word(String),
}

/// Cuts a text into tokens; the error says what is wrong with it.
pub(super) fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let mut lexer = Lexer { rest: text, found: Vec::new() };
    while lexer.next()? {}
    Ok(lexer.found)
}

struct Lexer<'t> {
    rest: &'t str,
    found: Vec<Token>,
}

impl Lexer<'_> {
    fn next(&mut self) -> Result<bool, String> {
        self.rest = self.rest.trim_start();
        let Some(first) = self.rest.chars().next() else { return Ok(false) };
        let single = match first {
            '(' => Some(Token::Open),
            ')' => Some(Token::Close),
            ':' => Some(Token::Colon),
            '+' => Some(Token::Plus),
            '-' => Some(Token::Minus),
            '!' => Some(Token::Not),
            _ => None,
        };
        if let Some(token) = single {
            self.take(first.len_utf8());
            self.found.push(token);
            return Ok(true);
        }
        for (written, token) in [("&&", Token::And), ("||", Token::Or)] {
            if self.rest.starts_with(written) {
                self.take(written.len());
                self.found.push(token);
                return Ok(true);
            }
        }
        let token = match first {
            '"' => self.quoted()?,
            '[' | '{' => self.range(first)?,
            '^' => self.boost()?,
            '~' => self.tilde(),
            '/' => return Err("regular expressions are not supported".into()),
            ']' | '}' => return Err(format!("unexpected [{first}]")),
            _ => self.word()?,
        };
        self.found.push(token);
        Ok(true)
    }

    /// Takes so many bytes, which must end a character.
    fn take(&mut self, bytes: usize) -> String {
        let (taken, rest) = self.rest.split_at(bytes);
        self.rest = rest;
        taken.to_owned()
    }

    /// Takes characters while they are wanted; a backslash and what follows it belong together.
    fn take_while(&mut self, wanted: impl Fn(char) -> bool) -> Result<String, String> {
        let mut end = 0;
        let mut characters = self.rest.char_indices();
        while let Some((at, character)) = characters.next() {
            if character == '\\' {
                let (at, escaped) = characters
                    .next()
                    .ok_or_else(|| "a backslash at the end escapes nothing".to_owned())?;
                end = at + escaped.len_utf8();
            } else if wanted(character) {
                end = at + character.len_utf8();
            } else {
                break;
            }
        }
        Ok(self.take(end))
    }

    fn quoted(&mut self) -> Result<Token, String> {
        self.take(1);
        let inside = self.take_while(|character| character != '"')?;
        if self.rest.is_empty() {
            return Err("a quotation mark is not closed".into());
        }
        self.take(1);
        Ok(Token::Quoted(unescape(&inside)))
    }

    fn range(&mut self, open: char) -> Result<Token, String> {
        self.take(1);
        let lower = self.range_end()?;
        let to = self.range_end()?;
        if to != "TO" {
            return Err(format!("expected [TO] in a range, found [{to}]"));
        }
        let upper = self.range_end()?;
        self.rest = self.rest.trim_start();
        let close = self.rest.chars().next();
        if !matches!(close, Some(']' | '}')) {
            return Err("a range is not closed".into());
        }
        self.take(1);
        let (lower_included, upper_included) = (open == '[', close == Some(']'));
        Ok(Token::Range { lower, lower_included, upper, upper_included })
    }

    fn range_end(&mut self) -> Result<String, String> {
        self.rest = self.rest.trim_start();
        let end = if self.rest.starts_with('"') {
            match self.quoted()? {
                Token::Quoted(text) if text == "*" => "\\*".to_owned(),
                Token::Quoted(text) => text,
                _ => String::new(),
            }
        } else {
            self.take_while(|character| {
                !character.is_whitespace() && !matches!(character, ']' | '}')
            })?
        };
        if end.is_empty() { Err("a range is not closed".into()) } else { Ok(end) }
    }

    fn boost(&mut self) -> Result<Token, String> {
        self.take(1);
        let number = self.number();
        match number.parse::<f32>() {
            Ok(boost) if boost.is_finite() => Ok(Token::Boost(boost)),
            _ => Err(format!("[^] needs a number, found [{number}]")),
        }
    }

    fn tilde(&mut self) -> Token {
        self.take(1);
        Token::Tilde(self.number().parse().ok())
    }

    fn number(&mut self) -> String {
        let end = self.rest.find(|character: char| !matches!(character, '0'..='9' | '.'));
        self.take(end.unwrap_or(self.rest.len()))
    }

    fn word(&mut self) -> Result<Token, String> {
        let word = self.take_while(|character| {
            !character.is_whitespace()
                && !matches!(
                    character,
                    '(' | ')' | ':' | '^' | '[' | ']' | '"' | '{' | '}' | '~' | '!'
                )
        })?;
        Ok(match word.as_str() {
            "AND" => Token::And,
            "OR" => Token::Or,
            "NOT" => Token::Not,
            _ => Token::Word(word),
        })
    }
}

/// Removes escapes: `\:` is `:`, `\u0041` is `A`.
pub(super) fn unescape(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text.chars();
    while let Some(character) = rest.next() {
        if character != '\\' {
            plain.push(character);
            continue;
        }
        let code = rest.as_str().strip_prefix('u').and_then(|hex| hex.get(..4));
        let point = code.and_then(|hex| u32::from_str_radix(hex, 16).ok());
        if let Some(point) = point.and_then(char::from_u32) {
            plain.push(point);
            rest.by_ref().take(5).for_each(drop);
        } else {
            plain.extend(rest.next());
        }
    }
    plain
}

/// Whether a word has a `*` or `?` that is not escaped.
pub(super) fn has_wildcard(word: &str) -> bool {
    let mut escaped = false;
    word.chars().any(|character| {
        let wildcard = !escaped && matches!(character, '*' | '?');
        escaped = !escaped && character == '\\';
        wildcard
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_into_tokens() {
        let check = |text: &str, expected: &[Token]| assert_eq!(tokens(text).unwrap(), expected);
        let word = |text: &str| Token::Word(text.into());
        check("a AND b", &[word("a"), Token::And, word("b")]);
        check("a && !b", &[word("a"), Token::And, Token::Not, word("b")]);
        check(
            "f:x^2 y~1",
            &[
                word("f"),
                Token::Colon,
                word("x"),
                Token::Boost(2.0),
                word("y"),
                Token::Tilde(Some(1.0)),
            ],
        );
        check(r#""a \"b\"" a\:b"#, &[Token::Quoted("a \"b\"".into()), word(r"a\:b")]);
        check(
            "[1 TO *}",
            &[Token::Range {
                lower: "1".into(),
                lower_included: true,
                upper: "*".into(),
                upper_included: false,
            }],
        );
        check("wi-fi +x", &[word("wi-fi"), Token::Plus, word("x")]);
    }

    #[test]
    fn what_is_not_closed_is_refused() {
        for text in ["\"a", "[1 TO", "[1 2]", "[1 TO 2", "a\\", "/x/", "a^", "]"] {
            assert!(tokens(text).is_err(), "{text}");
        }
    }

    #[test]
    fn escapes_are_removed() {
        assert_eq!(unescape(r"a\*b \\ \u0041\u00e9"), r"a*b \ Aé");
        assert!(has_wildcard("a*") && !has_wildcard(r"a\*") && has_wildcard(r"a\\*"));
    }
}
