"""Candidate generators: what could be shown next, given what has been said."""

from pasta_gym.candidates.edits import EditCandidates
from pasta_gym.candidates.word_budget import MAX_WORDS, word_budget

__all__ = ["MAX_WORDS", "EditCandidates", "word_budget"]
