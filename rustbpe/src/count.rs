//! Texts -> how often each distinct word occurs.

use crate::split::{Splitter, END, PAD};
use crate::Error;
use std::collections::HashMap;

/// Several texts in one padded buffer (see split.rs).
#[derive(Default)]
pub struct Batch {
    bytes: Vec<u8>,
    spans: Vec<(usize, usize)>,
}

impl Batch {
    pub fn push(&mut self, text: &str) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(text.as_bytes());
        self.spans.push((start, self.bytes.len()));
        self.bytes.extend_from_slice(&[END; PAD]);
    }

    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    pub fn clear(&mut self) {
        self.bytes.clear();
        self.spans.clear();
    }
}

#[derive(Default)]
pub struct Counter {
    words: HashMap<Box<[u8]>, u64>,
}

impl Counter {
    pub fn add(&mut self, batch: &Batch, splitter: &Splitter) -> Result<(), Error> {
        for &(start, end) in &batch.spans {
            splitter.split(&batch.bytes, start, end, |from, to| {
                let word = &batch.bytes[from..to];
                match self.words.get_mut(word) {
                    Some(count) => *count += 1,
                    None => {
                        self.words.insert(word.into(), 1);
                    }
                }
            })?;
        }
        Ok(())
    }

    pub fn words(&self) -> Vec<(&[u8], u64)> {
        self.words.iter().map(|(word, count)| (&**word, *count)).collect()
    }
}
