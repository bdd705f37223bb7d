"""spade-xai evaluate: how good maps are before and after pruning, over many images."""

from pathlib import Path
from typing import Annotated, Any, cast

import typer

from spade_xai.commands import options as o
from spade_xai.commands.evaluate_texts import evaluate_texts
from spade_xai.commands.evaluation import Asked, Ready, write_pages
from spade_xai.commands.inputs import MixedOptions
from spade_xai.commands.output import end, print_inputs, print_json, ready_folder, reporter
from spade_xai.commands.pruning import PruningOptions
from spade_xai.commands.records import RecordFiles, SampleList, record_key
from spade_xai.commands.shards import ShardOptions, evaluate_shards
from spade_xai.commands.signature import flat
from spade_xai.commands.text_options import TextOptions, are_texts
from spade_xai.commands.texts import TextAsked
from spade_xai.commands.volume import say
from spade_xai.reports import tables
from spade_xai.reports.evaluate import Evaluation
from spade_xai.reports.explain import DENSE
from spade_xai.reports.records import records_of


@flat
def evaluate(
    inputs: MixedOptions,
    *,
    masks: o.Masks = None,
    methods: o.Maps = None,
    z_box: o.ZBox = False,
    texts: TextOptions,
    tracers: o.Tracers = ["SPADE", "FastSPADE"],  # noqa: B006
    sparsity: o.Sparsity = None,
    pruning: PruningOptions,
    shards: ShardOptions,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            rich_help_panel=o.OUTPUT,
            help="Folder for report.html, scores.json and the scores of each image or shard.",
        ),
    ] = None,
    as_json: o.AsJson = False,
    progress: o.Progress = None,
) -> None:
    """Score saliency maps of the dense model and of its traces, with standard errors and paired differences.

    With --masks maps are scored by AUROC and the pointing game, without masks by insertion and deletion, for the
    class that the dense model answers. The trace of another image, an edge detector and random maps are scored as
    controls. With --out, what an earlier run of the same command finished is kept. With --shard the images are done
    that many at a time, and memory does not grow with their number: for sets of thousands, on one machine or many.

    Texts, such as SST-2 (.tsv) and AG News (.csv), go to a classifier of transformers. Their maps are scored by DFFOT
    and DFMIT: how few tokens must go, by falling relevance, until the whole network's answer flips. The head is pruned
    and the method is integrated_gradients, unless --layers and --method say otherwise.

    Examples:
      spade-xai evaluate photos/ -m torchvision:resnet50 -w r50.pth -t FastSPADE
      spade-xai evaluate 'trojan/*.png' --masks trojan -m mypackage.nets:make
      spade-xai evaluate set/ -m mypackage.nets:make -t FastSPADE --shard 64 --engine ray -o scores
      spade-xai evaluate dev.tsv -m transformers:bert-sst2/ -o scores
    """
    if are_texts(inputs.images):
        refused = {
            "--masks": masks, "--z-box": z_box, "--depthwise": pruning.depthwise, "--shard": shards.shard,
        }  # fmt: skip
        asked_of_texts = TextAsked(
            inputs, texts, pruning, methods, sparsity, list(tracers), (), refused
        )
        evaluate_texts(asked_of_texts, out=out, as_json=as_json, progress=progress)
        return
    if not inputs.images:
        raise typer.BadParameter("give images or files of texts", param_hint="IMAGES")
    texts.refuse()
    asked = Asked(
        inputs, masks, pruning.methods(methods), z_box, list(tracers), pruning.sparsity(sparsity),
        pruning,
    )  # fmt: skip
    if shards.wanted(out):
        ready, record = evaluate_shards(asked, cast(Path, out), shards)
    else:
        ready = asked.ready()
        record = _at_once(ready, out, progress)
    given = ready.given
    if as_json:
        print_json({"preprocessing": given.told(), **record})
    else:
        print_inputs(given)
        for table in tables.tables(record):
            typer.echo(tables.text(table) + "\n")
    end(given)


def _at_once(ready: Ready, out: Path | None, progress: bool | None) -> dict[str, Any]:
    """Score all images in one go; their figures as `tables.record` has them."""
    asked, given = ready.asked, ready.given
    usable, names = given.usable(), asked.tracers
    store = None
    if out is not None:
        stems = [given.stems[k] for k in usable]

        def path(part: str, place: int) -> Path:
            return out / "samples" / f"{stems[place]}.{part}.json"

        store = RecordFiles(path, record_key(ready.files))
        pages = [out / "report.html", out / "scores.json"]
        every = [path(part, k) for part in (DENSE, *names) for k in range(len(stems))]
        ready.files.check([*pages, *every])
        ready_folder(out / "samples")

    def part_begins(part: str) -> None:
        say(f"{'maps of the whole network' if part == DENSE else part}: {len(usable)} images")

    scoring, samples = ready.scoring(progress=reporter(progress)), SampleList(given, usable)
    records = records_of(scoring, samples, names, names[:1], store, part_begins)
    found = Evaluation({}, {name: [] for name in names})
    found.add(records, asked.methods)
    record = tables.record(found)
    if out is not None:
        write_pages(ready, out, record, {"images": [given.names[k] for k in usable]})
    return record
