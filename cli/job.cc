#include "job.h"

#include <charconv>
#include <cstdlib>
#include <string_view>

namespace kineograph::cli {

int ranks_started() {
  // OpenMPI's mpirun; MPICH's and Intel's, and srun with pmi2.
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE"}) {
    const char* value = std::getenv(name);
    if (value == nullptr) continue;
    const std::string_view text(value);
    int ranks = 1;
    if (std::from_chars(text.data(), text.data() + text.size(), ranks).ec == std::errc() && ranks > 1) return ranks;
  }
  return 1;
}

}  // namespace kineograph::cli
