// The input as the configuration of a module, and as that of a UNet beside a file whose shapes it explains.
#include <filesystem>
#include <fstream>

#include "fuzz.h"
#include "kineograph/config.h"

namespace {

/// A folder with a file of one motion module's first tensors; goes with the process.
class Folder {
 public:
  Folder() {
    using namespace kineograph;
    char name[] = "/tmp/kineograph_fuzz_XXXXXX";
    path_ = ::mkdtemp(name);
    const std::string module = "down_blocks.0.motion_modules.0.";
    save_safetensors(path_ / "weights.safetensors",
                     {{module + "norm.weight", Tensor(DType::f32, {8})},
                      {module + "proj_in.weight", Tensor(DType::f32, {16, 8})},
                      {module + "transformer_blocks.0.ff.net.0.proj.weight", Tensor(DType::f32, {128, 16})}});
  }
  ~Folder() { std::filesystem::remove_all(path_); }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace kineograph;
  static const Folder folder;
  fuzz::expect_value_or_error([&] {
    std::ofstream(folder.path() / "config.json", std::ios::binary) << fuzz::text(data, size);
    Checkpoint::open(folder.path() / "weights.safetensors").modules();
  });
  return fuzz::expect_value_or_error([&] {
    const auto config = TransformerTemporalConfig::from_json(fuzz::text(data, size), "input", UnknownKeys::warn);
    config.validate();
    const std::string written = config.to_json();
    if (TransformerTemporalConfig::from_json(written).to_json() != written) __builtin_trap();
  });
}
