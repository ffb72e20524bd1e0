//! The analyzers as tantivy's tokenizers, under their own names.

use tantivy::tokenizer::{
    LowerCaser, RawTokenizer, SimpleTokenizer, TextAnalyzer, TokenizerManager, WhitespaceTokenizer,
};

/// The tokenizer that keeps a text as one term.
pub(crate) const RAW: &str = "raw";

/// Every built-in analyzer under its name, and `raw`.
pub fn tokenizers() -> TokenizerManager {
    let manager = TokenizerManager::new();
    manager.register(RAW, RawTokenizer::default());
    manager.register("keyword", RawTokenizer::default());
    manager.register("whitespace", WhitespaceTokenizer::default());
    let words = TextAnalyzer::builder(SimpleTokenizer::default()).filter(LowerCaser).build();
    for name in ["standard", "simple", "stop", "english"] {
        manager.register(name, words.clone());
    }
    manager
}

/// Whether an analyzer has this name.
pub(crate) fn is_known(name: &str) -> bool {
    ["standard", "simple", "whitespace", "keyword", "stop", "english"].contains(&name)
}
