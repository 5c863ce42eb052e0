//! Texts -> how often each distinct word occurs, counted by several threads, each into a table of its own.
use crate::split::{Splitter, END, PAD};
use crate::Error;
use rustc_hash::FxHashMap;
use std::ops::Range;
use std::sync::mpsc::{sync_channel, Receiver};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
const BATCH: usize = 1 << 18; // bytes of text per batch: stays in the cache of the core that reads it
const SEED: (u64, u64) = (0x9E37_79B9_7F4A_7C15, 0xD1B5_4A32_D192_ED03); // arbitrary odd numbers
const WAITING: usize = 16; // words whose slots are being loaded while others are counted
const SHORT: usize = 15; // bytes of a word that fit into a slot beside their number

/// Several texts in one padded buffer (see split.rs).
#[derive(Default)]
pub struct Batch {
    bytes: Vec<u8>,
    spans: Vec<Range<usize>>,
}

impl Batch {
    pub fn push(&mut self, text: &str) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(text.as_bytes());
        self.spans.push(start..self.bytes.len());
        self.bytes.extend_from_slice(&[END; PAD]);
    }
    pub fn is_full(&self) -> bool {
        self.bytes.len() >= BATCH
    }
}

/// A word of up to SHORT bytes, as two little-endian numbers with the length in the highest byte. Count 0: empty.
#[derive(Clone, Copy, Default)]
struct Slot {
    key: (u64, u64),
    count: u64,
}

/// Open addressing with linear probing: nearly all words of a text end in one cache line.
struct Table {
    slots: Vec<Slot>, // a power of two
    used: usize,
}

impl Default for Table {
    fn default() -> Self {
        Self { slots: vec![Slot::default(); 1 << 12], used: 0 }
    }
}

impl Table {
    fn add(&mut self, key: (u64, u64), hash: u64, count: u64) {
        let mask = self.slots.len() - 1;
        let mut at = hash as usize;
        loop {
            let slot = &mut self.slots[at & mask];
            if slot.key == key {
                slot.count += count;
                return;
            }
            if slot.count == 0 {
                *slot = Slot { key, count };
                break;
            }
            at += 1;
        }
        self.used += 1;
        if self.used * 5 > self.slots.len() * 4 {
            self.grow();
        }
    }
    #[cold]
    fn grow(&mut self) {
        let mut larger = Self { slots: vec![Slot::default(); 2 * self.slots.len()], used: 0 };
        for slot in self.slots.iter().filter(|slot| slot.count > 0) {
            larger.add(slot.key, hash(slot.key), slot.count);
        }
        *self = larger;
    }
}

fn hash(key: (u64, u64)) -> u64 {
    let product = u128::from(key.0 ^ SEED.0) * u128::from(key.1 ^ SEED.1);
    product as u64 ^ (product >> 64) as u64
}

/// Starts to load `items[at]` into the cache: tables and words are far larger, and each miss would be waited for.
#[cfg_attr(not(target_arch = "x86_64"), allow(unused_variables))]
pub fn prefetch<T>(items: &[T], at: usize) {
    #[cfg(target_arch = "x86_64")]
    if let Some(item) = items.get(at) {
        use std::arch::x86_64::{_mm_prefetch, _MM_HINT_T0};
        // SAFETY: SSE is part of every x86_64; a prefetch neither changes memory nor faults, and `item` is valid.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(item).cast()) }
    }
}

/// Distinct words and their counts.
#[derive(Default)]
pub struct Words {
    short: Table,
    waiting: [((u64, u64), u64); WAITING], // a ring of keys with hashes; a key of length 0 is no word
    at: usize,
    long: FxHashMap<Box<[u8]>, u64>,
}

