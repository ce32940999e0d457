// Are an array's bits still what they were? For weights kept packed between calls.
//
// In the manner of XXH3 (Collet): each 64-bit lane adds the product of its word's halves under a key that changes with
// the position, and its neighbour adds the word itself, so that no change of a single word, and none of several but by
// a chance of 2^-64, leaves all lanes as they were. About 24 bytes a cycle with AVX-512 (Zen 5).
#pragma once

#include <utility>

#include "simd.h"

namespace tg {
namespace TG_ISA {

struct Digest {
  static constexpr int WORDS = VECTOR_BYTES / 8;
  vq sum, key;

  explicit Digest(uint64_t seed) {
    for (int n = 0; n < WORDS; ++n) {
      key[n] = (seed + (uint64_t)n + 1) * 0x9FB21C651E98DF25u;
      sum[n] = key[n] ^ (key[n] >> 29);
    }
  }

  void add(const void* data, int64_t bytes) {
    auto at = static_cast<const char*>(data);
#pragma GCC unroll 4
    for (; bytes >= VECTOR_BYTES; bytes -= VECTOR_BYTES, at += VECTOR_BYTES) take(load_bits<vq>(at));
    vq rest{};
    if (bytes > 0) std::memcpy(&rest, at, (size_t)bytes);
    take(rest);
    finish();
  }

  // The same of lines here and there in a large matrix, which together hold a number of each column.
  void sample(const void* data, int64_t rows, int64_t row) {
    constexpr int64_t LINE = 64, LEAST = 16, MOST = 128;
    const int64_t bytes = rows * row, across = (row + LINE - 1) / LINE;
    const int64_t lines = across < LEAST ? LEAST : (across < MOST ? across : MOST);
    if (bytes <= lines * LINE) return add(data, bytes);
    for (int64_t n = 0; n < lines; ++n) {
      int64_t at = (n * 40503 % 65536 * (rows - 1) >> 16) * row + n * LINE % row;
      if (at > bytes - LINE) at = bytes - LINE;
      for (int64_t v = 0; v < LINE; v += VECTOR_BYTES) take(load_bits<vq>(static_cast<const char*>(data) + at + v));
    }
    finish();
  }

  bool operator==(const void* other) const { return !std::memcmp(&sum, other, sizeof sum); }
  void save(void* to) const { std::memcpy(to, &sum, sizeof sum); }

 private:
  void finish() { sum = (sum ^ sum >> 47 ^ key) * 0x9E3779B185EBCA87u; }  // where an array ends
  TG_INLINE void take(vq words) {
    const vq keyed = words ^ key;
    sum += multiply_low(keyed, keyed >> 32) + neighbours(words, std::make_index_sequence<WORDS>{});
    key += 0x9E3779B97F4A7C15u;
  }
  template <size_t... K>
  static TG_INLINE vq neighbours(vq words, std::index_sequence<K...>) {
    return shuffle<(K ^ 1)...>(words, words);
  }
};

}  // namespace TG_ISA
}  // namespace tg
