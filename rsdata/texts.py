"""Measures of captions: how long, how varied, how alike; counted batch by batch.

What is held grows with the vocabulary and with the distinct captions (16 bytes each) and pairs of words
(16 bytes each), not with the texts.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rsdata.tally import Tally, digests, distribution, listed, mixed, parts, summed

SAMPLE = 500
"""Captions of a source that self-BLEU is worked out on, as in Texygen: the more, the higher it is."""
ORDER = 4
"""Longest n-grams of self-BLEU."""
COMMONEST = 50
WIDESPREAD = 0.01
"""Share of all rows above which a caption is on suspiciously many."""

_WORD = np.uint64(32)
_STEP = np.uint64(0x9E3779B97F4A7C15)


def words(text: str) -> list[str]:
    """The words of a text: lower-cased tokens of nltk's wordpunct_tokenize with a letter or digit."""
    from nltk.tokenize import wordpunct_tokenize

    if text.isascii() and text.isalnum():  # most chunks are one word
        return [text.lower()]
    return [token for token in wordpunct_tokenize(text.lower()) if any(map(str.isalnum, token))]


class Text:
    """What has been counted of some captions. Words are numbered as Vocabulary numbers them."""

    def __init__(self) -> None:
        self.lengths: Counter[int] = Counter()
        self.captions = Tally()
        self.words = np.zeros(0, np.int64)
        self.bigrams = Tally()
        self.sample: list[tuple[int, str]] = []

    def add_words(self, counts: Any) -> None:
        """Add counts (n,) of words by their number."""
        if len(counts) > len(self.words):
            self.words = np.pad(self.words, (0, len(counts) - len(self.words)))
        self.words[: len(counts)] += counts


class Vocabulary:
    """Numbers words as they come."""

    def __init__(self) -> None:
        self._number: dict[str, int] = {}
        # No token reaches over white space, and of chunks without it few differ.
        self._numbers: Callable[[str], tuple[int, ...]] = lru_cache(1 << 16)(self._numbered)

    def _numbered(self, chunk: str) -> tuple[int, ...]:
        return tuple(self._number.setdefault(word, len(self._number)) for word in words(chunk))

    def tokens(self, texts: pa.Array) -> tuple[Any, Any]:
        """The numbers of all words of texts, one text after the other, and how many each text has."""
        split = pc.utf8_split_whitespace(texts)
        chunks = pc.list_flatten(split).dictionary_encode()
        numbers = [self._numbers(chunk) for chunk in chunks.dictionary.to_pylist()]
        sizes = np.array([len(each) for each in numbers], np.int64)
        flat = np.array([number for each in numbers for number in each], np.int64)
        codes = chunks.indices.to_numpy()
        ends = np.concatenate(([0], np.cumsum(sizes[codes])))
        bounds = np.concatenate(([0], np.cumsum(pc.list_value_length(split).to_numpy())))
        return flat[_runs((np.cumsum(sizes) - sizes)[codes], sizes[codes])], np.diff(ends[bounds])

    def words(self) -> list[str]:
        """The words in the order of their numbers."""
        return list(self._number)


def _runs(starts: Any, lengths: Any) -> Any:
    """The indices start, start + 1 … of each run, one run after the other."""
    ends = np.cumsum(lengths)
    return np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - (ends - lengths), lengths)


