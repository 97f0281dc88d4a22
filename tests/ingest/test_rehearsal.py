"""The rehearsal upstream: it serves real cities, misbehaves as documented, and tells the truth."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp
import pytest
from aiohttp.test_utils import TestClient, TestServer

from ingest.fetch.classify import Classifier
from ingest.fetch.transport import Transport
from ingest.outcomes import Outcome
from ingest.plans import prepare_request
from ingest.rehearsal import (
    PROFILES,
    UPSTREAM,
    CitiesUnavailable,
    Misbehaviour,
    Profile,
    Rule,
    Upstream,
    assign_rules,
    load_cities,
    make_app,
    serve_in_thread,
)
from ingest.secrets import Redactor
from portal.config import BASE_DIR
from tests.ingest.test_transport import OPEN, configure


class Clock:
    """Time that passes when somebody says so."""

    def __init__(self) -> None:
        self.now = 1_760_000_000.25

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


class Visitor:
    """A client of an upstream whose every id misbehaves by one rule."""

    def __init__(self, client: TestClient[Any, Any], upstream: Upstream, clock: Clock) -> None:
        self.client = client
        self.upstream = upstream
        self.clock = clock

    async def ask(self, number: int = 1) -> aiohttp.ClientResponse:
        response = await self.client.get(f"/cities/{number}")
        await response.read()
        return response

    async def hear_truth(self, query: str = "") -> dict[str, Any]:
        answer: dict[str, Any] = await (await self.client.get(f"/truth{query}")).json()
        return answer


Visit = Callable[..., AbstractAsyncContextManager[Visitor]]


@pytest.fixture
def visit() -> Visit:
    @asynccontextmanager
    async def open_visit(
        *rules: Rule, count: int = 3, max_per_second: int | None = None
    ) -> AsyncIterator[Visitor]:
        profile = Profile("test", "", rules=rules, max_per_second=max_per_second)
        clock = Clock()
        app = make_app(profile=profile, count=count)
        upstream = app[UPSTREAM]
        upstream._clock, upstream._sleep = clock, clock.sleep
        async with TestClient(TestServer(app)) as client:
            # aiohttp repeats a GET by itself when a kept connection dies; here each send counts.
            client.session._retry_connection = False
            yield Visitor(client, upstream, clock)

    return open_visit


def always(does: Misbehaviour, **more: Any) -> Rule:
    return Rule("always", does, share=1.0, failures=None, **more)


def once(does: Misbehaviour, **more: Any) -> Rule:
    return Rule("once", does, share=1.0, **more)


async def test_the_largest_city_comes_first_with_its_country_and_other_names(visit: Visit) -> None:
    async with visit() as visitor:
        city = (await (await visitor.ask(1)).json())["data"]
    assert (city["id"], city["name"], city["country"]) == (1, "Shanghai", "China")
    assert "Sanghay" in city["alternate_names"] or "Shanghai" in str(city["alternate_names"])
    assert set(city) == {
        *("id", "name", "country", "alternate_names", "population", "latitude", "longitude"),
        *("timezone", "updated_at"),
    }
    assert datetime.fromisoformat(city["updated_at"]).tzinfo is not None


def test_cities_are_ordered_by_population() -> None:
    populations = [city["population"] for city in load_cities(2000)]
    assert populations == sorted(populations, reverse=True)


def test_more_cities_than_there_are_is_refused() -> None:
    with pytest.raises(CitiesUnavailable, match="10000000"):
        load_cities(10_000_000)


@pytest.mark.parametrize("text", ["0", "4", "-1", "1.0", "x", "１", "1" * 5000])
async def test_an_id_outside_the_range_is_a_404_that_truth_calls_a_stray(
    visit: Visit, text: str
) -> None:
    async with visit() as visitor:
        response = await visitor.client.get(f"/cities/{text}")
        truth = await visitor.hear_truth()
    assert response.status == 404
    assert truth["requests"]["strays"] == 1
    assert truth["never_asked"] == 3


@pytest.mark.parametrize("name", sorted(PROFILES))
def test_which_id_does_what_is_the_same_in_every_process(name: str) -> None:
    code = (
        "from ingest.rehearsal import PROFILES, assign_rules;"
        f"print({{n: r.name for n, r in assign_rules(PROFILES[{name!r}], 500).items()}})"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code], cwd=BASE_DIR, capture_output=True, text=True, check=True
    ).stdout
    here = {number: rule.name for number, rule in assign_rules(PROFILES[name], 500).items()}
    assert printed.strip() == str(here)


def test_every_rule_of_the_demo_gets_its_share_and_at_least_one_id() -> None:
    for count in (200, 10_000):
        assigned = list(assign_rules(PROFILES["unruly"], count).values())
        for rule in PROFILES["unruly"].rules:
            assert assigned.count(rule) == rule.count_ids(count) >= 1


def test_the_demo_shows_every_misbehaviour_that_it_promises() -> None:
    done = {rule.does for rule in PROFILES["unruly"].rules}
    assert done >= {
        *(Misbehaviour.REFUSED_SECONDS, Misbehaviour.REFUSED_DATE, Misbehaviour.UNAVAILABLE),
        *(Misbehaviour.RESET, Misbehaviour.SLOW, Misbehaviour.EMPTY_LIST, Misbehaviour.NO_CONTENT),
        *(Misbehaviour.HTML, Misbehaviour.TRUNCATED, Misbehaviour.WRONG_KEYS),
        *(Misbehaviour.MISSING, Misbehaviour.DENIED, Misbehaviour.BROKEN),
    }
    denying = [r for r in PROFILES["unruly"].rules if r.does is Misbehaviour.DENIED]
    assert [rule.count_ids(10_000) for rule in denying] == [1]


@pytest.mark.parametrize(
    ("does", "status"),
    [
        (Misbehaviour.UNAVAILABLE, 503),
        (Misbehaviour.BROKEN, 500),
        (Misbehaviour.MISSING, 404),
        (Misbehaviour.GONE, 410),
        (Misbehaviour.DENIED, 403),
        (Misbehaviour.NO_CONTENT, 204),
        (Misbehaviour.EMPTY_LIST, 200),
        (Misbehaviour.HTML, 200),
    ],
)
async def test_a_lasting_misbehaviour_never_heals(
    visit: Visit, does: Misbehaviour, status: int
) -> None:
    async with visit(always(does)) as visitor:
        assert [(await visitor.ask()).status for _ in range(6)] == [status] * 6


@pytest.mark.parametrize("failures", [1, 2, 5])
async def test_a_passing_misbehaviour_heals_after_its_failures(visit: Visit, failures: int) -> None:
    async with visit(once(Misbehaviour.UNAVAILABLE, failures=failures)) as visitor:
        statuses = [(await visitor.ask()).status for _ in range(failures + 2)]
    assert statuses == [503] * failures + [200, 200]


async def test_a_refusal_in_seconds_passes_when_the_delay_was_waited(visit: Visit) -> None:
    async with visit(once(Misbehaviour.REFUSED_SECONDS, wait_seconds=3)) as visitor:
        refused = await visitor.ask()
        visitor.clock.now += 3
        passed = await visitor.ask()
        truth = await visitor.hear_truth()
    assert (refused.status, refused.headers["Retry-After"], passed.status) == (429, "3", 200)
    assert truth["waits"]["honoured"] == 1
    assert truth["waits"]["violated"] == 0
    assert truth["waits"]["seconds_named"] == 3


async def test_a_refusal_by_date_passes_at_that_date(visit: Visit) -> None:
    async with visit(once(Misbehaviour.REFUSED_DATE, wait_seconds=2)) as visitor:
        refused = await visitor.ask()
        named = parsedate_to_datetime(refused.headers["Retry-After"]).timestamp()
        assert named - visitor.clock.now >= 2
        visitor.clock.now = named - 0.5
        early = await visitor.ask()
        visitor.clock.now = named
        passed = await visitor.ask()
    assert (refused.status, early.status, passed.status) == (429, 429, 200)
    assert early.headers["Retry-After"] == refused.headers["Retry-After"]


async def test_who_comes_back_early_is_refused_again_and_counted(visit: Visit) -> None:
    async with visit(once(Misbehaviour.REFUSED_SECONDS, wait_seconds=4, failures=2)) as visitor:
        await visitor.ask()
        visitor.clock.now += 1.5
        early = await visitor.ask()
        visitor.clock.now += 2.5
        second = await visitor.ask()
        visitor.clock.now += 4
        passed = await visitor.ask()
        truth = await visitor.hear_truth()
    # Coming early neither prolongs the wait nor uses up one of the two refusals.
    assert (early.status, early.headers["Retry-After"]) == (429, "3")
    assert (second.status, passed.status) == (429, 200)
    assert (truth["waits"]["violated"], truth["waits"]["honoured"]) == (1, 2)
    assert truth["waits"]["still_open"] == 0


async def test_the_seconds_in_which_only_a_named_wait_passed_are_measured(visit: Visit) -> None:
    async with visit(once(Misbehaviour.REFUSED_SECONDS, wait_seconds=2)) as visitor:
        await visitor.ask()
        visitor.clock.now += 5  # three seconds longer than asked for: those are the client's own
        await visitor.ask()
        truth = await visitor.hear_truth()
    assert truth["waits"]["idle_seconds"] == 2


async def test_a_503_may_name_its_delay_too(visit: Visit) -> None:
    async with visit(once(Misbehaviour.UNAVAILABLE_SECONDS)) as visitor:
        refused = await visitor.ask()
    assert (refused.status, refused.headers["Retry-After"]) == (503, "1")


async def test_a_reset_connection_has_no_answer_and_heals(visit: Visit) -> None:
    async with visit(once(Misbehaviour.RESET)) as visitor:
        with pytest.raises(aiohttp.ClientConnectionError):
            await visitor.ask()
        assert (await visitor.ask()).status == 200
        truth = await visitor.hear_truth()
    assert truth["requests"]["answers"] == {"200": 1, "reset": 1}


async def test_a_cut_off_answer_breaks_in_the_middle_of_the_body(visit: Visit) -> None:
    async with visit(always(Misbehaviour.CUT_OFF)) as visitor:
        with pytest.raises(aiohttp.ClientPayloadError):
            await visitor.ask()
        truth = await visitor.hear_truth()
    assert truth["gaps"] == {"failed": [1]}


async def test_truncated_json_is_whole_for_http_and_broken_for_json(visit: Visit) -> None:
    async with visit(always(Misbehaviour.TRUNCATED)) as visitor:
        response = await visitor.ask()
        body = await response.read()
    assert int(response.headers["Content-Length"]) == len(body)
    with pytest.raises(ValueError, match=r"Unterminated|Expecting|Invalid|codec"):
        json.loads(body)


async def test_wrong_keys_are_good_json_without_the_promised_path(visit: Visit) -> None:
    async with visit(always(Misbehaviour.WRONG_KEYS)) as visitor:
        answer = await (await visitor.ask()).json()
    assert "data" not in answer
    assert answer["result"]["name"] == "Shanghai"


@pytest.mark.parametrize(
    ("does", "body"),
    [(Misbehaviour.EMPTY_LIST, b"[]"), (Misbehaviour.EMPTY_PATH, b'{"data": null}')],
)
async def test_empty_answers_are_what_they_are_called(
    visit: Visit, does: Misbehaviour, body: bytes
) -> None:
    async with visit(always(does)) as visitor:
        assert await (await visitor.ask()).read() == body


async def test_a_slow_answer_is_late_once_and_good(visit: Visit) -> None:
    async with visit(once(Misbehaviour.SLOW, wait_seconds=7)) as visitor:
        before = visitor.clock.now
        response = await visitor.ask()
        assert (response.status, visitor.clock.now - before) == (200, 7)
        await visitor.ask()
        assert visitor.clock.now - before == 7


async def test_a_bomb_is_small_on_the_wire_and_50_mb_when_decoded(visit: Visit) -> None:
    async with visit(always(Misbehaviour.BOMB)) as visitor:
        response = await visitor.client.get("/cities/1")
        body = await response.read()
    assert int(response.headers["Content-Length"]) < 200_000
    assert len(body) > 50_000_000


async def test_deep_json_and_bytes_that_are_no_text_are_served(visit: Visit) -> None:
    async with visit(always(Misbehaviour.DEEP)) as visitor:
        assert (await (await visitor.ask()).read()).count(b"[") == 10_000
    async with visit(always(Misbehaviour.UNDECODABLE)) as visitor:
        with pytest.raises(UnicodeDecodeError):
            (await (await visitor.ask()).read()).decode()


async def test_good_answers_may_be_packed_dripped_or_elsewhere(visit: Visit) -> None:
    for does in (Misbehaviour.BROTLI, Misbehaviour.ZSTD, Misbehaviour.DRIP, Misbehaviour.MOVED):
        async with visit(always(does, wait_seconds=4)) as visitor:
            before = visitor.clock.now
            response = await visitor.ask()
            assert (await response.json())["data"]["id"] == 1
            assert round(visitor.clock.now - before) == (4 if does is Misbehaviour.DRIP else 0)
            assert (await visitor.hear_truth())["outcomes"]["delivered"] == 1


async def test_every_odd_answer_is_seen_by_the_fetcher_as_truth_tells_it() -> None:
    with serve_in_thread(profile="hostile", count=40) as url:
        configuration = configure(url, max_body_bytes=1_000_000)
        part = configuration.request.model_copy(update={"url": url + "/cities/{id}"})
        records = configuration.records.model_copy(update={"path": "data"})
        configuration = configuration.model_copy(update={"request": part, "records": records})
        classifier = Classifier.of(configuration, redact=Redactor([]))
        seen: Counter[str] = Counter()
        async with Transport(
            part, guard=OPEN, concurrency=4, max_body_bytes=1_000_000
        ) as transport:
            for number in range(1, 41):
                reply = await transport.send(prepare_request(configuration, str(number)))
                seen[classifier.classify(reply).outcome.value] += 1
        async with aiohttp.ClientSession() as session, session.get(f"{url}/truth") as answer:
            truth = await answer.json()
    assert seen == Counter({name: count for name, count in truth["outcomes"].items() if count})
    assert truth["outcomes"] == truth["expected_outcomes"]


async def test_a_rate_limit_is_a_limit_of_any_sliding_second(visit: Visit) -> None:
    async with visit(max_per_second=2) as visitor:
        statuses = []
        for step in (0.0, 0.4, 0.4, 0.3, 1.1):
            visitor.clock.now += step
            statuses.append((await visitor.ask()).status)
        truth = await visitor.hear_truth()
    assert statuses == [200, 200, 429, 429, 200]
    assert truth["requests"]["peak_per_second"] == 3


async def test_truth_follows_the_last_answer_not_the_plan(visit: Visit) -> None:
    rule = Rule("late", Misbehaviour.HTML, share=1.0, failures=2)
    async with visit(rule) as visitor:
        await visitor.ask(2)
        before = await visitor.hear_truth("?ids=1,2")
        await visitor.ask(2)
        await visitor.ask(2)
        after = await visitor.hear_truth("?ids=1,2")
    assert before["outcomes"]["malformed"] == 1
    assert before["gaps"] == {"malformed": [2]}
    assert before["expected_outcomes"]["delivered"] == 3
    assert after["outcomes"]["delivered"] == 1
    assert after["gaps"] == {}
    assert after["never_asked"] == 2
    assert (before["sends"], after["sends"]) == ({"1": 0, "2": 1}, {"1": 0, "2": 3})


async def test_truth_names_all_ten_outcomes_and_the_whole_plan(visit: Visit) -> None:
    async with visit(Rule("gone for good", Misbehaviour.GONE, exactly=2, failures=None)) as visitor:
        truth = await visitor.hear_truth()
    assert set(truth["outcomes"]) == set(truth["expected_outcomes"]) == set(Outcome.values)
    plan = truth["planned_misbehaviour"]["gone for good"]
    assert (plan["does"], plan["ends_as"], len(plan["ids"])) == ("gone", "missing", 2)
    assert truth["expected_outcomes"]["missing"] == 2


async def test_truth_refuses_ids_that_are_no_numbers(visit: Visit) -> None:
    async with visit() as visitor:
        assert (await visitor.client.get("/truth?ids=1,x")).status == 400


async def test_reset_forgets_what_was_seen_and_heals_nothing(visit: Visit) -> None:
    async with visit(once(Misbehaviour.UNAVAILABLE)) as visitor:
        await visitor.ask()
        assert (await visitor.client.post("/reset")).status == 200
        truth = await visitor.hear_truth()
        assert truth["requests"]["total"] == 0
        assert (await visitor.ask()).status == 503


@pytest.fixture
def rehearsal_process() -> Iterator[str]:
    """`manage.py rehearsal` on a free port; gives the line that it prints."""
    process = subprocess.Popen(
        [sys.executable, "manage.py", "rehearsal", "--port", "0", "--count", "100"],
        cwd=BASE_DIR,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    yield process.stdout.readline()
    process.terminate()
    try:
        assert process.wait(timeout=10) == 0
    finally:
        process.kill()
        process.stdout.close()


async def test_the_command_serves_and_says_where(rehearsal_process: str) -> None:
    address = rehearsal_process.split("http://")[1].split("/")[0]
    async with aiohttp.ClientSession() as session, session.get(f"http://{address}/health") as reply:
        assert await reply.json() == {"ok": True, "profile": "unruly", "count": 100}


async def test_a_thread_serves_it_beside_the_test() -> None:
    with serve_in_thread(profile="calm", count=5) as address:
        async with aiohttp.ClientSession() as session:
            for number in range(1, 6):
                async with session.get(f"{address}/cities/{number}") as reply:
                    assert (await reply.json())["data"]["id"] == number
            async with session.get(f"{address}/truth") as reply:
                assert (await reply.json())["outcomes"]["delivered"] == 5
