"""What is said of a name that is not in the list it must come from."""

import difflib
from collections.abc import Iterable


def misnamed(what: str, allowed: Iterable[str], got: object) -> str:
    """The message of an error: what was asked for, what there is, what was given, and the nearest name to it.

    Args:
        what: The argument or thing that has the name.
        allowed: Every name it may have.
        got: What was given.

    Example:
        >>> from spade_xai.choices import misnamed
        >>> misnamed("method", ["saliency", "lrp"], "salency")
        "method must be one of saliency, lrp, got 'salency'; did you mean saliency?"
    """
    names = list(allowed)
    lower = {name.lower(): name for name in names}
    near = difflib.get_close_matches(str(got).lower(), lower, 1)
    hint = f"; did you mean {lower[near[0]]}?" if near else ""
    return f"{what} must be one of {', '.join(names)}, got {got!r}{hint}"
