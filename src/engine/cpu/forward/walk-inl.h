// A tile's walk through all layers: gather, proj_in, blocks, proj_out, residual, scatter.
#if defined(KINEOGRAPH_CPU_FORWARD_WALK_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KINEOGRAPH_CPU_FORWARD_WALK_INL_H_
#undef KINEOGRAPH_CPU_FORWARD_WALK_INL_H_
#else
#define KINEOGRAPH_CPU_FORWARD_WALK_INL_H_
#endif

#include <bit>
#include <cmath>
#include <string>

#include "engine/cpu/call/call.h"
#include "engine/cpu/kernels/attention-inl.h"
#include "engine/cpu/kernels/gemm-inl.h"
#include "engine/cpu/kernels/norm-inl.h"
#include "engine/cpu/tile/from_image-inl.h"
#include "engine/cpu/tile/image-inl.h"
#include "engine/cpu/tile/to_image-inl.h"

KINEOGRAPH_BEFORE_NAMESPACE
namespace kineograph::engine::cpu::HWY_NAMESPACE {

template <Arithmetic kArithmetic>
class Walk {
 public:
  Walk(const Call& call, const Tile& tile, Team& team, Workspace& own)
      : call_(call), model_(*call.model), tile_(tile), shape_(tile.shape), team_(team), own_(own) {
    for (std::size_t g = 0; g < shape_.runs; ++g) runs_[g] = LocateRun(call, tile, g);
    video_ = tile.first / call.pixels;
  }

  /// `gathered`: the walk of another tile has left this one's normalised input in own.attended. Returns whether this
  /// one leaves that of the next.
  bool Run(bool gathered, TileSource* source) {
    if (model_.config.is_discrete())
      Embed();
    else
      ProjectIn(gathered);
    for (std::size_t layer = 0; layer < model_.blocks.size(); ++layer) {
      for (std::size_t a = 0; a < 2; ++a)
        if (!model_.blocks[layer].attn[a].out.empty()) AttentionPhase(layer, a);
      if (layer + 1 == model_.blocks.size()) Invite(source);
      FeedForwardPhase(layer);
    }
    if (model_.config.is_discrete())
      Classify();
    else
      ProjectOut();
    return arrival_.Finish();
  }

 private:
  std::size_t InnerRows() const { return pad_channels(model_.inner); }
  std::size_t XPanel() const { return InnerRows() * kPanel; }
  static std::size_t OperandPanel(std::size_t channels) { return pad_channels(channels) / 2 * kPairWords<kArithmetic>; }
  const Modulation& Modulate(std::size_t layer) const { return call_.modulation(layer, video_); }
  float* X(std::size_t panel) const { return own_.x.data() + panel * XPanel(); }

  template <class Work>
  void Panels(Work&& work) {
    team_.for_ranges(shape_.panels(), [&](std::size_t begin, std::size_t end, Workspace& mine) {
      work(PanelRange{begin, end}, mine);
    });
  }

  /// Input -> normalised operands -> proj_in -> x.
  void ProjectIn(bool gathered) {
    Panels([&](PanelRange panels, Workspace&) {
      if (!gathered) DispatchPixels(call_.input.dtype, [&]<class T>(T) { Gather<T>(panels); });
      Gemm<kArithmetic>(model_.proj_in, own_.attended.data(), OperandPanel(model_.channels), panels,
                        ToRows<Sum::store>{own_.x.data(), XPanel()});
    });
  }

  template <class T>
  void Gather(PanelRange panels) {
    for (std::size_t panel = panels.begin; panel < panels.end; ++panel)
      GatherRows<kArithmetic, T>(call_, PanelPlaces(runs_, shape_, panel), 0, model_.channels,
                                 own_.attended.data() + panel * OperandPanel(model_.channels));
  }

  /// The input of the tile that this thread takes next begins to come in.
  void Invite(TileSource* source) {
    if (source == nullptr || model_.config.is_discrete()) return;
    std::size_t blocks = 0;
    for (const PackedLinear& chunk : model_.blocks.back().ff_in) blocks += chunk.blocks.size();
    if (const Tile* const next = source->next())
      arrival_.Start(call_, *next, own_.attended.data(), shape_.panels() * blocks);
  }

