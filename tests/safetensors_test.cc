// The safetensors reader against files that lie, and the writer against the reader.
#include "checkpoint/safetensors.h"

#include <gtest/gtest.h>

#include <cstring>
#include <fstream>

#include "kineograph/checkpoint.h"

namespace kineograph {
namespace {

using checkpoint::parse_safetensors;

/// A file of a header and `size` bytes of data, in memory aligned like a mapping.
class Bytes {
 public:
  Bytes(const std::string& header, std::size_t size)
      : tensor_(DType::u8, {static_cast<std::int64_t>(8 + header.size() + size)}) {
    const std::uint64_t length = header.size();
    std::memcpy(tensor_.data(), &length, 8);
    std::memcpy(tensor_.data_as<std::uint8_t>() + 8, header.data(), header.size());
  }
  std::span<const std::byte> span() const { return {static_cast<const std::byte*>(tensor_.data()), tensor_.bytes()}; }

 private:
  Tensor tensor_;
};

void expect_refused(const std::string& header, std::size_t size, const std::string& expected) {
  const Bytes bytes(header, size);
  try {
    parse_safetensors(bytes.span(), "file");
    FAIL() << "accepted " << header;
  } catch (const FormatError& error) {
    EXPECT_NE(std::string(error.what()).find(expected), std::string::npos) << error.what();
  }
}

constexpr const char* kGood = R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})";

TEST(Safetensors, ReadsAGoodFile) {
  const Bytes bytes(kGood, 8);
  const auto header = parse_safetensors(bytes.span(), "file");
  ASSERT_EQ(header.tensors.size(), 1u);
  EXPECT_EQ(header.tensors[0].second.shape(), (Shape{2}));
}

TEST(Safetensors, RefusesEveryTruncation) {
  const Bytes bytes(kGood, 8);
  for (std::size_t size = 0; size < bytes.span().size(); ++size)
    EXPECT_THROW(parse_safetensors(bytes.span().first(size), "file"), FormatError) << size;
}

TEST(Safetensors, RefusesLies) {
  expect_refused(
      R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}})",
      12, "without hole or overlap");
  expect_refused(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}})", 16, "without hole or overlap");
  expect_refused(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 12, "bytes of data, as the header says");
  expect_refused(R"({"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}})", 8, "12 bytes");
  expect_refused(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}})", 8, "data_offsets within");
  expect_refused(R"({"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,8]}})", 8, "2^63");
  expect_refused(R"({"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,8]}})", 8, "0 or more");
  expect_refused(R"({"a":{"dtype":"F9","shape":[2],"data_offsets":[0,8]}})", 8, "F9");
  expect_refused(R"({"a":{"dtype":"F32","shape":[1,1,1,1,1,1,1,1,2],"data_offsets":[0,8]}})", 8, "axes");
  expect_refused(R"({"a":{"dtype":"F32","shape":[2]}})", 8, "two data_offsets");
  expect_refused(
      R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})",
      8, "twice");
  expect_refused("[1]", 0, "JSON object");
  expect_refused(R"({"a":)", 0, "JSON");
  expect_refused(std::string(R"({"a":)") + std::string(100000, '[') + std::string(100000, ']') + "}", 0, "expected");
}

TEST(Safetensors, ReportsTensorsOfOtherDtypes) {
  const Bytes bytes(
      R"({"a":{"dtype":"F6_E2M3","shape":[4],"data_offsets":[0,3]},"b":{"dtype":"U8","shape":[1],"data_offsets":[3,4]}})",
      4);
  const auto header = parse_safetensors(bytes.span(), "file");
  EXPECT_EQ(header.tensors.size(), 1u);
  ASSERT_EQ(header.opaque.size(), 1u);
  EXPECT_EQ(header.opaque[0].second, "a tensor of F6_E2M3 [4]");
  expect_refused(R"({"a":{"dtype":"F8_E4M3","shape":[3],"data_offsets":[0,2]}})", 2, "3 bytes");
}

