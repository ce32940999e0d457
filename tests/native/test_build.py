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


def configure(build, compiler, *options, fails=False):
    """What CMake prints with this compiler, in a build folder that may have seen another."""
    done = subprocess.run(
        ["cmake", "-G", "Unix Makefiles", "-S", NATIVE, "-B", build, *options],
        env=os.environ | {"CXX": str(compiler)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode != 0) is fails, done.stderr
    return done.stdout + done.stderr


def installed(build):
    """What an installation of this build folder holds."""
    subprocess.run(
        ["cmake", "--install", build, "--prefix", build / "to"], check=True, capture_output=True, timeout=120
    )
    return {path.name: path.read_text() for path in (build / "to" / "tidegate" / "ops").iterdir()}


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


def test_an_installation_without_kernels_holds_the_reason(tmp_path):
    configure(tmp_path, tmp_path / "none")
    [(name, reason)] = installed(tmp_path).items()
    assert name == "no_kernels.txt"
    assert reason.startswith("no C++ compiler was found")


def test_kernels_can_be_demanded_or_left_out(tmp_path):
    found = configure(tmp_path / "on", tmp_path / "none", "-DTIDEGATE_NATIVE=ON", fails=True)
    assert "TIDEGATE_NATIVE=ON asks for them" in found
    assert "without native CPU kernels" not in configure(tmp_path / "on", "g++", "-DTIDEGATE_NATIVE=on")
    configure(tmp_path / "off", "g++", "-DTIDEGATE_NATIVE=OFF")
    assert installed(tmp_path / "off") == {"no_kernels.txt": "TIDEGATE_NATIVE=OFF asked for that"}
    assert "without native CPU kernels" not in configure(tmp_path / "off", "g++")  # it held for that one
    assert "is AUTO, ON or OFF; given MAYBE" in configure(tmp_path / "x", "g++", "-DTIDEGATE_NATIVE=maybe", fails=True)


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
