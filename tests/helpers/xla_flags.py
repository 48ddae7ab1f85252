"""XLA flags of the tests, also for the processes that they start."""

from importlib.metadata import version

# Without LLVM's optimiser and XLA's own emitters of fusions, the small programs of the tests compile in a fifth of the
# time. Results are the same to rounding. A flag that a version does not know ends the process, and jaxlib 0.12 knows
# only the first.
FAST_COMPILATION = "--xla_backend_optimization_level=0"
if version("jaxlib").startswith("0.10."):
    FAST_COMPILATION += " --xla_cpu_use_fusion_emitters=false"


def devices(count):
    """As many fake CPU devices."""
    return f"--xla_force_host_platform_device_count={count}"
