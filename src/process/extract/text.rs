//! The text being collected: whitespace collapsed, control characters gone, never longer than its limit.

/// White space owed before the next visible character.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Gap {
    None,
    Space,
    Line,
    Paragraph,
}

#[derive(Debug)]
pub(super) struct Text {
    out: String,
    limit: usize,
    gap: Gap,
    after_return: bool,
    full: bool,
}

impl Text {
    pub(super) fn new(limit: usize) -> Self {
        Self { out: String::new(), limit, gap: Gap::None, after_return: false, full: false }
    }

    /// Whether something visible had to be left out. Whoever pushes may stop then.
    pub(super) const fn is_full(&self) -> bool {
        self.full
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.out.is_empty()
    }

    pub(super) const fn limit(&self) -> usize {
        self.limit
    }

    pub(super) fn into_string(self) -> String {
        self.out
    }

    pub(super) fn space(&mut self) {
        self.gap = self.gap.max(Gap::Space);
    }

    pub(super) fn line(&mut self) {
        self.gap = self.gap.max(Gap::Line);
    }

    pub(super) fn paragraph(&mut self) {
        self.gap = Gap::Paragraph;
    }

    /// Text in which line ends mean something: one stays one, more become an empty line.
    pub(super) fn push(&mut self, text: &str) {
        self.push_with(text, true);
    }

    /// Text in which a line end is a space, as in markup.
    pub(super) fn push_flow(&mut self, text: &str) {
        self.push_with(text, false);
    }

    fn push_with(&mut self, text: &str, lines: bool) {
        let mut rest = text;
        while !rest.is_empty() && !self.full {
            let plain = rest.bytes().position(|byte| !(0x21..0x7f).contains(&byte)).unwrap_or(rest.len());
            if plain > 0 {
                let (run, tail) = rest.split_at(plain);
                self.append(run);
                self.after_return = false;
                rest = tail;
                continue;
            }
            let Some(c) = rest.chars().next() else { return };
            let (one, tail) = rest.split_at(c.len_utf8());
            rest = tail;
            match c {
                '\n' if self.after_return => {}
                '\n' | '\r' | '\u{85}' | '\u{2028}' | '\u{2029}' if lines => {
                    self.gap = if self.gap >= Gap::Line { Gap::Paragraph } else { Gap::Line };
                }
                '\x0c' if lines => self.paragraph(),
                c if c.is_whitespace() => self.space(),
                // Soft hyphens and zero-width marks only keep words from being found.
                '\u{ad}' | '\u{200b}' | '\u{feff}' | '\u{2060}' => {}
                c if c.is_control() => {}
                _ => self.append(one),
            }
            self.after_return = lines && c == '\r';
        }
    }

    fn append(&mut self, run: &str) {
        let gap = match self.gap {
            _ if self.out.is_empty() => "",
            Gap::None => "",
            Gap::Space => " ",
            Gap::Line => "\n",
            Gap::Paragraph => "\n\n",
        };
        let room = self.limit.saturating_sub(self.out.len() + gap.len());
        if room == 0 {
            self.full = true;
            return;
        }
        let cut = run.floor_char_boundary(room);
        if cut > 0 {
            self.out.push_str(gap);
            self.out.push_str(run.get(..cut).unwrap_or_default());
            self.gap = Gap::None;
        }
        self.full = cut < run.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pushed(text: &str, limit: usize) -> (String, bool) {
        let mut sink = Text::new(limit);
        sink.push(text);
        let full = sink.is_full();
        (sink.into_string(), full)
    }

    #[test]
    fn whitespace_collapses_and_controls_go() {
        let (text, full) = pushed("\u{feff}  a\t\tb \r\n c\n\n\n\nd\u{0}\u{1b}e\u{a0}f\u{ad}g\r\rh  \n", 100);
        assert_eq!((text.as_str(), full), ("a b\nc\n\nde fg\n\nh", false));
    }

    #[test]
    fn the_limit_cuts_between_characters() {
        assert_eq!(pushed("ééé", 5), (String::from("éé"), true));
        assert_eq!(pushed("ééé", 6), (String::from("ééé"), false));
        assert_eq!(pushed("abc   \n", 3), (String::from("abc"), false));
        assert_eq!(pushed("abc d", 4), (String::from("abc"), true));
        assert_eq!(pushed("abc", 0), (String::new(), true));
    }

    proptest::proptest! {
        #[test]
        fn never_longer_than_the_limit(text in ".{0,200}", limit in 0usize..100) {
            let (out, full) = pushed(&text, limit);
            proptest::prop_assert!(out.len() <= limit);
            proptest::prop_assert_eq!(pushed(&out, limit), (out.clone(), false));
            proptest::prop_assert!(full || pushed(&text, usize::MAX).0 == out);
        }
    }
}
