// Records a network: its parameters in the order of the module's, and its operations as a trace would.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>

#include "deepnets/network.hpp"

namespace ghnfast {

// Throws std::invalid_argument: WHAT, given CHANNELS.
void require(bool condition, const char* what, std::int64_t channels);

// Parameters and operations are numbered through; -1 stands for a parameter that is not there.
class Recorder {
 public:
  // Without names, parameters have none; `normed` is whether there are normalization layers.
  Recorder(bool with_names, bool normed);

  NetworkTrace trace;

  bool with_names() const { return with_names_; }
  bool normed() const { return normed_; }

  // What stands before the names of the parameters that follow, where they have names.
  void set_prefix(const std::string& prefix) { prefix_ = with_names_ ? prefix : std::string(); }

  // The cell that the operations that follow belong to.
  void set_cell(int cell) { cell_ = cell; }

  // The number that the next parameter will have.
  std::int32_t next() const { return static_cast<std::int32_t>(trace.parameters.size()); }

  std::int32_t parameter(const char* name, std::initializer_list<std::int64_t> sizes);

  std::int32_t emit(Kind kind, std::initializer_list<std::int32_t> inputs, std::int32_t weight = -1,
                    std::int32_t norm_bias = -1);

  std::int32_t sum(std::int32_t a, std::int32_t b) { return a == b ? a : emit(Kind::kSum, {a, b}); }

  std::int32_t convolve(std::int32_t x, std::int32_t weight, bool grouped = false, bool dilated = false);

  std::int32_t linear(std::int32_t x, std::int32_t weight, std::int32_t bias = -1);

  // The parameters of a normalization layer; none where there is no normalization.
  struct Norm {
    std::int32_t weight = -1, bias = -1;
  };

  Norm norm_parameters(const char* weight, const char* bias, std::int64_t channels);

  // Those whose weight has a number.
  Norm norm_at(std::int32_t first) const { return normed_ ? Norm{first, first + 1} : Norm{}; }

  std::int32_t normalize(std::int32_t x, Norm norm) {
    return norm.weight < 0 ? x : emit(Kind::kBn, {x}, norm.weight, norm.bias);
  }

 private:
  bool with_names_, normed_;
  std::string prefix_;
  int cell_ = 0;
};

}  // namespace ghnfast
