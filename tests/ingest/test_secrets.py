from __future__ import annotations

import json

import pytest
from cryptography.fernet import Fernet
from django.core.exceptions import ImproperlyConfigured

from ingest import services
from ingest.configuration import parse_configuration
from ingest.errors import ConfigurationInvalid
from ingest.models import Source
from ingest.plans import address_of, prepare_request, redact_url
from ingest.secrets import Redactor, attach_secrets, detach_secrets, seal, unseal
from tests.ingest.factories import UserFactory

WITH_SECRETS = {
    "slug": "vault",
    "request": {
        "url": "https://api.example.org/items/{id}",
        "headers": {"Authorization": "Bearer top-secret-1", "X-Trace": "plain"},
        "params": {"access_token": "top-secret-2", "lang": "en"},
        "proxies": [{"http": "http://joe:top-secret-3@proxy.example.org:3128"}],
        "api_key": [
            {"in": "header", "name": "X-Api-Key", "secret": "top-secret-4"},
            {"in": "query", "name": "key", "secret": "top-secret-5"},
        ],
    },
    "plan": {"type": "values", "name": "id", "values": ["a b/c", "ü"]},
}


def test_no_secret_stays_in_the_public_part_and_all_come_back():
    data = parse_configuration(WITH_SECRETS).as_json()
    public, secrets = detach_secrets(data)
    assert "top-secret" not in json.dumps(public)
    assert len(secrets) == 5
    assert public["request"]["headers"] == {"Authorization": {"set": True}, "X-Trace": "plain"}
    assert attach_secrets(public, secrets) == data


@pytest.mark.django_db
def test_a_patch_leaves_secrets_alone_unless_they_are_sent():
    source = services.create_source(owner=UserFactory(), data=WITH_SECRETS)
    services.update_source(source=source, patch={"name": "Vault", "limits": {"concurrency": 7}})
    stored = Source.objects.get(slug="vault")
    assert stored.name == "Vault"
    assert b"top-secret" not in bytes(stored.sealed_secrets)
    assert len(unseal(stored.sealed_secrets)) == 5
    services.update_source(
        source=source, patch={"request": {"headers": {"Authorization": "Bearer other-one"}}}
    )
    stored.refresh_from_db()
    assert unseal(stored.sealed_secrets)['["request", "headers", "Authorization"]'] == (
        "Bearer other-one"
    )


@pytest.mark.django_db
def test_a_mark_for_a_secret_that_was_never_given_is_refused():
    source = services.create_source(
        owner=UserFactory(), data={**WITH_SECRETS, "request": {"url": "https://e.org/{id}"}}
    )
    with pytest.raises(ConfigurationInvalid) as caught:
        services.update_source(
            source=source, patch={"request": {"headers": {"Authorization": {"set": True}}}}
        )
    assert list(caught.value.fields) == ["request.headers.Authorization"]


def test_secrets_sealed_with_an_older_key_open_after_a_rotation(settings):
    old, new = Fernet.generate_key().decode(), Fernet.generate_key().decode()
    settings.ENCRYPTION_KEYS = (old,)
    sealed = seal({"a": "b"})
    settings.ENCRYPTION_KEYS = (new, old)
    assert unseal(sealed) == {"a": "b"}
    settings.ENCRYPTION_KEYS = (new,)
    with pytest.raises(ImproperlyConfigured, match="PORTAL_ENCRYPTION_KEYS"):
        unseal(sealed)


def test_a_redactor_hides_secrets_in_every_spelling():
    redact = Redactor(["Bearer top/secret 1", "http://joe:pa55word@proxy:1"])
    text = redact("sent top/secret 1: Bearer top/secret 1, Bearer%20top%2Fsecret%201, pa55word")
    assert "top" not in text.replace("top/secret 1:", "")
    assert "pa55word" not in text


def test_the_address_that_people_see_has_no_secret():
    configuration = parse_configuration(WITH_SECRETS)
    shown = address_of(configuration, "a b/c")
    assert shown == "https://api.example.org/items/a%20b%2Fc?access_token=***&lang=en"
    sent = prepare_request(configuration, "ü", turn=1)
    assert sent.url == (
        "https://api.example.org/items/%C3%BC?access_token=top-secret-2&lang=en&key=top-secret-5"
    )
    assert "X-Api-Key" not in sent.headers
    assert prepare_request(configuration, "ü", turn=0).headers["X-Api-Key"] == "top-secret-4"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://joe:pw@example.org/a?b=1", "https://example.org/a?b=1"),
        ("https://example.org/a?token=x&b=1", "https://example.org/a?token=***&b=1"),
        ("http://[bad", "***"),
    ],
)
def test_any_url_is_redacted_before_it_is_shown(url: str, shown: str):
    assert redact_url(url) == shown
