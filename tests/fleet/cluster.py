"""A real Ray cluster on this machine, which runs deploy/ray/serve.yaml in a small size."""

import copy
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import httpx
from ruamel.yaml import YAML

from benchmarks.faults.redis_server import free_port

ROOT = Path(__file__).resolve().parents[2]
CONFIG: dict[str, Any] = YAML(typ="safe", pure=True).load(ROOT / "deploy" / "ray" / "serve.yaml")
START_SECONDS = 300.0
TICK_SECONDS = os.sysconf("SC_CLK_TCK")


def make_small(
    port: int, *, writers: int = 1, readers: int = 1, settings: dict[str, str]
) -> dict[str, Any]:
    """Return the configuration for a machine with a few cores and no GPU.

    Args:
        port: Port of the service.
        writers: Replicas for WRITE.
        readers: Replicas for READ.
        settings: `GRADMEM_*` of all deployments.
    """
    config = copy.deepcopy(CONFIG)
    config["proxy_location"] = "HeadOnly"
    config["http_options"] = {"host": "127.0.0.1", "port": port}
    (application,) = config["applications"]
    application["runtime_env"]["env_vars"] |= settings
    replicas = {"Ingress": 1, "Writer": writers, "Reader": readers}
    for deployment in application["deployments"]:
        del deployment["autoscaling_config"]
        deployment["num_replicas"] = replicas[deployment["name"]]
        environment = deployment["ray_actor_options"]["runtime_env"]["env_vars"]
        environment.pop("GRADMEM_DEVICE", None)
        deployment["ray_actor_options"] = {
            "num_cpus": 0.1,
            "runtime_env": {"env_vars": environment | settings},
        }
    return config


class Fleet:
    """A Ray cluster of one node with the application.

    Args:
        folder: Folder for the log of its processes.
        store_url: Store of the service, in the environment of the cluster.
    """

    def __init__(self, folder: Path, store_url: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._log = folder / "ray.log"
        # The paths of Ray's sockets may not be long.
        self._session = Path(tempfile.mkdtemp(prefix="fleet-", dir="/tmp"))
        token = secrets.token_hex(32)
        dashboard = free_port()
        self._dashboard = httpx.Client(
            base_url=f"http://127.0.0.1:{dashboard}",
            headers={"Authorization": f"Bearer {token}"},
            timeout=60,
        )
        self._environment = os.environ | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "GRADMEM_STORE_URL": store_url,
            "OMP_NUM_THREADS": "1",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": token,
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_raylet_start_wait_time_s": str(int(START_SECONDS)),  # a busy machine is no failure
            "RAY_worker_niceness": "0",
        }
        self._options = {
            "num-cpus": 2,
            "node-ip-address": "127.0.0.1",
            "temp-dir": self._session,
            "object-store-memory": 2**28,
            "port": free_port(),
            "dashboard-port": dashboard,
            "dashboard-agent-listen-port": free_port(),
            "dashboard-agent-grpc-port": free_port(),
            "metrics-export-port": free_port(),
            "ray-client-server-port": free_port(),
        }

    def __enter__(self) -> Self:
        options = [f"--{name}={value}" for name, value in self._options.items()]
        program = Path(sys.executable).with_name("ray")
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [program, "start", "--head", "--block", "--include-dashboard=true", *options],
                env=self._environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            self._wait(lambda: self._applications() is not None, "Ray")
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def _stop(self) -> None:
        self._dashboard.close()
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)  # with its children; asked, Ray takes long
        self._process.wait()
        shutil.rmtree(self._session, ignore_errors=True)

    def deploy(self, config: dict[str, Any]) -> None:
        """Deploy a configuration, as `serve deploy` does, and wait until it runs."""
        self._dashboard.put("/api/serve/applications/", json=config).raise_for_status()
        wanted = {
            deployment["name"]: deployment["num_replicas"]
            for deployment in config["applications"][0]["deployments"]
        }
        self._wait(
            lambda: {name: len(self.replicas(name)) for name in wanted} == wanted, "the replicas"
        )
        self._wait(self._is_ready, "the service")

    def replicas(self, deployment: str) -> list[int]:
        """Return the process ids of the running replicas of a deployment."""
        application = (self._applications() or {}).get("gradmem", {})
        found = application.get("deployments", {}).get(deployment, {}).get("replicas", [])
        running = [replica["pid"] for replica in found if replica["state"] == "RUNNING"]
        return [pid for pid in running if Path(f"/proc/{pid}").exists()]  # Ray may not know yet

    def read_logs(self) -> str:
        """Return everything that Ray and its processes have logged."""
        files = [self._log, *(self._session / "session_latest" / "logs").rglob("*.*")]
        return "".join(file.read_text(errors="replace") for file in files if file.is_file())

    def _applications(self) -> dict[str, Any] | None:
        try:
            response = self._dashboard.get("/api/serve/applications/")
        except httpx.TransportError:
            return None
        if response.status_code != 200:
            return None
        applications: dict[str, Any] = response.json()["applications"]
        return applications

    def _is_ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/readyz", timeout=10).status_code == 200
        except httpx.TransportError:
            return False

    def _wait(self, holds: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not holds():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{what} did not start:\n{self._log.read_text()[-4000:]}")
            time.sleep(1)


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that a process has taken."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK_SECONDS
