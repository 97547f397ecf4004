#include "forward/classes.hpp"

#include <algorithm>
#include <cmath>
#include <memory>

#include "core/buffer.hpp"
#include "core/parallel.hpp"
#include "forward/linear.hpp"

namespace ghnfast {
namespace {

// One class weight: its row of `hidden`, its columns, and where its block starts in `blocks`.
struct ClassWeight {
  std::int64_t row = 0, columns = 0, first = 0;
};

std::int64_t kernel_rows(const std::vector<DecoderCall>& calls) {
  std::int64_t rows = 0;
  for (const auto& call : calls) {
    rows += call.decoder == DecoderKind::kKernel ? call.count * call.cells : 0;
  }
  return rows;
}

template <typename T>
std::vector<ClassWeight> class_weights_of(const GhnPointers<T>& ghn, const std::vector<DecoderCall>& calls) {
  auto row = kernel_rows(calls);
  std::vector<ClassWeight> found;
  for (const auto& call : calls) {
    for (std::int64_t index = 0; call.decoder == DecoderKind::kClassWeight && index < call.count; ++index) {
      found.push_back({row++, call.columns, call.first + index * ghn.classes.outputs * call.columns});
    }
  }
  return found;
}

template <typename T>
DecodeSource<T> source_of(const GhnPointers<T>& ghn, const T* hidden, std::int64_t hidden_rows) {
  DecodeSource<T> source;
  source.hidden = hidden;
  source.weight = ghn.products.weight;
  source.bias = ghn.products.bias;
  source.hidden_rows = hidden_rows;
  source.width = ghn.products.inputs;
  source.max_rows = ghn.rows;
  source.max_columns = ghn.columns;
  return source;
}

template <typename T>
constexpr Element kElement = sizeof(T) == sizeof(float) ? Element::kFloat32 : Element::kFloat64;

// Makes blocks (classes, columns) of the positive part of products (rows, columns): a layer over the rows. All memory
// that it takes, it has from the start.
template <typename T>
class ClassLayer {
 public:
  ClassLayer(const GhnPointers<T>& ghn, const std::vector<ClassWeight>& weights) : ghn_(ghn), weights_(weights) {
    const auto elements = ghn.classes.outputs * ghn.rows;
    if (ghn.classes.weight.stored != Stored::kSame) {
      widened_ = std::make_unique<Buffer<T>>(elements, Fill::kNothing);
      widen(ghn.classes.weight, elements, widened_->data());
    }
    for (const auto& weight : weights_) {
      offsets_.push_back(size_);
      size_ += ghn.rows * weight.columns;
    }
    products_ = std::make_unique<Buffer<T>>(size_, Fill::kNothing);
    for (int part = 0; part < kParts; ++part) {
      panels_.push_back(std::make_unique<Buffer<T>>(panel_elements<T>(ghn.rows), Fill::kNothing));
    }
  }

  // The products that it is made of, as targets.
  void add_products(std::vector<DecodeTarget>& targets, std::vector<DecodeMemory>& memory) {
    for (std::size_t index = 0; index < weights_.size(); ++index) {
      const auto rows = ghn_.rows, columns = weights_[index].columns;
      targets.push_back({weights_[index].row, rows, columns, 1, rows, columns, TargetKind::kProduct, 1});
      memory.push_back({reinterpret_cast<std::int64_t>(products(index)), kElement<T>, {columns, 1, 1}});
    }
  }

  void make(T* blocks, int threads) {
    T* const products = products_->data();
    for (std::int64_t i = 0; i < size_; ++i) {
      products[i] = products[i] < T(0) ? T(0) : products[i];
    }
    for (std::size_t index = 0; index < weights_.size(); ++index) {
      const auto work = ghn_.classes.outputs * ghn_.rows * weights_[index].columns;
      parallel_for(kParts, work < worth_threads() ? 1 : threads,
                   [&](std::int64_t part) { make_part(index, part, blocks); });
    }
  }

 private:
  static constexpr int kParts = 4;

  T* products(std::size_t index) { return products_->data() + offsets_[index]; }

  // Some of the classes of one weight.
  void make_part(std::size_t index, std::int64_t part, T* blocks) {
    const auto classes = ghn_.classes.outputs, columns = weights_[index].columns;
    const auto from = classes * part / kParts, to = classes * (part + 1) / kParts;
    const T* layer = widened_ ? widened_->data() : static_cast<const T*>(ghn_.classes.weight.data);
    auto job = job_of<T>(ghn_.classes, layer + from * ghn_.rows, to - from,
                         blocks + weights_[index].first + from * columns, Activation::kNone);
    job.weight = {products(index)};
    job.output_stride = 1;
    job.input_stride = job.outputs = job.y_stride = columns;
    job.bias = nullptr;
    job.row_bias = ghn_.classes.bias + from;
    run(job, panels_[part]->data());
  }

