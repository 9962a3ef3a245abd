// Checkpoints in the caller's memory: the same as from files, kept alive by their owner, and checked as strictly.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "kineograph/kineograph.h"

namespace kineograph {
namespace {

const std::filesystem::path kCheckpoints = std::filesystem::path(KINEOGRAPH_SOURCE_DIR) / "tests/checkpoints";

/// The bytes of a file at an address that is off by `shift` from one that new gives.
struct Bytes {
  explicit Bytes(const std::filesystem::path& path, std::size_t shift = 0) {
    std::ifstream in(path, std::ios::binary);
    const std::string content{std::istreambuf_iterator<char>(in), {}};
    memory.resize(content.size() + shift);
    std::copy(content.begin(), content.end(), reinterpret_cast<char*>(memory.data()) + shift);
    span = std::span<const std::byte>(memory).subspan(shift);
  }
  std::vector<std::byte> memory;
  std::span<const std::byte> span;
};

TEST(FromBytes, HoldsWhatTheFileHolds) {
  for (const char* name : {"motion_adapter.safetensors", "animatediff_v2.ckpt", "modelscope.pth"})
    for (const std::size_t shift : {0, 1}) {
      const Bytes bytes(kCheckpoints / name, shift);
      const Checkpoint file = Checkpoint::open(kCheckpoints / name);
      const Checkpoint memory = Checkpoint::from_bytes(bytes.span, {}, name);
      EXPECT_TRUE(memory.files().empty());
      EXPECT_EQ(memory.where(), name);
      EXPECT_EQ(memory.container(), file.container());
      ASSERT_EQ(memory.tensors().size(), file.tensors().size());
      for (std::size_t i = 0; i < file.tensors().size(); ++i) {
        EXPECT_EQ(memory.tensors()[i].first, file.tensors()[i].first);
        const Tensor a = convert(memory.tensors()[i].second, file.tensors()[i].second.dtype());
        const Tensor b = convert(file.tensors()[i].second, file.tensors()[i].second.dtype());
        ASSERT_EQ(a.bytes(), b.bytes());
        EXPECT_TRUE(std::equal(static_cast<const char*>(a.data()), static_cast<const char*>(a.data()) + a.bytes(),
                               static_cast<const char*>(b.data())));
      }
      EXPECT_EQ(temporal_modules(memory).size(), temporal_modules(file).size());
    }
}

TEST(FromBytes, TheOwnerLivesAsLongAsAModel) {
  auto bytes = std::make_shared<Bytes>(kCheckpoints / "motion_adapter.safetensors");
  const std::weak_ptr<Bytes> watched = bytes;
  {
    std::optional<Checkpoint> checkpoint = Checkpoint::from_bytes(bytes->span, bytes);
    bytes.reset();
    const std::string name = temporal_modules(*checkpoint).front().name;
    const TransformerTemporalModel model = load(*checkpoint, name, {.engine = "reference"});
    checkpoint.reset();
    EXPECT_FALSE(watched.expired());
    EXPECT_GT(model.num_parameters(), 0);
  }
  EXPECT_TRUE(watched.expired());
}

TEST(FromBytes, DamageIsRefusedUnderTheGivenName) {
  const Bytes bytes(kCheckpoints / "motion_adapter.safetensors");
  for (const std::size_t size : {std::size_t{0}, std::size_t{7}, bytes.span.size() / 2, bytes.span.size() - 1}) try {
      (void)Checkpoint::from_bytes(bytes.span.first(size), {}, "a message's attachment");
      ADD_FAILURE() << size;
    } catch (const FormatError& error) {
      EXPECT_NE(std::string(error.what()).find("a message's attachment"), std::string::npos) << error.what();
    }
}

TEST(FromBytes, AFileWithoutModulesIsRefusedUnderTheGivenName) {
  const std::string header = R"({"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}})";
  std::string file(8, '\0');
  file[0] = static_cast<char>(header.size());
  file += header + std::string(4, '\0');
  const auto checkpoint = Checkpoint::from_bytes(std::as_bytes(std::span(file)), {}, "a message's attachment");
  EXPECT_TRUE(temporal_modules(checkpoint).empty());
  try {
    (void)load(checkpoint, "", {.engine = "reference"});
    ADD_FAILURE();
  } catch (const CheckpointError& error) {
    EXPECT_NE(std::string(error.what()).find("a message's attachment"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace kineograph
