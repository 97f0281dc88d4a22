from __future__ import annotations

import traceback
from typing import Any

import pytest

from ingest.configuration import (
    STORED,
    WITHOUT_SECRETS,
    LimitsPart,
    merge_patch,
    origin_of,
    parse_configuration,
)
from ingest.errors import ConfigurationInvalid
from ingest.hosts import name_origin

SMALLEST: dict[str, Any] = {
    "slug": "cities",
    "request": {"url": "https://api.example.org/cities/{id}"},
    "plan": {"type": "range", "name": "id", "start": 1, "stop": 10000},
}


def change(path: str, value: object) -> dict[str, Any]:
    """The smallest configuration with one thing changed."""
    patch: Any = value
    for step in reversed(path.split(".")):
        patch = {step: patch}
    merged = merge_patch(SMALLEST, patch)
    assert isinstance(merged, dict)
    return merged


def faults_of(data: object) -> dict[str, list[str]]:
    with pytest.raises(ConfigurationInvalid) as caught:
        parse_configuration(data)
    return caught.value.fields


def test_the_documented_defaults_are_filled_in():
    data = parse_configuration(SMALLEST).as_json()
    assert data == {
        "slug": "cities",
        "name": "cities",
        "request": {
            "url": "https://api.example.org/cities/{id}",
            "method": "GET",
            "headers": {},
            "params": {},
            "timeout_seconds": 30.0,
            "proxies": [],
            "api_key": None,
        },
        "plan": {"type": "range", "name": "id", "start": 1, "stop": 10000, "step": 1},
        "records": {
            "path": None,
            "key": "id",
            "title": None,
            "body": None,
            "occurred_at": None,
            "weight": None,
            "schema": {},
        },
        "limits": {
            "per_second": 5.0,
            "concurrency": 5,
            "window": None,
            "batch": None,
            "quota": None,
            "deadline_seconds": 3600.0,
            "max_body_bytes": 10_000_000,
        },
        "retry": {
            "attempts": 5,
            "base_seconds": 1.0,
            "cap_seconds": 60.0,
            "sweeps": 1,
            "missing": False,
            "accept": [],
        },
        "block": {
            "patience": 5,
            "markers": ["banned", "blocked", "denied"],
            "patience_429": 50,
            "patience_5xx": 50,
        },
        "schedule": None,
    }


