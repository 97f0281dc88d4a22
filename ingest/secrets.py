"""Secrets of a source: taken out of its configuration, encrypted at rest, redacted everywhere.

API keys, proxies that carry a password, and headers or parameters with names such as Authorization
leave the configuration; `{"set": true}` stands in their place.
"""

from __future__ import annotations

import base64
import contextlib
import copy
import html
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import combinations
from typing import Any
from urllib.parse import quote, quote_plus, unquote, urlsplit

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from ingest.configuration import PLACEHOLDER, SECRET_NAME
from ingest.errors import ConfigurationInvalid

MARK: dict[str, bool] = {"set": True}
REDACTED = "***"

SecretPath = tuple[str | int, ...]


def detach_secrets(data: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """(configuration with marks, secrets by path as JSON text) of a whole configuration."""
    public = copy.deepcopy(dict(data))
    secrets: dict[str, str] = {}
    for path in list(_secret_places(public)):
        holder, last = _walk_to(public, path)
        if isinstance(holder[last], str):
            secrets[json.dumps(path)] = holder[last]
            holder[last] = dict(MARK)
    return public, secrets


def attach_secrets(public: Mapping[str, Any], secrets: Mapping[str, str]) -> dict[str, Any]:
    """The configuration with its secrets back in place.

    Raises ConfigurationInvalid where a mark stands for a secret that was never given.
    """
    data = copy.deepcopy(dict(public))
    for path in list(_secret_places(data)):
        holder, last = _walk_to(data, path)
        if holder[last] == MARK:
            try:
                holder[last] = secrets[json.dumps(path)]
            except KeyError:
                dotted = ".".join(map(str, path))
                raise ConfigurationInvalid(
                    {dotted: ["no secret is stored here; send it."]}
                ) from None
    return data


def replace_credentials(snapshot: Mapping[str, Any], present: Mapping[str, Any]) -> dict[str, Any]:
    """`snapshot` with the API keys, proxies, secret headers and parameters of `present`.

    Both are configurations with marks: what comes out is completed by the present secrets.
    """
    request, now = snapshot["request"], present["request"]
    replaced = {**request, "api_key": now["api_key"], "proxies": now["proxies"]}
    for part in ("headers", "params"):
        kept = {name: value for name, value in request[part].items() if value != MARK}
        secret = {name: value for name, value in now[part].items() if value == MARK}
        replaced[part] = kept | secret
    return {**snapshot, "request": replaced}


def list_credentials(whole: Mapping[str, Any]) -> list[Any]:
    """What of a whole configuration decides whether an upstream lets us in."""
    secrets = detach_secrets(whole)[1]
    return [whole["request"]["api_key"], whole["request"]["proxies"], secrets]


def has_secrets(public: Mapping[str, Any]) -> bool:
    """Whether a configuration with marks has any."""
    return any(True for _ in _secret_places(public))


def _walk_to(data: Any, path: SecretPath) -> tuple[Any, str | int]:
    for step in path[:-1]:
        data = data[step]
    return data, path[-1]


def _secret_places(data: Mapping[str, Any]) -> Iterator[SecretPath]:
    request = data.get("request")
    if not isinstance(request, Mapping):
        return
    for part in ("headers", "params"):
        values = request.get(part)
        if isinstance(values, Mapping):
            for name, value in values.items():
                if value == MARK or (
                    isinstance(value, str)
                    and SECRET_NAME.search(name)
                    and not PLACEHOLDER.fullmatch(value)
                ):
                    yield ("request", part, name)
    keys = request.get("api_key")
    if isinstance(keys, Mapping) and "secret" in keys:
        yield ("request", "api_key", "secret")
    if isinstance(keys, list):
        for index, key in enumerate(keys):
            if isinstance(key, Mapping) and "secret" in key:
                yield ("request", "api_key", index, "secret")
    yield from _proxy_places(request.get("proxies"))


def _proxy_places(proxies: object) -> Iterator[SecretPath]:
    if not isinstance(proxies, list):
        return
    for index, proxy in enumerate(proxies):
        if isinstance(proxy, Mapping):
            for scheme in ("http", "https"):
                value = proxy.get(scheme)
                # Not by urlsplit: a patch is looked at before it is known to be a URL.
                if value == MARK or (isinstance(value, str) and "@" in value):
                    yield ("request", "proxies", index, scheme)


def _cipher() -> MultiFernet:
    return MultiFernet([Fernet(key) for key in settings.ENCRYPTION_KEYS])


def seal(secrets: Mapping[str, str]) -> bytes:
    """Encrypted with the first of PORTAL_ENCRYPTION_KEYS; no secret → empty."""
    return _cipher().encrypt(json.dumps(secrets).encode()) if secrets else b""


def unseal(sealed: bytes | memoryview) -> dict[str, str]:
    """Decrypted with whichever of PORTAL_ENCRYPTION_KEYS fits. Raises ImproperlyConfigured."""
    if not sealed:
        return {}
    try:
        secrets: dict[str, str] = json.loads(_cipher().decrypt(bytes(sealed)))
    except InvalidToken as error:
        raise ImproperlyConfigured(
            "PORTAL_ENCRYPTION_KEYS: none of the keys opens the stored secrets."
        ) from error
    return secrets


def rotate(sealed: bytes | memoryview) -> bytes:
    """The same secrets, encrypted with the first of PORTAL_ENCRYPTION_KEYS."""
    return seal(unseal(sealed))


class Redactor:
    """Replaces every occurrence of a secret by `***`.

    Plain, percent-encoded, escaped as JSON or HTML, or in Base64, also inside of longer
    credentials.
    """

    def __init__(self, secrets: Iterable[str]) -> None:
        words = {word for secret in secrets for word in _words_of(secret)}
        spellings = {text for word in words for text in _spellings(word)}
        # Names of hosts and their like are lower-cased before they are told. Records are not.
        lowered = {text.lower() for text in words if len(text) >= SURELY_SECRET}
        self._words = sorted(
            (text for text in spellings | lowered if len(text) > 3), key=len, reverse=True
        )
        # A short secret ("demo") is a word of many records by chance.
        self._long_words = [
            text for text in self._words if len(text) >= SURELY_SECRET and text in spellings
        ]
        # Spellings with \u002B and its like need no search of their own: `may_be_in` sees those.
        needles = (text.encode() for text in self._long_words)
        self._needles = [text for text in needles if not _ESCAPED_ASCII.search(text)]

    @property
    def longest(self) -> int:
        return len(self._words[0]) if self._words else 0

    def __call__(self, text: str) -> str:
        for word in self._words:
            if word in text:
                text = text.replace(word, REDACTED)
        return text

    def shorten(self, text: str, size: int, *, is_whole: bool) -> str:
        """The first `size` characters of `text` without secrets.

        Redacted before it is cut: half a secret is not recognised any more. Where the text is not
        whole, what it ends in may be the beginning of one.
        """
        return self(text if is_whole else self._drop_begun(text))[:size]

    def _drop_begun(self, text: str) -> str:
        end, before = len(text), None
        # What is dropped may have been the end of another secret, which then is a beginning.
        while end != before:
            before = end
            end = min((_find_begun(word, text, end) for word in self._words), default=end)
        return text if end == len(text) else text[:end] + REDACTED

    def may_be_in(self, body: bytes, charset: str | None) -> bool:
        """Whether `scrub` may find something in what this JSON text says. Cheap: for every body."""
        if not self._needles:
            return False
        if charset and not charset.lower().startswith(_LIKE_ASCII):
            return True
        for needle in self._needles:
            if needle in body:
                return True
        return b"\x00" in body[:4] or (b"\\u00" in body and bool(_ESCAPED_ASCII.search(body)))

    def scrub(self, value: Any) -> Any:
        """A JSON value without the secrets that its texts and names hold."""
        if isinstance(value, str):
            for word in self._long_words:
                if word in value:
                    value = value.replace(word, REDACTED)
            return value
        if isinstance(value, dict):
            return {self.scrub(name): self.scrub(each) for name, each in value.items()}
        if isinstance(value, list):
            return [self.scrub(each) for each in value]
        return value


SURELY_SECRET = 8
# Of a text that quotes an upstream, this much is kept until it is redacted and cut to be shown.
KEPT_CHARACTERS = 10_000
# Charsets that write ASCII as ASCII.
_LIKE_ASCII = ("utf-8", "utf8", "us-ascii", "ascii", "iso-8859", "latin", "windows-125", "cp125")
# \u0041 for A: no search of the raw bytes finds a secret that is written so.
_ESCAPED_ASCII = re.compile(rb"\\u00[2-7]")


def _words_of(secret: str) -> Iterator[str]:
    """The secret, and what in it is as secret by itself."""
    parts = None
    if "://" in secret:
        with contextlib.suppress(ValueError):  # it only looks like an address
            parts = urlsplit(secret)
    if parts and parts.password:
        yield from (parts.password, unquote(parts.password))
        if parts.path in ("", "/") and not (parts.query or parts.fragment):
            return  # the rest of a proxy's address is no secret: it is told where it fails
    yield secret
    # "Bearer abc": the token alone is as secret as the header. "abc-{id}" goes out filled.
    for text in PLACEHOLDER.split(secret)[::2]:
        yield from (word for word in (text, *text.split()) if len(word) >= SURELY_SECRET)
    scheme, _, credentials = secret.partition(" ")
    if scheme.lower() == "basic":
        with contextlib.suppress(ValueError):
            user_and_password = base64.b64decode(credentials, validate=True).decode()
            yield user_and_password
            yield user_and_password.partition(":")[2]


def _find_begun(word: str, text: str, end: int) -> int:
    """Where the text up to `end` ends in the beginning of `word`; `end` where it does not."""
    head = word[:4]
    at = text.find(head, max(0, end - len(word) + 1), end)
    while at >= 0 and not word.startswith(text[at:end]):
        at = text.find(head, at + 1, end)
    return at if at >= 0 else end


def _spellings(word: str) -> set[str]:
    return {
        word,
        quote(word, safe=""),
        quote(word),
        quote_plus(word),
        re.sub("%[0-9A-F]{2}", lambda found: found[0].lower(), quote(word, safe="")),
        json.dumps(word, ensure_ascii=False)[1:-1],
        *_in_json(word),
        *_in_html(word),
        *_in_base64(word.encode()),
    }


# Writers of JSON may escape these, though they need not.
_NEEDLESSLY_ESCAPED = frozenset("+&<>'\"`=/")
# What is escaped by .NET, Gson, Go and Rails, PHP when told to; and by one that is careful.
_ESCAPED_TOGETHER = ("", "+&<>'\"`", "&<>='", "&<>", "&<>'\"", "+&<>'\"`=/")
_MANY = 4
_JSON_ESCAPE = re.compile(r"\\u[0-9a-f]{4}")


def _in_json(word: str) -> Iterator[str]:
    as_json = json.dumps(word)[1:-1].replace('\\"', '"')
    for escaped in _choose_escaped(_NEEDLESSLY_ESCAPED.intersection(word)):
        codes: dict[str, str | int | None] = {'"': '\\"'}
        codes |= {each: f"\\u{ord(each):04x}" for each in escaped}
        text = as_json.translate(str.maketrans(codes))
        for spelled in (text, _JSON_ESCAPE.sub(lambda code: "\\u" + code[0][2:].upper(), text)):
            yield spelled
            yield spelled.replace("/", "\\/")  # as PHP writes it


def _choose_escaped(found: frozenset[str]) -> Iterable[Iterable[str]]:
    """Every choice of a few characters; of many, those of known writers."""
    if len(found) > _MANY:
        return {found.intersection(each) for each in _ESCAPED_TOGETHER} | {
            frozenset(each) for each in found
        }
    return (each for size in range(len(found) + 1) for each in combinations(found, size))


# The template engines of Python, Rails, Go, PHP and .NET; & < > are escaped by all alike.
_HTML_ESCAPES: tuple[dict[str, str | int | None], ...] = (
    {},
    {"'": "&#x27;", '"': "&quot;"},
    {"'": "&#39;", '"': "&quot;"},
    {"'": "&#39;", '"': "&#34;"},
    {"'": "&#39;", '"': "&#34;", "+": "&#43;"},
    {"'": "&#039;", '"': "&quot;"},
    {"'": "&#x27;", '"': "&quot;", "+": "&#x2B;"},
)
_FOR_HTML = frozenset("&<>'\"+")


def _in_html(word: str) -> Iterator[str]:
    if not _FOR_HTML.intersection(word):
        return
    text = html.escape(word, quote=False)
    for escapes in _HTML_ESCAPES:
        yield text.translate(str.maketrans(escapes))


def _in_base64(secret: bytes) -> Iterator[str]:
    """What stays the same of a secret's Base64, whatever stands before and after it."""
    if len(secret) < SURELY_SECRET:
        return
    for before in range(3):
        first = -(-before * 8 // 6)
        last = (before + len(secret)) * 8 // 6
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            yield encode(b"\0" * before + secret)[first:last].decode()
