"""Weights by path: whatever torch takes strictly loads, under any wrapper's names; what the errors say."""

import pickle
import random
import re
import warnings

import pytest
import torch
from safetensors.torch import save_file, save_model
from torch import nn

from spade_xai.models.load import load_model
from spade_xai.models.weights import ModelError, load_weights, read_state


def tiny():
    """A model that specs name as test_weights:tiny."""
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 2))


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s, "epoch": 3}])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_weights_of_torch_files(tmp_path, wrap, prefix):
    source = tiny()
    state = {prefix + name: value for name, value in source.state_dict().items()}
    torch.save(wrap(state), tmp_path / "w.pt")
    model = load_model("test_weights:tiny", tmp_path / "w.pt")
    assert torch.equal(model[0].weight, source[0].weight)


def test_weights_of_safetensors(tmp_path):
    source = tiny()
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    model = load_model("test_weights:tiny", tmp_path / "w.safetensors")
    assert torch.equal(model[2].weight, source[2].weight)


def renamed(state, prefix):
    """The state under other names, with the versions of its modules."""
    out = type(state)((prefix + name, value) for name, value in state.items())
    out._metadata = {prefix.rstrip("."): {"version": 1}}
    return out


@pytest.mark.parametrize(
    "checkpoint",
    [
        lambda s: renamed(s, "_orig_mod."),
        lambda s: renamed(s, "_orig_mod.module."),
        lambda s: renamed(s, "module._orig_mod."),
        lambda s: {"state_dict": renamed(s, "model."), "epoch": 3},
        lambda s: {"state_dict": renamed(s, "net.backbone."), "hyper_parameters": {"lr": 0.1}},
        lambda s: {"net": dict(s), "acc": 91.2, "epoch": 3},
        lambda s: {"state_dict_ema": renamed(s, "module."), "epoch": 3},
        lambda s: {"model_ema": renamed(s, "_orig_mod."), "step": torch.tensor(3)},
    ],
)
def test_checkpoints_of_wrapped_models(tmp_path, checkpoint):
    source, model = tiny(), tiny()
    torch.save(checkpoint(source.state_dict()), tmp_path / "w.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_weights(model, tmp_path / "w.pt")
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in source.state_dict().items())


def test_what_lies_beside_the_prefix_is_left_out_with_a_warning(tmp_path):
    averaged = torch.optim.swa_utils.AveragedModel(tiny())
    torch.save(averaged.state_dict(), tmp_path / "w.pt")
    model = tiny()
    with pytest.warns(UserWarning, match=r"4 tensors under 'module.'; 1 others .* 'n_averaged'"):
        load_weights(model, tmp_path / "w.pt")
    assert torch.equal(model[0].weight, averaged.module[0].weight)


def test_a_part_of_the_names_is_no_prefix(tmp_path):
    model = nn.Sequential(tiny(), tiny())  # names 0.0.weight, 1.0.weight, ...
    save_file({f"x.{k}": v for k, v in model[0].state_dict().items()}, tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match=r"0 of 8 names fit, 8 missing in the file"):
        load_weights(model, tmp_path / "w.safetensors")


@pytest.mark.parametrize("wrap", [nn.DataParallel, lambda m: torch.compile(m, backend="eager")])
def test_wrapped_models_take_plain_weights(tmp_path, wrap):
    source, inner = tiny(), tiny()
    torch.save(source.state_dict(), tmp_path / "w.pt")
    load_weights(wrap(inner), tmp_path / "w.pt")
    assert torch.equal(source[0].weight, inner[0].weight)


def norms():
    """A model with counters of batches."""
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))


def test_batch_norms_saved_without_their_counters(tmp_path):
    state = {k: v for k, v in norms().state_dict().items() if "num_batches" not in k}
    assert norms().load_state_dict(state)  # torch takes it, strictly
    for name in ("plain", "module."):
        torch.save({name.replace("plain", "") + k: v for k, v in state.items()}, tmp_path / "w.pt")
        load_weights(norms(), tmp_path / "w.pt")


def test_torchvision_files_of_old_names_and_versions(tmp_path):
    models = pytest.importorskip("torchvision").models
    dense = models.densenet121(weights=None)
    old = {
        re.sub(r"(denselayer\d+\.(?:norm|conv))(\d)", r"\1.\2", k): v
        for k, v in dense.state_dict().items()
        if "num_batches" not in k
    }
    torch.save(old, tmp_path / "w.pth")
    loaded = load_model("torchvision:densenet121", tmp_path / "w.pth").state_dict()
    assert all(torch.equal(v, loaded[k]) for k, v in dense.state_dict().items())
    mobile = models.mnasnet0_5(weights=None)  # its modules have a version
    torch.save(mobile.state_dict(), tmp_path / "w.pth")
    loaded = load_model("torchvision:mnasnet0_5", tmp_path / "w.pth")
    assert torch.equal(loaded.layers[0].weight, mobile.layers[0].weight)
    assert read_state(tmp_path / "w.pth")._metadata[""]["version"] == 2


