"""Text encoders that embed each prompt once."""

from pasta_gym.encoders.interned import InternedTextEncoder
from pasta_gym.encoders.table import TableTextEncoder

__all__ = ["InternedTextEncoder", "TableTextEncoder"]
