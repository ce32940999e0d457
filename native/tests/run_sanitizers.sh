#!/usr/bin/env bash
# Build the kernels with the address and undefined-behaviour sanitizers and run their test program.
set -euo pipefail
build="${1:-$(mktemp -d)}"
cmake -S "$(dirname "$0")/.." -B "$build" -DTIDEGATE_TESTS=ON -DCMAKE_BUILD_TYPE=Debug \
    -DCMAKE_CXX_FLAGS_DEBUG="-O1 -g1 -fsanitize=address,undefined -fno-sanitize-recover=all" >/dev/null
cmake --build "$build" --parallel "$(nproc)" >/dev/null
UBSAN_OPTIONS=print_stacktrace=1 "$build/kernel_test"