class Texts:
    """The captions of a corpus, by source and by dataset."""

    def __init__(self) -> None:
        self.vocabulary = Vocabulary()
        self.sources: dict[str | None, Text] = {}
        self.datasets: dict[str | None, Counter[int]] = {}
        self.rows = 0
        self._on_rows = Tally()
        self._common: dict[int, str] = {}

    def add(self, captions: pa.ListArray, sources: pa.Array, datasets: pa.Array, ids: Sequence[str]) -> Any:
        """Count the captions of some rows; returns which rows have several captions that are all equal.

        captions: a list a row; sources, datasets, ids: one text a row.
        """
        lengths = pc.list_value_length(captions).fill_null(0).to_numpy()
        encoded = pc.list_flatten(captions).fill_null("").dictionary_encode()
        texts, codes = encoded.dictionary, encoded.indices.to_numpy().astype(np.int64)
        rows = np.repeat(np.arange(len(lengths)), lengths)
        hashes = np.fromiter(map(hash, texts.to_pylist()), np.int64, len(texts)).view(np.uint64)
        alike = self._spread(rows, lengths, codes, hashes, texts)
        tokens, sizes = self.vocabulary.tokens(texts)
        place = _runs(0 * lengths, lengths).astype(np.uint64)
        chance = mixed(np.repeat(digests(ids), lengths) + place * _STEP)
        for name, of in _groups(datasets, rows):
            self.datasets.setdefault(name, Counter()).update(_histogram(sizes[codes[of]]))
        for name, of in _groups(sources, rows):
            text = self.sources.setdefault(name, Text())
            _count(text, codes[of], tokens, sizes, hashes)
            _draw(text, chance[of], codes[of], texts)
        return alike

    def _spread(self, rows: Any, lengths: Any, codes: Any, hashes: Any, texts: pa.Array) -> Any:
        """Count on how many rows each caption is.

        A caption on over 1 % of all rows is on over 1 % of some batch: only such texts are held.
        """
        number = max(len(texts), 1)
        row, code = np.divmod(np.unique(rows * number + codes), number)
        on = np.bincount(code, minlength=len(texts))
        self.rows += len(lengths)
        self._on_rows.add(hashes, on)
        for at in np.flatnonzero(on > WIDESPREAD * len(lengths)).tolist():
            self._common[int(hashes[at])] = texts[at].as_py()
        return (np.bincount(row, minlength=len(lengths)) == 1) & (lengths > 1)

    def widespread(self) -> list[tuple[str, int]]:
        """The captions that are on over 1 % of all rows, and on how many; the commonest first."""
        found = [
            (self._common[int(hashes[at])], int(on[at]))
            for hashes, on in parts([self._on_rows])
            for at in np.flatnonzero(on > WIDESPREAD * self.rows).tolist()
        ]
        return sorted(found, key=lambda item: (-item[1], item[0]))

    def words(self) -> dict[str, int]:
        """How often each word occurs."""
        return dict(zip(self.vocabulary.words(), _words(self._texts()).tolist(), strict=True))

    def lengths(self) -> Counter[int]:
        """How many captions have each number of words."""
        return _lengths(self._texts())

    def _texts(self) -> list[Text]:
        return list(self.sources.values())

    def report(self) -> dict[str, Any]:
        """`measures` of all captions, with the commonest words and pairs of words ([text, count])."""
        names = self.vocabulary.words()
        single = _commonest(_words(self._texts()), lambda at: (names[at],))
        double: list[tuple[int, tuple[str, ...]]] = []
        for pairs, times in parts([text.bigrams for text in self._texts()]):
            new = _commonest(times, lambda at, pairs=pairs: _pair(int(pairs[at]), names))  # type: ignore[misc]
            double = sorted(double + new)[:COMMONEST]
        return {
            **measures(self._texts()),
            "commonest_words": [[" ".join(text), -count] for count, text in single],
            "commonest_bigrams": [[" ".join(text), -count] for count, text in double],
        }

    def by_source(self) -> dict[str, dict[str, Any]]:
        """`measures` of the captions of each source, their number and self-BLEU; of unnamed ones nothing."""
        return {
            name: {
                "captions": text.lengths.total(),
                **measures([text]),
                "self_bleu": self_bleu(caption for _, caption in text.sample),
            }
            for name, text in sorted((name, text) for name, text in self.sources.items() if name is not None)
        }


def _groups(keys: pa.Array, rows: Any) -> list[tuple[str | None, Any]]:
    """Which captions each key has. keys: one a row; rows: of each caption."""
    encoded = keys.dictionary_encode(null_encoding="encode")
    codes = encoded.indices.to_numpy()[rows]
    return [
        (name, np.flatnonzero(codes == code))
        for code, name in enumerate(encoded.dictionary.to_pylist())
        if (codes == code).any()
    ]


def _histogram(values: Any) -> dict[int, int]:
    found, counts = np.unique(values, return_counts=True)
    return dict(zip(found.tolist(), counts.tolist(), strict=True))


def _count(text: Text, codes: Any, tokens: Any, sizes: Any, hashes: Any) -> None:
    """Count captions, given by their codes; a caption that is there many times is looked at once."""
    text.lengths.update(_histogram(sizes[codes]))
    kinds, times = np.unique(codes, return_counts=True)
    text.captions.add(hashes[kinds], times)
    starts, lengths = (np.cumsum(sizes) - sizes)[kinds], sizes[kinds]
    held = tokens[_runs(starts, lengths)]
    often = np.repeat(times, lengths)
    text.add_words(np.bincount(held, weights=often).astype(np.int64))
    inner = np.ones(len(held), bool)
    inner[np.cumsum(lengths)[lengths > 0] - 1] = False
    left = np.flatnonzero(inner)
    pairs = held[left].astype(np.uint64) << _WORD | held[left + 1].astype(np.uint64)
    text.bigrams.add(*summed([(pairs, often[left])]))


def _draw(text: Text, chance: Any, codes: Any, texts: pa.Array) -> None:
    """Keep the captions whose chance is smallest: they depend on no order of rows or shards."""
    worst = np.uint64(text.sample[-1][0]) if len(text.sample) == SAMPLE else np.uint64(2**64 - 1)
    able = np.flatnonzero(chance <= worst)
    able = able[np.argsort(chance[able], kind="stable")]
    if len(able) > SAMPLE:
        able = able[chance[able] <= chance[able[SAMPLE - 1]]]
    drawn = [(int(chance[at]), texts[int(codes[at])].as_py()) for at in able.tolist()]
    text.sample = heapq.nsmallest(SAMPLE, [*text.sample, *drawn])


