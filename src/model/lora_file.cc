// A LoRA file's tensors -> pairs for weights of temporal modules.
#include <algorithm>
#include <map>
#include <set>

#include "base/text.h"
#include "kineograph/lora.h"
#include "model/arguments.h"
#include "model/lora_keys.h"
#include "model/lora_settings.h"
#include "model/widen.h"

namespace kineograph {
namespace {

using model::LoraKey;

// Where PEFT and diffusers save a LoRA, in a folder.
constexpr std::string_view kFiles[] = {"adapter_model.safetensors", "pytorch_lora_weights.safetensors",
                                       "adapter_model.bin", "pytorch_lora_weights.bin"};

std::filesystem::path file_in(const std::filesystem::path& path) {
  std::error_code unknown;
  if (!std::filesystem::is_directory(path, unknown)) return path;
  std::string known;
  for (const std::string_view name : kFiles) {
    if (std::filesystem::exists(path / name, unknown)) return path / name;
    known += (known.empty() ? "" : ", ") + std::string(name);
  }
  throw IoError(path.string(), "one of " + known, "none of them", "A LoRA file may be given by its own name.");
}

/// What a file has for one layer.
struct Layer {
  TensorView down, up, alpha;
  std::string other;  ///< what else there is for it, in words
};
using Layers = std::map<std::pair<std::string, std::string>, Layer>;  // by the layer's path and the adapter

bool is_number(const TensorView& view) { return view.rank() <= 1 && view.numel() == 1; }

double value_of(const TensorView& view) {
  return model::is_eight_bit(view.dtype()) ? model::number(model::widened(view, {}), 0) : model::number(view, 0);
}

/// A factor of a convolution of one pixel is a matrix.
TensorView as_matrix(const TensorView& view) {
  if (view.rank() < 3) return view;
  for (std::size_t axis = 2; axis < view.rank(); ++axis)
    if (view.size(axis) != 1) return view;
  return TensorView(view.data(), view.dtype(), Shape{view.size(0), view.size(1)},
                    Dims{view.strides()[0], view.strides()[1]});
}

bool is_factor(const TensorView& view) {
  return view.rank() == 2 && (is_floating(view.dtype()) || model::is_eight_bit(view.dtype()));
}

/// Why a layer's pair cannot be added to a weight; empty where it can.
std::string problem_of(const Layer& layer) {
  if (!layer.other.empty()) return layer.other + ", which is not supported";
  if (!layer.down && !layer.up) return "an alpha without factors";
  if (!layer.down || !layer.up) return layer.down ? "a down without an up" : "an up without a down";
  if (!is_factor(layer.down) || !is_factor(layer.up) || layer.down.size(0) != layer.up.size(1) ||
      layer.down.size(0) == 0)
    return "factors " + to_string(layer.down.shape()) + " and " + to_string(layer.up.shape()) +
           ", not down (r, in) and up (out, r)";
  if (layer.alpha && !is_number(layer.alpha)) return "an alpha of shape " + to_string(layer.alpha.shape());
  return {};
}

/// A tensor that is no factor: why it is skipped; empty for the base's own, and for positions, which some of the
/// original's LoRAs bring along and diffusers drops, too.
std::string stray(const std::string& name) {
  if (name.ends_with(".pos_encoder.pe") || model::place_of(name)) return {};
  return name.find_first_not_of("0123456789.") == std::string::npos ? "an item of a list of tensors, without a name"
                                                                    : "no low-rank factor";
}

/// All layers of the file. Throws FormatError for a damaged tensor.
Layers read_layers(const Checkpoint& checkpoint, std::vector<Lora::Skipped>& skipped) {
  Layers layers;
  for (const auto& [name, view] : checkpoint.tensors()) {
    const std::optional<LoraKey> key = model::read_lora_key(name);
    if (!key) {
      if (std::string why = stray(name); !why.empty()) skipped.push_back({name, std::move(why)});
      continue;
    }
    checkpoint.verify(name);
    Layer& layer = layers[{key->layer, key->adapter}];
    switch (key->part) {
      case LoraKey::Part::down:
        layer.down = as_matrix(view);
        break;
      case LoraKey::Part::up:
        layer.up = as_matrix(view);
        break;
      case LoraKey::Part::alpha:
        layer.alpha = view;
        break;
      case LoraKey::Part::other:
        layer.other = key->kind;
        break;
    }
  }
  return layers;
}

/// One adapter's layers by their paths, with what carries no adapter's name: alphas and other parts.
std::map<std::string, Layer> choose_adapter(const Layers& layers, const std::string& wanted, const std::string& where) {
  std::set<std::string> names;
  for (const auto& [key, layer] : layers)
    if (layer.down || layer.up) names.insert(key.second);
  if (names.size() > 1 ? !names.contains(wanted) || wanted.empty() : !wanted.empty() && !names.contains(wanted)) {
    names.erase("");
    throw ArgumentError("adapter",
                        "one of the adapters in " + where + ":" + first_of({names.begin(), names.end()}, " "),
                        wanted.empty() ? "none" : shortened(wanted));
  }
  std::map<std::string, Layer> chosen;
  const std::string& name = names.size() == 1 ? *names.begin() : wanted;
  for (const auto& [key, layer] : layers) {
    if (!key.second.empty() && key.second != name) continue;
    Layer& to = chosen[key.first];
    if (key.second == name) to.down = layer.down, to.up = layer.up;
    if (layer.alpha) to.alpha = layer.alpha;
    if (!layer.other.empty()) to.other = layer.other;
  }
  return chosen;
}

/// Makes deltas of layers, and says of the others why not.
class PairReader {
 public:
  PairReader(const model::LoraSettings& settings, const std::string& where, std::vector<Lora::Delta>& deltas,
             std::vector<Lora::Skipped>& skipped)
      : settings_(settings), where_(where), deltas_(deltas), skipped_(skipped) {}

