"""The model and the texts that a command line names, and how they are varied."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from spade_xai.attribution.tokens import TEXT_METHODS
from spade_xai.choices import misnamed
from spade_xai.commands.class_names import class_of, read_class_names
from spade_xai.commands.inputs import RANDOM, InputOptions, load_network
from spade_xai.commands.pruning import PruningOptions
from spade_xai.commands.runs import RunFiles
from spade_xai.commands.text_options import Synonyms, TextOptions
from spade_xai.models.answers import class_logits
from spade_xai.models.inputs import Inputs, device_of
from spade_xai.models.layers import find_layers, fitting
from spade_xai.models.texts import Text, TextError, read_texts
from spade_xai.models.tokens import Encoded, Tokenizer
from spade_xai.models.weights import ModelError
from spade_xai.tracing.text_augment import OPERATIONS, Neighbours, TextAugment, nearest
from spade_xai.tracing.wordnet import WordNetMissing, wordnet

EDA = "eda"
PUBLISHED_METHOD = "integrated_gradients"
"""The method of the paper's Table 9."""


@dataclass
class TextInputs:
    """What a command works on, of texts.

    Attributes:
        model: Classifier of transformers, in eval mode.
        tokenizer: Its tokenizer.
        texts: The texts.
        encoded: Their tokens.
        classes: Names of the model's classes, if known.
        paths: The files that were read.
        layers: Patterns of the layers to prune; None: all.
        head: Whether these are the classification head's because none were asked for.
        augment: What varies the texts; None: nothing.
        synonyms: Where synonyms come from, in words.
        target: The class to explain; None: what the model answers.
        label: The class that the texts are; None: not said.
        random: Whether the model's weights are random.
        broken: Nothing: a text that cannot be read ends the command.
    """

    model: nn.Module
    tokenizer: Tokenizer
    texts: list[Text]
    encoded: list[Encoded]
    classes: list[str] | None
    paths: list[Path]
    layers: list[str] | None
    head: bool
    augment: TextAugment | None
    synonyms: str
    target: int | None = None
    label: int | None = None
    random: bool = False
    broken: list[str] = field(default_factory=list)

    @property
    def names(self) -> list[str]:
        """Names of the texts, all different."""
        found = [text.name for text in self.texts]
        if len(set(found)) == len(found):
            return found
        return [f"{k + 1:05d}-{name}" for k, name in enumerate(found)]

    def reads(self) -> list[Path]:
        """The files of texts."""
        return self.paths

    def described(self) -> str:
        """How texts are varied and what is pruned."""
        return f"texts; {self.augment}; synonyms: {self.synonyms}; layers: {self.layers}"

    def example(self) -> Inputs:
        """The first text as the model takes it."""
        return self.encoded[0].tokens.to(device_of(self.model)).x

    def trace_arguments(self, pruning: PruningOptions, sparsity: Any) -> dict[str, Any]:
        """Arguments of `trace` and `trace_many` for the texts."""
        chosen = {"sparsity": sparsity, "augment": self.augment, "layers": self.layers}
        return {**replace(pruning, augment=None).arguments(), **chosen}

    def notes(self) -> list[str]:
        """What the user should know of model and texts, in lines."""
        found = [f"{len(self.texts)} texts; varied by {self.augment or 'nothing'}"]
        if self.augment is not None and {"replace", "insert"} & set(self.augment.operations):
            found.append(f"synonyms: {self.synonyms}")
        if self.head:
            layers = ", ".join(self.layers or ())
            found.append(
                f"pruned: the classification head ({layers}), as in the paper; -l '*' prunes every layer"
            )
        cut = sum(encoded.cut for encoded in self.encoded)
        if cut:
            found.append(f"{cut} texts were cut to the {self.tokenizer.most} tokens of the model")
        if self.random:
            found.append(RANDOM)
        return found


def load_texts(
    given: InputOptions,
    options: TextOptions,
    pruning: PruningOptions,
    own: Sequence[str] = (),
    class_names: Path | None = None,
    target: str | None = None,
    label: str | None = None,
) -> TextInputs:
    """Load the model and its tokenizer, read the texts, and run the model on the first of them.

    Args:
        given: Which model, and which files.
        options: How texts are read and varied.
        pruning: How texts are varied, and which layers are pruned.
        own: Further texts.
        class_names: As in `load_inputs`.
        target: As in `load_inputs`.
        label: As in `load_inputs`.

    Raises:
        ModelError, TextError, ValueError: A file is missing or cannot be read; model and texts do not fit.
    """
    augment = "eda" if pruning.augment is None else pruning.augment
    operations = _operations(augment)
    paths = [Path(source) for source in given.images or ()]
    texts = [Text(f"text-{k:05d}", text) for k, text in enumerate(own, 1)]
    for path in paths:
        texts += read_texts(path, options.text_format.value)
    texts = texts[: options.limit]
    model, random = load_network(given)
    if getattr(model, "get_input_embeddings", None) is None or not hasattr(model, "config"):
        raise ModelError(
            f"texts need a text classifier of transformers, transformers:FOLDER, got {given.model!r}"
        )
    tokenizer = Tokenizer(given.model, model, pretrained=given.pretrained)
    encoded = [_encoded(tokenizer, text) for text in texts]
    count = _count_classes(model, encoded[0], given.model)
    labels = getattr(model.config, "id2label", None) or {}
    known = [str(labels[k]) for k in range(count)] if len(labels) == count else None
    classes = read_class_names(class_names, known, count)
    if pruning.device is not None:
        model.to(pruning.device)
    layers = list(pruning.layers) if pruning.layers else head_layers(model)
    neighbours, told = _neighbours(options.synonyms, tokenizer, model, operations)
    varied = None
    if operations:
        varied = TextAugment(
            neighbours, special=tokenizer.special, pad=tokenizer.pad, operations=operations,
            max_length=tokenizer.most,
        )  # fmt: skip
    return TextInputs(
        model, tokenizer, texts, encoded, classes, paths, layers,
        layers is not None and not pruning.layers, varied, told,
        class_of("--target", target, classes, count), class_of("--label", label, classes, count),
        random,
    )  # fmt: skip


