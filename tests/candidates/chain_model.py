"""A tiny multimodal model on disk that writes what it is told: LLaVA's real format with planted weights.

Attention and feed-forward layers are switched off, so the next token depends on the last one alone; the output
layer holds how likely each follower is. What such a model writes is known in advance.
"""

import math

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from pasta_gym.torchvision_ops import ensure_importable

ensure_importable()
import transformers  # noqa: E402  torchvision's operators must be declared first

SPECIAL = ["<pad>", "<unk>", "</s>", "<image>", "ASSISTANT:"]
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }} : {% for part in m['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}{% endfor %}\n{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
LAYER = {"hidden_size": 16, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}


def save_chain_model(folder, followers, *, context=4096):
    """Write a model and its processor.

    Args:
        folder: Where to.
        followers: For each word ``{next word: probability}``; replies go from ``ASSISTANT:`` to ``</s>``.
        context: Tokens it can hold.
    """
    words = [*SPECIAL, *dict.fromkeys(w for nexts in followers.values() for w in nexts if w not in SPECIAL)]
    vocabulary = {word: i for i, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.Fuse()
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", eos_token="</s>",
        additional_special_tokens=["<image>", "ASSISTANT:"],
    )  # fmt: skip
    images = transformers.CLIPImageProcessor(size={"shortest_edge": 8}, crop_size={"height": 8, "width": 8})
    processor = transformers.LlavaProcessor(
        images, fast, patch_size=4, vision_feature_select_strategy="default", chat_template=TEMPLATE,
        num_additional_image_tokens=1,
    )  # fmt: skip
    width = -(-len(words) // 4) * 4  # two heads of an even width
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(image_size=8, patch_size=4, **LAYER),
        text_config=transformers.LlamaConfig(
            **{**LAYER, "hidden_size": width}, vocab_size=len(words), max_position_embeddings=context,
            pad_token_id=0, bos_token_id=None, eos_token_id=2, tie_word_embeddings=False,
        ),
        image_token_index=vocabulary["<image>"], vision_feature_layer=-1,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.LlavaForConditionalGeneration(config)
    parameters = dict(model.named_parameters())
    for name, parameter in parameters.items():
        if "language_model" in name and name.endswith(("o_proj.weight", "down_proj.weight")):
            parameter.data.zero_()
    model.get_input_embeddings().weight.data = torch.eye(len(words), width)
    head = torch.full((len(words), width), -1e4 / math.sqrt(width))
    for word, nexts in followers.items():
        for follower, probability in nexts.items():
            # The norm before the head multiplies a unit vector by the root of its width.
            head[vocabulary[follower], vocabulary[word]] = math.log(probability) / math.sqrt(width)
    model.get_output_embeddings().weight.data = head
    model.generation_config.eos_token_id = 2
    model.generation_config.pad_token_id = 0
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
