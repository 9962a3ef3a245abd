// kineograph inspect: what a checkpoint holds.
#include <algorithm>
#include <filesystem>
#include <iomanip>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "commands.h"
#include "kineograph/kineograph.h"

namespace kineograph::cli {
namespace {

struct InspectArguments {
  std::string path, variant;
  bool json = false, lenient = false;
};

struct Contents {
  Checkpoint checkpoint;
  std::optional<TransformerTemporalConfig> config;
  std::int64_t values = 0;
  std::size_t bytes = 0;
};

Contents read(const InspectArguments& arguments) {
  Contents contents{Checkpoint::open(arguments.path, arguments.variant), {}};
  const std::filesystem::path config = std::filesystem::path(arguments.path) / "config.json";
  if (std::filesystem::exists(config))
    contents.config = TransformerTemporalConfig::from_file(
        config, arguments.lenient ? UnknownKeys::warn : UnknownKeys::refuse, warn_once());
  for (const auto& [name, view] : contents.checkpoint.tensors()) {
    contents.values += view.numel();
    contents.bytes += static_cast<std::size_t>(view.numel()) * size_of(view.dtype());
  }
  return contents;
}

void print_json(const Contents& contents) {
  nlohmann::ordered_json out;
  out["files"] = nlohmann::json::array();
  for (const auto& file : contents.checkpoint.files()) out["files"].push_back(file.string());
  out["metadata"] = contents.checkpoint.metadata();
  if (contents.config) out["config"] = nlohmann::ordered_json::parse(contents.config->to_json());
  out["values"] = contents.values;
  out["bytes"] = contents.bytes;
  out["tensors"] = nlohmann::json::array();
  for (const auto& [name, view] : contents.checkpoint.tensors())
    out["tensors"].push_back({{"name", name},
                              {"dtype", name_of(view.dtype())},
                              {"shape", std::vector<std::int64_t>(view.shape().begin(), view.shape().end())}});
  // A name need not be UTF-8 for its file to be worth a look.
  std::cout << out.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) << '\n';
}

void print_text(const Contents& contents) {
  for (const auto& file : contents.checkpoint.files()) std::cout << "file      " << file.string() << '\n';
  for (const auto& [key, value] : contents.checkpoint.metadata())
    std::cout << "metadata  " << key << " = " << value << '\n';
  if (contents.config) std::cout << "config    " << contents.config->to_json() << '\n';
  std::size_t width = 0;
  for (const auto& [name, view] : contents.checkpoint.tensors()) width = std::max(width, name.size());
  for (const auto& [name, view] : contents.checkpoint.tensors())
    std::cout << "tensor    " << std::left << std::setw(static_cast<int>(width)) << name << "  " << std::setw(4)
              << name_of(view.dtype()) << "  " << to_string(view.shape()) << '\n';
  std::cout << "total     " << contents.checkpoint.tensors().size() << " tensors, " << contents.values << " values, "
            << contents.bytes << " bytes\n";
}

}  // namespace

void add_inspect(CLI::App& program) {
  auto arguments = std::make_shared<InspectArguments>();
  CLI::App* command = program.add_subcommand("inspect", "Print what a checkpoint holds");
  command->add_option("PATH", arguments->path, "A model folder, a .safetensors file or its .index.json")->required();
  command->add_flag("--json", arguments->json, "Print JSON");
  command->add_option("--variant", arguments->variant, "Variant in the weights' file name, such as fp16");
  command->add_flag("--lenient", arguments->lenient, "Warn of unknown configuration keys instead of refusing them");
  command->footer("Example:\n  kineograph inspect module/ --json");
  command->callback([arguments] {
    const Contents contents = read(*arguments);
    arguments->json ? print_json(contents) : print_text(contents);
  });
}

}  // namespace kineograph::cli
