"""config.json to GPTConfig, and back.

It is read as transformers reads it, by which a folder is computed everywhere else: what that ignores is ignored here,
and what would make it compute something that GPT does not is refused.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, fields, replace
from typing import Any

from model.checkpoint.hf_families import FAMILIES, Family
from model.checkpoint.json_file import Json, JsonObject, shown
from model.config import GPTConfig, LinearScaling, Llama3Scaling, Rope, RopeScaling, YarnScaling
from model.errors import CheckpointError

MAX_LAYERS = 4096  # lists of layers are made before any tensor is looked for

# By the names of transformers; of two for one function, the last is written
ACTIVATIONS = {"silu": "silu", "gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh", "gelu_new": "gelu_tanh"}
WINDOWED, FULL = "sliding_attention", "full_attention"  # what layer_types may hold
ORIGINAL_CTX = "original_max_position_embeddings"


def family_of(config_json: JsonObject) -> Family:
    """Return the family that a config.json names; raises CheckpointError for another one."""
    name = config_json.text("model_type")
    return FAMILIES.get(name) or config_json.refuse("model_type", f"one of {', '.join(sorted(FAMILIES))}")


def read_config(config_json: JsonObject) -> GPTConfig:
    """Return the network that a config.json describes; raises CheckpointError, naming the key."""
    family = family_of(config_json)
    for key, value in family.only.items():
        if config_json.has(key) and config_json.values[key] != value:
            config_json.refuse(key, shown(value))
    found = {key: config_json.values.get(key, default) for key, default in family.defaults.items()}
    keys = JsonObject(config_json.where, found)
    values = _read_fields(keys, family)
    if "rope" not in family.made_of:
        values["rope"] = _read_rope(keys, values["n_ctx"])
        values["unrotated_layers"] = _read_unrotated(keys, values["n_layer"])
        values |= _read_window(keys, family, values["n_layer"], values["unrotated_layers"])
    try:
        return GPTConfig(**values, **family.made_of)
    except ValueError as error:
        raise CheckpointError(f"{keys.where}: {error}") from None


def _read_fields(keys: JsonObject, family: Family) -> dict[str, Any]:
    n_embd, n_head = keys.integer(family.keys["n_embd"]), keys.integer(family.keys["n_head"])
    values: dict[str, Any] = {"n_kv_head": n_head, "head_dim": n_embd // max(n_head, 1), "n_inner": 4 * n_embd}
    for name, key in family.keys.items():
        if keys.has(key) or name not in values:
            values[name] = _READERS.get(name, JsonObject.integer)(keys, key)
    if values["n_layer"] > MAX_LAYERS:
        keys.refuse(family.keys["n_layer"], f"at most {MAX_LAYERS:,}")
    return values


def _read_activation(keys: JsonObject, key: str) -> str:
    return ACTIVATIONS.get(keys.text(key)) or keys.refuse(key, f"one of {', '.join(ACTIVATIONS)}")


_READERS: dict[str, Callable[[JsonObject, str], object]] = {
    "norm_eps": JsonObject.number,
    "activation": _read_activation,
    **dict.fromkeys(("tied_head", "qkv_bias", "proj_bias", "mlp_bias"), JsonObject.flag),
}


def _read_unrotated(keys: JsonObject, n_layer: int) -> frozenset[int]:
    """Return the layers without rotary positions."""
    if "no_rope_layers" not in keys.values:
        return frozenset()
    if keys.has("no_rope_layers"):
        rotated = keys.integers("no_rope_layers")  # 1 for those with, against its name
        if len(rotated) < n_layer:
            keys.refuse("no_rope_layers", f"a number for each of {n_layer} layers")
        return frozenset(layer for layer in range(n_layer) if not rotated[layer])
    interval = keys.integer("no_rope_layer_interval")
    if interval < 1:
        keys.refuse("no_rope_layer_interval", "at least 1")
    return frozenset(range(interval - 1, n_layer, interval))


def _read_window(keys: JsonObject, family: Family, n_layer: int, unrotated: frozenset[int]) -> dict[str, Any]:
    """Return GPTConfig's window and windowed_layers."""
    has_window = keys.has("sliding_window") and keys.flag("use_sliding_window", True)
    layers = frozenset(family.windowed(keys, unrotated)) if has_window else frozenset()
    if keys.has("layer_types"):
        types, known = keys.texts("layer_types"), (FULL, WINDOWED) if has_window else (FULL,)
        if len(types) != n_layer or not set(types) <= set(known):
            keys.refuse("layer_types", f"{' or '.join(known)} for each of {n_layer} layers")
        layers = frozenset(layer for layer in range(n_layer) if types[layer] == WINDOWED)
    return {"window": keys.integer("sliding_window") if layers else None, "windowed_layers": layers}


