"""The shared library of CPU kernels (``native/``), loaded through ctypes.

It is found beside this file or wherever the package's other directories are; where it is missing
or does not load, ``library()`` is None and ``missing()`` says why.
"""

from __future__ import annotations

import ctypes
import math
import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_NAMES = {"linux": "libtidegate.so", "darwin": "libtidegate.dylib"}
_REASON = "no_kernels.txt"
POOLED_BYTES = 1 << 20  # from here on, fresh pages cost more than the pool's bookkeeping
_NO_MEMORY = 2


class Library:
    """The loaded library; calls release Python's global lock."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._pooled: dict[int, Any] = {}  # by the bits of a size
        self._c = lib = ctypes.CDLL(str(path))
        i64, pointer, text = ctypes.c_int64, ctypes.c_void_p, ctypes.c_char_p
        signatures = {
            "tg_forward": (ctypes.c_int, [text]),
            "tg_backward": (ctypes.c_int, [text]),
            "tg_step": (ctypes.c_int, [text]),
            "tg_gate_width": (i64, [i64, i64, i64]),
            "tg_packed_bytes": (i64, [text]),
            "tg_pack": (ctypes.c_int, [text, pointer]),
            "tg_kept_bytes": (i64, [text]),
            "tg_isa_names": (text, []),
            "tg_isa": (text, []),
            "tg_set_isa": (ctypes.c_int, [text]),
            "tg_set_openmp": (None, [pointer, pointer, pointer]),
            "tg_take_all_threads": (None, [i64]),
            "tg_pool_take": (pointer, [i64]),
            "tg_pool_give": (None, [pointer]),
            "tg_pool_trim": (None, []),
            "tg_pool_bytes": (i64, []),
            "tg_measure_peak": (ctypes.c_double, [i64, i64, ctypes.c_double]),
            "tg_activation": (ctypes.c_int, [i64, i64, pointer, pointer, i64]),
        }
        for name, (result, arguments) in signatures.items():
            function = getattr(lib, name)
            function.restype, function.argtypes = result, arguments
        self.forward, self.backward, self.step = lib.tg_forward, lib.tg_backward, lib.tg_step
        self.pack, self.packed_bytes, self.kept_bytes = lib.tg_pack, lib.tg_packed_bytes, lib.tg_kept_bytes
        self.gate_width, self.activation, self.measure_peak = lib.tg_gate_width, lib.tg_activation, lib.tg_measure_peak
        self.pool_take, self.pool_give = lib.tg_pool_take, lib.tg_pool_give
        self.trim, self.pool_bytes = lib.tg_pool_trim, lib.tg_pool_bytes
        self.take_all_threads = lib.tg_take_all_threads
        self.forward_at = lib["tg_forward"]  # by the call's address, which is faster than by its bytes
        self.forward_at.restype, self.forward_at.argtypes = ctypes.c_int, [pointer]
        self.openmp, most = _share_openmp(lib)
        self.processors = min(most, quota())
        if wanted := os.environ.get("TIDEGATE_ISA"):
            self.set_isa(wanted)

    @property
    def isas(self) -> list[str]:
        """Instruction sets that this build has and this processor runs, fastest first."""
        return self._c.tg_isa_names().decode().split(",")

    @property
    def isa(self) -> str:
        return self._c.tg_isa().decode()

    def set_isa(self, name: str) -> None:
        """Run on one instruction set from now on (packed weights of another must not be used again)."""
        if not self._c.tg_set_isa(name.encode()):
            raise ValueError(f"TIDEGATE_ISA is one of {', '.join(self.isas)} on this machine; given {name!r}")

    def threads(self) -> int:
        """How many a call takes: torch's, but no more than there are processors, as threads wait for each other."""
        return min(torch.get_num_threads(), self.processors)

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """An uninitialised tensor; a large one comes from memory that earlier calls have warmed."""
        size = math.prod(shape) * dtype.itemsize
        if size < POOLED_BYTES:
            return torch.empty(shape, dtype=dtype, device="cpu")
        address = self.pool_take(size)
        if not address:
            raise MemoryError(f"no memory for a tensor of shape {shape}")
        kind = self._pooled.get(size.bit_length()) or self._pooled_kind(size.bit_length())
        return torch.frombuffer(kind.from_address(address), dtype=dtype, count=size // dtype.itemsize).view(shape)

    def zeros(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Zeros that this thread writes: torch's loops over all threads hang in the child of a fork."""
        made = torch.empty(shape, dtype=dtype, device="cpu")
        ctypes.memset(made.data_ptr(), 0, made.nbytes)
        return made

    def _pooled_kind(self, bits: int) -> Any:
        """A type of memory, of a length beyond that in use, that goes back to the pool with its tensor's storage."""
        give, address = self.pool_give, ctypes.addressof
        kind = type("Pooled", (ctypes.c_char * (1 << bits),), {"__del__": lambda block: give(address(block))})
        self._pooled[bits] = kind
        return kind

    def empty_like(self, given: Tensor) -> Tensor:
        """The same for a tensor's shape, dtype and strides: contiguous, or so with its first two dimensions swapped."""
        if given.nbytes < POOLED_BYTES:
            return torch.empty_like(given)
        if given.is_contiguous():
            return self.empty(given.shape, given.dtype)
        return self.empty(given.transpose(0, 1).shape, given.dtype).transpose(0, 1)


def quota(root: Path = Path("/")) -> int:
    """How many processors the control groups of this process let it use.

    Containers have such quotas (Linux's documentation, admin-guide/cgroup-v2, ``cpu.max``), unknown to torch.
    """
    least, groups = sys.maxsize, root / "sys/fs/cgroup"
    try:
        own = (root / "proc/self/cgroup").read_text(errors="surrogateescape").splitlines()[-1]
    except (OSError, IndexError):
        return least
    folder = groups / own.rpartition(":")[2].strip("/")
    for group in (folder, *folder.parents):
        if not group.is_relative_to(groups):
            break
        try:
            time, period = map(int, (group / "cpu.max").read_text().split())
        except (OSError, ValueError):  # no such file, or "max"
            continue
        least = min(least, max(1, time // period))
    return least


def check(code: int, lengths: Tensor | None, steps: int) -> None:
    """Raise for a return code of the library other than 0."""
    if code == 0:
        return
    if code == _NO_MEMORY:
        raise MemoryError("there is not enough memory for the workspace of this call")
    if lengths is not None and lengths.numel() and (int(lengths.min()) < 0 or int(lengths.max()) > steps):
        least, most = int(lengths.min()), int(lengths.max())
        raise ValueError(f"lengths are from 0 to the number of steps, {steps}; given values from {least} to {most}")
    raise ValueError("the sizes of this call are beyond what the native kernels take (each below 2^31)")


@cache
def _load() -> tuple[Library | None, str]:
    name = _NAMES.get(sys.platform)
    if name is None:
        return None, f"there are no native kernels for {sys.platform}"
    import tidegate

    places = [Path(__file__).parent, *(Path(p) / "ops" for p in tidegate.__path__)]
    for path in (place / name for place in places):
        if path.exists():
            try:
                return Library(path), ""
            except (OSError, AttributeError) as error:  # damaged, or of another version
                return None, f"the native kernels did not load ({error})"
    for path in (place / _REASON for place in places):  # written by native/CMakeLists.txt
        if path.exists():
            reason = path.read_text(encoding="utf-8", errors="replace").strip()
            return None, f"the native kernels were not built when tidegate was installed: {reason}"
    return None, f"the native kernels ({name}) are missing from this installation of tidegate; install it again"


def library() -> Library | None:
    """The library, or None."""
    return _load()[0]


def missing() -> str:
    """Why there is no library; empty where there is one."""
    return _load()[1]


def _share_openmp(lib: ctypes.CDLL) -> tuple[str | None, int]:
    """Hand over the OpenMP runtime that torch runs on, so that both share its threads; its path and its processors."""
    for path in _loaded_openmp():
        try:
            runtime = ctypes.CDLL(path)
            functions = [runtime.GOMP_parallel, runtime.omp_get_thread_num, runtime.omp_get_num_threads]
        except (OSError, AttributeError):
            continue
        lib.tg_set_openmp(*(ctypes.cast(function, ctypes.c_void_p) for function in functions))
        return path, runtime.omp_get_num_procs()
    return None, 1


def _loaded_openmp() -> list[str]:
    names = ("libgomp", "libomp", "libiomp5")
    maps = Path("/proc/self/maps")
    if maps.exists():
        paths = {line.split(maxsplit=5)[-1] for line in maps.read_text().splitlines() if "/" in line}
        found = sorted(p for p in paths if Path(p).name.startswith(names))
    else:
        found = [str(p) for p in (Path(torch.__file__).parent / "lib").glob("lib*omp*.dylib")]
    # torch's own comes first where another package has brought a second one.
    own = str(Path(torch.__file__).parent)
    return sorted(found, key=lambda p: not p.startswith(own))
