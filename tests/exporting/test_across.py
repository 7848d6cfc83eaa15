"""From one format to the other: names, configuration and tokenizer as other programs expect, or refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import wvindex
from tests.exporting.reading import gguf_fields, gguf_tensors, hub_tensors
from tests.support.checkpoints import checkpoint, names
from tests.support.gguf_metadata import MLAForm
from tests.support.safetensors_writer import write_safetensors
from tests.support.stores import Stores
from wvindex.errors import UnsupportedError, UnsupportedTokenizer

_MTP = {"deepseek_v3", "glm4_moe_lite"}
"""Multi-token-prediction layers have no names in GGUF."""

_SPARSE = {"deepseek_v32", "glm_moe_dsa"}
"""Whose checkpoints announce such layers too."""

TO_GGUF = [name for name in names(gguf=True) if name not in _MTP | _SPARSE]
TO_HUB = [name for name in names(gguf=True) if name not in _MTP | {"gpt_oss"}]
_FUSED = {"mistral4"}
"""Whose checkpoints and GGUF files have gate and up in one stack; llama.cpp takes them apart as well."""

REFUSED = {
    "qwen2-window": "sliding_window",
    "mistral-window": "sliding_window",
    "gemma2-scalar": "attention_scale",
    "deepseek_v3-bias": "rope.full_attention.attention_factor",
    "deepseek_v3-halves": "mla.interleaved_rope",
}
"""What GGUF cannot say of models, by name of the field."""


def require_same_values(one: Path, other: Path) -> None:
    with wvindex.open(one) as a, wvindex.open(other) as b:
        assert set(a) == set(b)
        for key in a:
            np.testing.assert_array_equal(
                np.asarray(a[key]).astype(np.float32), np.asarray(b[key]).astype(np.float32), err_msg=key
            )


class TestToGGUF:
    @pytest.mark.parametrize("name", [name for name in TO_GGUF if name not in _FUSED])
    def test_tensors_are_those_that_a_converter_writes(
        self, name: str, stores: Stores, tmp_path: Path
    ) -> None:
        """The writer of the tests follows llama.cpp's converter, and shares nothing with wvindex."""
        mla: MLAForm = "split"
        source = stores.safetensors(name)
        out = wvindex.export(source, tmp_path / "out.gguf", format="gguf", dtype="float32")
        found, expected = gguf_tensors(out), gguf_tensors(stores.gguf(name, mla, "F32"))
        if name == "gpt_oss":  # whose experts the converter leaves packed
            packed = wvindex.export(source, tmp_path / "packed.gguf", format="gguf")
            found |= {key: one for key, one in gguf_tensors(packed).items() if one[0] == "MXFP4"}
        if "rope_freqs.weight" in expected:  # worked out by another formula: compared below
            del found["rope_freqs.weight"], expected["rope_freqs.weight"]
        assert found == expected

    @pytest.mark.parametrize("name", TO_GGUF)
    def test_a_build_of_it_is_the_same_model(self, name: str, stores: Stores, tmp_path: Path) -> None:
        source = stores.safetensors(name)
        out = wvindex.export(source, tmp_path / "out.gguf", format="gguf", dtype="float32")
        require_same_values(out, source)

    @pytest.mark.parametrize("name", TO_GGUF)
    def test_every_key_that_a_converter_writes_has_its_value(
        self, name: str, stores: Stores, tmp_path: Path
    ) -> None:
        out = wvindex.export(stores.safetensors(name), tmp_path / "out.gguf", format="gguf", dtype="float32")
        found, expected = gguf_fields(out), gguf_fields(stores.gguf(name, "split", "F32"))
        del expected["general.name"]
        for key, (kinds, value) in expected.items():
            assert key in found, key
            assert found[key] == (kinds, pytest.approx(value, rel=1e-6) if kinds == ("FLOAT32",) else value)

    def test_llama_3_has_its_factors(self, stores: Stores, tmp_path: Path) -> None:
        import gguf

        out = wvindex.export(stores.safetensors("llama"), tmp_path / "out.gguf", format="gguf")
        factors = [
            next(t.data for t in gguf.GGUFReader(path).tensors if t.name == "rope_freqs.weight")
            for path in (out, stores.gguf("llama"))
        ]
        np.testing.assert_allclose(factors[0], factors[1], rtol=1e-6)

    @pytest.mark.parametrize(("name", "field"), REFUSED.items())
    def test_what_gguf_cannot_say_is_refused_by_name(
        self, name: str, field: str, stores: Stores, tmp_path: Path
    ) -> None:
        with pytest.raises(UnsupportedError, match="gguf cannot say this of the model") as caught:
            wvindex.export(stores.safetensors(name), tmp_path / "out.gguf", format="gguf")
        assert caught.value.field == field
        assert list(tmp_path.iterdir()) == []

    def test_tensors_without_a_name_are_refused(self, stores: Stores, tmp_path: Path) -> None:
        planned = wvindex.plan_export(stores.safetensors("deepseek_v3"), tmp_path / "o", format="gguf")
        assert {tensor for tensor, _ in planned.refusals} >= {"model.layers.3.eh_proj.weight"}

    def test_codes_are_refused_unless_a_dtype_is_given(self, stores: Stores, tmp_path: Path) -> None:
        source = stores.safetensors("deepseek_v3-fp8")
        with pytest.raises(UnsupportedError, match="GGUF has no such type; give a dtype") as caught:
            wvindex.export(source, tmp_path / "out.gguf", format="gguf")
        assert caught.value.found == "F8_E4M3 with scales"

    def test_a_family_that_llama_cpp_lacks_is_refused(self, stores: Stores, tmp_path: Path) -> None:
        with pytest.raises(UnsupportedError, match=r"llama\.cpp has no architecture") as caught:
            wvindex.export(stores.safetensors("longcat_flash"), tmp_path / "out.gguf", format="gguf")
        assert caught.value.found == "longcat_flash"
        assert list(tmp_path.iterdir()) == []

    def test_an_unknown_architecture_is_refused(self, tmp_path: Path) -> None:
        source = write_safetensors(checkpoint("llama"), tmp_path / "m")
        config = json.loads((source / "config.json").read_text()) | {"model_type": "nobody_knows"}
        (source / "config.json").write_text(json.dumps(config))
        with pytest.raises(UnsupportedError, match="an architecture that is not known"):
            wvindex.export(source, tmp_path / "out.gguf", format="gguf")


