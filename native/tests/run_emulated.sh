#!/usr/bin/env bash
# Build the kernels for 64-bit ARM and run their test program in an emulator, in about ten minutes: no ARM machine is needed.
# On Debian and Ubuntu: apt-get install g++-aarch64-linux-gnu qemu-user
# With another compiler: run_emulated.sh DIR -DCMAKE_CXX_COMPILER=clang++ -DCMAKE_CXX_COMPILER_TARGET=aarch64-linux-gnu
set -euo pipefail
build="${1:-$(mktemp -d)}"
cmake -S "$(dirname "$0")/.." -B "$build" -DTIDEGATE_TESTS=ON -DCMAKE_SYSTEM_NAME=Linux \
    -DCMAKE_SYSTEM_PROCESSOR=aarch64 -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++ "${@:2}" >/dev/null
cmake --build "$build" --parallel "$(nproc)" >/dev/null
qemu-aarch64 -L /usr/aarch64-linux-gnu "$build/kernel_test"
