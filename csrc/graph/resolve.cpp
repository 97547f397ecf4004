#include "graph/resolve.hpp"

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <stdexcept>
#include <string>
#include <utility>

#include "graph/span.hpp"

namespace ghnfast {
namespace {

constexpr std::int32_t kNone = -1;

bool is_squeeze(Kind kind) {
  return kind == Kind::kSqueezeGlobAvg || kind == Kind::kSqueezeAvgPool || kind == Kind::kSqueezeMaxPool ||
         kind == Kind::kSqueezePass;
}

bool is_convolution(Kind kind) {
  return kind == Kind::kConv || kind == Kind::kPointwiseConv || kind == Kind::kSepConv || kind == Kind::kDilConv;
}

// The primitive a traced operation becomes where it is a node, kPass where it never is.
Kind primitive_of(Kind kind) {
  switch (kind) {
    case Kind::kSqueezeGlobAvg:
      return Kind::kGlobAvg;
    case Kind::kSqueezeAvgPool:
      return Kind::kAvgPool;
    case Kind::kSqueezeMaxPool:
      return Kind::kMaxPool;
    case Kind::kPointwiseConv:
      return Kind::kConv;
    case Kind::kSoftmax:
    case Kind::kMatmul:
    case Kind::kGate:
    case Kind::kSqueezePass:
      return Kind::kPass;
    default:
      return kind;
  }
}

// Turns the kinds that depend on context (gates, attention, embeddings that are added) into primitives or kPass.
//
// Three facts travel along with every value: the squeeze it comes from (a reduction of the image plane that nothing has
// widened again), the softmax it comes from, and whether it is a product of two activations (attention scores). A gate
// is then a product of features with something squeezed that the features themselves do not come from; an attention is
// a matrix product that reads a softmax.
class Resolver {
 public:
  explicit Resolver(const TracedOperations& traced)
      : traced_(traced),
        kinds_(traced.kinds),
        squeeze_(traced.kinds.size(), kNone),
        softmax_(traced.kinds.size(), 0),
        scores_(traced.kinds.size(), 0),
        attention_offset_(traced.kinds.size(), 0),
        group_(traced.kinds.size()) {
    std::iota(group_.begin(), group_.end(), 0);
  }

  void run() {
    for (std::int32_t op = 0; op < static_cast<std::int32_t>(kinds_.size()); ++op) {
      resolve(op);
    }
    // Only now are the groups final: a squeeze may join one after its gate.
    std::vector<char> gated(kinds_.size(), 0);
    for (const auto op : gate_squeezes_) {
      gated[root(op)] = 1;
    }
    for (std::size_t op = 0; op < kinds_.size(); ++op) {
      const auto kind = kinds_[op];
      const bool gate_pool = is_squeeze(kind) && gated[root(static_cast<std::int32_t>(op))];
      kinds_[op] = gate_pool || attention_offset_[op] ? Kind::kPass : primitive_of(kind);
    }
  }

  ResolvedKinds take() { return {std::move(kinds_), std::move(attention_offset_)}; }

 private:
  Span inputs(std::int32_t op) const { return inputs_of(traced_, op); }

  // Squeezes whose values were combined (say, an average and a maximum) belong to one gate.
  std::int32_t root(std::int32_t op) {
    while (group_[op] != op) {
      group_[op] = group_[group_[op]];
      op = group_[op];
    }
    return op;
  }

  std::int32_t common_squeeze(std::int32_t op) {
    const auto read = inputs(op);
    if (read.size() == 0) {
      return kNone;
    }
    for (const auto input : read) {
      if (squeeze_[input] == kNone) {
        return kNone;
      }
    }
    const auto first = squeeze_[*read.begin()];
    for (const auto input : read) {
      group_[root(squeeze_[input])] = root(first);
    }
    return first;
  }

  bool any(const std::vector<char>& fact, std::int32_t op) const {
    const auto read = inputs(op);
    return std::any_of(read.begin(), read.end(), [&](std::int32_t input) { return fact[input] != 0; });
  }

  void resolve(std::int32_t op) {
    const auto kind = kinds_[op];
    if (is_squeeze(kind)) {
      squeeze_[op] = op;
    } else if (kind == Kind::kSoftmax) {
      softmax_[op] = 1;
      squeeze_[op] = common_squeeze(op);
    } else if (kind == Kind::kMatmul) {
      resolve_matmul(op);
    } else if (kind == Kind::kGate) {
      resolve_gate(op);
    } else if (kind == Kind::kPass || kind == Kind::kSum) {
      squeeze_[op] = common_squeeze(op);
      softmax_[op] = (kind == Kind::kSum || inputs(op).size() == 1) && any(softmax_, op);
      scores_[op] = any(scores_, op);
      if (kind == Kind::kSum && scores_[op]) {
        mark_attention_offsets(op);
      }
    } else if (kind != Kind::kInput && kind != Kind::kMsa && kind != Kind::kPosEnc) {
      squeeze_[op] = common_squeeze(op);
      // A mix of attention heads between softmax and values (talking heads) is still the same attention.
      softmax_[op] = (is_convolution(kind) || kind == Kind::kBias) && any(softmax_, op);
    }
  }

  void resolve_matmul(std::int32_t op) {
    if (any(softmax_, op)) {
      kinds_[op] = Kind::kMsa;
      return;
    }
    squeeze_[op] = common_squeeze(op);
    scores_[op] = 1;
  }

  void resolve_gate(std::int32_t op) {
    const auto read = inputs(op);
    if (read.size() != 2) {
      throw std::invalid_argument("gate " + std::to_string(op) + " has " + std::to_string(read.size()) +
                                  " inputs; it takes two");
    }
    auto features = read.first[0], gate = read.first[1];
    if (squeeze_[gate] == kNone || (squeeze_[features] != kNone && squeeze_[features] > squeeze_[gate])) {
      std::swap(features, gate);
    }
    const auto features_squeeze = squeeze_[features], gate_squeeze = squeeze_[gate];
    scores_[op] = any(scores_, op);
    if (gate_squeeze == kNone || (features_squeeze != kNone && root(features_squeeze) == root(gate_squeeze))) {
      squeeze_[op] = common_squeeze(op);
      return;
    }
    kinds_[op] = Kind::kCse;
    squeeze_[op] = features_squeeze;
    gate_squeezes_.push_back(gate_squeeze);
  }

  void mark_attention_offsets(std::int32_t op) {
    for (const auto input : inputs(op)) {
      if (kinds_[input] == Kind::kPosEnc) {
        attention_offset_[input] = 1;
      }
    }
  }

  const TracedOperations& traced_;
  std::vector<Kind> kinds_;
  std::vector<std::int32_t> squeeze_;
  std::vector<char> softmax_;
  std::vector<char> scores_;
  std::vector<char> attention_offset_;
  std::vector<std::int32_t> group_;
  std::vector<std::int32_t> gate_squeezes_;
};

}  // namespace

ResolvedKinds resolve_kinds(const TracedOperations& traced) {
  Resolver resolver(traced);
  resolver.run();
  return resolver.take();
}

}  // namespace ghnfast
