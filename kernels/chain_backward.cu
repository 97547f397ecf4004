// The gradients of the gated sweep of a batch of graphs, a block of threads for each, from what chain.cu left: see
// kernels/chain.py, which compiles this for HID, WIDTH, HEADS and FIXED, as chain.cu.
//
// What a node sent has its gradient once all its receivers have theirs, so that they are walked in the opposite order.
// That of the reverse sweep is the order of the forward one, and who received from a node then sends to it now: steps,
// bands and positions are those of chain.cu, and what goes from node to node is the gradient of what a node received.
//
// Given what the forward pass kept, gradients are products with known numbers: all of them come ahead in a ring of
// slots. One warp walks, with all weights that it needs in registers, lane c with column c of each matrix, and touches
// nothing but shared memory. Behind it, another one multiplies by the GRU's hidden matrix, and the one that fills slots
// empties them first. The others gather from all receivers but the last kLast. Gradients of weights are sums over all
// nodes of what this leaves (chain_gradients.cu).
#include "chain_common.cu"

constexpr int kTogether = 16;  // receivers whose gradients are gathered after one look at `done`
constexpr int kQuad = 4;       // of which so many are loaded at once: a quarter of the lanes has one each, as float4
constexpr int kPadded = kLanes + 4;  // lanes that read two rows find them in different banks

struct Arguments {
  const float* grad_final;  // (nodes, HID)
  float* grad_middle;       // (nodes, HID), written
  float* grad_states;       // (nodes, HID), written
  float* grad_gates;     // (2, nodes, 4, HID), written: before the activations of reset, update, new; its hidden part
  float* grad_hidden;    // (2, nodes, HEADS, WIDTH), written: before the activation of the MLPs' hidden layers
  float* grad_messages;  // (2, nodes, HEADS, HID), written: before the activation of messages
  const float *states, *middle, *messages, *gates, *hidden;  // as chain.cu has them
  Weights weights;
  Bands bands;
};

// What is known of a node ahead of the walking warp, and what that makes of it.
struct __align__(16) Slot {
  float4 factors[kLanes];  // the gradient that the state has beside that of messages; of which reset, update and new
                           // have a product
  float2 others[kLanes];   // of which the new gate's hidden part and the state before have one
  int open[kLanes];        // bits: whether the message of a head was positive, and behind them the hidden layer
  float direct[kLanes], virtual_[kLanes];  // gradients of messages from all receivers but the last
  float weights[kLast];                    // of the last receivers, nearest first: one over the distance, or 0
  int gathered, prepared;                  // the step that it is for, and one, once it has come
  __align__(16) float messages[HEADS][kPadded], inner[kLanes], state[kLanes], gates[3][kLanes];
};

struct Shared {
  Slot ring[kRing];
  float of_hidden[kLanes];
  int done, multiplied;  // steps
};

static_assert(sizeof(Shared) <= FIXED, "kernels/chain.py asks for so many bytes, and for those of gradients");

// What one block works with.
struct Graph : Place {
  Shared* shared;
  float* received;  // gradients of a node by its position, lane after lane; kTogether more are loaded, not used
};

// The sweep that a step takes back.
__device__ __forceinline__ int sweep_of(const Graph& graph, int step) { return step >= graph.count ? 0 : 1; }

__device__ __forceinline__ long long node_of(const Graph& graph, int step) {
  const int turn = step >= graph.count;
  return node_at(graph, turn, step - turn * graph.count);
}

// Of (2, nodes, ...).
__device__ __forceinline__ long long row_of(const Graph& graph, const Arguments& a, int step) {
  return sweep_of(graph, step) * a.bands.nodes + node_of(graph, step);
}

// Column `lane` of a matrix that lies in shared memory.
template <int rows>
__device__ __forceinline__ void load_column(float (&column)[rows], const Staged& staged, int matrix, int lane) {
#pragma unroll
  for (int k = 0; k < rows; ++k) {
    column[k] = staged.matrix[matrix][k * kStride + lane];
  }
}

__device__ __forceinline__ void add_gradient(float& direct, float& virtual_, float weight, float gradient) {
  direct = weight > kAlmostOne ? direct + gradient : direct;
  if (HEADS == 2) {
    virtual_ = weight > 0.0f ? fmaf(weight, gradient, virtual_) : virtual_;
  }
}

