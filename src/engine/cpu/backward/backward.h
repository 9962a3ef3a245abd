// Training: what a tile's walk forward and back needs beside the fused forward's.
#pragma once

#include <functional>
#include <vector>

#include "engine/conditioning.h"
#include "engine/cpu/call/call.h"
#include "engine/cpu/schedule/schedule.h"
#include "engine/dropout.h"

namespace kineograph::engine::cpu {

/// W for y = W x + b, and its transpose for d_x = W^T d_y.
struct TrainedLinear {
  PackedLinear forward, transposed;
};

/// A chunk of the feed-forward's hidden columns.
struct TrainedChunk {
  std::size_t first = 0, count = 0;
  PackedLinear in;  ///< values' rows, then (gated) gates' rows
  PackedLinear values_transposed, gates_transposed;
  TrainedLinear out;
};

struct TrainedBlock {
  TrainedLinear q[2], k[2], v[2], out[2];
  std::vector<TrainedChunk> chunks;
};

struct TrainedModel {
  bool gated = false;
  std::size_t hidden = 0, chunk = 0;  ///< hidden columns, and those of the widest chunk
  TrainedLinear proj_in, proj_out, out;
  std::vector<TrainedBlock> blocks;
};

TrainedModel pack_trained(const TransformerTemporalConfig& config, const Weights& weights, Arithmetic arithmetic,
                          std::size_t max_rows);

/// Sums over tokens of a norm's output gradient d_n: `along` of d_n h with h the normalised input, `plain` of d_n.
struct NormSums {
  std::vector<double> along, plain;
};

/// What tiles add to in turn, beside the gradients of linear layers. Within a tile each sum belongs to one thread.
struct BackwardSums {
  std::vector<NormSums> norms;                ///< [(layer * 3 + norm) * videos + video], I values each
  std::vector<std::vector<double>> gates;     ///< [(layer * 2 + (0: attn1, 1: ff)) * videos + video], I values each
  NormSums group_norm;                        ///< [set * C + c]
  NormSums norm_out;                          ///< discrete input
  std::vector<double> latent, height, width;  ///< gradients of the embeddings
  std::vector<double> encoder;                ///< of a conditioning per video, (B, S, D)
};

/// Values of the largest tile: [panel][channel][2N] each.
struct BackwardBuffers {
  std::vector<Buffer<float>> x;  ///< the input of every block
  Buffer<float> last;            ///< the last block's output, where norm_out reads it again
  Buffer<float> image;           ///< GroupNorm's output
  Buffer<float> x1, x2, n[3], q[2], k[2], v[2], attended[2];
  Buffer<float> y;  ///< a branch's output; then the gradient of what was attended, and of the queries
  Buffer<float> projected, hidden, d_hidden;
  Buffer<float> d_x, d_y, d_n, d_image;
  Buffer<float> context, d_context, transposed, moments;
  Buffer<float> operand;  ///< of a product in bf16: pairs of channels [panel][channel pair][2N]
  Buffer<float> paired;   ///< of a gradient in bf16: pairs of tokens [panel][row][N]
};

/// Words between two panels of BackwardBuffers::operand and ::paired: the widest rows there are.
inline std::size_t operand_panel(const Call& call, const TrainedModel& trained, std::size_t lanes) {
  const PackedModel& model = *call.model;
  const std::size_t widest = std::max({model.inner, model.channels, trained.chunk, call.context_dim, model.classes()});
  return pad_channels(widest) * lanes;
}

/// What training multiplies: bf16 pairs where the forward does, else f32, to which bf16 weights are widened.
inline Arithmetic trained_arithmetic(const PackedModel& model) {
  return is_paired(model.arithmetic) ? model.arithmetic : Arithmetic::f32;
}

struct BackwardCall {
  Call* call = nullptr;  ///< its group_ tables normalise without weight and bias; its output is the gradient's
  const TrainedModel* model = nullptr;
  const Conditioning* conditioning = nullptr;
  Image d_output;
  const engine::Gradients* gradients = nullptr;
  BackwardSums* sums = nullptr;
  bool forward_only = false;  ///< writes the output instead: a forward with dropout
};

/// The walk of training for one model: weights packed for it, and memory that is kept from call to call. Runs in the
/// caller's arena. How many threads there are never changes a bit.
class BackwardPlan {
 public:
  /// Both outlive it.
  BackwardPlan(const Weights& weights, const PackedModel& model, const Target& target);
  BackwardPlan(const BackwardPlan&) = delete;
  BackwardPlan& operator=(const BackwardPlan&) = delete;

  /// Writes `gradients`. `call` is described and modulated, its tables of GroupNorm have no weight and bias, and its
  /// output is the input's gradient or absent.
  void run(Call& call, const Conditioning& conditioning, const Gradients& gradients, const Image& d_output,
           int threads);
  /// A forward with dropout, by the same walk.
  void run_forward(Call& call, int threads);

 private:
  struct State {
    std::vector<BackwardBuffers> buffers;  ///< of a walker each
    BackwardSums sums;
  };
  TileShape tile_shape(const Call& call) const;
  void walk(const BackwardCall& backward, State& state, int threads);

  const Weights& weights_;
  const PackedModel& model_;
  const Target& target_;
  TrainedModel trained_;
  WorkspacePool workspaces_;
  Pool<State> states_;
};

}  // namespace kineograph::engine::cpu
