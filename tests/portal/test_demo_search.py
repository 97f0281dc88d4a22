"""Which search engine `manage.py demo --search …` uses."""

from __future__ import annotations

import os

import pytest
from django.core.management.base import CommandError

from portal.config import Environment, read_config
from portal.management.commands import demo
from portal.processes import describe_elasticsearch


@pytest.fixture
def read(tmp_path):
    def read(**values: str):
        return read_config(Environment({"PORTAL_DATA_DIR": str(tmp_path / "var")} | values))

    return read


@pytest.fixture
def started_anew(monkeypatch):
    """The arguments and the environment of the command that replaces this one."""
    started: list[tuple[list[str], dict[str, str]]] = []
    monkeypatch.setattr(os, "execve", lambda _, command, env: started.append((command, env)))
    return started


def test_an_unknown_engine_is_refused_by_name(read):
    with pytest.raises(CommandError, match="SEARCH=solr"):
        demo.check_search(read(), "solr")
    demo.check_search(read(), "tantivy")
    demo.check_search(read(), "elasticsearch")


def test_the_embedded_engine_beside_an_address_of_another_is_a_contradiction(read):
    with pytest.raises(CommandError, match="ELASTICSEARCH_URL"):
        demo.check_search(read(ELASTICSEARCH_URL="http://localhost:9200"), "tantivy")


def test_all_processes_get_the_address_of_the_server_that_is_started(read, started_anew):
    demo.start_anew_where_needed(read(), {"search": "elasticsearch"})

    [(command, environment)] = started_anew
    option, port = command[-2:]
    assert option == "--search-port"
    assert environment["ELASTICSEARCH_URL"] == f"http://127.0.0.1:{port}"
    assert environment["PORTAL_ALLOW_PRIVATE_UPSTREAMS"] == "1"


def test_a_server_that_the_environment_names_is_used_and_none_started(read, started_anew):
    config = read(ELASTICSEARCH_URL="http://there:9200", PORTAL_ALLOW_PRIVATE_UPSTREAMS="1")

    demo.start_anew_where_needed(config, {"search": "elasticsearch"})

    assert started_anew == []


def test_the_supervised_server_keeps_its_files_in_the_data_folder(read):
    config = read()

    program = describe_elasticsearch(config, 9200)

    assert list(program.command)[2:] == [
        *("run", "--data-dir", str(config.data_dir / "elasticsearch"), "--port", "9200")
    ]