def _pair(key: int, names: Sequence[str]) -> tuple[str, str]:
    return names[key >> 32], names[key & 0xFFFFFFFF]


def _commonest(counts: Any, name: Callable[[int], tuple[str, ...]]) -> list[tuple[int, tuple[str, ...]]]:
    """(-count, words) of the highest counts (n,), in order; name: the words of an index."""
    least = np.partition(counts, -COMMONEST)[-COMMONEST] if len(counts) > COMMONEST else 0
    held = np.flatnonzero(counts >= max(least, 1)).tolist()
    return heapq.nsmallest(COMMONEST, ((-int(counts[at]), name(at)) for at in held))


def _lengths(texts: Sequence[Text]) -> Counter[int]:
    lengths: Counter[int] = Counter()
    for text in texts:
        lengths.update(text.lengths)
    return lengths


def _words(texts: Sequence[Text]) -> Any:
    """How often each word occurs, by its number."""
    total = Text()
    for text in texts:
        total.add_words(text.words)
    return total.words


def measures(texts: Sequence[Text]) -> dict[str, Any]:
    """distinct, equal, words, vocabulary, distinct_1, distinct_2 of several texts together.

    As `stats.audit` describes them.
    """
    distinct = equal = pairs = 0
    for _, times in parts([text.captions for text in texts]):
        distinct += len(times)
        equal += int(times[times > 1].sum())
    for found, _ in parts([text.bigrams for text in texts]):
        pairs += len(found)
    lengths, vocabulary = _lengths(texts), int(np.count_nonzero(_words(texts)))
    captions = lengths.total()
    unigrams = sum(length * count for length, count in lengths.items())
    bigrams = sum((length - 1) * count for length, count in lengths.items() if length)
    return {
        "distinct": distinct,
        "equal": equal / captions if captions else None,
        "words": distribution(lengths),
        "vocabulary": vocabulary,
        "distinct_1": vocabulary / unigrams if unigrams else None,
        "distinct_2": pairs / bigrams if bigrams else None,
    }


def self_bleu(captions: Iterable[str]) -> float | None:
    """How alike captions are: the mean BLEU-4 of each against all others (Zhu et al. 2018, arXiv 1802.01886).

    0 (no word in common) to 1 (all equal, of four words or more); None of fewer than two captions. Precisions
    of zero become 0.1 / n-grams (method 1 of Chen & Cherry 2014): single captions rarely share four words.
    What nltk's sentence_bleu gives, in time that is linear in the captions instead of quadratic.
    """
    split = [words(caption) for caption in captions]
    if len(split) < 2:
        return None
    logarithms = np.zeros(len(split))
    with np.errstate(divide="ignore"):  # of a caption that shares no word
        for size in range(1, ORDER + 1):
            logarithms += np.log(_precisions(split, size)) / ORDER
    return float(np.exp(logarithms + _brevities([len(each) for each in split])).mean())


def _precisions(split: Sequence[Sequence[str]], size: int) -> Any:
    """For each caption how many of its n-grams are in another, each as often as in one other at most."""
    grams = [Counter(zip(*(each[at:] for at in range(size)), strict=False)) for each in split]
    highest: dict[tuple[str, ...], int] = {}
    second: dict[tuple[str, ...], int] = {}
    for counts in grams:
        for gram, number in counts.items():
            most = highest.get(gram, 0)
            highest[gram] = max(number, most)
            second[gram] = max(second.get(gram, 0), min(number, most))
    precisions = []
    for counts in grams:
        met = sum(
            min(number, second[gram] if number == highest[gram] else number)
            for gram, number in counts.items()
        )
        precisions.append((met or (0.1 if size > 1 else 0)) / max(counts.total(), 1))
    return np.array(precisions)


def _brevities(lengths: Sequence[int]) -> Any:
    """Logarithms of the brevity penalties: by the nearest length of another, of two as near the shorter."""
    held = Counter(lengths)
    penalties = []
    for length in lengths:
        others = (other for other, number in held.items() if number > (other == length))
        nearest = min(others, key=lambda other: (abs(other - length), other))
        penalties.append(min(1 - nearest / length, 0) if length else 0)
    return np.array(penalties)


def named(histograms: Mapping[str | None, Mapping[int, int]]) -> dict[str, list[list[int]]]:
    """Histograms as lists, by name in order; of what has no name nothing."""
    held = {name: histogram for name, histogram in histograms.items() if name is not None}
    return {name: listed(histogram) for name, histogram in sorted(held.items())}
