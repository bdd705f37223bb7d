"""A program with rights that its user lacks (set-uid, set-gid) lets the environment choose no library."""

import os
import platform
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

import spade_ext

PROGRAM = """
#include <spade/cuda.h>
#include <spade/spade.h>
#include <stdio.h>
#include <sys/auxv.h>

int main(void) {
  printf("%lu\\n%s\\n%s\\n", getauxval(AT_SECURE), spade_cpu_isa(), spade_cuda_unavailable_reason());
  return 0;
}
"""


@pytest.fixture
def program(tmp_path):
    """Prints whether it runs in secure execution, its instruction set, and which CUDA library it looked for."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        pytest.skip("no C compiler on this machine")
    if platform.libc_ver()[0] != "glibc":
        pytest.skip("secure_getenv is of glibc")
    library = Path(spade_ext.library_path())
    source, built = tmp_path / "asks.c", tmp_path / "asks"
    source.write_text(PROGRAM)
    subprocess.run(
        [
            compiler, source, "-o", built, "-I", spade_ext.include_dir(), str(library),
            f"-Wl,-rpath,{library.parent}",
        ],
        check=True,
    )  # fmt: skip
    return built


def answers(program, **variables):
    environment = {**os.environ, **variables}
    done = subprocess.run([program], capture_output=True, text=True, check=True, env=environment)
    return done.stdout.splitlines()


def test_only_plain_programs_read_the_environment(program):
    wanted = {"SPADE_CPU_ISA": "plain", "SPADE_CUDA_LIBRARY": "/nowhere/of-the-users-choice.so"}
    secure, isa, reason = answers(program, **wanted)
    assert (secure, isa) == ("0", "plain") and "of-the-users-choice" in reason
    own = [group for group in (*os.getgroups(), 65534) if group != os.getegid()]
    for group in own:
        try:
            os.chown(program, -1, group)
        except PermissionError:
            continue
        break
    else:
        pytest.skip("the user has no second group that a set-gid program could belong to")
    program.chmod(program.stat().st_mode | stat.S_ISGID)
    secure, isa, reason = answers(program, **wanted)
    if secure != "1":
        pytest.skip("set-gid has no effect on this file system")
    best = answers(shutil.copy(program, program.with_name("plain")))  # a copy has no such rights
    assert best[0] == "0" and [isa, reason] == best[1:]
    assert "of-the-users-choice" not in reason
