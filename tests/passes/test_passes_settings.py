"""Settings: presets, JSON there and back, and no name that is set in vain."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qgraph.calib.observers.catalog import OBSERVERS
from qgraph.constraints.merge_methods import FAMILIES, MergeMethod
from qgraph.constraints.pack import pack_names
from qgraph.errors import NotFoundError, QgraphError, UsageError
from qgraph.passes.platforms import TargetPlatform, choices_of
from qgraph.passes.settings import QuantizationSetting, QuantizationSettingFactory

methods = st.sampled_from([None, True, False, *map(str, MergeMethod)])


@st.composite
def some_settings(draw: st.DrawFn) -> QuantizationSetting:
    setting = QuantizationSettingFactory.default_setting()
    for name in ("quantize_activation", "quantize_parameter", "fusion"):
        setattr(setting, name, draw(st.booleans()))
    for option in FAMILIES:
        setattr(setting.fusion_setting, option, draw(methods))
    setting.fusion_setting.force_alignment_overlap = draw(st.sampled_from([True, False, "auto"]))
    setting.quantize_activation_setting.calib_algorithm = draw(st.sampled_from([None, *OBSERVERS]))
    setting.quantize_activation_setting.parameters = draw(st.sampled_from([{}, {"percentile": 0.999}]))
    return setting


@given(some_settings())
def test_json_there_and_back(setting: QuantizationSetting) -> None:
    assert QuantizationSetting.from_json(setting.to_json()) == setting


def test_every_rule_pack_is_a_platform() -> None:
    assert sorted(TargetPlatform) == sorted(pack_names())


def test_the_seeds_platform_has_its_observer() -> None:
    assert choices_of(TargetPlatform.PPL_CUDA_INT8).observer == "percentile"


@pytest.mark.parametrize("platform", TargetPlatform)
def test_every_platform_has_a_preset(platform: TargetPlatform) -> None:
    QuantizationSettingFactory.platform_setting(platform).check()


def test_the_presets_of_the_seed() -> None:
    factory = QuantizationSettingFactory
    assert factory.default_setting() == factory.pplcuda_setting() == factory.trt_setting()
    assert not factory.academic_setting().fusion
    assert factory.espdl_setting().fusion_setting.align_elementwise_to == "Align to Output"
    assert factory.default_setting().fusion_setting.force_alignment_overlap is False


def test_settings_are_not_shared() -> None:
    first, second = QuantizationSettingFactory.default_setting(), QuantizationSettingFactory.default_setting()
    first.fusion_setting.force_alignment_overlap = True
    first.quantize_activation_setting.parameters["octaves"] = 3
    assert second == QuantizationSetting()


def test_both_spellings_of_an_alignment_option_are_one() -> None:
    sharing = QuantizationSettingFactory.default_setting().fusion_setting
    sharing.align_concat_to = "Align to Large"
    assert sharing.concat_merge_method == "Align to Large"
    assert sharing.methods.concat_merge_method == MergeMethod.LARGE


def test_an_unknown_setting_is_refused_where_it_is_written() -> None:
    setting = QuantizationSettingFactory.default_setting()
    with pytest.raises(NotFoundError, match="did you mean fusion"):
        setting.fussion = True
    with pytest.raises(NotFoundError, match="did you mean calib_algorithm"):
        setting.quantize_activation_setting.calib_algoritm = "kl"


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"fussion": True}, "did you mean fusion"),
        ({"fusion_setting": {"force_overlap": True}}, "did you mean force_alignment_overlap"),
        ({"fusion": 1}, "must be True or False"),
        ({"fusion_setting": {"concat_merge_method": "Align to Lrge"}}, "unknown method"),
        ({"fusion_setting": {"force_alignment_overlap": "true"}}, 'True, False or "auto"'),
        ({"fusion_setting": 3}, "must be a JSON object"),
        ({"quantize_activation_setting": {"parameters": 3}}, "must be a dict"),
        ({"quantize_activation_setting": {"calib_algorithm": 3}}, "must be a text"),
        ({"schema": 2}, "another version"),
        ([], "another version"),
    ],
)
def test_json_that_is_none_of_ours_is_refused(document: object, message: str) -> None:
    with pytest.raises(QgraphError, match=message):
        QuantizationSetting.from_json(json.dumps(document))


def test_what_is_no_json_is_refused() -> None:
    with pytest.raises(UsageError, match="not JSON"):
        QuantizationSetting.from_json("{")
    with pytest.raises(UsageError, match="not JSON"):
        QuantizationSetting.from_json(3)  # type: ignore[arg-type]
