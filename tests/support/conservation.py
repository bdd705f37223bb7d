"""What relevance stays in units, by the definition of the rules of layer-wise relevance propagation."""

from contextlib import contextmanager
from unittest import mock

import torch

from spade_xai.attribution.calls import is_signal
from spade_xai.attribution.lrp.propagate import _Propagate
from spade_xai.attribution.lrp.rules import LinearRule, Proportional


class Ledger:
    """Relevance that stays: the share of bias and epsilon, all of it where no term counts, and what constants get.

    Attributes:
        absorbed: The sum over the calls of all rules.
        calls: How many calls were checked.
        most: The largest share of its relevance that a call kept.
    """

    def __init__(self):
        self.absorbed, self.calls, self.most = 0.0, 0, 0.0

    def add(self, given, back, expected):
        """Check that a call passed on what the definition says, and note what it kept."""
        size = float(given.abs().sum()) + float(expected.abs().sum())
        passed = float(back - expected.sum())
        assert abs(passed) <= 1e-6 * size + 1e-12, (passed, size)
        kept = float((given - expected).sum())
        self.absorbed += kept
        self.calls += 1
        self.most = max(self.most, abs(kept) / (size + 1e-300))

    def layer(self, rule, layer, x, r, out):
        """R_i summed over i: sum_j R_j (alpha z_j^+ / (z_j^+ + b_j^+ + eps) - beta z_j^- / (z_j^- + b_j^- - eps))."""
        bias = torch.zeros(()).to(x)
        if rule.bias and layer.bias is not None:
            bias = layer.bias.view(-1, *[1] * (r.ndim - 2 if layer.weight.ndim > 2 else 0))
        f = layer.map
        positive, negative = layer.weight.relu(), -(-layer.weight).relu()
        above = f(positive)(x.relu()) + f(negative)(-(-x).relu())
        below = f(negative)(x.relu()) + f(positive)(-(-x).relu())
        if rule.proportional:
            expected = share(rule, above + below, bias, r)
        else:
            expected = rule.alpha * share(rule, above, bias.relu(), r)
            expected = expected - rule.beta * share(rule, below, -(-bias).relu(), r)
        self.add(r, out.sum(), expected)

    def proportional(self, ctx, grad, back):
        """The same of what is linear in each of its inputs; what it gives for zeros counts as a bias."""
        xs = ctx.saved_tensors
        constant = ctx.function(*map(torch.zeros_like, xs))
        z = ctx.function(*xs) - constant
        self.add(
            grad, sum(b.sum() for b in back if b is not None), share(ctx.rule, z, constant, grad)
        )

    def constants_among(self, call, out):
        """Of tensors that are joined, some are constants, such as a class token: what arrives at these stays there."""
        tensors = call.args[0]
        if all(is_signal(t) for t in tensors):
            return
        marks = [torch.full_like(t, 0.0 if is_signal(t) else 1.0).detach() for t in tensors]
        constant = call.function(marks, *call.args[1:], **call.kwargs)

        def note(r):
            self.absorbed += float((r * constant).sum())

        out.register_hook(note)


def share(rule, z, bias, r):
    """R z / (z + b + eps sign)."""
    total = z + bias
    return r * z / (total + rule.epsilon * torch.where(total < 0, -1.0, 1.0).to(total))


@contextmanager
def ledger():
    """Check every call of a rule of LRP, and count what stays."""
    found, backward, proportional = Ledger(), LinearRule.backward, Proportional.backward
    rule_of = _Propagate.rule

    def of_layer(rule, layer, x, r):
        out = backward(rule, layer, x, r)
        with torch.no_grad():
            found.layer(rule, layer, x, r, out)
        return out

    def of_proportion(ctx, *grads):
        out = proportional(ctx, *grads)
        with torch.no_grad():
            found.proportional(ctx, grads[0], out)
        return out

    def of_call(mode, call):
        out = rule_of(mode, call)
        if call.name in ("cat", "concat", "stack"):
            found.constants_among(call, out)
        return out

    with (
        mock.patch.object(_Propagate, "rule", of_call),
        mock.patch.object(LinearRule, "backward", of_layer),
        mock.patch.object(Proportional, "backward", staticmethod(of_proportion)),
    ):
        yield found