def test_tensors_of_several_names_that_safetensors_wrote_once(tmp_path):
    def tied():
        model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
        model[1].weight = model[0].weight
        return model

    source, model = tied(), tied()
    save_model(source, str(tmp_path / "w.safetensors"))
    load_weights(model, tmp_path / "w.safetensors")
    assert torch.equal(model[1].weight, source[0].weight)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: s.pop("2.weight"),
            "3 of 4 names fit, 1 missing in the file, such as '2.weight'",
        ),
        (
            lambda s: s.update({"0.weight": torch.zeros(4, 1, 3, 3)}),
            r"3 of 4 names fit, 1 of another shape, '0.weight' expected \(4, 3, 3, 3\), got \(4, 1, 3, 3\)",
        ),
        (
            lambda s: s.update(head=torch.zeros(1)),
            "4 of 4 names fit, 1 not in the model, such as 'head'",
        ),
    ],
)
def test_mismatch_says_what_fits_and_leaves_the_model(tmp_path, change, message):
    model = tiny()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = dict(tiny().state_dict())
    change(state)
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match=message):
        load_weights(model, tmp_path / "w.safetensors")
    assert all(torch.equal(before[n], v) for n, v in model.state_dict().items())


def test_unreadable_weights(tmp_path):
    with pytest.raises(ModelError, match=r"no file .*missing.pt"):
        load_weights(tiny(), tmp_path / "missing.pt")
    (tmp_path / "bad.safetensors").write_bytes(b"nonsense")
    with pytest.raises(ModelError, match=r"cannot read .*bad.safetensors"):
        load_weights(tiny(), tmp_path / "bad.safetensors")
    (tmp_path / "bad.pt").write_bytes(b"")
    with pytest.raises(ModelError, match=r"cannot read .*bad.pt"):
        load_weights(tiny(), tmp_path / "bad.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(ModelError, match=r"list.pt must hold a dict of tensors"):
        load_weights(tiny(), tmp_path / "list.pt")


class Bomb:
    """Its unpickling would write a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


@pytest.mark.parametrize("plain_pickle", [False, True])
def test_no_code_of_a_weights_file_runs(tmp_path, plain_pickle):
    bomb, mark = {"w": Bomb(str(tmp_path / "mark"))}, tmp_path / "mark"
    if plain_pickle:
        (tmp_path / "w.pt").write_bytes(pickle.dumps(bomb))
    else:
        torch.save(bomb, tmp_path / "w.pt")
    with pytest.raises(ModelError, match=r"not a torch file of tensors alone"):
        load_weights(tiny(), tmp_path / "w.pt")
    assert not mark.exists()


@pytest.mark.parametrize("zipped", [False, True])
def test_truncated_files(tmp_path, zipped):
    model = nn.Sequential(nn.Conv2d(3, 4, 3))
    before = model[0].weight.clone()
    torch.save(model.state_dict(), tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    whole = (tmp_path / "w.pth").read_bytes()
    for cut in range(0, len(whole), 13):
        (tmp_path / "cut.pth").write_bytes(whole[:cut])
        with pytest.raises(ModelError) as error:
            load_weights(model, tmp_path / "cut.pth")
        assert "\n" not in str(error.value)
    assert torch.equal(before, model[0].weight)


@pytest.mark.filterwarnings("ignore")  # what pickle and torch say of odd opcodes
@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_changed_bits_are_told_or_give_other_weights(tmp_path, kind):
    path, draw = (
        tmp_path / ("w.safetensors" if kind == "safetensors" else "w.pth"),
        random.Random(0),
    )
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    if kind == "safetensors":
        save_file(model.state_dict(), path)
    else:
        torch.save(model.state_dict(), path, _use_new_zipfile_serialization=kind == "zip")
    whole, refused = path.read_bytes(), 0
    for _ in range(60):
        changed = bytearray(whole)
        changed[draw.randrange(min(len(whole), 700))] ^= 1 << draw.randrange(8)
        path.write_bytes(changed)
        before = model[0].weight.clone()
        try:
            load_weights(model, path)
        except ModelError as error:
            refused += 1
            assert "\n" not in str(error) and torch.equal(before, model[0].weight)
    assert refused > 10


def test_several_state_dicts_in_a_file_are_told(tmp_path):
    source, average = tiny(), tiny()
    torch.save(
        {"state_dict": source.state_dict(), "state_dict_ema": average.state_dict()},
        tmp_path / "w.pt",
    )
    with pytest.warns(UserWarning, match=r"\(state_dict, state_dict_ema\): taken is 'state_dict'"):
        model = load_model("test_weights:tiny", tmp_path / "w.pt")
    assert torch.equal(model[0].weight, source[0].weight)


@pytest.mark.parametrize("kind", [torch.int8, torch.bool, torch.complex64])
def test_tensors_of_another_kind_are_told(tmp_path, kind):
    state = tiny().state_dict()
    torch.save({**state, "0.bias": state["0.bias"].to(kind)}, tmp_path / "w.pt")
    with pytest.warns(
        UserWarning, match=rf"such as '0\.bias' of {kind}: are the weights quantised"
    ):
        load_weights(tiny(), tmp_path / "w.pt")


def test_tensors_that_cannot_be_copied_are_named(tmp_path):
    state = tiny().state_dict()
    torch.save({**state, "2.weight": state["2.weight"].to_sparse()}, tmp_path / "w.pt")
    with pytest.raises(ModelError, match=r'does not fit the model: .*"2\.weight".*sparse'):
        load_weights(tiny(), tmp_path / "w.pt")