  void Normalise(std::size_t layer, std::size_t which, PanelRange panels) {
    const Affine& affine = Modulate(layer).norm[which];
    for (std::size_t panel = panels.begin; panel < panels.end; ++panel) {
      const auto shift = [&](std::size_t slot) {
        return affine.shift + shape_.frame_of(2 * panel + slot) * affine.frame_stride;
      };
      LayerNormPanel<kArithmetic>(X(panel), model_.inner, model_.blocks[layer].norm_epsilon[which], affine.scale,
                                  shift(0), shift(1), own_.normed.data() + panel * OperandPanel(model_.inner));
    }
  }

  void AttentionPhase(std::size_t layer, std::size_t which) {
    const PackedAttention& attention = model_.blocks[layer].attn[which];
    const bool conditioned = which == 1 && call_.context_tokens != 0;
    Panels([&](PanelRange panels, Workspace&) { Normalise(layer, which, panels); });
    if (conditioned && call_.pixel_context.data != nullptr && layer == 0) GatherContext();
    if (AttentionProcessor* processor = call_.processors.empty() ? nullptr : call_.processors[2 * layer + which]) {
      ProcessedHeads(layer, which, conditioned, *processor);
    } else {
      // Heads of odd width share words of bf16 pairs: one thread writes them all.
      const bool shared_words = is_paired(kArithmetic) && model_.head_dim % 2 == 1;
      team_.for_each(shared_words ? 1 : model_.heads, [&](std::size_t begin, std::size_t end, Workspace& mine) {
        if (shared_words) end = model_.heads;
        for (std::size_t head = begin; head < end; ++head) {
          if (conditioned && call_.pixel_context.data == nullptr)
            SharedContextHead(layer, head, mine);
          else
            OwnHead(attention, conditioned, head, mine);
        }
      });
    }
    const float* gate = which == 0 ? Modulate(layer).gate_attn1 : nullptr;
    Panels([&](PanelRange panels, Workspace&) {
      AddToResidual(attention.out, own_.attended.data(), OperandPanel(model_.inner), panels, gate);
    });
  }

  void AddToResidual(const PackedLinear& linear, const std::uint32_t* x, std::size_t x_panel_words, PanelRange panels,
                     const float* gate) {
    if (gate == nullptr)
      Gemm<kArithmetic>(linear, x, x_panel_words, panels, ToRows<Sum::add>{own_.x.data(), XPanel()});
    else
      Gemm<kArithmetic>(linear, x, x_panel_words, panels, ToGatedRows{own_.x.data(), XPanel(), gate});
  }

  float Scale() const { return 1.0f / std::sqrt(static_cast<float>(model_.head_dim)); }

  /// Rows of one head's q, k and v, as they lie in a workspace.
  struct HeadBuffers {
    const float *query, *key, *value;
    std::size_t query_panel, key_panel, keys;
  };

  /// Projects one head: q of the frames; k and v of the frames too, or of a per-pixel conditioning.
  HeadBuffers ProjectHead(const PackedAttention& attention, bool conditioned, std::size_t head, Workspace& mine) {
    const PackedLinear &query = attention.query[head], &kv = attention.kv[head];
    const std::size_t q_panel = query.rows * kPanel, kv_panel = kv.rows * kPanel;
    const std::size_t keys = conditioned ? call_.context_tokens : call_.frames;
    float* q = mine.qkv.data();
    float* k = q + shape_.panels() * q_panel;
    Gemm<kArithmetic>(query, own_.normed.data(), OperandPanel(model_.inner), {0, shape_.panels()},
                      ToRows<Sum::store>{q, q_panel});
    Gemm<kArithmetic>(kv, conditioned ? own_.context.data() : own_.normed.data(),
                      OperandPanel(conditioned ? call_.context_dim : model_.inner), {0, (keys * shape_.runs + 1) / 2},
                      ToRows<Sum::store>{k, kv_panel});
    return {q, k, k + model_.head_dim * kPanel, q_panel, kv_panel, keys};
  }

  /// One head whose keys and values belong to the pixel: the frames themselves, or a per-pixel conditioning.
  void OwnHead(const PackedAttention& attention, bool conditioned, std::size_t head, Workspace& mine) {
    const auto output = [&](std::size_t run) {
      return HeadOutput<kArithmetic>{own_.attended.data(), OperandPanel(model_.inner), head * model_.head_dim,
                                     shape_.runs, run};
    };
    // Where there is a matrix unit, dot products of vectors are slower than multiply-adds.
    if constexpr (kArithmetic == Arithmetic::bf16) {
      if (model_.head_dim % 2 == 0) return OwnHeadInPairs(attention, conditioned, head, output, mine);
    }
    const HeadBuffers h = ProjectHead(attention, conditioned, head, mine);
    for (std::size_t g = 0; g < shape_.runs; ++g)
      AttendHead(HeadRows{h.query, h.query_panel, shape_.runs, g}, call_.frames,
                 HeadRows{h.key, h.key_panel, shape_.runs, g}, HeadRows{h.value, h.key_panel, shape_.runs, g}, h.keys,
                 model_.head_dim, Scale(), mine.scores.data(), output(g));
  }

