// Which instructions the machine has: kernels are compiled for several instruction sets and chosen at run time.
#pragma once

#include <string>
#include <vector>

#if defined(__x86_64__)
#define GHNFAST_FOR_EACH_ISA(macro) macro(baseline) macro(avx2) macro(avx512)
#else
#define GHNFAST_FOR_EACH_ISA(macro) macro(baseline)
#endif

namespace ghnfast {

enum class InstructionSet { kBaseline, kAvx2, kAvx512 };

// The one in use: the last of `instruction_sets()`, or what `use_instruction_set` chose.
InstructionSet instruction_set();

// The names of those that this machine has, the fastest last.
std::vector<std::string> instruction_sets();

// Whether that one has products of numbers rounded to bfloat16, with sums in float, twice as fast as others.
bool rounds_products();

// For tests and measurements; throws std::invalid_argument for a name that is not in `instruction_sets()`.
void use_instruction_set(const std::string& name);

// What `function` is called in the namespace of the instruction set in use.
#if defined(__x86_64__)
#define GHNFAST_DISPATCH(function)                                                       \
  (::ghnfast::instruction_set() == ::ghnfast::InstructionSet::kAvx512 ? avx512::function \
   : ::ghnfast::instruction_set() == ::ghnfast::InstructionSet::kAvx2 ? avx2::function   \
                                                                      : baseline::function)
#else
#define GHNFAST_DISPATCH(function) (baseline::function)
#endif

}  // namespace ghnfast
