"""The JSON of every command, key by key, in the notation of `json_shapes`. Tools rely on it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NAME = (str, None)
NUMBER = (float, None)
SCALE = (float, [float], None)
OFFSET = (int, [int], None)
PARAMETERS = {"scale": SCALE, "offset": OFFSET}
VALUE = (str, int, float, bool, None, {...: (str, int, float, bool)})
SETTINGS = {
    "target": str,
    "target_version": str,
    "force_overlap": (bool, str),
    "observer": NAME,
    "observer_parameters": {...: (int, float, str, bool)},
    "weights": NAME,
    "elementwise_merge_method": NAME,
    "concat_merge_method": NAME,
    "averagepool_method": NAME,
    "resize_method": NAME,
    "observer_digest": NAME,
    "overrides": [str],
}
FINDING = {"kind": str, "rule": str, "op": str, "op_type": str, "source": str, "slots": [str], "message": str}
A_RUN = {
    "run": str,
    "name": NAME,
    "model": str,
    "model_name": NAME,
    "model_path": NAME,
    "calibration": NAME,
    "samples": (int, None),
    "settings": SETTINGS,
    "created": str,
}
A_MODEL = {
    "id": str,
    "name": NAME,
    "path": NAME,
    "fingerprint": str,
    "graph": str,
    "weights": NAME,
    "opset": int,
    "created": str,
    "parent": NAME,
    "derivation": ({...: VALUE}, None),
}
A_CALIBRATION = {
    "id": str,
    "data": NAME,
    "preprocessing": NAME,
    "steps": (int, None),
    "batch_size": (int, None),
    "runner": NAME,
    "capability": NAME,
    "shard": NAME,
    "identity": str,
    "status": str,
    "samples": int,
    "distinct_samples": int,
    "sample_set": NAME,
    "inferences": int,
    "created": str,
    "updated": str,
    "version": str,
}
EDGE = {"kind": str, "rule": NAME, "op": NAME, "op_type": NAME, "from": str, "to": str, "source": NAME}
CHOICE = {"observer": NAME, "observer_reason": NAME}
REGROUPED = {"group": str, "tensors": [str], "others": [str]}
CHANGE = {"kind": str, "tensor": str, "op": NAME, **PARAMETERS, "price_db": NUMBER}
VIOLATION = {
    "rule": str,
    "kind": str,
    "op": str,
    "op_type": str,
    "source": str,
    "message": str,
    "tensors": [{"name": str, "dtype": str, **PARAMETERS}],
    "ratio": NUMBER,
    "repair": str,
    "alternatives": [CHANGE],
}
RUN = {"schema": int, "run": str}
REMOVED = {"runs": [str], "calibrations": [str], "models": [str]}
AGREEMENT = {
    "exact": bool,
    "snr_db": NUMBER,
    "cosine": NUMBER,
    "mse": NUMBER,
    "top1": NUMBER,
    "max_abs_error": float,
    "nonfinite": int,
    "broken": int,
}
HIDDEN = {"axis": int, "slices": int, "below_db": float, "snr_db": {...: float}}
NOISE_BY_PART = {"all": NUMBER, "rounding": NUMBER, "clipping": NUMBER, "sharing": NUMBER}
SENSITIVITY = {
    "kind": str,
    "name": str,
    "group": str,
    "tensors": [str],
    "role": str,
    "noise_db": NOISE_BY_PART,
    "outputs": {...: NOISE_BY_PART},
}

SHAPES: Mapping[str, Any] = {
    "calibrate --dry-run": {
        "schema": int,
        "dry_run": bool,
        "samples": int,
        "passes": int,
        "inferences": int,
        "tensors": {"collected": int, "followed": int, "not_collected": {...: int}},
        "memory_bytes": {"fixed": int, "activations": int, "histograms": int, "peak": int, "formula": str},
        "seconds": {"reading": float, "running": float, "total": float},
        "checkpoint_bytes": int,
    },
    "show --tensor": {
        "schema": int,
        "run": str,
        "tensor": str,
        "statistics": (
            {
                "samples": int,
                "elements": int,
                "minimum": NUMBER,
                "maximum": NUMBER,
                "zeros": int,
                "nan": int,
                "infinities": int,
                "bins": int,
                "condition": NAME,
                "provenance": {"minimum": NAME, "maximum": NAME, "nonfinite": NAME},
                "origins": {...: {"index": int, "name": NAME}},
                "channels": [
                    {
                        "axis": int,
                        "channels": int,
                        "histograms": bool,
                        "minimum": [NUMBER],
                        "maximum": [NUMBER],
                        "mean": [NUMBER],
                    }
                ],
                "rows": [{"axis": int, "rows": int, "nan": int, "infinite": int, "single": int}],
                "histogram": [{"low": float, "high": float, "count": int}],
            },
            None,
        ),
        "slots": [
            {
                "slot": str,
                "role": str,
                "state": str,
                **PARAMETERS,
                "bits": (int, None),
                "symmetric": (bool, None),
                "group": NAME,
                "master": NAME,
                "reason": NAME,
                "noise_db": NUMBER,
                "price_db": NUMBER,
                **CHOICE,
            }
        ],
    },
    "analyze": RUN,
    "solve": RUN,
    "calibrate": {
        "schema": int,
        "calibration": str,
        "run": NAME,
        "status": str,
        "samples": int,
        "resumed_from": int,
        "inferences": int,
    },
    "merge": {"schema": int, "calibration": str, "status": str, "samples": int, "parts": [str]},
    "runs": {"schema": int, "runs": [A_RUN]},
    "show": {
        "schema": int,
        **A_RUN,
        "statistics": ({"tensors": int, "bytes": int, "digest": str}, None),
        "groups": int,
        "requantizes": int,
        "states": {...: int},
        "observers": {...: int},
        "findings": [FINDING],
        "events": [str],
    },
    "scales": {
        "schema": int,
        "run": str,
        "tensors": {
            ...: {
                "state": str,
                **PARAMETERS,
                "group": NAME,
                "bits": (int, None),
                "symmetric": (bool, None),
                "reason": NAME,
                "observer": NAME,
            }
        },
        "requantize": [{"tensor": str, "slot": str, **PARAMETERS}],
    },
    "groups": {
        "schema": int,
        "run": str,
        "groups": [
            {"id": str, "tensors": [str], "as_read": [str], "slots": [str], **PARAMETERS, "price_db": NUMBER, **CHOICE}
        ],
    },
    "share": {
        "schema": int,
        "tensor": str,
        "run": str,
        "group": NAME,
        "state": str,
        "reason": NAME,
        **PARAMETERS,
        "tensors": [str],
        "slots": [str],
    },
    "why": {"schema": int, "a": str, "b": str, "shared": bool, "path": [EDGE]},
    "why-not": {
        "schema": int,
        "a": str,
        "b": str,
        "shared": bool,
        "reason": str,
        "path": [{**EDGE, "kind": NAME, "barrier": NAME, "need": NAME}],
        "needed": [{"from": str, "to": str, "need": str}],
    },
    "blame": {
        "schema": int,
        "group": str,
        "run": str,
        "price_db": NUMBER,
        "tensors": [str],
        "cuts": [{"price_db": NUMBER, "edges": [{**EDGE, "strength": NAME}], "parts": [[str]]}],
    },
    "cascade": {
        "schema": int,
        "op": str,
        "op_type": str,
        "run": str,
        "ties": [{"rule": str, "a": str, "b": str, "strength": str, "source": str, "group": str}],
        "groups": [
            {
                "group": str,
                "price_db": NUMBER,
                "tensors": [str],
                "parts": [{"tensors": [str], "slots": [str], "price_db": NUMBER}],
            }
        ],
    },
    "coverage": {
        "schema": int,
        "run": str,
        "tensors": {...: int},
        "slots": {...: int},
        "not_quantized": [{"slot": str, "tensor": str, "reason": str}],
        "missing": [{"slot": str, "tensor": str, "state": str, "reason": NAME}],
        "findings": [FINDING],
    },
    "diff": {
        "schema": int,
        "a": str,
        "b": str,
        "settings": {...: {"a": VALUE, "b": VALUE}},
        "scales": [
            {
                "tensor": str,
                "a": (PARAMETERS, None),
                "b": (PARAMETERS, None),
                "ratio": (float, [float], None),
                "damage_db": NUMBER,
            }
        ],
        "groups": {"split": [REGROUPED], "merged": [REGROUPED]},
        "states": [{"tensor": str, "a": NAME, "b": NAME}],
        "requantize": [{"tensor": str, "slot": str, "a": (PARAMETERS, None), "b": (PARAMETERS, None)}],
        "provenance": {...: {"a": VALUE, "b": VALUE}},
        "coverage": {"a": {...: int}, "b": {...: int}},
        "renamed": [{"a": str, "b": str}],
        "added": [str],
        "removed": [str],
        "failed": [{"condition": str, "value": (int, float)}],
    },
    "query": {"schema": int, "run": str, "columns": [str], "rows": [[(str, int, float, bool, None)]]},
    "show --provenance": {
        "schema": int,
        "run": str,
        "lineage": {
            "run": {"id": str, "name": NAME, "samples": int, "settings": SETTINGS, "created": str, "version": str},
            "calibration": (A_CALIBRATION, None),
            "model": A_MODEL,
            "parents": [A_MODEL],
        },
    },
    "targets": {
        "schema": int,
        "targets": [
            {"target": str, "version": str, "status": str, "inherits": NAME, "source": str, "alignment": {...: NAME}}
        ],
    },
    "observers": {
        "schema": int,
        "observers": [{"observer": str, "summary": str, "parameters": {...: (int, float, str, bool)}}],
    },
    "plot": {
        "schema": int,
        "run": str,
        "tensors": [str],
        "output": str,
        "observers": {...: {**PARAMETERS, "noise_db": NUMBER}},
    },
    "export": {"schema": int, "run": str, "format": str, "output": str, "losses": [str]},
    "import": {
        "schema": int,
        "run": str,
        "format": str,
        "tensors": int,
        "notes": [str],
        "violations": [VIOLATION],
    },
    "verify": {
        "schema": int,
        "run": str,
        "samples": int,
        "outputs": {...: AGREEMENT},
        "unoptimized": {...: AGREEMENT},
        "accuracy": None,
        "layers": None,
        "hidden": {...: HIDDEN},
    },
    "verify --layers": {
        "schema": int,
        "run": str,
        "samples": int,
        "outputs": {...: AGREEMENT},
        "unoptimized": {...: AGREEMENT},
        "accuracy": None,
        "layers": {
            "tensors": [
                {
                    "tensor": str,
                    "op": str,
                    "group": (str, None),
                    "agreement": AGREEMENT,
                    "error_in_steps": float,
                    "predicted_db": NUMBER,
                    "measured_db": NUMBER,
                }
            ],
            "below_db": float,
            "first": (str, None),
            "groups": [
                {"group": str, "tensors": [str], "predicted_db": float, "measured_db": float, "deviation_db": float}
            ],
            "median_deviation_db": NUMBER,
            "worst_deviation_db": NUMBER,
            "drop": (
                {
                    "tensor": str,
                    "snr_db": float,
                    "reads": str,
                    "reads_db": float,
                    "through": [str],
                    "loss_db": float,
                },
                None,
            ),
        },
        "hidden": {...: HIDDEN},
    },
    "golden": {
        "schema": int,
        "run": str,
        "samples": int,
        "tensors": [
            {
                "name": str,
                "integers": NAME,
                "dtype": str,
                "scale": [float],
                "zero_point": [int],
                "axis": (int, None),
            }
        ],
    },
    "compare": {
        "schema": int,
        "samples": int,
        "tolerance": int,
        "first": NAME,
        "tensors": [
            {
                "name": str,
                "values": int,
                "different": int,
                "largest": (int, None),
                "largest_error": NUMBER,
            }
        ],
        "missing": [str],
        "unknown": [str],
    },
    "sensitivity": {
        "schema": int,
        "run": str,
        "samples": int,
        "measured": int,
        "groups": [SENSITIVITY],
        "tensors": [SENSITIVITY],
    },
    "advise": {
        "schema": int,
        "run": str,
        "target": str,
        "observer": str,
        "samples": int,
        "target_snr_db": float,
        "before_db": NUMBER,
        "after_db": NUMBER,
        "best_db": NUMBER,
        "reached": bool,
        "trials": int,
        "changes": [
            {
                "kind": str,
                "text": str,
                "groups": [str],
                "tensors": [str],
                "overrides": [str],
                "gain_db": NUMBER,
                "snr_db": NUMBER,
            }
        ],
        "overrides": [str],
    },
    "improve": {
        "schema": int,
        "run": str,
        "calibration": str,
        "model": str,
        "done": [str],
        "seconds": {...: float},
        "snr_db": NUMBER,
    },
    "check": {
        "schema": int,
        "model": str,
        "target": str,
        "target_version": str,
        "violations": [VIOLATION],
        "repairs": [{"violations": [int], "changes": [CHANGE], "text": str}],
        "notes": [VIOLATION],
        "summary": {
            "ops": int,
            "quantized_tensors": int,
            "left_float": [str],
            "not_wanted": [str],
            "unread": [str],
        },
    },
    "db check": {"schema": int, "findings": [{"check": str, "what": str}]},
    "db upgrade": {"schema": int, "upgraded": bool, "backup": NAME},
    "db stats": {
        "schema": int,
        "schema_revision": str,
        "bytes": int,
        "free_bytes": (int, None),
        "rows": {...: int},
        "statistics_bytes": {...: int},
    },
    "db gc": {"schema": int, "removed": REMOVED, "dry_run": bool, "bytes_before": int, "bytes_after": int},
    "db copy": {"schema": int, "run": str, "model": str, "calibration": NAME},
    "rm": {"schema": int, "removed": REMOVED},
}
ERROR: Any = {"schema": int, "error": {"what": str, "which": str, "cure": str}}
