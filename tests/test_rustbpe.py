"""The extension against a trainer and a splitter that are slow and plainly right; errors, threads, memory."""

import subprocess
import sys
import textwrap
from collections import Counter
import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st
import rustbpe

# Characters that all sides class alike: none that this Python's Unicode leaves unassigned, as the regex
# package and Rust may know newer ones, and not the four controls that are white space to the regex package
# alone.
KNOWN = st.characters(exclude_categories=["Cs", "Cn"], exclude_characters="\x1c\x1d\x1e\x1f")
corpora = st.lists(st.text(alphabet="abcé '1\n", max_size=60), max_size=12)


def recount_after_every_merge(texts: list[str], vocab_size: int, pattern: str) -> list[bytes]:
    """The definition of BPE training, spelled out: no state that could go stale."""
    found = [word for text in texts for word in regex.findall(pattern, text)]
    words = [tuple(bytes([byte]) for byte in word.encode()) for word in found]
    tokens = [bytes([byte]) for byte in range(256)]
    while len(tokens) < vocab_size:
        pairs = Counter(pair for word in words for pair in zip(word, word[1:]))
        if not pairs:
            break
        ids = {token: i for i, token in enumerate(tokens)}
        left, right = min(pairs, key=lambda pair: (-pairs[pair], ids[pair[0]], ids[pair[1]]))
        tokens.append(left + right)
        words = [merge_left_to_right(word, left, right) for word in words]
    return tokens


def merge_left_to_right(word: tuple[bytes, ...], left: bytes, right: bytes) -> tuple[bytes, ...]:
    merged, i = [], 0
    while i < len(word):
        found = word[i:i + 2] == (left, right)
        merged.append(left + right if found else word[i])
        i += 1 + found
    return tuple(merged)


@settings(max_examples=settings().max_examples * 3 // 2)
@given(corpora, st.integers(256, 330))
def test_merges_are_those_of_a_naive_trainer(texts, vocab_size):
    expected = recount_after_every_merge(texts, vocab_size, rustbpe.PATTERN)
    assert rustbpe.train(texts, vocab_size) == expected


@settings(max_examples=settings().max_examples // 2)
@given(corpora)
def test_another_pattern_goes_through_the_regex_engine(texts):
    pattern = r"\w+|\s|[^\w\s](?!x)"
    assert rustbpe.train(texts, 300, pattern=pattern) == recount_after_every_merge(texts, 300, pattern)


@settings(max_examples=settings().max_examples * 3)
@given(st.text(KNOWN, max_size=60)
       | st.text(alphabet="aſ'sLl Vve\r\n\t\u00a0\u3000 12٣.é日🙂\u0301", max_size=60))
def test_words_are_those_of_the_regex_module(text):
    tokens = rustbpe.train([text], 10_000)              # until every word is one
    assert tokens == recount_after_every_merge([text], 10_000, rustbpe.PATTERN)


def test_a_text_longer_than_a_batch_has_the_tokens_of_its_parts():
    parts = [f"word{i % 977} and {i * 7919 % 1000} more, isn't it?\n" for i in range(20_000)]
    assert rustbpe.train(["".join(parts)], 500) == rustbpe.train(parts, 500)


def test_training_ends_early_when_every_word_is_one_token():
    assert rustbpe.train(["ab ab"], 1_000_000_000)[256:] == [b"ab", b" ab"]
    assert len(rustbpe.train([], 300)) == 256


def test_any_iterator_will_do_and_is_read_once():
    read = []

    def generate():
        for i in range(5):
            read.append(i)
            yield "hello hello"

    assert rustbpe.train(generate(), 260)[256:] == rustbpe.train(["hello " * 10], 260)[256:]
    assert read == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("arguments, error, message", [
    ((["a"], 255), ValueError, "vocab_size is 255, but the 256 bytes are tokens too"),
    ((["a"], -1), OverflowError, "negative"),
    ((["a"], 300, "(unclosed"), ValueError, "invalid split pattern"),
    ((["a", "b", 7], 300), TypeError, "int.*str"),
    ((["a", None], 300), TypeError, "None.*str"),
    ((["a", "\ud800"], 300), ValueError, "surrogates not allowed"),
    ((7, 300), TypeError, "not iterable"),
])
def test_errors_name_what_is_wrong(arguments, error, message):
    with pytest.raises(error, match=message):
        rustbpe.train(*arguments)


def test_what_the_iterator_raises_comes_out_unchanged():
    def broken():
        yield "a"
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        rustbpe.train(broken(), 300)


def in_child(code: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", textwrap.dedent(code)]
    return subprocess.run(command, capture_output=True, text=True, timeout=99)


def test_ctrl_c_stops_the_counting_and_the_merging():
    done = in_child("""
        import itertools, random, rustbpe, signal, string
        signal.signal(signal.SIGALRM, signal.default_int_handler)
        def press(seconds=0.001):
            signal.setitimer(signal.ITIMER_REAL, seconds)
        def interrupted(texts):
            done = []
            try:
                done.extend(map(rustbpe.train, [texts], [30_000]))     # no line of Python sees the signal
            except KeyboardInterrupt:
                return not done
        def words():
            for _ in range(2000):
                yield " ".join("".join(random.choices(string.ascii_lowercase, k=8)) for _ in range(100))
            press()
        press(0.2)
        assert interrupted(itertools.repeat("endless text " * 1000))
        assert interrupted(words())
    """)
    assert done.returncode == 0, done.stderr


def test_memory_does_not_grow_with_a_stream_of_2_gb():
    done = in_child("""
        import resource, rustbpe
        def stream(megabytes):
            block = " ".join(f"word{i}" for i in range(9000)) + " "    # as many distinct words for any length
            block = block * (1_000_000 // len(block.encode()))
            for _ in range(megabytes):
                yield block[:]
        def peak(megabytes):
            rustbpe.train(stream(megabytes), 1000)
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        small, large = peak(50), peak(2000)
        assert large - small < 16, (small, large)
    """)
    assert done.returncode == 0, done.stderr


def test_other_python_threads_run_while_it_trains():
    done = in_child("""
        import random, rustbpe, threading
        texts = [" ".join(str(random.random()) for _ in range(1000)) for _ in range(200)]
        ticks, stop = [], threading.Event()
        def tick():
            while not stop.is_set():
                ticks.append(1)
        thread = threading.Thread(target=tick)
        thread.start()
        before = len(ticks)
        rustbpe.train(texts, 5000)
        during = len(ticks) - before
        stop.set()
        assert during > 100, during
    """)
    assert done.returncode == 0, done.stderr
