// A counter-based random stream: what it gives depends on its key alone, on every machine.
#pragma once

#include <array>
#include <cstdint>

namespace ghnfast {

// Philox4x32-10. Source: Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011.
inline std::array<std::uint32_t, 4> philox(std::array<std::uint32_t, 4> counter, std::array<std::uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const auto a = std::uint64_t{0xD2511F53} * counter[0], b = std::uint64_t{0xCD9E8D57} * counter[2];
    counter = {static_cast<std::uint32_t>(b >> 32) ^ counter[1] ^ key[0], static_cast<std::uint32_t>(b),
               static_cast<std::uint32_t>(a >> 32) ^ counter[3] ^ key[1], static_cast<std::uint32_t>(a)};
    key[0] += 0x9E3779B9;
    key[1] += 0xBB67AE85;
  }
  return counter;
}

// The stream of item `index` of a split.
class RandomStream {
 public:
  RandomStream(std::uint64_t seed, std::uint32_t split, std::uint64_t index)
      : key_{static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)},
        counter_{0, split, static_cast<std::uint32_t>(index), static_cast<std::uint32_t>(index >> 32)} {}

  std::uint32_t next() {
    if (used_ == 4) {
      block_ = philox(counter_, key_);
      ++counter_[0];
      used_ = 0;
    }
    return block_[used_++];
  }

  // Uniform in [0, 1).
  double uniform() { return next() * 0x1p-32; }

  bool coin() { return (next() >> 31) != 0; }

  // Uniform in [0, count), without bias (Lemire, "Fast Random Integer Generation in an Interval", 2019).
  int below(int count) {
    const auto range = static_cast<std::uint32_t>(count);
    auto product = std::uint64_t{next()} * range;
    while (static_cast<std::uint32_t>(product) < (0u - range) % range) {
      product = std::uint64_t{next()} * range;
    }
    return static_cast<int>(product >> 32);
  }

 private:
  std::array<std::uint32_t, 2> key_;
  std::array<std::uint32_t, 4> counter_, block_{};
  int used_ = 4;
};

}  // namespace ghnfast
