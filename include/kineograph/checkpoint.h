// Checkpoint files: named tensors on disk.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kineograph/error.h"
#include "kineograph/export.h"
#include "kineograph/tensor.h"

namespace kineograph {

/// The path of a file's own top, for OpenOptions::select where the file has further sets of weights below it.
inline constexpr std::string_view kRoot = ".";

/// Which file of a folder is opened, and what of it.
struct OpenOptions {
  /// The variant in the weights' file name, such as "fp16"; empty for none.
  std::string variant = {};
  /// The path of what is read, such as "ema_model.state_dict": the keys of the dictionaries above it, or the beginning
  /// of names, with dots between. Empty for all there is, kRoot for what has no other set's path.
  std::string select = {};
};

/// A safetensors file, a set of shards with an index, or a torch archive, mapped into memory. Views live as long as any
/// copy of it. Torch archives are read without running anything in them.
class KINEOGRAPH_API Checkpoint {
 public:
  /// Opens a .safetensors file, an .index.json of shards, a torch archive (.ckpt, .pth, .bin, .pt: told by its bytes),
  /// or a folder that diffusers or transformers wrote. Every header is checked whole before this returns. Throws
  /// IoError, FormatError, and ArgumentError for a selection that holds no tensor.
  static Checkpoint open(const std::filesystem::path& path, const OpenOptions& options = {});

  /// A safetensors file or a torch archive in the caller's memory, checked as open() checks a file. Views point into
  /// `bytes`, which `owner` keeps alive with every copy of this; without an owner the caller does. `name` stands for
  /// the path in errors; no config.json is looked for. Throws FormatError.
  static Checkpoint from_bytes(std::span<const std::byte> bytes, std::shared_ptr<const void> owner = {},
                               std::string_view name = "a checkpoint in memory");

  /// Names and views in the order of the file. A tensor in dictionaries is named by its path: their keys and its own,
  /// with dots between; below OpenOptions::select.
  const std::vector<std::pair<std::string, TensorView>>& tensors() const noexcept;
  /// A default-made view for a name that is not there.
  TensorView find(std::string_view name) const noexcept;
  /// OpenOptions::select.
  const std::string& selected() const noexcept;
  /// The files' __metadata__.
  const std::map<std::string, std::string>& metadata() const noexcept;
  /// The files that were opened; none for from_bytes.
  const std::vector<std::filesystem::path>& files() const noexcept;
  /// The first file's path, or from_bytes' name.
  const std::string& where() const noexcept;
  /// "safetensors", "torch archive", ...
  const std::string& container() const noexcept;

  /// An object of a torch archive that is no tensor.
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
  struct KINEOGRAPH_LOCAL Impl;
  explicit Checkpoint(std::shared_ptr<const Impl> impl) : impl_(std::move(impl)) {}
  std::shared_ptr<const Impl> impl_;
};

/// Writes a safetensors file atomically: a half-written file never takes the name `path`. Tensors are written row-major
/// in the order that diffusers' library uses (by dtype size, then name), so equal contents give equal bytes.
KINEOGRAPH_API void save_safetensors(const std::filesystem::path& path,
                                     const std::vector<std::pair<std::string, TensorView>>& tensors,
                                     const std::map<std::string, std::string>& metadata = {});

}  // namespace kineograph
