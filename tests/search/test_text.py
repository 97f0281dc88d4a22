from __future__ import annotations

import random
import unicodedata

import pytest

from search.text import MAX_WORD_CHARS, fold_words, to_nfc, tokenize


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("İstanbul ISPARTA ıstanbul", ["istanbul", "isparta", "istanbul"]),
        ("ağaç AĞAÇ Ağaç", ["agac"] * 3),
        ("Oʻzbekiston o'zbekiston O‘zbekiston O’zbekiston", ["ozbekiston"] * 4),
        ("gʻalaba sanʼat san'at", ["galaba", "sanat", "sanat"]),
        ("L'Aquila d’Ivoire dell'Emilia", ["l", "aquila", "d", "ivoire", "dell", "emilia"]),
        ("O'Brien don't 'quoted'", ["obrien", "dont", "quoted"]),
        ("Straße STRASSE ẞ", ["strasse", "strasse", "ss"]),
        ("Łódź Ærø Gəncə Þór Đà", ["lodz", "aero", "gence", "thor", "da"]),
        ("Cafe\u0301 Café ﬁne", ["cafe", "cafe", "fine"]),
        ("Ελλάς ΕΛΛΆΣ", ["ελλασ", "ελλασ"]),
        ("Йошкар-Ола ёлка", ["иошкар", "ола", "елка"]),
        ("مُحَمَّد محمد", ["محمد", "محمد"]),
        ("کتاب كتاب كـتـاب", ["كتاب"] * 3),
        ("हिन्दी", ["हिन्दी"]),
        ("서울", ["서울"]),
        ("ｶﾞﾗｽ ガラス カ\u3099ラス", ["ガラス"] * 3),
        ("がか か\u3099 か\u309a", ["が", "か", "が", "か\u309a"]),
        ("10㎏ 10kg 20㎡ 20m² 4℃ 8㎧ 8m/s", [*["10kg"] * 2, *["20m2"] * 2, "4c", *["8m", "s"] * 2]),
        ("½ 1½ 2⅓kg 1⁄2 12", ["1", "2", "1", "1", "2", "2", "1", "3kg", "1", "2", "12"]),
        ("㈱日立 ㍿ ㋀ 10㌔ ⼀", [*"株日立株式会社", "1", "月", "10キロ", "一"]),
        ("Windows™ №5 Ⓗⓘ x⒜ l'㎏ o'㎏", ["windows", "5", "hi", "x", "a", "l", "kg", "okg"]),
        ("葛\U000e0100城 1\ufe0f\u20e3", ["葛", "城", "1"]),
        ("東京都 カタカナ", ["東", "京", "都", "カタカナ"]),
        ("🎉party👩‍👧", ["🎉", "party", "👩", "👧"]),
        ("①② ٣٤ １２ 10.0.0.1", ["12", "34", "12", "10", "0", "0", "1"]),
        ("foo_bar-baz/qux", ["foo", "bar", "baz", "qux"]),
        ("zero\u200bwidth soft\u00adhyphen", ["zerowidth", "softhyphen"]),
        ("<b>bold</b> &amp;", ["b", "bold", "b", "amp"]),
        ("a\ud800b", ["a", "b"]),
        ("\u0301\u0301 ''' ʻ _ \u200b", []),
        ("", []),
    ],
)
def test_words_are_folded(text: str, words: list[str]) -> None:
    assert fold_words(text) == words


@pytest.mark.parametrize(
    "words",
    [
        "パパ ハハ ババ",
        "ガラス カラス",
        "か が か\u309a",
        "หมู หมุ หม",
        "ป่า ป้า ปา",
        "ກຸ ກູ ກ",
        "ກ່າ ກ້າ ກາ",
        "བོད བད བུད",
        "తె తె\u0c56 తె\u0c55",
        "တို တို့",
        "ᨀᨗ ᨀᨘ ᨀ",
    ],
)
def test_marks_that_spell_a_word_are_kept(words: str) -> None:
    folded = [" ".join(fold_words(word)) for word in words.split()]
    assert len(set(folded)) == len(folded)
    assert fold_words(unicodedata.normalize("NFKD", words)) == fold_words(words)


