"""Command line of the benchmarks: run a suite, time configurations, compare results, write the documents' figures."""

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import spade_ext
from benchmarks import HERE, ROOT
from benchmarks.compare import comparison
from benchmarks.configurations import Part, configurations
from benchmarks.figures import DOCUMENTS, outdated, write_figures
from benchmarks.gpu_parts import PARTS, files_of, options_of
from benchmarks.result_file import read_results, slim, write_results
from benchmarks.shown import SHOWN, command_of

INCOMPLETE = "benchmarks failed: these results are incomplete"


def run_pytest(arguments: list[str], command: str, check: bool) -> dict:
    """Run benchmark files in a fresh interpreter and return the results, with "failed" where some are missing.

    Raises:
        SystemExit: There are none.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "benchmark.json"
        call = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--rootdir={ROOT}"]
        call += [
            "--override-ini=addopts=",
            f"--benchmark-json={file}",
            "--benchmark-columns=median",
        ]
        environment = {**os.environ, "SPADE_BENCHMARK_COMMAND": command}
        process = subprocess.Popen(call + arguments, cwd=ROOT, env=environment)
        try:
            code = process.wait()
        except KeyboardInterrupt:  # which pytest gets too: it writes what it has and ends
            code = process.wait()
        if not file.exists() or not file.stat().st_size:
            sys.exit(code or 1)
        data = slim(json.loads(file.read_text()))
    return {"check": check, "failed": code != 0, **data}


def suite(options: argparse.Namespace) -> None:
    """Run the quick or full suite on the CPU and write its results as JSON and HTML."""
    files = [p for p in sorted(HERE.glob("bench_*.py")) if not p.name.startswith("bench_cuda_")]
    arguments = [*map(str, files), f"--suite={options.command}"]
    if options.published:
        arguments.append(f"--published={Path(options.published).resolve()}")
    if measure(arguments, options, options.command):
        sys.exit(INCOMPLETE)


def gpu(options: argparse.Namespace) -> None:
    """Run parts of the GPU suite, each with results of its own."""
    if not spade_ext.cuda_is_available():
        sys.exit(f"no CUDA backend here: {spade_ext.build_info()['cuda']}")
    failed = []
    # in check mode the long traces are those of the other part
    parts = options.part or [p for p in PARTS if not (options.check and p == "long-traces")]
    for part in parts:
        arguments = [str(HERE / name) for name in files_of(part)]
        arguments += ["--suite=full", "--device=cuda", *options_of(part, options.check)]
        try:
            if measure(arguments, options, f"gpu-{part}"):
                failed.append(part)
        except SystemExit:  # it has no results
            failed.append(part)
    if failed:
        sys.exit(f"{', '.join(failed)}: {INCOMPLETE}")


def measure(arguments: list[str], options: argparse.Namespace, name: str) -> bool:
    """Run benchmarks and write their results and report; whether some failed."""
    from benchmarks.report import write_report

    data = run_pytest(arguments + ["--check"] * options.check, options.line, options.check)
    options.output.mkdir(parents=True, exist_ok=True)
    target = options.output / name
    write_results(target.with_suffix(".json"), data)
    write_report(target.with_suffix(".html"), data)
    print(f"wrote {target}.json and {target}.html", flush=True)
    return bool(data["failed"])


def latency(options: argparse.Namespace) -> None:
    """Time configurations and write one result file."""
    if options.device == "cuda" and options.mode == "sampled":
        sys.exit(
            "latency: on cuda --mode must be full: no part of the work tells what all of it takes"
        )
    arguments = [
        str(HERE / "bench_trace.py"),
        f"--mode={options.mode}",
        f"--device={options.device}",
    ]
    arguments += [f"--configuration={name}" for name in options.configuration]
    if options.mode == "sampled":
        arguments.append(f"--part={options.rows},{options.augmentations},{options.samples}")
    data = run_pytest(arguments, options.line, False)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    write_results(options.output, data)
    for b in data["benchmarks"]:
        print(
            f"{b['configuration']} ({b['mode']}): forward + Hessian {b['forward_hessian_seconds']:.1f} s, "
            f"pruning + saving {b['prune_save_seconds']:.1f} s"
        )
    print(f"wrote {options.output}")
    if data["failed"]:
        sys.exit(INCOMPLETE)


def flows(options: argparse.Namespace) -> None:
    """Time the published programs and classes beside ours."""
    files = [str(HERE / name) for name in ("bench_flows.py", "bench_published.py", "bench_wide.py")]
    arguments = [*files, "--suite=full"]
    arguments.append(f"--published={Path(options.published).resolve()}")
    if options.size:
        arguments.append(f"--flow-size={options.size}")
    if options.only:
        arguments.append(f"-k={' or '.join(options.only)}")
    if measure(arguments, options, "flows"):
        sys.exit(INCOMPLETE)


def compare(options: argparse.Namespace) -> None:
    """Compare two result files; exit with 1 if something is slower."""
    text, slower = comparison(read_results(options.old), read_results(options.new))
    print(text)
    sys.exit(int(slower))


def report(options: argparse.Namespace) -> None:
    """Write the report of a result file."""
    from benchmarks.report import write_report

    write_report(options.output, read_results(options.results))


def figures(options: argparse.Namespace) -> None:
    """Write or check the figures in the documents."""
    if options.check:
        old = outdated()
        if old:
            sys.exit(f"figures differ from the result files in: {', '.join(old)}")
    else:
        write_figures()
        print(f"wrote the figures of {', '.join(DOCUMENTS)}")


def shown(options: argparse.Namespace) -> None:
    """Run the measurements that the documents show, then write their figures."""
    for name in options.only or SHOWN:
        command = shlex.split(command_of(name))
        if options.published and name == "quick":
            command.append(f"--published={Path(options.published).resolve()}")
        print(f"{name}: {shlex.join(command)}", flush=True)
        subprocess.run([sys.executable, *command[1:]], cwd=ROOT, check=True)
        write_figures()


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True)
    texts = {
        "quick": "every op and some configurations, under 3 minutes on two cores",
        "full": "all shapes and all configurations in sampled mode",
        "gpu": "all shapes, goals and configurations in full on a CUDA device, one result file per part",
    }
    for name, text in texts.items():
        sub = commands.add_parser(name, help=text)
        sub.add_argument("--output", type=Path, required=True, metavar="DIR")
        if name == "gpu":
            sub.add_argument("--part", nargs="+", choices=PARTS, help="all if not given")
        else:
            sub.add_argument(
                "--published", metavar="PATH", help="a checkout of the published SPADE code"
            )
        sub.add_argument("--check", action="store_true", help="small problems: results, not times")
        sub.set_defaults(run=gpu if name == "gpu" else suite)
    sub = commands.add_parser("latency", help="seconds per sample of configurations")
    sub.add_argument("configuration", nargs="+", choices=configurations())
    sub.add_argument("--mode", choices=("full", "sampled"), default="full")
    part = Part()
    sub.add_argument("--rows", type=float, default=part.rows, help="share of rows, sampled mode")
    sub.add_argument("--augmentations", type=int, default=part.augmentations, help="sampled mode")
    sub.add_argument("--samples", type=int, default=part.samples, help="of a batch, sampled mode")
    sub.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    sub.add_argument("--output", type=Path, required=True, metavar="FILE")
    sub.set_defaults(run=latency)
    sub = commands.add_parser("flows", help="the published programs and classes beside ours")
    sub.add_argument(
        "--published", metavar="PATH", required=True, help="checkouts of published code"
    )
    sub.add_argument("--only", nargs="+", metavar="NAME", help="flows or problems")
    sub.add_argument(
        "--size",
        metavar="AUGMENTATIONS,COLUMNS",
        help="at most, in whole flows; for a slow machine",
    )
    sub.add_argument("--output", type=Path, required=True, metavar="DIR")
    sub.add_argument("--check", action="store_true", help="small problems: results, not times")
    sub.set_defaults(run=flows)
    sub = commands.add_parser("compare", help="regressions over 10 %% by paired ratio")
    sub.add_argument("old", type=Path)
    sub.add_argument("new", type=Path)
    sub.set_defaults(run=compare)
    sub = commands.add_parser("report", help="the HTML report of a result file")
    sub.add_argument("results", type=Path)
    sub.add_argument("--output", type=Path, required=True, metavar="FILE")
    sub.set_defaults(run=report)
    sub = commands.add_parser("figures", help="write the documents' figures from results/")
    sub.add_argument("--check", action="store_true", help="fail if they differ instead")
    sub.set_defaults(run=figures)
    sub = commands.add_parser("shown", help="all measurements that the documents show")
    sub.add_argument("--only", nargs="+", choices=SHOWN)
    sub.add_argument("--published", metavar="PATH", help="a checkout of the published SPADE code")
    sub.set_defaults(run=shown)
    return top


def main() -> None:
    """Parse the arguments and run the command."""
    options = parser().parse_args()
    path = getattr(options, "published", None)
    told = [word.replace(path, "PATH") if path else word for word in sys.argv[1:]]
    options.line = shlex.join(["python", "-m", "benchmarks", *told])
    options.run(options)


if __name__ == "__main__":
    main()
