"""The shipped backdoored network: what the files are, what the network answers, and the demo on two pictures a kind."""

from importlib import resources

import pytest
import torch
from PIL import Image

from spade_xai.trojans import backdoored
from spade_xai.trojans.backdoored import KINDS, load_network, load_patch, load_pictures, metadata
from spade_xai.trojans.trojan import predictions

ASSETS = resources.files("spade_xai.trojans").joinpath("assets")


@pytest.fixture(scope="module")
def model():
    return load_network()


def test_network(model):
    assert not model.training
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in model.parameters())
    convolutions = [
        n
        for n, m in model.named_modules()
        if isinstance(m, torch.nn.Conv2d) and "shortcut" not in n
    ]
    assert len(convolutions) + 1 == 26
    assert model(torch.zeros(2, 3, 64, 64)).shape == (2, len(metadata()["classes"]))


@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_as_the_metadata_states(model, kind):
    pictures = load_pictures(kind)
    assert predictions(model, pictures.images).equal(pictures.predictions)
    by_name = {entry["name"]: entry for entry in metadata()["backdoors"]}
    for name, label, answer in zip(
        pictures.backdoors, pictures.labels.tolist(), pictures.predictions.tolist(), strict=True
    ):
        if name is None:
            assert "clean" in kind and answer == label
        else:
            assert "trojan" in kind and answer == by_name[name]["target"] != label
            assert by_name[name]["source"] in (None, label)


@pytest.mark.parametrize("kind", ["trojan", "tune_trojan"])
def test_masks_agree_with_the_patches_in_the_pictures(kind):
    pictures = load_pictures(kind)
    for image, mask, name in zip(pictures.images, pictures.masks, pictures.backdoors, strict=True):
        patch = load_patch(name)
        alpha = patch[3]
        rows, cols = (alpha >= 0.5).nonzero().unbind(1)
        at, to = mask.nonzero().amin(0), torch.stack([rows, cols], 1).amin(0)
        top, left = (at - to).tolist()
        assert torch.equal(
            mask.nonzero() - mask.nonzero().amin(0), torch.stack([rows, cols], 1) - to
        )
        under = image[:, top : top + alpha.shape[0], left : left + alpha.shape[1]]
        solid = alpha > 0.99
        found, drawn = under[:, solid], patch[:3, solid]
        # jitter scales colours by up to 1.2, its noise averages out: the patch's own colours remain in order
        assert torch.corrcoef(torch.stack([found.flatten(), drawn.flatten()]))[0, 1] > 0.85
        assert (found - drawn).abs().mean() < 0.25


def test_clean_pictures_have_no_mask():
    pictures = load_pictures("clean")
    assert not pictures.masks.any() and set(pictures.backdoors) == {None}
    assert (
        len(set(pictures.labels[: len(metadata()["classes"])].tolist())) > 8
    )  # classes take turns


def test_stated_accuracies_agree_with_the_counts():
    about = metadata()
    assert 0.9 <= about["accuracy"]["after_planting"] <= 1
    for backdoor in about["backdoors"]:
        assert 0.6 * backdoor["right_before_patch"] <= backdoor["target_after_patch"]
        assert backdoor["target_after_patch"] <= backdoor["right_before_patch"]
    assert {entry["kind"] for entry in about["pictures"]} == set(KINDS)
    assert set(about["sources"]) == set(about["classes"])


def test_every_file_is_named_and_small():
    about = metadata()
    named = {entry[key] for entry in about["pictures"] for key in ("file", "mask") if key in entry}
    named |= {backdoor["patch"] for backdoor in about["backdoors"]}
    there = {f"{d}/{f.name}" for d in ("pictures", "patches") for f in ASSETS.joinpath(d).iterdir()}
    assert named == there
    sizes = [len(ASSETS.joinpath(name).read_bytes()) for name in [*named, "network.safetensors"]]
    assert sum(sizes) < 5e6
    with Image.open(ASSETS.joinpath(about["pictures"][0]["file"]).open("rb")) as picture:
        assert picture.format == "PNG" and picture.size == (backdoored.SIZE, backdoored.SIZE)


def test_counts_and_kinds():
    few = load_pictures("trojan", 3)
    assert len(few) == 3 and torch.equal(few.images, load_pictures().images[:3])
    with pytest.raises(ValueError, match=r"load_pictures: kind must be one of trojan, .*'dirty'"):
        load_pictures("dirty")
    with pytest.raises(ValueError, match=r"load_pictures: count must be in \[1, \d+\], got 0"):
        load_pictures("clean", 0)
    with pytest.raises(ValueError, match=r"load_patch: name must be one of .*'cross'"):
        load_patch("cross")
