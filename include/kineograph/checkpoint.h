// Checkpoint files: named tensors on disk.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kineograph/error.h"
#include "kineograph/tensor.h"

namespace kineograph {

/// A safetensors file, a set of shards with an index, or a torch archive, mapped into memory. Views live as long as any
/// copy of it. Torch archives are read without running anything in them.
class Checkpoint {
 public:
  /// Opens a .safetensors file, a .safetensors.index.json, a torch archive (.ckpt, .pth, .bin, .pt: told by its bytes),
  /// or a folder diffusers wrote (with `variant`, such as "fp16"). Every header is checked whole before this returns.
  /// Throws IoError or FormatError.
  static Checkpoint open(const std::filesystem::path& path, std::string_view variant = {});

  /// Names and views in the order of the file.
  const std::vector<std::pair<std::string, TensorView>>& tensors() const noexcept;
  /// A default-made view for a name that is not there.
  TensorView find(std::string_view name) const noexcept;
  /// The files' __metadata__.
  const std::map<std::string, std::string>& metadata() const noexcept;
  /// The files that were opened.
  const std::vector<std::filesystem::path>& files() const noexcept;
  /// "safetensors", "torch archive", ...
  const std::string& container() const noexcept;

  /// What a torch archive holds besides tensors: its name, and what it is.
  struct Ignored {
    std::string name;  ///< its path in the pickled object
    std::string what;  ///< its type, in words
  };
  /// Empty for safetensors.
  const std::vector<Ignored>& ignored() const noexcept;
  /// Reads a tensor whole and compares its checksum, in containers that have one. Throws FormatError.
  void verify(std::string_view name) const;

  /// Lets go of the memory behind a tensor, for programs that go through a large file; views stay valid, and reading
  /// them brings it back.
  void release(std::string_view name) const noexcept;

  /// Throws IoError if one of the files was written to or cut off since it was opened: what was read may be a mixture,
  /// and reading further may end the process.
  void check_unchanged() const;

  /// Keeps the mapped memory alive.
  std::shared_ptr<const void> owner() const noexcept;

 private:
  struct Impl;
  explicit Checkpoint(std::shared_ptr<const Impl> impl) : impl_(std::move(impl)) {}
  std::shared_ptr<const Impl> impl_;
};

/// Writes a safetensors file atomically: a half-written file never takes the name `path`. Tensors are written row-major
/// in the order that diffusers' library uses (by dtype size, then name), so equal contents give equal bytes.
void save_safetensors(const std::filesystem::path& path, const std::vector<std::pair<std::string, TensorView>>& tensors,
                      const std::map<std::string, std::string>& metadata = {});

}  // namespace kineograph
