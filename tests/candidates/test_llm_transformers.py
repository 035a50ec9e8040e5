import importlib.util
import itertools
import json
import pathlib
import socket

import numpy as np
import pytest
import torch

from pasta_gym.candidates.llm import LLMCandidates, LLMCandidatesConfig
from pasta_gym.candidates.llm_chat import ChatModelError, ChatRequest, Message, Sampling
from pasta_gym.candidates.llm_transformers import TransformersChat, fetch_command, missing_files
from pasta_gym.prompt_books import InternedPromptBook
from pasta_gym.seeding import mix
from pasta_gym.types import History

_spec = importlib.util.spec_from_file_location("chain_model", pathlib.Path(__file__).with_name("chain_model.py"))
chain_model = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(chain_model)

N_CHOICES = 12
LINES = [line for c in "ABCDE" for line in (f"* Title {c}\n", *(f"- a fox {c} {j} x\n" for j in "abcde"))]


def chain(*lines):
    words = ["ASSISTANT:", *lines, "</s>"]
    return {a: {b: 1.0} for a, b in itertools.pairwise(words)}


def branches():
    """Twelve choices of two equally likely words, and a third one outside the nucleus of 0.8."""
    steps = [
        ["ASSISTANT:"],
        *([f"{i}{word} " for word in ("left", "right", "never")] for i in range(N_CHOICES)),
        ["</s>"],
    ]
    followers = {}
    for step, after in itertools.pairwise(steps):
        shares = (0.45, 0.45, 0.1) if len(after) == 3 else (1.0,)
        followers |= {word: dict(zip(after, shares, strict=True)) for word in step}
    return followers


@pytest.fixture(scope="module")
def writer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("writer")
    chain_model.save_chain_model(folder, chain(*LINES))
    return TransformersChat(folder, device="cpu")


