"""Secrets of a source: taken out of its configuration, encrypted at rest, redacted everywhere.

API keys, proxies that carry a password, and headers or parameters with names such as Authorization
leave the configuration; `{"set": true}` stands in their place.
"""

from __future__ import annotations

import base64
import contextlib
import copy
import json
from collections.abc import Iterable, Iterator, Mapping
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


class Redactor:
    """Replaces every occurrence of a secret by `***`: plain, percent-encoded or escaped as JSON."""

    def __init__(self, secrets: Iterable[str]) -> None:
        words = {word for secret in secrets for word in _words_of(secret)}
        spellings = {text for word in words for text in _spellings(word)}
        self._words = sorted((text for text in spellings if len(text) > 3), key=len, reverse=True)

    def __call__(self, text: str) -> str:
        for word in self._words:
            text = text.replace(word, REDACTED)
        return text


def _words_of(secret: str) -> Iterator[str]:
    """The secret, and what in it is as secret by itself."""
    yield secret
    parts = urlsplit(secret) if "://" in secret else None
    if parts and parts.password:
        yield from (parts.password, unquote(parts.password))
    # "Bearer abc": the token alone is as secret as the header.
    yield from (word for word in secret.split() if len(word) >= 8)
    scheme, _, credentials = secret.partition(" ")
    if scheme.lower() == "basic":
        with contextlib.suppress(ValueError):
            user_and_password = base64.b64decode(credentials, validate=True).decode()
            yield user_and_password
            yield user_and_password.partition(":")[2]


def _spellings(word: str) -> set[str]:
    return {
        word,
        quote(word, safe=""),
        quote(word),
        quote_plus(word),
        json.dumps(word)[1:-1],
        json.dumps(word, ensure_ascii=False)[1:-1],
    }
