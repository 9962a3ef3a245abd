// Which file of a folder holds the weights.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace kineograph::checkpoint {

/// The weights in a folder that diffusers or transformers wrote: NAME[.variant].safetensors, the index of its shards,
/// or the same of .bin, for NAME of diffusion_pytorch_model, model and pytorch_model. Throws IoError, which names the
/// variants, the subfolders (of a pipeline) or the files that could be meant.
std::filesystem::path weights_file(const std::filesystem::path& folder, std::string_view variant);

/// A shard beside its index, by the name that the index has for it or by the older and newer names of a variant:
/// NAME-00001-of-00002.fp16.safetensors, NAME.fp16-00001-of-00002.safetensors.
std::filesystem::path shard_file(const std::filesystem::path& folder, const std::string& name,
                                 std::string_view variant);

}  // namespace kineograph::checkpoint
