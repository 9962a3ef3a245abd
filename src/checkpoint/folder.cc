#include "checkpoint/folder.h"

#include <algorithm>
#include <set>
#include <vector>

#include "base/text.h"
#include "kineograph/error.h"

namespace kineograph::checkpoint {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kNames[] = {"diffusion_pytorch_model", "model", "pytorch_model"};
constexpr std::string_view kEndings[] = {".safetensors", ".bin"};
constexpr std::string_view kOtherEndings[] = {".safetensors", ".bin", ".ckpt", ".pth", ".pt"};

bool present(const fs::path& path) {
  std::error_code unknown;
  return fs::exists(path, unknown);
}

/// The names under which one set of weights may be in a folder, best first. Indices have had their variant in three
/// places over diffusers' versions.
std::vector<std::string> candidates(std::string_view variant) {
  const std::string dotted = variant.empty() ? "" : "." + std::string(variant);
  std::vector<std::string> names;
  for (const std::string_view view : kNames)
    for (const std::string_view end : kEndings) {
      const std::string name(view), ending(end);
      names.push_back(name + dotted + ending);
      names.push_back(name + ending + ".index" + dotted + ".json");
      if (variant.empty()) continue;
      names.push_back(name + ending + dotted + ".index.json");
      names.push_back(name + dotted + ending + ".index.json");
    }
  return names;
}

fs::path find(const fs::path& folder, std::string_view variant) {
  for (const std::string& name : candidates(variant))
    if (present(folder / name)) return folder / name;
  return {};
}

/// "fp16" of diffusion_pytorch_model.fp16.safetensors or of its index; empty for other names.
std::string variant_of(std::string_view file) {
  for (const std::string_view name : kNames) {
    if (!file.starts_with(name) || file.size() <= name.size() || file[name.size()] != '.') continue;
    std::string_view rest = file.substr(name.size());
    std::string variant;
    for (std::size_t at = 1; at <= rest.size();) {
      const std::size_t dot = std::min(rest.find('.', at), rest.size());
      const std::string_view part = rest.substr(at, dot - at);
      at = dot + 1;
      if (part == "safetensors" || part == "bin" || part == "index" || part == "json") continue;
      variant = part.substr(0, part.find("-0"));
    }
    if (rest.ends_with(".safetensors") || rest.ends_with(".bin") || rest.ends_with(".json")) return variant;
  }
  return {};
}

std::vector<std::string> sorted_names(const fs::path& folder) {
  std::vector<std::string> names;
  std::error_code unknown;
  for (fs::directory_iterator entry(folder, unknown), end; entry != end; entry.increment(unknown)) {
    names.push_back(entry->path().filename().string());
    if (unknown) break;
  }
  std::sort(names.begin(), names.end());
  return names;
}

/// Variants of which a folder has weights.
std::vector<std::string> variants_in(const fs::path& folder) {
  std::set<std::string> variants;
  for (const std::string& name : sorted_names(folder))
    if (const std::string variant = variant_of(name); !variant.empty() && !find(folder, variant).empty())
      variants.insert(variant);
  return {variants.begin(), variants.end()};
}

bool has_weights(const fs::path& folder) { return !find(folder, {}).empty() || !variants_in(folder).empty(); }

/// What else could have been meant by a folder without weights.
std::string advice(const fs::path& folder) {
  if (const auto variants = variants_in(folder); !variants.empty())
    return "There are weights of the variant" + first_of(variants, " ") + ": ask for it (--variant " +
           variants.front() + ").";
  std::vector<std::string> subfolders, files;
  for (const std::string& name : sorted_names(folder)) {
    std::error_code unknown;
    if (fs::is_directory(folder / name, unknown) && has_weights(folder / name)) subfolders.push_back(name);
    const bool weights = std::any_of(std::begin(kOtherEndings), std::end(kOtherEndings),
                                     [&](std::string_view ending) { return name.ends_with(ending); });
    if (weights) files.push_back(name);
  }
  if (!subfolders.empty())
    return "It is a pipeline's folder or the like; weights are in its subfolders:" + first_of(subfolders, " ") + ".";
  if (!files.empty()) return "Open one of its files by name:" + first_of(files, " ") + ".";
  return {};
}

}  // namespace

fs::path weights_file(const fs::path& folder, std::string_view variant) {
  if (const fs::path found = find(folder, variant); !found.empty()) return found;
  const std::vector<std::string> names = candidates(variant);
  const std::string asked = variant.empty() ? "" : "The variant asked for is \"" + std::string(variant) + "\". ";
  throw IoError(folder.string(), names[0] + ", its index, a .bin, model.safetensors or pytorch_model.bin",
                "none of them", asked + advice(folder));
}

fs::path shard_file(const fs::path& folder, const std::string& name, std::string_view variant) {
  if (variant.empty() || present(folder / name)) return folder / name;
  const std::string dotted = "." + std::string(variant);
  const std::size_t number = name.find("-0"), dot = name.rfind('.');
  if (number == std::string::npos || dot == std::string::npos || dot < number) return folder / name;
  std::string plain = name;  // without a variant in either place
  for (std::size_t at; (at = plain.find(dotted)) != std::string::npos;) plain.erase(at, dotted.size());
  const std::size_t count = plain.find("-0"), ending = plain.rfind('.');
  if (count == std::string::npos || ending == std::string::npos) return folder / name;
  for (const std::string& other :
       {plain.substr(0, count) + dotted + plain.substr(count), plain.substr(0, ending) + dotted + plain.substr(ending)})
    if (present(folder / other)) return folder / other;
  return folder / name;
}

}  // namespace kineograph::checkpoint
