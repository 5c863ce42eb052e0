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
    pairs: FxHashMap<(Id, Id), Pair>,
    heap: BinaryHeap<(u64, Reverse<(Id, Id)>)>, // largest count first, ties to the smaller pair
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
        let (mut bytes, mut longer) = (Vec::new(), Vec::new()); // than one byte: (count, place in `bytes`)
        words.each(|word, count| {
            if word.len() > 1 {
                longer.push((count, bytes.len()..bytes.len() + word.len()));
                bytes.extend_from_slice(word);
            }
        });
        drop(words); // before the pairs take their place
        longer.sort_unstable_by_key(|&(count, _)| Reverse(count));
        let floor = longer.get(wanted).or(longer.last()).map_or(1, |&(count, _)| count);
        let size = 1 + bytes.len() + longer.len();
        if size > INSIDE as usize - 512 {
            let why = "more than 4 GiB of distinct words; does the pattern split at all?";
            return Err(Error(why.into())); // there must be as many new ids as slots
        }
        let (mut symbols, mut runs) = (Vec::with_capacity(size), Vec::<(u32, u64)>::new());
        symbols.push(EDGE);
        for (count, place) in longer {
            symbols.extend(bytes[place].iter().map(|&byte| Id::from(byte)));
            symbols.push(EDGE);
            match runs.last_mut() {
                Some(run) if run.1 == count => run.0 = symbols.len() as u32,
                _ => runs.push((symbols.len() as u32, count)),
            }
        }
        let mut merger =
            Self { symbols, runs, lengths: vec![1; 256], pairs: FxHashMap::default(), heap: BinaryHeap::new(), floor };
        let (mut bytes, mut runs) = (Side::new(1 << 16), &merger.runs[..]);
        for (slot, pair) in merger.symbols.windows(2).enumerate() {
            if pair[0] < 256 && pair[1] < 256 {
                bytes.record(pair[0] << 8 | pair[1], slot as u32, count_at(&mut runs, slot as u32));
            }
        }
        merger.create(&bytes, |pair| (pair >> 8, pair & 0xFF));
        Ok(merger)
    }
    /// The most frequent pair; None when every word is one token.
    fn best(&mut self) -> Option<(Id, Id)> {
        while let Some((count, Reverse(pair))) = self.heap.pop() {
            match self.pairs.get(&pair) {
                Some(found) if found.count == count => return Some(pair),
                Some(found) => self.heap.push((found.count, Reverse(pair))),
                None => {}
            }
        }
        None
    }
    fn merge(&mut self, (a, b): (Id, Id), left: &mut Side, right: &mut Side) -> (Id, Id) {
        let slots = self.pairs.remove(&(a, b)).unwrap_or_default().slots;
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
        self.create(left, |id| (id, new));
        self.create(right, |id| (new, id));
        self.reduce(left, |id| (id, a));
        self.reduce(right, |id| (b, id));
        (a, b)
    }
    /// Keeps what arose, unless it is too rare to be merged.
    fn create(&mut self, side: &Side, pair: impl Fn(Id) -> (Id, Id)) {
        for &id in &side.touched {
            let arisen = &side.pairs[id as usize];
            if arisen.count >= self.floor {
                self.heap.push((arisen.count, Reverse(pair(id))));
                self.pairs.insert(pair(id), arisen.clone());
            }
        }
    }
    /// Takes what vanished from the counts of the pairs that stood there, and empties the side.
    fn reduce(&mut self, side: &mut Side, pair: impl Fn(Id) -> (Id, Id)) {
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
