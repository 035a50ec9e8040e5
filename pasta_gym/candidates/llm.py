"""Candidates written by a multimodal language model, the paper's own generator (section 3.1, appendix E.2)."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
import PIL.Image

from pasta_gym.candidates.llm_chat import ChatModel, ChatModelError, ChatReply, ChatRequest, Message, Sampling
from pasta_gym.candidates.llm_fallback import MAX_PROMPTS, Preferred, completed
from pasta_gym.candidates.llm_grid import Grid
from pasta_gym.candidates.llm_parser import parse
from pasta_gym.candidates.llm_prompt import ConversationText, Turn, candidate_messages, missing_messages
from pasta_gym.candidates.llm_words import count_words
from pasta_gym.candidates.word_budget import MAX_WORDS, word_budget
from pasta_gym.prompt_books import InternedPromptBook
from pasta_gym.seeding import mix, seeds_for_torch
from pasta_gym.settings import check_counts
from pasta_gym.types import History, ImageArray, IntArray

logger = logging.getLogger(__name__)

ON_FAILURE = ("fallback", "raise")
_MANY_REFUSALS = 20  # more than one conversation has in five turns of three attempts: it alone may offend a filter
_ROUNDING = 1e-9  # the last turn's budget is a sum of fractions that should be 62


@dataclass(frozen=True)
class LLMCandidatesConfig:
    """How candidates are asked for.

    Attributes:
        n_candidates: L_C.
        n_categories: Categories they fall in, equal shares; the last one rephrases.
        max_words: Most words of a candidate at the last turn, N_max.
        sampling: Nucleus sampling with p = 0.8, as the paper's.
        n_attempts: How often a conversation's candidates are asked for until none is missing.
        images_per_prompt: Most pictures of a prompt that are shown, 0 for words alone.
        image_turns: Of how many of the latest turns pictures are shown; those of the initial prompt always are.
        image_side: Longer side of a shown picture in pixels, larger ones are made smaller.
        ask_at_end: Whether the model is asked after the last turn too. Nobody will see those candidates, so by
            default the fallback writes them and a sixth of the cost is saved.
        on_failure: After the last attempt the ``fallback`` writes what is missing, or it is an error (``raise``).

    Raises:
        ValueError: If a value is out of range.
    """

    n_candidates: int = 25
    n_categories: int = 5
    max_words: int = MAX_WORDS
    sampling: Sampling = field(default_factory=Sampling)
    n_attempts: int = 3
    images_per_prompt: int = 4
    image_turns: int = 5
    image_side: int = 336
    ask_at_end: bool = False
    on_failure: str = "fallback"

    def __post_init__(self) -> None:
        check_counts(self, "n_candidates", "n_categories", "max_words", "n_attempts", "image_side")
        check_counts(self, "images_per_prompt", "image_turns", least=0)
        if self.n_candidates % self.n_categories or self.n_candidates > MAX_PROMPTS:
            raise ValueError(
                f"n_candidates must be a multiple of n_categories ({self.n_categories}) in 1..{MAX_PROMPTS}, "
                f"got {self.n_candidates}"
            )
        if self.on_failure not in ON_FAILURE:
            raise ValueError(f"on_failure must be one of {ON_FAILURE}, got {self.on_failure!r}")

    @property
    def n_per_category(self) -> int:
        """Candidates of one category."""
        return self.n_candidates // self.n_categories


@dataclass
class LLMCandidatesStats:
    """What has happened so far.

    Attributes:
        proposals: Conversations that candidates were written for.
        requests: Questions asked, the first ones and the others.
        failed_requests: Questions that got no reply.
        refused_requests: Those of them that the model will not answer, however often it is asked.
        unreadable_replies: Replies that added no candidate.
        incomplete_proposals: Proposals in which the fallback wrote something, the last turn's left out.
        fallback_prompts: Candidates it wrote in them.
        final_proposals: Proposals after the last turn, which no model was asked for.
    """

    proposals: int = 0
    requests: int = 0
    failed_requests: int = 0
    refused_requests: int = 0
    unreadable_replies: int = 0
    incomplete_proposals: int = 0
    fallback_prompts: int = 0
    final_proposals: int = 0

    def as_dict(self) -> dict[str, int]:
        """Return the counts as plain data, for logs."""
        return asdict(self)


@dataclass(frozen=True)
class Proposal:
    """The candidates of one conversation.

    Attributes:
        titles: The model's titles of its categories.
        prompts: The prompts of each.
        n_by_fallback: How many of them the fallback wrote.
        problems: What was wrong with the replies.
    """

    titles: tuple[str, ...]
    prompts: tuple[tuple[str, ...], ...]
    n_by_fallback: int
    problems: tuple[str, ...]


@dataclass
class _Draft:
    """A proposal that is being written."""

    conversation: ConversationText
    key: int
    grid: Grid
    problems: list[str] = field(default_factory=list)

    def question(self, attempt: int) -> tuple[Message, ...]:
        """Ask for everything at first, and then for what is missing."""
        n_categories, n_per_category = len(self.grid.prompts), self.grid.n_per_category
        is_reminder = attempt > 0 and self.grid.n_prompts == 0
        asked = candidate_messages(self.conversation, n_categories, n_per_category, is_reminder=is_reminder)
        if self.grid.n_prompts == 0:
            return asked
        return missing_messages(asked, self.grid.titles, self.grid.prompts, n_per_category)


class LLMCandidates:
    """A candidate generator that asks a multimodal language model.

    A proposal always has its number of distinct candidates in equal categories, each within the word budget and none
    of them the chosen prompt. Candidates of a conversation never depend on the others of the batch. Equal histories
    and keys give equal proposals as far as the model keeps to its seeds; with ``CachedChat`` around it they always do.

    Args:
        chat: The model.
        prompt_book: Where prompts get their ids; the world's own.
        config: How it is asked.
        preferred: Writes what the model does not, before the rules do; see ``embedded_candidates``.

    Attributes:
        category_titles: Titles change with every reply (``proposals`` has them); these only number them.
        wants_pixels: Tells the environment to keep the pictures of past turns for ``History.pixels``.
        stats: Counts of replies, failures and fallbacks. The first fallback is also a warning with its reason.
    """

    def __init__(
        self,
        chat: ChatModel,
        prompt_book: InternedPromptBook,
        config: LLMCandidatesConfig | None = None,
        *,
        preferred: Preferred | None = None,
    ) -> None:
        self.chat = chat
        self.prompt_book = prompt_book
        self.config = config or LLMCandidatesConfig()
        self.preferred = preferred
        self.n_candidates = self.config.n_candidates
        numbered = tuple(f"Category {c + 1}" for c in range(self.config.n_categories))
        self.category_titles: tuple[str, ...] = (*numbered[:-1], "Rephrasing") if len(numbered) > 1 else numbered
        self.wants_pixels = self.config.images_per_prompt > 0
        self.stats = LLMCandidatesStats()

    def propose(self, history: History) -> tuple[IntArray, IntArray]:
        """Propose candidates for B conversations.

        Returns:
            Prompt ids and categories, ``(B, n_candidates)`` each.

        Raises:
            ChatModelError: If the model cannot be asked at all, or has refused every question so far, two or more
                conversations' at once or 20 in a row.
            RuntimeError: If a candidate is missing after the last attempt and ``on_failure`` is ``raise``.
        """
        proposals = self.proposals(history)
        ids = [self.prompt_book.add(p for row in proposal.prompts for p in row) for proposal in proposals]
        categories = np.repeat(np.arange(self.config.n_categories, dtype=np.int64), self.config.n_per_category)
        shape = (len(proposals), self.n_candidates)
        return np.array(ids, dtype=np.int64).reshape(shape), np.broadcast_to(categories, shape).copy()

    def proposals(self, history: History) -> list[Proposal]:
        """Propose candidates in words, with the model's titles; raises as ``propose`` does."""
        empty = Grid.empty(self.config.n_categories, self.config.n_per_category)
        conversations = conversation_texts(history, self.prompt_book, self.config)
        keys = [int(key) for key in np.asarray(history.keys).reshape(-1)]
        drafts = [_Draft(c, key, empty) for c, key in zip(conversations, keys, strict=True)]
        self.stats.proposals += len(drafts)
        for attempt in range(self.config.n_attempts):
            self._ask([draft for draft in drafts if self._is_wanted(draft)], attempt)
        return [self._finished(draft) for draft in drafts]

    def _is_wanted(self, draft: _Draft) -> bool:
        """Whether the model is to be asked for more."""
        is_over = len(draft.conversation.turns) >= draft.conversation.horizon
        return not draft.grid.is_full and (self.config.ask_at_end or not is_over)

    def _ask(self, drafts: Sequence[_Draft], attempt: int) -> None:
        """Ask once for each draft and take what the replies add."""
        if not drafts:
            return
        requests = [
            ChatRequest(draft.question(attempt), seeds_for_torch(mix(draft.key, attempt))[0]) for draft in drafts
        ]
        self.stats.requests += len(requests)
        replies = self.chat.complete(requests, self.config.sampling)
        for draft, reply in zip(drafts, replies, strict=True):
            self._take(draft, reply)
        self._require_a_reply(replies)

    def _require_a_reply(self, replies: Sequence[ChatReply]) -> None:
        """Stop where all is refused: one conversation may be for its words, all of them are for how they are asked."""
        n_refused, has_replied = self.stats.refused_requests, self.stats.failed_requests < self.stats.requests
        is_suspect = len(replies) > 1 or n_refused >= _MANY_REFUSALS
        if is_suspect and not has_replied and all(reply.is_refused for reply in replies):
            raise ChatModelError(
                f"the language model has refused all {n_refused} requests that it answered ({replies[0].error}); leave "
                "out what it does not take: extra_body=null, send_seed=false, top_p and temperature of None; or change "
                "length_field, max_new_tokens or images_per_prompt"
            )

    def _take(self, draft: _Draft, reply: ChatReply) -> None:
        if reply.error:
            self.stats.failed_requests += 1
            self.stats.refused_requests += reply.is_refused
            draft.problems.append(reply.error)
            return
        parsed = parse(
            reply.text,
            len(draft.grid.prompts),
            draft.grid.n_per_category,
            draft.conversation.max_words,
            is_truncated=reply.is_truncated,
        )
        before = draft.grid.n_prompts
        draft.grid = draft.grid.filled(parsed, exclude=[draft.conversation.chosen_prompt])
        self.stats.unreadable_replies += draft.grid.n_prompts == before
        draft.problems.extend(parsed.problems)

    def _finished(self, draft: _Draft) -> Proposal:
        """Let the fallback write what is missing, and count it."""
        missing = self.n_candidates - draft.grid.n_prompts
        if missing and not self._is_wanted(draft):
            self.stats.final_proposals += 1
        elif missing:
            if self.config.on_failure == "raise":
                raise RuntimeError(
                    f"{missing} of {self.n_candidates} candidates are missing after {self.config.n_attempts} attempts "
                    f"({'; '.join(draft.problems[-3:])}); try another model, more attempts, or on_failure='fallback'"
                )
            if not self.stats.incomplete_proposals:
                logger.warning(
                    "the fallback wrote %d of %d candidates of a conversation (%s); later ones are only counted",
                    missing,
                    self.n_candidates,
                    "; ".join(draft.problems[-3:]) or "the model repeated itself",
                )
            self.stats.incomplete_proposals += 1
            self.stats.fallback_prompts += missing
        grid = completed(draft.grid, draft.conversation, draft.key, self.preferred)
        return Proposal(grid.titles, grid.prompts, missing, tuple(draft.problems))