def test_what_is_stored_can_be_read_again():
    data = parse_configuration(SMALLEST).as_json()
    assert parse_configuration(data).as_json() == data


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        ("slug", "Not A Slug", "slug"),
        ("slug", "new", "slug"),
        ("surprise", 1, "surprise"),
        ("request.url", "ftp://example.org/{id}", "request.url"),
        ("request.url", "https://user:pw@example.org/{id}", "request.url"),
        ("request.url", "https://{id}.example.org/", "request.url"),
        ("request.url", "https://example.org/{id}?api_key=abc", "request.url"),
        ("request.url", "https://example.org/\n{id}", "request.url"),
        ("request.url", "https://example.org/{page}", "request.url"),
        ("request.url", "https://example.org/", "plan.name"),
        ("request.url", "https://example.org/x#{id}", "plan.name"),
        ("request.url", "https://example.org/{id}#{id}", None),
        ("request.url", "https://example.org/{id}#{other}", "request.url"),
        ("request.timeout", 3, "request.timeout"),
        ("request.timeout_seconds", 0, "request.timeout_seconds"),
        ("request.timeout_seconds", "30", "request.timeout_seconds"),
        ("request.method", "BREW", "request.method"),
        ("request.headers", {"X Y": "1"}, "request.headers"),
        ("request.headers", {"X-A": "a\r\nb: c"}, "request.headers.X-A"),
        ("request.headers", {"X-A\n": "1"}, "request.headers"),
        ("request.headers", {"X-A": "1", "x-a": "2"}, "request.headers"),
        ("request.headers", {"content-length": "0"}, "request.headers"),
        ("request.headers", {"Transfer-Encoding": "chunked"}, "request.headers"),
        ("request.headers", {"Connection": "close"}, "request.headers"),
        ("request.headers", {"Host": "other.example", "Accept": "a/b", "Expect": "x"}, None),
        ("request.proxies", "http://p:1", "request.proxies"),
        ("request.proxies", [{}], "request.proxies.0"),
        ("request.proxies", [{"https": "socks5://p:1"}], "request.proxies.0.https"),
        ("request.api_key", {"in": "cookie", "name": "k", "secret": "s"}, "request.api_key.in"),
        ("plan.type", "spiral", "plan.type"),
        ("plan.type", "cursor", "plan.type"),
        ("plan.stop", "10", "plan.stop"),
        ("plan.stop", 0, "plan"),
        ("plan.step", 0, "plan"),
        ("plan.stop", 10**9, "plan"),
        ("plan.start", 1.5, "plan.start"),
        ("records.key", "][", "records.key"),
        ("records.key", "&id", "records.key"),
        ("records.title", "name || &id", "records.title"),
        ("records.path", "sort_by(items, &id)", None),
        ("records.path", "sort_by(items, id)", "records.path"),
        ("records.key", "nofn(@)", "records.key"),
        ("records.key", "a[?b == 'c'].{x: d, y: [nofn(@)]}", "records.key"),
        ("records.key", "not_null(&id)", "records.key"),
        ("records.title", "length()", "records.title"),
        ("records.title", "length(a, b)", "records.title"),
        ("records.weight", "not_null()", "records.weight"),
        ("records.weight", "not_null(a, b, `1`)", None),
        ("records.title", "join(', ', map(&name, tags[1:2])) || to_string(@)", None),
        ("records.path", " | ".join(["[@, @][]"] * 40), "records.path"),
        ("records.title", " | ".join(["{a: @, b: @}"] * 30), "records.title"),
        ("records.title", " | ".join(["join('', [@, @])"] * 20), "records.title"),
        ("records.title", " | ".join(["to_string([@])"] * 30), "records.title"),
        ("records.title", "[*][]" + "|map(&[@, @], @)[]" * 20, "records.title"),
        ("records.path", "items" + "[?a == 'b' && c == 'd'].e" * 15, None),
        ("records.title", "join(' ', [" + ", ".join(f"f{n}" for n in range(80)) + "])", None),
        ("records.body", ["ok", "merge()"], "records.body.1"),
        ("records.body", [], None),
        ("records.body", ["ok", "]["], "records.body.1"),
        ("records.schema", {"type": "nonsense"}, "records.schema"),
        ("records.schema", {"$ref": "http://127.0.0.1/x"}, "records.schema"),
        ("limits.per_second", 0, "limits.per_second"),
        ("limits.per_second", -1, "limits.per_second"),
        ("limits.per_second", 1e-300, "limits.per_second"),
        ("limits.per_second", 9e-7, "limits.per_second"),
        ("limits.per_second", 1e-6, None),
        ("limits.window", {"requests": 1, "seconds": 1e-9}, "limits.window.seconds"),
        ("limits.window", {"requests": 1, "seconds": 0.001}, None),
        ("limits.batch", {"requests": 1, "pause_seconds": 1e-9}, "limits.batch.pause_seconds"),
        ("limits.concurrency", 0, "limits.concurrency"),
        ("limits.concurrency", 2.5, "limits.concurrency"),
        ("limits.concurrency", True, "limits.concurrency"),
        ("limits.window", {"requests": 100, "seconds": 60}, None),
        ("limits.window", {"requests": 0, "seconds": 60}, "limits.window.requests"),
        ("limits.window", {"requests": 1.5, "seconds": 60}, "limits.window.requests"),
        ("limits.window", {"requests": 100_001, "seconds": 60}, "limits.window.requests"),
        ("limits.window", {"requests": 1, "seconds": 0}, "limits.window.seconds"),
        ("limits.window", {"requests": 1}, "limits.window.seconds"),
        ("limits.window", {"requests": 1, "seconds": 1, "minutes": 1}, "limits.window.minutes"),
        ("limits.window", "100/60", "limits.window"),
        ("limits.batch", {"requests": 5, "pause_seconds": 2}, None),
        ("limits.batch", {"requests": 5, "pause_seconds": -1}, "limits.batch.pause_seconds"),
        ("limits.quota", {"requests": 10_000, "per": "month"}, None),
        ("limits.quota", {"requests": 10_000, "per": "fortnight"}, "limits.quota.per"),
        ("limits.quota", {"requests": -1, "per": "day"}, "limits.quota.requests"),
        ("limits.per_second", 0.01, None),
        ("limits.max_body_bytes", -1, "limits.max_body_bytes"),
        ("retry.attempts", 0, "retry.attempts"),
        ("retry.accept", ["delivered"], "retry.accept.0"),
        ("block.patience", 0, "block.patience"),
        ("block.markers", ["banned", " \t"], "block.markers.1"),
        ("block.markers", ["go away"], None),
        ("schedule", "every day", "schedule"),
    ],
)
def test_a_wrong_value_is_refused_by_its_path(path: str, value: object, named: str | None):
    data = change(path, value)
    if named is None:
        parse_configuration(data)
    else:
        faults = faults_of(data)
        assert list(faults) == [named]
        assert all(len(text) > 8 for text in faults[named])


