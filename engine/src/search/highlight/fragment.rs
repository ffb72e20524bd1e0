//! Which parts of a text to show: whole sentences where they are short enough, otherwise words
//! around what is marked.

use unicode_segmentation::UnicodeSegmentation as _;

use super::occurrences::Occurrence;
use crate::search::request::HighlightOptions;

/// A part of a value, with what is marked in it.
struct Fragment<'a> {
    text: &'a str,
    start: usize,
    end: usize,
    occurrences: &'a [Occurrence],
}

/// The fragments of a field's values. `marked` are the values in which things were looked for.
pub(super) fn fragments(
    values: &[String],
    marked: &[(&str, Vec<Occurrence>)],
    options: &HighlightOptions,
) -> Vec<String> {
    let mut found: Vec<Fragment<'_>> = Vec::new();
    for (text, occurrences) in marked.iter().filter(|(_, occurrences)| !occurrences.is_empty()) {
        if options.number_of_fragments == 0 {
            found.push(Fragment { text, start: 0, end: text.len(), occurrences });
        } else {
            split(text, occurrences, options.fragment_size, &mut found);
        }
    }
    if found.is_empty() {
        return beginning(values, options).into_iter().collect();
    }
    if options.number_of_fragments > 0 && found.len() > options.number_of_fragments {
        keep_best(&mut found, options.number_of_fragments);
    }
    found.iter().map(|fragment| fragment.render(options)).collect()
}

/// Those that show the most different things, then the most, in the text's order.
fn keep_best(fragments: &mut Vec<Fragment<'_>>, count: usize) {
    let mut ranked: Vec<(usize, usize, usize)> = fragments
        .iter()
        .enumerate()
        .map(|(place, fragment)| {
            let mut marks: Vec<usize> =
                fragment.occurrences.iter().map(|occurrence| occurrence.mark).collect();
            marks.sort_unstable();
            marks.dedup();
            (marks.len(), fragment.occurrences.len(), place)
        })
        .collect();
    ranked.sort_by(|left, right| {
        right.0.cmp(&left.0).then(right.1.cmp(&left.1)).then(left.2.cmp(&right.2))
    });
    let kept: Vec<usize> = ranked.iter().take(count).map(|ranked| ranked.2).collect();
    let mut place = 0;
    fragments.retain(|_| {
        place += 1;
        kept.contains(&(place - 1))
    });
}

/// Cuts a text into fragments around its occurrences.
fn split<'a>(
    text: &'a str,
    occurrences: &'a [Occurrence],
    size: usize,
    into: &mut Vec<Fragment<'a>>,
) {
    let sentences: Vec<(usize, usize)> = text
        .split_sentence_bound_indices()
        .map(|(start, sentence)| (start, start + sentence.len()))
        .collect();
    let mut first = 0;
    let mut free = 0;
    while let Some(occurrence) = occurrences.get(first) {
        let (start, end) = bounds(text, &sentences, *occurrence, size, free);
        let inside = occurrences.iter().skip(first).take_while(|next| next.end <= end);
        let count = inside.count().max(1);
        let occurrences = occurrences.get(first..first + count).unwrap_or_default();
        into.push(Fragment { text, start, end, occurrences });
        first += count;
        free = end;
    }
}

/// Where the fragment of an occurrence begins and ends; not before `free`.
fn bounds(
    text: &str,
    sentences: &[(usize, usize)],
    occurrence: Occurrence,
    size: usize,
    free: usize,
) -> (usize, usize) {
    let at = sentences.partition_point(|sentence| sentence.1 <= occurrence.start);
    let (start, end) = sentences.get(at).copied().unwrap_or((0, text.len()));
    let start = start.max(free).min(occurrence.start);
    let length = |start: usize, end: usize| {
        text.get(start..end).map_or(usize::MAX, |part| part.chars().count())
    };
    if size == 0 || length(start, end) <= size {
        let mut end = end.max(occurrence.end);
        for sentence in sentences.iter().skip(at + 1) {
            if size == 0 || length(start, sentence.1) > size {
                break;
            }
            end = end.max(sentence.1);
        }
        return (start, end);
    }
    // A long sentence: about half of the room before what is marked.
    let words: Vec<usize> = text
        .get(start..end)
        .unwrap_or_default()
        .split_word_bound_indices()
        .map(|(word, _)| start + word)
        .collect();
    let before = words.iter().copied().filter(|word| *word <= occurrence.start);
    let begin = before
        .filter(|word| length(*word, occurrence.start) <= size / 2)
        .min()
        .unwrap_or(occurrence.start);
    let after = words.iter().copied().chain([end]).filter(|word| *word >= occurrence.end);
    let finish = after.filter(|word| length(begin, *word) <= size).max();
    (begin, finish.unwrap_or(occurrence.end))
}

/// The beginning of the first value, where nothing is marked and that is wanted.
fn beginning(values: &[String], options: &HighlightOptions) -> Option<String> {
    let text = values.first().filter(|_| options.no_match_size > 0)?;
    let size = options.no_match_size;
    let ends = text.split_word_bound_indices().map(|(start, word)| start + word.len());
    let fits = |end: &usize| text.get(..*end).is_some_and(|part| part.chars().count() <= size);
    let end = ends.take_while(fits).last();
    let end = end.or_else(|| text.char_indices().nth(size).map(|(end, _)| end));
    let fragment = Fragment { text, start: 0, end: end.unwrap_or(text.len()), occurrences: &[] };
    Some(fragment.render(options))
}

impl Fragment<'_> {
    fn render(&self, options: &HighlightOptions) -> String {
        let mut rendered = String::new();
        let mut at = self.start;
        let plain = |rendered: &mut String, from: usize, to: usize| {
            let part = self.text.get(from..to).unwrap_or_default();
            if options.encode_html { escape(part, rendered) } else { rendered.push_str(part) }
        };
        for occurrence in self.occurrences {
            plain(&mut rendered, at, occurrence.start);
            rendered.push_str(&options.pre_tag);
            plain(&mut rendered, occurrence.start, occurrence.end);
            rendered.push_str(&options.post_tag);
            at = occurrence.end;
        }
        plain(&mut rendered, at, self.end);
        if options.number_of_fragments > 0 { rendered.trim().to_owned() } else { rendered }
    }
}

fn escape(text: &str, into: &mut String) {
    for character in text.chars() {
        match character {
            '&' => into.push_str("&amp;"),
            '<' => into.push_str("&lt;"),
            '>' => into.push_str("&gt;"),
            '"' => into.push_str("&quot;"),
            '\'' => into.push_str("&#x27;"),
            '/' => into.push_str("&#x2F;"),
            other => into.push(other),
        }
    }
}
