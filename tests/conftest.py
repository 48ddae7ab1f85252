"""Eight fake CPU devices for every test, so that sharding is always exercised."""

import atexit
import os
import shutil
import tempfile

from helpers.xla_flags import FAST_COMPILATION, devices

os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {devices(8)} {FAST_COMPILATION}"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Threads of XLA's pool: with as few as there are devices, collectives of one program can wait for each other for ever.
os.environ.setdefault("NPROC", "32")
os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# What one test compiled, others load, those in processes of their own too.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    cache = tempfile.mkdtemp(prefix="ieat_jax_cache_")
    atexit.register(shutil.rmtree, cache, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = cache
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.5"


# The longest files begin first, so that no worker of pytest-xdist is left with one at the end (--no-loadscope-reorder).
LONG = ("test_kill", "test_loop", "test_stages", "test_configs", "test_compile_check", "test_processes", "test_options")


def pytest_collection_modifyitems(items):
    place = {name: number for number, name in enumerate(LONG)}
    items.sort(key=lambda item: place.get(item.path.stem, len(LONG)))
