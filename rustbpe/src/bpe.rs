//! Distinct words with counts -> merges.
//!
//! All words lie end to end in one flat array with a slot per byte. A token writes its id into the slots of its
//! first and its last byte, so from any token both neighbours are one read away, and there are no links to keep
//! and nothing to move. A pair keeps the places where it arose: all of them arise in one merge, that of the newer
//! of its two tokens, and from then on they only vanish. So counts only fall, a stale place shows by its ids, and
//! a pair that begins below what the last merge will need is not stored at all (`floor`).

use crate::count::{prefetch, FastMap, Words};
use crate::Error;
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
const BLOCK: usize = 64; // slots that share an entry of `Counts::first`

/// How often the word at a slot occurs. Words are sorted by count, so that equal counts form runs.
struct Counts {
    runs: Vec<(u32, u64)>, // (slot where the run ends, count)
    first: Vec<u32>,       // of each block of slots, the run that it starts in
}

impl Counts {
    #[inline]
    fn at(&self, slot: u32) -> u64 {
        let mut run = self.first[slot as usize / BLOCK] as usize;
        while self.runs[run].0 <= slot {
            run += 1;
        }
        self.runs[run].1
    }
}

struct Tracked {
    count: u64,
    slots: Vec<u32>, // where the pair's left token starts, ascending; some are stale
}

/// What one merge does to the pairs with one neighbouring token.
#[derive(Clone, Copy, Default)]
struct Change {
    weight: u64, // sum of the counts of the words
    places: u32,
    target: u32, // index of the new pair + 1, 0 if it is not tracked
}

/// The neighbours on one side of the pair that is being merged.
#[derive(Default)]
struct Side {
    changes: Vec<Change>, // by token id
    touched: Vec<Id>,
    places: Vec<(u32, Id)>, // (slot of the new pair, neighbour)
}

impl Side {
    fn new(vocab_size: usize) -> Self {
        Self { changes: vec![Change::default(); vocab_size], touched: Vec::new(), places: Vec::new() }
    }

    #[inline]
    fn record(&mut self, neighbour: Id, slot: u32, weight: u64) {
        let change = &mut self.changes[neighbour as usize];
        if change.places == 0 {
            self.touched.push(neighbour);
        }
        change.places += 1;
        change.weight += weight;
        self.places.push((slot, neighbour));
    }

    fn clear(&mut self) {
        for &id in &self.touched {
            self.changes[id as usize] = Change::default();
        }
        self.touched.clear();
        self.places.clear();
    }
}

struct Merger {
    symbols: Vec<Id>,
    counts: Counts,
    lengths: Vec<u32>, // of each token, in bytes
    index: FastMap<Key, u32>,
    pairs: Vec<Tracked>,
    heap: BinaryHeap<(u64, Reverse<Key>)>, // largest count first, ties to the smaller pair
    floor: u64, // no pair that occurs less often will ever be merged, see `new`
    left: Side,
    right: Side,
}

