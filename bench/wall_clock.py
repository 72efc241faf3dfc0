"""Compare the time of chrootvm, cold and warm, with that of a plain QEMU; start it many times.

    python3 -m bench.wall_clock [--runs N]  # the figures, for Debian 12's kernel and Debian 13's
    python3 -m bench.wall_clock --soak N [--warm] [--jobs N]  # N starts, some at the same time

A cold start boots the kernel, a warm start (--warm) uses a template. All kinds of starts run in
turn, so that they run under the same load; the result is the median of the ratios of the rounds.
--soak counts the starts that fail, and the processes and files that are left after all of them; its
exit status is 1 if there are any.
"""

import argparse
import compileall
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from statistics import median

from bench.figure import Figure
from initrd.host.machine.locate import find_virtiofsd
from testbed import assets

CHROOTVM = "scripts/chrootvm"
PLAIN_QEMU = Path(__file__).parent / "plain.sh"
SUITES = {"bookworm": "Debian 12", "trixie": "Debian 13"}
SUITE_OF_OPTIONS = "bookworm"  # the kernel for OPTIONS and FIRST
TIMEOUT = 120.0  # seconds
END_TIMEOUT = 5.0  # seconds; the kernel kills QEMU and virtiofsd some time after chrootvm's end

# A kind of start: options of chrootvm, or one of the two names in parentheses.
Kind = tuple[str, ...]
Times = dict[Kind, list[float]]  # seconds, of each round
COLD: Kind = ()
WARM: Kind = ("--warm",)
OPTIONS: Kind = ("--overlay", "--net", "--mount", "a", "docs", "--mount-ro", "b", "man")
PLAIN: Kind = ("(plain QEMU)",)
FIRST: Kind = ("(warm, without a template)",)


def compile_packages() -> None:
    """Write the byte code of chrootvm's modules, as an installation does."""
    compileall.compile_dir("initrd", quiet=1)


def run_timed(command: Sequence[str], environment: Mapping[str, str] | None = None) -> float:
    """Run a command; return its wall-clock time in seconds.

    Raises subprocess.CalledProcessError, and subprocess.TimeoutExpired after TIMEOUT.
    """
    begin = time.perf_counter()
    subprocess.run(
        command,
        check=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        timeout=TIMEOUT,
        env=environment,
    )
    return time.perf_counter() - begin


def run_without_template(command: Sequence[str], cache: str) -> float:
    """Delete the templates in the cache directory `cache`; then time a command."""
    shutil.rmtree(f"{cache}/initrd/templates", ignore_errors=True)
    return run_timed(command, {**os.environ, "XDG_CACHE_HOME": cache})


def time_in_turn(timers: Mapping[Kind, Callable[[], float]], rounds: int) -> Times:
    """Call all timers in turn, `rounds` times."""
    times = [{kind: timer() for kind, timer in timers.items()} for _ in range(rounds)]
    return {kind: [each[kind] for each in times] for kind in timers}


def median_ratio(first: Sequence[float], second: Sequence[float]) -> float:
    """Return the median of first/second over the rounds."""
    return median(one / other for one, other in zip(first, second, strict=True))


def median_difference(first: Sequence[float], second: Sequence[float]) -> float:
    """Return the median of first-second over the rounds."""
    return median(one - other for one, other in zip(first, second, strict=True))


def chrootvm(suite: str, kind: Kind) -> list[str]:
    """Return the chrootvm command that runs `true` with the kernel of a suite."""
    kernel = assets.kernel(suite)
    options = ("--kernel", kernel.image, "--modules", kernel.modules, *kind)
    return [sys.executable, CHROOTVM, *options, assets.busybox_root(), "--", "true"]


def plain_qemu(suite: str, directory: str) -> list[str]:
    """Return the command of plain.sh for the same kernel and root; make its image."""
    kernel, image = assets.kernel(suite), f"{directory}/image"
    maker = [sys.executable, "scripts/mkvirtinitrd", "dist/init", kernel.modules, image]
    subprocess.run(maker, check=True)
    return ["sh", str(PLAIN_QEMU), assets.busybox_root(), kernel.image, image]


def virtiofsd_families() -> dict[str, Kind]:
    """Return chrootvm's options for each virtiofsd family; none for the program that it finds."""
    found = find_virtiofsd("", os.environ)
    families = {"C": assets.c_virtiofsd(), "Rust": assets.rust_virtiofsd()}
    return {
        family: () if program == found else ("--virtiofsd", program)
        for family, program in families.items()
    }


def make_timers(suite: str, directory: str) -> dict[Kind, Callable[[], float]]:
    """Return a function that runs and times a start for each kind, with caches in `directory`."""
    kinds = [COLD, *virtiofsd_families().values()]
    timers: dict[Kind, Callable[[], float]] = {}
    timers[PLAIN] = partial(run_timed, plain_qemu(suite, directory))
    if suite == SUITE_OF_OPTIONS:
        kinds.append(OPTIONS)
        cache = f"{directory}/first"
        timers[FIRST] = partial(run_without_template, chrootvm(suite, WARM), cache)
    environment = {**os.environ, "XDG_CACHE_HOME": f"{directory}/cache"}
    for cold in dict.fromkeys(kinds):
        for kind in (cold, WARM + cold):
            timers[kind] = partial(run_timed, chrootvm(suite, kind), environment)
    return timers


