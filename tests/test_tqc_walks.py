"""Walks over the table of transitions: whatever is done to configs, in any order, what they promise holds."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from qgraph.errors import TransitionError
from qgraph.tqc import TRANSITIONS, QuantizationState, Scheme, TensorQuantizationConfig, copy_configs

INT8 = Scheme(8, signed=True, symmetric=True, quant_min=-128, quant_max=127)
UINT8 = Scheme(8, signed=False, symmetric=False, quant_min=0, quant_max=255)
SCHEMES = {"a": INT8, "b": INT8, "c": INT8, "d": INT8, "other": UINT8}

names = st.sampled_from(sorted(SCHEMES))
states = st.sampled_from(list(QuantizationState))
scales = st.floats(2.0**-20, 2.0**20, width=32)

WITHOUT_SCALE = (QuantizationState.INITIAL, QuantizationState.FP32)


class Walk(RuleBasedStateMachine):
    """Five configs, one of which can share with nobody, and a model of what each should be."""

    def __init__(self) -> None:
        super().__init__()
        self.configs = {name: TensorQuantizationConfig(name, scheme) for name, scheme in SCHEMES.items()}
        self.state = dict.fromkeys(SCHEMES, QuantizationState.INITIAL)
        self.master: dict[str, str | None] = dict.fromkeys(SCHEMES)
        self.scale: dict[str, float | None] = dict.fromkeys(SCHEMES)

    def chain(self, name: str) -> list[str]:
        found = [name]
        while (master := self.master[found[-1]]) is not None:
            found.append(master)
        return found

    def root(self, name: str) -> str:
        return self.chain(name)[-1]

    @rule(name=names, new=states)
    def assign_a_state(self, name: str, new: QuantizationState) -> None:
        def move() -> None:
            self.configs[name].state = new

        if new == QuantizationState.SLAVE or new not in TRANSITIONS[self.state[name]]:
            with pytest.raises(TransitionError):
                move()
            return
        move()
        self.state[name], self.master[name] = new, None
        if new in WITHOUT_SCALE:
            self.scale[name] = None

    @rule(name=names, master=names)
    def link(self, name: str, master: str) -> None:
        allowed = (
            name not in self.chain(master)
            and SCHEMES[name] == SCHEMES[master]
            and QuantizationState.SLAVE in TRANSITIONS[self.state[name]]
        )
        if not allowed:
            with pytest.raises(TransitionError):
                self.configs[name].set_master(master=self.configs[master])
            return
        self.configs[name].set_master(master=self.configs[master])
        self.state[name], self.master[name] = QuantizationState.SLAVE, master

    @rule(name=names, scale=scales)
    def calibrate(self, name: str, scale: float) -> None:
        def activate() -> None:
            self.configs[name].activate((scale,), (SCHEMES[name].symmetric_offset,))

        if self.state[name] != QuantizationState.INITIAL:
            with pytest.raises(TransitionError):
                activate()
            return
        activate()
        self.state[name], self.scale[name] = QuantizationState.ACTIVATED, scale

    @rule(name=names, scale=scales)
    def write_a_scale(self, name: str, scale: float) -> None:
        unwritable = ("SLAVE", "FP32", "FIXED", "PASSIVE")
        if self.state[name] in unwritable:
            with pytest.raises(TransitionError):
                self.configs[name].scale = scale
            return
        self.configs[name].scale = scale
        self.scale[name] = scale

    @rule()
    def go_on_with_copies(self) -> None:
        originals = self.configs
        self.configs = copy_configs(originals)
        alive = {id(config) for config in self.configs.values()}
        for config in self.configs.values():
            assert id(config.root) in alive
            assert config.master is None or id(config.master) in alive
        for config in originals.values():  # what happens to the originals is nothing to the copies
            if config.state != QuantizationState.FP32:
                config.state = QuantizationState.FP32

    @invariant()
    def every_config_is_what_its_history_says(self) -> None:
        for name, config in self.configs.items():
            assert config.state == self.state[name]
            assert config.master is (None if (master := self.master[name]) is None else self.configs[master])
            assert config.root is self.configs[self.root(name)]
            expected = self.scale[self.root(name)]
            assert config.scale == (None if expected is None else (expected,))


TestWalk = Walk.TestCase
TestWalk.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def config(scheme: Scheme = INT8) -> TensorQuantizationConfig:
    return TensorQuantizationConfig("t", scheme)


def test_a_copy_takes_masters_along_that_are_not_asked_for() -> None:
    slave, middle, master = config(), config(), config()
    master.activate((0.5,), (0,))
    slave.set_master(master=middle)
    middle.set_master(master=master)
    copy = copy_configs({"slave": slave})["slave"]
    master.scale = 2.0
    assert (copy.scale, slave.scale) == ((0.5,), (2.0,))
    assert copy.root not in (master, middle)


def test_masters_may_be_assigned_and_let_go() -> None:
    slave, master = config(), config()
    slave.master = master
    states = [slave.state]
    for _ in range(2):
        slave.master = None
        states.append(slave.state)
    assert states == [QuantizationState.SLAVE, QuantizationState.INITIAL, QuantizationState.INITIAL]
    assert slave.master is None


def test_a_slave_cannot_become_the_slave_of_its_own_slave() -> None:
    a, b, c = config(), config(), config()
    a.set_master(master=b)
    c.set_master(master=a)
    with pytest.raises(TransitionError, match="cycle"):
        a.set_master(master=c)


@pytest.mark.parametrize("wrong", [0.0, -1.0, float("nan"), float("inf"), 1e-45, 1e300, (1.0, 2.0), (), "text"])
def test_a_scale_that_cannot_be_is_refused(wrong: object) -> None:
    with pytest.raises(TransitionError):
        config().scale = wrong  # type: ignore[assignment]


def test_scales_may_be_arrays_and_lists() -> None:
    import numpy as np
    import torch

    per_channel = config(Scheme(8, signed=True, symmetric=True, quant_min=-127, quant_max=127, axis=0))
    for given in (np.array([0.5, 0.25]), torch.tensor([0.5, 0.25]), [0.5, 0.25]):
        per_channel.scale = given
        assert per_channel.scale == (0.5, 0.25)
    whole = config()
    for one in (np.float32(0.5), torch.tensor(0.5), np.array([0.5]), 0.5):
        whole.scale = one
        assert whole.scale == (0.5,)


@pytest.mark.parametrize(("scheme", "offset", "fits"), [
    (INT8, 0, True), (INT8, 1, False), (UINT8, 255, True), (UINT8, 256, False), (UINT8, 0.5, False),
])  # fmt: skip
def test_an_offset_has_to_be_in_the_range(scheme: Scheme, offset: float, fits: bool) -> None:
    written = config(scheme)
    if fits:
        written.offset = offset
        assert written.offset == (offset,)
    else:
        with pytest.raises(TransitionError, match="an offset that the scheme cannot have"):
            written.offset = offset


def test_a_power_of_two_stays_one() -> None:
    scheme = Scheme(8, signed=True, symmetric=True, quant_min=-128, quant_max=127, power_of_two=True)
    written = config(scheme)
    written.scale = 0.125
    with pytest.raises(TransitionError, match="no power of two"):
        written.scale = 0.1