/// The merges that training makes, in order: at most `wanted`, fewer when every word has become one token.
/// `progress(done)` is called now and then and can stop the training with an error.
pub fn merges<E: From<Error>>(
    words: Words,
    wanted: usize,
    mut progress: impl FnMut(usize) -> Result<(), E>,
) -> Result<Vec<(Id, Id)>, E> {
    let mut merger = Merger::new(words, wanted)?;
    let mut done = Vec::new();
    while done.len() < wanted {
        if done.len() % 128 == 0 {
            progress(done.len())?;
        }
        let Some(pair) = merger.best() else { break };
        done.push(merger.merge(pair));
    }
    progress(done.len())?;
    Ok(done)
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
    /// The floor is the count of the word at rank `wanted`. Proof: as long as fewer merges than that are done, one
    /// of the first `wanted` words is not a token yet, as each needs a token of its own. So it still has a pair,
    /// which occurs at least as often as the word, and the most frequent pair occurs as often or more.
    fn new(words: Words, wanted: usize) -> Result<Self, Error> {
        // How many slots the words of each count fill. A low count has very many words, a high one often one.
        let mut fills: FastMap<u64, (usize, usize)> = FastMap::default(); // count -> (slots, words)
        words.each(|word, count| {
            if word.len() > 1 {
                let fill = fills.entry(count).or_default();
                fill.0 += word.len() + 1;
                fill.1 += 1;
            }
        });
        let mut fills: Vec<_> = fills.into_iter().collect();
        fills.sort_unstable_by_key(|&(count, _)| Reverse(count));
        let size = 1 + fills.iter().map(|&(_, (slots, _))| slots).sum::<usize>();
        if size > INSIDE as usize - 512 {
            return Err(Error::TooManyWords); // there must be as many new ids as slots
        }
        let (mut runs, mut next, mut end, mut rank, mut floor) = (Vec::new(), FastMap::default(), 1, 0, 1);
        for &(count, (slots, words)) in &fills {
            next.insert(count, end);
            end += slots;
            runs.push((end as u32, count));
            if rank < wanted && rank + words >= wanted {
                floor = count;
            }
            rank += words;
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
        let run_at = |slot| runs.partition_point(|&(end, _)| end as usize <= slot) as u32;
        let first = (0..size).step_by(BLOCK).map(run_at).collect();
        let mut merger = Self {
            symbols,
            counts: Counts { runs, first },
            lengths: vec![1; 256],
            index: FastMap::default(),
            pairs: Vec::new(),
            heap: BinaryHeap::new(),
            floor,
            left: Side::new(256 + wanted.min(size)), // each merge empties a slot at least
            right: Side::new(256 + wanted.min(size)),
        };
        merger.track_bytes();
        Ok(merger)
    }

    fn track_bytes(&mut self) {
        let mut pairs = vec![Change::default(); 1 << 16];
        self.each_pair(|pair, _, count| {
            pairs[pair].weight += count;
            pairs[pair].places += 1;
        });
        for (bytes, pair) in pairs.iter_mut().enumerate() {
            self.track(key(bytes as Id >> 8, bytes as Id & 0xFF), pair);
        }
        let mut tracked = std::mem::take(&mut self.pairs);
        self.each_pair(|pair, slot, _| {
            if pairs[pair].target > 0 {
                tracked[pairs[pair].target as usize - 1].slots.push(slot);
            }
        });
        self.pairs = tracked;
    }

    /// Calls `visit(256 * left + right, slot, count)` for every pair of bytes.
    fn each_pair(&self, mut visit: impl FnMut(usize, u32, u64)) {
        for (slot, pair) in self.symbols.windows(2).enumerate() {
            if pair[0] < 256 && pair[1] < 256 {
                visit((pair[0] << 8 | pair[1]) as usize, slot as u32, self.counts.at(slot as u32));
            }
        }
    }

    /// The most frequent pair; None when every word is one token.
    fn best(&mut self) -> Option<Key> {
        while let Some((count, Reverse(pair))) = self.heap.pop() {
            let Some(&i) = self.index.get(&pair) else { continue };
            let now = self.pairs[i as usize].count;
            if now == count {
                return Some(pair);
            }
            self.heap.push((now, Reverse(pair)));
        }
        None
    }

    fn forget(&mut self, pair: Key) -> Vec<u32> {
        self.index.remove(&pair).map(|i| std::mem::take(&mut self.pairs[i as usize].slots)).unwrap_or_default()
    }

    fn merge(&mut self, pair: Key) -> (Id, Id) {
        let slots = self.forget(pair);
        let (a, b) = ((pair >> 32) as Id, pair as Id);
        let new = self.lengths.len() as Id;
        let (a_length, b_length) = (self.lengths[a as usize], self.lengths[b as usize]);
        self.lengths.push(a_length + b_length);
        for (i, &slot) in slots.iter().enumerate() {
            if let Some(&later) = slots.get(i + PREFETCH) {
                prefetch(&self.symbols, later as usize);
            }
            let middle = slot + a_length;
            let end = middle + b_length;
            if self.symbols[slot as usize] != a || self.symbols[middle as usize] != b {
                continue;
            }
            let weight = self.counts.at(slot);
            let (before, after) = (self.symbols[slot as usize - 1], self.symbols[end as usize]);
            self.symbols[slot as usize] = new;
            self.symbols[middle as usize] = INSIDE;
            self.symbols[end as usize - 1] = new;
            if before != EDGE {
                self.left.record(before, slot - self.lengths[before as usize], weight);
            }
            if after != EDGE {
                self.right.record(after, slot, weight);
            }
        }
        // First what arises, then what vanishes: in a run like aaaa, (aa, a) does both.
        let (mut left, mut right) = (std::mem::take(&mut self.left), std::mem::take(&mut self.right));
        self.create(&mut left, |id| key(id, new));
        self.create(&mut right, |id| key(new, id));
        self.reduce(&left, |id| key(id, a));
        self.reduce(&right, |id| key(b, id));
        left.clear();
        right.clear();
        (self.left, self.right) = (left, right);
        (a, b)
    }

    /// Makes room for the places of a new pair, unless it is too rare to be merged.
    fn track(&mut self, pair: Key, change: &mut Change) {
        if change.weight >= self.floor {
            self.index.insert(pair, self.pairs.len() as u32);
            self.heap.push((change.weight, Reverse(pair)));
            self.pairs.push(Tracked { count: change.weight, slots: Vec::with_capacity(change.places as usize) });
            change.target = self.pairs.len() as u32;
        }
    }

    fn create(&mut self, side: &mut Side, pair: impl Fn(Id) -> Key) {
        for &id in &side.touched {
            self.track(pair(id), &mut side.changes[id as usize]);
        }
        for &(slot, id) in &side.places {
            let target = side.changes[id as usize].target;
            if target > 0 {
                self.pairs[target as usize - 1].slots.push(slot);
            }
        }
    }

    fn reduce(&mut self, side: &Side, pair: impl Fn(Id) -> Key) {
        for &id in &side.touched {
            if let Some(&i) = self.index.get(&pair(id)) {
                let tracked = &mut self.pairs[i as usize];
                tracked.count -= side.changes[id as usize].weight;
                if tracked.count < self.floor {
                    self.forget(pair(id));
                }
            }
        }
    }
}
