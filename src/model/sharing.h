// Models of the same file that live at the same time are one.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "kineograph/model.h"
#include "model/impl.h"

namespace kineograph::model {

/// All that a model depends on, where its tensors lie in mapped files that have been at rest: a text that another model
/// has only if it is the same. Empty otherwise, which nothing shares. `impl` has its configuration and engine.
std::string sharing_key(const std::vector<Parameter>& state_dict, const ModelOptions& options,
                        const ModelMixin::Impl& impl);

/// The model of a key, if there is one.
std::shared_ptr<const ModelMixin::Impl> find_shared(const std::string& key);

/// Lets others find `impl` for as long as it lives. Another thread may have been faster: the model to use is returned.
std::shared_ptr<const ModelMixin::Impl> share(const std::string& key, std::shared_ptr<const ModelMixin::Impl> impl);

}  // namespace kineograph::model
