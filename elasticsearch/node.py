"""A small Elasticsearch for tests and for machines without Docker.

    python elasticsearch/node.py start [--data-dir DIR] [--port 9200|0] [--heap 512m]
    python elasticsearch/node.py run    …the same, in the foreground: for a supervisor
    python elasticsearch/node.py status [--data-dir DIR] [--wait SECONDS]
    python elasticsearch/node.py stop   [--data-dir DIR]
    python elasticsearch/node.py fetch  downloads what a node needs, and ends

stdout carries nothing but the node's address (in `run`: the server's log); messages go to stderr.
Needs the standard library only, so that it runs before anything is installed. See README.md.
"""
# ruff: noqa: S603, TID251 - starts the server; runs without Django and its settings

from __future__ import annotations

import argparse
import ctypes
import hashlib
import json
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from provision import (
    HERE,
    Java,
    ProvisionError,
    default_cache_dir,
    find_java,
    install_server,
    locked,
    say,
)

CONFIGURATION = ("elasticsearch.yml", "jvm.options", "log4j2.properties")
START_SECONDS = 120
STOP_SECONDS = 30
SYSTEM_STATE = Path("/var/lib/gleaner")
NOT_ANSWERING, NOT_RUNNING = 1, 3  # 3 as the Linux Standard Base has it for `status`
NOT_PROVIDED = os.EX_UNAVAILABLE  # 69: no mvn, no Java, no network; not a fault of the node
PR_SET_PDEATHSIG = 1


class NodeError(Exception):
    """The node cannot do what was asked; the message tells a person why."""


@dataclass(frozen=True)
class Account:
    """The account that runs the server. Elasticsearch refuses to start as root."""

    uid: int
    gid: int
    name: str

    def may_enter(self, folder: Path) -> bool:
        """Whether every folder on the way is open to this account, judged by modes alone."""
        if self.uid == os.geteuid():
            return True  # the system itself will tell, and it knows groups and ACLs
        return all(self._may_pass(part) for part in [folder, *folder.parents] if part.exists())

    def _may_pass(self, folder: Path) -> bool:
        facts = folder.stat()
        if facts.st_uid == self.uid:
            return bool(facts.st_mode & 0o100)
        if facts.st_gid == self.gid:
            return bool(facts.st_mode & 0o010)
        return bool(facts.st_mode & 0o001)


@dataclass(frozen=True)
class Node:
    """The folder of one node: what it was started with and what it says about itself."""

    folder: Path

    @property
    def temporary(self) -> Path:
        return self.folder / "tmp"

    @property
    def configuration(self) -> Path:
        return self.folder / "config"

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def logs(self) -> Path:
        return self.folder / "logs"

    @property
    def lock_file(self) -> Path:
        return self.folder / "node.lock"

    @property
    def pid_file(self) -> Path:
        return self.logs / "node.pid"

    @property
    def pid(self) -> int | None:
        """The server's process; None when it does not run or its number now means another one."""
        try:
            pid = int(self.pid_file.read_text())
        except (OSError, ValueError):
            return None
        return pid if self.is_run_by(pid) else None

    def is_run_by(self, pid: int) -> bool:
        return f"-Djava.io.tmpdir={self.temporary} " in read_command(pid)

    @property
    def url(self) -> str | None:
        address = read_first_line(self.logs / "http.ports")
        return f"http://{address}" if address and self.pid else None

    @property
    def transport_address(self) -> str | None:
        return read_first_line(self.logs / "transport.ports") if self.pid else None

    def health(self) -> str | None:
        """The colour of the cluster, "locked" when it wants a password, None without an answer."""
        url = self.url
        if url is None:
            return None
        try:
            with urllib.request.urlopen(f"{url}/_cluster/health?timeout=1s", timeout=5) as answer:  # noqa: S310 - our own loopback address
                return str(json.load(answer)["status"])
        except urllib.error.HTTPError as error:
            return "locked" if error.code == 401 else None
        except (OSError, ValueError):
            return None

    def wait_until_ready(self, seconds: float) -> str | None:
        """Wait until the node's own shards are back, or it asks for a password."""
        deadline = time.monotonic() + seconds
        while (health := self.health()) not in {"green", "yellow", "locked"}:
            if time.monotonic() > deadline:
                break
            time.sleep(0.2)
        return health


