"""The language model as value function: the same numbers however a conversation is laid out."""

from __future__ import annotations

import pathlib
import socket
from types import SimpleNamespace

import pytest
import torch

from agents.token_loading import ScratchConfig, fetch_command, load_language_model, scratch_model, without_dropout
from agents.token_model import TargetWeights, ValueModel, context_length
from agents.token_reading import cached_values, check_reading, plain_values
from agents.token_tree import Segment, token_tree
from pasta_gym.mini.tokenizer import build_tokenizer
from pasta_gym.torchvision_ops import ensure_importable

ensure_importable()
import transformers  # noqa: E402

VOCABULARY = 40


def gemma():
    return livelier(scratch_model(ScratchConfig(width=16, n_layers=2, n_heads=2, context=64), VOCABULARY, seed=1))


def gemma_with_soft_caps():
    config = transformers.Gemma2Config(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        max_position_embeddings=64,
        sliding_window=32,
        final_logit_softcapping=0.5,
        attn_logit_softcapping=2.0,
    )
    return built(transformers.Gemma2ForCausalLM, config)


def gpt2():
    config = transformers.GPT2Config(vocab_size=VOCABULARY, n_embd=16, n_layer=2, n_head=2, n_positions=64)
    return built(transformers.GPT2LMHeadModel, without_dropout(config))


def built(kind, config):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return livelier(kind(config))


def livelier(model):
    """Untrained models are too flat for a test to see much."""
    generator = torch.Generator().manual_seed(3)
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)
    return model


MODELS = {"gemma": gemma, "gemma2": gemma_with_soft_caps, "gpt2": gpt2}


@pytest.fixture(scope="module", params=MODELS)
def model(request):
    return ValueModel(MODELS[request.param](), q_token=7, v_token=9).eval()


HISTORIES = [[1, 5, 6, 7, 8, 9, 10], [1, 5], [1, 20, 21, 22]]
CANDIDATES = [
    [[30, 11], [30, 12, 13, 14], [30, 11]],
    [[30, 31, 32], [30, 2], [30, 33, 34, 35, 36]],
    [[30, 9], [30, 8], [30, 7, 6]],
]


def own_logits(model, tokens):
    """All logits of the last token, by the language model alone."""
    with torch.no_grad():
        return model.language_model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0, -1]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("read", [cached_values, plain_values])
def test_a_value_is_the_models_own_logit_at_the_last_token(model, read, side):
    found = read(model, HISTORIES, CANDIDATES, padding_side=side).values
    for b, history in enumerate(HISTORIES):
        for c, candidate in enumerate(CANDIDATES[b]):
            assert found[b, c].item() == pytest.approx(own_logits(model, history + candidate)[7].item(), abs=1e-5)
    assert found.std() > 1e-3


def test_batch_composition_changes_no_value(model):
    together = cached_values(model, HISTORIES, CANDIDATES).values
    for b in range(3):
        alone = cached_values(model, HISTORIES[b : b + 1], CANDIDATES[b : b + 1]).values
        assert torch.allclose(alone[0], together[b], atol=1e-5)
        one = cached_values(model, HISTORIES[b : b + 1], [CANDIDATES[b][1:2]]).values
        assert torch.allclose(one[0, 0], together[b, 1], atol=1e-5)
    backwards = cached_values(model, HISTORIES[::-1], CANDIDATES[::-1]).values
    assert torch.allclose(backwards.flip(0), together, atol=1e-5)


def test_equal_candidates_have_equal_values_and_the_history_matters(model):
    values = cached_values(model, HISTORIES, CANDIDATES).values
    assert values[0, 0].item() == pytest.approx(values[0, 2].item(), abs=1e-6)
    other = cached_values(model, [[1, 6, 5, 7, 8, 9, 10]], CANDIDATES[:1]).values
    assert (other[0] - values[0]).abs().max() > 1e-4


def test_the_cost_is_counted_without_padding(model):
    history, candidates = sum(map(len, HISTORIES)), sum(len(p) for row in CANDIDATES for p in row)
    assert cached_values(model, HISTORIES, CANDIDATES).n_tokens == history + candidates
    assert plain_values(model, HISTORIES, CANDIDATES).n_tokens == 3 * history + candidates