class TestToSafetensors:
    @pytest.mark.parametrize("name", TO_HUB)
    def test_tensors_are_those_of_the_hub(self, name: str, stores: Stores, tmp_path: Path) -> None:
        """bfloat16 values went through a GGUF file in F32; the hub's names and values come back."""
        out = wvindex.export(
            stores.gguf(name, "split", "F32"), tmp_path / "out", format="safetensors", dtype="bfloat16"
        )
        hub = stores.safetensors(name, experts="fused" if name in _FUSED else "each")
        found, expected = hub_tensors(out), hub_tensors(hub)
        beyond = f"model.layers.{checkpoint(name).config['num_hidden_layers']}."  # of further tokens
        names_there = {key for key in expected if not key.endswith("_scale_inv") and beyond not in key}
        assert set(found) == names_there
        assert all(found[key][1] == expected[key][1] for key in names_there)
        matrices = [key for key in names_there if len(expected[key][1]) > 1 and expected[key][0] == "BF16"]
        assert matrices
        assert [found[key] for key in matrices] == [expected[key] for key in matrices]

    @pytest.mark.parametrize("name", TO_HUB)
    def test_a_build_of_it_is_the_same_model(self, name: str, stores: Stores, tmp_path: Path) -> None:
        source = stores.gguf(name, "split", "F32")
        out = wvindex.export(source, tmp_path / "out", format="safetensors")
        require_same_values(out, source)

    @pytest.mark.parametrize("name", ["mistral4", *sorted(_SPARSE)])
    def test_what_went_to_the_hub_comes_back_to_gguf(self, name: str, stores: Stores, tmp_path: Path) -> None:
        source = stores.gguf(name, dtype="F32")
        hub = wvindex.export(source, tmp_path / "hub", format="safetensors")
        out = wvindex.export(hub, tmp_path / "out.gguf", format="gguf")
        if name in _FUSED:
            require_same_values(out, source)
        else:
            assert gguf_tensors(out) == gguf_tensors(source)
        found, expected = gguf_fields(out), gguf_fields(source)
        del expected["general.name"]
        assert {key: found[key][1] for key in expected} == {
            key: pytest.approx(value, rel=1e-6) if isinstance(value, float) else value
            for key, (_, value) in expected.items()
        }

    def test_experts_in_mxfp4_stay_packed(self, stores: Stores, tmp_path: Path) -> None:
        """Each code, as GPT-OSS's own checkpoint has them."""
        source = stores.gguf("gpt_oss", dtype="BF16")
        out = wvindex.export(source, tmp_path / "out", format="safetensors")
        found, expected = hub_tensors(out), hub_tensors(stores.safetensors("gpt_oss"))
        packed = [key for key in expected if key.endswith(("_blocks", "_scales"))]
        assert packed
        assert [found[key] for key in packed] == [expected[key] for key in packed]
        assert found.keys() == expected.keys()
        config = json.loads((out / "config.json").read_text())
        assert config["quantization_config"]["quant_method"] == "mxfp4"
        require_same_values(out, source)

    def test_latent_attention_has_a_head_of_keys_for_each_of_queries(
        self, stores: Stores, tmp_path: Path
    ) -> None:
        """GGUF's one head is llama.cpp's; transformers would repeat it."""
        out = wvindex.export(stores.gguf("mistral4"), tmp_path / "out", format="safetensors")
        config = json.loads((out / "config.json").read_text())
        theirs = checkpoint("mistral4").config
        assert config["num_key_value_heads"] == theirs["num_attention_heads"]
        for field in ("llama_4_scaling_beta", "partial_rotary_factor", "original_max_position_embeddings"):
            assert config["rope_parameters"][field] == theirs["rope_parameters"][field]

    def test_packed_types_are_refused_unless_a_dtype_is_given(self, stores: Stores, tmp_path: Path) -> None:
        source = stores.gguf("qwen2", dtype="Q8_0")
        planned = wvindex.plan_export(source, tmp_path / "out", format="safetensors")
        packed = [name for name, (kind, _, _) in gguf_tensors(source).items() if kind == "Q8_0"]
        assert len(planned.refusals) == len(packed)
        with pytest.raises(UnsupportedError, match=rf"no packed types.*and {len(packed) - 1} more"):
            wvindex.export(source, tmp_path / "out", format="safetensors")
        assert list(tmp_path.iterdir()) == []

    def test_packed_factors_are_joined_where_a_dtype_is_given(self, stores: Stores, tmp_path: Path) -> None:
        """Against the same file in F32, whose factors the build joins."""
        packed, plain = stores.gguf("deepseek_v2", dtype="Q8_0"), stores.gguf("deepseek_v2", dtype="F32")
        with pytest.raises(UnsupportedError):
            wvindex.export(packed, tmp_path / "none", format="safetensors")
        out = wvindex.export(packed, tmp_path / "out", format="safetensors", dtype="float32")
        key = "model.layers.1.self_attn.kv_b_proj.weight"
        with wvindex.open(out) as db, wvindex.open(plain) as expected, wvindex.open(packed) as source:
            assert db[key].shape == expected[key].shape
            rank = source["blk.1.attn_k_b.weight"].shape[1]
            joined = np.concatenate(
                [
                    np.asarray(source["blk.1.attn_k_b.weight"]).transpose(0, 2, 1),
                    np.asarray(source["blk.1.attn_v_b.weight"]),
                ],
                axis=1,
            )
            np.testing.assert_array_equal(np.asarray(db[key]), joined.reshape(-1, rank))


