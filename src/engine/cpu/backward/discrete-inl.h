// Discrete input and its classes, on the way there and back: plain loops around the products.
#if defined(KINEOGRAPH_CPU_BACKWARD_DISCRETE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KINEOGRAPH_CPU_BACKWARD_DISCRETE_INL_H_
#undef KINEOGRAPH_CPU_BACKWARD_DISCRETE_INL_H_
#else
#define KINEOGRAPH_CPU_BACKWARD_DISCRETE_INL_H_
#endif

#include "engine/cpu/backward/feed_forward-inl.h"

KINEOGRAPH_BEFORE_NAMESPACE
namespace kineograph::engine::cpu::HWY_NAMESPACE {

class BackwardDiscrete : public BackwardFeedForward {
 protected:
  using BackwardFeedForward::BackwardFeedForward;

  void Embed() {
    const Rows x = WriteInputOf(0);
    Panels([&](PanelRange range, const Worker&) { EmbedPanels(x, range); });
  }

  void EmbedBackward() {
    const auto d_x = Read<Value::d_x>();
    BackwardSums& sums = *backward_.sums;
    turns_.in_turn([&] {
      EachToken({0, panels_}, [&](std::size_t panel, std::size_t lane, std::size_t row, std::size_t pixel) {
        const std::size_t id = ClassAt(row, pixel);
        for (std::size_t c = 0; c < inner_; ++c) {
          const auto d = static_cast<double>(d_x(panel)[c * kPanel + lane]);
          sums.latent[id * inner_ + c] += d;
          sums.height[(call_.first_row + pixel / call_.width) * inner_ + c] += d;
          sums.width[pixel % call_.width * inner_ + c] += d;
        }
      });
    });
  }

  void Classify() {
    const Rows logits = Logits();
    Panels([&](PanelRange range, const Worker&) { WriteClasses(logits, range); });
  }

  void ClassifyBackward() {
    const Rows logits = Logits();
    const std::size_t classes = model_.classes();
    const auto last = Read<Value::last_output>();
    const auto n = Read<Value::normed_out>();
    const auto d_logits = Write<Value::d_logits>();
    const auto d_n = Write<Value::d_normed>();
    const auto d_x = Write<Value::d_x>();
    Panels([&](PanelRange range, const Worker&) { LogitsBackward(logits, d_logits, range); });
    const WeightGradients& to = backward_.gradients->weights;
    const Turned turned = Turn(Value::normed_out);
    if (to.out.weight) Transpose(n, inner_, panels_);
    AddGradients(turned, {Whole(to.out, inner_, d_logits)}, classes, inner_, panels_);
    Product<Sum::store>(trained_.out.transposed, d_logits, d_n, panels_);
    std::fill_n(d_x.data, panels_ * d_x.panel, 0.0f);
    Panels([&](PanelRange range, const Worker&) {
      for (std::size_t panel = range.begin; panel < range.end; ++panel)
        LayerNormBackwardPanel(last(panel), d_n(panel), inner_, static_cast<float>(kNormOutEpsilon),
                               model_.norm_out_scale.data(), d_x(panel), at_.moments.data() + panel * 2 * kPanel);
    });
    AddNormSums(backward_.sums->norm_out, last, d_n);
    // norm_out's output took norm1's place; recompute attn1 to restore it.
    if (!trained_.blocks.empty()) AttentionForward(0);
  }

 private:
  /// norm_out and out.
  Rows Logits() {
    const auto last = Read<Value::last_output>();
    const auto n = Write<Value::normed_out>();
    const auto logits = Write<Value::logits>();
    Panels([&](PanelRange range, const Worker&) {
      for (std::size_t panel = range.begin; panel < range.end; ++panel)
        NormaliseOutPanel<Arithmetic::f32>(last, AsOperands(n), panel);
      ProductOf<Sum::store>(trained_.out.forward, n, logits, range);
    });
    return logits;
  }

  /// d_logits = d_y - softmax(logits) sum(d_y), in the logits' place; zeros for lanes without a token.
  void LogitsBackward(const Rows& logits, const Rows& d_logits, PanelRange range) const {
    const Image& gradient = backward_.d_output;
    std::vector<float> d(model_.classes());
    EachToken(range, [&](std::size_t panel, std::size_t lane, std::size_t row, std::size_t pixel) {
      const float* at = logits(panel) + lane;
      const LogSum log_probability = LogSumOf(at);
      double total = 0.0;
      DispatchPixels(gradient.dtype, [&]<class T>(T) {
        const T* from = reinterpret_cast<const T*>(gradient.data) + static_cast<std::int64_t>(row) * gradient.stride_n +
                        static_cast<std::int64_t>(pixel) * gradient.stride_w;
        for (std::size_t k = 0; k < d.size(); ++k) {
          d[k] = to_float(from[static_cast<std::int64_t>(k) * gradient.stride_c]);
          total += static_cast<double>(d[k]);
        }
      });
      for (std::size_t k = 0; k < d.size(); ++k)
        d_logits(panel)[k * kPanel + lane] =
            static_cast<float>(static_cast<double>(d[k]) - std::exp(log_probability(at[k * kPanel])) * total);
    });
    for (std::size_t v = 2 * range.begin; v < 2 * range.end; ++v)
      for (std::size_t lane = v < shape_.vectors() ? runs_[v % shape_.runs].valid : 0; lane < kLanes; ++lane)
        for (std::size_t k = 0; k < pad_channels(d.size()); ++k)
          d_logits(v / 2)[k * kPanel + v % 2 * kLanes + lane] = 0.0f;
  }
};

}  // namespace kineograph::engine::cpu::HWY_NAMESPACE
KINEOGRAPH_AFTER_NAMESPACE

#endif
