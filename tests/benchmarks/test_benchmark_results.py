"""Result files of the benchmark suite: comparison, report, figures of the documents, what a failure leaves."""

import json
import sys
import textwrap
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2]))

import benchmarks.__main__ as main
from benchmarks import figures, report, result_file, shown
from benchmarks.compare import comparison
from benchmarks.configurations import configurations


def benchmark(name, seconds, sgemm=100.0, **more):
    times = dict.fromkeys(("min", "median", "mean"), seconds)
    common = {"name": name, "group": "g", "seconds": times, "sgemm_gflops": sgemm, "copy_gbs": 10.0}
    return {**common, **more}


def results(*benchmarks):
    build = {"version": "1", "compiler": "c", "cpu_isa": "avx2", "blas": "b", "cuda": "unavailable"}
    machine = {"cpu": "x", "cores": 2, "device": "cpu", "threads": 2, "python": "3", "torch": "2"}
    return {
        "command": "python -m benchmarks quick",
        "datetime": "now",
        "machine": {**machine, "spade_ext": build},
        "commit": "0" * 40,
        "benchmarks": list(benchmarks),
    }


def test_comparison_flags_what_is_slower_by_a_tenth():
    old = results(benchmark("a", 1.0), benchmark("b", 1.0), benchmark("c", 1.0))
    new = results(benchmark("a", 1.09), benchmark("b", 1.12), benchmark("d", 9.0))
    text, slower = comparison(old, new)
    assert slower
    assert [line.split()[-3] for line in text.splitlines() if "<-" in line] == ["b"]
    assert text.endswith("1 of 2 slower by more than 10%")


def test_comparison_is_relative_to_the_machine():
    old, new = results(benchmark("a", 1.0)), results(benchmark("a", 1.9, sgemm=50.0))
    assert not comparison(old, new)[1]
    with pytest.raises(ValueError, match="share no benchmark"):
        comparison(old, results(benchmark("b", 1.0)))


def measured():
    work = {"flop": 1e9, "plain_flop": 2e9, "bytes": 1e7, "gflops": 10.0, "gbs": 1.0}
    shares = {
        "share_of_sgemm": 0.1,
        "share_of_copy": 0.1,
        "share_of_limit": 0.2,
        "op": "hessian",
        "problem": "p",
    }
    points = [
        benchmark(f"s{v}", 2.0 * v**3, op="obc_trace", variable="D", value=v, expected_exponent=3)
        for v in (2, 4, 8)
    ]
    times = dict.fromkeys(("augment", "forward", "hessian", "prune", "save"), 1.0)
    run = {
        "configuration": "spade-resnet50", "model": "resnet50", "method": "obc", "layers": "all",
        "augmentations": 10240, "samples": 1, "mode": "sampled", "augmentations_run": 64,
        "rows_share": 0.05, "stage_seconds": times, "forward_hessian_seconds": 3.0,
        "prune_save_seconds": 2.0, "total_seconds": 5.0, "measured_seconds": 1.0,
        "peak_extra_bytes": None, "layer_seconds": [{"name": "x", "rows": 1, "cols": 9, "seconds": 1.0}],
    }  # fmt: skip
    together = {"reference": "published code", "rounds_reference_seconds": [9.0]}
    theirs = {"problem": "q", "stage": "prune", "same_mask": 1.0}
    return results(
        benchmark("k", 0.1, speedup=4.0, reference="product", **work, **shares),
        benchmark("p", 3.0, method="published", **theirs),
        benchmark("o", 1.0, method="spade", **theirs),
        {**benchmark("l", 1.0), **run},
        *points,
        benchmark("w", 2.0, stage="hessian", problem="q", **together),
        benchmark(
            "f",
            2.0,
            flow="x",
            peer="P",
            what="prunes",
            size="3 layers",
            same_mask_of_flow=1.0,
            speedup=4.5,
            **together,
        ),
        benchmark(
            "m",
            3.0,
            wide_layer="MLP",
            columns=100,
            tokens=7,
            processor_seconds=2.5,
            peak_extra_bytes=10**5,
            relative_loss=0.1,
        ),
    )


