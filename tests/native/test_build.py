"""How the kernels are configured where compilers are missing, too old, or come later."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

NATIVE = Path(__file__).parents[2] / "native"

pytestmark = pytest.mark.skipif(
    not (shutil.which("cmake") and shutil.which("g++") and shutil.which("make")), reason="needs cmake, make and g++"
)


def configure(build, compiler):
    """What CMake prints with this compiler, in a build folder that may have seen another."""
    done = subprocess.run(
        ["cmake", "-G", "Unix Makefiles", "-S", NATIVE, "-B", build],
        env=os.environ | {"CXX": str(compiler)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_a_compiler_that_comes_later_is_found_in_the_same_build_folder(tmp_path):
    old = tmp_path / "old"
    old.write_text('#!/bin/sh\nexec g++ -U__GNUC__ -D__GNUC__=10 "$@"\n')
    old.chmod(0o755)
    build = tmp_path / "build"
    assert "reference backend runs instead): no C++ compiler was found" in configure(build, tmp_path / "none")
    assert "they need GCC 11 or Clang 14, or newer, and this is GNU 10" in configure(build, old)
    assert "no C++ compiler was found" in configure(build, tmp_path / "none")
    assert "without native CPU kernels" not in configure(build, "g++")
    assert "kernel_portable" in (build / "Makefile").read_text()


def test_flags_of_the_user_do_not_make_arithmetic_inexact(tmp_path):
    subprocess.run(
        ["cmake", "-G", "Unix Makefiles", "-S", NATIVE, "-B", tmp_path, "-DCMAKE_CXX_FLAGS=-ffast-math"],
        check=True,
        capture_output=True,
        timeout=120,
    )
    for file in ("kernel_portable.dir/flags.make", "tidegate.dir/link.txt"):
        words = (tmp_path / "CMakeFiles" / file).read_text().split()
        assert words.index("-ffast-math") < words.index("-fno-fast-math")
        assert words.index("-ffast-math") < words.index("-fno-finite-math-only")
