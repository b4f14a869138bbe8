"""The tiny backbone in place of all others."""

from __future__ import annotations

import functools
import re

import pytest
import support

from object_detection_fpn import builder


@pytest.fixture
def backbone_calls(monkeypatch):
    """Puts the tiny backbone in place of all others and records what they are asked for."""
    calls = []

    def make(depth, *, max_level, num_channels, spec, **settings):
        call = {"depth": depth, "max_level": max_level, "num_channels": num_channels, "spec": spec}
        calls.append({**call, "settings": settings})
        return support.make_backbone(spec, max_level=max_level, num_channels=num_channels, **settings)

    for name in list(builder.BACKBONES):
        depth = int(re.search(r"resnet(\d+)", name)[1])
        monkeypatch.setitem(builder.BACKBONES, name, functools.partial(make, depth))
    return calls
