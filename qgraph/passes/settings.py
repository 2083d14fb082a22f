"""The settings of `quantize_onnx_model` and `quantize_torch_model`, and their presets.

    setting = QuantizationSettingFactory.default_setting()
    setting.fusion_setting.force_alignment_overlap = True
    setting.quantize_activation_setting.calib_algorithm = "kl"
    QuantizationSetting.from_json(setting.to_json()) == setting

A name that no setting has is refused where it is written, with the near ones: nothing is set in vain.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self

from qgraph.constraints.merge_methods import FAMILIES, Given, MergeMethods, merge_methods
from qgraph.errors import NotFoundError, UsageError
from qgraph.passes.platforms import TargetPlatform
from qgraph.solve.run import AUTO_OVERLAP, ForceOverlap, Parameter

SCHEMA = 1
"""Version of the JSON form."""


class _Checked:
    """Settings whose names are known: anything else is refused."""

    def __setattr__(self, name: str, value: object) -> None:
        if not hasattr(type(self), name) and name not in {one.name for one in fields(self)}:  # type: ignore[arg-type]
            raise self._unknown(name)
        super().__setattr__(name, value)

    @classmethod
    def _unknown(cls, name: str) -> NotFoundError:
        known = [one.name for one in fields(cls)]  # type: ignore[arg-type]
        return NotFoundError.among(f"setting of {cls.__name__}", name, known, f"use {', '.join(known)}")

    @classmethod
    def from_dict(cls, document: object) -> Self:
        """Settings from what `as_dict` made.

        Raises:
            NotFoundError: an unknown key.
            UsageError: a value of a wrong type.
        """
        if not isinstance(document, Mapping):
            raise UsageError(f"{cls.__name__} must be a JSON object", repr(document)[:60], "see to_json of a setting")
        made = cls()
        for key, value in document.items():
            if key not in {one.name for one in fields(made)}:  # type: ignore[arg-type]
                raise cls._unknown(str(key))
            part = getattr(made, key)
            if isinstance(part, _Checked):
                setattr(made, key, part.from_dict(value))
            else:
                setattr(made, key, value)
        made.check()
        return made

    def as_dict(self) -> dict[str, Any]:
        """The settings as plain data, by name."""
        return asdict(self)  # type: ignore[call-overload, no-any-return]

    def check(self) -> None:
        """Refuse values of wrong types.

        Raises:
            UsageError: names the first one.
        """
        for one in fields(self):  # type: ignore[arg-type]
            value = getattr(self, one.name)
            if isinstance(value, _Checked):
                value.check()
            elif one.type == "bool" and not isinstance(value, bool):
                raise UsageError(f"{one.name} must be True or False", repr(value)[:60], "set one of the two")
            elif one.type == "str | None" and not isinstance(value, str | None):
                raise UsageError(f"{one.name} must be a text or None", repr(value)[:60], "None leaves the choice")


@dataclass
class ActivationSetting(_Checked):
    """How activations are calibrated.

    Attributes:
        calib_algorithm: an observer; None leaves the choice to the platform.
        parameters: of the observer, by name.
    """

    calib_algorithm: str | None = None
    parameters: dict[str, Parameter] = field(default_factory=dict)

    def check(self) -> None:
        """Refuse values of wrong types."""
        super().check()
        given: object = self.parameters
        if not isinstance(given, dict) or not all(isinstance(name, str) for name in given):
            raise UsageError("parameters must be a dict by name", repr(given)[:60], "see qgraph observers")


@dataclass
class ParameterSetting(_Checked):
    """How weights and biases are quantized.

    Attributes:
        calib_algorithm: ``minmax`` or ``mse`` for weights; None leaves the choice to the platform.
        quantize_passive_parameter: whether biases get the scale that follows from input and weight.
    """

    calib_algorithm: str | None = None
    quantize_passive_parameter: bool = True


def _alias(option: str) -> Any:
    """The seed system's own spelling of an alignment option in its settings."""

    def write(setting: object, method: Given) -> None:
        setattr(setting, option, method)

    return property(lambda setting: getattr(setting, option), write, doc=f"Another name of `{option}`.")


