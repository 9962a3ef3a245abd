// Files and folders -> one set of named tensors.
#include "kineograph/checkpoint.h"

#include <deque>
#include <mutex>
#include <nlohmann/json.hpp>
#include <set>
#include <unordered_map>

#include "base/json.h"
#include "base/mapped_file.h"
#include "checkpoint/safetensors.h"
#include "checkpoint/torch_archive.h"

namespace kineograph {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kBaseName = "diffusion_pytorch_model";

/// diffusers' names: diffusion_pytorch_model[.variant].safetensors, or .bin, and
/// diffusion_pytorch_model.safetensors.index[.variant].json, or .bin.index.
fs::path weights_file(const fs::path& folder, std::string_view variant) {
  const std::string dotted = variant.empty() ? "" : "." + std::string(variant);
  const std::string base(kBaseName);
  const fs::path single = folder / (base + dotted + ".safetensors");
  if (fs::exists(single)) return single;
  const fs::path index = folder / (base + ".safetensors.index" + dotted + ".json");
  if (fs::exists(index)) return index;
  const fs::path pickled = folder / (base + dotted + ".bin");
  if (fs::exists(pickled)) return pickled;
  const fs::path pickled_index = folder / (base + ".bin.index" + dotted + ".json");
  if (fs::exists(pickled_index)) return pickled_index;
  throw IoError(folder.string(),
                single.filename().string() + ", " + index.filename().string() + " or " + pickled.filename().string(),
                "none of them", variant.empty() ? "" : "The variant asked for is \"" + std::string(variant) + "\".");
}

}  // namespace

struct Checkpoint::Impl {
  std::vector<std::pair<std::string, TensorView>> tensors;
  std::unordered_map<std::string, std::size_t> index;
  std::map<std::string, std::string> metadata;
  std::vector<fs::path> files;
  std::deque<checkpoint::MappedFile> mapped;
  std::deque<Tensor> copies;
  std::string container;
  std::vector<Ignored> ignored;
  /// What a torch archive's checksum is of.
  struct Record {
    checkpoint::ZipEntry entry;
    std::string file;
    mutable bool verified = false;  ///< was read and found right; under the mutex
  };
  std::deque<Record> records;
  std::vector<const Record*> record_of;  ///< for each of `tensors`; null where there are no checksums
  mutable std::mutex mutex;

  void add_file(const fs::path& path) {
    const checkpoint::MappedFile& file = mapped.emplace_back(path);
    files.push_back(path);
    if (checkpoint::looks_like_torch(file.bytes()))
      add_torch(file.bytes(), path);
    else
      add_safetensors(file.bytes(), path);
  }

  /// Where `name` is to be put; the last one counts, as in a Python dict.
  void put(const std::string& name, const TensorView& view, const Record* record) {
    const auto [found, added] = index.emplace(name, tensors.size());
    if (added) {
      tensors.emplace_back(name, view);
      record_of.push_back(record);
    } else {
      tensors[found->second].second = view;
      record_of[found->second] = record;
    }
  }

  void add_torch(std::span<const std::byte> bytes, const fs::path& path) {
    checkpoint::TorchArchive archive = checkpoint::parse_torch(bytes, path.string());
    container = archive.records.empty() ? "torch archive from before PyTorch 1.6" : "torch archive";
    const std::size_t first = records.size();
    for (checkpoint::ZipEntry& entry : archive.records) records.push_back({std::move(entry), path.string()});
    for (const auto& entry : archive.tensors)
      put(entry.name, entry.view, archive.records.empty() ? nullptr : &records[first + entry.record]);
    for (auto& [name, what] : archive.opaque) ignored.push_back({name, what});
    for (Tensor& copy : archive.copies) copies.push_back(std::move(copy));
  }

