#include "job.h"

#include <charconv>
#include <cstdlib>
#include <string_view>

namespace kineograph::cli {

int ranks_started() {
  // OpenMPI's mpirun; MPICH's and Intel's, and srun with pmi2; srun with pmix.
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"}) {
    const char* value = std::getenv(name);
    if (value == nullptr) continue;
    const std::string_view text(value);
    int ranks = 0;
    if (std::from_chars(text.data(), text.data() + text.size(), ranks).ec == std::errc() && ranks > 0) return ranks;
  }
  return 0;
}

void warn_of_job(const std::string& command) {
  if (const int ranks = ranks_started(); ranks > 1)
    say("warning: " + command + " shares no work: each of the " + std::to_string(ranks) +
        " processes that were started together does all that it was asked for");
}

}  // namespace kineograph::cli