  void read(const std::string& key, const Layer& layer) {
    const auto place = model::lora_target(key);
    std::string why = place ? problem_of(layer) : "no weight of a temporal module";
    if (why.empty() && !settings_.unsupported().empty()) why = settings_.unsupported() + ", which is not supported";
    if (!why.empty()) return skipped_.push_back({key, std::move(why)});
    const std::int64_t rank = layer.down.size(0);
    const std::string path = place->module + "." + place->parameter;
    const std::vector<std::string> names = {key, path.substr(0, path.rfind(".weight"))};
    if (const auto said = settings_.rank(names); said && *said != rank)
      return skipped_.push_back(
          {key, "of rank " + std::to_string(rank) + ", where its settings say " + std::to_string(*said)});
    const auto [other, added] = taken_.emplace(path, key);
    if (!added)
      throw CheckpointError(where_, "one pair for " + path, shortened(other->second) + " and " + shortened(key),
                            "Choose those below one path (LoraOptions::select, --lora-select PATH).");
    const double factor =
        layer.alpha ? value_of(layer.alpha) / static_cast<double>(rank) : settings_.factor(names, rank);
    deltas_.push_back({key, place->module, place->parameter, layer.down, layer.up, factor});
  }

 private:
  const model::LoraSettings& settings_;
  const std::string& where_;
  std::vector<Lora::Delta>& deltas_;
  std::vector<Lora::Skipped>& skipped_;
  std::map<std::string, std::string> taken_;  // weight -> the layer that adds to it
};

}  // namespace

Lora Lora::open(const std::filesystem::path& path, const LoraOptions& options) {
  const std::filesystem::path file = file_in(path);
  const Checkpoint checkpoint = Checkpoint::open(file, {.variant = {}, .select = options.select});
  const model::LoraSettings settings(checkpoint, file);
  Lora lora;
  lora.owner_ = checkpoint.owner();
  lora.where_ = path.string();
  const Layers layers = read_layers(checkpoint, lora.skipped_);
  PairReader reader(settings, lora.where_, lora.deltas_, lora.skipped_);
  for (const auto& [key, layer] : choose_adapter(layers, options.adapter, lora.where_)) reader.read(key, layer);
  if (!lora.deltas_.empty()) return lora;
  std::vector<std::string> skipped;
  for (const Skipped& skip : lora.skipped_) skipped.push_back(shortened(skip.key) + ": " + skip.why);
  throw CheckpointError(printable(lora.where_) +
                        ": expected pairs of down (r, in) and up (out, r) for weights of temporal modules, found " +
                        (skipped.empty() ? "none" : "others:" + first_of(skipped)));
}

}  // namespace kineograph