impl Words {
    pub fn count(&mut self, batch: &Batch, splitter: &Splitter) -> Result<(), Error> {
        for span in &batch.spans {
            splitter.split(&batch.bytes, span.clone(), |from, to| self.add(&batch.bytes, from, to))?;
        }
        for _ in 0..WAITING {
            self.add_short((0, 0)); // no word: pushes out one that waits
        }
        Ok(())
    }
    fn add(&mut self, bytes: &[u8], from: usize, to: usize) {
        let length = to - from;
        if length <= SHORT {
            let Some(Ok(window)) = bytes.get(from..from + 16).map(<[u8; 16]>::try_from) else { return };
            let keep = (1u128 << (8 * length)) - 1;
            let key = u128::from_le_bytes(window) & keep;
            self.add_short((key as u64, (key >> 64) as u64 | (length as u64) << 56));
        } else {
            self.add_long(&bytes[from..to], 1);
        }
    }
    fn add_short(&mut self, key: (u64, u64)) {
        let hash = hash(key);
        prefetch(&self.short.slots, hash as usize & (self.short.slots.len() - 1));
        let (key, hash) = std::mem::replace(&mut self.waiting[self.at % WAITING], (key, hash));
        self.at += 1;
        if key.1 > 0 {
            self.short.add(key, hash, 1);
        }
    }
    #[inline(never)]
    fn add_long(&mut self, word: &[u8], count: u64) {
        if let Some(total) = self.long.get_mut(word) {
            *total += count;
        } else {
            self.long.insert(word.into(), count);
        }
    }
    pub fn absorb(&mut self, other: Self) {
        let slots = &other.short.slots;
        for i in 0..slots.len() {
            // In another order than that of the slots, which is by hash: it would fill our table from its front.
            let slot = slots[i.wrapping_mul(0x9E37_79B1) % slots.len()];
            if slot.count > 0 {
                self.short.add(slot.key, hash(slot.key), slot.count);
            }
        }
        for (word, count) in other.long {
            self.add_long(&word, count);
        }
    }
    /// Every word once, in no order.
    pub fn each(&self, mut visit: impl FnMut(&[u8], u64)) {
        for slot in self.short.slots.iter().filter(|slot| slot.count > 0) {
            let bytes = (u128::from(slot.key.1) << 64 | u128::from(slot.key.0)).to_le_bytes();
            visit(&bytes[..usize::from(bytes[SHORT])], slot.count);
        }
        for (word, &count) in &self.long {
            visit(word, count);
        }
    }
}

/// Sends to the counting threads. Waits while all are busy; fails when all have failed.
pub type Sender<'a> = &'a (dyn Fn(Batch) -> Result<(), Error> + Sync);

/// Counts, with `threads` threads, the batches that `feed` sends from this one.
pub fn count<E, F>(splitter: &Splitter, threads: usize, feed: F) -> Result<Words, E>
where
    E: From<Error>,
    F: FnOnce(Sender) -> Result<(), E>,
{
    let died = || Error("a counting thread died".into());
    let (sender, receiver) = sync_channel(threads);
    let batches = Arc::new(Mutex::new(receiver));
    thread::scope(|scope| {
        let spawn = |batches: Arc<_>| scope.spawn(move || work(splitter, &batches));
        let workers: Vec<_> = (0..threads).map(|_| spawn(batches.clone())).collect();
        drop(batches); // with the last worker the channel closes, so that a send cannot wait for ever
        let fed = feed(&move |batch| sender.send(batch).map_err(|_| died()));
        let mut counted = workers.into_iter().map(|worker| worker.join().unwrap_or_else(|_| Err(died())));
        let mut total = counted.next().unwrap_or_else(|| Ok(Words::default()))?;
        for words in counted {
            total.absorb(words?);
        }
        fed.map(|()| total)
    })
}

fn work(splitter: &Splitter, batches: &Mutex<Receiver<Batch>>) -> Result<Words, Error> {
    let mut words = Words::default();
    loop {
        let next = batches.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(batch) = next else { return Ok(words) };
        words.count(&batch, splitter)?;
    }
}
