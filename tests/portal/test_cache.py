"""The portal goes on without its cache."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis
from django.core.cache import cache as default_cache
from django.core.cache import caches
from django.test import Client

from ingest.models import ErrorLog
from portal.cache import PatientRedisCache
from portal.throttles import CallerThrottle

cache: Any = default_cache


@pytest.fixture
def gone(settings, tmp_path):
    """The default cache, with nobody at its address."""
    here = settings.CACHES["default"]
    settings.CACHES = {"default": here | {"LOCATION": f"unix://{tmp_path}/gone.sock?db=3"}}
    yield cache
    del caches["default"]


def test_a_counter_counts_and_ends():
    assert [cache.count_up("c", expires_seconds=60) for _ in range(3)] == [1, 2, 3]
    assert 30 < cache.seconds_left("c") <= 60
    assert cache.seconds_left("nothing") == 0


def test_without_redis_the_cache_is_empty_and_nobody_is_refused(gone):
    assert isinstance(caches["default"], PatientRedisCache)
    gone.set("a", 1)
    assert gone.get("a", "default") == "default"
    assert gone.get_many(["a"]) == {}
    assert gone.add("a", 1) is True
    assert gone.delete("a") is False
    assert "a" not in gone
    assert gone.count_up("a", expires_seconds=1) == 0
    assert gone.seconds_left("a") == 0


@pytest.fixture
def read_only(settings):
    """The default cache in a Redis that refuses to write, as one whose memory is full."""
    here = settings.CACHES["default"]
    with redis.Redis.from_url(settings.REDIS_CACHE_URL) as client:
        rights = ["on", ">word", "~*", "+@read", "+@connection"]
        client.execute_command("ACL", "SETUSER", "reader", "reset", *rights)
        address = urlsplit(settings.REDIS_CACHE_URL)
        place = address._replace(netloc=f"reader:word@{address.netloc.rpartition('@')[2]}")
        settings.CACHES = {"default": here | {"LOCATION": place.geturl()}}
        yield cache
        del caches["default"]
        client.execute_command("ACL", "DELUSER", "reader")


@pytest.mark.django_db
def test_a_redis_that_refuses_to_write_refuses_nobody(read_only, signed_in_api):
    read_only.set("a", 1)
    assert read_only.get("a", "default") == "default"
    assert read_only.count_up("a", expires_seconds=1) == 0
    assert signed_in_api.get("/api/runs/").status_code == 200


@pytest.mark.django_db
def test_without_redis_people_stay_signed_in_and_tokens_are_given(gone, user, api):
    client = Client()
    client.force_login(user)
    assert user.email in client.get("/").content.decode()

    response = api.post("/api/token/", {"email": user.email, "password": "a long enough password"})
    assert response.status_code == 200
    token = response.json()["access"]
    assert api.get("/api/runs/", headers={"Authorization": f"Bearer {token}"}).status_code == 200


@pytest.mark.django_db
def test_emptying_the_cache_signs_nobody_out(browser, user):
    cache.clear()

    assert user.email in browser.get("/").content.decode()


class TestThrottles:
    pytestmark = pytest.mark.django_db

    @pytest.fixture(autouse=True)
    def one_hour(self, monkeypatch):
        """Windows are those of the clock: no hour ends during a test."""
        now = time.time()
        monkeypatch.setattr("portal.throttles.time", SimpleNamespace(time=lambda: now))

    def test_a_caller_over_the_rate_is_told_to_wait(self, signed_in_api, settings):
        settings.THROTTLE_RATES = settings.THROTTLE_RATES | {"user": "3/hour"}

        answers = [signed_in_api.get("/api/runs/") for _ in range(4)]

        assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
        assert answers[-1].json()["error"]["code"] == "throttled"
        assert 0 < int(answers[-1]["Retry-After"]) <= 3600

    def test_the_anonymous_are_counted_by_address(self, api, settings):
        settings.THROTTLE_RATES = settings.THROTTLE_RATES | {"anonymous": "2/hour"}

        answers = [api.post("/api/token/", {}).status_code for _ in range(3)]

        assert answers == [400, 400, 429]

    def test_guessing_tokens_uses_up_the_rate_of_the_address(self, api, settings):
        settings.THROTTLE_RATES = settings.THROTTLE_RATES | {"anonymous": "3/hour"}
        wrong = {"Authorization": "Bearer x.y.z"}

        answers = [api.get("/api/runs/", headers=wrong), api.get("/api/runs/")]
        answers += [api.get("/api/search/", headers=wrong) for _ in range(2)]

        assert [answer.status_code for answer in answers] == [401, 401, 401, 429]
        assert answers[-1].json()["error"]["code"] == "throttled"
        assert int(answers[-1]["Retry-After"]) > 0

    def test_a_wrong_password_is_counted_once(self, api, settings):
        settings.THROTTLE_RATES = settings.THROTTLE_RATES | {"anonymous": "2/hour"}
        wrong = {"email": "nobody@example.org", "password": "wrong"}

        answers = [api.post("/api/token/", wrong).status_code for _ in range(3)]

        assert answers == [401, 401, 429]

    def test_errors_of_the_unknown_are_noted_up_to_twice_their_rate(self, api, user, settings):
        settings.THROTTLE_RATES = settings.THROTTLE_RATES | {"anonymous": "2/hour"}

        for _ in range(10):
            api.get("/api/runs/")
        assert ErrorLog.objects.count() == 4

        api.force_login(user)
        for _ in range(10):
            api.get("/api/runs/999999/")
        assert ErrorLog.objects.count() == 14

    def test_search_has_a_rate_of_its_own(self, user, settings):
        settings.THROTTLE_RATES = {"user": "1/hour", "search": "3/hour", "anonymous": "1/hour"}
        request = type("Request", (), {"user": user, "META": {}})()
        view = type("View", (), {"throttle_scope": "search"})()

        allowed = [CallerThrottle().allow_request(request, view) for _ in range(4)]

        assert allowed == [True, True, True, False]

    @pytest.mark.parametrize(("scope", "per_second"), [("user", 200), ("search", 1000)])
    def test_the_default_rates_leave_room(self, settings, scope, per_second):
        number, period = settings.THROTTLE_RATES[scope].split("/")

        assert period == "second"
        assert int(number) > per_second