def test_one_pass_over_a_tree_has_every_value_of_a_conversation(model):
    trunk = HISTORIES[0]
    segments = [Segment(trunk), Segment([30, 11], branch=1, fork=3), Segment([30, 12, 13], branch=2, fork=7)]
    with torch.no_grad():
        values = model(token_tree([segments]))[0]
    assert values[2, 1].item() == pytest.approx(own_logits(model, trunk[:3])[9].item(), abs=1e-5)  # v(h), in passing
    assert values[8, 0].item() == pytest.approx(own_logits(model, [*trunk[:3], 30, 11])[7].item(), abs=1e-5)
    for i in range(3):
        beginning = [*trunk, *[30, 12, 13][: i + 1]]
        assert values[9 + i, 0].item() == pytest.approx(own_logits(model, beginning)[7].item(), abs=1e-5)


def test_values_in_mixed_precision_are_close_and_in_float32():
    exact = ValueModel(gemma(), q_token=7, v_token=7).eval()
    mixed = ValueModel(gemma(), q_token=7, v_token=7, precision="bfloat16").eval()
    expected, found = (cached_values(m, HISTORIES, CANDIDATES).values for m in (exact, mixed))
    assert found.dtype == torch.float32
    assert not torch.equal(found, expected)
    assert torch.allclose(found, expected, atol=0.02)
    assert (found.bfloat16().float() != found).any()  # the logit itself is not rounded


def as_deep_as_gemma():
    """As many layers as Gemma 2B, whose roundings add up, and values that differ by half a unit."""
    model = scratch_model(ScratchConfig(width=64, n_layers=18, n_heads=4, context=128), VOCABULARY, seed=2)
    for parameter in model.parameters():
        parameter.data *= 4 if parameter.dim() == 2 else 1
    return model


@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16], ids=["token_iql", "token_iql_lora"])
def test_in_mixed_precision_layout_moves_values_by_a_tenth_of_their_spread_at_most(weights):
    """The two presets of Gemma 2B round, so padding, batch and cache do move values; the page states this tolerance."""
    model = ValueModel(as_deep_as_gemma().to(weights), q_token=7, v_token=9, precision="bfloat16").eval()
    generator = torch.Generator().manual_seed(5)
    histories, *candidates = (
        [torch.randint(VOCABULARY, (n,), generator=generator).tolist() for n in lengths]
        for lengths in ((40, 20, 30), (5, 12, 9, 12, 3, 8), (7, 4, 12, 6, 11, 2), (9, 9, 3, 10, 5, 12))
    )
    together = cached_values(model, histories, candidates).values
    tolerance = 0.1 * together.std(1).min()
    others = [
        read(model, histories, candidates, padding_side=side).values
        for read in (cached_values, plain_values)
        for side in ("left", "right")
    ]
    rows = [(histories[b : b + 1], candidates[b : b + 1]) for b in range(3)]
    others.append(torch.cat([cached_values(model, *row).values for row in rows]))
    for other in others:
        assert (other - together).abs().max() < tolerance
    assert max((other - together).abs().max() for other in others) > 1e-4  # what float32 keeps to
    exact = ValueModel(as_deep_as_gemma(), q_token=7, v_token=9).eval()
    assert (cached_values(exact, histories, candidates).values - together).abs().max() < tolerance


def test_the_target_keeps_old_weights_until_it_is_updated(model):
    tree = token_tree([[Segment(HISTORIES[0])]])
    target = TargetWeights(model)
    with torch.no_grad():
        before = model(tree).clone()
        parameter = model.language_model.get_output_embeddings().weight
        kept = parameter.clone()
        parameter.add_(0.3)  # tied to the input embedding, so everything moves
        after = model(tree)
        assert (after - before).abs().max() > 1e-3
        assert torch.allclose(target.values(tree), before, atol=1e-6)
        assert torch.allclose(model(tree), after)
        target.update(0.5)
        halfway = target.values(tree)
        assert (halfway - before).abs().max() > 1e-5
        assert (halfway - after).abs().max() > 1e-5
        target.update(1.0)
        assert torch.allclose(target.values(tree), after, atol=1e-6)
        parameter.copy_(kept)
    assert not target.values(tree).requires_grad


