"""Categories of the package's warnings, all of them shown through Python's `warnings`."""


class SpadeWarning(UserWarning):
    """Base of all warnings of spade_xai."""


class UnfaithfulTraceWarning(SpadeWarning):
    """A trace does not answer as the dense model does, so that it explains another model than the one given."""


class SparsityWarning(SpadeWarning):
    """A layer did not get the sparsity that was asked for."""


class UnprunedLayerWarning(SpadeWarning):
    """A layer that holds weights was left dense, as it cannot be pruned."""


class AugmentationWarning(SpadeWarning):
    """The augmentations do not vary the sample as they should."""


class MemoryLimitWarning(SpadeWarning):
    """The memory limit makes the work take more passes over the augmentations."""


class CompletenessWarning(SpadeWarning):
    """Attributions do not sum to the difference of outputs that they should explain."""


class PlainGradientWarning(SpadeWarning):
    """Guided backpropagation met no ReLU, so that its result is the plain gradient."""


class DegenerateMapWarning(SpadeWarning):
    """A map is zero everywhere, has entries that are not finite, or has outgrown what it explains."""