  /// Queries and keys become pairs as soon as they are computed.
  template <class OutputOf>
  void OwnHeadInPairs(const PackedAttention& attention, bool conditioned, std::size_t head, const OutputOf& output,
                      Workspace& mine) {
    const std::size_t d = model_.head_dim, keys = conditioned ? call_.context_tokens : call_.frames;
    const std::size_t key_panels = (keys * shape_.runs + 1) / 2;
    const std::size_t pair_panel = d / 2 * kPanel, value_panel = d * kPanel;
    const bool neighbours = shape_.runs == 1;
    float* const query = mine.qkv.data();
    float* const key = query + shape_.panels() * pair_panel;
    float* const value_pairs = key + key_panels * pair_panel;
    float* const value = value_pairs + round_up(keys, 4) / 4 * value_panel;
    Gemm<kArithmetic>(attention.query[head], own_.normed.data(), OperandPanel(model_.inner), {0, shape_.panels()},
                      ToPairs{query, d, nullptr, 0, false});
    Gemm<kArithmetic>(attention.kv[head], conditioned ? own_.context.data() : own_.normed.data(),
                      OperandPanel(conditioned ? call_.context_dim : model_.inner), {0, key_panels},
                      ToPairs{key, d, neighbours ? value_pairs : value, d, neighbours});
    for (std::size_t g = 0; g < shape_.runs; ++g) {
      if (!neighbours) PairValues(HeadRows{value, value_panel, shape_.runs, g}, keys, d, value_pairs);
      AttendHeadInPairs(HeadRows{query, pair_panel, shape_.runs, g}, call_.frames,
                        HeadRows{key, pair_panel, shape_.runs, g}, value_pairs, keys, d, Scale(), mine.scores.data(),
                        output(g));
    }
  }

  /// One head whose keys and values are the video's: both products are GEMMs with packed keys and values, in f32.
  void SharedContextHead(std::size_t layer, std::size_t head, Workspace& mine) {
    const PackedLinear& query = model_.blocks[layer].attn[1].query[head];
    const SharedContext& context = call_.shared_context[layer * call_.videos + video_];
    const std::size_t panel_floats = query.rows * kPanel;
    const std::size_t keys = context.keys[head].rows;  // padded
    float* q = mine.qkv.data();
    Gemm<kArithmetic>(query, own_.normed.data(), OperandPanel(model_.inner), {0, shape_.panels()},
                      ToRows<Sum::store>{q, panel_floats});
    for (std::size_t panel = 0; panel < shape_.panels(); ++panel) {
      float* scores = mine.scores.data();
      const auto* operand = reinterpret_cast<const std::uint32_t*>(q + panel * panel_floats);
      Gemm<Arithmetic::f32>(context.keys[head], operand, 0, {0, 1}, ToRows<Sum::store>{scores, 0});
      for (std::size_t slot = 0; slot < 2; ++slot)
        SoftmaxLanes(scores + slot * kLanes, call_.context_tokens, kPanel, Scale());
      std::fill(scores + call_.context_tokens * kPanel, scores + keys * kPanel, 0.0f);
      float* out = scores + keys * kPanel;
      Gemm<Arithmetic::f32>(context.values[head], reinterpret_cast<const std::uint32_t*>(scores), 0, {0, 1},
                            ToRows<Sum::store>{out, 0});
      for (std::size_t slot = 0; slot < 2 && 2 * panel + slot < shape_.vectors(); ++slot) {
        const std::size_t v = 2 * panel + slot;
        const HeadOutput<kArithmetic> output{own_.attended.data(), OperandPanel(model_.inner), head * model_.head_dim,
                                             shape_.runs, v % shape_.runs};
        std::size_t e = 0;
        for (; e + 2 <= model_.head_dim; e += 2) {
          const Vec pair[2] = {hn::Load(D(), out + e * kPanel + slot * kLanes),
                               hn::Load(D(), out + (e + 1) * kPanel + slot * kLanes)};
          output.Store(v / shape_.runs, e, pair);
        }
        if (e < model_.head_dim) {
          const Vec last[1] = {hn::Load(D(), out + e * kPanel + slot * kLanes)};
          output.Store(v / shape_.runs, e, last);
        }
      }
    }
  }