def test_every_fault_is_named_at_once():
    data = change("limits.per_second", 0) | {"surprise": 1}
    assert set(faults_of(data)) == {"limits.per_second", "surprise"}


@pytest.mark.parametrize("data", [None, [], "x", 3, {}])
def test_what_is_not_a_configuration_at_all_is_refused(data: object):
    assert faults_of(data)


def test_no_traceback_of_a_wrong_configuration_holds_its_secrets():
    secret = "correct-horse-battery"
    key = {"in": "header", "name": "X-Api-Key", "secret": secret, "surprise": secret}
    data = change("request.api_key", key) | {"schedule": secret, "limits": {"window": secret}}
    with pytest.raises(ConfigurationInvalid) as caught:
        parse_configuration(data | {"plan": {"type": "values", "name": secret, "values": [{}]}})
    assert secret not in "".join(traceback.format_exception(caught.value))


def test_null_attempts_mean_until_the_deadline():
    # A merge patch would drop the null, so it is set directly.
    configuration = parse_configuration({**SMALLEST, "retry": {"attempts": None}})
    assert configuration.retry.attempts is None


def test_values_that_repeat_are_refused_by_index():
    data = {**SMALLEST, "plan": {"type": "values", "name": "id", "values": ["a", 7, "7"]}}
    faults = faults_of(data)
    assert list(faults) == ["plan.values"]
    assert "values[2] repeats values[1]" in faults["plan.values"][0]


@pytest.mark.parametrize("value", [None, True, {}, [], "", "\x00", "\ud800"])
def test_values_that_cannot_be_sent_are_refused(value: object):
    data = {**SMALLEST, "plan": {"type": "values", "name": "id", "values": ["a", value]}}
    assert next(iter(faults_of(data))).startswith("plan.values")


@pytest.mark.parametrize(
    ("path", "value", "is_fault"),
    [
        ("/{id}", "..", True),
        ("/{id}/x", ".", True),
        ("/{id}{id}/", ".", True),
        ("/{id}{id}/", "..", False),
        ("/.{id}/x", ".", True),
        ("/{id}%2E/x", ".", True),
        ("/.{id}/x", "..", False),
        ("/x{id}/", ".", False),
        ("/x?q={id}", "..", False),
        ("/{id}", "...", False),
        ("/{id}", "%2e", False),
    ],
)
def test_a_value_may_not_make_a_segment_of_dots(path: str, value: str, is_fault: bool):
    plan = {"type": "values", "name": "id", "values": ["a", value]}
    data = {**SMALLEST, "request": {"url": f"https://h{path}"}, "plan": plan}
    if is_fault:
        message = f"values[1] is {value!r}, which no path can hold."
        assert faults_of(data) == {"plan.values": [message]}
    else:
        parse_configuration(data)


@pytest.mark.parametrize("value", ["a\nb", "a\r", "\x1b", "\x7f"])
def test_a_value_for_a_header_is_one_that_a_header_can_hold(value: str):
    plan = {"type": "values", "name": "id", "values": [1, "a\tü", value]}
    parse_configuration({**SMALLEST, "plan": plan})
    data = {**SMALLEST, "request": {"url": "https://h/", "headers": {"X-Id": "no. {id}"}}}
    faults = faults_of({**data, "plan": plan})
    assert faults == {"plan.values": ["values[2] has a character that no header can hold."]}
    parse_configuration({**data, "plan": plan | {"values": [1, "a\tü"]}})


