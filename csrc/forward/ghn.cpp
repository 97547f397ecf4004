#include "forward/ghn.hpp"

#include <algorithm>
#include <functional>

#include "core/buffer.hpp"
#include "core/parallel.hpp"
#include "forward/linear.hpp"

namespace ghnfast {
namespace {

template <typename T>
void embed_sizes(const SizeTable<T>& sizes, const std::int64_t* shape, std::int64_t width, T* to) {
  for (int part = 0; part < 2; ++part, to += width) {
    const auto last = sizes.sizes - 1;  // the row for no shape; the one before it is for all larger sizes
    const auto row = sizes.rows[shape[part] < 0 ? last : std::min(shape[part], last - 1)];
    for (std::int64_t i = 0; i < width; ++i) {
      to[i] += sizes.table[row * width + i];
    }
  }
}

// The decoders' first layers for one batch.
template <typename T>
class DecoderInputs {
 public:
  DecoderInputs(const GhnPointers<T>& ghn, const T* states, const std::vector<std::int64_t>& nodes,
                const std::vector<DecoderCall>& calls, T* hidden, T* blocks, int threads)
      : ghn_(ghn), states_(states), nodes_(nodes), calls_(calls), hidden_(hidden), blocks_(blocks), threads_(threads) {
    for (const auto& call : calls) {
      rows_ += call.decoder == DecoderKind::kKernel ? call.count * call.cells : 0;
    }
    for (const auto& call : calls) {
      class_rows_.push_back(rows_);
      rows_ += call.decoder == DecoderKind::kClassWeight ? call.count : 0;
    }
  }

  void run_all() {
    Buffer<T> cells(rows_ * ghn_.hidden.inputs, Fill::kNothing);
    std::vector<std::function<void()>> work;
    for (std::size_t index = 0; index < calls_.size(); ++index) {
      add_first_layers(index, cells.data(), work);
    }
    with_team(work.size() > 1 ? threads_ : 1, [&] {
      parallel_for(static_cast<std::int64_t>(work.size()), threads_, [&](std::int64_t item) { work[item](); });
      run_parallel(job_of<T>(ghn_.hidden, cells.data(), rows_, hidden_, Activation::kRelu), threads_);
    });
  }

 private:
  static constexpr std::int64_t kVectorsAtOnce = 64;

  void add_first_layers(std::size_t index, T* cells, std::vector<std::function<void()>>& work) {
    const auto& call = calls_[index];
    if (call.decoder == DecoderKind::kKernel || call.decoder == DecoderKind::kClassWeight) {
      const auto first = call.decoder == DecoderKind::kKernel ? call.first : class_rows_[index];
      for (std::int64_t cell = 0; cell < call.cells; ++cell) {
        work.push_back([this, &call, first, cell, cells] { cell_of_kernels(call, first, cell, cells); });
      }
    } else if (call.decoder == DecoderKind::kVectorWeight || call.decoder == DecoderKind::kVectorBias) {
      for (std::int64_t from = 0; from < call.count; from += kVectorsAtOnce) {
        work.push_back([this, &call, from] { vectors(call, from); });
      }
    } else if (call.decoder == DecoderKind::kClassBias) {
      work.push_back([this, &call] { class_biases(call); });
    }
  }

  // One cell of all kernels of a call, relu(fc(h)): its weights lie size * size rows apart.
  void cell_of_kernels(const DecoderCall& call, std::int64_t first, std::int64_t cell, T* cells) const {
    const auto plane = ghn_.size * ghn_.size;
    const auto top = ghn_.centred ? ghn_.size / 2 - call.height / 2 : 0;
    const auto left = ghn_.centred ? ghn_.size / 2 - call.width / 2 : 0;
    const auto at = (top + cell / call.width) * ghn_.size + left + cell % call.width;
    auto job = job_of<T>(ghn_.cells, states_, call.count, nullptr, Activation::kRelu);
    job.outputs = ghn_.hidden.inputs;
    job.weight = from(job.weight, at * ghn_.hid);
    job.output_stride = plane * ghn_.hid;
    job.bias += at;
    job.bias_stride = plane;
    job.rows = nodes_.data() + call.begin;
    job.y = cells + (first + cell) * ghn_.hidden.inputs;
    job.y_stride = call.cells * ghn_.hidden.inputs;
    run(job);
  }

