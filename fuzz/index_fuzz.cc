// The input as the index of shards, beside one shard.
#include <fstream>

#include "fuzz.h"

namespace {

using namespace kineograph;

struct FolderWithShard : fuzz::Folder {
  FolderWithShard() {
    const Tensor weight(DType::f32, {2});
    save_safetensors(*this / "model-00001-of-00001.safetensors", {{"w", weight}, {"norm.weight", weight}});
  }
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const FolderWithShard folder;
  std::ofstream(folder / "model.safetensors.index.json", std::ios::binary) << fuzz::text(data, size);
  for (const std::string variant : {"", "fp16"})
    fuzz::expect_value_or_error([&] {
      const auto checkpoint =
          Checkpoint::open(folder / "model.safetensors.index.json", {.variant = variant, .select = {}});
      for (const auto& [name, view] : checkpoint.tensors()) fuzz::read_all(view);
      temporal_modules(checkpoint);
    });
  return 0;
}