@pytest.mark.parametrize(
    "words", ["é e", "שָׁלוֹם שלום", "مُحَمَّد محمد", "ज़रा जरा", "Ελλάς Ελλας", "ё е", "ܐܰ ܐ", "a\u0336 a"]
)
def test_marks_that_decorate_are_dropped(words: str) -> None:
    assert len(set(fold_words(words))) == 1


def test_every_normal_form_gives_the_same_words() -> None:
    text = "İstanbul Việt Nam Ångström 각 Ǖ ﬁ"
    forms = [
        unicodedata.normalize("NFC", text),
        unicodedata.normalize("NFD", text),
        unicodedata.normalize("NFKC", text),
        unicodedata.normalize("NFKD", text),
    ]
    assert len(set(forms)) > 2
    assert len({tuple(fold_words(form)) for form in forms}) == 1


def test_words_without_their_places_are_the_same_words() -> None:
    chance = random.Random(7)
    letters = "aBc019'`’ʻ -_.,éÉıİßØłəأبتي\u0301\u0308हिन्दी東京カ🎉\u200b\u00ad\ud800서울L'd'"
    letters += "がﾊﾟ\u309aหมู่\ufe0f½㎏㍿℃⒜"
    texts = ["".join(chance.choices(letters, k=chance.randint(1, 12))) for _ in range(5_000)]
    texts += ["".join(chance.choices("aBl' `-9", k=8)) for _ in range(1_000)]
    for text in texts:
        assert fold_words(text) == tokenize(to_nfc(text)).words


def test_folding_a_folded_word_changes_nothing() -> None:
    text = "İstanbul Straße Łódź مُحَمَّد हिन्दी 서울 Ελλάς Ǆ ŉ ǰ ΐ"
    words = fold_words(text)
    assert fold_words(" ".join(words)) == words


@pytest.mark.parametrize(
    "text",
    [
        "İstanbul, ağaç!",
        "e\u0301te\u0301 là",
        "👩‍👩‍👧 x 🎉y",
        "L'Aquila 東京 a\u200bb",
        "\U0001f600 ünï",
    ],
)
def test_spans_are_code_points_of_the_nfc_text(text: str) -> None:
    nfc = to_nfc(text)
    tokens = tokenize(nfc)
    assert tokens.words
    for word, (start, end) in zip(*tokens, strict=True):
        assert 0 <= start < end <= len(nfc)
        assert fold_words(nfc[start:end]) == [word]
    assert tokens.spans == sorted(tokens.spans)


@pytest.mark.parametrize(
    ("text", "spans"),
    [
        ("a 10㎏!", [("a", "a"), ("10㎏", "10kg")]),
        ("1½kg x", [("1", "1"), ("½", "1"), ("½kg", "2kg"), ("x", "x")]),
        ("\U0001f600㈱日", [("\U0001f600",) * 2, ("㈱", "株"), ("日", "日")]),
        ("㏂㍿b", [("㏂", "a"), ("㏂", "m"), *[("㍿", each) for each in "株式会社"], ("b", "b")]),
    ],
)
def test_a_sign_is_the_place_of_all_its_words(text: str, spans: list[tuple[str, str]]) -> None:
    words, found = tokenize(text)
    assert [(text[a:b], word) for word, (a, b) in zip(words, found, strict=True)] == spans


@pytest.mark.parametrize("text", ["a b c d", "l'aquila x", "㏂㍿b", "東京都", "1½kg x"])
def test_the_first_words_are_those_of_all(text: str) -> None:
    whole = tokenize(text)
    for limit in range(8):
        assert tokenize(text, limit=limit) == (whole.words[:limit], whole.spans[:limit])


def test_ascii_and_general_tokenizers_agree() -> None:
    text = "don't L'Aquila a-b_c d`e 'f' 10.5 x''y"
    assert fold_words(text) == fold_words(text + " é")[:-1]


def test_a_long_word_is_cut() -> None:
    assert fold_words("x" * 5000) == ["x" * MAX_WORD_CHARS]
    assert fold_words("é" * 5000) == ["e" * MAX_WORD_CHARS]
    assert tokenize("x" * 70) == (["x" * MAX_WORD_CHARS], [(0, 70)])