def conversation_texts(
    history: History, prompt_book: InternedPromptBook, config: LLMCandidatesConfig
) -> list[ConversationText]:
    """Write B conversations out in words and pictures.

    Raises:
        ValueError: If the book does not know a prompt.
    """
    written: list[ConversationText] = []
    initial_prompts = prompt_book.texts(history.initial_prompts)
    for row, initial in enumerate(initial_prompts):
        n_turns = int(history.turns[row])
        at = min(n_turns + 1, history.horizon)
        budget = word_budget(
            np.array([count_words(initial)]), np.array([at]), history.horizon, max_words=config.max_words
        )
        turns = tuple(
            Turn(
                tuple(prompt_book.texts(history.slates[row, t])),
                int(history.choices[row, t]),
                _slate_pictures(history, row, t + 1, n_turns, config),
            )
            for t in range(n_turns)
        )
        pictures = history.pixels(row, 0) if history.pixels is not None and config.images_per_prompt else None
        initial_images = () if pictures is None else _shown(pictures, config)
        max_words = math.floor(float(budget[0]) + _ROUNDING)
        written.append(ConversationText(initial, max_words, history.horizon, turns, initial_images))
    return written


def _slate_pictures(
    history: History, row: int, turn: int, n_turns: int, config: LLMCandidatesConfig
) -> tuple[tuple[ImageArray, ...], ...]:
    """The pictures of a slate, one tuple a prompt; none where the turn is too long ago or nothing was painted."""
    if history.pixels is None or not config.images_per_prompt or turn <= n_turns - config.image_turns:
        return ()
    pictures = history.pixels(row, turn)
    return () if pictures is None else tuple(_shown(column, config) for column in pictures)


def _shown(pictures: ImageArray, config: LLMCandidatesConfig) -> tuple[ImageArray, ...]:
    """The first pictures ``(M, h, w, 3)`` of a prompt, made smaller where they are large."""
    return tuple(_shrunk(picture, config.image_side) for picture in pictures[: config.images_per_prompt])


def _shrunk(picture: ImageArray, side: int) -> ImageArray:
    height, width = picture.shape[:2]
    scale = side / max(height, width)
    if scale >= 1:
        return picture
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(PIL.Image.fromarray(picture).resize(size, PIL.Image.Resampling.LANCZOS))
