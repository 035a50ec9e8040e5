"""How users whose encoder was trained see: with it. Observations stay embeddings of the frozen one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

import PIL.Image

from pasta_gym.types import FloatArray, ImageGenerator, Images, IntArray, PromptBook, UserModelProtocol

if TYPE_CHECKING:
    from pasta_gym.encoders.clip_encoder import ClipEncoder

_READING = ("prompt_features", "utilities", "all_utilities", "posterior", "scores")


class Eyes:
    """Embeds for the users with their own encoder.

    Args:
        encoder: Theirs.
        prompt_book: Writes ids out in words.
    """

    def __init__(self, encoder: ClipEncoder, prompt_book: PromptBook) -> None:
        self._encoder, self._prompt_book = encoder, prompt_book

    def prompts(self, ids: IntArray) -> FloatArray:
        """Embed initial prompts ``(n,)``: ``(n, d)`` float32."""
        return self._encoder.encode_texts(self._prompt_book.texts(ids))

    def images(self, images: Images) -> FloatArray:
        """Embed the pixels ``(N, M, height, width, 3)``: ``(N, M, d)`` float32.

        Raises:
            ValueError: If there are none.
        """
        if images.pixels is None:
            raise ValueError(
                "the users have an encoder of their own, which has to see pictures, and this image generator gives "
                'embeddings alone; use one that paints, such as images="diffusion"'
            )
        shape = images.pixels.shape
        pictures = [PIL.Image.fromarray(picture) for picture in images.pixels.reshape(-1, *shape[2:])]
        return self._encoder.encode_images(pictures).reshape(*shape[:2], -1)


class HiddenReading:
    """A user model as agents and wrappers may use it when it does not read the embeddings that they observe.

    Everything works but what takes embeddings: given those of observations, it would compute nonsense.

    Args:
        users: The user model itself.
    """

    def __init__(self, users: UserModelProtocol) -> None:
        self.users = users

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "users":
            raise AttributeError(name)
        return self._refuse if name in _READING else getattr(self.users, name)

    def with_aggregator(self, aggregator: str) -> HiddenReading:
        """Return the same users with another aggregator; ValueError for an unknown one."""
        return HiddenReading(self.users.with_aggregator(aggregator))

    def _refuse(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise ValueError(
            "this user model reads embeddings of its own encoder, which was trained with it, and observations hold "
            "those of the frozen one, so beliefs and utilities cannot be computed from observations; take a user model "
            "whose encoder was not trained (user_model.train_encoder=false)"
        )


def eyes_of(users: UserModelProtocol, images: ImageGenerator, name: str, prompt_book: PromptBook) -> Eyes | None:
    """Return the users' own eyes, or None if they read the embeddings that the image generator makes.

    Args:
        users: The user model.
        images: The image generator.
        name: What it is called.
        prompt_book: Writes ids out in words.

    Raises:
        ValueError: If the users read embeddings of another encoder than the generator's, and do not have it with them
            or there is nothing to see.
    """
    if not hasattr(users, "metadata"):
        return None
    from pasta_gym.user_model.encoder_identity import MIN_DIGITS, encoder_hash, require_same_encoder, same_encoder

    theirs = getattr(images, "encoder_sha256", None)
    folder = getattr(users, "encoder_folder", None)
    if folder is None:
        require_same_encoder(users.metadata, theirs, name)
        return None
    own = str(encoder_hash(users.metadata))
    if theirs is not None and same_encoder(own, theirs):
        return None
    if not getattr(images, "paints", True):
        raise ValueError(
            f"the users have an encoder of their own, {own[:MIN_DIGITS]}, which has to see pictures, and "
            f"images={name!r} gives embeddings of encoder {str(theirs)[:MIN_DIGITS]} alone. Use an image generator "
            'that paints (images="diffusion"), or put the encoder into the world: for the mini world, as clip/ of a '
            "folder $PASTA_GYM_MINI_WEIGHTS, and with that paint sessions (python -m pasta_gym.mini.rater_data paint) "
            "and fit the surrogate to them (python -m pasta_gym.mini.train surrogate)"
        )
    from pasta_gym.user_model.own_encoder import own_encoder

    return Eyes(own_encoder(users.metadata, folder), prompt_book)