  /// Per-pixel conditioning (B*H*W, S, D) -> operands, token by token like frames.
  void GatherContext() {
    const PixelContext& from = call_.pixel_context;
    const std::size_t vectors = call_.context_tokens * shape_.runs;
    const auto value = [&](std::size_t v, std::size_t lane, std::size_t c) {
      const PixelRun& g = runs_[v % shape_.runs];
      if (lane >= g.valid || c >= call_.context_dim) return 0.0f;
      const auto row = static_cast<std::int64_t>(tile_.first + v % shape_.runs * kLanes + lane);
      const std::int64_t at = row * from.stride_row + static_cast<std::int64_t>(v / shape_.runs) * from.stride_token +
                              static_cast<std::int64_t>(c) * from.stride_channel;
      float result = 0.0f;
      DispatchPixels(from.dtype, [&]<class T>(T) { result = to_float(reinterpret_cast<const T*>(from.data)[at]); });
      return result;
    };
    team_.for_ranges((vectors + 1) / 2, [&](std::size_t begin, std::size_t end, Workspace&) {
      HWY_ALIGN float even[kLanes], odd[kLanes];
      for (std::size_t v = 2 * begin; v < 2 * end; ++v) {
        std::uint32_t* row = own_.context.data() + v / 2 * OperandPanel(call_.context_dim) + v % 2 * kLanes;
        for (std::size_t c = 0; c < call_.context_dim; c += 2, row += kPairWords<kArithmetic>) {
          for (std::size_t lane = 0; lane < kLanes; ++lane) {
            even[lane] = v < vectors ? value(v, lane, c) : 0.0f;
            odd[lane] = v < vectors ? value(v, lane, c + 1) : 0.0f;
          }
          StoreOperandPair<kArithmetic>(hn::Load(D(), even), hn::Load(D(), odd), row);
        }
      }
    });
  }

  /// The slower road: copies q, k, v into the layout of AttentionCall, lets the processor write, and copies back.
  void ProcessedHeads(std::size_t layer, std::size_t which, bool conditioned, AttentionProcessor& processor) {
    const PackedAttention& attention = model_.blocks[layer].attn[which];
    const std::size_t d = model_.head_dim, heads = model_.heads, frames = call_.frames, count = tile_.count;
    const bool shared = conditioned && call_.pixel_context.data == nullptr;
    const std::size_t keys = conditioned ? call_.context_tokens : frames;
    const auto extent = [](std::size_t n) { return static_cast<std::int64_t>(n); };
    Tensor query(DType::f32, {extent(count), extent(heads), extent(frames), extent(d)}), output = query;
    Tensor key(DType::f32, {extent(count), extent(heads), extent(keys), extent(d)}), value = key;
    const auto copy = [&](const float* from, std::size_t panel_floats, std::size_t tokens, std::size_t head,
                          Tensor& to) {
      for (std::size_t p = 0; p < count; ++p) {
        const HeadRows rows{from, panel_floats, shape_.runs, p / kLanes};
        for (std::size_t t = 0; t < tokens; ++t)
          for (std::size_t e = 0; e < d; ++e)
            to.data_as<float>()[((p * heads + head) * tokens + t) * d + e] = rows(t)[e * kPanel + p % kLanes];
      }
    };
    for (std::size_t head = 0; head < heads; ++head) {
      if (!shared) {
        const HeadBuffers h = ProjectHead(attention, conditioned, head, own_);
        copy(h.query, h.query_panel, frames, head, query);
        copy(h.key, h.key_panel, keys, head, key);
        copy(h.value, h.key_panel, keys, head, value);
        continue;
      }
      const std::size_t panel_floats = attention.query[head].rows * kPanel;
      Gemm<kArithmetic>(attention.query[head], own_.normed.data(), OperandPanel(model_.inner), {0, shape_.panels()},
                        ToRows<Sum::store>{own_.qkv.data(), panel_floats});
      copy(own_.qkv.data(), panel_floats, frames, head, query);
      const SharedContext& context = call_.shared_context[layer * call_.videos + video_];
      for (std::size_t p = 0; p < count; ++p)
        for (std::size_t t = 0; t < keys; ++t)
          for (std::size_t e = 0; e < d; ++e) {
            const std::size_t at = ((p * heads + head) * keys + t) * d + e;
            key.data_as<float>()[at] = PackedWeight(context.keys[head], t, e);
            value.data_as<float>()[at] = PackedWeight(context.values[head], e, t);
          }
    }
    AttentionCall arguments;
    const std::string name = "transformer_blocks." + std::to_string(layer) + ".attn" + std::to_string(which + 1);
    arguments.name = name;
    arguments.layer = extent(layer);
    arguments.attention = extent(which + 1);
    arguments.video = extent(video_);
    arguments.num_videos = extent(call_.videos);
    arguments.first_pixel = extent(tile_.first % call_.pixels);
    arguments.num_pixels = extent(call_.pixels);
    arguments.scale = 1.0 / std::sqrt(static_cast<double>(d));
    arguments.query = query;
    arguments.key = key;
    arguments.value = value;
    arguments.output = output.mutable_view();
    arguments.cross_attention_kwargs = call_.inputs->cross_attention_kwargs;
    arguments.forward = call_.inputs->forward;
    processor(arguments);
    HWY_ALIGN float lanes[kLanes];
    for (std::size_t g = 0; g < shape_.runs; ++g)
      for (std::size_t head = 0; head < heads; ++head)
        for (std::size_t f = 0; f < frames; ++f)
          for (std::size_t e = 0; e < d; ++e) {
            for (std::size_t lane = 0; lane < kLanes; ++lane) {
              const std::size_t p = g * kLanes + lane;
              lanes[lane] = p < count ? output.data_as<float>()[((p * heads + head) * frames + f) * d + e] : 0.0f;
            }
            const Vec one[1] = {hn::Load(D(), lanes)};
            HeadOutput<kArithmetic>{own_.attended.data(), OperandPanel(model_.inner), head * d, shape_.runs, g}.Store(
                f, e, one);
          }
  }