// Warp 0
// ---------------------------------------------------------------------------------------------------------------

struct ChainWeights {
  float layer_2[kColumns], layer_1[HEADS * kInner], reset[kColumns], update[kColumns], fresh[kColumns];
};

__device__ __forceinline__ void load_weights(ChainWeights& w, const Staged& staged, int lane) {
  load_column(w.reset, staged, 0, lane), load_column(w.update, staged, 1, lane), load_column(w.fresh, staged, 2, lane);
  load_column(w.layer_1, staged, 6, lane), load_column(w.layer_2, staged, 7, lane);
}

// A slot as this lane reads it.
struct Known {
  int gathered, prepared, open;
  float direct, virtual_;
  float weights[kLast];
  float4 factors;
};

// The flags first: where they say that a slot has come, what is read after them is what came.
__device__ __forceinline__ Known look_at(const Slot& slot, int lane) {
  Known known;
  known.gathered = announced(&slot.gathered), known.prepared = announced(&slot.prepared);
  known.direct = slot.direct[lane], known.virtual_ = slot.virtual_[lane];
  known.factors = slot.factors[lane], known.open = slot.open[lane];
#pragma unroll
  for (int i = 0; i < kLast; ++i) {
    known.weights[i] = slot.weights[i];
  }
  return known;
}

__device__ __forceinline__ bool has_come(const Known& known, int step) {
  return known.gathered == step + 1 && known.prepared == step + 1;
}

__device__ void walk(const Graph& graph, const ChainWeights& w) {
  Shared& s = *graph.shared;
  const int lane = graph.lane, steps = 2 * graph.count;
  const int head = min(lane / kInner, HEADS - 1);  // whose hidden layer this lane has a number of
  float last[kLast] = {};                          // nearest first
  Known known = look_at(s.ring[0], lane);
#pragma unroll 1
  for (int step = 0; step < steps; ++step) {
    Slot& slot = s.ring[step % kRing];
    while (!has_come(known, step)) {
      known = look_at(slot, lane);
    }
    float direct = known.direct, virtual_ = known.virtual_;
#pragma unroll
    for (int i = kLast - 1; i >= 0; --i) {
      add_gradient(direct, virtual_, known.weights[i], last[i]);
    }
    slot.messages[0][lane] = known.open & 1 ? direct : 0.0f;
    if (HEADS == 2) {
      slot.messages[HEADS - 1][lane] = known.open & 2 ? virtual_ : 0.0f;
    }
    __syncwarp();
    float x[kLanes];
    load_vector<kColumns>(reinterpret_cast<float (&)[kColumns]>(x), slot.messages[head]);
    const float inner = dot<kColumns>(w.layer_2, x, 0.0f);
    slot.inner[lane] = known.open & (1 << HEADS) ? inner : 0.0f;
    __syncwarp();
    load_vector<HEADS * kInner>(reinterpret_cast<float (&)[HEADS * kInner]>(x), slot.inner);
    const float state = dot<HEADS * kInner>(w.layer_1, x, known.factors.x);
    slot.gates[0][lane] = state * known.factors.y;
    slot.gates[1][lane] = state * known.factors.z;
    slot.gates[2][lane] = state * known.factors.w;
    slot.state[lane] = state;
    __syncwarp();
    // Long before it is needed: what comes from shared memory meanwhile costs nothing.
    known = look_at(s.ring[(step + 1) % kRing], lane);
    float of_gates[3];
    load_vector<kColumns>(reinterpret_cast<float (&)[kColumns]>(x), slot.gates[0]);
    of_gates[0] = dot<kColumns>(w.reset, x, 0.0f);
    load_vector<kColumns>(reinterpret_cast<float (&)[kColumns]>(x), slot.gates[1]);
    of_gates[1] = dot<kColumns>(w.update, x, 0.0f);
    load_vector<kColumns>(reinterpret_cast<float (&)[kColumns]>(x), slot.gates[2]);
    of_gates[2] = dot<kColumns>(w.fresh, x, 0.0f);
#pragma unroll
    for (int i = kLast - 1; i >= 1; --i) {
      last[i] = last[i - 1];
    }
    last[0] = (of_gates[0] + of_gates[1]) + of_gates[2];
    graph.received[(step >= graph.count ? step - graph.count : step) * kLanes + lane] = last[0];
    __syncwarp();
    if (lane == 0) {
      announce(&s.done, step + 1);
    }
  }
}

