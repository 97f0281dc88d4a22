"""The corpus of the search benchmarks, and the queries that are asked of it.

Corpus: GeoNames cities as the rehearsal upstream serves them and a source would index them: the
name is the title, country and other names are the body, the population is the weight. A `distinct`
corpus keeps the most populous city of each folded name, any other every record.

Queries: words drawn evenly from the distinct folded names that are one word of four letters or more
(six for two edits). A third is asked as it is, a third one random edit away, a third two; and
beside them half-typed words: the first 70 % of a word, every other one with an edit. What is typed
is as many edits away as its kind says, for a second edit may undo the first, and as long as
Elasticsearch's AUTO, and so our rules, ask for that many: six letters for two. A hit is any city of
the intended folded name: nobody could tell from "San Jose" which one is meant.
"""

from __future__ import annotations

import random
import string
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from rapidfuzz.distance import OSA

from ingest.rehearsal import load_cities
from search.documents import Document, build_document
from search.plan import count_edits
from search.query import Kind
from search.text import fold_words

ALL_CITIES = 234_908
WHEN = datetime(2026, 1, 1, tzinfo=UTC)
WHOLE_KINDS = ("exact", "1 edit", "2 edits")
HALF = "half-typed"


@dataclass(frozen=True, slots=True)
class City:
    pk: int
    name: str
    folded: str
    body: str
    population: float
    data: dict[str, Any]


def read_cities(limit: int = ALL_CITIES, *, distinct: bool = False) -> list[City]:
    """`limit` cities, evenly drawn; fewer when there are fewer."""
    cities = [_describe(city) for city in load_cities(ALL_CITIES)]
    if distinct:
        first: dict[str, City] = {}
        for city in cities:  # the most populous come first
            if city.folded:
                first.setdefault(city.folded, city)
        cities = list(first.values())
    random.Random(1).shuffle(cities)
    return cities[:limit]


def _describe(city: dict[str, Any]) -> City:
    return City(
        pk=city["id"],
        name=city["name"],
        folded=fold(city["name"]),
        body="\n".join([city["country"], " ".join(city["alternate_names"])]),
        population=float(city["population"]),
        data=city,
    )


def fold(title: str) -> str:
    return " ".join(fold_words(title))


def build_documents(cities: Iterable[City]) -> Iterator[Document]:
    for city in cities:
        yield build_document(
            kind=Kind.RECORD,
            pk=city.pk,
            source="cities",
            outcome="delivered",
            status=200,
            title=city.name,
            body=city.body,
            data=city.data,
            occurred_at=WHEN,
            weight=city.population,
        )


def grow(cities: Sequence[City], count: int) -> Iterator[City]:
    """As many as wanted: once all are used, their names come again with two more words."""
    rng = random.Random(7)
    words = [city.folded.split()[0] for city in cities if city.folded]
    for index in range(count):
        city = cities[index % len(cities)]
        if index >= len(cities):
            name = f"{city.name} {rng.choice(words)} {rng.choice(words)}"
            city = replace(city, pk=ALL_CITIES + index, name=name, folded=fold(name))
        yield city


@dataclass(frozen=True, slots=True)
class Question:
    """`typed` is what stands in the search box; whole words end in a space."""

    kind: str
    wanted: str
    typed: str


def ask(cities: Iterable[City], *, queries: int, seed: int) -> list[Question]:
    """`queries` whole words, and half as many half-typed ones, in random order."""
    rng = random.Random(seed)
    names = {city.folded for city in cities}
    words = sorted(w for w in names if len(w) >= 4 and w.isascii() and w.isalpha())
    long_words = [word for word in words if len(word) >= 6]
    questions = []
    for kind in WHOLE_KINDS:
        source = long_words if kind == "2 edits" else words
        for word in rng.sample(source, min(queries // 3, len(source))):
            typed = _misspell(word, WHOLE_KINDS.index(kind), rng)
            questions.append(Question(kind, word, typed + " "))
    for index, word in enumerate(rng.sample(words, min(queries // 2, len(words)))):
        typed = word[: max(round(len(word) * 0.7), 3)]
        questions.append(Question(HALF, word, edit(typed, rng) if index % 2 else typed))
    rng.shuffle(questions)
    return questions


def _misspell(word: str, edits: int, rng: random.Random) -> str:
    while True:
        typed = word
        for _ in range(edits):
            typed = edit(typed, rng)
        if OSA.distance(word, typed) == edits <= count_edits(typed):
            return typed


def edit(word: str, rng: random.Random) -> str:
    """One random insertion, deletion, replacement or exchange of neighbours."""
    place = rng.randrange(len(word))
    letter = rng.choice(string.ascii_lowercase)
    return {
        "insert": word[:place] + letter + word[place:],
        "delete": word[:place] + word[place + 1 :],
        "replace": word[:place] + letter + word[place + 1 :],
        "swap": word[:place] + word[place + 1 : place + 2] + word[place] + word[place + 2 :],
    }[rng.choice(["insert", "delete", "replace", "swap"])]
