"""The single-node server of elasticsearch/, started for real."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import elasticsearch
import psutil
import pytest
from elasticsearch import AuthenticationException, Elasticsearch

from portal.processes.ownership import is_dead
from tests.live.elasticsearch_node import check_started
from tests.live.stack import wait_for

ROOT = Path(__file__).resolve().parents[2]
NODE = ROOT / "elasticsearch" / "node.py"
INDEX = json.loads((ROOT / "elasticsearch" / "index.json").read_text())
HEAP = ("--heap", "256m")
FETCH_SECONDS = 600  # 99 MB, once on a machine
NOT_RUNNING = 3
Result = subprocess.CompletedProcess[str]


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """A folder that root's unprivileged account may enter; pytest's own tmp_path is closed to it.

    Ends the nodes that a failed test left in it.
    """
    folder = Path(tempfile.mkdtemp(prefix="gleaner-node-"))
    folder.chmod(0o755)
    yield folder
    for lock in folder.glob("*/node.lock"):
        node("stop", lock.parent)
    shutil.rmtree(folder)


def command(name: str, *options: str | Path) -> list[str]:
    return [sys.executable, str(NODE), name, *map(str, options)]


def call(arguments: list[str], *, env: dict[str, str] | None = None) -> Result:
    return subprocess.run(
        arguments, env=env, capture_output=True, text=True, timeout=FETCH_SECONDS, check=False
    )


def node(name: str, folder: Path, *options: str, env: dict[str, str] | None = None) -> Result:
    return call(command(name, "--data-dir", folder, *options), env=env)


@pytest.fixture(scope="module")
def server() -> None:
    """What a node needs is on this machine; else a skip, with CI=true a failure."""
    fetched = call(command("fetch"))
    if fetched.returncode == os.EX_UNAVAILABLE and not os.environ.get("CI"):  # noqa: TID251
        pytest.skip(fetched.stderr.strip().splitlines()[-1])
    assert fetched.returncode == 0, fetched.stderr


def start(folder: Path, *options: str) -> str:
    started = node("start", folder, "--port", "0", *HEAP, *options)
    check_started(started)
    return started.stdout.strip()


def read_pid(folder: Path) -> int:
    return int((folder / "logs" / "node.pid").read_text())


def find_processes(folder: Path) -> list[psutil.Process]:
    """Live processes whose command line names the folder; a zombie has no command line."""
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if any(str(folder) in part for part in process.info["cmdline"] or ())
    ]


@pytest.mark.live
@pytest.mark.usefixtures("server")
def test_a_killed_node_comes_back_with_its_documents_and_stop_leaves_no_process(data_dir):
    folder = data_dir / "first"
    url = start(folder)
    assert start(folder) == url  # a second start changes nothing
    with Elasticsearch(url) as client:
        client.indices.create(index="cities", settings=INDEX["settings"])
        client.index(index="cities", id="1", document={"name": "istanbul"}, refresh=True)
        assert client.cluster.health()["status"] == "green"

    server = psutil.Process(read_pid(folder))
    server.kill()
    # A signal is not a death yet: a start before it would wait for the dying one.
    wait_for("the end of the killed", lambda: is_dead(server))

    with Elasticsearch(start(folder)) as client:
        client.cluster.health(wait_for_status="green")
        fuzzy = {"match": {"name": {"query": "istnbul", "fuzziness": 1}}}
        hits = client.search(index="cities", query=fuzzy)["hits"]["hits"]
    assert [hit["_id"] for hit in hits] == ["1"]
    assert find_processes(folder)
    assert node("stop", folder).returncode == 0
    assert find_processes(folder) == []
    assert node("status", folder).returncode == NOT_RUNNING


@pytest.mark.live
@pytest.mark.usefixtures("server")
def test_two_nodes_on_one_machine_share_the_shards_of_one_cluster(data_dir):
    first, second = data_dir / "first", data_dir / "second"
    first_url = start(first)
    second_url = start(second, "--join", str(first))
    assert first_url != second_url

    with Elasticsearch(second_url) as client:
        client.indices.create(index="cities", settings={**INDEX["settings"], "number_of_shards": 3})
        health = client.cluster.health(wait_for_status="green", wait_for_no_relocating_shards=True)
        holders = client.search_shards(index="cities")["nodes"].values()
    assert health["number_of_nodes"] == 2
    assert {holder["name"] for holder in holders} == {"first", "second"}

    assert node("stop", second).returncode == 0
    with Elasticsearch(first_url) as client:
        assert client.cluster.health(wait_for_nodes="1")["number_of_nodes"] == 1


@pytest.mark.live
@pytest.mark.usefixtures("server")
def test_a_supervised_node_asks_for_its_password_and_ends_at_sigterm(data_dir):
    neighbour_url = start(data_dir / "neighbour")
    folder, password = data_dir / "guarded", data_dir / "password"
    password.write_text("correct horse\n")
    supervised = subprocess.Popen(
        command("run", "--data-dir", folder, "--port", "0", *HEAP, "--password-file", password),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = node("status", folder, "--wait", "120").stdout.strip()

    with (
        Elasticsearch(neighbour_url) as neighbour,
        Elasticsearch(url, basic_auth=("elastic", "correct horse")) as insider,
        Elasticsearch(url, basic_auth=("elastic", "wrong")) as stranger,
    ):
        names = insider.cluster.health()["cluster_name"], neighbour.cluster.health()["cluster_name"]
        assert names == ("gleaner", "gleaner")
        assert insider.cluster.health()["number_of_nodes"] == 1  # they never meet by themselves
        with pytest.raises(AuthenticationException):
            stranger.cluster.health()

    supervised.terminate()
    assert supervised.wait(timeout=30) == 128 + signal.SIGTERM
    assert find_processes(folder) == []


@pytest.mark.live
@pytest.mark.usefixtures("server")
def test_a_supervised_node_ends_when_its_supervisor_is_killed(data_dir):
    folder = data_dir / "orphan"
    script = "import subprocess, sys; subprocess.run(sys.argv[1:])"
    supervisor = subprocess.Popen(
        [sys.executable, "-c", script, *command("run", "--data-dir", folder, "--port", "0", *HEAP)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    assert node("status", folder, "--wait", "120").returncode == 0
    server = psutil.Process(read_pid(folder))

    supervisor.kill()
    supervisor.wait()

    wait_for("the end of the server", lambda: is_dead(server))


def test_a_node_whose_supervisor_is_killed_while_it_prepares_does_not_start(data_dir):
    program = f"""