  void add_safetensors(std::span<const std::byte> bytes, const fs::path& path) {
    container = "safetensors";
    checkpoint::SafetensorsHeader header = checkpoint::parse_safetensors(bytes, path.string());
    for (auto& [name, view] : header.tensors) {
      if (index.contains(name))
        throw FormatError(path.string() + ": tensor " + name, "every tensor in one shard", "a second one");
      put(name, view, nullptr);
    }
    for (auto& [name, what] : header.opaque) ignored.push_back({name, what});
    for (Tensor& copy : header.copies) copies.push_back(std::move(copy));
    metadata.merge(header.metadata);
  }

  /// Opens the shards that an index names, and checks that they hold what it says.
  void add_shards(const fs::path& path) {
    const std::string where = path.string();
    const auto json = checkpoint::parse_json<nlohmann::json, FormatError>(checkpoint::read_text(path), where);
    const auto map = json.find("weight_map");
    if (map == json.end() || !map->is_object())
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
      const std::size_t before = tensors.size(), ignored_before = ignored.size();
      add_file(path.parent_path() / file);
      std::set<std::string_view> opaque;
      for (std::size_t i = ignored_before; i < ignored.size(); ++i) opaque.insert(ignored[i].name);
      std::size_t known = 0;
      for (const std::string& name : names) {
        const auto found = index.find(name);
        const bool here = found != index.end() && found->second >= before;
        if (!here && !opaque.contains(name))
          throw FormatError(where, "tensor " + name + " in " + file, "none of that name there");
        known += here ? 1 : 0;
      }
      if (tensors.size() - before != known)
        throw FormatError(where, std::to_string(known) + " tensors in " + file,
                          std::to_string(tensors.size() - before));
    }
  }
};

Checkpoint Checkpoint::open(const fs::path& path, std::string_view variant) {
  const fs::path file = fs::is_directory(path) ? weights_file(path, variant) : path;
  auto impl = std::make_shared<Impl>();
  if (file.extension() == ".json") {
    impl->add_shards(file);
    impl->container += " in " + std::to_string(impl->files.size()) + " shards";
  } else {
    impl->add_file(file);
  }
  return Checkpoint(std::move(impl));
}

const std::vector<std::pair<std::string, TensorView>>& Checkpoint::tensors() const noexcept { return impl_->tensors; }

TensorView Checkpoint::find(std::string_view name) const noexcept {
  const auto found = impl_->index.find(std::string(name));
  return found == impl_->index.end() ? TensorView() : impl_->tensors[found->second].second;
}

const std::map<std::string, std::string>& Checkpoint::metadata() const noexcept { return impl_->metadata; }
const std::vector<fs::path>& Checkpoint::files() const noexcept { return impl_->files; }
void Checkpoint::release(std::string_view name) const noexcept {
  const TensorView view = find(name);
  if (!view || !view.is_contiguous()) return;
  const std::span bytes(static_cast<const std::byte*>(view.data()),
                        static_cast<std::size_t>(view.numel()) * size_of(view.dtype()));
  for (const checkpoint::MappedFile& file : impl_->mapped) file.release(bytes);
}

void Checkpoint::check_unchanged() const {
  for (const checkpoint::MappedFile& file : impl_->mapped) file.check_unchanged();
}

const std::string& Checkpoint::container() const noexcept { return impl_->container; }
const std::vector<Checkpoint::Ignored>& Checkpoint::ignored() const noexcept { return impl_->ignored; }

void Checkpoint::verify(std::string_view name) const {
  const auto found = impl_->index.find(std::string(name));
  const Impl::Record* record = found == impl_->index.end() ? nullptr : impl_->record_of[found->second];
  if (record == nullptr) return;
  {
    const std::lock_guard lock(impl_->mutex);
    if (record->verified) return;
  }
  checkpoint::check_crc32(record->entry, record->file);
  const std::lock_guard lock(impl_->mutex);
  record->verified = true;
}

std::shared_ptr<const void> Checkpoint::owner() const noexcept { return impl_; }

}  // namespace kineograph