  const GhnPointers<T>& ghn_;
  const std::vector<ClassWeight>& weights_;
  std::int64_t size_ = 0;
  std::vector<std::int64_t> offsets_;
  std::unique_ptr<Buffer<T>> widened_, products_;
  std::vector<std::unique_ptr<Buffer<T>>> panels_;
};

// The targets that repeat the block of a class weight.
std::vector<std::size_t> targets_of(const std::vector<ClassWeight>& weights, const std::vector<DecodeTarget>& targets) {
  std::vector<std::size_t> found;
  for (std::size_t index = 0; index < targets.size(); ++index) {
    const auto is_its = [&](const ClassWeight& weight) { return weight.first == targets[index].first; };
    if (!targets[index].is_product() && std::any_of(weights.begin(), weights.end(), is_its)) {
      found.push_back(index);
    }
  }
  return found;
}

// Whether no class weight can be too large for its targets, by the sizes of all that it is made of.
template <typename T>
bool are_bounded(const GhnPointers<T>& ghn, const DecodeSource<T>& source, const std::vector<std::size_t>& late,
                 const std::vector<DecodeTarget>& targets, const std::vector<DecodeMemory>& memory, int threads) {
  const auto layer = largest(ghn.classes.weight, ghn.classes.outputs * ghn.rows, threads);
  const auto bias = largest<T>({ghn.classes.bias}, ghn.classes.outputs, threads);
  const auto bound = static_cast<double>(ghn.rows) * layer * bound_of_products(source, threads) + bias;
  return bound < limit_of(kElement<T>) / 2 &&
         std::all_of(
             late.begin(), late.end(),
             [&](std::size_t index) {
               const auto scale = targets[index].kind == TargetKind::kScaled ? std::abs(targets[index].scale) : 1.0;
               return bound * scale < std::min(limit_of(kElement<T>), limit_of(memory[index].element)) / 2;
             });
}

}  // namespace

template <typename T>
void class_weights(const GhnPointers<T>& ghn, const std::vector<DecoderCall>& calls, const T* hidden, T* blocks,
                   int threads, bool rounds) {
  const auto weights = class_weights_of(ghn, calls);
  if (weights.empty()) {
    return;
  }
  ClassLayer<T> layer(ghn, weights);
  std::vector<DecodeTarget> targets;
  std::vector<DecodeMemory> memory;
  layer.add_products(targets, memory);
  auto source = source_of(ghn, hidden, weights.back().row + 1);
  source.rounds = rounds;
  decode(source, targets, memory, false, threads);
  layer.make(blocks, threads);
}

template <typename T>
std::int64_t decode_all(const GhnPointers<T>& ghn, const std::vector<DecoderCall>& calls, const T* hidden, T* blocks,
                        std::int64_t block_elements, double largest_weight, bool rounds,
                        const std::vector<DecodeTarget>& targets, const std::vector<DecodeMemory>& memory, int threads,
                        const std::function<void()>& before_writing) {
  const auto weights = class_weights_of(ghn, calls);
  auto source = source_of(ghn, hidden, kernel_rows(calls) + static_cast<std::int64_t>(weights.size()));
  source.blocks = blocks;
  source.block_elements = block_elements;
  source.largest_weight = largest_weight;
  source.rounds = rounds;
  if (largest_weight < 0) {
    source.largest_weight = largest(source.weight, ghn.products.outputs * source.width, threads);
  }
  LateTargets late{targets_of(weights, targets), {}};
  if (weights.empty() || !are_bounded(ghn, source, late.targets, targets, memory, threads)) {
    class_weights(ghn, calls, hidden, blocks, threads, rounds);
    return decode(source, targets, memory, true, threads, before_writing);
  }
  ClassLayer<T> layer(ghn, weights);
  auto all_targets = targets;
  auto all_memory = memory;
  layer.add_products(all_targets, all_memory);
  late.make = [&] { layer.make(blocks, threads); };
  return decode(source, all_targets, all_memory, true, threads, before_writing, late);
}

template void class_weights(const GhnPointers<float>&, const std::vector<DecoderCall>&, const float*, float*, int,
                            bool);
template void class_weights(const GhnPointers<double>&, const std::vector<DecoderCall>&, const double*, double*, int,
                            bool);
template std::int64_t decode_all(const GhnPointers<float>&, const std::vector<DecoderCall>&, const float*, float*,
                                 std::int64_t, double, bool, const std::vector<DecodeTarget>&,
                                 const std::vector<DecodeMemory>&, int, const std::function<void()>&);
template std::int64_t decode_all(const GhnPointers<double>&, const std::vector<DecoderCall>&, const double*, double*,
                                 std::int64_t, double, bool, const std::vector<DecodeTarget>&,
                                 const std::vector<DecodeMemory>&, int, const std::function<void()>&);

}  // namespace ghnfast
