"""Memory that a step frees is not asked of the kernel again."""

import os
import platform
import subprocess
import sys
from types import SimpleNamespace

import jax
import pytest

from train.runtime import memory

_PAGES_OF_A_CALL = """
import resource, statistics, sys
from train.runtime.memory import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
import jax, jax.numpy as jnp
call = jax.jit(lambda x: x @ (x.T @ x))
x = jnp.ones((2, 4000))  # 64 MB of scratch memory between the products
faults = []
for _ in range(25):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    call(x).block_until_ready()
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(statistics.median(faults))
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the option is of glibc's malloc")
def test_scratch_memory_stays_with_the_process():
    def pages(how: str) -> float:
        command = [sys.executable, "-c", _PAGES_OF_A_CALL, how]
        return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    assert pages("keep") < 1000
    given_back = pages("give back")
    if given_back < 20:  # a kernel, or a malloc, that keeps the memory as well
        pytest.skip("memory given back causes no page faults here")
    assert given_back > 10_000


@pytest.fixture
def asked_of_malloc(monkeypatch):
    """The options that are set, by number, of a glibc that is not there; on two cores."""
    options: dict[int, int] = {}
    libc = SimpleNamespace(mallopt=options.__setitem__)
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: libc)
    monkeypatch.setattr(memory.platform, "libc_ver", lambda: ("glibc", "2.36"))
    monkeypatch.setattr(memory.os, "sched_getaffinity", lambda process: {0, 1})
    return options


@pytest.fixture
def platforms():
    """Sets JAX_PLATFORMS, also to None, without a backend of that name."""
    before = getattr(jax.config, "jax_platforms", None)
    yield lambda names: jax.config.update("jax_platforms", names)
    jax.config.update("jax_platforms", before)


def installed(monkeypatch, *modules, plugins=()):
    """Lets these modules be installed, and these plugins be declared by packages."""
    found = {name: object() for name in modules}
    monkeypatch.setattr(memory, "find_spec", found.get)
    monkeypatch.setattr(memory, "entry_points", lambda group: plugins)
    monkeypatch.delenv("TPU_LIBRARY_PATH", raising=False)


@pytest.mark.parametrize(
    "names, modules, is_cpu",
    [
        ("cpu", ("jax_plugins",), True),
        ("cpu,cuda", ("jax_plugins",), True),
        ("cuda,cpu", (), False),
        (None, (), True),
        ("", (), True),
        (None, ("jax_plugins",), False),
        (None, ("libtpu",), False),
    ],
)
def test_malloc_is_changed_only_where_jax_computes_on_the_cpu(
    names, modules, is_cpu, asked_of_malloc, platforms, monkeypatch
):
    installed(monkeypatch, *modules)
    platforms(names)
    memory.keep_freed_memory()
    assert memory.computes_on_cpu() is is_cpu and bool(asked_of_malloc) is is_cpu


def test_declared_plugin_and_library_of_a_tpu_are_accelerators(platforms, monkeypatch):
    platforms(None)
    installed(monkeypatch, plugins=("xla_cuda13",))
    assert not memory.computes_on_cpu()
    installed(monkeypatch)
    monkeypatch.setenv("TPU_LIBRARY_PATH", "libtpu.so")
    assert not memory.computes_on_cpu()


def test_many_cores_keep_several_pools_of_memory(asked_of_malloc, platforms, monkeypatch):
    platforms("cpu")
    one_pool = {-4: 0, -8: 1, -1: 2**31 - 1}  # by the numbers of malloc.h
    memory.keep_freed_memory()
    assert asked_of_malloc == one_pool
    asked_of_malloc.clear()
    monkeypatch.setattr(memory.os, "sched_getaffinity", lambda process: set(range(16)))
    memory.keep_freed_memory()
    assert asked_of_malloc == {option: one_pool[option] for option in (-4, -1)}


def test_backend_of_an_installed_plugin_is_not_initialised(tmp_path):
    plugin = tmp_path / "jax_plugins" / "nowhere"
    plugin.mkdir(parents=True)
    (plugin / "__init__.py").write_text("def initialize():\n    raise SystemExit('initialised')\n")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from train.runtime.memory import computes_on_cpu\n"
        "print(computes_on_cpu())\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "JAX_PLATFORMS"}
    command = [sys.executable, "-c", code]
    shown = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert shown.stdout == "False\n", shown.stderr