  void vectors(const DecoderCall& call, std::int64_t from) const {
    const auto count = std::min(kVectorsAtOnce, call.count - from);
    Buffer<T> units(count * ghn_.vectors[0].outputs, Fill::kNothing);
    vector_units(call, from, count, units.data());
    run(job_of<T>(ghn_.vectors[1], units.data(), count, blocks_ + call.first + from * ghn_.vectors[1].outputs,
                  Activation::kNone));
  }

  void vector_units(const DecoderCall& call, std::int64_t from, std::int64_t count, T* units) const {
    auto job = job_of<T>(ghn_.vectors[0], states_, count, units, Activation::kRelu);
    job.rows = nodes_.data() + call.begin + from;
    run(job);
  }

  // From the positive part of the vectors for biases, which are the second half of each.
  void class_biases(const DecoderCall& call) const {
    const auto length = ghn_.class_bias.inputs;
    Buffer<T> units(call.count * ghn_.vectors[0].outputs, Fill::kNothing), biases(call.count * length, Fill::kNothing);
    vector_units(call, 0, call.count, units.data());
    auto half = ghn_.vectors[1];
    half.outputs = length;
    half.weight = from(half.weight, length * half.inputs);
    half.bias += length;
    run(job_of<T>(half, units.data(), call.count, biases.data(), Activation::kRelu));
    run(job_of<T>(ghn_.class_bias, biases.data(), call.count, blocks_ + call.first, Activation::kNone));
  }

  const GhnPointers<T>& ghn_;
  const T* states_;
  const std::vector<std::int64_t>& nodes_;
  const std::vector<DecoderCall>& calls_;
  T *hidden_, *blocks_;
  int threads_;
  std::int64_t rows_ = 0;  // of kernels, and behind them one for each class weight
  std::vector<std::int64_t> class_rows_;
};

}  // namespace

template <typename T>
void node_states(const GhnPointers<T>& ghn, const Topology& topology, const Relations& relations,
                 const std::int8_t* primitives, const std::int64_t* shapes, std::int64_t nodes, T* states,
                 int threads) {
  Buffer<T> initial(nodes * ghn.hid, Fill::kNothing);
  for (std::int64_t node = 0; node < nodes; ++node) {
    T* state = initial.data() + node * ghn.hid;
    std::copy_n(ghn.primitives + primitives[node] * ghn.hid, ghn.hid, state);
    embed_sizes(ghn.channels, shapes + 4 * node, ghn.hid / 4, state);
    embed_sizes(ghn.kernels, shapes + 4 * node + 2, ghn.hid / 4, state + ghn.hid / 2);
  }
  if (const auto* mlp = ghn.node_mlp; mlp[0].weight.data != nullptr) {
    Buffer<T> units(nodes * mlp[0].outputs, Fill::kNothing);
    run_parallel(job_of<T>(mlp[0], initial.data(), nodes, units.data(), Activation::kRelu), threads);
    run_parallel(job_of<T>(mlp[1], units.data(), nodes, states, Activation::kRelu), threads);
  } else if (!ghn.graphormer.layers.empty()) {
    std::copy_n(initial.data(), nodes * ghn.hid, states);
    graphormer(ghn.graphormer, ghn.hid, topology, relations, states, threads);
  } else {
    gated_sweep(topology, ghn.sweep, initial.data(), states, threads);
  }
  if (ghn.norm.weight != nullptr) {
    layer_norm(ghn.norm, ghn.hid, states, nodes, states, threads);
  }
}

template <typename T>
void decode_inputs(const GhnPointers<T>& ghn, const T* states, const std::vector<std::int64_t>& nodes,
                   const std::vector<DecoderCall>& calls, T* hidden, T* blocks, int threads) {
  DecoderInputs<T>(ghn, states, nodes, calls, hidden, blocks, threads).run_all();
}

template void node_states(const GhnPointers<float>&, const Topology&, const Relations&, const std::int8_t*,
                          const std::int64_t*, std::int64_t, float*, int);
template void node_states(const GhnPointers<double>&, const Topology&, const Relations&, const std::int8_t*,
                          const std::int64_t*, std::int64_t, double*, int);
template void decode_inputs(const GhnPointers<float>&, const float*, const std::vector<std::int64_t>&,
                            const std::vector<DecoderCall>&, float*, float*, int);
template void decode_inputs(const GhnPointers<double>&, const double*, const std::vector<std::int64_t>&,
                            const std::vector<DecoderCall>&, double*, double*, int);

}  // namespace ghnfast