  static float PackedWeight(const PackedLinear& linear, std::size_t row, std::size_t col) {
    for (const auto& block : linear.blocks)
      if (row < block.row + block.rows)
        return std::bit_cast<float>(linear.weights[block.offset + col * block.rows + (row - block.row)]);
    return 0.0f;
  }

  void FeedForwardPhase(std::size_t layer) {
    DispatchActivation(model_.config.activation_fn, [&]<Activation kActivation>() { FeedForward<kActivation>(layer); });
  }

  template <Activation kActivation>
  void FeedForward(std::size_t layer) {
    const PackedBlock& block = model_.blocks[layer];
    const std::size_t hidden_panel = OperandPanel(model_.hidden_chunk);
    const bool leaves = layer + 1 == model_.blocks.size() && !model_.config.is_discrete();
    // A phase a chunk, so that help is never far off.
    for (std::size_t chunk = 0; chunk < block.ff_in.size(); ++chunk)
      Panels([&](PanelRange panels, Workspace& mine) {
        if (chunk == 0) Normalise(layer, 2, panels);
        Gemm<kArithmetic>(
            block.ff_in[chunk], own_.normed.data(), OperandPanel(model_.inner), panels,
            ToHidden<kArithmetic, kActivation, Arrival<kArithmetic>>{
                mine.block.data(), mine.hidden.data(), hidden_panel, &mine == &own_ ? &arrival_ : nullptr});
        const float* gate = Modulate(layer).gate_ff;
        if (is_paired(kArithmetic) && leaves && chunk + 1 == block.ff_in.size())
          Gemm<kArithmetic>(block.ff_out[chunk], mine.hidden.data(), hidden_panel, panels,
                            ToLastPairs{own_.x.data(), XPanel(), gate, own_.normed.data()});
        else
          AddToResidual(block.ff_out[chunk], mine.hidden.data(), hidden_panel, panels, gate);
      });
  }

  void ProjectOut() {
    DispatchPixels(call_.input.dtype, [&]<class In>(In) {
      DispatchPixels(call_.output.dtype, [&]<class Out>(Out) {
        Panels([&](PanelRange panels, Workspace& mine) {
          const std::uint32_t* operand = reinterpret_cast<const std::uint32_t*>(own_.x.data());
          if constexpr (is_paired(kArithmetic)) {
            if (model_.blocks.empty()) RoundResidual(panels);
            operand = own_.normed.data();
          }
          ToImage<kArithmetic, In, Out> output(call_, runs_, shape_, mine.block.data());
          Gemm<kArithmetic>(model_.proj_out, operand, OperandPanel(model_.inner), panels, output);
          output.Finish();
        });
      });
    });
  }

