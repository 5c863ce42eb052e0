//! The scanner against the regex engine, the trainer against one that recounts everything after every merge.

use rustbpe::count::{self, Batch, Words};
use rustbpe::split::{Splitter, DEFAULT_PATTERN, END, PAD};
use rustbpe::{bpe, Error};
use std::collections::HashMap;

/// xorshift: the same texts in every run, and no crate for it.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % limit
    }

    /// Mostly characters at which the pattern's branches meet, some from anywhere, some runs of one character.
    fn text(&mut self, length: usize) -> String {
        const ASCII: &str = "aZsSdDmMtTlLvVeErR'''  \t\n\r\u{b}\u{1c}09.,_-[@`{\0";
        const OTHER: &str = "\u{85}\u{a0}\u{2028}\u{3000}٣½ⅧéſßǅK\u{301}日本ﬁ🙂\u{10ffff}\u{200d}";
        let corners: Vec<char> = ASCII.chars().chain(OTHER.chars()).collect();
        let mut text = String::new();
        while text.len() < length {
            let c = match self.below(8) {
                0 => char::from_u32(self.below(0x11_0000) as u32).unwrap_or('x'),
                1 => char::from(self.below(128) as u8),
                _ => corners[self.below(corners.len())],
            };
            let repeats = if self.below(6) == 0 { 1 + self.below(40) } else { 1 };
            text.extend(std::iter::repeat_n(c, repeats));
        }
        text
    }
}

fn split(splitter: &Splitter, text: &str) -> Vec<String> {
    // What follows the end mark must not matter: another text, in a batch.
    let bytes = [b"before", text.as_bytes(), &[END; PAD], b"'s after"].concat();
    let mut words = Vec::new();
    let word = |from: usize, to: usize| words.push(std::str::from_utf8(&bytes[from..to]).unwrap().into());
    splitter.split(&bytes, 6..6 + text.len(), word).unwrap();
    words
}

/// The same pattern, with a group around it so that it goes to the engine.
fn engine() -> Splitter {
    Splitter::new(&format!("(?:{DEFAULT_PATTERN})")).unwrap()
}

#[test]
fn scanner_splits_random_unicode_as_the_regex_engine_does() {
    let (scanner, engine, mut random) = (Splitter::new(DEFAULT_PATTERN).unwrap(), engine(), Random(1));
    assert!(matches!(engine, Splitter::Regex(_)));
    for round in 0..4000 {
        let length = random.below(300);
        let text = random.text(length);
        assert_eq!(split(&scanner, &text), split(&engine, &text), "round {round}: {text:?}");
    }
}

#[test]
fn every_code_point_has_the_class_that_the_engine_gives_it() {
    let (scanner, engine) = (Splitter::new(DEFAULT_PATTERN).unwrap(), engine());
    for c in (0..=0x10FFFF).filter_map(char::from_u32).collect::<Vec<_>>().chunks(64) {
        let around = |&c: &char| ['a', c, 'a', ' ', c, '.', '\'', c, '\n', c, c, c, '7', c];
        let text: String = c.iter().flat_map(around).collect();
        assert_eq!(split(&scanner, &text), split(&engine, &text), "{:?}", c[0]);
    }
}

#[test]
fn a_pattern_that_does_not_compile_is_an_error() {
    assert!(matches!(Splitter::new("(unclosed"), Err(Error(why)) if why.starts_with("invalid split pattern")));
}

fn train(texts: &[String], wanted: usize, threads: usize) -> Vec<(u32, u32)> {
    let splitter = Splitter::new(DEFAULT_PATTERN).unwrap();
    let words = count::count(&splitter, threads, |send| -> Result<(), Error> {
        for text in texts {
            let mut batch = Batch::default();
            batch.push(text);
            send(batch)?;
        }
        Ok(())
    });
    bpe::merges(words.unwrap(), wanted).unwrap().collect()
}