@dataclass(frozen=True)
class TextAsked:
    """A command on texts as the command line describes it.

    Attributes:
        inputs: Which model, and which files.
        texts: How texts are read and varied.
        pruning: How to prune.
        methods: The names of --method.
        sparsity: Text of --sparsity.
        tracers: Names of the tracers.
        own: Texts of the command line.
        refused: Options of images with their values, which must be unset.
    """

    inputs: InputOptions
    texts: TextOptions
    pruning: PruningOptions
    methods: Sequence[str] | None
    sparsity: str | None
    tracers: list[str]
    own: Sequence[str]
    refused: Mapping[str, Any]

    @property
    def ratio(self) -> str:
        """The text of --sparsity, or what stands for it."""
        return self.pruning.sparsity(self.sparsity)

    def chosen(self) -> list[str]:
        """The saliency methods.

        Raises:
            ValueError: One of them, or another option, is for images.
        """
        normalize = self.inputs.normalize != "auto"
        images = {**self.refused, "--size": self.inputs.size, "--normalize": normalize}
        for option, asked in images.items():
            if asked:
                raise ValueError(f"{option} is for images, and the command is given texts")
        return text_methods(self.methods)

    def load(
        self,
        class_names: Path | None = None,
        target: str | None = None,
        label: str | None = None,
    ) -> TextInputs:
        """As `load_texts`."""
        return load_texts(
            self.inputs, self.texts, self.pruning, self.own, class_names, target, label
        )

    def files(self, given: TextInputs, settings: dict[str, Any], *read: Path | None) -> RunFiles:
        """The files of the run, whose results depend on settings too."""
        told = {"methods": self.chosen(), "baseline": self.texts.baseline.value}
        read = (self.inputs.weights, *read)
        return RunFiles(given, self.pruning, self.ratio, {**told, **settings}, read)


def text_methods(given: Sequence[str] | None) -> list[str]:
    """The names of --method that explain texts, or the published one.

    Raises:
        ValueError: A method cannot explain texts.
    """
    for name in given or ():
        if name not in TEXT_METHODS:
            raise ValueError(
                f"--method {name} weighs a feature map of pixels, which a text has not: {', '.join(TEXT_METHODS)} "
                "explain texts"
            )
    return list(given or [PUBLISHED_METHOD])


def head_layers(model: nn.Module) -> list[str] | None:
    """Patterns of the layers outside of a transformers model's base, its classification head; None: it has none."""
    base = getattr(model, "base_model_prefix", "")
    names = [layer.name for layer in find_layers(model)]
    parts = [name for name, _ in model.named_children() if name != base and fitting(names, name)]
    whole = base and hasattr(model, base)
    return parts if whole and parts else None


def _encoded(tokenizer: Tokenizer, text: Text) -> Encoded:
    try:
        return tokenizer(text.text)
    except ValueError as error:
        raise TextError(f"{text.name}: {error}") from None


def _count_classes(model: nn.Module, encoded: Encoded, spec: str) -> int:
    try:
        with torch.no_grad():
            output = model(**encoded.tokens.x)
        return class_logits("load_texts", output, 1).shape[1]
    except (RuntimeError, ValueError, TypeError, LookupError) as error:
        raise ModelError(
            f"{spec} cannot be run on the tokens of {encoded.pieces[:4]} ...: {error}"
        ) from error


def _operations(text: str) -> tuple[str, ...]:
    """The operations of --augment for texts; none of "none"."""
    if text == "none":
        return ()
    if text == EDA:
        return OPERATIONS
    for name in text.split(","):
        if name not in OPERATIONS:
            wrong = misnamed("augment", (EDA, "none", *OPERATIONS), name)
            raise ValueError(f"--augment: of texts, {wrong}")
    return tuple(text.split(","))


def _neighbours(
    synonyms: Synonyms, tokenizer: Tokenizer, model: nn.Module, operations: Sequence[str]
) -> tuple[Neighbours | None, str]:
    """Synonyms and where they come from, in words."""
    if not {"replace", "insert"} & set(operations):
        return None, "none"
    missing = ""
    if synonyms is not Synonyms.EMBEDDING:
        try:
            return wordnet(tokenizer.tokenizer), "WordNet"
        except WordNetMissing as error:
            if synonyms is Synonyms.WORDNET:
                raise
            missing = f", in place of EDA's WordNet ({str(error).removeprefix('wordnet: ')})"
    weight = model.get_input_embeddings().weight  # type: ignore[operator]
    special = [i for i in tokenizer.special if i < len(weight)]
    return nearest(weight, exclude=special), f"the nearest words of the embedding{missing}"
