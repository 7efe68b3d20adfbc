"""XLA knows the options that it is given, and a name that it does not know stops nobody."""

from __future__ import annotations

import jax
import pytest

from vitfm.parallel import compiler


def test_every_option_is_known_here_and_asked_for_on_cpus():
    mesh = jax.make_mesh((1,), ("data",), devices=jax.devices()[:1])
    assert compiler.options(mesh) == compiler._CPU


def test_an_option_of_another_release_is_left_out(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(compiler, "_CPU", {"xla_cpu_no_such_option": "X"})
    assert compiler.options(jax.make_mesh((1,), ("data",), devices=jax.devices()[:1])) == {}
