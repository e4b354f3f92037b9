"""Sweeps on a Ray cluster: the same rows as alone, and an address that is none is found out."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from dflash_sim.cli import run

pytest.importorskip("ray", reason="Ray is not installed: the extra [cluster]")

WORDS = [
    "--set=model=qwen3-8b", "--set=isl=64", "--set=osl=64", "--set=num_prompts=8", "--set=runs=1",
    "--set=block=4,8", "--set=conc=1-4:x2", "--set=seed=0-9", "--interval=none",
]  # fmt: skip
# Two nodes of one core each on this machine, as Ray's own tests have them; the second may be lost.
CLUSTER = """
import subprocess, sys, time
from pathlib import Path
from ray.cluster_utils import Cluster

folder, lose, *words = sys.argv[1:]
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
second = cluster.add_node(num_cpus=1)
sweep = [sys.executable, "-m", "dflash_sim", "sweep", *words, "-o", folder, "--cluster=ray"]
child = subprocess.Popen([*sweep, f"--address={cluster.address}"])
journal = Path(folder, "points-1-of-1.jsonl")
while lose == "yes" and child.poll() is None:
    if journal.exists() and journal.read_bytes().count(b"\\n") > 9:
        cluster.remove_node(second, allow_graceful=False)
        break
    time.sleep(0.01)
code = child.wait()
cluster.shutdown()
sys.exit(code)
"""


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone") / "runs"
    assert run(["sweep", *WORDS, "--jobs=1", "-o", str(folder)]) == 0
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("lose", ["no", "yes"])
def test_two_nodes_give_the_rows_of_one_process(lose: str, alone: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CLUSTER, "runs", lose, *WORDS],
        cwd=tmp_path,
        env=os.environ | {"RAY_USAGE_STATS_ENABLED": "0"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "2 workers on 2 Ray nodes" in done.stderr
    for path in sorted(alone.glob("rows.*")):
        assert path.read_bytes() == (tmp_path / "runs" / path.name).read_bytes()
    lines = (tmp_path / "runs/points-1-of-1.jsonl").read_text().splitlines()
    assert len(lines) == 2 * 3 * 10


@pytest.mark.parametrize("scheme", ["", "ray://"])
@pytest.mark.parametrize("answers", ["nobody", "another"])
def test_an_address_that_is_no_cluster(
    scheme: str,
    answers: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("dflash_sim.studies.sweep.ray_cluster._PATIENCE_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        if answers == "nobody":
            server.close()
        where = [f"--cluster=ray://127.0.0.1:{port}"]
        if not scheme:
            where = ["--cluster=ray", f"--address=127.0.0.1:{port}"]
        code = run(["sweep", *WORDS, *where, "-o", str(tmp_path / "runs")])
    (told,) = capsys.readouterr().err.splitlines()
    assert code == 2
    assert f"no Ray cluster answers at {scheme}127.0.0.1:{port}" in told
    assert "ray start --head" in told
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("address", ["head", "head:x", "http://head:1", "head:1:2"])
def test_an_address_that_is_malformed(
    address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--cluster=ray", f"--address={address}", "-o", str(tmp_path / "runs")]
    assert run(["sweep", *WORDS, *where]) == 2
    assert "not HOST:PORT" in capsys.readouterr().err
