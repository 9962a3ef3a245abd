// Files and folders -> one set of named tensors.
#include "kineograph/checkpoint.h"

#include <deque>
#include <nlohmann/json.hpp>
#include <unordered_map>

#include "checkpoint/mapped_file.h"
#include "checkpoint/safetensors.h"

namespace kineograph {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kBaseName = "diffusion_pytorch_model";

/// diffusers' names: diffusion_pytorch_model[.variant].safetensors, and
/// diffusion_pytorch_model.safetensors.index[.variant].json.
fs::path weights_file(const fs::path& folder, std::string_view variant) {
  const std::string dotted = variant.empty() ? "" : "." + std::string(variant);
  const std::string base(kBaseName);
  const fs::path single = folder / (base + dotted + ".safetensors");
  if (fs::exists(single)) return single;
  const fs::path index = folder / (base + ".safetensors.index" + dotted + ".json");
  if (fs::exists(index)) return index;
  const fs::path pickled = folder / (base + dotted + ".bin");
  throw IoError(folder.string(), single.filename().string() + " or " + index.filename().string(),
                fs::exists(pickled) ? pickled.filename().string() + ", which is a pickle" : "neither",
                variant.empty() ? "" : "The variant asked for is \"" + std::string(variant) + "\".");
}

}  // namespace

struct Checkpoint::Impl {
  std::vector<std::pair<std::string, TensorView>> tensors;
  std::unordered_map<std::string, std::size_t> index;
  std::map<std::string, std::string> metadata;
  std::vector<fs::path> files;
  std::deque<checkpoint::MappedFile> mapped;
  std::deque<Tensor> copies;

  void add_file(const fs::path& path) {
    const checkpoint::MappedFile& file = mapped.emplace_back(path);
    checkpoint::SafetensorsHeader header = checkpoint::parse_safetensors(file.bytes(), path.string());
    for (auto& [name, view] : header.tensors) {
      if (!index.emplace(name, tensors.size()).second)
        throw FormatError(path.string() + ": tensor " + name, "every tensor in one shard", "a second one");
      tensors.emplace_back(name, view);
    }
    for (Tensor& copy : header.copies) copies.push_back(std::move(copy));
    metadata.merge(header.metadata);
    files.push_back(path);
  }

  /// Opens the shards that an index names, and checks that they hold what it says.
  void add_shards(const fs::path& path) {
    const std::string where = path.string();
    const auto json = nlohmann::json::parse(checkpoint::read_text(path), nullptr, false);
    const auto map = json.is_object() ? json.find("weight_map") : json.end();
    if (!json.is_object() || map == json.end() || !map->is_object())
      throw FormatError(where, "a JSON object with weight_map", "something else");
    std::map<std::string, std::vector<std::string>> shards;
    for (const auto& [name, shard] : map->items()) {
      if (!shard.is_string()) throw FormatError(where + ": " + name, "the name of a shard", shard.dump());
      const auto file = shard.get<std::string>();
      if (file.empty() || file == "." || file == ".." || file.find_first_of("/\\") != std::string::npos)
        throw FormatError(where + ": " + name, "a file beside the index", file);
      shards[file].push_back(name);
    }
    for (const auto& [file, names] : shards) {
      const std::size_t before = tensors.size();
      add_file(path.parent_path() / file);
      for (const std::string& name : names) {
        const auto found = index.find(name);
        if (found == index.end() || found->second < before)
          throw FormatError(where, "tensor " + name + " in " + file, "none of that name there");
      }
      if (tensors.size() - before != names.size())
        throw FormatError(where, std::to_string(names.size()) + " tensors in " + file,
                          std::to_string(tensors.size() - before));
    }
  }
};

Checkpoint Checkpoint::open(const fs::path& path, std::string_view variant) {
  const fs::path file = fs::is_directory(path) ? weights_file(path, variant) : path;
  auto impl = std::make_shared<Impl>();
  if (file.extension() == ".json")
    impl->add_shards(file);
  else
    impl->add_file(file);
  return Checkpoint(std::move(impl));
}

const std::vector<std::pair<std::string, TensorView>>& Checkpoint::tensors() const noexcept { return impl_->tensors; }

TensorView Checkpoint::find(std::string_view name) const noexcept {
  const auto found = impl_->index.find(std::string(name));
  return found == impl_->index.end() ? TensorView() : impl_->tensors[found->second].second;
}

const std::map<std::string, std::string>& Checkpoint::metadata() const noexcept { return impl_->metadata; }
const std::vector<fs::path>& Checkpoint::files() const noexcept { return impl_->files; }
std::shared_ptr<const void> Checkpoint::owner() const noexcept { return impl_; }

}  // namespace kineograph