def test_a_conversation_beyond_the_context_is_refused():
    value_model = ValueModel(gemma(), q_token=7, v_token=7)
    with pytest.raises(ValueError, match="a conversation has 65 tokens, the model reads 64"):
        value_model(token_tree([[Segment([1] * 65)]]))
    # Branches lie beside each other: together they may be longer.
    row = [Segment([1] * 40), *(Segment([2] * 20, branch=i + 1, fork=40) for i in range(3))]
    assert value_model(token_tree([row])).shape == (1, 100, 2)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"max_position_embeddings": 50}, 50),
        ({"max_position_embeddings": 50, "sliding_window": 20}, 20),
        ({"max_position_embeddings": 50, "sliding_window": 20, "layer_types": ["full_attention"]}, 50),
        ({"max_position_embeddings": 50, "sliding_window": 20, "layer_types": ["sliding_attention"]}, 20),
    ],
)
def test_the_context_ends_where_a_window_cuts_it(settings, expected):
    config = SimpleNamespace(**settings)
    config.get_text_config = lambda: config
    assert context_length(config) == expected


def test_a_value_token_outside_the_vocabulary_is_refused():
    with pytest.raises(ValueError, match=r"v_token must be a token id in 0\.\.39, got 651"):
        ValueModel(gemma(), q_token=7, v_token=651)


def test_models_are_checked_before_they_are_used(model, monkeypatch):
    check_reading(model)
    real = model.language_model.base_model.forward

    def forgets_the_mask(*args, **named):
        return real(*args, **named | {"attention_mask": None})

    monkeypatch.setattr(model.language_model.base_model, "forward", forgets_the_mask)
    with pytest.raises(ValueError, match="gives other values when candidates share a history"):
        check_reading(model)


def test_a_recurrent_model_is_refused():
    config = transformers.MambaConfig(
        vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=1, state_size=4, time_step_rank=2
    )
    with pytest.raises(ValueError, match="MambaForCausalLM cannot read candidates that share a history"):
        check_reading(ValueModel(built(transformers.MambaForCausalLM, config), q_token=7, v_token=7).eval())


def test_files_that_are_missing_or_not_safetensors_are_refused(tmp_path):
    with pytest.raises(
        ValueError, match=r"nobody/nothing cannot be loaded .*fetch it with `hf download nobody/nothing"
    ):
        load_language_model("nobody/nothing", revision=None, allow_download=False)
    with pytest.raises(ValueError, match=r"cannot be loaded .*check the folder"):
        load_language_model(str(tmp_path), revision=None, allow_download=False)


def test_a_model_in_the_hubs_cache_is_loaded_without_the_network(tmp_path, monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *given, **named: pytest.fail("the network was used"))
    root = tmp_path / "models--acme--reader"
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    built(transformers.LlamaForCausalLM, config).save_pretrained(root / "snapshots" / "c0ffee")
    build_tokenizer().save_pretrained(root / "snapshots" / "c0ffee")
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("c0ffee")
    model, _ = load_language_model("acme/reader", revision=None, allow_download=False)
    assert model.config.vocab_size == VOCABULARY


def test_only_what_is_read_is_fetched_by_the_message_and_the_page():
    """Gemma's repository also has its weights in another format, as large again."""
    command = fetch_command("google/gemma-2b", None)
    assert command == "hf download google/gemma-2b --include '*.json' --include '*.safetensors' --include 'tokenizer*'"
    page = (pathlib.Path(__file__).parents[2] / "docs" / "full_size.md").read_text()
    assert f"    hf auth login\n    {command}\n" in page
    with pytest.raises(ValueError, match=r"`hf download no/body --revision a1 --include '\*\.json' .*`hf auth login`"):
        load_language_model("no/body", revision="a1", allow_download=False)


def test_dropout_is_switched_off():
    config = without_dropout(transformers.GPT2Config())
    assert (config.attn_pdrop, config.resid_pdrop, config.embd_pdrop) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"n_layers": 0}, "scratch.n_layers must be at least 1, got 0"), ({"width": 12}, "multiple of 2 x n_heads = 8")],
)
def test_bad_shapes_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        ScratchConfig(**settings)
