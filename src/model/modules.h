// The choice of one module of a checkpoint.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/text.h"
#include "kineograph/modules.h"
#include "model/contents.h"

namespace kineograph::model {

/// The module that `name` means among `all`, the checksums of its tensors checked; an empty name means the only one.
/// Throws CheckpointError where there is none or it cannot be loaded, ArgumentError for a name that is not there.
template <class Module>
const Module& pick(const Checkpoint& checkpoint, const std::vector<Module>& all, std::string_view name,
                   std::string_view kind) {
  const std::string& where = checkpoint.where();
  if (all.empty()) throw no_modules(checkpoint, std::string(kind));
  std::vector<std::string> known;
  for (const Module& module : all) {
    known.push_back(module.name.empty() ? std::string("the only one") : module.name);
    if (module.name != name && !(name.empty() && all.size() == 1)) continue;
    if (!module.problem.empty())
      throw CheckpointError("Module " + module.name + " of " + printable(where) +
                            " cannot be loaded:" + module.problem + quantised(checkpoint));
    for (const std::string& source : module.sources) checkpoint.verify(source);
    return module;
  }
  throw ArgumentError("module", "one of" + first_of(known, " ", 40), name.empty() ? "none" : std::string(name));
}

}  // namespace kineograph::model
