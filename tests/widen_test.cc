// 8-bit floats: every pattern of bits against its definition, and scales rounded once.
#include "model/widen.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <vector>

#include "base/half.h"

namespace kineograph::model {
namespace {

std::vector<std::uint8_t> all_bytes() {
  std::vector<std::uint8_t> bytes(256);
  std::iota(bytes.begin(), bytes.end(), std::uint8_t{0});
  return bytes;
}

TEST(EightBits, AreTheirDefinition) {
  const std::vector<std::uint8_t> bytes = all_bytes();
  for (const auto& [dtype, mantissa, bias] : {std::tuple(DType::f8_e4m3fn, 3, 7), std::tuple(DType::f8_e5m2, 2, 15)}) {
    const Tensor wide = widened(TensorView(bytes.data(), dtype, Shape{256}), {});
    ASSERT_EQ(wide.dtype(), DType::f16);
    for (int i = 0; i < 256; ++i) {
      const float found = to_float(wide.data_as<f16>()[i]);
      const int exponent = (i & 0x7f) >> mantissa, fraction = i & ((1 << mantissa) - 1);
      const bool all_ones = exponent == (0x7f >> mantissa);
      double value = exponent == 0 ? std::ldexp(fraction, 1 - bias - mantissa)
                                   : std::ldexp((1 << mantissa) + fraction, exponent - bias - mantissa);
      if (dtype == DType::f8_e5m2 && all_ones) value = fraction == 0 ? INFINITY : NAN;
      if (dtype == DType::f8_e4m3fn && all_ones && fraction == 7) value = NAN;
      if (std::isnan(value))
        EXPECT_TRUE(std::isnan(found)) << i;
      else
        EXPECT_EQ(found, static_cast<float>((i & 0x80) != 0 ? -value : value)) << i;
    }
  }
}

TEST(EightBits, TakeAScaleForAllOrOneARow) {
  const std::vector<std::uint8_t> bytes = all_bytes();
  const TensorView weight(bytes.data(), DType::f8_e5m2, Shape{2, 60});
  const float one = 0.7f, rows[] = {0.3f, 1.9f};
  const Tensor plain = widened(weight, {});
  for (const TensorView& scale : {TensorView(&one, Shape{}), TensorView(&one, Shape{1}), TensorView(rows, Shape{2}),
                                  TensorView(rows, Shape{2, 1})}) {
    EXPECT_EQ(scale_problem(weight, scale), "");
    const Tensor scaled = widened(weight, scale);
    for (std::int64_t i = 0; i < weight.numel(); ++i) {
      const float factor = scale.numel() == 1 ? one : rows[i / 60];
      EXPECT_EQ(scaled.data_as<f16>()[i].bits, to_f16(to_float(plain.data_as<f16>()[i]) * factor).bits) << i;
    }
  }
}

TEST(EightBits, RefuseScalesThatTheyDoNotKnow) {
  const std::vector<std::uint8_t> bytes = all_bytes();
  const std::vector<float> scales(256, 1.0f);
  const TensorView weight(bytes.data(), DType::f8_e4m3fn, Shape{16, 16});
  EXPECT_NE(scale_problem(weight, TensorView(scales.data(), Shape{4, 4})), "");
  EXPECT_NE(scale_problem(weight, TensorView(scales.data(), Shape{1, 16})), "");
  EXPECT_NE(scale_problem(weight, TensorView(bytes.data(), DType::u8, Shape{})), "");
  EXPECT_NE(scale_problem(TensorView(scales.data(), Shape{16, 16}), TensorView(scales.data(), Shape{})), "");
  EXPECT_EQ(scaled_parameter("a.to_q.scale_weight"), "a.to_q.weight");
  EXPECT_EQ(scaled_parameter("a.to_q.weight_scale"), "a.to_q.weight");
  EXPECT_FALSE(scaled_parameter("a.to_q.weight"));
}

}  // namespace
}  // namespace kineograph::model
