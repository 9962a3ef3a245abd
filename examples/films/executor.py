"""A film restored by a Python executor: processes here, or a Dask cluster.

usage: executor.py FILM OUTPUT [DASK_SCHEDULER]
"""

import concurrent.futures
import sys

import kineograph


def main() -> None:
    film, output, *scheduler = sys.argv[1:]
    if scheduler:
        from dask.distributed import Client

        with Client(*scheduler) as client:
            kineograph.film.restore(film, output, executor=client)
    else:
        with concurrent.futures.ProcessPoolExecutor(2) as pool:
            kineograph.film.restore(film, output, executor=pool, options=["--threads", "1"])


if __name__ == "__main__":
    main()