// Warp 1
// ---------------------------------------------------------------------------------------------------------------

// Behind the walking warp: gradients of the states that the GRU read, also through its hidden half.
__device__ void multiply(const Graph& graph, const Arguments& a, const Staged& staged) {
  Shared& s = *graph.shared;
  const int lane = graph.lane, steps = 2 * graph.count;
  float reset[kColumns], update[kColumns], fresh[kColumns];
  load_column(reset, staged, 3, lane), load_column(update, staged, 4, lane), load_column(fresh, staged, 5, lane);
  __syncthreads();  // gradients take the place of the weights
#pragma unroll 1
  for (int step = 0; step < steps; ++step) {
    const Slot& slot = s.ring[step % kRing];
    wait_for(&s.done, step + 1);
    const float2 others = slot.others[lane];
    const float state = slot.state[lane];
    s.of_hidden[lane] = state * others.x;
    __syncwarp();
    float x[3][kColumns];
    load_vector(x[0], slot.gates[0]), load_vector(x[1], slot.gates[1]), load_vector(x[2], s.of_hidden);
    const float of_reset = dot<kColumns>(reset, x[0], state * others.y);
    const float before = (of_reset + dot<kColumns>(update, x[1], 0.0f)) + dot<kColumns>(fresh, x[2], 0.0f);
    if (lane < HID) {
      (sweep_of(graph, step) == 1 ? a.grad_middle : a.grad_states)[node_of(graph, step) * HID + lane] = before;
    }
    __syncwarp();
    if (lane == 0) {
      announce(&s.multiplied, step + 1);
    }
  }
}

// Warp 4
// ---------------------------------------------------------------------------------------------------------------

// What the forward pass kept of a node, and the gradient of its state.
struct Kept {
  float reset, update, fresh, of_hidden, before, gradient, inner;
  float messages[HEADS];
};

__device__ __forceinline__ Kept kept_of(const Graph& graph, const Arguments& a, int step) {
  const int sweep = sweep_of(graph, step), lane = graph.lane;
  const long long node = node_of(graph, step), row = row_of(graph, a, step);
  Kept kept = {};
  if (lane < HID) {
    const float* gates = a.gates + row * 5 * HID + lane;
    kept.reset = gates[HID], kept.update = gates[2 * HID], kept.fresh = gates[3 * HID], kept.of_hidden = gates[4 * HID];
    kept.before = (sweep == 0 ? a.states : a.middle)[node * HID + lane];
    kept.gradient = (sweep == 0 ? a.grad_middle : a.grad_final)[node * HID + lane];
#pragma unroll
    for (int head = 0; head < HEADS; ++head) {
      kept.messages[head] = a.messages[(row * HEADS + head) * HID + lane];
    }
  }
  if (lane / kInner < HEADS && lane % kInner < WIDTH) {
    kept.inner = a.hidden[(row * HEADS + lane / kInner) * WIDTH + lane % kInner];
  }
  return kept;
}

// What the walking warp made of a step, for the gradients of weights.
__device__ __forceinline__ void store(const Graph& graph, const Arguments& a, int step) {
  const Slot& slot = graph.shared->ring[step % kRing];
  const long long row = row_of(graph, a, step);
  const int lane = graph.lane;
  if (lane < HID) {
    float* gates = a.grad_gates + row * 4 * HID + lane;
    gates[0] = slot.gates[0][lane], gates[HID] = slot.gates[1][lane], gates[2 * HID] = slot.gates[2][lane];
    gates[3 * HID] = slot.state[lane] * slot.others[lane].x;
#pragma unroll
    for (int head = 0; head < HEADS; ++head) {
      a.grad_messages[(row * HEADS + head) * HID + lane] = slot.messages[head][lane];
    }
  }
  if (lane / kInner < HEADS && lane % kInner < WIDTH) {
    a.grad_hidden[(row * HEADS + lane / kInner) * WIDTH + lane % kInner] = slot.inner[lane];
  }
}

