"""The command line: what each command writes and prints."""

import json
import re
from pathlib import Path

import torch
from command_line import FAST, make, notices
from PIL import Image
from safetensors.torch import save_file

import spade_xai.reports.demo
from spade_xai import METHODS, load_trace
from spade_xai.reports.maps_file import read_maps
from spade_xai.tracing.pruning.exact_obc import ExactOBC

COMMANDS = [
    "trace",
    "explain",
    "evaluate",
    "tune",
    "visualize",
    "reasons",
    "demo",
    "models",
    "methods",
]


def test_help_has_examples_for_every_command(run):
    code, out, _ = run("--help")
    assert code == 0
    assert all(command in out for command in COMMANDS)
    for command in COMMANDS:
        code, out, _ = run(command, "--help")
        assert code == 0
        assert re.search(rf"Examples: *\n +spade-xai {command} ", out)


def test_trace(run, pictures):
    code, out, err = run("trace", pictures / "a.png", *FAST, "-s", "0.5", "-o", "out")
    assert code == 0 and notices(err) == ""
    lines = [line.split() for line in out.splitlines()]
    assert out.startswith("images: as they are; values in [0, 1] (nothing is known of the model)")
    assert lines[1] == ["a.png:", "out/a.safetensors"]
    assert lines[2][0] == "layer"
    assert [line[0] for line in lines[3:5]] == ["0", "3"]
    assert lines[3][3] == "0.50" and lines[3][-1] == "pruned"
    found = load_trace("out/a.safetensors", make().eval())
    assert [layer.sparsity_asked for layer in found.layers] == [0.5, 0.5]


def test_trace_of_several_as_json(run, pictures):
    arguments = ["trace", "pictures/?.png", *FAST, "-t", "FastSPADE", "-l", "3", "--json"]
    arguments += ["--device", "cpu", "--forward-precision", "bfloat16"]
    code, out, _ = run(*arguments, "-s", "last_block:0.9", "--augment", "noise,flip")
    assert code == 0
    found = json.loads(out)
    assert [entry["image"] for entry in found] == ["a.png", "b.png"]
    assert [entry["file"] for entry in found] == ["traces/a.safetensors", "traces/b.safetensors"]
    assert all([x["name"] for x in entry["layers"]] == ["3"] for entry in found)
    assert found[0]["fidelity"]["sample"]["count"] == 1
    assert set(found[0]["seconds"]) == {"augment", "forward", "hessian", "prune", "fidelity"}


def test_images_of_one_name_in_two_folders(run, pictures):
    Path("more").mkdir()
    Image.new("RGB", (16, 16), (200, 30, 30)).save("more/a.png")
    arguments = ["trace", "pictures/a.png", "more/a.png", *FAST, "-s", "0.5", "-t", "FastSPADE"]
    code, out, _ = run(*arguments, "--json")
    assert code == 0
    names = [(entry["image"], entry["file"]) for entry in json.loads(out)]
    assert names == [
        ("pictures/a.png", "traces/pictures_a.safetensors"),
        ("more/a.png", "traces/more_a.safetensors"),
    ]


def test_sequential_traces_differ(run, pictures):
    for arguments in (["-o", "one"], ["-o", "two", "--sequential"]):
        assert run("trace", "pictures/a.png", *FAST, "-s", "0.6", *arguments)[0] == 0
    a, b = (load_trace(f"{folder}/a.safetensors", make()) for folder in ("one", "two"))
    agreement = a.agreement(b)
    assert agreement["0"] == 1.0
    assert agreement["3"] < 1.0


