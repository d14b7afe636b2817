//! HTML: the title and the visible text.
//!
//! Only the tokenizer of html5ever is used: text needs no tree, and building one takes quadratic time on nesting that
//! no honest page has.

use std::cell::{Cell, RefCell};
use std::io::Read;

use html5ever::TokenizerResult;
use html5ever::tendril::StrTendril;
use html5ever::tokenizer::states::RawKind;
use html5ever::tokenizer::{BufferQueue, Tag, TagKind, Token, TokenSink, TokenSinkResult, Tokenizer, TokenizerOpts};

use super::charset::Utf8;
use super::protocol::Failure;
use super::text::Text;

/// A tag, comment or script of more bytes is refused, because the tokenizer holds it whole.
const TOKEN_BYTES: usize = 32 << 20;

const TITLE_BYTES: usize = 1024;

struct Sink<'a> {
    text: RefCell<&'a mut Text>,
    title: RefCell<Text>,
    state: Cell<State>,
    /// Elements open whose content nobody sees.
    hidden: Cell<u32>,
    token_bytes: Cell<usize>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Visible,
    Title,
    /// Inside an element of raw text that is not shown.
    Raw,
}

impl TokenSink for Sink<'_> {
    type Handle = ();

    fn process_token(&self, token: Token, _line: u64) -> TokenSinkResult<()> {
        self.token_bytes.set(0);
        match token {
            Token::CharacterTokens(run) => {
                match self.state.get() {
                    State::Title => self.title.borrow_mut().push_flow(&run),
                    State::Visible if self.hidden.get() == 0 => self.text.borrow_mut().push_flow(&run),
                    State::Visible | State::Raw => {}
                }
                TokenSinkResult::Continue
            }
            Token::TagToken(tag) => self.tag(&tag),
            Token::DoctypeToken(_)
            | Token::CommentToken(_)
            | Token::NullCharacterToken
            | Token::EOFToken
            | Token::ParseError(_) => TokenSinkResult::Continue,
        }
    }
}

impl Sink<'_> {
    fn tag(&self, tag: &Tag) -> TokenSinkResult<()> {
        let name: &str = &tag.name;
        let opens = tag.kind == TagKind::StartTag;
        match name {
            "title" if opens => {
                // Drawings have titles too; the page's is the first.
                let first = self.title.borrow().is_empty() && self.hidden.get() == 0;
                self.state.set(if first { State::Title } else { State::Raw });
                return TokenSinkResult::RawData(RawKind::Rcdata);
            }
            "script" if opens && !tag.self_closing => {
                self.state.set(State::Raw);
                return TokenSinkResult::RawData(RawKind::ScriptData);
            }
            "style" | "noscript" | "iframe" | "noembed" | "noframes" | "xmp" if opens && !tag.self_closing => {
                self.state.set(if name == "xmp" { State::Visible } else { State::Raw });
                return TokenSinkResult::RawData(RawKind::Rawtext);
            }
            "textarea" if opens => return TokenSinkResult::RawData(RawKind::Rcdata),
            "title" | "script" | "style" | "noscript" | "iframe" | "noembed" | "noframes" => {
                self.state.set(State::Visible);
            }
            "template" | "datalist" if opens => self.hidden.set(self.hidden.get().saturating_add(1)),
            "template" | "datalist" => self.hidden.set(self.hidden.get().saturating_sub(1)),
            "br" => self.text.borrow_mut().line(),
            "td" | "th" | "option" | "button" | "img" | "input" | "select" | "label" => self.text.borrow_mut().space(),
            "p" | "h1" | "h2" | "h3" | "h4" | "h5" | "h6" | "blockquote" | "pre" | "table" | "ul" | "ol" | "dl"
            | "hr" | "section" | "article" => self.text.borrow_mut().paragraph(),
            "html" | "head" | "body" | "div" | "li" | "tr" | "dt" | "dd" | "header" | "footer" | "main" | "nav"
            | "aside" | "form" | "fieldset" | "legend" | "figure" | "figcaption" | "address" | "caption" | "thead"
            | "tbody" | "tfoot" | "details" | "summary" | "dialog" | "center" | "optgroup" | "menu" | "video"
            | "audio" => {
                self.text.borrow_mut().line();
            }
            _ => {}
        }
        TokenSinkResult::Continue
    }
}