// Empties slots and fills them.
__device__ void prepare(const Graph& graph, const Arguments& a) {
  Shared& s = *graph.shared;
  const int lane = graph.lane, steps = 2 * graph.count;
  Kept next = kept_of(graph, a, 0);
#pragma unroll 1
  for (int step = 0; step < steps + kRing; ++step) {
    if (step == graph.count) {  // all nodes have the gradients of the states between the sweeps
      wait_for(&s.multiplied, graph.count);
      next = kept_of(graph, a, step);
    }
    const Kept kept = next;
    if (step + 1 < steps && step + 1 != graph.count) {
      next = kept_of(graph, a, step + 1);
    }
    if (step >= kRing) {
      wait_for(&s.multiplied, step - kRing + 1);
      store(graph, a, step - kRing);
      __syncwarp();
    }
    if (step < steps) {
      const float of_fresh = (1.0f - kept.update) * (1.0f - kept.fresh * kept.fresh);
      const float of_update = (kept.before - kept.fresh) * kept.update * (1.0f - kept.update);
      const float of_reset = of_fresh * kept.of_hidden * kept.reset * (1.0f - kept.reset);
      int open = kept.inner > 0.0f ? 1 << HEADS : 0;
#pragma unroll
      for (int head = 0; head < HEADS; ++head) {
        open |= kept.messages[head] > 0.0f ? 1 << head : 0;
      }
      Slot& slot = s.ring[step % kRing];
      slot.factors[lane] = {kept.gradient, of_reset, of_update, of_fresh};
      slot.others[lane] = {of_fresh * kept.reset, kept.update};
      slot.open[lane] = open;
      __syncwarp();
      if (lane == 0) {
        announce(&slot.prepared, step + 1);
      }
    }
  }
}

// The other warps
// ------------------------------------------------------------------------------------------------------

// Adds the gradients of the receivers [begin, begin + kLanes) of a band, but those from `end` on: along edges by lanes,
// along virtual edges of each fourth one by quarters of them.
__device__ __forceinline__ void gather_some(const Graph& graph, const Band& band, int begin, int end, int closeness,
                                            int cutoff, int base, int& done, float& direct, float4& virtual_) {
  const float own = weight_of(closeness, cutoff);
  const int quarter = graph.lane / (kLanes / kQuad), part_of_row = graph.lane % (kLanes / kQuad);
  const float* rows = graph.received + (band.first + begin) * kLanes;
#pragma unroll
  for (int part = 0; part < kLanes; part += kTogether) {
    if (begin + part >= end) {
      break;
    }
    const int last = begin + part + kTogether < end ? begin + part + kTogether : end;
    while (done < base + band.first + last) {
      done = announced(&graph.shared->done);
    }
    if (HEADS == 2) {
      float4 gradients[kTogether / kQuad];
      float weights[kTogether / kQuad];
#pragma unroll
      for (int i = 0; i < kTogether / kQuad; ++i) {
        const int receiver = part + i * kQuad + quarter;
        gradients[i] = reinterpret_cast<const float4*>(rows + receiver * kLanes)[part_of_row];
        weights[i] = __shfl_sync(~0u, own, receiver);
      }
#pragma unroll
      for (int i = 0; i < kTogether / kQuad; ++i) {
        // What has no weight is not looked at: it may not be finite.
        const bool some = weights[i] > 0.0f;
        virtual_.x = some ? fmaf(weights[i], gradients[i].x, virtual_.x) : virtual_.x;
        virtual_.y = some ? fmaf(weights[i], gradients[i].y, virtual_.y) : virtual_.y;
        virtual_.z = some ? fmaf(weights[i], gradients[i].z, virtual_.z) : virtual_.z;
        virtual_.w = some ? fmaf(weights[i], gradients[i].w, virtual_.w) : virtual_.w;
      }
    }
  }
  for (unsigned edges = __ballot_sync(~0u, own > kAlmostOne); edges != 0; edges &= edges - 1) {
    direct += rows[(__ffs(edges) - 1) * kLanes + graph.lane];
  }
}

