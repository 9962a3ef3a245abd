#include "job.h"
#include "kineograph/error.h"

namespace kineograph::cli {

std::unique_ptr<Job> join_job(std::chrono::milliseconds) {
  if (const int ranks = ranks_started(); ranks > 1)
    throw ArgumentError("mpirun", "a program built with -DKINEOGRAPH_MPI=ON",
                        "one built without, started " + std::to_string(ranks) + " times",
                        "Each of them would do all of the work and write the same output.");
  return nullptr;
}

}  // namespace kineograph::cli
