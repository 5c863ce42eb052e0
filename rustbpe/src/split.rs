//! Text -> words. A hand-written scanner for the default pattern, any other pattern by a regex engine.
//!
//! Both work on a padded buffer: a text is followed by PAD bytes of 0xFF. No UTF-8 text holds that byte, so it is
//! the end mark, and reads of PAD bytes at once need no end check. The scanner's Unicode classes are taken from
//! the tables of the very engine that it replaces, when it is built.
use crate::Error;
use regex_syntax::hir::{Class, HirKind};
use std::ops::Range;

/// GPT-4's split pattern, with numbers cut into at most two digits: small vocabularies cannot afford three.
pub const DEFAULT_PATTERN: &str = concat!(
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}",
    r"| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
);

pub const PAD: usize = 32; // a window from one byte beyond a text stays inside
const WINDOW: usize = 16;
pub const END: u8 = 0xFF;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Other,
    Letter,
    Number,
    Space,
    Newline,
    End,
}

pub enum Splitter {
    Scanner(Scanner),
    Regex(fancy_regex::Regex),
}

impl Splitter {
    pub fn new(pattern: &str) -> Result<Self, Error> {
        if pattern == DEFAULT_PATTERN {
            return Ok(Self::Scanner(Scanner::new()?));
        }
        fancy_regex::Regex::new(pattern).map(Self::Regex).map_err(invalid)
    }
    /// Calls `word(start, end)` for every word of the text `bytes[span]`, in order. A pattern may find empty ones.
    pub fn split(&self, bytes: &[u8], span: Range<usize>, mut word: impl FnMut(usize, usize)) -> Result<(), Error> {
        match self {
            Self::Scanner(scanner) => {
                let mut at = span.start;
                while at < span.end {
                    let next = scanner.word_end(bytes, at);
                    word(at, next);
                    at = next;
                }
            }
            Self::Regex(regex) => {
                let start = span.start;
                let text = std::str::from_utf8(&bytes[span]).map_err(invalid)?;
                for found in regex.find_iter(text) {
                    let found = found.map_err(invalid)?;
                    word(start + found.start(), start + found.end());
                }
            }
        }
        Ok(())
    }
}

/// A pattern that does not compile, or on whose work with a text the engine gave up.
fn invalid(why: impl std::fmt::Display) -> Error {
    Error(format!("invalid split pattern: {why}"))
}

/// DEFAULT_PATTERN by hand. At each place exactly one of its branches can win, and the kinds of one or two
/// characters say which.
pub struct Scanner {
    kinds: Vec<Kind>, // of every code point
}

