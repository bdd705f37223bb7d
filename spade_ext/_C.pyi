# The binding: every function takes addresses and sizes that the Python layer has checked.
from typing import Any

def __getattr__(name: str) -> Any: ...
