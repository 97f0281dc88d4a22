from __future__ import annotations

import json
import time
from typing import Any

import pytest
from aiohttp import web
from pydantic import ValidationError

from ingest.configuration import RecordsPart
from ingest.fetch.reading import Malformed, Reading, RecordReader
from tests.ingest.upstream import scripted_upstream


def reader(**part: Any) -> RecordReader:
    return RecordReader.of(RecordsPart.model_validate(part))


def read(answer: bytes | object, charset: str | None = None, /, **part: Any) -> Reading:
    raw = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    return reader(**part).read(raw, charset)


@pytest.mark.parametrize("body", [b"", b"  \n", b"[]", b"{}", b"null", b" [ ] "])
def test_an_answer_without_content_is_empty_whatever_the_path(body: bytes):
    assert read(body, path="data.items") == Reading([], [])


@pytest.mark.parametrize("key", ["&id", "not_null(&id)", "[id]", "{a: id}", "id == `1`"])
def test_what_a_key_path_finds_is_a_key_or_malformed(key: str):
    assert [fault.kind for fault in read([{"id": 1}], key=key).faults] == ["key"]


@pytest.mark.parametrize("body", [b'{"data": []}', b'{"data": null}'])
def test_nothing_at_the_path_is_empty_when_the_key_is_there(body: bytes):
    assert read(body, path="data") == Reading([], [])


@pytest.mark.parametrize(
    ("body", "path", "kind"),
    [
        (b"<html>", None, "not_json"),
        (b'{"data": [{"id": 1}', "data", "not_json"),
        (b'{"other": 1}', "data", "path_absent"),
        (b'{"data": {"other": 1}}', "data.items", "path_absent"),
        (b'{"data": 5}', "data", "path_scalar"),
        (b'"text"', None, "path_scalar"),
        (b"false", None, "path_scalar"),
        (b"[" * 10_000 + b"]" * 10_000, None, "too_deep"),
        (b'{"a":' * 100_000, None, "too_deep"),
        (b"\xff\xfe\xfa", None, "undecodable"),
        (b'{"id": "\xff"}', None, "undecodable"),
    ],
)
def test_an_answer_of_the_wrong_structure_is_malformed_by_name(
    body: bytes, path: str | None, kind: str
):
    with pytest.raises(Malformed) as caught:
        read(body, path=path)
    assert caught.value.kind == kind


@pytest.mark.parametrize(
    ("record", "kind"),
    [
        ('{"name": "no key"}', "key"),
        ('{"id": null}', "key"),
        ('{"id": true}', "key"),
        ('{"id": {"a": 1}}', "key"),
        ('{"id": "%s"}' % ("x" * 513), "key"),
        ('{"id": "%s"}' % ("ü" * 257), "key"),
        ('{"id": 2, "v": NaN}', "number"),
        ('{"id": 2, "n": null, "v": NaN}', "number"),
        ('{"id": 2, "v": 1e400}', "number"),
        ('{"id": 2, "v": -Infinity}', "number"),
        ('{"id": 2, "v": 1e999}', "number"),
        ('{"id": 2, "v": %s}' % ("9" * 4301), "number"),
        ('{"id": 2, "v": "a\\u0000b"}', "null_character"),
        ('{"id": 2, "a\\u0000b": 1}', "null_character"),
        ('{"id": 2, "v": "\\ud800"}', "surrogate"),
        ('{"id": 2, "v": %s}' % ("[" * 150 + "]" * 150), "too_deep"),
        ("5", "record_not_object"),
        ("[]", "record_not_object"),
    ],
)
def test_a_bad_record_is_named_and_the_good_one_beside_it_is_kept(record: str, kind: str):
    reading = read(f'[{{"id": 1}}, {record}]'.encode())
    assert [each.key for each in reading.records] == ["1"]
    assert [(fault.kind, fault.index) for fault in reading.faults] == [(kind, 1)]


def test_a_backslash_before_u0000_is_just_text():
    assert not read(b'[{"id": 1, "v": "a\\\\u0000b"}]').faults


def test_a_number_of_4300_digits_is_kept():
    assert not read(b'[{"id": 1, "v": %s}]' % (b"9" * 4300)).faults


def test_text_and_number_keys_are_one_key():
    reading = read([{"id": 1}, {"id": "1"}, {"id": 1.5}])
    assert [each.key for each in reading.records] == ["1", "1", "1.5"]


@pytest.mark.parametrize(
    ("body", "charset"),
    [
        ('{"id": "ağaç"}'.encode("utf-16"), None),
        ('{"id": "ağaç"}'.encode("utf-8-sig"), "utf-8"),
        ('{"id": "ağaç"}'.encode("iso-8859-9"), "ISO-8859-9"),
    ],
)
def test_the_declared_charset_and_the_byte_order_mark_are_honoured(
    body: bytes, charset: str | None
):
    assert read(body, charset).records[0].key == "ağaç"


