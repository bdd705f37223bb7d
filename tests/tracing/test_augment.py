"""Augmentations of images and texts: parameters, seeds, random states, errors."""

import random
import warnings

import numpy as np
import pytest
import torch

from spade_xai.exceptions import AugmentationWarning
from spade_xai.models.inputs import as_inputs, first_tensor, rebatch
from spade_xai.tracing.augment import (
    CHUNK,
    ImageAugment,
    PerImage,
    augmented,
    resolve_augment,
    seeded,
)
from spade_xai.tracing.text_augment import OPERATIONS, TextAugment, nearest


def images(count=1, channels=3):
    return torch.rand(count, channels, 16, 16, generator=torch.Generator().manual_seed(0))


def draw(augment, inputs, count=40, seed=0, size=64):
    return torch.cat(list(rebatch(augmented("test", inputs, augment, count, seed), size)))


@pytest.mark.parametrize("recipe", ["resnet", "convnext", ["crop", "flip"], ["erase"]])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_recipes_vary_each_image_within_range(recipe, channels):
    out = draw(ImageAugment(recipe), images(channels=channels))
    assert out.shape == (40, channels, 16, 16)
    assert out.min() >= 0
    assert out.max() <= 1
    assert len({tuple(x.flatten().tolist()) for x in out}) > 10


def test_same_seed_same_variants_whatever_the_batches():
    augment, x = ImageAugment("convnext"), images()
    first = draw(augment, x, 70)
    assert torch.equal(first, draw(augment, x, 70, size=7))
    assert torch.equal(first[:CHUNK], draw(augment, x, CHUNK))
    assert not torch.equal(first, draw(augment, x, 70, seed=1))
    assert not torch.equal(first[:CHUNK], first[CHUNK : 2 * CHUNK])


def legacy_state():
    return np.random.get_state()[1].tolist()  # noqa: NPY002


@pytest.mark.parametrize("fail", [False, True])
def test_global_random_states_are_restored(fail):
    states = torch.get_rng_state(), random.getstate(), legacy_state()

    def augment(x):
        torch.rand(1), random.random(), np.random.rand()  # noqa: NPY002
        if fail:
            raise KeyboardInterrupt
        return x

    try:
        draw(augment, images())
    except KeyboardInterrupt:
        assert fail
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1] == random.getstate()
    assert states[2] == legacy_state()


def test_normalised_images():
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.2, 0.1)
    x = images()
    shift, scale = (torch.tensor(v).view(-1, 1, 1) for v in (mean, std))
    plain = draw(ImageAugment("resnet"), x)
    normal = draw(ImageAugment("resnet", mean=mean, std=std), (x - shift) / scale)
    torch.testing.assert_close(normal * scale + shift, plain, atol=1e-4, rtol=0)
    with pytest.raises(ValueError, match=r"images must lie in \[0, 1\]"):
        draw(ImageAugment("resnet"), (x - shift) / scale)


def test_published_parameters():
    torch.manual_seed(0)
    flat = torch.full((400, 1, 8, 8), 0.4)
    noise = (ImageAugment(["noise"])(flat) - 0.4).var()
    assert noise == pytest.approx(0.001, rel=0.05)
    brightness = ImageAugment(["jitter"])(flat)[:, 0, 0, 0] / 0.4
    assert 0.5 <= brightness.min() < 0.55
    assert 1.45 < brightness.max() <= 1.5
    grey = torch.full((400, 1, 64, 64), 0.9)
    erased = (ImageAugment(["erase"])(grey) == 0).float().mean((1, 2, 3))
    assert (erased > 0).float().mean() == pytest.approx(0.5, abs=0.08)
    assert erased[erased > 0].min() > 0.01
    assert erased.max() < 0.34
    flipped = ImageAugment(["flip"])(images().repeat(400, 1, 1, 1))
    share = (flipped == images().flip(3)).all((1, 2, 3)).float().mean()
    assert share == pytest.approx(0.5, abs=0.08)


def test_colour_jitter_turns_hue_of_rgb():
    torch.manual_seed(0)
    red = torch.tensor([0.6, 0.1, 0.1]).view(1, 3, 1, 1).expand(64, 3, 4, 4)
    out = ImageAugment(["jitter"])(red)
    assert (out[:, 0] < out[:, 1] - 0.1).any()  # some are no longer mostly red


def test_samples_take_turns_and_none_passes_them_on():
    x = torch.arange(3.0).view(3, 1)
    assert draw(lambda b: b, x, 7).flatten().tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert draw(None, x, 7).flatten().tolist() == [0, 1, 2]