/// Whether the text begins as a page does.
pub(super) fn looks_like(prefix: &str, extension: &str) -> bool {
    let start = prefix.trim_start_matches(|c: char| c.is_whitespace() || c == '\u{feff}');
    if !start.starts_with('<') {
        return matches!(extension, "html" | "htm" | "xhtml") && start.contains("</");
    }
    let head = start.get(..start.floor_char_boundary(4096)).unwrap_or_default().to_ascii_lowercase();
    let named = matches!(extension, "html" | "htm" | "xhtml") && !head.starts_with("<?xml");
    named
        || head.starts_with("<!doctype html")
        || ["<html", "<head", "<body"].iter().any(|tag| head.contains(tag))
        || (!head.starts_with("<?xml")
            && ["<p>", "<p ", "<div", "<br", "<h1", "<table", "<span", "<ul", "<meta ", "<title"]
                .iter()
                .any(|tag| head.starts_with(tag)))
}

/// Returns the title.
pub(super) fn extract<R: Read>(mut source: Utf8<R>, text: &mut Text) -> Result<Option<String>, Failure> {
    let sink = Sink {
        text: RefCell::new(text),
        title: RefCell::new(Text::new(TITLE_BYTES)),
        state: Cell::new(State::Visible),
        hidden: Cell::new(0),
        token_bytes: Cell::new(0),
    };
    let tokenizer = Tokenizer::new(sink, TokenizerOpts::default());
    let queue = BufferQueue::default();
    while let Some(run) = source.next()? {
        let pending = tokenizer.sink.token_bytes.get() + run.len();
        tokenizer.sink.token_bytes.set(pending);
        if pending > TOKEN_BYTES {
            let limit = u64::try_from(TOKEN_BYTES).unwrap_or(u64::MAX);
            return Err(Failure::TooLarge { what: String::from("size of one tag or comment in bytes"), limit });
        }
        queue.push_back(StrTendril::from_slice(run));
        while let TokenizerResult::Script(()) | TokenizerResult::EncodingIndicator(_) = tokenizer.feed(&queue) {}
        if tokenizer.sink.text.borrow().is_full() {
            break;
        }
    }
    if !tokenizer.sink.text.borrow().is_full() {
        tokenizer.end();
    }
    let title = tokenizer.sink.title.into_inner().into_string();
    Ok((!title.is_empty()).then_some(title))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(html: &str) -> (Option<String>, String) {
        let mut text = Text::new(1 << 20);
        let title = extract(Utf8::new(html.as_bytes(), Some(encoding_rs::UTF_8)), &mut text).unwrap();
        (title, text.into_string())
    }

    #[test]
    fn title_and_visible_text() {
        let (title, text) = page(
            "<!DOCTYPE html><html><head><title>A &amp; B\n page</title><style>p{color:red}</style>\
             <script>if (a < b) { document.write('<p>no</p>') }</script></head><body><h1>Head</h1>\n\
             <p>One <b>bo</b>ld&nbsp;w&ouml;rd &#x41;</p><!-- no --><ul><li>x<li>y</ul>\
             <table><tr><td>1</td><td>2</td></tr></table><noscript><p>no</p></noscript>\
             <template><p>no</p></template><svg><title>no</title></svg>end</body></html>",
        );
        assert_eq!(title.as_deref(), Some("A & B page"));
        assert_eq!(text, "Head\n\nOne bold wörd A\n\nx\ny\n\n1 2\n\nend");
        assert!(!text.contains("no"));
    }

    #[test]
    fn depth_and_broken_markup_are_harmless() {
        let deep = "<div>".repeat(1_000_000) + "core" + &"</div>".repeat(1_000_000);
        assert_eq!(page(&deep).1, "core");
        let deep = "<b><i>".repeat(500_000) + "core";
        assert_eq!(page(&deep).1, "core");
        assert_eq!(page("<p>a<p <b>c</i></ <<>>&&lt;&#xffffffff;").0, None);
        assert_eq!(page("<script>never closed <p>text").1, "");
    }
}
