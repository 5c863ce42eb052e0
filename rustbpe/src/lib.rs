//! Byte pair encoding, trained fast. The algorithm knows nothing of Python, and py.rs nothing of the algorithm:
//! split.rs cuts text into words, count.rs counts the distinct ones on several threads, bpe.rs merges pairs.

pub mod bpe;
pub mod count;
mod py;
pub mod split;

/// What went wrong, in words for the user: with the pattern, with a text under it, or a thread that died.
#[derive(Debug)]
pub struct Error(pub String);