fn naive(texts: &[String], wanted: usize) -> Vec<(u32, u32)> {
    let splitter = Splitter::new(DEFAULT_PATTERN).unwrap();
    let words = texts.iter().flat_map(|text| split(&splitter, text));
    let mut words: Vec<Vec<u32>> = words.map(|word| word.bytes().map(u32::from).collect()).collect();
    let mut merges = Vec::new();
    while merges.len() < wanted {
        let mut counts: HashMap<(u32, u32), u64> = HashMap::new();
        for pair in words.iter().flat_map(|word| word.windows(2)) {
            *counts.entry((pair[0], pair[1])).or_default() += 1;
        }
        let Some((&best, _)) = counts.iter().max_by_key(|&(&pair, &count)| (count, std::cmp::Reverse(pair))) else {
            break;
        };
        for word in &mut words {
            let (mut merged, mut rest) = (Vec::new(), &word[..]);
            while let Some(&first) = rest.first() {
                let found = rest.len() > 1 && (first, rest[1]) == best;
                merged.push(if found { 256 + merges.len() as u32 } else { first });
                rest = &rest[1 + usize::from(found)..];
            }
            *word = merged;
        }
        merges.push(best);
    }
    merges
}

#[test]
fn merges_are_those_of_a_trainer_that_recounts_everything() {
    let mut random = Random(3);
    for round in 0..150 {
        let letters: Vec<char> = " abcdeé".chars().take(2 + random.below(6)).collect();
        let count = 1 + random.below(30);
        let mut text = || (0..random.below(120)).map(|_| letters[random.below(letters.len())]).collect();
        let texts: Vec<String> = (0..count).map(|_| text()).collect();
        let wanted = random.below(120);
        let expected = naive(&texts, wanted);
        for threads in [1, 3] {
            assert_eq!(train(&texts, wanted, threads), expected, "round {round}: {texts:?}");
        }
    }
}

#[test]
fn long_runs_of_one_letter_merge_from_the_left() {
    for length in 1..70 {
        let texts = vec!["a".repeat(length), "b".repeat(length / 2) + &"a".repeat(length)];
        assert_eq!(train(&texts, 100, 1), naive(&texts, 100), "{length}");
    }
}

#[test]
fn an_engine_that_gives_up_is_an_error_and_no_deadlock() {
    let splitter = Splitter::new(r"(?:(?=a)a|a)*b").unwrap();
    let text = "a".repeat(60);
    let counted = count::count(&splitter, 2, |send| -> Result<(), Error> {
        for _ in 0..200 {
            let mut batch = Batch::default();
            batch.push(&text);
            send(batch)?;
        }
        Ok(())
    });
    assert!(matches!(counted, Err(Error(why)) if why.starts_with("invalid split pattern")));
}

#[test]
fn the_feed_error_comes_back_and_the_threads_end() {
    let splitter = Splitter::new(DEFAULT_PATTERN).unwrap();
    let counted = count::count(&splitter, 4, |_| Err(Error("mine".into())));
    assert!(matches!(counted, Err(Error(why)) if why == "mine"));
}

#[test]
fn a_large_table_goes_into_a_small_one_with_every_count() {
    let (splitter, mut total) = (Splitter::new(DEFAULT_PATTERN).unwrap(), Words::default());
    for copies in 1..=2 {
        let (mut words, mut batch) = (Words::default(), Batch::default());
        let word = |i: u32| [char::from(b'a' + (i % 26) as u8), char::from_u32(0x20000 + i / 26).unwrap(), ' '];
        let text: String = (0..300_000).flat_map(word).collect();
        batch.push(&text);
        (0..copies).for_each(|_| words.count(&batch, &splitter).unwrap());
        total.absorb(words); // by hash order, this would take minutes
    }
    let (mut distinct, mut sum) = (0, 0);
    total.each(|_, count| (distinct, sum) = (distinct + 1, sum + count));
    assert_eq!(sum, 3 * distinct);
    assert_eq!(distinct, 300_001); // and the last space
}