def start(options: argparse.Namespace) -> int:
    """Start a node in the background and print its address when it answers."""
    account = choose_account(options.user)
    node = find_node(options.data_dir, account)
    with locked(node.lock_file):
        if node.pid is None:
            command, environment = prepare(node, account, options)
            launch(node, account, [*command, "--daemonize"], environment)
        health = node.wait_until_ready(START_SECONDS)
    if health is None:
        raise NodeError(f"The node does not answer.\n{read_last_lines(node.logs / 'node.log')}")
    say(f"Elasticsearch: {health}, process {node.pid}, files in {node.folder}")
    print_address(node)
    return 0


def run(options: argparse.Namespace) -> int:
    """Become the server: whoever supervises this process signals Elasticsearch itself."""
    supervisor = os.getppid()
    account = choose_account(options.user)
    node = find_node(options.data_dir, account)
    with locked(node.lock_file):
        if node.pid is not None:
            raise NodeError(f"A node runs in {node.folder} already (process {node.pid}).")
        command, environment = prepare(node, account, options)
    become(account)
    end_with_parent(supervisor)
    os.execve(command[0], command, environment)  # noqa: S606 - no shell is the point


def stop(options: argparse.Namespace) -> int:
    """Stop the node: SIGTERM, and SIGKILL when that does not end it."""
    node = find_node(options.data_dir, choose_account(options.user))
    if not node.folder.exists():
        say(f"Elasticsearch: no node runs in {node.folder}")
        return 0
    with locked(node.lock_file):  # waits for a `start` under way
        pid = node.pid
        if pid is None:
            say(f"Elasticsearch: no node runs in {node.folder}")
            return 0
        for number, seconds in ((signal.SIGTERM, STOP_SECONDS), (signal.SIGKILL, 5)):
            try:
                os.kill(pid, number)
            except PermissionError as error:
                raise NodeError(f"Process {pid} belongs to somebody else.") from error
            if wait_until_gone(node, pid, seconds):
                say(f"Elasticsearch: stopped process {pid}")
                return 0
    raise NodeError(f"Process {pid} does not end.")


def status(options: argparse.Namespace) -> int:
    """Print the address of a node that answers; exit 3 when none runs, 1 when it is silent."""
    node = find_node(options.data_dir, choose_account(options.user))
    health = node.wait_until_ready(options.wait)
    if health is not None:
        say(f"Elasticsearch: {health}, process {node.pid}, files in {node.folder}")
        print_address(node)
        return 0
    if node.pid is None:
        say(f"Elasticsearch: no node runs in {node.folder}")
        return NOT_RUNNING
    say(f"Elasticsearch: process {node.pid} does not answer (yet)")
    return NOT_ANSWERING


def fetch(options: argparse.Namespace) -> int:
    """Download the server, and a Java when the machine has none that fits; start nothing."""
    home, java = provide(choose_account(options.user), options.cache_dir)
    say(f"Elasticsearch: server in {home}, Java {java.version} in {java.home}")
    return 0


def choose_account(name: str) -> Account:
    if os.geteuid() == 0:
        entry = pwd.getpwnam(name)
        return Account(entry.pw_uid, entry.pw_gid, name)
    return Account(os.geteuid(), os.getegid(), "this account")


def find_node(data_dir: Path, account: Account) -> Node:
    """The node of a data folder; below /var/lib when the account of root's node may not enter it.

    A checkout in /root is closed to everybody else, and giving the server root's rights over files
    to get there would be worse than keeping its files, which are derived data, elsewhere.
    """
    folder = data_dir.resolve()
    if os.geteuid() == 0 and not account.may_enter(folder):
        folder = SYSTEM_STATE / f"{folder.name}-{hashlib.sha256(bytes(folder)).hexdigest()[:12]}"
    node = Node(folder)
    if folder.exists() and any(folder.iterdir()) and not node.lock_file.exists():
        raise NodeError(f"{folder} holds other files; give the node a folder of its own.")
    return node


