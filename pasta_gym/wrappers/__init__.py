"""Wrappers that fit the environment to other learners, and wrappers that show more of it."""

from pasta_gym.wrappers.flat import FlatObservation, VectorFlatObservation
from pasta_gym.wrappers.scores import CandidateScores, decode_scores, encode_slate
from pasta_gym.wrappers.slate_index import SlateIndex
from pasta_gym.wrappers.user_type import (
    BelievedUserType,
    RevealedUserType,
    VectorBelievedUserType,
    VectorRevealedUserType,
)

__all__ = [
    "BelievedUserType",
    "CandidateScores",
    "FlatObservation",
    "RevealedUserType",
    "SlateIndex",
    "VectorBelievedUserType",
    "VectorFlatObservation",
    "VectorRevealedUserType",
    "decode_scores",
    "encode_slate",
]
