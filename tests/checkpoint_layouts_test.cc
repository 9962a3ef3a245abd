// Every published layout, as torch.save, safetensors and diffusers' own classes wrote it (tests/checkpoints): each
// module in it gives what diffusers computes.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <set>

#include "closeness.h"

namespace kineograph::testing {
namespace {

constexpr std::int64_t kFrames = 4;
constexpr std::string_view kExpected = ".expected.safetensors";

std::filesystem::path folder() { return std::filesystem::path(KINEOGRAPH_SOURCE_DIR) / "tests/checkpoints"; }

std::vector<std::string> file_names() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(folder())) {
    const std::string name = entry.path().filename();
    if (name.ends_with(kExpected)) names.push_back(name.substr(0, name.size() - kExpected.size()));
  }
  std::sort(names.begin(), names.end());
  return names;
}

class LayoutTest : public ::testing::TestWithParam<std::string> {};

TEST_P(LayoutTest, EveryModuleGivesWhatDiffusersComputes) {
  const Checkpoint checkpoint = Checkpoint::open(folder() / GetParam());
  const Checkpoint expected = Checkpoint::open(folder() / (GetParam() + std::string(kExpected)));
  static const std::map<std::string, Layout> layouts = {{"animatediff_v1.ckpt", Layout::animatediff},
                                                        {"animatediff_v2.ckpt", Layout::animatediff},
                                                        {"animatelcm.ckpt", Layout::animatediff},
                                                        {"i2vgen_xl", Layout::i2vgen_xl},
                                                        {"modelscope.pth", Layout::modelscope},
                                                        {"motion_adapter", Layout::motion_adapter},
                                                        {"motion_adapter.safetensors", Layout::motion_adapter},
                                                        {"unet_3d", Layout::unet_3d},
                                                        {"unet_motion", Layout::unet_motion}};
  std::set<std::string> found, wanted;
  for (const auto& [name, value] : expected.tensors()) wanted.insert(name.substr(0, name.rfind('.')));
  for (const TemporalModule& module : temporal_modules(checkpoint)) {
    SCOPED_TRACE(module.name);
    found.insert(module.name);
    EXPECT_EQ(module.layout, layouts.at(GetParam()));
    const TensorView x = expected.find(module.name + ".hidden_states"), y = expected.find(module.name + ".sample");
    ASSERT_TRUE(x && y);
    for (const Runner& runner : runners()) {
      const TransformerTemporalModel model = load(checkpoint, module.name, runner.options());
      ForwardOptions arguments;
      arguments.num_frames = kFrames;
      expect_close(model.forward(x, arguments).sample, y, model.config(), runner, x.dtype());
    }
  }
  EXPECT_EQ(found, wanted);
}

INSTANTIATE_TEST_SUITE_P(All, LayoutTest, ::testing::ValuesIn(file_names()), [](const auto& info) {
  std::string name = info.param;
  std::replace(name.begin(), name.end(), '.', '_');
  return name;
});

}  // namespace
}  // namespace kineograph::testing