@dataclass
class FusionSetting(_Checked):
    """What shares scale and offset.

    Attributes:
        elementwise_merge_method, concat_merge_method, averagepool_method, resize_method: the alignment options; None
            leaves the choice to the platform, "None" is no alignment.
        force_alignment_overlap: whether all readers of a tensor take the scale of an aligned one: False, True, "auto".
    """

    elementwise_merge_method: Given = None
    concat_merge_method: Given = None
    averagepool_method: Given = None
    resize_method: Given = None
    force_alignment_overlap: ForceOverlap = False

    align_elementwise_to = _alias("elementwise_merge_method")
    align_concat_to = _alias("concat_merge_method")
    align_avgpooling_to = _alias("averagepool_method")
    align_resize_to = _alias("resize_method")

    @property
    def methods(self) -> MergeMethods:
        """The alignment options, read.

        Raises:
            NotFoundError: no such method.
        """
        return merge_methods(**{option: getattr(self, option) for option in FAMILIES})

    def check(self) -> None:
        """Refuse values that cannot be."""
        _ = self.methods
        overlap: object = self.force_alignment_overlap
        if not isinstance(overlap, bool) and overlap != AUTO_OVERLAP:
            cure = 'say True, False or "auto"'
            raise UsageError('force_alignment_overlap must be a bool or "auto"', repr(overlap)[:60], cure)


@dataclass
class QuantizationSetting(_Checked):
    """Which passes are run, and how.

    Attributes:
        quantize_activation: run `RuntimeCalibrationPass`; without it activations wait in the state INITIAL.
        quantize_parameter: run `ParameterQuantizePass`, and for biases `PassiveParameterQuantizePass`.
        fusion: run `QuantizeFusionPass` and `QuantAlignmentPass`.
    """

    quantize_activation: bool = True
    quantize_activation_setting: ActivationSetting = field(default_factory=ActivationSetting)
    quantize_parameter: bool = True
    quantize_parameter_setting: ParameterSetting = field(default_factory=ParameterSetting)
    fusion: bool = True
    fusion_setting: FusionSetting = field(default_factory=FusionSetting)

    def to_json(self) -> str:
        """The settings as JSON, which `from_json` reads."""
        self.check()
        return json.dumps({"schema": SCHEMA, **self.as_dict()}, indent=2, sort_keys=True, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> QuantizationSetting:
        """Read settings.

        Raises:
            UsageError: not JSON, of another version, or a value of a wrong type.
            NotFoundError: an unknown key; the cure suggests near ones.
        """
        try:
            document = json.loads(text)
        except (TypeError, ValueError) as error:
            raise UsageError("settings that are not JSON", str(error), "write what to_json made") from error
        if not isinstance(document, dict) or document.pop("schema", SCHEMA) != SCHEMA:
            raise UsageError("settings of another version", text[:60], f'write "schema": {SCHEMA}')
        return cls.from_dict(document)


class QuantizationSettingFactory:
    """Presets. What they leave open is the platform's to choose, so that most of them are equal."""

    @staticmethod
    def default_setting() -> QuantizationSetting:
        """Everything is quantized, pairs are fused, ops are aligned as the platform does it."""
        return QuantizationSetting()

    @staticmethod
    def academic_setting() -> QuantizationSetting:
        """Every slot for itself: no fused pairs, no alignment but what the target requires."""
        return QuantizationSetting(fusion=False)

    @staticmethod
    def platform_setting(platform: TargetPlatform | str) -> QuantizationSetting:
        """The settings that suit a platform."""
        if platform == TargetPlatform.ESPDL_INT8:
            return QuantizationSettingFactory.espdl_setting()
        return QuantizationSetting()

    @staticmethod
    def espdl_setting() -> QuantizationSetting:
        """Elementwise ops, concats and resizes aligned to their outputs, observer kl, as esp-ppq does."""
        aligned = FusionSetting("Align to Output", "Align to Output", None, "Align to Output")
        return QuantizationSetting(quantize_activation_setting=ActivationSetting("kl"), fusion_setting=aligned)

    @staticmethod
    def pplcuda_setting() -> QuantizationSetting:
        """For PPL_CUDA_INT8."""
        return QuantizationSettingFactory.platform_setting(TargetPlatform.PPL_CUDA_INT8)

    @staticmethod
    def trt_setting() -> QuantizationSetting:
        """For TRT_INT8."""
        return QuantizationSettingFactory.platform_setting(TargetPlatform.TRT_INT8)
