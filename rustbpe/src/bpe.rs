//! Distinct words with counts -> merges.
//!
//! All words lie end to end in one flat array with a slot per byte. A token writes its id into the slots of its
//! first and its last byte, so from any token both neighbours are one read away, and there are no links to keep
//! and nothing to move. A pair keeps the places where it arose: all of them arise in one merge, that of the newer
//! of its two tokens, and from then on they only vanish. So counts only fall, a stale place shows by its ids, and
//! a pair that begins below what the last merge will need is not stored at all (`floor`).
use crate::count::{prefetch, Words};
use crate::Error;
use rustc_hash::FxHashMap;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
type Id = u32;
type Key = u64; // a pair of ids, ordered as the pair is

fn key(left: Id, right: Id) -> Key {
    Key::from(left) << 32 | Key::from(right)
}

const EDGE: Id = Id::MAX; // between words
const INSIDE: Id = Id::MAX - 1; // where a token used to start
const PREFETCH: usize = 12; // how many of a pair's slots are loaded before they are needed

/// How often a pair occurs, and the slots where its left token starts, ascending; some may be stale.
#[derive(Clone, Default)]
struct Pair {
    count: u64,
    slots: Vec<u32>,
}

/// The pairs that arise on one side of the one that is being merged, by the neighbouring token.
struct Side {
    pairs: Vec<Pair>,
    touched: Vec<Id>,
}

impl Side {
    fn new(neighbours: usize) -> Self {
        Self { pairs: vec![Pair::default(); neighbours], touched: Vec::new() }
    }
    fn record(&mut self, neighbour: Id, slot: u32, count: u64) {
        let pair = &mut self.pairs[neighbour as usize];
        if pair.slots.is_empty() {
            self.touched.push(neighbour);
        }
        pair.count += count;
        pair.slots.push(slot);
    }
}

struct Merger {
    symbols: Vec<Id>,
    runs: Vec<(u32, u64)>, // words lie sorted by count: (slot where a run of equal counts ends, count)
    lengths: Vec<u32>,     // of each token, in bytes
    pairs: FxHashMap<Key, Pair>,
    heap: BinaryHeap<(u64, Reverse<Key>)>, // largest count first, ties to the smaller pair
    floor: u64, // no pair that occurs less often will ever be merged, see `new`
}

/// How often the word at a slot occurs. Drops the runs that end before it: the slots that follow are higher.
fn count_at(runs: &mut &[(u32, u64)], slot: u32) -> u64 {
    if runs[0].0 <= slot {
        *runs = &runs[runs.partition_point(|&(end, _)| end <= slot)..];
    }
    runs[0].1
}

/// The merges that training makes, in order: at most `wanted`, fewer when every word has become one token.
pub fn merges(words: Words, wanted: usize) -> Result<impl Iterator<Item = (Id, Id)>, Error> {
    let mut merger = Merger::new(words, wanted)?;
    let ids = 256 + wanted.min(merger.symbols.len()); // each merge empties a slot at least
    let (mut left, mut right) = (Side::new(ids), Side::new(ids));
    let next = move || merger.best().map(|pair| merger.merge(pair, &mut left, &mut right));
    Ok(std::iter::from_fn(next).take(wanted))
}

/// The bytes of every token: the 256 single bytes, then one per merge.
pub fn vocabulary(merges: &[(Id, Id)]) -> Vec<Vec<u8>> {
    let mut tokens: Vec<Vec<u8>> = (0..=255).map(|byte| vec![byte]).collect();
    for &(a, b) in merges {
        tokens.push([&tokens[a as usize][..], &tokens[b as usize][..]].concat());
    }
    tokens
}

