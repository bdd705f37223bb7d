"""What augmentation on a CUDA device waits for and draws, on a device that is none.

SPADE_CUDA_LIBRARY names the emulated backend (the target spade_cuda_emulated of tests/cuda).
"""

import pytest
import torch

from spade_xai.tracing.augment import CHUNK, CUDA_CHUNK, ImageAugment, augmented, seeded
from spade_xai.tracing.text_augment import TextAugment, nearest


def drawn(sample, augment, count):
    """The augmentations, chunk by chunk."""
    return list(augmented("test", sample, augment, count, 0))


@pytest.mark.parametrize("recipe", ["resnet", "convnext", ["flip"]])
@pytest.mark.parametrize("constants", [{}, {"mean": (0.0, 0.1, 0.2), "std": (0.9, 0.8, 0.7)}])
def test_images_wait_once_a_sample(fake_cuda, on_device, recipe, constants):
    augment = ImageAugment(recipe, **constants)
    image = torch.rand(1, 3, 8, 8)
    sample = on_device(image)
    fake_cuda.forget()
    parts = drawn(sample, augment, 2 * CUDA_CHUNK + 8)
    assert [len(x) for x in parts] == [CUDA_CHUNK, CUDA_CHUNK, 8]
    assert all(x.is_cuda for x in parts)
    assert fake_cuda.waits == ["copy to cpu"] and fake_cuda.moved == [2]  # least and most
    # Parameters of kornia's go there, no more than a box an image at a time; no noise or image does.
    assert max(fake_cuda.sent) <= 8 * CUDA_CHUNK
    few = torch.cat(drawn(sample, augment, CHUNK)).cpu()
    torch.testing.assert_close(few, torch.cat(drawn(image, augment, CHUNK)))


def test_images_outside_their_range_on_the_device(on_device):
    with pytest.raises(ValueError, match=r"images must lie in \[0, 1\].*, got \[-1, 1\]"):
        ImageAugment()(on_device(torch.linspace(-1, 1, 192).view(1, 3, 8, 8)))


@pytest.mark.parametrize(("numbers", "size"), [(1, CUDA_CHUNK), (10, 100), (1000, CHUNK)])
def test_chunks_of_large_samples_are_smaller(on_device, monkeypatch, numbers, size):
    monkeypatch.setattr("spade_xai.tracing.augment.CUDA_NUMBERS", 1000)
    parts = drawn(on_device(torch.zeros(1, numbers)), lambda x: x, CUDA_CHUNK)
    assert len(parts[0]) == size and sum(map(len, parts)) == CUDA_CHUNK


def test_texts_wait_once_a_chunk(fake_cuda, on_device):
    ids = torch.randint(1, 40, (1, 11), generator=torch.Generator().manual_seed(0))
    ids[0, 9:] = 0
    text = {"input_ids": ids, "attention_mask": (ids != 0).long(), "kinds": ids % 2}
    there = {name: on_device(x) for name, x in text.items()}
    augment = TextAugment({token: [token % 39 + 1] for token in range(1, 40)}, alpha=0.3)
    fake_cuda.forget()
    parts = drawn(there, augment, 2 * CUDA_CHUNK)
    assert fake_cuda.waits == ["copy to cpu"] * 2
    for name, x in drawn(text, augment, CHUNK)[0].items():
        assert parts[0][name].is_cuda and parts[0][name].dtype == x.dtype
        assert torch.equal(drawn(there, augment, CHUNK)[0][name].cpu(), x)


def test_synonyms_wait_once_a_token(fake_cuda, on_device):
    table = torch.randn(40, 8, generator=torch.Generator().manual_seed(0))
    near, there = nearest(table, 4, exclude=[3]), nearest(on_device(table), 4, exclude=[3])
    fake_cuda.forget()
    assert [there(token) for token in (5, 6, 5)] == [near(token) for token in (5, 6, 5)]
    assert fake_cuda.waits == ["copy to cpu"] * 2


def test_own_functions_are_seeded_on_the_device(on_device):
    sample = on_device(torch.zeros(1, 4))
    (first,) = drawn(sample, lambda x: x + torch.rand_like(x), CUDA_CHUNK)
    with seeded(0):
        assert torch.equal(first.cpu(), torch.rand(CUDA_CHUNK, 4))
