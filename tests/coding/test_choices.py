"""The numbers of named choices: all that the configuration and the operators offer has one, and keeps it."""

import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from sublora.coding import choices
from sublora.coding.bits import BitReader, BitWriter
from sublora.config.sections import bounds, model
from sublora.nn.operators import OPERATORS

PAGE = (Path(__file__).parents[2] / "docs" / "message.md").read_text()
OFFERED = {
    "BOUND_TYPES": get_args(bounds.BoundType),
    "TARGETS": get_args(model.Targets),
    "ALLOCATION_MODES": get_args(model.AllocationMode),
    "ALLOCATION_SCOPES": get_args(model.AllocationScope),
    "INTRINSIC_MODES": tuple(OPERATORS),
}
FIXED = ("BOUND_TYPES", "ADAPTERS", "TARGETS", "INTRINSIC_MODES", "ALLOCATION_MODES", "ALLOCATION_SCOPES")


@pytest.mark.parametrize("name", OFFERED)
def test_whatever_is_offered_has_a_number(name):
    """Each once: a name with two numbers would be two messages for one model."""
    assert sorted(getattr(choices, name)) == sorted(OFFERED[name])


def test_every_adapter_has_a_number():
    """Two have two: lora on targets, and later on kinds of layers; cores of their own, and later tied ones."""
    numbered = [*choices.ADAPTERS, *choices.LATER_ADAPTERS]
    numbered.remove("lora")
    numbered.remove("spectral")
    assert sorted(numbered) == sorted(get_args(model.Adapter))


@pytest.mark.parametrize("name", FIXED)
def test_the_numbers_are_those_of_the_page(name):
    table = getattr(choices, name)
    assert f"uniform({len(table)})" in PAGE and ", ".join(table) in PAGE
    assert ", ".join(reversed(table)) not in PAGE


def test_later_adapters_have_the_numbers_of_the_page():
    said = "gamma of 1 (unilora), 2 (vera), 3 (lora on kinds of layers) or 4 (tied cores)"
    assert said in PAGE and choices.LATER_ADAPTERS == ("unilora", "vera", "lora", "spectral")


@pytest.mark.parametrize("name", FIXED)
def test_a_choice_is_read_as_it_was_written(name):
    table, writer = getattr(choices, name), BitWriter()
    for chosen in table:
        choices.write_choice(writer, chosen, table)
    reader = BitReader(writer.to_bytes())
    assert tuple(choices.read_choice(reader, table) for _ in table) == table


# What a message of every adapter, mode, scope and claim begins with.
WRITTEN = """
from sublora.coding.bits import BitWriter
from sublora.coding.setting import Setting, write_setting
from sublora.coding.spec import ModelSpec, write_spec
writer = BitWriter()
for claim in ("document_level", "sequence_level", "token_level"):
    write_setting(writer, Setting(bound_type=claim))
for choice in (
    {"adapter": "none"}, {"adapter": "spectral", "targets": "linear"}, {"adapter": "weights"}, {"targets": "linear"},
    {"adapter": "spectral", "tied": True},
    {"adapter": "unilora", "kinds": 3}, {"adapter": "vera", "kinds": 3}, {"allocation_mode": "fixed", "budget_b": 3},
    {"allocation_mode": "learned", "n_gates": 2},
    {"allocation_mode": "learned", "gating_granularity": "module", "n_gates": 2},
    {"allocation_mode": "learned", "allocation_scope": "layer", "n_gates": 2},
):
    write_spec(writer, ModelSpec(seed=5, intrinsic_dim=9, **choice))
print(writer.to_bytes().hex())
"""
SHUFFLED = """
from sublora import config
from sublora.config.sections import bounds, model
for name in ("ADAPTERS", "ALLOCATION_MODES", "ALLOCATION_SCOPES", "TARGETS"):
    setattr(model, name, getattr(model, name)[::-1])
bounds.BOUND_TYPES = config.BOUND_TYPES = config.BOUND_TYPES[::-1]
"""


def test_the_order_of_the_configuration_changes_no_message():
    outputs = [subprocess.check_output([sys.executable, "-c", code]) for code in (WRITTEN, SHUFFLED + WRITTEN)]
    assert outputs[0] == outputs[1] and len(outputs[0]) > 60