  /// The residual stream as bf16 operands, where otherwise the last block leaves them.
  void RoundResidual(PanelRange panels) {
    for (std::size_t panel = panels.begin; panel < panels.end; ++panel)
      PairRows(X(panel), InnerRows(), own_.normed.data() + panel * OperandPanel(model_.inner));
  }

  /// Discrete input: class embedding + row embedding + column embedding -> x.
  void Embed() {
    const std::size_t inner = model_.inner;
    Panels([&](PanelRange panels, Workspace&) {
      for (std::size_t v = 2 * panels.begin; v < 2 * panels.end; ++v) {
        const std::size_t frame = shape_.frame_of(v);
        float* x = X(v / 2) + v % 2 * kLanes;
        for (std::size_t lane = 0; lane < kLanes; ++lane) {
          // Lanes without a pixel repeat the tile's first.
          const std::size_t p = v % shape_.runs * kLanes + lane;
          const std::size_t flat = tile_.first + (p < tile_.count ? p : 0);
          const std::size_t video = flat / call_.pixels, pixel = flat % call_.pixels;
          const auto& classes = call_.inputs->hidden_states;
          const auto id = static_cast<std::size_t>(
              classes.template data_as<std::int64_t>()[static_cast<std::int64_t>(video * call_.frames + frame) *
                                                           classes.strides()[0] +
                                                       static_cast<std::int64_t>(pixel) * classes.strides()[1]]);
          const float* emb = model_.latent_emb.data() + id * inner;
          const float* row = model_.latent_height_emb.data() + pixel / call_.width * inner;
          const float* col = model_.latent_width_emb.data() + pixel % call_.width * inner;
          for (std::size_t c = 0; c < inner; ++c) x[c * kPanel + lane] = emb[c] + (row[c] + col[c]);
        }
      }
    });
  }

  /// norm_out, out and log_softmax over the classes, panel by panel.
  void Classify() {
    const std::size_t classes = model_.classes();
    Panels([&](PanelRange panels, Workspace& mine) {
      for (std::size_t panel = panels.begin; panel < panels.end; ++panel) {
        LayerNormPanel<kArithmetic>(X(panel), model_.inner, 1e-5f, model_.norm_out_scale.data(),
                                    model_.norm_out_shift.data(), model_.norm_out_shift.data(),
                                    own_.normed.data() + panel * OperandPanel(model_.inner));
        float* logits = mine.scores.data();
        Gemm<kArithmetic>(model_.out, own_.normed.data(), OperandPanel(model_.inner), {panel, panel + 1},
                          ToRows<Sum::store>{logits, 0});
        for (std::size_t slot = 0; slot < 2 && 2 * panel + slot < shape_.vectors(); ++slot)
          LogSoftmax(logits + slot * kLanes, classes, 2 * panel + slot);
      }
    });
  }

  void LogSoftmax(float* logits, std::size_t classes, std::size_t v) {
    const std::size_t run = v % shape_.runs, frame = v / shape_.runs;
    const PixelRun& g = runs_[run];
    auto* to = reinterpret_cast<float*>(call_.output.data);
    for (std::size_t lane = 0; lane < g.valid; ++lane) {
      float most = logits[lane];
      for (std::size_t k = 1; k < classes; ++k) most = std::max(most, logits[k * kPanel + lane]);
      double sum = 0.0;
      for (std::size_t k = 0; k < classes; ++k) sum += std::exp(static_cast<double>(logits[k * kPanel + lane] - most));
      const double log_sum = std::log(sum);
      for (std::size_t k = 0; k < classes; ++k)
        to[g.output[lane] + static_cast<std::int64_t>(frame) * call_.output.stride_n +
           static_cast<std::int64_t>(k) * call_.output.stride_c] =
            static_cast<float>(static_cast<double>(logits[k * kPanel + lane] - most) - log_sum);
    }
  }

  const Call& call_;
  const PackedModel& model_;
  const Tile& tile_;
  TileShape shape_;
  Team& team_;
  Workspace& own_;
  PixelRun runs_[kMaxRuns];
  Arrival<kArithmetic> arrival_;  ///< the owner's alone
  std::size_t video_ = 0;         ///< of the whole tile, unless tiles span videos, when nothing depends on it
};

}  // namespace kineograph::engine::cpu::HWY_NAMESPACE
KINEOGRAPH_AFTER_NAMESPACE

#endif