impl Scanner {
    pub fn new() -> Result<Self, Error> {
        let mut kinds = vec![Kind::Other; 1 + char::MAX as usize];
        let classes = [r"\p{L}", r"\p{N}", r"\s", r"[\r\n]"];
        for (class, kind) in classes.into_iter().zip([Kind::Letter, Kind::Number, Kind::Space, Kind::Newline]) {
            let hir = regex_syntax::parse(class).map_err(invalid)?;
            let HirKind::Class(Class::Unicode(ranges)) = hir.kind() else { unreachable!("{class} is a class") };
            for range in ranges.iter() {
                kinds[range.start() as usize..=range.end() as usize].fill(kind);
            }
        }
        Ok(Self { kinds })
    }
    /// Kind and length in bytes of the character at `at`.
    fn kind(&self, bytes: &[u8], at: usize) -> (Kind, usize) {
        match bytes[at] {
            first @ ..0x80 => (self.kinds[usize::from(first)], 1),
            _ => self.wide_kind(bytes, at),
        }
    }
    #[inline(never)]
    fn wide_kind(&self, bytes: &[u8], at: usize) -> (Kind, usize) {
        let low = |i: usize| usize::from(bytes[at + i] & 0x3F);
        let (code, length) = match bytes[at] {
            END => return (Kind::End, 0),
            b if b < 0xE0 => (usize::from(b & 0x1F) << 6 | low(1), 2),
            b if b < 0xF0 => (usize::from(b & 0x0F) << 12 | low(1) << 6 | low(2), 3),
            b => (usize::from(b & 0x07) << 18 | low(1) << 12 | low(2) << 6 | low(3), 4),
        };
        (self.kinds[code], length)
    }
    /// End of the word that starts at `at`, which must be inside a text.
    pub fn word_end(&self, bytes: &[u8], at: usize) -> usize {
        // Nearly every word is ASCII letters after a letter or a space, and shorter than a window.
        let letters = letters_after(bytes, at + 1);
        let first = bytes[at];
        let leads = first.is_ascii_alphabetic() || (first == b' ' && letters > 0);
        if leads && letters < WINDOW && bytes[at + 1 + letters] < 0x80 {
            return at + 1 + letters;
        }
        self.any_word_end(bytes, at)
    }
    #[inline(never)]
    fn any_word_end(&self, bytes: &[u8], at: usize) -> usize {
        let (kind, length) = self.kind(bytes, at);
        let next = at + length;
        match kind {
            Kind::Letter => self.run_end(bytes, next, Kind::Letter),
            Kind::Number => next + self.if_kind(bytes, next, Kind::Number),
            Kind::Newline => self.space_end(bytes, at),
            _ if bytes[at] == b'\'' && contraction(bytes, next) > 0 => next + contraction(bytes, next),
            _ => {
                let follower = self.kind(bytes, next).0;
                if follower == Kind::Letter {
                    self.run_end(bytes, next + letters_after(bytes, next), Kind::Letter)
                } else if kind == Kind::Other || (bytes[at] == b' ' && follower == Kind::Other) {
                    self.run_end(bytes, self.run_end(bytes, next, Kind::Other), Kind::Newline)
                } else {
                    self.space_end(bytes, at)
                }
            }
        }
    }
    /// Length of the character at `at` if it is of that kind, else 0.
    fn if_kind(&self, bytes: &[u8], at: usize, kind: Kind) -> usize {
        let found = self.kind(bytes, at);
        if found.0 == kind { found.1 } else { 0 }
    }
    /// Where characters of that kind end.
    fn run_end(&self, bytes: &[u8], mut at: usize, kind: Kind) -> usize {
        while let length @ 1.. = self.if_kind(bytes, at, kind) {
            at += length;
        }
        at
    }
    /// The three branches for white space: up to the last line break; else all but the last, if a word follows
    /// that will take it; else all.
    fn space_end(&self, bytes: &[u8], start: usize) -> usize {
        let (mut at, mut last, mut line) = (start, start, None);
        loop {
            let (kind, length) = self.kind(bytes, at);
            match kind {
                Kind::Newline => line = Some(at + length),
                Kind::Space => {}
                Kind::End => return line.unwrap_or(at),
                _ => return line.unwrap_or(if last > start { last } else { at }),
            }
            last = at;
            at += length;
        }
    }
}

/// How many ASCII letters stand at `at`; counts only up to WINDOW. All bytes at once: below 0x80, adding moves a
/// byte's high bit to say whether it is at least some letter, and no byte carries into the next.
fn letters_after(bytes: &[u8], at: usize) -> usize {
    const EACH: u128 = u128::from_le_bytes([1; WINDOW]);
    let Some(Ok(window)) = bytes.get(at..at + WINDOW).map(<[u8; WINDOW]>::try_from) else { return 0 };
    let window = u128::from_le_bytes(window);
    let lower = (window | (EACH * 0x20)) & (EACH * 0x7F);
    let from_a = lower + EACH * (0x80 - b'a' as u128);
    let beyond_z = lower + EACH * (0x7F - b'z' as u128);
    let others = (!from_a | beyond_z | window) & (EACH * 0x80);
    others.trailing_zeros() as usize / 8
}

/// Length of what `'(?i:[sdmt]|ll|ve|re)` matches after its apostrophe. The long s folds to s.
fn contraction(bytes: &[u8], at: usize) -> usize {
    match (bytes[at] | 0x20, bytes[at + 1] | 0x20) {
        (b's' | b'd' | b'm' | b't', _) => 1,
        (b'l', b'l') | (b'v' | b'r', b'e') => 2,
        _ if bytes[at..].starts_with("ſ".as_bytes()) => 2,
        _ => 0,
    }
}
