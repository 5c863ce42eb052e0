//! Byte pair encoding, trained fast. The algorithm knows nothing of Python, and py.rs nothing of the algorithm:
//! split.rs cuts text into words, count.rs counts the distinct ones on several threads, bpe.rs merges pairs.

pub mod bpe;
pub mod count;
mod py;
pub mod split;

use std::fmt;

/// Everything that can go wrong, as far as the user can do something about it.
#[derive(Debug)]
pub enum Error {
    Pattern(String), // or the engine gave up on a text
    TooManyWords,    // positions are 32 bits
    Worker,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Error::Pattern(why) => write!(f, "invalid split pattern: {why}"),
            Error::TooManyWords => write!(f, "more than 4 GiB of distinct words; does the pattern split at all?"),
            Error::Worker => write!(f, "a counting thread died"),
        }
    }
}

impl std::error::Error for Error {}