import os, signal, sys, time
sys.path.insert(0, {str(NODE.parent)!r})
import node

def prepare(*_):
    supervisor = os.getppid()
    os.kill(supervisor, signal.SIGKILL)
    while os.getppid() == supervisor:
        time.sleep(0.01)
    return ["/bin/echo", "started"], {{}}

node.prepare = prepare
sys.exit(node.main(["run", "--data-dir", {str(data_dir / "node")!r}]))
"""
    supervisor = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"
    # Returns when nobody is left who could write.
    told = call([sys.executable, "-c", supervisor, program])
    assert "started" not in told.stdout
    assert "supervisor is gone" in told.stderr


def test_a_taken_port_is_refused_with_its_number(data_dir):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        refused = node("start", data_dir / "node", "--port", str(port))
    assert refused.returncode == 1
    assert f"Port {port} is taken" in refused.stderr


def test_a_folder_with_other_files_is_left_alone(data_dir):
    (data_dir / "notes.txt").write_text("mine")
    refused = node("start", data_dir, "--port", "0")
    assert refused.returncode == 1
    assert "holds other files" in refused.stderr
    assert [path.name for path in data_dir.iterdir()] == ["notes.txt"]


def test_a_folder_that_roots_account_may_not_enter_gives_way_to_one_below_var_lib(data_dir):
    data_dir.chmod(0o700)
    asked = node("status", data_dir / "node")
    place = "/var/lib/gleaner/node-" if os.geteuid() == 0 else str(data_dir / "node")
    assert asked.returncode == NOT_RUNNING
    assert place in asked.stderr
    assert list(data_dir.iterdir()) == []


def test_a_process_that_took_over_the_number_of_a_dead_node_is_not_stopped(data_dir):
    folder = data_dir / "node"
    (folder / "logs").mkdir(parents=True)
    (folder / "node.lock").touch()
    with subprocess.Popen(["sleep", "60"]) as stranger:
        (folder / "logs" / "node.pid").write_text(str(stranger.pid))
        stopped = node("stop", folder)
        is_alive = stranger.poll() is None
        stranger.kill()
    assert stopped.returncode == 0
    assert "no node runs" in stopped.stderr
    assert is_alive


def test_without_maven_the_person_is_told_what_to_install(data_dir):
    (data_dir / "bin").mkdir()
    java = make_java(data_dir / "jdk", version=25)
    environment = {"PATH": str(data_dir / "bin"), "ES_JAVA_HOME": str(java)}
    cache = ("--cache-dir", str(data_dir / "cache"))
    refused = node("start", data_dir / "node", "--port", "0", *cache, env=environment)
    assert refused.returncode == os.EX_UNAVAILABLE
    assert "apt install maven" in refused.stderr


@pytest.mark.parametrize("version", [17, 26])
def test_a_chosen_java_of_another_version_is_refused_by_name(data_dir, version):
    home = make_java(data_dir / "jdk", version=version)
    environment = {"PATH": os.defpath, "ES_JAVA_HOME": str(home)}
    refused = node("start", data_dir / "node", "--port", "0", env=environment)
    assert refused.returncode == os.EX_UNAVAILABLE
    assert f"ES_JAVA_HOME={home} is no JDK of version 21 to 25" in refused.stderr


def make_java(home: Path, *, version: int) -> Path:
    """A folder that looks like a JDK: what decides is its `release` file, nothing is started."""
    (home / "bin").mkdir(parents=True)
    (home / "bin" / "java").touch(mode=0o755)
    modules = "java.base java.instrument jdk.attach jdk.management.agent jdk.net"
    (home / "release").write_text(f'JAVA_VERSION="{version}.0.1"\nMODULES="{modules}"\n')
    return home


def test_the_client_library_is_what_python_imports_although_the_folder_has_its_name():
    assert Path(elasticsearch.__file__).parent != ROOT / "elasticsearch"
    assert elasticsearch.__version__[0] == 9