def prepare(
    node: Node, account: Account, options: argparse.Namespace
) -> tuple[list[str], dict[str, str]]:
    """Lay out the node's folder; returns the server's command line and environment."""
    refuse_taken_port(options.port)
    home, java = provide(account, options.cache_dir)
    for stale in (node.pid_file, node.logs / "http.ports", node.logs / "transport.ports"):
        stale.unlink(missing_ok=True)
    for folder in (node.temporary, node.configuration, node.logs, node.data):
        folder.mkdir(exist_ok=True)
        give_to(account, folder)
    for name in CONFIGURATION:
        shutil.copy(HERE / name, node.configuration / name)
    vector = ["--add-modules=jdk.incubator.vector"] * ("jdk.incubator.vector" in java.modules)
    environment = {
        "PATH": os.environ.get("PATH", os.defpath),
        "ES_JAVA_HOME": str(java.home),
        "ES_JAVA_OPTS": " ".join([f"-Xms{options.heap}", f"-Xmx{options.heap}", *vector]),
        "ES_PATH_CONF": str(node.configuration),
        "ES_TMPDIR": str(node.temporary),
    }
    if options.password_file:
        set_password(home, environment, account, options.password_file)
    settings = {
        "path.data": node.data,
        "path.logs": node.logs,
        "http.port": options.port,
        "transport.port": 0,
        "node.name": node.folder.name,
        "xpack.security.enabled": str(bool(options.password_file)).lower(),
        **membership(node, account, options),
    }
    command = [str(home / "bin" / "elasticsearch"), "--pidfile", str(node.pid_file)]
    return [*command, *(f"-E{name}={value}" for name, value in settings.items())], environment


def provide(account: Account, cache_dir: Path) -> tuple[Path, Java]:
    java = find_java(cache_dir.resolve(), is_readable=account.may_enter)
    home = install_server(cache_dir.resolve(), java)
    if not account.may_enter(home):
        raise NodeError(f"{account.name} may not enter {home}; choose another --cache-dir.")
    return home, java


def membership(node: Node, account: Account, options: argparse.Namespace) -> dict[str, object]:
    """Settings by which the node founds a cluster of its own, or joins that of a neighbour.

    A node that joined holds data but is never master: so either may be restarted alone, and the
    first cannot lose its cluster to the second.
    """
    if options.join is None:
        return {"cluster.initial_master_nodes": node.folder.name}
    address = find_node(options.join, account).transport_address
    if address is None:
        raise NodeError(f"There is no running node in {options.join} to join.")
    return {"discovery.seed_hosts": address, "node.roles": "data"}


def set_password(home: Path, environment: dict[str, str], account: Account, file: Path) -> None:
    """Set the password of the user `elastic`; the server takes it over at its first start."""
    keystore = str(home / "bin" / "elasticsearch-keystore")
    subprocess.run(
        [keystore, "add", "--force", "--stdin", "bootstrap.password"],
        input=file.read_text().strip() + "\n",
        text=True,
        env=environment,
        check=True,
        stdout=sys.stderr,
        preexec_fn=lambda: become(account),
    )


def launch(node: Node, account: Account, command: list[str], environment: dict[str, str]) -> None:
    """Start the server in a session of its own; its launcher returns when the node is up."""
    with (node.logs / "console.log").open("w") as output:
        launcher = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            preexec_fn=lambda: become(account),
        )
        try:
            exit_code = launcher.wait(timeout=START_SECONDS)
        except BaseException as error:  # also Ctrl-C: nothing may stay behind
            os.killpg(launcher.pid, signal.SIGKILL)
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            exit_code = None
    if exit_code != 0:
        raise NodeError(f"The node did not start.\n{read_last_lines(node.logs / 'console.log')}")


def become(account: Account) -> None:
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(account.gid)
        os.setuid(account.uid)