class TestTokenizers:
    TEXT = "the and the 12 thing\n  in  a<s>land é"

    def test_a_vocabulary_of_gguf_becomes_a_tokenizer_json(self, stores: Stores, tmp_path: Path) -> None:
        from tokenizers import Tokenizer

        out = wvindex.export(stores.gguf("llama", dtype="F16"), tmp_path / "out", format="safetensors")
        ours = Tokenizer.from_file(str(out / "tokenizer.json"))
        theirs = Tokenizer.from_file(str(stores.safetensors("llama") / "tokenizer.json"))
        assert ours.encode(self.TEXT).ids == theirs.encode(self.TEXT).ids
        config = json.loads((out / "tokenizer_config.json").read_text())
        assert (config["bos_token"], config["eos_token"]) == ("<s>", "</s>")

    def test_a_tokenizer_json_becomes_a_vocabulary_of_gguf(self, stores: Stores, tmp_path: Path) -> None:
        out = wvindex.export(stores.safetensors("llama"), tmp_path / "out.gguf", format="gguf")
        found, expected = gguf_fields(out), gguf_fields(stores.gguf("llama"))
        for key in ("model", "pre", "tokens", "token_type", "merges", "bos_token_id", "eos_token_id"):
            assert found[f"tokenizer.ggml.{key}"] == expected[f"tokenizer.ggml.{key}"]
        with wvindex.open(out) as db, wvindex.open(stores.safetensors("llama")) as source:
            assert db.tokenizer.encode(self.TEXT) == source.tokenizer.encode(self.TEXT)

    @pytest.mark.parametrize(
        ("change", "field"),
        [
            (lambda doc: doc.update(normalizer={"type": "NFC"}), "normalizer"),
            (lambda doc: doc["added_tokens"][0].update(lstrip=True), "added_tokens.<s>.lstrip"),
            (lambda doc: doc["model"].update(dropout=0.5), "model.dropout"),
            (lambda doc: doc["model"].update(unk_token="<s>"), "model.unk_token"),
            (lambda doc: doc["pre_tokenizer"].update(add_prefix_space=True), "pre_tokenizer"),
            (lambda doc: doc["model"].update(ignore_merges=True), "pre_tokenizer"),
            (lambda doc: doc.update(pre_tokenizer={"type": "Whitespace"}), "pre_tokenizer"),
            (lambda doc: doc.update(decoder={"type": "Fuse"}), "decoder"),
        ],
    )
    def test_what_gguf_cannot_say_of_one_is_refused_by_name(
        self, change: Any, field: str, tmp_path: Path
    ) -> None:
        source = write_safetensors(checkpoint("qwen2"), tmp_path / "m")
        path = source / "tokenizer.json"
        document = json.loads(path.read_text())
        change(document)
        path.write_text(json.dumps(document))
        with pytest.raises(UnsupportedTokenizer, match="tokenizer=False") as caught:
            wvindex.export(source, tmp_path / "out.gguf", format="gguf")
        assert caught.value.field == field
        out = wvindex.export(source, tmp_path / "out.gguf", format="gguf", tokenizer=False)
        assert not [key for key in gguf_fields(out) if key.startswith("tokenizer.ggml.tokens")]

    @pytest.mark.parametrize("shape", [(True, False), (True, True), (False, True)])
    def test_what_surrounds_a_text_is_said(self, shape: tuple[bool, bool], tmp_path: Path) -> None:
        source = write_safetensors(checkpoint("qwen2"), tmp_path / "m")
        path = source / "tokenizer.json"
        document = json.loads(path.read_text())
        bos, eos = ({"SpecialToken": {"id": token, "type_id": 0}} for token in ("<s>", "</s>"))
        single = [*([bos] if shape[0] else []), {"Sequence": {"id": "A", "type_id": 0}}]
        single += [eos] if shape[1] else []
        document["post_processor"] = {
            "type": "TemplateProcessing",
            "single": single,
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {
                token: {"id": token, "ids": [number], "tokens": [token]}
                for number, token in enumerate(("<s>", "</s>"))
            },
        }
        path.write_text(json.dumps(document))
        out = wvindex.export(source, tmp_path / "out.gguf", format="gguf")
        fields = gguf_fields(out)
        assert (fields["tokenizer.ggml.add_bos_token"][1], fields["tokenizer.ggml.add_eos_token"][1]) == shape
        with wvindex.open(out) as db, wvindex.open(source) as before:
            assert db.tokenizer.encode(self.TEXT) == before.tokenizer.encode(self.TEXT)
