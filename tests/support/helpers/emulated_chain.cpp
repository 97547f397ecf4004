// kernels/chain.cu (KERNEL) on a CPU: see emulator.hpp.
#include "emulator.hpp"
// Behind it.
#include KERNEL

extern "C" bool emulate(const Arguments* arguments, int blocks, std::uint64_t seed) {
  return emulated::launch<Arguments>(chain, *arguments, blocks, seed);
}
