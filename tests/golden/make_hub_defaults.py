"""Writes hub_defaults.json: the class defaults of transformers 5.23. Run with transformers installed."""

from __future__ import annotations

import json
from pathlib import Path

from transformers import AutoConfig

_PLAIN = (int, float, str)
MODEL_TYPES = (
    *("llama", "mistral", "mixtral", "qwen2", "qwen3", "qwen3_moe", "gemma2", "gemma3_text"),
    *("phi3", "deepseek_v2", "deepseek_v3", "minicpm3"),
    *("glm4_moe_lite", "mistral4", "youtu", "longcat_flash", "deepseek_v32", "glm_moe_dsa", "gpt_oss"),
)


def main() -> None:
    """Write each class's plain fields, and its rope_theta as the hub's form has it."""
    found = {}
    for model_type in MODEL_TYPES:
        config = AutoConfig.for_model(model_type)
        plain = {name: value for name, value in config.to_dict().items() if isinstance(value, _PLAIN)}
        found[model_type] = plain | {"rope_theta": getattr(config, "default_theta", None)}
    text = json.dumps(found, indent=1, sort_keys=True)
    Path(__file__).with_name("hub_defaults.json").write_text(f"{text}\n")


if __name__ == "__main__":
    main()