def test_a_range_counts_down_and_steps():
    data = {**SMALLEST, "plan": {"type": "range", "name": "id", "start": 9, "stop": 1, "step": -4}}
    assert list(parse_configuration(data).plan.keys()) == ["9", "5", "1"]


@pytest.mark.parametrize("name", ["X Api Key", "X-Schlüssel", "X-Api-Key:", "TE", "Keep-Alive"])
def test_a_key_in_a_header_has_the_name_of_one(name: str):
    key = {"in": "header", "name": name, "secret": "s"}
    assert list(faults_of(change("request.api_key", key))) == ["request.api_key.name"]
    assert list(faults_of(change("request.api_key", [key]))) == ["request.api_key.0.name"]
    parse_configuration(change("request.api_key", key | {"in": "query"}))


@pytest.mark.parametrize(
    ("place", "part", "name", "is_fault"),
    [
        ("header", "headers", "x-api-key", True),
        ("header", "params", "X-Api-Key", False),
        ("query", "params", "X-Api-Key", True),
        ("query", "params", "x-api-key", False),
        ("query", "headers", "X-Api-Key", False),
    ],
)
def test_what_a_key_would_overwrite_is_refused(place: str, part: str, name: str, is_fault: bool):
    key = {"in": place, "name": "X-Api-Key", "secret": "s"}
    request = SMALLEST["request"] | {part: {name: "1"}, "api_key": key}
    if is_fault:
        faults = {"request.api_key.name": [f"'X-Api-Key' stands in request.{part}, too."]}
        assert faults_of(SMALLEST | {"request": request}) == faults
    else:
        parse_configuration(SMALLEST | {"request": request})


def test_two_keys_of_one_name_are_used_in_turn():
    keys = [{"in": "header", "name": "X-Api-Key", "secret": secret} for secret in ("a", "b")]
    assert len(parse_configuration(change("request.api_key", keys)).request.api_key) == 2


@pytest.mark.parametrize("context", [STORED, WITHOUT_SECRETS])
def test_what_is_stored_already_stays_readable(context: str):
    data = change("request.headers", {"X-A\n": "1", "Connection": "close", "connection": "x"})
    data["request"]["url"] = "https://a..b/{id}"
    data |= {"block": {"markers": [" "]}, "records": {"key": "nofn(@)"}}
    data["limits"] = {"per_second": 1e-9, "window": {"requests": 1, "seconds": 1e-9}}
    data["request"]["api_key"] = {"in": "header", "name": "X Api Key", "secret": "s"}
    assert faults_of(data)
    assert parse_configuration(data, context=context).request.api_key[0].name == "X Api Key"
    # As the budgets of other runs at the host read it.
    assert LimitsPart.model_validate(data["limits"]).per_second == 1e-9


@pytest.mark.parametrize(
    "host",
    [
        "a..b",
        ".a",
        "a b",
        "a%2Fb",
        "a$b",
        "[::g]",
        "[::1",
        f"x{'a' * 63}.example",
        "a." * 127 + "b",
    ],
)
def test_a_host_that_no_name_server_knows_is_refused(host: str):
    assert list(faults_of(change("request.url", f"http://{host}:81/{{id}}"))) == ["request.url"]
    data = change("request.proxies", [f"http://me:pw@{host}:81"])
    assert list(faults_of(data)) == ["request.proxies.0"]


@pytest.mark.parametrize(
    "host",
    [
        *("localhost", "my_service", "a.b.", "-a.b-", "münchen.example", "A" * 63 + ".example"),
        *("127.0.0.1", "127.1", "①②⑦.⓪.⓪.①", "[::1]", "[fe80::1%25eth0]", "[::ffff:10.0.0.1]"),
    ],
)
def test_a_host_may_be_an_address_or_any_name(host: str):
    parse_configuration(change("request.url", f"http://{host}:81/{{id}}"))
    parse_configuration(change("request.proxies", [f"http://me:pw@{host}:81"]))


