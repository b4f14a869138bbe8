from __future__ import annotations

import pytest

from object_detection_fpn.tools.planning import tpu


@pytest.mark.parametrize(
    "name, num_chips, num_replicas",
    [
        ("v2-8", 4, 8),
        ("v3-8", 4, 8),
        ("v3-32", 16, 32),
        ("v4-8", 4, 8),
        ("v5p-8", 4, 4),  # the two cores of a chip work as one
        ("v5e-8", 8, 8),
        ("v5litepod-8", 8, 8),  # Cloud TPU's other name of it
        ("v6e-1", 1, 1),
    ],
)
def test_name_tells_chips_and_replicas(name, num_chips, num_replicas):
    found = tpu.parse_slice(name)
    assert (found.num_chips, found.num_replicas) == (num_chips, num_replicas)


@pytest.mark.parametrize("name", ["v5-8", "v7e-8", "h100", "v3", "v3-", "v5e-8x", ""])
def test_unknown_kind_is_refused_with_all_kinds(name):
    with pytest.raises(
        ValueError, match=f"--tpu = {name} is no TPU. Allowed: v2, v3, v4, v5e, v5p, v6e, each with"
    ) as e:
        tpu.parse_slice(name)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("name, unit", [("v3-4", "cores"), ("v5e-3", "chips"), ("v5p-12", "cores")])
def test_unknown_size_is_refused_with_all_sizes(name, unit):
    with pytest.raises(ValueError, match=rf"there is no {name[:3].rstrip('-')} of \d+ {unit}. Allowed: \d+, "):
        tpu.parse_slice(name)


@pytest.mark.parametrize("name", tpu.KINDS)
def test_published_peak_is_whole_matrix_units_at_the_clock(name):
    """A unit of 128 x 128 cells multiplies and adds in each of them every cycle."""
    kind = tpu.KINDS[name]
    num_units = kind.peak_flops / (2 * 128 * 128 * kind.clock_hz)
    assert num_units == pytest.approx(round(num_units), rel=0.03)


def test_exchange_of_gradients_grows_to_twice_their_bytes():
    one, eight, many = (tpu.parse_slice(f"v5e-{size}") for size in (1, 8, 256))
    assert one.all_reduce_seconds(10**9) == 0.0
    assert eight.all_reduce_seconds(10**9) == pytest.approx(2 * 7 / 8 / 200)
    assert many.all_reduce_seconds(10**9) == pytest.approx(2 / 200, rel=0.01)
