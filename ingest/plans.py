"""From a plan's key to the HTTP request that it stands for, and to the URL that people may see."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import quote, urlencode

from yarl import URL

from ingest.configuration import PLACEHOLDER, SECRET_NAME, SourceConfiguration
from ingest.secrets import REDACTED


@dataclass(frozen=True, slots=True)
class PreparedRequest:
    method: str
    url: str
    headers: dict[str, str]


def prepare_request(
    configuration: SourceConfiguration, key: str, *, turn: int = 0
) -> PreparedRequest:
    """The request of ledger row `key`. Several API keys are used in turn, by `turn`."""
    part = configuration.request
    values = {configuration.plan.name: key}
    headers = {name: _fill(text, values) for name, text in part.headers.items()}
    params = {name: _fill(text, values) for name, text in part.params.items()}
    if part.api_key:
        api_key = part.api_key[turn % len(part.api_key)]
        (headers if api_key.place == "header" else params)[api_key.name] = api_key.secret
    return PreparedRequest(
        method=part.method, url=_address(part.url, values, params), headers=headers
    )


def address_of(configuration: SourceConfiguration, key: str) -> str:
    """The URL of ledger row `key` as people may see it: without any secret."""
    part = configuration.request
    values = {configuration.plan.name: key}
    params = {
        name: REDACTED if SECRET_NAME.search(name) and not PLACEHOLDER.fullmatch(text) else text
        for name, text in part.params.items()
    }
    params = {name: _fill(text, values) for name, text in params.items()}
    return _address(part.url, values, params)


def _fill(text: str, values: dict[str, str]) -> str:
    return PLACEHOLDER.sub(lambda match: values[match[1]], text)


def _address(template: str, values: dict[str, str], params: dict[str, str]) -> str:
    """The exact text that is sent: a key is percent-encoded as a whole, and stays so."""
    pieces = list(_split_template(template))
    pieces[1::2] = (quote(values[name], safe="") for name in pieces[1::2])
    url = "".join(pieces)
    if not params:
        return url
    base, mark, fragment = url.partition("#")
    joint = "&" if "?" in base else "?"
    return f"{base}{joint}{urlencode(params, safe='*')}{mark}{fragment}"


# What a URI may hold besides letters and digits (RFC 3986); the % of what is encoded already, too.
_LEGAL = "%-._~:/?#[]@!$&'()*+,;="


@lru_cache(maxsize=256)
def _split_template(template: str) -> tuple[str, ...]:
    """Fixed texts and placeholder names by turns, a fixed text first.

    The host is written as connections are opened to it (IDNA, lower case); of the rest only what a
    URI cannot hold is encoded, so that %2F in it goes out as %2F.
    """
    base = "/".join(template.split("/", 3)[:3]).partition("?")[0].partition("#")[0]
    rest = PLACEHOLDER.split(template[len(base) :])
    rest[::2] = [quote(text, safe=_LEGAL) for text in rest[::2]]
    rest[0] = str(URL(base).origin()) + (rest[0] if rest[0].startswith("/") else f"/{rest[0]}")
    return tuple(rest)
