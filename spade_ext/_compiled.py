"""Refuses to go on with sources whose compiled part is missing, or belongs to the sources of another folder."""

import os
from importlib.util import find_spec

_HERE = os.path.dirname(__file__)

found = find_spec("spade_ext._C")
folder = os.path.dirname(found.origin or "") if found else ""
if os.path.realpath(folder) != os.path.realpath(_HERE):
    elsewhere = folder and f", which is there for those of {folder} alone"
    raise ImportError(
        f"spade_ext: {_HERE} holds the sources without their compiled part{elsewhere}. To use the installed package, "
        "start Python in another folder; to use these sources, compile them as CONTRIBUTING.md says under Developing"
    )
