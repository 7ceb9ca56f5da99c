"""Replay the Dockerfile without a container engine: build, start, health check, stop.

The COPY and RUN lines of the build stage run in a temporary folder that stands for the root of the
image, with this machine's Python in place of the image's. Then the CMD of the final stage runs in
its environment, and its HEALTHCHECK probes it. Not covered: the base image, the user, and the
limits that a container puts on the process.
"""

import argparse
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
START_SECONDS = 120.0
# Folders of the image, which lie under the temporary folder here.
FOLDERS = ("/opt/venv", "/opt/gradmem", "/src", "/data")
IGNORED = shutil.ignore_patterns("__pycache__", "*.db")  # as in .dockerignore
IMPORT = "import gradmem_core, service; print(gradmem_core.__file__, service.__file__)"


@dataclass
class Stage:
    """A stage of a Dockerfile: its instructions in order, as (keyword, rest of the line)."""

    name: str
    steps: list[tuple[str, str]] = field(default_factory=list)

    def last(self, keyword: str) -> str:
        """Return the last instruction with a keyword; an empty string where there is none."""
        return ([rest for word, rest in self.steps if word == keyword] or [""])[-1]


def parse(dockerfile: str) -> list[Stage]:
    """Split a Dockerfile into stages; instructions before the first FROM are left out."""
    lines = [line for line in dockerfile.splitlines() if not line.lstrip().startswith("#")]
    stages: list[Stage] = []
    for line in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines():
        keyword, _, rest = line.strip().partition(" ")
        if keyword == "FROM":
            stages.append(Stage(rest.partition(" AS ")[2]))
        elif keyword and stages:
            stages[-1].steps.append((keyword, rest.strip()))
    return stages


def exec_form(instruction: str) -> list[str]:
    """Return the words of a CMD in exec form, without the options of a HEALTHCHECK before it."""
    words: list[str] = json.loads(instruction[instruction.index("[") :])
    return words


class Image:
    """A folder in place of an image's file system, and the environment of its processes."""

    def __init__(self, root: Path, build_args: dict[str, str]) -> None:
        self.root = root
        self.build_args = build_args
        self.folder = root
        (root / "bin").mkdir(parents=True)
        (root / "bin" / "python").symlink_to(Path(sys.executable).resolve())
        self.environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("GRADMEM_", "PYTHON", "VIRTUAL_ENV"))
        }
        self.environment["PATH"] = f"{root / 'bin'}:{os.environ['PATH']}"

    def relocate(self, text: str) -> str:
        """Move the absolute paths of the image under the temporary folder."""
        names = "|".join(map(re.escape, FOLDERS))
        return re.sub(rf"(?<![\w.])(?:{names})\b", lambda match: f"{self.root}{match[0]}", text)

    def set_environment(self, rest: str) -> None:
        """Carry out ENV."""
        for name, value in re.findall(r"(\w+)=(\S*)", rest):
            self.environment[name] = re.sub(
                r"\$\{?(\w+)\}?",
                lambda match: self.environment.get(match[1], ""),
                self.relocate(value),
            )

    def build(self, stage: Stage) -> None:
        """Carry out the instructions of the build stage."""
        for keyword, rest in stage.steps:
            print(f"--- {keyword} {rest}", flush=True)
            if keyword == "ENV":
                self.set_environment(rest)
            elif keyword == "ARG":
                name, _, default = rest.partition("=")
                self.environment[name] = self.build_args.get(name, default)
            elif keyword == "WORKDIR":
                self.folder = Path(self.relocate(rest))
                self.folder.mkdir(parents=True, exist_ok=True)
            elif keyword == "COPY":
                self._copy(*rest.split())
            elif keyword == "RUN":
                self.run(["sh", "-c", self.relocate(rest)])
            else:
                raise ValueError(f"the replay does not support {keyword}")

    def _copy(self, *paths: str) -> None:
        *sources, target = paths
        for source in sources:
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, self.folder / target, ignore=IGNORED)
            else:
                shutil.copy(ROOT / source, self.folder / target)

    def run(self, words: list[str]) -> str:
        """Run a command and return its output.

        Raises:
            subprocess.CalledProcessError: The command failed.
        """
        process = subprocess.run(
            words, cwd=self.folder, env=self.environment, check=True, stdout=subprocess.PIPE
        )
        return process.stdout.decode()


def free_port() -> int:
    """Return a free port of the loopback interface."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def is_healthy(image: Image, probe: list[str]) -> bool:
    """Run the health check and return its verdict."""
    process = subprocess.run(probe, env=image.environment, capture_output=True, check=False)
    return process.returncode == 0


def check_service(image: Image, final: Stage) -> None:
    """Start the CMD in the environment of the final stage, wait until it is healthy, and stop it.

    Raises:
        RuntimeError: The service did not become healthy, or did not stop cleanly.
    """
    for keyword, rest in final.steps:
        if keyword == "ENV":
            image.set_environment(rest)
    image.environment |= {"GRADMEM_HOST": "127.0.0.1", "GRADMEM_PORT": str(free_port())}
    image.folder = Path(image.relocate(final.last("WORKDIR")))
    image.folder.mkdir()

    files = image.run(["python", "-c", IMPORT]).split()
    if any(not file.startswith(str(image.root)) for file in files):
        raise RuntimeError(f"the packages were imported from elsewhere: {files}")
    image.run(["gradmem", "--help"])

    probe = exec_form(final.last("HEALTHCHECK"))
    probe[0] = str(image.root / "opt/venv/bin" / probe[0])
    if is_healthy(image, probe):
        raise RuntimeError("the health check succeeds although no service runs")
    command = exec_form(final.last("CMD"))
    command[0] = str(image.root / "opt/venv/bin" / command[0])
    service = subprocess.Popen(command, cwd=image.folder, env=image.environment)
    try:
        deadline = time.monotonic() + START_SECONDS
        while not is_healthy(image, probe):
            if service.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"not healthy; the service's status is {service.poll()}")
            time.sleep(1)
    finally:
        service.terminate()
        status = service.wait(timeout=30)
    if status not in (0, -15):
        raise RuntimeError(f"the service ended with status {status} when asked to stop")


def main() -> None:
    """Replay the Dockerfile of the repository."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build-arg", action="append", default=[], metavar="NAME=VALUE")
    build_args = (argument.partition("=") for argument in parser.parse_args().build_arg)
    stages = parse((ROOT / "Dockerfile").read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory(prefix="gradmem-replay-") as folder:
        image = Image(Path(folder).resolve(), {name: value for name, _, value in build_args})
        image.build(next(stage for stage in stages if stage.name == "build"))
        print("--- build stage done; starting the service", flush=True)
        check_service(image, stages[-1])
    print("replay passed: built, started, healthy, stopped")


if __name__ == "__main__":
    main()