def _read_rope(keys: JsonObject, n_ctx: int) -> Rope:
    given = [keys.child(key) for key in ("rope_scaling", "rope_parameters") if keys.has(key)]
    parameters = next((child for child in given if child.values), JsonObject(f"{keys.where}: rope_parameters", {}))
    for key, value in parameters.values.items():
        if isinstance(value, dict):
            parameters.refuse(key, "one set of parameters for all layers")
    if parameters.number("partial_rotary_factor", 1.0) != 1:
        parameters.refuse("partial_rotary_factor", "1")
    kind_key = "rope_type" if parameters.has("rope_type") else "type"
    read_scaling = _SCALINGS.get(parameters.text(kind_key, "default"))
    if read_scaling is None:
        parameters.refuse(kind_key, f"one of {', '.join(_SCALINGS)}")
    original_ctx = keys.integer(ORIGINAL_CTX, parameters.integer(ORIGINAL_CTX, n_ctx))
    base = parameters.number("rope_theta", keys.number("rope_theta"))
    return Rope(base, read_scaling(parameters, original_ctx, n_ctx))


def _read_linear(parameters: JsonObject, original_ctx: int, n_ctx: int) -> LinearScaling:
    return LinearScaling(parameters.number("factor"))


def _read_llama3(parameters: JsonObject, original_ctx: int, n_ctx: int) -> Llama3Scaling:
    factor, low, high = (parameters.number(key) for key in ("factor", "low_freq_factor", "high_freq_factor"))
    return Llama3Scaling(factor, low, high, original_ctx)


def _read_yarn(parameters: JsonObject, original_ctx: int, n_ctx: int) -> YarnScaling:
    factor = parameters.number("factor", n_ctx / max(original_ctx, 1))
    scales = [parameters.number(key, 0.0) for key in ("mscale", "mscale_all_dim")]
    if min(scales) < 0:
        parameters.refuse("mscale" if scales[0] < 0 else "mscale_all_dim", "a number, 0 or more")
    magnitudes = [_magnitude(factor, scale) for scale in (scales if all(scales) else (1.0, 0.0))]
    return YarnScaling(
        factor,
        original_ctx,
        attention_factor=parameters.number("attention_factor", magnitudes[0] / magnitudes[1]),
        beta_fast=parameters.number("beta_fast", 32.0),
        beta_slow=parameters.number("beta_slow", 1.0),
        truncate=parameters.flag("truncate", True),
    )


def _magnitude(factor: float, scale: float) -> float:
    return 0.1 * scale * math.log(factor) + 1.0 if factor > 1 else 1.0


_SCALINGS: dict[str, Callable[[JsonObject, int, int], RopeScaling | None]] = {
    "default": lambda parameters, original_ctx, n_ctx: None,
    "linear": _read_linear,
    "llama3": _read_llama3,
    "yarn": _read_yarn,
}
_KINDS = {type(None): "default", LinearScaling: "linear", Llama3Scaling: "llama3", YarnScaling: "yarn"}


def write_config(config: GPTConfig) -> tuple[Family, dict[str, Json]]:
    """Return a family of which such a network is one, and the keys of its config.json that say so.

    Raises CheckpointError when none is made of the same parts.
    """
    if not config.windowed_layers:
        config = replace(config, window=None)
    differences: dict[str, list[str]] = {}
    for name, family in FAMILIES.items():
        values: dict[str, Json] = {"architectures": [family.architecture], "model_type": name}
        values |= _write_keys(config, family)
        differences[name] = _differences(config, values)
        if not differences[name]:
            return family, values
    nearest = min(differences, key=lambda name: len(differences[name]))
    raise CheckpointError(
        f"expected a network of one of the families {', '.join(FAMILIES)}, "
        f"found one that differs from {nearest} in {', '.join(differences[nearest])}"
    )


def _differences(config: GPTConfig, values: dict[str, Json]) -> list[str]:
    read = read_config(JsonObject("config.json", values))
    return [field.name for field in fields(config) if getattr(read, field.name) != getattr(config, field.name)]


def _write_keys(config: GPTConfig, family: Family) -> dict[str, Json]:
    names = {ours: theirs for theirs, ours in ACTIVATIONS.items()}
    keys = {key: getattr(config, field) for field, key in family.keys.items() if field != "activation"}
    keys[family.keys["activation"]] = names[config.activation]
    layers, windowed = range(config.n_layer), config.windowed_layers
    keys |= {
        "sliding_window": config.window,
        "use_sliding_window": bool(windowed),
        "max_window_layers": config.n_layer - len(windowed),
        "layer_types": [WINDOWED if layer in windowed else FULL for layer in layers],
        "no_rope_layers": [int(layer not in config.unrotated_layers) for layer in layers],
    }
    if config.rope:
        keys |= _write_rope(config.rope)
    return {key: value for key, value in keys.items() if key in family.defaults}


def _write_rope(rope: Rope) -> dict[str, Json]:
    scaling = asdict(rope.scaling) if rope.scaling else {}
    if "original_ctx" in scaling:
        scaling[ORIGINAL_CTX] = scaling.pop("original_ctx")
    scaling = {"rope_type": _KINDS[type(rope.scaling)], **scaling}
    # For transformers before 5, and from 5 on
    return {
        "rope_theta": rope.base,
        "rope_scaling": scaling if rope.scaling else None,
        "rope_parameters": {"rope_theta": rope.base, **scaling},
    }
