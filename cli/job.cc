#include "job.h"

#include <charconv>
#include <cstdlib>
#include <string_view>

#include "kineograph/error.h"

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

void refuse_job(const std::string& command) {
  if (const int ranks = ranks_started(); ranks > 1)
    throw ArgumentError("mpirun", "run or train, which share their work",
                        command + ", started " + std::to_string(ranks) + " times",
                        "Each of them would do all of the work and write the same output.");
}

}  // namespace kineograph::cli