@pytest.mark.parametrize("sample", [(torch.rand(1, 4), None), {"a": torch.rand(1, 4), "b": 3}])
def test_structured_samples(sample):
    parts = list(rebatch(augmented("test", as_inputs("test", sample), lambda b: b, 70, 0), 48))
    assert [len(first_tensor(p)) for p in parts] == [48, 22]
    assert type(parts[0]) is type(sample)


def test_errors():
    with pytest.raises(ValueError, match="recipe must be one of resnet, convnext"):
        ImageAugment("vgg")
    with pytest.raises(ValueError, match="steps are jitter"):
        ImageAugment(["blur"])
    with pytest.raises(ValueError, match="mean and std go together"):
        ImageAugment(mean=(0, 0, 0))
    with pytest.raises(ValueError, match="must have 3 values"):
        ImageAugment(mean=(0,), std=(1,))(images())
    with pytest.raises(ValueError, match=r"floating point \[B, C, H, W\], got \(3, 16, 16\)"):
        ImageAugment()(images()[0])
    with pytest.raises(
        ValueError, match="augment must be given for a sample that is not float images"
    ):
        resolve_augment("trace", "auto", torch.rand(1, 4))
    with pytest.raises(TypeError, match="augment must be a recipe's name, a callable or None"):
        resolve_augment("trace", 3, images())
    with pytest.raises(
        ValueError, match="must return a batch of 32 as it was given, got Tensor of 1"
    ):
        draw(lambda b: b[:1], images())
    with pytest.raises(TypeError, match="sample must be a tensor"):
        as_inputs("trace", "image.png")
    with pytest.raises(ValueError, match="sample must be a batch"):
        as_inputs("trace", torch.rand(0, 3))


TABLE = {5: [50, 51], 6: [60], 7: [70]}


def text(ids, **options):
    options.setdefault("special", (1, 2))
    with seeded(0):
        return TextAugment(TABLE, **options)(ids)


def test_replacement_takes_synonyms_only():
    ids = torch.tensor([[1, 5, 6, 7, 8, 2]] * 30)
    out = text(ids, operations=["replace"], alpha=0.5)
    assert out.shape == (30, 9)
    changed = (out[:, :6] != ids).sum(1)
    assert changed.tolist() == [2] * 30
    allowed = {5: {5, 50, 51}, 6: {6, 60}, 7: {7, 70}, 8: {8}, 1: {1}, 2: {2}}
    for place, token in enumerate(ids[0].tolist()):
        assert set(out[:, place].tolist()) <= allowed[token]


def test_insertion_lengthens_and_keeps_the_rest_in_order():
    ids = torch.tensor([[1, 5, 6, 9, 2]] * 20)
    out = text(ids, operations=["insert"], alpha=0.2)
    for row in out.tolist():
        row = [t for t in row if t]
        assert len(row) == 6
        assert [t for t in row if t not in (50, 51, 60)] == ids[0].tolist()
        assert row[0] == 1
        assert row[-1] == 2
    short = text(ids, operations=["insert"], max_length=5)
    assert torch.equal(short, ids)


def test_swap_keeps_the_tokens():
    ids = torch.tensor([[1, 5, 6, 7, 8, 2]] * 20)
    out = text(ids, operations=["swap"])[:, :6]
    assert (out[:, [0, -1]] == ids[:, [0, -1]]).all()
    assert (out.sort(1).values == ids.sort(1).values).all()
    assert (out != ids).any(1).all()


def test_deletion_leaves_a_token_and_moves_what_goes_with_them():
    ids = torch.tensor([[1, 5, 6, 7, 2, 0]] * 40)
    kinds = torch.tensor([[0, 0, 1, 1, 1, 0]] * 40)
    mask = (ids != 0).long()
    fields = {"input_ids": ids, "attention_mask": mask, "token_type_ids": kinds, "labels": None}
    out = text(fields, operations=["delete"], alpha=0.9)
    assert out["labels"] is None
    lengths = out["attention_mask"].sum(1)
    assert 3 <= lengths.min() < lengths.max() <= 5
    kind_of = {1: 0, 5: 0, 6: 1, 7: 1, 2: 1}
    for i, length in enumerate(lengths.tolist()):
        row = out["input_ids"][i].tolist()
        assert row[length:] == [0] * (len(row) - length)
        assert [kind_of[t] for t in row[:length]] == out["token_type_ids"][i, :length].tolist()


def test_all_operations_through_chunks_have_one_width():
    ids = torch.tensor([[1, 5, 6, 7, 8, 9, 2]])
    out = draw(TextAugment(TABLE, special=(1, 2)), ids, 80)
    assert out.shape == (80, 8)
    assert len({tuple(row) for row in out.tolist()}) > 10
    untouched = draw(TextAugment(special=(1, 2), operations=["replace", "insert"]), ids, 8)
    assert torch.equal(untouched[:, :7], ids.expand(8, 7))


