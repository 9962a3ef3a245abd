// The exchange of several processes that share one clip; kineograph/mpi.h has one over MPI.
#pragma once

#include <span>

#include "kineograph/export.h"

namespace kineograph {

/// The other processes of a call: MPI's ranks, torch.distributed's, threads of a test. One object serves one call at a
/// time; its functions are called by one thread at a time, which need not be the one that called forward (for MPI:
/// MPI_THREAD_SERIALIZED).
class KINEOGRAPH_API Communicator {
 public:
  virtual ~Communicator() = default;
  /// This process' number, 0 to size() - 1.
  virtual int rank() const = 0;
  /// Number of processes.
  virtual int size() const = 0;
  /// `all` becomes every rank's `mine` in the order of ranks: size() times as many values. Every rank calls with as
  /// many values as the others. Throws CommunicationError where a rank is dead, or none of its values come in time: a
  /// call never waits for ever.
  virtual void all_gather(std::span<const double> mine, std::span<double> all) = 0;
};

}  // namespace kineograph
