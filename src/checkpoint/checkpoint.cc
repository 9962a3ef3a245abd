// Files and folders -> one set of named tensors.
#include "kineograph/checkpoint.h"

#include <deque>
#include <mutex>
#include <set>
#include <unordered_map>

#include "base/json.h"
#include "base/mapped_file.h"
#include "base/text.h"
#include "checkpoint/folder.h"
#include "checkpoint/foreign.h"
#include "checkpoint/safetensors.h"
#include "checkpoint/torch_archive.h"

namespace kineograph {
namespace {

namespace fs = std::filesystem;

/// Whether `name` is `path`, or lies below it.
bool is_below(std::string_view name, std::string_view path) {
  return name.starts_with(path) && (name.size() == path.size() || name[path.size()] == '.');
}

struct NameHash {
  using is_transparent = void;
  std::size_t operator()(std::string_view name) const noexcept { return std::hash<std::string_view>()(name); }
};

}  // namespace

struct Checkpoint::Impl {
  std::vector<std::pair<std::string, TensorView>> tensors;
  /// Looked up without a copy of the name, which find() has no memory for.
  std::unordered_map<std::string, std::size_t, NameHash, std::equal_to<>> index;
  std::map<std::string, std::string> metadata;
  std::vector<fs::path> files;
  std::deque<checkpoint::MappedFile> mapped;
  std::deque<Tensor> copies;
  std::string container, selected;
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

  std::string where;
  std::shared_ptr<const void> bytes_owner;  ///< of from_bytes

  void add_file(const fs::path& path) {
    const checkpoint::MappedFile& file = mapped.emplace_back(path);
    files.push_back(path);
    if (where.empty()) where = path.string();
    add_bytes(file.bytes(), path);
  }

  void add_bytes(std::span<const std::byte> bytes, const fs::path& path) {
    if (checkpoint::looks_like_torch(bytes)) return add_torch(bytes, path);
    checkpoint::refuse_foreign(bytes, path.string());
    add_safetensors(bytes, path);
  }

  void put(const std::string& name, const TensorView& view, const Record* record, const fs::path& path) {
    if (!index.emplace(name, tensors.size()).second)
      throw FormatError(path.string() + ": tensor " + shortened(name), "every tensor once",
                        "a second one of this path");
    tensors.emplace_back(name, view);
    record_of.push_back(record);
  }

  /// Keeps what is below `path`, under the names that it has there.
  void select(const std::string& path) {
    selected = path;
    if (path.empty() || path == kRoot) return;
    std::set<std::string> known;
    std::vector<std::pair<std::string, TensorView>> kept;
    std::vector<const Record*> kept_records;
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      const std::string& name = tensors[i].first;
      if (is_below(name, path)) {
        kept.emplace_back(name.size() == path.size() ? "" : name.substr(path.size() + 1), tensors[i].second);
        kept_records.push_back(record_of[i]);
      } else if (const std::size_t dot = name.find('.'); dot != std::string::npos) {
        known.insert(name.substr(0, dot));
      }
    }
    if (kept.empty())
      throw ArgumentError("select", "the path of something that holds tensors in " + where, shortened(path),
                          "At its top are:" + first_of({known.begin(), known.end()}, " "));
    tensors = std::move(kept);
    record_of = std::move(kept_records);
    index.clear();
    for (std::size_t i = 0; i < tensors.size(); ++i) index.emplace(tensors[i].first, i);
  }

  void add_torch(std::span<const std::byte> bytes, const fs::path& path) {
    checkpoint::TorchArchive archive = checkpoint::parse_torch(bytes, path.string());
    container = archive.records.empty() ? "torch archive from before PyTorch 1.6" : "torch archive";
    const std::size_t first = records.size();
    for (checkpoint::ZipEntry& entry : archive.records) records.push_back({std::move(entry), path.string()});
    for (const auto& entry : archive.tensors)
      put(entry.name, entry.view, archive.records.empty() ? nullptr : &records[first + entry.record], path);
    for (auto& [name, what] : archive.opaque) ignored.push_back({name, what});
    for (Tensor& copy : archive.copies) copies.push_back(std::move(copy));
  }

  void add_safetensors(std::span<const std::byte> bytes, const fs::path& path) {
    container = "safetensors";
    checkpoint::SafetensorsHeader header = checkpoint::parse_safetensors(bytes, path.string());
    for (auto& [name, view] : header.tensors) put(name, view, nullptr, path);
    for (auto& [name, what] : header.opaque) ignored.push_back({name, what});
    for (Tensor& copy : header.copies) copies.push_back(std::move(copy));
    metadata.merge(header.metadata);
  }

  /// Opens the shards that an index names, and checks that they hold what it says.
  void add_shards(const fs::path& path, std::string_view variant) {
    const std::string where = path.string();
    const Json json = parse_json<FormatError>(checkpoint::read_text(path), where);
    const Json* const map = json.find("weight_map");
    if (map == nullptr || !map->object())
      throw FormatError(where, "an index of shards: a JSON object with weight_map", "another JSON object");
    std::map<std::string, std::vector<std::string>> shards;
    for (const auto& [name, shard] : *map->object()) {
      const auto text = shard.as<std::string>();
      if (!text) throw FormatError(where + ": " + shortened(name), "the name of a shard", shortened(shard.dump()));
      const std::string& file = *text;
      if (file.empty() || file == "." || file == ".." || file.find_first_of("/\\") != std::string::npos)
        throw FormatError(where + ": " + shortened(name), "a file beside the index", shortened(file));
      shards[file].push_back(name);
    }
    for (const auto& [file, names] : shards) {
      const std::size_t before = tensors.size(), ignored_before = ignored.size();
      add_file(checkpoint::shard_file(path.parent_path(), file, variant));
      std::set<std::string_view> opaque;
      for (std::size_t i = ignored_before; i < ignored.size(); ++i) opaque.insert(ignored[i].name);
      // A shard may hold more than the index names; diffusers reads shards whole, too.
      for (const std::string& name : names) {
        const auto found = index.find(name);
        const bool here = found != index.end() && found->second >= before;
        if (!here && !opaque.contains(name))
          throw FormatError(where, "tensor " + shortened(name) + " in " + shortened(file), "none of that name there");
      }
    }
  }
};

Checkpoint Checkpoint::open(const fs::path& path, const OpenOptions& options) {
  const fs::path file = fs::is_directory(path) ? checkpoint::weights_file(path, options.variant) : path;
  auto impl = std::make_shared<Impl>();
  if (file.extension() == ".json") {
    impl->add_shards(file, options.variant);
    impl->container += " in " + std::to_string(impl->files.size()) + " shards";
  } else {
    impl->add_file(file);
  }
  impl->select(options.select);
  return Checkpoint(std::move(impl));
}

Checkpoint Checkpoint::from_bytes(std::span<const std::byte> bytes, std::shared_ptr<const void> owner,
                                  std::string_view name) {
  auto impl = std::make_shared<Impl>();
  impl->where = name;
  impl->bytes_owner = std::move(owner);
  impl->add_bytes(bytes, fs::path(impl->where));
  return Checkpoint(std::move(impl));
}

const std::string& Checkpoint::where() const noexcept { return impl_->where; }
const std::vector<std::pair<std::string, TensorView>>& Checkpoint::tensors() const noexcept { return impl_->tensors; }

TensorView Checkpoint::find(std::string_view name) const noexcept {
  const auto found = impl_->index.find(name);
  return found == impl_->index.end() ? TensorView() : impl_->tensors[found->second].second;
}

const std::string& Checkpoint::selected() const noexcept { return impl_->selected; }
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
  const auto found = impl_->index.find(name);
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