def test_explain(run, pictures):
    Path("names.txt").write_text("zero\none\ntwo\n")
    options = ["-t", "SPADE", "-t", "FastSPADE", "-a", "saliency", "-a", "lrp", "--target", "2"]
    arguments = ["explain", "pictures", "--masks", "pictures", *FAST, *options, "-o", "out"]
    code, out, _ = run(*arguments, "--class-names", "names.txt")
    assert code == 0
    assert sorted(p.name for p in Path("out").iterdir()) == [
        "a.png", "a.safetensors", "b.png", "b.safetensors", "report.html"
    ]  # fmt: skip
    assert "Explained: two. out/a.png" in out
    assert out.count("same label as dense") == 4
    page = Path("out/report.html").read_text()
    assert page.count("<article") == 2 and page.count("<img") == 2 * 2 * 5
    assert "Red pixels gave" in page and ", for two." in page
    code, out, _ = run("explain", "pictures/b.png", *FAST, "-a", "saliency", "-o", "out", "--json")
    found = json.loads(out)
    assert found["report"] == "out/report.html"
    assert found["images"][0]["grid"] == "out/b.png"
    assert list(found["images"][0]["traces"]) == ["SPADE"]


def test_explain_says_first_what_it_takes(run, pictures):
    command = [
        "explain",
        "pictures/a.png",
        "pictures/b.png",
        *FAST,
        "-t",
        "SPADE",
        "-t",
        "FastSPADE",
    ]
    code, _, err = run(*command)
    assert code == 0
    for tracer in ("SPADE", "FastSPADE"):
        assert (
            len(re.findall(rf"^ *\d+ s  {tracer}: about .* s and 0.00 GB per image", err, re.M))
            == 1
        )
    assert err.index("GB per image") < err.index("image 2 of 2")
    assert "GB per image" not in run(*command)[2]  # all is there already
    assert "GB per image" not in run(*command, "--no-progress", "-o", "other")[2]


def test_a_label_is_explained_beside_the_answer_and_kept(run, pictures):
    Path("names.txt").write_text("zero\none\ntwo\n")
    arguments = ["explain", "pictures", "--masks", "pictures", *FAST, "-a", "input_x_gradient"]
    arguments += ["-s", "0.5", "--class-names", "names.txt"]
    code, out, _ = run(*arguments, "-o", "out", "--json")
    answer = json.loads(out)["images"][0]["prediction"]
    label = (answer + 1) % 3
    code, out, _ = run(*arguments, "-o", "out", "--label", ["zero", "one", "two"][label], "--json")
    found = json.loads(out)["images"][0]
    assert code == 0 and found["label"] == label and 0 < found["label_probability"]["dense"] < 1
    assert len(found["answers"]["dense"]) == 3 and found["answers"]["dense"][0]["index"] == answer
    explanation, mask, _ = read_maps(Path("out/a.safetensors"))
    assert mask is not None
    maps, label_maps = (
        explanation.maps["input_x_gradient"],
        explanation.label_maps["input_x_gradient"],
    )
    assert set(maps) == set(label_maps) == {"dense", "SPADE"}
    assert not torch.equal(maps["dense"], label_maps["dense"])
    page = Path("out/report.html").read_text()
    assert "difference of both" in page and ", you say " in page
    before = Path("out/a.safetensors").stat().st_mtime_ns
    assert run(*arguments, "-o", "out", "--label", label)[0] == 0  # kept: the same class by number
    assert Path("out/a.safetensors").stat().st_mtime_ns == before
    code, _, err = run(*arguments, "-o", "out", "--label", "tow")
    assert (
        code == 1 and "--label must be a class of the model, got 'tow': did you mean 'two'?" in err
    )


def test_maps_that_equal_those_of_another_method_are_left_out_with_a_note(run, pictures):
    arguments = [
        "explain",
        "pictures/a.png",
        "-m",
        "command_line:without_relu",
        "-n",
        "8",
        "-s",
        "0.5",
    ]
    code, out, _ = run(*arguments, "-a", "saliency", "-a", "guided_backprop", "--json")
    found = json.loads(out)["images"][0]
    assert code == 0 and found["methods"] == ["saliency"]
    assert found["equal_methods"] == {"guided_backprop": "saliency"}
    page = Path("explanations/report.html").read_text()
    assert "Guided backprop is left out: its maps equal those of saliency." in page


