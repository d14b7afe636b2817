//! JSON, one value or one per line: keys, strings and numbers in the order they come.
//!
//! A lexer, not a parser: it needs no stack, so that nesting costs nothing, and it goes on after a fault.

use std::io::Read;

use super::charset::Utf8;
use super::protocol::Failure;
use super::text::Text;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Outside,
    String,
    Escape,
    /// Digits still to come and their value so far.
    Unicode(u8, u32),
    Word,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Last {
    Nothing,
    Object,
    Array,
    Comma,
    Colon,
    String,
    Scalar,
    Close,
}

struct Lexer {
    state: State,
    last: Last,
    high_surrogate: Option<u32>,
    piece: String,
    wrong: bool,
}

impl Lexer {
    const fn new() -> Self {
        let piece = String::new();
        Self { state: State::Outside, last: Last::Nothing, high_surrogate: None, piece, wrong: false }
    }

    fn push(&mut self, c: char, text: &mut Text) {
        match self.state {
            State::Outside => self.outside(c, text),
            State::Word => {
                if c.is_alphanumeric() || matches!(c, '+' | '-' | '.') {
                    self.put(c, text);
                } else {
                    self.end_word(text);
                    self.outside(c, text);
                }
            }
            State::String => match c {
                '"' => {
                    self.flush(text);
                    text.space();
                    self.state = State::Outside;
                }
                '\\' => self.state = State::Escape,
                c => self.put(c, text),
            },
            State::Escape => {
                self.state = State::String;
                match c {
                    'n' => self.put('\n', text),
                    't' | 'r' | 'b' | 'f' => self.put(' ', text),
                    'u' => self.state = State::Unicode(4, 0),
                    '"' | '\\' | '/' => self.put(c, text),
                    c => {
                        self.wrong = true;
                        self.put(c, text);
                    }
                }
            }
            State::Unicode(left, value) => {
                let Some(digit) = c.to_digit(16) else {
                    self.wrong = true;
                    self.state = State::String;
                    return;
                };
                let value = value << 4 | digit;
                if left > 1 {
                    self.state = State::Unicode(left - 1, value);
                    return;
                }
                self.state = State::String;
                let high = self.high_surrogate.take();
                if (0xd800..0xdc00).contains(&value) {
                    self.high_surrogate = Some(value);
                } else if let (Some(high), 0xdc00..0xe000) = (high, value) {
                    let joined = 0x10000 + ((high - 0xd800) << 10) + (value - 0xdc00);
                    self.put(char::from_u32(joined).unwrap_or('\u{fffd}'), text);
                } else {
                    self.put(char::from_u32(value).unwrap_or('\u{fffd}'), text);
                }
            }
        }
    }

    fn outside(&mut self, c: char, text: &mut Text) {
        let value_may_come = matches!(self.last, Last::Array | Last::Comma | Last::Colon);
        let next = match c {
            c if c.is_whitespace() || c == '\u{feff}' => return,
            '{' | '[' => {
                // After a whole value another may follow: one per line.
                self.wrong |= !(value_may_come || matches!(self.last, Last::Nothing | Last::Close));
                text.line();
                if c == '{' { Last::Object } else { Last::Array }
            }
            '}' | ']' => {
                self.wrong |= matches!(self.last, Last::Nothing | Last::Colon | Last::Comma);
                text.line();
                Last::Close
            }
            ',' => {
                self.wrong |= !matches!(self.last, Last::String | Last::Scalar | Last::Close);
                text.line();
                Last::Comma
            }
            ':' => {
                self.wrong |= self.last != Last::String;
                Last::Colon
            }
            '"' => {
                self.wrong |= !(value_may_come || self.last == Last::Object);
                self.state = State::String;
                Last::String
            }
            c => {
                self.wrong |= !value_may_come;
                self.state = State::Word;
                self.put(c, text);
                Last::Scalar
            }
        };
        self.last = next;
    }

    fn put(&mut self, c: char, text: &mut Text) {
        self.piece.push(c);
        if self.piece.len() >= 4096 {
            self.flush(text);
        }
    }

    fn end_word(&mut self, text: &mut Text) {
        self.state = State::Outside;
        match self.piece.as_str() {
            "true" | "false" | "null" => self.piece.clear(),
            word => {
                self.wrong |= word.parse::<f64>().is_err();
                self.flush(text);
                text.space();
            }
        }
    }

    fn flush(&mut self, text: &mut Text) {
        text.push(&self.piece);
        self.piece.clear();
    }
}

/// Whether the text can be the beginning of JSON: an object or an array, with nothing wrong in it.
pub(super) fn looks_like(prefix: &str) -> bool {
    let mut lexer = Lexer::new();
    // What is collected is not wanted.
    let mut text = Text::new(0);
    for c in prefix.chars() {
        lexer.push(c, &mut text);
        if lexer.wrong {
            return false;
        }
    }
    lexer.last != Last::Nothing
}

pub(super) fn extract<R: Read>(mut source: Utf8<R>, text: &mut Text) -> Result<(), Failure> {
    let mut lexer = Lexer::new();
    while let Some(run) = source.next()? {
        for c in run.chars() {
            lexer.push(c, text);
        }
        if text.is_full() {
            return Ok(());
        }
    }
    lexer.flush(text);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(data: &str) -> String {
        let mut text = Text::new(1 << 20);
        extract(Utf8::new(data.as_bytes(), None), &mut text).unwrap();
        text.into_string()
    }

    #[test]
    fn keys_and_values_in_order() {
        let json =
            r#"{"title":"A \"quoted\" \u00e9\ud83d\ude00 text","n":[1,-2.5e3,true,null],"o":{"k":"line\nbreak"}}"#;
        assert_eq!(
            words(json),
            "title A \"quoted\" é😀 text\nn\n1\n-2.5e3\n\no\nk line\nbreak".replace("\n\no", "\no")
        );
        assert_eq!(words("{\"a\":1}\n{\"b\":2}\n"), "a 1\nb 2");
    }

    #[test]
    fn recognised_only_when_valid() {
        for yes in ["{}", "[]", "[1,2", "{\"a\":{\"b\":[\"c", " [ {\"x\" : null } ]", "{\"a\":1}\n{\"a\":2}", "[["] {
            assert!(looks_like(yes), "{yes}");
        }
        for no in [
            "",
            "[link](http://x)",
            "[section]\nkey=1",
            "{{template}}",
            "{ a: 1 }",
            "[1] a note",
            "{\"a\" \"b\"}",
            "[a]",
        ] {
            assert!(!looks_like(no), "{no}");
        }
    }

    #[test]
    fn depth_costs_nothing() {
        let deep = "[".repeat(1_000_000) + "\"core\"" + &"]".repeat(1_000_000);
        assert_eq!(words(&deep), "core");
    }
}