def give_to(account: Account, folder: Path) -> None:
    if os.geteuid() != 0:
        return
    for path in [folder, *folder.rglob("*")]:
        os.chown(path, account.uid, account.gid, follow_symlinks=False)


def end_with_parent(supervisor: int) -> None:
    """Ask Linux for a SIGTERM when the supervisor dies, even by SIGKILL; it outlives the exec.

    Raises NodeError where it is dead already: of that Linux tells nobody.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != supervisor:
        raise NodeError("Its supervisor is gone.")


def refuse_taken_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise NodeError(
                f"Port {port} is taken; give another one, or --port 0 for any that is free."
            ) from error


def read_command(pid: int) -> str:
    """The command line of a process; empty when it is gone or a zombie."""
    if Path("/proc/self").exists():
        try:
            return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            return ""
    ps = ["ps", "-ww", "-o", "command=", "-p", str(pid)]
    return subprocess.run(ps, capture_output=True, text=True, check=False).stdout


def wait_until_gone(node: Node, pid: int, seconds: float) -> bool:
    """Watch the process, not the file with its number: the server deletes that one first."""
    deadline = time.monotonic() + seconds
    while node.is_run_by(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not node.is_run_by(pid)


def read_first_line(path: Path) -> str | None:
    try:
        return path.read_text().split("\n", 1)[0] or None
    except OSError:
        return None


def read_last_lines(path: Path, *, count: int = 15) -> str:
    """The end of a log without Java's stack frames, which bury the sentence that says why."""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return f"(no log at {path})"
    return "\n".join([line for line in lines if not line.startswith("\tat ")][-count:])


def print_address(node: Node) -> None:
    sys.stdout.write(f"{node.url}\n")


def parse_heap(text: str) -> str:
    if not re.fullmatch(r"[1-9]\d*[mg]", text):
        raise argparse.ArgumentTypeError("a size such as 512m or 1g")
    return text


def parse_port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > 65535:
        raise argparse.ArgumentTypeError("a number from 0 to 65535")
    return int(text)


def parse_options(arguments: list[str]) -> argparse.Namespace:
    account = argparse.ArgumentParser(add_help=False)
    account.add_argument("--user", default="nobody", help="account of root's node (nobody)")
    folder = argparse.ArgumentParser(add_help=False)
    folder.add_argument(
        "--data-dir",
        type=Path,
        default=HERE.parent / "var" / "elasticsearch",
        help="folder of the node (var/elasticsearch of this checkout)",
    )
    cache = argparse.ArgumentParser(add_help=False)
    cache.add_argument("--cache-dir", type=Path, default=default_cache_dir())
    starting = argparse.ArgumentParser(add_help=False)
    starting.add_argument("--port", type=parse_port, default=9200, help="0 = any free one (9200)")
    starting.add_argument("--heap", type=parse_heap, default="512m", help="of the JVM (512m)")
    starting.add_argument("--join", type=Path, metavar="DIR", help="data folder of a running node")
    starting.add_argument("--password-file", type=Path, help="password of the user elastic")
    waiting = argparse.ArgumentParser(add_help=False)
    waiting.add_argument("--wait", type=float, default=0, help="seconds to wait for an answer")

    parser = argparse.ArgumentParser(description="A small Elasticsearch; see README.md.")
    commands = parser.add_subparsers(dest="command", required=True)
    for function, *parents in (
        (start, account, folder, cache, starting),
        (run, account, folder, cache, starting),
        (status, account, folder, waiting),
        (stop, account, folder),
        (fetch, account, cache),
    ):
        summary = function.__doc__
        commands.add_parser(
            function.__name__, parents=parents, help=summary, description=summary
        ).set_defaults(function=function)
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    options = parse_options(arguments)
    os.umask(0o022)  # the account of the node reads what root installs
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        return int(options.function(options))
    except (NodeError, OSError) as error:  # OSError: a folder that may not be written, a full disk
        say(f"Elasticsearch: {error}")
        return 1
    except ProvisionError as error:
        say(f"Elasticsearch: {error}")
        return NOT_PROVIDED
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