def test_evaluate(run, pictures):
    arguments = ["evaluate", "pictures", "--masks", "pictures", *FAST, "-a", "saliency"]
    code, out, _ = run(*arguments, "-o", "e")
    assert code == 0
    assert "AUROC" in out and "Pointing game" in out and "Insertion" not in out
    assert "SPADE, other image" in out
    assert "AUROC" in Path("e/report.html").read_text()
    arguments = ["evaluate", "pictures/a.png", *FAST, "-a", "saliency", "-t", "SPADE"]
    code, out, err = run(*arguments, "--json")
    assert code == 0 and notices(err) == ""
    scores = json.loads(out)["scores"]
    assert {row["metric"] for row in scores} == {"insertion", "deletion"}
    assert {row["map"] for row in scores} == {"dense", "SPADE", "edges", "random"}
    assert scores[0]["standard_error"] is None  # of one image


def test_tune_and_what_it_gives_to_trace(run, pictures, monkeypatch):
    arguments = ["tune", "pictures", "--masks", "pictures", *FAST, "--grid", "0,0.5"]
    arguments += ["--checkpoint", "run.jsonl", "-o", "tuned.json"]
    code, out, _ = run(*arguments)
    assert code == 0
    assert "mean AUROC" in out
    tuned = json.loads(Path("tuned.json").read_text())["sparsity"]
    assert set(tuned) == {"0", "3"}

    def none(*_):
        raise AssertionError("everything is in the checkpoint")

    with monkeypatch.context() as patch:
        patch.setattr(ExactOBC, "prepare", none)
        code, out, _ = run(*arguments, "--json")
    assert code == 0
    assert json.loads(out)["sparsity"] == tuned
    code, out, _ = run("trace", "pictures/a.png", *FAST, "-s", "tuned.json", "--json")
    assert {x["name"]: x["sparsity_asked"] for x in json.loads(out)[0]["layers"]} == tuned


def test_tune_by_insertion_in_groups(run, pictures):
    arguments = ["tune", "pictures/a.png", *FAST, "-a", "saliency", "-a", "lrp"]
    arguments += ["--grid", "0.2,0.5", "--device", "cpu", "--forward-precision", "bfloat16"]
    code, out, _ = run(*arguments, "-g", "0,3", "--json")
    assert code == 0
    assert len(set(json.loads(out)["sparsity"].values())) == 1


def test_normalisation_and_weights(run, pictures):
    save_file(make().state_dict(), "w.safetensors")
    torch.save(make().state_dict(), "w.pt")
    for weights in ("w.safetensors", "w.pt"):
        arguments = ["trace", "pictures/a.png", *FAST, "-w", weights, "-s", "0.5"]
        for layers in ("3", "network.3", "re:network\\.3"):
            options = ["--normalize", "0.5,0.4,0.3/0.2,0.2,0.1", "-l", layers]
            code, out, _ = run(*arguments, *options)
            assert code == 0
            assert "less 0.5, 0.4, 0.3, divided by 0.2, 0.2, 0.1 (--normalize 0.5,0.4,0.3/0." in out
            assert set(load_trace("traces/a.safetensors", make()).masks()) == {"3"}


def test_library_model_brings_its_normalisation_and_names_of_classes(run, pictures):
    arguments = ["pictures/a.png", "-m", "torchvision:mobilenet_v3_small", "-n", "2"]
    arguments += ["-t", "FastSPADE", "-l", "classifier.*"]
    code, out, _ = run("trace", *arguments, "--json")
    assert code == 0
    assert [x["cols"] for x in json.loads(out)[0]["layers"]] == [576, 1024]
    code, out, _ = run("explain", *arguments, "-a", "saliency", "--target", "281", "-o", "out")
    assert code == 0
    assert "Explained: tabby. out/a.png" in out