__device__ __forceinline__ float over_quarters(float x, int lane) {
  x += __shfl_sync(~0u, x, lane ^ 8);
  return x + __shfl_sync(~0u, x, lane ^ 16);
}

__device__ void gather(const Graph& graph, const Arguments& a, int gatherer) {
  Shared& s = *graph.shared;
  const int lane = graph.lane, steps = 2 * graph.count;
  int done = 0;
  Band next = gatherer < steps ? band_of(graph, a.bands, gatherer) : Band{};
#pragma unroll 1
  for (int step = gatherer; step < steps; step += kGatherers) {
    const Band band = next;
    const int base = step >= graph.count ? graph.count : 0, position = step - base;
    const int own = min(position - kLast - band.first, band.size);  // receivers that are added here
    // The receivers kLast before the node and nearer, in the first lanes.
    const int nearest = closeness_of(band, position - 1 - lane - band.first, lane < kLast ? band.size : 0);
    int closeness[kGroups];
#pragma unroll
    for (int group = 0; group < kGroups; ++group) {
      closeness[group] = closeness_of(band, group * kLanes + lane, own);
    }
    if (step + kGatherers < steps) {
      next = band_of(graph, a.bands, step + kGatherers);
    }
    float direct = 0.0f;
    float4 virtual_ = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll 1
    for (int begin = 0; begin < own; begin += kGroups * kLanes) {
      int ahead[kGroups];
#pragma unroll
      for (int group = 0; group < kGroups; ++group) {
        ahead[group] = closeness_of(band, begin + (kGroups + group) * kLanes + lane, own);
      }
#pragma unroll
      for (int group = 0; group < kGroups; ++group) {
        const int from = begin + group * kLanes;
        gather_some(graph, band, from, own, closeness[group], a.bands.cutoff, base, done, direct, virtual_);
        closeness[group] = ahead[group];
      }
    }
    virtual_ = {over_quarters(virtual_.x, lane), over_quarters(virtual_.y, lane), over_quarters(virtual_.z, lane),
                over_quarters(virtual_.w, lane)};
    while (done < step - kRing + 1) {
      done = announced(&s.done);
    }
    Slot& slot = s.ring[step % kRing];
    slot.direct[lane] = direct;
    if (lane < kLanes / kQuad) {
      reinterpret_cast<float4*>(slot.virtual_)[lane] = virtual_;
    }
    if (lane < kLast) {
      slot.weights[lane] = weight_of(nearest, a.bands.cutoff);
    }
    __syncwarp();
    if (lane == 0) {
      announce(&slot.gathered, step + 1);
    }
  }
}

extern "C" __global__ void __launch_bounds__(kWarps* kLanes, 1) chain_backward(const Arguments a) {
  extern __shared__ float4 dynamic[];
  Shared& shared = *reinterpret_cast<Shared*>(dynamic);
  void* rest = dynamic + FIXED / sizeof(float4);
  const Staged& staged = *static_cast<const Staged*>(rest);
  const int warp = threadIdx.x / kLanes, lane = threadIdx.x % kLanes;
  const long long begin = a.bands.graph_offsets[blockIdx.x];
  const int count = static_cast<int>(a.bands.graph_offsets[blockIdx.x + 1] - begin);
  const Graph graph = {{begin, count, lane}, &shared, static_cast<float*>(rest)};
  if (threadIdx.x < kRing) {
    shared.ring[threadIdx.x].gathered = shared.ring[threadIdx.x].prepared = 0;
  }
  if (threadIdx.x == 0) {
    shared.done = shared.multiplied = 0;
  }
  stage_weights(*static_cast<Staged*>(rest), a.weights);
  if (warp == 0) {
    ChainWeights weights;
    load_weights(weights, staged, lane);
    __syncthreads();  // gradients take the place of the weights
    walk(graph, weights);
  } else if (warp == 1) {
    multiply(graph, a, staged);
  } else {
    __syncthreads();
    if (warp == 4) {
      prepare(graph, a);
    } else {
      gather(graph, a, warp < 4 ? warp - 2 : warp - 3);
    }
  }
}