@pytest.fixture(scope="module")
def gambler(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gambler")
    chain_model.save_chain_model(folder, branches(), context=64)
    return TransformersChat(folder, device="cpu")


def request(seed=0, *parts):
    return ChatRequest((Message("user", parts or ("a fox",)),), seed)


def test_a_model_on_disk_writes_candidates(writer):
    book = InternedPromptBook()
    generator = LLMCandidates(writer, book, LLMCandidatesConfig(sampling=Sampling(max_new_tokens=40)))
    fox = book.add(["a fox"])
    history = History(
        initial_prompts=fox, slates=np.full((1, 5, 4), -1), choices=np.full((1, 5), -1), chosen_prompts=fox,
        turns=np.zeros(1, np.int64), keys=mix(np.arange(1)), horizon=5,
        pixels=lambda row, turn: np.zeros((4, 8, 8, 3), np.uint8),
    )  # fmt: skip
    seen = []
    hook = writer._model.model.vision_tower.register_forward_pre_hook(
        lambda module, given, named: seen.extend([*given, *named.values()]), with_kwargs=True
    )
    (proposal,) = generator.proposals(history)
    hook.remove()
    assert proposal.titles == tuple(f"Title {c}" for c in "ABCDE")
    assert proposal.prompts[4] == tuple(f"a fox E {j} x" for j in "abcde")
    assert generator.stats.fallback_prompts == 0
    assert [tuple(x.shape) for x in seen if torch.is_tensor(x)] == [(4, 3, 8, 8)]


def test_a_reply_depends_on_its_seed_alone_and_leaves_the_global_generator_be(gambler):
    sampling = Sampling(max_new_tokens=20)
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    batch = [r.text for r in gambler.complete([request(seed) for seed in range(12)], sampling)]
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(8)
    alone = [gambler.complete([request(seed)], sampling)[0].text for seed in range(12)]
    assert alone == batch
    assert len(set(batch)) > 6


def test_words_outside_the_nucleus_never_come(gambler):
    requests = [request(seed) for seed in range(15)]
    inside = "".join(r.text for r in gambler.complete(requests, Sampling(top_p=0.8, max_new_tokens=20)))
    whole = "".join(r.text for r in gambler.complete(requests, Sampling(top_p=1.0, max_new_tokens=20)))
    assert "never" not in inside
    assert inside.count("left") + inside.count("right") == 15 * N_CHOICES
    assert 5 <= whole.count("never") <= 35  # 18 expected


def test_a_reply_that_runs_out_of_room_says_so(gambler):
    (whole,) = gambler.complete([request()], Sampling(max_new_tokens=20))
    (cut,) = gambler.complete([request()], Sampling(max_new_tokens=4))
    assert (whole.is_truncated, cut.is_truncated) == (False, True)
    assert whole.text.startswith(cut.text)
    with pytest.raises(ChatModelError, match=r"do not fit the 64 .* lower max_new_tokens"):
        gambler.complete([request()], Sampling(max_new_tokens=64))


def test_a_conversation_that_does_not_fit_the_memory_says_what_to_lower(gambler, monkeypatch):
    def full(**inputs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(gambler._model, "generate", full)  # as a GPU does; what a CPU raises is not told apart
    with pytest.raises(ChatModelError, match=r"do not fit the memory of cpu beside .* show fewer pictures"):
        gambler.complete([request()], Sampling(max_new_tokens=4))


def test_the_identity_tells_models_apart_wherever_they_lie(writer, gambler, tmp_path):
    assert writer.identity["model"] != gambler.identity["model"]
    chain_model.save_chain_model(tmp_path / "moved", chain(*LINES))
    moved = TransformersChat(tmp_path / "moved", device="cpu")
    assert moved.identity == writer.identity


def test_what_cannot_be_loaded_says_how_to_get_it(tmp_path):
    with pytest.raises(ValueError, match=r"hf download nobody/nothing-at-all --revision abc"):
        TransformersChat("nobody/nothing-at-all", revision="abc")
    with pytest.raises(ValueError, match="check the folder"):
        TransformersChat(tmp_path)
    with pytest.raises(ValueError, match="device must be one of"):
        TransformersChat(tmp_path, device="tpu")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="torch sees no GPU"):
            TransformersChat(tmp_path, device="cuda")


def test_files_that_are_missing_are_named_with_the_command_that_fetches_them(tmp_path, monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    fetch = (
        "hf download acme/chain --revision v1 --include '*.json' --include '*.jinja' --include '*.txt' "
        "--include '*.model' --include '*.safetensors' --exclude 'original/*' --exclude 'consolidated*'"
    )
    assert fetch_command("acme/chain", "v1") == fetch
    whole = ["config.json", "preprocessor_config.json or processor_config.json"]
    whole += ["tokenizer_config.json or tokenizer.json or tokenizer.model"]
    whole += ["model.safetensors or model.safetensors.index.json"]
    assert missing_files("acme/chain", "v1") == whole
    with pytest.raises(ValueError, match=r"it lacks config\.json, preprocessor_config\.json or .* machine; ") as caught:
        TransformersChat("acme/chain", revision="v1", device="cpu")
    assert f"fetch it with `{fetch}`" in str(caught.value)

    commit = "c0ffee" * 6 + "c0ff"
    root = tmp_path / "models--acme--chain"
    chain_model.save_chain_model(folder := root / "snapshots" / commit, chain(*LINES))
    (root / "refs").mkdir()
    (root / "refs" / "v1").write_text(commit)
    assert missing_files("acme/chain", "v1") == []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *given, **named: pytest.fail("the network was used"))
    assert TransformersChat("acme/chain", revision="v1", device="cpu").identity["revision"] == commit
    weights = folder / "model.safetensors"
    weights.rename(weights.with_name("model-00001-of-00007.safetensors"))
    shards = [f"model-{i:05}-of-00007.safetensors" for i in range(1, 8)]
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {f"w{i}": shard for i, shard in enumerate(shards)}}))
    assert missing_files("acme/chain", "v1") == shards[1:]
    with pytest.raises(ValueError, match=r"00006-of-00007\.safetensors and 1 more on this machine; fetch it"):
        TransformersChat("acme/chain", revision="v1", device="cpu")
    index.write_text("{}")
    assert missing_files("acme/chain", "v1") == ["a readable model.safetensors.index.json"]
    with pytest.raises(ValueError, match=r"it lacks a readable model\.safetensors\.index\.json; check the folder"):
        TransformersChat(folder, device="cpu")


def test_weights_that_could_run_code_are_not_read(writer, tmp_path):
    chain_model.save_chain_model(tmp_path, chain(*LINES))  # so that nothing but the format is wrong
    (tmp_path / "model.safetensors").unlink()
    torch.save(writer._model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"no file named model\.safetensors"):
        TransformersChat(tmp_path, device="cpu")
