// A call that several processes share, from Python.
#pragma once

#include <nanobind/stl/optional.h>
#include <nanobind/stl/tuple.h>

#include <cstring>
#include <optional>
#include <tuple>

#include "models.h"

namespace kineograph::python {

/// (all_gather, rank, size, first row, rows of the whole picture); all_gather takes the bytes of this process' values
/// and returns those of all, in the order of ranks.
using RanksArgument = std::optional<std::tuple<nb::object, int, int, std::int64_t, std::int64_t>>;

/// The communicator of a call; what its Python function raises ends the call.
class CallRanks : public Communicator {
 public:
  explicit CallRanks(const RanksArgument& argument) : argument_(argument) {}
  CallRanks(const CallRanks&) = delete;  // options point to it

  void set(ForwardOptions& options) {
    if (!argument_) return;
    options.communicator = this;
    options.first_image_row = std::get<3>(*argument_);
    options.total_image_rows = std::get<4>(*argument_);
  }

  int rank() const override { return std::get<1>(*argument_); }
  int size() const override { return std::get<2>(*argument_); }
  void all_gather(std::span<const double> mine, std::span<double> all) override {
    const nb::gil_scoped_acquire gil;
    const nb::object found = std::get<0>(*argument_)(nb::bytes(mine.data(), mine.size_bytes()));
    const auto values = nb::cast<nb::bytes>(found);
    if (values.size() != all.size_bytes())
      throw CommunicationError("all_gather", std::to_string(all.size_bytes()) + " bytes",
                               std::to_string(values.size()) + " bytes");
    std::memcpy(all.data(), values.c_str(), values.size());
  }

 private:
  const RanksArgument& argument_;
};

}  // namespace kineograph::python