def test_demo_passes_its_options_on(run, monkeypatch, tmp_path):
    given = {}

    def run_demo(output_dir, **options):
        options["report"]("a line")
        given.update(options, output_dir=output_dir)
        return {"n": float("nan")}

    monkeypatch.setattr(spade_xai.reports.demo, "run_demo", run_demo)
    arguments = ["demo", "--trojan", 3, "--clean", 2, "-n", 9, "-a", "lrp", "-o", tmp_path]
    code, out, err = run(*arguments, "--json")
    assert code == 0
    assert json.loads(out) == {"n": None}
    assert notices(err) == "a line\n"
    expected = {"trojan": 3, "clean": 2, "augmentations": 9, "methods": ["lrp"]}
    expected["output_dir"] = tmp_path
    assert {name: given[name] for name in expected} == expected
    assert run("demo", "-o", tmp_path)[1] == "a line\n"


def test_models_of_files_and_of_the_working_directory(run, pictures):
    code = "from command_line import make\nprint('from the model')\n"
    Path("nets").mkdir()
    Path("nets/own_net_file.py").write_text(code)
    Path("own_net_here.py").write_text(code)
    for spec in ("nets/own_net_file.py:make", "own_net_here:make"):
        arguments = ["trace", "pictures/a.png", "-m", spec, "-n", "8", "-s", "0.5", "-o", "out"]
        code, out, err = run(*arguments, "--json")
        assert code == 0
        assert json.loads(out)[0]["image"] == "a.png"  # what the model prints is elsewhere
        assert "from the model" in err
    code, _, err = run("trace", "pictures/a.png", "-m", "absent.py:make")
    assert code == 1 and "cannot import absent.py:make: no file absent.py" in err


def test_methods_in_any_case_and_near_misses(run, pictures):
    arguments = ["explain", "pictures/a.png", *FAST, "-s", "0.5", "-t", "fastspade"]
    code, out, _ = run(*arguments, "-a", "Input-X-Gradient", "--json")
    assert code == 0
    assert json.loads(out)["images"][0]["methods"] == ["input_x_gradient"]
    arguments[-1] = "SparseGPT"  # as `trace` calls it
    code, out, _ = run(*arguments, "-a", "InputXGradient", "--json")
    assert code == 0 and "FastSPADE" in out
    assert json.loads(out)["images"][0]["methods"] == ["input_x_gradient"]
    for option, name, meant in (("-a", "salency", "saliency"), ("-t", "fastspad", "FastSPADE")):
        code, _, err = run(*arguments, option, name)
        assert code == 2 and f"did you mean {meant}?" in " ".join(err.replace("│", " ").split())
    code, _, err = run("trace", "pictures/a.png", "-m", "pretrained:efficientnet_lite1")
    assert code == 1 and "did you mean efficientnet_lite" in err


def test_version(run):
    code, out, _ = run("--version")
    assert code == 0 and re.fullmatch(r"spade-xai \d+\.\d+\.\d+\S*\n", out)


def test_target_by_name(run, pictures):
    Path("names.txt").write_text("zero\nOne\ntwo\n")
    arguments = [
        "explain",
        "pictures/a.png",
        *FAST,
        "-s",
        "0.5",
        "-t",
        "FastSPADE",
        "-a",
        "saliency",
    ]
    code, out, _ = run(*arguments, "--class-names", "names.txt", "--target", "one", "--json")
    assert code == 0 and json.loads(out)["images"][0]["target"] == 1
    for options, message in (
        (["--class-names", "names.txt", "--target", "zer"], "did you mean 'zero'?"),
        (["--target", "one"], "must be a number, as no names of classes are known, got 'one'"),
    ):
        code, _, err = run(*arguments, *options)
        assert code == 1 and message in err


def test_lists(run):
    code, out, _ = run("methods")
    assert code == 0 and [line.split()[0] for line in out.splitlines()] == ["method", *METHODS]
    code, out, _ = run("methods", "--json")
    assert [entry["name"] for entry in json.loads(out)] == list(METHODS)
    code, out, _ = run("models", "LITE0", "--json")
    names = json.loads(out)
    assert code == 0 and names[0] == "pretrained:efficientnet_lite0"
    assert all("lite0" in name for name in names)
