// kineograph inspect: what a checkpoint holds.
#include <algorithm>
#include <filesystem>
#include <iomanip>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>

#include "commands.h"
#include "kineograph/kineograph.h"

namespace kineograph::cli {
namespace {

struct InspectArguments {
  std::string path, variant;
  bool json = false, tensors = false;
};

struct Contents {
  Checkpoint checkpoint;
  std::vector<TemporalModule> modules;
  std::int64_t values = 0;
  std::size_t bytes = 0;
};

Contents read(const InspectArguments& arguments) {
  Contents contents{Checkpoint::open(arguments.path, arguments.variant), {}};
  contents.modules = contents.checkpoint.modules();
  for (const auto& [name, view] : contents.checkpoint.tensors()) {
    contents.values += view.numel();
    contents.bytes += static_cast<std::size_t>(view.numel()) * size_of(view.dtype());
  }
  return contents;
}

/// self: attends to the frames again; cross: to encoder_hidden_states; none.
std::string_view attn2_kind(const TransformerTemporalConfig& config) {
  return config.double_self_attention ? "self" : config.cross_attention_dim ? "cross" : "none";
}

std::string display_name(const TemporalModule& module) { return module.name.empty() ? "(the model)" : module.name; }

nlohmann::ordered_json describe(const TemporalModule& module) {
  return {{"name", module.name},
          {"layout", name_of(module.layout)},
          {"dtype", name_of(module.dtype())},
          {"parameters", module.num_parameters()},
          {"attn2", attn2_kind(module.config)},
          {"assumed", module.assumed},
          {"config", nlohmann::ordered_json::parse(module.config.to_json())}};
}

/// Tensors that belong to no temporal module.
std::size_t other_tensors(const Contents& contents) {
  std::size_t used = 0;
  for (const TemporalModule& module : contents.modules) used += module.sources.size();
  return contents.checkpoint.tensors().size() - used;
}

void print_modules(const Contents& contents) {
  std::vector<std::vector<std::string>> rows = {
      {"module", "C", "I", "heads", "layers", "positions", "attn2", "dtype", "parameters"}};
  for (const TemporalModule& module : contents.modules) {
    const TransformerTemporalConfig& c = module.config;
    rows.push_back(
        {display_name(module), c.in_channels ? std::to_string(*c.in_channels) : "-", std::to_string(c.inner_dim()),
         std::to_string(c.num_attention_heads) + " x " + std::to_string(c.attention_head_dim),
         std::to_string(c.num_layers), c.num_positional_embeddings ? std::to_string(*c.num_positional_embeddings) : "-",
         std::string(attn2_kind(c)), std::string(name_of(module.dtype())), std::to_string(module.num_parameters())});
  }
  std::vector<std::size_t> widths(rows.front().size(), 0);
  for (const auto& row : rows)
    for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  for (const auto& row : rows) {
    for (std::size_t i = 0; i < row.size(); ++i)
      std::cout << (i == 0 ? "" : "  ") << (i == 0 ? std::left : std::right) << std::setw(static_cast<int>(widths[i]))
                << row[i];
    std::cout << '\n';
  }
  std::set<std::string> assumed;
  for (const TemporalModule& module : contents.modules) assumed.insert(module.assumed.begin(), module.assumed.end());
  for (const std::string& key : assumed) std::cout << "assumed   " << key << ": as the published models have it\n";
}

void print_json(const Contents& contents) {
  nlohmann::ordered_json out;
  out["files"] = nlohmann::json::array();
  for (const auto& file : contents.checkpoint.files()) out["files"].push_back(file.string());
  out["metadata"] = contents.checkpoint.metadata();
  out["container"] = contents.checkpoint.container();
  out["modules"] = nlohmann::json::array();
  for (const TemporalModule& module : contents.modules) out["modules"].push_back(describe(module));
  out["ignored"] = nlohmann::json::array();
  for (const auto& [name, what] : contents.checkpoint.ignored())
    out["ignored"].push_back({{"name", name}, {"what", what}});
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

void print_tensors(const Contents& contents) {
  std::size_t width = 0;
  for (const auto& [name, view] : contents.checkpoint.tensors()) width = std::max(width, name.size());
  for (const auto& [name, view] : contents.checkpoint.tensors())
    std::cout << "tensor    " << std::left << std::setw(static_cast<int>(width)) << name << "  " << std::setw(4)
              << name_of(view.dtype()) << "  " << to_string(view.shape()) << '\n';
}

void print_text(const Contents& contents, bool tensors) {
  for (const auto& file : contents.checkpoint.files()) std::cout << "file      " << file.string() << '\n';
  std::cout << "container " << contents.checkpoint.container() << '\n';
  if (!contents.modules.empty()) std::cout << "layout    " << name_of(contents.modules.front().layout) << '\n';
  for (const auto& [key, value] : contents.checkpoint.metadata())
    std::cout << "metadata  " << key << " = " << value << '\n';
  for (const auto& [name, what] : contents.checkpoint.ignored())
    std::cout << "ignored   " << name << ": " << what << '\n';
  if (!contents.modules.empty()) print_modules(contents);
  if (tensors || contents.modules.empty()) print_tensors(contents);
  std::cout << "total     " << contents.modules.size() << " temporal modules; " << contents.checkpoint.tensors().size()
            << " tensors, " << other_tensors(contents) << " of them of other things; " << contents.values << " values, "
            << contents.bytes << " bytes\n";
}

}  // namespace

void add_inspect(CLI::App& program) {
  auto arguments = std::make_shared<InspectArguments>();
  CLI::App* command = program.add_subcommand("inspect", "Print what a checkpoint holds");
  command
      ->add_option("PATH", arguments->path,
                   "A model folder, a .safetensors file, its .index.json, or a torch archive (.ckpt, .pth, .bin, .pt)")
      ->required();
  command->add_flag("--json", arguments->json, "Print JSON");
  command->add_option("--variant", arguments->variant, "Variant in the weights' file name, such as fp16");
  command->add_flag("--tensors", arguments->tensors, "List every tensor");
  command->footer("Example:\n  kineograph inspect module/ --json");
  command->callback([arguments] {
    const Contents contents = read(*arguments);
    arguments->json ? print_json(contents) : print_text(contents, arguments->tensors);
  });
}

}  // namespace kineograph::cli
