//! A text in pieces small enough to be an answer, cut where a reader would cut. The same text always gives the same
//! pieces.

use crate::limits;
use crate::model::store::Chunk;

/// The pieces of a text.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Chunks {
    /// In order; one that begins within a paragraph repeats a little of the one before it.
    pub(super) chunks: Vec<Chunk>,
    /// Was there more text than there may be chunks?
    pub(super) cut: bool,
}

/// Splits a text at the ends of paragraphs, else of sentences and lines, else of words.
pub(super) fn split(text: &str) -> Chunks {
    let mut chunks = Vec::new();
    let mut rest = text;
    // Where `rest` begins, in characters.
    let mut at = 0;
    loop {
        let visible = rest.trim_start();
        at += count(&rest[..rest.len() - visible.len()]);
        rest = visible;
        if rest.is_empty() {
            return Chunks { chunks, cut: false };
        }
        if chunks.len() == limits::FILE_CHUNKS {
            return Chunks { chunks, cut: true };
        }
        let (end, clean) = match rest.char_indices().nth(limits::CHUNK_CHARS) {
            None => (rest.len(), true),
            Some((window, _)) => border(&rest[..window]),
        };
        let piece = rest[..end].trim_end();
        chunks.push(Chunk { start: at, end: at + count(piece), text: piece.to_owned() });
        if rest[end..].trim_start().is_empty() {
            return Chunks { chunks, cut: false };
        }
        let next = if clean { end } else { overlap(piece) };
        at += count(&rest[..next]);
        rest = &rest[next..];
    }
}

fn count(text: &str) -> u64 {
    u64::try_from(text.chars().count()).unwrap_or(u64::MAX)
}

/// Where a chunk that fills the window ends: in its second half, so that chunks do not become crumbs. True at the end of a
/// paragraph, across which nothing stands together.
fn border(window: &str) -> (usize, bool) {
    let half = window.floor_char_boundary(window.len() / 2);
    let behind = &window[half..];
    let paragraph = behind.rfind("\n\n");
    let sentence = || {
        let ends = behind.char_indices().zip(behind.chars().skip(1));
        let ends = ends.filter(|((_, c), next)| match c {
            '.' | '!' | '?' | ':' | ';' => next.is_whitespace(),
            '。' | '！' | '？' => true,
            c => *c == '\n',
        });
        ends.map(|((at, c), _)| at + c.len_utf8()).last()
    };
    let word = || behind.rfind(char::is_whitespace);
    let end = paragraph.or_else(sentence).or_else(word).map_or(window.len(), |at| half + at);
    (end, paragraph.is_some())
}

/// Where the next chunk begins within this one: a few words before its end.
fn overlap(piece: &str) -> usize {
    let Some((from, _)) = piece.char_indices().nth_back(limits::CHUNK_OVERLAP_CHARS - 1) else { return piece.len() };
    match piece[from..].find(char::is_whitespace) {
        Some(space) => from + space,
        // A script without spaces.
        None => from,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(text: &str) -> Vec<String> {
        split(text).chunks.into_iter().map(|chunk| chunk.text).collect()
    }

    #[test]
    fn a_short_text_is_one_chunk_and_no_text_is_none() {
        assert_eq!(texts("  A tide.\n\nAnother. "), ["A tide.\n\nAnother."]);
        assert_eq!(split(" \n "), Chunks { chunks: Vec::new(), cut: false });
        assert_eq!(split(" é tide").chunks, [Chunk { start: 1, end: 7, text: "é tide".into() }]);
    }

    #[test]
    fn chunks_end_where_a_reader_would_pause() {
        let sentence = "The tide came in again and took the boats. ";
        let paragraph = sentence.repeat(16);
        let text = format!("{}\n\n{}", paragraph.trim_end(), sentence.repeat(20));
        let chunks = texts(&text);
        assert!(chunks[0].ends_with("boats.") && !chunks[0].contains('\n'), "at the paragraph: {}", chunks[0]);
        assert!(chunks[1].starts_with("The tide"), "nothing is repeated: {}", chunks[1]);
        assert!(chunks.iter().all(|chunk| chunk.ends_with('.')), "at sentences: {chunks:?}");
        let words = texts(&"tides ".repeat(500));
        assert!(words.iter().all(|chunk| chunk.starts_with("tides") && chunk.ends_with("tides")), "at words");
        let solid = texts(&"x".repeat(2500));
        assert_eq!(solid.iter().map(String::len).collect::<Vec<_>>(), [1000, 1000, 700]);
        assert!(texts(&"潮が満ちる。".repeat(400)).iter().all(|chunk| chunk.ends_with('。')));
    }

    #[test]
    fn what_stands_across_a_border_is_in_one_chunk() {
        let text = (0..2000).map(|n| format!("word{n} ")).collect::<String>();
        let chunks = texts(&text);
        for n in 0..1999 {
            let pair = format!("word{n} word{} ", n + 1);
            assert!(chunks.iter().any(|chunk| format!("{chunk} ").contains(&pair)), "{pair}");
        }
    }

    #[test]
    fn there_is_a_last_chunk() {
        let Chunks { chunks, cut } = split(&"word ".repeat(4_000_000));
        assert_eq!((chunks.len(), cut), (limits::FILE_CHUNKS, true));
    }

    proptest::proptest! {
        #[test]
        fn every_character_is_where_its_chunk_says(text in "([a-z]{1,9}[ .\n]{1,2}|é{1,30}|。|\n\n){0,900}") {
            let chars: Vec<char> = text.chars().collect();
            let Chunks { chunks, cut } = split(&text);
            proptest::prop_assert!(!cut);
            let mut covered = 0;
            for chunk in &chunks {
                let (start, end) = (usize::try_from(chunk.start).unwrap(), usize::try_from(chunk.end).unwrap());
                proptest::prop_assert!(end - start <= limits::CHUNK_CHARS && end > covered);
                proptest::prop_assert_eq!(&chars[start..end].iter().collect::<String>(), &chunk.text);
                proptest::prop_assert!(chars[covered.min(start)..start].iter().all(|c| c.is_whitespace()));
                covered = end;
            }
            proptest::prop_assert!(chars[covered..].iter().all(|c| c.is_whitespace()));
        }
    }
}
