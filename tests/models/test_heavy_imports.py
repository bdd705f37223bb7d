"""What `import spade_xai` does not import: libraries that only some functions use."""

import subprocess
import sys

HEAVY = (
    "captum",
    "kornia",
    "matplotlib",
    "sklearn",
    "scipy",
    "jinja2",
    "typer",
    "torchvision",
    "transformers",
    "timm",
)


def test_heavy_libraries_are_imported_where_they_are_used(tmp_path):
    program = f"import spade_xai, sys; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stdout == "[]\n"
