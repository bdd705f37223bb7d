"""Options and fixtures of the benchmarks: how long they run, where, and what each writes down."""

import os
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import pytest

from benchmarks import device_kernels, machine
from benchmarks.costs import Work
from benchmarks.kernel_counts import Counts, works_of
from benchmarks.suite import Reference, Suite

SECONDS = 0.15  # of a benchmark's rounds, as far as these bounds on their number let it
ROUNDS = 3, 7
_failed: set[str] = set()  # node ids
SETTLE_SECONDS = 0.02  # threads of the library that ran last spin for a while


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("spade-ext benchmarks")
    group.addoption("--suite", choices=("quick", "full"), default="quick", help="how many shapes")
    group.addoption("--check", action="store_true", help="small problems, one round: for CI")
    group.addoption("--device", choices=("cpu", "cuda"), default="cpu")
    group.addoption("--published", metavar="PATH", help="a checkout of the published SPADE code")
    group.addoption("--configuration", action="append", help="of configurations.toml; all if none")
    group.addoption("--mode", choices=("full", "sampled"), help="how configurations run")
    group.addoption(
        "--part",
        type=_part,
        metavar="ROWS,AUGMENTATIONS,SAMPLES",
        help="what sampled mode runs: share of rows, numbers of augmentations and of samples",
    )
    group.addoption(
        "--flow-size",
        type=lambda text: tuple(map(int, text.split(","))),
        metavar="AUGMENTATIONS,COLUMNS",
        help="at most, in whole flows of the published programs",
    )


def _part(text: str) -> tuple[float, int, int]:
    rows, augmentations, samples = text.split(",")
    return float(rows), int(augmentations), int(samples)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "full: only in the full suite")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    suite = Suite.of(config)
    if suite.full:
        return
    skip = pytest.mark.skip(reason="only in the full suite")
    for item in items:
        if item.get_closest_marker("full"):
            item.add_marker(skip)


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict) -> None:
    """Replace what pytest-benchmark notes, the machine's name among it, by what matters for the figures."""
    machine_info.clear()
    machine_info.update(machine.describe(Suite.of(config).device))


def pytest_benchmark_update_commit_info(config: pytest.Config, commit_info: dict) -> None:
    """Keep the commit's hash and whether the tree differs from it."""
    commit_info.clear()
    commit_info.update(commit=machine.commit())


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.failed:
        _failed.add(report.nodeid)


def pytest_benchmark_update_json(
    config: pytest.Config, benchmarks: list, output_json: dict
) -> None:
    """Note the command that was given; leave out what was timed before its benchmark failed."""
    kept = [b for b in output_json["benchmarks"] if b["fullname"] not in _failed]
    output_json["benchmarks"] = kept
    output_json["command"] = os.environ.get("SPADE_BENCHMARK_COMMAND", "pytest benchmarks")


@pytest.fixture
def suite(request: pytest.FixtureRequest) -> Suite:
    """The options of this run."""
    return Suite.of(request.config)


@pytest.fixture
def measure(benchmark: Any, suite: Suite) -> Callable[..., Any]:
    """A function that times a call (`once` if it cannot be repeated), and before each round what it is set against.

    That is the machine's SGEMM and a reference, if there is one: a machine that slows down for a while then slows both
    sides of a ratio. A call that is made once, of seconds to minutes, has its processor time noted too, and so has its
    reference: where others use the machine, their ratio tells more than that of the times. On CUDA `kernels` has the
    work of each kernel: rates are those of all of them, and a last call is profiled.
    """

    def run(
        call: Callable[[], Any],
        work: Work | None = None,
        *,
        once: bool = False,
        reference: Reference | None = None,
        memory: bool = False,
        kernels: Counts | None = None,
        **more: object,
    ) -> Any:
        works = [] if work is None else [work]
        if suite.device != "cpu" and kernels:
            works = works_of(kernels)
        sgemm: list[float] = []
        beside: list[float] = []
        processor: dict[str, float] = {}

        def before() -> None:
            if reference is not None:
                started = time.process_time()
                beside.append(machine.seconds(reference.call, suite.device, 1))
                processor["reference_processor_seconds"] = time.process_time() - started
            if works or not sgemm:
                sgemm.append(suite.sgemm_gflops())
                time.sleep(SETTLE_SECONDS)

        def timed() -> Any:
            result = call()
            machine.synchronize(suite.device)
            return result

        def timed_once() -> Any:
            started = time.process_time()
            result = timed()
            processor["processor_seconds"] = time.process_time() - started
            return result

        rounds = 1
        if not (once or suite.check):
            rounds = round(SECONDS / machine.seconds(call, suite.device, 1))
            rounds = min(max(rounds, ROUNDS[0]), ROUNDS[1])
        result = benchmark.pedantic(timed_once if once else timed, setup=before, rounds=rounds)
        own = benchmark.stats.stats.data
        if memory:
            more["peak_extra_bytes"] = machine.peak_extra_bytes(call, suite.device)
        if once and suite.device == "cpu":
            more |= processor
        if reference is not None:
            more["reference"] = reference.name
            more["rounds_reference_seconds"] = beside
            ratios = [
                theirs / reference.share / ours for theirs, ours in zip(beside, own, strict=True)
            ]
            more["speedup"] = median(ratios)
        if suite.device != "cpu":
            limits = suite.limits(median(sgemm))
            more |= device_kernels.measured(call, kernels or {}, limits)
        benchmark.extra_info.update(suite.rates(works, own, sgemm), **more)
        return result

    return run