impl Merger {
    /// The floor is the count of the word at rank `wanted`, or of the last one. Proof: as long as fewer merges
    /// than that are done, one of the first `wanted` words is not a token yet, as each needs a token of its own.
    /// So it still has a pair, which occurs at least as often as the word, as the most frequent pair then does.
    fn new(words: Words, wanted: usize) -> Result<Self, Error> {
        // How many slots the words of each count fill. A low count has very many words, a high one often one.
        let mut fills: FxHashMap<u64, (usize, usize)> = FxHashMap::default(); // count -> (slots, words)
        words.each(|word, count| {
            if word.len() > 1 {
                let fill = fills.entry(count).or_default();
                fill.0 += word.len() + 1;
                fill.1 += 1;
            }
        });
        let mut fills: Vec<_> = fills.into_iter().collect();
        fills.sort_unstable_by_key(|&(count, _)| Reverse(count));
        let (mut runs, mut next, mut size, mut rank, mut floor) = (Vec::new(), FxHashMap::default(), 1, 0, 1);
        for &(count, (slots, words)) in &fills {
            next.insert(count, size);
            size += slots;
            runs.push((size as u32, count));
            if rank < wanted {
                floor = count;
                rank += words;
            }
        }
        if size > INSIDE as usize - 512 {
            let why = "more than 4 GiB of distinct words; does the pattern split at all?";
            return Err(Error(why.into())); // there must be as many new ids as slots
        }
        let mut symbols = vec![EDGE; size];
        words.each(|word, count| {
            if let (true, Some(at)) = (word.len() > 1, next.get_mut(&count)) {
                for (symbol, &byte) in symbols[*at..].iter_mut().zip(word) {
                    *symbol = Id::from(byte);
                }
                *at += word.len() + 1;
            }
        });
        drop(words); // before the pairs take their place
        let mut merger =
            Self { symbols, runs, lengths: vec![1; 256], pairs: FxHashMap::default(), heap: BinaryHeap::new(), floor };
        let (mut bytes, mut runs) = (Side::new(1 << 16), &merger.runs[..]);
        for (slot, pair) in merger.symbols.windows(2).enumerate() {
            if pair[0] < 256 && pair[1] < 256 {
                bytes.record(pair[0] << 8 | pair[1], slot as u32, count_at(&mut runs, slot as u32));
            }
        }
        merger.create(&bytes, |pair| key(pair >> 8, pair & 0xFF));
        Ok(merger)
    }
    /// The most frequent pair; None when every word is one token.
    fn best(&mut self) -> Option<Key> {
        while let Some((count, Reverse(pair))) = self.heap.pop() {
            match self.pairs.get(&pair) {
                Some(found) if found.count == count => return Some(pair),
                Some(found) => self.heap.push((found.count, Reverse(pair))),
                None => {}
            }
        }
        None
    }
    fn merge(&mut self, pair: Key, left: &mut Side, right: &mut Side) -> (Id, Id) {
        let slots = self.pairs.remove(&pair).unwrap_or_default().slots;
        let (a, b) = ((pair >> 32) as Id, pair as Id);
        let new = self.lengths.len() as Id;
        let (a_length, b_length) = (self.lengths[a as usize], self.lengths[b as usize]);
        self.lengths.push(a_length + b_length);
        let mut runs = &self.runs[..];
        for (i, &slot) in slots.iter().enumerate() {
            if let Some(&later) = slots.get(i + PREFETCH) {
                prefetch(&self.symbols, later as usize);
            }
            let middle = slot + a_length;
            let end = middle + b_length;
            if self.symbols[slot as usize] != a || self.symbols[middle as usize] != b {
                continue;
            }
            let weight = count_at(&mut runs, slot);
            let (before, after) = (self.symbols[slot as usize - 1], self.symbols[end as usize]);
            self.symbols[slot as usize] = new;
            self.symbols[middle as usize] = INSIDE;
            self.symbols[end as usize - 1] = new;
            if before != EDGE {
                left.record(before, slot - self.lengths[before as usize], weight);
            }
            if after != EDGE {
                right.record(after, slot, weight);
            }
        }
        // First what arises, then what vanishes: in a run like aaaa, (aa, a) does both.
        self.create(left, |id| key(id, new));
        self.create(right, |id| key(new, id));
        self.reduce(left, |id| key(id, a));
        self.reduce(right, |id| key(b, id));
        (a, b)
    }
    /// Keeps what arose, unless it is too rare to be merged.
    fn create(&mut self, side: &Side, pair: impl Fn(Id) -> Key) {
        for &id in &side.touched {
            let arisen = &side.pairs[id as usize];
            if arisen.count >= self.floor {
                self.heap.push((arisen.count, Reverse(pair(id))));
                self.pairs.insert(pair(id), arisen.clone());
            }
        }
    }
    /// Takes what vanished from the counts of the pairs that stood there, and empties the side.
    fn reduce(&mut self, side: &mut Side, pair: impl Fn(Id) -> Key) {
        for id in side.touched.drain(..) {
            let arisen = &mut side.pairs[id as usize];
            if let Some(found) = self.pairs.get_mut(&pair(id)) {
                found.count -= arisen.count;
                if found.count < self.floor {
                    self.pairs.remove(&pair(id));
                }
            }
            arisen.count = 0;
            arisen.slots.clear();
        }
    }
}