def time_kernel(suite: str, runs: int) -> Times:
    """Time all kinds of starts with the kernel of a suite.

    The warm starts run once before. They make all that chrootvm keeps in its cache.
    """
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        timers = make_timers(suite, directory)
        for kind, timer in timers.items():
            if kind[:1] in (WARM, FIRST):
                timer()
        return time_in_turn(timers, runs)


def figures_of_kernel(kernel: str, families: Mapping[str, Kind], times: Times) -> list[Figure]:
    """Return the ratios with one kernel."""
    plain = f"against plain QEMU, {kernel}"
    cold = f"warm start against cold start, {kernel}"
    return [
        Figure(f"chrootvm ROOT -- true {plain}", median_ratio(times[COLD], times[PLAIN]), "", 0.5),
        Figure(
            f"the same with --warm, {kernel}", median_ratio(times[WARM], times[PLAIN]), "", 0.12
        ),
        *(
            Figure(f"{cold}, {family}", median_ratio(times[WARM + kind], times[kind]), "", 0.2)
            for family, kind in families.items()
        ),
    ]


def figures_of_options(kernel: str, times: Times) -> list[Figure]:
    """Return the ratio of starts with OPTIONS, and the cost of making a template."""
    ratio = median_ratio(times[WARM + OPTIONS], times[OPTIONS])
    cost = median_difference(times[FIRST], times[COLD])
    return [
        Figure(f"warm start against cold start, {kernel}, many options", ratio, "", 0.3),
        Figure(f"first warm start minus cold start, {kernel}", cost, "s", 0.3),
    ]


def figures(runs: int) -> list[Figure]:
    """Measure with each kernel."""
    result = []
    for suite, name in SUITES.items():
        kernel, times = f"{name}'s kernel", time_kernel(suite, runs)
        result += figures_of_kernel(kernel, virtiofsd_families(), times)
        if suite == SUITE_OF_OPTIONS:
            result += figures_of_options(kernel, times)
    return result


def soak(count: int, kind: Kind, jobs: int) -> bool:
    """Start `count` times, `jobs` at a time; return whether none fails and nothing is left.

    The kernels and virtiofsd families alternate. One start of each before fills a temporary cache
    directory. No later start may leave a file there, which a warm start does when it cannot use its
    template.
    """
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        names = ("TMPDIR", "XDG_CACHE_HOME", "XDG_STATE_HOME")
        environment = {**os.environ, **dict.fromkeys(names, directory)}
        starts = [
            partial(run_timed, chrootvm(suite, kind + family), environment)
            for suite in SUITES
            for family in virtiofsd_families().values()
        ]
        for start in starts:
            start()
        before = list_files(directory)
        failures = start_often(starts, count, jobs)
        processes = wait_for_end(directory)
        files = sorted(list_files(directory) - before)
    print(f"failed: {failures}; processes left: {len(processes)}; files left: {len(files)}")
    print("".join(f"{path}\n" for path in (*processes, *files)), end="")
    return not (failures or processes or files)


def start_often(starts: Sequence[Callable[[], float]], count: int, jobs: int) -> int:
    """Print the times of `count` starts; return how many fail or take longer than TIMEOUT."""
    times: list[float] = []
    with ThreadPoolExecutor(jobs) as pool:
        futures = [pool.submit(starts[number % len(starts)]) for number in range(count)]
        for number, future in enumerate(futures, 1):
            try:
                times.append(future.result())
            except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
                print(f"start {number}: {error}\n{(error.stderr or b'').decode()}")
            if times and (number % 10 == 0 or number == count):
                longest = max(times)
                print(f"{number} starts: median {median(times):.2f} s, longest {longest:.2f} s")
    return count - len(times)


def list_files(directory: str) -> set[str]:
    """Return the paths of all files and directories below a directory."""
    return {str(path) for path in Path(directory).rglob("*")}


def wait_for_end(directory: str) -> list[str]:
    """Return the processes with this TMPDIR that do not end within END_TIMEOUT."""
    deadline = time.monotonic() + END_TIMEOUT
    while (processes := find_processes(directory)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return processes


def find_processes(directory: str) -> list[str]:
    """Return the directories in /proc of the processes that were started with this TMPDIR."""
    paths = Path("/proc").glob("[0-9]*/environ")
    mark = f"TMPDIR={directory}".encode()
    return [str(path.parent) for path in paths if mark in read_environment(path)]


def read_environment(path: Path) -> list[bytes]:
    """Return the variables of a process; none if it has ended or belongs to another user."""
    try:
        return path.read_bytes().split(b"\0")
    except OSError:
        return []


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--runs", type=int, default=5, help="rounds of starts")
    parser.add_argument("--soak", type=int, metavar="N", help="start N times instead")
    parser.add_argument("--warm", action="store_true", help="with --soak: from a template")
    parser.add_argument("--jobs", type=int, default=1, help="with --soak: starts at the same time")
    options = parser.parse_args()
    compile_packages()
    if options.soak:
        passed = soak(options.soak, WARM if options.warm else COLD, options.jobs)
        sys.exit(0 if passed else 1)
    for figure in figures(options.runs):
        print(figure.row(), flush=True)


if __name__ == "__main__":
    main()
