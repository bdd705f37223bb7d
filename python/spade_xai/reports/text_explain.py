"""Maps of a text's tokens in the dense model and in its traces, side by side."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor, nn

from spade_xai.attribution.tokens import token_map
from spade_xai.models.inputs import device_of
from spade_xai.models.tokens import Encoded, Word
from spade_xai.progress import Progress, reporting
from spade_xai.reports.answers import answers_of, probability_of
from spade_xai.reports.explain import (
    DENSE,
    Explained,
    add_trace,
    check_tracers,
    drop_equal,
    whole_time,
)
from spade_xai.reports.text_scores import answer_of
from spade_xai.tracing.pruning.registry import TRACERS
from spade_xai.tracing.trace import trace


@dataclass(kw_only=True)
class TextExplanation(Explained):
    """What one text's maps are before and after pruning for it.

    Attributes:
        text: The text.
        pieces: Its tokens, special ones among them; maps are [T], a value per token.
        words: Its words; each says which tokens are its own.
    """

    text: str
    pieces: tuple[str, ...]
    words: tuple[Word, ...]

    def of_words(self, values: Tensor) -> Tensor:
        """The values of words, each the sum of its tokens' [T]."""
        return values.new_tensor([float(values[list(w.tokens)].sum()) for w in self.words])

    def summary(self) -> dict[str, Any]:
        """Everything as JSON takes it; a map has a value per word."""
        return {
            "name": self.name,
            "text": self.text,
            "words": [self.text[word.start : word.end] for word in self.words],
            **self.common(),
            "maps": self._by_word(self.maps),
            "label_maps": self._by_word(self.label_maps),
            "tokens": list(self.pieces),
            "token_words": [asdict(word) for word in self.words],
        }

    def _by_word(self, maps: dict[str, dict[str, Tensor]]) -> dict[str, dict[str, list[float]]]:
        return {
            method: {c: self.of_words(values).tolist() for c, values in columns.items()}
            for method, columns in maps.items()
        }


def explain_text(
    model: nn.Module,
    name: str,
    text: str,
    encoded: Encoded,
    *,
    pad: int,
    target: int | None = None,
    label: int | None = None,
    methods: Sequence[str] = ("integrated_gradients",),
    tracers: Sequence[str] = ("SPADE",),
    baseline: str = "pad",
    seed: int = 0,
    progress: Progress = True,
    **trace_options: Any,
) -> TextExplanation:
    """Trace a text and explain the dense and the sparse model's answer by the same methods.

    Args:
        model: Classifier of transformers. Not modified.
        name: The name of the text.
        text: The text.
        encoded: Its tokens.
        pad: Id of the padding.
        target: The class to explain; None: what the dense model answers.
        label: The class that the text is, which is explained beside the target; None: none.
        methods: Names in TEXT_METHODS.
        tracers: Names in TRACERS.
        baseline: As in `token_map`.
        seed: The seed of augmentations and of methods that sample.
        progress: True for bars, or callback(stage, done, total).
        **trace_options: Further arguments of `trace`: sparsity, augment, layers, ...
    """
    check_tracers("explain_text", tracers)
    answer = answer_of(model, encoded.tokens)
    explained = answer if target is None else target
    result = TextExplanation(
        name=name, text=text, pieces=encoded.pieces, words=encoded.words, target=explained,
        prediction=answer, maps={m: {} for m in methods}, label=label,
    )  # fmt: skip
    if label is not None and label != explained:
        result.label_maps = {method: {} for method in methods}

    def add(column: str, network: nn.Module) -> None:
        _add_maps(result, column, network, encoded, pad, baseline, seed, progress)

    with whole_time(result, DENSE):
        add(DENSE, model)
    x = encoded.tokens.to(device_of(model)).x
    for tracer in tracers:
        with whole_time(result, tracer):
            found = trace(
                model, x, method=TRACERS[tracer], seed=seed, progress=progress, **trace_options
            )
            add_trace(result, tracer, found)
            add(tracer, found.model)
    drop_equal(result)
    return result


def _add_maps(
    result: TextExplanation,
    column: str,
    model: nn.Module,
    encoded: Encoded,
    pad: int,
    baseline: str,
    seed: int,
    progress: Progress,
) -> None:
    x = encoded.tokens.to(device_of(model)).x
    result.answers[column] = answers_of(model, x)
    if result.label is not None:
        result.label_probability[column] = probability_of(model, x, result.label)
    wanted = [(result.target, method, maps) for method, maps in result.maps.items()]
    if result.label is not None:
        wanted += [(result.label, method, maps) for method, maps in result.label_maps.items()]
    with reporting(progress, "maps") as report:
        for done, (target, method, maps) in enumerate(wanted, 1):
            maps[column] = token_map(
                model, encoded.tokens, target, method, pad=pad, baseline=baseline, seed=seed
            )
            if report is not None:
                report(done, len(wanted))