def test_an_unknown_charset_is_malformed():
    with pytest.raises(Malformed, match="x-klingon"):
        read({"id": 1}, "x-klingon")


def test_the_schema_names_rule_and_place():
    schema = {"type": "object", "properties": {"size": {"type": "integer", "minimum": 1}}}
    reading = read([{"id": 1, "size": 3}, {"id": 2, "size": 0}], schema=schema)
    assert [each.key for each in reading.records] == ["1"]
    assert reading.faults[0].index == 1
    assert "size" in reading.faults[0].reason
    assert "properties/size/minimum" in reading.faults[0].reason


def test_fields_are_found_by_jmespath():
    record = {"meta": {"id": 7}, "names": ["İzmir", "Smyrna"], "n": {"size": 2.5}}
    found = read(
        record, key="meta.id", title="names[0]", body=["names[1:]", "n.size"], weight="n.size"
    ).records[0]
    assert (found.key, found.title, found.body, found.weight) == ("7", "İzmir", "Smyrna\n2.5", 2.5)


def test_without_paths_the_key_is_the_title_and_all_texts_can_be_found():
    found = read({"id": 7, "a": {"b": ["x", 3, True, None]}, "c": "y"}).records[0]
    assert (found.title, found.body) == ("7", "x\n3\ny")


def test_the_hash_ignores_spelling_and_sees_every_change():
    same = {read(raw).records[0].content_hash for raw in (b'{"id":1,"a":2}', b'{"a": 2, "id": 1}')}
    other = read(b'{"id":1,"a":3}').records[0].content_hash
    assert len(same) == 1
    assert other not in same


def test_another_title_path_makes_the_record_another_one():
    record = {"id": 1, "a": "x", "b": "y"}
    assert (
        read(record, title="a").records[0].content_hash
        != read(record, title="b").records[0].content_hash
    )


@pytest.mark.parametrize("weight", ["12", True, None, [1], 10**400])
def test_a_weight_that_is_no_number_is_none(weight: object):
    assert read({"id": 1, "w": weight}, weight="w").records[0].weight is None


# ---- what a hostile upstream may send


@pytest.mark.parametrize(
    ("body", "charset"),
    [
        ('[{"id": "ağaç"}]'.encode("utf-16-le"), "utf-16le"),
        ("\ufeff".encode("utf-16-le") + '[{"id": "ağaç"}]'.encode("utf-16-le"), "UTF-16LE"),
        ('[{"id": "ağaç"}]'.encode("utf-16"), "utf-8"),
        ('[{"id": "ağaç"}]'.encode("utf-16"), "iso-8859-1"),
        ('[{"id": "ağaç"}]'.encode("utf-8-sig"), "windows-1254"),
        ('[{"id": "ağaç"}]'.encode("utf-32"), None),
        ('[{"id": "ağaç"}]'.encode("windows-1254"), "windows-1254"),
        ('[{"id": "ağaç"}]'.encode("utf-16-be"), None),
    ],
)
def test_a_byte_order_mark_wins_over_a_wrong_charset(body: bytes, charset: str | None):
    assert read(body, charset).records[0].key == "ağaç"


@pytest.mark.parametrize(
    ("body", "charset"),
    [
        ('[{"id": "ağaç"}]'.encode(), "us-ascii"),
        ('[{"id": "ağaç"}]'.encode(), "utf-16"),
        ('[{"id": "\xff"}]'.encode("latin-1"), "utf-8"),
        ('[{"id": "\x81"}]'.encode("latin-1"), "windows-1252"),
        (b'[{"id": 1}]', "hex"),
        (b'[{"id": 1}]', "x" * 5_000),
        (b'[{"id": 1}]', ""),
        (b"a" * 500_000, "punycode"),
        (b"a" * 500_000, "punycode!"),
        (b"a" * 500_000, "_punycode"),
        (b"a" * 500_000, "idna"),
        (b"a" * 500_000, "unicode_escape"),
    ],
)
def test_bytes_that_are_not_of_their_charset_are_malformed(body: bytes, charset: str):
    with pytest.raises(Malformed) as caught:
        read(body, charset)
    assert caught.value.kind in {"undecodable", "not_json"}
    assert len(caught.value.reason) <= 300


def test_an_answer_of_millions_of_items_is_malformed_as_a_whole():
    with pytest.raises(Malformed, match="200,000 records") as caught:
        read(b"[" + b"[]," * 199_999 + b"[]]")
    assert caught.value.kind == "too_many"


