#include "model/sharing.h"

#include <map>
#include <mutex>

#include "base/mapped_file.h"

namespace kineograph::model {
namespace {

/// By key. Never destroyed: models may outlive static destructors.
struct Registry {
  std::mutex mutex;
  std::map<std::string, std::weak_ptr<const ModelMixin::Impl>> models;
};
Registry& registry() {
  static auto& all = *new Registry;
  return all;
}

/// The place of a tensor in a mapped file; empty for other memory.
std::string place_of(const TensorView& view) {
  const std::string file = checkpoint::identity_at(view.data());
  if (file.empty()) return {};
  return file + " " + std::string(name_of(view.dtype())) + to_string(view.shape()) + to_string(view.strides());
}

}  // namespace

std::string sharing_key(const std::vector<Parameter>& state_dict, const ModelOptions& options,
                        const ModelMixin::Impl& impl) {
  // Places first: a training makes a model of tensors in memory at every step, and writing JSON takes time, and memory
  // even in its destructor, which ends the process where there is none.
  std::string places;
  for (const Parameter& parameter : state_dict) {
    const std::string place = place_of(parameter.value);
    if (place.empty()) return {};
    places += "\n" + parameter.name + " " + place;
  }
  std::string key = std::string(class_name(impl.config)) + "\n" +
                    std::visit([](const auto& one) { return one.to_json(); }, impl.config) + "\n" +
                    std::string(impl.engine->name()) + " " + std::string(impl.choice.isa) + " " +
                    std::string(name_of(impl.prepared.compute_dtype)) + (options.copy_weights ? " copied" : "") +
                    (options.num_positional_embeddings ? " " + std::string(name_of(options.position_extension)) : "");
  const auto address = [](const void* of) { return " " + std::to_string(reinterpret_cast<std::uintptr_t>(of)); };
  return key + address(options.executor) + address(options.memory) + places;
}

std::shared_ptr<const ModelMixin::Impl> find_shared(const std::string& key) {
  if (key.empty()) return nullptr;
  const std::lock_guard lock(registry().mutex);
  const auto found = registry().models.find(key);
  return found == registry().models.end() ? nullptr : found->second.lock();
}

std::shared_ptr<const ModelMixin::Impl> share(const std::string& key, std::shared_ptr<const ModelMixin::Impl> impl) {
  if (key.empty()) return impl;
  const std::lock_guard lock(registry().mutex);
  auto& models = registry().models;
  std::erase_if(models, [](const auto& one) { return one.second.expired(); });
  std::weak_ptr<const ModelMixin::Impl>& known = models[key];
  if (auto faster = known.lock()) return faster;
  known = impl;
  return impl;
}

}  // namespace kineograph::model
