#include "checkpoint/foreign.h"

#include <algorithm>
#include <cctype>
#include <string>

#include "kineograph/error.h"

namespace kineograph::checkpoint {
namespace {

constexpr const char* kWanted = "a safetensors file or a torch archive";

/// The beginning of a file, which tells what it is.
struct Beginning {
  std::string_view raw;
  std::string text;  ///< in lower case, without leading spaces
};

Beginning beginning_of(std::span<const std::byte> bytes) {
  constexpr std::size_t kEnough = 512;
  Beginning out{{reinterpret_cast<const char*>(bytes.data()), std::min(bytes.size(), kEnough)}, {}};
  std::string_view text = out.raw;
  if (text.starts_with("\xef\xbb\xbf")) text.remove_prefix(3);
  while (!text.empty() && std::isspace(static_cast<unsigned char>(text.front()))) text.remove_prefix(1);
  for (const char letter : text) out.text += static_cast<char>(std::tolower(static_cast<unsigned char>(letter)));
  return out;
}

bool is_html(const Beginning& file) {
  return file.text.starts_with("<!doctype html") || file.text.starts_with("<html") || file.text.starts_with("<head") ||
         file.text.starts_with("<?xml");
}

/// What git leaves in place of a large file that was not fetched: a line of a version, one of a hash.
bool is_lfs_pointer(const Beginning& file) {
  return file.text.starts_with("version ") && file.text.find("\noid sha256:") != std::string::npos;
}

/// ONNX is a protobuf without a magic number: ir_version (field 1, a small number), then producer_name (field 2) or
/// opset_import (field 8).
bool is_onnx(const Beginning& file) {
  if (file.raw.size() < 16 || file.raw[0] != '\x08' || file.raw[1] == 0 || file.raw[1] > 32) return false;
  // Eight bytes of a safetensors header's length have zeros at the end, and then comes a brace.
  return (file.raw[2] == '\x12' || file.raw[2] == '\x42') && file.raw[8] != '{';
}

/// A pickle of protocol 2 to 5 that does not begin as the older format of torch does.
bool is_pickle(const Beginning& file) {
  return file.raw.size() > 8 && file.raw[0] == '\x80' && file.raw[1] >= 2 && file.raw[1] <= 5 && file.raw[8] != '{';
}

bool is_printable(const Beginning& file) {
  return std::all_of(file.raw.begin(), file.raw.end(), [](char letter) {
    const auto byte = static_cast<unsigned char>(letter);
    return byte >= 0x20 || byte == '\n' || byte == '\r' || byte == '\t';
  });
}

}  // namespace

void refuse_foreign(std::span<const std::byte> bytes, std::string_view where) {
  const Beginning file = beginning_of(bytes);
  const auto refuse = [&](const char* found, const char* hint) {
    throw FormatError(std::string(where), kWanted, found, hint);
  };
  if (bytes.empty()) refuse("an empty file", "A download or a copy of it may have failed.");
  if (is_lfs_pointer(file)) refuse("Git LFS's pointer to the file", "`git lfs pull` fetches the file itself.");
  if (is_html(file))
    refuse("a web page", "The download gave an error or a sign-in page instead of the file; download it again.");
  if (file.raw.starts_with("GGUF") || file.raw.starts_with("lmgg") || file.raw.starts_with("tjgg"))
    refuse("a GGUF file of llama.cpp's kind, with quantised weights", "Get the model as safetensors.");
  if (file.raw.starts_with("\x89HDF")) refuse("an HDF5 file, as Keras writes them", "Get the model as safetensors.");
  if (file.raw.starts_with("\x1f\x8b") || file.raw.starts_with("BZh") ||
      file.raw.starts_with("\xfd"
                           "7zXZ") ||
      file.raw.starts_with("\x28\xb5\x2f\xfd") || file.raw.starts_with("7z\xbc\xaf") || file.raw.starts_with("Rar!"))
    refuse("a compressed file", "Unpack it first.");
  if (bytes.size() > 262 && std::string_view(reinterpret_cast<const char*>(bytes.data()) + 257, 5) == "ustar")
    refuse("a tar archive", "Unpack it first.");
  if (is_onnx(file)) refuse("an ONNX model", "Get the model's weights as safetensors.");
  if (is_pickle(file))
    refuse("a pickle that torch.save did not write",
           "In Python, and only if its source is trusted: torch.save(pickle.load(open(FILE, 'rb')), 'weights.pt').");
  if (file.text.starts_with("{") && is_printable(file))
    refuse("a JSON text", "An index of shards has a name that ends with .json.");
  if (bytes.size() >= 8 && is_printable(file)) refuse("a text", "It may be a download's error message.");
}

}  // namespace kineograph::checkpoint
