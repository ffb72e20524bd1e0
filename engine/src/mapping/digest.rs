//! The terms of keywords: a short text is its own term, a long one has a digest for its term.
//!
//! A dictionary of terms costs time and room for every byte by which its terms differ, most of all
//! while it is written: titles and addresses as keywords would take longer to index than all other
//! fields of their documents together. Which documents have exactly this text is all that is asked of
//! these terms; whatever depends on the text's bytes (beginnings, patterns, misspellings, intervals)
//! is asked of the column, whose dictionary has the texts. So only keywords that have one are digested.
//!
//! A digest is the first 120 bits of SHA-256, in URL-safe base64: 20 bytes. Two texts with the same one
//! would be found as one. To make such takes about 2^60 digests, and of 10^12 texts that nobody made so
//! two have the same with a probability below 10^-12. Texts of fewer than 20 bytes are no digests.

use std::borrow::Cow;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};
use tantivy::schema::{FieldEntry, FieldType};
use tantivy::tokenizer::{Token, TokenStream, Tokenizer};

/// The tokenizer that makes these terms.
pub(super) const NAME: &str = "digest";

/// The length of a digest, and of the shortest text that has one.
const TERM_BYTES: usize = 20;

/// As many bytes of SHA-256 as these are in base64.
const DIGEST_BYTES: usize = TERM_BYTES / 4 * 3;

/// A text's term.
pub(crate) fn term(text: &str) -> Cow<'_, str> {
    if text.len() < TERM_BYTES {
        return Cow::Borrowed(text);
    }
    let mut term = String::with_capacity(TERM_BYTES);
    push_digest(text, &mut term);
    Cow::Owned(term)
}

/// A text's term, which is put into `buffer` if it is another.
pub(super) fn term_in<'a>(text: &'a str, buffer: &'a mut String) -> &'a str {
    if text.len() < TERM_BYTES {
        return text;
    }
    buffer.clear();
    push_digest(text, buffer);
    buffer
}

fn push_digest(text: &str, into: &mut String) {
    let digest = Sha256::digest(text);
    let (kept, _) = digest.split_at(DIGEST_BYTES);
    BASE64_URL_SAFE_NO_PAD.encode_string(kept, into);
}

/// Whether the terms of a field are these. A field of an index that was made before there were any
/// keeps whole texts.
pub(crate) fn has_digests(field: &FieldEntry) -> bool {
    let FieldType::Str(options) = field.field_type() else { return false };
    options.get_indexing_options().is_some_and(|indexing| indexing.tokenizer() == NAME)
}

/// Whether a term of a field stands for a text that it is not.
pub(crate) fn is_digest(term: &[u8], field: &FieldEntry) -> bool {
    term.len() >= TERM_BYTES && has_digests(field)
}

/// Makes one term of each value.
#[derive(Clone, Default)]
pub(super) struct DigestTokenizer {
    token: Token,
}

impl Tokenizer for DigestTokenizer {
    type TokenStream<'a> = DigestStream<'a>;

    fn token_stream<'a>(&'a mut self, text: &'a str) -> DigestStream<'a> {
        self.token.reset();
        if text.len() < TERM_BYTES {
            self.token.text.push_str(text);
        } else {
            push_digest(text, &mut self.token.text);
        }
        self.token.offset_to = text.len();
        DigestStream { token: &mut self.token, is_done: false }
    }
}

pub(super) struct DigestStream<'a> {
    token: &'a mut Token,
    is_done: bool,
}

impl TokenStream for DigestStream<'_> {
    fn advance(&mut self) -> bool {
        if self.is_done {
            return false;
        }
        self.token.position = 0;
        self.is_done = true;
        true
    }

    fn token(&self) -> &Token {
        self.token
    }

    fn token_mut(&mut self) -> &mut Token {
        self.token
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_have_digests_for_terms() {
        let check = |text: &str, expected: &str| {
            assert_eq!(term(text), expected, "{text}");
            let mut tokenizer = DigestTokenizer::default();
            let mut stream = tokenizer.token_stream(text);
            let token = stream.next().map(|token| (token.text.clone(), token.position));
            assert_eq!(token, Some((expected.to_owned(), 0)), "{text}");
            assert!(!stream.advance(), "{text} has more terms than one");
        };
        check("", "");
        check("a heron at the lake", "a heron at the lake");
        // printf 'a heron at the lake.' | sha256sum | xxd -r -p | head -c 15 | basenc --base64url
        check("a heron at the lake.", "NmNydKkFTCMhyay4S1_O");
        check("ж".repeat(10).as_str(), "HY3fpxnlh7kN4QyfqQcM");
        check("ж".repeat(5000).as_str(), "KMCz9a3ziVl8u9bMA6YK");
    }
}
