#include "video/npy.h"

#include <gtest/gtest.h>

#include <cstring>
#include <sstream>
#include <string>
#include <vector>

#include "kineograph/error.h"

namespace kineograph::video {
namespace {

std::string file_of(std::string header, const std::string& data, char version = 1) {
  header += '\n';
  std::string file = "\x93NUMPY";
  file += version;
  file += '\0';
  const int length_bytes = version == 1 ? 2 : 4;
  for (int i = 0; i < length_bytes; ++i) file += static_cast<char>(header.size() >> (8 * i) & 0xff);
  return file + header + data;
}

Tensor read(const std::string& bytes) {
  std::istringstream in(bytes);
  return read_npy(in, "clip.npy");
}

std::string floats(const std::vector<float>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)};
}

// The message of the FormatError that reading throws.
std::string refusal(const std::string& bytes) {
  try {
    read(bytes);
  } catch (const FormatError& error) {
    return error.what();
  }
  return "accepted";
}

TEST(Npy, ReadsRowMajor) {
  const Tensor array =
      read(file_of("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }", floats({0, 1, 2, 3, 4, 5})));
  EXPECT_EQ(array.dtype(), DType::f32);
  EXPECT_EQ(array.shape(), Shape({2, 3}));
  for (int i = 0; i < 6; ++i) EXPECT_EQ(array.data_as<float>()[i], static_cast<float>(i));
}

TEST(Npy, ReadsFortranOrderAsRowMajor) {
  const Tensor array =
      read(file_of("{'descr': '<f4', 'fortran_order': True, 'shape': (2, 3), }", floats({0, 3, 1, 4, 2, 5})));
  EXPECT_EQ(array.shape(), Shape({2, 3}));
  for (int i = 0; i < 6; ++i) EXPECT_EQ(array.data_as<float>()[i], static_cast<float>(i));
}

TEST(Npy, ReadsEveryVersion) {
  for (char version : {1, 2, 3})
    EXPECT_EQ(read(file_of("{'descr': '<f4', 'fortran_order': False, 'shape': (1,)}", floats({7}), version))
                  .data_as<float>()[0],
              7)
        << int(version);
}

TEST(Npy, ReadsScalarsAndEmptyArrays) {
  EXPECT_EQ(read(file_of("{'descr': '<i8', 'fortran_order': False, 'shape': ()}", std::string(8, '\0'))).shape(),
            Shape());
  for (const char* order : {"True", "False"})
    EXPECT_EQ(
        read(file_of("{'descr': '<f2', 'fortran_order': " + std::string(order) + ", 'shape': (0, 4)}", "")).shape(),
        Shape({0, 4}));
}

TEST(Npy, WritesWhatItReads) {
  for (DType dtype : {DType::f32, DType::f16, DType::f64, DType::i64, DType::i32})
    for (const Shape& shape : {Shape(), Shape({5}), Shape({2, 3, 4}), Shape({3, 0})}) {
      Tensor array(dtype, shape);
      auto* bytes = static_cast<unsigned char*>(array.data());
      for (std::size_t i = 0; i < array.bytes(); ++i) bytes[i] = static_cast<unsigned char>(i * 37 + 11);
      std::ostringstream out;
      write_npy(out, array);
      const Tensor back = read(out.str());
      EXPECT_EQ(back.dtype(), dtype);
      EXPECT_EQ(back.shape(), shape);
      EXPECT_EQ(std::memcmp(back.data(), array.data(), array.bytes()), 0) << name_of(dtype) << to_string(shape);
      // NumPy maps arrays that begin at a multiple of 64 bytes.
      EXPECT_EQ((out.str().size() - array.bytes()) % 64, 0u);
    }
}

TEST(Npy, WritesStridedViewsRowMajor) {
  const float values[] = {0, 3, 1, 4, 2, 5};
  std::ostringstream out;
  write_npy(out, TensorView(values, DType::f32, {2, 3}, {1, 2}));
  const Tensor back = read(out.str());
  for (int i = 0; i < 6; ++i) EXPECT_EQ(back.data_as<float>()[i], static_cast<float>(i));
}

