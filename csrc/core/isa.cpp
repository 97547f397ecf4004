#include "core/isa.hpp"

#include <atomic>
#include <stdexcept>

namespace ghnfast {
namespace {

const char* const kNames[] = {"baseline", "avx2", "avx512"};

InstructionSet newest() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    const bool wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    return wide ? InstructionSet::kAvx512 : InstructionSet::kAvx2;
  }
#endif
  return InstructionSet::kBaseline;
}

std::atomic<InstructionSet>& chosen() {
  static std::atomic<InstructionSet> value{newest()};
  return value;
}

}  // namespace

InstructionSet instruction_set() { return chosen().load(std::memory_order_relaxed); }

bool rounds_products() {
#if defined(__x86_64__)
  return instruction_set() == InstructionSet::kAvx512 && __builtin_cpu_supports("avx512bf16");
#else
  return false;
#endif
}

std::vector<std::string> instruction_sets() { return {kNames, kNames + static_cast<int>(newest()) + 1}; }

void use_instruction_set(const std::string& name) {
  const auto available = instruction_sets();
  for (std::size_t index = 0; index < available.size(); ++index) {
    if (available[index] == name) {
      chosen() = static_cast<InstructionSet>(index);
      return;
    }
  }
  throw std::invalid_argument("this machine has no instruction set " + name);
}

}  // namespace ghnfast
