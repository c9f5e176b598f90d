"""Run the tests and the benchmark on a machine with a GPU, from a checkout: one command, under ten minutes.

    python experiments/on_a_gpu.py                      # what is missing comes from the package index
    python experiments/on_a_gpu.py --wheels wheels      # or from a folder of wheels, without a network
    python experiments/on_a_gpu.py --tests tests/models --quick --device cpu    # a short try anywhere

The machine needs Python 3.11 or newer, pip, setuptools and a torch that sees the GPU. Missing packages and
this one are installed in a folder of their own, so that the environment stays as it is. Results are written
as they come, to `--out`: packages.txt, tests.txt, benchmark.txt with the benchmark's own files beside it,
and summary.json with the card, the versions, and the status and seconds of each part. The status of a part
that took too long is null: what it had written by then is there.

The wheels are those of the packages that the machine lacks, such as

    pip download --no-deps --dest wheels pyro-ppl pyro-api zuko arviz cyclopts pytest pytest-xdist
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from pip._vendor.packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
FOR_TESTS = ("hypothesis", "packaging", "pytest", "pytest-xdist")
_SUITE = 0.55  # the share of the time that the tests may take


def main() -> None:
    """Run all parts, and end with the status 1 if one of them failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("on_a_gpu"), help="folder of the results")
    parser.add_argument("--wheels", type=Path, help="folder of wheels; by default the package index")
    parser.add_argument("--tests", nargs="*", default=["tests"], help="files or folders of tests")
    parser.add_argument("--device", default="cuda", help="device of the benchmark")
    parser.add_argument("--quick", action="store_true", help="run the benchmark briefly")
    parser.add_argument("--minutes", type=float, default=9.5, help="the time for all of it")
    args = parser.parse_args()
    end, out = time.monotonic() + 60 * args.minutes, args.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    packages = out / "packages"
    summary: dict[str, Any] = {"python": sys.version.split()[0], "parts": {}}

    def note(name: str, status: int | None, begun: float) -> None:
        seconds = round(time.monotonic() - begun, 1)
        summary["parts"][name] = {"status": status, "seconds": seconds}
        (out / "summary.json").write_text(json.dumps(summary, indent=1))
        print(f"{name}: status {status} after {seconds} s", flush=True)

    def part(name: str, words: Sequence[object], limit: float) -> None:
        """Run a command, its output going to a file, and note how it ended."""
        begun = time.monotonic()
        note(name, status_of(words, out / f"{name}.txt", packages, limit), begun)

    begun = time.monotonic()
    status = install(packages, args.wheels, out / "packages.txt", end - begun)
    note("packages", status, begun)
    summary |= versions(packages)
    part("tests", suite(args.tests), _SUITE * (end - time.monotonic()))
    words = [
        sys.executable,
        ROOT / "experiments/benchmark.py",
        "run",
        "--device",
        args.device,
        "--out",
        out,
    ]
    part("benchmark", [*words, *(["--quick"] if args.quick else [])], end - time.monotonic())
    sys.exit(any(each["status"] != 0 for each in summary["parts"].values()))


def install(packages: Path, wheels: Path | None, log: Path, limit: float) -> int | None:
    """Install what is missing, and this package, in a folder. Return the status, as `status_of` does."""
    pip = [sys.executable, "-m", "pip", "install", "--upgrade", "--no-deps", "--target", packages]
    source: list[object] = [] if wheels is None else ["--no-index", "--find-links", wheels.resolve()]
    end, asked = time.monotonic() + limit, set[str]()
    # What a package needs is known once it is there. With its dependencies, pip would bring another torch.
    while names := [name for name in missing(packages) if name not in asked and is_offered(name, wheels)]:
        asked.update(names)
        if status := status_of([*pip, *source, *names], log, packages, end - time.monotonic()):
            return status
    return status_of([*pip, "--no-build-isolation", ROOT], log, packages, end - time.monotonic())


def missing(packages: Path) -> list[str]:
    """Return the names of the packages that the library or the tests need, and that are not installed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    path, seen, found = [str(packages), *sys.path], set(), []
    todo = [*project["dependencies"], *FOR_TESTS]
    while todo:
        needed = Requirement(todo.pop())
        if needed.name in seen or not (needed.marker is None or needed.marker.evaluate({"extra": ""})):
            continue
        seen.add(needed.name)
        there = next(iter(metadata.distributions(name=needed.name, path=path)), None)
        todo += [] if there is None else there.requires or []
        found += [needed.name] if there is None else []
    return found


def is_offered(name: str, wheels: Path | None) -> bool:
    """Whether a package is in the folder of wheels, or may be in the index."""
    return wheels is None or any(wheels.glob(f"{re.sub('[-.]', '_', name)}-*.whl"))


def suite(tests: Sequence[str]) -> list[object]:
    """Return the command that runs the tests, in as many processes as there are processors but two."""
    processes = max(1, (os.cpu_count() or 1) - 2)
    words = ["--quiet", "-n", processes, "-p", "no:benchmark", "-p", "no:cacheprovider", "--durations", 20]
    return [sys.executable, "-m", "pytest", *words, *tests]


def versions(packages: Path) -> dict[str, Any]:
    """Return the card and the versions that count, as a process with the installed packages sees them."""
    code = (
        "import json, torch, pyro; there = torch.cuda.is_available(); print(json.dumps({"
        "'card': torch.cuda.get_device_name() if there else None, 'torch': torch.__version__, "
        "'cuda': torch.version.cuda, 'pyro': pyro.__version__}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(packages), capture_output=True, text=True
    )
    found: dict[str, Any] = json.loads(done.stdout) if done.returncode == 0 else {"problem": done.stderr}
    return found


def environment(packages: Path) -> dict[str, str]:
    """Return the variables of a process that finds the installed packages."""
    there = {"PYTHONPATH": str(packages), "PATH": str(packages / "bin")}
    return {
        **os.environ,
        **{name: os.pathsep.join([value, os.environ.get(name, "")]) for name, value in there.items()},
        "OMP_NUM_THREADS": "1",
    }


def status_of(words: Sequence[object], log: Path, packages: Path, limit: float) -> int | None:
    """Run a command within a time limit, in seconds. Return its status, or None if it took too long."""
    with log.open("a") as file:
        process = subprocess.Popen(
            [*map(str, words)],
            cwd=ROOT,
            env=environment(packages),
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            return process.wait(max(1.0, limit))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # with the processes that it has started
            process.wait()
            return None


if __name__ == "__main__":
    main()