def test_of_many_faults_the_first_are_told_and_all_are_counted():
    reading = read(b"[" + b"{}," * 49_999 + b'{"id": 1}]')
    assert (len(reading.records), len(reading.faults), reading.fault_count) == (1, 20, 49_999)


def test_a_name_that_stands_twice_counts_by_its_last_value():
    assert [each.key for each in read(b'[{"id": 1, "id": 2}]').records] == ["2"]


def test_a_key_that_comes_twice_is_two_deliveries():
    assert [each.key for each in read([{"id": 1}, {"id": "1"}]).records] == ["1", "1"]


@pytest.mark.parametrize(
    "key", ['"' + "k" * 10_000 + '"', "null", "[1]", '{"a": 1}', "true", "1" * 4301]
)
def test_a_key_that_no_column_holds_is_the_records_fault(key: str):
    reading = read(f'[{{"id": 1}}, {{"id": {key}}}]'.encode())
    assert [each.key for each in reading.records] == ["1"]
    assert len(reading.faults[0].reason) <= 300


@pytest.mark.parametrize(
    ("schema", "record", "where"),
    [
        ({"required": ["name"]}, {"id": 1}, 'the record itself: "name" is a required property'),
        ({"properties": {"a": {"items": {"type": "integer"}}}}, {"id": 1, "a": [1, "x"]}, "a/1"),
        ({"properties": {"n": {"maximum": 10}}}, {"id": 1, "n": 10**400}, "properties/n/maximum"),
        ({"properties": {"t": {"pattern": "^(?=a)b"}}}, {"id": 1, "t": "ab"}, "t/pattern"),
        ({"$ref": "#/$defs/r", "$defs": {"r": {"minProperties": 2}}}, {"id": 1}, "minProperties"),
        ({"additionalProperties": False}, {"id": 1, "x" * 9_000: 1}, "additionalProperties"),
    ],
)
def test_a_violated_rule_is_named_with_its_place(schema: Any, record: Any, where: str):
    (fault,) = read([record], schema=schema).faults
    assert (fault.kind, fault.index) == ("schema", 0)
    assert where in fault.reason
    assert len(fault.reason) < 700


@pytest.mark.parametrize(
    "pattern", ["^(a+)+$", "^(a|aa)+$", "^(?=a)(a+)+$", "^(?=(a+)+$)x", "(.*a){25}"]
)
def test_no_pattern_can_stall_the_loop(pattern: str):
    schema = {"properties": {"t": {"pattern": pattern}}}
    began = time.process_time()
    read([{"id": 1, "t": "a" * 20_000 + "!"}], schema=schema)
    assert time.process_time() - began < 4.0  # unbounded, it would take for ever


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "nonsense"},
        {"properties": {"a": {"minimum": "1"}}},
        {"$ref": "#/nope"},
        {"properties": {"a": {"$ref": "#/$defs/nope"}}},
        {"$ref": "http://127.0.0.1:9/schema.json"},
        {"$id": "http://127.0.0.1:9/", "$ref": "other.json"},
        {"$ref": "file:///etc/passwd"},
        {"$schema": "http://127.0.0.1:9/meta"},
        {"$dynamicRef": "http://127.0.0.1:9/x#a"},
        {"pattern": "("},
        {"patternProperties": {"[": {}}},
        {"required": "id"},
    ],
)
def test_a_schema_that_is_itself_wrong_is_refused_before_anything_is_asked(schema: Any):
    with pytest.raises(ValidationError, match="is not a JSON Schema"):
        reader(schema=schema)


def test_a_pattern_with_back_references_is_given_up_after_a_while():
    schema = {"properties": {"t": {"pattern": r"^(a+)(a+)(a+)(a+)\1\2\3b$"}}}
    began = time.process_time()
    (fault,) = read([{"id": 1, "t": "a" * 5_000}], schema=schema).faults
    assert "t: a pattern takes too long (rule properties/t/pattern)" in fault.reason
    assert time.process_time() - began < 4.0


def test_no_schema_makes_this_server_fetch_an_address():
    async def answer(request: web.Request) -> web.Response:
        return web.json_response({"type": "object"})

    with scripted_upstream(answer) as up, pytest.raises(ValidationError, match="inside the schema"):
        reader(schema={"$ref": up.url})
    assert up.seen == []


def test_a_schema_may_refer_to_its_own_parts_by_their_names():
    schema = {
        "$id": "https://example.org/city",
        "$ref": "place",
        "$defs": {"p": {"$id": "place", "required": ["lat"]}},
    }
    assert read([{"id": 1, "lat": 2}], schema=schema).records
    assert read([{"id": 1}], schema=schema).faults
