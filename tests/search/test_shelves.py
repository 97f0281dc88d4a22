from __future__ import annotations

import pytest

from search.distance import is_within
from search.shelves import MARK_CHARS, find_shelf, shelve
from search.text import fold_words


@pytest.mark.parametrize(
    "words",
    [
        ["london", "a1", "1a", "ŋoni"],
        ["москва", "ўзбек", "әлем"],
        ["αθηνα", "ωμεγα"],
        ["مدينه", "گل"],
        ["123", "٤٢", "🎉"],
    ],
)
def test_words_of_one_script_share_a_shelf(words: list[str]) -> None:
    folded = [word for text in words for word in fold_words(text)]
    assert len({find_shelf(word) for word in folded}) == 1


def test_no_typo_leads_to_another_shelf() -> None:
    shelved = [find_shelf(word) + word for word in ("abc", "абв", "αβγ", "אבג", "123", "한국어")]
    for one in shelved:
        assert [other for other in shelved if is_within(one, other, 2)] == [one]


def test_words_are_shelved_once_each_and_stay_apart() -> None:
    first, second = shelve(["new", "york", "new"]).split()
    assert (first[MARK_CHARS:], second[MARK_CHARS:]) == ("new", "york")
    assert fold_words(shelve(["new"])) == ["new"]
