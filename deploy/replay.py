"""Replay the Dockerfile without a container engine: build, start, health check, stop.

The build stage's COPY and RUN lines run in a temporary folder that stands for the root of the
image, with this machine's Python for the image's. Then the final stage's CMD is started with its
environment and its HEALTHCHECK is asked. What this cannot show: the base image, the user, and
the limits that a container puts around the process.
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
# Of the image, laid out under the temporary folder.
FOLDERS = ("/opt/venv", "/opt/gradmem", "/src", "/data")
UNSEEN = shutil.ignore_patterns("__pycache__", "*.db")  # as .dockerignore has it
IMPORT = "import gradmem_core, service; print(gradmem_core.__file__, service.__file__)"


@dataclass
class Stage:
    """One stage of a Dockerfile: its instructions in order, as (keyword, rest of the line)."""

    name: str
    steps: list[tuple[str, str]] = field(default_factory=list)

    def last(self, keyword: str) -> str:
        """Return the last instruction of this kind; an empty string where there is none."""
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
    """Return the words of a CMD in exec form, options (of a HEALTHCHECK) before it left out."""
    words: list[str] = json.loads(instruction[instruction.index("[") :])
    return words


class Image:
    """A folder that stands for an image's file system, and the environment of its processes."""

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

    def placed(self, text: str) -> str:
        """Put the image's absolute paths under the temporary folder."""
        names = "|".join(map(re.escape, FOLDERS))
        return re.sub(rf"(?<![\w.])(?:{names})\b", lambda hit: f"{self.root}{hit[0]}", text)

    def assign(self, rest: str) -> None:
        """Carry out ENV."""
        for name, value in re.findall(r"(\w+)=(\S*)", rest):
            self.environment[name] = re.sub(
                r"\$\{?(\w+)\}?",
                lambda hit: self.environment.get(hit[1], ""),
                self.placed(value),
            )

    def build(self, stage: Stage) -> None:
        """Carry out the instructions of the build stage."""
        for keyword, rest in stage.steps:
            print(f"--- {keyword} {rest}", flush=True)
            if keyword == "ENV":
                self.assign(rest)
            elif keyword == "ARG":
                name, _, default = rest.partition("=")
                self.environment[name] = self.build_args.get(name, default)
            elif keyword == "WORKDIR":
                self.folder = Path(self.placed(rest))
                self.folder.mkdir(parents=True, exist_ok=True)
            elif keyword == "COPY":
                self._copy(*rest.split())
            elif keyword == "RUN":
                self.run(["sh", "-c", self.placed(rest)])
            else:
                raise ValueError(f"the replay does not know {keyword}")

    def _copy(self, *paths: str) -> None:
        *sources, target = paths
        for source in sources:
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, self.folder / target, ignore=UNSEEN)
            else:
                shutil.copy(ROOT / source, self.folder / target)

    def run(self, words: list[str]) -> str:
        """Run a command to its end and return what it printed.

        Raises:
            subprocess.CalledProcessError: It failed.
        """
        done = subprocess.run(
            words, cwd=self.folder, env=self.environment, check=True, stdout=subprocess.PIPE
        )
        return done.stdout.decode()


def free_port() -> int:
    """Return a port of the loopback interface that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def healthy(image: Image, probe: list[str]) -> bool:
    """Tell what the health check says."""
    asked = subprocess.run(probe, env=image.environment, capture_output=True, check=False)
    return asked.returncode == 0


def check_service(image: Image, final: Stage) -> None:
    """Start the CMD with the final stage's environment, wait for its health, stop it.

    Raises:
        RuntimeError: It did not become healthy, or did not stop cleanly.
    """
    for keyword, rest in final.steps:
        if keyword == "ENV":
            image.assign(rest)
    image.environment |= {"GRADMEM_HOST": "127.0.0.1", "GRADMEM_PORT": str(free_port())}
    image.folder = Path(image.placed(final.last("WORKDIR")))
    image.folder.mkdir()

    places = image.run(["python", "-c", IMPORT]).split()
    if any(not place.startswith(str(image.root)) for place in places):
        raise RuntimeError(f"the packages were imported from elsewhere: {places}")
    image.run(["gradmem", "--help"])

    probe = exec_form(final.last("HEALTHCHECK"))
    probe[0] = str(image.root / "opt/venv/bin" / probe[0])
    if healthy(image, probe):
        raise RuntimeError("the health check succeeds where no service runs")
    command = exec_form(final.last("CMD"))
    command[0] = str(image.root / "opt/venv/bin" / command[0])
    service = subprocess.Popen(command, cwd=image.folder, env=image.environment)
    try:
        deadline = time.monotonic() + START_SECONDS
        while not healthy(image, probe):
            if service.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"not healthy; the service's status is {service.poll()}")
            time.sleep(1)
    finally:
        service.terminate()
        status = service.wait(timeout=30)
    if status not in (0, -15):
        raise RuntimeError(f"the service ended with status {status} when asked to stop")


def main() -> None:
    """Replay the repository's Dockerfile."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build-arg", action="append", default=[], metavar="NAME=VALUE")
    given = (argument.partition("=") for argument in parser.parse_args().build_arg)
    stages = parse((ROOT / "Dockerfile").read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory(prefix="gradmem-replay-") as folder:
        image = Image(Path(folder).resolve(), {name: value for name, _, value in given})
        image.build(next(stage for stage in stages if stage.name == "build"))
        print("--- the build stage is done; now the service", flush=True)
        check_service(image, stages[-1])
    print("replay passed: built, started, healthy, stopped")


if __name__ == "__main__":
    main()