def test_report_is_one_file_with_everything(tmp_path):
    data = measured()
    assert report.beside(report.kernels(data)[0]) == "4 x product"
    assert report.fits(data)[0]["exponent"] == pytest.approx(3)
    assert [row["speedup"] for row in report.published(data)] == pytest.approx([3, 4.5])
    assert [row["same_mask"] for row in report.published(data)] == [1.0, None]
    report.write_report(tmp_path / "report.html", data)
    text = (tmp_path / "report.html").read_text()
    assert text.count('src="data:image/png;base64,') == 3
    assert "64 of 10240 augmentations" in text and "ICML, Table 1" in text
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_result_files(tmp_path):
    result_file.write_results(tmp_path / "a.json", measured())
    assert result_file.read_results(tmp_path / "a.json") == measured()
    (tmp_path / "b.json").write_text(json.dumps({"machine_info": {}}))
    with pytest.raises(ValueError, match="is not a result file"):
        result_file.read_results(tmp_path / "b.json")


def test_tables_of_the_documents(tmp_path, monkeypatch):
    result_file.write_results(tmp_path / "a.json", measured())
    monkeypatch.setattr(figures, "RESULTS", tmp_path)
    for name, make in figures.TABLES.items():
        text = figures.filled(f"<!-- figures {name} -->\n<!-- end figures -->")
        assert make() in text and figures.filled(text) == text
    assert "64 augmentations, 5 % of eliminations" in figures.latency()
    data = measured()
    data["benchmarks"][3] |= {"mode": "full", "asynchronous": True}
    data["machine"]["device"] = "GPU"
    result_file.write_results(tmp_path / "a.json", data)
    assert "GPU |  |  | 3.0 s (60 %), all three | 1.0 s (20 %) |" in figures.stages()
    assert "| 4 x product |" in figures.operations()
    assert (
        "| P | prunes | 3 layers | wall | 9 s | 2 s | 4.5 | 100.00 % |"
        in figures.TABLES["published-flows"]()
    )
    spent = {"processor_seconds": 1.0, "reference_processor_seconds": 3.0}
    data["benchmarks"][-2] |= spent
    result_file.write_results(tmp_path / "a.json", data)
    assert "| processor | 3 s | 1 s | 3 | 100.00 % |" in figures.TABLES["published-flows"]()
    assert "| 2.5 s | 0.00 GB | 10.0 D² | 0.100 |" in figures.TABLES["wide-layers"]()


BENCHMARKS = """
    def test_right(benchmark):
        benchmark.pedantic(lambda: None, rounds=2)

    def test_raises(benchmark):
        benchmark.pedantic(lambda: 1 / 0)

    def test_wrong(benchmark):
        benchmark.pedantic(lambda: None)
        assert False
"""


def test_what_did_not_fail_is_kept_and_marked(tmp_path, monkeypatch):
    (tmp_path / "conftest.py").write_text("from benchmarks.conftest import *")
    (tmp_path / "bench_a.py").write_text(textwrap.dedent(BENCHMARKS))
    monkeypatch.setattr(main, "HERE", tmp_path)
    monkeypatch.setattr(sys, "argv", ["benchmarks", "quick", "--output", str(tmp_path / "out")])
    # set, it would keep the pytest that main() starts from writing results
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    with pytest.raises(SystemExit, match="these results are incomplete"):
        main.main()
    data = result_file.read_results(tmp_path / "out" / "quick.json")
    assert data["failed"]
    assert [b["name"].split("::")[1] for b in data["benchmarks"]] == ["test_right"]
    assert "Incomplete: some benchmarks failed" in (tmp_path / "out" / "quick.html").read_text()
    monkeypatch.setattr(figures, "RESULTS", tmp_path / "out")
    with pytest.raises(ValueError, match=r"figures: quick.json is incomplete"):
        figures.latency()


def test_figures_of_the_documents_are_those_of_the_result_files():
    assert figures.outdated() == [], "run: python -m benchmarks figures"


def test_commands_of_what_is_shown():
    for name in shown.SHOWN:
        words = shown.command_of(name).split()
        assert words[:3] == ["python", "-m", "benchmarks"]
        assert main.parser().parse_args(words[3:]).command in ("latency", "quick")


def test_published_times_of_exact_obc_stand_beside_the_papers_number_of_augmentations():
    for configuration in configurations().values():
        if configuration.method == "obc" and configuration.augmentations != 10240:
            assert not configuration.targets, configuration.name
