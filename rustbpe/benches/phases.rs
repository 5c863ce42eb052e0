//! `cargo bench --bench phases -- FILE [threads]`: seconds of counting and of merging, without Python.

use rustbpe::{bpe, count, split, Error};
use std::time::Instant;

fn main() -> Result<(), Error> {
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let path = arguments.next().expect("name a text file");
    let threads = arguments.next().map_or(2, |n| n.parse().expect("threads"));
    let text = std::fs::read_to_string(path).expect("a text file");
    let splitter = split::Splitter::new(split::DEFAULT_PATTERN)?;
    let start = Instant::now();
    let words = count::count(&splitter, threads, |send| {
        let mut batch = count::Batch::default();
        for line in text.split_inclusive('\0') {
            batch.push(line);
            if batch.is_full() {
                send(std::mem::take(&mut batch))?;
            }
        }
        send(batch)
    })?;
    let counted = start.elapsed();
    let merges = bpe::merges(words, 32768 - 9 - 256)?.count();
    let merged = start.elapsed() - counted;
    println!("{:.3} s counting, {:.3} s for {} merges", counted.as_secs_f64(), merged.as_secs_f64(), merges);
    Ok(())
}
