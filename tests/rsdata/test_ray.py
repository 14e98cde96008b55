"""Conversions on Ray: a cluster of two nodes on this machine, a worker killed, a node removed.

Every Ray process is bound to 127.0.0.1 and asks for a token of this test's own.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dumps import contents, run, sample_dump

from rsdata import convert as flow
from rsdata.engine import Engine, map_tasks
from rsdata.errors import UnfinishedError

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs the extra [ray]"),
]

ADDRESS = "127.0.0.1"


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Ray as these tests want it, which it reads when it is imported: not before this."""
    assert "ray" not in sys.modules
    path = tmp_path_factory.mktemp("ray") / "token"
    path.write_text(os.urandom(32).hex())
    path.chmod(0o600)
    chosen = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(path),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # or 127.0.0.1 is taken for the address of the host
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]),
    }
    with pytest.MonkeyPatch.context() as patch:
        for key, value in chosen.items():
            patch.setenv(key, value)
        yield


@pytest.fixture(scope="module")
def cluster(token: None) -> Iterator[Any]:
    """A head that does no work and two nodes of two processors."""
    import ray
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "node_ip_address": ADDRESS, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    for _ in range(2):
        cluster.add_node(num_cpus=2, node_ip_address=ADDRESS)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture
def dump(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """30 shards."""
    monkeypatch.setattr(flow, "SHARD_ROWS", 2)
    sample_dump("dota", tmp_path / "dump", images=60)
    run("dota", tmp_path / "dump", tmp_path / "serial", engine=Engine("serial"))
    return tmp_path / "dump"


def where(number: int) -> tuple[int, str]:
    import ray

    time.sleep(0.3)
    return os.getpid(), ray.get_runtime_context().get_node_id()


def deadly(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def test_the_same_bytes_as_serial(token: None, dump: Path, tmp_path: Path) -> None:
    """Ray that is started on this machine, for one command."""
    run("dota", dump, tmp_path / "t", engine=Engine("ray", workers=2))
    assert contents(tmp_path / "t") == contents(tmp_path / "serial")


def test_both_nodes_work(cluster: Any) -> None:
    found = list(map_tasks(where, range(12), Engine("ray", address=cluster.address)))
    assert len({node for _, node in found}) == 2


def test_a_task_that_always_kills_is_set_aside(cluster: Any) -> None:
    results: list[int] = []
    with pytest.raises(UnfinishedError, match="each time it had 3"):
        results.extend(map_tasks(deadly, range(6), Engine("ray", address=cluster.address)))
    assert results == [0, 1, 2, 4, 5]


@pytest.mark.parametrize("lost", ["worker", "node"])
def test_what_is_lost_costs_nothing(lost: str, cluster: Any, dump: Path, tmp_path: Path) -> None:
    done = False
    node = cluster.add_node(num_cpus=2, node_ip_address=ADDRESS) if lost == "node" else None

    def lose(step: flow.Step) -> None:
        nonlocal done
        if not done and step.images >= 6:
            done = True
            if node:
                cluster.remove_node(node, allow_graceful=False)
            else:
                for process in ray_workers():
                    os.kill(process, signal.SIGKILL)

    run("dota", dump, tmp_path / "t", engine=Engine("ray", address=cluster.address), progress=lose)
    assert done
    assert contents(tmp_path / "t") == contents(tmp_path / "serial")


def ray_workers() -> list[int]:
    """The processes that run tasks of this function's name."""
    found = subprocess.run(["pgrep", "-f", "ray::write_shard"], capture_output=True, text=True, check=False)
    return [int(line) for line in found.stdout.split()]