def test_neighbours_by_embedding():
    table = torch.tensor([[1.0, 0], [0.9, 0.1], [0, 1], [0.1, 0.9], [-1, 0]])
    assert nearest(table, 1)(0) == [1]
    assert nearest(table, 1, exclude=[1])(0) == [3]
    assert nearest(table, 4, least=0.5)(2) == [3]
    with pytest.raises(ValueError, match="embedding must have shape"):
        nearest(torch.zeros(3))
    with pytest.raises(ValueError, match="nearest: embedding must be finite, got 6 NaN"):
        nearest(torch.full((3, 2), torch.nan))
    with pytest.raises(ValueError, match="nearest: count must be at least 1, got 0"):
        nearest(torch.ones(3, 2), 0)
    with pytest.raises(ValueError, match="nearest: exclude must be at most 2, got 3"):
        nearest(torch.ones(3, 2), exclude=[3])
    with pytest.raises(ValueError, match=r"nearest: least must be in \[-1.0, 1.0\], got nan"):
        nearest(torch.ones(3, 2), least=float("nan"))
    with pytest.raises(ValueError, match="nearest: token must be at most 2, got 7"):
        nearest(torch.ones(3, 2))(7)


def test_text_errors():
    assert set(OPERATIONS) == {"replace", "insert", "swap", "delete"}
    with pytest.raises(ValueError, match="operations are replace"):
        TextAugment(operations=["translate"])
    with pytest.raises(ValueError, match="at least one"):
        TextAugment(operations=[])
    with pytest.raises(ValueError, match=r"alpha must be in \[0.0, 1.0\], got 2"):
        TextAugment(alpha=2)
    with pytest.raises(ValueError, match="integers"):
        TextAugment()(torch.rand(1, 4))
    with pytest.raises(
        TypeError, match="TextAugment: operations must be a list of names, got 'swap'"
    ):
        TextAugment(operations="swap")
    with pytest.raises(ValueError, match="TextAugment: max_length must be at least 1, got 0"):
        TextAugment(max_length=0)
    with pytest.raises(ValueError, match="TextAugment: pad must be at least 0, got -1"):
        TextAugment(pad=-1)
    with pytest.raises(TypeError, match="TextAugment: special must be an int, got str"):
        TextAugment(special="[CLS]")
    with pytest.raises(TypeError, match="TextAugment: special must hold token ids, got int"):
        TextAugment(special=5)
    with pytest.raises(TypeError, match="neighbours must be a table or a function, got int"):
        TextAugment(5)
    with pytest.raises(TypeError, match="TextAugment: neighbours must be an int, got float"):
        TextAugment({4: [2.5]}, operations=["replace"])(torch.tensor([[4, 4]]))
    ids = torch.tensor([[4, 5, 6]])
    with pytest.raises(
        ValueError, match=r"attention_mask must have the shape \(1, 3\) of input_ids"
    ):
        TextAugment()({"input_ids": ids, "attention_mask": torch.ones(1, 4)})
    with pytest.raises(ValueError, match="max_length must be at least the 4 tokens"):
        TextAugment(max_length=3)(torch.tensor([[4, 5, 6, 7]]))


def test_draws_that_are_equal_for_a_batch_are_told_and_per_image_mends_them():
    image = torch.rand(1, 3, 8, 8)

    def brighter(x):  # draws one number, whatever it is given
        return x * torch.rand(())

    with pytest.warns(
        AugmentationWarning, match=r"32 variants .* equal: augment is not random, or draws once"
    ):
        together = list(augmented("test", image, brighter, 40, 0))
    assert (together[0] == together[0][:1]).all()
    with pytest.warns(AugmentationWarning, match="augment changes nothing"):
        list(augmented("test", image, lambda x: x, 4, 0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        alone = torch.cat(list(augmented("test", image, PerImage(brighter), 40, 0)))
        list(augmented("test", torch.rand(2, 3, 8, 8), brighter, 4, 0))  # two rows differ anyway
    factors = (alone / image).flatten(1)
    torch.testing.assert_close(factors, factors[:, :1].expand_as(factors))
    assert len(factors[:, 0].unique()) == 40
    again = torch.cat(list(augmented("test", image, PerImage(brighter), 40, 0)))
    assert torch.equal(alone, again)
    with pytest.raises(TypeError, match="PerImage: transform must be callable, got int"):
        PerImage(3)
    with pytest.raises(
        ValueError, match=r"PerImage: images must be a tensor \[B, C, H, W\], got dict"
    ):
        PerImage(brighter)({})