TEST(Npy, WritesBf16AsF32) {
  const bf16 values[] = {{0x3f80}, {0xc000}};  // 1, -2
  std::ostringstream out;
  write_npy(out, TensorView(values, DType::bf16, {2}));
  const Tensor back = read(out.str());
  EXPECT_EQ(back.dtype(), DType::f32);
  EXPECT_EQ(back.data_as<float>()[0], 1);
  EXPECT_EQ(back.data_as<float>()[1], -2);
}

TEST(Npy, RefusesWhatIsNotOne) {
  EXPECT_NE(refusal("").find("cut short"), std::string::npos);
  EXPECT_NE(refusal("PK\x03\x04 and what else a zip holds").find("NUMPY"), std::string::npos);
  EXPECT_NE(refusal(file_of("{'descr': '<f4', 'fortran_order': False, 'shape': (1,)}", floats({7}), 4)).find("4.0"),
            std::string::npos);
}

TEST(Npy, RefusesLyingSizes) {
  const auto with_shape = [](const std::string& shape) {
    return refusal(file_of("{'descr': '<f4', 'fortran_order': False, 'shape': " + shape + "}", floats({1, 2})));
  };
  EXPECT_EQ(with_shape("(2,)"), "accepted");
  // Each would ask for more memory than there is, were it believed.
  EXPECT_NE(with_shape("(1000000000000,)").find("8 bytes after the header"), std::string::npos);
  EXPECT_NE(with_shape("(4294967296, 4294967296)").find("2^63"), std::string::npos);
  EXPECT_NE(with_shape("(99999999999999999999,)").find("2^63"), std::string::npos);
  EXPECT_NE(with_shape("(4611686018427387904,)").find("8 bytes after the header"), std::string::npos);
  EXPECT_NE(with_shape("(1,)").find("8 bytes after the header"), std::string::npos);
  EXPECT_NE(with_shape("(0, 1000000000000, 1000000000000)").find("8 bytes after the header"), std::string::npos);
  EXPECT_NE(with_shape("(1,1,1,1,1,1,1,1,2)").find("8 axes"), std::string::npos);
  EXPECT_NE(with_shape("(-2,)").find("an extent"), std::string::npos);
  std::string lying = file_of("{'descr': '<f4', 'fortran_order': False, 'shape': (2,)}", floats({1, 2}), 2);
  std::memset(&lying[8], 0xff, 4);
  EXPECT_NE(refusal(lying).find("4294967295"), std::string::npos);
}

TEST(Npy, RefusesOtherHeaders) {
  const auto with_header = [](const std::string& header) { return refusal(file_of(header, floats({1}))); };
  EXPECT_NE(with_header("{'descr': '>f4', 'fortran_order': False, 'shape': (1,)}").find(">f4"), std::string::npos);
  EXPECT_NE(with_header("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,)}").find("record"),
            std::string::npos);
  EXPECT_NE(with_header("{'descr': '<f4', 'shape': (1,)}").find("fewer"), std::string::npos);
  EXPECT_NE(with_header("{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (1,)}").find("once"),
            std::string::npos);
  EXPECT_NE(with_header("{'descr': '<f4', 'fortran_order': 0, 'shape': (1,)}").find("True or False"),
            std::string::npos);
  EXPECT_NE(with_header("{'descr': '<f4', 'fortran_order': False, 'shape': (1,)").find("its end"), std::string::npos);
  EXPECT_NE(with_header("{'descr': '<f4', 'fortran_order': False, 'shape': (1,)} x").find("nothing after"),
            std::string::npos);
  EXPECT_NE(with_header("{'descr").find("quote"), std::string::npos);
}

// A file cut anywhere is refused, and reading it is safe.
TEST(Npy, RefusesEveryTruncation) {
  const std::string whole =
      file_of("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }", floats({0, 1, 2, 3, 4, 5}));
  ASSERT_EQ(refusal(whole), "accepted");
  for (std::size_t length = 0; length < whole.size(); ++length)
    EXPECT_NE(refusal(whole.substr(0, length)), "accepted") << length;
}

}  // namespace
}  // namespace kineograph::video
