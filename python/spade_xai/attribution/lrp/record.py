"""LRP as a saliency method."""

from typing import Literal

from torch import Tensor

from spade_xai.attribution.calls import full_precision
from spade_xai.attribution.lrp.propagate import relevance
from spade_xai.attribution.method import Job, Method, Option, Options

Name = Literal["lrp"]


def _lrp(job: Job, options: Options) -> Tensor:
    with full_precision(job.x):
        return relevance(job.forward, job.x, job.target, extra=job.extra, **options)


RECORDS = (
    Method(
        "lrp",
        _lrp,
        cost="about 3",
        use="contributions that sum to the logit or its magnitude, without a baseline",
        read="Red pixels gave the score its relevance, blue pixels took from it; dark pixels gave nothing.",
        options={
            "rule": Option("alpha_beta"),
            "alpha": Option(1.0),
            "epsilon": Option(1e-6),
            "bias": Option(False),
            "bounds": Option(None),
        },
        signed=True,
        cheap=True,
    ),
)