def test_one_proxy_url_serves_both_schemes():
    data = change("request.proxies", ["http://proxy.example.org:3128"])
    proxy = parse_configuration(data).request.proxies[0]
    assert proxy.http == proxy.https == "http://proxy.example.org:3128"


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("http://ｌocalhost/{id}", "http://localhost:80"),
        ("http://LOCALHOST?id={id}", "http://localhost:80"),
        ("HTTP://localhost:80/", "http://localhost:80"),
        ("http://localhost:080/", "http://localhost:80"),
        ("http://①②⑦.⓪.⓪.①/", "http://127.0.0.1:80"),
        ("http://[0:0:0:0:0:0:0:1]/{id}", "http://::1:80"),
        ("http://[::1]:80/", "http://::1:80"),
        ("https://[2001:DB8::1]:8443/", "https://2001:db8::1:8443"),
        ("https://münchen.example/#{id}", "https://xn--mnchen-3ya.example:443"),
        ("https://XN--mnchen-3ya.example/", "https://xn--mnchen-3ya.example:443"),
        ("https://foo_bar.example:443", "https://foo_bar.example:443"),
        ("https://Example.org.:443/{id}", "https://example.org:443"),
    ],
)
def test_a_host_has_one_origin_in_all_its_spellings(url: str, origin: str):
    assert name_origin(origin_of(url)) == origin


@pytest.mark.parametrize("url", ["", "nothing", "http://", "http://h:99999/", "http://。/", "//h"])
def test_an_origin_can_be_named_of_anything_that_was_ever_stored(url: str):
    assert len(origin_of(url)) == 3


def test_a_merge_patch_removes_by_null_and_replaces_lists():
    target = {"a": {"b": 1, "c": 2}, "l": [1, 2]}
    assert merge_patch(target, {"a": {"b": None}, "l": [3]}) == {"a": {"c": 2}, "l": [3]}


@pytest.mark.parametrize(
    ("data", "faults"),
    [
        ({"request": None}, {"request": "must be a JSON object."}),
        ({"plan": None}, {"plan": "must be a JSON object."}),
        (
            {"request": {"url": "https://h/{id}", "api_key": {"in": "body", "name": "k"}}},
            {
                "request.api_key.in": "must be 'header' or 'query'.",
                "request.api_key.secret": "is required.",
            },
        ),
        (
            {"request": {"url": "https://h/{id}", "api_key": [{"in": "query", "name": "k"}]}},
            {"request.api_key.0.secret": "is required."},
        ),
        (
            {"request": {"url": "https://h/{id}", "api_key": "abc"}},
            {"request.api_key": "must be a JSON object or a list of them."},
        ),
        (
            {"request": {"url": "https://h/{id}", "proxies": ["ftp://p:1"]}},
            {"request.proxies.0": "must be an http:// or https:// URL with a host."},
        ),
        (
            {"request": {"url": "https://h/{id}", "params": {"q": "{other}"}}},
            {"request.params.q": "{other} is not a placeholder of the plan; it provides {id}."},
        ),
        (
            {"plan": {"type": "values", "name": "id", "values": [1, True, None]}},
            {"plan.values": "values[1] must be text or a number."},
        ),
        (
            {"plan": {"type": "values", "name": "id", "values": ["a", "b", "a"]}},
            {"plan.values": "values[2] repeats values[0]: 'a'."},
        ),
        (
            {"plan": {"type": "values", "name": "id", "values": [1, "1"]}},
            {"plan.values": "values[1] repeats values[0]: '1'."},
        ),
        (
            {"plan": {"type": "values", "name": "id", "values": []}},
            {"plan.values": "must have at least 1 item."},
        ),
        ({"schedule": "61 * * * *"}, {"schedule": None}),
        ({"retry": {"attempts": 0}}, {"retry.attempts": "must be at least 1."}),
        ({"limits": {"per_second": 1e-9}}, {"limits.per_second": "must be at least 0.000001."}),
        (
            {"limits": {"window": {"requests": 1, "seconds": 1e-9}}},
            {"limits.window.seconds": "must be at least 0.001."},
        ),
    ],
)
def test_a_fault_is_named_where_its_writer_wrote_it_and_in_words_of_json(data: Any, faults: Any):
    found = faults_of({**SMALLEST, **data})
    assert list(found) == list(faults)
    for path, message in faults.items():
        assert message is None or found[path] == [message]


def test_a_plan_whose_name_stands_nowhere_is_refused():
    found = faults_of({**SMALLEST, "request": {"url": "https://example.org/"}})
    assert "neither in request.url" in found["plan.name"][0]
