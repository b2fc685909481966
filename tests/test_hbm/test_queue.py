"""Which galaxies share a leg."""

import jax
import pytest

from hbm.queue import Queue, default_batch_size, leg_width


def test_legs_are_full_while_enough_galaxies_wait():
    queue = Queue(range(10), 4)
    assert queue.take() == ("new", [0, 1, 2, 3])
    for row in (0, 2, 3):
        queue.put("onward", row)
    queue.put("anew", 1)
    assert queue.take() == ("new", [4, 5, 6, 7])
    queue.put("onward", 5)
    assert queue.take() == ("onward", [0, 2, 3, 5])  # four wait now: before new ones
    assert queue.take() == ("new", [8, 9])  # before parts of the others, which these may join
    queue.put("onward", 8)
    assert queue.take() == ("anew", [1])
    queue.put("onward", 1)
    assert queue
    assert queue.take() == ("onward", [8, 1])
    assert not queue


def test_nothing_comes_from_an_empty_queue():
    with pytest.raises(IndexError):
        Queue([], 2).take()


@pytest.mark.parametrize(
    ("n_galaxy", "batch_size", "n_device", "width"),
    [(1, 8, 2, 1), (3, 8, 2, 4), (100, 8, 2, 8), (100, 5, 2, 6), (100, 5, 1, 5), (2, 8, 4, 2)],
)
def test_places_are_shared_equally_by_the_devices(monkeypatch, n_galaxy, batch_size, n_device, width):
    monkeypatch.setattr(jax, "local_devices", lambda: [None] * n_device)
    assert leg_width(n_galaxy, batch_size) == width


def test_a_processor_has_few_places_and_an_accelerator_many(monkeypatch):
    monkeypatch.setattr(jax, "local_devices", lambda: [None] * 2)
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    on_cpu = default_batch_size()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert (on_cpu, default_batch_size()) == (8, 128)