TEST(Safetensors, ReadsEightBitFloatsAsTheyAre) {
  const Bytes bytes(
      R"({"a":{"dtype":"F8_E4M3","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"F8_E5M2","shape":[1],"data_offsets":[2,3]}})",
      3);
  const auto header = parse_safetensors(bytes.span(), "file");
  ASSERT_EQ(header.tensors.size(), 2u);
  EXPECT_EQ(header.tensors[0].second.dtype(), DType::f8_e4m3fn);
  EXPECT_EQ(header.tensors[1].second.dtype(), DType::f8_e5m2);
}

TEST(Safetensors, NoMetadataMayBeNull) {
  const std::string tensor = R"("a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]})";
  const Bytes bytes(R"({"__metadata__":null,)" + tensor + "}", 1);
  EXPECT_EQ(parse_safetensors(bytes.span(), "file").tensors.size(), 1u);
  expect_refused(R"({"b":null,)" + tensor + "}", 1, "null");
  expect_refused(R"({"__metadata__":{"a":null},)" + tensor + "}", 1, "null");
}

TEST(Safetensors, SurvivesAMillionKeys) {
  std::string header = "{";
  for (int i = 0; i < 1000000; ++i)
    header += (i ? ",\"" : "\"") + std::to_string(i) + R"(":{"dtype":"U8","shape":[0],"data_offsets":[0,0]})";
  const Bytes bytes(header + "}", 0);
  EXPECT_EQ(parse_safetensors(bytes.span(), "file").tensors.size(), 1000000u);
}

TEST(Safetensors, WritesWhatItReads) {
  const std::string path = ::testing::TempDir() + "written.safetensors";
  Tensor a(DType::f32, {2, 3}), b(DType::bf16, {5});
  for (int i = 0; i < 6; ++i) a.data_as<float>()[i] = static_cast<float>(i);
  save_safetensors(path, {{"b", b}, {"a", a}}, {{"format", "pt"}});
  const Checkpoint file = Checkpoint::open(path);
  EXPECT_EQ(file.metadata().at("format"), "pt");
  EXPECT_EQ(std::memcmp(file.find("a").data(), a.data(), a.bytes()), 0);
  EXPECT_EQ(file.find("b").dtype(), DType::bf16);
  EXPECT_FALSE(file.find("c"));
}

TEST(Safetensors, NamesThatCannotBeReadBackAreRefused) {
  const std::string path = ::testing::TempDir() + "names.safetensors";
  std::ofstream(path) << "good";
  const Tensor a(DType::f32, {2}), b(DType::bf16, {2});
  EXPECT_THROW(save_safetensors(path, {{"a\xff", a}}), ArgumentError);
  EXPECT_THROW(save_safetensors(path, {{"a", a}}, {{"format", "\xc3"}}), ArgumentError);
  EXPECT_THROW(save_safetensors(path, {{"a", a}, {"b", b}, {"a", b}}), ArgumentError);
  EXPECT_THROW(save_safetensors(path, {{"__metadata__", a}}), ArgumentError);
  std::string kept;
  std::ifstream(path) >> kept;
  EXPECT_EQ(kept, "good");
}

TEST(Safetensors, AFullDiskIsAnError) {
  EXPECT_THROW(save_safetensors("/dev/full", {{"a", Tensor(DType::f32, {100000})}}), IoError);
}

TEST(Safetensors, AnIndexMayNotLeaveItsFolder) {
  const std::string path = ::testing::TempDir() + "evil.safetensors.index.json";
  std::ofstream(path) << R"({"weight_map":{"a":"../secret.safetensors"}})";
  EXPECT_THROW(Checkpoint::open(path), FormatError);
}

TEST(Safetensors, AnIndexMayNotBeDeep) {
  // Values so deep are parsed without recursion, but neither copied nor printed.
  const std::string path = ::testing::TempDir() + "deep.safetensors.index.json";
  std::ofstream(path) << R"({"weight_map":{"a":)" << std::string(1000000, '[') << std::string(1000000, ']') << "}}";
  EXPECT_THROW(Checkpoint::open(path), FormatError);
}

}  // namespace
}  // namespace kineograph
